//! Chance as a value.
//!
//! Raft needs dice in one place only, to spread election deadlines (§5.2). A node gets a [`Seed`] at birth and draws from
//! its own small generator, so a run with the same seeds and inputs is the same run. SplitMix64: one multiplication chain,
//! 64 bits of state, good enough to spread deadlines and to drive a simulator, useless for secrets.

use crate::time::Duration;

/// Where a generator starts. The server draws it from the operating system once (`clock.rs`), the simulator from its run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed(pub u64);

/// A small deterministic generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// SplitMix64's finaliser: every input bit reaches every output bit.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// A generator that starts at `seed`.
    pub fn new(seed: Seed) -> Rng {
        Rng(seed.0)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0. The bias of the remainder is below 2⁻³² for the bounds used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a number below 0 was asked for");
        self.next_u64() % bound
    }

    /// A duration in `[low, high)`; `low` if the interval is empty.
    pub fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from(high.saturating_sub(low).as_nanos()).unwrap_or(u64::MAX);
        if span == 0 { low } else { low + Duration::from_nanos(self.below(span)) }
    }
}

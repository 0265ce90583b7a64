//! The one reader of the machine's clock, and the one reader of its entropy.
//!
//! Only shells (server, client, cli) may import this module; `tests/tidy.rs` and `.clippy.toml` hold everyone else off.
//! Whatever lies below gets time as an argument and chance as a seed, which is why the simulator can own both.

use crate::rng::Seed;
use crate::time::{Duration, Time};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock with an origin of its own.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[expect(clippy::new_without_default, reason = "a default clock would hide that it reads the machine's time")]
    pub fn new() -> Clock {
        Clock { origin: instant() }
    }

    /// Now, on this clock.
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The machine's monotonic now: for measuring in shells.
#[expect(clippy::disallowed_methods, reason = "the one Instant::now of the crate")]
pub fn instant() -> Instant {
    Instant::now()
}

/// The processor time that this thread has used: for figures that other processes don't spoil.
pub fn thread_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(spent.tv_sec).unwrap_or(0), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

/// Microseconds since the Unix epoch: for people and logs, never for decisions.
#[expect(clippy::disallowed_methods, reason = "the one SystemTime::now of the crate")]
pub fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// A seed from the operating system's entropy.
///
/// # Panics
/// If the operating system has none to give, which on the supported systems does not happen after boot.
pub fn entropy() -> Seed {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system has no entropy to give");
    Seed(u64::from_le_bytes(bytes))
}

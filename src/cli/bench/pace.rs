//! When an open loop's operations are due.
//!
//! With `--rate` the load doesn't wait for the server: operation `k` of all is due at `k / rate` seconds after the start,
//! and the operations are dealt to the callers in turn. A caller that is still waiting for an earlier answer sends late,
//! but its latency counts from the moment the operation was *due*: a server that stalls for a second is charged with every
//! operation that should have happened in that second, not with one (the "coordinated omission" of closed loops).
//!
//! A caller that was idle when its operation fell due counts from when it woke: the timer's lateness (up to a millisecond)
//! is this program's, not the server's.

use crate::time::Duration;

/// The schedule that all callers share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Operations per second, of all callers together; above zero.
    rate: f64,
    callers: u64,
}

impl Pace {
    /// `rate` operations per second dealt to `callers`.
    ///
    /// # Panics
    /// If there is no rate or nobody to keep it; the command line refuses both.
    pub fn new(rate: f64, callers: u64) -> Pace {
        assert!(rate.is_finite() && rate > 0.0 && callers > 0, "a pace of {rate} operations/s by {callers} callers");
        Pace { rate, callers }
    }

    /// When `caller`'s operation number `turn` (from 0) is due, after the start.
    pub fn due(&self, caller: u64, turn: u64) -> Duration {
        let operation = turn.saturating_mul(self.callers).saturating_add(caller);
        Duration::try_from_secs_f64(operation as f64 / self.rate).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_take_turns_at_even_distances() {
        let pace = Pace::new(1000.0, 4);
        let mut due: Vec<Duration> = (0..3).flat_map(|turn| (0..4).map(move |c| pace.due(c, turn))).collect();
        assert_eq!(pace.due(0, 0), Duration::ZERO);
        assert_eq!(pace.due(3, 0), Duration::from_millis(3));
        assert_eq!(pace.due(1, 2), Duration::from_millis(9));
        due.dedup();
        assert_eq!(due.len(), 12, "no two operations are due at once");
        assert!(due.is_sorted());
    }

    #[test]
    fn a_second_holds_as_many_operations_as_the_rate_says() {
        for callers in [1, 7, 64] {
            let pace = Pace::new(500.0, callers);
            let within = |caller| (0..).take_while(|&turn| pace.due(caller, turn) < Duration::from_secs(1)).count();
            assert_eq!((0..callers).map(within).sum::<usize>(), 500, "{callers} callers");
        }
    }

    #[test]
    fn a_slow_rate_does_not_overflow() {
        assert_eq!(Pace::new(1e-300, 1).due(0, u64::MAX), Duration::MAX);
    }
}

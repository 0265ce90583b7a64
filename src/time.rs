//! Time as a value.
//!
//! Below the shells nothing reads a clock: a shell says what time it is with every input, and the node says when it wants
//! to be woken next. [`Time`] counts from an origin that only the shell knows; it is monotonic, and two nodes' times have
//! nothing to do with each other. The only reader of a real clock is `clock.rs`.

use std::ops::{Add, Sub};
pub use std::time::Duration;

/// A moment on one node's monotonic clock, in nanoseconds since that node's own origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Later than every moment that comes: the deadline of one who waits for nothing.
    pub const NEVER: Time = Time(u64::MAX);

    /// A moment given in milliseconds, for tests and scripts.
    pub const fn from_millis(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    /// How long ago `earlier` was; zero if it is in the future (a pause may make deadlines pass each other).
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    fn sub(self, duration: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

//! A member in the world: its host, its clock, and what is on its way inside of it.

use super::host::{Host, Shape, StateWork};
use crate::ids::{Incarnation, Index, MemberId};
use crate::node::Input;
use crate::node::events::Glance;
use crate::raft::{LogRead, Ready};
use crate::time::{Duration, Time};
use std::collections::VecDeque;

/// A member's clock: it runs a little too fast or too slow, and jumps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// How much too fast, in millionths.
    pub ppm: i128,
    /// Ahead of the world, in nanoseconds.
    pub offset: i128,
}

impl Clock {
    pub fn local(self, at: Time) -> Time {
        let at = i128::from(at.0);
        Time(u64::try_from(at + at * self.ppm / 1_000_000 + self.offset).unwrap_or(0))
    }

    /// The first moment, not before `now`, at which this clock shows `local` or later.
    pub fn when(self, now: Time, local: Time) -> Time {
        if local == Time::NEVER || self.local(now) >= local {
            return if local == Time::NEVER { local } else { now };
        }
        let guess = (i128::from(local.0) - self.offset) * 1_000_000 / (1_000_000 + self.ppm);
        let mut at = Time(u64::try_from(guess).unwrap_or(0)).max(now);
        while self.local(at) < local {
            at.0 += 1;
        }
        at
    }
}

/// A member, its disks and whatever is on its way inside of it.
pub(super) struct Place<H> {
    pub host: H,
    /// Counts starts and ends: events of former lives mean nothing.
    pub life: u64,
    pub incarnation: Incarnation,
    pub clock: Clock,
    pub paused_until: Time,
    /// What the clock showed when it stopped.
    pub asleep: Option<Time>,
    /// What the clock showed last.
    pub shown: Time,
    /// What it has not been told yet: messages that did not leave. It hears of them in its next turn, and gets none for them.
    pub untold: Vec<Input>,
    pub turn_at: Option<Time>,
    pub wake_at: Time,
    pub log: LogQueue,
    pub state: VecDeque<StateWork>,
    pub state_busy: bool,
    pub slow: (u64, Time),
    pub disks: usize,
    /// Emptied: never part of the core.
    pub wiped: bool,
    /// A write was asked to fail: the process may halt.
    pub failing: bool,
    /// Of a write that it dies in the middle of: the log's or the state's, how much survives, and how long it stays down.
    pub torn: Option<(bool, u64, Duration)>,
    pub rotten: bool,
    /// Its state is not what was written, or hollow: the others must do without it until it has taken over another one.
    pub lost: bool,
    /// Its state has gone wrong, by a fault or by one that it took over.
    pub bent: bool,
    /// It knows that, and had sent so many bytes of its state then.
    pub sent_wrong: Option<u64>,
    /// It was started once.
    pub started: bool,
    /// It was removed, knows it, and will not be started again.
    pub over: bool,
    /// A bit per member whose disk it knew at its last synced write, and of those whose disk it knows durably.
    pub knew: u64,
    pub knows: u64,
    /// Turns in a row that did nothing and asked for another one at once.
    pub restless: u32,
    /// Synced writes of the state on their way, each with what was applied before it, and whose disks were known.
    pub syncing: VecDeque<(u64, Index, u64)>,
    /// How long it stays down when its disk fails.
    pub down: Duration,
    pub glance: Glance,
}

/// The log's worker.
#[derive(Debug, Default)]
pub(super) struct LogQueue {
    /// Handed out since it began.
    pub waiting: Vec<Ready>,
    /// What it is at.
    pub running: Vec<Ready>,
    /// Reads, with the next batch.
    pub loads: Vec<LogRead>,
    /// Whether it is at something.
    pub busy: bool,
}

impl<H: Host> Place<H> {
    /// What its clock shows.
    pub fn local(&mut self, now: Time) -> Time {
        if let Some(shown) = self.asleep.take_if(|_| self.paused_until <= now) {
            self.clock.offset += i128::from(shown.0) - i128::from(self.clock.local(now).0);
        }
        let local = self.clock.local(now);
        assert!(local >= self.shown, "a clock goes back, from {:?} to {local:?}", self.shown);
        self.shown = local;
        local
    }

    /// A member that does not run yet.
    pub fn new(id: MemberId, shape: &Shape, clock: Clock) -> Place<H> {
        Place {
            host: H::new(id, shape),
            life: 0,
            incarnation: Incarnation(0),
            clock,
            paused_until: Time(0),
            asleep: None,
            shown: Time(0),
            untold: Vec::new(),
            turn_at: None,
            wake_at: Time::NEVER,
            log: LogQueue::default(),
            state: VecDeque::new(),
            state_busy: false,
            slow: (1, Time(0)),
            disks: 1,
            wiped: false,
            failing: false,
            torn: None,
            rotten: false,
            lost: false,
            bent: false,
            sent_wrong: None,
            started: false,
            over: false,
            knew: 0,
            knows: 0,
            restless: 0,
            syncing: VecDeque::new(),
            down: Duration::ZERO,
            glance: Glance::default(),
        }
    }
}

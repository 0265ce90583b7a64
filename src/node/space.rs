//! What the store holds, and what is done about it.
//!
//! Compactions are carried out in slices ([`crate::machine::Machine::sweep`]) between the node's turns, with a pause after each,
//! so that a pass takes a bounded share of the node's thread whatever there is to sweep, and only while the state's disk keeps
//! up. When they are made is `compactor.rs`'s affair.
//!
//! The quota is about bytes of keys, values and versions, not about files: what a compaction or a delete frees is free at once.
//! A member that is asked for a growing command beyond it refuses, and raises its NOSPACE alarm by a command, so that all
//! refuse alike. When what is held has fallen under nine tenths of the quota, it clears the alarm: the one that it raised
//! itself. In the place of a member that does not, because it is gone or cut off, the leader does it, if it has space itself.
//! An alarm that somebody asked for stays, and with `--nospace-alarm stays` all do, as in etcd.
//!
//! May not know: the disk's free space, which has a floor of its own (`storage/space.rs`).

use super::compactor::{Compactor, Seen};
use super::{AutoCompaction, Halt, Node};
use crate::ids::{MemberId, Revision};
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::quorate::{Compact, SetAlarm, command};
use crate::storage::Op;
use crate::time::{Duration, Time};

/// From the beginning of one slice of a compaction to the next one.
const SLICE_PAUSE: Duration = Duration::from_millis(2);

/// A member that has space again may take so long to clear its alarm; then the leader does it.
const LATE: Duration = Duration::from_secs(10);

/// How much the store holds, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceConfig {
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// `--quota-backend-bytes`; `None`: no limit.
    pub quota: Option<u64>,
    /// `--nospace-alarm clears-itself`.
    pub alarm_clears_itself: bool,
}

impl Default for SpaceConfig {
    /// No compaction but those that clients ask for, and no limit.
    fn default() -> SpaceConfig {
        SpaceConfig { auto_compaction: AutoCompaction::Off, quota: None, alarm_clears_itself: true }
    }
}

/// Compactions on one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceStatus {
    /// What nobody can see who reads here or later is gone from memory and disk; below 1: nothing yet.
    pub swept: Revision,
    /// Passes that are over.
    pub passes: u64,
    /// How long the last one took.
    pub last_pass: Duration,
}

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Space {
    compactor: Compactor,
    status: SpaceStatus,
    /// The next slice may begin.
    slice: Time,
    /// A pass is under way since.
    sweeping: Option<Time>,
    /// A command was refused for want of quota, and no alarm says so yet.
    exceeded: bool,
    /// The sequence of the alarm's command on its way.
    alarming: Option<u64>,
    /// This member leads, has space, and another one's alarm is up: since when.
    late: Option<Time>,
}

impl Space {
    pub(super) fn new(config: &SpaceConfig, now: Time) -> Space {
        Space {
            compactor: Compactor::new(config.auto_compaction, now),
            status: SpaceStatus { swept: Revision(-1), ..SpaceStatus::default() },
            slice: now,
            sweeping: None,
            exceeded: false,
            alarming: None,
            late: None,
        }
    }

    pub(super) fn status(&self) -> SpaceStatus {
        self.status
    }
}

impl Node {
    /// Whether a growing command of so many bytes does not fit; then the alarm is due.
    pub(super) fn exceeds_quota(&mut self, bytes: usize) -> bool {
        let Some(quota) = self.config.space.quota else { return false };
        let exceeds = self.machine.held_bytes() + bytes as u64 > quota;
        self.space.exceeded |= exceeds;
        exceeds
    }

    /// Proposes what is due: this member's alarm, up or down, and if it leads, a compaction.
    pub(super) fn keep_space(&mut self, now: Time) {
        if !self.is_pending(self.space.alarming) {
            let active = match self.machine.view().short_of_space(self.identity.member) {
                None if self.space.exceeded => Some(true),
                Some(by_itself) => {
                    self.space.exceeded = false;
                    (by_itself && self.config.space.alarm_clears_itself && self.has_space_again()).then_some(false)
                }
                None => None,
            };
            let due = match active {
                Some(active) => vec![(self.identity.member, active)],
                None => self.late_alarms(now).into_iter().map(|member| (member, false)).collect(),
            };
            self.space.alarming = None;
            for (member, active) in due {
                let (member_id, alarm) = (member.0, AlarmType::Nospace.into());
                let alarm = SetAlarm { member_id, alarm, active, by_itself: true };
                self.space.alarming = self.submit_own(now, command::Op::Alarm(alarm)).or(self.space.alarming);
            }
        }
        let view = self.machine.view();
        let seen =
            Seen { revision: view.revision().0, compacted: view.compacted().0, short_of_space: !view.may_grow() };
        if let Some(revision) = self.space.compactor.look(now, seen, self.raft.is_leader()) {
            self.submit_own(now, command::Op::Compact(Compact { revision }));
        }
    }

    /// Whether what was compacted is on its way out of memory and disk.
    pub fn is_sweeping(&self) -> bool {
        self.machine.is_sweeping()
    }

    /// The other members whose alarms are up, when that has been so for long while this one leads and has space. All at once:
    /// the puts wait for the last of them.
    fn late_alarms(&mut self, now: Time) -> Vec<MemberId> {
        let clears = self.raft.is_leader() && self.config.space.alarm_clears_itself && self.has_space_again();
        let view = self.machine.view();
        let mut others = if clears { view.alarms() } else { Vec::new() };
        others.retain(|(member, alarm)| {
            let nospace = *alarm == AlarmType::Nospace && view.short_of_space(*member) == Some(true);
            nospace && *member != self.identity.member
        });
        self.space.late = (!others.is_empty()).then(|| self.space.late.unwrap_or(now));
        match self.space.late.take_if(|since| now >= *since + LATE) {
            Some(_) => others.into_iter().map(|(member, _)| member).collect(),
            None => Vec::new(),
        }
    }

    /// Under nine tenths of the quota.
    fn has_space_again(&self) -> bool {
        self.config.space.quota.is_none_or(|quota| self.machine.held_bytes() < quota / 10 * 9)
    }

    /// Carries out a slice of a compaction if one is due, after everything applied was sealed.
    pub(super) fn sweep(&mut self, now: Time, ops: &mut Vec<Op>) -> Result<Option<u64>, Halt> {
        if !self.machine.is_sweeping() {
            if let Some(since) = self.space.sweeping.take() {
                let status = &mut self.space.status;
                (status.swept, status.last_pass) = (self.machine.swept(), now.since(since));
                status.passes += 1;
            }
            return Ok(None);
        }
        self.space.sweeping.get_or_insert(now);
        if now < self.space.slice || !self.may_apply() {
            return Ok(None);
        }
        self.space.slice = now + SLICE_PAUSE;
        self.machine.sweep(ops).map_err(|fault| Halt(format!("the state database failed: {fault}")))
    }

    /// When the next slice or the next proposal is due.
    pub(super) fn space_deadline(&self) -> Time {
        // What is swept of a state on its way out is nobody's affair any more.
        let in_use = !self.install.is_adopting();
        let ended = in_use && self.space.sweeping.is_some() && !self.machine.is_sweeping();
        let next = ended || self.machine.sweeps() && self.may_apply();
        let slice = if next { self.space.slice } else { Time::NEVER };
        // Nobody can be asked for anything without a leader, and who has no state asks for nothing.
        let asks = self.raft.leader().is_some() && !self.is_hollow();
        let proposal = if asks { self.space.compactor.deadline() } else { Time::NEVER };
        let may_clear = self.raft.is_leader() && !self.is_pending(self.space.alarming);
        let late = self.space.late.filter(|_| may_clear);
        slice.min(proposal).min(late.map_or(Time::NEVER, |since| since + LATE))
    }
}

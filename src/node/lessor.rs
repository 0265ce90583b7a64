//! The leader's clock over the leases.
//!
//! A lease is in the replicated state; when it is over, no entry can say, for members' clocks differ. So one member measures:
//! the leader, with its own clock, from the moment when it knows every lease (it has applied the first entry of its own term)
//! until it does not lead any more. Its lessor is made then and dropped then, and there is none on other members.
//!
//! # Never early
//!
//! What a caller was promised is the whole time to live, counted from when it asked. The lessor keeps more than that:
//!
//! - *Under one leader.* When a keepalive is answered the deadline is a whole time to live away. A revoke that is on its way
//!   can't be taken back, so a keepalive that
//!   finds one waits for the outcome. A clock may run fast: a lease ends early by no more than the clock's own error over the
//!   time to live.
//! - *From one leader to the next.* A keepalive is answered only by who has led no longer than [`LATELY`] ago, by its own clock:
//!   a majority has confirmed that in a round, and one of it voted for the next leader later. So the next leader is elected
//!   no earlier than `LATELY` before anything is promised, and its lessor begins later still. It gives every lease [`GRACE`] more
//!   than all of its time; or, of a lease that nobody renewed for a while, than what was left when that was written down,
//!   which is not less than what is left now. `GRACE` is so much longer than `LATELY` that clocks may run at very different
//!   speeds. What this does not cover is a machine that is frozen together with its clock: a leader on it may answer once
//!   more what came before it learns that time has passed. A round for each answer would cover that, at nearly twice the cost.
//! - *A renewal after that was written down.* The next leader would begin with the little that was left. So before such a
//!   keepalive is answered the lease is written down as whole again, and that must be committed.
//! - *A leader that is none any more*, because it slept or is cut off, may find that leases are over. What it proposes is not
//!   committed: its log ends where a new leader's goes on otherwise. What it appended *before* it was deposed and what the new
//!   leader has in its log is applied before that one's lessor begins, so before anything is promised that it could break. The
//!   entry names its term all the same, and counts in no other one; it is never parked, forwarded or submitted again. One that
//!   slept longer than an election timeout steps down before it looks at leases at all.
//! - *Another lease of the same id* may have been granted between a proposal and its entry. The entry names what its proposer
//!   had applied, and does nothing to later leases (`machine/lease.rs`).
//!
//! # Not for ever
//!
//! A lease that nobody renews is revoked [`TICK`] after its deadline at the latest, as fast as revokes are committed. If
//! leaders change meanwhile, a new one begins with what was written down. That happens when what is left has fallen to half of
//! it, and by [`STEP`] at least: so a change of leader gives an abandoned lease at most twice what was left of it, or `STEP`
//! more. A lease that is kept alive in time never falls that far, and is never written.
//!
//! # Cost
//!
//! A renewal moves a deadline in memory: no entry, no write, no list to be sorted. Where a lease stands in the queue is
//! corrected when its turn comes. A turn looks at what is due, and at no more than [`WRITES_MAX`] of it.
//!
//! Absent: who asks, and who may be answered (`leases.rs`).

use super::input::TimeLeft;
use crate::machine::{LeaseChange, LeaseTime};
use crate::time::{Duration, Time};
use std::collections::{BTreeMap, BTreeSet};

/// What is left of a lease is written down if it is less than what is written by at least this.
pub(super) const STEP: Duration = Duration::from_secs(5);
/// Who led no longer ago than this may renew a lease at once.
pub const LATELY: Duration = Duration::from_millis(100);
/// What a lessor adds to each lease when it begins, for what the former one promised after it was deposed.
pub(super) const GRACE: Duration = Duration::from_millis(500);
/// What is due is looked at so often at most, so that one turn finds many.
const TICK: Duration = Duration::from_millis(100);
/// Revokes on their way at once: beyond it the next ones wait for the outcome of these.
pub(super) const REVOKES_MAX: usize = 500;
/// Leases written down in one command.
pub(super) const WRITES_MAX: usize = 1000;

/// See the module's essay.
#[derive(Debug, Default)]
pub(super) struct Lessor {
    leases: BTreeMap<i64, Timed>,
    /// When to look at a lease: never later than something is to be done for it. Those with a command on its way are not here.
    due: BTreeSet<(Time, i64)>,
    revoking: usize,
}

#[derive(Debug)]
struct Timed {
    /// What it was granted for, in seconds.
    granted: i64,
    deadline: Time,
    /// What the next leader would begin with.
    written: Duration,
    /// Somebody waits for it to be written down as whole.
    reset: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be looked at then.
    Until(Time),
    /// A command is on its way that writes down what is left.
    Writing,
    /// A command is on its way that ends it.
    Revoking,
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// It has all of its time again.
    Renewed(TimeLeft),
    /// A command must be applied first: try again when the lease changes.
    Waits,
    /// There is no such lease.
    Gone,
}

/// What is to be proposed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Leases to be ended.
    pub revokes: Vec<i64>,
    /// Leases to be written down, with the seconds that are left; 0: all.
    pub writes: Vec<(i64, i64)>,
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

impl Timed {
    fn ttl(&self) -> Duration {
        seconds(self.granted)
    }

    /// When something is to be done for it: its end, or before that the moment when what is left must be written down.
    fn next(&self) -> Time {
        match self.written.checked_sub(STEP) {
            Some(less) if less > Duration::ZERO => self.deadline - less.min(self.written / 2),
            _ => self.deadline,
        }
    }

    fn time_left(&self, now: Time) -> TimeLeft {
        TimeLeft { granted: self.granted, left: self.deadline.since(now).min(self.ttl()) }
    }

    /// Seconds that are left, never less than there are, and never 0.
    fn seconds_left(&self, now: Time) -> i64 {
        let left = self.deadline.since(now);
        let up = u64::from(left.subsec_nanos() > 0);
        i64::try_from(left.as_secs() + up).unwrap_or(i64::MAX).max(1)
    }
}

/// The next moment at which the queue is looked at.
fn tick(at: Time) -> Time {
    let tick = TICK.as_nanos() as u64;
    Time(at.0.div_ceil(tick).saturating_mul(tick))
}

impl Lessor {
    /// Begins to measure: every lease has what is written down of it from now on, and [`GRACE`].
    pub(super) fn new(now: Time, leases: impl IntoIterator<Item = (i64, LeaseTime)>) -> Lessor {
        let mut lessor = Lessor::default();
        leases.into_iter().for_each(|(id, time)| lessor.begin(now + GRACE, id, time));
        lessor
    }

    /// The time of a lease is what is written down of it, from `now` on.
    fn begin(&mut self, now: Time, id: i64, time: LeaseTime) {
        let written = written(time);
        let stage = Stage::Writing; // until it is scheduled
        let timed = Timed { granted: time.ttl, deadline: now + written, written, reset: false, stage };
        self.remove(id);
        self.leases.insert(id, timed);
        self.schedule(id);
    }

    /// Puts a lease without a command into the queue.
    fn schedule(&mut self, id: i64) {
        let Some(timed) = self.leases.get(&id) else { return };
        // Who waits to be written down comes before those that are over.
        let at = if timed.reset { Time(0) } else { tick(timed.next()) };
        self.look_at(id, at);
    }

    fn look_at(&mut self, id: i64, at: Time) {
        let Some(timed) = self.leases.get_mut(&id) else { return };
        if let Stage::Until(before) = timed.stage {
            self.due.remove(&(before, id));
        }
        timed.stage = Stage::Until(at);
        self.due.insert((at, id));
    }

    /// Says whether a revoke of it was on its way.
    fn remove(&mut self, id: i64) -> bool {
        match self.leases.remove(&id).map(|timed| timed.stage) {
            Some(Stage::Until(at)) => {
                self.due.remove(&(at, id));
                false
            }
            Some(Stage::Revoking) => {
                self.revoking -= 1;
                true
            }
            Some(Stage::Writing) | None => false,
        }
    }

    /// An entry has changed a lease. Says whether this was its end because its time was over.
    pub(super) fn changed(&mut self, now: Time, change: LeaseChange) -> bool {
        match change {
            LeaseChange::Granted(id, time) => self.begin(now, id, time),
            LeaseChange::Gone(id) => return self.remove(id),
            LeaseChange::Written(id, time) => {
                if let Some(timed) = self.leases.get_mut(&id) {
                    timed.written = written(time);
                    timed.reset &= timed.written < timed.ttl();
                    self.schedule(id);
                }
            }
        }
        false
    }

    /// A keepalive has arrived: the lease shall not end while it waits for `grace` to be confirmed. To end later is always
    /// right.
    pub(super) fn hear(&mut self, now: Time, id: i64, grace: Duration) {
        if let Some(timed) = self.leases.get_mut(&id).filter(|timed| timed.stage != Stage::Revoking) {
            timed.deadline = timed.deadline.max(now + grace.min(timed.ttl()));
        }
    }

    /// Whether it would be renewed here and now: nobody has to wait for a command, of which another leader may be the author.
    pub(super) fn renews_at_once(&self, id: i64) -> bool {
        let renews = |timed: &Timed| matches!(timed.stage, Stage::Until(_)) && timed.written >= timed.ttl();
        self.leases.get(&id).is_some_and(renews)
    }

    /// Renews a lease. The caller is sure that this member has led [`LATELY`].
    pub(super) fn renew(&mut self, now: Time, id: i64) -> Renewal {
        let Some(timed) = self.leases.get_mut(&id) else { return Renewal::Gone };
        if timed.stage == Stage::Revoking {
            return Renewal::Waits;
        }
        timed.deadline = timed.deadline.max(now + timed.ttl());
        if timed.written >= timed.ttl() && timed.stage != Stage::Writing {
            return Renewal::Renewed(timed.time_left(now));
        }
        if !timed.reset {
            timed.reset = true;
            if timed.stage != Stage::Writing {
                self.schedule(id);
            }
        }
        Renewal::Waits
    }

    /// How much is left of a lease.
    pub(super) fn time_left(&self, now: Time, id: i64) -> Option<TimeLeft> {
        self.leases.get(&id).map(|timed| timed.time_left(now))
    }

    /// What is to be proposed now: each is taken to be on its way until [`Lessor::changed`] or [`Lessor::not_proposed`].
    pub(super) fn work(&mut self, now: Time) -> Work {
        let mut work = Work::default();
        while let Some(&(at, id)) = self.due.first()
            && at <= now
            && work.writes.len() < WRITES_MAX
        {
            let Some(timed) = self.leases.get_mut(&id) else { break };
            if timed.reset {
                work.writes.push((id, 0));
                timed.stage = Stage::Writing;
            } else if timed.deadline <= now {
                if self.revoking == REVOKES_MAX {
                    break;
                }
                self.revoking += 1;
                work.revokes.push(id);
                timed.stage = Stage::Revoking;
            } else if timed.next() <= now {
                work.writes.push((id, timed.seconds_left(now)));
                timed.stage = Stage::Writing;
            } else {
                self.schedule(id); // it was renewed since
                continue;
            }
            self.due.remove(&(at, id));
        }
        work
    }

    /// The command for this lease was surely not appended: it is due again then.
    pub(super) fn not_proposed(&mut self, id: i64, again: Time) {
        if let Some(Timed { stage: Stage::Revoking, .. }) = self.leases.get(&id) {
            self.revoking -= 1;
        }
        self.look_at(id, again);
    }

    /// When there is work, unless it waits for the outcome of other work.
    pub(super) fn deadline(&self) -> Time {
        match self.due.first() {
            Some((at, _)) if self.revoking < REVOKES_MAX || *at == Time(0) => *at,
            _ => Time::NEVER,
        }
    }
}

/// What a leader begins with.
fn written(time: LeaseTime) -> Duration {
    seconds(if time.remaining == 0 { time.ttl } else { time.remaining })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Index;

    fn time(ttl: i64, remaining: i64) -> LeaseTime {
        LeaseTime { ttl, remaining, granted: Index(1) }
    }

    fn at(seconds: u64) -> Time {
        Time(0) + Duration::from_secs(seconds)
    }

    /// One that has granted them at 0.
    fn lessor(leases: &[(i64, LeaseTime)]) -> Lessor {
        let mut lessor = Lessor::default();
        leases.iter().for_each(|(id, time)| lessor.begin(at(0), *id, *time));
        lessor
    }

    #[test]
    fn the_next_leader_gives_each_lease_what_the_former_one_may_still_have_promised() {
        let mut next = Lessor::new(at(0), [(7, time(4, 0))]);
        assert_eq!(next.time_left(at(0), 7).map(|time| time.left), Some(Duration::from_secs(4)));
        assert_eq!(next.work(at(4) + LATELY * 4), Work::default(), "a clock may run four times as fast as another");
        assert_eq!(next.work(at(4) + GRACE).revokes, [7]);
    }

    /// What is written of a lease that nobody renews: when, in whole seconds, and how much. Each is applied at once.
    fn writes(ttl: i64, remaining: i64) -> Vec<(u64, i64)> {
        let mut lessor = lessor(&[(7, time(ttl, remaining))]);
        let mut written = Vec::new();
        loop {
            let now = lessor.deadline();
            let Work { revokes, writes } = lessor.work(now);
            for (id, left) in writes {
                written.push((now.0 / 1_000_000_000, left));
                lessor.changed(now, LeaseChange::Written(id, time(ttl, left)));
            }
            if revokes == [7] {
                written.push((now.0 / 1_000_000_000, 0));
                return written;
            }
        }
    }

    #[test]
    fn what_is_left_is_written_when_it_is_half_and_five_seconds_less() {
        assert_eq!(writes(5, 0), [(5, 0)]);
        assert_eq!(writes(8, 0), [(5, 3), (8, 0)]);
        assert_eq!(writes(100, 0), [(50, 50), (75, 25), (87, 13), (93, 7), (98, 2), (100, 0)]);
        assert_eq!(writes(100, 12), [(6, 6), (11, 1), (12, 0)]);
        assert_eq!(writes(9_000_000_000, 3), [(3, 0)]);
        assert_eq!(writes(9_000_000_000, 0).len(), 32);
    }

    #[test]
    fn a_lease_that_is_renewed_in_time_is_never_written() {
        let mut lessor = lessor(&[(7, time(30, 0))]);
        for second in (0..3000).step_by(10) {
            assert_eq!(lessor.work(at(second)), Work::default(), "at {second} s");
            assert!(matches!(lessor.renew(at(second), 7), Renewal::Renewed(_)));
            assert_eq!(lessor.due.len(), 1);
        }
        assert!(lessor.deadline() <= at(3010), "it is looked at before something is to be done for it");
    }

    #[test]
    fn no_more_than_so_many_revokes_are_on_their_way_and_resets_pass_them() {
        let many = REVOKES_MAX as i64 + 10;
        let leases: Vec<_> = (1..=many).map(|id| (id, time(2, 0))).chain([(0, time(100, 10))]).collect();
        let mut lessor = lessor(&leases);
        assert_eq!(lessor.renew(at(3), 0), Renewal::Waits);
        assert_eq!(lessor.deadline(), Time(0));
        let Work { revokes, writes } = lessor.work(at(3));
        assert_eq!((revokes.len(), writes), (REVOKES_MAX, vec![(0, 0)]));
        assert_eq!((lessor.work(at(3)), lessor.deadline()), (Work::default(), Time::NEVER));
        assert!(lessor.changed(at(3), LeaseChange::Gone(1)), "its time was over");
        assert!(!lessor.changed(at(3), LeaseChange::Gone(many)), "somebody gave it back");
        assert_eq!(lessor.work(at(3)).revokes, [REVOKES_MAX as i64 + 1]);
    }

    #[test]
    fn a_renewal_waits_for_a_write_on_its_way_and_then_for_the_reset() {
        let mut lessor = lessor(&[(7, time(100, 0))]);
        assert_eq!(lessor.work(at(50)).writes, [(7, 50)]);
        assert_eq!(lessor.renew(at(51), 7), Renewal::Waits);
        assert_eq!(lessor.work(at(51)), Work::default());
        lessor.changed(at(52), LeaseChange::Written(7, time(100, 50)));
        assert_eq!(lessor.renew(at(52), 7), Renewal::Waits);
        assert_eq!(lessor.work(at(52)).writes, [(7, 0)]);
        assert_eq!(lessor.renew(at(53), 7), Renewal::Waits);
        lessor.changed(at(54), LeaseChange::Written(7, time(100, 0)));
        let left = Duration::from_secs(100);
        assert_eq!(lessor.renew(at(54), 7), Renewal::Renewed(TimeLeft { granted: 100, left }));
        assert_eq!(lessor.work(at(100)), Work::default());
        assert_eq!(lessor.work(at(104)).writes, [(7, 50)]);
    }

    #[test]
    fn what_was_refused_is_due_again_when_it_is_said_to_be() {
        let mut lessor = lessor(&[(7, time(2, 0)), (8, time(100, 10))]);
        assert_eq!(lessor.renew(at(3), 8), Renewal::Waits);
        let work = lessor.work(at(3));
        assert_eq!(work, Work { revokes: vec![7], writes: vec![(8, 0)] });
        [7, 8].into_iter().for_each(|id| lessor.not_proposed(id, at(4)));
        assert_eq!((lessor.work(at(3)), lessor.deadline()), (Work::default(), at(4)));
        assert_eq!(lessor.work(at(4)), work);
        assert_eq!(lessor.revoking, 1);
    }

    #[test]
    fn a_lease_that_is_granted_again_begins_anew() {
        let mut lessor = lessor(&[(7, time(2, 0))]);
        assert_eq!(lessor.work(at(2)).revokes, [7]);
        lessor.changed(at(2), LeaseChange::Gone(7));
        lessor.changed(at(2), LeaseChange::Granted(7, time(60, 0)));
        assert_eq!(lessor.revoking, 0);
        assert_eq!(lessor.time_left(at(3), 7).map(|time| time.left), Some(Duration::from_secs(59)));
        assert_eq!(lessor.work(at(20)), Work::default());
    }
}

//! A state that is taken over: by a follower behind the log, by one without a state, from leaders that come and go.

use super::openings::{Disks, at};
use super::*;
use crate::ids::Revision;
use std::ops::{Deref, DerefMut};

/// A world in which nothing happens by itself.
pub(super) struct Lab(World);

impl Deref for Lab {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl DerefMut for Lab {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.0
    }
}

/// Of `size` members.
pub(super) fn world(size: usize) -> Lab {
    let mut world = (1..).map(World::new).find(|world| world.hosts.len() == size).unwrap();
    (world.loss, world.crash, world.disk, world.cuts) = (0, 0, 2, 0);
    let mut world = Lab(world);
    world.until("a leader", |world| world.leader().is_some());
    world
}

impl Lab {
    pub(super) fn node(&self, id: MemberId) -> &Node {
        &self.hosts[&id].alive.as_ref().unwrap().node
    }

    pub(super) fn leader(&self) -> Option<MemberId> {
        self.alive().into_iter().find(|id| self.node(*id).raft.is_leader())
    }

    pub(super) fn followers(&self) -> Vec<MemberId> {
        let leader = self.leader();
        self.hosts.keys().copied().filter(|id| Some(*id) != leader).collect()
    }

    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Lab) -> bool) {
        let deadline = self.now + Duration::from_secs(60);
        while !done(self) {
            assert!(self.now < deadline, "still waiting for {what}");
            self.step(false);
        }
    }

    pub(super) fn propose(&mut self, at: MemberId, op: own::command::Op, key: String) {
        self.order += 1;
        let slot = at.0 << 32 | self.order;
        let command = own::Command { op: Some(op) }.encode_to_vec().into();
        self.puts.insert(slot, key);
        self.input(at, Input::Request(Slot(slot), Request::Propose { command, grows: true }));
    }

    /// `count` puts of so many bytes at `at`, without waiting for them.
    pub(super) fn put(&mut self, at: MemberId, count: usize, bytes: usize) {
        for _ in 0..count {
            let key = format!("k{}", self.order);
            let put = pb::PutRequest { key: key.clone().into(), value: vec![b'v'; bytes].into(), ..Default::default() };
            self.propose(at, own::command::Op::Put(put), key);
        }
    }

    /// The same, and waits.
    pub(super) fn fill(&mut self, at: MemberId, count: usize) {
        for _ in 0..count {
            self.put(at, 1, 10_000);
            self.step(false);
        }
        self.until("the puts", |world| world.puts.is_empty());
    }

    /// All that is there lets go of its log.
    pub(super) fn compact_logs(&mut self) {
        for id in self.alive() {
            self.until("the disk", |world| world.hosts[&id].alive.as_ref().unwrap().state_writes.is_empty());
            self.compact_log(id);
        }
    }

    /// `member` goes, `count` puts come, and the others let go of their logs.
    pub(super) fn leave_behind(&mut self, member: MemberId, count: usize) {
        self.crash(member);
        self.until("a leader", |world| world.leader().is_some());
        let leader = self.leader().unwrap();
        self.fill(leader, count);
        self.compact_logs();
    }

    pub(super) fn install(&self, id: MemberId) -> InstallStatus {
        self.node(id).status().install
    }

    /// A member wakes for nothing, if nothing happens.
    pub(super) fn assert_sleeps(&mut self, id: MemberId) {
        let mut now = self.now;
        let node = &mut self.hosts.get_mut(&id).unwrap().alive.as_mut().unwrap().node;
        for _ in 0..200 {
            node.advance(now, &mut Vec::new()).unwrap();
            let deadline = node.deadline();
            assert!(deadline > now, "it wants a turn at {deadline:?}, at {now:?}");
            now = deadline.min(now + Duration::from_secs(1));
        }
    }

    pub(super) fn caught_up(&self, id: MemberId) -> bool {
        let Some(leader) = self.leader() else { return false };
        self.hosts[&id].alive.is_some() && self.node(id).applied() == self.node(leader).applied()
    }
}

#[test]
fn a_follower_behind_the_log_takes_over_the_state_under_load() {
    for (loss, pause) in [(0, 5), (200, 1500)] {
        let mut world = world(3);
        let late = world.followers()[0];
        world.leave_behind(late, 60);
        world.loss = loss;
        world.start(late);
        let mut turns = 0;
        world.until("the state", |world| {
            turns += 1;
            if turns % pause == 0
                && let Some(leader) = world.leader()
            {
                world.put(leader, 1, 10_000);
            }
            !world.installed.is_empty()
        });
        assert!(world.installed[0].done_bytes > 60 * 10_000, "{:?}", world.installed);
        world.until("the end of the log", |world| world.caught_up(late));
        world.verify();
        if loss == 0 {
            assert_eq!(world.installed.len(), 1, "then the log was enough: {:?}", world.installed);
        }
    }
}

#[test]
fn another_leader_goes_on_where_one_crashed() {
    let mut world = world(5);
    let late = world.followers()[0];
    world.leave_behind(late, 60);
    world.start(late);
    world.until("a half", |world| world.install(late).done_bytes > 100_000);
    let (sender, reached) = (world.leader().unwrap(), world.install(late).reached);
    world.crash(sender);
    world.until("the state", |world| !world.installed.is_empty());
    let install = world.installed[0];
    assert!(install.reached > reached && install.from != Some(sender), "{install:?}");
    assert_eq!((install.begun, install.resumed), (1, 1), "it went on");
    world.verify();
}

#[test]
fn another_leader_that_has_rewritten_more_has_it_begin_anew() {
    let mut world = world(5);
    let late = world.followers()[0];
    let first = world.leader().unwrap();
    world.leave_behind(late, 60);
    world.start(late);
    world.until("a half", |world| world.install(late).done_bytes > 100_000);
    // The sender rests, the others don't.
    let now = world.node(first).machine.view().revision().0;
    world.propose(first, own::command::Op::Compact(own::Compact { revision: now }), String::new());
    world.until("the sweep", |world| {
        let others = world.followers().into_iter().filter(|id| *id != late);
        others.map(|id| world.node(id).machine.swept()).all(|swept| swept == Revision(now))
    });
    assert!(world.installed.is_empty() && world.node(first).machine.swept() < Revision(now), "too fast to see");
    world.crash(first);
    world.acknowledged.retain(|key| !key.is_empty());
    world.until("the state", |world| !world.installed.is_empty());
    assert_eq!(world.installed[0].begun, 2);
    world.verify();
}

#[test]
fn a_crash_at_any_step_leaves_the_old_state_or_the_new_one() {
    let mut steps = 1;
    for at in 0.. {
        if at >= steps {
            break;
        }
        let mut world = world(3);
        let late = world.followers()[0];
        world.leave_behind(late, 20);
        world.start(late);
        world.until("the beginning", |world| world.install(late).active);
        let mut taken = 0;
        while taken < at && world.installed.is_empty() {
            world.step(false);
            taken += 1;
        }
        if world.installed.is_empty() {
            steps += 1;
        }
        world.crash(late);
        world.start(late);
        world.until("the end of the log", |world| world.caught_up(late));
        world.verify();
    }
    assert!(steps > 10, "{steps} steps");
}

#[test]
fn the_sweep_rests_while_a_state_is_given_and_goes_on_afterwards() {
    let mut world = world(3);
    let (late, leader) = (world.followers()[0], world.leader().unwrap());
    world.leave_behind(late, 60);
    let records = |world: &Lab| world.hosts[&leader].state.len();
    world.start(late);
    world.until("the beginning", |world| world.install(late).done_bytes > 0);
    let keys: Vec<String> = std::mem::take(&mut world.acknowledged);
    for key in keys {
        let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
        world.propose(leader, own::command::Op::DeleteRange(delete), String::new());
    }
    world.until("the deletions", |world| world.puts.is_empty());
    let now = world.node(leader).machine.view().revision().0;
    world.propose(leader, own::command::Op::Compact(own::Compact { revision: now }), String::new());
    world.until("the state", |world| !world.installed.is_empty());
    assert!(world.node(leader).machine.is_sweeping(), "it is due");
    let before = records(&world);
    let ended = world.now;
    world.until("the sweep", |world| !world.node(leader).machine.is_sweeping());
    assert!(world.now - Duration::from_secs(20) > ended, "it rested for long enough to come back");
    assert!(records(&world) < before, "{} of {before}", records(&world));
    world.acknowledged.clear();
    world.verify();
}

#[test]
fn who_asks_again_and_gets_no_further_does_not_keep_the_sweep() {
    let mut world = world(3);
    let (late, leader) = (world.followers()[0], world.leader().unwrap());
    world.put(leader, 60, 100);
    world.until("the puts", |world| world.puts.is_empty());
    let again = |world: &mut Lab| {
        let (now, question) = (world.now, own::RecordsQuestion { from: 1, ..Default::default() });
        let node = &mut world.hosts.get_mut(&leader).unwrap().alive.as_mut().unwrap().node;
        node.records_question(now, late, 7, question);
        now
    };
    let mut asked = again(&mut world);
    let now = world.node(leader).machine.view().revision().0;
    world.propose(leader, own::command::Op::Compact(own::Compact { revision: now }), String::new());
    world.until("the compaction", |world| world.node(leader).machine.is_sweeping());
    let begun = world.now;
    world.until("the sweep", |world| {
        if world.now > asked + Duration::from_secs(5) {
            asked = again(world);
        }
        !world.node(leader).machine.is_sweeping()
    });
    assert!(world.now - Duration::from_secs(20) > begun, "it was waited for at all");
}

#[test]
fn two_take_over_at_once() {
    let mut world = world(5);
    let late: Vec<MemberId> = world.followers()[..2].to_vec();
    world.crash(late[0]);
    world.leave_behind(late[1], 40);
    late.iter().for_each(|id| world.start(*id));
    world.until("both", |world| late.iter().all(|id| world.install(*id).active && world.install(*id).done_bytes > 0));
    world.until("their ends", |world| late.iter().all(|id| world.caught_up(*id)));
    assert_eq!(world.installed.len(), 2);
    world.verify();
}

#[test]
fn who_lost_its_state_serves_nothing_until_it_has_the_leaders() {
    let mut world = world(3);
    let (lost, leader) = (world.followers()[0], world.leader().unwrap());
    world.fill(leader, 40);
    world.compact_logs();
    world.put(leader, 3, 10);
    world.until("the puts", |world| world.puts.is_empty());
    world.crash(lost);
    world.hosts.get_mut(&lost).unwrap().state = MemoryEngine::new();
    world.start(lost);
    assert!(world.node(lost).is_hollow());
    for request in [Request::Read, Request::TimeToLive { lease: 7 }, Request::Transfer(None)] {
        world.input(lost, Input::Request(Slot(1), request));
        let (now, mut effects) = (world.now, Vec::new());
        let alive = world.hosts.get_mut(&lost).unwrap().alive.as_mut().unwrap();
        alive.node.advance(now, &mut effects).unwrap();
        let refused = |effect: &Effect| matches!(effect, Effect::Reply(Slot(1), Reply::Refused(Refused::Hollow)));
        assert!(effects.iter().any(refused), "{effects:?}");
        effects.into_iter().filter(|effect| !refused(effect)).for_each(|effect| world.effect(lost, effect));
    }
    // It counts for a quorum: only it and the leader are there.
    let other = world.followers().into_iter().find(|id| *id != lost).unwrap();
    world.crash(other);
    world.fill(leader, 5);
    world.until("the state", |world| !world.installed.is_empty());
    assert!(!world.node(lost).is_hollow());
    assert!(world.installed[0].hollow && world.installed[0].begun == 1);
    world.until("the end of the log", |world| world.caught_up(lost));
    world.start(other);
    world.verify();
}

#[test]
fn a_record_of_many_pieces_comes_in_parts() {
    let mut world = world(3);
    let (late, leader) = (world.followers()[0], world.leader().unwrap());
    world.crash(late);
    world.put(leader, 2, 150_000);
    world.until("the puts", |world| world.puts.is_empty());
    world.compact_logs();
    world.start(late);
    world.until("the state", |world| world.caught_up(late));
    assert_eq!(world.installed.len(), 1);
    assert!(world.installed[0].done_bytes > 300_000);
    world.verify();
}

#[test]
fn who_is_told_by_the_log_after_all_takes_nothing_over() {
    let mut world = world(3);
    let (late, first) = (world.followers()[0], world.leader().unwrap());
    world.crash(late);
    world.fill(first, 60);
    world.until("the disk", |world| world.hosts[&first].alive.as_ref().unwrap().state_writes.is_empty());
    world.compact_log(first);
    let base = world.node(first).raft.log_base();
    assert!(base.index > Index(60));
    world.start(late);
    world.until("the beginning", |world| world.install(late).done_bytes > 0);
    // The other one still has its log.
    world.crash(first);
    world.until("the log", |world| world.caught_up(late) && !world.install(late).active);
    assert!(world.installed.is_empty());
    world.verify();
}

/// A leader whose entries nobody got, and whose state witnesses them, comes back to others that went another way.
#[test]
fn a_longer_log_that_went_another_way_gives_way_once() {
    let mut world = world(3);
    let (old, others) = (world.leader().unwrap(), world.followers());
    world.fill(old, 5);
    others.iter().for_each(|id| world.crash(*id));
    world.put(old, 80, 10);
    world.until("its own disk", |world| world.node(old).raft.status().persisted > Index(80));
    let acknowledged = world.node(old).raft.persisted_position();
    let incarnation = world.node(old).identity().incarnation;
    world.crash(old);
    let mut ops = Vec::new();
    AckedMark { last: acknowledged, term: acknowledged.term, incarnation }.put(&mut ops);
    execute(&world.hosts[&old].state, &ops);
    world.hosts[&old].state.sync().unwrap();

    // Nothing of it is still on its way to them.
    world.network.clear();
    others.iter().for_each(|id| world.start(*id));
    world.until("a leader", |world| world.leader().is_some());
    let leader = world.leader().unwrap();
    world.fill(leader, 30);
    world.compact_logs();
    let base = world.node(leader).raft.log_base();
    assert!(base.index < acknowledged.index && base.term > acknowledged.term, "{base} and {acknowledged}");
    world.start(old);
    world.until("the state", |world| !world.installed.is_empty());
    assert_eq!(world.node(old).raft.lost_mark(), None, "what it acknowledged gave way");
    world.until("the end of the log", |world| world.caught_up(old));
    assert_eq!(world.installed.len(), 1);
    assert_eq!(world.installed[0].begun, 1, "it took over once what it needed");
    world.verify();
}

/// Nothing is written to a state on its way out, so nothing of it is waited for, however long the adoption takes.
#[test]
fn who_adopts_a_state_wants_no_turns_for_the_one_on_its_way_out() {
    let mut world = world(3);
    let (late, leader) = (world.followers()[0], world.leader().unwrap());
    // It applies what its disk has not synced, and then hears nothing for a while.
    world.fill(leader, 5);
    world.until("the puts there", |world| world.caught_up(late));
    for _ in 0..40 {
        world.put(leader, 1, 10_000);
        world.step(false);
        world.network.retain(|_, envelope| envelope.to != late);
    }
    world.until("the puts", |world| {
        world.network.retain(|_, envelope| envelope.to != late);
        world.puts.is_empty()
    });
    world.compact_logs();
    world.disk = 10;
    world.until("the adoption", |world| world.node(late).install.is_adopting());
    world.assert_sleeps(late);
}

/// The same of a sweep whose last write was under way when the adoption began.
#[test]
fn who_adopts_a_state_wants_no_turns_for_the_sweep_of_the_one_on_its_way_out() {
    let mut world = world(3);
    let (late, leader) = (world.followers()[0], world.leader().unwrap());
    for value in 0..5 {
        let put = pb::PutRequest { key: "swept".into(), value: vec![value; 1000].into(), ..Default::default() };
        world.propose(leader, own::command::Op::Put(put), format!("put {value}"));
    }
    world.until("the puts there", |world| world.puts.is_empty() && world.caught_up(late));
    let now = world.node(leader).machine.view().revision().0;
    world.propose(leader, own::command::Op::Compact(own::Compact { revision: now }), String::new());
    // From the sweep's write on its disk stands still.
    let mut held = Vec::new();
    let hold = |world: &mut Lab, held: &mut Vec<StateWrite>| {
        held.append(&mut world.hosts.get_mut(&late).unwrap().alive.as_mut().unwrap().state_writes);
    };
    world.until("the sweep", |world| {
        let machine = &world.node(late).machine;
        let is_written = machine.swept() == Revision(now) && machine.is_sweeping();
        if is_written {
            hold(world, &mut held);
        }
        is_written
    });
    world.put(leader, 40, 10_000);
    world.until("the puts", |world| {
        hold(world, &mut held);
        world.network.retain(|_, envelope| envelope.to != late);
        world.puts.is_empty()
    });
    world.compact_logs();
    world.disk = 10;
    world.until("the adoption", |world| {
        hold(world, &mut held);
        world.node(late).install.is_adopting()
    });
    assert!(world.node(late).machine.is_sweeping(), "the write is still under way");
    for write in held {
        world.input(late, Input::StateWritten { id: write.id });
    }
    assert!(!world.node(late).machine.is_sweeping(), "it was the last one");
    world.assert_sleeps(late);
}

#[test]
fn the_mark_of_a_state_that_is_taken_over_is_what_may_still_be_committed() {
    let whole: &[u64] = &[1, 1, 2, 2, 3, 3];
    for (log, known, reached, expected) in [
        // The log leads there, and on to what was acknowledged.
        (whole, at(6, 3), at(4, 2), at(6, 3)),
        // Another entry stands there.
        (whole, at(6, 3), at(4, 3), at(4, 3)),
        (&[1, 1, 1, 1, 3, 3], at(6, 3), at(4, 2), at(4, 2)),
        (&[1, 1, 1, 1, 1, 1], at(6, 1), at(4, 2), at(4, 2)),
        // The state goes at least as far.
        (whole, at(6, 3), at(6, 3), at(6, 3)),
        (whole, at(6, 3), at(9, 4), at(9, 4)),
        (whole, at(6, 3), at(9, 2), at(9, 2)),
        // The log lost its tail, and lacks the place, or has it.
        (&[1, 1], at(6, 3), at(4, 2), at(6, 3)),
        (&[1, 1], at(6, 3), at(4, 4), at(4, 4)),
        (&[1, 1], at(6, 3), at(7, 2), at(7, 2)),
        (&[1, 1, 2, 2], at(6, 3), at(4, 2), at(6, 3)),
        (&[1, 1, 2, 2], at(6, 3), at(3, 3), at(3, 3)),
    ] {
        let node = Disks::default().log(log).marked(known).open(3).unwrap().node;
        let (engine, mut ops) = (MemoryEngine::new(), Vec::new());
        node.put_marks_of(reached, &mut ops);
        execute(&engine, &ops);
        assert_eq!(AckedMark::read(&engine).unwrap().last, expected, "{log:?}, {known}, {reached}");
    }
}

//! Members whose state is wrong: found out at a checkpoint, set aside, taken over, right again.

use super::super::marks::{Beside, Quarantined};
use super::changes::adding;
use super::installs::{Lab, world};
use super::*;
use crate::proto::etcdserverpb::AlarmType;
use own::{leader_answer::Answer, leader_question::Question};

/// The lease that only a state has which is wrong.
const WRONG: i64 = 777;

impl Lab {
    /// The state of `id` goes wrong.
    fn bend(&mut self, id: MemberId, lease: i64) {
        self.bent.push(id);
        self.hosts.get_mut(&id).unwrap().alive.as_mut().unwrap().node.machine.bend(lease);
    }

    /// It knows that it is wrong.
    fn sentence(&mut self, id: MemberId) {
        let checkpoint = self.node(id).applied().index;
        let verdict = Quarantined { applied: checkpoint, checkpoint, found: 1, truth: 2 };
        self.hosts.get_mut(&id).unwrap().alive.as_mut().unwrap().node.quarantine.sentence(verdict);
    }

    fn has_lease(&self, id: MemberId, lease: i64) -> bool {
        self.node(id).view().lease(lease).is_some()
    }

    /// Goes on with a put at the leader, if there is one, now and then.
    fn work(&mut self, what: &str, mut done: impl FnMut(&mut Lab) -> bool) {
        let mut steps = 0;
        self.until(what, |world| {
            steps += 1;
            if let Some(leader) = world.leader().filter(|_| steps % 20 == 0) {
                world.put(leader, 1, 10);
            }
            done(world)
        });
    }

    fn beside(&self, id: MemberId) -> Beside {
        Beside::read(&self.hosts[&id].state).unwrap()
    }

    /// Whether it has been set aside and is whole again.
    fn is_cured(&self, id: MemberId) -> bool {
        self.set_aside.contains(&id) && self.hosts[&id].alive.is_some() && !self.node(id).is_hollow()
    }

    fn refuses(&mut self, id: MemberId) -> bool {
        let now = self.now;
        self.input(id, Input::Request(Slot(1), Request::Read));
        let mut effects = Vec::new();
        self.hosts.get_mut(&id).unwrap().alive.as_mut().unwrap().node.advance(now, &mut effects).unwrap();
        let refused = |effect: &Effect| matches!(effect, Effect::Reply(Slot(1), Reply::Refused(Refused::Hollow)));
        let is_refused = effects.iter().any(refused);
        effects.into_iter().filter(|effect| !refused(effect)).for_each(|effect| self.effect(id, effect));
        is_refused
    }
}

#[test]
fn who_differs_from_the_others_takes_over_their_state_and_agrees_again() {
    let mut world = world(3);
    let wrong = world.followers()[0];
    world.work("checkpoints", |world| world.node(wrong).status().checkpoint.agreed >= Index(16));
    world.bend(wrong, WRONG);
    assert!(world.has_lease(wrong, WRONG));
    let before = world.node(wrong).applied().index;
    world.work("the verdict", |world| !world.set_aside.is_empty());
    assert_eq!(world.set_aside, [wrong]);
    let (note, mark) = (world.beside(wrong).quarantined.unwrap(), world.beside(wrong).mark);
    assert!(note.checkpoint > before && note.applied >= note.checkpoint && note.found != note.truth, "{note:?}");
    assert!(mark.last.index >= note.applied, "what was acknowledged is forgotten: {mark:?}");
    assert!(world.node(wrong).is_hollow() && world.refuses(wrong));
    assert_eq!(world.node(wrong).status().checkpoint.differs, Some(note.checkpoint));

    // Its log counts: without it there is no quorum.
    let other = world.followers().into_iter().find(|id| *id != wrong).unwrap();
    world.crash(other);
    let leader = world.leader().unwrap();
    world.fill(leader, 5);
    world.until("the state", |world| world.is_cured(wrong));
    assert!(world.installed[0].reached >= note.applied && !world.has_lease(wrong, WRONG));
    assert!(world.beside(wrong).quarantined.is_none());
    world.start(other);
    world.work("agreement", |world| world.node(wrong).status().checkpoint.agreed > note.applied);
    assert_eq!(world.node(wrong).status().checkpoint.differs, None);
    assert_eq!(world.set_aside, [wrong]);
    world.verify();
}

#[test]
fn a_leader_that_differs_hands_over_first() {
    let mut world = world(3);
    let wrong = world.leader().unwrap();
    world.bend(wrong, WRONG);
    world.work("its insight", |world| world.node(wrong).is_wrong());
    assert!(world.node(wrong).raft.is_leader() && world.set_aside.is_empty());
    assert!(world.refuses(wrong), "it knows that it is wrong");
    world.until("another leader", |world| world.leader().is_some_and(|leader| leader != wrong));
    world.work("the cure", |world| world.is_cured(wrong));
    assert_eq!(world.set_aside, [wrong]);
    assert!(!world.has_lease(wrong, WRONG));
    world.verify();
}

#[test]
fn a_wrong_leader_hands_over_to_who_is_there_if_the_one_that_is_right_is_not() {
    let mut world = world(3);
    let (wrong, away) = (world.leader().unwrap(), world.followers()[0]);
    world.fill(wrong, 20);
    world.until("a checkpoint", |world| world.node(wrong).applied().index > Index(8));
    world.crash(away);
    let now = world.now;
    let node = &mut world.hosts.get_mut(&wrong).unwrap().alive.as_mut().unwrap().node;
    let told = own::CheckpointQuestion { noted: vec![own::Checkpoint { index: 8, digest: 2 }] };
    node.checkpoint_question(now, away, 0, &told);
    let (applied, checkpoint) = (node.applied().index, Index(8));
    node.quarantine.sentence(Quarantined { applied, checkpoint, found: 1, truth: 2 });
    world.until("another leader", |world| world.leader().is_some_and(|leader| leader != wrong));
}

#[test]
fn what_a_wrong_state_makes_of_a_command_is_no_answer() {
    let mut world = world(3);
    let wrong = world.leader().unwrap();
    world.fill(wrong, 1);
    let (before, key) = (world.acknowledged.len(), world.acknowledged[0].clone());
    world.put(wrong, 1, 10);
    let slot = wrong.0 << 32;
    world.reads.insert(slot, (wrong, key));
    world.input(wrong, Input::Request(Slot(slot), Request::Read));
    world.bend(wrong, WRONG);
    world.sentence(wrong);
    world.until("quarantine", |world| {
        let waits = world.reads.contains_key(&slot) || !world.set_aside.is_empty();
        assert!(waits, "it was answered from a wrong state");
        world.puts.is_empty() && !world.set_aside.is_empty()
    });
    assert_eq!(world.acknowledged.len(), before);
    world.until("the cure", |world| world.is_cured(wrong));
    world.verify();
}

#[test]
fn a_wrong_state_is_given_to_nobody() {
    let mut world = world(3);
    let (late, other) = (world.followers()[0], world.followers()[1]);
    world.leave_behind(late, 40);
    let wrong = world.leader().unwrap();
    assert_ne!(wrong, other, "the leader stays");
    world.crash(other);
    world.bend(wrong, WRONG);
    world.sentence(wrong);
    world.start(late);
    world.until("its question", |world| world.install(late).active);
    // There is nobody to hand over to.
    (0..1000).for_each(|_| world.step(false));
    assert_eq!((world.leader(), world.install(wrong).sent_bytes, world.install(late).done_bytes), (Some(wrong), 0, 0));
    world.start(other);
    world.until("the state of another one", |world| world.caught_up(late) && world.is_cured(wrong));
    assert!(!world.has_lease(late, WRONG));
    world.verify();
}

#[test]
fn what_a_disk_reads_of_a_state_that_is_wrong_is_given_to_nobody() {
    let mut world = world(3);
    let late = world.followers()[0];
    world.leave_behind(late, 40);
    let wrong = world.leader().unwrap();
    world.start(late);
    let reads = |world: &Lab| world.hosts[&wrong].alive.as_ref().unwrap().record_reads.len();
    world.until("a question", |world| reads(world) > 0);
    let before = world.install(wrong).sent_bytes;
    world.bend(wrong, WRONG);
    world.sentence(wrong);
    world.until("the disk", |world| reads(world) == 0);
    assert_eq!(world.install(wrong).sent_bytes, before);
}

#[test]
fn a_wrong_leader_says_nothing_of_leases() {
    let mut world = world(3);
    let wrong = world.leader().unwrap();
    world.fill(wrong, 1);
    world.bend(wrong, WRONG);
    world.input(wrong, Input::Request(Slot(1), Request::TimeToLive { lease: WRONG }));
    world.sentence(wrong);
    // Whoever is answered here ends the test.
    world.until("another leader", |world| !world.node(wrong).raft.is_leader());
}

/// Votes can arrive between the verdict and the disk's word that the state is out of the way.
#[test]
fn who_is_elected_while_its_state_is_set_aside_makes_no_turns() {
    let mut world = world(3);
    let (leader, wrong) = (world.leader().unwrap(), world.followers()[0]);
    world.sentence(wrong);
    // Its disk never says so.
    let hold = |world: &mut Lab| world.hosts.get_mut(&wrong).unwrap().alive.as_mut().unwrap().stages.clear();
    world.until("the verdict", |world| {
        hold(world);
        world.node(wrong).install.is_adopting()
    });
    let now = world.now;
    let alive = world.hosts.get_mut(&leader).unwrap().alive.as_mut().unwrap();
    alive.node.raft.transfer(now, Some(wrong)).unwrap();
    world.until("its election", |world| {
        hold(world);
        world.node(wrong).raft.is_leader()
    });
    world.assert_sleeps(wrong);
}

#[test]
fn a_checkpoint_is_told_as_soon_as_what_was_told_before_is_answered() {
    let (mut member, _) = follower();
    let told = |effects: &[Effect]| {
        let question = |effect: &Effect| match effect {
            Effect::Send(Envelope { message: Message::Ask { context, question }, .. }) => {
                match own::LeaderQuestion::decode(question.clone()).unwrap().question {
                    Some(Question::Checkpoint(question)) => Some((*context, question.noted.last().unwrap().index)),
                    _ => None,
                }
            }
            _ => None,
        };
        effects.iter().filter_map(question).collect::<Vec<_>>()
    };
    member.append(4, Position::default(), &[2; 30], 8);
    let mut effects = member.carry();
    effects.extend(member.carry());
    let first = told(&effects);
    let [(context, 8)] = first[..] else { panic!("{first:?}") };
    member.append(4, Position { index: Index(30), term: Term(2) }, &[], 16);
    let mut effects = member.carry();
    effects.extend(member.carry());
    assert_eq!(told(&effects), [], "the first is on its way");
    // Nobody knows yet whether it is right.
    let answer = own::LeaderAnswer { answer: Some(Answer::Checkpoint(own::CheckpointAnswer::default())) };
    member.tell(4, Message::Answer { context, answer: answer.encode_to_vec().into() });
    let second = told(&member.carry());
    let [(context, 16)] = second[..] else { panic!("{second:?}") };
    member.tell(4, Message::Answer { context, answer: answer.encode_to_vec().into() });
    assert_eq!(told(&member.carry()), [], "there is nothing new");
    member.append(4, Position { index: Index(30), term: Term(2) }, &[], 24);
    let mut effects = member.carry();
    effects.extend(member.carry());
    assert!(matches!(told(&effects)[..], [(_, 24)]), "{effects:?}");
}

#[test]
fn two_that_differ_go_one_after_the_other() {
    let mut world = world(5);
    let (leader, wrong) = (world.leader().unwrap(), world.followers()[..2].to_vec());
    world.fill(leader, 60);
    wrong.iter().for_each(|id| world.bend(*id, WRONG));
    world.work("both cures", |world| {
        let hollow = wrong.iter().filter(|id| world.node(**id).is_hollow()).count();
        assert!(hollow < 2, "both are in quarantine");
        wrong.iter().all(|id| world.is_cured(*id))
    });
    assert_eq!(world.set_aside.len(), 2);
    world.verify();
}

#[test]
fn a_member_that_never_comes_back_from_quarantine_holds_up_nobody() {
    let mut world = world(5);
    let wrong = world.followers()[..2].to_vec();
    wrong.iter().for_each(|id| world.bend(*id, WRONG));
    world.work("the first", |world| !world.set_aside.is_empty());
    let first = world.set_aside[0];
    world.crash(first);
    let since = world.now;
    world.work("the second", |world| world.set_aside.len() == 2);
    assert!(world.now - Duration::from_secs(5) > since, "it was not waited for");
    world.start(first);
    world.work("both cures", |world| wrong.iter().all(|id| world.is_cured(*id)));
    world.verify();
}

#[test]
fn where_no_quorum_agrees_nobody_is_believed_and_the_alarm_goes_up() {
    let mut world = world(3);
    let corrupt = (MemberId(0), AlarmType::Corrupt);
    let wrong = world.followers();
    (1..).zip(&wrong).for_each(|(lease, id)| world.bend(*id, lease));
    world.work("the alarm", |world| world.alive().iter().all(|id| world.node(*id).view().alarms() == [corrupt]));
    let leader = world.leader().unwrap();
    assert!(world.set_aside.is_empty());
    assert!(world.hosts.keys().all(|id| world.node(*id).status().checkpoint.differs.is_none()));

    // It is told once for each checkpoint.
    let clear = own::SetAlarm { member_id: 0, alarm: AlarmType::Corrupt.into(), active: false, by_itself: false };
    world.propose(leader, own::command::Op::Alarm(clear), "none".into());
    world.until("its end", |world| world.node(leader).view().alarms().is_empty());
    for _ in 0..2000 {
        world.step(false);
        assert!(world.node(leader).view().alarms().is_empty(), "it was cleared");
    }
    world.work("the next one", |world| world.node(leader).view().alarms() == [corrupt]);
    assert!(world.set_aside.is_empty());
}

#[test]
fn a_learner_that_differs_is_told_by_the_voters() {
    let mut world = world(3);
    let (leader, learner) = (world.leader().unwrap(), MemberId(9));
    world.prepare(9);
    world.change(leader.0, adding(9, true)).unwrap();
    world.work("the learner", |world| world.node(learner).status().checkpoint.agreed > Index(0));
    world.bend(learner, WRONG);
    world.work("the cure", |world| world.is_cured(learner));
    assert_eq!(world.set_aside, [learner]);
    assert!(!world.has_lease(learner, WRONG));
}

#[test]
fn a_crash_at_any_step_keeps_the_duty() {
    let mut steps = 1;
    for at in 0.. {
        if at >= steps {
            break;
        }
        let mut world = world(3);
        let wrong = world.followers()[0];
        world.bend(wrong, WRONG);
        let is_told = |world: &Lab| world.node(wrong).is_wrong() || !world.set_aside.is_empty();
        world.work("the verdict", |world| is_told(world));
        let mut taken = 0;
        while taken < at && !world.is_cured(wrong) {
            world.step(false);
            taken += 1;
        }
        if !world.is_cured(wrong) {
            steps += 1;
        }
        let note = world.beside(wrong).quarantined;
        world.crash(wrong);
        world.start(wrong);
        if note.is_some() {
            assert!(world.node(wrong).is_hollow(), "its log alone made the state again");
        }
        world.work("the cure", |world| world.is_cured(wrong));
        assert!(!world.has_lease(wrong, WRONG));
        world.verify();
    }
    assert!(steps > 5, "{steps} steps");
}

#[test]
fn nothing_is_taken_over_that_ends_before_what_was_served() {
    let mut world = world(3);
    let wrong = world.followers()[0];
    world.bend(wrong, WRONG);
    world.work("the verdict", |world| !world.set_aside.is_empty());
    world.crash(wrong);
    let mut note = world.beside(wrong).quarantined.unwrap();
    note.applied = Index(note.applied.0 + 30);
    let mut ops = Vec::new();
    note.put(&mut ops);
    execute(&world.hosts[&wrong].state, &ops);
    world.start(wrong);
    let leader = world.leader().unwrap();
    world.until("all of the leader's", |world| world.install(wrong).reached == world.node(leader).applied().index);
    (0..500).for_each(|_| world.step(false));
    assert!(world.node(wrong).is_hollow() && world.node(leader).applied().index < note.applied);
    world.work("the cure", |world| world.is_cured(wrong));
    assert!(world.installed.last().unwrap().reached >= note.applied);
    world.verify();
}

#[test]
fn a_log_that_is_about_to_be_cut_keeps_its_mark() {
    let (mut member, _) = follower();
    member.hear(4, Position::default(), &[2; 12], 8);
    assert_eq!(member.synced_mark().index, Index(12));
    let checkpoint = Index(8);
    let found = member.node.machine.digest();
    member.node.quarantine.sentence(Quarantined { applied: checkpoint, checkpoint, found, truth: 1 });
    let entry = Entry::new(
        Position { index: Index(10), term: Term(5) },
        EntryKind::Noop,
        RequestId::default(),
        Default::default(),
    );
    let prev = Position { index: Index(9), term: Term(2) };
    member.tell(5, Message::Append { session: 1, sequence: 1, prev, commit: Index(8), entries: vec![entry] });
    let effects = member.advance();
    let staged = MemoryEngine::new();
    for effect in &effects {
        match effect {
            Effect::Stage(StageWrite { ops, begin: true, adopt: true, aside: true, .. }) => execute(&staged, ops),
            Effect::Persist(ready) => assert_eq!(ready.truncate_from, None, "{effects:?}"),
            _ => {}
        }
    }
    assert_eq!(AckedMark::read(&staged).unwrap().last.index, Index(12), "{effects:?}");
}

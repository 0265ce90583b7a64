//! Members of several releases in whole clusters: when the level is raised, and what becomes of who knows less.

use super::changes::{adding, calm, removing};
use super::*;
use crate::rng::mix;

impl World {
    fn level(&self, id: u64) -> Level {
        self.node(id).machine.level()
    }

    /// Stops a member, and starts it with a release that knows this level.
    fn upgrade(&mut self, id: u64, level: u32) {
        self.levels.insert(MemberId(id), Level(level));
        self.crash(MemberId(id));
        self.start(MemberId(id));
    }

    fn wait(&mut self, seconds: u64) {
        let deadline = self.now + Duration::from_secs(seconds);
        while self.now < deadline {
            self.step(false);
        }
    }

    fn raised(&mut self, ids: &[u64], level: u32) {
        let is_raised =
            |world: &World, id: u64| world.alive().contains(&MemberId(id)) && world.level(id) == Level(level);
        self.until("a raise", |world| ids.iter().all(|id| is_raised(world, *id)));
    }
}

#[test]
fn the_level_is_the_lowest_that_all_members_know_and_is_raised_after_the_last_upgrade() {
    let mut world = calm(3);
    world.leader();
    for id in [1, 2] {
        world.upgrade(id, 2);
        world.leader();
        world.wait(8);
        assert!([1, 2, 3].iter().all(|id| world.level(*id) == Level::FIRST), "3 knows none");
    }
    world.upgrade(3, 1);
    world.raised(&[1, 2, 3], 1);
    world.wait(5);
    assert_eq!(world.level(1), Level(1), "3 knows no more");
    world.upgrade(3, 3);
    world.raised(&[1, 2, 3], 2);
    world.verify();
}

#[test]
fn a_member_alone_raises_its_level_at_once_and_once() {
    let mut world = calm(1);
    world.upgrade(1, 2);
    world.raised(&[1], 2);
    let last = world.node(1).raft.status().last;
    world.wait(5);
    assert_eq!(world.node(1).raft.status().last, last, "nothing more is proposed");
}

#[test]
fn a_member_that_is_down_holds_the_level_until_it_is_removed() {
    let mut world = calm(3);
    (1..=3).for_each(|id| world.upgrade(id, if id == 3 { 0 } else { 1 }));
    world.leader();
    world.crash(MemberId(3));
    world.wait(8);
    assert!(world.level(1) == Level::FIRST && world.level(2) == Level::FIRST);
    let leader = world.leader();
    world.change(leader, removing(3)).unwrap();
    world.raised(&[1, 2], 1);
}

#[test]
fn what_was_heard_of_a_member_does_not_count_once_its_connection_was_lost() {
    let mut world = calm(3);
    (1..=3).for_each(|id| world.upgrade(id, if id == 3 { 0 } else { 1 }));
    let leader = world.leader();
    let question = own::LevelQuestion { level: 1 };
    let heard = |world: &World| world.node(leader).levels.heard.contains_key(&MemberId(3));
    let now = world.now;
    let leading = world.hosts.get_mut(&MemberId(leader)).unwrap().alive.as_mut().unwrap();
    leading.node.level_question(now, MemberId(3), question);
    assert!(heard(&world));
    world.input(MemberId(leader), Input::PeerLost { peer: MemberId(3), incarnation: Incarnation(1) });
    assert!(!heard(&world));
}

#[test]
fn a_learner_counts_and_one_that_joins_takes_the_level_with_the_state() {
    let mut world = calm(1);
    world.upgrade(1, 1);
    world.raised(&[1], 1);
    world.levels.insert(MemberId(2), Level(2));
    world.prepare(2);
    world.change(1, adding(2, true)).unwrap();
    world.raised(&[1, 2], 1);
    world.upgrade(1, 2);
    world.raised(&[1, 2], 2);
    world.prepare(3);
    let leader = world.leader();
    world.may_halt = true;
    world.change(leader, adding(3, false)).unwrap();
    world.until("it stops", |world| !world.halted.is_empty());
    let (who, why) = world.halted[0].clone();
    assert_eq!(who, MemberId(3));
    assert!(why.contains("level 2") && why.contains("up to 0 only"), "{why}");
    assert!(world.hosts[&who].state.is_empty(), "nothing was taken over");
}

#[test]
fn a_member_that_is_taken_back_too_late_halts_and_goes_on_with_the_newer_release() {
    let mut world = calm(3);
    (1..=3).for_each(|id| world.upgrade(id, 1));
    world.leader();
    // The entry comes while it is down, with a release that knows less.
    world.raised(&[1, 2], 1);
    world.crash(MemberId(3));
    world.levels.insert(MemberId(3), Level(0));
    world.may_halt = true;
    let host = &world.hosts[&MemberId(3)];
    let (raft, state) = (Arc::new(host.raft.clone()), Arc::new(host.state.clone()));
    let config = config_of(MemberId(3));
    let opening = Opening { meta: host.meta.clone(), raft, state, config, seed: Seed(1), now: world.now };
    match open(opening) {
        // It had applied the entry, durably.
        Err(Unopened::Member(Halt(why))) => assert!(why.contains("level 1"), "{why}"),
        Err(Unopened::State(halt)) => panic!("taken for rot: {halt}"),
        Ok(_) => {
            world.start(MemberId(3));
            world.until("it halts", |world| !world.halted.is_empty());
            assert!(world.halted[0].1.contains("level 1"), "{:?}", world.halted);
        }
    }
    world.levels.insert(MemberId(3), Level(1));
    world.start(MemberId(3));
    world.raised(&[1, 2, 3], 1);
    world.verify();
}

/// Members are upgraded one after another while they crash, lose messages and let go of their logs: at every entry they agree
/// (`World::turn` looks), and in the end all are where the lowest of them allows.
#[test]
fn clusters_are_upgraded_under_chance() {
    for seed in 1..=12 {
        let mut world = World::new(seed);
        let size = world.hosts.len() as u64;
        for round in 1..=2 {
            for id in 1..=size {
                for _ in 0..300 {
                    world.step(true);
                }
                let level = round + (mix(seed ^ mix(id)) % 2) as u32;
                world.levels.insert(MemberId(id), Level(level));
                world.crash(MemberId(id));
            }
        }
        world.verify();
        let lowest = world.levels.values().min().copied().unwrap();
        (world.loss, world.crash) = (0, 0);
        world.raised(&(1..=size).collect::<Vec<_>>(), lowest.0);
        world.verify();
    }
}

//! The log is cut at the bottom, and nobody misses what went.

use super::*;

const TINY: Retention = Retention { every: 12, keep_entries: 6, keep_bytes: 300_000, keep_bytes_max: u64::MAX };

/// A world of so many members that keep as little as this.
fn world(members: usize, retention: Retention) -> World {
    let mut world = (1..).map(World::new).find(|world| world.hosts.len() == members).unwrap();
    (world.loss, world.crash, world.disk, world.cuts) = (0, 0, 1, 0);
    for id in world.alive() {
        world.crash(id);
    }
    world.retention = retention;
    world.hosts.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| world.start(id));
    world
}

fn node(world: &World, id: MemberId) -> &Node {
    &world.hosts[&id].alive.as_ref().unwrap().node
}

/// Turns with clients at `id`, for so long.
fn work(world: &mut World, id: MemberId, time: Duration) {
    let until = world.now + time;
    while world.now < until {
        world.client(id);
        world.step(false);
    }
}

fn leader_of(world: &mut World) -> MemberId {
    loop {
        world.step(false);
        let leads = |id: &MemberId| node(world, *id).status().role == RoleName::Leader;
        if let Some(leader) = world.alive().into_iter().find(leads) {
            return leader;
        }
    }
}

#[test]
fn the_log_is_bounded_under_endless_writes_and_crashes() {
    let mut world = world(1, TINY);
    let id = leader_of(&mut world);
    let mut base = Index(0);
    for round in 0..12 {
        work(&mut world, id, Duration::from_secs(6));
        let status = node(&world, id).status();
        assert!(node(&world, id).raft().log_base().index > base, "round {round}: nothing went");
        base = node(&world, id).raft().log_base().index;
        let log = &world.hosts[&id].alive.as_ref().unwrap().log;
        assert!(log.base().index <= base && base <= status.applied);
        // A crash now keeps any part of what is not synced: what went must be in the state all the same.
        world.crash(id);
        world.start(id);
        assert!(node(&world, id).applied().index >= base, "round {round}");
        leader_of(&mut world);
    }
    // A last sync of the state, and a write that takes the log's last cut along.
    let until = world.now + Duration::from_secs(6);
    while world.now < until {
        world.step(false);
    }
    work(&mut world, id, Duration::from_secs(1));
    let (status, base) = (node(&world, id).status(), node(&world, id).raft().log_base().index);
    let kept = TINY.keep_entries + TINY.every;
    let since = node(&world, id).retained_since_sync();
    assert!(status.last.0 - base.0 <= kept + since, "{base}..={} of which {since} are not synced", status.last);
    let log = &world.hosts[&id].alive.as_ref().unwrap().log;
    assert!(base.0 - log.base().index.0 <= kept, "the disk follows: {} of {base}", log.base());
    world.verify();
}

#[test]
fn a_follower_that_was_away_a_short_while_goes_on_with_entries() {
    let mut world = world(3, TINY);
    let leader = leader_of(&mut world);
    work(&mut world, leader, Duration::from_secs(6));
    let away = world.alive().into_iter().find(|id| *id != leader).unwrap();
    let has = node(&world, away).raft().status().last.index;
    world.crash(away);
    work(&mut world, leader, Duration::from_secs(9));
    let base = node(&world, leader).raft().log_base().index;
    assert!(base <= has, "the follower has {has}, the leader's log begins after {base}");
    world.start(away);
    work(&mut world, leader, Duration::from_secs(2));
    assert!(node(&world, away).applied().index > Index(has.0 + 50), "it goes on");

    // One that stays away is not waited for.
    world.crash(away);
    work(&mut world, leader, Duration::from_secs(16));
    assert!(node(&world, leader).raft().log_base().index > Index(has.0 + 50));
}

#[test]
fn a_follower_that_holds_too_much_is_not_waited_for() {
    let mut world = world(3, Retention { keep_bytes_max: 100_000, ..TINY });
    let leader = leader_of(&mut world);
    work(&mut world, leader, Duration::from_secs(6));
    let away = world.alive().into_iter().find(|id| *id != leader).unwrap();
    let has = node(&world, away).raft().status().last.index;
    world.crash(away);
    work(&mut world, leader, Duration::from_secs(9));
    assert!(node(&world, leader).raft().log_base().index > has);
}

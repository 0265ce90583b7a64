//! Changes of the membership in whole clusters, with clients at work: from one member to five and back, the leader's own
//! removal, a replacement, learners, and what is refused.

use super::*;
use crate::machine::Standing;
use crate::raft::quorum::Configuration;
use own::{MemberChange, NewMember};
use std::collections::BTreeSet;

/// A world of so many members without harm.
pub(super) fn calm(size: usize) -> World {
    let mut world = (0..).map(World::new).find(|world| world.hosts.len() == size).unwrap();
    (world.loss, world.crash, world.disk, world.cuts) = (0, 0, 2, 0);
    world
}

fn url(id: u64) -> String {
    format!("http://n{id}:2380")
}

pub(super) fn adding(id: u64, learner: bool) -> MemberChange {
    let new = NewMember { id, peer_urls: vec![url(id)], learner };
    MemberChange { add: vec![new], ..MemberChange::default() }
}

pub(super) fn removing(id: u64) -> MemberChange {
    MemberChange { remove: vec![id], ..MemberChange::default() }
}

fn promoting(id: u64) -> MemberChange {
    MemberChange { promote: vec![id], ..MemberChange::default() }
}

impl World {
    pub(super) fn node(&self, id: u64) -> &Node {
        &self.hosts[&MemberId(id)].alive.as_ref().unwrap().node
    }

    /// A machine for a member that is to be added: it knows nobody, and is on.
    pub(super) fn prepare(&mut self, id: u64) {
        let members = Vec::new();
        let meta = Meta { cluster: ClusterId(7), member: MemberId(id), disk: DiskId(100 + id), members };
        let host = Host {
            meta,
            raft: MemoryEngine::new(),
            state: MemoryEngine::new(),
            staging: MemoryEngine::new(),
            alive: None,
        };
        self.hosts.insert(MemberId(id), host);
        self.start(MemberId(id));
    }

    fn ask(&mut self, at: u64, change: MemberChange) -> u64 {
        self.order += 1;
        let slot = at << 32 | self.order;
        self.changes.insert(slot, MemberId(at));
        self.input(MemberId(at), Input::Request(Slot(slot), Request::Change(change)));
        slot
    }

    /// Steps until something holds.
    pub(super) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut World) -> bool) {
        let deadline = self.now + Duration::from_secs(300);
        while !holds(self) {
            assert!(self.now < deadline, "{what}: never");
            self.step(false);
        }
    }

    /// What becomes of a change that is asked for at `at`.
    pub(super) fn change(&mut self, at: u64, change: MemberChange) -> Result<(), Refused> {
        let slot = self.ask(at, change);
        self.until("an answer", |world| world.changed.contains_key(&slot));
        match self.changed.remove(&slot).unwrap() {
            Ok(()) => {
                // Who has asked for its own removal may be gone by now.
                let asked = self.hosts.get(&MemberId(at)).and_then(|host| host.alive.as_ref());
                let is_over = asked.is_none_or(|alive| !alive.node.raft.committed_configuration().is_joint());
                assert!(is_over, "{slot} is answered before it is over");
                Ok(())
            }
            Err(Reply::Refused(refused)) => Err(refused),
            Err(other) => panic!("{other:?}"),
        }
    }

    pub(super) fn leader(&mut self) -> u64 {
        let leads = |world: &World| {
            let nodes = world.alive().into_iter().filter(|id| world.node(id.0).raft.is_leader());
            nodes.max_by_key(|id| world.node(id.0).raft.term()).map(|id| id.0)
        };
        self.until("a leader", |world| leads(world).is_some_and(|id| world.node(id).raft.status().commit > Index(0)));
        leads(self).unwrap()
    }

    /// The voters of the newest configuration that somebody has committed, and whether no change is under way.
    fn voters(&self) -> (BTreeSet<u64>, bool) {
        let all = self.alive().into_iter().map(|id| self.node(id.0).raft.committed_configuration());
        let known = all.filter(|configuration| !configuration.incoming().is_empty());
        let newest = known.max_by_key(|configuration| configuration.version());
        let Some(newest) = newest else { return (BTreeSet::new(), false) }; // who knows is down
        (newest.incoming().iter().map(|id| id.0).collect(), !newest.is_joint() && newest.learners().is_empty())
    }

    /// Asks anyone, as often as it takes, until these are the voters; clients are at work, and there may be harm.
    fn become_voters(&mut self, wanted: &[u64]) {
        let wanted: BTreeSet<u64> = wanted.iter().copied().collect();
        for id in &wanted {
            if !self.hosts.contains_key(&MemberId(*id)) {
                self.prepare(*id);
            }
        }
        let loss = self.loss;
        let (calm, deadline) = (self.now + Duration::from_secs(20), self.now + Duration::from_secs(300));
        while self.voters() != (wanted.clone(), true) {
            assert!(self.now < deadline, "{:?} never became {wanted:?}", self.voters());
            let harm = self.now < calm;
            self.step(harm);
            // Who crashes again and again never has taken over a state that grows meanwhile, and one that loses a third of
            // what is said to it takes minutes.
            self.loss = if harm { loss } else { 0 };
            let down = self.hosts.iter().filter(|(_, host)| !harm && host.alive.is_none());
            let down: Vec<MemberId> = down.map(|(id, _)| *id).collect();
            down.into_iter().for_each(|id| self.start(id));
            let alive = self.alive();
            let (voters, _) = self.voters();
            if voters.is_empty() {
                continue;
            }
            let is_new = |id: &&u64| !voters.contains(id) && !self.removed.contains(&MemberId(**id));
            let change = match (wanted.iter().find(is_new), voters.iter().find(|id| !wanted.contains(id))) {
                (Some(new), _) => adding(*new, false),
                (None, Some(old)) => removing(*old),
                (None, None) => continue,
            };
            if self.changes.is_empty() && self.chance(100) {
                let at = alive[self.rng.below(alive.len() as u64) as usize];
                self.ask(at.0, change);
            }
        }
        self.loss = loss;
        self.until("answers", |world| world.changes.is_empty());
        // One that was deaf for too long was not told: the others' doors are closed to it (`server/transport.rs`).
        let over: Vec<MemberId> = self.hosts.keys().filter(|id| !wanted.contains(&id.0)).copied().collect();
        for id in over {
            self.crash(id);
            self.hosts.remove(&id);
        }
    }
}

fn grow_and_shrink(seed: u64) -> usize {
    let mut world = (seed * 100..).map(World::new).find(|world| world.hosts.len() == 1).unwrap();
    world.disk = world.disk.min(10);
    // Who joins takes over a state, which takes for ever where much is lost.
    world.cuts = if world.loss + world.crash == 0 { world.cuts } else { 0 };
    for wanted in [&[1, 2, 3][..], &[1, 2, 3, 4, 5], &[2, 4, 5], &[2, 4, 6], &[6]] {
        world.become_voters(wanted);
        (0..200).for_each(|_| world.step(true));
    }
    world.verify();
    assert_eq!(world.alive(), [MemberId(6)]);
    world.acknowledged.len()
}

#[test]
fn a_cluster_grows_from_one_to_five_and_shrinks_to_another_one_under_chance() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("QUORATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("QUORATE_SEEDS").unwrap_or(6),
    };
    let mut acknowledged = 0;
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| grow_and_shrink(seed));
        acknowledged += outcome.unwrap_or_else(|_| panic!("seed {seed} breaks a law: QUORATE_SEED={seed}"));
    }
    println!("{acknowledged} acknowledged writes");
    assert!(acknowledged > 50);
}

#[test]
fn a_leader_that_is_removed_hands_over_and_stops() {
    for asked_at_leader in [true, false] {
        let mut world = calm(3);
        let leader = world.leader();
        let at = if asked_at_leader { leader } else { leader % 3 + 1 };
        world.until("all have published", |world| world.node(leader).view().members().iter().all(|m| m.is_started()));
        assert_eq!(world.change(at, removing(leader)), Ok(()));
        world.until("its end", |world| world.removed == [MemberId(leader)]);
        let next = world.leader();
        assert_ne!(next, leader);
        assert_eq!(world.node(next).view().members().len(), 2);
        assert!(world.node(next).view().is_gone(MemberId(leader)));
        assert_eq!(
            world.change(next, adding(leader, false)),
            Err(Refused::Change(ChangeRefused::MemberExists(MemberId(leader))))
        );
        (0..300).for_each(|_| world.step(true));
        world.verify();
    }
}

#[test]
fn a_member_that_is_removed_says_so_and_ends() {
    let mut world = calm(3);
    let leader = world.leader();
    let (other, gone) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    world.until("all have published", |world| world.node(leader).view().members().iter().all(|m| m.is_started()));
    let host = world.hosts.get_mut(&MemberId(gone)).unwrap();
    let (meta, raft, state) = (host.meta.clone(), host.raft.clone(), host.state.clone());
    assert_eq!(world.change(other, removing(gone)), Ok(()));
    world.until("its end", |world| world.removed == [MemberId(gone)]);
    // Its disks show the same, when it is started again.
    let (raft, state) = (Arc::new(raft), Arc::new(state));
    let opened = open(Opening { meta, raft, state, config: config_of(MemberId(gone)), seed: Seed(1), now: world.now });
    let mut node = opened.unwrap().node;
    if node.is_removed() {
        let halt = node.advance(world.now, &mut Vec::new()).unwrap_err();
        assert!(halt.0.contains("was removed from cluster"), "{halt}");
    }
    assert!(!node.raft.configuration().has_member(MemberId(gone)), "it does not campaign");
}

#[test]
fn a_member_is_replaced_under_its_address_in_one_change() {
    let mut world = calm(3);
    let leader = world.leader();
    let old = leader % 3 + 1;
    world.until("all have published", |world| world.node(leader).view().members().iter().all(|m| m.is_started()));
    world.crash(MemberId(old));
    world.hosts.remove(&MemberId(old));
    let new = NewMember { id: 9, peer_urls: vec![url(old)], learner: false };
    let change = MemberChange { add: vec![new.clone()], remove: vec![old], ..MemberChange::default() };
    assert_eq!(
        world.change(leader, MemberChange { remove: vec![], ..change.clone() }),
        Err(Refused::Change(ChangeRefused::PeerUrlsExist))
    );
    assert_eq!(world.change(leader, change), Ok(()));
    let standing =
        |world: &World| world.node(leader).view().members().into_iter().find(|m| m.id.0 == 9).unwrap().standing;
    assert_eq!(standing(&world), Standing::Joining);
    world.prepare(9);
    world.until("it votes", |world| standing(world) == Standing::Voter);
    let mut all: Vec<u64> = (1..=3).filter(|id| *id != old).chain([9]).collect();
    all.sort_unstable();
    let all: BTreeSet<u64> = all.into_iter().collect();
    world.until("the change is over", |world| world.voters() == (all.clone(), true));
    // One of the others may fail now: the new one counts.
    let other = (1..=3).find(|id| *id != old && *id != leader).unwrap();
    world.crash(MemberId(other));
    let before = world.acknowledged.len();
    while world.acknowledged.len() < before + 5 {
        world.step(false);
        world.client(MemberId(leader));
    }
}

#[test]
fn a_learner_votes_when_somebody_asks_for_it() {
    let mut world = calm(3);
    let leader = world.leader();
    let follower = leader % 3 + 1;
    let refused = |reason| Err(Refused::Change(reason));
    assert_eq!(world.change(follower, adding(8, true)), Ok(()));
    assert_eq!(world.change(follower, adding(9, true)), refused(ChangeRefused::TooManyLearners { most: 1 }));
    assert_eq!(world.change(leader, promoting(8)), refused(ChangeRefused::NotCaughtUp(MemberId(8))), "it never began");
    let stale = MemberChange { version: Some(0), ..removing(leader) };
    assert_eq!(world.change(follower, stale), refused(ChangeRefused::Version { current: 2 }));
    world.prepare(8);
    world.until("it has caught up", |world| {
        let (leader, now) = (world.node(leader), world.now);
        leader.raft.is_caught_up(now, MemberId(8)) && leader.view().members().iter().all(|m| m.is_started())
    });
    (0..500).for_each(|_| world.step(true));
    let standing =
        |world: &World| world.node(leader).view().members().into_iter().find(|m| m.id.0 == 8).unwrap().standing;
    assert_eq!(standing(&world), Standing::Learner, "nobody asked for more");
    assert_eq!(world.change(follower, adding(9, false)), Ok(()));
    world.prepare(9);
    world.until("who joins votes", |world| world.voters().0.contains(&9));
    assert_eq!(standing(&world), Standing::Learner, "nor when another one began to vote");
    assert_eq!(world.change(follower, promoting(leader)), refused(ChangeRefused::NotALearner(MemberId(leader))));
    assert_eq!(world.change(follower, promoting(77)), refused(ChangeRefused::MemberNotFound(MemberId(77))));
    assert_eq!(world.change(follower, promoting(8)), Ok(()));
    assert_eq!(standing(&world), Standing::Voter);
    assert_eq!(world.voters().0.len(), 5);
    world.verify();
}

#[test]
fn what_would_cost_the_quorum_is_refused_with_the_numbers() {
    let mut world = calm(3);
    let leader = world.leader();
    let (other, down) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let refused = |reason| Err(Refused::Change(reason));
    world.until("all have published", |world| world.node(leader).view().members().iter().all(|m| m.is_started()));
    world.crash(MemberId(down));
    let gone_quiet = world.now + config_of(MemberId(1)).election_timeout * 2;
    world.until("the leader knows", |world| world.now > gone_quiet);
    let leader = world.leader();
    let other = if leader == other { (1..=3).find(|id| *id != leader && *id != down).unwrap() } else { other };
    assert_eq!(
        world.change(leader, removing(other)),
        refused(ChangeRefused::Unreachable { reachable: 1, quorum: 2 }),
        "of the leader and the one that is down, one answers"
    );
    assert_eq!(world.change(other, removing(55)), refused(ChangeRefused::MemberNotFound(MemberId(55))));
    let stale = MemberChange { version: Some(5), ..removing(down) };
    assert_eq!(world.change(other, stale), refused(ChangeRefused::Version { current: 0 }));
    assert_eq!(world.change(other, MemberChange::default()), refused(ChangeRefused::Nothing));
    assert_eq!(world.change(leader, removing(down)), Ok(()), "what is down may be removed");
    let mut alone = calm(1);
    alone.leader();
    let nobody = ChangeRefused::NotEnoughStarted { started: 0, quorum: 1 };
    assert_eq!(alone.change(1, removing(1)), Err(Refused::Change(nobody)));
}

#[test]
fn a_member_that_never_started_is_added_twice_without_harm_and_counts_nowhere() {
    let mut world = calm(1);
    world.leader();
    for id in [2, 3, 4] {
        assert_eq!(world.change(1, adding(id, false)), Ok(()));
    }
    assert_eq!(world.voters(), (BTreeSet::from([1]), false));
    let taken =
        MemberChange { add: vec![NewMember { id: 9, peer_urls: vec![url(4)], learner: false }], ..Default::default() };
    assert_eq!(world.change(1, taken), Err(Refused::Change(ChangeRefused::PeerUrlsExist)));
    (0..300).for_each(|_| world.step(true));
    assert!(world.acknowledged.len() > 5, "one of four decides alone as long as the others never came");
}

/// The questions among the effects of one turn of `id`, held back; all else goes its way.
fn questions(world: &mut World, id: MemberId) -> Vec<Envelope> {
    let now = world.now;
    let mut effects = Vec::new();
    world.hosts.get_mut(&id).unwrap().alive.as_mut().unwrap().node.advance(now, &mut effects).unwrap();
    let mut held = Vec::new();
    for effect in effects {
        match effect {
            Effect::Send(envelope) if matches!(envelope.message, Message::Ask { .. }) => held.push(envelope),
            effect => world.effect(id, effect),
        }
    }
    held
}

#[test]
fn a_question_that_arrives_twice_makes_one_change() {
    let mut world = calm(3);
    let leader = world.leader();
    let follower = MemberId(leader % 3 + 1);
    world.until("all know the leader", |world| {
        world.alive().iter().all(|id| world.node(id.0).raft.leader() == Some(MemberId(leader)))
    });
    let slot = world.ask(follower.0, adding(8, false));
    let asked = questions(&mut world, follower);
    assert_eq!(asked.len(), 1);
    for _ in 0..3 {
        world.input(MemberId(leader), Input::Peer(asked[0].clone()));
        world.turn(MemberId(leader));
    }
    world.until("an answer", |world| world.changed.contains_key(&slot));
    world.input(MemberId(leader), Input::Peer(asked[0].clone()));
    (0..500).for_each(|_| world.step(false));
    assert!(matches!(world.changed[&slot], Ok(())));
    assert_eq!(world.node(leader).raft.configuration().version(), 2, "one joint configuration and one simple");
}

#[test]
fn a_lost_question_is_asked_again_and_a_lost_leadership_makes_it_uncertain() {
    let mut world = calm(3);
    let leader = world.leader();
    let follower = MemberId(leader % 3 + 1);
    world.until("all know the leader", |world| {
        world.alive().iter().all(|id| world.node(id.0).raft.leader() == Some(MemberId(leader)))
    });
    let slot = world.ask(follower.0, adding(8, false));
    assert_eq!(questions(&mut world, follower).len(), 1);
    let asked_again = world.now + Duration::from_millis(200);
    assert_eq!(world.node(follower.0).deadline().min(asked_again), world.node(follower.0).deadline());
    while world.now < asked_again {
        assert_eq!(questions(&mut world, follower).len(), 0);
        world.now = world.now + Duration::from_millis(50);
    }
    assert_eq!(questions(&mut world, follower).len(), 1, "nothing came for two heartbeats");
    world.crash(MemberId(leader));
    world.until("an answer", |world| world.changed.contains_key(&slot));
    assert!(matches!(world.changed[&slot], Err(Reply::Uncertain(Uncertain::LeaderLost))));
}

#[test]
fn who_is_removed_by_its_newest_configuration_campaigns_until_that_is_committed() {
    let founders = Configuration::new((1..=3).map(MemberId));
    let joint = founders.enter([MemberId(2), MemberId(3)], []);
    let entry = |index: u64, configuration: &Configuration| {
        let position = Position { index: Index(index), term: Term(4) };
        Entry::new(position, EntryKind::Configuration, RequestId::default(), configuration.encode(b""))
    };
    for known in [0, 1] {
        let mut member = ShortLog::open(MemoryEngine::new(), MemoryEngine::new());
        member.now = Time::from_millis(1);
        let entries = vec![entry(1, &joint), entry(2, &joint.leave())];
        let (prev, commit) = (Position::default(), Index(known));
        member.tell(4, Message::Append { session: 1, sequence: 1, prev, commit, entries });
        member.settle();
        assert!(!member.node.raft.configuration().has_member(MemberId(1)));
        assert!(member.campaigns(), "{known} of two entries are known to be committed");
    }
}

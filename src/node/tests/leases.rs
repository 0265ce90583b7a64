//! Leases on three members whose clocks, links and processes the test holds in its hands. Disks finish at once, messages
//! arrive at once; time passes in steps of [`STEP`].

use super::*;
use crate::node::lessor::{GRACE, LATELY};
use crate::proto::etcdserverpb::LeaseCheckpoint;
use own::command::Op as Command;

const STEP: Duration = Duration::from_millis(5);
/// Beyond the end of a lease's time: for the lessor to look, and to commit.
const SOON: Duration = Duration::from_millis(150);

struct Place {
    member: ShortLog,
    /// How much its clock is too fast, in percent.
    fast: u64,
    paused: bool,
    /// The log's disk does not finish.
    stuck: bool,
    writing: Vec<Ready>,
    inbox: Vec<Envelope>,
}

/// See the module's essay.
pub(super) struct Lab {
    now: Time,
    places: Vec<Option<Place>>,
    /// What is lost.
    lost: fn(&Envelope) -> bool,
    replies: BTreeMap<u64, Reply>,
    slots: u64,
    sent: Vec<Envelope>,
}

impl Place {
    /// As [`ShortLog::carry`], but for a disk that is stuck.
    fn carry(&mut self) -> Vec<Effect> {
        if !self.stuck {
            for ready in std::mem::take(&mut self.writing) {
                let done = self.member.log.persist(&[ready]).unwrap().unwrap();
                self.member.node.handle(self.member.now, Input::Persisted(done)).unwrap();
            }
            return self.member.carry();
        }
        let (writes, others) =
            self.member.advance().into_iter().partition::<Vec<_>, _>(|e| matches!(e, Effect::Persist(_)));
        self.writing.extend(writes.into_iter().filter_map(|effect| match effect {
            Effect::Persist(ready) => Some(ready),
            _ => None,
        }));
        others
    }
}

pub(super) fn id_of(place: usize) -> MemberId {
    MemberId(place as u64 + 1)
}

impl Lab {
    /// Members 1 to `size`, of whom one leads.
    pub(super) fn new(size: usize) -> Lab {
        let members: Vec<InitialMember> = (1..=size as u64)
            .map(|id| InitialMember { id: MemberId(id), name: String::new(), peer_urls: vec![] })
            .collect();
        let place = |place: usize| {
            let id = id_of(place);
            let meta = Meta { cluster: ClusterId(7), member: id, disk: DiskId(100 + id.0), members: members.clone() };
            let (raft, state) = (MemoryEngine::new(), MemoryEngine::new());
            let (raft_engine, state_engine) = (Arc::new(raft.clone()), Arc::new(state.clone()));
            let (config, seed) = (config_of(id), Seed(id.0));
            let opening = Opening { meta, raft: raft_engine, state: state_engine, config, seed, now: Time(0) };
            let Opened { node, log } = open(opening).unwrap();
            Some(Place {
                member: ShortLog { raft, state, node, log, now: Time(0) },
                fast: 0,
                paused: false,
                stuck: false,
                writing: Vec::new(),
                inbox: Vec::new(),
            })
        };
        let mut lab = Lab {
            now: Time(0),
            places: (0..size).map(place).collect(),
            lost: |_| false,
            replies: BTreeMap::new(),
            slots: 0,
            sent: Vec::new(),
        };
        lab.wait_for_leader(None);
        lab
    }

    pub(super) fn member(&self, place: usize) -> &ShortLog {
        &self.places[place].as_ref().unwrap().member
    }

    /// Everything that happens at this moment.
    fn settle(&mut self) {
        let mut busy = true;
        while std::mem::take(&mut busy) {
            for place in 0..self.places.len() {
                let runs = |place: &&mut Place| !place.paused && !place.member.is_over();
                let Some(this) = self.places[place].as_mut().filter(runs) else { continue };
                this.member.now = Time(self.now.0 + self.now.0 / 100 * this.fast);
                for envelope in std::mem::take(&mut this.inbox) {
                    this.member.node.handle(this.member.now, Input::Peer(envelope)).unwrap();
                }
                for effect in this.carry() {
                    match effect {
                        Effect::Reply(slot, reply) => {
                            let twice = self.replies.insert(slot.0, reply);
                            assert!(twice.is_none(), "{slot:?} is answered twice: {twice:?}");
                        }
                        Effect::Send(envelope) => {
                            busy = true;
                            self.sent.push(envelope.clone());
                            if (self.lost)(&envelope) {
                                continue;
                            }
                            if let Some(to) = &mut self.places[envelope.to.0 as usize - 1] {
                                to.inbox.push(envelope);
                            }
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            let has_mail = |place: &Place| !place.paused && !place.member.is_over() && !place.inbox.is_empty();
            busy &= self.places.iter().flatten().any(has_mail);
        }
    }

    pub(super) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = (self.now + STEP).min(end);
            self.settle();
        }
    }

    /// Lets time pass until this is so; how much that was.
    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&Lab) -> bool) -> Duration {
        let begun = self.now;
        self.settle();
        while !done(self) {
            assert!(self.now.since(begun) < Duration::from_secs(300), "{what} does not happen");
            self.pass(STEP);
        }
        self.now.since(begun)
    }

    /// Who leads and has applied an entry of its term.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |place: &usize| {
            let running = self.places[*place].as_ref().filter(|place| !place.paused);
            running.is_some_and(|place| {
                let raft = place.member.node.raft();
                raft.leads_from().is_some_and(|first| place.member.node.applied().index >= first)
            })
        };
        (0..self.places.len()).filter(leads).max_by_key(|place| self.member(*place).node.status().term)
    }

    fn wait_for_leader(&mut self, but: Option<usize>) -> usize {
        self.until("a leader", |lab| lab.leader().is_some_and(|leader| Some(leader) != but));
        self.pass(Duration::from_millis(300)); // it is known to all who are there
        self.leader().unwrap()
    }

    pub(super) fn follower(&self) -> usize {
        let leader = self.leader().unwrap();
        (0..self.places.len()).find(|place| *place != leader && self.places[*place].is_some()).unwrap()
    }

    pub(super) fn kill(&mut self, place: usize) {
        let life = self.member(place).node.identity().incarnation;
        self.places[place] = None;
        for other in self.places.iter_mut().flatten().filter(|other| !other.paused) {
            let lost = Input::PeerLost { peer: id_of(place), incarnation: life };
            other.member.node.handle(other.member.now, lost).unwrap();
        }
    }

    fn ask(&mut self, place: usize, request: Request) -> u64 {
        self.slots += 1;
        let this = self.places[place].as_mut().unwrap();
        this.member.node.handle(this.member.now, Input::Request(Slot(self.slots), request)).unwrap();
        self.slots
    }

    pub(super) fn propose(&mut self, place: usize, op: Command) -> u64 {
        let command = own::Command { op: Some(op) }.encode_to_vec().into();
        self.ask(place, Request::Propose { command, grows: true })
    }

    pub(super) fn reply(&mut self, slot: u64) -> Reply {
        self.until("an answer", |lab| lab.replies.contains_key(&slot));
        self.replies.remove(&slot).unwrap()
    }

    fn grant(&mut self, id: i64, ttl: i64) {
        let leader = self.leader().unwrap();
        let grant = self.propose(leader, Command::GrantLease(own::GrantLease { id, ttl }));
        let key = format!("key of {id}");
        let put = pb::PutRequest { key: key.into(), value: "v".into(), lease: id, ..Default::default() };
        let put = self.propose(leader, Command::Put(put));
        for slot in [grant, put] {
            let Reply::Applied { outcome, .. } = self.reply(slot) else { panic!("not applied") };
            outcome.unwrap();
        }
    }

    fn keep_alive(&mut self, place: usize, lease: i64) -> u64 {
        self.ask(place, Request::KeepAlive { lease })
    }

    fn time(&mut self, slot: u64) -> Option<TimeLeft> {
        match self.reply(slot) {
            Reply::Lease(time) => time,
            other => panic!("{other:?}"),
        }
    }

    fn left(&mut self, lease: i64) -> Option<Duration> {
        let leader = self.leader().unwrap();
        let slot = self.ask(leader, Request::TimeToLive { lease });
        self.time(slot).map(|time| time.left)
    }

    /// Whether the lease's key is there, as the leader has it.
    fn has_key(&self, id: i64) -> bool {
        let range = pb::RangeRequest { key: format!("key of {id}").into(), ..Default::default() };
        let leader = self.leader().expect("there is a leader");
        self.member(leader).node.view().range(&range).unwrap().count == 1
    }

    /// How long it takes until the key is gone.
    fn until_gone(&mut self, id: i64) -> Duration {
        self.until("the end of a lease", |lab| lab.leader().is_some() && !lab.has_key(id))
    }

    fn last(&self) -> Index {
        self.member(self.leader().unwrap()).node.status().last
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_lease_ends_when_its_time_is_over_and_not_before() {
    for size in [1, 3] {
        let mut lab = Lab::new(size);
        lab.grant(7, 4);
        let took = lab.until_gone(7);
        assert!((secs(4)..secs(4) + SOON).contains(&took), "{took:?}");
        assert_eq!(lab.left(7), None);
        let slot = lab.keep_alive(0, 7);
        assert_eq!(lab.time(slot), None);
        let expired: u64 = lab.places.iter().flatten().map(|place| place.member.node.status().leases.expired).sum();
        assert_eq!(expired, 1);
    }
}

#[test]
fn a_lease_that_is_kept_alive_through_any_member_stays_and_nothing_is_written() {
    let mut lab = Lab::new(3);
    lab.grant(7, 4);
    let last = lab.last();
    for round in 0..30 {
        lab.pass(Duration::from_millis(1300));
        let slot = lab.keep_alive(round % 3, 7);
        let time = lab.time(slot).expect("it lives");
        assert_eq!((time.granted, time.left), (4, secs(4)));
    }
    assert_eq!(lab.last(), last, "a renewal is no entry");
    let took = lab.until_gone(7);
    assert!((secs(4)..secs(4) + SOON).contains(&took), "{took:?}");
}

#[test]
fn a_revoke_or_an_unknown_lease_is_told_by_any_member() {
    let mut lab = Lab::new(3);
    lab.grant(7, 60);
    let (leader, follower) = (lab.leader().unwrap(), lab.follower());
    let revoke = lab.propose(follower, Command::RevokeLease(own::RevokeLease { id: 7, term: 0, known: 0 }));
    assert!(matches!(lab.reply(revoke), Reply::Applied { outcome: Ok(_), .. }));
    for (place, lease) in [(leader, 7), (follower, 7), (follower, 8)] {
        let asked = [lab.keep_alive(place, lease), lab.ask(place, Request::TimeToLive { lease })];
        assert_eq!(asked.map(|slot| lab.time(slot)), [None, None]);
    }
    assert!(!lab.has_key(7));
}

#[test]
fn a_leader_that_is_cut_off_renews_nothing() {
    let mut lab = Lab::new(3);
    lab.grant(7, 4);
    let (leader, follower) = (lab.leader().unwrap(), lab.follower());
    // Nobody answers it any more, and it does not know that yet.
    lab.lost = |envelope| matches!(envelope.message, Message::HeartbeatReply { .. } | Message::Appended { .. });
    let slots = [lab.keep_alive(leader, 7), lab.keep_alive(follower, 7)];
    lab.pass(Duration::from_millis(800));
    assert!(lab.replies.is_empty(), "{:?}", lab.replies);
    lab.lost = |_| false;
    assert!(slots.map(|slot| lab.time(slot)).iter().all(Option::is_some));
}

#[test]
fn who_has_led_lately_renews_without_a_round_and_says_nothing_else_without_one() {
    let mut lab = Lab::new(3);
    lab.grant(7, 4);
    let leader = lab.leader().unwrap();
    let slot = lab.keep_alive(leader, 7);
    assert!(lab.time(slot).is_some());
    lab.lost = |envelope| matches!(envelope.message, Message::HeartbeatReply { .. } | Message::Appended { .. });
    let (known, unknown) = (lab.keep_alive(leader, 7), lab.keep_alive(leader, 8));
    let told = lab.ask(leader, Request::TimeToLive { lease: 7 });
    lab.pass(LATELY * 3 / 4);
    assert_eq!(lab.replies.keys().copied().collect::<Vec<_>>(), [known]);
    assert!(lab.time(known).is_some());
    lab.pass(LATELY);
    let late = lab.keep_alive(leader, 7);
    lab.pass(LATELY);
    assert!(lab.replies.is_empty(), "{:?}", lab.replies);
    lab.lost = |_| false;
    assert!(lab.time(late).is_some() && lab.time(told).is_some());
    assert_eq!(lab.time(unknown), None);
}

/// Another leader may have committed the revoke, and granted the same id again.
#[test]
fn that_a_lease_went_while_its_keepalive_waited_is_said_after_a_round_only() {
    let mut lab = Lab::new(3);
    lab.grant(7, 100);
    let leader = lab.leader().unwrap();
    lab.pass(secs(52));
    let told = lab.ask(leader, Request::TimeToLive { lease: 7 });
    assert!(lab.time(told).is_some());
    // A renewal would have to wait until the lease is written down as whole again, and its revoke comes before that.
    lab.lost = |envelope| matches!(envelope.message, Message::HeartbeatReply { .. });
    let revoke = lab.propose(leader, Command::RevokeLease(own::RevokeLease { id: 7, term: 0, known: 0 }));
    let slot = lab.keep_alive(leader, 7);
    assert!(matches!(lab.reply(revoke), Reply::Applied { outcome: Ok(_), .. }));
    lab.pass(LATELY);
    assert!(lab.replies.is_empty(), "{:?}", lab.replies);
    lab.lost = |_| false;
    assert_eq!(lab.time(slot), None);
}

/// It steps down in the middle of a turn in which a round was confirmed that it began for others.
#[test]
fn a_leader_that_is_removed_answers_for_no_lease_in_its_last_turn() {
    for after in 1..3 {
        let mut lab = Lab::new(3);
        lab.grant(7, 100);
        let leader = lab.leader().unwrap();
        let removal = Request::Change(super::changes::removing(leader as u64 + 1));
        let (_, told) = (lab.ask(leader, removal), lab.ask((leader + after) % 3, Request::TimeToLive { lease: 7 }));
        assert!(lab.time(told).is_some());
        lab.until("its end", |lab| lab.member(leader).is_over());
    }
}

#[test]
fn a_lease_outlives_a_killed_leader_with_all_that_was_promised() {
    let mut lab = Lab::new(3);
    lab.grant(7, 4);
    lab.pass(secs(3));
    let leader = lab.leader().unwrap();
    let slot = lab.keep_alive(leader, 7);
    assert!(lab.time(slot).is_some());
    let renewed = lab.now;
    lab.pass(secs(3));
    lab.kill(leader);
    lab.until("a leader", |lab| lab.leader().is_some());
    let elected = lab.now;
    assert_eq!(lab.left(7), Some(secs(4)));
    lab.until_gone(7);
    assert!(lab.now.since(renewed) > secs(4));
    assert!(lab.now.since(elected) < secs(4) + GRACE + SOON, "{:?}", lab.now.since(elected));
}

/// T110, and script 28 of the checklist.
#[test]
fn a_leader_that_slept_ends_nothing_that_was_renewed_meanwhile() {
    let mut lab = Lab::new(3);
    lab.grant(7, 2);
    let slept = lab.leader().unwrap();
    lab.places[slept].as_mut().unwrap().paused = true;
    let awake = lab.wait_for_leader(Some(slept));
    for _ in 0..10 {
        let slot = lab.keep_alive(awake, 7);
        assert!(lab.time(slot).is_some());
        lab.pass(Duration::from_millis(500));
    }
    lab.places[slept].as_mut().unwrap().paused = false;
    for _ in 0..10 {
        let slot = lab.keep_alive(awake, 7);
        assert!(lab.time(slot).is_some());
        lab.pass(Duration::from_millis(500));
        assert!(lab.has_key(7));
    }
    lab.until_gone(7);
}

#[test]
fn a_short_sleep_of_the_leader_ends_a_lease_in_time_and_once() {
    let mut lab = Lab::new(1);
    lab.grant(7, 2);
    lab.places[0].as_mut().unwrap().paused = true;
    lab.pass(secs(5));
    lab.places[0].as_mut().unwrap().paused = false;
    assert!(lab.until_gone(7) <= STEP, "nobody renewed it, and its time is over");
}

#[test]
fn what_is_left_is_written_down_by_halves_and_survives_the_leader() {
    let mut lab = Lab::new(3);
    lab.grant(7, 100);
    let last = lab.last();
    lab.pass(secs(49));
    assert_eq!(lab.last(), last);
    lab.pass(secs(2));
    assert_eq!(lab.last(), last.next(), "half of it is over");
    lab.pass(secs(20));
    let leader = lab.leader().unwrap();
    lab.kill(leader);
    lab.until("a leader", |lab| lab.leader().is_some());
    let left = lab.left(7).unwrap();
    assert!((secs(29)..=secs(50) + GRACE).contains(&left), "{left:?}");
    let took = lab.until_gone(7);
    assert!(took <= left + SOON, "{took:?}");
}

#[test]
fn a_renewal_after_that_is_answered_when_it_is_written_down_as_whole() {
    let mut lab = Lab::new(3);
    lab.grant(7, 100);
    lab.pass(secs(52));
    let (leader, follower) = (lab.leader().unwrap(), lab.follower());
    assert_eq!(lab.member(leader).node.view().lease(7).unwrap().time.remaining, 50);
    // Heartbeats pass and confirm; nothing is committed.
    lab.lost = |envelope| matches!(envelope.message, Message::Append { .. });
    let slots = [lab.keep_alive(leader, 7), lab.keep_alive(follower, 7)];
    lab.pass(Duration::from_millis(800));
    assert!(lab.replies.is_empty(), "{:?}", lab.replies);
    lab.lost = |_| false;
    lab.until("both answers", |lab| lab.replies.len() == 2);
    assert_eq!(slots.map(|slot| lab.time(slot).unwrap().granted), [100, 100]);
    let last = lab.last();
    lab.kill(leader);
    lab.until("a leader", |lab| lab.leader().is_some());
    assert_eq!(lab.left(7), Some(secs(100)));
    assert_eq!(lab.last(), last.next(), "the new leader's own, and no more");
}

#[test]
fn a_keepalive_that_finds_a_revoke_on_its_way_waits_for_the_outcome() {
    let mut lab = Lab::new(3);
    lab.grant(7, 4);
    let (leader, follower) = (lab.leader().unwrap(), lab.follower());
    lab.pass(Duration::from_millis(3900));
    lab.lost = |envelope| matches!(envelope.message, Message::Append { .. });
    lab.pass(Duration::from_millis(300));
    let slots = [lab.keep_alive(leader, 7), lab.keep_alive(follower, 7)];
    lab.pass(Duration::from_millis(500));
    assert!(lab.replies.is_empty() && lab.has_key(7), "{:?}", lab.replies);
    let slot = lab.ask(follower, Request::TimeToLive { lease: 7 });
    assert_eq!(lab.time(slot).unwrap().left, Duration::ZERO);
    lab.lost = |_| false;
    assert_eq!(slots.map(|slot| lab.time(slot)), [None, None]);
    assert!(!lab.has_key(7));
}

#[test]
fn a_keepalive_whose_leader_dies_is_answered_by_the_next_one() {
    let mut lab = Lab::new(3);
    lab.grant(7, 4);
    lab.pass(Duration::from_millis(3900));
    let (leader, follower) = (lab.leader().unwrap(), lab.follower());
    lab.lost = |envelope| matches!(envelope.message, Message::Append { .. } | Message::Appended { .. });
    lab.pass(Duration::from_millis(300));
    let slot = lab.keep_alive(follower, 7);
    lab.pass(Duration::from_millis(300));
    assert!(lab.replies.is_empty(), "a revoke is on its way");
    lab.kill(leader);
    lab.lost = |_| false;
    assert_eq!(lab.time(slot).map(|time| time.granted), Some(4), "that revoke was lost with its leader");
    assert!(lab.has_key(7));
}

#[test]
fn a_keepalive_in_time_keeps_a_lease_whose_time_ends_while_it_is_confirmed() {
    let mut lab = Lab::new(3);
    lab.grant(7, 4);
    lab.pass(Duration::from_millis(3900));
    let follower = lab.follower();
    lab.lost = |envelope| matches!(envelope.message, Message::HeartbeatReply { .. });
    let slot = lab.keep_alive(follower, 7);
    lab.pass(Duration::from_millis(400));
    lab.lost = |_| false;
    assert!(lab.time(slot).is_some());
}

#[test]
fn lost_questions_and_answers_are_asked_again_and_nothing_is_answered_twice() {
    for lost in
        [(|envelope: &Envelope| matches!(envelope.message, Message::Ask { .. })) as fn(&Envelope) -> bool, |envelope| {
            matches!(envelope.message, Message::Answer { .. })
        }]
    {
        let mut lab = Lab::new(3);
        lab.grant(7, 4);
        let follower = lab.follower();
        lab.lost = lost;
        let slots = [lab.keep_alive(follower, 7), lab.keep_alive(follower, 7), lab.keep_alive(follower, 8)];
        lab.pass(Duration::from_millis(500));
        assert!(lab.replies.is_empty(), "{:?}", lab.replies);
        lab.lost = |_| false;
        let took = lab.until("answers", |lab| lab.replies.len() == 3);
        assert!(took <= config_of(MemberId(1)).heartbeat_interval * 2 + STEP, "{took:?}");
        assert_eq!(slots.map(|slot| lab.time(slot).is_some()), [true, true, false]);
        lab.pass(secs(1)); // copies still arrive
    }
}

#[test]
fn without_a_leader_a_keepalive_is_refused_in_time() {
    let mut lab = Lab::new(3);
    lab.grant(7, 60);
    let (leader, follower) = (lab.leader().unwrap(), lab.follower());
    let gone = lab.keep_alive(follower, 7);
    lab.places[follower].as_mut().unwrap().member.node.handle(Time(0), Input::Cancel(Slot(gone))).unwrap();
    lab.kill(leader);
    lab.kill((0..3).find(|place| *place != leader && *place != follower).unwrap());
    let slot = lab.keep_alive(follower, 7);
    let begun = lab.now;
    let reply = lab.reply(slot);
    let patience = config_of(MemberId(1)).election_timeout * 3;
    assert!(matches!(reply, Reply::Refused(Refused::NoLeader)), "{reply:?}");
    assert!((patience..patience + STEP * 2).contains(&lab.now.since(begun)));
    assert!(lab.replies.is_empty(), "who has gone is not answered");
}

#[test]
fn a_fast_clock_ends_a_lease_early_by_its_own_error_and_no_more() {
    let mut lab = Lab::new(3);
    let leader = lab.leader().unwrap();
    lab.places.iter_mut().flatten().for_each(|place| place.fast = 10);
    lab.settle();
    let leader = lab.leader().unwrap_or(leader);
    assert_eq!(lab.leader(), Some(leader));
    lab.grant(7, 22);
    let took = lab.until_gone(7);
    assert!((secs(20)..secs(20) + SOON).contains(&took), "{took:?}");
}

#[test]
fn what_a_leader_proposes_of_a_lease_does_nothing_to_a_later_one_of_the_same_id() {
    let mut lab = Lab::new(3);
    lab.grant(7, 4);
    lab.grant(8, 40);
    let leader = lab.leader().unwrap();
    lab.pass(Duration::from_millis(3900));
    lab.lost = |envelope| matches!(envelope.message, Message::Append { .. });
    // Both are given back and granted again, in entries that nobody has applied when the first one's time is over.
    for id in [7, 8] {
        lab.propose(leader, Command::RevokeLease(own::RevokeLease { id, term: 0, known: 0 }));
        lab.propose(leader, Command::GrantLease(own::GrantLease { id, ttl: 60 }));
    }
    let known = lab.member(leader).node.applied().index.0;
    let leases = vec![LeaseCheckpoint { id: 8, remaining_ttl: 1 }];
    lab.propose(leader, Command::CheckpointLeases(own::CheckpointLeases { leases, known }));
    lab.pass(Duration::from_millis(300));
    lab.lost = |_| false;
    lab.pass(Duration::from_millis(500));
    assert!(lab.left(7).is_some_and(|left| left > secs(58)), "{:?}", lab.left(7));
    lab.kill(leader);
    lab.until("a leader", |lab| lab.leader().is_some());
    assert_eq!(lab.left(8), Some(secs(60)));
}

#[test]
fn a_follower_that_becomes_the_leader_answers_its_own_callers() {
    let mut lab = Lab::new(3);
    lab.grant(7, 60);
    let leader = lab.leader().unwrap();
    lab.lost = |envelope| matches!(envelope.message, Message::Ask { .. });
    let slots: Vec<u64> = (0..3).filter(|place| *place != leader).map(|place| lab.keep_alive(place, 7)).collect();
    lab.pass(Duration::from_millis(100));
    lab.kill(leader);
    lab.lost = |_| false;
    for slot in slots {
        assert_eq!(lab.time(slot).map(|time| time.granted), Some(60));
    }
}

#[test]
fn answers_to_other_questions_are_not_heard() {
    let (mut member, _) = follower();
    member.node.handle(member.now, Input::Request(Slot(1), Request::KeepAlive { lease: 7 })).unwrap();
    let context = member.carry().iter().find_map(|effect| match effect {
        Effect::Send(Envelope { message: Message::Ask { context, .. }, .. }) => Some(*context),
        _ => None,
    });
    let context = context.expect("the leader is asked");
    let time = |id| vec![own::LeaseTime { id, granted_ttl: 60, left_ms: 60_000 }];
    let answer = |answer| own::LeaderAnswer { answer: Some(own::leader_answer::Answer::Lease(answer)) };
    let kept = |id| answer(own::LeaseAnswer { kept_alive: time(id), time_to_live: vec![] }).encode_to_vec().into();
    let told = answer(own::LeaseAnswer { kept_alive: vec![], time_to_live: time(7) }).encode_to_vec().into();
    let garbage = Bytes::from_static(b"\xff\xff");
    for (context, answer) in
        [(context - 1, kept(7)), (context + 1, kept(7)), (context, kept(8)), (context, told), (context, garbage)]
    {
        member.tell(4, Message::Answer { context, answer });
        let effects = member.carry();
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Reply(..))), "{effects:?}");
    }
    // Nor is one of a former leader.
    member.tell(3, Message::Answer { context, answer: kept(7) });
    assert!(!member.carry().iter().any(|effect| matches!(effect, Effect::Reply(..))));
    member.tell(4, Message::Answer { context, answer: kept(7) });
    assert!(member.carry().iter().any(|effect| matches!(effect, Effect::Reply(Slot(1), Reply::Lease(Some(_))))));
    // A former life's contexts are none of this life's.
    let mut member = member.restart();
    member.now = Time::from_millis(1);
    member.tell(4, Message::Heartbeat { session: 1, sequence: 0, commit: Index(0), round: 0 });
    member.carry();
    member.node.handle(member.now, Input::Request(Slot(1), Request::KeepAlive { lease: 7 })).unwrap();
    member.carry();
    member.tell(4, Message::Answer { context, answer: kept(7) });
    assert!(!member.carry().iter().any(|effect| matches!(effect, Effect::Reply(..))));
}

#[test]
fn a_hundred_thousand_leases_are_renewed_without_an_entry_and_end_without_a_jam() {
    const LEASES: i64 = 100_000;
    let mut lab = Lab::new(3);
    let (leader, follower) = (lab.leader().unwrap(), lab.follower());
    for id in 1..=LEASES {
        lab.propose(leader, Command::GrantLease(own::GrantLease { id, ttl: 60 }));
    }
    lab.until("the grants", |lab| lab.replies.len() == LEASES as usize);
    let granted = lab.now;
    let last = lab.last();
    for storm in [leader, follower] {
        lab.replies.clear();
        lab.pass(secs(20));
        lab.sent.clear();
        for id in 1..=LEASES {
            lab.keep_alive(storm, id);
        }
        let took = lab.until("the renewals", |lab| lab.replies.len() == LEASES as usize);
        assert!(lab.replies.values().all(|reply| matches!(reply, Reply::Lease(Some(_)))));
        // In one round, and for the follower's in as many questions and answers as it takes to keep them small.
        let about_leases =
            |envelope: &&Envelope| matches!(envelope.message, Message::Ask { .. } | Message::Answer { .. });
        let messages = lab.sent.iter().filter(about_leases).count();
        assert!(messages <= 2 * (LEASES as usize).div_ceil(4096), "{messages} messages");
        assert!(took <= Duration::from_millis(200), "{took:?}");
        assert_eq!(lab.last(), last, "a renewal is no entry");
    }
    lab.pass(secs(58));
    assert_eq!(lab.member(leader).node.view().leases().len(), LEASES as usize, "{:?}", lab.now.since(granted));
    let ended = |lab: &Lab| lab.member(leader).node.status().leases.expired == LEASES as u64;
    let took = lab.until("the end of all", ended);
    assert!(lab.member(leader).node.view().leases().is_empty());
    assert!(took <= secs(5), "{took:?}");
}

#[test]
fn a_revoke_that_is_refused_is_proposed_again() {
    let mut lab = Lab::new(3);
    lab.grant(7, 4);
    let (leader, follower) = (lab.leader().unwrap(), lab.follower());
    lab.pass(Duration::from_millis(3900));
    // Leadership is on its way elsewhere, where it never arrives.
    lab.lost = |envelope| matches!(envelope.message, Message::TimeoutNow);
    let transfer = lab.ask(leader, Request::Transfer(Some(id_of(follower))));
    let took = lab.until_gone(7);
    let given_up = config_of(id_of(leader)).election_timeout;
    assert!(took > given_up && took < given_up * 2, "{took:?}");
    assert_eq!(lab.leader(), Some(leader));
    lab.reply(transfer);
}

#[test]
fn a_keepalive_waits_until_the_leader_knows_the_lease() {
    let mut lab = Lab::new(3);
    let (leader, follower) = (lab.leader().unwrap(), lab.follower());
    // The grant is committed by the followers' disks; the leader's own has not written it.
    let grant = lab.propose(leader, Command::GrantLease(own::GrantLease { id: 7, ttl: 60 }));
    lab.places[leader].as_mut().unwrap().stuck = true;
    lab.settle();
    let committed = |lab: &Lab, place| lab.member(place).node.view().lease(7).is_some();
    lab.pass(Duration::from_millis(300));
    assert!(committed(&lab, follower) && !committed(&lab, leader));
    let slots = [lab.keep_alive(leader, 7), lab.keep_alive(follower, 7)];
    lab.pass(Duration::from_millis(300));
    assert!(lab.replies.is_empty(), "{:?}", lab.replies);
    lab.places[leader].as_mut().unwrap().stuck = false;
    assert_eq!(slots.map(|slot| lab.time(slot).map(|time| time.granted)), [Some(60), Some(60)]);
    lab.reply(grant);
}

#[test]
fn a_leader_that_leads_again_begins_anew() {
    let mut lab = Lab::new(3);
    lab.grant(7, 4);
    let (first, second) = (lab.leader().unwrap(), lab.follower());
    let transfer = lab.ask(first, Request::Transfer(Some(id_of(second))));
    assert!(matches!(lab.reply(transfer), Reply::Transferred));
    for _ in 0..6 {
        lab.pass(secs(1));
        let slot = lab.keep_alive(second, 7);
        assert!(lab.time(slot).is_some());
    }
    assert_eq!(lab.leader(), Some(second));
    let transfer = lab.ask(second, Request::Transfer(Some(id_of(first))));
    assert!(matches!(lab.reply(transfer), Reply::Transferred));
    lab.until("it leads again", |lab| lab.leader() == Some(first));
    assert_eq!(lab.left(7), Some(secs(4)));
    lab.pass(secs(3));
    assert!(lab.has_key(7));
    lab.until_gone(7);
}

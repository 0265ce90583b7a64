//! Keepalives and questions about leases, from a caller at any member to the leader's lessor and back.
//!
//! ```text
//!   callers ──► open ──► fresh ──► the leader itself: ───────────────────► gathered ──► a read round ──► decided ──► answers
//!                          └─────► a follower: asked ──► Ask ──► Ask ──►───────┘                        │   ▲
//!                                     ▲                                                                 └─ held: a command
//!                                     └───────────────────────── Answer ◄─────── (to a peer)               must be applied
//! ```
//!
//! All that arrives at the leader in a turn joins one round, so a storm of renewals costs rounds, not messages; all that
//! arrives at a follower in a turn goes to the leader in one Ask, and comes back in one Answer or a few.
//!
//! A round says two things when it has come back and its index is applied: this member led after the callers had asked, so no
//! later leader has begun to measure before that; and it knows every lease that was granted before they asked. What it says
//! of a lease that it has stays good for a little while: as long as the newest round began lately, such a lease is renewed without
//! one, and what that means is told in `lessor.rs`. That there is no such lease, and what is left of one, is never said
//! without a round.
//!
//! # What is lost
//!
//! Nothing is changed for ever by a renewal that nobody heard of, so a follower simply asks again: when nothing came for
//! some heartbeats, and when the leader changes. It asks under the same context, for an answer to any copy was decided after
//! the callers had asked. Contexts begin in a range of the life's own, so no answer to a former life is taken for one.
//! When leadership ends, everything that was gathered, held or in a round is forgotten: the peers ask the next leader, and
//! the callers of this member do so through it.
//!
//! # Invariants
//!
//! 1. Each caller is answered once, in time, by what the lessor said or with the reason why nobody said anything.
//! 2. The lessor is there only while this member leads, has applied the first entry of its term, and does not know that its
//!    state is wrong.
//! 3. Commands of the lessor are appended here and now, in the term that they name, or not at all.

use super::input::{Refused, Reply, Slot, TimeLeft, Uncertain};
use super::lessor::{LATELY, Lessor, Renewal};
use super::node::Node;
use crate::ids::{Incarnation, Index, MemberId, RequestId, Term};
use crate::machine::{LeaseChange, LeaseTime};
use crate::proto::etcdserverpb::LeaseCheckpoint;
use crate::proto::quorate as own;
use crate::time::{Duration, Time};
use own::command::Op;
use own::{leader_answer::Answer, leader_question::Question};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};

/// Asks that wait for an answer at once: what comes meanwhile is asked together.
const ASKS_MAX: usize = 16;
/// Wishes in one Ask: far below what fits into a frame.
const WISHES_MAX: usize = 4096;

/// What was done to leases, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// Granted, as applied here.
    pub granted: u64,
    /// Gone, as applied here.
    pub revoked: u64,
    /// Renewed by this member as the leader.
    pub renewed: u64,
    /// Ended by this member as the leader, because their time was over.
    pub expired: u64,
    /// Of those granted, by the bits of their time to live: at `i` those of at most 2^i seconds and more than half of that;
    /// all longer ones are in the last.
    pub ttls: [u64; 25],
    /// Their times to live together, in seconds.
    pub ttl_sum: u64,
}

impl LeaseCounts {
    fn granted(&mut self, time: LeaseTime) {
        let ttl = u64::try_from(time.ttl).unwrap_or(0);
        let bits = ttl.max(1).next_power_of_two().trailing_zeros() as usize;
        self.granted += 1;
        self.ttls[bits.min(self.ttls.len() - 1)] += 1;
        self.ttl_sum = self.ttl_sum.saturating_add(ttl);
    }
}

/// What a caller wants of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    KeepAlive(i64),
    TimeToLive(i64),
}

/// Who wants it, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asker {
    /// A caller of this member, by number.
    Caller(u64),
    /// A peer, under its context.
    Peer(MemberId, u64),
}

#[derive(Debug)]
struct Open {
    slot: Slot,
    wish: Wish,
    since: Time,
}

/// What the leader was asked, and who waits for it.
#[derive(Debug)]
struct Asked {
    wishes: BTreeMap<Wish, Vec<u64>>,
    again_at: Time,
}

/// A read round, and what it is for.
#[derive(Debug)]
struct Round {
    /// Once confirmed: what must be applied.
    index: Option<Index>,
    wishes: Vec<(Wish, Asker)>,
}

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Leases {
    lessor: Option<Lessor>,
    counts: LeaseCounts,
    /// Callers that wait, by number: the oldest stand first.
    open: BTreeMap<u64, Open>,
    by_slot: BTreeMap<Slot, u64>,
    callers: u64,
    /// Those of whom the leader does not know yet.
    fresh: Vec<u64>,
    /// The leadership that knows of the others.
    leadership: Option<(Term, MemberId)>,
    /// Follower: by context.
    asked: BTreeMap<u64, Asked>,
    contexts: u64,
    /// Leader: for the next round.
    gathered: Vec<(Wish, Asker)>,
    rounds: BTreeMap<u64, Round>,
    /// Keepalives that wait for a command about their lease.
    held: BTreeMap<i64, BTreeSet<Asker>>,
    answers: BTreeMap<(MemberId, u64), own::LeaseAnswer>,
}

impl Leases {
    pub(super) fn new(incarnation: Incarnation) -> Leases {
        Leases {
            lessor: None,
            counts: LeaseCounts::default(),
            open: BTreeMap::new(),
            by_slot: BTreeMap::new(),
            callers: 0,
            fresh: Vec::new(),
            leadership: None,
            asked: BTreeMap::new(),
            contexts: incarnation.first_number(),
            gathered: Vec::new(),
            rounds: BTreeMap::new(),
            held: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    /// A caller asks.
    pub(super) fn ask(&mut self, now: Time, slot: Slot, wish: Wish) {
        self.callers += 1;
        self.open.insert(self.callers, Open { slot, wish, since: now });
        self.by_slot.insert(slot, self.callers);
        self.fresh.push(self.callers);
    }

    /// The caller has gone.
    pub(super) fn cancel(&mut self, slot: Slot) {
        if let Some(number) = self.by_slot.remove(&slot) {
            self.open.remove(&number);
        }
    }

    /// When the oldest caller asked.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.open.values().next().map(|open| open.since)
    }

    /// Answers those who asked before `oldest`.
    pub(super) fn expire(&mut self, oldest: Time, leader_known: bool, replies: &mut Vec<(Slot, Reply)>) {
        while let Some(first) = self.open.first_entry().filter(|entry| entry.get().since < oldest) {
            let slot = first.remove().slot;
            self.by_slot.remove(&slot);
            let why = match leader_known {
                true => Reply::Uncertain(Uncertain::TimedOut),
                false => Reply::Refused(Refused::NoLeader),
            };
            replies.push((slot, why));
        }
    }

    /// When there is something to do, beside the callers' patience.
    pub(super) fn deadline(&self) -> Time {
        let again = self.asked.values().map(|asked| asked.again_at).min().unwrap_or(Time::NEVER);
        self.lessor.as_ref().map_or(again, |lessor| lessor.deadline().min(again))
    }

    /// What was done to leases.
    pub(super) fn counts(&self) -> &LeaseCounts {
        &self.counts
    }

    /// Another leadership, or none: whoever was asked does not answer any more.
    fn start_over(&mut self, leadership: Option<(Term, MemberId)>) -> Vec<u64> {
        self.leadership = leadership;
        self.lessor = None;
        self.asked.clear();
        self.gathered.clear();
        self.held.clear();
        self.answers.clear();
        self.fresh = self.open.keys().copied().collect();
        std::mem::take(&mut self.rounds).into_keys().collect()
    }

    /// The wishes of callers who still wait, out of those of whom the leader does not know.
    fn take_fresh(&mut self, most: usize) -> Vec<(Wish, u64)> {
        let fresh = self.fresh.drain(..most.min(self.fresh.len()));
        fresh.filter_map(|number| Some((self.open.get(&number)?.wish, number))).collect()
    }

    fn answer_caller(&mut self, number: u64, time: Option<TimeLeft>, replies: &mut Vec<(Slot, Reply)>) {
        if let Some(Open { slot, .. }) = self.open.remove(&number) {
            self.by_slot.remove(&slot);
            replies.push((slot, Reply::Lease(time)));
        }
    }

    fn answer(&mut self, wish: Wish, asker: Asker, time: Option<TimeLeft>, replies: &mut Vec<(Slot, Reply)>) {
        match asker {
            Asker::Caller(number) => self.answer_caller(number, time, replies),
            Asker::Peer(peer, context) => {
                let answer = self.answers.entry((peer, context)).or_default();
                match wish {
                    Wish::KeepAlive(id) => answer.kept_alive.push(encode_time(id, time)),
                    Wish::TimeToLive(id) => answer.time_to_live.push(encode_time(id, time)),
                }
            }
        }
    }

    /// The leader has answered some of what it was asked under `context`.
    fn answered(&mut self, context: u64, answer: &own::LeaseAnswer, replies: &mut Vec<(Slot, Reply)>) {
        let kept = answer.kept_alive.iter().map(|time| (Wish::KeepAlive(time.id), time));
        let told = answer.time_to_live.iter().map(|time| (Wish::TimeToLive(time.id), time));
        for (wish, time) in kept.chain(told) {
            let Some(asked) = self.asked.get_mut(&context) else { return };
            for number in asked.wishes.remove(&wish).unwrap_or_default() {
                self.answer_caller(number, decode_time(time), replies);
            }
        }
        if self.asked.get(&context).is_some_and(|asked| asked.wishes.is_empty()) {
            self.asked.remove(&context);
        }
    }

    /// Leader, sure of it: decides what can be decided.
    fn decide(&mut self, now: Time, wish: Wish, asker: Asker, replies: &mut Vec<(Slot, Reply)>) {
        let Some(lessor) = &mut self.lessor else { return };
        let time = match wish {
            Wish::TimeToLive(id) => lessor.time_left(now, id),
            Wish::KeepAlive(id) => match lessor.renew(now, id) {
                Renewal::Gone => None,
                Renewal::Renewed(time) => {
                    self.counts.renewed += 1;
                    Some(time)
                }
                Renewal::Waits => {
                    self.held.entry(id).or_default().insert(asker);
                    return;
                }
            },
        };
        self.answer(wish, asker, time, replies);
    }
}

fn encode_time(id: i64, time: Option<TimeLeft>) -> own::LeaseTime {
    let TimeLeft { granted, left } = time.unwrap_or_default();
    own::LeaseTime { id, granted_ttl: granted, left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) }
}

fn decode_time(time: &own::LeaseTime) -> Option<TimeLeft> {
    let left = Duration::from_millis(time.left_ms);
    (time.granted_ttl != 0).then_some(TimeLeft { granted: time.granted_ttl, left })
}

impl Node {
    /// Notices another leadership. Before anything is heard in a turn: what it says is for the new one.
    pub(super) fn note_lessor(&mut self) {
        let leadership = self.raft.leader().map(|leader| (self.raft.term(), leader));
        if self.leases.leadership != leadership {
            for mark in self.leases.start_over(leadership) {
                self.raft.forget_read(mark);
            }
        }
        if self.is_wrong() {
            self.leases.lessor = None;
        }
    }

    /// The leases' part of a turn before its messages leave, when what has arrived is heard: asks, and proposes what is due.
    pub(super) fn lease_questions(&mut self, now: Time) {
        if self.raft.is_leader() {
            self.begin_lease_round(now);
            self.propose_lease_work(now);
        } else if self.leases.leadership.is_some() {
            self.ask_lessor(now);
        }
    }

    /// Leader: what a peer's callers want.
    pub(super) fn lease_question(&mut self, peer: MemberId, context: u64, question: own::LeaseQuestion) {
        let keep = question.keep_alive.into_iter().map(Wish::KeepAlive);
        let tell = question.time_to_live.into_iter().map(Wish::TimeToLive);
        self.leases.gathered.extend(keep.chain(tell).map(|wish| (wish, Asker::Peer(peer, context))));
    }

    /// Follower: the leader says something about leases.
    pub(super) fn lease_answer(&mut self, context: u64, answer: &own::LeaseAnswer) {
        self.leases.answered(context, answer, &mut self.replies);
    }

    /// Leader: renews what it may renew at once, and begins a round for everything else that has come since the last one.
    fn begin_lease_round(&mut self, now: Time) {
        let grace = self.config.election_timeout;
        let leases = &mut self.leases;
        let callers = leases.take_fresh(usize::MAX);
        leases.gathered.extend(callers.into_iter().map(|(wish, number)| (wish, Asker::Caller(number))));
        if leases.gathered.is_empty() {
            return;
        }
        let led_lately = self.raft.led_at().is_some_and(|at| now.since(at) <= LATELY);
        let may_renew = |leases: &Leases, wish: &Wish| match (wish, &leases.lessor) {
            (Wish::KeepAlive(id), Some(lessor)) => led_lately && lessor.renews_at_once(*id),
            (Wish::KeepAlive(_) | Wish::TimeToLive(_), _) => false,
        };
        let mut wishes = Vec::new();
        for (wish, asker) in std::mem::take(&mut leases.gathered) {
            match may_renew(leases, &wish) {
                true => leases.decide(now, wish, asker, &mut self.replies),
                false => wishes.push((wish, asker)),
            }
        }
        if wishes.is_empty() {
            return;
        }
        for (wish, _) in &wishes {
            if let (Wish::KeepAlive(id), Some(lessor)) = (wish, &mut leases.lessor) {
                lessor.hear(now, *id, grace);
            }
        }
        let mark = self.reads.mark();
        self.leases.rounds.insert(mark, Round { index: None, wishes });
        self.raft.read(mark);
    }

    /// Leader: proposes what the lessor finds due. Nobody waits for it, and nobody submits it again.
    fn propose_lease_work(&mut self, now: Time) {
        let Some(lessor) = &mut self.leases.lessor else { return };
        let work = lessor.work(now);
        let (term, known) = (self.raft.term().0, self.machine.applied().index.0);
        let revoke = |id: i64| (vec![id], Op::RevokeLease(own::RevokeLease { id, term, known }));
        let mut commands: Vec<(Vec<i64>, Op)> = work.revokes.into_iter().map(revoke).collect();
        if !work.writes.is_empty() {
            let ids = work.writes.iter().map(|(id, _)| *id).collect();
            let leases = work.writes.into_iter().map(|(id, remaining_ttl)| LeaseCheckpoint { id, remaining_ttl });
            commands.push((ids, Op::CheckpointLeases(own::CheckpointLeases { leases: leases.collect(), known })));
        }
        let again = now + self.config.heartbeat_interval.max(Duration::from_millis(1));
        for (ids, op) in commands {
            let sequence = self.proposals.next_sequence();
            let id = RequestId { origin: self.identity.member, incarnation: self.identity.incarnation, sequence };
            let command = own::Command { op: Some(op) }.encode_to_vec().into();
            if self.raft.propose(id, command, false).is_err()
                && let Some(lessor) = &mut self.leases.lessor
            {
                ids.into_iter().for_each(|id| lessor.not_proposed(id, again));
            }
        }
    }

    /// Follower: tells the leader what its callers want; again, if nothing came for some heartbeats.
    fn ask_lessor(&mut self, now: Time) {
        let again_at = now + self.config.heartbeat_interval.max(Duration::from_millis(1)) * 2;
        let leases = &mut self.leases;
        let mut due = Vec::new();
        while leases.asked.len() < ASKS_MAX && !leases.fresh.is_empty() {
            let mut wishes = BTreeMap::<Wish, Vec<u64>>::new();
            for (wish, number) in leases.take_fresh(WISHES_MAX) {
                wishes.entry(wish).or_default().push(number);
            }
            leases.contexts += 1;
            leases.asked.insert(leases.contexts, Asked { wishes, again_at: now });
        }
        let open = &leases.open;
        leases.asked.retain(|context, asked| {
            if asked.again_at > now {
                return true;
            }
            asked.again_at = again_at;
            asked.wishes.retain(|_, callers| callers.iter().any(|number| open.contains_key(number)));
            if !asked.wishes.is_empty() {
                due.push((*context, question(asked.wishes.keys())));
            }
            !asked.wishes.is_empty()
        });
        due.into_iter().for_each(|(context, question)| self.ask_leader(context, Question::Lease(question)));
    }

    /// The leases' part of a turn after entries were applied and read rounds confirmed: answers what can be answered.
    pub(super) fn lease_answers(&mut self, now: Time) {
        self.begin_lessor(now);
        let applied = self.machine.applied().index;
        let leases = &mut self.leases;
        let ready = |round: &Round| round.index.is_some_and(|index| index <= applied);
        let rounds: Vec<Round> =
            leases.rounds.extract_if(.., |_, round| ready(round)).map(|(_, round)| round).collect();
        for (wish, asker) in rounds.into_iter().flat_map(|round| round.wishes) {
            leases.decide(now, wish, asker, &mut self.replies);
        }
        for ((peer, context), answer) in std::mem::take(&mut leases.answers) {
            self.answer_peer(peer, context, Answer::Lease(answer));
        }
    }

    /// A read round is confirmed. Says whether it was one for leases.
    pub(super) fn lease_round_confirmed(&mut self, mark: u64, index: Index) -> bool {
        let round = self.leases.rounds.get_mut(&mark);
        round.map(|round| round.index = Some(index)).is_some()
    }

    /// Begins to measure, once this member leads and knows every lease.
    fn begin_lessor(&mut self, now: Time) {
        let knows_all = self.raft.leads_from().is_some_and(|first| self.machine.applied().index >= first);
        if knows_all && self.leases.lessor.is_none() && !self.is_wrong() {
            self.leases.lessor = Some(Lessor::new(now, self.machine.view().leases()));
        }
    }

    /// What an entry did to leases.
    pub(super) fn note_lease_changes(&mut self, now: Time) {
        let leases = &mut self.leases;
        for change in self.machine.take_lease_changes() {
            let id = match change {
                LeaseChange::Granted(id, time) => {
                    leases.counts.granted(time);
                    id
                }
                LeaseChange::Gone(id) => {
                    leases.counts.revoked += 1;
                    id
                }
                LeaseChange::Written(id, _) => id,
            };
            let Some(lessor) = &mut leases.lessor else { continue };
            leases.counts.expired += u64::from(lessor.changed(now, change));
            for asker in leases.held.remove(&id).unwrap_or_default() {
                leases.decide(now, Wish::KeepAlive(id), asker, &mut self.replies);
            }
        }
    }
}

fn question<'a>(wishes: impl Iterator<Item = &'a Wish>) -> own::LeaseQuestion {
    let mut question = own::LeaseQuestion::default();
    for wish in wishes {
        match wish {
            Wish::KeepAlive(id) => question.keep_alive.push(*id),
            Wish::TimeToLive(id) => question.time_to_live.push(*id),
        }
    }
    question
}

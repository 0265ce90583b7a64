//! A member's state and its messages as one number, for whoever explores every world there is (`sim::exhaust`).
//!
//! Two states with the same number must have the same future. So the number takes in everything that can steer what a
//! member does later, and leaves out what can't, to let worlds that differ in nothing else meet:
//!
//! - times and dice: the explorer holds the clock still and decides itself whose timer fires;
//! - absolute numbers of writes: only their distance to the newest durable one is ever compared;
//! - who refused a vote: refusals are noted, but only grants decide;
//! - what entries carry: by Log Matching a position determines its entry, and the explorer checks that law in every state.
//!
//! Members are written by a name that the caller gives them, so worlds that differ by a renaming can meet as well. Every
//! structure is taken apart field by field: a new field does not compile until it is said here whether it counts.
//!
//! The second question that is answered here is the opposite one: which messages can do nothing any more, ever
//! ([`Raft::is_deaf_to`]).

use super::election::{Campaign, Transfer};
use super::membership::Leaving;
use super::message::{Envelope, Message};
use super::progress::{Flow, Progress};
use super::quorum::Configuration;
use super::raft::{Following, Raft, State};
use super::read::{FollowerReads, Rounds};
use super::replication::Leading;
use super::writes::{Writes, Writing};
use super::{HardState, Ready};
use crate::ids::{Incarnation, Index, MemberId, Position, Term, WriteSeq};
use crate::rng::mix;

/// What a state is written with: a running hash, under names.
#[derive(Clone, Copy)]
pub(crate) struct Ink<N> {
    hash: u64,
    name: N,
    matters: Matters,
}

/// What counts in some explorations only.
#[derive(Clone, Copy)]
pub(crate) struct Matters {
    /// The numbers of a session's appends: only heartbeats ask for them.
    pub appends: bool,
    /// Which lives of its peers a member has heard of: only where there is a second one.
    pub lives: bool,
    /// Who votes: only where that changes.
    pub changes: bool,
}

impl<N: Fn(MemberId) -> u64 + Copy> Ink<N> {
    pub(crate) fn new(name: N, matters: Matters) -> Ink<N> {
        Ink { hash: 0x9e37_79b9_7f4a_7c15, name, matters }
    }

    fn fresh(&self) -> Ink<N> {
        Ink::new(self.name, self.matters)
    }

    pub(crate) fn number(&mut self, number: u64) {
        let product = u128::from(self.hash ^ number ^ 0x2d35_8dcc_aa6c_78a5) * 0x8bb8_4b93_962e_acc9;
        self.hash = (product as u64) ^ (product >> 64) as u64;
        self.hash = self.hash.wrapping_add(number.rotate_left(32));
    }

    pub(crate) fn member(&mut self, member: MemberId) {
        self.number((self.name)(member));
    }

    pub(crate) fn position(&mut self, position: Position) {
        self.number(position.index.0 << 32 | position.term.0);
    }

    /// Things whose order does not matter, each written with an ink of its own.
    pub(crate) fn unordered<T>(&mut self, things: impl IntoIterator<Item = T>, write: impl Fn(&mut Ink<N>, T)) {
        let sum = things.into_iter().fold(0u64, |sum, thing| {
            let mut ink = self.fresh();
            write(&mut ink, thing);
            sum.wrapping_add(ink.finish())
        });
        self.number(sum);
    }

    fn ordered<T>(&mut self, things: impl IntoIterator<Item = T>, write: impl Fn(&mut Ink<N>, T)) {
        let count = things.into_iter().fold(0, |count, thing| {
            write(self, thing);
            count + 1
        });
        self.number(count);
    }

    fn index(&mut self, index: Option<Index>) {
        self.number(index.map_or(u64::MAX, |index| index.0));
    }

    pub(crate) fn hard_state(&mut self, hard: HardState) {
        self.number(hard.term.0);
        self.number(hard.vote.map_or(u64::MAX, self.name));
    }

    pub(crate) fn configuration(&mut self, configuration: &Configuration) {
        self.number(configuration.version());
        self.unordered(configuration.incoming(), |ink, member| ink.member(*member));
        self.unordered(configuration.outgoing(), |ink, member| ink.member(*member));
        self.unordered(configuration.learners(), |ink, (member, promotion)| {
            ink.member(*member);
            ink.number(*promotion as u64);
        });
    }

    pub(crate) fn finish(&self) -> u64 {
        mix(self.hash)
    }
}

impl Raft {
    /// Writes everything that can steer what this member does later. To be called at the end of a turn, when all that
    /// comes out has been taken.
    pub(crate) fn write<N: Fn(MemberId) -> u64 + Copy>(&self, ink: &mut Ink<N>) {
        let Raft {
            config: _,
            rng: _,
            hard,
            log,
            commit,
            applied,
            configurations,
            state,
            election_deadline: _,
            hint: _,
            hint_spent,
            campaigns,
            reads,
            incarnations,
            accepting,
            floor,
            writes,
            outbox,
            loads,
            readable,
            refusals,
            asks,
            answers,
            install,
            events: _,
        } = self;
        ink.hard_state(*hard);
        let from_base = (log.base().index.0..=log.last().index.0).filter_map(|i| log.position_at(Index(i)));
        ink.ordered(from_base, |ink, at| ink.position(at));
        ink.number(commit.0);
        ink.number(applied.0);
        if ink.matters.changes {
            ink.ordered(configurations.iter(), |ink, (index, configuration)| {
                ink.number(index.0);
                ink.configuration(configuration);
            });
        }
        match state {
            State::Follower(following) => write_following(following, ink),
            State::PreCandidate(campaign) => write_campaign(1, campaign, writes, ink),
            State::Candidate(campaign) => write_campaign(2, campaign, writes, ink),
            State::Leader(leading) => write_leading(leading, ink),
        }
        ink.unordered(hint_spent, |ink, (term, peer, incarnation)| {
            ink.number(term.0 << 32 | incarnation.0);
            ink.member(*peer);
        });
        ink.number(*campaigns);
        write_reads(reads, ink);
        let lives = ink.matters.lives;
        ink.unordered(incarnations.iter().filter(|_| lives), |ink, (peer, incarnation)| {
            ink.member(*peer);
            ink.number(incarnation.0);
        });
        ink.number(u64::from(*accepting));
        ink.unordered(floor, |ink, floor| ink.position(*floor));
        write_writes(writes, ink);
        ink.unordered(outbox.waiting(), |ink, (after, envelope)| {
            ink.number(after.0.saturating_sub(writes.durable.0));
            envelope.write(ink);
        });
        let taken = loads.is_empty() && readable.is_empty() && refusals.is_empty();
        debug_assert!(taken && asks.is_empty() && answers.is_empty() && install.is_none(), "a turn that is not closed");
    }

    /// Whether `envelope` can do nothing here, now or later, whatever else happens. `durable` is a term below which this
    /// member never falls again, even by a crash. What the message's life tells is not looked at.
    pub(crate) fn is_deaf_to(&self, envelope: &Envelope, durable: Term) -> bool {
        let Envelope { from, term, ref message, .. } = *envelope;
        let moves_no_term = term <= durable;
        let progress = match &self.state {
            State::Leader(leading) if term == self.hard.term => leading.progress.get(&from),
            _ => None,
        };
        match (message, &self.state) {
            (Message::PreVoteReply { campaign, granted }, State::PreCandidate(running)) if running.id == *campaign => {
                moves_no_term && !granted
            }
            (Message::PreVoteReply { granted, .. }, _) => moves_no_term || *granted,
            (Message::VoteReply { campaign, granted }, State::Candidate(running)) if running.id == *campaign => {
                moves_no_term && (!granted || running.granted.contains(&from))
            }
            (Message::VoteReply { .. }, _) => moves_no_term,
            (Message::Appended { session, matched }, _) => {
                moves_no_term && progress.is_none_or(|p| p.heard && (*session < p.session || *matched < p.matched))
            }
            (Message::Conflict { session, prev_index, .. }, _) => {
                moves_no_term && progress.is_none_or(|p| p.heard && (*session < p.session || *prev_index <= p.matched))
            }
            (Message::HeartbeatReply { session, round, .. }, _) => {
                moves_no_term && progress.is_none_or(|p| p.heard && *session < p.session && *round <= p.confirmed)
            }
            (Message::ReadIndex { .. } | Message::ReadIndexReply { .. } | Message::TimeoutNow, _) => term < durable,
            (Message::Forward { .. } | Message::ForwardRefused { .. }, _) => term < durable,
            (Message::Ask { .. } | Message::Answer { .. }, _) => term < durable,
            (Message::PreVote { .. } | Message::Vote { .. }, _) => false,
            (Message::Append { .. } | Message::Heartbeat { .. } | Message::Install { .. }, _) => false,
        }
    }

    /// Who this is.
    pub(crate) fn id(&self) -> MemberId {
        self.config.id
    }

    /// Term and vote.
    pub(crate) fn hard_state(&self) -> HardState {
        self.hard
    }

    /// The number of the newest campaign.
    pub(crate) fn campaigns(&self) -> u64 {
        self.campaigns
    }

    /// The newest life of `peer` that was heard of.
    pub(crate) fn newest_life(&self, peer: MemberId) -> Option<Incarnation> {
        self.incarnations.get(&peer).copied()
    }

    /// Whether this member still waits for answers to `campaign`.
    pub(crate) fn is_asking(&self, campaign: u64) -> bool {
        matches!(&self.state, State::PreCandidate(running) | State::Candidate(running) if running.id == campaign)
    }
}

fn write_following<N: Fn(MemberId) -> u64 + Copy>(following: &Following, ink: &mut Ink<N>) {
    let Following { leader, since: _, heard: _, verified, session, received, acknowledged } = following;
    ink.number(0);
    ink.number(leader.map_or(u64::MAX, |(leader, _)| (ink.name)(leader)));
    ink.number(leader.map_or(0, |(_, life)| life.0));
    ink.number(verified.0);
    ink.number(*session);
    ink.number(if ink.matters.appends { *received } else { 0 });
    ink.number(acknowledged.0);
}

fn write_campaign<N: Fn(MemberId) -> u64 + Copy>(role: u64, campaign: &Campaign, writes: &Writes, ink: &mut Ink<N>) {
    let Campaign { id, granted, rejected: _, own_vote } = campaign;
    ink.number(role);
    ink.number(*id);
    ink.unordered(granted, |ink, member| ink.member(*member));
    ink.number(own_vote.0.saturating_sub(writes.durable.0));
}

fn write_leading<N: Fn(MemberId) -> u64 + Copy>(leading: &Leading, ink: &mut Ink<N>) {
    let Leading {
        progress,
        leaving,
        retiring,
        term_start,
        rounds,
        transfer,
        next_heartbeat: _,
        next_stall_check: _,
        uncommitted_bytes: _, // follows from the log and the commit index
        forwarded,
    } = leading;
    ink.number(3);
    ink.number(term_start.0);
    ink.unordered(progress, |ink, (peer, progress)| {
        ink.member(*peer);
        write_progress(progress, ink);
    });
    ink.unordered(leaving, |ink, (peer, Leaving { entry, until: _ })| {
        ink.member(*peer);
        ink.number(entry.0);
    });
    ink.number(u64::from(*retiring));
    ink.unordered(transfer, |ink, Transfer { target, deadline: _, told }| {
        ink.member(*target);
        ink.number(u64::from(*told));
    });
    ink.unordered(forwarded, |ink, ((origin, incarnation), newest)| {
        ink.member(*origin);
        ink.number(incarnation.0);
        ink.number(*newest);
    });
    let Rounds { number, in_flight, confirmed: _, remote } = rounds;
    ink.number(*number);
    ink.unordered(remote, |ink, (peer, context)| {
        ink.member(*peer);
        ink.number(*context);
    });
    ink.unordered(in_flight, |ink, round| {
        ink.number(round.number);
        ink.number(round.index.0);
        ink.unordered(&round.local, |ink, context| ink.number(*context));
        ink.unordered(&round.remote, |ink, (peer, context)| {
            ink.member(*peer);
            ink.number(*context);
        });
    });
}

fn write_progress<N: Fn(MemberId) -> u64 + Copy>(progress: &Progress, ink: &mut Ink<N>) {
    let Progress {
        matched,
        next,
        flow,
        session,
        sequence,
        told_commit,
        contact: _,
        heard,
        confirmed,
        incarnation: _, // a note of what `Raft::incarnations` says
        loading,
    } = progress;
    ink.number(matched.0);
    ink.number(next.0);
    match flow {
        Flow::Probe { outstanding } => ink.number(outstanding.map_or(u64::MAX, |(last, _)| last.0)),
        Flow::Replicate { window, bytes: _ } => ink.ordered(window, |ink, (last, _)| ink.number(last.0)),
        Flow::Install { base, due } => ink.number(base.0 << 1 | u64::from(*due)),
    }
    ink.number(match flow {
        Flow::Replicate { .. } => 0,
        Flow::Probe { .. } => 1,
        Flow::Install { .. } => 2,
    });
    ink.number(u64::from(ink.matters.changes && *heard));
    ink.number(*session);
    ink.number(if ink.matters.appends { *sequence } else { 0 });
    ink.number(told_commit.0);
    ink.number(*confirmed);
    ink.index(*loading);
}

fn write_reads<N: Fn(MemberId) -> u64 + Copy>(reads: &FollowerReads, ink: &mut Ink<N>) {
    let FollowerReads { waiting, asked, asks } = reads;
    ink.ordered(waiting, |ink, context| ink.number(*context));
    ink.unordered(asked, |ink, asked| {
        ink.number(asked.context);
        ink.ordered(&asked.readers, |ink, context| ink.number(*context));
    });
    ink.number(*asks);
}

fn write_writes<N: Fn(MemberId) -> u64 + Copy>(writes: &Writes, ink: &mut Ink<N>) {
    let Writes {
        hard_dirty,
        truncate_from,
        compact_to,
        unstable,
        next,
        durable,
        durable_term,
        of_term,
        on_its_way,
        persisted,
    } = writes;
    let ahead = |seq: &WriteSeq| seq.0.saturating_sub(durable.0);
    ink.number(u64::from(*hard_dirty));
    ink.index(*truncate_from);
    ink.index(*compact_to);
    ink.number(unstable.0);
    ink.number(ahead(next));
    ink.number(durable_term.0);
    ink.number(ahead(of_term));
    ink.ordered(on_its_way, |ink, Writing { seq, term, last, since: _ }| {
        ink.number(ahead(seq));
        ink.number(term.0);
        ink.number(last.0);
    });
    ink.number(persisted.0);
}

impl Ready {
    /// Writes what would become durable.
    pub(crate) fn write<N: Fn(MemberId) -> u64 + Copy>(&self, ink: &mut Ink<N>) {
        let Ready { seq: _, hard_state, compact_to, truncate_from, entries } = self;
        ink.unordered(hard_state, |ink, hard| ink.hard_state(*hard));
        ink.index(*compact_to);
        ink.index(*truncate_from);
        ink.ordered(entries, |ink, entry| ink.position(entry.position));
    }
}

impl Envelope {
    /// Writes the message and its address.
    pub(crate) fn write<N: Fn(MemberId) -> u64 + Copy>(&self, ink: &mut Ink<N>) {
        let Envelope { from, to, term, incarnation, message } = self;
        let appends = ink.matters.appends;
        let counts = |count: &u64| if appends { *count } else { 0 };
        let at = |position: &Position| position.index.0 << 32 | position.term.0;
        let (kind, fields) = match message {
            Message::PreVote { campaign, next_term, last } => (0, [*campaign, next_term.0, at(last), 0, 0]),
            Message::PreVoteReply { campaign, granted } => (1, [*campaign, u64::from(*granted), 0, 0, 0]),
            Message::Vote { campaign, last, transfer } => (2, [*campaign, at(last), u64::from(*transfer), 0, 0]),
            Message::VoteReply { campaign, granted } => (3, [*campaign, u64::from(*granted), 0, 0, 0]),
            Message::Append { session, sequence, prev, commit, entries } => {
                ink.ordered(entries, |ink, entry| ink.position(entry.position));
                (4, [*session, counts(sequence), at(prev), commit.0, 0])
            }
            Message::Appended { session, matched } => (5, [*session, matched.0, 0, 0, 0]),
            Message::Conflict { session, prev_index, hint } => (6, [*session, prev_index.0, at(hint), 0, 0]),
            Message::Heartbeat { session, sequence, commit, round } => (7, [*session, *sequence, commit.0, *round, 0]),
            Message::HeartbeatReply { session, sequence, received, matched, round } => {
                (8, [*session, *sequence, *received, matched.0, *round])
            }
            Message::ReadIndex { context } => (9, [*context, 0, 0, 0, 0]),
            Message::ReadIndexReply { context, index } => (10, [*context, index.0, 0, 0, 0]),
            Message::Forward { id, data: _, grows } => (11, [id.sequence, id.incarnation.0, u64::from(*grows), 0, 0]),
            Message::ForwardRefused { sequence, reason } => (12, [*sequence, *reason as u64, 0, 0, 0]),
            Message::TimeoutNow => (13, [0; 5]),
            Message::Ask { context, question: _ } => (14, [*context, 0, 0, 0, 0]),
            Message::Answer { context, answer: _ } => (15, [*context, 0, 0, 0, 0]),
            Message::Install { session, base } => (16, [*session, at(base), 0, 0, 0]),
        };
        ink.number(kind);
        ink.member(*from);
        ink.member(*to);
        ink.number(term.0);
        ink.number(incarnation.0);
        fields.into_iter().for_each(|field| ink.number(field));
    }
}

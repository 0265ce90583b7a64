//! The protocol's state, and the routing of what happens to it.
//!
//! Everything that outlives a role is a field of [`Raft`]; everything that dies with it is inside [`State`]. A leadership
//! transfer, a window, a vote count can therefore not survive the role they belong to: the value is gone. What each input
//! means is in the files named after the thesis's chapters; this one decides *whether* a message is heard at all:
//!
//! | the sender's term | then |
//! |---|---|
//! | older incarnation of the sender, a stranger who does not lead or campaign, not to us | not heard |
//! | lower than ours | answered with ours where the sender needs to know (appends, heartbeats, votes, forwards), else not heard |
//! | higher than ours | we follow it first, except for what must not move terms: pre-votes, and votes that stickiness refuses |
//! | equal | heard |

use super::election::{Campaign, Hint};
use super::log::{Log, Slice};
use super::membership::Configurations;
use super::message::{Dependency, Entry, Envelope, Message, Refusal};
use super::outbox::Outbox;
use super::progress::{Flow, Progress};
use super::quorum::Configuration;
use super::read::FollowerReads;
use super::replication::Leading;
use super::writes::Writes;
use super::{HardState, LogRead, Persisted, Ready};
use crate::ids::{Incarnation, Index, MemberId, Position, Term, WriteSeq};
use crate::rng::{Rng, Seed};
use crate::time::{Duration, Time};
use bytes::Bytes;
use std::collections::BTreeMap;

/// How a member behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this is.
    pub id: MemberId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Who votes and learns, as of the applied index: what the log says after that counts on top.
    pub configuration: Configuration,
    /// A leader speaks at least this often.
    pub heartbeat_interval: Duration,
    /// T: nobody campaigns within T of hearing the leader; deadlines are drawn from [T, 1.25 T).
    pub election_timeout: Duration,
    /// The dice.
    pub seed: Seed,
    /// The member acknowledged up to here before its log lost its tail: it stands in for the log's end in vote checks, and
    /// the member does not campaign until its log is there again.
    pub floor: Option<Position>,
    /// What was applied here is lost, and is to be taken over from a leader: until it is opened again the member votes and
    /// acknowledges by its log, but does not campaign.
    pub hollow: bool,
    /// How much it holds and sends.
    pub limits: Limits,
}

/// How much a member holds and sends, in bytes and messages, each with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Appends on their way to one follower: enough to fill the pipe, few enough to bound what a slow one holds.
    pub max_inflight_messages: usize,
    /// The same in bytes.
    pub max_inflight_bytes: usize,
    /// One append's entries: large enough to amortise, small enough not to hold up a heartbeat.
    pub max_append_bytes: usize,
    /// Entries not yet committed on a leader: beyond it proposals are refused, so that a leader without a quorum does not
    /// collect the world's writes in memory.
    pub max_uncommitted_bytes: usize,
    /// Applied entries kept in memory for followers a little behind.
    pub memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_inflight_messages: 256,
            max_inflight_bytes: 16 << 20,
            max_append_bytes: 1 << 20,
            max_uncommitted_bytes: 64 << 20,
            memory_bytes: 16 << 20,
        }
    }
}

impl Config {
    /// The defaults for everything but identity and timers.
    pub fn new(id: MemberId, incarnation: Incarnation, configuration: Configuration, seed: Seed) -> Config {
        Config {
            id,
            incarnation,
            configuration,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            seed,
            floor: None,
            hollow: false,
            limits: Limits::default(),
        }
    }
}

/// A member's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be voted for.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// What only some roles have.
#[derive(Clone, Debug)]
pub(super) enum State {
    Follower(Following),
    PreCandidate(Campaign),
    Candidate(Campaign),
    Leader(Box<Leading>),
}

/// What a follower knows of its leader in this term.
#[derive(Clone, Debug, Default)]
pub(super) struct Following {
    pub leader: Option<(MemberId, Incarnation)>,
    /// Since when it is followed.
    pub since: Time,
    /// When it was last heard.
    pub heard: Time,
    /// The last index known to equal the leader's log.
    pub verified: Index,
    /// The leader's session with this member, and the last append of it that was accepted.
    pub session: u64,
    pub received: u64,
    /// The last acknowledgement sent in this session.
    pub acknowledged: Index,
}

/// What happened, for status, reports and traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The leader was given up.
    LeaderLost(LossCause),
    /// This member began to ask for (pre-)votes.
    Campaigned {
        /// The term it asks for.
        term: Term,
    },
    /// A leader is known.
    LeaderKnown {
        /// Its term.
        term: Term,
        /// Who.
        leader: MemberId,
    },
    /// The first entry of the term is known to be committed.
    TermCommitted {
        /// The term.
        term: Term,
    },
}

/// Why a leader was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// Silence for an election timeout.
    Timeout,
    /// Its connection broke.
    ConnectionLost,
    /// It handed over.
    Transfer,
    /// A higher term was seen.
    HigherTerm,
    /// A leader no longer heard a quorum.
    NoQuorum,
}

/// A read that may be served once `index` is applied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The asker's own mark.
    pub context: u64,
    /// The read index.
    pub index: Index,
}

/// What can be told from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The role.
    pub role: Role,
    /// The term.
    pub term: Term,
    /// The leader known.
    pub leader: Option<MemberId>,
    /// The log's end.
    pub last: Position,
    /// Durable here.
    pub persisted: Index,
    /// On a quorum, as far as known here.
    pub commit: Index,
    /// Handed out to be applied.
    pub applied: Index,
}

/// One member's Raft. See the room's essay.
#[derive(Clone, Debug)]
pub struct Raft {
    pub(super) config: Config,
    pub(super) rng: Rng,
    pub(super) hard: HardState,
    pub(super) log: Log,
    pub(super) commit: Index,
    pub(super) applied: Index,
    pub(super) configurations: Configurations,
    pub(super) state: State,
    /// When a follower or candidate loses patience.
    pub(super) election_deadline: Time,
    pub(super) hint: Option<Hint>,
    /// The last leader process that a lost connection made us forget.
    pub(super) hint_spent: Option<(Term, MemberId, Incarnation)>,
    pub(super) campaigns: u64,
    pub(super) reads: FollowerReads,
    /// The newest life seen of each peer.
    pub(super) incarnations: BTreeMap<MemberId, Incarnation>,
    /// Whether there is space for more entries.
    pub(super) accepting: bool,
    /// [`Config::floor`], until the log on the disk reaches it.
    pub(super) floor: Option<Position>,

    pub(super) writes: Writes,
    pub(super) outbox: Outbox,
    pub(super) loads: Vec<LogRead>,
    pub(super) readable: Vec<ReadState>,
    pub(super) refusals: Vec<(u64, Refusal)>,
    pub(super) asks: Vec<(MemberId, u64, Bytes)>,
    pub(super) answers: Vec<(u64, Bytes)>,
    /// The leader said that its log begins only after this entry, and this member's ends before it.
    pub(super) install: Option<Position>,
    pub(super) events: Vec<Event>,
}

impl Raft {
    /// A member as it was left: always a follower, whatever it was before.
    ///
    /// # Panics
    /// If `applied` is not in the log: recovery (`node/open.rs`) refuses that with a sentence.
    pub fn new(config: Config, hard: HardState, log: Log, applied: Index, now: Time) -> Raft {
        let (base, last) = (log.base(), log.last());
        assert!(applied <= last.index, "applied {applied} is beyond the log's end {last}");
        assert!(applied >= base.index, "applied {applied} is before the log's beginning {base}");
        assert!(last.term <= hard.term, "the log ends in term {} but the hard state says {}", last.term, hard.term);
        let mut rng = Rng::new(config.seed);
        // A newborn asks soon: if there is a leader, the others refuse the pre-vote, and if there is none, why wait.
        let patience = rng.duration(config.election_timeout / 20, config.election_timeout / 4);
        Raft {
            rng,
            hard,
            commit: applied,
            applied,
            configurations: Configurations::restore(config.configuration.clone(), applied, &log),
            state: State::Follower(Following::default()),
            election_deadline: now + patience,
            hint: Some(Hint::default()),
            hint_spent: None,
            campaigns: config.incarnation.first_number(),
            reads: FollowerReads::new(config.incarnation.first_number()),
            incarnations: BTreeMap::new(),
            accepting: true,
            floor: config.floor,
            writes: Writes::new(last.index, hard.term),
            outbox: Outbox::default(),
            loads: Vec::new(),
            readable: Vec::new(),
            refusals: Vec::new(),
            asks: Vec::new(),
            answers: Vec::new(),
            install: None,
            events: Vec::new(),
            log,
            config,
        }
    }

    // ---- what goes in

    /// [`Config::hollow`].
    pub fn is_hollow(&self) -> bool {
        self.config.hollow
    }

    /// Takes a message.
    pub fn step(&mut self, now: Time, envelope: Envelope) {
        let Envelope { from, to, term, incarnation, message } = envelope;
        if to != self.config.id || from == self.config.id || !self.hears(from, &message) {
            return;
        }
        if !self.is_current_life(from, incarnation) {
            return;
        }
        if term < self.hard.term {
            self.step_lower_term(now, from, term, message);
        } else {
            if term > self.hard.term && !self.adopts_term(now, from, term, &message) {
                return;
            }
            self.step_heard(now, from, term, message);
        }
    }

    /// Notes the sender's life; says whether it is the newest.
    fn is_current_life(&mut self, from: MemberId, incarnation: Incarnation) -> bool {
        let known = self.incarnations.entry(from).or_insert(incarnation);
        if incarnation < *known {
            return false;
        }
        if incarnation > *known {
            *known = incarnation;
            if let State::Leader(leading) = &mut self.state
                && let Some(progress) = leading.progress.get_mut(&from)
            {
                progress.restart(incarnation);
            }
        }
        true
    }

    /// A message of a term that is over.
    fn step_lower_term(&mut self, now: Time, from: MemberId, term: Term, message: Message) {
        match message {
            // A pre-vote's grant comes from a member that may well be in a lower term; its campaign number says what it
            // answers.
            Message::PreVoteReply { campaign, granted } => self.on_pre_vote_reply(now, from, campaign, granted),
            Message::PreVote { campaign, next_term, last } => self.on_pre_vote(now, from, campaign, next_term, last),
            Message::Vote { campaign, .. } => self.send(from, Message::VoteReply { campaign, granted: false }),
            // A leader of an older term learns from any answer that it is one (etcd #8501).
            Message::Append { .. } | Message::Install { .. } | Message::Heartbeat { .. } => {
                let nothing = Index(0);
                self.send(
                    from,
                    Message::HeartbeatReply { session: 0, sequence: 0, received: 0, matched: nothing, round: 0 },
                );
            }
            Message::VoteReply { .. }
            | Message::Appended { .. }
            | Message::Conflict { .. }
            | Message::HeartbeatReply { .. }
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. }
            | Message::Forward { .. }
            | Message::ForwardRefused { .. }
            | Message::TimeoutNow
            | Message::Ask { .. }
            | Message::Answer { .. } => tracing::trace!(%from, %term, "not heard: an older term"),
        }
    }

    /// Moves to a higher term if the message may do that; says whether to hear the message.
    fn adopts_term(&mut self, now: Time, from: MemberId, term: Term, message: &Message) -> bool {
        match message {
            Message::PreVote { .. } | Message::PreVoteReply { granted: true, .. } => return true,
            Message::Vote { transfer, .. } if !transfer && self.is_sticky(now, from) => {
                tracing::debug!(%from, %term, "vote request not heard: there is a live leader");
                return false;
            }
            _ => {}
        }
        self.become_follower(now, term, None, LossCause::HigherTerm);
        true
    }

    fn step_heard(&mut self, now: Time, from: MemberId, term: Term, message: Message) {
        match message {
            Message::PreVote { campaign, next_term, last } => self.on_pre_vote(now, from, campaign, next_term, last),
            Message::PreVoteReply { campaign, granted } => self.on_pre_vote_reply(now, from, campaign, granted),
            Message::Vote { campaign, last, transfer } => self.on_vote(now, from, campaign, last, transfer),
            Message::VoteReply { campaign, granted } => self.on_vote_reply(now, from, campaign, granted),
            Message::Append { session, sequence, prev, commit, entries } => {
                self.hear_leader(now, from);
                self.on_append(from, session, sequence, prev, commit, entries);
            }
            Message::Heartbeat { session, sequence, commit, round } => {
                self.hear_leader(now, from);
                self.on_heartbeat(from, session, sequence, commit, round);
            }
            Message::Appended { session, matched } => self.on_appended(now, from, session, matched),
            Message::Conflict { session, prev_index, hint } => self.on_conflict(now, from, session, prev_index, hint),
            Message::HeartbeatReply { session, sequence, received, matched, round } => {
                self.on_heartbeat_reply(now, from, session, sequence, received, matched, round);
            }
            Message::ReadIndex { context } => self.on_read_index(from, context),
            Message::ReadIndexReply { context, index } => self.on_read_index_reply(from, context, index),
            Message::Forward { id, data, grows } => self.on_forward(from, id, data, grows),
            Message::ForwardRefused { sequence, reason } => self.refusals.push((sequence, reason)),
            Message::TimeoutNow => self.on_timeout_now(now, from, term),
            Message::Install { session, base } => {
                self.hear_leader(now, from);
                self.on_install(from, session, base);
            }
            Message::Ask { context, question } if self.is_leader() => self.asks.push((from, context, question)),
            Message::Answer { context, answer } if self.leader() == Some(from) => self.answers.push((context, answer)),
            Message::Ask { .. } | Message::Answer { .. } => {}
        }
    }

    /// All writes up to `done.seq` are durable.
    ///
    /// # Panics
    /// If the disk's log does not end where it must: then something else writes to it.
    pub fn persisted(&mut self, now: Time, done: Persisted) {
        if !self.writes.done(done.seq) {
            return;
        }
        if let Some(end) = self.writes.end_on_disk() {
            let expected = self.log.position_at(end);
            assert_eq!(Some(done.last), expected, "the log on the disk does not end where it should");
        }
        if self.floor.is_some_and(|floor| self.persisted_position().reaches(floor)) {
            self.floor = None;
        }
        self.outbox.release(self.writes.durable());
        match &self.state {
            State::Follower(_) => self.acknowledge(false),
            State::Candidate(_) => self.count_own_vote(now),
            State::Leader(_) => self.advance_commit(),
            State::PreCandidate(_) => {}
        }
    }

    /// Whether there is space for more entries: without it, appends and proposals are declined, all else goes on.
    pub fn set_accepting(&mut self, accepting: bool) {
        self.accepting = accepting;
    }

    /// Timers that have run out. Call it after a turn's inputs and before its proposals.
    pub fn tick(&mut self, now: Time) {
        if let State::Leader(_) = self.state {
            self.lead(now);
        } else if now >= self.election_deadline {
            self.lose_patience(now);
        }
    }

    /// Closes a turn: everything that is due to the peers is put into the outbox.
    pub fn flush(&mut self, now: Time) {
        self.ask_read_index(now);
        if let State::Leader(_) = self.state {
            self.drive_change(now);
            self.begin_read_round(now);
            self.replicate();
            self.retire(now);
        }
        // A hollow member applies nothing in this life: what is committed and durable is read again by the next one.
        let done = if self.config.hollow { self.commit.min(self.writes.persisted()) } else { self.applied };
        self.log.evict(done, self.config.limits.memory_bytes);
    }

    /// The state's database holds, durably, what the entries up to `index` did: they may go. The next [`Raft::ready`] asks the
    /// disk to let them go; a follower that lacks them is told to take over a state.
    ///
    /// # Panics
    /// If they are not all applied and durable here.
    pub fn compact_to(&mut self, index: Index) {
        assert!(index <= self.applied, "a compaction at {index}, but only {} is applied", self.applied);
        if index > self.log.base().index {
            self.log.compact_to(index);
            self.writes.compacted(index);
        }
    }

    /// Leader: up to where the log may be compacted without a follower missing it that was heard of, or first spoken to, within
    /// `patience`; `None` if there is none. Of one that takes over a state it is the base that it was told.
    pub fn needed_by_followers(&self, now: Time, patience: Duration) -> Option<Index> {
        let State::Leader(leading) = &self.state else { return None };
        let waited_for = leading.progress.values().filter(|p| now.since(p.contact) < patience);
        let has = |p: &Progress| match p.flow {
            Flow::Install { base, .. } => base.max(p.matched),
            Flow::Probe { .. } | Flow::Replicate { .. } => p.matched,
        };
        waited_for.map(has).min()
    }

    /// What precedes the first entry of the log.
    pub fn log_base(&self) -> Position {
        self.log.base()
    }

    /// When [`Raft::tick`] must be called at the latest.
    pub fn deadline(&self) -> Time {
        let own = match &self.state {
            State::Leader(leading) => self.leader_deadline(leading),
            _ => self.election_deadline,
        };
        own.min(self.reads.deadline())
    }

    // ---- what comes out

    /// What must become durable next, if anything. Hand every one to the disk, in order.
    pub fn ready(&mut self, now: Time) -> Option<Ready> {
        self.writes.take(now, self.hard, &self.log)
    }

    /// The truncation that the next [`Raft::ready`] will ask for: the node lowers the acked mark first.
    pub fn pending_truncation(&self) -> Option<Index> {
        self.writes.pending_truncation()
    }

    /// Messages that may leave.
    pub fn messages(&mut self) -> impl Iterator<Item = Envelope> + '_ {
        self.outbox.drain()
    }

    /// Messages that may not leave yet, each with the write that it waits for: for traces.
    pub fn held_messages(&self) -> impl Iterator<Item = (WriteSeq, &Envelope)> + '_ {
        self.outbox.waiting()
    }

    /// Wishes for entries that left the memory.
    pub fn take_loads(&mut self) -> Vec<LogRead> {
        std::mem::take(&mut self.loads)
    }

    /// Whether [`Raft::take_committed`] has something to give.
    pub fn has_committed(&self) -> bool {
        self.applied < self.commit.min(self.writes.persisted())
    }

    /// Committed and durable entries, in order, each once; about `max_bytes` of them.
    pub fn take_committed(&mut self, max_bytes: usize) -> Vec<Entry> {
        if !self.has_committed() {
            return Vec::new();
        }
        let limit = self.commit.min(self.writes.persisted());
        let Slice::Entries(mut entries) = self.log.slice(self.applied.next(), max_bytes) else {
            unreachable!("an entry left the memory before it was applied: {}", self.applied.next());
        };
        entries.truncate(usize::try_from(limit.0 - self.applied.0).unwrap_or(usize::MAX));
        self.applied = entries.last().map_or(self.applied, |e| e.position.index);
        entries
    }

    /// Reads that may be served once their index is applied.
    pub fn take_reads(&mut self) -> Vec<ReadState> {
        std::mem::take(&mut self.readable)
    }

    /// Forwarded commands that were surely not appended: their sequence and why.
    pub fn take_refusals(&mut self) -> Vec<(u64, Refusal)> {
        std::mem::take(&mut self.refusals)
    }

    /// Sends a question to the leader, if another member leads. It may be lost on the way, and so may the answer: ask again.
    pub fn ask(&mut self, context: u64, question: Bytes) {
        if let Some(leader) = self.leader().filter(|leader| *leader != self.config.id) {
            self.send(leader, Message::Ask { context, question });
        }
    }

    /// Answers a question of [`Raft::take_asks`].
    ///
    /// # Panics
    /// If this member does not lead.
    pub fn answer(&mut self, to: MemberId, context: u64, answer: Bytes) {
        assert!(self.is_leader(), "only a leader answers");
        self.send(to, Message::Answer { context, answer });
    }

    /// Questions of other members to this one as a leader: who asks, under which context, what. It may have been deposed since.
    pub fn take_asks(&mut self) -> Vec<(MemberId, u64, Bytes)> {
        std::mem::take(&mut self.asks)
    }

    /// Answers of the leader to questions of this member, by context. A context may be one of long ago.
    pub fn take_answers(&mut self) -> Vec<(u64, Bytes)> {
        std::mem::take(&mut self.answers)
    }

    /// The leader's log begins after this entry, and this member's ends before it: it must take over a state that reaches
    /// at least so far, and be opened again on that.
    pub fn take_install(&mut self) -> Option<Position> {
        self.install.take()
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The leader known, this member included.
    pub fn leader(&self) -> Option<MemberId> {
        match &self.state {
            State::Follower(following) => following.leader.map(|(leader, _)| leader),
            State::Leader(_) => Some(self.config.id),
            State::PreCandidate(_) | State::Candidate(_) => None,
        }
    }

    /// The first entry of this member's own term, where it leads: once that is applied, it knows everything that was committed
    /// before (Raft §8).
    pub fn leads_from(&self) -> Option<Index> {
        match &self.state {
            State::Leader(leading) => Some(leading.term_start),
            _ => None,
        }
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.state, State::Leader(_))
    }

    /// The term.
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// The newest term known to be durable.
    pub fn durable_term(&self) -> Term {
        self.writes.durable_term()
    }

    /// Durable in the log on the disk.
    pub fn persisted_position(&self) -> Position {
        self.log.position_at(self.writes.persisted()).unwrap_or_default()
    }

    /// What this member once acknowledged, if its log lost it and does not reach it yet.
    pub fn lost_mark(&self) -> Option<Position> {
        self.floor
    }

    /// Where the log ends if everything from `from` on is cut off.
    pub fn position_before(&self, from: Index) -> Position {
        self.log.position_at(from.prev()).unwrap_or_default()
    }

    /// Per follower: how appends flow, and what is durable there. Empty where this member does not lead.
    pub fn flows(&self) -> Vec<(MemberId, &'static str, Index)> {
        match &self.state {
            State::Leader(leading) => {
                leading.progress.iter().map(|(peer, p)| (*peer, p.flow_name(), p.matched)).collect()
            }
            _ => self.others().into_iter().map(|peer| (peer, "", Index(0))).collect(),
        }
    }

    /// Appends with entries on their way to the follower that has the most of them.
    pub fn max_in_flight(&self) -> usize {
        match &self.state {
            State::Leader(leading) => leading.progress.values().map(|p| p.in_flight()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// What can be told.
    pub fn status(&self) -> Status {
        Status {
            role: match self.state {
                State::Follower(_) => Role::Follower,
                State::PreCandidate(_) => Role::PreCandidate,
                State::Candidate(_) => Role::Candidate,
                State::Leader(_) => Role::Leader,
            },
            term: self.hard.term,
            leader: self.leader(),
            last: self.log.last(),
            persisted: self.writes.persisted(),
            commit: self.commit,
            applied: self.applied,
        }
    }

    // ---- the small change of the other files

    /// Puts a message into the outbox, behind the write that it depends on.
    pub(super) fn send(&mut self, to: MemberId, message: Message) {
        let after = match message.dependency() {
            Dependency::Term => self.writes.of_term(),
            Dependency::State => self.writes.of_state(self.log.last().index),
        };
        let envelope =
            Envelope { from: self.config.id, to, term: self.hard.term, incarnation: self.config.incarnation, message };
        self.outbox.send(envelope, after, self.writes.durable());
    }

    /// The other voters.
    pub(super) fn peers(&self) -> Vec<MemberId> {
        self.configuration().voters().filter(|m| *m != self.config.id).collect()
    }

    fn others(&self) -> Vec<MemberId> {
        self.configuration().members().into_iter().filter(|m| *m != self.config.id).collect()
    }

    pub(super) fn note(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Sets the term, and with it the vote: the one place where either changes, but for a vote given within a term.
    pub(super) fn set_term(&mut self, term: Term, vote: Option<MemberId>) {
        assert!(term > self.hard.term, "the term can only grow: {} to {term}", self.hard.term);
        self.hard = HardState { term, vote };
        self.outbox.forget();
        self.writes.term_changed();
    }

    pub(super) fn set_vote(&mut self, vote: MemberId) {
        if self.hard.vote != Some(vote) {
            assert_eq!(self.hard.vote, None, "a second vote in term {}", self.hard.term);
            self.hard.vote = Some(vote);
            self.writes.vote_changed();
        }
    }

    /// Removes everything from `from` on, in memory and (with the next write) on the disk.
    pub(super) fn truncate(&mut self, from: Index) {
        assert!(from > self.commit, "truncation at {from}, but {} is committed", self.commit);
        self.log.truncate_from(from);
        self.configurations.truncated(from);
        self.writes.truncated(from);
    }

    /// Follows `leader` (or waits for one) in `term`.
    pub(super) fn become_follower(&mut self, now: Time, term: Term, leader: Option<MemberId>, cause: LossCause) {
        let had = self.leader();
        if let State::Leader(leading) = &mut self.state {
            self.reads.take_back(leading.rounds.local_readers());
        }
        if term > self.hard.term {
            self.set_term(term, None);
        }
        let life = leader.map(|l| (l, self.incarnations.get(&l).copied().unwrap_or_default()));
        self.state = State::Follower(Following { leader: life, since: now, heard: now, ..Following::default() });
        if had.is_some() && had != leader {
            self.note(Event::LeaderLost(cause));
        }
        if let Some(leader) = leader {
            self.hint = None;
            self.note(Event::LeaderKnown { term: self.hard.term, leader });
        }
        self.election_deadline = now + self.patience();
        self.reads.leader_changed();
    }

    /// An append or heartbeat of this term: whoever sends it leads.
    fn hear_leader(&mut self, now: Time, from: MemberId) {
        match &mut self.state {
            State::Leader(_) => panic!("two leaders in term {}: {} and {from}", self.hard.term, self.config.id),
            State::Follower(following) if following.leader.is_some_and(|(leader, _)| leader == from) => {
                following.heard = now;
            }
            State::Follower(following) => {
                let other = following.leader;
                assert!(other.is_none(), "two leaders in term {}: {other:?} and {from}", self.hard.term);
                self.follow(now, from);
            }
            State::PreCandidate(_) | State::Candidate(_) => self.follow(now, from),
        }
        self.election_deadline = now + self.patience();
    }

    fn follow(&mut self, now: Time, leader: MemberId) {
        let verified = match &self.state {
            State::Follower(following) => following.verified,
            _ => Index(0),
        };
        self.become_follower(now, self.hard.term, Some(leader), LossCause::HigherTerm);
        if let State::Follower(following) = &mut self.state {
            following.verified = verified;
        }
    }

    /// How long to wait for a leader: drawn anew each time, so that members part.
    pub(super) fn patience(&mut self) -> Duration {
        let t = self.config.election_timeout;
        self.rng.duration(t, t.and_a_quarter())
    }
}

/// 1.25 T, in whole nanoseconds: no floating point below the shells.
trait Quarter {
    fn and_a_quarter(self) -> Duration;
}

impl Quarter for Duration {
    fn and_a_quarter(self) -> Duration {
        self + self / 4
    }
}

//! A cluster held by hand: its members are values, and nothing happens unless a verb says so.
//!
//! Each member has a clock of its own, a disk with a queue of writes that are not durable yet, and a machine that is a list
//! of what was applied. The network is a queue per link. The world owns what the core may not: it executes writes, carries
//! messages, loses what a crash loses. After every turn it checks the laws that no script may break, whatever it prints:
//!
//! 1. one leader per term;
//! 2. one grant per member and term, in everything that ever left it (Raft §5.2);
//! 3. what leaves is durable: no message of a term that the sender's disk does not know, no acknowledgement of an entry
//!    that the sender's disk does not hold;
//! 4. when a leader's commit index grows, it is on the disks of a quorum of its configuration, dead members' disks included;
//! 5. the same entries are applied everywhere, in the same order (Raft fig. 3, state machine safety);
//! 6. the configuration that counts is the newest one among what is applied and the log after that (dissertation §4.1).

use super::print;
use bytes::Bytes;
use quorate::ids::{Incarnation, Index, MemberId, Position, RequestId, Term, WriteSeq};
use quorate::raft::log::Log;
use quorate::raft::quorum::Configuration;
use quorate::raft::{Config, Entry, EntryKind, Envelope, HardState, LogRead, Message, Persisted, Raft, Ready};
use quorate::rng::Seed;
use quorate::time::{Duration, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A number that names a member: 1 is `n1`.
pub type Id = u64;

/// What a member's disk holds for sure.
#[derive(Default)]
pub struct Disk {
    pub hard: HardState,
    /// What precedes the first entry.
    pub base: Position,
    pub entries: Vec<Entry>,
}

impl Disk {
    pub fn last(&self) -> Position {
        self.entries.last().map_or(self.base, |e| e.position)
    }

    /// Where entry `index` stands in the list.
    fn place(&self, index: Index) -> usize {
        let place = index.0.checked_sub(self.base.index.0 + 1);
        place.unwrap_or_else(|| panic!("{index} is compacted away: the log begins after {}", self.base)) as usize
    }

    /// Whether it has the entry, or had it and let it go because it is committed.
    fn holds(&self, at: Position) -> bool {
        at.index <= self.base.index || self.entries.get(self.place(at.index)).is_some_and(|e| e.position == at)
    }

    /// Lets entries up to `to` go, but never the last one.
    fn compact(&mut self, to: Index) {
        let last = self.last().index;
        while self.entries.first().is_some_and(|e| e.position.index <= to && e.position.index < last) {
            self.base = self.entries.remove(0).position;
        }
    }

    fn execute(&mut self, ready: &Ready) {
        if let Some(hard) = ready.hard_state {
            assert!(hard.term >= self.hard.term, "the disk's term would fall from {} to {}", self.hard.term, hard.term);
            self.hard = hard;
        }
        if let Some(to) = ready.compact_to {
            self.compact(to);
        }
        if let Some(from) = ready.truncate_from {
            assert!(from <= self.last().index, "a truncation at {from} of a disk that ends at {}", self.last());
            self.entries.truncate(self.place(from));
        }
        for entry in &ready.entries {
            assert_eq!(entry.position.index, self.last().index.next(), "a write that does not follow the disk's log");
            assert!(entry.position.term <= self.hard.term, "{} is written in term {}", entry.position, self.hard.term);
            self.entries.push(entry.clone());
        }
    }
}

/// One member: what survives it, and what does not.
pub struct Member {
    pub id: Id,
    pub raft: Option<Raft>,
    pub life: u64,
    pub clock: Time,
    pub disk: Disk,
    pub queue: VecDeque<Ready>,
    pub stalled: bool,
    pub loads: VecDeque<LogRead>,
    pub applied: Index,
    /// It was told nothing at its birth: it knows who belongs to the cluster from the log and from states only.
    joined: bool,
    pub reads: BTreeMap<u64, String>,
    /// Each finished write of this life, as the disk reported it.
    pub done: Vec<Persisted>,
    waiting: Vec<(u64, Index)>,
    sequence: u64,
    newest_write: u64,
    held_shown: Vec<(u64, Envelope)>,
}

/// A message on its way.
#[derive(Clone)]
pub struct Flying {
    pub serial: u64,
    pub envelope: Envelope,
}

/// What a message is chosen by.
#[derive(Clone, Default)]
pub struct Filter {
    pub from: Option<Id>,
    pub to: Option<Id>,
    pub kind: Option<String>,
    pub term: Option<u64>,
    pub life: Option<u64>,
    pub skip: usize,
    pub count: Option<usize>,
}

impl Filter {
    fn takes(&self, envelope: &Envelope) -> bool {
        self.from.is_none_or(|n| envelope.from.0 == n)
            && self.to.is_none_or(|n| envelope.to.0 == n)
            && self.term.is_none_or(|t| envelope.term.0 == t)
            && self.life.is_none_or(|l| envelope.incarnation.0 == l)
            && self.kind.as_deref().is_none_or(|k| k == print::kind(&envelope.message))
    }
}

/// Limits of all members, as the script's `cluster` verb gave them.
#[derive(Clone, Default)]
pub struct Limits {
    pub timeout: Option<Duration>,
    pub inflight: Option<usize>,
    pub inflight_bytes: Option<usize>,
    pub append: Option<usize>,
    pub uncommitted: Option<usize>,
    pub memory: Option<usize>,
}

/// The cluster. See the module's essay.
#[derive(Default)]
pub struct World {
    pub members: BTreeMap<Id, Member>,
    pub limits: Limits,
    pub flying: Vec<Flying>,
    /// Everything that ever left a member.
    pub pool: Vec<Envelope>,
    pub cuts: BTreeSet<(Id, Id)>,
    pub lines: Vec<String>,
    /// Print what is told and what happens, but not each message and write.
    pub quiet: bool,
    serial: u64,
    shown: u64,
    leaders: BTreeMap<Term, Id>,
    grants: BTreeMap<(Id, Term), MemberId>,
    /// The highest commit index of any leader.
    committed: Index,
    history: BTreeMap<Index, Entry>,
    /// Who voted when the first members were born.
    first: BTreeSet<MemberId>,
}

impl World {
    pub fn line(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    fn detail(&mut self, line: impl Into<String>) {
        if !self.quiet {
            self.lines.push(line.into());
        }
    }

    pub fn ids(&self) -> Vec<Id> {
        self.members.keys().copied().collect()
    }

    pub fn member(&mut self, id: Id) -> &mut Member {
        self.members.get_mut(&id).unwrap_or_else(|| panic!("there is no n{id}"))
    }

    pub fn raft(&mut self, id: Id) -> &mut Raft {
        self.member(id).raft.as_mut().unwrap_or_else(|| panic!("n{id} is down"))
    }

    pub fn is_up(&self, id: Id) -> bool {
        self.members.get(&id).is_some_and(|m| m.raft.is_some())
    }

    // ---- lives

    /// Adds a member with an empty disk, not started. One that joins knows nobody.
    pub fn add(&mut self, id: Id, joins: bool) {
        if !joins {
            self.first.insert(MemberId(id));
        }
        let member = Member {
            joined: joins,
            id,
            raft: None,
            life: 0,
            clock: Time(0),
            disk: Disk::default(),
            queue: VecDeque::new(),
            stalled: false,
            loads: VecDeque::new(),
            applied: Index(0),
            reads: BTreeMap::new(),
            done: Vec::new(),
            waiting: Vec::new(),
            sequence: 0,
            newest_write: 0,
            held_shown: Vec::new(),
        };
        self.members.insert(id, member);
    }

    /// Gives a member a disk as earlier terms may have left it: `terms[i]` is the term of entry i + 1.
    pub fn set_disk(&mut self, id: Id, term: u64, vote: Option<Id>, terms: &[u64]) {
        let entries = terms.iter().enumerate().map(|(i, term)| {
            let position = Position { index: Index(i as u64 + 1), term: Term(*term) };
            Entry::new(position, EntryKind::Command, RequestId::default(), Bytes::new())
        });
        let hard = HardState { term: Term(term), vote: vote.map(MemberId) };
        self.member(id).disk = Disk { hard, base: Position::default(), entries: entries.collect() };
    }

    /// The configuration that a state at `applied` says, of a member that was told the first one at its birth or was not.
    fn configuration_at(&self, applied: Index, joined: bool) -> Configuration {
        let mut entries = self.history.range(..=applied).rev().map(|(_, entry)| entry);
        match entries.find(|entry| entry.kind == EntryKind::Configuration) {
            Some(entry) => Configuration::decode(&entry.data).expect("what was applied is sound").0,
            None if joined => Configuration::unknown(),
            None => Configuration::new(self.first.iter().copied()),
        }
    }

    /// Opens a member again on a state that another one has applied up to `at`, as after it has taken that over. Its log
    /// stays if it reaches there.
    pub fn install(&mut self, id: Id, from: Id, at: Option<Index>) {
        if self.is_up(id) {
            self.crash(id);
        }
        let at = at.unwrap_or(self.members[&from].applied);
        assert!(at <= self.members[&from].applied, "n{from} has not applied {at}");
        let reached = self.history[&at].position;
        self.line(format!("n{id}     is opened again on a state of n{from} at {reached}"));
        let m = self.member(id);
        assert!(m.applied <= at, "n{id} has applied {} already", m.applied);
        assert!(m.disk.hard.term >= reached.term, "n{id} knows only term {}", m.disk.hard.term);
        (m.applied, m.joined) = (at, false);
        if m.disk.last().index < at || !m.disk.holds(reached) {
            (m.disk.base, m.disk.entries) = (reached, Vec::new());
        }
        self.start(id, None);
    }

    /// Starts a member from its disk, as a new life.
    pub fn start(&mut self, id: Id, floor: Option<Position>) {
        let limits = self.limits.clone();
        let m = self.member(id);
        m.applied = m.applied.min(m.disk.last().index);
        let (applied, joined) = (m.applied, m.joined);
        let configuration = self.configuration_at(applied, joined);
        let m = self.member(id);
        assert!(m.raft.is_none(), "n{id} is up");
        m.life += 1;
        let mut config = Config::new(MemberId(id), Incarnation(m.life), configuration, Seed(id * 1000 + m.life));
        config.floor = floor;
        config.election_timeout = limits.timeout.unwrap_or(config.election_timeout);
        config.limits.max_inflight_messages = limits.inflight.unwrap_or(config.limits.max_inflight_messages);
        config.limits.max_inflight_bytes = limits.inflight_bytes.unwrap_or(config.limits.max_inflight_bytes);
        config.limits.max_append_bytes = limits.append.unwrap_or(config.limits.max_append_bytes);
        config.limits.max_uncommitted_bytes = limits.uncommitted.unwrap_or(config.limits.max_uncommitted_bytes);
        config.limits.memory_bytes = limits.memory.unwrap_or(config.limits.memory_bytes);
        let mut runs: Vec<(Index, Term)> = Vec::new();
        for entry in &m.disk.entries {
            if runs.last().is_none_or(|run| run.1 != entry.position.term) {
                runs.push((entry.position.index, entry.position.term));
            }
        }
        let tail = m.disk.entries[m.disk.place(applied.next())..].to_vec();
        let log = Log::restore(m.disk.base, runs, m.disk.last(), tail);
        m.raft = Some(Raft::new(config, m.disk.hard, log, m.applied, m.clock));
        (m.sequence, m.newest_write) = (0, 0);
    }

    /// Ends a life: memory, unfinished writes and unsent messages are gone.
    pub fn crash(&mut self, id: Id) {
        let m = self.member(id);
        assert!(m.raft.take().is_some(), "n{id} is down already");
        m.queue.clear();
        m.loads.clear();
        m.reads.clear();
        m.done.clear();
        m.waiting.clear();
        m.held_shown.clear();
        m.stalled = false;
    }

    /// Crashes while the oldest write is on its way: its hard state is on the disk, its entries are not.
    pub fn crash_torn(&mut self, id: Id) {
        let m = self.member(id);
        let mut torn = m.queue.front().unwrap_or_else(|| panic!("n{id} writes nothing")).clone();
        (torn.compact_to, torn.truncate_from, torn.entries) = (None, None, Vec::new());
        m.disk.execute(&torn);
        self.crash(id);
    }

    // ---- a turn

    /// Closes a turn of a member, in the order in which a node does it.
    pub fn turn(&mut self, id: Id) {
        let Some(mut raft) = self.member(id).raft.take() else { return };
        let clock = self.member(id).clock;
        raft.tick(clock);
        for (sequence, reason) in raft.take_refusals() {
            self.line(format!("n{id}     was refused #{sequence}: {reason:?}"));
        }
        raft.flush(clock);
        for event in raft.take_events() {
            self.line(format!("n{id}     {}", print::event(event)));
        }
        if let Some(ready) = raft.ready(clock) {
            self.member(id).queue.push_back(ready);
        }
        let envelopes: Vec<Envelope> = raft.messages().collect();
        let loads = raft.take_loads();
        if let Some(base) = raft.take_install() {
            self.line(format!("n{id}     must take over a state at {base} or later"));
        }
        let committed = raft.take_committed(usize::MAX);
        let reads = raft.take_reads();
        self.member(id).raft = Some(raft);
        self.member(id).loads.extend(loads);
        for envelope in envelopes {
            self.check_message(&envelope);
            self.post(envelope);
        }
        for entry in committed {
            self.apply(id, entry);
        }
        self.member(id).waiting.extend(reads.into_iter().map(|state| (state.context, state.index)));
        self.serve(id);
        self.check_leader(id);
        self.check_configuration(id);
    }

    fn apply(&mut self, id: Id, entry: Entry) {
        let m = self.member(id);
        assert_eq!(entry.position.index, m.applied.next(), "n{id} applies out of order");
        assert!(m.disk.holds(entry.position), "n{id} applies {} before its disk has it", entry.position);
        m.applied = entry.position.index;
        let known = self.history.entry(entry.position.index).or_insert_with(|| entry.clone());
        assert_eq!(*known, entry, "n{id} applies something else");
        self.line(format!("n{id}     applies {}", print::entry(&entry)));
    }

    fn serve(&mut self, id: Id) {
        let m = self.member(id);
        let applied = m.applied;
        let (ready, waiting) = m.waiting.drain(..).partition::<Vec<_>, _>(|(_, index)| *index <= applied);
        m.waiting = waiting;
        let served = ready.len();
        let named =
            |(context, index)| m.reads.remove(&context).map(|name| format!("n{id}     serves {name} at index {index}"));
        let lines: Vec<String> = ready.into_iter().filter_map(named).collect();
        // Of reads asked for by the number only the first has a name.
        let more = served - lines.len();
        self.lines.extend(lines);
        if more > 0 {
            self.line(format!("n{id}     serves {more} more"));
        }
    }

    fn post(&mut self, envelope: Envelope) {
        self.pool.push(envelope.clone());
        if self.cuts.contains(&(envelope.from.0, envelope.to.0)) {
            self.detail(print::message("✗", &envelope));
            return;
        }
        self.serial += 1;
        self.flying.push(Flying { serial: self.serial, envelope });
    }

    // ---- inputs

    /// Takes the messages that match, oldest first.
    pub fn take(&mut self, filter: &Filter) -> Vec<Flying> {
        let (mut skip, mut left) = (filter.skip, filter.count.unwrap_or(usize::MAX));
        self.flying
            .extract_if(.., |f| {
                if !filter.takes(&f.envelope) || left == 0 {
                    return false;
                }
                if skip > 0 {
                    skip -= 1;
                    return false;
                }
                left -= 1;
                true
            })
            .collect()
    }

    /// Messages that ever left a member and match.
    pub fn ancient(&self, filter: &Filter) -> Vec<Envelope> {
        let count = filter.count.unwrap_or(usize::MAX);
        self.pool.iter().filter(|e| filter.takes(e)).skip(filter.skip).take(count).cloned().collect()
    }

    /// Puts a second copy of the messages that match behind all others.
    pub fn copy(&mut self, filter: &Filter) {
        let count = filter.count.unwrap_or(usize::MAX);
        let copies: Vec<Flying> =
            self.flying.iter().filter(|f| filter.takes(&f.envelope)).skip(filter.skip).take(count).cloned().collect();
        for copy in copies {
            self.serial += 1;
            self.flying.push(Flying { serial: self.serial, ..copy });
        }
    }

    pub fn lose(&mut self, envelope: &Envelope) {
        self.detail(print::message("✗", envelope));
    }

    pub fn hear(&mut self, envelope: Envelope) {
        let to = envelope.to.0;
        if !self.is_up(to) {
            return self.lose(&envelope);
        }
        self.detail(print::message("→", &envelope));
        let clock = self.member(to).clock;
        self.raft(to).step(clock, envelope);
        self.turn(to);
    }

    /// Finishes the oldest `count` writes with one sync.
    pub fn write(&mut self, id: Id, count: usize) {
        let count = count.min(self.member(id).queue.len());
        if count == 0 {
            return;
        }
        let done: Vec<Ready> = self.member(id).queue.drain(..count).collect();
        for ready in &done {
            self.detail(format!("n{id}     wrote {}", print::ready(ready)));
            let m = self.member(id);
            m.disk.execute(ready);
            m.done.push(Persisted { seq: ready.seq, last: m.disk.last() });
        }
        self.report(id, done[count - 1].seq);
    }

    /// Tells a member that its writes up to `seq` are durable: again, if it was told before.
    pub fn report(&mut self, id: Id, seq: WriteSeq) {
        let m = self.member(id);
        let done =
            *m.done.iter().find(|done| done.seq == seq).unwrap_or_else(|| panic!("n{id} has not written w{seq}"));
        let clock = m.clock;
        self.raft(id).persisted(clock, done);
        self.turn(id);
    }

    pub fn load(&mut self, id: Id) {
        while let Some(read) = self.member(id).loads.pop_front() {
            let m = self.member(id);
            let mut bytes = 0;
            let gone = read.from <= m.disk.base.index;
            let from = if gone { m.disk.entries.len() } else { m.disk.place(read.from) };
            let fits = |e: &&Entry| {
                let first = bytes == 0;
                bytes += e.size();
                first || bytes <= read.max_bytes
            };
            let entries: Vec<Entry> = m.disk.entries[from..].iter().take_while(fits).cloned().collect();
            self.detail(format!("n{id}     loads {} for n{}", print::entries(&entries), read.peer));
            self.raft(id).loaded(read, entries);
            self.turn(id);
        }
    }

    /// Takes a name for a request of this member's present life.
    pub fn next_request(&mut self, id: Id) -> RequestId {
        let m = self.member(id);
        m.sequence += 1;
        RequestId { origin: MemberId(id), incarnation: Incarnation(m.life), sequence: m.sequence }
    }

    // ---- time

    /// Moves one member's clock, and lets it act at each of its deadlines on the way.
    pub fn sleep(&mut self, id: Id, duration: Duration) {
        let until = self.member(id).clock + duration;
        while self.is_up(id) && self.raft(id).deadline() <= until {
            let deadline = self.raft(id).deadline();
            self.member(id).clock = deadline.max(self.member(id).clock);
            self.turn(id);
            assert!(self.raft(id).deadline() > deadline, "n{id} does not let go of the deadline {deadline:?}");
        }
        self.member(id).clock = until;
    }

    /// Moves one member's clock to its own next deadline.
    pub fn tick(&mut self, id: Id) {
        let deadline = self.raft(id).deadline();
        let m = self.member(id);
        m.clock = m.clock.max(deadline);
        self.turn(id);
    }

    /// Delivers among `ids`, writes and loads until nothing is left to do. No clock moves.
    pub fn stabilize(&mut self, ids: &[Id]) {
        let within = |f: &Flying| ids.contains(&f.envelope.from.0) && ids.contains(&f.envelope.to.0);
        loop {
            if let Some(at) = self.flying.iter().position(within) {
                let flying = self.flying.remove(at);
                self.hear(flying.envelope);
                continue;
            }
            let busy = |m: &Member| m.raft.is_some() && !m.stalled;
            let next = ids.iter().copied().find(|id| {
                let m = &self.members[id];
                busy(m) && (!m.queue.is_empty() || !m.loads.is_empty())
            });
            let Some(id) = next else { return };
            let all = self.member(id).queue.len();
            self.write(id, all);
            self.load(id);
        }
    }

    /// Lets all members' clocks run together; messages and writes take no time.
    pub fn run(&mut self, duration: Duration) {
        let mut left = duration;
        let ids = self.ids();
        self.stabilize(&ids);
        loop {
            let up: Vec<Id> = self.ids().into_iter().filter(|id| self.is_up(*id)).collect();
            let wait = |w: &mut World, id: Id| w.raft(id).deadline().since(w.member(id).clock);
            let step = up.iter().map(|id| wait(self, *id)).min().unwrap_or(left).min(left);
            for id in self.ids() {
                let m = self.member(id);
                m.clock = m.clock + step;
            }
            left -= step;
            for id in up {
                if wait(self, id).is_zero() {
                    self.turn(id);
                    assert!(!wait(self, id).is_zero(), "n{id} does not let go of a deadline");
                }
            }
            self.stabilize(&ids);
            if left.is_zero() {
                return;
            }
        }
    }

    // ---- what is left open at the end of a verb

    /// Prints what this verb left on its way: messages, messages that wait for a write, writes.
    pub fn show_open(&mut self) {
        let mut lines = Vec::new();
        if !self.quiet {
            let new = self.flying.iter().filter(|f| f.serial > self.shown);
            lines.extend(new.map(|f| print::message("⋯", &f.envelope)));
        }
        self.shown = self.serial;
        for m in self.members.values_mut() {
            let Some(raft) = &m.raft else { continue };
            let held: Vec<(u64, Envelope)> = raft.held_messages().map(|(w, e)| (w.0, e.clone())).collect();
            let quiet = self.quiet;
            let new = held.iter().filter(|h| !quiet && !m.held_shown.contains(h));
            lines.extend(new.map(|(write, e)| format!("{}, after w{write}", print::message("⌛", e))));
            m.held_shown = held;
            let unseen = m.queue.iter().filter(|r| !quiet && r.seq.0 > m.newest_write);
            lines.extend(unseen.map(|ready| format!("n{}     writes {}", m.id, print::ready(ready))));
            m.newest_write = m.queue.back().map_or(m.newest_write, |r| r.seq.0.max(m.newest_write));
        }
        self.lines.extend(lines);
    }

    // ---- the laws

    fn check_message(&mut self, e: &Envelope) {
        let disk = &self.members[&e.from.0].disk;
        if !matches!(e.message, Message::PreVote { .. }) {
            assert!(e.term <= disk.hard.term, "left before its term was durable: {}", print::message("→", e));
        }
        match e.message {
            Message::VoteReply { granted: true, .. } => {
                let first = *self.grants.entry((e.from.0, e.term)).or_insert(e.to);
                assert_eq!(first, e.to, "n{} voted twice in term {}", e.from, e.term);
                assert!(disk.hard.term > e.term || disk.hard.vote == Some(e.to), "a vote that is not durable");
            }
            Message::Vote { .. } => {
                let own = *self.grants.entry((e.from.0, e.term)).or_insert(e.from);
                assert_eq!(own, e.from, "n{} asks in term {} but voted for another", e.from, e.term);
                assert!(disk.hard.term > e.term || disk.hard.vote == Some(e.from), "a vote for oneself, not durable");
            }
            Message::Appended { matched, .. } | Message::HeartbeatReply { matched, .. } => {
                assert!(matched <= disk.last().index, "not on the disk: {}", print::message("→", e));
            }
            _ => {}
        }
    }

    fn check_leader(&mut self, id: Id) {
        let status = self.raft(id).status();
        if status.leader != Some(MemberId(id)) {
            return;
        }
        let leader = *self.leaders.entry(status.term).or_insert(id);
        assert_eq!(leader, id, "two leaders in term {}", status.term);
        if status.commit <= self.committed {
            return; // checked when it was new: a script may let a disk rot since
        }
        self.committed = status.commit;
        let at = self.raft(id).position_before(status.commit.next());
        let holders: BTreeSet<MemberId> =
            self.members.values().filter(|m| m.disk.holds(at)).map(|m| MemberId(m.id)).collect();
        let enough = self.raft(id).configuration().is_quorum(&holders);
        assert!(enough, "n{id} commits {at}, which is on the disks of {holders:?}");
    }

    /// Finds the configuration that counts again, from what is applied and the log after that.
    fn check_configuration(&mut self, id: Id) {
        let m = &self.members[&id];
        let mut log: Vec<&Entry> = m.disk.entries.iter().collect();
        for ready in &m.queue {
            log.retain(|entry| ready.truncate_from.is_none_or(|from| entry.position.index < from));
            log.extend(&ready.entries);
        }
        let later = |entry: &&&Entry| entry.kind == EntryKind::Configuration && entry.position.index > m.applied;
        let expected = match log.iter().rfind(later) {
            Some(entry) => Configuration::decode(&entry.data).expect("what a leader appended is sound").0,
            None => self.configuration_at(m.applied, m.joined),
        };
        assert_eq!(*self.raft(id).configuration(), expected, "n{id} goes by another configuration");
    }
}

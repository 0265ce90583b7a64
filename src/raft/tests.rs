//! Whole clusters of the core under chance: random loss, duplication, reordering, ancient messages, partitions, slow disks
//! that finish in their own time, crashes that lose what was not synced. After every event the laws of the room's essay
//! are checked against a global record; then everything is healed, and the cluster must elect, commit and converge.
//!
//! `QUORATE_SEEDS=1000` runs more, `QUORATE_SEED=n` runs one. A failure names its seed.

use super::log::Log;
use super::quorum::Configuration;
use super::*;
use crate::ids::{Incarnation, RequestId};
use crate::rng::{Rng, Seed};
use crate::time::{Duration, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A member's disk: what is durable, and the writes on their way.
#[derive(Default)]
struct Disk {
    hard: HardState,
    entries: Vec<Entry>,
    lives: u64,
    writes: VecDeque<Ready>,
}

impl Disk {
    fn last(&self) -> Position {
        self.entries.last().map(|e| e.position).unwrap_or_default()
    }

    fn complete(&mut self) -> Option<Persisted> {
        let ready = self.writes.pop_front()?;
        if let Some(hard) = ready.hard_state {
            assert!(hard.term >= self.hard.term);
            self.hard = hard;
        }
        if let Some(from) = ready.truncate_from {
            self.entries.truncate(from.0 as usize - 1);
        }
        for entry in ready.entries {
            assert_eq!(entry.position.index, self.last().index.next());
            assert!(entry.position.term <= self.hard.term, "entry {} before its term", entry.position);
            self.entries.push(entry);
        }
        Some(Persisted { seq: ready.seq, last: self.last() })
    }
}

struct Member {
    raft: Option<Raft>,
    disk: Disk,
    applied: u64,
    paused_until: Time,
}

/// How wild a seed is: about half of the faults are off, the others anything.
struct Faults {
    loss: u64,
    duplication: u64,
    replay: u64,
    delay_ms: u64,
    disk_ms: u64,
    crash: u64,
    partition: u64,
    pause: u64,
    lost_hint: u64,
    transfer: u64,
}

impl Faults {
    fn draw(rng: &mut Rng) -> Faults {
        let mut some = |max: u64| if rng.below(2) == 0 { 0 } else { rng.below(max) };
        Faults {
            loss: some(300),
            duplication: some(300),
            replay: some(50),
            delay_ms: 1 + some(150),
            disk_ms: 1 + some(200),
            crash: some(12),
            partition: some(12),
            pause: some(10),
            lost_hint: some(20),
            transfer: some(10),
        }
    }
}

struct World {
    seed: u64,
    rng: Rng,
    now: Time,
    faults: Faults,
    members: BTreeMap<MemberId, Member>,
    network: BTreeMap<(Time, u64), Envelope>,
    order: u64,
    ancient: Vec<Envelope>,
    cut: BTreeSet<(MemberId, MemberId)>,
    proposed: u64,
    reads: BTreeMap<u64, Index>,
    busy: bool,
    // The global record.
    leaders: BTreeMap<Term, MemberId>,
    entries: BTreeMap<(Index, Term), (Term, u32)>,
    committed: Vec<(Term, u32)>,
    grants: BTreeMap<(MemberId, Term), MemberId>,
    leader_changes: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::new(Seed(seed));
        let size = [1, 3, 3, 3, 4, 5, 5][rng.below(7) as usize];
        let faults = Faults::draw(&mut rng);
        let mut world = World {
            seed,
            now: Time(0),
            faults,
            members: BTreeMap::new(),
            network: BTreeMap::new(),
            order: 0,
            ancient: Vec::new(),
            cut: BTreeSet::new(),
            proposed: 0,
            reads: BTreeMap::new(),
            busy: true,
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            committed: Vec::new(),
            grants: BTreeMap::new(),
            leader_changes: 0,
            rng,
        };
        for id in (1..=size).map(MemberId) {
            let member = Member { raft: None, disk: Disk::default(), applied: 0, paused_until: Time(0) };
            world.members.insert(id, member);
        }
        for id in (1..=size).map(MemberId) {
            world.start(id);
        }
        world
    }

    fn start(&mut self, id: MemberId) {
        let configuration = Configuration::new(self.members.keys().copied());
        let seed = Seed(self.rng.next_u64());
        let member = self.members.get_mut(&id).unwrap();
        member.disk.lives += 1;
        let mut config = Config::new(id, Incarnation(member.disk.lives), configuration, seed);
        if self.seed.is_multiple_of(3) {
            let limits = &mut config.limits;
            (limits.max_inflight_messages, limits.max_append_bytes, limits.memory_bytes) = (1, 1, 0);
        }
        let mut log = Log::empty();
        for entry in &member.disk.entries {
            log.append(entry.clone());
        }
        // What was applied survives to some point: the state's disk is synced now and then.
        let applied = self.rng.below(member.applied + 1);
        member.applied = applied;
        member.raft = Some(Raft::new(config, member.disk.hard, log, Index(applied), self.now));
    }

    fn crash(&mut self, id: MemberId) {
        let member = self.members.get_mut(&id).unwrap();
        // A prefix of the writes on their way may have become durable.
        let kept = self.rng.below(member.disk.writes.len() as u64 + 1);
        for _ in 0..kept {
            member.disk.complete();
        }
        member.disk.writes.clear();
        member.raft = None;
        self.reads.retain(|context, _| context >> 32 != id.0);
        if self.rng.below(2) == 0 {
            for other in self.up() {
                let life = Incarnation(self.members[&id].disk.lives);
                let now = self.now;
                self.raft(other).peer_lost(now, id, life);
            }
        }
    }

    fn up(&self) -> Vec<MemberId> {
        self.members.iter().filter(|(_, m)| m.raft.is_some()).map(|(id, _)| *id).collect()
    }

    fn raft(&mut self, id: MemberId) -> &mut Raft {
        self.members.get_mut(&id).unwrap().raft.as_mut().unwrap()
    }

    fn chance(&mut self, per_thousand: u64) -> bool {
        self.rng.below(1000) < per_thousand
    }

    /// One event: time moves to the next thing that happens, something happens, and the laws are checked.
    fn step(&mut self) {
        self.now = self.now + Duration::from_micros(self.rng.below(4000));
        let due: Vec<(Time, u64)> = self.network.range(..(self.now, u64::MAX)).map(|(k, _)| *k).collect();
        for key in due {
            let envelope = self.network.remove(&key).unwrap();
            let to = envelope.to;
            let member = self.members.get_mut(&to).unwrap();
            let listens = member.raft.is_some() && member.paused_until <= self.now;
            if listens && !self.cut.contains(&(envelope.from, to)) {
                self.check_sent(&envelope);
                let now = self.now;
                self.raft(to).step(now, envelope);
                self.turn(to);
            }
        }
        for id in self.up() {
            if self.members[&id].paused_until > self.now {
                continue;
            }
            if self.chance(1000 / self.faults.disk_ms.max(1)) {
                let now = self.now;
                let member = self.members.get_mut(&id).unwrap();
                if let Some(done) = member.disk.complete() {
                    member.raft.as_mut().unwrap().persisted(now, done);
                }
            }
            self.turn(id);
        }
        if self.busy {
            self.work();
        }
        self.harm();
    }

    /// Clients: proposals and reads, anywhere.
    fn work(&mut self) {
        let up = self.up();
        if up.is_empty() {
            return;
        }
        let id = up[self.rng.below(up.len() as u64) as usize];
        if self.chance(200) {
            self.proposed += 1;
            let sequence = self.proposed;
            let incarnation = Incarnation(self.members[&id].disk.lives);
            let request = RequestId { origin: id, incarnation, sequence };
            let data = Bytes::from(sequence.to_le_bytes().to_vec());
            let raft = self.raft(id);
            if raft.is_leader() {
                let _ = raft.propose(request, data, true);
            } else {
                raft.forward(request, data, true);
            }
        }
        if self.chance(100) {
            let context = id.0 << 32 | self.order;
            self.order += 1;
            // Whatever any member has committed by now, a read that begins now must see.
            self.reads.insert(context, Index(self.committed.len() as u64));
            self.raft(id).read(context);
        }
    }

    fn harm(&mut self) {
        let ids: Vec<MemberId> = self.members.keys().copied().collect();
        let id = ids[self.rng.below(ids.len() as u64) as usize];
        let other = ids[self.rng.below(ids.len() as u64) as usize];
        if self.members[&id].raft.is_none() {
            if self.chance(20) {
                self.start(id);
            }
        } else if self.chance(self.faults.crash) {
            self.crash(id);
        }
        if self.chance(self.faults.partition) {
            self.cut.insert((id, other));
        }
        if self.chance(15) {
            self.cut.pop_first();
        }
        if self.chance(self.faults.pause) {
            let until = self.now + Duration::from_millis(self.rng.below(3000));
            self.members.get_mut(&id).unwrap().paused_until = until;
        }
        if self.chance(self.faults.lost_hint) && self.members[&id].raft.is_some() {
            let life = Incarnation(self.members[&other].disk.lives);
            let now = self.now;
            self.raft(id).peer_lost(now, other, life);
        }
        if self.chance(self.faults.transfer) && self.members[&id].raft.is_some() {
            let now = self.now;
            let _ = self.raft(id).transfer(now, None);
        }
        if self.chance(self.faults.replay) && !self.ancient.is_empty() {
            let pick = self.rng.below(self.ancient.len() as u64) as usize;
            let envelope = self.ancient[pick].clone();
            self.post(envelope);
        }
    }

    fn post(&mut self, envelope: Envelope) {
        let delay = Duration::from_micros(100 + self.rng.below(self.faults.delay_ms * 1000));
        self.order += 1;
        self.network.insert((self.now + delay, self.order), envelope);
    }

    /// Closes a member's turn and carries what comes out.
    fn turn(&mut self, id: MemberId) {
        let now = self.now;
        let raft = self.raft(id);
        raft.tick(now);
        raft.flush(now);
        let ready = raft.ready(now);
        let messages: Vec<Envelope> = raft.messages().collect();
        let loads = raft.take_loads();
        let committed = raft.take_committed(usize::MAX);
        let reads = raft.take_reads();
        raft.take_events();
        raft.take_refusals();
        let (status, is_leader) = (raft.status(), raft.is_leader());
        self.members.get_mut(&id).unwrap().disk.writes.extend(ready);
        for envelope in messages {
            self.check_left(id, &envelope);
            if !self.chance(self.faults.loss) {
                self.post(envelope.clone());
            }
            if self.chance(self.faults.duplication) {
                self.post(envelope.clone());
            }
            if self.ancient.len() < 3000 {
                self.ancient.push(envelope);
            }
        }
        for read in loads {
            let disk = &self.members[&id].disk;
            let entries: Vec<Entry> = disk.entries.iter().skip(read.from.0 as usize - 1).take(1).cloned().collect();
            self.raft(id).loaded(read, entries);
        }
        self.check_committed(id, committed);
        for read in reads {
            if let Some(at_least) = self.reads.remove(&read.context) {
                assert!(read.index >= at_least, "a stale read at {id}: index {} < {at_least}", read.index);
            }
        }
        if is_leader {
            self.check_leader(id, &status);
        }
    }

    // ---- the laws

    /// A message has left: what it speaks of must be on its sender's disk.
    fn check_left(&mut self, id: MemberId, envelope: &Envelope) {
        let disk = &self.members[&id].disk;
        assert!(disk.hard.term >= envelope.term, "{envelope:?} left before its term was durable");
        match &envelope.message {
            Message::VoteReply { granted: true, .. } => {
                assert_eq!(
                    disk.hard,
                    HardState { term: envelope.term, vote: Some(envelope.to) },
                    "a grant not on disk"
                );
                let to = *self.grants.entry((id, envelope.term)).or_insert(envelope.to);
                assert_eq!(to, envelope.to, "{id} voted twice in term {}", envelope.term);
            }
            Message::Vote { .. } => {
                let to = *self.grants.entry((id, envelope.term)).or_insert(id);
                assert_eq!(to, id, "{id} voted twice in term {}", envelope.term);
            }
            Message::Appended { matched, .. } | Message::HeartbeatReply { matched, .. } => {
                assert!(disk.last().index >= *matched, "{id} acknowledged {matched}, its disk ends at {}", disk.last());
            }
            _ => {}
        }
    }

    /// Log matching: an entry's index and term determine it and everything before it.
    fn check_sent(&mut self, envelope: &Envelope) {
        if let Message::Append { prev, entries, .. } = &envelope.message {
            let mut before = prev.term;
            for entry in entries {
                let key = (entry.position.index, entry.position.term);
                let known = *self.entries.entry(key).or_insert((before, entry.checksum));
                assert_eq!(known, (before, entry.checksum), "two entries at {}", entry.position);
                before = entry.position.term;
            }
        }
    }

    /// State machine safety, and that what is committed is durable on a quorum.
    fn check_committed(&mut self, id: MemberId, committed: Vec<Entry>) {
        for entry in committed {
            let member = self.members.get_mut(&id).unwrap();
            member.applied += 1;
            assert_eq!(entry.position.index.0, member.applied, "{id} applies with a gap");
            assert!(member.disk.last().index >= entry.position.index, "{id} applies what its disk lacks");
            let index = entry.position.index.0 as usize;
            let this = (entry.position.term, entry.checksum);
            if let Some(known) = self.committed.get(index - 1) {
                assert_eq!(*known, this, "members apply different entries at {index}");
                continue;
            }
            self.committed.push(this);
            let holds = |m: &&Member| m.disk.entries.get(index - 1).is_some_and(|e| e.checksum == entry.checksum);
            let holders = self.members.values().filter(holds).count();
            assert!(holders * 2 > self.members.len(), "{index} is committed, but durable on {holders} only");
        }
    }

    /// Election safety and leader completeness.
    fn check_leader(&mut self, id: MemberId, status: &Status) {
        if self.leaders.insert(status.term, id).is_none() {
            self.leader_changes += 1;
            let log = &self.members[&id].raft.as_ref().unwrap().log;
            for (i, (term, _)) in self.committed.iter().enumerate() {
                let found = log.term_at(Index(i as u64 + 1));
                assert_eq!(found, Some(*term), "{id} leads term {} without committed entry {}", status.term, i + 1);
            }
        }
        assert_eq!(self.leaders[&status.term], id, "two leaders in term {}", status.term);
    }

    /// Heals everything: within a few election timeouts all must have applied the same, with something new in it.
    fn converge(&mut self) {
        self.cut.clear();
        self.faults = Faults { delay_ms: 5, disk_ms: 2, ..Faults::draw(&mut Rng::new(Seed(0))) };
        let off =
            [&mut self.faults.loss, &mut self.faults.duplication, &mut self.faults.replay, &mut self.faults.crash];
        off.into_iter().for_each(|rate| *rate = 0);
        let off = [&mut self.faults.partition, &mut self.faults.pause, &mut self.faults.lost_hint];
        off.into_iter().for_each(|rate| *rate = 0);
        self.faults.transfer = 0;
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.members.get_mut(&id).unwrap().paused_until = Time(0);
            if self.members[&id].raft.is_none() {
                self.start(id);
            }
        }
        // No new writes are needed for that.
        self.busy = false;
        let (before, deadline) = (self.committed.len(), self.now + Duration::from_secs(60));
        while self.now < deadline {
            self.step();
            let last = |m: &Member| m.raft.as_ref().unwrap().status().last.index.0;
            let ends: BTreeSet<(u64, u64)> = self.members.values().map(|m| (m.applied, last(m))).collect();
            if ends.iter().all(|(applied, last)| applied == last) && ends.len() == 1 && self.reads.is_empty() {
                return;
            }
        }
        let states: Vec<Status> = self.members.values().map(|m| m.raft.as_ref().unwrap().status()).collect();
        panic!("no convergence: {} committed before, {} now, {states:#?}", before, self.committed.len());
    }
}

fn run(seed: u64) -> (u64, usize) {
    let mut world = World::new(seed);
    for _ in 0..4000 {
        world.step();
    }
    world.converge();
    (world.leader_changes, world.committed.len())
}

#[test]
fn clusters_keep_the_laws_under_chance() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("QUORATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("QUORATE_SEEDS").unwrap_or(150),
    };
    let (mut changes, mut entries) = (Vec::new(), Vec::new());
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let (changed, committed) = outcome.unwrap_or_else(|_| panic!("seed {seed} breaks a law: QUORATE_SEED={seed}"));
        changes.push(changed);
        entries.push(committed);
    }
    changes.sort_unstable();
    entries.sort_unstable();
    let median = (changes[changes.len() / 2], entries[entries.len() / 2]);
    println!("{} seeds, median of {} leader changes and {} committed entries", changes.len(), median.0, median.1);
    assert!(changes.len() < 100 || (median.0 >= 2 && median.1 >= 50), "too tame to prove anything: {median:?}");
}

#[test]
fn entries_that_were_loaded_before_they_were_overwritten_are_not_sent() {
    let at = |index, term| Position { index: Index(index), term: Term(term) };
    let entry = |index, term| Entry::new(at(index, term), EntryKind::Command, RequestId::default(), Bytes::new());
    let configuration = Configuration::new((1..=3).map(MemberId));
    let mut config = Config::new(MemberId(1), Incarnation(1), configuration, Seed(1));
    config.limits.memory_bytes = 0;
    let mut log = Log::empty();
    (1..=3).for_each(|index| log.append(entry(index, 2)));
    let hard = HardState { term: Term(2), vote: None };
    let mut raft = Raft::new(config, hard, log, Index(3), Time(0));
    let now = raft.deadline();
    let turn = |raft: &mut Raft| {
        raft.tick(now);
        raft.flush(now);
        while let Some(ready) = raft.ready(now) {
            raft.persisted(now, Persisted { seq: ready.seq, last: raft.status().last });
            raft.flush(now);
        }
        raft.messages().map(|envelope| envelope.message).collect::<Vec<Message>>()
    };
    let hear = |raft: &mut Raft, term, message| {
        let (from, to, incarnation) = (MemberId(2), MemberId(1), Incarnation(1));
        raft.step(now, Envelope { from, to, term: Term(term), incarnation, message });
        turn(raft)
    };
    let campaign = Incarnation(1).first_number() + 1;
    raft.tick(now);
    hear(&mut raft, 2, Message::PreVoteReply { campaign, granted: true });
    hear(&mut raft, 3, Message::VoteReply { campaign: campaign + 1, granted: true });
    assert!(raft.is_leader());
    hear(&mut raft, 3, Message::Conflict { session: 1, prev_index: Index(3), hint: Position::default() });
    let read = raft.take_loads()[0];
    assert_eq!((read.peer, read.from), (MemberId(2), Index(1)));
    let appends = |messages: Vec<Message>| {
        messages.iter().filter(|m| matches!(m, Message::Append { entries, .. } if !entries.is_empty())).count()
    };
    raft.loaded(read, vec![entry(1, 1), entry(2, 1)]);
    assert_eq!(appends(turn(&mut raft)), 0, "entries of term 1 stood there once");
    let read = raft.take_loads()[0];
    raft.loaded(read, vec![entry(1, 2), entry(2, 2)]);
    assert_eq!(appends(turn(&mut raft)), 1);
}

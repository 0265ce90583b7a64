//! Whole members under chance: production nodes, log stores and machines over engines in memory, with a network that loses
//! and repeats, disks that finish in their own time, and crashes that lose what was not synced. Clients put unique values
//! and read; at the end every acknowledged put must be on every member, and equal digests at equal positions all the way.
//!
//! `QUORATE_SEEDS=1000` runs more, `QUORATE_SEED=n` runs one. A failure names its seed.

use super::marks::AckedMark;
use super::*;
use crate::ids::{Incarnation, Position, RequestId};
use crate::machine::{self, Level};
use crate::proto::{etcdserverpb as pb, quorate as own};
use crate::raft::{Entry, EntryKind, Envelope, LogRead, Message, Ready};
use crate::rng::{Rng, Seed};
use crate::storage::directory::{InitialMember, Meta};
use crate::storage::log::LogStore;
use crate::storage::memory::MemoryEngine;
use crate::storage::{Engine, Op};
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;

mod changes;
mod installs;
mod leases;
mod levels;
mod openings;
mod quarantine;
mod retained;
mod space;

struct Host {
    meta: Meta,
    raft: MemoryEngine,
    state: MemoryEngine,
    staging: MemoryEngine,
    alive: Option<Alive>,
}

struct Alive {
    node: Node,
    log: LogStore,
    persists: Vec<Ready>,
    loads: Vec<LogRead>,
    state_writes: Vec<StateWrite>,
    record_reads: Vec<RecordsRead>,
    stages: Vec<StageWrite>,
    /// What it was opened on.
    state: MemoryEngine,
    /// Another state has taken the place of the one that this life was opened on.
    adopted: bool,
}

struct World {
    rng: Rng,
    now: Time,
    hosts: BTreeMap<MemberId, Host>,
    network: BTreeMap<(Time, u64), Envelope>,
    order: u64,
    loss: u64,
    crash: u64,
    disk: u64,
    /// How often a member lets go of all that it may of its log, per thousand steps.
    cuts: u64,
    /// The ends of states taken over.
    installed: Vec<InstallStatus>,
    /// Puts by slot: the key, and what became of it.
    puts: BTreeMap<u64, String>,
    acknowledged: Vec<String>,
    refused: Vec<String>,
    /// Reads by slot: the key that was acknowledged before, and where it is read.
    reads: BTreeMap<u64, (MemberId, String)>,
    /// Changes of the membership that are not answered, by slot, and where they were asked for.
    changes: BTreeMap<u64, MemberId>,
    /// What became of the others.
    changed: BTreeMap<u64, Result<(), Reply>>,
    /// Members that stopped because they were removed.
    removed: Vec<MemberId>,
    /// Members whose state was made wrong, and those that have set it aside.
    bent: Vec<MemberId>,
    set_aside: Vec<MemberId>,
    digests: BTreeMap<Index, u64>,
    retention: Retention,
    /// What the members' releases know; those that are not here, no level.
    levels: BTreeMap<MemberId, Level>,
    /// Members that may halt because they know too little, and with what they did.
    may_halt: bool,
    halted: Vec<(MemberId, String)>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::new(Seed(seed));
        let size = [1, 3, 3, 5][rng.below(4) as usize];
        let initial = |id: u64| InitialMember {
            id: MemberId(id),
            name: format!("n{id}"),
            peer_urls: vec![format!("http://n{id}:2380")],
        };
        let members: Vec<InitialMember> = (1..=size).map(initial).collect();
        let host = |id: u64| Host {
            meta: Meta {
                cluster: ClusterId(7),
                member: MemberId(id),
                disk: DiskId(100 + id),
                members: members.clone(),
            },
            raft: MemoryEngine::new(),
            state: MemoryEngine::new(),
            staging: MemoryEngine::new(),
            alive: None,
        };
        let mut world = World {
            hosts: (1..=size).map(|id| (MemberId(id), host(id))).collect(),
            now: Time(0),
            network: BTreeMap::new(),
            order: 0,
            loss: [0, 0, 100, 300][rng.below(4) as usize],
            crash: [0, 4, 15][rng.below(3) as usize],
            disk: [2, 10, 60][rng.below(3) as usize],
            cuts: [0, 10, 100][rng.below(3) as usize],
            installed: Vec::new(),
            puts: BTreeMap::new(),
            acknowledged: Vec::new(),
            refused: Vec::new(),
            reads: BTreeMap::new(),
            changes: BTreeMap::new(),
            changed: BTreeMap::new(),
            removed: Vec::new(),
            bent: Vec::new(),
            set_aside: Vec::new(),
            digests: BTreeMap::new(),
            retention: Retention::default(),
            levels: BTreeMap::new(),
            may_halt: false,
            halted: Vec::new(),
            rng,
        };
        (1..=size).for_each(|id| world.start(MemberId(id)));
        world
    }

    fn start(&mut self, id: MemberId) {
        let seed = Seed(self.rng.next_u64());
        let host = self.hosts.get_mut(&id).unwrap();
        let mut config = config_of(id);
        // Passes go on while members crash; the keys here have one version each, so nothing that is looked for goes.
        config.retention = self.retention;
        config.level = self.levels.get(&id).copied().unwrap_or_default();
        config.space.auto_compaction = AutoCompaction::Periodic(Duration::from_millis(300));
        let (raft, state) = (Arc::new(host.raft.clone()), Arc::new(host.state.clone()));
        let opened = open(Opening { meta: host.meta.clone(), raft, state, config, seed, now: self.now }).unwrap();
        let (node, log) = (opened.node, opened.log);
        let (persists, loads, state_writes) = (vec![], vec![], vec![]);
        let (record_reads, stages, adopted, state) = (vec![], vec![], false, host.state.clone());
        host.alive = Some(Alive { node, log, persists, loads, state_writes, record_reads, stages, state, adopted });
    }

    fn crash(&mut self, id: MemberId) {
        let host = self.hosts.get_mut(&id).unwrap();
        let Some(alive) = host.alive.take() else { return };
        let life = alive.node.identity().incarnation;
        // What was staged is partly there, and may never be looked at.
        host.staging.crash(self.rng.below(host.staging.unsynced() as u64 + 1) as usize);
        host.raft.crash(self.rng.below(host.raft.unsynced() as u64 + 1) as usize);
        host.state.crash(self.rng.below(host.state.unsynced() as u64 + 1) as usize);
        self.lost(id, life);
    }

    /// Its callers see their connections break: whatever they asked for may have happened or not.
    fn lost(&mut self, id: MemberId, life: Incarnation) {
        self.puts.retain(|slot, _| slot >> 32 != id.0);
        self.reads.retain(|slot, _| slot >> 32 != id.0);
        self.changes.retain(|_, at| *at != id);
        for other in self.alive() {
            self.input(other, Input::PeerLost { peer: id, incarnation: life });
        }
    }

    fn alive(&self) -> Vec<MemberId> {
        self.hosts.iter().filter(|(_, h)| h.alive.is_some()).map(|(id, _)| *id).collect()
    }

    fn input(&mut self, id: MemberId, input: Input) {
        let now = self.now;
        self.hosts.get_mut(&id).unwrap().alive.as_mut().unwrap().node.handle(now, input).unwrap();
    }

    fn chance(&mut self, per_thousand: u64) -> bool {
        self.rng.below(1000) < per_thousand
    }

    fn step(&mut self, harm: bool) {
        self.now = self.now + Duration::from_micros(self.rng.below(4000));
        let due: Vec<_> = self.network.range(..(self.now, u64::MAX)).map(|(key, _)| *key).collect();
        for key in due {
            let envelope = self.network.remove(&key).unwrap();
            let to = envelope.to;
            if self.hosts.get(&to).is_some_and(|host| host.alive.is_some()) {
                self.input(to, Input::Peer(envelope));
                self.turn(to);
            }
        }
        for id in self.alive() {
            self.disks(id);
            self.turn(id);
        }
        for id in self.alive() {
            if self.chance(self.cuts) {
                self.compact_log(id);
            }
        }
        if harm && !self.hosts.is_empty() {
            let ids: Vec<MemberId> = self.hosts.keys().copied().collect();
            let id = ids[self.rng.below(ids.len() as u64) as usize];
            match self.hosts[&id].alive.is_some() {
                true if self.chance(self.crash) => self.crash(id),
                true => self.client(id),
                false if self.chance(20) => self.start(id),
                false => {}
            }
        }
    }

    /// A client at `id`: a put of something new, or a read of something acknowledged.
    fn client(&mut self, id: MemberId) {
        self.order += 1;
        let slot = id.0 << 32 | self.order;
        if self.chance(200) {
            let key = format!("k{}", self.order);
            let value = vec![b'v'; if self.rng.below(50) == 0 { 200_000 } else { 40 }];
            let put = pb::PutRequest { key: key.clone().into(), value: value.into(), ..Default::default() };
            let command = own::Command { op: Some(own::command::Op::Put(put)) }.encode_to_vec().into();
            self.puts.insert(slot, key);
            self.input(id, Input::Request(Slot(slot), Request::Propose { command, grows: true }));
        } else if self.chance(100) && !self.acknowledged.is_empty() {
            let pick = self.rng.below(self.acknowledged.len() as u64) as usize;
            self.reads.insert(slot, (id, self.acknowledged[pick].clone()));
            self.input(id, Input::Request(Slot(slot), Request::Read));
        }
    }

    /// The member lets go of what its state holds durably.
    fn compact_log(&mut self, id: MemberId) {
        let host = self.hosts.get_mut(&id).unwrap();
        let alive = host.alive.as_mut().unwrap();
        if alive.state_writes.is_empty() && !alive.node.is_hollow() && !alive.adopted {
            host.state.sync().unwrap();
            let applied = alive.node.applied().index;
            alive.node.raft.compact_to(applied);
        }
    }

    /// All that was handed to the disks is done; then the member is opened again.
    fn reopen(&mut self, id: MemberId) {
        let host = self.hosts.get_mut(&id).unwrap();
        let alive = host.alive.as_mut().unwrap();
        assert!(alive.adopted, "{id} ends for no reason");
        let batch: Vec<Ready> = alive.persists.drain(..).collect();
        if !batch.is_empty() {
            alive.log.persist(&batch).unwrap();
        }
        match alive.node.is_wrong() {
            true => {
                self.bent.retain(|bent| *bent != id);
                self.set_aside.push(id);
            }
            false => self.installed.push(alive.node.status().install),
        }
        self.crash(id);
        self.start(id);
    }

    /// The workers of `id` finish some of what they have.
    fn disks(&mut self, id: MemberId) {
        if self.rng.below(self.disk) != 0 {
            return;
        }
        let some_writes = self.rng.below(4) as usize;
        let host = self.hosts.get_mut(&id).unwrap();
        let alive = host.alive.as_mut().unwrap();
        let batch: Vec<Ready> = alive.persists.drain(..).collect();
        let mut inputs = Vec::new();
        if !batch.is_empty() {
            inputs.extend(alive.log.persist(&batch).unwrap().map(Input::Persisted));
        }
        for read in alive.loads.drain(..) {
            let entries = alive.log.read(read.from, read.max_bytes).unwrap();
            inputs.push(Input::Loaded { read, entries });
        }
        let count = some_writes.min(alive.state_writes.len());
        for write in alive.state_writes.drain(..count) {
            execute(&alive.state, &write.ops);
            inputs.push(Input::StateWritten { id: write.id });
            if write.sync {
                alive.state.sync().unwrap();
                inputs.push(Input::StateSynced { id: write.id });
            }
        }
        for read in alive.record_reads.drain(..) {
            let records = read.execute(&alive.state).unwrap();
            inputs.push(Input::RecordsRead { read, records });
        }
        let count = some_writes.min(alive.stages.len());
        for stage in alive.stages.drain(..count) {
            if stage.begin {
                host.staging = MemoryEngine::new();
            }
            execute(&host.staging, &stage.ops);
            if stage.adopt {
                host.staging.sync().unwrap();
                host.state = std::mem::replace(&mut host.staging, MemoryEngine::new());
                alive.adopted = true;
            }
            inputs.push(Input::Staged { id: stage.id });
        }
        inputs.into_iter().for_each(|input| self.input(id, input));
    }

    fn turn(&mut self, id: MemberId) {
        let now = self.now;
        let alive = self.hosts.get_mut(&id).unwrap().alive.as_mut().unwrap();
        let mut effects = Vec::new();
        if let Err(halt) = alive.node.advance(now, &mut effects) {
            if self.may_halt && !alive.node.is_removed() {
                self.halted.push((id, halt.0));
                return self.crash(id);
            }
            assert!(alive.node.is_removed(), "{halt}");
            let life = alive.node.identity().incarnation;
            self.hosts.remove(&id);
            self.removed.push(id);
            return self.lost(id, life);
        }
        let status = alive.node.status();
        assert!(status.applied <= status.commit.min(status.persisted), "{id} runs ahead of its log: {status:?}");
        let position = alive.node.applied();
        // A joiner has no founders to begin with, and applies nothing to that.
        if position.index > Index(0) && !self.bent.contains(&id) {
            let digest = *self.digests.entry(position.index).or_insert(status.digest);
            let differs = || format!("{id}'s state differs at {position}: {digest:x} and {:x}", status.digest);
            assert!(digest == status.digest, "{}", differs());
        }
        for effect in effects {
            self.effect(id, effect);
        }
    }

    fn effect(&mut self, id: MemberId, effect: Effect) {
        let alive = self.hosts.get_mut(&id).unwrap().alive.as_mut().unwrap();
        match effect {
            Effect::Persist(ready) => alive.persists.push(ready),
            Effect::Load(read) => alive.loads.push(read),
            Effect::WriteState(write) => {
                assert!(!alive.adopted, "{id} writes to a state that was replaced");
                alive.state_writes.push(write);
            }
            Effect::ReadRecords(read) => alive.record_reads.push(read),
            Effect::Stage(stage) => alive.stages.push(stage),
            Effect::Reopen => self.reopen(id),
            Effect::Send(envelope) => {
                let mut left = false;
                for copy in 0..2 {
                    let passes = if copy == 0 { 1000 - self.loss } else { self.loss / 2 };
                    if self.chance(passes) {
                        let delay =
                            Duration::from_micros(100 + self.rng.below(if copy == 0 { 3_000 } else { 900_000 }));
                        self.order += 1;
                        self.network.insert((self.now + delay, self.order), envelope.clone());
                        left = true;
                    }
                }
                // Lost on the way, or never sent for want of a connection: the sender knows only the latter.
                if let Message::Forward { id: RequestId { sequence, .. }, .. } = envelope.message
                    && !left
                    && self.chance(500)
                {
                    self.input(id, Input::Unsent { sequence });
                }
            }
            Effect::Reply(slot, reply) => self.reply(id, slot.0, reply),
        }
    }

    fn reply(&mut self, id: MemberId, slot: u64, reply: Reply) {
        match reply {
            Reply::Applied { outcome, stages, .. } => {
                self.passed(&stages);
                assert!(stages.by.is_some());
                outcome.unwrap();
                let key = self.puts.remove(&slot).expect("answered once");
                self.acknowledged.push(key);
            }
            Reply::Readable { stages, .. } => {
                self.passed(&stages);
                let (at, key) = self.reads.remove(&slot).expect("answered once");
                assert_eq!(at, id);
                assert!(self.finds(id, &key), "a linearizable read at {id} misses {key}");
            }
            reply if self.changes.remove(&slot).is_some() => {
                let outcome = if let Reply::Changed { .. } = reply { Ok(()) } else { Err(reply) };
                assert!(self.changed.insert(slot, outcome).is_none(), "answered once");
            }
            Reply::Refused(_) => {
                self.reads.remove(&slot);
                self.refused.extend(self.puts.remove(&slot));
            }
            Reply::Uncertain(_) => {
                self.puts.remove(&slot);
                self.reads.remove(&slot);
            }
            Reply::Transferred | Reply::Lease(_) | Reply::Changed { .. } => panic!("nobody asked for it"),
        }
    }

    /// Stages follow each other, and are over.
    fn passed(&self, stages: &Stages) {
        let Stages { taken, submitted, persisted, committed, .. } = *stages;
        assert!(taken <= submitted && submitted <= persisted.min(committed), "{stages:?}");
        assert!(persisted.max(committed) <= self.now, "{stages:?} at {:?}", self.now);
    }

    fn finds(&self, id: MemberId, key: &str) -> bool {
        let view = self.hosts[&id].alive.as_ref().unwrap().node.view();
        let range = pb::RangeRequest { key: key.to_string().into(), ..Default::default() };
        let found = view.range(&range).unwrap();
        // Each key is put once: a version above 1 would be a command applied twice.
        found.kvs.first().is_some_and(|kv| kv.version == 1)
    }

    fn verify(&mut self) {
        (self.loss, self.disk) = (0, 2);
        for id in self.hosts.keys().copied().collect::<Vec<_>>() {
            if self.hosts[&id].alive.is_none() {
                self.start(id);
            }
        }
        let deadline = self.now + Duration::from_secs(60);
        let settled = |w: &World| {
            let states: Vec<Status> = w.hosts.values().map(|h| h.alive.as_ref().unwrap().node.status()).collect();
            let same = states.windows(2).all(|w| (w[0].applied, w[0].digest) == (w[1].applied, w[1].digest));
            let view = w.hosts.values().next().unwrap().alive.as_ref().unwrap().node.view();
            let published = view.members().iter().all(|m| m.disk.is_some());
            same && published && states.iter().all(|s| s.applied == s.last && s.leader.is_some())
        };
        while !(settled(self) && self.puts.is_empty() && self.reads.is_empty()) {
            let states = || self.hosts.values().map(|h| h.alive.as_ref().unwrap().node.status()).collect::<Vec<_>>();
            let (puts, reads) = (self.puts.len(), self.reads.len());
            assert!(self.now < deadline, "no convergence: {puts} puts, {reads} reads open: {:#?}", states());
            self.step(false);
        }
        for id in self.alive() {
            for key in &self.acknowledged {
                assert!(self.finds(id, key), "{key} was acknowledged and is not at {id}");
            }
            for key in &self.refused {
                assert!(!self.finds(id, key), "{key} was refused and is at {id}");
            }
            let members = self.hosts[&id].alive.as_ref().unwrap().node.view().members();
            let published = |m: &machine::Member| m.disk == Some(DiskId(100 + m.id.0)) && !m.client_urls.is_empty();
            assert!(members.iter().all(published), "{members:?}");
        }
    }
}

fn config_of(id: MemberId) -> Config {
    Config {
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_millis(1000),
        request_timeout: Duration::from_millis(7000),
        name: format!("n{id}"),
        client_urls: vec![format!("http://n{id}:2379")],
        limits: crate::raft::Limits::default(),
        space: SpaceConfig::default(),
        retention: Retention::default(),
        max_learners: 1,
        piece_bytes: 16 << 10,
        checkpoint_entries: 8,
        level: Level::FIRST,
    }
}

fn run(seed: u64) -> (usize, usize) {
    let mut world = World::new(seed);
    for _ in 0..3000 {
        world.step(true);
    }
    world.verify();
    assert!(world.set_aside.is_empty(), "{:?} were called wrong", world.set_aside);
    (world.acknowledged.len(), world.installed.len())
}

#[test]
fn members_keep_every_acknowledged_write_under_chance() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("QUORATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("QUORATE_SEEDS").unwrap_or(60),
    };
    let (mut acknowledged, mut installed) = (Vec::new(), 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let outcome = outcome.unwrap_or_else(|_| panic!("seed {seed} breaks a law: QUORATE_SEED={seed}"));
        acknowledged.push(outcome.0);
        installed += outcome.1;
    }
    acknowledged.sort_unstable();
    let median = acknowledged[acknowledged.len() / 2];
    println!("{} seeds, median of {median} acknowledged writes, {installed} states taken over", acknowledged.len());
    assert!(acknowledged.len() < 50 || median > 50, "too tame to prove anything: {median}");
    assert!(acknowledged.len() < 50 || installed > 20, "too tame to prove anything: {installed}");
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    let digests = |seed| {
        let mut world = World::new(seed);
        (0..1500).for_each(|_| world.step(true));
        (world.digests, world.acknowledged, world.now, world.order)
    };
    assert_eq!(digests(5), digests(5));
}

#[test]
fn a_long_catch_up_takes_many_turns_and_asks_for_each_at_once() {
    let mut world = (0..).map(World::new).find(|world| world.hosts.len() == 1).unwrap();
    let id = MemberId(1);
    (world.crash, world.disk) = (0, 1);
    while world.hosts[&id].alive.as_ref().unwrap().node.status().leader.is_none() {
        world.step(false);
    }
    for slot in 1..=40 {
        let put =
            pb::PutRequest { key: format!("k{slot}").into(), value: vec![b'v'; 1 << 20].into(), ..Default::default() };
        let command = own::Command { op: Some(own::command::Op::Put(put)) }.encode_to_vec().into();
        world.puts.insert(slot, format!("k{slot}"));
        world.input(id, Input::Request(Slot(slot), Request::Propose { command, grows: true }));
    }
    world.turn(id);
    world.disks(id);
    let mut turns = 0;
    while !world.puts.is_empty() {
        world.turn(id);
        turns += 1;
        let (open, deadline) = (world.puts.len(), world.hosts[&id].alive.as_ref().unwrap().node.deadline());
        assert_eq!(
            open > 0,
            deadline <= world.now,
            "{open} puts are open, and the next turn is asked for at {deadline:?}"
        );
    }
    assert!(turns > 5, "40 MiB were applied in {turns} turns");
}

/// What the state of [`member_without_its_log`] witnesses.
const MARK: Position = Position { index: Index(10), term: Term(2) };

/// A member of three whose state witnesses of a log (to 10@2, in term 3, in its 5th life) that is gone.
fn member_without_its_log() -> (Node, LogStore) {
    let short = ShortLog::new();
    (short.node, short.log)
}

/// The same with its disks, which finish what they are given at once.
struct ShortLog {
    raft: MemoryEngine,
    state: MemoryEngine,
    node: Node,
    log: LogStore,
    now: Time,
}

impl ShortLog {
    fn new() -> ShortLog {
        let state = MemoryEngine::new();
        let mut ops = Vec::new();
        AckedMark { last: MARK, term: Term(3), incarnation: Incarnation(5) }.put(&mut ops);
        execute(&state, &ops);
        ShortLog::open(MemoryEngine::new(), state)
    }

    fn open(raft: MemoryEngine, state: MemoryEngine) -> ShortLog {
        let id = MemberId(1);
        let initial = |id| InitialMember { id: MemberId(id), name: String::new(), peer_urls: vec![] };
        let members = (1..=3).map(initial).collect();
        let meta = Meta { cluster: ClusterId(7), member: id, disk: DiskId(101), members };
        let (raft_engine, state_engine) = (Arc::new(raft.clone()), Arc::new(state.clone()));
        let (config, now) = (config_of(id), Time(0));
        let opening = Opening { meta, raft: raft_engine, state: state_engine, config, seed: Seed(1), now };
        let Opened { node, log } = open(opening).unwrap();
        ShortLog { raft, state, node, log, now }
    }

    fn restart(self) -> ShortLog {
        ShortLog::open(self.raft, self.state)
    }

    /// The leader of `term`, member 2, sends no-ops of these terms after `prev`.
    fn hear(&mut self, term: u64, prev: Position, terms: &[u64], commit: u64) {
        self.append(term, prev, terms, commit);
        self.settle();
    }

    /// The same, and no turn.
    fn append(&mut self, term: u64, prev: Position, terms: &[u64], commit: u64) {
        let entries = (prev.index.0 + 1..).zip(terms).map(|(index, term)| {
            let position = Position { index: Index(index), term: Term(*term) };
            Entry::new(position, EntryKind::Noop, RequestId::default(), Default::default())
        });
        let message =
            Message::Append { session: 1, sequence: 1, prev, commit: Index(commit), entries: entries.collect() };
        self.tell(term, message);
    }

    /// The leader of `term`, member 2, says something.
    fn tell(&mut self, term: u64, message: Message) {
        let (from, to, incarnation) = (MemberId(2), MemberId(1), Incarnation(1));
        let envelope = Envelope { from, to, term: Term(term), incarnation, message };
        self.node.handle(self.now, Input::Peer(envelope)).unwrap();
    }

    /// It was removed, and takes no more turns.
    fn is_over(&self) -> bool {
        self.node.is_removed() && !self.node.raft().is_leader()
    }

    /// A turn, whose effects nobody carries out.
    fn advance(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.is_over() {
            return effects;
        }
        self.node.advance(self.now, &mut effects).unwrap();
        effects
    }

    fn settle(&mut self) {
        let others = self.carry();
        assert!(others.iter().all(|effect| matches!(effect, Effect::Send(_))), "{others:?}");
    }

    /// Turns, until the disks have nothing to do; what is not theirs.
    fn carry(&mut self) -> Vec<Effect> {
        let mut others = Vec::new();
        loop {
            let mut inputs = Vec::new();
            for effect in self.advance() {
                match effect {
                    Effect::Persist(ready) => inputs.extend(self.log.persist(&[ready]).unwrap().map(Input::Persisted)),
                    Effect::WriteState(write) => {
                        execute(&self.state, &write.ops);
                        inputs.push(Input::StateWritten { id: write.id });
                        inputs.extend(write.sync.then_some(Input::StateSynced { id: write.id }));
                    }
                    other => others.push(other),
                }
            }
            if inputs.is_empty() {
                return others;
            }
            inputs.into_iter().for_each(|input| self.node.handle(self.now, input).unwrap());
        }
    }

    /// Lets the state's disk be synced, with what it then witnesses.
    fn synced_mark(&mut self) -> Position {
        self.now = self.now + Duration::from_secs(6);
        self.settle();
        self.mark()
    }

    fn mark(&self) -> Position {
        AckedMark::read(&self.state).unwrap().last
    }

    /// Whether the member asks for votes when it hears nobody.
    fn campaigns(&mut self) -> bool {
        self.now = self.now + Duration::from_secs(20);
        self.settle();
        self.node.status().role != RoleName::Follower
    }
}

fn execute(engine: &MemoryEngine, ops: &[Op]) {
    for op in ops {
        match op {
            Op::Put(key, value) => engine.put(key, value).unwrap(),
            Op::Delete(key) => engine.delete(key).unwrap(),
        }
    }
}

#[test]
fn the_mark_of_a_lost_log_stays_until_the_log_reaches_it_again() {
    let mut short = ShortLog::new();
    short.hear(4, Position::default(), &[1, 1, 1], 3);
    assert_eq!(short.node.status().applied, Index(3));
    assert_eq!(short.synced_mark(), MARK, "three entries are not the ten that were acknowledged");
    let mut short = short.restart();
    assert!(!short.campaigns());

    // A later leader cuts off a part of what came back.
    let first = Position { index: Index(1), term: Term(1) };
    let mut short = ShortLog::new();
    short.hear(4, Position::default(), &[1, 1, 1], 0);
    short.hear(5, first, &[2], 0);
    assert_eq!((short.node.status().persisted, short.mark()), (Index(2), MARK));

    let second = Position { index: Index(2), term: Term(2) };
    short.hear(5, second, &[2, 2, 2, 2, 2, 2, 2, 2, 5], 11);
    let reached = Position { index: Index(11), term: Term(5) };
    assert_eq!(short.synced_mark(), reached);
    assert!(short.restart().campaigns());
}

#[test]
fn a_lost_log_that_a_later_leader_filled_up_otherwise_opens() {
    // What was acknowledged up to 10@2 was never committed: the leader of term 4 has something else there.
    for (terms, complete) in [([4; 12], true), ([1; 12], false)] {
        let mut short = ShortLog::new();
        short.hear(4, Position::default(), &terms, 0);
        assert_eq!(short.node.status().persisted, Index(12));
        assert_eq!(short.restart().campaigns(), complete, "after a log of {terms:?}");
    }
}

#[test]
fn the_only_member_with_a_short_log_says_that_nobody_can_help() {
    let state = MemoryEngine::new();
    let mut ops = Vec::new();
    AckedMark { last: MARK, term: Term(3), incarnation: Incarnation(5) }.put(&mut ops);
    execute(&state, &ops);
    let id = MemberId(1);
    let members = vec![InitialMember { id, name: String::new(), peer_urls: vec![] }];
    let meta = Meta { cluster: ClusterId(7), member: id, disk: DiskId(101), members };
    let (raft, state, config) = (Arc::new(MemoryEngine::new()), Arc::new(state), config_of(id));
    let refusal = Halt::from(open(Opening { meta, raft, state, config, seed: Seed(1), now: Time(0) }).unwrap_err());
    assert!(refusal.0.contains("it is the only member") && refusal.0.contains("--data-dir"), "{refusal}");
}

#[test]
fn a_member_that_lost_its_log_begins_a_new_life_and_does_not_campaign() {
    let (mut node, _) = member_without_its_log();
    assert_eq!(node.identity().incarnation, Incarnation(6));
    let mut effects = Vec::new();
    for ms in (0..20_000).step_by(50) {
        node.advance(Time::from_millis(ms), &mut effects).unwrap();
    }
    assert_eq!((node.status().role, node.status().term), (RoleName::Follower, Term(3)));
    assert!(effects.is_empty(), "{effects:?}");
}

#[test]
fn a_member_that_lost_its_log_votes_by_the_mark_and_not_in_a_term_it_may_have_voted_in() {
    for (term, index, granted) in [(3, 10, false), (4, 9, false), (4, 10, true), (4, 11, true)] {
        let (mut node, mut log) = member_without_its_log();
        let last = Position { index: Index(index), term: Term(2) };
        let vote = crate::raft::Message::Vote { campaign: 1, last, transfer: false };
        let envelope = Envelope {
            from: MemberId(2),
            to: MemberId(1),
            term: Term(term),
            incarnation: Incarnation(1),
            message: vote,
        };
        let (now, mut effects) = (Time::from_millis(10), Vec::new());
        node.handle(now, Input::Peer(envelope)).unwrap();
        node.advance(now, &mut effects).unwrap();
        for effect in std::mem::take(&mut effects) {
            if let Effect::Persist(ready) = effect {
                let done = log.persist(&[ready]).unwrap().unwrap();
                node.handle(now, Input::Persisted(done)).unwrap();
                node.advance(now, &mut effects).unwrap();
            } else {
                effects.push(effect);
            }
        }
        let answered = effects.iter().any(|effect| {
            let Effect::Send(envelope) = effect else { return false };
            envelope.message == crate::raft::Message::VoteReply { campaign: 1, granted }
        });
        assert!(answered, "a vote for {last} in term {term} must be answered with {granted}: {effects:?}");
    }
}

/// One turn of `id`: what it forwards is held back, all else goes its way.
fn forwarded(world: &mut World, id: MemberId) -> Vec<Envelope> {
    let now = world.now;
    let mut effects = Vec::new();
    world.hosts.get_mut(&id).unwrap().alive.as_mut().unwrap().node.advance(now, &mut effects).unwrap();
    let mut held = Vec::new();
    for effect in effects {
        match effect {
            Effect::Send(envelope) if matches!(envelope.message, Message::Forward { .. }) => held.push(envelope),
            effect => world.effect(id, effect),
        }
    }
    held
}

#[test]
fn a_command_that_could_not_leave_is_submitted_again_and_applied_once() {
    let mut world = (0..).map(World::new).find(|world| world.hosts.len() == 3).unwrap();
    (world.loss, world.crash, world.disk) = (0, 0, 2);
    let follows = |world: &World, id: MemberId| {
        let status = world.hosts[&id].alive.as_ref().unwrap().node.status();
        status.leader.is_some_and(|leader| leader != id) && status.applied == status.last && status.applied > Index(3)
    };
    let id = loop {
        world.step(false);
        if let Some(id) = world.alive().into_iter().find(|id| follows(&world, *id)) {
            break id;
        }
    };
    let slot = id.0 << 32;
    let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    let command = own::Command { op: Some(own::command::Op::Put(put)) }.encode_to_vec().into();
    world.puts.insert(slot, "k".into());
    world.input(id, Input::Request(Slot(slot), Request::Propose { command, grows: true }));
    let sequence = |envelope: &Envelope| match &envelope.message {
        Message::Forward { id, .. } => id.sequence,
        other => panic!("{other:?}"),
    };
    let first = forwarded(&mut world, id);
    assert_eq!(first.len(), 1);
    assert_eq!(forwarded(&mut world, id).len(), 0, "it may have left");
    world.input(id, Input::Unsent { sequence: sequence(&first[0]) });
    let second = forwarded(&mut world, id);
    assert_eq!(second.len(), 1);
    assert!(sequence(&second[0]) > sequence(&first[0]));
    second.into_iter().for_each(|envelope| world.effect(id, Effect::Send(envelope)));
    while !world.puts.is_empty() {
        world.step(false);
    }
    assert_eq!(world.acknowledged, ["k"]);
    assert!(world.finds(id, "k"));
}

#[test]
fn a_read_whose_index_is_never_applied_here_is_answered_in_time() {
    let mut short = ShortLog::new();
    short.now = Time::from_millis(1);
    short.hear(4, Position::default(), &[1, 1, 1], 3);
    short.node.handle(short.now, Input::Request(Slot(1), Request::Read)).unwrap();
    let mut effects = Vec::new();
    short.node.advance(short.now, &mut effects).unwrap();
    let asked = effects.iter().find_map(|effect| match effect {
        Effect::Send(Envelope { message: Message::ReadIndex { context }, .. }) => Some(*context),
        _ => None,
    });
    // The leader has committed an entry that never arrives.
    let message = Message::ReadIndexReply { context: asked.expect("the leader is asked"), index: Index(4) };
    let (from, to, incarnation) = (MemberId(2), MemberId(1), Incarnation(1));
    let envelope = Envelope { from, to, term: Term(4), incarnation, message };
    short.node.handle(short.now, Input::Peer(envelope)).unwrap();
    let mut replies = Vec::new();
    let end = short.now + config_of(to).request_timeout;
    while short.now <= end && replies.is_empty() {
        short.now = short.node.deadline().max(short.now + Duration::from_millis(1));
        let mut effects = Vec::new();
        short.node.advance(short.now, &mut effects).unwrap();
        replies.extend(effects.into_iter().filter(|effect| matches!(effect, Effect::Reply(..))));
    }
    assert!(matches!(replies[..], [Effect::Reply(Slot(1), Reply::Refused(_) | Reply::Uncertain(_))]), "{replies:?}");
}

#[test]
fn a_sync_that_waits_for_a_lower_mark_makes_no_turns() {
    let mut short = ShortLog::new();
    short.now = Time::from_millis(1);
    short.hear(4, Position::default(), &[2; 12], 0);
    short.synced_mark();
    short.hear(4, Position { index: Index(12), term: Term(2) }, &[], 5);
    short.now = short.now + Duration::from_secs(6);
    let entry = Entry::new(
        Position { index: Index(8), term: Term(5) },
        EntryKind::Noop,
        RequestId::default(),
        Default::default(),
    );
    let prev = Position { index: Index(7), term: Term(2) };
    let message = Message::Append { session: 1, sequence: 1, prev, commit: Index(5), entries: vec![entry] };
    let (from, to, incarnation) = (MemberId(3), MemberId(1), Incarnation(1));
    let envelope = Envelope { from, to, term: Term(5), incarnation, message };
    short.node.handle(short.now, Input::Peer(envelope)).unwrap();
    let mut effects = Vec::new();
    short.node.advance(short.now, &mut effects).unwrap();
    assert!(matches!(effects[..], [Effect::WriteState(StateWrite { sync: true, .. })]), "{effects:?}");
    assert!(short.node.deadline() > short.now, "there is nothing to do until the mark is lowered");
}

#[test]
fn a_change_that_waits_for_a_leader_makes_no_turns() {
    let mut short = ShortLog::new();
    short.now = Time::from_millis(1);
    short.hear(4, Position::default(), &[1, 1, 1], 3);
    let change = own::MemberChange { remove: vec![3], ..Default::default() };
    short.node.handle(short.now, Input::Request(Slot(1), Request::Change(change))).unwrap();
    let is_question = |effect: &Effect| matches!(effect, Effect::Send(Envelope { message: Message::Ask { .. }, .. }));
    assert!(short.advance().iter().any(is_question));
    while short.node.status().leader.is_some() {
        short.now = short.node.deadline().max(short.now + Duration::from_nanos(1));
        short.advance();
    }
    for _ in 0..20 {
        assert!(short.node.deadline() > short.now, "there is nobody to ask again");
        short.now = short.now + Duration::from_millis(10);
        short.advance();
    }
}

#[test]
fn the_mark_witnesses_no_term_that_is_not_durable() {
    let mut short = ShortLog::new();
    short.now = Time::from_millis(1);
    short.hear(4, Position::default(), &[1, 1, 1], 3);
    short.now = short.now + Duration::from_secs(6);
    let message = Message::Heartbeat { session: 1, sequence: 1, commit: Index(0), round: 0 };
    let (from, to, incarnation) = (MemberId(3), MemberId(1), Incarnation(1));
    let envelope = Envelope { from, to, term: Term(9), incarnation, message };
    short.node.handle(short.now, Input::Peer(envelope)).unwrap();
    let mut effects = Vec::new();
    short.node.advance(short.now, &mut effects).unwrap();
    for effect in effects {
        if let Effect::WriteState(write) = effect {
            execute(&short.state, &write.ops);
        }
    }
    // Term 9 is on its way to the log's disk. Of terms 5 to 8 this member never heard: it has no vote there to forget.
    let mark = AckedMark::read(&short.state).unwrap();
    assert_eq!((mark.term, mark.incarnation), (Term(4), Incarnation(6)));
}

#[test]
fn a_read_waits_until_its_index_is_applied_though_it_is_committed() {
    let mut short = ShortLog::new();
    short.now = Time::from_millis(1);
    short.hear(4, Position::default(), &[1, 1, 1], 3);
    short.node.handle(short.now, Input::Request(Slot(1), Request::Read)).unwrap();
    let context = short.advance().iter().find_map(|effect| match effect {
        Effect::Send(Envelope { message: Message::ReadIndex { context }, .. }) => Some(*context),
        _ => None,
    });
    // The fourth entry is committed, and on its way to the disk.
    let at = |index, term| Position { index: Index(index), term: Term(term) };
    let entry = Entry::new(at(4, 4), EntryKind::Noop, RequestId::default(), Default::default());
    let (prev, commit) = (at(3, 1), Index(4));
    short.tell(4, Message::Append { session: 1, sequence: 2, prev, commit, entries: vec![entry] });
    short.tell(4, Message::ReadIndexReply { context: context.expect("the leader is asked"), index: commit });
    let effects = short.advance();
    assert_eq!((short.node.status().commit, short.node.status().applied), (Index(4), Index(3)));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Reply(..))), "{effects:?}");
    for effect in effects {
        if let Effect::Persist(ready) = effect {
            let done = short.log.persist(&[ready]).unwrap().unwrap();
            short.node.handle(short.now, Input::Persisted(done)).unwrap();
        }
    }
    let answered = short.advance().iter().any(|e| matches!(e, Effect::Reply(Slot(1), Reply::Readable { .. })));
    assert!(answered && short.node.status().applied == Index(4));
}

/// A member of three that knows leader 2 of term 4; what it says when it hears of it.
fn follower() -> (ShortLog, Vec<Effect>) {
    let mut member = ShortLog::open(MemoryEngine::new(), MemoryEngine::new());
    member.now = Time::from_millis(1);
    member.tell(4, Message::Heartbeat { session: 1, sequence: 0, commit: Index(0), round: 0 });
    let said = member.carry();
    (member, said)
}

fn put(key: &'static str) -> Bytes {
    let put = pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
    own::Command { op: Some(own::command::Op::Put(put)) }.encode_to_vec().into()
}

/// The forwarded commands among `effects`, with their sequence.
fn commands(effects: &[Effect]) -> Vec<(u64, Bytes)> {
    let command = |effect: &Effect| match effect {
        Effect::Send(Envelope { message: Message::Forward { id, data, .. }, .. }) => Some((id.sequence, data.clone())),
        _ => None,
    };
    effects.iter().filter_map(command).collect()
}

#[test]
fn a_command_of_a_lost_leadership_is_uncertain_and_never_leaves_again() {
    let (mut member, _) = follower();
    let command = put("k");
    let request = Request::Propose { command: command.clone(), grows: true };
    member.node.handle(member.now, Input::Request(Slot(1), request)).unwrap();
    assert!(commands(&member.carry()).iter().any(|(_, data)| *data == command));
    member.tell(5, Message::Heartbeat { session: 1, sequence: 0, commit: Index(0), round: 0 });
    let effects = member.carry();
    assert!(commands(&effects).iter().all(|(_, data)| *data != command), "{effects:?}");
    let replies: Vec<&Effect> = effects.iter().filter(|effect| matches!(effect, Effect::Reply(..))).collect();
    assert!(matches!(replies[..], [Effect::Reply(Slot(1), Reply::Uncertain(Uncertain::LeaderLost))]), "{replies:?}");
}

#[test]
fn a_refusal_of_a_former_life_is_not_of_this_one() {
    let (mut member, _) = follower();
    let sequences = |member: &mut ShortLog| {
        let request = Request::Propose { command: put("k"), grows: true };
        member.node.handle(member.now, Input::Request(Slot(1), request)).unwrap();
        let sent = commands(&member.carry());
        sent.into_iter().map(|(sequence, _)| sequence).collect::<Vec<_>>()
    };
    let before = sequences(&mut member);
    let mut member = member.restart();
    member.now = Time::from_millis(1);
    member.tell(4, Message::Heartbeat { session: 1, sequence: 0, commit: Index(0), round: 0 });
    let mut now = commands(&member.carry()).into_iter().map(|(sequence, _)| sequence).collect::<Vec<_>>();
    now.extend(sequences(&mut member));
    assert!(!before.is_empty() && now.len() == 2, "{before:?} {now:?}");
    assert!(before.iter().all(|sequence| !now.contains(sequence)), "{before:?} and now {now:?}");
}

#[test]
fn a_member_announces_itself_to_each_leader_until_the_state_has_it() {
    let (mut member, said) = follower();
    assert_eq!(commands(&said).len(), 1);
    assert_eq!(commands(&member.carry()).len(), 0, "it is on its way");
    member.tell(5, Message::Heartbeat { session: 1, sequence: 0, commit: Index(0), round: 0 });
    assert_eq!(commands(&member.carry()).len(), 1, "it may have been lost with the leader");
}

#[test]
fn the_mark_witnesses_no_entry_that_is_not_durable() {
    let (mut member, _) = follower();
    member.hear(4, Position::default(), &[1], 1);
    member.now = member.now + Duration::from_secs(6);
    let at = |index, term| Position { index: Index(index), term: Term(term) };
    let entry = Entry::new(at(2, 4), EntryKind::Noop, RequestId::default(), Default::default());
    member.tell(4, Message::Append { session: 1, sequence: 2, prev: at(1, 1), commit: Index(1), entries: vec![entry] });
    for effect in member.advance() {
        if let Effect::WriteState(write) = effect {
            execute(&member.state, &write.ops);
        }
    }
    assert_eq!((member.node.status().last, member.mark()), (Index(2), at(1, 1)));
}

#[test]
fn a_state_that_another_log_made_is_refused() {
    let (mut member, _) = follower();
    member.hear(4, Position::default(), &[1, 1, 1], 3);
    let (mut other, _) = follower();
    other.hear(4, Position::default(), &[2, 2, 2, 2], 0);
    let id = MemberId(1);
    let initial = |id| InitialMember { id: MemberId(id), name: String::new(), peer_urls: vec![] };
    let meta = Meta { cluster: ClusterId(7), member: id, disk: DiskId(101), members: (1..=3).map(initial).collect() };
    let (raft, state) = (Arc::new(other.raft), Arc::new(member.state));
    let opening = Opening { meta, raft, state, config: config_of(id), seed: Seed(1), now: Time(0) };
    let refusal = Halt::from(open(opening).unwrap_err());
    assert!(refusal.0.contains("the state was made from entry 3@1"), "{refusal}");
}

#[test]
fn an_entry_with_a_flipped_bit_is_neither_accepted_nor_applied() {
    let mut entry = Entry::new(
        Position { index: Index(1), term: Term(4) },
        EntryKind::Noop,
        RequestId::default(),
        Default::default(),
    );
    entry.checksum ^= 1;
    let at = entry.position;
    let append = |prev, entries| Message::Append { session: 1, sequence: 1, prev, commit: Index(1), entries };
    let (mut member, _) = follower();
    member.tell(4, append(Position::default(), vec![entry.clone()]));
    member.settle();
    assert_eq!(member.node.status().last, Index(0));

    let mut log = raft::log::Log::empty();
    log.append(entry);
    let configuration = raft::quorum::Configuration::new((1..=3).map(MemberId));
    let config = raft::Config::new(MemberId(1), Incarnation(1), configuration, Seed(1));
    let hard = raft::HardState { term: Term(4), vote: None };
    member.node.raft = raft::Raft::new(config, hard, log, Index(0), member.now);
    member.tell(4, append(at, vec![]));
    let halt = member.node.advance(member.now, &mut Vec::new()).unwrap_err();
    assert!(halt.0.contains("entry 1@4 is not what was appended"), "{halt}");
}

#[test]
fn a_value_is_readable_before_the_states_disk_has_it() {
    let (mut member, _) = follower();
    let at = Position { index: Index(1), term: Term(4) };
    let entry = Entry::new(at, EntryKind::Command, RequestId::default(), put("k"));
    let prev = Position::default();
    member.tell(4, Message::Append { session: 1, sequence: 1, prev, commit: Index(1), entries: vec![entry] });
    for effect in member.advance() {
        if let Effect::Persist(ready) = effect {
            let done = member.log.persist(&[ready]).unwrap().unwrap();
            member.node.handle(member.now, Input::Persisted(done)).unwrap();
        }
    }
    let effects = member.advance();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::WriteState(_))), "{effects:?}");
    let range = pb::RangeRequest { key: "k".into(), ..Default::default() };
    assert_eq!(member.node.view().range(&range).unwrap().kvs[0].value, "v");
}

//! The whole member as a host: the production node, log store and machine, born by the production `open`, on two engines
//! in memory, and a third one for a state that is being staged: it takes the place of the other in one step.
//!
//! A crash executes what was on its way to the disks without a sync and then keeps a prefix of everything unsynced, which is
//! exactly what the engine's contract allows (`storage/mod.rs`), and the worst of it.

use super::host::{Born, Host, Shape, Stamp, Torn};
use super::plan::MAX_NODES;
use super::workload;
use crate::check::history::{Call, Reply};
use crate::ids::{ClusterId, DiskId, Index, MemberId, Position, Term};
use crate::machine::{self, Level};
use crate::node::events::Glance;
use crate::node::{
    Config, Effect, Halt, Input, InstallStatus, Node, Opened, Opening, RecordsRead, StageWrite, StateWrite, Unopened,
    can_be_made_again, open,
};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::KeyValue;
use crate::raft::{Entry, LogRead, Persisted, Raft, Ready};
use crate::rng::{Seed, mix};
use crate::storage::directory::{InitialMember, Meta};
use crate::storage::key::{Key, get_value};
use crate::storage::log::LogStore;
use crate::storage::memory::MemoryEngine;
use crate::storage::{Engine, Op};
use crate::time::Time;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;

/// See the module's essay.
pub struct Member {
    id: MemberId,
    shape: Shape,
    /// How many disks it has had.
    disks: u64,
    raft: MemoryEngine,
    state: MemoryEngine,
    staging: MemoryEngine,
    rotten: Option<Rotten>,
    /// Of which disk a picture is taken, and how many of the other one's unsynced writes go with it.
    exposed: Option<(bool, u64)>,
    /// The state's disk is another one than it was opened on.
    adopted: bool,
    alive: Option<(Node, LogStore)>,
}

/// No owner's lease has such an id.
const BENT: i64 = 1 << 40;

struct Rotten {
    log: bool,
    key: Bytes,
    byte: usize,
    mask: u8,
}

fn name(id: MemberId) -> String {
    format!("n{id}")
}

fn disk_id(id: MemberId, disks: u64) -> DiskId {
    DiskId(id.0 * 1000 + disks)
}

impl Member {
    fn node(&self) -> Option<&Node> {
        self.alive.as_ref().map(|(node, _)| node)
    }

    fn meta(&self) -> Meta {
        let initial = |id| InitialMember {
            id: MemberId(id),
            name: name(MemberId(id)),
            peer_urls: vec![format!("http://n{id}:2380")],
        };
        Meta {
            cluster: ClusterId(7),
            member: self.id,
            disk: disk_id(self.id, self.disks),
            members: if self.is_founder() { (1..=self.shape.nodes).map(initial).collect() } else { Vec::new() },
        }
    }

    /// Who is none joins, and knows nobody.
    fn is_founder(&self) -> bool {
        self.id.0 <= self.shape.nodes
    }

    fn open(&self, now: Time, seed: Seed) -> Result<Opened, Unopened> {
        let (raft, state) = (Arc::new(self.raft.clone()), Arc::new(self.state.clone()));
        open(Opening { meta: self.meta(), raft, state, config: self.config(), seed, now })
    }

    fn config(&self) -> Config {
        Config {
            heartbeat_interval: self.shape.timers.heartbeat,
            election_timeout: self.shape.timers.election,
            request_timeout: self.shape.request_timeout,
            name: name(self.id),
            client_urls: vec![format!("http://n{}:2379", self.id)],
            limits: self.shape.limits.clone(),
            space: self.shape.space,
            retention: self.shape.retention,
            max_learners: 1,
            piece_bytes: self.shape.piece_bytes,
            checkpoint_entries: self.shape.checkpoint_entries,
            level: Level::NEWEST,
        }
    }

    fn engine(&self, log: bool) -> &MemoryEngine {
        if log { &self.raft } else { &self.state }
    }

    /// Every value that a bit can flip in, slots that are left over from a torn write apart.
    fn places(&self, log: bool) -> Vec<(Bytes, usize)> {
        let mut places = Vec::new();
        let mut whole = None;
        let _ = self.engine(log).scan(&[], &[0xff], &mut |key, value| {
            // A slot means something if the first slot of its value is there.
            match Key::decode(key) {
                Some(Key::Log { first, chunk } | Key::Record { first, chunk }) => {
                    if chunk == 0 {
                        whole = Some(first);
                    }
                    if whole == Some(first) && !value.is_empty() {
                        places.push((Bytes::copy_from_slice(key), value.len()));
                    }
                }
                Some(Key::HardState | Key::Incarnation | Key::AckedMark) if !value.is_empty() => {
                    places.push((Bytes::copy_from_slice(key), value.len()));
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        places
    }
}

fn execute(engine: &MemoryEngine, ops: &[Op]) -> Result<(), String> {
    let write = |op: &Op| match op {
        Op::Put(key, value) => engine.put(key, value),
        Op::Delete(key) => engine.delete(key),
    };
    ops.iter().try_for_each(write).map_err(|fault| fault.to_string())
}

impl Host for Member {
    const HAS_CONTENTS: bool = true;

    fn new(id: MemberId, shape: &Shape) -> Member {
        Member {
            id,
            shape: shape.clone(),
            disks: 1,
            raft: MemoryEngine::new(),
            state: MemoryEngine::new(),
            staging: MemoryEngine::new(),
            rotten: None,
            exposed: None,
            adopted: false,
            alive: None,
        }
    }

    fn start(&mut self, now: Time, seed: Seed, may: bool) -> Result<Born, Halt> {
        let (opened, aside) = match self.open(now, seed) {
            Err(Unopened::State(why)) if may => {
                can_be_made_again(&self.meta(), Arc::new(self.raft.clone()))?;
                (self.state, self.rotten) = (MemoryEngine::new(), None);
                (self.open(now, seed)?, Some(why.to_string()))
            }
            opened => (opened?, None),
        };
        let base = opened.log.base();
        let entries = opened.log.read(base.index.next(), usize::MAX).map_err(|fault| Halt(fault.to_string()))?;
        let glance = opened.node.glance();
        let born = Born {
            life: opened.node.identity().incarnation,
            hard: opened.log.hard_state(),
            base,
            log: entries.iter().map(Stamp::of).collect(),
            applied: (glance.applied, glance.digest),
            lost: opened.node.raft().lost_mark(),
            hollow: opened.node.is_hollow(),
            aside,
        };
        self.alive = Some((opened.node, opened.log));
        self.adopted = false;
        Ok(born)
    }

    fn expose(&mut self, log: bool, number: u64) {
        self.engine(log).expose(number);
        self.exposed = Some((log, number));
    }

    fn image(&mut self, now: Time, seed: Seed) -> Option<Result<Born, Halt>> {
        let (log, number) = self.exposed.filter(|_| !self.adopted)?;
        let (one, other) = (self.engine(log).picture()?, self.engine(!log).after_crash(number));
        self.exposed = None;
        let (raft, state) = if log { (one, other) } else { (other, one) };
        let mut image = Member { disks: self.disks, raft, state, ..Member::new(self.id, &self.shape) };
        Some(image.start(now, seed, false))
    }

    fn is_up(&self) -> bool {
        self.alive.is_some()
    }

    fn crash(&mut self, torn: Torn<'_>) {
        if let Some((_, mut log)) = self.alive.take() {
            self.raft.fail_syncs_after(0);
            // Written, not synced; it fails by request.
            let _ = log.persist(torn.log);
            for write in torn.state {
                let _ = execute(&self.state, &write.ops);
            }
        }
        self.raft.crash((torn.keep)(self.raft.unsynced() as u64) as usize);
        self.state.crash((torn.keep)(self.state.unsynced() as u64) as usize);
        self.staging.crash((torn.keep)(self.staging.unsynced() as u64) as usize);
    }

    fn handle(&mut self, now: Time, input: Input) -> Result<(), Halt> {
        self.alive.as_mut().map_or(Ok(()), |(node, _)| node.handle(now, input))
    }

    fn advance(&mut self, now: Time, effects: &mut Vec<Effect>) -> Result<(), Halt> {
        self.alive.as_mut().map_or(Ok(()), |(node, _)| node.advance(now, effects))
    }

    fn deadline(&self) -> Time {
        self.node().map_or(Time::NEVER, Node::deadline)
    }

    fn glance(&self) -> Glance {
        self.node().map(Node::glance).unwrap_or_default()
    }

    fn raft(&self) -> Option<&Raft> {
        self.node().map(Node::raft)
    }

    fn persist(&mut self, batch: &[Ready]) -> Result<Option<Persisted>, String> {
        let Some((_, log)) = &mut self.alive else { return Ok(None) };
        log.persist(batch).map_err(|fault| fault.to_string())
    }

    fn load(&mut self, read: LogRead) -> Result<Vec<Entry>, String> {
        let Some((_, log)) = &self.alive else { return Ok(Vec::new()) };
        log.read(read.from, read.max_bytes).map_err(|fault| fault.to_string())
    }

    fn write_state(&mut self, write: &StateWrite) -> Result<(), String> {
        execute(&self.state, &write.ops)?;
        if write.sync { self.state.sync().map_err(|fault| fault.to_string()) } else { Ok(()) }
    }

    fn read_records(&mut self, read: &RecordsRead) -> Result<Vec<(Index, Bytes)>, String> {
        read.execute(&self.state).map_err(|fault| fault.to_string())
    }

    fn stage(&mut self, write: &StageWrite) -> Result<(), String> {
        if write.begin {
            self.staging = MemoryEngine::new();
        }
        execute(&self.staging, &write.ops)?;
        if write.adopt {
            self.staging.sync().map_err(|fault| fault.to_string())?;
            self.state = std::mem::replace(&mut self.staging, MemoryEngine::new());
            self.adopted = true;
        }
        Ok(())
    }

    fn install(&self) -> InstallStatus {
        self.node().map(|node| node.status().install).unwrap_or_default()
    }

    fn break_disk(&mut self, log: bool) {
        self.engine(log).fail_syncs_after(0);
    }

    fn rot(&mut self, log: bool, place: u64) -> bool {
        let places = self.places(log);
        if places.is_empty() {
            return false;
        }
        let (key, len) = places[(place / 2) as usize % places.len()].clone();
        let bit = mix(place) as usize % (len * 8);
        let rotten = Rotten { log, key, byte: bit / 8, mask: 1 << (bit % 8) };
        self.engine(log).flip(&rotten.key, rotten.byte, rotten.mask);
        self.rotten = Some(rotten);
        true
    }

    fn heal_rot(&mut self) {
        if let Some(Rotten { log, key, byte, mask }) = self.rotten.take() {
            self.engine(log).flip(&key, byte, mask);
        }
    }

    fn wipe(&mut self) {
        self.disks += 1;
        (self.raft, self.state, self.rotten) = (MemoryEngine::new(), MemoryEngine::new(), None);
        self.staging = MemoryEngine::new();
    }

    fn lose(&mut self) {
        (self.state, self.staging) = (MemoryEngine::new(), MemoryEngine::new());
    }

    fn may_lose(&self) -> bool {
        can_be_made_again(&self.meta(), Arc::new(self.raft.clone())).is_ok()
    }

    fn is_hollow(&self) -> bool {
        self.node().is_some_and(Node::is_hollow)
    }

    fn bend(&mut self, number: i64) {
        if let Some((node, _)) = &mut self.alive {
            node.bend(BENT + number);
        }
    }

    fn is_bent(&self, ways: i64) -> bool {
        (1..=ways).any(|number| self.has_lease(BENT + number))
    }

    fn is_wrong(&self) -> bool {
        self.node().is_some_and(Node::is_wrong)
    }

    fn mark(&self) -> Option<Position> {
        if self.adopted {
            return None;
        }
        let value = get_value(&self.state, |_| Key::AckedMark.encode()).ok()??;
        let word = |at: usize| value.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        Some(Position { index: Index(word(0)?), term: Term(word(8)?) })
    }

    fn is_gone(&self, peer: MemberId) -> bool {
        self.node().is_some_and(|node| node.view().is_gone(peer))
    }

    fn knows(&self, peer: MemberId, disks: u64) -> bool {
        let members = self.node().map(|node| node.view().members()).unwrap_or_default();
        let known = members.into_iter().find(|member| member.id == peer).and_then(|member| member.disk);
        known.is_none_or(|disk| disk == disk_id(peer, disks))
    }

    fn known(&self) -> u64 {
        let Some(view) = self.node().map(Node::view) else { return 0 };
        let known = view.members().into_iter().filter(|member| member.disk.is_some());
        let gone = (1..=MAX_NODES as u64).map(MemberId).filter(|id| view.is_gone(*id));
        known.map(|member| member.id).chain(gone).fold(0, |known, id| known | 1 << (id.0 - 1))
    }

    fn has_lease(&self, id: i64) -> bool {
        self.node().is_some_and(|node| node.view().lease(id).is_some())
    }

    fn leases(&self) -> (usize, usize) {
        let Some(view) = self.node().map(Node::view) else { return (0, 0) };
        let all = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
        let keys = view.range(&all).map(|found| found.kvs).unwrap_or_default();
        let orphan = |kv: &&KeyValue| kv.lease != 0 && view.lease(kv.lease).is_none();
        (view.leases().len(), keys.iter().filter(orphan).count())
    }

    fn is_sweeping(&self) -> bool {
        self.node().is_some_and(Node::is_sweeping)
    }

    fn view(&self) -> Option<machine::View> {
        self.node().filter(|node| !node.is_hollow()).map(Node::view)
    }

    fn look(&self, call: &Call) -> Result<(i64, Reply), machine::Error> {
        self.node().map_or(Ok((0, Reply::Put)), |node| workload::look(&node.view(), call))
    }

    fn command(call: &Call, _: u64) -> Option<(Bytes, bool)> {
        workload::command(call)
    }
}

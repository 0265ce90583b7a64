//! The bare core as a host: `Raft` on a disk that is a list of entries.
//!
//! It stands in for a node as simply as can be: a command is given to the core once, and is answered when its entry is
//! applied at its origin, refused by the leader, or uncertain when the leadership changes. No log store, no machine: what
//! is left is the protocol, and it runs an order of magnitude faster than a whole member.

use super::host::{Born, Host, Shape, Stamp, Torn};
use crate::check::history::{Call, Reply as Answer};
use crate::ids::{Incarnation, Index, MemberId, Position, RequestId, Term};
use crate::machine;
use crate::node::events::Glance;
use crate::node::{
    Effect, Halt, Input, InstallStatus, RecordsRead, Refused, Reply, Request, Slot, StageWrite, Stages, StateWrite,
    Uncertain,
};
use crate::raft::log::Log;
use crate::raft::quorum::Configuration;
use crate::raft::{Config, Entry, HardState, LogRead, Persisted, Raft, Ready, TransferError};
use crate::rng::{Seed, mix};
use crate::time::{Duration, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// See the module's essay.
pub struct Core {
    id: MemberId,
    shape: Shape,
    // ---- the disk
    hard: HardState,
    entries: Vec<Entry>,
    lives: u64,
    broken: bool,
    /// What the state's disk had applied when it was last synced.
    synced: Index,
    alive: Option<Alive>,
}

struct Alive {
    raft: Raft,
    applied: Index,
    digest: u64,
    /// Commands given to the core: by sequence, under which leadership. The oldest stand first.
    pending: BTreeMap<u64, (Slot, (Term, MemberId), Time)>,
    /// Reads, by the core's mark.
    reads: BTreeMap<u64, (Slot, Time)>,
    /// Reads that wait for an index to be applied.
    indexed: VecDeque<(Index, u64)>,
    sequence: u64,
    replies: Vec<(Slot, Reply)>,
}

fn digest(before: u64, entry: &Stamp) -> u64 {
    mix(before ^ entry.term << 32 ^ u64::from(entry.checksum))
}

impl Core {
    fn last(&self) -> Position {
        self.entries.last().map(|entry| entry.position).unwrap_or_default()
    }

    /// Carries out the first `steps` of what a write consists of.
    fn write(&mut self, ready: &Ready, mut steps: u64) -> u64 {
        let mut step = || {
            let go = steps > 0;
            steps -= u64::from(go);
            go
        };
        if let Some(hard) = ready.hard_state
            && step()
        {
            self.hard = hard;
        }
        if let Some(from) = ready.truncate_from
            && step()
        {
            self.entries.truncate(from.0 as usize - 1);
        }
        for entry in &ready.entries {
            if !step() {
                break;
            }
            assert_eq!(entry.position.index, self.last().index.next(), "an entry that does not follow");
            self.entries.push(entry.clone());
        }
        steps
    }

    fn steps(ready: &Ready) -> u64 {
        u64::from(ready.hard_state.is_some()) + u64::from(ready.truncate_from.is_some()) + ready.entries.len() as u64
    }
}

impl Alive {
    fn request(&mut self, now: Time, own: RequestId, slot: Slot, request: Request) {
        match request {
            Request::Propose { command, grows } => {
                let Some(leader) = self.raft.leader() else {
                    return self.replies.push((slot, Reply::Refused(Refused::NoLeader)));
                };
                self.sequence += 1;
                let id = RequestId { sequence: self.sequence, ..own };
                let given = match self.raft.is_leader() {
                    true => self.raft.propose(id, command, grows).is_ok(),
                    false => self.raft.forward(id, command, grows),
                };
                if !given {
                    return self.replies.push((slot, Reply::Refused(Refused::Busy)));
                }
                self.pending.insert(id.sequence, (slot, (self.raft.term(), leader), now));
            }
            Request::Read => {
                self.sequence += 1;
                self.reads.insert(self.sequence, (slot, now));
                self.raft.read(self.sequence);
            }
            // Nobody has leases where commands mean nothing.
            Request::Change(_) => unreachable!("its members are those that it began with"),
            Request::KeepAlive { .. } | Request::TimeToLive { .. } => self.replies.push((slot, Reply::Lease(None))),
            Request::Transfer(target) => self.replies.push((
                slot,
                match self.raft.transfer(now, target) {
                    Ok(_) => Reply::Transferred,
                    Err(TransferError::NotLeader) => Reply::Refused(Refused::NotLeader),
                    Err(TransferError::BadTarget) => Reply::Refused(Refused::BadTransferee),
                },
            )),
        }
    }

    fn apply(&mut self, own: RequestId) {
        for entry in self.raft.take_committed(usize::MAX) {
            assert!(entry.is_sound(), "entry {} is not what was appended", entry.position);
            assert_eq!(entry.position.index, self.applied.next(), "applied with a gap");
            self.applied = entry.position.index;
            self.digest = digest(self.digest, &Stamp::of(&entry));
            let ours = entry.id.origin == own.origin && entry.id.incarnation == own.incarnation;
            if ours && let Some((slot, ..)) = self.pending.remove(&entry.id.sequence) {
                let (outcome, term) = (Ok(machine::Response::Done), entry.position.term);
                self.replies.push((slot, Reply::Applied { outcome, term, stages: Stages::default() }));
            }
        }
        self.indexed.extend(self.raft.take_reads().into_iter().map(|state| (state.index, state.context)));
        let term = self.raft.term();
        let (applied, reads, replies) = (self.applied, &mut self.reads, &mut self.replies);
        self.indexed.retain(|(index, mark)| {
            let ready = *index <= applied;
            if ready && let Some((slot, _)) = reads.remove(mark) {
                replies.push((slot, Reply::Readable { term, stages: Stages::default() }));
            }
            !ready
        });
    }

    fn expire(&mut self, now: Time, patience: Duration) {
        if let Some(leader) = self.raft.leader() {
            let leadership = (self.raft.term(), leader);
            let lost = self.pending.extract_if(.., |_, (_, under, _)| *under != leadership);
            self.replies.extend(lost.map(|(_, (slot, ..))| (slot, Reply::Uncertain(Uncertain::LeaderLost))));
        }
        while let Some(first) = self.pending.first_entry().filter(|first| first.get().2 + patience <= now) {
            self.replies.push((first.remove().0, Reply::Uncertain(Uncertain::TimedOut)));
        }
        while let Some(first) = self.reads.first_entry().filter(|first| first.get().1 + patience <= now) {
            self.raft.forget_read(*first.key());
            self.replies.push((first.remove().0, Reply::Uncertain(Uncertain::TimedOut)));
        }
    }
}

impl Host for Core {
    const HAS_CONTENTS: bool = false;

    fn new(id: MemberId, shape: &Shape) -> Core {
        Core {
            id,
            shape: shape.clone(),
            hard: HardState::default(),
            entries: Vec::new(),
            lives: 0,
            broken: false,
            synced: Index(0),
            alive: None,
        }
    }

    fn start(&mut self, now: Time, seed: Seed, _: bool) -> Result<Born, Halt> {
        self.lives += 1;
        let life = Incarnation(self.lives);
        let voters = Configuration::new((1..=self.shape.nodes).map(MemberId));
        let mut config = Config::new(self.id, life, voters, seed);
        config.heartbeat_interval = self.shape.timers.heartbeat;
        config.election_timeout = self.shape.timers.election;
        config.limits = self.shape.limits.clone();
        let mut runs: Vec<(Index, Term)> = Vec::new();
        for Position { index, term } in self.entries.iter().map(|entry| entry.position) {
            if runs.last().is_none_or(|(_, last)| *last != term) {
                runs.push((index, term));
            }
        }
        let log = Log::restore(Position::default(), runs, self.last(), self.entries[self.synced.0 as usize..].to_vec());
        let raft = Raft::new(config, self.hard, log, self.synced, now);
        let stamps: Vec<Stamp> = self.entries.iter().map(Stamp::of).collect();
        let digest = stamps[..self.synced.0 as usize].iter().fold(0, digest);
        let born = Born {
            life,
            hard: self.hard,
            base: Position::default(),
            log: stamps,
            applied: (self.synced, digest),
            lost: None,
            hollow: false,
            aside: None,
        };
        self.alive = Some(Alive {
            raft,
            applied: self.synced,
            digest,
            pending: BTreeMap::new(),
            reads: BTreeMap::new(),
            indexed: VecDeque::new(),
            sequence: life.first_number(),
            replies: Vec::new(),
        });
        Ok(born)
    }

    fn expose(&mut self, _: bool, _: u64) {}

    fn image(&mut self, _: Time, _: Seed) -> Option<Result<Born, Halt>> {
        None
    }

    fn is_up(&self) -> bool {
        self.alive.is_some()
    }

    fn crash(&mut self, torn: Torn<'_>) {
        let mut left = (torn.keep)(torn.log.iter().map(Core::steps).sum());
        for ready in torn.log {
            left = self.write(ready, left);
        }
        if let Some(alive) = self.alive.take() {
            self.synced = Index(self.synced.0 + (torn.keep)(alive.applied.0 - self.synced.0));
        }
        self.broken = false;
    }

    fn handle(&mut self, now: Time, input: Input) -> Result<(), Halt> {
        let Some(alive) = &mut self.alive else { return Ok(()) };
        let own = RequestId { origin: self.id, incarnation: Incarnation(self.lives), sequence: 0 };
        match input {
            Input::Peer(envelope) => alive.raft.step(now, envelope),
            Input::PeerLost { peer, incarnation } => alive.raft.peer_lost(now, peer, incarnation),
            Input::PeerUnreachable(peer) => alive.raft.peer_unreachable(peer),
            Input::Persisted(done) => alive.raft.persisted(now, done),
            Input::Loaded { read, entries } => alive.raft.loaded(read, entries),
            Input::Space { low } => alive.raft.set_accepting(!low),
            Input::Request(slot, request) => alive.request(now, own, slot, request),
            Input::Unsent { sequence } => {
                if let Some((slot, ..)) = alive.pending.remove(&sequence) {
                    alive.replies.push((slot, Reply::Refused(Refused::NoLeader)));
                }
            }
            Input::Cancel(slot) => {
                alive.pending.retain(|_, (s, ..)| *s != slot);
                alive.reads.retain(|_, (s, _)| *s != slot);
            }
            Input::StateWritten { .. }
            | Input::StateSynced { .. }
            | Input::RecordsRead { .. }
            | Input::Staged { .. } => {}
        }
        Ok(())
    }

    fn advance(&mut self, now: Time, effects: &mut Vec<Effect>) -> Result<(), Halt> {
        let Some(alive) = &mut self.alive else { return Ok(()) };
        let own = RequestId { origin: self.id, incarnation: Incarnation(self.lives), sequence: 0 };
        alive.raft.tick(now);
        for (sequence, _) in alive.raft.take_refusals() {
            if let Some((slot, ..)) = alive.pending.remove(&sequence) {
                alive.replies.push((slot, Reply::Refused(Refused::Busy)));
            }
        }
        alive.raft.flush(now);
        alive.raft.take_events();
        effects.extend(alive.raft.ready(now).map(Effect::Persist));
        effects.extend(alive.raft.messages().map(Effect::Send));
        effects.extend(alive.raft.take_loads().into_iter().map(Effect::Load));
        alive.apply(own);
        alive.expire(now, self.shape.request_timeout);
        effects.extend(alive.replies.drain(..).map(|(slot, reply)| Effect::Reply(slot, reply)));
        Ok(())
    }

    fn deadline(&self) -> Time {
        let Some(alive) = &self.alive else { return Time::NEVER };
        let oldest = alive.pending.values().next().map(|(_, _, since)| *since);
        let oldest = oldest.into_iter().chain(alive.reads.values().next().map(|(_, since)| *since)).min();
        alive.raft.deadline().min(oldest.map_or(Time::NEVER, |since| since + self.shape.request_timeout))
    }

    fn glance(&self) -> Glance {
        let Some(alive) = &self.alive else { return Glance::default() };
        let raft = alive.raft.status();
        Glance {
            role: raft.role.into(),
            term: raft.term,
            leader: raft.leader,
            last: raft.last,
            persisted: raft.persisted,
            commit: raft.commit,
            applied: alive.applied,
            digest: alive.digest,
        }
    }

    fn raft(&self) -> Option<&Raft> {
        self.alive.as_ref().map(|alive| &alive.raft)
    }

    fn persist(&mut self, batch: &[Ready]) -> Result<Option<Persisted>, String> {
        if self.broken {
            return Err("the disk failed".into());
        }
        for ready in batch {
            self.write(ready, u64::MAX);
        }
        Ok(batch.last().map(|newest| Persisted { seq: newest.seq, last: self.last() }))
    }

    fn load(&mut self, read: LogRead) -> Result<Vec<Entry>, String> {
        let mut bytes = 0;
        let wanted = self.entries.iter().skip(read.from.0 as usize - 1);
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.size();
            first || bytes <= read.max_bytes
        };
        Ok(wanted.take_while(fits).cloned().collect())
    }

    fn write_state(&mut self, _: &StateWrite) -> Result<(), String> {
        Ok(())
    }

    fn read_records(&mut self, _: &RecordsRead) -> Result<Vec<(Index, Bytes)>, String> {
        unreachable!("the core has no records")
    }

    fn stage(&mut self, _: &StageWrite) -> Result<(), String> {
        unreachable!("the core has no state")
    }

    fn install(&self) -> InstallStatus {
        InstallStatus::default()
    }

    fn break_disk(&mut self, _: bool) {
        self.broken = true;
    }

    fn rot(&mut self, _: bool, _: u64) -> bool {
        false
    }

    fn heal_rot(&mut self) {}

    fn wipe(&mut self) {}

    fn lose(&mut self) {
        unreachable!("the core has no state")
    }

    fn bend(&mut self, _: i64) {}

    fn is_bent(&self, _: i64) -> bool {
        false
    }

    fn is_wrong(&self) -> bool {
        false
    }

    fn may_lose(&self) -> bool {
        false
    }

    fn is_hollow(&self) -> bool {
        false
    }

    fn mark(&self) -> Option<Position> {
        None
    }

    fn is_gone(&self, _: MemberId) -> bool {
        false
    }

    fn knows(&self, _: MemberId, _: u64) -> bool {
        true
    }

    fn known(&self) -> u64 {
        0
    }

    fn has_lease(&self, _: i64) -> bool {
        false
    }

    fn leases(&self) -> (usize, usize) {
        (0, 0)
    }

    fn is_sweeping(&self) -> bool {
        false
    }

    fn view(&self) -> Option<machine::View> {
        None
    }

    fn look(&self, _: &Call) -> Result<(i64, Answer), machine::Error> {
        Ok((0, Answer::Put))
    }

    fn command(call: &Call, number: u64) -> Option<(Bytes, bool)> {
        match call {
            Call::Get { .. } => None,
            Call::Delete { .. } | Call::Compact { .. } => Some((Bytes::copy_from_slice(&number.to_le_bytes()), false)),
            Call::Put { .. } | Call::Txn { .. } => Some((Bytes::copy_from_slice(&number.to_le_bytes()), true)),
        }
    }
}

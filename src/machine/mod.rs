//! The deterministic machine.
//!
//! etcd's key-value model, as a function of the log: the same entries in the same order make the same state, the same
//! answers and the same digest on every member. [`Machine::apply`] is the only door in (*One-door*); [`View`] reads at a
//! revision, from any thread, while apply goes on.
//!
//! # How an entry becomes state
//!
//! A command is turned into effects (`record.rs`): a put with all its numbers, a tombstone, a member's entry, an alarm,
//! and at last the entry's position. Each effect goes three ways at once: into the open record's bytes, into the rolling
//! digest, and into the index in memory (`state.rs`). Recovery reads the records and sends their effects the same two
//! remaining ways, so what is rebuilt is what was built, and the digest proves it.
//!
//! [`Machine::seal`] closes the run of entries since the last call and hands out its writes; [`Machine::written`] says that
//! they were inserted. In between the values are read from memory. A sync is the node's affair: what a crash takes away,
//! the replicated log applies again, entry by entry from [`Machine::applied`] on, with the same outcome.
//!
//! # Invariants
//!
//! 1. Position, revision, keys, members, alarms and digest move together: they stand in one record (*One-record*).
//! 2. An entry is in exactly one record, and records follow each other without gaps.
//! 3. A command makes at most one revision. Readers see it whole or not at all.
//! 4. A caller's mistake changes the position and nothing else, on every member alike.
//! 5. Nothing here depends on time, chance, thread timing, or on where runs are sealed.
//! 6. Versions never change once published; only a compaction removes some, which readers at or above its mark can't see.
//!
//! # Rooms
//!
//! `check` (a request's shape), `kv`, `txn` and `lease` (commands), `range` (reads), `stream` (reads piece by
//! piece), `snapshot` (all of it, to be kept elsewhere), `restore` (back again), `budget` (what reads may hold), `history` (what happened, for watchers), `member` (who belongs to the cluster; alarms), `level` (which release's meanings are in force), `record`
//! (bytes and digest), `versions` (those of one key), `index` (of every key), `compact` (what nobody may read any more goes), `space` (who owns it),
//! `hash` (are members alike), `takeover` (records of another member), `state` (what writer and readers share), `view` (the readers' door).
//!
//! # What is left out
//!
//! Auth: it will be more effects through the same door. When a lease is over is not
//! known here: somebody with a clock says so, in a command.

use crate::ids::{Index, Position, Revision};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::quorate::{Command, command};
use crate::storage::key::{Family, Layout, Unreadable, put_ops, remove_ops, scan_values};
use crate::storage::{Engine, Fault, Op};
use budget::Share;
use bytes::Bytes;
use compact::Pass;
use kv::Change;
use prost::Message as _;
use record::{Builder, Digest, Effect, Misread};
use state::{Shared, State};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

pub mod budget;
pub mod check;
mod compact;
mod counts;
mod hash;
pub mod history;
mod index;
mod kv;
mod lease;
mod level;
mod member;
mod range;
mod record;
mod restore;
mod snapshot;
mod space;
mod state;
mod stream;
pub mod takeover;
mod txn;
mod versions;
mod view;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use hash::KvHash;
pub use history::{Event, History};
pub use lease::{Lease, LeaseChange, LeaseTime};
pub use level::Level;
pub use member::{Content, Member, Membership, Standing};
pub use restore::Restoring;
pub use snapshot::{Contents, Head, Item, Portion, Snapshot, SnapshotError, SnapshotReader};
pub use space::Holding;
pub use stream::{RangeStream, Step};
pub use view::View;

/// The machine's answer to a command. Headers carry the revision only; the API layer fills in the rest.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To a put.
    Put(pb::PutResponse),
    /// To a delete.
    DeleteRange(pb::DeleteRangeResponse),
    /// To a transaction.
    Txn(pb::TxnResponse),
    /// To a grant.
    LeaseGrant(pb::LeaseGrantResponse),
    /// To a revoke.
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// To a compaction.
    Compact(pb::CompactionResponse),
    /// To commands that have nothing to say (publish, alarm, checkpoint, a member's URLs, a level).
    Done,
}

/// A caller's mistake, or a fault. The same on all members (but for `Disk` and `Newer`, which halt this one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The key is empty.
    EmptyKey,
    /// A put with ignore_value or ignore_lease of a key that is not there; also an operation that asks for nothing.
    KeyNotFound,
    /// ignore_value, and a value.
    ValueProvided,
    /// ignore_lease, and a lease.
    LeaseProvided,
    /// More operations than a txn may have.
    TooManyOps {
        /// How many there are.
        found: usize,
        /// How many may be.
        limit: usize,
    },
    /// A txn writes the same key twice.
    DuplicateKey,
    /// No such lease.
    LeaseNotFound,
    /// There is such a lease already.
    LeaseExists,
    /// No such member.
    MemberNotFound,
    /// Another member has one of these peer URLs.
    PeerUrlsExist,
    /// The revision asked for is compacted away.
    Compacted {
        /// The oldest readable revision.
        compacted: Revision,
    },
    /// The revision asked for is not there yet.
    FutureRevision,
    /// The NOSPACE alarm is up and the command would grow the store.
    NoSpace,
    /// The answer to a range would take more memory than one may (`budget.rs`; views only).
    RangeTooLarge {
        /// What it would take, in bytes.
        bytes: u64,
        /// What one answer may take.
        limit: u64,
    },
    /// There is no room for the answer to a range now (`budget.rs`; views only).
    RangesTooLarge {
        /// What it would take, in bytes.
        bytes: u64,
        /// What all answers together may take.
        limit: u64,
    },
    /// The state database failed: the node must halt.
    Disk(Fault),
    /// The command is for a release that knows more, as the sentence says: to pass it over would make this member's state
    /// another one than its peers', so the node must halt.
    Newer(String),
}

impl Error {
    /// The same, of a range whose size was found to be `size`.
    fn of_size(self, size: u64) -> Error {
        match self {
            Error::RangeTooLarge { limit, .. } => Error::RangeTooLarge { bytes: size, limit },
            Error::RangesTooLarge { limit, .. } => Error::RangesTooLarge { bytes: size, limit },
            other => other,
        }
    }
}

/// The replicated state. See the module's essay.
#[derive(Debug)]
pub struct Machine {
    shared: Arc<Shared>,
    applied: Position,
    digest: Digest,
    /// The record being written.
    record: Builder,
    /// Records of the open run that are closed already.
    closed: Vec<(Index, Vec<u8>)>,
    /// The number of the open run, from 1.
    run: u64,
    /// Runs that are sealed but not written, oldest first.
    sealed: VecDeque<Sealed>,
    /// Not taken yet.
    lease_changes: Vec<LeaseChange>,
    /// The compaction at work.
    pass: Pass,
}

/// A run that is sealed but not written.
#[derive(Debug)]
struct Sealed {
    run: u64,
    bytes: usize,
    /// Its first record; for a run of rewritten ones, the one that was open then.
    first: Index,
}

/// Why a state database can't be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// What is there can't be what was written: the sentence says where.
    #[error("{0}")]
    Corrupt(String),
    /// A newer release wrote it: the sentence says what to do.
    #[error("{0}")]
    Newer(String),
}

impl Machine {
    /// Rebuilds the machine from its database (empty: a fresh store with `members`).
    ///
    /// # Errors
    /// The disk failed, or a record is not what was written.
    pub fn open(engine: Arc<dyn Engine>, members: Vec<Member>) -> Result<Machine, OpenError> {
        let mut rebuilt = Rebuilt {
            state: State::new(),
            applied: Position::default(),
            digest: Digest::START,
            revision: 1,
            gap: false,
            leaps_to: 0,
            covered: Vec::new(),
        };
        let mut outcome = Ok(());
        let orphans = scan_values(&*engine, Family::Record, Index(0), &mut |first, slots, record| {
            outcome = rebuilt.read(first, slots, &record);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        outcome?;
        let covered = std::mem::take(&mut rebuilt.covered);
        for orphan in orphans.map_err(open_error)?.into_iter().chain(covered) {
            match orphan {
                Op::Delete(key) => engine.delete(&key)?,
                Op::Put(key, value) => engine.put(&key, &value)?,
            }
        }
        let Rebuilt { mut state, applied, digest, revision, .. } = rebuilt;
        state.level.is_known_to("this state", "this member", Level::NEWEST).map_err(OpenError::Newer)?;
        if revision < state.compacted {
            let compacted = state.compacted;
            return Err(OpenError::Corrupt(format!(
                "the state ends at revision {revision}, but was compacted at {compacted}; it must be rebuilt from the peers"
            )));
        }
        state.attach_all();
        state.recent.begin(revision + 1);
        let pass = Pass::new(state.compacted);
        let mut machine = Machine {
            shared: Arc::new(Shared::new(engine, state, revision, applied)),
            applied,
            digest,
            record: Builder::new(applied.index.next()),
            closed: Vec::new(),
            run: 1,
            sealed: VecDeque::new(),
            lease_changes: Vec::new(),
            pass,
        };
        if applied.index == Index(0) {
            // They stand at the head of the first record, before the first entry.
            for member in members {
                machine.emit(&Effect::Member(&record::encode_member(&member)), None);
            }
        }
        Ok(machine)
    }

    /// Applies the entry at `position`, which follows the last one applied.
    ///
    /// # Errors
    /// The caller's mistake (nothing changed but the position), or `Error::Disk` or `Error::Newer`: halt.
    ///
    /// # Panics
    /// If the position does not follow.
    pub fn apply(&mut self, position: Position, content: Content<'_>) -> Result<Response, Error> {
        let applied = self.applied;
        assert!(
            position.index == applied.index.next() && position.term >= applied.term,
            "entry {position} does not follow {applied}"
        );
        let size = content.size();
        if self.record.last().is_some() && self.record.len() + size > record::RECORD_CAP {
            self.close(position.index);
        }
        let shared = Arc::clone(&self.shared);
        let mut whole = shared.whole();
        let outcome = match content {
            Content::Nothing => Ok(Response::Done),
            Content::Command(command) => self.carry_out(position, decode(position, command)?),
            Content::Membership(membership) => {
                self.change_membership(membership);
                Ok(Response::Done)
            }
        };
        if let Err(Error::Disk(_) | Error::Newer(_)) = outcome {
            return outcome;
        }
        self.record.push(&Effect::Applied(position), &mut self.digest);
        self.applied = position;
        *whole = position;
        outcome
    }

    /// Goes wrong, as by a flipped bit in memory: there is a lease that nobody granted. Tests and the simulator ask for it.
    pub fn bend(&mut self, id: i64) {
        self.emit(&Effect::Lease { id, ttl: 1 << 20, remaining: 0, granted: self.applied.index }, None);
    }

    /// Ends an entry that was made up, and its record with it: see `restore.rs`.
    fn end_entry(&mut self, position: Position) {
        self.record.push(&Effect::Applied(position), &mut self.digest);
        self.applied = position;
        *self.shared.whole() = position;
        self.close(position.index.next());
    }

    fn carry_out(&mut self, at: Position, op: command::Op) -> Result<Response, Error> {
        let grows = match &op {
            command::Op::Put(_) | command::Op::GrantLease(_) => true,
            command::Op::Txn(txn) => check::grows(txn),
            _ => false,
        };
        if grows && !self.may_grow() {
            return Err(Error::NoSpace);
        }
        match op {
            command::Op::Put(put) => self.change(|change| change.put_alone(&put).map(Response::Put)),
            command::Op::DeleteRange(delete) => {
                self.change(|change| change.delete_range(&delete).map(Response::DeleteRange))
            }
            command::Op::Txn(txn) => self.change(|change| change.txn(&txn).map(Response::Txn)),
            command::Op::Publish(publish) => {
                self.publish_member(&publish);
                Ok(Response::Done)
            }
            command::Op::UpdateMember(update) => self.update_member(&update).map(|()| Response::Done),
            command::Op::Alarm(alarm) => {
                self.set_alarm(&alarm);
                Ok(Response::Done)
            }
            command::Op::GrantLease(grant) => self.grant_lease(at.index, &grant).map(Response::LeaseGrant),
            // A leader's, of another term or another lease.
            command::Op::RevokeLease(revoke)
                if revoke.term != 0 && (revoke.term != at.term.0 || !self.is_known_lease(revoke.id, revoke.known)) =>
            {
                Ok(Response::Done)
            }
            command::Op::RevokeLease(revoke) => {
                self.change(|change| change.revoke_lease(revoke.id).map(Response::LeaseRevoke))
            }
            command::Op::CheckpointLeases(checkpoint) => {
                self.checkpoint_leases(&checkpoint);
                Ok(Response::Done)
            }
            command::Op::Compact(compact) => self.compact(compact.revision).map(Response::Compact),
            command::Op::RaiseLevel(raise) => self.raise_level(&raise).map(|()| Response::Done),
        }
    }

    /// Runs a change of the store and publishes its revision.
    fn change(&mut self, work: impl FnOnce(&mut Change<'_>) -> Result<Response, Error>) -> Result<Response, Error> {
        let mut change = Change::begin(self);
        let response = work(&mut change)?;
        let now = change.now();
        self.shared.publish(now);
        Ok(response)
    }

    /// Raises the oldest readable revision.
    fn compact(&mut self, revision: i64) -> Result<pb::CompactionResponse, Error> {
        let (now, compacted) = (self.shared.revision(), self.shared.read().compacted);
        if revision <= compacted {
            return Err(Error::Compacted { compacted: Revision(compacted) });
        }
        if revision > now {
            return Err(Error::FutureRevision);
        }
        self.emit(&Effect::Compacted { revision }, None);
        Ok(pb::CompactionResponse { header: header(now) })
    }

    /// Makes an effect: record, digest, state. A change of a key comes with the event that watchers see; a put's value is
    /// kept in memory until it is written.
    fn emit(&mut self, effect: &Effect<'_>, event: Option<Event>) {
        let ordinal = self.record.push(effect, &mut self.digest);
        let mut state = self.shared.write();
        if let Some(event) = event {
            if !event.deleted {
                state.tail.push(self.record.first(), self.run, event.kv.value.clone());
            }
            state.recent.push(self.record.first(), event);
        }
        let taken = state.take(effect, self.record.first(), ordinal);
        assert_eq!(taken, Ok(()), "an effect made here makes sense: {effect:?}");
    }

    /// Closes the open record and begins one whose first entry is `next`.
    fn close(&mut self, next: Index) {
        let record = std::mem::replace(&mut self.record, Builder::new(next));
        self.closed.push((record.first(), record.close(self.digest)));
    }

    /// Closes the run of entries applied since the last call, and appends its writes to `ops`. The data stay readable from
    /// memory until [`Machine::written`] says that they were inserted. Returns a number for `written`, or `None` if
    /// nothing was applied.
    pub fn seal(&mut self, ops: &mut Vec<Op>) -> Option<u64> {
        if self.record.last().is_some() {
            self.close(self.applied.index.next());
        }
        let first = self.closed.first()?.0;
        let mut bytes = 0;
        for (first, record) in self.closed.drain(..) {
            put_ops(|chunk| Family::Record.key(first, chunk).encode(), &record, ops);
            bytes += record.len();
        }
        self.sealed.push_back(Sealed { run: self.run, bytes, first });
        self.run += 1;
        Some(self.run - 1)
    }

    /// Makes a run of writes of `bytes` to records that were written before, when everything applied is sealed.
    fn begin_run(&mut self, bytes: usize) -> u64 {
        self.sealed.push_back(Sealed { run: self.run, bytes, first: self.record.first() });
        self.run += 1;
        self.run - 1
    }

    /// The runs up to the one that [`Machine::seal`] numbered `run` are in the engine: memory may let go of them.
    ///
    /// # Panics
    /// If that run was not sealed yet.
    pub fn written(&mut self, run: u64) {
        assert!(run < self.run, "run {run} can't be written: {} is still open", self.run);
        while self.sealed.front().is_some_and(|sealed| sealed.run <= run) {
            self.sealed.pop_front();
        }
        self.pass.written(run);
        let mut state = self.shared.write();
        let values = state.tail.let_go(run);
        state.recent.written(self.first_unwritten());
        drop(state);
        drop(values); // not under the lock
    }

    /// The first record that may not be in the engine.
    pub fn first_unwritten(&self) -> Index {
        let sealed = self.sealed.front().map(|sealed| sealed.first);
        sealed.or(self.closed.first().map(|(first, _)| *first)).unwrap_or(self.record.first())
    }

    /// Bytes applied but not yet inserted: the node holds back applying while this is too much.
    pub fn pending_bytes(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|sealed| sealed.bytes).sum();
        let closed: usize = self.closed.iter().map(|(_, record)| record.len()).sum();
        sealed + closed + self.record.len()
    }

    /// Bytes of all versions that are kept ([`View::held_bytes`]).
    pub fn held_bytes(&self) -> u64 {
        self.shared.read().index.held_bytes()
    }

    /// The last entry applied.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// The rolling digest of everything applied so far: equal on all members at equal `applied`.
    pub fn digest(&self) -> u64 {
        self.digest.0
    }

    /// The members.
    pub fn members(&self) -> Vec<Member> {
        self.view().members()
    }

    /// A reader for any thread.
    pub fn view(&self) -> View {
        View(self.shared.clone())
    }
}

impl Change<'_> {
    /// A transaction.
    fn txn(&mut self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let mut path = txn::Path::new();
        txn::decide(self.reader(), request, &mut path)?;
        txn::check(self.reader(), request, &path)?;
        let mut response = txn::run(request, &mut path.iter(), &mut |op| match op {
            Request::RequestRange(range) => {
                self.reader().range(range, &mut Share::unlimited()).map(OpResponse::ResponseRange)
            }
            Request::RequestPut(put) => self.put(put).map(OpResponse::ResponsePut),
            Request::RequestDeleteRange(delete) => self.delete_range(delete).map(OpResponse::ResponseDeleteRange),
            Request::RequestTxn(_) => unreachable!("txns are run by txn::run"),
        })?;
        self.reader().count_txn(&response);
        response.header = header(self.now());
        Ok(response)
    }
}

/// What a scan of the records has rebuilt so far.
struct Rebuilt {
    state: State,
    applied: Position,
    digest: Digest,
    revision: i64,
    /// Whether a compaction may have taken revisions away since the last one that was seen.
    gap: bool,
    /// Up to here revisions leap: they were restored from a snapshot.
    leaps_to: i64,
    /// Deletes of records that a husk before them stands for.
    covered: Vec<Op>,
}

impl Rebuilt {
    /// Takes in the next record, which has so many slots.
    fn read(&mut self, first: Index, slots: Layout, record: &Bytes) -> Result<(), OpenError> {
        let wrong = |why: String| {
            let sentence = "is not what was written";
            OpenError::Corrupt(format!(
                "state record {first} {sentence}: {why}; the state must be rebuilt from the peers"
            ))
        };
        let unread = |misread: Misread| match misread {
            Misread::Rot(why) => wrong(why),
            newer @ Misread::Newer(_) => OpenError::Newer(format!(
                "state record {first}: {newer}. Start this member with that release, or a later one"
            )),
        };
        let header = record::header(record).map_err(unread)?;
        if first <= self.applied.index && header.last.index <= self.applied.index {
            remove_ops(|chunk| Family::Record.key(first, chunk).encode(), slots, &mut self.covered);
            return Ok(());
        }
        if first != self.applied.index.next() {
            return Err(wrong(format!("it should follow entry {}", self.applied.index)));
        }
        self.gap |= header.rewritten;
        let mut effects = 0;
        let Rebuilt { state, applied, digest, revision, gap, leaps_to, .. } = self;
        record::read(record, digest, &mut |effect, ordinal| {
            match effect {
                Effect::Applied(position)
                    if position.index == applied.index.next() && position.term >= applied.term =>
                {
                    *applied = position;
                }
                Effect::Applied(position) => return Err(format!("entry {position} does not follow {applied}")),
                Effect::Put(record::Put { main, .. }) | Effect::Delete { main, .. } => {
                    let leaps = *gap || main <= *leaps_to;
                    if main < *revision || (main > *revision + 1 && !leaps) {
                        return Err(format!("revision {main} does not follow {revision}"));
                    }
                    *revision = main;
                    *gap = header.rewritten;
                }
                Effect::Restored { revision } => *leaps_to = revision,
                Effect::Member(_)
                | Effect::MemberGone { .. }
                | Effect::Configuration(_)
                | Effect::Level(_)
                | Effect::Alarm { .. }
                | Effect::Lease { .. }
                | Effect::LeaseGone { .. }
                | Effect::Compacted { .. } => {}
            }
            effects += 1;
            state.take(&effect, first, ordinal)
        })
        .map_err(unread)?;
        if header.rewritten && header.last.index >= first && header.last.term >= applied.term {
            *applied = header.last;
            if effects == 0 {
                state.litter.husk(header);
            }
        }
        if header.first != first || header.last != self.applied || header.digest != self.digest {
            let found = (self.applied, self.digest);
            return Err(wrong(format!("its head says {header:?}, its effects say {found:x?}")));
        }
        Ok(())
    }
}

fn open_error(unreadable: Unreadable) -> OpenError {
    match unreadable {
        Unreadable::Fault(fault) => OpenError::Fault(fault),
        rot @ Unreadable::Rot { .. } => OpenError::Corrupt(Fault::from(rot).to_string()),
    }
}

/// Reads a command. To skip one that can't be read would make this member's state another one than its peers', so the member
/// halts.
fn decode(position: Position, bytes: &Bytes) -> Result<command::Op, Error> {
    let fault = |why: String| Error::Disk(Fault { what: format!("reading the command of entry {position}"), why });
    let command = Command::decode(bytes.clone()).map_err(|error| fault(error.to_string()))?;
    command.op.ok_or_else(|| {
        Error::Newer(
            "this release does not know the command: a newer one proposed it. Start this member with that release, or a \
             later one"
                .to_string(),
        )
    })
}

/// A response's header, as far as the machine knows it.
fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

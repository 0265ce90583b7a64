//! The deterministic machine.
//!
//! etcd's key-value model, as a function of the log: the same entries in the same order make the same state, the same
//! answers and the same digest on every member. [`Machine::apply`] is the only door in (*One-door*); [`View`] reads at a
//! revision, from any thread, while apply goes on.
//!
//! (skeleton: the essay and the rooms come with the implementation)

use crate::ids::{MemberId, Position, Revision};
use crate::proto::etcdserverpb as pb;
use crate::storage::{Engine, Fault, Op};
use bytes::Bytes;
use std::sync::Arc;

/// The machine's answer to a command. Headers carry the revision only; the API layer fills in the rest.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To a put.
    Put(pb::PutResponse),
    /// To a delete.
    DeleteRange(pb::DeleteRangeResponse),
    /// To a transaction.
    Txn(pb::TxnResponse),
    /// To commands that have nothing to say (publish, alarm).
    Done,
}

/// A caller's mistake, or a fault. The same on all members (but for `Disk`, which halts this one).
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
    /// The revision asked for is compacted away.
    Compacted {
        /// The oldest readable revision.
        compacted: Revision,
    },
    /// The revision asked for is not there yet.
    FutureRevision,
    /// The NOSPACE alarm is up and the command would grow the store.
    NoSpace,
    /// The state database failed: the node must halt.
    Disk(Fault),
}

/// A member, as the replicated state knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty until it has published one.
    pub name: String,
    /// Where peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has published.
    pub client_urls: Vec<String>,
    /// Its disk, once seen.
    pub disk: Option<crate::ids::DiskId>,
}

#[allow(unused)]
fn skeleton(_: Position, _: &dyn Engine, _: Op, _: Bytes, _: Arc<()>) {}

/// The replicated state.
#[derive(Debug)]
pub struct Machine {}

/// Why a state database can't be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// What is there can't be what was written: the sentence says where.
    #[error("{0}")]
    Corrupt(String),
}

#[allow(unused_variables, clippy::todo)]
impl Machine {
    /// Rebuilds the machine from its database (empty: a fresh store with `members`).
    ///
    /// # Errors
    /// The disk failed, or a record is not what was written.
    pub fn open(engine: Arc<dyn Engine>, members: Vec<Member>) -> Result<Machine, OpenError> {
        todo!()
    }

    /// Applies the entry at `position`, which follows the last one applied. `command` is an encoded
    /// `proto::quorate::Command`; `None` is an entry without one (a no-op), which moves the position only.
    ///
    /// # Errors
    /// The caller's mistake (nothing changed but the position), or `Error::Disk`: halt.
    ///
    /// # Panics
    /// If the position does not follow.
    pub fn apply(&mut self, position: Position, command: Option<&Bytes>) -> Result<Response, Error> {
        todo!()
    }

    /// Closes the run of entries applied since the last call, and appends its writes to `ops`. The data stay readable from
    /// memory until [`Machine::written`] says that they were inserted. Returns a number for `written`, or `None` if
    /// nothing was applied.
    pub fn seal(&mut self, ops: &mut Vec<Op>) -> Option<u64> {
        todo!()
    }

    /// The runs up to the one that [`Machine::seal`] numbered `run` are in the engine: memory may let go of them.
    pub fn written(&mut self, run: u64) {
        todo!()
    }

    /// Bytes applied but not yet inserted: the node holds back applying while this is too much.
    pub fn pending_bytes(&self) -> usize {
        todo!()
    }

    /// The last entry applied.
    pub fn applied(&self) -> Position {
        todo!()
    }

    /// The rolling digest of everything applied so far: equal on all members at equal `applied`.
    pub fn digest(&self) -> u64 {
        todo!()
    }

    /// The members.
    pub fn members(&self) -> Vec<Member> {
        todo!()
    }

    /// A reader for any thread.
    pub fn view(&self) -> View {
        todo!()
    }
}

/// Reads the machine's state from any thread, while apply goes on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct View {}

#[allow(unused_variables, clippy::todo)]
impl View {
    /// A range read.
    ///
    /// # Errors
    /// Compacted or future revision, empty key, disk.
    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        todo!()
    }

    /// A transaction that only reads, whole at one revision.
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        todo!()
    }

    /// The store's revision.
    pub fn revision(&self) -> Revision {
        todo!()
    }

    /// The members.
    pub fn members(&self) -> Vec<Member> {
        todo!()
    }

    /// Alarms that are up, by member.
    pub fn alarms(&self) -> Vec<(MemberId, pb::AlarmType)> {
        todo!()
    }

    /// Bytes that live keys and values take.
    pub fn live_bytes(&self) -> u64 {
        todo!()
    }
}

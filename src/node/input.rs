//! The node's doors, as closed enums: everything that can happen to it, and everything it can ask for.
//!
//! A shell feeds [`Input`]s and executes [`Effect`]s; it decides nothing. Requests carry a [`Slot`] that the shell chose;
//! the node answers each slot exactly once with a [`Reply`], whatever happens, so nobody waits for ever.

use super::membership::ChangeRefused;
use super::stages::Stages;
use crate::ids::{Incarnation, Index, MemberId, Term};
use crate::machine;
use crate::proto::quorate::MemberChange;
use crate::raft::{Entry, Envelope, LogRead, Persisted, Ready};
use crate::storage::Op;
use crate::time::Duration;
use bytes::Bytes;

/// Names a waiting caller. Chosen by the shell, unique among the outstanding ones, opaque to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

/// What can happen to a node.
#[derive(Debug)]
pub enum Input {
    /// A message arrived from a peer whose connection was checked (`server/transport.rs`).
    Peer(Envelope),
    /// The inbound stream of `peer`'s process `incarnation` ended, after its last message was delivered.
    PeerLost {
        /// Whose.
        peer: MemberId,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// Messages to `peer` were dropped (no connection, or its queue is full): stop pipelining to it until it answers.
    PeerUnreachable(MemberId),
    /// The forwarded command of this sequence was dropped before it could leave: it surely was not appended.
    Unsent {
        /// [`crate::ids::RequestId::sequence`].
        sequence: u64,
    },
    /// The log worker finished an [`Effect::Persist`] (and every one before it).
    Persisted(Persisted),
    /// The log worker finished an [`Effect::Load`].
    Loaded {
        /// What was asked.
        read: LogRead,
        /// Contiguous from `read.from`, sound; cut at `read.max_bytes` but never empty.
        entries: Vec<Entry>,
    },
    /// The state worker has inserted these (and every one before them); not synced yet.
    StateWritten {
        /// The newest [`StateWrite::id`] done.
        id: u64,
    },
    /// The state worker has synced everything up to and including this [`StateWrite::id`].
    StateSynced {
        /// The newest [`StateWrite::id`] durable.
        id: u64,
    },
    /// The state worker finished an [`Effect::ReadRecords`].
    RecordsRead {
        /// What was asked.
        read: RecordsRead,
        /// Records of the state, ascending, as they are stored, each with its first index: those that begin in the range
        /// asked for, cut at `max_bytes` but one at least if there is one.
        records: Vec<(Index, Bytes)>,
    },
    /// The state worker finished an [`Effect::Stage`] (and every one before it).
    Staged {
        /// The newest [`StageWrite::id`] done.
        id: u64,
    },
    /// Whether the disk has room above the free-space floor.
    Space {
        /// Below the floor: growing writes and appends are declined.
        low: bool,
    },
    /// A client asks.
    Request(Slot, Request),
    /// The caller behind the slot has gone: forget it. What was proposed stays proposed.
    Cancel(Slot),
}

/// What a client can ask of a node. Serializable reads never come here: they go straight to the view.
#[derive(Debug)]
pub enum Request {
    /// Replicate an encoded [`crate::proto::quorate::Command`]; answered by [`Reply::Applied`].
    Propose {
        /// The command's bytes.
        command: Bytes,
        /// Whether it may grow the store (a put, a txn with a put): declined when space is low.
        grows: bool,
    },
    /// A linearizable read: answered by [`Reply::Readable`] when the local view is fresh enough.
    Read,
    /// Give a lease all of its time again: answered by [`Reply::Lease`] when that holds, whoever leads later.
    KeepAlive {
        /// Which.
        lease: i64,
    },
    /// How much is left of a lease: answered by [`Reply::Lease`].
    TimeToLive {
        /// Which.
        lease: i64,
    },
    /// Change who belongs to the cluster: answered by [`Reply::Changed`] when that is over.
    Change(MemberChange),
    /// Hand leadership over: to `Some` member, or to the best one. Only the leader can.
    Transfer(Option<MemberId>),
}

/// Why a request was surely not carried out: it may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No leader is known and none was found in time.
    NoLeader,
    /// The leader takes no more: too many uncommitted bytes.
    Busy,
    /// Leadership is being handed over, or was lost before anything was appended.
    LeaderChanged,
    /// The disk of the leader (or of this member) is below its free-space floor.
    Space,
    /// This member does not lead (transfer only).
    NotLeader,
    /// The transfer's target is unknown, or is no voter.
    BadTransferee,
    /// The member has no state of its own to serve from: it is taking one over from the leader.
    Hollow,
    /// The member is stopping.
    Stopping,
    /// The membership can't be changed in this way, or not now.
    Change(ChangeRefused),
}

/// Why nobody knows whether a request was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncertain {
    /// Leadership changed while the command was on its way.
    LeaderLost,
    /// No answer within the request's time.
    TimedOut,
}

/// The time of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeLeft {
    /// What it was granted for, in seconds.
    pub granted: i64,
    /// What is left of that. Never less than was promised; zero while it is being revoked.
    pub left: Duration,
}

/// The one answer to a request.
#[derive(Debug)]
pub enum Reply {
    /// The command was applied: the machine's own answer, an error of the caller's included.
    Applied {
        /// The answer; its header has the revision only.
        outcome: Result<machine::Response, machine::Error>,
        /// The term of the entry.
        term: Term,
        /// When it passed which stage.
        stages: Stages,
    },
    /// The local view is linearizable for this read now.
    Readable {
        /// The member's term.
        term: Term,
        /// When it passed which stage.
        stages: Stages,
    },
    /// How it is with the lease; `None`: there is none of this id.
    Lease(Option<TimeLeft>),
    /// The target leads now.
    Transferred,
    /// The membership is what was asked for: the simple configuration was applied here.
    Changed {
        /// The term of its entry.
        term: Term,
    },
    /// Surely not done.
    Refused(Refused),
    /// Perhaps done.
    Uncertain(Uncertain),
}

/// One write to the state database, executed in order of `id`.
#[derive(Debug)]
pub struct StateWrite {
    /// Counts from 1 in each incarnation.
    pub id: u64,
    /// Puts and deletes, in this order.
    pub ops: Vec<Op>,
    /// Sync after them, and say so with [`Input::StateSynced`].
    pub sync: bool,
}

/// A wish for records of the state database, on behalf of a member that takes them over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsRead {
    /// For whom.
    pub asker: MemberId,
    /// Its mark for the question.
    pub context: u64,
    /// Records that begin here or later …
    pub from: Index,
    /// … and below this.
    pub below: Index,
    /// Cut the answer at this size, but give at least one record.
    pub max_bytes: usize,
}

/// One step of building another state database beside the one in use, executed in order of `id`.
#[derive(Debug)]
pub struct StageWrite {
    /// Counts from 1 in each incarnation.
    pub id: u64,
    /// First: begin with an empty database, whatever was staged before.
    pub begin: bool,
    /// Then puts and deletes, in this order.
    pub ops: Vec<Op>,
    /// At last: sync it and let it take the place of the state database, atomically, from the next start on. The node
    /// writes nothing any more to the one in use.
    pub adopt: bool,
    /// The state database that it takes the place of was wrong: it is evidence, and is kept aside.
    pub aside: bool,
}

/// What a node can ask for.
#[derive(Debug)]
pub enum Effect {
    /// Send it, or drop it: Raft tolerates loss, and says so to nobody. Never wait.
    Send(Envelope),
    /// Make it durable, in order, then say [`Input::Persisted`].
    Persist(Ready),
    /// Read entries that the node no longer holds in memory, then say [`Input::Loaded`].
    Load(LogRead),
    /// Write to the state database, in order, then say [`Input::StateWritten`] (and [`Input::StateSynced`]).
    WriteState(StateWrite),
    /// Read records of the state database, then say [`Input::RecordsRead`].
    ReadRecords(RecordsRead),
    /// Write to the database that is being staged, in order, then say [`Input::Staged`].
    Stage(StageWrite),
    /// The end of this node: everything queued for its disks is to be executed, then [`super::open()`] makes the next one, of
    /// the next incarnation, from what is there. No other effect follows.
    Reopen,
    /// Answer.
    Reply(Slot, Reply),
}

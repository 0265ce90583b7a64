//! The protocol.
//!
//! A replicated log, by Ongaro and Ousterhout's Raft: *In Search of an Understandable Consensus Algorithm* ("Raft §n"
//! below) and Ongaro's dissertation. The files are the thesis's table of contents: `election` (§5.2, pre-vote, transfer),
//! `replication` and `progress` (§5.3), `log` (what a member holds), `membership` (dissertation §4), `quorum` (what a majority
//! is), `read` (ReadIndex, dissertation §6.4). `raft.rs` holds the state and routes, `writes` knows what is durable, `outbox` holds messages back until
//! it is; `message.rs` is what members say.
//!
//! [`Raft`] is a value. Messages and a time go in; messages, writes and committed entries come out. It has no thread,
//! socket, disk, clock or dice of its own, so one test can own a whole cluster of it and every order of events is an
//! input, the completion of disk writes included.
//!
//! # The contract with the disk
//!
//! [`Raft::ready`] hands out what must become durable, as a [`Ready`] with a number. It is executed in order (several may
//! share one sync), and [`Persisted`] comes back. Until then
//!
//! - every message that speaks of that state is held in the outbox (`message.rs` says which message speaks of what);
//! - the leader does not count itself (a cluster of one waits for its own disk too);
//! - nothing beyond it is applied: applied ≤ min(commit, own persisted).
//!
//! A leader may commit through its followers while its own disk is still writing.
//!
//! # Invariants
//!
//! 1. Term and commit never decrease within a life; the vote is cleared only when the term grows.
//! 2. At most one grant per term leaves a member in its whole life, and it is durable when it leaves.
//! 3. An entry of term *t* is on the disk only if a term ≥ *t* is (the hard state is written first).
//! 4. commit ≤ last; applied ≤ min(commit, persisted); persisted ≤ last; the log's base ≤ applied.
//! 5. A follower's commit is at most the last index verified against the current leader (Raft fig. 2, rule 5).
//! 6. A leader commits by counting only entries of its own term (Raft §5.4.2), by a plain sort of match indexes.
//! 7. For each follower match < next, and match never decreases within a session.
//! 8. Nothing committed is ever truncated: an append that would do so is an assertion, with both positions.
//! 9. The configuration that counts is the newest one in the log (dissertation §4.1).
//!
//! # What is left out
//!
//! How a state is taken over: a follower whose log ends before the leader's begins is only told so ([`Raft::take_install`]),
//! and is opened again on the state that it got. When the log may be compacted: [`Raft::compact_to`] is told. Lease reads.
//! Also left out, for good: witnesses, priorities, leader stickiness by configuration, resuming as leader after a restart
//! (always a follower).

use crate::ids::{Index, MemberId, Position, Term, WriteSeq};

mod canonical;
mod election;
pub mod log;
pub mod membership;
pub mod message;
mod outbox;
pub mod progress;
pub mod quorum;
#[expect(clippy::module_inception, reason = "the file of the room's one value, named after it")]
mod raft;
mod read;
mod replication;
#[cfg(test)]
mod tests;
mod writes;

pub(crate) use canonical::{Ink, Matters};
pub use election::TransferError;
pub use membership::{Change, ChangeRefusal};
pub use message::{Entry, EntryKind, Envelope, Message, Refusal};
pub use raft::{Config, Event, Limits, LossCause, Raft, ReadState, Role, Status};

/// What a member must never forget (Raft fig. 2, "persistent state"), apart from the log. The commit index is not in it:
/// after a crash, commit starts again at what was applied until a leader says more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// Who got this member's vote in that term.
    pub vote: Option<MemberId>,
}

/// What must become durable, in this order: hard state, compaction, truncation, entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Counts the writes of one life, without gaps.
    pub seq: WriteSeq,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries up to this one may go: the state's database has what they did, durably. The last entry of the log stays.
    pub compact_to: Option<Index>,
    /// Remove this index and everything after it, first: a leader's log says otherwise (Raft §5.3).
    pub truncate_from: Option<Index>,
    /// Contiguous; the first follows the last entry that stays.
    pub entries: Vec<Entry>,
}

/// All writes up to `seq` are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// The newest durable write.
    pub seq: WriteSeq,
    /// Where the log on the disk ends, as the log store sees it: compared with what the core expects.
    pub last: Position,
}

/// A wish for entries that are on the disk but no longer in memory (for a follower far behind).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRead {
    /// For whom.
    pub peer: MemberId,
    /// The first entry wanted.
    pub from: Index,
    /// Cut the answer at this size, but give at least one entry.
    pub max_bytes: usize,
}

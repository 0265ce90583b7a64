//! What members say to each other, and what the log is made of.
//!
//! A message is a value. Its envelope says who speaks, to whom, in which term and from which life of its process; a
//! message of an older life is dropped on arrival, so that nothing a crashed process left in the network is ever taken
//! for the word of its successor. There are no optional meanings: an acceptance and a rejection are different messages
//! (a rejection counted as an acceptance has lost data elsewhere), and a heartbeat is not an append without entries.
//!
//! **Every message depends on a write**, and leaves when that write is durable. Which one is said once, in
//! [`Message::dependency`], for all messages; the outbox asks it, and there is no other way out. That is the law
//! *Sync-before-ack*.
//!
//! Absent: cluster ids (the connection checks those once, before the first message) and any encoding
//! (`wire.rs` is the only place where a message becomes bytes).

use crate::checksum::{crc, crc_append};
use crate::ids::{Incarnation, Index, MemberId, Position, RequestId, Term};
use bytes::Bytes;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Appended by every new leader, to commit what earlier terms left (Raft §8, dissertation §6.4).
    Noop,
    /// A command for the machine.
    Command,
    /// A [`Configuration`](super::quorum::Configuration), effective where it is appended, with a context for the machine.
    Configuration,
}

/// One entry of the replicated log.
///
/// Its checksum is made where the entry is made, by the leader, and covers everything else in it. It is verified on
/// receive, when loaded from the disk, before sending and before applying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands, and in which term its leader appended it.
    pub position: Position,
    /// What it is for.
    pub kind: EntryKind,
    /// The request it came from; the default for entries that no client asked for.
    pub id: RequestId,
    /// The command's bytes, opaque to Raft. Encoded once, shared by log, wire and machine.
    pub data: Bytes,
    /// CRC-32C over all of the above.
    pub checksum: u32,
}

impl Entry {
    /// Bytes that an entry takes beside its data, in a log record and (about) on the wire: what limits count it as.
    pub const OVERHEAD: usize = 49;

    /// An entry with its checksum.
    pub fn new(position: Position, kind: EntryKind, id: RequestId, data: Bytes) -> Entry {
        let mut entry = Entry { position, kind, id, data, checksum: 0 };
        entry.checksum = entry.computed_checksum();
        entry
    }

    /// Whether the entry is what its maker made.
    pub fn is_sound(&self) -> bool {
        self.checksum == self.computed_checksum()
    }

    /// The size that limits are counted in, in bytes.
    pub fn size(&self) -> usize {
        Entry::OVERHEAD + self.data.len()
    }

    fn computed_checksum(&self) -> u32 {
        let mut head = [0; Entry::OVERHEAD - 8];
        head[0..8].copy_from_slice(&self.position.index.0.to_le_bytes());
        head[8..16].copy_from_slice(&self.position.term.0.to_le_bytes());
        head[16] = match self.kind {
            EntryKind::Noop => 0,
            EntryKind::Command => 1,
            EntryKind::Configuration => 2,
        };
        head[17..25].copy_from_slice(&self.id.origin.0.to_le_bytes());
        head[25..33].copy_from_slice(&self.id.incarnation.0.to_le_bytes());
        head[33..41].copy_from_slice(&self.id.sequence.to_le_bytes());
        crc_append(crc(&head), &self.data)
    }
}

/// Why a leader surely did not append a command.
///
/// There is no "I don't lead": a member that does not lead any more can't know whether it appended the same command while
/// it did, so it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many uncommitted bytes: try again later.
    Busy,
    /// Leadership is being handed over: try again at once, elsewhere.
    Transfer,
    /// The leader's disk is below its free-space floor.
    Space,
}

/// A message with its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Who speaks.
    pub from: MemberId,
    /// To whom.
    pub to: MemberId,
    /// The sender's term.
    pub term: Term,
    /// Which life of the sender's process.
    pub incarnation: Incarnation,
    /// What is said.
    pub message: Message,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Would you vote for me in `next_term`? (dissertation §9.6) Changes nobody's term.
    PreVote {
        /// Echoed in the answer, so that an answer to an older campaign is told apart.
        campaign: u64,
        /// The term the asker would campaign in.
        next_term: Term,
        /// Where the asker's log ends.
        last: Position,
    },
    /// The answer to a [`Message::PreVote`].
    PreVoteReply {
        /// The campaign answered.
        campaign: u64,
        /// Yes or no.
        granted: bool,
    },
    /// Vote for me in the envelope's term.
    Vote {
        /// Echoed in the answer.
        campaign: u64,
        /// Where the candidate's log ends.
        last: Position,
        /// The leader asked for this election: a live leader is no reason to refuse (dissertation §3.10).
        transfer: bool,
    },
    /// The answer to a [`Message::Vote`].
    VoteReply {
        /// The campaign answered.
        campaign: u64,
        /// Yes or no.
        granted: bool,
    },
    /// Replicate `entries`, which follow `prev` (Raft §5.3).
    Append {
        /// The leader's count of fresh starts with this follower; echoed in answers, so that late ones are told apart.
        session: u64,
        /// Counts the appends of a session, from 1.
        sequence: u64,
        /// The entry before the first one.
        prev: Position,
        /// The leader's commit index.
        commit: Index,
        /// Contiguous, from `prev.index + 1`.
        entries: Vec<Entry>,
    },
    /// The follower's log equals the leader's up to `matched`, durably.
    Appended {
        /// The session of the append answered.
        session: u64,
        /// The last index verified and persisted.
        matched: Index,
    },
    /// The follower has no entry like `prev`.
    Conflict {
        /// The session of the append answered.
        session: u64,
        /// Where the append's `prev` stood.
        prev_index: Index,
        /// The last place in the follower's log that could match: at or before `prev_index`, of a term not above `prev`'s.
        hint: Position,
    },
    /// The follower's log ends before the leader's begins: what is missing was compacted away, so it must take over a state
    /// that reaches at least `base` (Raft §7). Asking for that state is the follower's affair, and not Raft's.
    Install {
        /// The session, as in appends.
        session: u64,
        /// The entry before the leader's first one.
        base: Position,
    },
    /// I lead.
    Heartbeat {
        /// The session, as in appends.
        session: u64,
        /// The last append sent in this session: if the follower has not received it by now, it is lost.
        sequence: u64,
        /// The leader's commit index.
        commit: Index,
        /// The newest read round that the answer confirms.
        round: u64,
    },
    /// The answer to a [`Message::Heartbeat`].
    HeartbeatReply {
        /// Echoed.
        session: u64,
        /// Echoed.
        sequence: u64,
        /// The last append received in this session.
        received: u64,
        /// As in [`Message::Appended`]: repeats an acknowledgement that may have been lost.
        matched: Index,
        /// Echoed.
        round: u64,
    },
    /// A follower asks for a read index on behalf of its readers (dissertation §6.4).
    ReadIndex {
        /// Echoed. Never a key on the leader: rounds are keyed by the leader's own count (etcd #20418).
        context: u64,
    },
    /// The read index: serve once it is applied.
    ReadIndexReply {
        /// Echoed.
        context: u64,
        /// The leader's commit index when the round began.
        index: Index,
    },
    /// A command taken by another member, for the leader of the envelope's term to append.
    Forward {
        /// Its name.
        id: RequestId,
        /// The command.
        data: Bytes,
        /// Whether it may make the store larger: declined when the leader's disk is low on space.
        grows: bool,
    },
    /// A forwarded command was surely not appended.
    ForwardRefused {
        /// Which: the `sequence` of its [`RequestId`].
        sequence: u64,
        /// Why.
        reason: Refusal,
    },
    /// Campaign at once: the leader hands over (dissertation §3.10).
    TimeoutNow,
    /// A question that only whoever leads can answer; what it is about is not Raft's affair. It may be lost.
    Ask {
        /// Echoed.
        context: u64,
        /// The question.
        question: Bytes,
    },
    /// An answer to an [`Message::Ask`], by the leader of the envelope's term.
    Answer {
        /// Echoed.
        context: u64,
        /// The answer.
        answer: Bytes,
    },
}

/// The write that a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// The write that made the sender's current term durable.
    Term,
    /// Every change made so far: term, vote and log.
    State,
}

impl Message {
    /// What must be durable before this message may leave.
    ///
    /// Votes and vote requests speak of the vote, `Conflict` of the log: they wait for everything. `Appended` and the
    /// `matched` of a heartbeat's answer name an index that is already persisted (the core takes the smaller of verified and
    /// persisted), so these wait for the term only. A leader's appends may leave before its own disk has the entries, for it counts itself only then.
    pub fn dependency(&self) -> Dependency {
        match self {
            Message::Vote { .. } | Message::VoteReply { .. } | Message::Conflict { .. } => Dependency::State,
            Message::PreVote { .. }
            | Message::PreVoteReply { .. }
            | Message::Append { .. }
            | Message::Install { .. }
            | Message::Appended { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. }
            | Message::Forward { .. }
            | Message::ForwardRefused { .. }
            | Message::TimeoutNow
            | Message::Ask { .. }
            | Message::Answer { .. } => Dependency::Term,
        }
    }
}

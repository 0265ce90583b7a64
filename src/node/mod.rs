//! One member, as a value.
//!
//! [`Node`] is the whole member but for its threads, sockets, disks, clock and dice: the Raft core, the machine, the
//! requests on their way. [`Input`]s and a time go in, [`Effect`]s come out; a shell (the server's driver thread, a
//! simulator) carries them and decides nothing. So the node that serves is, byte for byte, the node that is tested.
//!
//! - `node.rs` is the turn: what happens in which order.
//! - `disks.rs` is what leaves for the log's disk and for the state's.
//! - `open.rs` is birth: from two databases to a node, the only constructor, in production and simulation alike; `marks.rs` is
//!   what the state's database says for it beside the state.
//! - `restore.rs` makes the disk of a member whose state comes from a backup.
//! - `recover.rs` is for a cluster whose quorum is lost for good.
//! - `proposals.rs` and `reads.rs` keep what clients wait for. Each slot is answered exactly once.
//! - `lessor.rs` is the leader's clock over the leases; `leases.rs` keeps what callers want of it, and brings it there.
//! - `membership.rs` brings changes of who belongs to the cluster to the leader, and makes voters of those who have caught up.
//! - `levels.rs` raises the cluster's level when every member knows a higher one.
//! - `stages.rs` knows when a request passed which stage, so that a slow one can be explained.
//! - `events.rs` tells what a turn changed.
//! - `install.rs` takes over the leader's state, which `source.rs` gives; `questions.rs` carries what is asked beside Raft.
//! - `quarantine.rs` compares the members' states, and takes out of service the one that is wrong.
//! - `space.rs` bounds what the store holds: a quota, and compactions, which `compactor.rs` times.
//! - `retention.rs` lets go of what the log need not hold any more.
//! - `elections.rs` remembers changes of leader, for people.
//!
//! # Invariants
//!
//! 1. What may have been appended is never submitted again.
//! 2. The machine never runs ahead of the member's own durable log, so the log can always replay it.
//! 3. The log is never cut below the acked mark before a lower mark is durable; and a mark that the log has lost stays, until
//!    the log reaches it again.
//! 4. The node never waits: for a sync, a peer or a client. The one disk wait it may meet is a value that apply reads.
//!
//! It may not know tokio, sockets, threads, locks, and what time it is but for the argument.

use crate::ids::{ClusterId, DiskId, Incarnation, Index, MemberId, Term};
use crate::machine::Level;
use crate::raft;
use crate::storage::COME_BACK;
use crate::time::{Duration, Time};

mod compactor;
mod disks;
mod elections;
pub mod events;
pub mod input;
mod install;
mod leases;
mod lessor;
mod levels;
mod marks;
mod membership;
#[expect(clippy::module_inception, reason = "the file of the room's one value, named after it")]
mod node;
mod open;
mod proposals;
mod quarantine;
mod questions;
mod reads;
pub mod recover;
mod restore;
mod retention;
mod source;
mod space;
mod stages;
#[cfg(test)]
mod tests;

pub use compactor::AutoCompaction;
pub use elections::{Cause, Election};
pub use input::{
    Effect, Input, RecordsRead, Refused, Reply, Request, Slot, StageWrite, StateWrite, TimeLeft, Uncertain,
};
pub use install::{InstallStatus, PIECE_BYTES};
pub use leases::LeaseCounts;
pub use lessor::LATELY;
pub use membership::ChangeRefused;
pub use node::Node;
pub use open::{Opened, Opening, Unopened, can_be_made_again, open};
pub use quarantine::{CHECKPOINT_ENTRIES, CheckpointStatus};
pub use restore::restore;
pub use retention::Retention;
pub use source::REST;
pub use space::{SpaceConfig, SpaceStatus};
pub use stages::Stages;

/// What a member is told at birth. Times as etcd's flags name them.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--heartbeat-interval`.
    pub heartbeat_interval: Duration,
    /// `--election-timeout`.
    pub election_timeout: Duration,
    /// How long a request may wait before it is answered `Uncertain` (or `Refused`, if it was never appended).
    pub request_timeout: Duration,
    /// Its name, published to the others.
    pub name: String,
    /// Its client URLs, published to the others.
    pub client_urls: Vec<String>,
    /// How much Raft holds and sends.
    pub limits: raft::Limits,
    /// How much the store holds, and for how long.
    pub space: SpaceConfig,
    /// How much of the log is kept.
    pub retention: Retention,
    /// `--max-learners`: how many members may learn until somebody asks for them to vote.
    pub max_learners: usize,
    /// Bytes of a state that this member asks for at once when it takes one over: [`PIECE_BYTES`].
    pub piece_bytes: u64,
    /// Entries between two checkpoints, at which members compare their states, the same on all members: [`CHECKPOINT_ENTRIES`].
    pub checkpoint_entries: u64,
    /// The highest cluster level that it knows, or is to know.
    pub level: Level,
}

/// Why a node stops for good: printed, then the process exits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Halt(pub String);

/// What can be told about a node from outside, copied out after a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The leader it knows.
    pub leader: Option<MemberId>,
    /// Since when, on the node's clock.
    pub leader_since: Time,
    /// Where its log ends.
    pub last: Index,
    /// Durable in its log.
    pub persisted: Index,
    /// Known to be on a quorum.
    pub commit: Index,
    /// In the machine.
    pub applied: Index,
    /// Of the state after `applied`.
    pub digest: u64,
    /// How often a leader was found, its first one included.
    pub leader_changes: u64,
    /// Compactions on this member.
    pub space: SpaceStatus,
    /// Commands of this member's clients whose outcome is not known yet, those that wait for a leader included.
    pub pending_proposals: usize,
    /// What was done to leases.
    pub leases: LeaseCounts,
    /// How far a state is taken over from the leader.
    pub install: InstallStatus,
    /// What comparing states has shown.
    pub checkpoint: CheckpointStatus,
    /// Per peer, by id; flow facts only on the leader.
    pub peers: Vec<PeerStatus>,
    /// The newest changes of leader that this member saw, oldest first, bounded.
    pub elections: Vec<Election>,
}

/// A role's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoleName {
    /// Follows, or waits for someone to follow.
    #[default]
    Follower,
    /// Asks for pre-votes.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl RoleName {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            RoleName::Follower => "follower",
            RoleName::PreCandidate => "pre-candidate",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
        }
    }
}

impl From<raft::Role> for RoleName {
    fn from(role: raft::Role) -> RoleName {
        match role {
            raft::Role::Follower => RoleName::Follower,
            raft::Role::PreCandidate => RoleName::PreCandidate,
            raft::Role::Candidate => RoleName::Candidate,
            raft::Role::Leader => RoleName::Leader,
        }
    }
}

/// A peer, seen from the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub id: MemberId,
    /// "probe", "replicate"; empty where this member does not lead.
    pub flow: &'static str,
    /// Durable there.
    pub matched: Index,
}

/// Who a node is, for headers and for the peers' handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// The disk.
    pub disk: DiskId,
    /// Which life.
    pub incarnation: Incarnation,
}

/// The sentence for a disk that is not the one the cluster knows.
pub fn foreign_disk(member: MemberId, known: DiskId, found: DiskId) -> String {
    format!(
        "member {member} is known to live on disk {known}, but this data directory is disk {found}: it was emptied or \
         copied. A member that lost its log must not vote under its old name. Put the original data directory back; if \
         it is gone, {COME_BACK}."
    )
}

//! One member, as a value.
//!
//! (skeleton: the essay comes with the implementation)

use crate::ids::{ClusterId, DiskId, Incarnation, Index, MemberId, Term};
use crate::machine::View;
use crate::rng::Seed;
use crate::storage::Engine;
use crate::storage::directory::Meta;
use crate::storage::log::LogStore;
use crate::time::{Duration, Time};
use std::sync::Arc;

pub mod input;

pub use input::{Effect, Input, Refused, Reply, Request, Slot, StateWrite, Uncertain};

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
}

/// Why a node stops for good: printed, then the process exits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Halt(pub String);

/// One member. See the module's essay.
#[derive(Debug)]
pub struct Node {}

/// What there is to open.
pub struct Opening {
    /// Who this is.
    pub meta: Meta,
    /// The database of term, vote and log.
    pub raft: Arc<dyn Engine>,
    /// The database of applied state.
    pub state: Arc<dyn Engine>,
    /// How to behave.
    pub config: Config,
    /// The node's dice.
    pub seed: Seed,
    /// When it is.
    pub now: Time,
}

/// An opened member: the node, and the log store for its disk worker.
pub struct Opened {
    /// The node.
    pub node: Node,
    /// Executes the node's `Persist` and `Load` effects.
    pub log: LogStore,
}

/// Opens what a member left on its disk: the only constructor of a [`Node`], in production and simulation alike.
#[allow(clippy::todo, missing_docs)]
pub fn open(_opening: Opening) -> Result<Opened, Halt> {
    todo!()
}

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

/// One change of leader, as this member saw it; times on its own clock, `None` where a step did not happen here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// The term won.
    pub term: Term,
    /// Who won.
    pub winner: MemberId,
    /// Why the previous leader was given up.
    pub cause: Cause,
    /// When the loss was noticed.
    pub detected: Option<Time>,
    /// When this member first asked for (pre-)votes.
    pub campaigned: Option<Time>,
    /// When the winner became known.
    pub elected: Time,
    /// When the first entry of the term was known to be committed.
    pub committed: Option<Time>,
}

/// Why an election took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No leader yet.
    Start,
    /// Nothing was heard of the leader for an election timeout.
    Timeout,
    /// The connection from the leader broke.
    ConnectionLost,
    /// The leader handed over.
    Transfer,
    /// Another member's campaign came first.
    Other,
}

#[allow(unused_variables, clippy::todo)]
impl Node {
    /// Takes one input. Cheap; what it leads to is collected until [`Node::advance`].
    ///
    /// # Errors
    /// The node can't go on: see [`Halt`].
    pub fn handle(&mut self, now: Time, input: Input) -> Result<(), Halt> {
        todo!()
    }

    /// Closes a turn: everything that follows from the inputs since the last call and from the time, as effects, in the
    /// order in which they must be started.
    ///
    /// # Errors
    /// The node can't go on: see [`Halt`].
    pub fn advance(&mut self, now: Time, effects: &mut Vec<Effect>) -> Result<(), Halt> {
        todo!()
    }

    /// When [`Node::advance`] must be called even if nothing happens.
    pub fn deadline(&self) -> Time {
        todo!()
    }

    /// Reads, from any thread.
    pub fn view(&self) -> View {
        todo!()
    }

    /// What there is to tell.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Who this is.
    pub fn identity(&self) -> Identity {
        todo!()
    }
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

//! What clients call, one file per service.
//!
//! A call is checked where it arrives (shape, sizes), becomes one command encoded once or one wish to read, waits for the
//! node's single answer, and goes back with etcd's header. Reads run on the [`View`] in the caller's own task: the node's
//! thread only says when the view is fresh enough.
//!
//! Absent: retries. A member says once what it knows; trying again is the client's business, for only the client knows
//! whether a second write would be welcome.

use super::disk::DiskFacts;
use super::mailbox::Mailbox;
use super::metrics::{Attempt, Metrics};
use super::slow::{self, End, Slow, Timed, What};
use super::transport;
use super::watching::Watching;
use crate::clock::Clock;
use crate::ids::{Revision, Term};
use crate::machine::budget::Budget;
use crate::machine::{self, Level, View};
use crate::node::{Identity, Refused, Reply, Request, Status as NodeStatus};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate::{Command, command};
use crate::storage::Engine;
use crate::time::{Duration, Time};
use bytes::Bytes;
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::metadata::MetadataMap;

pub mod cluster;
pub mod downgrade;
pub mod election;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod node;
pub mod queue;
pub mod status;
pub mod watch;

/// The level of etcd's API that is spoken: clients parse it and branch on it.
pub const ETCD_VERSION: &str = "3.5.30";
/// The cluster's level, as etcd's `/version` tells it.
pub const ETCD_CLUSTER_VERSION: &str = "3.5.0";
/// The highest level of a Quorate cluster that this release knows.
pub const NEWEST_LEVEL: Level = Level::NEWEST;

/// How long the node's thread may take for an answer, before it is taken for hung.
const NODE_SILENCE_MAX: Duration = Duration::from_secs(5);

/// How long a disk worker may take for a turn, before it is taken for hung: twice what the engine allows one sync, for a slow
/// disk is no reason to be restarted.
const DISK_SILENCE_MAX: Duration = Duration::from_secs(60);

/// What all services share.
#[derive(Debug)]
pub struct Front {
    /// Who answers.
    pub identity: Identity,
    /// Its name.
    pub name: String,
    /// Its data directory.
    pub data_dir: String,
    /// What was applied.
    pub view: View,
    /// In this life nothing is: the state is being taken over, and then another life begins.
    pub hollow: bool,
    /// The node.
    pub mailbox: Mailbox,
    /// What the node published last.
    pub published: tokio::sync::watch::Receiver<Arc<NodeStatus>>,
    /// The node's clock.
    pub clock: Clock,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// What answers to ranges may take.
    pub ranges: Arc<Budget>,
    /// `--quota-backend-bytes`; `None`: no limit.
    pub quota: Option<u64>,
    /// The log worker's figures.
    pub disk: Arc<DiskFacts>,
    /// The state database, for its size.
    pub state: StateEngine,
    /// The connections.
    pub transport: Arc<transport::Shared>,
    /// Where the process learns that its disk failed a reader.
    pub fatal: mpsc::UnboundedSender<String>,
    /// The watchers.
    pub watching: Watching,
    /// What is counted.
    pub metrics: Metrics,
    /// How long requests take, and which are too slow.
    pub slow: Arc<Slow>,
    /// Whether the member is on its way out.
    pub stopping: AtomicBool,
}

/// An engine that can be shown.
#[derive(Clone)]
pub struct StateEngine(pub Arc<dyn Engine>);

impl std::fmt::Debug for StateEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateEngine")
    }
}

impl Front {
    /// etcd's header.
    pub fn header(&self, revision: Revision, term: Term) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: self.identity.cluster.0,
            member_id: self.identity.member.0,
            revision: revision.0,
            raft_term: term.0,
        })
    }

    /// Fills in what the machine left out of a header.
    pub fn complete(&self, header: Option<pb::ResponseHeader>, term: Term) -> Option<pb::ResponseHeader> {
        self.header(Revision(header.map_or(0, |header| header.revision)), term)
    }

    /// This member's term, as of a moment ago.
    pub fn term(&self) -> Term {
        self.published.borrow().term
    }

    /// Whether this member learns until somebody asks for it to vote.
    pub fn is_learner(&self) -> bool {
        self.view.standing(self.identity.member) == Some(machine::Standing::Learner)
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        self.published.borrow().leader.is_some()
    }

    /// Whether the member's threads move. It may be without a leader, slow or out of room: a restart would mend none of that.
    ///
    /// # Errors
    /// Which of them hangs.
    pub async fn alive(&self) -> Result<(), &'static str> {
        alive(&self.mailbox, self.disk.silence()).await
    }

    /// Bytes that the store takes on the disk. What was applied may still be on its way there, so it is never less than what
    /// is in use; and never 0, because etcdctl divides by it.
    pub fn state_bytes(&self) -> u64 {
        self.state.0.size_on_disk().max(self.view.held_bytes()).max(1)
    }

    /// Waits until this member has got rid of what a compaction at `revision` took away.
    ///
    /// # Errors
    /// The member stops.
    pub async fn swept(&self, revision: Revision) -> Result<(), Status> {
        let mut published = self.published.clone();
        let swept = published.wait_for(|status| status.space.swept >= revision).await;
        swept.map(|_| ()).map_err(|_| status::of_refused(Refused::Stopping))
    }

    /// Refuses a caller who asked for a member with a leader (`hasleader: true`) where none is known, and everyone while there is
    /// no state to answer from.
    ///
    /// # Errors
    /// "no leader", or that a state is being taken over.
    pub fn check_leader(&self, metadata: &MetadataMap) -> Result<(), Status> {
        if self.hollow || self.published.borrow().checkpoint.differs.is_some() {
            return Err(status::of_refused(Refused::Hollow));
        }
        let refused = needs_leader(metadata) && !self.has_leader();
        if refused { Err(status::of_refused(Refused::NoLeader)) } else { Ok(()) }
    }

    /// Refuses a read that asks for the newest where this member is a learner.
    ///
    /// # Errors
    /// "rpc not supported for learner".
    pub fn check_learner(&self, serializable: bool) -> Result<(), Status> {
        if !serializable && self.is_learner() { Err(status::not_for_learners()) } else { Ok(()) }
    }

    /// Ends when no leader was known for three election timeouts on end: then etcd cuts the streams of callers who want one.
    pub async fn leaderless(&self) {
        let mut published = self.published.clone();
        let patience = self.transport.election_timeout * 3;
        loop {
            // Nobody publishes any more: the member is stopping, and its streams end with it.
            if published.wait_for(|status| status.leader.is_none()).await.is_err() {
                return;
            }
            let found = published.wait_for(|status| status.leader.is_some());
            if tokio::time::timeout(patience, found).await.is_err() {
                return;
            }
        }
    }

    /// An error of the machine's as the caller sees it. A disk that fails a reader can't be trusted: the process stops.
    pub fn fail(&self, error: &machine::Error) -> Status {
        if let machine::Error::Disk(fault) = error {
            let _ = self.fatal.send(format!("the disk failed a reader: {fault}"));
        }
        status::of_machine(error)
    }

    /// Encodes a command, once, and sees it through the log.
    ///
    /// # Errors
    /// It is too large, was refused, may or may not have been applied, or was the caller's mistake.
    pub async fn propose(&self, op: command::Op, grows: bool) -> Result<(machine::Response, Term), Status> {
        if self.refuses_as_corrupt(&op) {
            return Err(status::corrupt());
        }
        let command = Command { op: Some(op) };
        if command.encoded_len() > self.max_request_bytes {
            return Err(status::too_large());
        }
        let bytes = Bytes::from(command.encode_to_vec());
        let attempt = Attempt::new(&self.metrics.proposals_failed);
        let asked = self.clock.now();
        let reply = self.mailbox.ask(Request::Propose { command: bytes, grows }).await;
        if let Some(timed) = self.timed(asked, &reply) {
            self.ended(&timed, || {
                let response = match &reply {
                    Reply::Applied { outcome: Ok(response), .. } => Some(response),
                    _ => None,
                };
                command.op.as_ref().map(|op| What::command(op, response))
            });
        }
        if matches!(reply, Reply::Applied { .. }) {
            attempt.succeeded();
        }
        match reply {
            Reply::Applied { outcome: Ok(response), term, .. } => Ok((response, term)),
            Reply::Applied { outcome: Err(error), .. } => Err(self.fail(&error)),
            Reply::Refused(reason) => Err(status::of_refused(reason)),
            Reply::Uncertain(reason) => Err(status::of_uncertain(reason)),
            reply @ (Reply::Readable { .. } | Reply::Lease(_) | Reply::Transferred | Reply::Changed { .. }) => {
                Err(astray(&reply))
            }
        }
    }

    /// Whether the CORRUPT alarm is up, and this is one of the writes that etcd refuses then. It is asked here and not where
    /// commands are applied: the alarm says that members apply alike no more.
    fn refuses_as_corrupt(&self, op: &command::Op) -> bool {
        use command::Op;
        let writes = match op {
            Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) => true,
            Op::GrantLease(_) | Op::RevokeLease(_) | Op::Compact(_) => true,
            Op::Publish(_) | Op::Alarm(_) | Op::CheckpointLeases(_) | Op::UpdateMember(_) | Op::RaiseLevel(_) => false,
        };
        writes && self.view.alarms().iter().any(|(_, alarm)| *alarm == pb::AlarmType::Corrupt)
    }

    /// Waits until the view is linearizable for a read that begins now.
    ///
    /// # Errors
    /// No leader confirmed it in time.
    pub async fn readable(&self) -> Result<Term, Status> {
        self.vouched().await.map(|(term, _)| term)
    }

    /// As [`Front::readable`], with how long that took: for a read that reports to [`Front::ended`] when it is done.
    ///
    /// # Errors
    /// No leader confirmed it in time.
    pub async fn vouched(&self) -> Result<(Term, Option<Timed>), Status> {
        let attempt = Attempt::new(&self.metrics.read_indexes_failed);
        let asked = self.clock.now();
        let reply = self.mailbox.ask(Request::Read).await;
        let timed = self.timed(asked, &reply);
        timed.iter().for_each(|timed| self.slow.read_index(timed));
        if matches!(reply, Reply::Readable { .. }) {
            attempt.succeeded();
        }
        match reply {
            Reply::Readable { term, .. } => Ok((term, timed)),
            Reply::Refused(reason) => Err(status::of_refused(reason)),
            Reply::Uncertain(reason) => Err(status::of_uncertain(reason)),
            reply @ (Reply::Applied { .. } | Reply::Lease(_) | Reply::Transferred | Reply::Changed { .. }) => {
                Err(astray(&reply))
            }
        }
    }

    /// How a request went that was `asked` then; `None` for one that has no stages.
    fn timed(&self, asked: Time, reply: &Reply) -> Option<Timed> {
        let end = match reply {
            Reply::Applied { stages, .. } | Reply::Readable { stages, .. } => End::Done(*stages),
            Reply::Refused(reason) => End::Refused(*reason),
            Reply::Uncertain(reason) => End::Uncertain(*reason),
            Reply::Transferred | Reply::Lease(_) | Reply::Changed { .. } => return None,
        };
        Some(Timed { asked, answered: self.clock.now(), end })
    }

    /// A request's last work is done: says so in the log if it was slow, and why.
    pub fn ended(&self, timed: &Timed, what: impl FnOnce() -> Option<What>) {
        let Some((took, suppressed)) = self.slow.ended(timed, self.clock.now()) else { return };
        let Some(what) = what() else { return };
        let members = self.view.members();
        let name = |id| {
            let known = members.iter().find(|member| member.id == id && !member.name.is_empty());
            known.map_or_else(|| id.to_string(), |member| member.name.clone())
        };
        let usual = Duration::from_micros(self.disk.sync_micros().0);
        let [total, queue, sync, quorum, apply] =
            [took.total, took.queue, took.sync, took.quorum, took.apply + took.scan].map(slow::round);
        tracing::warn!(
            method = what.method,
            key = what.key,
            request_bytes = what.request_bytes,
            response_bytes = what.response_bytes,
            took = ?total,
            queue = ?queue,
            sync = ?sync,
            quorum = ?quorum,
            apply = ?apply,
            cause = timed.cause(&took, self.identity.member, usual, name),
            suppressed,
            "a request took too long"
        );
    }
}

/// Whether the caller wants to be refused where no leader is known.
pub fn needs_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// An answer to another question than was asked.
pub(super) fn astray(reply: &impl std::fmt::Debug) -> Status {
    tracing::error!(?reply, "the node answered another question than was asked");
    Status::internal("quorate: the node answered another question than was asked; this is a bug")
}

async fn alive(node: &Mailbox, disk_silence: Duration) -> Result<(), &'static str> {
    if disk_silence > DISK_SILENCE_MAX {
        return Err("a disk worker hangs");
    }
    match tokio::time::timeout(NODE_SILENCE_MAX, node.status()).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err("the node's thread has ended"),
        Err(_) => Err("the node's thread hangs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::mailbox::{Event, mailbox};

    #[tokio::test]
    async fn a_member_is_alive_if_its_threads_move() {
        let (mailbox, mut events) = mailbox();
        let node = std::thread::spawn(move || {
            let Some(Event::Tell(caller)) = events.next_within(Duration::MAX) else { panic!("nobody asked") };
            caller.send(NodeStatus::default()).unwrap();
        });
        assert_eq!(alive(&mailbox, DISK_SILENCE_MAX + Duration::from_millis(1)).await, Err("a disk worker hangs"));
        assert_eq!(alive(&mailbox, DISK_SILENCE_MAX).await, Ok(()));
        node.join().unwrap();
        assert_eq!(alive(&mailbox, Duration::ZERO).await, Err("the node's thread has ended"));
    }
}

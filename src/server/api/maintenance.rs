//! etcd's Maintenance service: how a member is doing, alarms, and moving the leader.
//!
//! Defragmentation is a word: what compactions free is reused all the time, so it is done before it is asked for. etcd's blocks
//! the member meanwhile.
//!
//! A snapshot is of this member's own view, as in etcd, and in our own format (`machine/snapshot.rs`). A blob is read when there
//! is room for it, so a slow caller holds one being sent and one being read; one that leaves ends it.

use super::{ETCD_VERSION, Front, astray, downgrade, status};
use crate::ids::{MemberId, Revision};
use crate::machine::{Error, Portion, Snapshot};
use crate::node::{Refused, Reply, Request as Ask};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate::{SetAlarm, command::Op};
use pb::alarm_request::AlarmAction;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub struct Maintenance(pub Arc<Front>);

impl Maintenance {
    /// Alarms of `wanted` (0: of any member) and of its kind (`None`: of any).
    fn alarms(&self, wanted: &pb::AlarmRequest) -> Vec<pb::AlarmMember> {
        let fits = |member: MemberId, alarm: pb::AlarmType| {
            (wanted.member_id == 0 || wanted.member_id == member.0)
                && (wanted.alarm == i32::from(pb::AlarmType::None) || wanted.alarm == i32::from(alarm))
        };
        let alarms = self.0.view.alarms().into_iter().filter(|(member, alarm)| fits(*member, *alarm));
        alarms.map(|(member, alarm)| pb::AlarmMember { member_id: member.0, alarm: alarm.into() }).collect()
    }
}

/// What is wrong with this member, in etcd's words.
fn errors(front: &Front, has_leader: bool) -> Vec<String> {
    let alarms = front.view.alarms().into_iter();
    let alarms = alarms.map(|(member, alarm)| format!("memberID:{} alarm:{} ", member.0, alarm.as_str_name()));
    (!has_leader).then(|| "etcdserver: no leader".to_string()).into_iter().chain(alarms).collect()
}

/// Steps to the next bytes; still measuring only if the caller has left.
fn next_portion<T>(snapshot: &mut Snapshot, caller: &mpsc::Sender<T>) -> Result<Portion, Error> {
    loop {
        match snapshot.step()? {
            Portion::Measured if !caller.is_closed() => {}
            portion => return Ok(portion),
        }
    }
}

/// Why a snapshot broke off.
fn overtaken(front: &Front, snapshot: &Snapshot, error: &Error) -> Status {
    match error {
        Error::Compacted { compacted } => Status::aborted(format!(
            "quorate: a compaction at revision {compacted} overtook this snapshot of revision {}: what was received is not \
             whole; take another one",
            snapshot.revision()
        )),
        error => front.fail(error),
    }
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Maintenance {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let front = &self.0;
        let now = front.mailbox.status().await.ok_or_else(|| status::of_refused(Refused::Stopping))?;
        let in_use = i64::try_from(front.view.held_bytes()).unwrap_or(i64::MAX).max(1);
        let db_size = i64::try_from(front.state_bytes()).unwrap_or(i64::MAX);
        Ok(Response::new(pb::StatusResponse {
            header: front.header(front.view.revision(), now.term),
            version: ETCD_VERSION.to_string(),
            db_size,
            leader: now.leader.map_or(0, |leader| leader.0),
            raft_index: now.commit.0,
            raft_term: now.term.0,
            raft_applied_index: now.applied.0,
            errors: errors(front, now.leader.is_some()),
            db_size_in_use: in_use,
            db_size_quota: front.quota.map_or(0, |quota| i64::try_from(quota).unwrap_or(i64::MAX)),
            is_learner: front.is_learner(),
            ..pb::StatusResponse::default()
        }))
    }

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let alarm = request.into_inner();
        let (term, alarms) = match alarm.action() {
            AlarmAction::Get => (front.readable().await?, self.alarms(&alarm)),
            action @ (AlarmAction::Activate | AlarmAction::Deactivate) => {
                let active = action == AlarmAction::Activate;
                let changed = if active {
                    vec![pb::AlarmMember { member_id: alarm.member_id, alarm: alarm.alarm }]
                } else {
                    front.readable().await?;
                    self.alarms(&alarm)
                };
                let op = SetAlarm { member_id: alarm.member_id, alarm: alarm.alarm, active, by_itself: false };
                let (_, term) = front.propose(Op::Alarm(op), false).await?;
                (term, changed)
            }
        };
        let header = front.header(front.view.revision(), term);
        Ok(Response::new(pb::AlarmResponse { header, alarms }))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let target = MemberId(request.get_ref().target_id);
        match self.0.mailbox.ask(Ask::Transfer(Some(target))).await {
            // etcd answers without a header.
            Reply::Transferred => Ok(Response::new(pb::MoveLeaderResponse { header: None })),
            Reply::Refused(reason) => Err(status::of_refused(reason)),
            Reply::Uncertain(reason) => Err(status::of_uncertain(reason)),
            reply @ (Reply::Applied { .. } | Reply::Readable { .. } | Reply::Lease(_) | Reply::Changed { .. }) => {
                Err(astray(&reply))
            }
        }
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        // etcd answers without a header.
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let front = &self.0;
        let now = front.mailbox.status().await.ok_or_else(|| status::of_refused(Refused::Stopping))?;
        // Of everything that was ever applied: equal on members that have applied equally much.
        let hash = (now.digest >> 32) as u32 ^ now.digest as u32;
        Ok(Response::new(pb::HashResponse { header: front.header(front.view.revision(), now.term), hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let front = &self.0;
        let revision = Revision(request.get_ref().revision);
        // It reads everything: off the threads that carry everybody's connections.
        let hashed = tokio::task::block_in_place(|| front.view.hash(revision)).map_err(|error| front.fail(&error))?;
        Ok(Response::new(pb::HashKvResponse {
            header: front.header(front.view.revision(), front.term()),
            hash: hashed.hash,
            compact_revision: hashed.compacted.0,
            hash_revision: hashed.revision.0,
        }))
    }

    type SnapshotStream = ReceiverStream<Result<pb::SnapshotResponse, Status>>;

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let front = Arc::clone(&self.0);
        front.check_leader(request.metadata())?;
        // It copies leases, and later reads everything: off the threads that carry everybody's connections.
        let mut snapshot = tokio::task::block_in_place(|| front.view.snapshot(front.identity.cluster));
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(room) = sender.reserve().await {
                let (blob, remaining_bytes, ended) =
                    match tokio::task::block_in_place(|| next_portion(&mut snapshot, &sender)) {
                        Ok(Portion::Blob { blob, remaining }) => (blob, remaining, false),
                        Ok(Portion::Sum(sum)) => (sum, 0, true),
                        Ok(Portion::Measured) => return,
                        Err(error) => return room.send(Err(overtaken(&front, &snapshot, &error))),
                    };
                // etcd answers without a header.
                room.send(Ok(pb::SnapshotResponse { remaining_bytes, blob, ..Default::default() }));
                if ended {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(downgrade::refusal(request.get_ref()))
    }
}

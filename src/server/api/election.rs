//! etcd's Election service: who leads is who is served in the election's queue (`queue.rs`); its key's value is what it
//! proclaims.
//!
//! A candidate whose key is lost while it waits is told so. etcd tells it that it leads, though others lead who find its key
//! gone, and refuses only what it then proclaims.
//!
//! Absent: renewing a candidate's lease.

use super::queue::{self, Wish, made_at, oldest, op, under, wrong};
use super::{Front, status};
use crate::ids::Revision;
use crate::node::Refused;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::event::EventType;
use crate::proto::mvccpb::{Event, KeyValue};
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse, election_server,
};
use crate::server::watching::Watched;
use crate::watch::What;
use bytes::Bytes;
use pb::request_op::Request as Operation;
use pb::watch_request::RequestUnion;
use prost::Message as _;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub struct Election {
    /// What all services share.
    pub front: Arc<Front>,
    /// Turns true when the member stops.
    pub closed: watch::Receiver<bool>,
}

type Answered = Result<LeaderResponse, Status>;

const NOT_LEADER: &str = "election: not leader";

/// The field that says as whom the caller speaks.
fn given(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

/// Tells `observer` who leads and what it proclaims, each time that changes, for ever.
async fn observe(front: &Front, name: Bytes, observer: mpsc::Sender<Answered>) -> Result<Infallible, Status> {
    loop {
        let term = front.readable().await?;
        let mut found = front.view.range(&oldest(&name)).map_err(|error| wrong(front.fail(&error)))?;
        let now = Revision(found.header.map_or(0, |header| header.revision));
        let (mut leader, mut told) = match found.kvs.pop() {
            Some(leader) => (leader, front.complete(found.header, term)),
            None => {
                let (key, range_end) = under(&name);
                let mut candidates = Followed::new(front, key, range_end, now);
                let Some(first) = candidates.next_put().await else { continue };
                let told = front.header(Revision(first.mod_revision), front.term());
                (first, told)
            }
        };
        let since = Revision(told.map_or(0, |header| header.revision));
        let mut followed = Followed::new(front, leader.key.clone(), Bytes::new(), since);
        loop {
            let answer = LeaderResponse { header: told, kv: Some(leader) };
            // One who has left is noticed by who called this.
            let _ = observer.send(Ok(answer)).await;
            match followed.next_put().await {
                Some(kv) => leader = kv,
                None => break,
            }
            told = front.header(followed.revision, front.term());
        }
    }
}

/// The puts of some keys, from the hub.
struct Followed {
    watched: Watched,
    events: VecDeque<Event>,
    /// The revision of the answer that the last one came in.
    revision: Revision,
}

impl Followed {
    /// What happens after revision `after`.
    fn new(front: &Front, key: Bytes, range_end: Bytes, after: Revision) -> Followed {
        let mut watched = front.watching.open("this member".to_string());
        let create = pb::WatchCreateRequest { key, range_end, start_revision: after.0 + 1, ..Default::default() };
        watched.pass(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        Followed { watched, events: VecDeque::new(), revision: after }
    }

    /// The next put; `None` if a deletion comes first, or nothing can come any more.
    async fn next_put(&mut self) -> Option<KeyValue> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event.kv.filter(|_| event.r#type == i32::from(EventType::Put));
            }
            let answer = poll_fn(|context| self.watched.poll(context)).await;
            match answer.what {
                What::Events { encoded, .. } => {
                    self.revision = answer.revision;
                    self.events = pb::WatchResponse::decode(encoded).ok()?.events.into();
                }
                What::Created | What::Progress => {}
                What::Refused(_) | What::Cancelled | What::Compacted(_) => return None,
            }
        }
    }
}

#[tonic::async_trait]
impl election_server::Election for Election {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        self.front.check_leader(request.metadata())?;
        let CampaignRequest { name, lease, value } = request.into_inner();
        let wish = Wish { name: name.clone(), lease, value, proclaims: true, lost: NOT_LEADER };
        let place = queue::enter(Arc::clone(&self.front), self.closed.clone(), wish).await?;
        let leader = LeaderKey { name, key: place.key, rev: place.revision, lease: place.lease };
        Ok(Response::new(CampaignResponse { header: place.taken, leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let front = &self.front;
        front.check_leader(request.metadata())?;
        let ProclaimRequest { leader, value } = request.into_inner();
        let LeaderKey { key, rev, lease, .. } = given(leader)?;
        let lease = front.lease_or_new(lease).await?;
        let compare = vec![made_at(&key, rev)];
        let success = vec![op(Operation::RequestPut(pb::PutRequest { key, value, lease, ..Default::default() }))];
        let response = front.run(pb::TxnRequest { compare, success, failure: Vec::new() }).await?;
        if !response.succeeded {
            return Err(Status::unknown(NOT_LEADER));
        }
        Ok(Response::new(ProclaimResponse { header: response.header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let front = &self.front;
        front.check_leader(request.metadata())?;
        let oldest = oldest(&request.into_inner().name);
        let term = front.readable().await?;
        let mut found = front.view.range(&oldest).map_err(|error| wrong(front.fail(&error)))?;
        let header = front.complete(found.header, term);
        let kv = Some(found.kvs.pop().ok_or_else(|| Status::unknown("election: no leader"))?);
        Ok(Response::new(LeaderResponse { header, kv }))
    }

    type ObserveStream = ReceiverStream<Answered>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        self.front.check_leader(request.metadata())?;
        let wants_leader = super::needs_leader(request.metadata());
        let (front, closed) = (Arc::clone(&self.front), self.closed.clone());
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let caller = sender.clone();
            let status = tokio::select! {
                Err(status) = observe(&front, request.into_inner().name, sender) => status,
                () = caller.closed() => return,
                () = front.leaderless(), if wants_leader => status::of_refused(Refused::NoLeader),
                () = queue::stopped(closed) => status::of_refused(Refused::Stopping),
            };
            let _ = caller.send(Err(status)).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let front = &self.front;
        front.check_leader(request.metadata())?;
        let LeaderKey { key, rev, .. } = given(request.into_inner().leader)?;
        let compare = vec![made_at(&key, rev)];
        let success = vec![op(Operation::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }))];
        let response = front.run(pb::TxnRequest { compare, success, failure: Vec::new() }).await?;
        Ok(Response::new(ResignResponse { header: response.header }))
    }
}

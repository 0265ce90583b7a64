//! etcd's Election service: who leads is who is served in the election's queue (`queue.rs`); its key's value is what it
//! proclaims.
//!
//! A candidate whose key is lost while it waits is told so. etcd tells it that it leads, though others lead who find its key
//! gone, and refuses only what it then proclaims.
//!
//! Absent: renewing a candidate's lease.

use super::Front;
use super::queue::{self, Wish, made_at, oldest, op, wrong};
use crate::proto::etcdserverpb as pb;
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse, election_server,
};
use pb::request_op::Request as Operation;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub struct Election(pub Arc<Front>);

const NOT_LEADER: &str = "election: not leader";

/// The field that says as whom the caller speaks.
fn given(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

#[tonic::async_trait]
impl election_server::Election for Election {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        self.0.check_leader(request.metadata())?;
        let CampaignRequest { name, lease, value } = request.into_inner();
        let wish = Wish { name: name.clone(), lease, value, proclaims: true, lost: NOT_LEADER };
        let place = queue::enter(Arc::clone(&self.0), wish).await?;
        let leader = LeaderKey { name, key: place.key, rev: place.revision, lease: place.lease };
        Ok(Response::new(CampaignResponse { header: place.taken, leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let front = &self.0;
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
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let oldest = oldest(&request.into_inner().name);
        let term = front.readable().await?;
        let mut found = front.view.range(&oldest).map_err(|error| wrong(front.fail(&error)))?;
        let header = front.complete(found.header, term);
        let kv = Some(found.kvs.pop().ok_or_else(|| Status::unknown("election: no leader"))?);
        Ok(Response::new(LeaderResponse { header, kv }))
    }

    type ObserveStream = ReceiverStream<Result<LeaderResponse, Status>>;

    async fn observe(&self, _: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let (_, receiver) = mpsc::channel(1);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let LeaderKey { key, rev, .. } = given(request.into_inner().leader)?;
        let compare = vec![made_at(&key, rev)];
        let success = vec![op(Operation::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }))];
        let response = front.run(pb::TxnRequest { compare, success, failure: Vec::new() }).await?;
        Ok(Response::new(ResignResponse { header: response.header }))
    }
}

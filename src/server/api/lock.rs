//! etcd's Lock service: who holds a lock is who is served in its queue (`queue.rs`).
//!
//! The key that a lock is held by is the proof: whoever writes under the condition that it is there writes as the holder.
//!
//! Absent: fairness between members; who is first in the log is first in the queue.

use super::queue::{self, Wish, wrong};
use super::{Front, astray};
use crate::machine::{Response as Applied, check};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate::command::Op;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub struct Lock {
    /// What all services share.
    pub front: Arc<Front>,
    /// Turns true when the member stops.
    pub closed: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl lock_server::Lock for Lock {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.front.check_leader(request.metadata())?;
        let LockRequest { name, lease } = request.into_inner();
        let wish = Wish { name, lease, value: Bytes::new(), proclaims: false, lost: "mutex: session is expired" };
        let place = queue::enter(Arc::clone(&self.front), self.closed.clone(), wish).await?;
        Ok(Response::new(LockResponse { header: place.served, key: place.key }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let front = &self.front;
        front.check_leader(request.metadata())?;
        let delete = pb::DeleteRangeRequest { key: request.into_inner().key, ..Default::default() };
        check::delete_range(&delete).map_err(|error| wrong(front.fail(&error)))?;
        match front.propose(Op::DeleteRange(delete), false).await.map_err(wrong)? {
            (Applied::DeleteRange(response), term) => {
                Ok(Response::new(UnlockResponse { header: front.complete(response.header, term) }))
            }
            (other, _) => Err(astray(&other)),
        }
    }
}

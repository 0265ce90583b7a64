//! etcd's KV service.
//!
//! Writes are commands. Reads wait for a read index, unless the caller said `serializable`, and then run on the view; a
//! transaction that only reads is a read, linearizable unless all its ranges are serializable (etcd's rule).
//!
//! Absent: compaction, streamed ranges.

use super::{Front, astray, status};
use crate::machine::{Response as Applied, check};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate::command::Op;
use std::sync::Arc;
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

/// Runs a read that may take long off the threads that carry everybody's connections: a scan must not hold up a
/// heartbeat.
fn scan<T>(read: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(read)
}

/// The service.
#[derive(Clone, Debug)]
pub struct Kv(pub Arc<Front>);

#[tonic::async_trait]
impl pb::kv_server::Kv for Kv {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let range = request.into_inner();
        check::range(&range).map_err(|error| front.fail(&error))?;
        let term = if range.serializable { front.term() } else { front.readable().await? };
        let read = || front.view.range(&range);
        let response = if range.range_end.is_empty() { read() } else { scan(read) };
        let mut response = response.map_err(|error| front.fail(&error))?;
        response.header = front.complete(response.header, term);
        Ok(Response::new(response))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let put = request.into_inner();
        check::put(&put).map_err(|error| front.fail(&error))?;
        match front.propose(Op::Put(put), true).await? {
            (Applied::Put(mut response), term) => {
                response.header = front.complete(response.header, term);
                Ok(Response::new(response))
            }
            (other, _) => Err(astray(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let delete = request.into_inner();
        check::delete_range(&delete).map_err(|error| front.fail(&error))?;
        match front.propose(Op::DeleteRange(delete), false).await? {
            (Applied::DeleteRange(mut response), term) => {
                response.header = front.complete(response.header, term);
                Ok(Response::new(response))
            }
            (other, _) => Err(astray(&other)),
        }
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let txn = request.into_inner();
        check::txn(&txn, front.max_txn_ops).map_err(|error| front.fail(&error))?;
        let (mut response, term) = if check::is_read_only(&txn) {
            let term = if check::is_serializable(&txn) { front.term() } else { front.readable().await? };
            (scan(|| front.view.txn(&txn)).map_err(|error| front.fail(&error))?, term)
        } else {
            let grows = check::grows(&txn);
            match front.propose(Op::Txn(txn), grows).await? {
                (Applied::Txn(response), term) => (response, term),
                (other, _) => return Err(astray(&other)),
            }
        };
        response.header = front.complete(response.header, term);
        Ok(Response::new(response))
    }

    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(status::not_served("compaction"))
    }

    type RangeStreamStream = Empty<Result<pb::RangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(status::not_served("a streamed range"))
    }
}

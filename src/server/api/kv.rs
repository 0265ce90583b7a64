//! etcd's KV service.
//!
//! Writes are commands. Reads wait for a read index, unless the caller said `serializable`, and then run on the view; a
//! transaction that only reads is a read, linearizable unless all its ranges are serializable (etcd's rule).
//!
//! What a range holds in memory it takes from the member's [`Budget`](crate::machine::budget::Budget), and gives back when
//! the answer has left: the [`Share`] travels with the response (`http.rs`). Ranges inside a txn that writes, and what a
//! deletion tells of what it deletes, are read by the machine, which must do the same on every member; so they are measured
//! before they are proposed, on what this member knows then.
//!
//! A streamed range (`RangeStream`, etcd 3.7) holds two pieces at most, one being read and one being sent, of about
//! `--max-request-bytes` each.

use super::{Front, astray};
use crate::ids::Revision;
use crate::machine::budget::Share;
use crate::machine::{RangeStream, Response as Applied, Step, check};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate::{Compact, command::Op};
use crate::server::slow::What;
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request as Operation;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Runs a read that may take long off the threads that carry everybody's connections: a scan must not hold up a
/// heartbeat. To hand a thread's connections to another one takes longer than a read of a few keys does.
fn scan<T>(read: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(read)
}

/// An answer, and what it took of the budget.
fn answer<T>(message: T, share: Share) -> Response<T> {
    let mut response = Response::new(message);
    if share.held() > 0 {
        response.extensions_mut().insert(Arc::new(share));
    }
    response
}

/// Whether an operation of the txn speaks of more than one key.
fn scans(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Operation::RequestRange(range)) => !range.range_end.is_empty(),
        Some(Operation::RequestDeleteRange(delete)) => delete.prev_kv && !delete.range_end.is_empty(),
        Some(Operation::RequestTxn(nested)) => scans(nested),
        Some(Operation::RequestPut(_)) | None => false,
    })
}

/// Whether a stream can tell it: in the order of keys, without filters.
fn check_streamed(range: &pb::RangeRequest) -> Result<(), Status> {
    let (target, order) = (SortTarget::try_from(range.sort_target), SortOrder::try_from(range.sort_order));
    if target != Ok(SortTarget::Key) || !matches!(order, Ok(SortOrder::None | SortOrder::Ascend)) {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let filters =
        [range.min_mod_revision, range.max_mod_revision, range.min_create_revision, range.max_create_revision];
    if filters.iter().any(|revision| *revision != 0) {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
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
        front.check_learner(range.serializable)?;
        let (term, timed) = if range.serializable { (front.term(), None) } else { front.vouched().await? };
        let mut share = Share::of(&front.ranges);
        let mut read = || front.view.range_within(&range, &mut share);
        let brief = range.range_end.is_empty() || front.view.is_brief(&range);
        let response = if brief { read() } else { scan(read) };
        let mut response = response.map_err(|error| front.fail(&error))?;
        response.header = front.complete(response.header, term);
        timed.iter().for_each(|timed| front.ended(timed, || Some(What::range(&range, &response))));
        Ok(answer(response, share))
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
        let mut share = Share::of(&front.ranges);
        if delete.prev_kv && !delete.range_end.is_empty() {
            scan(|| front.view.charge_delete(&delete, &mut share)).map_err(|error| front.fail(&error))?;
        }
        match front.propose(Op::DeleteRange(delete), false).await? {
            (Applied::DeleteRange(mut response), term) => {
                response.header = front.complete(response.header, term);
                Ok(answer(response, share))
            }
            (other, _) => Err(astray(&other)),
        }
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let txn = request.into_inner();
        check::txn(&txn, front.max_txn_ops).map_err(|error| front.fail(&error))?;
        let mut share = Share::of(&front.ranges);
        let (mut response, term) = if check::is_read_only(&txn) {
            let (term, timed) =
                if check::is_serializable(&txn) { (front.term(), None) } else { front.vouched().await? };
            let mut read = || front.view.txn_within(&txn, &mut share);
            let response = if scans(&txn) { scan(read) } else { read() };
            let response = response.map_err(|error| front.fail(&error))?;
            timed.iter().for_each(|timed| front.ended(timed, || Some(What::reading_txn(&txn, &response))));
            (response, term)
        } else {
            if scans(&txn) {
                scan(|| front.view.charge_txn(&txn, &mut share)).map_err(|error| front.fail(&error))?;
            }
            let grows = check::grows(&txn);
            match front.propose(Op::Txn(txn), grows).await? {
                (Applied::Txn(response), term) => (response, term),
                (other, _) => return Err(astray(&other)),
            }
        };
        response.header = front.complete(response.header, term);
        Ok(answer(response, share))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let pb::CompactionRequest { revision, physical } = request.into_inner();
        match front.propose(Op::Compact(Compact { revision }), false).await? {
            (Applied::Compact(mut response), term) => {
                if physical {
                    front.swept(Revision(revision)).await?;
                }
                response.header = front.complete(response.header, term);
                Ok(Response::new(response))
            }
            (other, _) => Err(astray(&other)),
        }
    }

    type RangeStreamStream = ReceiverStream<Result<pb::RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let range = request.into_inner();
        check::range(&range).map_err(|error| front.fail(&error))?;
        check_streamed(&range)?;
        front.check_learner(range.serializable)?;
        let term = if range.serializable { front.term() } else { front.readable().await? };
        let piece_bytes = front.max_request_bytes as u64;
        let mut stream = front.view.stream(range, piece_bytes).map_err(|error| front.fail(&error))?;
        let (sender, receiver) = mpsc::channel(1);
        let front = Arc::clone(front);
        tokio::spawn(async move {
            // A piece is read when there is room for it, and none once the caller has left.
            while let Ok(room) = sender.reserve().await {
                let (piece, ended) = match scan(|| next_piece(&mut stream, &sender)) {
                    Ok(Step::Piece(piece)) => (Ok(piece), false),
                    Ok(Step::Last(mut last)) => {
                        last.header = front.complete(last.header, term);
                        (Ok(last), true)
                    }
                    Ok(Step::Counted) => return,
                    Err(error) => (Err(front.fail(&error)), true),
                };
                room.send(piece.map(|piece| pb::RangeStreamResponse { range_response: Some(piece) }));
                if ended {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Steps to the next piece; still counting only if the caller has left.
fn next_piece<T>(stream: &mut RangeStream, caller: &mpsc::Sender<T>) -> Result<Step, crate::machine::Error> {
    loop {
        match stream.step()? {
            Step::Counted if !caller.is_closed() => {}
            step => return Ok(step),
        }
    }
}

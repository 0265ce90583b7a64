//! etcd's Watch service.
//!
//! A stream passes its client's requests to the hub and takes the answers from its queue; both happen when the connection asks
//! for the next bytes, so a client that takes nothing is not heard either. The events arrive encoded: an answer is a small head
//! and bytes that are shared with everybody who is told the same. That is why the codec is our own, and the wiring that is
//! generated for other services stands here by hand.
//!
//! A stream ends when its client breaks it off; when the member stops; and, if the client asked for a member with a leader
//! (`hasleader: true`), once there was none for three election timeouts. A client that ends only its half goes on hearing.
//!
//! Absent: who may watch what.

use super::{Front, status};
use crate::node::Refused;
use crate::proto::etcdserverpb as pb;
use crate::server::config::GRPC_OVERHEAD_BYTES;
use crate::server::watching::Watched;
use crate::watch::{Answer, What};
use bytes::{BufMut as _, Bytes};
use prost::Message as _;
use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

/// Requests that are passed on before answers are looked after again.
const REQUESTS_PER_POLL: usize = 16;

/// A stream's buffers begin with so many bytes. Most streams are idle, and there may be thousands.
const BUFFER_BYTES: usize = 512;

/// So much is encoded before it is written, while there is more.
const YIELD_BYTES: usize = 32 * 1024;

/// The service.
#[derive(Clone, Debug)]
pub struct Watch {
    /// What all services share.
    pub front: Arc<Front>,
    /// Turns true when the member stops.
    pub closed: watch::Receiver<bool>,
}

impl NamedService for Watch {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl<B> tonic::codegen::Service<http::Request<B>> for Watch
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != "/etcdserverpb.Watch/Watch" {
            return Box::pin(ready(Ok(Status::unimplemented("").into_http())));
        }
        let open = Open(self.clone());
        let largest = self.front.max_request_bytes + GRPC_OVERHEAD_BYTES;
        Box::pin(async move { Ok(Grpc::new(Wire).max_decoding_message_size(largest).streaming(open, request).await) })
    }
}

/// The method.
struct Open(Watch);

impl StreamingService<pb::WatchRequest> for Open {
    type Response = Encoded;
    type ResponseStream = Answers;
    type Future = std::future::Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<pb::WatchRequest>>) -> Self::Future {
        ready(self.0.open(request))
    }
}

impl Watch {
    fn open(&self, request: Request<Streaming<pb::WatchRequest>>) -> Result<Response<Answers>, Status> {
        let Watch { front, closed } = self.clone();
        front.check_leader(request.metadata())?;
        let needs_leader = super::needs_leader(request.metadata());
        let address = request.remote_addr().map_or_else(|| "unknown".to_string(), |address| address.to_string());
        let watched = front.watching.open(address);
        let end = Box::pin(ended(Arc::clone(&front), closed, needs_leader));
        Ok(Response::new(Answers { watched, requests: Some(request.into_inner()), front, end }))
    }
}

/// Why the member ends a stream, when it does.
async fn ended(front: Arc<Front>, mut closed: watch::Receiver<bool>, needs_leader: bool) -> Status {
    tokio::select! {
        _ = closed.wait_for(|closed| *closed) => status::of_refused(Refused::Stopping),
        () = front.leaderless(), if needs_leader => status::of_refused(Refused::NoLeader),
    }
}

/// The answers of one stream.
pub struct Answers {
    watched: Watched,
    /// `None` once the client has ended its half.
    requests: Option<Streaming<pb::WatchRequest>>,
    front: Arc<Front>,
    end: Pin<Box<dyn Future<Output = Status> + Send>>,
}

impl Answers {
    /// Passes on what the client asks for; the error that breaks the stream, if there is one.
    fn pass_requests(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        for _ in 0..REQUESTS_PER_POLL {
            let Some(requests) = self.requests.as_mut().filter(|_| self.watched.may_pass()) else { return Ok(()) };
            match Pin::new(requests).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => self.watched.pass(request),
                Poll::Ready(Some(Err(status))) => return Err(status),
                Poll::Ready(None) => self.requests = None,
                Poll::Pending => return Ok(()),
            }
        }
        // There may be more.
        context.waker().wake_by_ref();
        Ok(())
    }

    fn encoded(&self, answer: Answer) -> Encoded {
        let term = self.front.term();
        let mut head = pb::WatchResponse {
            header: self.front.header(answer.revision, term),
            watch_id: answer.watch_id,
            ..pb::WatchResponse::default()
        };
        let mut events = Bytes::new();
        match answer.what {
            What::Created => head.created = true,
            What::Refused(why) => (head.created, head.canceled, head.cancel_reason) = (true, true, why.to_string()),
            What::Events { encoded, fragment, .. } => (events, head.fragment) = (encoded, fragment),
            What::Progress => {}
            What::Cancelled => head.canceled = true,
            What::Compacted(compacted) => (head.canceled, head.compact_revision) = (true, compacted.0),
        }
        Encoded { head, events }
    }
}

impl Stream for Answers {
    type Item = Result<Encoded, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Err(status) = self.pass_requests(context) {
            return Poll::Ready(Some(Err(status)));
        }
        // If requests must wait, the turn may come before anybody is there to be woken.
        let waits = !self.watched.may_pass();
        match self.watched.poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(Ok(self.encoded(answer)))),
            Poll::Pending => {
                if waits && self.watched.may_pass() {
                    context.waker().wake_by_ref();
                }
                self.end.as_mut().poll(context).map(|status| Some(Err(status)))
            }
        }
    }
}

/// A WatchResponse: `head` has no events, `events` are the bytes of that field.
#[derive(Debug)]
pub struct Encoded {
    head: pb::WatchResponse,
    events: Bytes,
}

/// Puts answers together.
#[derive(Clone, Copy, Debug)]
struct Wire;

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

impl Codec for Wire {
    type Encode = Encoded;
    type Decode = pb::WatchRequest;
    type Encoder = Wire;
    type Decoder = Wire;

    fn encoder(&mut self) -> Wire {
        Wire
    }

    fn decoder(&mut self) -> Wire {
        Wire
    }
}

impl Encoder for Wire {
    type Item = Encoded;
    type Error = Status;

    fn encode(&mut self, Encoded { head, events }: Encoded, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(head.encoded_len() + events.len());
        head.encode(buffer).map_err(|error| Status::internal(error.to_string()))?;
        buffer.put(events);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Decoder for Wire {
    type Item = pb::WatchRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<pb::WatchRequest>, Status> {
        pb::WatchRequest::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

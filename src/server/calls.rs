//! Counts the calls of the client port: begun, ended with which code after how long, and the bytes of its connections.
//!
//! A [`Call`] is made when a request's head has arrived, and counts itself when it is dropped: with the code that was
//! answered, or as cancelled if the caller left first. For a unary call the answer's head says it all; a stream is watched
//! until its trailers.
//!
//! # Invariants
//!
//! 1. A call that began ends exactly once, whatever becomes of it.
//! 2. On a unary call's way nothing is locked and nothing is allocated: every method's counters are made at the start.
//!
//! Absent: calls of methods that are not served, and reflection's. Bytes are those of connections, with the framing and the
//! pages, where etcd counts the messages alone: that would cost each call a second encoding.

use super::exposition::{CALL_BOUNDS, Family, Histogram, Kind, Label, Page};
use crate::clock::instant;
use crate::proto::DESCRIPTORS;
use axum::body::{Bytes, HttpBody};
use axum::http::HeaderMap;
use http::Response;
use http_body::{Frame, SizeHint};
use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::body::Body;
use tonic::transport::server::Connected;
use tonic::{Code, Status};

/// A service of the peer port, whose streams live for ever.
const PEER_SERVICE: &str = "quorate.Peer";

/// gRPC's codes by number, in the words of Go's interceptors.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// One method and its counts.
#[derive(Debug)]
struct Method {
    service: String,
    name: String,
    kind: &'static str,
    started: AtomicU64,
    handled: [AtomicU64; CODES.len()],
    took: Histogram,
}

impl Method {
    fn new(service: &str, described: &MethodDescriptorProto) -> Method {
        let kind = match (described.client_streaming(), described.server_streaming()) {
            (false, false) => UNARY,
            (true, false) => "client_stream",
            (false, true) => "server_stream",
            (true, true) => "bidi_stream",
        };
        Method {
            service: service.to_owned(),
            name: described.name().to_owned(),
            kind,
            started: AtomicU64::new(0),
            handled: std::array::from_fn(|_| AtomicU64::new(0)),
            took: Histogram::new(CALL_BOUNDS),
        }
    }

    fn labels(&self) -> [Label<'_>; 3] {
        [("grpc_method", &self.name), ("grpc_service", &self.service), ("grpc_type", &self.kind)]
    }
}

const UNARY: &str = "unary";

/// Every method of the client port, by path.
#[derive(Debug)]
pub struct Calls {
    methods: BTreeMap<String, Arc<Method>>,
}

impl Default for Calls {
    /// Nothing called yet.
    fn default() -> Calls {
        let mut methods = BTreeMap::new();
        for descriptors in [DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET] {
            let set = FileDescriptorSet::decode(descriptors)
                .unwrap_or_else(|error| unreachable!("the built-in descriptors are whole: {error}"));
            for file in &set.file {
                for service in &file.service {
                    let name = format!("{}.{}", file.package(), service.name());
                    let served = service.method.iter().filter(|_| name != PEER_SERVICE);
                    methods.extend(served.map(|described| {
                        (format!("/{name}/{}", described.name()), Arc::new(Method::new(&name, described)))
                    }));
                }
            }
        }
        Calls { methods }
    }
}

impl Calls {
    /// Begins to count a call, if the path is a method's.
    pub fn begin(&self, path: &str) -> Option<Call> {
        let method = Arc::clone(self.methods.get(path)?);
        method.started.fetch_add(1, Ordering::Relaxed);
        Some(Call { method, begun: instant(), code: Code::Cancelled })
    }

    /// Writes what was counted.
    pub fn expose(&self, page: &mut Page) {
        self.each(page, Kind::Counter, "grpc_server_started_total", "Calls that were begun.", |family, method| {
            family.sample(&method.labels(), method.started.load(Ordering::Relaxed));
        });
        self.each(page, Kind::Counter, "grpc_server_handled_total", "Calls that have ended.", |family, method| {
            for (code, handled) in CODES.iter().zip(&method.handled) {
                let [name, service, kind] = method.labels();
                family.sample(&[("grpc_code", code), name, service, kind], handled.load(Ordering::Relaxed));
            }
        });
        let help = "How long calls took, in seconds; methods that were called.";
        self.each(page, Kind::Histogram, "grpc_server_handling_seconds", help, |family, method| {
            if method.took.count() > 0 {
                family.histogram(&method.labels(), &method.took);
            }
        });
    }

    fn each(
        &self,
        page: &mut Page,
        kind: Kind,
        name: &'static str,
        help: &str,
        write: impl Fn(&mut Family<'_>, &Method),
    ) {
        let mut family = page.family(kind, name, help);
        self.methods.values().for_each(|method| write(&mut family, method));
    }
}

/// A call that began. Counts its end when it is dropped.
#[derive(Debug)]
pub struct Call {
    method: Arc<Method>,
    begun: Instant,
    code: Code,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.method.took.record(self.begun.elapsed());
        self.method.handled[self.code as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Call {
    /// The answer's head is there: the call has ended, or its stream is watched from here on.
    pub fn answered(mut self, response: Response<Body>) -> Response<Body> {
        match code(response.headers()) {
            Some(code) => self.code = code,
            None if self.method.kind == UNARY => self.code = Code::Ok,
            None => return response.map(|body| Body::new(Watched { body, call: self })),
        }
        response
    }
}

/// The code in a head or in trailers.
fn code(headers: &HeaderMap) -> Option<Code> {
    Some(Code::from_bytes(headers.get("grpc-status")?.as_bytes()))
}

/// A stream of answers, watched until its end.
struct Watched {
    body: Body,
    call: Call,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code)
        {
            self.call.code = code;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of the client port's connections.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From clients.
    pub received: AtomicU64,
    /// To clients.
    pub sent: AtomicU64,
}

/// A connection whose bytes are counted.
#[derive(Debug)]
pub struct Metered<IO> {
    /// The connection.
    pub io: IO,
    /// Where they are counted.
    pub traffic: Arc<Traffic>,
}

impl<IO: Connected> Connected for Metered<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> IO::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.traffic.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.traffic.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, parts))?;
        self.traffic.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: &str = "/etcdserverpb.KV/Put";
    const WATCH: &str = "/grpc.health.v1.Health/Watch";

    /// How many calls of `path` began, and the codes with which they ended.
    fn counts(calls: &Calls, path: &str) -> (u64, Vec<(&'static str, u64)>) {
        let method = &calls.methods[path];
        let ended = CODES.into_iter().zip(method.handled.iter().map(|handled| handled.load(Ordering::Relaxed)));
        (method.started.load(Ordering::Relaxed), ended.filter(|(_, count)| *count > 0).collect())
    }

    #[test]
    fn a_unary_call_ends_with_the_answers_head_or_is_cancelled() {
        let calls = Calls::default();
        let begin = || calls.begin(PUT).unwrap();
        begin().answered(Response::default());
        begin().answered(Status::unavailable("").into_http());
        drop(begin());
        assert_eq!(counts(&calls, PUT), (3, vec![("OK", 1), ("Canceled", 1), ("Unavailable", 1)]));
        assert_eq!(calls.methods[PUT].took.count(), 3);
    }

    #[test]
    fn what_is_no_method_of_the_client_port_is_not_counted() {
        let calls = Calls::default();
        for path in ["/metrics", "/etcdserverpb.KV/Steal", "/quorate.Peer/Connect"] {
            assert!(calls.begin(path).is_none(), "{path}");
        }
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_trailers_or_is_cancelled() {
        let trailers = |code: &'static str| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            Frame::<Bytes>::trailers(trailers)
        };
        let calls = Calls::default();
        for frames in [vec![Frame::data(Bytes::from_static(b"x")), trailers("4")], vec![trailers("0")], Vec::new()] {
            let answer = Response::new(Body::new(Frames(frames.into())));
            let mut body = calls.begin(WATCH).unwrap().answered(answer).into_body();
            assert_eq!(counts(&calls, WATCH).1.iter().map(|(_, n)| n).sum::<u64>() + 1, counts(&calls, WATCH).0);
            while std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_some() {}
        }
        assert_eq!(counts(&calls, WATCH), (3, vec![("OK", 1), ("Canceled", 1), ("DeadlineExceeded", 1)]));
    }

    /// A body of given frames.
    struct Frames(std::collections::VecDeque<Frame<Bytes>>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }
}

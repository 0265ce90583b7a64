//! The client against scripted servers: which failures are tried again, and what the caller hears.

use super::*;
use crate::proto::etcdserverpb::kv_server::{Kv, KvServer};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncReadExt;
use tonic::{Code, Request, Response};

/// A server that answers the n-th request with the n-th line of its script, and then with success.
#[derive(Clone, Default)]
struct Scripted {
    script: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Answer {
    Say(Status),
    Never,
}

impl Scripted {
    async fn answer<R: Default>(&self) -> Result<Response<R>, Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let line = self.script.lock().unwrap().pop_front();
        match line {
            None => Ok(Response::new(R::default())),
            Some(Answer::Say(status)) => Err(status),
            Some(Answer::Never) => std::future::pending().await,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[tonic::async_trait]
impl Kv for Scripted {
    async fn range(&self, _: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.answer().await
    }
    async fn put(&self, _: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.answer().await
    }
    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.answer().await
    }
    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.answer().await
    }
    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Result<Response<pb::CompactionResponse>, Status> {
        self.answer().await
    }
    type RangeStreamStream = tokio_stream::Empty<Result<pb::RangeStreamResponse, Status>>;
    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

async fn serve(script: impl IntoIterator<Item = Answer>) -> (Scripted, SocketAddr) {
    let server = Scripted { script: Arc::new(Mutex::new(script.into_iter().collect())), ..Default::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let router = tonic::transport::Server::builder().add_service(KvServer::new(server.clone()));
    tokio::spawn(router.serve_with_incoming(incoming));
    (server, address)
}

/// An address at which nothing listens: the socket stays bound, so nobody else gets the port, and never listens.
fn dead() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn client(addresses: &[SocketAddr]) -> Client {
    let options = Options { try_timeout: Duration::from_millis(300), ..Default::default() };
    let endpoints: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Client::new(&endpoints, options).unwrap()
}

fn impatient(addresses: &[SocketAddr]) -> Client {
    let ms = Duration::from_millis;
    Client {
        options: Options { dial_timeout: ms(50), command_timeout: ms(200), try_timeout: ms(100) },
        ..client(addresses)
    }
}

fn put() -> pb::PutRequest {
    pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }
}

fn range() -> pb::RangeRequest {
    pb::RangeRequest { key: "k".into(), ..Default::default() }
}

fn unavailable() -> Answer {
    Answer::Say(Status::unavailable("etcdserver: request timed out"))
}

fn refused() -> Answer {
    let mut status = Status::unavailable("etcdserver: no leader");
    status.metadata_mut().insert(OUTCOME, REFUSED.parse().unwrap());
    Answer::Say(status)
}

#[tokio::test]
async fn a_write_that_could_not_be_sent_goes_to_the_next_endpoint_and_the_client_stays_there() {
    let (_socket, nobody) = dead();
    let (server, address) = serve([]).await;
    let client = client(&[nobody, address]);
    client.put(put()).await.unwrap();
    client.put(put()).await.unwrap();
    assert_eq!(server.asked(), 2);
    assert_eq!(client.endpoints.in_use(), 1);
}

#[tokio::test]
async fn a_write_that_the_server_refused_is_sent_again() {
    let (first, a) = serve([refused()]).await;
    let (second, b) = serve([Answer::Say(Status::resource_exhausted("etcdserver: too many requests"))]).await;
    client(&[a, b]).put(put()).await.unwrap();
    assert_eq!((first.asked(), second.asked()), (2, 1), "once around, then the first again");
}

#[tokio::test]
async fn a_write_that_may_be_done_is_never_sent_again() {
    let mut said = Status::resource_exhausted("etcdserver: too many requests");
    said.metadata_mut().insert(OUTCOME, "uncertain".parse().unwrap());
    let bare = [Answer::Say(Status::unknown("?")), Answer::Say(Status::internal("?")), Answer::Never];
    for answer in bare.into_iter().chain([unavailable(), Answer::Say(said)]) {
        let (first, a) = serve([answer]).await;
        let (second, b) = serve([]).await;
        let error = client(&[a, b]).put(put()).await.unwrap_err();
        assert!(matches!(error, Error::Uncertain(_)), "{error:?}");
        assert_eq!((first.asked(), second.asked()), (1, 0));
    }
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_write_leaves_it_uncertain() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let a = listener.local_addr().unwrap();
    let (second, b) = serve([]).await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 4096];
        _ = stream.read(&mut bytes).await;
    });
    let error = client(&[a, b]).put(put()).await.unwrap_err();
    assert!(matches!(error, Error::Uncertain(_)), "{error:?}");
    assert_eq!(second.asked(), 0);
}

#[tokio::test]
async fn a_read_is_tried_again_whatever_may_pass() {
    let (first, a) = serve([unavailable(), Answer::Never]).await;
    let (second, b) = serve([unavailable()]).await;
    let (_socket, nobody) = dead();
    client(&[a, b, nobody]).range(range()).await.unwrap();
    // a: unavailable, b: unavailable, nobody; a: silent, b: answers.
    assert_eq!((first.asked(), second.asked()), (2, 2));
}

#[tokio::test]
async fn a_read_never_ends_uncertain() {
    let (_server, a) = serve(vec![Answer::Never; 9]).await;
    let error = impatient(&[a]).range(range()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(status) if status.code() == Code::DeadlineExceeded), "{error:?}");
}

#[test]
fn a_known_refusal_is_not_drowned_by_a_try_of_no_time() {
    let (us, s) = (Duration::from_micros, Duration::from_secs);
    assert!(super::retry::too_late(us(0), s(5)));
    assert!(super::retry::too_late(us(300), s(5)));
    assert!(!super::retry::too_late(us(50_001), s(5)));
    assert!(!super::retry::too_late(us(101), us(1_000)), "a short call has its tries, too");
}

#[tokio::test]
async fn a_considered_no_is_final() {
    let (first, a) = serve([Answer::Say(Status::invalid_argument("etcdserver: key is not provided"))]).await;
    let error = client(&[a]).put(put()).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error:?}");
    assert_eq!(first.asked(), 1);
    assert_eq!(error.to_string(), "etcdserver: key is not provided");
}

#[tokio::test]
async fn when_nobody_listens_the_error_names_every_endpoint() {
    let ((_s, a), (_t, b)) = (dead(), dead());
    // No time of its own ends a try, however slow the machine is: it gives up because everybody refuses.
    let ever = Duration::from_secs(1 << 20);
    let options = Options { dial_timeout: ever, command_timeout: ever, try_timeout: ever };
    let error = Client { options, ..client(&[a, b]) }.fail_fast().put(put()).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    assert!(error.is_unreachable());
    let expected = format!("not done: no endpoint could be reached ({a}: connection refused, {b}: connection refused)");
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_client_without_patience_goes_once_around_when_nobody_listens() {
    let ((_s, a), (_t, b)) = (dead(), dead());
    // Its time never ends: the call returns because it gives up.
    let forever = Options { command_timeout: Duration::from_secs(1 << 20), ..Default::default() };
    let hasty = Client { options: forever, ..client(&[a, b]) }.fail_fast();
    assert!(hasty.put(put()).await.unwrap_err().is_unreachable());
    // One endpoint that answers is somebody to wait for.
    let (server, c) = serve(vec![refused(); 3]).await;
    let hasty = Client { options: forever, ..client(&[a, c]) }.fail_fast();
    hasty.put(put()).await.unwrap();
    assert_eq!(server.asked(), 4);
}

#[tokio::test]
async fn one_endpoint_can_be_pinned() {
    let (first, a) = serve([unavailable()]).await;
    let (second, b) = serve([]).await;
    let both = client(&[a, b]);
    both.only(&b.to_string()).unwrap().put(put()).await.unwrap();
    both.only(&a.to_string()).unwrap().put(put()).await.unwrap_err();
    assert_eq!((first.asked(), second.asked()), (1, 1));
    assert!(both.only("nonsense").is_err());
}

#[tokio::test]
async fn a_txn_that_only_reads_is_tried_again_as_a_read_is() {
    let op = |request| pb::RequestOp { request: Some(request) };
    let read = op(pb::request_op::Request::RequestRange(range()));
    let nested = |inner: Vec<pb::RequestOp>| {
        op(pb::request_op::Request::RequestTxn(pb::TxnRequest { failure: inner, ..Default::default() }))
    };
    let reads = pb::TxnRequest { success: vec![read.clone(), nested(vec![read.clone()])], ..Default::default() };
    let write = op(pb::request_op::Request::RequestPut(put()));
    let writes = pb::TxnRequest { success: vec![read, nested(vec![write])], ..Default::default() };
    let (_server, a) = serve([unavailable(), unavailable()]).await;
    client(&[a]).txn(reads.clone()).await.unwrap();
    let (_server, a) = serve([unavailable()]).await;
    let error = client(&[a]).txn(writes).await.unwrap_err();
    assert!(matches!(error, Error::Uncertain(_)), "{error:?}");
}

#[tokio::test]
async fn a_watch_that_never_stood_ends_as_a_read_does() {
    let (_socket, a) = dead();
    let request = pb::WatchCreateRequest { key: "k".into(), start_revision: 5, ..Default::default() };
    let error = impatient(&[a]).watch(request).next().await.unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
}

//! What is served beside gRPC on the same ports: who is this, is it well, and etcd's API as JSON.
//!
//! `/version`, `/health`, `/livez`, `/readyz` and `/metrics` on the client port answer as etcd does, because probes, load
//! balancers, scrapers and scripts made for etcd ask there; `/version` and `/members` on the peer port likewise. Requests that
//! no service knows get etcd's texts, gRPC and plain ones alike. `health.rs` has the pages about how the member is doing;
//! below `/v3/` is the JSON gateway (`server/gateway.rs`), if `--enable-grpc-gateway` leaves it on. What is not gRPC carries
//! etcd's headers for browsers (`--cors`).
//!
//! Absent: the v2 API, pprof.

use super::api::kv::Kv;
use super::api::{ETCD_CLUSTER_VERSION, ETCD_VERSION, Front, cluster, status};
use super::config::{Config, GRPC_OVERHEAD_BYTES};
use super::exposition;
use super::gateway::Gateway;
use super::metrics;
use crate::machine::budget::Share;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_server::KvServer;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONTENT_TYPE,
    ORIGIN,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use http_body::{Frame, SizeHint};
use serde_json::json;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tonic::body::Body as CallBody;
use tonic::{Code, Status};
use tower::Service;

mod health;

/// Our own version, beside etcd's in `/version`.
const VERSION_HEADER: &str = "quorate-version";

/// etcd's, beside `/members`.
const CLUSTER_HEADER: &str = "x-etcd-cluster-id";

/// How the paths of the KV service's methods begin.
const KV: &str = "/etcdserverpb.KV/";

/// Everything that is served on the client port.
#[derive(Clone, Debug)]
pub struct ClientPort {
    front: Arc<Front>,
    kv: KvServer<Kv>,
    others: Router,
}

impl ClientPort {
    /// The gRPC services of `services` (the KV service among them, for the gateway), the same as JSON, and the pages.
    pub fn new(kv: KvServer<Kv>, services: Router, config: &Config, front: &Arc<Front>) -> ClientPort {
        ClientPort { front: Arc::clone(front), kv, others: router(services, config, front) }
    }
}

impl Service<http::Request<CallBody>> for ClientPort {
    type Response = http::Response<CallBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<CallBody>) -> Self::Future {
        if is_call(&request) && request.uri().path().starts_with(KV) {
            let (front, mut kv) = (Arc::clone(&self.front), self.kv.clone());
            return Box::pin(async move {
                let call = async move |request| {
                    let Ok(response) = kv.call(request).await;
                    response
                };
                Ok(kept_until_sent(counted(&front, request, call).await, CallBody::new))
            });
        }
        let answer = self.others.call(request);
        Box::pin(async move {
            let Ok(response) = answer.await;
            Ok(response.map(CallBody::new))
        })
    }
}

fn router(services: Router, config: &Config, front: &Arc<Front>) -> Router {
    let page = |answer: fn(Arc<Front>, Uri) -> PageFuture| {
        let front = Arc::clone(front);
        any(move |request: Request| async move {
            if request.method() == Method::GET { answer(front, request.into_parts().0.uri).await } else { only_get() }
        })
    };
    let counting = Arc::clone(front);
    let calls = services.fallback(unknown).layer(from_fn(move |request, next: Next| {
        let front = Arc::clone(&counting);
        async move { counted(&front, request, async move |request| next.run(request).await).await.map(Body::new) }
    }));
    let mut routes = calls
        .clone()
        .route("/version", page(|_, _| Box::pin(async { version() })))
        .route("/health", page(|front, uri| Box::pin(health::health(front, uri))))
        .route("/metrics", page(|front, _| Box::pin(metrics(front))));
    for path in health::livez_paths() {
        routes = routes.route(&path, page(|front, uri| Box::pin(health::livez(front, uri))));
    }
    for path in health::readyz_paths() {
        routes = routes.route(&path, page(|front, uri| Box::pin(health::readyz(front, uri))));
    }
    if config.gateway {
        let gateway = Gateway::new(calls, config.max_request_bytes + GRPC_OVERHEAD_BYTES);
        for below in ["/v3/", "/v3/{*path}", "/v3beta/", "/v3beta/{*path}"] {
            let gateway = gateway.clone();
            routes = routes.route(below, any(move |request| gateway.answer(request)));
        }
    }
    let origins: Arc<[String]> = config.cors.clone().into();
    routes
        .layer(from_fn(move |request, next| with_cors(Arc::clone(&origins), request, next)))
        .layer(from_fn(until_sent))
}

/// The peer port: the stream between members, and the pages.
pub fn peer_port(services: Router, front: &Arc<Front>) -> Router {
    let front = Arc::clone(front);
    services
        .route("/version", get(async || version()))
        .route("/members", get(async move || members(&front)))
        .fallback(unknown)
        .layer(from_fn(with_etcds_texts))
}

type PageFuture = std::pin::Pin<Box<dyn Future<Output = Response> + Send>>;

const TEXT: &str = "text/plain; charset=utf-8";

fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], body.into()).into_response()
}

fn json_page(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn version() -> Response {
    let body = json!({ "etcdserver": ETCD_VERSION, "etcdcluster": ETCD_CLUSTER_VERSION });
    let mut response = json_page(StatusCode::OK, &body);
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    response
}

/// As etcd's members ask each other when one joins.
fn members(front: &Front) -> Response {
    let shown = |member: pb::Member| {
        let mut shown = json!({ "id": member.id, "peerURLs": member.peer_ur_ls, "name": member.name });
        if member.is_learner {
            shown["isLearner"] = true.into();
        }
        if !member.client_ur_ls.is_empty() {
            shown["clientURLs"] = member.client_ur_ls.into();
        }
        shown
    };
    let members = cluster::members(front).into_iter().map(shown).collect();
    let mut response = json_page(StatusCode::OK, &serde_json::Value::Array(members));
    if let Ok(cluster) = HeaderValue::from_str(&front.identity.cluster.to_string()) {
        response.headers_mut().insert(CLUSTER_HEADER, cluster);
    }
    response
}

/// etcd's answer to whoever wants to change a page.
fn only_get() -> Response {
    let head = [(ALLOW, "GET"), (CONTENT_TYPE, TEXT)];
    (StatusCode::METHOD_NOT_ALLOWED, head, "Method Not Allowed\n").into_response()
}

async fn metrics(front: Arc<Front>) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, exposition::CONTENT_TYPE)], metrics::page(&front)).into_response()
}

fn is_call<B>(request: &http::Request<B>) -> bool {
    request.version() == Version::HTTP_2 && is_grpc(request.headers())
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

async fn unknown(request: Request) -> Response {
    if !is_grpc(request.headers()) {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
    Status::unimplemented(format!("unknown service {service}")).into_http()
}

/// Lets pages of `origins` (`*`: of any) read what is not gRPC, in etcd's way.
async fn with_cors(origins: Arc<[String]>, request: Request, next: Next) -> Response {
    if is_call(&request) {
        return next.run(request).await;
    }
    let any = HeaderValue::from_static("*");
    let listed = |origin: &&HeaderValue| origins.iter().any(|known| known.as_bytes() == origin.as_bytes());
    let allowed = [&any].into_iter().chain(request.headers().get(ORIGIN)).find(listed).cloned();
    let mut response =
        if request.method() == Method::OPTIONS { Response::new(Body::empty()) } else { next.run(request).await };
    if let Some(origin) = allowed {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
    }
    response
}

async fn until_sent(request: Request, next: Next) -> Response {
    kept_until_sent(next.run(request).await, Body::new)
}

/// Keeps what an answer took of the budget for ranges as long as the answer is on its way.
fn kept_until_sent<B>(mut response: http::Response<B>, body_of: impl FnOnce(Paid<B>) -> B) -> http::Response<B> {
    match response.extensions_mut().remove::<Arc<Share>>() {
        Some(share) => response.map(|body| body_of(Paid { body, share })),
        None => response,
    }
}

/// A body that holds on to a share, with each piece of it. HTTP/2 takes an answer as soon as the first byte of it may leave,
/// and is done with the body; then it is the bytes that take the room.
struct Paid<B> {
    body: B,
    share: Arc<Share>,
}

/// A piece of such a body.
struct PaidBytes {
    bytes: Bytes,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for PaidBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Paid<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let paid = |bytes| Bytes::from_owner(PaidBytes { bytes, _share: Arc::clone(&self.share) });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(paid))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Carries out a request by `run` and counts it, if it is a call that is known.
async fn counted<Q, B>(
    front: &Front,
    request: http::Request<Q>,
    run: impl AsyncFnOnce(http::Request<Q>) -> http::Response<B>,
) -> http::Response<CallBody>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    let call = front.metrics.calls.begin(request.uri().path());
    let response = match front.is_learner() && !is_for_learners(request.uri().path()) {
        true => status::not_for_learners().into_http(),
        false => {
            let uri = request.uri().clone();
            with_etcds_text(&uri, run(request).await.map(CallBody::new))
        }
    };
    match call {
        Some(call) => call.answered(response),
        None => response,
    }
}

/// What a learner answers, as in etcd: what it has itself, old as it may be. Of ranges, the serializable ones (`api/kv.rs`).
fn is_for_learners(path: &str) -> bool {
    let is_etcds = ["/etcdserverpb.", "/v3lockpb.", "/v3electionpb."].iter().any(|service| path.starts_with(service));
    let served = ["KV/Range", "KV/RangeStream", "Maintenance/Status", "Maintenance/Snapshot"];
    !is_etcds || served.iter().any(|method| path.strip_prefix("/etcdserverpb.") == Some(*method))
}

async fn with_etcds_texts(request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    with_etcds_text(&uri, next.run(request).await)
}

/// gRPC errors that tonic makes before a service sees the call, in etcd's words.
fn with_etcds_text<B: Default>(uri: &Uri, response: http::Response<B>) -> http::Response<B> {
    if !response.headers().contains_key("grpc-status") {
        return response;
    }
    let reworded = Status::from_header_map(response.headers()).and_then(|status| reword(&status, uri.path()));
    reworded.map_or(response, Status::into_http)
}

fn reword(status: &Status, path: &str) -> Option<Status> {
    match status.code() {
        Code::Unimplemented if status.message().is_empty() => {
            let (service, method) = path.trim_start_matches('/').split_once('/')?;
            Some(Status::unimplemented(format!("unknown method {method} for service {service}")))
        }
        Code::NotFound if path == "/grpc.health.v1.Health/Check" => Some(Status::not_found("unknown service")),
        Code::OutOfRange if status.message().starts_with("Error, decoded message length too large") => {
            let mut numbers = status.message().split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
            let (found, limit) = (numbers.next()?, numbers.next()?);
            Some(Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::budget::Budget;

    fn reworded(status: Status, path: &str) -> Option<(Code, String)> {
        reword(&status, path).map(|status| (status.code(), status.message().to_string()))
    }

    /// HTTP/2 lets go of the body as soon as it has all of it, and sends it when the other side takes it.
    #[tokio::test]
    async fn an_answer_takes_its_room_until_the_last_byte_of_it_is_gone() {
        let budget = Arc::new(Budget::new(0, 100));
        let mut share = Share::of(&budget);
        share.take(80).unwrap();
        let mut response = http::Response::new(CallBody::new(Body::from("an answer")));
        response.extensions_mut().insert(Arc::new(share));
        let mut body = kept_until_sent(response, CallBody::new).into_body();
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
        let bytes = frame.into_data().unwrap();
        drop(body);
        assert!(Share::of(&budget).take(80).is_err(), "the bytes are there still");
        assert_eq!(bytes, "an answer");
        drop(bytes);
        assert_eq!(Share::of(&budget).take(80), Ok(()));
    }

    #[test]
    fn tonics_own_errors_get_etcds_texts() {
        assert_eq!(
            reworded(Status::unimplemented(""), "/etcdserverpb.KV/Steal"),
            Some((Code::Unimplemented, "unknown method Steal for service etcdserverpb.KV".into()))
        );
        let large = "Error, decoded message length too large: found 3000000 bytes, the limit is: 2097152 bytes";
        assert_eq!(
            reworded(Status::out_of_range(large), "/etcdserverpb.KV/Put"),
            Some((Code::ResourceExhausted, "grpc: received message larger than max (3000000 vs. 2097152)".into()))
        );
    }

    #[test]
    fn a_services_own_errors_stay_as_they_are() {
        assert_eq!(reworded(Status::unimplemented("etcdserver: not yet"), "/a/b"), None);
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(reworded(Status::out_of_range(compacted), "/a/b"), None);
    }
}

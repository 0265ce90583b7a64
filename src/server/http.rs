//! What is served beside gRPC on the same ports: who is this, is it well.
//!
//! `/version`, `/health`, `/livez`, `/readyz` and `/metrics` on the client port answer as etcd does, because probes, load
//! balancers, scrapers and scripts made for etcd ask there; `/version` and `/members` on the peer port likewise. Requests that
//! no service knows get etcd's texts, gRPC and plain ones alike.
//!
//! `/livez` says whether a restart would help: whether this member's threads move ([`Front::alive`]), whatever the others do.
//! `/readyz` says whether to send it clients: whether a linearizable read goes through, and it is not stopping.
//!
//! Absent: the JSON gateway, the v2 API.

use super::api::{ETCD_CLUSTER_VERSION, ETCD_VERSION, Front, cluster};
use super::exposition;
use super::metrics::{self, count};
use crate::proto::etcdserverpb as pb;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tonic::{Code, Status};

/// Our own version, beside etcd's in `/version`.
const VERSION_HEADER: &str = "quorate-version";

/// The client port: the gRPC services of `services`, and the pages.
pub fn client_port(services: Router, front: &Arc<Front>) -> Router {
    let page = |answer: fn(Arc<Front>, Request) -> PageFuture| {
        let front = Arc::clone(front);
        any(move |request: Request| answer(Arc::clone(&front), request))
    };
    let counting = Arc::clone(front);
    services
        .route("/version", get(version))
        .route("/health", page(|front, request| Box::pin(health(front, request))))
        .route("/livez", page(|front, _| Box::pin(livez(front))))
        .route("/readyz", page(|front, _| Box::pin(readyz(front))))
        .route("/metrics", page(|front, _| Box::pin(metrics(front))))
        .fallback(unknown)
        .layer(from_fn(move |request, next| counted(Arc::clone(&counting), request, next)))
}

/// The peer port: the stream between members, and the pages.
pub fn peer_port(services: Router, front: &Arc<Front>) -> Router {
    let front = Arc::clone(front);
    services
        .route("/version", get(version))
        .route("/members", get(async move || members(&front)))
        .fallback(unknown)
        .layer(from_fn(with_etcds_texts))
}

type PageFuture = std::pin::Pin<Box<dyn Future<Output = Response> + Send>>;

fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], body.into()).into_response()
}

fn page(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn version() -> Response {
    let body = json!({ "etcdserver": ETCD_VERSION, "etcdcluster": ETCD_CLUSTER_VERSION });
    let mut response = page(StatusCode::OK, &body);
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    response
}

fn members(front: &Front) -> Response {
    let members: Vec<_> = cluster::members(front)
        .into_iter()
        .map(|member| {
            json!({
                "id": member.id, "peerURLs": member.peer_ur_ls, "name": member.name, "clientURLs": member.client_ur_ls,
            })
        })
        .collect();
    page(StatusCode::OK, &serde_json::Value::Array(members))
}

async fn health(front: Arc<Front>, request: Request) -> Response {
    if request.method() != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET")], "Method Not Allowed\n").into_response();
    }
    let query = request.uri().query().unwrap_or_default();
    let asked = |wanted: &str| query.split('&').any(|part| part == wanted);
    let alarm = front
        .view
        .alarms()
        .into_iter()
        .map(|(_, alarm)| alarm.as_str_name())
        .find(|alarm| !asked(&format!("exclude={alarm}")));
    let trouble = match alarm {
        Some(alarm) => Some(format!("ALARM {alarm}")),
        None if asked("serializable=true") => None,
        None if !front.has_leader() => Some("RAFT NO LEADER".to_string()),
        None => front.readable().await.err().map(|status| format!("RANGE ERROR:{}", status.message())),
    };
    count(&front.metrics.health[usize::from(trouble.is_some())]);
    match trouble {
        None => page(StatusCode::OK, &json!({ "health": "true", "reason": "" })),
        Some(reason) => page(StatusCode::SERVICE_UNAVAILABLE, &json!({ "health": "false", "reason": reason })),
    }
}

async fn livez(front: Arc<Front>) -> Response {
    match front.alive().await {
        Ok(()) => text(StatusCode::OK, "ok\n"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("[-]threads failed: {why}\n")),
    }
}

async fn metrics(front: Arc<Front>) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, exposition::CONTENT_TYPE)], metrics::page(&front)).into_response()
}

async fn readyz(front: Arc<Front>) -> Response {
    if front.stopping.load(Ordering::Relaxed) {
        return text(StatusCode::SERVICE_UNAVAILABLE, "[-]stopping failed: the member is stopping\n");
    }
    let corrupt = front.view.alarms().iter().any(|(_, alarm)| *alarm == pb::AlarmType::Corrupt);
    if corrupt {
        return text(StatusCode::SERVICE_UNAVAILABLE, "[-]data_corruption failed: alarm activated: CORRUPT\n");
    }
    match front.readable().await {
        Ok(_) => text(StatusCode::OK, "ok\n"),
        Err(status) => {
            let body = format!("[-]linearizable_read failed: {}\n", status.message());
            text(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

async fn unknown(request: Request) -> Response {
    let grpc =
        request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !grpc {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
    Status::unimplemented(format!("unknown service {service}")).into_http()
}

/// Counts the call, if it is one.
async fn counted(front: Arc<Front>, request: Request, next: Next) -> Response {
    let call = front.metrics.calls.begin(request.uri().path());
    let response = with_etcds_texts(request, next).await;
    match call {
        Some(call) => call.answered(response),
        None => response,
    }
}

/// gRPC errors that tonic makes before a service sees the call, in etcd's words.
async fn with_etcds_texts(request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let response = next.run(request).await;
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

    fn reworded(status: Status, path: &str) -> Option<(Code, String)> {
        reword(&status, path).map(|status| (status.code(), status.message().to_string()))
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

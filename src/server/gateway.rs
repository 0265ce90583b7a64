//! etcd's API as JSON over HTTP, for curl and for languages without gRPC.
//!
//! `POST /v3/kv/range` and its likes take a message as JSON and answer one. The gateway knows the paths ([`ROUTES`]) and the
//! descriptors of the messages; it turns JSON into a gRPC request, sends that through the very router that serves gRPC on
//! this port, and turns what comes back into JSON. So a call means the same both ways: same checks, same limits, same
//! counters, same texts; and a method that a service gains needs a line in [`ROUTES`] and nothing else.
//!
//! # The form
//!
//! protobuf's JSON mapping, as etcd has it: bytes are base64 (of either alphabet, padded or not), 64-bit integers are
//! strings (numbers are taken too), enums go by name or number, field names are those of the `.proto` files (lowerCamelCase
//! is taken too), default values are left out, unknown fields and unknown names of enums are ignored. The content type of a
//! request does not matter, because curl sends a form's.
//!
//! A stream answers one object per line, `{"result":{...}}`, each as soon as it is there, and ends with `{"error":{...}}` if
//! it fails. What a client streams is one object after the other in the body (`stream.rs`).
//!
//! An error has gRPC's code in its body and the HTTP status that etcd maps it to. The body has the fields of etcd 3.5
//! (`error`) and of 3.6 (`message`); what gRPC would put into metadata comes as `Grpc-Metadata-*` headers, and such headers
//! of a request become metadata, as does `Authorization`.
//!
//! # Where etcd differs
//!
//! etcd takes no notice of a malformed object in a stream and waits for ever, or answers 200 with nothing; here it is a 400,
//! or the stream's error. A field that is there twice is an error there; here the last one counts.
//!
//! Absent: websockets on `/v3/watch`; `/v3alpha`, which etcd dropped as well.

use crate::proto::DESCRIPTORS;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, TE};
use axum::http::{HeaderMap, Method as Verb, StatusCode, Version};
use axum::response::Response;
use bytes::{BufMut as _, BytesMut};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use stream::{Answers, Lines, Objects};
use tonic::{Code, Status};
use tower::Service as _;

mod stream;

/// Below `/v3/` and `/v3beta/`: which path calls which method.
const ROUTES: &[(&str, &str)] = &[
    ("kv/range", "etcdserverpb.KV.Range"),
    ("kv/put", "etcdserverpb.KV.Put"),
    ("kv/deleterange", "etcdserverpb.KV.DeleteRange"),
    ("kv/txn", "etcdserverpb.KV.Txn"),
    ("kv/compaction", "etcdserverpb.KV.Compact"),
    ("watch", "etcdserverpb.Watch.Watch"),
    ("lease/grant", "etcdserverpb.Lease.LeaseGrant"),
    ("lease/revoke", "etcdserverpb.Lease.LeaseRevoke"),
    ("kv/lease/revoke", "etcdserverpb.Lease.LeaseRevoke"),
    ("lease/keepalive", "etcdserverpb.Lease.LeaseKeepAlive"),
    ("lease/timetolive", "etcdserverpb.Lease.LeaseTimeToLive"),
    ("kv/lease/timetolive", "etcdserverpb.Lease.LeaseTimeToLive"),
    ("lease/leases", "etcdserverpb.Lease.LeaseLeases"),
    ("kv/lease/leases", "etcdserverpb.Lease.LeaseLeases"),
    ("cluster/member/add", "etcdserverpb.Cluster.MemberAdd"),
    ("cluster/member/remove", "etcdserverpb.Cluster.MemberRemove"),
    ("cluster/member/update", "etcdserverpb.Cluster.MemberUpdate"),
    ("cluster/member/list", "etcdserverpb.Cluster.MemberList"),
    ("cluster/member/promote", "etcdserverpb.Cluster.MemberPromote"),
    ("maintenance/alarm", "etcdserverpb.Maintenance.Alarm"),
    ("maintenance/status", "etcdserverpb.Maintenance.Status"),
    ("maintenance/defragment", "etcdserverpb.Maintenance.Defragment"),
    ("maintenance/hash", "etcdserverpb.Maintenance.Hash"),
    ("maintenance/hashkv", "etcdserverpb.Maintenance.HashKV"),
    ("maintenance/snapshot", "etcdserverpb.Maintenance.Snapshot"),
    ("maintenance/transfer-leadership", "etcdserverpb.Maintenance.MoveLeader"),
    ("maintenance/downgrade", "etcdserverpb.Maintenance.Downgrade"),
    ("auth/enable", "etcdserverpb.Auth.AuthEnable"),
    ("auth/disable", "etcdserverpb.Auth.AuthDisable"),
    ("auth/status", "etcdserverpb.Auth.AuthStatus"),
    ("auth/authenticate", "etcdserverpb.Auth.Authenticate"),
    ("auth/user/add", "etcdserverpb.Auth.UserAdd"),
    ("auth/user/get", "etcdserverpb.Auth.UserGet"),
    ("auth/user/list", "etcdserverpb.Auth.UserList"),
    ("auth/user/delete", "etcdserverpb.Auth.UserDelete"),
    ("auth/user/changepw", "etcdserverpb.Auth.UserChangePassword"),
    ("auth/user/grant", "etcdserverpb.Auth.UserGrantRole"),
    ("auth/user/revoke", "etcdserverpb.Auth.UserRevokeRole"),
    ("auth/role/add", "etcdserverpb.Auth.RoleAdd"),
    ("auth/role/get", "etcdserverpb.Auth.RoleGet"),
    ("auth/role/list", "etcdserverpb.Auth.RoleList"),
    ("auth/role/delete", "etcdserverpb.Auth.RoleDelete"),
    ("auth/role/grant", "etcdserverpb.Auth.RoleGrantPermission"),
    ("auth/role/revoke", "etcdserverpb.Auth.RoleRevokePermission"),
    ("lock/lock", "v3lockpb.Lock.Lock"),
    ("lock/unlock", "v3lockpb.Lock.Unlock"),
    ("election/campaign", "v3electionpb.Election.Campaign"),
    ("election/proclaim", "v3electionpb.Election.Proclaim"),
    ("election/leader", "v3electionpb.Election.Leader"),
    ("election/observe", "v3electionpb.Election.Observe"),
    ("election/resign", "v3electionpb.Election.Resign"),
];

/// Headers of a request that become metadata without this prefix, and metadata of an answer that become headers with it.
const METADATA_PREFIX: &str = "grpc-metadata-";

const INPUT: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(false);
const OUTPUT: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);

/// gRPC frames a message by a flag (compressed or not) and its length.
const FRAME_HEADER_BYTES: usize = 5;

/// See the module's essay.
#[derive(Clone, Debug)]
pub struct Gateway {
    calls: Router,
    methods: BTreeMap<&'static str, MethodDescriptor>,
    largest_body: usize,
}

impl Gateway {
    /// A gateway to the services of `calls`, for messages of up to `largest` bytes.
    pub fn new(calls: Router, largest: usize) -> Gateway {
        let pool = DescriptorPool::decode(DESCRIPTORS)
            .unwrap_or_else(|error| unreachable!("the built-in descriptors are whole: {error}"));
        let method = |name: &str| {
            let (service, method) = name.rsplit_once('.')?;
            pool.get_service_by_name(service)?.methods().find(|known| known.name() == method)
        };
        let methods = ROUTES.iter().filter_map(|(path, name)| Some((*path, method(name)?))).collect();
        // Base64 takes a third more, and names take their part.
        Gateway { calls, methods, largest_body: 2 * largest }
    }

    /// Answers a request below `/v3/` or `/v3beta/`.
    pub async fn answer(self, request: Request) -> Response {
        self.try_answer(request).await.unwrap_or_else(|status| refusal(&status))
    }

    async fn try_answer(self, request: Request) -> Result<Response, Status> {
        let path = request.uri().path();
        let below = path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/")).unwrap_or_default();
        let method = self.methods.get(below).ok_or_else(|| Status::not_found("Not Found"))?.clone();
        if request.method() != Verb::POST {
            return Err(Status::unimplemented("Method Not Allowed"));
        }
        let (head, body) = request.into_parts();
        let metadata = metadata(&head.headers);
        let answer = self.forward(&method, metadata, body);
        let late = || Err(Status::deadline_exceeded("context deadline exceeded"));
        match patience(&head.headers)? {
            None => answer.await,
            Some(Duration::ZERO) => late(),
            Some(patience) => tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| late()),
        }
    }

    async fn forward(mut self, method: &MethodDescriptor, metadata: HeaderMap, body: Body) -> Result<Response, Status> {
        let mut objects = Objects::new(body, self.largest_body);
        let (body, complaint) = if method.is_client_streaming() {
            stream::requests(objects, method.input()).await?
        } else {
            (Body::from(encode(method.input(), &objects.all().await?)?), None)
        };
        let mut call = Request::new(body);
        *call.version_mut() = Version::HTTP_2;
        *call.method_mut() = Verb::POST;
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        *call.uri_mut() = path.parse().map_err(|_| Status::internal(format!("{path} is no path; this is a bug")))?;
        *call.headers_mut() = metadata;
        let Ok(answer) = self.calls.call(call).await;
        if let Some(status) = failure(answer.headers()) {
            return Err(status);
        }
        let (head, body) = answer.into_parts();
        let mut answers = Answers::new(body);
        let body = if method.is_server_streaming() {
            Body::new(Lines::new(answers, method.output(), complaint))
        } else {
            let answer = answers.next().await.unwrap_or_else(|| Err(Status::internal("a call had no answer")))?;
            Body::from(decode(method.output(), answer)?)
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        // What the call took of the budget for ranges is given back when this answer has left, too.
        *response.extensions_mut() = head.extensions;
        Ok(response)
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The metadata of a call, as it was given in headers.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let given = name.as_str().strip_prefix(METADATA_PREFIX).and_then(|name| name.parse::<HeaderName>().ok());
        if let Some(name) = given.or_else(|| (name == AUTHORIZATION).then_some(AUTHORIZATION)) {
            metadata.append(name, value.clone());
        }
    }
    metadata.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(TE, HeaderValue::from_static("trailers"));
    metadata
}

/// Tonic keeps the time that a caller gives, around this gateway too, and would answer in gRPC: the gateway stops earlier.
const EARLIER: Duration = Duration::from_millis(5);

/// How long the caller waits: `Grpc-Timeout`, as in gRPC.
fn patience(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(given) = headers.get("grpc-timeout") else { return Ok(None) };
    let text = given.to_str().unwrap_or_default();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => Duration::ZERO,
    };
    match digits.parse::<u32>().ok().filter(|_| digits.len() <= 8 && !unit.is_zero()) {
        Some(count) => Ok(Some(unit.saturating_mul(count).saturating_sub(EARLIER))),
        None => Err(Status::invalid_argument(format!("invalid grpc-timeout: {text}"))),
    }
}

/// A message given as JSON, framed as gRPC does it.
fn encode(kind: MessageDescriptor, json: &[u8]) -> Result<Bytes, Status> {
    let name = kind.name().to_owned();
    // Like etcd: no text at all is the message of defaults, and what follows the first object does not count.
    let message = if json.trim_ascii().is_empty() {
        DynamicMessage::new(kind)
    } else {
        let mut json = serde_json::Deserializer::from_slice(json);
        DynamicMessage::deserialize_with_options(kind, &mut json, &INPUT)
            .map_err(|error| Status::invalid_argument(format!("the body is no {name} in JSON: {error}")))?
    };
    let mut frame = BytesMut::with_capacity(FRAME_HEADER_BYTES + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).map_err(|_| Status::invalid_argument("more than 4 GiB"))?);
    message.encode(&mut frame).map_err(|error| Status::internal(format!("a {name} can't be encoded: {error}")))?;
    Ok(frame.freeze())
}

/// A message as JSON.
fn decode(kind: MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let broken =
        |error: &dyn std::fmt::Display| Status::internal(format!("an answer can't be written as JSON: {error}"));
    let message = DynamicMessage::decode(kind, message).map_err(|error| broken(&error))?;
    let mut json = serde_json::Serializer::new(Vec::new());
    message.serialize_with_options(&mut json, &OUTPUT).map_err(|error| broken(&error))?;
    Ok(json.into_inner())
}

/// What a head or trailers say of a call that failed.
fn failure(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// An error as a page.
fn refusal(status: &Status) -> Response {
    let text = status.message();
    let body = json!({ "error": text, "code": status.code() as i32, "message": text });
    let mut page = Response::new(Body::from(body.to_string()));
    *page.status_mut() = http_status(status.code());
    for (name, value) in status.metadata().clone().into_headers() {
        // gRPC's own framing is no metadata.
        let name = name.filter(|name| !name.as_str().starts_with("content-"));
        if let Some(name) = name.and_then(|name| HeaderName::try_from(format!("{METADATA_PREFIX}{name}")).ok()) {
            page.headers_mut().insert(name, value);
        }
    }
    page.headers_mut().insert(CONTENT_TYPE, JSON);
    page
}

/// What etcd's gateway answers for a code of gRPC's.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // What nginx made of a client that left; HTTP has no number for it.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

#[cfg(test)]
mod tests;

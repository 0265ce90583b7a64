//! The gateway without a server behind it: JSON to frames and back, bodies cut anywhere, and a router that tells what it got.

use super::*;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::KeyValue;
use std::collections::BTreeSet;
use std::convert::Infallible;

fn kind(name: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    pool.get_message_by_name(&format!("etcdserverpb.{name}")).unwrap()
}

/// What `json` means as a message of this kind.
fn parsed<M: prost::Message + Default>(name: &str, json: &str) -> Result<M, String> {
    let frame = encode(kind(name), json.as_bytes()).map_err(|status| status.message().to_owned())?;
    assert_eq!((frame[0], frame.len()), (0, FRAME_HEADER_BYTES + frame[4] as usize), "short frames only");
    Ok(M::decode(&frame[FRAME_HEADER_BYTES..]).unwrap())
}

fn frame(message: &impl prost::Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
}

/// A body in given pieces.
fn pieces(pieces: Vec<Vec<u8>>) -> Body {
    Body::from_stream(tokio_stream::iter(pieces.into_iter().map(|piece| Ok::<_, Infallible>(Bytes::from(piece)))))
}

async fn text(body: Body) -> String {
    String::from_utf8(axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap()
}

#[test]
fn every_method_of_etcds_has_a_path_and_every_path_a_method() {
    let gateway = Gateway::new(Router::new(), 0);
    // The messages of etcd's Auth service are not among the descriptors yet.
    let unknown = ROUTES.iter().filter(|(path, _)| !gateway.methods.contains_key(path));
    let unknown: Vec<_> = unknown.filter(|(_, name)| !name.starts_with("etcdserverpb.Auth.")).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let routed: BTreeSet<String> = gateway.methods.values().map(|method| method.full_name().to_owned()).collect();
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let missing: Vec<String> = pool
        .services()
        .filter(|service| service.parent_file().package_name() != "quorate")
        .flat_map(|service| service.methods().map(|method| method.full_name().to_owned()).collect::<Vec<_>>())
        .filter(|method| !routed.contains(method))
        .collect();
    // etcd has none either.
    assert_eq!(missing, ["etcdserverpb.KV.RangeStream"]);
}

#[test]
fn the_forms_that_clients_send_are_understood() {
    let range = |json| parsed::<pb::RangeRequest>("RangeRequest", json).unwrap();
    let expected =
        pb::RangeRequest { key: "foo".into(), limit: 5, sort_order: 2, keys_only: true, ..Default::default() };
    for json in [
        r#"{"key":"Zm9v","limit":"5","sort_order":"DESCEND","keys_only":true}"#,
        r#"{"key":"Zm9v","limit":5,"sortOrder":2,"keysOnly":true,"unknown":{"deep":[1]},"sort_target":"NO SUCH"}"#,
        r#" {"key":"Zm9v","limit":5.0e0,"sort_order":"DESCEND","keysOnly":true,"range_end":null} what follows"#,
    ] {
        assert_eq!(range(json), expected, "{json}");
    }
    // Either alphabet, padded or not.
    for json in [r#"{"key":"-_8="}"#, r#"{"key":"+/8"}"#] {
        assert_eq!(range(json).key, &[0xfb, 0xff][..], "{json}");
    }
    assert_eq!(range(""), pb::RangeRequest::default());
    assert_eq!(parsed::<pb::LeaseGrantRequest>("LeaseGrantRequest", r#"{"TTL":"9","ID":-1}"#).unwrap().id, -1);
}

#[test]
fn what_is_malformed_is_told() {
    let error = |json| parsed::<pb::RangeRequest>("RangeRequest", json).unwrap_err();
    for (json, what) in [
        (r#"{"key":"#, "EOF while parsing a value at line 1 column 7"),
        (r#"{"key":"!!"}"#, "invalid base64: Invalid symbol 33, offset 0."),
        (r#"{"limit":1.5}"#, "expected integer value"),
        (r#"{"limit":"9223372036854775808"}"#, "number too large"),
        ("null", "invalid type: null"),
        ("[]", "invalid type: sequence"),
    ] {
        let error = error(json);
        assert!(error.starts_with("the body is no RangeRequest in JSON: ") && error.contains(what), "{json}: {error}");
    }
}

#[test]
fn answers_keep_etcds_names_and_leave_defaults_out() {
    let kv = KeyValue { key: "foo".into(), create_revision: 2, lease: -7, ..Default::default() };
    let answer = pb::RangeResponse { kvs: vec![kv], more: true, ..Default::default() };
    let json = decode(kind("RangeResponse"), answer.encode_to_vec().into()).unwrap();
    let expected = r#"{"kvs":[{"key":"Zm9v","create_revision":"2","lease":"-7"}],"more":true}"#;
    assert_eq!(String::from_utf8(json).unwrap(), expected);
    let alarms = vec![pb::AlarmMember { member_id: u64::MAX, alarm: 1 }];
    let answer = pb::AlarmResponse { header: Some(pb::ResponseHeader::default()), alarms };
    let json = decode(kind("AlarmResponse"), answer.encode_to_vec().into()).unwrap();
    let expected = r#"{"header":{},"alarms":[{"memberID":"18446744073709551615","alarm":"NOSPACE"}]}"#;
    assert_eq!(String::from_utf8(json).unwrap(), expected);
}

#[tokio::test]
async fn objects_are_found_wherever_the_body_is_cut() {
    let whole = br#" {"a":"}{\"","b":[{}]}{"c":1}
        {} "#;
    let expected = [r#" {"a":"}{\"","b":[{}]}"#, r#"{"c":1}"#, "\n        {}"];
    for cut in 0..=whole.len() {
        let (left, right) = whole.split_at(cut);
        let mut objects = Objects::new(pieces(vec![left.to_vec(), right.to_vec()]), whole.len());
        for expected in expected {
            assert_eq!(objects.next().await.unwrap().unwrap(), expected, "cut at {cut}");
        }
        assert_eq!(objects.next().await.unwrap(), None, "cut at {cut}");
    }
    let refused = |body: &str, limit| {
        let mut objects = Objects::new(pieces(vec![body.into()]), limit);
        async move { objects.next().await.map_err(|status| status.code()) }
    };
    assert_eq!(refused(r#"{"a":"#, 9).await, Err(Code::InvalidArgument), "broken off");
    assert_eq!(refused("}", 9).await, Err(Code::InvalidArgument));
    assert_eq!(refused(r#"{"a":1}"#, 6).await, Err(Code::ResourceExhausted));
}

/// The lines that `answers` make, whose bodies are cut every `cut` bytes, with a complaint about the input.
async fn lines(answers: &[pb::LeaseKeepAliveResponse], cut: usize, complaint: Option<Status>) -> String {
    let frames: Vec<u8> = answers.iter().flat_map(frame).collect();
    let body = pieces(frames.chunks(cut).map(<[u8]>::to_vec).collect());
    let (complain, hear) = tokio::sync::oneshot::channel();
    match complaint {
        Some(status) => complain.send(status).unwrap(),
        None => drop(complain),
    }
    text(Body::new(Lines::new(Answers::new(body), kind("LeaseKeepAliveResponse"), Some(hear)))).await
}

#[tokio::test]
async fn a_stream_is_lines_wherever_its_frames_are_cut() {
    let answers = [7, 8].map(|id| pb::LeaseKeepAliveResponse { id, ttl: 2, ..Default::default() });
    let expected = "{\"result\":{\"ID\":\"7\",\"TTL\":\"2\"}}\n{\"result\":{\"ID\":\"8\",\"TTL\":\"2\"}}\n";
    for cut in 1..=20 {
        assert_eq!(lines(&answers, cut, None).await, expected);
    }
    let wrong = Status::invalid_argument("no JSON");
    assert_eq!(lines(&answers, 99, Some(wrong)).await, "{\"error\":{\"code\":3,\"message\":\"no JSON\"}}\n");
}

/// A router whose ranges tell which metadata they came with, and whose puts fail.
fn echo() -> Router {
    Router::new()
        .route(
            "/etcdserverpb.KV/Range",
            axum::routing::any(async |request: Request| {
                let token = request.headers().get("authorization").cloned().unwrap_or(HeaderValue::from_static(""));
                let given = request.headers().get("x-given").is_some();
                let kv = KeyValue { value: token.as_bytes().to_vec().into(), ..Default::default() };
                Body::from(frame(&pb::RangeResponse { kvs: vec![kv], more: given, ..Default::default() }))
            }),
        )
        .route(
            "/etcdserverpb.KV/Put",
            axum::routing::any(async || {
                let mut status = Status::unavailable("etcdserver: no leader");
                status.metadata_mut().insert("quorate-outcome", "refused".parse().unwrap());
                status.into_http::<Body>()
            }),
        )
        .route("/etcdserverpb.KV/Txn", axum::routing::any(async || std::future::pending::<Body>().await))
}

async fn answered(verb: &str, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let mut request = axum::http::Request::builder().method(verb).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = Gateway::new(echo(), 100).answer(request.body(Body::from("{}")).unwrap()).await;
    (response.status().as_u16(), response.headers().clone(), text(response.into_body()).await)
}

#[tokio::test]
async fn a_call_goes_through_the_router_with_its_metadata() {
    let headers = [("Authorization", "me"), ("Grpc-Metadata-X-Given", "1"), ("content-type", "text/html")];
    for path in ["/v3/kv/range", "/v3beta/kv/range"] {
        let (status, _, body) = answered("POST", path, &headers).await;
        assert_eq!((status, body.as_str()), (200, r#"{"kvs":[{"value":"bWU="}],"more":true}"#));
    }
    assert_eq!(answered("POST", "/v3/kv/range", &[]).await.2, r#"{"kvs":[{}]}"#);
}

#[tokio::test]
async fn errors_have_etcds_statuses_and_both_bodies() {
    let (status, headers, body) = answered("POST", "/v3/kv/put", &[]).await;
    let expected = r#"{"error":"etcdserver: no leader","code":14,"message":"etcdserver: no leader"}"#;
    assert_eq!((status, body.as_str()), (503, expected));
    assert_eq!(headers["grpc-metadata-quorate-outcome"], "refused");
    for (verb, path, status, code) in [
        ("GET", "/v3/kv/range", 501, 12),
        ("PUT", "/v3/kv/range", 501, 12),
        ("POST", "/v3/kv/steal", 404, 5),
        ("POST", "/v3/kv/range/", 404, 5),
        ("POST", "/v3/", 404, 5),
    ] {
        let (found, _, body) = answered(verb, path, &[]).await;
        assert_eq!(found, status, "{verb} {path}");
        assert!(body.contains(&format!("\"code\":{code},")), "{verb} {path}: {body}");
    }
    for (timeout, status) in [("1n", 504), ("20m", 504), ("1x", 400), ("123456789S", 400), ("S", 400)] {
        assert_eq!(answered("POST", "/v3/kv/txn", &[("grpc-timeout", timeout)]).await.0, status, "{timeout}");
    }
}

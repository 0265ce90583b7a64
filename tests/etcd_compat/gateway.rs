//! etcd's API as JSON: the same requests over plain HTTP, the same statuses and bodies.

use crate::support::curl::{self, Answer};
use crate::support::{Cluster, Server, etcd_bin_dir};
use base64::Engine as _;
use serde_json::{Value, json};

/// Paths whose methods a version of Quorate need not serve. Served or not, nobody else's answers may depend on them.
const NOT_YET: [&str; 3] = ["/v3/kv/compaction", "/v3/maintenance/defragment", "/v3/maintenance/hash"];

/// Numbers that are each cluster's own.
const OWN: [&str; 11] = [
    "cluster_id",
    "member_id",
    "raft_term",
    "memberID",
    "leader",
    "raftIndex",
    "raftTerm",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "hash",
];

fn b(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Requests that change and read the store, in order.
fn script() -> Vec<(&'static str, String)> {
    let mut script = Vec::new();
    let mut add = |path, body: Value| script.push((path, body.to_string()));
    let (a, c, z) = (b("a"), b("c"), b("z"));
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "\u{0}\u{1f}"), ("a", "3"), ("empty", "")] {
        add("/v3/kv/put", json!({ "key": b(key), "value": b(value) }));
    }
    add("/v3/kv/put", json!({ "key": a, "value": b("4"), "prev_kv": true }));
    add("/v3/kv/put", json!({ "key": a, "ignoreValue": true, "prevKv": true }));
    add("/v3/kv/put", json!({ "key": a, "lease": "77" }));
    add("/v3/kv/put", json!({ "value": a }));
    add("/v3/kv/put", json!({ "key": b("nobody"), "ignore_value": true }));
    add("/v3/kv/range", json!({ "key": a }));
    add("/v3beta/kv/range", json!({ "key": a }));
    add("/v3/kv/range", json!({ "key": a, "range_end": z }));
    add("/v3/kv/range", json!({ "key": a, "rangeEnd": z, "limit": 2 }));
    add(
        "/v3/kv/range",
        json!({ "key": a, "range_end": z, "limit": "1", "sort_order": "DESCEND", "sortTarget": "MOD" }),
    );
    add("/v3/kv/range", json!({ "key": a, "range_end": z, "sort_order": 2, "sort_target": 4, "keys_only": true }));
    add("/v3/kv/range", json!({ "key": a, "range_end": z, "sort_order": "NO SUCH", "count_only": true }));
    add("/v3/kv/range", json!({ "key": a, "revision": 3, "unknown": { "deep": [1, { "x": null }] } }));
    add("/v3/kv/range", json!({ "key": a, "revision": "1000" }));
    add("/v3/kv/range", json!({ "key": null }));
    add("/v3/kv/range", json!({ "key": "__8", "range_end": null }));
    add("/v3/kv/range", json!({ "key": "//8=" }));
    add("/v3/kv/deleterange", json!({ "key": b("b"), "prev_kv": true }));
    add("/v3/kv/deleterange", json!({ "key": b("b") }));
    let compare = json!({ "key": a, "target": "VERSION", "result": "GREATER", "version": "2" });
    let get = json!({ "request_range": { "key": a } });
    let put = json!({ "requestPut": { "key": c, "value": b("t") } });
    let delete = json!({ "request_delete_range": { "key": b("empty") } });
    let nested = json!({ "request_txn": { "compare": [compare], "success": [get] } });
    add("/v3/kv/txn", json!({ "compare": [compare], "success": [get, put, delete, nested], "failure": [] }));
    add("/v3/kv/txn", json!({ "compare": [compare], "success": [put, put] }));
    add("/v3/kv/txn", json!({ "compare": [{ "key": a, "target": 3, "value": b("x") }], "failure": [get] }));
    add("/v3/kv/txn", json!({}));
    add("/v3/cluster/member/list", json!({}));
    add("/v3/cluster/member/list", json!({ "linearizable": true }));
    add("/v3/maintenance/status", json!({}));
    add("/v3/maintenance/alarm", json!({ "action": "GET", "memberID": "0", "alarm": "NONE" }));
    add("/v3/maintenance/transfer-leadership", json!({ "targetID": "12345" }));
    for action in ["VALIDATE", "ENABLE", "CANCEL"] {
        for version in ["", "3", "3.5", "9.9.9"] {
            add("/v3/maintenance/downgrade", json!({ "action": action, "version": version }));
        }
    }
    add("/v3/maintenance/downgrade", json!({ "action": 7 }));
    add("/v3/lease/grant", json!({ "ID": "11", "TTL": 600 }));
    add("/v3/lease/leases", json!({}));
    add("/v3/lock/unlock", json!({ "key": b("nobody/1") }));
    add("/v3/lock/unlock", json!({}));
    add("/v3/lock/lock", json!({ "name": a, "lease": 999 }));
    add("/v3/lock/lock", json!({ "name": b("gate"), "lease": 11 }));
    add("/v3/lock/lock", json!({ "name": b("gate"), "lease": "11" }));
    add("/v3/election/campaign", json!({ "name": b("vote"), "lease": 11, "value": a }));
    add("/v3/election/leader", json!({ "name": b("vote") }));
    add("/v3/election/leader", json!({ "name": a }));
    add("/v3/election/campaign", json!({ "name": a, "lease": 999, "value": a }));
    for leader in [json!(null), json!({}), json!({ "key": a, "rev": 1, "lease": 999 })] {
        add("/v3/election/proclaim", json!({ "leader": leader, "value": a }));
        add("/v3/election/resign", json!({ "leader": leader }));
    }
    add("/v3/lease/revoke", json!({ "ID": 99 }));
    add("/v3/kv/lease/timetolive", json!({ "ID": 99, "keys": true }));
    add("/v3/maintenance/hash", json!({}));
    add("/v3/maintenance/hashkv", json!({}));
    add("/v3/maintenance/defragment", json!({}));
    add("/v3/kv/compaction", json!({ "revision": 3 }));
    add("/v3/kv/compaction", json!({ "revision": 3 }));
    add("/v3/kv/range", json!({ "key": a, "range_end": z }));
    script
}

/// What may differ in an answer, made equal.
fn mask(cluster: &Cluster, value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| mask(cluster, item)),
        Value::Object(fields) => {
            let is_member = fields.contains_key("peerURLs");
            // Fields that etcd 3.5 does not know, or says twice.
            fields.retain(|name, _| {
                !["error", "storageVersion", "dbSizeQuota", "hash_revision"].contains(&name.as_str())
            });
            for (name, value) in fields {
                if OWN.contains(&name.as_str()) || (is_member && name == "ID") {
                    assert_ne!(*value, json!("0"), "{name}");
                    *value = json!("own");
                } else if name == "version" && value.as_str().is_some_and(|version| version.starts_with("3.5.")) {
                    *value = json!("3.5");
                } else {
                    mask(cluster, value);
                }
            }
        }
        Value::String(text) => {
            for node in cluster.nodes() {
                *text = text.replace(&node.client, "CLIENT").replace(&node.peer, "PEER");
            }
        }
        _ => {}
    }
}

/// Status and body, in a form that can be compared.
fn comparable(cluster: &Cluster, answer: &Answer) -> String {
    let mut body = answer.json();
    mask(cluster, &mut body);
    format!("{} {:#}", answer.status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_answers_as_etcds() {
    let Some(etcd) = etcd_bin_dir("the_gateway_answers_as_etcds") else { return };
    let (etcd, ours) = (Cluster::etcd(&etcd, 1).await, Cluster::quorate(1).await);
    let mut different = Vec::new();
    for (path, body) in script() {
        let theirs = curl::post(&etcd.endpoints()[0], path, &body).await;
        let ours_now = curl::post(&ours.endpoints()[0], path, &body).await;
        let may_lack = NOT_YET.iter().any(|prefix| path.starts_with(prefix));
        if may_lack && [404, 501].contains(&ours_now.status) && theirs.status != ours_now.status {
            continue;
        }
        let (theirs, ours_now) = (comparable(&etcd, &theirs), comparable(&ours, &ours_now));
        if theirs != ours_now {
            different.push(format!("{path} {body}\n- {theirs}\n+ {ours_now}"));
        }
    }
    assert!(different.is_empty(), "{} answers differ:\n{}", different.len(), different.join("\n"));
}

/// Streams: their lines as they come, the next request sent when the last one was answered.
#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_streams_are_etcds() {
    let Some(etcd) = etcd_bin_dir("the_gateways_streams_are_etcds") else { return };
    let mut told = Vec::new();
    for cluster in [Cluster::etcd(&etcd, 1).await, Cluster::quorate(1).await] {
        let address = &cluster.endpoints()[0];
        let mut lines = Vec::new();
        let mut watch = curl::lines(
            address,
            "/v3/watch",
            &[
                json!({ "create_request": { "key": b("a"), "rangeEnd": b("c"), "prev_kv": true } }),
                json!({ "createRequest": { "key": b("z"), "filters": ["NOPUT"] } }),
                json!({ "cancel_request": { "watch_id": 1 } }),
            ]
            .map(|request| request.to_string())
            .concat(),
        )
        .await;
        for _ in 0..3 {
            lines.push(watch.next().await.unwrap());
        }
        for (key, value) in [("a", "1"), ("c", "not watched"), ("b", "2"), ("a", "3")] {
            curl::post(address, "/v3/kv/put", &json!({ "key": b(key), "value": b(value) }).to_string()).await;
            if key != "c" {
                lines.push(watch.next().await.unwrap());
            }
        }
        drop(watch);
        curl::post(address, "/v3/lease/grant", r#"{"ID":7,"TTL":600}"#).await;
        let mut kept = curl::lines(address, "/v3/lease/keepalive", r#"{"ID":"7"} {"ID":8}"#).await;
        while let Some(line) = kept.next().await {
            lines.push(line);
        }
        let campaign = json!({ "name": b("e"), "lease": 7, "value": b("v") }).to_string();
        assert_eq!(curl::post(address, "/v3/election/campaign", &campaign).await.status, 200);
        let name = json!({ "name": b("e") }).to_string();
        lines.push(curl::lines(address, "/v3/election/observe", &name).await.next().await.unwrap());
        lines.iter_mut().for_each(|line| mask(&cluster, line));
        told.push(lines);
    }
    assert_eq!(told[0].len(), 9, "{:#?}", told[0]);
    assert_eq!(told[0], told[1]);
}

/// What etcd waits for for ever, or answers with nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_malformed_is_told_so() {
    let cluster = Cluster::quorate(1).await;
    let address = &cluster.endpoints()[0];
    for body in ["", "{", "}", r#"{"create_request":{"key":"!!"}}"#] {
        let answer = curl::post(address, "/v3/watch", body).await;
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!(3)), "{body}: {answer:?}");
    }
    let mut watch = curl::lines(address, "/v3/watch", r#"{"create_request":{"key":"YQ=="}} {"nonsense"#).await;
    assert_eq!(watch.status, 200);
    let mut last = Value::Null;
    while let Some(line) = watch.next().await {
        last = line;
    }
    assert_eq!(last["error"]["code"], json!(3), "{last}");
}

/// What is refused before a service sees it: the texts about JSON are our own, the rest is etcd's.
#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_refuses_as_etcds() {
    let Some(etcd) = etcd_bin_dir("the_gateway_refuses_as_etcds") else { return };
    let (etcd, ours) = (Cluster::etcd(&etcd, 1).await, Cluster::quorate(1).await);
    let (etcd, ours) = (&etcd.endpoints()[0], &ours.endpoints()[0]);
    let large = |bytes: usize| json!({ "key": "YQ==", "value": b(&"x".repeat(bytes)) }).to_string();
    let range = r#"{"key":"YQ=="}"#;
    let grpc = [("Content-Type", "application/grpc")];
    let (soon, odd) = ([("Grpc-Timeout", "1n")], [("Grpc-Timeout", "soon")]);
    let none: [(&str, &str); 0] = [];
    for (verb, path, headers, body) in [
        ("POST", "/v3/kv/range", &none[..], ""),
        ("POST", "/v3/kv/range", &none, "null"),
        ("POST", "/v3/kv/range", &none, "[]"),
        ("POST", "/v3/kv/range", &none, r#"{"key":"#),
        ("POST", "/v3/kv/range", &none, r#"{"key":"!!"}"#),
        ("POST", "/v3/kv/range", &none, r#"{"key":"YQ==","limit":1.5}"#),
        ("POST", "/v3/kv/range", &none, r#"{"key":"YQ==","limit":"x"}"#),
        ("POST", "/v3/kv/range", &none, r#"{"key":"YQ==","serializable":"true"}"#),
        ("POST", "/v3/kv/range", &none, r#"{"key":"YQ=="} and so on"#),
        ("POST", "/v3/kv/range", &grpc, range),
        ("POST", "/v3/kv/range", &soon, range),
        ("POST", "/v3/kv/range", &odd, range),
        ("GET", "/v3/kv/range", &none, ""),
        ("PUT", "/v3/kv/range", &none, range),
        ("OPTIONS", "/v3/kv/range", &none, ""),
        ("OPTIONS", "/nowhere", &none, ""),
        ("POST", "/v3/kv/range/", &none, range),
        ("POST", "/v3/kv/steal", &none, range),
        ("POST", "/v3/", &none, range),
        ("POST", "/v3alpha/kv/range", &none, range),
        ("POST", "/v3/kv/put", &none, &large(1_572_864)),
        ("POST", "/v3/kv/put", &none, &large(2_200_000)),
    ] {
        let theirs = curl::ask(etcd, verb, path, headers, body).await;
        let ours = curl::ask(ours, verb, path, headers, body).await;
        let what = format!("{verb} {path} {headers:?} {}", body.chars().take(60).collect::<String>());
        assert_eq!(theirs.status, ours.status, "{what}: {theirs:?} {ours:?}");
        assert_eq!(theirs.json()["code"], ours.json()["code"], "{what}");
        let text = theirs.json()["message"].as_str().unwrap_or_default().to_owned();
        let about_json = text.starts_with("proto:") || text == "unexpected EOF";
        if !about_json {
            assert_eq!(json!(text), ours.json()["message"].as_str().unwrap_or_default(), "{what}");
        }
        for name in ["origin", "methods", "headers"].map(|name| format!("access-control-allow-{name}")) {
            assert_eq!(theirs.header(&name), ours.header(&name), "{what}: {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_and_its_origins_can_be_switched_off() {
    let cluster =
        Cluster::new(Server::Quorate, 1, &["--enable-grpc-gateway=false", "--cors", "http://a,http://b"]).await;
    let address = &cluster.endpoints()[0];
    let answer = curl::post(address, "/v3/kv/range", r#"{"key":"YQ=="}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"));
    for (origin, allowed) in [("http://b", Some("http://b")), ("http://c", None)] {
        let answer = curl::ask(address, "GET", "/version", &[("Origin", origin)], "").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, allowed));
    }
}

/// Probes' pages, but for our own check `threads` and the order of checks, which is chance in etcd.
#[tokio::test(flavor = "multi_thread")]
async fn pages_about_health_are_etcds() {
    let Some(etcd) = etcd_bin_dir("pages_about_health_are_etcds") else { return };
    let (etcd, ours) = (Cluster::etcd(&etcd, 1).await, Cluster::quorate(1).await);
    let (etcd, ours) = (&etcd.endpoints()[0], &ours.endpoints()[0]);
    let sorted = |answer: Answer| {
        let own = |line: &&str| !["[+]threads ok", "[+]stopping ok", ""].contains(line);
        let mut lines: Vec<String> = answer.body.lines().filter(own).map(str::to_owned).collect();
        lines.sort();
        (answer.status, lines)
    };
    let pages = [
        "/health",
        "/health?serializable=true",
        "/health?exclude=CORRUPT",
        "/livez",
        "/livez?verbose",
        "/livez/serializable_read",
        "/livez/serializable_read?verbose",
        "/livez/no_such_check",
        "/livez?exclude=serializable_read",
        "/readyz",
        "/readyz?verbose",
        "/readyz/data_corruption",
        "/readyz/linearizable_read?verbose",
        "/readyz/non_learner",
        "/readyz/no_such_check",
        "/readyz?exclude=data_corruption&exclude=serializable_read&verbose",
        "/readyz?exclude=no_such_check&verbose",
        "/readyz?exclude=data_corruption",
    ];
    for corrupt in [false, true] {
        if corrupt {
            let raise = r#"{"action":"ACTIVATE","alarm":"CORRUPT"}"#;
            for address in [etcd, ours] {
                assert_eq!(curl::post(address, "/v3/maintenance/alarm", raise).await.status, 200);
            }
        }
        for path in pages {
            for verb in ["GET", "POST"] {
                let theirs = sorted(curl::ask(etcd, verb, path, &[], "").await);
                let ours = sorted(curl::ask(ours, verb, path, &[], "").await);
                assert_eq!(theirs, ours, "{verb} {path}, corrupt: {corrupt}");
            }
        }
    }
}

//! Answers as the JSON that etcd's tools print: the proto's field names in the proto's order, bytes in base64, numbers as
//! numbers, fields that are zero or empty left out.
//!
//! With `--hex` only `member list` changes, as in etcdctl: ids become hexadecimal strings.

use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pb::response_op::Response;
use serde_json::{Map, Value};

/// An object that leaves out what is zero or empty.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn field(mut self, name: &str, value: impl Into<Value>) -> Object {
        let value = value.into();
        let empty = match &value {
            Value::Null => true,
            Value::Bool(truth) => !truth,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(_) => false,
        };
        if !empty {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    fn value(self) -> Value {
        Value::Object(self.0)
    }
}

/// Bytes, as the JSON of etcd's tools has them.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn header(header: Option<&pb::ResponseHeader>) -> Option<Value> {
    header.map(|header| {
        Object::default()
            .field("cluster_id", header.cluster_id)
            .field("member_id", header.member_id)
            .field("revision", header.revision)
            .field("raft_term", header.raft_term)
            .value()
    })
}

/// A pair.
pub fn key_value(kv: &mvccpb::KeyValue) -> Value {
    Object::default()
        .field("key", base64(&kv.key))
        .field("create_revision", kv.create_revision)
        .field("mod_revision", kv.mod_revision)
        .field("version", kv.version)
        .field("value", base64(&kv.value))
        .field("lease", kv.lease)
        .value()
}

fn key_values(kvs: &[mvccpb::KeyValue]) -> Vec<Value> {
    kvs.iter().map(key_value).collect()
}

/// A put's answer.
pub fn put(response: &pb::PutResponse) -> Value {
    Object::default()
        .field("header", header(response.header.as_ref()))
        .field("prev_kv", response.prev_kv.as_ref().map(key_value))
        .value()
}

/// A range's answer.
pub fn range(response: &pb::RangeResponse) -> Value {
    Object::default()
        .field("header", header(response.header.as_ref()))
        .field("kvs", key_values(&response.kvs))
        .field("more", response.more)
        .field("count", response.count)
        .value()
}

/// A delete's answer.
pub fn delete_range(response: &pb::DeleteRangeResponse) -> Value {
    Object::default()
        .field("header", header(response.header.as_ref()))
        .field("deleted", response.deleted)
        .field("prev_kvs", key_values(&response.prev_kvs))
        .value()
}

/// A transaction's answer; each operation's is wrapped twice, as Go prints a oneof.
pub fn txn(response: &pb::TxnResponse) -> Value {
    let operation = |op: &pb::ResponseOp| {
        let (name, inner) = match &op.response {
            Some(Response::ResponseRange(response)) => ("response_range", range(response)),
            Some(Response::ResponsePut(response)) => ("response_put", put(response)),
            Some(Response::ResponseDeleteRange(response)) => ("response_delete_range", delete_range(response)),
            Some(Response::ResponseTxn(response)) => ("response_txn", txn(response)),
            None => ("response", Value::Null),
        };
        Object::default().field("Response", Object::default().field(name, inner).value()).value()
    };
    Object::default()
        .field("header", header(response.header.as_ref()))
        .field("succeeded", response.succeeded)
        .field("responses", response.responses.iter().map(operation).collect::<Vec<_>>())
        .value()
}

/// The members.
pub fn members(response: &pb::MemberListResponse, hex: bool) -> Value {
    let id = |id: u64| if hex { Value::from(format!("{id:x}")) } else { Value::from(id) };
    let head = response.header.as_ref().map(|header| {
        let ids = Object::default().field("cluster_id", id(header.cluster_id));
        ids.field("member_id", id(header.member_id)).field("raft_term", header.raft_term).value()
    });
    // With --hex etcdctl writes the last letters of this one name differently; scripts may rely on it.
    let client_urls = if hex { "clientURLS" } else { "clientURLs" };
    let member = |member: &pb::Member| {
        Object::default()
            .field("ID", id(member.id))
            .field("name", member.name.as_str())
            .field("peerURLs", member.peer_ur_ls.clone())
            .field(client_urls, member.client_ur_ls.clone())
            .field("isLearner", member.is_learner)
            .value()
    };
    let members: Vec<Value> = response.members.iter().map(member).collect();
    Object::default().field("header", head).field("members", members).value()
}

/// The status of one endpoint.
pub fn status(endpoint: &str, response: &pb::StatusResponse) -> Value {
    let status = Object::default()
        .field("header", header(response.header.as_ref()))
        .field("version", response.version.as_str())
        .field("dbSize", response.db_size)
        .field("leader", response.leader)
        .field("raftIndex", response.raft_index)
        .field("raftTerm", response.raft_term)
        .field("raftAppliedIndex", response.raft_applied_index)
        .field("errors", response.errors.clone())
        .field("dbSizeInUse", response.db_size_in_use)
        .field("isLearner", response.is_learner);
    Object::default().field("Endpoint", endpoint).field("Status", status.value()).value()
}

/// The fields of a header, without an object of their own; then what `more` says, empty or not.
fn with_header<const N: usize>(from: Option<&pb::ResponseHeader>, more: [(&str, Value); N]) -> Value {
    let mut fields = match header(from) {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.extend(more.map(|(name, value)| (name.to_owned(), value)));
    Value::Object(fields)
}

/// The grant of a lease.
pub fn lease_grant(response: &pb::LeaseGrantResponse) -> Value {
    let fields = [("ID", response.id.into()), ("TTL", response.ttl.into()), ("Error", response.error.as_str().into())];
    with_header(response.header.as_ref(), fields)
}

/// A lease's end.
pub fn lease_revoke(response: &pb::LeaseRevokeResponse) -> Value {
    Object::default().field("header", header(response.header.as_ref())).value()
}

/// What a lease has left.
pub fn lease_time_to_live(response: &pb::LeaseTimeToLiveResponse) -> Value {
    let keys: Vec<String> = response.keys.iter().map(|key| base64(key)).collect();
    let fields = [
        ("id", response.id.into()),
        ("ttl", response.ttl.into()),
        ("granted-ttl", response.granted_ttl.into()),
        ("keys", if keys.is_empty() { Value::Null } else { keys.into() }),
    ];
    with_header(response.header.as_ref(), fields)
}

/// The leases there are.
pub fn lease_list(response: &pb::LeaseLeasesResponse) -> Value {
    let leases: Vec<Value> = response.leases.iter().map(|lease| serde_json::json!({ "id": lease.id })).collect();
    with_header(response.header.as_ref(), [("leases", leases.into())])
}

/// A renewal.
pub fn lease_renewed(response: &pb::LeaseKeepAliveResponse) -> Value {
    with_header(response.header.as_ref(), [("ID", response.id.into()), ("TTL", response.ttl.into())])
}

/// Alarms.
pub fn alarms(response: &pb::AlarmResponse) -> Value {
    let alarm = |alarm: &pb::AlarmMember| {
        Object::default().field("memberID", alarm.member_id).field("alarm", alarm.alarm).value()
    };
    Object::default()
        .field("header", header(response.header.as_ref()))
        .field("alarms", response.alarms.iter().map(alarm).collect::<Vec<_>>())
        .value()
}

/// The hash of one endpoint.
pub fn hash_kv(endpoint: &str, response: &pb::HashKvResponse) -> Value {
    let hash = Object::default()
        .field("header", header(response.header.as_ref()))
        .field("hash", response.hash)
        .field("compact_revision", response.compact_revision);
    Object::default().field("Endpoint", endpoint).field("HashKV", hash.value()).value()
}

/// An answer of a watch.
pub fn watch(response: &pb::WatchResponse) -> Value {
    let event = |event: &mvccpb::Event| {
        Object::default()
            .field("type", event.r#type)
            .field("kv", event.kv.as_ref().map(key_value))
            .field("prev_kv", event.prev_kv.as_ref().map(key_value))
            .value()
    };
    serde_json::json!({
        "Header": header(response.header.as_ref()),
        "Events": response.events.iter().map(event).collect::<Vec<_>>(),
        "CompactRevision": response.compact_revision,
        "Canceled": response.canceled,
        "Created": response.created,
    })
}

/// The text of a value as Go prints it: `<`, `>` and `&`, which stand in strings only, as escapes.
pub fn text(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

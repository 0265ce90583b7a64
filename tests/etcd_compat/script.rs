//! The requests that are sent to both servers, as data.
//!
//! The order matters: each line works on what the earlier ones left behind, and revisions are compared exactly. Sorts
//! never tie, since the order of ties is nobody's promise, and a sort target outside the enum is not sent: etcd 3.5 panics.

use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use quorate::proto::etcdserverpb as pb;

/// One request.
#[derive(Clone, Debug)]
pub enum Call {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Members(pb::MemberListRequest),
    Status,
    Alarm(pb::AlarmRequest),
    Compact(pb::CompactionRequest),
    HashKv(pb::HashKvRequest),
    Defragment,
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    /// The ids of one stream's keepalives.
    KeepAlive(Vec<i64>),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
}

/// One line of the script.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: String,
    pub call: Call,
}

struct Script(Vec<Step>);

impl Script {
    fn add(&mut self, name: impl Into<String>, call: Call) {
        self.0.push(Step { name: name.into(), call });
    }
    fn range(&mut self, name: impl Into<String>, request: pb::RangeRequest) {
        self.add(name, Call::Range(request));
    }
    fn put(&mut self, name: impl Into<String>, request: pb::PutRequest) {
        self.add(name, Call::Put(request));
    }
    fn delete(&mut self, name: impl Into<String>, request: pb::DeleteRangeRequest) {
        self.add(name, Call::Delete(request));
    }
    fn txn(&mut self, name: impl Into<String>, request: pb::TxnRequest) {
        self.add(name, Call::Txn(request));
    }
}

fn b(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

/// `request`, changed.
fn with<T>(mut request: T, change: impl FnOnce(&mut T)) -> T {
    change(&mut request);
    request
}

fn get(key: impl AsRef<[u8]>) -> pb::RangeRequest {
    pb::RangeRequest { key: b(key), ..Default::default() }
}

fn span(key: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> pb::RangeRequest {
    pb::RangeRequest { key: b(key), range_end: b(end), ..Default::default() }
}

fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> pb::PutRequest {
    pb::PutRequest { key: b(key), value: b(value), ..Default::default() }
}

fn del(key: impl AsRef<[u8]>) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: b(key), ..Default::default() }
}

fn del_span(key: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: b(key), range_end: b(end), prev_kv: false }
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}
fn op_get(request: pb::RangeRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestRange(request))
}
fn op_put(request: pb::PutRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestPut(request))
}
fn op_del(request: pb::DeleteRangeRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestDeleteRange(request))
}
fn op_txn(request: pb::TxnRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestTxn(request))
}

fn txn(compare: Vec<pb::Compare>, success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { compare, success, failure }
}

fn ops(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    txn(vec![], success, vec![])
}

fn cmp(key: impl AsRef<[u8]>, target: CompareTarget, result: CompareResult, union: TargetUnion) -> pb::Compare {
    let (result, target) = (result.into(), target.into());
    pb::Compare { result, target, key: b(key), target_union: Some(union), range_end: Bytes::new() }
}

/// A compare that holds for every key, present or not.
fn holds() -> pb::Compare {
    cmp("nothing", CompareTarget::Version, CompareResult::Equal, TargetUnion::Version(0))
}

/// All of it.
pub fn script() -> Vec<Step> {
    let mut script = Script(Vec::new());
    fresh(&mut script);
    puts(&mut script);
    deletes(&mut script);
    sorts_and_limits(&mut script);
    filters(&mut script);
    old_revisions(&mut script);
    range_ends(&mut script);
    compares(&mut script);
    txn_effects(&mut script);
    txn_nesting(&mut script);
    txn_refusals(&mut script);
    leases(&mut script);
    limits(&mut script);
    compactions(&mut script);
    cluster(&mut script);
    script.0
}

fn fresh(s: &mut Script) {
    s.range("fresh: a key of an empty store", get("a"));
    s.range("fresh: all keys of an empty store", span("\0", "\0"));
    s.delete("fresh: deleting nothing", del("a"));
    s.delete("fresh: deleting all of nothing", with(del_span("\0", "\0"), |r| r.prev_kv = true));
    s.txn("fresh: an empty txn", pb::TxnRequest::default());
    s.txn("fresh: a txn that changes nothing", ops(vec![op_get(get("a")), op_del(del("a"))]));
    s.range("fresh: the future", with(get("a"), |r| r.revision = 2));
    s.range("fresh: the first revision", with(get("a"), |r| r.revision = 1));
    s.range("fresh: a negative revision is now", with(get("a"), |r| r.revision = -1));
    s.range("fresh: serializable", with(get("a"), |r| r.serializable = true));
}

fn puts(s: &mut Script) {
    s.put("put: empty key", put("", "x"));
    s.put("put: the first", put("a", "1"));
    s.range("put: is read", get("a"));
    s.put("put: again, with what was", with(put("a", "2"), |r| r.prev_kv = true));
    s.put("put: the same value bumps", put("a", "2"));
    s.put("put: previous of a new key", with(put("b", "1"), |r| r.prev_kv = true));
    s.put("put: empty value", put("empty", ""));
    s.range("put: empty value is read", get("empty"));
    s.put("put: bytes that are no text", put(b"\xff\x00\xfe", b"\x00\x80\xff"));
    s.range("put: bytes are read", get(b"\xff\x00\xfe"));
    s.put("put: ignore_value", with(put("a", ""), |r| (r.ignore_value, r.prev_kv) = (true, true)));
    s.put("put: ignore_value with a value", with(put("a", "x"), |r| r.ignore_value = true));
    s.put("put: ignore_value of an absent key", with(put("nobody", ""), |r| r.ignore_value = true));
    s.put("put: ignore_lease", with(put("a", "3"), |r| r.ignore_lease = true));
    s.put("put: ignore_lease with a lease", with(put("a", "x"), |r| (r.ignore_lease, r.lease) = (true, 7)));
    s.put("put: ignore_lease of an absent key", with(put("nobody", "x"), |r| r.ignore_lease = true));
    s.put("put: a touch", with(put("a", ""), |r| (r.ignore_value, r.ignore_lease) = (true, true)));
    s.put("put: ignore_value and a value, empty key", with(put("", "x"), |r| r.ignore_value = true));
    s.put("put: unknown lease", with(put("a", "x"), |r| r.lease = 77));
    s.put("put: unknown negative lease", with(put("a", "x"), |r| r.lease = -1));
    s.put("put: unknown lease, ignore_value", with(put("a", ""), |r| (r.lease, r.ignore_value) = (77, true)));
    s.range("put: nothing of the refused is there", span("\0", "\0"));
}

fn deletes(s: &mut Script) {
    s.delete("delete: empty key", del(""));
    s.delete("delete: an absent key", del("nobody"));
    s.delete("delete: one", with(del("b"), |r| r.prev_kv = true));
    s.delete("delete: the same again", with(del("b"), |r| r.prev_kv = true));
    s.range("delete: is gone", get("b"));
    s.put("delete: a new life", put("b", "2"));
    s.range("delete: version starts again", get("b"));
    for key in ["d/1", "d/2", "d/3"] {
        s.put(format!("delete: setup {key}"), put(key, key));
    }
    s.delete("delete: a range, in key order", with(del_span("d/", "d0"), |r| r.prev_kv = true));
    s.delete("delete: an empty range", del_span("d0", "d/"));
    s.put("delete: setup tail 1", put("\u{fe}x", "1"));
    s.delete("delete: everything from a key on, without asking for it", del_span("\u{fe}", "\0"));
    s.range("delete: what is left", span("\0", "\0"));
}

fn sorts_and_limits(s: &mut Script) {
    // Distinct versions, creation and modification revisions and values; the orders all differ.
    for (key, value, versions) in
        [("s/c", "20", 1), ("s/a", "31", 4), ("s/e", "07", 2), ("s/b", "44", 5), ("s/d", "12", 3)]
    {
        for version in 1..=versions {
            s.put(format!("sort: setup {key} version {version}"), put(key, value));
        }
    }
    s.put("sort: setup an old key touched last", put("s/c", "20"));
    s.put("sort: setup an old key touched last, thrice", put("s/c", "20"));
    for version in 4..=6 {
        s.put(format!("sort: setup s/c version {version}"), put("s/c", "20"));
    }
    let all = || span("s/", "s0");
    let targets = [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
    for target in targets {
        for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
            let request = with(all(), |r| (r.sort_target, r.sort_order) = (target.into(), order.into()));
            s.range(format!("sort: {target:?} {order:?}"), request.clone());
            s.range(format!("sort: {target:?} {order:?}, two of them"), with(request, |r| r.limit = 2));
        }
    }
    s.range("limit: one more than there are", with(all(), |r| r.limit = 6));
    s.range("limit: as many as there are", with(all(), |r| r.limit = 5));
    s.range("limit: one", with(all(), |r| r.limit = 1));
    s.range("limit: negative", with(all(), |r| r.limit = -1));
    s.range("limit: of a single key", with(get("s/a"), |r| r.limit = 1));
    s.range("count_only", with(all(), |r| r.count_only = true));
    s.range("count_only with a limit", with(all(), |r| (r.count_only, r.limit) = (true, 2)));
    s.range("count_only of an absent key", with(get("nobody"), |r| r.count_only = true));
    s.range("keys_only", with(all(), |r| r.keys_only = true));
    s.range(
        "keys_only, sorted by value",
        with(all(), |r| (r.keys_only, r.sort_target) = (true, SortTarget::Value.into())),
    );
    s.range("keys_only and count_only", with(all(), |r| (r.keys_only, r.count_only) = (true, true)));
}

fn filters(s: &mut Script) {
    let all = || span("s/", "s0");
    // The revisions fall within those of the keys above; what matters is that both servers cut alike.
    for revision in [20, 26, 30, 34, 38, 45] {
        s.range(format!("filter: mod >= {revision}"), with(all(), |r| r.min_mod_revision = revision));
        s.range(format!("filter: mod <= {revision}"), with(all(), |r| r.max_mod_revision = revision));
        s.range(format!("filter: create >= {revision}"), with(all(), |r| r.min_create_revision = revision));
        s.range(format!("filter: create <= {revision}"), with(all(), |r| r.max_create_revision = revision));
    }
    let middle = || with(all(), |r| (r.min_mod_revision, r.max_mod_revision) = (22, 36));
    s.range("filter: a window", middle());
    s.range("filter: a window with a limit", with(middle(), |r| r.limit = 1));
    s.range("filter: a window counted", with(middle(), |r| r.count_only = true));
    s.range("filter: a window, sorted down", with(middle(), |r| r.sort_order = SortOrder::Descend.into()));
    s.range("filter: nothing passes", with(all(), |r| r.min_mod_revision = 100_000));
    s.range("filter: nothing passes, with a limit", with(all(), |r| (r.min_mod_revision, r.limit) = (100_000, 1)));
    s.range("filter: negative", with(all(), |r| r.min_mod_revision = -5));
}

fn old_revisions(s: &mut Script) {
    for revision in [1, 2, 3, 4, 7, 12, 13, 14, 20, 30] {
        s.range(format!("old: everything at {revision}"), with(span("\0", "\0"), |r| r.revision = revision));
    }
    s.range("old: one key", with(get("a"), |r| r.revision = 3));
    s.range("old: before it was made", with(get("s/a"), |r| r.revision = 5));
    s.range("old: counted", with(span("\0", "\0"), |r| (r.revision, r.count_only) = (12, true)));
    s.range("old: limited", with(span("\0", "\0"), |r| (r.revision, r.limit) = (30, 2)));
    s.range("old: serializable", with(get("a"), |r| (r.revision, r.serializable) = (3, true)));
    s.range("old: the far future", with(get("a"), |r| r.revision = i64::MAX));
    s.range("old: the far future, serializable", with(get("a"), |r| (r.revision, r.serializable) = (i64::MAX, true)));
}

fn range_ends(s: &mut Script) {
    s.range("range: empty key", get(""));
    s.range("range: empty key with an end", span("", "b"));
    s.range("range: end before key", span("s/c", "s/a"));
    s.range("range: end equal to key", span("s/a", "s/a"));
    s.range("range: end is not in it", span("s/a", "s/c"));
    s.range("range: from a key on", span("s/d", "\0"));
    s.range("range: everything", with(span("\0", "\0"), |r| r.keys_only = true));
    s.range("range: a prefix of 0xff", span(b"\xff", b"\0"));
    s.range("range: an end that is no key", span("s/b", "s/b\0"));
    s.range("range: key zero alone", get("\0"));
    s.range("range: end of two zero bytes", span("\0", "\0\0"));
    s.range("range: serializable", with(span("s/", "s0"), |r| r.serializable = true));
}

fn compares(s: &mut Script) {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use CompareTarget::{Create, Lease, Mod, Value, Version};
    let results = [Equal, Greater, Less, NotEqual];
    for key in ["a", "nobody"] {
        for result in results {
            for (name, target, union) in [
                ("version 0", Version, TargetUnion::Version(0)),
                ("version 6", Version, TargetUnion::Version(6)),
                ("create 2", Create, TargetUnion::CreateRevision(2)),
                ("mod 0", Mod, TargetUnion::ModRevision(0)),
                ("value 3", Value, TargetUnion::Value(b("3"))),
                ("value empty", Value, TargetUnion::Value(b(""))),
                ("lease 0", Lease, TargetUnion::Lease(0)),
            ] {
                s.txn(
                    format!("compare: {key} {result:?} {name}"),
                    txn(vec![cmp(key, target, result, union)], vec![], vec![]),
                );
            }
        }
    }
    let missing = |target| with(cmp("a", target, Equal, TargetUnion::Version(0)), |c| c.target_union = None);
    for target in [Version, Create, Mod, Value, Lease] {
        s.txn(format!("compare: {target:?} with no operand"), txn(vec![missing(target)], vec![], vec![]));
    }
    let mismatched = cmp("a", Version, Greater, TargetUnion::Value(b("3")));
    s.txn("compare: a version with a value's operand", txn(vec![mismatched], vec![], vec![]));
    let ranged = |end: &str, target, result, union| with(cmp("s/", target, result, union), |c| c.range_end = b(end));
    for (name, compare) in [
        ("all versions > 0", ranged("s0", Version, Greater, TargetUnion::Version(0))),
        ("all versions > 3", ranged("s0", Version, Greater, TargetUnion::Version(3))),
        ("all values != 44", ranged("s0", Value, NotEqual, TargetUnion::Value(b("44")))),
        ("all leases = 0", ranged("s0", Lease, Equal, TargetUnion::Lease(0))),
        ("versions of none = 0", ranged("s/\0", Version, Equal, TargetUnion::Version(0))),
        ("versions of none > 0", ranged("s/\0", Version, Greater, TargetUnion::Version(0))),
        ("values of none != x", ranged("s/\0", Value, NotEqual, TargetUnion::Value(b("x")))),
        ("from a key on, mod > 0", ranged("\0", Mod, Greater, TargetUnion::ModRevision(0))),
        ("end before key", ranged("a", Version, Equal, TargetUnion::Version(0))),
    ] {
        s.txn(format!("compare range: {name}"), txn(vec![compare], vec![], vec![]));
    }
    let both = |second| vec![holds(), cmp("a", Version, Equal, TargetUnion::Version(second))];
    s.txn("compare: one of two fails", txn(both(1000), vec![], vec![op_get(get("a"))]));
    s.txn("compare: empty key", txn(vec![cmp("", Version, Equal, TargetUnion::Version(0))], vec![], vec![]));
    let outside = with(cmp("a", Version, Equal, TargetUnion::Version(0)), |c| c.result = 17);
    s.txn("compare: a result that is none", txn(vec![outside], vec![], vec![]));
}

fn txn_effects(s: &mut Script) {
    s.txn(
        "txn: several writes share a revision",
        ops(vec![op_put(put("t/1", "a")), op_put(put("t/2", "b")), op_put(put("t/3", "c"))]),
    );
    s.range("txn: what they left", span("t/", "t0"));
    let prev = |key: &str, value: &str| op_put(with(put(key, value), |r| r.prev_kv = true));
    s.txn(
        "txn: later ops see earlier ones",
        ops(vec![
            op_get(get("t/1")),
            prev("t/1", "A"),
            op_get(get("t/1")),
            op_del(del("t/2")),
            op_get(span("t/", "t0")),
        ]),
    );
    s.txn(
        "txn: delete, then read",
        ops(vec![op_del(with(del_span("t/", "t0"), |r| r.prev_kv = true)), op_get(span("t/", "t0"))]),
    );
    s.txn(
        "txn: overlapping deletes",
        ops(vec![op_put(put("t/9", "x")), op_del(del("t/1")), op_del(del_span("t/1", "t/2"))]),
    );
    s.txn("txn: a delete that hits nothing", ops(vec![op_del(del("nobody")), op_get(get("a"))]));
    s.txn(
        "txn: failure branch",
        txn(
            vec![cmp("a", CompareTarget::Version, CompareResult::Equal, TargetUnion::Version(0))],
            vec![op_put(put("t/x", "1"))],
            vec![prev("t/9", "y")],
        ),
    );
    s.txn(
        "txn: failure branch that is empty",
        txn(
            vec![cmp("a", CompareTarget::Version, CompareResult::Equal, TargetUnion::Version(0))],
            vec![op_put(put("t/x", "1"))],
            vec![],
        ),
    );
    s.txn("txn: ignore_value", ops(vec![op_put(with(put("t/9", ""), |r| r.ignore_value = true)), op_get(get("t/9"))]));
    s.txn(
        "txn: the same key put in both branches",
        txn(vec![holds()], vec![op_put(put("t/4", "1"))], vec![op_put(put("t/4", "2"))]),
    );
    s.txn("txn: only reads, all serializable", ops(vec![op_get(with(get("a"), |r| r.serializable = true))]));
    s.txn("txn: reads at an old revision", ops(vec![op_get(with(get("a"), |r| r.revision = 3)), op_get(get("a"))]));
    s.txn(
        "txn: an old revision beside a write",
        ops(vec![op_put(put("t/5", "1")), op_get(with(get("a"), |r| r.revision = 3))]),
    );
    s.txn(
        "txn: a read with everything",
        ops(vec![op_get(with(span("s/", "s0"), |r| {
            (r.sort_order, r.sort_target, r.limit) = (SortOrder::Descend.into(), SortTarget::Version.into(), 2);
        }))]),
    );
    s.txn(
        "txn: count and keys",
        ops(vec![
            op_get(with(span("s/", "s0"), |r| r.count_only = true)),
            op_get(with(span("s/", "s0"), |r| r.keys_only = true)),
        ]),
    );
    s.txn(
        "txn: the same write in one branch twice is refused, reads are not",
        ops(vec![op_get(get("a")), op_get(get("a"))]),
    );
    s.range("txn: everything after it", span("t/", "t0"));
}

fn txn_nesting(s: &mut Script) {
    let seen = |value: &str| cmp("n/1", CompareTarget::Value, CompareResult::Equal, TargetUnion::Value(b(value)));
    s.txn(
        "nested: reads and writes",
        ops(vec![
            op_put(put("n/1", "a")),
            op_txn(ops(vec![op_get(get("n/1")), op_put(put("n/2", "b"))])),
            op_get(span("n/", "n0")),
        ]),
    );
    s.txn(
        "nested: compares see the state before",
        ops(vec![
            op_put(put("n/1", "new")),
            op_txn(txn(vec![seen("new")], vec![op_put(put("n/3", "yes"))], vec![op_put(put("n/3", "no"))])),
        ]),
    );
    s.txn(
        "nested: in the branch not taken",
        txn(vec![holds()], vec![op_get(get("n/3"))], vec![op_txn(ops(vec![op_put(put("n/4", "x"))]))]),
    );
    s.txn(
        "nested: two deep",
        ops(vec![op_txn(ops(vec![op_txn(txn(vec![seen("zzz")], vec![], vec![op_put(put("n/5", "deep"))]))]))]),
    );
    s.txn(
        "nested: three deep",
        ops(vec![op_txn(ops(vec![op_txn(ops(vec![op_txn(ops(vec![op_put(put("n/6", "deeper"))]))]))]))]),
    );
    s.txn("nested: empty", ops(vec![op_txn(pb::TxnRequest::default())]));
    s.txn(
        "nested: both branches put the same key",
        ops(vec![op_txn(txn(vec![holds()], vec![op_put(put("n/7", "1"))], vec![op_put(put("n/7", "2"))]))]),
    );
    s.txn("nested: only reads", ops(vec![op_txn(ops(vec![op_get(get("n/1"))])), op_get(get("n/2"))]));
    s.txn(
        "nested: a delete inside, a read outside",
        ops(vec![op_txn(ops(vec![op_del(del_span("n/1", "n/3"))])), op_get(span("n/", "n0"))]),
    );
    s.range("nested: everything after it", span("n/", "n0"));
}

fn txn_refusals(s: &mut Script) {
    let twice = |a: pb::RequestOp, c: pb::RequestOp| ops(vec![a, c]);
    let x = || op_put(put("x", "1"));
    s.txn("refused: the same key put twice", twice(x(), x()));
    s.txn("refused: put and deleted", twice(x(), op_del(del("x"))));
    s.txn("refused: deleted and put", twice(op_del(del("x")), x()));
    s.txn("refused: put and deleted by a range", twice(x(), op_del(del_span("w", "y"))));
    s.txn("allowed: deleted from a key on, and put (a quirk)", twice(op_del(del_span("x", "\0")), x()));
    s.txn("allowed: put, and deleted from a key on (a quirk)", twice(x(), op_del(del_span("x", "\0"))));
    s.txn("allowed: everything deleted, and put (a quirk)", twice(op_del(del_span("x\0", "\0")), x()));
    s.txn("allowed: put beside a range deleted", twice(op_put(put("x", "2")), op_del(del_span("y", "z"))));
    s.txn("refused: twice in the branch not taken", txn(vec![holds()], vec![], vec![x(), x()]));
    s.txn("refused: outside and nested", twice(x(), op_txn(ops(vec![x()]))));
    s.txn(
        "refused: outside and in the nested branch not taken",
        twice(x(), op_txn(txn(vec![holds()], vec![], vec![x()]))),
    );
    s.txn("refused: in two nested", twice(op_txn(ops(vec![x()])), op_txn(ops(vec![x()]))));
    s.txn("refused: nested delete over a put", twice(x(), op_txn(ops(vec![op_del(del_span("a", "z"))]))));
    s.txn("refused: nested put, delete outside", twice(op_txn(ops(vec![x()])), op_del(del("x"))));
    s.txn("refused: an op that is none", ops(vec![pb::RequestOp { request: None }]));
    s.txn("refused: an op that is none, not taken", txn(vec![holds()], vec![], vec![pb::RequestOp { request: None }]));
    s.txn("refused: a put with no key", ops(vec![op_put(put("", "1"))]));
    s.txn("refused: a range with no key", ops(vec![op_get(get(""))]));
    s.txn("refused: a delete with no key", ops(vec![op_del(del(""))]));
    s.txn("refused: nested put with no key", ops(vec![op_txn(ops(vec![op_put(put("", "1"))]))]));
    s.txn(
        "refused: nested compare with no key",
        ops(vec![op_txn(txn(vec![with(holds(), |c| c.key = b(""))], vec![], vec![]))]),
    );
    s.txn("refused: ignore_value with a value", ops(vec![op_put(with(put("x", "1"), |r| r.ignore_value = true))]));
    s.txn(
        "refused: ignore_lease with a lease",
        ops(vec![op_put(with(put("x", "1"), |r| (r.ignore_lease, r.lease) = (true, 4)))]),
    );
    s.txn(
        "refused: ignore_value of an absent key",
        ops(vec![op_put(put("x", "9")), op_put(with(put("nobody", ""), |r| r.ignore_value = true))]),
    );
    s.txn(
        "refused: ignore_lease of an absent key",
        ops(vec![op_put(with(put("nobody", "v"), |r| r.ignore_lease = true))]),
    );
    s.txn("refused: unknown lease", ops(vec![op_put(put("x", "9")), op_put(with(put("x2", "1"), |r| r.lease = 99))]));
    s.txn(
        "allowed: unknown lease in the branch not taken",
        txn(vec![holds()], vec![op_get(get("x"))], vec![op_put(with(put("x", "1"), |r| r.lease = 99))]),
    );
    s.txn(
        "refused: a future revision after a write",
        ops(vec![op_put(put("x", "9")), op_get(with(get("x"), |r| r.revision = 100_000))]),
    );
    s.txn("refused: a future revision, only reads", ops(vec![op_get(with(get("x"), |r| r.revision = 100_000))]));
    s.txn(
        "refused: a future revision, nested",
        ops(vec![op_put(put("x", "9")), op_txn(ops(vec![op_get(with(get("x"), |r| r.revision = 100_000))]))]),
    );
    s.txn(
        "allowed: a future revision in the branch not taken",
        txn(vec![holds()], vec![op_put(put("x", "3"))], vec![op_get(with(get("x"), |r| r.revision = 100_000))]),
    );
    s.range("refused: nothing of it is there", span("x", "y"));
}

fn leases(s: &mut Script) {
    let grant = |id, ttl| Call::Grant(pb::LeaseGrantRequest { id, ttl });
    let revoke = |id| Call::Revoke(pb::LeaseRevokeRequest { id });
    let left = |id, keys| Call::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys });
    let leased = |key: &str, lease| with(put(key, "v"), |r| r.lease = lease);
    s.add("lease: none", Call::Leases);
    s.add("lease: revoke of an unknown one", revoke(9));
    s.add("lease: revoke of none", revoke(0));
    s.add("lease: time of an unknown one", left(9, false));
    s.add("lease: time and keys of an unknown one", left(9, true));
    s.add("lease: time of none", left(0, true));
    s.add("lease: keepalive of an unknown one", Call::KeepAlive(vec![9]));
    s.add("lease: keepalive of none", Call::KeepAlive(vec![0]));
    s.add("lease: a stream without a request", Call::KeepAlive(vec![]));
    s.add("lease: grant, a long one", grant(101, 9_000));
    s.add("lease: grant, its id again", grant(101, 60));
    s.add("lease: grant, a negative id", grant(-7, 7_000));
    s.add("lease: grant, the longest", grant(102, 9_000_000_000));
    s.add("lease: grant, too long", grant(103, 9_000_000_001));
    s.add("lease: grant, too long, an id in use", grant(101, i64::MAX));
    s.add("lease: grant, the server chooses", grant(0, 8_000));
    s.add("lease: list", Call::Leases);
    s.add("lease: keepalives of one stream, in order", Call::KeepAlive(vec![101, 9, -7, 101, 0, 102]));
    s.add("lease: time", left(101, false));
    s.add("lease: time of a negative id", left(-7, false));
    s.add("lease: time, no keys yet", left(101, true));
    for (name, key, lease) in [
        ("attach", "l/1", 101),
        ("attach another", "l/2", 101),
        ("attach to a negative id", "l/3", -7),
        ("attach a key that was free", "a", 101),
        ("move a key", "l/1", -7),
        ("the same lease again", "l/2", 101),
        ("an unknown lease", "l/4", 9),
    ] {
        s.put(format!("lease: {name}"), leased(key, lease));
    }
    s.range("lease: the keys tell theirs", span("l/", "l0"));
    s.add("lease: time and keys", left(101, true));
    s.add("lease: time and keys of the other", left(-7, true));
    s.put("lease: a put without one detaches", put("l/2", "w"));
    s.put("lease: ignore_lease keeps it", with(put("l/1", "w"), |r| r.ignore_lease = true));
    s.delete("lease: a deleted key is detached", del("a"));
    s.put("lease: and is not attached in its next life", put("a", "1"));
    s.add("lease: nothing is attached any more", left(101, true));
    s.add("lease: the other still has both", left(-7, true));
    let moved = cmp("l/1", CompareTarget::Lease, CompareResult::Equal, TargetUnion::Lease(-7));
    s.txn(
        "lease: txn compares and attaches",
        txn(vec![moved], vec![op_put(leased("l/5", 101)), op_put(leased("l/6", -7)), op_del(del("l/2"))], vec![]),
    );
    s.txn(
        "lease: txn with an unknown one writes nothing",
        ops(vec![op_put(put("l/7", "x")), op_put(leased("l/8", 9))]),
    );
    s.add("lease: keys after the txn", left(101, true));
    s.add("lease: revoke of one without keys", revoke(102));
    s.range("lease: it has taken no revision", get("l/1"));
    s.add("lease: revoke of one with keys", revoke(-7));
    s.range("lease: its keys are gone, in one revision", span("l/", "l0"));
    s.add("lease: revoke of one that is gone", revoke(-7));
    s.put("lease: nobody attaches to it", leased("l/1", -7));
    s.add("lease: keepalive of one that is gone", Call::KeepAlive(vec![-7]));
    s.add("lease: grant, an id that was revoked", grant(-7, 500));
    s.add("lease: it is another one", left(-7, true));
    s.add("lease: list at the end", Call::Leases);
    s.add("lease: revoke the last but the drawn", revoke(101));
    for ttl in [0, -5, 1] {
        let id = 200 + ttl;
        s.add(format!("lease: grant for {ttl} s"), grant(id, ttl));
        s.add(format!("lease: away with the one for {ttl} s"), revoke(id));
    }
    s.range("lease: what is left", span("l/", "l0"));
}

fn limits(s: &mut Script) {
    let many = |count: usize| (0..count).map(|n| op_put(put(format!("m/{n:03}"), "v"))).collect::<Vec<_>>();
    s.txn("limit: 128 ops", ops(many(128)));
    s.txn("limit: 129 ops", ops(many(129)));
    s.txn("limit: 129 ops not taken", txn(vec![holds()], vec![], many(129)));
    s.txn("limit: 128 compares", txn(vec![holds(); 128], vec![op_get(get("x"))], vec![]));
    s.txn("limit: 129 compares", txn(vec![holds(); 129], vec![], vec![]));
    s.txn("limit: 128 in each branch", txn(vec![holds()], many(128), many(128)));
    s.txn("limit: one nested with 127", ops(vec![op_txn(ops(many(127)))]));
    s.txn("limit: one nested with 128", ops(vec![op_txn(ops(many(128)))]));
    s.txn("limit: two ops, one nested with 126", ops(vec![op_get(get("x")), op_txn(ops(many(126)))]));
    s.txn("limit: two ops, one nested with 127", ops(vec![op_get(get("x")), op_txn(ops(many(127)))]));
    s.txn("limit: 129 ops with an empty key", ops([many(128), vec![op_put(put("", ""))]].concat()));
    s.range("limit: what is left of it", with(span("m/", "m0"), |r| r.count_only = true));
    s.delete("limit: away with it", del_span("m/", "m0"));
    let big = |bytes: usize| "x".repeat(bytes);
    s.put("size: a big value", put("big", big(1_000_000)));
    s.range("size: a big value is read", with(get("big"), |r| r.keys_only = true));
    s.put("size: exactly 1.5 MiB", put("big", big(1_572_864)));
    s.put("size: 1.5 MiB and more", put("big", big(1_800_000)));
    s.put("size: a big key", put(big(100_000), "v"));
    s.delete("size: a big key is deleted", del(big(100_000)));
    s.put("size: over 2 MiB", put("big", big(2_097_152)));
    s.txn(
        "size: a txn over 1.5 MiB",
        ops(vec![op_put(put("big/1", big(900_000))), op_put(put("big/2", big(900_000)))]),
    );
    s.range("size: all of it", with(span("big", "bih"), |r| r.keys_only = true));
    s.delete("size: away with it", del_span("big", "bih"));
}

/// Late in the script: by now there are hundreds of revisions.
fn compactions(s: &mut Script) {
    let compact = |revision, physical| Call::Compact(pb::CompactionRequest { revision, physical });
    let hash = |revision| Call::HashKv(pb::HashKvRequest { revision });
    let at = |request, revision| with(request, |r: &mut pb::RangeRequest| r.revision = revision);
    s.add("compact: the hash before the first one", hash(0));
    s.add("compact: the hash of an old revision", hash(20));
    s.add("compact: the hash of a future one", hash(1_000_000));
    s.add("compact: a negative revision", compact(-1, false));
    s.add("compact: at 0 before the first one", compact(0, false));
    s.add("compact: at 0 again", compact(0, false));
    s.add("compact: a future revision", compact(1_000_000, false));
    s.add("compact: at 20", compact(20, false));
    s.add("compact: at 20 again", compact(20, true));
    s.add("compact: at 10 after that", compact(10, true));
    s.range("compact: a read at the mark", at(span("\0", "\0"), 20));
    s.range("compact: a read below it", at(span("\0", "\0"), 19));
    s.range("compact: a key below it", at(get("a"), 2));
    s.range("compact: a read above it", at(span("\0", "\0"), 21));
    s.range("compact: a negative revision is now", with(at(span("\0", "\0"), -1), |r| r.count_only = true));
    s.txn("compact: a txn reads at the mark", ops(vec![op_get(at(get("a"), 20))]));
    s.txn("compact: a txn reads below it", ops(vec![op_get(at(get("a"), 19))]));
    s.txn("compact: a txn that writes reads below it", ops(vec![op_put(put("w", "1")), op_get(at(get("a"), 19))]));
    s.txn("compact: a txn reads at a negative revision", ops(vec![op_get(at(get("a"), -1))]));
    s.range("compact: nothing of it is there", get("w"));
    s.add("compact: the hash below the mark", hash(19));
    // At the mark, and for 0, etcd 3.5 gives what it noted at an earlier compaction.
    s.add("compact: the hash above it", hash(30));
    s.put("compact: a key to delete", put("gone", "1"));
    s.delete("compact: is deleted", del("gone"));
    s.put("compact: and one to keep", put("kept", "1"));
    s.add("compact: physically, beyond what is deleted", compact(60, true));
    s.range("compact: everything now", span("\0", "\0"));
    s.range("compact: everything at the mark", at(span("\0", "\0"), 60));
    s.range("compact: by creation", with(span("\0", "\0"), |r| r.min_create_revision = 50));
    s.add("compact: the hash after that", hash(61));
    s.add("compact: defragment", Call::Defragment);
    s.range("compact: everything after that", span("\0", "\0"));
    s.put("compact: a deleted key begins anew", with(put("gone", "2"), |r| r.prev_kv = true));
}

fn cluster(s: &mut Script) {
    s.add("members: linearizable", Call::Members(pb::MemberListRequest { linearizable: true }));
    s.add("members: local", Call::Members(pb::MemberListRequest { linearizable: false }));
    s.add("status", Call::Status);
    s.add("alarms: all", Call::Alarm(pb::AlarmRequest::default()));
    let nospace = pb::AlarmRequest { alarm: pb::AlarmType::Nospace.into(), ..Default::default() };
    s.add("alarms: of one kind", Call::Alarm(nospace));
    s.range("the end: everything", span("\0", "\0"));
}

//! The rules of etcd's KV API, as clients see them, one test each.

use super::*;
use crate::ids::{DiskId, MemberId, Term};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::mvccpb::KeyValue;
use crate::proto::quorate::{Compact, PublishMember, SetAlarm};
use crate::storage::memory::MemoryEngine;

/// A machine on a disk, fed one command at a time.
pub(super) struct Store {
    pub engine: MemoryEngine,
    pub machine: Machine,
}

pub(super) fn founders() -> Vec<Member> {
    let member = |id| Member { id: MemberId(id), peer_urls: vec![format!("http://n{id}:2380")], ..Member::default() };
    vec![member(1), member(2)]
}

impl Store {
    pub fn new() -> Store {
        Store::open(MemoryEngine::new())
    }

    pub fn open(engine: MemoryEngine) -> Store {
        let machine = Machine::open(Arc::new(engine.clone()), founders()).unwrap();
        Store { engine, machine }
    }

    pub fn apply(&mut self, op: command::Op) -> Result<Response, Error> {
        let bytes = Bytes::from(Command { op: Some(op) }.encode_to_vec());
        let index = self.machine.applied().index.next();
        self.machine.apply(Position { index, term: Term(1) }, Content::Command(&bytes))
    }

    pub fn reconfigure(&mut self, membership: &Membership) {
        let index = self.machine.applied().index.next();
        let outcome = self.machine.apply(Position { index, term: Term(1) }, Content::Membership(membership));
        assert_eq!(outcome, Ok(Response::Done));
    }

    /// Seals and inserts everything applied; gives the writes.
    pub fn write(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        if let Some(run) = self.machine.seal(&mut ops) {
            insert(&self.engine, ops.clone());
            self.machine.written(run);
        }
        ops
    }

    /// Carries out a slice of a compaction, when everything is written; gives the writes.
    pub fn sweep(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        if let Some(run) = self.machine.sweep(&mut ops).unwrap() {
            insert(&self.engine, ops.clone());
            self.machine.written(run);
        }
        ops
    }

    fn compact(&mut self, revision: i64) {
        self.apply(command::Op::Compact(Compact { revision })).unwrap();
        self.write();
    }

    /// Carries out a compaction to its end.
    fn sweep_all(&mut self) {
        while self.machine.is_sweeping() {
            self.sweep();
        }
    }

    fn put(&mut self, request: pb::PutRequest) -> Result<pb::PutResponse, Error> {
        match self.apply(command::Op::Put(request))? {
            Response::Put(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    fn set(&mut self, key: &str, value: &str) -> i64 {
        revision(&self.put(put(key, value)).unwrap().header)
    }

    fn delete(&mut self, key: &str, end: &str) -> pb::DeleteRangeResponse {
        let request = pb::DeleteRangeRequest { key: b(key), range_end: b(end), prev_kv: true };
        match self.apply(command::Op::DeleteRange(request)) {
            Ok(Response::DeleteRange(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    fn txn(&mut self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        match self.apply(command::Op::Txn(request))? {
            Response::Txn(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        self.machine.view().range(&request)
    }

    fn keys(&self, request: pb::RangeRequest) -> (Vec<String>, bool, i64) {
        let response = self.range(request).unwrap();
        (names(&response.kvs), response.more, response.count)
    }

    fn get(&self, key: &str) -> Option<KeyValue> {
        self.range(range(key, "")).unwrap().kvs.pop()
    }
}

pub(super) fn insert(engine: &MemoryEngine, ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::Put(key, value) => engine.put(&key, &value).unwrap(),
            Op::Delete(key) => engine.delete(&key).unwrap(),
        }
    }
}

fn b(s: &str) -> Bytes {
    Bytes::copy_from_slice(s.as_bytes())
}

fn names(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    let header = header.unwrap();
    assert_eq!(header, pb::ResponseHeader { revision: header.revision, ..Default::default() });
    header.revision
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: b(key), value: b(value), ..Default::default() }
}

fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: b(key), range_end: b(end), ..Default::default() }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn op_put(key: &str, value: &str) -> pb::RequestOp {
    op(Request::RequestPut(put(key, value)))
}

fn op_range(key: &str, end: &str) -> pb::RequestOp {
    op(Request::RequestRange(range(key, end)))
}

fn op_delete(key: &str, end: &str) -> pb::RequestOp {
    let request = pb::DeleteRangeRequest { key: b(key), range_end: b(end), prev_kv: false };
    op(Request::RequestDeleteRange(request))
}

fn op_txn(txn: pb::TxnRequest) -> pb::RequestOp {
    op(Request::RequestTxn(txn))
}

fn all(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

fn when(compare: Vec<pb::Compare>) -> pb::TxnRequest {
    pb::TxnRequest { compare, ..Default::default() }
}

fn compare(key: &str, result: CompareResult, target: CompareTarget, union: Option<TargetUnion>) -> pb::Compare {
    pb::Compare {
        key: b(key),
        result: result as i32,
        target: target as i32,
        target_union: union,
        range_end: Bytes::new(),
    }
}

fn leaf_revision(op: &pb::ResponseOp) -> i64 {
    match op.response.as_ref().unwrap() {
        OpResponse::ResponseRange(r) => revision(&r.header),
        OpResponse::ResponsePut(r) => revision(&r.header),
        OpResponse::ResponseDeleteRange(r) => revision(&r.header),
        OpResponse::ResponseTxn(r) => {
            assert_eq!(r.header, Some(pb::ResponseHeader::default()), "present, but empty");
            0
        }
    }
}

mod revisions {
    use super::*;

    #[test]
    fn a_fresh_store_is_at_1_and_each_write_adds_1() {
        let mut store = Store::new();
        assert_eq!(store.machine.view().revision(), Revision(1));
        assert_eq!(store.set("a", "1"), 2);
        assert_eq!(store.set("a", "1"), 3, "a put bumps, with the same value too");
        assert_eq!(revision(&store.delete("a", "").header), 4);
    }

    #[test]
    fn what_changes_nothing_adds_nothing() {
        let mut store = Store::new();
        assert_eq!(revision(&store.delete("a", "").header), 1);
        assert_eq!(revision(&store.txn(all(vec![op_delete("a", ""), op_range("a", "")])).unwrap().header), 1);
        assert_eq!(revision(&store.txn(when(vec![])).unwrap().header), 1);
        store.apply(command::Op::Alarm(SetAlarm { member_id: 1, alarm: 2, active: true, by_itself: false })).unwrap();
        store.machine.apply(Position { index: Index(5), term: Term(2) }, Content::Nothing).unwrap();
        assert_eq!(store.machine.view().revision(), Revision(1));
    }

    #[test]
    fn a_keys_numbers_follow_its_generations() {
        let mut store = Store::new();
        store.set("a", "1");
        store.set("a", "2");
        let kv = store.get("a").unwrap();
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (2, 3, 2, 0));
        store.delete("a", "");
        assert_eq!(store.get("a"), None);
        store.set("a", "3");
        let kv = store.get("a").unwrap();
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
        assert_eq!(kv.value, b("3"));
    }

    #[test]
    fn a_txn_is_one_revision_and_its_own_answers_show_it_from_the_first_write_on() {
        let mut store = Store::new();
        store.set("a", "1");
        let nested = op_txn(all(vec![op_range("a", ""), op_put("c", "1")]));
        let ops = vec![
            op_range("a", ""),
            op_delete("x", ""),
            op_put("b", "1"),
            op_range("b", ""),
            op_delete("x", ""),
            nested,
        ];
        let response = store.txn(all(ops)).unwrap();
        assert_eq!(revision(&response.header), 3);
        let seen: Vec<i64> = response.responses.iter().map(leaf_revision).collect();
        assert_eq!(seen, [2, 2, 3, 3, 3, 0]);
        let Some(OpResponse::ResponseTxn(nested)) = &response.responses[5].response else { panic!() };
        assert_eq!(nested.responses.iter().map(leaf_revision).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(store.get("c").unwrap().mod_revision, 3);
        assert_eq!(store.set("d", "1"), 4);
    }
}

mod ranges {
    use super::*;

    fn abcd() -> Store {
        let mut store = Store::new();
        for (key, value) in [("d", "1"), ("b", "9"), ("a", "5"), ("c", "7"), ("b", "0")] {
            store.set(key, value);
        }
        store
    }

    #[test]
    fn ends() {
        let mut store = abcd();
        store.set("\0", "zero");
        let keys = |key, end| store.keys(range(key, end)).0;
        assert_eq!(keys("b", ""), ["b"]);
        assert_eq!(keys("b", "d"), ["b", "c"]);
        assert_eq!(keys("b", "\0"), ["b", "c", "d"]);
        assert_eq!(keys("\0", "\0"), ["\0", "a", "b", "c", "d"]);
        assert!(keys("c", "a").is_empty() && keys("c", "c").is_empty(), "the wrong way round is empty, not wrong");
    }

    #[test]
    fn old_revisions_stay_readable_and_the_header_says_now() {
        let store = abcd();
        let response = store.range(pb::RangeRequest { revision: 3, ..range("a", "\0") }).unwrap();
        assert_eq!(names(&response.kvs), ["b", "d"]);
        assert_eq!(revision(&response.header), 6);
        assert_eq!(response.kvs[0].value, b("9"));
        for now in [0, -5] {
            assert_eq!(store.keys(pb::RangeRequest { revision: now, ..range("a", "\0") }).2, 4);
        }
        assert_eq!(store.range(pb::RangeRequest { revision: 7, ..range("a", "") }), Err(Error::FutureRevision));
    }

    #[test]
    fn the_compacted_revision_itself_is_readable() {
        let store = abcd();
        store.machine.shared.write().compacted = 4;
        let read = |revision| store.range(pb::RangeRequest { revision, ..range("a", "") });
        assert_eq!(read(3), Err(Error::Compacted { compacted: Revision(4) }));
        assert!(read(4).is_ok() && read(0).is_ok());
    }

    #[test]
    fn sorts() {
        let store = abcd();
        let sorted = |target: SortTarget, order: SortOrder| {
            let request = pb::RangeRequest {
                sort_target: target as i32,
                sort_order: order as i32,
                keys_only: true,
                limit: 3,
                ..range("a", "\0")
            };
            let (keys, more, count) = store.keys(request);
            assert!(more && count == 4);
            keys.join("")
        };
        assert_eq!(sorted(SortTarget::Key, SortOrder::None), "abc");
        assert_eq!(sorted(SortTarget::Key, SortOrder::Descend), "dcb");
        assert_eq!(sorted(SortTarget::Create, SortOrder::Ascend), "dba");
        assert_eq!(sorted(SortTarget::Mod, SortOrder::Descend), "bca");
        assert_eq!(sorted(SortTarget::Version, SortOrder::Descend), "bac");
        assert_eq!(sorted(SortTarget::Value, SortOrder::Ascend), "bda");
        assert_eq!(sorted(SortTarget::Mod, SortOrder::None), "dac", "a target alone means ascending");
        let two = pb::RangeRequest { sort_target: SortTarget::Mod as i32, limit: 2, ..range("a", "\0") };
        let three = store.keys(pb::RangeRequest { limit: 3, ..range("a", "\0") }).0;
        let (keys, more, _) = store.keys(two);
        assert!(more && !three.contains(&"d".into()) && keys == ["a", "c"], "and sorts only one more than the limit");
    }

    #[test]
    fn numbers_outside_the_enums_sort_nothing() {
        let store = abcd();
        let odd = |sort_order, sort_target| pb::RangeRequest { sort_order, sort_target, ..range("a", "\0") };
        assert_eq!(store.keys(odd(7, 0)).0.join(""), "abcd");
        assert_eq!(store.keys(odd(0, 9)).0.join(""), "abcd");
    }

    #[test]
    fn limit_cuts_and_more_says_so_while_count_ignores_it() {
        let store = abcd();
        let limited = |limit| store.keys(pb::RangeRequest { limit, ..range("a", "\0") });
        assert_eq!(limited(3), (vec!["a".into(), "b".into(), "c".into()], true, 4));
        assert!(!limited(4).1 && !limited(0).1 && !limited(-2).1);
        assert_eq!(limited(-2).0.len(), 4);
    }

    #[test]
    fn what_comes_after_the_limit_is_counted_as_it_was_at_that_revision() {
        let mut store = abcd();
        let at = store.set("e", "1");
        store.delete("c", "e");
        store.set("c", "again");
        let limited = |revision, limit| store.keys(pb::RangeRequest { revision, limit, ..range("a", "\0") });
        assert_eq!(limited(0, 1), (vec!["a".into()], true, 4));
        assert_eq!(limited(at, 1), (vec!["a".into()], true, 5));
        assert_eq!(limited(at + 1, 1), (vec!["a".into()], true, 3));
        assert!(limited(at, 4).1 && !limited(0, 4).1 && !limited(at + 1, 3).1);
        let count = |revision| store.keys(pb::RangeRequest { revision, count_only: true, ..range("b", "\0") }).2;
        assert_eq!([at, at + 1, 0].map(count), [4, 2, 3]);
    }

    #[test]
    fn a_range_is_brief_if_it_reads_little_whatever_there_is() {
        let mut store = Store::new();
        for n in 0..300 {
            store.set(&format!("small/{n:03}"), "value");
        }
        store.set("large/1", &"x".repeat(300 << 10));
        let view = store.machine.view();
        let all = range("small/", "small0");
        let first = pb::RangeRequest { limit: 100, ..range("small/", "\0") };
        assert!(view.is_brief(&first) && view.is_brief(&range("small/1", "small/2")));
        assert!(view.is_brief(&pb::RangeRequest { count_only: true, ..all.clone() }));
        assert!(!view.is_brief(&all) && !view.is_brief(&range("large/", "large0")));
        // What must see all of it to answer reads all of it.
        for sorted in [
            pb::RangeRequest { sort_target: SortTarget::Mod as i32, ..first.clone() },
            pb::RangeRequest { min_mod_revision: 9, ..first.clone() },
            // Its values may have been larger then.
            pb::RangeRequest { revision: 9, ..first },
        ] {
            assert!(!view.is_brief(&sorted), "{sorted:?}");
        }
    }

    #[test]
    fn filters_come_before_the_limit_and_count_ignores_them() {
        let store = abcd();
        let request = pb::RangeRequest { min_mod_revision: 4, max_mod_revision: 5, ..range("a", "\0") };
        assert_eq!(store.keys(request.clone()), (vec!["a".into(), "c".into()], false, 4));
        assert_eq!(store.keys(pb::RangeRequest { limit: 1, ..request.clone() }), (vec!["a".into()], true, 4));
        assert_eq!(store.keys(pb::RangeRequest { limit: 2, ..request }), (vec!["a".into(), "c".into()], false, 4));
        let request = pb::RangeRequest { min_create_revision: 3, max_create_revision: 3, ..range("a", "\0") };
        assert_eq!(store.keys(request).0, ["b"]);
        let one = pb::RangeRequest { min_mod_revision: 5, ..range("a", "") };
        assert_eq!(store.keys(one), (vec![], false, 1));
    }

    #[test]
    fn count_only_has_no_pairs_and_keys_only_no_values() {
        let store = abcd();
        let count = pb::RangeRequest { count_only: true, limit: 1, ..range("a", "\0") };
        assert_eq!(store.keys(count), (vec![], false, 4));
        for end in ["", "c"] {
            let kv = store.range(pb::RangeRequest { keys_only: true, ..range("b", end) }).unwrap().kvs.remove(0);
            assert_eq!((kv.value, kv.version, kv.create_revision), (Bytes::new(), 2, 3));
        }
        assert_eq!(store.range(range("x", "")).unwrap().count, 0);
    }

    #[test]
    fn a_walk_longer_than_a_slice_misses_nothing() {
        let mut store = Store::new();
        for n in 0..2500 {
            store.set(&format!("k{n:05}"), "v");
        }
        let (keys, more, count) = store.keys(pb::RangeRequest { limit: 2400, ..range("k", "l") });
        assert_eq!((keys.len(), more, count), (2400, true, 2500));
        assert!(keys.is_sorted());
        assert_eq!(store.delete("k", "\0").deleted, 2500);
        assert_eq!(store.machine.view().live_bytes(), 0);
    }
}

mod puts_and_deletes {
    use super::*;

    #[test]
    fn prev_kv_is_the_pair_before_or_absent() {
        let mut store = Store::new();
        let request = pb::PutRequest { prev_kv: true, ..put("a", "1") };
        assert_eq!(store.put(request.clone()).unwrap().prev_kv, None);
        let before = store.get("a");
        assert_eq!(store.put(request).unwrap().prev_kv, before);
        assert_eq!(store.put(put("a", "2")).unwrap().prev_kv, None, "only if asked for");
    }

    #[test]
    fn ignore_value_keeps_the_value_of_a_key_that_is_there() {
        let mut store = Store::new();
        let touch = pb::PutRequest { ignore_value: true, ignore_lease: true, ..put("a", "") };
        assert_eq!(store.put(touch.clone()), Err(Error::KeyNotFound));
        store.set("a", "1");
        let response = store.put(touch.clone()).unwrap();
        assert_eq!((revision(&response.header), response.prev_kv), (3, None));
        assert_eq!((store.get("a").unwrap().value, store.get("a").unwrap().version), (b("1"), 2));
        let touched = store.put(pb::PutRequest { prev_kv: true, ..touch }).unwrap();
        assert_eq!(touched.prev_kv.unwrap().value, b("1"));
    }

    #[test]
    fn an_unknown_lease_writes_nothing() {
        let mut store = Store::new();
        assert_eq!(store.put(pb::PutRequest { lease: 7, ..put("a", "1") }), Err(Error::LeaseNotFound));
        let both = pb::PutRequest { lease: 7, ignore_value: true, ..put("a", "") };
        assert_eq!(store.put(both.clone()), Err(Error::LeaseNotFound), "alone, the lease is looked at first");
        assert_eq!(store.txn(all(vec![op(Request::RequestPut(both))])), Err(Error::KeyNotFound), "in a txn, the key");
        assert_eq!((store.get("a"), store.machine.view().revision()), (None, Revision(1)));
    }

    #[test]
    fn a_delete_counts_and_returns_what_it_removed_in_key_order() {
        let mut store = Store::new();
        for key in ["c", "a", "b", "d"] {
            store.set(key, key);
        }
        let response = store.delete("a", "d");
        assert_eq!((response.deleted, names(&response.prev_kvs)), (3, vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(response.prev_kvs[2].value, b("c"));
        let response = store.delete("a", "d");
        assert_eq!((response.deleted, response.prev_kvs.len(), revision(&response.header)), (0, 0, 6));
        assert_eq!(store.delete("z", "a").deleted, 0);
    }

    #[test]
    fn live_bytes_are_those_of_keys_and_values_that_are_there() {
        let mut store = Store::new();
        let bytes = |store: &Store| {
            let view = store.machine.view();
            (view.live_bytes(), view.held_bytes())
        };
        const EACH: u64 = versions::VERSION_BYTES;
        store.set("ab", "1234");
        assert_eq!(bytes(&store), (6 + EACH, 6 + EACH));
        store.set("ab", "1");
        store.set("c", "");
        assert_eq!(bytes(&store), (4 + 2 * EACH, 10 + 3 * EACH));
        store.delete("a", "b");
        assert_eq!(bytes(&store), (1 + EACH, 12 + 4 * EACH));
    }

    #[test]
    fn the_space_is_told_by_prefix() {
        let mut store = Store::new();
        for key in ["/r/pods/a", "/r/pods/b", "/r/pods/b", "/r/events/c", "/x", "/r/pods2"] {
            store.set(key, "value");
        }
        store.delete("/r/events/c", "");
        let shares = store.machine.view().shares(b"/r/pods", b'/', 2);
        let each = 5 + 9 + versions::VERSION_BYTES;
        let pods = Holding { keys: 2, versions: 3, live_bytes: 2 * each, held_bytes: 3 * each };
        let (prefixes, shares): (Vec<_>, Vec<Holding>) = shares.into_iter().unzip();
        assert_eq!(prefixes.iter().map(|p| &p[..]).collect::<Vec<_>>(), [&b"/r/"[..], b"/r/pods/"]);
        assert_eq!(shares[1], pods);
        let all = store.machine.view().shares(b"", b'/', 2).into_values().fold(Holding::default(), |a, b| a + b);
        let view = store.machine.view();
        assert_eq!((all.live_bytes, all.held_bytes), (view.live_bytes(), view.held_bytes()));
        assert_eq!((all.keys, all.versions), (4, 7));
    }
}

mod commands_and_disk;
mod compaction;
mod levels;
mod members;
mod restores;
mod snapshots;
mod streams;
mod txns;

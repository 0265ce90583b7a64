//! Txn: compares, order, atomicity.

use super::*;

fn version(key: &str, result: CompareResult, n: i64) -> pb::Compare {
    compare(key, result, CompareTarget::Version, Some(TargetUnion::Version(n)))
}

fn value(key: &str, result: CompareResult, value: &str) -> pb::Compare {
    compare(key, result, CompareTarget::Value, Some(TargetUnion::Value(b(value))))
}

fn holds(store: &Store, compares: Vec<pb::Compare>) -> bool {
    store.machine.view().txn(&when(compares)).unwrap().succeeded
}

fn pairs(op: &pb::ResponseOp) -> Vec<String> {
    match &op.response {
        Some(OpResponse::ResponseRange(range)) => names(&range.kvs),
        other => panic!("{other:?}"),
    }
}

#[test]
fn compares_are_anded_and_none_is_true() {
    let mut store = Store::new();
    store.set("a", "1");
    assert!(holds(&store, vec![]));
    let (yes, no) = (version("a", CompareResult::Equal, 1), version("a", CompareResult::Greater, 1));
    assert!(holds(&store, vec![yes.clone(), yes.clone()]));
    assert!(!holds(&store, vec![yes, no]));
}

#[test]
fn the_found_stands_on_the_left_of_a_compare() {
    let mut store = Store::new();
    store.set("a", "m");
    store.set("a", "m");
    assert!(holds(&store, vec![version("a", CompareResult::Greater, 1), version("a", CompareResult::Less, 3)]));
    assert!(holds(&store, vec![value("a", CompareResult::Greater, "l"), value("a", CompareResult::Less, "n")]));
    let create = compare("a", CompareResult::Equal, CompareTarget::Create, Some(TargetUnion::CreateRevision(2)));
    let modified = compare("a", CompareResult::Equal, CompareTarget::Mod, Some(TargetUnion::ModRevision(3)));
    let lease = compare("a", CompareResult::NotEqual, CompareTarget::Lease, Some(TargetUnion::Lease(9)));
    assert!(holds(&store, vec![create, modified, lease]));
}

#[test]
fn an_absent_key_is_all_zeroes_but_has_no_value() {
    let store = Store::new();
    for target in [CompareTarget::Version, CompareTarget::Create, CompareTarget::Mod, CompareTarget::Lease] {
        assert!(holds(&store, vec![compare("a", CompareResult::Equal, target, None)]));
    }
    for result in [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Less, CompareResult::Greater] {
        assert!(!holds(&store, vec![value("a", result, "x")]), "{result:?}");
    }
}

#[test]
fn a_compare_with_a_range_speaks_of_every_key_and_an_empty_range_of_an_absent_one() {
    let mut store = Store::new();
    store.set("a", "x");
    store.set("b", "x");
    let over = |compare: pb::Compare, end: &str| pb::Compare { range_end: b(end), ..compare };
    assert!(holds(&store, vec![over(value("a", CompareResult::Equal, "x"), "\0")]));
    store.set("c", "y");
    assert!(!holds(&store, vec![over(value("a", CompareResult::Equal, "x"), "\0")]));
    assert!(holds(&store, vec![over(value("a", CompareResult::Equal, "x"), "c")]));
    let no_lease = compare("x", CompareResult::Equal, CompareTarget::Lease, Some(TargetUnion::Lease(0)));
    assert!(holds(&store, vec![over(no_lease, "z")]));
    assert!(!holds(&store, vec![over(value("x", CompareResult::NotEqual, "q"), "z")]));
    assert!(!holds(&store, vec![over(version("x", CompareResult::Greater, 0), "a")]), "the wrong way round: absent");
}

#[test]
fn a_missing_or_mismatched_union_is_zero_or_empty_and_odd_numbers_are_as_in_etcd() {
    let mut store = Store::new();
    store.set("a", "");
    assert!(holds(&store, vec![compare("a", CompareResult::Greater, CompareTarget::Version, None)]));
    assert!(holds(&store, vec![compare("a", CompareResult::Equal, CompareTarget::Value, None)]));
    let union = Some(TargetUnion::Value(b("1")));
    assert!(!holds(&store, vec![compare("a", CompareResult::Equal, CompareTarget::Version, union)]));
    let odd = pb::Compare { result: 9, ..version("a", CompareResult::Equal, 500) };
    assert!(holds(&store, vec![odd]), "an unknown result asks for nothing");
    let odd = pb::Compare { target: 9, ..version("absent", CompareResult::Equal, 500) };
    assert!(holds(&store, vec![odd]), "an unknown target compares equal");
}

#[test]
fn succeeded_names_the_branch_and_each_of_its_ops_has_an_answer() {
    let mut store = Store::new();
    let txn = pb::TxnRequest {
        compare: vec![version("a", CompareResult::Greater, 0)],
        success: vec![op_range("a", "")],
        failure: vec![op_put("a", "1"), op_range("a", "")],
    };
    let response = store.txn(txn.clone()).unwrap();
    assert_eq!((response.succeeded, response.responses.len()), (false, 2));
    let response = store.txn(txn).unwrap();
    assert_eq!((response.succeeded, response.responses.len()), (true, 1));
}

#[test]
fn later_ops_see_earlier_ones() {
    let mut store = Store::new();
    store.set("a", "1");
    let ops = vec![op_put("b", "1"), op_range("a", "z"), op_delete("a", ""), op_range("a", "z")];
    let response = store.txn(all(ops)).unwrap();
    assert_eq!(pairs(&response.responses[1]), ["a", "b"]);
    assert_eq!(pairs(&response.responses[3]), ["b"]);
}

#[test]
fn nested_compares_are_decided_before_any_op_runs() {
    let mut store = Store::new();
    let nested = pb::TxnRequest {
        compare: vec![version("a", CompareResult::Equal, 0)],
        success: vec![op_put("then", "1")],
        failure: vec![op_put("else", "1")],
    };
    store.txn(all(vec![op_put("a", "1"), op_txn(nested)])).unwrap();
    assert_eq!(store.keys(range("a", "\0")).0, ["a", "then"]);
}

#[test]
fn a_key_put_and_deleted_by_an_open_range_in_one_txn_ends_as_the_last_op_left_it() {
    let mut store = Store::new();
    let response = store.txn(all(vec![op_put("k", "1"), op_delete("a", "\0")])).unwrap();
    assert_eq!(response.responses.iter().map(leaf_revision).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(store.get("k"), None);
    store.txn(all(vec![op_delete("a", "\0"), op_put("k", "2")])).unwrap();
    assert_eq!((store.get("k").unwrap().version, store.get("k").unwrap().mod_revision), (1, 3));
    let before = store.range(pb::RangeRequest { revision: 2, ..range("k", "") }).unwrap();
    assert_eq!(before.count, 0);
}

#[test]
fn a_range_asks_for_revisions_before_the_txn() {
    let mut store = Store::new();
    store.set("a", "1");
    let at = |revision| op(Request::RequestRange(pb::RangeRequest { revision, ..range("a", "") }));
    assert_eq!(store.txn(all(vec![op_put("a", "2"), at(3)])), Err(Error::FutureRevision));
    assert_eq!(store.machine.view().revision(), Revision(2), "the whole txn fails");
    let response = store.txn(all(vec![op_put("a", "2"), at(2), at(-1), at(0)])).unwrap();
    let values = response.responses[1..].iter().map(|op| match &op.response {
        Some(OpResponse::ResponseRange(range)) => (revision(&range.header), range.kvs[0].value.clone()),
        other => panic!("{other:?}"),
    });
    assert_eq!(values.collect::<Vec<_>>(), [(3, b("1")), (3, b("2")), (3, b("2"))]);
    assert_eq!(store.txn(all(vec![at(-2)])), Err(Error::Compacted { compacted: Revision(-1) }), "as in etcd");
}

#[test]
fn what_a_caller_did_wrong_is_found_before_anything_is_written_on_the_taken_path_only() {
    let mut store = Store::new();
    let lease = || op(Request::RequestPut(pb::PutRequest { lease: 5, ..put("b", "1") }));
    let keep = || op(Request::RequestPut(pb::PutRequest { ignore_value: true, ..put("b", "") }));
    let future = || op(Request::RequestRange(pb::RangeRequest { revision: 99, ..range("a", "") }));
    assert_eq!(store.txn(all(vec![op_put("a", "1"), lease()])), Err(Error::LeaseNotFound));
    assert_eq!(store.txn(all(vec![op_put("a", "1"), keep()])), Err(Error::KeyNotFound));
    assert_eq!(store.txn(all(vec![op_put("a", "1"), op_txn(all(vec![lease()]))])), Err(Error::LeaseNotFound));
    assert_eq!(store.txn(all(vec![future(), lease()])), Err(Error::LeaseNotFound), "puts are looked at first");
    let nothing = pb::RequestOp { request: None };
    assert_eq!(store.txn(all(vec![op_put("a", "1"), nothing])), Err(Error::KeyNotFound));
    assert_eq!((store.get("a"), store.machine.view().revision()), (None, Revision(1)));
    let untaken = pb::TxnRequest { failure: vec![lease(), keep(), future()], ..all(vec![op_put("a", "1")]) };
    assert!(store.txn(untaken).unwrap().succeeded);
}

#[test]
fn a_view_reads_a_whole_txn_at_one_revision() {
    let mut store = Store::new();
    store.set("a", "1");
    let view = store.machine.view();
    let response = view.txn(&all(vec![op_range("a", ""), op_txn(all(vec![op_range("b", "")]))])).unwrap();
    assert_eq!(revision(&response.header), 2);
    assert_eq!(response.responses.iter().map(leaf_revision).collect::<Vec<_>>(), [2, 0]);
    assert_eq!(view.txn(&when(vec![])).unwrap().header, header(2));
}

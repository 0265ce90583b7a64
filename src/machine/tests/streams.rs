//! Ranges piece by piece, and what ranges may hold.

use super::budget::{Budget, Share};
use super::*;

const PIECE: u64 = 4000;

/// `count` keys, `k0000` and so on, with values of `length` bytes.
fn filled(count: usize, length: usize) -> Store {
    let mut store = Store::new();
    for n in 0..count {
        store.set(&format!("k{n:04}"), &"v".repeat(length));
    }
    store.write();
    store
}

/// The pieces of a stream, the last one with its header.
fn pieces(store: &Store, request: pb::RangeRequest) -> Vec<pb::RangeResponse> {
    let mut stream = store.machine.view().stream(request, PIECE).unwrap();
    let mut pieces = Vec::new();
    loop {
        match stream.step().unwrap() {
            Step::Piece(piece) => pieces.push(piece),
            Step::Counted => {}
            Step::Last(piece) => {
                pieces.push(piece);
                return pieces;
            }
        }
    }
}

fn sizes(pieces: &[pb::RangeResponse]) -> Vec<usize> {
    pieces.iter().map(|piece| piece.kvs.len()).collect()
}

#[test]
fn the_pieces_of_a_stream_make_the_range() {
    let store = filled(2600, 1);
    let all = range("k", "l");
    for request in [
        all.clone(),
        pb::RangeRequest { limit: 1, ..all.clone() },
        pb::RangeRequest { limit: 10, ..all.clone() },
        pb::RangeRequest { limit: 2599, ..all.clone() },
        pb::RangeRequest { limit: 2600, ..all.clone() },
        pb::RangeRequest { keys_only: true, ..all.clone() },
        pb::RangeRequest { count_only: true, limit: 3, ..all.clone() },
        pb::RangeRequest { revision: 1500, ..all.clone() },
        range("k0007", ""),
        range("x", ""),
        range("l", "k"),
    ] {
        let whole = store.range(request.clone()).unwrap();
        let pieces = pieces(&store, request.clone());
        let (last, first) = pieces.split_last().unwrap();
        for piece in first {
            let bare = pb::RangeResponse { kvs: piece.kvs.clone(), ..Default::default() };
            assert_eq!(*piece, bare, "only the last piece has more than pairs");
            assert!(!piece.kvs.is_empty());
        }
        let kvs: Vec<KeyValue> = pieces.iter().flat_map(|piece| piece.kvs.clone()).collect();
        assert_eq!(pb::RangeResponse { kvs, ..last.clone() }, whole, "{request:?}");
    }
}

#[test]
fn pieces_grow_to_their_size_and_shrink_to_it() {
    let pair = range::cost(b"k0000", &versions::Version::ABSENT, false);
    // As many as fit, once they are that many.
    let small = pieces(&filled(60, 0), range("k", "l"));
    let most = (PIECE / pair) as usize;
    assert!((11..20).contains(&most), "the test is about pieces that grow once: {most}");
    assert_eq!(sizes(&small)[..2], [10, most]);
    assert!(small.iter().all(|piece| piece.kvs.len() <= most));
    // One at least, however large.
    assert_eq!(sizes(&pieces(&filled(3, 10_000), range("k", "l"))), [1, 1, 1]);
    // Without values they would be small.
    let request = pb::RangeRequest { keys_only: true, ..range("k", "l") };
    assert_eq!(sizes(&pieces(&filled(3, 10_000), request)), [3]);
}

#[test]
fn a_stream_stays_at_its_revision_until_a_compaction_overtakes_it() {
    let mut store = filled(40, 0);
    let mut stream = store.machine.view().stream(range("k", "l"), PIECE).unwrap();
    let Ok(Step::Piece(first)) = stream.step() else { panic!("a first piece") };
    store.set("k0020", "later");
    store.delete("k0021", "");
    store.set("k9999", "later");
    let now = store.machine.view().revision().0;
    let mark = |store: &mut Store, revision| store.machine.shared.write().compacted = revision;
    mark(&mut store, now - 3);
    let Ok(Step::Piece(second)) = stream.step() else { panic!("the stream's own revision is readable") };
    assert_eq!(names(&second.kvs)[..2], ["k0010", "k0011"]);
    let told = first.kvs.iter().chain(&second.kvs);
    assert!(told.clone().all(|kv| kv.value.is_empty()), "nothing of what came later");
    mark(&mut store, now - 2);
    assert_eq!(stream.step(), Err(Error::Compacted { compacted: Revision(now - 2) }));
    let compacted = store.machine.view().stream(pb::RangeRequest { revision: 5, ..range("k", "l") }, PIECE);
    assert!(matches!(compacted, Err(Error::Compacted { .. })));
    let future = store.machine.view().stream(pb::RangeRequest { revision: 99, ..range("k", "l") }, PIECE);
    assert!(matches!(future, Err(Error::FutureRevision)));
}

#[test]
fn a_range_pays_for_what_it_holds_before_it_loads_a_value() {
    let store = filled(10, 1000);
    let view = store.machine.view();
    let all = range("k", "l");
    let whole = {
        let mut share = Share::unlimited();
        view.range_within(&all, &mut share).unwrap();
        share.held()
    };
    assert!(whole > 10 * 1005, "{whole}");
    let budget = |one, together| Arc::new(Budget::new(one, together));
    let read = |budget: &Arc<Budget>, request: &pb::RangeRequest| {
        view.range_within(request, &mut Share::of(budget)).map(|response| response.kvs.len())
    };
    let tight = budget(whole, whole);
    assert_eq!(read(&tight, &all), Ok(10));
    assert_eq!(read(&tight, &all), Ok(10), "what was taken is given back");
    let short = budget(whole - 1, 0);
    let refused = Err(Error::RangeTooLarge { bytes: whole, limit: whole - 1 });
    assert_eq!(read(&short, &all), refused);
    let half = Err(Error::RangeTooLarge { bytes: whole, limit: whole / 2 });
    assert_eq!(read(&budget(whole / 2, 0), &all), half, "told how large it would be, though half of it was never held");
    // No room: others hold some of it.
    let mut other = Share::of(&tight);
    other.take(1).unwrap();
    assert_eq!(read(&tight, &all), Err(Error::RangesTooLarge { bytes: whole, limit: whole }));
    drop(other);
    // What holds less costs less.
    let by_value =
        |limit| pb::RangeRequest { sort_target: SortTarget::Value as i32, sort_order: 2, limit, ..all.clone() };
    let by_key = |limit| pb::RangeRequest { sort_order: 2, limit, ..all.clone() };
    for (request, expected) in [
        (pb::RangeRequest { limit: 9, ..all.clone() }, Ok(9)),
        (pb::RangeRequest { keys_only: true, ..all.clone() }, Ok(10)),
        (pb::RangeRequest { count_only: true, ..all.clone() }, Ok(0)),
        (by_key(9), Ok(9)),
        (by_key(10), refused.clone()),
        (by_value(9), refused.clone()),
    ] {
        assert_eq!(read(&short, &request), expected, "{request:?}");
    }
    // A key by its name is free.
    assert_eq!(read(&budget(1, 1), &range("k0000", "")), Ok(1));
}

#[test]
fn a_txn_pays_for_all_its_ranges_and_one_that_writes_in_advance() {
    let store = filled(10, 1000);
    let view = store.machine.view();
    let all = || op(Request::RequestRange(range("k", "l")));
    let mut share = Share::unlimited();
    view.range_within(&range("k", "l"), &mut share).unwrap();
    let one = share.held();
    let reads = |ops: Vec<pb::RequestOp>| pb::TxnRequest { success: ops, ..Default::default() };
    let budget = Arc::new(Budget::new(2 * one - 1, 0));
    let refused = Err(Error::RangeTooLarge { bytes: 2 * one, limit: 2 * one - 1 });
    let read = |txn| view.txn_within(&txn, &mut Share::of(&budget)).map(|_| ());
    assert_eq!(read(reads(vec![all()])), Ok(()));
    assert_eq!(read(reads(vec![all(), all()])), refused);
    let charge = |txn: pb::TxnRequest| view.charge_txn(&txn, &mut Share::of(&budget));
    let delete = |prev_kv| {
        let request = pb::DeleteRangeRequest { key: b("k"), range_end: b("l"), prev_kv };
        op(Request::RequestDeleteRange(request))
    };
    let nested = |ops| op(Request::RequestTxn(reads(ops)));
    for (txn, expected) in [
        (reads(vec![op_put("a", "1"), all()]), Ok(())),
        (reads(vec![all(), nested(vec![delete(true)])]), refused.clone()),
        (reads(vec![all(), delete(false)]), Ok(())),
        (pb::TxnRequest { failure: vec![all(), all()], ..reads(vec![all()]) }, refused.clone()),
        (pb::TxnRequest { failure: vec![all()], ..reads(vec![all()]) }, Ok(())),
        (reads(vec![op(Request::RequestRange(range("k0000", ""))); 40]), Ok(())),
    ] {
        assert_eq!(charge(txn.clone()), expected, "{txn:?}");
    }
}

//! Restored stores: what was in the snapshot, at a revision that nobody has seen.

use super::snapshots::{filled, read, taken};
use super::*;
use crate::proto::mvccpb::KeyValue;

/// The pairs and leases of a snapshot, in the order that a restore wants.
fn contents(snapshot: &[u8]) -> Vec<Item> {
    let mut items = read(snapshot, 100).unwrap().0;
    items.sort_by_key(|item| if let Item::Pair(pair) = item { pair.mod_revision } else { 0 });
    items
}

fn restored(items: &[Item], revision: i64) -> (MemoryEngine, u64) {
    let engine = MemoryEngine::new();
    let mut restoring =
        Restoring::begin(Arc::new(engine.clone()), members(), Revision(revision), Level::FIRST).unwrap();
    items.iter().for_each(|item| restoring.take(item).unwrap());
    let (applied, digest) = restoring.finish().unwrap();
    let opened = Machine::open(Arc::new(engine.clone()), members()).unwrap();
    assert_eq!((opened.applied(), opened.digest()), (applied, digest), "what is opened is what was made");
    (engine, digest)
}

fn members() -> Vec<Member> {
    vec![Member {
        id: MemberId(9),
        name: "n9".into(),
        peer_urls: vec!["http://n9:2380".into()],
        client_urls: vec![],
        disk: None,
        standing: Standing::Voter,
    }]
}

fn everything(view: &View, revision: i64) -> Result<Vec<KeyValue>, Error> {
    let (key, range_end) = (Bytes::from_static(&[0]), Bytes::from_static(&[0]));
    view.range(&pb::RangeRequest { key, range_end, revision, ..Default::default() }).map(|found| found.kvs)
}

#[test]
fn a_restored_store_has_what_was_there_and_nothing_older() {
    let store = filled();
    let (engine, _) = restored(&contents(&taken(&store)), 1000);
    let machine = Machine::open(Arc::new(engine), members()).unwrap();
    let (old, new) = (store.machine.view(), machine.view());
    assert_eq!(everything(&new, 0).unwrap(), everything(&old, 0).unwrap());
    assert_eq!(new.leases().iter().map(|(id, time)| (*id, time.ttl)).collect::<Vec<_>>(), [(3, 63), (5, 65)]);
    assert_eq!((new.revision(), new.compacted()), (Revision(1000), Revision(1000)));
    assert_eq!(everything(&new, 999), Err(Error::Compacted { compacted: Revision(1000) }));
    let ids: Vec<MemberId> = new.members().iter().map(|member| member.id).collect();
    assert_eq!(ids, [MemberId(9)], "the new cluster's, not the old one's");
}

#[test]
fn what_belongs_to_a_lease_still_goes_with_it_and_the_next_change_has_the_next_revision() {
    let (engine, _) = restored(&contents(&taken(&filled())), 1000);
    let mut machine = Machine::open(Arc::new(engine), members()).unwrap();
    let revoke = command::Op::RevokeLease(crate::proto::quorate::RevokeLease { id: 5, ..Default::default() });
    let next = Position { index: machine.applied().index.next(), term: crate::ids::Term(2) };
    machine.apply(next, Content::Command(&Command { op: Some(revoke) }.encode_to_vec().into())).unwrap();
    let view = machine.view();
    assert_eq!(view.revision(), Revision(1001));
    assert!(everything(&view, 0).unwrap().iter().all(|kv| kv.key != "owned5"));
}

#[test]
fn the_revision_never_goes_back_and_equal_snapshots_make_equal_members() {
    let items = contents(&taken(&filled()));
    let Item::Head(head) = items[0] else { panic!("{items:?}") };
    let (engine, digest) = restored(&items, head.revision.0);
    let view = Machine::open(Arc::new(engine), members()).unwrap().view();
    assert_eq!((view.revision(), view.compacted()), (head.revision, head.revision));
    assert_eq!(restored(&items, head.revision.0).1, digest);
    assert_ne!(restored(&items, 1000).1, digest);
}

#[test]
fn many_pairs_make_many_records_and_an_empty_snapshot_makes_a_store() {
    let pair = |n: i64| {
        Item::Pair(KeyValue {
            key: format!("key{n:06}").into(),
            value: vec![7; 900].into(),
            create_revision: n,
            mod_revision: n,
            version: 1,
            lease: 0,
        })
    };
    let items: Vec<Item> = (2..8000).map(pair).collect();
    let (engine, _) = restored(&items, 9000);
    let view = Machine::open(Arc::new(engine), members()).unwrap().view();
    assert_eq!(everything(&view, 0).unwrap().len(), items.len());
    let (engine, _) = restored(&[], 1);
    assert_eq!(Machine::open(Arc::new(engine), members()).unwrap().view().revision(), Revision(1));
}

#[test]
#[should_panic(expected = "a pair of revision 4 after one of 5")]
fn a_pair_that_is_out_of_order_is_refused() {
    let pair = |revision| {
        Item::Pair(KeyValue {
            key: "k".into(),
            mod_revision: revision,
            create_revision: 2,
            version: 1,
            ..Default::default()
        })
    };
    restored(&[pair(5), pair(4)], 9);
}

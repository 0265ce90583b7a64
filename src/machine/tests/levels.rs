//! The cluster's level: at one entry, on every member alike, upwards only, wherever the state goes.

use super::snapshots::{read, taken};
use super::*;
use crate::ids::ClusterId;
use crate::machine::record::Misread;
use crate::machine::takeover::{Prefix, read_records};
use crate::proto::quorate::RaiseLevel;

fn raise(store: &mut Store, level: u32) -> Result<Response, Error> {
    store.apply(command::Op::RaiseLevel(RaiseLevel { level }))
}

fn level(store: &Store) -> Level {
    store.machine.level()
}

/// A command whose meaning changes at level 2, as a release would have it that knows both.
fn changed_at_two(store: &mut Store, key: &str) {
    if store.machine.level() >= Level(2) {
        store.set(key, "new");
        store.delete("old", "");
    } else {
        store.set("old", key);
    }
}

#[test]
fn a_meaning_changes_at_one_entry_whatever_each_member_has_done_besides() {
    let mut stores = [Store::new(), Store::new(), Store::new()];
    for entry in 0..12 {
        for (place, store) in stores.iter_mut().enumerate() {
            match entry {
                3 => drop(raise(store, 1).unwrap()),
                7 => drop(raise(store, 2).unwrap()),
                _ => changed_at_two(store, &format!("k{entry}")),
            }
            // One keeps all in memory, one is opened again all the time, one sweeps.
            match place {
                0 => {}
                1 => {
                    store.write();
                    *store = Store::open(store.engine.clone());
                }
                _ => {
                    store.write();
                    store.sweep_all();
                }
            }
        }
        let digests: Vec<u64> = stores.iter().map(|store| store.machine.digest()).collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]), "entry {entry}: {digests:x?}");
    }
    assert!(
        stores.iter().all(|store| store.get("k8").is_some() && store.get("k6").is_none() && level(store) == Level(2))
    );
}

#[test]
fn a_level_never_goes_down() {
    let mut store = Store::new();
    assert_eq!(level(&store), Level::FIRST);
    raise(&mut store, 2).unwrap();
    for lower in 0..=2 {
        assert_eq!(raise(&mut store, lower), Ok(Response::Done));
        assert_eq!(level(&store), Level(2));
    }
    raise(&mut store, 3).unwrap();
    store.write();
    assert_eq!(level(&Store::open(store.engine.clone())), Level(3));
}

#[test]
fn a_level_that_is_not_known_halts_and_changes_nothing() {
    let mut store = Store::new();
    store.set("a", "1");
    let (applied, digest) = (store.machine.applied(), store.machine.digest());
    let Err(Error::Newer(why)) = raise(&mut store, 4) else { panic!("it was applied") };
    assert!(why.contains("level 4") && why.contains("up to 3 only"), "{why}");
    assert_eq!((store.machine.applied(), store.machine.digest()), (applied, digest));
    let Err(Error::Newer(why)) = store.machine.apply(
        Position { index: applied.index.next(), term: Term(1) },
        Content::Command(&Bytes::from_static(&[0xfa, 0x7f, 0])),
    ) else {
        panic!("a command of another release was passed over")
    };
    assert!(why.contains("does not know the command"), "{why}");
    assert_eq!((store.machine.applied(), store.machine.digest()), (applied, digest));
}

#[test]
fn a_state_of_a_level_that_is_not_known_is_not_opened_and_is_no_rot() {
    let mut store = Store::new();
    store.machine.emit(&Effect::Level(Level(9)), None);
    store.set("a", "1");
    store.write();
    let opened = Machine::open(Arc::new(store.engine.clone()), founders());
    let Err(OpenError::Newer(why)) = opened else { panic!("{opened:?}") };
    assert!(why.contains("level 9"), "{why}");
}

#[test]
fn a_compaction_keeps_the_newest_level_and_a_takeover_brings_it() {
    let mut store = Store::new();
    for level in 1..=2 {
        raise(&mut store, level).unwrap();
        store.set("a", "1");
        store.write();
    }
    // Both records are rewritten, for the values in them are dead.
    store.set("a", "2");
    store.compact(4);
    store.sweep_all();
    let (digest, engine) = (store.machine.digest(), store.engine.clone());
    let records = read_records(&engine, Index(1), store.machine.first_unwritten(), usize::MAX).unwrap();
    let mut levels = Vec::new();
    for (_, record) in &records {
        record::read(record, &mut { Digest::START }, &mut |effect, _| {
            levels.extend(if let Effect::Level(level) = effect { Some(level) } else { None });
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(levels, [Level(2)], "the older one is gone");
    let (taken, mut prefix, mut ops) = (MemoryEngine::new(), Prefix::default(), Vec::new());
    for (first, record) in records {
        prefix.take(first, &record, &mut ops).unwrap();
    }
    insert(&taken, ops);
    for store in [Store::open(engine), Store::open(taken)] {
        assert_eq!((store.machine.level(), store.machine.digest()), (Level(2), digest));
    }
}

#[test]
fn a_snapshot_says_its_level_and_a_restore_begins_with_it() {
    let mut store = Store::new();
    store.set("a", "1");
    let version = |bytes: &[u8]| bytes[8];
    assert_eq!(version(&taken(&store)), 1, "every release reads what has no level");
    raise(&mut store, 2).unwrap();
    let snapshot = taken(&store);
    assert_eq!(version(&snapshot), 2);
    let Item::Head(head) = read(&snapshot, 100).unwrap().0[0] else { panic!("no head") };
    assert_eq!((head.cluster, head.level), (ClusterId(7), Level(2)));
    let engine = MemoryEngine::new();
    let restoring = Restoring::begin(Arc::new(engine.clone()), founders(), Revision(10), head.level).unwrap();
    let (_, digest) = restoring.finish().unwrap();
    let restored = Store::open(engine);
    assert_eq!((restored.machine.level(), restored.machine.digest()), (Level(2), digest));
}

#[test]
fn a_snapshot_of_a_level_that_is_not_known_is_refused_at_its_head() {
    let mut store = Store::new();
    store.machine.emit(&Effect::Level(Level(9)), None);
    let (mut reader, mut told) = (SnapshotReader::default(), 0);
    let damage = reader.push(&taken(&store), &mut |_, _| told += 1).unwrap_err();
    assert!(matches!(&damage, SnapshotError::Newer(why) if why.contains("level 9")) && told == 0, "{damage}");
}

#[test]
fn a_record_of_a_newer_release_is_told_apart_when_a_state_is_opened() {
    let mut store = Store::new();
    store.set("a", "1");
    store.write();
    let records = read_records(&store.engine, Index(1), store.machine.first_unwritten(), usize::MAX).unwrap();
    let newer = [b"QSR9", &records[0].1[4..]].concat();
    assert!(matches!(record::header(&newer), Err(Misread::Newer(_))));
    let (engine, mut ops) = (MemoryEngine::new(), Vec::new());
    put_ops(|chunk| Family::Record.key(Index(1), chunk).encode(), &newer, &mut ops);
    insert(&engine, ops);
    let opened = Machine::open(Arc::new(engine), founders());
    let Err(OpenError::Newer(why)) = opened else { panic!("{opened:?}") };
    assert!(why.contains("state record 1") && why.contains("QSR9"), "{why}");
}

//! What a compaction takes away and what it leaves, in memory, on the disk and in between.

use super::*;
use crate::proto::quorate::{CheckpointLeases, GrantLease, RevokeLease};
use crate::storage::key::{Key, get_value};

/// What a follower from `from` on hears: revision, key, and the value or that it is gone.
fn heard(store: &Store, from: i64) -> Vec<(i64, String, Option<String>)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let history = store.machine.view().history(Revision(from), usize::MAX).unwrap();
    let event =
        |event: &Event| (event.revision(), text(&event.kv.key), Some(text(&event.kv.value)).filter(|_| !event.deleted));
    history.events.iter().map(event).collect()
}

/// As after a restart: nothing is in memory that is not on the disk.
fn reopened(store: &Store) -> Store {
    Store::open(store.engine.clone())
}

fn grant(store: &mut Store, id: i64) {
    store.apply(command::Op::GrantLease(GrantLease { id, ttl: 60 })).unwrap();
}

fn records(store: &Store) -> usize {
    store.engine.len()
}

#[test]
fn readers_at_the_mark_and_followers_from_it_on_miss_nothing() {
    let mut store = Store::new();
    store.set("gone", "1"); // 2
    store.set("kept", "1"); // 3
    store.delete("gone", ""); // 4
    store.set("kept", "2"); // 5
    store.set("late", "1"); // 6
    store.delete("late", ""); // 7
    store.set("late", "2"); // 8
    store.write();
    store.compact(7);
    for _ in 0..2 {
        store.sweep_all();
        let at = |revision| names(&store.range(pb::RangeRequest { revision, ..range("a", "\0") }).unwrap().kvs);
        assert_eq!((at(7), at(8)), (vec!["kept".to_string()], vec!["kept".to_string(), "late".to_string()]));
        let refused = store.range(pb::RangeRequest { revision: 6, ..range("a", "\0") });
        assert_eq!(refused, Err(Error::Compacted { compacted: Revision(7) }));
        let events = [(7, "late".to_string(), None), (8, "late".to_string(), Some("2".to_string()))];
        assert_eq!(heard(&store, 7), events);
        let held = |key: &str, value: u64| key.len() as u64 + value + versions::VERSION_BYTES;
        assert_eq!(store.machine.view().held_bytes(), held("kept", 1) + held("late", 0) + held("late", 1));
        store = reopened(&store);
    }
}

#[test]
fn what_was_deleted_is_not_back_after_any_crash() {
    let mut store = Store::new();
    for key in ["a", "b", "c"] {
        store.set(key, "1");
        store.write();
    }
    store.delete("a", "\0");
    store.write();
    store.set("d", "1");
    store.compact(6);
    let before: Vec<Op> = ops_of(&store.engine);
    let mut writes = Vec::new();
    while store.machine.is_sweeping() {
        writes.extend(store.sweep());
    }
    assert!(writes.len() >= 4, "{writes:?}");
    for kept in 0..=writes.len() {
        let engine = MemoryEngine::new();
        insert(&engine, before.clone());
        insert(&engine, writes[..kept].to_vec());
        let again = Store::open(engine);
        assert_eq!(names(&again.range(range("a", "\0")).unwrap().kvs), ["d"], "after {kept} writes");
        assert_eq!(again.machine.digest(), store.machine.digest());
    }
}

#[test]
fn a_record_on_its_way_to_the_engine_is_rewritten_when_it_is_there() {
    let mut store = Store::new();
    store.set("a", "1");
    store.write();
    store.set("a", "2");
    store.set("a", "3");
    store.apply(command::Op::Compact(Compact { revision: 4 })).unwrap();
    let mut ops = Vec::new();
    store.machine.seal(&mut ops).unwrap();
    // Of both records something goes, and the second one is not in the engine.
    let run = (0..10).find_map(|_| store.machine.sweep(&mut ops).unwrap()).unwrap();
    insert(&store.engine, ops);
    store.machine.written(run);
    store.sweep_all();
    assert_eq!(names(&reopened(&store).range(range("a", "\0")).unwrap().kvs), ["a"]);
}

fn ops_of(engine: &MemoryEngine) -> Vec<Op> {
    let mut ops = Vec::new();
    let all = engine.scan(&[], &[0xff; 12], &mut |key, value| {
        ops.push(Op::Put(Bytes::copy_from_slice(key), value));
        ControlFlow::Continue(())
    });
    all.unwrap();
    ops
}

#[test]
fn a_value_stays_where_it_was_when_its_neighbours_go() {
    let mut store = Store::new();
    for (key, value) in [("a", "dead"), ("b", "dead"), ("c", "live"), ("d", "dead"), ("e", "live")] {
        store.set(key, value);
    }
    store.write();
    let whole = store.engine.size_on_disk();
    for key in ["a", "b", "d"] {
        store.set(key, "new");
    }
    store.write();
    let now = store.machine.view().revision().0;
    store.compact(now);
    let all = store.range(range("a", "\0"));
    store.sweep_all();
    let key_of = |chunk| Key::Record { first: Index(1), chunk }.encode();
    let record = get_value(&store.engine, key_of).unwrap().unwrap();
    assert!(record::value(&record, 0, b"a", 2).is_err() && record::value(&record, 2, b"c", 4).is_ok());
    assert!((record.len() as u64) < whole);
    assert_eq!(store.range(range("a", "\0")), all);
    assert_eq!(reopened(&store).range(range("a", "\0")), all);
}

#[test]
fn memory_and_disk_shrink_to_what_is_there() {
    let mut store = Store::new();
    for n in 0..1000 {
        store.set(&format!("k{}", n % 7), &"x".repeat(100));
        if n % 5 == 0 {
            store.write();
        }
    }
    store.write();
    let (bytes, held) = (store.engine.size_on_disk(), store.machine.view().held_bytes());
    assert!(records(&store) >= 200 && bytes > 100_000 && held > 150_000);
    store.compact(1001);
    store.sweep_all();
    assert_eq!(store.machine.swept(), Revision(1001));
    let (view, now) = (store.machine.view(), store.engine.size_on_disk());
    assert_eq!(view.held_bytes(), view.live_bytes());
    // Three with the newest versions, the mark's, the founders', and a husk between any two.
    assert!(records(&store) <= 8 && now < 3_000, "{} records, {now} bytes", records(&store));
    assert_eq!(view.dropped_versions(), 993);
    let again = reopened(&store);
    assert_eq!(again.machine.digest(), store.machine.digest());
    assert_eq!(again.range(range("a", "\0")), store.range(range("a", "\0")));
}

#[test]
fn a_deletion_of_many_keys_leaves_nothing_behind() {
    let mut store = Store::new();
    for n in 0..300 {
        store.set(&format!("k{n}"), &"x".repeat(1000));
        store.write();
    }
    assert_eq!(store.delete("k", "l").deleted, 300);
    store.set("z", "1");
    store.write();
    let now = store.machine.view().revision().0;
    store.compact(now);
    store.sweep_all();
    assert!(records(&store) <= 5, "{} records", records(&store));
    assert_eq!(reopened(&store).machine.view().held_bytes(), 2 + versions::VERSION_BYTES);
}

#[test]
fn a_large_record_is_rewritten_with_what_is_left_of_it() {
    let mut store = Store::new();
    let large = |letter: &str| letter.repeat(150_000);
    store.txn(all(vec![op_put("a", &large("a")), op_put("b", &large("b")), op_put("c", &large("c"))])).unwrap();
    store.write();
    assert_eq!(records(&store), 5, "450,000 bytes");
    for (key, left) in [("a", 4), ("c", 2), ("b", 1)] {
        store.set(key, "small");
        store.write();
        let now = store.machine.view().revision().0;
        store.compact(now);
        store.sweep_all();
        let slots = ops_of(&store.engine);
        let of_first = |op: &&Op| matches!(op, Op::Put(key, _) if key[..9] == record_key(1)[..9]);
        assert_eq!(slots.iter().filter(of_first).count(), left, "without {key}");
        let again = reopened(&store);
        assert_eq!(again.range(range("a", "\0")), store.range(range("a", "\0")));
    }
}

fn record_key(first: u64) -> Bytes {
    Key::Record { first: Index(first), chunk: 0 }.encode()
}

#[test]
fn a_lease_keeps_its_keys_when_its_grant_is_swept_away() {
    let mut store = Store::new();
    grant(&mut store, 7);
    grant(&mut store, 8);
    store.write();
    store.put(pb::PutRequest { lease: 7, ..put("a", "1") }).unwrap();
    store.put(pb::PutRequest { lease: 8, ..put("b", "1") }).unwrap();
    store.write();
    let leases = vec![pb::LeaseCheckpoint { id: 7, remaining_ttl: 30 }];
    store.apply(command::Op::CheckpointLeases(CheckpointLeases { leases, known: 9 })).unwrap();
    store.apply(command::Op::RevokeLease(RevokeLease { id: 8, term: 0, known: 0 })).unwrap();
    store.write();
    store.compact(4);
    store.sweep_all();
    let again = reopened(&store);
    let lease = again.machine.view().lease(7).unwrap();
    assert_eq!((lease.time.ttl, lease.time.remaining, lease.keys.len()), (60, 30, 1));
    assert_eq!(again.machine.view().lease(8), None);
    let key_of = |chunk| Key::Record { first: Index(1), chunk }.encode();
    let first = get_value(&store.engine, key_of).unwrap().unwrap();
    let mut grants = 0;
    let counted = record::read(&first, &mut { Digest::START }, &mut |effect, _| {
        grants += i32::from(matches!(effect, Effect::Lease { .. }));
        Ok(())
    });
    assert!(counted.is_ok() && grants == 0, "both are said elsewhere, or over");
}

#[test]
fn a_reader_that_a_compaction_overtakes_is_told_so() {
    let mut store = Store::new();
    store.set("a", "1");
    store.set("b", "1");
    store.write();
    let shared = Arc::clone(&store.machine.shared);
    let overtaken = range::Reader { shared: &shared, now: store.machine.view().revision().0 };
    store.set("a", "2");
    store.delete("b", "");
    store.write();
    let compacted = Err(Error::Compacted { compacted: Revision(5) });
    for sweep in [false, true] {
        match sweep {
            false => store.compact(5),
            true => store.sweep_all(),
        }
        for request in [range("a", ""), range("a", "\0"), pb::RangeRequest { count_only: true, ..range("a", "\0") }] {
            assert_eq!(overtaken.range(&request, &mut budget::Share::unlimited()), compacted, "{request:?}");
        }
    }
    assert_eq!(names(&store.range(range("a", "\0")).unwrap().kvs), ["a"]);
}

#[test]
fn readers_and_followers_beside_a_compaction_see_all_or_are_told() {
    // On threads of their own: a reader of everything now, and one that follows from its last revision on.
    let mut store = Store::new();
    for n in 0..40 {
        store.set(&format!("k{n:02}"), "0");
    }
    store.write();
    let view = store.machine.view();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                let found = view.range(&range("k", "l")).unwrap();
                let sum: i64 = found.kvs.iter().map(|kv| kv.version).sum();
                assert_eq!((found.kvs.len(), sum), (40, revision(&found.header) - 1), "a whole revision");
            }
        });
        let follower = scope.spawn(|| {
            let mut from = 42;
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                match view.history(Revision(from), 500) {
                    Ok(History { events, next }) => {
                        assert!(events.iter().map(Event::revision).eq(from..next.0), "none is missing");
                        from = next.0;
                    }
                    Err(Error::Compacted { compacted }) => from = compacted.0,
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        for n in 1..=3000i64 {
            store.set(&format!("k{:02}", n * 7 % 40), &n.to_string());
            store.write();
            if n % 50 == 0 {
                store.compact(40 + n);
            }
            store.sweep();
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        reader.join().unwrap();
        follower.join().unwrap();
    });
    store.sweep_all();
    assert!(records(&store) < 200, "{} records", records(&store));
}

#[test]
fn a_rewritten_record_that_rotted_is_refused() {
    let mut store = Store::new();
    store.set("a", "1");
    store.set("b", "1");
    store.write();
    store.set("a", "2");
    store.write();
    store.compact(4);
    store.sweep_all();
    let key_of = |chunk| Key::Record { first: Index(1), chunk }.encode();
    let record = get_value(&store.engine, key_of).unwrap().unwrap();
    assert!(record::header(&record).unwrap().rewritten);
    for byte in [8, 16, 24, 32, 40, 50, record.len() - 1] {
        // With the engine's checksums made anew, only the record's own can tell.
        let mut rotten = record.to_vec();
        rotten[byte] ^= 1;
        let engine = MemoryEngine::new();
        let mut ops = ops_of(&store.engine);
        put_ops(key_of, &rotten, &mut ops);
        insert(&engine, ops);
        let opened = Machine::open(Arc::new(engine), founders());
        assert!(matches!(opened, Err(OpenError::Corrupt(_))), "byte {byte}");
    }
}

#[test]
fn hashes_do_not_depend_on_how_far_a_compaction_has_come() {
    let (mut one, mut other) = (Store::new(), Store::new());
    for store in [&mut one, &mut other] {
        for n in 0..30 {
            store.set(&format!("k{}", n % 4), &n.to_string());
        }
        store.delete("k1", "");
        assert_eq!(store.machine.view().hash(Revision(0)).unwrap().compacted, Revision(-1));
    }
    let hash = |store: &Store, revision| store.machine.view().hash(Revision(revision));
    let whole = hash(&one, 20).unwrap();
    assert_eq!(hash(&other, 20), Ok(whole));
    one.write();
    for store in [&mut one, &mut other] {
        store.apply(command::Op::Compact(Compact { revision: 10 })).unwrap();
    }
    one.write();
    one.sweep_all();
    assert_eq!(one.machine.swept(), Revision(10));
    assert!(one.machine.view().held_bytes() < other.machine.view().held_bytes());
    for revision in [0, 10, 20, 32] {
        let found = hash(&one, revision).unwrap();
        assert_eq!(hash(&other, revision), Ok(found), "{revision}");
        assert_eq!(found.compacted, Revision(10));
    }
    assert_ne!(hash(&one, 20).unwrap().hash, whole.hash, "it is of less");
    assert_ne!(hash(&one, 20).unwrap().hash, hash(&one, 21).unwrap().hash);
    assert_eq!(hash(&one, 9), Err(Error::Compacted { compacted: Revision(10) }));
    assert_eq!(hash(&one, 33), Err(Error::FutureRevision));
    other.set("k0", "else");
    one.set("k0", "other");
    assert_eq!(hash(&one, 32), hash(&other, 32));
    assert_ne!(hash(&one, 33), hash(&other, 33), "a value differs");
}

#[test]
fn an_alarm_that_was_cleared_stays_so_after_a_sweep() {
    let mut store = Store::new();
    let alarm = |store: &mut Store, active, by_itself| {
        let set = SetAlarm { member_id: 1, alarm: 1, active, by_itself };
        store.apply(command::Op::Alarm(set)).unwrap();
        store.write();
    };
    store.set("a", "1");
    alarm(&mut store, true, true);
    assert_eq!(store.machine.view().short_of_space(MemberId(1)), Some(true));
    alarm(&mut store, true, false);
    alarm(&mut store, true, true);
    assert_eq!(store.machine.view().short_of_space(MemberId(1)), Some(false), "somebody asked for it since");
    alarm(&mut store, false, true);
    store.set("b", "1");
    store.compact(3);
    store.sweep_all();
    let mut again = reopened(&store);
    assert_eq!((again.machine.view().alarms(), again.machine.view().may_grow()), (vec![], true));
    alarm(&mut again, true, true);
    let now = revision(&again.delete("a", "").header);
    again.compact(now);
    again.sweep_all();
    assert_eq!(reopened(&again).machine.view().short_of_space(MemberId(1)), Some(true));
}

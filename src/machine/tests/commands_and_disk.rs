//! Members, alarms, and what lies on the disk.

use super::*;
use crate::storage::key::Key;

fn publish(store: &mut Store, id: u64, name: &str, disk: u64) {
    let client_urls = vec![format!("http://{name}:2379")];
    let publish = PublishMember { member_id: id, name: name.to_string(), client_urls, disk_id: disk };
    store.apply(command::Op::Publish(publish)).unwrap();
}

fn alarm(store: &mut Store, member_id: u64, alarm: pb::AlarmType, active: bool) {
    let set = SetAlarm { member_id, alarm: alarm as i32, active, by_itself: false };
    store.apply(command::Op::Alarm(set)).unwrap();
}

#[test]
fn the_first_disk_heard_of_stays() {
    let mut store = Store::new();
    publish(&mut store, 1, "one", 77);
    publish(&mut store, 1, "uno", 77);
    let members = store.machine.members();
    assert_eq!((members[0].name.as_str(), members[0].disk), ("uno", Some(DiskId(77))));
    assert_eq!(members[0].peer_urls, founders()[0].peer_urls);
    publish(&mut store, 1, "impostor", 78);
    publish(&mut store, 9, "stranger", 1);
    assert_eq!(store.machine.members(), members);
    assert_eq!(members[1], founders()[1]);
}

#[test]
fn no_space_stops_what_grows_until_every_alarm_is_cleared() {
    let mut store = Store::new();
    store.set("a", "1");
    alarm(&mut store, 1, pb::AlarmType::Nospace, true);
    alarm(&mut store, 2, pb::AlarmType::Nospace, true);
    alarm(&mut store, 2, pb::AlarmType::Corrupt, true);
    alarm(&mut store, 2, pb::AlarmType::None, true);
    alarm(&mut store, 1, pb::AlarmType::Nospace, false);
    let up = vec![(MemberId(2), pb::AlarmType::Nospace), (MemberId(2), pb::AlarmType::Corrupt)];
    assert_eq!(store.machine.view().alarms(), up);
    assert_eq!(store.put(pb::PutRequest { lease: 9, ..put("a", "2") }), Err(Error::NoSpace));
    let untaken = pb::TxnRequest { failure: vec![op_txn(all(vec![op_put("a", "2")]))], ..Default::default() };
    assert_eq!(store.txn(untaken), Err(Error::NoSpace));
    assert_eq!(store.delete("a", "").deleted, 1);
    assert!(store.txn(all(vec![op_delete("a", ""), op_range("a", "")])).is_ok());
    alarm(&mut store, 2, pb::AlarmType::Nospace, false);
    assert!(store.put(put("a", "2")).is_ok(), "a CORRUPT alarm stops nothing here");
}

#[test]
fn members_and_alarms_survive() {
    let mut store = Store::new();
    publish(&mut store, 2, "two", 5);
    alarm(&mut store, 1, pb::AlarmType::Nospace, true);
    store.write();
    let mut again = Store::open(store.engine.clone());
    assert_eq!(again.machine.members(), store.machine.members());
    assert_eq!(again.machine.view().alarms(), store.machine.view().alarms());
    assert_eq!(again.put(put("a", "1")), Err(Error::NoSpace));
}

#[test]
fn a_mistake_moves_the_position_and_the_digest_only() {
    let mut store = Store::new();
    let before = store.machine.digest();
    assert!(store.put(pb::PutRequest { lease: 9, ..put("a", "2") }).is_err());
    assert_eq!(store.machine.applied(), Position { index: Index(1), term: Term(1) });
    assert_ne!(store.machine.digest(), before);
    store.write();
    let again = Store::open(store.engine.clone());
    assert_eq!((again.machine.applied(), again.machine.digest()), (store.machine.applied(), store.machine.digest()));
}

#[test]
fn nothing_applied_is_nothing_to_write() {
    let mut store = Store::new();
    let mut ops = Vec::new();
    assert_eq!(store.machine.seal(&mut ops), None);
    store.set("a", "1");
    assert_eq!(store.machine.seal(&mut ops), Some(1));
    assert_eq!(store.machine.seal(&mut ops), None);
    store.set("a", "1");
    assert_eq!((store.machine.seal(&mut ops), ops.len()), (Some(2), 2));
}

#[test]
#[should_panic(expected = "entry 3@1 does not follow 1@1")]
fn a_gap_in_the_log_is_refused() {
    let mut store = Store::new();
    store.set("a", "1");
    let _ = store.machine.apply(Position { index: Index(3), term: Term(1) }, Content::Nothing);
}

#[test]
#[should_panic(expected = "entry 2@1 does not follow 1@2")]
fn a_term_that_decreases_is_refused() {
    let mut store = Store::new();
    store.machine.apply(Position { index: Index(1), term: Term(2) }, Content::Nothing).unwrap();
    store.set("a", "1");
}

#[test]
#[should_panic(expected = "run 1 can't be written")]
fn what_was_not_sealed_can_not_be_written() {
    let mut store = Store::new();
    store.set("a", "1");
    store.machine.written(1);
}

#[test]
fn effects_of_a_txn_are_numbered_within_its_revision() {
    let mut store = Store::new();
    store.set("x", "1");
    store.set("y", "1");
    store.write();
    store.txn(all(vec![op_put("a", "1"), op_delete("x", "z"), op_put("b", "1")])).unwrap();
    store.write();
    let key_of = |chunk| Family::Record.key(Index(3), chunk).encode();
    let bytes = crate::storage::key::get_value(&store.engine, key_of).unwrap().unwrap();
    let mut numbers = Vec::new();
    record::read(&bytes, &mut { Digest::START }, &mut |effect, _| {
        match effect {
            Effect::Put(put) => numbers.push((put.key.to_vec(), put.main, put.sub)),
            Effect::Delete { key, main, sub } => numbers.push((key.to_vec(), main, sub)),
            _ => {}
        }
        Ok(())
    })
    .unwrap();
    let expected = [("a", 4, 0), ("x", 4, 1), ("y", 4, 2), ("b", 4, 3)];
    assert_eq!(numbers, expected.map(|(key, main, sub)| (key.as_bytes().to_vec(), main, sub)));
}

#[test]
fn a_command_of_another_release_halts_the_member_before_it_changes_anything() {
    let mut store = Store::new();
    let at = Position { index: Index(1), term: Term(1) };
    for unknown in [&b"\xff\xff"[..], &b""[..]] {
        let outcome = store.machine.apply(at, Content::Command(&Bytes::from_static(unknown)));
        assert!(matches!(outcome, Err(Error::Disk(_) | Error::Newer(_))), "{outcome:?}");
    }
    assert_eq!(store.machine.applied(), Position::default());
}

#[test]
fn small_commands_share_a_record_and_large_ones_stand_alone() {
    let mut store = Store::new();
    for n in 0..100 {
        store.set(&format!("small{n:03}"), "0123456789");
    }
    let mut ops = Vec::new();
    store.machine.seal(&mut ops);
    assert_eq!(ops.len(), 2, "100 entries of some 100 bytes each");
    ops.clear();
    store.set("a", "1");
    store.set("large", &"x".repeat(250_000));
    store.set("b", "1");
    store.machine.seal(&mut ops);
    let keys: Vec<Key> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Put(key, _) => Key::decode(key),
            Op::Delete(_) => None,
        })
        .collect();
    let at = |first, chunk| Key::Record { first: Index(first), chunk };
    assert_eq!(keys, [at(101, 0), at(102, 2), at(102, 1), at(102, 0), at(103, 0)]);
}

#[test]
fn pending_bytes_fall_when_writes_return() {
    let mut store = Store::new();
    let idle = store.machine.pending_bytes();
    store.set("a", &"x".repeat(50_000));
    let mut ops = Vec::new();
    let run = store.machine.seal(&mut ops).unwrap();
    assert!(store.machine.pending_bytes() > 50_000);
    insert(&store.engine, ops);
    store.machine.written(run);
    assert!(store.machine.pending_bytes() <= idle);
}

/// A store on the disk with records of one slot and of three.
fn written() -> Store {
    let mut store = Store::new();
    store.set("a", "small");
    store.write();
    store.set("b", &"x".repeat(250_000));
    store.write();
    store.set("c", "small");
    store.write();
    store
}

fn record(first: u64, chunk: u16) -> Bytes {
    Key::Record { first: Index(first), chunk }.encode()
}

#[test]
fn rot_anywhere_is_seen_when_the_database_is_opened() {
    for (first, chunk, byte) in [(1, 0, 0), (1, 0, 20), (1, 0, 60), (2, 0, 90_000), (2, 1, 500), (2, 2, 3), (3, 0, 30)]
    {
        let store = written();
        store.engine.flip(&record(first, chunk), byte, 0x10);
        let opened = Machine::open(Arc::new(store.engine.clone()), founders());
        assert!(matches!(opened, Err(OpenError::Corrupt(_))), "{first}/{chunk}:{byte} {opened:?}");
    }
}

#[test]
fn rot_is_seen_when_a_value_is_read() {
    let mut store = written();
    store.engine.flip(&record(1, 0), 200, 0x01);
    store.engine.flip(&record(2, 1), 1000, 0x80);
    for key in ["a", "b"] {
        assert!(matches!(store.range(range(key, "")), Err(Error::Disk(_))));
        assert!(matches!(store.put(pb::PutRequest { prev_kv: true, ..put(key, "") }), Err(Error::Disk(_))));
    }
    assert_eq!(store.get("c").unwrap().value, b("small"));
}

#[test]
fn a_lost_record_in_the_middle_is_refused_with_a_sentence() {
    let store = written();
    for chunk in 0..3 {
        store.engine.delete(&record(2, chunk)).unwrap();
    }
    match Machine::open(Arc::new(store.engine.clone()), founders()) {
        Err(OpenError::Corrupt(why)) => assert!(why.contains("record 3") && why.contains("entry 1"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_moved_to_another_index_is_refused() {
    let mut store = Store::new();
    store.set("a", "1");
    let mut ops = Vec::new();
    store.machine.seal(&mut ops);
    let Op::Put(_, slot) = &ops[0] else { panic!() };
    let whole = slot.slice(crate::storage::key::SLOT_HEADER..);
    let mut moved = Vec::new();
    put_ops(|chunk| Family::Record.key(Index(2), chunk).encode(), &whole, &mut moved);
    let engine = MemoryEngine::new();
    insert(&engine, moved);
    assert!(matches!(Machine::open(Arc::new(engine), founders()), Err(OpenError::Corrupt(_))));
}

/// Opens a database of one record with these effects, as if the first entry had them; `spoil` changes its digest.
fn open_forged(effects: &[Effect<'_>], spoil: u64) -> Result<Machine, OpenError> {
    let (mut builder, mut digest) = (Builder::new(Index(1)), Digest::START);
    for effect in effects {
        builder.push(effect, &mut digest);
    }
    let record = builder.close(Digest(digest.0 ^ spoil));
    let engine = MemoryEngine::new();
    let mut ops = Vec::new();
    put_ops(|chunk| Family::Record.key(Index(1), chunk).encode(), &record, &mut ops);
    insert(&engine, ops);
    Machine::open(Arc::new(engine), founders())
}

#[test]
fn a_history_that_never_was_is_refused_whatever_its_checksums_say() {
    let refused = |effects: &[Effect<'_>], spoil: u64, word: &str| match open_forged(effects, spoil) {
        Err(OpenError::Corrupt(why)) => assert!(why.contains(word), "{why}"),
        other => panic!("{other:?}"),
    };
    let applied = |index| Effect::Applied(Position { index: Index(index), term: Term(1) });
    let delete = |main| Effect::Delete { key: b"k", main, sub: 0 };
    assert!(open_forged(&[delete(2), applied(1)], 0).is_ok());
    refused(&[delete(2), applied(1)], 1, "its head says");
    refused(&[delete(3), applied(1)], 0, "revision 3 does not follow 1");
    refused(&[delete(2), applied(2)], 0, "entry 2@1 does not follow 0@0");
    refused(&[delete(2), applied(1), applied(3)], 0, "entry 3@1 does not follow 1@1");
    refused(&[Effect::Member(b"rubbish"), applied(1)], 0, "member");
}

#[test]
fn slots_of_a_record_that_never_became_whole_are_swept_up() {
    let mut store = Store::new();
    store.set("b", &"x".repeat(250_000));
    let mut ops = Vec::new();
    store.machine.seal(&mut ops);
    ops.pop();
    assert_eq!(ops.len(), 2);
    insert(&store.engine, ops);
    let again = Store::open(store.engine.clone());
    assert!(again.machine.applied() == Position::default() && again.engine.is_empty());
}

#[test]
fn readers_see_whole_commands_only() {
    // Readers on threads of their own, while pairs are written in one txn and the tail comes and goes.
    let mut store = Store::new();
    let view = store.machine.view();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                let response = view.range(&range("x", "z")).unwrap();
                let at = revision(&response.header);
                assert!(at >= seen);
                seen = at;
                assert_eq!(response.kvs.len(), if at == 1 { 0 } else { 2 });
                for kv in &response.kvs {
                    assert_eq!((kv.mod_revision, kv.value.clone()), (at, b(&(at - 1).to_string())));
                }
            }
        });
        for n in 1..=2000 {
            let value = n.to_string();
            store.txn(all(vec![op_put("x", &value), op_put("y", &value)])).unwrap();
            if n % 3 == 0 {
                store.write();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        reader.join().unwrap();
    });
}

#[test]
fn the_format_is_frozen() {
    // Digests are compared between members of different releases: the bytes of an effect never change.
    let mut store = Store::new();
    publish(&mut store, 1, "one", 77);
    store.set("a", "1");
    store.delete("a", "");
    alarm(&mut store, 1, pb::AlarmType::Nospace, true);
    assert_eq!(format!("{:016x}", store.machine.digest()), "1da95b21d8b90616");
}

//! Snapshots: what is written is what was there, and nothing that is damaged is taken for it.

use super::*;
use crate::ids::ClusterId;
use crate::proto::quorate::{GrantLease, RevokeLease};
use sha2::{Digest as _, Sha256};

const BLOB: usize = 32 << 10;
const SUM: usize = 32;

/// Reads a snapshot to its end: all its bytes.
fn finish(mut snapshot: Snapshot) -> Result<Vec<u8>, Error> {
    let (mut all, mut left) = (Vec::new(), None);
    loop {
        match snapshot.step()? {
            Portion::Measured => assert_eq!(left, None, "measured first"),
            Portion::Blob { blob, remaining } => {
                assert!(blob.len() == BLOB || (remaining == 0 && !blob.is_empty()), "{}", blob.len());
                let promised: u64 = *left.get_or_insert(remaining + blob.len() as u64);
                assert_eq!(promised, remaining + blob.len() as u64);
                left = Some(remaining);
                all.extend_from_slice(&blob);
            }
            Portion::Sum(sum) => {
                assert_eq!(left, Some(0));
                assert_eq!(sum[..], Sha256::digest(&all)[..]);
                all.extend_from_slice(&sum);
                assert_eq!(all.len() % 512, SUM);
                return Ok(all);
            }
        }
    }
}

pub(super) fn taken(store: &Store) -> Vec<u8> {
    finish(store.machine.view().snapshot(ClusterId(7))).unwrap()
}

/// What is in a snapshot that comes in pieces of `length` bytes.
pub(super) fn read(bytes: &[u8], length: usize) -> Result<(Vec<Item>, Contents), SnapshotError> {
    let (mut reader, mut items) = (SnapshotReader::default(), Vec::new());
    for piece in bytes.chunks(length) {
        reader.push(piece, &mut |item, _| items.push(item))?;
    }
    let (head, contents) = reader.finish()?;
    assert_eq!(items[0], Item::Head(head));
    Ok((items, contents))
}

/// What there is now.
fn expected(store: &Store) -> Vec<Item> {
    let view = store.machine.view();
    let (revision, compacted, applied) = (view.revision(), view.compacted(), store.machine.applied());
    let head = Head { cluster: ClusterId(7), revision, compacted, applied, level: view.level() };
    let members = view.members().into_iter().map(Item::Member);
    let leases = view.leases().into_iter().map(|(id, time)| Item::Lease(id, time));
    let all =
        pb::RangeRequest { key: Bytes::from_static(&[0]), range_end: Bytes::from_static(&[0]), ..Default::default() };
    let pairs = store.range(all).unwrap().kvs.into_iter().map(Item::Pair);
    [Item::Head(head)].into_iter().chain(members).chain(leases).chain(pairs).collect()
}

/// Keys of several versions, deleted ones and owned ones, large and empty values.
pub(super) fn filled() -> Store {
    let mut store = Store::new();
    for id in [5, 3, 4] {
        store.apply(command::Op::GrantLease(GrantLease { id, ttl: 60 + id })).unwrap();
        store.put(pb::PutRequest { lease: id, ..put(&format!("owned{id}"), "mine") }).unwrap();
    }
    store.set("twice", "1");
    store.set("twice", "2");
    store.set("gone", "1");
    store.delete("gone", "");
    store.set("empty", "");
    store.apply(command::Op::RevokeLease(RevokeLease { id: 4, ..Default::default() })).unwrap();
    store
}

#[test]
fn what_is_read_is_what_was_there() {
    let mut store = Store::new();
    assert_eq!(read(&taken(&store), 1).unwrap().0, expected(&store), "a store without keys");
    store = filled();
    assert_eq!(read(&taken(&store), 1).unwrap().0, expected(&store));
    for n in 0..3000 {
        store.set(&format!("many{n:05}"), &"v".repeat(n % 100));
    }
    store.set("large", &"x".repeat(200_000));
    store.write();
    store.set("unwritten", "in memory");
    store.compact(20);
    let now = expected(&store);
    let snapshot = store.machine.view().snapshot(ClusterId(7));
    // What comes later is not in it.
    store.set("twice", "3");
    store.delete("empty", "");
    store.set("zz", "new");
    for id in 6..9 {
        store.apply(command::Op::GrantLease(GrantLease { id, ttl: 60 })).unwrap();
    }
    store.apply(command::Op::RevokeLease(RevokeLease { id: 3, ..Default::default() })).unwrap();
    let bytes = finish(snapshot).unwrap();
    let whole = read(&bytes, usize::MAX).unwrap();
    assert_eq!(whole, (now, Contents { members: 2, leases: 2, keys: 3006 }));
    assert_eq!(read(&bytes, 1000).unwrap(), whole);
    assert_ne!(read(&taken(&store), 1000).unwrap(), whole);
}

/// Also with a sum that fits: each byte is checked where it stands.
#[test]
fn no_byte_can_be_another_one_or_missing() {
    let bytes = taken(&filled());
    let end = bytes.len() - SUM;
    assert!(read(&bytes, usize::MAX).is_ok() && end >= 1024);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(read(&flipped, 100).is_err(), "bit {bit} of byte {at}");
            if at < end {
                let sum = Sha256::digest(&flipped[..end]);
                flipped[end..].copy_from_slice(&sum);
                assert!(read(&flipped, 100).is_err(), "bit {bit} of byte {at}, and a sum that fits");
            }
        }
        assert!(read(&bytes[..at], 100).is_err(), "{at} bytes of {}", bytes.len());
    }
    let damage = read(&[&bytes[..], b"x"].concat(), usize::MAX).unwrap_err();
    assert_eq!(
        damage.to_string(),
        format!("the snapshot is damaged at byte {}: there is something after its end", bytes.len())
    );
    let newer = [&bytes[..8], &[3], &bytes[9..]].concat();
    let why = "its format is 3, and this release reads 1 to 2".to_string();
    assert_eq!(read(&newer, usize::MAX).unwrap_err(), SnapshotError::Newer(why));
}

/// A damaged length makes nobody wait for the bytes that it speaks of, where it is known that they can't come.
#[test]
fn no_frame_is_longer_than_what_is_left() {
    let bytes = taken(&filled());
    let mut flipped = bytes.clone();
    flipped[15] ^= 0x80;
    let mut reader = SnapshotReader::of_length(bytes.len() as u64);
    let why = format!("it ends {} bytes later, before its end", bytes.len() - 12);
    let refused = reader.push(&flipped[..100], &mut |_, _| panic!("nothing was verified"));
    assert_eq!(refused, Err(SnapshotError::Damaged { at: 12, why }));
}

#[test]
fn frames_in_another_order_are_no_snapshot() {
    let bytes = taken(&filled());
    let mut frames = vec![&bytes[..12]];
    let mut at = 12;
    loop {
        let length = 8 + u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        frames.push(&bytes[at..at + length]);
        at += length;
        if bytes[at - length + 8] == 255 {
            break;
        }
    }
    let written = |frames: &[&[u8]]| {
        let mut all = frames[0].to_vec();
        let mut sum = crate::checksum::crc(&all);
        for frame in &frames[1..] {
            sum = crate::checksum::crc_append(crate::checksum::crc_append(sum, &frame[..4]), &frame[8..]);
            all.extend_from_slice(&[&frame[..4], &sum.to_le_bytes()[..], &frame[8..]].concat());
        }
        all.resize(all.len().next_multiple_of(512), 0);
        let sum = Sha256::digest(&all);
        [&all[..], &sum[..]].concat()
    };
    assert!(written(&frames) == bytes);
    // preface, head, two members, two leases, keys, end
    for at in 1..frames.len() - 1 {
        let mut swapped = frames.clone();
        swapped.swap(at, at + 1);
        assert!(read(&written(&swapped), usize::MAX).is_err(), "frames {at} and the next");
        let mut doubled = frames.clone();
        doubled.insert(at, frames[at]);
        assert!(read(&written(&doubled), usize::MAX).is_err(), "frame {at} twice");
        frames_without(&frames, at, &written);
    }
}

fn frames_without(frames: &[&[u8]], at: usize, written: &dyn Fn(&[&[u8]]) -> Vec<u8>) {
    let mut short = frames.to_vec();
    short.remove(at);
    assert!(read(&written(&short), usize::MAX).is_err(), "without frame {at}");
}

#[test]
fn a_compaction_that_overtakes_it_ends_it() {
    for steps in 0..6 {
        let mut store = Store::new();
        for n in 0..3000 {
            store.set(&format!("k{n:04}"), "v");
        }
        store.write();
        let mut snapshot = store.machine.view().snapshot(ClusterId(7));
        let now = snapshot.revision().0;
        for _ in 0..steps {
            snapshot.step().unwrap();
        }
        store.delete("k", "l");
        store.write();
        // Its own revision may still be read.
        store.compact(now);
        store.sweep_all();
        assert_ne!(snapshot.step().unwrap(), Portion::Sum(Bytes::new()), "{steps}");
        store.compact(now + 1);
        store.sweep_all();
        assert_eq!(finish(snapshot), Err(Error::Compacted { compacted: Revision(now + 1) }), "{steps}");
    }
}

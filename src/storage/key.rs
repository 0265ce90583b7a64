//! Every key that is ever persisted, and how a value longer than one slot is stored.
//!
//! [`Key`] names all keys of both databases in one closed enum. Its first byte on the disk is a frozen ordinal: an ordinal
//! is never used again for another meaning, and a new key gets a new one. Numbers follow in big-endian, so the engine's
//! byte order is the order of indexes and a log is one ascending scan.
//!
//! # Slots
//!
//! A value is stored in slots of at most [`MAX_VALUE`] bytes of it each (sled would move larger items into files that it
//! never syncs; `sled.rs` has the arithmetic). A slot begins with a header:
//!
//! ```text
//! head  u32  CRC-32C over the slot's key and the rest of the header
//! whole u32  CRC-32C over the whole value
//! chunk u16  which slot of the value, from 0
//! total u16  how many there are, from 1
//! ```
//!
//! All little-endian, then the bytes. `whole` is the same in all slots of a value, so slots of two writes are never taken
//! for one value, and every byte of a value is summed once. `head` covers the key: a value that was stored under one key
//! and is found under another is rot.
//!
//! The durability law (see [`super`]) promises order, not groups. So **slot 0 is written last and deleted first**: if slot
//! 0 is there, all are. Slots without their slot 0 are what a crash left of a value that never was: readers skip them, and
//! [`scan_values`] returns the deletes that sweep them up. A value of several slots is deleted before another one is
//! written over it, or replaced ([`replace_ops`]): the new one's later slots go where the old one's are not, in the other half
//! of the numbers; then its slot 0 takes the old one's place, and says in its `chunk` which half (0 or [`UPPER`]) the others are
//! in. So a crash leaves the old value or the new one, whole, and slots that belong to neither.
//!
//! May not know: what values mean. Absent: compression, variable-length numbers.

use super::{Engine, Fault, Op};
use crate::checksum::{crc, crc_append};
use crate::ids::Index;
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::ControlFlow;

/// The bytes of a value that one slot takes. 17 slots of 96 KiB fit into a quarter of an 8 MiB segment (`sled.rs`).
pub const MAX_VALUE: usize = 96 * 1024;

/// Bytes of a slot's header.
pub const SLOT_HEADER: usize = 12;

/// Where the upper half of the numbers of slots begins: a value's later slots are `1..` or `UPPER + 1..`.
const UPPER: u16 = 1 << 15;

/// Where the slots of a value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// 0 or [`UPPER`].
    base: u16,
    total: u16,
}

impl Layout {
    /// Of a value of one slot.
    pub const ONE: Layout = Layout { base: 0, total: 1 };

    /// How many there are.
    pub fn slots(self) -> u16 {
        self.total
    }

    /// The number of the slot at `place`, from 0.
    fn chunk(self, place: u16) -> u16 {
        if place == 0 { 0 } else { self.base + place }
    }
}

/// A persisted key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Either database: written when it is opened, to see that a sync reaches the disk. Means nothing.
    Probe,
    /// Either database: the [`crate::ids::DiskId`] of the directory it was made in.
    Disk,
    /// `raft/`: term and vote.
    HardState,
    /// `raft/`: how many lives the member has begun.
    Incarnation,
    /// `raft/`: the packed entries from `first` on.
    Log {
        /// The record's first entry.
        first: Index,
        /// Which slot of it.
        chunk: u16,
    },
    /// `raft/`: after which entry an empty log begins, where that is not index 0.
    LogStart,
    /// `raft/`: who belonged to the cluster where the log begins.
    Configuration,
    /// `state/`: the packed effects of the entries from `first` on.
    Record {
        /// The first entry of the run.
        first: Index,
        /// Which slot of it.
        chunk: u16,
    },
    /// `state/`: how far the raft log had been acknowledged at the last sync.
    AckedMark,
    /// `state/`: up to which entry this state was taken over from another member.
    Adopted,
    /// `state/`: there is none, because the one that was here differed from a quorum's.
    Quarantine,
}

/// The two kinds of records that are numbered by the index of their first entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// [`Key::Log`].
    Log,
    /// [`Key::Record`].
    Record,
}

impl Family {
    /// The key of a slot.
    pub fn key(self, first: Index, chunk: u16) -> Key {
        match self {
            Family::Log => Key::Log { first, chunk },
            Family::Record => Key::Record { first, chunk },
        }
    }

    /// A key above all keys of the family.
    fn end(self) -> [u8; 1] {
        [self.key(Index(0), 0).ordinal() + 1]
    }
}

impl Key {
    /// Bytes of a numbered key.
    const NUMBERED: usize = 11;

    /// The frozen first byte.
    fn ordinal(self) -> u8 {
        match self {
            Key::Probe => 0x00,
            Key::Disk => 0x01,
            Key::HardState => 0x10,
            Key::Incarnation => 0x11,
            Key::Log { .. } => 0x12,
            Key::LogStart => 0x13,
            Key::Configuration => 0x14,
            Key::Record { .. } => 0x20,
            Key::AckedMark => 0x22,
            Key::Adopted => 0x23,
            Key::Quarantine => 0x24,
        }
    }

    /// As it stands on the disk.
    pub fn encode(self) -> Bytes {
        match self {
            Key::Log { first, chunk } | Key::Record { first, chunk } => {
                let mut out = [self.ordinal(); Key::NUMBERED];
                out[1..9].copy_from_slice(&first.0.to_be_bytes());
                out[9..].copy_from_slice(&chunk.to_be_bytes());
                Bytes::copy_from_slice(&out)
            }
            Key::Probe
            | Key::Disk
            | Key::HardState
            | Key::Incarnation
            | Key::LogStart
            | Key::Configuration
            | Key::AckedMark
            | Key::Adopted
            | Key::Quarantine => Bytes::copy_from_slice(&[self.ordinal()]),
        }
    }

    /// Reads what [`Key::encode`] wrote; `None` if it didn't.
    pub fn decode(bytes: &[u8]) -> Option<Key> {
        let (ordinal, rest) = bytes.split_first()?;
        if rest.is_empty() {
            let plain = [
                Key::Probe,
                Key::Disk,
                Key::HardState,
                Key::Incarnation,
                Key::LogStart,
                Key::Configuration,
                Key::AckedMark,
                Key::Adopted,
                Key::Quarantine,
            ];
            return plain.into_iter().find(|key| key.ordinal() == *ordinal);
        }
        let first = Index(u64::from_be_bytes(rest.get(..8)?.try_into().ok()?));
        let chunk = u16::from_be_bytes(rest.get(8..)?.try_into().ok()?);
        [Key::Log { first, chunk }, Key::Record { first, chunk }].into_iter().find(|key| key.ordinal() == *ordinal)
    }
}

/// Why a value can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The disk failed.
    Fault(Fault),
    /// What is there is not what was written.
    Rot {
        /// Where; `None` if the key itself makes no sense.
        key: Option<Key>,
        /// How it shows.
        why: &'static str,
    },
}

impl From<Fault> for Unreadable {
    fn from(fault: Fault) -> Unreadable {
        Unreadable::Fault(fault)
    }
}

impl From<Unreadable> for Fault {
    fn from(unreadable: Unreadable) -> Fault {
        match unreadable {
            Unreadable::Fault(fault) => fault,
            Unreadable::Rot { key: Some(key), why } => {
                Fault { what: format!("reading {key:?}"), why: format!("the disk holds something else: {why}") }
            }
            Unreadable::Rot { key: None, why } => Fault { what: "reading a database".into(), why: why.into() },
        }
    }
}

/// How many slots a value of `bytes` takes.
///
/// # Panics
/// If it is more than 3 GiB, which every limit on requests rules out.
pub fn slots(bytes: usize) -> u16 {
    let slots = u16::try_from(bytes.div_ceil(MAX_VALUE).max(1)).ok();
    slots.filter(|slots| *slots < UPPER).expect("a value has fewer than 32,768 slots")
}

/// Appends the writes that store `value` under the keys `key_of(0..)`, slot 0 last. Over a value of several slots only
/// after [`delete_ops`]; a value of one slot may be overwritten by a value of one slot.
pub fn put_ops(key_of: impl Fn(u16) -> Bytes, value: &[u8], ops: &mut Vec<Op>) {
    put_slots(key_of, Layout { base: 0, total: slots(value.len()) }, value, ops);
}

/// Appends the writes that put `value` in the place of one that is laid out as `old`: whatever prefix of them is carried out,
/// one of the two is there, whole.
pub fn replace_ops(key_of: impl Fn(u16) -> Bytes, old: Layout, value: &[u8], ops: &mut Vec<Op>) {
    let base = if old.total > 1 && old.base == 0 { UPPER } else { 0 };
    put_slots(&key_of, Layout { base, total: slots(value.len()) }, value, ops);
    ops.extend((1..old.total).map(|place| Op::Delete(key_of(old.chunk(place)))));
}

/// Appends the writes that remove a value that is laid out like this, slot 0 first.
pub fn remove_ops(key_of: impl Fn(u16) -> Bytes, layout: Layout, ops: &mut Vec<Op>) {
    ops.extend((0..layout.total).map(|place| Op::Delete(key_of(layout.chunk(place)))));
}

fn put_slots(key_of: impl Fn(u16) -> Bytes, layout: Layout, value: &[u8], ops: &mut Vec<Op>) {
    let total = layout.total;
    let whole = crc(value);
    for place in (0..total).rev() {
        let from = usize::from(place) * MAX_VALUE;
        let part = &value[from..value.len().min(from + MAX_VALUE)];
        let key = key_of(layout.chunk(place));
        let chunk = layout.base + place;
        let mut slot = BytesMut::with_capacity(SLOT_HEADER + part.len());
        slot.put_u32_le(head(&key, whole, chunk, total));
        slot.put_u32_le(whole);
        slot.put_u16_le(chunk);
        slot.put_u16_le(total);
        slot.put_slice(part);
        ops.push(Op::Put(key, slot.freeze()));
    }
}

/// Appends the writes that remove a value of `total` slots, slot 0 first.
pub fn delete_ops(key_of: impl Fn(u16) -> Bytes, total: u16, ops: &mut Vec<Op>) {
    ops.extend((0..total).map(|chunk| Op::Delete(key_of(chunk))));
}

/// The value stored under the keys `key_of(0..)`, whole and sound. Safe beside a writer that deletes or replaces it
/// meanwhile: then it is the old value, the new one, or nothing.
///
/// # Errors
/// The disk failed, or the value is not what was written.
pub fn get_value(engine: &dyn Engine, key_of: impl Fn(u16) -> Bytes) -> Result<Option<Bytes>, Unreadable> {
    Ok(get_laid_out(engine, key_of)?.map(|(value, _)| value))
}

/// As [`get_value`], with where its slots are.
///
/// # Errors
/// As [`get_value`].
pub fn get_laid_out(engine: &dyn Engine, key_of: impl Fn(u16) -> Bytes) -> Result<Option<(Bytes, Layout)>, Unreadable> {
    let mut key = key_of(0);
    let Some(mut found) = engine.get(&key)? else { return Ok(None) };
    'again: loop {
        let mut value = Assembly::begin(&key, found.clone())?;
        while !value.is_whole() {
            key = key_of(value.next);
            let part = engine.get(&key)?;
            if let Some(part) = part
                && value.push(&key, part).is_ok()
            {
                continue;
            }
            // Deleted under our eyes? Then slot 0 went first.
            key = key_of(0);
            match engine.get(&key)? {
                None => return Ok(None),
                Some(now) if now != found => {
                    found = now;
                    continue 'again;
                }
                Some(_) => {
                    return Err(rot(&key_of(value.next), "a slot of a whole value is missing or of another write"));
                }
            }
        }
        let layout = value.layout;
        return value.finish(&key).map(|value| Some((value, layout)));
    }
}

/// Visits the values of a family from `from` on, whole and sound, in ascending order, with the index of their first entry
/// and where their slots are. Returns deletes for slots of values that never became whole: to be executed before anything
/// else is written to the family.
///
/// Only for the family's one writer: a value that is deleted while the scan runs would look torn.
///
/// # Errors
/// The disk failed, or something there is not what was written.
pub fn scan_values(
    engine: &dyn Engine,
    family: Family,
    from: Index,
    visit: &mut dyn FnMut(Index, Layout, Bytes) -> ControlFlow<()>,
) -> Result<Vec<Op>, Unreadable> {
    let mut orphans = Vec::new();
    let mut open: Option<(Index, Assembly)> = None;
    let mut outcome = Ok(());
    engine.scan(&family.key(from, 0).encode(), &family.end(), &mut |key, slot| match take_slot(
        &mut open,
        &mut orphans,
        key,
        slot,
    ) {
        Ok(None) => ControlFlow::Continue(()),
        Ok(Some((first, layout, value))) => visit(first, layout, value),
        Err(error) => {
            outcome = Err(error);
            ControlFlow::Break(())
        }
    })?;
    outcome?;
    match open {
        Some((first, torn)) if !torn.is_whole() => {
            Err(Unreadable::Rot { key: Some(family.key(first, torn.next)), why: "a slot of a whole value is missing" })
        }
        _ => Ok(orphans),
    }
}

/// One step of [`scan_values`]: the value that `slot` completes, if it does.
fn take_slot(
    open: &mut Option<(Index, Assembly)>,
    orphans: &mut Vec<Op>,
    key: &[u8],
    slot: Bytes,
) -> Result<Option<(Index, Layout, Bytes)>, Unreadable> {
    let (first, chunk) = match Key::decode(key) {
        Some(Key::Log { first, chunk } | Key::Record { first, chunk }) => (first, chunk),
        _ => return Err(Unreadable::Rot { key: None, why: "a key that was never written stands among the records" }),
    };
    if chunk == 0 {
        if open.as_ref().is_some_and(|(_, before)| !before.is_whole()) {
            return Err(rot(key, "the value before it lacks a slot"));
        }
        let value = Assembly::begin(key, slot)?;
        *open = Some((first, value));
    } else {
        match open.as_mut() {
            Some((of, value)) if *of == first && !value.is_whole() && chunk >= value.next => value.push(key, slot)?,
            // In the half that the value is not in, past the end of a whole value, or without a slot 0: of another value,
            // which never became whole or was replaced.
            _ => {
                orphans.push(Op::Delete(Bytes::copy_from_slice(key)));
                return Ok(None);
            }
        }
    }
    match open.as_mut() {
        Some((_, value)) if value.is_whole() => {
            let layout = value.layout;
            Ok(Some((first, layout, value.finish(key)?)))
        }
        _ => Ok(None),
    }
}

fn head(key: &[u8], whole: u32, chunk: u16, total: u16) -> u32 {
    let mut rest = [0; SLOT_HEADER - 4];
    rest[..4].copy_from_slice(&whole.to_le_bytes());
    rest[4..6].copy_from_slice(&chunk.to_le_bytes());
    rest[6..].copy_from_slice(&total.to_le_bytes());
    crc_append(crc(key), &rest)
}

fn rot(key: &[u8], why: &'static str) -> Unreadable {
    Unreadable::Rot { key: Key::decode(key), why }
}

/// A value being put together from its slots, in order.
struct Assembly {
    whole: u32,
    layout: Layout,
    /// The number of the next slot.
    next: u16,
    parts: Parts,
}

enum Parts {
    /// The only slot: no copy.
    One(Bytes),
    Many(BytesMut),
}

impl Assembly {
    fn begin(key: &[u8], slot: Bytes) -> Result<Assembly, Unreadable> {
        let (whole, base, total) = Assembly::check(key, &slot)?;
        if base != 0 && base != UPPER {
            return Err(rot(key, "its header makes no sense"));
        }
        let part = slot.slice(SLOT_HEADER..);
        let parts = if total == 1 {
            Parts::One(part)
        } else {
            let mut many = BytesMut::with_capacity(usize::from(total) * MAX_VALUE);
            many.put_slice(&part);
            Parts::Many(many)
        };
        Ok(Assembly { whole, layout: Layout { base, total }, next: base + 1, parts })
    }

    fn push(&mut self, key: &[u8], slot: Bytes) -> Result<(), Unreadable> {
        if Assembly::check(key, &slot)? != (self.whole, self.next, self.layout.total) {
            return Err(rot(key, "a slot belongs to another write"));
        }
        match &mut self.parts {
            Parts::Many(many) => many.put_slice(&slot[SLOT_HEADER..]),
            Parts::One(_) => unreachable!("a value of one slot takes no second one"),
        }
        self.next += 1;
        Ok(())
    }

    /// The header's `whole`, `chunk` and `total`.
    fn check(key: &[u8], slot: &[u8]) -> Result<(u32, u16, u16), Unreadable> {
        let Some((header, _)) = slot.split_first_chunk::<SLOT_HEADER>() else {
            return Err(rot(key, "shorter than a header"));
        };
        let [h0, h1, h2, h3, w0, w1, w2, w3, c0, c1, t0, t1] = *header;
        let whole = u32::from_le_bytes([w0, w1, w2, w3]);
        let (chunk, total) = (u16::from_le_bytes([c0, c1]), u16::from_le_bytes([t0, t1]));
        let place = chunk % UPPER;
        if head(key, whole, chunk, total) != u32::from_le_bytes([h0, h1, h2, h3]) || place >= total || total >= UPPER {
            return Err(rot(key, "its header's checksum is wrong"));
        }
        Ok((whole, chunk, total))
    }

    fn is_whole(&self) -> bool {
        self.next == self.layout.base + self.layout.total
    }

    /// The value, once whole. Leaves an empty one behind.
    fn finish(&mut self, key: &[u8]) -> Result<Bytes, Unreadable> {
        let value = match std::mem::replace(&mut self.parts, Parts::One(Bytes::new())) {
            Parts::One(one) => one,
            Parts::Many(many) => many.freeze(),
        };
        if crc(&value) == self.whole { Ok(value) } else { Err(rot(key, "the value's checksum is wrong")) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryEngine;
    use super::*;

    fn log_key(first: u64) -> impl Fn(u16) -> Bytes {
        move |chunk| Family::Log.key(Index(first), chunk).encode()
    }

    fn write(engine: &MemoryEngine, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Put(key, value) => engine.put(key, value).unwrap(),
                Op::Delete(key) => engine.delete(key).unwrap(),
            }
        }
    }

    fn put(engine: &MemoryEngine, first: u64, value: &[u8]) {
        let mut ops = Vec::new();
        put_ops(log_key(first), value, &mut ops);
        write(engine, &ops);
    }

    type Scanned = (Vec<(u64, Bytes)>, Vec<Op>);

    fn scanned(engine: &MemoryEngine) -> Result<Scanned, Unreadable> {
        let mut found = Vec::new();
        let orphans = scan_values(engine, Family::Log, Index(0), &mut |first, total, value| {
            assert_eq!(total.slots(), slots(value.len()));
            found.push((first.0, value));
            ControlFlow::Continue(())
        })?;
        Ok((found, orphans))
    }

    fn big(seed: u8) -> Vec<u8> {
        (0..2 * MAX_VALUE + 5).map(|i| seed ^ (i % 251) as u8).collect()
    }

    #[test]
    fn keys_are_frozen() {
        let (first, chunk) = (Index(0x0102_0304_0506_0708), 0x090a);
        let frozen: [(Key, &[u8]); 11] = [
            (Key::Probe, b"\x00"),
            (Key::Disk, b"\x01"),
            (Key::HardState, b"\x10"),
            (Key::Incarnation, b"\x11"),
            (Key::Log { first, chunk }, b"\x12\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a"),
            (Key::Record { first, chunk }, b"\x20\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a"),
            (Key::LogStart, b"\x13"),
            (Key::Configuration, b"\x14"),
            (Key::AckedMark, b"\x22"),
            (Key::Adopted, b"\x23"),
            (Key::Quarantine, b"\x24"),
        ];
        for (key, bytes) in frozen {
            assert_eq!(&key.encode()[..], bytes, "{key:?}");
            assert_eq!(Key::decode(bytes), Some(key));
        }
        for wrong in [&b""[..], b"\x12", b"\x10x", b"\x99", b"\x12\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b"] {
            assert_eq!(Key::decode(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_header_of_a_slot_is_frozen() {
        let mut ops = Vec::new();
        put_ops(log_key(7), b"quorate", &mut ops);
        let Op::Put(_, slot) = &ops[0] else { panic!("{ops:?}") };
        assert_eq!(slot[..], *b"\x08\x2c\xb8\x44\x98\xc1\x5f\x53\x00\x00\x01\x00quorate", "{slot:02x?}");
    }

    #[test]
    fn key_order_is_index_order() {
        let keys = [(1, 0), (1, 1), (1, 300), (2, 0), (255, 0), (256, 0), (1 << 40, 0)];
        let encoded = keys.map(|(first, chunk)| Family::Log.key(Index(first), chunk).encode());
        assert!(encoded.is_sorted());
        assert!(encoded.iter().all(|key| key[..] < Family::Log.end()[..]));
    }

    #[test]
    fn slot_0_is_written_last_and_deleted_first() {
        let mut ops = Vec::new();
        put_ops(log_key(1), &big(0), &mut ops);
        assert!(matches!(&ops[2], Op::Put(key, _) if *key == log_key(1)(0)), "{:?}", ops[2]);
        ops.clear();
        delete_ops(log_key(1), 3, &mut ops);
        assert_eq!(ops[0], Op::Delete(log_key(1)(0)));
        assert_eq!(ops.len(), 3);
    }

    #[test]
    fn every_prefix_of_a_replacement_holds_the_old_value_the_new_value_or_none() {
        let (old, new) = (big(1), big(2));
        let mut ops = Vec::new();
        put_ops(log_key(9), &old, &mut ops);
        delete_ops(log_key(9), 3, &mut ops);
        put_ops(log_key(9), &new, &mut ops);
        put_ops(log_key(10), b"after", &mut ops);
        for kept in 0..=ops.len() {
            let engine = MemoryEngine::new();
            write(&engine, &ops[..kept]);
            let expected = match kept {
                3 => Some(&old),
                9.. => Some(&new),
                _ => None,
            };
            assert_eq!(get_value(&engine, log_key(9)).unwrap().as_deref(), expected.map(Vec::as_slice), "{kept}");
            let (found, orphans) = scanned(&engine).unwrap();
            assert_eq!(
                found.iter().find(|(first, _)| *first == 9).map(|(_, value)| &value[..]),
                expected.map(Vec::as_slice)
            );
            write(&engine, &orphans);
            assert_eq!(engine.len(), found.iter().map(|(_, value)| usize::from(slots(value.len()))).sum::<usize>());
        }
    }

    #[test]
    fn every_prefix_of_a_replacement_in_place_holds_the_old_value_or_the_new_one() {
        let (short, other) = (Bytes::from_static(b"short"), Bytes::from(big(7)));
        let values = [Bytes::from(big(1)), other.clone(), Bytes::from(big(3)), short.clone(), other, short];
        let base = MemoryEngine::new();
        put(&base, 9, &values[0]);
        put(&base, 10, b"after");
        for pair in values.windows(2) {
            let (old, layout) = get_laid_out(&base, log_key(9)).unwrap().unwrap();
            assert_eq!(old, pair[0]);
            let mut ops = Vec::new();
            replace_ops(log_key(9), layout, &pair[1], &mut ops);
            let switch = ops.iter().position(|op| matches!(op, Op::Put(key, _) if *key == log_key(9)(0))).unwrap();
            for kept in 0..=ops.len() {
                base.sync().unwrap();
                write(&base, &ops[..kept]);
                let expected = if kept <= switch { &pair[0] } else { &pair[1] };
                assert_eq!(get_value(&base, log_key(9)).unwrap().as_ref(), Some(expected), "{kept}");
                let (found, orphans) = scanned(&base).unwrap();
                assert_eq!(found, [(9, expected.clone()), (10, Bytes::from_static(b"after"))]);
                write(&base, &orphans);
                assert_eq!(base.len(), usize::from(slots(expected.len())) + 1);
                base.crash(0);
            }
            write(&base, &ops);
            base.sync().unwrap();
        }
        let (_, layout) = get_laid_out(&base, log_key(9)).unwrap().unwrap();
        let mut ops = Vec::new();
        remove_ops(log_key(9), layout, &mut ops);
        write(&base, &ops);
        assert_eq!(base.len(), 1);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        let value = big(3);
        for chunk in 0..3 {
            for byte in [0, 4, 5, 8, 9, 10, 11, 12, 2000] {
                let engine = MemoryEngine::new();
                put(&engine, 4, &value);
                put(&engine, 5, b"x");
                let byte = if chunk == 2 { byte.min(16) } else { byte };
                engine.flip(&log_key(4)(chunk), byte, 0x10);
                assert!(get_value(&engine, log_key(4)).is_err(), "chunk {chunk} byte {byte}");
                assert!(scanned(&engine).is_err(), "chunk {chunk} byte {byte}");
            }
        }
    }

    #[test]
    fn a_missing_slot_and_a_value_under_another_key_are_found() {
        let engine = MemoryEngine::new();
        put(&engine, 4, &big(3));
        engine.delete(&log_key(4)(2)).unwrap();
        assert!(get_value(&engine, log_key(4)).is_err());
        assert!(scanned(&engine).is_err(), "at the end of the scan");
        put(&engine, 5, b"x");
        assert!(scanned(&engine).is_err(), "before another value");

        let engine = MemoryEngine::new();
        put(&engine, 5, b"x");
        let slot = engine.get(&log_key(5)(0)).unwrap().unwrap();
        engine.put(&log_key(6)(0), &slot).unwrap();
        assert!(get_value(&engine, log_key(6)).is_err());
    }
}

//! An engine in memory that forgets as a disk does.
//!
//! It holds a durable image and the ordered list of writes since the last sync. A [`MemoryEngine::crash`] keeps any prefix
//! of that list, the worst that the durability law (see [`super`]) allows, and nothing that it doesn't: what runs
//! correctly here under every crash runs correctly on any engine that keeps the law. Clones are handles to the same
//! "disk", so that a test or the simulator can hold one beside the node that writes.
//!
//! Faults are asked for, never drawn: a write or sync that fails at a count, a bit flipped at a key. After one failed call
//! every call fails until the crash, as the law says: a failed sync is final. And a disk can be looked at as a crash would leave
//! it, without one: see [`MemoryEngine::expose`].
//!
//! Deterministic: no clock, no chance, ordered maps. Absent: time (how slow a disk is, is the simulator's), torn values
//! (writes are atomic per key).

use super::{Engine, Fault, Op};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module's essay.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    /// What a reader sees: durable + unsynced.
    live: BTreeMap<Bytes, Bytes>,
    durable: BTreeMap<Bytes, Bytes>,
    unsynced: Vec<Op>,
    syncs: u64,
    /// How many more writes succeed; `None`: all.
    writes_left: Option<u64>,
    /// How many more syncs succeed; `None`: all.
    syncs_left: Option<u64>,
    failed: bool,
    /// At the next sync a picture is taken, of how many unsynced writes; and the one that was taken.
    exposed: Option<u64>,
    picture: Option<MemoryEngine>,
}

impl Disk {
    fn spend(left: Option<&mut u64>) -> bool {
        match left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    fn check(&self, what: &str) -> Result<(), Fault> {
        if self.failed { Err(Fault { what: what.into(), why: "injected fault".into() }) } else { Ok(()) }
    }

    fn after_crash(&self, number: u64) -> MemoryEngine {
        let mut durable = self.durable.clone();
        let keep = number % (self.unsynced.len() as u64 + 1);
        self.unsynced.iter().take(keep as usize).for_each(|op| apply(&mut durable, op));
        MemoryEngine(Arc::new(Mutex::new(Disk { live: durable.clone(), durable, ..Disk::default() })))
    }

    fn write(&mut self, op: Op) -> Result<(), Fault> {
        self.failed |= !Disk::spend(self.writes_left.as_mut());
        self.check("writing")?;
        apply(&mut self.live, &op);
        self.unsynced.push(op);
        Ok(())
    }
}

fn apply(map: &mut BTreeMap<Bytes, Bytes>, op: &Op) {
    match op {
        Op::Put(key, value) => map.insert(key.clone(), value.clone()),
        Op::Delete(key) => map.remove(key),
    };
}

impl MemoryEngine {
    /// An empty disk.
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A panic elsewhere leaves the maps whole: each call changes them in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many writes the next crash may lose.
    pub fn unsynced(&self) -> usize {
        self.disk().unsynced.len()
    }

    /// How many syncs succeeded.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.disk().live.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Power fails: of the unsynced writes the first `keep` (at most all) survive. Faults asked for are gone.
    pub fn crash(&self, keep: usize) {
        let disk = &mut *self.disk();
        let keep = keep.min(disk.unsynced.len());
        for op in disk.unsynced.drain(..).take(keep) {
            apply(&mut disk.durable, &op);
        }
        disk.live = disk.durable.clone();
        (disk.writes_left, disk.syncs_left, disk.failed) = (None, None, false);
        (disk.exposed, disk.picture) = (None, None);
    }

    /// Another disk: this one, as a crash now would leave it that keeps the first `number` of the unsynced writes, modulo one
    /// more than there are.
    pub fn after_crash(&self, number: u64) -> MemoryEngine {
        self.disk().after_crash(number)
    }

    /// At the next sync, before anything is durable, [`MemoryEngine::after_crash`] is kept as a picture.
    pub fn expose(&self, number: u64) {
        let disk = &mut *self.disk();
        (disk.exposed, disk.picture) = (Some(number), None);
    }

    /// The picture that was asked for; if nothing was synced since, as a crash now would leave the disk.
    pub fn picture(&self) -> Option<MemoryEngine> {
        let disk = &mut *self.disk();
        disk.exposed.take().map(|number| disk.after_crash(number)).or_else(|| disk.picture.take())
    }

    /// After `more` further writes the next one fails.
    pub fn fail_writes_after(&self, more: u64) {
        self.disk().writes_left = Some(more);
    }

    /// After `more` further syncs the next one fails: what it covers may survive a crash or not.
    pub fn fail_syncs_after(&self, more: u64) {
        self.disk().syncs_left = Some(more);
    }

    /// Rot: the bits `mask` of byte `byte` of the value at `key` flip.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn flip(&self, key: &[u8], byte: usize, mask: u8) {
        let disk = &mut *self.disk();
        let value = disk.live.get(key).unwrap_or_else(|| panic!("no value at {key:02x?}"));
        let mut rotten = value.to_vec();
        rotten[byte] ^= mask;
        let (key, rotten) = (Bytes::copy_from_slice(key), Bytes::from(rotten));
        if disk.durable.contains_key(&key) {
            disk.durable.insert(key.clone(), rotten.clone());
        }
        disk.live.insert(key, rotten);
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let disk = self.disk();
        disk.check("reading")?;
        Ok(disk.live.get(key).cloned())
    }

    fn scan(
        &self,
        low: &[u8],
        high: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let mut next = self.after(low, high, true)?;
        while let Some((key, value)) = next {
            // The lock is not held while `visit` runs: it may read.
            if visit(&key, value).is_break() {
                break;
            }
            next = self.after(&key, high, false)?;
        }
        Ok(())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.disk().write(Op::Put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
    }

    fn delete(&self, key: &[u8]) -> Result<(), Fault> {
        self.disk().write(Op::Delete(Bytes::copy_from_slice(key)))
    }

    fn sync(&self) -> Result<(), Fault> {
        let disk = &mut *self.disk();
        disk.failed |= !Disk::spend(disk.syncs_left.as_mut());
        disk.check("syncing")?;
        if let Some(number) = disk.exposed.take() {
            disk.picture = Some(disk.after_crash(number));
        }
        for op in disk.unsynced.drain(..) {
            apply(&mut disk.durable, &op);
        }
        disk.syncs += 1;
        Ok(())
    }

    fn size_on_disk(&self) -> u64 {
        self.disk().live.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

impl MemoryEngine {
    /// The first pair past (or at, if `including`) `low` and below `high`.
    fn after(&self, low: &[u8], high: &[u8], including: bool) -> Result<Option<(Bytes, Bytes)>, Fault> {
        use std::ops::Bound::{Excluded, Included};
        let disk = self.disk();
        disk.check("scanning")?;
        if low >= high {
            return Ok(None);
        }
        let low = if including { Included(low) } else { Excluded(low) };
        let found = disk.live.range::<[u8], _>((low, Excluded(high))).next();
        Ok(found.map(|(key, value)| (key.clone(), value.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_a_prefix_of_the_unsynced_writes_and_all_synced_ones() {
        for keep in 0..=4 {
            let engine = MemoryEngine::new();
            engine.put(b"a", b"0").unwrap();
            engine.sync().unwrap();
            engine.put(b"b", b"1").unwrap();
            engine.delete(b"a").unwrap();
            engine.put(b"b", b"2").unwrap();
            assert_eq!(engine.unsynced(), 3);
            engine.clone().crash(keep);
            assert_eq!(engine.get(b"a").unwrap().is_some(), keep < 2, "{keep}");
            let expected = [None, Some(&b"1"[..]), Some(b"1"), Some(b"2"), Some(b"2")][keep];
            assert_eq!(engine.get(b"b").unwrap().as_deref(), expected, "{keep}");
            assert_eq!(engine.unsynced(), 0);
        }
    }

    #[test]
    fn a_picture_shows_what_a_crash_before_the_sync_or_now_leaves() {
        for number in 0..6 {
            let engine = MemoryEngine::new();
            engine.put(b"a", b"0").unwrap();
            engine.sync().unwrap();
            engine.expose(number);
            engine.put(b"b", b"1").unwrap();
            engine.delete(b"a").unwrap();
            if number % 2 == 0 {
                engine.sync().unwrap();
                engine.put(b"c", b"2").unwrap();
                engine.sync().unwrap();
            }
            let picture = engine.picture().unwrap();
            assert_eq!(picture.get(b"b").unwrap().is_some(), number % 3 > 0, "{number}");
            assert_eq!(picture.get(b"a").unwrap().is_some(), number % 3 < 2, "{number}");
            assert_eq!((picture.unsynced(), picture.len()), (0, if number % 3 == 1 { 2 } else { 1 }));
            picture.delete(b"b").unwrap();
            assert!(engine.picture().is_none(), "{number}");
            assert!(engine.get(b"b").unwrap().is_some() && engine.get(b"a").unwrap().is_none(), "{number}");
        }
    }

    #[test]
    fn a_fault_is_final_until_the_crash() {
        let engine = MemoryEngine::new();
        engine.fail_syncs_after(1);
        engine.put(b"a", b"1").unwrap();
        engine.sync().unwrap();
        engine.put(b"b", b"2").unwrap();
        engine.sync().unwrap_err();
        engine.sync().unwrap_err();
        engine.put(b"c", b"3").unwrap_err();
        engine.get(b"a").unwrap_err();
        engine.crash(0);
        assert_eq!((engine.get(b"a").unwrap().as_deref(), engine.get(b"b").unwrap()), (Some(&b"1"[..]), None));
        engine.fail_writes_after(1);
        engine.put(b"c", b"3").unwrap();
        engine.put(b"d", b"4").unwrap_err();
    }

    #[test]
    fn a_scan_is_ordered_half_open_and_may_be_left() {
        let engine = MemoryEngine::new();
        for key in [b"d", b"a", b"c", b"b"] {
            engine.put(key, key).unwrap();
        }
        let seen = |low: &[u8], high: &[u8], most: usize| {
            let mut seen: Vec<u8> = Vec::new();
            engine
                .scan(low, high, &mut |key, value| {
                    assert_eq!(key, value);
                    seen.extend(key);
                    if seen.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .unwrap();
            seen
        };
        assert_eq!(seen(b"a", b"d", 9), b"abc");
        assert_eq!(seen(b"b", b"z", 2), b"bc");
        assert_eq!(seen(b"c", b"b", 9), b"");
    }
}

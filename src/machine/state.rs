//! The replicated state in memory, shared by the one writer and its readers.
//!
//! One read-write lock guards the index, the tail of values that are not in the engine yet, the latest events, leases,
//! members and alarms. The writer
//! holds it for one effect at a time, readers for a slice of keys; nobody touches the engine under it. The current revision
//! stands beside the lock: the writer publishes it after the last effect of a command, so a reader that takes the
//! revision first and pins it sees whole commands only, whatever is being applied meanwhile. What has no revisions (leases,
//! members) is seen whole by who holds [`Shared::whole`], which the writer holds from the first effect of an entry to the last.
//!
//! The tail holds the values of every put whose record is open, sealed or being inserted. It lets go of a record only when
//! the insert has returned, so a value that is not in the tail *under the lock* is in the engine.

use super::compact::{Litter, Thing};
use super::counts::Counts;
use super::history::{Recent, Records};
use super::index::{Index, KeyRange};
use super::lease::{Lease, LeaseTime};
use super::record::{self, Effect, Raised};
use super::versions::{History, Version};
use super::{Error, Level, Member};
use crate::ids::{Index as LogIndex, MemberId, Position};
use crate::proto::etcdserverpb::AlarmType;
use crate::storage::key::{Family, get_value};
use crate::storage::{Engine, Fault};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Keys that a walk visits before it lets the writer in.
const SLICE: usize = 1024;

/// The same for a walk that only counts.
const COUNTED_SLICE: usize = 16 * SLICE;

/// What the machine and its views hold together.
pub struct Shared {
    pub(super) engine: Arc<dyn Engine>,
    /// Held while an entry is applied; taken before `state`.
    whole: Mutex<Position>,
    state: RwLock<State>,
    revision: AtomicI64,
    dropped: AtomicU64,
    pub(super) counts: Counts,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

/// What the lock guards.
#[derive(Debug)]
pub struct State {
    /// The keys.
    pub index: Index,
    /// Values that are not in the engine yet.
    pub tail: Tail,
    /// What happened last, for watchers; at least everything that is not in the engine yet.
    pub recent: Recent,
    /// Where older events lie.
    pub records: Records,
    /// The leases, by id.
    pub leases: BTreeMap<i64, Lease>,
    /// The members, by id.
    pub members: BTreeMap<MemberId, Member>,
    /// Members that were removed: their ids never come again.
    pub gone: BTreeSet<MemberId>,
    /// Who votes and who learns, as whoever made it wrote it; empty as long as it is what the cluster began with.
    pub configuration: Bytes,
    /// Changes of `members` and `gone` since the state was opened: who looks often sees by it that there is something new.
    pub member_changes: u64,
    /// The alarms that are up: whose, etcd's number, and why.
    pub alarms: BTreeMap<(MemberId, i32), Raised>,
    /// What members agree on.
    pub level: Level,
    /// The oldest readable revision; -1 as long as nothing was compacted, as in etcd.
    pub compacted: i64,
    /// Where effects lie that say nothing any more.
    pub litter: Litter,
}

impl State {
    /// Of a store without members.
    pub fn new() -> State {
        State {
            index: Index::default(),
            tail: Tail::default(),
            recent: Recent::default(),
            records: Records::default(),
            leases: BTreeMap::new(),
            members: BTreeMap::new(),
            gone: BTreeSet::new(),
            configuration: Bytes::new(),
            member_changes: 0,
            alarms: BTreeMap::new(),
            level: Level::FIRST,
            compacted: -1,
            litter: Litter::default(),
        }
    }

    /// Makes `effect`, which stands in `record` at `ordinal`, part of the state: the same way when it is applied and when it
    /// is read back.
    ///
    /// # Errors
    /// A sentence, if the effect makes no sense (possible only for one that was read back).
    pub fn take(&mut self, effect: &Effect<'_>, record: LogIndex, ordinal: u32) -> Result<(), String> {
        match *effect {
            Effect::Put(put) => {
                let value_len = u32::try_from(put.value.len()).map_err(|_| "a value of more than 4 GiB".to_string())?;
                let (modified, created, number, lease) = (put.main, put.created, put.version, put.lease);
                let version = Version { modified, created, number, lease, record: record.0, ordinal, value_len };
                self.records.note(modified, record);
                self.attach(put.key, lease);
                self.index.push(put.key, version);
            }
            Effect::Delete { key, main, .. } => {
                self.records.note(main, record);
                self.attach(key, 0);
                self.index.push(key, Version { modified: main, record: record.0, ..Version::ABSENT });
            }
            Effect::Lease { id, ttl, remaining, granted } => {
                self.litter.replaced(Thing::Lease(id), record);
                let lease = self.leases.entry(id).or_default();
                lease.time = LeaseTime { ttl, remaining, granted };
            }
            Effect::LeaseGone { id } => {
                self.litter.undone(Thing::Lease(id), record);
                self.leases.remove(&id);
            }
            Effect::Compacted { revision } => {
                self.litter.replaced(Thing::Mark, record);
                self.compacted = revision;
            }
            Effect::Member(bytes) => {
                let member = record::decode_member(bytes).ok_or_else(|| "a member's entry is malformed".to_string())?;
                self.litter.replaced(Thing::Member(member.id), record);
                self.members.insert(member.id, member);
                self.member_changes += 1;
            }
            Effect::MemberGone { id } => {
                self.litter.ended(Thing::Member(id));
                self.members.remove(&id);
                self.gone.insert(id);
                self.member_changes += 1;
            }
            Effect::Configuration(bytes) => {
                self.litter.replaced(Thing::Configuration, record);
                self.configuration = Bytes::copy_from_slice(bytes);
            }
            Effect::Level(level) => {
                if level <= self.level {
                    return Err(format!("level {level} does not follow {}", self.level));
                }
                self.litter.replaced(Thing::Level, record);
                self.level = level;
            }
            Effect::Alarm { member, alarm, raised: Raised::Not } => {
                self.litter.undone(Thing::Alarm(member, alarm), record);
                self.alarms.remove(&(member, alarm));
            }
            Effect::Alarm { member, alarm, raised } => {
                self.litter.replaced(Thing::Alarm(member, alarm), record);
                self.alarms.insert((member, alarm), raised);
            }
            Effect::Applied(_) | Effect::Restored { .. } => {}
        }
        Ok(())
    }

    /// Whether the store may grow: no member is short of space.
    pub fn may_grow(&self) -> bool {
        !self.alarms.keys().any(|(_, alarm)| *alarm == AlarmType::Nospace as i32)
    }

    /// Gives every lease the keys whose newest versions name it. While records are read back, puts come before the newest
    /// effect on their lease, whose older ones a compaction has taken away.
    pub fn attach_all(&mut self) {
        for lease in self.leases.values_mut() {
            lease.keys.clear();
        }
        for (key, history) in self.index.histories(KeyRange::From(b""), None) {
            let newest = history.at(i64::MAX).filter(|newest| newest.lease != 0);
            if let Some(lease) = newest.and_then(|newest| self.leases.get_mut(&newest.lease)) {
                lease.keys.insert(key.into());
            }
        }
    }

    /// Moves a key, as it is now, from its lease to `lease` (0: to none). A key has one lease at most.
    fn attach(&mut self, key: &[u8], lease: i64) {
        if self.leases.is_empty() {
            return;
        }
        let old = self.index.get(key, i64::MAX).map_or(0, |version| version.lease);
        if old == lease {
            return;
        }
        if let Some(old) = self.leases.get_mut(&old) {
            old.keys.remove(key);
        }
        if let Some(new) = self.leases.get_mut(&lease) {
            new.keys.insert(key.into());
        }
    }
}

/// The values of records that are not in the engine yet, oldest first.
#[derive(Debug, Default)]
pub struct Tail(VecDeque<TailRecord>);

#[derive(Debug)]
struct TailRecord {
    first: u64,
    run: u64,
    values: Vec<Bytes>,
}

impl Tail {
    /// Adds the value of the next put of the newest record, which belongs to `run`.
    pub fn push(&mut self, record: LogIndex, run: u64, value: Bytes) {
        match self.0.back_mut() {
            Some(newest) if newest.first == record.0 => newest.values.push(value),
            _ => self.0.push_back(TailRecord { first: record.0, run, values: vec![value] }),
        }
    }

    /// A value, if its record is here.
    fn get(&self, version: &Version) -> Option<&Bytes> {
        if version.record < self.0.front()?.first {
            return None;
        }
        let at = self.0.binary_search_by_key(&version.record, |record| record.first).ok()?;
        self.0[at].values.get(version.ordinal as usize)
    }

    /// Whether nothing waits for the engine.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes out the records of the runs up to `run`.
    pub fn let_go(&mut self, run: u64) -> Vec<Vec<Bytes>> {
        let done = self.0.partition_point(|record| record.run <= run);
        self.0.drain(..done).map(|record| record.values).collect()
    }
}

/// A version that a reader found, with its value if that was in memory.
#[derive(Clone, Debug)]
pub struct Found {
    /// The version.
    pub version: Version,
    /// Its value, if the tail had it.
    pub value: Option<Bytes>,
}

impl Found {
    /// Copies a version out of the state.
    pub fn new(state: &State, version: &Version) -> Found {
        Found { version: *version, value: state.tail.get(version).cloned() }
    }
}

impl Shared {
    /// A state at `revision`, after the entry at `applied`.
    pub fn new(engine: Arc<dyn Engine>, state: State, revision: i64, applied: Position) -> Shared {
        Shared {
            engine,
            whole: Mutex::new(applied),
            state: RwLock::new(state),
            revision: AtomicI64::new(revision),
            dropped: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// The last entry applied. As long as it is held, the state is whole: between two entries.
    ///
    /// # Panics
    /// As [`Shared::read`].
    pub fn whole(&self) -> MutexGuard<'_, Position> {
        self.whole.lock().expect("the machine panicked in the middle of a change")
    }

    /// The state, to read. Not to be held across a read from the engine.
    ///
    /// # Panics
    /// If the writer panicked half-way through a change.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("the machine panicked in the middle of a change")
    }

    /// The state, to change.
    ///
    /// # Panics
    /// As [`Shared::read`].
    pub fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("the machine panicked in the middle of a change")
    }

    /// The revision of the last whole command.
    pub fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Lets readers see everything up to `revision`: release pairs with the acquire above, and the effects went in before.
    pub fn publish(&self, revision: i64) {
        self.revision.store(revision, Ordering::Release);
    }

    /// Counts versions that a compaction took away.
    pub fn count_dropped(&self, versions: u64) {
        self.dropped.fetch_add(versions, Ordering::Relaxed);
    }

    /// How many of them there were in this life.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Visits what a reader at `revision` sees of `range`, ascending, in slices: the lock is free between two of them. Versions
    /// at or below a pinned revision never change, but a compaction may take them away: who walks looks at the mark
    /// afterwards.
    pub fn walk(&self, range: KeyRange<'_>, revision: i64, mut visit: impl FnMut(&State, &[u8], &Version)) {
        self.walk_until(range, revision, |state, key, version| {
            visit(state, key, version);
            ControlFlow::Continue(())
        });
    }

    /// As [`Shared::walk`], until `visit` breaks.
    pub fn walk_until(
        &self,
        range: KeyRange<'_>,
        revision: i64,
        mut visit: impl FnMut(&State, &[u8], &Version) -> ControlFlow<()>,
    ) {
        let mut after = None;
        while let ControlFlow::Continue(Some(last)) = self.walk_slice(range, after.as_deref(), revision, &mut visit) {
            after = Some(last);
        }
    }

    /// How many keys above `after` a reader at `revision` sees in `range`.
    pub fn count(&self, range: KeyRange<'_>, after: Option<&[u8]>, revision: i64) -> i64 {
        let (mut count, mut after) = (0, after.map(Box::from));
        loop {
            let state = self.read();
            let (mut walked, mut last) = (0, None);
            for (key, history) in state.index.histories(range, after.as_deref()).take(COUNTED_SLICE) {
                count += i64::from(history.is_seen(revision));
                (walked, last) = (walked + 1, Some(key));
            }
            match last {
                Some(key) if walked == COUNTED_SLICE => after = Some(Box::from(key)),
                _ => return count,
            }
        }
    }

    /// Visits the histories of the keys in `range`, ascending, in slices: the lock is free between two of them.
    pub fn histories(&self, range: KeyRange<'_>, mut visit: impl FnMut(&[u8], &History)) {
        let mut after: Option<Box<[u8]>> = None;
        loop {
            let state = self.read();
            let mut last = None;
            for (walked, (key, history)) in state.index.histories(range, after.as_deref()).enumerate() {
                visit(key, history);
                if walked + 1 == SLICE {
                    last = Some(Box::from(key));
                    break;
                }
            }
            if last.is_none() {
                return;
            }
            after = last;
        }
    }

    /// Visits one slice of the keys above `after`, under one hold of the lock. Says where to go on, `None` at the end of the
    /// range; breaks when `visit` does.
    pub fn walk_slice(
        &self,
        range: KeyRange<'_>,
        after: Option<&[u8]>,
        revision: i64,
        mut visit: impl FnMut(&State, &[u8], &Version) -> ControlFlow<()>,
    ) -> ControlFlow<(), Option<Box<[u8]>>> {
        let state = self.read();
        for (walked, (key, history)) in state.index.histories(range, after).enumerate() {
            if let Some(version) = history.at(revision) {
                visit(&state, key, &version)?;
            }
            if walked + 1 == SLICE {
                return ControlFlow::Continue(Some(Box::from(key)));
            }
        }
        ControlFlow::Continue(None)
    }
}

/// Reads values, and keeps the last few records read: neighbours are often written together, or by a few callers side by side.
pub struct Values<'a> {
    shared: &'a Shared,
    /// The newest last.
    records: VecDeque<(u64, Bytes)>,
}

/// Records that a reader of values keeps.
const KEPT_RECORDS: usize = 8;

impl<'a> Values<'a> {
    /// A reader of values.
    pub fn new(shared: &'a Shared) -> Values<'a> {
        Values { shared, records: VecDeque::new() }
    }

    /// The value of `key` that was found, verified if it comes from the engine.
    ///
    /// # Errors
    /// The disk failed, or holds something else.
    pub fn load(&mut self, key: &[u8], found: Found) -> Result<Bytes, Error> {
        if let Some(value) = found.value {
            return Ok(value);
        }
        let version = found.version;
        let fault = |why: String| {
            let what = format!("reading a value of revision {} from state record {}", version.modified, version.record);
            Error::Disk(Fault { what, why })
        };
        let value = |record: &Bytes| record::value(record, version.ordinal, key, version.modified).map_err(fault);
        if let Some((_, record)) = self.records.iter().rev().find(|(first, _)| *first == version.record) {
            return value(record);
        }
        let key_of = |chunk| Family::Record.key(LogIndex(version.record), chunk).encode();
        let record = get_value(&*self.shared.engine, key_of).map_err(|error| Error::Disk(error.into()))?;
        let record = record.ok_or_else(|| fault("the record is not there".to_string()))?;
        let value = value(&record)?;
        if self.records.len() == KEPT_RECORDS {
            self.records.pop_front();
        }
        self.records.push_back((version.record, record));
        Ok(value)
    }
}

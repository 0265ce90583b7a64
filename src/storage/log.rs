//! The replicated log on an engine.
//!
//! [`LogStore`] executes what the Raft core wants durable. It is built on the durability law alone (see [`super`]): writes
//! are ordered and atomic per key, nothing more. So every point at which power can fail leaves a state that the member was
//! in, or could lawfully have been in, after some prefix of what it was told to write:
//!
//! - a [`Ready`]'s hard state is written before its entries: an entry of term *t* is on the disk only if a term ≥ *t* is
//!   (Raft's invariant 3);
//! - entries are removed from the highest record down, so a torn truncation is a shorter log;
//! - what is compacted goes from the lowest record up, so a torn compaction is a longer log;
//! - then everything of the batch shares one sync, and only then it is acknowledged.
//!
//! # Records
//!
//! Entries are packed: what a batch appends becomes as few records as fit the cap of [`MAX_VALUE`], because an insert
//! costs sled the same for one entry as for hundreds. An entry above the cap has a record of its own, in several slots
//! (`key.rs`). A record's key is its first index. Its value, all little-endian:
//!
//! ```text
//! version u8 = 1
//! count u32, prev_term u64                  how many entries; the term of the entry before the first one
//! count ×  term u64, kind u8 (0 no-op, 1 command, 2 configuration),
//!          origin u64, incarnation u64, sequence u64    the request
//!          checksum u32                     the entry's own, made by the leader
//!          len u32, data
//! ```
//!
//! The slot's checksums (`key.rs`) cover all of it, the first index too. A map of where records begin is kept in memory.
//!
//! # Where the log begins
//!
//! After its *base*, a position: the first record names the base's index by its own, and the base's term as the term before
//! its first entry. A log without records says its base under [`Key::LogStart`] (none: it begins at index 1). That key is
//! written before the last record goes, whoever removes it, and its base is never above the first record: a record after
//! the base is all that moves the base on. Compaction removes whole records, and never the last one. A
//! [`LogStore::reset`] removes all, from the highest down, and then sets the base where the state that was taken over ends.
//!
//! # Who belongs to the cluster
//!
//! A configuration is an entry, and entries go. Of those that went the newest is kept under [`Key::Configuration`], written
//! before its entry is removed. So the log tells who the others are when the state can't: the state may be rotten, and a log
//! that its member alone could go on with is another matter than one that others have too.
//!
//! # Invariants
//!
//! 1. Records are contiguous from the base on; terms never decrease, and none is above the hard state's.
//! 2. A record of several slots holds one entry, so it is removed, never cut.
//! 3. After a fault nothing is written any more, and every call says the same fault.
//! 4. What is held in memory is in proportion to the records that are on the disk.
//!
//! [`LogStore::open`] verifies 1 and every checksum, and refuses what is not so with a sentence: a log that has lost what
//! was acknowledged must not vote. What it can't see is an older state that is whole in itself. sled takes rot in its
//! newest segments for a write that power cut short, and returns what was there before it, hard state and incarnation
//! included; the acked mark in `state/` is against that.
//!
//! May not know: what is committed, what commands mean. Absent: when to compact (`node/retention.rs`), a cache (the core
//! keeps the newest entries).

use super::key::{Family, Key, MAX_VALUE, Unreadable, delete_ops, get_value, put_ops, scan_values, slots};
use super::{COME_BACK, Engine, Fault, Op};
use crate::ids::{Incarnation, Index, MemberId, Position, Term};
use crate::raft::quorum::Configuration;
use crate::raft::{Entry, EntryKind, HardState, Persisted, Ready};
use bytes::{Buf, Bytes};
use record::{ENTRY_HEADER, Packing, Record};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What a person can do about a damaged log.
const REMEDY: &str = "Nothing was changed. This member must not vote from this log: keep the data directory aside for a \
                      look, and";

/// Records that one batch compacts away at most: an entry's latency must not wait for thousands of removals. What is over
/// goes with the batches that follow.
const COMPACTED_RECORDS_PER_BATCH: usize = 256;

/// What is found at open is counted in shares of at least so many bytes.
const COUNTED_BYTES: u64 = 4096;

/// Executes what the Raft core wants durable. Owned by one thread.
pub struct LogStore {
    engine: Arc<dyn Engine>,
    hard_state: HardState,
    /// Where each record begins, and how many slots it takes.
    records: BTreeMap<Index, u16>,
    /// The entry before the first one.
    base: Position,
    /// Records that end at or below this may go.
    disposable: Index,
    /// The terms of the log after the base, as runs.
    terms: Vec<(Index, Term)>,
    last: Position,
    /// The configurations among the entries.
    configurations: Vec<(Index, Configuration)>,
    /// The newest one before them.
    configuration: Option<Configuration>,
    failed: Option<Fault>,
    /// Reused from call to call.
    ops: Vec<Op>,
    packing: Packing,
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore")
            .field("hard_state", &self.hard_state)
            .field("base", &self.base)
            .field("last", &self.last)
            .field("records", &self.records.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// What a log store found when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// Which life begins: one more than the last one, already durable.
    pub incarnation: Incarnation,
    /// Where the log begins: the entry before its first one.
    pub base: Position,
    /// The terms of the log after its base, as runs: (first index of the run, term), ascending.
    pub terms: Vec<(Index, Term)>,
    /// Where the log ends; the base if it is empty.
    pub last: Position,
    /// The newest entries, contiguous up to `last`, at most about `tail_bytes` of them.
    pub tail: Vec<Entry>,
    /// How large the log is: the bytes of all entries up to and including an index, for every few of them, ascending.
    pub bytes: Vec<(Index, u64)>,
    /// The configuration where the log begins; `None`: the cluster's first one, or written by a release that did not keep it.
    pub configuration: Option<Configuration>,
    /// The newest one in the log, or else that one.
    pub newest_configuration: Option<Configuration>,
}

/// Why a log can't be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The disk failed, or the engine can't make sense of what it holds.
    #[error("{0}. Check the disk (dmesg). If it holds something else than was written: {REMEDY} {COME_BACK}")]
    Fault(#[from] Fault),
    /// What is there can't be what was written: the sentence says where and what to do.
    #[error("{0}")]
    Corrupt(String),
}

impl From<Unreadable> for OpenError {
    fn from(unreadable: Unreadable) -> OpenError {
        match unreadable {
            Unreadable::Fault(fault) => OpenError::Fault(fault),
            Unreadable::Rot { key: Some(Key::Log { first, .. }), why } => corrupt(first, why),
            Unreadable::Rot { key, why } => damaged(&key.map_or("a key".into(), |key| format!("{key:?}")), why),
        }
    }
}

fn corrupt(index: Index, why: impl fmt::Display) -> OpenError {
    OpenError::Corrupt(format!("the raft log is damaged at index {index}: {why}. {REMEDY} {COME_BACK}"))
}

fn damaged(key: &str, why: &str) -> OpenError {
    OpenError::Corrupt(format!("the raft database is damaged at {key}: {why}. {REMEDY} {COME_BACK}"))
}

fn log_key(first: Index) -> impl Fn(u16) -> Bytes {
    move |chunk| Family::Log.key(first, chunk).encode()
}

impl LogStore {
    /// Opens the log on `engine`: verifies every record (checksum, contiguity, terms that don't decrease, nothing above the
    /// hard state's term), counts up the incarnation and syncs it. `witnessed` is the newest life that anyone else knows of:
    /// this one is later, whatever the database remembers.
    ///
    /// # Errors
    /// The disk failed, or the log is not one.
    pub fn open(
        engine: Arc<dyn Engine>,
        tail_bytes: usize,
        witnessed: Incarnation,
    ) -> Result<(LogStore, Recovered), OpenError> {
        let hard_state = get_value(&*engine, |_| Key::HardState.encode())?;
        let incarnation = get_value(&*engine, |_| Key::Incarnation.encode())?;
        let known = hard_state.is_some();
        let hard_state = hard_state.map_or(Ok(HardState::default()), decode_hard_state)?;
        let lives = incarnation
            .clone()
            .map_or(Ok(0), |mut value| value.try_get_u64_le())
            .map_err(|_| damaged("Incarnation", "it is no number"))?;

        let start = get_value(&*engine, |_| Key::LogStart.encode())?.map_or(Ok(Position::default()), decode_start)?;
        let configuration =
            get_value(&*engine, |_| Key::Configuration.encode())?.map(decode_configuration).transpose()?;

        let mut scan = Scan { hard_state, tail_bytes, base: start, last: start, ..Scan::default() };
        let mut outcome = Ok(());
        let orphans = scan_values(&*engine, Family::Log, Index(0), &mut |first, slots, value| {
            outcome = scan.take(first, slots.slots(), value);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome?;
        if known && incarnation.is_none() {
            return Err(damaged("Incarnation", "it is gone"));
        }
        if scan.base.term > hard_state.term {
            let why = format!("the log begins after {}, the newest term known is {}", scan.base, hard_state.term);
            return Err(corrupt(scan.base.index, why));
        }

        let incarnation = Incarnation(lives.max(witnessed.0) + 1);
        let mut store = LogStore {
            engine,
            hard_state,
            records: scan.records,
            base: scan.base,
            disposable: Index(0),
            terms: scan.terms,
            last: scan.last,
            configurations: scan.configurations,
            configuration,
            failed: None,
            ops: orphans,
            packing: Packing::default(),
        };
        put_ops(|_| Key::Incarnation.encode(), &incarnation.0.to_le_bytes(), &mut store.ops);
        store.execute()?;
        store.engine.sync()?;
        let (base, terms, last) = (store.base, store.terms.clone(), store.last);
        let tail = scan.tail.into_iter().flatten().collect();
        let (bytes, configuration) = (scan.bytes, store.configuration.clone());
        let newest_configuration = store.newest_configuration().cloned();
        let recovered =
            Recovered { hard_state, incarnation, base, terms, last, tail, bytes, configuration, newest_configuration };
        Ok((store, recovered))
    }

    fn newest_configuration(&self) -> Option<&Configuration> {
        self.configurations.last().map(|(_, newest)| newest).or(self.configuration.as_ref())
    }

    /// The state was made with this configuration: keeps it, where the log knows an older one or none. Returns when it is
    /// durable.
    ///
    /// # Errors
    /// Final.
    pub fn note(&mut self, configuration: &Configuration) -> Result<(), Fault> {
        if self.newest_configuration().map_or(0, Configuration::version) >= configuration.version() {
            return Ok(());
        }
        self.keep(configuration.clone());
        self.execute()?;
        self.engine.sync()
    }

    fn keep(&mut self, configuration: Configuration) {
        if self.configuration.as_ref().map_or(0, Configuration::version) < configuration.version() {
            put_ops(|_| Key::Configuration.encode(), &configuration.encode(&[]), &mut self.ops);
            self.configuration = Some(configuration);
        }
    }

    /// Empties the log and lets it begin after `to`: a state that holds everything up to there has taken its place. A crash on
    /// the way leaves a shorter log, which the same state makes the next opening reset again. Returns when it is durable.
    ///
    /// # Errors
    /// Final.
    ///
    /// # Panics
    /// If the term of `to` was never made durable.
    pub fn reset(&mut self, to: Position) -> Result<(), Fault> {
        assert!(to.term <= self.hard_state.term, "a log that begins after {to} under {:?}", self.hard_state);
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let outcome = self.truncate(self.base.index.next()).and_then(|()| {
            (self.base, self.last, self.disposable) = (to, to, Index(0));
            put_ops(|_| Key::LogStart.encode(), &encode_start(to), &mut self.ops);
            self.execute()?;
            self.engine.sync()
        });
        self.failed = outcome.clone().err();
        outcome
    }

    /// Where the log begins: the entry before its first one.
    pub fn base(&self) -> Position {
        self.base
    }

    /// Term and vote, as last written.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Executes all of `batch` in order and syncs once (group commit).
    ///
    /// # Errors
    /// Final: nothing of the batch may be acknowledged.
    ///
    /// # Panics
    /// If the core's word breaks a log's invariants: entries that don't follow, or of a term that was never made durable.
    pub fn persist(&mut self, batch: &[Ready]) -> Result<Option<Persisted>, Fault> {
        let Some(newest) = batch.last() else { return Ok(None) };
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let outcome = self.write(batch).and_then(|()| self.engine.sync());
        self.failed = outcome.clone().err();
        outcome.map(|()| Some(Persisted { seq: newest.seq, last: self.last }))
    }

    fn write(&mut self, batch: &[Ready]) -> Result<(), Fault> {
        for ready in batch {
            if let Some(hard_state) = ready.hard_state {
                self.close_record()?;
                let old = self.hard_state;
                let same_vote = hard_state.term == old.term && (old.vote.is_none() || hard_state.vote == old.vote);
                assert!(hard_state.term > old.term || same_vote, "{hard_state:?} after {old:?}");
                self.hard_state = hard_state;
                put_ops(|_| Key::HardState.encode(), &encode_hard_state(hard_state), &mut self.ops);
            }
            if let Some(to) = ready.compact_to {
                assert!(to <= self.last.index, "compacting up to {to} a log that ends at {}", self.last);
                self.disposable = self.disposable.max(to);
            }
            if let Some(from) = ready.truncate_from {
                self.close_record()?;
                self.truncate(from)?;
            }
            for entry in &ready.entries {
                self.append(entry)?;
            }
        }
        self.close_record()?;
        self.compact()
    }

    /// Removes what is disposable, a bounded share of it.
    fn compact(&mut self) -> Result<(), Fault> {
        for _ in 0..COMPACTED_RECORDS_PER_BATCH {
            let mut firsts = self.records.keys();
            let (Some(&first), Some(&next)) = (firsts.next(), firsts.next()) else { break };
            if next.prev() > self.disposable {
                break;
            }
            let term = self.terms.iter().rev().find(|(run, _)| *run < next).map_or(self.base.term, |run| run.1);
            let gone = self.configurations.partition_point(|(index, _)| *index < next);
            let newest = self.configurations.drain(..gone).next_back();
            newest.into_iter().for_each(|(_, newest)| self.keep(newest));
            let slots = self.records.remove(&first).unwrap_or_else(|| unreachable!("{first} was just seen"));
            delete_ops(log_key(first), slots, &mut self.ops);
            self.base = Position { index: next.prev(), term };
            // The runs begin with the first entry that is left.
            let ended = self.terms.partition_point(|(run, _)| *run <= next).saturating_sub(1);
            self.terms.drain(..ended);
            if let Some(run) = self.terms.first_mut() {
                run.0 = next;
            }
        }
        self.execute()
    }

    fn append(&mut self, entry: &Entry) -> Result<(), Fault> {
        let Position { index, term } = entry.position;
        assert!(index == self.last.index.next(), "entry {} does not follow {}", entry.position, self.last);
        assert!(
            Term(0) < term && self.last.term <= term && term <= self.hard_state.term,
            "entry {} after {} under {:?}",
            entry.position,
            self.last,
            self.hard_state
        );
        if self.packing.count > 0 && self.packing.bytes.len() + ENTRY_HEADER + entry.data.len() > MAX_VALUE {
            self.close_record()?;
        }
        if self.packing.count == 0 {
            self.packing.begin(index, self.last.term);
        }
        self.packing.push(entry);
        self.configurations.extend(configuration_of(entry));
        if self.last.term != term || self.terms.is_empty() {
            self.terms.push((index, term));
        }
        self.last = entry.position;
        Ok(())
    }

    /// Writes the record that is being packed, and whatever waits before it.
    fn close_record(&mut self) -> Result<(), Fault> {
        if self.packing.count > 0 {
            let (first, value) = self.packing.finish();
            self.records.insert(first, slots(value.len()));
            put_ops(log_key(first), value, &mut self.ops);
            self.packing.clear();
        }
        self.execute()
    }

    fn truncate(&mut self, from: Index) -> Result<(), Fault> {
        let Position { index: last, .. } = self.last;
        assert!(
            self.base.index < from && from <= last.next(),
            "truncating from {from} a log of {}..={last}",
            self.base
        );
        if self.base.index > Index(0) && self.records.first_key_value().is_some_and(|(first, _)| *first >= from) {
            put_ops(|_| Key::LogStart.encode(), &encode_start(self.base), &mut self.ops);
        }
        while let Some(record) = self.records.last_entry()
            && *record.key() >= from
        {
            delete_ops(log_key(*record.key()), record.remove(), &mut self.ops);
        }
        while self.terms.last().is_some_and(|(first, _)| *first >= from) {
            self.terms.pop();
        }
        self.configurations.retain(|(index, _)| *index < from);
        if from <= self.last.index {
            let term = self.terms.last().map_or(self.base.term, |(_, term)| *term);
            self.last = Position { index: from.prev(), term };
        }
        let Some((&first, &slots)) = self.records.last_key_value() else { return self.execute() };
        let record = self.load(first)?;
        let keep = usize::try_from(from.0 - first.0).unwrap_or(usize::MAX);
        if keep < record.entries.len() {
            assert!(slots == 1, "the record of {first} has {slots} slots and {} entries", record.entries.len());
            self.packing.begin(first, record.prev_term);
            record.entries[..keep].iter().for_each(|entry| self.packing.push(entry));
        }
        self.close_record()
    }

    fn execute(&mut self) -> Result<(), Fault> {
        self.ops.drain(..).try_for_each(|op| match op {
            Op::Put(key, value) => self.engine.put(&key, &value),
            Op::Delete(key) => self.engine.delete(&key),
        })
    }

    /// Entries from `from` on, contiguous and sound, cut at `max_bytes` but at least one; empty if `from` is past the end or
    /// not after the base (it may have been truncated or compacted since the core asked).
    ///
    /// # Errors
    /// The disk failed, or a record is not what was written.
    ///
    /// # Panics
    /// If `from` is 0, which is no entry.
    pub fn read(&self, from: Index, max_bytes: usize) -> Result<Vec<Entry>, Fault> {
        assert!(from > Index(0), "a read from index 0");
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        let Some((&start, _)) = self.records.range(..=from).next_back() else { return Ok(found) };
        for &first in self.records.range(start..).map(|(first, _)| first) {
            for entry in self.load(first)?.entries {
                if entry.position.index < from {
                    continue;
                }
                bytes += entry.size();
                if bytes > max_bytes && !found.is_empty() {
                    return Ok(found);
                }
                found.push(entry);
            }
            if bytes >= max_bytes && !found.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    fn load(&self, first: Index) -> Result<Record, Fault> {
        let rotten = |why: &str| Fault {
            what: format!("reading the raft log's record at index {first}"),
            why: format!("{why}. {REMEDY} {COME_BACK}"),
        };
        match get_value(&*self.engine, log_key(first)) {
            Ok(Some(value)) => Record::decode(first, value).map_err(|why| rotten(&why)),
            Ok(None) => Err(rotten("it is gone")),
            Err(Unreadable::Rot { why, .. }) => Err(rotten(why)),
            Err(Unreadable::Fault(fault)) => Err(fault),
        }
    }

    /// Bytes on the disk.
    pub fn size_on_disk(&self) -> u64 {
        self.engine.size_on_disk()
    }
}

/// The scan at open: invariant 1, record by record.
#[derive(Default)]
struct Scan {
    hard_state: HardState,
    tail_bytes: usize,
    records: BTreeMap<Index, u16>,
    /// At first what [`Key::LogStart`] says.
    base: Position,
    terms: Vec<(Index, Term)>,
    configurations: Vec<(Index, Configuration)>,
    last: Position,
    tail: VecDeque<Vec<Entry>>,
    bytes_in_tail: usize,
    bytes_in_all: u64,
    /// [`Recovered::bytes`].
    bytes: Vec<(Index, u64)>,
}

impl Scan {
    fn take(&mut self, first: Index, slots: u16, value: Bytes) -> Result<(), OpenError> {
        let expected = self.last.index.next();
        let is_first = self.records.is_empty();
        if first < expected || (first > expected && !is_first) {
            return Err(corrupt(expected, format_args!("the next record begins at {first}")));
        }
        let record = Record::decode(first, value).map_err(|why| corrupt(first, why))?;
        if is_first && first > expected {
            // What was before it has been compacted.
            self.base = Position { index: first.prev(), term: record.prev_term };
            self.last = self.base;
        }
        if record.prev_term != self.last.term {
            let why = format!("it was written after term {}, but follows {}", record.prev_term, self.last);
            return Err(corrupt(first, why));
        }
        for Entry { position, .. } in &record.entries {
            if position.term < self.last.term || position.term == Term(0) {
                return Err(corrupt(position.index, format_args!("{position} follows {}", self.last)));
            }
            if position.term > self.hard_state.term {
                let (term, known) = (position.term, self.hard_state.term);
                let why = format!("its term is {term}, the newest term known is {known}: term and vote were lost");
                return Err(corrupt(position.index, why));
            }
            if position.term != self.last.term || self.terms.is_empty() {
                self.terms.push((position.index, position.term));
            }
            self.last = *position;
        }
        self.configurations.extend(record.entries.iter().filter_map(configuration_of));
        self.records.insert(first, slots);
        self.bytes_in_tail += size(&record.entries);
        self.bytes_in_all += size(&record.entries) as u64;
        if self.bytes.last().is_none_or(|(_, counted)| self.bytes_in_all - counted >= COUNTED_BYTES) {
            self.bytes.push((self.last.index, self.bytes_in_all));
        }
        self.tail.push_back(record.entries);
        while let Some(oldest) = self.tail.front()
            && self.bytes_in_tail - size(oldest) >= self.tail_bytes
        {
            self.bytes_in_tail -= size(oldest);
            self.tail.pop_front();
        }
        Ok(())
    }
}

fn size(entries: &[Entry]) -> usize {
    entries.iter().map(Entry::size).sum()
}

fn encode_start(base: Position) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&base.index.0.to_le_bytes());
    out[8..].copy_from_slice(&base.term.0.to_le_bytes());
    out
}

fn decode_start(mut value: Bytes) -> Result<Position, OpenError> {
    match (value.try_get_u64_le(), value.try_get_u64_le(), value.is_empty()) {
        (Ok(index), Ok(term), true) => Ok(Position { index: Index(index), term: Term(term) }),
        _ => Err(damaged("LogStart", "not 16 bytes")),
    }
}

/// What an entry says about who belongs to the cluster.
fn configuration_of(entry: &Entry) -> Option<(Index, Configuration)> {
    let configuration = (entry.kind == EntryKind::Configuration).then(|| Configuration::decode(&entry.data))?;
    configuration.map(|(configuration, _)| (entry.position.index, configuration))
}

fn decode_configuration(value: Bytes) -> Result<Configuration, OpenError> {
    let found = Configuration::decode(&value).map(|(configuration, _)| configuration);
    found.ok_or_else(|| damaged("Configuration", "it is none"))
}

fn encode_hard_state(hard_state: HardState) -> [u8; 16] {
    let vote = hard_state.vote.unwrap_or_default();
    assert!(hard_state.vote != Some(MemberId(0)), "a vote for nobody");
    let mut out = [0; 16];
    out[..8].copy_from_slice(&hard_state.term.0.to_le_bytes());
    out[8..].copy_from_slice(&vote.0.to_le_bytes());
    out
}

fn decode_hard_state(mut value: Bytes) -> Result<HardState, OpenError> {
    let term = value.try_get_u64_le();
    let vote = value.try_get_u64_le();
    match (term, vote, value.is_empty()) {
        (Ok(term), Ok(vote), true) => Ok(HardState { term: Term(term), vote: (vote != 0).then_some(MemberId(vote)) }),
        _ => Err(damaged("HardState", "not 16 bytes")),
    }
}

mod record;
#[cfg(test)]
mod tests;

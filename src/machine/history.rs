//! What happened, in order: the events that watchers see.
//!
//! The state records are the history: each put and each deletion stands in one of them, in the order of revisions. A reader
//! names the revision from which on it wants to know ([`View::history`](super::View::history)) and gets whole revisions, as
//! many as fit its budget, and where to go on. The newest ones it gets from memory ([`Recent`]), which holds at least all
//! that is not in the engine yet; older ones from the records, found by their first revision ([`Records`]).
//!
//! Nobody is told anything here: to follow the store is to ask again, from where one stopped. So a reader that is slow costs
//! nothing but its own delay, and one that comes back after a failure goes on at the revision it knows.
//!
//! Invariants: revisions in the answer are whole; between `from` and `next` none is missing, none is told twice. What was
//! compacted away meanwhile is an error, never a gap.
//!
//! May not know: who watches what.

use super::Error;
use super::record::{self, Effect, Misread};
use super::state::Shared;
use crate::ids::{Index as LogIndex, Revision};
use crate::proto::mvccpb::KeyValue;
use crate::storage::Fault;
use crate::storage::key::{Family, get_value};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Beyond what must be in memory anyway, so much of the newest history stays there, in bytes of keys and values.
const RECENT_BYTES: usize = 4 << 20;

/// Counted for each event beside its key and value.
const EVENT_BYTES: usize = 64;

/// One change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// A deletion: `kv` has the key and the revision only, as etcd tells it.
    pub deleted: bool,
    /// The key as it is from this revision on.
    pub kv: KeyValue,
}

impl Event {
    /// The revision that it belongs to.
    pub fn revision(&self) -> i64 {
        self.kv.mod_revision
    }

    /// About what it takes in memory.
    pub fn size(&self) -> usize {
        EVENT_BYTES + self.kv.key.len() + self.kv.value.len()
    }
}

/// A stretch of history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The events of whole revisions, in order; within a revision in the order in which they were made.
    pub events: Vec<Event>,
    /// The first revision that is not told of: ask from here to go on. What was asked for, if there is nothing new.
    pub next: Revision,
}

/// The newest events.
#[derive(Debug, Default)]
pub struct Recent {
    /// With the record that each one stands in.
    events: VecDeque<(LogIndex, Event)>,
    bytes: usize,
    /// Everything from this revision on is here.
    first: i64,
    /// Records before this one are in the engine.
    unwritten: LogIndex,
}

impl Recent {
    /// Nothing happened yet; the next revision is `first`.
    pub fn begin(&mut self, first: i64) {
        self.first = first;
    }

    /// Adds an event, which stands in `record`.
    pub fn push(&mut self, record: LogIndex, event: Event) {
        self.bytes += event.size();
        self.events.push_back((record, event));
    }

    /// Records before `first_unwritten` are in the engine: their events may go, the oldest revision first, whole.
    pub fn written(&mut self, first_unwritten: LogIndex) {
        self.unwritten = first_unwritten;
        while self.bytes > RECENT_BYTES
            && let Some((record, event)) = self.events.front()
            && *record < self.unwritten
        {
            self.first = event.revision() + 1;
            while let Some((_, event)) = self.events.pop_front_if(|(_, event)| event.revision() < self.first) {
                self.bytes -= event.size();
            }
        }
    }

    /// The events from revision `from` up to `now`, whole revisions while they fit into `max_bytes` (one always does);
    /// `None` if some of them are not here any more.
    fn read(&self, from: i64, now: i64, max_bytes: usize) -> Option<History> {
        if from < self.first {
            return None;
        }
        let start = self.events.partition_point(|(_, event)| event.revision() < from);
        let mut budget = Budget::new(max_bytes);
        for (_, event) in self.events.range(start..) {
            if event.revision() > now || !budget.take(event.clone()) {
                break;
            }
        }
        Some(budget.history(now + 1))
    }
}

/// Where each revision lies: the records that hold events, by the first revision in them.
#[derive(Debug, Default)]
pub struct Records(BTreeMap<i64, LogIndex>);

impl Records {
    /// `record` holds an event of `revision`.
    pub fn note(&mut self, revision: i64, record: LogIndex) {
        if self.0.last_key_value().is_none_or(|(_, last)| *last != record) {
            self.0.insert(revision, record);
        }
    }

    /// `record` was rewritten: the first revision in it was `before`, and is `after`.
    pub fn moved(&mut self, record: LogIndex, before: Option<i64>, after: Option<i64>) {
        if before != after {
            before.map(|revision| self.0.remove(&revision));
            after.map(|revision| self.0.insert(revision, record));
        }
    }

    /// The last record whose first event is of `revision` or earlier: what stands in records before it was there before that.
    pub fn holding(&self, revision: i64) -> Option<LogIndex> {
        self.0.range(..=revision).next_back().map(|(_, record)| *record)
    }

    /// The records that may hold events of `from` and later, oldest first.
    fn from(&self, from: i64) -> impl Iterator<Item = (i64, LogIndex)> {
        let holding = self.0.range(..=from).next_back().map_or(from, |(first, _)| *first);
        self.0.range(holding..).map(|(first, record)| (*first, *record))
    }
}

/// Collects whole revisions up to a number of bytes.
struct Budget {
    events: Vec<Event>,
    left: usize,
    /// Where the revision that is being collected begins.
    whole: usize,
    /// The revision that did not fit.
    stopped: Option<i64>,
}

impl Budget {
    fn new(max_bytes: usize) -> Budget {
        Budget { events: Vec::new(), left: max_bytes, whole: 0, stopped: None }
    }

    /// Adds an event, or says that its revision does not fit.
    fn take(&mut self, event: Event) -> bool {
        let revision = event.revision();
        if self.events.last().is_none_or(|last| last.revision() != revision) {
            self.whole = self.events.len();
        }
        let size = event.size();
        if size > self.left && self.whole > 0 {
            self.events.truncate(self.whole);
            self.stopped = Some(revision);
            return false;
        }
        self.left = self.left.saturating_sub(size);
        self.events.push(event);
        true
    }

    /// What was collected; `end` is where to go on if everything fitted.
    fn history(self, end: i64) -> History {
        History { events: self.events, next: Revision(self.stopped.unwrap_or(end)) }
    }
}

/// Records that are read for one answer at most.
const RECORDS_PER_READ: usize = 64;

/// The newest history: see [`super::View::recent`].
pub fn recent(shared: &Shared, from: i64, max_bytes: usize) -> Option<History> {
    let now = shared.revision();
    shared.read().recent.read(from, now, max_bytes)
}

/// The history from `from` on: see [`super::View::history`].
pub fn read(shared: &Shared, from: i64, max_bytes: usize) -> Result<History, Error> {
    let now = shared.revision();
    let check = |compacted: i64| {
        if from < compacted { Err(Error::Compacted { compacted: Revision(compacted) }) } else { Ok(()) }
    };
    if from > now {
        return Ok(History { events: Vec::new(), next: Revision(from) });
    }
    let (records, end) = {
        let state = shared.read();
        check(state.compacted)?;
        if let Some(history) = state.recent.read(from, now, max_bytes) {
            return Ok(history);
        }
        let mut following = state.records.from(from);
        let records: Vec<LogIndex> = following.by_ref().map(|(_, record)| record).take(RECORDS_PER_READ).collect();
        (records, following.next().map_or(state.recent.first, |(first, _)| first.min(state.recent.first)))
    };
    let mut budget = Budget::new(max_bytes);
    let mut fits = true;
    let mut outcome = Ok(());
    for record in records {
        match read_record(shared, record, from..end, &mut budget) {
            Ok(all) => fits &= all,
            Err(error) => outcome = Err(error),
        }
        if !fits || outcome.is_err() {
            break;
        }
    }
    check(shared.read().compacted)?;
    outcome.map(|()| budget.history(end))
}

/// Adds a record's events of the revisions `wanted`; false if not all fitted.
fn read_record(
    shared: &Shared,
    first: LogIndex,
    wanted: std::ops::Range<i64>,
    budget: &mut Budget,
) -> Result<bool, Error> {
    let key_of = |chunk| Family::Record.key(first, chunk).encode();
    // A record that compaction took away meanwhile is missed for good reason: the caller looks at the mark afterwards.
    let Some(bytes) = get_value(&*shared.engine, key_of).map_err(|error| Error::Disk(error.into()))? else {
        return Ok(true);
    };
    let mut fits = true;
    let outcome = record::read(&bytes, &mut { record::Digest::START }, &mut |effect, _| {
        let event = event(&bytes, &effect).filter(|event| wanted.contains(&event.revision()));
        if let Some(event) = event {
            fits = fits && budget.take(event);
        }
        Ok(())
    });
    let what = || format!("reading state record {first} for its history");
    let fault = |why: Misread| Error::Disk(Fault { what: what(), why: why.to_string() });
    outcome.map(|_| fits).map_err(fault)
}

/// The event that an effect of `record` is, if it is one.
fn event(record: &Bytes, effect: &Effect<'_>) -> Option<Event> {
    match *effect {
        Effect::Put(put) => {
            let kv = KeyValue {
                key: record.slice_ref(put.key),
                create_revision: put.created,
                mod_revision: put.main,
                version: put.version,
                value: record.slice_ref(put.value),
                lease: put.lease,
            };
            Some(Event { deleted: false, kv })
        }
        Effect::Delete { key, main, .. } => {
            let kv = KeyValue { key: record.slice_ref(key), mod_revision: main, ..KeyValue::default() };
            Some(Event { deleted: true, kv })
        }
        _ => None,
    }
}

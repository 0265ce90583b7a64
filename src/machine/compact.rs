//! Compaction: what nobody may read any more goes, a slice at a time.
//!
//! A command raises the mark, the same on all members: readers below it are refused from then on. What they could have seen
//! is taken away later and by each member at its own pace, in slices ([`Machine::sweep`]) that the node puts between its
//! turns; no answer and no digest depends on how far that has come. A pass has two stages:
//!
//! - **Keys.** Every history loses what [`super::versions::History::unseen`] counts. Each version that goes makes the record
//!   that its effect stands in *dirty*.
//! - **Records.** The dirty records, the lowest first, are read, rewritten without what is dead, and written over, as part of
//!   the state's ordinary writes. A record with nothing left becomes a husk, and a husk swallows the husks that follow it.
//!
//! Members, leases, alarms, the configuration, the level and the mark have no history. An effect on one of them is dead when a later one
//! has replaced it ([`Litter`] knows the newest of each). One that only undoes (a lease is gone, an alarm is cleared) is dead
//! for a mark that lies behind it: when it was made, that revision was not there yet. They are swept along. That a member is
//! gone is never dead: its id must never come again.
//!
//! # Why the lowest first
//!
//! After a crash some prefix of the writes is there (`storage`). So a deletion must not be lost from its record before the
//! put that it undoes is lost from another one: after a crash in between, the key would be back. The same goes for a lease
//! that is gone. What is undone always stands in an earlier record than, or in the same as, what undoes it; the latter
//! becomes dirty in the same step or later; and a record is rewritten only when no dirty one lies below it. So in every prefix
//! of the writes, whatever undoes something is there as long as what it undoes is. That a replaced effect is gone while its
//! replacement is there needs no such care: its replacement was written long before the record was rewritten.
//!
//! The mark is written before the first record that was rewritten for it, so whoever finds the latter knows the former. A pass
//! that a crash cut short begins anew at the next start: it finds what is still there.
//!
//! # A pin
//!
//! Another member may take over the records as they are, piece by piece ([`super::takeover`]). A later one that was rewritten
//! must not meet an earlier one that was not: what the later one undid would be back. So the sweep rests while the machine is
//! pinned. Between members the marks say what fits: all that is dead for [`Machine::swept`] is gone from every record here, and
//! nothing that undoes is gone but what was dead for [`Machine::rewritten_for`]. That is why an effect that only undoes stays
//! until the mark lies behind it: then what it undid is dead for that mark on every member.
//!
//! # Husks
//!
//! Records follow each other without gaps, so one with nothing left can't just be deleted. The husk before it takes over its
//! entries (position and digest of its last one), and then it is deleted. After a crash in between it is still there, covered
//! by the husk: recovery passes it over, unread, and deletes it; what it held was dead. Two husks never follow each other for
//! long, so there are at most twice as many records as records with something in them, and one.
//!
//! # Invariants
//!
//! 1. Every record in the engine that holds something dead is dirty, but for those whose rewriting is on its way there.
//! 2. Nothing of the mark's revision or later goes: who follows the store from the mark on misses nothing.
//! 3. A record is read only when no write to it is on its way.
//!
//! May not know: time, and when the next slice is due. Left out: putting records together that have little left.

use super::Machine;
use super::record::{self, Effect, Header, Raised};
use super::state::State;
use crate::ids::{Index as LogIndex, MemberId, Revision};
use crate::storage::key::{Family, Layout, get_laid_out, remove_ops, replace_ops};
use crate::storage::{Fault, Op};
use std::collections::{BTreeMap, BTreeSet};

/// Keys that a slice visits. Tests have small stores, and want more than one slice of them.
const KEYS_PER_SLICE: usize = if cfg!(test) { 3 } else { 2048 };
/// Records that a slice rewrites, and when it has read so many bytes it stops before that.
const RECORDS_PER_SLICE: usize = if cfg!(test) { 4 } else { 32 };
const BYTES_PER_SLICE: usize = 256 << 10;

/// What has no history: of each, only the newest effect counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// A lease.
    Lease(i64),
    /// A member's entry.
    Member(MemberId),
    /// An alarm of a member's.
    Alarm(MemberId, i32),
    /// Who votes and who learns.
    Configuration,
    /// What members agree on.
    Level,
    /// The oldest readable revision.
    Mark,
}

/// Where dead effects lie.
#[derive(Debug, Default)]
pub struct Litter {
    /// The record with the newest effect on each thing that is there.
    newest: BTreeMap<Thing, LogIndex>,
    dirty: BTreeSet<LogIndex>,
    /// Records with effects that only undo, for readers before the next mark.
    undoing: BTreeSet<LogIndex>,
    /// Records with nothing in them.
    husks: BTreeMap<LogIndex, Header>,
}

impl Litter {
    /// `record` says anew what the thing is.
    pub fn replaced(&mut self, thing: Thing, record: LogIndex) {
        let old = self.newest.insert(thing, record).filter(|old| *old != record);
        self.dirty.extend(old);
    }

    /// `record` says that the thing is not there any more.
    pub fn undone(&mut self, thing: Thing, record: LogIndex) {
        self.dirty.extend(self.newest.remove(&thing));
        self.undoing.insert(record);
    }

    /// Nobody needs the effects that only undo in the records before this one.
    fn undone_before(&mut self, record: LogIndex) {
        let kept = self.undoing.split_off(&record);
        self.dirty.extend(std::mem::replace(&mut self.undoing, kept));
    }

    /// The thing is not there any more, which is said by something that stays.
    pub fn ended(&mut self, thing: Thing) {
        self.dirty.extend(self.newest.remove(&thing));
    }

    /// A husk was found at recovery. One that follows another is dirty, so that it will be swallowed.
    pub fn husk(&mut self, header: Header) {
        if self.before(header.first).is_some() {
            self.dirty.insert(header.first);
        }
        self.husks.insert(header.first, header);
    }

    /// The husk that ends just before `first`.
    fn before(&self, first: LogIndex) -> Option<Header> {
        let (_, husk) = self.husks.range(..first).next_back()?;
        (husk.last.index.next() == first).then_some(*husk)
    }
}

/// Whether an effect, which stands in `record`, still says something.
fn lives(state: &State, effect: &Effect<'_>, record: LogIndex, ordinal: u32) -> bool {
    let is_newest = |thing| state.litter.newest.get(&thing) == Some(&record);
    match *effect {
        Effect::Put(put) => state.index.holds(put.key, put.main, record.0, Some(ordinal)),
        Effect::Delete { key, main, .. } => state.index.holds(key, main, record.0, None),
        Effect::Lease { id, .. } => is_newest(Thing::Lease(id)),
        Effect::Member(bytes) => record::decode_member(bytes).is_some_and(|member| is_newest(Thing::Member(member.id))),
        Effect::Compacted { .. } => is_newest(Thing::Mark),
        Effect::Configuration(_) => is_newest(Thing::Configuration),
        Effect::Level(_) => is_newest(Thing::Level),
        Effect::MemberGone { .. } => true,
        Effect::LeaseGone { .. } | Effect::Alarm { raised: Raised::Not, .. } => state.litter.undoing.contains(&record),
        Effect::Applied(_) => false,
        // The records that follow need it as long as one of them is as it was written.
        Effect::Restored { .. } => true,
        Effect::Alarm { member, alarm, .. } => is_newest(Thing::Alarm(member, alarm)),
    }
}

/// How far a pass has come.
#[derive(Debug, Default)]
enum Stage {
    /// There is none.
    #[default]
    Idle,
    /// Histories, those above this key next.
    Keys(Option<Box<[u8]>>),
    /// Records before this one.
    Records(LogIndex),
}

/// The compaction at work.
#[derive(Debug)]
pub struct Pass {
    stage: Stage,
    /// The mark that it works towards; -1 before the first one.
    target: i64,
    /// What nobody can see who reads here or later is gone.
    done: i64,
    /// The run with rewritten records that is on its way to the engine.
    in_flight: Option<u64>,
    /// Records may have been rewritten for this mark, in this life or before.
    rewritten_for: i64,
    /// It rests.
    pinned: bool,
}

impl Pass {
    /// Nothing was swept yet in this life; `compacted` is the mark that was found.
    pub fn new(compacted: i64) -> Pass {
        Pass { stage: Stage::Idle, target: -1, done: -1, in_flight: None, rewritten_for: compacted, pinned: false }
    }

    /// The runs up to `run` are in the engine.
    pub fn written(&mut self, run: u64) {
        self.in_flight = self.in_flight.filter(|in_flight| *in_flight > run);
    }
}

/// Husks in a row, to be written as one.
struct Row {
    header: Header,
    /// Of the record, or the husk, that it takes the place of.
    layout: Layout,
    /// The others.
    swallowed: Vec<(LogIndex, Layout)>,
}

impl Machine {
    /// Whether [`Machine::sweep`] has something to do now.
    pub fn sweeps(&self) -> bool {
        let state = self.shared.read();
        match &self.pass.stage {
            _ if self.pass.in_flight.is_some() || self.pass.pinned => false,
            Stage::Idle => state.compacted > self.pass.target,
            Stage::Keys(_) => true,
            Stage::Records(end) => match state.litter.dirty.first() {
                Some(first) if first < end => *first < self.first_unwritten(),
                _ => true,
            },
        }
    }

    /// What nobody can see who reads at this revision or later is gone from this member's memory and disk. Below 1 as long as
    /// nothing was.
    pub fn swept(&self) -> Revision {
        Revision(self.pass.done)
    }

    /// Nothing that undoes is gone from this member's records but what was dead for this revision.
    pub fn rewritten_for(&self) -> Revision {
        Revision(self.pass.rewritten_for)
    }

    /// The sweep rests until [`Machine::unpin`]: no record in the engine changes, but for writes on their way.
    pub fn pin(&mut self) {
        self.pass.pinned = true;
    }

    /// The sweep may go on.
    pub fn unpin(&mut self) {
        self.pass.pinned = false;
    }

    /// Whether no record in the engine changes: it is pinned, and what was on its way is there.
    pub fn is_at_rest(&self) -> bool {
        self.pass.pinned && self.pass.in_flight.is_none()
    }

    /// Whether a pass is under way, its last writes included, or due.
    pub fn is_sweeping(&self) -> bool {
        let idle = matches!(self.pass.stage, Stage::Idle) && self.pass.in_flight.is_none();
        !idle || self.shared.read().compacted > self.pass.target
    }

    /// Carries out a slice of the compaction and appends its writes to `ops`. To be called when everything applied is sealed.
    /// Returns a number for [`Machine::written`] if there are writes.
    ///
    /// # Errors
    /// The disk failed, or a record is not what was written.
    pub fn sweep(&mut self, ops: &mut Vec<Op>) -> Result<Option<u64>, Fault> {
        if !self.sweeps() {
            return Ok(None);
        }
        assert!(self.record.last().is_none() && self.closed.is_empty(), "a sweep comes after a seal");
        match std::mem::take(&mut self.pass.stage) {
            Stage::Idle => {
                let mut state = self.shared.write();
                self.pass.target = state.compacted;
                self.pass.rewritten_for = state.compacted;
                let State { records, litter, .. } = &mut *state;
                records.holding(self.pass.target).into_iter().for_each(|record| litter.undone_before(record));
                self.pass.stage = Stage::Keys(None);
                Ok(None)
            }
            Stage::Keys(after) => {
                let next = self.sweep_keys(after.as_deref());
                self.pass.stage = next.map_or(Stage::Records(self.record.first()), |after| Stage::Keys(Some(after)));
                Ok(None)
            }
            Stage::Records(end) => {
                let written = ops.len();
                if self.sweep_records(end, ops)? {
                    self.pass.done = self.pass.target;
                } else {
                    self.pass.stage = Stage::Records(end);
                }
                let bytes = ops[written..].iter().map(Op::size).sum();
                Ok((ops.len() > written).then(|| {
                    let run = self.begin_run(bytes);
                    self.pass.in_flight = Some(run);
                    run
                }))
            }
        }
    }

    fn sweep_keys(&self, after: Option<&[u8]>) -> Option<Box<[u8]>> {
        let mut state = self.shared.write();
        let State { index, litter, .. } = &mut *state;
        let mut dropped = 0;
        let next = index.compact(self.pass.target, after, KEYS_PER_SLICE, &mut |_, version| {
            litter.dirty.insert(LogIndex(version.record));
            dropped += 1;
        });
        self.shared.count_dropped(dropped);
        next
    }

    /// Rewrites the lowest dirty records; whether there are none left below `end`.
    fn sweep_records(&self, end: LogIndex, ops: &mut Vec<Op>) -> Result<bool, Fault> {
        let (mut count, mut bytes) = (0, 0);
        let mut row: Option<Row> = None;
        let finished = loop {
            let Some(first) = self.shared.read().litter.dirty.first().copied().filter(|first| *first < end) else {
                break true;
            };
            if first >= self.first_unwritten() || count == RECORDS_PER_SLICE || bytes >= BYTES_PER_SLICE {
                break false;
            }
            let fault = |why: String| Fault { what: format!("rewriting state record {first}"), why };
            let key_of = |chunk| Family::Record.key(first, chunk).encode();
            let found = get_laid_out(&*self.shared.engine, key_of)?;
            let (record, layout) = found.ok_or_else(|| fault("it is not there".to_string()))?;
            (count, bytes) = (count + 1, bytes + record.len());
            let rewritten = {
                let state = self.shared.read();
                record::rewrite(&record, &mut |effect, ordinal| lives(&state, effect, first, ordinal))
                    .map_err(|why| fault(why.to_string()))?
            };
            let mut state = self.shared.write();
            state.litter.dirty.remove(&first);
            state.records.moved(first, rewritten.first_before, rewritten.first_after);
            match rewritten.bytes {
                None => row = Some(self.extend(&mut state, row.take(), rewritten.header, layout, ops)),
                Some(_) if rewritten.dropped == 0 => {}
                Some(bytes) => {
                    row.take().into_iter().for_each(|row| close(&mut state, row, ops));
                    drop(state);
                    replace_ops(key_of, layout, &bytes, ops);
                }
            }
        };
        row.into_iter().for_each(|row| close(&mut self.shared.write(), row, ops));
        Ok(finished)
    }

    /// Makes the empty record with this header part of the row that it follows, or begins a row with it.
    fn extend(&self, state: &mut State, row: Option<Row>, header: Header, layout: Layout, ops: &mut Vec<Op>) -> Row {
        let (first, last, digest) = (header.first, header.last, header.digest);
        let row = match row {
            Some(row) if row.header.last.index.next() == first => Some(row),
            other => {
                other.into_iter().for_each(|row| close(state, row, ops));
                let before = state.litter.before(first);
                before.map(|header| Row { header, layout: Layout::ONE, swallowed: Vec::new() })
            }
        };
        match row {
            Some(mut row) => {
                (row.header.last, row.header.digest) = (last, digest);
                row.swallowed.push((first, layout));
                row
            }
            None => Row { header, layout, swallowed: Vec::new() },
        }
    }
}

/// Writes a row as one husk, with the husk that follows it.
fn close(state: &mut State, mut row: Row, ops: &mut Vec<Op>) {
    let litter = &mut state.litter;
    if let Some(next) = litter.husks.get(&row.header.last.index.next()) {
        (row.header.last, row.header.digest) = (next.last, next.digest);
        row.swallowed.push((next.first, Layout::ONE));
    }
    let key_of = |first: LogIndex| move |chunk| Family::Record.key(first, chunk).encode();
    replace_ops(key_of(row.header.first), row.layout, &record::husk(row.header), ops);
    litter.husks.insert(row.header.first, row.header);
    for (first, layout) in row.swallowed {
        litter.husks.remove(&first);
        litter.dirty.remove(&first);
        remove_ops(key_of(first), layout, ops);
    }
}

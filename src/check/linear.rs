//! The search for an order, after Wing and Gong, with Lowe's memory of where it has been.
//!
//! An operation can come next if every operation that returned before it was asked for has had its turn. The search does
//! one such operation on the [`Model`]; if the answer is the one that was given it goes on from there, else it tries
//! another; with none left it takes the last one back. A state (which operations are done, and what the store is then)
//! that was met before failed before, so each is visited once. An operation of unknown outcome has no answer to compare
//! and no end: it can come next at any time after it was asked for, or never.
//!
//! Two ways to look at a store:
//!
//! - *The whole* ([`Scope::Newest`], [`Scope::Past`]): answers are compared with all their numbers. A revision leaves few
//!   operations that can come next, so long histories cost little. An operation of unknown outcome is tried only where no
//!   acknowledged write has the next revision; if its value was shown, only at the revision with which it was; and never
//!   where its keys are shown unchanged ([`super::quiet`]).
//! - *Key by key*, if the store is shared, so that its revisions are not ours to explain: operations on different keys are
//!   searched apart (a transaction or a range joins its keys), for an order that is right for each part is right for all.
//!   Values, versions and existence are compared, revisions are not; a compare of one may come out either way.
//!
//! Left out: serializable reads, which need not be in the order; old revisions, key by key; the smallest set of operations
//! that already contradict each other (the violation names the first answer that no order explains).

use super::history::{Call, Compare, Operation, Outcome as Ended, Pair, Relation, Reply, Target};
use super::model::{Applied, Model, Scope, digest};
use super::parts;
use super::quiet::Quiet;
use super::{Witness, changed, is_serializable};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Beyond so many ways through one transaction of unknown outcome it is not searched.
const WAYS_MAX: usize = 64;
/// Operations beside the blocked one that a violation names.
const BESIDE_MAX: usize = 8;

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is an order in which every answer is right.
    Linearizable,
    /// There is none.
    Violation(Violation),
    /// The budget was used up first: so many states were visited.
    Unknown(u64),
}

/// Why there is no order: the shortest beginning of the history that has none, by its last answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What returned before this operation did can be ordered; with it no order is left.
    pub blocked: Witness,
    /// Operations on the same keys that overlap it, at most eight.
    pub beside: Vec<Witness>,
}

impl Violation {
    /// The operations it is about.
    pub fn witnesses(&self) -> Vec<&Witness> {
        [&self.blocked].into_iter().chain(&self.beside).collect()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no order of the operations explains the answer to {}", self.blocked)
    }
}

/// Searches; `shared` as in [`super::Options`].
pub fn check(history: &[Operation], shared: bool, states_max: u64) -> Outcome {
    let Some(entries) = entries(history, shared) else { return Outcome::Unknown(0) };
    let old = entries.iter().flat_map(|entry| &entry.calls).any(reads_old);
    let (scope, parts) = match (shared, old) {
        (true, _) => (Scope::Values, apart(entries)),
        (false, true) => (Scope::Past, vec![entries]),
        (false, false) => (Scope::Newest, vec![entries]),
    };
    let mut visited = 0;
    for part in parts {
        let mut search = Search::new(history, &part, scope);
        let found = search.run(states_max.saturating_sub(visited));
        visited += search.visited;
        match found {
            Some(true) => {}
            Some(false) => return Outcome::Violation(search.violation(history)),
            None => return Outcome::Unknown(visited),
        }
    }
    Outcome::Linearizable
}

/// An operation as the search sees it.
#[derive(Clone, Debug)]
struct Entry {
    place: usize,
    invoked: u64,
    /// What it may have been; more than one only if its outcome is unknown.
    calls: Vec<Call>,
    /// None: its outcome is unknown.
    answer: Option<Answer>,
    /// The revision at which an answer shows it, if it does.
    shown_at: Option<i64>,
}

impl Entry {
    fn only_reads(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !changed(&answer.reply))
    }
}

#[derive(Clone, Debug)]
struct Answer {
    returned: u64,
    revision: i64,
    reply: Reply,
}

/// Everything that has to be in the order, by the time it was asked for; `None` if that is too much.
fn entries(history: &[Operation], shared: bool) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for (place, Operation { invoked, returned, call, outcome, .. }) in history.iter().enumerate() {
        let (calls, answer) = match outcome {
            Ended::Done { .. } if is_serializable(call) => continue,
            Ended::Done { revision, reply } => {
                let whole = Some((call.clone(), reply.clone()));
                let Some((call, reply)) = (if shared { answered_part(call, reply) } else { whole }) else { continue };
                (vec![call], Some(Answer { returned: *returned, revision: *revision, reply }))
            }
            Ended::Unknown(_) if parts::may_write(call).is_empty() => continue,
            Ended::Unknown(_) => (if shared { ways(call)? } else { vec![call.clone()] }, None),
            Ended::Refused(_) | Ended::Compacted => continue,
        };
        entries.push(Entry { place, invoked: *invoked, calls, answer, shown_at: None });
    }
    entries.sort_by_key(|entry| (entry.invoked, entry.place));
    if !shared {
        mark_shown(&mut entries, history);
    }
    Some(entries)
}

/// Notes for operations of unknown outcome the revision of a value that only they can have written.
fn mark_shown(entries: &mut [Entry], history: &[Operation]) {
    let mut writers: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (place, operation) in history.iter().enumerate() {
        for write in parts::may_write(&operation.call) {
            if let Some(value) = write.value {
                writers.entry((write.key, value)).or_default().push(place);
            }
        }
    }
    let mut shown: BTreeMap<usize, i64> = BTreeMap::new();
    for operation in history.iter().filter(|operation| !is_serializable(&operation.call)) {
        let Ended::Done { reply, .. } = &operation.outcome else { continue };
        for pair in parts::gets(&operation.call, reply).iter().flat_map(|got| got.pairs) {
            if let Some([writer]) = writers.get(&(pair.key.as_str(), pair.value.as_str())).map(Vec::as_slice) {
                shown.insert(*writer, pair.mod_revision);
            }
        }
    }
    for entry in entries.iter_mut().filter(|entry| entry.answer.is_none()) {
        entry.shown_at = shown.get(&entry.place).copied();
    }
}

fn reads_old(call: &Call) -> bool {
    match call {
        Call::Get { revision, .. } => *revision > 0,
        Call::Put { .. } | Call::Delete { .. } | Call::Compact { .. } => false,
        Call::Txn { then, otherwise, .. } => then.iter().chain(otherwise).any(reads_old),
    }
}

fn is_of_revision(compare: &Compare) -> bool {
    matches!(compare.target, Target::ModRevision(_) | Target::CreateRevision(_))
}

/// A compare that holds of nothing.
fn never(key: &str) -> Compare {
    Compare { key: key.to_owned(), target: Target::Version(0), relation: Relation::Less }
}

/// What of an answered call can be judged without revisions, the branch it took with it.
fn answered_part(call: &Call, reply: &Reply) -> Option<(Call, Reply)> {
    match (call, reply) {
        (Call::Get { revision, .. }, _) if *revision > 0 => None,
        (Call::Get { .. }, Reply::Got(pairs)) => {
            let plain = |pair: &Pair| Pair { mod_revision: 0, create_revision: 0, ..pair.clone() };
            Some((call.clone(), Reply::Got(pairs.iter().map(plain).collect())))
        }
        (Call::Txn { compare, .. }, Reply::Txn(held, replies)) => {
            let parts = parts::taken(call, *held).iter().zip(replies);
            let (calls, replies) = parts.filter_map(|(call, reply)| answered_part(call, reply)).unzip();
            let (of_revision, plain): (Vec<Compare>, Vec<Compare>) = compare.iter().cloned().partition(is_of_revision);
            let call = match (held, of_revision.first()) {
                (true, _) => Call::Txn { compare: plain, then: calls, otherwise: Vec::new() },
                (false, None) => Call::Txn { compare: plain, then: Vec::new(), otherwise: calls },
                (false, Some(any)) => Call::Txn { compare: vec![never(&any.key)], then: Vec::new(), otherwise: calls },
            };
            Some((call, Reply::Txn(*held, replies)))
        }
        _ => Some((call.clone(), reply.clone())),
    }
}

/// What a call of unknown outcome may be if compares of revisions come out either way; `None` if that is too much.
fn ways(call: &Call) -> Option<Vec<Call>> {
    let Call::Txn { compare, then, otherwise } = call else { return Some(vec![call.clone()]) };
    let (of_revision, plain): (Vec<Compare>, Vec<Compare>) = compare.iter().cloned().partition(is_of_revision);
    let (thens, otherwises) = (branch_ways(then)?, branch_ways(otherwise)?);
    let mut all = Vec::new();
    for then in &thens {
        for otherwise in &otherwises {
            let (then, otherwise) = (then.clone(), otherwise.clone());
            all.push(Call::Txn { compare: plain.clone(), then, otherwise });
        }
    }
    if let Some(any) = of_revision.first() {
        let fails = |otherwise| Call::Txn { compare: vec![never(&any.key)], then: Vec::new(), otherwise };
        all.extend(otherwises.into_iter().map(fails));
    }
    (all.len() <= WAYS_MAX).then_some(all)
}

fn branch_ways(branch: &[Call]) -> Option<Vec<Vec<Call>>> {
    let mut all: Vec<Vec<Call>> = vec![Vec::new()];
    for call in branch.iter().filter(|call| !matches!(call, Call::Get { .. })) {
        let next = ways(call)?;
        all = all
            .iter()
            .flat_map(|way| next.iter().map(|call| [&way[..], std::slice::from_ref(call)].concat()))
            .collect();
        if all.len() > WAYS_MAX {
            return None;
        }
    }
    Some(all)
}

/// Splits entries into parts that share no key.
fn apart(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut keys: BTreeMap<String, usize> = BTreeMap::new();
    let named: Vec<Vec<(&str, Option<&str>)>> =
        entries.iter().map(|entry| entry.calls.iter().flat_map(ranges).collect()).collect();
    for (key, _) in named.iter().flatten() {
        let next = keys.len();
        keys.entry((*key).to_owned()).or_insert(next);
    }
    let mut group: Vec<usize> = (0..keys.len()).collect();
    fn root(group: &mut [usize], mut at: usize) -> usize {
        while group[at] != at {
            group[at] = group[group[at]];
            at = group[at];
        }
        at
    }
    let mut firsts = Vec::new();
    for ranges in &named {
        let mut first: Option<usize> = None;
        for (key, end) in ranges {
            let covered =
                keys.range(key.to_string()..).take_while(|(of, _)| *of == key || parts::within(of, key, *end));
            for (_, &number) in covered {
                let joined = root(&mut group, number);
                let first = *first.get_or_insert(joined);
                let first = root(&mut group, first);
                group[joined] = first;
            }
        }
        firsts.push(first);
    }
    let mut parts: BTreeMap<Option<usize>, Vec<Entry>> = BTreeMap::new();
    for (entry, first) in entries.into_iter().zip(firsts) {
        let part = first.map(|first| root(&mut group, first));
        parts.entry(part).or_default().push(entry);
    }
    parts.into_values().collect()
}

/// Every key and range that a call names.
fn ranges(call: &Call) -> Vec<(&str, Option<&str>)> {
    match call {
        Call::Put { key, .. } => vec![(key, None)],
        Call::Compact { .. } => Vec::new(),
        Call::Get { key, end, .. } | Call::Delete { key, end } => vec![(key, end.as_deref())],
        Call::Txn { compare, then, otherwise } => {
            let compared = compare.iter().map(|compare| (compare.key.as_str(), None));
            compared.chain(then.iter().chain(otherwise).flat_map(ranges)).collect()
        }
    }
}

/// Where the choice of the next operation stands: first the answered ones in the list, then the others.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    is_new: bool,
    event: usize,
    open: usize,
    way: usize,
}

/// An operation that was done, how to take it back, and where to go on then.
struct Frame {
    entry: usize,
    applied: Applied,
    /// None: there was no other choice.
    resume: Option<Cursor>,
}

/// The list's beginning and end.
const END: usize = 0;

struct Search<'a> {
    entries: &'a [Entry],
    scope: Scope,
    model: Model,
    /// Calls (true) and returns of answered entries that are not done, in the order of time: a list in which an event knows
    /// the one before and after it, so that an entry is taken out and put back at no cost.
    events: Vec<(bool, usize)>,
    before: Vec<usize>,
    after: Vec<usize>,
    /// By entry: its two events.
    ends: Vec<(usize, usize)>,
    /// Entries of unknown outcome, by time; and which of all entries are done.
    open: Vec<usize>,
    done: Vec<bool>,
    left: usize,
    /// Of the set of entries that are done.
    fingerprint: u128,
    /// Revisions of which an answer says who made them.
    reserved: BTreeMap<i64, usize>,
    quiet: Quiet<'a>,
    visited: u64,
    /// The latest return that could not be passed so far.
    blocked: Option<usize>,
}

impl<'a> Search<'a> {
    fn new(history: &'a [Operation], entries: &'a [Entry], scope: Scope) -> Search<'a> {
        let mut times: Vec<(u64, bool, usize)> = Vec::new();
        for (number, entry) in entries.iter().enumerate() {
            if let Some(answer) = &entry.answer {
                times.push((entry.invoked, false, number));
                // An answer can't be older than its question, whatever the file says.
                times.push((answer.returned.max(entry.invoked), true, number));
            }
        }
        // What ends at the moment when another begins overlaps it.
        times.sort_unstable();
        let mut events = vec![(false, usize::MAX)];
        let mut ends = vec![(END, END); entries.len()];
        for (_, returns, number) in times {
            if returns {
                ends[number].1 = events.len()
            } else {
                ends[number].0 = events.len()
            }
            events.push((!returns, number));
        }
        let count = events.len();
        let open: Vec<usize> = (0..entries.len()).filter(|&number| entries[number].answer.is_none()).collect();
        let reserved = entries.iter().enumerate().filter_map(|(number, entry)| {
            let acknowledged = entry.answer.as_ref().filter(|answer| changed(&answer.reply));
            Some((acknowledged.map(|answer| answer.revision).or(entry.shown_at)?, number))
        });
        let reserved = reserved.collect();
        Search {
            entries,
            scope,
            model: Model::new(scope),
            before: (0..count).map(|at| (at + count - 1) % count).collect(),
            after: (0..count).map(|at| (at + 1) % count).collect(),
            events,
            ends,
            done: vec![false; entries.len()],
            left: entries.iter().filter(|entry| entry.answer.is_some()).count(),
            fingerprint: 0,
            reserved,
            quiet: Quiet::of(history, open.iter().flat_map(|&number| &entries[number].calls)),
            open,
            visited: 0,
            blocked: None,
        }
    }

    /// Whether there is an order; `None` if that was not found out within the budget.
    fn run(&mut self, states_max: u64) -> Option<bool> {
        let mut stack: Vec<Frame> = Vec::new();
        let mut met: BTreeSet<u128> = BTreeSet::new();
        let mut cursor = Some(self.begin());
        while self.left > 0 {
            let Some(frame) = cursor.as_mut().and_then(|cursor| self.step(cursor)) else {
                let Some(Frame { entry, applied, resume }) = stack.pop() else { return Some(false) };
                self.put_back(entry);
                self.model.undo(&applied);
                cursor = resume;
                continue;
            };
            if !met.insert(self.fingerprint ^ digest(&("done", frame.entry)) ^ self.model.fingerprint()) {
                self.model.undo(&frame.applied);
                cursor = frame.resume;
                continue;
            }
            self.visited += 1;
            if self.visited > states_max {
                return None;
            }
            self.take_out(frame.entry);
            stack.push(frame);
            cursor = Some(self.begin());
        }
        Some(true)
    }

    /// The next choice that explains its answer. An answer that can be right now, and changes nothing, is no choice:
    /// whatever order there is, there is one in which it comes first.
    fn step(&mut self, cursor: &mut Cursor) -> Option<Frame> {
        let mut event = if cursor.is_new { self.after[END] } else { END };
        cursor.is_new = false;
        while self.events[event].0 {
            let entry = self.events[event].1;
            if self.entries[entry].only_reads()
                && let Some(applied) = self.explains(entry, 0)
            {
                return Some(Frame { entry, applied, resume: None });
            }
            event = self.after[event];
        }
        while let Some((entry, way)) = self.next(cursor) {
            if let Some(applied) = self.explains(entry, way) {
                return Some(Frame { entry, applied, resume: Some(*cursor) });
            }
        }
        None
    }

    /// The choice from its beginning; notes how far the search has come.
    fn begin(&mut self) -> Cursor {
        let mut event = self.after[END];
        while event != END && self.events[event].0 {
            event = self.after[event];
        }
        if event != END && self.blocked.is_none_or(|blocked| self.ends[blocked].1 < event) {
            self.blocked = Some(self.events[event].1);
        }
        Cursor { is_new: true, event: self.after[END], open: 0, way: 0 }
    }

    /// The next entry that can come next, and as what.
    fn next(&self, cursor: &mut Cursor) -> Option<(usize, usize)> {
        while self.events[cursor.event].0 {
            let entry = self.events[cursor.event].1;
            cursor.event = self.after[cursor.event];
            if !self.entries[entry].only_reads() {
                return Some((entry, 0));
            }
        }
        let entry = self.events[cursor.event].1;
        // The first return: whatever was asked for later has to wait for it.
        let limit = self.entries[entry].answer.as_ref().map_or(0, |answer| answer.returned);
        while let Some(&entry) = self.open.get(cursor.open).filter(|&&entry| self.entries[entry].invoked <= limit) {
            if !self.done[entry] && cursor.way < self.entries[entry].calls.len() {
                cursor.way += 1;
                return Some((entry, cursor.way - 1));
            }
            *cursor = Cursor { open: cursor.open + 1, way: 0, ..*cursor };
        }
        None
    }

    /// Does an entry if its answer is then right; of one without an answer only changes matter.
    fn explains(&mut self, entry: usize, way: usize) -> Option<Applied> {
        let Entry { calls, answer, .. } = &self.entries[entry];
        if answer.is_none() && self.scope != Scope::Values && !self.may_be_next(entry, &calls[way]) {
            return None;
        }
        let applied = self.model.apply(&calls[way])?;
        let right = match answer {
            Some(answer) => {
                applied.reply == answer.reply && (self.scope == Scope::Values || applied.revision == answer.revision)
            }
            None => applied.changes(),
        };
        if !right {
            self.model.undo(&applied);
        }
        right.then_some(applied)
    }

    /// Whether no answer says that an entry of unknown outcome, or the next revision, belongs elsewhere.
    fn may_be_next(&self, entry: usize, call: &Call) -> bool {
        let revision = self.model.revision() + 1;
        self.entries[entry].shown_at.is_none_or(|at| at == revision)
            && self.reserved.get(&revision).is_none_or(|other| *other == entry)
            && self.quiet.may_change(call, revision)
    }

    fn take_out(&mut self, entry: usize) {
        self.fingerprint ^= digest(&("done", entry));
        self.done[entry] = true;
        if self.entries[entry].answer.is_some() {
            self.left -= 1;
            for event in [self.ends[entry].0, self.ends[entry].1] {
                self.after[self.before[event]] = self.after[event];
                self.before[self.after[event]] = self.before[event];
            }
        }
    }

    fn put_back(&mut self, entry: usize) {
        self.fingerprint ^= digest(&("done", entry));
        self.done[entry] = false;
        if self.entries[entry].answer.is_some() {
            self.left += 1;
            for event in [self.ends[entry].1, self.ends[entry].0] {
                self.after[self.before[event]] = event;
                self.before[self.after[event]] = event;
            }
        }
    }

    fn violation(&self, history: &[Operation]) -> Violation {
        let blocked = &self.entries[self.blocked.unwrap_or(0)];
        let until = blocked.answer.as_ref().map_or(0, |answer| answer.returned);
        let overlaps = |entry: &&Entry| {
            let ends = entry.answer.as_ref().map_or(u64::MAX, |answer| answer.returned);
            entry.place != blocked.place && entry.invoked <= until && ends >= blocked.invoked
        };
        // The latest ones first: of those without an end there may be many.
        let beside = self.entries.iter().rev().filter(overlaps).take(BESIDE_MAX);
        Violation {
            blocked: Witness::of(history, blocked.place),
            beside: beside.map(|entry| Witness::of(history, entry.place)).collect(),
        }
    }
}

//! What a member holds of the replicated log.
//!
//! The newest entries are in memory; the whole log is on the disk. The *terms* of the whole log are in memory too, as runs
//! (a term covers thousands of entries), so that every question of the protocol about "which term stands at index i" is
//! answered at once, and only the payload for a follower far behind must be fetched.
//!
//! ```text
//!   base        memory_first              last
//!    |  on disk only  |  in memory and on disk  |
//! ---+----------------+-------------------------+
//! ```
//!
//! Everything up to the *base* was compacted away: the log remembers of it only where it ended, for that is what precedes
//! the first entry that is left. The disk may still hold some of it; nobody asks.
//!
//! # Invariants
//!
//! 1. Entries are contiguous from `base + 1` to `last`; terms never decrease.
//! 2. What is in memory is a suffix.
//! 3. Only entries that were applied leave the memory, so whatever may still be truncated or applied is there.
//! 4. Only entries that were applied are compacted away, so the base is committed.
//!
//! It may not know what is durable (`raft.rs` keeps that) nor what is committed.

use super::message::Entry;
use crate::ids::{Index, Position, Term};
use std::collections::VecDeque;

/// What is asked of the log by index may be in memory, on the disk only, or not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slice {
    /// Contiguous from the index asked for; not empty.
    Entries(Vec<Entry>),
    /// The first entry asked for has left the memory.
    OnDisk,
    /// Past the end.
    Past,
}

/// The log. See the module's essay.
#[derive(Clone, Debug)]
pub struct Log {
    base: Position,
    runs: Vec<(Index, Term)>,
    last: Index,
    memory: VecDeque<Entry>,
    memory_bytes: usize,
}

impl Log {
    /// A log with nothing in it.
    pub fn empty() -> Log {
        Log { base: Position::default(), runs: Vec::new(), last: Index(0), memory: VecDeque::new(), memory_bytes: 0 }
    }

    /// A log as found on the disk: what came before its first entry, the runs of its terms, its end, and its newest entries.
    /// Runs may begin at or below the base, where a record on the disk does.
    ///
    /// # Panics
    /// If the parts contradict each other: the log store has verified them.
    pub fn restore(base: Position, runs: Vec<(Index, Term)>, last: Position, tail: Vec<Entry>) -> Log {
        assert_eq!(runs.last().map_or(base.term, |run| run.1), last.term, "the last run is not of the last term");
        assert!(base.index <= last.index, "a log that begins after {base} and ends at {last}");
        assert_eq!(tail.last().map_or(last, |e| e.position), last, "the tail does not end where the log ends");
        let first = runs.first().map_or(base.index.next(), |run| run.0);
        assert!(first <= base.index.next(), "the terms after {base} are unknown up to {first}");
        let memory_bytes = tail.iter().map(Entry::size).sum();
        let mut log = Log { base, runs, last: last.index, memory: tail.into(), memory_bytes };
        log.forget_below();
        log
    }

    /// What precedes the first entry.
    pub fn base(&self) -> Position {
        self.base
    }

    /// Forgets `index` and everything before it, but for its term. Below the base there is nothing left to forget.
    ///
    /// # Panics
    /// If the log ends before.
    pub fn compact_to(&mut self, index: Index) {
        assert!(index <= self.last, "a compaction at {index} of a log that ends at {}", self.last);
        if index > self.base.index {
            self.base = self.position_at(index).expect("within the log");
            self.forget_below();
        }
    }

    /// Drops runs and entries that the base covers.
    fn forget_below(&mut self) {
        let first = self.base.index.next();
        let covering = self.runs.partition_point(|(start, _)| *start <= first);
        self.runs.drain(..covering.saturating_sub(1));
        if let Some(run) = self.runs.first_mut() {
            run.0 = run.0.max(first);
        }
        self.runs.retain(|(start, _)| *start <= self.last);
        while self.memory.front().is_some_and(|e| e.position.index < first) {
            let entry = self.memory.pop_front().expect("just seen");
            self.memory_bytes -= entry.size();
        }
    }

    /// Where the log ends.
    pub fn last(&self) -> Position {
        Position { index: self.last, term: self.runs.last().map_or(self.base.term, |run| run.1) }
    }

    /// The term at `index`; `None` past the end or before the base.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        Some(self.runs[run - 1].1)
    }

    /// The position at `index`.
    pub fn position_at(&self, index: Index) -> Option<Position> {
        self.term_at(index).map(|term| Position { index, term })
    }

    /// Appends an entry.
    ///
    /// # Panics
    /// If it does not follow the last one.
    pub fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(entry.position.index, last.index.next(), "an entry that does not follow {last}");
        assert!(entry.position.term >= last.term, "{} after {last}: a term that decreases", entry.position);
        if entry.position.term > last.term || self.runs.is_empty() {
            self.runs.push((entry.position.index, entry.position.term));
        }
        self.last = entry.position.index;
        self.memory_bytes += entry.size();
        self.memory.push_back(entry);
    }

    /// Removes the entry at `from` and all that follow.
    pub fn truncate_from(&mut self, from: Index) {
        assert!(from > self.base.index, "truncation at {from} reaches below the base {}", self.base);
        while self.memory.back().is_some_and(|e| e.position.index >= from) {
            let entry = self.memory.pop_back().expect("just seen");
            self.memory_bytes -= entry.size();
        }
        self.runs.retain(|(first, _)| *first < from);
        self.last = self.last.min(from.prev());
    }

    /// Entries from `from` on, cut at `max_bytes`, but one at least.
    pub fn slice(&self, from: Index, max_bytes: usize) -> Slice {
        if from > self.last {
            return Slice::Past;
        }
        let Some(first) = self.memory.front().map(|e| e.position.index).filter(|first| from >= *first) else {
            return Slice::OnDisk;
        };
        let start = usize::try_from(from.0 - first.0).expect("a log in memory fits in memory");
        let mut bytes = 0;
        let entries: Vec<Entry> = self
            .memory
            .range(start..)
            .take_while(|entry| {
                let fits = bytes == 0 || bytes + entry.size() <= max_bytes;
                bytes += entry.size();
                fits
            })
            .cloned()
            .collect();
        Slice::Entries(entries)
    }

    /// Lets go of the oldest entries in memory, none after `applied`, while they take more than `budget` bytes.
    pub fn evict(&mut self, applied: Index, budget: usize) {
        while self.memory_bytes > budget && self.memory.front().is_some_and(|e| e.position.index <= applied) {
            let entry = self.memory.pop_front().expect("just seen");
            self.memory_bytes -= entry.size();
        }
    }

    /// The last position at or before `index` whose term is not above `term`: where a log that has `term` at `index` could
    /// still agree with this one. Skips whole terms (Raft §5.3, "the optimisation"). `None` if it is below the base.
    pub fn last_not_above(&self, index: Index, term: Term) -> Option<Position> {
        if index < self.base.index || term < self.base.term {
            return None;
        }
        let index = index.min(self.last);
        let run = self.runs.partition_point(|(first, t)| *first <= index && *t <= term);
        let end = self.runs.get(run).map_or(index, |(first, _)| first.prev().min(index));
        self.position_at(end)
    }

    /// The entries after `index` that are in memory: all that are not applied, if `index` is.
    pub fn in_memory_after(&self, index: Index) -> impl Iterator<Item = &Entry> {
        let skip = self.memory.front().map_or(0, |first| index.next().0.saturating_sub(first.position.index.0));
        self.memory.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }

    /// Whether everything after `index` is in memory.
    pub fn holds_after(&self, index: Index) -> bool {
        self.memory.front().map_or(self.last, |first| first.position.index.prev()) <= index
    }

    /// Bytes of the entries after `index`, as far as they are in memory.
    pub fn bytes_after(&self, index: Index) -> usize {
        self.memory.iter().rev().take_while(|e| e.position.index > index).map(Entry::size).sum()
    }

    /// Bytes that the entries in memory take.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RequestId;
    use crate::raft::EntryKind;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn entry(index: u64, term: u64) -> Entry {
        let position = Position { index: Index(index), term: Term(term) };
        Entry::new(position, EntryKind::Command, RequestId::default(), Bytes::from_static(b"x"))
    }

    fn log_of(terms: &[u64]) -> Log {
        let mut log = Log::empty();
        for (i, term) in terms.iter().enumerate() {
            log.append(entry(i as u64 + 1, *term));
        }
        log
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_vector(
            mut terms in proptest::collection::vec(1u64..6, 0..30),
            cut in 1u64..30,
            more in proptest::collection::vec(6u64..8, 0..5),
            applied in 0u64..30,
            compacted in 0u64..40,
        ) {
            terms.sort_unstable();
            let mut log = log_of(&terms);
            log.truncate_from(Index(cut));
            terms.truncate(cut as usize - 1);
            for term in more {
                let term = term.max(terms.last().copied().unwrap_or(0));
                terms.push(term);
                log.append(entry(terms.len() as u64, term));
            }
            log.evict(Index(applied), 0);
            let base = if compacted > terms.len() as u64 { 0 } else { compacted };
            log.compact_to(Index(base));
            let whole = log.clone();
            log.compact_to(Index(base / 2));
            prop_assert_eq!(format!("{log:?}"), format!("{whole:?}"), "a compaction below the base is nothing");
            let at = |i: u64| match i {
                _ if i < base => None,
                0 => Some(0),
                _ => terms.get(i as usize - 1).copied(),
            };
            prop_assert!(log.runs.is_sorted_by(|one, next| one.1 < next.1), "two runs of one term: {:?}", log.runs);
            prop_assert_eq!(log.base().index.0, base);
            prop_assert_eq!(log.last().index.0, terms.len() as u64);
            for i in 0..35 {
                prop_assert_eq!(log.term_at(Index(i)).map(|t| t.0), at(i));
                for term in 0..9 {
                    let mut candidates = (base..=i.min(terms.len() as u64)).rev();
                    let expected = candidates.find(|j| at(*j).unwrap() <= term);
                    prop_assert_eq!(log.last_not_above(Index(i), Term(term)).map(|p| p.index.0), expected);
                }
                let after: Vec<u64> = log.in_memory_after(Index(i)).map(|e| e.position.index.0).collect();
                prop_assert_eq!(after, (i.max(applied).max(base) + 1..=terms.len() as u64).collect::<Vec<u64>>());
                let slice = log.slice(Index(i.max(1)), usize::MAX);
                if i.max(1) > terms.len() as u64 {
                    prop_assert_eq!(slice, Slice::Past);
                } else if i.max(1) <= applied.max(base) {
                    prop_assert_eq!(slice, Slice::OnDisk);
                } else {
                    let Slice::Entries(entries) = slice else { panic!("{slice:?}") };
                    prop_assert_eq!(entries.len() as u64, terms.len() as u64 - i.max(1) + 1);
                    prop_assert_eq!(entries[0].position.index.0, i.max(1));
                }
            }
        }
    }

    proptest! {
        /// The search for the place where two logs part, as leader and follower do it together (Raft §5.3; T28): it ends,
        /// at the last common entry, and skips whole terms.
        #[test]
        fn the_search_for_the_common_prefix_takes_a_round_per_term_at_most(
            shared in proptest::collection::vec(1u64..4, 0..20),
            mine in proptest::collection::vec(4u64..12, 0..25),
            theirs in proptest::collection::vec(4u64..12, 0..25),
        ) {
            // Entries of one term are one leader's: where the tails' terms meet, the entries differ only from there on.
            let (mut odd, mut even) = (mine, theirs);
            odd.iter_mut().for_each(|term| *term = *term * 2 + 1);
            even.iter_mut().for_each(|term| *term *= 2);
            let sorted = |tail: Vec<u64>| {
                let mut terms = [shared.clone(), tail].concat();
                terms.sort_unstable();
                terms
            };
            let (leader, follower) = (sorted(odd), sorted(even));
            let distinct: std::collections::BTreeSet<u64> = leader.iter().chain(&follower).copied().collect();
            let (leader, follower) = (log_of(&leader), log_of(&follower));
            let mut prev = leader.last();
            let mut rounds = 1;
            while follower.term_at(prev.index) != Some(prev.term) {
                let hint = follower.last_not_above(prev.index.prev(), prev.term).expect("nothing is compacted");
                prev = leader.last_not_above(hint.index.min(prev.index.prev()), hint.term).expect("nothing is compacted");
                rounds += 1;
            }
            prop_assert_eq!(prev.index.0, shared.len() as u64);
            prop_assert!(rounds <= distinct.len() + 2, "{} rounds for {} terms", rounds, distinct.len());
        }
    }

    #[test]
    fn a_log_is_restored_above_a_base_inside_a_run() {
        let at = |index, term| Position { index: Index(index), term: Term(term) };
        let runs = vec![(Index(1), Term(1)), (Index(3), Term(2)), (Index(8), Term(5))];
        let log = Log::restore(at(5, 2), runs, at(9, 5), vec![entry(9, 5)]);
        let terms: Vec<Option<u64>> = (4..=10).map(|i| log.term_at(Index(i)).map(|t| t.0)).collect();
        assert_eq!(terms, [None, Some(2), Some(2), Some(2), Some(5), Some(5), None]);
        assert_eq!(log.slice(Index(6), 1), Slice::OnDisk);
        let mut empty = Log::restore(at(9, 5), Vec::new(), at(9, 5), Vec::new());
        assert_eq!((empty.last(), empty.base()), (at(9, 5), at(9, 5)));
        empty.append(entry(10, 5));
        assert_eq!((empty.term_at(Index(10)), empty.term_at(Index(8))), (Some(Term(5)), None));
    }

    #[test]
    fn a_slice_is_cut_at_its_bytes_but_never_empty() {
        let log = log_of(&[1, 1, 1]);
        let size = entry(1, 1).size();
        for (max, count) in [(0, 1), (size, 1), (2 * size, 2), (3 * size - 1, 2), (usize::MAX, 3)] {
            let Slice::Entries(entries) = log.slice(Index(1), max) else { panic!() };
            assert_eq!(entries.len(), count, "at {max} bytes");
        }
    }

    #[test]
    fn entries_in_memory_are_counted_and_go_by_the_budget() {
        let size = entry(1, 1).size();
        let counted = |log: &Log, count: usize| {
            assert_eq!((log.memory.len(), log.memory_bytes()), (count, count * size));
        };
        let mut log = log_of(&[1, 1, 1, 2, 2, 2, 2]);
        counted(&log, 7);
        log.truncate_from(Index(7));
        counted(&log, 6);
        log.evict(Index(6), 6 * size);
        counted(&log, 6);
        log.evict(Index(6), 6 * size - 1);
        counted(&log, 5);
        log.evict(Index(2), 0);
        counted(&log, 4);
        assert!(log.holds_after(Index(2)) && !log.holds_after(Index(1)));
        log.compact_to(Index(4));
        counted(&log, 2);
        log.evict(Index(6), 0);
        counted(&log, 0);
        assert!(log.holds_after(Index(6)) && !log.holds_after(Index(5)));
    }
}

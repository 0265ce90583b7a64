//! How much of the log is kept.
//!
//! The state's records are the compacted log, so nothing is lost with an entry whose effects are in them *durably*. That is the
//! one condition that safety asks for (*compact-after-sync*); the rest of what is kept is for followers, so that one that was
//! away for a little while goes on with entries and need not take over a state:
//!
//! - a number of entries, as in etcd, unless they are large: then so many bytes;
//! - on the leader, whatever a follower that was heard of a short while ago still lacks, up to a bound in bytes. One that takes
//!   over a state needs what follows the base that it was told; a new life of one that was there needs what it had.
//!
//! What is over goes in large steps, each decided when the state's disk has synced, so that the log's disk has it easy.
//!
//! The log's bytes are known by marks, one for every few entries, from the entries that were found at birth and those that
//! were applied since.
//!
//! May not know: what entries mean, and how the log is laid out on the disk (whole records go, so it holds a little more).

use super::Node;
use crate::ids::Index;
use crate::time::Time;
use std::collections::VecDeque;

/// Election timeouts after which a silent follower is not waited for any more: as long as a restart may well take.
const PATIENCE: u32 = 10;

/// Bytes between two marks at most; less where little is kept.
const MARK_BYTES: u64 = 64 << 10;

/// How much of the log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `--snapshot-count`: the log is cut each so many entries.
    pub every: u64,
    /// Entries that stay behind a cut.
    pub keep_entries: u64,
    /// Above so many bytes the log is cut earlier, to half of them.
    pub keep_bytes: u64,
    /// So many bytes stay at most for a follower that is behind.
    pub keep_bytes_max: u64,
}

impl Default for Retention {
    /// etcd's numbers (`--snapshot-count`, `--experimental-snapshot-catchup-entries`), and bounds for large entries.
    fn default() -> Retention {
        Retention { every: 10_000, keep_entries: 5_000, keep_bytes: 64 << 20, keep_bytes_max: 256 << 20 }
    }
}

impl Retention {
    /// Nothing is ever cut.
    pub fn everything() -> Retention {
        Retention { every: u64::MAX, keep_entries: u64::MAX, keep_bytes: u64::MAX, keep_bytes_max: u64::MAX }
    }
}

/// What is known of the log's size, and of how much of it is safely in the state.
#[derive(Debug)]
pub(super) struct Retained {
    retention: Retention,
    /// Entries applied: bytes up to and including each index, from some beginning. Ascending in both.
    marks: VecDeque<(Index, u64)>,
    /// Bytes of all entries up to the last one applied.
    bytes: u64,
    /// Writes whose sync was asked for: their ids, and what was applied by then.
    syncing: VecDeque<(u64, Index)>,
    /// In the state's database, durably.
    synced: Index,
}

impl Retained {
    /// `marks`: of the log as it was found, bytes up to and including an index.
    pub(super) fn new(retention: Retention, marks: Vec<(Index, u64)>, applied: Index) -> Retained {
        let marks: VecDeque<(Index, u64)> = marks.into_iter().take_while(|(index, _)| *index <= applied).collect();
        let bytes = marks.back().map_or(0, |mark| mark.1);
        // What was found is on the disk, but perhaps not synced: the next sync covers it.
        Retained { retention, marks, bytes, syncing: VecDeque::new(), synced: Index(0) }
    }

    /// An entry of so many bytes was applied.
    pub(super) fn applied(&mut self, index: Index, bytes: usize) {
        self.bytes += bytes as u64;
        let step = MARK_BYTES.min(self.retention.keep_bytes / 64);
        if self.marks.back().is_none_or(|(_, newest)| self.bytes - newest >= step) {
            self.marks.push_back((index, self.bytes));
        }
    }

    /// The state's write of this id is to be synced; everything up to `applied` is in it, or in one before it.
    pub(super) fn syncing(&mut self, id: u64, applied: Index) {
        self.syncing.push_back((id, applied));
    }

    /// The state's writes up to this one are durable.
    pub(super) fn synced(&mut self, id: u64) {
        while let Some((_, applied)) = self.syncing.pop_front_if(|(write, _)| *write <= id) {
            self.synced = applied;
        }
    }

    /// Bytes of the entries up to and including `index`, or a little less.
    fn bytes_up_to(&self, index: Index) -> u64 {
        let known = self.marks.partition_point(|(mark, _)| *mark <= index);
        known.checked_sub(1).map_or(0, |newest| self.marks[newest].1)
    }

    /// Whether a log that begins after `base` holds more than it should, whoever needs it.
    fn is_due(&self, base: Index) -> bool {
        let Retention { every, keep_entries, keep_bytes, .. } = self.retention;
        self.synced.0.saturating_sub(base.0) >= keep_entries.saturating_add(every).max(1)
            || self.bytes_up_to(self.synced).saturating_sub(self.bytes_up_to(base)) > keep_bytes
    }

    /// Up to where a log that begins after `base` may be cut now; `needed` is the last entry that the furthest follower has.
    fn cut(&mut self, base: Index, needed: Option<Index>) -> Option<Index> {
        let Retention { every, keep_entries, keep_bytes, keep_bytes_max } = self.retention;
        let total = self.bytes_up_to(self.synced);
        let by_entries = Index(self.synced.0.saturating_sub(keep_entries));
        let by_bytes = match total - self.bytes_up_to(base) > keep_bytes {
            true => {
                let enough = self.marks.partition_point(|(_, bytes)| total.saturating_sub(*bytes) > keep_bytes / 2);
                self.marks.get(enough).map_or(self.synced, |(index, _)| *index)
            }
            false => Index(0),
        };
        let mut to = by_entries.max(by_bytes).min(self.synced);
        if let Some(needed) = needed
            && total.saturating_sub(self.bytes_up_to(needed)) <= keep_bytes_max
        {
            to = to.min(needed);
        }
        // Not each time that the follower moves a little.
        let bytes = self.bytes_up_to(to).saturating_sub(self.bytes_up_to(base));
        if to <= base || (to.0 - base.0 < every / 4 && bytes < keep_bytes / 4) {
            return None;
        }
        // The newest mark at or below the base stays, for what is counted from there.
        let gone = self.marks.partition_point(|(mark, _)| *mark <= to).saturating_sub(1);
        self.marks.drain(..gone);
        Some(to)
    }
}

impl Node {
    /// Entries applied that the state's disk has not synced.
    #[cfg(test)]
    pub(super) fn retained_since_sync(&self) -> u64 {
        self.machine.applied().index.0 - self.retained.synced.0
    }

    /// Lets go of what the log need not hold any more.
    pub(super) fn compact_log(&mut self, now: Time) {
        let base = self.raft.log_base().index;
        if !self.retained.is_due(base) {
            return;
        }
        let followers = self.raft.needed_by_followers(now, self.config.election_timeout * PATIENCE);
        // One that has taken over this member's state goes on from where that ended.
        let installed = self.source.needed().map(|needed| Index(needed.0.saturating_sub(1)));
        let needed = followers.into_iter().chain(installed).min();
        if let Some(to) = self.retained.cut(base, needed) {
            tracing::debug!(%base, %to, ?needed, "the log is compacted");
            self.raft.compact_to(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETENTION: Retention =
        Retention { every: 100, keep_entries: 50, keep_bytes: 64_000, keep_bytes_max: 200_000 };

    /// Entries of these bytes, all applied and synced.
    fn retained(entries: impl IntoIterator<Item = usize>) -> Retained {
        let mut retained = Retained::new(RETENTION, Vec::new(), Index(0));
        let mut last = Index(0);
        for bytes in entries {
            last = last.next();
            retained.applied(last, bytes);
        }
        retained.syncing(1, last);
        retained.synced(1);
        retained
    }

    fn cut(retained: &mut Retained, base: u64, needed: Option<u64>) -> Option<u64> {
        let base = Index(base);
        if retained.is_due(base) { retained.cut(base, needed.map(Index)).map(|to| to.0) } else { None }
    }

    #[test]
    fn small_entries_are_cut_by_their_number() {
        for (entries, base, expected) in
            [(149, 0, None), (150, 0, Some(100)), (400, 0, Some(350)), (400, 251, None), (400, 250, Some(350))]
        {
            assert_eq!(cut(&mut retained([10].repeat(entries)), base, None), expected, "{entries} after {base}");
        }
    }

    #[test]
    fn large_entries_are_cut_by_their_bytes_to_half() {
        assert_eq!(cut(&mut retained([1000].repeat(64)), 0, None), None);
        assert_eq!(cut(&mut retained([1000].repeat(65)), 0, None), Some(33));
        // Few of them are more than half: they go.
        assert_eq!(cut(&mut retained([40_000].repeat(3)), 0, None), Some(3));
    }

    #[test]
    fn only_what_is_synced_goes() {
        let mut retained = Retained::new(RETENTION, Vec::new(), Index(0));
        (1..=400).for_each(|index| retained.applied(Index(index), 10));
        assert_eq!(cut(&mut retained, 0, None), None);
        retained.syncing(7, Index(300));
        retained.syncing(9, Index(400));
        retained.synced(6);
        assert_eq!(cut(&mut retained, 0, None), None);
        retained.synced(8);
        assert_eq!(cut(&mut retained, 0, None), Some(250));
        retained.synced(9);
        assert_eq!(cut(&mut retained, 0, None), Some(350));
    }

    #[test]
    fn a_follower_is_waited_for_until_it_costs_too_much() {
        let mut small = retained([10].repeat(400));
        assert_eq!(cut(&mut small, 0, Some(0)), None);
        assert_eq!(cut(&mut small, 0, Some(20)), None, "not for so little");
        assert_eq!(cut(&mut small, 0, Some(30)), Some(30));
        assert_eq!(cut(&mut small, 30, Some(380)), Some(350));
        assert_eq!(cut(&mut retained([1000].repeat(200)), 0, Some(0)), None);
        assert_eq!(cut(&mut retained([1000].repeat(202)), 0, Some(0)), Some(170), "it would hold too much");
    }

    #[test]
    fn what_was_found_at_birth_counts() {
        let found = (1..=60).map(|index| (Index(index), index * 1000)).collect();
        let mut retained = Retained::new(RETENTION, found, Index(50));
        assert_eq!(retained.bytes, 50_000, "what is not applied yet is counted when it is");
        (51..=70).for_each(|index| retained.applied(Index(index), 1000));
        retained.syncing(1, Index(70));
        retained.synced(1);
        assert_eq!(cut(&mut retained, 0, None), Some(38));
    }

    #[test]
    fn the_marks_are_bounded() {
        let mut retained = Retained::new(Retention::default(), Vec::new(), Index(0));
        let (mut base, mut most) = (Index(0), 0);
        for index in 1..=200_000 {
            retained.applied(Index(index), 3000);
            retained.syncing(index, Index(index));
            retained.synced(index);
            if retained.is_due(base) {
                base = retained.cut(base, None).unwrap_or(base);
            }
            most = most.max(retained.marks.len());
        }
        assert!(base > Index(180_000) && most < 2000, "base {base}, {most} marks");
    }

    #[test]
    fn everything_is_everything() {
        let mut retained = Retained::new(Retention::everything(), Vec::new(), Index(0));
        (1..=1000).for_each(|index| retained.applied(Index(index), 1 << 20));
        retained.syncing(1, Index(1000));
        retained.synced(1);
        assert_eq!(cut(&mut retained, 0, None), None);
    }
}

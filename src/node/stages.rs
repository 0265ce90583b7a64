//! When a request passed its stages, to tell later which one was slow.
//!
//! A request is not followed: the log's two ends are. Each move of what is durable here, and of what is committed, leaves a
//! [`Mark`] with its moment; when an entry is applied, the first mark at or behind its index says when it was there. So a
//! turn costs two comparisons however many requests are on their way, and a request nothing but the copy of its
//! [`Stages`] into the reply.
//!
//! Invariant: marks rise in index and time, and none is kept for what is applied.
//!
//! Absent: judgements. What is slow, and why, the shell says, which knows how long it waited before and after.

use crate::ids::{Index, MemberId};
use crate::time::Time;
use std::collections::VecDeque;

/// Marks kept at most; beyond it the newest one is moved on, so an entry seems later than it was, never earlier.
const MARKS_MAX: usize = 1024;

/// When a request passed its stages, on the node's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// The node took it.
    pub taken: Time,
    /// It was given to a leader: later than `taken` if there was none.
    pub submitted: Time,
    /// Durable in this member's own log. A read needs no disk: as `submitted`.
    pub persisted: Time,
    /// Known to be committed. Of a read: the leader, confirmed by a quorum, gave its index.
    pub committed: Time,
    /// The member whose message, or whose disk, made it so; `None` of a read.
    pub by: Option<MemberId>,
    /// The leader was another member.
    pub forwarded: bool,
}

/// One move of an end of the log.
#[derive(Clone, Copy, Debug)]
struct Mark {
    end: Index,
    at: Time,
    by: MemberId,
}

/// The moves of one end that are not applied yet.
#[derive(Debug, Default)]
struct Trail(VecDeque<Mark>);

impl Trail {
    fn note(&mut self, mark: Mark) {
        // What was durable may be cut off again.
        while self.0.pop_back_if(|newest| newest.end > mark.end).is_some() {}
        let full = self.0.len() >= MARKS_MAX;
        match self.0.back_mut() {
            Some(newest) if newest.end == mark.end => {}
            Some(newest) if full => *newest = mark,
            Some(_) | None => self.0.push_back(mark),
        }
    }

    /// When `index` was reached, and by whom.
    fn reached(&self, index: Index) -> Option<Mark> {
        self.0.get(self.0.partition_point(|mark| mark.end < index)).copied()
    }

    fn forget(&mut self, applied: Index) {
        while self.0.pop_front_if(|oldest| oldest.end <= applied).is_some() {}
    }
}

/// The moves of both ends.
#[derive(Debug, Default)]
pub(super) struct Marks {
    persisted: Trail,
    committed: Trail,
    seen: (Index, Index),
}

impl Marks {
    /// The log is durable up to `persisted` and committed up to `committed`, and `by` was heard last.
    pub(super) fn note(&mut self, at: Time, persisted: Index, committed: Index, by: MemberId) {
        if self.seen != (persisted, committed) {
            self.seen = (persisted, committed);
            self.persisted.note(Mark { end: persisted, at, by });
            self.committed.note(Mark { end: committed, at, by });
        }
    }

    /// When the entry at `index`, which is about to be applied, was durable and committed.
    pub(super) fn of(&self, index: Index, stages: Stages) -> Stages {
        let [persisted, committed] = [&self.persisted, &self.committed].map(|trail| trail.reached(index));
        Stages {
            persisted: persisted.map_or(stages.submitted, |mark| mark.at),
            committed: committed.map_or(stages.submitted, |mark| mark.at),
            by: committed.map(|mark| mark.by),
            ..stages
        }
    }

    /// Everything up to `applied` is applied.
    pub(super) fn forget(&mut self, applied: Index) {
        self.persisted.forget(applied);
        self.committed.forget(applied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MemberId = MemberId(1);
    const OTHER: MemberId = MemberId(2);

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn an_entry_was_there_when_the_first_mark_at_or_behind_it_was_made() {
        let mut marks = Marks::default();
        marks.note(ms(1), Index(3), Index(0), OWN);
        marks.note(ms(2), Index(3), Index(3), OTHER);
        marks.note(ms(3), Index(3), Index(3), OWN);
        marks.note(ms(4), Index(9), Index(5), OWN);
        let seen = |marks: &Marks, index| {
            let stages = marks.of(Index(index), Stages::default());
            (stages.persisted, stages.committed, stages.by)
        };
        assert_eq!(seen(&marks, 2), (ms(1), ms(2), Some(OTHER)));
        assert_eq!(seen(&marks, 3), (ms(1), ms(2), Some(OTHER)));
        assert_eq!(seen(&marks, 4), (ms(4), ms(4), Some(OWN)));
        marks.forget(Index(3));
        assert_eq!((marks.persisted.0.len(), marks.committed.0.len()), (1, 1));
    }

    #[test]
    fn what_was_cut_off_is_durable_only_when_it_is_so_again() {
        let mut marks = Marks::default();
        marks.note(ms(1), Index(9), Index(2), OWN);
        marks.note(ms(2), Index(4), Index(2), OTHER);
        marks.note(ms(5), Index(9), Index(9), OWN);
        let of = |index| marks.of(Index(index), Stages::default()).persisted;
        assert_eq!((of(7), of(4)), (ms(5), ms(2)));
    }

    #[test]
    fn marks_are_bounded_and_err_to_the_late_side() {
        let mut marks = Marks::default();
        (1..=5000).for_each(|n| marks.note(ms(n), Index(n), Index(0), OWN));
        assert_eq!(marks.persisted.0.len(), MARKS_MAX);
        assert_eq!(marks.of(Index(7), Stages::default()).persisted, ms(7));
        assert_eq!(marks.of(Index(3000), Stages::default()).persisted, ms(5000));
    }
}

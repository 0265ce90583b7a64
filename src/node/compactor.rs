//! When history is old enough to go.
//!
//! The leader proposes compactions by itself: of what is older than some time ([`AutoCompaction::Periodic`]) or more revisions
//! back than some number. Every member takes note of which revision there was when, so that a new leader need not begin from
//! now; that somebody compacted is seen by the mark, whoever it was. etcd's rhythm: by time, the first compaction comes when
//! the first noted revision is as old as the retention, then one every retention, but at least one an hour; by revisions, one
//! every five minutes.
//!
//! While a NOSPACE alarm is up history is what can go without loss of data, so retention doesn't count: the leader compacts at
//! the revision of [`GRACE`] ago, again and again. Puts are refused then, so whoever follows the store and lags less than that
//! misses nothing; readers of older revisions, and followers that lag more, are told that it was compacted.
//!
//! Time is an argument. May not know: how a compaction is carried out (`machine/compact.rs`), or whether it was agreed on: one
//! that got lost is proposed again.

use crate::time::{Duration, Time};
use std::collections::VecDeque;

/// Old enough for followers to have read it, while space is short.
const GRACE: Duration = Duration::from_secs(5);
/// Between two compactions by time, at most.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
/// Between two compactions by revisions.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// So many revisions are noted in the time from one compaction to the next.
const NOTES: u32 = 10;

/// `--auto-compaction-mode` and `--auto-compaction-retention`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never: only clients compact.
    #[default]
    Off,
    /// What is older than this.
    Periodic(Duration),
    /// What is more revisions back than this.
    Revisions(i64),
}

/// What can be seen of the store at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub revision: i64,
    /// The oldest readable revision.
    pub compacted: i64,
    /// A NOSPACE alarm is up.
    pub short_of_space: bool,
}

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Compactor {
    mode: AutoCompaction,
    /// From one compaction to the next.
    interval: Duration,
    /// Which revision there was when, oldest first.
    noted: VecDeque<(Time, i64)>,
    /// When a regular compaction is thought of next.
    next: Time,
    /// What was proposed the last time.
    asked: Option<i64>,
    /// While space is short: when that was first seen, or last acted on, and the revision then.
    short: Option<(Time, i64)>,
}

impl Compactor {
    pub(super) fn new(mode: AutoCompaction, now: Time) -> Compactor {
        let (first, interval) = match mode {
            AutoCompaction::Off => (LONGEST_INTERVAL, LONGEST_INTERVAL),
            AutoCompaction::Periodic(retention) => (retention, retention.min(LONGEST_INTERVAL)),
            AutoCompaction::Revisions(_) => (REVISION_INTERVAL, REVISION_INTERVAL),
        };
        Compactor { mode, interval, noted: VecDeque::new(), next: now + first, asked: None, short: None }
    }

    /// Between two notes, and between a proposal and the look at what became of it.
    fn pause(&self) -> Duration {
        (self.interval / NOTES).max(Duration::from_millis(1))
    }

    /// When to look again, if nothing happens before.
    pub(super) fn deadline(&self) -> Time {
        if self.mode == AutoCompaction::Off {
            return Time::NEVER;
        }
        let note = self.noted.back().map_or(Time::NEVER, |(at, _)| *at + self.pause());
        let short = self.short.map_or(Time::NEVER, |(since, _)| since + GRACE);
        note.min(self.next).min(short)
    }

    /// Takes note of what is seen. Gives the revision to compact at, if this member leads and it is time.
    pub(super) fn look(&mut self, now: Time, seen: Seen, leads: bool) -> Option<i64> {
        if self.mode == AutoCompaction::Off {
            return None;
        }
        let by_time = matches!(self.mode, AutoCompaction::Periodic(_));
        if by_time && self.noted.back().is_none_or(|(at, _)| now >= *at + self.pause()) {
            self.noted.push_back((now, seen.revision));
        }
        // Nothing came before revision 1.
        let of_use = |target: &i64| leads && *target > seen.compacted.max(1);
        let pressing = self.pressing(now, seen).filter(of_use);
        pressing.or_else(|| {
            let target = self.regular(now, seen).filter(of_use);
            self.asked = target.or(self.asked);
            target
        })
    }

    fn pressing(&mut self, now: Time, seen: Seen) -> Option<i64> {
        if !seen.short_of_space {
            self.short = None;
            return None;
        }
        let (since, revision) = *self.short.get_or_insert((now, seen.revision));
        if now < since + GRACE {
            return None;
        }
        self.short = Some((now, seen.revision));
        Some(revision)
    }

    fn regular(&mut self, now: Time, seen: Seen) -> Option<i64> {
        if now < self.next {
            return None;
        }
        self.next = now + self.pause();
        if self.asked.take().is_some_and(|asked| asked <= seen.compacted) {
            // It was agreed on, one pause ago.
            self.next = now + (self.interval - self.pause());
            return None;
        }
        match self.mode {
            AutoCompaction::Off => None,
            AutoCompaction::Revisions(kept) => Some(seen.revision - kept),
            AutoCompaction::Periodic(retention) => {
                // Of what is old enough only the newest counts.
                while self.noted.get(1).is_some_and(|(at, _)| *at + retention <= now) {
                    self.noted.pop_front();
                }
                self.noted.front().filter(|(at, _)| *at + retention <= now).map(|(_, revision)| *revision)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    fn seen(revision: i64, compacted: i64) -> Seen {
        Seen { revision, compacted, short_of_space: false }
    }

    /// A store that gains a revision a minute, and a leader that always gets its way: when it compacted at what.
    fn compactions(mode: AutoCompaction, minutes: u64) -> Vec<(u64, i64)> {
        let mut compactor = Compactor::new(mode, at(0));
        let (mut compacted, mut done) = (-1, Vec::new());
        for minute in 0..=minutes {
            if let Some(target) = compactor.look(at(minute * MINUTE), seen(minute as i64 + 1, compacted), true) {
                done.push((minute, target));
                compacted = target;
            }
            assert!(compactor.noted.len() <= 250, "{} notes", compactor.noted.len());
        }
        done
    }

    #[test]
    fn by_time_what_is_older_than_the_retention_goes_once_every_retention() {
        let hour = AutoCompaction::Periodic(Duration::from_secs(3600));
        assert_eq!(compactions(hour, 250), [(66, 7), (126, 67), (186, 127), (246, 187)]);
        let day = AutoCompaction::Periodic(Duration::from_secs(86400));
        assert_eq!(compactions(day, 26 * 60), [(1446, 7), (1506, 67)], "and at least once an hour");
    }

    #[test]
    fn by_revisions_so_many_stay_every_five_minutes() {
        let ten = AutoCompaction::Revisions(10);
        assert_eq!(compactions(ten, 22), [(11, 2), (17, 8)]);
    }

    #[test]
    fn off_is_off() {
        let mut compactor = Compactor::new(AutoCompaction::Off, at(0));
        let short = Seen { short_of_space: true, ..seen(100, -1) };
        assert_eq!(compactor.look(at(1_000_000), short, true), None);
        assert_eq!(compactor.deadline(), Time::NEVER);
    }

    #[test]
    fn a_new_leader_knows_what_it_saw_as_a_follower_and_a_lost_proposal_is_made_again() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(Duration::from_secs(3600)), at(0));
        for minute in 0..90 {
            assert_eq!(compactor.look(at(minute * MINUTE), seen(minute as i64, -1), false), None);
        }
        let found = (90..120).find_map(|m| compactor.look(at(m * MINUTE), seen(m as i64, -1), true).map(|r| (m, r)));
        assert_eq!(found, Some((90, 30)));
        let found = (91..120).find_map(|m| compactor.look(at(m * MINUTE), seen(m as i64, -1), true).map(|r| (m, r)));
        assert_eq!(found, Some((96, 36)), "it led to nothing");
    }

    #[test]
    fn while_space_is_short_history_goes_as_soon_as_followers_had_time_to_read_it() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(Duration::from_secs(3600)), at(0));
        let short = |revision, compacted| Seen { short_of_space: true, ..seen(revision, compacted) };
        assert_eq!(compactor.look(at(0), seen(100, -1), true), None);
        assert_eq!(compactor.look(at(1000), short(100, -1), true), None);
        assert!(compactor.deadline() <= at(6000));
        assert_eq!(compactor.look(at(5999), short(103, -1), true), None);
        assert_eq!(compactor.look(at(6000), short(103, -1), true), Some(100));
        assert_eq!(compactor.look(at(11_000), short(103, 100), true), Some(103));
        assert_eq!(compactor.look(at(16_000), short(103, 103), true), None, "there is nothing left");
        assert_eq!(compactor.look(at(17_000), seen(103, 103), true), None);
        assert_eq!(compactor.look(at(60_000), short(109, 103), true), None, "the time begins anew");
    }

    #[test]
    fn who_sleeps_until_the_deadline_wakes_to_do_something() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(Duration::from_secs(10)), at(0));
        let (mut now, mut looks, mut compacted) = (at(0), 0, -1);
        while now < at(100_000) {
            looks += 1;
            compacted = compactor.look(now, seen(now.0 as i64 / 1000, compacted), true).unwrap_or(compacted);
            assert!(compactor.deadline() > now);
            now = compactor.deadline();
        }
        assert!(looks < 400, "{looks}");
        assert!(compacted > 0);
    }
}

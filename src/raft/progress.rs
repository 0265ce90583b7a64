//! What a leader knows of one follower.
//!
//! A follower is **probed** until the place is found where its log and the leader's part (one append at a time), and then
//! **replicated** to: appends go out without waiting, as far as the window allows, and `next` runs ahead of what is
//! acknowledged. Any sign of loss brings back the probe.
//!
//! A follower that is to be sent what was compacted away can't be sent appends: it is told to **install** a state that reaches
//! the log's base, and told so again when its heartbeats show that it is still there. To a follower that has the base after
//! all this is as good as a probe at it: it acknowledges, and is replicated to.
//!
//! A *session* is a fresh start with a follower: at the beginning of a term, and whenever its process turns out to be a new
//! one. Answers carry the session's number; those of older sessions move nothing (openraft's #1500, #1960 and kin were all
//! late answers that did).
//!
//! # Invariants
//!
//! matched < next; within a session `matched` never decreases; the window takes no more
//! appends once one of its limits is reached, so the last one in may exceed the byte limit.

use crate::ids::{Incarnation, Index};
use crate::time::Time;
use std::collections::VecDeque;

/// How appends flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// One append at a time, to find where the logs part.
    Probe {
        /// One is out and unanswered: its last index and its bytes.
        outstanding: Option<(Index, usize)>,
    },
    /// Appends run ahead, as far as the window allows.
    Replicate {
        /// Unacknowledged appends: their last index and their bytes.
        window: VecDeque<(Index, usize)>,
        /// The sum of those bytes.
        bytes: usize,
    },
    /// What it needs is below the log's base: no appends, it must take over a state.
    Install {
        /// The base that it was told.
        base: Index,
        /// To be told (again).
        due: bool,
    },
}

/// What a leader knows of one follower. See the module's essay.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Durable there.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// How appends flow.
    pub flow: Flow,
    /// Counts fresh starts.
    pub session: u64,
    /// Counts the session's appends.
    pub sequence: u64,
    /// The commit index last told.
    pub told_commit: Index,
    /// When it was last heard of in this term; at first, when it was first spoken to.
    pub contact: Time,
    /// Whether it was heard of in this term at all.
    pub heard: bool,
    /// The newest read round it confirmed.
    pub confirmed: u64,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Entries from here are being read from the disk for it.
    pub loading: Option<Index>,
}

impl Progress {
    /// Unacknowledged appends.
    pub fn in_flight(&self) -> usize {
        match &self.flow {
            Flow::Probe { outstanding } => usize::from(outstanding.is_some()),
            Flow::Replicate { window, .. } => window.len(),
            Flow::Install { .. } => 0,
        }
    }

    /// A fresh start, at the end of the leader's log.
    pub fn new(next: Index, incarnation: Incarnation, now: Time) -> Progress {
        Progress {
            matched: Index(0),
            next,
            flow: Flow::Probe { outstanding: None },
            session: 1,
            sequence: 0,
            told_commit: Index(0),
            contact: now,
            heard: false,
            confirmed: 0,
            incarnation,
            loading: None,
        }
    }

    /// Another process of this follower: what the former one acknowledged is not taken for granted.
    pub fn restart(&mut self, incarnation: Incarnation) {
        let session = self.session + 1;
        let (contact, heard, confirmed) = (self.contact, self.heard, self.confirmed);
        *self = Progress::new(self.search_start(), incarnation, contact);
        (self.session, self.heard, self.confirmed) = (session, heard, confirmed);
    }

    /// A sign of life in this term.
    pub fn heard(&mut self, now: Time) {
        (self.contact, self.heard) = (now, true);
    }

    /// Where to look for the place at which the logs part: after what is acknowledged. If nothing is, the search goes on
    /// where it stands, from the end backwards; from the beginning it would send the whole log.
    fn search_start(&self) -> Index {
        if self.matched == Index(0) { self.next } else { self.matched.next() }
    }

    /// Something was lost: start again from what is acknowledged.
    pub fn probe(&mut self) {
        self.next = self.search_start();
        self.flow = Flow::Probe { outstanding: None };
        self.loading = None;
    }

    /// Nothing gets through: no append before a sign of life.
    pub fn hold(&mut self) {
        if let Flow::Install { due, .. } = &mut self.flow {
            *due = false;
            return;
        }
        self.probe();
        self.flow = Flow::Probe { outstanding: Some((self.next.prev(), 0)) };
    }

    /// The next entry to send is at or below the log's `base`. Says whether the follower is to be told now.
    pub fn needs_state(&mut self, base: Index) -> bool {
        let now = match self.flow {
            Flow::Install { due, .. } => due,
            Flow::Probe { outstanding } => outstanding.is_none(),
            Flow::Replicate { .. } => true,
        };
        if now {
            self.flow = Flow::Install { base, due: false };
        }
        now
    }

    /// Whether one more append with entries may leave.
    pub fn has_room(&self, max_messages: usize, max_bytes: usize) -> bool {
        match &self.flow {
            Flow::Probe { outstanding } => outstanding.is_none(),
            Flow::Replicate { window, bytes } => window.len() < max_messages && *bytes < max_bytes,
            Flow::Install { .. } => false,
        }
    }

    /// An append with entries up to `last` (or none: `last` = `next - 1`) of `size` bytes leaves.
    pub fn sent(&mut self, last: Index, size: usize) {
        self.sequence += 1;
        match &mut self.flow {
            Flow::Probe { outstanding } => *outstanding = Some((last, size)),
            Flow::Replicate { window, bytes } => {
                if last >= self.next {
                    window.push_back((last, size));
                    *bytes += size;
                    self.next = last.next();
                }
            }
            Flow::Install { .. } => unreachable!("an append to a follower that must install"),
        }
    }

    /// The follower has everything up to `matched`. Says whether that is news.
    pub fn acknowledged(&mut self, matched: Index) -> bool {
        let news = matched > self.matched;
        self.matched = self.matched.max(matched);
        match &mut self.flow {
            // An older acknowledgement says nothing of the place being probed.
            Flow::Probe { .. } if !news && matched.next() < self.next => {}
            // A follower tells that the place is found before its disk has what the probe brought: that stays on its way.
            Flow::Probe { outstanding } => {
                let (place, reached) = (self.next.prev(), self.matched);
                let rest = outstanding.filter(|(last, _)| place <= reached && reached < *last);
                self.next = rest.map_or(reached, |(last, _)| last).next();
                self.flow =
                    Flow::Replicate { window: rest.into_iter().collect(), bytes: rest.map_or(0, |(_, size)| size) };
            }
            Flow::Replicate { window, bytes } => {
                while window.front().is_some_and(|(last, _)| *last <= matched) {
                    *bytes -= window.pop_front().expect("just seen").1;
                }
                self.next = self.next.max(self.matched.next());
            }
            Flow::Install { base, .. } => {
                self.next = self.next.max(self.matched.next());
                if self.matched >= *base {
                    self.flow = Flow::Replicate { window: VecDeque::new(), bytes: 0 };
                }
            }
        }
        assert!(self.matched < self.next, "matched {} must stay below next {}", self.matched, self.next);
        news
    }

    /// The follower's log differs at `prev`, and could agree at `at` at the latest.
    pub fn conflicted(&mut self, prev: Index, at: Index) {
        let current = match self.flow {
            Flow::Probe { .. } => prev.next() == self.next,
            Flow::Replicate { .. } => prev > self.matched,
            Flow::Install { .. } => false, // of an append before it
        };
        if current && prev > self.matched {
            assert!(at < prev, "a conflict at {prev} must lead further back than {at}");
            self.next = at.max(self.matched).next();
            self.flow = Flow::Probe { outstanding: None };
            self.loading = None;
        }
    }

    /// A name for people.
    pub fn flow_name(&self) -> &'static str {
        match self.flow {
            Flow::Probe { .. } => "probe",
            Flow::Replicate { .. } => "replicate",
            Flow::Install { .. } => "install",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicate(window: &[(u64, usize)]) -> Flow {
        let bytes = window.iter().map(|(_, size)| size).sum();
        Flow::Replicate { window: window.iter().map(|(last, size)| (Index(*last), *size)).collect(), bytes }
    }

    #[test]
    fn what_is_on_its_way_is_counted_until_it_is_acknowledged() {
        let mut p = Progress::new(Index(1), Incarnation(1), Time(0));
        p.sent(Index(2), 10);
        p.acknowledged(Index(0));
        assert_eq!((p.in_flight(), &p.flow), (1, &replicate(&[(2, 10)])), "the place is found, the rest is on its way");
        p.sent(Index(4), 20);
        p.sent(Index(5), 30);
        assert_eq!((p.in_flight(), &p.flow), (3, &replicate(&[(2, 10), (4, 20), (5, 30)])));
        assert!(p.has_room(4, 61) && !p.has_room(3, 61) && !p.has_room(4, 60));
        p.acknowledged(Index(4));
        assert_eq!(p.flow, replicate(&[(5, 30)]));
        p.acknowledged(Index(5));
        assert_eq!((p.in_flight(), &p.flow, p.next), (0, &replicate(&[]), Index(6)));
    }

    #[test]
    fn an_acknowledged_probe_is_on_its_way_no_more() {
        for (acknowledged, next) in [(7, 8), (3, 4)] {
            let mut p = Progress::new(Index(6), Incarnation(1), Time(0));
            p.sent(Index(7), 10);
            assert_eq!((p.in_flight(), p.has_room(9, 99)), (1, false));
            p.acknowledged(Index(acknowledged));
            assert_eq!((&p.flow, p.next), (&replicate(&[]), Index(next)), "up to {acknowledged}");
        }
    }
}

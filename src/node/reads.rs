//! Linearizable reads between their client and the view.
//!
//! A read waits twice: for a read index from the leader (`raft/read.rs`), and for the machine to have applied that far.
//! Then its caller is told that the local view is fresh enough, and queries it off the node's thread. A read changes
//! nothing, so it is simply refused when it has waited too long, for either.

use super::input::{Refused, Reply, Slot, Uncertain};
use super::stages::Stages;
use crate::ids::{Index, Term};
use crate::raft::ReadState;
use crate::time::Time;
use std::collections::BTreeMap;

/// All reads on their way.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Not answered, by Raft's mark; the oldest stand first.
    asked: BTreeMap<u64, (Slot, Time)>,
    /// Those that wait for an index to be applied, if they are not answered before; since when.
    indexed: BTreeMap<(Index, u64), Time>,
    marks: u64,
}

impl Reads {
    /// Notes a read; gives the mark under which Raft is asked.
    pub(super) fn ask(&mut self, slot: Slot, now: Time) -> u64 {
        let mark = self.mark();
        self.asked.insert(mark, (slot, now));
        mark
    }

    /// A mark for a read of the node's own.
    pub(super) fn mark(&mut self) -> u64 {
        self.marks += 1;
        self.marks
    }

    /// Raft gave an index.
    pub(super) fn indexed(&mut self, now: Time, state: ReadState) {
        if self.asked.contains_key(&state.context) {
            self.indexed.insert((state.index, state.context), now);
        }
    }

    /// Everything up to `applied` is in the view.
    pub(super) fn release(&mut self, applied: Index, term: Term, replies: &mut Vec<(Slot, Reply)>) {
        while let Some(first) = self.indexed.first_entry().filter(|first| first.key().0 <= applied) {
            let ((_, mark), at) = first.remove_entry();
            let Some((slot, taken)) = self.asked.remove(&mark) else { continue };
            let stages = Stages { taken, submitted: taken, persisted: taken, committed: at, ..Stages::default() };
            replies.push((slot, Reply::Readable { term, stages }));
        }
    }

    /// Refuses what was asked before `oldest`; gives the marks that Raft may forget.
    pub(super) fn expire(&mut self, oldest: Time, leader_known: bool, replies: &mut Vec<(Slot, Reply)>) -> Vec<u64> {
        let mut marks = Vec::new();
        while let Some(first) = self.asked.first_entry().filter(|e| e.get().1 < oldest) {
            marks.push(*first.key());
            let (slot, _) = first.remove();
            let why = match leader_known {
                true => Reply::Uncertain(Uncertain::TimedOut),
                false => Reply::Refused(Refused::NoLeader),
            };
            replies.push((slot, why));
        }
        marks
    }

    /// The caller has gone.
    pub(super) fn cancel(&mut self, slot: Slot) -> Option<u64> {
        let mark = self.asked.iter().find(|(_, (s, _))| *s == slot).map(|(mark, _)| *mark)?;
        self.asked.remove(&mark);
        Some(mark)
    }

    /// When the oldest read was asked for.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.asked.values().next().map(|(_, since)| *since)
    }
}

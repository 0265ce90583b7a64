//! Linearizable reads between their client and the view.
//!
//! A read waits twice: for a read index from the leader (`raft/read.rs`), and for the machine to have applied that far.
//! Then its caller is told that the local view is fresh enough, and queries it off the node's thread. A read changes
//! nothing, so it is simply refused when it has waited too long.

use super::input::{Refused, Reply, Slot, Uncertain};
use crate::ids::{Index, Term};
use crate::raft::ReadState;
use crate::time::Time;
use std::collections::BTreeMap;

/// All reads on their way.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Waiting for an index, by Raft's mark; the oldest stand first.
    asked: BTreeMap<u64, (Slot, Time)>,
    /// Waiting for an index to be applied.
    indexed: BTreeMap<(Index, u64), Slot>,
    marks: u64,
}

impl Reads {
    /// Notes a read; gives the mark under which Raft is asked.
    pub(super) fn ask(&mut self, slot: Slot, now: Time) -> u64 {
        self.marks += 1;
        self.asked.insert(self.marks, (slot, now));
        self.marks
    }

    /// Raft gave an index.
    pub(super) fn indexed(&mut self, state: ReadState) {
        if let Some((slot, _)) = self.asked.remove(&state.context) {
            self.indexed.insert((state.index, state.context), slot);
        }
    }

    /// Everything up to `applied` is in the view.
    pub(super) fn release(&mut self, applied: Index, term: Term, replies: &mut Vec<(Slot, Reply)>) {
        while let Some(first) = self.indexed.first_entry().filter(|e| e.key().0 <= applied) {
            replies.push((first.remove(), Reply::Readable { term }));
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

    /// When the oldest read without an index was asked for.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.asked.values().next().map(|(_, since)| *since)
    }
}

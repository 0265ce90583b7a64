//! What the node hands to its two disks, and the mark by which one witnesses of the other.
//!
//! The log's disk gets what Raft asks for, in order. The state's disk gets what was applied (`node.rs`), and with each sync the
//! *acked mark*: how far the log reached on its own disk by then ([`super::open()`] says what it is good for). So a truncation
//! of the log below the mark waits until a lower mark is durable.
//!
//! May not know: what is in an entry, and when the disks have time.

use super::input::{Effect, StateWrite};
use super::marks::AckedMark;
use super::node::Node;
use crate::ids::Position;
use crate::storage::Op;
use crate::time::Time;
use std::collections::VecDeque;

/// The writes to the state database.
#[derive(Debug, Default)]
pub(super) struct StateWrites {
    pub(super) next_id: u64,
    /// Writes not yet inserted, with the machine's run that each one ends.
    pub(super) inserting: VecDeque<(u64, u64)>,
    /// Bytes written since the last sync was asked for, and when the first of them was.
    pub(super) unsynced_bytes: usize,
    pub(super) unsynced_since: Option<Time>,
    /// The highest acked mark that may be on the disk: how far the log's disk has ever been known to reach.
    pub(super) mark: Position,
    /// The log may not be truncated before this write, which lowers the mark, is durable.
    pub(super) lowering: Option<u64>,
}

impl Node {
    /// Hands the log's next write to its disk. A truncation below the acked mark first waits until the mark is lowered on
    /// the state's disk: a log that is shorter than the mark says would be taken for one that lost what it acknowledged.
    /// Of a log that did lose it the mark says so until the log reaches it again, whatever is cut off meanwhile.
    pub(super) fn persist(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.state.lowering.is_some() {
            return;
        }
        if let Some(from) = self.raft.pending_truncation()
            && self.raft.lost_mark().is_none()
            && from <= self.state.mark.index
        {
            if self.install.is_adopting() {
                return;
            }
            self.state.mark = self.raft.position_before(from);
            let mut ops = Vec::new();
            self.put_mark(&mut ops);
            let write = self.state_write(ops, true);
            self.state.lowering = Some(write.id);
            effects.push(Effect::WriteState(write));
            return;
        }
        if let Some(ready) = self.raft.ready(now) {
            effects.push(Effect::Persist(ready));
        }
    }

    /// The mark goes to where the log's disk is, unless that is about to go back.
    pub(super) fn note_acknowledged(&mut self) {
        if self.state.lowering.is_none() && self.raft.pending_truncation().is_none() {
            self.state.mark = self.raft.lost_mark().unwrap_or_else(|| self.raft.persisted_position());
        }
    }

    pub(super) fn put_mark(&self, ops: &mut Vec<Op>) {
        let (term, incarnation) = (self.raft.durable_term(), self.identity.incarnation);
        AckedMark { last: self.state.mark, term, incarnation }.put(ops);
    }

    pub(super) fn state_write(&mut self, ops: Vec<Op>, sync: bool) -> StateWrite {
        self.state.next_id += 1;
        StateWrite { id: self.state.next_id, ops, sync }
    }

    pub(super) fn state_written(&mut self, id: u64) {
        while let Some((_, run)) = self.state.inserting.pop_front_if(|(write, _)| *write <= id) {
            self.machine.written(run);
        }
    }
}

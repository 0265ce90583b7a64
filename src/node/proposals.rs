//! Commands between their client and the log.
//!
//! A command is **parked** while there is nobody to give it to (no leader, or leadership on its way elsewhere): it surely
//! has not been appended, so it may wait and be submitted later. Once it may have left, to the local log or to the leader,
//! it is **pending**, and is never submitted again: the reply is what the machine says when the entry with its id is applied
//! here, or `Uncertain`, at once, when leadership changes first. A command that surely was not appended, because the leader
//! says so or because it could not even leave, comes back and is parked again, under a new id.

use super::input::{Refused, Reply, Slot, Uncertain};
use super::stages::Stages;
use crate::ids::{Incarnation, MemberId, Term};
use crate::time::Time;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// A command and who waits for it.
#[derive(Debug)]
pub(super) struct Command {
    /// `None`: the node's own.
    pub slot: Option<Slot>,
    pub bytes: Bytes,
    pub grows: bool,
    /// When the caller asked.
    pub since: Time,
}

#[derive(Debug)]
struct Pending {
    command: Command,
    /// Under which leadership it was submitted, and when.
    term: Term,
    leader: MemberId,
    at: Time,
}

/// All commands on their way. Ids count up, so the oldest stand first.
#[derive(Debug)]
pub(super) struct Proposals {
    parked: VecDeque<Command>,
    pending: BTreeMap<u64, Pending>,
    sequence: u64,
}

impl Proposals {
    /// Sequences begin in a range of this life's own: a refusal of a command of an earlier life, late, must not be taken
    /// for one of this life, which would then be submitted twice.
    pub(super) fn new(incarnation: Incarnation) -> Proposals {
        Proposals { parked: VecDeque::new(), pending: BTreeMap::new(), sequence: incarnation.first_number() }
    }

    pub(super) fn park(&mut self, command: Command) {
        self.parked.push_back(command);
    }

    /// All parked commands, to be submitted now.
    pub(super) fn unpark(&mut self) -> VecDeque<Command> {
        std::mem::take(&mut self.parked)
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The command may have left, under `sequence`.
    pub(super) fn submitted(&mut self, sequence: u64, command: Command, at: Time, (term, leader): (Term, MemberId)) {
        self.pending.insert(sequence, Pending { command, term, leader, at });
    }

    /// The entry with this sequence is applied on the member `own`: who waits for it, and since when.
    pub(super) fn applied(&mut self, sequence: u64, own: MemberId) -> Option<(Slot, Stages)> {
        let Pending { command, leader, at, .. } = self.pending.remove(&sequence)?;
        let stages = Stages { taken: command.since, submitted: at, forwarded: leader != own, ..Stages::default() };
        Some((command.slot?, stages))
    }

    /// The entry with this sequence surely was not appended: its command.
    pub(super) fn take(&mut self, sequence: u64) -> Option<Command> {
        self.pending.remove(&sequence).map(|p| p.command)
    }

    /// How many are on their way.
    pub(super) fn count(&self) -> usize {
        self.parked.len() + self.pending.len()
    }

    /// Whether nothing is known yet of what was submitted under `sequence`.
    pub(super) fn is_pending(&self, sequence: u64) -> bool {
        self.pending.contains_key(&sequence)
    }

    /// The caller has gone. What is pending stays pending.
    pub(super) fn cancel(&mut self, slot: Slot) {
        self.parked.retain(|command| command.slot != Some(slot));
    }

    /// Another leadership is known: nobody can say what became of the commands of the former one.
    pub(super) fn leader_changed(&mut self, term: Term, leader: MemberId, replies: &mut Vec<(Slot, Reply)>) {
        let lost = self.pending.extract_if(.., |_, p| (p.term, p.leader) != (term, leader));
        replies.extend(lost.filter_map(|(_, p)| Some((p.command.slot?, Reply::Uncertain(Uncertain::LeaderLost)))));
    }

    /// Answers what has waited too long: what was submitted before `submitted` is uncertain, what was parked before
    /// `parked` is refused.
    pub(super) fn expire(&mut self, submitted: Time, parked: Time, replies: &mut Vec<(Slot, Reply)>) {
        while let Some(first) = self.pending.first_entry().filter(|e| e.get().command.since < submitted) {
            let slot = first.remove().command.slot;
            replies.extend(slot.map(|slot| (slot, Reply::Uncertain(Uncertain::TimedOut))));
        }
        while self.parked.front().is_some_and(|command| command.since < parked) {
            let slot = self.parked.pop_front().and_then(|command| command.slot);
            replies.extend(slot.map(|slot| (slot, Reply::Refused(Refused::NoLeader))));
        }
    }

    /// When the oldest submitted and the oldest parked command were asked for.
    pub(super) fn oldest(&self) -> (Option<Time>, Option<Time>) {
        (self.pending.values().next().map(|p| p.command.since), self.parked.front().map(|command| command.since))
    }
}

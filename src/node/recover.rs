//! The last resort: a cluster whose quorum is lost for good goes on with one survivor.
//!
//! Raft has no answer to a lost majority: what it committed may be on the lost disks alone, and if they come back, two clusters
//! claim to be the same. So somebody who knows that they won't has to decide. What can be done for that is here: [`inspect`] tells
//! what a member's disk holds, so that the one with the most can be chosen, and [`decree`] writes a configuration of that
//! member alone at the end of its log, in the next term. Opened after that, it elects itself and commits all it holds.
//!
//! The best survivor has the last entry of the newest term, then the longest log (Raft §5.4.1): whatever was committed by a
//! quorum in which a survivor took part is in it.
//!
//! May not know: files, people. A member that runs has its disk locked.

use super::marks::{AckedMark, Quarantined};
use super::membership;
use crate::ids::{Incarnation, Index, Position, RequestId, Revision, Term, WriteSeq};
use crate::machine::{Machine, Member};
use crate::raft::quorum::Configuration;
use crate::raft::{Entry, EntryKind, HardState, Ready};
use crate::storage::directory::Meta;
use crate::storage::log::LogStore;
use crate::storage::{Engine, Op};
use std::sync::Arc;

/// What a member's disk holds.
#[derive(Clone, Debug)]
pub struct Survivor {
    /// The newest term it saw.
    pub term: Term,
    /// Where its log ends.
    pub last: Position,
    /// How far its state goes: all of that was committed.
    pub applied: Position,
    /// Of that state.
    pub digest: u64,
    /// The store's revision then.
    pub revision: Revision,
    /// It had acknowledged entries up to here, and its log has lost them.
    pub lost: Option<Position>,
    /// The newest configuration in its log, committed or not.
    pub configuration: Configuration,
    /// The members that its state knows.
    pub members: Vec<Member>,
}

impl Survivor {
    /// Whether its log holds what the other's holds.
    pub fn is_at_least(&self, other: &Survivor) -> bool {
        self.last.at_least_as_up_to_date_as(other.last)
    }
}

/// Reads what a member left. Its life is counted, as by every opening; nothing else changes.
///
/// # Errors
/// A sentence: the disk can't be read, or holds what can't be.
pub fn inspect(meta: &Meta, raft: Arc<dyn Engine>, state: Arc<dyn Engine>) -> Result<Survivor, String> {
    Ok(read(meta, raft, &state)?.1)
}

fn read(meta: &Meta, raft: Arc<dyn Engine>, state: &Arc<dyn Engine>) -> Result<(LogStore, Survivor), String> {
    let founders = meta.members.iter();
    let initial = founders.clone().map(super::open::initial_member).collect();
    let machine = Machine::open(Arc::clone(state), initial).map_err(|error| format!("the state database: {error}"))?;
    let mark = AckedMark::read(&**state).map_err(|error| format!("the state database: {error}"))?;
    let (log, recovered) =
        LogStore::open(raft, 0, mark.incarnation).map_err(|error| format!("the log database: {error}"))?;
    let view = machine.view();
    let applied = machine.applied();
    let founders = founders.map(|member| member.id);
    let of_state = membership::of_state(&view.configuration(), founders).map_err(|halt| halt.0)?;
    let of_log = recovered.newest_configuration.filter(|log| log.version() > of_state.version());
    let configuration = of_log.unwrap_or(of_state);
    let survivor = Survivor {
        term: recovered.hard_state.term.max(mark.term),
        last: recovered.last,
        applied,
        digest: machine.digest(),
        revision: view.revision(),
        lost: (!recovered.last.reaches(mark.last)).then_some(mark.last),
        configuration,
        members: view.members(),
    };
    Ok((log, survivor))
}

/// Makes the member whose disk this is the only one of its cluster. Returns where that stands in its log.
///
/// # Errors
/// A sentence: the disk can't be read or written, or its state is not its log's.
pub fn decree(meta: &Meta, raft: Arc<dyn Engine>, state: Arc<dyn Engine>) -> Result<Position, String> {
    let (mut log, survivor) = read(meta, raft, &state)?;
    if survivor.applied.index > survivor.last.index {
        return Err(format!(
            "its state was made from entry {}, but its log ends at {}: let it start once with a quorum, or choose another one",
            survivor.applied, survivor.last
        ));
    }
    let base = log.base();
    if survivor.applied.index < base.index {
        return Err(format!(
            "it has no state: that was lost, or set aside because it was wrong, and its log holds only what follows entry {base}; \
             choose another one"
        ));
    }
    let term = survivor.term.max(survivor.last.term).next();
    let position = Position { index: Index(survivor.last.index.0 + 1), term };
    let data = survivor.configuration.decree(meta.member).encode(&[]);
    let entry = Entry::new(position, EntryKind::Configuration, RequestId::default(), data);
    let hard_state = Some(HardState { term, vote: Some(meta.member) });
    let ready = Ready { seq: WriteSeq(0), hard_state, compact_to: None, truncate_from: None, entries: vec![entry] };
    log.persist(&[ready]).map_err(|fault| fault.to_string())?;
    // What its log has lost is lost to everyone now.
    let mut ops = Vec::new();
    AckedMark { last: position, term, incarnation: Incarnation(0) }.put(&mut ops);
    // Nor is there anybody to take a state over from: what was set aside is made again from the log.
    Quarantined::remove(&mut ops);
    for op in ops {
        match op {
            Op::Put(key, value) => state.put(&key, &value),
            Op::Delete(key) => state.delete(&key),
        }
        .map_err(|fault| fault.to_string())?;
    }
    state.sync().map_err(|fault| fault.to_string())?;
    Ok(position)
}

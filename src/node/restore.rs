//! What the disk of a restored member holds: the state of a snapshot, and an empty log that goes on after it.
//!
//! It is a birth like [`super::open()`]'s, which opens the result as it opens any other disk: a state that was applied up to
//! some entry, and a log that begins there. All members of a cluster that is restored from one snapshot have the same entry
//! there, in term 1; the first leader's term is a later one.
//!
//! May not know: files, directories, whose snapshot it was.

use crate::ids::{Incarnation, Position, Revision, WriteSeq};
use crate::machine::{Item, Level, Member, Restoring};
use crate::raft::{HardState, Ready};
use crate::storage::Engine;
use crate::storage::log::LogStore;
use std::sync::Arc;

/// Fills two empty engines: `next` gives the leases and then the pairs of a snapshot, by revision; the store stands at
/// `revision` afterwards, in a cluster of this `level`. Returns the entry that it begins after.
///
/// # Errors
/// A sentence: the disk failed, something is there already, or `next` failed.
pub fn restore(
    raft: Arc<dyn Engine>,
    state: Arc<dyn Engine>,
    members: Vec<Member>,
    revision: Revision,
    level: Level,
    next: &mut dyn FnMut() -> Result<Option<Item>, String>,
) -> Result<Position, String> {
    let mut restoring = Restoring::begin(state, members, revision, level).map_err(|error| error.to_string())?;
    while let Some(item) = next()? {
        restoring.take(&item).map_err(|fault| fault.to_string())?;
    }
    let (applied, _) = restoring.finish().map_err(|fault| fault.to_string())?;
    let (mut log, _) = LogStore::open(raft, 0, Incarnation(0)).map_err(|error| error.to_string())?;
    let hard_state = Some(HardState { term: applied.term, vote: None });
    let ready = Ready { seq: WriteSeq(0), hard_state, compact_to: None, truncate_from: None, entries: Vec::new() };
    log.persist(&[ready]).map_err(|fault| fault.to_string())?;
    log.reset(applied).map_err(|fault| fault.to_string())?;
    Ok(applied)
}

//! The replicated log on an engine. (skeleton: the essay comes with the implementation)

use super::{Engine, Fault};
use crate::ids::{Incarnation, Index, Position, Term};
use crate::raft::{Entry, HardState, Persisted, Ready};
use std::sync::Arc;

/// Executes what the Raft core wants durable. Owned by one thread.
#[derive(Debug)]
pub struct LogStore {}

/// What a log store found when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// Which life begins: one more than the last one, already durable.
    pub incarnation: Incarnation,
    /// The terms of the whole log, as runs: (first index of the run, term), ascending.
    pub terms: Vec<(Index, Term)>,
    /// Where the log ends.
    pub last: Position,
    /// The newest entries, contiguous up to `last`, at most about `tail_bytes` of them.
    pub tail: Vec<Entry>,
}

/// Why a log can't be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// What is there can't be what was written: the sentence says where and what to do.
    #[error("{0}")]
    Corrupt(String),
}

#[allow(unused_variables, clippy::todo)]
impl LogStore {
    /// Opens the log on `engine`: verifies every record (checksum, contiguity, terms that don't decrease, nothing above the
    /// hard state's term), counts up the incarnation and syncs it.
    ///
    /// # Errors
    /// The disk failed, or the log is not one.
    pub fn open(engine: Arc<dyn Engine>, tail_bytes: usize) -> Result<(LogStore, Recovered), OpenError> {
        todo!()
    }

    /// Executes all of `batch` in order and syncs once (group commit).
    ///
    /// # Errors
    /// Final: nothing of the batch may be acknowledged.
    pub fn persist(&mut self, batch: &[Ready]) -> Result<Option<Persisted>, Fault> {
        todo!()
    }

    /// Entries from `from` on, contiguous and sound, cut at `max_bytes` but at least one; empty if `from` is past the end
    /// (it may have been truncated since the core asked).
    ///
    /// # Errors
    /// The disk failed, or a record is not what was written.
    pub fn read(&self, from: Index, max_bytes: usize) -> Result<Vec<Entry>, Fault> {
        todo!()
    }

    /// Bytes on the disk.
    pub fn size_on_disk(&self) -> u64 {
        todo!()
    }
}

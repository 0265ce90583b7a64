//! Bytes that survive.
//!
//! Two databases lie under a member: `raft/` (term, vote, log) and `state/` (what was applied). Both are an [`Engine`]:
//! ordered keys, single-key writes, one kind of sync. This module states what an engine promises; everything above is
//! built on that promise alone.
//!
//! **The durability law.** Writes to one engine are atomic per key and *ordered*: after a crash, what is found is the
//! result of some prefix of the writes, at least up to the last [`Engine::sync`] that returned. No promise spans keys, and
//! none spans engines. So:
//!
//! - what must appear together goes into one value, with a checksum;
//! - what must not appear before something else is written after it;
//! - a value of several chunks writes its first chunk last, and deletes it first: if the first is there, all are.
//!
//! A failed sync is final. The engine returns [`Fault`], the node halts, the process ends: after a failed `fsync` the
//! kernel has forgotten which pages were dirty, and a second one that succeeds means nothing.
//!
//! The trait has two implementations from the start: `sled` (production) and `memory` (a durable image plus a list of
//! unsynced writes, any suffix of which a crash may lose). It may not know what the bytes mean.
//!
//! On top of the engine: `key` (every persisted key, values in checksummed slots) and `log` (the replicated log). Beside
//! it: `directory` (is this the right disk, and whole?) and `space` (is there room?).
//!
//! Absent: batches and transactions (sled's take a process-wide lock), iterators that live across writes, snapshots.

use bytes::Bytes;
use std::ops::ControlFlow;

pub mod directory;
pub mod key;
pub mod log;
pub mod memory;
pub mod sled;
pub mod space;

/// What is done about a member that forgot what it promised: a command, for a sentence.
pub(crate) const COME_BACK: &str = "bring the member back under a new id, with an empty directory: quorate serve --join \
                                    <host:port of another member's peer URL> in place of --initial-cluster, all else as it was; \
                                    the others have the data";

/// Why the disk can't be trusted any more. Not to be retried: the process ends with the sentence, a restart recovers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Fault {
    /// What was being done, with values.
    pub what: String,
    /// What the system said.
    pub why: String,
}

/// A single-key write, as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Set.
    Put(Bytes, Bytes),
    /// Remove.
    Delete(Bytes),
}

impl Op {
    /// Its bytes.
    pub fn size(&self) -> usize {
        match self {
            Op::Put(key, value) => key.len() + value.len(),
            Op::Delete(key) => key.len(),
        }
    }
}

/// Ordered durable bytes. The contract is the module's essay.
pub trait Engine: Send + Sync + 'static {
    /// The value of `key`.
    ///
    /// # Errors
    /// The disk failed or holds garbage.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// Visits the pairs with `low <= key < high` in ascending order until `visit` breaks. `visit` may be called for keys
    /// written while the scan runs; it must not write to this engine.
    ///
    /// # Errors
    /// The disk failed or holds garbage.
    fn scan(
        &self,
        low: &[u8],
        high: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), Fault>;

    /// Sets `key` to `value`; durable after the next [`Engine::sync`]. Values stay below 128 KiB (see `key.rs`).
    ///
    /// # Errors
    /// The disk failed.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Fault>;

    /// Removes `key`, present or not; durable after the next [`Engine::sync`].
    ///
    /// # Errors
    /// The disk failed.
    fn delete(&self, key: &[u8]) -> Result<(), Fault>;

    /// Returns when every write that returned before the call is durable.
    ///
    /// # Errors
    /// The sync failed: final.
    fn sync(&self) -> Result<(), Fault>;

    /// Bytes that the engine takes on its disk; never 0 once something was written.
    fn size_on_disk(&self) -> u64;
}

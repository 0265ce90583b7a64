//! How much was asked of the machine since it was opened, for metrics.
//!
//! Beside the state and no part of it: the counts are not replicated, not digested and not kept. Whoever changes or reads
//! adds to them without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counts, as they go on.
#[derive(Debug, Default)]
pub struct Counts {
    pub(super) puts: AtomicU64,
    pub(super) put_bytes: AtomicU64,
    pub(super) deletes: AtomicU64,
    pub(super) ranges: AtomicU64,
    pub(super) txns: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Puts that were applied.
    pub puts: u64,
    /// Bytes of their keys and values.
    pub put_bytes: u64,
    /// Deletes that were applied, whatever they found.
    pub deletes: u64,
    /// Ranges that were read, alone or in a txn, compares included, as etcd counts them.
    pub ranges: u64,
    /// Txns that did more than one thing (etcd counts those).
    pub txns: u64,
}

/// Adds to a count.
pub(super) fn add(count: &AtomicU64, more: usize) {
    count.fetch_add(more as u64, Ordering::Relaxed);
}

impl Counts {
    /// The counts now.
    pub(super) fn now(&self) -> Counted {
        let [puts, put_bytes, deletes, ranges, txns] =
            [&self.puts, &self.put_bytes, &self.deletes, &self.ranges, &self.txns]
                .map(|count| count.load(Ordering::Relaxed));
        Counted { puts, put_bytes, deletes, ranges, txns }
    }
}

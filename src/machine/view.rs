//! Reading from any thread.

use super::budget::Share;
use super::counts::Counted;
use super::range::Reader;
use super::state::Shared;
use super::{Error, History, Lease, LeaseTime, Member, RangeStream, history, txn};
use crate::ids::{MemberId, Revision};
use crate::proto::etcdserverpb as pb;
use std::sync::Arc;

/// Reads the machine's state from any thread, while apply goes on. Cheap to clone.
///
/// Each call takes the newest published revision once and sees whole commands up to it, nothing of later ones. The shape
/// of requests is checked before (`check.rs`).
#[derive(Clone, Debug)]
pub struct View(pub(super) Arc<Shared>);

impl View {
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { shared: &self.0, now: self.0.revision() }
    }

    /// A range read.
    ///
    /// # Errors
    /// Compacted or future revision, disk.
    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        self.range_within(request, &mut Share::unlimited())
    }

    /// A range read that pays for what it holds.
    ///
    /// # Errors
    /// As [`View::range`]; the answer is too large for `share`.
    pub fn range_within(&self, request: &pb::RangeRequest, share: &mut Share) -> Result<pb::RangeResponse, Error> {
        self.reader().range(request, share)
    }

    /// A range read piece by piece: pieces of about `piece_bytes` at most.
    ///
    /// # Errors
    /// Compacted or future revision.
    pub fn stream(&self, request: pb::RangeRequest, piece_bytes: u64) -> Result<RangeStream, Error> {
        RangeStream::open(self.clone(), request, piece_bytes)
    }

    /// A transaction that only reads, whole at one revision.
    ///
    /// # Errors
    /// As [`View::range`].
    ///
    /// # Panics
    /// If the txn does not only read (`check::is_read_only`).
    pub fn txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        self.txn_within(request, &mut Share::unlimited())
    }

    /// A transaction that only reads and pays for what its ranges hold.
    ///
    /// # Errors
    /// As [`View::txn`]; the answer is too large for `share`.
    ///
    /// # Panics
    /// As [`View::txn`].
    pub fn txn_within(&self, request: &pb::TxnRequest, share: &mut Share) -> Result<pb::TxnResponse, Error> {
        txn::read_only(self.reader(), request, share)
    }

    /// Makes a txn that also writes pay for its ranges in advance, by what they would find now.
    ///
    /// # Errors
    /// The answer would be too large for `share`.
    pub fn charge_txn(&self, request: &pb::TxnRequest, share: &mut Share) -> Result<(), Error> {
        share.take(txn::size_of_ranges(self.reader(), request))
    }

    /// Makes a deletion pay in advance for what it is to tell of what it deletes.
    ///
    /// # Errors
    /// As [`View::charge_txn`].
    pub fn charge_delete(&self, request: &pb::DeleteRangeRequest, share: &mut Share) -> Result<(), Error> {
        share.take(self.reader().size_of_deleted(request))
    }

    /// What happened from revision `from` on: whole revisions, about `max_bytes` of them (one at least), and where to go on.
    /// Empty if `from` is still to come.
    ///
    /// # Errors
    /// `from` is below the oldest readable revision; disk.
    pub fn history(&self, from: Revision, max_bytes: usize) -> Result<History, Error> {
        history::read(&self.0, from.0, max_bytes)
    }

    /// The same from memory, where the newest history is, whatever was compacted meanwhile; `None` if it goes back too far.
    /// For who has read everything before `from` already.
    pub fn recent(&self, from: Revision, max_bytes: usize) -> Option<History> {
        history::recent(&self.0, from.0, max_bytes)
    }

    /// A lease, if it is there.
    pub fn lease(&self, id: i64) -> Option<Lease> {
        self.0.read().leases.get(&id).cloned()
    }

    /// All leases, by id, with what is written down of their time.
    pub fn leases(&self) -> Vec<(i64, LeaseTime)> {
        self.0.read().leases.iter().map(|(id, lease)| (*id, lease.time)).collect()
    }

    /// The store's revision.
    pub fn revision(&self) -> Revision {
        Revision(self.0.revision())
    }

    /// The oldest readable revision; below 1 as long as nothing was compacted.
    pub fn compacted(&self) -> Revision {
        Revision(self.0.read().compacted)
    }

    /// The members, by id.
    pub fn members(&self) -> Vec<Member> {
        self.0.read().members.values().cloned().collect()
    }

    /// Alarms that are up, by member.
    pub fn alarms(&self) -> Vec<(MemberId, pb::AlarmType)> {
        let alarms = &self.0.read().alarms;
        alarms.iter().filter_map(|(id, alarm)| Some((*id, pb::AlarmType::try_from(*alarm).ok()?))).collect()
    }

    /// Keys that are there now.
    pub fn live_keys(&self) -> u64 {
        self.0.read().index.live_keys()
    }

    /// What was asked of the machine since it was opened.
    pub fn counted(&self) -> Counted {
        self.0.counts.now()
    }

    /// Bytes that live keys and values take.
    pub fn live_bytes(&self) -> u64 {
        self.0.read().index.live_bytes()
    }
}

//! Reading from any thread.

use super::budget::Share;
use super::counts::Counted;
use super::range::Reader;
use super::record::Raised;
use super::space::{self, Holding};
use super::state::Shared;
use super::{Error, History, KvHash, Lease, LeaseTime, Member, RangeStream, Snapshot, Standing, hash, history, txn};
use crate::ids::{ClusterId, MemberId, Revision};
use crate::proto::etcdserverpb as pb;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads the machine's state from any thread, while apply goes on. Cheap to clone.
///
/// Each call takes the newest published revision once and sees whole commands up to it, nothing of later ones; if that
/// revision is compacted while it reads, it reads again at a newer one. The shape
/// of requests is checked before (`check.rs`).
#[derive(Clone, Debug)]
pub struct View(pub(super) Arc<Shared>);

impl View {
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { shared: &self.0, now: self.0.revision() }
    }

    /// What `read` gives at a revision that is still there when it has been read.
    fn at_rest<T>(
        &self,
        share: &mut Share,
        read: impl Fn(Reader<'_>, &mut Share) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let held = share.held();
        loop {
            let reader = self.reader();
            let outcome = read(reader, share);
            if self.0.read().compacted <= reader.now {
                return outcome;
            }
            share.keep(held);
        }
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
        self.at_rest(share, |reader, share| reader.range(request, share))
    }

    /// Whether [`View::range`] is sure to take no longer than a few reads of single keys do.
    pub fn is_brief(&self, request: &pb::RangeRequest) -> bool {
        self.reader().is_brief(request)
    }

    /// A range read piece by piece: pieces of about `piece_bytes` at most.
    ///
    /// # Errors
    /// Compacted or future revision.
    pub fn stream(&self, request: pb::RangeRequest, piece_bytes: u64) -> Result<RangeStream, Error> {
        RangeStream::open(self.clone(), request, piece_bytes)
    }

    /// A snapshot of what is there now, of a store that belongs to `cluster`.
    pub fn snapshot(&self, cluster: ClusterId) -> Snapshot {
        Snapshot::open(self.clone(), cluster)
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
        self.at_rest(share, |reader, share| txn::read_only(reader, request, share))
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

    /// A hash of everything that can be read up to `revision` (0: now): see [`KvHash`].
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn hash(&self, revision: Revision) -> Result<KvHash, Error> {
        hash::hash(&self.0, revision.0)
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

    /// A member.
    pub fn member(&self, id: MemberId) -> Option<Member> {
        self.0.read().members.get(&id).cloned()
    }

    /// How a member belongs to the cluster.
    pub fn standing(&self, id: MemberId) -> Option<Standing> {
        self.0.read().members.get(&id).map(|member| member.standing)
    }

    /// The members, by id.
    pub fn members(&self) -> Vec<Member> {
        self.0.read().members.values().cloned().collect()
    }

    /// Counts the changes of what [`View::members`] and [`View::is_gone`] say, since the state was opened.
    pub fn member_changes(&self) -> u64 {
        self.0.read().member_changes
    }

    /// Whether this was a member once, and was removed: its id never comes again.
    pub fn is_gone(&self, id: MemberId) -> bool {
        self.0.read().gone.contains(&id)
    }

    /// Who votes and who learns, in the bytes of the newest [`super::Membership`]; empty before the first one.
    pub fn configuration(&self) -> Bytes {
        self.0.read().configuration.clone()
    }

    /// Alarms that are up, by member.
    pub fn alarms(&self) -> Vec<(MemberId, pb::AlarmType)> {
        let alarms = &self.0.read().alarms;
        alarms.keys().filter_map(|(id, alarm)| Some((*id, pb::AlarmType::try_from(*alarm).ok()?))).collect()
    }

    /// Whether the member raised its own NOSPACE alarm; `None`: it is not up.
    pub fn short_of_space(&self, member: MemberId) -> Option<bool> {
        let raised = self.0.read().alarms.get(&(member, pb::AlarmType::Nospace as i32)).copied();
        raised.map(|raised| raised == Raised::ByItself)
    }

    /// Whether no member's NOSPACE alarm is up.
    pub fn may_grow(&self) -> bool {
        self.0.read().may_grow()
    }

    /// Versions and deletions that compactions took away since the start.
    pub fn dropped_versions(&self) -> u64 {
        self.0.dropped()
    }

    /// Keys that are there now.
    pub fn live_keys(&self) -> u64 {
        self.0.read().index.live_keys()
    }

    /// What was asked of the machine since it was opened.
    pub fn counted(&self) -> Counted {
        self.0.counts.now()
    }

    /// Bytes that the keys that are there take, with their newest values and a fixed sum for each.
    pub fn live_bytes(&self) -> u64 {
        self.0.read().index.live_bytes()
    }

    /// Bytes that all versions that are kept take, counted in the same way: what a quota is about.
    pub fn held_bytes(&self) -> u64 {
        self.0.read().index.held_bytes()
    }

    /// What the keys that begin with `within` take, by their beginnings: up to delimiter number `depth`.
    pub fn shares(&self, within: &[u8], delimiter: u8, depth: usize) -> BTreeMap<Box<[u8]>, Holding> {
        space::shares(&self.0, within, delimiter, depth)
    }
}

//! Leases, as far as they are the same on all members: which there are, for how long they were granted, and their keys.
//!
//! A lease is what its commands made it. How much of its time is left is the leader's affair (`node`), for only one clock can
//! tell; it comes back here in two commands: a *checkpoint* writes down what is left, so that the next leader need not begin
//! with all of it, and a *revoke* ends the lease with all its keys in one revision.
//!
//! Invariant: a key belongs to the lease that its newest version names, and to no other; a key that is not there belongs to
//! none.

use super::record::Effect;
use super::{Error, Machine, header};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate::{CheckpointLeases, GrantLease};
use std::collections::BTreeSet;

/// A lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// What it was granted for, in seconds.
    pub ttl: i64,
    /// What was left when that was last written down, in seconds; 0: all of it.
    pub remaining: i64,
    /// Its keys.
    pub keys: BTreeSet<Box<[u8]>>,
}

impl Machine {
    /// Makes a lease. Its time is within etcd's bounds already.
    pub(super) fn grant_lease(&mut self, grant: &GrantLease) -> Result<pb::LeaseGrantResponse, Error> {
        if self.shared.read().leases.contains_key(&grant.id) {
            return Err(Error::LeaseExists);
        }
        self.emit(&Effect::Lease { id: grant.id, ttl: grant.ttl, remaining: 0 }, None);
        let header = header(self.shared.revision());
        Ok(pb::LeaseGrantResponse { header, id: grant.id, ttl: grant.ttl, error: String::new() })
    }

    /// Writes down what is left of some leases. Those that are gone stay gone.
    pub(super) fn checkpoint_leases(&mut self, checkpoint: &CheckpointLeases) {
        for lease in &checkpoint.leases {
            let known = self.shared.read().leases.get(&lease.id).map(|lease| (lease.ttl, lease.remaining));
            if let Some((ttl, remaining)) = known
                && remaining != lease.remaining_ttl
            {
                self.emit(&Effect::Lease { id: lease.id, ttl, remaining: lease.remaining_ttl }, None);
            }
        }
    }
}

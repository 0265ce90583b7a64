//! Leases, as far as they are the same on all members: which there are, for how long they were granted, and their keys.
//!
//! A lease is what its commands made it. How much of its time is left is the leader's affair (`node`), for only one clock can
//! tell; it comes back here in two commands: a *checkpoint* writes down what is left, so that the next leader need not begin
//! with all of it, and a *revoke* ends the lease with all its keys in one revision.
//!
//! A leader proposes both from what it has applied, and by the time they are applied an owner may have given its lease back and
//! been granted another one of the same id. So both name the last entry that their proposer had applied, a lease remembers
//! the entry that made it, and what is said of an older lease does nothing to a newer one.
//!
//! Invariant: a key belongs to the lease that its newest version names, and to no other; a key that is not there belongs to
//! none.

use super::record::Effect;
use super::{Error, Machine, header};
use crate::ids::Index;
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate::{CheckpointLeases, GrantLease};
use std::collections::BTreeSet;

/// A lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Its time, as far as it is written down.
    pub time: LeaseTime,
    /// Its keys.
    pub keys: BTreeSet<Box<[u8]>>,
}

/// What is written down of a lease's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseTime {
    /// What it was granted for, in seconds.
    pub ttl: i64,
    /// What was left when that was last written down, in seconds; 0: all of it.
    pub remaining: i64,
    /// The entry that made it: no two leases have the same one.
    pub granted: Index,
}

/// What an entry did to a lease, for whoever keeps the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// It was granted.
    Granted(i64, LeaseTime),
    /// What is left of it was written down.
    Written(i64, LeaseTime),
    /// It is gone.
    Gone(i64),
}

impl Machine {
    /// Makes a lease. Its time is within etcd's bounds already.
    pub(super) fn grant_lease(&mut self, at: Index, grant: &GrantLease) -> Result<pb::LeaseGrantResponse, Error> {
        if self.shared.read().leases.contains_key(&grant.id) {
            return Err(Error::LeaseExists);
        }
        let time = LeaseTime { ttl: grant.ttl, remaining: 0, granted: at };
        self.write_lease(grant.id, time);
        self.lease_changes.push(LeaseChange::Granted(grant.id, time));
        let header = header(self.shared.revision());
        Ok(pb::LeaseGrantResponse { header, id: grant.id, ttl: grant.ttl, error: String::new() })
    }

    /// Writes down what is left of some leases. Those that are gone stay gone.
    pub(super) fn checkpoint_leases(&mut self, checkpoint: &CheckpointLeases) {
        for lease in &checkpoint.leases {
            let known = self.shared.read().leases.get(&lease.id).map(|lease| lease.time);
            let Some(time) = known.filter(|time| time.granted.0 <= checkpoint.known) else { continue };
            let written = LeaseTime { remaining: lease.remaining_ttl, ..time };
            if written != time {
                self.write_lease(lease.id, written);
            }
            self.lease_changes.push(LeaseChange::Written(lease.id, written));
        }
    }

    fn write_lease(&mut self, id: i64, LeaseTime { ttl, remaining, granted }: LeaseTime) {
        self.emit(&Effect::Lease { id, ttl, remaining, granted }, None);
    }

    /// Whether a leader that had applied `known` can have meant the lease of this id that there is now.
    pub(super) fn is_known_lease(&self, id: i64, known: u64) -> bool {
        self.shared.read().leases.get(&id).is_some_and(|lease| lease.time.granted.0 <= known)
    }

    /// What became of leases since the last call, in order. To be called after every entry, or they pile up.
    pub fn take_lease_changes(&mut self) -> std::vec::Drain<'_, LeaseChange> {
        self.lease_changes.drain(..)
    }
}

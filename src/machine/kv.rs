//! Changes: Put and DeleteRange, alone or inside a txn, and the end of a lease.
//!
//! A [`Change`] is one command at work. It makes one revision at most, whatever it does: the first effect takes the next
//! revision, later ones share it, and a change without an effect takes none. Its own reads see its own effects; readers
//! elsewhere see nothing of it until the machine publishes the revision.

use super::counts::add;
use super::index::KeyRange;
use super::range::Reader;
use super::record::{Effect, Put};
use super::{Error, Event, LeaseChange, Machine, header};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::KeyValue;
use bytes::Bytes;

/// One command at work.
#[derive(Debug)]
pub struct Change<'m> {
    machine: &'m mut Machine,
    before: i64,
    effects: u32,
}

impl<'m> Change<'m> {
    /// Nothing changed yet.
    pub fn begin(machine: &'m mut Machine) -> Change<'m> {
        let before = machine.shared.revision();
        Change { machine, before, effects: 0 }
    }

    /// The revision as this change sees it.
    pub fn now(&self) -> i64 {
        self.before + i64::from(self.effects > 0)
    }

    /// A reader that sees the changes made so far.
    pub fn reader(&self) -> Reader<'_> {
        Reader { shared: &self.machine.shared, now: self.now() }
    }

    /// A put outside of txns, with the checks that a txn makes before its first effect.
    ///
    /// # Errors
    /// No such lease or key; the disk.
    pub fn put_alone(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Error> {
        self.reader().check_lease(request)?;
        self.reader().check_ignores(request)?;
        self.put(request)
    }

    /// A put whose checks are done.
    ///
    /// # Errors
    /// The disk.
    pub fn put(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Error> {
        let reader = self.reader();
        let mut previous = None;
        let old = if request.prev_kv || request.ignore_value {
            previous = reader.get(&request.key, reader.now, false)?;
            previous.as_ref().map(|kv| (kv.create_revision, kv.version, kv.lease))
        } else {
            let old = reader.version(&request.key, reader.now);
            old.map(|version| (version.created, version.number, version.lease))
        };
        let main = self.before + 1;
        let (created, version, old_lease) = old.unwrap_or((main, 0, 0));
        let kept = previous.as_ref().filter(|_| request.ignore_value).map(|kv| kv.value.clone());
        let value = kept.unwrap_or_else(|| request.value.clone());
        let lease = if request.ignore_lease { old_lease } else { request.lease };
        let (sub, version, key) = (self.effects, version + 1, &request.key);
        let put = Put { main, sub, created, version, lease, key, value: &value };
        let kv = KeyValue {
            key: key.clone(),
            create_revision: created,
            mod_revision: main,
            version,
            value: value.clone(),
            lease,
        };
        let counts = &self.machine.shared.counts;
        add(&counts.puts, 1);
        add(&counts.put_bytes, key.len() + value.len());
        self.machine.emit(&Effect::Put(put), Some(Event { deleted: false, kv }));
        self.effects += 1;
        Ok(pb::PutResponse { header: header(self.now()), prev_kv: previous.filter(|_| request.prev_kv) })
    }

    /// A delete.
    ///
    /// # Errors
    /// The disk.
    pub fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Error> {
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut prev_kvs = Vec::new();
        let mut keys: Vec<Bytes> = Vec::new();
        let reader = self.reader();
        if request.prev_kv {
            prev_kvs = reader.pairs(range)?;
            keys.extend(prev_kvs.iter().map(|kv| kv.key.clone()));
        } else {
            reader.shared.walk(range, reader.now, |_, key, _| keys.push(Bytes::copy_from_slice(key)));
        }
        let deleted = keys.len() as i64;
        add(&self.machine.shared.counts.deletes, 1);
        keys.into_iter().for_each(|key| self.delete(key));
        Ok(pb::DeleteRangeResponse { header: header(self.now()), deleted, prev_kvs })
    }

    /// Deletes a key that is there.
    fn delete(&mut self, key: Bytes) {
        let main = self.before + 1;
        let gone = Effect::Delete { key: &key, main, sub: self.effects };
        let kv = KeyValue { key: key.clone(), mod_revision: main, ..KeyValue::default() };
        self.machine.emit(&gone, Some(Event { deleted: true, kv }));
        self.effects += 1;
    }

    /// Ends a lease and deletes its keys, in their order.
    ///
    /// # Errors
    /// There is no such lease.
    pub fn revoke_lease(&mut self, id: i64) -> Result<pb::LeaseRevokeResponse, Error> {
        let lease = self.machine.shared.read().leases.get(&id).map(|lease| lease.keys.clone());
        for key in lease.ok_or(Error::LeaseNotFound)? {
            self.delete(Bytes::from(key));
        }
        self.machine.emit(&Effect::LeaseGone { id }, None);
        self.machine.lease_changes.push(LeaseChange::Gone(id));
        Ok(pb::LeaseRevokeResponse { header: header(self.now()) })
    }
}

impl Reader<'_> {
    /// Whether what the put wants to keep is there.
    ///
    /// # Errors
    /// It isn't.
    pub fn check_ignores(&self, request: &pb::PutRequest) -> Result<(), Error> {
        let needed = request.ignore_value || request.ignore_lease;
        if needed && self.version(&request.key, self.now).is_none() { Err(Error::KeyNotFound) } else { Ok(()) }
    }

    /// Whether the lease that the put names is there. 0 is none.
    ///
    /// # Errors
    /// It isn't.
    pub fn check_lease(&self, request: &pb::PutRequest) -> Result<(), Error> {
        let there = request.lease == 0 || self.shared.read().leases.contains_key(&request.lease);
        if there { Ok(()) } else { Err(Error::LeaseNotFound) }
    }
}

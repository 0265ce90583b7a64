//! From the contents of a snapshot to the records of a new store.
//!
//! A restored store is a machine that was never applied to: the leases and pairs of a snapshot become the doing of made-up
//! entries, from index 1 on in term 1, as many to an entry as make a good record. They are effects like any other, through the
//! same record, digest and index, so what is opened afterwards proves itself as always; and since the same snapshot gives the
//! same records, all members of a restored cluster begin alike, wherever each was made.
//!
//! Pairs come in the order of their revisions and keep them; the first effect says that revisions leap. The store then stands at the revision it is told, with
//! everything before that compacted away: a snapshot has no history, so nobody may read below it, and a watcher that remembers a
//! revision from before the restore is told so ("compacted") instead of missing what came between. That last revision is made
//! by the deletion of a key that can't be: the empty one.
//!
//! May not know: files, clusters, the log. Left out: alarms and members of the old cluster.

use super::record::{Effect, Put, RECORD_CAP};
use super::{Item, Level, Machine, Member, OpenError};
use crate::ids::{Position, Revision, Term};
use crate::proto::mvccpb::KeyValue;
use crate::storage::{Engine, Fault, Op};
use std::sync::Arc;

/// Written to the engine when so much has gathered, in bytes.
const BATCH: usize = 4 << 20;

/// A store on its way.
pub struct Restoring {
    machine: Machine,
    engine: Arc<dyn Engine>,
    /// Where the store is to stand.
    revision: Revision,
    /// The revision of the last pair, and how many have it.
    newest: (i64, u32),
}

impl Restoring {
    /// Begins on an empty engine, with the members of the new cluster, a store that is to stand at `revision`, which no pair is
    /// newer than, in a cluster of this `level`.
    ///
    /// # Errors
    /// The disk failed, or there is something on it.
    pub fn begin(
        engine: Arc<dyn Engine>,
        members: Vec<Member>,
        revision: Revision,
        level: Level,
    ) -> Result<Restoring, OpenError> {
        let mut machine = Machine::open(Arc::clone(&engine), members)?;
        if machine.applied() != Position::default() {
            return Err(OpenError::Corrupt("the state database that is to be restored is not empty".to_string()));
        }
        if level > Level::FIRST {
            machine.emit(&Effect::Level(level), None);
        }
        machine.emit(&Effect::Restored { revision: revision.0 }, None);
        Ok(Restoring { machine, engine, revision, newest: (1, 0) })
    }

    /// Takes in a lease, or a pair that is not older than the one before. What else a snapshot tells is of its old cluster.
    ///
    /// # Errors
    /// The disk failed.
    ///
    /// # Panics
    /// If a pair is older than the one before, or newer than the store is to be.
    pub fn take(&mut self, item: &Item) -> Result<(), Fault> {
        match item {
            Item::Head(_) | Item::Member(_) => return Ok(()),
            Item::Lease(id, time) => {
                let granted = self.next().index;
                let (ttl, remaining) = (time.ttl, time.remaining);
                self.machine.emit(&Effect::Lease { id: *id, ttl, remaining, granted }, None);
            }
            Item::Pair(pair) => self.put(pair),
        }
        if self.machine.record.len() > RECORD_CAP { self.end_entry() } else { Ok(()) }
    }

    fn put(&mut self, pair: &KeyValue) {
        let (main, count) = self.newest;
        assert!(pair.mod_revision >= main, "a pair of revision {} after one of {main}", pair.mod_revision);
        assert!(
            pair.mod_revision <= self.revision.0,
            "a pair of revision {} in {:?}",
            pair.mod_revision,
            self.revision
        );
        let sub = if pair.mod_revision == main { count } else { 0 };
        self.newest = (pair.mod_revision, sub + 1);
        let (created, version, lease) = (pair.create_revision, pair.version, pair.lease);
        let put = Put { main: pair.mod_revision, sub, created, version, lease, key: &pair.key, value: &pair.value };
        self.machine.emit(&Effect::Put(put), None);
    }

    /// The position of the entry whose doing comes next.
    fn next(&self) -> Position {
        Position { index: self.machine.applied.index.next(), term: Term(1) }
    }

    fn end_entry(&mut self) -> Result<(), Fault> {
        let position = self.next();
        self.machine.end_entry(position);
        if self.machine.pending_bytes() < BATCH { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<(), Fault> {
        let mut ops = Vec::new();
        let run = self.machine.seal(&mut ops);
        for op in ops {
            match op {
                Op::Put(key, value) => self.engine.put(&key, &value)?,
                Op::Delete(key) => self.engine.delete(&key)?,
            }
        }
        run.into_iter().for_each(|run| self.machine.written(run));
        Ok(())
    }

    /// That was all. Makes it durable, and returns what it has applied and its digest.
    ///
    /// # Errors
    /// The disk failed.
    pub fn finish(mut self) -> Result<(Position, u64), Fault> {
        let (newest, count) = self.newest;
        let main = self.revision.0;
        let sub = if main == newest { count } else { 0 };
        self.machine.emit(&Effect::Delete { key: b"", main, sub }, None);
        self.machine.emit(&Effect::Compacted { revision: main }, None);
        self.machine.shared.publish(main);
        self.end_entry()?;
        self.write()?;
        self.engine.sync()?;
        Ok((self.machine.applied(), self.machine.digest()))
    }
}

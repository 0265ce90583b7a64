//! Records of another member: from its database to one that is being staged.
//!
//! The records of a state are the compacted log, so a member whose own log or state is of no use takes them over from the
//! leader, ascending, as they are stored, and is then opened on them like after a restart. [`read_records`] reads them on
//! the one side, [`Prefix`] follows them on the other: it takes nothing that does not follow what it has, position by
//! position and effect by effect along the digest, and nothing that is not what was written.
//!
//! # Cutting
//!
//! Members close their records at different entries. Who goes on with another member's records gets the one that *holds* the
//! entry wanted, and cuts off what it has already. In a plain record each entry's end is marked, and the digest at its head
//! must come out of what is left, so that is safe. In a rewritten one it can't be done.
//!
//! # What fits
//!
//! Let *swept* be the lowest [`super::Machine::swept`] of all members whose records are in the prefix, each as of the time when
//! its sweep came to rest ([`super::Machine::pin`]). A member's records may follow if it is still the same rest, or if its
//! [`super::Machine::rewritten_for`] is not above *swept*. For then: whatever undoes something and is missing from its records
//! was dead for *swept*; so what it undid was dead for *swept* too, and is in none of the records before. And the prefix is a
//! state only when it reaches the last entry that each of the members had applied when its sweep came to rest: their records
//! lack what later entries, up to there, replaced.
//!
//! Proof obligations that live elsewhere: a record is never rewritten above a dirty one (`compact.rs`), and an effect that only
//! undoes is dead for a mark only if it is older than the mark's revision.
//!
//! May not know: who asks whom, and where the records are staged.

use super::record::{self, Builder, Digest, Effect, Misread};
use crate::ids::{Index, Position};
use crate::storage::Engine;
use crate::storage::key::{Family, Key, put_ops, scan_values};
use crate::storage::{Fault, Op};
use bytes::Bytes;
use std::ops::ControlFlow;

/// The record that holds the entry `from`, and those that begin later and below `below`, ascending, each with its first entry;
/// cut where they are more than `max_bytes`, but one at least if there is one.
///
/// Only in turn with the writes to the database (`storage::key::scan_values`).
///
/// # Errors
/// The disk failed, or a record is not what was written.
pub fn read_records(
    engine: &dyn Engine,
    from: Index,
    below: Index,
    max_bytes: usize,
) -> Result<Vec<(Index, Bytes)>, Fault> {
    let mut records = Vec::new();
    if from >= below {
        return Ok(records);
    }
    let begin = holder(engine, from)?;
    let (mut bytes, mut outcome) = (0, Ok(()));
    let scanned = scan_values(engine, Family::Record, begin, &mut |first, _, value| {
        if first >= below || (!records.is_empty() && bytes + value.len() > max_bytes) {
            return ControlFlow::Break(());
        }
        if let Err(why) = record::header(&value) {
            outcome = Err(Fault { what: format!("reading state record {first}"), why: why.to_string() });
            return ControlFlow::Break(());
        }
        bytes += value.len();
        records.push((first, value));
        ControlFlow::Continue(())
    });
    scanned?;
    outcome.map(|()| records)
}

/// Where the last record begins whose first entry is `from` or an earlier one; `from` if there is none.
fn holder(engine: &dyn Engine, from: Index) -> Result<Index, Fault> {
    let key_of = |index| Family::Record.key(index, 0).encode();
    if engine.get(&key_of(from))?.is_some() {
        return Ok(from);
    }
    // An engine scans upwards only. Most records hold few entries, husks may hold very many.
    let (mut span, mut high) = (64, from);
    while high.0 > 0 {
        let low = Index(from.0.saturating_sub(span));
        let mut found = None;
        engine.scan(&key_of(low), &key_of(high), &mut |key, _| {
            if let Some(Key::Record { first, chunk: 0 }) = Key::decode(key) {
                found = Some(first);
            }
            ControlFlow::Continue(())
        })?;
        if let Some(found) = found {
            return Ok(found);
        }
        (span, high) = (span.saturating_mul(2), low);
    }
    Ok(from)
}

/// Why a record does not follow a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is not what was written, or belongs elsewhere. The sentence says how it shows.
    Rot(String),
    /// It holds entries that the prefix has, and was rewritten: only who begins anew can use it.
    Rewritten,
}

impl From<Misread> for Misfit {
    /// A newer release's can't come, for its state has a level that its taker looks at first: so it is rot too.
    fn from(misread: Misread) -> Misfit {
        Misfit::Rot(misread.to_string())
    }
}

/// How far the records that were taken over reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    reached: Position,
    digest: Digest,
}

impl Default for Prefix {
    fn default() -> Prefix {
        Prefix { reached: Position::default(), digest: Digest::START }
    }
}

impl Prefix {
    /// The last entry.
    pub fn reached(&self) -> Position {
        self.reached
    }

    /// Takes the next record, verified, and appends its writes to `ops`. One whose entries the prefix has is passed over.
    ///
    /// # Errors
    /// It does not follow: nothing was changed.
    pub fn take(&mut self, first: Index, record: &Bytes, ops: &mut Vec<Op>) -> Result<(), Misfit> {
        let header = record::header(record)?;
        if header.first != first || header.last.index < first {
            return Err(Misfit::Rot(format!("state record {first} says that it holds {first} to {}", header.last)));
        }
        if header.last.index <= self.reached.index {
            return Ok(());
        }
        let wanted = self.reached.index.next();
        if first > wanted {
            return Err(Misfit::Rot(format!("state record {first} should follow entry {}", self.reached)));
        }
        if first < wanted && header.rewritten {
            return Err(Misfit::Rewritten);
        }
        let (reached, cut) = if header.rewritten {
            let mut digest = self.digest;
            record::read(record, &mut digest, &mut |_, _| Ok(()))?;
            (Prefix { reached: header.last, digest }, None)
        } else {
            let (reached, cut) = self.cut(first, record)?;
            (reached, (first < wanted).then_some(cut))
        };
        if reached.reached != header.last || reached.digest != header.digest || header.last.term < self.reached.term {
            return Err(Misfit::Rot(format!("state record {first} says {header:?}, its effects say {reached:?}")));
        }
        let bytes = cut.map_or_else(|| record.clone(), |cut| Bytes::from(cut.close(reached.digest)));
        put_ops(|chunk| Family::Record.key(wanted, chunk).encode(), &bytes, ops);
        *self = reached;
        Ok(())
    }

    /// Goes through a plain record. Gives the prefix after it, and the record without the entries that this one has.
    fn cut(&self, first: Index, record: &Bytes) -> Result<(Prefix, Builder), Misread> {
        let wanted = self.reached.index.next();
        let (mut after, mut cut) = (*self, Builder::new(wanted));
        let mut entry = first;
        let outcome = record::read(record, &mut { Digest::START }, &mut |effect, _| {
            let is_known = entry < wanted;
            if let Effect::Applied(position) = effect {
                if position.index != entry || (!is_known && position.term < after.reached.term) {
                    return Err(format!("entry {position} stands where {entry} is due"));
                }
                entry = entry.next();
            }
            if !is_known {
                cut.push(&effect, &mut after.digest);
                if let Effect::Applied(position) = effect {
                    after.reached = position;
                }
            }
            Ok(())
        });
        outcome.map(|_| (after, cut))
    }
}

/// The last entry that a whole record holds; `None` if it is none.
pub fn last_entry(record: &[u8]) -> Option<Index> {
    record::header(record).ok().map(|header| header.last.index)
}

//! What a state's database says beside the state: small values of the node's own, written with it.
//!
//! They are read by [`super::open()`] alone. [`AckedMark`] is against a log that lost what it acknowledged; [`Adopted`] says that
//! the state was not made from this member's log, but taken over, so that a log which does not lead there begins anew;
//! [`Quarantined`] stands where there is no state, and says that the log must not make it again.
//!
//! Their layouts are frozen: numbers of 8 bytes, little-endian, in the order of the fields.

use crate::ids::{Incarnation, Index, Position, Term};
use crate::storage::key::{self, Key};
use crate::storage::{Engine, Fault, Op};

/// All of them.
#[derive(Debug)]
pub(super) struct Beside {
    pub mark: AckedMark,
    pub adopted: Option<Adopted>,
    pub quarantined: Option<Quarantined>,
}

impl Beside {
    pub(super) fn read(engine: &dyn Engine) -> Result<Beside, Fault> {
        let (mark, adopted) = (AckedMark::read(engine)?, Adopted::read(engine)?);
        Ok(Beside { mark, adopted, quarantined: Quarantined::read(engine)? })
    }
}

/// What the state database witnesses of the log database, as of its own last sync: how far the log reached, in which term
/// the member was, and in which life. A log database that knows less has lost what it acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AckedMark {
    pub last: Position,
    pub term: Term,
    pub incarnation: Incarnation,
}

impl AckedMark {
    /// Appends the write of the mark.
    pub(super) fn put(self, ops: &mut Vec<Op>) {
        put(Key::AckedMark, [self.last.index.0, self.last.term.0, self.term.0, self.incarnation.0], ops);
    }

    /// The mark as last synced; the default where none was written yet.
    pub(super) fn read(engine: &dyn Engine) -> Result<AckedMark, Fault> {
        let Some([index, last_term, term, incarnation]) = read(engine, Key::AckedMark)? else {
            return Ok(AckedMark::default());
        };
        let last = Position { index: Index(index), term: Term(last_term) };
        Ok(AckedMark { last, term: Term(term), incarnation: Incarnation(incarnation) })
    }
}

/// Up to which entry the state was taken over from another member. Written with the last of its records, before the state
/// takes the place of another one; it stays, and means nothing any more once the state has moved on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Adopted(pub Position);

impl Adopted {
    /// Appends the write of it.
    pub(super) fn put(self, ops: &mut Vec<Op>) {
        put(Key::Adopted, [self.0.index.0, self.0.term.0], ops);
    }

    /// `None` for a state that grew here.
    pub(super) fn read(engine: &dyn Engine) -> Result<Option<Adopted>, Fault> {
        let found = read(engine, Key::Adopted)?;
        Ok(found.map(|[index, term]| Adopted(Position { index: Index(index), term: Term(term) })))
    }
}

/// The state that was here differed from a quorum's, and was set aside: see [`super::quarantine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quarantined {
    /// What had been applied, and perhaps served: nothing is served until a state that reaches it was taken over.
    pub applied: Index,
    /// The checkpoint at which it differed.
    pub checkpoint: Index,
    /// Its digest there, and the quorum's.
    pub found: u64,
    pub truth: u64,
}

impl Quarantined {
    /// Appends the write of it.
    pub(super) fn put(self, ops: &mut Vec<Op>) {
        put(Key::Quarantine, [self.applied.0, self.checkpoint.0, self.found, self.truth], ops);
    }

    /// Appends its deletion.
    pub(super) fn remove(ops: &mut Vec<Op>) {
        ops.push(Op::Delete(Key::Quarantine.encode()));
    }

    /// `None` where no state was set aside, or another one has taken its place.
    pub(super) fn read(engine: &dyn Engine) -> Result<Option<Quarantined>, Fault> {
        let found = read(engine, Key::Quarantine)?;
        Ok(found.map(|[applied, checkpoint, found, truth]| Quarantined {
            applied: Index(applied),
            checkpoint: Index(checkpoint),
            found,
            truth,
        }))
    }
}

fn put<const N: usize>(key: Key, words: [u64; N], ops: &mut Vec<Op>) {
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    key::put_ops(|_| key.encode(), &value, ops);
}

fn read<const N: usize>(engine: &dyn Engine, key: Key) -> Result<Option<[u64; N]>, Fault> {
    let Some(value) = key::get_value(engine, |_| key.encode())? else { return Ok(None) };
    let (words, rest) = value.as_chunks();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    match (<[u64; N]>::try_from(words), rest.is_empty()) {
        (Ok(words), true) => Ok(Some(words)),
        _ => Err(Fault { what: format!("reading {key:?}"), why: format!("it has {} bytes", value.len()) }),
    }
}

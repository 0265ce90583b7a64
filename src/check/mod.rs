//! The judge: from what clients saw, whether the store kept its word.
//!
//! It shares no code with the accused (law *Judge-apart*): it has a model of its own of what etcd's keys and revisions are,
//! and reads nothing but histories ([`history`]). So a mistake in the machine is not excused by the same mistake here.
//!
//! The word is *strict serializability*: there is one order of all operations in which each answer is right, and which puts
//! an operation that ended before another began first. Finding such an order is hard in general. But etcd's answers carry
//! the store's revision, so the store itself claims an order; two judges look at the claim:
//!
//! - [`sequence`] takes the store at its word and checks it, in O(log n) an operation. It is the strict one (it holds the
//!   store to its revisions, serializable reads to some state of the past, a refused write to never appear), it explains
//!   best, and it runs on every history.
//! - [`linear`] is the search that believes nothing: any order will do, if there is one. It is exponential at worst, so it
//!   has a budget. It knows less of revisions and nothing of serializable reads, and is there to catch the first one's own
//!   mistakes: it runs on samples.
//!
//! Both use [`model`] for what one operation does.
//!
//! [`compaction`] judges what was forgotten. [`watch`] judges what watchers were told.
//!
//! Left out: leases (to a judge the end of one is a delete that somebody may have asked for); limits, sort orders and
//! filters of ranges; clocks that differ between clients.

pub mod compaction;
pub mod history;
pub mod linear;
pub mod model;
mod parts;
mod quiet;
pub mod sequence;
#[cfg(test)]
mod tests;
pub mod watch;

use history::{Call, Operation, Outcome, Reply};
use std::fmt;

/// How a history is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the store held other keys when the history began, or others wrote to it meanwhile. The keys of the history
    /// must be its own all the same. If not, the store began empty, at revision 1, and every revision is accounted for.
    pub shared: bool,
    /// How many states the full search may visit; 0: it does not run.
    pub search_states_max: u64,
}

/// Judges a history, in any order of its operations.
pub fn judge(history: &[Operation], options: Options) -> Verdict {
    let sequence = sequence::check(history, options.shared);
    let searched = options.search_states_max > 0;
    let search = searched.then(|| linear::check(history, options.shared, options.search_states_max));
    let compaction = compaction::check(history, options.shared);
    Verdict { counts: Counts::of(history), sequence, compaction, search }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What the history is made of.
    pub counts: Counts,
    /// The check of the claimed order.
    pub sequence: Result<sequence::Kept, sequence::Violation>,
    /// The check of what was forgotten.
    pub compaction: Result<(), compaction::Violation>,
    /// The search for any order, if it ran.
    pub search: Option<linear::Outcome>,
}

impl Verdict {
    /// Whether no violation was found.
    pub fn is_kept(&self) -> bool {
        self.sequence.is_ok() && self.compaction.is_ok() && !matches!(self.search, Some(linear::Outcome::Violation(_)))
    }

    /// The places in the history of the operations that a violation is about, in order of invocation.
    pub fn places(&self) -> Vec<usize> {
        let mut witnesses: Vec<&Witness> = match (&self.sequence, &self.compaction, &self.search) {
            (Err(violation), ..) => violation.witnesses(),
            (_, Err(violation), _) => violation.witnesses(),
            (.., Some(linear::Outcome::Violation(violation))) => violation.witnesses(),
            _ => Vec::new(),
        };
        witnesses.sort_by_key(|witness| (witness.operation.invoked, witness.place));
        witnesses.dedup_by_key(|witness| witness.place);
        witnesses.iter().map(|witness| witness.place).collect()
    }
}

/// One sentence: the violation, or that there is none.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.sequence, &self.compaction, &self.search) {
            (Err(violation), ..) => write!(f, "violation: {violation}"),
            (_, Err(violation), _) => write!(f, "violation: {violation}"),
            (.., Some(linear::Outcome::Violation(violation))) => write!(f, "violation: {violation}"),
            (Ok(kept), ..) => write!(f, "{kept}"),
        }
    }
}

/// An operation of the history that has something to say, and its place there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its place in the history that was judged, from 0.
    pub place: usize,
    /// The operation.
    pub operation: Box<Operation>,
}

impl Witness {
    /// The operation at `place`.
    fn of(history: &[Operation], place: usize) -> Witness {
        Witness { place, operation: Box::new(history[place].clone()) }
    }
}

/// `put a = 1 by client 3 (1.250 to 3.100 ms)`.
impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, invoked, returned, call, outcome } = &*self.operation;
        let ms = |nanos: u64| format!("{}.{:03}", nanos / 1_000_000, nanos / 1_000 % 1_000);
        write!(f, "`{call}` by client {client} ({} to {} ms", ms(*invoked), ms(*returned))?;
        match outcome {
            Outcome::Done { revision, .. } => write!(f, ", revision {revision})"),
            Outcome::Refused(_) => f.write_str(", refused)"),
            Outcome::Compacted => f.write_str(", compacted)"),
            Outcome::Unknown(_) => f.write_str(", outcome unknown)"),
        }
    }
}

/// How many operations of which kind a history has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub operations: usize,
    /// Answered, and they changed something.
    pub writes: usize,
    /// Answered without a change, by a quorum.
    pub linearizable_reads: usize,
    /// Answered by one member from what it had.
    pub serializable_reads: usize,
    /// Surely not done.
    pub refused: usize,
    /// Perhaps done.
    pub unknown: usize,
    /// Different clients.
    pub clients: usize,
}

impl Counts {
    fn of(history: &[Operation]) -> Counts {
        let mut counts = Counts { operations: history.len(), ..Counts::default() };
        for operation in history {
            let kind = match &operation.outcome {
                Outcome::Done { reply, .. } if changed(reply) => &mut counts.writes,
                Outcome::Done { .. } if is_serializable(&operation.call) => &mut counts.serializable_reads,
                Outcome::Done { .. } => &mut counts.linearizable_reads,
                Outcome::Refused(_) | Outcome::Compacted => &mut counts.refused,
                Outcome::Unknown(_) => &mut counts.unknown,
            };
            *kind += 1;
        }
        let clients: std::collections::BTreeSet<u64> = history.iter().map(|operation| operation.client).collect();
        counts.clients = clients.len();
        counts
    }
}

/// Whether an operation with this answer moved the revision.
fn changed(reply: &Reply) -> bool {
    match reply {
        Reply::Put => true,
        Reply::Got(_) | Reply::Compacted => false,
        Reply::Deleted(count) => *count > 0,
        Reply::Txn(_, replies) => replies.iter().any(changed),
    }
}

/// Whether one member may answer alone. A transaction's compares alone don't make it ask the others.
fn is_serializable(call: &Call) -> bool {
    match call {
        Call::Get { serializable, .. } => *serializable,
        Call::Put { .. } | Call::Delete { .. } | Call::Compact { .. } => false,
        Call::Txn { then, otherwise, .. } => {
            then.iter().chain(otherwise).all(|call| matches!(call, Call::Get { serializable: true, .. }))
        }
    }
}

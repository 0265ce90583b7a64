//! The judge of what was forgotten: a revision is compacted if, and only if, somebody asked for it.
//!
//! It knows compaction by what was asked and answered, and nothing of how it is done:
//!
//! 1. *Asked for*: "compacted" is an answer only if a compaction, not refused, that had been asked for by then reaches above
//!    the revision that was named (or to it, if that was a compaction too).
//! 2. *Everywhere*: after a compaction was answered, a linearizable read below it is refused, and so is another compaction
//!    that does not reach above it.
//! 3. *Not ahead*: no compaction reaches above the store's revision.
//!
//! That what is still answered is right is the other judges' affair, to whom nothing is ever forgotten. A store that compacts
//! by itself is in the history as somebody who asked and never heard of it. Left out: transactions that read old revisions.
//! If the store is shared, others may have compacted it, so 1 is not checked.

use super::Witness;
use super::history::{Call, Operation, Outcome};
use std::fmt;

/// A law that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Nobody asked for what this was refused for.
    NotAskedFor(Witness),
    /// This was answered, though a compaction had been answered that forbids it.
    NotForgotten(Witness, Witness),
    /// A compaction above the store's revision.
    Ahead(Witness),
}

impl Violation {
    /// The operations it is about.
    pub fn witnesses(&self) -> Vec<&Witness> {
        match self {
            Violation::NotAskedFor(one) | Violation::Ahead(one) => vec![one],
            Violation::NotForgotten(one, other) => vec![one, other],
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::NotAskedFor(it) => write!(f, "{it} was refused for a compaction that nobody asked for"),
            Violation::NotForgotten(it, since) => write!(f, "{it} was answered after {since}"),
            Violation::Ahead(it) => write!(f, "{it} reaches above the store's revision"),
        }
    }
}

/// Checks a history; `shared` as in [`super::Options`].
///
/// # Errors
/// The first violation found.
pub fn check(history: &[Operation], shared: bool) -> Result<(), Violation> {
    let refused = |operation: &Operation| matches!(operation.outcome, Outcome::Refused(_) | Outcome::Compacted);
    let compactions: Vec<(usize, i64)> = (history.iter().enumerate())
        .filter(|(_, operation)| !refused(operation))
        .filter_map(|(place, operation)| match operation.call {
            Call::Compact { revision } => Some((place, revision)),
            _ => None,
        })
        .collect();
    let witness = |place| Witness::of(history, place);
    for (place, operation) in history.iter().enumerate() {
        // The lowest mark that forbids it.
        let (lowest, everywhere) = match operation.call {
            Call::Get { revision, serializable, .. } if revision > 0 => (revision + 1, !serializable),
            Call::Compact { revision } => (revision, true),
            _ => continue,
        };
        match &operation.outcome {
            Outcome::Compacted if !shared => {
                let asked = |(by, mark): &(usize, i64)| *mark >= lowest && history[*by].invoked <= operation.returned;
                if !compactions.iter().any(asked) {
                    return Err(Violation::NotAskedFor(witness(place)));
                }
            }
            Outcome::Done { revision, .. } => {
                if matches!(operation.call, Call::Compact { revision: mark } if mark > *revision) {
                    return Err(Violation::Ahead(witness(place)));
                }
                let forbids = |(by, mark): &&(usize, i64)| {
                    let before = &history[*by];
                    let known = matches!(before.outcome, Outcome::Done { .. }) && before.returned < operation.invoked;
                    *by != place && known && *mark >= lowest
                };
                if let Some((since, _)) = compactions.iter().find(forbids).filter(|_| everywhere) {
                    return Err(Violation::NotForgotten(witness(place), witness(*since)));
                }
            }
            Outcome::Compacted | Outcome::Refused(_) | Outcome::Unknown(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::history::Reply;
    use super::*;

    fn compact(at: u64, mark: i64, outcome: Outcome) -> Operation {
        Operation { client: at, invoked: at, returned: at + 10, call: Call::Compact { revision: mark }, outcome }
    }

    fn get(at: u64, revision: i64, serializable: bool, outcome: Outcome) -> Operation {
        let call = Call::Get { key: "a".into(), end: None, revision, serializable };
        Operation { client: at, invoked: at, returned: at + 10, call, outcome }
    }

    fn got() -> Outcome {
        Outcome::Done { revision: 9, reply: Reply::Got(Vec::new()) }
    }

    fn compacted(revision: i64) -> Outcome {
        Outcome::Done { revision, reply: Reply::Compacted }
    }

    #[test]
    fn what_is_compacted_was_asked_for() {
        let refused = |mark, outcome| check(&[compact(0, mark, outcome), get(20, 4, false, Outcome::Compacted)], false);
        assert_eq!(refused(5, compacted(9)), Ok(()));
        assert_eq!(refused(5, Outcome::Unknown(String::new())), Ok(()));
        let wrong = |found| matches!(found, Err(Violation::NotAskedFor(_)));
        assert!(wrong(refused(4, compacted(9))), "the mark itself can be read");
        assert!(wrong(refused(5, Outcome::Refused(String::new()))));
        let late = [get(0, 4, false, Outcome::Compacted), compact(20, 5, compacted(9))];
        assert!(wrong(check(&late, false)));
        assert_eq!(check(&late, true), Ok(()), "somebody else may have");
        assert!(wrong(check(&[compact(0, 5, Outcome::Compacted)], false)));
    }

    #[test]
    fn what_was_compacted_is_compacted_for_all() {
        let after = |operation| check(&[compact(0, 5, compacted(9)), operation], false);
        let wrong = |found| matches!(found, Err(Violation::NotForgotten(..)));
        assert!(wrong(after(get(20, 4, false, got()))));
        assert_eq!(after(get(5, 4, false, got())), Ok(()), "at the same time");
        assert_eq!(after(get(20, 4, true, got())), Ok(()), "a member that lags");
        assert_eq!(after(get(20, 5, false, got())), Ok(()));
        assert_eq!(after(get(20, 0, false, got())), Ok(()));
        assert!(wrong(after(compact(20, 5, compacted(9)))));
        assert_eq!(after(compact(20, 6, compacted(9))), Ok(()));
    }

    #[test]
    fn nobody_compacts_the_future() {
        assert_eq!(check(&[compact(0, 9, compacted(9))], false), Ok(()));
        assert!(matches!(check(&[compact(0, 9, compacted(8))], false), Err(Violation::Ahead(_))));
    }
}

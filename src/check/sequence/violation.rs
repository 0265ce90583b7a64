//! How a store can break its word, and the sentence for each.

use crate::check::Witness;
use crate::check::history::Pair;
use std::fmt;

/// How the store broke its word. Each names the operations that prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An answer that no store gives to what was asked, whatever it holds.
    WrongShape {
        /// The answer.
        answer: Witness,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two writes have one revision.
    SharedRevision {
        /// The revision.
        revision: i64,
        /// One of them.
        first: Witness,
        /// The other.
        second: Witness,
    },
    /// A write's revision had been shown by an answer that came back before the write was asked for.
    WriteInThePast {
        /// The write.
        write: Witness,
        /// Its revision.
        revision: i64,
        /// The answer before.
        earlier: Witness,
    },
    /// A linearizable answer is older than one that came back before it was asked for.
    StaleRead {
        /// The answer.
        read: Witness,
        /// The one before.
        earlier: Witness,
    },
    /// An answer holds something of a later revision than its own.
    ReadOfTheFuture {
        /// The answer.
        read: Witness,
        /// The later revision.
        revision: i64,
    },
    /// The store moved to a revision that nobody's write explains.
    Phantom {
        /// The revision.
        revision: i64,
        /// The first answer that is not older.
        shown_by: Witness,
    },
    /// A value that nobody wrote.
    PhantomValue {
        /// The answer that holds it.
        read: Witness,
        /// The pair.
        pair: Pair,
    },
    /// A write that was said not to be done is there.
    NotDoneApplied {
        /// The write.
        write: Witness,
        /// The answer that shows it.
        read: Witness,
        /// The revision it was done at.
        revision: i64,
    },
    /// A write was done at two revisions.
    AppliedTwice {
        /// The write.
        write: Witness,
        /// One of them.
        first: i64,
        /// The other.
        second: i64,
        /// The answer that shows it.
        read: Witness,
    },
    /// An answer is without an acknowledged write that is not later.
    Missing {
        /// The write.
        write: Witness,
        /// The answer.
        read: Witness,
        /// The key in which it shows.
        key: String,
    },
    /// An answer shows a key otherwise than the writes up to its revision leave it.
    WrongContent {
        /// The answer.
        read: Witness,
        /// The key.
        key: String,
        /// What was shown.
        shown: Option<Box<Pair>>,
        /// What should be there: in words, for some of it may not be known.
        expected: String,
    },
    /// A transaction took the wrong branch.
    WrongBranch {
        /// The transaction.
        txn: Witness,
    },
    /// A delete removed another number of keys than there were.
    WrongCount {
        /// The delete.
        delete: Witness,
        /// What it said.
        said: i64,
        /// At least so many there were.
        low: i64,
        /// At most so many there were.
        high: i64,
    },
}

impl Violation {
    /// The operations that prove it.
    pub fn witnesses(&self) -> Vec<&Witness> {
        match self {
            Violation::WrongShape { answer, .. } => vec![answer],
            Violation::SharedRevision { first, second, .. } => vec![first, second],
            Violation::WriteInThePast { write, earlier, .. } => vec![write, earlier],
            Violation::StaleRead { read, earlier } => vec![read, earlier],
            Violation::ReadOfTheFuture { read, .. } | Violation::PhantomValue { read, .. } => vec![read],
            Violation::Phantom { shown_by, .. } => vec![shown_by],
            Violation::NotDoneApplied { write, read, .. }
            | Violation::AppliedTwice { write, read, .. }
            | Violation::Missing { write, read, .. } => vec![write, read],
            Violation::WrongContent { read, .. } => vec![read],
            Violation::WrongBranch { txn } => vec![txn],
            Violation::WrongCount { delete, .. } => vec![delete],
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::WrongShape { answer, why } => write!(f, "no store answers so to {answer}: {why}"),
            Violation::SharedRevision { revision, first, second } => {
                write!(f, "two writes have revision {revision}: {first} and {second}")
            }
            Violation::WriteInThePast { write, revision, earlier } => {
                write!(f, "{write} was done at revision {revision}, which {earlier} had shown before it was asked for")
            }
            Violation::StaleRead { read, earlier } => {
                write!(f, "a stale read: {read} is older than {earlier}, which was answered before it was asked for")
            }
            Violation::ReadOfTheFuture { read, revision } => {
                write!(f, "a read of the future: {read} holds something of revision {revision}")
            }
            Violation::Phantom { revision, shown_by } => {
                write!(f, "a phantom: no write explains revision {revision}, first shown by {shown_by}")
            }
            Violation::PhantomValue { read, pair } => {
                write!(f, "a phantom: nobody wrote {}, shown by {read}", Shown(Some(pair)))
            }
            Violation::NotDoneApplied { write, read, revision } => {
                write!(f, "{write} was said not to be done, and was done at revision {revision}, as {read} shows")
            }
            Violation::AppliedTwice { write, first, second, read } => {
                write!(f, "{write} was done twice, at revisions {first} and {second}, as {read} shows")
            }
            Violation::Missing { write, read, key } => {
                write!(f, "an acknowledged write is missing: {read} shows {key} as if {write} had not been")
            }
            Violation::WrongContent { read, key, shown, expected } => {
                let shown = Shown(shown.as_deref());
                write!(f, "{read} shows {key} as {shown}, and the writes up to its revision leave {expected}")
            }
            Violation::WrongBranch { txn } => {
                write!(f, "a transaction took the wrong branch: what its compares found was otherwise in {txn}")
            }
            Violation::WrongCount { delete, said, low, high } => {
                write!(f, "{delete} said that it removed {said} keys, and there were ")?;
                if low == high { write!(f, "{low}") } else { write!(f, "{low} to {high}") }
            }
        }
    }
}

/// A pair in few words.
pub(super) struct Shown<'a>(pub Option<&'a Pair>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Pair { key, value, mod_revision, create_revision, version }) = self.0 else {
            return f.write_str("absent");
        };
        write!(f, "{key} = {value} (revision {mod_revision}, created at {create_revision}, version {version})")
    }
}

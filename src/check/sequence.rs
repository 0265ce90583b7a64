//! The check of the claimed order.

use super::Witness;
use super::history::Operation;
use std::fmt;

/// The store kept its word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The newest revision that an answer showed; 0: none did.
    pub revision: i64,
    /// Revisions that an operation of unknown outcome must have made, and which one did can't be told.
    pub unidentified: usize,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store kept its word up to revision {}", self.revision)
    }
}

/// How the store broke its word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A linearizable answer is older than one that came back before it was asked for.
    StaleRead {
        /// The read.
        read: Witness,
        /// The answer that came back before.
        earlier: Witness,
    },
}

impl Violation {
    /// The operations it is about.
    pub fn witnesses(&self) -> Vec<&Witness> {
        match self {
            Violation::StaleRead { read, earlier } => vec![read, earlier],
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::StaleRead { read, earlier } => write!(f, "{read} is older than {earlier}"),
        }
    }
}

/// Checks a history.
///
/// # Errors
/// The first violation in the order of revisions.
pub fn check(_history: &[Operation], _shared: bool) -> Result<Kept, Violation> {
    Ok(Kept::default())
}

//! What a node did in a turn, as a compact record.
//!
//! A node is compared with what it was a turn before: that needs no call at the places where things happen, costs nothing to
//! a node that nobody watches, and can't miss a change that is there to be seen. Whoever drives the node takes a
//! [`Glance`] after each turn and gets the [`Change`]s between two of them: the simulator's trace and its laws are made of
//! these.
//!
//! May not know who watches. Absent: reasons (why a leader was given up is in `elections.rs`), requests, messages.

use super::RoleName;
use crate::ids::{Index, MemberId, Position, Term};
use std::fmt;

/// What can be seen of a node at a glance. Cheap to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The leader it knows.
    pub leader: Option<MemberId>,
    /// Where its log ends.
    pub last: Position,
    /// Durable in its log.
    pub persisted: Index,
    /// Known to be on a quorum.
    pub commit: Index,
    /// In the machine.
    pub applied: Index,
    /// Of the state after `applied`.
    pub digest: u64,
}

/// One thing that is different after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is in another term.
    Term(Term),
    /// It has another part.
    Role(RoleName),
    /// It knows another leader, or none.
    Leader(Option<MemberId>),
    /// Its log ends elsewhere: entries were appended, cut off, or replaced.
    Last(Position),
    /// Its disk has another end of the log.
    Persisted(Index),
    /// More is committed.
    Commit(Index),
    /// More is applied.
    Applied(Index),
}

impl Glance {
    /// What is different since `before`, in the order in which a reader wants it.
    pub fn changes_since(&self, before: &Glance) -> impl Iterator<Item = Change> + use<> {
        let (now, old) = (*self, *before);
        [
            (now.term != old.term).then_some(Change::Term(now.term)),
            (now.role != old.role).then_some(Change::Role(now.role)),
            (now.leader != old.leader).then_some(Change::Leader(now.leader)),
            (now.last != old.last).then_some(Change::Last(now.last)),
            (now.persisted != old.persisted).then_some(Change::Persisted(now.persisted)),
            (now.commit != old.commit).then_some(Change::Commit(now.commit)),
            (now.applied != old.applied).then_some(Change::Applied(now.applied)),
        ]
        .into_iter()
        .flatten()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Term(term) => write!(f, "term {term}"),
            Change::Role(role) => write!(f, "becomes {}", role.name()),
            Change::Leader(Some(leader)) => write!(f, "follows n{leader}"),
            Change::Leader(None) => write!(f, "knows no leader"),
            Change::Last(last) => write!(f, "log ends {last}"),
            Change::Persisted(index) => write!(f, "persisted {index}"),
            Change::Commit(index) => write!(f, "commit {index}"),
            Change::Applied(index) => write!(f, "applied {index}"),
        }
    }
}

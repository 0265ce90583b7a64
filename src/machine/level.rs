//! The cluster's level: which release's meanings are in force.
//!
//! Members of two releases may have to agree on what an entry does, while one after another is stopped and started on the newer
//! one. So what a release adds is tied to a number. Each release knows the levels up to [`Level::NEWEST`]; the replicated state
//! says which one is in force; a command raises it when every member knows more (`node/levels.rs`), at one entry of the log, so
//! on all members between the same two commands. It never goes down.
//!
//! A level is about everything that members must understand alike:
//!
//! - a **command** or an **effect** of a new kind is proposed, or made, from its level on. Who does not know a kind halts, with
//!   a sentence: to pass it over would be another state than the others'.
//! - a **new meaning** of what is there already is chosen by [`Machine::level`] when the entry is applied. A field that older
//!   releases would pass over is such a meaning. So the version of a command is its kind and the level at its place in the log.
//! - **bytes** of another form (records, a configuration, a snapshot) are written from its level on, and are told apart by
//!   what stands at their head.
//!
//! What members only tell each other needs no level: who does not know a question or a field passes it over, and who asked does
//! not count on an answer.
//!
//! | level | from it on |
//! |---|---|
//! | 0 | the level of a cluster that never said one |
//! | 1 | the state says its level ([`Effect::Level`]), and a snapshot does (format 2) |
//!
//! # Invariants
//!
//! 1. Nothing that depends on a level is in the log before the entry that raised the state to it.
//! 2. A state whose level is above what this release knows is not opened, not taken over and not restored; nothing is written
//!    before that is known.
//!
//! May not know: which member runs what, and when to raise.

use super::record::Effect;
use super::{Error, Machine, View};
use crate::proto::quorate::RaiseLevel;
use std::fmt;

/// A number for what members agree on. See the module's essay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(pub u32);

impl Level {
    /// Of a cluster that never said one, and of a member that never did.
    pub const FIRST: Level = Level(0);
    /// The first one that stands in the state.
    pub const TOLD: Level = Level(1);
    /// The newest one that this release knows. Tests have some to climb.
    pub const NEWEST: Level = if cfg!(test) { Level(3) } else { Level::TOLD };

    /// Why who knows the levels up to `known` can't have to do with something of this level, and what to do.
    ///
    /// # Errors
    /// It can't.
    pub fn is_known_to(self, what: impl fmt::Display, who: impl fmt::Display, known: Level) -> Result<(), String> {
        if self <= known {
            return Ok(());
        }
        Err(format!(
            "{what} has level {self}, and {who} knows the levels up to {known} only: run a release there that knows level \
             {self} (quorate version says it), with no lower --max-cluster-level. A cluster's level never goes down"
        ))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Machine {
    /// The cluster's level after the last entry applied.
    pub fn level(&self) -> Level {
        self.view().level()
    }

    /// From here on another level is in force, if it is a higher one.
    pub(super) fn raise_level(&mut self, raise: &RaiseLevel) -> Result<(), Error> {
        let level = Level(raise.level);
        level.is_known_to("the cluster", "this member", Level::NEWEST).map_err(Error::Newer)?;
        if level > self.level() {
            self.emit(&Effect::Level(level), None);
        }
        Ok(())
    }
}

impl View {
    /// The cluster's level.
    pub fn level(&self) -> Level {
        self.0.read().level
    }
}

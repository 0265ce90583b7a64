//! When the cluster's level is raised ([`crate::machine::Level`]): once every member knows a higher one.
//!
//! A member that knows more than what is in force tells the leader so, again and again until it is in force. The leader counts
//! what it heard lately, of every member of the table: of who votes, learns, or was added and is not there yet. Who is silent
//! knows [`Level::FIRST`]: so a member of a release without levels holds the cluster where it is, and so does one that is down,
//! for nobody can say what it will be started with. Removing it lets the others go on. The smallest of these numbers is proposed,
//! if it is a higher one than the state's.
//!
//! Why this is told beside the log, and not written into the table of members: a member of a release without levels would write
//! another table, and its digest would differ.
//!
//! # Between the count and the entry
//!
//! A member that is stopped, and started with an older release, while the entry is on its way, meets a command or a level that
//! it does not know: it halts with a sentence, and goes on as soon as it is started with the newer release again. What was
//! heard of it does not count after its connection was lost.
//!
//! # Invariants
//!
//! 1. A raise is proposed only while the table says what the newest configuration says, and no change is under way.
//! 2. A member never applies beyond an entry that raised the level above what it knows.
//!
//! Left out: a way back. What was done at a level stays in the state.

use super::node::Node;
use super::{Config, Halt};
use crate::ids::{MemberId, Term};
use crate::machine::Level;
use crate::proto::quorate as own;
use crate::time::{Duration, Time};
use own::command::Op;
use own::leader_question::Question;
use std::collections::BTreeMap;

/// From one announcement to the next, in heartbeats.
const AGAIN: u32 = 10;
/// So long one counts, in heartbeats.
const COUNTS: u32 = 3 * AGAIN;

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Levels {
    /// The level that the state was last seen at.
    seen: Level,
    /// The highest one of another member's state that was offered to this one.
    pub(super) met: Level,
    /// To whom this member announced last what it knows, and when it is to do so again.
    told: Option<((Term, MemberId), Time)>,
    /// Leader: what each member said, and until when that counts.
    pub(super) heard: BTreeMap<MemberId, (Level, Time)>,
    /// Leader: the sequence of the command on its way.
    raising: Option<u64>,
}

impl Levels {
    pub(super) fn new(seen: Level) -> Levels {
        Levels { seen, met: seen, told: None, heard: BTreeMap::new(), raising: None }
    }

    /// Whatever is started there next may know less.
    pub(super) fn lost(&mut self, peer: MemberId) {
        self.heard.remove(&peer);
    }
}

/// Whether a member can live on a state of this level.
///
/// # Errors
/// It knows less.
pub(super) fn check(level: Level, config: &Config) -> Result<(), Halt> {
    level.is_known_to("the cluster", "this member", config.level).map_err(Halt)
}

impl Node {
    /// Leader: a member says what it knows.
    pub(super) fn level_question(&mut self, now: Time, peer: MemberId, question: own::LevelQuestion) {
        let until = now + self.config.heartbeat_interval * COUNTS;
        self.levels.heard.insert(peer, (Level(question.level), until));
    }

    /// The levels' part of a turn, when what has arrived is heard.
    ///
    /// # Errors
    /// The leader's state is of a level that this member does not know.
    pub(super) fn drive_levels(&mut self, now: Time) -> Result<(), Halt> {
        check(self.levels.met, &self.config)?;
        if !self.raft.is_leader() {
            self.levels.heard.clear();
            self.announce_level(now);
        } else if !self.is_pending(self.levels.raising)
            && let Some(level) = self.level_known_to_all(now).filter(|level| *level > self.machine.level())
        {
            tracing::info!(%level, "every member knows a higher level: the cluster's is raised");
            self.levels.raising = self.submit_own(now, Op::RaiseLevel(own::RaiseLevel { level: level.0 }));
        }
        Ok(())
    }

    /// Whether this member has something to say: it knows more than what is in force. What is in force a hollow one can't know.
    fn knows_more(&self) -> bool {
        !self.is_hollow() && self.config.level > self.levels.seen
    }

    fn announce_level(&mut self, now: Time) {
        let Some(leader) = self.raft.leader().filter(|_| self.knows_more()) else { return };
        let leadership = (self.raft.term(), leader);
        if self.levels.told.is_none_or(|(told, again)| told != leadership || again <= now) {
            let again = now + self.config.heartbeat_interval.max(Duration::from_millis(1)) * AGAIN;
            self.levels.told = Some((leadership, again));
            self.ask_leader(0, Question::Level(own::LevelQuestion { level: self.config.level.0 }));
        }
    }

    /// Leader: the highest level that every member of the table knows; `None` while the table is on its way.
    fn level_known_to_all(&self, now: Time) -> Option<Level> {
        let known = |id: MemberId| match self.levels.heard.get(&id) {
            _ if id == self.identity.member => self.config.level,
            Some((level, until)) if now < *until => *level,
            _ => Level::FIRST,
        };
        self.knows_more().then(|| self.settled_members())??.into_keys().map(known).min()
    }

    /// Looks at the level after an entry was applied.
    ///
    /// # Errors
    /// It is one that this member does not know.
    pub(super) fn note_level(&mut self) -> Result<(), Halt> {
        let level = self.machine.level();
        if level != self.levels.seen {
            check(level, &self.config)?;
            tracing::info!(%level, "the cluster's level was raised: who knows less can't take part any more");
            self.levels.seen = level;
        }
        Ok(())
    }

    /// When this member has to announce again what it knows.
    pub(super) fn level_deadline(&self) -> Time {
        let follows = self.raft.leader().is_some_and(|leader| leader != self.identity.member);
        match self.levels.told {
            Some((_, again)) if follows && self.knows_more() => again,
            _ => Time::NEVER,
        }
    }
}

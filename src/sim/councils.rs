//! Who decides: the configurations that logs hold, as the simulator's own record has them.
//!
//! A configuration is kept as bits, and majorities are counted here once more, in another way than the product does it: what
//! is wrong there is not wrong here too. The record has every configuration that any log ever held, by its place; which of
//! them counts for a member follows from the member's log alone, as in the dissertation (§4.1): the newest one in it.

use super::host::Stamp;
use crate::raft::quorum::{Configuration, Promotion};
use crate::raft::{Entry, EntryKind};
use std::collections::BTreeMap;
use std::ops::AddAssign;

/// A configuration: a bit per member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Council {
    /// [`Configuration::version`].
    pub version: u64,
    /// Who votes, or will when the change under way is over.
    pub incoming: u64,
    /// Who voted before the change under way; none in a simple configuration.
    pub outgoing: u64,
    /// Who learns.
    pub learners: u64,
    /// Those of them that vote when they have caught up.
    pub joining: u64,
}

fn more_than_half(of: u64, members: u64) -> bool {
    (of & members).count_ones() * 2 > of.count_ones()
}

impl Council {
    /// The founders'.
    fn first(nodes: usize) -> Council {
        Council { incoming: (1 << nodes) - 1, ..Council::default() }
    }

    pub fn of(configuration: &Configuration) -> Council {
        let bits = |members: &mut dyn Iterator<Item = u64>| members.fold(0, |bits, id| bits | 1 << (id - 1));
        let learners = configuration.learners();
        let joining = learners.iter().filter(|(_, promotion)| **promotion == Promotion::WhenCaughtUp);
        Council {
            version: configuration.version(),
            incoming: bits(&mut configuration.incoming().iter().map(|id| id.0)),
            outgoing: bits(&mut configuration.outgoing().iter().map(|id| id.0)),
            learners: bits(&mut learners.keys().map(|id| id.0)),
            joining: bits(&mut joining.map(|(id, _)| id.0)),
        }
    }

    pub fn is_joint(&self) -> bool {
        self.outgoing != 0
    }

    /// Everyone who receives the log.
    pub fn members(&self) -> u64 {
        self.incoming | self.outgoing | self.learners
    }

    /// Whether these decide.
    pub fn is_quorum(&self, members: u64) -> bool {
        more_than_half(self.incoming, members) && (self.outgoing == 0 || more_than_half(self.outgoing, members))
    }

    /// Whether `sound` members decide, whatever becomes of the others, and of wishes to remove `leaving`. Who learns may vote
    /// one day: it counts if it is not sound.
    pub fn survives(&self, sound: u64, leaving: u64) -> bool {
        let lost = ((self.incoming | self.learners) & !sound).count_ones();
        (self.incoming & sound & !leaving).count_ones() > lost
            && (self.outgoing == 0 || more_than_half(self.outgoing, sound))
    }

    /// Whether this one may follow `before`: a joint one begins where a simple one is, and leads to what it says.
    fn follows(&self, before: &Council) -> bool {
        let next = self.version == before.version + 1;
        next && match before.is_joint() {
            true => *self == Council { version: self.version, outgoing: 0, ..*before },
            false => self.outgoing == before.incoming && self.incoming != 0 && self.incoming & self.learners == 0,
        }
    }
}

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Councils {
    first: Council,
    /// By index: those that ever stood there, each with its term.
    known: BTreeMap<u64, Vec<(u64, Council)>>,
}

impl Councils {
    pub fn new(nodes: usize) -> Councils {
        Councils { first: Council::first(nodes), known: BTreeMap::new() }
    }

    /// An entry stands in a log. Gives the configuration that it holds.
    pub fn stands(&mut self, entry: &Entry) -> Option<Council> {
        if entry.kind != EntryKind::Configuration {
            return None;
        }
        let (configuration, _) = Configuration::decode(&entry.data)?;
        let council = Council::of(&configuration);
        let there = self.known.entry(entry.position.index.0).or_default();
        if there.iter().all(|(term, _)| *term != entry.position.term.0) {
            there.push((entry.position.term.0, council));
        }
        Some(council)
    }

    /// The configuration at `index` of a log.
    fn at(&self, log: &[Stamp], index: u64) -> Option<Council> {
        let term = log.get(index as usize - 1)?.term;
        self.known.get(&index)?.iter().find(|(known, _)| *known == term).map(|(_, council)| *council)
    }

    /// The configurations of a log after `index`, each with its place; the oldest first.
    pub fn after(&self, log: &[Stamp], index: u64) -> Vec<(u64, Council)> {
        let places = self.known.range(index + 1..).map(|(place, _)| *place);
        places.filter_map(|place| self.at(log, place).map(|council| (place, council))).collect()
    }

    /// The newest configuration of a log, and its place: 0 for the founders'.
    pub fn newest(&self, log: &[Stamp]) -> (u64, Council) {
        let places = self.known.keys().rev().copied();
        let found = places.filter_map(|place| self.at(log, place).map(|council| (place, council))).next();
        found.unwrap_or((0, self.first))
    }

    /// What is wrong with a configuration that stands at the end of a log, behind `log`.
    pub fn wrong(&self, log: &[Stamp], council: &Council) -> Option<String> {
        let (place, before) = self.newest(log);
        if !council.follows(&before) {
            return Some(format!("{council:?} does not follow {before:?} of entry {place}"));
        }
        let new = council.members() & !before.members();
        let all = std::iter::once(self.first).chain(self.after(log, 0).into_iter().map(|(_, council)| council));
        let former = all.fold(0, |former, council| former | council.members());
        (former & new != 0).then(|| format!("{council:?} has members again that {former:b} were once"))
    }
}

/// What became of the membership, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes that were made: simple configurations that were committed.
    pub made: u64,
    /// Members that were added.
    pub added: u64,
    /// Of those that were added, such as came to vote.
    pub promoted: u64,
    /// Members that were removed.
    pub removed: u64,
    /// Changes in which one went and another one came.
    pub replaced: u64,
}

impl AddAssign for Changes {
    fn add_assign(&mut self, other: Changes) {
        let Changes { made, added, promoted, removed, replaced } = other;
        self.made += made;
        self.added += added;
        self.promoted += promoted;
        self.removed += removed;
        self.replaced += replaced;
    }
}

impl Changes {
    /// A simple configuration was committed after another one.
    pub(super) fn count(&mut self, before: &Council, after: &Council) {
        let came = after.members() & !before.members();
        let went = before.members() & !after.members();
        self.made += 1;
        self.added += u64::from(came.count_ones());
        self.removed += u64::from(went.count_ones());
        self.promoted += u64::from((after.incoming & before.learners).count_ones());
        self.replaced += u64::from(came != 0 && went != 0);
    }
}

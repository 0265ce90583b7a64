//! Revisions without an acknowledged write, and who may have made them.

use super::violation::Violation;
use super::{Case, model};
use crate::check::history::{Operation, Outcome};
use crate::check::parts::may_write;
use crate::check::quiet::Quiet;
use std::collections::{BTreeMap, BTreeSet};

/// A revision without a known write, and the operations that may have made it.
pub struct Hole {
    /// The revision.
    pub revision: i64,
    /// Their places in the history.
    pub candidates: Vec<usize>,
}

impl Case<'_> {
    /// The revisions that nobody is known to have made, with those who may have; identifies whom it can.
    pub(super) fn holes(&mut self) -> Result<Vec<Hole>, Violation> {
        let free: Vec<usize> = (0..self.history.len())
            .filter(|place| {
                let Operation { call, outcome, .. } = &self.history[*place];
                matches!(outcome, Outcome::Unknown(_))
                    && !may_write(call).is_empty()
                    && !self.revision_of.contains_key(place)
            })
            .collect();
        let quiet = Quiet::of(self.history, free.iter().map(|&place| &self.history[place].call));
        let newest = self.answers().map(|(_, revision, _)| revision).max().unwrap_or(0);
        let oldest = if self.shared {
            free.iter().map(|&place| self.floor(place)).min().unwrap_or(newest)
        } else {
            model::EMPTY
        };
        let mut holes: Vec<Hole> = Vec::new();
        for revision in oldest + 1..=newest {
            if self.writes.contains_key(&revision) || self.identified.contains_key(&revision) {
                continue;
            }
            let candidates: Vec<usize> = free
                .iter()
                .copied()
                .filter(|&place| self.floor(place) < revision && quiet.may_change(&self.history[place].call, revision))
                .collect();
            if !candidates.is_empty() {
                holes.push(Hole { revision, candidates });
            } else if !self.shared {
                return Err(self.phantom(revision));
            }
            // More holes than there are operations to fill them; one too many is enough.
            if !self.shared && holes.len() > free.len() {
                break;
            }
        }
        if !self.shared {
            if let Some(unfillable) = unmatched(&holes) {
                return Err(self.phantom(unfillable));
            }
            while let Some(sure) = holes.iter().position(|hole| hole.candidates.len() == 1) {
                let Hole { revision, candidates } = holes.remove(sure);
                self.settle(revision, candidates[0], None);
                holes.iter_mut().for_each(|hole| hole.candidates.retain(|place| *place != candidates[0]));
            }
        }
        Ok(holes)
    }
}

/// A hole for which no operation is left when each hole takes one: augmenting paths.
fn unmatched(holes: &[Hole]) -> Option<i64> {
    fn place(hole: usize, holes: &[Hole], taken: &mut BTreeMap<usize, usize>, tried: &mut BTreeSet<usize>) -> bool {
        for &candidate in &holes[hole].candidates {
            if !tried.insert(candidate) {
                continue;
            }
            let owner = taken.get(&candidate).copied();
            if owner.is_none_or(|owner| place(owner, holes, taken, tried)) {
                taken.insert(candidate, hole);
                return true;
            }
        }
        false
    }
    let mut taken = BTreeMap::new();
    let unfillable = (0..holes.len()).find(|&hole| !place(hole, holes, &mut taken, &mut BTreeSet::new()));
    unfillable.map(|hole| holes[hole].revision)
}

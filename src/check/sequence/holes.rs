//! Revisions without an acknowledged write, and who may have made them.

use super::parts::{Write, gets, may_write, within};
use super::violation::Violation;
use super::{Case, model};
use crate::check::history::{Call, Operation, Outcome};
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
        let quiet = Quiet::of(self, &free);
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

/// Where keys are known not to have changed, for the keys that operations of unknown outcome name.
struct Quiet<'a> {
    /// By key: after and up to which revision, by the former; the latter is the greatest so far.
    spans: BTreeMap<&'a str, Vec<(i64, i64)>>,
}

impl<'a> Quiet<'a> {
    fn of(case: &Case<'a>, free: &[usize]) -> Quiet<'a> {
        let mut spans: BTreeMap<&'a str, Vec<(i64, i64)>> = BTreeMap::new();
        for write in free.iter().flat_map(|&place| may_write(&case.history[place].call)) {
            if write.end.is_none() {
                spans.entry(write.key).or_default();
            }
        }
        if spans.is_empty() {
            return Quiet { spans };
        }
        // A key that is absent, and that nobody may have deleted, was never there.
        let not_refused = case.history.iter().filter(|operation| !matches!(operation.outcome, Outcome::Refused(_)));
        let deletes: Vec<Write<'a>> = not_refused
            .flat_map(|operation| may_write(&operation.call))
            .filter(|write| write.value.is_none())
            .collect();
        let is_lasting = |key: &&'a str| !deletes.iter().any(|delete| delete.covers(key));
        let lasting: Vec<&'a str> = spans.keys().copied().filter(is_lasting).collect();
        for (place, revision, reply) in case.answers() {
            for got in gets(&case.history[place].call, reply) {
                let at = if got.asked > 0 { got.asked } else { revision };
                for pair in got.pairs {
                    if let Some(spans) = spans.get_mut(pair.key.as_str()) {
                        spans.push((pair.mod_revision, at));
                    }
                }
                let from = lasting.partition_point(|key| *key < got.key);
                for key in lasting[from..].iter().take_while(|key| within(key, got.key, got.end)) {
                    if got.pairs.binary_search_by(|pair| pair.key.as_str().cmp(key)).is_err() {
                        spans.entry(key).or_default().push((0, at));
                    }
                }
            }
        }
        for spans in spans.values_mut() {
            spans.sort_unstable();
            let mut farthest = 0;
            for (_, end) in spans {
                farthest = farthest.max(*end);
                *end = farthest;
            }
        }
        Quiet { spans }
    }

    /// Whether something that a call writes may have changed at a revision.
    fn may_change(&self, call: &Call, revision: i64) -> bool {
        may_write(call).iter().any(|write| {
            let spans = self.spans.get(write.key).filter(|_| write.end.is_none()).map_or(&[][..], Vec::as_slice);
            let before = spans.partition_point(|(after, _)| *after < revision);
            spans[..before].last().is_none_or(|(_, end)| *end < revision)
        })
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

//! Where keys are known not to have changed.
//!
//! A pair that is shown at a revision tells of its key's last change: nothing happened to the key in between. Nor between
//! its creation and its second change; nor before its creation, if nobody ever deletes it. That rules out most operations
//! of unknown outcome for most revisions, long before the answer is reached that they would contradict. Both judges use it.

use super::history::{Call, Operation, Outcome};
use super::parts::{Write, gets, may_write, within};
use std::collections::BTreeMap;

/// What answers say about the keys that operations of unknown outcome name.
#[derive(Debug)]
pub struct Quiet<'a> {
    /// By key: after and up to which revision, by the former; the latter is the greatest so far.
    spans: BTreeMap<&'a str, Vec<(i64, i64)>>,
}

impl<'a> Quiet<'a> {
    /// What the answers of `history` say about the keys that `calls` write.
    pub fn of(history: &'a [Operation], calls: impl Iterator<Item = &'a Call>) -> Quiet<'a> {
        let mut spans: BTreeMap<&'a str, Vec<(i64, i64)>> = BTreeMap::new();
        for write in calls.flat_map(may_write).filter(|write| write.end.is_none()) {
            spans.entry(write.key).or_default();
        }
        if spans.is_empty() {
            return Quiet { spans };
        }
        // A key that is absent, and that nobody may have deleted, was never there.
        let not_refused =
            history.iter().filter(|operation| !matches!(operation.outcome, Outcome::Refused(_) | Outcome::Compacted));
        let deletes: Vec<Write<'a>> = not_refused
            .flat_map(|operation| may_write(&operation.call))
            .filter(|write| write.value.is_none())
            .collect();
        let is_lasting = |key: &&'a str| !deletes.iter().any(|delete| delete.covers(key));
        let lasting: Vec<&'a str> = spans.keys().copied().filter(is_lasting).collect();
        for operation in history {
            let Outcome::Done { revision, reply } = &operation.outcome else { continue };
            for got in gets(&operation.call, reply) {
                let at = if got.asked > 0 { got.asked } else { *revision };
                for pair in got.pairs {
                    if let Some(spans) = spans.get_mut(pair.key.as_str()) {
                        spans.push((pair.mod_revision, at));
                        // Two changes are the first and the last.
                        if pair.version == 2 {
                            spans.push((pair.create_revision, pair.mod_revision - 1));
                        }
                        if lasting.binary_search(&pair.key.as_str()).is_ok() {
                            spans.push((0, pair.create_revision - 1));
                        }
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

    /// Whether a call may have changed something at a revision.
    pub fn may_change(&self, call: &Call, revision: i64) -> bool {
        self.may_be(call, revision) == Some(true)
    }

    /// Whether a call that was done at a revision may have changed something; `None` if it can't have been done there.
    fn may_be(&self, call: &Call, revision: i64) -> Option<bool> {
        match call {
            Call::Get { .. } | Call::Compact { .. } => Some(false),
            // A put changes its key, whatever was there.
            Call::Put { key, .. } => (!self.is_quiet(key, revision)).then_some(true),
            Call::Delete { key, end } => Some(end.is_some() || !self.is_quiet(key, revision)),
            Call::Txn { then, otherwise, .. } => {
                let branch = |calls: &[Call]| {
                    let parts: Option<Vec<bool>> = calls.iter().map(|call| self.may_be(call, revision)).collect();
                    parts.map(|parts| parts.contains(&true))
                };
                branch(then).max(branch(otherwise))
            }
        }
    }

    fn is_quiet(&self, key: &str, revision: i64) -> bool {
        let spans = self.spans.get(key).map_or(&[][..], Vec::as_slice);
        let before = spans.partition_point(|(after, _)| *after < revision);
        spans[..before].last().is_some_and(|(_, end)| *end >= revision)
    }
}

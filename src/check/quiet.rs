//! Where keys are known not to have changed.
//!
//! A pair that is shown at a revision has its key's last change in it: nothing happened to the key in between. That rules
//! out most operations of unknown outcome for most revisions, long before the answer is reached that they would contradict.

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
        let not_refused = history.iter().filter(|operation| !matches!(operation.outcome, Outcome::Refused(_)));
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
    pub fn may_change(&self, call: &Call, revision: i64) -> bool {
        may_write(call).iter().any(|write| {
            let spans = self.spans.get(write.key).filter(|_| write.end.is_none()).map_or(&[][..], Vec::as_slice);
            let before = spans.partition_point(|(after, _)| *after < revision);
            spans[..before].last().is_none_or(|(_, end)| *end < revision)
        })
    }
}

//! What members hold: the same at the same applied index, and no less history than somebody asked for.
//!
//! Beside the digest, which tells what was applied, the content itself is compared: the hash of everything that can be read,
//! now and at older revisions, and the newest pairs. It may not depend on how far a member has swept, nor on what a crash has
//! left on its disk. To compare costs the whole store, so it is done at every start, at the end, and at some indexes between.

use super::clients::Clients;
use super::laws::{Law, Laws, Violation};
use crate::ids::{Index, Revision};
use crate::machine::View;
use crate::proto::etcdserverpb as pb;
use crate::rng::mix;
use crate::time::Time;
use std::collections::BTreeMap;

/// Revisions at which the content is hashed, beside now and the mark.
const SAMPLES: u64 = 3;

/// The content is compared at every index that this divides: at each one, the comparing would take most of a run.
pub(super) const EVERY: u64 = 64;

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Contents {
    /// By applied index: who held it first, and what.
    known: BTreeMap<Index, (usize, Content)>,
    /// By member: where its history began when that was looked at.
    marks: Vec<i64>,
}

#[derive(Debug, PartialEq)]
struct Content {
    revision: Revision,
    compacted: Revision,
    /// By revision.
    hashes: BTreeMap<i64, Result<u32, String>>,
    found: Result<Vec<crate::proto::mvccpb::KeyValue>, String>,
}

impl Content {
    fn of(view: &View, applied: Index) -> Content {
        let (revision, compacted) = (view.revision(), view.compacted());
        let first = compacted.0.max(1);
        let span = (revision.0 - first).cast_unsigned() + 1;
        let some = (0..SAMPLES).map(|sample| first + (mix(applied.0 ^ sample << 48) % span).cast_signed());
        // What is below the mark is refused by all.
        let revisions = some.chain([first, revision.0, (compacted.0 - 1).max(1)]);
        let hash = |at: i64| view.hash(Revision(at)).map(|hash| hash.hash).map_err(|error| format!("{error:?}"));
        let all = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
        let found = view.range(&all).map(|found| found.kvs).map_err(|error| format!("{error:?}"));
        Content { revision, compacted, hashes: revisions.map(|at| (at, hash(at))).collect(), found }
    }
}

impl Contents {
    pub(super) fn new(nodes: usize) -> Contents {
        Contents { known: BTreeMap::new(), marks: vec![-1; nodes] }
    }

    /// Somebody asked that a member's history begin where it does, or it compacts by `itself`.
    pub(super) fn begins(
        &mut self,
        node: usize,
        view: &View,
        (now, itself): (Time, bool),
        clients: &mut Clients,
        laws: &Laws,
    ) -> Result<(), Violation> {
        let mark = view.compacted().0;
        if std::mem::replace(&mut self.marks[node], mark) == mark || mark == -1 {
            return Ok(());
        }
        // Also if a client asks for the very same: it may be refused, because the member came first.
        if itself {
            clients.compacted(now, mark);
        }
        if itself || clients.marks().any(|asked| asked == mark) {
            return Ok(());
        }
        laws.broken(Law::Compacted, || format!("n{}'s history begins at {mark}, for which nobody asked", node + 1))
    }

    /// Compares what a member holds with what another one, or itself, held at the same index.
    pub(super) fn compare(&mut self, node: usize, applied: Index, view: &View, laws: &Laws) -> Result<(), Violation> {
        let content = Content::of(view, applied);
        match self.known.get(&applied) {
            None => _ = self.known.insert(applied, (node, content)),
            Some((other, known)) if *known != content => laws.broken(Law::SameContent, || {
                let (node, other) = (node + 1, other + 1);
                format!("at {applied} n{node} holds {content:.400?}, n{other} held {known:.400?}")
            })?,
            Some(_) => {}
        }
        Ok(())
    }
}

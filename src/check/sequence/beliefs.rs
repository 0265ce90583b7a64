//! What each key may be, as the revisions go by.
//!
//! While every revision has its known write, a key is one thing. After a revision that one of several operations of unknown
//! outcome must have made, it is one of several; the next answer that shows the key says which. So a key has a *set* of
//! possible states, a write moves each of them, an answer keeps those that it fits, and an empty set is a contradiction.
//!
//! Sound: the true state is always in the set. Not complete: keys are looked at one by one, so that an operation of unknown
//! outcome may count as done for one key and not for another; and a set that grows beyond [`STATES_MAX`] becomes "anything".
//! Both can happen only between a revision that could not be identified and the next answer that shows the key.

use crate::check::history::{Call, Compare, Pair, Target};
use crate::check::model;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Beyond so many possible states a key may be anything.
const STATES_MAX: usize = 64;
/// Beyond so many ways through one transaction of unknown outcome its keys may be anything.
const PATHS_MAX: usize = 64;

/// One thing that a key may be, and the operation that made it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State<'a> {
    /// Absent if none.
    pub known: Option<Known<'a>>,
    /// The place of the operation in the history.
    pub by: Option<usize>,
}

/// A key that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known<'a> {
    /// Its value.
    pub value: &'a str,
    /// The revision of its last change.
    pub mod_revision: i64,
    /// The revision of its creation; 0: not known.
    pub create_revision: i64,
    /// Changes since; 0: not known.
    pub version: i64,
}

impl<'a> Known<'a> {
    fn of(pair: &'a Pair) -> Known<'a> {
        let Pair { value, mod_revision, create_revision, version, .. } = pair;
        Known { value, mod_revision: *mod_revision, create_revision: *create_revision, version: *version }
    }

    fn fits(&self, pair: &Pair) -> bool {
        let may_be = |known: i64, shown: i64| known == 0 || known == shown;
        self.value == pair.value
            && self.mod_revision == pair.mod_revision
            && may_be(self.create_revision, pair.create_revision)
            && may_be(self.version, pair.version)
    }
}

/// What a key may be: one of these, or anything.
type Belief<'a> = Option<Vec<State<'a>>>;

/// A change of one key or range.
#[derive(Clone, Copy, Debug)]
enum Effect<'a> {
    Put { key: &'a str, value: &'a str },
    Delete { key: &'a str, end: Option<&'a str> },
}

impl Effect<'_> {
    fn covers(&self, of: &str) -> bool {
        match self {
            Effect::Put { key, .. } => *key == of,
            Effect::Delete { key, end } => end.map_or(*key == of, |end| *key <= of && of < end),
        }
    }
}

/// An operation of unknown outcome that may have made a revision.
#[derive(Clone, Copy, Debug)]
pub struct Filler<'a> {
    /// Its place in the history.
    pub place: usize,
    /// What was asked.
    pub call: &'a Call,
    /// A put of its own that some answer showed.
    pub seen: Option<(&'a str, &'a str)>,
}

/// One way that a revision may have come about: who, and what it did.
struct Path<'a> {
    place: usize,
    effects: Vec<Effect<'a>>,
}

/// All keys that were ever touched; all others are absent.
#[derive(Debug, Default)]
pub struct Beliefs<'a> {
    keys: BTreeMap<&'a str, Belief<'a>>,
}

/// That nothing was ever there.
const NEVER: State<'static> = State { known: None, by: None };

impl<'a> Beliefs<'a> {
    /// A key was put.
    pub fn put(&mut self, key: &'a str, value: &'a str, revision: i64, by: usize) {
        let belief = self.of(key);
        *belief = put(belief.take(), value, revision, by);
    }

    /// A key, or a range, was deleted, whatever of it was there.
    pub fn delete(&mut self, key: &'a str, end: Option<&'a str>, by: usize) {
        for key in self.within(key, end) {
            let belief = self.of(key);
            *belief = delete(belief.take(), by);
        }
    }

    /// At least and at most so many keys of a range are there.
    pub fn count(&self, key: &str, end: Option<&str>) -> (i64, i64) {
        let (mut low, mut high) = (0, 0);
        for key in self.within(key, end) {
            let Some(Some(states)) = self.keys.get(key) else {
                high += 1;
                continue;
            };
            low += i64::from(states.iter().all(|state| state.known.is_some()));
            high += i64::from(states.iter().any(|state| state.known.is_some()));
        }
        (low, high)
    }

    /// An answer showed a key.
    ///
    /// # Errors
    /// What the key may be, if that isn't what was shown.
    pub fn observe(&mut self, key: &'a str, shown: Option<&'a Pair>) -> Result<(), Vec<State<'a>>> {
        let by = match self.keys.get(key) {
            None if shown.is_none() => return Ok(()),
            None => return Err(vec![NEVER]),
            Some(None) => None,
            Some(Some(states)) => {
                let fits = |state: &&State<'_>| match (&state.known, shown) {
                    (Some(known), Some(pair)) => known.fits(pair),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                };
                let Some(state) = states.iter().find(fits) else { return Err(states.clone()) };
                state.by
            }
        };
        self.keys.insert(key, Some(vec![State { known: shown.map(Known::of), by }]));
        Ok(())
    }

    /// Keys of a range that were ever touched.
    pub fn within(&self, key: &str, end: Option<&str>) -> Vec<&'a str> {
        match end {
            None => self.keys.get_key_value(key).map(|(key, _)| *key).into_iter().collect(),
            Some(end) if end <= key => Vec::new(),
            Some(end) => {
                self.keys.range::<str, _>((Bound::Included(key), Bound::Excluded(end))).map(|(key, _)| *key).collect()
            }
        }
    }

    /// An answer said that compares hold, or that they don't; keeps what fits. False if that can't be.
    pub fn compared(&mut self, compares: &'a [Compare], held: bool) -> bool {
        if !held {
            return self.all_hold(compares) != Some(true);
        }
        for compare in compares {
            let key = compare.key.as_str();
            let Some(states) = self.keys.get_mut(key) else {
                if !model::holds(compare, None) {
                    return false;
                }
                continue;
            };
            if let Some(states) = states {
                states.retain(|state| holds(compare, state.known.as_ref()) != Some(false));
                if states.is_empty() {
                    return false;
                }
            }
        }
        true
    }

    /// A revision came about through one of `fillers`, or through somebody else if the store is shared. False if that
    /// can't be: none of them could have changed anything.
    pub fn fill(&mut self, revision: i64, fillers: &[Filler<'a>], shared: bool) -> bool {
        let mut paths: Vec<Path<'a>> = Vec::new();
        for filler in fillers {
            match self.paths(filler.call) {
                Some(ways) => paths.extend(
                    ways.into_iter()
                        .filter(|effects| self.is_possible(effects, filler.seen))
                        .map(|effects| Path { place: filler.place, effects }),
                ),
                None => return self.give_up(filler.call),
            }
        }
        if paths.is_empty() {
            return shared;
        }
        let mut touched = BTreeSet::new();
        for effect in paths.iter().flat_map(|path| &path.effects) {
            match *effect {
                Effect::Put { key, .. } => _ = touched.insert(key),
                Effect::Delete { key, end } => touched.extend(self.within(key, end)),
            }
        }
        for key in touched {
            let before = self.of(key).take();
            let mut after: Belief<'a> = Some(if shared { before.clone().unwrap_or_default() } else { Vec::new() });
            if shared && before.is_none() {
                after = None;
            }
            for path in &paths {
                let mut states = before.clone();
                for effect in path.effects.iter().filter(|effect| effect.covers(key)) {
                    states = match effect {
                        Effect::Put { value, .. } => put(states, value, revision, path.place),
                        Effect::Delete { .. } => delete(states, path.place),
                    };
                }
                after = union(after, states);
            }
            self.keys.insert(key, after);
        }
        true
    }

    /// Whether this can be what happened at a revision: it changed something, and it did what was seen.
    fn is_possible(&self, effects: &[Effect<'a>], seen: Option<(&str, &str)>) -> bool {
        let changes = |effect: &Effect<'_>| match effect {
            Effect::Put { .. } => true,
            Effect::Delete { key, end } => self.count(key, *end).1 > 0,
        };
        let did = |(key, value): (&str, &str)| {
            effects.iter().any(|effect| matches!(effect, Effect::Put { key: k, value: v } if (*k, *v) == (key, value)))
        };
        effects.iter().any(changes) && seen.is_none_or(did)
    }

    /// Everything that a call may do, by what the compares may find; `None` if that is too much.
    fn paths(&self, call: &'a Call) -> Option<Vec<Vec<Effect<'a>>>> {
        match call {
            Call::Get { .. } | Call::Compact { .. } => Some(vec![Vec::new()]),
            Call::Put { key, value } => Some(vec![vec![Effect::Put { key, value }]]),
            Call::Delete { key, end } => Some(vec![vec![Effect::Delete { key, end: end.as_deref() }]]),
            Call::Txn { compare, then, otherwise } => {
                let holds = self.all_hold(compare);
                let branches = [(Some(false), then), (Some(true), otherwise)];
                let mut all = Vec::new();
                for (_, branch) in branches.into_iter().filter(|(excluded_by, _)| *excluded_by != holds) {
                    let mut ways: Vec<Vec<Effect<'a>>> = vec![Vec::new()];
                    for call in branch {
                        let next = self.paths(call)?;
                        ways = ways.iter().flat_map(|way| next.iter().map(|more| [&way[..], more].concat())).collect();
                        if ways.len() > PATHS_MAX {
                            return None;
                        }
                    }
                    all.extend(ways);
                }
                Some(all)
            }
        }
    }

    /// Whether compares hold together; `None` if that isn't known.
    fn all_hold<'b>(&self, compares: impl IntoIterator<Item = &'b Compare>) -> Option<bool> {
        let mut all = Some(true);
        for compare in compares {
            let found = match self.keys.get(compare.key.as_str()) {
                None => Some(model::holds(compare, None)),
                Some(None) => None,
                Some(Some(states)) => {
                    let mut each = states.iter().map(|state| holds(compare, state.known.as_ref()));
                    let first = each.next().flatten();
                    if each.all(|other| other == first) { first } else { None }
                }
            };
            match found {
                Some(true) => {}
                Some(false) => return Some(false),
                None => all = None,
            }
        }
        all
    }

    /// Every key that a call names may be anything from now on.
    fn give_up(&mut self, call: &'a Call) -> bool {
        match call {
            Call::Get { .. } | Call::Compact { .. } => {}
            Call::Put { key, .. } => _ = self.keys.insert(key, None),
            Call::Delete { key, end } => {
                for key in self.within(key, end.as_deref()) {
                    self.keys.insert(key, None);
                }
            }
            Call::Txn { then, otherwise, .. } => {
                for call in then.iter().chain(otherwise) {
                    self.give_up(call);
                }
            }
        }
        true
    }

    fn of(&mut self, key: &'a str) -> &mut Belief<'a> {
        self.keys.entry(key).or_insert_with(|| Some(vec![NEVER]))
    }
}

fn put<'a>(belief: Belief<'a>, value: &'a str, revision: i64, by: usize) -> Belief<'a> {
    let fresh = |create_revision, version| {
        let known = Some(Known { value, mod_revision: revision, create_revision, version });
        State { known, by: Some(by) }
    };
    let Some(states) = belief else { return Some(vec![fresh(0, 0)]) };
    let mut after = Vec::with_capacity(states.len());
    for state in states {
        let state = match state.known {
            None => fresh(revision, 1),
            Some(Known { create_revision, version: 0, .. }) => fresh(create_revision, 0),
            Some(Known { create_revision, version, .. }) => fresh(create_revision, version + 1),
        };
        if !after.contains(&state) {
            after.push(state);
        }
    }
    Some(after)
}

/// One state is left, whatever was before.
fn delete(belief: Belief<'_>, by: usize) -> Belief<'_> {
    let was_absent = belief.as_ref().filter(|states| states.iter().all(|state| state.known.is_none()));
    let by = was_absent.and_then(|states| states.first()).map_or(Some(by), |state| state.by);
    Some(vec![State { known: None, by }])
}

fn union<'a>(one: Belief<'a>, other: Belief<'a>) -> Belief<'a> {
    let (mut all, other) = (one?, other?);
    for state in other {
        if !all.iter().any(|known| known.known == state.known) {
            all.push(state);
        }
    }
    if all.len() > STATES_MAX { None } else { Some(all) }
}

/// Whether a compare holds of what is known; `None` if it asks for what isn't.
fn holds(compare: &Compare, known: Option<&Known<'_>>) -> Option<bool> {
    let Some(known) = known else { return Some(model::holds(compare, None)) };
    let asked = match &compare.target {
        Target::Value(_) | Target::ModRevision(_) => 1,
        Target::CreateRevision(_) => known.create_revision,
        Target::Version(_) => known.version,
    };
    let pair = Pair {
        key: String::new(),
        value: known.value.to_owned(),
        mod_revision: known.mod_revision,
        create_revision: known.create_revision,
        version: known.version,
    };
    if asked == 0 { None } else { Some(model::holds(compare, Some(&pair))) }
}

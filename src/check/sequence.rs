//! The check of the order that the store itself claims.
//!
//! Every answer carries the store's revision, and every write has one of its own. So the acknowledged writes stand in a row
//! before any search, each answer says up to where in the row it has seen, and what is left to do is to compare:
//!
//! 1. *Time.* No two writes share a revision. A linearizable answer is not older than any answer, of whatever kind, that
//!    came back before it was asked for. A write's revision is above all that were shown before it was asked for, which is
//!    also to say that no answer holds a write that was asked for only later.
//! 2. *Holes.* A revision without an acknowledged write was made by an operation of unknown outcome. Values are written
//!    once, so an answer that shows a value of that revision names the operation; so does the creation of a key that only
//!    one such operation can have created; and a hole that only one operation can fill is that one's, where an operation is
//!    out of the question if the key it would have changed was seen unchanged across the hole. The holes that are left must
//!    at least be fillable, all at once and each by an operation of its own; if not, something is there that nobody wrote.
//! 3. *Content.* The row is gone through once, with what each key may be after each revision ([`beliefs`]). Each answer is
//!    compared at its revision: pairs with all their numbers, branches taken, keys removed. A read of an old revision is
//!    compared at that one.
//!
//! Together these hold the store to: nothing acknowledged is missing in any later answer (and so nothing is lost, if the
//! history ends with a read of everything); nothing is done twice; what was refused is never there.
//!
//! Serializable reads are held to 3 and to not seeing the future, not to any lower bound in time.
//!
//! It never raises a false alarm. What it can't decide is which operation filled a hole of which nothing was ever shown (a
//! put that was overwritten unseen, a delete, either of unknown outcome) if several may have: [`Kept::unidentified`] counts
//! them. Then the keys that these operations name are one of several things each until they are shown again. Without such
//! holes the check is complete.
//!
//! If the store is shared, holes may be others' writes, so only 1 and 3 are checked.

mod beliefs;
mod holes;
mod violation;

use super::history::{Call, Operation, Outcome, Pair, Reply};
use super::model;
use super::parts::{Got, Write, did_write, gets, may_write, misfit, taken};
use super::{Witness, changed, is_serializable};
use beliefs::{Beliefs, Filler, State};
use holes::Hole;
use std::collections::BTreeMap;
use std::fmt;
pub use violation::Violation;

/// The store kept its word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The newest revision that an answer showed; 0: none did.
    pub revision: i64,
    /// Revisions that came from an operation of unknown outcome, one of several: which one was not needed to be known.
    pub unidentified: usize,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store kept its word up to revision {}", self.revision)
    }
}

/// Checks a history; `shared` as in [`super::Options`].
///
/// # Errors
/// The first violation found.
pub fn check(history: &[Operation], shared: bool) -> Result<Kept, Violation> {
    let mut case = Case::new(history, shared);
    case.shapes()?;
    case.time()?;
    case.identify()?;
    let holes = case.holes()?;
    let unidentified = if shared { 0 } else { holes.len() };
    case.replay(holes)?;
    Ok(Kept { revision: case.answers().map(|(_, revision, _)| revision).max().unwrap_or(0), unidentified })
}

/// What is to be done at a revision while the row is gone through.
enum Step<'a> {
    Write(usize, &'a Reply),
    Fill(Vec<usize>),
    Read(usize, &'a Reply),
    /// A read of an old revision.
    Past(usize, Got<'a>),
}

struct Case<'a> {
    history: &'a [Operation],
    shared: bool,
    /// By place: the newest answer that came back before the operation was asked for.
    floors: Vec<Option<usize>>,
    /// Acknowledged writes by revision.
    writes: BTreeMap<i64, usize>,
    /// Operations of unknown outcome that may write this value to this key.
    unknown_puts: BTreeMap<(&'a str, &'a str), Vec<usize>>,
    /// Operations of unknown outcome by the revision that they surely made.
    identified: BTreeMap<i64, Filler<'a>>,
    revision_of: BTreeMap<usize, i64>,
}

impl<'a> Case<'a> {
    fn new(history: &'a [Operation], shared: bool) -> Case<'a> {
        let mut unknown_puts: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (place, operation) in history.iter().enumerate() {
            if let Outcome::Unknown(_) = operation.outcome {
                for write in may_write(&operation.call) {
                    let Some(value) = write.value else { continue };
                    let places = unknown_puts.entry((write.key, value)).or_default();
                    if places.last() != Some(&place) {
                        places.push(place);
                    }
                }
            }
        }
        Case {
            history,
            shared,
            floors: Vec::new(),
            writes: BTreeMap::new(),
            unknown_puts,
            identified: BTreeMap::new(),
            revision_of: BTreeMap::new(),
        }
    }

    fn witness(&self, place: usize) -> Witness {
        Witness::of(self.history, place)
    }

    /// Place, revision and reply of everything that was answered.
    fn answers(&self) -> impl Iterator<Item = (usize, i64, &'a Reply)> + use<'a> {
        let answer = |(place, operation): (usize, &'a Operation)| match &operation.outcome {
            Outcome::Done { revision, reply } => Some((place, *revision, reply)),
            Outcome::Refused(_) | Outcome::Compacted | Outcome::Unknown(_) => None,
        };
        self.history.iter().enumerate().filter_map(answer)
    }

    /// The revision that an answer showed; 0 if there was none.
    fn shown(&self, place: usize) -> i64 {
        match self.history[place].outcome {
            Outcome::Done { revision, .. } => revision,
            Outcome::Refused(_) | Outcome::Compacted | Outcome::Unknown(_) => 0,
        }
    }

    /// Every answer is one to its question.
    fn shapes(&self) -> Result<(), Violation> {
        for (place, revision, reply) in self.answers() {
            let call = &self.history[place].call;
            let first = if self.shared { 1 } else { model::EMPTY };
            let gets = gets(call, reply);
            let created = gets.iter().flat_map(|got| got.pairs).map(|pair| pair.create_revision).min();
            let before = revision - i64::from(changed(reply));
            let wrong = match misfit(call, reply) {
                None if before < first || created.is_some_and(|created| !self.shared && created <= first) => {
                    Some("nothing can have this revision")
                }
                wrong => wrong,
            };
            if let Some(why) = wrong {
                return Err(Violation::WrongShape { answer: self.witness(place), why });
            }
            let asked = gets.iter().map(|got| got.asked).max().filter(|asked| *asked > before);
            let shown = gets.iter().flat_map(|got| got.pairs).map(|pair| pair.mod_revision).max();
            if let Some(later) = asked.or(shown.filter(|shown| *shown > revision)) {
                return Err(Violation::ReadOfTheFuture { read: self.witness(place), revision: later });
            }
        }
        Ok(())
    }

    /// Finds the floors and the row of acknowledged writes, and checks them against each other.
    fn time(&mut self) -> Result<(), Violation> {
        let mut asked: Vec<usize> = (0..self.history.len()).collect();
        asked.sort_by_key(|&place| self.history[place].invoked);
        let mut returned: Vec<(usize, i64)> = self.answers().map(|(place, revision, _)| (place, revision)).collect();
        returned.sort_by_key(|&(place, _)| self.history[place].returned);
        let mut returned = returned.into_iter().peekable();
        let mut newest: Option<(i64, usize)> = None;
        self.floors = vec![None; self.history.len()];
        for place in asked {
            let now = self.history[place].invoked;
            while let Some((earlier, revision)) = returned.next_if(|&(earlier, _)| self.history[earlier].returned < now)
            {
                if newest.is_none_or(|(known, _)| revision > known) {
                    newest = Some((revision, earlier));
                }
            }
            self.floors[place] = newest.map(|(_, earlier)| earlier);
        }
        for (place, revision, reply) in self.answers() {
            let floor = self.floors[place];
            if changed(reply) {
                if let Some(other) = self.writes.insert(revision, place) {
                    let (first, second) = (self.witness(other), self.witness(place));
                    return Err(Violation::SharedRevision { revision, first, second });
                }
                self.not_in_the_past(place, revision)?;
            } else if let Some(earlier) =
                floor.filter(|&earlier| self.shown(earlier) > revision && !is_serializable(&self.history[place].call))
            {
                return Err(Violation::StaleRead { read: self.witness(place), earlier: self.witness(earlier) });
            }
        }
        Ok(())
    }

    /// A write is not at a revision that had been shown before it was asked for.
    fn not_in_the_past(&self, write: usize, revision: i64) -> Result<(), Violation> {
        match self.floors[write].filter(|&earlier| self.shown(earlier) >= revision) {
            None => Ok(()),
            Some(earlier) => {
                let (write, earlier) = (self.witness(write), self.witness(earlier));
                Err(Violation::WriteInThePast { write, revision, earlier })
            }
        }
    }

    /// Names the operations of unknown outcome that answers show.
    fn identify(&mut self) -> Result<(), Violation> {
        let mut created: BTreeMap<i64, &'a str> = BTreeMap::new();
        for (read, _, reply) in self.answers() {
            let gets = gets(&self.history[read].call, reply);
            for pair in gets.iter().flat_map(|got| got.pairs) {
                if !self.writes.contains_key(&pair.mod_revision) {
                    self.identify_by(pair, read)?;
                }
                if !self.writes.contains_key(&pair.create_revision) {
                    created.insert(pair.create_revision, &pair.key);
                }
            }
        }
        for (revision, key) in created {
            if self.identified.contains_key(&revision) {
                continue;
            }
            let mut makers: Vec<(usize, &'a str)> = Vec::new();
            for (&(_, value), places) in self.unknown_puts.range((key, "")..).take_while(|((k, _), _)| *k == key) {
                let free = places.iter().filter(|&place| {
                    !self.revision_of.contains_key(place) && self.not_in_the_past(*place, revision).is_ok()
                });
                makers.extend(free.map(|&place| (place, value)));
            }
            if let [(place, value)] = makers[..] {
                self.settle(revision, place, Some((key, value)));
            }
        }
        Ok(())
    }

    /// A pair was shown whose revision is no acknowledged write's.
    fn identify_by(&mut self, pair: &'a Pair, read: usize) -> Result<(), Violation> {
        let (revision, seen) = (pair.mod_revision, (pair.key.as_str(), pair.value.as_str()));
        let known = self.identified.get(&revision);
        if known.is_some_and(|known| known.seen == Some(seen)) {
            return Ok(());
        }
        let Some(writers) = self.unknown_puts.get(&seen) else { return Err(self.who_wrote(pair, read)) };
        let [place] = writers[..] else { return Ok(()) };
        if let Some(known) = known.filter(|known| known.place != place) {
            let (first, second) = (self.witness(known.place), self.witness(place));
            return Err(Violation::SharedRevision { revision, first, second });
        }
        if let Some(&first) = self.revision_of.get(&place).filter(|first| **first != revision) {
            let (write, read) = (self.witness(place), self.witness(read));
            return Err(Violation::AppliedTwice { write, first, second: revision, read });
        }
        self.not_in_the_past(place, revision)?;
        self.settle(revision, place, Some(seen));
        Ok(())
    }

    fn settle(&mut self, revision: i64, place: usize, seen: Option<(&'a str, &'a str)>) {
        self.identified.insert(revision, Filler { place, call: &self.history[place].call, seen });
        self.revision_of.insert(place, revision);
    }

    /// The violation, when a pair is shown that no operation of unknown outcome can have written.
    fn who_wrote(&self, pair: &Pair, read: usize) -> Violation {
        let mut not_done = None;
        for (place, operation) in self.history.iter().enumerate() {
            let is_it = |write: &Write<'_>| write.key == pair.key && write.value == Some(&pair.value);
            match &operation.outcome {
                Outcome::Done { revision, reply } if did_write(&operation.call, reply).iter().any(is_it) => {
                    let (write, read) = (self.witness(place), self.witness(read));
                    return Violation::AppliedTwice { write, first: *revision, second: pair.mod_revision, read };
                }
                Outcome::Done { .. } | Outcome::Refused(_) | Outcome::Compacted => {
                    let is_it = may_write(&operation.call).iter().any(is_it);
                    not_done = not_done.or(is_it.then_some(place));
                }
                Outcome::Unknown(_) => {}
            }
        }
        let read = self.witness(read);
        match not_done {
            Some(write) => Violation::NotDoneApplied { write: self.witness(write), read, revision: pair.mod_revision },
            None => Violation::PhantomValue { read, pair: pair.clone() },
        }
    }

    /// The newest revision shown before an operation was asked for.
    fn floor(&self, place: usize) -> i64 {
        self.floors[place].map_or(0, |earlier| self.shown(earlier))
    }

    fn phantom(&self, revision: i64) -> Violation {
        let first = self.answers().filter(|(_, shown, _)| *shown >= revision);
        let first = first.min_by_key(|(place, ..)| self.history[*place].returned).map_or(0, |(place, ..)| place);
        Violation::Phantom { revision, shown_by: self.witness(first) }
    }

    /// Goes through the row.
    fn replay(&self, holes: Vec<Hole>) -> Result<(), Violation> {
        let mut steps: Vec<(i64, bool, Step<'a>)> = Vec::new();
        for (place, revision, reply) in self.answers() {
            let writes = changed(reply);
            let step = if writes { Step::Write(place, reply) } else { Step::Read(place, reply) };
            steps.push((revision, !writes, step));
            let old = gets(&self.history[place].call, reply).into_iter().filter(|got| got.asked > 0);
            steps.extend(old.map(|got| (got.asked, true, Step::Past(place, got))));
        }
        steps.extend(self.identified.iter().map(|(at, filler)| (*at, false, Step::Fill(vec![filler.place]))));
        steps.extend(holes.into_iter().map(|hole| (hole.revision, false, Step::Fill(hole.candidates))));
        steps.sort_by_key(|(revision, reads, _)| (*revision, *reads));
        let mut beliefs = Beliefs::default();
        for (revision, _, step) in steps {
            match step {
                Step::Write(place, reply) | Step::Read(place, reply) => {
                    let call = &self.history[place].call;
                    if !branches_fit(&mut beliefs, call, reply) {
                        return Err(Violation::WrongBranch { txn: self.witness(place) });
                    }
                    self.perform(&mut beliefs, call, reply, revision, place)?;
                }
                Step::Past(place, got) => self.show(&mut beliefs, got, place)?,
                Step::Fill(places) => self.fill(&mut beliefs, revision, &places)?,
            }
        }
        Ok(())
    }

    fn fill(&self, beliefs: &mut Beliefs<'a>, revision: i64, places: &[usize]) -> Result<(), Violation> {
        let known = self.identified.get(&revision);
        let filler = |&place: &usize| Filler { place, call: &self.history[place].call, seen: None };
        let fillers: Vec<Filler<'a>> = known.map_or_else(|| places.iter().map(filler).collect(), |known| vec![*known]);
        if beliefs.fill(revision, &fillers, self.shared && known.is_none()) {
            return Ok(());
        }
        Err(match known {
            // It was seen, so it was done; its compares forbid it.
            Some(Filler { place, seen: Some(_), .. }) => Violation::WrongBranch { txn: self.witness(*place) },
            _ => self.phantom(revision),
        })
    }

    /// One answered operation, part by part.
    fn perform(
        &self,
        beliefs: &mut Beliefs<'a>,
        call: &'a Call,
        reply: &'a Reply,
        revision: i64,
        place: usize,
    ) -> Result<(), Violation> {
        match (call, reply) {
            (Call::Put { key, value }, _) => beliefs.put(key, value, revision, place),
            // Old revisions have steps of their own.
            (Call::Get { .. }, _) => {
                for got in gets(call, reply).into_iter().filter(|got| got.asked == 0) {
                    self.show(beliefs, got, place)?;
                }
            }
            (Call::Delete { key, end }, Reply::Deleted(said)) => {
                let (low, high) = beliefs.count(key, end.as_deref());
                if !(low..=high).contains(said) {
                    let delete = self.witness(place);
                    return Err(Violation::WrongCount { delete, said: *said, low, high });
                }
                beliefs.delete(key, end.as_deref(), place);
            }
            (Call::Txn { .. }, Reply::Txn(held, replies)) => {
                for (call, reply) in taken(call, *held).iter().zip(replies) {
                    self.perform(beliefs, call, reply, revision, place)?;
                }
            }
            // A compaction shows nothing; the others are refused by `shapes`.
            (Call::Compact { .. } | Call::Delete { .. } | Call::Txn { .. }, _) => {}
        }
        Ok(())
    }

    /// The answer to a get is what the keys may be.
    fn show(&self, beliefs: &mut Beliefs<'a>, got: Got<'a>, read: usize) -> Result<(), Violation> {
        let mut pairs = got.pairs.iter().peekable();
        for key in beliefs.within(got.key, got.end) {
            // A pair before it is of a key that nobody is known to have touched.
            while let Some(pair) = pairs.next_if(|pair| pair.key.as_str() < key) {
                self.observe(beliefs, &pair.key, Some(pair), read)?;
            }
            let pair = pairs.next_if(|pair| pair.key == key);
            self.observe(beliefs, key, pair, read)?;
        }
        pairs.try_for_each(|pair| self.observe(beliefs, &pair.key, Some(pair), read))
    }

    fn observe(
        &self,
        beliefs: &mut Beliefs<'a>,
        key: &'a str,
        shown: Option<&'a Pair>,
        read: usize,
    ) -> Result<(), Violation> {
        beliefs.observe(key, shown).map_err(|states| self.mismatch(read, key, shown, &states))
    }

    /// The violation, when a key is shown as none of the things that it may be.
    fn mismatch(&self, read: usize, key: &str, shown: Option<&Pair>, states: &[State<'a>]) -> Violation {
        if let Some(pair) = shown {
            let made_by = self.writes.get(&pair.mod_revision).copied();
            let made_by = made_by.or_else(|| self.identified.get(&pair.mod_revision).map(|filler| filler.place));
            let is_it = |write: &Write<'_>| write.key == pair.key && write.value == Some(&pair.value);
            let wrote = |place: usize| may_write(&self.history[place].call).iter().any(is_it);
            let unknown = self.unknown_puts.contains_key(&(pair.key.as_str(), pair.value.as_str()));
            if !made_by.is_some_and(wrote) && !unknown {
                return self.who_wrote(pair, read);
            }
        }
        let seen = shown.map_or(0, |pair| pair.mod_revision);
        let missing = states.iter().filter_map(|state| state.by).find(|&by| self.shown(by) > seen);
        if let Some(write) = missing {
            let (write, read) = (self.witness(write), self.witness(read));
            return Violation::Missing { write, read, key: key.to_owned() };
        }
        let expected = match states {
            [State { known: None, .. }] => "it absent".to_owned(),
            [State { known: Some(known), .. }] => format!(
                "{key} = {} (revision {}, created at {}, version {})",
                known.value, known.mod_revision, known.create_revision, known.version
            ),
            several => format!("{} possibilities, of which it is none", several.len()),
        };
        Violation::WrongContent {
            read: self.witness(read),
            key: key.to_owned(),
            shown: shown.cloned().map(Box::new),
            expected,
        }
    }
}

/// Whether the branches that were taken are those that the compares allow, all of them looking at the store before.
fn branches_fit<'a>(beliefs: &mut Beliefs<'a>, call: &'a Call, reply: &Reply) -> bool {
    let (Call::Txn { compare, .. }, Reply::Txn(held, replies)) = (call, reply) else { return true };
    beliefs.compared(compare, *held)
        && taken(call, *held).iter().zip(replies).all(|(call, reply)| branches_fit(beliefs, call, reply))
}

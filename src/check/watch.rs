//! The judge of watchers: from what they were told and what clients were answered, whether they were told all of it, once, in
//! order.
//!
//! A watcher is a row of streams: it goes on where the one before ended, on whatever member. What is held against it:
//!
//! 1. *Ordered*: what it is told never goes back.
//! 2. *Unique*: no change of a key is told twice, across all its streams.
//! 3. *Reliable*: up to what it was told last, nothing that it wants is missing, unless the store said that it is compacted
//!    and cut the stream there.
//! 4. *Atomic*: a revision is told in one answer.
//! 5. *Bookmarks*: after an answer that says "all up to R has been told", nothing up to R is told.
//! 6. *Wanted*: it is told of its range only, of the kinds that it wants, with the value that was there before, unless that
//!    was compacted.
//!
//! What was written is known from two sides: acknowledged puts carry their revision, and watchers tell of what they saw. The
//! two must agree, and so must any two watchers. A deletion, or an operation of unknown outcome, is known if anybody was told.

use super::history::{Call, Operation, Outcome};
use super::parts::{did_write, within};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What one watcher was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watcher {
    /// Which one.
    pub number: u64,
    /// The (first) key.
    pub key: String,
    /// Where the range ends; `None`: one key.
    pub end: Option<String>,
    /// Whether it wants to hear of deletions.
    pub deletes: bool,
    /// Its streams, one after another.
    pub streams: Vec<Stream>,
}

/// One stream of a watcher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The revision from which on it is told.
    pub from: i64,
    /// What it was told, in order.
    pub answers: Vec<Answer>,
    /// It was cut, because what is below this revision is compacted.
    pub compacted: Option<i64>,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `header.revision`. Without events, the answer says that all up to it has been told.
    pub revision: i64,
    /// The events.
    pub events: Vec<Event>,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its revision.
    pub revision: i64,
    /// The key.
    pub key: String,
    /// What was put; `None`: the key was deleted.
    pub value: Option<String>,
    /// What was there before, if the watcher asked for that.
    pub previous: Option<Option<String>>,
}

/// A law that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub law: &'static str,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "watch, {}: {}", self.law, self.what)
    }
}

fn broken<T>(law: &'static str, what: impl FnOnce() -> String) -> Result<T, Violation> {
    Err(Violation { law, what: what() })
}

/// By key, by revision: what was written there.
type Written = BTreeMap<String, BTreeMap<i64, Option<String>>>;

/// Judges what watchers were told against what clients were answered; gives the number of events that were told.
///
/// # Errors
/// The first law that is found broken.
pub fn check(history: &[Operation], watchers: &[Watcher]) -> Result<usize, Violation> {
    let mut written = acknowledged(history);
    let mut told = 0;
    for watcher in watchers {
        told += listened(watcher, &mut written)?;
    }
    // From here on somebody was told of everything.
    let all = watchers.iter().filter(|watcher| watcher.deletes && watcher.end.is_some());
    let whole_from = |watcher: &Watcher| {
        let gaps = watcher.streams.iter().filter_map(|stream| stream.compacted);
        Some(gaps.max().unwrap_or(i64::MIN).max(watcher.streams.first()?.from))
    };
    let known_from = all.filter_map(whole_from).min().unwrap_or(i64::MAX);
    let compacted = history.iter().filter_map(|operation| match (&operation.call, &operation.outcome) {
        (_, Outcome::Refused(_) | Outcome::Compacted) => None,
        (Call::Compact { revision }, _) => Some(*revision),
        _ => None,
    });
    let compacted = compacted.max().unwrap_or(0);
    for watcher in watchers {
        complete(watcher, &written)?;
        previous(watcher, &written, known_from, compacted)?;
    }
    Ok(told)
}

fn acknowledged(history: &[Operation]) -> Written {
    let mut written = Written::new();
    for operation in history {
        let Outcome::Done { revision, reply } = &operation.outcome else { continue };
        for write in did_write(&operation.call, reply) {
            if let Some(value) = write.value {
                written.entry(write.key.to_owned()).or_default().insert(*revision, Some(value.to_owned()));
            }
        }
    }
    written
}

/// Goes through what a watcher was told, by itself, and notes it.
fn listened(watcher: &Watcher, written: &mut Written) -> Result<usize, Violation> {
    let number = watcher.number;
    let (mut next, mut told) = (i64::MIN, 0);
    for stream in &watcher.streams {
        next = next.max(stream.from);
        let mut bookmark = i64::MIN;
        for answer in &stream.answers {
            let mut keys = BTreeSet::new();
            let mut last = i64::MIN;
            for event in &answer.events {
                let Event { revision, key, value, .. } = event;
                if *revision <= bookmark {
                    return broken("bookmarks", || {
                        format!("{event:?} after all up to {bookmark} was told to {number}")
                    });
                }
                if *revision < next {
                    return broken("unique, atomic", || format!("{event:?} is told to {number}, which was at {next}"));
                }
                if *revision < last || *revision > answer.revision {
                    return broken("ordered", || format!("{event:?} is told to {number} in {answer:?}"));
                }
                if !keys.insert((*revision, key)) {
                    return broken("unique, atomic", || format!("{event:?} is told to {number} twice in one answer"));
                }
                if !within(key, &watcher.key, watcher.end.as_deref()) || (value.is_none() && !watcher.deletes) {
                    return broken("wanted", || format!("{event:?} is told to {number}, which does not want it"));
                }
                last = *revision;
                let known = written.entry(key.clone()).or_default().entry(*revision).or_insert_with(|| value.clone());
                if known != value {
                    return broken("reliable", || format!("{event:?} is told to {number}, but it was {known:?}"));
                }
                told += 1;
            }
            match answer.events.last() {
                Some(_) => next = last + 1,
                None => {
                    bookmark = answer.revision;
                    next = next.max(bookmark + 1);
                }
            }
        }
        next = next.max(stream.compacted.unwrap_or(next));
    }
    Ok(told)
}

/// Nothing is missing up to where a watcher was told.
fn complete(watcher: &Watcher, written: &Written) -> Result<(), Violation> {
    for stream in &watcher.streams {
        let events = || stream.answers.iter().flat_map(|answer| &answer.events);
        let told: BTreeSet<(i64, &str)> = events().map(|event| (event.revision, event.key.as_str())).collect();
        let bookmarks = stream.answers.iter().filter(|answer| answer.events.is_empty()).map(|answer| answer.revision);
        let Some(last) = events().map(|event| event.revision).chain(bookmarks).max() else { continue };
        for (key, revisions) in written.iter().filter(|(key, _)| within(key, &watcher.key, watcher.end.as_deref())) {
            for (revision, value) in revisions.range(stream.from..=last.max(stream.from)) {
                let wanted = value.is_some() || watcher.deletes;
                if wanted && *revision <= last && !told.contains(&(*revision, key)) {
                    return broken("reliable", || {
                        let (number, from) = (watcher.number, stream.from);
                        format!("{number}, told of {from}..={last}, was not told of {value:?} at {key} in {revision}")
                    });
                }
            }
        }
    }
    Ok(())
}

fn previous(watcher: &Watcher, written: &Written, known_from: i64, compacted: i64) -> Result<(), Violation> {
    let answers = watcher.streams.iter().flat_map(|stream| &stream.answers);
    for event in answers.flat_map(|answer| &answer.events) {
        let Some(told) = &event.previous else { continue };
        let known = written.get(&event.key).and_then(|revisions| revisions.range(..event.revision).next_back());
        let before = known.filter(|(revision, _)| **revision >= known_from);
        if let Some((_, before)) = before
            && before != told
            // What a compaction at this revision or later has replaced can't be told.
            && !(told.is_none() && event.revision <= compacted)
        {
            return broken("wanted", || format!("{event:?} is told to {}, but before was {before:?}", watcher.number));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::history::{Call, Reply};
    use super::*;

    fn put(revision: i64, key: &str, value: &str) -> Operation {
        let call = Call::Put { key: key.into(), value: value.into() };
        let outcome = Outcome::Done { revision, reply: Reply::Put };
        Operation { client: 1, invoked: revision as u64 * 10, returned: revision as u64 * 10 + 1, call, outcome }
    }

    fn event(revision: i64, key: &str, value: Option<&str>, before: Option<&str>) -> Event {
        let text = |text: &str| text.to_owned();
        Event { revision, key: key.into(), value: value.map(text), previous: Some(before.map(text)) }
    }

    fn answer(revision: i64, events: Vec<Event>) -> Answer {
        Answer { revision, events }
    }

    /// Five revisions, the third a deletion of which only watchers know, the fourth of two keys.
    fn history() -> Vec<Operation> {
        vec![put(2, "a", "1"), put(3, "a", "2"), put(5, "a", "3"), put(5, "b", "3"), put(6, "b", "4")]
    }

    fn all() -> Watcher {
        let first = vec![
            answer(2, vec![event(2, "a", Some("1"), None)]),
            answer(4, vec![event(3, "a", Some("2"), Some("1")), event(4, "a", None, Some("2"))]),
        ];
        let second = vec![
            answer(5, vec![event(5, "a", Some("3"), None), event(5, "b", Some("3"), None)]),
            answer(6, vec![event(6, "b", Some("4"), Some("3"))]),
            answer(6, Vec::new()),
        ];
        let stream = |from, answers| Stream { from, answers, compacted: None };
        let streams = vec![stream(2, first), stream(5, second)];
        Watcher { number: 1, key: "a".into(), end: Some("z".into()), deletes: true, streams }
    }

    fn one() -> Watcher {
        let answers = vec![answer(6, vec![event(5, "a", Some("3"), None)]), answer(6, Vec::new())];
        let stream = Stream { from: 4, answers, compacted: None };
        Watcher { number: 2, key: "a".into(), end: None, deletes: false, streams: vec![stream] }
    }

    fn law(change: impl FnOnce(&mut Watcher)) -> Option<&'static str> {
        let mut changed = all();
        change(&mut changed);
        check(&history(), &[changed, one()]).err().map(|violation| violation.law)
    }

    #[test]
    fn what_is_told_as_it_should_be_is_accepted() {
        assert_eq!(check(&history(), &[all(), one()]), Ok(7));
    }

    #[test]
    fn each_law_is_missed_when_it_is_broken() {
        let events =
            |w: &mut Watcher, stream: usize, answer: usize| std::mem::take(&mut w.streams[stream].answers[answer]);
        assert_eq!(law(|w| w.streams[0].answers.swap(0, 1)), Some("unique, atomic"), "back in time");
        assert_eq!(law(|w| w.streams[0].answers[1].events.reverse()), Some("ordered"));
        let again = |w: &mut Watcher| {
            let again = w.streams[0].answers[1].clone();
            w.streams[1].answers.insert(0, again);
        };
        assert_eq!(law(again), Some("unique, atomic"), "again on the next stream");
        let split = |w: &mut Watcher| {
            let part = w.streams[1].answers[0].events.pop().unwrap();
            w.streams[1].answers.insert(1, answer(5, vec![part]));
        };
        assert_eq!(law(split), Some("unique, atomic"), "a revision in two answers");
        assert_eq!(law(|w| drop(w.streams[0].answers[1].events.remove(0))), Some("reliable"));
        assert_eq!(law(|w| drop(w.streams[1].answers[0].events.pop())), Some("reliable"), "half a revision");
        assert_eq!(law(|w| w.streams[0].answers[0].events[0].value = Some("x".into())), Some("reliable"));
        assert_eq!(law(|w| w.streams[1].answers.swap(1, 2)), Some("bookmarks"));
        assert_eq!(law(|w| w.streams[1].answers[1].events[0].previous = Some(None)), Some("wanted"));
        assert_eq!(law(|w| w.deletes = false), Some("wanted"));
        assert_eq!(law(|w| drop(events(w, 1, 1))), Some("reliable"), "a bookmark past an event that was not told");
    }

    #[test]
    fn what_is_compacted_may_be_missing_and_nothing_after_it() {
        let compacted = |at: i64, from: i64| {
            law(|w| {
                w.streams[0].answers.pop();
                w.streams[0].compacted = Some(at);
                w.streams[1].from = from;
            })
        };
        assert_eq!(compacted(5, 5), None);
        assert_eq!(compacted(4, 4), None, "of the deletion nobody else was told");
        let mut other = one();
        (other.deletes, other.end, other.streams[0].from) = (true, Some("b".into()), 4);
        let mut first = all();
        first.streams[0].answers.pop();
        (first.streams[0].compacted, first.streams[1].from) = (Some(4), 4);
        other.streams[0].answers[0].events.insert(0, event(4, "a", None, None));
        let violation = check(&history(), &[first, other]).unwrap_err();
        assert_eq!(violation.law, "reliable", "{violation}");
    }
    #[test]
    fn a_value_that_was_compacted_need_not_be_told() {
        let compact = |revision, outcome| {
            let mut history = history();
            history.push(Operation { client: 9, invoked: 0, returned: 1, call: Call::Compact { revision }, outcome });
            let mut all = all();
            all.streams[1].answers[1].events[0].previous = Some(None);
            let told = all.streams[1].answers[1].events[0].revision;
            (told, check(&history, &[all, one()]).err().map(|violation| violation.law))
        };
        let unknown = || Outcome::Unknown(String::new());
        let (told, _) = compact(1, unknown());
        assert_eq!(compact(told, unknown()).1, None);
        assert_eq!(compact(told, Outcome::Compacted).1, Some("wanted"), "it was refused");
        assert_eq!(compact(told - 1, unknown()).1, Some("wanted"));
    }
}

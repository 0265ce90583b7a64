//! Logs: offsets increase, nothing acknowledged is lost, a poll has no holes, commits don't fall.
//!
//! Stricter than Maelstrom's checker, which lets a poll be as old as it likes: these must show what was acknowledged before
//! they were asked.

use crate::history::Op;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// An answer with so many messages may have been cut there.
const MESSAGES_MAX: usize = 256;

/// The messages that an answer shows of one log.
type Pairs = Vec<(i64, String)>;

pub fn judge(history: &[Op]) -> Result<(), String> {
    let sends: Vec<(String, i64, &Op)> = history.iter().filter_map(acknowledged).collect();
    let mut polls = Vec::new();
    for op in history.iter().filter(|op| op.kind() == "poll") {
        for (key, from) in op.request["offsets"].as_object().into_iter().flatten() {
            let Some(answer) = op.answer() else { continue };
            polls.push((key.clone(), from.as_i64().unwrap_or_default(), pairs(&answer["msgs"][key])?, op));
        }
    }
    let known = known(&sends, &polls)?;
    surely_not_sent(history, &known)?;
    in_order(&sends)?;
    polls.iter().try_for_each(|(key, from, pairs, op)| {
        whole(*from, pairs, known.get(key).unwrap_or(&BTreeMap::new())).map_err(|why| format!("{why}: {op}"))?;
        let shown = |offset: &i64| pairs.iter().any(|(found, _)| found == offset);
        let end = if pairs.len() < MESSAGES_MAX { i64::MAX } else { pairs[pairs.len() - 1].0 };
        let due =
            sends.iter().filter(|(of, offset, send)| of == key && (*from..=end).contains(offset) && send.precedes(op));
        match due.map(|(_, offset, _)| offset).find(|offset| !shown(offset)) {
            Some(lost) => Err(format!("{key} has acknowledged a message at {lost} before: {op}")),
            None => Ok(()),
        }
    })?;
    commits(history)
}

/// An acknowledged message: its log, its offset.
fn acknowledged(op: &Op) -> Option<(String, i64, &Op)> {
    let offset = op.answer()?.get("offset")?.as_i64()?;
    Some((op.request["key"].as_str()?.to_owned(), offset, op))
}

fn pairs(shown: &Value) -> Result<Pairs, String> {
    let pair = |pair: &Value| Some((pair[0].as_i64()?, pair[1].to_string()));
    let pairs: Option<Pairs> = shown.as_array().into_iter().flatten().map(pair).collect();
    pairs.ok_or(format!("no messages: {shown}"))
}

/// Every message of which anyone has heard, by log and offset. An offset has one message, a message one offset.
fn known(
    sends: &[(String, i64, &Op)],
    polls: &[(String, i64, Pairs, &Op)],
) -> Result<BTreeMap<String, BTreeMap<i64, String>>, String> {
    let sent = sends.iter().map(|(key, offset, op)| (key, *offset, op.request["msg"].to_string()));
    let polled = polls.iter().flat_map(|(key, _, pairs, _)| pairs.iter().map(move |(o, m)| (key, *o, m.clone())));
    let mut known: BTreeMap<String, BTreeMap<i64, String>> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (key, offset, message) in sent.chain(polled) {
        let place = (key.clone(), offset);
        let known_place = places.entry(message.clone()).or_insert(place.clone());
        if *known_place != place {
            return Err(format!("message {message} is at {known_place:?} and at {place:?}"));
        }
        let known_message = known.entry(key.clone()).or_default().entry(offset).or_insert(message.clone());
        if *known_message != message {
            return Err(format!("{key} has {known_message} and {message} at {offset}"));
        }
    }
    Ok(known)
}

fn surely_not_sent(history: &[Op], known: &BTreeMap<String, BTreeMap<i64, String>>) -> Result<(), String> {
    let sends = || history.iter().filter(|op| op.kind() == "send");
    let possible: BTreeSet<String> =
        sends().filter(|op| !op.is_failed()).map(|op| op.request["msg"].to_string()).collect();
    let stranger = known.values().flat_map(BTreeMap::values).find(|message| !possible.contains(*message));
    stranger.map_or(Ok(()), |message| Err(format!("message {message} was not sent, or surely not")))
}

/// Messages that were sent one after another have offsets in that order.
fn in_order(sends: &[(String, i64, &Op)]) -> Result<(), String> {
    for (key, offset, op) in sends {
        let mut later = sends.iter().filter(|(other, _, later)| other == key && op.precedes(later));
        if let Some((_, _, later)) = later.find(|(_, next, _)| next <= offset) {
            return Err(format!("offsets of {key} do not increase: {op} and then {later}"));
        }
    }
    Ok(())
}

/// A poll begins where it was asked to, goes up, and leaves nothing out in between.
fn whole(from: i64, pairs: &Pairs, known: &BTreeMap<i64, String>) -> Result<(), String> {
    if !pairs.windows(2).all(|pair| pair[0].0 < pair[1].0) || pairs.first().is_some_and(|(first, _)| *first < from) {
        return Err(format!("offsets do not go up from {from}"));
    }
    let Some((last, _)) = pairs.last() else { return Ok(()) };
    let shown: BTreeSet<i64> = pairs.iter().map(|(offset, _)| *offset).collect();
    match known.range(from..=*last).map(|(offset, _)| offset).find(|offset| !shown.contains(offset)) {
        Some(hole) => Err(format!("the message at {hole} is left out")),
        None => Ok(()),
    }
}

/// A committed offset is at least what was acknowledged before the question, and nothing that nobody committed.
fn commits(history: &[Op]) -> Result<(), String> {
    let commits = || history.iter().filter(|op| op.kind() == "commit_offsets" && !op.is_failed());
    for list in history.iter().filter(|op| op.kind() == "list_committed_offsets") {
        let Some(answer) = list.answer() else { continue };
        for key in list.request["keys"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let of_key = |op: &Op| op.request["offsets"][key].as_i64();
            let found = answer["offsets"].get(key).and_then(Value::as_i64);
            let before = commits().filter(|op| op.is_ok() && op.precedes(list)).filter_map(of_key).max();
            if found < before {
                return Err(format!("{key} was committed up to {before:?}: {list}"));
            }
            let earlier = history.iter().filter(|op| op.kind() == "list_committed_offsets" && op.precedes(list));
            let seen = earlier.filter_map(|op| op.answer()?["offsets"].get(key)?.as_i64()).max();
            if found < seen {
                return Err(format!("{key} was seen committed up to {seen:?}: {list}"));
            }
            if found.is_some() && !commits().any(|op| of_key(op) == found) {
                return Err(format!("nobody committed {key} up to {found:?}: {list}"));
            }
        }
    }
    Ok(())
}

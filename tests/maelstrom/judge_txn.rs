//! Strict serializability of transactions, from what they read.
//!
//! After Adya, and Elle: find the order of each key's versions, draw an edge from each transaction to each one that must come
//! after it (it overwrote what that one wrote, read it, or was overwritten after reading; or it began after that one
//! returned), and look for a cycle. A list shows its own versions: each read is a prefix of the longest one. A register shows
//! less: that nothing was first, what a transaction read before it wrote, and which writes followed each other in time.

use crate::history::{Graph, Op};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A transaction that was done, or may have been.
struct Txn<'a> {
    op: &'a Op,
    /// Function, key, and what was written or read (null, where that is not known).
    steps: Vec<(&'a str, String, &'a Value)>,
}

fn transactions(history: &[Op]) -> Vec<Txn<'_>> {
    fn step(step: &Value) -> (&str, String, &Value) {
        (step[0].as_str().unwrap_or_default(), step[1].to_string(), &step[2])
    }
    let done = history.iter().filter(|op| !op.is_failed());
    done.map(|op| Txn { op, steps: op_steps(op).iter().map(step).collect() }).collect()
}

fn op_steps(op: &Op) -> &[Value] {
    op.answer().unwrap_or(&op.request)["txn"].as_array().map_or(&[], Vec::as_slice)
}

/// Answers must be what was asked, with the reads filled in.
fn check_shape(history: &[Op]) -> Result<(), String> {
    for op in history.iter().filter(|op| op.is_ok()) {
        let asked = op.request["txn"].as_array().map_or(&[][..], Vec::as_slice);
        let said = op_steps(op);
        let fits = |(a, b): (&Value, &Value)| a[0] == b[0] && a[1] == b[1] && (a[0] == "r" || a[2] == b[2]);
        if asked.len() != said.len() || !asked.iter().zip(said).all(fits) {
            return Err(format!("an answer to another transaction: {op}"));
        }
    }
    Ok(())
}

/// Who wrote what: (key, value) → transaction. Values are written once.
fn writers(txns: &[Txn<'_>], write: &str) -> BTreeMap<(String, String), usize> {
    let mut writers = BTreeMap::new();
    for (place, txn) in txns.iter().enumerate() {
        for (_, key, value) in txn.steps.iter().filter(|(function, ..)| *function == write) {
            writers.insert((key.clone(), value.to_string()), place);
        }
    }
    writers
}

/// What each transaction wrote last to each key: all that others may see.
fn installed<'a>(txn: &Txn<'a>, write: &str) -> BTreeMap<String, &'a Value> {
    let writes = txn.steps.iter().filter(|(function, ..)| *function == write);
    writes.map(|(_, key, value)| (key.clone(), *value)).collect()
}

/// Who returned before whom began. Only from those whose return was seen.
fn add_real_time(graph: &mut Graph, txns: &[Txn<'_>], takes_part: &dyn Fn(usize) -> bool) {
    for (a, before) in txns.iter().enumerate().filter(|(a, _)| takes_part(*a)) {
        for (b, after) in txns.iter().enumerate() {
            if takes_part(b) && before.op.precedes(after.op) {
                graph.add(a, b, "returned before");
            }
        }
    }
}

fn no_cycle(graph: &Graph, txns: &[Txn<'_>]) -> Result<(), String> {
    let Some(cycle) = graph.cycle() else { return Ok(()) };
    let line = |(txn, why): &(usize, &str)| format!("{}\n  {why}", txns[*txn].op);
    Err(format!("no order of these is possible:\n{}", cycle.iter().map(line).collect::<Vec<_>>().join("\n")))
}

pub fn lists(history: &[Op]) -> Result<(), String> {
    check_shape(history)?;
    let txns = transactions(history);
    let writers = writers(&txns, "append");
    let longest = longest_lists(&txns)?;
    for (key, list) in &longest {
        let distinct: BTreeSet<String> = list.iter().map(Value::to_string).collect();
        if distinct.len() != list.len() {
            return Err(format!("key {key} has an element twice: {list:?}"));
        }
        if let Some(stranger) =
            distinct.iter().find(|element| !writers.contains_key(&(key.clone(), (*element).clone())))
        {
            return Err(format!("key {key} has {stranger}, which nobody appended, or surely did not"));
        }
    }
    let mut graph = Graph::new(txns.len());
    let mut seen = BTreeSet::new();
    for (key, list) in &longest {
        let by: Vec<usize> = list.iter().map(|element| writers[&(key.clone(), element.to_string())]).collect();
        by.windows(2).for_each(|pair| graph.add(pair[0], pair[1], "was appended to by"));
        seen.extend(by);
    }
    for (place, txn) in txns.iter().enumerate().filter(|(_, txn)| txn.op.is_ok()) {
        check_own_appends(txn)?;
        for (key, read) in first_reads(txn) {
            let by = |element: &Value| writers[&(key.clone(), element.to_string())];
            if let Some(last) = read.last() {
                let writer = by(last);
                if writer != place && installed(&txns[writer], "append").get(&key) != Some(&last) {
                    return Err(format!("an unfinished transaction's append was read: {}", txn.op));
                }
                graph.add(writer, place, "was read by");
            }
            if let Some(next) = longest[&key].get(read.len()) {
                graph.add(place, by(next), "read what was appended to by");
            }
        }
        lost_appends(txn, &longest, history)?;
    }
    add_real_time(&mut graph, &txns, &|place| txns[place].op.is_ok() || seen.contains(&place));
    no_cycle(&graph, &txns)
}

/// Each key's longest list. All reads are prefixes of it.
fn longest_lists(txns: &[Txn<'_>]) -> Result<BTreeMap<String, Vec<Value>>, String> {
    let mut longest: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for txn in txns.iter().filter(|txn| txn.op.is_ok()) {
        for (_, key, read) in txn.steps.iter().filter(|(function, ..)| *function == "r") {
            let read = read.as_array().cloned().unwrap_or_default();
            let known = longest.entry(key.clone()).or_default();
            let common = known.len().min(read.len());
            if known[..common] != read[..common] {
                return Err(format!("key {key} is {known:?} to one and {read:?} to {}", txn.op));
            }
            if read.len() > known.len() {
                *known = read;
            }
        }
    }
    Ok(longest)
}

/// Each key as the transaction found it: its first read, without what it had appended itself by then.
fn first_reads(txn: &Txn<'_>) -> BTreeMap<String, Vec<Value>> {
    let (mut found, mut appended) = (BTreeMap::new(), BTreeMap::<&String, usize>::new());
    for (function, key, value) in &txn.steps {
        match *function {
            "append" => *appended.entry(key).or_default() += 1,
            _ => {
                let mut read = value.as_array().cloned().unwrap_or_default();
                read.truncate(read.len().saturating_sub(appended.get(key).copied().unwrap_or(0)));
                found.entry(key.clone()).or_insert(read);
            }
        }
    }
    found
}

/// A read shows what the transaction found, and then its own appends so far.
fn check_own_appends(txn: &Txn<'_>) -> Result<(), String> {
    let mut lists = first_reads(txn);
    for (function, key, value) in &txn.steps {
        let Some(list) = lists.get_mut(key) else { continue };
        match *function {
            "append" => list.push((*value).clone()),
            _ if value.as_array().cloned().unwrap_or_default() != *list => {
                return Err(format!("a transaction does not see its own appends to {key}: {}", txn.op));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What was acknowledged is there at the end.
fn lost_appends(txn: &Txn<'_>, longest: &BTreeMap<String, Vec<Value>>, history: &[Op]) -> Result<(), String> {
    if !history.iter().any(|op| op.is_last && op.is_ok()) {
        return Ok(());
    }
    for (_, key, value) in txn.steps.iter().filter(|(function, ..)| *function == "append") {
        if !longest.get(key).is_some_and(|list| list.contains(value)) {
            return Err(format!("{value} is not in {key} at the end: {}", txn.op));
        }
    }
    Ok(())
}

pub fn registers(history: &[Op]) -> Result<(), String> {
    check_shape(history)?;
    let txns = transactions(history);
    let writers = writers(&txns, "w");
    let mut graph = Graph::new(txns.len());
    // By key: who read which version, and which version replaced which.
    let mut readers: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (place, txn) in txns.iter().enumerate().filter(|(_, txn)| txn.op.is_ok()) {
        for (key, read) in found_registers(txn)? {
            if !read.is_null() {
                let version = (key.clone(), read.to_string());
                let Some(writer) = writers.get(&version) else {
                    return Err(format!("nobody wrote {read} to {key}, or surely did not: {}", txn.op));
                };
                if installed(&txns[*writer], "w").get(&key) != Some(&read) {
                    return Err(format!("an unfinished transaction's write was read: {}", txn.op));
                }
                graph.add(*writer, place, "was read by");
                seen.insert(*writer);
            }
            readers.entry((key, read.to_string())).or_default().push(place);
        }
    }
    let takes_part = |place: usize| txns[place].op.is_ok() || seen.contains(&place);
    for (key, old, new) in replaced(&txns, &takes_part)? {
        let newer = writers[&(key.clone(), new)];
        if let Some(older) = writers.get(&(key.clone(), old.clone())) {
            graph.add(*older, newer, "was overwritten by");
        }
        for reader in readers.get(&(key, old)).into_iter().flatten() {
            graph.add(*reader, newer, "read what was overwritten by");
        }
    }
    add_real_time(&mut graph, &txns, &takes_part);
    no_cycle(&graph, &txns)
}

/// Each key as the transaction found it. What it reads later is that, or what it wrote meanwhile.
fn found_registers<'a>(txn: &Txn<'a>) -> Result<BTreeMap<String, &'a Value>, String> {
    let (mut found, mut current) = (BTreeMap::new(), BTreeMap::<&String, &Value>::new());
    for (function, key, value) in &txn.steps {
        match (*function, current.get(key)) {
            ("w", _) => drop(current.insert(key, value)),
            (_, None) => {
                found.insert(key.clone(), *value);
                current.insert(key, value);
            }
            (_, Some(known)) if known != value => {
                return Err(format!("a transaction reads {key} as {known} and as {value}: {}", txn.op));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Which version of which key is known to be older than which.
fn replaced(txns: &[Txn<'_>], takes_part: &dyn Fn(usize) -> bool) -> Result<Vec<(String, String, String)>, String> {
    let mut pairs = Vec::new();
    let mut by_key: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for (place, txn) in txns.iter().enumerate().filter(|(place, _)| takes_part(*place)) {
        let found = if txn.op.is_ok() { found_registers(txn)? } else { BTreeMap::new() };
        for (key, new) in installed(txn, "w") {
            pairs.push((key.clone(), Value::Null.to_string(), new.to_string()));
            pairs.extend(found.get(&key).map(|old| (key.clone(), old.to_string(), new.to_string())));
            by_key.entry(key).or_default().push((place, new.to_string()));
        }
    }
    for (key, versions) in by_key {
        for (a, old) in &versions {
            let later = versions.iter().filter(|(b, _)| txns[*a].op.precedes(txns[*b].op));
            pairs.extend(later.map(|(_, new)| (key.clone(), old.clone(), new.clone())));
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Outcome;
    use serde_json::json;

    fn txn(invoked: u64, returned: u64, steps: Value) -> Op {
        let request = json!({"type": "txn", "txn": steps});
        let outcome = if returned == u64::MAX { Outcome::Unknown } else { Outcome::Ok(request.clone()) };
        Op { node: 0, invoked, returned, request, outcome, is_last: false }
    }

    #[test]
    fn each_anomaly_of_lists_is_found() {
        let a = |key: u64, element: u64| json!(["append", key, element]);
        let r = |key: u64, list: &[u64]| json!(["r", key, list]);
        let sound = [
            txn(1, 2, json!([a(1, 1)])),
            txn(3, 6, json!([a(1, 2), r(2, &[])])),
            txn(4, 5, json!([r(1, &[1])])),
            txn(7, u64::MAX, json!([a(1, 3)])),
            txn(8, 9, json!([r(1, &[1, 2, 3]), a(1, 4), r(1, &[1, 2, 3, 4])])),
        ];
        assert_eq!(lists(&sound), Ok(()));
        for (what, history) in [
            (
                "stale read",
                vec![txn(1, 2, json!([a(1, 1)])), txn(3, 4, json!([r(1, &[])])), txn(5, 6, json!([r(1, &[1])]))],
            ),
            (
                "write skew",
                vec![
                    txn(1, 9, json!([r(1, &[]), a(2, 1)])),
                    txn(2, 8, json!([r(2, &[]), a(1, 1)])),
                    txn(10, 11, json!([r(1, &[1]), r(2, &[1])])),
                ],
            ),
            (
                "fractured read",
                vec![
                    txn(1, 9, json!([a(1, 1), a(2, 1)])),
                    txn(2, 8, json!([r(1, &[1]), r(2, &[])])),
                    txn(10, 11, json!([r(2, &[1])])),
                ],
            ),
            (
                "orders",
                vec![
                    txn(1, 9, json!([r(1, &[1, 2])])),
                    txn(2, 8, json!([r(1, &[2])])),
                    txn(3, 7, json!([a(1, 1)])),
                    txn(4, 6, json!([a(1, 2)])),
                ],
            ),
            ("twice", vec![txn(1, 2, json!([a(1, 1)])), txn(3, 4, json!([r(1, &[1, 1])]))]),
            ("stranger", vec![txn(3, 4, json!([r(1, &[1])]))]),
            ("unfinished", vec![txn(1, 9, json!([a(1, 1), a(1, 2)])), txn(3, 4, json!([r(1, &[1])]))]),
            ("own appends", vec![txn(1, 9, json!([r(1, &[]), a(1, 1), r(1, &[])]))]),
        ] {
            assert!(lists(&history).is_err(), "{what}");
        }
        let mut failed = vec![txn(1, 2, json!([a(1, 1)])), txn(3, 4, json!([r(1, &[1])]))];
        failed[0].outcome = Outcome::Failed(30);
        assert!(lists(&failed).is_err(), "aborted read");
        let mut last = vec![txn(1, 2, json!([a(1, 1)])), txn(1, 4, json!([r(1, &[])]))];
        last[1].is_last = true;
        assert!(lists(&last).is_err(), "lost append");
    }

    #[test]
    fn each_anomaly_of_registers_is_found() {
        let w = |key: u64, value: u64| json!(["w", key, value]);
        let r = |key: u64, value: Option<u64>| json!(["r", key, value]);
        let sound = [
            txn(1, 2, json!([w(1, 1)])),
            txn(3, 6, json!([w(1, 2), r(2, None), w(1, 3), r(1, Some(3))])),
            txn(4, 5, json!([r(1, Some(1))])),
            txn(7, u64::MAX, json!([w(1, 4)])),
            txn(8, 9, json!([r(1, Some(3))])),
            txn(10, 11, json!([r(1, Some(4)), w(1, 5)])),
        ];
        assert_eq!(registers(&sound), Ok(()));
        for (what, history) in [
            (
                "stale read",
                vec![txn(1, 2, json!([w(1, 1)])), txn(3, 4, json!([w(1, 2)])), txn(5, 6, json!([r(1, Some(1))]))],
            ),
            ("nothing read", vec![txn(1, 2, json!([w(1, 1)])), txn(3, 4, json!([r(1, None)]))]),
            (
                "lost update",
                vec![
                    txn(1, 2, json!([w(1, 1)])),
                    txn(3, 9, json!([r(1, Some(1)), w(1, 2)])),
                    txn(4, 8, json!([r(1, Some(1)), w(1, 3)])),
                ],
            ),
            ("write skew", vec![txn(1, 9, json!([r(1, None), w(2, 1)])), txn(2, 8, json!([r(2, None), w(1, 1)]))]),
            ("stranger", vec![txn(1, 2, json!([r(1, Some(7))]))]),
            ("unfinished", vec![txn(1, 9, json!([w(1, 1), w(1, 2)])), txn(2, 8, json!([r(1, Some(1))]))]),
            ("own write", vec![txn(1, 9, json!([w(1, 1), r(1, None)]))]),
        ] {
            assert!(registers(&history).is_err(), "{what}");
        }
    }
}

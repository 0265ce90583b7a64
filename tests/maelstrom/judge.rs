//! Whether what the clients saw keeps the workload's promise. A judge knows nothing but the history.
//!
//! Here are those that need no order; `judge_register.rs`, `judge_txn.rs` and `judge_log.rs` have the others.

use crate::history::Op;
use crate::{judge_log, judge_register, judge_txn};
use quorate::maelstrom::Workload;
use serde_json::Value;
use std::collections::BTreeSet;

/// The workload's judge.
///
/// # Errors
/// What is wrong, with the operations that show it.
pub fn judge(workload: Workload, history: &[Op]) -> Result<(), String> {
    match workload {
        Workload::Echo => echo(history),
        Workload::UniqueIds => unique_ids(history),
        Workload::Broadcast => set(history, "broadcast", "message", "messages"),
        Workload::GSet => set(history, "add", "element", "value"),
        Workload::GCounter | Workload::PnCounter => counter(history),
        Workload::LinKv => judge_register::judge(history),
        Workload::TxnListAppend => judge_txn::lists(history),
        Workload::TxnRwRegister => judge_txn::registers(history),
        Workload::Kafka => judge_log::judge(history),
    }
}

fn echo(history: &[Op]) -> Result<(), String> {
    for op in history {
        if op.answer().is_some_and(|answer| answer["echo"] != op.request["echo"]) {
            return Err(format!("another echo: {op}"));
        }
    }
    Ok(())
}

fn unique_ids(history: &[Op]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for op in history {
        if op.answer().is_some_and(|answer| !seen.insert(answer["id"].to_string())) {
            return Err(format!("an id twice: {op}"));
        }
    }
    Ok(())
}

/// At the end every node has everything that was acknowledged, once, and nothing that nobody added.
fn set(history: &[Op], add: &str, element: &str, elements: &str) -> Result<(), String> {
    let adds = || history.iter().filter(|op| op.kind() == add);
    let text = |op: &Op| op.request[element].to_string();
    let known: BTreeSet<String> = adds().filter(|op| op.is_ok()).map(text).collect();
    let possible: BTreeSet<String> = adds().filter(|op| !op.is_failed()).map(text).collect();
    for op in history.iter().filter(|op| op.kind() == "read") {
        let Some(answer) = op.answer() else { continue };
        let read = answer[elements].as_array().ok_or(format!("no {elements}: {op}"))?;
        let found: BTreeSet<String> = read.iter().map(Value::to_string).collect();
        if found.len() != read.len() {
            return Err(format!("an element twice: {op}"));
        }
        if let Some(stranger) = found.difference(&possible).next() {
            return Err(format!("nobody added {stranger}: {op}"));
        }
        if let Some(lost) = known.difference(&found).next().filter(|_| op.is_last) {
            return Err(format!("{lost} was acknowledged and is not on node {}", op.node));
        }
    }
    Ok(())
}

/// At the end every node says a sum of all that was acknowledged and of some that perhaps happened.
fn counter(history: &[Op]) -> Result<(), String> {
    let adds = || history.iter().filter(|op| op.kind() == "add");
    let delta = |op: &Op| op.request["delta"].as_i64().unwrap_or_default();
    let known: i64 = adds().filter(|op| op.is_ok()).map(delta).sum();
    let mut possible = BTreeSet::from([known]);
    for perhaps in adds().filter(|op| !op.is_ok() && !op.is_failed()).map(delta) {
        possible.extend(possible.iter().map(|sum| sum + perhaps).collect::<Vec<_>>());
    }
    for op in history.iter().filter(|op| op.kind() == "read" && op.is_last) {
        let found = op.answer().and_then(|answer| answer["value"].as_i64());
        if !found.is_some_and(|found| possible.contains(&found)) {
            return Err(format!("{known} was acknowledged, node {} says {found:?}", op.node));
        }
    }
    Ok(())
}

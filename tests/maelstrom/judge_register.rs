//! Linearizability of registers, key by key.
//!
//! Wing and Gong's question, in Lowe's order: walk through the events; remember every state that the register may be in
//! together with which of the open operations have taken effect in it; when an operation returns, it must have taken effect,
//! so let open ones take effect until it has, in every possible order. Where nothing is left, no order explains what was seen.

use crate::history::{Op, Outcome};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// `None`: the key is absent.
type Register = Option<i64>;

#[derive(Clone, Copy, Debug)]
enum Effect {
    Reads(Register),
    Writes(i64),
    Sets(i64, i64),
    /// A cas that failed because it found another value.
    DiffersFrom(i64),
    /// A cas of which nobody knows whether it found what it expected.
    MaySet(i64, i64),
}

impl Effect {
    /// The register after it; `None`: it can't have happened here.
    fn on(self, register: Register) -> Option<Register> {
        match self {
            Effect::Reads(found) => (found == register).then_some(register),
            Effect::Writes(value) => Some(Some(value)),
            Effect::Sets(from, to) => (register == Some(from)).then_some(Some(to)),
            Effect::DiffersFrom(value) => register.filter(|found| *found != value).map(Some),
            Effect::MaySet(from, to) => Some(if register == Some(from) { Some(to) } else { register }),
        }
    }

    /// What an operation did; `None`: nothing that anyone could see.
    fn of(op: &Op) -> Option<Effect> {
        let number = |field: &str| op.request[field].as_i64().unwrap_or_default();
        match (op.kind(), &op.outcome) {
            ("read", Outcome::Ok(answer)) => Some(Effect::Reads(answer["value"].as_i64())),
            ("read" | "cas", Outcome::Failed(20)) => Some(Effect::Reads(None)),
            ("write", Outcome::Ok(_) | Outcome::Unknown) => Some(Effect::Writes(number("value"))),
            ("cas", Outcome::Ok(_)) => Some(Effect::Sets(number("from"), number("to"))),
            ("cas", Outcome::Failed(22)) => Some(Effect::DiffersFrom(number("from"))),
            ("cas", Outcome::Unknown) => Some(Effect::MaySet(number("from"), number("to"))),
            _ => None,
        }
    }
}

pub fn judge(history: &[Op]) -> Result<(), String> {
    let mut by_key: BTreeMap<String, Vec<(&Op, Effect)>> = BTreeMap::new();
    for op in history {
        if let Some(effect) = Effect::of(op) {
            by_key.entry(op.request["key"].to_string()).or_default().push((op, effect));
        }
    }
    by_key.iter().try_for_each(|(key, ops)| one(ops).map_err(|op| format!("key {key} is not linearizable at {op}")))
}

/// The register, and a bit for each open operation that has taken effect.
type State = (Register, u64);

fn one<'a>(ops: &[(&'a Op, Effect)]) -> Result<(), &'a Op> {
    let mut events: Vec<(u64, usize)> = Vec::new();
    for (place, (op, _)) in ops.iter().enumerate() {
        events.push((op.invoked, place));
        events.extend((op.returned != u64::MAX).then_some((op.returned, place)));
    }
    events.sort_unstable();
    let mut open: BTreeMap<u32, usize> = BTreeMap::new();
    let mut states: BTreeSet<State> = BTreeSet::from([(None, 0)]);
    for (_, place) in events {
        let Some(slot) = open.iter().find(|(_, open)| **open == place).map(|(slot, _)| *slot) else {
            let free = (0..64).find(|slot| !open.contains_key(slot)).expect("at most 64 operations are open at once");
            open.insert(free, place);
            continue;
        };
        states = let_happen(states, slot, &open, ops);
        if states.is_empty() {
            return Err(ops[place].0);
        }
        open.remove(&slot);
    }
    Ok(())
}

/// All states in which the operation in `slot` has taken effect, and its slot is free again.
fn let_happen(
    states: BTreeSet<State>,
    slot: u32,
    open: &BTreeMap<u32, usize>,
    ops: &[(&Op, Effect)],
) -> BTreeSet<State> {
    let (mut seen, mut todo) = (states.clone(), Vec::from_iter(states));
    let mut happened = BTreeSet::new();
    while let Some((register, done)) = todo.pop() {
        if done & (1 << slot) != 0 {
            happened.insert((register, done & !(1 << slot)));
            continue;
        }
        for (other, place) in open.iter().filter(|(other, _)| done & (1 << **other) == 0) {
            if let Some(after) = ops[*place].1.on(register) {
                let state = (after, done | (1 << other));
                if seen.insert(state) {
                    todo.push(state);
                }
            }
        }
    }
    happened
}

#[test]
fn what_no_order_explains_is_found_and_what_one_explains_is_not() {
    use serde_json::json;
    let op = |invoked, returned, request: Value, outcome| Op {
        node: 0,
        invoked,
        returned,
        request,
        outcome,
        is_last: false,
    };
    let write = |invoked, returned, value| {
        let outcome = if returned == u64::MAX { Outcome::Unknown } else { Outcome::Ok(json!({})) };
        op(invoked, returned, json!({"type": "write", "key": 1, "value": value}), outcome)
    };
    let read = |invoked, returned, value: i64| {
        op(invoked, returned, json!({"type": "read", "key": 1}), Outcome::Ok(json!({"value": value})))
    };
    let cas = |invoked, returned, code| {
        let request = json!({"type": "cas", "key": 1, "from": 1, "to": 2});
        op(invoked, returned, request, Outcome::Failed(code))
    };
    for (is_sound, history) in [
        (true, vec![write(1, 2, 1), write(3, 6, 2), read(4, 5, 1), read(7, 8, 2)]),
        (true, vec![write(1, 2, 1), write(3, 6, 2), read(4, 5, 2), read(7, 8, 2)]),
        (true, vec![write(1, u64::MAX, 1), cas(2, 3, 20), read(4, 5, 1)]),
        (true, vec![write(1, 2, 2), cas(3, 4, 22)]),
        // Stale; a new value and then the old one; a write that is gone; a cas that found what it expected.
        (false, vec![write(1, 2, 1), write(3, 4, 2), read(5, 6, 1)]),
        (false, vec![write(1, 2, 1), write(3, 9, 2), read(4, 5, 2), read(6, 7, 1)]),
        (false, vec![write(1, 2, 1), cas(3, 4, 20)]),
        (false, vec![write(1, 2, 1), cas(3, 4, 22)]),
        (false, vec![write(1, u64::MAX, 1), write(2, 3, 2), read(4, 5, 1), read(6, 7, 2), read(8, 9, 1)]),
    ] {
        assert_eq!(judge(&history).is_ok(), is_sound, "{history:?}");
    }
}

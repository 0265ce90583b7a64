//! Bad nodes: each breaks one promise in a way that answers look sound one by one. They prove that the judges judge.
//!
//! A bad node is a good one whose lines to and from clients are tampered with.

use crate::hosts::Actor;
use quorate::maelstrom::Maelstrom;
use quorate::time::Time;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How a node is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sin {
    /// Echoes something else.
    Distorts,
    /// Gives the id before once more.
    RepeatsIds,
    /// Acknowledges an add, a write, an append or a message, and forgets it.
    Forgets,
    /// Adds twice.
    AddsTwice,
    /// Answers a read with what it answered the last time for that key.
    ReadsStale,
    /// Gives an offset twice.
    RepeatsOffsets,
    /// Leaves a message in the middle of a poll out.
    SkipsMessages,
    /// Tells committed offsets as they were at first.
    CommitsFall,
}

/// One in so many answers is bad.
const RATE: u64 = 7;

pub struct Bad {
    good: Maelstrom,
    sin: Sin,
    count: u64,
    /// What was answered, by what was asked.
    memory: BTreeMap<String, Value>,
    /// Open requests, by client and number.
    asked: BTreeMap<(String, i64), Value>,
    /// Answers that the good node knows nothing of.
    lies: Vec<String>,
}

impl Bad {
    pub fn new(good: Maelstrom, sin: Sin) -> Bad {
        Bad { good, sin, count: 0, memory: BTreeMap::new(), asked: BTreeMap::new(), lies: Vec::new() }
    }

    fn sins_now(&mut self) -> bool {
        self.count += 1;
        self.count.is_multiple_of(RATE)
    }

    /// Acknowledges what it does not do; `None`: there is nothing in it to forget.
    fn forget(&mut self, request: &Value) -> Option<Value> {
        let body = match request["type"].as_str()? {
            "broadcast" => json!({"type": "broadcast_ok"}),
            "add" => json!({"type": "add_ok"}),
            "write" => json!({"type": "write_ok"}),
            "send" => json!({"type": "send_ok", "offset": 1_000_000 + self.count}),
            "txn" if request["txn"].as_array()?.iter().all(|step| step[0] != "r") => {
                json!({"type": "txn_ok", "txn": request["txn"]})
            }
            _ => return None,
        };
        self.sins_now().then_some(body)
    }

    fn tamper(&mut self, request: &Value, answer: &mut Value) {
        let kind = answer["type"].as_str().unwrap_or_default().to_owned();
        match (self.sin, kind.as_str()) {
            (Sin::Distorts, "echo_ok") if self.sins_now() => answer["echo"] = json!("what?"),
            (Sin::RepeatsIds, "generate_ok") => self.once_more("id", answer, "id"),
            (Sin::ReadsStale, "read_ok") => self.once_more(&request["key"].to_string(), answer, "value"),
            (Sin::ReadsStale, "txn_ok") if reads_each_key_once(request) => {
                for step in answer["txn"].as_array_mut().unwrap() {
                    self.once_more(&step[1].to_string(), step, 2);
                }
            }
            (Sin::RepeatsOffsets, "send_ok") => self.once_more(&request["key"].to_string(), answer, "offset"),
            (Sin::CommitsFall, "list_committed_offsets_ok") if answer["offsets"] != json!({}) => {
                answer["offsets"] = self.memory.entry(String::new()).or_insert(answer["offsets"].clone()).clone();
            }
            (Sin::SkipsMessages, "poll_ok") => {
                for pairs in answer["msgs"].as_object_mut().into_iter().flat_map(|msgs| msgs.values_mut()) {
                    let pairs = pairs.as_array_mut().unwrap();
                    if pairs.len() >= 3 {
                        pairs.remove(1);
                    }
                }
            }
            _ => {}
        }
    }

    /// Sometimes the answer is the one before, of the same kind.
    fn once_more<I: serde_json::value::Index + Copy>(&mut self, about: &str, answer: &mut Value, field: I) {
        let before = self.memory.insert(about.to_owned(), answer[field].clone());
        if let Some(before) = before.filter(|before| *before != answer[field] && self.sins_now()) {
            answer[field] = before;
        }
    }
}

/// A transaction that reads, and no key twice: a stale answer would contradict itself.
fn reads_each_key_once(request: &Value) -> bool {
    let steps = request["txn"].as_array().map_or(&[][..], Vec::as_slice);
    let keys: BTreeSet<String> = steps.iter().map(|step| step[1].to_string()).collect();
    keys.len() == steps.len() && steps.iter().all(|step| step[0] == "r")
}

impl Actor for Bad {
    fn handle(&mut self, now: Time, line: &str) {
        let message: Value = serde_json::from_str(line).unwrap();
        let (src, request) = (message["src"].as_str().unwrap().to_owned(), &message["body"]);
        if src.starts_with('n') {
            return Actor::handle(&mut self.good, now, line);
        }
        let lie = if self.sin == Sin::Forgets { self.forget(request) } else { None };
        if let Some(mut body) = lie {
            body["in_reply_to"] = request["msg_id"].clone();
            self.lies.push(json!({"src": message["dest"], "dest": src, "body": body}).to_string());
            return;
        }
        self.asked.insert((src, request["msg_id"].as_i64().unwrap()), request.clone());
        Actor::handle(&mut self.good, now, line);
        if self.sin == Sin::AddsTwice && request["type"] == "add" && self.sins_now() {
            let mut again = message.clone();
            again["body"]["msg_id"] = json!(0);
            Actor::handle(&mut self.good, now, &again.to_string());
        }
    }

    fn advance(&mut self, now: Time, lines: &mut Vec<String>) {
        let mut said = Vec::new();
        Actor::advance(&mut self.good, now, &mut said);
        lines.append(&mut self.lies);
        for line in said {
            let mut message: Value = serde_json::from_str(&line).unwrap();
            let caller = (message["dest"].as_str().unwrap().to_owned(), message["body"]["in_reply_to"].as_i64());
            let asked = caller.1.and_then(|id| self.asked.remove(&(caller.0, id)));
            match asked {
                Some(request) => {
                    self.tamper(&request, &mut message["body"]);
                    lines.push(message.to_string());
                }
                None => lines.push(line),
            }
        }
    }

    fn deadline(&self) -> Time {
        Actor::deadline(&self.good)
    }
}

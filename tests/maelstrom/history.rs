//! What the clients saw: the judges' only evidence.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// One request of one client. Moments count the bench's events, so no two are equal.
#[derive(Clone, Debug)]
pub struct Op {
    pub node: usize,
    pub invoked: u64,
    /// `u64::MAX` as long as nothing came.
    pub returned: u64,
    pub request: Value,
    pub outcome: Outcome,
    /// Asked at the end, after the network had been whole for a while.
    pub is_last: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Ok(Value),
    /// Surely not done: the error's code.
    Failed(i64),
    /// Perhaps done, now or later.
    Unknown,
}

impl Op {
    pub fn kind(&self) -> &str {
        self.request["type"].as_str().unwrap()
    }

    /// The answer, if it is one.
    pub fn answer(&self) -> Option<&Value> {
        if let Outcome::Ok(answer) = &self.outcome { Some(answer) } else { None }
    }

    pub fn is_ok(&self) -> bool {
        self.answer().is_some()
    }

    /// Whether it surely was not done.
    pub fn is_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }

    pub fn precedes(&self, other: &Op) -> bool {
        self.returned < other.invoked
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Op { node, invoked, returned, request, outcome, .. } = self;
        let until = if *returned == u64::MAX { "…".to_owned() } else { returned.to_string() };
        write!(f, "[node {node}, {invoked}-{until}: {request} → ")?;
        match outcome {
            Outcome::Ok(answer) => write!(f, "{answer}]"),
            Outcome::Failed(code) => write!(f, "error {code}]"),
            Outcome::Unknown => write!(f, "?]"),
        }
    }
}

/// A directed graph, and how its edges came to be.
#[derive(Default)]
pub struct Graph {
    edges: Vec<Vec<(usize, &'static str)>>,
}

impl Graph {
    pub fn new(nodes: usize) -> Graph {
        Graph { edges: vec![Vec::new(); nodes] }
    }

    pub fn add(&mut self, from: usize, to: usize, why: &'static str) {
        if from != to {
            self.edges[from].push((to, why));
        }
    }

    /// A cycle, as a walk: each node with the reason to go on from it. A short one, for the person who reads it.
    pub fn cycle(&self) -> Option<Vec<(usize, &'static str)>> {
        let mut done = BTreeSet::new();
        let found = (0..self.edges.len()).find_map(|start| self.cycle_from(start, &mut done))?;
        found.iter().filter_map(|start| self.shortest_from(*start)).min_by_key(Vec::len)
    }

    /// The shortest way from `start` to itself.
    fn shortest_from(&self, start: usize) -> Option<Vec<(usize, &'static str)>> {
        let mut came_from: BTreeMap<usize, (usize, &'static str)> = BTreeMap::new();
        let mut todo = VecDeque::from([start]);
        while let Some(node) = todo.pop_front() {
            for (next, why) in &self.edges[node] {
                if !came_from.contains_key(next) {
                    came_from.insert(*next, (node, *why));
                    todo.push_back(*next);
                }
            }
        }
        let mut walk = vec![*came_from.get(&start)?];
        while walk[walk.len() - 1].0 != start {
            walk.push(came_from[&walk[walk.len() - 1].0]);
        }
        walk.reverse();
        Some(walk)
    }

    /// The nodes of some cycle that can be reached from `start` without what is `done`.
    fn cycle_from(&self, start: usize, done: &mut BTreeSet<usize>) -> Option<Vec<usize>> {
        // The path so far: a node and which of its edges is looked at.
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        let mut on_path = BTreeSet::from([start]);
        while let Some((node, edge)) = path.last_mut() {
            if done.contains(node) || *edge == self.edges[*node].len() {
                done.insert(*node);
                on_path.remove(node);
                path.pop();
                continue;
            }
            let (next, _) = self.edges[*node][*edge];
            *edge += 1;
            if on_path.contains(&next) {
                let begin = path.iter().position(|(node, _)| *node == next)?;
                return Some(path[begin..].iter().map(|(node, _)| *node).collect());
            }
            if !done.contains(&next) {
                on_path.insert(next);
                path.push((next, 0));
            }
        }
        None
    }
}

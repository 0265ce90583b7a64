//! What happened, one line an event, with fixed columns.
//!
//! ```text
//!   1234.567  n2    3 leader         sent n1 Append 17@3 +2
//!   ^ms       ^who  ^term ^part      ^what
//! ```
//!
//! The lines are made of the node's own compact record (`crate::node::events`) and of what passes through the world's hands:
//! messages, disks, faults, clients. Whether or not anybody reads it, all of it goes into one number, the run's fingerprint:
//! the same plan twice must give the same.

use crate::node::RoleName;
use crate::node::events::Glance;
use crate::rng::mix;
use crate::time::Time;
use std::collections::VecDeque;

/// See the module's essay.
#[derive(Debug, Default)]
pub struct Trace {
    fingerprint: u64,
    events: u64,
    /// The newest lines, this many at most; `None`: nobody reads.
    lines: Option<(usize, VecDeque<String>)>,
}

impl Trace {
    /// A trace that keeps the newest `lines` lines; 0: none.
    pub fn new(lines: usize) -> Trace {
        Trace { lines: (lines > 0).then(|| (lines, VecDeque::new())), ..Trace::default() }
    }

    /// An event, as numbers that tell it from every other.
    pub fn mark(&mut self, at: Time, numbers: &[u64]) {
        self.events += 1;
        self.fingerprint = numbers.iter().fold(mix(self.fingerprint ^ at.0), |sum, number| mix(sum ^ number));
    }

    /// The same event for a reader: who, in which term and part, and what.
    pub fn tell(&mut self, at: Time, node: Option<usize>, glance: &Glance, what: impl FnOnce() -> String) {
        let Some((most, lines)) = &mut self.lines else { return };
        let who = node.map_or(String::new(), |node| format!("n{}", node + 1));
        let (term, part) = match node {
            Some(_) => (glance.term.0.to_string(), glance.role.name()),
            None => (String::new(), ""),
        };
        let width = RoleName::PreCandidate.name().len();
        let (ms, us) = (at.0 / 1_000_000, at.0 / 1000 % 1000);
        if lines.len() == *most {
            lines.pop_front();
        }
        lines.push_back(format!("{ms:>7}.{us:03}  {who:<3} {term:>4} {part:<width$}  {}", what()));
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Of all events.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The lines kept.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.map(|(_, lines)| lines.into()).unwrap_or_default()
    }
}

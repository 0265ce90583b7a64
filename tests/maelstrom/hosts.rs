//! Where the nodes live: as values in virtual time, or as real processes behind pipes. Everything else in the bench is the
//! same for both.

use quorate::clock::Clock;
use quorate::maelstrom::Maelstrom;
use quorate::time::Time;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// What takes lines and gives lines.
pub trait Actor {
    fn handle(&mut self, now: Time, line: &str);
    fn advance(&mut self, now: Time, lines: &mut Vec<String>);
    fn deadline(&self) -> Time;
}

impl Actor for Maelstrom {
    fn handle(&mut self, now: Time, line: &str) {
        Maelstrom::handle(self, now, line).unwrap();
    }

    fn advance(&mut self, now: Time, lines: &mut Vec<String>) {
        Maelstrom::advance(self, now, lines).unwrap();
    }

    fn deadline(&self) -> Time {
        Maelstrom::deadline(self)
    }
}

/// The nodes, by their place.
pub trait Hosts {
    /// Gives a node a line.
    fn deliver(&mut self, node: usize, line: &str);
    /// Waits until `until` or until a node has said something, whatever is first: the time, and the lines with their nodes.
    fn wait(&mut self, until: Time) -> (Time, Vec<(usize, String)>);
}

/// Nodes as values: time passes when nothing else is left to do.
pub struct Values {
    actors: Vec<Box<dyn Actor>>,
    has_news: Vec<bool>,
    now: Time,
    /// Turns since time passed.
    turns: usize,
}

/// No node may take so many turns without time passing: as a process it would spin.
const TURNS_MAX: usize = 10_000;

impl Values {
    pub fn new(actors: Vec<Box<dyn Actor>>) -> Values {
        Values { has_news: vec![false; actors.len()], actors, now: Time(0), turns: 0 }
    }
}

impl Hosts for Values {
    fn deliver(&mut self, node: usize, line: &str) {
        self.actors[node].handle(self.now, line);
        self.has_news[node] = true;
    }

    fn wait(&mut self, until: Time) -> (Time, Vec<(usize, String)>) {
        if !self.has_news.contains(&true) {
            let next = self.actors.iter().map(|actor| actor.deadline()).fold(until, Time::min);
            self.turns = if next > self.now { 0 } else { self.turns + 1 };
            assert!(self.turns < TURNS_MAX, "a node wants turn after turn at {:?}", self.now);
            self.now = self.now.max(next);
        }
        let mut said = Vec::new();
        for (place, actor) in self.actors.iter_mut().enumerate() {
            if std::mem::take(&mut self.has_news[place]) || actor.deadline() <= self.now {
                let mut lines = Vec::new();
                actor.advance(self.now, &mut lines);
                said.extend(lines.into_iter().map(|line| (place, line)));
            }
        }
        (self.now, said)
    }
}

/// Nodes as processes of the built binary. They end with the value: their stdin does.
pub struct Processes {
    nodes: Vec<(Child, Option<ChildStdin>)>,
    lines: Receiver<(usize, String)>,
    clock: Clock,
}

impl Processes {
    pub fn start(count: usize, args: &[&str]) -> Processes {
        let (sender, lines) = channel();
        let start = |place: usize| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
            command.arg("maelstrom").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let stdout = BufReader::new(child.stdout.take().unwrap());
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in stdout.lines() {
                    if sender.send((place, line.unwrap())).is_err() {
                        return;
                    }
                }
            });
            let stdin = child.stdin.take();
            (child, stdin)
        };
        Processes { nodes: (0..count).map(start).collect(), lines, clock: Clock::new() }
    }
}

impl Hosts for Processes {
    fn deliver(&mut self, node: usize, line: &str) {
        writeln!(self.nodes[node].1.as_mut().unwrap(), "{line}").unwrap();
    }

    fn wait(&mut self, until: Time) -> (Time, Vec<(usize, String)>) {
        let first = self.lines.recv_timeout(until.since(self.clock.now())).ok();
        let said = first.into_iter().chain(self.lines.try_iter()).collect();
        (self.clock.now(), said)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (child, stdin) in &mut self.nodes {
            drop(stdin.take());
            let status = child.wait().unwrap();
            assert!(status.success() || std::thread::panicking(), "a node ended with {status}");
        }
    }
}

//! Maelstrom's part: the network between the nodes with its delays and cuts, and the clients with their patience.
//!
//! A message to or from a client always arrives; one between nodes is lost if they are cut off from each other when it would
//! arrive. A client has one request open at a time and gives up after [`PATIENCE`]. What a node prints must be a message.

use crate::history::{Op, Outcome};
use crate::hosts::Hosts;
use crate::judge;
use crate::load::Load;
use quorate::maelstrom::Workload;
use quorate::rng::{Rng, Seed};
use quorate::time::{Duration, Time};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Maelstrom's clients of `lin-kv` wait for so long; those of other workloads longer.
const PATIENCE: Duration = Duration::from_millis(1000);

/// How long everything is whole before the last questions are asked, each time.
const RECOVERY: Duration = Duration::from_secs(3);

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub workload: Workload,
    pub seed: u64,
    pub nodes: usize,
    pub clients: usize,
    /// Of one message; drawn from an exponential distribution.
    pub mean_latency: Duration,
    /// Between a client's requests.
    pub mean_pause: Duration,
    /// How often the network is cut anew or made whole; `None`: never.
    pub cut_interval: Option<Duration>,
    /// How long clients ask.
    pub load: Duration,
    /// How long the last questions are asked again while the answers are not right. What must come true at last may take long
    /// where processes share a machine.
    pub convergence: Duration,
}

/// What came of it.
pub struct Run {
    pub verdict: Result<(), String>,
    pub history: Vec<Op>,
    /// Messages between nodes.
    pub peer_messages: usize,
    pub lost_messages: usize,
}

struct Client {
    /// Number of the next request.
    msg_id: i64,
    /// The open request: its place in the history, its number, when patience ends.
    open: Option<(usize, i64, Time)>,
    /// When it asks next; `NEVER`: it has nothing to ask.
    next: Time,
    /// Left to ask, once the end has come.
    last: Vec<Value>,
}

pub struct Bench<H> {
    plan: Plan,
    hosts: H,
    rng: Rng,
    load: Load,
    now: Time,
    network: BTreeMap<(Time, u64), (String, String, String)>,
    cut: BTreeSet<(usize, usize)>,
    clients: Vec<Client>,
    /// The load is over.
    closing: bool,
    history: Vec<Op>,
    events: u64,
    peer_messages: usize,
    lost_messages: usize,
}

fn node_name(place: usize) -> String {
    format!("n{}", place + 1)
}

/// The place of `n3` or `c3`.
fn place_of(name: &str) -> usize {
    name[1..].parse::<usize>().unwrap() - 1
}

impl<H: Hosts> Bench<H> {
    pub fn run(plan: Plan, hosts: H) -> Run {
        let mut rng = Rng::new(Seed(plan.seed));
        let load = Load::new(plan.workload, Rng::new(Seed(rng.next_u64())), plan.clients);
        let client = || Client { msg_id: 10, open: None, next: Time(0), last: Vec::new() };
        let mut bench = Bench {
            plan,
            hosts,
            rng,
            load,
            now: Time(0),
            network: BTreeMap::new(),
            cut: BTreeSet::new(),
            clients: (0..plan.clients).map(|_| client()).collect(),
            closing: false,
            history: Vec::new(),
            events: 0,
            peer_messages: 0,
            lost_messages: 0,
        };
        bench.begin();
        bench.ask_under_cuts();
        let verdict = bench.end();
        let Bench { history, peer_messages, lost_messages, .. } = bench;
        Run { verdict, history, peer_messages, lost_messages }
    }

    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// Names the nodes, and tells those of `broadcast` their neighbours: a ring.
    fn begin(&mut self) {
        let names: Vec<String> = (0..self.plan.nodes).map(node_name).collect();
        for name in &names {
            self.ask_and_wait(name, json!({"type": "init", "node_id": name, "node_ids": names}));
        }
        if self.plan.workload == Workload::Broadcast {
            let ring = |n: usize| {
                let (next, last) = ((n + 1) % names.len(), (n + names.len() - 1) % names.len());
                (names[n].clone(), BTreeSet::from([names[next].clone(), names[last].clone()]))
            };
            let topology: BTreeMap<_, _> = (0..names.len()).map(ring).collect();
            for name in &names {
                self.ask_and_wait(name, json!({"type": "topology", "topology": topology}));
            }
        }
    }

    /// Sets a node up: nobody else asks yet.
    fn ask_and_wait(&mut self, node: &str, mut body: Value) {
        let kind = format!("{}_ok", body["type"].as_str().unwrap());
        body["msg_id"] = json!(1);
        let message = json!({"src": "c0", "dest": node, "body": body});
        self.hosts.deliver(place_of(node), &message.to_string());
        let deadline = self.now + Duration::from_secs(60);
        loop {
            let (now, lines) = self.hosts.wait(deadline);
            self.now = now;
            for (place, line) in lines {
                let message: Value = serde_json::from_str(&line).unwrap();
                if message["dest"] == "c0" {
                    assert_eq!(message["body"], json!({"type": kind, "in_reply_to": 1}), "{line}");
                    return;
                }
                self.send(place, &line);
            }
            assert!(now < deadline, "{node} does not answer {kind}");
        }
    }

    fn ask_under_cuts(&mut self) {
        let end = self.now + self.plan.load;
        for place in 0..self.clients.len() {
            self.clients[place].next = self.now + self.draw(self.plan.mean_pause);
        }
        let mut next_cut = self.plan.cut_interval.map_or(Time::NEVER, |interval| self.now + interval);
        while self.now < end {
            self.turn(end.min(next_cut));
            if self.now >= next_cut {
                self.cut_anew();
                next_cut = self.now + self.draw(self.plan.cut_interval.unwrap());
            }
            for place in 0..self.clients.len() {
                if self.clients[place].open.is_none() && self.clients[place].next <= self.now && self.now < end {
                    let request = self.load.next(place);
                    self.ask(place, request, false);
                }
            }
        }
    }

    /// The network is whole again, each node is asked the last questions, and the judge has his say.
    fn end(&mut self) -> Result<(), String> {
        self.cut.clear();
        self.closing = true;
        for client in &mut self.clients {
            client.next = Time::NEVER;
        }
        let deadline = self.now + self.plan.convergence;
        loop {
            let recovered = self.now + RECOVERY;
            while self.now < recovered {
                self.turn(recovered);
            }
            let first = self.history.len();
            self.ask_last();
            let verdict = judge::judge(self.plan.workload, &self.history);
            if verdict.is_ok() || self.now >= deadline {
                return verdict;
            }
            self.history[first..].iter_mut().for_each(|op| op.is_last = false);
        }
    }

    /// Asks each node the last questions until it has answered all of them.
    fn ask_last(&mut self) {
        assert!(self.clients.iter().all(|client| client.open.is_none()));
        for place in 0..self.plan.nodes.min(self.plan.clients) {
            (self.clients[place].last, self.clients[place].next) = (self.load.last(), self.now);
        }
        let deadline = self.now + Duration::from_secs(60);
        while self.clients.iter().any(|client| !client.last.is_empty()) {
            assert!(self.now < deadline, "the last questions are not answered");
            for place in 0..self.clients.len() {
                let client = &mut self.clients[place];
                if client.open.is_none() && client.next <= self.now {
                    let request = client.last[0].clone();
                    self.ask(place, request, true);
                }
            }
            self.turn(deadline);
        }
    }

    /// Waits for the next event, at most until `until`, and lets happen what happens then.
    fn turn(&mut self, until: Time) {
        let arrival = self.network.keys().next().map_or(Time::NEVER, |(at, _)| *at);
        let of_client = |client: &Client| client.open.map_or(client.next, |(_, _, deadline)| deadline);
        let clients = self.clients.iter().map(of_client).fold(Time::NEVER, Time::min);
        let (now, lines) = self.hosts.wait(until.min(arrival).min(clients.max(self.now)));
        self.now = now;
        for (place, line) in lines {
            self.send(place, &line);
        }
        while let Some(arrived) = self.network.first_entry().filter(|first| first.key().0 <= now) {
            let (src, dest, line) = arrived.remove();
            self.arrive(&src, &dest, &line);
        }
        for client in &mut self.clients {
            if let Some((place, _, _)) = client.open.take_if(|(_, _, deadline)| *deadline <= now) {
                // What it asked for may still happen: to the judge it never returns.
                self.history[place].outcome = Outcome::Unknown;
            }
        }
    }

    fn draw(&mut self, mean: Duration) -> Duration {
        // -ln(u) of a u in 2⁻²⁰ ..= 1.
        let u = (self.rng.below(1 << 20) + 1) as f64 / f64::from(1 << 20);
        mean.mul_f64(-u.ln())
    }

    /// A node printed a line.
    fn send(&mut self, place: usize, line: &str) {
        let message: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("no JSON ({why}): {line}"));
        let name = |field: &str| message[field].as_str().unwrap_or_else(|| panic!("no {field}: {line}")).to_owned();
        assert_eq!(name("src"), node_name(place), "{line}");
        assert!(message["body"]["type"].is_string(), "{line}");
        self.post(name("src"), name("dest"), line.to_owned());
    }

    fn post(&mut self, src: String, dest: String, line: String) {
        let at = self.now + self.draw(self.plan.mean_latency);
        let order = self.event();
        self.network.insert((at, order), (src, dest, line));
    }

    fn arrive(&mut self, src: &str, dest: &str, line: &str) {
        if dest.starts_with('c') {
            return self.answer(place_of(dest), line);
        }
        if src.starts_with('n') {
            self.peer_messages += 1;
            if self.cut.contains(&(place_of(src), place_of(dest))) {
                self.lost_messages += 1;
                return;
            }
        }
        self.hosts.deliver(place_of(dest), line);
    }

    fn ask(&mut self, place: usize, request: Value, is_last: bool) {
        let node = place % self.plan.nodes;
        let client = &mut self.clients[place];
        client.msg_id += 1;
        client.open = Some((self.history.len(), client.msg_id, self.now + PATIENCE));
        let mut body = request.clone();
        body["msg_id"] = json!(client.msg_id);
        let (src, dest) = (format!("c{}", place + 1), node_name(node));
        let message = json!({"id": self.events, "src": src, "dest": dest, "body": body});
        let invoked = self.event();
        self.history.push(Op { node, invoked, returned: u64::MAX, request, outcome: Outcome::Unknown, is_last });
        self.post(src, dest, message.to_string());
    }

    /// A client got a line. It hears no answer to what it has given up.
    fn answer(&mut self, place: usize, line: &str) {
        let answer = serde_json::from_str::<Value>(line).unwrap()["body"].take();
        let asked = |open: &mut (usize, i64, Time)| answer["in_reply_to"] == json!(open.1);
        let Some((op, _, _)) = self.clients[place].open.take_if(asked) else { return };
        let (returned, pause) = (self.event(), self.draw(self.plan.mean_pause));
        let (op, client) = (&mut self.history[op], &mut self.clients[place]);
        if answer["type"] == "error" {
            op.outcome = match answer["code"].as_i64().unwrap() {
                13 => Outcome::Unknown,
                code @ (11 | 14 | 20 | 22 | 30) => Outcome::Failed(code),
                code => panic!("a sound request is answered with error {code}: {} {line}", op.request),
            };
        } else {
            assert_eq!(answer["type"], format!("{}_ok", op.kind()), "{line}");
            self.load.answered(place, &answer);
            op.outcome = Outcome::Ok(answer);
        }
        if op.outcome != Outcome::Unknown {
            op.returned = returned;
        }
        if op.is_last && matches!(op.outcome, Outcome::Ok(_) | Outcome::Failed(20)) {
            client.last.remove(0);
        }
        let has_more = !self.closing || !client.last.is_empty();
        client.next = if has_more { self.now + pause } else { Time::NEVER };
    }

    /// Cuts the network in two, cuts a bridge node's ends from each other, or makes it whole.
    fn cut_anew(&mut self) {
        self.cut.clear();
        let nodes = self.plan.nodes;
        let side: Vec<u64> = match self.rng.below(4) {
            0 => return,
            1 => {
                let alone = self.rng.below(nodes as u64) as usize;
                (0..nodes).map(|node| u64::from(node == alone)).collect()
            }
            _ => (0..nodes).map(|_| self.rng.below(2)).collect(),
        };
        let bridge = (self.rng.below(4) == 0).then(|| self.rng.below(nodes as u64) as usize);
        for a in 0..nodes {
            for b in 0..nodes {
                if side[a] != side[b] && bridge != Some(a) && bridge != Some(b) {
                    self.cut.insert((a, b));
                }
            }
        }
    }
}

//! Maelstrom's part, played by us: every workload of `quorate maelstrom` under load and partitions, judged by what clients saw.
//!
//! Most runs are whole clusters as values in one thread, in virtual time, from one seed: the network and the clients of
//! `bench.rs`, the judges of `judge*.rs`. The same bench then drives real processes over pipes. And because a judge that never
//! says no proves nothing, there are bad nodes (`bad.rs`), each of which must be found.
//!
//! `QUORATE_SEEDS=100` runs more, `QUORATE_SEED=n` runs one. A failure names its seed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

#[path = "maelstrom/bad.rs"]
mod bad;
#[path = "maelstrom/bench.rs"]
mod bench;
#[path = "maelstrom/history.rs"]
mod history;
#[path = "maelstrom/hosts.rs"]
mod hosts;
#[path = "maelstrom/judge.rs"]
mod judge;
#[path = "maelstrom/judge_log.rs"]
mod judge_log;
#[path = "maelstrom/judge_register.rs"]
mod judge_register;
#[path = "maelstrom/judge_txn.rs"]
mod judge_txn;
#[path = "maelstrom/load.rs"]
mod load;

use bad::{Bad, Sin};
use bench::{Bench, Plan, Run};
use clap::ValueEnum;
use hosts::{Actor, Processes, Values};
use quorate::maelstrom::{Maelstrom, Settings, Workload};
use quorate::rng::{Rng, Seed};
use quorate::time::{Duration, Time};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

/// A plan drawn from a seed: 3 or 5 nodes, a quick or a slow network, whole or cut every second or two.
fn plan(workload: Workload, seed: u64) -> Plan {
    let mut rng = Rng::new(Seed(seed ^ 0xface));
    let mut pick = |choices: [u64; 4]| choices[rng.below(4) as usize];
    let nodes = pick([1, 3, 3, 5]) as usize;
    Plan {
        workload,
        seed,
        nodes,
        clients: nodes * 2,
        mean_latency: Duration::from_millis(pick([0, 2, 20, 100])),
        mean_pause: Duration::from_millis(pick([20, 40, 80, 160])),
        cut_interval: [None, Some(1000), Some(1000), Some(2000)][pick([0, 1, 2, 3]) as usize]
            .map(Duration::from_millis),
        load: Duration::from_secs(12),
        convergence: Duration::ZERO,
    }
}

fn node(plan: Plan, place: usize) -> Maelstrom {
    Maelstrom::new(Settings::new(plan.workload, Seed(plan.seed * 1000 + place as u64)))
}

fn in_virtual_time(plan: Plan, sin: Option<Sin>) -> Run {
    let actor = |place| -> Box<dyn Actor> {
        match sin {
            Some(sin) => Box::new(Bad::new(node(plan, place), sin)),
            None => Box::new(node(plan, place)),
        }
    };
    Bench::run(plan, Values::new((0..plan.nodes).map(actor).collect()))
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("QUORATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("QUORATE_SEEDS").unwrap_or(count),
    }
}

#[test]
fn what_needs_no_order_keeps_its_promise_under_chance() {
    use Workload as W;
    for workload in [W::Echo, W::UniqueIds, W::Broadcast, W::GSet, W::GCounter, W::PnCounter] {
        let Total { asked, done, lost } = keeps_its_promise(workload);
        assert_eq!(done, asked, "{workload:?} is not available in a partition");
        assert!(lost > 0 || matches!(workload, W::Echo | W::UniqueIds), "no partition mattered to {workload:?}");
    }
}

#[test]
fn what_goes_through_the_log_keeps_its_promise_under_chance() {
    for workload in [Workload::LinKv, Workload::TxnListAppend, Workload::TxnRwRegister, Workload::Kafka] {
        let Total { asked, done, lost } = keeps_its_promise(workload);
        assert!(done > asked / 2, "too little was done to judge {workload:?} by: {done} of {asked}");
        assert!(lost > 0, "no partition mattered to {workload:?}");
    }
}

/// Of some runs: requests that were asked and done, messages between nodes that were lost.
#[derive(Default)]
struct Total {
    asked: usize,
    done: usize,
    lost: usize,
}

fn keeps_its_promise(workload: Workload) -> Total {
    let mut total = Total::default();
    for seed in seeds(6) {
        let plan = plan(workload, seed);
        let run = in_virtual_time(plan, None);
        if let Err(why) = run.verdict {
            panic!("QUORATE_SEED={seed}: {workload:?} breaks its promise under {plan:?}\n{why}");
        }
        total.asked += run.history.len();
        total.done += run.history.iter().filter(|op| op.is_ok()).count();
        total.lost += run.lost_messages;
    }
    let Total { asked, done, lost } = total;
    println!("{workload:?}: {done} of {asked} requests done, {lost} messages between nodes lost");
    total
}

/// Each sin, in every workload that can commit it, is found; most runs show it, and one is enough.
#[test]
fn bad_nodes_are_found_out() {
    use Workload as W;
    for (sin, workloads) in [
        (Sin::Distorts, &[W::Echo][..]),
        (Sin::RepeatsIds, &[W::UniqueIds]),
        (
            Sin::Forgets,
            &[W::Broadcast, W::GSet, W::GCounter, W::PnCounter, W::LinKv, W::TxnListAppend, W::TxnRwRegister, W::Kafka],
        ),
        (Sin::AddsTwice, &[W::GCounter, W::PnCounter]),
        (Sin::ReadsStale, &[W::LinKv, W::TxnListAppend, W::TxnRwRegister]),
        (Sin::RepeatsOffsets, &[W::Kafka]),
        (Sin::SkipsMessages, &[W::Kafka]),
        (Sin::CommitsFall, &[W::Kafka]),
    ] {
        for workload in workloads {
            let plan = Plan { nodes: 3, clients: 6, cut_interval: None, ..plan(*workload, 1) };
            let verdict = in_virtual_time(plan, Some(sin)).verdict;
            println!("{workload:?} {sin:?}: {}", verdict.clone().err().unwrap_or_default());
            assert!(verdict.is_err(), "{workload:?}: nobody noticed {sin:?}");
        }
    }
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    let run = |seed| format!("{:?}", in_virtual_time(plan(Workload::LinKv, seed), None).history);
    assert_eq!(run(5), run(5));
}

/// Three nodes, of which the network between them loses everything from some moment on. Those that had a leader then can't
/// know what became of a write; once they have given the leader up, a write is surely not done. A read never is.
#[test]
fn what_may_have_been_appended_is_uncertain_and_what_was_not_is_refused() {
    let mut world = Three::new();
    while world.codes().is_empty() {
        world.pass(Duration::from_millis(10), true);
        world.ask(0, r#""type":"write","key":1,"value":1"#);
    }
    world.pass(Duration::from_secs(1), true);
    world.codes();
    for node in 0..3 {
        world.ask(node, r#""type":"write","key":1,"value":2"#);
        world.ask(node, r#""type":"read","key":1"#);
    }
    world.pass(Duration::from_secs(10), false);
    assert_eq!(world.codes(), BTreeMap::from([(11, 3), (13, 3)]));
    for node in 0..3 {
        world.ask(node, r#""type":"cas","key":1,"from":1,"to":3"#);
    }
    world.pass(Duration::from_secs(10), false);
    assert_eq!(world.codes(), BTreeMap::from([(11, 3)]));
}

/// Three nodes of `lin-kv`, and what clients heard.
struct Three {
    nodes: Vec<Maelstrom>,
    now: Time,
    heard: Vec<Value>,
}

impl Three {
    fn new() -> Three {
        let settings = |place| Settings::new(Workload::LinKv, Seed(place));
        let mut three = Three { nodes: Vec::new(), now: Time(0), heard: Vec::new() };
        three.nodes.extend((0..3).map(settings).map(Maelstrom::new));
        for node in 0..3 {
            let init = format!(r#""type":"init","node_id":"n{}","node_ids":["n1","n2","n3"]"#, node + 1);
            three.ask(node, &init);
        }
        three.pass(Duration::ZERO, true);
        three.heard.clear();
        three
    }

    fn ask(&mut self, node: usize, body: &str) {
        let line = format!(r#"{{"src":"c1","dest":"n{}","body":{{"msg_id":1,{body}}}}}"#, node + 1);
        Actor::handle(&mut self.nodes[node], self.now, &line);
    }

    /// Lets time pass; messages between the nodes arrive at once, or never.
    fn pass(&mut self, time: Duration, arrive: bool) {
        let end = self.now + time;
        loop {
            let mut lines = Vec::new();
            self.nodes.iter_mut().for_each(|node| Actor::advance(node, self.now, &mut lines));
            for line in &lines {
                let message: Value = serde_json::from_str(line).unwrap();
                match message["dest"].as_str().unwrap() {
                    "c1" => self.heard.push(message),
                    node if arrive => {
                        let place = node[1..].parse::<usize>().unwrap() - 1;
                        Actor::handle(&mut self.nodes[place], self.now, line);
                    }
                    _ => {}
                }
            }
            if !lines.is_empty() && arrive {
                continue;
            }
            if self.now == end {
                return;
            }
            let next = self.nodes.iter().map(|node| node.deadline()).fold(end, Time::min);
            self.now = self.now.max(next);
        }
    }

    /// The error codes of the answers since the last call (0: no error), and how many there were of each.
    fn codes(&mut self) -> BTreeMap<i64, usize> {
        let mut codes = BTreeMap::new();
        for answer in self.heard.drain(..) {
            *codes.entry(answer["body"]["code"].as_i64().unwrap_or(0)).or_default() += 1;
        }
        codes
    }
}

/// What can be understood of a request is answered, and nothing ends the node.
#[test]
fn what_is_no_request_is_refused_and_the_node_goes_on() {
    for workload in Workload::value_variants() {
        let plan = Plan { nodes: 1, ..plan(*workload, 1) };
        let mut node = node(plan, 0);
        let mut ask = |line: &str| {
            let mut lines = Vec::new();
            Actor::handle(&mut node, Time(0), line);
            Actor::advance(&mut node, Time(0), &mut lines);
            lines
        };
        let init = |id, nodes| {
            format!(
                r#"{{"src":"c1","dest":"n1","body":{{"type":"init","msg_id":1,"node_id":{id},"node_ids":{nodes}}}}}"#
            )
        };
        for (id, nodes) in [("1", "[1]"), (r#""n1""#, "[]"), (r#""n1""#, r#"["n1","n1"]"#), (r#""n1""#, r#""n1""#)] {
            assert!(ask(&init(id, nodes))[0].contains(r#""code":12"#));
        }
        assert!(ask(r#"{"src":"c1","dest":"n1","body":{"type":"read","msg_id":1}}"#)[0].contains(r#""code":11"#));
        assert!(ask(&init(r#""n1""#, r#"["n2","n1"]"#))[0].contains("init_ok"));
        for line in ["", "{", "null", "7", "\u{0}", r#"{"src":"n2","dest":"n1","body":{"type":"raft"}}"#] {
            assert_eq!(ask(line), [""; 0], "{line}");
        }
        let odd =
            [("raft", r#""b":"%""#), ("raft", r#""b":"AAAA""#), ("gossip", r#""upto":-1"#), ("gossip_ok", r#""x":1"#)];
        for (kind, field) in odd {
            let line = format!(r#"{{"src":"n2","dest":"n1","body":{{"type":"{kind}",{field}}}}}"#);
            assert_eq!(ask(&line), [""; 0], "{line}");
        }
        for (kind, code) in [("frobnicate", 10), ("init", 12)] {
            let line = format!(r#"{{"src":"c1","dest":"n1","body":{{"type":"{kind}","msg_id":2}}}}"#);
            assert!(ask(&line)[0].contains(&format!(r#""code":{code},"#)), "{line}");
        }
        for body in [r#""type":"error","msg_id":3"#, r#""type":"read""#, r#""type":"init""#] {
            assert_eq!(ask(&format!(r#"{{"src":"c1","dest":"n1","body":{{{body}}}}}"#)), [""; 0], "{body}");
        }
        let malformed = match workload {
            Workload::UniqueIds => continue,
            Workload::Echo => r#""type":"echo""#,
            Workload::Broadcast => r#""type":"topology","topology":{"n1":7}"#,
            Workload::GSet => r#""type":"add""#,
            Workload::GCounter => r#""type":"add","delta":-1"#,
            Workload::PnCounter => r#""type":"add","delta":0.5"#,
            Workload::LinKv => r#""type":"write","key":1"#,
            Workload::TxnListAppend => r#""type":"txn","txn":[["w",1,2]]"#,
            Workload::TxnRwRegister => r#""type":"txn","txn":[["append",1,2]]"#,
            Workload::Kafka => r#""type":"poll","offsets":{"k":"x"}"#,
        };
        let line = format!(r#"{{"src":"c1","dest":"n1","body":{{"msg_id":4,{malformed}}}}}"#);
        assert!(ask(&line)[0].contains(r#""code":12,"#), "{line}: {:?}", ask(&line));
    }
}

/// A process says nothing on stdout but messages, survives what is none, and ends well when its stdin does.
#[test]
fn a_process_answers_what_it_can_and_ends_with_its_stdin() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["maelstrom", "echo"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let init = br#"{"src":"c1","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1"]}}"#;
    let lines = [&b"\xff\xfe{"[..], b"nonsense", b"", init];
    process.stdin.take().unwrap().write_all(&lines.join(&b'\n')).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer = r#"{"src":"n1","dest":"c1","body":{"type":"init_ok","in_reply_to":1}}"#;
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{answer}\n"));
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.matches("a line that is no message").count(), 2, "{told}");
}

/// The same through real pipes, in real time, with partitions: a process is a thin shell, so a little is enough.
#[test]
fn real_processes_keep_every_promise() {
    let run = |workload: Workload| {
        let plan = Plan {
            workload,
            seed: 7,
            nodes: 3,
            clients: 6,
            mean_latency: Duration::from_millis(1),
            mean_pause: Duration::from_millis(20),
            cut_interval: Some(Duration::from_millis(700)),
            load: Duration::from_secs(3),
            convergence: Duration::from_secs(60),
        };
        let run = Bench::run(plan, Processes::start(plan.nodes, &[workload.name()]));
        let done = run.history.iter().filter(|op| op.is_ok()).count();
        let (asked, lost, sent) = (run.history.len(), run.lost_messages, run.peer_messages);
        println!("{workload:?}: {done} of {asked} requests done, {lost} of {sent} messages between nodes lost");
        run.verdict.unwrap_or_else(|why| panic!("{workload:?} breaks its promise: {why}"));
        assert!(done > 0);
    };
    // Not all at once: a machine that is too busy for heartbeats shows nothing but elections.
    for some in Workload::value_variants().chunks(5) {
        std::thread::scope(|scope| some.iter().for_each(|workload| drop(scope.spawn(|| run(*workload)))));
    }
}

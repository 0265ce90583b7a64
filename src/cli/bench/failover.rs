//! `quorate bench failover`: what the death of a leader costs, again and again, under load.
//!
//! In the running lab many writers write, each key once, each through the client library as a program would. Every round
//! kills the leader's process (SIGKILL), measures, starts it again and waits until it has caught up. At the end every
//! acknowledged write of the whole run is read back from each member.
//!
//! Beside the writers, which wait for their answers, a pulse sends one more write every few milliseconds, whatever became
//! of the earlier ones: writers whose requests died with the leader all wait for the same timeout, and would measure that.
//!
//! The time of a round is from the signal to the next acknowledgement *by a leader of a later term*: answers of the dead
//! leader that were still in a socket don't count. Beside it stands the longest time between any two acknowledgements
//! around the signal, which is what all writers together felt. Both are of this process's clock alone.

use super::keys;
use super::report::thousands;
use crate::cli::Global;
use crate::cli::dev::fault;
use crate::cli::dev::lab;
use crate::cli::dev::probe::{self, Gap};
use crate::cli::dev::report::{Failover, Fault, millis};
use crate::cli::exit::{self, Failure};
use crate::cli::lab_file::LabFile;
use crate::cli::output::{Format, print};
use crate::client::{Client, Error, Options};
use crate::clock;
use crate::proto::etcdserverpb as pb;
use crate::time::Duration;
use bytes::Bytes;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::task::JoinSet;

/// Visible, and deleted if nothing was lost.
const PREFIX: &str = "_quorate/bench/failover/";
/// Writers on one client: connections enough, and few enough that frames share writes.
const WRITERS_PER_CLIENT: usize = 8;
/// Of a write, with all its tries.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of one try.
const TRY: Duration = Duration::from_millis(500);
/// After the new leader's first acknowledgement the round is watched so long for gaps.
const WATCH_ON: Duration = Duration::from_millis(300);
/// When to give up on a new leader.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// When to give up on a member that should catch up under load.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
/// How often to look.
const LOOK: Duration = Duration::from_millis(5);
/// Lost keys that the report names.
const LOST_SHOWN: usize = 20;

/// `quorate bench failover`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many leaders to kill, one after the other.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Concurrent writers.
    #[arg(long, alias = "writers", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    val_size: usize,
    /// Load between two kills, when all members have caught up.
    #[arg(long, default_value = "1s", value_parser = crate::cli::go_duration::parse)]
    settle: Duration,
    /// Write the report as JSON into this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the benchmark.
///
/// # Errors
/// If there is no healthy lab, a round fails, or an acknowledged write is lost.
pub fn run(global: &Global, args: &Args) -> Result<(), Failure> {
    let json = global.write_out == Format::Json;
    let report = crate::cli::block_on(measure(args))??;
    let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::from)? + "\n";
    if let Some(path) = &args.out {
        std::fs::write(path, &text)
            .map_err(|e| Failure::new(exit::ERROR, format!("can't write the report to {}: {e}", path.display())))?;
    }
    print(if json { text } else { report.text() })?;
    match report.lost {
        0 => Ok(()),
        n => Err(Failure::new(exit::ERROR, format!("{n} acknowledged writes are lost: this must never happen"))
            .fix("leave the lab as it is and report it, with the members' data and logs (quorate dev ps shows where)")),
    }
}

/// One kill.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Round {
    killed: String,
    /// From the signal to the first acknowledgement by a later leader.
    next_ack_ms: f64,
    /// The longest time between two acknowledgements around the signal.
    gap_ms: f64,
    failover: Failover,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Report {
    clients: u32,
    val_size: usize,
    members: usize,
    seconds: f64,
    rounds: Vec<Round>,
    next_ack_ms: Spread,
    gap_ms: Spread,
    acknowledged: u64,
    uncertain: u64,
    refused: u64,
    lost: u64,
    lost_keys: Vec<String>,
    read_back: Vec<String>,
}

/// The middle and the end of a handful of figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Spread {
    median: f64,
    worst: f64,
}

impl Spread {
    /// Of no figures: zeros. The median of an even number is the mean of the two in the middle.
    fn of(figures: impl Iterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let middle = |i: usize| sorted.get(i).copied().unwrap_or_default();
        let half = sorted.len() / 2;
        let even = sorted.len().is_multiple_of(2) && half > 0;
        let median = if even { f64::midpoint(middle(half - 1), middle(half)) } else { middle(half) };
        Spread { median, worst: sorted.last().copied().unwrap_or_default() }
    }
}

/// One acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Ack {
    at: Duration,
    term: u64,
}

/// What the writers share.
struct Load {
    run: String,
    filler: Bytes,
    began: Instant,
    stop: AtomicBool,
    uncertain: AtomicU64,
    refused: AtomicU64,
    /// Since the last round began.
    acks: Mutex<Vec<Ack>>,
}

impl Load {
    fn acks(&self) -> MutexGuard<'_, Vec<Ack>> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, writer: usize, number: usize) -> Bytes {
        format!("{}{writer:05}/{number:08}", self.run).into()
    }

    /// A value of its own for each key, as long as it was asked for (and never shorter than it takes to be its own).
    fn value(&self, writer: usize, number: usize) -> Bytes {
        let mut value = format!("{writer}/{number}/").into_bytes();
        value.extend_from_slice(self.filler.get(value.len()..).unwrap_or_default());
        value.into()
    }
}

/// One write; whether it was acknowledged.
async fn put(load: &Load, client: &Client, writer: usize, number: usize) -> bool {
    let (key, value) = (load.key(writer, number), load.value(writer, number));
    let result = client.put(pb::PutRequest { key, value, ..Default::default() }).await;
    match &result {
        Ok(response) => {
            let at = clock::instant().saturating_duration_since(load.began);
            load.acks().push(Ack { at, term: response.header.map_or(0, |header| header.raft_term) });
        }
        Err(Error::Uncertain(_)) => _ = load.uncertain.fetch_add(1, Ordering::Relaxed),
        Err(Error::Refused(_) | Error::Rejected(_)) => _ = load.refused.fetch_add(1, Ordering::Relaxed),
    }
    result.is_ok()
}

/// Writes, one after the other, until told to stop; returns which of its numbers were acknowledged.
async fn writer(load: Arc<Load>, client: Client, writer: usize) -> Vec<bool> {
    let mut acknowledged = Vec::new();
    while !load.stop.load(Ordering::Relaxed) {
        acknowledged.push(put(&load, &client, writer, acknowledged.len()).await);
    }
    acknowledged
}

/// Sends one more write every [`probe::EVERY`], in turn through `clients`, until told to stop.
async fn pulse(load: Arc<Load>, clients: Vec<Client>, writer: usize) -> Vec<bool> {
    let mut tick = tokio::time::interval(probe::EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sent = JoinSet::new();
    for (number, client) in clients.iter().cycle().enumerate() {
        tick.tick().await;
        if load.stop.load(Ordering::Relaxed) {
            break;
        }
        let (load, client) = (Arc::clone(&load), client.clone());
        sent.spawn(async move { (number, put(&load, &client, writer, number).await) });
    }
    let mut acknowledged = vec![false; sent.len()];
    while let Some(ended) = sent.join_next().await {
        if let Ok((number, done)) = ended {
            acknowledged[number] = done;
        }
    }
    acknowledged
}

/// Starts `count` writers, and the pulse, which is the last writer; each returns its number and what was acknowledged.
fn start_writers(load: &Arc<Load>, lab: &LabFile, count: usize) -> Result<JoinSet<(usize, Vec<bool>)>, Failure> {
    let options = Options { dial_timeout: TRY, command_timeout: PATIENCE, try_timeout: TRY };
    let mut endpoints = lab.endpoints();
    let mut clients = Vec::new();
    for _ in 0..count.div_ceil(WRITERS_PER_CLIENT).max(endpoints.len()) {
        clients.push(Client::new(&endpoints, options)?);
        endpoints.rotate_left(1);
    }
    let mut writers = JoinSet::new();
    for number in 0..count {
        let work = writer(Arc::clone(load), clients[number % clients.len()].clone(), number);
        writers.spawn(async move { (number, work.await) });
    }
    let work = pulse(Arc::clone(load), clients, count);
    writers.spawn(async move { (count, work.await) });
    Ok(writers)
}

async fn measure(args: &Args) -> Result<Report, Failure> {
    let mut lab = lab::running()?;
    let load = Arc::new(Load {
        run: format!("{PREFIX}{:016x}/", clock::entropy().0),
        filler: keys::value(args.val_size),
        began: clock::instant(),
        stop: AtomicBool::new(false),
        uncertain: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        acks: Mutex::new(Vec::new()),
    });
    if lab::living(&lab).count() < lab.nodes.len() || lab.nodes.len() < 3 {
        let what = format!("{} of the lab's {} members run", lab::living(&lab).count(), lab.nodes.len());
        return Err(Failure::new(exit::ERROR, format!("{what}; a failover needs three or more, all up"))
            .fix("quorate dev ps shows who is down, quorate dev start and resume bring them back"));
    }
    let mut writers = start_writers(&load, &lab, args.clients as usize)?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        tokio::time::sleep(args.settle).await;
        let (now, round) = kill_leader(&load, lab).await?;
        lab = now;
        let ack = millis(round.next_ack_ms);
        anstream::eprintln!(
            "round {number} of {}: {} killed, next acknowledged write after {ack}",
            args.rounds,
            round.killed
        );
        rounds.push(round);
    }
    tokio::time::sleep(args.settle).await;
    load.stop.store(true, Ordering::Relaxed);
    let mut acknowledged = vec![Vec::new(); writers.len()];
    while let Some(joined) = writers.join_next().await {
        let (writer, numbers) = joined.map_err(|e| Failure::new(exit::ERROR, format!("a writer failed: {e}")))?;
        acknowledged[writer] = numbers;
    }
    anstream::eprintln!("reading every acknowledged write back from each member");
    let seconds = load.began.elapsed().as_secs_f64();
    let lost = read_back(&lab, &load, &acknowledged).await?;
    Ok(Report {
        clients: args.clients,
        val_size: args.val_size,
        members: lab.nodes.len(),
        seconds,
        next_ack_ms: Spread::of(rounds.iter().map(|round| round.next_ack_ms)),
        gap_ms: Spread::of(rounds.iter().map(|round| round.gap_ms)),
        rounds,
        acknowledged: acknowledged.iter().flatten().filter(|&&done| done).count() as u64,
        uncertain: load.uncertain.load(Ordering::Relaxed),
        refused: load.refused.load(Ordering::Relaxed),
        lost: lost.len() as u64,
        lost_keys: lost.iter().take(LOST_SHOWN).map(show).collect(),
        read_back: lab.nodes.iter().map(|node| node.name.clone()).collect(),
    })
}

/// Kills the leader, waits for the next one's first acknowledgement, and brings the dead one back.
async fn kill_leader(load: &Load, lab: LabFile) -> Result<(LabFile, Round), Failure> {
    let client = lab::client(&lab)?;
    let seen = lab::look(&lab, &client).await;
    let leader = lab::leader(&seen)
        .ok_or_else(|| Failure::new(exit::ERROR, "the lab has no leader to kill").fix("quorate dev ps"))?;
    let (place, term) = (leader.place, leader.status.raft_term);
    let node = lab.nodes[place].clone();
    let cut = load.began.elapsed().saturating_sub(WATCH_ON);
    load.acks().retain(|ack| ack.at >= cut);
    let (lab, at, signal_us) = fault::deliver(&lab, &node, Fault::Kill)?;
    let fell = at.saturating_duration_since(load.began);
    let next = loop {
        let next = first_after(&load.acks(), fell, term);
        match next {
            Some(next) => break next,
            None if load.began.elapsed() > fell + RECOVERY_LIMIT => {
                let what = format!("no write was acknowledged within {RECOVERY_LIMIT:?} of the death of {}", node.name);
                return Err(Failure::new(exit::ERROR, what).fix("quorate status"));
            }
            None => tokio::time::sleep(LOOK).await,
        }
    };
    tokio::time::sleep((next + WATCH_ON).saturating_sub(load.began.elapsed())).await;
    let mut times: Vec<Duration> = load.acks().iter().map(|ack| ack.at).collect();
    times.sort_unstable();
    let gap = probe::longest_gap(&times, fell).unwrap_or(Gap { begin: fell, length: next - fell });
    let failover = fault::failover(&lab, &client, term, signal_us).await.unwrap_or_default();
    let lab = lab::start(&lab, &node.name)?;
    crate::cli::dev::wait_until_caught_up(&lab, place, CATCH_UP_LIMIT).await?;
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let round = Round { killed: node.name, next_ack_ms: ms(next - fell), gap_ms: ms(gap.length), failover };
    Ok((lab, round))
}

/// The first acknowledgement after `fell` by a leader of a later term than `term`.
fn first_after(acks: &[Ack], fell: Duration, term: u64) -> Option<Duration> {
    acks.iter().filter(|ack| ack.at > fell && ack.term > term).map(|ack| ack.at).min()
}

/// The acknowledged keys that some member lacks, or has with another value; deletes all keys if there is none.
async fn read_back(lab: &LabFile, load: &Load, acknowledged: &[Vec<bool>]) -> Result<Lost, Failure> {
    let mut lost = Lost::new();
    for node in &lab.nodes {
        let client = probe::reader(node)?;
        for (writer, done) in acknowledged.iter().enumerate() {
            let mut missing = done.clone();
            let prefix = format!("{}{writer:05}/", load.run);
            let visit = |key: Bytes, value: Bytes| {
                let number = std::str::from_utf8(&key[prefix.len()..]).ok().and_then(|text| text.parse::<usize>().ok());
                if let Some(number) = number.filter(|&number| value == load.value(writer, number))
                    && let Some(missing) = missing.get_mut(number)
                {
                    *missing = false;
                }
            };
            probe::for_each_pair(&client, &prefix, visit).await?;
            let numbers = missing.iter().enumerate().filter(|(_, missing)| **missing).map(|(number, _)| number);
            for number in numbers {
                lost.entry(load.key(writer, number)).or_default().push(node.name.clone());
            }
        }
    }
    if lost.is_empty() {
        let client = probe::reader(&lab.nodes[0])?;
        for writer in 0..acknowledged.len() {
            // Keys that stay behind are visible under their prefix and hurt nobody.
            _ = probe::delete_all(&client, &format!("{}{writer:05}/", load.run)).await;
        }
    }
    Ok(lost)
}

/// Lost keys, each with the members that lack it.
type Lost = BTreeMap<Bytes, Vec<String>>;

fn show((key, members): (&Bytes, &Vec<String>)) -> String {
    format!("{} on {}", String::from_utf8_lossy(key), members.join(" "))
}

impl Report {
    /// For people; ends with a newline.
    fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["ROUND", "KILLED", "NEXT", "TERM", "DETECT", "ELECT", "RECOVER", "NEXT ACK", "GAP"]);
        let step = |ms: Option<f64>| ms.map_or("-".to_owned(), millis);
        for (i, round) in self.rounds.iter().enumerate() {
            let Failover { leader, term, detect_ms, elect_ms, recover_ms, .. } = &round.failover;
            table.add_row([
                (i + 1).to_string(),
                round.killed.clone(),
                leader.clone(),
                term.to_string(),
                step(*detect_ms),
                step(*elect_ms),
                step(*recover_ms),
                millis(round.next_ack_ms),
                millis(round.gap_ms),
            ]);
        }
        for column in table.column_iter_mut().skip(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let lost: String = self.lost_keys.iter().map(|key| format!("  LOST {key}\n")).collect();
        format!(
            "{} kills of the leader under {} writers · {} B values · {} members · {:.0} s\n{}\n\
             SIGKILL to the next acknowledged write: median {}, worst {}\n\
             longest time without one:               median {}, worst {}\n\
             {} acknowledged writes lost ({} acknowledged, read back from {}) · {} uncertain · {} refused\n{lost}",
            self.rounds.len(),
            self.clients,
            self.val_size,
            self.members,
            self.seconds,
            table.trim_fmt(),
            millis(self.next_ack_ms.median),
            millis(self.next_ack_ms.worst),
            millis(self.gap_ms.median),
            millis(self.gap_ms.worst),
            thousands(self.lost),
            thousands(self.acknowledged),
            self.read_back.join(" "),
            thousands(self.uncertain),
            thousands(self.refused),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_middle_and_the_end() {
        let of = |figures: &[f64]| Spread::of(figures.iter().copied());
        assert_eq!(of(&[30.0, 10.0, 20.0]), Spread { median: 20.0, worst: 30.0 });
        assert_eq!(of(&[40.0, 10.0, 20.0, 30.0]), Spread { median: 25.0, worst: 40.0 });
        assert_eq!(of(&[7.0]), Spread { median: 7.0, worst: 7.0 });
        assert_eq!(of(&[]), Spread::default());
    }

    #[test]
    fn answers_of_the_dead_leader_are_no_recovery() {
        let ack = |at, term| Ack { at: Duration::from_millis(at), term };
        let acks = [ack(9, 2), ack(11, 2), ack(60, 3), ack(50, 3)];
        assert_eq!(first_after(&acks, Duration::from_millis(10), 2), Some(Duration::from_millis(50)));
        assert_eq!(first_after(&acks[..2], Duration::from_millis(10), 2), None);
    }

    #[test]
    fn the_report_reads_like_this() {
        let failover = |leader: &str, term, detect_ms| Failover {
            leader: leader.into(),
            term,
            cause: "connection lost".into(),
            detect_ms,
            elect_ms: Some(18.0),
            recover_ms: Some(2.25),
        };
        let rounds = vec![
            Round { killed: "n1".into(), next_ack_ms: 31.4, gap_ms: 33.0, failover: failover("n3", 3, Some(1.5)) },
            Round { killed: "n3".into(), next_ack_ms: 45.0, gap_ms: 1046.0, failover: failover("n2", 4, None) },
        ];
        let report = Report {
            clients: 64,
            val_size: 256,
            members: 3,
            seconds: 7.9,
            next_ack_ms: Spread::of(rounds.iter().map(|round| round.next_ack_ms)),
            gap_ms: Spread::of(rounds.iter().map(|round| round.gap_ms)),
            rounds,
            acknowledged: 41_234,
            uncertain: 96,
            refused: 0,
            lost: 0,
            lost_keys: Vec::new(),
            read_back: ["n1", "n2", "n3"].map(String::from).into(),
        };
        let expected = "\
2 kills of the leader under 64 writers · 256 B values · 3 members · 8 s
 ROUND  KILLED  NEXT  TERM  DETECT  ELECT  RECOVER  NEXT ACK       GAP
 1      n1      n3       3  1.5 ms  18 ms   2.2 ms     31 ms     33 ms
 2      n3      n2       4       -  18 ms   2.2 ms     45 ms  1 046 ms
SIGKILL to the next acknowledged write: median 38 ms, worst 45 ms
longest time without one:               median 540 ms, worst 1 046 ms
0 acknowledged writes lost (41 234 acknowledged, read back from n1 n2 n3) · 96 uncertain · 0 refused
";
        assert_eq!(report.text(), expected);
        let lost = Report { lost: 1, lost_keys: vec!["k on n2".into()], ..report }.text();
        assert!(lost.ends_with("\n  LOST k on n2\n"), "{lost}");
    }
}

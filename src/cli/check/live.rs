//! `quorate check live`: a history of a cluster that is broken on purpose.
//!
//! A lab of its own is started (real processes, as `quorate dev` does), clients write to it and write down what they see,
//! and meanwhile, from a seeded schedule, one member after the other (every second time the leader) is killed, frozen or
//! stopped, comes back and catches up. Then everything is read from each member, and the judge is asked about all of it.
//! The seed fixes the schedule and what clients ask, not what the operating system makes of it.
//!
//! With `--endpoints` the cluster is somebody's: nothing is broken there, the keys have a prefix of their own and are
//! deleted again, and the judge knows that others write too.
//!
//! What is left of a run that kept its word is nothing; of one that did not, the members' data and logs and the history.

use super::SearchArgs;
use super::clients::{self, Recorder};
use super::report::Judged;
use crate::check::history::{Call, Operation, Outcome, Reply};
use crate::check::{self, Options};
use crate::cli::Global;
use crate::cli::dev::lab::{self, Wanted};
use crate::cli::dev::probe;
use crate::cli::dev::report::{Fault, millis};
use crate::cli::dev::supervise::{self, Ends};
use crate::cli::dev::{self, fault};
use crate::cli::exit::{self, Failure};
use crate::cli::lab_file::LabFile;
use crate::cli::output::{Format, plural, print};
use crate::clock;
use crate::proto::etcdserverpb as pb;
use crate::rng::{self, Rng, Seed};
use crate::time::Duration;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinSet;

/// The lab's first client port, if it is free.
const PORT: u16 = 2379;
/// Load between two faults, when all members have caught up: from, to.
const SETTLE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(1200));
/// How long a member stays down: around the election timeout of 1 s, so that a pause is sometimes noticed.
const HOLD: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(2500));
/// Of the keys in somebody's cluster: visible, and deleted at the end.
const PREFIX: &str = "_quorate/check/";
/// When to give up on a member that should catch up under load.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

/// `quorate check live`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate check live --duration 30s\n  quorate check live --faults kill --nodes 5 -w json\n  \
    quorate check live --endpoints 10.0.0.1:2379 --record history.jsonl\n\n\
    Ctrl-C ends the recording; what was seen so far is judged.\n\
    Exit code: 0 if the store kept its word, 1 if not, 2 if there is no connection."
)]
pub struct Args {
    /// How long clients write, as 500ms, 30s, 5m.
    #[arg(long, value_parser = crate::cli::go_duration::parse, default_value = "30s")]
    duration: Duration,
    /// What is done to members, in turn [default: kill,pause,stop].
    #[arg(long, value_name = "FAULTS", value_delimiter = ',', value_enum)]
    faults: Option<Vec<Fault>>,
    /// Concurrent clients.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// Members of the lab.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Write the history into this file.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Of the schedule of faults and of what clients ask [default: drawn by chance, and told].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    search: SearchArgs,
}

/// A fault that happened.
struct Inflicted {
    fault: Fault,
    /// In nanoseconds of the recording.
    at: u64,
}

/// A finished recording.
struct Recording {
    history: Vec<Operation>,
    faults: Vec<Inflicted>,
    /// Who was read at the end.
    read: Vec<String>,
    /// Who could not be, and why.
    unread: Vec<(String, String)>,
}

/// Runs the command.
///
/// # Errors
/// If the store broke its word, or nothing could be learnt.
pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let run =
        Run { json: global.write_out == Format::Json, seed: args.seed.unwrap_or_else(|| clock::entropy().0), args };
    // A file that can't be written is found out before the work is done.
    if let Some(path) = &run.args.record {
        write_history(path, &[])?;
    }
    let mut ends = Ends::listen()?;
    let given: Vec<String> = global.endpoints.iter().filter(|endpoint| !endpoint.is_empty()).cloned().collect();
    if given.is_empty() { run.own_lab(&mut ends).await } else { run.others(global, given, &mut ends).await }
}

/// As on the command line.
fn word(fault: Fault) -> String {
    format!("{fault:?}").to_lowercase()
}

fn say(text: impl AsRef<str>) {
    anstream::eprintln!("  {}", text.as_ref());
}

/// Until `time` is over, or a signal comes first: then true.
async fn interrupted(ends: &mut Ends, time: Duration) -> bool {
    tokio::select! {
        () = ends.next() => true,
        () = tokio::time::sleep(time) => false,
    }
}

struct Run {
    args: Args,
    seed: u64,
    json: bool,
}

impl Run {
    /// A lab that lives as long as the command.
    async fn own_lab(&self, ends: &mut Ends) -> Result<(), Failure> {
        let wanted = Wanted {
            members: usize::from(self.args.nodes),
            port: PORT,
            keep: Some(format!("check-{}", clock::unix_micros())),
            flags: Vec::new(),
            detached: false,
        };
        let lab = lab::create(&wanted, &mut |text: String| say(text))?;
        let guard = supervise::start_guard(&lab);
        let ready = tokio::select! {
            ready = dev::ready(&lab) => ready.map(Some),
            () = ends.next() => Ok(None),
        };
        let (judged, keep) = match ready {
            Ok(Some((ready, _))) => {
                let judged = self.in_lab(ready, &lab.dir, ends).await;
                // Whatever went wrong, the members' logs may say why.
                let keep = judged.is_err();
                (judged, keep)
            }
            Ok(None) => (Err(Failure::new(exit::ERROR, "interrupted before the lab was ready")), false),
            Err(failure) => (Err(failure), true),
        };
        lab::end(&lab, !keep, ends.next()).await?;
        if let Ok(mut guard) = guard {
            drop(guard.stdin.take());
            guard.wait()?;
        }
        if keep {
            say(format!("the members' data and logs stay in {}", lab.dir.display()));
        }
        judged
    }

    async fn in_lab(&self, lab: LabFile, dir: &Path, ends: &mut Ends) -> Result<(), Failure> {
        let all = || vec![Fault::Kill, Fault::Pause, Fault::Stop];
        let faults = self.args.faults.clone().unwrap_or_else(all);
        let names: Vec<String> = lab.nodes.iter().map(|node| node.name.clone()).collect();
        let endpoints: Vec<(String, String)> = names.into_iter().zip(lab.endpoints()).collect();
        let recorder = Arc::new(Recorder::new(String::new()));
        let load = self.load(&recorder, &lab.endpoints())?;
        let broken = self.break_members(lab, &faults, &recorder, ends).await;
        recorder.stop();
        load.join_all().await;
        let recording = finish(&recorder, broken?, &endpoints).await;
        if self.publish(&recording, false)? {
            return Ok(());
        }
        let history = dir.join("history.jsonl");
        write_history(&history, &recording.history)?;
        Err(Failure::new(exit::ERROR, "the store broke its word: this must never happen")
            .fix(format!("report it with {}, beside which are the members' data and logs", history.display())))
    }

    /// Somebody's cluster: no faults, keys of our own.
    async fn others(&self, global: &Global, endpoints: Vec<String>, ends: &mut Ends) -> Result<(), Failure> {
        if self.args.faults.is_some() {
            return Err(Failure::new(
                exit::BAD_ARGS,
                "--faults: a cluster given by --endpoints is not broken on purpose",
            )
            .fix("leave out --faults, or leave out --endpoints (and QUORATE_ENDPOINTS) for a lab of its own"));
        }
        let prefix = format!("{PREFIX}{:016x}/", clock::entropy().0);
        // Whoever does not answer at all, or wants what we don't have, is found out before the work is done.
        global.client()?.range(pb::RangeRequest { key: prefix.clone().into(), ..Default::default() }).await?;
        let (clients, duration) = (plural(u64::from(self.args.clients), "client"), self.args.duration);
        say(format!("{clients} for {duration:?} at {}, under {prefix}; nothing is broken there", endpoints.join(" ")));
        let recorder = Arc::new(Recorder::new(prefix.clone()));
        let load = self.load(&recorder, &endpoints)?;
        interrupted(ends, self.args.duration).await;
        recorder.stop();
        load.join_all().await;
        let named: Vec<(String, String)> = endpoints.iter().map(|name| (name.clone(), name.clone())).collect();
        let recording = finish(&recorder, Vec::new(), &named).await;
        if !self.publish(&recording, true)? {
            return Err(Failure::new(exit::ERROR, "the store broke its word")
                .fix(format!("record it (--record FILE); the keys stay under {prefix}")));
        }
        for client in clients::clients(&endpoints, 1)? {
            // Keys that stay behind are visible under their prefix and hurt nobody.
            _ = probe::delete_all(&client, &prefix).await;
        }
        Ok(())
    }

    /// Starts the clients.
    fn load(&self, recorder: &Arc<Recorder>, endpoints: &[String]) -> Result<JoinSet<()>, Failure> {
        let mut load = JoinSet::new();
        for (number, client) in (0..).zip(clients::clients(endpoints, self.args.clients as usize)?) {
            let (recorder, seed) = (Arc::clone(recorder), Seed(rng::mix(self.seed ^ rng::mix(number))));
            load.spawn(async move { recorder.client(client, seed).await });
        }
        Ok(load)
    }

    /// Does one fault after the other until the time is over; afterwards all members are up.
    async fn break_members(
        &self,
        mut lab: LabFile,
        faults: &[Fault],
        recorder: &Recorder,
        ends: &mut Ends,
    ) -> Result<Vec<Inflicted>, Failure> {
        let mut rng = Rng::new(Seed(self.seed));
        let mut inflicted = Vec::new();
        let client = lab::client(&lab)?;
        let until = clock::instant() + self.args.duration;
        let left = || until.saturating_duration_since(clock::instant());
        let (members, clients) = (lab.nodes.len() as u64, u64::from(self.args.clients));
        say(format!(
            "{}, {}, for {:?}, --seed {}",
            plural(members, "member"),
            plural(clients, "client"),
            self.args.duration,
            self.seed
        ));
        for fault in faults.iter().copied().cycle() {
            let settle = rng.duration(SETTLE.0, SETTLE.1).min(left());
            let (some, leads) = (rng.below(lab.nodes.len() as u64) as usize, rng.below(2) == 0);
            let hold = rng.duration(HOLD.0, HOLD.1);
            if interrupted(ends, settle).await || left().is_zero() {
                break;
            }
            let seen = lab::look(&lab, &client).await;
            let leader = lab::leader(&seen).map(|leader| leader.place);
            let place = leader.filter(|_| leads).unwrap_or(some);
            let (node, role) = (lab.nodes[place].clone(), if leader == Some(place) { "leader" } else { "follower" });
            inflicted.push(Inflicted { fault, at: recorder.now() });
            say(format!("{:>5.1} s  {} {} ({role})", recorder.now() as f64 / 1e9, word(fault), node.name));
            lab = fault::deliver(&lab, &node, fault)?.0;
            let stop = interrupted(ends, hold).await;
            lab = fault::undo(&lab, &node.name, fault).await?;
            dev::wait_until_caught_up(&lab, place, CATCH_UP_LIMIT).await?;
            if stop {
                break;
            }
        }
        // Without faults there is only the time to wait for.
        if faults.is_empty() {
            interrupted(ends, left()).await;
        }
        Ok(inflicted)
    }

    /// Judges and prints; whether the store kept its word.
    fn publish(&self, recording: &Recording, shared: bool) -> Result<bool, Failure> {
        let Recording { history, faults, read, unread } = recording;
        if let Some(path) = &self.args.record {
            write_history(path, history)?;
        }
        let search_states = self.args.search.search_states;
        let verdict = check::judge(history, Options { shared, search_states_max: search_states });
        let judged = Judged { verdict: &verdict, operations: history, shared, search_states };
        let kept = verdict.is_kept();
        let gaps = gaps(history, faults);
        if self.json {
            let gaps: Vec<_> = gaps
                .iter()
                .map(|(fault, gap)| json!({ "fault": fault, "times": gap.times, "longest_gap_ms": gap.longest_ms }))
                .collect();
            let lost = (kept && !read.is_empty()).then_some(0);
            let document = json!({ "verdict": judged.json(None), "seed": self.seed, "faults": gaps,
                "lost_acknowledged_writes": lost, "read_back": read, "unread": unread });
            print(format!("{document}\n"))?;
        } else {
            let mut out = judged.text(&|place| format!("operation {}", place + 1));
            for (fault, Gap { times, longest_ms }) in &gaps {
                let longest = longest_ms.map_or("no write was acknowledged afterwards".to_owned(), |ms| {
                    format!("at most {} without an acknowledged write", millis(ms))
                });
                let _ = writeln!(out, "  {times} × {}: {longest}", word(*fault));
            }
            for (name, why) in unread {
                let _ = writeln!(out, "  not read at the end: {name}: {why}");
            }
            if kept && !read.is_empty() {
                let _ = writeln!(out, "  0 acknowledged writes lost (read back from {})", read.join(" "));
            }
            print(out)?;
        }
        if read.is_empty() {
            return Err(Failure::new(exit::ERROR, "no member could be read at the end").fix("quorate status"));
        }
        Ok(kept)
    }
}

/// Reads everything from every member.
async fn finish(recorder: &Recorder, faults: Vec<Inflicted>, endpoints: &[(String, String)]) -> Recording {
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    for (name, endpoint) in endpoints {
        match recorder.read_all(endpoint).await {
            Ok(()) => read.push(name.clone()),
            Err(why) => unread.push((name.clone(), why)),
        }
    }
    Recording { history: recorder.take(), faults, read, unread }
}

/// What faults of one kind did to writers.
#[derive(Debug, Default, PartialEq)]
struct Gap {
    times: usize,
    /// The longest time between two acknowledged writes around one of them, up to the next fault; milliseconds.
    longest_ms: Option<f64>,
}

fn gaps(history: &[Operation], faults: &[Inflicted]) -> BTreeMap<Fault, Gap> {
    let is_write = |operation: &&Operation| {
        matches!((&operation.call, &operation.outcome), (Call::Put { .. }, Outcome::Done { reply: Reply::Put, .. }))
    };
    let mut acknowledged: Vec<u64> = history.iter().filter(is_write).map(|operation| operation.returned).collect();
    acknowledged.sort_unstable();
    let mut gaps: BTreeMap<Fault, Gap> = BTreeMap::new();
    for (number, Inflicted { fault, at }) in faults.iter().enumerate() {
        let next = faults.get(number + 1).map_or(u64::MAX, |next| next.at);
        let times: Vec<Duration> =
            acknowledged.iter().take_while(|time| **time < next).map(|time| Duration::from_nanos(*time)).collect();
        let longest = probe::longest_gap(&times, Duration::from_nanos(*at));
        let gap = gaps.entry(*fault).or_default();
        gap.times += 1;
        let ms = longest.map(|gap| gap.length.as_secs_f64() * 1000.0);
        gap.longest_ms = [gap.longest_ms, ms].into_iter().flatten().reduce(f64::max);
    }
    gaps
}

fn write_history(path: &Path, history: &[Operation]) -> Result<(), Failure> {
    let mut text = String::new();
    for operation in history {
        text += &serde_json::to_string(operation).map_err(std::io::Error::from)?;
        text.push('\n');
    }
    std::fs::write(path, text)
        .map_err(|e| Failure::new(exit::ERROR, format!("can't write the history to {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_of_a_kind_is_its_worst_up_to_the_next_fault() {
        let ack = |ms: u64| Operation {
            client: 1,
            invoked: 0,
            returned: ms * 1_000_000,
            call: Call::Put { key: "a".into(), value: ms.to_string() },
            outcome: Outcome::Done { revision: 2, reply: Reply::Put },
        };
        let history: Vec<Operation> = [10, 40, 50, 55, 155, 160, 170].map(ack).into();
        let at = |fault, ms: u64| Inflicted { fault, at: ms * 1_000_000 };
        let faults = [at(Fault::Kill, 20), at(Fault::Stop, 52), at(Fault::Kill, 158), at(Fault::Pause, 180)];
        let gap = |times, longest_ms| Gap { times, longest_ms };
        let expected =
            [(Fault::Kill, gap(2, Some(30.0))), (Fault::Stop, gap(1, Some(100.0))), (Fault::Pause, gap(1, None))];
        assert_eq!(gaps(&history, &faults), expected.into());
    }
}

//! `quorate dev`: a local cluster of real processes, to use, to break, and to watch recover.
//!
//! The members are what production runs: processes of `quorate serve` with their own ports, data and logs, and nothing
//! simulated. `quorate dev` starts them (`lab.rs`, `process.rs`, `ports.rs`) and watches them in the foreground
//! (`supervise.rs`); from any other terminal `quorate dev kill n1` and its like act on them through the lab's file. What a
//! fault does to writers is measured by a prober (`probe.rs`, `fault.rs`) and told as it was (`report.rs`).
//!
//! Left out: partitions, slow disks and slow networks (real processes on one machine have no switch for them), several
//! labs at once, a full-screen view.

pub(in crate::cli) mod fault;
pub(in crate::cli) mod lab;
pub(in crate::cli) mod ports;
pub(in crate::cli) mod probe;
pub(in crate::cli) mod process;
pub(in crate::cli) mod report;
pub(in crate::cli) mod supervise;

use super::Global;
use super::exit::{self, Failure};
use super::lab_file::{LabFile, LabNode, LabState};
use super::output::{Format, print};
use crate::clock;
use crate::time::Duration;
use comfy_table::{Table, presets};
use lab::{Seen, Wanted};
use report::Fault;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use supervise::Ends;

/// How long a lab, or a member that is started again, may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How often the members are asked meanwhile.
const READY_LOOK: Duration = Duration::from_millis(20);
/// How often `logs -f` looks for more.
const FOLLOW: Duration = Duration::from_millis(100);

/// `quorate dev`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:\n  quorate dev\n  quorate dev -n 5 --keep mine --detach\n  \
    quorate dev kill leader\n  quorate dev start n1\n  quorate dev down")]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    start: StartArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct StartArgs {
    /// How many members.
    #[arg(short = 'n', long = "members", value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u8).range(1..=ports::MEMBERS_MAX as i64))]
    members: u8,
    /// The first member's client port; the others follow at +20000, +30000 ..., peers one above. Moves if taken.
    #[arg(long, default_value_t = 2379, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Keep the data under this name, or go on with those that were kept.
    #[arg(long, value_name = "NAME", value_parser = keep_name)]
    keep: Option<String>,
    /// Leave the lab running in the background; `quorate dev down` ends it.
    #[arg(long)]
    detach: bool,
    /// Of every member: milliseconds between a leader's heartbeats.
    #[arg(long, value_name = "MS")]
    heartbeat_interval: Option<u32>,
    /// Of every member: milliseconds without a leader before an election.
    #[arg(long, value_name = "MS")]
    election_timeout: Option<u32>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// The members: state, role, process, address.
    Ps,
    /// SIGKILL a member (or `leader`, `follower`), and measure what that does to writes.
    Kill(Name),
    /// SIGTERM a member, so that it ends in good order, and measure.
    Stop(Name),
    /// SIGSTOP a member: it freezes with its connections open; and measure.
    Pause(Name),
    /// Start members that are down.
    Start {
        /// n1, n2, ...
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// SIGCONT a paused member.
    Resume(Name),
    /// A member's log.
    Logs {
        /// n1, n2, ..., leader or follower.
        name: String,
        /// Go on as it grows.
        #[arg(short, long)]
        follow: bool,
    },
    /// End the lab.
    Down {
        /// Delete the data even if they were kept.
        #[arg(long)]
        purge: bool,
    },
    #[command(hide = true)]
    Guard { started_unix_us: u64 },
}

#[derive(Clone, Debug, clap::Args)]
struct Name {
    /// n1, n2, ..., leader or follower.
    name: String,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> ExitCode {
    let json = global.write_out == Format::Json;
    let work = async {
        match args.verb {
            None => up(args.start).await,
            Some(Verb::Ps) => ps(json).await,
            Some(Verb::Kill(member)) => measured(&member.name, Fault::Kill, json).await,
            Some(Verb::Stop(member)) => measured(&member.name, Fault::Stop, json).await,
            Some(Verb::Pause(member)) => measured(&member.name, Fault::Pause, json).await,
            Some(Verb::Start { names }) => start(&names).await,
            Some(Verb::Resume(member)) => resume(&member.name).await,
            Some(Verb::Logs { name, follow }) => logs(&name, follow).await,
            Some(Verb::Down { purge }) => down(purge).await,
            Some(Verb::Guard { started_unix_us }) => supervise::guard(started_unix_us).await,
        }
    };
    exit::finish(super::block_on(work).and_then(|result| result))
}

async fn up(args: StartArgs) -> Result<(), Failure> {
    let began = clock::instant();
    let flag = |name: &str, value: Option<u32>| value.map(|value| format!("--{name}={value}"));
    let flags = [flag("heartbeat-interval", args.heartbeat_interval), flag("election-timeout", args.election_timeout)];
    let wanted = Wanted {
        members: usize::from(args.members),
        port: args.port,
        keep: args.keep,
        flags: flags.into_iter().flatten().collect(),
        detached: args.detach,
    };
    let mut say = |text: String| anstream::eprintln!("  {text}");
    // Before the first member: a Ctrl-C that comes while they start must end them.
    let mut ends = Ends::listen()?;
    let lab = lab::create(&wanted, &mut say)?;
    let guard = if args.detach { None } else { Some(supervise::start_guard(&lab)?) };
    let result = tokio::select! {
        ready = ready(&lab) => ready,
        () = ends.next() => Err(Failure::new(exit::ERROR, "interrupted before the lab was ready")),
    };
    match result {
        Ok((lab, seen)) => {
            // The lab is there whether anybody reads of it or not.
            _ = print(banner(&lab, &seen, began.elapsed()));
            if args.detach {
                return Ok(());
            }
            if supervise::watch(lab.clone(), &mut ends, &mut say).await? {
                say("ending the lab (once more: at once)".to_owned());
                lab::end(&lab, false, ends.next()).await?;
            } else {
                say("the lab was ended from another terminal".to_owned());
            }
        }
        Err(failure) => {
            lab::end(&lab, false, ends.next()).await?;
            return Err(failure);
        }
    }
    if let Some(mut guard) = guard {
        drop(guard.stdin.take());
        guard.wait()?;
    }
    Ok(())
}

/// Waits until all members know one leader; they are running then.
pub(in crate::cli) async fn ready(lab: &LabFile) -> Result<(LabFile, Vec<Seen>), Failure> {
    let client = lab::client(lab)?;
    let began = clock::instant();
    loop {
        let seen = lab::look(lab, &client).await;
        let leader = lab::leader(&seen).map(Seen::id);
        if seen.len() == lab.nodes.len() && seen.iter().all(|seen| Some(seen.status.leader) == leader) {
            return Ok((lab::change(lab, |lab| lab.nodes.iter_mut().for_each(is_up))?, seen));
        }
        if let Some(dead) = lab.nodes.iter().find(|node| !process::is_running(node)) {
            let what = supervise::obituary(dead);
            return Err(Failure::new(exit::ERROR, format!("the lab can't start: {what}")));
        }
        if began.elapsed() > READY_LIMIT {
            let what = format!(
                "the lab has no leader after {READY_LIMIT:?}; what its members say is in {}",
                lab.dir.display()
            );
            return Err(Failure::new(exit::ERROR, what).fix("quorate dev --keep NAME keeps the logs"));
        }
        tokio::time::sleep(READY_LOOK).await;
    }
}

fn is_up(node: &mut LabNode) {
    if node.state == LabState::Starting {
        node.state = LabState::Running;
    }
}

fn banner(lab: &LabFile, seen: &[Seen], took: Duration) -> String {
    let fate = if lab::is_throwaway(lab) { "deleted at the end; --keep NAME keeps them" } else { "kept" };
    let mut out = format!(
        "\n  quorate {}  {}-member cluster, data in {} ({fate})\n\n",
        env!("CARGO_PKG_VERSION"),
        lab.nodes.len(),
        lab.dir.display()
    );
    let bold = anstyle::Style::new().bold();
    let leader = lab::leader(seen);
    for (place, node) in lab.nodes.iter().enumerate() {
        let at = format!("{:<16} pid {}", lab::endpoint(node), node.pid);
        out += &match leader.filter(|leader| leader.place == place) {
            Some(leader) => {
                format!("  {}  {bold}● leader{bold:#}    {at}   term {}\n", node.name, leader.status.raft_term)
            }
            None => format!("  {}  ○ follower  {at}\n", node.name),
        };
    }
    out += &format!("  ready in {:.2} s\n\n", took.as_secs_f64());
    out += "  try    quorate put hello world  ·  quorate get hello  ·  quorate status  ·  quorate dev kill leader\n";
    out += &format!("         etcdctl --endpoints {} put a b\n", lab.endpoints().join(","));
    out += match lab.pid {
        0 => "  end    quorate dev down\n\n",
        _ => "  end    Ctrl-C\n\n",
    };
    out
}

async fn measured(name: &str, fault: Fault, json: bool) -> Result<(), Failure> {
    let report = fault::inflict(lab::running()?, name, fault).await?;
    if json {
        print(serde_json::to_string(&report).map_err(std::io::Error::from)? + "\n")?;
    } else {
        print(report.text())?;
    }
    match report.lost.len() {
        0 => Ok(()),
        n => Err(Failure::new(exit::ERROR, format!("{n} acknowledged writes are lost: this must never happen"))
            .fix("leave the lab as it is and report it, with the members' data and logs (quorate dev ps shows where)")),
    }
}

async fn start(names: &[String]) -> Result<(), Failure> {
    let mut lab = lab::running()?;
    let places: Vec<usize> = names.iter().map(|name| lab::resolve(&lab, &[], name)).collect::<Result<_, _>>()?;
    // One that runs already keeps no other from being started, and is still an error.
    let mut result = Ok(());
    let mut started = Vec::new();
    for place in places {
        match lab::start(&lab, &lab.nodes[place].name) {
            Ok(changed) => {
                lab = changed;
                started.push(place);
            }
            Err(failure) => result = result.and(Err(failure)),
        }
    }
    for place in started {
        caught_up(&lab, place, "started").await?;
    }
    result
}

async fn resume(name: &str) -> Result<(), Failure> {
    let lab = lab::running()?;
    let place = lab::resolve(&lab, &[], name)?;
    let node = &lab.nodes[place];
    match fault::resume(&lab, node)? {
        Some(lab) => caught_up(&lab, place, "resumed").await,
        None => {
            let what = format!("{} is not paused, it is {}", node.name, lab::word(node.state));
            let failure = Failure::new(exit::ERROR, what);
            Err(if process::is_running(node) { failure } else { failure.fix(format!("quorate dev start {name}")) })
        }
    }
}

/// Waits until a member has all that its leader had when it was asked first, and says so.
async fn caught_up(lab: &LabFile, place: usize, verb: &str) -> Result<(), Failure> {
    let began = clock::instant();
    let node = &lab.nodes[place];
    let named = format!("{} {verb} (pid {})", node.name, node.pid);
    match wait_until_caught_up(lab, place, READY_LIMIT).await? {
        Some(seen) => {
            let role = if seen.leads() { "leader" } else { "follower" };
            let ms = report::millis(began.elapsed().as_secs_f64() * 1000.0);
            print(format!("{named}: {role} in term {}, caught up in {ms}\n", seen.status.raft_term))
        }
        None => {
            let (running, members) = (lab::living(lab).count(), lab.nodes.len());
            let needed = members / 2 + 1;
            print(format!("{named}: {running} of {members} members run, {needed} are needed for a leader\n"))
        }
    }
}

/// The member's status once it has applied what its leader had when it was asked first; `None` if there can be no leader.
///
/// # Errors
/// If it ends on its own, or takes longer than `limit`.
pub(in crate::cli) async fn wait_until_caught_up(
    lab: &LabFile,
    place: usize,
    limit: Duration,
) -> Result<Option<Seen>, Failure> {
    let client = lab::client(lab)?;
    let (node, began) = (&lab.nodes[place], clock::instant());
    let mut goal = None;
    loop {
        let seen = lab::look(lab, &client).await;
        goal = goal.or(lab::leader(&seen).map(|leader| leader.status.raft_index));
        let own = seen.into_iter().find(|seen| seen.place == place && seen.status.leader != 0);
        if let Some(own) = own.filter(|own| goal.is_some_and(|goal| own.status.raft_applied_index >= goal)) {
            lab::change(lab, |lab| is_up(&mut lab.nodes[place]))?;
            return Ok(Some(own));
        }
        if !process::is_running(node) {
            return Err(Failure::new(exit::ERROR, supervise::obituary(node)));
        }
        if lab::living(lab).count() <= lab.nodes.len() / 2 {
            return Ok(None);
        }
        if began.elapsed() > limit {
            let what = format!("{} (pid {}) runs but has not caught up within {limit:?}", node.name, node.pid);
            return Err(Failure::new(exit::ERROR, what).fix(format!("quorate dev logs {}", node.name)));
        }
        tokio::time::sleep(READY_LOOK).await;
    }
}

async fn ps(json: bool) -> Result<(), Failure> {
    let lab = lab::running()?;
    let seen = lab::look(&lab, &lab::client(&lab)?).await;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["NAME", "STATE", "ROLE", "TERM", "PID", "CLIENTS", "PEERS", "LOG"]);
    let mut rows = Vec::new();
    for (place, node) in lab.nodes.iter().enumerate() {
        let running = process::is_running(node);
        let answer = seen.iter().find(|seen| seen.place == place);
        let state = match node.state {
            // Nobody may have been there to note its end.
            LabState::Running | LabState::Starting | LabState::Paused if !running => LabState::Exited,
            state => state,
        };
        let role = answer.map_or("-", |seen| if seen.leads() { "leader" } else { "follower" });
        let dash = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
        let term = answer.map(|seen| seen.status.raft_term);
        let pid = running.then_some(u64::from(node.pid));
        table.add_row([
            node.name.clone(),
            lab::word(state).to_owned(),
            role.to_owned(),
            dash(term),
            dash(pid),
            lab::endpoint(node).to_owned(),
            node.peer_url.trim_start_matches("http://").to_owned(),
            node.log_path.display().to_string(),
        ]);
        rows.push(serde_json::json!({
            "name": node.name, "state": state, "role": role, "term": term, "pid": pid, "client_url": node.client_url,
            "peer_url": node.peer_url, "data_dir": node.data_dir, "log_path": node.log_path,
        }));
    }
    if json { print(format!("{}\n", serde_json::Value::Array(rows))) } else { print(table.trim_fmt() + "\n") }
}

async fn logs(name: &str, follow: bool) -> Result<(), Failure> {
    let lab = lab::running()?;
    let seen = lab::look(&lab, &lab::client(&lab)?).await;
    let node = &lab.nodes[lab::resolve(&lab, &seen, name)?];
    let mut log = std::fs::File::open(&node.log_path)
        .map_err(|e| Failure::new(exit::ERROR, format!("{}: {e}", node.log_path.display())))?;
    let mut out = std::io::stdout().lock();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match log.read(&mut buffer)? {
            0 if !follow => return Ok(()),
            0 => tokio::time::sleep(FOLLOW).await,
            n => {
                out.write_all(&buffer[..n])?;
                out.flush()?;
            }
        }
    }
}

async fn down(purge: bool) -> Result<(), Failure> {
    let lab = lab::running()?;
    lab::end(&lab, purge, std::future::pending()).await?;
    let data = if purge || lab::is_throwaway(&lab) { "deleted" } else { "kept" };
    print(format!("the lab is down, its data in {} are {data}\n", lab.dir.display()))
}

/// A name that is one directory beside the throwaway lab's.
fn keep_name(name: &str) -> Result<String, String> {
    let lawful = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match name {
        lab::THROWAWAY => Err(format!("{name} is the lab whose data are deleted: give another name")),
        "" => Err("give a name".to_owned()),
        _ if name.chars().all(lawful) => Ok(name.to_owned()),
        _ => Err("give a name of letters, digits, - and _".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_lab_has_a_name_that_is_no_path() {
        assert_eq!(keep_name("my-lab_2").as_deref(), Ok("my-lab_2"));
        for name in ["", "default", "..", "a/b", "a b"] {
            assert!(keep_name(name).is_err(), "{name:?}");
        }
    }
}

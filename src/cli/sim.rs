//! `quorate sim`: runs clusters in a simulated world, by seed.
//!
//! A seed is a whole cluster with a plan of what goes wrong; the same seed is the same run, on every machine. What is found is
//! told as a line that shows it again. Nothing here knows what a law is: it draws plans, runs them on all cores, and counts.
//! What they came to is said in `report.rs`.

mod report;

use super::Global;
use super::exit::{self, Failure};
use super::output::{Format, plural, print};
use crate::clock;
use crate::rng::mix;
use crate::sim::exhaust::{self, Scope};
use crate::sim::laws::Law;
use crate::sim::plan::{Kind, MAX_NODES, Plan, Profile, Wishes};
use crate::sim::{self, Options, shrink};
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use report::{Broken, Sums};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a plan is run to find a smaller one that breaks the same law.
const SHRINK_RUNS: u32 = 600;

/// The exit code of what a shell's user has interrupted.
const INTERRUPTED: i32 = 130;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Raft alone: fast.
    Core,
    /// Whole members: log, machine, requests.
    Full,
    /// Seven seeds of eight the core, the eighth whole members.
    Both,
}

const EXAMPLES: &str = "Examples:
  quorate sim                              400 clusters: some seconds
  quorate sim --minutes 5 --until-failure  as long as it goes well; Ctrl-C ends it
  quorate sim --seed 17                    one cluster
  quorate sim --seed 17 --trace 200        and the last 200 things that happened
  quorate sim --seed 17 --print-plan > plan; quorate sim --plan plan
  quorate sim --faults crash,loss,slow --nodes 5
  quorate sim --fierce --seeds 2000
  quorate sim --fierce --profile full --more members,leader
  quorate sim --exhaustive elections=2,writes=1

A law is what must hold whatever goes wrong: one leader a term, nothing that was
acknowledged is lost, every answer is linearizable, and so on (--law-off has all
names). The same seed with the same flags is the same run, on every machine.

Exit code: 0 if every law was kept, 1 if one was broken, 128 if the command line
or a plan can't be read.";

/// Run clusters in a simulated world, with every fault there is, and check that they keep their word.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("one").args(["seed", "plan"]))]
pub struct Args {
    /// How much of a member is simulated.
    #[arg(long, value_enum, default_value_t = Which::Both)]
    profile: Which,
    /// Run this one seed.
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "from", "minutes", "until_failure", "jobs"])]
    seed: Option<u64>,
    /// How many seeds to run, one cluster each.
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed [default: drawn by chance, and told].
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// Go on for so many minutes of this machine's time, instead of --seeds.
    #[arg(long, value_name = "N", value_parser = minutes, conflicts_with = "seeds")]
    minutes: Option<Duration>,
    /// Stop at the first broken law.
    #[arg(long)]
    until_failure: bool,
    /// How many clusters are run side by side [default: one a core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Not a day of a cluster's life but its worst hour: short timers, and trouble upon trouble.
    #[arg(long)]
    fierce: bool,
    /// Clusters of this size, 1 to 9 [default: 1 to 7, by the seed].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=MAX_NODES as i64))]
    nodes: Option<u8>,
    /// Only trouble of these kinds, comma separated.
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = kinds())]
    faults: Option<Vec<Kind>>,
    /// No trouble of these kinds.
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = kinds(), hide_possible_values = true)]
    without: Vec<Kind>,
    /// Much trouble of these kinds, whatever the seed says.
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = kinds(), hide_possible_values = true)]
    more: Vec<Kind>,
    /// How long trouble lasts, in simulated time, as 500ms, 30s, 5m [default: 15s to 45s, by the seed; a few if --fierce].
    #[arg(long, value_name = "TIME", value_parser = super::go_duration::parse)]
    length: Option<Duration>,
    /// Print the last N things that happened [default: 60]; of one seed or plan.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "60", requires = "one")]
    trace: Option<usize>,
    /// If a law is broken, look for a small plan that breaks it too, and print it; of one seed or plan.
    #[arg(long, requires = "one")]
    shrink: bool,
    /// Run a plan that was written down by --print-plan or --shrink.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["profile", "seeds", "from", "minutes", "until_failure", "jobs", "fierce", "nodes", "faults", "without", "more", "length"])]
    plan: Option<PathBuf>,
    /// Print the plan of the seed instead of running it.
    #[arg(long, requires = "seed", conflicts_with_all = ["trace", "shrink"])]
    print_plan: bool,
    /// Instead of seeds by chance: all orders of events in a world of three members and so many events of each sort
    /// [default: elections=2,writes=1]. Sorts: elections, writes, changes, crashes, duplicates, reorders, heartbeats, lapses,
    /// breaks, and wipes, which must break a law. Each one more is many times the work: --minutes ends it.
    #[arg(long, value_name = "SCOPE", num_args = 0..=1, default_missing_value = "elections=2,writes=1", conflicts_with_all = ["one", "profile", "seeds", "from", "until_failure", "jobs", "fierce", "nodes", "faults", "without", "more", "length", "law_off"])]
    exhaustive: Option<Scope>,
    /// Don't look at these laws: shows which others notice a fault that was made on purpose.
    #[arg(long, value_name = "LAWS", value_delimiter = ',', value_parser = laws())]
    law_off: Vec<Law>,
}

fn kinds() -> impl TypedValueParser<Value = Kind> {
    let known = |name: String| Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or("no kind of trouble");
    PossibleValuesParser::new(Kind::ALL.map(Kind::name)).try_map(known)
}

fn laws() -> impl TypedValueParser<Value = Law> {
    let known = |name: String| Law::ALL.into_iter().find(|law| law.name() == name).ok_or("no law");
    PossibleValuesParser::new(Law::ALL.map(Law::name)).try_map(known)
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes = text.parse::<f64>().ok().filter(|minutes| *minutes > 0.0);
    let duration = minutes.and_then(|minutes| Duration::try_from_secs_f64(minutes * 60.0).ok());
    duration.ok_or_else(|| "give a number of minutes above 0, as 5 or 0.5".to_owned())
}

impl Args {
    fn wishes(&self) -> Wishes {
        Wishes {
            nodes: self.nodes.map(usize::from),
            only: self.faults.clone(),
            without: self.without.clone(),
            more: self.more.clone(),
            length: self.length,
            fierce: self.fierce,
        }
    }

    fn profile(&self, seed: u64) -> Profile {
        match self.profile {
            Which::Core => Profile::Core,
            Which::Full => Profile::Full,
            Which::Both if seed.is_multiple_of(8) => Profile::Full,
            Which::Both => Profile::Core,
        }
    }

    fn plan(&self, seed: u64) -> Plan {
        Plan::draw(self.profile(seed), seed, &self.wishes())
    }

    fn options(&self) -> Options {
        Options { off: self.law_off.clone(), trace: self.trace.unwrap_or(0), search: false }
    }

    /// The command that runs this seed again.
    fn again(&self, seed: u64) -> String {
        let mut text = format!("quorate sim --profile {} --seed {seed}", name(self.profile(seed)));
        let list = |names: Vec<&str>| names.join(",");
        if self.fierce {
            text += " --fierce";
        }
        if let Some(nodes) = self.nodes {
            _ = write!(text, " --nodes {nodes}");
        }
        if let Some(faults) = &self.faults {
            _ = write!(text, " --faults {}", list(faults.iter().map(|kind| kind.name()).collect()));
        }
        if !self.without.is_empty() {
            _ = write!(text, " --without {}", list(self.without.iter().map(|kind| kind.name()).collect()));
        }
        if !self.more.is_empty() {
            _ = write!(text, " --more {}", list(self.more.iter().map(|kind| kind.name()).collect()));
        }
        if let Some(length) = self.length {
            _ = write!(text, " --length {}ms", length.as_millis());
        }
        if !self.law_off.is_empty() {
            _ = write!(text, " --law-off {}", list(self.law_off.iter().map(|law| law.name()).collect()));
        }
        text
    }
}

fn name(profile: Profile) -> &'static str {
    match profile {
        Profile::Core => "core",
        Profile::Full => "full",
    }
}

/// Runs the command.
///
/// # Errors
/// A law was broken (then all was said on stdout), or the command line can't be carried out.
pub fn run(global: &Global, args: &Args) -> Result<(), Failure> {
    let json = global.write_out == Format::Json;
    if let Some(path) = &args.plan {
        return one(args, &read(path)?, &format!("quorate sim --plan {}", path.display()), json);
    }
    if let Some(scope) = &args.exhaustive {
        return all(args, scope, json);
    }
    match args.seed {
        Some(seed) if args.print_plan => print(args.plan(seed).to_string()),
        Some(seed) => one(args, &args.plan(seed), &args.again(seed), json),
        None => many(args, json),
    }
}

fn read(path: &Path) -> Result<Plan, Failure> {
    let wrong = |why: String| {
        Failure::new(exit::BAD_ARGS, format!("can't read the plan {}: {why}", path.display()))
            .fix("write one: quorate sim --seed 17 --print-plan > FILE")
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    if text.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
        return Err(wrong("there is nothing in it".to_owned()));
    }
    text.parse().map_err(wrong)
}

/// The end of a command that has said everything.
fn end(kept: bool) -> Result<(), Failure> {
    if kept { Ok(()) } else { Err(Failure::silent(exit::ERROR)) }
}

/// Runs one plan, and tells all about it.
fn one(args: &Args, plan: &Plan, again: &str, json: bool) -> Result<(), Failure> {
    let report = sim::run(plan, &Options { search: true, ..args.options() });
    let law = report.violation.as_ref().map(|violation| violation.law);
    if !json {
        let trace = report.trace.iter().fold(String::new(), |text, line| text + line + "\n");
        print(trace + &report::one_text(plan, &report, &args.law_off, again))?;
    }
    let smaller = law.filter(|_| args.shrink).map(|law| {
        anstream::eprintln!("looking for a smaller plan ({} now) ...", plural(plan.faults.len() as u64, "fault"));
        shrink::shrink(plan, law, &args.options(), SHRINK_RUNS, |best| {
            let (faults, clients) = (best.faults.len() as u64, best.load.clients as u64);
            anstream::eprintln!("  {}, {}, {:?}", plural(faults, "fault"), plural(clients, "client"), best.length);
        })
    });
    if json {
        print(format!("{}\n", report::one_json(plan, &report, &args.law_off, smaller.as_ref())))?;
    } else if let (Some(law), Some(small)) = (law, smaller) {
        print(format!("# {law}: broken by this plan (quorate sim --plan FILE --trace)\n{small}"))?;
    }
    end(law.is_none())
}

/// Runs all worlds within `scope`, or as many as there is time for.
fn all(args: &Args, scope: &Scope, json: bool) -> Result<(), Failure> {
    let (began, stop) = (clock::instant(), stop_at_interrupt());
    let bar = ProgressBar::new_spinner();
    let explored = exhaust::explore(scope, |so_far| {
        bar.set_message(plural(so_far.states, "state"));
        bar.tick();
        args.minutes.is_none_or(|limit| began.elapsed() < limit) && !stop.load(Ordering::Relaxed)
    });
    bar.finish_and_clear();
    print(if json { format!("{}\n", report::all_json(scope, &explored)) } else { report::all_text(scope, &explored) })?;
    end(explored.is_ok())
}

/// Set by the first Ctrl-C; the second one ends the process as ever.
fn stop_at_interrupt() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        let interrupted = || matches!(super::block_on(tokio::signal::ctrl_c()), Ok(Ok(())));
        if interrupted() {
            told.store(true, Ordering::Relaxed);
        }
        if interrupted() {
            std::process::exit(INTERRUPTED);
        }
    });
    stop
}

/// What the workers share.
struct Shared {
    next: AtomicU64,
    end: Option<u64>,
    stop: Arc<AtomicBool>,
    sums: Mutex<Sums>,
    bar: ProgressBar,
}

fn many(args: &Args, json: bool) -> Result<(), Failure> {
    let from = args.from.unwrap_or_else(|| mix(clock::entropy().0) >> 24);
    let jobs = args.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    anstream::eprintln!("seeds from {from}");
    let (bar, template) = match args.minutes {
        None => (ProgressBar::new(args.seeds), "{elapsed_precise} {wide_bar} {pos}/{len} seeds  {msg}"),
        Some(_) => (ProgressBar::new_spinner(), "{elapsed_precise} {spinner} {pos} seeds  {msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let shared = Shared {
        next: AtomicU64::new(from),
        end: args.minutes.is_none().then(|| from.saturating_add(args.seeds)),
        stop: stop_at_interrupt(),
        sums: Mutex::new(Sums::new(from)),
        bar,
    };
    let began = clock::instant();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(args, &shared, || args.minutes.is_some_and(|limit| began.elapsed() >= limit)));
        }
    });
    shared.bar.finish_and_clear();
    let sums = shared.sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    if sums.clusters() == 0 {
        return Err(Failure::new(exit::ERROR, "no cluster was run, so nothing is known").fix("give it more time"));
    }
    print(if json { format!("{}\n", sums.json(&args.law_off)) } else { sums.text(&args.law_off) })?;
    end(sums.is_kept())
}

fn work(args: &Args, shared: &Shared, over: impl Fn() -> bool) {
    // Whoever takes a seed runs it, so that those that ran have no gap.
    while !shared.stop.load(Ordering::Relaxed) && !over() {
        let seed = shared.next.fetch_add(1, Ordering::Relaxed);
        if shared.end.is_some_and(|end| seed >= end) {
            return;
        }
        let (plan, began) = (args.plan(seed), clock::thread_time());
        let report = sim::verify(&plan, &args.options());
        let spent = clock::thread_time().saturating_sub(began);
        let mut sums = shared.sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.of(plan.profile).add(&report, spent);
        shared.bar.inc(1);
        shared.bar.set_message(format!("{} simulated", sums.simulated()));
        if let Some(violation) = report.violation {
            shared.bar.suspend(|| anstream::eprintln!("BROKEN by seed {seed}: {violation}"));
            sums.broke(Broken { seed, violation, again: args.again(seed) });
            if args.until_failure {
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, String> {
        let words = ["sim"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|e| e.to_string())
    }

    #[test]
    fn what_would_run_nothing_or_be_ignored_is_refused() {
        for line in [
            "--seeds 0",
            "--jobs 0",
            "--nodes 0",
            "--minutes 0",
            "--minutes nan",
            "--minutes inf",
            "--trace 5",
            "--shrink",
            "--print-plan",
            "--seed 1 --until-failure",
            "--plan p --profile core",
            "--exhaustive --law-off order",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert_eq!(parse("--minutes 0.5").unwrap().minutes, Some(Duration::from_secs(30)));
        assert!(parse("--plan p --trace --shrink").is_ok() && parse("--exhaustive --minutes 1").is_ok());
        assert!(parse("--faults crsh").unwrap_err().contains("a similar value exists: 'crash'"));
    }

    #[test]
    fn the_command_that_runs_a_seed_again_is_one_that_draws_the_same_plan() {
        let args = parse("--from 8 --fierce --nodes 3 --faults crash,loss --without loss --length 2s --law-off order")
            .unwrap();
        for seed in [8, 9] {
            let again = parse(args.again(seed).strip_prefix("quorate sim ").unwrap()).unwrap();
            assert_eq!(again.plan(again.seed.unwrap()), args.plan(seed));
            assert_eq!(again.law_off, args.law_off);
        }
    }
}

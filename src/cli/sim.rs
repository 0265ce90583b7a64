//! `quorate sim`: runs clusters in a simulated world, by seed.
//!
//! A seed is a whole cluster with a plan of what goes wrong; the same seed is the same run, on every machine. What is found is
//! told as a line that shows it again. Nothing here knows what a law is: it draws plans, runs them on all cores, and counts.

use super::exit::{self, Failure};
use super::output;
use crate::clock;
use crate::rng::mix;
use crate::sim::exhaust::{self, Explored, Scope};
use crate::sim::laws::Law;
use crate::sim::plan::{Kind, MAX_NODES, Plan, Profile, Wishes};
use crate::sim::{self, Options, Report, shrink};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often a plan is run to find a smaller one that breaks the same law.
const SHRINK_RUNS: u32 = 600;

/// Lines of the story that are told when nothing else is said.
const STORY_LINES: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Raft alone: fast.
    Core,
    /// Whole members: log, machine, requests.
    Full,
    /// Seven seeds of eight the core, the eighth whole members.
    Both,
}

/// Run clusters in a simulated world, with every fault there is, and check that they keep their word.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate sim                              some seeds of each kind, from a base drawn by chance\n  quorate sim --seeds 10000 --profile core\n  quorate sim --minutes 5 --until-failure  as long as it goes well\n  quorate sim --seed 17 --profile full --trace 200\n  quorate sim --faults crash,loss,slow --nodes 5\n  quorate sim --without wipe,rot --length 60s\n  quorate sim --exhaustive elections=2,writes=1,duplicates=1\n\nThe same seed with the same flags is the same run. Exit code 1: a law was broken."
)]
pub struct Args {
    /// How much of a member is simulated.
    #[arg(long, value_enum, default_value_t = Which::Both)]
    profile: Which,
    /// Run this one seed.
    #[arg(long, conflicts_with_all = ["seeds", "from", "minutes"])]
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 400)]
    seeds: u64,
    /// The first seed. Default: drawn by chance, and told.
    #[arg(long)]
    from: Option<u64>,
    /// Go on for so many minutes, whatever --seeds says.
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,
    /// Stop at the first broken law.
    #[arg(long)]
    until_failure: bool,
    /// How many seeds are run side by side. Default: one a core.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Clusters of this size. Default: 1 to 7, by the seed.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=MAX_NODES as i64))]
    nodes: Option<u8>,
    /// Only trouble of these kinds.
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    faults: Option<Vec<Kind>>,
    /// No trouble of these kinds.
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    without: Vec<Kind>,
    /// How long trouble lasts, in simulated time. Default: 15 to 45 s, by the seed.
    #[arg(long, value_parser = super::go_duration::parse)]
    length: Option<Duration>,
    /// Print the last N lines of what happened.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "60")]
    trace: Option<usize>,
    /// Look for a small plan that breaks the same law, and print it.
    #[arg(long)]
    shrink: bool,
    /// Run a plan that was written down (see --shrink).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "seeds", "from", "minutes", "nodes", "faults", "without", "length"])]
    plan: Option<PathBuf>,
    /// Print the plan of the seed instead of running it.
    #[arg(long, requires = "seed")]
    print_plan: bool,
    /// Instead of seeds by chance: all worlds there are within a small scope, as elections=2,writes=1.
    #[arg(long, value_name = "SCOPE", num_args = 0..=1, default_missing_value = "elections=2,writes=1", conflicts_with_all = ["seed", "seeds", "from", "plan", "nodes", "faults", "without", "length"])]
    exhaustive: Option<Scope>,
    /// Don't keep these laws: shows which ones notice a fault that was made on purpose.
    #[arg(long, value_delimiter = ',', value_parser = law)]
    law_off: Vec<Law>,
}

fn kind(name: &str) -> Result<Kind, String> {
    let known = || Kind::ALL.map(Kind::name).join(" ");
    Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| format!("there is: {}", known()))
}

fn law(name: &str) -> Result<Law, String> {
    let known = || Law::ALL.map(Law::name).join(" ");
    Law::ALL.into_iter().find(|law| law.name() == name).ok_or_else(|| format!("there is: {}", known()))
}

impl Args {
    fn wishes(&self) -> Wishes {
        Wishes {
            nodes: self.nodes.map(usize::from),
            only: self.faults.clone(),
            without: self.without.clone(),
            length: self.length,
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
        if let Some(nodes) = self.nodes {
            _ = write!(text, " --nodes {nodes}");
        }
        if let Some(faults) = &self.faults {
            _ = write!(text, " --faults {}", list(faults.iter().map(|kind| kind.name()).collect()));
        }
        if !self.without.is_empty() {
            _ = write!(text, " --without {}", list(self.without.iter().map(|kind| kind.name()).collect()));
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
pub fn run(args: &Args) -> Result<(), Failure> {
    if let Some(path) = &args.plan {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::new(exit::BAD_ARGS, format!("{}: {e}", path.display())))?;
        let plan = text.parse().map_err(|e| Failure::new(exit::BAD_ARGS, format!("{}: {e}", path.display())))?;
        let again = format!("quorate sim --plan {}", path.display());
        return one(args, &plan, &again);
    }
    if let Some(scope) = &args.exhaustive {
        return all(args, scope);
    }
    match args.seed {
        Some(seed) if args.print_plan => output::print(args.plan(seed).to_string()),
        Some(seed) => one(args, &args.plan(seed), &args.again(seed)),
        None => many(args),
    }
}

/// Runs one plan, and tells all about it.
fn one(args: &Args, plan: &Plan, again: &str) -> Result<(), Failure> {
    let mut options = args.options();
    options.search = true;
    let report = sim::run(plan, &options);
    output::print(report.trace.iter().fold(String::new(), |text, line| text + line + "\n"))?;
    let Some(violation) = &report.violation else {
        let (simulated, nodes) = (report.simulated.as_secs_f64(), plan.nodes);
        return output::print(format!(
            "{nodes} members, {simulated:.1} s simulated: {} events, {} entries committed, {} leaders, {} requests answered, \
             {} faults planned. Every law was kept.\n",
            report.events,
            report.committed,
            report.leaders,
            report.answers,
            plan.faults.len()
        ));
    };
    output::print(format!("BROKEN {violation}\n"))?;
    if args.shrink {
        eprintln!("looking for a smaller plan ({} faults now) ...", plan.faults.len());
        let law = violation.law;
        let small = shrink::shrink(plan, law, &args.options(), SHRINK_RUNS, |best| {
            eprintln!("  {} faults, {} clients, {:?}", best.faults.len(), best.load.clients, best.length);
        });
        output::print(format!("# {law}: broken by this plan (quorate sim --plan FILE --trace)\n{small}"))?;
    } else if args.trace.is_none() {
        output::print(format!("  the story: {again} --trace {STORY_LINES}\n  smaller:   {again} --shrink\n"))?;
    }
    Err(Failure::silent(exit::ERROR))
}

/// Runs all worlds within `scope`, or as many as there is time for.
fn all(args: &Args, scope: &Scope) -> Result<(), Failure> {
    let (began, until) = (clock::instant(), args.minutes.map(minutes));
    let explored = exhaust::explore(scope, |so_far| {
        eprint!("\r{} states", so_far.states);
        until.is_none_or(|until| began.elapsed() < until)
    });
    eprintln!();
    match explored {
        Ok(Explored { states, transitions, depth, is_complete, .. }) => {
            let end = if is_complete { "These are all" } else { "There are more" };
            output::print(format!(
                "{scope}: {states} states, {transitions} steps, {depth} deep. {end}. Every law was kept.\n"
            ))
        }
        Err(violation) => {
            let steps = violation.steps.iter().map(|step| format!("  {step}\n")).collect::<String>();
            output::print(format!("BROKEN {}\n{steps}", violation.law))?;
            Err(Failure::silent(exit::ERROR))
        }
    }
}

fn minutes(minutes: f64) -> Duration {
    Duration::try_from_secs_f64(minutes * 60.0).unwrap_or_default()
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    simulated: Duration,
    events: u64,
    committed: Vec<u64>,
    leaders: Vec<u64>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.simulated += report.simulated;
        self.events += report.events;
        self.committed.push(report.committed);
        self.leaders.push(report.leaders);
    }

    fn line(&mut self, profile: &str, spent: Duration) -> String {
        let median = |values: &mut Vec<u64>| {
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or(0)
        };
        let (committed, leaders) = (median(&mut self.committed), median(&mut self.leaders));
        let (hours, cpu) = (self.simulated.as_secs_f64() / 3600.0, spent.as_secs_f64().max(1e-9));
        format!(
            "{profile}  {} seeds, {hours:.1} simulated hours ({:.1} for a minute of one core), {:.1} million events; the \
             median seed committed {committed} entries under {leaders} leaders\n",
            self.seeds,
            hours / (cpu / 60.0),
            self.events as f64 / 1e6
        )
    }
}

/// What the workers share.
struct Shared {
    next: AtomicU64,
    end: Option<u64>,
    stop: AtomicBool,
    sums: Mutex<BTreeMap<&'static str, (Sum, Duration)>>,
    broken: Mutex<Vec<(u64, sim::laws::Violation)>>,
    bar: ProgressBar,
}

fn many(args: &Args) -> Result<(), Failure> {
    let from = args.from.unwrap_or_else(|| mix(clock::entropy().0) >> 24);
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let end = args.minutes.is_none().then(|| from.saturating_add(args.seeds));
    eprintln!("seeds from {from}");
    let bar = match end {
        Some(_) => ProgressBar::new(args.seeds),
        None => ProgressBar::new_spinner(),
    };
    let style = "{elapsed_precise} {wide_bar} {pos} seeds  {msg}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let shared = Shared {
        next: AtomicU64::new(from),
        end,
        stop: AtomicBool::new(false),
        sums: Mutex::default(),
        broken: Mutex::default(),
        bar,
    };
    let began = clock::instant();
    let until = args.minutes.map(minutes);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(args, &shared, || until.is_some_and(|until| began.elapsed() >= until)));
        }
    });
    shared.bar.finish_and_clear();
    finish(args, shared)
}

fn work(args: &Args, shared: &Shared, over: impl Fn() -> bool) {
    loop {
        let seed = shared.next.fetch_add(1, Ordering::Relaxed);
        if shared.end.is_some_and(|end| seed >= end) || shared.stop.load(Ordering::Relaxed) || over() {
            return;
        }
        let (plan, began) = (args.plan(seed), clock::thread_time());
        let report = sim::verify(&plan, &args.options());
        let spent = clock::thread_time().saturating_sub(began);
        let mut sums = shared.sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (sum, time) = sums.entry(name(plan.profile)).or_default();
        sum.add(&report);
        *time += spent;
        let hours: f64 = sums.values().map(|(sum, _)| sum.simulated.as_secs_f64() / 3600.0).sum();
        drop(sums);
        shared.bar.inc(1);
        shared.bar.set_message(format!("{hours:.1} simulated hours"));
        if let Some(violation) = report.violation {
            let mut broken = shared.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            shared.bar.suspend(|| eprintln!("BROKEN {violation}\n  again: {}", args.again(seed)));
            broken.push((seed, violation));
            if args.until_failure {
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

fn finish(args: &Args, shared: Shared) -> Result<(), Failure> {
    let mut sums = shared.sums.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut text = String::new();
    for (profile, (sum, time)) in &mut sums {
        text += &sum.line(profile, *time);
    }
    let mut broken = shared.broken.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    broken.sort_by_key(|(seed, _)| *seed);
    if broken.is_empty() {
        text += "Every law was kept.\n";
        return output::print(text);
    }
    for (seed, violation) in &broken {
        _ = writeln!(text, "BROKEN {violation}\n  again: {}", args.again(*seed));
    }
    output::print(text)?;
    Err(Failure::silent(exit::ERROR))
}

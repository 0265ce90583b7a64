//! What simulated clusters came to, for people and as JSON.
//!
//! The verdict comes first, in the words of `quorate check`: KEPT or BROKEN. It says how much it is about, for a law that was
//! kept by nobody was not tested.

use super::name;
use crate::cli::bench::thousands;
use crate::cli::output::plural;
use crate::sim::exhaust::{self, Explored, Scope};
use crate::sim::laws::{Law, Violation};
use crate::sim::plan::{Plan, Profile};
use crate::sim::{Changes, Installs, Report};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// Lines of the story that are told when nothing else is said.
const STORY_LINES: usize = 60;

/// `KEPT every law`, and which were not looked at.
fn kept(off: &[Law]) -> String {
    let bold = anstyle::Style::new().bold();
    let but = if off.is_empty() { String::new() } else { format!(" (not looked at: {})", names(off).join(", ")) };
    format!("{bold}KEPT{bold:#} every law{but}")
}

fn broken() -> String {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    format!("{red}BROKEN{red:#}")
}

fn names(laws: &[Law]) -> Vec<&'static str> {
    laws.iter().map(|law| law.name()).collect()
}

fn violation_json(violation: &Violation) -> Value {
    json!({ "law": violation.law.name(), "at_ms": violation.at.0 as f64 / 1e6, "what": violation.what })
}

/// A time in the simulated world.
fn simulated(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 60.0 => format!("{seconds:.1} s"),
        seconds if seconds < 3600.0 => format!("{:.1} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

/// One cluster.
pub fn one_text(plan: &Plan, report: &Report, off: &[Law], again: &str) -> String {
    let faults = plural(plan.faults.len() as u64, "fault");
    let mut out = match &report.violation {
        None => format!("{}: a cluster of {}, {faults} planned\n", kept(off), plural(plan.nodes as u64, "member")),
        Some(violation) => {
            format!("{} {violation}\n{}", broken(), next(again, "  "))
        }
    };
    let (events, leaders) = (plural(report.events, "event"), plural(report.leaders, "leader"));
    let (committed, answered) = (plural(report.committed, "entry"), plural(report.answers, "request"));
    _ = writeln!(
        out,
        "  {} simulated: {events}, {leaders}, {committed} committed, {answered} answered",
        simulated(report.simulated)
    );
    out
}

fn next(again: &str, indent: &str) -> String {
    format!("{indent}the story: {again} --trace {STORY_LINES}\n{indent}smaller:   {again} --shrink\n")
}

/// One cluster; `smaller` is a plan that breaks the same law.
pub fn one_json(plan: &Plan, report: &Report, off: &[Law], smaller: Option<&Plan>) -> Value {
    json!({
        "kept": report.violation.is_none(),
        "violation": report.violation.as_ref().map(violation_json),
        "laws_off": names(off),
        "profile": name(plan.profile),
        "seed": plan.seed,
        "nodes": plan.nodes,
        "faults": plan.faults.len(),
        "simulated_s": report.simulated.as_secs_f64(),
        "events": report.events,
        "leaders": report.leaders,
        "committed": report.committed,
        "answered": report.answers,
        "trace": report.trace,
        "smaller_plan": smaller.map(ToString::to_string),
    })
}

/// All worlds of a scope.
pub fn all_text(scope: &Scope, explored: &Result<Explored, Box<exhaust::Violation>>) -> String {
    match explored {
        Ok(Explored { states, transitions, depth, is_complete, .. }) => {
            let (states, steps) = (plural(*states, "state"), plural(*transitions, "step"));
            let (all, more) = if *is_complete { ("all ", "") } else { ("", "\n  there are more: it was ended early") };
            format!("{} in {all}{states} of {scope}: {steps}, {depth} deep{more}\n", kept(&[]))
        }
        Err(violation) => {
            let steps = violation.steps.iter().map(|step| format!("  {step}\n")).collect::<String>();
            format!("{} {}\n{steps}", broken(), violation.law)
        }
    }
}

/// All worlds of a scope.
pub fn all_json(scope: &Scope, explored: &Result<Explored, Box<exhaust::Violation>>) -> Value {
    let (found, violation) = match explored {
        Ok(explored) => (explored, None),
        Err(violation) => (&violation.explored, Some(violation)),
    };
    json!({
        "kept": violation.is_none(),
        "violation": violation.map(|violation| json!({ "what": violation.law, "steps": violation.steps })),
        "scope": scope.to_string(),
        "states": found.states,
        "steps": found.transitions,
        "depth": found.depth,
        "complete": violation.is_none() && found.is_complete,
    })
}

/// What many runs of one profile came to.
#[derive(Default)]
pub struct Sum {
    clusters: u64,
    simulated: Duration,
    /// Of the processor.
    spent: Duration,
    events: u64,
    committed: Vec<u64>,
    leaders: Vec<u64>,
    installs: Installs,
    /// Clusters in which a member took over a state.
    installed: u64,
    changes: Changes,
    /// Clusters whose membership changed.
    changed: u64,
    stranded: u64,
}

impl Sum {
    /// One more, which took so much of a processor's time.
    pub fn add(&mut self, report: &Report, spent: Duration) {
        self.clusters += 1;
        self.simulated += report.simulated;
        self.spent += spent;
        self.events += report.events;
        self.committed.push(report.committed);
        self.leaders.push(report.leaders);
        self.installs += report.installs;
        self.installed += u64::from(report.installs.finished > 0);
        self.changes += report.changes;
        self.changed += u64::from(report.changes.made > 0);
        self.stranded += u64::from(report.stranded);
    }

    fn median(values: &[u64]) -> u64 {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }

    fn times_real(&self) -> f64 {
        self.simulated.as_secs_f64() / self.spent.as_secs_f64().max(1e-9)
    }

    fn text(&self, profile: Profile) -> String {
        let label = match profile {
            Profile::Core => "core (Raft alone)",
            Profile::Full => "full (whole members)",
        };
        let (committed, leaders) = (Sum::median(&self.committed), Sum::median(&self.leaders));
        let more = self.installs_text() + &self.changes_text();
        format!(
            "  {label}: {}, {} simulated ({} × real time on one core), {}; in the median cluster {} committed under {}\n{more}",
            plural(self.clusters, "cluster"),
            simulated(self.simulated),
            thousands(self.times_real() as u64),
            plural(self.events, "event"),
            if committed == 1 { "1 entry was".to_owned() } else { format!("{} were", plural(committed, "entry")) },
            plural(leaders, "leader"),
        )
    }

    fn installs_text(&self) -> String {
        let Installs { begun, finished, resumed, hollow, lost, wrong } = self.installs;
        if begun + hollow == 0 {
            return String::new();
        }
        format!(
            "    states taken over: {} begun, {} finished in {}, {} gone on with by another leader; {} without a state of \
             their own, {} of which was lost, {} set aside because a quorum had another one\n",
            thousands(begun),
            thousands(finished),
            plural(self.installed, "cluster"),
            thousands(resumed),
            plural(hollow, "start"),
            thousands(lost),
            thousands(wrong),
        )
    }

    fn changes_text(&self) -> String {
        let Changes { made, added, promoted, removed, replaced } = self.changes;
        if made == 0 {
            return String::new();
        }
        let stranded = match self.stranded {
            0 => String::new(),
            count => format!(", {} could not be healed", plural(count, "cluster")),
        };
        format!(
            "    changes of the membership: {} in {}, {} added, {} came to vote, {} removed, {} replaced{stranded}\n",
            thousands(made),
            plural(self.changed, "cluster"),
            thousands(added),
            thousands(promoted),
            thousands(removed),
            thousands(replaced),
        )
    }

    fn json(&self) -> Value {
        json!({
            "clusters": self.clusters,
            "simulated_s": self.simulated.as_secs_f64(),
            "cpu_s": self.spent.as_secs_f64(),
            "events": self.events,
            "median_committed": Sum::median(&self.committed),
            "median_leaders": Sum::median(&self.leaders),
            "installs_begun": self.installs.begun,
            "installs_finished": self.installs.finished,
            "installs_resumed": self.installs.resumed,
            "hollow_starts": self.installs.hollow,
            "lost_states": self.installs.lost,
            "wrong_states": self.installs.wrong,
            "changes_made": self.changes.made,
            "members_added": self.changes.added,
            "members_promoted": self.changes.promoted,
            "members_removed": self.changes.removed,
            "members_replaced": self.changes.replaced,
            "stranded": self.stranded,
        })
    }
}

/// A seed that broke a law.
pub struct Broken {
    /// Which.
    pub seed: u64,
    /// How.
    pub violation: Violation,
    /// The command that runs it again.
    pub again: String,
}

/// What all seeds came to.
#[derive(Default)]
pub struct Sums {
    /// The first seed; those that ran follow it without a gap.
    pub from: u64,
    core: Sum,
    full: Sum,
    broken: Vec<Broken>,
}

impl Sums {
    /// Nothing yet, from that seed on.
    pub fn new(from: u64) -> Sums {
        Sums { from, ..Sums::default() }
    }

    /// The sum of one profile.
    pub fn of(&mut self, profile: Profile) -> &mut Sum {
        match profile {
            Profile::Core => &mut self.core,
            Profile::Full => &mut self.full,
        }
    }

    /// One more that broke a law.
    pub fn broke(&mut self, broken: Broken) {
        self.broken.push(broken);
        self.broken.sort_by_key(|broken| broken.seed);
    }

    /// Time that passed in all worlds.
    pub fn simulated(&self) -> String {
        simulated(self.core.simulated + self.full.simulated)
    }

    /// How many ran.
    pub fn clusters(&self) -> u64 {
        self.core.clusters + self.full.clusters
    }

    /// Whether all laws were kept.
    pub fn is_kept(&self) -> bool {
        self.broken.is_empty()
    }

    /// For people.
    pub fn text(&self, off: &[Law]) -> String {
        let clusters = plural(self.clusters(), "cluster");
        let verdict = match self.broken.len() {
            0 => format!("{} in {clusters}", kept(off)),
            count => format!("{} in {} of {clusters}", broken(), thousands(count as u64)),
        };
        let last = self.from.saturating_add(self.clusters().saturating_sub(1));
        let mut out = format!("{verdict}: seeds {} to {last}\n", self.from);
        for (profile, sum) in [(Profile::Core, &self.core), (Profile::Full, &self.full)] {
            if sum.clusters > 0 {
                out += &sum.text(profile);
            }
        }
        for Broken { seed, violation, again } in &self.broken {
            _ = write!(out, "  seed {seed}: {violation}\n{}", next(again, "    "));
        }
        out
    }

    /// For programs.
    pub fn json(&self, off: &[Law]) -> Value {
        let broken: Vec<Value> = self
            .broken
            .iter()
            .map(|Broken { seed, violation, again }| {
                json!({ "seed": seed, "violation": violation_json(violation), "again": again })
            })
            .collect();
        json!({
            "kept": self.is_kept(),
            "broken": broken,
            "laws_off": names(off),
            "from": self.from,
            "clusters": self.clusters(),
            "core": self.core.json(),
            "full": self.full.json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;

    fn ran(violation: Option<Violation>) -> Report {
        Report {
            violation,
            simulated: Duration::from_secs(90),
            events: 30_000,
            committed: 1,
            leaders: 2,
            answers: 7,
            installs: Installs::default(),
            changes: Changes::default(),
            stranded: false,
            fingerprint: 0,
            trace: Vec::new(),
            history: Vec::new(),
        }
    }

    fn broken_order() -> Violation {
        Violation { law: Law::Order, at: Time(1_500_000), what: "n1 applied more than it has".into() }
    }

    #[test]
    fn seeds_that_kept_every_law_say_how_much_that_was() {
        let mut sums = Sums::new(16);
        sums.of(Profile::Core).add(&ran(None), Duration::from_millis(10));
        let expected = "KEPT every law in 1 cluster: seeds 16 to 16\n  core (Raft alone): 1 cluster, 1.5 min simulated \
                        (9 000 × real time on one core), 30 000 events; in the median cluster 1 entry was committed under \
                        2 leaders\n";
        assert_eq!(anstream::adapter::strip_str(&sums.text(&[])).to_string(), expected);
        let but = anstream::adapter::strip_str(&sums.text(&[Law::Order])).to_string();
        assert!(but.starts_with("KEPT every law (not looked at: order) in 1 cluster"), "{but}");
    }

    #[test]
    fn a_seed_that_broke_one_comes_with_the_commands_that_show_it() {
        let mut sums = Sums::new(16);
        sums.of(Profile::Full).add(&ran(Some(broken_order())), Duration::from_secs(1));
        sums.broke(Broken { seed: 16, violation: broken_order(), again: "quorate sim --seed 16".into() });
        assert!(!sums.is_kept());
        let text = anstream::adapter::strip_str(&sums.text(&[])).to_string();
        assert!(text.starts_with("BROKEN in 1 of 1 cluster: seeds 16 to 16\n"), "{text}");
        let told = "  seed 16: order at 1.500 ms: n1 applied more than it has\n    the story: quorate sim --seed 16 --trace 60\n";
        assert!(text.contains(told), "{text}");
        let document = sums.json(&[]);
        assert_eq!((&document["kept"], &document["broken"][0]["violation"]["law"]), (&false.into(), &"order".into()));
    }
}

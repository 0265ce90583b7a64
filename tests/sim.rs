//! Clusters in the simulated world: a sample of seeds, another one each time CI runs, and everything that was ever found.
//!
//! `QUORATE_SEEDS=n` runs n core seeds and an eighth as many of whole members, and as many fierce ones. A failure tells the command that shows it
//! again; what it finds, shrunk, is kept as a plan under `tests/scripts/sim/`.

use quorate::sim::laws::Law;
use quorate::sim::plan::{Plan, Profile, Wishes};
use quorate::sim::{self, Options};
use std::path::Path;
use std::process::Command;

/// How many core seeds run where nobody says more.
const SEEDS: u64 = 48;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Where the seeds begin: always the same, unless the environment says otherwise.
fn base() -> u64 {
    number("QUORATE_SEED").unwrap_or(1)
}

fn sample(profile: Profile, name: &str, seeds: u64) {
    let (mut committed, mut leaders) = (Vec::new(), Vec::new());
    let (mut installed, mut changed, mut wrong) = (0, 0, 0);
    for seed in base()..base() + seeds {
        let plan = Plan::draw(profile, seed, &Wishes::default());
        let report = sim::verify(&plan, &Options::default());
        if let Some(violation) = report.violation {
            panic!("{violation}\nagain: quorate sim --profile {name} --seed {seed}");
        }
        committed.push(report.committed);
        leaders.push(report.leaders);
        installed += u64::from(report.installs.finished > 0);
        changed += u64::from(report.changes.made > 0);
        wrong += u64::from(report.installs.wrong > 0);
    }
    committed.sort_unstable();
    leaders.sort_unstable();
    let middle = committed.len() / 2;
    println!(
        "{name}: {seeds} seeds from {}, the median one committed {} entries under {} leaders, {installed} took over a state, \
         {changed} changed their members, {wrong} found wrong states",
        base(),
        committed[middle],
        leaders[middle]
    );
    // Fewer say nothing about the median; and a simulator that does nothing finds nothing.
    assert!(seeds < 40 || (committed[middle] >= 300 && leaders[middle] >= 4), "too tame to prove anything");
    assert!(profile == Profile::Core || seeds < 40 || installed > seeds / 20, "no state was taken over");
    assert!(profile == Profile::Core || seeds < 40 || changed > seeds / 5, "no membership changed");
    assert!(profile == Profile::Core || seeds < 40 || wrong > seeds / 20, "no state went wrong");
}

#[test]
fn the_core_keeps_every_law() {
    sample(Profile::Core, "core", number("QUORATE_SEEDS").unwrap_or(SEEDS));
}

#[test]
fn whole_members_keep_every_law() {
    sample(Profile::Full, "full", number("QUORATE_SEEDS").unwrap_or(SEEDS) / 8);
}

/// The worst hour of many clusters: see `plan/fierce.rs`.
#[test]
fn fierce_worlds_keep_every_law() {
    let seeds = number("QUORATE_SEEDS").unwrap_or(SEEDS);
    for (profile, name, seeds) in [(Profile::Core, "core", seeds), (Profile::Full, "full", seeds / 4)] {
        let (mut leaders, mut installed) = (0, 0);
        for seed in base()..base() + seeds {
            let plan = Plan::draw(profile, seed, &Wishes { fierce: true, ..Wishes::default() });
            let report = sim::verify(&plan, &Options::default());
            if let Some(violation) = report.violation {
                panic!("{violation}\nagain: quorate sim --profile {name} --fierce --seed {seed}");
            }
            leaders += report.leaders;
            installed += report.installs.finished;
        }
        assert!(seeds < 10 || leaders > seeds, "too tame to prove anything");
        assert!(profile == Profile::Core || seeds < 10 || installed > 0, "no state was taken over");
    }
}

#[test]
fn the_same_plan_is_the_same_run() {
    for (profile, seed) in [(Profile::Core, 3), (Profile::Full, 3), (Profile::Core, 4), (Profile::Full, 4)] {
        let plan = Plan::draw(profile, seed, &Wishes::default());
        let options = Options { trace: usize::MAX, ..Options::default() };
        let (first, second) = (sim::run(&plan, &options), sim::run(&plan, &options));
        assert_eq!(first.trace, second.trace, "{profile:?} {seed}");
        assert_eq!((first.fingerprint, first.events), (second.fingerprint, second.events));
        let other = sim::run(&Plan { seed: seed + 1, ..plan }, &options);
        assert_ne!(first.fingerprint, other.fingerprint);
    }
}

/// `quorate sim 2>&1 | head` is no reason to panic.
#[test]
fn nobody_has_to_read_stderr() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    let output =
        command.args(["sim", "--seeds", "1", "--from", "1", "--length", "1s"]).stderr(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.starts_with(b"KEPT every law in 1 cluster: seeds 1 to 1\n"));
}

/// A plan that broke a law once breaks none now. The first line begins with the law: `# law: why`.
#[test]
fn what_was_found_once_stays_mended() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/sim");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let law = text.strip_prefix("# ").and_then(|rest| rest.split(':').next()).unwrap_or_default();
        assert!(Law::ALL.iter().any(|known| known.name() == law), "{}: {law:?} is no law", path.display());
        let plan: Plan = text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let report = sim::run(&plan, &Options::default());
        assert!(report.violation.is_none(), "{}: {}", path.display(), report.violation.unwrap());
    }
}

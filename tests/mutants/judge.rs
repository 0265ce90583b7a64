//! What becomes of a mutant: who kills it, and what the simulator sees.
//!
//! First come the scripts; if all of them pass, the unit tests, but for those that play with chance; then the simulator, from
//! [`BASES`] different first seeds. What was found is kept under the hash of all that it depends on, so a run that was broken
//! off goes on where it was.

use crate::copy::Copy;
use crate::patch::Mutant;
use crate::root;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// Tests that play with chance: the simulator's part.
const CHANCE: [&str; 3] = ["under_chance", "sim::", "check::"];
/// The simulator starts from so many different seeds.
pub const BASES: u64 = 3;
/// The gate: seeds that the simulator may need for a mutant.
pub const MEDIAN_MAX: u64 = 200;
/// Scripts and tests that take so many seconds do not end: usually they take half a second, and some.
const ENDLESS: (u32, u32) = (20, 200);

/// What the simulator found.
#[derive(Clone)]
pub struct Found {
    /// After how many seeds; `u64::MAX`: it did not.
    pub seeds: u64,
    /// Which law was broken.
    pub law: String,
    /// Which law is broken in the same world if that one is off; `-`: none is.
    pub other: String,
}

/// What became of a mutant.
pub struct Outcome {
    /// The scripts that fail, or else the tests.
    pub killers: Vec<String>,
    /// From each base, the quickest first; empty if the simulator was not asked.
    pub found: Vec<Found>,
}

/// The tests of a program that fail.
fn failed(copy: &Copy, mutant: u32, program: &Path, args: &[&str]) -> Vec<String> {
    let seconds = if program == copy.scripts { ENDLESS.0 } else { ENDLESS.1 };
    let (words, ended) = copy.run(mutant, program, args, seconds);
    let failed = words.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let mut failed: Vec<String> = failed.map(String::from).collect();
    if !ended {
        failed.push("one that does not end".into());
    } else if failed.is_empty() && !words.contains("test result: ok") {
        failed.push("one that ends the process".into());
    }
    failed
}

/// The scripts that fail, or if there are none the tests of what was changed and of its room: what is quick, and likely to see
/// it.
pub fn quick_killers(copy: &Copy, mutant: &Mutant) -> Vec<String> {
    let scripts = failed(copy, mutant.number, &copy.scripts, &[]);
    if !scripts.is_empty() {
        return scripts;
    }
    let mut names = BTreeSet::new();
    for change in &mutant.changes {
        let path: Vec<&str> = change.file.trim_end_matches(".rs").split('/').skip(1).collect();
        names.insert(path.join("::") + "::");
        names.insert(format!("{}::tests::", path[0]));
    }
    let mut tests: Vec<&str> = names.iter().map(String::as_str).collect();
    tests.extend(without_chance());
    failed(copy, mutant.number, &copy.tests, &tests)
}

/// Those, or if there are none all tests that fail.
pub fn killers(copy: &Copy, mutant: &Mutant) -> Vec<String> {
    let quick = quick_killers(copy, mutant);
    let all = || failed(copy, mutant.number, &copy.tests, &without_chance().collect::<Vec<_>>());
    if quick.is_empty() { all() } else { quick }
}

fn without_chance<'a>() -> impl Iterator<Item = &'a str> {
    CHANCE.iter().flat_map(|name| ["--skip", name])
}

/// What the driver says last, from one base.
pub fn simulated(copy: &Copy, mutant: &Mutant, base: u64, most: u64) -> String {
    let numbers = [(base * 1_000_000).to_string(), most.to_string()];
    let args: Vec<&str> = numbers.iter().chain(&mutant.worlds).map(String::as_str).collect();
    let (words, _) = copy.run(mutant.number, &copy.driver, &args, 7200);
    words.lines().next_back().unwrap_or("it ends the process").to_string()
}

impl Outcome {
    /// Judges a mutant, or finds what was kept.
    pub fn of(mutant: &Mutant, slim: &BTreeMap<String, String>, copy: &Copy, most: u64) -> Outcome {
        // The simulator sees no test: what it found stays found when there is a new one.
        let is_test = |path: &str| path.contains("tests");
        let (killers_at, found_at) = (kept_at(mutant, slim, |_| true), kept_at(mutant, slim, |path| !is_test(path)));
        let kept = |path: &Path| fs::read_to_string(path).ok();
        let killers = kept(&killers_at).unwrap_or_else(|| {
            let killers = killers(copy, mutant).join("\n");
            fs::write(killers_at, &killers).unwrap();
            killers
        });
        let killers = killers.lines().map(String::from).collect();
        if most == 0 || mutant.unseen.is_some() {
            return Outcome { killers, found: Vec::new() };
        }
        let found = kept(&found_at).filter(|text| is_enough(text, most)).unwrap_or_else(|| {
            let each = (1..=BASES).map(|base| simulated(copy, mutant, base, most) + "\n");
            let found = format!("{most}\n{}", each.collect::<String>());
            fs::write(found_at, &found).unwrap();
            found
        });
        Outcome { killers, found: read_found(&found) }
    }

    /// Seeds that the simulator needed, in the median and at worst; `None`: it was not asked.
    fn seeds(&self) -> Option<(u64, u64)> {
        Some((self.found.get(self.found.len() / 2)?.seeds, self.found.last()?.seeds))
    }

    /// Whether the gate lets it pass; else why not.
    pub fn verdict(&self) -> Result<(), &'static str> {
        if self.killers.is_empty() {
            return Err("no script and no test sees it");
        }
        let soon = |(median, worst)| median <= MEDIAN_MAX && worst < u64::MAX;
        if self.seeds().is_none_or(soon) { Ok(()) } else { Err("the simulator does not see it soon enough") }
    }

    /// Its line in the table.
    pub fn row(&self, mutant: &Mutant) -> String {
        let killers = match &self.killers[..] {
            [] => "–".to_string(),
            [one] => format!("`{one}`"),
            [one, more @ ..] => format!("`{one}` and {} more", more.len()),
        };
        let number = |seeds: u64| if seeds == u64::MAX { "–".into() } else { seeds.to_string() };
        let simulated = self.seeds().map_or_else(
            || " | | ".to_string(),
            |(median, worst)| {
                let laws: BTreeSet<&str> = self.found.iter().map(|found| found.law.as_str()).collect();
                let laws: Vec<&str> = laws.into_iter().collect();
                format!("{} | {} | {}", laws.join(", "), number(median), number(worst))
            },
        );
        let why = mutant.unseen.as_ref().map(|why| format!(" *Not for the simulator: {why}.*")).unwrap_or_default();
        let Mutant { name, trap, law, .. } = mutant;
        format!("| {trap} | `{name}` | {law}{why} | {killers} | {simulated} |")
    }
}

/// From what the drivers said last, after a line with their patience: the quickest first.
fn read_found(text: &str) -> Vec<Found> {
    let each = text.lines().skip(1).map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [seeds, law, other] => Found { seeds: seeds.parse().unwrap_or(u64::MAX), law: law.into(), other: other.into() },
        _ => Found { seeds: u64::MAX, law: "–".into(), other: "-".into() },
    });
    let mut found: Vec<Found> = each.collect();
    found.sort_by_key(|found| found.seeds);
    found
}

/// Whether the simulator found the mutant each time, or was as patient as it would be now.
fn is_enough(text: &str, most: u64) -> bool {
    let patience = text.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0);
    patience >= most || read_found(text).last().is_some_and(|found| found.seeds < u64::MAX)
}

/// Where an outcome is kept: a name that changes with everything that it depends on.
pub fn kept_at(mutant: &Mutant, slim: &BTreeMap<String, String>, depends: impl Fn(&str) -> bool) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    mutant.text.hash(&mut hasher);
    slim.iter().filter(|(path, _)| depends(path)).for_each(|file| file.hash(&mut hasher));
    let kept = root().join("target/mutants/outcomes");
    fs::create_dir_all(&kept).unwrap();
    kept.join(format!("{}-{:016x}", mutant.number, hasher.finish()))
}

//! The score that proves the tests.
//!
//! A mutant is a bug that we put in on purpose: a small patch in `tests/mutants/`, one per trap that Raft cores have fallen
//! into. The tests are good if every mutant is *killed*: by a script or a unit or property test, which name what is
//! broken, and by the simulator, which must find it by chance in few seeds. What survives is a hole in the tests.
//!
//! ```text
//! cargo test --release --test mutants -- --ignored --nocapture           all of them, printed as a table
//! MUTANTS=read,vote cargo test …                                         those whose names contain one of these
//! MUTANTS_JOBS=2 MUTANTS_SEEDS=1000 cargo test …                         two at a time; less patience
//! MUTANTS_SEEDS=0 cargo test …                                           the simulator is not asked at all
//! MUTANTS_TABLE=src/docs/mutants_table.md cargo test …                   and writes the table
//! ```
//!
//! # A patch
//!
//! Lines of `name: value`, an empty line, a unified diff. `trap` is its number in the literature's list, `law` the sentence
//! that it breaks, `breaks` the invariants. `unseen` says why no simulator can see it, and then none is asked. A hunk
//! applies where its lines stand, wherever that is, so that patches survive edits elsewhere; they must stand there once.
//!
//! # How a mutant is judged
//!
//! The rooms that decide (no server, client, command line) are copied to `target/mutants/`, with a driver for the simulator
//! in place of the binary, so a mutant is built in seconds. First come the scripts; if all of them pass, the unit tests, but
//! for those that play with chance; then the simulator, from [`BASES`] different first seeds. What was found is kept under
//! the hash of all that it depends on, so a run that was broken off goes on where it was.

#![expect(clippy::unwrap_used, reason = "a test that can't read the tree has failed")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// What is copied: the rooms that decide, and the scripts.
const ROOMS: [&str; 12] =
    ["check", "checksum", "ids", "machine", "node", "proto", "raft", "rng", "sim", "storage", "time", "watch"];
/// Tests that play with chance: the simulator's part.
const CHANCE: [&str; 3] = ["under_chance", "sim::", "check::"];
/// The simulator starts from so many different seeds.
const BASES: u64 = 3;
/// The gate: seeds that the simulator may need for a mutant.
const MEDIAN_MAX: u64 = 200;

#[derive(Clone)]
struct Mutant {
    name: String,
    trap: String,
    law: String,
    unseen: Option<String>,
    edits: Vec<Edit>,
    text: String,
}

/// A hunk: lines to be found, and what to put there.
#[derive(Clone)]
struct Edit {
    file: String,
    old: String,
    new: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn mutants() -> Vec<Mutant> {
    let entries = fs::read_dir(root().join("tests/mutants")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "patch"));
    paths.sort();
    paths.iter().map(|path| parse(path)).collect()
}

fn parse(path: &Path) -> Mutant {
    let name = path.file_stem().unwrap().to_str().unwrap().to_string();
    let text = fs::read_to_string(path).unwrap();
    let (head, diff) = text.split_once("\n\n").unwrap_or_else(|| panic!("{name} has no header"));
    let head: BTreeMap<&str, &str> = head.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let field = |key: &str| head.get(key).unwrap_or_else(|| panic!("{name} does not say its {key}")).to_string();
    assert!(head.keys().all(|key| ["trap", "law", "breaks", "unseen"].contains(key)), "{name}: {head:?}");
    assert!(field("law").ends_with('.') && !field("breaks").is_empty(), "{name}: the law is a sentence");
    assert!(field("trap").strip_prefix('T').is_some_and(|n| n.parse::<u32>().is_ok()), "{name}: a trap is like T20");
    let unseen = head.get("unseen").map(ToString::to_string);
    let (trap, law) = (field("trap"), field("law"));
    let mut edits: Vec<Edit> = Vec::new();
    let mut file = String::new();
    for line in diff.lines() {
        if let Some(path) = line.strip_prefix("+++ b/") {
            file = path.to_string();
        } else if line.starts_with("@@") {
            edits.push(Edit { file: file.clone(), old: String::new(), new: String::new() });
        } else if !line.starts_with("--- ") {
            let edit = edits.last_mut().unwrap_or_else(|| panic!("{name}: a line before the first hunk"));
            let (sign, rest) = line.split_at(usize::from(!line.is_empty()));
            let kept = format!("{rest}\n");
            if sign != "+" {
                edit.old += &kept;
            }
            if sign != "-" {
                edit.new += &kept;
            }
        }
    }
    assert!(!edits.is_empty(), "{name} changes nothing");
    Mutant { name, trap, law, unseen, edits, text: text.clone() }
}

impl Mutant {
    /// The files that it changes, changed.
    fn changed(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for Edit { file, old, new } in &self.edits {
            let text = files.entry(file.clone()).or_insert_with(|| fs::read_to_string(root().join(file)).unwrap());
            let found = text.matches(old.as_str()).count();
            assert_eq!(found, 1, "{}: a hunk for {file} stands there {found} times:\n{old}", self.name);
            *text = text.replacen(old, new, 1);
        }
        files
    }
}

#[test]
fn every_mutant_applies_and_says_what_it_breaks() {
    let mutants = mutants();
    assert!(mutants.len() >= 40, "{} mutants", mutants.len());
    for mutant in mutants {
        mutant.changed();
    }
}

// ---- a copy of the tree

/// All files under `path`, or itself.
fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| files(entry, found));
    } else if path.exists() {
        found.push(path.to_path_buf());
    }
}

/// What goes into a copy, and what it is called there.
fn slim() -> BTreeMap<String, String> {
    let mut paths = Vec::new();
    for part in ["Cargo.toml", "Cargo.lock", "proto", "tests/scripts.rs", "tests/scripts"] {
        files(&root().join(part), &mut paths);
    }
    let mut rooms = String::new();
    for room in ROOMS {
        let before = paths.len();
        files(&root().join(format!("src/{room}.rs")), &mut paths);
        files(&root().join(format!("src/{room}")), &mut paths);
        if paths.len() > before {
            writeln!(rooms, "pub mod {room};").unwrap();
        }
    }
    let relative = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
    let read = |path: &PathBuf| fs::read_to_string(path).unwrap();
    let mut slim: BTreeMap<String, String> = paths.iter().map(|path| (relative(path), read(path))).collect();
    slim.insert("src/lib.rs".into(), rooms);
    slim.insert("src/main.rs".into(), fs::read_to_string(root().join("tests/mutants/driver.rs")).unwrap());
    let package = slim["Cargo.toml"].replace("default-run = \"quorate\"\n", "");
    slim.insert("Cargo.toml".into(), package);
    let without_services = "tonic_prost_build::configure().build_client(false).build_server(false)";
    let build = slim["proto/build.rs"].replace("tonic_prost_build::configure()", without_services);
    slim.insert("proto/build.rs".into(), build);
    slim
}

/// The copy of a job, and the name of its package: all are built into the same directory, to share the dependencies, and
/// what has the same name there is taken for the same.
fn tree_of(job: usize) -> (PathBuf, String) {
    (root().join(format!("target/mutants/{job}")), format!("mutant-{job}"))
}

/// Writes what differs: untouched files keep their times, so that little is built anew.
fn write(job: usize, mut slim: BTreeMap<String, String>) {
    let (tree, name) = tree_of(job);
    let package = slim["Cargo.toml"].replace("\nname = \"quorate\"\n", &format!("\nname = \"{name}\"\n"));
    slim.insert("Cargo.toml".into(), package + "\n[lib]\nname = \"quorate\"\n");
    for (path, text) in slim {
        let path = tree.join(path);
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
}

// ---- the killers

/// The programs of a built copy.
struct Built {
    tree: PathBuf,
    scripts: PathBuf,
    driver: PathBuf,
}

/// Builds one target of a copy's tests: its program, or what the compiler says.
fn build(tree: &Path, target: &[&str]) -> Result<PathBuf, String> {
    let out = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--no-run"])
        .args(target)
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", root().join("target"))
        .envs([
            ("CARGO_PROFILE_DEV_OPT_LEVEL", "1"),
            ("CARGO_PROFILE_DEV_DEBUG", "0"),
            ("CARGO_PROFILE_TEST_DEBUG", "0"),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    let line = said.lines().find(|line| line.contains("Executable"));
    let path = line.and_then(|line| Some(line.rsplit_once('(')?.1.trim_end_matches(')')));
    path.map(|path| tree.join(path)).ok_or_else(|| said.to_string())
}

impl Built {
    fn of(job: usize) -> Built {
        let (tree, name) = tree_of(job);
        let scripts = build(&tree, &["--test", "scripts"]).unwrap_or_else(|why| panic!("it does not compile:\n{why}"));
        Built { tree, scripts, driver: root().join("target/debug").join(name) }
    }

    /// Runs a program of the copy for `seconds` at most: its words, and whether it ended.
    fn run(&self, program: &Path, args: &[&str], seconds: u32) -> (String, bool) {
        let mut command = Command::new("timeout");
        command.arg(seconds.to_string()).arg(program).args(args);
        let out = command.current_dir(&self.tree).output().unwrap();
        (String::from_utf8_lossy(&out.stdout).into_owned(), out.status.code() != Some(124))
    }

    /// The tests that fail.
    fn failed(&self, program: &Path, args: &[&str], seconds: u32) -> Vec<String> {
        let (words, ended) = self.run(program, args, seconds);
        let failed = words.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        let mut failed: Vec<String> = failed.map(String::from).collect();
        if !ended {
            failed.push("one that does not end".into());
        }
        failed
    }

    fn failed_scripts(&self) -> Vec<String> {
        self.failed(&self.scripts, &[], 60)
    }

    fn failed_tests(&self) -> Vec<String> {
        let tests = build(&self.tree, &["--lib"]).unwrap_or_else(|why| panic!("its tests do not compile:\n{why}"));
        let skips = CHANCE.iter().flat_map(|name| ["--skip", name]);
        self.failed(&tests, &skips.collect::<Vec<_>>(), 120)
    }

    /// The scripts that fail, or if there are none the tests.
    fn killers(&self) -> Vec<String> {
        let scripts = self.failed_scripts();
        if scripts.is_empty() { self.failed_tests() } else { scripts }
    }

    /// What the drivers say last, from each base.
    fn found(&self, most: u64) -> String {
        let from = |base: u64| {
            let (words, _) = self.run(&self.driver, &[&(base * 1_000_000).to_string(), &most.to_string()], 3600);
            words.lines().next_back().unwrap_or_default().to_string()
        };
        (1..=BASES).map(from).collect::<Vec<_>>().join("\n")
    }
}

/// What the simulator found.
#[derive(Clone)]
struct Found {
    /// After how many seeds; `u64::MAX`: it did not.
    seeds: u64,
    law: String,
}

/// What became of a mutant.
struct Outcome {
    /// The scripts that fail, or else the tests.
    killers: Vec<String>,
    found: Vec<Found>,
}

impl Outcome {
    fn of(mutant: &Mutant, slim: &BTreeMap<String, String>, job: usize, most: u64) -> Outcome {
        // The simulator sees no test: what it found stays found when there is a new one.
        let is_test = |path: &str| path.contains("tests");
        let (killers_at, found_at) = (kept_at(mutant, slim, |_| true), kept_at(mutant, slim, |path| !is_test(path)));
        let kept = |path: &Path| fs::read_to_string(path).ok();
        let mut killers = kept(&killers_at);
        let mut found = kept(&found_at).filter(|text| is_enough(&read_found(text), text, most));
        if killers.is_none() || found.is_none() {
            let mut mutated = slim.clone();
            mutated.extend(mutant.changed());
            write(job, mutated);
            let built = Built::of(job);
            fs::write(killers_at, killers.get_or_insert_with(|| built.killers().join("\n"))).unwrap();
            let simulate = || match mutant.unseen {
                Some(_) => format!("{}\n", u64::MAX),
                None if most == 0 => "0\n".to_string(),
                None => format!("{most}\n{}", built.found(most)),
            };
            fs::write(found_at, found.get_or_insert_with(simulate)).unwrap();
        }
        let (killers, found) = (killers.unwrap_or_default(), found.unwrap_or_default());
        Outcome { killers: killers.lines().map(String::from).collect(), found: read_found(&found) }
    }

    /// Seeds that the simulator needed, in the median and at worst; `None`: it was not asked.
    fn seeds(&self) -> Option<(u64, u64)> {
        Some((self.found.get(self.found.len() / 2)?.seeds, self.found.last()?.seeds))
    }

    /// Whether the gate lets it pass; else why not.
    fn verdict(&self) -> Result<(), &'static str> {
        if self.killers.is_empty() {
            return Err("no script and no test sees it");
        }
        let soon = |(median, worst)| median <= MEDIAN_MAX && worst < u64::MAX;
        if self.seeds().is_none_or(soon) { Ok(()) } else { Err("the simulator does not see it soon enough") }
    }

    fn row(&self, mutant: &Mutant) -> String {
        let killers = match &self.killers[..] {
            [] => "–".to_string(),
            [one] => format!("`{one}`"),
            [one, more @ ..] => format!("`{one}` and {} more", more.len()),
        };
        let number = |seeds: u64| if seeds == u64::MAX { "–".into() } else { seeds.to_string() };
        let simulated = match (self.seeds(), self.found.first()) {
            (Some((median, worst)), Some(Found { law, .. })) => {
                format!("{} | {} | {}", if median == u64::MAX { "–" } else { law }, number(median), number(worst))
            }
            _ => " | | ".to_string(),
        };
        let why = mutant.unseen.as_ref().map(|why| format!(" *Not for the simulator: {why}.*")).unwrap_or_default();
        let Mutant { name, trap, law, .. } = mutant;
        format!("| {trap} | `{name}` | {law}{why} | {killers} | {simulated} |")
    }
}

/// From what the drivers said last, after a line with their patience: the quickest first.
fn read_found(text: &str) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for line in text.lines().skip(1).take(BASES as usize) {
        let (seeds, law) = line.split_once(' ').unwrap_or((line, "it does not end"));
        found.push(Found { seeds: seeds.parse().unwrap_or(u64::MAX), law: law.into() });
    }
    found.sort_by_key(|found| found.seeds);
    found
}

/// Whether the simulator found the mutant each time, or was as patient as it would be now.
fn is_enough(found: &[Found], text: &str, most: u64) -> bool {
    let patience = text.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0);
    patience >= most || found.last().is_some_and(|found| found.seeds < u64::MAX)
}

/// Where an outcome is kept: a name that changes with everything that it depends on.
fn kept_at(mutant: &Mutant, slim: &BTreeMap<String, String>, depends: impl Fn(&str) -> bool) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    mutant.text.hash(&mut hasher);
    slim.iter().filter(|(path, _)| depends(path)).for_each(|file| file.hash(&mut hasher));
    let kept = root().join("target/mutants/outcomes");
    fs::create_dir_all(&kept).unwrap();
    kept.join(format!("{}-{:016x}", mutant.name, hasher.finish()))
}

#[test]
#[ignore = "takes minutes to hours"]
fn every_mutant_is_killed() {
    let number = |name: &str, default| std::env::var(name).ok().map_or(default, |n| n.parse().unwrap());
    let (jobs, most) = (number("MUTANTS_JOBS", 1), number("MUTANTS_SEEDS", 5000));
    let wanted = std::env::var("MUTANTS").unwrap_or_default();
    let slim = slim();
    write(0, slim.clone());
    let sound = Built::of(0);
    assert_eq!((sound.failed_scripts(), sound.failed_tests()), (vec![], vec![]), "the tree itself is not sound");

    let is_wanted = |mutant: &Mutant| wanted.split(',').any(|part| mutant.name.contains(part));
    let queue: Vec<Mutant> = mutants().into_iter().filter(is_wanted).collect();
    let (next, done) = (Mutex::new(queue.iter().enumerate()), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for job in 0..jobs as usize {
            let (next, done, slim) = (&next, &done, &slim);
            scope.spawn(move || {
                loop {
                    let Some((place, mutant)) = next.lock().unwrap().next() else { return };
                    let outcome = Outcome::of(mutant, slim, job, most);
                    let verdict = outcome.verdict().err().map(|why| format!("  <- {why}")).unwrap_or_default();
                    println!("{}{verdict}", outcome.row(mutant));
                    done.lock().unwrap().insert(place, outcome);
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    let mut table =
        "| trap | mutant | the law that it breaks | killed by | in simulation by | seeds, median | worst |\n\
                     |---|---|---|---|---|---|---|\n"
            .to_string();
    done.iter().for_each(|(place, outcome)| table += &format!("{}\n", outcome.row(&queue[*place])));
    if let Ok(path) = std::env::var("MUTANTS_TABLE") {
        fs::write(root().join(path), &table).unwrap();
    }
    let alive: Vec<&str> = done.values().filter_map(|outcome| outcome.verdict().err()).collect();
    assert!(alive.is_empty(), "{} of {} survive: {alive:?}", alive.len(), queue.len());
}

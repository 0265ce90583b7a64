//! The score that proves the tests.
//!
//! A mutant is a bug that we put in on purpose: a small patch in `tests/mutants/`, one per trap that Raft cores have fallen
//! into. The tests are good if every mutant is *killed*: by a script or a unit or property test, which name what is
//! broken, and by the simulator, which must find it by chance in few seeds. What survives is a hole in the tests. The laws
//! of the simulator are judged by the same runs: one by which no mutant is seen may be blind.
//!
//! ```text
//! cargo test --release --test mutants -- --ignored --nocapture every     all of them, printed as a table
//! MUTANTS=read,vote cargo test …                                         those whose names contain one of these
//! MUTANTS_JOBS=2 MUTANTS_SEEDS=1000 cargo test …                         two at a time; less patience
//! MUTANTS_SEEDS=0 cargo test …                                           the simulator is not asked at all
//! MUTANTS_TABLE=src/docs/mutants_table.md cargo test …                   and writes the tables
//! MUTANTS_LISTED=mutants.json cargo test … listed                        those that cargo-mutants has listed
//! ```
//!
//! # A patch
//!
//! Lines of `name: value`, an empty line, a unified diff. `trap` is its number in the literature's list, `law` the sentence
//! that it breaks, `breaks` the invariants. `unseen` says why no simulator can see it, and then none is asked; `worlds` says in
//! which worlds it is looked for (`mutants/driver.rs`), where chance would seldom make those that can show it. A hunk
//! applies where its lines stand, wherever that is, so that patches survive edits elsewhere; they must stand there once.
//! Every change is in a function's body.
//!
//! # One build
//!
//! A program that is every mutant is built once (`mutants/copy.rs`, `mutants/switch.rs`): a function that mutants change has all
//! of their bodies, and the environment says which is run. `mutants/judge.rs` runs its scripts, tests and simulator as each of
//! them; `mutants/laws.rs` reads off what the laws are good for; `mutants/listed.rs` has mutants made by rule.

#![expect(clippy::unwrap_used, reason = "a test that can't read the tree has failed")]

#[path = "mutants/copy.rs"]
mod copy;
#[path = "mutants/judge.rs"]
mod judge;
#[path = "mutants/laws.rs"]
mod laws;
#[path = "mutants/listed.rs"]
mod listed;
#[path = "mutants/patch.rs"]
mod patch;
#[path = "mutants/switch.rs"]
mod switch;

use copy::Copy;
use judge::{MEDIAN_MAX, Outcome, killers};
use patch::Mutant;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

/// The simulator's patience for a mutant, from each base.
const PATIENCE: u64 = 5000;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |n| n.parse().unwrap())
}

/// Those that `MUTANTS` names a part of.
fn wanted(mutants: &[Mutant]) -> Vec<Mutant> {
    let parts = std::env::var("MUTANTS").unwrap_or_default();
    let is_wanted = |mutant: &&Mutant| parts.split(',').any(|part| mutant.name.contains(part));
    mutants.iter().filter(is_wanted).cloned().collect()
}

/// Does `work` for each mutant, `MUTANTS_JOBS` at a time: what came of it, in their order.
fn each<T: Send>(mutants: &[Mutant], work: impl Fn(&Mutant) -> T + Sync) -> Vec<(&Mutant, T)> {
    let (next, done) = (Mutex::new(mutants.iter()), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..number("MUTANTS_JOBS", 1) {
            scope.spawn(|| {
                loop {
                    let Some(mutant) = next.lock().unwrap().next() else { return };
                    let outcome = work(mutant);
                    done.lock().unwrap().insert(mutant.number, (mutant, outcome));
                }
            });
        }
    });
    done.into_inner().unwrap().into_values().collect()
}

#[test]
fn every_mutant_applies_and_says_what_it_breaks() {
    let (mutants, slim) = (patch::all(), copy::slim());
    assert!(mutants.len() >= 40, "{} mutants", mutants.len());
    for (file, text) in &slim {
        let own: Vec<Mutant> = mutants.iter().filter(|m| m.changes.iter().any(|c| c.file == *file)).cloned().collect();
        let (_, branches) = switch::switched(file, text, &own);
        assert!(branches.len() >= own.len(), "{file}");
    }
    let unknown = mutants.iter().flat_map(|m| &m.changes).find(|change| !slim.contains_key(&change.file));
    assert!(unknown.is_none(), "{unknown:?} is in no room that decides");
}

#[test]
#[ignore = "takes minutes to hours"]
fn every_mutant_is_killed() {
    let most = number("MUTANTS_SEEDS", PATIENCE);
    let (all, slim) = (patch::all(), copy::slim());
    let copy = Copy::build("mutants", &slim, &all)
        .unwrap_or_else(|refused| panic!("no Rust: {:?}\n{}", refused.mutants, refused.said));
    assert_eq!(killers(&copy, &Mutant::default()), [""; 0], "the tree itself is not sound");

    let wanted = wanted(&all);
    let done = each(&wanted, |mutant| {
        let outcome = Outcome::of(mutant, &slim, &copy, most);
        let verdict = outcome.verdict().err().map(|why| format!("  <- {why}")).unwrap_or_default();
        println!("{}{verdict}", outcome.row(mutant));
        outcome
    });
    let mut table = format!(
        "{} mutants; the simulator has looked for each from {} first seeds on, in {most} worlds at most.\n\n\
         | trap | mutant | the law that it breaks | killed by | in simulation by | seeds, median | worst |\n\
         |---|---|---|---|---|---|---|\n",
        done.len(),
        judge::BASES,
    );
    done.iter().for_each(|(mutant, outcome)| writeln!(table, "{}", outcome.row(mutant)).unwrap());
    let laws = laws::table(&done);
    println!("\n{laws}");
    if let Ok(path) = std::env::var("MUTANTS_TABLE") {
        fs::write(root().join(path), format!("{table}\nWhat the laws are good for:\n\n{laws}")).unwrap();
    }
    let late = |(mutant, outcome): &(&Mutant, Outcome)| outcome.verdict().err().map(|why| (mutant.name.clone(), why));
    let alive: Vec<(String, &str)> = done.iter().filter_map(late).collect();
    assert!(
        alive.is_empty(),
        "{} of {} survive, or longer than {MEDIAN_MAX} seeds: {alive:#?}",
        alive.len(),
        done.len()
    );
    let idle = laws::idle(&done);
    assert!(wanted.len() < all.len() || most == 0 || idle.is_empty(), "no mutant is seen by {idle:?}");
}

#[test]
#[ignore = "takes minutes to hours, and a list"]
fn every_listed_mutant_is_killed() {
    let path = std::env::var("MUTANTS_LISTED").expect("MUTANTS_LISTED: what `cargo mutants --list --json` has printed");
    let most = number("MUTANTS_SEEDS", listed::SEEDS);
    let (mutants, others) = listed::read(&path);
    let count = mutants.len();
    let slim = copy::slim();
    let (copy, mutants) = listed::build(&slim, mutants);
    println!("{} mutants; {} are no Rust, {others} in no function", mutants.len(), count - mutants.len());
    assert_eq!(killers(&copy, &Mutant::default()), [""; 0], "the tree itself is not sound");
    let wanted = wanted(&mutants);
    let done = each(&wanted, |mutant| {
        let seen = listed::seen_by(mutant, &slim, &copy, most);
        println!("{}: {}", mutant.name, seen.as_deref().unwrap_or("<- survives"));
        seen
    });
    let alive: Vec<&Mutant> = done.iter().filter(|(_, seen)| seen.is_none()).map(|(mutant, _)| *mutant).collect();
    let by_simulator = done.iter().filter(|(_, seen)| seen.as_ref().is_some_and(|s| s.starts_with("the simulator")));
    println!("{} survive; {} are seen by the simulator alone", alive.len(), by_simulator.count());
    let known = fs::read_to_string(root().join("src/docs/survivors.md")).unwrap_or_default();
    let new: Vec<&str> = alive.iter().map(|m| m.name.as_str()).filter(|name| !known.contains(name)).collect();
    assert!(new.is_empty(), "{} survive without a reason:\n{}", new.len(), new.join("\n"));
}

//! Mutants that nobody thought of: those that `cargo mutants --list --json` makes of the code by rule.
//!
//! Each is a span of a file and what stands there instead. Those that are no Rust are left out, the compiler says which; the
//! others are put into one copy, as our own are. Scripts and tests come first, then a few seeds of the simulator. A survivor
//! must have its line in `src/docs/survivors.md`, where the reason stands.

use crate::copy::Copy;
use crate::judge::{kept_at, killers, quick_killers, simulated};
use crate::patch::{Change, Mutant};
use crate::root;
use crate::switch::is_inside;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// Their numbers begin here.
const FIRST: u32 = 10_000;
/// So many seeds for what scripts and tests do not see.
pub const SEEDS: u64 = 60;

/// Those of the list that stand in functions' bodies, and how many do not.
pub fn read(path: &str) -> (Vec<Mutant>, usize) {
    let list: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let all: Vec<Mutant> = list.iter().zip(FIRST..).map(|(listed, number)| parse(listed, number)).collect();
    let count = all.len();
    let can_be_chosen = |mutant: &Mutant| mutant.changes.iter().all(|change| is_inside(change, &text_of(&change.file)));
    let mutants: Vec<Mutant> = all.into_iter().filter(can_be_chosen).collect();
    let others = count - mutants.len();
    (mutants, others)
}

fn text_of(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

fn parse(listed: &Value, number: u32) -> Mutant {
    let word = |key: &str| listed[key].as_str().unwrap_or_else(|| panic!("no {key}: {listed}")).to_string();
    let file = word("file");
    let text = text_of(&file);
    let place = |end: &str| {
        let number = |key: &str| listed["span"][end][key].as_u64().unwrap() as usize - 1;
        let line_at: usize = text.split_inclusive('\n').take(number("line")).map(str::len).sum();
        let line = &text[line_at..];
        line_at + line.char_indices().nth(number("column")).map_or(line.len(), |(at, _)| at)
    };
    let at = place("start")..place("end");
    let line = text[..at.start].lines().count().max(1) - 1;
    let line = text.lines().nth(line).unwrap_or_default().trim();
    // Not where it stands, but what: a name that survives edits elsewhere.
    let what = word("name").splitn(4, ':').nth(3).unwrap_or_default().trim().to_string();
    let name = format!("`{file}: {what}` in `{line}`");
    let changes = vec![Change { file, at, new: word("replacement") }];
    Mutant { number, text: format!("{name} {changes:?}"), name, changes, ..Mutant::default() }
}

/// A copy of all that the compiler takes, and those. Which it does not take is kept.
pub fn build(slim: &BTreeMap<String, String>, mut mutants: Vec<Mutant>) -> (Copy, Vec<Mutant>) {
    let all = mutants.iter().map(|mutant| mutant.text.as_str()).collect();
    let kept = kept_at(&Mutant { number: FIRST - 1, text: all, ..Mutant::default() }, slim, |_| true);
    let mut no_rust: BTreeSet<u32> =
        fs::read_to_string(&kept).unwrap_or_default().lines().map(|number| number.parse().unwrap()).collect();
    loop {
        mutants.retain(|mutant| !no_rust.contains(&mutant.number));
        match Copy::build("mutants-listed", slim, &mutants) {
            Ok(copy) => return (copy, mutants),
            Err(refused) if refused.mutants.is_empty() => panic!("the copy is no Rust:\n{}", refused.said),
            Err(refused) => no_rust.extend(refused.mutants),
        }
        let lines: String = no_rust.iter().map(|number| format!("{number}\n")).collect();
        fs::write(&kept, lines).unwrap();
    }
}

/// Who sees a mutant: a test, or a law of the simulator, which is asked for `most` seeds at most; `None`: it survives. What is
/// quick, and likely to see it, comes first; with no seeds, that is all.
pub fn seen_by(mutant: &Mutant, slim: &BTreeMap<String, String>, copy: &Copy, most: u64) -> Option<String> {
    let kept = kept_at(mutant, slim, |_| true);
    if let Ok(seen) = fs::read_to_string(&kept) {
        return (!seen.is_empty()).then_some(seen);
    }
    let simulated = |most| match simulated(copy, mutant, 1, most).as_str() {
        "none" => None,
        said => Some(format!("the simulator: {said}")),
    };
    let quick = quick_killers(copy, mutant).into_iter().next();
    let slow = || simulated(most / 3).or_else(|| killers(copy, mutant).into_iter().next()).or_else(|| simulated(most));
    let seen = if most == 0 { quick } else { quick.or_else(slow) };
    if most > 0 || seen.is_some() {
        fs::write(&kept, seen.as_deref().unwrap_or_default()).unwrap();
    }
    seen
}

//! Which laws are needed: by which of them mutants are seen first, and whether anything else would have seen them.

use crate::judge::Outcome;
use crate::patch::Mutant;
use quorate::sim::laws::Law;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Laws by which no mutant of ours is seen first, and why they are kept.
pub const NEVER_FIRST: [(Law, &str); 4] = [
    (
        Law::ElectionSafety,
        "who leads beside another one has a vote twice or none of a quorum, which durable-vote and elected see",
    ),
    (
        Law::LeaderCompleteness,
        "who leads without what is committed was given a vote that fair-vote or durable-vote has seen",
    ),
    (
        Law::StateMachineSafety,
        "who commits something else counted, acknowledged or followed wrongly, which is seen as it happens",
    ),
    (Law::Deterministic, "there is no clock and no chance below the shells that a mutant of a few lines could ask"),
];

/// A line for each law: the mutants that it sees first, and in how many of those worlds no other law is broken.
pub fn table(done: &[(&Mutant, Outcome)]) -> String {
    let mut table =
        "| law | mutants that it sees first | worlds | of them seen by nothing else |\n|---|---|---|---|\n".to_string();
    for law in Law::ALL {
        let (mut numbers, mut worlds, mut alone) = (BTreeSet::new(), 0, 0);
        for (mutant, outcome) in done {
            for found in outcome.found.iter().filter(|found| found.law == law.name()) {
                numbers.insert(mutant.number);
                worlds += 1;
                alone += u32::from(found.other == "-");
            }
        }
        let few: Vec<String> = numbers.iter().take(8).map(ToString::to_string).collect();
        let more = numbers.len().saturating_sub(few.len());
        let mutants = match NEVER_FIRST.iter().find(|(known, _)| numbers.is_empty() && *known == law) {
            Some((_, why)) => format!("none: {why}"),
            None if more > 0 => format!("{} and {more} more", few.join(", ")),
            None => few.join(", "),
        };
        writeln!(table, "| {law} | {mutants} | {worlds} | {alone} |").unwrap();
    }
    table
}

/// Laws that could be switched off and no mutant would be missed, without a reason.
pub fn idle(done: &[(&Mutant, Outcome)]) -> Vec<Law> {
    let is_first = |law: Law| done.iter().any(|(_, outcome)| outcome.found.iter().any(|f| f.law == law.name()));
    let has_reason = |law: Law| NEVER_FIRST.iter().any(|(known, _)| *known == law);
    Law::ALL.into_iter().filter(|law| !is_first(*law) && !has_reason(*law)).collect()
}

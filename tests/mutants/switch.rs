//! All mutants in one text: a function that some of them change gets all of its bodies, and asks which one it is.
//!
//! The sources are formatted, so a function is found by its lines: from the one with `fn` to the first that ends in an opening
//! brace, and from there to the closing brace that stands as far to the right as the function. A function within a function is
//! part of it. Each body is a whole one, so `return`, `?` and borrows mean in it what they meant before.

use crate::patch::{Change, Mutant};
use std::ops::Range;

/// Lines of a switched file (the first is 1) that are one mutant's.
#[derive(Clone, Debug)]
pub struct Branch {
    pub file: String,
    pub lines: Range<usize>,
    pub number: u32,
}

/// Bytes of a file: those up to the brace that opens a function, and those between it and the one that closes it.
struct Function {
    header: Range<usize>,
    body: Range<usize>,
}

fn is_header(line: &str) -> bool {
    let line = line.trim_start();
    let visible = match line.strip_prefix("pub(") {
        Some(rest) => rest.split_once(") ").map_or(rest, |(_, rest)| rest),
        None => line.strip_prefix("pub ").unwrap_or(line),
    };
    let plain = visible.strip_prefix("const ").unwrap_or(visible);
    plain.starts_with("fn ")
}

/// The functions of a file that stand in no other one.
fn functions(text: &str) -> Vec<Function> {
    let mut starts = vec![0];
    starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let first = at;
        at += 1;
        if !is_header(lines[first]) {
            continue;
        }
        let ends = |line: &&str| line.trim_end().ends_with(['{', '}', ';']);
        let Some(opens) = lines[first..].iter().position(ends).map(|after| first + after) else { continue };
        if !lines[opens].ends_with("{\n") {
            continue; // it has no body, or one without lines
        }
        let indent = lines[first].len() - lines[first].trim_start().len();
        let closing = format!("{}}}\n", &lines[first][..indent]);
        let Some(closes) = lines[opens..].iter().position(|line| *line == closing).map(|after| opens + after) else {
            continue;
        };
        found.push(Function { header: starts[first]..starts[opens + 1], body: starts[opens + 1]..starts[closes] });
        at = closes;
    }
    found
}

/// The body of a function with the changes made.
fn changed(text: &str, body: &Range<usize>, mut changes: Vec<&Change>) -> String {
    changes.sort_by_key(|change| std::cmp::Reverse(change.at.start));
    let mut new = text[body.clone()].to_string();
    for Change { at, new: instead, .. } in changes {
        new.replace_range(at.start - body.start..at.end - body.start, instead);
    }
    new
}

/// Whether a change of a file with this text is in a function's body.
pub fn is_inside(change: &Change, text: &str) -> bool {
    functions(text).iter().any(|Function { body, .. }| holds(body, change))
}

fn holds(body: &Range<usize>, change: &Change) -> bool {
    body.start <= change.at.start && change.at.end <= body.end
}

/// The text of `file` with what all mutants make of it, and which of its lines are whose.
///
/// # Panics
/// If a change is outside of all functions: it could not be chosen when the program runs.
pub fn switched(file: &str, text: &str, mutants: &[Mutant]) -> (String, Vec<Branch>) {
    let functions = functions(text);
    let mut bodies: Vec<Vec<(u32, String)>> = functions.iter().map(|_| Vec::new()).collect();
    for mutant in mutants {
        let mut own: Vec<&Change> = mutant.changes.iter().filter(|change| change.file == file).collect();
        for (place, Function { body, .. }) in functions.iter().enumerate() {
            let (here, elsewhere) = own.into_iter().partition::<Vec<_>, _>(|change| holds(body, change));
            own = elsewhere;
            if !here.is_empty() {
                bodies[place].push((mutant.number, changed(text, body, here)));
            }
        }
        assert!(own.is_empty(), "{}: a change is in no function's body: {own:?}", mutant.name);
    }
    let (mut out, mut branches, mut done) = (String::new(), Vec::new(), 0);
    for (Function { header, body }, bodies) in functions.iter().zip(bodies) {
        if bodies.is_empty() {
            continue;
        }
        out += &text[done..header.start];
        let header = &text[header.clone()];
        out += &header.replacen("const fn ", "fn ", 1); // the choice is made when the program runs
        let (before, between, after) = match header.contains("-> impl Iterator") {
            true => ("{ crate::mutant::Either::One({\n", "}) } else { crate::mutant::Either::Other(", ") }"),
            false => ("{\n", "} else ", ""),
        };
        let afters = after.repeat(bodies.len());
        for (number, body) in bodies {
            out += &format!("if crate::mutant::is({number}) {before}");
            let first = out.lines().count() + 1;
            out += &body;
            branches.push(Branch { file: file.into(), lines: first..out.lines().count() + 1, number });
            out += between;
        }
        out += &format!("{{\n{}}}{afters}\n", &text[body.clone()]);
        done = body.end;
    }
    (out + &text[done..], branches)
}

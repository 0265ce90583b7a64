//! A verdict, for people and as JSON.

use crate::check::history::Operation;
use crate::check::linear::Outcome as Found;
use crate::check::sequence::{Kept, Violation};
use crate::check::{Counts, Verdict};
use crate::cli::bench::thousands;
use crate::cli::output::plural;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A verdict and what it is about.
pub struct Judged<'a> {
    /// The verdict.
    pub verdict: &'a Verdict,
    /// The history.
    pub operations: &'a [Operation],
    /// Whether others wrote to the store.
    pub shared: bool,
    /// The budget of the search.
    pub search_states: u64,
}

impl Judged<'_> {
    /// For people: KEPT or BROKEN, and why; ends with a newline. `name_of` says where an operation stands.
    pub fn text(&self, name_of: &dyn Fn(usize) -> String) -> String {
        let mut out = String::new();
        let bold = anstyle::Style::new().bold();
        match &self.verdict.sequence {
            Ok(kept) if self.verdict.is_kept() => {
                let _ = writeln!(out, "{bold}KEPT{bold:#} its word up to revision {}", kept.revision);
            }
            _ => self.broken(&mut out, name_of),
        }
        let _ = writeln!(out, "  {}", counts(&self.verdict.counts));
        if let Ok(Kept { unidentified: holes @ 1.., .. }) = &self.verdict.sequence {
            let _ = writeln!(
                out,
                "  {} made by operations of unknown outcome; which made which can't be told",
                plural(*holes as u64, "revision")
            );
        }
        let search = match &self.verdict.search {
            None => return out,
            Some(Found::Linearizable) => "there is an order in which every answer is right".to_owned(),
            Some(Found::Violation(_)) => "there is no order in which every answer is right".to_owned(),
            Some(Found::Unknown(_)) => format!(
                "no order was found or ruled out within {} (--search-states)",
                plural(self.search_states, "state")
            ),
        };
        let _ = writeln!(out, "  search: {search}");
        out
    }

    fn broken(&self, out: &mut String, name_of: &dyn Fn(usize) -> String) {
        let red = anstyle::AnsiColor::Red.on_default().bold();
        let _ = writeln!(out, "{red}BROKEN{red:#}\n  {}", self.verdict);
        for place in self.verdict.places() {
            let line = serde_json::to_string(&self.operations[place]).unwrap_or_default();
            let _ = writeln!(out, "  {}: {line}", name_of(place));
        }
        let revisions = matches!(
            self.verdict.sequence,
            Err(Violation::Phantom { .. } | Violation::WrongShape { .. } | Violation::PhantomValue { .. })
        );
        if revisions && !self.shared {
            let _ = writeln!(out, "  if the store was not empty at first, or others wrote to it, judge with --shared");
        }
    }

    /// As JSON. `lines` are those of the operations in their file, if they are in one.
    pub fn json(&self, lines: Option<&[usize]>) -> Value {
        let Counts { operations, writes, linearizable_reads, serializable_reads, refused, unknown, clients } =
            self.verdict.counts;
        let places = self.verdict.places();
        let witnesses: Vec<&Operation> = places.iter().map(|&place| &self.operations[place]).collect();
        let lines: Option<Vec<usize>> = lines.map(|lines| places.iter().map(|&place| lines[place]).collect());
        let kept = self.verdict.sequence.as_ref().ok();
        json!({
            "kept": self.verdict.is_kept(),
            "violation": (!self.verdict.is_kept()).then(|| self.verdict.to_string()),
            "witnesses": witnesses,
            "lines": lines,
            "revision": kept.map(|kept| kept.revision),
            "unidentified_revisions": kept.map(|kept| kept.unidentified),
            "search": match &self.verdict.search {
                None => "off",
                Some(Found::Linearizable) => "linearizable",
                Some(Found::Violation(_)) => "violation",
                Some(Found::Unknown(_)) => "unknown",
            },
            "operations": operations,
            "clients": clients,
            "writes": writes,
            "linearizable_reads": linearizable_reads,
            "serializable_reads": serializable_reads,
            "refused": refused,
            "unknown": unknown,
        })
    }
}

fn counts(counts: &Counts) -> String {
    let Counts { operations, writes, linearizable_reads, serializable_reads, refused, unknown, clients } = *counts;
    let n = |count: usize| thousands(count as u64);
    let of = |count: usize, noun: &str| plural(count as u64, noun);
    format!(
        "{} by {}: {}, {}, {} serializable; {} refused, {} of unknown outcome",
        of(operations, "operation"),
        of(clients, "client"),
        of(writes, "write"),
        of(linearizable_reads, "linearizable read"),
        n(serializable_reads),
        n(refused),
        n(unknown)
    )
}

//! The connection doctor: which stage fails, and what mends it.
//!
//! A client that only says "deadline exceeded" has thrown away what it could have found out. When a command fails for want
//! of a connection or of a working cluster, the doctor goes the way again, endpoint by endpoint and stage by stage: the
//! name, the connection, TLS, HTTP/2, etcd's calls, a leader, a quorum, room. It names the first stage that fails, with
//! its figures, why, and the command that mends it. `quorate doctor` asks the same without a failure.
//!
//! Three parts: `probe.rs` asks and judges nothing, `facts.rs` is what it found, `verdict.rs` judges and asks nothing.
//!
//! # Invariants
//!
//! 1. A command that succeeds pays nothing: nothing here runs before a failure.
//! 2. It ends within seconds whatever the network does: each stage has a second.
//! 3. It changes nothing anywhere, and never changes the failure's exit code.
//!
//! Left out: authentication, and TLS beyond recognising it.

use super::Global;
use super::exit::{BAD_CONNECTION, Failure, SERVER, UNHEALTHY};
use super::lab_file::{self, LabFile};
use super::output::{Format, print, write};
use serde_json::json;
use std::fmt::Write as _;
use verdict::Verdict;

pub mod facts;
pub mod probe;
#[cfg(test)]
mod tests;
pub mod verdict;

/// `quorate doctor`.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate doctor\n  quorate doctor --endpoints 10.0.0.1:2379,10.0.0.2:2379\n  \
    quorate doctor -w json\n\n\
    Exit code: 0 if every endpoint and every member serves, 5 if one does not, 2 if no member answers at all.")]
pub struct Args {}

/// Runs `quorate doctor`.
///
/// # Errors
/// If something is ill.
pub fn run(global: &Global, _args: Args) -> Result<(), Failure> {
    if matches!(global.write_out, Format::Fields | Format::Table) {
        return Err(Failure::new(SERVER, "doctor has no fields or table form").fix("use -w simple or json"));
    }
    // Refuses what is no address, and flags that ask for what is not there.
    drop(global.client()?);
    let verdicts = examine(global)?;
    match global.write_out {
        Format::Json => write((to_json(&verdicts).to_string() + "\n").as_bytes())?,
        Format::Simple | Format::Table | Format::Fields => print(to_text(&verdicts))?,
    }
    if verdicts.iter().all(Verdict::serves) {
        return Ok(());
    }
    let code = if verdicts.iter().any(Verdict::answers) { UNHEALTHY } else { BAD_CONNECTION };
    Err(Failure::silent(code))
}

/// Adds to a failure that may be the connection's or the cluster's what the doctor finds.
///
/// # Errors
/// The failure, if there is one.
pub fn explain(global: &Global, result: Result<(), Failure>) -> Result<(), Failure> {
    let Err(failure) = result else { return Ok(()) };
    if !failure.calls_the_doctor() {
        return Err(failure);
    }
    // Whoever can't be examined is no worse off than before.
    let Ok(verdicts) = examine(global) else { return Err(failure) };
    let ill: Vec<Verdict> = verdicts.into_iter().filter(|verdict| verdict.outcome.is_err()).collect();
    let has_fix = ill.iter().any(|verdict| verdict.outcome.as_ref().is_err_and(|finding| finding.fix.is_some()));
    let findings =
        if ill.is_empty() { "the cluster works now: whatever it was has passed\n".to_owned() } else { to_text(&ill) };
    Err(failure.finding(findings, has_fix))
}

fn examine(global: &Global) -> Result<Vec<Verdict>, Failure> {
    let endpoints: Vec<String> = global.endpoints().iter().map(|endpoint| facts::bare(endpoint).to_owned()).collect();
    let is_meant = |lab: &LabFile| endpoints.iter().any(|endpoint| lab.node_at(endpoint).is_some());
    let lab = lab_file::running().unwrap_or_default().filter(is_meant);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let scene = runtime.block_on(probe::scene(endpoints, lab));
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();
    Ok(verdict::judge(&scene))
}

fn to_text(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for (place, Verdict { endpoint, outcome }) in verdicts.iter().enumerate() {
        match outcome {
            Ok(well) => {
                let green = anstyle::AnsiColor::Green.on_default().bold();
                _ = writeln!(text, "{green}✓{green:#} {endpoint}  {well}");
            }
            Err(finding) => {
                let colour = if finding.stage == verdict::Stage::Speed {
                    anstyle::AnsiColor::Yellow
                } else {
                    anstyle::AnsiColor::Red
                };
                let bold = colour.on_default().bold();
                _ = writeln!(text, "{bold}✗{bold:#} {endpoint}  {}: {}", finding.stage.name(), finding.what);
                // Neighbours with one fix share it.
                let next = verdicts.get(place + 1).and_then(|next| next.outcome.as_ref().err());
                let fix = finding.fix.as_ref().filter(|_| next.is_none_or(|next| next.fix != finding.fix));
                if let Some(fix) = fix {
                    _ = writeln!(text, "  fix: {fix}");
                }
            }
        }
    }
    text
}

fn to_json(verdicts: &[Verdict]) -> serde_json::Value {
    let shown = |Verdict { endpoint, outcome }: &Verdict| match outcome {
        Ok(well) => json!({ "endpoint": endpoint, "stage": null, "what": well, "fix": null }),
        Err(finding) => {
            json!({ "endpoint": endpoint, "stage": finding.stage.name(), "what": finding.what, "fix": finding.fix })
        }
    };
    json!({
        "well": verdicts.iter().all(Verdict::serves),
        "endpoints": verdicts.iter().map(shown).collect::<Vec<_>>(),
    })
}

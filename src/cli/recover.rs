//! `recover`: what is left of a cluster that lost its quorum, and how to go on with it.

use super::bench::thousands;
use super::exit::{ERROR, Failure};
use super::output::{self, columns};
use crate::offline::Trouble;
use crate::offline::recover::{Found, Verdict, back_up, go_on_alone, judge, look};
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

/// `quorate recover`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate recover /var/lib/quorate/n2 /backup/n3        shows what there is, and asks\n  \
    quorate recover /var/lib/quorate/n2 --dry-run\n\n\
Only for a cluster whose quorum is lost for good: the members that are not found must never come back. Afterwards the survivor is \
a cluster of its own; others join it with empty directories (quorate member add)."
)]
pub struct Args {
    /// The data directories of members that are left; none may be in use.
    #[arg(required = true)]
    directories: Vec<PathBuf>,
    /// Show what there is, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
}

fn failure(trouble: &Trouble) -> Failure {
    Failure::new(ERROR, trouble.to_string())
}

/// Runs `quorate recover`.
pub fn run(args: &Args) -> Result<(), Failure> {
    let found: Result<Vec<Found>, Trouble> = args.directories.iter().map(|path| look(path)).collect();
    let found = found.map_err(|trouble| failure(&trouble))?;
    let verdict = judge(&found).map_err(|trouble| failure(&trouble))?;
    output::print(table(&found, &verdict))?;
    let best = &found[verdict.best];
    if verdict.is_quorum {
        let text = "these are a quorum: nothing is lost, and nothing needs to be recovered".to_owned();
        return if args.dry_run {
            output::print(text + "\n")
        } else {
            Err(Failure::new(ERROR, text).fix("start them"))
        };
    }
    output::print(prospects(best, &verdict))?;
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && !agrees(&best.name())? {
        return Err(Failure::new(ERROR, "nothing was changed"));
    }
    let copy = back_up(&best.path).map_err(|trouble| failure(&trouble))?;
    let position = go_on_alone(&best.path).map_err(|trouble| failure(&trouble))?;
    output::print(format!(
        "a copy of what was there: {}\n{} is the only member since entry {position}; start it as before, then add others:\n  \
         quorate serve --data-dir {} …\n  quorate member add NAME --peer-urls URL\n",
        copy.display(),
        best.name(),
        best.path.display(),
    ))
}

fn table(found: &[Found], verdict: &Verdict) -> String {
    let mut rows =
        vec![["", "MEMBER", "TERM", "LOG ENDS", "APPLIED", "REVISION", "STATE", "DIRECTORY"].map(str::to_owned)];
    for (place, found) in found.iter().enumerate() {
        let survivor = &found.survivor;
        rows.push([
            if place == verdict.best { "→" } else { "" }.to_owned(),
            found.name(),
            survivor.term.to_string(),
            survivor.last.to_string(),
            survivor.applied.index.to_string(),
            survivor.revision.to_string(),
            format!("{:08x}", survivor.digest >> 32),
            found.path.display().to_string(),
        ]);
    }
    columns(&rows)
}

/// What is certain, and what may be lost.
fn prospects(best: &Found, verdict: &Verdict) -> String {
    let survivor = &best.survivor;
    let voters = survivor.configuration.voters().count();
    let missing: Vec<String> = verdict.missing.iter().map(ToString::to_string).collect();
    let tail = survivor.last.index.0.saturating_sub(survivor.applied.index.0);
    let lost = survivor.lost.map_or(String::new(), |mark| {
        format!("its own log lost entries up to {mark} that it had acknowledged; they are gone\n")
    });
    format!(
        "{} of {voters} voters are not here: {}\n\
         {} holds the most. Everything up to entry {} was committed and is kept; {} entries after it are kept too, committed or not.\n\
         {lost}May be lost: what the missing ones committed without it after entry {}.\n\
         The missing ones must never come back: two clusters would claim to be the same one.\n",
        missing.len(),
        missing.join(", "),
        best.name(),
        survivor.applied.index,
        thousands(tail),
        survivor.last.index,
    )
}

/// Asks for the name of the member that is to go on.
fn agrees(name: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(ERROR, "nobody can be asked here").fix("look at --dry-run first, then give --yes"));
    }
    anstream::eprint!("to make {name} the only member, type its name: ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == name)
}

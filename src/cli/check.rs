//! `quorate check`: did the store keep its word?
//!
//! `check FILE` judges a history that was recorded somewhere; `check live` (`live.rs`) records one: clients write to a lab
//! of real processes (`clients.rs`) while its members are killed, frozen and stopped, and then the judge is asked. The
//! judging itself is [`crate::check`]'s; here are files, processes and sentences (`report.rs`).
//!
//! Exit codes: 0 if the store kept its word, 1 if it did not (or the lab failed), 3 if a history can't be read.

mod clients;
mod live;
mod report;

use super::Global;
use super::exit::{self, Failure};
use super::output::{Format, print};
use crate::check::history::Operation;
use crate::check::{self, Options};
use report::Judged;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// States that the search for an order may visit by default: some seconds at most.
const SEARCH_STATES_MAX: u64 = 100_000;

/// `quorate check`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "A history is what clients saw, one operation a line, as JSON:\n\n  \
    {\"client\":1,\"invoked\":1000,\"returned\":2000,\"call\":{\"put\":{\"key\":\"a\",\"value\":\"1\"}},\
    \"outcome\":{\"done\":{\"revision\":2,\"reply\":\"put\"}}}\n\n\
    invoked and returned are nanoseconds on one clock; an outcome is done, refused (surely not done)\n\
    or unknown. Values must be written once each: a value tells who wrote it. The verdict is about all\n\
    operations together: is there one order in which every answer is right?\n\n\
    Examples:\n  quorate check history.jsonl\n  quorate check live --duration 30s --faults kill,pause,stop\n  \
    quorate check live --endpoints 10.0.0.1:2379 --record history.jsonl\n\n\
    Exit code: 0 if the store kept its word, 1 if not, 3 if a history can't be read.")]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    files: FilesArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// Record a history while members are killed, frozen and stopped, and judge it.
    Live(live::Args),
}

#[derive(Clone, Debug, clap::Args)]
struct FilesArgs {
    /// Histories to judge; `-` is stdin.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The store was not empty when the history began, or others wrote to it: its revisions are not all accounted for.
    #[arg(long)]
    shared: bool,
    #[command(flatten)]
    search: SearchArgs,
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct SearchArgs {
    /// States that the search for an order, the second opinion, may visit; 0: it does not run.
    #[arg(long, value_name = "N", default_value_t = SEARCH_STATES_MAX)]
    search_states: u64,
}

/// Runs the command.
///
/// # Errors
/// If the store broke its word (then all was said on stdout), a history can't be read, or the lab failed.
pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    match args.verb {
        Some(Verb::Live(args)) => super::block_on(live::run(global, args)).and_then(|result| result),
        None => files(&args.files, global.write_out == Format::Json),
    }
}

fn files(args: &FilesArgs, json: bool) -> Result<(), Failure> {
    let options = Options { shared: args.shared, search_states_max: args.search.search_states };
    // All are read before the first is judged: a typing error should not cost a minute.
    let histories: Vec<History> = args.files.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    let mut kept = true;
    for History { name, operations, lines } in &histories {
        let verdict = check::judge(operations, options);
        kept &= verdict.is_kept();
        let judged =
            Judged { verdict: &verdict, operations, shared: args.shared, search_states: options.search_states_max };
        let line_of = |place: usize| format!("line {}", lines[place]);
        print(if json {
            format!("{}\n", serde_json::json!({ "file": name, "verdict": judged.json(Some(lines)) }))
        } else {
            format!("{name}: {}", judged.text(&line_of))
        })?;
    }
    if kept { Ok(()) } else { Err(Failure::silent(exit::ERROR)) }
}

/// A history that was read.
struct History {
    name: String,
    operations: Vec<Operation>,
    /// The line of each.
    lines: Vec<usize>,
}

fn read(path: &Path) -> Result<History, Failure> {
    let is_stdin = path == Path::new("-");
    let name = if is_stdin { "stdin".to_owned() } else { path.display().to_string() };
    let mut text = String::new();
    let read = if is_stdin {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|e| {
        Failure::new(exit::INVALID_INPUT, format!("can't read {name}: {e}"))
            .fix("record a history: quorate check live --record FILE")
    })?;
    let (mut operations, mut lines) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why: String| {
            Failure::new(exit::INVALID_INPUT, format!("{name}, line {number}: {why}")).fix(
                "one operation a line, as `quorate check live --record FILE` writes them; see quorate check --help",
            )
        };
        let operation: Operation = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        if operation.returned < operation.invoked {
            return Err(wrong("it returned before it was invoked".to_owned()));
        }
        operations.push(operation);
        lines.push(number);
    }
    if operations.is_empty() {
        return Err(Failure::new(exit::INVALID_INPUT, format!("{name} has no operation: there is nothing to judge"))
            .fix("record a history: quorate check live --record FILE"));
    }
    Ok(History { name, operations, lines })
}

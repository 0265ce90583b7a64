//! `quorate bench compare`: servers that know etcd's flags, side by side in one run.
//!
//! Each `--server NAME=COMMAND` is started as a cluster of its own on the loopback, and all of them stay up for the whole run,
//! so that they share the machine's weather. Each round puts every load on every cluster, one after the other, in an order that
//! turns round from one round to the next. The figures are medians of the rounds; a ratio is the median of what the rounds'
//! own ratios were, so a machine that is slow for a minute is slow for both. Everybody is compared with the last server named.
//!
//! Beside the clusters stands the machine's own limit: a server of the same gRPC library that does nothing (`empty.rs`) gets
//! the same gets, and one small synced append is timed. After the loads members are killed, stopped and frozen
//! (`accidents.rs`), and at last fresh clusters are filled and restarted (`size.rs`).
//!
//! - `fleet.rs` is a cluster's processes and what they have used.
//! - `rows.rs` is what is measured; `report.rs` is the medians, the table and the JSON; `plot.rs` the drawing.
//!
//! Left out: several machines, TLS, watches (`quorate bench watch`), and any judgement: the figures are told as they are.

mod accidents;
pub(super) mod empty;
mod fleet;
mod plot;
mod report;
mod rows;
mod size;

use super::{FILLERS, connect, keys, load, runtime};
use crate::cli::Global;
use crate::cli::exit::{self, Failure};
use crate::cli::go_duration;
use crate::cli::output::{Format, print};
use crate::clock;
use crate::server::sync_probe::SyncProbe;
use crate::time::Duration;
use fleet::{Fleet, Server};
use report::{Report, Sample};
use rows::{Row, Target};
use std::path::{Path, PathBuf};

/// Of the run's own keys, so that reads of the same ones are measured everywhere.
const KEY_BYTES: usize = 24;

/// `quorate bench compare`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quorate bench compare --server 'quorate=quorate serve' --server 'etcd=etcd' --plot ratios.svg\n\n\
    Every server is started with etcd's flags (--name, --data-dir, --initial-cluster, ...) after its command.\n\
    Everybody is compared with the last one named."
)]
pub struct Args {
    /// A server to measure and its command line, once for each.
    #[arg(long = "server", value_name = "NAME=COMMAND", required_unless_present = "list", value_parser = Server::parse)]
    servers: Vec<Server>,
    /// How often each load is put on each cluster.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a load is measured, as 500ms, 5s.
    #[arg(long, default_value = "5s", value_parser = go_duration::parse)]
    duration: Duration,
    /// Load before each measurement begins.
    #[arg(long, default_value = "1s", value_parser = go_duration::parse)]
    warmup: Duration,
    /// Only these loads [default: all; --list names them].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Name the loads, and do nothing.
    #[arg(long)]
    list: bool,
    /// Members of each cluster.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    nodes: u8,
    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    val_size: usize,
    /// How often a leader is killed, stopped and frozen; 0: never.
    #[arg(long, value_name = "N", default_value_t = 5)]
    accidents: u32,
    /// How many keys fresh clusters are filled with, before memory and a restart are measured; 0: not measured.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    keys: u64,
    /// Where the clusters' data and logs are while it runs: on the disk that is to be measured [default: the working directory].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write everything as JSON into this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Draw the ratios into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Runs the comparison.
///
/// # Errors
/// If a cluster can't be started, or stops answering.
pub fn run(global: &Global, args: &Args) -> Result<(), Failure> {
    if args.list {
        return print(rows::all().iter().map(|row| format!("{}\n", row.name)).collect::<String>());
    }
    let rows = chosen(&args.only)?;
    let base = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let dir = base.join(format!("quorate-compare-{}", std::process::id()));
    std::fs::create_dir_all(&dir)
        .map_err(|e| Failure::new(exit::ERROR, format!("{}: {e}", dir.display())).fix("give --dir"))?;
    let outcome = runtime()?.block_on(async {
        tokio::select! {
            outcome = measure(args, &rows, &dir) => outcome,
            () = super::interrupt() => Err(Failure::new(exit::ERROR, "interrupted")),
        }
    });
    // The processes ended with their fleets. Logs of a run that failed may say why.
    match &outcome {
        Ok(_) => std::fs::remove_dir_all(&dir)?,
        Err(_) => anstream::eprintln!("the members' data and logs stay in {}", dir.display()),
    }
    let report = outcome?;
    let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::from)? + "\n";
    write(args.out.as_deref(), &text)?;
    write(args.plot.as_deref(), &plot::svg(&report))?;
    print(if global.write_out == Format::Json { text } else { report.text() })
}

fn write(path: Option<&Path>, text: &str) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, text).map_err(|e| Failure::new(exit::ERROR, format!("can't write {}: {e}", path.display())))
}

fn chosen(only: &[String]) -> Result<Vec<Row>, Failure> {
    let all = rows::all();
    if let Some(name) = only.iter().find(|name| !all.iter().any(|row| row.name == **name)) {
        let failure = Failure::new(exit::BAD_ARGS, format!("--only: there is no load named {name:?}"));
        return Err(failure.fix("quorate bench compare --list"));
    }
    Ok(all.into_iter().filter(|row| only.is_empty() || only.iter().any(|name| name == row.name)).collect())
}

fn say(text: impl AsRef<str>) {
    anstream::eprintln!("  {}", text.as_ref());
}

async fn measure(args: &Args, rows: &[Row], dir: &Path) -> Result<Report, Failure> {
    let sync = SyncProbe::measure(dir)?;
    let mut report = Report::new(args, &sync);
    let mut fleets = start_all(args, dir, "loads").await?;
    let empty = empty::Empty::start().await?;
    for fleet in &fleets {
        fill(&fleet.endpoints(), rows::KEYS, args.val_size).await?;
    }
    for round in 0..args.rounds {
        for row in rows {
            if row.is_get() {
                let sample = once(args, row, &[empty.endpoint()], None).await?;
                report.limit(row, &sample);
            }
            for turn in 0..fleets.len() {
                let place = (turn + round as usize) % fleets.len();
                let fleet = &mut fleets[place];
                let targets = match row.target {
                    Target::All => fleet.endpoints(),
                    Target::Leader => vec![fleet.leader().await?],
                };
                let sample = once(args, row, &targets, Some(fleet)).await?;
                say(format!(
                    "round {} of {}  {:<20} {:<10} {:>8.0} op/s",
                    round + 1,
                    args.rounds,
                    row.name,
                    fleet.name(),
                    sample.per_second
                ));
                report.sample(row, fleet.name(), sample);
            }
        }
    }
    for fleet in &fleets {
        report.figure("peak memory of a member under these loads", "MB", fleet.name(), fleet.peak_mb()?);
    }
    accidents::inflict(args.accidents, &mut fleets, &mut report).await?;
    drop((fleets, empty));
    if args.keys > 0 {
        let mut fleets = start_all(args, dir, "size").await?;
        size::measure(args.keys, args.val_size, &mut fleets, &mut report).await?;
    }
    Ok(report)
}

async fn start_all(args: &Args, dir: &Path, what: &str) -> Result<Vec<Fleet>, Failure> {
    let mut fleets = Vec::new();
    for server in &args.servers {
        let dir = dir.join(what).join(&server.name);
        fleets.push(Fleet::start(server, usize::from(args.nodes), &dir).await?);
    }
    Ok(fleets)
}

/// One load, once.
async fn once(args: &Args, row: &Row, targets: &[String], fleet: Option<&Fleet>) -> Result<Sample, Failure> {
    let connections = row.clients.min(super::CONNECTIONS_MAX).max(targets.len().min(row.clients));
    let plan = load::Plan {
        callers: row.clients,
        channels: connect(targets, connections).await?,
        work: row.work,
        keys: keys_of(row.keys)?,
        sequential: false,
        value: keys::value(args.val_size),
        limit: load::Limit::For(args.duration),
        warmup: args.warmup,
        rate: None,
    };
    // What is used in the warm-up is of the same load, so it is measured over both: used per operation, not per second.
    let (before, began) = (fleet.map(Fleet::usage).transpose()?, clock::instant());
    let measured = load::run(plan, std::future::pending(), |_| ()).await;
    let after = fleet.map(Fleet::usage).transpose()?;
    let used = before.zip(after).map(|(before, after)| (before, after, began.elapsed()));
    Sample::new(row, &measured, used)
}

fn keys_of(count: u64) -> Result<keys::Keys, Failure> {
    keys::Keys::new(KEY_BYTES, count).map_err(|e| Failure::new(exit::BAD_ARGS, e))
}

/// Writes every key once.
async fn fill(targets: &[String], count: u64, val_size: usize) -> Result<(), Failure> {
    let plan = load::Plan {
        callers: FILLERS,
        channels: connect(targets, super::CONNECTIONS_MAX).await?,
        work: super::Work::Mixed { read_ratio: 0.0, serializable: false },
        keys: keys_of(count)?,
        sequential: true,
        value: keys::value(val_size),
        limit: load::Limit::Total(count),
        warmup: Duration::ZERO,
        rate: None,
    };
    let measured = load::run(plan, std::future::pending(), |_| ()).await;
    match measured.recorder.errors().first_key_value() {
        Some((kind, n)) => Err(Failure::new(exit::ERROR, format!("{n} of {count} keys could not be written: {kind}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_load_is_named() {
        assert_eq!(chosen(&[]).unwrap().len(), rows::all().len());
        assert_eq!(chosen(&["put-64".to_owned()]).unwrap().len(), 1);
        assert!(chosen(&["put-65".to_owned()]).unwrap_err().to_string().contains("put-65"));
    }
}

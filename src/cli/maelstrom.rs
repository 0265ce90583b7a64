//! `quorate maelstrom`: one node of a Maelstrom test, on stdin and stdout.
//!
//! Absent: everything that a node does; see `maelstrom`. stdout carries messages only, so what there is to tell goes to
//! stderr, which Maelstrom keeps in a file per node.

use super::exit::{self, Failure};
use crate::clock;
use crate::maelstrom::{self, Settings, Workload};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// How Maelstrom starts it, and how a person tries it.
const EXAMPLES: &str = "Examples:
  quorate maelstrom echo        by hand, one message a line:
    {\"src\":\"c1\",\"dest\":\"n1\",\"body\":{\"type\":\"init\",\"msg_id\":1,\"node_id\":\"n1\",\"node_ids\":[\"n1\"]}}
    {\"src\":\"c1\",\"dest\":\"n1\",\"body\":{\"type\":\"echo\",\"msg_id\":2,\"echo\":\"hello\"}}
  ./maelstrom test -w lin-kv --bin \"$(which quorate)\" --node-count 3 --concurrency 4n --rate 100 \\
    --time-limit 60 --nemesis partition -- maelstrom lin-kv

Maelstrom gives a node what stands behind `--`.";

/// The flags of `quorate maelstrom`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What Maelstrom tests: the same name as behind its -w.
    #[arg(value_enum)]
    workload: Workload,
    /// Milliseconds between a leader's heartbeats.
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    heartbeat_interval: u64,
    /// Milliseconds for which a silent leader is followed. Maelstrom's clients wait for a second.
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    election_timeout: u64,
}

/// Runs a node until its stdin ends.
pub fn run(args: &Args) -> ExitCode {
    exit::finish(serve(args))
}

fn serve(args: &Args) -> Result<(), Failure> {
    let settings = Settings {
        heartbeat_interval: Duration::from_millis(args.heartbeat_interval),
        election_timeout: Duration::from_millis(args.election_timeout),
        ..Settings::new(args.workload, clock::entropy())
    };
    if settings.election_timeout <= settings.heartbeat_interval {
        let text = format!(
            "--election-timeout {} is not longer than --heartbeat-interval {}: every leader would be given up",
            args.election_timeout, args.heartbeat_interval
        );
        let name = args.workload.name();
        return Err(Failure::new(exit::BAD_ARGS, text)
            .fix(format!("quorate maelstrom {name} --election-timeout 300 --heartbeat-interval 50")));
    }
    if std::io::stdin().is_terminal() {
        anstream::eprintln!(
            "waiting for Maelstrom's messages on stdin, one a line; Ctrl-D ends it (quorate maelstrom --help)"
        );
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    maelstrom::run(settings).map_err(|why| Failure::new(exit::ERROR, why))
}

//! The command line: one binary, several personalities.
//!
//! `quorate serve` is the server, `quorate dev` a local cluster of real processes to break and watch, the rest are clients.
//! Called `etcd` (a link), the binary is `quorate serve` with etcd's command line. stdout is data, stderr is talk; exit
//! codes are etcdctl's.

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

pub mod bench;
pub mod dev;
pub mod kv;
pub mod lab_file;
pub mod member;
pub mod output;
pub mod serve;
pub mod status;

#[derive(Debug, Parser)]
#[command(name = "quorate", version, about = "A replicated key-value store that speaks etcd's v3 API")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every client command takes, with etcdctl's names and variables.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one member.
    Serve(serve::Args),
    /// A local cluster of real processes: start it, break it, watch it recover.
    Dev(dev::Args),
    /// Measure any etcd v3 server.
    Bench(bench::Args),
}

/// Runs the command line and says how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(args);
    match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Dev(args) => dev::run(&cli.global, args),
        Command::Bench(args) => bench::run(&cli.global, args),
    }
}

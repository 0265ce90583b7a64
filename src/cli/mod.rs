//! The command line: one binary, several personalities.
//!
//! `quorate serve` is the server, `quorate dev` a local cluster of real processes to break and watch, the rest are clients.
//! Called `etcd` (a link), the binary is `quorate serve` with etcd's command line. stdout is data, stderr is talk; exit
//! codes are etcdctl's.
//!
//! Where a flag is etcdctl's it has etcdctl's name, default, variable and meaning, and prints what etcdctl prints, byte for
//! byte: scripts written for one run with the other. What is ours (`status`, `dev`, `bench`, `check`) prints for people first.
//!
//! A client command that fails for want of a connection or of a working cluster ends with what the connection doctor found.
//! Called `etcdctl`, it is etcdctl (`etcdctl.rs`, which also lists what differs).
//!
//! Left out: TLS and auth flags are refused instead of ignored; contexts, and etcdctl's other commands.

use crate::client::{self, Client};
use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};
use exit::Failure;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

pub mod bench;
pub mod changes;
pub mod check;
pub mod completion;
pub mod dev;
pub mod doctor;
pub mod etcdctl;
pub mod exit;
pub mod go_duration;
pub mod healthcheck;
pub mod history;
pub mod json;
pub mod kv;
pub mod lab_file;
pub mod lease;
pub mod lock;
pub mod ls;
pub mod maelstrom;
pub mod member;
pub mod mirror;
pub mod output;
pub mod recover;
pub mod serve;
pub mod sim;
pub mod snapshot;
pub mod space;
pub mod status;
pub mod transfer;
pub mod txn;
pub mod upkeep;
pub mod watch;
pub mod watchers;

const FIRST_STEPS: &str = "First steps:
  quorate dev                    three members on this machine, until Ctrl-C
  quorate put hello world        in another terminal: it finds them by itself
  quorate status
  quorate dev kill leader        what does it cost?
  quorate help dev               every command has examples

Exit code: 0 all is well, 1 an error, 2 no connection, 3 input that can't be read,
4 the server refuses, 5 not healthy, 128 a wrong command line (of `serve`: 2).";

#[derive(Debug, Parser)]
#[command(name = "quorate", version, about = "A replicated key-value store that speaks etcd's v3 API")]
#[command(subcommand_required = true, arg_required_else_help = true, after_help = FIRST_STEPS)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every client command takes, with etcdctl's names and variables.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Client options")]
pub struct Global {
    /// Members to talk to, comma separated. Default: the running `quorate dev` lab, else 127.0.0.1:2379.
    #[arg(long, global = true, value_delimiter = ',', env = either("QUORATE_ENDPOINTS", "ETCDCTL_ENDPOINTS"))]
    pub endpoints: Vec<String>,
    /// How answers are printed.
    #[arg(short, long, global = true, value_enum, default_value_t = output::Format::Simple, env = either("QUORATE_WRITE_OUT", "ETCDCTL_WRITE_OUT"))]
    pub write_out: output::Format,
    /// How long one connection may take to establish.
    #[arg(long, global = true, value_parser = go_duration::parse, default_value = "2s", env = either("QUORATE_DIAL_TIMEOUT", "ETCDCTL_DIAL_TIMEOUT"))]
    pub dial_timeout: Duration,
    /// How long a command may take, with all its tries.
    #[arg(long, global = true, value_parser = go_duration::parse, default_value = "5s", env = either("QUORATE_COMMAND_TIMEOUT", "ETCDCTL_COMMAND_TIMEOUT"))]
    pub command_timeout: Duration,
    /// Print keys and values as hexadecimal bytes.
    #[arg(long, global = true, env = either("QUORATE_HEX", "ETCDCTL_HEX"))]
    pub hex: bool,
    /// Accepted for etcdctl's sake.
    #[arg(long, global = true, hide = true)]
    pub debug: bool,
    /// Flags that are known and not supported.
    #[command(flatten)]
    pub unsupported: Unsupported,
}

/// etcdctl's flags that promise security, refused until they are kept, and those that change nothing here. Their ids are
/// their own: a global flag shares the ids of every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Unsupported {
    #[arg(id = "client-cacert", long = "cacert", global = true, hide = true, env = "ETCDCTL_CACERT")]
    cacert: Option<String>,
    #[arg(id = "client-cert", long = "cert", global = true, hide = true, env = "ETCDCTL_CERT")]
    cert: Option<String>,
    #[arg(id = "client-key", long = "key", global = true, hide = true, env = "ETCDCTL_KEY")]
    key: Option<String>,
    #[arg(id = "client-user", long = "user", global = true, hide = true, env = "ETCDCTL_USER")]
    user: Option<String>,
    #[arg(
        id = "client-password",
        long = "password",
        global = true,
        hide = true,
        env = "ETCDCTL_PASSWORD",
        hide_env_values = true
    )]
    password: Option<String>,
    #[arg(id = "client-insecure-transport", long = "insecure-transport", global = true, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    insecure_transport: Option<bool>,
    #[arg(id = "client-insecure-skip-tls-verify", long = "insecure-skip-tls-verify", global = true, hide = true)]
    insecure_skip_tls_verify: bool,
    #[arg(id = "client-keepalive-time", long = "keepalive-time", global = true, hide = true)]
    keepalive_time: Option<String>,
    #[arg(id = "client-keepalive-timeout", long = "keepalive-timeout", global = true, hide = true)]
    keepalive_timeout: Option<String>,
}

impl Global {
    /// The endpoints to talk to: the flag or its variable, else the running lab, else 127.0.0.1:2379.
    pub fn endpoints(&self) -> Vec<String> {
        let given: Vec<String> = self.endpoints.iter().filter(|endpoint| !endpoint.is_empty()).cloned().collect();
        if !given.is_empty() {
            return given;
        }
        match lab_file::running() {
            Ok(Some(lab)) if !lab.nodes.is_empty() => return lab.endpoints(),
            Ok(_) => {}
            Err(e) => anstream::eprintln!("warning: the lab's file is ignored: {e}"),
        }
        vec!["127.0.0.1:2379".to_owned()]
    }

    /// What the client may wait for.
    pub fn options(&self) -> client::Options {
        client::Options {
            dial_timeout: self.dial_timeout,
            command_timeout: self.command_timeout,
            try_timeout: self.command_timeout / 2,
        }
    }

    /// A client of [`Global::endpoints`].
    ///
    /// # Errors
    /// If an endpoint can't be read, or a flag asks for what is not there yet.
    pub fn client(&self) -> Result<Client, Failure> {
        let given = &self.unsupported;
        for (flag, set) in [
            ("--cacert", given.cacert.is_some()),
            ("--cert", given.cert.is_some()),
            ("--key", given.key.is_some()),
            ("--user", given.user.is_some()),
            ("--password", given.password.is_some()),
            ("--insecure-transport=false", given.insecure_transport == Some(false)),
        ] {
            if set {
                let text = format!("{flag}: TLS and auth are not supported yet");
                return Err(Failure::new(exit::BAD_ARGS, text).fix("leave the flag (or its ETCDCTL_ variable) out"));
            }
        }
        let client = Client::new(&self.endpoints(), self.options());
        client.map(Client::fail_fast).map_err(|e| Failure::new(exit::BAD_ARGS, e.to_string()))
    }
}

/// The variable of a flag: ours, unless only etcdctl's is set.
fn either(ours: &'static str, etcdctls: &'static str) -> &'static str {
    if std::env::var_os(ours).is_none() && std::env::var_os(etcdctls).is_some() { etcdctls } else { ours }
}

/// Runs one client command on a runtime of its own.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one member.
    Serve(serve::Args),
    /// Whether the member of this host is well: for a container's HEALTHCHECK.
    Healthcheck(healthcheck::Args),
    /// Whether the cluster works, what is wrong, and what to do next.
    Status(status::Args),
    /// Why nobody answers: which stage fails, from the name to the quorum, and what mends it.
    Doctor(doctor::Args),
    /// Ask the endpoints themselves.
    Endpoint(member::EndpointArgs),
    /// The members of the cluster.
    Member(member::MemberArgs),
    /// Store a value.
    Put(kv::PutArgs),
    /// Read a key or a range of keys.
    Get(kv::GetArgs),
    /// Delete a key or a range of keys.
    Del(kv::DelArgs),
    /// Compare, then act, in one step; read from stdin.
    Txn(txn::Args),
    /// See what happens to keys, as it happens.
    Watch(watch::WatchArgs),
    /// Leases: keys that go when nobody renews them.
    Lease(lease::LeaseArgs),
    /// Hold a lock, alone or while a command runs.
    Lock(lock::LockArgs),
    /// Lead, or see who does.
    Elect(lock::ElectArgs),
    /// What a key was before, as far as it can still be read.
    History(history::Args),
    /// The keys below a prefix, as if they were files.
    Ls(ls::Args),
    /// Write keys and values as lines of JSON.
    Export(transfer::ExportArgs),
    /// Read what `export` wrote.
    Import(transfer::ImportArgs),
    /// Back up the store into a file, look at such a file, and make a cluster of it.
    Snapshot(snapshot::SnapshotArgs),
    /// Go on with what is left of a cluster that lost its quorum for good.
    Recover(recover::Args),
    /// Keep the keys of this cluster equal in another.
    #[command(visible_alias = "make-mirror")]
    Mirror(mirror::Args),
    /// Forget old revisions.
    #[command(visible_alias = "compaction")]
    Compact(upkeep::CompactArgs),
    /// Give unused space back to the disk.
    Defrag(upkeep::DefragArgs),
    /// The alarms of the cluster.
    Alarm(upkeep::AlarmArgs),
    /// Which prefixes own the space.
    Space(space::Args),
    /// Let another member lead.
    MoveLeader(upkeep::MoveLeaderArgs),
    /// Who leads, and let another member do it, by its name.
    Leader(changes::LeaderArgs),
    /// Take the work off a member that is to be stopped, and say whether the others can do without it.
    Drain(changes::DrainArgs),
    /// A local cluster of real processes: start it, break it, watch it recover.
    Dev(dev::Args),
    /// Measure any etcd v3 server.
    Bench(bench::Args),
    /// Judge what clients saw: did the store keep its word?
    Check(check::Args),
    /// Run clusters in a simulated world, with every fault there is.
    Sim(sim::Args),
    /// One node of a Maelstrom test (Jepsen's bench), on stdin and stdout.
    Maelstrom(maelstrom::Args),
    /// Let a shell complete what you type.
    Completion(completion::Args),
    /// The versions of this program and of the API it speaks.
    Version,
}

/// Commands that heed few of the client options or none: which, and what they are there.
const HEEDED: [(&str, &[(&str, &str)]); 5] = [
    (
        "check",
        &[
            ("endpoints", "For `live`: the cluster that is recorded, without breaking it. Default: a lab of its own"),
            ("write_out", "How the verdict is printed: as json, or for people"),
        ],
    ),
    ("sim", &[("write_out", "How the verdict is printed: as json, or for people")]),
    (
        "doctor",
        &[
            ("endpoints", "Where to look. Default: the running `quorate dev` lab, else 127.0.0.1:2379"),
            ("write_out", "How the verdicts are printed: as json, or for people"),
        ],
    ),
    (
        "healthcheck",
        &[(
            "endpoints",
            "The member to ask. Default: where QUORATE_LISTEN_CLIENT_URLS or ETCD_LISTEN_CLIENT_URLS lets it listen, else \
         127.0.0.1:2379",
        )],
    ),
    ("maelstrom", &[]),
];

/// The command line. Every command takes every client option, for their variables may be set; its help shows those that it
/// heeds.
fn command() -> clap::Command {
    let options: Vec<clap::Arg> = Global::augment_args(clap::Command::new("")).get_arguments().cloned().collect();
    HEEDED.into_iter().fold(Cli::command(), |cli, (name, heeded)| {
        let own =
            options.iter().cloned().map(|option| match heeded.iter().find(|(heeded, _)| option.get_id() == heeded) {
                Some((_, help)) => option.help(*help),
                None => option.hide(true),
            });
        cli.mut_subcommand(name, |command| command.args(own))
    })
}

fn try_parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let args = etcdctl::go_booleans(args.into_iter().collect(), &command);
    let matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
}

/// Runs the command line and says how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if serve::is_etcd(&args) {
        return serve::run_as_etcd(args);
    }
    if etcdctl::is_etcdctl(&args) {
        return etcdctl::run(args);
    }
    let bad_args = if args.get(1).is_some_and(|arg| arg == "serve") { serve::BAD_ARGS } else { exit::BAD_ARGS };
    let cli = match try_parse(serve::two_dashes(args)) {
        Ok(cli) => cli,
        Err(e) => {
            // Printing fails only if nobody reads, and then there is nobody to tell.
            _ = e.print();
            return if e.use_stderr() { ExitCode::from(bad_args) } else { ExitCode::SUCCESS };
        }
    };
    dispatch(cli.global, cli.command)
}

/// Runs one command.
fn dispatch(global: Global, command: Command) -> ExitCode {
    // What talks to a cluster has the doctor at its end.
    let finish = |result| exit::finish(doctor::explain(&global, result));
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Dev(args) => dev::run(&global, args),
        Command::Bench(args) => bench::run(&global, args),
        Command::Sim(args) => exit::finish(sim::run(&global, &args)),
        Command::Check(args) => exit::finish(check::run(&global, args)),
        Command::Put(args) => finish(kv::put(&global, args)),
        Command::Get(args) => finish(kv::get(&global, args)),
        Command::Del(args) => finish(kv::del(&global, args)),
        Command::Txn(args) => finish(txn::run(&global, &args)),
        Command::Watch(args) => finish(watch::run(&global, args)),
        Command::Lease(args) => finish(lease::run(&global, &args)),
        Command::Lock(args) => finish(lock::lock(&global, args)),
        Command::Elect(args) => finish(lock::elect(&global, args)),
        Command::History(args) => finish(history::run(&global, args)),
        Command::Ls(args) => finish(ls::run(&global, args)),
        Command::Export(args) => finish(transfer::export(&global, args)),
        Command::Import(args) => finish(transfer::import(&global, &args)),
        Command::Recover(args) => exit::finish(recover::run(&args)),
        Command::Snapshot(args) => finish(snapshot::run(&global, &args)),
        Command::Mirror(args) => finish(mirror::run(&global, args)),
        Command::Completion(args) => exit::finish(completion::run(&args, self::command())),
        Command::Compact(args) => finish(upkeep::compact(&global, &args)),
        Command::Defrag(args) => finish(upkeep::defrag(&global, &args)),
        Command::Alarm(args) => finish(upkeep::alarm(&global, &args)),
        Command::Space(args) => finish(space::run(&global, args)),
        Command::MoveLeader(args) => finish(upkeep::move_leader(&global, &args)),
        Command::Leader(args) => finish(changes::leader(&global, &args)),
        Command::Drain(args) => finish(changes::drain(&global, &args)),
        Command::Endpoint(args) => finish(member::endpoint(&global, args)),
        Command::Member(args) => finish(member::member(&global, args)),
        Command::Status(args) => finish(status::run(&global, args)),
        Command::Doctor(args) => exit::finish(doctor::run(&global, args)),
        Command::Maelstrom(args) => maelstrom::run(&args),
        Command::Healthcheck(args) => exit::finish(healthcheck::run(&global, args)),
        Command::Version => exit::finish(output::version()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        try_parse(line.split(' ').map(OsString::from)).map_err(|e| e.to_string())
    }

    #[test]
    fn every_command_parses_beside_the_global_flags() {
        command().debug_assert();
        for line in [
            "put k v --prev-kv --endpoints a:1,b:2",
            "get k --prefix -w json --key x",
            "--hex del k --command-timeout 1s",
            "txn -i",
            "watch a b --rev 3 --prev-kv -- echo x",
            "watch --ls",
            "lease keep-alive --once 7",
            "lock l -- sh -c false",
            "compaction 7 --physical",
            "make-mirror a:1,b:1 --prefix x",
            "get k --prefix=true --keys-only=false",
            "endpoint status --cluster",
            "endpoint --cluster health -w table",
            "member list --insecure-transport=true",
            "status",
            "check a.jsonl - --shared",
            "check live --duration 5s --faults kill,pause -w json",
            "version",
        ] {
            parse(&format!("quorate {line}")).unwrap();
        }
        assert_eq!(parse("quorate put k v --endpoints a:1,b:2").unwrap().global.endpoints(), ["a:1", "b:2"]);
    }

    #[test]
    fn help_is_a_word_too_and_shows_how_a_command_is_used() {
        assert!(parse("quorate help").unwrap_err().contains("Usage: quorate"));
        let names = "serve dev bench sim check put get del watch lease lock elect history ls export import snapshot recover mirror compact \
            defrag alarm space move-leader leader drain completion endpoint member status doctor maelstrom healthcheck";
        for name in names.split(' ') {
            let help = parse(&format!("quorate help {name}")).unwrap_err();
            assert!(help.contains(&format!("Examples:\n  quorate {name}")), "{help}");
        }
    }

    #[test]
    fn what_is_not_there_yet_is_refused() {
        for flag in ["--cert=c", "--key=k", "--cacert=c", "--user=root", "--password=p", "--insecure-transport=false"] {
            let error = parse(&format!("quorate get k {flag}")).unwrap().global.client().unwrap_err();
            assert!(error.to_string().starts_with(flag.split('=').next().unwrap()), "{error}");
        }
        assert!(parse("quorate get k --frob").is_err());
        assert!(parse("quorate get k --command-timeout 5").unwrap_err().contains("examples: 5s"));
    }
}

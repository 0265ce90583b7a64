//! `quorate bench`: measures any server that speaks etcd's v3 API, with the same program and the same load for each.
//!
//! `put`, `get`, `mixed`, `range`, `txn`, `lease-grant` and `lease-keep-alive` run a load (`load.rs`, `work.rs`) and report percentiles (`record.rs`, `report.rs`); `failover` kills
//! leaders of the local lab under load and measures how long writes stop (`failover.rs`). `watch` measures how events reach
//! many watchers (`watch.rs`); `compare` starts several servers and puts all of it side by side (`compare.rs`).
//!
//! What keeps the figures honest: a warm-up that isn't counted; percentiles from merged histograms; failed operations
//! counted by kind and kept out of the latencies; with `--rate`, latencies that count from the moment an operation was due
//! (`pace.rs`); reads of keys that exist (the key space is filled first); and the whole setting in the report.
//!
//! Left out: comparing with an earlier run, TLS.

mod compare;
mod failover;
mod keys;
mod load;
mod pace;
mod record;
mod report;
mod watch;
mod work;

use super::exit::{self, Failure};
use super::go_duration;
use super::output::{Format, print};
use super::{Global, doctor};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::server::gather::Gathered;
use crate::time::Duration;
use http::Uri;
use hyper_util::rt::TokioIo;
use indicatif::{ProgressBar, ProgressStyle};
use keys::Keys;
use load::{Limit, Plan, Progress};
use report::{Report, Setting};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use work::Work;

pub(in crate::cli) use report::thousands;

/// Connections that carry any number of callers: enough that no single one is the limit, few enough that their frames
/// leave in shared writes.
const CONNECTIONS_MAX: usize = 16;
/// For the connections and the questions before the load.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Callers that fill the key space before reads are measured.
const FILLERS: usize = 64;
/// HTTP/2 windows of our side: large answers must not wait for window updates.
const WINDOW: u32 = 1 << 20;

/// `quorate bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate bench put --clients 64 --duration 10s\n  \
    quorate bench mixed --read-ratio 0.5 --rate 1000 -w json\n  \
    quorate bench failover --rounds 5")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// Puts only.
    Put(LoadArgs),
    /// Gets of single keys only; the key space is filled first.
    Get {
        #[command(flatten)]
        load: LoadArgs,
        /// l (linearizable) or s (serializable: from the asked member's own state).
        #[arg(long, value_enum, default_value = "l")]
        consistency: Consistency,
    },
    /// Gets and puts; the key space is filled first.
    Mixed {
        #[command(flatten)]
        load: LoadArgs,
        /// l (linearizable) or s (serializable: from the asked member's own state).
        #[arg(long, value_enum, default_value = "l")]
        consistency: Consistency,
        /// The share of gets, 0 to 1.
        #[arg(long, default_value_t = 0.9, value_parser = ratio)]
        read_ratio: f64,
    },
    /// Linearizable reads of neighbouring keys; the key space is filled first.
    Range {
        #[command(flatten)]
        load: LoadArgs,
        /// How many keys each reads.
        #[arg(long, default_value_t = 100)]
        limit: i64,
    },
    /// Compare-and-swap, each caller of its own key; with --key-space 1 all of the same one.
    Txn(LoadArgs),
    /// Grants of leases (of five minutes).
    LeaseGrant(LoadArgs),
    /// Keepalives, each caller's of a lease of its own.
    LeaseKeepAlive(LoadArgs),
    /// Kill the lab's leader again and again under load: how long do writes stop, is an acknowledged one lost?
    Failover(failover::Args),
    /// One writer, many watchers: events per second, and how long each is on its way.
    Watch(watch::Args),
    /// Start clusters of several servers (this one, etcd) and measure them side by side.
    Compare(compare::Args),
    /// The measure of the gRPC library itself.
    #[command(hide = true)]
    EmptyServer(compare::empty::Args),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Consistency {
    /// Linearizable.
    L,
    /// Serializable.
    S,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// The leader only.
    Leader,
    /// All endpoints in turn.
    All,
}

#[derive(Clone, Debug, clap::Args)]
struct LoadArgs {
    /// Concurrent callers, each with one operation in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Connections that the callers share, at least one per endpoint [default: one per caller, at most 16].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: Option<u32>,
    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    val_size: usize,
    /// Bytes of each key.
    #[arg(long, default_value_t = 24)]
    key_size: usize,
    /// How many different keys there are.
    #[arg(long, default_value_t = 10_000)]
    key_space: u64,
    /// Keys in order instead of at random.
    #[arg(long)]
    sequential: bool,
    /// Operations to do [default: as many as 10 s allow].
    #[arg(long, conflicts_with = "duration")]
    total: Option<u64>,
    /// Time to measure, as 500ms, 10s, 1m.
    #[arg(long, value_parser = go_duration::parse)]
    duration: Option<Duration>,
    /// Operations per second whether the server keeps up or not (an open loop) [default: as many as the callers manage].
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Where operations go.
    #[arg(long, value_enum, default_value = "all")]
    target: Target,
    /// Load before the measurement begins.
    #[arg(long, default_value = "1s", value_parser = go_duration::parse)]
    warmup: Duration,
    /// Write the report as JSON into this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the benchmark.
pub fn run(global: &Global, args: Args) -> ExitCode {
    let mixed = |read_ratio, consistency| Work::Mixed { read_ratio, serializable: consistency == Consistency::S };
    let (name, load, work) = match args.what {
        What::Put(load) => ("put", load, mixed(0.0, Consistency::L)),
        What::Get { load, consistency } => ("get", load, mixed(1.0, consistency)),
        What::Mixed { load, consistency, read_ratio } => ("mixed", load, mixed(read_ratio, consistency)),
        What::Range { load, limit } => ("range", load, Work::Range { keys: limit }),
        What::Txn(load) => ("txn", load, Work::Swap),
        What::LeaseGrant(load) => ("lease-grant", load, Work::Grant),
        What::LeaseKeepAlive(load) => ("lease-keep-alive", load, Work::KeepAlive),
        What::Compare(args) => return exit::finish(compare::run(global, &args)),
        What::EmptyServer(args) => return exit::finish(compare::empty::run(&args)),
        What::Failover(args) => return exit::finish(failover::run(global, &args)),
        What::Watch(args) => {
            let json = global.write_out == Format::Json;
            return exit::finish(watch::run(&global.endpoints(), &args, json));
        }
    };
    let endpoints = global.endpoints();
    let json = global.write_out == Format::Json;
    let outcome = runtime().and_then(|runtime| runtime.block_on(measure(endpoints, name, &load, work, json)));
    exit::finish(doctor::explain(global, outcome))
}

/// One thread on small machines, where each one that generates load is one that the servers lack; else a quarter of them.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() / 4).clamp(1, 8);
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    Ok(builder.enable_all().build()?)
}

async fn measure(
    endpoints: Vec<String>,
    name: &'static str,
    load: &LoadArgs,
    work: Work,
    json: bool,
) -> Result<(), Failure> {
    let keys = Keys::new(load.key_size, load.key_space).map_err(|e| Failure::new(exit::BAD_ARGS, e))?;
    let cluster = survey(&endpoints).await?;
    let (targets, target) = match load.target {
        Target::All => (endpoints.clone(), "all members".to_owned()),
        Target::Leader => {
            let leader = cluster.leader.ok_or_else(|| {
                Failure::new(exit::ERROR, "--target leader: none of the endpoints is the leader's")
                    .fix("add the leader's (quorate endpoint status --cluster shows it), or use --target all")
            })?;
            (vec![leader.clone()], format!("leader {leader}"))
        }
    };
    let clients = load.clients as usize;
    let connections = load.connections.map_or(clients.min(CONNECTIONS_MAX), |n| n as usize).min(clients);
    let channels = connect(&targets, connections.max(targets.len().min(clients))).await?;
    let limit = match (load.total, load.duration) {
        (Some(total), _) => Limit::Total(total),
        (None, time) => Limit::For(time.unwrap_or(Duration::from_secs(10))),
    };
    let setting = Setting {
        workload: name.to_owned(),
        endpoints: targets,
        target,
        server_version: cluster.version,
        clients,
        connections: channels.len(),
        work,
        val_size: load.val_size,
        key_size: load.key_size,
        key_space: load.key_space,
        sequential: load.sequential,
        rate: load.rate,
        warmup_s: load.warmup.as_secs_f64(),
    };
    let plan = Plan {
        callers: clients,
        channels,
        work,
        keys,
        sequential: load.sequential,
        value: keys::value(load.val_size),
        limit,
        warmup: load.warmup,
        rate: load.rate,
    };
    if work.wants_keys() && !fill(&plan).await? {
        return Err(Failure::new(exit::ERROR, "interrupted before the measurement began"));
    }
    let bar = Bar::new(plan.limit, "");
    let measured = load::run(plan, interrupt(), |progress| bar.show(progress)).await;
    bar.clear();
    publish(&Report::new(setting, &measured), json, load.out.as_deref())
}

fn publish(report: &Report, json: bool, out: Option<&Path>) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(report).map_err(std::io::Error::from)? + "\n";
    if let Some(path) = out {
        std::fs::write(path, &text)
            .map_err(|e| Failure::new(exit::ERROR, format!("can't write the report to {}: {e}", path.display())))?;
    }
    print(if json { text } else { report.text() })?;
    if let Some(path) = out {
        anstream::eprintln!("saved {}", path.display());
    }
    if report.operations == 0 {
        return Err(Failure::new(exit::ERROR, "no operation succeeded").fix("quorate status"));
    }
    Ok(())
}

/// Writes every key once, so that reads find something; false if it was interrupted.
async fn fill(plan: &Plan) -> Result<bool, Failure> {
    let plan = Plan {
        callers: FILLERS.max(plan.channels.len()),
        work: Work::Mixed { read_ratio: 0.0, serializable: false },
        sequential: true,
        limit: Limit::Total(plan.keys.count()),
        warmup: Duration::ZERO,
        rate: None,
        ..plan.clone()
    };
    let bar = Bar::new(plan.limit, "filling the key space ");
    let measured = load::run(plan, interrupt(), |progress| bar.show(progress)).await;
    bar.clear();
    match measured.recorder.errors().first_key_value() {
        Some((kind, _)) => {
            Err(Failure::new(exit::ERROR, format!("the key space could not be filled: {kind}")).fix("quorate status"))
        }
        None => Ok(!measured.interrupted),
    }
}

/// What the servers say before the load.
struct Cluster {
    version: String,
    /// The endpoint of the leader, if it is among those given.
    leader: Option<String>,
}

/// Asks every endpoint for its status: one that doesn't answer would spoil the figures.
async fn survey(endpoints: &[String]) -> Result<Cluster, Failure> {
    let mut cluster = Cluster { version: String::new(), leader: None };
    for name in endpoints {
        let asked = async {
            let channel = endpoint(name)?.connect().await.map_err(|e| innermost(&e))?;
            let status = MaintenanceClient::new(channel).status(pb::StatusRequest {}).await;
            status.map(tonic::Response::into_inner).map_err(|e| e.message().to_owned())
        };
        let answer =
            tokio::time::timeout(DIAL_TIMEOUT, asked).await.unwrap_or_else(|_| Err("no answer in 2 s".to_owned()));
        let status = answer.map_err(|e| {
            Failure::new(exit::BAD_CONNECTION, format!("{name} does not answer: {e}"))
                .fix("start a server there (quorate dev), or leave it out of --endpoints")
        })?;
        if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
            cluster.leader = Some(name.clone());
        }
        cluster.version = status.version;
    }
    Ok(cluster)
}

/// `count` connections, dealt to the endpoints in turn.
async fn connect(endpoints: &[String], count: usize) -> Result<Vec<Channel>, Failure> {
    let mut channels = Vec::with_capacity(count);
    for i in 0..count {
        let name = &endpoints[i % endpoints.len()];
        let refused = |why: String| Failure::new(exit::BAD_CONNECTION, format!("can't connect to {name}: {why}"));
        let connecting = endpoint(name).map_err(refused)?;
        let channel = connecting.connect_with_connector(tower::service_fn(gathering)).await;
        channels.push(channel.map_err(|e| refused(innermost(&e)))?);
    }
    Ok(channels)
}

/// A connection that gathers what the callers send at once, as etcd's Go client does: the load must not be its own limit.
async fn gathering(to: Uri) -> std::io::Result<TokioIo<Gathered<TcpStream>>> {
    let (host, port) = (to.host().unwrap_or_default(), to.port_u16().unwrap_or(80));
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(Gathered::new(stream)))
}

fn endpoint(name: &str) -> Result<Endpoint, String> {
    let url = if name.contains("://") { name.to_owned() } else { format!("http://{name}") };
    let endpoint = Endpoint::from_shared(url).map_err(|e| format!("no endpoint ({e}), give host:port"))?;
    Ok(endpoint
        .connect_timeout(DIAL_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(8 * WINDOW))
}

/// The last cause in the chain: "connection refused" says more than "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Ends with Ctrl-C; never, if that can't be heard.
async fn interrupt() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The progress on stderr, on a terminal only.
struct Bar {
    bar: ProgressBar,
    of_time: bool,
}

impl Bar {
    fn new(limit: Limit, what: &'static str) -> Bar {
        let (length, of_time) = match limit {
            Limit::Total(total) => (total, false),
            Limit::For(time) => (u64::try_from(time.as_millis()).unwrap_or(u64::MAX), true),
        };
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template(" {prefix}{bar:30} {percent:>3} %  {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        Bar { bar, of_time }
    }

    fn show(&self, progress: Progress) {
        let Progress { done, elapsed } = progress;
        if elapsed.is_zero() {
            return self.bar.set_message("warming up");
        }
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.bar.set_position(if self.of_time { millis } else { done });
        let per_second = record::per_second(done, elapsed);
        self.bar.set_message(format!("{} ops  {} op/s", thousands(done), thousands(per_second as u64)));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if f64::is_finite(rate) && rate > 0.0 => Ok(rate),
        _ => Err("give operations per second, above 0".to_owned()),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("give a share between 0 and 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_shares_have_bounds() {
        assert_eq!(rate("0.5"), Ok(0.5));
        assert!(["0", "-1", "inf", "NaN", "many"].iter().all(|text| rate(text).is_err()));
        assert_eq!(ratio("1"), Ok(1.0));
        assert!(["1.1", "-0.1", "NaN"].iter().all(|text| ratio(text).is_err()));
    }
}

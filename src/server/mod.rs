//! Shell one: the server.
//!
//! It runs one node against the real world: threads, disks, sockets, signals. Who does what:
//!
//! - the **node's thread** (`driver.rs`) owns the node, and never waits for anything but its mailbox (`mailbox.rs`);
//! - the **log worker** and the **state worker** (`disk.rs`) are the only ones that wait for the disk;
//! - the **hub's thread** (`watching.rs`) fills the watchers' queues;
//! - the **tokio runtime** carries the connections (`gather.rs`): clients (`api/`, `http.rs`, `gateway.rs`) and peers
//!   (`transport.rs`).
//!
//! `flags.rs` and `config.rs` say what the operator wants; `logging.rs`, `notify.rs` (systemd), `metrics.rs` (Prometheus,
//! with `exposition.rs`, `calls.rs` and `process.rs`) and `slow.rs` tell what happens. [`run`] is the story
//! of one process: of one life, from the first bound port to the last sync, and of the next one, when a state was taken over.
//!
//! # Invariants
//!
//! 1. Ports are bound before the data directory is touched, and the directory is locked before it is read: a start that
//!    fails has changed nothing.
//! 2. The process ends by itself in three ways only: in order (exit code 0, after a signal, or when the member was removed
//!    from its cluster), with a sentence (exit code
//!    1: a bad start, a halted node, a disk that is not this member's), or by abort (a failed sync, a panic).
//! 3. Whoever can't go on says so on one channel, `fatal`; only [`run`] ends the process in order.
//!
//! Absent: decisions about data. They are the node's.

use crate::clock::{Clock, entropy, instant};
use crate::ids::{DiskId, MemberId, Term};
use crate::machine::budget::Budget;
use crate::node::{self, Halt, Identity, Reply, Request, RoleName, Status, Unopened};
use crate::proto::{DESCRIPTORS, etcdserverpb, quorate, v3electionpb, v3lockpb};
use crate::storage::Engine;
use crate::storage::directory::{Databases, Directory, Expected, Refusal};
use crate::storage::sled::{Options, install_panic_hook};
use crate::storage::space::{self, SpaceGuard};
use crate::time::Duration;
use crate::watch::Limits;
use ::http::{Request as HttpRequest, Response as HttpResponse};
use api::{Front, StateEngine};
use bytes::Bytes;
use calls::{Metered, Traffic};
use config::{Config, GRPC_OVERHEAD_BYTES, LogOutput, Url};
use disk::DiskFacts;
use driver::Driver;
use gather::Gathered;
use mailbox::Event;
use metrics::Metrics;
use notify::Notifier;
use slow::Slow;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use sync_probe::SyncProbe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tower::Service;
use transport::Acceptor;
use transport::peers::{Peers, follow};

pub mod api;
pub mod calls;
pub mod config;
pub mod disk;
pub mod driver;
pub mod exposition;
pub mod flags;
pub mod gateway;
pub mod gather;
pub mod http;
pub mod join;
pub mod logging;
pub mod mailbox;
pub mod metrics;
pub mod notify;
pub mod process;
pub mod slow;
pub mod sync_probe;
pub mod transport;
pub mod watching;

/// How long calls in flight may take to finish once the member stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the ports of the former life may take to be free, and the pause between two tries.
const REBIND_PATIENCE: Duration = Duration::from_secs(10);
const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// etcd's proposal timeout is this, and two election timeouts.
const REQUEST_TIMEOUT_BASE: Duration = Duration::from_secs(5);

/// sled's cache for the log: it is appended to and rarely read back.
const RAFT_CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// sled's cache for the state: values are read from it. It decides whether a member with a million keys takes less than half
/// of what etcd takes; behind it there is the system's own cache.
const STATE_CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Runs a member until a signal, or until it can't go on.
pub fn run(config: &Config) -> ExitCode {
    if let Err(sentence) = logging::install(&config.log) {
        eprintln!("quorate: {sentence}");
        return ExitCode::FAILURE;
    }
    install_panic_hook();
    let notifier = Arc::new(Notifier::from_environment());
    let mut patience = Duration::ZERO;
    let outcome = loop {
        match live(config, &notifier, patience) {
            Ok(Ended::Reopen) => {
                patience = REBIND_PATIENCE;
                tracing::info!("another state has taken the place of this member's: the member is opened again on it");
                notifier.status("opening again, on another state");
                notifier.alive();
            }
            Ok(Ended::Stopped) => break Ok(()),
            Err(sentence) => break Err(sentence),
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            tracing::error!("{sentence}");
            notifier.status(&sentence);
            if !config.log.outputs.contains(&LogOutput::Stderr) {
                eprintln!("quorate: {sentence}");
            }
            ExitCode::FAILURE
        }
    }
}

/// How a life came to an end in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// After a signal.
    Stopped,
    /// There is another state to live on.
    Reopen,
}

/// One life, whose ports may be in use for so long yet.
fn live(config: &Config, notifier: &Arc<Notifier>, patience: Duration) -> Result<Ended, String> {
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    let peer_ports = bind_all(&config.listen_peer, "--listen-peer-urls", patience)?;
    let client_ports = bind_all(&config.listen_client, "--listen-client-urls", patience)?;
    // The ports are bound: whoever is let in will be there.
    let expected = join::expected(config)?;
    notifier.status(&format!("opening {}", config.data_dir.display()));
    let member = Member::open(config, expected.as_ref())?;
    announce(config, &member);
    let probe = look_at_disk(config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("can't start threads: {e}"))?;
    let outcome =
        runtime.block_on(serve(config, member, notifier, Ports { peer: peer_ports, client: client_ports }, probe));
    match outcome {
        // The ports must be closed when the next life binds them.
        Ok(Ended::Reopen) => runtime.shutdown_timeout(DRAIN_TIMEOUT),
        // Streams to peers have no end of their own.
        _ => runtime.shutdown_background(),
    }
    outcome
}

fn bind_all(urls: &[Url], flag: &str, patience: Duration) -> Result<Vec<TcpListener>, String> {
    let begun = instant();
    let in_time = |url: &Url| loop {
        match bind(url) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && begun.elapsed() < patience => {
                std::thread::sleep(REBIND_PAUSE);
            }
            outcome => return outcome,
        }
    };
    urls.iter().map(|url| in_time(url).map_err(|error| unbound(url, flag, &error))).collect()
}

fn bind(url: &Url) -> std::io::Result<TcpListener> {
    let ip = url.host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let listener = TcpListener::bind(SocketAddr::new(ip, url.port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn unbound(url: &Url, flag: &str, error: &std::io::Error) -> String {
    let advice = match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "another process listens there (see it with: ss -ltnp 'sport = :{}'); stop it, or choose another port with {flag}",
            url.port
        ),
        std::io::ErrorKind::AddrNotAvailable => {
            format!("this host has no such address; choose one of its own with {flag}")
        }
        std::io::ErrorKind::PermissionDenied => format!("ports below 1024 need privileges; choose another with {flag}"),
        _ => format!("check {flag}"),
    };
    format!("can't listen on {url}: {error}: {advice}")
}

/// A member, opened and about to live.
struct Member {
    opened: node::Opened,
    identity: Identity,
    members: usize,
    state: Arc<dyn Engine>,
    guard: SpaceGuard,
    clock: Clock,
    /// Holds the lock until the last thread has ended.
    directory: Directory,
}

impl Member {
    /// Locks the data directory, makes it if there is none, and opens what is in it.
    fn open(config: &Config, expected: Option<&Expected>) -> Result<Member, String> {
        let said = |refusal: &dyn std::fmt::Display| refusal.to_string();
        let mut directory = Directory::open(&config.data_dir, expected, DiskId(entropy().0)).map_err(|e| said(&e))?;
        let guard = SpaceGuard::new(directory.path(), space::FLOOR)
            .map_err(|error| format!("can't tell how much room {} has: {error}", config.data_dir.display()))?;
        let clock = Clock::new();
        let (opened, state) = open_or_set_aside(config, &mut directory, clock)?;
        let identity = opened.node.identity();
        let members = opened.node.view().members().len();
        Ok(Member { opened, identity, members, state, guard, clock, directory })
    }
}

/// Opens the databases and the member on them. A state that can't be read is set aside where it can be made again, and an
/// empty one begins.
fn open_or_set_aside(
    config: &Config,
    directory: &mut Directory,
    clock: Clock,
) -> Result<(node::Opened, Arc<dyn Engine>), String> {
    let why = match open_databases(config, directory, clock) {
        Ok(opened) => return Ok(opened),
        Err(Unopened::State(why)) => why,
        Err(unopened) => return Err(unopened.to_string()),
    };
    let raft = directory.raft(Options::new(RAFT_CACHE_BYTES)).map_err(|refusal| refusal.to_string())?;
    node::can_be_made_again(directory.meta(), raft).map_err(|halt| format!("{why}. Nothing was changed. {halt}"))?;
    let aside = directory.set_state_aside().map_err(|refusal| refusal.to_string())?;
    tracing::error!(
        %why, aside = %aside.display(),
        "the state can't be read; it is set aside, and made again from the log or the leader. With it went the note of how \
         much of the log was acknowledged. Look at the disk; the directory that was set aside may be deleted"
    );
    open_databases(config, directory, clock).map_err(|unopened| unopened.to_string())
}

fn open_databases(
    config: &Config,
    directory: &mut Directory,
    clock: Clock,
) -> Result<(node::Opened, Arc<dyn Engine>), Unopened> {
    let databases = directory.databases(Options::new(RAFT_CACHE_BYTES), Options::new(STATE_CACHE_BYTES));
    let Databases { raft, state } = databases.map_err(|refusal| match &refusal {
        Refusal::RottenState { .. } => Unopened::State(Halt(refusal.to_string())),
        _ => Unopened::Member(Halt(refusal.to_string())),
    })?;
    let opening = node::Opening {
        meta: directory.meta().clone(),
        raft,
        state: Arc::clone(&state),
        config: node_config(config),
        seed: entropy(),
        now: clock.now(),
    };
    Ok((node::open(opening)?, state))
}

fn node_config(config: &Config) -> node::Config {
    node::Config {
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        request_timeout: REQUEST_TIMEOUT_BASE + 2 * config.election_timeout,
        name: config.name.clone(),
        client_urls: config.advertise_client.iter().map(Url::to_string).collect(),
        limits: crate::raft::Limits::default(),
        space: config.space,
        retention: config.retention,
        max_learners: config.max_learners,
        piece_bytes: crate::node::PIECE_BYTES,
        checkpoint_entries: crate::node::CHECKPOINT_ENTRIES,
        level: config.level,
    }
}

/// The hub's thread, the node's, and the two that hold the disk: the last to end.
struct Threads {
    watch: JoinHandle<()>,
    node: JoinHandle<()>,
    log: JoinHandle<()>,
    state: JoinHandle<()>,
}

impl Threads {
    /// Waits for the hub, the node, and then for the disk workers, which end when everything queued is durable.
    fn join(self) -> Result<(), String> {
        for (name, thread) in [("watch", self.watch), ("node", self.node), ("log", self.log), ("state", self.state)] {
            thread.join().map_err(|_| format!("the thread {name} panicked"))?;
        }
        Ok(())
    }
}

/// The signals that end a member.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Stop> {
        Ok(Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Bound, and not listened to yet.
struct Ports {
    peer: Vec<TcpListener>,
    client: Vec<TcpListener>,
}

/// What happened first.
enum End {
    Signal(&'static str),
    /// This member was removed from its cluster.
    Removed(String),
    Fatal(String),
    Reopen,
}

async fn serve(
    config: &Config,
    member: Member,
    notifier: &Arc<Notifier>,
    ports: Ports,
    probe: Option<SyncProbe>,
) -> Result<Ended, String> {
    let mut stop = Stop::new().map_err(|error| format!("can't listen to signals: {error}"))?;
    let (fatal, mut fatalities) = mpsc::unbounded_channel();
    let (reopen, mut reopening) = mpsc::unbounded_channel();
    let (removed, mut removals) = mpsc::unbounded_channel();
    let outlets = Outlets { fatal, reopen, removed };
    let (front, threads, directory) =
        start(config, member, outlets, probe).map_err(|error| format!("can't start: {error}"))?;
    let (closing, closed) = watch::channel(false);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;

    let acceptor = Acceptor::new(Arc::clone(&front.transport));
    let peers = peer_routes(config, &front, acceptor.clone());
    for listener in ports.peer {
        let server = Server::builder()
            .accept_http1(true)
            .initial_stream_window_size(PEER_WINDOW_BYTES)
            .initial_connection_window_size(PEER_WINDOW_BYTES)
            .http2_keepalive_interval(Some(front.transport.ping_interval()))
            .http2_keepalive_timeout(Some(config.election_timeout));
        // What peers say to each other is counted by peer.
        tokio::spawn(listen(server, listener, Arc::default(), peers.clone(), closed.clone()));
    }
    let dialers = tokio::spawn(follow(Arc::clone(&front.transport), acceptor, front.published.clone()));
    let clients = client_routes(config, &front, Routes::new(health_service), &closed)?;
    let mut drained = Vec::new();
    for listener in ports.client {
        let server = Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(config.max_concurrent_streams)
            .http2_keepalive_interval(config.keepalive_interval)
            .http2_keepalive_timeout(Some(config.keepalive_timeout));
        let traffic = Arc::clone(&front.metrics.traffic);
        drained.push(tokio::spawn(listen(server, listener, traffic, clients.clone(), closed.clone())));
    }
    notifier.ready();
    notifier.status("looking for a leader");
    tokio::spawn(narrate(Arc::clone(&front), Arc::clone(notifier)));
    tokio::spawn(feed_watchdog(Arc::clone(&front), Arc::clone(notifier)));

    let end = tokio::select! {
        name = stop.wait() => End::Signal(name),
        Some(sentence) = removals.recv() => End::Removed(sentence),
        Some(sentence) = fatalities.recv() => End::Fatal(sentence),
        Some(()) = reopening.recv() => End::Reopen,
    };
    let closing = Closing { closing, drained, dialers, threads };
    match end {
        End::Fatal(sentence) => Err(sentence),
        End::Reopen => {
            front.stopping.store(true, Ordering::Relaxed);
            tokio::select! {
                outcome = finish(config, &front, &health, closing) => {
                    drop(directory);
                    outcome.map(|()| Ended::Reopen)
                }
                _ = stop.wait() => std::process::exit(1),
                Some(sentence) = fatalities.recv() => Err(sentence),
            }
        }
        End::Signal(_) | End::Removed(_) => {
            front.stopping.store(true, Ordering::Relaxed);
            notifier.stopping();
            if let End::Removed(sentence) = &end {
                notifier.status(sentence);
                tracing::warn!("{sentence}");
            } else if let End::Signal(name) = &end {
                notifier.status(&format!("stopping after {name}"));
                tracing::info!(
                    signal = name,
                    "stopping: handing over, finishing calls, syncing; a second signal ends at once"
                );
            }
            tokio::select! {
                outcome = finish(config, &front, &health, closing) => {
                    drop(directory);
                    tracing::info!("stopped");
                    outcome.map(|()| Ended::Stopped)
                }
                name = stop.wait() => {
                    tracing::warn!(signal = name, "a second signal: ending at once; what was acknowledged is durable");
                    std::process::exit(1);
                }
                Some(sentence) = fatalities.recv() => Err(sentence),
            }
        }
    }
}

/// A stream from a peer may have this much on its way.
const PEER_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// What must come to an end.
struct Closing {
    /// Turned to true, it closes the ports.
    closing: watch::Sender<bool>,
    /// The client ports: each ends when its last call has.
    drained: Vec<tokio::task::JoinHandle<()>>,
    dialers: tokio::task::JoinHandle<()>,
    threads: Threads,
}

/// Hands over, closes the ports, lets calls finish, stops the node, syncs.
async fn finish(
    config: &Config,
    front: &Front,
    health: &tonic_health::server::HealthReporter,
    Closing { closing, drained, dialers, threads }: Closing,
) -> Result<(), String> {
    health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    if front.published.borrow().role == RoleName::Leader && front.view.members().len() > 1 {
        let handover = front.mailbox.ask(Request::Transfer(None));
        match tokio::time::timeout(config.election_timeout, handover).await {
            Ok(Reply::Transferred) => tracing::info!("leadership was handed over"),
            Ok(reply) => {
                tracing::warn!(?reply, "leadership was not handed over: the others elect a leader by themselves")
            }
            Err(_) => tracing::warn!("leadership was not handed over in time: the others elect a leader by themselves"),
        }
    }
    let _ = closing.send(true);
    let drain = async {
        for server in drained {
            let _ = server.await;
        }
    };
    if tokio::time::timeout(DRAIN_TIMEOUT, drain).await.is_err() {
        tracing::debug!("connections of clients were still open");
    }
    // Else they would see the node's links go, and dial again.
    dialers.abort();
    front.watching.stop();
    front.mailbox.post(Event::Stop);
    tokio::task::spawn_blocking(|| threads.join()).await.map_err(|error| format!("stopping failed: {error}"))?
}

/// Where who can't go on says so.
struct Outlets {
    fatal: mpsc::UnboundedSender<String>,
    reopen: mpsc::UnboundedSender<()>,
    removed: mpsc::UnboundedSender<String>,
}

/// Starts the three threads, and makes what the services share.
fn start(
    config: &Config,
    member: Member,
    Outlets { fatal, reopen, removed }: Outlets,
    probe: Option<SyncProbe>,
) -> std::io::Result<(Arc<Front>, Threads, Directory)> {
    let Member { opened, identity, members: _, state, guard, clock, directory } = member;
    let (mailbox, events) = mailbox::mailbox();
    let (view, hollow) = (opened.node.view(), opened.node.is_hollow());
    let staging = directory.staging(Options::new(STATE_CACHE_BYTES));
    let mut disk = DiskFacts::new(opened.log.size_on_disk());
    disk.probe = probe;
    let disk = Arc::new(disk);
    let (log, log_thread) = disk::start_log_worker(opened.log, guard, Arc::clone(&disk), mailbox.clone())?;
    let (writes, state_thread) =
        disk::start_state_worker(Arc::clone(&state), staging, Arc::clone(&disk), mailbox.clone())?;
    let (status, published) = watch::channel(Arc::new(Status::default()));
    let data_dir = config.data_dir.display().to_string();
    let transport = Arc::new(transport::Shared {
        identity,
        name: config.name.clone(),
        process: entropy().0,
        view: view.clone(),
        mailbox: mailbox.clone(),
        fatal: fatal.clone(),
        data_dir: data_dir.clone(),
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        removed,
        peer_urls: config.advertise_peer.iter().map(Url::to_string).collect(),
        level: config.level,
        peers: Peers::default(),
    });
    let limits = Limits {
        fragment_bytes: config.max_request_bytes + GRPC_OVERHEAD_BYTES,
        progress_interval: config.watch_progress_interval,
        ..Limits::default()
    };
    let (watching, watch_thread) = watching::start(view.clone(), limits, entropy(), clock, fatal.clone())?;
    let slow = Arc::new(Slow::new(config.warning_request, config.warning_apply));
    let driver = Driver {
        node: opened.node,
        clock,
        events,
        log,
        state: writes,
        status,
        fatal: fatal.clone(),
        reopen,
        transport: Arc::clone(&transport),
        view: view.clone(),
        watching: watching.clone(),
        slow: Arc::clone(&slow),
    };
    let node_thread = driver.start()?;
    let front = Arc::new(Front {
        identity,
        name: config.name.clone(),
        data_dir,
        view,
        hollow,
        mailbox,
        published,
        clock,
        max_request_bytes: config.max_request_bytes,
        max_txn_ops: config.max_txn_ops,
        ranges: Arc::new(Budget::new(config.max_range_bytes, config.max_ranges_bytes)),
        quota: config.space.quota,
        disk,
        state: StateEngine(state),
        transport,
        fatal,
        watching,
        metrics: Metrics::default(),
        slow,
        stopping: AtomicBool::new(false),
    });
    Ok((front, Threads { watch: watch_thread, node: node_thread, log: log_thread, state: state_thread }, directory))
}

/// Serves one port until `closed` turns true; `traffic` counts its bytes.
async fn listen<S, B>(
    server: Server,
    listener: TcpListener,
    traffic: Arc<Traffic>,
    service: S,
    mut closed: watch::Receiver<bool>,
) where
    S: Service<HttpRequest<Body>, Response = HttpResponse<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a bound port can't be listened to"),
    };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let incoming = incoming.map(move |io| io.map(|io| Gathered::new(Metered { io, traffic: Arc::clone(&traffic) })));
    let shutdown = async move {
        let _ = closed.wait_for(|closed| *closed).await;
    };
    if let Err(error) = server.serve_with_incoming_shutdown(service, incoming, shutdown).await {
        tracing::error!(%error, "a port is not served any more");
    }
}

fn peer_routes(config: &Config, front: &Arc<Front>, acceptor: Acceptor) -> axum::Router {
    let service = quorate::peer_server::PeerServer::new(acceptor)
        .max_decoding_message_size(transport::frame_limit(config.max_request_bytes));
    http::peer_port(Routes::new(service).into_axum_router(), front)
}

/// Every service of the client port beside the given ones.
fn client_routes(
    config: &Config,
    front: &Arc<Front>,
    routes: Routes,
    closed: &watch::Receiver<bool>,
) -> Result<http::ClientPort, String> {
    use etcdserverpb::cluster_server::ClusterServer;
    use etcdserverpb::kv_server::KvServer;
    use etcdserverpb::lease_server::LeaseServer;
    use etcdserverpb::maintenance_server::MaintenanceServer;
    use quorate::node_server::NodeServer;
    use v3electionpb::election_server::ElectionServer;
    use v3lockpb::lock_server::LockServer;
    let largest = config.max_request_bytes + GRPC_OVERHEAD_BYTES;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = |error: tonic_reflection::server::Error| format!("the built-in descriptors are broken: {error}");
    let lock = api::lock::Lock { front: Arc::clone(front), closed: closed.clone() };
    let election = api::election::Election { front: Arc::clone(front), closed: closed.clone() };
    let kv = KvServer::new(api::kv::Kv(Arc::clone(front))).max_decoding_message_size(largest);
    let services = routes
        .add_service(kv.clone())
        .add_service(LeaseServer::new(api::lease::Lease(Arc::clone(front))))
        .add_service(api::watch::Watch { front: Arc::clone(front), closed: closed.clone() })
        .add_service(ClusterServer::new(api::cluster::Cluster(Arc::clone(front))))
        .add_service(MaintenanceServer::new(api::maintenance::Maintenance(Arc::clone(front))))
        .add_service(LockServer::new(lock).max_decoding_message_size(largest))
        .add_service(ElectionServer::new(election).max_decoding_message_size(largest))
        .add_service(NodeServer::new(api::node::NodeService(Arc::clone(front))))
        .add_service(reflection().build_v1().map_err(broken)?)
        .add_service(reflection().build_v1alpha().map_err(broken)?);
    Ok(http::ClientPort::new(kv, services.into_axum_router(), config, front))
}

/// Tells the log and systemd who leads; once somebody does, etcd's line, which scripts wait for; and counts failovers
/// and compactions.
async fn narrate(front: Arc<Front>, notifier: Arc<Notifier>) {
    let mut published = front.published.clone();
    let (mut ready, mut told, mut counted, mut passes) = (false, (None, Term(0)), Term(0), 0);
    loop {
        let seen = {
            let status = published.borrow_and_update();
            counted = front.metrics.failovers.count(&status.elections, counted);
            passes = front.metrics.compactions.count(&status.space, passes);
            (status.leader, status.term)
        };
        if seen != told {
            match seen {
                (Some(leader), term) if leader == front.identity.member => tracing::info!(%term, "this member leads"),
                (Some(leader), term) => tracing::info!(%leader, %term, "following a leader"),
                (None, term) if told.0.is_some() => tracing::warn!(%term, "the leader is lost"),
                (None, _) => {}
            }
            if !front.stopping.load(Ordering::Relaxed) {
                notifier.status(&leadership(&front, seen));
            }
            told = seen;
        }
        if told.0.is_some() && !ready {
            ready = true;
            tracing::info!("ready to serve client requests");
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// Who leads, in one line.
fn leadership(front: &Front, (leader, term): (Option<MemberId>, Term)) -> String {
    match leader {
        None => format!("term {term}, no leader: writes and linearizable reads wait for one"),
        Some(leader) if leader == front.identity.member => format!("leader of term {term}"),
        Some(leader) => {
            let known = front.view.members().into_iter().find(|member| member.id == leader);
            // The name is part of the replicated state, and may be on its way.
            let name = known.map(|member| member.name).filter(|name| !name.is_empty());
            format!("follower in term {term}, leader {}", name.unwrap_or_else(|| leader.to_string()))
        }
    }
}

/// Tells systemd that the member is alive as long as it is, three times as often as it must.
async fn feed_watchdog(front: Arc<Front>, notifier: Arc<Notifier>) {
    let Some(patience) = notifier.watchdog else { return };
    let mut ticks = tokio::time::interval(patience / 3);
    loop {
        ticks.tick().await;
        match front.alive().await {
            Ok(()) => notifier.alive(),
            Err(why) => tracing::warn!("systemd's watchdog is not fed: {why}"),
        }
    }
}

/// Measures the disk, and says so if it is too slow for the timers.
fn look_at_disk(config: &Config) -> Option<SyncProbe> {
    match SyncProbe::measure(&config.data_dir) {
        Ok(probe) => {
            let SyncProbe { syncs, median, slowest } = probe;
            tracing::info!(syncs, median = ?slow::round(median), slowest = ?slow::round(slowest), "how fast the disk syncs");
            probe.complaint(config.election_timeout).iter().for_each(|complaint| tracing::warn!("{complaint}"));
            Some(probe)
        }
        Err(error) => {
            tracing::warn!(%error, "how fast the disk syncs can't be measured");
            None
        }
    }
}

/// The first lines of the log: who this is and where it is found.
fn announce(config: &Config, member: &Member) {
    let join = |urls: &[Url]| urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",");
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        etcd_version = api::ETCD_VERSION,
        name = config.name,
        member_id = %member.identity.member,
        cluster_id = %member.identity.cluster,
        incarnation = member.identity.incarnation.0,
        pid = std::process::id(),
        "starting a member of quorate"
    );
    tracing::info!(
        clients = join(&config.advertise_client),
        peers = join(&config.advertise_peer),
        listen_clients = join(&config.listen_client),
        listen_peers = join(&config.listen_peer),
        data_dir = %config.data_dir.display(),
        heartbeat = ?config.heartbeat_interval,
        election = ?config.election_timeout,
        members = member.members,
        "where it lives"
    );
}

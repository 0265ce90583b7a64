//! Clusters of real processes for tests: `quorate serve`, or the real etcd, on free ports, with data of their own.
//!
//! Nothing here waits by sleeping for a fixed time: readiness is polled through the API, the end of a process is waited
//! for. Processes are ended by their own id. A test that fails prints the end of every member's log and keeps the data.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod curl;
pub mod scrape;

use quorate::client::{Client, Options};
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How long a cluster may take to become ready, on a machine that has other things to do.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Nobody is elected because a busy machine kept a leader silent for a second, which is no fault. Who finds its leader's
/// connections gone does not wait for it.
pub const PATIENT: &str = "--election-timeout=5000";

/// How much of a log is shown when a test fails.
const LOG_TAIL_LINES: usize = 60;

/// Another binary of this crate that serves, an optimised one: for large runs. It is not looked at what it was made of.
const BINARY: &str = "QUORATE_TEST_BINARY";

/// The binary of this crate that serves.
fn binary() -> PathBuf {
    std::env::var_os(BINARY).map_or_else(|| env!("CARGO_BIN_EXE_quorate").into(), PathBuf::from)
}

/// Which server runs.
#[derive(Clone, Debug)]
pub enum Server {
    /// The binary of this crate.
    Quorate,
    /// The real one, in this directory.
    Etcd(PathBuf),
}

/// A cluster of real processes; ends with the value.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    extra: Vec<String>,
    dir: Option<TempDir>,
    nodes: Vec<Node>,
}

/// One member and its process.
#[derive(Debug)]
pub struct Node {
    /// `n1`, `n2`, ...
    pub name: String,
    /// Where clients go.
    pub client: String,
    /// Where peers go.
    pub peer: String,
    /// Its data.
    pub data_dir: PathBuf,
    /// What it says, of all its lives.
    pub log_path: PathBuf,
    process: Option<Child>,
}

impl Cluster {
    /// A ready cluster of `size` Quorate members.
    pub async fn quorate(size: usize) -> Cluster {
        Cluster::new(Server::Quorate, size, &[]).await
    }

    /// A ready cluster of `size` etcd members, as patient as [`Cluster::steady`].
    pub async fn etcd(bin_dir: &Path, size: usize) -> Cluster {
        Cluster::new(Server::Etcd(bin_dir.to_owned()), size, &[PATIENT]).await
    }

    /// A ready cluster of `size` Quorate members whose leader stays, also where a process waits for the processor or the
    /// disk for longer than it may with the default timers: for tests that ask without trying again, or remember who leads.
    pub async fn steady(size: usize) -> Cluster {
        Cluster::new(Server::Quorate, size, &[PATIENT]).await
    }

    /// A ready cluster whose members get `extra` on their command line.
    pub async fn new(server: Server, size: usize, extra: &[&str]) -> Cluster {
        let mut cluster = Cluster::unstarted(server, size, extra);
        for place in 0..size {
            cluster.start(place);
        }
        cluster.ready().await;
        cluster
    }

    /// A cluster of which nothing runs yet.
    pub fn unstarted(server: Server, size: usize, extra: &[&str]) -> Cluster {
        let dir = tempfile::Builder::new().prefix("quorate-test-").tempdir().expect("a temporary directory");
        let node = |place: usize| {
            let name = format!("n{}", place + 1);
            Node {
                client: format!("127.0.0.1:{}", free_port()),
                peer: format!("127.0.0.1:{}", free_port()),
                data_dir: dir.path().join(&name),
                log_path: dir.path().join(format!("{name}.log")),
                process: None,
                name,
            }
        };
        let nodes = (0..size).map(node).collect();
        Cluster { server, extra: extra.iter().map(|arg| (*arg).to_owned()).collect(), nodes, dir: Some(dir) }
    }

    /// The members, in the order of their names.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where clients go, in the order of the members.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// A client of all members.
    pub fn client(&self) -> Client {
        Client::new(&self.endpoints(), Options::default()).expect("endpoints made here are good")
    }

    /// A client of one member.
    pub fn client_of(&self, place: usize) -> Client {
        self.client().only(&self.nodes[place].client).expect("an endpoint made here is good")
    }

    /// Starts a member, for the first time or again. It is not ready yet: see [`Cluster::ready`].
    pub fn start(&mut self, place: usize) {
        self.start_with(place, self.command(place));
    }

    /// Starts a member by a command of the test's own, made of [`Cluster::command`].
    pub fn start_with(&mut self, place: usize, command: Command) {
        let node = &mut self.nodes[place];
        assert!(node.process.is_none(), "{} runs already", node.name);
        node.process = Some(spawn(command, &node.log_path));
    }

    /// SIGKILL, and the end of the process.
    pub fn kill(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let mut process = node.process.take().unwrap_or_else(|| panic!("{} does not run", node.name));
        process.kill().expect("a child can be killed");
        process.wait().expect("a child can be waited for");
    }

    /// SIGTERM; what follows takes its time.
    pub fn terminate(&self, place: usize) {
        self.signal(place, Signal::TERM);
    }

    /// SIGTERM, and the end of the process, which says how it went.
    pub fn stop(&mut self, place: usize) -> ExitStatus {
        self.terminate(place);
        let mut process = self.nodes[place].process.take().expect("it was just signalled");
        process.wait().expect("a child can be waited for")
    }

    /// Kills a member and starts it again.
    pub fn restart(&mut self, place: usize) {
        self.kill(place);
        self.start(place);
    }

    /// SIGSTOP: the process is there, its sockets are open, and nothing moves.
    pub fn pause(&self, place: usize) {
        self.signal(place, Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self, place: usize) {
        self.signal(place, Signal::CONT);
    }

    /// The process id of a member that runs.
    pub fn pid(&self, place: usize) -> Option<u32> {
        self.nodes[place].process.as_ref().map(Child::id)
    }

    /// Whether a member's process has ended on its own, and how.
    pub fn ended(&mut self, place: usize) -> Option<ExitStatus> {
        self.nodes[place].process.as_mut()?.try_wait().expect("a child can be asked")
    }

    /// Waits until every running member serves linearizable reads.
    ///
    /// # Panics
    /// If one of them ends, or takes too long.
    pub async fn ready(&mut self) {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|place| self.nodes[*place].process.is_some()).collect();
        for place in running {
            let client = self.client_of(place);
            let deadline = clock::instant() + READY_WITHIN;
            let ready = pb::RangeRequest { key: "ready".into(), ..Default::default() };
            while let Err(e) = client.range(ready.clone()).await {
                let name = self.nodes[place].name.clone();
                if let Some(status) = self.ended(place) {
                    panic!("{name} ended instead of getting ready: {status}");
                }
                assert!(clock::instant() < deadline, "{name} is not ready after {READY_WITHIN:?}: {e}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// The member that leads, as it says itself; waits for one.
    ///
    /// # Panics
    /// If there is none for too long.
    pub async fn leader(&self) -> usize {
        let client = self.client();
        let deadline = clock::instant() + READY_WITHIN;
        loop {
            for (place, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.process.is_some()) {
                let Ok(status) = client.status(&node.client).await else { continue };
                if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
                    return place;
                }
            }
            assert!(clock::instant() < deadline, "no leader after {READY_WITHIN:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Everything a member has logged.
    pub fn log(&self, place: usize) -> String {
        let bytes = std::fs::read(&self.nodes[place].log_path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A place for one more member, which is not of the first ones.
    pub fn add(&mut self) -> usize {
        let dir = self.dir.as_ref().expect("the cluster has a directory").path();
        let name = format!("n{}", self.nodes.len() + 1);
        let (client, peer) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let (data_dir, log_path) = (dir.join(&name), dir.join(format!("{name}.log")));
        self.nodes.push(Node { client, peer, data_dir, log_path, process: None, name });
        self.nodes.len() - 1
    }

    /// All members as `--initial-cluster` has them.
    pub fn initial_cluster(&self) -> String {
        let members = self.nodes.iter().map(|node| format!("{}=http://{}", node.name, node.peer));
        members.collect::<Vec<_>>().join(",")
    }

    /// What every member gets on its command line beside what makes it a member.
    pub fn extra(&self) -> &[String] {
        &self.extra
    }

    /// The command that starts a member of the first cluster.
    pub fn command(&self, place: usize) -> Command {
        let mut command = self.command_without_cluster(place);
        command
            .args(["--initial-cluster", &self.initial_cluster(), "--initial-cluster-token", "test"])
            .args(["--initial-cluster-state", "new"])
            .args(&self.extra);
        command
    }

    /// The command that starts a member, but for what says which cluster it belongs to.
    pub fn command_without_cluster(&self, place: usize) -> Command {
        let node = &self.nodes[place];
        let mut command = match &self.server {
            Server::Quorate => {
                let mut command = Command::new(binary());
                command.arg("serve");
                command
            }
            Server::Etcd(dir) => Command::new(dir.join("etcd")),
        };
        // A variable of the machine must not configure a test.
        for (name, _) in std::env::vars_os() {
            if ["ETCD_", "ETCDCTL_", "QUORATE_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        let (client, peer) = (format!("http://{}", node.client), format!("http://{}", node.peer));
        command
            .args(["--name", &node.name])
            .arg("--data-dir")
            .arg(&node.data_dir)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command
    }

    fn signal(&self, place: usize, signal: Signal) {
        let node = &self.nodes[place];
        let process = node.process.as_ref().unwrap_or_else(|| panic!("{} does not run", node.name));
        kill_process(Pid::from_child(process), signal).expect("a child can be signalled");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                // Errors mean that it has ended already.
                _ = process.kill();
                _ = process.wait();
            }
        }
        if std::thread::panicking() {
            for place in 0..self.nodes.len() {
                let log = self.log(place);
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
                eprintln!("--- the end of {}:\n{tail}", self.nodes[place].log_path.display());
            }
            if let Some(dir) = self.dir.take() {
                eprintln!("--- the data is kept: {}", dir.keep().display());
            }
        }
    }
}

fn spawn(mut command: Command, log_path: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log_path).expect("the log file can be opened");
    let out = log.try_clone().expect("a file handle can be cloned");
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null()).stdout(out).stderr(log);
    command.spawn().unwrap_or_else(|e| panic!("{}: {e}", program.display()))
}

/// A port that nobody listens on, below those of labs (see [`lab_port`]) and those that the kernel hands out to outgoing
/// connections.
pub fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries run side by side: each starts somewhere else.
    let offset = (std::process::id().wrapping_mul(7919) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (u32::from(offset) + u32::from(next)).rem_euclid(u32::from(COUNT)) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// The first port of a lab of three on which nobody listens, different at each call. All six ports stay below the range
/// from which the system takes ports for outgoing connections: one of those could be taken between the look and the start.
pub fn lab_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let somewhere = (std::process::id() % 60) as u16 * 20;
    let is_free = |base: u16| {
        let ports = [0, 1, 20_000, 20_001, 30_000, 30_001].map(|offset| base + offset);
        ports.iter().all(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
    };
    let mut bases = std::iter::from_fn(|| Some(1100 + (somewhere + 20 * NEXT.fetch_add(1, Ordering::Relaxed)) % 1200));
    bases.by_ref().take(60).find(|base| is_free(*base)).expect("no ports for a lab")
}

/// The real etcd's directory, from `ETCD_BIN_DIR`. Without it a test that compares with etcd is skipped, and says so; on
/// CI (`CI` is set) it fails instead.
pub fn etcd_bin_dir(test: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("ETCD_BIN_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    if let Some(dir) = dir {
        assert!(
            dir.join("etcd").is_file() && dir.join("etcdctl").is_file(),
            "ETCD_BIN_DIR={}: no etcd, etcdctl there",
            dir.display()
        );
        return Some(dir);
    }
    skip(test, "ETCD_BIN_DIR does not say where etcd and etcdctl 3.5 are");
    None
}

/// Says that a test is skipped and why; on CI that is a failure.
pub fn skip(test: &str, why: &str) {
    let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    assert!(!ci, "{test}: {why}, and on CI it must run");
    // Not with a macro: the test runner would swallow it.
    _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

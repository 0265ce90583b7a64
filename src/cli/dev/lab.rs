//! The lab as everyone who touches it sees it: its file, its lock, its members' states.
//!
//! The lab's file is written by the lab and by every `quorate dev` command in another terminal, so each change is made
//! under a lock on a file beside it: read, change, write. What a command is about to do to a member is written *before* it
//! is done; a member that is down although its state says "running" died on its own, and the lab reports it.
//!
//! Data: `<state>/quorate/dev/default` is thrown away with its lab; `--keep NAME` puts them beside it and leaves them.
//! A kept lab comes back on its old ports, because its members know each other by them.

use super::ports::{self, Ports};
use super::process;
use crate::cli::exit::{self, Failure};
use crate::cli::lab_file::{self, LabFile, LabNode, LabState};
use crate::client::{Client, Options};
use crate::clock;
use crate::proto::etcdserverpb as pb;
use crate::time::Duration;
use rustix::process::Signal;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The name of the lab whose data are thrown away.
pub const THROWAWAY: &str = "default";
/// In a kept lab's directory: the first client port, in decimal.
const PORT_FILE: &str = "port";
/// Names another server program for the members (one that takes etcd's flags), for tests and comparisons.
pub const SERVER_VARIABLE: &str = "QUORATE_DEV_SERVER";
/// How long members may take to end in good order before they are killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// For one question to one member on the same machine.
const ASK_LIMIT: Duration = Duration::from_millis(500);

/// What a lab is started with.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How many members.
    pub members: usize,
    /// The first member's client port.
    pub port: u16,
    /// The name under which the data are kept; thrown away without one.
    pub keep: Option<String>,
    /// Flags that every member gets.
    pub flags: Vec<String>,
    /// Stays when the command that started it ends.
    pub detached: bool,
}

/// Exclusive hold of the lab's file, for as long as it lives.
struct Hold {
    path: PathBuf,
    _lock: File,
}

impl Hold {
    fn take() -> io::Result<Hold> {
        let path = lab_file::path()?;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let lock = File::options().create(true).append(true).open(path.with_extension("lock"))?;
        lock.lock()?;
        Ok(Hold { path, _lock: lock })
    }
}

/// The lab that runs.
///
/// # Errors
/// If none does, with the command that starts one.
pub fn running() -> Result<LabFile, Failure> {
    let lab = lab_file::path().and_then(|path| lab_file::read(&path))?;
    lab.ok_or_else(|| Failure::new(exit::ERROR, "no lab is running").fix("start one: quorate dev"))
}

/// Whether the lab's file still speaks of the lab that started at `started_unix_us`.
pub fn is_current(started_unix_us: u64) -> io::Result<Option<LabFile>> {
    let lab = lab_file::path().and_then(|path| lab_file::read(&path))?;
    Ok(lab.filter(|lab| lab.started_unix_us == started_unix_us))
}

/// Changes the lab's file under its lock, if it is still that lab's; returns it as it is now.
///
/// # Errors
/// If the lab has ended, or the file can't be read or written.
pub fn change(lab: &LabFile, change: impl FnOnce(&mut LabFile)) -> Result<LabFile, Failure> {
    let hold = Hold::take()?;
    let current = lab_file::read(&hold.path)?.filter(|current| current.started_unix_us == lab.started_unix_us);
    let mut current = current.ok_or_else(|| Failure::new(exit::ERROR, "the lab has ended").fix("quorate dev"))?;
    change(&mut current);
    lab_file::write(&hold.path, &current)?;
    Ok(current)
}

/// Writes that `name` is in `state` now; an ended one has no process id any more.
///
/// # Errors
/// As [`change`].
pub fn set_state(lab: &LabFile, name: &str, state: LabState) -> Result<LabFile, Failure> {
    change(lab, |lab| {
        if let Some(node) = lab.nodes.iter_mut().find(|node| node.name == name) {
            node.state = state;
        }
    })
}

/// Starts the member `name` again.
///
/// # Errors
/// If it runs already, or can't be started.
pub fn start(lab: &LabFile, name: &str) -> Result<LabFile, Failure> {
    let mut result = Ok(());
    let lab = change(lab, |lab| {
        let Some(node) = lab.nodes.iter_mut().find(|node| node.name == name) else { return };
        result = launch(node);
    })?;
    result.map(|()| lab)
}

fn launch(node: &mut LabNode) -> Result<(), Failure> {
    if process::is_running(node) {
        let what = format!("{} is {} already (pid {})", node.name, word(node.state), node.pid);
        let failure = Failure::new(exit::ERROR, what);
        let frozen = node.state == LabState::Paused;
        return Err(if frozen { failure.fix(format!("quorate dev resume {}", node.name)) } else { failure });
    }
    // Dropping the handle leaves the process alone; its end is seen through its process id, by everyone alike.
    node.pid = process::spawn(node)?.id();
    node.state = LabState::Starting;
    Ok(())
}

/// Starts a lab, all members at once; they are not ready yet.
///
/// # Errors
/// If one runs already, the ports are taken, or a process can't be started (then none is left running).
pub fn create(wanted: &Wanted, say: &mut impl FnMut(String)) -> Result<LabFile, Failure> {
    let hold = Hold::take()?;
    if let Some(old) = lab_file::read(&hold.path)? {
        clear_way(&hold.path, &old, say)?;
    }
    let home = hold.path.parent().unwrap_or(Path::new("."));
    let dir = home.join(wanted.keep.as_deref().unwrap_or(THROWAWAY));
    let kept_port = if wanted.keep.is_some() { kept(&dir, wanted.members)? } else { None };
    if wanted.keep.is_none() && dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let ports = choose_ports(wanted, kept_port, say)?;
    std::fs::create_dir_all(&dir)?;
    if wanted.keep.is_some() {
        std::fs::write(dir.join(PORT_FILE), ports[0].client.to_string())?;
    }
    let mut lab = LabFile {
        version: lab_file::VERSION,
        pid: if wanted.detached { 0 } else { std::process::id() },
        started_unix_us: clock::unix_micros(),
        nodes: nodes(&program()?, &dir, &ports, &wanted.flags),
        dir,
    };
    // Written first: a lab that is killed half started is found and cleared away by the next.
    lab_file::write(&hold.path, &lab)?;
    for i in 0..lab.nodes.len() {
        let launched = launch(&mut lab.nodes[i]);
        lab_file::write(&hold.path, &lab)?;
        if let Err(failure) = launched {
            kill_all(&lab);
            remove(&hold.path, &lab, false)?;
            return Err(failure);
        }
    }
    Ok(lab)
}

/// Refuses if `old` is alive and someone's; ends what a killed lab has left behind.
fn clear_way(path: &Path, old: &LabFile, say: &mut impl FnMut(String)) -> Result<(), Failure> {
    let members: Vec<&str> =
        old.nodes.iter().filter(|node| process::is_running(node)).map(|node| node.name.as_str()).collect();
    let detached = old.pid == 0;
    if supervisor_runs(old) || detached && !members.is_empty() {
        let what = format!("a lab is running already at {}", old.endpoints().join(","));
        return Err(Failure::new(exit::ERROR, what)
            .fix("use it (quorate dev ps), or end it and start afresh: quorate dev down && quorate dev"));
    }
    if !members.is_empty() {
        say(format!("ended {}, left behind by a lab that was killed", members.join(" ")));
    }
    kill_all(old);
    Ok(remove(path, old, false)?)
}

fn supervisor_runs(lab: &LabFile) -> bool {
    // Only the lab itself answers to this id with a `dev` or `live` on its command line.
    let line = process::command_line(lab.pid).unwrap_or_default();
    let is_ours = |arg: &[u8]| [&b"dev"[..], b"live"].contains(&arg.trim_ascii());
    lab.pid != 0 && line.split(|&b| b == 0 || b == b' ').any(is_ours)
}

/// The first port of a lab that was kept at `dir`, if there is one.
fn kept(dir: &Path, members: usize) -> Result<Option<u16>, Failure> {
    let Ok(text) = std::fs::read_to_string(dir.join(PORT_FILE)) else { return Ok(None) };
    let had = (1..=ports::MEMBERS_MAX).take_while(|i| dir.join(format!("n{i}")).exists()).count();
    if had > 0 && had != members {
        return Err(Failure::new(
            exit::ERROR,
            format!("the lab kept at {} has {had} members, not {members}", dir.display()),
        )
        .fix(format!("start it with -n {had}, or keep this one under another name")));
    }
    Ok(text.trim().parse().ok())
}

fn choose_ports(wanted: &Wanted, kept: Option<u16>, say: &mut impl FnMut(String)) -> Result<Vec<Ports>, Failure> {
    let none = |text: String| Failure::new(exit::ERROR, text);
    if let Some(ports) = kept.and_then(|port| ports::set(port, wanted.members)) {
        let taken = ports.iter().flat_map(|ports| [ports.client, ports.peer]).find(|&port| !ports::is_free(port));
        return match taken {
            None => Ok(ports),
            Some(port) => {
                Err(none(format!("port {port} is taken, and the kept members know each other by their ports"))
                    .fix("end what listens there, or start a lab under another name"))
            }
        };
    }
    let (base, ports) = ports::choose(wanted.port, wanted.members, ports::is_free).map_err(none)?;
    if base != wanted.port {
        say(format!("a port of the set at {} is taken: using {base}", wanted.port));
    }
    Ok(ports)
}

/// The program that runs members, and its first arguments.
fn program() -> io::Result<Vec<String>> {
    Ok(match std::env::var(SERVER_VARIABLE) {
        Ok(other) => vec![other],
        Err(_) => vec![std::env::current_exe()?.to_string_lossy().into_owned(), "serve".to_owned()],
    })
}

/// Members that are told of each other with etcd's flags, so that `program` may be any server that knows these.
pub fn nodes(program: &[String], dir: &Path, ports: &[Ports], flags: &[String]) -> Vec<LabNode> {
    let url = |port| format!("http://127.0.0.1:{port}");
    let cluster: Vec<String> =
        ports.iter().enumerate().map(|(i, ports)| format!("n{}={}", i + 1, url(ports.peer))).collect();
    let cluster = cluster.join(",");
    // Two labs, one after the other on the same ports, are two clusters.
    let token = format!("dev-{}", dir.file_name().unwrap_or_default().to_string_lossy());
    let nodes = ports.iter().enumerate().map(|(i, ports)| {
        let name = format!("n{}", i + 1);
        let (client_url, peer_url) = (url(ports.client), url(ports.peer));
        let data_dir = dir.join(&name);
        let mut command = program.to_vec();
        for (flag, value) in [
            ("name", name.as_str()),
            ("data-dir", &data_dir.to_string_lossy()),
            ("listen-peer-urls", &peer_url),
            ("listen-client-urls", &client_url),
            ("initial-advertise-peer-urls", &peer_url),
            ("advertise-client-urls", &client_url),
            ("initial-cluster", &cluster),
            ("initial-cluster-state", "new"),
            ("initial-cluster-token", &token),
        ] {
            command.push(format!("--{flag}={value}"));
        }
        command.extend_from_slice(flags);
        let log_path = dir.join(format!("{name}.log"));
        LabNode { name, client_url, peer_url, pid: 0, data_dir, log_path, state: LabState::Starting, command }
    });
    nodes.collect()
}

/// Ends the lab: its members in good order (killed after 5 s, or at once when `hurry` ends), then its file, and its data
/// unless they are kept and `purge` is not asked for.
///
/// # Errors
/// If the file or the data can't be removed.
pub async fn end(lab: &LabFile, purge: bool, hurry: impl Future<Output = ()>) -> Result<(), Failure> {
    // Their states first, so that nobody takes their end for an accident.
    let lab = change(lab, |lab| {
        for node in lab.nodes.iter_mut().filter(|node| process::is_running(node)) {
            node.state = LabState::Stopped;
        }
    })?;
    for node in &lab.nodes {
        process::signal(node, Signal::TERM)?;
        process::signal(node, Signal::CONT)?;
    }
    let ended = async {
        for node in &lab.nodes {
            process::ended(node, STOP_LIMIT).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(STOP_LIMIT, ended) => {}
        () = hurry => {}
    }
    kill_all(&lab);
    let hold = Hold::take()?;
    // Whoever waited for the members may find that the next lab has cleared them away and taken their place.
    match lab_file::read(&hold.path)? {
        Some(now) if now.started_unix_us == lab.started_unix_us => Ok(remove(&hold.path, &lab, purge)?),
        _ => Ok(()),
    }
}

/// Kills what still runs of the lab.
pub fn kill_all(lab: &LabFile) {
    for node in &lab.nodes {
        // One that can't be killed is gone, or isn't ours.
        _ = process::signal(node, Signal::KILL);
    }
}

fn remove(path: &Path, lab: &LabFile, purge: bool) -> io::Result<()> {
    if purge || is_throwaway(lab) {
        remove_dir(&lab.dir)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A process that was just killed may still be closing its files: a directory that fills again is tried again.
fn remove_dir(dir: &Path) -> io::Result<()> {
    for _ in 0..50 {
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => std::thread::sleep(Duration::from_millis(10)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => return Ok(()),
        }
    }
    std::fs::remove_dir_all(dir)
}

/// Whether the lab's data end with it.
pub fn is_throwaway(lab: &LabFile) -> bool {
    lab.dir.file_name().is_some_and(|name| name == THROWAWAY)
}

/// A client of all members, for questions to single ones.
///
/// # Errors
/// If an endpoint in the lab's file can't be read.
pub fn client(lab: &LabFile) -> Result<Client, Failure> {
    let options = Options { dial_timeout: ASK_LIMIT, command_timeout: ASK_LIMIT, try_timeout: ASK_LIMIT };
    Ok(Client::new(&lab.endpoints(), options)?)
}

/// `127.0.0.1:2379` of a member's client URL.
pub fn endpoint(node: &LabNode) -> &str {
    node.client_url.trim_start_matches("http://")
}

/// What a member says of itself.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its place in the lab's file.
    pub place: usize,
    /// Its answer.
    pub status: pb::StatusResponse,
}

impl Seen {
    /// Its own id.
    pub fn id(&self) -> u64 {
        self.status.header.as_ref().map_or(0, |header| header.member_id)
    }

    /// Whether it takes itself for the leader.
    pub fn leads(&self) -> bool {
        self.status.leader != 0 && self.status.leader == self.id()
    }
}

/// The members that run and are not paused.
pub fn living(lab: &LabFile) -> impl Iterator<Item = (usize, &LabNode)> {
    lab.nodes.iter().enumerate().filter(|(_, node)| node.state != LabState::Paused && process::is_running(node))
}

/// Asks all living members for their status, at once; those that don't answer are left out.
pub async fn look(lab: &LabFile, client: &Client) -> Vec<Seen> {
    let mut asked = tokio::task::JoinSet::new();
    for (place, node) in living(lab) {
        let (client, endpoint) = (client.clone(), endpoint(node).to_owned());
        asked.spawn(async move { client.status(&endpoint).await.ok().map(|status| Seen { place, status }) });
    }
    let mut seen: Vec<Seen> = asked.join_all().await.into_iter().flatten().collect();
    seen.sort_by_key(|seen| seen.place);
    seen
}

/// The leader among `seen`: the one of the highest term, should a deposed one not have heard yet.
pub fn leader(seen: &[Seen]) -> Option<&Seen> {
    seen.iter().filter(|seen| seen.leads()).max_by_key(|seen| seen.status.raft_term)
}

/// The member meant by `name`: its own name, or `leader` or `follower`.
///
/// # Errors
/// If there is none, with the names there are.
pub fn resolve(lab: &LabFile, seen: &[Seen], name: &str) -> Result<usize, Failure> {
    let names: Vec<&str> = lab.nodes.iter().map(|node| node.name.as_str()).collect();
    let role = |found: Option<usize>| {
        found.ok_or_else(|| Failure::new(exit::ERROR, format!("no {name} is known now")).fix("quorate dev ps"))
    };
    match name {
        "leader" => role(leader(seen).map(|seen| seen.place)),
        "follower" => role(seen.iter().find(|seen| seen.status.leader != 0 && !seen.leads()).map(|seen| seen.place)),
        _ => names.iter().position(|known| *known == name).ok_or_else(|| {
            Failure::new(exit::BAD_ARGS, format!("the lab has no member {name}"))
                .fix(format!("use one of: {} leader follower", names.join(" ")))
        }),
    }
}

/// A state as one word for people.
pub fn word(state: LabState) -> &'static str {
    match state {
        LabState::Starting => "starting",
        LabState::Running => "running",
        LabState::Paused => "paused",
        LabState::Stopped => "stopped",
        LabState::Killed => "killed",
        LabState::Exited => "exited",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> LabFile {
        let ports = ports::set(2379, 3).unwrap();
        let dir = PathBuf::from("/state/quorate/dev/default");
        let nodes = nodes(&program().unwrap(), &dir, &ports, &["--heartbeat-interval=50".to_owned()]);
        LabFile { version: lab_file::VERSION, pid: 1, started_unix_us: 1, dir, nodes }
    }

    fn seen(place: usize, id: u64, leader: u64, raft_term: u64) -> Seen {
        let header = Some(pb::ResponseHeader { member_id: id, ..Default::default() });
        Seen { place, status: pb::StatusResponse { header, leader, raft_term, ..Default::default() } }
    }

    #[test]
    fn members_are_told_of_each_other_with_etcds_flags() {
        let lab = lab();
        assert!(is_throwaway(&lab));
        let command = &lab.nodes[1].command;
        for flag in [
            "--name=n2",
            "--data-dir=/state/quorate/dev/default/n2",
            "--listen-client-urls=http://127.0.0.1:22379",
            "--initial-cluster=n1=http://127.0.0.1:2380,n2=http://127.0.0.1:22380,n3=http://127.0.0.1:32380",
            "--initial-cluster-token=dev-default",
            "--heartbeat-interval=50",
        ] {
            assert!(command.iter().any(|arg| arg == flag), "{flag} in {command:?}");
        }
        assert_eq!(lab.endpoints()[1], endpoint(&lab.nodes[1]));
    }

    #[test]
    fn members_are_named_by_name_or_by_role() {
        let lab = lab();
        let all = [seen(0, 10, 30, 4), seen(1, 20, 30, 4), seen(2, 30, 30, 4)];
        assert_eq!(resolve(&lab, &all, "n2").unwrap(), 1);
        assert_eq!(resolve(&lab, &all, "leader").unwrap(), 2);
        assert_eq!(resolve(&lab, &all, "follower").unwrap(), 0);
        assert!(resolve(&lab, &all, "n4").unwrap_err().to_string().contains("no member n4"));
        assert!(resolve(&lab, &[], "leader").unwrap_err().to_string().contains("no leader is known"));
        assert_eq!(resolve(&lab, &[], "n3").unwrap(), 2, "a name needs nobody's answer");
    }

    #[test]
    fn of_two_that_claim_to_lead_the_newer_term_leads() {
        let all = [seen(0, 10, 10, 4), seen(1, 20, 20, 5), seen(2, 30, 20, 5)];
        assert_eq!(leader(&all).unwrap().place, 1);
        assert!(leader(&[seen(0, 0, 0, 4)]).is_none(), "0 is nobody, not the leader");
    }
}

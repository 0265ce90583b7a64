//! One server's cluster: its processes on the loopback, and what they have used.
//!
//! Any server will do that takes etcd's flags and answers etcd's API. The processes end with the fleet.

use super::super::survey;
use crate::cli::dev::{lab, ports, process};
use crate::cli::exit::{self, Failure};
use crate::cli::lab_file::LabNode;
use crate::clock;
use crate::server::process as kernel;
use crate::time::Duration;
use rustix::process::{Pid, Signal};
use std::path::Path;
use std::process::Child;

/// The first client port, if it is free.
const PORT: u16 = 2379;
/// When to give up on a server that should answer.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// How often to look.
const LOOK: Duration = Duration::from_millis(10);
/// Members' output that is shown if a cluster does not come up.
const LOG_LINES: usize = 10;
/// Room for everything that a run writes: two gigabytes, etcd's default, are full after some millions of puts.
const QUOTA: &str = "--quota-backend-bytes=34359738368";

/// A server that is to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name in the report.
    pub name: String,
    /// The program and its first arguments.
    pub command: Vec<String>,
}

impl Server {
    /// From `NAME=COMMAND`; blanks end an argument.
    pub fn parse(text: &str) -> Result<Server, String> {
        let wanted = "give NAME=COMMAND, as in 'etcd=/usr/bin/etcd'";
        let (name, command) = text.split_once('=').ok_or(wanted)?;
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match name.is_empty() || !name.chars().all(plain) || command.is_empty() {
            true => Err(wanted.to_owned()),
            false => Ok(Server { name: name.to_owned(), command }),
        }
    }
}

/// A member's process.
struct Member {
    node: LabNode,
    child: Child,
}

impl Member {
    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

/// A cluster, as long as this lives.
pub struct Fleet {
    name: String,
    members: Vec<Member>,
}

impl Fleet {
    /// Starts a cluster of `count` members below `dir`, and waits until it has a leader.
    ///
    /// # Errors
    /// If it can't be started, or has no leader in time; with the end of a log.
    pub async fn start(server: &Server, count: usize, dir: &Path) -> Result<Fleet, Failure> {
        std::fs::create_dir_all(dir)?;
        let (_, ports) =
            ports::choose(PORT, count, ports::is_free).map_err(|why| Failure::new(exit::BAD_CONNECTION, why))?;
        let mut fleet = Fleet { name: server.name.clone(), members: Vec::new() };
        for mut node in lab::nodes(&server.command, dir, &ports, &[QUOTA.to_owned()]) {
            let child = process::spawn(&node).map_err(|e| {
                Failure::new(exit::BAD_ARGS, format!("--server {}: {e}", server.name))
                    .fix("give a program that can be run")
            })?;
            node.pid = child.id();
            fleet.members.push(Member { node, child });
        }
        fleet.leader().await?;
        Ok(fleet)
    }

    /// The server's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients reach the members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| lab::endpoint(&member.node).to_owned()).collect()
    }

    /// The leader's endpoint, as soon as all members answer and one leads.
    ///
    /// # Errors
    /// If that takes too long, or one has ended; with the end of a log.
    pub async fn leader(&mut self) -> Result<String, Failure> {
        let endpoints = self.endpoints();
        let members = &mut self.members;
        // Nobody waits for a process that has ended.
        let asked = async || match survey(&endpoints).await.ok().and_then(|cluster| cluster.leader) {
            Some(leader) => Some(Ok(leader)),
            None => members.iter_mut().position(Member::has_ended).map(Err),
        };
        match patiently(&format!("{}: a leader", self.name), READY_LIMIT, asked).await {
            Ok(Ok(leader)) => Ok(leader),
            Ok(Err(place)) => {
                let failure = Failure::new(exit::ERROR, format!("{}: a member has ended", self.name));
                Err(failure.fix(format!("its log ends: {}", last_lines(&self.members[place].node))))
            }
            Err(failure) => Err(failure.fix(format!("a log ends: {}", last_lines(&self.members[0].node)))),
        }
    }

    /// The place of the member at `endpoint`.
    pub fn place(&self, endpoint: &str) -> usize {
        self.members.iter().position(|member| lab::endpoint(&member.node) == endpoint).unwrap_or_default()
    }

    /// What all members together have used; the memory is that of the largest.
    ///
    /// # Errors
    /// If one does not run, or the kernel tells nothing.
    pub fn usage(&self) -> Result<kernel::Usage, Failure> {
        let mut all = kernel::Usage::default();
        for place in 0..self.members.len() {
            let used = self.usage_of(place)?;
            all.cpu_s += used.cpu_s;
            all.written += used.written;
            all.resident = all.resident.max(used.resident);
            all.resident_peak = all.resident_peak.max(used.resident_peak);
        }
        Ok(all)
    }

    /// What the member at `place` has used since it was started.
    ///
    /// # Errors
    /// As [`Fleet::usage`].
    pub fn usage_of(&self, place: usize) -> Result<kernel::Usage, Failure> {
        let node = &self.members[place].node;
        kernel::usage(node.pid).ok_or_else(|| {
            Failure::new(exit::ERROR, format!("{} {} is gone, or /proc is closed", self.name, node.name))
                .fix(format!("its log ends: {}", last_lines(node)))
        })
    }

    /// The most memory that a member ever had, in MB.
    ///
    /// # Errors
    /// As [`Fleet::usage`].
    pub fn peak_mb(&self) -> Result<f64, Failure> {
        Ok(self.usage()?.resident_peak as f64 / 1e6)
    }

    /// Sends a signal to the member at `place`.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn signal(&self, place: usize, signal: Signal) -> Result<(), Failure> {
        // Not reaped yet, so the id is still this process's.
        let pid = i32::try_from(self.members[place].child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::new(exit::ERROR, "a process has no id"))?;
        Ok(rustix::process::kill_process(pid, signal).map_err(std::io::Error::from)?)
    }

    /// Waits until the process at `place` has ended, and starts it again.
    ///
    /// # Errors
    /// If it does not end, or can't be started.
    pub async fn restart(&mut self, place: usize) -> Result<(), Failure> {
        let member = &mut self.members[place];
        let child = &mut member.child;
        patiently("the end of a process", READY_LIMIT, async || child.try_wait().ok().flatten()).await?;
        member.child = process::spawn(&member.node)?;
        member.node.pid = member.child.id();
        Ok(())
    }
}

fn last_lines(node: &LabNode) -> String {
    process::tail(&node.log_path, LOG_LINES).join("\n    ")
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for member in &mut self.members {
            // A frozen process dies of this too. One that has ended can't be killed, which is as good.
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// If there is none within `limit`.
pub async fn patiently<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Result<T, Failure> {
    let until = clock::instant() + limit;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if clock::instant() >= until {
            return Err(Failure::new(exit::BAD_CONNECTION, format!("waited {limit:?} for {what}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_name_and_a_command() {
        let server = Server::parse("ours=target/release/quorate serve --log-level=warn").unwrap();
        assert_eq!((server.name.as_str(), server.command.len()), ("ours", 3));
        assert_eq!(server.command[2], "--log-level=warn");
        assert!(["etcd", "=etcd", "a b=etcd", "../x=etcd", "etcd= "].iter().all(|text| Server::parse(text).is_err()));
    }
}

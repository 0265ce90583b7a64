//! The lab in the foreground: it watches its members until it is told to end.
//!
//! Other terminals act on the members directly and write it into the lab's file; this one reads the file a few times a
//! second, says what changed, and reports a member that ended on its own with the last lines of its log.
//!
//! If the lab itself is killed, a *guard* ends its members: a process of this program that does nothing but wait for the
//! end of its stdin, a pipe whose other end only the lab holds. The kernel closes that end however the lab dies.

use super::lab;
use super::process;
use crate::cli::exit::Failure;
use crate::cli::lab_file::{LabFile, LabNode, LabState};
use crate::time::Duration;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the lab looks at its members.
const LOOK: Duration = Duration::from_millis(200);
/// How many lines of the log of a member that died are shown.
const TAIL: usize = 12;

/// The signals that end the lab.
pub struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Ends {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn listen() -> std::io::Result<Ends> {
        Ok(Ends {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Starts the guard of `lab`; it ends the lab when the returned child's stdin is closed.
///
/// # Errors
/// If the process can't be started.
pub fn start_guard(lab: &LabFile) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["dev", "guard", &lab.started_unix_us.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// The guard: waits for the end of stdin, then ends the lab if it is still there.
///
/// # Errors
/// If the lab can't be ended.
pub async fn guard(started_unix_us: u64) -> Result<(), Failure> {
    // Nothing is ever written; an error is as good an end as any.
    _ = std::io::stdin().read(&mut [0]);
    match lab::is_current(started_unix_us)? {
        Some(lab) => lab::end(&lab, false, std::future::pending()).await,
        None => Ok(()),
    }
}

/// Watches the lab until a signal comes, or until it was ended from another terminal; true for the signal.
///
/// # Errors
/// If the lab's file can't be read any more.
pub async fn watch(lab: LabFile, ends: &mut Ends, mut say: impl FnMut(String)) -> Result<bool, Failure> {
    let mut known = lab;
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = ends.next() => return Ok(true),
            _ = tick.tick() => {}
        }
        let Some(mut now) = lab::is_current(known.started_unix_us)? else {
            // Whoever took the file away has ended the members; if it was no `quorate dev`, they end now.
            lab::kill_all(&known);
            return Ok(false);
        };
        for place in 0..now.nodes.len() {
            let node = &now.nodes[place];
            let expected = matches!(node.state, LabState::Starting | LabState::Running | LabState::Paused);
            if !expected || process::is_running(node) {
                continue;
            }
            // The file is read again under its lock: another terminal may have signalled it a moment ago.
            let name = node.name.clone();
            now = lab::change(&now, |lab| note_end(&mut lab.nodes, &name))?;
            if now.nodes[place].state == LabState::Exited {
                say(obituary(&now.nodes[place]));
            }
        }
        for (node, before) in now.nodes.iter().zip(&known.nodes) {
            if let Some(news) = news(before, node) {
                say(news);
            }
        }
        known = now;
    }
}

fn note_end(nodes: &mut [LabNode], name: &str) {
    for node in nodes.iter_mut().filter(|node| node.name == name && !process::is_running(node)) {
        if matches!(node.state, LabState::Starting | LabState::Running | LabState::Paused) {
            node.state = LabState::Exited;
        }
    }
}

/// What there is to say about a member that ended on its own.
pub fn obituary(node: &LabNode) -> String {
    let mut out = format!("{} (pid {}) ended on its own. The end of {}:", node.name, node.pid, node.log_path.display());
    for line in process::tail(&node.log_path, TAIL) {
        out.push_str("\n    ");
        out.push_str(&line);
    }
    out.push_str(&format!("\n  start it again: quorate dev start {}", node.name));
    out
}

fn news(before: &LabNode, now: &LabNode) -> Option<String> {
    if before.pid != now.pid {
        return Some(format!("{} was started again (pid {})", now.name, now.pid));
    }
    if before.state == now.state {
        return None;
    }
    match now.state {
        LabState::Killed | LabState::Stopped | LabState::Paused => {
            Some(format!("{} was {}", now.name, lab::word(now.state)))
        }
        LabState::Running if before.state == LabState::Paused => Some(format!("{} was resumed", now.name)),
        LabState::Running | LabState::Starting | LabState::Exited => None,
    }
}

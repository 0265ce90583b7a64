//! The lab's processes: started, signalled, looked up.
//!
//! A member is a process of its own, in a process group of its own: Ctrl-C in the terminal reaches the lab alone, which
//! then stops its members in good order. Whoever starts a member (the lab, or `quorate dev start` in another terminal) is
//! its parent, so everyone knows members by process id, and a process id is believed only while the process has the very
//! command line that the lab's file records: ids are reused, and nobody's editor shall be killed by `quorate dev kill`.
//!
//! Left out: Windows.

use crate::cli::lab_file::LabNode;
use crate::time::Duration;
use rustix::process::{Pid, Signal};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Variables that begin so would change what a member does behind the lab's back.
const FOREIGN_VARIABLES: [&str; 2] = ["ETCD_", "QUORATE_"];
/// The end of a log that holds its last lines.
const TAIL_BYTES: u64 = 16 * 1024;

/// Starts the member `node` by its recorded command line; its output is appended to its log.
///
/// # Errors
/// What the operating system says, with the path it says it about.
pub fn spawn(node: &LabNode) -> io::Result<Child> {
    let (program, args) = node.command.split_first().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the lab's file has no command line for {}", node.name))
    })?;
    let at = |path: &Path, e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let log = OpenOptions::new().create(true).append(true).open(&node.log_path).map_err(|e| at(&node.log_path, e))?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    for (name, _) in std::env::vars_os() {
        if FOREIGN_VARIABLES.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(name);
        }
    }
    command.spawn().map_err(|e| at(Path::new(program), e))
}

/// Whether `node`'s process runs (or is paused): its id is taken, by its own command line, and it is no zombie.
pub fn is_running(node: &LabNode) -> bool {
    node.pid != 0 && command_line(node.pid).is_some_and(|line| is_command(&line, &node.command))
}

/// Sends `signal` to `node`'s process; false if it doesn't run.
///
/// # Errors
/// If the operating system refuses.
pub fn signal(node: &LabNode, signal: Signal) -> io::Result<bool> {
    let pid = i32::try_from(node.pid).ok().and_then(Pid::from_raw).filter(|_| is_running(node));
    let Some(pid) = pid else { return Ok(false) };
    match rustix::process::kill_process(pid, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(e) => Err(io::Error::new(
            io::Error::from(e).kind(),
            format!("can't signal {} (pid {}): {e}", node.name, node.pid),
        )),
    }
}

/// Waits until `node`'s process has ended; false after `limit`.
pub async fn ended(node: &LabNode, limit: Duration) -> bool {
    let gone = async {
        while is_running(node) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(limit, gone).await.is_ok()
}

/// The command line of a process, arguments separated by zero bytes (Linux) or spaces (elsewhere, through `ps`); `None`
/// if there is no such process. A zombie's is empty on Linux.
pub fn command_line(pid: u32) -> Option<Vec<u8>> {
    if cfg!(target_os = "linux") {
        return std::fs::read(format!("/proc/{pid}/cmdline")).ok();
    }
    let output = Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output().ok()?;
    output.status.success().then_some(output.stdout)
}

fn is_command(line: &[u8], command: &[String]) -> bool {
    let separator: &[u8] = if line.contains(&0) { b"\0" } else { b" " };
    let expected: Vec<&[u8]> = command.iter().map(|arg| arg.as_bytes()).collect();
    !expected.is_empty()
        && line.trim_ascii_end().strip_suffix(b"\0").unwrap_or(line.trim_ascii_end()) == expected.join(separator)
}

/// The last `lines` lines of a log, oldest first; empty if it can't be read.
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::lab_file::LabState;

    fn node(command: &[&str], dir: &Path) -> LabNode {
        LabNode {
            name: "n1".into(),
            client_url: "http://127.0.0.1:2379".into(),
            peer_url: "http://127.0.0.1:2380".into(),
            pid: 0,
            data_dir: dir.join("n1"),
            log_path: dir.join("n1.log"),
            state: LabState::Running,
            command: command.iter().map(|arg| (*arg).to_owned()).collect(),
        }
    }

    #[test]
    fn a_process_id_is_believed_only_with_its_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut own = node(&["sleep", "1000"], dir.path());
        assert!(!is_running(&own), "pid 0 is nobody");
        let mut child = spawn(&own).unwrap();
        own.pid = child.id();
        // The child's command line is the parent's until it has become `sleep`.
        while !is_running(&own) {
            assert_eq!(child.try_wait().unwrap(), None);
        }
        let stranger = LabNode { command: vec!["sleep".into(), "10".into()], ..own.clone() };
        assert!(!is_running(&stranger));
        assert!(!signal(&stranger, Signal::KILL).unwrap(), "a stranger is not signalled");
        assert!(signal(&own, Signal::KILL).unwrap());
        child.wait().unwrap();
        assert!(!is_running(&own));
    }

    #[test]
    fn command_lines_are_compared_as_a_whole() {
        let command: Vec<String> = ["q", "serve", "--name=n1"].map(String::from).into();
        assert!(is_command(b"q\0serve\0--name=n1\0", &command));
        assert!(is_command(b"q serve --name=n1\n", &command));
        assert!(!is_command(b"q\0serve\0--name=n11\0", &command));
        assert!(!is_command(b"q\0serve\0", &command));
        assert!(!is_command(b"", &command), "a zombie");
        assert!(!is_command(b"", &[]), "a file without command lines");
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(tail(&path, 3).is_empty());
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&path, 2), ["two", "three"]);
        assert_eq!(tail(&path, 9).len(), 3);
    }
}

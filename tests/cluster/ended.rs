//! Programs that are expected to end by themselves, and what they said.

use crate::load::PATIENCE;
use quorate::clock;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// Both of its outputs.
    pub said: String,
}

/// The binary under test.
pub fn quorate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    without_settings(&mut command);
    command
}

/// A variable of the machine must not configure a test.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if ["ETCD_", "ETCDCTL_", "QUORATE_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

/// Runs a program that must end by itself.
///
/// # Panics
/// If it does not (it is killed then), or if it panicked.
pub fn ended(command: &mut Command) -> Ended {
    let output = tempfile::NamedTempFile::new().unwrap();
    let both: File = output.reopen().unwrap();
    let child = command.stdin(Stdio::null()).stdout(both.try_clone().unwrap()).stderr(both).spawn().unwrap();
    let status = tokio::task::block_in_place(|| wait(child));
    let said = String::from_utf8_lossy(&std::fs::read(output.path()).unwrap()).into_owned();
    let status = status.unwrap_or_else(|| panic!("{command:?} did not end by itself; it said:\n{said}"));
    assert!(!said.contains("panicked"), "{command:?} said:\n{said}");
    Ended { status, said }
}

/// How a child ends, or `None` if it had to be killed.
pub fn wait(mut child: Child) -> Option<ExitStatus> {
    let deadline = clock::instant() + PATIENCE;
    while clock::instant() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

impl Ended {
    /// Asserts the exit code and that all of `phrases` were said.
    #[track_caller]
    pub fn assert(&self, code: i32, phrases: &[&str]) {
        let words = self.said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(self.status.code(), Some(code), "signal {:?}; it said:\n{}", self.status.signal(), self.said);
        for phrase in phrases {
            assert!(words.contains(phrase), "it did not say {phrase:?}, but:\n{}", self.said);
        }
    }
}

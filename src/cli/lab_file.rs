//! The file in which `quorate dev` says what it runs, so that every other command finds the lab without flags.
//!
//! One lab per user and name (only `default` so far), at `$XDG_STATE_HOME/quorate/dev/default.json`. The lab writes it,
//! everyone else reads it. A write replaces the whole file by rename, so a reader sees the old text or the new one, never
//! half of one. A lab that was killed leaves its file behind: a reader believes it only while one of its processes lives.
//!
//! Left out: locks (one lab owns the file and refuses to start beside a living one), and anything that could be asked from
//! the members themselves.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// The layout written here; a file with a higher number is refused instead of half understood.
pub const VERSION: u32 = 1;

/// A local cluster as its supervisor last described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabFile {
    /// The layout, [`VERSION`].
    pub version: u32,
    /// The supervisor's process id.
    pub pid: u32,
    /// When the lab was started, in microseconds since the Unix epoch.
    pub started_unix_us: u64,
    /// Where the members' data and logs are.
    pub dir: PathBuf,
    /// The members, in the order of their names.
    pub nodes: Vec<LabNode>,
}

/// One member of the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabNode {
    /// `n1`, `n2`, ...
    pub name: String,
    /// Where clients go: `http://127.0.0.1:2379`.
    pub client_url: String,
    /// Where peers go.
    pub peer_url: String,
    /// The member's process id; 0 while it is not running.
    pub pid: u32,
    /// The member's data directory.
    pub data_dir: PathBuf,
    /// Where its stderr goes.
    pub log_path: PathBuf,
    /// What the supervisor last did to it, or saw happen.
    pub state: LabState,
    /// Its command line, program first: what a restart runs, and what proves that `pid` is still this member.
    #[serde(default)]
    pub command: Vec<String>,
}

/// What became of a lab's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabState {
    /// Started and not yet answering.
    Starting,
    /// Running.
    Running,
    /// Stopped by a signal that freezes it; its sockets are open and silent.
    Paused,
    /// Ended in good order.
    Stopped,
    /// Killed.
    Killed,
    /// Ended on its own: see its log.
    Exited,
}

impl LabFile {
    /// Where clients reach the lab, as `host:port`, members that are down included (they come back).
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| bare(&node.client_url).to_owned()).collect()
    }

    /// Whether anything of this lab is still alive: its supervisor or one of its members.
    pub fn is_alive(&self) -> bool {
        process_exists(self.pid) || self.nodes.iter().any(|node| process_exists(node.pid))
    }

    /// The member that clients reach at `endpoint` (with or without `http://`).
    pub fn node_at(&self, endpoint: &str) -> Option<&LabNode> {
        self.nodes.iter().find(|node| bare(&node.client_url) == bare(endpoint))
    }
}

/// Where the file of the default lab is: `$XDG_STATE_HOME/quorate/dev/default.json`, by default under `~/.local/state`.
///
/// # Errors
/// If neither `XDG_STATE_HOME` nor `HOME` is set.
pub fn path() -> io::Result<PathBuf> {
    Ok(state_home()?.join("quorate").join("dev").join("default.json"))
}

/// Reads `path`; `None` if there is no such file.
///
/// # Errors
/// If it can't be read, is no lab file, or is of a newer layout; the text names the file.
pub fn read(path: &Path) -> io::Result<Option<LabFile>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(path, &e.to_string(), e.kind())),
    };
    let lab: LabFile =
        serde_json::from_slice(&text).map_err(|e| at(path, &e.to_string(), io::ErrorKind::InvalidData))?;
    if lab.version > VERSION {
        let what = format!("layout {} is newer than {VERSION}, the newest this program knows", lab.version);
        return Err(at(path, &what, io::ErrorKind::InvalidData));
    }
    Ok(Some(lab))
}

/// Writes `lab` to `path` in one step, making its directory.
///
/// # Errors
/// What the file system says, with the file's name.
pub fn write(path: &Path, lab: &LabFile) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(lab)?;
    text.push(b'\n');
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| at(dir, &e.to_string(), e.kind()))?;
    }
    let new = path.with_extension(format!("json.{}", std::process::id()));
    std::fs::write(&new, text).map_err(|e| at(&new, &e.to_string(), e.kind()))?;
    std::fs::rename(&new, path).map_err(|e| at(path, &e.to_string(), e.kind()))
}

/// The lab that runs now, if there is one.
///
/// # Errors
/// As [`read`]; a missing home directory just means that there is no lab.
pub fn running() -> io::Result<Option<LabFile>> {
    let Ok(path) = path() else { return Ok(None) };
    Ok(read(&path)?.filter(LabFile::is_alive))
}

fn state_home() -> io::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("XDG_STATE_HOME").filter(|dir| dir.is_absolute()) {
        return Ok(dir);
    }
    let home = set("HOME").ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "neither XDG_STATE_HOME nor HOME is set: set XDG_STATE_HOME to a directory",
        )
    })?;
    Ok(home.join(".local").join("state"))
}

/// Signal 0 asks without touching; a process of another user (permission denied) exists as well.
fn process_exists(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

fn bare(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

fn at(path: &Path, what: &str, kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> LabFile {
        let node = |name: &str, port: u16, state| LabNode {
            name: name.into(),
            client_url: format!("http://127.0.0.1:{port}"),
            peer_url: format!("http://127.0.0.1:{}", port + 1),
            pid: 0,
            data_dir: format!("/d/{name}").into(),
            log_path: format!("/d/{name}.log").into(),
            state,
            command: vec!["quorate".into(), "serve".into()],
        };
        LabFile {
            version: VERSION,
            pid: std::process::id(),
            started_unix_us: 7,
            dir: "/d".into(),
            nodes: vec![node("n1", 2379, LabState::Running), node("n2", 22379, LabState::Killed)],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/default.json");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, &lab()).unwrap();
        let back = read(&path).unwrap().unwrap();
        assert_eq!(back, lab());
        assert_eq!(back.endpoints(), ["127.0.0.1:2379", "127.0.0.1:22379"]);
        assert_eq!(back.node_at("127.0.0.1:22379").unwrap().name, "n2");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn garbage_and_newer_layouts_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("default.json");
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("default.json"));
        write(&path, &LabFile { version: VERSION + 1, ..lab() }).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("newer"));
    }

    #[test]
    fn a_lab_lives_while_one_of_its_processes_does() {
        let own = lab();
        assert!(own.is_alive());
        // No process has the largest pid: Linux and macOS stop far below it.
        let mut gone = LabFile { pid: i32::MAX as u32, ..own };
        assert!(!gone.is_alive());
        gone.nodes[1].pid = std::process::id();
        assert!(gone.is_alive());
    }
}

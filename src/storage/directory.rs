//! The data directory: who lives in it, and whether it is the one that should be opened.
//!
//! ```text
//! META     cluster, member, disk, initial members; with a version and a checksum
//! LOCK     locked (flock) while a process uses the directory; holds its pid
//! raft/    term, vote, log        losing it is losing the identity
//! state/   what was applied       can be rebuilt from the log, or taken over from another member
//! CURRENT  which state it is, if not that one (directory/states.rs)
//! STALE    why this directory must never be used again
//! ballast  space.rs
//! ```
//!
//! A member that forgot what it voted for or acknowledged breaks Raft (dissertation §3.8), so the question that this module
//! answers, before anything is opened, is whether the disk is *whole and the right one*. The directory gets a random
//! [`DiskId`] when it is made; META holds it and so does each database. So an emptied volume, a `raft/` that was deleted or
//! swapped with another directory's, a copy under another member's flags: each is a [`Refusal`] that says what is there,
//! why that is unsafe, and what to do. A refusal changes nothing on the disk.
//!
//! # Invariants
//!
//! 1. META appears whole (written aside, synced, renamed, directory synced), after the directories it speaks of.
//! 2. META says that the member has *begun* before a database is handed out, and after both hold the disk id, synced. So
//!    until it says so nothing was promised, and a half-made directory is simply made again; afterwards a `raft/` without
//!    the disk id has been lost.
//! 3. One process at a time, for as long as the [`Directory`] lives.
//! 4. Nothing that can't be read is deleted.
//!
//! May not know: what the databases hold. Absent: downgrades, and moving a directory to another member.

use super::key::{Key, get_value, put_ops};
use super::sled::{Options, SledEngine, Unopenable};
use super::{COME_BACK, Engine, Fault, Op};
use crate::checksum::{crc, crc_append};
use crate::ids::{ClusterId, DiskId, MemberId};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod states;

use states::STATE;
pub use states::Staging;

/// The version of the layout that this program writes and reads.
const FORMAT: u32 = 1;

const META: &str = "META";
const META_ASIDE: &str = "META.tmp";
const STALE: &str = "STALE";
const LOCK: &str = "LOCK";
const RAFT: &str = "raft";

/// What may lie in a directory that is still to be made: our own beginnings, and what `mkfs` leaves in a volume.
const NO_OBSTACLE: [&str; 6] = [META, META_ASIDE, LOCK, RAFT, super::space::BALLAST, "lost+found"];

/// Who lives in a data directory: written once, when it is made, with a checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// The directory itself, drawn by chance when it was made.
    pub disk: DiskId,
    /// The members the cluster began with, this one among them, by id. Later flags don't change them. None in the directory
    /// of a member that joined later: it learns from the cluster who the others are.
    pub members: Vec<InitialMember>,
}

/// A member of the initial cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// Its id.
    pub id: MemberId,
    /// Its name in `--initial-cluster`.
    pub name: String,
    /// Its peer URLs.
    pub peer_urls: Vec<String>,
}

/// Who the flags say that this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// The initial members, for a directory that is still to be made.
    pub members: Vec<InitialMember>,
}

/// Why a data directory is not opened. Nothing in it was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the sentences say it")]
pub enum Refusal {
    #[error("the data directory {path} is not a directory. Give another one: quorate serve --data-dir <directory>")]
    NotADirectory { path: String },
    #[error(
        "there is no data directory of Quorate at {path}. If the volume is not mounted, mount it; to make a new member, \
         say who it is: quorate serve --data-dir {path} --name <name> --initial-cluster <name>=<peer URL>,..."
    )]
    Missing { path: String },
    #[error(
        "the data directory {path} holds {found:?}, which is not Quorate's, and no META{hint}. Nothing was written. Give an \
         empty directory: quorate serve --data-dir {path}/quorate"
    )]
    Foreign { path: String, found: String, hint: &'static str },
    #[error(
        "the data directory {path} is in use{holder}. Stop that process first{command}, or give this one another directory \
         with --data-dir"
    )]
    Locked { path: String, holder: String, command: String },
    #[error(
        "{path}/META is damaged: {why}. Nothing was changed. Restore META from a backup of this directory (it never changes \
         after the first start), or {COME_BACK}"
    )]
    DamagedMeta { path: String, why: String },
    #[error(
        "{path}/META is gone, but {path}/{found} holds data. Nothing was changed. Restore META from a backup of this \
         directory; without it nobody knows whose data they are"
    )]
    MetaLost { path: String, found: &'static str },
    #[error(
        "the data directory {path} has format {found}, this program knows up to {FORMAT}: a newer Quorate wrote it. Start it \
         with that version or a later one"
    )]
    Newer { path: String, found: u32 },
    #[error(
        "the data directory {path} belongs to cluster {found}, the flags speak of cluster {expected}: refused, since the data \
         of two clusters must never mix. Give the --initial-cluster and --initial-cluster-token that it was made with, or \
         another --data-dir"
    )]
    OtherCluster { path: String, found: ClusterId, expected: ClusterId },
    #[error(
        "the data directory {path} belongs to member {found}, the flags speak of member {expected}: refused, since a member \
         on another's disk would vote twice. Give the --name and --initial-cluster that it was made with, or this member's \
         own --data-dir"
    )]
    OtherMember { path: String, found: MemberId, expected: MemberId },
    #[error(
        "{path}/raft is gone or was emptied: with it the member has forgotten its votes and what it acknowledged, so under \
         its old id it could make the cluster lose writes. Put back the raft directory that was there when it last stopped; \
         if that is lost, {COME_BACK}"
    )]
    RaftLost { path: String },
    #[error(
        "{path} was refused by the cluster once: {why}. It is an old copy, or its log was set back, and what this member promised \
         since is not in it; it stays refused, however often it is started. Bring the directory back that the member lived in \
         last; if that is lost, {COME_BACK}"
    )]
    Stale { path: String, why: String },
    #[error(
        "{path}/{database} was made in another data directory (disk {found}, META says {expected}). Put back the one that \
         belongs here"
    )]
    OtherDisk { path: String, database: &'static str, found: DiskId, expected: DiskId },
    #[error(
        "{what}: {why}. Check that the directory exists, that its disk is sound, and that this user may write there"
    )]
    Io { what: String, why: String },
    #[error("the database of what was applied can't be read: {fault}")]
    RottenState { fault: Fault },
    #[error(
        "the database of term, vote and log can't be read: {fault}. Nothing was changed. This member must not vote without it: \
         keep the data directory aside for a look, and {COME_BACK}"
    )]
    RottenLog { fault: Fault },
    #[error(transparent)]
    Database(#[from] Fault),
}

/// A data directory that is this process's alone.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    meta: Meta,
    /// Invariant 2.
    begun: bool,
    /// The number of the current state.
    state: u64,
    /// Locked until it is dropped.
    _lock: File,
}

/// The two databases of a member.
pub struct Databases {
    /// Term, vote and log.
    pub raft: Arc<dyn Engine>,
    /// What was applied.
    pub state: Arc<dyn Engine>,
}

fn io_refusal(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Refusal {
    let what = format!("{what} {}", path.display());
    move |why| Refusal::Io { what, why: why.to_string() }
}

impl Directory {
    /// Opens the directory at `path`, checks it against who the flags say that this is (`None`: whoever lives there), and
    /// locks it. Makes it if nothing is there; `disk` is then its id.
    ///
    /// # Errors
    /// The sentences of [`Refusal`].
    pub fn open(path: &Path, expected: Option<&Expected>, disk: DiskId) -> Result<Directory, Refusal> {
        let shown = path.display().to_string();
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_dir() => return Err(Refusal::NotADirectory { path: shown }),
            Ok(_) => check_contents(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if expected.is_none() {
                    return Err(Refusal::Missing { path: shown });
                }
                make_directories(path).map_err(io_refusal("making", path))?;
            }
            Err(error) => return Err(io_refusal("reading", path)(error)),
        }
        let has_meta = path.join(META).exists();
        if !has_meta && expected.is_none() {
            return Err(Refusal::Missing { path: shown });
        }
        let lock = lock(path)?;
        // Once more: another process may have made it while this one came to the lock.
        check_contents(path)?;
        let (meta, begun) = match read_meta(path)? {
            Some(found) => found,
            None => (make(path, expected.ok_or(Refusal::Missing { path: shown })?, disk)?, false),
        };
        let mut directory = Directory { path: path.to_owned(), meta, begun, state: 0, _lock: lock };
        directory.check(expected)?;
        directory.state = states::settle(path).map_err(io_refusal("finding the current state in", path))?;
        Ok(directory)
    }

    fn check(&self, expected: Option<&Expected>) -> Result<(), Refusal> {
        let path = self.path.display().to_string();
        match fs::read_to_string(self.path.join(STALE)) {
            Ok(why) => return Err(Refusal::Stale { path, why: why.trim_end().to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_refusal("reading STALE in", &self.path)(error)),
        }
        if let Some(expected) = expected {
            if self.meta.cluster != expected.cluster {
                return Err(Refusal::OtherCluster { path, found: self.meta.cluster, expected: expected.cluster });
            }
            if self.meta.member != expected.member {
                return Err(Refusal::OtherMember { path, found: self.meta.member, expected: expected.member });
            }
        }
        let raft = self.path.join(RAFT);
        let raft_is_there = if self.begun { is_non_empty_file(&raft.join("db")) } else { raft.is_dir() };
        if raft_is_there { Ok(()) } else { Err(Refusal::RaftLost { path }) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who lives in it.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Whether the member has never begun: its databases were never handed out.
    pub fn is_fresh(&self) -> bool {
        !self.begun
    }

    /// Opens the database of the log alone, and checks that it was made here.
    ///
    /// # Errors
    /// It is lost, belongs elsewhere, or can't be opened.
    pub fn raft(&self, options: Options) -> Result<Arc<dyn Engine>, Refusal> {
        self.database(RAFT, &self.path.join(RAFT), options)
    }

    /// Opens both databases and checks that they were made here.
    ///
    /// # Errors
    /// One is lost, belongs elsewhere, or can't be opened; [`Refusal::RottenState`] where that is all.
    pub fn databases(&mut self, raft: Options, state: Options) -> Result<Databases, Refusal> {
        let raft = self.raft(raft)?;
        let state = self.database(STATE, &states::place(&self.path, self.state), state)?;
        let databases = Databases { raft, state };
        if !self.begun {
            write_meta(&self.path, &self.meta, true).map_err(io_refusal("writing META in", &self.path))?;
            self.begun = true;
        }
        Ok(databases)
    }

    /// Renames the state that can't be read, so that an empty one begins in its place. Both databases are closed. Returns where
    /// it is now.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn set_state_aside(&mut self) -> Result<PathBuf, Refusal> {
        states::set_aside(&self.path, self.state).map_err(io_refusal("setting the state aside in", &self.path))
    }

    /// A place to build another state in, which then is the current one.
    pub fn staging(&self, options: Options) -> Staging {
        Staging::new(self.path.clone(), self.state, self.meta.disk, options)
    }

    fn database(&self, name: &'static str, at: &Path, options: Options) -> Result<Arc<dyn Engine>, Refusal> {
        let rotten = |fault: Fault| match name {
            RAFT => Refusal::RottenLog { fault },
            _ => Refusal::RottenState { fault },
        };
        let engine = SledEngine::open(at, options).map_err(|unopenable| match unopenable {
            Unopenable::Rotten(fault) => rotten(fault),
            Unopenable::Fault(fault) => Refusal::Database(fault),
        })?;
        let key = |_| Key::Disk.encode();
        let path = || self.path.display().to_string();
        match get_value(&engine, key).map_err(|unreadable| rotten(unreadable.into()))? {
            Some(value) => {
                let found = DiskId(<[u8; 8]>::try_from(&value[..]).map_or(0, u64::from_le_bytes));
                if found != self.meta.disk {
                    let expected = self.meta.disk;
                    return Err(Refusal::OtherDisk { path: path(), database: name, found, expected });
                }
            }
            None if self.begun && name == RAFT => return Err(Refusal::RaftLost { path: path() }),
            None => {
                let mut ops = Vec::new();
                put_ops(key, &self.meta.disk.0.to_le_bytes(), &mut ops);
                for op in ops {
                    match op {
                        Op::Put(key, value) => engine.put(&key, &value)?,
                        Op::Delete(key) => engine.delete(&key)?,
                    }
                }
                engine.sync()?;
            }
        }
        Ok(Arc::new(engine))
    }
}

fn is_non_empty_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
}

/// Where a restore makes a member's directory, in the place where it is to be.
pub const UNFINISHED: &str = "unfinished-restore";

/// Refuses a directory that can't become, or stay, a data directory. Writes nothing.
fn check_contents(path: &Path) -> Result<(), Refusal> {
    if path.join(META).exists() {
        return Ok(());
    }
    let shown = path.display().to_string();
    for entry in fs::read_dir(path).map_err(io_refusal("reading", path))? {
        let entry = entry.map_err(io_refusal("reading", path))?;
        let found = entry.file_name().to_string_lossy().into_owned();
        if !NO_OBSTACLE.contains(&found.as_str()) && !states::is_ours(&found) {
            let hint = match found.as_str() {
                "member" => ": it looks like etcd's, whose files Quorate doesn't read",
                UNFINISHED => ": a restore was ended half way; empty the directory and restore again",
                _ => "",
            };
            return Err(Refusal::Foreign { path: shown, found, hint });
        }
    }
    for found in [RAFT, STATE] {
        if fs::read_dir(path.join(found)).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Refusal::MetaLost { path: shown, found });
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, Refusal> {
    let at = path.join(LOCK);
    let refused = || io_refusal("locking", &at);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&at).map_err(refused())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(refused()(error)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Who holds it is a courtesy: unreadable is unknown.
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok());
            return Err(Refusal::Locked {
                path: path.display().to_string(),
                holder: pid.map_or(" by another process".into(), |pid| format!(" by process {pid}")),
                command: pid.map_or(String::new(), |pid| format!(": kill {pid}")),
            });
        }
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes())).map_err(refused())?;
    Ok(file)
}

// ---- making it ----

fn make(path: &Path, expected: &Expected, disk: DiskId) -> Result<Meta, Refusal> {
    let meta = Meta { cluster: expected.cluster, member: expected.member, disk, members: expected.members.clone() };
    if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(0o700)) {
        // A mounted volume may belong to another user.
        tracing::warn!(path = %path.display(), %error, "the data directory can't be closed to other users");
    }
    let made = (|| {
        for name in [RAFT, STATE] {
            make_directories(&path.join(name))?;
        }
        write_meta(path, &meta, false)
    })();
    made.map(|()| meta).map_err(io_refusal("making the data directory", path))
}

/// Makes a directory and its parents, for this user alone, and syncs what names them.
fn make_directories(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let made: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    for ancestor in made {
        sync_directory(ancestor)?;
        if let Some(parent) = ancestor.parent() {
            sync_directory(parent)?;
        }
    }
    Ok(())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A peer knows a later life of the member than the one that this directory began. Each start begins a later one, so the next
/// would be let in, and promise again what the member has promised otherwise: from here on the directory is refused, whoever
/// starts it. Returns when that is durable.
///
/// # Errors
/// The file system refuses.
pub fn declare_stale(path: &Path, why: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path.join(STALE))?;
    file.write_all(format!("{why}\n").as_bytes())?;
    file.sync_all()?;
    sync_directory(path)
}

// ---- META ----

/// META's second line. Ids are in hex, as they are printed everywhere.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaLine {
    cluster: String,
    member: String,
    disk: String,
    begun: bool,
    members: Vec<MemberLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberLine {
    id: String,
    name: String,
    peer_urls: Vec<String>,
}

fn checksum(format: u32, body: &[u8]) -> u32 {
    crc_append(crc(&format.to_le_bytes()), body)
}

fn write_meta(path: &Path, meta: &Meta, begun: bool) -> io::Result<()> {
    let line = MetaLine {
        cluster: meta.cluster.to_string(),
        member: meta.member.to_string(),
        disk: meta.disk.to_string(),
        begun,
        members: meta
            .members
            .iter()
            .map(|m| MemberLine { id: m.id.to_string(), name: m.name.clone(), peer_urls: m.peer_urls.clone() })
            .collect(),
    };
    let body = serde_json::to_string(&line)? + "\n";
    let head = format!("quorate data directory, format {FORMAT}, crc32c {:08x}\n", checksum(FORMAT, body.as_bytes()));
    let aside = path.join(META_ASIDE);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(head.as_bytes())?;
    file.write_all(body.as_bytes())?;
    file.sync_all()?;
    fs::rename(aside, path.join(META))?;
    sync_directory(path)
}

/// Who lives at `path`, if somebody does and it can be read; what else there is to say, [`Directory::open`] says.
pub fn who_lives_at(path: &Path) -> Option<Meta> {
    read_meta(path).ok().flatten().map(|(meta, _)| meta)
}

/// Who lives at `path`, and whether the member has begun. `None` if there is no META.
fn read_meta(path: &Path) -> Result<Option<(Meta, bool)>, Refusal> {
    let text = match fs::read(path.join(META)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_refusal("reading META in", path)(error)),
    };
    let shown = path.display().to_string();
    let damaged = |why: &str| Refusal::DamagedMeta { path: shown.clone(), why: why.into() };
    let text = std::str::from_utf8(&text).map_err(|_| damaged("it is no text"))?;
    let (head, body) = text.split_once('\n').ok_or_else(|| damaged("it is cut off"))?;
    let (format, sum) = head
        .strip_prefix("quorate data directory, format ")
        .and_then(|rest| rest.split_once(", crc32c "))
        .and_then(|(format, sum)| Some((format.parse::<u32>().ok()?, u32::from_str_radix(sum, 16).ok()?)))
        .ok_or_else(|| damaged("its first line is not the one that was written"))?;
    if checksum(format, body.as_bytes()) != sum {
        return Err(damaged("its checksum is wrong"));
    }
    if format > FORMAT {
        return Err(Refusal::Newer { path: shown, found: format });
    }
    let line: MetaLine = serde_json::from_str(body).map_err(|error| damaged(&error.to_string()))?;
    let begun = line.begun;
    parse_meta(line).map(|meta| Some((meta, begun))).ok_or_else(|| damaged("an id is no number"))
}

fn parse_meta(line: MetaLine) -> Option<Meta> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let members = line
        .members
        .into_iter()
        .map(|m| Some(InitialMember { id: MemberId(number(&m.id)?), name: m.name, peer_urls: m.peer_urls }));
    Some(Meta {
        cluster: ClusterId(number(&line.cluster)?),
        member: MemberId(number(&line.member)?),
        disk: DiskId(number(&line.disk)?),
        members: members.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests;

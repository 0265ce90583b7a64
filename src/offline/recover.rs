//! What is left of a cluster that lost its quorum, and how one survivor goes on.
//!
//! Every directory that can be reached is locked, opened and read as its member would read it at a start. From what they
//! hold follows who is the best survivor, what is certain, and what may be lost. Only then, and when somebody has agreed, is that
//! one's membership rewritten; a copy of its directory is made before, whole, beside it.

use super::{Trouble, io};
use crate::ids::{ClusterId, DiskId, MemberId, Position};
use crate::node::recover::{Survivor, decree, inspect};
use crate::storage::directory::{Databases, Directory, Meta};
use crate::storage::sled::Options;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// sled's cache while a directory is looked at.
const CACHE_BYTES: u64 = 32 << 20;

/// A directory and what is in it.
#[derive(Debug)]
pub struct Found {
    /// Where.
    pub path: PathBuf,
    /// Whose.
    pub meta: Meta,
    /// What it holds.
    pub survivor: Survivor,
}

impl Found {
    /// What the member is called.
    pub fn name(&self) -> String {
        let known = self.survivor.members.iter().find(|member| member.id == self.meta.member);
        let name = known.map(|member| member.name.clone()).filter(|name| !name.is_empty());
        name.unwrap_or_else(|| self.meta.member.to_string())
    }
}

fn open(path: &Path) -> Result<(Directory, Databases), Trouble> {
    let failed = |refusal: &dyn std::fmt::Display| Trouble::Failed(refusal.to_string());
    // The id is for a directory that would be made; without expectations none is.
    let mut directory = Directory::open(path, None, DiskId(0)).map_err(|refusal| failed(&refusal))?;
    let options = || Options::new(CACHE_BYTES);
    let databases = directory.databases(options(), options()).map_err(|refusal| failed(&refusal))?;
    Ok((directory, databases))
}

/// Looks into one directory.
///
/// # Errors
/// It is none, is in use, or holds what can't be.
pub fn look(path: &Path) -> Result<Found, Trouble> {
    let (directory, databases) = open(path)?;
    let meta = directory.meta().clone();
    let survivor = inspect(&meta, databases.raft, databases.state)
        .map_err(|why| Trouble::Failed(format!("{}: {why}", path.display())))?;
    Ok(Found { path: path.to_owned(), meta, survivor })
}

/// What follows from all that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The best survivor, by its place among those found.
    pub best: usize,
    /// The voters that were not found.
    pub missing: BTreeSet<MemberId>,
    /// Those found are enough to decide: nothing needs to be recovered.
    pub is_quorum: bool,
}

/// Judges what was found.
///
/// # Errors
/// Nothing was found, they are of different clusters, or two are the same member.
pub fn judge(found: &[Found]) -> Result<Verdict, Trouble> {
    let clusters: BTreeSet<ClusterId> = found.iter().map(|found| found.meta.cluster).collect();
    if clusters.len() > 1 {
        return Err(Trouble::Failed("the directories are of different clusters".to_string()));
    }
    let members: BTreeSet<MemberId> = found.iter().map(|found| found.meta.member).collect();
    if members.len() < found.len() {
        return Err(Trouble::Failed("two of the directories are the same member's: give one of them".to_string()));
    }
    let mut best = 0;
    for (place, candidate) in found.iter().enumerate() {
        let (this, that) = (&candidate.survivor, &found[best].survivor);
        // Of two logs that are alike, the state that is further spares work.
        if !that.is_at_least(this) || (this.is_at_least(that) && this.applied.index > that.applied.index) {
            best = place;
        }
    }
    let configuration = &found.get(best).ok_or_else(|| Trouble::Failed("no directory was given".to_string()))?.survivor;
    let configuration = &configuration.configuration;
    let missing = configuration.voters().filter(|voter| !members.contains(voter)).collect();
    Ok(Verdict { best, missing, is_quorum: configuration.is_quorum(&members) })
}

/// Copies a directory, whole, to a name beside it that is free. Returns where.
///
/// # Errors
/// It can't be copied.
pub fn back_up(path: &Path) -> Result<PathBuf, Trouble> {
    let name =
        |n: u32| PathBuf::from(format!("{}.before-recover-{n}", path.display().to_string().trim_end_matches('/')));
    let free = (1..).map(name).find(|candidate| !candidate.exists()).unwrap_or_else(|| name(0));
    copy(path, &free)?;
    Ok(free)
}

fn copy(from: &Path, to: &Path) -> Result<(), Trouble> {
    fs::create_dir(to).map_err(io("making", to))?;
    for entry in fs::read_dir(from).map_err(io("reading", from))? {
        let entry = entry.map_err(io("reading", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(io("reading", &source))?.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(io("copying", &source))?;
            fs::File::open(&target).and_then(|file| file.sync_all()).map_err(io("syncing", &target))?;
        }
    }
    fs::File::open(to).and_then(|directory| directory.sync_all()).map_err(io("syncing", to))
}

/// Makes the member who lives at `path` the only one of its cluster.
///
/// # Errors
/// It can't be opened or written.
pub fn go_on_alone(path: &Path) -> Result<Position, Trouble> {
    let (directory, databases) = open(path)?;
    let meta = directory.meta().clone();
    decree(&meta, databases.raft, databases.state).map_err(|why| Trouble::Failed(format!("{}: {why}", path.display())))
}

//! Which of a directory's state databases is the member's.
//!
//! The first one is `state/`. One that is taken over from another member is built in `staging/`, and when it is whole and synced
//! it gets the next number, `state-1/`, `state-2/` …, and takes the place of the former in one step: the file CURRENT names it.
//! CURRENT is written aside, synced and renamed, and the directory is synced; without CURRENT it is `state/`. A state that can't
//! be read is renamed to `….rotten`, and never touched again; under its old name an empty one begins. So is one that was read
//! well and is wrong (`node/quarantine.rs`): CURRENT names it too, and the next opening renames it.
//!
//! # Invariants
//!
//! 1. What has a number is whole: it grew here, or was synced before it got its number.
//! 2. The former state is deleted, or renamed, only when a directory is opened, after CURRENT was read; what was being staged is
//!    deleted then, too.
//! 3. At each opening the oldest state may be taken for the current one: it is the current one, or the one that was current
//!    until a moment ago. In the latter case the log has not begun anew yet, so it is as if the new one had not been adopted.
//!    That is what a CURRENT that is damaged, or names what is not there, is answered with, and nothing is lost by it.
//!
//! May not know: what the databases hold.

use super::{SledEngine, make_directories, sync_directory};
use crate::ids::DiskId;
use crate::storage::key::{Key, put_ops};
use crate::storage::sled::Options;
use crate::storage::{Engine, Fault, Op};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) const STATE: &str = "state";
pub(super) const CURRENT: &str = "CURRENT";
const CURRENT_ASIDE: &str = "CURRENT.tmp";
const STAGING: &str = "staging";
const ROTTEN: &str = ".rotten";
/// Before the name of a former state that is to be kept.
const KEEP: &str = "keep ";
const HEAD: &str = "quorate state directory, crc32c ";

/// Whether a data directory may hold something of this name on behalf of the states.
pub(super) fn is_ours(name: &str) -> bool {
    let bare = name.split_once(ROTTEN).map_or(name, |(bare, _)| bare);
    [CURRENT, CURRENT_ASIDE, STAGING].contains(&name) || number(bare).is_some()
}

/// The directory of a number's state.
fn name(number: u64) -> String {
    if number == 0 { STATE.into() } else { format!("{STATE}-{number}") }
}

/// Which number's state a directory of this name holds.
fn number(found: &str) -> Option<u64> {
    let number = match found.strip_prefix(STATE)? {
        "" => 0,
        rest => rest.strip_prefix('-')?.parse().ok()?,
    };
    (name(number) == found).then_some(number)
}

/// The numbers of the states that are there, ascending.
fn numbers(path: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        found.extend(number(&entry?.file_name().to_string_lossy()));
    }
    found.sort_unstable();
    Ok(found)
}

/// What CURRENT says.
#[derive(Clone, Copy, Debug)]
struct Named {
    current: u64,
    /// A former state that is not to be deleted.
    kept: Option<u64>,
}

/// The number of the current state; deletes all others, or sets them aside, and deletes what was being staged.
pub(super) fn settle(path: &Path) -> io::Result<u64> {
    let there = numbers(path)?;
    let oldest = there.first().copied().unwrap_or(0);
    let named = match read(path)? {
        Ok(Some(named)) if there.contains(&named.current) || there.is_empty() => Ok(named),
        Ok(Some(_)) => Err("what it names is not there"),
        Ok(None) => Ok(Named { current: oldest, kept: None }),
        Err(why) => Err(why),
    };
    let Named { current, kept } = match named {
        Ok(named) => named,
        Err(why) => {
            tracing::error!(
                path = %path.display(), why, taken = name(oldest),
                "CURRENT is damaged; the oldest state that is there is taken for the current one"
            );
            let named = Named { current: oldest, kept: None };
            write(path, named)?;
            named
        }
    };
    if path.join(STAGING).exists() {
        fs::remove_dir_all(path.join(STAGING))?;
    }
    for other in there.into_iter().filter(|other| *other != current) {
        if kept == Some(other) {
            let aside = set_aside(path, other)?;
            tracing::warn!(aside = %aside.display(), "a state that was wrong is kept, and may be deleted");
            continue;
        }
        tracing::info!(state = name(other), "a state that is not used any more is deleted");
        fs::remove_dir_all(path.join(name(other)))?;
    }
    Ok(current)
}

/// What CURRENT says; `Err` says why it says nothing.
fn read(path: &Path) -> io::Result<Result<Option<Named>, &'static str>> {
    let text = match fs::read(path.join(CURRENT)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(None)),
        Err(error) => return Err(error),
    };
    let Some((head, body)) = std::str::from_utf8(&text).ok().and_then(|text| text.split_once('\n')) else {
        return Ok(Err("it is no text of two lines"));
    };
    if head != head_of(body) {
        return Ok(Err("its checksum is wrong"));
    }
    let mut lines = body.lines();
    let current = lines.next().and_then(number);
    let kept = lines.next().map(|line| line.strip_prefix(KEEP).and_then(number));
    Ok(match (current, kept, lines.next()) {
        (Some(current), None, None) => Ok(Some(Named { current, kept: None })),
        (Some(current), Some(Some(kept)), None) => Ok(Some(Named { current, kept: Some(kept) })),
        _ => Err("it names no state directory"),
    })
}

fn head_of(body: &str) -> String {
    format!("{HEAD}{:08x}", crate::checksum::crc(body.as_bytes()))
}

fn write(path: &Path, Named { current, kept }: Named) -> io::Result<()> {
    let kept = kept.map_or(String::new(), |kept| format!("{KEEP}{}\n", name(kept)));
    let body = format!("{}\n{kept}", name(current));
    let aside = path.join(CURRENT_ASIDE);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(format!("{}\n{body}", head_of(&body)).as_bytes())?;
    file.sync_all()?;
    fs::rename(aside, path.join(CURRENT))?;
    sync_directory(path)
}

/// Where the state of this number is.
pub(super) fn place(path: &Path, number: u64) -> PathBuf {
    path.join(name(number))
}

/// Renames the state of this number, so that an empty one can take its name. Returns its new place.
pub(super) fn set_aside(path: &Path, number: u64) -> io::Result<PathBuf> {
    let named = |times: u32| match times {
        1 => format!("{}{ROTTEN}", name(number)),
        _ => format!("{}{ROTTEN}-{times}", name(number)),
    };
    let free = (1..).map(|times| path.join(named(times))).find(|place| !place.exists());
    let aside = free.ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(place(path, number), &aside)?;
    sync_directory(path)?;
    Ok(aside)
}

/// A state database that is built beside the current one.
pub struct Staging {
    path: PathBuf,
    /// The number that it will have.
    number: u64,
    disk: DiskId,
    options: Options,
    engine: Option<SledEngine>,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staging").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Staging {
    pub(super) fn new(path: PathBuf, current: u64, disk: DiskId, options: Options) -> Staging {
        Staging { path, number: current + 1, disk, options, engine: None }
    }

    /// Begins with an empty database, whatever was staged before.
    ///
    /// # Errors
    /// The disk failed.
    pub fn begin(&mut self) -> Result<(), Fault> {
        self.engine = None;
        let place = self.path.join(STAGING);
        let what = || format!("staging a state in {}", place.display());
        let fault = |why: io::Error| Fault { what: what(), why: why.to_string() };
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
            _ => make_directories(&place).map_err(fault)?,
        }
        let engine = SledEngine::open(&place, self.options)?;
        let mut ops = Vec::new();
        put_ops(|_| Key::Disk.encode(), &self.disk.0.to_le_bytes(), &mut ops);
        self.engine = Some(engine);
        self.write(&ops)
    }

    /// Puts and deletes, in this order.
    ///
    /// # Errors
    /// The disk failed.
    ///
    /// # Panics
    /// If nothing was begun.
    pub fn write(&mut self, ops: &[Op]) -> Result<(), Fault> {
        let engine = self.engine.as_ref().expect("a staged state begins before it is written to");
        ops.iter().try_for_each(|op| match op {
            Op::Put(key, value) => engine.put(key, value),
            Op::Delete(key) => engine.delete(key),
        })
    }

    /// Syncs it, and makes it the current state of the next opening: when this returns, it is. The former one is kept aside, or
    /// goes.
    ///
    /// # Errors
    /// The disk failed.
    ///
    /// # Panics
    /// If nothing was begun.
    pub fn adopt(&mut self, keep_former: bool) -> Result<(), Fault> {
        let engine = self.engine.take().expect("a staged state begins before it is adopted");
        engine.sync()?;
        drop(engine);
        let switch = || {
            fs::rename(self.path.join(STAGING), place(&self.path, self.number))?;
            sync_directory(&self.path)?;
            write(&self.path, Named { current: self.number, kept: keep_former.then_some(self.number - 1) })
        };
        switch().map_err(|why: io::Error| Fault {
            what: format!("letting a staged state take its place in {}", self.path.display()),
            why: why.to_string(),
        })
    }
}

//! A snapshot becomes the data directories of new members.
//!
//! The same file gives the same state and the same disk ids wherever it is restored, so directories that were made on
//! different machines fit together, and a member of the old cluster that still lives somewhere does not fit in: its disk is
//! not the one that the restored state knows.
//!
//! Pairs lie in the file by key and are wanted by revision: the file is read twice, first all of it, to verify it and to learn
//! where everything lies, then frame by frame. In memory there are 24 bytes for each key, with a checksum among them: what is
//! read the second time is what was verified.
//!
//! # Invariant
//!
//! A member's directory is made in a subdirectory of its place ([`UNFINISHED`]) and moved out of it when it is whole and durable,
//! META last. So whatever ends a restore, what it leaves is no data directory: it can't be served, and says its name.

use super::snapshot::{Found, open, read};
use super::{Trouble, io};
use crate::checksum::{crc, crc_append};
use crate::ids::{ClusterId, DiskId, MemberId, Position, Revision};
use crate::machine::{Item, Member, Standing};
use crate::node;
use crate::rng::mix;
use crate::storage::directory::{Directory, Expected, InitialMember, UNFINISHED};
use crate::storage::sled::Options;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// sled's cache while a directory is made.
const CACHE_BYTES: u64 = 32 << 20;

/// Where a pair lies in the file.
struct Place {
    revision: i64,
    at: u64,
    length: u32,
    sum: u32,
}

/// Of a pair, whatever else is 0.
fn sum(item: &Item) -> u32 {
    let Item::Pair(pair) = item else { return 0 };
    let numbers = [pair.create_revision, pair.mod_revision, pair.version, pair.lease].map(i64::to_le_bytes).concat();
    crc_append(crc_append(crc(&numbers), &pair.key), &pair.value)
}

/// A verified snapshot that is about to be restored.
pub struct Source {
    file: File,
    found: Found,
    leases: Vec<Item>,
    places: Vec<Place>,
}

impl Source {
    /// Reads and verifies the file.
    ///
    /// # Errors
    /// It can't be read, or is not a whole snapshot.
    pub fn open(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Source, Trouble> {
        let (mut leases, mut places) = (Vec::new(), Vec::new());
        let file = open(path)?;
        let found = read(&file, path, progress, &mut |item, frame| match item {
            Item::Lease(..) => leases.push(item),
            Item::Pair(ref pair) => {
                let length = u32::try_from(frame.end - frame.start).unwrap_or(u32::MAX);
                places.push(Place { revision: pair.mod_revision, at: frame.start, length, sum: sum(&item) });
            }
            Item::Head(_) | Item::Member(_) => {}
        })?;
        places.sort_unstable_by_key(|place| (place.revision, place.at));
        Ok(Source { file, found, leases, places })
    }

    /// What is in it.
    pub fn found(&self) -> &Found {
        &self.found
    }

    fn disk(&self, member: MemberId) -> DiskId {
        let Found { head, bytes, hash, .. } = self.found;
        DiskId(mix(member.0 ^ mix(u64::from(hash) << 32 ^ bytes ^ head.revision.0.unsigned_abs())))
    }

    fn member(&self, member: &InitialMember) -> Member {
        Member {
            id: member.id,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: Vec::new(),
            disk: Some(self.disk(member.id)),
            standing: Standing::Voter,
        }
    }

    fn read_pair(&self, place: &Place) -> Result<Item, String> {
        let mut frame = vec![0; place.length as usize];
        self.file
            .read_exact_at(&mut frame, place.at)
            .map_err(|error| format!("reading the snapshot at byte {}: {error}", place.at))?;
        let is_same = |item: &Item| matches!(item, Item::Pair(_)) && sum(item) == place.sum;
        let changed =
            || format!("the snapshot changed while it was read: at byte {} there is something else now", place.at);
        Item::read(&frame).filter(is_same).ok_or_else(changed)
    }
}

/// The cluster that is made.
pub struct Target {
    /// Its id.
    pub cluster: ClusterId,
    /// Its members.
    pub members: Vec<InitialMember>,
    /// Where the store is to stand: at the snapshot's revision or later.
    pub revision: Revision,
}

impl Target {
    /// Makes the directory of one member at `path`, which is empty or not there; tells `progress` of each pair how many bytes of
    /// how many are done. Returns the entry that the member begins after.
    ///
    /// # Errors
    /// There is something at `path`, the file changed, or a disk failed. Nothing of what was begun is left then.
    pub fn make(
        &self,
        source: &Source,
        member: &InitialMember,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Position, Trouble> {
        if is_occupied(path) {
            return Err(Trouble::Failed(format!(
                "{}: it is not empty, and a restore makes new members",
                path.display()
            )));
        }
        let was_there = path.exists();
        let unfinished = path.join(UNFINISHED);
        let made = self.fill(source, member, &unfinished, progress).and_then(|position| {
            move_out(&unfinished, path).map_err(io("moving out of", &unfinished))?;
            Ok(position)
        });
        if made.is_err() {
            // What can't be deleted is no data directory either.
            let _ = fs::remove_dir_all(if was_there { &unfinished } else { path });
        }
        made
    }

    fn fill(
        &self,
        source: &Source,
        member: &InitialMember,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Position, Trouble> {
        let failed = |why: String| Trouble::Failed(format!("{}: {why}", path.display()));
        let expected = Expected { cluster: self.cluster, member: member.id, members: self.members.clone() };
        let directory = Directory::open(path, Some(&expected), source.disk(member.id));
        let mut directory = directory.map_err(|refusal| Trouble::Failed(refusal.to_string()))?;
        let options = || Options::new(CACHE_BYTES);
        let databases = directory.databases(options(), options()).map_err(|refusal| failed(refusal.to_string()))?;
        let members = self.members.iter().map(|member| source.member(member)).collect();
        let whole = source.places.iter().map(|place| u64::from(place.length)).sum();
        let (mut leases, mut places, mut done) = (source.leases.iter(), source.places.iter(), 0);
        let mut next = || {
            if let Some(lease) = leases.next() {
                return Ok(Some(lease.clone()));
            }
            let Some(place) = places.next() else { return Ok(None) };
            done += u64::from(place.length);
            progress(done, whole);
            source.read_pair(place).map(Some)
        };
        let level = source.found.head.level;
        node::restore(databases.raft, databases.state, members, self.revision, level, &mut next).map_err(failed)
    }
}

/// What makes a directory a member's.
const META: &str = "META";

/// Moves everything out of `unfinished`, which is in `path`: META last, when all the rest is there.
fn move_out(unfinished: &Path, path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(unfinished)? {
        let name = entry?.file_name();
        if name != META {
            fs::rename(unfinished.join(&name), path.join(&name))?;
        }
    }
    File::open(path)?.sync_all()?;
    fs::rename(unfinished.join(META), path.join(META))?;
    fs::remove_dir(unfinished)?;
    File::open(path)?.sync_all()
}

/// Whether there is something at `path`.
pub fn is_occupied(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) || path.is_file()
}

/// Where the directory of the member `name` goes: `{name}` in `pattern` stands for it.
pub fn place_of(pattern: &str, name: &str) -> PathBuf {
    PathBuf::from(pattern.replace(NAME, name))
}

/// What stands for a member's name in a pattern.
pub const NAME: &str = "{name}";

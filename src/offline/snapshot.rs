//! Snapshot files: read, or written as they arrive, and verified to the last byte.
//!
//! The format and its proofs are `machine/snapshot.rs`'s. A file is written aside and gets its name when it is whole and
//! durable, so whoever finds it by its name finds a snapshot.

use super::{Trouble, io};
use crate::checksum::crc_append;
use crate::machine::{Contents, Head, Item, SnapshotError, SnapshotReader};
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Whose fault it is where what arrives can't be read.
const SENT: &str = "what the server sends is no snapshot";

/// Bytes that are read from a file at a time.
const PIECE: usize = 1 << 20;

/// What a snapshot turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is of.
    pub head: Head,
    /// How much is in it.
    pub contents: Contents,
    /// Its length.
    pub bytes: u64,
    /// CRC-32C of all of it.
    pub hash: u32,
}

/// What a file of bbolt's begins with, after the head of its first page.
const BBOLT: (usize, [u8; 4]) = (16, 0xED0C_DAED_u32.to_le_bytes());

fn refused(what: impl std::fmt::Display) -> impl Fn(SnapshotError) -> Trouble {
    move |error| {
        let told = format!("{what}: {error}");
        match error {
            SnapshotError::Damaged { .. } => Trouble::Damaged(told),
            SnapshotError::Newer(_) => Trouble::Newer(told),
        }
    }
}

/// Opens a file that is to be a snapshot.
///
/// # Errors
/// There is none, or it can't be read.
pub fn open(path: &Path) -> Result<File, Trouble> {
    let file = File::open(path).map_err(io("reading", path))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(Trouble::Failed(format!("{} is a directory, and a snapshot is a file: give one", path.display())));
    }
    Ok(file)
}

/// Reads a file to its end and verifies all of it; tells `visit` what is in it and where, and `progress` how far it is and how
/// far it goes, in bytes. `path` is what the file is called.
///
/// # Errors
/// It can't be read, or is not a whole snapshot.
pub fn read(
    mut file: &File,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
    visit: &mut dyn FnMut(Item, Range<u64>),
) -> Result<Found, Trouble> {
    let known = file.metadata().ok().map(|metadata| metadata.len()).filter(|length| *length > 0);
    let mut reader = known.map_or_else(SnapshotReader::default, SnapshotReader::of_length);
    let (whole, mut piece, mut bytes, mut hash) = (known.unwrap_or(0), vec![0; PIECE], 0, 0);
    let refuse = refused(path.display());
    loop {
        let length = file.read(&mut piece).map_err(io("reading", path))?;
        if length == 0 {
            break;
        }
        if bytes == 0 && piece[..length].get(BBOLT.0..).is_some_and(|rest| rest.starts_with(&BBOLT.1)) {
            return Err(Trouble::Etcds(format!("{} is a snapshot of etcd's: a bbolt database", path.display())));
        }
        reader.push(&piece[..length], visit).map_err(&refuse)?;
        hash = crc_append(hash, &piece[..length]);
        bytes += length as u64;
        progress(bytes, whole);
    }
    let (head, contents) = reader.finish().map_err(refuse)?;
    Ok(Found { head, contents, bytes, hash })
}

/// A file on its way. Dropped before [`Saving::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Saving {
    path: PathBuf,
    aside: PathBuf,
    file: File,
    reader: SnapshotReader,
    bytes: u64,
    hash: u32,
}

impl Saving {
    /// Begins a file that shall be at `path`.
    ///
    /// # Errors
    /// It can't be written there.
    pub fn begin(path: &Path) -> Result<Saving, Trouble> {
        let aside = PathBuf::from(format!("{}.part", path.display()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&aside).map_err(io("writing", &aside))?;
        Ok(Saving { path: path.to_owned(), aside, file, reader: SnapshotReader::default(), bytes: 0, hash: 0 })
    }

    /// Adds the next bytes.
    ///
    /// # Errors
    /// They can't be written, or are not what a snapshot goes on with.
    pub fn push(&mut self, blob: &[u8]) -> Result<(), Trouble> {
        self.reader.push(blob, &mut |_, _| {}).map_err(refused(SENT))?;
        self.file.write_all(blob).map_err(io("writing", &self.aside))?;
        self.bytes += blob.len() as u64;
        self.hash = crc_append(self.hash, blob);
        Ok(())
    }

    /// That was all: makes it durable and gives it its name.
    ///
    /// # Errors
    /// Something is missing, or the disk failed.
    pub fn finish(mut self) -> Result<Found, Trouble> {
        let reader = std::mem::take(&mut self.reader);
        let (head, contents) = reader.finish().map_err(refused(SENT))?;
        self.file.sync_all().map_err(io("syncing", &self.aside))?;
        fs::rename(&self.aside, &self.path).map_err(io("renaming to", &self.path))?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(io("syncing", parent))?;
        Ok(Found { head, contents, bytes: self.bytes, hash: self.hash })
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        // After `finish` there is none of this name any more.
        _ = fs::remove_file(&self.aside);
    }
}

//! Room on the disk: the floor under which a member stops growing, and the ballast it throws off then.
//!
//! A database whose write meets a full disk is poisoned for good, so it must never meet one. Below the floor the member
//! declines what grows (puts, appends), and goes on with what doesn't: reads, votes, deletes. But other programs share
//! the disk, and may take the last byte between two looks at it. So the member keeps a file of nothing, the ballast, whose
//! room is its own to give: below the floor it is removed, and what must still be written (a vote, a deletion: at most a
//! few segments of either database) has room. When there is room for floor and ballast again, it is laid again; in
//! between the state stays as it is, so that it doesn't flap.
//!
//! May not know: who grows, or what is declined. Absent: quotas (how large the store may get is the machine's).

use rustix::fs::FallocateFlags;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The usual floor, in bytes: four new segments of 8 MiB for each of two databases.
pub const FLOOR: u64 = 64 << 20;

/// The ballast's size, in bytes: two new segments for each of two databases.
const BALLAST_BYTES: u64 = 32 << 20;

/// The ballast's name in the data directory.
pub(super) const BALLAST: &str = "ballast";

/// Free bytes for this user on the file system that holds `path`.
///
/// # Errors
/// The file system doesn't say.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(path)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// Watches the room on a data directory's disk.
#[derive(Debug)]
pub struct SpaceGuard {
    ballast: PathBuf,
    directory: PathBuf,
    floor: u64,
    free: u64,
    low: bool,
}

impl SpaceGuard {
    /// A guard over the data directory at `directory`, which looks for the first time.
    ///
    /// # Errors
    /// The file system doesn't say how much room there is, or the ballast can't be laid for another reason than room.
    pub fn new(directory: &Path, floor_bytes: u64) -> io::Result<SpaceGuard> {
        let ballast = directory.join(BALLAST);
        let laid = fs::metadata(&ballast).is_ok_and(|file| file.len() == BALLAST_BYTES);
        let mut guard =
            SpaceGuard { ballast, directory: directory.to_owned(), floor: floor_bytes, free: 0, low: !laid };
        guard.check()?;
        Ok(guard)
    }

    /// Looks, lays or removes the ballast, and says whether room is low. Costs a system call: call it with every few writes.
    ///
    /// # Errors
    /// As [`SpaceGuard::new`].
    pub fn check(&mut self) -> io::Result<bool> {
        let free = free_space(&self.directory)?;
        self.free = free;
        if !self.low && free < self.floor {
            match fs::remove_file(&self.ballast) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.low = true,
            }
        } else if self.low && free >= self.floor.saturating_add(BALLAST_BYTES) {
            match lay(&self.ballast) {
                Ok(()) => self.low = false,
                Err(error) => {
                    // A part of it would be taken for the whole.
                    let _ = fs::remove_file(&self.ballast);
                    if error.kind() != io::ErrorKind::StorageFull {
                        return Err(error);
                    }
                }
            }
        }
        Ok(self.low)
    }

    /// The free bytes that the last look saw.
    pub fn free_bytes(&self) -> u64 {
        self.free
    }

    /// What the last look said.
    pub fn is_low(&self) -> bool {
        self.low
    }
}

fn lay(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = vec![0; 1 << 20];
            for _ in 0..BALLAST_BYTES / (1 << 20) {
                file.write_all(&zeros)?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_goes_below_the_floor_and_comes_back_with_room_for_both() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = dir.path().join(BALLAST);
        let free = free_space(dir.path()).unwrap();
        assert!(free > 2 * BALLAST_BYTES, "this test needs room: {free} bytes free");

        let mut guard = SpaceGuard::new(dir.path(), 0).unwrap();
        assert!(!guard.is_low());
        assert_eq!(fs::metadata(&ballast).unwrap().len(), BALLAST_BYTES);

        guard.floor = u64::MAX;
        assert!(guard.check().unwrap());
        assert!(!ballast.exists());
        assert!(guard.check().unwrap(), "still low, and no ballast to remove");

        // Above the floor, but not by a ballast: no flapping. Other tests write beside this one, hence the margin.
        guard.floor = free - BALLAST_BYTES / 2;
        assert!(guard.check().unwrap());
        guard.floor = 0;
        assert!(!guard.check().unwrap());
        assert!(ballast.exists());
    }

    #[test]
    fn a_guard_that_starts_below_its_floor_is_low() {
        let dir = tempfile::tempdir().unwrap();
        assert!(SpaceGuard::new(dir.path(), u64::MAX).unwrap().is_low());
        drop(SpaceGuard::new(dir.path(), 0).unwrap());
        assert!(SpaceGuard::new(dir.path(), u64::MAX).unwrap().is_low(), "with the ballast of an earlier life");
        assert!(!dir.path().join(BALLAST).exists());
    }
}

//! How many of sled's threads take part.
//!
//! sled writes and syncs on a pool of seven threads, which all databases of the process share, and wakes all seven for each
//! write. One does it; the others come one after the other for the lock, find nothing, and sleep again: at one sync a put, that
//! is most of what a put costs. So [`RESTING`] of them get work that never ends, once in a process: the sync of a small database
//! rests in `sync_file_range` for ever, and flushes wait for it. The files of that database are gone at once.
//!
//! # Invariants
//!
//! 1. One sync rests, that of the database made for it. Every other one goes on to the disk.
//! 2. The threads that stay are enough: the work that sled gives its pool waits for no other work there, but for
//!    `flush_async`, which nobody may call but this file. Three let the log, the state and a staged state sync side by side.
//! 3. Nothing hangs on it: what fails here costs speed only.
//!
//! Absent: tests of power cuts ([`observe_barriers`](super::observe_barriers)) count every sync, so with an observer nobody rests.

use super::OBSERVER;
use futures_util::FutureExt as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};
use std::thread;

/// How many of sled's seven threads do nothing.
const RESTING: usize = 4;

/// Somebody is to rest, and does not yet.
static ASKED: AtomicBool = AtomicBool::new(false);

/// The file whose sync rests, by its device and number.
static FILE: OnceLock<(u64, u64)> = OnceLock::new();

/// Sends threads of sled's to rest, the first time. `dir` is a database that is open; the small one is made beside it.
pub fn rest(dir: &Path) {
    static ONCE: Once = Once::new();
    if OBSERVER.get().is_some() {
        return;
    }
    ONCE.call_once(|| {
        let beside = dir.with_extension("resting");
        let outcome = remove(&beside).map_err(Into::into).and_then(|()| send_to_rest(&beside));
        let outcome = outcome.and_then(|()| remove(&beside).map_err(Into::into));
        if let Err(error) = outcome {
            tracing::debug!(%error, "sled's pool of threads stays as it is");
        }
    });
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn send_to_rest(dir: &Path) -> sled::Result<()> {
    let db = sled::Config::new().path(dir).segment_size(4096).cache_capacity(1 << 16).flush_every_ms(None).open()?;
    // What opening it wrote is on the disk before its file is told from others.
    db.insert(b"", b"awake")?;
    db.flush()?;
    let file = fs::metadata(dir.join("db"))?;
    let _ = FILE.set((file.dev(), file.ino()));
    ASKED.store(true, Ordering::Release);
    db.insert(b"", b"at rest")?;
    // The first flush gives the write to another thread, which rests; it and the other flushes wait for that one.
    for _ in 1..RESTING {
        #[expect(clippy::disallowed_methods, reason = "to occupy a thread for ever is what it is good for")]
        let _ = db.flush_async().now_or_never();
    }
    // Its drop would wait.
    std::mem::forget(db);
    Ok(())
}

/// Called by the thread that is about to sync `fd`: returns, unless that thread is to rest.
pub fn rest_if_asked(fd: i32) {
    if !ASKED.load(Ordering::Acquire) {
        return;
    }
    let file = fs::metadata(format!("/proc/self/fd/{fd}")).map(|file| (file.dev(), file.ino()));
    if file.is_ok_and(|file| Some(&file) == FILE.get()) {
        ASKED.store(false, Ordering::Release);
        loop {
            thread::park();
        }
    }
}

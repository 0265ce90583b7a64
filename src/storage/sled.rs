//! sled, held to the durability law. The only file that names it (with `pool.rs` below), and the only one with `unsafe`.
//!
//! sled 0.34.7 recovers a prefix of its writes after a crash, and that is the law's shape. Three things keep it from the
//! law, and this file closes them.
//!
//! # Its flush is no barrier on Linux
//!
//! `flush()` ends in `sync_file_range(2)`, which neither flushes the disk's cache nor commits the file's size; and sled
//! overwrites old segments as soon as it takes the newer ones for stable, so a power cut loses even what had been synced
//! long ago. Calling `fdatasync` beside it is too late for the same reason. So this file *defines* the symbol
//! `sync_file_range` as `fdatasync`: sled's own call lands here, and whatever sled takes for stable is. That holds only if
//! the linker saw to it, so [`SledEngine::open`] writes a probe, flushes, and refuses to start if no call came through.
//! Other systems use sled's own `sync_all` there.
//!
//! sled also never syncs its `conf` file, new directories, or `blobs/`, where it moves items (leaf pages of up to 17
//! records included) beyond a quarter of a segment. The first two are synced here after an open; the third stays empty,
//! because values are capped: 17 · (96 KiB + header) < 8 MiB / 4.
//!
//! # Its failures can hide
//!
//! A write error is logged while a flush waits for ever; a panic in an io thread is swallowed with the same end; a
//! database whose write failed reports success after reopening. Each of these ends the process instead:
//!
//! - `fdatasync` fails → abort, before sled hears of it;
//! - sled logs an error (through the `log` crate, whose one logger this file owns) → abort;
//! - a thread panics → abort, by the hook that the process installs with [`install_panic_hook`];
//! - a flush does not return in [`FLUSH_DEADLINE_S`] → abort.
//!
//! sled's own flusher thread is off: the writer above decides when to sync, each sync covers all before it, and space is
//! still reclaimed, because each page write moves a page out of a segment that is mostly dead (a test holds it to a
//! bound).
//!
//! # Its cache is bounded by accesses
//!
//! See [`ACCESSES`].
//!
//! # Its pool wakes all for one, and its leaves are written again and again
//!
//! See `pool.rs` and `leaves.rs`.
//!
//! # Its open can refuse, panic or hang, and so can a read
//!
//! So it opens on a thread of its own: a panic becomes a [`Fault`], and so does a deadline passed. A half-written snapshot
//! (`snap.*.generating`, left by a kill during an open) would be taken for a whole one: it is deleted first. One whose
//! checksum is wrong is moved aside, and sled reads its whole log instead. A sound one stays, whatever sled says: it witnesses
//! how far the log went, and without it sled takes rot for a write that was cut short, and returns what was there before.
//! Settings (`conf`) whose checksum is wrong sled would believe, with a warning; they say nothing that [`Options`] don't, so
//! they are moved aside, and sled writes them anew.
//!
//! An open looks at a part of the pages only; the others when they are read, and of some that rotted sled panics. So a panic
//! inside a read is a [`Fault`] too: whoever opens a database and reads all of it learns that it is rotten, and may set it
//! aside. A fault is final all the same: after one nobody goes on with this database.
//!
//! May not know: what keys and values mean (but for the probe's). Absent: `apply_batch`, `transaction`, `flush_async` and
//! more than one tree; see `.clippy.toml` for why.

use super::key::{Key, MAX_VALUE, SLOT_HEADER};
use super::{Engine, Fault};
use bytes::Bytes;
use leaves::Leaves;
use std::cell::Cell;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::thread;
use std::time::Duration;

mod leaves;
#[cfg(target_os = "linux")]
mod pool;

/// A flush that takes longer never returns: a hung disk, or sled's own deadlock. In seconds, counted while this process
/// runs (a process that is paused doesn't age).
pub const FLUSH_DEADLINE_S: u32 = 30;

/// An open that takes longer is given up. A million records a second are scanned, so this is beyond any lawful database.
const OPEN_DEADLINE: Duration = Duration::from_secs(600);

/// A database dropped by this very process gives its file lock back late, when its last io thread lets go.
const LOCK_TRIES: u32 = 100;

/// Pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How often a scan asks for each record that it comes by. sled bounds its cache only when one of its 256 shards has seen 64
/// accesses, however many bytes those brought in, and a scan makes one for each leaf: so it would bring a whole database of
/// less than 16,384 leaves into memory, where it stays. Two more for each of the 16 records of a leaf
/// keep what is above the cache's size to two leaves for each shard.
const ACCESSES: usize = 2;

/// sled's leaves hold this many records just before they split.
const LEAF_RECORDS: usize = 17;

/// How a database is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The unit in which sled writes and reuses its file, in bytes: a power of two, fixed for the database's life.
    pub segment_size: usize,
    /// What sled may cache, in bytes. Soft: the process takes about twice that.
    pub cache_bytes: u64,
}

impl Options {
    /// Segments in which 17 records of [`MAX_VALUE`] stay below the size at which sled would move them to `blobs/`.
    pub const SEGMENT_SIZE: usize = 8 << 20;

    /// The usual layout.
    pub const fn new(cache_bytes: u64) -> Options {
        Options { segment_size: Options::SEGMENT_SIZE, cache_bytes }
    }

    /// The largest value, in bytes, with which no leaf can reach the size (segment / 4 − 20) of a blob. 64 bytes per record
    /// are for its key and sled's framing.
    const fn max_value(self) -> usize {
        (self.segment_size / 4 - 20) / LEAF_RECORDS - 64
    }
}

const _: () = assert!(MAX_VALUE + SLOT_HEADER <= Options::new(0).max_value());

/// A sled database as an engine. See the module's essay.
pub struct SledEngine {
    db: sled::Db,
    leaves: Mutex<Leaves>,
    max_value: usize,
    flushes: Arc<Flushes>,
}

impl fmt::Debug for SledEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledEngine").field("max_value", &self.max_value).finish_non_exhaustive()
    }
}

/// Why a database can't be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopenable {
    /// Its files are not what sled wrote.
    #[error(transparent)]
    Rotten(Fault),
    /// Everything else: it may be sound.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<Unopenable> for Fault {
    fn from(unopenable: Unopenable) -> Fault {
        let (Unopenable::Rotten(fault) | Unopenable::Fault(fault)) = unopenable;
        fault
    }
}

fn fault(what: impl Into<String>, why: impl fmt::Display) -> Fault {
    Fault { what: what.into(), why: why.to_string() }
}

impl SledEngine {
    /// Opens the database in `dir`, or makes it. The caller holds the lock of the data directory that `dir` is in.
    ///
    /// # Errors
    /// The disk failed, the files are not what sled wrote, or syncs don't reach the disk.
    pub fn open(dir: &Path, options: Options) -> Result<SledEngine, Unopenable> {
        let what = || format!("opening the database {}", dir.display());
        guard_log().map_err(|why| fault(what(), why))?;
        fs::create_dir_all(dir).map_err(|why| fault(what(), why))?;
        remove_half_written_snapshots(dir).map_err(|why| fault(what(), why))?;
        move_rotten_settings_aside(dir).map_err(|why| fault(what(), why))?;
        move_rotten_snapshots_aside(dir).map_err(|why| fault(what(), why))?;
        let db = open_on_own_thread(dir, options).map_err(|failed| failed.of(&what()))?;
        sync_what_sled_does_not(dir).map_err(|why| fault(what(), why))?;

        let (leaves, flushes) = (Mutex::default(), Flushes::watched(dir)?);
        let engine = SledEngine { db, leaves, max_value: options.max_value(), flushes };
        engine.check_that_syncs_reach_the_disk()?;
        #[cfg(target_os = "linux")]
        pool::rest(dir);
        Ok(engine)
    }

    fn check_that_syncs_reach_the_disk(&self) -> Result<(), Unopenable> {
        const WHAT: &str = "checking that a sync reaches the disk";
        let (key, before) = (Key::Probe.encode(), barriers());
        let probe = || {
            let last = self.db.get(&key)?.and_then(|value| value[..].try_into().ok()).map_or(0, u64::from_le_bytes);
            // Another value than before: sled writes nothing for an equal one.
            self.db.insert(&key, &last.wrapping_add(1).to_le_bytes())
        };
        guarded(probe).map_err(|failed| failed.of(WHAT))?;
        self.sync()?;
        if cfg!(target_os = "linux") && barriers() == before {
            let why = "sled's call of sync_file_range did not come through this program's own: the binary is linked in a way \
                       that would lose acknowledged writes at a power cut. Build it with the plain `cargo build --release`";
            return Err(fault(WHAT, why).into());
        }
        Ok(())
    }
}

impl SledEngine {
    fn leaves(&self) -> MutexGuard<'_, Leaves> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let found = guarded(|| self.db.get(key)).map_err(|why| fault(format!("reading {key:02x?}"), why))?;
        Ok(found.map(Bytes::from_owner))
    }

    fn scan(
        &self,
        low: &[u8],
        high: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        if low >= high {
            return Ok(());
        }
        let mut pairs = self.db.range(low..high);
        let mut next = || {
            guarded(|| {
                let pair = pairs.next().transpose()?;
                if let Some((key, _)) = &pair {
                    for _ in 0..ACCESSES {
                        self.db.contains_key(key)?;
                    }
                }
                Ok(pair)
            })
        };
        while let Some((key, value)) = next().map_err(|why| fault(format!("scanning from {low:02x?}"), why))? {
            if !leaves::is_divider(&key) && visit(&key, Bytes::from_owner(value)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        assert!(value.len() <= self.max_value, "a value of {} bytes, above {}", value.len(), self.max_value);
        let dividers = self.leaves().ahead(key, value.len());
        let write = || {
            dividers.into_iter().try_for_each(|divider| self.db.insert(divider.encode(), &[]).map(drop))?;
            self.db.insert(key, value)
        };
        write().map(drop).map_err(|why| fault(format!("writing {key:02x?}"), why))
    }

    fn delete(&self, key: &[u8]) -> Result<(), Fault> {
        let behind = self.leaves().behind(key);
        let remove = || {
            self.db.remove(key)?;
            let Some(behind) = behind else { return Ok(()) };
            for pair in self.db.range(behind.encode()..) {
                let (divider, _) = pair?;
                if !leaves::is_divider(&divider) {
                    break;
                }
                self.db.remove(divider)?;
            }
            Ok(())
        };
        guarded(remove).map_err(|why| fault(format!("deleting {key:02x?}"), why))
    }

    fn sync(&self) -> Result<(), Fault> {
        self.flushes.begun.fetch_add(1, Ordering::Release);
        let outcome = self.db.flush();
        self.flushes.done.fetch_add(1, Ordering::Release);
        outcome.map(|_| ()).map_err(|why| fault("syncing", why))
    }

    fn size_on_disk(&self) -> u64 {
        // Only a file that vanished can't be measured, and then the next write says more.
        self.db.size_on_disk().unwrap_or(0)
    }
}

/// Says why and ends the process at once: no destructor runs, nothing more is written or acknowledged.
fn die(sentence: fmt::Arguments<'_>) -> ! {
    use io::Write;
    // Not eprintln!, which panics if stderr is gone.
    let _ = writeln!(io::stderr(), "quorate: fatal: {sentence}");
    std::process::abort()
}

// ---- what sled refuses, or panics of ----

thread_local! {
    /// This thread is inside a call of sled's whose failure the caller is told: its panics are caught.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

fn is_guarded() -> bool {
    GUARDED.try_with(Cell::get).unwrap_or(false)
}

/// A call of sled's that failed.
enum Failed {
    Corrupt(String),
    Other(String),
    Panicked(String),
    Late,
}

impl Failed {
    fn of(self, what: &str) -> Unopenable {
        match self {
            Failed::Corrupt(_) | Failed::Panicked(_) => Unopenable::Rotten(fault(what, self)),
            Failed::Other(_) | Failed::Late => Unopenable::Fault(fault(what, self)),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Corrupt(why) => write!(f, "its files are damaged ({why})"),
            Failed::Other(why) => f.write_str(why),
            Failed::Panicked(why) => write!(f, "its files are damaged beyond what sled can read ({why})"),
            Failed::Late => write!(f, "not open after {} s", OPEN_DEADLINE.as_secs()),
        }
    }
}

/// A call that reads what may be rotten. Nobody goes on with the database after a panic, so it does not matter what the panic
/// left half-made in sled's memory.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Failed> {
    let outer = GUARDED.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    match outcome {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error @ sled::Error::Corruption { .. })) => Err(Failed::Corrupt(error.to_string())),
        Ok(Err(error)) => Err(Failed::Other(error.to_string())),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            Err(Failed::Panicked(text.unwrap_or("no message").to_string()))
        }
    }
}

// ---- opening ----

fn open_on_own_thread(dir: &Path, options: Options) -> Result<sled::Db, Failed> {
    let config = sled::Config::new()
        .path(dir)
        .segment_size(options.segment_size)
        .cache_capacity(options.cache_bytes)
        .flush_every_ms(None);
    on_own_thread(OPEN_DEADLINE, move || open_when_unlocked(&config))
}

fn on_own_thread<T: Send + 'static>(
    deadline: Duration,
    open: impl FnOnce() -> sled::Result<T> + Send + 'static,
) -> Result<T, Failed> {
    let (send, receive) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("open database".into())
        // The receiver is gone only if it gave up.
        .spawn(move || drop(send.send(guarded(open))))
        .map_err(|why| Failed::Other(why.to_string()))?;
    receive.recv_timeout(deadline).unwrap_or(Err(Failed::Late))
}

fn open_when_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    let mut tries = 0;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if tries < LOCK_TRIES && error.to_string().contains("acquire lock") => {
                tries += 1;
                thread::sleep(LOCK_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_half_written_snapshots(dir: &Path) -> io::Result<()> {
    for path in snapshots(dir)? {
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// A snapshot ends with the length of what it says, in 8 bytes, and with the sum of it.
fn is_sound(snapshot: &[u8]) -> bool {
    let said = snapshot.len().checked_sub(12).map(|length| &snapshot[..length]);
    said.zip(snapshot.last_chunk()).is_some_and(|(said, sum)| crc32fast::hash(said) == u32::from_le_bytes(*sum))
}

fn move_rotten_snapshots_aside(dir: &Path) -> io::Result<()> {
    for path in snapshots(dir)? {
        if !is_sound(&fs::read(&path)?) {
            tracing::warn!(path = %path.display(), "a snapshot of the database is rotten: moved aside, reading the whole log");
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            fs::rename(&path, dir.join(format!("rotten-{name}")))?;
        }
    }
    Ok(())
}

fn move_rotten_settings_aside(dir: &Path) -> io::Result<()> {
    let path = dir.join("conf");
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    match bytes.split_last_chunk() {
        Some((text, sum)) if crc32fast::hash(text) != u32::from_le_bytes(*sum) => {
            tracing::warn!(path = %path.display(), "the database's settings are rotten: moved aside, and written anew");
            fs::rename(path, dir.join("rotten-conf"))
        }
        // What is too short sled takes for none.
        _ => Ok(()),
    }
}

fn sync_what_sled_does_not(dir: &Path) -> io::Result<()> {
    File::open(dir.join("conf"))?.sync_all()?;
    File::open(dir)?.sync_all()?;
    match dir.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

// ---- the watch over flushes ----

/// Counts flushes, for the thread that looks whether one hangs.
#[derive(Default)]
struct Flushes {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Flushes {
    fn watched(dir: &Path) -> Result<Arc<Flushes>, Fault> {
        let flushes = Arc::new(Flushes::default());
        let (watched, dir) = (Arc::downgrade(&flushes), dir.to_owned());
        thread::Builder::new()
            .name("flush watch".into())
            .spawn(move || Flushes::watch(&watched, &dir))
            .map_err(|why| fault("starting the flush watch", why))?;
        Ok(flushes)
    }

    /// Runs until the engine is dropped. Counts its own naps instead of reading a clock.
    fn watch(watched: &Weak<Flushes>, dir: &Path) {
        let (mut naps, mut last) = (0, 0);
        while let Some(flushes) = watched.upgrade() {
            // In this order: a flush that begins in between is not taken for a hung one.
            let done = flushes.done.load(Ordering::Acquire);
            let waiting = flushes.begun.load(Ordering::Acquire) > done;
            naps = if waiting && done == last { naps + 1 } else { 0 };
            last = done;
            if naps > FLUSH_DEADLINE_S {
                die(format_args!(
                    "a sync of {} did not return in {FLUSH_DEADLINE_S} s, so the disk hangs or sled does; nothing that \
                     waited for it was acknowledged. Check the disk (dmesg), then start again: a restart recovers",
                    dir.display()
                ));
            }
            drop(flushes);
            thread::sleep(Duration::from_secs(1));
        }
    }
}

// ---- nothing may fail in silence ----

/// From here on a panic in any thread, sled's included, is printed and ends the process (but for the ones inside
/// [`SledEngine::open`] and the reads, which are returned). For binaries, once, before the first open.
pub fn install_panic_hook() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_guarded() {
            print(panic);
            die(format_args!("a thread panicked (above); a restart recovers"));
        }
    }));
}

/// The one logger of the `log` crate in this process.
struct LogGuard;

impl log::Log for LogGuard {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        let of_sled = record.target() == "sled" || record.target().starts_with("sled::");
        match record.level() {
            log::Level::Error if of_sled && !is_guarded() => die(format_args!(
                "the database reports: {}; nothing that waited for it was acknowledged. Check the disk (dmesg, df), then \
                 start again: a restart recovers",
                record.args()
            )),
            log::Level::Error => tracing::error!(from = record.target(), "{}", record.args()),
            log::Level::Warn => tracing::warn!(from = record.target(), "{}", record.args()),
            log::Level::Info | log::Level::Debug | log::Level::Trace => {}
        }
    }

    fn flush(&self) {}
}

/// Makes [`LogGuard`] the logger. Another one there would swallow sled's failures: refused.
fn guard_log() -> Result<(), &'static str> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let ours = log::set_logger(&LogGuard).is_ok();
        if ours {
            log::set_max_level(log::LevelFilter::Warn);
        }
        ours
    });
    if *installed {
        Ok(())
    } else {
        Err("another logger of the `log` crate was installed first: sled's failures would go unseen")
    }
}

// ---- the barrier ----

static BARRIERS: AtomicU64 = AtomicU64::new(0);

/// How many syncs of sled's reached the disk in this process. Stays 0 on systems other than Linux.
pub fn barriers() -> u64 {
    BARRIERS.load(Ordering::Relaxed)
}

/// Stands around a barrier: gets the file and the sync itself, calls it or (to prove that a test sees it) doesn't, and
/// returns its outcome (0, or −1 for a failure).
pub type Observer = fn(fd: i32, sync: &mut dyn FnMut() -> i32) -> i32;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// For crash tests, which build the images a power cut could leave between two barriers. Once in a process; later calls
/// change nothing.
pub fn observe_barriers(observer: Observer) {
    let _ = OBSERVER.set(observer);
}

/// What sled calls to make a range of its file durable: the whole file is, size and disk cache included.
///
/// # Safety
/// Callable with any arguments: `fd` is only passed to `fdatasync`, which fails on what is no open file.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the one way to sled's durability, see the module's essay")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(
    fd: libc::c_int,
    _: libc::off64_t,
    _: libc::off64_t,
    _: libc::c_uint,
) -> libc::c_int {
    pool::rest_if_asked(fd);
    let mut sync = || {
        // SAFETY: no memory is passed; any integer is a lawful argument.
        unsafe { libc::fdatasync(fd) }
    };
    let outcome = match OBSERVER.get() {
        None => sync(),
        Some(observe) => observe(fd, &mut sync),
    };
    if outcome != 0 {
        die(format_args!(
            "the disk failed to sync ({}); the kernel may have dropped what was written, so nothing more is acknowledged. \
             Check the disk (dmesg), then start again: a restart recovers",
            io::Error::last_os_error()
        ));
    }
    BARRIERS.fetch_add(1, Ordering::Relaxed);
    0
}

#[cfg(test)]
mod tests;

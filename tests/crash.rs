//! What the disk may do to the log, on real sled: kill -9 while writing and while opening, and power cuts.
//!
//! A kill leaves the kernel's cache whole, so it never shows a missing sync. Power cuts do, and are made here without
//! special tools: `storage/sled.rs` lets a test stand around each barrier. What was in the file when a barrier began is
//! durable when it has returned; of what was written since, any subset of 4 KiB pages may be. So between any two barriers
//! an image of the disk can be built, and each must open with everything that was acknowledged by then. That the builder
//! would notice is proven by a mutant whose syncs do nothing, most of the time.
//!
//! Whatever must die runs in a process of its own: this binary again, told by the environment to be a [`child`].
//!
//! The workload is a function of a seed and of the log it starts from, so parent and child know it alike and the only
//! word they exchange is how many batches were acknowledged.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use quorate::ids::{Incarnation, Index, MemberId, Position, RequestId, Term, WriteSeq};
use quorate::raft::{Entry, EntryKind, HardState, Ready};
use quorate::rng::{Rng, Seed};
use quorate::storage::Engine;
use quorate::storage::log::{LogStore, Recovered};
use quorate::storage::sled::{self, Options, SledEngine};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

const PRODUCTION: Options = Options::new(8 << 20);

/// Small segments, so that they fill up and are overwritten within a short run: that is where a missing sync destroys
/// even what is old.
const SMALL: Options = Options { segment_size: 512 << 10, cache_bytes: 8 << 20 };

/// How long the log is that rots.
const ROT_BATCHES: u64 = 800;

const SIGABRT: i32 = 6;

// ---- the workload ----

#[derive(Clone, Debug, PartialEq)]
struct Model {
    hard_state: HardState,
    /// The entry before the first one.
    base: Index,
    log: Vec<Entry>,
    /// Up to here it may have been compacted.
    may_go: Index,
}

impl Model {
    fn last(&self) -> u64 {
        self.base.0 + self.log.len() as u64
    }

    fn keep(&mut self, last: u64) {
        self.log.truncate((last - self.base.0) as usize);
    }

    /// Whether `found` is this log up to some entry, and from some entry on that it may begin with.
    fn begins_with(&self, found: &Model) -> bool {
        let gone = found.base.0.checked_sub(self.base.0).filter(|gone| *gone == 0 || found.base <= self.may_go);
        gone.and_then(|gone| self.log.get(gone as usize..)).is_some_and(|log| log.starts_with(&found.log))
    }
}

#[derive(Clone)]
struct Workload {
    rng: Rng,
    model: Model,
    seq: u64,
    /// What was durable when the batch began, and still is in the log.
    persisted: u64,
    /// Whether entries of several slots occur.
    big: bool,
}

impl Workload {
    fn new(seed: u64, model: Model, options: Options) -> Workload {
        Workload { rng: Rng::new(Seed(seed)), model, seq: 0, persisted: 0, big: options == PRODUCTION }
    }

    /// The next batch; the model is what the log must hold after it.
    fn next_batch(&mut self) -> Vec<Ready> {
        (0..self.begin_batch()).map(|_| self.next_ready()).collect()
    }

    /// How many Readies the next batch has.
    fn begin_batch(&mut self) -> u64 {
        self.persisted = self.model.last();
        1 + self.rng.below(3)
    }

    fn next_ready(&mut self) -> Ready {
        self.seq += 1;
        let mut ready = Ready {
            seq: WriteSeq(self.seq),
            hard_state: None,
            compact_to: None,
            truncate_from: None,
            entries: Vec::new(),
        };
        let model = &mut self.model;
        if model.hard_state.term == Term(0) || self.rng.below(20) == 0 {
            let vote = Some(MemberId(1 + self.rng.below(3)));
            model.hard_state = HardState { term: model.hard_state.term.next(), vote };
            ready.hard_state = Some(model.hard_state);
            if self.rng.below(2) == 0 && model.last() > model.may_go.0 {
                let back = 1 + self.rng.below(if self.big { 30 } else { 150 });
                let keep = model.last().saturating_sub(back).max(model.may_go.0);
                ready.truncate_from = Some(Index(keep + 1));
                model.keep(keep);
            }
        }
        self.persisted = self.persisted.min(model.last());
        if self.rng.below(12) == 0 {
            let to = Index(self.persisted.saturating_sub(self.rng.below(if self.big { 60 } else { 300 })));
            ready.compact_to = Some(to);
            model.may_go = model.may_go.max(to);
        }
        for _ in 0..self.rng.below(4) {
            // Half of the batches make a record for which leaves are split ahead (`sled/leaves.rs`).
            let len = if self.big && self.rng.below(60) == 0 { 250_000 } else { 700 };
            let data: Vec<u8> = vec![self.rng.below(256) as u8; self.rng.below(len) as usize];
            let position = Position { index: Index(model.last() + 1), term: model.hard_state.term };
            let entry = Entry::new(position, EntryKind::Command, RequestId::default(), data.into());
            ready.entries.push(entry.clone());
            model.log.push(entry);
        }
        ready
    }

    /// Whether `found` is what a crash during the next batch may leave: everything before it, and a prefix of it.
    fn explains(mut self, found: &Model) -> bool {
        let count = self.begin_batch();
        (0..count).any(|_| {
            let mut before = self.model.clone();
            let ready = self.next_ready();
            before.may_go = self.model.may_go;
            let stays = ready.truncate_from.map_or(before.last(), |from| from.0 - 1);
            let of = |log: &Model| found.last() >= stays && log.begins_with(found);
            let untouched = found.hard_state == before.hard_state && found.last() == before.last();
            (untouched && before.begins_with(found))
                || found.hard_state == self.model.hard_state && (of(&before) || of(&self.model))
        })
    }
}

fn open(dir: &Path, options: Options) -> Result<(LogStore, Model), String> {
    let engine = SledEngine::open(dir, options).map_err(|unopenable| unopenable.to_string())?;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let (store, Recovered { hard_state, base, tail, .. }) =
        LogStore::open(engine, usize::MAX, Incarnation(0)).map_err(|error| error.to_string())?;
    Ok((store, Model { hard_state, base: base.index, log: tail, may_go: base.index }))
}

/// Writes batches until told to stop, and says after each how many are acknowledged.
fn write_batches(dir: &Path, seed: u64, options: Options, mut acknowledged: impl FnMut(u64) -> bool) {
    let (mut store, model) = open(dir, options).unwrap();
    let mut workload = Workload::new(seed, model, options);
    let mut batches = 0;
    while acknowledged(batches) {
        store.persist(&workload.next_batch()).unwrap();
        batches += 1;
    }
}

/// What must be found in `dir` after a crash: `acked` batches of `seed`'s workload since `start`, and perhaps more.
fn verify(found: &Model, start: &Model, seed: u64, options: Options, acked: u64) {
    let mut workload = Workload::new(seed, start.clone(), options);
    for _ in 0..acked {
        workload.next_batch();
    }
    let expected = workload.model.clone();
    assert!(
        workload.explains(found),
        "after {acked} acknowledged batches (seed {seed}): expected {:?} up to {}, beginning at {} or before, found {:?} {}..={}",
        expected.hard_state,
        expected.last(),
        expected.may_go.next(),
        found.hard_state,
        found.base,
        found.last()
    );
}

// ---- children ----

const ROLE: &str = "QUORATE_CRASH_ROLE";
const DIR: &str = "QUORATE_CRASH_DIR";
const SEED: &str = "QUORATE_CRASH_SEED";

/// A process that is to die, and what it says.
struct Doomed {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Doomed {
    fn start(role: &str, dir: &Path, seed: u64) -> Doomed {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(DIR, dir)
            .env(SEED, seed.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Doomed { process, lines }
    }

    /// The next number said with `word`, or `None` when the process is at its end.
    fn next(&mut self, word: &str) -> Option<u64> {
        self.lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    /// Waits for the end; also what was said on stderr.
    fn end(self) -> (ExitStatus, String) {
        let Doomed { process, lines } = self;
        drop(lines);
        let output = process.wait_with_output().unwrap();
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn say(word: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word} {number}").unwrap();
    out.flush().unwrap();
}

/// Not a test: what the processes of the tests below run.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var(DIR).unwrap());
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    println!();
    match role.as_str() {
        "write" => write_batches(&dir, seed, PRODUCTION, |acked| {
            say("acked", acked);
            true
        }),
        "open" => {
            say("opening", 0);
            open(&dir, PRODUCTION).unwrap();
            say("opened", 0);
        }
        "open, killed at a barrier" => {
            sled::observe_barriers(barrier::kill_at);
            open(&dir, PRODUCTION).unwrap();
            say("opened", 0);
        }
        "power" | "power, mutant" => power::run(&dir, seed, role == "power, mutant"),
        "verify rot" => {
            let (_, found) = open(&dir, SMALL).unwrap();
            let mut workload = Workload::new(seed, EMPTY, SMALL);
            let was = (0..=ROT_BATCHES).any(|_| {
                let was = workload.clone().explains(&found);
                workload.next_batch();
                was
            });
            assert!(was, "{:?} and {}..={} never were together", found.hard_state, found.base, found.last());
        }
        "verify image" => {
            let (_, found) = open(&dir, SMALL).unwrap();
            let acked = fs::read_to_string(dir.join("acked")).unwrap().parse().unwrap();
            verify(&found, &EMPTY, seed, SMALL, acked);
        }
        "disk fails" => {
            sled::observe_barriers(barrier::fail_late);
            write_batches(&dir, seed, PRODUCTION, |acked| {
                say("acked", acked);
                true
            });
        }
        "disk hangs" => {
            sled::observe_barriers(barrier::hang_late);
            write_batches(&dir, seed, PRODUCTION, |acked| {
                say("acked", acked);
                true
            });
        }
        "sled reports" => {
            let _open = open(&dir, PRODUCTION).unwrap();
            log::warn!(target: "sled::flusher", "a warning is no end");
            log::error!(target: "elsewhere", "nor is another crate's error");
            say("alive", 1);
            log::error!(target: "sled::flusher", "failed to fsync from periodic flush thread");
            say("alive", 2);
        }
        "thread panics" => {
            sled::install_panic_hook();
            say("alive", 1);
            let _ = std::thread::spawn(|| panic!("in a thread of sled's")).join();
            say("alive", 2);
        }
        "scan" => {
            let engine = SledEngine::open(&dir, PRODUCTION).unwrap();
            let before = resident();
            let mut records = 0;
            engine
                .scan(&[0; 8], &[0xff; 8], &mut |_, value| {
                    records += u64::from(value.len() == RECORD_BYTES);
                    ControlFlow::Continue(())
                })
                .unwrap();
            say("records", records);
            say("grown", resident().saturating_sub(before));
        }
        other => panic!("no role {other}"),
    }
}

/// Of a state record that is full.
const RECORD_BYTES: usize = 8 << 10;

/// Memory of this process, in bytes.
fn resident() -> u64 {
    quorate::server::process::usage(std::process::id()).unwrap().resident
}

const EMPTY: Model =
    Model { hard_state: HardState { term: Term(0), vote: None }, base: Index(0), log: Vec::new(), may_go: Index(0) };

mod barrier {
    use super::SEED;
    use std::sync::atomic::{AtomicU64, Ordering};

    static COUNT: AtomicU64 = AtomicU64::new(0);

    /// Kills the process in place of the barrier whose number is the seed.
    pub fn kill_at(_: i32, sync: &mut dyn FnMut() -> i32) -> i32 {
        let at: u64 = std::env::var(SEED).unwrap().parse().unwrap();
        if COUNT.fetch_add(1, Ordering::Relaxed) == at {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        sync()
    }

    pub fn fail_late(_: i32, sync: &mut dyn FnMut() -> i32) -> i32 {
        if COUNT.fetch_add(1, Ordering::Relaxed) >= 20 { -1 } else { sync() }
    }

    pub fn hang_late(_: i32, sync: &mut dyn FnMut() -> i32) -> i32 {
        while COUNT.fetch_add(1, Ordering::Relaxed) >= 20 {
            std::thread::park();
        }
        sync()
    }
}

// ---- power cuts ----

mod power {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    const PAGE: usize = 4096;
    pub const IMAGES: u64 = 48;
    /// One image per so many barriers: the run is long enough for every segment to be overwritten several times.
    const EVERY: u64 = 50;
    /// The mutant's syncs that do sync.
    const MUTANT_SYNCS_EVERY: u64 = 50;

    static ACKED: AtomicU64 = AtomicU64::new(0);
    static DISK: Mutex<Option<Disk>> = Mutex::new(None);

    struct Disk {
        dir: PathBuf,
        rng: Rng,
        mutant: bool,
        barriers: u64,
        images: u64,
        /// The file, as a power cut leaves it at least.
        durable: Vec<u8>,
    }

    /// Writes until there are enough images of the power cuts on the way: `dir/0`, `dir/1`, ...
    pub fn run(dir: &Path, seed: u64, mutant: bool) {
        let live = dir.join("live");
        drop(open(&live, SMALL).unwrap());
        let durable = fs::read(live.join("db")).unwrap();
        *DISK.lock().unwrap() =
            Some(Disk { dir: dir.into(), rng: Rng::new(Seed(seed)), mutant, barriers: 0, images: 0, durable });
        sled::observe_barriers(observe);
        write_batches(&live, seed, SMALL, |acked| {
            ACKED.store(acked, Ordering::SeqCst);
            DISK.lock().unwrap().as_ref().unwrap().images < IMAGES
        });
    }

    fn observe(_: i32, sync: &mut dyn FnMut() -> i32) -> i32 {
        // Before the lock: who waits for it may acknowledge nothing that rests on its own barrier.
        let acked = ACKED.load(Ordering::SeqCst);
        let mut disk = DISK.lock().unwrap();
        let disk = disk.as_mut().unwrap();
        let now = fs::read(disk.dir.join("live/db")).unwrap();
        disk.barriers += 1;
        if disk.barriers.is_multiple_of(EVERY) && disk.images < IMAGES {
            disk.cut_power(&now, acked);
        }
        if disk.mutant && !disk.barriers.is_multiple_of(MUTANT_SYNCS_EVERY) {
            return 0;
        }
        let outcome = sync();
        disk.durable = now;
        outcome
    }

    impl Disk {
        /// An image of a cut between the last barrier that returned and the one that begins: of the pages written since,
        /// none, about half or nearly all have reached the disk.
        fn cut_power(&mut self, now: &[u8], acked: u64) {
            let image = self.dir.join(self.images.to_string());
            let percent = [0, 50, 95][(self.images % 3) as usize];
            let mut bytes = self.durable.clone();
            for (number, page) in now.chunks(PAGE).enumerate() {
                let at = number * PAGE;
                let changed = self.durable.get(at..at + page.len()) != Some(page);
                if changed && self.rng.below(100) < percent {
                    bytes.resize(bytes.len().max(at + page.len()), 0);
                    bytes[at..at + page.len()].copy_from_slice(page);
                }
            }
            if now.len() < bytes.len() && self.rng.below(2) == 0 {
                bytes.truncate(now.len());
            }
            fs::create_dir(&image).unwrap();
            fs::write(image.join("db"), bytes).unwrap();
            fs::copy(self.dir.join("live/conf"), image.join("conf")).unwrap();
            fs::write(image.join("acked"), acked.to_string()).unwrap();
            self.images += 1;
        }
    }
}

/// Which images don't open with everything that was acknowledged, and what was said; at most `enough` of them.
fn bad_images(role: &str, seed: u64, enough: usize) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let (status, stderr) = Doomed::start(role, dir.path(), seed).end_reading();
    assert!(status.success(), "{stderr}");
    let mut bad = Vec::new();
    for image in 0..power::IMAGES {
        let (status, stderr) = Doomed::start("verify image", &dir.path().join(image.to_string()), seed).end_reading();
        if !status.success() {
            bad.push(format!("image {image}: {stderr}"));
        }
        if bad.len() == enough {
            break;
        }
    }
    bad
}

impl Doomed {
    /// Lets the process run to its own end.
    fn end_reading(mut self) -> (ExitStatus, String) {
        while self.next("no such word").is_some() {}
        self.end()
    }
}

// ---- the tests ----

#[test]
fn kill_9_while_writing_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(Seed(9));
    let mut start = EMPTY;
    for round in 0..15 {
        let mut child = Doomed::start("write", dir.path(), round);
        let target = rng.below(150);
        let mut acked = 0;
        while acked < target {
            acked = child.next("acked").expect("the child dies only by the parent's hand");
        }
        child.kill();
        // What it said before it died counts.
        while let Some(more) = child.next("acked") {
            acked = more;
        }
        assert_eq!(child.end().0.signal(), Some(9));
        let (_, found) = open(dir.path(), PRODUCTION).unwrap();
        verify(&found, &start, round, PRODUCTION, acked);
        start = found;
    }
    assert!(start.last() > 100 && start.base > Index(0), "{}..={} after all rounds", start.base, start.last());
}

#[test]
fn kill_9_while_opening_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write_batches(dir.path(), 1, PRODUCTION, |acked| acked < 200);
    let (_, whole) = open(dir.path(), PRODUCTION).unwrap();

    // In place of each barrier that an open has.
    let mut kills = 0;
    loop {
        let (status, stderr) = Doomed::start("open, killed at a barrier", dir.path(), kills).end_reading();
        assert_eq!(open(dir.path(), PRODUCTION).unwrap().1, whole);
        if status.success() {
            break;
        }
        assert_eq!(status.signal(), Some(9), "{stderr}");
        kills += 1;
    }
    assert!(kills >= 2, "{kills} barriers: the probe's and the incarnation's at least");

    // And at any moment.
    for round in 0..10 {
        let mut child = Doomed::start("open", dir.path(), 0);
        child.next("opening").unwrap();
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill();
        child.end();
        assert_eq!(open(dir.path(), PRODUCTION).unwrap().1, whole, "round {round}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_power_cut_loses_nothing_acknowledged() {
    let bad = bad_images("power", 3, usize::MAX);
    assert!(bad.is_empty(), "{} of {} images: {}", bad.len(), power::IMAGES, bad[0]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_power_cut_shows_a_missing_sync() {
    assert!(!bad_images("power, mutant", 3, 1).is_empty(), "{} images, and no loss was noticed", power::IMAGES);
}

#[test]
#[cfg(target_os = "linux")]
fn each_persist_is_a_barrier() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, model) = open(dir.path(), PRODUCTION).unwrap();
    let mut workload = Workload::new(5, model, PRODUCTION);
    for _ in 0..20 {
        let batch = workload.next_batch();
        let writes = batch.iter().any(|ready| ready.hard_state.is_some() || !ready.entries.is_empty());
        let before = sled::barriers();
        store.persist(&batch).unwrap();
        assert!(!writes || sled::barriers() > before);
    }
}

/// sled answers rot with an error, with a panic in any of its threads, or, in its newest segments, with an older state. What
/// is held to here: it never hangs, never ends without a word, and never mixes two states.
#[test]
fn rot_is_told_or_leaves_a_state_that_was() {
    let sound = tempfile::tempdir().unwrap();
    write_batches(sound.path(), 4, SMALL, |acked| acked < ROT_BATCHES);
    let bytes = fs::read(sound.path().join("db")).unwrap();
    for part in 1..20 {
        let dir = tempfile::tempdir().unwrap();
        let mut rotten = bytes.clone();
        rotten[bytes.len() / 20 * part] ^= 0x10;
        fs::write(dir.path().join("db"), rotten).unwrap();
        fs::copy(sound.path().join("conf"), dir.path().join("conf")).unwrap();
        let (status, stderr) = Doomed::start("verify rot", dir.path(), 4).end_reading();
        let told = stderr.contains("damaged") || stderr.contains("quorate: fatal");
        assert!(status.success() || told, "part {part}: {stderr}");
    }
}

#[test]
fn each_life_passes_the_self_test() {
    let dir = tempfile::tempdir().unwrap();
    for life in 1..=3 {
        let (status, stderr) = Doomed::start("open", dir.path(), life).end_reading();
        assert!(status.success(), "life {life}: {stderr}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_failed_sync_ends_the_process_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Doomed::start("disk fails", dir.path(), 1);
    let mut acked = 0;
    while let Some(more) = child.next("acked") {
        acked = more;
    }
    let (status, stderr) = child.end();
    assert_eq!(status.signal(), Some(SIGABRT), "{stderr}");
    assert!(stderr.contains("the disk failed to sync") && stderr.contains("a restart recovers"), "{stderr}");
    assert!(acked > 0);
    let (_, found) = open(dir.path(), PRODUCTION).unwrap();
    verify(&found, &EMPTY, 1, PRODUCTION, acked);
}

#[test]
#[cfg(target_os = "linux")]
#[ignore = "takes as long as the deadline, 30 s"]
fn a_hanging_sync_ends_the_process_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let (status, stderr) = Doomed::start("disk hangs", dir.path(), 1).end_reading();
    assert_eq!(status.signal(), Some(SIGABRT), "{stderr}");
    assert!(stderr.contains("did not return in 30 s"), "{stderr}");
}

#[test]
fn what_sled_only_logs_ends_the_process() {
    for (role, sentence) in
        [("sled reports", "failed to fsync from periodic flush thread"), ("thread panics", "in a thread of sled's")]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Doomed::start(role, dir.path(), 1);
        assert_eq!((child.next("alive"), child.next("alive")), (Some(1), None), "{role}");
        let (status, stderr) = child.end();
        assert_eq!(status.signal(), Some(SIGABRT), "{role}: {stderr}");
        assert!(stderr.contains(sentence) && stderr.contains("a restart recovers"), "{role}: {stderr}");
    }
}

/// A start reads all of the state: that must not bring all of it into memory.
#[test]
#[cfg(target_os = "linux")]
fn a_scan_brings_little_of_a_database_into_memory() {
    const RECORDS: u64 = 24_000;
    let dir = tempfile::tempdir().unwrap();
    let engine = SledEngine::open(dir.path(), PRODUCTION).unwrap();
    let mut record = vec![7; RECORD_BYTES];
    for number in 0..RECORDS {
        record[..8].copy_from_slice(&number.to_le_bytes());
        engine.put(&number.to_be_bytes(), &record).unwrap();
    }
    engine.sync().unwrap();
    drop(engine);
    let mut scan = Doomed::start("scan", dir.path(), 1);
    let (records, grown) = (scan.next("records"), scan.next("grown").unwrap());
    let (_, stderr) = scan.end();
    let all = RECORDS * RECORD_BYTES as u64;
    assert_eq!(records, Some(RECORDS), "{stderr}");
    assert!(grown < all / 2, "{grown} bytes more, of {all}");
}

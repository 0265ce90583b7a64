//! The two threads that may wait for the disk, so that the node's thread never does.
//!
//! The **log worker** owns the [`LogStore`]. It takes everything that is queued, makes it durable with one sync, and says
//! so once: while a sync runs, the next batch gathers, so the busier the node, the more writes share a sync (group
//! commit). The **state worker** owns the writes to the state database, executes them in order, and syncs when asked. Between
//! them it reads records for members that take the state over, and it builds the state that this member takes over.
//!
//! *Sync-before-ack* ends here: [`Input::Persisted`] is posted after the sync returned, and a failed sync is never
//! followed by anything: the process aborts with the sentence, because the kernel has by then forgotten which pages were
//! not written, and whatever was said next would be a guess.
//!
//! Absent: retries, and any order but the one in which the node asked.

use super::exposition::{self, DISK_BOUNDS};
use super::mailbox::{Event, Mailbox};
use super::sync_probe::SyncProbe;
use crate::clock::instant;
use crate::machine::takeover::read_records;
use crate::node::{Input, RecordsRead, StageWrite, StateWrite};
use crate::raft::{LogRead, Ready};
use crate::storage::directory::Staging;
use crate::storage::log::LogStore;
use crate::storage::space::SpaceGuard;
use crate::storage::{Engine, Fault, Op};
use crate::time::Duration;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What the log worker is asked for.
#[derive(Debug)]
pub enum LogWork {
    /// Make durable.
    Persist(Ready),
    /// Read back.
    Load(LogRead),
}

/// What the state worker is asked for.
#[derive(Debug)]
pub enum StateWork {
    /// To the state in use.
    Write(StateWrite),
    /// For another member.
    Read(RecordsRead),
    /// To the state that is to take the place of the one in use.
    Stage(StageWrite),
}

/// How often a worker that has nothing to do takes a turn: the log's looks at the free space, and both show that they live.
const IDLE_TURN_INTERVAL: Duration = Duration::from_secs(1);

/// Longer syncs are counted as this long, in microseconds. One of 30 s ends the process anyway.
const LONGEST_SYNC_US: u64 = 60_000_000;

/// What the workers tell about themselves.
#[derive(Debug)]
pub struct DiskFacts {
    syncs: Mutex<Histogram<u64>>,
    /// How long the log's records took to become durable.
    pub log_syncs: exposition::Histogram,
    /// How long the state's syncs took.
    pub state_syncs: exposition::Histogram,
    /// What the disk showed at the start, if it could be measured.
    pub probe: Option<SyncProbe>,
    log_bytes: AtomicU64,
    log_written: AtomicU64,
    free_bytes: AtomicU64,
    /// When these facts were made; what follows counts from there.
    origin: std::time::Instant,
    log_turn_ms: AtomicU64,
    state_turn_ms: AtomicU64,
}

impl DiskFacts {
    /// Nothing measured yet.
    pub fn new(log_bytes: u64) -> DiskFacts {
        let syncs = Histogram::new_with_bounds(1, LONGEST_SYNC_US, 2)
            .unwrap_or_else(|error| unreachable!("the bounds and 2 digits are lawful: {error}"));
        DiskFacts {
            syncs: Mutex::new(syncs),
            log_syncs: exposition::Histogram::new(DISK_BOUNDS),
            state_syncs: exposition::Histogram::new(DISK_BOUNDS),
            probe: None,
            log_bytes: AtomicU64::new(log_bytes),
            log_written: AtomicU64::new(0),
            free_bytes: AtomicU64::new(0),
            origin: instant(),
            log_turn_ms: AtomicU64::new(0),
            state_turn_ms: AtomicU64::new(0),
        }
    }

    /// How long the log's syncs took, in microseconds: the median and the 99th percentile.
    pub fn sync_micros(&self) -> (u64, u64) {
        let syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        (syncs.value_at_quantile(0.5), syncs.value_at_quantile(0.99))
    }

    /// Bytes that the log takes on the disk, as of a moment ago.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of entries that were written to the log.
    pub fn log_written(&self) -> u64 {
        self.log_written.load(Ordering::Relaxed)
    }

    /// Bytes that were free on the data directory's disk, as of a moment ago.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// For how long the worker that has been silent for longest has not begun a turn. One that does not hang begins one at
    /// least every second, or when its sync returns.
    pub fn silence(&self) -> Duration {
        let turn = self.log_turn_ms.load(Ordering::Relaxed).min(self.state_turn_ms.load(Ordering::Relaxed));
        self.origin.elapsed().saturating_sub(Duration::from_millis(turn))
    }

    fn turn(&self, worker: &AtomicU64) {
        worker.store(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn record(&self, sync: Duration) {
        self.log_syncs.record(sync);
        let micros = u64::try_from(sync.as_micros()).unwrap_or(u64::MAX);
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }
}

/// Ends the process because the disk can't be trusted. A core dump, no destructor, no last write.
pub fn fail(fault: &Fault) -> ! {
    tracing::error!(%fault, "the disk failed");
    eprintln!(
        "quorate: the disk failed: {fault}\n\
         quorate: nothing that was not durable before was acknowledged; look at the disk, then start the member again"
    );
    std::process::abort()
}

/// Starts the log worker. It ends when the sender is dropped and everything queued is durable.
///
/// # Errors
/// The system has no thread to give.
pub fn start_log_worker(
    log: LogStore,
    guard: SpaceGuard,
    facts: Arc<DiskFacts>,
    mailbox: Mailbox,
) -> std::io::Result<(Sender<LogWork>, JoinHandle<()>)> {
    let (sender, queue) = channel();
    let worker = LogWorker { log, guard, low: false, checked: instant(), facts, mailbox };
    let thread = std::thread::Builder::new().name("log".into()).spawn(move || worker.run(&queue))?;
    Ok((sender, thread))
}

struct LogWorker {
    log: LogStore,
    guard: SpaceGuard,
    low: bool,
    checked: std::time::Instant,
    facts: Arc<DiskFacts>,
    mailbox: Mailbox,
}

impl LogWorker {
    fn run(mut self, queue: &Receiver<LogWork>) {
        self.check_space();
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        loop {
            self.facts.turn(&self.facts.log_turn_ms);
            match queue.recv_timeout(IDLE_TURN_INTERVAL) {
                Ok(first) => {
                    for work in std::iter::once(first).chain(queue.try_iter()) {
                        match work {
                            LogWork::Persist(ready) => writes.push(ready),
                            LogWork::Load(read) => reads.push(read),
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.persist(&mut writes).and_then(|()| self.load(&mut reads)).unwrap_or_else(|fault| fail(&fault));
            if self.checked.elapsed() >= IDLE_TURN_INTERVAL {
                self.check_space();
            }
        }
    }

    fn persist(&mut self, writes: &mut Vec<Ready>) -> Result<(), Fault> {
        if writes.is_empty() {
            return Ok(());
        }
        let begun = instant();
        let persisted = self.log.persist(writes)?;
        self.facts.record(begun.elapsed());
        let bytes: usize = writes.drain(..).flat_map(|ready| ready.entries).map(|entry| entry.size()).sum();
        self.facts.log_written.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(persisted) = persisted {
            self.mailbox.post(Event::Input(Input::Persisted(persisted)));
        }
        Ok(())
    }

    /// Reads come after all writes that were queued with them, so they see at least what the node saw.
    fn load(&mut self, reads: &mut Vec<LogRead>) -> Result<(), Fault> {
        for read in reads.drain(..) {
            let entries = self.log.read(read.from, read.max_bytes)?;
            self.mailbox.post(Event::Input(Input::Loaded { read, entries }));
        }
        Ok(())
    }

    fn check_space(&mut self) {
        self.checked = instant();
        self.facts.log_bytes.store(self.log.size_on_disk(), Ordering::Relaxed);
        let low = self.guard.check().unwrap_or_else(|error| {
            tracing::warn!(%error, "the free space on the disk can't be told");
            self.low
        });
        self.facts.free_bytes.store(self.guard.free_bytes(), Ordering::Relaxed);
        if low != self.low {
            self.low = low;
            if low {
                tracing::warn!("the disk is almost full: writes are declined until there is room again");
            } else {
                tracing::info!("the disk has room again");
            }
            self.mailbox.post(Event::Input(Input::Space { low }));
        }
    }
}

/// Starts the state worker. It ends when the sender is dropped and everything queued is written and synced.
///
/// # Errors
/// The system has no thread to give.
pub fn start_state_worker(
    engine: Arc<dyn Engine>,
    staging: Staging,
    facts: Arc<DiskFacts>,
    mailbox: Mailbox,
) -> std::io::Result<(Sender<StateWork>, JoinHandle<()>)> {
    let (sender, queue) = channel();
    let mut worker = StateWorker { engine, staging, facts, mailbox };
    let thread = std::thread::Builder::new()
        .name("state".into())
        .spawn(move || worker.run(&queue).unwrap_or_else(|fault| fail(&fault)))?;
    Ok((sender, thread))
}

struct StateWorker {
    engine: Arc<dyn Engine>,
    staging: Staging,
    facts: Arc<DiskFacts>,
    mailbox: Mailbox,
}

impl StateWorker {
    fn run(&mut self, queue: &Receiver<StateWork>) -> Result<(), Fault> {
        loop {
            self.facts.turn(&self.facts.state_turn_ms);
            let first = match queue.recv_timeout(IDLE_TURN_INTERVAL) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return self.engine.sync(),
            };
            let (mut written, mut sync) = (None, false);
            for work in std::iter::once(first).chain(queue.try_iter()) {
                match work {
                    StateWork::Write(write) => {
                        self.write(&write)?;
                        written = Some(write.id);
                        sync |= write.sync;
                    }
                    StateWork::Read(read) => self.read(read)?,
                    StateWork::Stage(write) => self.stage(&write)?,
                }
            }
            let Some(id) = written else { continue };
            self.mailbox.post(Event::Input(Input::StateWritten { id }));
            if sync {
                let begun = instant();
                self.engine.sync()?;
                self.facts.state_syncs.record(begun.elapsed());
                self.mailbox.post(Event::Input(Input::StateSynced { id }));
            }
        }
    }

    fn write(&self, write: &StateWrite) -> Result<(), Fault> {
        write.ops.iter().try_for_each(|op| match op {
            Op::Put(key, value) => self.engine.put(key, value),
            Op::Delete(key) => self.engine.delete(key),
        })
    }

    /// A record that can't be read is a fault of this member's own disk: it is sent to nobody.
    fn read(&self, read: RecordsRead) -> Result<(), Fault> {
        let records = read_records(&*self.engine, read.from, read.below, read.max_bytes)?;
        self.mailbox.post(Event::Input(Input::RecordsRead { read, records }));
        Ok(())
    }

    fn stage(&mut self, write: &StageWrite) -> Result<(), Fault> {
        if write.begin {
            self.staging.begin()?;
        }
        self.staging.write(&write.ops)?;
        if write.adopt {
            self.staging.adopt(write.aside)?;
        }
        self.mailbox.post(Event::Input(Input::Staged { id: write.id }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, DiskId, Incarnation, Index, MemberId, Position, RequestId, Term, WriteSeq};
    use crate::raft::{Entry, EntryKind, HardState};
    use crate::server::mailbox::{self, mailbox};
    use crate::storage::directory::{Directory, Expected, InitialMember};
    use crate::storage::key::{Family, Key, get_value, put_ops};
    use crate::storage::memory::MemoryEngine;
    use crate::storage::sled::Options;
    use bytes::Bytes;
    use std::path::Path;

    /// Longer than the tests here take.
    const LONG_AGO: Duration = Duration::from_secs(10);

    /// Facts of workers that have been silent since long ago.
    fn silent() -> DiskFacts {
        let mut facts = DiskFacts::new(0);
        facts.origin -= LONG_AGO;
        facts
    }

    /// The write `n`, which appends entry `n`.
    fn ready(n: u64) -> Ready {
        let position = Position { index: Index(n), term: Term(1) };
        Ready {
            seq: WriteSeq(n),
            hard_state: (n == 1).then_some(HardState { term: Term(1), vote: None }),
            compact_to: None,
            truncate_from: None,
            entries: vec![Entry::new(position, EntryKind::Noop, RequestId::default(), Bytes::new())],
        }
    }

    struct Log {
        engine: MemoryEngine,
        worker: LogWorker,
        events: mailbox::Receiver,
        _directory: tempfile::TempDir,
    }

    fn log() -> Log {
        let engine = MemoryEngine::new();
        let (log, _) = LogStore::open(Arc::new(engine.clone()), 1024, Incarnation(0)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let guard = SpaceGuard::new(directory.path(), 0).unwrap();
        let (mailbox, events) = mailbox();
        let facts = Arc::new(silent());
        let worker = LogWorker { log, guard, low: false, checked: instant(), facts, mailbox };
        Log { engine, worker, events, _directory: directory }
    }

    #[test]
    fn the_time_of_a_sync_is_told_as_it_was() {
        let facts = DiskFacts::new(0);
        for (us, p99) in [(40, 40), (7_000, 7_000), (3_000_000, 3_000_000), (90_000_000, LONGEST_SYNC_US)] {
            facts.record(Duration::from_micros(us));
            let told = facts.sync_micros().1;
            assert!((p99..=p99 + p99 / 50).contains(&told), "{us} µs are told as {told} µs");
        }
    }

    #[test]
    fn everything_queued_shares_one_sync_and_reads_see_it() {
        let Log { engine, worker, mut events, _directory } = log();
        let (sender, queue) = channel();
        let read = LogRead { peer: crate::ids::MemberId(2), from: Index(2), max_bytes: 1024 };
        sender.send(LogWork::Load(read)).unwrap();
        for n in 1..=3 {
            sender.send(LogWork::Persist(ready(n))).unwrap();
        }
        drop(sender);
        let before = engine.syncs();
        let facts = Arc::clone(&worker.facts);
        worker.run(&queue);
        assert_eq!(engine.syncs(), before + 1);
        let Some(Event::Input(Input::Persisted(persisted))) = events.try_next() else {
            panic!("nothing was persisted")
        };
        assert_eq!((persisted.seq, persisted.last.index), (WriteSeq(3), Index(3)));
        let Some(Event::Input(Input::Loaded { entries, .. })) = events.try_next() else { panic!("nothing was loaded") };
        assert_eq!(entries.len(), 2);
        assert!(events.try_next().is_none());
        assert_eq!((facts.syncs.lock().unwrap().len(), facts.log_syncs.count()), (1, 1));
        assert!(facts.free_bytes() > 0);
        assert!(facts.silence() >= LONG_AGO, "the other worker is silent");
        facts.turn(&facts.state_turn_ms);
        assert!(facts.silence() < LONG_AGO);
    }

    fn state_worker(engine: &MemoryEngine, path: &Path, facts: &Arc<DiskFacts>, mailbox: Mailbox) -> StateWorker {
        let members = vec![InitialMember { id: MemberId(1), name: "n1".into(), peer_urls: vec![] }];
        let expected = Expected { cluster: ClusterId(1), member: MemberId(1), members };
        let directory = Directory::open(path, Some(&expected), DiskId(1)).unwrap();
        let staging = directory.staging(Options::new(1 << 20));
        StateWorker { engine: Arc::new(engine.clone()), staging, facts: Arc::clone(facts), mailbox }
    }

    #[test]
    fn a_state_is_staged_and_adopted_between_the_writes() {
        let engine = MemoryEngine::new();
        let (mailbox, mut events) = mailbox();
        let (sender, queue) = channel();
        let key = Key::AckedMark.encode();
        let stage = |id, begin, value: &'static [u8], adopt| {
            let mut ops = Vec::new();
            put_ops(|_| key.clone(), value, &mut ops);
            StateWork::Stage(StageWrite { id, begin, ops, adopt, aside: false })
        };
        sender.send(stage(1, true, b"1", false)).unwrap();
        let write = StateWrite { id: 1, ops: vec![Op::Put(key.clone(), Bytes::from_static(b"x"))], sync: false };
        sender.send(StateWork::Write(write)).unwrap();
        sender.send(stage(2, false, b"2", true)).unwrap();
        drop(sender);
        let path = tempfile::tempdir().unwrap();
        state_worker(&engine, path.path(), &Arc::new(silent()), mailbox).run(&queue).unwrap();
        let told: Vec<String> = std::iter::from_fn(|| events.try_next()).map(|event| format!("{event:?}")).collect();
        assert_eq!(told, ["Input(Staged { id: 1 })", "Input(Staged { id: 2 })", "Input(StateWritten { id: 1 })"]);
        assert_eq!(engine.get(&key).unwrap().as_deref(), Some(&b"x"[..]));
        let options = Options::new(1 << 20);
        let state = Directory::open(path.path(), None, DiskId(1)).unwrap().databases(options, options).unwrap().state;
        assert_eq!(
            get_value(&*state, |_| key.clone()).unwrap().as_deref(),
            Some(&b"2"[..]),
            "the next opening finds it"
        );
    }

    #[test]
    fn a_record_that_cannot_be_read_is_sent_to_nobody() {
        let engine = MemoryEngine::new();
        let (mailbox, mut events) = mailbox();
        let (sender, queue) = channel();
        let mut ops = Vec::new();
        put_ops(|chunk| Family::Record.key(Index(1), chunk).encode(), b"no record", &mut ops);
        sender.send(StateWork::Write(StateWrite { id: 1, ops, sync: false })).unwrap();
        let read = RecordsRead { asker: MemberId(2), context: 1, from: Index(1), below: Index(9), max_bytes: 1000 };
        sender.send(StateWork::Read(read)).unwrap();
        let path = tempfile::tempdir().unwrap();
        let fault = state_worker(&engine, path.path(), &Arc::new(silent()), mailbox).run(&queue).unwrap_err();
        assert!(fault.to_string().contains("record"), "{fault}");
        assert!(events.try_next().is_none());
    }

    #[test]
    fn a_failed_sync_is_told_to_nobody() {
        let Log { engine, mut worker, mut events, _directory } = log();
        engine.fail_syncs_after(0);
        assert!(worker.persist(&mut vec![ready(1)]).is_err());
        assert!(events.try_next().is_none(), "the node would take it for an acknowledgement");
    }

    #[test]
    fn the_state_worker_keeps_the_order_and_speaks_once_for_all() {
        let engine = MemoryEngine::new();
        let (mailbox, mut events) = mailbox();
        let (sender, queue) = channel();
        let put = |value: &'static str| Op::Put(Bytes::from_static(b"k"), Bytes::from_static(value.as_bytes()));
        let writes =
            [(vec![put("1")], false), (vec![Op::Delete(Bytes::from_static(b"k"))], true), (vec![put("3")], false)];
        for (id, (ops, sync)) in (1..).zip(writes) {
            sender.send(StateWork::Write(StateWrite { id, ops, sync })).unwrap();
        }
        drop(sender);
        let facts = Arc::new(silent());
        facts.turn(&facts.log_turn_ms);
        let directory = tempfile::tempdir().unwrap();
        let mut worker = state_worker(&engine, directory.path(), &facts, mailbox);
        worker.run(&queue).unwrap();
        assert!(matches!(events.try_next(), Some(Event::Input(Input::StateWritten { id: 3 }))));
        assert!(matches!(events.try_next(), Some(Event::Input(Input::StateSynced { id: 3 }))));
        assert!(events.try_next().is_none());
        assert_eq!(engine.get(b"k").unwrap().as_deref(), Some(&b"3"[..]));
        assert_eq!(engine.unsynced(), 0, "the last thing it does is a sync");
        assert_eq!(facts.state_syncs.count(), 1, "the last one answers to nobody");
        assert!(facts.silence() < LONG_AGO);
    }
}

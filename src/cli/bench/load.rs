//! The load itself: callers, each one operation at a time, over a few connections.
//!
//! The program shares the machine with the servers it measures more often than not, so it is built to cost little: the
//! generated gRPC client straight on its channel (no retries, no failover), one task per caller, keys and values that are
//! counted references, and as few threads and connections as carry the load. Many callers on one connection cost less than
//! many connections, because their frames leave in one write.
//!
//! Every operation that *starts* in the measured time counts, whenever its answer comes; an answer that hasn't come
//! [`GRACE`] after the end is reported as unfinished.

use super::keys::Keys;
use super::pace::Pace;
use super::record::Recorder;
use super::work::{Caller, Work};
use crate::clock;
use crate::rng::{Rng, Seed, mix};
use crate::time::Duration;
use bytes::Bytes;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// How long answers may take after the end.
const GRACE: Duration = Duration::from_secs(5);
/// How long a caller rests after a failure, so that a server that is down is not asked a million times a second.
const REST: Duration = Duration::from_millis(10);
/// How often the watcher is told how far the load is.
const TICK: Duration = Duration::from_millis(100);

/// How much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many operations after the warm-up.
    Total(u64),
    /// So long after the warm-up.
    For(Duration),
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Concurrent callers, dealt to the channels in turn.
    pub callers: usize,
    /// The connections.
    pub channels: Vec<Channel>,
    /// What each of them does.
    pub work: Work,
    /// What is read and written.
    pub keys: Keys,
    /// Keys in order instead of at random.
    pub sequential: bool,
    /// The value of every put.
    pub value: Bytes,
    /// When it ends.
    pub limit: Limit,
    /// Load before the measurement begins.
    pub warmup: Duration,
    /// Operations per second (open loop); as many as the callers manage otherwise.
    pub rate: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// All operations of the measured time.
    pub recorder: Recorder,
    /// From the start of the measurement to the last answer.
    pub elapsed: Duration,
    /// Operations that had no answer at the end.
    pub unfinished: u64,
    /// It was stopped before its time.
    pub interrupted: bool,
}

/// How far the load is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Operations done in the measured time.
    pub done: u64,
    /// The measured time so far.
    pub elapsed: Duration,
}

struct Shared {
    plan: Plan,
    pace: Option<Pace>,
    /// When the measurement begins; the warm-up comes before.
    origin: Instant,
    start: Instant,
    stop: AtomicBool,
    /// Operations handed out, of those that are counted.
    tickets: AtomicU64,
    /// The next key, when keys go in order.
    sequence: AtomicU64,
    in_flight: AtomicU64,
    /// Successes so far, for the progress.
    done: AtomicU64,
    shards: Vec<Mutex<Recorder>>,
}

/// Runs the plan until its limit or until `interrupt` ends; tells `watch` how far it is.
pub async fn run(plan: Plan, interrupt: impl Future<Output = ()>, mut watch: impl FnMut(Progress)) -> Measured {
    let now = clock::instant();
    let shards = plan.channels.len().clamp(1, 16);
    let shared = Arc::new(Shared {
        pace: plan.rate.map(|rate| Pace::new(rate, plan.callers as u64)),
        origin: now + plan.warmup,
        start: now,
        stop: AtomicBool::new(false),
        tickets: AtomicU64::new(0),
        sequence: AtomicU64::new(0),
        in_flight: AtomicU64::new(0),
        done: AtomicU64::new(0),
        shards: (0..shards).map(|_| Mutex::new(Recorder::new())).collect(),
        plan,
    });
    let mut callers: JoinSet<()> = (0..shared.plan.callers).map(|n| caller(Arc::clone(&shared), n)).collect();
    let end = match shared.plan.limit {
        Limit::For(time) => shared.origin.checked_add(time).map(|end| end + GRACE),
        Limit::Total(_) => None,
    };
    let interrupted = drive(&shared, &mut callers, end, interrupt, &mut watch).await;
    shared.stop.store(true, Ordering::Relaxed);
    if interrupted {
        let _ = tokio::time::timeout(GRACE, finished(&mut callers, &shared)).await;
    }
    let unfinished = shared.in_flight.load(Ordering::Relaxed);
    callers.shutdown().await;
    let mut recorder = Recorder::new();
    for shard in &shared.shards {
        recorder.merge(&lock(shard));
    }
    Measured { elapsed: recorder.last(), recorder, unfinished, interrupted }
}

/// Waits for the callers to end, for `end`, or for the interrupt; true if it was the interrupt.
async fn drive(
    shared: &Shared,
    callers: &mut JoinSet<()>,
    end: Option<Instant>,
    interrupt: impl Future<Output = ()>,
    watch: &mut impl FnMut(Progress),
) -> bool {
    let mut tick = tokio::time::interval(TICK);
    let over = async {
        match end {
            Some(end) => tokio::time::sleep_until(end.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(interrupt, over);
    loop {
        tokio::select! {
            joined = callers.join_next() => if joined.is_none() { return false },
            () = &mut interrupt => return true,
            () = &mut over => return false,
            _ = tick.tick() => {
                let elapsed = clock::instant().saturating_duration_since(shared.origin);
                watch(Progress { done: shared.done.load(Ordering::Relaxed), elapsed });
            }
        }
    }
}

/// Waits until no operation is in flight: callers that merely sleep until their next slot are not waited for.
async fn finished(callers: &mut JoinSet<()>, shared: &Shared) {
    while shared.in_flight.load(Ordering::Relaxed) > 0 && !callers.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn caller(shared: Arc<Shared>, number: usize) {
    let plan = &shared.plan;
    let channel = plan.channels[number % plan.channels.len()].clone();
    let mut caller = Caller::new(plan.work, channel, number as u64);
    let mut dice = Rng::new(Seed(mix(number as u64)));
    let mut turn = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(due) = next_slot(&shared, number, turn).await else { return };
        turn += 1;
        let counts = due >= shared.origin;
        if counts && !take_ticket(&shared, due) {
            return;
        }
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        let key = if plan.sequential { shared.sequence.fetch_add(1, Ordering::Relaxed) } else { dice.next_u64() };
        let (kind, result) = caller.operate(&plan.keys, key, &plan.value, &mut dice).await;
        shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        if counts {
            let now = clock::instant();
            let at = now.saturating_duration_since(shared.origin);
            let mut recorder = lock(&shared.shards[number % shared.shards.len()]);
            match &result {
                Ok(()) => recorder.done(kind, now.saturating_duration_since(due), at),
                Err(status) => recorder.failed(status, at),
            }
            shared.done.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
        }
        if result.is_err() {
            tokio::time::sleep(REST).await;
        }
    }
}

/// The moment from which the caller's next operation counts, waited for if it lies ahead; `None` at the end.
async fn next_slot(shared: &Shared, number: usize, turn: u64) -> Option<Instant> {
    let now = clock::instant();
    let Some(pace) = shared.pace else { return Some(now) };
    let due = shared.start.checked_add(pace.due(number as u64, turn))?;
    if let Limit::For(time) = shared.plan.limit
        && due.saturating_duration_since(shared.origin) >= time
    {
        return None;
    }
    if due <= now {
        return Some(due);
    }
    tokio::time::sleep_until(due.into()).await;
    Some(clock::instant())
}

fn take_ticket(shared: &Shared, due: Instant) -> bool {
    match shared.plan.limit {
        Limit::Total(total) => shared.tickets.fetch_add(1, Ordering::Relaxed) < total,
        // An open loop that has fallen behind stops at the end as well: what it owes is in the rate it reports.
        Limit::For(time) => due.max(clock::instant()).saturating_duration_since(shared.origin) < time,
    }
}

/// A caller that panicked while it recorded leaves whole counts behind: there is nothing to poison.
fn lock(shard: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

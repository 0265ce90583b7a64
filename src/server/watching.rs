//! The hub's thread: what makes the watchers' queues fill.
//!
//! One thread owns the [`Hub`]. It sleeps until somebody rings: the node's thread, when a turn has moved the store's revision
//! (once a turn at most, and only if anybody watches); a stream, when its client wants something, has made room in a full
//! queue, or is gone; or until progress is due. Streams take answers from their queues themselves ([`Watched::poll`]).
//!
//! [`Watching::changed`] is for those in this process who wait for something to happen in a range of keys.
//!
//! # Invariants
//!
//! 1. The hub is touched by this thread only.
//! 2. A stream passes on at most [`MAX_REQUESTS`] requests at once, and none while its queue is full: what its client asks for
//!    without taking answers does not pile up.
//! 3. A stream that is dropped is closed.
//!
//! Absent: gRPC (`api/watch.rs`), and what a watcher is told (the hub's).

use crate::clock::Clock;
use crate::ids::Revision;
use crate::machine::{self, View};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::rng::Seed;
use crate::time::Time;
use crate::watch::{Answer, Figures, Hub, Limits, Queue, Standing, StreamId, What};
use bytes::Bytes;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::thread::{JoinHandle, Thread};
use tokio::sync::{mpsc, oneshot};

/// Requests of one stream that may be on their way to the hub.
const MAX_REQUESTS: usize = 64;

/// What the thread is asked.
enum Ask {
    Open(StreamId, String, Arc<Queue>),
    Request(StreamId, pb::WatchRequest, Ticket),
    /// A full queue has room again.
    Room(StreamId),
    Close(StreamId),
    Tell(oneshot::Sender<Vec<Standing>>),
    Stop,
}

/// Wakes the thread.
#[derive(Debug, Default)]
struct Bell {
    rung: AtomicBool,
    thread: OnceLock<Thread>,
    /// Open streams: nobody watches without one.
    streams: AtomicUsize,
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// A hand that reaches the hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watching {
    asks: Sender<Ask>,
    bell: Arc<Bell>,
    figures: Arc<Figures>,
    next_stream: Arc<AtomicU64>,
    queue_bytes: usize,
}

/// Starts the thread. It ends after [`Watching::stop`], or when the disk fails it, which it says on `fatal`.
///
/// # Errors
/// The system has no thread to give.
pub fn start(
    view: View,
    limits: Limits,
    seed: Seed,
    clock: Clock,
    fatal: mpsc::UnboundedSender<String>,
) -> std::io::Result<(Watching, JoinHandle<()>)> {
    let (sender, asks) = channel();
    let bell = Arc::new(Bell::default());
    let hub = Hub::new(view, limits, seed);
    let watching = Watching {
        asks: sender,
        bell: Arc::clone(&bell),
        figures: hub.figures(),
        next_stream: Arc::default(),
        queue_bytes: limits.queue_bytes,
    };
    let thread = std::thread::Builder::new().name("watch".into()).spawn(move || {
        let _ = bell.thread.set(std::thread::current());
        if let Err(error) = run(hub, &asks, &bell, clock) {
            let _ = fatal.send(format!("the disk failed a reader: {error:?}"));
        }
    })?;
    Ok((watching, thread))
}

fn run(mut hub: Hub, asks: &Receiver<Ask>, bell: &Bell, clock: Clock) -> Result<(), machine::Error> {
    loop {
        // Whatever happens from here on rings again.
        bell.rung.store(false, Ordering::SeqCst);
        let now = clock.now();
        while let Ok(ask) = asks.try_recv() {
            match ask {
                Ask::Open(id, client, queue) => hub.open(id, client, queue),
                Ask::Request(id, request, ticket) => {
                    hub.request(now, id, request)?;
                    drop(ticket);
                }
                Ask::Room(id) => hub.room(now, id),
                Ask::Close(id) => hub.close(id),
                Ask::Tell(asker) => drop(asker.send(hub.standings(now))),
                Ask::Stop => return Ok(()),
            }
        }
        let busy = hub.turn(now)?;
        if busy || bell.rung.load(Ordering::SeqCst) {
            continue;
        }
        match hub.deadline() {
            Time::NEVER => std::thread::park(),
            deadline => std::thread::park_timeout(deadline.since(clock.now())),
        }
    }
}

impl Watching {
    /// The store's revision has moved.
    pub fn moved(&self) {
        // With the streams' side in `open`: either the hub sees the revision, or this sees the stream.
        fence(Ordering::SeqCst);
        if self.bell.streams.load(Ordering::SeqCst) > 0 {
            self.bell.ring();
        }
    }

    /// Opens a stream for the client at `address`.
    pub fn open(&self, address: String) -> Watched {
        self.bell.streams.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let queue = Arc::new(Queue::new(Arc::clone(&self.figures)));
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed) + 1;
        self.ask(Ask::Open(id, address, Arc::clone(&queue)));
        Watched { id, watching: self.clone(), queue, passing: Arc::default() }
    }

    /// Waits until something has happened to a key of the range (named as in a request) after revision `after`, or may have
    /// happened: look again. Returns at once if it has happened already.
    pub async fn changed(&self, key: Bytes, range_end: Bytes, after: Revision) {
        let mut watched = self.open("this member".to_string());
        let create = pb::WatchCreateRequest { key, range_end, start_revision: after.0 + 1, ..Default::default() };
        watched.pass(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        while let Answer { what: What::Created | What::Progress, .. } = poll_fn(|context| watched.poll(context)).await {
        }
    }

    /// Where all watchers stand; nothing once the thread is gone.
    pub async fn standings(&self) -> Vec<Standing> {
        let (asker, answer) = oneshot::channel();
        self.ask(Ask::Tell(asker));
        answer.await.unwrap_or_default()
    }

    /// What is counted.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.ask(Ask::Stop);
    }

    fn ask(&self, ask: Ask) {
        let _ = self.asks.send(ask);
        self.bell.ring();
    }
}

/// How many requests are on their way.
#[derive(Debug, Default)]
struct Passing(AtomicUsize);

/// A request on its way.
struct Ticket(Arc<Passing>, Arc<Queue>);

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.0.0.fetch_sub(1, Ordering::SeqCst) == MAX_REQUESTS {
            self.1.wake();
        }
    }
}

/// An open stream. Dropped, it is closed.
#[derive(Debug)]
pub struct Watched {
    id: StreamId,
    watching: Watching,
    queue: Arc<Queue>,
    passing: Arc<Passing>,
}

impl Watched {
    /// Whether a request may be passed on now. If not, whoever polls is woken when it may.
    pub fn may_pass(&self) -> bool {
        self.passing.0.load(Ordering::SeqCst) < MAX_REQUESTS && self.queue.bytes() < self.watching.queue_bytes
    }

    /// Passes a request on.
    pub fn pass(&mut self, request: pb::WatchRequest) {
        self.passing.0.fetch_add(1, Ordering::SeqCst);
        let ticket = Ticket(Arc::clone(&self.passing), Arc::clone(&self.queue));
        self.watching.ask(Ask::Request(self.id, request, ticket));
    }

    /// The next answer.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Answer> {
        self.queue.poll_take(context).map(|(answer, room)| {
            if room {
                self.watching.ask(Ask::Room(self.id));
            }
            answer
        })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watching.bell.streams.fetch_sub(1, Ordering::SeqCst);
        self.watching.ask(Ask::Close(self.id));
    }
}

//! How the node's thread is reached: one queue in, and a bell.
//!
//! Everything that may land here is an [`Event`]. The thread takes all that is there at once, so whoever comes while it is
//! awake costs it nothing more: only a thread that sleeps is woken. To wake it is dear, two changes of context and more where
//! the other core has to be told, so callers gather first. The caller that finds the thread asleep takes the *bell*, lets
//! every task that is ready now run, again as long as that brings more, and rings then: the requests that came with one packet
//! wake the thread once, and under load those that come with the next ones too.
//!
//! # Invariants
//!
//! 1. An event that was put in is taken, or the receiver is gone: whoever puts one in before a sleeping thread wakes it, holds
//!    the bell, or knows that somebody holds it who has not rung yet.
//! 2. The bell is rung by whoever took it, also if its task is dropped in between.
//! 3. Events are taken in the order in which they were put in.
//! 4. After the receiver is gone nothing is kept: what waited is dropped, and with it the callers' hands.
//!
//! May not know: what events mean. Absent: a bound (requests are counted at the door, peers' messages by their streams).

use super::transport::Link;
use crate::ids::MemberId;
use crate::node::{Input, Refused, Reply, Request, Slot, Status, Uncertain};
use crate::time::Duration;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Turns of the runtime that whoever holds the bell waits for at most.
const GATHERING_TURNS: u32 = 16;

/// What can land in the mailbox.
#[derive(Debug)]
pub enum Event {
    /// For the node.
    Input(Input),
    /// A caller's request, with where to answer.
    Call(Slot, Request, oneshot::Sender<Reply>),
    /// Tell the node's status as it is now.
    Tell(oneshot::Sender<Status>),
    /// A connection to a peer is ready for messages; the older one, if any, is not used any more.
    Linked(MemberId, Link),
    /// Finish with this turn.
    Stop,
}

/// Requests of clients that may wait at once. Above it they are refused at the door, so that a flood costs no memory.
const MAX_CALLS: usize = 16 * 1024;

/// A hand that reaches the node's thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailbox {
    shared: Arc<Shared>,
}

/// Where what was put in comes out.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    /// Taken from the queue already.
    taken: VecDeque<Event>,
}

#[derive(Debug, Default)]
struct Shared {
    next_slot: AtomicU64,
    calls: AtomicUsize,
    queue: Mutex<Queue>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    /// The receiver waits for `woken`, and nobody has woken it yet.
    asleep: bool,
    /// Somebody is about to wake it.
    bell: bool,
    /// The receiver is gone.
    closed: bool,
}

/// A mailbox and what comes out of it.
pub fn mailbox() -> (Mailbox, Receiver) {
    let shared = Arc::<Shared>::default();
    (Mailbox { shared: Arc::clone(&shared) }, Receiver { shared, taken: VecDeque::new() })
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the receiver if it sleeps. After the lock is released: else it would wake up to wait for it.
    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        let asleep = std::mem::take(&mut queue.asleep);
        drop(queue);
        if asleep {
            self.woken.notify_one();
        }
    }
}

/// The duty to wake the receiver, carried out when it is dropped.
struct Bell<'a>(&'a Shared);

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.bell = false;
        if !queue.events.is_empty() {
            self.0.wake(queue);
        }
    }
}

/// A request that waits. Dropped before the answer came, it cancels.
struct Waiting<'a> {
    mailbox: &'a Mailbox,
    slot: Slot,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.mailbox.shared.calls.fetch_sub(1, Ordering::Relaxed);
        if !self.answered {
            self.mailbox.post(Event::Input(Input::Cancel(self.slot)));
        }
    }
}

impl Mailbox {
    /// Puts an event in. After the thread has ended it goes nowhere.
    pub fn post(&self, event: Event) {
        let mut queue = self.shared.queue();
        if !queue.closed {
            queue.events.push_back(event);
            self.shared.wake(queue);
        }
    }

    /// Puts an event in that may wait for the bell; who is given it holds it. `None`: the thread has ended.
    fn put(&self, event: Event) -> Option<Option<Bell<'_>>> {
        let mut queue = self.shared.queue();
        if queue.closed {
            return None;
        }
        queue.events.push_back(event);
        let mine = queue.asleep && !queue.bell;
        queue.bell |= mine;
        Some(mine.then(|| Bell(&self.shared)))
    }

    /// Lets the tasks that are ready run, again and again as long as that brings more events.
    async fn gather(&self) {
        let there = || self.shared.queue().events.len();
        let mut before = there();
        for _ in 0..GATHERING_TURNS {
            tokio::task::yield_now().await;
            let now = there();
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// Asks the node and waits for its one answer, which comes within the node's request timeout.
    pub async fn ask(&self, request: Request) -> Reply {
        let proposes = matches!(request, Request::Propose { .. } | Request::Change(_));
        let calls = self.shared.calls.fetch_add(1, Ordering::Relaxed);
        let slot = Slot(self.shared.next_slot.fetch_add(1, Ordering::Relaxed));
        let mut waiting = Waiting { mailbox: self, slot, answered: true };
        if calls >= MAX_CALLS {
            return Reply::Refused(Refused::Busy);
        }
        let (sender, answer) = oneshot::channel();
        let Some(bell) = self.put(Event::Call(slot, request, sender)) else {
            return Reply::Refused(Refused::Stopping);
        };
        waiting.answered = false;
        if let Some(bell) = bell {
            self.gather().await;
            drop(bell);
        }
        let reply = answer.await;
        waiting.answered = true;
        // The thread ended with the request in its hands: what it had proposed may yet be committed.
        let gone = if proposes { Reply::Uncertain(Uncertain::LeaderLost) } else { Reply::Refused(Refused::Stopping) };
        reply.unwrap_or(gone)
    }

    /// The node's status as it is now; `None` once the node has stopped.
    pub async fn status(&self) -> Option<Status> {
        let (sender, answer) = oneshot::channel();
        self.post(Event::Tell(sender));
        answer.await.ok()
    }
}

impl Receiver {
    /// The next event, if one is there.
    pub fn try_next(&mut self) -> Option<Event> {
        self.next_within(Duration::ZERO)
    }

    /// The next event, if one is there or comes within `patience`.
    pub fn next_within(&mut self, patience: Duration) -> Option<Event> {
        if self.taken.is_empty() {
            let mut queue = self.shared.queue();
            if queue.events.is_empty() && !patience.is_zero() {
                queue.asleep = true;
                let nothing = |queue: &mut Queue| queue.asleep;
                let waited = self.shared.woken.wait_timeout_while(queue, patience, nothing);
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                queue.asleep = false;
            }
            std::mem::swap(&mut self.taken, &mut queue.events);
        }
        self.taken.pop_front()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        let left = std::mem::take(&mut queue.events);
        // What an event holds may post when it goes.
        drop(queue);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Stages;
    use std::collections::BTreeSet;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn a_caller_that_leaves_cancels_its_request() {
        let (mailbox, mut events) = mailbox();
        runtime().block_on(async {
            let ask = mailbox.ask(Request::Read);
            tokio::select! {
                biased;
                reply = ask => panic!("nobody can have answered: {reply:?}"),
                () = std::future::ready(()) => {}
            }
        });
        let Some(Event::Call(slot, Request::Read, _)) = events.try_next() else { panic!("no call arrived") };
        let Some(Event::Input(Input::Cancel(cancelled))) = events.try_next() else { panic!("no cancel arrived") };
        assert_eq!(slot, cancelled);
        assert_eq!(mailbox.shared.calls.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_answered_caller_cancels_nothing_and_slots_differ() {
        let (mailbox, mut events) = mailbox();
        let node = std::thread::spawn(move || {
            let mut slots = Vec::new();
            while let Some(Event::Call(slot, _, caller)) = events.next_within(Duration::MAX) {
                slots.push(slot);
                let readable = Reply::Readable { term: crate::ids::Term(3), stages: Stages::default() };
                caller.send(readable).unwrap();
            }
            slots
        });
        runtime().block_on(async {
            for _ in 0..3 {
                assert!(matches!(mailbox.ask(Request::Read).await, Reply::Readable { .. }));
            }
        });
        mailbox.post(Event::Stop);
        let slots: BTreeSet<Slot> = node.join().unwrap().into_iter().collect();
        assert_eq!(slots.len(), 3);
    }

    #[test]
    fn once_the_node_is_gone_a_write_in_its_hands_is_uncertain_and_a_new_one_is_refused() {
        let (mailbox, events) = mailbox();
        let propose = || Request::Propose { command: bytes::Bytes::new(), grows: false };
        runtime().block_on(async {
            let reply = tokio::join!(mailbox.ask(propose()), async { drop(events) }).0;
            assert!(matches!(reply, Reply::Uncertain(Uncertain::LeaderLost)), "{reply:?}");
            let reply = mailbox.ask(propose()).await;
            assert!(matches!(reply, Reply::Refused(Refused::Stopping)), "{reply:?}");
            assert!(mailbox.status().await.is_none());
        });
    }

    #[test]
    fn a_flood_is_refused_at_the_door() {
        let (mailbox, mut events) = mailbox();
        mailbox.shared.calls.store(MAX_CALLS, Ordering::Relaxed);
        let reply = runtime().block_on(mailbox.ask(Request::Read));
        assert!(matches!(reply, Reply::Refused(Refused::Busy)), "{reply:?}");
        assert!(events.try_next().is_none(), "the node hears nothing of it");
    }

    /// Waits until the receiver sleeps.
    fn until_asleep(mailbox: &Mailbox) {
        while !mailbox.shared.queue().asleep {
            std::thread::yield_now();
        }
    }

    #[test]
    fn callers_that_come_together_wake_the_thread_once() {
        let (mailbox, mut events) = mailbox();
        std::thread::scope(|scope| {
            let node = scope.spawn(move || {
                for _ in 0..20 {
                    let Some(Event::Call(_, _, caller)) = events.next_within(Duration::MAX) else { panic!("no call") };
                    caller.send(Reply::Refused(Refused::Busy)).unwrap();
                }
            });
            until_asleep(&mailbox);
            let asks = futures_util::future::join_all((0..19).map(|_| mailbox.ask(Request::Read)));
            let gathered = || {
                let queue = mailbox.shared.queue();
                (queue.events.len(), queue.asleep)
            };
            runtime().block_on(async {
                let later = async {
                    assert_eq!(gathered(), (19, true));
                    tokio::task::yield_now().await;
                    let asks = mailbox.ask(Request::Read);
                    let gathered = async { assert_eq!(gathered(), (20, true)) };
                    tokio::join!(asks, gathered)
                };
                futures_util::future::join(asks, later).await
            });
            node.join().unwrap();
        });
    }

    #[test]
    fn who_leaves_with_the_bell_rings_it() {
        let (mailbox, mut events) = mailbox();
        std::thread::scope(|scope| {
            let node = scope.spawn(move || {
                let first = events.next_within(Duration::MAX);
                (matches!(first, Some(Event::Call(..))), matches!(events.next_within(Duration::MAX), Some(Event::Stop)))
            });
            until_asleep(&mailbox);
            let bell = mailbox.put(Event::Call(Slot(1), Request::Read, oneshot::channel().0)).unwrap();
            assert!(mailbox.shared.queue().asleep, "it sleeps until the bell rings");
            let other = mailbox.put(Event::Stop).unwrap();
            assert!(other.is_none(), "there is one bell");
            drop(bell);
            assert_eq!(node.join().unwrap(), (true, true));
        });
    }

    #[test]
    fn what_an_awake_thread_will_see_needs_no_bell() {
        let (mailbox, mut events) = mailbox();
        assert!(mailbox.put(Event::Stop).unwrap().is_none());
        assert!(matches!(events.next_within(Duration::MAX), Some(Event::Stop)));
    }
}

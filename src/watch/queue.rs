//! Answers on their way from the hub to one stream's client.
//!
//! The hub puts answers in, whole turns at a time; the stream takes them out one by one as its client has room for them. The
//! queue knows how many bytes wait in it. It refuses nothing itself: the hub looks before it makes an answer, and asks to be
//! told once a full queue has room again.
//!
//! Invariants: answers leave in the order in which they came. Bytes count from the moment they are put in until they are taken
//! out; event bytes that several queues share count in each of them.

use super::hub::Figures;
use crate::ids::Revision;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Counted for each answer beside its events.
const ANSWER_BYTES: usize = 64;

/// What is told to a stream's client.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Whom it is about; -1 is all watchers of the stream, or one that was not made.
    pub watch_id: i64,
    /// The revision in its header.
    pub revision: Revision,
    /// What is told.
    pub what: What,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The watcher was made.
    Created,
    /// The watcher was not made; why, in etcd's words.
    Refused(&'static str),
    /// Something happened.
    Events {
        /// The events, encoded: each with the tag of the field `events` of etcd's answer before it.
        encoded: Bytes,
        /// How many there are.
        count: u32,
        /// The last revision in them goes on in the next answer.
        fragment: bool,
    },
    /// Everything up to the header's revision has been told.
    Progress,
    /// The watcher ended, as its client asked.
    Cancelled,
    /// The watcher ended, because what it would have been told next was compacted away. Carries the oldest revision that
    /// is readable.
    Compacted(Revision),
}

impl Answer {
    /// About what it takes in memory.
    pub fn size(&self) -> usize {
        match &self.what {
            What::Events { encoded, .. } => ANSWER_BYTES + encoded.len(),
            _ => ANSWER_BYTES,
        }
    }

    fn events(&self) -> u64 {
        match self.what {
            What::Events { count, .. } => u64::from(count),
            _ => 0,
        }
    }
}

/// One stream's queue.
#[derive(Debug)]
pub struct Queue {
    inside: Mutex<Inside>,
    figures: Arc<Figures>,
}

#[derive(Debug, Default)]
struct Inside {
    answers: VecDeque<Answer>,
    bytes: usize,
    /// The hub wants to be told when there are no more bytes than this.
    room: Option<usize>,
    waker: Option<Waker>,
}

impl Queue {
    /// An empty one; what waits in it is added to `figures`.
    pub fn new(figures: Arc<Figures>) -> Queue {
        Queue { inside: Mutex::default(), figures }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Adds answers and wakes who waits for them; `answers` is empty afterwards.
    pub fn put(&self, answers: &mut Vec<Answer>) {
        let mut inside = self.lock();
        for answer in answers.drain(..) {
            inside.bytes += answer.size();
            self.figures.pending_events.fetch_add(answer.events(), Ordering::Relaxed);
            inside.answers.push_back(answer);
        }
        let waker = inside.waker.take();
        drop(inside);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Whether `low` bytes or fewer wait. If not, [`Queue::take`] will say so once they do.
    pub fn has_room(&self, low: usize) -> bool {
        let mut inside = self.lock();
        let has_room = inside.bytes <= low;
        inside.room = if has_room { None } else { Some(low) };
        has_room
    }

    /// Wakes who waits for answers, though there may be none.
    pub fn wake(&self) {
        let waker = self.lock().waker.take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// The next answer, if there is one, and whether the hub is to be told that there is room again.
    pub fn take(&self) -> Option<(Answer, bool)> {
        self.lock().take(&self.figures)
    }

    /// As [`Queue::take`]; without an answer, the task is woken when there is one.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<(Answer, bool)> {
        let mut inside = self.lock();
        match inside.take(&self.figures) {
            Some(taken) => Poll::Ready(taken),
            None => {
                inside.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        while self.take().is_some() {}
    }
}

impl Inside {
    fn take(&mut self, figures: &Figures) -> Option<(Answer, bool)> {
        let answer = self.answers.pop_front()?;
        self.bytes -= answer.size();
        figures.pending_events.fetch_sub(answer.events(), Ordering::Relaxed);
        if self.answers.is_empty() {
            // A burst must not be remembered by its memory.
            self.answers.shrink_to(16);
        }
        let room = self.room.take_if(|low| self.bytes <= *low).is_some();
        Some((answer, room))
    }
}

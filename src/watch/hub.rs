//! The hub: who watches what on this member, and who has heard how much.
//!
//! # Where a watcher stands
//!
//! A watcher is a cursor over the history: its *next* revision is the first that it has not been told of.
//!
//! - It **follows** if that is the hub's own next revision. All followers are told from one read ([`Hub::turn`]).
//! - It **lags** if it is behind: it started in the past, or its client was too slow. It is told from the history, a slice at a
//!   time, in turn with others that lag, and follows again once it has caught up. Those that stand at the same revision share a
//!   read, and stay together from then on.
//! - It is **blocked** if it lags and its stream's queue is full: it costs nothing until the client has taken something.
//! - It **waits** if it asked for a revision that is still to come.
//!
//! So a watcher that can't be told now is not told; what it has missed is in the history. Nothing is kept for it but its next
//! revision, whatever its client does, and nobody else waits for it.
//!
//! # Invariants
//!
//! 1. What a watcher is told is every event it wants, from its start on, in the order of revisions, none twice; or that, and
//!    in the end one cancel that names the compacted revision, because what came next is gone.
//! 2. A revision is told in one answer, unless its client bears fragments.
//! 3. Nobody is ahead of the followers: whoever has caught up to the hub's next revision follows.
//! 4. A progress answer with revision R stands in its queue behind all events up to R of the watchers that it speaks of, and is
//!    made only if they follow.
//! 5. A queue takes no events once it holds [`Limits::queue_bytes`]; one answer may overshoot. The other answers are answers to
//!    requests: who passes requests on must stop while the queue is full.
//!
//! # Compaction
//!
//! Followers read the newest history, which is in memory whatever was compacted: who kept up is never cancelled. Who lags reads
//! below the mark like any reader, and is cancelled there.
//!
//! Absent: time, threads, sockets, and any limit on how many watchers there are (each costs some hundred bytes; etcd has no
//! limit either).

use super::interest::{End, Index, Interest};
use super::queue::{Answer, Queue, What};
use crate::ids::Revision;
use crate::machine::{self, View};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::rng::{Rng, Seed};
use crate::time::{Duration, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The watch id of an answer that speaks of no watcher.
const NO_WATCHER: i64 = -1;

/// How much is held and told at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A stream's queue takes no events beyond this, in bytes.
    pub queue_bytes: usize,
    /// History that is read at once, in bytes; a single revision may be more.
    pub slice_bytes: usize,
    /// Answers to clients that bear fragments are no larger, in bytes, if the events allow.
    pub fragment_bytes: usize,
    /// How long a watcher that asked for it goes without an answer; up to a tenth is added by chance.
    pub progress_interval: Duration,
}

impl Default for Limits {
    /// As a member has them; the fragment size and the interval are etcd's.
    fn default() -> Limits {
        Limits {
            queue_bytes: 256 * 1024,
            slice_bytes: 128 * 1024,
            fragment_bytes: 2 * 1024 * 1024,
            progress_interval: Duration::from_secs(600),
        }
    }
}

/// Slices of history that those who lag are told in one turn.
pub(super) const SLICES_PER_TURN: usize = 8;

/// A stream, by number; it is not used again.
pub type StreamId = u64;

/// A watcher of this hub.
pub(super) type Name = (StreamId, i64);

/// What is counted, for whoever wants to read it at any time.
#[derive(Debug, Default)]
pub struct Figures {
    /// Open streams.
    pub streams: AtomicU64,
    /// Watchers.
    pub watchers: AtomicU64,
    /// Watchers that lag.
    pub slow: AtomicU64,
    /// Events that were put into queues, ever.
    pub events: AtomicU64,
    /// Events that wait in queues.
    pub pending_events: AtomicU64,
    /// Since when the one that lags longest lags ([`Time`]'s number); 0 if none does.
    pub behind_since: AtomicU64,
}

/// Where a watcher stands, as told to people.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Its stream.
    pub stream: StreamId,
    /// Who is at the other end.
    pub client: String,
    /// Its number on the stream.
    pub watch_id: i64,
    /// The first key that it watches.
    pub key: Bytes,
    /// The end of the range, as in a request.
    pub range_end: Bytes,
    /// The first revision that it has not been told of.
    pub next: Revision,
    /// Whether it follows.
    pub following: bool,
    /// How many revisions it is behind.
    pub lag: u64,
    /// For how long it has been behind.
    pub lag_time: Duration,
    /// Bytes that wait for the stream's client.
    pub queued_bytes: usize,
    /// Events that were put into its queue.
    pub delivered: u64,
}

/// Where a watcher stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Following,
    /// For this revision.
    Waiting(i64),
    /// At this revision.
    Lagging(i64),
    /// At this revision, and its queue is full.
    Blocked(i64),
}

#[derive(Debug)]
pub(super) struct Watcher {
    /// By number, in [`Interests`].
    pub interest: u64,
    pub place: Place,
    /// The revision that it asked for; 0: from now on.
    start: i64,
    /// Since when it lags.
    pub since: Time,
    /// It asked for progress answers.
    progress: bool,
    /// It was told something since the last tick.
    pub told: bool,
    pub delivered: u64,
}

impl Watcher {
    /// Whether everything below `next` is something that it asked for, and was told. A watcher that asked for `next` itself
    /// would be told of progress in what it did not want to hear of.
    fn progresses(&self, next: i64) -> bool {
        self.place == Place::Following && self.start < next
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    client: String,
    pub queue: Arc<Queue>,
    pub watchers: BTreeMap<i64, Watcher>,
    /// The next number that the stream picks itself.
    next_id: i64,
    /// Made in this turn, not in the queue yet.
    outbox: Vec<Answer>,
    /// Bytes in the queue at first sight in this turn, and in the outbox.
    level: Option<usize>,
    pub blocked: BTreeSet<i64>,
    /// When progress is told next.
    tick: Option<Time>,
}

impl Stream {
    /// Bytes that wait for the client, those of this turn included.
    pub fn level(&mut self) -> usize {
        *self.level.get_or_insert_with(|| self.queue.bytes())
    }

    pub fn say(&mut self, answer: Answer) {
        let level = self.level() + answer.size();
        self.level = Some(level);
        self.outbox.push(answer);
    }
}

/// What watchers want, each wish once.
#[derive(Debug, Default)]
pub(super) struct Interests {
    numbers: BTreeMap<Interest, u64>,
    shared: BTreeMap<u64, Shared>,
    next: u64,
    /// Those that followers have.
    pub followed: Index,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub interest: Interest,
    watchers: usize,
    pub followers: BTreeSet<Name>,
}

impl Interests {
    fn enter(&mut self, interest: Interest) -> u64 {
        let number = *self.numbers.entry(interest).or_insert_with_key(|interest| {
            self.next += 1;
            let shared = Shared { interest: interest.clone(), watchers: 0, followers: BTreeSet::new() };
            self.shared.insert(self.next, shared);
            self.next
        });
        self.get_mut(number).watchers += 1;
        number
    }

    fn leave(&mut self, number: u64) {
        let shared = self.get_mut(number);
        shared.watchers -= 1;
        if shared.watchers == 0 {
            assert!(shared.followers.is_empty(), "an interest without watchers has followers: {shared:?}");
            let interest = shared.interest.clone();
            self.shared.remove(&number);
            self.numbers.remove(&interest);
        }
    }

    pub fn get(&self, number: u64) -> &Shared {
        self.shared.get(&number).unwrap_or_else(|| unreachable!("interest {number} is somebody's"))
    }

    fn get_mut(&mut self, number: u64) -> &mut Shared {
        self.shared.get_mut(&number).unwrap_or_else(|| unreachable!("interest {number} is somebody's"))
    }

    pub fn follow(&mut self, number: u64, name: Name) {
        let shared = self.get_mut(number);
        shared.followers.insert(name);
        if shared.followers.len() == 1 {
            let interest = shared.interest.clone();
            self.followed.insert(&interest, number);
        }
    }

    pub fn unfollow(&mut self, number: u64, name: Name) {
        let shared = self.get_mut(number);
        shared.followers.remove(&name);
        if shared.followers.is_empty() {
            let interest = shared.interest.clone();
            self.followed.remove(&interest, number);
        }
    }
}

/// The hub of one member. See the module's essay.
#[derive(Debug)]
pub struct Hub {
    pub(super) view: View,
    pub(super) limits: Limits,
    rng: Rng,
    /// What is below has been told to all who follow.
    pub(super) next: i64,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    pub(super) interests: Interests,
    /// Who lags, by where they stand.
    pub(super) lagging: BTreeMap<i64, BTreeSet<Name>>,
    /// The revisions where somebody lags, in the order in which they are served.
    pub(super) round: VecDeque<i64>,
    pub(super) waiting: BTreeMap<i64, BTreeSet<Name>>,
    /// Who lags or is blocked, the longest first.
    pub(super) behind: BTreeSet<(Time, Name)>,
    ticks: BTreeSet<(Time, StreamId)>,
    /// Streams that have something in their outbox, or were looked at.
    pub(super) touched: BTreeSet<StreamId>,
    figures: Arc<Figures>,
}

impl Hub {
    /// A hub over `view` that nobody uses yet. `seed` spreads the progress answers.
    pub fn new(view: View, limits: Limits, seed: Seed) -> Hub {
        Hub {
            next: view.revision().0 + 1,
            view,
            limits,
            rng: Rng::new(seed),
            streams: BTreeMap::new(),
            interests: Interests::default(),
            lagging: BTreeMap::new(),
            round: VecDeque::new(),
            waiting: BTreeMap::new(),
            behind: BTreeSet::new(),
            ticks: BTreeSet::new(),
            touched: BTreeSet::new(),
            figures: Arc::default(),
        }
    }

    /// The store's revision, here.
    pub fn revision(&self) -> Revision {
        self.view.revision()
    }

    /// What is counted.
    pub fn figures(&self) -> Arc<Figures> {
        Arc::clone(&self.figures)
    }

    /// Opens a stream for the client at address `client`, whose answers go into `queue`.
    ///
    /// # Panics
    /// If there is a stream of that number.
    pub fn open(&mut self, id: StreamId, client: String, queue: Arc<Queue>) {
        let stream = Stream {
            client,
            queue,
            watchers: BTreeMap::new(),
            next_id: 0,
            outbox: Vec::new(),
            level: None,
            blocked: BTreeSet::new(),
            tick: None,
        };
        assert!(self.streams.insert(id, stream).is_none(), "stream {id} is opened twice");
        self.touched.insert(id);
    }

    /// Ends a stream and all its watchers.
    pub fn close(&mut self, id: StreamId) {
        let watchers: Vec<i64> =
            self.streams.get(&id).into_iter().flat_map(|stream| stream.watchers.keys().copied()).collect();
        watchers.into_iter().for_each(|watcher| self.remove((id, watcher)));
        if let Some(Stream { tick: Some(tick), .. }) = self.streams.remove(&id) {
            self.ticks.remove(&(tick, id));
        }
        self.touched.remove(&id);
    }

    /// Does what a stream's client asks for; the answers are in its queue after the turn.
    ///
    /// # Errors
    /// The disk failed.
    pub fn request(&mut self, now: Time, id: StreamId, request: pb::WatchRequest) -> Result<(), machine::Error> {
        if !self.streams.contains_key(&id) {
            return Ok(());
        }
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(now, id, &request),
            Some(RequestUnion::CancelRequest(request)) => {
                let name = (id, request.watch_id);
                if self.streams.get(&id).is_some_and(|stream| stream.watchers.contains_key(&request.watch_id)) {
                    self.remove(name);
                    self.say(id, request.watch_id, self.next - 1, What::Cancelled);
                }
                Ok(())
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.follow_to_now(now)?;
                let next = self.next;
                let stream = self.streams.get(&id);
                if stream.is_some_and(|s| !s.watchers.is_empty() && s.watchers.values().all(|w| w.progresses(next))) {
                    self.say(id, NO_WATCHER, self.next - 1, What::Progress);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn create(&mut self, now: Time, id: StreamId, request: &pb::WatchCreateRequest) -> Result<(), machine::Error> {
        // The header must not tell of a revision older than one that the client has seen here.
        self.follow_to_now(now)?;
        let interest = match interest(request) {
            Ok(interest) => interest,
            Err(why) => {
                self.refuse(id, why);
                return Ok(());
            }
        };
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let watch_id = match request.watch_id {
            0 => {
                while stream.watchers.contains_key(&stream.next_id) {
                    stream.next_id += 1;
                }
                stream.next_id += 1;
                stream.next_id - 1
            }
            taken if stream.watchers.contains_key(&taken) => {
                self.refuse(id, "mvcc: duplicate watch ID provided on the WatchStream");
                return Ok(());
            }
            free => free,
        };
        let watcher = Watcher {
            interest: self.interests.enter(interest),
            place: Place::Following,
            start: request.start_revision,
            since: now,
            progress: request.progress_notify,
            told: true,
            delivered: 0,
        };
        stream.watchers.insert(watch_id, watcher);
        self.figures.watchers.fetch_add(1, Ordering::Relaxed);
        if request.progress_notify && stream.tick.is_none() {
            self.schedule(now, id);
        }
        self.say(id, watch_id, self.next - 1, What::Created);
        let next = if request.start_revision == 0 { self.next } else { request.start_revision };
        self.place((id, watch_id), next, now);
        Ok(())
    }

    fn refuse(&mut self, id: StreamId, why: &'static str) {
        self.say(id, NO_WATCHER, self.next - 1, What::Refused(why));
    }

    /// Puts an answer into a stream's outbox.
    pub(super) fn say(&mut self, id: StreamId, watch_id: i64, revision: i64, what: What) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.say(Answer { watch_id, revision: Revision(revision), what });
            self.touched.insert(id);
        }
    }

    /// Ends a watcher.
    pub(super) fn remove(&mut self, name: Name) {
        self.displace(name);
        let stream = self.streams.get_mut(&name.0);
        let Some(watcher) = stream.and_then(|stream| stream.watchers.remove(&name.1)) else { return };
        self.behind.remove(&(watcher.since, name));
        self.interests.leave(watcher.interest);
        self.figures.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes what was said since the last turn's end go out, and says whom there is room for.
    pub(super) fn flush(&mut self, now: Time) {
        let low = self.limits.queue_bytes / 2;
        for id in std::mem::take(&mut self.touched) {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.level = None;
            if !stream.outbox.is_empty() {
                let events = |answer: &Answer| if let What::Events { count, .. } = answer.what { count } else { 0 };
                let count: u32 = stream.outbox.iter().map(events).sum();
                self.figures.events.fetch_add(u64::from(count), Ordering::Relaxed);
                stream.queue.put(&mut stream.outbox);
            }
            if !stream.blocked.is_empty() && stream.queue.has_room(low) {
                self.unblock(id, now);
            }
        }
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.figures.streams.store(number(self.streams.len()), Ordering::Relaxed);
        self.figures.slow.store(number(self.behind.len()), Ordering::Relaxed);
        let since = self.behind.first().map_or(0, |(since, _)| since.0.max(1));
        self.figures.behind_since.store(since, Ordering::Relaxed);
    }

    /// When progress is due next; [`Time::NEVER`] if nobody wants to hear of it.
    pub fn deadline(&self) -> Time {
        self.ticks.first().map_or(Time::NEVER, |(tick, _)| *tick)
    }

    fn schedule(&mut self, now: Time, id: StreamId) {
        let interval = self.limits.progress_interval;
        let tick = now + self.rng.duration(interval, interval + interval / 10);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.tick = Some(tick);
            self.ticks.insert((tick, id));
        }
    }

    /// Tells progress to those who asked for it, follow, and were told nothing since the last tick.
    pub(super) fn tick(&mut self, now: Time) {
        while let Some((tick, id)) = self.ticks.first().copied().filter(|(tick, _)| *tick <= now) {
            self.ticks.remove(&(tick, id));
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.tick = None;
            let has_room = stream.level() < self.limits.queue_bytes;
            let (mut wanted, mut quiet) = (false, Vec::new());
            for (watch_id, watcher) in stream.watchers.iter_mut().filter(|(_, watcher)| watcher.progress) {
                wanted = true;
                let told = std::mem::take(&mut watcher.told);
                if !told && has_room && watcher.progresses(self.next) {
                    quiet.push(*watch_id);
                }
            }
            self.touched.insert(id);
            quiet.into_iter().for_each(|watch_id| self.say(id, watch_id, self.next - 1, What::Progress));
            if wanted {
                self.schedule(now, id);
            }
        }
    }

    /// Where all watchers stand, by stream and number.
    pub fn standings(&self, now: Time) -> Vec<Standing> {
        let revision = self.view.revision().0;
        let standing = |id: &StreamId, stream: &Stream, watch_id: &i64, watcher: &Watcher| {
            let interest = &self.interests.get(watcher.interest).interest;
            let next = match watcher.place {
                Place::Following => self.next,
                Place::Waiting(next) | Place::Lagging(next) | Place::Blocked(next) => next,
            };
            let lags = matches!(watcher.place, Place::Lagging(_) | Place::Blocked(_));
            Standing {
                stream: *id,
                client: stream.client.clone(),
                watch_id: *watch_id,
                key: interest.key.clone(),
                range_end: interest.range_end(),
                next: Revision(next),
                following: watcher.place == Place::Following,
                lag: u64::try_from(revision + 1 - next).unwrap_or(0),
                lag_time: if lags { now.since(watcher.since) } else { Duration::ZERO },
                queued_bytes: stream.queue.bytes(),
                delivered: watcher.delivered,
            }
        };
        let of_stream = |(id, stream): (&StreamId, &Stream)| -> Vec<Standing> {
            stream.watchers.iter().map(|(watch_id, watcher)| standing(id, stream, watch_id, watcher)).collect()
        };
        self.streams.iter().flat_map(of_stream).collect()
    }
}

/// What a request asks for.
fn interest(request: &pb::WatchCreateRequest) -> Result<Interest, &'static str> {
    // Kept for long: it must not hold on to the frame that it came in.
    let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { Bytes::copy_from_slice(&request.key) };
    let end = match request.range_end.as_ref() {
        [] => End::Key,
        [0] => End::Never,
        end if end <= key.as_ref() => return Err("mvcc: watcher range is empty"),
        end => End::Before(Bytes::copy_from_slice(end)),
    };
    if request.start_revision < 0 {
        return Err("etcdserver: mvcc: required revision has been compacted");
    }
    let drops = |filter: FilterType| request.filters.contains(&filter.into());
    Ok(Interest {
        key,
        end,
        puts: !drops(FilterType::Noput),
        deletes: !drops(FilterType::Nodelete),
        prev_kv: request.prev_kv,
        fragment: request.fragment,
    })
}

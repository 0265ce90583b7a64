//! Watchers: they follow one member until they or it give up, go on where they were on another one, and take what they are
//! told now quickly, now slowly.
//!
//! Each running member has a hub, the production one, over its own view; the hub dies with the member. What a watcher takes
//! from its queue is what it was told: a crash loses the rest. In the end every watcher is on a member of the healed majority,
//! and must have been told everything; what it was told, from first to last, is the judge's ([`crate::check::watch`]).

use super::laws::{Law, Laws, Violation};
use super::plan::Plan;
use crate::check::history::Operation;
use crate::check::watch as judge;
use crate::machine::View;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::mvccpb::KeyValue;
use crate::proto::mvccpb::event::EventType;
use crate::rng::{Rng, Seed};
use crate::time::{Duration, Time};
use crate::watch::{Answer, Hub, Limits, Queue, StreamId, What};
use bytes::Bytes;
use prost::Message as _;
use std::sync::Arc;

/// Small, so that queues are full and slices end.
const LIMITS: Limits =
    Limits { queue_bytes: 900, slice_bytes: 600, fragment_bytes: 400, progress_interval: Duration::from_millis(300) };

/// Whole members are watched by so many.
const WATCHERS: usize = 4;

/// In the end, so often a watcher takes everything and asks for progress before it is taken for stuck.
const ROUNDS: usize = 10_000;

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Watchers {
    rng: Rng,
    /// By member, while it runs.
    hubs: Vec<Option<Hub>>,
    watchers: Vec<Watcher>,
    streams: StreamId,
}

#[derive(Debug)]
struct Watcher {
    told: judge::Watcher,
    /// The first revision that it was not told of; 0: it was told of nothing yet.
    next: i64,
    /// A revision in pieces whose last one is still to come.
    pieces: Vec<judge::Event>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    node: usize,
    stream: StreamId,
    queue: Arc<Queue>,
}

impl Watchers {
    pub(super) fn new(plan: &Plan, has_contents: bool, seed: Seed) -> Watchers {
        let watcher = |number: usize| {
            // Two hear of everything, two of one key, and of deletions every other one.
            let (key, end) = if number < 2 { ("k", Some("l")) } else { ("k0", None) };
            let told = judge::Watcher {
                number: number as u64,
                key: key.to_string(),
                end: end.map(str::to_string),
                deletes: number.is_multiple_of(2),
                streams: Vec::new(),
            };
            Watcher { told, next: 0, pieces: Vec::new(), open: None }
        };
        let count = if has_contents { WATCHERS } else { 0 };
        Watchers {
            rng: Rng::new(seed),
            hubs: (0..plan.places()).map(|_| None).collect(),
            watchers: (0..count).map(watcher).collect(),
            streams: 0,
        }
    }

    /// When each first acts.
    pub(super) fn firsts(&self) -> Vec<Time> {
        (0..self.watchers.len()).map(|number| Time(100_000_000 + 7_000_000 * number as u64)).collect()
    }

    /// A member runs.
    pub(super) fn born(&mut self, node: usize, view: Option<View>) {
        self.hubs[node] = view.map(|view| Hub::new(view, LIMITS, Seed(self.rng.next_u64())));
    }

    /// A member runs no more, and its streams are broken.
    pub(super) fn died(&mut self, node: usize) {
        self.hubs[node] = None;
        for watcher in self.watchers.iter_mut().filter(|w| w.open.as_ref().is_some_and(|open| open.node == node)) {
            (watcher.open, watcher.pieces) = (None, Vec::new());
        }
    }

    /// A member has applied something, or its hub has something to do.
    pub(super) fn turned(&mut self, node: usize, now: Time) {
        // A disk that fails a reader ends the process; here, its hub.
        if self.hubs[node].as_mut().is_some_and(|hub| hub.turn(now).is_err()) {
            self.died(node);
        }
    }

    /// A watcher acts; gives when it does so again. `up` are the members that run and are not stopped.
    /// `mark` is the highest revision that somebody may have compacted at.
    pub(super) fn act(
        &mut self,
        number: usize,
        (now, mark): (Time, i64),
        up: &[bool],
        laws: &Laws,
    ) -> Result<Time, Violation> {
        let again = now + self.rng.duration(Duration::from_millis(2), Duration::from_millis(60));
        match self.watchers[number].open.as_ref().map(|open| open.node) {
            None => {
                let nodes: Vec<usize> = (0..up.len()).filter(|node| up[*node] && self.hubs[*node].is_some()).collect();
                if !nodes.is_empty() {
                    let node = nodes[self.rng.below(nodes.len() as u64) as usize];
                    self.open(number, node, now);
                }
            }
            Some(node) => {
                let chance = self.rng.below(40);
                // A stopped member is silent, and some lose patience.
                if chance == 0 || (!up[node] && chance < 8) {
                    self.give_up(number);
                } else if up[node] {
                    if chance < 4 {
                        self.request(number, now, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
                    }
                    self.turned(node, now);
                    for _ in 0..self.rng.below(6) {
                        self.take(number, (now, mark), laws)?;
                    }
                }
            }
        }
        Ok(again)
    }

    fn open(&mut self, number: usize, node: usize, now: Time) {
        let Some(hub) = &mut self.hubs[node] else { return };
        self.streams += 1;
        let (stream, queue) = (self.streams, Arc::new(Queue::new(hub.figures())));
        hub.open(stream, format!("watcher {number}"), Arc::clone(&queue));
        let fragment = self.watchers[number].fragments();
        let Watcher { told, next, open, .. } = &mut self.watchers[number];
        *open = Some(Open { node, stream, queue });
        let create = pb::WatchCreateRequest {
            key: told.key.clone().into(),
            range_end: told.end.clone().unwrap_or_default().into(),
            start_revision: *next,
            progress_notify: true,
            filters: if told.deletes { Vec::new() } else { vec![1] },
            prev_kv: true,
            watch_id: 0,
            fragment,
        };
        self.request(number, now, RequestUnion::CreateRequest(create));
    }

    fn give_up(&mut self, number: usize) {
        let watcher = &mut self.watchers[number];
        watcher.pieces = Vec::new();
        if let Some(Open { node, stream, .. }) = watcher.open.take()
            && let Some(hub) = &mut self.hubs[node]
        {
            hub.close(stream);
        }
    }

    fn request(&mut self, number: usize, now: Time, request: RequestUnion) {
        let Some(Open { node, stream, .. }) = &self.watchers[number].open else { return };
        let (node, stream) = (*node, *stream);
        let request = pb::WatchRequest { request_union: Some(request) };
        if self.hubs[node].as_mut().is_some_and(|hub| hub.request(now, stream, request).is_err()) {
            self.died(node);
        }
    }

    /// Takes the next answer; false if there is none.
    fn take(&mut self, number: usize, (now, mark): (Time, i64), laws: &Laws) -> Result<bool, Violation> {
        let watcher = &mut self.watchers[number];
        let Some(Open { node, stream, queue }) = &watcher.open else { return Ok(false) };
        let Some((answer, room)) = queue.take() else { return Ok(false) };
        if let Some(hub) = self.hubs[*node].as_mut().filter(|_| room) {
            hub.room(now, *stream);
        }
        match watcher.hear(answer, mark) {
            Ok(()) if watcher.is_cut() => {
                self.give_up(number);
                Ok(false)
            }
            Ok(()) => Ok(true),
            Err(what) => laws.broken(Law::Watched, || format!("watcher {number} {what}")).map(|()| true),
        }
    }

    /// In the end every watcher goes to one of `nodes`, and is told all that there is.
    pub(super) fn finish(&mut self, nodes: &[usize], (now, mark): (Time, i64), laws: &Laws) -> Result<(), Violation> {
        for number in 0..self.watchers.len() {
            let mut cuts = 0;
            while !self.catch_up(number, nodes, (now, mark), laws)? && cuts < ROUNDS {
                cuts += 1; // it goes on where history begins
            }
        }
        Ok(())
    }

    /// False if the watcher was cut by a compaction.
    fn catch_up(
        &mut self,
        number: usize,
        nodes: &[usize],
        (now, mark): (Time, i64),
        laws: &Laws,
    ) -> Result<bool, Violation> {
        if !self.watchers[number].open.as_ref().is_some_and(|open| nodes.contains(&open.node)) {
            self.give_up(number);
            let node = nodes[self.rng.below(nodes.len() as u64) as usize];
            self.open(number, node, now);
        }
        let Some(node) = self.watchers[number].open.as_ref().map(|open| open.node) else { return Ok(true) };
        let mut rounds = 0;
        let mut told = false;
        while !told && rounds < ROUNDS {
            self.request(number, now, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            self.turned(node, now);
            while self.take(number, (now, mark), laws)? {}
            if self.watchers[number].open.is_none() {
                return Ok(false);
            }
            let revision = self.hubs[node].as_ref().map_or(0, |hub| hub.revision().0);
            told = self.watchers[number].next > revision;
            rounds += 1;
        }
        if !told {
            let next = self.watchers[number].next;
            laws.broken(Law::Watched, || format!("watcher {number} is at {next} on n{} for ever", node + 1))?;
        }
        Ok(true)
    }

    /// What the judge says.
    pub(super) fn judged(&self, history: &[Operation]) -> Result<usize, judge::Violation> {
        let told: Vec<judge::Watcher> = self.watchers.iter().map(|watcher| watcher.told.clone()).collect();
        judge::check(history, &told)
    }
}

impl Watcher {
    /// Whether it bears revisions in pieces.
    fn fragments(&self) -> bool {
        self.told.number.is_multiple_of(2)
    }

    /// Whether what comes next was compacted, so that it must begin anew.
    fn is_cut(&self) -> bool {
        self.told.streams.last().is_some_and(|stream| stream.compacted.is_some())
    }

    /// Notes an answer. `mark` as in [`Watchers::act`].
    fn hear(&mut self, answer: Answer, mark: i64) -> Result<(), String> {
        let revision = answer.revision.0;
        let (events, fragment) = match answer.what {
            What::Created => {
                self.next = if self.next == 0 { revision + 1 } else { self.next };
                self.told.streams.push(judge::Stream { from: self.next, ..judge::Stream::default() });
                return Ok(());
            }
            What::Events { encoded, fragment, .. } => (decode(encoded)?, fragment),
            What::Progress => (Vec::new(), false),
            What::Compacted(at) if (self.next + 1..=mark).contains(&at.0) => {
                self.next = at.0;
                let stream = self.told.streams.last_mut().ok_or("is told of a compaction before it was made")?;
                stream.compacted = Some(at.0);
                return Ok(());
            }
            other @ (What::Refused(_) | What::Cancelled | What::Compacted(_)) => {
                let next = self.next;
                return Err(format!("is told {other:?}, for which there is no reason: next {next}, mark {mark}"));
            }
        };
        self.pieces.extend(events);
        if fragment && !self.fragments() {
            return Err("is told a revision in pieces, for which it did not ask".to_string());
        }
        if fragment {
            return Ok(());
        }
        let events = std::mem::take(&mut self.pieces);
        self.next = events.last().map_or(self.next.max(revision + 1), |event| event.revision + 1);
        let stream = self.told.streams.last_mut().ok_or("is told of events before it was made")?;
        stream.answers.push(judge::Answer { revision, events });
        Ok(())
    }
}

fn decode(encoded: Bytes) -> Result<Vec<judge::Event>, String> {
    let events =
        pb::WatchResponse::decode(encoded).map_err(|error| format!("is told what is no event: {error}"))?.events;
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let event = |event: crate::proto::mvccpb::Event| {
        let kv = event.kv.unwrap_or_default();
        let deleted = event.r#type == i32::from(EventType::Delete);
        judge::Event {
            revision: kv.mod_revision,
            key: text(&kv.key),
            value: (!deleted).then(|| text(&kv.value)),
            previous: Some(event.prev_kv.map(|kv: KeyValue| text(&kv.value))),
        }
    };
    Ok(events.into_iter().map(event).collect())
}

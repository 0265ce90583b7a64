//! The hub against a model that knows everything that ever happened: random commands, watchers and clients, some of them slow,
//! some of them going on elsewhere, while the store is compacted.

use super::*;
use crate::ids::{Position, Revision, Term};
use crate::machine::{Content, Machine};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::mvccpb::{Event, KeyValue, event::EventType};
use crate::proto::quorate::{Command, Compact, command::Op};
use crate::rng::Seed;
use crate::storage::memory::MemoryEngine;
use crate::time::{Duration, Time};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const LIMITS: Limits =
    Limits { queue_bytes: 700, slice_bytes: 400, fragment_bytes: 300, progress_interval: Duration::from_millis(100) };

/// What the store is, and all that ever happened.
struct Truth {
    machine: Machine,
    keys: BTreeMap<Bytes, KeyValue>,
    /// With what was there before.
    events: Vec<Event>,
    revision: i64,
    compacted: i64,
}

fn key(number: u8) -> Bytes {
    Bytes::from(vec![b'k', number])
}

impl Truth {
    fn new() -> Truth {
        let machine = Machine::open(Arc::new(MemoryEngine::new()), Vec::new()).unwrap();
        Truth { machine, keys: BTreeMap::new(), events: Vec::new(), revision: 1, compacted: -1 }
    }

    fn apply(&mut self, op: Op) {
        let bytes = Bytes::from(Command { op: Some(op) }.encode_to_vec());
        let position = Position { index: self.machine.applied().index.next(), term: Term(1) };
        self.machine.apply(position, Content::Command(&bytes)).unwrap();
        assert_eq!(self.machine.view().revision(), Revision(self.revision), "the model counts revisions as the store");
    }

    fn changed(&mut self, key: Bytes, new: Option<KeyValue>) {
        let prev_kv = self.keys.remove(&key);
        let kind = if new.is_some() { EventType::Put } else { EventType::Delete };
        let gone = KeyValue { key: key.clone(), mod_revision: self.revision, ..KeyValue::default() };
        if let Some(kv) = &new {
            self.keys.insert(key, kv.clone());
        }
        self.events.push(Event { r#type: kind.into(), kv: Some(new.unwrap_or(gone)), prev_kv });
    }

    fn put(&mut self, number: u8, size: u8) -> pb::PutRequest {
        let (key, value) = (key(number), Bytes::from(vec![b'v'; usize::from(size)]));
        let old = self.keys.get(&key);
        let kv = KeyValue {
            key: key.clone(),
            create_revision: old.map_or(self.revision, |kv| kv.create_revision),
            mod_revision: self.revision,
            version: old.map_or(1, |kv| kv.version + 1),
            value: value.clone(),
            lease: 0,
        };
        self.changed(key.clone(), Some(kv));
        pb::PutRequest { key, value, ..Default::default() }
    }

    /// One revision that changes many keys.
    fn txn(&mut self, ops: &BTreeMap<u8, Option<u8>>) {
        self.revision += 1;
        let before = self.events.len();
        let mut success = Vec::new();
        for (number, put) in ops {
            let request = match put {
                Some(size) => Request::RequestPut(self.put(*number, *size)),
                None => {
                    if self.keys.contains_key(&key(*number)) {
                        self.changed(key(*number), None);
                    }
                    Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key(*number), ..Default::default() })
                }
            };
            success.push(pb::RequestOp { request: Some(request) });
        }
        if self.events.len() == before {
            self.revision -= 1;
        }
        self.apply(Op::Txn(pb::TxnRequest { success, ..Default::default() }));
    }

    fn delete_range(&mut self, from: u8, to: u8) {
        let gone: Vec<Bytes> = self.keys.range(key(from)..key(to.max(from))).map(|(key, _)| key.clone()).collect();
        self.revision += i64::from(!gone.is_empty());
        gone.into_iter().for_each(|key| self.changed(key, None));
        let (key, range_end) = (key(from), key(to));
        self.apply(Op::DeleteRange(pb::DeleteRangeRequest { key, range_end, ..Default::default() }));
    }

    fn compact(&mut self, back: u8) {
        let revision = self.revision - i64::from(back);
        if revision > self.compacted && revision > 0 {
            self.compacted = revision;
            self.apply(Op::Compact(Compact { revision }));
        }
    }
}

/// A watcher as its client knows it.
#[derive(Clone, Debug)]
struct Watched {
    request: pb::WatchCreateRequest,
    /// The first revision that the client has not heard of; unknown until the watcher is created.
    next: Option<i64>,
    /// Pieces of an answer whose end is still to come.
    pieces: Vec<Event>,
    cancelling: bool,
}

impl Watched {
    fn wants(&self, event: &Event) -> bool {
        let key = &event.kv.as_ref().unwrap().key;
        let request = &self.request;
        let inside = match request.range_end.as_ref() {
            [] => *key == request.key,
            [0] => *key >= request.key,
            end => *key >= request.key && key.as_ref() < end,
        };
        // The filters are the kinds that are dropped: NOPUT = 0, NODELETE = 1.
        inside && !request.filters.contains(&event.r#type)
    }

    /// What is to be heard of the revisions from `next` to `last`.
    fn expected(&self, truth: &Truth, last: i64) -> Vec<Event> {
        let next = self.next.unwrap();
        let revision = |event: &Event| event.kv.as_ref().unwrap().mod_revision;
        let told = truth.events.iter().filter(|event| (next..=last).contains(&revision(event)) && self.wants(event));
        told.cloned().collect()
    }
}

struct Client {
    hub: usize,
    stream: StreamId,
    queue: Arc<Queue>,
    watched: BTreeMap<i64, Watched>,
    /// Requests to create, not answered yet.
    asked: Vec<pb::WatchCreateRequest>,
    next_id: i64,
}

struct World {
    truth: Truth,
    /// Two members.
    hubs: [Hub; 2],
    clients: Vec<Client>,
    now: Time,
    streams: StreamId,
}

impl World {
    fn new() -> World {
        let truth = Truth::new();
        let hub = |seed| Hub::new(truth.machine.view(), LIMITS, Seed(seed));
        World { hubs: [hub(1), hub(2)], truth, clients: Vec::new(), now: Time::from_millis(1), streams: 0 }
    }

    fn open(&mut self, hub: usize) -> usize {
        self.streams += 1;
        let queue = Arc::new(Queue::new(self.hubs[hub].figures()));
        self.hubs[hub].open(self.streams, format!("client {}", self.streams), Arc::clone(&queue));
        let (watched, asked) = Default::default();
        self.clients.push(Client { hub, stream: self.streams, queue, watched, asked, next_id: 0 });
        self.clients.len() - 1
    }

    fn send(&mut self, client: usize, request: RequestUnion) {
        let Client { hub, stream, .. } = self.clients[client];
        let request = pb::WatchRequest { request_union: Some(request) };
        self.hubs[hub].request(self.now, stream, request).unwrap();
    }

    fn create(&mut self, client: usize, request: pb::WatchCreateRequest) {
        self.clients[client].asked.push(request.clone());
        self.send(client, RequestUnion::CreateRequest(request));
    }

    /// The client breaks off, and goes on on the other member where it was.
    fn resume(&mut self, client: usize) {
        let old = self.clients.swap_remove(client);
        self.hubs[old.hub].close(old.stream);
        let new = self.open(1 - old.hub);
        for watched in old.watched.into_values().filter(|watched| !watched.cancelling) {
            self.create(new, pb::WatchCreateRequest { start_revision: watched.next.unwrap(), ..watched.request });
        }
    }

    fn turn(&mut self, hub: usize) -> bool {
        self.hubs[hub].turn(self.now).unwrap()
    }

    /// The client takes an answer from its queue and judges it; false if there is none.
    fn take(&mut self, client: usize) -> bool {
        let World { truth, hubs, clients, now, .. } = self;
        let client = &mut clients[client];
        let Some((answer, room)) = client.queue.take() else { return false };
        client.hear(truth, answer);
        if room {
            hubs[client.hub].room(*now, client.stream);
        }
        true
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for hub in 0..2 {
                busy |= self.turn(hub);
            }
            for client in 0..self.clients.len() {
                while self.take(client) {
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
        panic!("the hubs are never done");
    }
}

impl Client {
    fn hear(&mut self, truth: &Truth, answer: Answer) {
        let Answer { watch_id, revision: Revision(revision), what } = answer;
        match what {
            What::Created => {
                let request = self.asked.remove(0);
                assert_eq!(watch_id, self.next_id, "ids are given in order");
                self.next_id += 1;
                let next = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
                let watched = Watched { request, next: Some(next), pieces: Vec::new(), cancelling: false };
                assert!(self.watched.insert(watch_id, watched).is_none());
            }
            What::Refused(why) => panic!("refused: {why}"),
            What::Events { encoded, count, fragment } => {
                let watched = self.watched.get_mut(&watch_id).unwrap();
                let events = pb::WatchResponse::decode(encoded).unwrap().events;
                assert_eq!(events.len(), count as usize);
                assert!(!fragment || watched.request.fragment, "a revision is split without leave");
                watched.pieces.extend(events);
                if fragment {
                    return;
                }
                let told = std::mem::take(&mut watched.pieces);
                assert!(!told.is_empty(), "an answer without events is a progress answer");
                let mut expected = watched.expected(truth, revision);
                for (told, expected) in told.iter().zip(&mut expected) {
                    // Forgotten, or not asked for.
                    let forgotten = expected.kv.as_ref().unwrap().mod_revision - 1 < truth.compacted;
                    if !watched.request.prev_kv || (forgotten && told.prev_kv.is_none()) {
                        expected.prev_kv = None;
                    }
                }
                assert_eq!(told, expected, "watcher {watched:?} is told of {:?}..={revision}", watched.next);
                watched.next = Some(revision + 1);
            }
            What::Progress => {
                let of_all = watch_id == -1;
                for (id, watched) in &mut self.watched {
                    if of_all || *id == watch_id {
                        assert_eq!(watched.expected(truth, revision), [], "progress overtakes events of {watched:?}");
                        assert!(watched.request.start_revision <= revision, "progress before the start of {watched:?}");
                        assert!(watched.next <= Some(revision + 1), "progress goes back: {watched:?}, {revision}");
                        assert!(watched.pieces.is_empty());
                        watched.next = Some(revision + 1);
                    }
                }
            }
            What::Cancelled => assert!(self.watched.remove(&watch_id).unwrap().cancelling),
            What::Compacted(compacted) => {
                let watched = self.watched.remove(&watch_id).unwrap();
                assert!(compacted.0 <= truth.compacted && Some(compacted.0) > watched.next, "{watched:?}: {compacted}");
                assert!(watched.pieces.is_empty());
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Txn(BTreeMap<u8, Option<u8>>),
    DeleteRange(u8, u8),
    Compact(u8),
    Open(usize),
    Create { client: usize, from: u8, to: u8, back: i64, filters: Vec<i32>, flags: (bool, bool, bool) },
    Cancel(usize, i64),
    Progress(usize),
    Turn(usize),
    Take(usize, u8),
    Resume(usize),
    Close(usize),
    Sleep,
}

fn step() -> impl Strategy<Value = Step> {
    let hub = 0..2usize;
    let client = 0..16usize;
    let ops = prop::collection::btree_map(0..12u8, prop::option::weighted(0.8, 0..90u8), 1..7);
    prop_oneof![
        12 => ops.prop_map(Step::Txn),
        1 => (0..12u8, 0..12u8).prop_map(|(from, to)| Step::DeleteRange(from, to)),
        1 => (0..12u8).prop_map(Step::Compact),
        2 => hub.clone().prop_map(Step::Open),
        6 => (client.clone(), 0..12u8, 0..14u8, -8..6i64, prop::collection::vec(0..2i32, 0..2), any::<(bool, bool, bool)>())
            .prop_map(|(client, from, to, back, filters, flags)| Step::Create { client, from, to, back, filters, flags }),
        1 => (client.clone(), 0..6i64).prop_map(|(client, id)| Step::Cancel(client, id)),
        3 => client.clone().prop_map(Step::Progress),
        12 => hub.prop_map(Step::Turn),
        8 => (client.clone(), 1..6u8).prop_map(|(client, count)| Step::Take(client, count)),
        1 => client.clone().prop_map(Step::Resume),
        1 => client.prop_map(Step::Close),
        2 => Just(Step::Sleep),
    ]
}

fn carry_out(world: &mut World, step: Step) {
    let some = |client: usize, world: &World| client % world.clients.len().max(1);
    match step {
        Step::Txn(ops) => world.truth.txn(&ops),
        Step::DeleteRange(from, to) => world.truth.delete_range(from, to),
        Step::Compact(back) => world.truth.compact(back),
        Step::Open(hub) => drop(world.open(hub)),
        Step::Turn(hub) => drop(world.turn(hub)),
        Step::Sleep => world.now = world.now + Duration::from_millis(60),
        _ if world.clients.is_empty() => {}
        Step::Create { client, from, to, back, filters, flags: (prev_kv, fragment, progress_notify) } => {
            let client = some(client, world);
            let range_end = match to {
                to if to <= from => Bytes::new(),
                13 => Bytes::from_static(&[0]),
                to => key(to),
            };
            // Often from now on; else in the past, or in the future.
            let start_revision = if back > 3 { 0 } else { (world.truth.revision + back).max(1) };
            let request = pb::WatchCreateRequest {
                key: key(from),
                range_end,
                start_revision,
                progress_notify,
                filters,
                prev_kv,
                watch_id: 0,
                fragment,
            };
            world.create(client, request);
        }
        Step::Cancel(client, watch_id) => {
            let client = some(client, world);
            if let Some(watched) = world.clients[client].watched.get_mut(&watch_id) {
                watched.cancelling = true;
            }
            if world.clients[client].watched.contains_key(&watch_id) {
                world.send(client, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
            }
        }
        Step::Progress(client) => {
            let client = some(client, world);
            world.send(client, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        }
        Step::Take(client, count) => {
            let client = some(client, world);
            for _ in 0..count {
                world.take(client);
            }
        }
        Step::Resume(client) => {
            let client = some(client, world);
            world.resume(client);
        }
        Step::Close(client) => {
            let client = world.clients.swap_remove(some(client, world));
            world.hubs[client.hub].close(client.stream);
        }
    }
}

proptest! {
    #[test]
    fn every_watcher_hears_every_event_once_in_order_or_of_a_compaction(
        steps in prop::collection::vec(step(), 1..250)
    ) {
        let mut world = World::new();
        let mut told = 0;
        for step in steps {
            let said = !matches!(step, Step::Turn(_));
            carry_out(&mut world, step);
            told += usize::from(said);
            for client in &world.clients {
                // The largest revision here, and the answers that are not events.
                let bound = LIMITS.queue_bytes + LIMITS.slice_bytes + 7 * 300 + (told + 10) * 64;
                prop_assert!(client.queue.bytes() <= bound, "{} bytes wait", client.queue.bytes());
            }
        }
        world.settle();
        let revision = world.truth.revision;
        for client in &world.clients {
            prop_assert_eq!(client.queue.bytes(), 0);
            prop_assert!(client.asked.is_empty());
            for watched in client.watched.values() {
                prop_assert!(!watched.cancelling);
                prop_assert_eq!(watched.expected(&world.truth, revision), []);
            }
        }
        for (number, hub) in world.hubs.iter().enumerate() {
            let standings = hub.standings(world.now);
            let figures = hub.figures();
            prop_assert_eq!(figures.watchers.load(Ordering::Relaxed) as usize, standings.len());
            prop_assert_eq!(figures.pending_events.load(Ordering::Relaxed), 0);
            prop_assert_eq!(figures.slow.load(Ordering::Relaxed), 0);
            let here = world.clients.iter().filter(|client| client.hub == number);
            prop_assert_eq!(here.map(|client| client.watched.len()).sum::<usize>(), standings.len());
            for standing in standings {
                prop_assert_eq!(standing.lag, 0, "{:?}", standing);
                prop_assert!(standing.following || standing.next.0 > revision + 1, "{:?}", standing);
            }
        }
    }
}

/// A store with `revisions` puts, one hub, one stream on it.
fn small(revisions: u8) -> (World, usize) {
    let mut world = World::new();
    for number in 0..revisions {
        world.truth.txn(&BTreeMap::from([(number % 4, Some(10))]));
    }
    let client = world.open(0);
    (world, client)
}

fn watch_all() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key(0), range_end: Bytes::from_static(&[0]), ..Default::default() }
}

#[test]
fn who_keeps_up_is_not_cancelled_by_a_compaction_of_what_it_has_not_been_told_yet() {
    let (mut world, client) = small(3);
    world.create(client, watch_all());
    world.truth.txn(&BTreeMap::from([(1, Some(10)), (2, None)]));
    world.truth.txn(&BTreeMap::from([(1, Some(10))]));
    world.truth.compact(0);
    world.settle();
    assert_eq!(world.clients[client].watched[&0].next, Some(world.truth.revision + 1));
}

#[test]
fn who_catches_up_is_not_told_what_the_followers_are_told_next() {
    let (mut world, client) = small(3);
    world.create(client, watch_all());
    world.create(client, pb::WatchCreateRequest { start_revision: 2, ..watch_all() });
    // More than a slice: the followers need several turns.
    for _ in 0..20 {
        world.truth.txn(&BTreeMap::from([(1, Some(80))]));
    }
    world.settle();
    let next = |id: i64| world.clients[client].watched[&id].next;
    assert_eq!([next(0), next(1)], [Some(world.truth.revision + 1); 2]);
}

#[test]
fn a_slow_client_keeps_nothing_in_memory_and_nobody_back() {
    let (mut world, slow) = small(1);
    let quick = world.open(0);
    world.create(slow, watch_all());
    world.create(quick, watch_all());
    for _ in 0..200 {
        world.truth.txn(&BTreeMap::from([(1, Some(80))]));
        world.turn(0);
        while world.take(quick) {}
    }
    let next = |world: &World, client: usize| world.clients[client].watched[&0].next;
    assert_eq!(next(&world, quick), Some(world.truth.revision + 1));
    assert!(world.clients[slow].queue.bytes() <= LIMITS.queue_bytes + LIMITS.slice_bytes);
    let [standing, _] = world.hubs[0].standings(world.now + Duration::from_secs(1)).try_into().unwrap();
    assert!(!standing.following && standing.lag > 150 && standing.lag_time >= Duration::from_secs(1), "{standing:?}");
    assert_eq!(world.hubs[0].figures().slow.load(Ordering::Relaxed), 1);
    assert!(!world.turn(0), "a hub whose only laggard is blocked has nothing to do");
    world.settle();
    assert_eq!(next(&world, slow), Some(world.truth.revision + 1));
}

#[test]
fn progress_is_told_in_intervals_to_those_who_heard_nothing() {
    let (mut world, client) = small(1);
    world.create(client, pb::WatchCreateRequest { progress_notify: true, ..watch_all() });
    world.create(client, watch_all());
    world.settle();
    assert!(world.hubs[0].deadline() <= world.now + Duration::from_millis(110));
    world.now = world.now + Duration::from_millis(110);
    world.settle();
    assert!(world.hubs[0].deadline() > world.now, "the first interval began with the creation, which is an answer");
    let revision = world.truth.revision;
    world.now = world.now + Duration::from_millis(110);
    world.turn(0);
    let queue = Arc::clone(&world.clients[client].queue);
    let progress = Answer { watch_id: 0, revision: Revision(revision), what: What::Progress };
    assert_eq!(queue.take().map(|(answer, _)| answer), Some(progress));
    assert_eq!(queue.take(), None, "nobody else asked for it");
}

//! The watch oracle: watchers that go on wherever they can, under kills, pauses, restarts, compactions and their own slowness.
//!
//! Writers write through all members; every key is written once, alone or with a twin in one transaction. Each watcher follows
//! one member until its stream breaks, falls silent or is given up by chance, and goes on at its next revision on the next
//! member. What it heard must be, in order and once, what was written: a watcher that was told that its place is compacted may
//! lack what lies between its place and the compacted revision, and nothing else.

use crate::kills::assert_quiet_logs;
use crate::load::{PATIENCE, eventually};
use crate::support::Cluster;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use quorate::client::{Client, Error, Options};
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use quorate::rng::{Rng, Seed};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_stream::StreamExt as _;
use tonic::transport::Endpoint;

const WRITERS: usize = 12;
const WATCHERS: usize = 18;
const PREFIX: &str = "watched/";
const END: &str = "watched/end";
/// A writer rests so long between two writes: the processes under test share the machine with it.
const PACE: Duration = Duration::from_millis(8);
/// A stream that is silent for so long is given up: its member may be frozen.
const SILENCE: Duration = Duration::from_secs(2);
/// Values fill a slow client's queue.
const VALUE_BYTES: usize = 3000;

/// What the writers were told.
#[derive(Debug, Default)]
struct Book {
    /// By key: the revision.
    acknowledged: BTreeMap<String, i64>,
    uncertain: BTreeSet<String>,
}

impl Book {
    fn note(&mut self, keys: Vec<String>, outcome: Result<Option<pb::ResponseHeader>, Error>) {
        match outcome {
            Ok(header) => {
                let revision = header.unwrap().revision;
                self.acknowledged.extend(keys.into_iter().map(|key| (key, revision)));
            }
            Err(Error::Uncertain(_)) => self.uncertain.extend(keys),
            Err(Error::Refused(_)) => {}
            Err(error) => panic!("a lawful write is rejected: {error:?}"),
        }
    }
}

/// What one watcher heard.
#[derive(Debug, Default)]
struct Heard {
    number: usize,
    first: i64,
    /// By revision: the keys.
    revisions: BTreeMap<i64, Vec<String>>,
    /// What it was told is compacted.
    gaps: Vec<Range<i64>>,
    breaks: usize,
}

async fn write(number: usize, members: Vec<String>, book: Arc<Mutex<Book>>, stop: Arc<AtomicBool>) {
    let mut members = members;
    members.rotate_left(number % 3);
    let options = Options { try_timeout: Duration::from_secs(1), ..Options::default() };
    let client = Client::new(&members, options).unwrap();
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("{PREFIX}{number:02}/{count:06}");
        let keys = if count % 5 == 0 { vec![key.clone(), key + "~"] } else { vec![key] };
        let op = |key: &String| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(key))) };
        let outcome = match keys.as_slice() {
            [key] => client.put(put(key)).await.map(|answer| answer.header),
            keys => {
                let success = keys.iter().map(op).collect();
                client.txn(pb::TxnRequest { success, ..Default::default() }).await.map(|answer| answer.header)
            }
        };
        book.lock().unwrap().note(keys, outcome);
        tokio::time::sleep(PACE).await;
    }
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: vec![b'v'; VALUE_BYTES].into(), ..Default::default() }
}

/// Follows until the last key is heard of.
async fn follow(number: usize, members: Vec<String>, mut rng: Rng) -> Heard {
    let mut heard = Heard { number, ..Heard::default() };
    let mut next = 0;
    let slow = number.is_multiple_of(3);
    for place in number.. {
        heard.breaks += 1;
        let member = &members[place % members.len()];
        if listen(member, &mut next, &mut heard, &mut rng, slow).await.unwrap_or(false) {
            return heard;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!("there is always a next member")
}

/// One stream; true if the last key was heard of, `None` if the stream could not be opened or broke.
async fn listen(member: &str, next: &mut i64, heard: &mut Heard, rng: &mut Rng, slow: bool) -> Option<bool> {
    let within = |what| tokio::time::timeout(SILENCE, what);
    let endpoint = Endpoint::from_shared(format!("http://{member}")).unwrap();
    let mut client = WatchClient::new(within(endpoint.connect()).await.ok()?.ok()?);
    let create = pb::WatchCreateRequest {
        key: PREFIX.into(),
        range_end: "watched0".into(),
        start_revision: *next,
        ..Default::default()
    };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = tokio_stream::once(request).chain(tokio_stream::pending());
    let mut answers = tokio::time::timeout(SILENCE, client.watch(requests)).await.ok()?.ok()?.into_inner();
    // Some streams are given up for no reason.
    for _ in 0..20 + rng.below(400) {
        let answer = tokio::time::timeout(SILENCE, answers.message()).await.ok()?.ok()??;
        let revision = answer.header.unwrap().revision;
        if answer.created && *next == 0 {
            (heard.first, *next) = (revision + 1, revision + 1);
        }
        if answer.compact_revision != 0 {
            assert!(answer.canceled && answer.compact_revision > *next, "{answer:?} at {next}");
            heard.gaps.push(*next..answer.compact_revision);
            *next = answer.compact_revision;
            return Some(false);
        }
        assert!(!answer.canceled, "{answer:?}");
        let mut told: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        let mut last = *next;
        for event in &answer.events {
            let kv = event.kv.as_ref().unwrap();
            assert!(kv.mod_revision >= last, "watcher {} at {last} is told of {}", heard.number, kv.mod_revision);
            last = kv.mod_revision;
            told.entry(last).or_default().push(String::from_utf8(kv.key.to_vec()).unwrap());
        }
        if !told.is_empty() {
            assert!(revision >= last, "the header is older than the events");
            *next = last + 1;
        }
        let ended = told.values().flatten().any(|key| key == END);
        heard.revisions.extend(told);
        if ended {
            return Some(true);
        }
        if slow && rng.below(30) == 0 {
            tokio::time::sleep(Duration::from_millis(rng.below(1500))).await;
        }
    }
    Some(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_watcher_hears_every_event_once_in_order_whatever_befalls_the_members() {
    let seed = clock::entropy();
    println!("seed {:#x}", seed.0);
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::quorate(3).await;
    let (book, stop) = (Arc::<Mutex<Book>>::default(), Arc::<AtomicBool>::default());
    let members = cluster.endpoints();
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|number| tokio::spawn(follow(number, members.clone(), Rng::new(Seed(rng.next_u64())))))
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| tokio::spawn(write(number, members.clone(), Arc::clone(&book), Arc::clone(&stop))))
        .collect();
    for round in 0..6 {
        acknowledged(&book, 150 + rng.below(300) as usize).await;
        let leader = cluster.leader().await;
        let follower = (leader + 1 + rng.below(2) as usize) % 3;
        match round {
            0 | 4 => {
                cluster.kill(leader);
                acknowledged(&book, 100).await;
                cluster.start(leader);
            }
            1 => {
                cluster.pause(leader);
                acknowledged(&book, 100).await;
                cluster.resume(leader);
            }
            2 => {
                cluster.kill(follower);
                acknowledged(&book, 200).await;
                cluster.start(follower);
            }
            3 => cluster.restart(follower),
            _ => {
                tokio::task::block_in_place(|| cluster.stop(leader));
                acknowledged(&book, 100).await;
                cluster.start(leader);
            }
        }
        cluster.ready().await;
        compact(&cluster, &mut rng).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer panicked");
    }
    let last = end(&cluster).await;
    book.lock().unwrap().acknowledged.insert(END.to_owned(), last);
    let mut all = Vec::new();
    for watcher in watchers {
        let heard = tokio::time::timeout(PATIENCE, watcher).await.expect("a watcher never hears of the last key");
        all.push(heard.expect("a watcher panicked"));
    }
    compare(&book.lock().unwrap(), &all, last);
    assert_quiet_logs(&cluster);
}

/// Writes the last key, once, and returns its revision.
async fn end(cluster: &Cluster) -> i64 {
    let client = cluster.client();
    let absent = pb::Compare {
        key: END.into(),
        target: pb::compare::CompareTarget::Version.into(),
        target_union: Some(pb::compare::TargetUnion::Version(0)),
        ..Default::default()
    };
    let success = vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(END))) }];
    let txn = pb::TxnRequest { compare: vec![absent], success, ..Default::default() };
    // Perhaps done, perhaps not: the next one finds it, or does it.
    eventually("the last key is written", async || client.txn(txn.clone()).await.is_ok()).await;
    let get = pb::RangeRequest { key: END.into(), ..Default::default() };
    let mut revision = 0;
    eventually("the last key is read", async || match client.range(get.clone()).await {
        Ok(found) => {
            revision = found.kvs[0].mod_revision;
            true
        }
        Err(_) => false,
    })
    .await;
    revision
}

/// Waits for so many more acknowledged keys.
async fn acknowledged(book: &Mutex<Book>, more: usize) {
    let count = || book.lock().unwrap().acknowledged.len();
    let goal = count() + more;
    eventually(&format!("{more} keys are acknowledged"), async || count() >= goal).await;
}

/// To a revision that those who keep up have left behind, and slow ones perhaps not.
async fn compact(cluster: &Cluster, rng: &mut Rng) {
    let client = cluster.client();
    let mut now = 0;
    eventually("the revision is known", async || {
        let read = client.range(pb::RangeRequest { key: "x".into(), ..Default::default() }).await;
        now = read.map_or(0, |read| read.header.unwrap().revision);
        now > 0
    })
    .await;
    let revision = now - rng.below(60) as i64;
    let member = cluster.nodes()[0].client.clone();
    let channel = Endpoint::from_shared(format!("http://{member}")).unwrap().connect().await.unwrap();
    let mut kv = pb::kv_client::KvClient::new(channel);
    // It may have been done by a request whose answer was lost; then there is nothing to do.
    let _ = kv.compact(pb::CompactionRequest { revision, physical: false }).await;
}

fn compare(book: &Book, all: &[Heard], last: i64) {
    let mut truth: BTreeMap<i64, &Vec<String>> = BTreeMap::new();
    for heard in all {
        for (revision, keys) in &heard.revisions {
            let known = truth.entry(*revision).or_insert(keys);
            assert_eq!(*known, keys, "watchers disagree on revision {revision}, or one was told of a part of it");
        }
    }
    let mut seen: BTreeMap<&String, i64> = BTreeMap::new();
    for (revision, keys) in &truth {
        for key in *keys {
            assert_eq!(seen.insert(key, *revision), None, "{key} was written once");
        }
    }
    let first = all.iter().map(|heard| heard.first).min().unwrap();
    for (key, revision) in &book.acknowledged {
        let told = seen.remove(key);
        assert!(told == Some(*revision) || (told.is_none() && *revision < first), "{key} of {revision}: told {told:?}");
    }
    for (key, revision) in seen {
        assert!(book.uncertain.contains(key), "nobody wrote {key}, told of at {revision}");
    }
    let (mut gaps, mut breaks, mut events) = (0, 0, 0);
    for heard in all {
        for (revision, keys) in truth.range(heard.first..=last) {
            let excused = heard.gaps.iter().any(|gap| gap.contains(revision));
            assert!(
                excused != heard.revisions.contains_key(revision),
                "watcher {} (gaps {:?}) and revision {revision} ({keys:?})",
                heard.number,
                heard.gaps
            );
        }
        gaps += heard.gaps.len();
        breaks += heard.breaks;
        events += heard.revisions.values().map(Vec::len).sum::<usize>();
    }
    println!(
        "{} watchers, {events} events, {breaks} streams, {gaps} compaction cancels, up to revision {last}",
        all.len()
    );
}

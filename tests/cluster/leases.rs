//! Leases while members die, freeze and come back.
//!
//! Owners hang a key on a lease and keep it alive through whichever member; some stop. What an owner was told is a promise:
//! from when it *asked*, the lease is there for its time to live. (Not from when it was told: an answer may have been held up
//! by a frozen process for longer than the lease lives.) A watcher reads all keys again and again and compares: a key that
//! is missing while its lease is promised is a lease that ended early. All of them share one clock, so there is no error in
//! it, and delays only make the comparison milder: nothing here can fail because the machine is slow.

use crate::kills::assert_quiet_logs;
use crate::load::{PATIENCE, eventually};
use crate::support::Cluster;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use quorate::rng::{Rng, Seed};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const OWNERS: usize = 40;
const PREFIX: &str = "lease/";
/// How long an owner waits for an answer.
const TRY: Duration = Duration::from_secs(1);
/// Beyond its time to live, how much later than the last fault an abandoned lease may end: an election, a member that is
/// slow to see the loss of the one before, and a machine that has other things to do.
const SLACK: Duration = Duration::from_secs(30);

/// What an owner knows of its lease.
#[derive(Clone, Copy, Debug)]
struct Held {
    ttl: Duration,
    /// The newest promise: when it was asked for.
    promised: Instant,
    /// Whether its key is known to be there.
    put: bool,
}

#[derive(Debug, Default)]
struct Book {
    held: BTreeMap<i64, Held>,
    wrong: Vec<String>,
    renewed: u64,
    lost: u64,
    looks: u64,
}

impl Book {
    fn is_promised(&self, id: i64, at: Instant) -> Option<Held> {
        self.held.get(&id).copied().filter(|held| at < held.promised + held.ttl)
    }

    /// Somebody says that a lease is gone, at `at` or before.
    fn gone(&mut self, id: i64, at: Instant, who: &str) {
        if let Some(held) = self.is_promised(id, at) {
            let since = at.duration_since(held.promised);
            self.wrong.push(format!("{who}: lease {id} of {:?} is gone {since:?} after it was promised", held.ttl));
        }
    }

    /// A read that was asked for when these keys were known, and had come back at `at`, has missed them.
    fn looked(&mut self, at: Instant, missing: impl Iterator<Item = i64>) {
        self.looks += 1;
        for id in missing {
            self.gone(id, at, "a read");
            self.held.remove(&id);
        }
    }
}

fn channels(cluster: &Cluster) -> Vec<Channel> {
    let connect = |endpoint: String| {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("a good address");
        endpoint.timeout(TRY).connect_timeout(TRY).connect_lazy()
    };
    cluster.endpoints().into_iter().map(connect).collect()
}

/// One keepalive, on a stream of its own.
async fn keep_alive(channel: Channel, id: i64) -> Result<i64, Status> {
    let asks = tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
    let mut request = Request::new(asks);
    request.set_timeout(TRY);
    let answer = async {
        let mut answers = LeaseClient::new(channel).lease_keep_alive(request).await?.into_inner();
        answers.message().await?.ok_or_else(|| Status::unknown("the stream has ended without an answer"))
    };
    let answer = tokio::time::timeout(TRY, answer).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))).map(|answer| answer.ttl)
}

struct Owner {
    channels: Vec<Channel>,
    book: Arc<Mutex<Book>>,
    rng: Rng,
}

impl Owner {
    fn any(&mut self) -> Channel {
        self.channels[self.rng.below(self.channels.len() as u64) as usize].clone()
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics with the book in hand")
    }

    /// Has one lease after another until it is told to stop, and then lets go of the last one.
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let ttl = [2, 3, 12][self.rng.below(3) as usize];
            let asked = clock::instant();
            let Ok(granted) = LeaseClient::new(self.any()).lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }).await
            else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let id = granted.into_inner().id;
            let held = Held { ttl: Duration::from_secs(ttl as u64), promised: asked, put: false };
            self.book().held.insert(id, held);
            let rounds = 5 + self.rng.below(40);
            self.keep(id, held.ttl, rounds, &stop).await;
        }
    }

    async fn keep(&mut self, id: i64, ttl: Duration, rounds: u64, stop: &AtomicBool) {
        // Some renew in good time, some late: then what is left was written down meanwhile.
        let pace = if self.rng.below(3) == 0 { ttl * 2 / 3 } else { ttl / 4 };
        let mut is_put = false;
        for _ in 0..rounds {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if !is_put {
                let put = pb::PutRequest {
                    key: format!("{PREFIX}{id}").into(),
                    value: "v".into(),
                    lease: id,
                    ..Default::default()
                };
                is_put = KvClient::new(self.any()).put(put).await.is_ok();
                if is_put && let Some(held) = self.book().held.get_mut(&id) {
                    held.put = true;
                }
            }
            let asked = clock::instant();
            let channel = self.any();
            let answer = keep_alive(channel, id).await;
            let now = clock::instant();
            {
                let mut book = self.book();
                match answer {
                    Ok(left) if left > 0 => {
                        book.renewed += 1;
                        if let Some(held) = book.held.get_mut(&id) {
                            held.promised = held.promised.max(asked);
                        }
                    }
                    Ok(_) => {
                        book.gone(id, now, "a keepalive");
                        book.lost += 1;
                        return;
                    }
                    Err(_) => {}
                }
            }
            // Who got no answer asks again soon.
            let answered = self.book().held.get(&id).is_some_and(|held| held.promised >= asked);
            tokio::time::sleep(if answered { pace } else { pace.min(TRY / 4) }).await;
        }
    }
}

/// Reads all keys through one member after another, and misses those that were promised.
async fn watch(channels: Vec<Channel>, book: Arc<Mutex<Book>>, stop: Arc<AtomicBool>) {
    for place in (0..channels.len()).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let known: Vec<i64> =
            book.lock().unwrap().held.iter().filter(|(_, held)| held.put).map(|(id, _)| *id).collect();
        let end = "lease0";
        let range =
            pb::RangeRequest { key: PREFIX.into(), range_end: end.into(), keys_only: true, ..Default::default() };
        let Ok(found) = KvClient::new(channels[place].clone()).range(range).await else { continue };
        let now = clock::instant();
        let found: BTreeSet<i64> = found.into_inner().kvs.into_iter().map(|kv| kv.lease).collect();
        book.lock().unwrap().looked(now, known.into_iter().filter(|id| !found.contains(id)));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Issue 5's oracle: no key vanishes while its keepalives are answered, and each is gone within its bound after they stopped.
#[tokio::test(flavor = "multi_thread")]
async fn no_lease_ends_early_and_each_ends_at_last() {
    let seed = clock::entropy();
    println!("seed {:#x}", seed.0);
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::quorate(3).await;
    let (book, stop, blind) =
        (Arc::<Mutex<Book>>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let owner = |number: usize| {
        let owner = Owner { channels: channels(&cluster), book: Arc::clone(&book), rng: Rng::new(Seed(number as u64)) };
        tokio::spawn(owner.run(Arc::clone(&stop)))
    };
    let owners: Vec<_> = (0..OWNERS).map(owner).collect();
    let watcher = tokio::spawn(watch(channels(&cluster), Arc::clone(&book), Arc::clone(&blind)));
    let renewed = async |more: u64| {
        let before = book.lock().unwrap().renewed;
        eventually("leases are renewed", async || book.lock().unwrap().renewed >= before + more).await;
    };
    renewed(100).await;
    for round in 0..6 {
        let leader = cluster.leader().await;
        let follower = (leader + 1 + rng.below(2) as usize) % 3;
        match round % 3 {
            0 => {
                cluster.kill(leader);
                renewed(150).await;
                cluster.start(leader);
            }
            // It sleeps for longer than the shortest leases live, which others renew meanwhile.
            1 => {
                cluster.pause(leader);
                renewed(200).await;
                cluster.resume(leader);
            }
            _ => {
                cluster.restart(follower);
                cluster.terminate(leader);
                renewed(100).await;
                cluster.stop(leader);
                cluster.start(leader);
            }
        }
        cluster.ready().await;
        renewed(60).await;
        let book = book.lock().unwrap();
        println!("round {round}: {} renewals, {} leases were lost, {} reads", book.renewed, book.lost, book.looks);
        assert_eq!(book.wrong, Vec::<String>::new());
    }
    stop.store(true, Ordering::Relaxed);
    for owner in owners {
        owner.await.unwrap();
    }
    let healed = clock::instant();
    // Each leader gives a lease all of its time again if it was not written down; after the last one it has two of them at most.
    let mut leases = LeaseClient::new(channels(&cluster)[0].clone());
    let longest = Duration::from_secs(12);
    eventually("all leases have ended", async || {
        let left = leases.lease_leases(pb::LeaseLeasesRequest {}).await;
        let left = left.map_or(usize::MAX, |left| left.into_inner().leases.len());
        assert!(left == 0 || healed.elapsed() < longest * 2 + SLACK, "{left} leases nobody keeps alive are there");
        left == 0
    })
    .await;
    println!("all leases have ended after {:?}", healed.elapsed());
    blind.store(true, Ordering::Relaxed);
    watcher.await.unwrap();
    let all = pb::RangeRequest { key: PREFIX.into(), range_end: "lease0".into(), ..Default::default() };
    assert_eq!(cluster.client().range(all).await.unwrap().kvs, vec![], "keys of leases that have ended");
    let book = book.lock().unwrap();
    assert_eq!(book.wrong, Vec::<String>::new());
    assert!(book.looks > 100, "the watcher looked {} times", book.looks);
    drop(book);
    assert_quiet_logs(&cluster);
}

/// What is left of a lease that nobody renews is known to the next leader, but for the half that may not be written down yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_lease_survives_the_leader() {
    let mut cluster = Cluster::steady(3).await;
    let left = async |cluster: &Cluster, id: i64| {
        let ask = pb::LeaseTimeToLiveRequest { id, keys: false };
        for channel in channels(cluster) {
            if let Ok(answer) = LeaseClient::new(channel).lease_time_to_live(ask).await {
                return Some(answer.into_inner().ttl);
            }
        }
        None
    };
    let (mut id, mut before) = (0, 0);
    // If the machine was away for half of the lease's time, there is nothing to be seen of this one.
    while before <= 0 {
        id += 1;
        assert!(id < 10, "the machine is away all the time");
        let grant = pb::LeaseGrantRequest { ttl: 16, id };
        LeaseClient::new(channels(&cluster)[0].clone()).lease_grant(grant).await.unwrap();
        eventually("half of it is over", async || {
            before = left(&cluster, id).await.unwrap_or(16);
            before <= 6
        })
        .await;
        // Acknowledged after the leader has proposed to write it down, and committed after that.
        let put = pb::PutRequest { key: "after".into(), ..Default::default() };
        cluster.client().put(put).await.unwrap();
    }
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let mut after = None;
    eventually("another leader tells", async || {
        after = left(&cluster, id).await;
        after.is_some()
    })
    .await;
    // It was written down as 8 s when it had fallen to that; and never is a lease shorter than its whole seconds.
    assert!(after.is_some_and(|after| after <= 8), "{after:?} s of 16 are left, before it were {before}");
    cluster.start(leader);
    eventually("it ends", async || left(&cluster, id).await == Some(-1)).await;
}

/// A client that keeps thousands of leases alive does so on one stream, at any member, and makes no entry.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_leases_are_renewed_on_one_stream_without_an_entry() {
    const LEASES: i64 = 3000;
    let cluster = Cluster::steady(3).await;
    let channels = channels(&cluster);
    let mut granted = tokio::task::JoinSet::new();
    for first in 1..=30 {
        let mut leases = LeaseClient::new(channels[(first % 3) as usize].clone());
        granted.spawn(async move {
            for id in (first..=LEASES).step_by(30) {
                leases.lease_grant(pb::LeaseGrantRequest { ttl: 3600, id }).await.unwrap();
            }
        });
    }
    granted.join_all().await;
    let client = cluster.client();
    let leader = &cluster.nodes()[cluster.leader().await].client;
    let last = client.inspect(leader).await.unwrap().last_index;
    for endpoint in cluster.endpoints() {
        let channel = Endpoint::from_shared(format!("http://{endpoint}")).unwrap().connect_lazy();
        let asks = (1..=LEASES).map(|id| pb::LeaseKeepAliveRequest { id });
        let begun = clock::instant();
        let answers = LeaseClient::new(channel).lease_keep_alive(tokio_stream::iter(asks)).await.unwrap();
        let mut answers = answers.into_inner();
        for id in 1..=LEASES {
            let answer = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
            assert_eq!((answer.id, answer.ttl), (id, 3600), "in the order of the requests");
        }
        assert_eq!(answers.message().await.unwrap(), None);
        println!("{LEASES} renewals through {endpoint} took {:?}", begun.elapsed());
    }
    assert_eq!(client.inspect(leader).await.unwrap().last_index, last, "a renewal is no entry");
}

/// Who wants a member with a leader is told when there is none for long, on a stream that is at rest; who does not is told when
/// it asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_keepalive_stream_without_a_leader_ends_with_the_reason() {
    let mut cluster = Cluster::quorate(3).await;
    let alone = 0;
    let grant = pb::LeaseGrantRequest { ttl: 3600, id: 7 };
    LeaseClient::new(channels(&cluster)[alone].clone()).lease_grant(grant).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", cluster.endpoints()[alone])).unwrap().connect_lazy();
    let mut streams = Vec::new();
    for needs_leader in [true, false] {
        let (asks, receiver) = tokio::sync::mpsc::channel(1);
        let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        if needs_leader {
            request.metadata_mut().insert("hasleader", "true".parse().unwrap());
        }
        asks.send(pb::LeaseKeepAliveRequest { id: 7 }).await.unwrap();
        let answers = LeaseClient::new(channel.clone()).lease_keep_alive(request).await.unwrap();
        let mut answers = answers.into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().ttl, 3600);
        streams.push((asks, answers));
    }
    (1..3).for_each(|place| cluster.kill(place));
    let [(_at_rest, resting), (asks, asking)] = &mut streams[..] else { unreachable!() };
    let no_leader = |status: Status| (status.code(), status.message().to_owned());
    let expected = (tonic::Code::Unavailable, "etcdserver: no leader".to_owned());
    let ended = tokio::time::timeout(PATIENCE, resting.message()).await.unwrap().unwrap_err();
    assert_eq!(no_leader(ended), expected);
    asks.send(pb::LeaseKeepAliveRequest { id: 7 }).await.unwrap();
    let refused = tokio::time::timeout(PATIENCE, asking.message()).await.unwrap().unwrap_err();
    assert_eq!(no_leader(refused), expected);
}

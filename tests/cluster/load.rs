//! Writers that never stop, and the book in which they note what they were told.
//!
//! Every write is of a key of its own, with a value that follows from the key. So after any accident the store can be read
//! back from each member and compared with the book: what was acknowledged must be there, what was refused must not be,
//! what is uncertain may be, and nothing else may exist. Some writes are transactions of two keys (both or none), some
//! keys are deleted again, some values are large enough to be chunked, and after some acknowledgements the key is read
//! through another member, which must see it.

use crate::support::Cluster;
use quorate::client::{Client, Error, Options};
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use quorate::rng::{Rng, Seed, mix};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How long anything may take that must happen at last: far beyond what it takes on a machine that has other things to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a member says whose disk is full.
pub const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// All keys of a load.
const PREFIX: &str = "load/";

/// How long a writer rests between two writes: the processes under test share the machine with it.
const PACE: Duration = Duration::from_millis(4);

/// What must be found at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Present,
    Absent,
    Either,
}

/// What the writers were told.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub acknowledged: u64,
    pub refused: u64,
    /// Refused for want of room on a disk.
    pub declined: u64,
    pub uncertain: u64,
    /// Why, in the words of the server or of the connection.
    pub doubts: BTreeMap<String, u64>,
    /// Acknowledged writes that were then seen through another member.
    pub reads: u64,
    /// The longest time between two acknowledgements, since it was last asked for.
    pub worst_gap: Duration,
    /// The longest time that one writer was without one, since it was last asked for.
    pub worst_writer_gap: Duration,
}

#[derive(Debug, Default)]
struct Book {
    fates: BTreeMap<String, Fate>,
    counts: Counts,
    last_acknowledged: Option<Instant>,
    /// By writer.
    last_of_writer: BTreeMap<usize, Instant>,
    /// What must never happen.
    wrong: Vec<String>,
}

/// Writers at work.
#[derive(Debug)]
pub struct Load {
    book: Arc<Mutex<Book>>,
    members: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

/// The one value a key may have.
fn value(key: &str) -> Vec<u8> {
    let seed = key.bytes().fold(0, |seed, byte| mix(seed ^ u64::from(byte)));
    let filler = match seed % 400 {
        0 => 250_000,
        1..=8 => 12_000,
        n => n,
    };
    let mut value = format!("{key}={seed:x}=").into_bytes();
    value.resize(value.len() + filler as usize, b'.');
    value
}

impl Load {
    /// `writers` writers, whose first choice are the members in turn.
    pub fn start(cluster: &Cluster, writers: usize) -> Load {
        Load::on(&cluster.endpoints(), writers)
    }

    /// The same for members that are known by their endpoints.
    pub fn on(members: &[String], writers: usize) -> Load {
        let (book, stop) = (Arc::<Mutex<Book>>::default(), Arc::<AtomicBool>::default());
        let members = Arc::new(Mutex::new(members.to_vec()));
        let writer = |number: usize| {
            let writer = Writer::new(number, Arc::clone(&book), Arc::clone(&members));
            tokio::spawn(writer.run(Arc::clone(&stop)))
        };
        let writers = (0..writers).map(writer).collect();
        Load { book, members, stop, writers }
    }

    /// From their next write on the writers ask these members.
    pub fn follow(&self, members: &[String]) {
        *self.members.lock().expect("no writer panics with the members in its hands") = members.to_vec();
    }

    pub fn counts(&self) -> Counts {
        self.book.lock().expect("no writer panics with the book in its hands").counts.clone()
    }

    /// The worst gap since gaps were last taken.
    pub fn take_gap(&self) -> Duration {
        self.take_gaps().0
    }

    /// The worst gap, and the worst one of a single writer, since gaps were last taken.
    pub fn take_gaps(&self) -> (Duration, Duration) {
        let mut book = self.book.lock().expect("no writer panics with the book in its hands");
        (std::mem::take(&mut book.counts.worst_gap), std::mem::take(&mut book.counts.worst_writer_gap))
    }

    /// Waits until `more` further writes were acknowledged.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn acknowledged(&self, more: u64) {
        let goal = self.counts().acknowledged + more;
        eventually(&format!("{more} writes are acknowledged"), async || self.counts().acknowledged >= goal).await;
    }

    /// Ends the writers and compares what every member has with what they were told.
    ///
    /// # Panics
    /// If anything acknowledged is missing, anything refused is there, members differ, or a disk was found full.
    pub async fn verify(self, cluster: &Cluster) {
        assert_eq!(self.verify_declined(cluster).await, 0, "writes were declined, though there is room");
    }

    /// As [`Load::verify`], on a cluster where a disk was full: how many writes were declined for that.
    pub async fn verify_declined(self, cluster: &Cluster) -> u64 {
        self.compare_with(&cluster.endpoints()).await
    }

    /// As [`Load::verify`], on the members that the writers followed last.
    pub async fn verify_followed(self) {
        let members = self.members.lock().expect("no writer panics with the members in its hands").clone();
        assert_eq!(self.compare_with(&members).await, 0, "writes were declined, though there is room");
    }

    /// As [`Load::verify_declined`], on members that are known by their endpoints.
    pub async fn compare_with(self, endpoints: &[String]) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("a writer panicked");
        }
        let applied = settled(endpoints).await;
        let book = self.book.lock().expect("no writer is left").clone_out();
        assert_eq!(book.wrong, Vec::<String>::new(), "things that must never happen");
        for endpoint in endpoints {
            let member = Client::new(std::slice::from_ref(endpoint), Options::default()).expect("an endpoint");
            compare(endpoint, &book.fates, &scan(&member).await);
        }
        println!(
            "{} acknowledged, {} refused, {} uncertain, {} read through another member; equal on every member at index \
             {applied}",
            book.counts.acknowledged, book.counts.refused, book.counts.uncertain, book.counts.reads
        );
        book.counts.declined
    }
}

impl Book {
    fn clone_out(&self) -> Book {
        Book {
            fates: self.fates.clone(),
            counts: self.counts.clone(),
            last_acknowledged: None,
            last_of_writer: BTreeMap::new(),
            wrong: self.wrong.clone(),
        }
    }

    /// Notes what became of a write to `keys` that, done, leaves them in `done`.
    fn note(&mut self, writer: usize, keys: &[&str], done: Fate, outcome: &Result<(), Error>) {
        let counts = &mut self.counts;
        match outcome {
            Ok(()) => {
                counts.acknowledged += 1;
                let now = clock::instant();
                if let Some(last) = self.last_acknowledged.replace(now) {
                    counts.worst_gap = counts.worst_gap.max(now - last);
                }
                if let Some(last) = self.last_of_writer.insert(writer, now) {
                    counts.worst_writer_gap = counts.worst_writer_gap.max(now - last);
                }
            }
            Err(Error::Refused(_)) => counts.refused += 1,
            Err(error @ Error::Uncertain(_)) => {
                counts.uncertain += 1;
                *counts.doubts.entry(error.cause()).or_default() += 1;
            }
            Err(Error::Rejected(status)) if status.message() == NO_SPACE => counts.declined += 1,
            Err(Error::Rejected(status)) => self.wrong.push(format!("a lawful write was rejected: {status:?}")),
        }
        for key in keys {
            let before = self.fates.get(*key).copied().unwrap_or(Fate::Absent);
            let now = match outcome {
                Ok(()) => done,
                Err(Error::Uncertain(_)) => Fate::Either,
                Err(_) => before,
            };
            self.fates.insert((*key).to_owned(), now);
        }
    }
}

struct Writer {
    number: usize,
    client: Client,
    reader: Client,
    book: Arc<Mutex<Book>>,
    /// Who there is, and whom this writer's clients ask.
    members: Arc<Mutex<Vec<String>>>,
    asked: Vec<String>,
    rng: Rng,
}

/// Clients that ask these members: one that begins with the writer's own, and one that begins with another.
fn clients(members: &[String], number: usize) -> [Client; 2] {
    let options = Options { try_timeout: Duration::from_secs(1), ..Options::default() };
    [number, number + 1].map(|first| {
        let mut endpoints = members.to_vec();
        endpoints.rotate_left(first % members.len());
        Client::new(&endpoints, options).expect("endpoints of a cluster")
    })
}

impl Writer {
    fn new(number: usize, book: Arc<Mutex<Book>>, members: Arc<Mutex<Vec<String>>>) -> Writer {
        let asked = members.lock().expect("no writer panics with the members in its hands").clone();
        let [client, reader] = clients(&asked, number);
        Writer { number, client, reader, book, members, asked, rng: Rng::new(Seed(number as u64)) }
    }

    async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            self.look_who_is_there();
            count += 1;
            let key = format!("{PREFIX}{:02}/{count:06}", self.number);
            self.write(&key).await;
            tokio::time::sleep(PACE).await;
        }
    }

    fn look_who_is_there(&mut self) {
        let members = self.members.lock().expect("no writer panics with the members in its hands");
        if *members != self.asked {
            self.asked.clone_from(&members);
            [self.client, self.reader] = clients(&self.asked, self.number);
        }
    }

    async fn write(&mut self, key: &str) {
        let twin = format!("{key}~");
        let kind = self.rng.below(12);
        let (keys, outcome) = if kind == 0 {
            let success =
                [key, &twin].map(|key| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(key))) });
            let txn = pb::TxnRequest { success: success.into(), ..Default::default() };
            (vec![key, twin.as_str()], self.client.txn(txn).await.map(|_| ()))
        } else {
            (vec![key], self.client.put(put(key)).await.map(|_| ()))
        };
        self.note(&keys, Fate::Present, &outcome);
        if outcome.is_ok() && kind == 1 {
            let delete = pb::DeleteRangeRequest { key: key.as_bytes().to_vec().into(), ..Default::default() };
            let outcome = self.client.delete_range(delete).await.map(|_| ());
            self.note(&[key], Fate::Absent, &outcome);
        } else if outcome.is_ok() && kind < 5 {
            self.read_back(key).await;
        }
    }

    /// A linearizable read that began after the acknowledgement, through another member.
    async fn read_back(&self, key: &str) {
        let request = pb::RangeRequest { key: key.as_bytes().to_vec().into(), ..Default::default() };
        // A read that fails says nothing.
        let Ok(response) = self.reader.range(request).await else { return };
        let mut book = self.book.lock().expect("no writer panics with the book in its hands");
        if response.kvs.first().is_some_and(|kv| kv.value[..] == value(key)[..]) {
            book.counts.reads += 1;
        } else {
            book.wrong.push(format!("a linearizable read after its acknowledgement does not see {key}"));
        }
    }

    fn note(&self, keys: &[&str], done: Fate, outcome: &Result<(), Error>) {
        self.book.lock().expect("no writer panics with the book in its hands").note(self.number, keys, done, outcome);
    }
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.as_bytes().to_vec().into(), value: value(key).into(), ..Default::default() }
}

/// All that a member has, asking nobody else.
async fn scan(client: &Client) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut from = PREFIX.as_bytes().to_vec();
    loop {
        let request = pb::RangeRequest {
            key: from.clone().into(),
            range_end: "load0".into(),
            serializable: true,
            limit: 500,
            ..Default::default()
        };
        let response = client.range(request).await.expect("a running member answers a serializable read");
        for kv in response.kvs {
            from = [&kv.key[..], &[0]].concat();
            found.insert(String::from_utf8_lossy(&kv.key).into_owned(), kv.value.to_vec());
        }
        if !response.more {
            return found;
        }
    }
}

fn compare(name: &str, fates: &BTreeMap<String, Fate>, found: &BTreeMap<String, Vec<u8>>) {
    let lacks: Vec<&String> = fates
        .iter()
        .filter(|(key, fate)| **fate == Fate::Present && !found.contains_key(*key))
        .map(|(k, _)| k)
        .collect();
    assert!(lacks.is_empty(), "{name} lost {} acknowledged writes: {:?}", lacks.len(), &lacks[..lacks.len().min(10)]);
    for (key, bytes) in found {
        let fate = fates.get(key);
        assert!(matches!(fate, Some(Fate::Present | Fate::Either)), "{name} has {key}, whose fate is {fate:?}");
        assert!(*bytes == value(key), "{name} has another value at {key} than was written");
        let other = key.strip_suffix('~').map_or_else(|| format!("{key}~"), str::to_owned);
        if fates.contains_key(&other) {
            assert!(found.contains_key(&other), "{name} has half of a transaction: {key} without {other}");
        }
    }
}

/// Waits until all members have applied the same, and returns up to where.
///
/// # Panics
/// If their states differ there, or they don't come together.
pub async fn settled(endpoints: &[String]) -> u64 {
    let client = Client::new(endpoints, Options::default()).expect("endpoints of a cluster");
    let mut at = 0;
    eventually("all members have applied the same", async || {
        let mut seen = Vec::new();
        for endpoint in endpoints {
            let Ok(inspected) = client.inspect(endpoint).await else { return false };
            seen.push((endpoint, inspected));
        }
        let (first_name, first) = &seen[0];
        for (name, other) in &seen[1..] {
            let same_place = first.applied_index == other.applied_index;
            assert!(
                !same_place || first.digest == other.digest,
                "{first_name} and {name} differ at index {}: digests {:x} and {:x}",
                first.applied_index,
                first.digest,
                other.digest
            );
        }
        at = first.applied_index;
        seen.iter().all(|(_, i)| i.applied_index == at && i.commit_index == at && i.last_index == at && i.leader != 0)
    })
    .await;
    at
}

/// Polls until `condition` holds.
///
/// # Panics
/// If it does not for [`PATIENCE`].
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = clock::instant() + PATIENCE;
    while !condition().await {
        assert!(clock::instant() < deadline, "after {PATIENCE:?} it is still not so that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

//! A member that was away for too long takes over the leader's state, and lives on in the same process; one that joins takes
//! over a large one, though who sends it dies.

use crate::kills::assert_quiet_logs;
use crate::load::{Load, PATIENCE, eventually};
use crate::members::{id_of, join, votes};
use crate::support::{Cluster, Server};
use pb::request_op::Request::RequestPut;
use quorate::client::{Client, Error, Options};
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::quorate as own;
use std::collections::BTreeSet;
use std::fs;

/// Little is kept, and nobody is waited for long: ten election timeouts.
pub const FLAGS: [&str; 10] = [
    "--snapshot-count",
    "50",
    "--snapshot-catchup-entries",
    "10",
    "--heartbeat-interval",
    "50",
    "--election-timeout",
    "300",
    "--log-level",
    "debug",
];

/// What a member says when it has taken over a state.
pub const OPENED_AGAIN: &str = "the member is opened again on it";

/// Up to where the log was cut last, by what the member said.
pub fn cut(cluster: &Cluster, place: usize) -> u64 {
    let log = cluster.log(place);
    let line = log.lines().rev().find(|line| line.contains("the log is compacted"));
    let to = line.and_then(|line| line.split(" to=").nth(1)).and_then(|rest| rest.split_whitespace().next());
    to.map_or(0, |to| to.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_for_too_long_takes_over_the_state() {
    let mut cluster = Cluster::new(Server::Quorate, 3, &FLAGS).await;
    let load = Load::start(&cluster, 8);
    load.acknowledged(200).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let has = cluster.client_of(away).inspect(&cluster.nodes()[away].client.clone()).await.unwrap().last_index;
    cluster.kill(away);
    eventually("the leader's log is cut beyond what the killed one has", async || cut(&cluster, leader) > has + 100)
        .await;
    cluster.start(away);
    let pid = cluster.pid(away);
    eventually("it has taken over the state", async || cluster.log(away).contains(OPENED_AGAIN)).await;
    load.acknowledged(100).await;
    cluster.ready().await;
    assert_eq!(cluster.pid(away), pid, "in the same process");
    // On a busy machine it may be away for too long once more.
    eventually("the former ones are gone", async || {
        let entries = fs::read_dir(&cluster.nodes()[away].data_dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        let states: Vec<String> = names.filter(|name| name.starts_with("state")).collect();
        matches!(&states[..], [only] if only.starts_with("state-"))
    })
    .await;
    load.verify(&cluster).await;
    cluster.restart(away);
    cluster.ready().await;
    assert_quiet_logs(&cluster);
}

/// How many keys the large state has, for runs that want more.
const KEYS: &str = "QUORATE_TAKEOVER_KEYS";

/// A million of them stay below the quota.
const VALUE_BYTES: usize = 1000;

/// So many keys are put by one request.
const KEYS_PER_REQUEST: u64 = 100;

/// Puts `count` keys, some requests at once.
pub async fn fill(client: &Client, count: u64) {
    let request = |first: u64| {
        let put = |n: u64| pb::PutRequest {
            key: format!("large/{n:09}").into(),
            value: vec![n as u8; VALUE_BYTES].into(),
            ..Default::default()
        };
        let puts =
            (first..(first + KEYS_PER_REQUEST).min(count)).map(|n| pb::RequestOp { request: Some(RequestPut(put(n))) });
        pb::TxnRequest { success: puts.collect(), ..Default::default() }
    };
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let client = client.clone();
        let firsts = (0..count).step_by(KEYS_PER_REQUEST as usize).skip(writer).step_by(8);
        let requests: Vec<pb::TxnRequest> = firsts.map(request).collect();
        writers.spawn(async move {
            for request in requests {
                // A put that was perhaps done is done again.
                while let Err(error) = client.txn(request.clone()).await {
                    assert!(!matches!(error, Error::Rejected(_)), "{error}");
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
}

/// How many of these keys a member has itself.
pub fn count_large() -> pb::RangeRequest {
    let (key, range_end) = ("large/".into(), "large0".into());
    pb::RangeRequest { key, range_end, count_only: true, serializable: true, ..Default::default() }
}

/// What a member says of the state that it takes over; `None` before and after.
pub async fn install(cluster: &Cluster, place: usize) -> Option<own::InstallStatus> {
    let inspected = cluster.client_of(place).inspect(&cluster.nodes()[place].client).await;
    inspected.ok().and_then(|inspected| inspected.install)
}

/// Waits until a member serves: for as long as that takes, if more of a state that it takes over keeps coming.
async fn serves(cluster: &Cluster, place: usize) {
    let client = cluster.client_of(place).fail_fast();
    let read = pb::RangeRequest { key: "x".into(), ..Default::default() };
    let (mut is_there, mut told) = (false, None);
    while !is_there {
        let before = told;
        eventually("more of a state is there, or it serves", async || {
            is_there = client.range(read.clone()).await.is_ok();
            told = install(cluster, place).await.map(|told| (told.begun, told.done_bytes));
            is_there || told != before
        })
        .await;
    }
}

/// Waits until a member takes over a state, and has some of it: `is_enough`.
async fn taken_over(
    cluster: &Cluster,
    place: usize,
    what: &str,
    is_enough: impl Fn(&own::InstallStatus) -> bool,
) -> own::InstallStatus {
    let mut told = None;
    eventually(what, async || {
        told = install(cluster, place).await.filter(&is_enough);
        told.is_some()
    })
    .await;
    told.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_is_taken_over_though_its_sender_dies_on_the_way() {
    let keys = std::env::var(KEYS).map_or(18_000, |keys| keys.parse().unwrap());
    let mut cluster = Cluster::new(Server::Quorate, 3, &FLAGS).await;
    let begun = clock::instant();
    fill(&cluster.client(), keys).await;
    println!("{keys} keys of {VALUE_BYTES} bytes after {:?}", begun.elapsed());
    let load = Load::start(&cluster, 4);
    load.acknowledged(100).await;
    let mut ids = Vec::new();
    for node in cluster.nodes() {
        ids.push(id_of(&cluster, 0, &node.name).await);
    }
    let joiner = cluster.add();
    let begun = clock::instant();
    join(&mut cluster, joiner, &[0, 1, 2]);
    let is_half = |told: &own::InstallStatus| told.done_bytes * 2 > told.total_bytes;
    let half = taken_over(&cluster, joiner, "half of the state is taken over", is_half).await;
    // It stands still while its sender dies, so that it is in the middle of it whatever the machine is busy with.
    cluster.pause(joiner);
    let sender = ids.iter().position(|id| *id == half.from).unwrap();
    let others: Vec<usize> = (0..3).filter(|place| *place != sender).collect();
    let name = cluster.nodes()[sender].name.clone();
    cluster.kill(sender);
    println!("{half:?} after {:?}: {name} is killed", begun.elapsed());
    load.acknowledged(50).await;
    cluster.resume(joiner);
    let is_resumed = |told: &own::InstallStatus| told.resumed > 0;
    let resumed = taken_over(&cluster, joiner, "another one goes on where the sender was gone", is_resumed).await;
    println!("{resumed:?} after {:?}", begun.elapsed());
    assert!(resumed.from != half.from && resumed.begun == half.begun && resumed.done_bytes >= half.done_bytes);
    serves(&cluster, joiner).await;
    println!("it serves after {:?}", begun.elapsed());
    assert!(!cluster.log(joiner).contains("taking over begins anew"), "what was there was of use");
    votes(&cluster, joiner).await;
    load.acknowledged(50).await;
    cluster.start(sender);
    serves(&cluster, sender).await;
    cluster.ready().await;
    (0..4).for_each(|place| cluster.kill(place));
    let begun = clock::instant();
    (0..3).for_each(|place| cluster.start(place));
    join(&mut cluster, joiner, &others);
    for place in 0..4 {
        serves(&cluster, place).await;
    }
    println!("all were killed, and serve after {:?}", begun.elapsed());
    for place in 0..4 {
        assert_eq!(cluster.client_of(place).range(count_large()).await.unwrap().count, keys as i64);
    }
    load.verify(&cluster).await;
    assert_same_hash(&cluster).await;
    assert_quiet_logs(&cluster);
}

/// All members say the same of everything they hold.
pub async fn assert_same_hash(cluster: &Cluster) {
    let mut hashes = BTreeSet::new();
    // A large one takes its time.
    let options = Options { command_timeout: PATIENCE, ..Options::default() };
    let client = Client::new(&cluster.endpoints(), options).unwrap();
    for endpoint in cluster.endpoints() {
        let hash = client.hash_kv(&endpoint, 0).await.unwrap();
        hashes.insert((hash.hash, hash.compact_revision));
    }
    assert_eq!(hashes.len(), 1, "{hashes:?}");
}

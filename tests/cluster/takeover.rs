//! A member that was away for too long takes over the leader's state, and lives on in the same process; one that joins takes
//! over a large one, though who sends it dies.

use crate::kills::assert_quiet_logs;
use crate::load::{Load, eventually};
use crate::members::{join, votes};
use crate::support::{Cluster, Server};
use pb::request_op::Request::RequestPut;
use quorate::client::{Client, Error};
use quorate::clock;
use quorate::proto::etcdserverpb as pb;

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
    let opened_again = "the member is opened again on it";
    eventually("it has taken over the state", async || cluster.log(away).contains(opened_again)).await;
    load.acknowledged(100).await;
    cluster.ready().await;
    assert_eq!(cluster.pid(away), pid, "in the same process");
    assert!(cluster.nodes()[away].data_dir.join("state-1").is_dir());
    assert!(!cluster.nodes()[away].data_dir.join("state").exists(), "the former one is gone");
    load.verify(&cluster).await;
    cluster.restart(away);
    cluster.ready().await;
    assert_quiet_logs(&cluster);
}

/// How many keys the large state has, for runs that want more.
const KEYS: &str = "QUORATE_TAKEOVER_KEYS";

/// So many keys are put by one request.
const KEYS_PER_REQUEST: u64 = 100;

/// Puts `count` keys of some KiB each, and some requests at once.
async fn fill(client: &Client, count: u64) {
    let request = |first: u64| {
        let put = |n: u64| pb::PutRequest {
            key: format!("large/{n:09}").into(),
            value: vec![n as u8; 3000].into(),
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

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_is_taken_over_though_its_sender_dies_on_the_way() {
    let keys = std::env::var(KEYS).map_or(6000, |keys| keys.parse().unwrap());
    let mut cluster = Cluster::new(Server::Quorate, 3, &FLAGS).await;
    fill(&cluster.client(), keys).await;
    let load = Load::start(&cluster, 4);
    load.acknowledged(100).await;
    let sender = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|place| *place != sender).collect();
    let joiner = cluster.add();
    let begun = clock::instant();
    join(&mut cluster, joiner, &others);
    let client = cluster.client_of(joiner);
    let endpoint = cluster.nodes()[joiner].client.clone();
    let mut done = (0, 0);
    eventually("some of the state is taken over", async || {
        let install = client.inspect(&endpoint).await.ok().and_then(|inspected| inspected.install);
        done = install.map_or(done, |install| (install.done_bytes, install.total_bytes));
        done.0 * 10 > done.1
    })
    .await;
    // It stands still while its sender dies, so that it is in the middle of it whatever the machine is busy with.
    cluster.pause(joiner);
    cluster.kill(sender);
    println!("{} of {} bytes after {:?}: {} is killed", done.0, done.1, begun.elapsed(), cluster.nodes()[sender].name);
    load.acknowledged(50).await;
    cluster.resume(joiner);
    votes(&cluster, joiner).await;
    println!("taken over after {:?}", begun.elapsed());
    let log = cluster.log(joiner);
    assert!(
        log.contains("another leader goes on with the state that is taken over"),
        "it was in the middle, and went on"
    );
    assert!(log.contains("the member is opened again on it"));
    load.acknowledged(50).await;
    cluster.start(sender);
    cluster.ready().await;
    (0..4).for_each(|place| cluster.kill(place));
    (0..3).for_each(|place| cluster.start(place));
    join(&mut cluster, joiner, &others);
    cluster.ready().await;
    let large = pb::RangeRequest {
        key: "large/".into(),
        range_end: "large0".into(),
        count_only: true,
        serializable: true,
        ..Default::default()
    };
    for place in 0..4 {
        assert_eq!(cluster.client_of(place).range(large.clone()).await.unwrap().count, keys as i64);
    }
    load.verify(&cluster).await;
    assert_quiet_logs(&cluster);
}

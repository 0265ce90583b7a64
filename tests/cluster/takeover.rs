//! A member that was away for too long takes over the leader's state, and lives on in the same process.

use crate::kills::assert_quiet_logs;
use crate::load::{Load, eventually};
use crate::support::{Cluster, Server};

/// Little is kept, and nobody is waited for long: ten election timeouts.
const FLAGS: [&str; 10] = [
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
fn cut(cluster: &Cluster, place: usize) -> u64 {
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

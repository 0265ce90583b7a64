//! Disks that are lost: the member comes back under a new id, and never votes with an empty log.

use crate::ended::ended;
use crate::kills::assert_quiet_logs;
use crate::load::{Load, eventually};
use crate::members::{id_of, join, joining, votes};
use crate::support::Cluster;
use std::fs;

/// A follower's disk is lost while the other follower is down: what is committed is on the leader alone. It can decide
/// nothing, and nobody votes for anybody, until the other one is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_wiped_while_another_is_down() {
    let mut cluster = Cluster::quorate(3).await;
    let load = Load::start(&cluster, 6);
    load.acknowledged(200).await;
    let leader = cluster.leader().await;
    let (down, wiped) = ((leader + 1) % 3, (leader + 2) % 3);
    let name = cluster.nodes()[wiped].name.clone();
    let old = id_of(&cluster, leader, &name).await;
    cluster.kill(down);
    // Those who are left have what the one that is down lacks.
    load.acknowledged(200).await;
    cluster.kill(wiped);
    fs::remove_dir_all(&cluster.nodes()[wiped].data_dir).unwrap();
    let client = cluster.client();
    let endpoint = cluster.nodes()[leader].client.clone();
    let inspect = async || client.inspect(&endpoint).await.unwrap();
    eventually("the leader has seen that it leads nobody", async || inspect().await.role != "leader").await;
    let stood = inspect().await;

    // As it was started ever since: it has forgotten what it promised.
    ended(&mut cluster.command(wiped))
        .assert(1, &["its data directory was emptied", "must not take part under its old id"]);
    fs::remove_dir_all(&cluster.nodes()[wiped].data_dir).unwrap();
    // As somebody who joins: that is a change, and there is nobody to decide it.
    let command = joining(&cluster, wiped, &[leader]);
    cluster.start_with(wiped, command);
    eventually("it was told to wait", async || cluster.log(wiped).contains("can't be joined yet")).await;
    let now = inspect().await;
    assert_eq!((now.commit_index, now.term), (stood.commit_index, stood.term), "nothing was decided meanwhile");
    assert_ne!(now.role, "leader");

    cluster.start(down);
    eventually("it was replaced", async || {
        let list = cluster.client_of(leader).member_list(true).await;
        list.is_ok_and(|list| list.members.len() == 3 && list.members.iter().all(|member| member.id != old))
    })
    .await;
    votes(&cluster, wiped).await;
    cluster.ready().await;
    load.acknowledged(100).await;
    // All at once, right after it.
    (0..3).for_each(|place| cluster.kill(place));
    for place in 0..3 {
        if place == wiped { join(&mut cluster, place, &[leader]) } else { cluster.start(place) }
    }
    cluster.ready().await;
    load.verify(&cluster).await;
    assert_quiet_logs(&cluster);
}

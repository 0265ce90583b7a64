//! Clusters that change: members join under load, old ones are removed, a lost disk is replaced.

use crate::ended::ended;
use crate::kills::assert_quiet_logs;
use crate::load::{Load, eventually};
use crate::support::Cluster;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::cluster_client::ClusterClient;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use tonic::transport::{Channel, Endpoint};

/// etcd's Cluster service at one member.
async fn service(cluster: &Cluster, place: usize) -> ClusterClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.nodes()[place].client)).unwrap();
    ClusterClient::new(endpoint.connect().await.unwrap())
}

pub async fn members(cluster: &Cluster, place: usize) -> Vec<pb::Member> {
    cluster.client_of(place).member_list(true).await.unwrap().members
}

pub async fn id_of(cluster: &Cluster, place: usize, name: &str) -> u64 {
    members(cluster, place).await.into_iter().find(|member| member.name == name).unwrap().id
}

/// The command that starts a place with `--join`, asking these.
pub fn joining(cluster: &Cluster, place: usize, asks: &[usize]) -> Command {
    let peers: Vec<&str> = asks.iter().map(|place| cluster.nodes()[*place].peer.as_str()).collect();
    let mut command = cluster.command_without_cluster(place);
    command.args(["--join", &peers.join(",")]).args(cluster.extra());
    command
}

/// Starts a place that was added with `--join`, asking these.
pub fn join(cluster: &mut Cluster, place: usize, asks: &[usize]) {
    let command = joining(cluster, place, asks);
    cluster.start_with(place, command);
}

/// Waits until a member serves, and until it votes: the table says of those who join that they vote, but a leader does not
/// commit without them only when they do.
pub async fn votes(cluster: &Cluster, place: usize) {
    let node = &cluster.nodes()[place];
    let client = cluster.client_of(place);
    eventually(&format!("{} has joined and caught up", node.name), async || {
        let own = client.inspect(&node.client).await;
        let read = pb::RangeRequest { key: "x".into(), ..Default::default() };
        own.is_ok_and(|own| own.voters.contains(&own.member_id)) && client.range(read).await.is_ok()
    })
    .await;
}

pub async fn remove(cluster: &Cluster, at: usize, id: u64) {
    let client = cluster.client_of(at);
    eventually("it is removed", async || {
        // It may be refused in passing; who asks twice hears that there is no such member.
        let _ = client.member_remove(id).await;
        client.member_list(true).await.is_ok_and(|list| list.members.iter().all(|member| member.id != id))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_joins_under_load_and_takes_the_place_of_another() {
    let mut cluster = Cluster::quorate(3).await;
    let load = Load::start(&cluster, 6);
    load.acknowledged(200).await;
    let fourth = cluster.add();
    join(&mut cluster, fourth, &[0, 1]);
    votes(&cluster, fourth).await;
    load.acknowledged(100).await;
    let gone = id_of(&cluster, 1, "n1").await;
    remove(&cluster, 1, gone).await;
    eventually("the removed member has stopped", async || cluster.ended(0).is_some()).await;
    assert_eq!(cluster.ended(0).unwrap().code(), Some(0), "in order");
    assert!(cluster.log(0).contains("was removed from cluster"));
    cluster.kill(0);
    // Started again, it hears the same, from its own state or at the door.
    ended(&mut cluster.command(0)).assert(0, &["was removed from cluster", "--join"]);
    let names: BTreeSet<String> = members(&cluster, 1).await.into_iter().map(|member| member.name).collect();
    assert_eq!(names, ["n2", "n3", "n4"].map(str::to_owned).into());
    // With one of the old ones down, nothing is committed without the new one.
    cluster.kill(2);
    load.acknowledged(100).await;
    cluster.start(2);
    cluster.ready().await;
    let endpoints: Vec<String> = (1..4).map(|place| cluster.nodes()[place].client.clone()).collect();
    assert_eq!(load.compare_with(&endpoints).await, 0);
    let mut hashes = BTreeSet::new();
    for place in 1..4 {
        let client = cluster.client_of(place);
        let hash = client.hash_kv(&cluster.nodes()[place].client, 0).await.unwrap();
        hashes.insert((hash.hash, hash.compact_revision));
    }
    assert_eq!(hashes.len(), 1, "{hashes:?}");
    assert_quiet_logs(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_joins_as_etcds_do_and_stale_flags_do_no_harm() {
    let mut cluster = Cluster::quorate(1).await;
    let second = cluster.add();
    let start = |cluster: &Cluster, state: &str| {
        let mut command = cluster.command_without_cluster(second);
        command.args(["--initial-cluster", &cluster.initial_cluster(), "--initial-cluster-state", state]);
        command
    };
    // Nobody has added it.
    ended(&mut start(&cluster, "existing")).assert(1, &["has no member with the peer URLs", "member add n2", "--join"]);
    let peer_ur_ls = vec![format!("http://{}", cluster.nodes()[second].peer)];
    let add = pb::MemberAddRequest { peer_ur_ls, is_learner: false };
    let added = service(&cluster, 0).await.member_add(add).await.unwrap().into_inner();
    let id = added.member.unwrap().id;
    let command = start(&cluster, "existing");
    cluster.start_with(second, command);
    votes(&cluster, second).await;
    assert_eq!(id_of(&cluster, second, "n2").await, id);
    for state in ["existing", "new"] {
        let status = tokio::task::block_in_place(|| cluster.stop(second));
        assert!(status.success());
        let command = start(&cluster, state);
        cluster.start_with(second, command);
        cluster.ready().await;
    }
    // The founder's list has grown since, too.
    tokio::task::block_in_place(|| cluster.stop(0));
    cluster.start(0);
    cluster.ready().await;
    assert_eq!(members(&cluster, 0).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_is_replaced_if_the_others_are_a_quorum() {
    let mut cluster = Cluster::quorate(3).await;
    let load = Load::start(&cluster, 4);
    load.acknowledged(100).await;
    let old = id_of(&cluster, 0, "n3").await;
    // It runs: nobody takes its place.
    let aside = cluster.nodes()[2].data_dir.with_extension("aside");
    let (client, peer) = (crate::refusals::free_url(), crate::refusals::free_url());
    let mut twin = cluster.command_without_cluster(2);
    twin.arg("--data-dir").arg(&aside).args(["--join", &cluster.nodes()[0].peer]);
    twin.args(["--listen-client-urls", &client, "--listen-peer-urls", &peer]);
    ended(&mut twin).assert(1, &["does not let this member join", "and it runs"]);
    // Its disk is lost.
    cluster.kill(2);
    fs::remove_dir_all(&cluster.nodes()[2].data_dir).unwrap();
    join(&mut cluster, 2, &[0, 1]);
    eventually("it was replaced", async || {
        let found = members(&cluster, 0).await.into_iter().find(|member| member.name == "n3");
        found.is_some_and(|member| member.id != old)
    })
    .await;
    votes(&cluster, 2).await;
    load.verify(&cluster).await;
    assert_quiet_logs(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_serves_what_it_has_itself() {
    let mut cluster = Cluster::quorate(1).await;
    let second = cluster.add();
    let peer_ur_ls = vec![format!("http://{}", cluster.nodes()[second].peer)];
    let add = pb::MemberAddRequest { peer_ur_ls, is_learner: true };
    let added = service(&cluster, 0).await.member_add(add).await.unwrap().into_inner();
    let id = added.member.unwrap().id;
    let mut command = cluster.command_without_cluster(second);
    command.args(["--initial-cluster", &cluster.initial_cluster(), "--initial-cluster-state", "existing"]);
    cluster.start_with(second, command);
    cluster
        .client_of(0)
        .put(pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() })
        .await
        .unwrap();
    let client = cluster.client_of(second);
    let read = |serializable| pb::RangeRequest { key: "k".into(), serializable, ..Default::default() };
    eventually("the learner has it", async || client.range(read(true)).await.is_ok_and(|found| found.count == 1)).await;
    let endpoint = &cluster.nodes()[second].client;
    assert!(client.status(endpoint).await.unwrap().is_learner);
    for refused in [
        client.range(read(false)).await.unwrap_err().to_string(),
        client.put(pb::PutRequest { key: "k".into(), ..Default::default() }).await.unwrap_err().to_string(),
    ] {
        assert!(refused.contains("etcdserver: rpc not supported for learner"), "{refused}");
    }
    eventually("it may be promoted", async || {
        let promoted = service(&cluster, 0).await.member_promote(pb::MemberPromoteRequest { id }).await;
        promoted.is_ok()
    })
    .await;
    eventually("it serves all", async || client.range(read(false)).await.is_ok()).await;
    assert!(!client.status(endpoint).await.unwrap().is_learner);
    // Two voters: the first one alone decides nothing.
    cluster.kill(second);
    let put =
        cluster.client_of(0).put(pb::PutRequest { key: "k".into(), value: "w".into(), ..Default::default() }).await;
    assert!(put.is_err());
}

//! Members that are not who they say, and disks that are not what they were: the others go on, and lose nothing.

use crate::ended::{Ended, ended, wait};
use crate::kills::assert_quiet_logs;
use crate::load::{Load, eventually};
use crate::refusals::{copy, free_url};
use crate::support::{Cluster, Server};
use quorate::proto::etcdserverpb as pb;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The member whose disk is tampered with.
const N3: usize = 2;

/// Everything that can be wrong with one member's disk, one after another on one cluster, under one load.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_wrong_disk_is_refused_and_the_others_go_on() {
    let mut cluster = Cluster::quorate(3).await;
    let load = Load::start(&cluster, 8);
    load.acknowledged(200).await;
    published(&cluster).await;
    an_emptied_volume(&mut cluster, &load).await;
    a_lost_identity(&mut cluster, &load).await;
    a_lost_state(&mut cluster, &load).await;
    an_old_copy(&mut cluster, &load).await;
    rot_in_the_log(&mut cluster, &load).await;
    rot_in_the_state(&mut cluster, &load).await;
    load.verify(&cluster).await;
    assert_quiet_logs(&cluster);
}

/// Waits until every member knows on which disk every other one lives: it is published with the client URLs.
async fn published(cluster: &Cluster) {
    for place in 0..3 {
        let client = cluster.client_of(place);
        eventually("all members have published themselves", async || {
            let list = client.member_list(false).await.unwrap();
            list.members.iter().all(|member| !member.client_ur_ls.is_empty())
        })
        .await;
    }
}

/// Stops n3 and moves its data aside.
async fn put_aside(cluster: &mut Cluster, load: &Load) -> PathBuf {
    tokio::task::block_in_place(|| cluster.stop(N3));
    load.acknowledged(50).await;
    let aside = cluster.nodes()[N3].data_dir.with_extension("aside");
    fs::rename(&cluster.nodes()[N3].data_dir, &aside).unwrap();
    aside
}

/// Gives n3 its data back: it goes on as if nothing had been.
async fn put_back(cluster: &mut Cluster, load: &Load, aside: &Path) {
    let data_dir = &cluster.nodes()[N3].data_dir;
    if data_dir.exists() {
        fs::remove_dir_all(data_dir).unwrap();
    }
    fs::rename(aside, data_dir).unwrap();
    load.acknowledged(50).await;
    cluster.start(N3);
    cluster.ready().await;
}

/// Starts n3, which must end by itself, while the others go on.
async fn refused(cluster: &Cluster, load: &Load) -> Ended {
    let ended = ended(&mut cluster.command(N3));
    load.acknowledged(50).await;
    ended
}

async fn an_emptied_volume(cluster: &mut Cluster, load: &Load) {
    let aside = put_aside(cluster, load).await;
    fs::create_dir(&cluster.nodes()[N3].data_dir).unwrap();
    refused(cluster, load).await.assert(
        1,
        &[
            "lives on disk",
            "its data directory was emptied, or replaced by another one",
            "must not take part under its old id",
            "Bring its own data directory back",
        ],
    );
    // The same directory once more: by now it has a META of its own.
    refused(cluster, load).await.assert(1, &["its data directory was emptied, or replaced by another one"]);
    put_back(cluster, load, &aside).await;
}

async fn a_lost_identity(cluster: &mut Cluster, load: &Load) {
    let aside = put_aside(cluster, load).await;
    let data_dir = &cluster.nodes()[N3].data_dir;
    copy(&aside, data_dir);
    fs::remove_dir_all(data_dir.join("raft")).unwrap();
    refused(cluster, load).await.assert(1, &["raft is gone or was emptied", "Put back the raft directory"]);
    // Another member's log in its place. That member is at work: a file may be gone before it is copied.
    let copied = || {
        let (from, to) = (cluster.nodes()[0].data_dir.join("raft"), data_dir.join("raft"));
        if to.exists() {
            fs::remove_dir_all(&to).unwrap();
        }
        Command::new("cp").arg("-a").args([&from, &to]).stderr(Stdio::null()).status().unwrap().success()
    };
    eventually("another log is copied", async || copied()).await;
    refused(cluster, load)
        .await
        .assert(1, &["raft was made in another data directory", "Put back the one that belongs"]);
    put_back(cluster, load, &aside).await;
}

/// What was applied can be had again from the log.
async fn a_lost_state(cluster: &mut Cluster, load: &Load) {
    tokio::task::block_in_place(|| cluster.stop(N3));
    fs::remove_dir_all(cluster.nodes()[N3].data_dir.join("state")).unwrap();
    load.acknowledged(50).await;
    cluster.start(N3);
    cluster.ready().await;
}

/// A copy of the directory, older than what the member did since, started beside the member itself: one of the two has to
/// go, and it is the copy.
async fn an_old_copy(cluster: &mut Cluster, load: &Load) {
    tokio::task::block_in_place(|| cluster.stop(N3));
    let old = cluster.nodes()[N3].data_dir.with_extension("copy");
    copy(&cluster.nodes()[N3].data_dir, &old);
    cluster.start(N3);
    cluster.ready().await;
    load.acknowledged(50).await;
    let (client, peer) = (free_url(), free_url());
    let mut command = cluster.command(N3);
    command.arg("--data-dir").arg(&old).args(["--listen-client-urls", &client, "--listen-peer-urls", &peer]);
    ended(&mut command).assert(1, &["another process runs as this member", "is an old copy", "run one process"]);
    // Its next life would be later than the member's own.
    for _ in 0..2 {
        ended(&mut command)
            .assert(1, &["was refused by the cluster once", "It is an old copy", "quorate serve --join"]);
    }
    load.acknowledged(50).await;
    assert_eq!(cluster.ended(N3), None, "the member itself goes on");
    cluster.ready().await;
}

/// Flipped bits in the log: sled takes what is behind them for never written, and the state knows better.
async fn rot_in_the_log(cluster: &mut Cluster, load: &Load) {
    let aside = rot(cluster, load, "raft").await;
    refused(cluster, load)
        .await
        .assert(1, &["raft", "is damaged", "Put the original `raft` directory back", "under a new id"]);
    put_back(cluster, load, &aside).await;
}

/// Flipped bits in the state: either sled takes what is behind them for never written, and the log makes it up; or they
/// are found, and the start is refused.
async fn rot_in_the_state(cluster: &mut Cluster, load: &Load) {
    let aside = rot(cluster, load, "state").await;
    cluster.start(N3);
    let client = cluster.client_of(N3);
    let read = pb::RangeRequest { key: "state".into(), ..Default::default() };
    eventually("the member goes on, or has ended", async || {
        client.range(read.clone()).await.is_ok() || cluster.ended(N3).is_some()
    })
    .await;
    match cluster.ended(N3) {
        None => println!("rot in the state was made up from the log"),
        Some(status) => {
            println!("rot in the state was refused");
            assert_eq!(status.code(), Some(1));
            assert!(cluster.log(N3).lines().any(|line| line.contains("damaged")));
            cluster.kill(N3);
            put_back(cluster, load, &aside).await;
        }
    }
}

/// Has n3 write a value, stops it, and flips a bit of the value in its file. The intact data are returned.
async fn rot(cluster: &mut Cluster, load: &Load, database: &str) -> PathBuf {
    let marker = format!("a value that is easily found in {database}");
    let put = pb::PutRequest { key: database.to_owned().into(), value: marker.clone().into(), ..Default::default() };
    let client = cluster.client_of(N3);
    // Whatever became of a put, the next one makes no difference.
    eventually("the marker is written", async || client.put(put.clone()).await.is_ok()).await;
    load.acknowledged(300).await;
    tokio::task::block_in_place(|| cluster.stop(N3));
    let data_dir = cluster.nodes()[N3].data_dir.clone();
    let aside = data_dir.with_extension("aside");
    copy(&data_dir, &aside);
    flip_a_bit(&data_dir.join(database).join("db"), marker.as_bytes());
    aside
}

/// Flips a bit of every occurrence of `marker`.
fn flip_a_bit(path: &Path, marker: &[u8]) {
    let bytes = fs::read(path).unwrap();
    let found: Vec<usize> = (0..bytes.len() - marker.len()).filter(|at| bytes[*at..].starts_with(marker)).collect();
    assert!(!found.is_empty(), "{} does not hold the value", path.display());
    let file = File::options().write(true).open(path).unwrap();
    for at in found {
        file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
    }
}

/// A member of another cluster that has one of ours in its `--initial-cluster`.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_cluster_is_not_let_in() {
    let mut cluster = Cluster::quorate(3).await;
    let load = Load::start(&cluster, 4);
    let stranger = Cluster::unstarted(Server::Quorate, 1, &[]);
    let node = &stranger.nodes()[0];
    let members = format!("n1=http://{},other=http://{}", node.peer, cluster.nodes()[1].peer);
    let mut process = spawn(stranger.command(0).args(["--initial-cluster", &members]), &node.log_path);
    eventually("the stranger was told why it is refused", async || {
        let log = stranger.log(0);
        let told =
            ["it refuses this member", "belongs to cluster", "check --initial-cluster and --initial-cluster-token"];
        told.iter().all(|phrase| log.contains(phrase))
    })
    .await;
    load.acknowledged(200).await;
    let client = stranger.client();
    let status = client.status(&node.client).await.unwrap();
    assert_eq!(status.leader, 0, "it waits for its own other member");
    process.kill().unwrap();
    wait(process).unwrap();
    for place in 0..3 {
        assert_eq!(cluster.ended(place), None);
    }
    load.verify(&cluster).await;
    assert_quiet_logs(&cluster);
    assert_quiet_logs(&stranger);
}

/// Starts a program that goes on.
pub fn spawn(command: &mut Command, log_path: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log_path).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

//! Disks that are full, and disks that fail.

use crate::ended::wait;
use crate::kills::assert_quiet_logs;
use crate::load::{Load, NO_SPACE, PATIENCE, eventually};
use crate::strangers::spawn;
use crate::support::{Cluster, Server, skip};
use quorate::client::{self, Client, Error};
use quorate::ids::Index;
use quorate::proto::etcdserverpb as pb;
use quorate::storage::Engine;
use quorate::storage::key::Key;
use quorate::storage::sled::{Options, SledEngine};
use quorate::storage::space::{FLOOR, free_space};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

fn put(key: &str, len: usize) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: vec![b'v'; len].into(), ..Default::default() }
}

async fn count(cluster: &Cluster) -> i64 {
    let all = pb::RangeRequest {
        key: "key".into(),
        range_end: "kez".into(),
        count_only: true,
        serializable: true,
        ..Default::default()
    };
    cluster.client().range(all).await.unwrap().count
}

/// A write that the disk refuses ends the process with a sentence. `ulimit -f` refuses it, in the middle of the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_ends_the_process_and_a_restart_recovers() {
    let mut cluster = Cluster::unstarted(Server::Quorate, 1, &[]);
    // The limit counts blocks of 1 KiB: above the ballast's 32 MiB, and soon reached.
    let command = cluster.command(0);
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 40000; exec \"$0\" \"$@\""]).arg(command.get_program());
    limited.args(command.get_args());
    let process = spawn(&mut limited, &cluster.nodes()[0].log_path);
    // A slow disk is no failed one: who asks waits.
    let options = client::Options { command_timeout: PATIENCE, try_timeout: PATIENCE, ..client::Options::default() };
    let client = Client::new(&cluster.endpoints(), options).unwrap();
    eventually("the member is ready", async || client.put(put("ready", 1)).await.is_ok()).await;
    let mut acknowledged = 0;
    loop {
        match client.put(put(&format!("key{acknowledged:04}"), 300_000)).await {
            Ok(_) => acknowledged += 1,
            Err(Error::Uncertain(_) | Error::Refused(_)) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(acknowledged < 1000, "the limit was never reached");
    }
    let status = tokio::task::block_in_place(|| wait(process)).expect("it ends by itself");
    assert!(!status.success());
    let log = cluster.log(0);
    assert!(!log.contains("panicked"), "{log}");
    for phrase in ["quorate: ", "nothing that", "was acknowledged", "start"] {
        assert!(log.contains(phrase), "it did not say {phrase:?}, but:\n{log}");
    }
    println!("after {acknowledged} writes: {status}: {}", log.lines().last().unwrap_or_default());
    cluster.start(0);
    cluster.ready().await;
    let found = count(&cluster).await;
    assert!((acknowledged..=acknowledged + 1).contains(&found), "{found} of {acknowledged} are there");
}

const UNMOUNTED: &str = "this user may not mount a small file system for it";

/// A small file system of its own, unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` if this user may not mount.
    fn mount(at: &Path) -> Option<Tmpfs> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=200m", "none"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Tmpfs(at.to_owned()))
    }

    /// Leaves `bytes` free.
    fn fill_up_to(&self, bytes: u64) {
        let file = fs::File::create(self.0.join("filler")).unwrap();
        // The member takes some of it meanwhile.
        while {
            let room = free_space(&self.0).unwrap() - bytes;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, room).is_err()
        } {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: the member may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Below the floor what grows is declined, all else goes on; with room again, writes do.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_declines_what_grows_and_loses_nothing() {
    const NAME: &str = "a_full_disk_declines_what_grows_and_loses_nothing";
    let mut cluster = Cluster::unstarted(Server::Quorate, 1, &[]);
    let Some(tmpfs) = Tmpfs::mount(&cluster.nodes()[0].data_dir) else { return skip(NAME, UNMOUNTED) };
    cluster.start(0);
    cluster.ready().await;
    let client = cluster.client();
    for n in 0..20 {
        client.put(put(&format!("key{n:04}"), 1000)).await.unwrap();
    }
    tmpfs.fill_up_to(FLOOR + (4 << 20));
    let mut more = 0;
    let declined = loop {
        match client.put(put(&format!("kez{more:06}"), 1000)).await {
            Ok(_) => more += 1,
            Err(error) => break error,
        }
        assert!(more < 100_000, "the floor was never reached");
    };
    let (Error::Rejected(status) | Error::Refused(status)) = &declined else { panic!("{declined:?}") };
    let told = (status.code(), status.message());
    assert_eq!(told, (tonic::Code::ResourceExhausted, NO_SPACE));
    assert_eq!(count(&cluster).await, 20, "reads go on");
    let read = pb::RangeRequest { key: "key0001".into(), ..Default::default() };
    assert_eq!(client.range(read).await.unwrap().count, 1, "linearizable ones too");
    let delete = pb::DeleteRangeRequest { key: "key0000".into(), ..Default::default() };
    assert_eq!(client.delete_range(delete).await.unwrap().deleted, 1, "deletes go on");

    // A restart on the full disk.
    cluster.restart(0);
    cluster.ready().await;
    assert_eq!(count(&cluster).await, 19);
    assert!(client.put(put("key0000", 1000)).await.is_err(), "it is full still");

    tmpfs.free();
    eventually("writes are taken again", async || client.put(put("key0000", 1000)).await.is_ok()).await;
    assert_eq!(count(&cluster).await, 20);
    assert_quiet_logs(&cluster);
}

/// Somebody else takes the last byte of one member's disk at once. It may have to end, if it was just about to write; the
/// others go on, and with room again it has everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_disk_fills_at_once_comes_back_whole() {
    const NAME: &str = "a_member_whose_disk_fills_at_once_comes_back_whole";
    let mut cluster = Cluster::unstarted(Server::Quorate, 3, &[]);
    let Some(tmpfs) = Tmpfs::mount(&cluster.nodes()[2].data_dir) else { return skip(NAME, UNMOUNTED) };
    (0..3).for_each(|place| cluster.start(place));
    cluster.ready().await;
    if cluster.leader().await == 2 {
        cluster.restart(2);
        cluster.ready().await;
    }
    let load = Load::start(&cluster, 8);
    load.acknowledged(200).await;
    tmpfs.fill_up_to(0);
    load.acknowledged(500).await;
    let client = cluster.client_of(2);
    let node = cluster.nodes()[2].client.clone();
    eventually("it declines, or has ended", async || {
        let behind = client.inspect(&node).await.is_ok_and(|i| i.leader != 0 && i.last_index < i.commit_index.max(200));
        behind || cluster.log(2).contains("the disk is almost full") || cluster.ended(2).is_some()
    })
    .await;
    if let Some(status) = cluster.ended(2) {
        println!("it ended: {status}: {}", cluster.log(2).lines().last().unwrap_or_default());
        cluster.kill(2);
        cluster.start(2);
    } else {
        println!("it declined");
    }
    load.acknowledged(200).await;
    tmpfs.free();
    cluster.ready().await;
    println!("{} writes were declined", load.verify_declined(&cluster).await);
    assert!((0..3).all(|place| !cluster.log(place).contains("panicked")));
}

/// Flips a bit of the first value in a database whose key begins so.
fn rot(database: &Path, key: u8) {
    let engine = SledEngine::open(database, Options::new(8 << 20)).unwrap();
    let mut found = None;
    engine
        .scan(&[key], &[key + 1], &mut |key, value| {
            found = Some((key.to_vec(), value.to_vec()));
            ControlFlow::Break(())
        })
        .unwrap();
    let (key, mut value) = found.unwrap();
    let last = value.len() - 1;
    value[last] ^= 1;
    engine.put(&key, &value).unwrap();
    engine.sync().unwrap();
}

/// A state that rotted is set aside, said and made again; a log that rotted is refused, with the way out.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_never_served() {
    let mut cluster = Cluster::unstarted(Server::Quorate, 3, &[]);
    (0..3).for_each(|place| cluster.start(place));
    cluster.ready().await;
    let load = Load::start(&cluster, 4);
    load.acknowledged(200).await;
    let data = cluster.nodes()[2].data_dir.clone();
    // In order, so that the state is synced.
    cluster.stop(2);
    rot(&data.join("state"), Key::Record { first: Index(0), chunk: 0 }.encode()[0]);
    cluster.start(2);
    load.acknowledged(100).await;
    cluster.ready().await;
    assert!(cluster.log(2).contains("it is set aside"), "{}", cluster.log(2));
    assert!(data.join("state.rotten").join("db").exists());
    load.verify(&cluster).await;

    cluster.kill(2);
    rot(&data.join("raft"), Key::Log { first: Index(0), chunk: 0 }.encode()[0]);
    cluster.start(2);
    eventually("it ends by itself", async || cluster.ended(2).is_some()).await;
    let log = cluster.log(2);
    for phrase in ["the raft log is damaged at index", "must not vote", "quorate serve --join"] {
        assert!(log.contains(phrase), "it did not say {phrase:?}, but:\n{log}");
    }
}

//! Starts that must be refused: with what is wrong, why, and what to do, and without touching anything.

use crate::ended::{Ended, ended, quorate};
use crate::kills::assert_quiet_logs;
use crate::support::{Cluster, Server};
use quorate::checksum::{crc, crc_append};
use quorate::proto::etcdserverpb as pb;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_command_line_is_refused_with_a_way_out() {
    let home = tempfile::tempdir().unwrap();
    let serve = |args: &[&str]| ended(quorate().arg("serve").args(args).current_dir(home.path()));
    serve(&["--listen-client-url", "http://localhost:1"]).assert(2, &["'--listen-client-urls'"]);
    serve(&["--listen-client-urls", "localhost:2379"])
        .assert(1, &["--listen-client-urls has \"localhost:2379\"", "no scheme: write http://localhost:2379"]);
    serve(&["--listen-peer-urls", "http://localhost:99999"]).assert(1, &["port \"99999\" is not a number from 1"]);
    serve(&["--initial-cluster", "n1"]).assert(1, &["--initial-cluster"]);
    serve(&["--name", "n9", "--initial-cluster", "n1=http://localhost:2380"])
        .assert(1, &["--name n9 is not in --initial-cluster, which names n1", "add n9=http://localhost:2380"]);
    serve(&["--election-timeout", "200"]).assert(1, &["less than five times --heartbeat-interval", "use"]);
    for (flag, why) in [
        ("--cert-file=x", "TLS is not there yet"),
        ("--client-cert-auth", "callers can't be told apart yet"),
        ("--auth-token=jwt", "callers can't be told apart yet"),
        ("--peer-auto-tls", "TLS is not there yet"),
        ("--force-new-cluster", "Start the other members"),
        ("--unsafe-no-fsync", "Leave the flag out"),
    ] {
        serve(&[flag]).assert(1, &[flag.split('=').next().unwrap(), "is refused", why]);
    }
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
    assert!(left.is_empty(), "a refused start has made {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_refused_before_anything_is_made() {
    let cluster = Cluster::unstarted(Server::Quorate, 1, &[]);
    let node = &cluster.nodes()[0];
    let client_port = node.client.rsplit(':').next().unwrap();
    let taken = TcpListener::bind(&node.client).unwrap();
    let sentence = format!("can't listen on http://{}", node.client);
    let command = format!("ss -ltnp 'sport = :{client_port}'");
    ended(&mut cluster.command(0)).assert(
        1,
        &[&sentence, "another process listens there", &command, "choose another port with --listen-client-urls"],
    );
    assert!(!node.data_dir.exists());
    drop(taken);
    let _taken = TcpListener::bind(&node.peer).unwrap();
    ended(&mut cluster.command(0)).assert(1, &["another process listens there", "--listen-peer-urls"]);
    assert!(!node.data_dir.exists());
}

/// A member that has data, stopped; and copies of its directory to damage.
struct Victim {
    cluster: Cluster,
}

impl Victim {
    async fn new() -> Victim {
        let mut cluster = Cluster::quorate(1).await;
        for n in 0..50 {
            let put = pb::PutRequest { key: format!("key{n}").into(), value: "value".into(), ..Default::default() };
            cluster.client().put(put).await.unwrap();
        }
        assert_eq!(tokio::task::block_in_place(|| cluster.stop(0)).code(), Some(0));
        Victim { cluster }
    }

    /// Copies the directory, damages the copy, starts the member on it with `args`: it must end, and change nothing but
    /// its lock.
    fn refused(&self, damage: impl FnOnce(&Path), args: &[&str]) -> Ended {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("data");
        copy(&self.cluster.nodes()[0].data_dir, &dir);
        damage(&dir);
        let before = contents(&dir);
        let ended = ended(self.cluster.command(0).arg("--data-dir").arg(&dir).args(args));
        let after = contents(&dir);
        assert!(
            before == after,
            "a refused start has changed the directory: {:?} -> {:?}",
            before.keys(),
            after.keys()
        );
        ended
    }
}

/// Copies a directory as `cp -a` does.
pub fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Every file's bytes; the lock, which names its last holder, and the ballast, which is empty, left out.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                found.insert(path.clone(), Vec::new());
                left.push(path);
            } else if !path.ends_with("LOCK") && !path.ends_with("ballast") {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn rewrite(path: &Path, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    fs::write(path, change(fs::read(path).unwrap())).unwrap();
}

/// META as a later version would write it.
fn of_format_2(meta: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(meta).unwrap();
    let (_, body) = text.split_once('\n').unwrap();
    let sum = crc_append(crc(&2_u32.to_le_bytes()), body.as_bytes());
    format!("quorate data directory, format 2, crc32c {sum:08x}\n{body}").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_data_directory_is_refused_and_left_as_it_is() {
    let mut victim = Victim::new().await;
    let intact = |_: &Path| {};
    victim
        .refused(intact, &["--initial-cluster-token", "other"])
        .assert(1, &["belongs to cluster", "the flags speak of cluster", "--initial-cluster-token", "--data-dir"]);
    let peer = format!("http://{}", victim.cluster.nodes()[0].peer);
    let two = format!("n1=http://127.0.0.1:1,n2={peer}");
    victim
        .refused(intact, &["--name", "n2", "--initial-cluster", &two])
        .assert(1, &["belongs to cluster", "must never mix"]);
    victim
        .refused(|dir| rewrite(&dir.join("META"), of_format_2), &[])
        .assert(1, &["has format 2, this program knows up to 1", "Start it with that version"]);
    victim
        .refused(|dir| rewrite(&dir.join("META"), |meta| meta[..meta.len() / 2].to_vec()), &[])
        .assert(1, &["META is damaged: its checksum is wrong", "Restore META from a backup"]);
    victim
        .refused(|dir| rewrite(&dir.join("META"), |_| Vec::new()), &[])
        .assert(1, &["META is damaged: it is cut off", "Restore META from a backup"]);
    victim
        .refused(|dir| fs::remove_file(dir.join("META")).unwrap(), &[])
        .assert(1, &["META is gone, but", "raft holds data", "Restore META from a backup"]);
    victim.refused(|dir| fs::remove_dir_all(dir.join("raft")).unwrap(), &[]).assert(
        1,
        &["raft is gone or was emptied", "could make the cluster lose writes", "Put back the raft directory"],
    );
    victim
        .refused(
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                fs::create_dir_all(dir.join("member/wal")).unwrap();
            },
            &[],
        )
        .assert(1, &["holds \"member\"", "looks like etcd's", "Nothing was written", "quorate serve --data-dir"]);
    victim
        .refused(
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                fs::create_dir(dir).unwrap();
                fs::write(dir.join("holiday.jpg"), "").unwrap();
            },
            &[],
        )
        .assert(1, &["holds \"holiday.jpg\", which is not Quorate's"]);

    victim.cluster.start(0);
    victim.cluster.ready().await;
    let node = &victim.cluster.nodes()[0];
    let (client, peer) = (free_url(), free_url());
    let locked = ended(victim.cluster.command(0).args(["--listen-client-urls", &client, "--listen-peer-urls", &peer]));
    let holder = format!("is in use by process {0}. Stop that process first: kill {0}", victim.cluster.pid(0).unwrap());
    locked.assert(1, &[&node.data_dir.display().to_string(), &holder, "--data-dir"]);
    let all = pb::RangeRequest { key: "key".into(), range_end: "kez".into(), count_only: true, ..Default::default() };
    assert_eq!(victim.cluster.client().range(all).await.unwrap().count, 50);
    assert_quiet_logs(&victim.cluster);
}

/// A URL on which nobody listens.
pub fn free_url() -> String {
    let cluster = Cluster::unstarted(Server::Quorate, 1, &[]);
    format!("http://{}", cluster.nodes()[0].client)
}

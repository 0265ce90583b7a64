//! Bits that flip in the files of one member: it makes good what it lost, or says which command does; and at the end it has,
//! byte for byte, what the others have.

use crate::ended::ended;
use crate::kills::assert_quiet_logs;
use crate::load::{Load, eventually};
use crate::members::{join, votes};
use crate::refusals::copy;
use crate::support::{Cluster, Server};
use crate::takeover::{FLAGS, assert_same_hash, cut};
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use quorate::rng::Rng;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each kind of file suffers so often; for runs that want more.
const ROUNDS: &str = "QUORATE_ROT_ROUNDS";

/// How much of a file suffers.
#[derive(Clone, Copy, Debug)]
pub enum Rot {
    /// One bit.
    Bit,
    /// One bit in each 4 KiB.
    Much,
}

/// Flips bits of what was written there: zeros may be what was never written.
pub fn flip(path: &Path, rot: Rot, rng: &mut Rng) {
    let mut bytes = fs::read(path).unwrap();
    let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let mut places = match rot {
        Rot::Bit if !written.is_empty() => vec![written[rng.below(written.len() as u64) as usize]],
        Rot::Bit => vec![],
        Rot::Much => written.chunk_by(|a, b| a / 4096 == b / 4096).map(|page| page[page.len() / 2]).collect(),
    };
    places.iter_mut().for_each(|at| bytes[*at] ^= 1 << rng.below(8));
    fs::write(path, bytes).unwrap();
}

/// The files of a data directory that rot can matter to, by what they are.
pub fn kinds(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.contains("rotten") {
            let of = |(kind, path)| (format!("{}/{kind}", name.split('-').next().unwrap()), path);
            found.extend(kinds(&path).into_iter().map(of));
        } else if path.is_file() && !name.contains("rotten") && !["LOCK", "ballast"].contains(&name.as_str()) {
            found.push((name.split('.').next().unwrap().to_owned(), path));
        }
    }
    found.sort();
    found
}

/// A cluster of three under load, of which the last one's files rot.
struct Victim {
    cluster: Cluster,
    load: Load,
    rng: Rng,
    /// Whether it came back under a new id.
    joined: bool,
    lives: usize,
}

const N3: usize = 2;

impl Victim {
    async fn stop(&mut self) {
        // Killed, it leaves its databases as a crash does; stopped, as they are closed in order.
        if self.lives.is_multiple_of(2) {
            self.cluster.kill(N3);
        } else {
            tokio::task::block_in_place(|| self.cluster.stop(N3));
        }
        self.load.acknowledged(30).await;
    }

    fn start(&mut self) {
        self.lives += 1;
        if self.joined { join(&mut self.cluster, N3, &[0, 1]) } else { self.cluster.start(N3) }
    }

    /// It serves again, by itself or by the command that it names.
    async fn recovers(&mut self, what: &str) -> &'static str {
        let before = self.cluster.log(N3).len();
        self.start();
        let client = self.cluster.client_of(N3).fail_fast();
        let read = pb::RangeRequest { key: "x".into(), ..Default::default() };
        eventually(&format!("it serves, or has ended: {what}"), async || {
            client.range(read.clone()).await.is_ok() || self.cluster.ended(N3).is_some()
        })
        .await;
        let Some(status) = self.cluster.ended(N3) else {
            let said = self.cluster.log(N3)[before..].to_owned();
            let signs = [
                "it is set aside",
                "the state was lost",
                "the log lost entries",
                "moved aside",
                "CURRENT is damaged",
                "the log begins anew",
            ];
            return signs.into_iter().find(|sign| said.contains(sign)).unwrap_or("nothing to be seen");
        };
        let said = self.cluster.log(N3)[before..].to_owned();
        assert_eq!(status.code(), Some(1), "{what}: {status}:\n{said}");
        assert!(said.contains("with an empty directory: quorate serve --join"), "{what}: {said}");
        self.cluster.kill(N3);
        let data = &self.cluster.nodes()[N3].data_dir;
        fs::rename(data, data.with_extension(format!("aside-{}", self.lives))).unwrap();
        self.joined = true;
        self.start();
        votes(&self.cluster, N3).await;
        "refused, and replaced"
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_rots_on_one_disk_is_made_good_or_refused_with_the_way_out() {
    let seed = clock::entropy();
    println!("seed {:#x}", seed.0);
    let rounds = std::env::var(ROUNDS).map_or(1, |rounds| rounds.parse().unwrap());
    let cluster = Cluster::new(Server::Quorate, 3, &FLAGS).await;
    let load = Load::start(&cluster, 6);
    load.acknowledged(300).await;
    let mut victim = Victim { cluster, load, rng: Rng::new(seed), joined: false, lives: 0 };
    let data = victim.cluster.nodes()[N3].data_dir.clone();
    // Its state was taken over, so that there is a CURRENT.
    victim.stop().await;
    fs::remove_dir_all(&data).unwrap();
    victim.joined = true;
    victim.start();
    votes(&victim.cluster, N3).await;
    let mut suffered = BTreeSet::new();
    for (kind, rot) in [
        ("state/db", Rot::Much),
        ("state/db", Rot::Bit),
        ("CURRENT", Rot::Bit),
        ("state/conf", Rot::Bit),
        ("state/snap", Rot::Bit),
        ("raft/snap", Rot::Bit),
        ("raft/conf", Rot::Bit),
        ("raft/db", Rot::Bit),
        ("raft/db", Rot::Much),
        ("state/db", Rot::Bit),
        ("raft/db", Rot::Bit),
        ("META", Rot::Bit),
    ]
    .repeat(rounds)
    {
        victim.stop().await;
        let Some((_, path)) = kinds(&data).into_iter().find(|(found, _)| found == kind) else {
            println!("{kind}: none");
            victim.recovers(kind).await;
            continue;
        };
        // What an install that was cut short leaves is rotten too.
        fs::create_dir_all(data.join("staging")).unwrap();
        fs::write(data.join("staging").join("db"), "rotten").unwrap();
        flip(&path, rot, &mut victim.rng);
        let outcome = victim.recovers(&format!("{kind}, {rot:?}")).await;
        println!("{kind}, {rot:?}: {outcome}");
        suffered.insert(kind);
        victim.load.acknowledged(30).await;
    }
    let Victim { mut cluster, load, .. } = victim;
    (0..3).for_each(|place| cluster.kill(place));
    (0..2).for_each(|place| cluster.start(place));
    join(&mut cluster, N3, &[0, 1]);
    cluster.ready().await;
    load.verify(&cluster).await;
    assert_same_hash(&cluster).await;
    assert_quiet_logs(&cluster);
    assert!(suffered.len() >= 8, "{suffered:?}");
}

/// A founder that was alone in the beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_founder_is_told_that_it_is_alone_only_as_long_as_it_is() {
    let mut cluster = Cluster::new(Server::Quorate, 1, &FLAGS).await;
    let load = Load::start(&cluster, 4);
    let mut rng = Rng::new(clock::entropy());
    let data = cluster.nodes()[0].data_dir.clone();
    let db = data.join("state").join("db");
    eventually("its log does not go back to its first entry", async || cut(&cluster, 0) > 0).await;
    tokio::task::block_in_place(|| cluster.stop(0));
    let aside = data.with_extension("aside");
    copy(&data, &aside);
    flip(&db, Rot::Much, &mut rng);
    for _ in 0..2 {
        let phrases = ["the only member", "nobody can send", "quorate snapshot restore"];
        ended(&mut cluster.command(0)).assert(1, &phrases);
    }
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&aside, &data).unwrap();
    cluster.start(0);
    cluster.ready().await;

    for _ in 0..2 {
        let place = cluster.add();
        join(&mut cluster, place, &[0]);
        votes(&cluster, place).await;
    }
    load.follow(&cluster.endpoints());
    let grown = cluster.client_of(0).inspect(&cluster.nodes()[0].client).await.unwrap().applied_index;
    eventually("its log forgets that others came", async || cut(&cluster, 0) > grown).await;
    tokio::task::block_in_place(|| cluster.stop(0));
    flip(&db, Rot::Much, &mut rng);
    // The flags that it had when it was alone.
    let mut command = cluster.command_without_cluster(0);
    let alone = format!("n1=http://{}", cluster.nodes()[0].peer);
    command.args(["--initial-cluster", &alone, "--initial-cluster-token", "test"]).args(cluster.extra());
    cluster.start_with(0, command);
    load.acknowledged(50).await;
    cluster.ready().await;
    assert!(cluster.log(0).contains("it is set aside"));
    load.verify(&cluster).await;
    assert_quiet_logs(&cluster);
}

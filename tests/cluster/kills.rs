//! Members that die, freeze and leave while writes go on.

use crate::load::{Load, eventually};
use crate::support::Cluster;
use quorate::clock;
use quorate::rng::Rng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const WRITERS: usize = 24;

/// Who is killed, with SIGKILL.
#[derive(Clone, Copy, Debug)]
enum Victims {
    Leader,
    Follower,
    /// The leader, and once more in the middle of its start.
    LeaderTwice,
    /// A leader and its follower: no quorum is left.
    Two,
    All,
}

const ROUNDS: [Victims; 12] = [
    Victims::Leader,
    Victims::Follower,
    Victims::All,
    Victims::Leader,
    Victims::Two,
    Victims::LeaderTwice,
    Victims::All,
    Victims::Leader,
    Victims::Follower,
    Victims::Two,
    Victims::LeaderTwice,
    Victims::All,
];

/// Kills, freezes and stops, one after another on one cluster, under one load; then the books are compared.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives() {
    let seed = clock::entropy();
    println!("seed {:#x}", seed.0);
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::quorate(3).await;
    let digests = Digests::watch(&cluster);
    let load = Load::start(&cluster, WRITERS);
    load.acknowledged(100).await;
    for victims in ROUNDS {
        load.acknowledged(rng.below(300)).await;
        kill(&mut cluster, &load, &mut rng, victims).await;
        println!("{victims:?}: at most {:?} between two acknowledgements", load.take_gap());
    }
    freeze_the_leader(&mut cluster, &load).await;
    // On a busy machine an heir may not be there in time, and who was told to stop goes all the same.
    let mut stops = 1;
    while !stop_the_leader(&mut cluster, &load).await {
        stops += 1;
        assert!(stops < 5, "no leader hands over");
    }
    load.verify(&cluster).await;
    println!("{} pairs of digests at equal indexes", digests.end());
    assert_quiet_logs(&cluster);
}

async fn kill(cluster: &mut Cluster, load: &Load, rng: &mut Rng, victims: Victims) {
    let leader = cluster.leader().await;
    let follower = (leader + 1 + rng.below(2) as usize) % 3;
    match victims {
        Victims::Leader | Victims::Follower | Victims::LeaderTwice => {
            let victim = if matches!(victims, Victims::Follower) { follower } else { leader };
            cluster.kill(victim);
            // The other two go on.
            load.acknowledged(50).await;
            cluster.start(victim);
            if matches!(victims, Victims::LeaderTwice) {
                load.acknowledged(rng.below(40)).await;
                cluster.restart(victim);
            }
        }
        Victims::Two => {
            cluster.kill(leader);
            cluster.kill(follower);
            cluster.start(follower);
            load.acknowledged(50).await;
            cluster.start(leader);
        }
        Victims::All => {
            let first = rng.below(3) as usize;
            let order = [first, (first + 1) % 3, (first + 2) % 3];
            order.iter().for_each(|place| cluster.kill(*place));
            order.iter().rev().for_each(|place| cluster.start(*place));
        }
    }
    cluster.ready().await;
    load.acknowledged(50).await;
}

/// SIGSTOP: its sockets stay open, so only its silence tells.
async fn freeze_the_leader(cluster: &mut Cluster, load: &Load) {
    let frozen = cluster.leader().await;
    load.take_gap();
    cluster.pause(frozen);
    let others: Vec<usize> = (0..3).filter(|place| *place != frozen).collect();
    let successor = leader_among(cluster, &others).await;
    load.acknowledged(100).await;
    let gap = load.take_gap();
    println!("frozen leader: at most {gap:?} between two acknowledgements");
    cluster.resume(frozen);
    let client = cluster.client();
    let endpoint = cluster.nodes()[frozen].client.clone();
    let term = client.inspect(&cluster.nodes()[successor].client).await.expect("it led").term;
    eventually("the leader of before has heard of another term", async || {
        client.inspect(&endpoint).await.is_ok_and(|i| i.term >= term && i.leader != 0)
    })
    .await;
    cluster.ready().await;
}

/// SIGTERM: it hands over, answers what it has, and ends in order. False if it could not hand over.
async fn stop_the_leader(cluster: &mut Cluster, load: &Load) -> bool {
    let stopped = cluster.leader().await;
    let before = cluster.log(stopped).len();
    load.take_gap();
    let status = tokio::task::block_in_place(|| cluster.stop(stopped));
    assert_eq!(status.code(), Some(0), "a member that is told to stop ends in order");
    let others: Vec<usize> = (0..3).filter(|place| *place != stopped).collect();
    let successor = leader_among(cluster, &others).await;
    let endpoint = cluster.nodes()[successor].client.clone();
    let inspected = cluster.client().inspect(&endpoint).await.expect("it leads");
    let newest = inspected.elections.last().expect("it was elected");
    let handed_over = cluster.log(stopped)[before..].contains("leadership was handed over");
    if handed_over {
        assert_eq!((newest.cause.as_str(), newest.winner), ("transfer", inspected.member_id), "{newest:?}");
    }
    load.acknowledged(100).await;
    println!("stopped leader: at most {:?} between two acknowledgements", load.take_gap());
    cluster.start(stopped);
    cluster.ready().await;
    handed_over
}

/// The one of `places` that leads, waiting for one.
async fn leader_among(cluster: &Cluster, places: &[usize]) -> usize {
    let client = cluster.client();
    let mut found = None;
    eventually("another member leads", async || {
        for place in places {
            let inspected = client.inspect(&cluster.nodes()[*place].client).await;
            if inspected.is_ok_and(|inspected| inspected.role == "leader") {
                found = Some(*place);
            }
        }
        found.is_some()
    })
    .await;
    found.expect("just found")
}

/// No member panicked or found a bug of its own.
pub fn assert_quiet_logs(cluster: &Cluster) {
    for (place, node) in cluster.nodes().iter().enumerate() {
        let log = cluster.log(place);
        for word in ["panicked", "this is a bug", "fatal:", "the disk failed"] {
            let line = log.lines().find(|line| line.contains(word));
            assert_eq!(line, None, "in the log of {}", node.name);
        }
    }
}

/// Looks at the members' digests while they work: at one index there is one state, on every member and in every life.
struct Digests {
    seen: Arc<Mutex<Seen>>,
    watcher: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// By applied index: the digest and who had it.
    at: BTreeMap<u64, (u64, String)>,
    pairs: u64,
    differ: Vec<String>,
}

impl Digests {
    fn watch(cluster: &Cluster) -> Digests {
        let seen = Arc::<Mutex<Seen>>::default();
        let (client, endpoints, shared) = (cluster.client(), cluster.endpoints(), Arc::clone(&seen));
        let watcher = tokio::spawn(async move {
            loop {
                for endpoint in &endpoints {
                    let Ok(inspected) = client.inspect(endpoint).await else { continue };
                    shared.lock().expect("nothing panics here").note(&inspected);
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        });
        Digests { seen, watcher }
    }

    /// How many pairs were compared.
    fn end(self) -> u64 {
        self.watcher.abort();
        let seen = self.seen.lock().expect("nothing panics here");
        assert_eq!(seen.differ, Vec::<String>::new());
        seen.pairs
    }
}

impl Seen {
    fn note(&mut self, inspected: &quorate::proto::quorate::InspectResponse) {
        let who = format!("{} in life {}", inspected.name, inspected.incarnation);
        match self.at.get(&inspected.applied_index) {
            None => drop(self.at.insert(inspected.applied_index, (inspected.digest, who))),
            Some((_, other)) if *other == who => {}
            Some((digest, other)) => {
                self.pairs += 1;
                if *digest != inspected.digest {
                    self.differ.push(format!("{who} and {other} differ at index {}", inspected.applied_index));
                }
            }
        }
    }
}

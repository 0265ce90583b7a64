//! All members are killed while one of them has no whole state: in each moment of its repair. Nothing is lost by it, and the
//! one that lacks something serves nothing of it.

use crate::kills::assert_quiet_logs;
use crate::load::{Load, eventually};
use crate::rot::{Rot, flip, kinds};
use crate::support::{Cluster, Server};
use crate::takeover::{FLAGS, OPENED_AGAIN, assert_same_hash, count_large, cut, fill, install};
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::quorate as own;
use quorate::rng::Rng;

/// When all are killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Nothing is in the place of the rotten state.
    Noticed,
    /// Half of another one is there.
    Half,
    /// Another one has just taken its place.
    Adopted,
}

const KEYS: u64 = 9000;
const N3: usize = 2;

/// It answers from its own state only what is whole, from its start until it serves all.
async fn serves_all_or_nothing(cluster: &Cluster) {
    let client = cluster.client_of(N3).fail_fast();
    let read = pb::RangeRequest { key: "x".into(), ..Default::default() };
    let mut refused = 0;
    eventually("it serves", async || {
        match client.range(count_large()).await {
            Ok(found) => assert_eq!(found.count, KEYS as i64, "it serves what it lacks"),
            Err(_) => refused += 1,
        }
        client.range(read.clone()).await.is_ok()
    })
    .await;
    println!("it refused {refused} serializable reads before");
}

/// All are killed in this moment of a repair, and serve again. False if the moment was over before they were.
async fn killed_in(moment: Moment, cluster: &mut Cluster, load: &Load, rng: &mut Rng) -> bool {
    load.acknowledged(100).await;
    cluster.ready().await;
    eventually("its log can't make its state again", async || cut(cluster, N3) > 0).await;
    // In order, so that all of its state is in the file.
    tokio::task::block_in_place(|| cluster.stop(N3));
    let (_, db) = kinds(&cluster.nodes()[N3].data_dir).into_iter().find(|(kind, _)| kind == "state/db").unwrap();
    flip(&db, Rot::Much, rng);
    let before = cluster.log(N3).len();
    cluster.start(N3);
    let says = |cluster: &Cluster, what: &str| cluster.log(N3)[before..].contains(what);
    // Which of them depends on where the bits were.
    let is_noticed =
        |cluster: &Cluster| ["it is set aside", "the state was lost"].iter().any(|sign| says(cluster, sign));
    match moment {
        Moment::Noticed => eventually("it is noticed", async || is_noticed(cluster)).await,
        Moment::Half => {
            let is_half = |told: own::InstallStatus| told.done_bytes * 2 > told.total_bytes;
            eventually("half of a state is there, or all of it", async || {
                install(cluster, N3).await.is_some_and(is_half) || says(cluster, OPENED_AGAIN)
            })
            .await;
        }
        Moment::Adopted => eventually("a state is adopted", async || says(cluster, OPENED_AGAIN)).await,
    }
    cluster.kill(N3);
    (0..N3).for_each(|place| cluster.kill(place));
    assert!(is_noticed(cluster), "{moment:?}");
    let is_in_time = says(cluster, OPENED_AGAIN) == matches!(moment, Moment::Adopted);
    (0..3).for_each(|place| cluster.start(place));
    serves_all_or_nothing(cluster).await;
    println!("killed when {moment:?}: {is_in_time}");
    cluster.ready().await;
    is_in_time
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_killed_while_a_rotten_state_is_repaired() {
    let mut rng = Rng::new(clock::entropy());
    let mut cluster = Cluster::new(Server::Quorate, 3, &FLAGS).await;
    fill(&cluster.client(), KEYS).await;
    let load = Load::start(&cluster, 4);
    for moment in [Moment::Noticed, Moment::Half, Moment::Adopted] {
        let mut tries = 1;
        while !killed_in(moment, &mut cluster, &load, &mut rng).await {
            tries += 1;
            assert!(tries <= 5, "{moment:?} is over too soon each time");
        }
    }
    load.verify(&cluster).await;
    assert_same_hash(&cluster).await;
    assert_quiet_logs(&cluster);
}

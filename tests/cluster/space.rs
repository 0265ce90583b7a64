//! What the store holds: compactions on real disks, and a quota that heals itself.

use crate::support::scrape::Scrape;
use crate::support::{Cluster, PATIENT, Server};
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use std::time::Duration;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything here takes: reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(120);

fn channel(cluster: &Cluster, place: usize) -> Channel {
    Endpoint::from_shared(format!("http://{}", cluster.nodes()[place].client)).unwrap().connect_lazy()
}

fn kv(cluster: &Cluster, place: usize) -> KvClient<Channel> {
    KvClient::new(channel(cluster, place))
}

fn put(key: String, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.to_owned().into(), ..Default::default() }
}

fn everything() -> pb::RangeRequest {
    pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

/// The hash of a member that has applied everything.
async fn hash(cluster: &Cluster, place: usize, revision: i64) -> pb::HashKvResponse {
    kv(cluster, place).range(pb::RangeRequest { key: "current".into(), ..Default::default() }).await.unwrap();
    let hashed = MaintenanceClient::new(channel(cluster, place)).hash_kv(pb::HashKvRequest { revision }).await;
    pb::HashKvResponse { header: None, ..hashed.unwrap().into_inner() }
}

/// Asks again until it is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let deadline = clock::instant() + PATIENCE;
    while !so().await {
        assert!(clock::instant() < deadline, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_with_different_pasts_are_compacted_alike() {
    let mut cluster = Cluster::steady(3).await;
    let leader = cluster.leader().await;
    let (late, steady) = ((leader + 1) % 3, (leader + 2) % 3);
    let value = "x".repeat(2000);
    let mut revision = 0;
    for round in 0..4 {
        for n in 0..100 {
            let header =
                kv(&cluster, leader).put(put(format!("k{}", n % 20), &value)).await.unwrap().into_inner().header;
            revision = header.unwrap().revision;
        }
        let gone = pb::DeleteRangeRequest { key: "k1".into(), range_end: "k2".into(), prev_kv: false };
        kv(&cluster, leader).delete_range(gone).await.unwrap();
        // One member misses a compaction, finds it in the log later, and is killed in the middle of another one.
        match round {
            1 => cluster.kill(late),
            2 => cluster.start(late),
            3 => cluster.restart(steady),
            _ => {}
        }
        cluster.ready().await;
        let compact = pb::CompactionRequest { revision: revision - 10, physical: round % 2 == 0 };
        kv(&cluster, leader).compact(compact).await.unwrap();
    }
    cluster.restart(late);
    cluster.ready().await;
    let first = hash(&cluster, leader, revision).await;
    assert_eq!(first.compact_revision, revision - 10);
    for place in [late, steady] {
        assert_eq!(hash(&cluster, place, revision).await, first);
    }
    // What was asked for physically is gone from the member that was asked.
    let compact = pb::CompactionRequest { revision: revision + 1, physical: true };
    kv(&cluster, leader).compact(compact).await.unwrap();
    let scrape = Scrape::of(&cluster.nodes()[leader].client).await;
    let (held, live) =
        (scrape.sum("etcd_mvcc_db_total_size_in_use_in_bytes", &[]), scrape.sum("quorate_live_bytes", &[]));
    assert!(held < live + 20_000.0 && live > 10_000.0, "{held} bytes are held, {live} live");
    assert!(scrape.sum("etcd_debugging_mvcc_db_compaction_keys_total", &[]) >= 300.0);
    assert!(scrape.sum("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count", &[]) >= 1.0);
    assert_eq!(scrape.sum("etcd_debugging_mvcc_compact_revision", &[]), (revision + 1) as f64);
}

/// Puts the same few keys until there is no room; gives what was acknowledged last of each.
async fn fill(cluster: &Cluster, place: usize) -> Vec<(String, String)> {
    let mut last: Vec<(String, String)> = (0..4).map(|n| (format!("k{n}"), String::new())).collect();
    for n in 0..10_000 {
        let value = format!("{n:08}").repeat(1000);
        let slot = n % last.len();
        match kv(cluster, place).put(put(last[slot].0.clone(), &value)).await {
            Ok(_) => last[slot].1 = value,
            Err(status) => {
                let expected = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
                assert_eq!((status.code(), status.message()), expected);
                return last;
            }
        }
    }
    panic!("the quota was never reached");
}

async fn errors(cluster: &Cluster, place: usize) -> Vec<String> {
    let status = MaintenanceClient::new(channel(cluster, place)).status(pb::StatusRequest {}).await;
    status.unwrap().into_inner().errors
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_heals_itself_and_loses_no_value() {
    let cluster = Cluster::new(Server::Quorate, 3, &["--quota-backend-bytes", "300000", PATIENT]).await;
    let asked = (cluster.leader().await + 1) % 3;
    let last = fill(&cluster, asked).await;
    until("the alarm is up", async || !errors(&cluster, asked).await.is_empty()).await;
    let gone = pb::DeleteRangeRequest { key: "k3".into(), ..Default::default() };
    kv(&cluster, asked).delete_range(gone).await.expect("a delete always passes");
    until("the alarm is gone", async || errors(&cluster, asked).await.is_empty()).await;
    kv(&cluster, asked).put(put("k4".into(), "after")).await.expect("there is room again");
    let found = kv(&cluster, asked).range(everything()).await.unwrap().into_inner();
    let mut expected = last[..3].to_vec();
    expected.push(("k4".into(), "after".into()));
    let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(found.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect::<Vec<_>>(), expected);
    let status = MaintenanceClient::new(channel(&cluster, asked)).status(pb::StatusRequest {}).await.unwrap();
    let status = status.into_inner();
    assert_eq!(status.db_size_quota, 300_000);
    assert!(status.db_size_in_use < 270_000, "{}", status.db_size_in_use);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_etcds_way_the_alarm_stays_until_it_is_disarmed() {
    let flags = ["--quota-backend-bytes", "300000", "--nospace-alarm", "stays", "--auto-compaction-retention", "0"];
    let cluster = Cluster::new(Server::Quorate, 1, &flags).await;
    fill(&cluster, 0).await;
    until("the alarm is up", async || !errors(&cluster, 0).await.is_empty()).await;
    let everything = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: false };
    let deleted = kv(&cluster, 0).delete_range(everything).await.unwrap().into_inner();
    let revision = deleted.header.unwrap().revision;
    kv(&cluster, 0).compact(pb::CompactionRequest { revision, physical: true }).await.unwrap();
    let refused = kv(&cluster, 0).put(put("a".into(), "1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let disarm = pb::AlarmRequest { action: pb::alarm_request::AlarmAction::Deactivate.into(), ..Default::default() };
    let alarm = errors(&cluster, 0).await.remove(0);
    let member_id = alarm.split([':', ' ']).nth(1).unwrap().parse().unwrap();
    let disarm = pb::AlarmRequest { member_id, alarm: pb::AlarmType::Nospace.into(), ..disarm };
    MaintenanceClient::new(channel(&cluster, 0)).alarm(disarm).await.unwrap();
    kv(&cluster, 0).put(put("a".into(), "1")).await.unwrap();
}

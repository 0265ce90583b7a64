//! What a member tells of itself to those that watch it: a scrape, a probe, systemd.

use crate::support::scrape::{Scrape, page};
use crate::support::{Cluster, PATIENT, Server};
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::time::Duration;

/// Longer than anything here takes: reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn put() -> pb::PutRequest {
    pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }
}

const PUT: [(&str, &str); 2] = [("grpc_service", "etcdserverpb.KV"), ("grpc_method", "Put")];

/// Asks again until it is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let deadline = clock::instant() + PATIENCE;
    while !so().await {
        assert!(clock::instant() < deadline, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_member_takes_small_pages() {
    let cluster = Cluster::quorate(1).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.pid(0).unwrap())).unwrap();
    assert!(status.contains("\nTHP_enabled:\t0\n"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_counts_what_happens() {
    let mut cluster = Cluster::steady(3).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let before = Scrape::of(&cluster.nodes()[follower].client).await;
    for _ in 0..10 {
        cluster.client_of(follower).put(put()).await.unwrap();
    }
    cluster.client_of(follower).put(pb::PutRequest::default()).await.unwrap_err();

    let after = Scrape::of(&cluster.nodes()[follower].client).await;
    let grown = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    let handled = |code| grown("grpc_server_handled_total", &[PUT[0], PUT[1], ("grpc_code", code)]);
    assert_eq!((handled("OK"), handled("InvalidArgument")), (10.0, 1.0));
    assert_eq!(grown("grpc_server_started_total", &PUT), 11.0);
    assert_eq!(grown("grpc_server_handling_seconds_count", &PUT), 11.0);
    for name in [
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_network_peer_sent_bytes_total",
        "etcd_network_peer_received_bytes_total",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
    ] {
        assert!(grown(name, &[]) > 0.0, "{name} did not grow");
    }
    assert_eq!(after.values("etcd_network_peer_round_trip_time_seconds_bucket", "To").len(), 2);
    let followers = cluster.nodes()[follower].client.clone();
    until("round trips to both peers were measured", async || {
        Scrape::of(&followers).await.sum("etcd_network_peer_round_trip_time_seconds_count", &[]) >= 2.0
    })
    .await;
    assert!(grown("etcd_disk_wal_write_bytes_total", &[]) > 0.0);
    assert_eq!(after.sum("etcd_server_has_leader", &[]), 1.0);
    assert_eq!(after.sum("etcd_server_is_leader", &[]), 0.0);
    assert_eq!(after.sum("etcd_network_active_peers", &[]), 2.0);
    assert!(after.sum("quorate_disk_free_bytes", &[]) > after.sum("quorate_disk_floor_bytes", &[]));
    assert_eq!(after.values("quorate_follower_lag_entries", "To").len(), 0, "only a leader knows");
    let leaders = Scrape::of(&cluster.nodes()[leader].client).await;
    assert_eq!(leaders.sum("etcd_server_is_leader", &[]), 1.0);
    assert_eq!(leaders.values("quorate_follower_lag_entries", "To").len(), 2);

    cluster.kill(leader);
    let survivors = [follower, (leader + 2) % 3].map(|place| cluster.nodes()[place].client.clone());
    let changes = |scrape: &Scrape| scrape.sum("etcd_server_leader_changes_seen_total", &[]);
    until("a survivor has counted the failover", async || {
        let now = Scrape::of(&survivors[0]).await;
        let counted = |phase| now.sum("quorate_failover_gap_seconds_count", &[("phase", phase)]);
        let active = now.sum("etcd_network_active_peers", &[]);
        let lost = now.sum("etcd_network_disconnected_peers_total", &[]) >= 1.0;
        counted("elect") >= 1.0 && counted("recover") >= 1.0 && changes(&now) > changes(&after) && active == 1.0 && lost
    })
    .await;
    until("somebody could not send to the dead one", async || {
        let mut failures = 0.0;
        for survivor in &survivors {
            failures += Scrape::of(survivor).await.sum("etcd_network_peer_sent_failures_total", &[]);
        }
        failures > 0.0
    })
    .await;
}

/// With a threshold of nothing, everything is slow.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_request_is_logged_with_its_stages_and_a_cause() {
    let cluster = Cluster::new(Server::Quorate, 3, &["--warning-unary-request-duration=0", PATIENT]).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    // One line a second is written: asked until it is this one's turn.
    let line_of = async |place: usize, method: &str, ask: &dyn Fn(quorate::client::Client) -> Asked| {
        let needle = format!(" method={method} key=k ");
        until("the request is in the log", async || {
            ask(cluster.client_of(place)).await;
            cluster.log(place).contains(&needle)
        })
        .await;
        cluster.log(place).lines().find(|line| line.contains(&needle)).unwrap().to_owned()
    };
    let puts: &dyn Fn(quorate::client::Client) -> Asked =
        &|client| Box::pin(async move { drop(client.put(put()).await) });
    let gets: &dyn Fn(quorate::client::Client) -> Asked = &|client| {
        let get = pb::RangeRequest { key: "k".into(), ..Default::default() };
        Box::pin(async move { drop(client.range(get).await) })
    };
    for (place, method, ask) in [(leader, "put", puts), (follower, "put", puts), (follower, "range", gets)] {
        let line = line_of(place, method, ask).await;
        for part in ["WARN", "a request took too long", "request_bytes=", "response_bytes=", "suppressed="] {
            assert!(line.contains(part), "no {part} in {line}");
        }
        for stage in [" took=", " queue=", " sync=", " quorum=", " apply=", " cause="] {
            assert!(line.contains(stage), "no {stage} in {line}");
        }
        println!("{line}");
    }
    let scrape = Scrape::of(&cluster.nodes()[leader].client).await;
    assert!(scrape.sum("quorate_slow_requests_total", &[]) > 0.0);
    for stage in ["queue", "sync", "quorum", "apply"] {
        assert!(scrape.sum("quorate_request_stage_seconds_count", &[("stage", stage)]) > 0.0, "{stage}");
    }
}

type Asked = std::pin::Pin<Box<dyn Future<Output = ()>>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_member_knows_at_its_start_how_fast_its_disk_is() {
    let cluster = Cluster::quorate(1).await;
    assert!(cluster.log(0).contains("how fast the disk syncs"));
    let node = &cluster.nodes()[0];
    let told = cluster.client().inspect(&node.client).await.unwrap();
    assert!((1..=told.start_sync_slowest_us).contains(&told.start_sync_median_us), "{told:?}");
    let scrape = Scrape::of(&node.client).await;
    assert!(scrape.sum("quorate_disk_start_sync_seconds", &[("quantile", "1")]) > 0.0);
    assert!(!node.data_dir.join("sync-probe").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_a_member_is_alive_and_not_ready() {
    let mut cluster = Cluster::quorate(3).await;
    let last = cluster.nodes()[0].client.clone();
    until("it is ready", async || page(&last, "/readyz").await.unwrap() == (200, "ok\n".into())).await;
    cluster.kill(1);
    cluster.kill(2);
    let (status, body) = page(&last, "/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(
        body.contains("[-]linearizable_read failed: etcdserver: ") && body.contains("[+]data_corruption ok\n"),
        "{body}"
    );
    assert_eq!(page(&last, "/livez").await.unwrap(), (200, "ok\n".into()));
    let health = |scrape: &Scrape| scrape.sum("etcd_server_health_failures", &[]);
    let before = health(&Scrape::of(&last).await);
    assert_eq!(page(&last, "/health").await.unwrap().0, 503);
    let after = Scrape::of(&last).await;
    assert_eq!(health(&after), before + 1.0);
    until("it knows of no leader", async || Scrape::of(&last).await.sum("etcd_server_has_leader", &[]) == 0.0).await;
    cluster.client_of(0).put(put()).await.unwrap_err();
    until("the failure is counted", async || {
        Scrape::of(&last).await.sum("etcd_server_proposals_failed_total", &[]) > 0.0
    })
    .await;
}

/// A leader whose only peers are frozen can't hand over, which takes its time; meanwhile it still answers, and says no.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stops_is_not_ready_at_once() {
    let cluster = Cluster::new(Server::Quorate, 3, &["--election-timeout=10000"]).await;
    let leader = cluster.leader().await;
    let address = cluster.nodes()[leader].client.clone();
    assert_eq!(page(&address, "/readyz").await.unwrap().0, 200);
    for other in (0..3).filter(|place| *place != leader) {
        cluster.pause(other);
    }
    cluster.terminate(leader);
    until("the signal arrives", async || cluster.log(leader).contains("stopping: handing over")).await;
    let (status, body) = page(&address, "/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(body.starts_with("[-]stopping failed: the member is stopping\n"), "{body}");
    assert_eq!(page(&address, "/livez").await.unwrap().0, 200);
}

/// What a member says to systemd, from its start to its end.
#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_of_a_members_life() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let (heard, hear) = mpsc::channel();
    // Somebody listens all the time, as systemd does: the queue is short, and what finds it full is lost.
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok(length) = socket.recv(&mut buffer) {
            if heard.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).is_err() {
                return;
            }
        }
    });
    // What begins so; and what else was said on the way.
    let until_heard = |wanted: &str| {
        let deadline = clock::instant() + PATIENCE;
        let mut before = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(clock::instant());
            match tokio::task::block_in_place(|| hear.recv_timeout(left)) {
                Ok(said) if said.starts_with(wanted) => return before,
                Ok(said) => before.push(said),
                Err(e) => panic!("it never said {wanted:?}, but {before:?}: {e}"),
            }
        }
    };
    let mut cluster = Cluster::unstarted(Server::Quorate, 1, &[]);
    let mut command = cluster.command(0);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    cluster.start_with(0, command);
    let opening = format!("STATUS=opening {}", cluster.nodes()[0].data_dir.display());
    assert_eq!(until_heard("READY=1"), [opening]);
    until_heard("STATUS=leader of term ");
    until_heard("WATCHDOG=1");
    assert_eq!(cluster.stop(0).code(), Some(0));
    until_heard("STOPPING=1");
    until_heard("STATUS=stopping after SIGTERM");
}

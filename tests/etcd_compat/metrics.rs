//! Dashboards and alerts made for etcd must find the names, types and labels that they ask for.

use crate::support::scrape::Scrape;
use crate::support::{Cluster, PATIENT, Server, etcd_bin_dir};
use quorate::proto::etcdserverpb as pb;

/// etcd creates these only after a failure that this test does not make: their types are known from its source.
const UNSEEN: [(&str, &str); 3] = [
    ("etcd_network_disconnected_peers_total", "counter"),
    // And this one after half a minute.
    ("etcd_network_peer_round_trip_time_seconds", "histogram"),
    ("etcd_network_peer_sent_failures_total", "counter"),
];

/// What etcd's own dashboard and alerts ask for, of what exists here.
const ASKED_FOR: [&str; 48] = [
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_total_put_size_in_bytes",
    "etcd_debugging_mvcc_events_total",
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_wal_write_bytes_total",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_put_total",
    "etcd_mvcc_range_total",
    "etcd_mvcc_txn_total",
    "etcd_network_active_peers",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_disconnected_peers_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_server_has_leader",
    "etcd_server_heartbeat_send_failures_total",
    "etcd_server_id",
    "etcd_server_is_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_version",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds",
    "grpc_server_started_total",
    "os_fd_limit",
    "os_fd_used",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];

/// A scrape of a cluster's leader, and then of its other members, after a put on each.
async fn scrape(cluster: &Cluster) -> Scrape {
    let mut all = Scrape::default();
    for (place, endpoint) in cluster.endpoints().iter().enumerate() {
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        cluster.client_of(place).put(put).await.expect("a ready cluster takes a put");
        let scrape = Scrape::of(endpoint).await;
        all.types.extend(scrape.types);
        all.samples.extend(scrape.samples);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_etcds_names_types_and_labels() {
    let Some(etcd) = etcd_bin_dir("metrics_have_etcds_names_types_and_labels") else { return };
    let mut etcds = scrape(&Cluster::new(Server::Etcd(etcd), 3, &["--metrics", "extensive", PATIENT]).await).await;
    etcds.types.extend(UNSEEN.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    let ours = scrape(&Cluster::steady(3).await).await;

    for name in ASKED_FOR {
        assert!(ours.types.contains_key(name), "{name} is missing");
    }
    let theirs = ours.types.iter().filter(|(name, _)| !name.starts_with("quorate_"));
    for (name, kind) in theirs.filter(|(name, _)| !UNSEEN.iter().any(|(unseen, _)| name == unseen)) {
        assert_eq!(Some(kind), etcds.types.get(name), "the type of {name}");
        let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        for sample in suffixes.iter().map(|suffix| format!("{name}{suffix}")) {
            assert_eq!(ours.labels(&sample), etcds.labels(&sample), "the labels of {sample}");
            assert_eq!(ours.values(&sample, "le"), etcds.values(&sample, "le"), "the bounds of {sample}");
            assert_eq!(ours.values(&sample, "grpc_code"), etcds.values(&sample, "grpc_code"), "the codes of {sample}");
        }
    }
    let services = |scrape: &Scrape| -> Vec<String> {
        let label = |labels: &std::collections::BTreeMap<String, String>, name: &str| labels[name].clone();
        let started = scrape.samples.iter().filter(|sample| sample.name == "grpc_server_started_total");
        let methods = started.map(|sample| {
            ["grpc_service", "grpc_method", "grpc_type"].map(|name| label(&sample.labels, name)).join("/")
        });
        let mut methods: Vec<String> = methods.collect();
        methods.sort();
        methods.dedup();
        methods
    };
    let etcds_methods = services(&etcds);
    for method in services(&ours).iter().filter(|method| !method.starts_with("quorate.")) {
        // Of the health service, 3.5's descriptors know less than ours; streamed ranges are 3.7's; locks and elections are
        // counted there once they are called.
        let others = ["grpc.health.v1.Health/", "etcdserverpb.KV/RangeStream/", "v3lockpb.", "v3electionpb."];
        let known = etcds_methods.contains(method) || others.iter().any(|prefix| method.starts_with(prefix));
        assert!(known, "etcd has no {method}, but {etcds_methods:?}");
    }
}

/// The same requests, counted in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_as_etcd_counts_them() {
    const COUNTED: [&str; 6] = [
        "etcd_debugging_mvcc_keys_total",
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "etcd_mvcc_delete_total",
        "etcd_mvcc_put_total",
        "etcd_mvcc_range_total",
        "etcd_mvcc_txn_total",
    ];
    let Some(etcd) = etcd_bin_dir("requests_are_counted_as_etcd_counts_them") else { return };
    let mut seen = Vec::new();
    for server in [Server::Etcd(etcd), Server::Quorate] {
        let cluster = Cluster::new(server, 1, &[]).await;
        let endpoint = &cluster.nodes()[0].client;
        let before = Scrape::of(endpoint).await;
        requests(&cluster.client()).await;
        let after = Scrape::of(endpoint).await;
        seen.push(COUNTED.map(|name| (name, after.sum(name, &[]) - before.sum(name, &[]))));
    }
    assert_eq!(seen[0], seen[1], "etcd's, and ours");
    assert!(seen[0].iter().all(|(_, grown)| *grown > 0.0), "{:?}", seen[0]);
}

/// Two puts, one of them again; a read, a delete of two keys, of which one is there, and txns.
async fn requests(client: &quorate::client::Client) {
    use pb::request_op::Request;
    let put = |key: &str| pb::PutRequest { key: key.to_owned().into(), value: "value".into(), ..Default::default() };
    let range = |key: &str| pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let op = |request| pb::RequestOp { request: Some(request) };
    for key in ["a", "b", "a"] {
        client.put(put(key)).await.expect("a ready cluster serves it");
    }
    client.range(range("a")).await.expect("a ready cluster serves it");
    for key in ["b", "nowhere"] {
        let delete = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        client.delete_range(delete).await.expect("a ready cluster serves it");
    }
    let compare = pb::Compare { key: "a".into(), target: 0, result: 0, ..Default::default() };
    let writing = vec![op(Request::RequestPut(put("c"))), op(Request::RequestRange(range("c")))];
    let txn = pb::TxnRequest { compare: vec![compare.clone()], success: writing.clone(), failure: writing };
    client.txn(txn).await.expect("a ready cluster serves it");
    let one = pb::TxnRequest { success: vec![op(Request::RequestPut(put("d")))], ..Default::default() };
    client.txn(one).await.expect("a ready cluster serves it");
    let reading = vec![op(Request::RequestRange(range("a"))), op(Request::RequestRange(range("c")))];
    client.txn(pb::TxnRequest { success: reading, ..Default::default() }).await.expect("a ready cluster serves it");
}

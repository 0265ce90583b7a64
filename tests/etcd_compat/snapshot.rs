//! Snapshots, as clients take them: etcd's own etcdctl, gRPC and curl, while writes go on.

use crate::support::{Cluster, curl, etcd_bin_dir};
use base64::Engine as _;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use quorate::machine::{Contents, Head, Item, SnapshotReader};
use quorate::proto::etcdserverpb as pb;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tonic::transport::{Channel, Endpoint};

const KEYS: usize = 300;
const VALUE_BYTES: usize = 5_000;

async fn connect(endpoint: &str) -> Channel {
    Endpoint::from_shared(format!("http://{endpoint}")).unwrap().connect().await.unwrap()
}

/// Reads a snapshot, which must be whole, and have all keys that were there before it was taken.
fn verify(bytes: &[u8]) -> (Head, Contents) {
    assert_eq!(bytes.len() % 512, 32);
    let (mut reader, mut before, mut newest) = (SnapshotReader::default(), 0, 0);
    reader
        .push(bytes, &mut |item, _| {
            if let Item::Pair(pair) = item {
                before += usize::from(pair.key.starts_with(b"before/") && pair.value.len() == VALUE_BYTES);
                newest = newest.max(pair.mod_revision);
            }
        })
        .unwrap();
    let (head, contents) = reader.finish().unwrap();
    assert_eq!((before, contents.members), (KEYS, 3));
    assert!(newest <= head.revision.0 && head.revision.0 > KEYS as i64);
    (head, contents)
}

/// Writes and deletes keys, with leases that come and go, until it is told to stop.
async fn keep_writing(channel: Channel, stop: Arc<AtomicBool>) -> u64 {
    let (mut kv, mut leases) = (KvClient::new(channel.clone()), LeaseClient::new(channel));
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let grant = pb::LeaseGrantRequest { ttl: 600, id: 0 };
        let id = leases.lease_grant(grant).await.unwrap().into_inner().id;
        for n in 0..5 {
            let key = format!("load/{n}");
            kv.put(pb::PutRequest { key: key.into(), lease: id, ..Default::default() }).await.unwrap();
        }
        leases.lease_revoke(pb::LeaseRevokeRequest { id }).await.unwrap();
        rounds += 1;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_saves_a_snapshot_while_writes_go_on() {
    let Some(dir) = etcd_bin_dir("etcdctl_saves_a_snapshot_while_writes_go_on") else { return };
    let cluster = Cluster::steady(3).await;
    let endpoints = cluster.endpoints();
    let channel = connect(&endpoints[0]).await;
    let mut kv = KvClient::new(channel.clone());
    for n in 0..KEYS {
        let (key, value) = (format!("before/{n:04}").into(), vec![b'v'; VALUE_BYTES].into());
        kv.put(pb::PutRequest { key, value, ..Default::default() }).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(keep_writing(channel, stop.clone()));
    let mut heads = Vec::new();
    let home = tempfile::tempdir().unwrap();
    for endpoint in &endpoints {
        // What a member answers on its own may be old; after a linearizable read it is not.
        let current = pb::RangeRequest { key: "current".into(), ..Default::default() };
        KvClient::new(connect(endpoint).await).range(current).await.unwrap();
        let file = home.path().join("snapshot");
        let mut etcdctl = Command::new(dir.join("etcdctl"));
        let saved = etcdctl.args(["--endpoints", endpoint, "snapshot", "save"]).arg(&file).output().unwrap();
        let told = String::from_utf8_lossy(&saved.stdout);
        assert!(saved.status.success() && told.starts_with("Snapshot saved at"), "{saved:?}");
        heads.push(verify(&std::fs::read(&file).unwrap()).0);

        let mut stream = MaintenanceClient::new(connect(endpoint).await)
            .snapshot(pb::SnapshotRequest {})
            .await
            .unwrap()
            .into_inner();
        let (mut blobs, mut left) = (Vec::new(), Vec::new());
        while let Some(part) = stream.message().await.unwrap() {
            assert_eq!((part.header, part.version.as_str()), (None, ""));
            left.push(part.remaining_bytes + blobs.len() as u64 + part.blob.len() as u64);
            blobs.extend_from_slice(&part.blob);
        }
        let (sum, content) = (left.pop().unwrap(), blobs.len() as u64 - 32);
        assert!(sum == content + 32 && left.iter().all(|total| *total == content), "{left:?} of {content}");
        heads.push(verify(&blobs).0);

        let mut lines = curl::lines(endpoint, "/v3/maintenance/snapshot", "{}").await;
        let mut blobs = Vec::new();
        while let Some(line) = lines.next().await {
            let blob = line["result"]["blob"].as_str().unwrap_or_else(|| panic!("{line}"));
            blobs.extend(base64::engine::general_purpose::STANDARD.decode(blob).unwrap());
        }
        heads.push(verify(&blobs).0);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 0, "writes went on");
    assert!(heads.windows(2).all(|pair| pair[0].cluster == pair[1].cluster), "{heads:?}");
}

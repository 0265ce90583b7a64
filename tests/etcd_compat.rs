//! Quorate against the real etcd: the same requests, the same answers.
//!
//! Three ways to ask: raw requests whose decoded answers are compared field by field (`script.rs`); an unmodified etcdctl
//! whose output is compared (`etcdctl.rs`); and the `etcd-client` crate, in a package of its own because it needs protoc.
//! `watch.rs` holds the same watch conversations with both; `metrics.rs` compares what both tell a scrape, `members.rs` changes of the membership, `gateway.rs` what
//! both answer to curl, `recipes.rs` how locks and elections go, and `snapshot.rs` takes
//! snapshots of ours.
//! `ETCD_BIN_DIR` says where etcd and etcdctl 3.5 are.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "etcd_compat/etcdctl.rs"]
mod etcdctl;
#[path = "etcd_compat/gateway.rs"]
mod gateway;
#[path = "etcd_compat/members.rs"]
mod members;
#[path = "etcd_compat/metrics.rs"]
mod metrics;
#[path = "etcd_compat/recipes.rs"]
mod recipes;
#[path = "etcd_compat/script.rs"]
mod script;
#[path = "etcd_compat/snapshot.rs"]
mod snapshot;
mod support;
#[path = "etcd_compat/watch.rs"]
mod watch;

use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use quorate::proto::etcdserverpb as pb;
use script::{Call, Step};
use std::path::Path;
use std::process::Command;
use support::{Cluster, etcd_bin_dir, skip};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// An answer in a form that can be compared: each field on a line of its own, what may differ replaced.
type Comparable = Vec<String>;

/// One connection to each member.
struct Connections {
    cluster: Cluster,
    channels: Vec<Channel>,
}

impl Connections {
    async fn new(cluster: Cluster) -> Connections {
        let mut channels = Vec::new();
        for endpoint in cluster.endpoints() {
            let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("a good address");
            channels.push(endpoint.connect().await.expect("a ready member takes connections"));
        }
        Connections { cluster, channels }
    }

    /// Sends a request to a member, chosen by the line's number, so that leader and followers all take part.
    async fn ask(&self, place: usize, call: Call) -> Comparable {
        let channel = self.channels[place % self.channels.len()].clone();
        let mut kv = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let local = match &call {
            Call::Range(request) => request.serializable,
            Call::Txn(request) => quorate::machine::check::is_serializable(request),
            Call::Status | Call::Leases | Call::TimeToLive(_) | Call::KeepAlive(_) | Call::HashKv(_) => true,
            _ => false,
        };
        if local {
            // What a member answers on its own may be old; after a linearizable read it is not.
            let current = pb::RangeRequest { key: "current".into(), ..Default::default() };
            kv.range(current).await.expect("a ready member reads");
        }
        let mut lease = LeaseClient::new(channel.clone());
        match call {
            Call::Range(request) => lines(kv.range(request).await, |r| mask_header(&mut r.header)),
            Call::Put(request) => lines(kv.put(request).await, |r| mask_header(&mut r.header)),
            Call::Delete(request) => lines(kv.delete_range(request).await, |r| mask_header(&mut r.header)),
            Call::Txn(request) => lines(kv.txn(request).await, |r| mask_header(&mut r.header)),
            Call::Members(request) => {
                let answer = ClusterClient::new(channel).member_list(request).await;
                lines(answer, |response| self.mask_members(response))
            }
            Call::Status => lines(MaintenanceClient::new(channel).status(pb::StatusRequest {}).await, mask_status),
            Call::Alarm(request) => {
                lines(MaintenanceClient::new(channel).alarm(request).await, |r| mask_header(&mut r.header))
            }
            Call::Compact(request) => lines(kv.compact(request).await, |r| mask_header(&mut r.header)),
            Call::HashKv(request) => lines(MaintenanceClient::new(channel).hash_kv(request).await, mask_hash),
            Call::Defragment => {
                lines(MaintenanceClient::new(channel).defragment(pb::DefragmentRequest {}).await, |_| ())
            }
            Call::Grant(request) => {
                let drawn = request.id == 0;
                lines(lease.lease_grant(request).await, |r| {
                    mask_header(&mut r.header);
                    if drawn {
                        mask_drawn(&mut r.id);
                    }
                })
            }
            Call::Revoke(request) => lines(lease.lease_revoke(request).await, |r| mask_header(&mut r.header)),
            Call::TimeToLive(request) => lines(lease.lease_time_to_live(request).await, |r| {
                mask_header(&mut r.header);
                // Seconds pass, on one side more of them than on the other.
                let whole = r.granted_ttl == 0 || (r.granted_ttl - 60..=r.granted_ttl).contains(&r.ttl);
                assert!(whole, "nothing here is older than a minute: {r:?}");
                r.ttl = r.ttl.min(0);
                r.keys.sort();
            }),
            Call::Leases => lines(lease.lease_leases(pb::LeaseLeasesRequest {}).await, |r| {
                mask_header(&mut r.header);
                // Those of the script are small.
                r.leases.iter_mut().filter(|lease| lease.id > 1_000_000).for_each(|lease| mask_drawn(&mut lease.id));
            }),
            Call::KeepAlive(ids) => {
                let requests = ids.into_iter().map(|id| pb::LeaseKeepAliveRequest { id });
                match lease.lease_keep_alive(tokio_stream::iter(requests)).await {
                    Err(status) => vec![status.to_string()],
                    Ok(response) => {
                        let mut answers = response.into_inner();
                        let mut all = Vec::new();
                        loop {
                            let next = answers.message().await.map(Response::new);
                            let ended = !matches!(&next, Ok(answer) if answer.get_ref().is_some());
                            all.extend(lines(next, |r| r.iter_mut().for_each(|r| mask_header(&mut r.header))));
                            if ended {
                                return all;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Ids differ, and so do ports; they come by id, so the order of names differs too.
    fn mask_members(&self, response: &mut pb::MemberListResponse) {
        mask_header(&mut response.header);
        assert!(response.members.is_sorted_by_key(|member| member.id), "members come by id: {response:?}");
        for member in &mut response.members {
            assert_ne!(member.id, 0);
            member.id = 1;
            let node = self.cluster.nodes().iter().find(|node| node.name == member.name).expect("a member's name");
            for url in member.peer_ur_ls.iter_mut().chain(&mut member.client_ur_ls) {
                *url = url.replace(&node.client, "CLIENT").replace(&node.peer, "PEER");
            }
        }
        response.members.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// What may differ in a header: whose it is and the term. The revision must be equal.
fn mask_header(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        for field in [&mut header.cluster_id, &mut header.member_id, &mut header.raft_term] {
            assert_ne!(*field, 0, "ids and terms are never 0");
            *field = 1;
        }
    }
}

/// An id that the server has drawn.
fn mask_drawn(id: &mut i64) {
    assert!(*id > 0, "a drawn id is positive: {id}");
    *id = 1_000_000;
}

/// What may differ in a status: ids, log positions, sizes, and fields that etcd 3.5 does not know.
fn mask_status(status: &mut pb::StatusResponse) {
    mask_header(&mut status.header);
    for field in [&mut status.leader, &mut status.raft_index, &mut status.raft_term, &mut status.raft_applied_index] {
        assert_ne!(*field, 0, "a ready member has a leader and a log");
        *field = 1;
    }
    assert!(status.db_size > 0, "etcdctl divides by it");
    (status.db_size, status.db_size_in_use) = (1, 1);
    assert!(status.version.starts_with("3.5."), "clients branch on the version: {}", status.version);
    status.version = "3.5".into();
    (status.storage_version, status.db_size_quota) = (String::new(), 0);
}

/// What may differ in a hash: the hash, and a field that etcd 3.5 does not know.
fn mask_hash(response: &mut pb::HashKvResponse) {
    mask_header(&mut response.header);
    (response.hash, response.hash_revision) = (1, 0);
}

fn lines<R: std::fmt::Debug>(answer: Result<Response<R>, Status>, mask: impl FnOnce(&mut R)) -> Comparable {
    let text = match answer {
        Ok(response) => {
            let mut response = response.into_inner();
            mask(&mut response);
            format!("{response:#?}")
        }
        Err(status) => format!("{:?}\n{}", status.code(), status.message()),
    };
    text.lines().map(str::to_owned).collect()
}

/// The lines that differ, `-` the first's and `+` the second's.
fn difference(a: &Comparable, b: &Comparable) -> String {
    let same_start = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let rest = a.len().min(b.len()) - same_start;
    let same_end = a.iter().rev().zip(b.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let cut = |text: &String| text.chars().take(300).collect::<String>();
    let mut out = vec![format!("  at line {same_start}")];
    out.extend(a[same_start..a.len() - same_end].iter().map(|line| format!("  - {}", cut(line))));
    out.extend(b[same_start..b.len() - same_end].iter().map(|line| format!("  + {}", cut(line))));
    out.join("\n")
}

/// Runs the script against both and reports every line whose answers differ.
async fn compare(first: Cluster, second: Cluster, script: &[Step]) {
    let (first, second) = (Connections::new(first).await, Connections::new(second).await);
    let mut different = Vec::new();
    for (place, step) in script.iter().enumerate() {
        let a = first.ask(place, step.call.clone()).await;
        let b = second.ask(place, step.call.clone()).await;
        if a != b {
            different.push(format!("{}\n{}", step.name, difference(&a, &b)));
        }
    }
    let (count, all) = (different.len(), script.len());
    assert!(different.is_empty(), "{count} of {all} answers differ:\n{}", different.join("\n"));
}

#[test]
fn the_script_is_long_and_its_names_are_unique() {
    let script = script::script();
    assert!(script.len() >= 150, "{} requests", script.len());
    let mut names: Vec<&str> = script.iter().map(|step| step.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name is there twice");
}

/// The part of the script that is about the cluster, or the other one.
fn part(about_cluster: bool) -> Vec<Step> {
    let about = |step: &Step| matches!(step.call, Call::Members(_) | Call::Status | Call::Alarm(_));
    script::script().into_iter().filter(|step| about(step) == about_cluster).collect()
}

/// Against one etcd member: three of them disagree among themselves after a txn that writes and then reads a future
/// revision (3.5.30: the member that was asked refuses it, the others apply its writes).
#[tokio::test(flavor = "multi_thread")]
async fn quorate_answers_as_etcd_does() {
    let Some(etcd) = etcd_bin_dir("quorate_answers_as_etcd_does") else { return };
    compare(Cluster::etcd(&etcd, 1).await, Cluster::steady(3).await, &part(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quorate_describes_its_cluster_as_etcd_does() {
    let Some(etcd) = etcd_bin_dir("quorate_describes_its_cluster_as_etcd_does") else { return };
    compare(Cluster::etcd(&etcd, 3).await, Cluster::steady(3).await, &part(true)).await;
}

/// Two etcds must agree, or a line of the script compares what nobody promises.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_answers_as_itself() {
    let Some(etcd) = etcd_bin_dir("etcd_answers_as_itself") else { return };
    compare(Cluster::etcd(&etcd, 1).await, Cluster::etcd(&etcd, 1).await, &script::script()).await;
}

/// The crate `etcd-client`, from its own package: its build compiles etcd's proto files with protoc, ours needs none.
#[tokio::test(flavor = "multi_thread")]
async fn the_etcd_client_crate_works_against_quorate() {
    const TEST: &str = "the_etcd_client_crate_works_against_quorate";
    if Command::new("protoc").arg("--version").output().is_err() {
        return skip(TEST, "protoc is not installed");
    }
    let cluster = Cluster::steady(3).await;
    // Its own directory inside ours: the outer cargo holds the lock of its own.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("etcd-client");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/etcd-client/Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--manifest-path"])
        .arg(manifest)
        .env("CARGO_TARGET_DIR", target)
        .env("COMPAT_ENDPOINTS", cluster.endpoints().join(","))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{text}");
}

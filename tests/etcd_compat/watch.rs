//! The same watch conversations with the real etcd and with Quorate, answers compared field by field.
//!
//! A conversation is a list of lines: what is said, on the watch stream or to the store, and how many answers the stream gives
//! to it. An answer too many is met by the next line, so every conversation ends with a line that is answered. Answers to one
//! line come in the order of watch ids: between watchers, order is nobody's promise.

use super::{Comparable, difference, mask_header};
use crate::support::{Cluster, Server, etcd_bin_dir};
use bytes::Bytes;
use pb::kv_client::KvClient;
use pb::watch_client::WatchClient;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;
use quorate::proto::etcdserverpb as pb;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// One line.
#[derive(Clone, Debug)]
enum Line {
    Create(pb::WatchCreateRequest),
    Cancel(i64),
    Progress,
    Put(&'static str, Bytes),
    Delete(&'static str, &'static str),
    Txn(Vec<(&'static str, Option<&'static str>)>),
    Compact(i64),
}

/// A conversation: name, line, how many answers.
type Conversation = Vec<(&'static str, Line, usize)>;

fn watch(key: &'static str, range_end: &'static str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
}

fn create(key: &'static str, range_end: &'static str, change: impl FnOnce(&mut pb::WatchCreateRequest)) -> Line {
    let mut request = watch(key, range_end);
    change(&mut request);
    Line::Create(request)
}

fn put(key: &'static str, value: &'static str) -> Line {
    Line::Put(key, value.into())
}

fn ids() -> Conversation {
    vec![
        ("progress without watchers is not answered", Line::Progress, 0),
        ("the first id is 0", create("a", "", |_| {}), 1),
        ("the second is 1", create("a", "b", |_| {}), 1),
        ("an id of the client's", create("b", "", |r| r.watch_id = 7), 1),
        ("a negative id of the client's", create("b", "", |r| r.watch_id = -5), 1),
        ("an id that will be in the stream's way", create("b", "", |r| r.watch_id = 2), 1),
        ("the stream walks around it", create("b", "", |_| {}), 1),
        ("a duplicate", create("a", "", |r| r.watch_id = 7), 1),
        ("two hear of it", put("a", "1"), 2),
        ("four hear of it", put("b", "1"), 4),
        ("cancel", Line::Cancel(7), 1),
        ("cancel what is cancelled", Line::Cancel(7), 0),
        ("cancel what never was", Line::Cancel(99), 0),
        ("cancelled ids are free for clients", create("c", "", |r| r.watch_id = 7), 1),
        ("cancel the first", Line::Cancel(0), 1),
        ("but are not picked again", create("c", "", |_| {}), 1),
        ("progress of all", Line::Progress, 1),
        ("one is left that hears", put("a", "2"), 1),
    ]
}

fn ranges() -> Conversation {
    vec![
        ("a range whose end is its key", create("b", "b", |_| {}), 1),
        ("a range that ends before it begins", create("b", "a", |_| {}), 1),
        ("an empty key is the first key", create("", "", |_| {}), 1),
        ("an empty key and a range", create("", "b", |_| {}), 1),
        ("all keys from one on", create("b", "\0", |_| {}), 1),
        ("all keys", create("\0", "\0", |_| {}), 1),
        ("a", put("a", "1"), 2),
        ("b", put("b", "1"), 2),
        ("the first key", put("\0", "1"), 3),
        ("a txn of many", Line::Txn(vec![("a", Some("2")), ("b", None), ("c", Some("2")), ("aa", Some("x"))]), 3),
        ("a deletion of many", Line::Delete("a", "c"), 2),
        ("a deletion of nothing", Line::Delete("x", "y"), 0),
        ("progress", Line::Progress, 1),
    ]
}

fn starts() -> Conversation {
    vec![
        ("first", put("a", "1"), 0),
        ("second", put("a", "2"), 0),
        ("third", put("b", "1"), 0),
        ("a negative start", create("a", "", |r| r.start_revision = -1), 1),
        ("from the first", create("a", "c", |r| r.start_revision = 1), 2),
        ("from the middle", create("a", "c", |r| r.start_revision = 3), 2),
        ("from the newest", create("a", "c", |r| r.start_revision = 4), 2),
        ("progress of those at the present", Line::Progress, 1),
        ("from the next", create("a", "c", |r| r.start_revision = 5), 1),
        ("which is the future, too", Line::Progress, 0),
        ("from the future", create("a", "c", |r| r.start_revision = 7), 1),
        ("the future hides progress", Line::Progress, 0),
        ("too early for one", put("a", "3"), 4),
        ("still too early", Line::Delete("a", ""), 4),
        ("the future is here", put("a", "4"), 5),
        ("progress of all", Line::Progress, 1),
    ]
}

fn kinds() -> Conversation {
    let drops = |filters: &'static [FilterType]| {
        move |r: &mut pb::WatchCreateRequest| r.filters = filters.iter().map(|filter| (*filter).into()).collect()
    };
    vec![
        ("no puts", create("a", "b", drops(&[FilterType::Noput])), 1),
        ("no deletions", create("a", "b", drops(&[FilterType::Nodelete])), 1),
        ("nothing at all", create("a", "b", drops(&[FilterType::Noput, FilterType::Nodelete])), 1),
        ("with what was before", create("a", "b", |r| r.prev_kv = true), 1),
        ("a creation", put("a", "1"), 2),
        ("a change", put("a", "2"), 2),
        ("a change to the same", put("a", "2"), 2),
        ("a deletion", Line::Delete("a", ""), 2),
        ("a new life", put("a", "3"), 2),
        ("a txn", Line::Txn(vec![("a", None), ("a1", Some("1")), ("a2", Some("2"))]), 3),
        ("from the past, with what was before", create("a", "b", |r| (r.start_revision, r.prev_kv) = (2, true)), 2),
        ("from the past, no puts", create("a", "b", |r| (r.start_revision, r.filters) = (2, vec![0])), 2),
        ("progress", Line::Progress, 1),
    ]
}

fn compactions() -> Conversation {
    vec![
        ("1", put("a", "1"), 0),
        ("2", put("a", "2"), 0),
        ("3", put("a", "3"), 0),
        ("4", put("a", "4"), 0),
        ("who is there", create("a", "", |_| {}), 1),
        ("who waits for the future", create("a", "", |r| r.start_revision = 100), 1),
        ("compact", Line::Compact(4), 0),
        ("from before the compaction", create("a", "", |r| r.start_revision = 3), 2),
        ("from the compaction", create("a", "", |r| r.start_revision = 4), 2),
        ("from after it", create("a", "", |r| (r.start_revision, r.prev_kv) = (5, true)), 2),
        ("what was before is gone", create("a", "", |r| (r.start_revision, r.prev_kv) = (4, true)), 2),
        ("compact to the newest", Line::Compact(5), 0),
        ("who was there goes on", put("a", "5"), 4),
    ]
}

fn fragments() -> Conversation {
    let large = |letter: &str| Bytes::from(letter.repeat(900 * 1024));
    vec![
        ("one", Line::Put("a1", large("1")), 0),
        ("two", Line::Put("a2", large("2")), 0),
        ("three", Line::Put("a3", large("3")), 0),
        ("whole", create("a", "b", |r| r.prev_kv = true), 1),
        ("in fragments", create("a", "b", |r| (r.prev_kv, r.fragment) = (true, true)), 1),
        ("small ones in fragments", create("a", "b", |r| r.fragment = true), 1),
        ("a large revision", Line::Delete("a", "b"), 4),
        ("a small one", put("a", "1"), 3),
    ]
}

/// One side of a conversation.
struct Side {
    kv: KvClient<Channel>,
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    answers: mpsc::UnboundedReceiver<pb::WatchResponse>,
    cluster: Cluster,
}

/// Longer than any answer takes, on a machine that has other things to do: a line that is answered too rarely must fail.
const PATIENCE: Duration = Duration::from_secs(60);

impl Side {
    /// All is said to one member, which need not be the leader.
    async fn new(cluster: Cluster) -> Side {
        let endpoint = cluster.endpoints().pop().expect("a member");
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("a good address");
        let channel = endpoint.connect().await.expect("a ready member takes connections");
        let (requests, queue) = mpsc::unbounded_channel();
        let mut watch = WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let request = Request::new(UnboundedReceiverStream::new(queue));
        let (heard, answers) = mpsc::unbounded_channel();
        // etcd answers the call itself only when it has something to say.
        tokio::spawn(async move {
            let Ok(stream) = watch.watch(request).await else { return };
            let mut stream = stream.into_inner();
            while let Ok(Some(answer)) = stream.message().await {
                let _ = heard.send(answer);
            }
        });
        Side { kv: KvClient::new(channel), requests, answers, cluster }
    }

    fn say(&self, union: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(union) }).expect("the stream is open");
    }

    async fn hear(&mut self) -> pb::WatchResponse {
        let answer = tokio::time::timeout(PATIENCE, self.answers.recv());
        answer.await.expect("an answer is missing").expect("the stream goes on")
    }

    async fn answer(&mut self, line: Line, count: usize) -> Comparable {
        match line {
            Line::Create(request) => self.say(RequestUnion::CreateRequest(request)),
            Line::Cancel(watch_id) => self.say(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })),
            Line::Progress => self.say(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})),
            Line::Put(key, value) => {
                let request = pb::PutRequest { key: key.into(), value, ..Default::default() };
                self.kv.put(request).await.expect("a put");
            }
            Line::Delete(key, range_end) => {
                let request = pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false };
                self.kv.delete_range(request).await.expect("a deletion");
            }
            Line::Txn(ops) => {
                use pb::request_op::Request::{RequestDeleteRange, RequestPut};
                let op = |(key, value): (&'static str, Option<&'static str>)| match value {
                    Some(value) => {
                        RequestPut(pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() })
                    }
                    None => RequestDeleteRange(pb::DeleteRangeRequest { key: key.into(), ..Default::default() }),
                };
                let success = ops.into_iter().map(|given| pb::RequestOp { request: Some(op(given)) }).collect();
                self.kv.txn(pb::TxnRequest { success, ..Default::default() }).await.expect("a txn");
            }
            Line::Compact(revision) => {
                let request = pb::CompactionRequest { revision, physical: true };
                self.kv.compact(request).await.expect("a compaction");
            }
        }
        let mut answers = Vec::new();
        for _ in 0..count {
            answers.push(self.hear().await);
        }
        answers.sort_by_key(|answer| answer.watch_id);
        let mut lines = Vec::new();
        for mut answer in answers {
            mask_header(&mut answer.header);
            lines.extend(format!("{answer:#?}").lines().map(str::to_owned));
        }
        lines
    }
}

async fn compare(first: Cluster, second: Cluster, conversation: Conversation) {
    let (mut first, mut second) = (Side::new(first).await, Side::new(second).await);
    let mut different = Vec::new();
    for (name, line, count) in conversation {
        let a = first.answer(line.clone(), count).await;
        let b = second.answer(line, count).await;
        if a != b {
            different.push(format!("{name}\n{}", difference(&a, &b)));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

macro_rules! conversations {
    ($($test:ident: $conversation:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let Some(etcd) = etcd_bin_dir(stringify!($test)) else { return };
            compare(Cluster::etcd(&etcd, 1).await, Cluster::steady(3).await, $conversation()).await;
        }
    )*};
}

conversations! {
    watch_ids_are_etcds: ids,
    watched_ranges_are_etcds: ranges,
    starts_are_etcds: starts,
    filters_and_previous_values_are_etcds: kinds,
    compaction_cancels_are_etcds: compactions,
    fragments_are_etcds: fragments
}

/// Two etcds must agree, or a line compares what nobody promises.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_watches_as_itself() {
    let Some(etcd) = etcd_bin_dir("etcd_watches_as_itself") else { return };
    for conversation in [ids(), ranges(), starts(), kinds(), compactions(), fragments()] {
        compare(Cluster::etcd(&etcd, 1).await, Cluster::etcd(&etcd, 1).await, conversation).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_notified_as_etcd_does() {
    let Some(etcd) = etcd_bin_dir("progress_is_notified_as_etcd_does") else { return };
    let mut heard = Vec::new();
    for server in [Server::Etcd(etcd), Server::Quorate] {
        let interval = "--experimental-watch-progress-notify-interval=100ms";
        let mut side = Side::new(Cluster::new(server, 1, &[interval]).await).await;
        let mut answers = side.answer(put("a", "1"), 0).await;
        answers.extend(side.answer(create("a", "", |_| {}), 1).await);
        answers.extend(side.answer(create("a", "", |r| r.progress_notify = true), 1).await);
        // Whoever hears nothing hears that.
        for _ in 0..3 {
            let mut answer = side.hear().await;
            mask_header(&mut answer.header);
            answers.extend(format!("{answer:#?}").lines().map(str::to_owned));
        }
        heard.push(answers);
    }
    assert_eq!(heard[0], heard[1], "{}", difference(&heard[0], &heard[1]));
}

/// What an unmodified etcdctl prints of a server's past and present, up to the last key.
async fn etcdctl_prints(etcd: &Path, server: Server, format: &str) -> Vec<String> {
    const LAST: [&str; 2] = ["a/last", "YS9sYXN0"];
    let mut side = Side::new(Cluster::new(server, 1, &[]).await).await;
    for line in [put("a/1", "x"), put("a/1", "y"), put("b", "z"), Line::Delete("a/1", "")] {
        side.answer(line, 0).await;
    }
    let mut etcdctl = Command::new(etcd.join("etcdctl"))
        .args(["--endpoints", &side.cluster.endpoints()[0], "watch", "--prefix", "a/", "--rev", "1", "--prev-kv"])
        .args(["-w", format])
        .env_clear()
        .stdout(Stdio::piped())
        .spawn()
        .expect("etcdctl runs");
    let mut lines = BufReader::new(etcdctl.stdout.take().expect("it is piped")).lines();
    let mut printed = Vec::new();
    let mut is_past = true;
    loop {
        let line = tokio::task::block_in_place(|| lines.next()).expect("etcdctl goes on").expect("it prints text");
        let is_last = LAST.iter().any(|last| line.contains(last));
        // So it stands in the format `fields`.
        if !["ClusterID", "MemberID", "RaftTerm"].iter().any(|name| line.starts_with(&format!("\"{name}\""))) {
            printed.push(mask_json(&line));
        }
        if std::mem::take(&mut is_past) {
            // The past is being told: what happens now comes after it.
            side.answer(put("a/last", "1"), 0).await;
        }
        if is_last {
            break;
        }
    }
    etcdctl.kill().expect("a child can be killed");
    etcdctl.wait().expect("a child can be waited for");
    printed
}

/// A line without whose header it is.
fn mask_json(line: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<serde_json::Value>(line) else { return line.to_owned() };
    value.as_object_mut().map(|object| object.remove("Header"));
    value.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_prints_what_it_watches_alike() {
    let Some(etcd) = etcd_bin_dir("etcdctl_prints_what_it_watches_alike") else { return };
    for format in ["simple", "json", "fields"] {
        let theirs = etcdctl_prints(&etcd, Server::Etcd(etcd.clone()), format).await;
        let ours = etcdctl_prints(&etcd, Server::Quorate, format).await;
        assert!(theirs.len() >= 2, "{theirs:?}");
        assert_eq!(theirs, ours, "{format}");
    }
}

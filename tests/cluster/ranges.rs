//! Ranges that are large: what an answer may take, and reading piece by piece.

use super::load::PATIENCE;
use crate::support::scrape::Scrape;
use crate::support::{Cluster, Server, curl};
use pb::kv_client::KvClient;
use pb::request_op::Request;
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const KEYS: usize = 300;
const VALUE_BYTES: usize = 10_000;
/// Less than all keys, more than half of them.
const ONE_ANSWER: usize = 2_500_000;

/// A member with 300 keys of 10 000 bytes each, and a connection to it.
async fn filled(extra: &[&str]) -> (Cluster, KvClient<Channel>) {
    let cluster = Cluster::new(Server::Quorate, 1, extra).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.endpoints()[0])).unwrap();
    let mut kv = KvClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(usize::MAX);
    for n in 0..KEYS {
        let value = vec![b'v'; VALUE_BYTES].into();
        kv.put(pb::PutRequest { key: format!("k{n:04}").into(), value, ..Default::default() }).await.unwrap();
    }
    (cluster, kv)
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() }
}

/// The pieces of a stream.
async fn pieces(kv: &mut KvClient<Channel>, request: pb::RangeRequest) -> Result<Vec<pb::RangeResponse>, Status> {
    let mut stream = kv.range_stream(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await? {
        pieces.push(piece.range_response.unwrap());
    }
    Ok(pieces)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_takes_too_much_is_refused_with_a_way_out() {
    let limit = ONE_ANSWER.to_string();
    let (cluster, mut kv) = filled(&["--max-range-bytes", &limit]).await;
    let refused = |status: Status| {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        for part in ["this range takes 3", &limit, "--max-range-bytes", "--limit", "RangeStream"] {
            assert!(status.message().contains(part), "{part}: {status}");
        }
    };
    refused(kv.range(all()).await.unwrap_err());
    let op = |request| pb::RequestOp { request: Some(request) };
    let reads = pb::TxnRequest { success: vec![op(Request::RequestRange(all()))], ..Default::default() };
    refused(kv.txn(reads.clone()).await.unwrap_err());
    let put = pb::PutRequest { key: "new".into(), ..Default::default() };
    let mut writes = reads;
    writes.success.push(op(Request::RequestPut(put)));
    refused(kv.txn(writes).await.unwrap_err());
    let delete = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: true };
    refused(kv.delete_range(delete).await.unwrap_err());
    let answer = curl::post(&cluster.endpoints()[0], "/v3/kv/range", r#"{"key":"aw==","range_end":"bA=="}"#).await;
    assert_eq!(answer.status, 429, "{}", answer.body);
    // Nothing of it was done, and what fits is answered, again and again.
    for _ in 0..5 {
        let some = kv.range(pb::RangeRequest { limit: 200, ..all() }).await.unwrap().into_inner();
        assert_eq!((some.kvs.len(), some.more, some.count), (200, true, KEYS as i64));
    }
    assert_eq!(kv.range(pb::RangeRequest { keys_only: true, ..all() }).await.unwrap().into_inner().kvs.len(), KEYS);
    let new = kv.range(pb::RangeRequest { key: "new".into(), ..Default::default() }).await.unwrap();
    assert_eq!(new.into_inner().count, 0);
    let streamed: usize = pieces(&mut kv, all()).await.unwrap().iter().map(|piece| piece.kvs.len()).sum();
    assert_eq!(streamed, KEYS);
}

/// An answer that nobody takes keeps its room; another one has none, until the first is gone.
#[tokio::test(flavor = "multi_thread")]
async fn answers_share_the_room_as_long_as_they_are_on_their_way() {
    let (cluster, mut kv) = filled(&["--max-ranges-bytes", "5000000"]).await;
    let endpoint = cluster.endpoints()[0].clone();
    // A connection without room for an answer: its window is full, and nothing is read.
    let narrow = Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
    let narrow = narrow.initial_stream_window_size(1024).initial_connection_window_size(1024);
    let stuck = tokio::spawn(Stuck::ask(narrow.connect().await.unwrap()));
    let stuck = stuck.await.unwrap();
    // Not one of them: an answer that was taken may itself be what the next one finds in its way.
    for _ in 0..5 {
        let refusal = kv.range(all()).await.expect_err("the first answer takes no room");
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        assert!(refusal.message().contains("--max-ranges-bytes"), "{refusal}");
    }
    drop(stuck);
    let deadline = clock::instant() + PATIENCE;
    while let Err(status) = kv.range(all()).await {
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(clock::instant() < deadline, "the room is not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A call whose answer has begun and is not taken.
struct Stuck {
    _answer: tonic::Streaming<pb::RangeResponse>,
}

impl Stuck {
    async fn ask(channel: Channel) -> Stuck {
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = "/etcdserverpb.KV/Range".parse().unwrap();
        let codec = tonic_prost::ProstCodec::<pb::RangeRequest, pb::RangeResponse>::default();
        // As if it were a stream: the head comes, and the body waits to be read.
        let answer = grpc.server_streaming(tonic::Request::new(all()), path, codec).await.unwrap();
        Stuck { _answer: answer.into_inner() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_range_is_the_range() {
    let (_cluster, mut kv) = filled(&["--max-request-bytes", "200000"]).await;
    for request in [all(), pb::RangeRequest { limit: 123, ..all() }, pb::RangeRequest { count_only: true, ..all() }] {
        let whole = kv.range(request.clone()).await.unwrap().into_inner();
        let pieces = pieces(&mut kv, request).await.unwrap();
        let (last, first) = pieces.split_last().unwrap();
        assert!(first.iter().all(|piece| piece.header.is_none() && piece.count == 0 && !piece.more));
        assert!(pieces[0].kvs.len() <= 10, "{}", pieces[0].kvs.len());
        assert!(pieces.iter().all(|piece| piece.kvs.len() <= 20), "200 kB are less than 20 pairs");
        let kvs = pieces.iter().flat_map(|piece| piece.kvs.clone()).collect();
        assert_eq!(pb::RangeResponse { kvs, ..last.clone() }, whole);
    }
    let refused = [
        (pb::RangeRequest { sort_order: 2, ..all() }, "RangeStream does not support custom sort orders"),
        (pb::RangeRequest { sort_target: 3, ..all() }, "RangeStream does not support custom sort orders"),
        (pb::RangeRequest { max_mod_revision: 3, ..all() }, "RangeStream does not support revision filters"),
    ];
    for (request, text) in refused {
        let status = pieces(&mut kv, request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, text));
    }
    let status = pieces(&mut kv, pb::RangeRequest { revision: 100_000, ..all() }).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let status = pieces(&mut kv, pb::RangeRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "etcdserver: key is not provided"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_range_ends_when_its_caller_leaves() {
    let (cluster, mut kv) = filled(&[]).await;
    let mut stream = kv.range_stream(all()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    let cancelled = [("grpc_method", "RangeStream"), ("grpc_code", "Canceled")];
    let deadline = clock::instant() + PATIENCE;
    while Scrape::of(&cluster.endpoints()[0]).await.sum("grpc_server_handled_total", &cancelled) < 1.0 {
        assert!(clock::instant() < deadline, "the call goes on without its caller");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

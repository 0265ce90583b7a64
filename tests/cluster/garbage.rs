//! What nobody should send: on both ports, and through the API.

use crate::kills::assert_quiet_logs;
use crate::load::Load;
use crate::support::Cluster;
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::kv_client::KvClient;
use quorate::rng::Rng;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The header of an HTTP/2 frame.
fn frame(length: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()].concat()
}

/// One piece of garbage, by number.
fn garbage(number: u64, rng: &mut Rng) -> Vec<u8> {
    let noise = |rng: &mut Rng, len: u64| (0..len).map(|_| rng.below(256) as u8).collect::<Vec<u8>>();
    let settings = [PREFACE, &frame(0, 4, 0, 0)].concat();
    match number % 10 {
        0 => noise(rng, 5_000),
        1 => b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        2 => [b"POST /v3/kv/put HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(), noise(rng, 100)]
            .concat(),
        3 => [b"GET / HTTP/1.1\r\n".to_vec(), vec![b'a'; 500_000]].concat(),
        4 => PREFACE[..11].to_vec(),
        5 => [PREFACE.to_vec(), noise(rng, 200)].concat(),
        // A frame far beyond what was agreed on.
        6 => [settings, frame(0x00ff_ffff, 0, 0, 1), noise(rng, 10_000)].concat(),
        // Headers that are no HPACK.
        7 => [settings, frame(300, 1, 4, 1), noise(rng, 300)].concat(),
        // A stream that was never opened.
        8 => [settings, frame(8, 0, 1, 9), vec![0; 8]].concat(),
        _ => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_ports_disturbs_nobody() {
    let mut cluster = Cluster::quorate(3).await;
    let load = Load::start(&cluster, 8);
    let seed = clock::entropy();
    println!("seed {:#x}", seed.0);
    let mut rng = Rng::new(seed);
    // Kept open to the end: half a word and then silence must cost nobody else anything.
    let mut open = Vec::new();
    for number in 0..120 {
        let node = &cluster.nodes()[number as usize % 3];
        let address = if number / 10 % 2 == 0 { &node.client } else { &node.peer };
        let mut stream = TcpStream::connect(address).await.unwrap();
        let bytes = garbage(number, &mut rng);
        // The member may hang up in the middle of it.
        let _ = stream.write_all(&bytes).await;
        if number % 3 == 0 {
            // Reading until it hangs up, or has nothing to say.
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(Duration::from_millis(20), stream.read_to_end(&mut answer)).await;
        }
        open.push(stream);
    }
    load.acknowledged(500).await;
    for place in 0..3 {
        assert_eq!(cluster.ended(place), None);
    }
    drop(open);
    load.verify(&cluster).await;
    assert_quiet_logs(&cluster);
}

/// Bad requests get etcd's codes and texts, and leave nothing.
#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_what_etcd_tells_them() {
    let cluster = Cluster::quorate(1).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.nodes()[0].client)).unwrap();
    let mut kv = KvClient::new(endpoint.connect().await.unwrap());
    let put = |key: &str, len: usize| pb::PutRequest {
        key: key.to_owned().into(),
        value: vec![b'v'; len].into(),
        ..Default::default()
    };
    let told = |status: Status| (status.code(), status.message().to_owned());
    let no_key = (Code::InvalidArgument, "etcdserver: key is not provided".to_owned());
    assert_eq!(told(kv.put(put("", 1)).await.unwrap_err()), no_key);
    assert_eq!(told(kv.range(pb::RangeRequest::default()).await.unwrap_err()), no_key);
    assert_eq!(told(kv.delete_range(pb::DeleteRangeRequest::default()).await.unwrap_err()), no_key);

    let too_large = (Code::InvalidArgument, "etcdserver: request is too large".to_owned());
    assert_eq!(told(kv.put(put("k", 1_572_864)).await.unwrap_err()), too_large);
    let (code, text) = told(kv.put(put("k", 3 << 20)).await.unwrap_err());
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.starts_with("grpc: received message larger than max (") && text.ends_with("vs. 2097152)"), "{text}");

    let op = |n: usize| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(&format!("k{n}"), 1))) };
    let txn = |ops: Vec<pb::RequestOp>| pb::TxnRequest { success: ops, ..Default::default() };
    let too_many = (Code::InvalidArgument, "etcdserver: too many operations in txn request".to_owned());
    assert_eq!(told(kv.txn(txn((0..129).map(op).collect())).await.unwrap_err()), too_many);
    let twice = (Code::InvalidArgument, "etcdserver: duplicate key given in txn request".to_owned());
    assert_eq!(told(kv.txn(txn(vec![op(1), op(1)])).await.unwrap_err()), twice);

    let all = || pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let left = kv.range(all()).await.unwrap().into_inner();
    assert_eq!((left.count, left.header.unwrap().revision), (0, 1), "nothing was done");
    kv.put(put("k", 1_500_000)).await.unwrap();
    kv.txn(txn((0..128).map(op).collect())).await.unwrap();
    assert_eq!(kv.range(all()).await.unwrap().into_inner().count, 129);
    assert_quiet_logs(&cluster);
}

//! What a program that uses the crate `etcd-client` does, against the cluster that `COMPAT_ENDPOINTS` names.
//!
//! Run by `tests/etcd_compat.rs`, which starts the cluster.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
};

async fn connect() -> Client {
    let endpoints = std::env::var("COMPAT_ENDPOINTS").expect("COMPAT_ENDPOINTS names a running cluster");
    Client::connect(endpoints.split(',').collect::<Vec<_>>(), None).await.expect("it can be reached")
}

#[tokio::test]
async fn put_get_delete() {
    let mut client = connect().await;
    let first = client.put("crate/a", "1", None).await.unwrap();
    assert!(first.prev_key().is_none());
    let second = client.put("crate/a", "2", Some(PutOptions::new().with_prev_key())).await.unwrap();
    assert_eq!(second.prev_key().unwrap().value(), b"1");
    assert!(second.header().unwrap().revision() > first.header().unwrap().revision(), "other tests write as well");
    client.put("crate/b", "3", None).await.unwrap();

    let got = client.get("crate/a", None).await.unwrap();
    assert_eq!((got.count(), got.kvs()[0].value(), got.kvs()[0].version()), (1, &b"2"[..], 2));
    let options = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(1);
    let got = client.get("crate/", Some(options)).await.unwrap();
    assert_eq!((got.count(), got.more(), got.kvs()[0].key()), (2, true, &b"crate/b"[..]));
    let old = GetOptions::new().with_revision(first.header().unwrap().revision());
    assert_eq!(client.get("crate/a", Some(old)).await.unwrap().kvs()[0].value(), b"1");

    let deleted = client.delete("crate/", Some(DeleteOptions::new().with_prefix().with_prev_key())).await.unwrap();
    assert_eq!((deleted.deleted(), deleted.prev_kvs().len()), (2, 2));
    assert_eq!(client.get("crate/a", None).await.unwrap().count(), 0);
}

#[tokio::test]
async fn txn() {
    let mut client = connect().await;
    let swap = |from: &str, to: &str| {
        Txn::new()
            .when([Compare::value("crate-txn", CompareOp::Equal, from)])
            .and_then([TxnOp::put("crate-txn", to, None)])
            .or_else([TxnOp::get("crate-txn", None)])
    };
    client.put("crate-txn", "x", None).await.unwrap();
    assert!(client.txn(swap("x", "y")).await.unwrap().succeeded());
    let failed = client.txn(swap("x", "z")).await.unwrap();
    assert!(!failed.succeeded());
    assert_eq!(client.get("crate-txn", None).await.unwrap().kvs()[0].value(), b"y");
    assert_eq!(failed.op_responses().len(), 1);
}

#[tokio::test]
async fn status_and_members() {
    let mut client = connect().await;
    let status = client.status().await.unwrap();
    assert!(status.version().starts_with("3.5."), "{}", status.version());
    assert!(status.leader() != 0 && status.db_size() > 0 && status.raft_index() > 0);
    let members = client.member_list().await.unwrap();
    assert_eq!(members.members().len(), 3);
    assert!(members.members().iter().any(|member| member.id() == status.leader()));
    assert!(members.members().iter().all(|member| !member.name().is_empty() && !member.client_urls().is_empty()));
}

#[tokio::test]
async fn errors_carry_etcds_codes_and_texts() {
    let mut client = connect().await;
    let Err(Error::GRpcStatus(status)) = client.put("", "x", None).await else { panic!("an empty key was stored") };
    assert_eq!(status.message(), "etcdserver: key is not provided");
    let future = GetOptions::new().with_revision(i64::MAX);
    let Err(Error::GRpcStatus(status)) = client.get("a", Some(future)).await else { panic!("the future was read") };
    assert_eq!(status.message(), "etcdserver: mvcc: required revision is a future revision");
}

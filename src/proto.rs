//! The wire contract as Rust types, generated from `proto/` by `proto/build.rs`.
//!
//! The client API has etcd's package names and field numbers (the numbers are the contract; the files are ours). Bytes
//! fields are `bytes::Bytes`, so a key decoded from a frame is a slice of that frame: whoever keeps one for long copies it
//! first, or pins the frame.

#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]

/// Stored pairs and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// etcd's client API.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// etcd's lock service.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// etcd's election service.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// Our own messages: replicated commands, peer traffic, the status behind `quorate status`.
pub mod quorate {
    tonic::include_proto!("quorate");
}

/// The descriptors of all of them, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

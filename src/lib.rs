//! Quorate: a Raft-replicated, linearizable key-value store that speaks etcd's v3 API.
//!
//! (the map of the house comes here)

pub mod checksum;
pub mod cli;
pub mod client;
pub mod clock;
pub mod ids;
pub mod machine;
pub mod node;
pub mod proto;
pub mod raft;
pub mod rng;
pub mod server;
pub mod storage;
pub mod time;

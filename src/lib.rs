//! Quorate: a Raft-replicated, linearizable key-value store that speaks etcd's v3 API.
//!
//! This page is the map of the house. Each room opens with an essay of its own; read from here, they make a book about one
//! question: *how do several machines keep one log, and what can be built on it?* Someone who wants to learn Raft starts
//! with [`raft`], someone who wants to know what survives a power cut with [`storage`], someone who comes from etcd with
//! [`machine`].
//!
//! # One idea
//!
//! **A node is a value.** [`node::Node`] is a synchronous state machine: inputs and a time go in, effects come out. It holds
//! the Raft core, the key-value machine and the requests in flight, and owns no thread, socket, clock or dice. A *shell*
//! carries its inputs and effects and decides nothing. The server is one shell; the tests are another, in which the network
//! loses and repeats, disks finish late and power fails, all from one seed.
//!
//! There are four doors to the world, and no fifth:
//!
//! | door | its form | in production | in tests |
//! |---|---|---|---|
//! | disk | [`storage::Engine`], the only trait at a seam | sled | memory, with a durable image and unsynced writes to lose |
//! | network | values: [`node::Input::Peer`], [`node::Effect::Send`] | gRPC streams | a queue that loses, repeats, reorders |
//! | clock | an argument, [`time::Time`] | the one reader, [`clock`] | whatever the test says |
//! | dice | a [`rng::Seed`] at birth | the system's entropy, read once | the run's seed |
//!
//! # The rooms
//!
//! ```text
//!    cli ──────────────► everything below
//!    server   maelstrom       client
//!       ├──────────┴──► wire     │       wire ► raft, proto
//!       ├───────► watch          │       watch ► machine, proto
//!     node                       │
//!    ┌──┴────┬────────┐          │
//!  raft   storage  machine       │       storage ► raft (Entry, Ready, Persisted)
//!    │       ▲        │          │       machine ► storage, proto
//!    │       └────────┘          ▼
//!  ids, time, rng, checksum    proto
//! ```
//!
//! - [`raft`] is the protocol: elections, replication, commit, reads. Bytes in, bytes out; it knows no key and no value.
//! - [`storage`] is bytes that survive: what a disk promises, the log on it, the data directory.
//! - [`machine`] is the deterministic machine: etcd's model of keys and revisions as a function of the log.
//! - [`node`] is one member, as a value: it ties the three together and answers each request exactly once.
//! - [`watch`] tells many watchers what happened: cursors over the machine's history, and the queues of their streams.
//! - [`wire`] is Raft's messages as bytes, the same for every shell that has a network.
//! - [`server`] is the shell that serves: threads, gRPC, flags, signals.
//! - [`offline`] works on files and data directories while no member runs: a snapshot is verified, and restored.
//! - [`maelstrom`] is the shell that Jepsen's bench judges: the same node, with lines of JSON for a network.
//! - [`client`] finds a member that works, and never takes "perhaps done" for "not done".
//! - [`check`] is the judge: from what clients saw, whether the store kept its word. It shares no code with the accused.
//! - [`cli`] is the command line: `serve`, the client commands, the local lab `dev`, the load generator `bench`, the judge's
//!   `check`.
//!
//! One crate can't enforce who may import whom, so `tests/tidy.rs` holds the drawing as data and fails with file and line.
//!
//! # Laws with names
//!
//! - *Sync-before-ack*: a message that speaks of state leaves when that state is durable ([`raft::Message::dependency`]).
//! - *One-door*: the machine changes in [`machine::Machine::apply`] and nowhere else.
//! - *One-record*: what an entry did, the position it was done at and the digest after it are one value on the disk.
//! - *No-clock*, *No-dice*: below the shells, time is an argument and chance a seed.
//! - *Judge-apart*: what judges a history knows nothing of what made it ([`check`]).
//! - *Never twice*: what may have been appended is never submitted again; who can't know says "uncertain".
//!
//! # Four walks
//!
//! **A put.** `server::api` checks the request and encodes it once; those bytes go to the log, the wire and the machine. The
//! driver thread drains its mailbox into [`node::Node::handle`] and closes the turn with [`node::Node::advance`]. Raft
//! appends the whole turn's commands; one append per follower leaves at once, and one [`raft::Ready`] goes to the log's
//! worker, which packs everything queued into one record under one sync. Followers do the same and acknowledge. When a
//! quorum has it, it is committed; when the member's own disk has it too, the machine applies it, the caller is answered, and
//! what it did goes to the state's database without a sync: the log can replay it.
//!
//! **A linearizable read.** It waits for a round of heartbeats that began after it arrived, shared with every other read of
//! that moment, and for the commit index of that round to be applied; then it is read from a [`machine::View`], off the
//! node's thread. A follower asks the leader for the index and reads locally.
//!
//! **A killed leader.** Its connections break. Each follower that sees that forgets it, asks for pre-votes within 20 ms, and
//! one of them leads after one more round and two syncs. Commands that had no leader meanwhile were parked and are submitted
//! now; those that the dead leader may have appended are answered "uncertain".
//!
//! **A crash.** [`node::open()`] reads the two databases top to bottom and makes a node of them, or refuses with a sentence. It
//! is the only constructor of a node, in production and in tests.
//!
//! # Errors
//!
//! | kind | what happens |
//! |---|---|
//! | a caller's mistake | part of the reply, the same on all members |
//! | refused: surely not done | may be sent again |
//! | uncertain: perhaps done | never repeated blindly |
//! | the disk | the process ends with a sentence; a restart recovers |
//! | our bug | an assertion with values, on in release too |
//!
//! # More
//!
//! [`docs`] has the decisions that shaped the house and the table of bugs that were found, each with the law it broke and the
//! test that holds it now.

pub mod check;
pub mod checksum;
pub mod cli;
pub mod client;
pub mod clock;
pub mod docs;
pub mod ids;
pub mod machine;
pub mod maelstrom;
pub mod node;
pub mod offline;
pub mod proto;
pub mod raft;
pub mod rng;
pub mod server;
pub mod sim;
pub mod storage;
pub mod time;
pub mod watch;
pub mod wire;

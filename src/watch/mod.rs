//! Watches: telling many watchers what happened, each event exactly once, in order.
//!
//! The machine's history is the truth ([`crate::machine::View::history`]); a watcher is a cursor over it. [`Hub`] holds the
//! cursors of one member, reads the history for them and fills the queues of their streams ([`Queue`]). It is a value: it owns
//! no thread, clock or socket. The server runs one on a thread of its own; tests and the simulator run it turn by turn.
//!
//! Because the history is the same on all members, and a revision is told whole, a client that has heard of revision R goes
//! on at R + 1 on any member, after whatever failure: nothing about a watcher has to survive.
//!
//! What costs what: an event is looked up once (`interest.rs`), encoded once (`encode.rs`), put once into the queue of each
//! stream that wants it (`hub.rs`, `follow.rs`), by reference (`queue.rs`).
//!
//! May not know: threads, tokio, gRPC, who is allowed to see what.

mod encode;
mod follow;
pub mod hub;
pub mod interest;
pub mod queue;
#[cfg(test)]
mod tests;

pub use hub::{Figures, Hub, Limits, Standing, StreamId};
pub use queue::{Answer, Queue, What};

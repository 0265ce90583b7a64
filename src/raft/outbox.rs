//! Where messages wait for the writes they depend on.
//!
//! A message enters through [`Outbox::send`] only, with the number of the write it waits for, and comes out of
//! [`Outbox::drain`] only when that write is durable. `raft.rs` takes the number from [`super::message::Message::dependency`],
//! so no caller decides for itself what may leave early.

use super::message::Envelope;
use crate::ids::WriteSeq;

#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    free: Vec<Envelope>,
    held: Vec<(WriteSeq, Envelope)>,
}

impl Outbox {
    /// Sends `envelope` once `after` is durable.
    pub(super) fn send(&mut self, envelope: Envelope, after: WriteSeq, durable: WriteSeq) {
        if after <= durable { self.free.push(envelope) } else { self.held.push((after, envelope)) }
    }

    /// A new term begins: what still waits was said in one that is over, and is not said any more. It would be true of the
    /// moment at which it was said, as a message that is late on its way is; but the log that it speaks of may be cut by now.
    pub(super) fn forget(&mut self) {
        self.held.clear();
    }

    /// Writes up to `durable` are durable.
    pub(super) fn release(&mut self, durable: WriteSeq) {
        self.free.extend(self.held.extract_if(.., |(after, _)| *after <= durable).map(|(_, envelope)| envelope));
    }

    /// What may leave now.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Envelope> + '_ {
        self.free.drain(..)
    }

    /// What waits for the disk, each with its write, in the order of sending.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (WriteSeq, &Envelope)> + '_ {
        self.held.iter().map(|(after, envelope)| (*after, envelope))
    }
}

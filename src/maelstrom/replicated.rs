//! Requests on their way through the log: `lin-kv`, the transactions, `kafka`.
//!
//! An [`Operation`] is a small machine: it is told what was granted and says what it needs next. A linearizable read and a
//! proposal are all there is to need; both work on any member, because the node itself forwards. What a workload means by
//! its requests is in `kv.rs`, `txn.rs` and `log.rs`, and nothing of it is known here.
//!
//! Here is the one place where the node's refusals become Maelstrom's codes:
//!
//! | the node says | the client hears | because |
//! |---|---|---|
//! | `Refused` | 11 | surely not appended |
//! | `Uncertain`, of a proposal | 13 | perhaps applied, perhaps later |
//! | `Uncertain`, of a read | 11 | a read changes nothing |
//! | applied, with an error | 14 | the machine changed nothing |
//!
//! A transaction that is tried again is no exception: each earlier try was applied as "the guards did not hold", so only the
//! last one can be uncertain.

use super::alone::Ids;
use super::protocol::{Body, Caller, Code, Error, Message};
use super::replica::Replica;
use super::{Settings, Workload, kv, log, txn};
use crate::machine::{self, View, check};
use crate::node::{Halt, Reply, Request, Slot};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::KeyValue;
use crate::proto::quorate::{Command, command};
use crate::time::Time;
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;

/// A node of a replicated workload.
#[derive(Debug)]
pub struct Replicated {
    own: String,
    workload: Workload,
    replica: Replica,
    ids: Ids,
    waiting: BTreeMap<Slot, Waiting>,
    slots: u64,
}

/// Who waits for what.
#[derive(Debug)]
struct Waiting {
    caller: Caller,
    operation: Operation,
    /// Whether what is on its way may change something.
    proposed: bool,
}

/// A request, and how far it is.
#[derive(Debug)]
pub enum Operation {
    /// Of `lin-kv`.
    Kv(kv::Operation),
    /// Of `txn-list-append` and `txn-rw-register`.
    Txn(txn::Txn),
    /// Of `kafka`.
    Log(log::Operation),
}

/// What an operation is told.
#[derive(Debug)]
pub enum Granted {
    /// That it begins.
    Begin,
    /// That the view is linearizable for it now.
    Readable,
    /// That what it proposed was applied.
    Applied(machine::Response),
}

/// What an operation needs next.
#[derive(Debug)]
pub enum Step {
    /// A linearizable read: [`Granted::Readable`] follows.
    Read,
    /// This in the log: [`Granted::Applied`] follows.
    Propose(command::Op),
    /// Nothing: its answer.
    Done(Body),
}

impl Operation {
    fn step(&mut self, view: &View, granted: Granted) -> Result<Step, Error> {
        match self {
            Operation::Kv(operation) => operation.step(view, granted),
            Operation::Txn(txn) => txn.step(view, granted),
            Operation::Log(operation) => operation.step(view, granted),
        }
    }
}

impl Replicated {
    /// The node `own` of a cluster of `names`, new. Names are sorted and differ; `ids` names what it makes.
    ///
    /// # Errors
    /// The node refuses to open.
    pub fn open(own: &str, names: &[String], ids: Ids, settings: &Settings, now: Time) -> Result<Replicated, Halt> {
        let replica = Replica::open(own, names, settings, now)?;
        let own = own.to_owned();
        Ok(Replicated { own, workload: settings.workload, replica, ids, waiting: BTreeMap::new(), slots: 0 })
    }

    /// Takes a client's request; gives the answer if there is one already.
    ///
    /// # Errors
    /// The node can't go on.
    pub fn request(&mut self, now: Time, caller: Caller, kind: &str, request: &Body) -> Result<Option<Message>, Halt> {
        let read = match self.workload {
            Workload::LinKv => kv::Operation::of(kind, request).map(Operation::Kv),
            Workload::Kafka => log::Operation::of(kind, request, &mut self.ids).map(Operation::Log),
            _ => txn::Txn::of(kind, request, self.workload).map(Operation::Txn),
        };
        match read {
            Ok(operation) => self.go_on(now, caller, operation, Granted::Begin),
            Err(error) => Ok(Some(caller.answer(&self.own, Err(error)))),
        }
    }

    /// Takes what the node `src` sent.
    ///
    /// # Errors
    /// It makes no sense; nothing of it was taken.
    pub fn receive(&mut self, src: &str, said: &Body) -> Result<(), Error> {
        self.replica.receive(src, said)
    }

    /// Lets the node take its turns, and its answers lead to what they lead to.
    ///
    /// # Errors
    /// The node can't go on.
    pub fn advance(&mut self, now: Time, out: &mut Vec<Message>) -> Result<(), Halt> {
        loop {
            let mut sent = Vec::new();
            let replies = self.replica.advance(now, &mut sent)?;
            out.extend(sent.into_iter().map(|(dest, body)| Message { src: self.own.clone(), dest, body }));
            if replies.is_empty() {
                return Ok(());
            }
            for (slot, reply) in replies {
                out.extend(self.reply(now, slot, reply)?);
            }
        }
    }

    fn reply(&mut self, now: Time, slot: Slot, reply: Reply) -> Result<Option<Message>, Halt> {
        let Some(Waiting { caller, operation, proposed }) = self.waiting.remove(&slot) else { return Ok(None) };
        let error = match reply {
            Reply::Applied { outcome: Ok(response), .. } => {
                return self.go_on(now, caller, operation, Granted::Applied(response));
            }
            Reply::Readable { .. } => return self.go_on(now, caller, operation, Granted::Readable),
            Reply::Applied { outcome: Err(error), .. } => failed(&error),
            Reply::Uncertain(why) if proposed => Error::new(Code::Crash, format!("perhaps done: {why:?}")),
            Reply::Uncertain(why) => Error::new(Code::TemporarilyUnavailable, format!("not read: {why:?}")),
            Reply::Refused(why) => Error::new(Code::TemporarilyUnavailable, format!("not done: {why:?}")),
            Reply::Transferred | Reply::Lease(_) | Reply::Changed { .. } => unreachable!("nobody asked for it"),
        };
        Ok(Some(caller.answer(&self.own, Err(error))))
    }

    fn go_on(
        &mut self,
        now: Time,
        caller: Caller,
        mut operation: Operation,
        granted: Granted,
    ) -> Result<Option<Message>, Halt> {
        let request = match operation.step(&self.replica.view(), granted) {
            Ok(Step::Read) => Request::Read,
            Ok(Step::Propose(op)) => propose(op),
            Ok(Step::Done(body)) => return Ok(Some(caller.answer(&self.own, Ok(body)))),
            Err(error) => return Ok(Some(caller.answer(&self.own, Err(error)))),
        };
        self.slots += 1;
        let slot = Slot(self.slots);
        let proposed = matches!(request, Request::Propose { .. });
        self.waiting.insert(slot, Waiting { caller, operation, proposed });
        self.replica.ask(now, slot, request)?;
        Ok(None)
    }

    /// When [`Replicated::advance`] must be called even if nothing happens.
    pub fn deadline(&self) -> Time {
        self.replica.deadline()
    }
}

fn propose(op: command::Op) -> Request {
    let grows = match &op {
        command::Op::Put(_) => true,
        command::Op::Txn(txn) => check::grows(txn),
        _ => false,
    };
    Request::Propose { command: Command { op: Some(op) }.encode_to_vec().into(), grows }
}

/// What the machine says no to was not done.
pub fn failed(error: &machine::Error) -> Error {
    Error::new(Code::Abort, format!("{error:?}"))
}

/// An answer of the machine that does not fit what was proposed: a bug of ours, told without ending the process.
pub fn unexpected(granted: &Granted) -> Error {
    Error::new(Code::Crash, format!("an answer that was not asked for: {granted:?}"))
}

/// Reads one key from the view.
///
/// # Errors
/// What the machine says no to.
pub fn get(view: &View, key: impl Into<Bytes>) -> Result<Option<KeyValue>, Error> {
    let range = pb::RangeRequest { key: key.into(), ..Default::default() };
    let found = view.range(&range).map_err(|error| failed(&error))?;
    Ok(found.kvs.into_iter().next())
}

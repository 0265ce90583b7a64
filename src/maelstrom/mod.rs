//! Shell three: a node for Maelstrom, Jepsen's bench for distributed systems.
//!
//! Maelstrom starts a process a node, is the network between them on their stdin and stdout, lets clients ask, cuts the
//! network, and judges what the clients saw. It was written by others, for other systems, so it judges what our own tests
//! can't: whether we have understood the words "linearizable" and "serializable" as everyone else does.
//!
//! ```text
//!                        mod.rs   the node as a value: lines and a time in, lines out
//!   ┌─────────────┬────────┴──────────────┐
//! alone.rs     gossip.rs            replicated.rs   requests on their way through the log; errors
//! echo         broadcast          ┌───────┼───────┐
//! unique-ids   g-set            kv.rs   txn.rs   log.rs        lin-kv · txn-* · kafka
//!              *-counter          └───────┼───────┘
//!                                    replica.rs     node::Node, databases in memory, frames in base64
//! ```
//!
//! [`Maelstrom`] is a value like the node that it holds, so whole clusters of it run in one thread of virtual time
//! (`tests/maelstrom.rs`); [`run`] gives it a real stdin, stdout and clock.
//!
//! # Invariants
//!
//! 1. A request is answered at most once; silence means "perhaps".
//! 2. Nothing but messages goes to stdout, and a line that can't be understood changes nothing: it is answered with an error
//!    if it can be, and told on stderr.
//! 3. An error is never answered, so two nodes don't quarrel for ever.
//!
//! Absent: disks, restarts, changes of membership: Maelstrom's one fault is the partition.

use crate::node::Halt;
use crate::rng::{Rng, Seed};
use crate::time::{Duration, Time};
use alone::Ids;
use gossip::Gossip;
use protocol::{Body, Caller, Code, Error, Message, body, field, list, names};
use replicated::Replicated;

mod alone;
mod gossip;
mod kv;
mod log;
mod process;
mod protocol;
mod replica;
mod replicated;
mod txn;

pub use process::run;

/// What a node is for. Each has Maelstrom's name and is judged by its checker of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// What is said comes back.
    Echo,
    /// Ids that nobody has twice.
    UniqueIds,
    /// Messages that reach every node.
    Broadcast,
    /// A set that grows.
    GSet,
    /// A counter that grows.
    GCounter,
    /// A counter that grows and shrinks.
    PnCounter,
    /// Linearizable registers.
    LinKv,
    /// Strictly serializable transactions over lists.
    TxnListAppend,
    /// Strictly serializable transactions over registers.
    TxnRwRegister,
    /// Logs with offsets.
    Kafka,
}

impl Workload {
    /// Maelstrom's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Echo => "echo",
            Workload::UniqueIds => "unique-ids",
            Workload::Broadcast => "broadcast",
            Workload::GSet => "g-set",
            Workload::GCounter => "g-counter",
            Workload::PnCounter => "pn-counter",
            Workload::LinKv => "lin-kv",
            Workload::TxnListAppend => "txn-list-append",
            Workload::TxnRwRegister => "txn-rw-register",
            Workload::Kafka => "kafka",
        }
    }
}

/// How a node behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it is for.
    pub workload: Workload,
    /// The leader's.
    pub heartbeat_interval: Duration,
    /// How long a silent leader is followed.
    pub election_timeout: Duration,
    /// How long a request may take before its outcome is called uncertain.
    pub request_timeout: Duration,
    /// The node's dice.
    pub seed: Seed,
}

impl Settings {
    /// Timers for Maelstrom: its clients wait for one second, so a silent leader must be replaced in much less.
    pub fn new(workload: Workload, seed: Seed) -> Settings {
        Settings {
            workload,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout: Duration::from_millis(300),
            request_timeout: Duration::from_secs(5),
            seed,
        }
    }
}

/// A node, as a value. It is told its name by the first message (`init`).
#[derive(Debug)]
pub struct Maelstrom {
    settings: Settings,
    born: Option<Born>,
    out: Vec<Message>,
}

/// A node that knows who it is.
#[derive(Debug)]
struct Born {
    name: String,
    /// All nodes, sorted, this one among them.
    nodes: Vec<String>,
    part: Part,
}

/// What it plays.
#[derive(Debug)]
enum Part {
    Echo,
    UniqueIds(Ids),
    Gossip(Gossip),
    Replicated(Box<Replicated>),
}

impl Maelstrom {
    /// A node that waits for its name.
    pub fn new(settings: Settings) -> Maelstrom {
        Maelstrom { settings, born: None, out: Vec::new() }
    }

    /// Takes a line. What it leads to comes out of [`Maelstrom::advance`].
    ///
    /// # Errors
    /// The node can't go on.
    pub fn handle(&mut self, now: Time, line: &str) -> Result<(), Halt> {
        let message = match Message::read(line) {
            Ok(message) => message,
            Err(why) => {
                tracing::warn!("ignored a line that is no message ({why}): {line}");
                return Ok(());
            }
        };
        let (src, caller) = (message.src.clone(), message.caller());
        let outcome = match &mut self.born {
            None => self.init(now, &message).map(Some),
            Some(born) if born.nodes.contains(&src) => born.receive(&message, &mut self.out).map(|()| None),
            Some(born) => match caller.clone() {
                Some(caller) => return born.request(now, caller, &message, &mut self.out),
                None => Err(Error::malformed("it asks for no answer: no msg_id")),
            },
        };
        if let Err(error) = &outcome {
            tracing::warn!("a message from {src} was not taken ({}): {line}", error.text);
        }
        if let Some(answer) = outcome.transpose()
            && let Some(caller) = caller.filter(|_| message.kind() != "error")
        {
            self.out.push(caller.answer(&message.dest, answer));
        }
        Ok(())
    }

    /// The first message says who the node is, and who the others are.
    fn init(&mut self, now: Time, message: &Message) -> Result<Body, Error> {
        if message.kind() != "init" {
            let why = format!("a node that has no name yet can't take {:?}: send init first", message.kind());
            return Err(Error::new(Code::TemporarilyUnavailable, why));
        }
        let name = field(&message.body, "node_id")?.as_str().unwrap_or_default().to_owned();
        let mut nodes = names(list(&message.body, "node_ids")?)?;
        nodes.sort();
        if !nodes.contains(&name) || nodes.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::malformed(format!("node_ids must differ, with {name:?} among them: {nodes:?}")));
        }
        let ids = Ids::new(&name, Rng::new(self.settings.seed).next_u64());
        let part = match self.settings.workload {
            Workload::Echo => Part::Echo,
            Workload::UniqueIds => Part::UniqueIds(ids),
            workload @ (Workload::Broadcast | Workload::GSet | Workload::GCounter | Workload::PnCounter) => {
                let peers: Vec<String> = nodes.iter().filter(|node| **node != name).cloned().collect();
                Part::Gossip(Gossip::new(&name, &peers, workload))
            }
            Workload::LinKv | Workload::TxnListAppend | Workload::TxnRwRegister | Workload::Kafka => {
                let opened = Replicated::open(&name, &nodes, ids, &self.settings, now);
                Part::Replicated(Box::new(opened.map_err(|Halt(why)| Error::new(Code::Abort, why))?))
            }
        };
        self.born = Some(Born { name, nodes, part });
        Ok(body("init_ok", []))
    }

    /// Everything that follows from the lines since the last call and from the time, as lines.
    ///
    /// # Errors
    /// The node can't go on.
    pub fn advance(&mut self, now: Time, lines: &mut Vec<String>) -> Result<(), Halt> {
        match self.born.as_mut().map(|born| &mut born.part) {
            Some(Part::Gossip(gossip)) => gossip.advance(now, &mut self.out),
            Some(Part::Replicated(replicated)) => replicated.advance(now, &mut self.out)?,
            Some(Part::Echo | Part::UniqueIds(_)) | None => {}
        }
        lines.extend(self.out.drain(..).map(|message| message.line()));
        Ok(())
    }

    /// When [`Maelstrom::advance`] must be called even if no line comes.
    pub fn deadline(&self) -> Time {
        match self.born.as_ref().map(|born| &born.part) {
            Some(Part::Gossip(gossip)) => gossip.deadline(),
            Some(Part::Replicated(replicated)) => replicated.deadline(),
            Some(Part::Echo | Part::UniqueIds(_)) | None => Time::NEVER,
        }
    }
}

impl Born {
    /// Answers a client, now or later.
    fn request(&mut self, now: Time, caller: Caller, message: &Message, out: &mut Vec<Message>) -> Result<(), Halt> {
        let (kind, request) = (message.kind(), &message.body);
        let outcome = match &mut self.part {
            _ if kind == "error" => return Ok(()),
            _ if kind == "init" => Err(Error::malformed(format!("this node is {} already", self.name))),
            Part::Echo => alone::echo(kind, request),
            Part::UniqueIds(ids) => ids.request(kind),
            Part::Gossip(gossip) => gossip.request(kind, request),
            Part::Replicated(replicated) => {
                out.extend(replicated.request(now, caller, kind, request)?);
                return Ok(());
            }
        };
        out.push(caller.answer(&self.name, outcome));
        Ok(())
    }

    /// Takes what another node sent.
    fn receive(&mut self, message: &Message, out: &mut Vec<Message>) -> Result<(), Error> {
        let (src, kind) = (message.src.as_str(), message.kind());
        match (&mut self.part, kind) {
            (Part::Gossip(gossip), "gossip" | "gossip_ok") => {
                let answer = gossip.receive(src, kind, &message.body)?;
                let reply = |body| Message { src: self.name.clone(), dest: src.to_owned(), body };
                out.extend(answer.map(reply));
                Ok(())
            }
            (Part::Replicated(replicated), "raft") => replicated.receive(src, &message.body),
            _ => Err(Error::malformed(format!("nodes of this workload don't say {kind:?} to each other"))),
        }
    }
}

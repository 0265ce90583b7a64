//! The member behind the replicated workloads: the very [`Node`] that the server drives, with another network and disk.
//!
//! The node's effects are carried out at once: its two databases are in memory, so a write is done when it is begun. What it
//! wants to send becomes `{"type":"raft","b":…}`, the server's frame in base64, one a turn and peer. Maelstrom's network
//! tells nobody that it dropped a message, so the node never hears that a peer is lost, and finds out by silence.
//!
//! Members are numbered in the order of their names: every node gets the same list and makes the same configuration of it.
//!
//! Absent: durability. Maelstrom kills no process; what survives a crash is proved elsewhere (`tests/crash.rs`).

use super::Settings;
use super::protocol::{Body, Error, body, field};
use crate::ids::{ClusterId, DiskId, MemberId, stable_hash};
use crate::machine::{Level, View};
use crate::node::{self, Config, Effect, Halt, Input, Node, Opening, Reply, Request, Retention, Slot, SpaceConfig};
use crate::proto::quorate as pb;
use crate::raft::{Envelope, Limits, Ready};
use crate::rng::Rng;
use crate::storage::directory::{InitialMember, Meta};
use crate::storage::log::LogStore;
use crate::storage::memory::MemoryEngine;
use crate::storage::{Engine, Op};
use crate::time::Time;
use crate::wire;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One member.
#[derive(Debug)]
pub struct Replica {
    node: Node,
    log: LogStore,
    state: MemoryEngine,
    names: BTreeMap<MemberId, String>,
    /// Arrived since the last turn.
    inbox: Vec<Envelope>,
}

impl Replica {
    /// The member `own` of a cluster of `names`, new. Names are sorted and differ.
    ///
    /// # Errors
    /// The node refuses to open.
    pub fn open(own: &str, names: &[String], settings: &Settings, now: Time) -> Result<Replica, Halt> {
        let mut rng = Rng::new(settings.seed);
        let names: BTreeMap<MemberId, String> = (1..).map(MemberId).zip(names.iter().cloned()).collect();
        let member = names.iter().find(|(_, name)| *name == own).map(|(id, _)| *id);
        let member = member.ok_or_else(|| Halt(format!("{own} is not one of the nodes {names:?}")))?;
        let text: Vec<&[u8]> = names.values().map(|name| name.as_bytes()).collect();
        let initial =
            |(id, name): (&MemberId, &String)| InitialMember { id: *id, name: name.clone(), peer_urls: Vec::new() };
        let meta = Meta {
            cluster: ClusterId(stable_hash(&text)),
            member,
            disk: DiskId(rng.next_u64()),
            members: names.iter().map(initial).collect(),
        };
        let config = Config {
            heartbeat_interval: settings.heartbeat_interval,
            election_timeout: settings.election_timeout,
            request_timeout: settings.request_timeout,
            limits: Limits::default(),
            space: SpaceConfig::default(),
            retention: Retention::everything(),
            max_learners: 0,
            piece_bytes: crate::node::PIECE_BYTES,
            checkpoint_entries: crate::node::CHECKPOINT_ENTRIES,
            level: Level::NEWEST,
            name: own.to_owned(),
            client_urls: Vec::new(),
        };
        let state = MemoryEngine::new();
        let opened = node::open(Opening {
            meta,
            raft: Arc::new(MemoryEngine::new()),
            state: Arc::new(state.clone()),
            config,
            seed: settings.seed,
            now,
        })?;
        Ok(Replica { node: opened.node, log: opened.log, state, names, inbox: Vec::new() })
    }

    /// Asks the node; its one answer comes out of [`Replica::advance`].
    ///
    /// # Errors
    /// The node can't go on.
    pub fn ask(&mut self, now: Time, slot: Slot, request: Request) -> Result<(), Halt> {
        self.node.handle(now, Input::Request(slot, request))
    }

    /// Takes what the node `src` sent, for the next turn.
    ///
    /// # Errors
    /// It is no frame, or one that belongs elsewhere: nothing of it was taken.
    pub fn receive(&mut self, src: &str, said: &Body) -> Result<(), Error> {
        let text = field(said, "b")?.as_str().ok_or_else(|| Error::malformed("a frame is text"))?;
        let bytes = STANDARD.decode(text).map_err(|error| Error::malformed(format!("a frame is base64: {error}")))?;
        let frame = pb::Frame::decode(Bytes::from(bytes)).map_err(|error| Error::malformed(error.to_string()))?;
        let envelopes: Result<Vec<Envelope>, _> = frame.messages.into_iter().map(wire::decode).collect();
        let envelopes = envelopes.map_err(|error| Error::malformed(error.to_string()))?;
        let own = self.node.identity().member;
        let belongs = |e: &Envelope| e.to == own && self.names.get(&e.from).is_some_and(|name| name == src);
        if !envelopes.iter().all(belongs) {
            return Err(Error::malformed(format!("a frame from {src} is for another member, or speaks for one")));
        }
        self.inbox.extend(envelopes);
        Ok(())
    }

    /// Takes turns until the disks have nothing to say. `out` gets the messages, each with the node it is for.
    ///
    /// # Errors
    /// The node can't go on.
    pub fn advance(&mut self, now: Time, out: &mut Vec<(String, Body)>) -> Result<Vec<(Slot, Reply)>, Halt> {
        let (mut effects, mut replies) = (Vec::new(), Vec::new());
        let mut frames: BTreeMap<MemberId, Vec<pb::Envelope>> = BTreeMap::new();
        let mut inputs: Vec<Input> = self.inbox.drain(..).map(Input::Peer).collect();
        loop {
            inputs.drain(..).try_for_each(|input| self.node.handle(now, input))?;
            self.node.advance(now, &mut effects)?;
            for effect in effects.drain(..) {
                match effect {
                    Effect::Send(envelope) => frames.entry(envelope.to).or_default().push(wire::encode(envelope)),
                    Effect::Persist(ready) => inputs.extend(self.persist(ready)?),
                    Effect::Load(read) => {
                        let entries = self.log.read(read.from, read.max_bytes).map_err(broken)?;
                        inputs.push(Input::Loaded { read, entries });
                    }
                    Effect::WriteState(write) => {
                        write.ops.iter().try_for_each(|op| self.write(op))?;
                        inputs.push(Input::StateWritten { id: write.id });
                        if write.sync {
                            self.state.sync().map_err(broken)?;
                            inputs.push(Input::StateSynced { id: write.id });
                        }
                    }
                    Effect::ReadRecords(_) | Effect::Stage(_) | Effect::Reopen => {
                        unreachable!("no node asks for that yet")
                    }
                    Effect::Reply(slot, reply) => replies.push((slot, reply)),
                }
            }
            if inputs.is_empty() {
                break;
            }
        }
        for (to, messages) in frames {
            let frame = pb::Frame { hello: None, messages };
            let b = STANDARD.encode(frame.encode_to_vec());
            out.extend(self.names.get(&to).map(|name| (name.clone(), body("raft", [("b", b.into())]))));
        }
        Ok(replies)
    }

    fn persist(&mut self, ready: Ready) -> Result<Option<Input>, Halt> {
        Ok(self.log.persist(&[ready]).map_err(broken)?.map(Input::Persisted))
    }

    fn write(&self, op: &Op) -> Result<(), Halt> {
        let written = match op {
            Op::Put(key, value) => self.state.put(key, value),
            Op::Delete(key) => self.state.delete(key),
        };
        written.map_err(broken)
    }

    /// When [`Replica::advance`] must be called even if nothing happens.
    pub fn deadline(&self) -> Time {
        self.node.deadline()
    }

    /// Reads the store as it is here.
    pub fn view(&self) -> View {
        self.node.view()
    }
}

fn broken(fault: impl std::fmt::Display) -> Halt {
    Halt(format!("the database in memory failed: {fault}"))
}

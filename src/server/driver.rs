//! The node's thread: one mailbox (`mailbox.rs`) in, effects out.
//!
//! A turn takes everything that is in the mailbox, feeds it to the node, closes with one [`Node::advance`] and starts the
//! effects in their order. Hundreds of requests that arrive while a turn runs become one batch in the next one, so a
//! busier node takes fewer, larger turns. Between turns the thread sleeps until the mailbox has something or the node's
//! deadline has come.
//!
//! Nothing here waits: writes go to the disk workers' queues, messages to bounded queues of the connections (what does not
//! fit is dropped, Raft expects it), answers to the callers' oneshots.
//!
//! # Invariants
//!
//! 1. The node is touched by this thread only.
//! 2. Each caller gets one [`Reply`]: the node's, or `Stopping` once the thread is gone. A caller that leaves first
//!    makes one `Input::Cancel`.
//! 3. That a peer can't be reached, and what could not be sent to it, is told to the node at the start of the *next* turn,
//!    and makes no turn by itself: else a probe to a dead peer would make the next probe.
//!
//! Absent: any decision. What to do is the node's; this is how it gets done.

use super::disk::{LogWork, StateWork};
use super::mailbox::{Event, Receiver};
use super::slow::Slow;
use super::transport::{self, Link};
use super::watching::Watching;
use crate::clock::Clock;
use crate::ids::{MemberId, Revision};
use crate::machine::View;
use crate::node::{Effect, Halt, Input, Node, Reply, Slot, Status};
use crate::raft::Message;
use crate::time::{Duration, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot, watch};

/// How old a published status may be while things change. Who needs it newer asks ([`Mailbox::status`](super::mailbox::Mailbox::status)).
const PUBLISH_INTERVAL: Duration = Duration::from_millis(10);

/// What the thread needs.
pub struct Driver {
    /// The node.
    pub node: Node,
    /// Its clock: the one that its `now` at birth was read from.
    pub clock: Clock,
    /// Where things arrive.
    pub events: Receiver,
    /// The log worker's queue.
    pub log: Sender<LogWork>,
    /// The state worker's queue.
    pub state: Sender<StateWork>,
    /// Where the status is published.
    pub status: watch::Sender<Arc<Status>>,
    /// Where the process learns that the node can't go on.
    pub fatal: mpsc::UnboundedSender<String>,
    /// Where it learns that the member is to be opened again.
    pub reopen: mpsc::UnboundedSender<()>,
    /// Where messages that were dropped are counted.
    pub transport: Arc<transport::Shared>,
    /// What was applied.
    pub view: View,
    /// Who wants to know when that moves.
    pub watching: Watching,
    /// Where turns that took long are counted.
    pub slow: Arc<Slow>,
}

impl Driver {
    /// Starts the thread. It ends after [`Event::Stop`], when the node halts, or when it is to be opened again.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(self) -> std::io::Result<JoinHandle<()>> {
        let (fatal, removed) = (self.fatal.clone(), self.transport.removed.clone());
        let (view, own) = (self.view.clone(), self.transport.identity.member);
        std::thread::Builder::new().name("node".into()).spawn(move || {
            let turns = Turns {
                driver: self,
                callers: BTreeMap::new(),
                links: BTreeMap::new(),
                unreachable: BTreeSet::new(),
                unsent: Vec::new(),
                published: Time::default(),
                dirty: false,
                reopen: false,
                told: Revision(0),
            };
            if let Err(Halt(sentence)) = turns.run() {
                let told = if view.is_gone(own) { removed } else { fatal };
                let _ = told.send(sentence);
            }
        })
    }
}

struct Turns {
    driver: Driver,
    callers: BTreeMap<Slot, oneshot::Sender<Reply>>,
    links: BTreeMap<MemberId, Link>,
    /// To be told to the node at the start of the next turn.
    unreachable: BTreeSet<MemberId>,
    /// So are these: sequences of forwarded commands.
    unsent: Vec<u64>,
    published: Time,
    /// Turns were taken since the status was published.
    dirty: bool,
    /// The node has come to its end, and another one is to be opened.
    reopen: bool,
    /// The revision that the watchers know of.
    told: Revision,
}

/// Whether to take another turn.
#[derive(PartialEq, Eq)]
enum Next {
    Turn,
    Stop,
}

impl Turns {
    fn run(mut self) -> Result<(), Halt> {
        let mut effects = Vec::new();
        let mut next = Next::Turn;
        loop {
            let now = self.driver.clock.now();
            let applied = self.driver.node.applied();
            self.driver.node.advance(now, &mut effects)?;
            if self.driver.node.applied() != applied {
                self.driver.slow.applied(self.driver.clock.now().since(now));
            }
            for effect in effects.drain(..) {
                self.start(effect);
            }
            let revision = self.driver.view.revision();
            if revision != self.told {
                self.told = revision;
                self.driver.watching.moved();
            }
            self.publish(now);
            if self.reopen {
                let _ = self.driver.reopen.send(());
            }
            if self.reopen || next == Next::Stop {
                return Ok(());
            }
            next = self.take_inputs()?;
        }
    }

    /// Sleeps until there is something to do, then feeds the node with everything that is there.
    fn take_inputs(&mut self) -> Result<Next, Halt> {
        let now = self.driver.clock.now();
        let mut wake = self.driver.node.deadline();
        if self.dirty {
            wake = wake.min(self.published + PUBLISH_INTERVAL);
        }
        let first = self.driver.events.next_within(wake.since(now));
        let now = self.driver.clock.now();
        for peer in std::mem::take(&mut self.unreachable) {
            self.driver.node.handle(now, Input::PeerUnreachable(peer))?;
        }
        for sequence in std::mem::take(&mut self.unsent) {
            self.driver.node.handle(now, Input::Unsent { sequence })?;
        }
        let mut next = first;
        while let Some(event) = next {
            if self.take(now, event)? == Next::Stop {
                return Ok(Next::Stop);
            }
            next = self.driver.events.try_next();
        }
        Ok(Next::Turn)
    }

    fn take(&mut self, now: Time, event: Event) -> Result<Next, Halt> {
        match event {
            Event::Input(input) => {
                if let Input::Cancel(slot) = &input {
                    self.callers.remove(slot);
                }
                self.driver.node.handle(now, input)?;
            }
            Event::Call(slot, request, caller) => {
                self.callers.insert(slot, caller);
                self.driver.node.handle(now, Input::Request(slot, request))?;
            }
            Event::Tell(caller) => {
                let _ = caller.send(self.driver.node.status());
            }
            Event::Linked(peer, link) => {
                self.links.insert(peer, link);
            }
            Event::Stop => return Ok(Next::Stop),
        }
        Ok(Next::Turn)
    }

    /// A worker that is gone has aborted the process or is about to: its queue's errors mean nothing more.
    fn start(&mut self, effect: Effect) {
        match effect {
            Effect::Send(envelope) => {
                let to = envelope.to;
                let forwarded =
                    if let Message::Forward { id, .. } = &envelope.message { Some(id.sequence) } else { None };
                let beat = matches!(envelope.message, Message::Heartbeat { .. });
                if !self.links.get(&to).is_some_and(|link| link.send(envelope)) {
                    self.driver.transport.not_sent(to, beat);
                    self.unreachable.insert(to);
                    self.unsent.extend(forwarded);
                }
            }
            Effect::Persist(ready) => drop(self.driver.log.send(LogWork::Persist(ready))),
            Effect::Load(read) => drop(self.driver.log.send(LogWork::Load(read))),
            Effect::WriteState(write) => drop(self.driver.state.send(StateWork::Write(write))),
            Effect::ReadRecords(read) => drop(self.driver.state.send(StateWork::Read(read))),
            Effect::Stage(write) => drop(self.driver.state.send(StateWork::Stage(write))),
            Effect::Reopen => self.reopen = true,
            Effect::Reply(slot, reply) => {
                if let Some(caller) = self.callers.remove(&slot) {
                    let _ = caller.send(reply);
                }
            }
        }
    }

    fn publish(&mut self, now: Time) {
        self.dirty = true;
        if now.since(self.published) < PUBLISH_INTERVAL && self.published != Time::default() {
            return;
        }
        (self.published, self.dirty) = (now, false);
        let status = self.driver.node.status();
        self.driver.status.send_if_modified(|current| {
            let changed = **current != status;
            if changed {
                *current = Arc::new(status);
            }
            changed
        });
    }
}

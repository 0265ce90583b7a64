//! The world: a heap of events, and what each one does.
//!
//! Everything that happens is an event with a moment and an order; the world takes the first, lets it happen, checks the
//! laws, and goes on. It is the shell of [`Host`]s: it carries their effects (messages to the network, writes to disks that
//! take their time, answers to clients) and decides nothing but *when*. There is no thread and no clock, so a run is a
//! function of its plan.
//!
//! # Two phases
//!
//! **Safety**: anything may happen; what must hold always is checked at every event. **Liveness**: at the plan's end a
//! random majority is healed (links among it, disks, processes) and everything outside stays broken for ever, as it is. Then
//! the core must reach one state by itself, serve on each of its members, keep its leader, and be quiet (`ending.rs`).
//!
//! # What can go wrong by a fault, and what can't
//!
//! A member may refuse its disk only if a bit of it flipped, and then it must; it may halt only when its disk has failed or was
//! emptied, or when it was removed. Those that lose their disk or their state, or whose state goes wrong, are always fewer than
//! the others, of the voters of each configuration that may come to be in force: more than that nobody can survive. A wrong
//! state may spread before it is found out; where it comes to so many, the run ends (`bends.rs`).

use super::clients::Clients;
use super::contents::{self, Contents};
use super::councils::Council;
use super::host::{Born, Host, Shape, StateWork, Torn};
use super::laws::{Law, Laws, Violation};
use super::network::Network;
use super::operator::{Operator, Sight};
use super::owners::Owners;
use super::place::{Clock, LogQueue, Place};
use super::plan::Plan;
use super::trace::Trace;
use super::watchers::Watchers;
use crate::ids::{Incarnation, Index, MemberId};
use crate::node::events::Glance;
use crate::node::{AutoCompaction, Effect, Halt, Input, Refused, Reply, Request, RoleName, Slot, StateWrite};
use crate::raft::{Envelope, Message};
use crate::rng::{Rng, Seed, mix};
use crate::time::{Duration, Time};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::AddAssign;

/// Of so many messages that a removed member sends, one makes a connection: over one that is there it is still heard.
const DOORS: u64 = 20;

/// Something that is going to happen.
#[derive(Debug)]
pub(super) enum Event {
    /// A message arrives, from the sender's n-th disk.
    Deliver(Box<Envelope>, usize),
    /// A member closes its turn.
    Turn(usize),
    /// A member's deadline.
    Wake(usize),
    /// The log's disk has finished.
    LogDone(usize),
    /// The state's disk has finished.
    StateDone(usize),
    /// A member hears that a peer's connection has ended.
    Lost(usize, MemberId, Incarnation),
    /// A member is started.
    Up(usize),
    /// A fault begins.
    Fault(usize),
    /// Space is back.
    SpaceBack(usize),
    /// A client acts, or loses patience.
    Client(usize),
    /// So does the owner of a lease.
    Owner(usize),
    /// So does a watcher.
    Watcher(usize),
    /// The operator asks for something that it wants.
    Order(usize),
}

impl Event {
    /// Whose event it is, if it happens inside of a process.
    fn node(&self) -> Option<usize> {
        match self {
            Event::Deliver(envelope, _) => Some(envelope.to.0 as usize - 1),
            Event::Turn(node)
            | Event::Wake(node)
            | Event::LogDone(node)
            | Event::StateDone(node)
            | Event::Lost(node, ..)
            | Event::SpaceBack(node) => Some(*node),
            Event::Up(_)
            | Event::Fault(_)
            | Event::Client(_)
            | Event::Owner(_)
            | Event::Watcher(_)
            | Event::Order(_) => None,
        }
    }
}

#[derive(Debug)]
struct Scheduled {
    at: Time,
    order: u64,
    /// Of the life that it belongs to; 0: of any.
    life: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// States that were taken over from a leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Installs {
    /// Transfers that were begun, those that began anew included.
    pub begun: u64,
    /// Members that were opened again on another state.
    pub finished: u64,
    /// Transfers that another leader went on with.
    pub resumed: u64,
    /// Members that were started without a state of their own, those that joined among them.
    pub hollow: u64,
    /// States that were set aside, because they were lost or rotten.
    pub lost: u64,
    /// States that were set aside, because they were not what a quorum had.
    pub wrong: u64,
}

impl AddAssign for Installs {
    fn add_assign(&mut self, other: Installs) {
        let Installs { begun, finished, resumed, hollow, lost, wrong } = other;
        self.begun += begun;
        self.finished += finished;
        self.resumed += resumed;
        self.hollow += hollow;
        self.lost += lost;
        self.wrong += wrong;
    }
}

/// See the module's essay.
pub(super) struct World<H> {
    pub plan: Plan,
    pub now: Time,
    heap: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    pub places: Vec<Place<H>>,
    pub network: Network,
    pub clients: Clients,
    pub owners: Owners,
    pub operator: Operator,
    pub watchers: Watchers,
    pub contents: Contents,
    pub laws: Laws,
    pub trace: Trace,
    /// Of lives that are over.
    pub installs: Installs,
    /// Separate streams, so that one more fault does not change all the rest.
    pub dice: Rng,
    pub disk_dice: Rng,
    /// What a crash would leave is looked at now and then; and nothing else changes by it.
    pub image_dice: Rng,
    effects: Vec<Effect>,
    /// A bit per member of the healed core; 0 before.
    pub core: u64,
    /// Who is down outside of the core stays down.
    pub frozen: bool,
    /// Too many lost their disks or their right states for what the membership became: nobody can survive that.
    pub stranded: bool,
    /// How many times states were made wrong: each time in another way.
    pub bends: i64,
    turns: u64,
}

impl<H: Host> World<H> {
    pub(super) fn new(plan: Plan, off: &[Law], lines: usize) -> World<H> {
        let stream = |number: u64| Seed(mix(plan.seed.wrapping_add(mix(number))));
        let mut dice = Rng::new(stream(1));
        let shape = Shape::of(&plan);
        let drift = plan.noise.drift_ppm;
        let mut place = |node: usize| {
            let ppm = dice.below(2 * drift + 1) as i128 - i128::from(drift);
            let clock = Clock { ppm, offset: i128::from(dice.below(1 << 40)) };
            Place::new(MemberId(node as u64 + 1), &shape, clock)
        };
        let places = (0..plan.places()).map(&mut place).collect();
        let mut world = World {
            now: Time(0),
            heap: BinaryHeap::new(),
            order: 0,
            places,
            network: Network::new(plan.places(), &plan.noise, stream(2)),
            clients: Clients::new(&plan, stream(3)),
            owners: Owners::new(&plan, stream(5)),
            operator: Operator::new(plan.nodes, plan.places(), plan.timers.election, stream(7)),
            watchers: Watchers::new(&plan, H::HAS_CONTENTS, stream(6)),
            contents: Contents::new(plan.places()),
            laws: Laws::new(&plan, off),
            trace: Trace::new(lines),
            installs: Installs::default(),
            disk_dice: Rng::new(stream(4)),
            image_dice: Rng::new(stream(8)),
            dice,
            effects: Vec::new(),
            core: 0,
            frozen: false,
            stranded: false,
            bends: 0,
            turns: 0,
            plan,
        };
        for node in 0..world.plan.nodes {
            let at = Time(world.dice.below(20_000_000));
            world.schedule(at, Event::Up(node));
        }
        for client in 0..world.plan.load.clients {
            world.schedule(Clients::first(client), Event::Client(client));
        }
        for owner in 0..world.plan.owners {
            world.schedule(Owners::first(owner), Event::Owner(owner));
        }
        for (watcher, at) in world.watchers.firsts().into_iter().enumerate() {
            world.schedule(at, Event::Watcher(watcher));
        }
        for (index, planned) in world.plan.faults.iter().enumerate() {
            let (at, order) = (planned.at, world.order);
            world.order += 1;
            world.heap.push(Reverse(Scheduled { at, order, life: 0, event: Event::Fault(index) }));
        }
        world
    }

    /// Something will happen, to whatever life there is then.
    pub(super) fn schedule(&mut self, at: Time, event: Event) {
        self.schedule_in(at, 0, event);
    }

    fn schedule_in(&mut self, at: Time, life: u64, event: Event) {
        self.order += 1;
        self.heap.push(Reverse(Scheduled { at, order: self.order, life, event }));
    }

    /// Something will happen to this life of the member.
    pub(super) fn schedule_here(&mut self, at: Time, node: usize, event: Event) {
        self.schedule_in(at, self.places[node].life, event);
    }

    /// What waits for the members of `core` (behind a pause, a clog, a slow disk) happens now, in its order.
    pub(super) fn hasten(&mut self, core: u64) {
        let mut waiting = Vec::new();
        for Reverse(next) in std::mem::take(&mut self.heap) {
            let inside = next.event.node().is_some_and(|node| core & (1 << node) != 0);
            // A deadline is not a delay.
            match inside && !matches!(next.event, Event::Wake(_) | Event::SpaceBack(_)) {
                true => waiting.push(next),
                false => self.heap.push(Reverse(next)),
            }
        }
        waiting.sort();
        for next in waiting {
            self.schedule_in(self.now, next.life, next.event);
        }
    }

    /// Lets everything happen until `until`.
    pub(super) fn run(&mut self, until: Time) -> Result<(), Violation> {
        while !self.stranded && self.heap.peek().is_some_and(|Reverse(next)| next.at <= until) {
            let Some(Reverse(next)) = self.heap.pop() else { break };
            self.now = next.at.max(self.now);
            self.laws.now = self.now;
            self.happen(next)?;
        }
        self.now = until;
        self.laws.now = until;
        Ok(())
    }

    fn happen(&mut self, next: Scheduled) -> Result<(), Violation> {
        if let Some(node) = next.event.node() {
            let place = &self.places[node];
            if !place.host.is_up() || (next.life != 0 && next.life != place.life) {
                return Ok(());
            }
            if place.paused_until > self.now {
                // A stopped process finds it all when it goes on, in order.
                self.schedule_in(place.paused_until, next.life, next.event);
                return Ok(());
            }
        }
        match next.event {
            Event::Deliver(envelope, disks) => self.deliver(*envelope, disks),
            Event::Turn(node) => self.turn(node),
            Event::Wake(node) => {
                if self.places[node].wake_at <= self.now {
                    self.turn(node)
                } else {
                    Ok(())
                }
            }
            Event::LogDone(node) => self.log_done(node),
            Event::StateDone(node) => self.state_done(node),
            Event::Lost(node, peer, incarnation) => self.input(node, Input::PeerLost { peer, incarnation }),
            Event::Up(node) => self.start(node),
            Event::Fault(index) => self.fault(index),
            Event::SpaceBack(node) => self.input(node, Input::Space { low: false }),
            Event::Client(client) => self.client(client),
            Event::Owner(owner) => self.owner(owner),
            Event::Watcher(watcher) => self.watcher(watcher),
            Event::Order(number) => self.order_again(number),
        }
    }

    /// An event that a reader of the trace wants to see.
    pub(super) fn tell(&mut self, node: Option<usize>, what: impl FnOnce() -> String) {
        let glance = node.map(|node| self.places[node].glance).unwrap_or_default();
        self.trace.tell(self.now, node, &glance, what);
    }

    // ---- one member

    fn start(&mut self, node: usize) -> Result<(), Violation> {
        let outside = self.core != 0 && self.core & (1 << node) == 0;
        if self.places[node].host.is_up() || self.places[node].over || (outside && self.frozen) {
            return Ok(());
        }
        let seed = Seed(self.dice.next_u64());
        let place = &mut self.places[node];
        place.asleep = None;
        let local = place.local(self.now);
        let (rotten, wiped) = (place.rotten, place.wiped);
        let born = place.host.start(local, seed, place.lost);
        self.trace.mark(self.now, &[1, node as u64, u64::from(born.is_ok())]);
        match born {
            Ok(born) if rotten && born.aside.is_none() => self
                .laws
                .broken(Law::RotIsRefused, || format!("n{} starts on a disk on which a bit has flipped", node + 1)),
            Ok(born) => {
                self.note_state(node, &born);
                let place = &mut self.places[node];
                (place.started, place.rotten, place.sent_wrong) = (true, false, None);
                place.life += 1;
                place.incarnation = born.life;
                place.glance = place.host.glance();
                self.watchers.born(node, place.host.view());
                (place.turn_at, place.wake_at, place.failing) = (None, Time::NEVER, false);
                (place.log, place.state, place.state_busy) = (LogQueue::default(), VecDeque::new(), false);
                place.knew = 0;
                place.untold.clear();
                place.syncing.clear();
                self.tell(Some(node), || {
                    format!("starts life {}, log of {} entries, applied {}", born.life, born.log.len(), born.applied.0)
                });
                if !wiped {
                    self.notice_bent(node);
                    self.laws.born(node, &born)?;
                    self.compare(node, true)?;
                }
                self.turn(node)
            }
            Err(halt) if rotten => {
                // Someone puts a good copy of the disk in its place.
                self.tell(Some(node), || format!("refuses its disk: {halt}"));
                let place = &mut self.places[node];
                place.rotten = false;
                place.host.heal_rot();
                let at = self.now + place.down;
                self.schedule(at, Event::Up(node));
                Ok(())
            }
            Err(_) if wiped => Ok(()),
            Err(halt) => self.laws.broken(Law::Recovery, || format!("n{} does not start: {halt}", node + 1)),
        }
    }

    /// What a start found in the place of a state.
    fn note_state(&mut self, node: usize, born: &Born) {
        if let Some(why) = &born.aside {
            self.tell(Some(node), || format!("sets its state aside: {why}"));
            self.installs.lost += 1;
            self.laws.state_lost(node);
            self.places[node].knows = 0;
        }
        self.installs.hollow += u64::from(born.hollow);
        self.places[node].lost &= born.hollow;
    }

    /// The process ends. Of each list of unsynced writes `keep` thousandths survive.
    pub(super) fn crash(&mut self, node: usize, keep: u64, told: bool, down: Duration) {
        let place = &mut self.places[node];
        if !place.host.is_up() {
            return;
        }
        place.life += 1;
        let mut keep = |count: u64| count * keep / 1000;
        let log = std::mem::take(&mut place.log);
        let is_write = |work| match work {
            StateWork::Write(write) => Some(write),
            StateWork::Read(_) | StateWork::Stage(_) => None,
        };
        let state: Vec<StateWrite> =
            std::mem::take(&mut place.state).into_iter().take(1).filter_map(is_write).collect();
        let install = place.host.install();
        self.installs.begun += install.begun;
        self.installs.resumed += install.resumed;
        place.state_busy = false;
        place.host.crash(Torn { log: &log.running, state: &state, keep: &mut keep });
        let (peer, incarnation) = (MemberId(node as u64 + 1), place.incarnation);
        self.trace.mark(self.now, &[2, node as u64]);
        self.tell(Some(node), || "dies".to_string());
        self.clients.orphan::<H>(node, self.now);
        self.owners.forget(node);
        self.operator.forget(node);
        self.watchers.died(node);
        if told {
            for other in (0..self.places.len()).filter(|other| *other != node) {
                if self.network.passes(self.now, node, other) {
                    let at = self.network.arrival(self.now, node, other);
                    self.schedule(at, Event::Lost(other, peer, incarnation));
                }
            }
        }
        if down < Duration::MAX {
            let at = self.now + down;
            self.schedule(at, Event::Up(node));
        }
    }

    /// States that were taken over so far.
    pub(super) fn installs(&self) -> Installs {
        let mut installs = self.installs;
        for install in self.places.iter().map(|place| place.host.install()) {
            installs.begun += install.begun;
            installs.resumed += install.resumed;
        }
        installs
    }

    /// The node can't go on: lawful only if its disk gave it a reason.
    fn halted(&mut self, node: usize, halt: &Halt) -> Result<(), Violation> {
        let is_over = self.laws.is_removed(node);
        if !self.places[node].wiped && !is_over {
            return self.laws.broken(Law::Assertion, || format!("n{} halts: {halt}", node + 1));
        }
        self.places[node].over = is_over;
        self.tell(Some(node), || format!("halts: {halt}"));
        self.crash(node, 500, true, Duration::MAX);
        Ok(())
    }

    pub(super) fn input(&mut self, node: usize, input: Input) -> Result<(), Violation> {
        let place = &mut self.places[node];
        let local = place.local(self.now);
        if let Err(halt) = place.host.handle(local, input) {
            return self.halted(node, &halt);
        }
        if self.plan.noise.turn_us == 0 {
            return self.turn(node);
        }
        if self.places[node].turn_at.is_none() {
            let at = self.now + Duration::from_micros(self.dice.below(self.plan.noise.turn_us));
            self.places[node].turn_at = Some(at);
            self.schedule_here(at, node, Event::Turn(node));
        }
        Ok(())
    }

    fn turn(&mut self, node: usize) -> Result<(), Violation> {
        let mut effects = std::mem::take(&mut self.effects);
        let place = &mut self.places[node];
        place.turn_at = None;
        let local = place.local(self.now);
        let mut outcome = Ok(());
        for input in std::mem::take(&mut place.untold) {
            outcome = outcome.and_then(|()| place.host.handle(local, input));
        }
        let outcome = outcome.and_then(|()| place.host.advance(local, &mut effects));
        if let Err(halt) = outcome {
            self.effects.clear();
            return self.halted(node, &halt);
        }
        let (before, now) = (place.glance, place.host.glance());
        place.glance = now;
        self.laws.turn_of(node, local);
        if before != now {
            let numbers = [now.term.0, now.role as u64, now.last.index.0, now.commit.0, now.applied.0, now.digest];
            self.trace.mark(self.now, &numbers);
            now.changes_since(&before)
                .for_each(|change| self.trace.tell(self.now, Some(node), &now, || change.to_string()));
        }
        // A write is on its way before the message that it lets go, so the record has it first.
        for effect in &effects {
            if let Effect::Persist(ready) = effect
                && !self.places[node].wiped
            {
                self.laws.handed(node, ready, now)?;
            }
        }
        self.conclusions(node, before, now)?;
        self.laws.turned(node, now)?;
        if now.role != RoleName::Follower && self.places[node].host.is_hollow() {
            self.laws.broken(Law::Hollow, || format!("n{} has no state, and is a {}", node + 1, now.role.name()))?;
        }
        self.wrong_gives(node)?;
        if before.last != now.last && self.places.iter().any(|place| place.bent) {
            self.count_right();
        }
        if before.applied != now.applied {
            self.watchers.turned(node, self.now);
        }
        if before.applied != now.applied && !self.places[node].wiped {
            self.compare(node, false)?;
            self.owners.look(node, &self.places[node].host, self.now, &self.laws)?;
        }
        let idle = effects.is_empty() && before == now;
        let life = self.places[node].life;
        for effect in effects.drain(..) {
            // It may end by what its own messages tell others.
            if self.places[node].life == life {
                self.effect(node, effect, before.applied)?;
            }
        }
        self.effects = effects;
        self.laws.has_told(node)?;
        self.turns += 1;
        if now.role == RoleName::Leader && !self.places[node].wiped {
            let limit = self.plan.limits().max_inflight_messages;
            let raft = self.places[node].host.raft().filter(|raft| raft.is_leader());
            raft.map_or(Ok(()), |raft| self.laws.believes(node, &raft.flows(), raft.max_in_flight(), limit))?;
        }
        let place = &mut self.places[node];
        let wake = place.clock.when(self.now, place.host.deadline());
        // A deadline that has passed asks for another turn, after the others had theirs.
        let late = wake <= self.now;
        place.restless = if idle && late { place.restless + 1 } else { 0 };
        self.laws.restless(node, place.restless)?;
        let wake = if late { Time(self.now.0 + 1000) } else { wake };
        if wake < Time::NEVER && wake != place.wake_at {
            place.wake_at = wake;
            self.schedule_here(wake, node, Event::Wake(node));
        }
        Ok(())
    }

    /// What a turn shows of what a member has concluded from what it has heard and from its log.
    fn conclusions(&mut self, node: usize, before: Glance, now: Glance) -> Result<(), Violation> {
        self.laws.follows(node, now)?;
        self.laws.in_touch(node, now)?;
        self.laws.stands(node, now)?;
        self.laws.retires(node, now)?;
        self.laws.goes_on(node, now)?;
        let (moved, host) = (before.last != now.last || before.role != now.role, &self.places[node].host);
        match host.raft().filter(|_| moved && H::HAS_CONTENTS && !host.is_hollow()) {
            Some(raft) => self.laws.goes_by(node, raft.configuration(), now),
            None => Ok(()),
        }
    }

    fn effect(&mut self, node: usize, effect: Effect, before: Index) -> Result<(), Violation> {
        match effect {
            Effect::Send(envelope) => return self.send(node, envelope),
            Effect::Persist(ready) => {
                self.places[node].log.waiting.push(ready);
                self.log_work(node);
            }
            Effect::Load(read) => {
                self.places[node].log.loads.push(read);
                self.log_work(node);
            }
            Effect::WriteState(write) => {
                let place = &mut self.places[node];
                if write.sync {
                    // What this turn applied may be in a later write.
                    place.syncing.push_back((write.id, before, place.knew));
                    place.knew = place.host.known();
                }
                self.hand(node, StateWork::Write(write));
            }
            Effect::ReadRecords(read) => self.hand(node, StateWork::Read(read)),
            Effect::Stage(write) => self.hand(node, StateWork::Stage(write)),
            Effect::Reopen => {
                self.installs.finished += 1;
                self.tell(Some(node), || "is opened again on the state that it took over".to_string());
                let keep = self.dice.below(1001);
                self.crash(node, keep, true, Duration::ZERO);
            }
            Effect::Reply(slot, reply) => return self.reply(node, slot, reply),
        }
        Ok(())
    }

    // ---- messages

    fn send(&mut self, node: usize, envelope: Envelope) -> Result<(), Violation> {
        self.laws.said(node, &envelope)?;
        self.laws.sent(node, &envelope)?;
        let to = envelope.to.0 as usize - 1;
        let disks = self.places[node].disks;
        let down = !self.places[to].host.is_up();
        let fate = self.network.send(self.now, (node, to), &envelope, disks, down);
        self.trace.mark(self.now, &[5, node as u64, to as u64, envelope.term.0, fate.arrivals.len() as u64]);
        let lost = fate.arrivals.is_empty();
        self.tell(Some(node), || format!("sends n{} {}{}", to + 1, said(&envelope), if lost { ", lost" } else { "" }));
        for (disks, envelope, at) in fate.others {
            self.schedule(at, Event::Deliver(Box::new(envelope), disks));
        }
        if fate.unsent {
            self.places[node].untold.push(match envelope.message {
                Message::Forward { id, .. } => Input::Unsent { sequence: id.sequence },
                _ => Input::PeerUnreachable(envelope.to),
            });
            return Ok(());
        }
        let mut envelope = Some(Box::new(envelope));
        for (copy, at) in fate.arrivals.iter().enumerate().rev() {
            let this = if copy == 0 { envelope.take() } else { envelope.clone() };
            if let Some(this) = this {
                self.schedule(*at, Event::Deliver(this, disks));
            }
        }
        Ok(())
    }

    fn deliver(&mut self, envelope: Envelope, disks: usize) -> Result<(), Violation> {
        let (from, to) = (envelope.from.0 as usize - 1, envelope.to.0 as usize - 1);
        if !self.network.passes(self.now, from, to) {
            return Ok(());
        }
        // The connection's two ends tell each other their disks. Who learns that its own is not the one it is known by,
        // stops; who learns it of the other, does not listen.
        let (sender, receiver) = (&self.places[from], &self.places[to]);
        if sender.wiped && !receiver.host.knows(envelope.from, disks as u64) {
            if sender.host.is_up() {
                let why = Halt("it is known to live on another disk".into());
                return self.halted(from, &why);
            }
            return Ok(());
        }
        if receiver.wiped && sender.host.is_up() && !sender.host.knows(envelope.to, receiver.disks as u64) {
            let why = Halt("it is known to live on another disk".into());
            return self.halted(to, &why);
        }
        // Whom it follows speaks over a connection that has stood for longer.
        if receiver.host.is_gone(envelope.from)
            && receiver.glance.leader != Some(envelope.from)
            && sender.host.is_up()
            && self.network.passes(self.now, to, from)
            && self.dice.below(DOORS) == 0
        {
            let why = Halt("it was removed, and is told so where it knocks".into());
            return self.halted(from, &why);
        }
        self.trace.mark(self.now, &[6, from as u64, to as u64, envelope.term.0]);
        self.tell(Some(to), || format!("hears n{} {}", from + 1, said(&envelope)));
        let local = self.places[to].local(self.now);
        self.laws.heard(to, &envelope, local);
        self.input(to, Input::Peer(envelope))
    }

    // ---- clients

    fn client(&mut self, client: usize) -> Result<(), Violation> {
        let known = self.known();
        let Some(act) = self.clients.act::<H>(client, self.now, &known, self.laws.committed()) else { return Ok(()) };
        self.schedule(act.again, Event::Client(client));
        if let Some((node, slot)) = act.gives_up
            && self.hears(node)
        {
            self.input(node, Input::Cancel(slot))?;
        }
        act.asks.map_or(Ok(()), |(node, slot, request)| self.ask(node, slot, request))
    }

    /// The members that clients have heard of, and whether each of them runs.
    fn known(&self) -> Vec<(usize, bool)> {
        let known = self.places.iter().enumerate().filter(|(node, p)| *node < self.plan.nodes || p.started && !p.over);
        known.map(|(node, place)| (node, place.host.is_up())).collect()
    }

    /// What the operator goes by.
    pub(super) fn sight<'a>(&self, in_force: &'a [Council]) -> Sight<'a> {
        let bits = |is: &dyn Fn(&Place<H>) -> bool| {
            (0..self.places.len()).filter(|node| is(&self.places[*node])).fold(0, |bits, node| bits | 1 << node)
        };
        let leads = |node: &usize| self.hears(*node) && self.places[*node].glance.role == RoleName::Leader;
        Sight {
            newest: *self.laws.council(),
            in_force,
            sound: bits(&|place| !place.wiped && !place.lost && !place.bent),
            wiped: bits(&|place| place.wiped),
            leader: (0..self.places.len()).filter(leads).max_by_key(|node| self.places[*node].glance.term),
        }
    }

    fn order_again(&mut self, number: usize) -> Result<(), Violation> {
        let up: Vec<usize> = (0..self.places.len()).filter(|node| self.hears(*node)).collect();
        let slot = self.clients.slot();
        let Some((node, change, again)) = self.operator.act(number, self.now, &up, slot) else { return Ok(()) };
        self.schedule(again, Event::Order(number));
        self.ask(node, slot, Some(Request::Change(change)))
    }

    fn watcher(&mut self, watcher: usize) -> Result<(), Violation> {
        let up: Vec<bool> = (0..self.places.len()).map(|node| self.hears(node) && !self.places[node].wiped).collect();
        let again = self.watchers.act(watcher, (self.now, self.mark()), &up, &self.laws)?;
        self.schedule(again, Event::Watcher(watcher));
        Ok(())
    }

    /// The highest revision that somebody may have compacted at.
    pub(super) fn mark(&self) -> i64 {
        self.clients.marks().max().unwrap_or(0)
    }

    /// Compares what a member holds with what others held, now and then or `surely`.
    pub(super) fn compare(&mut self, node: usize, surely: bool) -> Result<(), Violation> {
        let (host, applied) = (&self.places[node].host, self.places[node].glance.applied);
        let Some(view) = host.view() else { return Ok(()) };
        let itself = self.plan.history.auto != AutoCompaction::Off;
        self.contents.begins(node, &view, (self.now, itself), &mut self.clients, &self.laws)?;
        if surely || applied.0.is_multiple_of(contents::EVERY) {
            self.contents.compare(node, applied, &view, &self.laws)
        } else {
            Ok(())
        }
    }

    fn owner(&mut self, owner: usize) -> Result<(), Violation> {
        let known = self.known();
        let Some(act) = self.owners.act(owner, self.now, &known, &mut self.clients) else { return Ok(()) };
        if act.again < Time::NEVER {
            self.schedule(act.again, Event::Owner(owner));
        }
        act.asks.map_or(Ok(()), |(node, slot, request)| self.ask(node, slot, Some(request)))
    }

    /// Whether the process runs and is not stopped.
    pub(super) fn hears(&self, node: usize) -> bool {
        self.places[node].host.is_up() && self.places[node].paused_until <= self.now
    }

    pub(super) fn ask(&mut self, node: usize, slot: Slot, request: Option<Request>) -> Result<(), Violation> {
        self.trace.mark(self.now, &[7, node as u64, slot.0]);
        if !self.hears(node) {
            return Ok(()); // the client waits, and then gives up
        }
        let Some(request) = request else {
            if self.places[node].host.is_hollow() || self.places[node].host.is_wrong() {
                self.clients.delivered(node, slot);
                return self.reply(node, slot, Reply::Refused(Refused::Hollow));
            }
            let goes_on = self.clients.saw(slot, self.now, &self.places[node].host, &self.laws)?;
            self.goes_on(goes_on);
            return Ok(());
        };
        self.tell(Some(node), || format!("is asked {} {request:.60?}", slot.0));
        if let Request::Read | Request::KeepAlive { .. } | Request::TimeToLive { .. } = request {
            self.laws.asks(node, slot.0, matches!(request, Request::KeepAlive { .. }));
        }
        self.clients.delivered(node, slot);
        self.input(node, Input::Request(slot, request))
    }

    fn reply(&mut self, node: usize, slot: Slot, reply: Reply) -> Result<(), Violation> {
        self.trace.mark(self.now, &[8, node as u64, slot.0]);
        self.tell(Some(node), || format!("answers {} {reply:.60?}", slot.0));
        if let Reply::Readable { .. } | Reply::Lease(_) = reply {
            self.laws.serves(node, slot.0, matches!(reply, Reply::Lease(Some(_))))?;
        }
        if let Some((owner, at)) = self.owners.answered(slot, &reply, self.now, &mut self.clients, &self.laws)? {
            self.schedule(at, Event::Owner(owner));
        }
        let place = &self.places[node];
        self.operator.answered(slot, &reply, &self.laws)?;
        if place.host.is_hollow() && !matches!(reply, Reply::Refused(_)) {
            self.laws.broken(Law::Hollow, || format!("n{} has no state, and answers {reply:.60?}", node + 1))?;
        }
        // Who follows says what its leader says of a lease.
        let is_served = match reply {
            Reply::Applied { .. } | Reply::Readable { .. } => true,
            Reply::Lease(_) => place.glance.role == RoleName::Leader,
            _ => false,
        };
        if place.sent_wrong.is_some() && is_served {
            self.laws.broken(Law::Quarantine, || {
                format!("n{} knows that its state is wrong, and answers {reply:.60?}", node + 1)
            })?;
        }
        let (asked, when) = ((node, &place.host), (self.now, place.glance.applied));
        let goes_on = self.clients.answered(asked, slot, reply, when, &self.laws)?;
        self.goes_on(goes_on);
        Ok(())
    }

    fn goes_on(&mut self, next: Option<(usize, Time)>) {
        if let Some((client, at)) = next {
            self.schedule(at, Event::Client(client));
        }
    }
}

/// A message in a few words.
fn said(envelope: &Envelope) -> String {
    match &envelope.message {
        Message::Append { prev, entries, commit, sequence, .. } => {
            format!("Append #{sequence} after {prev} +{} commit={commit}", entries.len())
        }
        other => {
            let mut text = format!("{other:?}");
            text.truncate(text.char_indices().nth(90).map_or(text.len(), |(at, _)| at));
            text
        }
    }
}

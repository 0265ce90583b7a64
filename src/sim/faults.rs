//! What the faults of a plan do to the world, those of the network apart.

use super::host::Host;
use super::laws::Violation;
use super::place::Place;
use super::plan::{Fault, Planned, Way};
use super::world::{Event, World};
use crate::ids::MemberId;
use crate::node::{Input, Request, RoleName};
use crate::time::{Duration, Time};

impl<H: Host> World<H> {
    pub(super) fn fault(&mut self, index: usize) -> Result<(), Violation> {
        let planned = self.plan.faults[index].clone();
        // The core is left in peace; what is about everyone was turned into facts about links already.
        let touches_core = planned.members().any(|node| self.core & (1 << node) != 0);
        if self.core != 0 && (touches_core || planned.members().next().is_none()) {
            return Ok(());
        }
        self.trace.mark(self.now, &[9, index as u64]);
        self.tell(None, || format!("-- {planned}"));
        let Planned { span, fault, .. } = planned;
        let until = self.now + span;
        if self.network.suffer(&fault, until) {
            return Ok(());
        }
        match fault {
            Fault::Leader { way } => {
                let leads = |node: &usize| self.hears(*node) && self.places[*node].glance.role == RoleName::Leader;
                let leader = (0..self.places.len()).filter(leads).max_by_key(|node| self.places[*node].glance.term);
                let Some(node) = leader else { return Ok(()) };
                match way {
                    Way::Dies => self.crash(node, 500, true, span),
                    Way::Stops => self.places[node].paused_until = until,
                    Way::CutOff => _ = self.network.suffer(&Fault::Split { side: 1 << node }, until),
                }
            }
            Fault::Crash { node, keep, told } => self.crash(node, keep, told, span),
            Fault::Pause { node, sleeps } => {
                let now = self.now;
                let place = &mut self.places[node];
                if place.paused_until <= now && place.host.is_up() {
                    place.paused_until = until;
                    if sleeps {
                        place.asleep = Some(place.local(now));
                        // Its timers were set by what the clock said before.
                        place.wake_at = Time::NEVER;
                        self.schedule_here(until, node, Event::Turn(node));
                    }
                }
            }
            Fault::Hint { node, peer } => {
                let (peer, incarnation) = (MemberId(peer as u64 + 1), self.places[peer].incarnation);
                self.schedule(self.now, Event::Lost(node, peer, incarnation));
            }
            Fault::Jump { node } => {
                self.places[node].clock.offset += span.as_nanos() as i128;
                self.owners.jumped(span);
                self.schedule(self.now, Event::Turn(node));
            }
            Fault::Slow { node, factor } => self.places[node].slow = (factor, until),
            Fault::Space { node } => {
                if self.hears(node) {
                    self.input(node, Input::Space { low: true })?;
                    self.schedule(until, Event::SpaceBack(node));
                }
            }
            Fault::Error { node, log } => {
                let place = &mut self.places[node];
                if place.host.is_up() {
                    (place.failing, place.down) = (true, span);
                    place.host.break_disk(log);
                }
            }
            Fault::Rot { node, place } => self.rot(node, place, span),
            Fault::Tear { node, log, keep } => self.places[node].torn = Some((log, keep, span)),
            Fault::Wipe { node } => self.wipe(node, span),
            Fault::Lose { node } => self.lose(node, span),
            Fault::Bend { side } => self.bend(side),
            Fault::Up { node } => self.schedule(self.now, Event::Up(node)),
            Fault::Change { wish, pick, pinned } => {
                let in_force = self.laws.in_force();
                let sight = self.sight(&in_force);
                if let Some(order) = self.operator.wants((wish, pick, pinned), until, &sight) {
                    let (come, go) = self.operator.wished(order);
                    self.laws.wished(come, go);
                    self.schedule(self.now, Event::Order(order));
                }
            }
            Fault::Transfer { node, to } => {
                if self.places[node].host.is_up() && self.places[node].paused_until <= self.now {
                    let slot = self.clients.admin(node);
                    let target = to.map(|to| MemberId(to as u64 + 1));
                    self.input(node, Input::Request(slot, Request::Transfer(target)))?;
                }
            }
            Fault::Split { .. } | Fault::Cut { .. } | Fault::Clog { .. } | Fault::Mute { .. } => {}
        }
        Ok(())
    }

    /// Whether the process dies in the middle of a write of its log (or of its state), which has several steps or not.
    pub(super) fn tears(&mut self, node: usize, log: bool, has_steps: bool) -> bool {
        let torn = self.places[node].torn.take_if(|(of_log, ..)| *of_log == log && has_steps);
        let Some((_, keep, span)) = torn.filter(|_| self.core & (1 << node) == 0) else { return false };
        self.crash(node, keep, true, span);
        true
    }

    fn rot(&mut self, node: usize, place: u64, span: Duration) {
        if !self.places[node].host.is_up() || self.places[node].wiped {
            return;
        }
        let log = place.is_multiple_of(2);
        self.places[node].down = span;
        self.crash(node, 1000, true, span);
        let may_go = !log && self.may_lose(node);
        let is_rotten = self.places[node].host.rot(log, place);
        let place = &mut self.places[node];
        (place.rotten, place.lost) = (is_rotten, place.lost || (is_rotten && may_go));
    }

    /// Whether the others can do without this member for good.
    fn is_dispensable(&self, node: usize) -> bool {
        let in_force = self.laws.in_force();
        let sound = self.sight(&in_force).sound & !(1 << node);
        let is_member = self.laws.council().members() & 1 << node != 0;
        is_member && in_force.iter().all(|council| council.survives(sound, self.operator.leaving()))
    }

    /// Whether the others can do without this member's state until it has taken over another one. While an emptied disk is
    /// about, nobody may forget that it is another one than before.
    pub(super) fn may_lose(&self, node: usize) -> bool {
        let members = self.laws.in_force().iter().fold(0, |all, council| all | council.members());
        let wiped = (0..self.places.len()).any(|other| self.places[other].wiped && members & 1 << other != 0);
        !wiped && self.is_dispensable(node) && self.places[node].host.may_lose()
    }

    fn lose(&mut self, node: usize, span: Duration) {
        let place = &self.places[node];
        if !place.started || place.rotten || place.wiped || place.lost {
            return;
        }
        self.crash(node, 500, true, span);
        if !self.may_lose(node) {
            return;
        }
        let place = &mut self.places[node];
        place.host.lose();
        (place.lost, place.bent, place.knows) = (true, false, 0);
        self.installs.lost += 1;
        self.laws.state_lost(node);
    }

    /// Only a member whose disk all others know, and keep knowing, may lose it, and only if they can do without it.
    fn wipe(&mut self, node: usize, span: Duration) {
        let knows = |place: &Place<H>| {
            let waits = place.host.is_hollow() && !place.lost;
            !place.started || place.wiped || place.over || waits || (!place.bent && place.knows & 1 << node != 0)
        };
        // What was never started has nothing that could be emptied.
        let empty = !self.places[node].started || self.places[node].wiped;
        if empty || !self.places.iter().all(knows) || !self.is_dispensable(node) {
            return;
        }
        self.crash(node, 0, true, span);
        let place = &mut self.places[node];
        (place.wiped, place.rotten, place.lost, place.bent) = (true, false, false, false);
        place.disks += 1;
        place.host.wipe();
        self.laws.wiped(node);
        // A majority of the founders on empty disks would found the cluster anew: so many may not come back.
        let founders = &self.places[..self.plan.nodes];
        let emptied = founders.iter().filter(|place| place.wiped).count();
        self.places[node].over = node < self.plan.nodes && emptied * 2 >= self.plan.nodes;
    }
}

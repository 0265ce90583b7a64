//! What the faults of a plan do to the world, those of the network apart.

use super::host::Host;
use super::laws::Violation;
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
            Fault::Wipe { node } => self.wipe(node, span),
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

    fn rot(&mut self, node: usize, place: u64, span: Duration) {
        if !self.places[node].host.is_up() || self.places[node].wiped {
            return;
        }
        self.places[node].down = span;
        self.crash(node, 1000, true, span);
        self.places[node].rotten = self.places[node].host.rot(place);
    }

    /// Only a member whose disk all others know, and keep knowing, may lose it, and only a minority of them.
    fn wipe(&mut self, node: usize, span: Duration) {
        let wiped = self.places.iter().filter(|place| place.wiped).count();
        let known = self.places.iter().all(|place| place.wiped || place.knows_all);
        if (wiped + 1) * 2 > self.places.len() - 1 || self.places[node].wiped || !known {
            return;
        }
        self.crash(node, 0, true, span);
        let place = &mut self.places[node];
        (place.wiped, place.rotten) = (true, false);
        place.disks += 1;
        place.host.wipe();
        self.laws.wiped(node);
    }
}

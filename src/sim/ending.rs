//! The second phase: a majority is healed, and must work.
//!
//! A random majority (the core) gets perfect links among its members, quick disks and running processes. Everyone outside
//! stays broken for ever, in one of a few ways: not there, heard but deaf, hearing but mute, or connected as badly as before. Who is
//! down may stay down, or come and go. (A member outside that is heard by a part of the core only, for ever, is left out:
//! if it leads, the other part waits for ever, and no majority protocol with a stable leader can help it.)
//!
//! Then, without one new request, all of the core must reach one state; then each of its members must serve a write and a
//! read; then the leader stays; then only heartbeats pass. Healing everything would hide what hangs: a livelock that needs
//! one member to stay away is found only if it does.

use super::host::Host;
use super::laws::{Law, Violation};
use super::place::Place;
use super::world::{Event, World};
use crate::node::{Input, REST};
use crate::time::{Duration, Time};

impl<H: Host> World<H> {
    /// Everything that follows the plan's end.
    pub(super) fn end(&mut self) -> Result<(), Violation> {
        self.heal()?;
        self.converge()?;
        self.regain_space()?;
        self.serve()?;
        self.end_leases()?;
        self.rest()?;
        self.read_all()?;
        self.sweep()?;
        let nodes = self.core_nodes();
        let mark = self.mark();
        self.watchers.finish(&nodes, (self.now, mark), &self.laws)
    }

    fn heal(&mut self) -> Result<(), Violation> {
        let mut candidates: Vec<usize> = (0..self.places.len()).filter(|node| !self.places[*node].wiped).collect();
        let majority = self.places.len() / 2 + 1;
        let size = majority + self.dice.below((candidates.len() - majority) as u64 + 1) as usize;
        while candidates.len() > size {
            let out = self.dice.below(candidates.len() as u64) as usize;
            candidates.swap_remove(out);
        }
        candidates.sort_unstable();
        let core = candidates.iter().fold(0, |core, node| core | 1 << node);
        self.frozen = self.dice.below(2) == 0;
        self.core = core;
        self.network.heal(self.now, core, &mut self.dice);
        self.clients.be_quiet();
        self.owners.be_quiet();
        self.tell(None, || format!("-- the core is {:?}", candidates.iter().map(|n| n + 1).collect::<Vec<_>>()));
        for node in 0..self.places.len() {
            let place = &mut self.places[node];
            if core & (1 << node) == 0 {
                if self.frozen && place.paused_until > self.now {
                    place.paused_until = Time::NEVER;
                }
                continue;
            }
            place.paused_until = self.now;
            if place.rotten {
                place.rotten = false;
                place.host.heal_rot();
            }
            if place.failing {
                self.crash(node, 500, true, Duration::ZERO);
            }
            match self.places[node].host.is_up() {
                true => {
                    self.input(node, Input::Space { low: false })?;
                    self.schedule(self.now, Event::Turn(node));
                }
                false => self.schedule(self.now, Event::Up(node)),
            }
        }
        self.hasten(core);
        Ok(())
    }

    fn core_nodes(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|node| self.core & (1 << node) != 0).collect()
    }

    /// How long the core may take for what needs `steps` round trips, one after another, through whoever leads.
    fn patience(&self, steps: u64) -> Duration {
        let (noise, election) = (&self.plan.noise, self.plan.timers.election);
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        if self.core.count_ones() as usize == self.places.len() {
            let step = Duration::from_micros(5_000 + 4 * noise.turn_us);
            return election * 10 + Duration::from_secs(3) + step * steps;
        }
        let step = Duration::from_micros(4_000 + 8 * noise.delay_us + 4 * noise.disk_us + 4 * noise.turn_us);
        election * 20 + Duration::from_secs(5) + step * steps
    }

    /// Lets time pass until `done`, at most `patience`.
    fn wait(&mut self, patience: Duration, mut done: impl FnMut(&World<H>) -> bool) -> Result<bool, Violation> {
        let deadline = self.now + patience;
        while !done(self) {
            if self.now >= deadline {
                return Ok(false);
            }
            self.run(self.now + Duration::from_millis(5))?;
        }
        Ok(true)
    }

    fn is_one(&self) -> bool {
        let nodes = self.core_nodes();
        let first = self.places[nodes[0]].glance;
        let agrees = |node: &usize| {
            let (up, glance) = (self.places[*node].host.is_up(), self.places[*node].glance);
            up && glance.leader.is_some()
                && (glance.term, glance.leader) == (first.term, first.leader)
                && glance.applied == glance.last.index
                && (glance.applied, glance.digest) == (first.applied, first.digest)
        };
        nodes.iter().all(agrees) && self.clients.owed(self.core) == 0
    }

    fn converge(&mut self) -> Result<(), Violation> {
        let longest = self.places.iter().map(|place| place.glance.last.index.0).max().unwrap_or(0);
        let patience = self.patience(longest.max(self.laws.committed() as u64));
        if self.wait(patience, |world| world.is_one())? {
            return Ok(());
        }
        self.laws.broken(Law::Converges, || {
            let nodes: Vec<String> = self.core_nodes().iter().map(|node| self.describe(*node)).collect();
            format!(
                "{patience:?} after it was healed the core has not reached one state ({} answers owed): {}",
                self.clients.owed(self.core),
                nodes.join("; ")
            )
        })
    }

    fn describe(&self, node: usize) -> String {
        let place = &self.places[node];
        if place.host.is_up() { format!("n{} {:?}", node + 1, place.glance) } else { format!("n{} is down", node + 1) }
    }

    fn serve(&mut self) -> Result<(), Violation> {
        self.ask_each(&[true, false])
    }

    /// Asks each of the core until it answers.
    fn ask_each(&mut self, writes: &[bool]) -> Result<(), Violation> {
        let deadline = self.now + self.patience(100) + self.shortage();
        for node in self.core_nodes() {
            for &write in writes {
                let before = self.clients.answers();
                while self.clients.answers() == before {
                    let committed = self.laws.committed();
                    let (_, slot, request) = self.clients.probe::<H>(node, write, self.now, committed);
                    self.ask(node, slot, request)?;
                    self.wait(self.patience(10), |world| !world.clients.is_open(slot))?;
                    self.run(self.now + Duration::from_millis(5))?;
                    if self.now >= deadline && self.clients.answers() == before {
                        return self.laws.broken(Law::Serves, || {
                            let what = if write { "write" } else { "read" };
                            format!("a healed core does not serve a {what}: {}", self.describe(node))
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// So long a shortage of space lasts at most, where there is a quota: history of five seconds ago goes, then the
    /// rest, and then the alarms of those who are gone.
    fn shortage(&self) -> Duration {
        if self.plan.history.quota > 0 { Duration::from_secs(45) } else { Duration::ZERO }
    }

    /// Nobody asks for anything, and what is there fits: no alarm stays.
    fn regain_space(&mut self) -> Result<(), Violation> {
        let patience = self.patience(100) + self.shortage();
        let nodes = self.core_nodes();
        let short = |place: &Place<H>| place.host.view().is_none_or(|view| !view.may_grow());
        let quota = self.plan.history.quota;
        let takes_puts = |world: &World<H>| !nodes.iter().any(|node| short(&world.places[*node]));
        if !H::HAS_CONTENTS || quota == 0 || self.wait(patience, takes_puts)? {
            return Ok(());
        }
        self.laws.broken(Law::SpaceReturns, || {
            let held = |node: &usize| {
                let view = self.places[*node].host.view();
                view.map(|view| (node + 1, view.held_bytes(), view.compacted(), view.revision(), view.alarms()))
            };
            let held: Vec<_> = nodes.iter().map(held).collect();
            format!("{patience:?} after it was healed the core is short of space, of {quota}: {held:?}")
        })
    }

    /// Compactions come to their end, and then all hold the same.
    fn sweep(&mut self) -> Result<(), Violation> {
        let nodes = self.core_nodes();
        if !H::HAS_CONTENTS {
            return Ok(());
        }
        let swept = |world: &World<H>| !nodes.iter().any(|node| world.places[*node].host.is_sweeping());
        let done = |world: &World<H>| swept(world) && world.is_one();
        // A sweep rests while a state is taken over, and for a while after that.
        if !self.wait(self.patience(1000) + REST, done)? {
            return self.laws.broken(Law::SpaceReturns, || "a core at rest sweeps for ever".to_string());
        }
        nodes.iter().try_for_each(|node| self.compare(*node, true))?;
        let held = |node: &usize| self.places[*node].host.view().map(|view| view.held_bytes());
        let held: Vec<Option<u64>> = nodes.iter().map(held).collect();
        if held.iter().any(|other| *other != held[0]) {
            self.laws.broken(Law::SpaceReturns, || format!("members that have swept all hold {held:?} bytes"))?;
        }
        Ok(())
    }

    /// Nobody keeps a lease alive: all of them end, at once or when a new leader has given them all of their time again.
    fn end_leases(&mut self) -> Result<(), Violation> {
        let patience = self.patience(100) + self.owners.longest() * 3;
        let nodes = self.core_nodes();
        let none = |world: &World<H>| nodes.iter().all(|node| world.places[*node].host.leases() == (0, 0));
        if self.wait(patience, none)? {
            return Ok(());
        }
        let left: Vec<(usize, usize)> = nodes.iter().map(|node| self.places[*node].host.leases()).collect();
        self.laws.broken(Law::LeaseEnds, || {
            format!("{patience:?} after nobody keeps them alive, leases and keys of gone ones are there: {left:?}")
        })
    }

    fn rest(&mut self) -> Result<(), Violation> {
        let leader = self.places[self.core_nodes()[0]].glance.leader;
        let inside = leader.is_some_and(|leader| self.core & (1 << (leader.0 - 1)) != 0);
        let (changes, timers) = (self.laws.leader_changes(), self.plan.timers.clone());
        self.run(self.now + timers.election * 6)?;
        let changed = self.laws.leader_changes() - changes;
        if inside && changed > 1 {
            self.laws.broken(Law::Stable, || format!("the leader of a healed core changed {changed} times"))?;
        }
        if !self.wait(self.patience(100), |world| world.is_one())? {
            return self.laws.broken(Law::Converges, || "a healed core fell apart again".to_string());
        }
        let (sent, beats) = (self.network.sent_inside(), 20);
        self.run(self.now + timers.heartbeat * beats)?;
        let sent = self.network.sent_inside() - sent;
        // A heartbeat and its answer for each; clocks may run a tenth too fast, and one campaign from outside may pass.
        let most = (self.core_nodes().len() as u64 - 1) * 2 * (u64::from(beats) + 4) * 12 / 10;
        if sent > most && self.laws.leader_changes() == changes + changed {
            self.laws.broken(Law::Quiet, || {
                format!("a core at rest sent {sent} messages in {beats} heartbeats, more than {most}")
            })?;
        }
        Ok(())
    }

    /// What the judge needs to see the end of: everything, at each member.
    fn read_all(&mut self) -> Result<(), Violation> {
        self.ask_each(&[false])
    }
}

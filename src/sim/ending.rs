//! The second phase: a majority is healed, and must work.
//!
//! A random set of members that decides (the core) gets perfect links among its members, quick disks and running processes. Everyone outside
//! stays broken for ever, in one of a few ways: not there, heard but deaf, hearing but mute, or connected as badly as before. Who is
//! down may stay down, or come and go. (A member outside that is heard by a part of the core only, for ever, is left out:
//! if it leads, the other part waits for ever, and no majority protocol with a stable leader can help it.)
//!
//! **Who decides may change.** The core is a quorum of the newest committed configuration and of each one after it in any log, of
//! members that have their log and their state. The operator asks for nothing more, but what it asked for before may still be
//! made: then the core is widened by members of the new configuration, and gets its time anew. The joint configuration must be
//! left, who joins and is in the core must come to vote, and who was removed is not asked for anything.
//!
//! Then, without one new request, all of the core must reach one state, but for those whose state is wrong; these must be found
//! out while somebody writes, and agree (`bends.rs`); then each of its members must serve a write and a read; then the leader
//! stays; then only heartbeats pass; then one of its voters does not hear the leader for a while, and no term moves. Healing
//! everything would hide what hangs: a livelock that needs one member to stay away is found only if it does.

use super::councils::Council;
use super::host::Host;
use super::laws::{Law, Violation};
use super::place::Place;
use super::world::{Event, World};
use crate::ids::Index;
use crate::node::{Input, REST};
use crate::time::{Duration, Time};

impl<H: Host> World<H> {
    /// Everything that follows the plan's end.
    pub(super) fn end(&mut self) -> Result<(), Violation> {
        if self.stranded || !self.heal()? {
            self.stranded = true;
            return Ok(());
        }
        self.converge()?;
        self.announce()?;
        self.regain_space()?;
        self.mend()?;
        self.serve()?;
        self.end_leases()?;
        self.rest()?;
        self.come_back()?;
        self.read_all()?;
        self.sweep()?;
        let nodes = self.core_nodes();
        let mark = self.mark();
        self.watchers.finish(&nodes, (self.now, mark), &self.laws)
    }

    /// A random quorum of every configuration that may be in force, and perhaps some more of their members.
    fn draw_core(&mut self) -> Option<u64> {
        let in_force = self.laws.in_force();
        let sight = self.sight(&in_force);
        let (sound, wiped) = (sight.sound, sight.wiped);
        let is_enough = |core: u64| in_force.iter().all(|council| council.is_quorum(core & sound));
        let mut core = in_force.iter().fold(0, |all, council| all | council.members()) & !wiped;
        if !is_enough(core) {
            return None;
        }
        let mut rest: Vec<usize> = (0..self.places.len()).filter(|node| core & (1 << node) != 0).collect();
        let fewest = in_force.iter().map(|council| council.incoming.count_ones() as usize / 2 + 1).max().unwrap_or(1);
        let size = fewest + self.dice.below((rest.len() + 1).saturating_sub(fewest).max(1) as u64) as usize;
        while core.count_ones() as usize > size && !rest.is_empty() {
            let out = self.dice.below(rest.len() as u64) as usize;
            let without = core & !(1 << rest.swap_remove(out));
            core = if is_enough(without) { without } else { core };
        }
        Some(core)
    }

    /// Says whether there is something to heal.
    fn heal(&mut self) -> Result<bool, Violation> {
        let Some(core) = self.draw_core() else { return Ok(false) };
        self.frozen = self.dice.below(2) == 0;
        self.network.heal(self.now, core, &mut self.dice);
        self.clients.be_quiet();
        self.owners.be_quiet();
        self.operator.be_quiet();
        for place in self.places.iter_mut().filter(|place| self.frozen && place.paused_until > self.now) {
            place.paused_until = Time::NEVER;
        }
        // A leader whose disk is full refuses what grows, wherever it leads from, and that is lawful: so no disk stays full.
        for node in (0..self.places.len()).filter(|node| core & (1 << node) == 0) {
            if self.hears(node) {
                self.input(node, Input::Space { low: false })?;
            } else {
                // Who is stopped finds it when it goes on.
                self.schedule_here(self.now, node, Event::SpaceBack(node));
            }
        }
        self.admit(core)?;
        Ok(true)
    }

    /// These are in the core from now on, and are healed.
    fn admit(&mut self, core: u64) -> Result<(), Violation> {
        let new: Vec<usize> = (0..self.places.len()).filter(|node| (core & !self.core) & (1 << node) != 0).collect();
        self.core |= core;
        self.network.widen(self.core);
        self.tell(None, || format!("-- in the core from now on: {:?}", new.iter().map(|n| n + 1).collect::<Vec<_>>()));
        for &node in &new {
            let place = &mut self.places[node];
            (place.paused_until, place.wake_at) = (self.now, Time::NEVER);
            if place.rotten && !place.lost {
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

    /// What was asked for before may still be made: the core is then widened until it is a quorum of what there is. Says
    /// whether it was.
    fn widen(&mut self) -> Result<bool, Violation> {
        let in_force = self.laws.in_force();
        let lacking = |council: &&Council| !council.is_quorum(self.core & !self.bent());
        let Some(council) = in_force.iter().find(lacking).copied() else { return Ok(false) };
        let sight = self.sight(&in_force);
        let outside = (council.incoming | council.outgoing) & !self.core & !sight.wiped;
        let all: Vec<usize> = (0..self.places.len()).filter(|node| outside & (1 << node) != 0).collect();
        let Some(&node) = all.get(self.dice.below(all.len().max(1) as u64) as usize) else {
            let what = || format!("the core {:b} is no quorum of {council:?}, and nobody is left", self.core);
            return self.laws.broken(Law::Converges, what).map(|()| false);
        };
        self.admit(1 << node)?;
        Ok(true)
    }

    /// Those of the core that are members, as far as that is committed. A removal that was asked for before may be committed
    /// while something is waited for: who waits asks again.
    pub(super) fn core_nodes(&self) -> Vec<usize> {
        let members = self.laws.council().members() & self.core;
        (0..self.places.len()).filter(|node| members & (1 << node) != 0).collect()
    }

    /// How long the core may take for what needs `steps` round trips, one after another, through whoever leads.
    pub(super) fn patience(&self, steps: u64) -> Duration {
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
    pub(super) fn wait(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&World<H>) -> bool,
    ) -> Result<bool, Violation> {
        let mut deadline = self.now + patience;
        while !done(self) {
            if self.widen()? {
                deadline = self.now + patience;
            }
            if self.now >= deadline {
                return Ok(false);
            }
            self.run(self.now + Duration::from_millis(5))?;
        }
        Ok(true)
    }

    fn is_one(&self) -> bool {
        let nodes = self.core_nodes();
        let right = nodes.iter().find(|node| !self.places[**node].bent).unwrap_or(&nodes[0]);
        let first = self.places[*right].glance;
        let agrees = |node: &usize| {
            let place = &self.places[*node];
            let (up, glance) = (place.host.is_up(), place.glance);
            up && glance.leader.is_some()
                && (glance.term, glance.leader) == (first.term, first.leader)
                && glance.applied == glance.last.index
                && glance.applied == first.applied
                && (place.bent || glance.digest == first.digest)
        };
        let council = self.laws.council();
        // A leader that was removed hands over and goes.
        let leads = first.leader.is_none_or(|leader| council.incoming & 1 << (leader.0 - 1) != 0);
        let settled = leads && !council.is_joint() && council.joining & self.core == 0;
        settled && nodes.iter().all(agrees) && self.clients.owed(self.core) == 0
    }

    pub(super) fn converge(&mut self) -> Result<(), Violation> {
        let longest = self.places.iter().map(|place| place.glance.last.index.0).max().unwrap_or(0);
        let patience = self.patience(longest.max(self.laws.committed() as u64));
        // A state is taken over piece by piece and a log perhaps entry by entry, and the leader may be outside, behind links that
        // lose a third of them: who is further than ever is waited for again. States and logs have an end, so this has one too.
        let mut taken = vec![(Index(0), 0); self.places.len()];
        while self.wait(patience, |world| world.is_one() || world.further_than(&taken).is_some())? {
            if self.is_one() {
                return Ok(());
            }
            while let Some((node, done)) = self.further_than(&taken) {
                taken[node] = done;
            }
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

    /// Each member says which disk it lives on, until the replicated state has it.
    fn announce(&mut self) -> Result<(), Violation> {
        let knows = |world: &World<H>, node: &usize| world.places[*node].host.known();
        let unknown = |world: &World<H>| {
            let nodes = world.core_nodes();
            let known = nodes.iter().fold(u64::MAX, |known, node| known & knows(world, node));
            nodes.iter().fold(0, |bits, node| bits | 1 << node) & !known
        };
        if !H::HAS_CONTENTS || self.wait(self.patience(20), |world| unknown(world) == 0)? {
            return Ok(());
        }
        let what = || format!("the disks of {:b} are not known in a core that has reached one state", unknown(self));
        self.laws.broken(Law::Converges, what)
    }

    /// Somebody in the core who has applied more, or taken over more bytes of a state, than it ever had.
    fn further_than(&self, taken: &[(Index, u64)]) -> Option<(usize, (Index, u64))> {
        let done = |node: usize| {
            let place = &self.places[node];
            (node, (place.glance.applied, place.host.install().done_bytes))
        };
        self.core_nodes().into_iter().map(done).find(|(node, done)| *done > taken[*node])
    }

    pub(super) fn describe(&self, node: usize) -> String {
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
        let short = |place: &Place<H>| place.host.view().is_none_or(|view| !view.may_grow());
        let quota = self.plan.history.quota;
        let takes_puts = |world: &World<H>| !world.core_nodes().iter().any(|node| short(&world.places[*node]));
        if !H::HAS_CONTENTS || quota == 0 || self.wait(patience, takes_puts)? {
            return Ok(());
        }
        self.laws.broken(Law::SpaceReturns, || {
            let held = |node: &usize| {
                let view = self.places[*node].host.view();
                view.map(|view| (node + 1, view.held_bytes(), view.compacted(), view.revision(), view.alarms()))
            };
            let held: Vec<_> = self.core_nodes().iter().map(held).collect();
            format!("{patience:?} after it was healed the core is short of space, of {quota}: {held:?}")
        })
    }

    /// Compactions come to their end, and then all hold the same.
    fn sweep(&mut self) -> Result<(), Violation> {
        if !H::HAS_CONTENTS {
            return Ok(());
        }
        let is_sweeping = |world: &World<H>, node: &usize| world.places[*node].host.is_sweeping();
        let swept = |world: &World<H>| !world.core_nodes().iter().any(|node| is_sweeping(world, node));
        let done = |world: &World<H>| swept(world) && world.is_one();
        // A sweep rests while a state is taken over, and for a while after that.
        if !self.wait(self.patience(1000) + REST, done)? {
            return self.laws.broken(Law::SpaceReturns, || "a core at rest sweeps for ever".to_string());
        }
        let nodes = self.core_nodes();
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
        let has_none = |world: &World<H>, node: &usize| world.places[*node].host.leases() == (0, 0);
        let none = |world: &World<H>| world.core_nodes().iter().all(|node| has_none(world, node));
        if self.wait(patience, none)? {
            return Ok(());
        }
        let leases = |node: &usize| self.places[*node].host.leases();
        let left: Vec<(usize, usize)> = self.core_nodes().iter().map(leases).collect();
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
        let (beats, council) = (20, *self.laws.council());
        let members = council.members() & self.core;
        let sent = self.network.sent_among(members);
        self.run(self.now + timers.heartbeat * beats)?;
        let sent = self.network.sent_among(members) - sent;
        let is_settled = *self.laws.council() == council;
        // A heartbeat and its answer for each; clocks may run a tenth too fast, and one campaign from outside may pass.
        // Who has a checkpoint that was not compared yet asks about it once an election timeout.
        let questions =
            u64::try_from((timers.heartbeat * beats).as_micros() / timers.election.as_micros()).unwrap_or(0) + 1;
        let others = u64::from(members.count_ones()) - 1;
        let most = others * 2 * ((u64::from(beats) + 4) * 12 / 10 + questions);
        if sent > most && is_settled && self.laws.leader_changes() == changes + changed {
            self.laws.broken(Law::Quiet, || {
                format!("a core at rest sent {sent} messages in {beats} heartbeats, more than {most}")
            })?;
        }
        Ok(())
    }

    /// A voter of the core does not hear its leader for a while, asks to be elected, and hears it again: nobody's term moves.
    /// Not where somebody is outside, who may campaign with better reason.
    fn come_back(&mut self) -> Result<(), Violation> {
        let council = *self.laws.council();
        let Some(leader) = self.places[self.core_nodes()[0]].glance.leader else { return Ok(()) };
        let may = |node: &usize| {
            let is_other = *node as u64 + 1 != leader.0 && council.incoming & (1 << node) != 0;
            is_other && council.is_quorum(self.core & !self.bent() & !(1 << node))
        };
        let voters: Vec<usize> = self.core_nodes().into_iter().filter(may).collect();
        if self.core.count_ones() as usize != self.places.len() || voters.is_empty() {
            return Ok(());
        }
        let deaf = voters[self.dice.below(voters.len() as u64) as usize];
        let said = |world: &World<H>| -> Vec<_> {
            let glance = |node: usize| world.places[node].glance;
            world.core_nodes().into_iter().map(|node| (glance(node).term, glance(node).leader)).collect()
        };
        let (before, election) = (said(self), self.plan.timers.election);
        self.tell(Some(deaf), || "-- does not hear its leader for a while".to_string());
        self.network.deafen(Some((leader.0 as usize - 1, deaf)));
        self.run(self.now + election * 4)?;
        self.network.deafen(None);
        if !self.wait(self.patience(100), |world| world.is_one())? {
            return self.laws.broken(Law::Converges, || format!("n{} came back, and the core fell apart", deaf + 1));
        }
        let after = said(self);
        if before.iter().zip(&after).any(|(before, after)| before.0 != after.0) {
            self.laws.broken(Law::Stable, || {
                format!(
                    "n{} did not hear its leader for a while, and terms moved: {after:?} after {before:?}",
                    deaf + 1
                )
            })?;
        }
        Ok(())
    }

    /// What the judge needs to see the end of: everything, at each member.
    fn read_all(&mut self) -> Result<(), Violation> {
        self.ask_each(&[false])
    }
}

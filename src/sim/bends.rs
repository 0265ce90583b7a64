//! States that go wrong in memory, as by a flipped bit: who has one, how far it spreads, and how it ends.
//!
//! What is wrong in a state is a lease that nobody asked for. No client sees it, so the judge may count what such a member says;
//! but the state says itself that it is wrong, whoever takes it over. The world sees that, and the members must find out by
//! their digests, at a checkpoint.
//!
//! **What is promised.** A member goes wrong only where the others can do without its state, so those that are right are a
//! quorum. Then none of them sets its state aside; who is wrong and knows it serves nothing and gives nothing away; and who has
//! set its state aside has none until it has taken over one that is no older. Until it knows, a wrong leader gives its state to
//! whoever needs one: so may one state go wrong after the other, until those that are right are no quorum. Nothing is promised
//! then, and the run ends.

use super::host::Host;
use super::laws::{Law, Violation};
use super::world::World;
use crate::time::Duration;

impl<H: Host> World<H> {
    /// Who is in `side` and runs on a right state that the others can do without has a wrong one from now on.
    pub(super) fn bend(&mut self, side: u64) {
        self.bends += 1;
        for node in (0..self.places.len()).filter(|node| side & 1 << node != 0) {
            let place = &self.places[node];
            let is_right = place.host.is_up() && !place.wiped && !place.lost && !place.bent && !place.host.is_hollow();
            if is_right && self.may_lose(node) {
                self.places[node].host.bend(self.bends);
                self.goes_wrong(node);
            }
        }
    }

    /// What has started may have taken over a wrong state, or lost it in a crash.
    pub(super) fn notice_bent(&mut self, node: usize) {
        let bent = self.places[node].host.is_bent(self.bends);
        self.places[node].bent = bent;
        self.laws.bent(node, bent);
        if bent {
            self.goes_wrong(node);
        }
    }

    /// The member's state is wrong from now on.
    fn goes_wrong(&mut self, node: usize) {
        self.places[node].bent = true;
        self.laws.bent(node, true);
        self.tell(Some(node), || "has a wrong state".to_string());
        self.count_right();
    }

    /// Where those that are right decide no more, by the spread of a wrong state or of votes, nobody knows who is right.
    pub(super) fn count_right(&mut self) {
        let in_force = self.laws.in_force();
        let sound = self.sight(&in_force).sound;
        if !in_force.iter().all(|council| council.is_quorum(sound)) {
            self.stranded = true;
            self.laws.suspend();
        }
    }

    /// Who knows that its state is wrong gives none of it away.
    pub(super) fn wrong_gives(&mut self, node: usize) -> Result<(), Violation> {
        let place = &mut self.places[node];
        let sent = place.host.is_wrong().then(|| place.host.install().sent_bytes);
        let before = std::mem::replace(&mut place.sent_wrong, sent);
        match (before, sent) {
            (Some(before), Some(sent)) if before != sent => self
                .laws
                .broken(Law::Quarantine, || format!("n{} knows that its state is wrong, and gives it away", node + 1)),
            _ => Ok(()),
        }
    }

    /// A state that is none has taken the place of this member's own one, which was wrong: until it has taken over another one
    /// the others must do without it.
    pub(super) fn sets_aside(&mut self, node: usize) -> Result<(), Violation> {
        self.installs.wrong += 1;
        self.tell(Some(node), || "sets its state aside, which is not what a quorum has".to_string());
        let place = &mut self.places[node];
        (place.bent, place.lost, place.knows) = (false, true, 0);
        self.laws.set_aside(node)
    }

    /// A bit per member whose state is wrong.
    pub(super) fn bent(&self) -> u64 {
        let bent = (0..self.places.len()).filter(|node| self.places[*node].bent);
        bent.fold(0, |bits, node| bits | 1 << node)
    }

    /// Who is wrong is found out at the next checkpoint, which comes only if something is written: then nobody is wrong any more.
    pub(super) fn mend(&mut self) -> Result<(), Violation> {
        let is_bent = |world: &World<H>| world.core_nodes().iter().any(|node| world.places[*node].bent);
        let turns = self.plan.timers.election * 20 * self.bent().count_ones();
        let deadline = self.now + self.patience(100 + 4 * self.plan.checkpoints) + turns;
        while is_bent(self) {
            for node in self.core_nodes() {
                let (_, slot, request) = self.clients.probe::<H>(node, true, self.now, self.laws.committed());
                self.ask(node, slot, request)?;
                self.wait(self.patience(10), |world| !world.clients.is_open(slot))?;
            }
            if self.now >= deadline && is_bent(self) {
                return self.laws.broken(Law::Quarantine, || {
                    let nodes: Vec<String> = self.core_nodes().iter().map(|node| self.describe(*node)).collect();
                    format!("{:b} are wrong, and a healed core does not find out: {}", self.bent(), nodes.join("; "))
                });
            }
            self.run(self.now + Duration::from_millis(5))?;
        }
        self.converge()
    }
}

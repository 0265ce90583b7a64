//! The operator: adds members, promotes, removes and replaces them, and does not wait for the end of it.
//!
//! What it wants is in the plan; whom that is about it takes from what there is then. It asks any member, asks another one
//! before the first has answered, gives orders that contradict each other, and goes on asking until it knows what became of
//! a wish or has lost interest. Sometimes it asks on top of the configuration that it saw, so that a second try must be refused.
//!
//! It is sane in one thing: it removes nobody without whom those that lost their disks would be too many. A member that is
//! only down, or cut off, is no reason: there the product must refuse what would cost the quorum. And it knows that an id
//! never comes again, so it uses each spare place once.

use super::councils::Council;
use super::laws::{Law, Laws, Violation};
use super::plan::Wish;
use crate::node::{ChangeRefused, Refused, Reply, Slot};
use crate::proto::quorate::{MemberChange, NewMember};
use crate::rng::{Rng, Seed};
use crate::time::{Duration, Time};

/// What the operator goes by.
pub(super) struct Sight<'a> {
    /// The newest configuration that is committed.
    pub newest: Council,
    /// All that may be in force.
    pub in_force: &'a [Council],
    /// A bit per member that has its log and its state.
    pub sound: u64,
    /// A bit per member whose disk is lost for good.
    pub wiped: u64,
    /// Who leads.
    pub leader: Option<usize>,
}

/// A wish, and how far it has come.
#[derive(Debug)]
struct Order {
    come: u64,
    learn: u64,
    go: u64,
    vote: u64,
    version: Option<u64>,
    until: Time,
    /// Questions on their way, and whom they went to.
    open: Vec<(Slot, usize)>,
    /// Some question may have been carried out.
    uncertain: bool,
    over: bool,
}

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Operator {
    rng: Rng,
    /// A bit per place that was never offered to the cluster.
    unused: u64,
    orders: Vec<Order>,
    pace: Duration,
    quiet: bool,
}

impl Operator {
    pub(super) fn new(founders: usize, places: usize, election: Duration, seed: Seed) -> Operator {
        let unused = (1 << places) - (1 << founders);
        Operator { rng: Rng::new(seed), unused, orders: Vec::new(), pace: election, quiet: false }
    }

    /// It wants nothing more.
    pub(super) fn be_quiet(&mut self) {
        self.quiet = true;
    }

    /// Whom it has asked to remove, as far as that may still happen.
    pub(super) fn leaving(&self) -> u64 {
        let unknown = self.orders.iter().filter(|order| order.uncertain || !order.open.is_empty());
        unknown.fold(0, |leaving, order| leaving | order.go)
    }

    /// A wish comes up. Gives its number, if there is something to ask for.
    pub(super) fn wants(
        &mut self,
        (wish, pick, pinned): (Wish, u64, bool),
        until: Time,
        sight: &Sight<'_>,
    ) -> Option<usize> {
        let mut order = self.order(wish, &mut Rng::new(Seed(pick)), sight)?;
        let leaving = self.leaving() | order.go;
        if order.go != 0 && !sight.in_force.iter().all(|council| council.survives(sight.sound, leaving)) {
            return None;
        }
        self.unused &= !(order.come | order.learn);
        order.version = pinned.then_some(sight.newest.version);
        order.until = until;
        self.orders.push(order);
        Some(self.orders.len() - 1)
    }

    /// Whom this order asks to come, and whom to go.
    pub(super) fn wished(&self, order: usize) -> (u64, u64) {
        let Order { come, learn, go, .. } = self.orders[order];
        (come | learn, go)
    }

    fn order(&self, wish: Wish, dice: &mut Rng, sight: &Sight<'_>) -> Option<Order> {
        let (members, learners) = (sight.newest.members(), sight.newest.learners & !sight.newest.joining);
        let mut order = Order {
            come: 0,
            learn: 0,
            go: 0,
            vote: 0,
            version: None,
            until: Time(0),
            open: Vec::new(),
            uncertain: false,
            over: false,
        };
        match wish {
            Wish::Voter => order.come = one_of(self.unused, dice)?,
            Wish::Learner => order.learn = one_of(self.unused, dice)?,
            // Now and then somebody who does not wait for that.
            Wish::Promote => order.vote = one_of(if dice.below(4) == 0 { members } else { learners }, dice)?,
            Wish::Remove => order.go = one_of(members, dice)?,
            Wish::RemoveLeader => order.go = 1 << sight.leader?,
            Wish::Replace => {
                let lost = members & sight.wiped;
                order.go = one_of(if lost == 0 { members } else { lost }, dice)?;
                order.come = one_of(self.unused, dice)?;
            }
            Wish::Several => {
                for _ in 0..dice.below(3) {
                    order.come |= one_of(self.unused, dice).unwrap_or(0);
                }
                for _ in 0..dice.below(3) {
                    order.go |= one_of(members, dice).unwrap_or(0);
                }
                if dice.below(2) == 0 {
                    order.vote = learners & !order.go;
                }
            }
        }
        (order.come | order.learn | order.go | order.vote != 0).then_some(order)
    }

    /// The moment of an order has come: asks for it, by the slot given, at one of `up`. Gives what it asks and whom, and
    /// when it acts again.
    pub(super) fn act(
        &mut self,
        number: usize,
        now: Time,
        up: &[usize],
        slot: Slot,
    ) -> Option<(usize, MemberChange, Time)> {
        let order = &mut self.orders[number];
        if self.quiet || order.over || now > order.until || up.is_empty() {
            return None;
        }
        let node = up[self.rng.below(up.len() as u64) as usize];
        order.open.push((slot, node));
        let again = now + self.rng.duration(self.pace / 4, self.pace * 3);
        Some((node, order.change(), again))
    }

    /// A member has died: nobody knows what became of what it was asked.
    pub(super) fn forget(&mut self, node: usize) {
        for order in &mut self.orders {
            let before = order.open.len();
            order.open.retain(|(_, asked)| *asked != node);
            order.uncertain |= order.open.len() < before;
        }
    }

    /// A member answers.
    pub(super) fn answered(&mut self, slot: Slot, reply: &Reply, laws: &Laws) -> Result<(), Violation> {
        let is_asked = |order: &&mut Order| order.open.iter().any(|(open, _)| *open == slot);
        let Some(order) = self.orders.iter_mut().find(is_asked) else { return Ok(()) };
        order.open.retain(|(open, _)| *open != slot);
        match reply {
            Reply::Changed { .. } => {
                order.over = true;
                order.uncertain = false;
                let made = laws.was_made((order.come | order.learn, order.go, order.vote), order.version);
                if !made {
                    laws.broken(Law::Changed, || {
                        format!("{} is answered with yes, and was not made: {order:?}", slot.0)
                    })?;
                }
            }
            // To go on would change nothing.
            Reply::Refused(Refused::Change(
                ChangeRefused::MemberNotFound(_)
                | ChangeRefused::MemberExists(_)
                | ChangeRefused::PeerUrlsExist
                | ChangeRefused::NotALearner(_)
                | ChangeRefused::TooManyLearners { .. }
                | ChangeRefused::Version { .. }
                | ChangeRefused::Nothing,
            )) => order.over = true,
            Reply::Refused(_) => {}
            _ => order.uncertain = true,
        }
        Ok(())
    }
}

impl Order {
    fn change(&self) -> MemberChange {
        let ids = |bits: u64| (1..=u64::from(u64::BITS)).filter(move |id| bits & 1 << (id - 1) != 0);
        let new = |id: u64| NewMember {
            id,
            peer_urls: vec![format!("http://n{id}:2380")],
            learner: self.learn & 1 << (id - 1) != 0,
        };
        MemberChange {
            add: ids(self.come | self.learn).map(new).collect(),
            remove: ids(self.go).collect(),
            promote: ids(self.vote).collect(),
            version: self.version,
        }
    }
}

/// One of these bits, by chance.
fn one_of(bits: u64, dice: &mut Rng) -> Option<u64> {
    let set = (0..u64::BITS).map(|bit| 1 << bit).filter(|bit| bits & bit != 0);
    set.clone().nth(dice.below(u64::from(bits.count_ones()).max(1)) as usize)
}

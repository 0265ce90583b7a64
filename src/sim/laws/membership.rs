//! What is promised of a changing membership, beside that its changes follow each other (`councils.rs`): whose idea a change
//! was, whether those that will vote can, by which configuration a member goes, and who may stand for election by it.

use super::{Law, Laws, Violation};
use crate::ids::MemberId;
use crate::node::RoleName;
use crate::node::events::Glance;
use crate::raft::quorum::Configuration;
use crate::sim::councils::Council;
use crate::time::Duration;

/// Election timeouts that a leader which votes no more may take to hand over, also if it is asked for that again meanwhile.
const RETIREMENT: u32 = 10;

impl Laws {
    /// An operator wants these to come, and those to go.
    pub(in crate::sim) fn wished(&mut self, come: u64, go: u64) {
        (self.wished.0, self.wished.1) = (self.wished.0 | come, self.wished.1 | go);
    }

    /// A leader begins a change from its newest configuration to this one.
    pub(super) fn begins(&self, node: usize, council: &Council, now: Glance) -> Result<(), Violation> {
        let log = &self.members[node].written;
        let (_, before) = self.councils.newest(log);
        let (old, new) = (before.incoming | before.learners, council.incoming | council.learners);
        let (come, go) = (new & !old & !self.wished.0, old & !new & !self.wished.1);
        self.demand(Law::Asked, come | go == 0, || {
            format!(
                "n{} begins {council:?} after {before:?}: nobody has asked for {come:b} to come, {go:b} to go",
                node + 1
            )
        })?;
        let there = self.bits(|other| council.incoming & 1 << other != 0 && self.hears(node, now.term, other));
        let simple = Council { outgoing: 0, ..*council };
        self.demand(Law::Able, simple.is_quorum(there), || {
            format!("n{} begins {council:?}, and has heard only {there:b}", node + 1)
        })?;
        let promoted = council.incoming & before.learners;
        let lacks = |other: usize| -> u64 {
            let has = self.members[other].durable.len().min(log.len());
            self.sizes[has..log.len()].iter().sum()
        };
        let behind = self.bits(|other| promoted & 1 << other != 0 && lacks(other) > self.append_max);
        self.demand(Law::Able, behind == 0, || {
            format!("n{} has {behind:b} vote, who lack more than an append holds of {} entries", node + 1, log.len())
        })
    }

    /// A member goes by this configuration.
    pub(in crate::sim) fn goes_by(
        &self,
        node: usize,
        configuration: &Configuration,
        now: Glance,
    ) -> Result<(), Violation> {
        let seen = &self.members[node];
        if seen.wiped || !self.written_to(node, now) {
            return Ok(());
        }
        let (own, (place, council)) = (Council::of(configuration), self.councils.newest(&seen.written));
        // Who joins does not know the founders.
        let is_told = place > 0 || self.first.members() & 1 << node != 0;
        self.demand(Law::Configured, !is_told || own == council, || {
            format!("n{} goes by {own:?}, and the newest in its log is {council:?} of entry {place}", node + 1)
        })
    }

    /// A member may have begun to stand for election in its turn.
    pub(in crate::sim) fn stands(&self, node: usize, now: Glance) -> Result<(), Violation> {
        let (seen, old) = (&self.members[node], self.members[node].glance);
        let begins = now.role != old.role && matches!(now.role, RoleName::PreCandidate | RoleName::Candidate);
        if !begins || seen.wiped || !self.written_to(node, now) {
            return Ok(());
        }
        let councils = self.counted_since(node, now.commit.0 as usize);
        let votes = |council: &Council| (council.incoming | council.outgoing) & 1 << node != 0;
        self.demand(Law::Standing, councils.iter().any(votes), || {
            format!("n{} stands for election, and is a voter of none of {councils:?}", node + 1)
        })
    }

    /// A leader has closed its turn: it may be no voter any more, and then has some election timeouts to hand over.
    pub(in crate::sim) fn retires(&mut self, node: usize, now: Glance) -> Result<(), Violation> {
        let seen = &self.members[node];
        let (place, council) = self.councils.newest(&seen.written);
        let counted = now.commit.0.checked_sub(1).and_then(|at| seen.written.get(at as usize));
        let is_over = now.role == RoleName::Leader
            && !seen.wiped
            && place <= now.commit.0
            && counted.is_some_and(|stamp| stamp.term == now.term.0)
            && (council.incoming | council.outgoing) & 1 << node == 0;
        let (timers, ear) = (&self.timers, &mut self.ears[node]);
        // Only as far as it had turns in that time: it may have stood still, or its clock may have jumped.
        let passed = ear.clock.since(ear.retiring.1).min(timers.heartbeat);
        let since = if is_over { ear.retiring.0 + passed } else { Duration::ZERO };
        ear.retiring = (since, ear.clock);
        self.demand(Law::Standing, since <= timers.election * RETIREMENT, || {
            format!("n{} leads on for {since:?}, and is a voter no more by {council:?} of entry {place}", node + 1)
        })
    }

    /// A leader tells somebody to stand for election.
    pub(super) fn appoints(&self, node: usize, to: MemberId) -> Result<(), Violation> {
        let councils = self.counted_since(node, self.ears[node].began);
        let votes = |council: &Council| council.incoming & 1 << (to.0 - 1) != 0;
        self.demand(Law::Standing, councils.iter().any(votes), || {
            format!("n{} has n{to} stand for election, which will vote in none of {councils:?}", node + 1)
        })
    }

    /// The newest configuration among the first `began` entries of a log, and all after it.
    pub(super) fn counted_since(&self, node: usize, began: usize) -> Vec<Council> {
        let log = &self.members[node].written;
        let (place, council) = self.councils.newest(&log[..began.min(log.len())]);
        let after = self.councils.after(log, place).into_iter().map(|(_, council)| council);
        std::iter::once(council).chain(after).collect()
    }
}

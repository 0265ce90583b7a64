//! From a plan that breaks a law to a small one that breaks the same law.
//!
//! Faults are taken out by halves, then one by one, everyday noise is switched off kind by kind, clients are sent home, and
//! the end is brought forward; whatever still breaks the same law stays. The smallest plan is printed as text, and can be kept
//! under `tests/scripts/sim/`, where it is run for ever after.
//!
//! It finds a small plan, not the smallest: runs are few and each one is short.

use super::laws::Law;
use super::plan::{Logs, Plan};
use super::{Options, run};
use crate::time::{Duration, Time};

/// Shrinks `plan`, which breaks `law`, with at most `runs` runs. `tell` hears how many faults are left.
pub fn shrink(plan: &Plan, law: Law, options: &Options, runs: u32, mut tell: impl FnMut(&Plan)) -> Plan {
    let mut shrinking = Shrinking {
        best: plan.clone(),
        law,
        options: Options { search: law == Law::Linearizable, ..options.clone() },
        left: runs,
    };
    loop {
        let before = shrinking.best.clone();
        shrinking.faults();
        tell(&shrinking.best);
        shrinking.settings();
        shrinking.end();
        tell(&shrinking.best);
        if shrinking.best == before || shrinking.left == 0 {
            return shrinking.best;
        }
    }
}

struct Shrinking {
    best: Plan,
    law: Law,
    options: Options,
    left: u32,
}

impl Shrinking {
    /// Keeps `plan` if it breaks the law; says whether it did.
    fn try_out(&mut self, plan: Plan) -> bool {
        if plan == self.best || self.left == 0 {
            return false;
        }
        self.left -= 1;
        let breaks = run(&plan, &self.options).violation.is_some_and(|violation| violation.law == self.law);
        if breaks {
            self.best = plan;
        }
        breaks
    }

    fn faults(&mut self) {
        let mut size = self.best.faults.len();
        while size > 0 {
            let mut at = 0;
            while at < self.best.faults.len() {
                let mut plan = self.best.clone();
                plan.faults.drain(at..(at + size).min(plan.faults.len()));
                if !self.try_out(plan) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    fn settings(&mut self) {
        let changes: [fn(&mut Plan); 19] = [
            |plan| plan.tiny = false,
            |plan| plan.noise.loss = 0,
            |plan| plan.noise.duplicate = 0,
            |plan| plan.noise.reorder = 0,
            |plan| plan.noise.replay = 0,
            |plan| plan.noise.flip = 0,
            |plan| plan.noise.drift_ppm = 0,
            |plan| plan.noise.turn_us = 0,
            |plan| plan.noise.delay_us = 100,
            |plan| plan.noise.disk_us = 100,
            |plan| plan.load.rest = Duration::ZERO,
            |plan| plan.load.clients = 1,
            |plan| plan.owners = 0,
            |plan| plan.log = Logs { every: 0, ..plan.log },
            |plan| plan.owners = plan.owners.min(1),
            |plan| plan.load.clients = plan.load.clients.div_ceil(2),
            |plan| plan.load.think_us = (plan.load.think_us * 4).min(1_000_000),
            |plan| {
                // As many places as the faults name; an operator finds fewer.
                let named = plan.faults.iter().flat_map(|planned| planned.members()).max();
                plan.spares = named.map_or(0, |node| (node + 1).saturating_sub(plan.nodes));
            },
            |plan| {
                if plan.faults.iter().all(|planned| planned.members().all(|node| node < 3)) && plan.nodes > 3 {
                    plan.nodes = 3;
                }
            },
        ];
        for change in changes {
            let mut plan = self.best.clone();
            change(&mut plan);
            self.try_out(plan);
        }
    }

    /// Brings the end forward, to just behind the violation if it happened before the end.
    fn end(&mut self) {
        let at = run(&self.best, &self.options).violation.map(|violation| violation.at);
        let lengths = at.map(|at| at.since(Time(0)) + Duration::from_millis(1)).into_iter();
        for length in lengths.chain([self.best.length / 2, self.best.length * 3 / 4]) {
            let mut plan = self.best.clone();
            plan.length = length.min(plan.length);
            plan.faults.retain(|planned| planned.at <= Time(0) + plan.length);
            self.try_out(plan);
        }
    }
}

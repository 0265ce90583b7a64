//! Histories of a store whose faults are known.
//!
//! Clients take turns at random: one asks, its operation takes effect, the answer comes. An operation of unknown outcome
//! takes effect sometime later or never. The store is the model; a fault is something that it does wrong, once, at a random
//! moment. Not every fault leaves a trace that a client can see.

use super::*;
use crate::check::model::{Model, Scope};
use crate::rng::{Rng, Seed};

/// What the store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A linearizable read is answered from an old state.
    StaleRead,
    /// A write is acknowledged, gets its revision, and is not there.
    LostWrite,
    /// A write is done once more, later.
    AppliedTwice,
    /// A write is done and refused.
    RefusedApplied,
    /// A key changes that nobody wrote.
    Phantom,
    /// The revision moves and nothing changes.
    EmptyRevision,
    /// A transaction takes the other branch.
    WrongBranch,
    /// Of a transaction's writes only the first is done.
    TornTxn,
    /// Two acknowledged writes have each other's revisions.
    SwappedRevisions,
    /// A write that was read had not been asked for yet.
    FromTheFuture,
    /// A pair's version counts one too many.
    WrongVersion,
    /// A range lacks one of its keys.
    MissingKey,
    /// A read shows an old value under the newest revision.
    OldValue,
    /// A delete is acknowledged and the key stays.
    LostDelete,
}

pub const FAULTS: [Fault; 14] = [
    Fault::StaleRead,
    Fault::LostWrite,
    Fault::AppliedTwice,
    Fault::RefusedApplied,
    Fault::Phantom,
    Fault::EmptyRevision,
    Fault::WrongBranch,
    Fault::TornTxn,
    Fault::SwappedRevisions,
    Fault::FromTheFuture,
    Fault::WrongVersion,
    Fault::MissingKey,
    Fault::OldValue,
    Fault::LostDelete,
];

/// What a history is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub operations: usize,
    pub clients: usize,
    pub keys: u64,
    /// In a hundred.
    pub unknown: u64,
    pub serializable: bool,
    pub old_revisions: bool,
    pub compares_of_revisions: bool,
    /// Others write too.
    pub shared: bool,
    /// Ends with a read of everything.
    pub final_read: bool,
}

impl Shape {
    pub fn random(rng: &mut Rng) -> Shape {
        Shape {
            operations: 3 + rng.below(40) as usize,
            clients: 1 + rng.below(6) as usize,
            keys: 1 + rng.below(4),
            unknown: [0, 5, 25][rng.below(3) as usize],
            serializable: rng.below(2) == 0,
            old_revisions: rng.below(2) == 0,
            compares_of_revisions: rng.below(2) == 0,
            shared: false,
            final_read: rng.below(4) > 0,
        }
    }
}

/// An operation on its way.
struct Pending {
    client: u64,
    invoked: u64,
    call: Call,
    /// None: it has not taken effect.
    outcome: Option<Outcome>,
    /// Its client has given up; nobody will see an answer.
    abandoned: bool,
}

struct World<'a> {
    rng: &'a mut Rng,
    shape: Shape,
    model: Model,
    /// By revision, from the first on.
    past: Vec<Model>,
    now: u64,
    values: u64,
    fault: Option<Fault>,
    /// The fault strikes when this many operations have taken effect, or as soon after as it can.
    strikes_at: u64,
    effects: u64,
    history: Vec<Operation>,
    again: Vec<Call>,
}

/// A history, with one fault if there is to be one.
pub fn history(seed: u64, shape: Shape, fault: Option<Fault>) -> Vec<Operation> {
    let mut rng = Rng::new(Seed(seed ^ 0x006a_7564_6765));
    let strikes_at = rng.below(shape.operations as u64 * 2 / 3 + 1);
    let model = Model::new(Scope::Past);
    let mut world = World {
        past: vec![model.clone()],
        rng: &mut rng,
        shape,
        model,
        now: 0,
        values: 0,
        fault,
        strikes_at,
        effects: 0,
        history: Vec::new(),
        again: Vec::new(),
    };
    world.run();
    let mut history = world.history;
    if let Some(fault @ (Fault::SwappedRevisions | Fault::FromTheFuture)) = fault {
        falsify(&mut rng, &mut history, fault);
    }
    history
}

impl World<'_> {
    fn run(&mut self) {
        let mut pending: Vec<Pending> = Vec::new();
        let mut asked = 0;
        let mut clients = self.shape.clients as u64;
        let mut idle: Vec<u64> = (0..clients).collect();
        while asked < self.shape.operations || pending.iter().any(|pending| !pending.abandoned) {
            self.now += 1 + self.rng.below(3);
            if self.shape.shared && self.rng.below(4) == 0 {
                self.commit(&put("zzz", "not ours"));
            }
            if self.rng.below(3) == 0 && !self.again.is_empty() {
                let call = self.again.remove(0);
                self.commit(&call);
            }
            if asked < self.shape.operations && !idle.is_empty() && (pending.is_empty() || self.rng.below(3) == 0) {
                let client = idle.swap_remove(self.rng.below(idle.len() as u64) as usize);
                let call = self.call();
                asked += 1;
                pending.push(Pending { client, invoked: self.now, call, outcome: None, abandoned: false });
                continue;
            }
            if pending.is_empty() {
                continue;
            }
            let at = self.rng.below(pending.len() as u64) as usize;
            if pending[at].outcome.is_none() && self.rng.below(100) >= self.shape.unknown {
                let call = pending[at].call.clone();
                pending[at].outcome = Some(self.effect(&call));
            } else if !pending[at].abandoned {
                let Pending { client, invoked, call, outcome, .. } = &pending[at];
                let lost = outcome.is_none() || self.rng.below(100) < self.shape.unknown;
                let outcome = if lost { unknown() } else { outcome.clone().unwrap_or_else(unknown) };
                let (call, invoked) = (call.clone(), *invoked);
                self.history.push(Operation { client: *client, invoked, returned: self.now, call, outcome });
                idle.push(if lost { clients } else { *client });
                clients += u64::from(lost);
                if lost && pending[at].outcome.is_none() && self.rng.below(2) == 0 {
                    pending[at].abandoned = true;
                } else {
                    pending.swap_remove(at);
                }
            } else {
                pending.swap_remove(at);
            }
        }
        if self.shape.final_read {
            let outcome = self.effect(&get_all());
            let (invoked, returned) = (self.now + 1, self.now + 2);
            self.history.push(Operation { client: clients, invoked, returned, call: get_all(), outcome });
        }
        self.history.sort_by_key(|operation| operation.invoked);
    }

    fn commit(&mut self, call: &Call) -> Outcome {
        let Some(applied) = self.model.apply(call) else { return refused() };
        if applied.changes() {
            self.past.push(self.model.clone());
        }
        done(applied.revision, applied.reply)
    }

    fn strikes(&mut self, fault: Fault) -> bool {
        let strikes = self.fault == Some(fault) && self.effects >= self.strikes_at;
        if strikes {
            self.fault = None;
        }
        strikes
    }

    /// An operation takes effect, or what the fault makes of it.
    fn effect(&mut self, call: &Call) -> Outcome {
        self.effects += 1;
        let is_write = matches!(call, Call::Put { .. });
        if let Call::Get { serializable: true, revision: 0, .. } = call {
            let back = self.rng.below(3).min(self.past.len() as u64 - 1) as usize;
            let mut old = self.past[self.past.len() - 1 - back].clone();
            return old.apply(call).map_or_else(refused, |applied| done(applied.revision, applied.reply));
        }
        if matches!(call, Call::Get { revision: 0, .. }) && self.past.len() > 2 && self.strikes(Fault::StaleRead) {
            let mut old = self.past[self.past.len() - 3].clone();
            return old.apply(call).map_or_else(refused, |applied| done(applied.revision, applied.reply));
        }
        if matches!(call, Call::Get { revision: 0, .. }) && self.past.len() > 2 && self.strikes(Fault::OldValue) {
            let mut old = self.past[self.past.len() - 3].clone();
            let reply = old.apply(call).map(|applied| applied.reply);
            return reply.map_or_else(refused, |reply| done(self.past.len() as i64, reply));
        }
        if is_write && self.strikes(Fault::LostWrite) {
            self.commit(&put("zz", "nobody's"));
            return done(self.past.len() as i64, Reply::Put);
        }
        if matches!(call, Call::Delete { end: None, .. }) && self.strikes(Fault::LostDelete) {
            self.commit(&put("zz", "nobody's"));
            return done(self.past.len() as i64, Reply::Deleted(1));
        }
        if is_write && self.strikes(Fault::AppliedTwice) {
            self.again.push(call.clone());
        }
        if is_write && self.strikes(Fault::RefusedApplied) {
            self.commit(call);
            return refused();
        }
        if self.strikes(Fault::Phantom) {
            self.commit(&put("a", "nobody's"));
        }
        if self.strikes(Fault::EmptyRevision) {
            self.commit(&put("zz", "nobody's"));
        }
        match call {
            Call::Txn { then, otherwise, .. } if then != otherwise && self.strikes(Fault::WrongBranch) => {
                return self.wrong_branch(call, then, otherwise);
            }
            Call::Txn { compare, then, otherwise } if then.len() > 1 && self.strikes(Fault::TornTxn) => {
                let reply = self.model.clone().apply(call).map(|applied| applied.reply);
                let torn = txn(compare.clone(), then[..1].to_vec(), otherwise.clone());
                let Outcome::Done { revision, .. } = self.commit(&torn) else { return refused() };
                return reply.map_or_else(refused, |reply| done(revision, reply));
            }
            _ => {}
        }
        let outcome = self.commit(call);
        match outcome {
            Outcome::Done { revision, reply: Reply::Got(mut pairs) } if !pairs.is_empty() => {
                if self.strikes(Fault::WrongVersion) {
                    pairs[0].version += 1;
                } else if self.strikes(Fault::MissingKey) {
                    pairs.remove(0);
                }
                done(revision, Reply::Got(pairs))
            }
            outcome => outcome,
        }
    }

    fn wrong_branch(&mut self, call: &Call, then: &[Call], otherwise: &[Call]) -> Outcome {
        let held = match self.model.clone().apply(call).map(|applied| applied.reply) {
            Some(Reply::Txn(held, _)) => held,
            _ => return refused(),
        };
        let branch = if held { otherwise } else { then };
        match self.commit(&txn(vec![], branch.to_vec(), vec![])) {
            Outcome::Done { revision, reply: Reply::Txn(_, replies) } => done(revision, Reply::Txn(!held, replies)),
            other => other,
        }
    }

    fn key(&mut self) -> String {
        ["a", "b", "c", "d"][self.rng.below(self.shape.keys) as usize].to_owned()
    }

    fn new_value(&mut self) -> String {
        self.values += 1;
        format!("v{}", self.values)
    }

    fn read(&mut self) -> Call {
        let serializable = self.shape.serializable && self.rng.below(4) == 0;
        let old = self.shape.old_revisions && self.rng.below(6) == 0;
        let revision = if old { 1 + self.rng.below(self.past.len() as u64) as i64 } else { 0 };
        let end = (self.rng.below(4) == 0).then(|| "c".to_owned());
        Call::Get { key: self.key(), end, revision, serializable: serializable && !old }
    }

    fn call(&mut self) -> Call {
        match self.rng.below(10) {
            0..=3 => Call::Put { key: self.key(), value: self.new_value() },
            4..=6 => self.read(),
            7 => {
                let end = (self.rng.below(3) == 0).then(|| "c".to_owned());
                Call::Delete { key: self.key(), end }
            }
            _ => {
                let compare = (0..self.rng.below(3)).map(|_| self.compare()).collect();
                let (then, otherwise) = (self.branch(true), self.branch(true));
                Call::Txn { compare, then, otherwise }
            }
        }
    }

    fn compare(&mut self) -> Compare {
        let relation =
            [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater][self.rng.below(4) as usize];
        let newest = self.past.len() as u64;
        let target = match self.rng.below(if self.shape.compares_of_revisions { 4 } else { 2 }) {
            0 => Target::Value(format!("v{}", self.rng.below(self.values + 1))),
            1 => Target::Version(self.rng.below(3) as i64),
            2 => Target::ModRevision(self.rng.below(newest + 1) as i64),
            _ => Target::CreateRevision(self.rng.below(newest + 1) as i64),
        };
        Compare { key: self.key(), target, relation }
    }

    /// Keys are written once in a branch, as a store demands.
    fn branch(&mut self, nested: bool) -> Vec<Call> {
        let mut keys: Vec<&str> = ["a", "b", "c", "d"][..self.shape.keys as usize].to_vec();
        let mut calls = Vec::new();
        for _ in 0..self.rng.below(4) {
            if keys.is_empty() {
                break;
            }
            let key = keys.swap_remove(self.rng.below(keys.len() as u64) as usize);
            calls.push(match self.rng.below(6) {
                0..=2 => Call::Put { key: key.to_owned(), value: self.new_value() },
                3 => delete(key),
                4 if nested && calls.is_empty() => {
                    keys.clear();
                    let compare = vec![self.compare()];
                    Call::Txn { compare, then: self.branch(false), otherwise: self.branch(false) }
                }
                _ => self.read(),
            });
        }
        calls
    }
}

/// Falsifies what was noted, instead of what was done.
fn falsify(rng: &mut Rng, history: &mut [Operation], fault: Fault) {
    let writes: Vec<(usize, i64)> = history
        .iter()
        .enumerate()
        .filter_map(|(place, operation)| match &operation.outcome {
            Outcome::Done { revision, reply } if changed(reply) => Some((place, *revision)),
            _ => None,
        })
        .collect();
    if writes.len() < 2 {
        return;
    }
    let at = rng.below(writes.len() as u64 - 1) as usize;
    let ((one, first), (other, second)) = (writes[at], writes[at + 1]);
    if fault == Fault::SwappedRevisions {
        for (place, new) in [(one, second), (other, first)] {
            if let Outcome::Done { revision, .. } = &mut history[place].outcome {
                *revision = new;
            }
        }
        return;
    }
    let shown = history.iter().filter(|o| matches!(o.outcome, Outcome::Done { revision, .. } if revision > first));
    if let Some(later) = shown.map(|operation| operation.returned).min() {
        history[one].invoked = history[one].invoked.max(later + 1);
        history[one].returned = history[one].returned.max(later + 2);
    }
}

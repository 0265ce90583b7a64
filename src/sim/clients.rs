//! The clients: they ask, wait, lose patience, and remember what they saw.
//!
//! A client has one request open at most, at a member that it picks by chance. What it saw becomes the history that the
//! judge reads; where requests have no contents (the bare core) only the laws about answers are kept here: each request is
//! answered once, and a linearizable read sees what was committed when it was asked.

use super::host::Host;
use super::laws::{Law, Laws, Violation};
use super::plan::{Load, Plan};
use super::workload::{Workload, everything};
use crate::check::history::{Call, Operation, Outcome, Reply as Answer};
use crate::ids::Index;
use crate::machine;
use crate::node::{Reply, Request, Slot};
use crate::rng::{Rng, Seed};
use crate::time::{Duration, Time};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
struct Client {
    number: u64,
    open: Option<Open>,
    /// When it acts next.
    timer: Time,
}

#[derive(Debug)]
struct Open {
    slot: Slot,
    node: usize,
    call: Call,
    invoked: Time,
    /// How much was committed then.
    committed: usize,
}

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Clients {
    rng: Rng,
    load: Load,
    patience: Duration,
    workload: Workload,
    clients: Vec<Client>,
    numbers: u64,
    slots: u64,
    /// Who owes an answer: by slot, which member.
    due: Vec<(Slot, usize)>,
    cancelled: BTreeSet<u64>,
    history: Vec<Operation>,
    /// Compactions that were asked for and not refused, by slot: at which revision.
    marks: BTreeMap<u64, i64>,
    answers: u64,
    /// They ask no more.
    quiet: bool,
}

/// What a client does.
pub(super) struct Act {
    /// When it acts again, at the latest.
    pub again: Time,
    /// It gives this one up.
    pub gives_up: Option<(usize, Slot)>,
    /// It asks a member; `None`: for what the member may answer from what it has.
    pub asks: Option<(usize, Slot, Option<Request>)>,
}

impl Clients {
    pub(super) fn new(plan: &Plan, seed: Seed) -> Clients {
        let client = |number: usize| Client { number: number as u64, open: None, timer: Clients::first(number) };
        Clients {
            rng: Rng::new(seed),
            load: plan.load.clone(),
            patience: plan.timers.election,
            workload: Workload::new(plan.history, plan.fierce),
            clients: (0..plan.load.clients).map(client).collect(),
            numbers: plan.load.clients as u64,
            slots: 0,
            due: Vec::new(),
            cancelled: BTreeSet::new(),
            history: Vec::new(),
            marks: BTreeMap::new(),
            answers: 0,
            quiet: false,
        }
    }

    /// When a client first acts.
    pub(super) fn first(client: usize) -> Time {
        Time(1_000_000 * (1 + client as u64))
    }

    /// What was seen.
    pub(super) fn history(&self) -> &[Operation] {
        &self.history
    }

    /// How many requests were carried out.
    pub(super) fn answers(&self) -> u64 {
        self.answers
    }

    /// The revisions that somebody may have compacted at.
    pub(super) fn marks(&self) -> impl Iterator<Item = i64> {
        self.marks.values().copied()
    }

    /// A member has compacted by itself: to the judge, somebody asked for it and never heard of it.
    pub(super) fn compacted(&mut self, now: Time, revision: i64) {
        self.note(now, Call::Compact { revision });
        let slot = self.slot();
        self.marks.insert(slot.0, revision);
    }

    /// Who owes answers, of these members.
    pub(super) fn owed(&self, core: u64) -> usize {
        self.due.iter().filter(|(_, node)| core & (1 << node) != 0).count()
    }

    /// Nobody asks any more.
    pub(super) fn be_quiet(&mut self) {
        self.quiet = true;
    }

    /// A slot that nobody has had.
    pub(super) fn slot(&mut self) -> Slot {
        self.slots += 1;
        Slot(self.slots)
    }

    /// A slot for a request that no client waits for.
    pub(super) fn admin(&mut self, node: usize) -> Slot {
        let slot = self.slot();
        self.due.push((slot, node));
        slot
    }

    /// The request has reached its member: it owes an answer.
    pub(super) fn delivered(&mut self, node: usize, slot: Slot) {
        self.due.push((slot, node));
    }

    fn think(&mut self, now: Time) -> Time {
        let mut at = now + Duration::from_micros(1 + self.rng.below(self.load.think_us * 2));
        let rest = self.load.rest.as_nanos() as u64;
        if rest > 0 && (at.0 / rest) % 2 == 1 {
            at = Time((at.0 / rest + 1) * rest);
        }
        at
    }

    /// The moment of `client` has come; `None` if it has not. `known` are the members, and whether each of them runs.
    pub(super) fn act<H: Host>(
        &mut self,
        client: usize,
        now: Time,
        known: &[(usize, bool)],
        committed: usize,
    ) -> Option<Act> {
        if self.clients[client].timer != now {
            return None;
        }
        let mut act = Act { again: self.think(now), gives_up: None, asks: None };
        if let Some(open) = self.clients[client].open.take() {
            // Some go away without a word, and are still owed an answer.
            if !open.slot.0.is_multiple_of(3) {
                act.gives_up = Some((open.node, open.slot));
                self.due.retain(|(slot, _)| *slot != open.slot);
                self.cancelled.insert(open.slot.0);
            }
            self.record::<H>(client, open, now, Outcome::Unknown("no answer in time".into()));
        } else if !self.quiet {
            let (node, up) = known[self.rng.below(known.len() as u64) as usize];
            let call = self.workload.next(&mut self.rng);
            if up {
                act.asks = Some(self.ask::<H>(client, node, call, now, committed));
                act.again = now + self.patience / 2 + self.rng.duration(Duration::ZERO, self.patience * 4);
            }
        }
        self.clients[client].timer = act.again;
        Some(act)
    }

    /// `client` asks `node`.
    fn ask<H: Host>(
        &mut self,
        client: usize,
        node: usize,
        call: Call,
        now: Time,
        committed: usize,
    ) -> (usize, Slot, Option<Request>) {
        let slot = self.slot();
        let request = match (&call, H::command(&call, slot.0)) {
            (_, Some((command, grows))) => Some(Request::Propose { command, grows }),
            (Call::Get { serializable: true, .. }, None) => None,
            (_, None) => Some(Request::Read),
        };
        if let Call::Compact { revision } = call {
            self.marks.insert(slot.0, revision);
        }
        self.clients[client].open = Some(Open { slot, node, call, invoked: now, committed });
        (node, slot, request)
    }

    /// A client of its own asks `node` for this; gives its number.
    pub(super) fn probe<H: Host>(
        &mut self,
        node: usize,
        write: bool,
        now: Time,
        committed: usize,
    ) -> (usize, Slot, Option<Request>) {
        self.numbers += 1;
        self.clients.push(Client { number: self.numbers, open: None, timer: Time::NEVER });
        let number = self.numbers;
        let call = match write {
            true => Call::Put { key: "k".into(), value: format!("probe {number}") },
            false => everything(false),
        };
        self.ask::<H>(self.clients.len() - 1, node, call, now, committed)
    }

    /// Something was asked for by somebody else, and nobody knows more yet. Gives its place in the history.
    pub(super) fn note(&mut self, now: Time, call: Call) -> usize {
        self.numbers += 1;
        let outcome = Outcome::Unknown("no answer yet".into());
        self.history.push(Operation { client: self.numbers, invoked: now.0, returned: now.0, call, outcome });
        self.history.len() - 1
    }

    /// More is known of it.
    pub(super) fn learn(&mut self, place: usize, now: Time, outcome: Outcome) {
        (self.history[place].returned, self.history[place].outcome) = (now.0, outcome);
    }

    fn record<H: Host>(&mut self, client: usize, open: Open, now: Time, outcome: Outcome) {
        let unknown = matches!(outcome, Outcome::Unknown(_));
        match &outcome {
            Outcome::Done { revision, .. } => self.workload.shown(*revision),
            Outcome::Refused(_) | Outcome::Compacted => drop(self.marks.remove(&open.slot.0)),
            Outcome::Unknown(_) => {}
        }
        if H::HAS_CONTENTS {
            let client = self.clients[client].number;
            let (invoked, returned) = (open.invoked.0, now.0);
            self.history.push(Operation { client, invoked, returned, call: open.call, outcome });
        }
        if unknown {
            // What it asked for may still happen: who goes on is somebody else.
            self.numbers += 1;
            self.clients[client].number = self.numbers;
        }
    }

    /// The member is gone, and all connections to it: nobody owes anything.
    pub(super) fn orphan<H: Host>(&mut self, node: usize, now: Time) {
        self.due.retain(|(_, at)| *at != node);
        for client in 0..self.clients.len() {
            if let Some(open) = self.clients[client].open.take_if(|open| open.node == node) {
                self.record::<H>(client, open, now, Outcome::Unknown("the connection broke".into()));
            }
        }
    }

    /// A member answers from what it has, at once. Gives the client that goes on, and when.
    pub(super) fn saw<H: Host>(
        &mut self,
        slot: Slot,
        now: Time,
        host: &H,
        laws: &Laws,
    ) -> Result<Option<(usize, Time)>, Violation> {
        let Some((client, open)) = self.take(slot) else { return Ok(None) };
        let outcome = Clients::looked(host, &open.call, laws)?;
        Ok(self.conclude::<H>(client, open, now, outcome))
    }

    fn take(&mut self, slot: Slot) -> Option<(usize, Open)> {
        let client = self.who(slot)?;
        Some((client, self.clients[client].open.take()?))
    }

    /// The client has its answer, and goes on.
    fn conclude<H: Host>(&mut self, client: usize, open: Open, now: Time, outcome: Outcome) -> Option<(usize, Time)> {
        self.answers += u64::from(matches!(outcome, Outcome::Done { .. }));
        self.record::<H>(client, open, now, outcome);
        if self.clients[client].timer == Time::NEVER {
            return None;
        }
        let at = self.think(now);
        self.clients[client].timer = at;
        Some((client, at))
    }

    fn who(&self, slot: Slot) -> Option<usize> {
        self.clients.iter().position(|client| client.open.as_ref().is_some_and(|open| open.slot == slot))
    }

    fn looked<H: Host>(host: &H, call: &Call, laws: &Laws) -> Result<Outcome, Violation> {
        match host.look(call) {
            Ok((revision, reply)) => Ok(Outcome::Done { revision, reply }),
            Err(machine::Error::Compacted { .. }) => Ok(Outcome::Compacted),
            Err(machine::Error::FutureRevision) if is_ahead(host, call) => Ok(Outcome::Refused("too new".into())),
            Err(error) => {
                laws.broken(Law::Assertion, || format!("a read of what is applied fails: {error:?}"))?;
                Ok(Outcome::Unknown(format!("{error:?}")))
            }
        }
    }

    /// A member answers. Gives the client that goes on, and when.
    pub(super) fn answered<H: Host>(
        &mut self,
        (node, host): (usize, &H),
        slot: Slot,
        reply: Reply,
        (now, applied): (Time, Index),
        laws: &Laws,
    ) -> Result<Option<(usize, Time)>, Violation> {
        let due = self.due.iter().position(|owed| *owed == (slot, node));
        match due {
            Some(at) => drop(self.due.swap_remove(at)),
            None if self.cancelled.contains(&slot.0) => return Ok(None),
            None => laws.broken(Law::AnsweredOnce, || {
                format!("n{} answers {} again, or unasked: {reply:?}", node + 1, slot.0)
            })?,
        }
        let Some((client, open)) = self.take(slot) else { return Ok(None) };
        let outcome = match reply {
            Reply::Applied { outcome: Ok(response), .. } => done(response),
            Reply::Applied { outcome: Err(machine::Error::Compacted { .. }), .. } => Outcome::Compacted,
            Reply::Applied { outcome: Err(error), .. } => Outcome::Refused(format!("{error:?}")),
            Reply::Readable { .. } => {
                if (applied.0 as usize) < open.committed {
                    laws.broken(Law::FreshRead, || {
                        format!(
                            "n{} serves a read at {applied}; {} was committed when it was asked",
                            node + 1,
                            open.committed
                        )
                    })?;
                }
                Clients::looked(host, &open.call, laws)?
            }
            Reply::Transferred | Reply::Lease(_) | Reply::Changed { .. } => {
                laws.broken(Law::AnsweredOnce, || format!("n{} answers another question than {}", node + 1, slot.0))?;
                Outcome::Unknown("an answer to another question".into())
            }
            Reply::Refused(reason) => Outcome::Refused(format!("{reason:?}")),
            Reply::Uncertain(reason) => Outcome::Unknown(format!("{reason:?}")),
        };
        Ok(self.conclude::<H>(client, open, now, outcome))
    }

    /// Whether the asker of this still waits.
    pub(super) fn is_open(&self, slot: Slot) -> bool {
        self.who(slot).is_some()
    }
}

/// Whether the call reads a revision that the member does not have yet.
fn is_ahead<H: Host>(host: &H, call: &Call) -> bool {
    let revision = host.view().map_or(0, |view| view.revision().0);
    matches!(call, Call::Get { revision: asked, .. } if *asked > revision)
}

fn done(response: machine::Response) -> Outcome {
    let (revision, reply): (i64, Answer) = super::workload::answer(response);
    Outcome::Done { revision, reply }
}

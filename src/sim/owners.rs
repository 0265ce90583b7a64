//! Owners of leases: they are granted one, hang a key on it, keep it alive through whichever member, and at last leave it or
//! give it back.
//!
//! What a member tells an owner is a promise: from when the owner *asked* (the answer may have been long on its way), the
//! lease is there for its time to live, by any clock that is no worse than the plan's clocks. Every state that any member
//! reaches is held to all promises; and when nobody keeps anything alive any more, a healed majority must end every lease and
//! delete its keys (`ending.rs`).
//!
//! The judge knows no leases. To it, the end of one is a delete of its key that somebody asked for together with the put and
//! of which nobody ever heard: it may take effect once, at any time, or never.

use super::clients::Clients;
use super::host::Host;
use super::laws::{Law, Laws, Violation};
use super::plan::Plan;
use crate::check::history::{Call, Outcome, Reply as Answer};
use crate::machine;
use crate::node::{Reply, Request, Slot};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate as own;
use crate::rng::{Rng, Seed};
use crate::time::{Duration, Time};
use own::command::Op;
use prost::Message as _;

/// Times to live, in seconds: some that are never written down, and some that are.
const TTLS: [i64; 6] = [1, 2, 3, 5, 8, 12];

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Owners {
    rng: Rng,
    owners: Vec<Owner>,
    leases: Vec<Lease>,
    patience: Duration,
    drift_ppm: u64,
    /// By how much clocks have jumped, all together.
    jumped: Duration,
    quiet: bool,
}

#[derive(Debug)]
struct Owner {
    timer: Time,
    /// Which of the leases it has, and until when it wants it.
    lease: Option<(usize, Time)>,
    /// Between keepalives.
    pace: Duration,
    open: Option<Open>,
}

/// What an owner has asked for.
#[derive(Debug)]
struct Open {
    slot: Slot,
    lease: usize,
    what: What,
    sent: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Grant,
    /// The put of its key, by its place in the history.
    Put(usize),
    KeepAlive,
    TimeToLive,
    GiveBack,
}

/// A moment, and how much clocks had jumped by then.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Time,
    jumped: Duration,
}

#[derive(Debug)]
struct Lease {
    id: i64,
    ttl: i64,
    /// When that was asked for which was answered with all of its time.
    promised: Option<Moment>,
    given_back: bool,
    /// A bit per member that has it, as far as was seen.
    seen: u64,
}

/// What an owner does.
pub(super) struct Act {
    /// When it acts again, at the latest.
    pub again: Time,
    /// What it asks, and whom.
    pub asks: Option<(usize, Slot, Request)>,
}

fn propose(op: Op, grows: bool) -> Request {
    Request::Propose { command: own::Command { op: Some(op) }.encode_to_vec().into(), grows }
}

impl Owners {
    pub(super) fn new(plan: &Plan, seed: Seed) -> Owners {
        let owner =
            |number: usize| Owner { timer: Owners::first(number), lease: None, pace: Duration::ZERO, open: None };
        Owners {
            rng: Rng::new(seed),
            owners: (0..plan.owners).map(owner).collect(),
            leases: Vec::new(),
            patience: plan.timers.election * 2,
            drift_ppm: plan.noise.drift_ppm,
            jumped: Duration::ZERO,
            quiet: false,
        }
    }

    /// When an owner first acts.
    pub(super) fn first(owner: usize) -> Time {
        Time(500_000_000 + 1_500_000 * owner as u64)
    }

    /// A clock has jumped ahead.
    pub(super) fn jumped(&mut self, span: Duration) {
        self.jumped += span;
    }

    /// Nobody keeps anything alive any more.
    pub(super) fn be_quiet(&mut self) {
        self.quiet = true;
    }

    /// So long lives the longest lease that was granted.
    pub(super) fn longest(&self) -> Duration {
        let longest = self.leases.iter().map(|lease| lease.ttl).max().unwrap_or(0);
        Duration::from_secs(u64::try_from(longest).unwrap_or(0))
    }

    /// The moment of an owner has come; `None` if it has not. `known` are the members, and whether each of them runs.
    pub(super) fn act(
        &mut self,
        owner: usize,
        now: Time,
        known: &[(usize, bool)],
        clients: &mut Clients,
    ) -> Option<Act> {
        if self.owners[owner].timer != now {
            return None;
        }
        let given_up = self.owners[owner].open.take();
        if given_up.is_some_and(|open| matches!(open.what, What::Grant | What::GiveBack)) {
            self.owners[owner].lease = None;
        }
        if self.quiet {
            return Some(Act { again: Time::NEVER, asks: None });
        }
        let (node, up) = known[self.rng.below(known.len() as u64) as usize];
        let asks = match self.owners[owner].lease {
            _ if !up => None,
            None => Some(self.grant(owner)),
            Some((_, until)) if now >= until && self.rng.below(3) != 0 => {
                self.owners[owner].lease = None; // it goes away without a word
                None
            }
            Some((lease, until)) if now >= until => {
                self.leases[lease].given_back = true;
                let id = self.leases[lease].id;
                Some((
                    lease,
                    What::GiveBack,
                    propose(Op::RevokeLease(own::RevokeLease { id, term: 0, known: 0 }), false),
                ))
            }
            Some((lease, _)) if self.rng.below(8) == 0 => Some(self.put(lease, now, clients)),
            Some((lease, _)) => {
                let id = self.leases[lease].id;
                Some(match self.rng.below(8) {
                    0 => (lease, What::TimeToLive, Request::TimeToLive { lease: id }),
                    _ => (lease, What::KeepAlive, Request::KeepAlive { lease: id }),
                })
            }
        };
        let again = match asks {
            Some(_) => now + self.patience,
            None => now + Duration::from_micros(1 + self.rng.below(200_000)),
        };
        self.owners[owner].timer = again;
        let sent = Moment { at: now, jumped: self.jumped };
        let asks = asks.map(|(lease, what, request)| {
            let slot = clients.slot();
            self.owners[owner].open = Some(Open { slot, lease, what, sent });
            (node, slot, request)
        });
        Some(Act { again, asks })
    }

    fn grant(&mut self, owner: usize) -> (usize, What, Request) {
        let ttl = TTLS[self.rng.below(TTLS.len() as u64) as usize];
        let id = 1 + self.leases.len() as i64;
        self.leases.push(Lease { id, ttl, promised: None, given_back: false, seen: 0 });
        let whole = Duration::from_secs(ttl.unsigned_abs());
        // Some in good time; some late, when what is left was written down; some when a revoke may be on its way.
        self.owners[owner].pace = [whole / 5, whole / 3, whole * 3 / 4, whole][self.rng.below(4) as usize];
        (self.leases.len() - 1, What::Grant, propose(Op::GrantLease(own::GrantLease { id, ttl }), true))
    }

    fn put(&mut self, lease: usize, now: Time, clients: &mut Clients) -> (usize, What, Request) {
        let id = self.leases[lease].id;
        let (key, value) = (format!("kl{id}"), format!("lease {id} {}", now.0));
        clients.note(now, Call::Delete { key: key.clone(), end: None });
        let place = clients.note(now, Call::Put { key: key.clone(), value: value.clone() });
        let put = pb::PutRequest { key: key.into(), value: value.into(), lease: id, ..Default::default() };
        (lease, What::Put(place), propose(Op::Put(put), true))
    }

    /// A member answers; `Ok(None)` if it was nobody here whom it answers. Gives the owner that goes on, and when.
    pub(super) fn answered(
        &mut self,
        slot: Slot,
        reply: &Reply,
        now: Time,
        clients: &mut Clients,
        laws: &Laws,
    ) -> Result<Option<(usize, Time)>, Violation> {
        let asked = |owner: &Owner| owner.open.as_ref().is_some_and(|open| open.slot == slot);
        let Some(owner) = self.owners.iter().position(asked) else { return Ok(None) };
        let Some(Open { lease, what, sent, .. }) = self.owners[owner].open.take() else { return Ok(None) };
        let applied = match reply {
            Reply::Applied { outcome: Ok(response), .. } => Some(response),
            _ => None,
        };
        let gone = match reply {
            Reply::Applied { outcome: Err(machine::Error::LeaseNotFound), .. } => what != What::GiveBack,
            Reply::Lease(time) => time.is_none(),
            _ => false,
        };
        if gone {
            self.is_over(lease, now, laws, "says that it is gone")?;
            self.owners[owner].lease = None;
        }
        let mut pace = self.owners[owner].pace;
        match what {
            What::Grant if applied.is_some() => {
                self.leases[lease].promised = Some(sent);
                let wanted = self.longest_of(lease) * u32::try_from(1 + self.rng.below(4)).unwrap_or(1);
                self.owners[owner].lease = Some((lease, now + wanted));
                pace = Duration::from_millis(1);
            }
            What::GiveBack if applied.is_some() => self.owners[owner].lease = None,
            What::KeepAlive if !gone && matches!(reply, Reply::Lease(_)) => self.leases[lease].promised = Some(sent),
            What::Put(place) => match (applied, reply) {
                (Some(response), _) => {
                    let revision = super::workload::answer(response.clone()).0;
                    clients.learn(place, now, Outcome::Done { revision, reply: Answer::Put });
                }
                (None, Reply::Applied { .. } | Reply::Refused(_)) => {
                    clients.learn(place, now, Outcome::Refused(format!("{reply:?}")));
                }
                _ => {}
            },
            What::Grant | What::GiveBack | What::KeepAlive | What::TimeToLive => {}
        }
        let at = (now + pace).max(Time(now.0 + 1));
        self.owners[owner].timer = at;
        Ok(Some((owner, at)))
    }

    fn longest_of(&self, lease: usize) -> Duration {
        Duration::from_secs(self.leases[lease].ttl.unsigned_abs())
    }

    /// Looks at what a member has applied.
    pub(super) fn look<H: Host>(&mut self, node: usize, host: &H, now: Time, laws: &Laws) -> Result<(), Violation> {
        for place in 0..self.leases.len() {
            let (seen, there) = (self.leases[place].seen & 1 << node != 0, host.has_lease(self.leases[place].id));
            if there {
                self.leases[place].seen |= 1 << node;
            } else if seen {
                self.leases[place].seen &= !(1 << node);
                self.is_over(place, now, laws, "has ended it")?;
            }
        }
        Ok(())
    }

    /// A process has ended: what it had applied may be gone with it.
    pub(super) fn forget(&mut self, node: usize) {
        self.leases.iter_mut().for_each(|lease| lease.seen &= !(1 << node));
    }

    /// The lease may be gone.
    fn is_over(&self, place: usize, now: Time, laws: &Laws, who: &str) -> Result<(), Violation> {
        let lease = &self.leases[place];
        let Some(promised) = lease.promised.filter(|_| !lease.given_back) else { return Ok(()) };
        // What the fastest clock there is, and one that has jumped whenever any did, takes to have passed.
        let passed = now.since(promised.at).as_nanos() * u128::from(1_000_000 + self.drift_ppm) / 1_000_000;
        let passed = passed + (self.jumped - promised.jumped).as_nanos();
        if passed >= self.longest_of(place).as_nanos() {
            return Ok(());
        }
        laws.broken(Law::LeaseKept, || {
            let (id, ttl, since) = (lease.id, lease.ttl, now.since(promised.at));
            format!("somebody {who}: lease {id} of {ttl} s, which was promised {since:?} ago")
        })
    }
}

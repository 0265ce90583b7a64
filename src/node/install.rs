//! Taking over the leader's state: what a member does whose log ends before the leader's begins, or whose own state is lost.
//!
//! ```text
//!   Install (Raft), or hollow ──► begin ──► ask ──► answer ──► verify ──► stage ──► … ──► the end ──► adopt ──► reopen
//!                                   ▲        ▲                              │               (last records, marks)
//!                                   │        └──────────────────────────────┘
//!                                   └── what the next leader has does not fit with what is there
//! ```
//!
//! The records are asked for piece by piece, in ascending order, verified ([`crate::machine::takeover`]) and staged in a
//! database beside the one in use. Meanwhile the member goes on as a follower. When everything up to the leader's newest record
//! is there, it takes the place of the state in one step, and the member is opened again on it: an install is a restart onto
//! another state, and [`super::open()`] is its other half.
//!
//! # What is lost
//!
//! A question that nobody answers is asked again after an election timeout, and at once where another member leads. What was
//! staged is kept in this life: another leader goes on where the last one was, if what it has fits. A crash before the
//! adoption loses what was staged, and nothing else: the state in use was not touched. After the adoption the new state is the
//! one that counts, whatever the log says.
//!
//! # Invariants
//!
//! 1. Nothing is staged that was not verified, and nothing is adopted that is no state: what was reached is not below what was
//!    asked for, nor below what any sender had applied when its sweep came to rest, nor below the own log's base.
//! 2. A sound state is never given up for an older one.
//! 3. From the adoption on nothing is written to the state that it replaces, and nothing is applied.
//! 4. Nothing is taken over of a state whose level this member does not know: it stops with a sentence, and keeps what it has.
//! 5. What the acked mark says of the log is said by the new state too.
//!
//! May not know: files, and how the adoption is made atomic.

use super::input::{Effect, StageWrite};
use super::marks::{AckedMark, Adopted};
use super::node::Node;
use super::source::{decode_id, encode_id};
use crate::ids::{Incarnation, Index, MemberId, Position, RequestId, Term};
use crate::machine::Level;
use crate::machine::takeover::{Misfit, Prefix};
use crate::proto::quorate as own;
use crate::storage::Op;
use crate::time::Time;
use bytes::{Bytes, BytesMut};
use own::leader_question::Question;

/// A good piece: a record is some 8 KiB, a disk reads some of them in the time of a round trip.
pub const PIECE_BYTES: u64 = 512 << 10;
/// Staged, but not yet written at most; beyond it, nothing is asked for.
const STAGING_BYTES_MAX: usize = 4 << 20;

/// How far a state is taken over, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstallStatus {
    /// One is under way.
    pub active: bool,
    /// There is no other state here that could be served.
    pub hollow: bool,
    /// Who sends: the last one who did.
    pub from: Option<MemberId>,
    /// When it began.
    pub since: Time,
    /// Bytes of records that were taken over.
    pub done_bytes: u64,
    /// An estimate of how many there are.
    pub total_bytes: u64,
    /// The last entry whose effects were taken over.
    pub reached: Index,
    /// How many were begun in this life, those that began anew included.
    pub begun: u64,
    /// How often another sender went on with what one had begun.
    pub resumed: u64,
    /// Bytes of records that this member sent to others in this life.
    pub sent_bytes: u64,
}

/// A question on its way.
#[derive(Debug)]
struct Asked {
    context: u64,
    leadership: (Term, MemberId),
    again_at: Time,
}

/// The parts of a record that does not fit into one answer.
#[derive(Debug)]
struct Parts {
    first: u64,
    length: u64,
    bytes: BytesMut,
}

/// A state that is being taken over.
#[derive(Debug)]
struct Transfer {
    number: u64,
    /// It must reach at least so far.
    wanted: Index,
    prefix: Prefix,
    /// See `machine::takeover`: of all senders so far.
    swept: i64,
    least: Index,
    /// The last sender, and its rest.
    pin: Option<RequestId>,
    parts: Option<Parts>,
    asked: Option<Asked>,
    /// Verified, to be staged in this turn.
    ops: Vec<Op>,
    /// What was staged before is to be thrown away first.
    begins: bool,
    /// Everything is there.
    whole: bool,
    /// All that the sender has ends here, before what former senders had applied.
    short: Option<(RequestId, Index)>,
    since: Time,
    done_bytes: u64,
    total_bytes: u64,
}

impl Transfer {
    fn new(number: u64, wanted: Index, now: Time) -> Transfer {
        Transfer {
            number,
            wanted,
            prefix: Prefix::default(),
            swept: i64::MAX,
            least: Index(0),
            pin: None,
            parts: None,
            asked: None,
            ops: Vec::new(),
            begins: true,
            whole: false,
            short: None,
            since: now,
            done_bytes: 0,
            total_bytes: 0,
        }
    }

    /// Nothing was taken over yet.
    fn is_empty(&self) -> bool {
        self.prefix.reached().index == Index(0) && self.parts.is_none()
    }

    fn question(&self, max_bytes: u64) -> own::RecordsQuestion {
        own::RecordsQuestion {
            transfer: self.number,
            from: self.prefix.reached().index.next().0,
            max_bytes,
            // Nothing can be followed by any record.
            pin: self.pin.filter(|_| !self.is_empty()).map(encode_id),
            swept: if self.is_empty() { i64::MAX } else { self.swept },
            offset: self.parts.as_ref().map_or(0, |parts| parts.bytes.len() as u64),
        }
    }

    /// The bytes of a record, when all of them are there. `None` too where they are not those that were asked for.
    fn assemble(&mut self, part: own::StateRecord) -> Option<(Index, Bytes)> {
        let own::StateRecord { first, length, offset, bytes } = part;
        if offset == 0 && bytes.len() as u64 == length {
            self.parts = None;
            return Some((Index(first), bytes));
        }
        let fits = |parts: &Parts| (parts.first, parts.length, parts.bytes.len() as u64) == (first, length, offset);
        let mut parts = match self.parts.take().filter(fits) {
            Some(parts) => parts,
            None if offset == 0 => Parts { first, length, bytes: BytesMut::new() },
            None => return None,
        };
        parts.bytes.extend_from_slice(&bytes);
        if parts.bytes.len() as u64 == length {
            return Some((Index(first), parts.bytes.freeze()));
        }
        self.parts = Some(parts);
        None
    }
}

/// What a member knows of states that it takes over.
#[derive(Debug)]
pub(super) struct Install {
    /// The last number that was used, for transfers and for questions.
    numbers: u64,
    transfer: Option<Transfer>,
    /// The last [`StageWrite`].
    stages: u64,
    /// Those that are not carried out yet: which, and of how many bytes.
    staging: std::collections::VecDeque<(u64, usize)>,
    /// The one that adopts.
    adopting: Option<u64>,
    reopened: bool,
    begun: u64,
    resumed: u64,
}

impl Install {
    pub(super) fn new(incarnation: Incarnation) -> Install {
        Install {
            numbers: incarnation.first_number(),
            transfer: None,
            stages: 0,
            staging: std::collections::VecDeque::new(),
            adopting: None,
            reopened: false,
            begun: 0,
            resumed: 0,
        }
    }

    /// The state in use is on its way out: nothing may be applied or written to it.
    pub(super) fn is_adopting(&self) -> bool {
        self.adopting.is_some()
    }

    /// This life is over.
    pub(super) fn is_reopened(&self) -> bool {
        self.reopened
    }

    /// The writes up to `id` were carried out.
    pub(super) fn staged(&mut self, id: u64) {
        while self.staging.pop_front_if(|(staged, _)| *staged <= id).is_some() {}
    }

    /// Whether more may be asked for.
    fn has_room(&self) -> bool {
        self.adopting.is_none() && self.staging.iter().map(|(_, bytes)| bytes).sum::<usize>() < STAGING_BYTES_MAX
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Begins, or begins anew.
    fn begin(&mut self, wanted: Index, now: Time) {
        let number = self.next_number();
        self.begun += 1;
        self.transfer = Some(Transfer::new(number, wanted, now));
    }

    fn stage(&mut self, begin: bool, ops: Vec<Op>, adopt: bool) -> Effect {
        self.stages += 1;
        self.staging.push_back((self.stages, ops.iter().map(Op::size).sum()));
        Effect::Stage(StageWrite { id: self.stages, begin, ops, adopt, aside: false })
    }

    /// Lets a state of nothing but `ops` take the place of the one in use, which is kept aside. What is being taken over is not
    /// wanted any more.
    pub(super) fn set_aside(&mut self, ops: Vec<Op>) -> Effect {
        self.transfer = None;
        self.stages += 1;
        self.staging.push_back((self.stages, 0));
        self.adopting = Some(self.stages);
        Effect::Stage(StageWrite { id: self.stages, begin: true, ops, adopt: true, aside: true })
    }
}

impl Node {
    /// The part of a turn: begins, asks, stages and adopts what is due.
    pub(super) fn take_over(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let base = self.raft.take_install();
        if self.install.adopting.is_some() {
            return;
        }
        let hollow = self.raft.is_hollow() && self.raft.leader().is_some();
        match (&mut self.install.transfer, base) {
            // What a former leader wanted counts no more: this one may be unable to commit so far without this member.
            (Some(transfer), Some(base)) => transfer.wanted = base.index.max(self.quarantine.least()),
            (Some(_), None) => {}
            (None, Some(base)) => self.install.begin(base.index.max(self.quarantine.least()), now),
            (None, None) if hollow => {
                let least = self.raft.log_base().index.max(self.quarantine.least());
                self.install.begin(least, now);
            }
            (None, None) => return,
        }
        if self.is_needless() {
            self.install.transfer = None;
            let empty = self.install.stage(true, Vec::new(), false);
            effects.push(empty);
            return;
        }
        self.ask_for_records(now);
        self.stage(effects);
    }

    /// When the leader is to be asked again.
    pub(super) fn install_deadline(&self) -> Time {
        let may_ask = self.raft.leader().is_some() && self.install.has_room();
        // Where everything is there nothing is asked: what is waited for wakes the node by itself.
        let transfer = self.install.transfer.as_ref().filter(|transfer| !transfer.whole);
        let asked = transfer.and_then(|transfer| transfer.asked.as_ref());
        asked.filter(|_| may_ask).map_or(Time::NEVER, |asked| asked.again_at)
    }

    /// The log has caught up by itself, from a leader that had it all: what is committed here is the leader's too. A log that
    /// is only long enough may be another one.
    fn is_needless(&self) -> bool {
        let commit = self.raft.status().commit;
        !self.raft.is_hollow() && self.install.transfer.as_ref().is_some_and(|transfer| commit >= transfer.wanted)
    }

    fn ask_for_records(&mut self, now: Time) {
        let leader = self.raft.leader().filter(|leader| *leader != self.identity.member);
        let install = &mut self.install;
        let (Some(leader), true) = (leader, install.has_room()) else { return };
        let leadership = (self.raft.term(), leader);
        let context = install.numbers + 1;
        let Some(transfer) = install.transfer.as_mut().filter(|transfer| !transfer.whole) else { return };
        let is_asked = |asked: &Asked| asked.leadership == leadership && now < asked.again_at;
        if transfer.asked.as_ref().is_some_and(is_asked) {
            return;
        }
        install.numbers = context;
        let again_at = now + self.config.election_timeout;
        transfer.asked = Some(Asked { context, leadership, again_at });
        let question = transfer.question(self.config.piece_bytes);
        self.ask_leader(context, Question::Records(question));
    }

    /// The leader has sent some of its records.
    pub(super) fn records_answer(&mut self, now: Time, context: u64, answer: own::RecordsAnswer) {
        let leader = self.raft.leader();
        let hollow = self.raft.is_hollow();
        let base = self.raft.log_base().index;
        let install = &mut self.install;
        let Some(transfer) = install.transfer.as_mut().filter(|_| install.adopting.is_none()) else { return };
        let is_due = transfer.asked.as_ref().is_some_and(|asked| asked.context == context);
        if !is_due || answer.transfer != transfer.number || answer.from != transfer.prefix.reached().index.next().0 {
            return;
        }
        self.levels.met = self.levels.met.max(Level(answer.level));
        if self.levels.met > self.config.level {
            return;
        }
        let wanted = transfer.wanted;
        if answer.restart {
            tracing::info!(reached = %transfer.prefix.reached(), "another leader's records do not fit; taking over begins anew");
            install.begin(wanted, now);
            return;
        }
        let pin = answer.pin.as_ref().map(decode_id);
        if transfer.pin != pin {
            let is_other = pin.map(|pin| pin.origin) != transfer.pin.map(|pin| pin.origin);
            if is_other && !transfer.is_empty() {
                install.resumed += 1;
                let reached = transfer.prefix.reached();
                tracing::info!(?leader, %reached, "another leader goes on with the state that is taken over");
            }
            transfer.parts = None;
            transfer.pin = pin;
        }
        transfer.swept = transfer.swept.min(answer.swept);
        transfer.least = transfer.least.max(Index(answer.least));
        transfer.total_bytes = answer.total_bytes;
        let is_news = !answer.records.is_empty();
        for part in answer.records {
            transfer.done_bytes += part.bytes.len() as u64;
            let Some((first, record)) = transfer.assemble(part) else { continue };
            match transfer.prefix.take(first, &record, &mut transfer.ops) {
                Ok(()) => {}
                Err(Misfit::Rewritten) => {
                    tracing::info!(%first, "another leader's records do not fit; taking over begins anew");
                    install.begin(wanted, now);
                    return;
                }
                Err(Misfit::Rot(why)) => {
                    tracing::error!(?leader, %why, "a record of the leader's state can't be taken over; this begins anew");
                    let asked = transfer.asked.take();
                    install.begin(wanted, now);
                    // Not at once: it may be the same again.
                    if let Some(transfer) = &mut install.transfer {
                        transfer.asked = asked;
                    }
                    return;
                }
            }
        }
        let reached = transfer.prefix.reached().index;
        let least = wanted.max(transfer.least).max(if hollow { base } else { self.machine.applied().index });
        transfer.whole = answer.end && transfer.parts.is_none() && reached >= least;
        if answer.end && transfer.parts.is_none() && wanted.max(base) <= reached && reached < transfer.least {
            // A leader that has applied nothing for an election timeout may wait for this member to commit anything, and what
            // came from others can't be used before that: only what is all its own can.
            let short = pin.map(|pin| (pin, reached));
            if short.is_some() && std::mem::replace(&mut transfer.short, short) == short {
                tracing::info!(?leader, %reached, "the leader does not reach what another one had; taking over begins anew");
                install.begin(wanted, now);
                return;
            }
        }
        if is_news || transfer.whole {
            // Else the leader has not written yet what is missing: it is asked again in time.
            transfer.asked = None;
        }
    }

    /// Hands what was verified to the disk, and at last lets it be the state.
    fn stage(&mut self, effects: &mut Vec<Effect>) {
        let Some(transfer) = &mut self.install.transfer else { return };
        let reached = transfer.prefix.reached();
        // The term that a state was made in must be on the disk before the state is.
        let adopts = transfer.whole && self.raft.durable_term() >= reached.term;
        let mut ops = std::mem::take(&mut transfer.ops);
        if ops.is_empty() && !adopts {
            return;
        }
        let begin = std::mem::take(&mut transfer.begins);
        if adopts {
            self.put_marks_of(reached, &mut ops);
        }
        let effect = self.install.stage(begin, ops, adopts);
        self.install.adopting = adopts.then_some(self.install.stages);
        effects.push(effect);
    }

    /// What the state that was taken over says beside it.
    ///
    /// Up to where it ends it holds what was committed: what this member acknowledged there is in it, or gave way to it.
    /// Beyond, what was acknowledged may be committed yet, unless another entry stands where the state ends: then it followed
    /// on one that gave way. A log that lacks that place can't say so.
    pub(super) fn put_marks_of(&self, reached: Position, ops: &mut Vec<Op>) {
        let known = self.raft.lost_mark().unwrap_or(self.state.mark);
        let there = self.raft.position_before(reached.index.next());
        let follows = known.term >= reached.term && (there.index < reached.index || there == reached);
        let last = if known.index > reached.index && follows { known } else { reached };
        AckedMark { last, term: self.raft.durable_term(), incarnation: self.identity.incarnation }.put(ops);
        Adopted(reached).put(ops);
    }

    /// The adoption is made: the end of this life.
    pub(super) fn reopen(&mut self, effects: &mut Vec<Effect>) {
        let install = &mut self.install;
        if let Some(adopting) = install.adopting
            && !install.reopened
            && install.staging.iter().all(|(id, _)| *id > adopting)
        {
            install.reopened = true;
            effects.push(Effect::Reopen);
        }
    }

    /// Whether there is a state here that may be served.
    pub fn is_hollow(&self) -> bool {
        self.raft.is_hollow()
    }

    /// How far a state is taken over.
    pub(super) fn install_status(&self) -> InstallStatus {
        let install = &self.install;
        let status = InstallStatus {
            hollow: self.raft.is_hollow(),
            begun: install.begun,
            resumed: install.resumed,
            sent_bytes: self.source.bytes_sent(),
            ..InstallStatus::default()
        };
        match &install.transfer {
            None => status,
            Some(transfer) => InstallStatus {
                active: true,
                from: transfer.pin.map(|pin| pin.origin),
                since: transfer.since,
                done_bytes: transfer.done_bytes,
                total_bytes: transfer.total_bytes.max(transfer.done_bytes),
                reached: transfer.prefix.reached().index,
                ..status
            },
        }
    }
}

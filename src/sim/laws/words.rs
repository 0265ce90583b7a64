//! What members say to each other and hear, and what follows from that.
//!
//! The record of disks and commits (`laws.rs`) shows a promise of the protocol only when its breach has done damage, which may
//! take two more misfortunes. Here each promise is compared with what was said: for whom a member votes, what a leader
//! believes and of whom, which answer confirms a read, and what may still be said in a term that is over. What is heard is
//! noted as it is delivered, before its member has looked at it; so what a member may conclude is in the record first.

use super::{Law, Laws, Seen, Violation, slot_of};
use crate::ids::{Incarnation, Index, MemberId, Position, RequestId, Term};
use crate::node::events::Glance;
use crate::node::{LATELY, RoleName};
use crate::raft::{Entry, EntryKind, Envelope, HardState, Message, Ready};
use crate::time::{Duration, Time};
use std::collections::BTreeMap;

/// What a member has heard of another one in its own life.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// The newest life that it spoke in, and the newest term in which it answered a leader.
    life: Incarnation,
    term: Term,
    /// When it was last heard in that term, by the listener's clock.
    at: Time,
    /// What it acknowledged in that term and life.
    matched: Index,
    /// The newest read round that it answered in that term.
    round: u64,
    /// What was last believed of it, by a leader of which term, and of which of its lives.
    believed: (Term, Incarnation, Index),
}

/// What a member has heard in its life.
#[derive(Clone, Debug, Default)]
pub(super) struct Ear {
    of: Vec<Heard>,
    /// Appends that were not looked at yet: in which term, after what, and up to where.
    appends: Vec<(Term, Position, Index)>,
    /// Up to where those of which term have reached.
    covered: (Term, Index),
    /// Where its log began with its life: it is verified that far.
    base: Index,
    /// What its clock shows.
    pub(super) clock: Time,
    /// Of a leader: its term, the place of its newest configuration, and since when both are so.
    leads: (Term, u64, Time),
    /// The same, since that configuration is committed.
    settled: (Term, u64, Time),
    /// The newest read round that it spoke of, and in which term.
    round: (Term, u64),
    /// Those rounds of this term that began at most [`LATELY`] ago, when the last of them did; when each began, and where the
    /// log ended then.
    lately: Vec<(u64, Time, usize)>,
    /// Reads of others that it was asked for: by whom and under which mark; its term, and the first round that counts.
    asked: BTreeMap<(MemberId, u64), (Term, u64)>,
    /// Its log when its turn began.
    pub(super) began: usize,
    /// Its term then.
    term: Term,
    /// The newest term that it has heard of since then and must go on to, from whom, and whether that was a candidate.
    later: Option<(Term, MemberId, bool)>,
    /// It has heard a leader or an answer to its own campaign since then: it may refuse to hear a candidate.
    may_stick: bool,
    /// Leaders of former terms that it has heard since then, and not told so; and who has asked whether it would vote for them,
    /// and was not answered: a bit per member.
    untold: u64,
    unanswered: u64,
    /// How long it has led without a vote, and when that was counted.
    pub(super) retiring: (Duration, Time),
}

/// A leader of a term was asked.
#[derive(Debug)]
struct Asked {
    node: usize,
    term: Term,
    /// The first round that counts.
    first: u64,
    /// What was committed.
    committed: Index,
    /// Where its log ended.
    ends: usize,
    /// To renew a lease.
    renews: bool,
}

impl Heard {
    /// It answers a leader of this term.
    fn answers(&mut self, term: Term, clock: Time, matched: Index, round: u64) {
        if term > self.term {
            (self.term, self.matched, self.round) = (term, Index(0), 0);
        }
        if term == self.term {
            (self.at, self.matched, self.round) = (clock, self.matched.max(matched), self.round.max(round));
        }
    }
}

impl Ear {
    pub(super) fn new(members: usize) -> Ear {
        Ear { of: vec![Heard::default(); members], ..Ear::default() }
    }

    /// It speaks as a leader whose log `ends` there, and its newest read round is this one.
    fn begins(&mut self, term: Term, round: u64, ends: usize) {
        if self.round.0 != term {
            (self.round, self.lately) = ((term, 0), Vec::new());
        }
        if round > self.round.1 {
            self.round.1 = round;
            self.lately.retain(|(_, began, _)| self.clock.since(*began) <= LATELY);
            self.lately.push((round, self.clock, ends));
        }
    }

    /// The first read round of this term that began at most [`LATELY`] ago, and where the log ended then.
    fn first_lately(&self, term: Term) -> Option<(u64, usize)> {
        let mut lately = self.lately.iter().filter(|_| self.round.0 == term);
        lately.find(|(_, began, _)| self.clock.since(*began) <= LATELY).map(|(round, _, ends)| (*round, *ends))
    }
}

/// What was said in all lives.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Who stands for election in a term: which campaign, and where the log ends.
    candidates: BTreeMap<(Term, MemberId), (u64, Position)>,
    /// Commands that were forwarded and not appended yet, and in which term.
    forwards: BTreeMap<RequestId, Term>,
    /// By member and kind: in which life numbers were used last, the highest one, and the highest of lives before.
    numbers: BTreeMap<(usize, u8), (Incarnation, u64, u64)>,
    /// What leaders were asked for by clients.
    reads: BTreeMap<u64, Asked>,
}

/// A number that its answer echoes, and of which kind.
fn number(message: &Message) -> Option<(u8, u64)> {
    match message {
        Message::PreVote { campaign, .. } | Message::Vote { campaign, .. } => Some((0, *campaign)),
        Message::ReadIndex { context } => Some((1, *context)),
        Message::Forward { id, .. } => Some((2, id.sequence)),
        _ => None,
    }
}

fn node_of(member: MemberId) -> usize {
    member.0 as usize - 1
}

impl Laws {
    /// A life begins, with a log after `base`: nothing was heard in it.
    pub(super) fn deaf(&mut self, node: usize, base: Index) {
        self.ears[node] = Ear { base, ..Ear::new(self.members.len()) };
    }

    /// A member's turn is looked at, when its clock shows this.
    pub(in crate::sim) fn turn_of(&mut self, node: usize, clock: Time) {
        let (ends, term) = (self.members[node].written.len(), self.members[node].glance.term);
        let ear = &mut self.ears[node];
        (ear.clock, ear.began, ear.term) = (clock, ends, term);
    }

    /// A message is delivered, when its listener's clock shows this.
    pub(in crate::sim) fn heard(&mut self, node: usize, envelope: &Envelope, clock: Time) {
        let must_follow = self.must_follow(node, envelope);
        let (leads, on_disk, ear) = (self.members[node].glance, self.members[node].hard.term, &mut self.ears[node]);
        let Envelope { from, term, incarnation, message, .. } = envelope;
        let of = &mut ear.of[node_of(*from)];
        if *incarnation < of.life {
            return;
        }
        let is_candidate = matches!(message, Message::Vote { .. });
        if must_follow && ear.later.is_none_or(|(later, ..)| *term > later) {
            ear.later = Some((*term, *from, is_candidate));
        }
        let leads_formerly =
            matches!(message, Message::Append { .. } | Message::Heartbeat { .. } | Message::Install { .. });
        // What a member says in a term that is not on its disk yet is held back.
        if leads.term == on_disk {
            let bit = 1 << node_of(*from);
            ear.untold |= if leads_formerly && *term < leads.term { bit } else { 0 };
            ear.unanswered |= if let Message::PreVote { .. } = message { bit } else { 0 };
        }
        ear.may_stick |= !is_candidate && !matches!(message, Message::PreVote { .. });
        if *incarnation > of.life {
            (of.life, of.matched) = (*incarnation, Index(0));
        }
        match *message {
            Message::Appended { matched, .. } => of.answers(*term, clock, matched, 0),
            Message::HeartbeatReply { matched, round, .. } => of.answers(*term, clock, matched, round),
            Message::Conflict { .. } => of.answers(*term, clock, Index(0), 0),
            Message::Append { prev, ref entries, .. } => {
                ear.appends.push((*term, prev, Index(prev.index.0 + entries.len() as u64)));
            }
            Message::Install { base, .. } => ear.appends.push((*term, base, base.index)),
            Message::ReadIndex { context } if leads.role == RoleName::Leader && leads.term == *term => {
                let first = first_round(ear, *term);
                ear.asked.entry((*from, context)).or_insert((*term, first));
            }
            _ => {}
        }
    }

    /// Whether who hears this must go on to its term, if that is a later one: it is of a kind that moves terms, and from somebody
    /// whom the listener surely hears.
    fn must_follow(&self, node: usize, envelope: &Envelope) -> bool {
        let (seen, from) = (&self.members[node], node_of(envelope.from));
        let (place, council) = self.councils.newest(&seen.written);
        let is_told = place > 0 || self.first.members() & 1 << node != 0;
        let knows = is_told && self.written_to(node, seen.glance) && council.members() & 1 << from != 0;
        match envelope.message {
            // A live leader is a reason not to hear who would unseat it; a stranger is none.
            Message::Vote { transfer, .. } => {
                let may_stick = seen.glance.leader.is_some() || self.ears[node].may_stick;
                transfer || !may_stick
            }
            Message::Install { .. } | Message::Heartbeat { .. } => true,
            Message::PreVoteReply { granted, .. } => !granted && knows,
            Message::VoteReply { .. }
            | Message::Appended { .. }
            | Message::Conflict { .. }
            | Message::HeartbeatReply { .. } => knows,
            // What an append carries may not be what its maker made.
            _ => false,
        }
    }

    /// A member has closed its turn, and goes by what it has heard.
    pub(in crate::sim) fn goes_on(&mut self, node: usize, now: Glance) -> Result<(), Violation> {
        let ear = &mut self.ears[node];
        ear.may_stick = false;
        let Some((later, from, is_candidate)) = ear.later.take() else { return Ok(()) };
        // What was written may have let it begin to lead before it was asked.
        let may_stay =
            self.members[node].wiped || !self.written_to(node, now) || is_candidate && now.role == RoleName::Leader;
        self.demand(Law::LaterTerm, may_stay || now.term >= later, || {
            format!("n{} has heard of term {later} from n{from}, and is still in {}", node + 1, now.term)
        })
    }

    /// All messages of a member's turn have left: it has told of its term whoever leads in a former one, and answered who wants
    /// to know whether it would vote for them; unless it has gone on to a term of which it may not speak yet.
    pub(in crate::sim) fn has_told(&mut self, node: usize) -> Result<(), Violation> {
        let ear = &mut self.ears[node];
        let (untold, unanswered) = (std::mem::take(&mut ear.untold), std::mem::take(&mut ear.unanswered));
        let Seen { wiped, glance, hard, .. } = &self.members[node];
        let may_not = *wiped || glance.term > hard.term;
        self.demand(Law::LaterTerm, untold == 0 || may_not, || {
            format!("n{} is in term {}, and does not tell {untold:b}, who lead in former ones", node + 1, glance.term)
        })?;
        self.demand(Law::FairVote, unanswered == 0 || may_not, || {
            format!("n{} does not answer {unanswered:b}, who ask whether it would vote for them", node + 1)
        })
    }

    /// A message leaves.
    pub(in crate::sim) fn said(&mut self, node: usize, envelope: &Envelope) -> Result<(), Violation> {
        if self.members[node].wiped {
            return Ok(());
        }
        let (ends, term) = (self.members[node].written.len(), envelope.term);
        let ear = &mut self.ears[node];
        let began = ear.term;
        let bit = 1 << node_of(envelope.to);
        ear.untold &= !bit;
        ear.unanswered &= if let Message::PreVoteReply { .. } = envelope.message { !bit } else { u64::MAX };
        if let Message::Heartbeat { round, .. } = envelope.message {
            ear.begins(term, round, ends);
        }
        self.demand(Law::OneTerm, term >= began, || {
            format!("n{} speaks in term {term}, and was in {began} before its turn", node + 1)
        })?;
        self.counts_on(node, envelope)?;
        match envelope.message {
            Message::Vote { campaign, last, .. } => {
                self.said.candidates.insert((term, envelope.from), (campaign, last));
            }
            Message::VoteReply { campaign, granted: false } => return self.refuses(node, envelope, campaign),
            Message::Forward { id, .. } => _ = self.said.forwards.insert(id, term),
            Message::ReadIndexReply { context, .. } => {
                // It may be asked again under the same mark: what counts is the first time.
                if let Some(&(asked, first)) = self.ears[node].asked.get(&(envelope.to, context)) {
                    return self.confirms(node, asked, first, self.ears[node].began);
                }
            }
            Message::TimeoutNow => return self.appoints(node, envelope.to),
            Message::Append { .. } | Message::Install { .. } | Message::Heartbeat { .. } => {
                return self.takes_leave(node, envelope);
            }
            _ => {}
        }
        Ok(())
    }

    /// No number that an answer echoes is used by two lives.
    fn counts_on(&mut self, node: usize, envelope: &Envelope) -> Result<(), Violation> {
        let Some((kind, number)) = number(&envelope.message) else { return Ok(()) };
        let life = envelope.incarnation;
        let (newest, highest, former) = self.said.numbers.entry((node, kind)).or_default();
        if life > *newest {
            (*newest, *former) = (life, *highest);
        }
        *highest = (*highest).max(number);
        let former = *former;
        self.demand(Law::OwnNumbers, number > former, || {
            format!("n{} asks under {number} in life {life}; a life before has used {former}", node + 1)
        })
    }

    /// A vote is handed to the disk, before what comes with it.
    pub(super) fn votes(&mut self, node: usize, ready: &Ready) -> Result<(), Violation> {
        let Some(hard) = ready.hard_state else { return Ok(()) };
        let seen = &mut self.members[node];
        let wiped = seen.wiped;
        let before = std::mem::replace(&mut seen.decided, hard);
        let Some(candidate) = hard.vote.filter(|vote| before != hard && node_of(*vote) != node) else { return Ok(()) };
        // What stood in the log all through the turn.
        let stood = ready.truncate_from.map_or(usize::MAX, slot_of).min(seen.written.len());
        let own = (seen.written[..stood].last().map_or(0, |last| last.term), stood as u64);
        let asked = self.said.candidates.get(&(hard.term, candidate)).map(|(_, last)| (last.term.0, last.index.0));
        self.demand(Law::FairVote, wiped || asked.is_some_and(|asked| asked >= own), || {
            format!(
                "n{} votes in term {} for n{candidate}, which ends at {asked:?}, and had {own:?}",
                node + 1,
                hard.term
            )
        })
    }

    /// A vote is refused.
    fn refuses(&self, node: usize, envelope: &Envelope, campaign: u64) -> Result<(), Violation> {
        let Envelope { term, to, .. } = *envelope;
        let Some((asked, last)) = self.said.candidates.get(&(term, to)) else { return Ok(()) };
        let seen = &self.members[node];
        // It may have gone on to a later term in the turn in which this left.
        let HardState { term: newest, vote } = seen.decided;
        let has_voted = newest > term || (newest == term && vote.is_some_and(|vote| vote != to));
        let own = (seen.written.last().map_or(0, |last| last.term), seen.written.len() as u64);
        let has_reason = has_voted || self.leaders.contains_key(&term) || own > (last.term.0, last.index.0);
        self.demand(Law::FairVote, *asked != campaign || has_reason, || {
            format!("n{} refuses n{to} its vote in term {term}, which is free, and its log ends at {own:?}", node + 1)
        })
    }

    /// A leader appends a command of another member's.
    pub(super) fn takes(&mut self, node: usize, entry: &Entry, now: Glance) -> Result<(), Violation> {
        let Entry { id, position, kind, .. } = entry;
        let is_own = now.role == RoleName::Leader && now.term == position.term;
        if !is_own || *kind != EntryKind::Command || node_of(id.origin) == node {
            return Ok(());
        }
        let forwarded = self.said.forwards.remove(id);
        self.demand(Law::Forwarded, forwarded == Some(position.term), || {
            format!("n{} appends {id:?} in term {}, which was forwarded in {forwarded:?}", node + 1, position.term)
        })
    }

    /// A client asks a leader to read, or of a lease, or to renew one.
    pub(in crate::sim) fn asks(&mut self, node: usize, slot: u64, renews: bool) {
        let Glance { role, term, .. } = self.members[node].glance;
        if role == RoleName::Leader {
            let first = first_round(&self.ears[node], term);
            let committed = Index(self.committed.len() as u64);
            let ends = self.members[node].written.len();
            self.said.reads.insert(slot, Asked { node, term, first, committed, ends, renews });
        }
    }

    /// It is answered; that a lease `is_renewed` needs not the newest state, and any round that began lately will do.
    pub(in crate::sim) fn serves(&mut self, node: usize, slot: u64, is_renewed: bool) -> Result<(), Violation> {
        let Some(asked) = self.said.reads.remove(&slot) else { return Ok(()) };
        let Asked { node: asked, term, first, committed, ends, renews } = asked;
        let Glance { role, term: own, applied, .. } = self.members[node].glance;
        if asked != node || role != RoleName::Leader || own != term {
            return Ok(()); // another leader may have confirmed it
        }
        if renews && is_renewed {
            let lately = self.ears[node].first_lately(term);
            let (first, ends) = lately.map_or((first, ends), |lately| lately.min((first, ends)));
            return self.confirms(node, term, first, ends);
        }
        self.demand(Law::FreshRead, self.members[node].wiped || applied >= committed, || {
            format!(
                "n{} answers {slot} and has applied {applied}; {committed} was committed when it was asked",
                node + 1
            )
        })?;
        self.confirms(node, term, first, self.ears[node].began)
    }

    /// A leader answers for a read that was asked for before round `first` began, by the configurations that counted since its
    /// log had `ends` entries.
    fn confirms(&self, node: usize, term: Term, first: u64, ends: usize) -> Result<(), Violation> {
        let (seen, ear) = (&self.members[node], &self.ears[node]);
        let has_answered = |other: usize| {
            let Heard { term: newest, round, .. } = ear.of[other];
            // It may have spoken in a later term in the same turn: what it had answered before is not known any more.
            other == node || newest > term || (newest == term && round >= first)
        };
        let votes = self.bits(has_answered);
        let councils = self.counted_since(node, ends);
        self.demand(Law::Confirmed, seen.wiped || councils.iter().any(|council| council.is_quorum(votes)), || {
            format!("n{} answers for a read, and only {votes:b} have answered round {first} of {councils:?}", node + 1)
        })
    }

    /// A follower has closed its turn: it knows what its leader's appends have reached.
    pub(in crate::sim) fn follows(&mut self, node: usize, now: Glance) -> Result<(), Violation> {
        if self.members[node].wiped || !self.written_to(node, now) {
            return Ok(()); // what is held back is looked at when it was handed out
        }
        let (written, old) = (&self.members[node].written, self.members[node].glance);
        let ear = &mut self.ears[node];
        let mut reached = ear.covered.1.max(ear.base);
        for (term, prev, end) in ear.appends.drain(..) {
            let follows = prev.index == Index(0)
                || written.get(slot_of(prev.index)).is_some_and(|stamp| stamp.term == prev.term.0);
            if follows {
                reached = reached.max(end);
                let before = if ear.covered.0 == term { ear.covered.1 } else { Index(0) };
                ear.covered = if term < ear.covered.0 { ear.covered } else { (term, before.max(end)) };
            }
        }
        let follows = now.role == RoleName::Follower && old.role != RoleName::Leader;
        self.demand(Law::Verified, !follows || now.commit <= old.commit.max(reached), || {
            format!("n{} commits {}, but its leader's appends have reached {reached} in its log", node + 1, now.commit)
        })
    }

    /// A leader believes that these are durable at its followers.
    pub(super) fn trusts(&mut self, node: usize, peer: MemberId, index: Index) -> Result<(), Violation> {
        let term = self.members[node].glance.term;
        let of = &mut self.ears[node].of[node_of(peer)];
        let said = if of.term == term { of.matched } else { Index(0) };
        let (then, life, before) = std::mem::replace(&mut of.believed, (term, of.life, index));
        let goes_back = (then, life) == (term, of.life) && before > index;
        let life = of.life;
        self.demand(Law::Matched, !goes_back && index <= said, || {
            format!("n{} believes that n{peer} has {index}, after {before}; in life {life} it said {said}", node + 1)
        })
    }

    /// Who leads has heard a quorum within an election timeout.
    pub(in crate::sim) fn in_touch(&mut self, node: usize, now: Glance) -> Result<(), Violation> {
        if now.role != RoleName::Leader || self.members[node].wiped {
            return Ok(());
        }
        let (place, council) = self.councils.newest(&self.members[node].written);
        let (timeout, ear) = (self.timers.election, &mut self.ears[node]);
        if (ear.leads.0, ear.leads.1) != (now.term, place) {
            ear.leads = (now.term, place, ear.clock);
            ear.asked.retain(|_, (term, _)| *term == now.term);
        }
        if place <= now.commit.0 && (ear.settled.0, ear.settled.1) != (now.term, place) {
            ear.settled = (now.term, place, ear.clock);
        }
        let (ear, since) = (&self.ears[node], self.ears[node].leads.2);
        let contact = |of: &Heard| if of.term == now.term { of.at.max(since) } else { since };
        let is_there = |other: usize| other == node || ear.clock.since(contact(&ear.of[other])) < timeout;
        let there = self.bits(is_there);
        self.demand(Law::InTouch, council.is_quorum(there), || {
            format!("n{} leads term {}, and has heard only {there:b} of {council:?}", node + 1, now.term)
        })
    }

    /// A leader speaks to somebody: to who is no member only until it had an election timeout to hear that.
    fn takes_leave(&self, node: usize, envelope: &Envelope) -> Result<(), Violation> {
        let (place, council) = self.councils.newest(&self.members[node].written);
        let (ear, timers) = (&self.ears[node], &self.timers);
        if council.members() & 1 << node_of(envelope.to) != 0
            || (ear.settled.0, ear.settled.1) != (envelope.term, place)
        {
            return Ok(());
        }
        let until = ear.settled.2 + timers.election + timers.heartbeat * 2;
        self.demand(Law::Farewell, ear.clock <= until, || {
            format!("n{} still speaks to n{}, which is no member of {council:?}", node + 1, envelope.to)
        })
    }

    /// Whether `other` was heard within an election timeout in a leader's term.
    pub(super) fn hears(&self, node: usize, term: Term, other: usize) -> bool {
        let (ear, of) = (&self.ears[node], &self.ears[node].of[other]);
        other == node || (of.term == term && ear.clock.since(of.at) < self.timers.election)
    }

    /// A bit per member of which that is so.
    pub(super) fn bits(&self, is_so: impl Fn(usize) -> bool) -> u64 {
        (0..self.members.len()).filter(|node| is_so(*node)).fold(0, |bits, node| bits | 1 << node)
    }
}

/// The first read round that begins from now on.
fn first_round(ear: &Ear, term: Term) -> u64 {
    if ear.round.0 == term { ear.round.1 + 1 } else { 1 }
}

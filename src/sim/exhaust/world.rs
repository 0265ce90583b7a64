//! One tiny cluster: three real members, their disks, the messages on their way, and what may happen next.
//!
//! A world is cheap to copy: what did not change is shared between a world and its successor, for each step happens at one
//! member. It is driven as a node drives the core: an input, then the turn is closed, and what comes out is executed.

use super::{Scope, laws};
use crate::ids::{Incarnation, Index, MemberId, Position, RequestId, Term};
use crate::raft::log::Log;
use crate::raft::quorum::Configuration;
use crate::raft::{
    Change, Config, Entry, EntryKind, Envelope, HardState, Ink, Matters, Message, Persisted, Raft, Ready,
};
use crate::raft::{Refusal, Role};
use crate::rng::Seed;
use crate::time::{Duration, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// How many members: three are enough to disagree.
pub(super) const MEMBERS: usize = 3;

/// Under which names a world is looked at: as it is, and with n2 and n3 exchanged. n1 is whoever campaigns first.
const NAMINGS: [[u64; MEMBERS + 1]; 2] = [[0, 1, 2, 3], [0, 1, 3, 2]];

/// Whom a leader may be asked for. A set of two has one quorum, so a law that counts disks holds for all of them.
const VOTERS: [&[u64]; 4] = [&[1, 2], &[1, 3], &[2, 3], &[1, 2, 3]];

/// The clock stands still, so nobody's timer runs out but where an action says so.
const NOW: Time = Time(0);
/// So much later that a leader heard at [`NOW`] is no reason any more to refuse a vote, or to go on leading.
const LATER: Time = Time::from_millis(10_000);

/// What a disk holds for sure.
#[derive(Clone, Default)]
pub(super) struct Disk {
    pub hard: HardState,
    pub entries: Vec<Entry>,
}

impl Disk {
    pub(super) fn last(&self) -> Position {
        self.entries.last().map_or(Position::default(), |e| e.position)
    }

    pub(super) fn at(&self, index: Index) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.0.checked_sub(1)?).ok()?)
    }
}

/// One member.
#[derive(Clone)]
pub(super) struct Member {
    pub raft: Raft,
    pub disk: Disk,
    /// What its disk was asked to write and has not finished.
    pub queue: VecDeque<Ready>,
    pub life: u64,
    /// Its state, under each naming.
    prints: [u64; NAMINGS.len()],
}

/// A message on its way.
#[derive(PartialEq)]
pub(super) struct Flying {
    pub envelope: Envelope,
    prints: [u64; NAMINGS.len()],
}

/// What becomes of others when a message arrives.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// Those sent before it on the same link are lost.
    InOrder,
    /// Those sent before it stay on their way.
    Overtakes,
    /// All stay on their way, it too.
    Repeated,
}

/// Something that can happen.
#[derive(Clone, PartialEq)]
pub(super) enum Action {
    /// The time without a leader is up: it asks for pre-votes.
    Campaign(MemberId),
    /// A pre-vote is granted, without a message.
    PreVote { by: MemberId, to: MemberId },
    /// A client's write reaches a leader.
    Propose(MemberId),
    /// A leader is asked for these voters.
    Change { at: MemberId, voters: BTreeSet<MemberId> },
    /// A message arrives.
    Deliver { flying: Rc<Flying>, fate: Fate },
    /// The oldest unfinished write is durable, and reported.
    Write(MemberId),
    /// Power is lost and comes back. Of the oldest unfinished write the first `kept` parts are on the disk, of the later
    /// ones nothing; what was applied is known up to `applied`.
    Crash { who: MemberId, kept: usize, applied: Index },
    /// A crash that leaves an empty disk: against all laws.
    Wipe(MemberId),
    /// It is time for a leader's heartbeat.
    Heartbeat(MemberId),
    /// A leader gives up: it has not heard a quorum for an election timeout.
    Lapse(MemberId),
    /// The stream from `peer` breaks.
    Break { at: MemberId, peer: MemberId },
}

/// The cluster.
#[derive(Clone)]
pub(super) struct World {
    pub members: [Rc<Member>; MEMBERS],
    pub flying: Vec<Rc<Flying>>,
    /// What may still happen.
    pub left: Scope,
    /// Who ever led each term.
    pub leaders: Vec<(Term, MemberId)>,
    /// What was ever committed, in order, and in which term that was.
    pub committed: Vec<(Position, Term)>,
    /// The configurations that ever stood in a log: by Log Matching a position says which.
    pub configurations: BTreeMap<(Index, Term), Configuration>,
    pub scope: Rc<Scope>,
}

fn slot(id: MemberId) -> usize {
    usize::try_from(id.0 - 1).expect("a member of a small cluster")
}

pub(super) fn ids() -> impl Iterator<Item = MemberId> {
    (1..=MEMBERS as u64).map(MemberId)
}

fn born(id: MemberId, life: u64, disk: &Disk, applied: Index, scope: &Scope) -> Raft {
    let known =
        disk.entries.iter().take_while(|entry| entry.position.index <= applied).filter_map(configuration).last();
    let known = known.unwrap_or_else(|| Configuration::new(ids()));
    let mut config = Config::new(id, Incarnation(life), known, Seed(0));
    config.heartbeat_interval = Duration::ZERO;
    if scope.short_appends > 0 {
        config.limits.max_append_bytes = 1;
    }
    let mut log = Log::empty();
    disk.entries.iter().for_each(|entry| log.append(entry.clone()));
    Raft::new(config, disk.hard, log, applied, NOW)
}

/// What an entry says of who votes.
fn configuration(entry: &Entry) -> Option<Configuration> {
    let says = entry.kind == EntryKind::Configuration;
    says.then(|| Configuration::decode(&entry.data).expect("the core made it").0)
}

fn ink(naming: usize, scope: &Scope) -> Ink<impl Fn(MemberId) -> u64 + Copy> {
    let matters =
        Matters { appends: scope.heartbeats > 0, lives: scope.crashes + scope.wipes > 0, changes: scope.changes > 0 };
    Ink::new(move |member: MemberId| NAMINGS[naming][member.0 as usize], matters)
}

impl World {
    /// Three newborns with empty disks.
    pub(super) fn new(scope: &Rc<Scope>) -> World {
        let newborn = |id: MemberId| {
            let raft = born(id, 1, &Disk::default(), Index(0), scope);
            Member { raft, disk: Disk::default(), queue: VecDeque::new(), life: 1, prints: Default::default() }
        };
        let mut members = [1, 2, 3].map(|id| newborn(MemberId(id)));
        members.iter_mut().for_each(|member| member.print(scope));
        World {
            members: members.map(Rc::new),
            flying: Vec::new(),
            left: Scope::clone(scope),
            leaders: Vec::new(),
            committed: Vec::new(),
            configurations: BTreeMap::new(),
            scope: scope.clone(),
        }
    }

    pub(super) fn member(&self, id: MemberId) -> &Member {
        &self.members[slot(id)]
    }

    fn change(&mut self, id: MemberId) -> &mut Member {
        Rc::make_mut(&mut self.members[slot(id)])
    }

    /// Everything that can happen next.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let (left, scope) = (&self.left, &self.scope);
        let in_order = scope.reorders < Scope::ANY_ORDER;
        for (at, flying) in self.flying.iter().enumerate() {
            let earlier = &self.flying[..at];
            if !in_order && earlier.iter().any(|other| other.prints == flying.prints) {
                continue;
            }
            let mut arrives = |fate| actions.push(Action::Deliver { flying: flying.clone(), fate });
            let is_behind = earlier.iter().any(|other| other.link() == flying.link());
            if in_order {
                arrives(Fate::InOrder);
            }
            if !in_order || is_behind && left.reorders > 0 {
                arrives(Fate::Overtakes);
            }
            if left.duplicates > 0 {
                arrives(Fate::Repeated);
            }
        }
        for id in ids() {
            let member = self.member(id);
            let role = member.raft.status().role;
            if !member.queue.is_empty() {
                actions.push(Action::Write(id));
            }
            // Names are given by who campaigns first.
            let may_be_first = left.elections < scope.elections || id == MemberId(1);
            if role != Role::Leader && left.elections > 0 && may_be_first {
                actions.push(Action::Campaign(id));
            }
            if role == Role::PreCandidate && scope.pre_votes == 0 {
                actions.extend(ids().filter(|by| *by != id).map(|by| Action::PreVote { by, to: id }));
            }
            if role == Role::Leader {
                actions.extend((left.writes > 0).then_some(Action::Propose(id)));
                if left.changes > 0 {
                    let sets = VOTERS.iter().map(|set| set.iter().map(|id| MemberId(*id)).collect());
                    actions
                        .extend(sets.filter(|set| member.begins(set)).map(|voters| Action::Change { at: id, voters }));
                }
                actions.extend((left.heartbeats > 0).then_some(Action::Heartbeat(id)));
                actions.extend((left.lapses > 0).then_some(Action::Lapse(id)));
            }
            if left.breaks > 0 {
                let of_leader =
                    |peer: &MemberId| *peer != id && [Some(id), Some(*peer)].contains(&member.raft.leader());
                actions.extend(ids().filter(of_leader).map(|peer| Action::Break { at: id, peer }));
            }
            actions.extend((left.wipes > 0).then_some(Action::Wipe(id)));
            if left.crashes > 0 {
                let parts = member.queue.front().map_or(1, parts);
                for kept in 0..parts {
                    let last = member.after_crash(kept).last().index.min(member.raft.status().applied);
                    actions.extend((0..=last.0).map(|i| Action::Crash { who: id, kept, applied: Index(i) }));
                }
            }
        }
        actions
    }

    /// Lets `action` happen. An error is a broken law.
    pub(super) fn act(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Deliver { flying, fate } => {
                let at = self.flying.iter().position(|other| Rc::ptr_eq(other, flying));
                let at = at.expect("a message that is on its way");
                match fate {
                    Fate::Repeated => self.left.duplicates -= 1,
                    Fate::Overtakes if self.scope.reorders == Scope::ANY_ORDER => drop(self.flying.swap_remove(at)),
                    Fate::Overtakes => {
                        self.left.reorders -= 1;
                        self.flying.remove(at);
                    }
                    Fate::InOrder => {
                        self.flying.remove(at);
                        let mut earlier = 0..at;
                        self.flying.retain(|other| earlier.next().is_none() || other.link() != flying.link());
                    }
                }
                // Who was heard long ago holds nobody back. That it does sometimes is as if the message were lost.
                let asks = matches!(flying.envelope.message, Message::Vote { .. } | Message::PreVote { .. });
                let now = if asks { LATER } else { NOW };
                self.change(flying.envelope.to).raft.step(now, flying.envelope.clone());
                self.close_turn(flying.envelope.to)
            }
            Action::Campaign(id) => {
                self.left.elections -= 1;
                self.change(*id).raft.tick(Time::NEVER);
                self.close_turn(*id)
            }
            Action::PreVote { by, to } => {
                let (campaign, term) = (self.member(*to).raft.campaigns(), self.member(*to).raft.term());
                let incarnation = Incarnation(self.member(*by).life);
                let message = Message::PreVoteReply { campaign, granted: true };
                self.change(*to).raft.step(NOW, Envelope { from: *by, to: *to, term, incarnation, message });
                self.close_turn(*to)
            }
            Action::Propose(id) => {
                self.left.writes -= 1;
                let member = self.change(*id);
                let sequence = member.raft.status().last.index.0 + 1;
                let request = RequestId { origin: *id, incarnation: Incarnation(member.life), sequence };
                match member.raft.propose(request, Bytes::new(), true) {
                    // It was removed, and hands over.
                    Err(Refusal::Transfer) if self.scope.changes > 0 => {}
                    Err(refusal) => return Err(format!("refused: {refusal:?}")),
                    Ok(_) => {}
                }
                self.close_turn(*id)
            }
            Action::Change { at, voters } => {
                self.left.changes -= 1;
                self.change(*at).begin(voters)?;
                self.close_turn(*at)
            }
            Action::Write(id) => {
                let member = self.change(*id);
                let ready = member.queue.pop_front().expect("a write to finish");
                let all = parts(&ready);
                execute(&mut member.disk, &ready, all)?;
                member.raft.persisted(NOW, Persisted { seq: ready.seq, last: member.disk.last() });
                self.close_turn(*id)
            }
            Action::Crash { who, kept, applied } => {
                self.left.crashes -= 1;
                let disk = self.member(*who).after_crash(*kept);
                self.restart(*who, disk, *applied)
            }
            Action::Wipe(id) => {
                self.left.wipes -= 1;
                self.restart(*id, Disk::default(), Index(0))
            }
            Action::Heartbeat(id) => {
                self.left.heartbeats -= 1;
                self.change(*id).raft.tick(NOW);
                self.close_turn(*id)
            }
            Action::Lapse(id) => {
                self.left.lapses -= 1;
                self.change(*id).raft.tick(LATER);
                self.close_turn(*id)
            }
            Action::Break { at, peer } => {
                self.left.breaks -= 1;
                let life = Incarnation(self.member(*peer).life);
                self.change(*at).raft.peer_lost(NOW, *peer, life);
                self.close_turn(*at)
            }
        }
    }

    fn restart(&mut self, id: MemberId, disk: Disk, applied: Index) -> Result<(), String> {
        let scope = self.scope.clone();
        let member = self.change(id);
        member.life += 1;
        member.raft = born(id, member.life, &disk, applied, &scope);
        member.disk = disk;
        member.queue.clear();
        self.close_turn(id)
    }

    /// Closes a member's turn as a node does: what it wants written goes to its disk, what may leave leaves, what is committed
    /// is applied. Then the laws are checked.
    fn close_turn(&mut self, id: MemberId) -> Result<(), String> {
        let scope = self.scope.clone();
        let member = self.change(id);
        let before = member.raft.status().applied;
        member.raft.flush(NOW);
        let ready = member.raft.ready(NOW);
        let entries = ready.iter().flat_map(|ready| &ready.entries);
        let said: Vec<_> = entries
            .filter_map(|entry| Some(((entry.position.index, entry.position.term), configuration(entry)?)))
            .collect();
        member.queue.extend(ready);
        let envelopes: Vec<Envelope> = member.raft.messages().collect();
        let applied = member.raft.take_committed(usize::MAX);
        member.raft.take_events();
        member.raft.take_refusals();
        member.raft.take_reads();
        member.raft.take_loads();
        member.print(&scope);
        self.configurations.extend(said);
        for envelope in envelopes {
            laws::may_leave(self, &envelope)?;
            if let (Message::PreVote { .. }, false) = (&envelope.message, scope.pre_votes > 0) {
                continue; // the world itself answers
            }
            self.flying.push(Rc::new(Flying::new(envelope, &scope)));
        }
        laws::after_turn(self, id, before, &applied)?;
        self.forget_the_past()
    }

    /// Takes messages away that can do nothing any more, wherever and whenever they arrive, and makes those alike that can do
    /// only the same. This changes no future, and lets worlds meet that differ only in what was lost.
    ///
    /// That such a message does nothing is the core's to keep, so each is tried on a copy of its receiver before it goes.
    fn forget_the_past(&mut self) -> Result<(), String> {
        let World { members, flying, left, scope, .. } = self;
        if scope.changes > 1 {
            return Ok(()); // who is nobody to a leader now may be somebody again
        }
        let mut outcome = Ok(());
        let newest = members.iter().map(|m| m.raft.term()).max().unwrap_or_default();
        let is_asking = |m: &Rc<Member>| m.raft.status().role == Role::PreCandidate;
        // Nor does a leader hand over, as one does that was removed.
        let last_term = left.elections + left.changes == 0
            && !members.iter().any(is_asking)
            && (scope.changes == 0 || !members.iter().any(|m| m.hands_over() || m.raft.configuration().is_joint()))
            && !flying.iter().any(|f| f.envelope.message == Message::TimeoutNow);
        // What a member never forgets: what its disk has, or all, if nobody will crash.
        let kept = |m: &Member| if left.crashes == 0 { m.raft.hard_state() } else { m.disk.hard };
        flying.retain_mut(|flying| {
            let envelope = &flying.envelope;
            let (from, to) = (&members[slot(envelope.from)], &members[slot(envelope.to)]);
            let known = to.raft.newest_life(envelope.from);
            let is_former = known.is_some_and(|known| envelope.incarnation < known) && left.crashes + left.wipes == 0;
            // To hear a life's first message changes what is heard of its former ones.
            let teaches = known.is_none_or(|known| envelope.incarnation > known);
            if teaches && (from.life > 1 || left.crashes > 0) || left.crashes > 1 || left.wipes > 0 {
                return true;
            }
            let hard = kept(to);
            // Where there will be no newer term than the sender's, an answer that only tells a term tells nothing.
            // An answer also tells the life of who gives it.
            let tells_life =
                left.crashes > 0 || to.life > 1 && from.raft.newest_life(envelope.to) < Some(Incarnation(to.life));
            let answer_is_void = last_term && kept(from).term == newest && !tells_life;
            let is_over = envelope.term < hard.term;
            let is_past = match &envelope.message {
                _ if is_former => true,
                Message::Append { .. } | Message::Heartbeat { .. } | Message::Vote { .. } if is_over => answer_is_void,
                Message::PreVote { .. } => answer_is_void,
                Message::Vote { campaign, .. } => {
                    let vote = hard.vote.filter(|_| envelope.term == hard.term);
                    let is_refused = vote.is_some_and(|vote| vote != envelope.from);
                    let is_repeated = vote == Some(envelope.from) && !from.raft.is_asking(*campaign);
                    answer_is_void && (is_refused || is_repeated)
                }
                Message::Append { .. } | Message::Heartbeat { .. } => false,
                _ => to.raft.is_deaf_to(envelope, hard.term),
            };
            if is_past && !teaches && to.heeds(envelope, scope) {
                outcome = Err(format!("n{} heeds what is past: {envelope:?}", envelope.to));
            }
            if let (Message::Append { .. }, true, false) = (&envelope.message, is_over, is_past) {
                // All that it can do is to be told the newer term.
                let (prev, entries) = (Position::default(), Vec::new());
                let message = Message::Append { session: 0, sequence: 0, prev, commit: Index(0), entries };
                if envelope.message != message {
                    *flying = Rc::new(Flying::new(Envelope { message, ..envelope.clone() }, scope));
                }
            }
            !is_past
        });
        outcome
    }

    /// The world as a number: the smallest over all namings, so that worlds that are mirror images are one.
    pub(super) fn fingerprint(&self) -> u64 {
        let number = |naming: usize| {
            let mut ink = ink(naming, &self.scope);
            ink.unordered(&self.members, |ink, member| ink.number(member.prints[naming]));
            let in_order = self.scope.reorders < Scope::ANY_ORDER;
            ink.unordered(self.flying.iter().enumerate(), |ink, (at, flying)| {
                let ahead = self.flying[..at].iter().filter(|other| in_order && other.link() == flying.link());
                ink.number(ahead.count() as u64);
                ink.number(flying.prints[naming]);
            });
            ink.unordered(&self.leaders, |ink, (term, leader)| {
                ink.number(term.0);
                ink.member(*leader);
            });
            for (position, term) in &self.committed {
                ink.position(*position);
                ink.number(term.0);
            }
            for ((index, term), configuration) in &self.configurations {
                ink.position(Position { index: *index, term: *term });
                ink.configuration(configuration);
            }
            self.left.clone().numbers().into_iter().for_each(|(_, left)| ink.number(u64::from(*left)));
            ink.finish()
        };
        number(0).min(number(1))
    }
}

impl Flying {
    fn new(envelope: Envelope, scope: &Scope) -> Flying {
        let prints = [0, 1].map(|naming| {
            let mut ink = ink(naming, scope);
            envelope.write(&mut ink);
            ink.finish()
        });
        Flying { envelope, prints }
    }

    fn link(&self) -> (MemberId, MemberId) {
        (self.envelope.from, self.envelope.to)
    }
}

impl Member {
    /// Asks for a change to `voters`.
    fn begin(&mut self, voters: &BTreeSet<MemberId>) -> Result<(), String> {
        let version = self.raft.configuration().version();
        let change = Change { version, voters: voters.clone(), learners: BTreeMap::new() };
        let outcome = self.raft.propose_change(NOW, RequestId::default(), &change, &[]);
        outcome.map(drop).map_err(|refusal| format!("refused: {refusal:?}"))
    }

    /// Whether it would begin a change to `voters` if it were asked now.
    fn begins(&self, voters: &BTreeSet<MemberId>) -> bool {
        self.clone().begin(voters).is_ok()
    }

    /// Whether it leads those among whom it does not vote.
    fn hands_over(&self) -> bool {
        self.raft.is_leader() && !self.raft.configuration().contains(self.raft.id())
    }

    fn print(&mut self, scope: &Scope) {
        self.prints = [0, 1].map(|naming| {
            let mut ink = ink(naming, scope);
            ink.member(self.raft.id());
            ink.number(self.life);
            self.raft.write(&mut ink);
            ink.hard_state(self.disk.hard);
            self.disk.entries.iter().for_each(|entry| ink.position(entry.position));
            for ready in &self.queue {
                ink.number(u64::MAX);
                ready.write(&mut ink);
            }
            ink.finish()
        });
    }

    /// Whether a message changes anything here. That it is answered is not a change where it asks.
    fn heeds(&self, envelope: &Envelope, scope: &Scope) -> bool {
        let mut trial = self.clone();
        trial.raft.step(LATER, envelope.clone());
        trial.raft.flush(NOW);
        let is_same = trial.raft.hard_state() == self.raft.hard_state() && trial.raft.status() == self.raft.status();
        let writes = trial.raft.ready(NOW).is_some();
        let speaks = trial.raft.messages().count() > 0;
        trial.print(scope);
        let asks = matches!(
            envelope.message,
            Message::Append { .. } | Message::Heartbeat { .. } | Message::Vote { .. } | Message::PreVote { .. }
        );
        !is_same || writes || !asks && (speaks || trial.prints != self.prints)
    }

    /// What its disk holds after a crash that kept the first `kept` parts of the oldest unfinished write.
    fn after_crash(&self, kept: usize) -> Disk {
        let mut disk = self.disk.clone();
        if let Some(ready) = self.queue.front() {
            let _torn = execute(&mut disk, ready, kept);
        }
        disk
    }
}

/// How many parts a write has that a crash may part: hard state, truncation, each entry.
fn parts(ready: &Ready) -> usize {
    usize::from(ready.hard_state.is_some()) + usize::from(ready.truncate_from.is_some()) + ready.entries.len()
}

/// Makes the first `kept` parts of a write durable.
fn execute(disk: &mut Disk, ready: &Ready, mut kept: usize) -> Result<(), String> {
    let mut take = |wanted: bool| {
        let takes = wanted && kept > 0;
        kept -= usize::from(takes);
        takes
    };
    if let Some(hard) = ready.hard_state.filter(|_| take(true)) {
        laws::may_replace(disk.hard, hard)?;
        disk.hard = hard;
    }
    if let Some(from) = ready.truncate_from.filter(|_| take(true)) {
        disk.entries.truncate(usize::try_from(from.prev().0).unwrap_or(usize::MAX));
    }
    for entry in ready.entries.iter().take_while(|_| take(true)) {
        if entry.position.index != disk.last().index.next() || entry.position.term > disk.hard.term {
            return Err(format!("{} is written after {} in term {}", entry.position, disk.last(), disk.hard.term));
        }
        disk.entries.push(entry.clone());
    }
    Ok(())
}

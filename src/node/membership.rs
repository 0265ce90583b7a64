//! Changes of who belongs to the cluster: from a caller at any member to the leader's log, and back when they are over.
//!
//! ```text
//!   callers ──► open: fresh ──► the leader itself: decided ──► in the log ──► joint, applied here ──► simple, applied here: answer
//!                       └─────► a follower: asked ──► Ask ──► gathered, decided ──┘
//!                                    └────────────────────── Answer: it is in the log, or why not
//! ```
//!
//! Raft decides whether a configuration may follow another one (`raft/membership.rs`). What is decided here is what only the
//! table of members can say: whether such a member is there, whether an address is taken, how many learners there may be,
//! whether those who shall vote have ever been heard of. The leader does it when its own table has caught up with its log,
//! so no two changes are judged by the same table.
//!
//! A member that is added to vote joins as a learner first, and **the leader promotes it by itself** once it has caught up and
//! has said on which disk it lives: until then it costs nobody the quorum, and until then its id may still be given to another
//! disk (`server/join.rs`), because it has promised nothing that counts.
//!
//! # Never twice
//!
//! A question that was lost is asked again, by the same id and under the same leadership only; the leader remembers what it
//! decided about an id as long as it leads. When leadership changes, what may have been appended is answered `Uncertain`,
//! unless it was applied here already: then any leader finishes it, and the caller may wait for that.
//!
//! # The end of a member
//!
//! A member that has applied a configuration without itself has been removed. It answers whom it can, and then stops with a
//! sentence ([`Node::is_removed`]); a leader only when it does not lead any more, for it must tell the others first.
//!
//! Left out: a forced configuration for a cluster without a quorum, and an order in which waiting changes are made: each waits
//! for those before it, and is judged when its turn comes.

use super::Halt;
use super::input::{Refused, Reply, Slot, Uncertain};
use super::node::Node;
use crate::ids::{MemberId, RequestId, Term};
use crate::machine::{Member, Membership, Standing};
use crate::proto::quorate as own;
use crate::raft::quorum::{Configuration, Promotion, majority};
use crate::raft::{Change, ChangeRefusal, Entry};
use crate::time::{Duration, Time};
use own::change_refusal::Kind;
use own::{leader_answer::Answer, leader_question::Question};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Decisions that a leader remembers.
const DECIDED_MAX: usize = 64;
/// Questions that wait for an earlier change to be over; more are asked again later.
const GATHERED_MAX: usize = 64;

/// Why a change of the membership was surely not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeRefused {
    /// A member to be removed or promoted is none.
    MemberNotFound(MemberId),
    /// The id of a new member is taken, or was once.
    MemberExists(MemberId),
    /// Another member has one of a new member's peer URLs.
    PeerUrlsExist,
    /// A member to be promoted votes already, or will by itself.
    NotALearner(MemberId),
    /// A member to be promoted lacks too much of the log, or was not heard lately.
    NotCaughtUp(MemberId),
    /// There would be more learners that wait to be asked than may be.
    TooManyLearners {
        /// So many may be.
        most: usize,
    },
    /// Too few of those who would vote have ever been heard of.
    NotEnoughStarted {
        /// So many have.
        started: usize,
        /// So many are needed.
        quorum: usize,
    },
    /// Too few of those who would vote answer now.
    Unreachable {
        /// So many do.
        reachable: usize,
        /// So many are needed.
        quorum: usize,
    },
    /// The caller saw another configuration than the one that is in force.
    Version {
        /// The one in force.
        current: u64,
    },
    /// An earlier change did not come to its end in time.
    Pending,
    /// It would change nothing.
    Nothing,
}

impl fmt::Display for ChangeRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeRefused::MemberNotFound(id) => write!(f, "{id} is no member"),
            ChangeRefused::MemberExists(id) => write!(f, "{id} is a member, or was one; ids never come again"),
            ChangeRefused::PeerUrlsExist => f.write_str("another member has one of these peer URLs"),
            ChangeRefused::NotALearner(id) => write!(f, "member {id} is no learner that waits to be promoted"),
            ChangeRefused::NotCaughtUp(id) => write!(f, "member {id} has not caught up with the leader"),
            ChangeRefused::TooManyLearners { most } => {
                write!(f, "there may be {most} learners at most (--max-learners)")
            }
            ChangeRefused::NotEnoughStarted { started, quorum } => {
                write!(f, "of those who would vote then, {started} have ever been started, and a quorum needs {quorum}")
            }
            ChangeRefused::Unreachable { reachable, quorum } => {
                write!(f, "of those who would vote then, {reachable} answer now, and a quorum needs {quorum}")
            }
            ChangeRefused::Version { current } => {
                write!(f, "the membership was changed meanwhile: its configuration is number {current} now")
            }
            ChangeRefused::Pending => f.write_str("an earlier change of the membership is not over"),
            ChangeRefused::Nothing => f.write_str("it would change nothing"),
        }
    }
}

/// How far a caller's change has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It surely is in no log.
    Fresh,
    /// The leader was asked; to be asked again then.
    Asked(Time),
    /// It is in the leader's log.
    Appended,
    /// The joint configuration was applied here.
    Joint,
}

#[derive(Debug)]
struct Open {
    slot: Slot,
    change: own::MemberChange,
    since: Time,
    stage: Stage,
}

/// A question of another member.
#[derive(Debug)]
struct Gathered {
    id: RequestId,
    peer: MemberId,
    context: u64,
    change: own::MemberChange,
}

/// See the module's essay.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Callers that wait, by the sequence of their change's id: the oldest stand first.
    open: BTreeMap<u64, Open>,
    /// The leadership under which they were asked or appended.
    leadership: Option<(Term, MemberId)>,
    /// Leader: not decided yet, in the order in which they came.
    gathered: Vec<Gathered>,
    /// Leader: what became of whose change.
    decided: BTreeMap<RequestId, Option<ChangeRefused>>,
}

impl Changes {
    fn answer(&mut self, sequence: u64, reply: Reply, replies: &mut Vec<(Slot, Reply)>) {
        replies.extend(self.open.remove(&sequence).map(|open| (open.slot, reply)));
    }

    /// The caller has gone. What may have been appended goes on.
    pub(super) fn cancel(&mut self, slot: Slot) {
        self.open.retain(|_, open| open.slot != slot);
    }

    /// When the oldest caller asked.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.open.values().next().map(|open| open.since)
    }

    /// When the leader is to be asked again.
    pub(super) fn deadline(&self) -> Time {
        let again =
            self.open.values().filter_map(|open| if let Stage::Asked(at) = open.stage { Some(at) } else { None });
        again.min().unwrap_or(Time::NEVER)
    }

    /// Answers those who asked before `oldest`.
    pub(super) fn expire(&mut self, oldest: Time, leader_known: bool, replies: &mut Vec<(Slot, Reply)>) {
        while let Some(first) = self.open.first_entry().filter(|entry| entry.get().since < oldest) {
            let Open { slot, stage, .. } = first.remove();
            let reply = match stage {
                Stage::Fresh if leader_known => Reply::Refused(Refused::Change(ChangeRefused::Pending)),
                Stage::Fresh => Reply::Refused(Refused::NoLeader),
                Stage::Asked(_) | Stage::Appended | Stage::Joint => Reply::Uncertain(Uncertain::TimedOut),
            };
            replies.push((slot, reply));
        }
    }
}

/// What came of looking at a change.
enum Decision {
    /// Not now: something else must be over first.
    Wait,
    /// It is in the log, or why not.
    Made(Option<ChangeRefused>),
}

impl Node {
    /// A caller wants a change.
    pub(super) fn ask_change(&mut self, now: Time, slot: Slot, change: own::MemberChange) {
        let sequence = self.proposals.next_sequence();
        self.changes.open.insert(sequence, Open { slot, change, since: now, stage: Stage::Fresh });
    }

    /// Whether this member has been removed from its cluster, as far as it was applied here: then it is over.
    pub fn is_removed(&self) -> bool {
        self.machine.view().is_gone(self.identity.member)
    }

    /// A removed member stops, when nobody needs it any more to hear of it.
    ///
    /// # Errors
    /// It has come to that.
    pub(super) fn check_removal(&self) -> Result<(), Halt> {
        if !self.is_removed() || self.raft.is_leader() {
            return Ok(());
        }
        let Self { identity, .. } = self;
        Err(Halt(format!(
            "member {} was removed from cluster {}: it is over, and its id never comes again. Its data directory is of no use \
             to the cluster any more; to bring this host back, start it with an empty --data-dir and --join",
            identity.member, identity.cluster
        )))
    }

    /// Notices another leadership. Before anything is heard in a turn.
    pub(super) fn note_changes(&mut self) {
        if !self.raft.is_leader() {
            self.changes.gathered.clear();
            self.changes.decided.clear();
        }
        let Some(leadership) = self.raft.leader().map(|leader| (self.raft.term(), leader)) else { return };
        if self.changes.leadership.replace(leadership) == Some(leadership) {
            return;
        }
        self.changes.gathered.clear();
        self.changes.decided.clear();
        let may_be_lost = |open: &Open| matches!(open.stage, Stage::Asked(_) | Stage::Appended);
        let lost = self.changes.open.extract_if(.., |_, open| may_be_lost(open));
        self.replies.extend(lost.map(|(_, open)| (open.slot, Reply::Uncertain(Uncertain::LeaderLost))));
    }

    /// Leader: what a peer's caller wants.
    pub(super) fn change_question(&mut self, peer: MemberId, context: u64, question: own::ChangeQuestion) {
        let (Some(id), Some(change)) = (question.id, question.change) else { return };
        let id = RequestId {
            origin: MemberId(id.origin),
            incarnation: crate::ids::Incarnation(id.incarnation),
            sequence: id.sequence,
        };
        if let Some(decided) = self.changes.decided.get(&id).copied() {
            self.answer_change(peer, context, id, decided);
        } else if self.changes.gathered.len() < GATHERED_MAX && self.changes.gathered.iter().all(|asked| asked.id != id)
        {
            self.changes.gathered.push(Gathered { id, peer, context, change });
        }
    }

    /// Follower: the leader says what became of a change.
    pub(super) fn change_answer(&mut self, answer: own::ChangeAnswer) {
        let Some(open) = self.changes.open.get_mut(&answer.sequence) else { return };
        if !matches!(open.stage, Stage::Asked(_)) {
            return;
        }
        match answer.refusal {
            None => open.stage = Stage::Appended,
            Some(refusal) => match decode_refusal(&refusal) {
                Some(refused) => {
                    let reply = Reply::Refused(Refused::Change(refused));
                    self.changes.answer(answer.sequence, reply, &mut self.replies);
                }
                None => tracing::error!(?refusal, "the leader's answer about a change can't be read"),
            },
        }
    }

    fn answer_change(&mut self, peer: MemberId, context: u64, id: RequestId, decided: Option<ChangeRefused>) {
        let refusal = decided.map(encode_refusal);
        self.answer_peer(peer, context, Answer::Change(own::ChangeAnswer { sequence: id.sequence, refusal }));
    }

    /// The changes' part of a turn, when what has arrived is heard.
    pub(super) fn drive_changes(&mut self, now: Time) {
        if self.raft.is_leader() {
            self.decide_own(now);
            self.decide_gathered(now);
            self.promote_joining(now);
        } else if self.raft.leader().is_some() {
            self.ask_for_changes(now);
        }
    }

    fn id_of(&self, sequence: u64) -> RequestId {
        RequestId { origin: self.identity.member, incarnation: self.identity.incarnation, sequence }
    }

    /// Follower: tells the leader what its callers want; again, if nothing came for some heartbeats.
    fn ask_for_changes(&mut self, now: Time) {
        let again_at = now + self.config.heartbeat_interval.max(Duration::from_millis(1)) * 2;
        let is_due = |stage: Stage| stage == Stage::Fresh || matches!(stage, Stage::Asked(at) if at <= now);
        let mut due = Vec::new();
        for (sequence, open) in self.changes.open.iter_mut().filter(|(_, open)| is_due(open.stage)) {
            open.stage = Stage::Asked(again_at);
            due.push((*sequence, open.change.clone()));
        }
        for (sequence, change) in due {
            let id = self.id_of(sequence);
            let id = own::RequestId { origin: id.origin.0, incarnation: id.incarnation.0, sequence };
            let question = own::ChangeQuestion { id: Some(id), change: Some(change) };
            self.ask_leader(sequence, Question::Change(question));
        }
    }

    fn decide_own(&mut self, now: Time) {
        let fresh = self.changes.open.iter().filter(|(_, open)| open.stage == Stage::Fresh);
        let fresh: Vec<(u64, own::MemberChange)> =
            fresh.map(|(sequence, open)| (*sequence, open.change.clone())).collect();
        for (sequence, change) in fresh {
            match self.decide(now, self.id_of(sequence), &change) {
                Decision::Wait => return,
                Decision::Made(Some(refused)) => {
                    let reply = Reply::Refused(Refused::Change(refused));
                    self.changes.answer(sequence, reply, &mut self.replies);
                }
                Decision::Made(None) => {
                    if let Some(open) = self.changes.open.get_mut(&sequence) {
                        open.stage = Stage::Appended;
                    }
                }
            }
        }
    }

    fn decide_gathered(&mut self, now: Time) {
        let mut gathered = std::mem::take(&mut self.changes.gathered).into_iter();
        for asked in gathered.by_ref() {
            match self.decide(now, asked.id, &asked.change) {
                Decision::Wait => {
                    self.changes.gathered.push(asked);
                    break;
                }
                Decision::Made(decided) => {
                    self.changes.decided.insert(asked.id, decided);
                    self.answer_change(asked.peer, asked.context, asked.id, decided);
                }
            }
        }
        self.changes.gathered.extend(gathered);
        while self.changes.decided.len() > DECIDED_MAX {
            self.changes.decided.pop_first();
        }
    }

    /// Leader: appends a change if it may be made.
    fn decide(&mut self, now: Time, id: RequestId, change: &own::MemberChange) -> Decision {
        let Some(members) = self.settled_members() else { return Decision::Wait };
        let newest = self.raft.configuration();
        let target =
            match target(newest, &members, |id| self.machine.view().is_gone(id), change, self.config.max_learners) {
                Ok(target) => target,
                Err(refused) => return Decision::Made(Some(refused)),
            };
        let context = own::MemberChange { version: None, ..change.clone() }.encode_to_vec();
        match self.raft.propose_change(now, id, &target, &context) {
            Ok(_) => Decision::Made(None),
            Err(refusal) => refused(refusal).map_or(Decision::Wait, |refused| Decision::Made(Some(refused))),
        }
    }

    /// Leader: the table of members, if it says what the newest configuration says.
    pub(super) fn settled_members(&self) -> Option<BTreeMap<MemberId, Member>> {
        let (newest, view) = (self.raft.configuration(), self.machine.view());
        let applied = view.configuration();
        let is_applied = if applied.is_empty() { newest.version() == 0 } else { applied == newest.encode(b"") };
        let members = || view.members().into_iter().map(|member| (member.id, member)).collect();
        (is_applied && !newest.is_joint()).then(members)
    }

    /// Leader: makes voters of those that have caught up, all at once.
    fn promote_joining(&mut self, now: Time) {
        let newest = self.raft.configuration();
        let joining = newest.learners().iter().filter(|(_, promotion)| **promotion == Promotion::WhenCaughtUp);
        let ready: BTreeSet<MemberId> =
            joining.map(|(id, _)| *id).filter(|id| self.raft.is_caught_up(now, *id)).collect();
        if ready.is_empty() {
            return;
        }
        let Some(members) = self.settled_members() else { return };
        let started = |id: &MemberId| members.get(id).is_some_and(Member::is_started);
        let ready: BTreeSet<MemberId> = ready.into_iter().filter(started).collect();
        if ready.is_empty() {
            return;
        }
        let change = own::MemberChange { promote: ready.iter().map(|id| id.0).collect(), ..Default::default() };
        let mut learners = newest.learners().clone();
        learners.retain(|id, _| !ready.contains(id));
        let voters = newest.incoming().union(&ready).copied().collect();
        let target = Change { version: newest.version(), voters, learners };
        match self.raft.propose_change(now, RequestId::default(), &target, &change.encode_to_vec()) {
            Ok(_) => tracing::info!(?ready, "members have caught up: they become voters"),
            // Looked at again in the next turn.
            Err(refusal) => tracing::debug!(?refusal, ?ready, "members have caught up, but can't become voters yet"),
        }
    }

    /// An entry with a configuration was applied here: answers who waited for it.
    pub(super) fn note_membership(&mut self, entry: &Entry, is_ours: bool) {
        let Some((configuration, _)) = Configuration::decode(&entry.data) else { return };
        if !configuration.is_joint() {
            let over = self.changes.open.extract_if(.., |_, open| open.stage == Stage::Joint);
            let reply = || Reply::Changed { term: entry.position.term };
            self.replies.extend(over.map(|(_, open)| (open.slot, reply())));
        } else if is_ours && let Some(open) = self.changes.open.get_mut(&entry.id.sequence) {
            open.stage = Stage::Joint;
        }
    }
}

/// The configuration that a change asks for.
fn target(
    newest: &Configuration,
    members: &BTreeMap<MemberId, Member>,
    is_gone: impl Fn(MemberId) -> bool,
    change: &own::MemberChange,
    max_learners: usize,
) -> Result<Change, ChangeRefused> {
    if let Some(version) = change.version
        && version != newest.version()
    {
        return Err(ChangeRefused::Version { current: newest.version() });
    }
    let (mut voters, mut learners) = (newest.incoming().clone(), newest.learners().clone());
    for id in change.remove.iter().map(|id| MemberId(*id)) {
        if !voters.remove(&id) && learners.remove(&id).is_none() {
            return Err(ChangeRefused::MemberNotFound(id));
        }
    }
    for id in change.promote.iter().map(|id| MemberId(*id)) {
        let member = members.get(&id).ok_or(ChangeRefused::MemberNotFound(id))?;
        if learners.get(&id) != Some(&Promotion::OnRequest) {
            return Err(ChangeRefused::NotALearner(id));
        }
        if !member.is_started() {
            return Err(ChangeRefused::NotCaughtUp(id));
        }
        learners.remove(&id);
        voters.insert(id);
    }
    let stays = |member: &&Member| !change.remove.contains(&member.id.0);
    let mut urls: BTreeSet<&str> =
        members.values().filter(stays).flat_map(|member| &member.peer_urls).map(String::as_str).collect();
    for new in &change.add {
        let id = MemberId(new.id);
        if id == MemberId(0) || members.contains_key(&id) || is_gone(id) || learners.contains_key(&id) {
            return Err(ChangeRefused::MemberExists(id));
        }
        let own: BTreeSet<&str> = new.peer_urls.iter().map(String::as_str).collect();
        if own.iter().any(|url| !urls.insert(url)) {
            return Err(ChangeRefused::PeerUrlsExist);
        }
        learners.insert(id, if new.learner { Promotion::OnRequest } else { Promotion::WhenCaughtUp });
    }
    let waiting = learners.values().filter(|promotion| **promotion == Promotion::OnRequest).count();
    if waiting > max_learners && change.add.iter().any(|new| new.learner) {
        return Err(ChangeRefused::TooManyLearners { most: max_learners });
    }
    if voters != *newest.incoming() {
        let started = voters.iter().filter(|id| members.get(id).is_some_and(Member::is_started)).count();
        let quorum = majority(voters.len());
        if started < quorum {
            return Err(ChangeRefused::NotEnoughStarted { started, quorum });
        }
    }
    Ok(Change { version: newest.version(), voters, learners })
}

/// Raft's reason, if it is one that stays.
fn refused(refusal: ChangeRefusal) -> Option<ChangeRefused> {
    match refusal {
        ChangeRefusal::Unreachable { reachable, quorum } => Some(ChangeRefused::Unreachable { reachable, quorum }),
        ChangeRefusal::NotCaughtUp { member, .. } => Some(ChangeRefused::NotCaughtUp(member)),
        ChangeRefusal::Version { current } => Some(ChangeRefused::Version { current }),
        ChangeRefusal::Nothing => Some(ChangeRefused::Nothing),
        ChangeRefusal::NotLeader
        | ChangeRefusal::Transfer
        | ChangeRefusal::Busy
        | ChangeRefusal::TermNotCommitted
        | ChangeRefusal::Pending => None,
    }
}

fn encode_refusal(refused: ChangeRefused) -> own::ChangeRefusal {
    let (kind, first, second) = match refused {
        ChangeRefused::MemberNotFound(id) => (Kind::MemberNotFound, id.0, 0),
        ChangeRefused::MemberExists(id) => (Kind::MemberExists, id.0, 0),
        ChangeRefused::PeerUrlsExist => (Kind::PeerUrlsExist, 0, 0),
        ChangeRefused::NotALearner(id) => (Kind::NotALearner, id.0, 0),
        ChangeRefused::NotCaughtUp(id) => (Kind::NotCaughtUp, id.0, 0),
        ChangeRefused::TooManyLearners { most } => (Kind::TooManyLearners, most as u64, 0),
        ChangeRefused::NotEnoughStarted { started, quorum } => (Kind::NotEnoughStarted, started as u64, quorum as u64),
        ChangeRefused::Unreachable { reachable, quorum } => (Kind::Unreachable, reachable as u64, quorum as u64),
        ChangeRefused::Version { current } => (Kind::Version, current, 0),
        ChangeRefused::Pending => (Kind::Pending, 0, 0),
        ChangeRefused::Nothing => (Kind::Nothing, 0, 0),
    };
    own::ChangeRefusal { kind: kind.into(), first, second }
}

fn decode_refusal(refusal: &own::ChangeRefusal) -> Option<ChangeRefused> {
    let (first, second) = (refusal.first, refusal.second);
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Some(match Kind::try_from(refusal.kind).ok()? {
        Kind::Unknown => return None,
        Kind::MemberNotFound => ChangeRefused::MemberNotFound(MemberId(first)),
        Kind::MemberExists => ChangeRefused::MemberExists(MemberId(first)),
        Kind::PeerUrlsExist => ChangeRefused::PeerUrlsExist,
        Kind::NotALearner => ChangeRefused::NotALearner(MemberId(first)),
        Kind::NotCaughtUp => ChangeRefused::NotCaughtUp(MemberId(first)),
        Kind::TooManyLearners => ChangeRefused::TooManyLearners { most: count(first) },
        Kind::NotEnoughStarted => ChangeRefused::NotEnoughStarted { started: count(first), quorum: count(second) },
        Kind::Unreachable => ChangeRefused::Unreachable { reachable: count(first), quorum: count(second) },
        Kind::Version => ChangeRefused::Version { current: first },
        Kind::Pending => ChangeRefused::Pending,
        Kind::Nothing => ChangeRefused::Nothing,
    })
}

/// What an entry with a configuration means for the table of members.
///
/// # Errors
/// This release can't read it: to skip it would be another state than the other members'.
pub(super) fn of_entry(entry: &Entry) -> Result<Membership, Halt> {
    let unreadable = |why: &str| Halt(format!("entry {} can't be read: {why}", entry.position));
    let (configuration, context) = Configuration::decode(&entry.data)
        .ok_or_else(|| unreadable("it is no configuration that this release knows"))?;
    let change = own::MemberChange::decode(context).map_err(|error| unreadable(&error.to_string()))?;
    let voters = configuration.voters().map(|id| (id, Standing::Voter));
    let learners = configuration.learners().iter().map(|(id, promotion)| (*id, standing(*promotion)));
    Ok(Membership {
        // A voter on its way to become a learner is both, and shown as what it will be.
        members: voters.chain(learners).collect::<BTreeMap<MemberId, Standing>>(),
        peer_urls: change.add.into_iter().map(|new| (MemberId(new.id), new.peer_urls)).collect(),
        bytes: configuration.encode(b""),
    })
}

/// The configuration that the state was left with: the founders' if it never changed, and none for a member that joins and
/// has taken over no state yet.
///
/// # Errors
/// This release can't read it.
pub(super) fn of_state(bytes: &bytes::Bytes, founders: impl Iterator<Item = MemberId>) -> Result<Configuration, Halt> {
    let founders: BTreeSet<MemberId> = founders.collect();
    match (bytes.is_empty(), founders.is_empty()) {
        (true, true) => Ok(Configuration::unknown()),
        (true, false) => Ok(Configuration::new(founders)),
        (false, _) => Configuration::decode(bytes).map(|(configuration, _)| configuration).ok_or_else(|| {
            Halt("the state holds a configuration that this release does not know: a newer one wrote it".to_owned())
        }),
    }
}

fn standing(promotion: Promotion) -> Standing {
    match promotion {
        Promotion::OnRequest => Standing::Learner,
        Promotion::WhenCaughtUp => Standing::Joining,
    }
}

//! Membership: who belongs to the cluster, and how that changes (dissertation §4).
//!
//! A configuration is an entry of the log, and **the newest one counts from the moment it is appended**, committed or not,
//! on the leader and on every follower (§4.1). If it were counted from when it is applied, two members could be more than one
//! change apart, and then two majorities need not meet. So a truncation takes a configuration back, and the one before it
//! counts again: what is kept is the list of those that may still be taken back ([`Configurations`]), and it is found again
//! after a crash from the configuration at the applied index and the entries after it.
//!
//! **Every change is joint** (§4.3), one member or many: the leader appends the joint configuration, in which every decision
//! needs a majority of the old voters and one of the new ones, and when that is committed it appends the simple one by itself.
//! Whoever leads then does it, so that no crash leaves a change half done.
//!
//! A change is refused, surely not begun, while
//!
//! - no entry of the leader's own term is committed (the bug of 2015: two leaders' uncommitted configurations need not meet);
//! - an earlier change is not over;
//! - it was made for another configuration than the newest: two changes at once must not make one that nobody asked for;
//! - the voters that would be are not there: fewer of them than a majority were heard within an election timeout;
//! - a learner that shall vote has not caught up: until it had, it would count as one that is down.
//!
//! # Who is heard
//!
//! A message of someone who is not in this member's configuration is heard if it is a leader's or a candidate's (§4.1, §4.2.3):
//! the sender's configuration may be newer than this one's. So **anyone may vote**, also a member that learns and one that
//! does not know any configuration yet. That is safe: whoever counts votes or acknowledgements counts those of its own
//! configuration's voters only, so a vote of someone who is none is not counted by anybody; but one that was made a voter
//! and does not know it yet may be the one without which there is no quorum. One vote per term, durable, and a log that is as
//! good as the voter's own, is all that a vote ever promised. *Campaigning* is another matter: only who is a voter by a
//! configuration that may still be in force does: the newest, or one before it as long as the newest is not known to be
//! committed, for then it may be the only member that can commit that (§4.2.2). A removed member that was not told keeps asking; the others hear a live leader, or have a
//! longer log.
//!
//! # A leader that goes
//!
//! A leader that is not among the new voters leads until the simple configuration is committed, without counting itself
//! from the moment it is appended (§4.2.2); then it hands over to the best voter and steps down. Members that a change removes
//! are told: the leader goes on replicating to them until they have the commit of the simple configuration, or an election
//! timeout has passed.
//!
//! Left out: changes of one member without a joint configuration, forced configurations (a lost quorum is a matter for a
//! restored copy), witnesses, weights. What a configuration's context says is not Raft's affair.

use super::log::Log;
use super::message::{Entry, EntryKind, Message};
use super::progress::{Flow, Progress};
use super::quorum::{Configuration, Promotion, majority};
use super::raft::{LossCause, Raft, State};
use super::replication::Leading;
use crate::ids::{Index, MemberId, Position, RequestId};
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};

/// A wish for another configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of the configuration that it was made for.
    pub version: u64,
    /// Who shall vote.
    pub voters: BTreeSet<MemberId>,
    /// Who shall learn; nobody who shall vote.
    pub learners: BTreeMap<MemberId, Promotion>,
}

/// Why a change was surely not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeRefusal {
    /// This member does not lead.
    NotLeader,
    /// Leadership is being handed over.
    Transfer,
    /// Too many uncommitted bytes.
    Busy,
    /// The leader is new: it does not know yet what is committed. Try again at once.
    TermNotCommitted,
    /// An earlier change is not over.
    Pending,
    /// It was made for another configuration.
    Version {
        /// The newest configuration's.
        current: u64,
    },
    /// The new voters could decide nothing.
    Unreachable {
        /// So many of them were heard within an election timeout, the leader included.
        reachable: usize,
        /// So many are needed.
        quorum: usize,
    },
    /// A learner that shall vote lacks too much of the log, or was not heard within an election timeout.
    NotCaughtUp {
        /// Who.
        member: MemberId,
        /// What it has.
        matched: Index,
        /// Where the leader's log ends.
        last: Index,
    },
    /// It would change nothing.
    Nothing,
}

/// The configurations that count or may count again: the newest committed one, as far as is known here, and those after it.
///
/// Invariants: never empty; indexes ascend; all but the first are above the commit index. They are a view of the log,
/// not a second truth: each but the first is an entry that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Configurations {
    list: Vec<(Index, Configuration)>,
}

impl Configurations {
    /// `committed` is the one at `applied`; what the log says after that counts on top.
    pub(super) fn restore(committed: Configuration, applied: Index, log: &Log) -> Configurations {
        let mut configurations = Configurations { list: vec![(applied, committed)] };
        for entry in log.in_memory_after(applied) {
            configurations.appended(entry);
        }
        configurations
    }

    pub(super) fn newest(&self) -> &Configuration {
        &self.list[self.list.len() - 1].1
    }

    fn newest_at(&self) -> Index {
        self.list[self.list.len() - 1].0
    }

    fn committed(&self) -> &Configuration {
        &self.list[0].1
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Index, &Configuration)> {
        self.list.iter().map(|(index, configuration)| (*index, configuration))
    }

    /// An entry was appended to the log.
    ///
    /// # Panics
    /// If it is malformed: what a leader sends is looked at before, and what is on the disk was.
    pub(super) fn appended(&mut self, entry: &Entry) {
        if entry.kind == EntryKind::Configuration {
            let decoded = Configuration::decode(&entry.data);
            let Some((configuration, _)) = decoded else { panic!("entry {} is no configuration", entry.position) };
            self.list.push((entry.position.index, configuration));
        }
    }

    /// The log was cut: `from` and everything after it is gone.
    pub(super) fn truncated(&mut self, from: Index) {
        self.list.retain(|(index, _)| *index < from);
        assert!(!self.list.is_empty(), "a truncation from {from} took the committed configuration");
    }

    /// What the newest committed one replaced never counts again.
    pub(super) fn commit(&mut self, commit: Index) {
        let superseded = self.list[1..].iter().take_while(|(index, _)| *index <= commit).count();
        self.list.drain(..superseded);
    }
}

/// A member that a change removed, as long as it is still told so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// The simple configuration's entry.
    pub entry: Index,
    /// Then it is left alone; far off until that entry is committed.
    pub until: Time,
}

impl Raft {
    /// The newest configuration in the log: the one that counts.
    pub fn configuration(&self) -> &Configuration {
        self.configurations.newest()
    }

    /// The newest configuration known to be committed: what is told to people.
    pub fn committed_configuration(&self) -> &Configuration {
        self.configurations.committed()
    }

    /// Begins a change: appends the joint configuration, with `context` for the layers above. The simple one follows by
    /// itself, without a context.
    ///
    /// # Errors
    /// It was surely not begun.
    ///
    /// # Panics
    /// If a member shall both vote and learn, or if there are more than 255 of a kind.
    pub fn propose_change(
        &mut self,
        now: Time,
        id: RequestId,
        change: &Change,
        context: &[u8],
    ) -> Result<Position, ChangeRefusal> {
        self.check_change(now, change)?;
        let learners = change.learners.iter().map(|(member, promotion)| (*member, *promotion));
        let joint = self.configuration().enter(change.voters.iter().copied(), learners);
        tracing::info!(version = joint.version(), ?joint, "a change of membership begins");
        Ok(self.append_configuration(now, id, &joint, context))
    }

    fn check_change(&self, now: Time, change: &Change) -> Result<(), ChangeRefusal> {
        let State::Leader(leading) = &self.state else { return Err(ChangeRefusal::NotLeader) };
        let newest = self.configuration();
        if leading.transfer.is_some() {
            return Err(ChangeRefusal::Transfer);
        }
        if leading.uncommitted_bytes >= self.config.limits.max_uncommitted_bytes {
            return Err(ChangeRefusal::Busy);
        }
        if self.commit < leading.term_start {
            return Err(ChangeRefusal::TermNotCommitted);
        }
        if newest.is_joint() || self.configurations.newest_at() > self.commit {
            return Err(ChangeRefusal::Pending);
        }
        if change.version != newest.version() {
            return Err(ChangeRefusal::Version { current: newest.version() });
        }
        if change.voters == *newest.incoming() && change.learners == *newest.learners() {
            return Err(ChangeRefusal::Nothing);
        }
        let is_there = |member: &&MemberId| {
            **member == self.config.id || leading.progress.get(member).is_some_and(|p| self.is_alive(now, p))
        };
        let (reachable, quorum) = (change.voters.iter().filter(is_there).count(), majority(change.voters.len()));
        if reachable < quorum {
            return Err(ChangeRefusal::Unreachable { reachable, quorum });
        }
        let mut promoted = change.voters.iter().filter(|member| newest.learners().contains_key(member));
        match promoted.find(|member| !self.is_caught_up(now, **member)) {
            Some(member) => Err(ChangeRefusal::NotCaughtUp {
                member: *member,
                matched: leading.progress.get(member).map_or(Index(0), |p| p.matched),
                last: self.log.last().index,
            }),
            None => Ok(()),
        }
    }

    /// Whether it was heard in this leadership, and within an election timeout.
    fn is_alive(&self, now: Time, progress: &Progress) -> bool {
        progress.heard && now.since(progress.contact) < self.config.election_timeout
    }

    /// Whether `member` is so little behind this leader that it can vote without holding up a commit: appends flow, and what
    /// it lacks fits into one of them.
    pub fn is_caught_up(&self, now: Time, member: MemberId) -> bool {
        let State::Leader(leading) = &self.state else { return false };
        if member == self.config.id {
            return true;
        }
        let Some(p) = leading.progress.get(&member).filter(|p| self.is_alive(now, p)) else { return false };
        let flows = matches!(p.flow, Flow::Replicate { .. });
        flows
            && self.log.holds_after(p.matched)
            && self.log.bytes_after(p.matched) <= self.config.limits.max_append_bytes
    }

    fn append_configuration(
        &mut self,
        now: Time,
        id: RequestId,
        configuration: &Configuration,
        context: &[u8],
    ) -> Position {
        let position = self.append_own(EntryKind::Configuration, id, configuration.encode(context));
        self.follow_configuration(now);
        // Those whom the round in flight waits for may not be asked any more.
        self.finish_read_round();
        position
    }

    /// Leader: knows the progress of exactly the newest configuration's members, and of those that are leaving.
    pub(super) fn follow_configuration(&mut self, now: Time) {
        let (own, entry) = (self.config.id, self.configurations.newest_at());
        let next = self.log.last().index.next();
        let State::Leader(leading) = &mut self.state else { return };
        let members = self.configurations.newest().members();
        for (_, configuration) in self.configurations.iter() {
            for member in configuration.members().into_iter().filter(|member| *member != own) {
                let life = self.incarnations.get(&member).copied().unwrap_or_default();
                leading.progress.entry(member).or_insert_with(|| Progress::new(next, life, now));
            }
        }
        leading.leaving.retain(|member, _| !members.contains(member));
        if self.configurations.newest().is_joint() {
            return; // who is in neither half is still told of the simple one
        }
        for member in leading.progress.keys().filter(|member| !members.contains(member)) {
            leading.leaving.entry(*member).or_insert(Leaving { entry, until: Time::NEVER });
        }
    }

    /// Leader, once a turn: takes the next step of a change whose last one is committed.
    pub(super) fn drive_change(&mut self, now: Time) {
        let State::Leader(leading) = &mut self.state else { return };
        let newest = self.configurations.newest();
        let settled = self.configurations.newest_at() <= self.commit && self.commit >= leading.term_start;
        let until = now + self.config.election_timeout;
        for leaving in leading.leaving.values_mut().filter(|l| l.entry <= self.commit && l.until == Time::NEVER) {
            leaving.until = until;
        }
        if !settled || leading.transfer.is_some() {
            return;
        }
        if newest.is_joint() {
            let simple = newest.leave();
            tracing::info!(version = simple.version(), ?simple, "the joint configuration is committed: leaving it");
            self.append_configuration(now, RequestId::default(), &simple, &[]);
        } else if !newest.contains(self.config.id) && !std::mem::replace(&mut leading.retiring, true) {
            let heir = self.transfer(now, None);
            tracing::info!(?heir, "the configuration without this member is committed: handing over");
        }
    }

    /// Leader, at the end of a turn: a leader that is no voter any more has handed over as well as it could.
    pub(super) fn retire(&mut self, now: Time) {
        if let State::Leader(leading) = &self.state
            && leading.retiring
            && leading.transfer.as_ref().is_none_or(|transfer| transfer.told)
        {
            self.become_follower(now, self.hard.term, None, LossCause::Transfer);
        }
    }

    /// Leader: `member` has answered a heartbeat, having accepted `received` appends of its session. If it is leaving and
    /// the append that told it so is among them, it knows, and is left alone.
    pub(super) fn notice_farewell(&mut self, member: MemberId, received: u64) {
        let State::Leader(leading) = &mut self.state else { return };
        let Some(leaving) = leading.leaving.get(&member) else { return };
        let knows =
            |p: &Progress| p.told_commit >= leaving.entry && p.matched >= leaving.entry && received >= p.sequence;
        if leading.progress.get(&member).is_some_and(knows) {
            leading.forget(member);
        }
    }

    /// Whether a message is heard: a member's, a leader's or a candidate's. See the module's essay.
    pub(super) fn hears(&self, from: MemberId, message: &Message) -> bool {
        let known = match &self.state {
            // Those that are leaving are among them.
            State::Leader(leading) => leading.progress.contains_key(&from),
            _ => self.configuration().has_member(from) || self.leader() == Some(from),
        };
        known
            || match message {
                Message::PreVote { .. } | Message::Vote { .. } => true,
                Message::Append { .. } | Message::Heartbeat { .. } | Message::Install { .. } => true,
                Message::PreVoteReply { .. }
                | Message::VoteReply { .. }
                | Message::Appended { .. }
                | Message::Conflict { .. }
                | Message::HeartbeatReply { .. }
                | Message::ReadIndex { .. }
                | Message::ReadIndexReply { .. }
                | Message::Forward { .. }
                | Message::ForwardRefused { .. }
                | Message::TimeoutNow
                | Message::Ask { .. }
                | Message::Answer { .. } => false,
            }
    }
}

impl Leading {
    /// Leaves those alone that had an election timeout to hear that they are gone.
    pub(super) fn forget_the_deaf(&mut self, now: Time) {
        let gone: Vec<MemberId> =
            self.leaving.iter().filter(|(_, leaving)| now >= leaving.until).map(|(member, _)| *member).collect();
        gone.into_iter().for_each(|member| self.forget(member));
    }

    fn forget(&mut self, member: MemberId) {
        self.leaving.remove(&member);
        self.progress.remove(&member);
    }
}

//! Elections (Raft §5.2, dissertation §3.10, §4.2.3, §9.6).
//!
//! A member that hears no leader for its patience first asks for *pre-votes*: would you vote for me? Only with a quorum of
//! those does it raise its term and ask in earnest. So a member that was cut off, or that a one-way link keeps from hearing
//! its leader, moves nobody's term when it comes back.
//!
//! A member that has heard its leader within the election timeout T is *sticky*: it refuses pre-votes and does not even
//! hear vote requests of higher terms. The exception is a transfer, where the leader itself asked for the election.
//!
//! **A lost connection is a hint.** When the leader's stream to a follower breaks, that follower alone forgets its leader:
//! it is no longer sticky, and pre-votes within 20 ms instead of T. A follower whose stream lives stays sticky and refuses,
//! so one flaky link leads nowhere, while a killed process, whose streams all break at once, is replaced in tens of
//! milliseconds. The hint works once per leader process and term, and again after the leader was followed for T without a
//! break: a link that flaps costs at most one round of pre-votes per T. Stickiness is thereby no promise in time; nothing
//! may rest a lease on it.
//!
//! There is one gate to campaigning, [`Raft::may_campaign`], for a lost patience, a hint and a transfer alike.

use super::message::Message;
use super::quorum::Tally;
use super::raft::{Event, Following, LossCause, Raft, State};
use super::replication::Leading;
use crate::ids::{Incarnation, MemberId, Position, Term, WriteSeq};
use crate::time::{Duration, Time};
use std::collections::BTreeSet;

/// The first campaign after a lost connection starts within this time: long enough for the other followers to notice the
/// same loss, and to part the candidates.
const HINT_DELAY_MAX: Duration = Duration::from_millis(20);
/// A hinted campaign that fails is tried again after a time in this interval; who grants a pre-vote waits as long before a
/// campaign of its own.
const HINT_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(100));
/// So many hinted campaigns, then ordinary patience.
const HINT_ATTEMPTS: u32 = 3;

/// A campaign, for pre-votes or votes.
#[derive(Clone, Debug)]
pub(super) struct Campaign {
    /// Echoed in answers: those of another campaign don't count (openraft 511f33c7).
    pub id: u64,
    pub granted: BTreeSet<MemberId>,
    pub rejected: BTreeSet<MemberId>,
    /// The write that makes the vote for oneself durable: counted when it is.
    pub own_vote: WriteSeq,
}

/// There is no leader as far as this member can know: its connection broke, or this member was just born. Campaigns are
/// tried in quick succession.
#[derive(Clone, Debug, Default)]
pub(super) struct Hint {
    attempts: u32,
}

/// Leadership on its way to another member.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub target: MemberId,
    pub deadline: Time,
    /// The target was told.
    pub told: bool,
}

/// Why leadership can't be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// This member does not lead.
    NotLeader,
    /// No such voter, or none that answers.
    BadTarget,
}

impl Raft {
    /// `peer`'s stream to this member broke, after its last message.
    pub fn peer_lost(&mut self, now: Time, peer: MemberId, incarnation: Incarnation) {
        match &mut self.state {
            State::Leader(leading) => {
                if let Some(progress) = leading.progress.get_mut(&peer) {
                    progress.probe();
                }
            }
            State::Follower(following) if following.leader == Some((peer, incarnation)) => {
                let life = (self.hard.term, peer, incarnation);
                let settled = now.since(following.since) >= self.config.election_timeout;
                if self.hint_spent == Some(life) && !settled {
                    return;
                }
                following.leader = None;
                self.hint_spent = Some(life);
                self.hint = Some(Hint::default());
                self.election_deadline = now + self.rng.duration(Duration::ZERO, HINT_DELAY_MAX);
                self.reads.leader_changed();
                self.note(Event::LeaderLost(LossCause::ConnectionLost));
            }
            _ => {}
        }
    }

    /// Hands leadership to `target`, or to the follower that is furthest. Says to whom; whether it succeeds shows in who
    /// leads next. Until then proposals are refused; after an election timeout it is given up.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub fn transfer(&mut self, now: Time, target: Option<MemberId>) -> Result<MemberId, TransferError> {
        let timeout = self.config.election_timeout;
        let State::Leader(leading) = &mut self.state else { return Err(TransferError::NotLeader) };
        // Who votes only until the change under way is over would have to hand over again.
        let voters = self.configurations.newest().incoming();
        let target = match target {
            Some(target) if target == self.config.id => return Ok(target),
            Some(target) if voters.contains(&target) => target,
            Some(_) => return Err(TransferError::BadTarget),
            None => {
                let voters = leading.progress.iter().filter(|(peer, _)| voters.contains(peer));
                let alive = voters.filter(|(_, p)| now.since(p.contact) < timeout);
                *alive.max_by_key(|(_, p)| p.matched).ok_or(TransferError::BadTarget)?.0
            }
        };
        leading.transfer = Some(Transfer { target, deadline: now + timeout, told: false });
        Ok(target)
    }

    /// Whether a live leader is reason enough not to hear `asker`'s campaign.
    pub(super) fn is_sticky(&self, now: Time, asker: MemberId) -> bool {
        match &self.state {
            State::Leader(_) => true,
            State::Follower(Following { leader: Some((leader, _)), heard, .. }) => {
                *leader != asker && now.since(*heard) < self.config.election_timeout
            }
            _ => false,
        }
    }

    /// The one gate: only a member whose log holds everything it ever acknowledged, who can apply it, and that is a voter by
    /// its newest configuration or by one that may still be in force. Who votes no more once its newest configuration is committed may be
    /// the only one that can commit it: those who will vote may lack it, and can't win against a longer log (§4.2.2).
    fn may_campaign(&self) -> bool {
        let complete = self.floor.is_none_or(|floor| self.log.last().reaches(floor));
        let votes = self.configurations.iter().any(|(_, configuration)| configuration.contains(self.config.id));
        votes && complete && !self.config.hollow
    }

    /// What stands for this member's log in vote checks: its end, or the mark it once acknowledged and lost.
    fn vote_position(&self) -> Position {
        let last = self.log.last();
        match self.floor {
            Some(floor) if !last.at_least_as_up_to_date_as(floor) => floor,
            _ => last,
        }
    }

    /// The time without a leader is up.
    pub(super) fn lose_patience(&mut self, now: Time) {
        if let Some(hint) = &mut self.hint {
            hint.attempts += 1;
            if hint.attempts > HINT_ATTEMPTS {
                self.hint = None;
            }
        }
        if self.leader().is_some() {
            self.note(Event::LeaderLost(LossCause::Timeout));
            self.reads.leader_changed();
        }
        self.election_deadline = now + self.campaign_patience();
        if !self.may_campaign() {
            self.state = State::Follower(Following::default());
            return;
        }
        self.note(Event::Campaigned { term: self.hard.term.next() });
        let campaign = self.new_campaign();
        let id = campaign.id;
        self.state = State::PreCandidate(campaign);
        let (next_term, last) = (self.hard.term.next(), self.log.last());
        for peer in self.peers() {
            self.send(peer, Message::PreVote { campaign: id, next_term, last });
        }
        let own = self.config.id;
        self.on_pre_vote_reply(now, own, id, true);
    }

    /// Raises the term and asks for votes.
    fn campaign(&mut self, now: Time, transfer: bool) {
        self.set_term(self.hard.term.next(), Some(self.config.id));
        let mut campaign = self.new_campaign();
        campaign.own_vote = self.writes.of_state(self.log.last().index);
        let id = campaign.id;
        self.state = State::Candidate(campaign);
        self.election_deadline = now + self.campaign_patience();
        let last = self.log.last();
        for peer in self.peers() {
            self.send(peer, Message::Vote { campaign: id, last, transfer });
        }
    }

    fn new_campaign(&mut self) -> Campaign {
        self.campaigns += 1;
        Campaign { id: self.campaigns, granted: BTreeSet::new(), rejected: BTreeSet::new(), own_vote: WriteSeq(0) }
    }

    fn campaign_patience(&mut self) -> Duration {
        match self.hint {
            Some(_) => self.rng.duration(HINT_RETRY.0, HINT_RETRY.1),
            None => self.patience(),
        }
    }

    pub(super) fn on_pre_vote(&mut self, now: Time, from: MemberId, campaign: u64, next_term: Term, last: Position) {
        let granted = next_term > self.hard.term
            && last.at_least_as_up_to_date_as(self.vote_position())
            && !self.is_sticky(now, from);
        if granted {
            let hold = now + self.rng.duration(HINT_RETRY.0, HINT_RETRY.1);
            self.election_deadline = self.election_deadline.max(hold);
        }
        self.send(from, Message::PreVoteReply { campaign, granted });
    }

    pub(super) fn on_pre_vote_reply(&mut self, now: Time, from: MemberId, campaign: u64, granted: bool) {
        let State::PreCandidate(running) = &mut self.state else { return };
        if running.id != campaign {
            return;
        }
        if granted {
            running.granted.insert(from)
        } else {
            running.rejected.insert(from)
        };
        if self.configurations.newest().tally(&running.granted, &running.rejected) == Tally::Won {
            self.campaign(now, false);
        }
    }

    pub(super) fn on_vote(&mut self, now: Time, from: MemberId, campaign: u64, last: Position, transfer: bool) {
        let free = self.hard.vote == Some(from) || (self.hard.vote.is_none() && self.leader().is_none());
        let granted = free && last.at_least_as_up_to_date_as(self.vote_position());
        if granted {
            self.set_vote(from);
            if let State::PreCandidate(_) = self.state {
                self.state = State::Follower(Following::default());
            }
            self.election_deadline = now + self.patience();
        }
        tracing::debug!(%from, term = %self.hard.term, granted, transfer, "vote");
        self.send(from, Message::VoteReply { campaign, granted });
    }

    pub(super) fn on_vote_reply(&mut self, now: Time, from: MemberId, campaign: u64, granted: bool) {
        let State::Candidate(running) = &mut self.state else { return };
        if running.id != campaign {
            return;
        }
        if granted {
            running.granted.insert(from)
        } else {
            running.rejected.insert(from)
        };
        if self.configurations.newest().tally(&running.granted, &running.rejected) == Tally::Won {
            self.become_leader(now);
        }
    }

    /// A candidate's vote for itself counts like any other: when it is durable.
    pub(super) fn count_own_vote(&mut self, now: Time) {
        if let State::Candidate(running) = &self.state
            && running.own_vote <= self.writes.durable()
        {
            let id = running.id;
            self.on_vote_reply(now, self.config.id, id, true);
        }
    }

    pub(super) fn on_timeout_now(&mut self, now: Time, from: MemberId, term: Term) {
        if self.leader() != Some(from) || self.is_leader() || !self.may_campaign() {
            tracing::debug!(%from, %term, "a transfer that is not for us now");
            return;
        }
        self.note(Event::LeaderLost(LossCause::Transfer));
        self.note(Event::Campaigned { term: self.hard.term.next() });
        self.reads.leader_changed();
        self.campaign(now, true);
    }

    fn become_leader(&mut self, now: Time) {
        assert!(matches!(self.state, State::Candidate(_)), "only a candidate can win an election");
        let next = self.log.last().index.next();
        let uncommitted = self.log.bytes_after(self.commit);
        self.state = State::Leader(Box::new(Leading::new(next, uncommitted, now)));
        self.follow_configuration(now);
        self.hint = None;
        self.note(Event::LeaderKnown { term: self.hard.term, leader: self.config.id });
        self.append_noop();
    }
}

//! Linearizable reads without a log entry (ReadIndex, dissertation §6.4).
//!
//! A leader that may have been deposed must not answer from its own state. It notes its commit index, makes sure in a
//! *round* of heartbeats that a quorum still follows it, and may then answer as soon as that index is applied. A new leader
//! first commits an entry of its own term, for only then does it know what was committed before it (etcd #7331 and kin).
//!
//! Rounds are numbered by the leader; an answer confirms its round and all earlier ones, and nothing that a requester says
//! is ever a key (keyed by the requester's context, a late answer can confirm a later read: etcd #20418). A read joins a
//! round that begins after it arrived, never one in flight. One round is in flight at a time, so a thousand reads cost two.
//!
//! A follower asks the leader for an index on behalf of all its waiting reads, and serves them itself once it has applied
//! that far. Reads are harmless to repeat, so when the leader changes they simply ask again.

use super::message::Message;
use super::raft::{Raft, ReadState, State};
use crate::ids::{Index, MemberId};
use crate::time::{Duration, Time};

/// A leader's rounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    /// The newest round's number; goes out with every heartbeat.
    pub number: u64,
    pub in_flight: Option<Round>,
    /// When the newest round began that a quorum has confirmed.
    pub confirmed: Option<Time>,
    /// Followers' requests that the next round takes along.
    pub remote: Vec<(MemberId, u64)>,
}

#[derive(Clone, Debug)]
pub(super) struct Round {
    pub number: u64,
    pub began: Time,
    pub index: Index,
    pub local: Vec<u64>,
    pub remote: Vec<(MemberId, u64)>,
}

impl Rounds {
    /// The local reads of the round in flight, taken out.
    pub(super) fn local_readers(&mut self) -> Vec<u64> {
        self.in_flight.take().map(|round| round.local).unwrap_or_default()
    }
}

/// A member's own waiting reads; on a follower also the request that is out.
#[derive(Clone, Debug)]
pub(super) struct FollowerReads {
    pub waiting: Vec<u64>,
    pub asked: Option<Asked>,
    pub asks: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub context: u64,
    pub readers: Vec<u64>,
    pub again_at: Time,
}

impl FollowerReads {
    /// Nobody reads. Requests are numbered after `asks`.
    pub(super) fn new(asks: u64) -> FollowerReads {
        FollowerReads { waiting: Vec::new(), asked: None, asks }
    }

    /// Whoever was asked is not the leader any more: ask again.
    pub(super) fn leader_changed(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.take_back(asked.readers);
        }
    }

    pub(super) fn take_back(&mut self, readers: Vec<u64>) {
        self.waiting.splice(0..0, readers);
    }

    pub(super) fn deadline(&self) -> Time {
        self.asked.as_ref().map_or(Time::NEVER, |asked| asked.again_at)
    }
}

impl Raft {
    /// A read, under the caller's own mark: comes back from [`Raft::take_reads`] with its index, if there is a leader to be
    /// found. The caller bounds its own patience.
    pub fn read(&mut self, context: u64) {
        self.reads.waiting.push(context);
    }

    /// The caller does not wait for this read any more.
    pub fn forget_read(&mut self, context: u64) {
        self.reads.waiting.retain(|waiting| *waiting != context);
    }

    /// Leader: a moment by its own clock, the newest known, at which surely nobody led in a later term: a quorum that still
    /// followed this member has said so in a round that began then, and who leads later was voted for by one of them later.
    pub fn led_at(&self) -> Option<Time> {
        let State::Leader(leading) = &self.state else { return None };
        leading.rounds.confirmed
    }

    /// Leader: begins a round if one is due.
    pub(super) fn begin_read_round(&mut self, now: Time) {
        let State::Leader(leading) = &mut self.state else { return };
        let rounds = &mut leading.rounds;
        let idle = rounds.in_flight.is_none() && (!self.reads.waiting.is_empty() || !rounds.remote.is_empty());
        if !idle || self.commit < leading.term_start {
            return;
        }
        rounds.number += 1;
        rounds.in_flight = Some(Round {
            number: rounds.number,
            began: now,
            index: self.commit,
            local: std::mem::take(&mut self.reads.waiting),
            remote: std::mem::take(&mut rounds.remote),
        });
        self.heartbeat(now);
        self.finish_read_round();
    }

    /// Leader: releases the round in flight if a quorum has confirmed it.
    pub(super) fn finish_read_round(&mut self) {
        let State::Leader(leading) = &mut self.state else { return };
        let (own, own_round) = (self.config.id, leading.rounds.number);
        let confirmed = |m| leading.progress.get(&m).map_or(if m == own { own_round } else { 0 }, |p| p.confirmed);
        let confirmed = self.configurations.newest().reached(confirmed);
        let Some(round) = leading.rounds.in_flight.take_if(|round| round.number <= confirmed) else { return };
        let index = round.index;
        leading.rounds.confirmed = Some(round.began);
        self.readable.extend(round.local.into_iter().map(|context| ReadState { context, index }));
        for (peer, context) in round.remote {
            self.send(peer, Message::ReadIndexReply { context, index });
        }
    }

    /// Follower: asks the leader on behalf of everyone waiting.
    pub(super) fn ask_read_index(&mut self, now: Time) {
        let State::Follower(following) = &self.state else { return };
        let Some((leader, _)) = following.leader else { return };
        let again = self.config.heartbeat_interval.max(Duration::from_millis(1));
        let reads = &mut self.reads;
        match &mut reads.asked {
            None if reads.waiting.is_empty() => return,
            None => {
                reads.asks += 1;
                let readers = std::mem::take(&mut reads.waiting);
                reads.asked = Some(Asked { context: reads.asks, readers, again_at: now + again });
            }
            Some(asked) if now >= asked.again_at => asked.again_at = now + again,
            Some(_) => return,
        }
        let context = reads.asks;
        self.send(leader, Message::ReadIndex { context });
    }

    pub(super) fn on_read_index(&mut self, from: MemberId, context: u64) {
        if let State::Leader(leading) = &mut self.state
            && !leading.rounds.remote.contains(&(from, context))
        {
            leading.rounds.remote.push((from, context));
        }
    }

    pub(super) fn on_read_index_reply(&mut self, from: MemberId, context: u64, index: Index) {
        if self.leader() != Some(from) {
            return;
        }
        if let Some(asked) = self.reads.asked.take_if(|asked| asked.context == context) {
            self.readable.extend(asked.readers.into_iter().map(|context| ReadState { context, index }));
        }
    }
}

//! Replication (Raft §5.3): how a leader's log becomes everyone's.
//!
//! The leader sends at the end of each turn, everything the turn brought in one append per follower. The follower compares
//! what stands before the new entries, cuts off what contradicts them (and only that: an old, shorter append must not
//! shorten the log), and acknowledges what it has *verified against this leader and made durable*, once per finished write.
//!
//! The leader commits what a quorum acknowledged, by sorting, if it is of its own term (§5.4.2); everything before it comes
//! along. It counts itself like any other: by what its own disk has finished.
//!
//! Nothing is sent twice on a timer. A heartbeat says which append was sent last; its answer says which one was accepted
//! last and repeats the acknowledgement, so a lost append brings back the probe, and a lost acknowledgement is made good.

use super::LogRead;
use super::election::Transfer;
use super::log::Slice;
use super::membership::Leaving;
use super::message::{Entry, EntryKind, Message, Refusal};
use super::progress::{Flow, Progress};
use super::quorum::Configuration;
use super::raft::{Event, LossCause, Raft, State};
use super::read::Rounds;
use crate::ids::{Incarnation, Index, MemberId, Position, RequestId, Term};
use crate::time::Time;
use bytes::Bytes;
use std::collections::BTreeMap;

/// What a leader knows: gone when it steps down.
#[derive(Clone, Debug)]
pub(super) struct Leading {
    /// Of all members but itself, and of those that are leaving.
    pub progress: BTreeMap<MemberId, Progress>,
    /// Members that a change removed and that are told so.
    pub leaving: BTreeMap<MemberId, Leaving>,
    /// Its configuration is settled without it: it hands over and goes.
    pub retiring: bool,
    /// Where its own term begins: its no-op.
    pub term_start: Index,
    pub rounds: Rounds,
    pub transfer: Option<Transfer>,
    pub next_heartbeat: Time,
    /// A stalled disk is looked at again from here on.
    pub next_stall_check: Time,
    pub uncommitted_bytes: usize,
    /// The newest forwarded request heard of each origin: a repeated one is not appended again.
    pub forwarded: BTreeMap<(MemberId, Incarnation), u64>,
}

impl Leading {
    pub(super) fn new(start: Index, uncommitted: usize, now: Time) -> Leading {
        Leading {
            progress: BTreeMap::new(),
            leaving: BTreeMap::new(),
            retiring: false,
            term_start: start,
            rounds: Rounds::default(),
            transfer: None,
            next_heartbeat: now,
            next_stall_check: now,
            uncommitted_bytes: uncommitted,
            forwarded: BTreeMap::new(),
        }
    }
}

impl Raft {
    // ---- the leader

    /// Appends a command to the log. It leaves for the peers and the disk at the end of the turn.
    ///
    /// # Errors
    /// It was surely not appended.
    ///
    /// # Panics
    /// If this member does not lead.
    pub fn propose(&mut self, id: RequestId, data: Bytes, grows: bool) -> Result<Position, Refusal> {
        let State::Leader(leading) = &self.state else { panic!("only a leader appends commands") };
        if leading.transfer.is_some() {
            return Err(Refusal::Transfer);
        }
        if grows && !self.accepting {
            return Err(Refusal::Space);
        }
        let size = Entry::OVERHEAD + data.len();
        if leading.uncommitted_bytes > 0 && leading.uncommitted_bytes + size > self.config.limits.max_uncommitted_bytes
        {
            return Err(Refusal::Busy);
        }
        Ok(self.append_own(EntryKind::Command, id, data))
    }

    /// Sends a command to the leader. Says whether it may have left: once it has, it is never sent again.
    pub fn forward(&mut self, id: RequestId, data: Bytes, grows: bool) -> bool {
        let State::Follower(following) = &self.state else { return false };
        let Some((leader, _)) = following.leader else { return false };
        self.send(leader, Message::Forward { id, data, grows });
        true
    }

    pub(super) fn on_forward(&mut self, from: MemberId, id: RequestId, data: Bytes, grows: bool) {
        let State::Leader(leading) = &mut self.state else { return };
        let newest = leading.forwarded.entry((from, id.incarnation)).or_insert(0);
        if id.origin != from || id.sequence <= *newest {
            return;
        }
        *newest = id.sequence;
        if let Err(reason) = self.propose(id, data, grows) {
            self.send(from, Message::ForwardRefused { sequence: id.sequence, reason });
        }
    }

    pub(super) fn append_noop(&mut self) {
        self.append_own(EntryKind::Noop, RequestId::default(), Bytes::new());
    }

    pub(super) fn append_own(&mut self, kind: EntryKind, id: RequestId, data: Bytes) -> Position {
        let position = Position { index: self.log.last().index.next(), term: self.hard.term };
        let entry = Entry::new(position, kind, id, data);
        if let State::Leader(leading) = &mut self.state {
            leading.uncommitted_bytes += entry.size();
        }
        self.append_to_log(entry);
        position
    }

    /// The one place where the log grows: a configuration counts from here on.
    fn append_to_log(&mut self, entry: Entry) {
        self.configurations.appended(&entry);
        self.log.append(entry);
    }

    /// A leader's timers: does a quorum still hear it, is a transfer overdue, is its own disk stuck, is a heartbeat due.
    pub(super) fn lead(&mut self, now: Time) {
        let timeout = self.config.election_timeout;
        let State::Leader(leading) = &mut self.state else { return };
        if leading.transfer.as_ref().is_some_and(|t| now >= t.deadline) {
            leading.transfer = None;
        }
        let heartbeat_due = now >= leading.next_heartbeat;
        // Whatever is due now: rounds of reads are heartbeats, and put the next one off.
        if !leading.leaving.is_empty() {
            leading.forget_the_deaf(now);
        }
        let handing_over = leading.transfer.is_some() || leading.progress.is_empty() || now < leading.next_stall_check;
        if now.since(self.quorum_contact(now)) >= timeout {
            tracing::warn!(term = %self.hard.term, "no quorum heard for an election timeout: stepping down");
            self.become_follower(now, self.hard.term, None, LossCause::NoQuorum);
            return;
        }
        if !handing_over && self.writes.oldest().is_some_and(|since| now.since(since) >= timeout) {
            self.hand_over_stalled(now);
        }
        if heartbeat_due {
            self.heartbeat(now);
        }
    }

    /// A leader that can't write is no use though its heartbeats flow: the best follower takes over, if there is one.
    fn hand_over_stalled(&mut self, now: Time) {
        let again = now + self.config.election_timeout;
        let target = self.transfer(now, None);
        tracing::warn!(?target, "the disk has not finished a write for an election timeout: handing over");
        if let State::Leader(leading) = &mut self.state {
            leading.next_stall_check = again;
        }
    }

    /// The latest moment at which a quorum, this member included, was heard.
    fn quorum_contact(&self, now: Time) -> Time {
        let State::Leader(leading) = &self.state else { return now };
        let own = self.config.id;
        let contact = |m| leading.progress.get(&m).map_or(if m == own { now } else { Time(0) }, |p| p.contact);
        self.configuration().reached(contact)
    }

    pub(super) fn leader_deadline(&self, leading: &Leading) -> Time {
        let timeout = self.config.election_timeout;
        let quorum = self.quorum_contact(Time::NEVER) + timeout;
        let transfer = leading.transfer.as_ref().map(|t| t.deadline);
        let stall = match leading.progress.is_empty() {
            true => Time::NEVER,
            false => self.writes.oldest().map_or(Time::NEVER, |since| (since + timeout).max(leading.next_stall_check)),
        };
        leading.next_heartbeat.min(quorum).min(transfer.unwrap_or(stall))
    }

    pub(super) fn heartbeat(&mut self, now: Time) {
        let next = now + self.config.heartbeat_interval;
        let commit = self.commit;
        let State::Leader(leading) = &mut self.state else { return };
        leading.next_heartbeat = next;
        let round = leading.rounds.number;
        let beats: Vec<(MemberId, Message)> = leading
            .progress
            .iter()
            .map(|(peer, p)| {
                let (session, sequence, commit) = (p.session, p.sequence, commit.min(p.matched));
                (*peer, Message::Heartbeat { session, sequence, commit, round })
            })
            .collect();
        for (peer, beat) in beats {
            self.send(peer, beat);
        }
    }

    /// Sends each follower what it lacks, as far as its window allows.
    pub(super) fn replicate(&mut self) {
        let State::Leader(leading) = &self.state else { return };
        let peers: Vec<MemberId> = leading.progress.keys().copied().collect();
        for peer in peers {
            while self.replicate_once(peer) {}
        }
        self.tell_transferee();
    }

    /// Sends one append to `peer` if there is something to say. Says whether there may be more.
    fn replicate_once(&mut self, peer: MemberId) -> bool {
        let (base, last, commit) = (self.log.base(), self.log.last().index, self.commit);
        let (messages, bytes) = (self.config.limits.max_inflight_messages, self.config.limits.max_inflight_bytes);
        let State::Leader(leading) = &mut self.state else { return false };
        let Some(p) = leading.progress.get_mut(&peer) else { return false };
        if p.loading.is_some() {
            return false;
        }
        if p.next <= base.index {
            if p.needs_state(base.index) {
                let session = p.session;
                self.send(peer, Message::Install { session, base });
            }
            return false;
        }
        let room = p.has_room(messages, bytes);
        if p.next <= last && room {
            match self.log.slice(p.next, self.config.limits.max_append_bytes) {
                Slice::Entries(entries) => self.send_append(peer, entries),
                Slice::OnDisk => {
                    p.loading = Some(p.next);
                    self.loads.push(LogRead { peer, from: p.next, max_bytes: self.config.limits.max_append_bytes });
                    return false;
                }
                Slice::Past => unreachable!("next {} is not past the end {last}", p.next),
            }
            return true;
        }
        let news = match p.flow {
            Flow::Probe { outstanding } => outstanding.is_none(),
            // Even with a full window the commit index must spread (etcd PR #14633).
            Flow::Replicate { .. } => p.told_commit < commit.min(p.next.prev()),
            Flow::Install { .. } => unreachable!("next {} is above the base {base}", p.next),
        };
        if news {
            self.send_append(peer, Vec::new());
        }
        false
    }

    fn send_append(&mut self, peer: MemberId, entries: Vec<Entry>) {
        let commit = self.commit;
        let State::Leader(leading) = &mut self.state else { return };
        let Some(p) = leading.progress.get_mut(&peer) else { return };
        let prev = self.log.position_at(p.next.prev()).expect("what precedes the next entry is in the log");
        if let Some(rotten) = entries.iter().find(|e| !e.is_sound()) {
            panic!("entry {} is not what was appended: its checksum is {:08x}", rotten.position, rotten.checksum);
        }
        let last = entries.last().map_or(prev.index, |e| e.position.index);
        p.sent(last, entries.iter().map(Entry::size).sum());
        p.told_commit = p.told_commit.max(commit.min(last));
        let (session, sequence) = (p.session, p.sequence);
        self.send(peer, Message::Append { session, sequence, prev, commit, entries });
    }

    /// Entries that were read from the disk for a follower far behind.
    pub fn loaded(&mut self, read: LogRead, entries: Vec<Entry>) {
        let State::Leader(leading) = &mut self.state else { return };
        let Some(p) = leading.progress.get_mut(&read.peer) else { return };
        if p.loading != Some(read.from) {
            return;
        }
        p.loading = None;
        if p.next <= self.log.base().index {
            return; // what precedes them was let go meanwhile
        }
        let expected = |e: &Entry| self.log.term_at(e.position.index) == Some(e.position.term);
        let follows = entries.first().is_some_and(|e| e.position.index == p.next);
        if follows && entries.iter().all(expected) && p.has_room(usize::MAX, usize::MAX) {
            self.send_append(read.peer, entries);
        }
    }

    /// Messages to `peer` don't arrive: wait for a sign of life before the next append.
    pub fn peer_unreachable(&mut self, peer: MemberId) {
        if let State::Leader(leading) = &mut self.state
            && let Some(p) = leading.progress.get_mut(&peer)
        {
            p.hold();
        }
    }

    pub(super) fn on_appended(&mut self, now: Time, from: MemberId, session: u64, matched: Index) {
        let last = self.log.last().index;
        let State::Leader(leading) = &mut self.state else { return };
        let Some(p) = leading.progress.get_mut(&from) else { return };
        p.heard(now);
        if session != p.session || matched > last {
            return;
        }
        if p.acknowledged(matched) {
            self.advance_commit();
        }
    }

    pub(super) fn on_conflict(&mut self, now: Time, from: MemberId, session: u64, prev: Index, hint: Position) {
        let place = hint.index.min(prev.prev());
        // What is not in this log any more leads below its base.
        let below = place.min(self.log.base().index.prev());
        let at = self.log.last_not_above(place, hint.term).map_or(below, |at| at.index);
        let State::Leader(leading) = &mut self.state else { return };
        let Some(p) = leading.progress.get_mut(&from) else { return };
        p.heard(now);
        if session == p.session && prev.0 > 0 {
            p.conflicted(prev, at);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a message's fields, in order")]
    pub(super) fn on_heartbeat_reply(
        &mut self,
        now: Time,
        from: MemberId,
        session: u64,
        sequence: u64,
        received: u64,
        matched: Index,
        round: u64,
    ) {
        let State::Leader(leading) = &mut self.state else { return };
        let newest_round = leading.rounds.number;
        let Some(p) = leading.progress.get_mut(&from) else { return };
        p.heard(now);
        p.confirmed = p.confirmed.max(round.min(newest_round));
        if session == p.session {
            self.on_appended(now, from, session, matched);
            self.notice_loss(from, sequence, received);
            self.notice_farewell(from, received);
        }
        self.finish_read_round();
    }

    /// The follower has accepted `received` of the `sequence` appends sent before the heartbeat that it answers.
    fn notice_loss(&mut self, from: MemberId, sequence: u64, received: u64) {
        let State::Leader(leading) = &mut self.state else { return };
        let Some(p) = leading.progress.get_mut(&from) else { return };
        match &mut p.flow {
            Flow::Replicate { .. } if received < sequence => p.probe(),
            // Only a heartbeat that left after the probe can say that the probe, or its conflict, is lost. If it was accepted,
            // its acknowledgement comes with the follower's disk or with a later heartbeat. If there was none in this
            // session, it is due.
            Flow::Probe { outstanding } if sequence == p.sequence && (received < sequence || sequence == 0) => {
                *outstanding = None;
            }
            Flow::Install { due, .. } => *due = true,
            Flow::Probe { .. } | Flow::Replicate { .. } => {}
        }
    }

    /// Commits what a quorum has (Raft §5.3, §5.4.2).
    pub(super) fn advance_commit(&mut self) {
        let own = self.writes.persisted();
        let State::Leader(leading) = &mut self.state else { return };
        let id = self.config.id;
        let matched = |m| leading.progress.get(&m).map_or(if m == id { own } else { Index(0) }, |p| p.matched);
        let reached = self.configurations.newest().reached(matched);
        if reached > self.commit && self.log.term_at(reached) == Some(self.hard.term) {
            let bytes = self.log.bytes_after(self.commit) - self.log.bytes_after(reached);
            leading.uncommitted_bytes -= bytes;
            self.set_commit(reached);
        }
    }

    fn set_commit(&mut self, commit: Index) {
        assert!(commit >= self.commit && commit <= self.log.last().index, "commit {} to {commit}", self.commit);
        let before = self.log.term_at(self.commit);
        self.commit = commit;
        self.configurations.commit(commit);
        let term = self.hard.term;
        if before != Some(term) && self.log.term_at(commit) == Some(term) {
            self.note(Event::TermCommitted { term });
        }
    }

    /// Tells a transfer's target to campaign, once it has the whole log.
    fn tell_transferee(&mut self) {
        let last = self.log.last().index;
        let State::Leader(leading) = &mut self.state else { return };
        let Some(transfer) = &mut leading.transfer else { return };
        let target = transfer.target;
        if !transfer.told && leading.progress.get(&target).is_some_and(|p| p.matched == last) {
            transfer.told = true;
            self.send(target, Message::TimeoutNow);
        }
    }

    // ---- the follower

    pub(super) fn on_append(
        &mut self,
        from: MemberId,
        session: u64,
        sequence: u64,
        prev: Position,
        commit: Index,
        entries: Vec<Entry>,
    ) {
        if !self.enter_session(session) || !is_well_formed(prev, &entries, self.hard.term) {
            tracing::debug!(%from, session, "an append that is late or malformed");
            return;
        }
        if !entries.is_empty() && !self.accepting {
            return; // no space: declined, the leader keeps asking
        }
        let base = self.log.base();
        if prev.index >= base.index && self.log.position_at(prev.index) != Some(prev) {
            assert!(prev.index > self.commit, "{from} says {prev}, but {} is committed here otherwise", prev.index);
            let hint = self.log.last_not_above(prev.index.prev(), prev.term).unwrap_or(base);
            self.send(from, Message::Conflict { session, prev_index: prev.index, hint });
            return;
        }
        let verified = Index(prev.index.0 + entries.len() as u64);
        for entry in entries {
            match self.log.term_at(entry.position.index) {
                Some(term) if term == entry.position.term => continue,
                None if entry.position.index < base.index => continue,
                Some(_) => self.truncate(entry.position.index),
                None => {}
            }
            self.append_to_log(entry);
        }
        if let State::Follower(following) = &mut self.state {
            following.received = following.received.max(sequence);
        }
        self.verify(verified);
        self.learn_commit(commit);
        self.acknowledge(true);
    }

    /// This log equals the leader's up to `index`, and up to whatever is committed: a leader has all of that (Raft §5.4.3,
    /// Leader Completeness), so what was compacted here need not be compared.
    fn verify(&mut self, index: Index) {
        let commit = self.commit;
        let State::Follower(following) = &mut self.state else { return };
        following.verified = following.verified.max(index).max(commit);
    }

    /// The leader's log begins after `base`. Where this one reaches `base`, that is as good as an append after it.
    pub(super) fn on_install(&mut self, from: MemberId, session: u64, base: Position) {
        if !self.enter_session(session) {
            return;
        }
        if base.index >= self.log.base().index && self.log.position_at(base.index) != Some(base) {
            assert!(base.index > self.commit, "{from} says {base}, but {} is committed here otherwise", base.index);
            self.install = Some(base);
            return;
        }
        self.verify(base.index);
        self.learn_commit(base.index);
        self.acknowledge(true);
    }

    pub(super) fn on_heartbeat(&mut self, from: MemberId, session: u64, sequence: u64, commit: Index, round: u64) {
        let current = self.enter_session(session);
        self.learn_commit(commit);
        let State::Follower(following) = &self.state else { return };
        let (received, matched) = match current {
            true => (following.received, following.verified.min(self.writes.persisted())),
            false => (0, Index(0)),
        };
        self.send(from, Message::HeartbeatReply { session, sequence, received, matched, round });
    }

    /// Notes the leader's session; says whether it is the newest.
    fn enter_session(&mut self, session: u64) -> bool {
        let State::Follower(following) = &mut self.state else { return false };
        if session > following.session {
            following.session = session;
            following.received = 0;
            following.acknowledged = Index(0);
        }
        session == following.session
    }

    /// Commits what the leader has committed, as far as this log is known to equal the leader's.
    fn learn_commit(&mut self, commit: Index) {
        let State::Follower(following) = &self.state else { return };
        let commit = commit.min(following.verified);
        if commit > self.commit {
            self.set_commit(commit);
        }
    }

    /// Tells the leader what is verified and durable, if that is news, or if nothing is on its way to the disk and
    /// `asked`.
    pub(super) fn acknowledge(&mut self, asked: bool) {
        let persisted = self.writes.persisted();
        let State::Follower(following) = &mut self.state else { return };
        let Some((leader, _)) = following.leader else { return };
        let matched = following.verified.min(persisted);
        if matched > following.acknowledged || (asked && matched == following.verified) {
            following.acknowledged = matched;
            let session = following.session;
            self.send(leader, Message::Appended { session, matched });
        }
    }
}

/// Whether an append can be what a leader of `term` made: contiguous, sound, terms that don't decrease.
fn is_well_formed(prev: Position, entries: &[Entry], term: Term) -> bool {
    let mut at = prev;
    entries.iter().all(|entry| {
        let follows = entry.position.index == at.index.next() && entry.position.term >= at.term;
        at = entry.position;
        let makes_sense = entry.kind != EntryKind::Configuration || Configuration::decode(&entry.data).is_some();
        follows && at.term <= term && entry.is_sound() && makes_sense
    })
}

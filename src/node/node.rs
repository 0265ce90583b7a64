//! The node's turn: inputs in, one closing [`Node::advance`], effects out.
//!
//! ```text
//!   handle(input) …  ──►  tick timers ──► submit what was parked ──► flush appends, heartbeats, read rounds
//!                         ──► write for the log's disk ──► messages ──► apply ──► write for the state's disk ──► replies
//! ```
//!
//! Writes and messages leave before apply begins, so the disk and the peers work meanwhile.

use super::disks::StateWrites;
use super::elections::Elections;
use super::events::Glance;
use super::input::{Effect, Input, Refused, Reply, Request, Slot, Uncertain};
use super::install::Install;
use super::leases::{Leases, Wish};
use super::levels::Levels;
use super::marks::Beside;
use super::membership::{self, Changes};
use super::proposals::{Command, Proposals};
use super::quarantine::Quarantine;
use super::reads::Reads;
use super::retention::Retained;
use super::source::Source;
use super::space::Space;
use super::stages::Marks;
use super::{Config, Halt, Identity, PeerStatus, Status};
use crate::ids::{Index, MemberId, Position, RequestId, Term};
use crate::machine::{self, Content, Machine, View};
use crate::proto::quorate as own;
use crate::raft::{Entry, EntryKind, Raft, Refusal, TransferError};
use crate::storage::Op;
use crate::time::{Duration, Time};
use prost::Message as _;

/// Applied in one turn at most: a turn stays short, so that heartbeats are not late behind a long catch-up.
const APPLY_BYTES_PER_TURN: usize = 4 << 20;
/// Applied but not yet inserted into the state database at most: beyond it, applying waits for the disk.
const UNWRITTEN_STATE_BYTES_MAX: usize = 64 << 20;
/// The state database is synced after so many bytes or so much time: the log can replay what is not, so this bounds the
/// work of a restart only.
const STATE_SYNC_BYTES: usize = 32 << 20;
const STATE_SYNC_INTERVAL: Duration = Duration::from_secs(5);

/// One member. See the room's essay.
#[derive(Debug)]
pub struct Node {
    pub(super) identity: Identity,
    pub(super) config: Config,
    pub(super) raft: Raft,
    pub(super) machine: Machine,
    pub(super) state: StateWrites,
    pub(super) proposals: Proposals,
    pub(super) reads: Reads,
    pub(super) leases: Leases,
    pub(super) changes: Changes,
    pub(super) levels: Levels,
    pub(super) install: Install,
    pub(super) source: Source,
    pub(super) quarantine: Quarantine,
    marks: Marks,
    transfers: Vec<(Slot, MemberId, Time)>,
    elections: Elections,
    /// The leadership under which commands were last submitted.
    leadership: Option<(Term, MemberId)>,
    /// The sequence of this member's own announcement on its way, and whether the replicated state has it.
    publishing: Option<u64>,
    published: bool,
    space_low: bool,
    pub(super) space: Space,
    pub(super) retained: Retained,
    pub(super) replies: Vec<(Slot, Reply)>,
}

impl Node {
    pub(super) fn new(
        identity: Identity,
        config: Config,
        raft: Raft,
        machine: Machine,
        beside: &Beside,
        log_bytes: Vec<(Index, u64)>,
        now: Time,
    ) -> Node {
        Node {
            levels: Levels::new(machine.level()),
            retained: Retained::new(config.retention, log_bytes, machine.applied().index),
            space: Space::new(&config.space, now),
            identity,
            config,
            raft,
            machine,
            state: StateWrites { mark: beside.mark.last, ..StateWrites::default() },
            proposals: Proposals::new(identity.incarnation),
            reads: Reads::default(),
            leases: Leases::new(identity.incarnation),
            changes: Changes::default(),
            install: Install::new(identity.incarnation),
            source: Source::default(),
            quarantine: Quarantine::new(identity.incarnation, beside.quarantined),
            marks: Marks::default(),
            transfers: Vec::new(),
            elections: Elections::default(),
            leadership: None,
            publishing: None,
            published: false,
            space_low: false,
            replies: Vec::new(),
        }
    }

    /// Takes one input. Cheap; what it leads to is collected until [`Node::advance`].
    ///
    /// # Errors
    /// The node can't go on: see [`Halt`].
    pub fn handle(&mut self, now: Time, input: Input) -> Result<(), Halt> {
        match input {
            Input::Peer(envelope) => {
                let from = envelope.from;
                self.raft.step(now, envelope);
                self.note_progress(now, from);
            }
            Input::PeerLost { peer, incarnation } => {
                self.levels.lost(peer);
                self.raft.peer_lost(now, peer, incarnation);
            }
            Input::PeerUnreachable(peer) => self.raft.peer_unreachable(peer),
            Input::Unsent { sequence } => {
                if let Some(command) = self.proposals.take(sequence) {
                    self.park(command);
                }
            }
            Input::Persisted(done) => {
                self.raft.persisted(now, done);
                self.note_progress(now, self.identity.member);
            }
            Input::Loaded { read, entries } => self.raft.loaded(read, entries),
            Input::StateWritten { id } => self.state_written(id),
            Input::StateSynced { id } => {
                self.retained.synced(id);
                if self.state.lowering.is_some_and(|lowering| lowering <= id) {
                    self.state.lowering = None;
                }
            }
            Input::RecordsRead { read, records } => self.records_read(read, records),
            Input::Staged { id } => self.install.staged(id),
            Input::Space { low } => {
                self.space_low = low;
                self.raft.set_accepting(!low);
            }
            Input::Request(slot, request) => self.request(now, slot, request),
            Input::Cancel(slot) => self.cancel(slot),
        }
        Ok(())
    }

    /// Closes a turn: everything that follows from the inputs since the last call and from the time, as effects, in the
    /// order in which they must be started.
    ///
    /// # Errors
    /// The node can't go on: see [`Halt`].
    pub fn advance(&mut self, now: Time, effects: &mut Vec<Effect>) -> Result<(), Halt> {
        if self.install.is_reopened() {
            return Ok(());
        }
        self.check_removal()?;
        self.raft.tick(now);
        self.note_leadership();
        for (sequence, reason) in self.raft.take_refusals() {
            if let Some(command) = self.proposals.take(sequence) {
                self.not_appended(command, reason);
            }
        }
        if self.raft.leader().is_some() {
            for command in self.proposals.unpark() {
                self.submit(now, command);
            }
            self.publish(now)?;
            if !self.is_hollow() {
                self.keep_space(now);
            }
        }
        self.note_lessor();
        self.note_changes();
        self.note_judge();
        self.hear_questions(now);
        self.lease_questions(now);
        self.drive_changes(now);
        self.compare_states(now, effects);
        self.drive_levels(now)?;
        self.take_over(now, effects);
        self.raft.flush(now);
        // A leader that was removed has stepped down by now, and answers for no lease any more.
        self.note_lessor();
        for event in self.raft.take_events() {
            self.elections.note(now, event);
        }
        self.compact_log(now);
        self.persist(now, effects);
        effects.extend(self.raft.messages().map(Effect::Send));
        effects.extend(self.raft.take_loads().into_iter().map(Effect::Load));
        self.apply(now, effects)?;
        self.read_records(now, effects);
        for state in self.raft.take_reads() {
            if !self.lease_round_confirmed(state.context, state.index) {
                self.reads.indexed(now, state);
            }
        }
        self.lease_answers(now);
        effects.extend(self.raft.messages().map(Effect::Send));
        if !self.is_wrong() {
            self.reads.release(self.machine.applied().index, self.raft.term(), &mut self.replies);
        }
        self.answer_transfers(now);
        self.expire(now);
        effects.extend(self.replies.drain(..).map(|(slot, reply)| Effect::Reply(slot, reply)));
        self.reopen(effects);
        Ok(())
    }

    /// When [`Node::advance`] must be called even if nothing happens.
    pub fn deadline(&self) -> Time {
        if self.raft.has_committed() && self.may_apply() {
            return Time(0); // the last turn's share was not all
        }
        if self.is_removed() && !self.raft.is_leader() {
            return Time(0); // it is over
        }
        let (submitted, parked) = self.proposals.oldest();
        // A sync that is due waits for the write that lowers the mark, which wakes the node when it is durable.
        // To a state on its way out nothing is written any more.
        let may_sync = self.state.lowering.is_none() && !self.install.is_adopting();
        let unsynced = self.state.unsynced_since.filter(|_| may_sync);
        let own = [
            submitted.map(|since| since + self.config.request_timeout),
            parked.map(|since| since + self.leaderless_patience()),
            self.reads.oldest().map(|since| since + self.read_patience()),
            self.leases.oldest().map(|since| since + self.read_patience()),
            self.changes.oldest().map(|since| since + self.read_patience()),
            self.raft.leader().map(|_| self.changes.deadline()),
            Some(self.leases.deadline()),
            Some(self.level_deadline()),
            self.transfers.iter().map(|(_, _, deadline)| *deadline).min(),
            unsynced.map(|since| since + STATE_SYNC_INTERVAL),
            Some(self.space_deadline()),
            Some(self.source.deadline()),
            Some(self.install_deadline()),
            Some(self.quarantine_deadline()),
        ];
        own.into_iter().flatten().fold(self.raft.deadline(), Time::min)
    }

    /// Reads, from any thread.
    pub fn view(&self) -> View {
        self.machine.view()
    }

    /// Who this is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The last entry applied.
    pub fn applied(&self) -> Position {
        self.machine.applied()
    }

    /// The protocol's part, to look at.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// What is to be seen at a glance.
    pub fn glance(&self) -> Glance {
        let raft = self.raft.status();
        Glance {
            role: raft.role.into(),
            term: raft.term,
            leader: raft.leader,
            last: raft.last,
            persisted: raft.persisted,
            commit: raft.commit,
            applied: self.machine.applied().index,
            digest: self.machine.digest(),
        }
    }

    /// What there is to tell.
    pub fn status(&self) -> Status {
        let raft = self.raft.status();
        Status {
            role: raft.role.into(),
            term: raft.term,
            leader: raft.leader,
            leader_since: self.elections.leader_since(),
            last: raft.last.index,
            persisted: raft.persisted,
            commit: raft.commit,
            applied: self.machine.applied().index,
            digest: self.machine.digest(),
            leader_changes: self.elections.leader_changes(),
            space: self.space.status(),
            pending_proposals: self.proposals.count(),
            leases: self.leases.counts().clone(),
            install: self.install_status(),
            checkpoint: self.checkpoint_status(),
            peers: self.raft.flows().into_iter().map(|(id, flow, matched)| PeerStatus { id, flow, matched }).collect(),
            elections: self.elections.list(),
        }
    }

    // ---- requests

    fn request(&mut self, now: Time, slot: Slot, request: Request) {
        match request {
            _ if self.is_hollow() || self.is_wrong() => self.replies.push((slot, Reply::Refused(Refused::Hollow))),
            Request::Propose { grows: true, .. } if self.space_low => {
                self.replies.push((slot, Reply::Refused(Refused::Space)));
            }
            Request::Propose { command, grows: true } if self.exceeds_quota(command.len()) => {
                self.replies.push((slot, Reply::Refused(Refused::Space)));
            }
            Request::Propose { command, grows } => {
                self.submit(now, Command { slot: Some(slot), bytes: command, grows, since: now });
            }
            Request::Read => {
                let mark = self.reads.ask(slot, now);
                self.raft.read(mark);
            }
            Request::KeepAlive { lease } => self.leases.ask(now, slot, Wish::KeepAlive(lease)),
            Request::TimeToLive { lease } => self.leases.ask(now, slot, Wish::TimeToLive(lease)),
            Request::Change(change) => self.ask_change(now, slot, change),
            Request::Transfer(target) => match self.raft.transfer(now, target) {
                Ok(target) if target == self.identity.member => self.replies.push((slot, Reply::Transferred)),
                Ok(target) => self.transfers.push((slot, target, now + self.config.election_timeout * 2)),
                Err(TransferError::NotLeader) => self.replies.push((slot, Reply::Refused(Refused::NotLeader))),
                Err(TransferError::BadTarget) => self.replies.push((slot, Reply::Refused(Refused::BadTransferee))),
            },
        }
    }

    fn cancel(&mut self, slot: Slot) {
        self.proposals.cancel(slot);
        self.leases.cancel(slot);
        self.changes.cancel(slot);
        if let Some(mark) = self.reads.cancel(slot) {
            self.raft.forget_read(mark);
        }
    }

    /// Gives a command to the leader, wherever it is, or parks it. Returns the sequence under which it may have left.
    fn submit(&mut self, now: Time, command: Command) -> Option<u64> {
        let Some(leader) = self.raft.leader() else {
            self.park(command);
            return None;
        };
        let sequence = self.proposals.next_sequence();
        let id = RequestId { origin: self.identity.member, incarnation: self.identity.incarnation, sequence };
        let data = command.bytes.clone();
        if self.raft.is_leader() {
            if let Err(reason) = self.raft.propose(id, data, command.grows) {
                self.not_appended(command, reason);
                return None;
            }
        } else if !self.raft.forward(id, data, command.grows) {
            self.park(command);
            return None;
        }
        self.proposals.submitted(sequence, command, now, (self.raft.term(), leader));
        Some(sequence)
    }

    /// Submits a command of the node's own.
    pub(super) fn submit_own(&mut self, now: Time, op: own::command::Op) -> Option<u64> {
        let bytes = own::Command { op: Some(op) }.encode_to_vec().into();
        self.submit(now, Command { slot: None, bytes, grows: false, since: now })
    }

    /// Whether nothing is known yet of the own command that was submitted under this sequence.
    pub(super) fn is_pending(&self, sequence: Option<u64>) -> bool {
        sequence.is_some_and(|sequence| self.proposals.is_pending(sequence))
    }

    /// Keeps a command that surely was not appended, until there is a leader. The node's own is made again when it is due.
    fn park(&mut self, command: Command) {
        if command.slot.is_some() {
            self.proposals.park(command);
        }
    }

    fn not_appended(&mut self, command: Command, reason: Refusal) {
        // The node's own command is made again when it is due.
        let Some(slot) = command.slot else { return };
        match reason {
            Refusal::Transfer => self.proposals.park(command),
            Refusal::Busy => self.replies.push((slot, Reply::Refused(Refused::Busy))),
            Refusal::Space => self.replies.push((slot, Reply::Refused(Refused::Space))),
        }
    }

    /// Notes when the log's ends moved; `by` was heard last.
    fn note_progress(&mut self, now: Time, by: MemberId) {
        let raft = self.raft.status();
        self.marks.note(now, raft.persisted, raft.commit, by);
    }

    /// Answers what was submitted under a leadership that is over.
    fn note_leadership(&mut self) {
        let Some(leader) = self.raft.leader() else { return };
        let leadership = (self.raft.term(), leader);
        if self.leadership != Some(leadership) {
            self.leadership = Some(leadership);
            self.proposals.leader_changed(leadership.0, leadership.1, &mut self.replies);
        }
    }

    /// Tells the cluster this member's name, client URLs and disk, until the replicated state has them.
    fn publish(&mut self, now: Time) -> Result<(), Halt> {
        // A hollow member does not know what the replicated state has.
        if self.published || self.raft.is_hollow() || self.is_pending(self.publishing) {
            return Ok(());
        }
        let id = self.identity;
        // A member that was added later finds itself here when it has taken over or applied what added it.
        let Some(known) = self.machine.members().into_iter().find(|m| m.id == id.member) else { return Ok(()) };
        if known.disk.is_some_and(|disk| disk != id.disk) {
            return Err(Halt(super::foreign_disk(id.member, known.disk.unwrap_or_default(), id.disk)));
        }
        self.published =
            known.disk.is_some() && known.name == self.config.name && known.client_urls == self.config.client_urls;
        if self.published {
            return Ok(());
        }
        let publish = own::PublishMember {
            member_id: id.member.0,
            name: self.config.name.clone(),
            client_urls: self.config.client_urls.clone(),
            disk_id: id.disk.0,
        };
        self.publishing = self.submit_own(now, own::command::Op::Publish(publish));
        Ok(())
    }

    fn answer_transfers(&mut self, now: Time) {
        let leader = self.raft.leader();
        let own = self.identity.member;
        for (slot, target, deadline) in std::mem::take(&mut self.transfers) {
            match leader {
                Some(leader) if leader == target => self.replies.push((slot, Reply::Transferred)),
                Some(leader) if leader != own => self.replies.push((slot, Reply::Refused(Refused::LeaderChanged))),
                _ if now >= deadline => self.replies.push((slot, Reply::Uncertain(Uncertain::TimedOut))),
                _ => self.transfers.push((slot, target, deadline)),
            }
        }
    }

    fn expire(&mut self, now: Time) {
        // A moment is past when the deadline is reached, not only after it: else a shell that sleeps until the deadline spins.
        let before = |patience: Duration| now - patience + Duration::from_nanos(1);
        let (submitted, parked) = (before(self.config.request_timeout), before(self.leaderless_patience()));
        self.proposals.expire(submitted, parked, &mut self.replies);
        let leader_known = self.raft.leader().is_some();
        let waited = before(self.read_patience());
        self.leases.expire(waited, leader_known, &mut self.replies);
        self.changes.expire(waited, leader_known, &mut self.replies);
        for mark in self.reads.expire(waited, leader_known, &mut self.replies) {
            self.raft.forget_read(mark);
        }
    }

    /// How long a request may wait for a leader to be found: an election, and another one if the first is split.
    fn leaderless_patience(&self) -> Duration {
        (self.config.election_timeout * 3).min(self.config.request_timeout)
    }

    fn read_patience(&self) -> Duration {
        match self.raft.leader() {
            Some(_) => self.config.request_timeout,
            None => self.leaderless_patience(),
        }
    }

    // ---- what is committed

    /// Whether there is a state to apply to, and its disk keeps up.
    pub(super) fn may_apply(&self) -> bool {
        let is_in_use = !self.raft.is_hollow() && !self.install.is_adopting();
        is_in_use && self.machine.pending_bytes() <= UNWRITTEN_STATE_BYTES_MAX
    }

    /// Applies what is committed and durable, and hands what it did to the state's disk.
    fn apply(&mut self, now: Time, effects: &mut Vec<Effect>) -> Result<(), Halt> {
        if self.install.is_adopting() {
            return Ok(());
        }
        if self.may_apply() {
            for entry in self.raft.take_committed(APPLY_BYTES_PER_TURN) {
                self.apply_entry(entry)?;
                self.note_lease_changes(now);
            }
            self.marks.forget(self.machine.applied().index);
        }
        let mut ops = Vec::new();
        let run = self.machine.seal(&mut ops);
        let run = self.sweep(now, &mut ops)?.or(run);
        self.state.unsynced_bytes += ops.iter().map(Op::size).sum::<usize>();
        if run.is_some() {
            self.state.unsynced_since = self.state.unsynced_since.or(Some(now));
        }
        let sync_due = self.state.unsynced_bytes >= STATE_SYNC_BYTES
            || self.state.unsynced_since.is_some_and(|since| now >= since + STATE_SYNC_INTERVAL);
        if sync_due && self.state.lowering.is_none() {
            self.state.unsynced_bytes = 0;
            self.state.unsynced_since = None;
            self.note_acknowledged();
            self.put_mark(&mut ops);
        }
        if !ops.is_empty() {
            let write = self.state_write(ops, sync_due);
            if write.sync {
                self.retained.syncing(write.id, self.machine.applied().index);
            }
            if let Some(run) = run {
                self.state.inserting.push_back((write.id, run));
            }
            effects.push(Effect::WriteState(write));
        }
        Ok(())
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<(), Halt> {
        self.retained.applied(entry.position.index, entry.size());
        if !entry.is_sound() {
            return Err(Halt(format!("entry {} is not what was appended: a bit of it was flipped", entry.position)));
        }
        let membership = match entry.kind {
            EntryKind::Configuration => Some(membership::of_entry(&entry)?),
            EntryKind::Noop | EntryKind::Command => None,
        };
        let content = match (entry.kind, &membership) {
            (EntryKind::Command, _) => Content::Command(&entry.data),
            (_, Some(membership)) => Content::Membership(membership),
            (_, None) => Content::Nothing,
        };
        let outcome = self.machine.apply(entry.position, content);
        match &outcome {
            Err(machine::Error::Disk(fault)) => {
                let position = entry.position;
                return Err(Halt(format!("the state database failed while entry {position} was applied: {fault}")));
            }
            Err(machine::Error::Newer(why)) => {
                return Err(Halt(format!("entry {} can't be applied: {why}", entry.position)));
            }
            Ok(_) | Err(_) => {}
        }
        self.note_level()?;
        self.note_checkpoint(entry.position.index);
        let ours = entry.id.origin == self.identity.member && entry.id.incarnation == self.identity.incarnation;
        if membership.is_some() {
            self.note_membership(&entry, ours);
        }
        if ours && let Some((slot, stages)) = self.proposals.applied(entry.id.sequence, self.identity.member) {
            let stages = self.marks.of(entry.position.index, stages);
            let applied = Reply::Applied { outcome, term: entry.position.term, stages };
            // What a wrong state makes of a command is no answer.
            let reply = if self.is_wrong() { Reply::Uncertain(Uncertain::LeaderLost) } else { applied };
            self.replies.push((slot, reply));
        }
        Ok(())
    }
}

//! The leader's side of taking over a state: records for whoever asks for them.
//!
//! A question is answered when the state's disk has read the records. Nothing is kept about a transfer: the question says
//! what the asker has, and by which rests of which members ([`crate::machine::takeover`] tells what fits).
//!
//! While somebody gets further, the machine's sweep rests, and for [`REST`] afterwards. Who asks for the same again, or for less, is
//! answered, but waited for no longer: else a member that is never done, or a question that comes late, would keep for ever what
//! was compacted. For the same reason the next rest begins when what the last one held up is done. A rest has a number of its
//! own, so that whoever comes back after it has ended is known to come back. When the asker has everything, it is opened again,
//! and goes on by the log:
//! so for as long the log stays from there on ([`Source::needed`]).
//!
//! # Invariants
//!
//! 1. Records are read only while the machine is at rest, and sent only while it is the same rest.
//! 2. An asker has one read at the disk at most: its pace is the throttle, and a repeated question costs nothing.
//! 3. A record that can't be read whole is a fault of this member's own disk, and ends it like any other.
//!
//! May not know: what the asker does with them.

use super::input::{Effect, RecordsRead};
use super::node::Node;
use crate::ids::{Index, MemberId, RequestId, Revision};
use crate::machine::takeover;
use crate::proto::quorate as own;
use crate::storage::{Engine, Fault};
use crate::time::{Duration, Time};
use bytes::Bytes;
use own::leader_answer::Answer;
use std::collections::BTreeMap;

/// How long the sweep rests after the last question that went further: as long as an asker may be without a word, crash and
/// come back.
pub const REST: Duration = Duration::from_secs(30);
/// An answer's records are at most so many bytes, whatever is asked for.
const BYTES_MAX: usize = 1 << 20;

/// A time without rewritten records.
#[derive(Clone, Copy, Debug)]
struct Rest {
    number: RequestId,
    /// What was applied when it began: see [`own::RecordsAnswer::least`].
    least: Index,
    until: Time,
}

/// A question whose records are being read.
#[derive(Debug)]
struct Reading {
    context: u64,
    question: own::RecordsQuestion,
    rest: RequestId,
    /// Nothing was written from here on.
    below: Index,
}

/// What the leader knows of those who take over its state.
#[derive(Debug, Default)]
pub(super) struct Source {
    rests: u64,
    rest: Option<Rest>,
    /// Where the sweep must have come before there is another rest.
    owed: Option<Revision>,
    /// How far each has asked in this rest: from which entry on, and from which byte of its record.
    furthest: BTreeMap<MemberId, (u64, u64)>,
    /// The newest question of each.
    waiting: BTreeMap<MemberId, (u64, own::RecordsQuestion)>,
    reading: BTreeMap<MemberId, Reading>,
    /// The entry after the last one that each was sent when there was no more, and until when that counts.
    needs: BTreeMap<MemberId, (Index, Time)>,
    bytes_sent: u64,
}

impl Source {
    /// When there is something to do.
    pub(super) fn deadline(&self) -> Time {
        self.rest.map_or(Time::NEVER, |rest| rest.until)
    }

    /// The oldest entry that somebody who has taken over this member's state will ask the log for.
    pub(super) fn needed(&self) -> Option<Index> {
        self.needs.values().map(|(from, _)| *from).min()
    }

    /// Bytes of records that were sent in this life.
    pub(super) fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}

impl RecordsRead {
    /// Carries it out. To be called in turn with the writes to the same database.
    ///
    /// # Errors
    /// The disk failed, or holds something else than was written.
    pub fn execute(&self, engine: &dyn Engine) -> Result<Vec<(Index, Bytes)>, Fault> {
        takeover::read_records(engine, self.from, self.below, self.max_bytes)
    }
}

impl Node {
    /// Leader: a member wants records. A state that is wrong is given to nobody.
    pub(super) fn records_question(&mut self, now: Time, peer: MemberId, context: u64, question: own::RecordsQuestion) {
        if self.is_wrong() {
            return;
        }
        self.wait_for_patient(now, peer);
        self.source.waiting.insert(peer, (context, question));
    }

    /// Asks the disk for what was asked for, when everything applied was sealed.
    pub(super) fn read_records(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.end_rest(now);
        let source = &mut self.source;
        if !self.raft.is_leader() {
            source.waiting.clear();
        }
        source.owed.take_if(|owed| *owed <= self.machine.swept());
        if source.waiting.is_empty() || source.owed.is_some() {
            return;
        }
        let rest = source.rest.get_or_insert_with(|| {
            self.machine.pin();
            source.rests += 1;
            let (origin, incarnation) = (self.identity.member, self.identity.incarnation);
            let number = RequestId { origin, incarnation, sequence: source.rests };
            Rest { number, least: self.machine.applied().index, until: now }
        });
        for (peer, (_, question)) in &source.waiting {
            let place = (question.from, question.offset);
            if source.furthest.get(peer).is_none_or(|furthest| place > *furthest) {
                source.furthest.insert(*peer, place);
                rest.until = now + REST;
            }
        }
        let rest = *rest;
        if !self.machine.is_at_rest() {
            return;
        }
        let due = source.waiting.extract_if(.., |peer, _| !source.reading.contains_key(peer));
        for (peer, (context, question)) in due.collect::<Vec<_>>() {
            self.read_for(rest, peer, context, question, effects);
        }
    }

    fn read_for(
        &mut self,
        rest: Rest,
        asker: MemberId,
        context: u64,
        question: own::RecordsQuestion,
        effects: &mut Vec<Effect>,
    ) {
        let goes_on = question.pin.as_ref().is_some_and(|pin| decode_id(pin) != rest.number);
        let (from, below) = (Index(question.from.max(1)), self.machine.first_unwritten());
        let read = Reading { context, question, rest: rest.number, below };
        if goes_on && self.machine.rewritten_for().0 > read.question.swept {
            let answer = own::RecordsAnswer { restart: true, ..self.records_answer_to(rest, &read.question) };
            self.answer_peer(asker, context, Answer::Records(answer));
            return;
        }
        if from >= below {
            self.answer_records(rest, asker, read, Vec::new());
            return;
        }
        let max_bytes = usize::try_from(read.question.max_bytes).unwrap_or(BYTES_MAX).min(BYTES_MAX);
        effects.push(Effect::ReadRecords(RecordsRead { asker, context, from, below, max_bytes }));
        self.source.reading.insert(asker, read);
    }

    /// The disk has read what was asked for.
    pub(super) fn records_read(&mut self, read: RecordsRead, records: Vec<(Index, Bytes)>) {
        let is_it = |reading: &Reading| reading.context == read.context;
        if !self.source.reading.get(&read.asker).is_some_and(is_it) {
            return;
        }
        let Some(reading) = self.source.reading.remove(&read.asker) else { return };
        if self.raft.is_leader()
            && !self.is_wrong()
            && let Some(rest) = self.source.rest
            && rest.number == reading.rest
        {
            self.answer_records(rest, read.asker, reading, records);
        }
    }

    fn answer_records(&mut self, rest: Rest, asker: MemberId, reading: Reading, records: Vec<(Index, Bytes)>) {
        let Reading { context, question, below, .. } = reading;
        let is_same = question.pin.as_ref().is_some_and(|pin| decode_id(pin) == rest.number);
        let mut answer = self.records_answer_to(rest, &question);
        let (mut offset, mut left) = (if is_same { question.offset } else { 0 }, BYTES_MAX);
        left = left.min(usize::try_from(question.max_bytes).unwrap_or(BYTES_MAX)).max(1);
        let mut next = Index(question.from.max(1));
        for (first, record) in records {
            let begin = usize::try_from(std::mem::take(&mut offset)).unwrap_or(usize::MAX).min(record.len());
            let part = record.slice(begin..record.len().min(begin.saturating_add(left)));
            let is_whole = begin + part.len() == record.len();
            left = left.saturating_sub(part.len()).max(1);
            self.source.bytes_sent += part.len() as u64;
            let (length, offset) = (record.len() as u64, begin as u64);
            answer.records.push(own::StateRecord { first: first.0, length, offset, bytes: part });
            if !is_whole {
                break;
            }
            next = takeover::last_entry(&record).map_or(next, Index::next);
        }
        answer.end = next >= below;
        if answer.end {
            self.source.needs.insert(asker, (next, rest.until));
        }
        self.answer_peer(asker, context, Answer::Records(answer));
    }

    fn records_answer_to(&self, rest: Rest, question: &own::RecordsQuestion) -> own::RecordsAnswer {
        own::RecordsAnswer {
            transfer: question.transfer,
            from: question.from,
            pin: Some(encode_id(rest.number)),
            swept: question.swept.min(self.machine.swept().0),
            least: rest.least.0,
            total_bytes: self.machine.held_bytes(),
            level: self.machine.level().0,
            ..own::RecordsAnswer::default()
        }
    }

    /// The sweep goes on when nobody has got further for long.
    fn end_rest(&mut self, now: Time) {
        let source = &mut self.source;
        source.needs.retain(|_, (_, until)| now < *until);
        if source.rest.take_if(|rest| now >= rest.until).is_some() {
            source.furthest.clear();
            source.owed = Some(self.machine.view().compacted());
            self.machine.unpin();
        }
    }
}

pub(super) fn encode_id(id: RequestId) -> own::RequestId {
    own::RequestId { origin: id.origin.0, incarnation: id.incarnation.0, sequence: id.sequence }
}

pub(super) fn decode_id(id: &own::RequestId) -> RequestId {
    let (origin, incarnation) = (MemberId(id.origin), crate::ids::Incarnation(id.incarnation));
    RequestId { origin, incarnation, sequence: id.sequence }
}

//! What a script can't order: answers of the disk that come when the log has changed meanwhile, and what strangers say.

use super::log::Log;
use super::quorum::Configuration;
use super::*;
use crate::ids::{Incarnation, RequestId};
use crate::rng::Seed;
use crate::time::Time;
use bytes::Bytes;

#[test]
fn entries_that_were_loaded_before_they_were_overwritten_are_not_sent() {
    let at = |index, term| Position { index: Index(index), term: Term(term) };
    let entry = |index, term| Entry::new(at(index, term), EntryKind::Command, RequestId::default(), Bytes::new());
    let configuration = Configuration::new((1..=3).map(MemberId));
    let mut config = Config::new(MemberId(1), Incarnation(1), configuration, Seed(1));
    config.limits.memory_bytes = 0;
    let mut log = Log::empty();
    (1..=3).for_each(|index| log.append(entry(index, 2)));
    let hard = HardState { term: Term(2), vote: None };
    let mut raft = Raft::new(config, hard, log, Index(3), Time(0));
    let now = raft.deadline();
    let turn = |raft: &mut Raft| {
        raft.tick(now);
        raft.flush(now);
        while let Some(ready) = raft.ready(now) {
            raft.persisted(now, Persisted { seq: ready.seq, last: raft.status().last });
            raft.flush(now);
        }
        raft.messages().map(|envelope| envelope.message).collect::<Vec<Message>>()
    };
    let hear = |raft: &mut Raft, term, message| {
        let (from, to, incarnation) = (MemberId(2), MemberId(1), Incarnation(1));
        raft.step(now, Envelope { from, to, term: Term(term), incarnation, message });
        turn(raft)
    };
    let campaign = Incarnation(1).first_number() + 1;
    raft.tick(now);
    hear(&mut raft, 2, Message::PreVoteReply { campaign, granted: true });
    hear(&mut raft, 3, Message::VoteReply { campaign: campaign + 1, granted: true });
    assert!(raft.is_leader());
    hear(&mut raft, 3, Message::Conflict { session: 1, prev_index: Index(3), hint: Position::default() });
    let read = raft.take_loads()[0];
    assert_eq!((read.peer, read.from), (MemberId(2), Index(1)));
    let appends = |messages: Vec<Message>| {
        messages.iter().filter(|m| matches!(m, Message::Append { entries, .. } if !entries.is_empty())).count()
    };
    raft.loaded(read, vec![entry(1, 1), entry(2, 1)]);
    assert_eq!(appends(turn(&mut raft)), 0, "entries of term 1 stood there once");
    let read = raft.take_loads()[0];
    raft.loaded(read, vec![entry(1, 2), entry(2, 2)]);
    assert_eq!(appends(turn(&mut raft)), 1);
}

/// A member that knows `configuration`, with an empty log, in term 1.
fn newborn(configuration: Configuration) -> Raft {
    let config = Config::new(MemberId(1), Incarnation(1), configuration, Seed(1));
    Raft::new(config, HardState { term: Term(1), vote: None }, Log::empty(), Index(0), Time(0))
}

#[test]
fn strangers_are_heard_if_they_lead_or_campaign() {
    let (question, nowhere) = (Bytes::new(), Position::default());
    let leads = [
        Message::Append { session: 1, sequence: 1, prev: nowhere, commit: Index(0), entries: Vec::new() },
        Message::Heartbeat { session: 1, sequence: 0, commit: Index(0), round: 0 },
        Message::Install { session: 1, base: nowhere },
        Message::Vote { campaign: 1, last: nowhere, transfer: false },
    ];
    let neither = [
        Message::VoteReply { campaign: 1, granted: true },
        Message::Appended { session: 1, matched: Index(0) },
        Message::Conflict { session: 1, prev_index: Index(1), hint: nowhere },
        Message::HeartbeatReply { session: 1, sequence: 0, received: 0, matched: Index(0), round: 0 },
        Message::ReadIndex { context: 1 },
        Message::Forward { id: RequestId::default(), data: question.clone(), grows: false },
        Message::TimeoutNow,
        Message::Ask { context: 1, question },
    ];
    for (messages, heard) in [(&leads[..], true), (&neither[..], false)] {
        for message in messages {
            let mut raft = newborn(Configuration::new((1..=3).map(MemberId)));
            let (from, to, incarnation) = (MemberId(9), MemberId(1), Incarnation(1));
            raft.step(Time(0), Envelope { from, to, term: Term(7), incarnation, message: message.clone() });
            assert_eq!(raft.term() == Term(7), heard, "{message:?}");
        }
    }
}

#[test]
fn who_knows_nobody_hears_what_its_leader_answers() {
    let mut raft = newborn(Configuration::unknown());
    let mut hear = |from, message| {
        let (to, incarnation) = (MemberId(1), Incarnation(1));
        raft.step(Time(0), Envelope { from: MemberId(from), to, term: Term(1), incarnation, message });
        raft.take_answers()
    };
    let answer = Message::Answer { context: 5, answer: Bytes::from_static(b"a record") };
    hear(9, Message::Heartbeat { session: 1, sequence: 0, commit: Index(0), round: 0 });
    assert_eq!(hear(8, answer.clone()), []);
    assert_eq!(hear(9, answer), [(5, Bytes::from_static(b"a record"))]);
}

/// What a member whose log has three entries of term 2 tells member 2, which asks it in term 3 with `message`.
fn told(floor: Option<Position>, message: Message) -> Vec<Message> {
    let at = |index| Position { index: Index(index), term: Term(2) };
    let mut config = Config::new(MemberId(1), Incarnation(1), Configuration::new((1..=3).map(MemberId)), Seed(1));
    config.floor = floor;
    let mut log = Log::empty();
    (1..=3).for_each(|i| log.append(Entry::new(at(i), EntryKind::Command, RequestId::default(), Bytes::new())));
    let mut raft = Raft::new(config, HardState { term: Term(3), vote: None }, log, Index(0), Time(0));
    let (from, to, incarnation) = (MemberId(2), MemberId(1), Incarnation(1));
    raft.step(Time(0), Envelope { from, to, term: Term(3), incarnation, message });
    raft.flush(Time(0));
    while let Some(ready) = raft.ready(Time(0)) {
        raft.persisted(Time(0), Persisted { seq: ready.seq, last: raft.status().last });
    }
    raft.messages().map(|envelope| envelope.message).collect()
}

#[test]
fn a_mark_that_a_log_has_passed_does_not_stand_for_it() {
    let mark = Position { index: Index(1), term: Term(2) };
    for (index, granted) in [(1, false), (2, false), (3, true)] {
        let last = Position { index: Index(index), term: Term(2) };
        let vote = Message::Vote { campaign: 7, last, transfer: true };
        assert_eq!(told(Some(mark), vote), [Message::VoteReply { campaign: 7, granted }], "a log up to {index}");
    }
}

#[test]
fn a_pre_vote_is_granted_for_a_later_term_only() {
    for (next_term, granted) in [(2, false), (3, false), (4, true)] {
        let last = Position { index: Index(3), term: Term(2) };
        let ask = Message::PreVote { campaign: 7, next_term: Term(next_term), last };
        assert_eq!(told(None, ask), [Message::PreVoteReply { campaign: 7, granted }], "term {next_term}");
    }
}

#[test]
fn what_is_for_another_member_is_not_heard() {
    let mut raft = newborn(Configuration::new((1..=3).map(MemberId)));
    let message = Message::Heartbeat { session: 1, sequence: 0, commit: Index(0), round: 0 };
    let (from, to, incarnation) = (MemberId(2), MemberId(3), Incarnation(1));
    raft.step(Time(0), Envelope { from, to, term: Term(7), incarnation, message });
    assert_eq!((raft.term(), raft.leader()), (Term(1), None));
}

#[test]
fn who_does_not_lead_is_asked_in_vain() {
    let mut raft = newborn(Configuration::new((1..=3).map(MemberId)));
    let (from, to, incarnation) = (MemberId(2), MemberId(1), Incarnation(1));
    let message = Message::Ask { context: 1, question: Bytes::new() };
    raft.step(Time(0), Envelope { from, to, term: Term(1), incarnation, message });
    assert_eq!(raft.take_asks(), []);
}

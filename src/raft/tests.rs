//! What a script can't order: answers of the disk that come when the log has changed meanwhile.

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

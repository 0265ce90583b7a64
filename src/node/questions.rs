//! Questions to whoever leads, beside Raft: what they are about, and to which part of the node they go.
//!
//! Raft carries a question to the leader and an answer back, as bytes, and promises nothing: each part asks again what was
//! lost. All parts share the one channel, so what goes over it says which part it belongs to. The number under which a
//! part asks (the context) is its own business: an answer goes to the part that its kind names.
//!
//! | kind | asks | answers |
//! |---|---|---|
//! | lease | `leases.rs` | `leases.rs` |
//! | records | `install.rs` | `source.rs` |
//! | change | `membership.rs` | `membership.rs` |
//! | checkpoint | `quarantine.rs` | `quarantine.rs` |
//! | level | `levels.rs` | nobody |
//!
//! Invariant: a question is heard by a leader only, an answer only by a member that follows who gave it (Raft's doing).

use super::node::Node;
use crate::ids::MemberId;
use crate::proto::quorate as own;
use crate::time::Time;
use bytes::Bytes;
use own::{leader_answer::Answer, leader_question::Question};
use prost::Message as _;

impl Node {
    /// Hears what came for this member: questions if it leads, answers if it follows.
    pub(super) fn hear_questions(&mut self, now: Time) {
        for (peer, context, question) in self.raft.take_asks() {
            if self.raft.is_leader() {
                self.hear_question(now, peer, context, question);
            }
        }
        for (context, answer) in self.raft.take_answers() {
            if !self.raft.is_leader() && self.raft.leader().is_some() {
                self.hear_answer(now, context, answer);
            }
        }
    }

    fn hear_question(&mut self, now: Time, peer: MemberId, context: u64, question: Bytes) {
        match own::LeaderQuestion::decode(question).map(|question| question.question) {
            Ok(Some(Question::Lease(question))) => self.lease_question(peer, context, question),
            Ok(Some(Question::Change(question))) => self.change_question(peer, context, question),
            Ok(Some(Question::Records(question))) => self.records_question(now, peer, context, question),
            Ok(Some(Question::Checkpoint(question))) => self.checkpoint_question(now, peer, context, &question),
            Ok(Some(Question::Level(question))) => self.level_question(now, peer, question),
            // A kind of a later release.
            Ok(None) => {}
            Err(error) => tracing::error!(%peer, %error, "a question to the leader can't be read"),
        }
    }

    fn hear_answer(&mut self, now: Time, context: u64, answer: Bytes) {
        match own::LeaderAnswer::decode(answer).map(|answer| answer.answer) {
            Ok(Some(Answer::Lease(answer))) => self.lease_answer(context, &answer),
            Ok(Some(Answer::Change(answer))) => self.change_answer(answer),
            Ok(Some(Answer::Records(answer))) => self.records_answer(now, context, answer),
            Ok(Some(Answer::Checkpoint(answer))) => self.checkpoint_answer(now, context, answer),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "an answer of the leader can't be read"),
        }
    }

    /// Asks whoever leads. It may be lost.
    pub(super) fn ask_leader(&mut self, context: u64, question: Question) {
        self.raft.ask(context, own::LeaderQuestion { question: Some(question) }.encode_to_vec().into());
    }

    /// Answers a question. It may be lost.
    ///
    /// # Panics
    /// If this member does not lead.
    pub(super) fn answer_peer(&mut self, peer: MemberId, context: u64, answer: Answer) {
        self.raft.answer(peer, context, own::LeaderAnswer { answer: Some(answer) }.encode_to_vec().into());
    }
}

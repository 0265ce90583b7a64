//! Steps for people.

use super::world::{Action, Fate, World};
use crate::ids::Index;
use crate::raft::{Envelope, Message, Ready};

/// The kinds of messages.
pub const KINDS: [&str; 17] = [
    "PreVote",
    "PreVoteReply",
    "Vote",
    "VoteReply",
    "Append",
    "Appended",
    "Conflict",
    "Heartbeat",
    "HeartbeatReply",
    "ReadIndex",
    "ReadIndexReply",
    "Forward",
    "ForwardRefused",
    "TimeoutNow",
    "Ask",
    "Answer",
    "Install",
];

/// The roles, in the order of [`crate::raft::Role`].
pub const ROLES: [&str; 4] = ["follower", "pre-candidate", "candidate", "leader"];

/// Which of the [`KINDS`] a message is.
pub(super) fn kind(message: &Message) -> usize {
    match message {
        Message::PreVote { .. } => 0,
        Message::PreVoteReply { .. } => 1,
        Message::Vote { .. } => 2,
        Message::VoteReply { .. } => 3,
        Message::Append { .. } => 4,
        Message::Appended { .. } => 5,
        Message::Conflict { .. } => 6,
        Message::Heartbeat { .. } => 7,
        Message::HeartbeatReply { .. } => 8,
        Message::ReadIndex { .. } => 9,
        Message::ReadIndexReply { .. } => 10,
        Message::Forward { .. } => 11,
        Message::ForwardRefused { .. } => 12,
        Message::TimeoutNow => 13,
        Message::Ask { .. } => 14,
        Message::Answer { .. } => 15,
        Message::Install { .. } => 16,
    }
}

fn message(envelope: &Envelope) -> String {
    let Envelope { from, to, term, message, .. } = envelope;
    let said = match message {
        Message::PreVote { next_term, last, .. } => format!("next term {next_term}, log ends at {last}"),
        Message::Vote { last, .. } => format!("log ends at {last}"),
        Message::PreVoteReply { granted, .. } | Message::VoteReply { granted, .. } => {
            if *granted { "yes" } else { "no" }.to_string()
        }
        Message::Append { prev, commit, entries, .. } => {
            let entries: Vec<String> = entries.iter().map(|e| e.position.to_string()).collect();
            format!("after {prev} [{}], commit {commit}", entries.join(" "))
        }
        Message::Appended { matched, .. } => format!("up to {matched}"),
        Message::Conflict { prev_index, hint, .. } => format!("at {prev_index}, try {hint}"),
        Message::Heartbeat { commit, .. } => format!("commit {commit}"),
        Message::HeartbeatReply { matched, .. } => format!("up to {matched}"),
        _ => String::new(),
    };
    format!("n{from} → n{to}: {} (term {term}): {said}", KINDS[kind(message)])
}

/// A step from `world`.
pub(super) fn action(world: &World, action: &Action) -> String {
    match action {
        Action::Campaign(id) => format!("n{id} loses patience"),
        Action::PreVote { by, to } => format!("n{to} gets a pre-vote of n{by}"),
        Action::Propose(id) => format!("n{id} takes a client's write"),
        Action::Change { at, voters } => {
            let voters: Vec<String> = voters.iter().map(|voter| format!("n{voter}")).collect();
            format!("n{at} is asked for the voters {}", voters.join(", "))
        }
        Action::Deliver { flying, fate: Fate::InOrder } => message(&flying.envelope),
        Action::Deliver { flying, fate: Fate::Overtakes } => format!("{}, before others", message(&flying.envelope)),
        Action::Deliver { flying, fate: Fate::Repeated } => {
            format!("{}, and a copy stays on its way", message(&flying.envelope))
        }
        Action::Write(id) => {
            format!("n{id} has written{}", world.member(*id).queue.front().map(written).unwrap_or_default())
        }
        Action::Crash { who, kept, applied: Index(applied) } => {
            format!("n{who} crashes and starts again, with {kept} parts of its unfinished write, applied {applied}")
        }
        Action::Wipe(id) => format!("n{id} crashes, and starts again with an empty disk"),
        Action::Heartbeat(id) => format!("n{id} is due to send heartbeats"),
        Action::Lapse(id) => format!("n{id} hears no quorum"),
        Action::Break { at, peer } => format!("n{at} loses the stream of n{peer}"),
    }
}

fn written(ready: &Ready) -> String {
    let hard = ready.hard_state.map(|h| {
        let vote = h.vote.map_or(String::new(), |vote| format!(", vote for n{vote}"));
        format!(" term {}{vote}", h.term)
    });
    let cut = ready.truncate_from.map(|from| format!(" cut from {from}"));
    let entries: String = ready.entries.iter().map(|e| format!(" {}", e.position)).collect();
    [hard.unwrap_or_default(), cut.unwrap_or_default(), entries].concat()
}

//! How what happens is written down: short, in fixed columns, the same for all scripts.

use quorate::ids::MemberId;
use quorate::raft::quorum::{Configuration, Promotion};
use quorate::raft::{Entry, EntryKind, Envelope, Event, Message, Raft, Ready, Role};
use quorate::time::{Duration, Time};
use std::collections::BTreeSet;

/// Campaigns and contexts count within a life, and carry its number above bit 32.
fn in_life(number: u64) -> String {
    format!("{}.{}", number >> 32, number & 0xffff_ffff)
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}

/// `3@2 x`: position, then the command; nothing for a no-op.
pub fn entry(entry: &Entry) -> String {
    match entry.kind {
        EntryKind::Noop => entry.position.to_string(),
        EntryKind::Configuration => {
            let decoded = Configuration::decode(&entry.data);
            format!("{} ({})", entry.position, decoded.map_or("malformed".into(), |(c, _)| configuration(&c)))
        }
        EntryKind::Command if entry.data.len() > 20 => format!("{} {}B", entry.position, entry.data.len()),
        EntryKind::Command => format!("{} {}", entry.position, String::from_utf8_lossy(&entry.data)).trim().into(),
    }
}

/// `1,2,3|1,2 learn 4+`: voters now, those before in a joint configuration; `+` is a learner that becomes a voter by itself.
pub fn configuration(c: &Configuration) -> String {
    let ids = |set: &BTreeSet<MemberId>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut out = ids(c.incoming());
    if c.is_joint() {
        out += &format!("|{}", ids(c.outgoing()));
    }
    for (id, promotion) in c.learners() {
        out += &format!(" learn {id}{}", if *promotion == Promotion::WhenCaughtUp { "+" } else { "" });
    }
    out
}

/// `n1     v2: 1,2,3,4|1,2,3; committed v1: 1,2,3`.
pub fn membership(id: u64, raft: &Raft) -> String {
    let (newest, committed) = (raft.configuration(), raft.committed_configuration());
    let said = |c: &Configuration| match c.members().is_empty() {
        true => format!("v{}: nobody", c.version()),
        false => format!("v{}: {}", c.version(), configuration(c)),
    };
    let committed = if newest == committed { String::new() } else { format!("; committed {}", said(committed)) };
    format!("n{id}     {}{committed}", said(newest))
}

/// `[1@1, 2@1 x]`; long runs by their ends.
pub fn entries(entries: &[Entry]) -> String {
    match entries {
        [first, .., last] if entries.len() > 4 => format!("[{} … {}]", entry(first), entry(last)),
        _ => format!("[{}]", entries.iter().map(entry).collect::<Vec<_>>().join(", ")),
    }
}

/// `w1 term=1 vote=n1 cut≥3 [3@2]`.
pub fn ready(ready: &Ready) -> String {
    let mut parts = vec![format!("w{}", ready.seq)];
    if let Some(hard) = ready.hard_state {
        let vote = hard.vote.map_or("–".into(), |v| format!("n{v}"));
        parts.push(format!("term={} vote={vote}", hard.term));
    }
    parts.extend(ready.compact_to.map(|to| format!("forget≤{to}")));
    parts.extend(ready.truncate_from.map(|from| format!("cut≥{from}")));
    if !ready.entries.is_empty() {
        parts.push(entries(&ready.entries));
    }
    parts.join(" ")
}

pub fn kind(message: &Message) -> &'static str {
    match message {
        Message::PreVote { .. } => "PreVote",
        Message::PreVoteReply { .. } => "PreVoteReply",
        Message::Vote { .. } => "Vote",
        Message::VoteReply { .. } => "VoteReply",
        Message::Append { .. } => "Append",
        Message::Install { .. } => "Install",
        Message::Appended { .. } => "Appended",
        Message::Conflict { .. } => "Conflict",
        Message::Heartbeat { .. } => "Heartbeat",
        Message::HeartbeatReply { .. } => "HeartbeatReply",
        Message::ReadIndex { .. } => "ReadIndex",
        Message::ReadIndexReply { .. } => "ReadIndexReply",
        Message::Forward { .. } => "Forward",
        Message::ForwardRefused { .. } => "ForwardRefused",
        Message::TimeoutNow => "TimeoutNow",
        Message::Ask { .. } => "Ask",
        Message::Answer { .. } => "Answer",
    }
}

/// `n1@1→n2  Append s1#1 after 0@0 [1@1] commit=0`: the term is the sender's, `s1#1` the session and the append's number.
pub fn message(arrow: &str, e: &Envelope) -> String {
    let what = match &e.message {
        Message::PreVote { campaign, next_term, last } => {
            format!("c{} for term {next_term}, last={last}", in_life(*campaign))
        }
        Message::PreVoteReply { campaign, granted } | Message::VoteReply { campaign, granted } => {
            format!("c{} {}", in_life(*campaign), yes(*granted))
        }
        Message::Vote { campaign, last, transfer } => {
            let transfer = if *transfer { ", by transfer" } else { "" };
            format!("c{} last={last}{transfer}", in_life(*campaign))
        }
        Message::Append { session, sequence, prev, commit, entries: list } => {
            format!("s{session}#{sequence} after {prev} {} commit={commit}", entries(list))
        }
        Message::Install { session, base } => format!("s{session} base={base}"),
        Message::Appended { session, matched } => format!("s{session} matched={matched}"),
        Message::Conflict { session, prev_index, hint } => format!("s{session} at {prev_index}, try {hint}"),
        Message::Heartbeat { session, sequence, commit, round } => {
            format!("s{session}#{sequence} commit={commit} round={round}")
        }
        Message::HeartbeatReply { session, sequence, received, matched, round } => {
            format!("s{session}#{sequence} received=#{received} matched={matched} round={round}")
        }
        Message::ReadIndex { context } => format!("r{}", in_life(*context)),
        Message::ReadIndexReply { context, index } => format!("r{} index={index}", in_life(*context)),
        Message::Forward { id, data, .. } => format!("#{} {}", id.sequence, String::from_utf8_lossy(data)),
        Message::ForwardRefused { sequence, reason } => format!("#{sequence} {reason:?}"),
        Message::TimeoutNow => String::new(),
        Message::Ask { context, .. } | Message::Answer { context, .. } => format!("q{}", in_life(*context)),
    };
    let address = format!("n{}@{}{arrow}n{}", e.from, e.term, e.to);
    format!("{address:<9} {} {what}", kind(&e.message)).trim_end().into()
}

pub fn event(event: Event) -> String {
    match event {
        Event::LeaderLost(cause) => format!("has no leader: {cause:?}"),
        Event::Campaigned { term } => format!("campaigns for term {term}"),
        Event::LeaderKnown { term, leader } => format!("knows leader n{leader} of term {term}"),
        Event::TermCommitted { term } => format!("knows an entry of term {term} committed"),
    }
}

/// `n1@1 leader        last=1@1 disk=1 commit=1 applied=1  n2:replicate:1 n3:probe:0`.
pub fn status(id: u64, raft: &Raft) -> String {
    let s = raft.status();
    let role = match (s.role, s.leader) {
        (Role::Follower, Some(leader)) => format!("follows n{leader}"),
        (Role::Follower, None) => "no leader".into(),
        (Role::PreCandidate, _) => "pre-candidate".into(),
        (Role::Candidate, _) => "candidate".into(),
        (Role::Leader, _) => "leader".into(),
    };
    let flows: Vec<String> = match s.role {
        Role::Leader => raft.flows().iter().map(|(peer, flow, matched)| format!("n{peer}:{flow}:{matched}")).collect(),
        _ => Vec::new(),
    };
    let log = format!("last={} disk={} commit={} applied={}", s.last, s.persisted, s.commit, s.applied);
    format!("n{id}@{} {role:<13} {log}  {}", s.term, flows.join(" ")).trim_end().into()
}

/// A wait by the rule it was drawn from, so that scripts don't hang on the dice.
pub fn patience(wait: Duration, timeout: Duration) -> String {
    let ms = Duration::from_millis;
    let rules = [
        (ms(0), ms(20), "0–20 ms: a lost connection"),
        (ms(50), ms(100), "50–100 ms: another try, or another's turn"),
        (timeout, timeout * 5 / 4, "T–1.25 T: ordinary patience"),
    ];
    let rule = rules.iter().find(|(low, high, _)| (*low..*high).contains(&wait));
    rule.map_or_else(|| format!("{wait:?}"), |rule| rule.2.into())
}

/// How long until a deadline.
pub fn until(deadline: Time, clock: Time) -> Duration {
    deadline.since(clock)
}

//! Birth: from what a disk holds to a node.
//!
//! The only constructor of a [`Node`], in production and in simulation. It is the whole story of a crash: read top to
//! bottom, every combination of what the two databases may hold is either repaired here or refused with a sentence.
//!
//! | log | state | then |
//! |---|---|---|
//! | empty | empty | a newborn: follower in term 0 |
//! | ends at or after what was applied, same term there | any prefix | the state is replayed from the log as the leader commits |
//! | ends before the acked mark, or in an older term | applied within the log | it lost what it acknowledged: the mark stands in for its end in votes, and it does not campaign until the leader has filled it up |
//! | the same, and it is the only member | | refused: nobody can send what is missing |
//! | its term is older than the mark's | | it lost its vote too: it votes for nobody else up to the mark's term |
//! | ends before what was applied, or disagrees with it | | refused: the log's database was lost or replaced |
//! | a record that is not what was written | | refused, with the record |
//! | | a record that is not what was written | refused, with the record |
//!
//! Commit is not stored: it starts again at what was applied, until a leader says more. The member is a follower, whatever
//! it was before.

use super::node::{AckedMark, Node};
use super::{Config, Halt, Identity};
use crate::ids::{Index, MemberId, Position, WriteSeq};
use crate::machine::{Machine, Member};
use crate::raft::{self, HardState, Raft, Ready, log::Log, quorum::Configuration};
use crate::rng::Seed;
use crate::storage::Engine;
use crate::storage::directory::Meta;
use crate::storage::log::{LogStore, Recovered};
use crate::time::Time;
use std::sync::Arc;

/// How much of the log's end is read into memory at birth, for followers that lag a little.
const TAIL_BYTES: usize = 4 << 20;

/// What there is to open.
pub struct Opening {
    /// Who this is.
    pub meta: Meta,
    /// The database of term, vote and log.
    pub raft: Arc<dyn Engine>,
    /// The database of applied state.
    pub state: Arc<dyn Engine>,
    /// How to behave.
    pub config: Config,
    /// The node's dice.
    pub seed: Seed,
    /// When it is.
    pub now: Time,
}

/// An opened member: the node, and the log store for its disk worker.
#[derive(Debug)]
pub struct Opened {
    /// The node.
    pub node: Node,
    /// Executes the node's `Persist` and `Load` effects.
    pub log: LogStore,
}

/// Opens what a member left on its disk.
///
/// # Errors
/// The disks failed, or hold what can't be: the sentence says what, and what to do.
pub fn open(opening: Opening) -> Result<Opened, Halt> {
    let Opening { meta, raft: raft_engine, state: state_engine, config, seed, now } = opening;
    let members = meta.members.iter().map(initial_member).collect();
    let machine = Machine::open(state_engine.clone(), members).map_err(|e| Halt(format!("the state database: {e}")))?;
    let mark = AckedMark::read(&*state_engine).map_err(|e| Halt(format!("the state database: {e}")))?;
    let (mut log, mut recovered) = LogStore::open(raft_engine, TAIL_BYTES, mark.incarnation)
        .map_err(|e| Halt(format!("the log database: {e}")))?;
    if recovered.hard_state.term < mark.term {
        recovered.hard_state = forgotten_vote(&mut log, meta.member, mark)?;
    }
    let applied = machine.applied();
    let tail = unapplied_tail(&log, &recovered, applied.index)?;
    let entries = Log::restore(Position::default(), recovered.terms, recovered.last, tail);
    check_applied(&entries, applied)?;
    let floor = (!entries.last().reaches(mark.last)).then_some(mark.last);
    if let Some(floor) = floor
        && meta.members.len() == 1
    {
        return Err(Halt(format!(
            "the log ends at {}, but this member had acknowledged {floor}, and it is the only member: nobody can send what is \
             missing. Put back a copy of the whole data directory, or begin anew with an empty --data-dir.",
            recovered.last
        )));
    }
    if let Some(floor) = floor {
        tracing::error!(
            log_ends = %recovered.last, acknowledged = %floor,
            "the log lost entries that this member had acknowledged; it does not campaign until the leader has sent them again"
        );
    }

    let voters = meta.members.iter().map(|m| m.id);
    let mut raft_config = raft::Config::new(meta.member, recovered.incarnation, Configuration::new(voters), seed);
    raft_config.heartbeat_interval = config.heartbeat_interval;
    raft_config.election_timeout = config.election_timeout;
    raft_config.limits = config.limits.clone();
    raft_config.floor = floor;
    let raft = Raft::new(raft_config, recovered.hard_state, entries, applied.index, now);
    let identity =
        Identity { cluster: meta.cluster, member: meta.member, disk: meta.disk, incarnation: recovered.incarnation };
    Ok(Opened { node: Node::new(identity, config, raft, machine, mark.last, now), log })
}

fn initial_member(member: &crate::storage::directory::InitialMember) -> Member {
    Member { id: member.id, name: member.name.clone(), peer_urls: member.peer_urls.clone(), ..Member::default() }
}

/// The log's newest entries, back to the first that is not applied: what may be applied or truncated is held in memory.
fn unapplied_tail(log: &LogStore, recovered: &Recovered, applied: Index) -> Result<Vec<raft::Entry>, Halt> {
    let held = recovered.tail.first().map_or(recovered.last.index.next(), |e| e.position.index);
    let mut tail = Vec::new();
    let mut next = applied.next();
    while next < held {
        let more = log.read(next, usize::MAX).map_err(|e| Halt(format!("the log database: {e}")))?;
        let Some(last) = more.last() else { break };
        next = last.position.index.next();
        tail.extend(more.into_iter().filter(|e| e.position.index < held));
    }
    tail.extend(recovered.tail.iter().cloned());
    Ok(tail)
}

/// The state never runs ahead of the log, so a log that lacks what was applied is not the one the state was made from.
fn check_applied(log: &Log, applied: Position) -> Result<(), Halt> {
    match log.term_at(applied.index) {
        Some(term) if term == applied.term => Ok(()),
        found => Err(Halt(format!(
            "the state was made from entry {applied}, but the log ends at {} and has term {} there: the directory `raft` is \
             damaged, or was replaced. Some of this member's votes and acknowledgements are gone with it, so it must not go on \
             under its old id. Put the original `raft` directory back; if it is lost, bring the member back \
             under a new id, with an empty directory: the other members have the data",
            log.last(),
            found.map_or("none".into(), |term| term.to_string()),
        ))),
    }
}

/// The log database forgot the term, and with it whom this member voted for up to the mark's: it may have been anyone. So
/// nobody gets this member's vote in those terms any more: it is as if it had voted for itself.
fn forgotten_vote(log: &mut LogStore, own: MemberId, mark: AckedMark) -> Result<HardState, Halt> {
    let hard_state = HardState { term: mark.term, vote: Some(own) };
    tracing::error!(term = %mark.term, "the log database lost this member's term and vote; it does not vote in that term any more");
    let ready = Ready {
        seq: WriteSeq(0),
        hard_state: Some(hard_state),
        compact_to: None,
        truncate_from: None,
        entries: Vec::new(),
    };
    log.persist(&[ready]).map_err(|e| Halt(format!("the log database: {e}")))?;
    Ok(hard_state)
}

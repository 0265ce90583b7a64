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
//! | ends before it, or disagrees with it | was taken over up to there | the log is emptied, and begins there: the lawful end of an install that was cut short |
//! | begins after what was applied | | hollow: the state was lost, and is taken over from the leader |
//! | the same, and it is the only member | | refused: nobody can send what is missing |
//! | any | none, in quarantine | hollow, whatever the log could make: the state was wrong, and is taken over from the leader |
//! | empty | empty, and no member is known | hollow: a joiner, whose state is the leader's |
//! | | of a level that is not known here, or written by a release that knows more | refused: the state is sound, and that release opens it |
//! | a record that is not what was written | | refused, with the record |
//! | | a record that is not what was written | refused, as [`Unopened::State`]: where the state can be made again ([`can_be_made_again`]), the shell sets it aside and opens on an empty one |
//!
//! **The only member** is one whose newest known configuration names nobody else, and what is known is what the log or the
//! state says, whichever is newer: the founders count only where neither has heard of a change. Both keep it, since either may
//! be lost.
//!
//! **Hollow** is a member that holds the whole log it acknowledged, but can't apply it. It votes and acknowledges as ever; it
//! does not campaign, and applies nothing, until it has taken over a state and is opened again.
//!
//! With a state that is set aside because it can't be read the acked mark goes too. Then nothing witnesses the log any more: had
//! it lost its tail at the same time, nobody would know. Two databases that rot at once are one fault more than a member is built
//! for.
//!
//! Commit is not stored: it starts again at what was applied, until a leader says more. The member is a follower, whatever
//! it was before.

use super::marks::{AckedMark, Adopted, Beside};
use super::node::Node;
use super::{Config, Halt, Identity};
use super::{levels, membership};
use crate::ids::{Incarnation, Index, MemberId, Position, WriteSeq};
use crate::machine::{Machine, Member, OpenError};
use crate::raft::quorum::Configuration;
use crate::raft::{self, HardState, Raft, Ready, log::Log};
use crate::rng::Seed;
use crate::storage::directory::Meta;
use crate::storage::log::{LogStore, Recovered};
use crate::storage::{COME_BACK, Engine};
use crate::time::Time;
use std::sync::Arc;

/// What is done where there is nobody to ask.
const RESTORE: &str = "Put back a copy of the whole data directory, or restore a snapshot into an empty one: quorate snapshot \
                       restore <file> --data-dir <directory>";

/// How much of the log's end is read into memory at birth, for followers that lag a little.
const TAIL_BYTES: usize = 4 << 20;

/// What there is to open.
pub struct Opening {
    /// Who this is. A joiner knows no members yet.
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

/// Why a member can't be opened. The sentence says what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// Its state is not what was written. Where there are other members, it can be taken over from them.
    #[error(transparent)]
    State(Halt),
    /// Everything else.
    #[error(transparent)]
    Member(#[from] Halt),
}

impl From<Unopened> for Halt {
    fn from(unopened: Unopened) -> Halt {
        let (Unopened::State(halt) | Unopened::Member(halt)) = unopened;
        halt
    }
}

fn rotten_state(why: impl std::fmt::Display) -> Unopened {
    Unopened::State(Halt(format!("the state database: {why}")))
}

fn log_fault(why: impl std::fmt::Display) -> Halt {
    Halt(format!("the log database: {why}"))
}

/// Opens what a member left on its disk.
///
/// # Errors
/// The disks failed, or hold what can't be.
pub fn open(opening: Opening) -> Result<Opened, Unopened> {
    let Opening { meta, raft: raft_engine, state: state_engine, config, seed, now } = opening;
    let members = meta.members.iter().map(initial_member).collect();
    let machine = Machine::open(state_engine.clone(), members).map_err(|error| match error {
        OpenError::Newer(why) => Unopened::Member(Halt(why)),
        OpenError::Fault(_) | OpenError::Corrupt(_) => rotten_state(error),
    })?;
    levels::check(machine.level(), &config)?;
    let applied = machine.applied();
    let beside = Beside::read(&*state_engine).map_err(rotten_state)?;
    let Beside { mark, adopted, quarantined } = beside;
    if let Some(Adopted(up_to)) = adopted
        && applied.index < up_to.index
    {
        return Err(rotten_state(format_args!("it was taken over up to {up_to}, but ends at {applied}")));
    }
    let (mut log, mut recovered) = LogStore::open(raft_engine, TAIL_BYTES, mark.incarnation).map_err(log_fault)?;
    if recovered.hard_state.term < mark.term {
        recovered.hard_state = forgotten_vote(&mut log, meta.member, mark)?;
    }
    if adopted == Some(Adopted(applied)) {
        begin_at(&mut log, &mut recovered, applied)?;
    }
    let of_state = membership::of_state(&machine.view().configuration(), meta.members.iter().map(|m| m.id))?;
    // Who told that the state was wrong is not the only member.
    let only_member = quarantined.is_none() && is_only_member(&of_state, &recovered);
    let hollow = quarantined.is_some() || is_hollow(&recovered, applied, &of_state, only_member)?;
    // A hollow member goes on as if everything up to its log's base were applied: it is committed.
    let in_use = if hollow { recovered.base.index } else { applied.index };
    let tail = unapplied_tail(&log, &recovered, in_use)?;
    let log_bytes = recovered.bytes;
    let entries = Log::restore(recovered.base, recovered.terms, recovered.last, tail);
    if !hollow {
        check_applied(&entries, applied)?;
    }
    let floor = (!entries.last().reaches(mark.last)).then_some(mark.last);
    if let Some(floor) = floor
        && only_member
    {
        return Err(Unopened::Member(Halt(format!(
            "the log ends at {}, but this member had acknowledged {floor}, and it is the only member: nobody can send what is \
             missing. {RESTORE}",
            recovered.last
        ))));
    }
    if let Some(floor) = floor {
        tracing::error!(
            log_ends = %recovered.last, acknowledged = %floor,
            "the log lost entries that this member had acknowledged; it does not campaign until the leader has sent them again"
        );
    }

    let configuration = if hollow { recovered.configuration.unwrap_or(of_state) } else { of_state };
    log.note(&configuration).map_err(log_fault)?;
    let mut raft_config = raft::Config::new(meta.member, recovered.incarnation, configuration, seed);
    raft_config.heartbeat_interval = config.heartbeat_interval;
    raft_config.election_timeout = config.election_timeout;
    raft_config.limits = config.limits.clone();
    raft_config.floor = floor;
    raft_config.hollow = hollow;
    let raft = Raft::new(raft_config, recovered.hard_state, entries, in_use, now);
    let identity =
        Identity { cluster: meta.cluster, member: meta.member, disk: meta.disk, incarnation: recovered.incarnation };
    Ok(Opened { node: Node::new(identity, config, raft, machine, &beside, log_bytes, now), log })
}

pub(super) fn initial_member(member: &crate::storage::directory::InitialMember) -> Member {
    Member { id: member.id, name: member.name.clone(), peer_urls: member.peer_urls.clone(), ..Member::default() }
}

/// The log's newest entries, back to the first that is not applied: what may be applied or truncated is held in memory.
fn unapplied_tail(log: &LogStore, recovered: &Recovered, applied: Index) -> Result<Vec<raft::Entry>, Halt> {
    let held = recovered.tail.first().map_or(recovered.last.index.next(), |e| e.position.index);
    let mut tail = Vec::new();
    let mut next = applied.next();
    while next < held {
        let more = log.read(next, usize::MAX).map_err(log_fault)?;
        let Some(last) = more.last() else { break };
        next = last.position.index.next();
        tail.extend(more.into_iter().filter(|e| e.position.index < held));
    }
    tail.extend(recovered.tail.iter().cloned());
    Ok(tail)
}

/// The state was taken over, and ends at `end`: a log that does not lead there gives way. What it held up to there is in the
/// state; what it held beyond is not what was committed, or was cut off by an earlier try at this.
fn begin_at(log: &mut LogStore, recovered: &mut Recovered, end: Position) -> Result<(), Halt> {
    if end.index < recovered.base.index || leads_to(recovered, end) {
        return Ok(());
    }
    if recovered.hard_state.term < end.term {
        // No word that depended on the newer term has left this member: it would be on the disk. So it may still vote in it.
        recovered.hard_state = HardState { term: end.term, vote: None };
        write_hard_state(log, recovered.hard_state)?;
    }
    tracing::info!(%end, log_ends = %recovered.last, "the log begins anew where the state that was taken over ends");
    log.reset(end).map_err(log_fault)?;
    (recovered.base, recovered.last) = (end, end);
    (recovered.terms, recovered.tail, recovered.bytes) = (Vec::new(), Vec::new(), Vec::new());
    Ok(())
}

/// Whether the log holds the entry at `end`, or begins after it.
fn leads_to(recovered: &Recovered, end: Position) -> bool {
    let run = recovered.terms.iter().rev().find(|(first, _)| *first <= end.index);
    let term = run.map_or(recovered.base.term, |run| run.1);
    end.index <= recovered.last.index && term == end.term
}

/// Whether nobody else is known. A joiner knows nobody, and is not alone.
fn is_only_member(of_state: &Configuration, recovered: &Recovered) -> bool {
    let of_log = recovered.newest_configuration.as_ref();
    let newest = of_log.filter(|log| log.version() > of_state.version()).unwrap_or(of_state);
    newest.members().len() == 1
}

/// Whether a member whose state can't be read gets another one: from its own log, if that holds everything, or from the other
/// members. `raft` is the database of the log.
///
/// # Errors
/// It gets none, or the log can't be read either.
pub fn can_be_made_again(meta: &Meta, raft: Arc<dyn Engine>) -> Result<(), Halt> {
    let (_, recovered) = LogStore::open(raft, 0, Incarnation(0)).map_err(log_fault)?;
    let founders = membership::of_state(&bytes::Bytes::new(), meta.members.iter().map(|m| m.id))?;
    let base = recovered.base;
    if base.index > Index(0) && is_only_member(&founders, &recovered) {
        return Err(Halt(format!(
            "This is the only member, and its log holds only what follows {base}: nobody can send the state again. {RESTORE}"
        )));
    }
    Ok(())
}

/// Whether there is nothing here that the log could be applied to: a state that ends before the log begins, or a joiner's.
///
/// # Errors
/// It is so, and there is nobody to take a state over from.
fn is_hollow(
    recovered: &Recovered,
    applied: Position,
    of_state: &Configuration,
    only_member: bool,
) -> Result<bool, Halt> {
    let joins = of_state.members().is_empty() && applied.index == Index(0);
    if joins || applied.index >= recovered.base.index {
        return Ok(joins);
    }
    let (base, last) = (recovered.base, recovered.last);
    if only_member {
        return Err(Halt(format!(
            "the state ends at entry {applied}, but the log holds only what follows {base}, and this is the only member: \
             nobody can send what is missing. The directory `state` is damaged, or was replaced. {RESTORE}",
        )));
    }
    tracing::error!(
        state_ends = %applied, log_begins_after = %base, log_ends = %last,
        "the state was lost, and the log alone can't make it again; it is taken over from the leader"
    );
    Ok(true)
}

/// The state never runs ahead of the log, so a log that lacks what was applied is not the one the state was made from.
fn check_applied(log: &Log, applied: Position) -> Result<(), Halt> {
    match log.term_at(applied.index) {
        Some(term) if term == applied.term => Ok(()),
        found => Err(Halt(format!(
            "the state was made from entry {applied}, but the log ends at {} and has term {} there: the directory `raft` is \
             damaged, or was replaced. Some of this member's votes and acknowledgements are gone with it, so it must not go on \
             under its old id. Put the original `raft` directory back; if it is lost, {COME_BACK}",
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
    write_hard_state(log, hard_state)?;
    Ok(hard_state)
}

fn write_hard_state(log: &mut LogStore, hard_state: HardState) -> Result<(), Halt> {
    let ready = Ready {
        seq: WriteSeq(0),
        hard_state: Some(hard_state),
        compact_to: None,
        truncate_from: None,
        entries: Vec::new(),
    };
    log.persist(&[ready]).map(|_| ()).map_err(log_fault)
}

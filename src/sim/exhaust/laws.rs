//! What must hold in every world.
//!
//! Most laws speak of all of history. They are checked without one, by looking at each step and at each state:
//!
//! - *Election safety*, *commit*: the world notes who led which term and what was ever committed.
//! - *One vote per term*: a grant leaves only if the disk says just that, and a disk never changes its vote within a term
//!   nor goes back to an older one. So no two grants of a member in one term can ever have left.
//! - *Whose configuration it is*: the newest in the log, which the world knows by its position.
//! - *Leader completeness*, *a quorum holds what is committed*, *log matching*: in every state, whatever led there.

use super::world::{Member, World, ids};
use crate::ids::{Index, MemberId, Position};
use crate::raft::quorum::Configuration;
use crate::raft::{Entry, Envelope, HardState, Message, Role};

/// The disk's vote is given once in a term, and its term only grows.
pub(super) fn may_replace(old: HardState, new: HardState) -> Result<(), String> {
    if new.term < old.term {
        return Err(format!("a disk's term falls from {} to {}", old.term, new.term));
    }
    if new.term == old.term && old.vote.is_some() && new.vote != old.vote {
        return Err(format!("a disk's vote in term {} changes from {:?} to {:?}", new.term, old.vote, new.vote));
    }
    Ok(())
}

/// A message leaves: what it speaks of is on its sender's disk.
pub(super) fn may_leave(world: &World, envelope: &Envelope) -> Result<(), String> {
    let disk = &world.member(envelope.from).disk;
    if envelope.term > disk.hard.term {
        return Err(format!("{envelope:?} leaves, but the disk is in term {}", disk.hard.term));
    }
    match envelope.message {
        Message::VoteReply { granted: true, .. } | Message::Vote { .. } => {
            let grantee = if let Message::Vote { .. } = envelope.message { envelope.from } else { envelope.to };
            if disk.hard != (HardState { term: envelope.term, vote: Some(grantee) }) {
                return Err(format!("{envelope:?} leaves, but the disk says {:?}", disk.hard));
            }
        }
        Message::Appended { matched, .. } | Message::HeartbeatReply { matched, .. } => {
            if disk.last().index < matched {
                return Err(format!("{envelope:?} leaves, but the disk ends at {}", disk.last()));
            }
            let leader = &world.member(envelope.to).raft;
            let asked = leader.is_leader() && leader.term() == envelope.term;
            let (here, there) = (disk.at(matched).map(|e| e.position), leader.position_before(matched.next()));
            if asked && matched > Index(0) && here != Some(there) {
                return Err(format!("{envelope:?} leaves, but the disk holds {here:?} there, the leader {there}"));
            }
        }
        _ => {}
    }
    Ok(())
}

/// A member's turn is over: everything it could have changed is looked at.
pub(super) fn after_turn(world: &mut World, id: MemberId, before: Index, applied: &[Entry]) -> Result<(), String> {
    let status = world.member(id).raft.status();
    if status.role == Role::Leader {
        match world.leaders.iter().find(|(term, _)| *term == status.term) {
            Some((_, other)) if *other != id => {
                return Err(format!("two leaders in term {}: n{other} and n{id}", status.term));
            }
            Some(_) => {}
            None => world.leaders.push((status.term, id)),
        }
    }
    for index in (1..=status.commit.0).map(Index) {
        let here = world.member(id).raft.position_before(index.next());
        match world.committed.get(index.0 as usize - 1) {
            Some((known, _)) if *known != here => {
                return Err(format!("n{id} has committed {here}, but {known} was committed"));
            }
            Some(_) => {}
            None => world.committed.push((here, status.term)),
        }
    }
    let mut next = before.next();
    for entry in applied {
        let on_disk = world.member(id).disk.at(next);
        if entry.position.index != next || on_disk != Some(entry) {
            return Err(format!("n{id} applies {} after {before}, but its disk holds {on_disk:?}", entry.position));
        }
        next = next.next();
    }
    if status.applied > status.commit || status.commit > status.last.index {
        return Err(format!(
            "n{id} has applied {}, committed {}, all of {}",
            status.applied, status.commit, status.last
        ));
    }
    counts_the_newest_configuration(world, id)?;
    is_committed_for_good(world)?;
    logs_match(world, id)
}

/// The configuration that counts is the newest one in the log (dissertation §4.1).
fn counts_the_newest_configuration(world: &World, id: MemberId) -> Result<(), String> {
    let raft = &world.member(id).raft;
    let in_log = (1..=raft.status().last.index.0).rev().find_map(|index| {
        let at = raft.position_before(Index(index).next());
        world.configurations.get(&(at.index, at.term))
    });
    let (counts, first) = (raft.configuration(), Configuration::new(ids()));
    let newest = in_log.unwrap_or(&first);
    if counts == newest { Ok(()) } else { Err(format!("n{id} goes by {counts:?}, but its log ends with {newest:?}")) }
}

/// What is committed is on a quorum's disks, in every log of a later leader, and nowhere contradicted below a commit index.
fn is_committed_for_good(world: &World) -> Result<(), String> {
    for (position, term) in &world.committed {
        let holds = |m: &&Member| m.disk.at(position.index).is_some_and(|e| e.position == *position);
        let holders = ids().map(|id| world.member(id)).filter(holds).count();
        if holders * 2 <= world.members.len() {
            return Err(format!("{position} is committed, but on {holders} disks only"));
        }
        for id in ids() {
            let raft = &world.member(id).raft;
            let lacks = raft.position_before(position.index.next()) != *position;
            if raft.is_leader() && raft.term() > *term && lacks {
                return Err(format!("n{id} leads term {} without {position}, committed in term {term}", raft.term()));
            }
        }
    }
    Ok(())
}

/// Two logs that have an entry of one term at one index are equal up to there (Raft fig. 3), in memory as on the disks.
fn logs_match(world: &World, id: MemberId) -> Result<(), String> {
    let in_memory = |m: &Member, index: Index| -> Position { m.raft.position_before(index.next()) };
    let mine = world.member(id);
    for other in ids().filter(|other| *other != id).map(|other| world.member(other)) {
        let last = mine.raft.status().last.index.min(other.raft.status().last.index);
        parts_once(last, |index| in_memory(mine, index) == in_memory(other, index))
            .map_err(|index| format!("the logs of n{id} and n{} part and meet again after {index}", other.raft.id()))?;
        let last = mine.disk.last().index.min(other.disk.last().index);
        parts_once(last, |index| mine.disk.at(index) == other.disk.at(index)).map_err(|index| {
            format!("the disks of n{id} and n{} part and meet again after {index}", other.raft.id())
        })?;
        for (a, b) in mine.disk.entries.iter().zip(&other.disk.entries) {
            if a.position == b.position && a != b {
                return Err(format!("two entries at {}", a.position));
            }
        }
    }
    Ok(())
}

/// Whether what is equal is a prefix; else the index at which it differs though a later one is equal.
fn parts_once(last: Index, is_equal: impl Fn(Index) -> bool) -> Result<(), Index> {
    let equal = (1..=last.0).map(Index).take_while(|index| is_equal(*index)).count() as u64;
    match (equal + 1..=last.0).map(Index).find(|index| is_equal(*index)) {
        Some(_) => Err(Index(equal + 1)),
        None => Ok(()),
    }
}

//! The laws, checked after every event against a record of everything that ever happened.
//!
//! The record is the simulator's own: what was handed to each disk and what became durable, who led which term, which vote
//! was told to whom, what was first committed where and what state that made. A member's word is compared with it as soon
//! as it is given, so a broken law is noticed at the event that broke it and not when the damage is done. Each check costs
//! what has changed, never the length of the log; the exception is a new leader, whose log is compared with everything that
//! is committed.
//!
//! What members say to each other, and what a change of the membership promises, is looked at in files of their own. The laws of
//! what clients see are the judge's (`crate::check`), who knows nothing of this record.

use super::councils::{Changes, Council, Councils};
use super::host::{Born, Stamp};
use super::plan::{Plan, Timers};
use crate::ids::{Incarnation, Index, MemberId, Position, Term, WriteSeq};
use crate::node::RoleName;
use crate::node::events::Glance;
use crate::raft::{Entry, Envelope, HardState, Message, Ready};
use crate::time::Time;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use words::{Ear, Said};

mod membership;
mod words;

/// The laws, by name. The numbers in brackets are those of the literature's lists: Raft fig. 3 where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// At most one leader per term, ever (Raft fig. 3).
    ElectionSafety,
    /// An index and a term determine the entry and everything before it (Raft fig. 3).
    LogMatching,
    /// A leader's log has everything that was committed in earlier terms (Raft fig. 3).
    LeaderCompleteness,
    /// Nobody commits or applies another entry at an index, and the same entries make the same state (Raft fig. 3).
    StateMachineSafety,
    /// What is committed is durable on a quorum of the configuration in force, at that moment: nobody else's word counts.
    CommitIsDurable,
    /// Who leads has the votes of a quorum of the configuration in force: nobody else's count.
    Elected,
    /// A configuration follows the one before: a joint one a simple one, and the simple one that it leads to; a leader begins
    /// none before the last one is committed; and no id that went comes back.
    OneChange,
    /// Who has no state of its own does not campaign, does not lead, and serves nobody.
    Hollow,
    /// A change that was answered with yes was made, and of the configuration that it was asked for.
    Changed,
    /// Who is right keeps its state. Who is wrong and knows it serves and gives nothing, and then has no state until it has
    /// taken one over that is no older; a healed core finds out who is wrong.
    Quarantine,
    /// A leader counts replicas of its own term's entries only (Raft §5.4.2).
    OwnTerm,
    /// One vote per member and term in everything that was ever said, durable when it was said.
    DurableVote,
    /// What a message says of its sender's disk is so.
    SyncBeforeAck,
    /// Terms, commits and what is applied don't go back in a life; terms, votes and the durable state never.
    Monotone,
    /// applied ≤ commit ≤ last, applied ≤ persisted ≤ last, and persisted is what the disk says.
    Order,
    /// What a leader believes of a follower's log is durable there, was said by it in this life and term, and is never less than
    /// before.
    Matched,
    /// No more appends are on their way to a follower than its window takes.
    Bounded,
    /// Nothing is written that is not what its maker made.
    Sound,
    /// A linearizable read, or a word on a lease but that it is renewed, knows everything that was committed when it was asked for.
    FreshRead,
    /// Each request is answered once, and never after that.
    AnsweredOnce,
    /// Who has nothing to do sleeps: a turn that changes nothing does not ask for another one at once.
    Sleeps,
    /// A disk that no fault has touched opens.
    Recovery,
    /// A disk with a flipped bit does not.
    RotIsRefused,
    /// A healed core reaches one state, with no new request.
    Converges,
    /// A healed core serves writes and reads on each of its members.
    Serves,
    /// A healed core keeps its leader, whatever those outside do.
    Stable,
    /// A cluster at rest sends heartbeats and their answers, nothing else.
    Quiet,
    /// No lease ends before the time that its owner was promised is over, by the worst clock that the plan has.
    LeaseKept,
    /// A healed core ends every lease that nobody keeps alive, and its keys with it.
    LeaseEnds,
    /// Members with the same applied index hold the same content, however far they have swept.
    SameContent,
    /// A member's history begins where somebody asked for it.
    Compacted,
    /// A healed core ends its compactions, and takes puts again when space is back.
    SpaceReturns,
    /// Watchers that go on where they can are told everything once, in order, whole revisions at a time.
    Watched,
    /// The judge accepts what clients saw.
    Linearizable,
    /// The program's own assertions hold.
    Assertion,
    /// The same plan twice is the same run.
    Deterministic,
    /// A vote goes to who asks first, unless the voter's log is newer: then never (Raft §5.4.1). Who asks beforehand is answered.
    FairVote,
    /// Who has gone on to a later term says nothing more in a former one.
    OneTerm,
    /// Who hears of a later term goes on to it, and tells of it whoever leads in a former one (Raft fig. 2).
    LaterTerm,
    /// No number that an answer echoes is used by two lives of a member.
    OwnNumbers,
    /// A forwarded command is appended once at most, in the term in which it was forwarded.
    Forwarded,
    /// A leader answers for a read, for how long a lease lasts and that there is none, when a quorum has answered a round that
    /// began after it was asked; that a lease is renewed, also by one that began a tenth of a second before.
    Confirmed,
    /// A follower commits no further than its leader's appends have reached in its log.
    Verified,
    /// Who leads has heard a quorum within an election timeout.
    InTouch,
    /// What the state's disk says of the log's disk is so.
    Witness,
    /// A member goes by the newest configuration in its log.
    Configured,
    /// Nobody comes or goes whom no operator asked to.
    Asked,
    /// Where a change begins, those who will vote can decide, and who comes to vote has caught up.
    Able,
    /// Who stands for election is a voter; a leader that is one no more hands over, or goes.
    Standing,
    /// Who was removed is left alone when it had the time to hear of it.
    Farewell,
}

impl Law {
    /// All of them.
    pub const ALL: [Law; 50] = [
        Law::ElectionSafety,
        Law::LogMatching,
        Law::LeaderCompleteness,
        Law::StateMachineSafety,
        Law::CommitIsDurable,
        Law::Elected,
        Law::OneChange,
        Law::Hollow,
        Law::Changed,
        Law::Quarantine,
        Law::OwnTerm,
        Law::DurableVote,
        Law::SyncBeforeAck,
        Law::Monotone,
        Law::Order,
        Law::Matched,
        Law::Bounded,
        Law::Sound,
        Law::FreshRead,
        Law::AnsweredOnce,
        Law::Sleeps,
        Law::Recovery,
        Law::RotIsRefused,
        Law::Converges,
        Law::Serves,
        Law::Stable,
        Law::Quiet,
        Law::LeaseKept,
        Law::LeaseEnds,
        Law::SameContent,
        Law::Compacted,
        Law::SpaceReturns,
        Law::Watched,
        Law::Linearizable,
        Law::Assertion,
        Law::Deterministic,
        Law::FairVote,
        Law::OneTerm,
        Law::LaterTerm,
        Law::OwnNumbers,
        Law::Forwarded,
        Law::Confirmed,
        Law::Verified,
        Law::InTouch,
        Law::Witness,
        Law::Configured,
        Law::Asked,
        Law::Able,
        Law::Standing,
        Law::Farewell,
    ];

    /// Its name, as printed and as told to the command line.
    pub fn name(self) -> &'static str {
        match self {
            Law::ElectionSafety => "election-safety",
            Law::LogMatching => "log-matching",
            Law::LeaderCompleteness => "leader-completeness",
            Law::StateMachineSafety => "state-machine-safety",
            Law::CommitIsDurable => "commit-is-durable",
            Law::Elected => "elected",
            Law::OneChange => "one-change",
            Law::Hollow => "hollow",
            Law::Changed => "changed",
            Law::Quarantine => "quarantine",
            Law::OwnTerm => "own-term",
            Law::DurableVote => "durable-vote",
            Law::SyncBeforeAck => "sync-before-ack",
            Law::Monotone => "monotone",
            Law::Order => "order",
            Law::Matched => "matched",
            Law::Bounded => "bounded",
            Law::Sound => "sound",
            Law::FreshRead => "fresh-read",
            Law::AnsweredOnce => "answered-once",
            Law::Sleeps => "sleeps",
            Law::Recovery => "recovery",
            Law::RotIsRefused => "rot-is-refused",
            Law::Converges => "converges",
            Law::Serves => "serves",
            Law::Stable => "stable",
            Law::Quiet => "quiet",
            Law::LeaseKept => "lease-kept",
            Law::LeaseEnds => "lease-ends",
            Law::SameContent => "same-content",
            Law::Compacted => "compacted",
            Law::SpaceReturns => "space-returns",
            Law::Watched => "watched",
            Law::Linearizable => "linearizable",
            Law::Assertion => "assertion",
            Law::Deterministic => "deterministic",
            Law::FairVote => "fair-vote",
            Law::OneTerm => "one-term",
            Law::LaterTerm => "later-term",
            Law::OwnNumbers => "own-numbers",
            Law::Forwarded => "forwarded",
            Law::Confirmed => "confirmed",
            Law::Verified => "verified",
            Law::InTouch => "in-touch",
            Law::Witness => "witness",
            Law::Configured => "configured",
            Law::Asked => "asked",
            Law::Able => "able",
            Law::Standing => "standing",
            Law::Farewell => "farewell",
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A law that was broken, when and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{law} at {:.3} ms: {what}", at.0 as f64 / 1e6)]
pub struct Violation {
    /// Which.
    pub law: Law,
    /// When, in the simulated world.
    pub at: Time,
    /// With values.
    pub what: String,
}

/// What is known of one member.
#[derive(Debug, Default)]
struct Seen {
    /// What its disk has, after the last sync.
    hard: HardState,
    durable: Vec<Stamp>,
    /// Its log with everything that was handed to the disk.
    written: Vec<Stamp>,
    glance: Glance,
    /// Term and vote, as they were last handed to the disk.
    decided: HardState,
    /// Handed out and not durable: each write's number, and from where it cuts the log.
    handed: VecDeque<(WriteSeq, usize)>,
    /// Which life it is in.
    life: Incarnation,
    /// At least this is applied on its disk.
    applied: Index,
    /// Up to where its commits were compared.
    compared: usize,
    /// Its votes are not its own any more: its disk was emptied.
    wiped: bool,
    /// Its state was made wrong.
    bent: bool,
    /// What a wrong state that it set aside had applied.
    served: Index,
}

/// See the module's essay.
#[derive(Debug)]
pub struct Laws {
    off: Vec<Law>,
    pub(super) now: Time,
    members: Vec<Seen>,
    leaders: BTreeMap<Term, usize>,
    /// By index: every entry that ever stood there, with the term before it.
    entries: Vec<Vec<(Stamp, u64)>>,
    committed: Vec<Stamp>,
    /// By index: in which term that was first known.
    committed_in: Vec<u64>,
    /// By index: the digest of the state after it; 0: not seen.
    digests: Vec<u64>,
    grants: BTreeMap<(usize, Term), MemberId>,
    leader_changes: u64,
    councils: Councils,
    /// The newest committed configuration, and its place; and the simple one before, if it is joint.
    council: (u64, Council),
    simple: Council,
    /// The founders'.
    first: Council,
    /// All that were committed.
    past: Vec<Council>,
    changes: Changes,
    /// What each member has heard.
    ears: Vec<Ear>,
    said: Said,
    timers: Timers,
    /// What fits into one append.
    append_max: u64,
    /// By index: the size of the smallest entry that ever stood there.
    sizes: Vec<u64>,
    /// Who was ever asked to come, and who to go: a bit per member.
    wished: (u64, u64),
}

fn slot_of(index: Index) -> usize {
    index.0 as usize - 1
}

impl Laws {
    /// A blank record; the laws in `off` are not kept.
    pub(super) fn new(plan: &Plan, off: &[Law]) -> Laws {
        let nodes = plan.places();
        let councils = Councils::new(plan.nodes);
        let (_, first) = councils.newest(&[]);
        Laws {
            off: off.to_vec(),
            now: Time(0),
            members: (0..nodes).map(|_| Seen::default()).collect(),
            leaders: BTreeMap::new(),
            entries: Vec::new(),
            committed: Vec::new(),
            committed_in: Vec::new(),
            digests: vec![0],
            grants: BTreeMap::new(),
            leader_changes: 0,
            councils,
            council: (0, first),
            simple: first,
            first,
            past: vec![first],
            changes: Changes::default(),
            ears: vec![Ear::new(nodes); nodes],
            said: Said::default(),
            timers: plan.timers.clone(),
            append_max: plan.limits().max_append_bytes as u64,
            sizes: Vec::new(),
            wished: (0, 0),
        }
    }

    /// The newest configuration that was committed.
    pub(super) fn council(&self) -> &Council {
        &self.council.1
    }

    /// The newest committed configuration, and those after it in any log: each of them may be in force.
    pub(super) fn in_force(&self) -> Vec<Council> {
        let (place, newest) = self.council;
        let logs = self.members.iter().filter(|member| !member.wiped);
        let mut all: Vec<Council> = vec![newest];
        for (_, council) in logs.flat_map(|member| self.councils.after(&member.written, place)) {
            if !all.contains(&council) {
                all.push(council);
            }
        }
        all
    }

    /// Whether this member was removed, and that is committed.
    pub(super) fn is_removed(&self, node: usize) -> bool {
        let was = |council: &Council| council.members() & 1 << node != 0;
        !was(&self.council.1) && self.past.iter().any(was)
    }

    /// Whether some committed configuration is such as a change asked for.
    /// `version` is the one that it had to be made of, if it was said.
    pub(super) fn was_made(&self, (come, go, vote): (u64, u64, u64), version: Option<u64>) -> bool {
        let is_so = |council: &&Council| {
            let members = council.members();
            // The joint configuration is between the two.
            let follows = version.is_none_or(|version| council.version == version + 2);
            let is_wish = members & come == come && members & go == 0 && council.incoming & vote == vote;
            !council.is_joint() && follows && is_wish
        };
        self.past.iter().any(|council| is_so(&council))
    }

    /// What became of the membership.
    pub(super) fn changes(&self) -> Changes {
        self.changes
    }

    /// How many entries were ever committed.
    pub fn committed(&self) -> usize {
        self.committed.len()
    }

    /// How many terms had a leader.
    pub fn leader_changes(&self) -> u64 {
        self.leader_changes
    }

    /// The law is broken, unless it is off.
    pub fn broken(&self, law: Law, what: impl FnOnce() -> String) -> Result<(), Violation> {
        if self.off.contains(&law) { Ok(()) } else { Err(Violation { law, at: self.now, what: what() }) }
    }

    fn demand(&self, law: Law, holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
        if holds { Ok(()) } else { self.broken(law, what) }
    }

    /// A life begins with what the disk has.
    pub fn born(&mut self, node: usize, born: &Born) -> Result<(), Violation> {
        let log = self.wakes(node, born)?;
        let seen = &mut self.members[node];
        seen.served = if born.hollow { seen.served } else { Index(0) };
        (seen.hard, seen.decided, seen.life) = (born.hard, born.hard, born.life);
        seen.handed.clear();
        seen.durable.clone_from(&log);
        seen.written = log;
        let (applied, digest) = born.applied;
        seen.glance = Glance { applied, commit: applied, term: born.hard.term, digest, ..Glance::default() };
        seen.compared = 0;
        self.deaf(node, born.base.index);
        Ok(())
    }

    /// What a life may begin with, or would if a crash came now. Gives its log from the first entry on.
    pub(super) fn wakes(&mut self, node: usize, born: &Born) -> Result<Vec<Stamp>, Violation> {
        let seen = &self.members[node];
        let (old, new) = (seen.hard, born.hard);
        let same_vote = new.term == old.term && (old.vote.is_none() || new.vote == old.vote);
        self.demand(Law::Monotone, seen.wiped || new.term > old.term || same_vote, || {
            format!("n{} wakes with {new:?}, its disk had {old:?}", node + 1)
        })?;
        self.demand(Law::Recovery, seen.wiped || born.lost.is_none(), || {
            format!("n{} wakes and misses what it had acknowledged, up to {:?}", node + 1, born.lost)
        })?;
        // What the log does not hold any more is in the state, and committed: nobody else has another entry there.
        let base = born.base.index.0 as usize;
        let in_state = born.hollow || born.base.index <= born.applied.0;
        let Some(gone) = self.committed.get(..base).filter(|_| in_state) else {
            self.broken(Law::Recovery, || {
                format!("n{} wakes with a log that begins after {}, {} applied", node + 1, born.base, born.applied.0)
            })?;
            return Ok(born.log.clone());
        };
        let log: Vec<Stamp> = gone.iter().chain(&born.log).copied().collect();
        // What was synced is there, but for what a later write has cut off, or what gave way to a state that was taken over.
        let floor = seen.handed.iter().map(|(_, cut)| *cut).fold(seen.durable.len(), usize::min);
        let gave_way = base > 0 && seen.durable.get(base - 1) != gone.last();
        let kept = gave_way || log.get(..floor).is_some_and(|log| *log == seen.durable[..floor]);
        self.demand(Law::Recovery, seen.wiped || kept, || {
            format!("n{} wakes with a log of {}, {floor} entries were synced", node + 1, log.len())
        })?;
        self.demand(Law::Monotone, seen.wiped || born.life > seen.life, || {
            format!("n{} wakes in life {} after {}", node + 1, born.life, seen.life)
        })?;
        let (applied, digest) = born.applied;
        self.demand(Law::Recovery, seen.wiped || applied >= seen.applied, || {
            format!("n{} wakes with {applied} applied, {} were synced", node + 1, seen.applied)
        })?;
        self.demand(Law::StateMachineSafety, applied.0 as usize <= self.committed.len(), || {
            format!("n{} wakes with {applied} applied, {} were committed", node + 1, self.committed.len())
        })?;
        let is_right = self.is_right(node, applied, digest);
        self.demand(Law::StateMachineSafety, is_right, || {
            format!("n{} wakes at {applied} with another state than the one that was applied there", node + 1)
        })?;
        let served = self.members[node].served;
        self.demand(Law::Quarantine, born.hollow || applied >= served, || {
            format!("n{} wakes with {applied} applied, its wrong state had {served}", node + 1)
        })?;
        Ok(log)
    }

    /// The state's disk was emptied.
    pub(super) fn state_lost(&mut self, node: usize) {
        let seen = &mut self.members[node];
        (seen.applied, seen.served) = (Index(0), Index(0));
    }

    /// Whether this member's state is wrong: the world knows, nobody else.
    pub(super) fn bent(&mut self, node: usize, bent: bool) {
        self.members[node].bent = bent;
    }

    /// A state that is none has taken the place of the one of a member.
    pub(super) fn set_aside(&mut self, node: usize) -> Result<(), Violation> {
        let seen = &mut self.members[node];
        (seen.applied, seen.served) = (Index(0), seen.served.max(seen.glance.applied));
        self.demand(Law::Quarantine, self.members[node].bent, || {
            format!("n{} sets a state aside in which nothing is wrong", node + 1)
        })
    }

    /// Nothing is promised any more.
    pub(super) fn suspend(&mut self) {
        self.off = Law::ALL.to_vec();
    }

    /// The disk was emptied: what it had still counts as it did when it was told, but its member is nobody now.
    pub fn wiped(&mut self, node: usize) {
        self.members[node].wiped = true;
    }

    /// The state's disk has this much applied.
    pub fn applied_durably(&mut self, node: usize, applied: Index) {
        let seen = &mut self.members[node];
        seen.applied = seen.applied.max(applied);
    }

    /// A write was handed to the disk of the log, in the turn that is closed as `now` shows.
    pub fn handed(&mut self, node: usize, ready: &Ready, now: Glance) -> Result<(), Violation> {
        self.votes(node, ready)?;
        let cut = ready.truncate_from.map_or(usize::MAX, slot_of);
        self.members[node].handed.push_back((ready.seq, cut));
        if let Some(from) = ready.truncate_from {
            let keep = slot_of(from);
            let compared = self.members[node].compared;
            self.demand(Law::StateMachineSafety, keep >= compared, || {
                format!("n{} cuts its log from {from}, but has committed {compared}", node + 1)
            })?;
            self.members[node].written.truncate(keep);
        }
        for entry in &ready.entries {
            let (at, stamp) = (slot_of(entry.position.index), Stamp::of(entry));
            self.demand(Law::Sound, entry.is_sound(), || {
                format!("n{} writes entry {}, of which a bit has flipped", node + 1, entry.position)
            })?;
            self.configures(node, entry, now)?;
            self.takes(node, entry, now)?;
            let size = entry.size() as u64;
            match self.sizes.get_mut(at) {
                Some(smallest) => *smallest = size.min(*smallest),
                None => self.sizes.resize(at + 1, size),
            }
            let written = &mut self.members[node].written;
            let (ends, before) = (written.len(), written.last().map_or(0, |last| last.term));
            written.push(stamp);
            self.demand(Law::LogMatching, ends == at && before <= stamp.term, || {
                format!("n{} appends {} to a log that ends at {ends} in term {before}", node + 1, entry.position)
            })?;
            if self.entries.len() <= at {
                self.entries.resize_with(at + 1, Vec::new);
            }
            match self.entries[at].iter().find(|(known, _)| known.term == stamp.term) {
                None => self.entries[at].push((stamp, before)),
                Some(known) => {
                    let same = *known == (stamp, before);
                    self.demand(Law::LogMatching, same, || {
                        format!(
                            "n{} has another entry {} than was there, or another before it",
                            node + 1,
                            entry.position
                        )
                    })?;
                }
            }
        }
        Ok(())
    }

    /// An entry comes to stand at the end of a log.
    fn configures(&mut self, node: usize, entry: &Entry, now: Glance) -> Result<(), Violation> {
        let Some(council) = self.councils.stands(entry) else { return Ok(()) };
        let log = &self.members[node].written;
        let wrong = self.councils.wrong(log, &council);
        self.demand(Law::OneChange, wrong.is_none(), || {
            format!("n{} appends {}: {}", node + 1, entry.position, wrong.unwrap_or_default())
        })?;
        let (place, _) = self.councils.newest(log);
        let makes_it = now.role == RoleName::Leader && now.term == entry.position.term;
        if makes_it && council.is_joint() {
            self.begins(node, &council, now)?;
        }
        self.demand(Law::OneChange, !makes_it || place <= now.commit.0, || {
            format!("n{} begins {council:?}, but has committed {}, not {place}", node + 1, now.commit)
        })
    }

    /// These writes are durable.
    pub fn durable(&mut self, node: usize, batch: &[Ready]) -> Result<(), Violation> {
        let seen = &mut self.members[node];
        let before = seen.hard.term;
        for ready in batch {
            while seen.handed.pop_front_if(|(seq, _)| *seq <= ready.seq).is_some() {}
            seen.hard = ready.hard_state.unwrap_or(seen.hard);
            if let Some(from) = ready.truncate_from {
                seen.durable.truncate(slot_of(from));
            }
            seen.durable.extend(ready.entries.iter().map(Stamp::of));
        }
        let (hard, last) = (seen.hard, seen.durable.last().map_or(0, |last| last.term));
        self.demand(Law::Monotone, hard.term >= before && hard.term.0 >= last, || {
            format!("n{}'s disk is in term {} after {before}, its log in {last}", node + 1, hard.term)
        })
    }

    /// A message leaves.
    pub fn sent(&mut self, node: usize, envelope: &Envelope) -> Result<(), Violation> {
        let seen = &self.members[node];
        if seen.wiped {
            return Ok(());
        }
        let (hard, ends) = (seen.hard, seen.durable.len() as u64);
        self.demand(Law::SyncBeforeAck, hard.term >= envelope.term, || {
            format!("n{} speaks in term {}, its disk is in {}", node + 1, envelope.term, hard.term)
        })?;
        let voted = match envelope.message {
            Message::VoteReply { granted: true, .. } => Some(envelope.to),
            Message::Vote { .. } => Some(envelope.from),
            _ => None,
        };
        if let Some(voted) = voted {
            // A vote of a former term was on the disk before that of a later one.
            let on_disk = hard == HardState { term: envelope.term, vote: Some(voted) } || hard.term > envelope.term;
            let first = *self.grants.entry((node, envelope.term)).or_insert(voted);
            self.demand(Law::DurableVote, on_disk, || {
                format!("n{} votes for n{voted} in term {}, its disk has {hard:?}", node + 1, envelope.term)
            })?;
            return self.demand(Law::DurableVote, first == voted, || {
                format!("n{} votes for n{voted} in term {}, after n{first}", node + 1, envelope.term)
            });
        }
        let leader = self.leaders.get(&envelope.term).copied();
        match envelope.message {
            Message::Append { .. } | Message::Heartbeat { .. } => {
                self.demand(Law::ElectionSafety, leader == Some(node), || {
                    format!("n{} speaks as the leader of term {}, which it is not", node + 1, envelope.term)
                })
            }
            Message::Appended { matched, .. } | Message::HeartbeatReply { matched, .. } => {
                self.demand(Law::SyncBeforeAck, ends >= matched.0, || {
                    format!("n{} acknowledges {matched}, its disk ends at {ends}", node + 1)
                })?;
                let leads =
                    |leader: &&Seen| leader.glance.role == RoleName::Leader && leader.glance.term == envelope.term;
                let Some(leader) = leader.map(|leader| &self.members[leader]).filter(leads) else { return Ok(()) };
                let same =
                    matched == Index(0) || seen.durable.get(slot_of(matched)) == leader.written.get(slot_of(matched));
                self.demand(Law::SyncBeforeAck, same, || {
                    format!("n{} acknowledges {matched}, but has another entry there on its disk", node + 1)
                })
            }
            _ => Ok(()),
        }
    }

    /// A turn was closed.
    pub fn turned(&mut self, node: usize, now: Glance) -> Result<(), Violation> {
        let seen = &self.members[node];
        let old = seen.glance;
        if seen.wiped {
            return Ok(());
        }
        if old == now {
            return Ok(());
        }
        let forward = now.term >= old.term && now.commit >= old.commit && now.applied >= old.applied;
        self.demand(Law::Monotone, forward, || format!("n{} goes back: {now:?} after {old:?}", node + 1))?;
        let ordered = now.applied <= now.commit.min(now.persisted) && now.commit.max(now.persisted) <= now.last.index;
        let ends = seen.durable.len() as u64;
        self.demand(Law::Order, ordered && now.persisted.0 <= ends, || {
            format!("n{} is out of order, its disk ends at {ends}: {now:?}", node + 1)
        })?;
        self.members[node].glance = now;
        if now.role == RoleName::Leader && (old.role != RoleName::Leader || now.term != old.term) {
            self.leads(node, now)?;
        }
        if now.commit.0 as usize > self.members[node].compared {
            self.commits(node, old, now)?;
        }
        if now.applied > old.applied {
            self.applies(node, now)?;
        }
        Ok(())
    }

    fn leads(&mut self, node: usize, now: Glance) -> Result<(), Violation> {
        let first = *self.leaders.entry(now.term).or_insert(node);
        self.demand(Law::ElectionSafety, first == node, || {
            format!("n{} leads term {}, which n{} led", node + 1, now.term, first + 1)
        })?;
        self.leader_changes += 1;
        let written = &self.members[node].written;
        // Who was elected long ago and hears of it only now need not have what was committed since.
        let earlier = self.committed_in.iter().take_while(|term| **term < now.term.0).count();
        let earlier = &self.committed[..earlier];
        let wrong = earlier.iter().zip(written).position(|(committed, own)| committed != own);
        let wrong = wrong.or((written.len() < earlier.len()).then_some(written.len()));
        self.demand(Law::LeaderCompleteness, wrong.is_none(), || {
            format!("n{} leads term {} without committed entry {}", node + 1, now.term, wrong.unwrap_or(0) + 1)
        })?;
        self.is_elected(node, now)
    }

    fn is_elected(&self, node: usize, now: Glance) -> Result<(), Violation> {
        let leader = MemberId(node as u64 + 1);
        let own = self.members[node].hard == HardState { term: now.term, vote: Some(leader) };
        let granted = |voter: &usize| match *voter == node {
            true => own,
            false => self.grants.get(&(*voter, now.term)) == Some(&leader),
        };
        let votes = (0..self.members.len()).filter(granted).fold(0, |votes, voter| votes | 1 << voter);
        let (_, council) = self.councils.newest(&self.members[node].written);
        // A write that is held back may have changed the configuration.
        let is_known = self.written_to(node, now);
        self.demand(Law::Elected, !is_known || council.is_quorum(votes), || {
            format!("n{} leads term {} with the votes {votes:b} of {council:?}", node + 1, now.term)
        })
    }

    /// Whether everything that a member's log holds was handed to its disk.
    fn written_to(&self, node: usize, now: Glance) -> bool {
        let written = &self.members[node].written;
        (written.len() as u64, written.last().map_or(0, |last| last.term)) == (now.last.index.0, now.last.term.0)
    }

    fn commits(&mut self, node: usize, old: Glance, now: Glance) -> Result<(), Violation> {
        if !self.written_to(node, now) {
            return Ok(()); // a write is held back until the mark is lowered: it is compared when it was handed out
        }
        let end = now.commit.0 as usize;
        let councils = self.counted_by(node, old);
        for at in self.members[node].compared..end {
            let stamp = self.members[node].written[at];
            match self.committed.get(at).copied() {
                Some(known) => self.demand(Law::StateMachineSafety, known == stamp, || {
                    format!("n{} commits at {} another entry than was committed there", node + 1, at + 1)
                })?,
                None => {
                    self.committed.push(stamp);
                    self.committed_in.push(now.term.0);
                    let holds = |node: &usize| self.members[*node].durable.get(at) == Some(&stamp);
                    let holders = (0..self.members.len()).filter(holds).fold(0, |bits, node| bits | 1 << node);
                    self.demand(Law::CommitIsDurable, councils.iter().any(|c| c.is_quorum(holders)), || {
                        format!("n{} commits {}, which is durable on {holders:b} of {councils:?}", node + 1, at + 1)
                    })?;
                    self.in_office(at);
                }
            }
        }
        self.members[node].compared = end;
        let counted = end.checked_sub(1).map(|at| self.members[node].written[at].term);
        let own = now.role != RoleName::Leader || counted == Some(now.term.0);
        self.demand(Law::OwnTerm, own, || {
            format!("n{} leads term {} and commits {}, of another term", node + 1, now.term, now.commit)
        })
    }

    /// The configurations by which a member may have counted in the turn that has just been closed: the newest one at its
    /// beginning, and those that were appended in it. A follower was told, by a leader that it may have got them from.
    fn counted_by(&self, node: usize, old: Glance) -> Vec<Council> {
        let began = if old.role == RoleName::Leader { old.last.index } else { old.commit };
        self.counted_since(node, began.0 as usize)
    }

    /// The entry at this place is committed: it may hold a configuration.
    fn in_office(&mut self, at: usize) {
        let log = &self.committed[..=at];
        let Some(&(place, council)) = self.councils.after(log, at as u64).last() else { return };
        if !council.is_joint() {
            self.changes.count(&self.simple, &council);
            self.simple = council;
        }
        self.council = (place, council);
        self.past.push(council);
    }

    /// The digest that was first seen at this index: this one, if none was.
    fn first_digest(&mut self, at: Index, digest: u64) -> u64 {
        let at = at.0 as usize;
        if at == 0 {
            return digest; // who joins has not even the founders' table
        }
        if self.digests.len() <= at {
            self.digests.resize(at + 1, 0);
        }
        if self.digests[at] == 0 {
            self.digests[at] = digest;
        }
        self.digests[at]
    }

    /// Whether a state has the digest that others had there, or it is known to the world that it has not.
    fn is_right(&mut self, node: usize, at: Index, digest: u64) -> bool {
        self.members[node].bent || self.first_digest(at, digest) == digest
    }

    fn applies(&mut self, node: usize, now: Glance) -> Result<(), Violation> {
        let is_right = self.is_right(node, now.applied, now.digest);
        self.demand(Law::StateMachineSafety, is_right, || {
            format!("n{}'s state after {} is not what others made of the same entries", node + 1, now.applied)
        })
    }

    /// A turn has changed nothing, and the deadline has passed; so it was `times` times in a row.
    pub fn restless(&self, node: usize, times: u32) -> Result<(), Violation> {
        self.demand(Law::Sleeps, times < 8, || format!("n{} takes turn after turn and does nothing", node + 1))
    }

    /// The state's disk says that the log's disk reached so far.
    pub(super) fn witnessed(&self, node: usize, mark: Position) -> Result<(), Violation> {
        let seen = &self.members[node];
        let (index, term) = (seen.durable.len() as u64, seen.durable.last().map_or(0, |last| last.term));
        self.demand(Law::Witness, index >= mark.index.0 && term >= mark.term.0, || {
            format!("n{}'s state witnesses {mark}, and its log's disk ends at {index}@{term}", node + 1)
        })
    }

    /// What a leader believes of its followers, and how many appends are on their way to one of them.
    pub fn believes(
        &mut self,
        node: usize,
        flows: &[(MemberId, &'static str, Index)],
        in_flight: usize,
        limit: usize,
    ) -> Result<(), Violation> {
        self.demand(Law::Bounded, in_flight <= limit, || {
            format!("n{} has {in_flight} appends on their way to one follower, more than {limit}", node + 1)
        })?;
        for (peer, _, index) in flows {
            self.trusts(node, *peer, *index)?;
        }
        // Who does not know yet that it was deposed may believe what was so.
        let term = self.members[node].glance.term;
        if self.leaders.last_key_value().is_some_and(|(newest, _)| *newest > term) {
            return Ok(());
        }
        for (peer, _, index) in flows {
            let (own, other) = (&self.members[node].written, &self.members[slot_of(Index(peer.0))]);
            let at = index.0 as usize;
            let holds = at == 0 || other.wiped || (at <= own.len() && other.durable.get(at - 1) == own.get(at - 1));
            self.demand(Law::Matched, holds, || {
                format!("n{} believes that n{peer} has {index}, its disk ends at {}", node + 1, other.durable.len())
            })?;
        }
        Ok(())
    }
}

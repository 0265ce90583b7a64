//! Members whose states differ: how that is found, who is believed, and what becomes of who is wrong.
//!
//! ```text
//!   a checkpoint is applied ──► noted ──► told to the leader ──► a quorum has one digest ──► "agreed"
//!                                                │                                      └──► "differs" ──► quarantine
//!                                                └── all voters told, no quorum: CORRUPT
//! ```
//!
//! A *checkpoint* is an entry whose index is a multiple of [`super::Config::checkpoint_entries`]; every member notes the digest
//! of its state after it. The digest is a chain over all effects, so a state that once differed differs at each later
//! checkpoint, and one that agrees at a checkpoint agreed at all before. Those who follow, learners too, tell the leader the
//! checkpoints that they remember, beside Raft (`questions.rs`). A digest is the *true* one when those who have it are a quorum
//! of the voters: a minority is never believed, the leader no more than others. Each new checkpoint is told as soon as the
//! last question was answered: only what is told at about the same time can be compared, for few are remembered.
//!
//! # Quarantine
//!
//! A follower that has another digest sets its state aside and is opened again without one, *hollow* ([`super::open()`]): its
//! log is sound, so it votes and acknowledges as ever, but it does not lead, apply, serve or give records until it has taken
//! over the leader's state. That is a restart onto another state, like every install: the one that is staged and adopted here
//! is empty but for what stands beside a state (`marks.rs`). Two things must not be lost with the old one, and change places
//! with it in one step: the acked mark, and the note of how far was applied. Below that nothing is served again, though the
//! member's log might be whole: it made the wrong state once.
//!
//! A leader that is wrong hands over to a voter that is right, and is a follower like others then. As soon as a member knows
//! that its state is wrong, it neither serves nor gives it.
//!
//! # Invariants
//!
//! 1. A state is set aside only against the digest of a quorum, and never the leader's: so a quorum keeps its states.
//! 2. One member at a time is sent into quarantine, as far as this leader knows: a comparison that is wrong itself, or a disk that
//!    is bent again and again, makes one restart after the other and not all at once. Who is silent is not waited for.
//! 3. Where all voters have told a checkpoint and no quorum agrees, nobody is believed and nobody is set aside: the CORRUPT
//!    alarm goes up, of no member, as in etcd where it can't tell whose fault it is.
//! 4. What is remembered is bounded: the newest [`KEPT`] checkpoints. What was told counts for one leadership.
//!
//! May not know: what a digest is made of. Left out: a state that rots in memory without being read again; checkpoints by time,
//! so in a store to which nothing is written nothing is compared.

use super::input::Effect;
use super::marks::Quarantined;
use super::node::Node;
use crate::ids::{Incarnation, Index, MemberId, Term};
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::quorate as own;
use crate::raft::quorum::Configuration;
use crate::time::Time;
use own::{command, leader_answer::Answer, leader_question::Question};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Entries between two checkpoints: at a high load some of them each second, each for a few bytes.
pub const CHECKPOINT_ENTRIES: u64 = 1024;
/// Checkpoints that are remembered: members are rarely so far apart in applying, and if they are, the next ones are compared.
const KEPT: usize = 8;
/// Election timeouts for which the leader waits for the next word of a member in quarantine: a restart's time.
const PATIENCE: u32 = 10;
/// etcd's id for an alarm of which nobody knows whose fault it is.
const NOBODY: MemberId = MemberId(0);

/// What comparing states has shown, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStatus {
    /// The newest checkpoint at which a quorum was found to have this member's digest, in this leadership; 0: none.
    pub agreed: Index,
    /// The one at which a quorum was found to have another digest: the member is in quarantine, or on its way.
    pub differs: Option<Index>,
}

/// A checkpoint that was passed.
#[derive(Debug)]
struct Note {
    index: Index,
    digest: u64,
    /// Leader: what others have told.
    told: BTreeMap<MemberId, u64>,
    /// Leader: what a quorum has. It stays true, whoever votes later.
    truth: Option<u64>,
}

/// How a checkpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// A quorum has this digest.
    True(u64),
    /// Every voter has told, and no quorum agrees.
    Split,
    /// Not enough have told yet.
    Open,
}

impl Note {
    fn verdict(&self, own: MemberId, configuration: &Configuration) -> Verdict {
        let mut having: BTreeMap<u64, BTreeSet<MemberId>> = BTreeMap::from([(self.digest, BTreeSet::from([own]))]);
        for (member, digest) in &self.told {
            having.entry(*digest).or_default().insert(*member);
        }
        if let Some((digest, _)) = having.iter().find(|(_, members)| configuration.is_quorum(members)) {
            return Verdict::True(*digest);
        }
        let has_told = |voter: MemberId| voter == own || self.told.contains_key(&voter);
        if configuration.voters().all(has_told) { Verdict::Split } else { Verdict::Open }
    }
}

/// See the module's essay.
#[derive(Debug)]
pub(super) struct Quarantine {
    /// Oldest first.
    notes: VecDeque<Note>,
    /// Under which everything below was found out.
    leadership: Option<(Term, MemberId)>,
    /// The newest checkpoint that was found to be right.
    agreed: Index,
    /// The last number that a question had, and the newest checkpoint in it.
    numbers: u64,
    told: Index,
    /// It was answered.
    answered: bool,
    /// Not before then the leader is asked again, or told to take over from this one.
    again_at: Time,
    /// How often this leader has tried to hand over.
    tries: usize,
    /// The member that was sent into quarantine, and until when it is waited for.
    patient: Option<(MemberId, Time)>,
    /// The newest checkpoint at which nobody can be believed, and the newest one for which the alarm was up.
    split: Option<Index>,
    alarmed: Index,
    /// The sequence of the alarm's command on its way.
    alarming: Option<u64>,
    /// This state is wrong.
    wrong: Option<Quarantined>,
    /// The leader says that it is this member's turn.
    sentenced: bool,
    /// The state that was here was wrong: this member is in quarantine.
    duty: Option<Quarantined>,
}

impl Quarantine {
    pub(super) fn new(incarnation: Incarnation, duty: Option<Quarantined>) -> Quarantine {
        Quarantine {
            notes: VecDeque::new(),
            leadership: None,
            agreed: Index(0),
            numbers: incarnation.first_number(),
            told: Index(0),
            answered: true,
            again_at: Time(0),
            tries: 0,
            patient: None,
            split: None,
            alarmed: Index(0),
            alarming: None,
            wrong: None,
            sentenced: false,
            duty,
        }
    }

    /// Whether this state is known to be wrong: it is neither served nor given.
    pub(super) fn is_wrong(&self) -> bool {
        self.wrong.is_some()
    }

    /// A state that is taken over must reach this.
    pub(super) fn least(&self) -> Index {
        self.duty.map_or(Index(0), |duty| duty.applied)
    }

    /// The leader says that this state is wrong, and that it is this member's turn.
    pub(super) fn sentence(&mut self, wrong: Quarantined) {
        (self.wrong, self.sentenced) = (Some(wrong), true);
    }

    fn note_at(&mut self, index: Index) -> Option<&mut Note> {
        self.notes.iter_mut().find(|note| note.index == index)
    }

    /// Whether `member` may be sent into quarantine; then it is its turn.
    fn admits(&mut self, member: MemberId, now: Time, until: Time) -> bool {
        let is_free = self.patient.is_none_or(|(patient, until)| patient == member || now >= until);
        if is_free {
            self.patient = Some((member, until));
        }
        is_free
    }
}

impl Node {
    /// An entry was applied: if it is a checkpoint, it is noted.
    pub(super) fn note_checkpoint(&mut self, index: Index) {
        if !index.0.is_multiple_of(self.config.checkpoint_entries) {
            return;
        }
        let notes = &mut self.quarantine.notes;
        notes.push_back(Note { index, digest: self.machine.digest(), told: BTreeMap::new(), truth: None });
        if notes.len() > KEPT {
            notes.pop_front();
        }
        if self.quarantine.answered && !self.raft.is_leader() {
            self.quarantine.again_at = Time(0);
        }
    }

    /// Under another leadership everything is told anew.
    pub(super) fn note_judge(&mut self) {
        let Some(leader) = self.raft.leader() else { return };
        let (leadership, quarantine) = ((self.raft.term(), leader), &mut self.quarantine);
        if quarantine.leadership == Some(leadership) {
            return;
        }
        quarantine.leadership = Some(leadership);
        (quarantine.agreed, quarantine.again_at, quarantine.tries) = (Index(0), Time(0), 0);
        (quarantine.patient, quarantine.split) = (None, None);
        for note in &mut quarantine.notes {
            note.told.clear();
            note.truth = None;
        }
    }

    /// The part of a turn: tells, hands over, raises the alarm, or goes into quarantine, whatever is due.
    pub(super) fn compare_states(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.install.is_adopting() {
            return;
        }
        if self.raft.is_leader() {
            self.hand_over(now);
            self.raise_alarm(now);
        } else if std::mem::take(&mut self.quarantine.sentenced) {
            self.set_state_aside(effects);
        } else if self.raft.leader().is_some() {
            self.tell_checkpoints(now);
        }
    }

    /// When there is something to do.
    pub(super) fn quarantine_deadline(&self) -> Time {
        let quarantine = &self.quarantine;
        let untold = quarantine.notes.back().is_some_and(|newest| newest.index > quarantine.agreed);
        let is_due = match self.raft.is_leader() {
            true => quarantine.is_wrong(),
            false => untold && self.raft.leader().is_some(),
        };
        // Whoever has set its state aside has nothing to tell and nothing to hand over, leader or not.
        if is_due && !self.install.is_adopting() { quarantine.again_at } else { Time::NEVER }
    }

    // ---- those who follow

    fn tell_checkpoints(&mut self, now: Time) {
        let quarantine = &mut self.quarantine;
        let untold = quarantine.notes.iter().filter(|note| note.index > quarantine.agreed);
        let noted: Vec<_> = untold.map(|note| own::Checkpoint { index: note.index.0, digest: note.digest }).collect();
        if noted.is_empty() || now < quarantine.again_at {
            return;
        }
        quarantine.numbers += 1;
        (quarantine.told, quarantine.answered) = (quarantine.notes.back().map_or(Index(0), |note| note.index), false);
        quarantine.again_at = now + self.config.election_timeout;
        let context = quarantine.numbers;
        self.ask_leader(context, Question::Checkpoint(own::CheckpointQuestion { noted }));
    }

    /// What the leader knows of what was told.
    pub(super) fn checkpoint_answer(&mut self, now: Time, context: u64, answer: own::CheckpointAnswer) {
        let applied = self.machine.applied().index;
        let quarantine = &mut self.quarantine;
        if context != quarantine.numbers {
            return;
        }
        quarantine.agreed = quarantine.agreed.max(Index(answer.agreed));
        quarantine.answered = true;
        if quarantine.notes.back().is_some_and(|newest| newest.index > quarantine.told) {
            quarantine.again_at = now;
        }
        let Some(own::Checkpoint { index, digest: truth }) = answer.differs else { return };
        let Some(Note { index: checkpoint, digest: found, .. }) = quarantine.note_at(Index(index)) else { return };
        if *found != truth {
            let wrong = Quarantined { applied, checkpoint: *checkpoint, found: *found, truth };
            quarantine.sentence(wrong);
        }
    }

    /// Lets a state that is none take the place of the one that is wrong: the end of this life.
    fn set_state_aside(&mut self, effects: &mut Vec<Effect>) {
        let Some(wrong) = self.quarantine.wrong else { return };
        let wrong = Quarantined { applied: self.machine.applied().index, ..wrong };
        tracing::error!(
            checkpoint = %wrong.checkpoint, applied = %wrong.applied,
            digest = format_args!("{:016x}", wrong.found), quorum = format_args!("{:016x}", wrong.truth),
            "this member's state differs from the quorum's: it is set aside, and taken over from the leader; until then this \
             member votes, but serves nothing. Look at its memory and disk; the directory that was set aside may be deleted"
        );
        self.note_acknowledged();
        let mut ops = Vec::new();
        self.put_mark(&mut ops);
        wrong.put(&mut ops);
        effects.push(self.install.set_aside(ops));
    }

    // ---- the leader

    /// Somebody tells its checkpoints.
    pub(super) fn checkpoint_question(
        &mut self,
        now: Time,
        peer: MemberId,
        context: u64,
        question: &own::CheckpointQuestion,
    ) {
        if !self.raft.configuration().has_member(peer) {
            return;
        }
        for told in &question.noted {
            if let Some(note) = self.quarantine.note_at(Index(told.index)) {
                note.told.insert(peer, told.digest);
            }
        }
        self.judge();
        let quarantine = &mut self.quarantine;
        let newest = question.noted.iter().rev().find_map(|told| {
            let truth = quarantine.note_at(Index(told.index))?.truth?;
            Some((told, truth))
        });
        let mut answer = own::CheckpointAnswer::default();
        match newest {
            Some((told, truth)) if told.digest == truth => {
                answer.agreed = told.index;
                quarantine.patient.take_if(|(patient, _)| *patient == peer);
            }
            Some((told, truth)) if quarantine.admits(peer, now, now + self.config.election_timeout * PATIENCE) => {
                tracing::error!(
                    member = %peer, checkpoint = told.index,
                    digest = format_args!("{:016x}", told.digest), quorum = format_args!("{truth:016x}"),
                    "a member's state differs from the quorum's: it goes into quarantine"
                );
                answer.differs = Some(own::Checkpoint { index: told.index, digest: truth });
            }
            // It is not known yet who is right, or another member's turn.
            _ => {}
        }
        self.answer_peer(peer, context, Answer::Checkpoint(answer));
    }

    /// The member in quarantine is at work: it is waited for.
    pub(super) fn wait_for_patient(&mut self, now: Time, peer: MemberId) {
        let patience = self.config.election_timeout * PATIENCE;
        if let Some((_, until)) = self.quarantine.patient.as_mut().filter(|(patient, _)| *patient == peer) {
            *until = now + patience;
        }
    }

    /// Finds out what is true, from the newest checkpoint down to the newest one that is decided: those before follow from it.
    fn judge(&mut self) {
        let (own, configuration) = (self.identity.member, self.raft.configuration());
        let applied = self.machine.applied().index;
        let quarantine = &mut self.quarantine;
        quarantine.split = None;
        for note in quarantine.notes.iter_mut().rev() {
            if note.truth.is_none() {
                match note.verdict(own, configuration) {
                    Verdict::Open => continue,
                    Verdict::Split => {
                        quarantine.split = quarantine.split.or(Some(note.index));
                        continue;
                    }
                    Verdict::True(truth) => note.truth = Some(truth),
                }
            }
            let (checkpoint, found) = (note.index, note.digest);
            match note.truth {
                Some(truth) if truth != found => {
                    if quarantine.wrong.is_none() {
                        tracing::error!(
                            %checkpoint, digest = format_args!("{found:016x}"), quorum = format_args!("{truth:016x}"),
                            "this member leads, and its state differs from the quorum's: it serves nothing, and hands over"
                        );
                    }
                    quarantine.wrong = Some(Quarantined { applied, checkpoint, found, truth });
                }
                _ => quarantine.agreed = quarantine.agreed.max(checkpoint),
            }
            return;
        }
    }

    /// A leader whose state is wrong hands over to a voter whose state is right: the furthest one, then the next one, then anyone.
    fn hand_over(&mut self, now: Time) {
        let Some(wrong) = self.quarantine.wrong.filter(|_| now >= self.quarantine.again_at) else { return };
        let told = self.quarantine.note_at(wrong.checkpoint).map(|note| note.told.clone()).unwrap_or_default();
        let is_right = |member: &MemberId| told.get(member) == Some(&wrong.truth);
        let mut right: Vec<_> = self.raft.flows().into_iter().filter(|(member, ..)| is_right(member)).collect();
        right.retain(|(member, ..)| self.raft.configuration().incoming().contains(member));
        right.sort_by_key(|(.., matched)| std::cmp::Reverse(*matched));
        // After all of those whoever is furthest: it will hand over too, or is right. Who is known to be right may be away, or
        // need a state before it can lead, which nobody gives it while this member does.
        let target = right.get(self.quarantine.tries % (right.len() + 1)).map(|(member, ..)| *member);
        self.quarantine.tries += 1;
        self.quarantine.again_at = now + self.config.election_timeout;
        if let Err(why) = self.raft.transfer(now, target) {
            tracing::error!(?why, "nobody can take over from a leader whose state is wrong");
        }
    }

    /// Nobody can be believed: says so to all.
    fn raise_alarm(&mut self, now: Time) {
        let Some(split) = self.quarantine.split.filter(|split| *split > self.quarantine.alarmed) else { return };
        if self.is_pending(self.quarantine.alarming) {
            return;
        }
        if self.machine.view().alarms().contains(&(NOBODY, AlarmType::Corrupt)) {
            self.quarantine.alarmed = split;
            return;
        }
        let digests = self.quarantine.note_at(split).map(|note| (note.digest, note.told.clone()));
        tracing::error!(
            checkpoint = %split, ?digests,
            "the members' states differ, and no quorum agrees: nobody can be believed, so nothing is repaired, and writes are \
             refused. Find the member that is right (quorate get, on each one), replace the others (quorate member replace \
             NAME), then: quorate alarm disarm"
        );
        let alarm =
            own::SetAlarm { member_id: NOBODY.0, alarm: AlarmType::Corrupt.into(), active: true, by_itself: false };
        self.quarantine.alarming = self.submit_own(now, command::Op::Alarm(alarm));
    }

    /// The state goes wrong: see [`crate::machine::Machine::bend`].
    pub fn bend(&mut self, lease: i64) {
        self.machine.bend(lease);
    }

    // ---- for people

    pub(super) fn checkpoint_status(&self) -> CheckpointStatus {
        let Quarantine { agreed, wrong, duty, .. } = self.quarantine;
        CheckpointStatus { agreed, differs: wrong.or(duty).map(|wrong| wrong.checkpoint) }
    }

    /// Whether the state here is known to be wrong: nobody is answered from it, and it is given to nobody.
    pub fn is_wrong(&self) -> bool {
        self.quarantine.is_wrong()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a checkpoint stands of which member 1 has digest 7, and the others what is told.
    fn verdict(configuration: &Configuration, told: &[(u64, u64)]) -> Verdict {
        let told = told.iter().map(|(member, digest)| (MemberId(*member), *digest)).collect();
        Note { index: Index(8), digest: 7, told, truth: None }.verdict(MemberId(1), configuration)
    }

    fn voters(ids: &[u64]) -> Configuration {
        Configuration::new(ids.iter().copied().map(MemberId))
    }

    #[test]
    fn a_quorum_is_believed_and_nobody_else() {
        let three = voters(&[1, 2, 3]);
        assert_eq!(verdict(&three, &[]), Verdict::Open);
        assert_eq!(verdict(&three, &[(2, 7)]), Verdict::True(7));
        assert_eq!(verdict(&three, &[(2, 9)]), Verdict::Open);
        assert_eq!(verdict(&three, &[(2, 9), (3, 9)]), Verdict::True(9), "the leader is one of three");
        assert_eq!(verdict(&three, &[(2, 8), (3, 9)]), Verdict::Split);
        let five = voters(&[1, 2, 3, 4, 5]);
        assert_eq!(verdict(&five, &[(2, 7), (3, 9), (4, 9)]), Verdict::Open);
        assert_eq!(verdict(&five, &[(2, 7), (3, 9), (4, 9), (5, 8)]), Verdict::Split);
        assert_eq!(verdict(&voters(&[1]), &[]), Verdict::True(7));
    }

    #[test]
    fn learners_tell_and_do_not_count() {
        let learner = BTreeMap::from([(MemberId(3), crate::raft::quorum::Promotion::OnRequest)]);
        let pair = voters(&[1, 2]).enter([1, 2].map(MemberId), learner).leave();
        assert_eq!(verdict(&pair, &[(3, 7)]), Verdict::Open);
        assert_eq!(verdict(&pair, &[(2, 9), (3, 9)]), Verdict::Split);
    }

    #[test]
    fn a_joint_configuration_believes_what_both_halves_have() {
        let joint = voters(&[1, 2, 3]).enter([3, 4, 5].map(MemberId), []);
        assert_eq!(verdict(&joint, &[(2, 7), (3, 9)]), Verdict::Open);
        assert_eq!(verdict(&joint, &[(2, 7), (3, 7)]), Verdict::Open);
        assert_eq!(verdict(&joint, &[(2, 7), (3, 7), (4, 7)]), Verdict::True(7));
        assert_eq!(verdict(&joint, &[(2, 7), (3, 7), (4, 9), (5, 9)]), Verdict::Split);
    }
}

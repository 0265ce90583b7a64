//! What a majority is, and of whom.
//!
//! Every decision that needs "enough members" goes through a [`Configuration`]: whether an election is won or lost, which
//! index is committed, which read round is confirmed, whether a leader still hears a quorum. It is a value, passed in;
//! nobody else counts members. Votes are sets and are counted from the set each time, never kept as a running number, so
//! a repeated answer or one from a stranger changes nothing.
//!
//! A configuration is **simple** (one set of voters) or **joint** (dissertation §4.3): then every decision needs a majority
//! of the old voters *and* one of the new ones, so that at no moment two disjoint majorities can decide. Learners receive
//! the log and count nowhere.
//!
//! A configuration is also what an entry of kind [`EntryKind::Configuration`](super::EntryKind) carries: its own bytes first
//! ([`Configuration::encode`]), then whatever the layers above want to say with it, which is not Raft's affair.
//!
//! The index that a quorum has reached is found by sorting (the way one would on paper); cleverer scans have committed
//! without a quorum elsewhere. Left out: witnesses, weights.

use crate::ids::MemberId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// When a learner becomes a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// When somebody asks for it (etcd's learner).
    OnRequest,
    /// As soon as it has caught up: the leader sees to it.
    WhenCaughtUp,
}

/// Who votes, who learns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Counts the changes, so that one is made on top of the configuration that its maker saw. A joint configuration has a
    /// number of its own, and so has the simple one that follows it.
    version: u64,
    voters: BTreeSet<MemberId>,
    /// The voters before the change under way; empty in a simple configuration.
    outgoing: BTreeSet<MemberId>,
    learners: BTreeMap<MemberId, Promotion>,
}

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// A quorum said yes.
    Won,
    /// A quorum can't be reached any more.
    Lost,
    /// Not decided yet.
    Open,
}

/// The first byte of an encoded configuration.
const VERSION: u8 = 1;

impl Configuration {
    /// The first configuration of a cluster of these voters.
    ///
    /// # Panics
    /// If there are none: a cluster of nobody can decide nothing.
    pub fn new(voters: impl IntoIterator<Item = MemberId>) -> Configuration {
        let voters: BTreeSet<MemberId> = voters.into_iter().collect();
        assert!(!voters.is_empty(), "a configuration needs a voter");
        Configuration { voters, ..Configuration::default() }
    }

    /// What a member knows that was told nothing yet: nobody votes, so it can neither campaign nor decide; it waits for a
    /// leader to tell.
    pub fn unknown() -> Configuration {
        Configuration::default()
    }

    /// The joint configuration on the way from this one to these voters and learners.
    ///
    /// # Panics
    /// If this one is joint itself, nobody would vote, or a voter would learn.
    #[must_use]
    pub fn enter(
        &self,
        voters: impl IntoIterator<Item = MemberId>,
        learners: impl IntoIterator<Item = (MemberId, Promotion)>,
    ) -> Configuration {
        assert!(!self.is_joint(), "a change on top of a change: {self:?}");
        let (voters, learners): (BTreeSet<_>, BTreeMap<_, _>) =
            (voters.into_iter().collect(), learners.into_iter().collect());
        assert!(!voters.is_empty(), "a configuration needs a voter");
        assert!(!learners.keys().any(|learner| voters.contains(learner)), "a member votes and learns");
        Configuration { version: self.version + 1, voters, outgoing: self.voters.clone(), learners }
    }

    /// The simple configuration that a joint one leads to.
    ///
    /// # Panics
    /// If this one is not joint.
    #[must_use]
    pub fn leave(&self) -> Configuration {
        assert!(self.is_joint(), "there is nothing to leave: {self:?}");
        Configuration { version: self.version + 1, outgoing: BTreeSet::new(), ..self.clone() }
    }

    /// The configuration in which `survivor` decides alone, by decree: for a cluster whose quorum is lost for good. No majority
    /// of this one has a say in it, so nobody may follow this one any more.
    #[must_use]
    pub fn decree(&self, survivor: MemberId) -> Configuration {
        Configuration { version: self.version + 1, ..Configuration::new([survivor]) }
    }

    /// Which one it is, in the order of changes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether a change is under way.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Everyone who votes, those of a change under way on both sides, in order.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.voters.union(&self.outgoing).copied()
    }

    /// Who votes once the change under way is over.
    pub fn incoming(&self) -> &BTreeSet<MemberId> {
        &self.voters
    }

    /// Who voted before the change under way; nobody in a simple configuration.
    pub fn outgoing(&self) -> &BTreeSet<MemberId> {
        &self.outgoing
    }

    /// Who learns, in order. A voter on its way to become a learner is among them already.
    pub fn learners(&self) -> &BTreeMap<MemberId, Promotion> {
        &self.learners
    }

    /// Everyone who receives the log, in order.
    pub fn members(&self) -> BTreeSet<MemberId> {
        self.voters().chain(self.learners.keys().copied()).collect()
    }

    /// Whether `member` receives the log.
    pub fn has_member(&self, member: MemberId) -> bool {
        self.contains(member) || self.learners.contains_key(&member)
    }

    /// Whether `member` votes.
    pub fn contains(&self, member: MemberId) -> bool {
        self.voters.contains(&member) || self.outgoing.contains(&member)
    }

    /// The sets of which each decision needs a majority.
    fn halves(&self) -> impl Iterator<Item = &BTreeSet<MemberId>> {
        [&self.voters, &self.outgoing].into_iter().filter(|half| !half.is_empty())
    }

    /// Counts an election. Nobody wins one where nobody votes.
    pub fn tally(&self, granted: &BTreeSet<MemberId>, rejected: &BTreeSet<MemberId>) -> Tally {
        let count = |half: &BTreeSet<MemberId>, said: &BTreeSet<MemberId>| half.intersection(said).count();
        let won = |half: &BTreeSet<MemberId>| count(half, granted) >= majority(half.len());
        let lost = |half: &BTreeSet<MemberId>| half.len() - count(half, rejected) < majority(half.len());
        if self.voters.is_empty() {
            Tally::Lost
        } else if self.halves().all(won) {
            Tally::Won
        } else if self.halves().any(lost) {
            Tally::Lost
        } else {
            Tally::Open
        }
    }

    /// Whether these are enough to decide.
    pub fn is_quorum(&self, members: &BTreeSet<MemberId>) -> bool {
        self.tally(members, &BTreeSet::new()) == Tally::Won
    }

    /// The greatest value that a quorum has reached, given each voter's own.
    ///
    /// # Panics
    /// If nobody votes: who knows no configuration leads nobody.
    pub fn reached<T: Ord + Copy>(&self, value_of: impl Fn(MemberId) -> T) -> T {
        let of_half = |half: &BTreeSet<MemberId>| {
            let mut values: Vec<T> = half.iter().map(|m| value_of(*m)).collect();
            values.sort_unstable();
            values[values.len() - majority(half.len())]
        };
        self.halves().map(of_half).min().unwrap_or_else(|| panic!("a configuration without voters decides nothing"))
    }

    /// As the data of an entry, followed by `context`: what the layers above say with it.
    pub fn encode(&self, context: &[u8]) -> Bytes {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.version.to_le_bytes());
        for half in [&self.voters, &self.outgoing] {
            put_members(&mut out, half.iter().copied());
        }
        for wanted in [Promotion::OnRequest, Promotion::WhenCaughtUp] {
            put_members(&mut out, self.learners.iter().filter(|(_, p)| **p == wanted).map(|(id, _)| *id));
        }
        out.extend_from_slice(context);
        out.into()
    }

    /// Reads what [`Configuration::encode`] wrote; `None` if it didn't. What is left is the context.
    pub fn decode(data: &Bytes) -> Option<(Configuration, Bytes)> {
        let mut rest = data.strip_prefix(&[VERSION])?;
        let version = take_u64(&mut rest)?;
        let voters: BTreeSet<MemberId> = take_members(&mut rest)?.into_iter().collect();
        let outgoing: BTreeSet<MemberId> = take_members(&mut rest)?.into_iter().collect();
        let mut learners = BTreeMap::new();
        for promotion in [Promotion::OnRequest, Promotion::WhenCaughtUp] {
            learners.extend(take_members(&mut rest)?.into_iter().map(|id| (id, promotion)));
        }
        let makes_sense = !voters.is_empty() && !learners.keys().any(|id| voters.contains(id));
        let configuration = Configuration { version, voters, outgoing, learners };
        makes_sense.then(|| (configuration, data.slice(data.len() - rest.len()..)))
    }
}

/// How many of so many are a majority.
pub fn majority(of: usize) -> usize {
    of / 2 + 1
}

fn put_members(out: &mut Vec<u8>, members: impl Iterator<Item = MemberId>) {
    let at = out.len();
    out.push(0);
    for member in members {
        out[at] = out[at].checked_add(1).unwrap_or_else(|| panic!("a configuration of more than 255 members"));
        out.extend_from_slice(&member.0.to_le_bytes());
    }
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (word, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*word))
}

fn take_members(rest: &mut &[u8]) -> Option<Vec<MemberId>> {
    let (count, after) = rest.split_first()?;
    *rest = after;
    (0..*count).map(|_| take_u64(rest).map(MemberId)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(n: u64) -> Configuration {
        Configuration::new((1..=n).map(MemberId))
    }

    /// Whether a quorum is inside `members`, by trying all sets: one that has more than half of each of `majorities`. A joint
    /// configuration is one element more.
    fn some_quorum_within(majorities: &[u32], members: u32) -> bool {
        let everyone = majorities.iter().fold(0, |all, voters| all | voters);
        let is_quorum = |set: u32| majorities.iter().all(|v| (set & v).count_ones() * 2 > v.count_ones());
        (0..=everyone).any(|set| set & everyone == set && set & members == set && is_quorum(set))
    }

    fn set(mask: u32) -> BTreeSet<MemberId> {
        (0..9).filter(|i| mask & (1 << i) != 0).map(|i| MemberId(i + 1)).collect()
    }

    /// The digits of `number`, the lowest first.
    fn digits(number: u64, base: u64, count: u64) -> Vec<u64> {
        (0..count).map(|digit| number / base.pow(digit as u32) % base).collect()
    }

    #[test]
    fn who_learns_goes_on_learning_when_a_change_is_over() {
        let learners = BTreeMap::from([(MemberId(4), Promotion::OnRequest), (MemberId(5), Promotion::WhenCaughtUp)]);
        let simple = configuration(3).enter([1, 2].map(MemberId), learners.clone()).leave();
        assert_eq!((simple.learners(), simple.incoming()), (&learners, &set(0b11)));
    }

    #[test]
    fn every_election_up_to_seven_voters_agrees_with_trying_all_quorums() {
        for n in 1..=7u64 {
            let (everyone, configuration) = ((1u32 << n) - 1, configuration(n));
            // Each voter has said nothing, yes, no, or (it can't be, and must not count twice) both.
            for answers in 0..4u64.pow(n as u32) {
                let answers = digits(answers, 4, n);
                let said = |bit: u64| (0..n).filter(|i| answers[*i as usize] & bit > 0).fold(0u32, |m, i| m | 1 << i);
                let (granted, rejected) = (said(1), said(2));
                let expected = if some_quorum_within(&[everyone], granted) {
                    Tally::Won
                } else if !some_quorum_within(&[everyone], everyone & !rejected) {
                    Tally::Lost
                } else {
                    Tally::Open
                };
                // Bit 8 is a stranger's vote: it must change nothing.
                for stranger in [0, 1 << 8] {
                    let tally = configuration.tally(&set(granted | stranger), &set(rejected | stranger));
                    assert_eq!(tally, expected, "{n} voters, {granted:b} granted, {rejected:b} rejected");
                }
            }
        }
    }

    #[test]
    fn every_index_reached_up_to_seven_voters_agrees_with_trying_all_quorums() {
        for n in 1..=7u64 {
            let (everyone, configuration, base) = ((1u32 << n) - 1, configuration(n), n.clamp(3, 5));
            for values in 0..base.pow(n as u32) {
                let values = digits(values, base, n);
                let has =
                    |at_least: u64| (0..n).filter(|i| values[*i as usize] >= at_least).fold(0u32, |m, i| m | 1 << i);
                let expected = (0..base).rev().find(|value| some_quorum_within(&[everyone], has(*value)));
                assert_eq!(Some(configuration.reached(|m| values[m.0 as usize - 1])), expected, "{values:?}");
            }
        }
    }

    /// All pairs of two sets of voters among `n`.
    fn joint_pairs(n: u32) -> impl Iterator<Item = (u32, u32)> {
        (1..1u32 << n).flat_map(move |old| (1..1u32 << n).map(move |new| (old, new)))
    }

    fn joint(old: u32, new: u32) -> Configuration {
        Configuration::new(set(old)).enter(set(new), [])
    }

    #[test]
    fn every_joint_election_among_five_agrees_with_trying_all_quorums() {
        for (old, new) in joint_pairs(5) {
            let (halves, both, configuration) = ([old, new], old | new, joint(old, new));
            for answers in 0..3u64.pow(5) {
                let answers = digits(answers, 3, 5);
                let said = |what: u64| (0..5).filter(|i| answers[*i as usize] == what).fold(0u32, |m, i| m | 1 << i);
                let (granted, rejected) = (said(1), said(2));
                let expected = if some_quorum_within(&halves, granted) {
                    Tally::Won
                } else if !some_quorum_within(&halves, both & !rejected) {
                    Tally::Lost
                } else {
                    Tally::Open
                };
                let tally = configuration.tally(&set(granted), &set(rejected));
                assert_eq!(tally, expected, "{old:b} and {new:b}: {granted:b} granted, {rejected:b} rejected");
            }
        }
    }

    #[test]
    fn every_index_reached_by_a_joint_quorum_among_four_agrees_with_trying_all_quorums() {
        for (old, new) in joint_pairs(4) {
            let configuration = joint(old, new);
            for values in 0..4u64.pow(4) {
                let values = digits(values, 4, 4);
                let has =
                    |at_least: u64| (0..4).filter(|i| values[*i as usize] >= at_least).fold(0u32, |m, i| m | 1 << i);
                let expected = (0..4).rev().find(|value| some_quorum_within(&[old, new], has(*value)));
                let reached = configuration.reached(|m| values[m.0 as usize - 1]);
                assert_eq!(Some(reached), expected, "{old:b} and {new:b}: {values:?}");
            }
        }
    }

    #[test]
    fn nobody_wins_where_nobody_votes() {
        let unknown = Configuration::unknown();
        assert_eq!(unknown.tally(&set(0b111), &set(0)), Tally::Lost);
        assert!(!unknown.contains(MemberId(1)) && !unknown.is_joint());
    }

    #[test]
    fn a_configuration_survives_its_encoding_and_nothing_shorter_is_one() {
        let learners = [(MemberId(7), Promotion::OnRequest), (MemberId(8), Promotion::WhenCaughtUp)];
        let joint = Configuration::new(set(0b111)).enter(set(0b1110), learners);
        for configuration in [Configuration::new(set(0b1)), joint.clone(), joint.leave()] {
            for context in [&b""[..], b"who they are"] {
                let bytes = configuration.encode(context);
                let decoded = Configuration::decode(&bytes);
                assert_eq!(decoded, Some((configuration.clone(), Bytes::copy_from_slice(context))));
                for shorter in 0..bytes.len() - context.len() {
                    assert_eq!(Configuration::decode(&bytes.slice(..shorter)), None, "{shorter} bytes");
                }
            }
        }
        assert_eq!(joint.leave().version(), 2);
    }

    #[test]
    fn trying_all_quorums_knows_joint_ones() {
        // {1, 2, 3} and {3, 4, 5}: any two of each, and 3 counts in both.
        let joint = [0b00111, 0b11100];
        assert!(some_quorum_within(&joint, 0b01101) && some_quorum_within(&joint, 0b11011));
        assert!(!some_quorum_within(&joint, 0b00111) && !some_quorum_within(&joint, 0b11001));
    }
}

//! What a majority is.
//!
//! Every decision that needs "enough members" goes through a [`Configuration`]: whether an election is won or lost, which
//! index is committed, which read round is confirmed, whether a leader still hears a quorum. It is a value, passed in;
//! nobody else counts members. Votes are sets and are counted from the set each time, never kept as a running number, so
//! a repeated answer or one from a stranger changes nothing.
//!
//! The index that a quorum has reached is found by sorting (the way one would on paper); cleverer scans have committed
//! without a quorum elsewhere. Left out until membership changes come: joint configurations, learners.

use crate::ids::MemberId;
use std::collections::BTreeSet;

/// Who votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    voters: BTreeSet<MemberId>,
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

impl Configuration {
    /// A configuration of these voters.
    ///
    /// # Panics
    /// If there are none: a cluster of nobody can decide nothing.
    pub fn new(voters: impl IntoIterator<Item = MemberId>) -> Configuration {
        let voters: BTreeSet<MemberId> = voters.into_iter().collect();
        assert!(!voters.is_empty(), "a configuration needs a voter");
        Configuration { voters }
    }

    /// The voters, in order.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.voters.iter().copied()
    }

    /// Whether `member` votes.
    pub fn contains(&self, member: MemberId) -> bool {
        self.voters.contains(&member)
    }

    /// How many members a quorum has.
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Counts an election.
    pub fn tally(&self, granted: &BTreeSet<MemberId>, rejected: &BTreeSet<MemberId>) -> Tally {
        let yes = self.voters.intersection(granted).count();
        let no = self.voters.intersection(rejected).count();
        if yes >= self.quorum() {
            Tally::Won
        } else if self.voters.len() - no < self.quorum() {
            Tally::Lost
        } else {
            Tally::Open
        }
    }

    /// The greatest value that a quorum has reached, given each voter's own.
    pub fn reached<T: Ord + Copy>(&self, value_of: impl Fn(MemberId) -> T) -> T {
        let mut values: Vec<T> = self.voters.iter().map(|m| value_of(*m)).collect();
        values.sort_unstable();
        values[values.len() - self.quorum()]
    }
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

    #[test]
    fn trying_all_quorums_knows_joint_ones() {
        // {1, 2, 3} and {3, 4, 5}: any two of each, and 3 counts in both.
        let joint = [0b00111, 0b11100];
        assert!(some_quorum_within(&joint, 0b01101) && some_quorum_within(&joint, 0b11011));
        assert!(!some_quorum_within(&joint, 0b00111) && !some_quorum_within(&joint, 0b11001));
    }
}

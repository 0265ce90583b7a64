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
    use proptest::prelude::*;

    fn configuration(n: u64) -> Configuration {
        Configuration::new((1..=n).map(MemberId))
    }

    /// Whether some set of more than half the voters is inside `members`, by trying all sets.
    fn some_majority_within(n: u64, members: u32) -> bool {
        (0u32..1 << n).any(|set| set.count_ones() as u64 * 2 > n && set & members == set)
    }

    fn set(mask: u32) -> BTreeSet<MemberId> {
        (0..9).filter(|i| mask & (1 << i) != 0).map(|i| MemberId(i + 1)).collect()
    }

    #[test]
    fn elections_up_to_seven_voters_agree_with_trying_all_majorities() {
        for n in 1..=7u64 {
            for granted in 0u32..1 << n {
                // Bit 8 is a stranger's vote: it must change nothing.
                for stranger in [0, 1 << 8] {
                    let rejected = !granted & ((1 << n) - 1) & 0b101_0101;
                    let tally = configuration(n).tally(&set(granted | stranger), &set(rejected | stranger));
                    let expected = if some_majority_within(n, granted) {
                        Tally::Won
                    } else if !some_majority_within(n, !rejected & ((1 << n) - 1)) {
                        Tally::Lost
                    } else {
                        Tally::Open
                    };
                    assert_eq!(tally, expected, "{n} voters, {granted:b} granted, {rejected:b} rejected");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_index_reached_is_the_greatest_that_a_majority_has(values in proptest::collection::vec(0u64..6, 1..=7)) {
            let n = values.len() as u64;
            let reached = configuration(n).reached(|m| values[m.0 as usize - 1]);
            let has = |at_least: u64| {
                let mask = values.iter().enumerate().filter(|(_, v)| **v >= at_least).fold(0u32, |m, (i, _)| m | 1 << i);
                some_majority_within(n, mask)
            };
            prop_assert!(has(reached));
            prop_assert!(!has(reached + 1));
        }
    }
}

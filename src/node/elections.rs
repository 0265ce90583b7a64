//! The changes of leader that this member saw, with the moments that make up a failover: noticed, campaigned, elected,
//! first commit. Feeds `quorate status` and the failover report; decides nothing.

use crate::ids::{MemberId, Term};
use crate::raft::{Event, LossCause};
use crate::time::Time;
use std::collections::VecDeque;

/// So many are kept: enough for a look back, few enough to copy out.
const KEPT: usize = 16;

/// One change of leader, as this member saw it; times on its own clock, `None` where a step did not happen here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// The term won.
    pub term: Term,
    /// Who won.
    pub winner: MemberId,
    /// Why the previous leader was given up.
    pub cause: Cause,
    /// When the loss was noticed.
    pub detected: Option<Time>,
    /// When this member first asked for (pre-)votes.
    pub campaigned: Option<Time>,
    /// When the winner became known.
    pub elected: Time,
    /// When the first entry of the term was known to be committed.
    pub committed: Option<Time>,
}

/// Why an election took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There was no leader yet.
    Start,
    /// Nothing was heard of the leader for an election timeout (or, by the leader, of a quorum).
    Timeout,
    /// The connection from the leader broke.
    ConnectionLost,
    /// The leader handed over.
    Transfer,
    /// Another member's campaign came first.
    Other,
}

/// The log of them.
#[derive(Debug, Default)]
pub(super) struct Elections {
    seen: VecDeque<Election>,
    lost: Option<(Cause, Time)>,
    campaigned: Option<Time>,
    leader_since: Time,
    leader_changes: u64,
}

impl Elections {
    pub(super) fn note(&mut self, now: Time, event: Event) {
        match event {
            Event::LeaderLost(cause) => self.lost = Some((cause_of(cause), now)),
            Event::Campaigned { .. } => self.campaigned = self.campaigned.or(Some(now)),
            Event::LeaderKnown { term, leader } => {
                let lost = self.lost.take();
                if self.seen.len() == KEPT {
                    self.seen.pop_front();
                }
                self.seen.push_back(Election {
                    term,
                    winner: leader,
                    cause: lost.map_or(Cause::Start, |(cause, _)| cause),
                    detected: lost.map(|(_, at)| at),
                    campaigned: self.campaigned.take(),
                    elected: now,
                    committed: None,
                });
                self.leader_since = now;
                self.leader_changes += 1;
            }
            Event::TermCommitted { term } => {
                if let Some(election) = self.seen.back_mut().filter(|e| e.term == term) {
                    election.committed = election.committed.or(Some(now));
                }
            }
        }
    }

    /// Oldest first.
    pub(super) fn list(&self) -> Vec<Election> {
        self.seen.iter().cloned().collect()
    }

    /// All of them, those that are not kept any more included.
    pub(super) fn leader_changes(&self) -> u64 {
        self.leader_changes
    }

    pub(super) fn leader_since(&self) -> Time {
        self.leader_since
    }
}

fn cause_of(cause: LossCause) -> Cause {
    match cause {
        LossCause::Timeout | LossCause::NoQuorum => Cause::Timeout,
        LossCause::ConnectionLost => Cause::ConnectionLost,
        LossCause::Transfer => Cause::Transfer,
        LossCause::HigherTerm => Cause::Other,
    }
}

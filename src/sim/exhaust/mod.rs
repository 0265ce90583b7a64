//! Every world there is, within a small scope.
//!
//! Three members of the real core, a handful of elections, writes, crashes and repeated messages, and *all* orders in which
//! that can go: each message on its way arrives next, later or never, each unfinished write ends next, later or never. Where
//! chance (`raft::tests`) tries long runs, this tries all short ones, and says how many there were.
//!
//! # What can happen
//!
//! | step | how many |
//! |---|---|
//! | a message on its way arrives; none ever has to, so loss is included | all of them |
//! | the oldest unfinished write of a member is durable and reported | all of them |
//! | a member loses patience and asks for pre-votes | [`Scope::elections`] |
//! | a client's write reaches a leader | [`Scope::writes`] |
//! | a leader is asked for any other two or three voters, and begins that change | [`Scope::changes`] |
//! | a member crashes, keeps what was synced and a torn part of the next write, and starts again | [`Scope::crashes`] |
//! | a message arrives and stays on its way | [`Scope::duplicates`] |
//! | a message arrives before earlier ones of its link, which stay on their way | [`Scope::reorders`] |
//! | a leader's heartbeat is due | [`Scope::heartbeats`] |
//! | a leader has heard no quorum for an election timeout | [`Scope::lapses`] |
//! | a stream between a leader and a follower breaks | [`Scope::breaks`] |
//! | a member loses its disk, against all laws | [`Scope::wipes`] |
//!
//! Messages of one link arrive in order, as on the streams that carry them, but any of them may be lost;
//! [`Scope::reorders`] lets them overtake. The clock stands still; timers are steps. A member never refuses a vote because
//! of a leader it hears: that it may do so is as if the request had been lost, which is tried anyway. With
//! [`Scope::pre_votes`] off, pre-votes are granted by the world whenever it likes: more than can happen, so nothing that can
//! happen is left out.
//!
//! # How
//!
//! Depth first, from the first state; a state that was seen is not entered again. Only the present path and the
//! fingerprints of all states are kept in memory. A fingerprint has 64 bits (`raft::canonical` says of what), so two states
//! may be taken for one by chance: among *n* states the expected number of such pairs is n² / 2⁶⁵. Three more kinds of worlds
//! are taken for one, and these have the same future:
//!
//! - those that differ only in the names of n2 and n3 (n1 is whoever campaigns first);
//! - those that differ only in messages that nobody will ever heed. As such a message goes, it is tried on its receiver, and
//!   must change nothing;
//! - those that differ only in what an append of a finished term says: it is answered with the newer term, whatever it is.
//!
//! A broken law ends it, an assertion of the core included. Its path is then shortened by leaving out steps that are not
//! needed to break a law. A complete search says nothing beyond its scope: to commit an entry of an older term by counting
//! (Raft fig. 8) does harm only in the fourth election.
//!
//! # What is left out
//!
//! A turn takes one input, a finished write is reported by itself; reads, forwards, transfers that somebody asks for,
//! compaction, states taken over, learners. The simulator proper has those.

mod laws;
mod print;
mod visited;
mod world;

pub use print::{KINDS, ROLES};
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;
use visited::Visited;
use world::{Action, World};

/// How much of each may happen. See the module's essay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Campaigns.
    pub elections: u8,
    /// Commands of clients.
    pub writes: u8,
    /// Changes of the membership, from all three voters at first. A leader that such a change removes hands over, and that
    /// election is not counted.
    pub changes: u8,
    /// Crashes, each with a restart.
    pub crashes: u8,
    /// Messages that arrive once more.
    pub duplicates: u8,
    /// Messages that overtake others of their link; [`Scope::ANY_ORDER`] for no limit.
    pub reorders: u8,
    /// Heartbeats.
    pub heartbeats: u8,
    /// Leaders that give up.
    pub lapses: u8,
    /// Streams that break.
    pub breaks: u8,
    /// Crashes that leave an empty disk. No core can bear that: such a scope ends with a broken law, and so shows that the
    /// search can fail.
    pub wipes: u8,
    /// Whether pre-votes are messages like all others: 1, or 0 for no.
    pub pre_votes: u8,
    /// Whether an append takes one entry only: 1, or 0 for no.
    pub short_appends: u8,
}

impl Scope {
    /// Messages arrive in any order.
    pub const ANY_ORDER: u8 = u8::MAX;

    fn numbers(&mut self) -> [(&'static str, &mut u8); 12] {
        [
            ("elections", &mut self.elections),
            ("writes", &mut self.writes),
            ("changes", &mut self.changes),
            ("crashes", &mut self.crashes),
            ("duplicates", &mut self.duplicates),
            ("reorders", &mut self.reorders),
            ("heartbeats", &mut self.heartbeats),
            ("lapses", &mut self.lapses),
            ("breaks", &mut self.breaks),
            ("wipes", &mut self.wipes),
            ("pre_votes", &mut self.pre_votes),
            ("short_appends", &mut self.short_appends),
        ]
    }
}

/// As in `elections=2,writes=1`: what is not named is 0. `any` stands for [`Scope::ANY_ORDER`].
impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        let mut scope = Scope::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (name, number) = word.split_once('=').ok_or_else(|| format!("{word}: expected name=number"))?;
            let number = if number == "any" { Ok(Scope::ANY_ORDER) } else { number.parse() };
            let number = number.map_err(|_| format!("{word}: not a number from 0 to 255"))?;
            let mut numbers = scope.numbers();
            let names = numbers.each_ref().map(|(name, _)| *name).join(", ");
            let place = numbers.iter_mut().find(|(known, _)| *known == name);
            *place.ok_or_else(|| format!("{name}: expected one of {names}"))?.1 = number;
        }
        Ok(scope)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut scope = self.clone();
        let named: Vec<String> = scope
            .numbers()
            .into_iter()
            .filter(|(_, number)| **number > 0)
            .map(|(name, number)| match *number {
                Scope::ANY_ORDER => format!("{name}=any"),
                number => format!("{name}={number}"),
            })
            .collect();
        f.write_str(&named.join(","))
    }
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    /// Different states.
    pub states: u64,
    /// Steps from one state to another, or to one seen before.
    pub transitions: u64,
    /// Steps on the longest path.
    pub depth: usize,
    /// Whether that was all.
    pub is_complete: bool,
    /// How often each kind of message ([`KINDS`]) arrived at a member of each role ([`ROLES`]).
    pub heard: [[u64; ROLES.len()]; KINDS.len()],
}

/// A law is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which, and how.
    pub law: String,
    /// What led there, a line for each step.
    pub steps: Vec<String>,
    /// How far the search was.
    pub explored: Explored,
}

struct Frame {
    world: World,
    actions: Vec<Action>,
    next: usize,
}

impl Frame {
    fn new(world: World) -> Frame {
        Frame { actions: world.actions(), world, next: 0 }
    }
}

/// Tries everything within `scope`. `goes_on` is asked now and then, with what was seen so far: it may end the search.
///
/// # Errors
/// A law is broken.
pub fn explore(scope: &Scope, mut goes_on: impl FnMut(&Explored) -> bool) -> Result<Explored, Box<Violation>> {
    let scope = Rc::new(scope.clone());
    let mut explored = Explored { states: 1, is_complete: true, ..Explored::default() };
    let mut visited = Visited::new();
    let first = World::new(&scope);
    visited.insert(first.fingerprint());
    let mut path = vec![Frame::new(first)];
    while let Some(frame) = path.last_mut() {
        let Some(action) = frame.actions.get(frame.next) else {
            path.pop();
            continue;
        };
        frame.next += 1;
        explored.transitions += 1;
        explored.note(&frame.world, action);
        let mut world = frame.world.clone();
        if let Err(law) = attempt(&mut world, action) {
            let steps = path.iter().map(|frame| print::action(&frame.world, &frame.actions[frame.next - 1])).collect();
            let (law, steps) = shortened(&scope, law, steps);
            return Err(Box::new(Violation { law, steps, explored }));
        }
        if visited.insert(world.fingerprint()) {
            explored.states = visited.len();
            explored.depth = explored.depth.max(path.len());
            path.push(Frame::new(world));
            if explored.states.is_multiple_of(1 << 16) && !goes_on(&explored) {
                explored.is_complete = false;
                break;
            }
        }
    }
    Ok(explored)
}

impl Explored {
    fn note(&mut self, world: &World, action: &Action) {
        if let Action::Deliver { flying, .. } = action {
            let role = world.member(flying.envelope.to).raft.status().role as usize;
            self.heard[print::kind(&flying.envelope.message)][role] += 1;
        }
    }
}

/// An assertion of the core that fails is a broken law like any other.
fn attempt(world: &mut World, action: &Action) -> Result<(), String> {
    super::caught(|| world.act(action)).unwrap_or_else(Err)
}

/// The law that `steps` break, if they can all be taken.
fn broken_by(scope: &Rc<Scope>, steps: &[String]) -> Option<String> {
    let mut world = World::new(scope);
    for step in steps {
        let possible = world.actions().into_iter().find(|action| print::action(&world, action) == *step)?;
        if let Err(law) = attempt(&mut world, &possible) {
            return Some(law);
        }
    }
    None
}

/// Leaves out every step without which some law is still broken. Steps are told by what is printed of them, so that one
/// that differs only in the number of a campaign is still the same.
fn shortened(scope: &Rc<Scope>, mut law: String, mut steps: Vec<String>) -> (String, Vec<String>) {
    loop {
        let before = steps.len();
        for at in (0..before).rev() {
            let mut fewer = steps.clone();
            fewer.remove(at);
            if let Some(broken) = broken_by(scope, &fewer) {
                (law, steps) = (broken, fewer);
            }
        }
        if steps.len() == before {
            return (law, steps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_world(scope: &str) -> Explored {
        let explored = explore(&scope.parse().unwrap(), |_| true);
        explored.unwrap_or_else(|violation| panic!("{scope}: {}\n{}", violation.law, violation.steps.join("\n")))
    }

    #[test]
    fn a_lost_disk_is_found_and_told_in_few_steps() {
        let violation = explore(&"elections=2,wipes=1".parse().unwrap(), |_| true).unwrap_err();
        assert!(violation.law.contains("is committed, but on 1 disks only"), "{}", violation.law);
        assert_eq!(violation.steps.first().unwrap(), "n1 loses patience");
        assert_eq!(violation.steps.last().unwrap(), "n1 crashes, and starts again with an empty disk");
        assert!(violation.steps.len() <= 11, "{:#?}", violation.steps);
    }

    #[test]
    fn a_search_that_is_stopped_says_that_it_is_not_complete() {
        let scope = Scope { elections: 2, writes: 1, ..Scope::default() };
        let explored = explore(&scope, |so_far| so_far.states < 1 << 16).unwrap();
        assert!(!explored.is_complete && explored.states == 1 << 16, "{explored:?}");
    }

    #[test]
    fn what_arrives_in_order_is_among_what_arrives_in_any_order() {
        let (in_order, any) = (every_world("elections=1,writes=1"), every_world("elections=1,writes=1,reorders=any"));
        assert!(in_order.states < any.states, "{in_order:?} {any:?}");
    }

    #[test]
    fn a_scope_is_read_as_it_is_printed() {
        let text = "elections=2,writes=1,reorders=any,pre_votes=1";
        assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        assert!("elections".parse::<Scope>().unwrap_err().contains("expected name=number"));
        assert!("term=1".parse::<Scope>().unwrap_err().contains("expected one of elections, writes"));
        assert!("writes=300".parse::<Scope>().unwrap_err().contains("0 to 255"));
    }
}

//! Shell two: whole clusters in one thread, with every fault there is, from one seed.
//!
//! The node is a value, so thousands of clusters of that very value can be run, each a function of its plan: members with
//! their logs and machines, a network, disks, clocks and clients, and a list of what goes wrong when. After every event the
//! laws are checked; at the end a majority is healed and must work, and the judge reads what the clients saw.
//!
//! - `plan.rs`: what is going to happen, drawn from a seed, written as text.
//! - `world.rs`: the heap of events; `place.rs`, `disks.rs`, `network.rs`, `clients.rs`, `workload.rs`, `owners.rs`, `watchers.rs`,
//!   `operator.rs`, `contents.rs`: what is in it; `faults.rs`, `bends.rs`: what is done to it; `ending.rs`: the liveness phase.
//! - `host.rs`: what the world drives, in two forms: `member.rs` (everything, as in production) and `core.rs` (Raft alone).
//! - `laws.rs`: what must hold; `councils.rs`: who decides. `trace.rs`: what happened, for people, and the fingerprint.
//! - [`exhaust`]: not one long world by chance, but all the short ones there are.
//! - `shrink.rs`: from a plan that breaks a law to a small one.
//!
//! A failure is one line: the seed. `quorate sim --profile P --seed S --trace` tells the story.
//!
//! # What it can't find
//!
//! Anything in the shells that serve (threads, sockets, sled): `tests/crash.rs`, `tests/cluster.rs` and `quorate check live` are
//! for those. The disk keeps the engine's contract: what sled makes of it on a torn sector is `tests/crash.rs`'s.
//! Which address a joiner dials, and how it gets its id, is `server/join.rs`'s and `tests/cluster.rs`'s. The bare core keeps the
//! members that it begins with: without a state there is nothing to take over, and nobody to judge a change.

use crate::check;
use crate::check::history::Operation;
use crate::rng::mix;
use crate::time::{Duration, Time};
use laws::{Law, Violation};
use plan::{Plan, Profile};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

mod bends;
mod clients;
mod contents;
mod core;
mod councils;
mod disks;
mod ending;
pub mod exhaust;
mod faults;
pub mod host;
pub mod laws;
mod member;
mod network;
mod operator;
mod owners;
mod place;
pub mod plan;
pub mod shrink;
mod trace;
mod watchers;
mod workload;
mod world;

pub use councils::Changes;
pub use world::Installs;

/// The judge's search gives up after so many states: a second or so.
const SEARCH_STATES_MAX: u64 = 200_000;

/// How a run is watched.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Laws that are not kept, to see that somebody misses them.
    pub off: Vec<Law>,
    /// How many of the newest trace lines are kept.
    pub trace: usize,
    /// Whether the judge searches for an order of all operations, beside checking the one that the revisions tell.
    pub search: bool,
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// The law that was broken, if one was.
    pub violation: Option<Violation>,
    /// How much time passed in the world.
    pub simulated: Duration,
    /// How many things happened.
    pub events: u64,
    /// How many entries were committed.
    pub committed: u64,
    /// How many terms had a leader.
    pub leaders: u64,
    /// How many requests were carried out.
    pub answers: u64,
    /// States that were taken over.
    pub installs: Installs,
    /// What became of the membership.
    pub changes: Changes,
    /// So many lost their disks, or came to have wrong states, that no quorum was left of what the membership had become
    /// meanwhile: there was nothing to heal.
    pub stranded: bool,
    /// Of everything that happened: the same plan gives the same.
    pub fingerprint: u64,
    /// The newest lines of the trace.
    pub trace: Vec<String>,
    /// What the clients saw; empty for the bare core.
    pub history: Vec<Operation>,
}

/// Runs a plan, some of them twice, and lets the judge search some: what is worth it for one of many.
pub fn verify(plan: &Plan, options: &Options) -> Report {
    let chance = mix(plan.seed);
    // The search copies what it has read, and a fierce world writes large values.
    let search = chance.is_multiple_of(16) && !plan.fierce;
    let mut report = run(plan, &Options { search, ..options.clone() });
    if report.violation.is_none() && chance.is_multiple_of(100) {
        let again = run(plan, options);
        if again.fingerprint != report.fingerprint && !options.off.contains(&Law::Deterministic) {
            let what = format!("{:x} and {:x} from the same plan", report.fingerprint, again.fingerprint);
            let at = Time(0) + report.simulated;
            report.violation = Some(Violation { law: Law::Deterministic, at, what });
        }
    }
    report
}

/// Runs a plan.
pub fn run(plan: &Plan, options: &Options) -> Report {
    match plan.profile {
        Profile::Core => drive::<core::Core>(plan, options),
        Profile::Full => drive::<member::Member>(plan, options),
    }
}

fn drive<H: host::Host>(plan: &Plan, options: &Options) -> Report {
    let mut world = world::World::<H>::new(plan.clone(), &options.off, options.trace);
    let outcome = caught(|| {
        world.run(Time(0) + plan.length)?;
        world.end()
    });
    let mut violation = match outcome {
        Ok(outcome) => outcome.err(),
        Err(said) => world.laws.broken(Law::Assertion, || said).err(),
    };
    let history = world.clients.history().to_vec();
    if violation.is_none() && H::HAS_CONTENTS {
        let search_states_max = if options.search { SEARCH_STATES_MAX } else { 0 };
        let verdict = check::judge(&history, check::Options { search_states_max, ..check::Options::default() });
        if !verdict.is_kept() {
            violation = world.laws.broken(Law::Linearizable, || verdict.to_string()).err();
        }
    }
    if violation.is_none()
        && let Err(found) = world.watchers.judged(&history)
    {
        violation = world.laws.broken(Law::Watched, || found.to_string()).err();
    }
    Report {
        violation,
        simulated: world.now.since(Time(0)),
        events: world.trace.events(),
        committed: world.laws.committed() as u64,
        leaders: world.laws.leader_changes(),
        answers: world.clients.answers(),
        installs: world.installs(),
        changes: world.laws.changes(),
        stranded: world.stranded,
        fingerprint: world.trace.fingerprint(),
        trace: world.trace.into_lines(),
        history,
    }
}

thread_local! {
    /// What the panic of this thread's run said, and where; `None` outside of a run.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs, and catches the program's own assertions instead of printing them.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let inside = SAID.with_borrow_mut(|said| said.as_mut().map(|said| *said = info.to_string()).is_some());
            if !inside {
                usual(info);
            }
        }));
    });
    SAID.set(Some(String::new()));
    let outcome = catch_unwind(AssertUnwindSafe(run));
    let said = SAID.take();
    outcome.map_err(|_| said.unwrap_or_default())
}

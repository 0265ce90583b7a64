//! Random histories: the good ones pass, the bad ones don't, and both judges and brute force agree.

use super::generate::{self, FAULTS, Shape};
use super::*;
use crate::check::linear::Outcome as Found;
use crate::check::model::{Model, Scope};
use crate::rng::{Rng, Seed};

const STATES_MAX: u64 = 5_000;

fn seeds(by_default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("QUORATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("QUORATE_SEEDS").unwrap_or(by_default),
    }
}

fn show(history: &[Operation]) -> String {
    history.iter().map(|operation| serde_json::to_string(operation).unwrap() + "\n").collect()
}

#[test]
fn a_store_that_keeps_its_word_passes() {
    let range = seeds(3000);
    for seed in range.clone() {
        let mut rng = Rng::new(Seed(seed));
        let shape = Shape { shared: rng.below(3) == 0, ..Shape::random(&mut rng) };
        let history = generate::history(seed, shape, None);
        // The search takes longer.
        let search_states_max = if (seed - range.start).is_multiple_of(10) { STATES_MAX } else { 0 };
        for shared in [true, false] {
            if shared || !shape.shared {
                let verdict = judge(&history, Options { shared, search_states_max });
                assert!(verdict.is_kept(), "QUORATE_SEED={seed} shared {shared}: {verdict}\n{}", show(&history));
            }
        }
    }
}

/// Of the whole store the search judges as the check of the sequence does, but for what the latter says it can't tell.
#[test]
fn the_two_judges_agree() {
    let (mut caught, mut only_searched, mut too_long) = ([0; FAULTS.len()], 0, 0);
    let seeds = seeds(600);
    for seed in seeds.clone() {
        let shape = Shape { serializable: false, ..Shape::random(&mut Rng::new(Seed(seed))) };
        let kind = (seed % FAULTS.len() as u64) as usize;
        let history = generate::history(seed, shape, Some(FAULTS[kind]));
        let verdict = judge(&history, Options { shared: false, search_states_max: STATES_MAX });
        let said = format!("QUORATE_SEED={seed} {:?}: {:?}\n{}", FAULTS[kind], verdict, show(&history));
        match (&verdict.sequence, verdict.search.as_ref().unwrap()) {
            (Ok(_), Found::Linearizable) => {}
            (Err(_), Found::Violation(_)) => caught[kind] += 1,
            (Ok(kept), Found::Violation(_)) => {
                assert!(kept.unidentified > 0, "only the search saw it: {said}");
                only_searched += 1;
            }
            (Err(violation), Found::Linearizable) => {
                // A transaction of compares alone is no linearizable read.
                let apart = violation.witnesses().iter().any(|witness| is_serializable(&witness.operation.call));
                assert!(apart, "only the sequence's check saw it: {said}");
            }
            (_, Found::Unknown(_)) => too_long += 1,
        }
    }
    println!("{caught:?} caught of {FAULTS:?}; {only_searched} by the search only; {too_long} too long to search");
    if seeds.end - seeds.start > 500 {
        assert!(caught.iter().all(|&count| count >= 3), "{caught:?} of {FAULTS:?}");
        assert!(only_searched * 50 < caught.iter().sum::<u64>(), "{only_searched}");
        assert!(too_long * 50 < seeds.end - seeds.start, "{too_long}");
    }
}

/// Whether there is an order, tried one by one.
fn brute_force(history: &[Operation], scope: Scope) -> bool {
    fn go(history: &[Operation], left: &mut Vec<usize>, model: &mut Model, scope: Scope) -> bool {
        let is_done = |place: &usize| matches!(history[*place].outcome, Outcome::Done { .. });
        if !left.iter().any(is_done) {
            return true;
        }
        for at in 0..left.len() {
            let place = left[at];
            let operation = &history[place];
            let waits = |&other: &usize| is_done(&other) && history[other].returned < operation.invoked;
            if left.iter().any(waits) {
                continue;
            }
            let Some(applied) = model.apply(&operation.call) else { continue };
            let fits = match &operation.outcome {
                Outcome::Done { reply, .. } if scope == Scope::Values => applied.reply == plain(reply),
                Outcome::Done { revision, reply } => applied.reply == *reply && applied.revision == *revision,
                Outcome::Unknown(_) => true,
                Outcome::Refused(_) | Outcome::Compacted => false,
            };
            left.remove(at);
            let found = fits && go(history, left, model, scope);
            left.insert(at, place);
            model.undo(&applied);
            if found {
                return true;
            }
        }
        false
    }
    let mut left = (0..history.len()).filter(|&place| !is_serializable(&history[place].call)).collect();
    go(history, &mut left, &mut Model::new(scope), scope)
}

/// A reply without revisions.
fn plain(reply: &Reply) -> Reply {
    match reply {
        Reply::Got(pairs) => {
            Reply::Got(pairs.iter().map(|pair| Pair { mod_revision: 0, create_revision: 0, ..pair.clone() }).collect())
        }
        Reply::Txn(held, replies) => Reply::Txn(*held, replies.iter().map(plain).collect()),
        other => other.clone(),
    }
}

#[test]
fn the_search_finds_what_brute_force_finds() {
    let mut found = [0; 2];
    let seeds = seeds(1500);
    for seed in seeds.clone() {
        let mut rng = Rng::new(Seed(seed));
        let shared = rng.below(2) == 0;
        let shape = Shape {
            operations: 2 + rng.below(4) as usize,
            clients: 4,
            keys: 1 + rng.below(2),
            old_revisions: !shared,
            compares_of_revisions: !shared,
            ..Shape::random(&mut rng)
        };
        let fault = (rng.below(3) > 0).then(|| FAULTS[rng.below(FAULTS.len() as u64) as usize]);
        let history = generate::history(seed, shape, fault);
        let scope = if shared { Scope::Values } else { Scope::Past };
        let expected = brute_force(&history, scope);
        let outcome = linear::check(&history, shared, STATES_MAX);
        found[usize::from(expected)] += 1;
        assert_eq!(outcome == Found::Linearizable, expected, "QUORATE_SEED={seed} {outcome:?}\n{}", show(&history));
    }
    if seeds.end - seeds.start > 500 {
        assert!(found.iter().all(|count| *count > 100), "{found:?}");
    }
}

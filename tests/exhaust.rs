//! Small worlds of the real core, all of them (`quorate::sim::exhaust`).
//!
//! `QUORATE_SCOPE=elections=2,writes=2 cargo test --release --test exhaust -- --ignored --nocapture` explores another scope,
//! for as long as it takes, or for `QUORATE_STATES` states.

use quorate::sim::exhaust::{Explored, KINDS, ROLES, Scope, explore};

/// As in the binary: it is allocations that take the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn every_world(scope: &str) -> Explored {
    let scope: Scope = scope.parse().expect("a scope");
    let limit = std::env::var("QUORATE_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX);
    let goes_on = |so_far: &Explored| {
        if so_far.states.is_multiple_of(1 << 22) {
            println!("{scope}: {} states, {} transitions so far", so_far.states, so_far.transitions);
        }
        so_far.states < limit
    };
    let explored = explore(&scope, goes_on).unwrap_or_else(|violation| {
        panic!("{scope}: {}\n{}\n{:?}", violation.law, violation.steps.join("\n"), violation.explored)
    });
    let Explored { states, transitions, depth, is_complete, .. } = explored;
    println!("{scope}: {states} states, {transitions} transitions, {depth} deep, complete: {is_complete}");
    explored
}

fn print_heard(heard: &[[u64; ROLES.len()]; KINDS.len()]) {
    println!("{:16}{:>14}{:>14}{:>14}{:>14}", "", ROLES[0], ROLES[1], ROLES[2], ROLES[3]);
    for (kind, [a, b, c, d]) in KINDS.iter().zip(heard) {
        println!("{kind:16}{a:14}{b:14}{c:14}{d:14}");
    }
}

#[test]
#[ignore = "as long as the scope takes"]
fn the_scope_asked_for() {
    let scope = std::env::var("QUORATE_SCOPE").unwrap_or_default();
    print_heard(&every_world(&scope).heard);
}

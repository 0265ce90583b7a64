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

/// Small enough for a debug build; together they show each message to each role that can get it.
#[test]
fn small_worlds_keep_the_laws() {
    let scopes = [
        "elections=2,duplicates=1",
        "elections=2,lapses=1",
        "elections=2,pre_votes=1",
        "elections=2,reorders=any",
        "elections=1,writes=1,breaks=1",
        "elections=1,writes=1,crashes=1",
        "elections=1,heartbeats=1",
        "elections=1,changes=1",
        "elections=1,writes=1,short_appends=1",
    ];
    let mut heard = [[0; ROLES.len()]; KINDS.len()];
    for scope in scopes {
        let explored = every_world(scope);
        assert!(explored.is_complete, "{scope}");
        heard.iter_mut().flatten().zip(explored.heard.iter().flatten()).for_each(|(sum, count)| *sum += count);
    }
    print_heard(&heard);
    for kind in ["PreVote", "PreVoteReply", "Vote", "Append"] {
        let at = KINDS.iter().position(|known| *known == kind).expect("a kind");
        let expected = if kind == "PreVoteReply" { 1..ROLES.len() } else { 0..ROLES.len() };
        expected.for_each(|role| assert!(heard[at][role] > 0, "no {kind} was heard by a {}", ROLES[role]));
    }
    for (kind, role) in [("VoteReply", 2), ("Appended", 3), ("Conflict", 3), ("Heartbeat", 0), ("HeartbeatReply", 3)] {
        let at = KINDS.iter().position(|known| *known == kind).expect("a kind");
        assert!(heard[at][role] > 0, "no {kind} was heard by a {}", ROLES[role]);
    }
}

#[test]
fn two_elections_and_a_write_keep_the_laws() {
    assert!(every_world("elections=2,writes=1").is_complete);
}

#[test]
#[ignore = "as long as the scope takes"]
fn the_scope_asked_for() {
    let scope = std::env::var("QUORATE_SCOPE").unwrap_or_default();
    print_heard(&every_world(&scope).heard);
}

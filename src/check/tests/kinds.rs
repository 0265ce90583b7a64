//! Each way to break the word, in as few operations as show it, and what passes beside it.

use super::*;
use crate::check::sequence::{Kept, Violation, check};

/// The violation of a history on a store of its own, with its sentence.
#[track_caller]
fn broken(history: &[Operation]) -> (Violation, String) {
    let violation = check(history, false).expect_err("this history has a violation");
    let text = violation.to_string();
    (violation, text)
}

#[track_caller]
fn kept(history: &[Operation]) -> Kept {
    check(history, false).unwrap_or_else(|violation| panic!("a false alarm: {violation}"))
}

fn one() -> Operation {
    operation(10, 20, put("a", "1"), done(2, Reply::Put))
}

#[test]
fn nothing_at_all_is_no_violation() {
    assert_eq!(kept(&[]), Kept::default());
    let empty = operation(1, 2, get("a"), done(1, got(&[])));
    assert_eq!(kept(&[empty]).to_string(), "the store kept its word up to revision 1");
}

#[test]
fn an_answer_to_another_question() {
    for (call, reply, why) in [
        (get("a"), Reply::Put, "another kind"),
        (get("a"), got(&[pair("b", "1", 2, 2, 1)]), "not asked for"),
        (get_all(), got(&[pair("b", "1", 2, 2, 1), pair("a", "1", 2, 2, 1)]), "not in order"),
        (get("a"), got(&[pair("a", "1", 3, 2, 1)]), "don't go together"),
        (get("a"), got(&[pair("a", "1", 1, 1, 1)]), "nothing can have this revision"),
        (delete("a"), Reply::Deleted(2), "so many"),
        (txn(vec![], vec![get("a")], vec![]), Reply::Txn(true, vec![]), "another number"),
    ] {
        let (violation, text) = broken(&[operation(1, 2, call, done(5, reply))]);
        assert!(matches!(violation, Violation::WrongShape { .. }) && text.contains(why), "{text}");
    }
    // The first write of an empty store has revision 2.
    assert!(matches!(broken(&[operation(1, 2, put("a", "1"), done(1, Reply::Put))]).0, Violation::WrongShape { .. }));
}

#[test]
fn two_writes_at_one_revision() {
    let other = operation(11, 21, put("b", "2"), done(2, Reply::Put));
    let (violation, text) = broken(&[one(), other]);
    assert!(matches!(violation, Violation::SharedRevision { revision: 2, .. }), "{text}");
    // Two of unknown outcome, each shown with the same revision.
    let both = got(&[pair("a", "1", 2, 2, 1), pair("b", "2", 2, 2, 1)]);
    let history = [
        operation(1, 2, put("a", "1"), unknown()),
        operation(1, 2, put("b", "2"), unknown()),
        operation(3, 4, get_all(), done(2, both)),
    ];
    assert!(matches!(broken(&history).0, Violation::SharedRevision { revision: 2, .. }));
}

#[test]
fn a_write_below_what_was_shown_before_it() {
    let later = operation(30, 40, put("b", "2"), done(2, Reply::Put));
    let earlier = operation(10, 20, put("a", "1"), done(3, Reply::Put));
    let (violation, text) = broken(&[earlier.clone(), later]);
    assert!(matches!(violation, Violation::WriteInThePast { revision: 2, .. }));
    assert_eq!(
        text,
        "`put b = 2` by client 30 (0.000 to 0.000 ms, revision 2) was done at revision 2, which \
         `put a = 1` by client 10 (0.000 to 0.000 ms, revision 3) had shown before it was asked for"
    );
    // Side by side either order will do.
    kept(&[earlier, operation(20, 40, put("b", "2"), done(2, Reply::Put))]);
}

#[test]
fn a_read_of_a_write_that_was_not_asked_for_yet() {
    let read = operation(1, 5, get("a"), done(2, got(&[pair("a", "1", 2, 2, 1)])));
    assert!(matches!(broken(&[one(), read.clone()]).0, Violation::WriteInThePast { .. }));
    // Of unknown outcome it may be done later, but not earlier.
    let unknown_one = operation(10, 20, put("a", "1"), unknown());
    assert!(matches!(broken(&[unknown_one, read]).0, Violation::WriteInThePast { .. }));
    // Serializable reads may be late, never early.
    let early = operation(1, 5, serializable("a"), done(2, got(&[pair("a", "1", 2, 2, 1)])));
    assert!(matches!(broken(&[one(), early]).0, Violation::WriteInThePast { .. }));
}

#[test]
fn a_stale_read() {
    let stale = |call| operation(30, 40, call, done(1, got(&[])));
    let (violation, text) = broken(&[one(), stale(get("a"))]);
    assert!(matches!(violation, Violation::StaleRead { .. }) && text.starts_with("a stale read: "), "{text}");
    kept(&[one(), stale(serializable("a"))]);
    // A delete that found nothing is as good as a read.
    let blind = operation(30, 40, delete("a"), done(1, Reply::Deleted(0)));
    assert!(matches!(broken(&[one(), blind]).0, Violation::StaleRead { .. }));
    // What a serializable read has shown binds linearizable ones.
    let shown = operation(12, 14, serializable("a"), done(2, got(&[pair("a", "1", 2, 2, 1)])));
    let late = operation(15, 16, get("a"), done(1, got(&[])));
    assert!(matches!(broken(&[one(), shown, late]).0, Violation::StaleRead { .. }));
}

#[test]
fn a_read_of_the_future() {
    let read = operation(30, 40, get("a"), done(2, got(&[pair("a", "1", 3, 3, 1)])));
    assert!(matches!(broken(&[one(), read]).0, Violation::ReadOfTheFuture { revision: 3, .. }));
    let asked = Call::Get { key: "a".into(), end: None, revision: 9, serializable: false };
    let read = operation(30, 40, asked, done(2, got(&[])));
    assert!(matches!(broken(&[one(), read]).0, Violation::ReadOfTheFuture { revision: 9, .. }));
}

#[test]
fn a_phantom_revision() {
    let read = operation(30, 40, get("a"), done(3, got(&[pair("a", "1", 2, 2, 1)])));
    let (violation, text) = broken(&[one(), read.clone()]);
    assert!(matches!(violation, Violation::Phantom { revision: 3, .. }) && text.starts_with("a phantom: "), "{text}");
    // Somebody may have made it; not if the key that it would have changed was seen unchanged.
    let somebody = |call| operation(5, 6, call, unknown());
    assert_eq!(kept(&[somebody(put("b", "2")), one(), read.clone()]).unidentified, 0);
    assert!(matches!(broken(&[somebody(put("a", "2")), one(), read.clone()]).0, Violation::Phantom { .. }));
    // Refused, or asked for later, it was none of them.
    let no = operation(5, 6, put("b", "2"), refused());
    assert!(matches!(broken(&[no, one(), read.clone()]).0, Violation::Phantom { .. }));
    let later = operation(41, 42, put("b", "2"), unknown());
    assert!(matches!(broken(&[one(), read.clone(), later]).0, Violation::Phantom { .. }));
    // One operation fills one hole.
    let newer = operation(50, 60, get("a"), done(4, got(&[pair("a", "1", 2, 2, 1)])));
    assert!(matches!(broken(&[somebody(put("b", "2")), one(), newer]).0, Violation::Phantom { .. }));
    // Others may write to a shared store.
    assert!(check(&[one(), read], true).is_ok());
}

#[test]
fn a_hole_that_one_of_several_made() {
    let read = |call, reply: &[Pair]| operation(30, 40, call, done(3, got(reply)));
    let history = [
        operation(1, 2, put("b", "2"), unknown()),
        operation(1, 2, put("c", "3"), unknown()),
        one(),
        read(get("a"), &[pair("a", "1", 2, 2, 1)]),
    ];
    assert_eq!(kept(&history).unidentified, 1);
    // A later answer tells.
    let mut told = history.to_vec();
    told.push(read(get("b"), &[]));
    assert_eq!(kept(&told).unidentified, 0, "it was not b, so it was c");
    told.push(read(get("c"), &[]));
    assert!(matches!(broken(&told).0, Violation::Phantom { revision: 3, .. }));
}

#[test]
fn a_value_that_nobody_wrote() {
    let read = operation(30, 40, get("a"), done(2, got(&[pair("a", "x", 2, 2, 1)])));
    let (violation, text) = broken(&[one(), read]);
    assert!(matches!(violation, Violation::PhantomValue { .. }) && text.contains("nobody wrote a = x"), "{text}");
    let read = operation(30, 40, get("b"), done(3, got(&[pair("b", "x", 3, 3, 1)])));
    assert!(matches!(broken(&[one(), read]).0, Violation::PhantomValue { .. }));
}

#[test]
fn a_refused_write_that_is_there() {
    let no = operation(1, 2, put("a", "no"), refused());
    let read = operation(30, 40, get("a"), done(2, got(&[pair("a", "no", 2, 2, 1)])));
    let (violation, text) = broken(&[no.clone(), read]);
    assert!(matches!(violation, Violation::NotDoneApplied { revision: 2, .. }), "{text}");
    // In the place of another.
    let read = operation(30, 40, get("a"), done(2, got(&[pair("a", "no", 2, 2, 1)])));
    assert!(matches!(broken(&[no, one(), read]).0, Violation::NotDoneApplied { .. }));
    // The branch that a transaction did not take is not there either.
    let other = txn(vec![compare("a", Target::Version(1))], vec![put("b", "then")], vec![]);
    let history = [
        operation(1, 2, other, done(1, Reply::Txn(false, vec![]))),
        operation(3, 4, get("b"), done(2, got(&[pair("b", "then", 2, 2, 1)]))),
    ];
    assert!(matches!(broken(&history).0, Violation::NotDoneApplied { .. }));
}

#[test]
fn a_write_done_twice() {
    let read = |at, version| operation(at, at + 1, get("a"), done(3, got(&[pair("a", "1", 3, 2, version)])));
    let (violation, text) = broken(&[one(), read(30, 2)]);
    assert!(matches!(violation, Violation::AppliedTwice { first: 2, second: 3, .. }), "{text}");
    // Of unknown outcome: once is allowed.
    let open = operation(10, 20, put("a", "1"), unknown());
    let first = operation(22, 24, get("a"), done(2, got(&[pair("a", "1", 2, 2, 1)])));
    kept(&[open.clone(), first.clone()]);
    assert!(matches!(broken(&[open, first, read(30, 2)]).0, Violation::AppliedTwice { .. }));
}

#[test]
fn an_acknowledged_write_that_is_missing() {
    let second = operation(22, 24, put("a", "2"), done(3, Reply::Put));
    let read = operation(30, 40, get("a"), done(3, got(&[pair("a", "1", 2, 2, 1)])));
    let (violation, text) = broken(&[one(), second, read]);
    assert!(matches!(violation, Violation::Missing { .. }), "{text}");
    assert!(text.contains("shows a as if `put a = 2` by client 22"), "{text}");
    let gone = operation(30, 40, get_all(), done(2, got(&[])));
    assert!(matches!(broken(&[one(), gone]).0, Violation::Missing { .. }));
    // A delete counts as well, and serializable reads have no excuse at their own revision.
    let deleted = operation(22, 24, delete("a"), done(3, Reply::Deleted(1)));
    let read = operation(30, 40, serializable("a"), done(3, got(&[pair("a", "1", 2, 2, 1)])));
    assert!(matches!(broken(&[one(), deleted, read]).0, Violation::Missing { .. }));
}

#[test]
fn half_a_transaction() {
    let both = txn(vec![], vec![put("a", "1"), put("b", "2")], vec![]);
    let read = operation(30, 40, get_all(), done(2, got(&[pair("a", "1", 2, 2, 1)])));
    let whole = operation(1, 2, both.clone(), done(2, Reply::Txn(true, vec![Reply::Put, Reply::Put])));
    assert!(matches!(broken(&[whole, read.clone()]).0, Violation::Missing { .. }));
    // Of unknown outcome it is done or not, and not by halves.
    let (violation, text) = broken(&[operation(1, 2, both, unknown()), read]);
    assert!(matches!(violation, Violation::WrongContent { .. }), "{text}");
}

#[test]
fn a_pair_with_wrong_numbers() {
    let second = operation(22, 24, put("a", "2"), done(3, Reply::Put));
    let read = operation(30, 40, get("a"), done(3, got(&[pair("a", "2", 3, 3, 1)])));
    let (violation, text) = broken(&[one(), second, read]);
    assert!(matches!(violation, Violation::WrongContent { .. }), "{text}");
    assert!(text.ends_with("leave a = 2 (revision 3, created at 2, version 2)"), "{text}");
}

#[test]
fn a_read_of_an_old_revision() {
    let second = operation(22, 24, put("a", "2"), done(3, Reply::Put));
    let old = |value| {
        let call = Call::Get { key: "a".into(), end: None, revision: 2, serializable: false };
        operation(30, 40, call, done(3, got(&[pair("a", value, 2, 2, 1)])))
    };
    kept(&[one(), second.clone(), old("1")]);
    assert!(matches!(
        broken(&[one(), second, old("2")]).0,
        Violation::PhantomValue { .. } | Violation::AppliedTwice { .. }
    ));
}

#[test]
fn a_transaction_in_the_wrong_branch() {
    let choose = |held| {
        let call = txn(vec![compare("a", Target::Value("1".into()))], vec![put("b", "t")], vec![put("b", "e")]);
        operation(30, 40, call, done(3, Reply::Txn(held, vec![Reply::Put])))
    };
    kept(&[one(), choose(true)]);
    let (violation, text) = broken(&[one(), choose(false)]);
    assert!(matches!(violation, Violation::WrongBranch { .. }), "{text}");
    // Nested compares look at the store before the transaction, too.
    let nested = |held| {
        let inner = txn(vec![compare("a", Target::Version(1))], vec![], vec![get("c")]);
        let replies = vec![Reply::Put, Reply::Txn(held, if held { vec![] } else { vec![got(&[])] })];
        operation(30, 40, txn(vec![], vec![put("a", "2"), inner], vec![]), done(3, Reply::Txn(true, replies)))
    };
    kept(&[one(), nested(true)]);
    assert!(matches!(broken(&[one(), nested(false)]).0, Violation::WrongBranch { .. }));
    // Of unknown outcome: what is shown can't have come from it.
    let call = txn(vec![compare("a", Target::Version(7))], vec![put("b", "t")], vec![]);
    let history = [
        one(),
        operation(30, 40, call, unknown()),
        operation(50, 60, get("b"), done(3, got(&[pair("b", "t", 3, 3, 1)]))),
    ];
    assert!(matches!(broken(&history).0, Violation::WrongBranch { .. }));
}

#[test]
fn a_delete_that_counts_wrongly() {
    let range = Call::Delete { key: "a".into(), end: Some("z".into()) };
    let history = [one(), operation(30, 40, range, done(3, Reply::Deleted(2)))];
    let (violation, text) = broken(&history);
    assert!(matches!(violation, Violation::WrongCount { said: 2, low: 1, high: 1, .. }), "{text}");
    assert!(text.ends_with("said that it removed 2 keys, and there were 1"), "{text}");
}

/// What the checks may not do: accuse a store for what nobody can know.
#[test]
fn unknown_outcomes_may_be_early_late_or_never() {
    let open = |call| operation(1, 2, call, unknown());
    let at = |at, revision, reply: &[Pair]| operation(at, at + 1, get("a"), done(revision, got(reply)));
    let (first, second) = (pair("a", "1", 2, 2, 1), pair("a", "2", 3, 2, 2));
    let write = operation(10, 20, put("a", "1"), done(2, Reply::Put));
    kept(&[open(put("a", "2")), write.clone(), at(30, 2, std::slice::from_ref(&first))]);
    kept(&[open(put("a", "2")), write.clone(), at(30, 2, std::slice::from_ref(&first)), at(40, 3, &[second])]);
    kept(&[open(delete("a")), write.clone(), at(30, 2, std::slice::from_ref(&first)), at(40, 3, &[])]);
    // Hidden under a later write: only the version tells.
    let hidden = [
        open(put("a", "2")),
        write.clone(),
        operation(30, 40, put("a", "3"), done(4, Reply::Put)),
        at(50, 4, &[pair("a", "3", 4, 2, 3)]),
    ];
    kept(&hidden);
    // Created by one of them.
    let created = [
        open(put("a", "0")),
        operation(10, 20, put("a", "1"), done(3, Reply::Put)),
        at(30, 3, &[pair("a", "1", 3, 2, 2)]),
    ];
    kept(&created);
}

#[test]
fn the_verdict_counts_and_names_the_lines() {
    let stale = operation(30, 40, get("a"), done(1, got(&[])));
    let more = [
        operation(50, 60, serializable("a"), done(1, got(&[]))),
        operation(50, 60, put("b", "x"), refused()),
        operation(50, 60, put("b", "y"), unknown()),
    ];
    let history: Vec<Operation> = [stale, one()].into_iter().chain(more).collect();
    let verdict = judge(&history, Options::default());
    let counts = Counts {
        operations: 5,
        writes: 1,
        linearizable_reads: 1,
        serializable_reads: 1,
        refused: 1,
        unknown: 1,
        clients: 3,
    };
    assert_eq!(verdict.counts, counts);
    assert_eq!(verdict.search, None);
    assert!(!verdict.is_kept());
    assert_eq!(verdict.places(), [1, 0], "in the order of time");
}

#[test]
fn the_search_names_the_first_answer_that_no_order_explains() {
    let history = [
        one(),
        operation(12, 50, get("a"), done(2, got(&[pair("a", "1", 2, 2, 1)]))),
        operation(30, 40, get("a"), done(1, got(&[]))),
        operation(60, 70, get("a"), done(1, got(&[]))),
    ];
    let linear::Outcome::Violation(violation) = linear::check(&history, false, 1000) else {
        panic!("there is no order");
    };
    assert_eq!((violation.blocked.place, violation.beside.len()), (2, 1));
    assert_eq!(linear::check(&history[..2], false, 1000), linear::Outcome::Linearizable);
    assert_eq!(linear::check(&history[..2], false, 1), linear::Outcome::Unknown(2));
}

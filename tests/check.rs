//! `quorate check` as its user has it, on histories in tests/histories.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

fn check(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.arg("check").args(args).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/histories"));
    // A variable of the machine must not configure a test.
    for (name, _) in std::env::vars_os() {
        if ["ETCDCTL_", "QUORATE_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn assert_says(args: &[&str], code: i32, phrases: &[&str]) -> String {
    let output = check(args);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for phrase in phrases {
        assert!(said.contains(phrase), "{args:?} does not say {phrase:?}: {said}");
    }
    said
}

#[test]
fn a_store_that_kept_its_word() {
    let said = assert_says(&["kept.jsonl"], 0, &[]);
    let expected = "\
kept.jsonl: KEPT its word up to revision 4
  7 operations by 3 clients: 3 writes, 2 linearizable reads, 1 serializable; 1 refused, 0 of unknown outcome
  search: there is an order in which every answer is right
";
    assert_eq!(said, expected);
    assert_says(&["unknown.jsonl", "kept.jsonl"], 0, &["3 of unknown outcome", "kept.jsonl: KEPT"]);
    assert_says(&["kept.jsonl", "--search-states", "1"], 0, &["no order was found or ruled out within 1 state"]);
}

#[test]
fn a_store_that_did_not() {
    assert_says(&["stale_read.jsonl"], 1, &["BROKEN", "a stale read: `get b`", "line 3: {", "line 4: {", "no order"]);
    assert_says(&["lost_write.jsonl"], 1, &["an acknowledged write is missing", "as if `put b = 2`", "line 3: {"]);
    assert_says(
        &["kept.jsonl", "refused_write_applied.jsonl", "--search-states=0"],
        1,
        &["KEPT", "was said not to be done, and was done at revision 4", "line 4: {"],
    );
}

#[test]
fn revisions_that_others_made() {
    assert_says(&["others_write.jsonl"], 1, &["a phantom: no write explains revision 2,", "judge with --shared"]);
    assert_says(&["others_write.jsonl", "--shared"], 0, &["KEPT its word up to revision 112"]);
}

#[test]
fn what_cannot_be_read_is_said_with_its_line() {
    assert_says(&["kept.jsonl", "unreadable.jsonl"], 3, &["unreadable.jsonl, line 2: unknown variant `frob`", "fix: "]);
    assert_says(&["nowhere.jsonl"], 3, &["can't read nowhere.jsonl", "fix: "]);
    assert_says(&["/dev/null"], 3, &["/dev/null has no operation", "fix: "]);
    assert_says(&[], 128, &["<FILE>"]);
}

#[test]
fn a_cluster_that_does_not_answer_is_not_judged() {
    let said = assert_says(&["live", "--endpoints", "127.0.0.1:1"], 2, &["no endpoint could be reached", "fix: "]);
    assert!(!said.contains("KEPT"), "{said}");
}

#[test]
fn a_verdict_for_programs() {
    let said = assert_says(&["stale_read.jsonl", "-w", "json"], 1, &[]);
    let document: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(document["file"], "stale_read.jsonl");
    let verdict = &document["verdict"];
    assert_eq!((&verdict["kept"], &verdict["search"]), (&false.into(), &"violation".into()));
    assert_eq!(verdict["lines"], serde_json::json!([3, 4]));
    assert_eq!(verdict["witnesses"][1]["call"]["get"]["key"], "b");
}

#[test]
fn a_history_from_stdin() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    let mut child = command.args(["check", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let history = include_bytes!("histories/kept.jsonl");
    child.stdin.take().unwrap().write_all(history).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("stdin: KEPT"));
}

//! `quorate bench compare` in short: that it starts, measures and ends clusters of two servers. No figure is judged here.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::path::{Path, PathBuf};
use std::process::Command;

mod support;

fn compare(dir: &Path, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["bench", "compare"]).args(args).current_dir(dir).env("NO_COLOR", "1").output().unwrap()
}

/// Whose working directory is below `dir`, or who has an argument that names it.
fn processes_of(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let names_it = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&*dir.to_string_lossy())
    };
    entries.filter(names_it).map(|entry| entry.path()).collect()
}

#[test]
fn two_servers_are_measured_side_by_side() {
    let Some(etcd) = support::etcd_bin_dir("two_servers_are_measured_side_by_side") else { return };
    let dir = tempfile::tempdir().unwrap();
    let ours = format!("ours={} serve", env!("CARGO_BIN_EXE_quorate"));
    let theirs = format!("etcd={}", etcd.join("etcd").display());
    let args = "--rounds 1 --duration 300ms --warmup 50ms --only put-64,get-64 --accidents 1 --keys 2000 -w json \
                --plot ratios.svg --out all.json --dir";
    let mut args: Vec<&str> = args.split_whitespace().collect();
    let data = dir.path().join("data");
    args.extend([data.to_str().unwrap(), "--server", &ours, "--server", &theirs]);
    let output = compare(dir.path(), &args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = report["lines"].as_array().unwrap();
    for line in lines {
        let medians = line["medians"].as_array().unwrap();
        assert_eq!(medians.len(), 2, "{line}");
        assert!(medians.iter().all(|median| median.as_f64().is_some_and(|median| median >= 0.0)), "{line}");
    }
    let has = |what: &str| lines.iter().any(|line| line["what"].as_str().unwrap().contains(what));
    for what in ["put-64", "get-64 p99", "server CPU", "leader killed", "leader frozen", "restart", "memory"] {
        assert!(has(what), "no {what} in {report}");
    }
    let limit = lines.iter().find(|line| line["what"] == "get-64").map(|line| line["limit"].as_array().unwrap().len());
    assert_eq!((report["reference"].as_str(), limit), (Some("etcd"), Some(1)));
    assert!(std::fs::read_to_string(dir.path().join("ratios.svg")).unwrap().contains("get-64"));
    assert!(std::fs::read(dir.path().join("all.json")).unwrap() == output.stdout);
    // Nothing is left: neither processes nor data.
    assert_eq!(processes_of(dir.path()), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_compared_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    for (args, sentence) in [
        (&["--server", "etcd"][..], "NAME=COMMAND"),
        (&["--server", "x=/nowhere/server"], "/nowhere/server"),
        (&["--server", "x=true", "--only", "put-65"], "put-65"),
        (&["--server", "x=true"], "x: a member has ended"),
    ] {
        let output = compare(dir.path(), args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(sentence), "{args:?}: {stderr}");
        assert_eq!(processes_of(dir.path()), Vec::<PathBuf>::new());
    }
}

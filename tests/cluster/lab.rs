//! `quorate dev` as its user has it: a lab, a second terminal, a dead leader.

use crate::ended::{Ended, ended, quorate, wait};
use crate::load::eventually;
use crate::strangers::spawn;
use crate::support::lab_port;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

struct Terminal<'a> {
    state_home: &'a Path,
}

impl Terminal<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = quorate();
        command.args(line.split(' ')).env("XDG_STATE_HOME", self.state_home).env("HOME", self.state_home);
        command
    }

    fn run(&self, line: &str) -> Ended {
        ended(&mut self.command(line))
    }

    /// Runs a command that must succeed.
    #[track_caller]
    fn ok(&self, line: &str, phrases: &[&str]) -> String {
        let ended = self.run(line);
        ended.assert(0, phrases);
        ended.said
    }

    /// The process ids of the members, as the lab's file has them.
    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.state_home.join("quorate/dev/default.json")).unwrap();
        let lab: serde_json::Value = serde_json::from_str(&text).unwrap();
        lab["nodes"].as_array().unwrap().iter().map(|node| node["pid"].as_i64().unwrap() as i32).collect()
    }
}

/// Runs a command whose output nobody reads: it ends as one whose reader has seen enough, without a word.
#[track_caller]
fn unread(command: &mut Command) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdin(Stdio::null()).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(1), ""), "{command:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_is_started_used_broken_and_ended() {
    let home = tempfile::tempdir().unwrap();
    let terminal = Terminal { state_home: home.path() };
    terminal.run("dev ps").assert(1, &["no lab is running", "quorate dev"]);

    let log = home.path().join("dev.log");
    let lab = spawn(&mut terminal.command(&format!("dev --port {}", lab_port())), &log);
    eventually("the lab is ready", async || fs::read_to_string(&log).is_ok_and(|said| said.contains("ready in"))).await;
    let banner = fs::read_to_string(&log).unwrap();
    assert!(banner.contains("● leader") && banner.contains("quorate put hello world"), "{banner}");

    terminal.ok("put hello world", &["OK"]);
    terminal.ok("get hello", &["hello world"]);
    terminal.ok("status", &["HEALTHY", "can lose 1 more member", "n1", "n2", "n3"]);
    for line in ["status", "dev ps", "dev ps -w json", "get hello"] {
        unread(&mut terminal.command(line));
    }
    let killed = terminal.ok(
        "dev kill leader",
        &["killed (SIGKILL, it was the leader", "detect", "elect", "recover", "writes were unavailable for"],
    );
    assert!(killed.contains("· 0 acknowledged writes lost ("), "{killed}");
    println!("{killed}");
    let name = killed.split_whitespace().next().unwrap();
    terminal.ok("get hello", &["hello world"]);
    terminal.ok("status", &["can lose 0 more members"]);
    terminal.run(&format!("dev kill {name}")).assert(1, &[name]);
    terminal.ok(&format!("dev start {name}"), &[name, "started", "caught up in"]);
    let paused =
        terminal.ok("dev pause follower", &["paused (SIGSTOP, it was a follower)", "0 acknowledged writes lost"]);
    let name = paused.split_whitespace().next().unwrap();
    terminal.ok(&format!("dev resume {name}"), &[name, "resumed"]);
    // On a busy machine its heir may not be there in time, and it goes all the same: then another one is told to stop.
    let goes = || terminal.ok("dev stop leader", &["stopped (SIGTERM", "0 acknowledged writes lost"]);
    let handed_over = (0..5).any(|_| {
        let said = goes();
        let handed_over = said.contains("handed leadership over");
        if !handed_over {
            let name = said.split_whitespace().next().unwrap();
            terminal.ok(&format!("dev start {name}"), &[name, "started"]);
        }
        handed_over
    });
    assert!(handed_over, "no leader hands over");
    terminal.ok("dev ps", &["stopped", "leader"]);

    let pids = terminal.pids();
    terminal.ok("dev down", &["the lab is down", "deleted"]);
    let status = tokio::task::block_in_place(|| wait(lab)).expect("the foreground ends with its lab");
    assert_eq!(status.code(), Some(0));
    terminal.run("dev ps").assert(1, &["no lab is running"]);
    assert_none_runs(&pids);
    let left: Vec<_> = fs::read_dir(home.path().join("quorate/dev")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["default.lock"], "what a throwaway lab leaves behind");
}

/// However its terminal goes, no member stays behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_lab_whose_terminal_is_killed_leaves_no_process() {
    let home = tempfile::tempdir().unwrap();
    let terminal = Terminal { state_home: home.path() };
    for signal in [Signal::KILL, Signal::INT] {
        let log = home.path().join(format!("{signal:?}.log"));
        let lab = spawn(&mut terminal.command(&format!("dev --port {}", lab_port())), &log);
        eventually("the lab is ready", async || fs::read_to_string(&log).is_ok_and(|said| said.contains("ready in")))
            .await;
        let pids = terminal.pids();
        kill_process(Pid::from_child(&lab), signal).unwrap();
        tokio::task::block_in_place(|| wait(lab)).expect("it ends");
        eventually("no member runs", async || pids.iter().all(|pid| !runs(*pid))).await;
    }
}

fn runs(pid: i32) -> bool {
    // A zombie has ended; who has to bury it is another matter.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn assert_none_runs(pids: &[i32]) {
    let left: Vec<&i32> = pids.iter().filter(|pid| **pid > 0 && runs(**pid)).collect();
    assert!(left.is_empty(), "processes left: {left:?}");
}

/// Faults, a history, a verdict; and nothing stays behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_a_broken_lab_is_recorded_and_judged() {
    let home = tempfile::tempdir().unwrap();
    let terminal = Terminal { state_home: home.path() };
    let file = home.path().join("history.jsonl");
    let line = format!("check live --duration 5s --faults kill --seed 1 --record {}", file.display());
    let said = terminal.ok(&line, &["KEPT its word", "× kill", "0 acknowledged writes lost (read back from n1 n2 n3)"]);
    println!("{said}");
    terminal.ok(&format!("check {}", file.display()), &["KEPT its word"]);
    let left: Vec<_> = fs::read_dir(home.path().join("quorate/dev")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["default.lock"]);
    terminal.run("check live --faults kill --endpoints 127.0.0.1:1").assert(128, &["leave out --faults"]);
}

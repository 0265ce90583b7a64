//! The commands that coordinate and copy, against real servers: what is printed is compared with etcdctl's in
//! `etcd_compat`; here is what they do when members, commands and holders die.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use quorate::client::Told;
use quorate::proto::etcdserverpb as pb;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use support::{Cluster, etcd_bin_dir};

/// How long anything here may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of ours and, if it is there, one of etcd's.
async fn clusters(test: &str, size: usize) -> Vec<Cluster> {
    let mut clusters = vec![Cluster::steady(size).await];
    if let Some(dir) = etcd_bin_dir(test) {
        clusters.push(Cluster::etcd(&dir, size).await);
    }
    clusters
}

fn quorate(cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["--endpoints", &cluster.endpoints().join(",")]).args(args);
    command.env_remove("ETCDCTL_ENDPOINTS").env_remove("QUORATE_ENDPOINTS").env("NO_COLOR", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(cluster: &Cluster, args: &[&str]) -> Output {
    quorate(cluster, args).output().unwrap()
}

/// Runs a command with `input` on its stdin.
fn feed(cluster: &Cluster, args: &[&str], input: &str) -> Output {
    let mut child = quorate(cluster, args).spawn().unwrap();
    // A command that refuses its arguments reads nothing.
    _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn ok(cluster: &Cluster, args: &[&str]) -> String {
    let output = run(cluster, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command that runs beside the test, and the lines that it prints.
struct Beside {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Beside {
    fn start(cluster: &Cluster, args: &[&str]) -> Beside {
        let mut child = quorate(cluster, args).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Beside { child, lines }
    }

    /// The next line it prints; waits for it.
    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ends(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (status.code(), text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_the_member_that_it_asked() {
    for mut cluster in clusters("a_watch_outlives_the_member_that_it_asked", 3).await {
        let client = cluster.client();
        let mut watch = client.watch(pb::WatchCreateRequest { key: "k".into(), ..Default::default() });
        assert!(matches!(watch.next().await.unwrap(), Told::Open));
        let writer = cluster.client_of(2);
        let put =
            |value: i64| pb::PutRequest { key: "k".into(), value: value.to_string().into(), ..Default::default() };
        let (mut written, mut seen, mut lost, mut opened) = (0, Vec::new(), 0, 1);
        writer.put(put(written)).await.unwrap();
        while seen.len() < 6 {
            match tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap() {
                Told::Open => opened += 1,
                Told::Lost(_) => {
                    lost += 1;
                    // Nobody watches while this happens.
                    while written < 4 {
                        written += 1;
                        while writer.put(put(written)).await.is_err() {}
                    }
                }
                Told::News(news) => {
                    seen.extend(news.events.iter().map(|event| event.kv.as_ref().unwrap().value.clone()));
                    // A put that was not answered may be done and is done again: then its value is there twice, at two
                    // revisions.
                    seen.dedup();
                    if written == 0 {
                        cluster.kill(0);
                    } else if seen.len() == 5 && written == 4 {
                        written += 1;
                        while writer.put(put(written)).await.is_err() {}
                    }
                }
                Told::End(answer, end) => panic!("{end:?}: {answer:?}"),
            }
        }
        let expected: Vec<String> = (0..=written).map(|value| value.to_string()).collect();
        assert_eq!(texts(&seen), expected);
        assert!(lost >= 1 && opened >= 2, "lost {lost} times, opened {opened} times");
    }
}

fn texts(values: &[bytes::Bytes]) -> Vec<String> {
    values.iter().map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_held_by_one_and_freed_at_every_end() {
    for cluster in clusters("a_lock_is_held_by_one_and_freed_at_every_end", 1).await {
        let free = || ok(&cluster, &["get", "l/", "--prefix", "--keys-only"]).is_empty();

        let output = run(&cluster, &["lock", "l", "--", "sh", "-c", "exit 7"]);
        assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
        assert!(free());
        assert_eq!(run(&cluster, &["lock", "l", "--", "sh", "-c", "kill -9 $$"]).status.code(), Some(255));
        assert!(free());

        // Three in line: the first is told to stop while its command runs, the second while it waits.
        let mut first = Beside::start(&cluster, &["lock", "l", "--", "sh", "-c", "echo $ETCD_LOCK_REV; exec sleep 60"]);
        let first_revision: i64 = first.line().parse().unwrap();
        let second = Beside::start(&cluster, &["lock", "l", "--", "echo", "never"]);
        waiting(&cluster, 2).await;
        let mut third = Beside::start(&cluster, &["lock", "l", "--", "sh", "-c", "echo $ETCD_LOCK_REV; cat"]);
        waiting(&cluster, 3).await;
        second.signal(Signal::INT);
        let (code, text) = second.ends();
        assert_eq!((code, text.contains("interrupted")), (Some(1), true), "{text}");
        waiting(&cluster, 2).await;
        first.signal(Signal::TERM);
        assert_eq!(first.ends().0, Some(255), "its command was ended by the signal");
        let third_revision: i64 = third.line().parse().unwrap();
        assert!(first_revision < third_revision);
        drop(third.child.stdin.take());
        assert_eq!(third.ends().0, Some(0));
        assert!(free());
    }
}

/// Waits until so many stand in the line `l`.
async fn waiting(cluster: &Cluster, count: i64) {
    let client = cluster.client();
    let line = || pb::RangeRequest { key: "l/".into(), range_end: "l0".into(), ..Default::default() };
    let all = async {
        while client.range(line()).await.unwrap().count != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_the_lock_is_stopped() {
    for cluster in clusters("whoever_loses_the_lock_is_stopped", 1).await {
        let command = ["lock", "l", "--ttl", "3", "--", "sh", "-c", "echo $ETCD_LOCK_KEY; exec sleep 1000"];
        let mut holder = Beside::start(&cluster, &command);
        let key = holder.line();
        ok(&cluster, &["lease", "revoke", key.trim_start_matches("l/")]);
        let (code, text) = holder.ends();
        assert_eq!(code, Some(1));
        assert!(text.contains("session expired: the lease ran out or was revoked"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leads_when_the_leader_goes_and_others_see_it() {
    for cluster in clusters("the_next_leads_when_the_leader_goes_and_others_see_it", 1).await {
        let mut listener = Beside::start(&cluster, &["elect", "l", "--listen"]);
        let mut first = Beside::start(&cluster, &["elect", "l", "one"]);
        assert_eq!([first.line(), first.line()][1], "one");
        assert_eq!([listener.line(), listener.line()][1], "one");
        let mut second = Beside::start(&cluster, &["elect", "l", "two"]);
        waiting(&cluster, 2).await;
        first.signal(Signal::INT);
        assert_eq!(first.ends().0, Some(0));
        assert_eq!([second.line(), second.line()][1], "two");
        assert_eq!([listener.line(), listener.line()][1], "two");
        listener.signal(Signal::TERM);
        assert_eq!(listener.ends().0, Some(0));
        second.signal(Signal::TERM);
        assert_eq!(second.ends().0, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_repeats_everything_also_what_happened_while_the_destination_was_away() {
    const TEST: &str = "a_mirror_repeats_everything_also_what_happened_while_the_destination_was_away";
    let Some(dir) = etcd_bin_dir(TEST) else { return };
    let (source, mut destination) = (Cluster::etcd(&dir, 1).await, Cluster::etcd(&dir, 1).await);
    // More than one page and more than one transaction.
    let lines: String = (0..300).map(|n| format!("{{\"key\":\"a/{n:03}\",\"value\":\"{n}\"}}\n")).collect();
    assert!(feed(&source, &["import", "-"], &lines).status.success());
    ok(&source, &["put", "other", "1"]);
    ok(&destination, &["put", "own", "1"]);
    let args = ["mirror", &destination.endpoints().join(","), "--prefix", "a/", "--dest-prefix", "b/"];
    let mut mirror = quorate(&source, &args).spawn().unwrap();
    let mut talk = BufReader::new(mirror.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(talk.any(|line| line.starts_with("copied 300 keys as of revision")));

    destination.kill(0);
    ok(&source, &["put", "a/new", "x"]);
    assert!(talk.any(|line| line.contains("trying again")));
    ok(&source, &["del", "a/0", "--prefix"]);
    ok(&source, &["put", "a/last", "y"]);
    destination.start(0);
    destination.ready().await;
    let client = destination.client();
    let last = || pb::RangeRequest { key: "b/last".into(), ..Default::default() };
    let arrived = async {
        while client.range(last()).await.unwrap().kvs.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.unwrap();
    mirror.kill().unwrap();
    mirror.wait().unwrap();
    let (theirs, ours) = (ok(&destination, &["export", "b/"]), ok(&source, &["export", "a/"]));
    assert_eq!(theirs, ours.replace("\"a/", "\"b/"));
    assert_eq!(ours.lines().count(), 202);
    assert_eq!(ok(&destination, &["get", "own", "--print-value-only"]), "1\n");
    assert_eq!(ok(&destination, &["get", "other", "--print-value-only"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_go_back_to_the_last_compaction() {
    let Some(dir) = etcd_bin_dir("histories_go_back_to_the_last_compaction") else { return };
    let cluster = Cluster::etcd(&dir, 1).await;
    for args in [&["put", "k", "1"][..], &["put", "k", "2"], &["del", "k"], &["put", "k", "3"], &["put", "x", "1"]] {
        ok(&cluster, args);
    }
    let rows = |text: String| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let all = rows(ok(&cluster, &["history", "k"]));
    let expected = [
        "       5        1  created  3",
        "       4        -  deleted",
        "       3        2  changed  2",
        "       2        1  created  1",
    ];
    assert_eq!(all, expected);
    ok(&cluster, &["compact", "3"]);
    assert_eq!(rows(ok(&cluster, &["history", "k"])), expected[..3]);
    ok(&cluster, &["del", "k"]);
    ok(&cluster, &["compact", "7"]);
    assert_eq!(ok(&cluster, &["history", "k"]), "no revision of it can be read\n");
    assert_eq!(ok(&cluster, &["history", "never"]), "no revision of it can be read\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_writes_what_is_different_and_nothing_of_a_bad_input() {
    for cluster in clusters("an_import_writes_what_is_different_and_nothing_of_a_bad_input", 1).await {
        let revision = || ok(&cluster, &["get", "any", "-w", "fields"]).lines().nth(2).unwrap().to_owned();
        let said = |output: Output| String::from_utf8(output.stdout).unwrap();
        let input = "{\"key\":\"a/b\",\"value\":\"1\"}\n{\"key_base64\":\"/w==\",\"value_base64\":\"AP8=\"}\n";
        let dry = feed(&cluster, &["import", "-", "--dry-run"], input);
        assert_eq!(said(dry), "would import 2 keys: 2 new, 0 changed, 0 the same already\n");
        assert_eq!(
            said(feed(&cluster, &["import", "-"], input)),
            "imported 2 keys: 2 new, 0 changed, 0 the same already\n"
        );
        assert_eq!(ok(&cluster, &["export"]), input);
        let before = revision();
        assert_eq!(
            said(feed(&cluster, &["import", "-"], input)),
            "imported 2 keys: 0 new, 0 changed, 2 the same already\n"
        );
        let bad =
            feed(&cluster, &["import", "-"], &format!("{{\"key\":\"c\",\"value\":\"1\"}}\n{{\"key\":\"d\"}}\n{input}"));
        assert_eq!(bad.status.code(), Some(3));
        assert!(stderr(&bad).contains("line 2: neither value nor value_base64"), "{}", stderr(&bad));
        assert_eq!(revision(), before);
        let changed = feed(&cluster, &["import", "-"], &input.replace("\"1\"", "\"2\""));
        assert_eq!(said(changed), "imported 2 keys: 0 new, 1 changed, 1 the same already\n");
        assert_eq!(ok(&cluster, &["ls", "a", "--tree"]), "a  1 key\n└── /  1 key\n    └── b\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_hands_over() {
    for cluster in clusters("the_leader_hands_over", 3).await {
        let leader = cluster.leader().await;
        let next = (leader + 1) % 3;
        let client = cluster.client();
        let id = |place: usize| {
            let (client, endpoint) = (client.clone(), cluster.nodes()[place].client.clone());
            async move { client.status(&endpoint).await.unwrap().header.unwrap().member_id }
        };
        let (from, to) = (id(leader).await, id(next).await);
        // Asked at a follower only: where the leader is is found out.
        let endpoint = cluster.nodes()[next].client.clone();
        let moved = ok(&cluster, &["--endpoints", &endpoint, "move-leader", &format!("{to:x}")]);
        assert_eq!(moved, format!("Leadership transferred from {from:x} to {to:x}\n"));
        assert_eq!(cluster.leader().await, next);
    }
}

fn bare(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate")).args(args).env("NO_COLOR", "1").output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_back_from_a_snapshot_at_a_revision_that_nobody_has_seen() {
    let old = Cluster::quorate(1).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup.snap").display().to_string();
    for n in 0..300 {
        ok(&old, &["put", &format!("k{n:03}"), "v"]);
        if n == 2 {
            break;
        }
    }
    let lease = old.client().lease_grant(600, 0).await.unwrap().id;
    ok(&old, &["put", "owned", "mine", "--lease", &format!("{lease:x}")]);
    ok(&old, &["del", "k001"]);
    assert_eq!(ok(&old, &["snapshot", "save", &file]), format!("Snapshot saved at {file}\n"));
    let status: serde_json::Value =
        serde_json::from_str(&ok(&old, &["snapshot", "status", &file, "-w", "json"])).unwrap();
    assert_eq!((status["totalKey"].as_u64(), status["leases"].as_u64()), (Some(3), Some(1)), "{status}");
    let revision = status["revision"].as_i64().unwrap();
    let before = ok(&old, &["get", "", "--prefix", "-w", "fields"]);

    let mut new = Cluster::unstarted(support::Server::Quorate, 3, &[]);
    let members: Vec<String> = new.nodes().iter().map(|node| format!("{}=http://{}", node.name, node.peer)).collect();
    let parent = new.nodes()[0].data_dir.parent().unwrap().join("{name}").display().to_string();
    let restore = [
        "snapshot",
        "restore",
        &file,
        "--data-dir",
        &parent,
        "--initial-cluster",
        &members.join(","),
        "--initial-cluster-token",
        "test",
    ];
    let output = bare(&restore);
    assert!(output.status.success(), "{}", stderr(&output));
    let again = bare(&restore);
    assert!(!again.status.success() && stderr(&again).contains("is not empty"), "{}", stderr(&again));
    (0..3).for_each(|place| new.start(place));
    new.ready().await;
    let wanted = |text: &str| {
        text.lines()
            .filter(|l| {
                ["\"Key\"", "\"Value\"", "\"ModRevision\"", "\"CreateRevision\"", "\"Version\""]
                    .iter()
                    .any(|n| l.starts_with(n))
            })
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(wanted(&ok(&new, &["get", "", "--prefix", "-w", "fields"])), wanted(&before));
    assert!(new.client().lease_time_to_live(lease, true).await.unwrap().granted_ttl > 0);
    let compacted = run(&new, &["get", "k000", "--rev", &revision.to_string()]);
    assert!(stderr(&compacted).contains("compacted"), "{}", stderr(&compacted));
    ok(&new, &["put", "after", "1"]);
    let hashes = ok(&new, &["endpoint", "hashkv", "--cluster"]);
    let first = |line: &str| line.split(", ").nth(1).map(str::to_owned);
    let distinct: std::collections::BTreeSet<_> = hashes.lines().map(first).collect();
    assert_eq!(distinct.len(), 1, "{hashes}");
}

/// Whatever is done with a file, it is refused with these words, and nothing is made of it.
fn refused(dir: &std::path::Path, file: &str, code: i32, phrases: &[&str]) {
    let (name, target) = (dir.join(file).display().to_string(), dir.join("new"));
    let restore = ["snapshot", "restore", &name, "--data-dir", &target.display().to_string()];
    for args in [&["snapshot", "verify", &name][..], &["snapshot", "status", &name], &restore] {
        let output = bare(args);
        let told = stderr(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(output.stdout.is_empty() && told.contains(&name), "{args:?}: {told}");
        assert!(phrases.iter().all(|phrase| told.contains(phrase)), "{args:?}: {told}, without one of {phrases:?}");
    }
    assert!(!target.exists(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_named_and_not_restored() {
    let cluster = Cluster::quorate(1).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup.snap");
    let name = file.display().to_string();
    ok(&cluster, &["put", "k", "v"]);
    ok(&cluster, &["snapshot", "save", &name]);
    let verified = bare(&["snapshot", "verify", &name]);
    assert!(verified.status.success(), "{}", stderr(&verified));
    let bytes = std::fs::read(&file).unwrap();
    let flipped = |at: usize| [&bytes[..at], &[bytes[at] ^ 4], &bytes[at + 1..]].concat();
    let bbolt = [&[0; 16][..], &0xED0C_DAED_u32.to_le_bytes(), &[0; 4076]].concat();
    let again = "take another one: quorate snapshot save";
    for (file, told, fix) in [
        (flipped(0), "is damaged at byte 0: it does not begin as", again),
        (flipped(60), "is damaged at byte ", again),
        (flipped(bytes.len() - 1), "its SHA-256 is another one", again),
        (bytes[..300].to_vec(), "before its end", again),
        (Vec::new(), "is damaged at byte 0: it is empty", again),
        ([&bytes[..], &bytes[..]].concat(), "there is something after its end", again),
        (
            [&bytes[..8], &[9], &bytes[9..]].concat(),
            "its format is 9, and this release reads 1 to 2",
            "quorate version",
        ),
        (bbolt, "is a snapshot of etcd's: a bbolt database", "etcdutl snapshot restore"),
    ] {
        std::fs::write(dir.path().join("damaged"), file).unwrap();
        refused(dir.path(), "damaged", 3, &[told, fix]);
    }
    std::fs::create_dir(dir.path().join("directory")).unwrap();
    refused(dir.path(), "directory", 1, &["is a directory, and a snapshot is a file: give one"]);
    refused(dir.path(), "none", 1, &["No such file"]);
    std::os::unix::fs::symlink("/proc/self/mem", dir.path().join("unreadable")).unwrap();
    refused(dir.path(), "unreadable", 1, &["reading", "Input/output error"]);
    // What is no snapshot leaves the one that is there.
    std::fs::write(&file, b"an older backup").unwrap();
    let nobody = run(&cluster, &["snapshot", "save", &name, "--endpoints", "127.0.0.1:1"]);
    assert!(!nobody.status.success());
    assert_eq!(std::fs::read(&file).unwrap(), b"an older backup");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lost_its_quorum_goes_on_with_one_survivor() {
    let mut cluster = Cluster::quorate(3).await;
    for n in 0..5 {
        ok(&cluster, &["put", &format!("k{n}"), "v"]);
    }
    let in_use = bare(&["recover", &cluster.nodes()[0].data_dir.display().to_string()]);
    assert!(stderr(&in_use).contains("is in use"), "{}", stderr(&in_use));
    (0..3).for_each(|place| cluster.kill(place));
    let dir = |place: usize| cluster.nodes()[place].data_dir.display().to_string();
    let enough = bare(&["recover", &dir(0), &dir(1), "--yes"]);
    assert!(!enough.status.success() && stderr(&enough).contains("these are a quorum"), "{}", stderr(&enough));
    let looked = bare(&["recover", &dir(0), "--dry-run"]);
    let text = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert!(looked.status.success() && text.contains("2 of 3 voters are not here"), "{text}{}", stderr(&looked));
    let asked = bare(&["recover", &dir(0)]);
    assert!(stderr(&asked).contains("nobody can be asked here"), "{}", stderr(&asked));
    let done = bare(&["recover", &dir(0), "--yes"]);
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(std::path::Path::new(&format!("{}.before-recover-1", dir(0))).join("META").exists());

    cluster.start(0);
    let client = cluster.client_of(0);
    let deadline = quorate::clock::instant() + PATIENCE;
    while client.health(&cluster.endpoints()[0]).await.is_ok_and(|health| health.read.is_err()) {
        assert!(quorate::clock::instant() < deadline, "the survivor does not answer");
    }
    let alone = format!("--endpoints={}", cluster.endpoints()[0]);
    let keys = bare(&[&alone, "get", "", "--prefix", "--keys-only"]);
    assert_eq!(String::from_utf8_lossy(&keys.stdout).split_whitespace().count(), 5, "{}", stderr(&keys));
    assert!(bare(&[&alone, "put", "after", "v"]).status.success());
    let members = bare(&[&alone, "member", "list"]);
    assert_eq!(String::from_utf8_lossy(&members.stdout).lines().count(), 1, "{}", stderr(&members));
}

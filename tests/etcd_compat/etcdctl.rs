//! An unmodified etcdctl against both servers, and our own command line beside it: the same words, the same output.
//!
//! Each command runs in every format. What is compared is stdout, the exit code and the `Error:` line; what may differ
//! (ids, terms, log positions, sizes, versions, times) is masked where it stands: by JSON name, by the name in `fields`,
//! by the column in tables and comma-separated lines.

use crate::support::{Cluster, etcd_bin_dir};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Command lines, words separated by blanks; what follows ` << ` is stdin, with `;` for the end of a line. `_` is an empty
/// word.
const COMMANDS: &[&str] = &[
    "put a 1",
    "put a 2",
    "put a 3 --prev-kv",
    "put b bee --prev-kv",
    "put stdin << from stdin;two lines;",
    "put a --ignore-value",
    "put a --ignore-value --prev-kv",
    "put nobody --ignore-value",
    "put a x --ignore-lease --lease=1",
    "put a x --lease=7777",
    "put a x --lease=nonsense",
    "put _ x",
    "put odd \"<&>é\\",
    "get a",
    "get a --hex",
    "get nobody",
    "get a c",
    "get stdin",
    "get odd",
    "get _",
    "get _ --prefix",
    "get _ --from-key --keys-only",
    "get b --from-key --limit 2",
    "get a --prefix",
    "get a --rev 2",
    "get a --rev 3 --consistency s",
    "get a --rev 1000",
    "get --prefix _ --sort-by KEY --order DESCEND",
    "get --prefix _ --sort-by value --order ascend",
    "get --prefix _ --sort-by MODIFY --order descend --limit 3",
    "get --prefix _ --sort-by CREATE --keys-only",
    "get --prefix _ --sort-by size",
    "get --prefix _ --order up",
    "get --prefix _ --print-value-only",
    "get --prefix _ --count-only",
    "get --prefix _ --limit 2",
    "get a --consistency x",
    "get a b --prefix",
    "get a --prefix --from-key",
    "get a --keys-only --count-only",
    "txn << mod(\"a\") > \"0\";;put t 1;get a;del nobody;;get b;;",
    "txn << value(\"a\") = \"wrong\";ver(\"a\") = \"1\";;put t 2;;get b;get _nobody;;",
    "txn << create(\"t\") != \"0\";;put t \"two words\" --prev-kv;get --prefix t;;put u 1;;",
    "txn << c(\"nobody\") = \"0\";;get a --keys-only;;;",
    "txn << version(\"t\") < \"9\";m(\"t\") > \"1\";val(\"t\") != \"\";;del t --prev-kv;put t2 x;;;",
    "txn << ;put same 1;put same 2;;;",
    "txn << ;put leased 1 --lease=99;;;",
    "txn << ;;;",
    "txn << nonsense;;;;",
    "txn << ;frob a;;;",
    "txn << ;put a 1;",
    "del nobody",
    "del a",
    "del a --prev-kv",
    "del b c --range --prev-kv",
    "del _",
    "put p/1 x",
    "put p/2 y",
    "del p/ --prefix --prev-kv",
    "del p/ --prefix",
    "del a b --prefix",
    "del _ --prefix",
    "get _ --prefix",
    "member list",
    "member list --hex",
    "endpoint status",
    "endpoint health",
];

/// Formats of `-w`.
const FORMATS: [&str; 4] = ["simple", "json", "fields", "table"];

/// What a command left behind, masked.
#[derive(Debug, PartialEq)]
struct Seen {
    stdout: Vec<String>,
    code: Option<i32>,
    error: Option<String>,
}

/// A program and the cluster that it talks to.
struct Side<'a> {
    program: PathBuf,
    cluster: &'a Cluster,
}

impl Side<'_> {
    fn run(&self, line: &str, format: &str) -> Seen {
        let (words, stdin) = line.split_once(" << ").unwrap_or((line, ""));
        let words = words.split(' ').map(|word| if word == "_" { "" } else { word });
        let mut command = Command::new(&self.program);
        command.env_remove("ETCDCTL_ENDPOINTS").env_remove("QUORATE_ENDPOINTS").env("NO_COLOR", "1");
        command.args(["--endpoints", &self.cluster.endpoints().join(","), "-w", format]).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the program starts");
        let mut input = process.stdin.take().expect("stdin is piped");
        // A program that refuses its arguments ends before it reads.
        _ = input.write_all(stdin.replace(';', "\n").as_bytes());
        drop(input);
        let output = process.wait_with_output().expect("the program ends");
        let stdout = self.mask(&String::from_utf8_lossy(&output.stdout), line, format);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let error = stderr.lines().find_map(|line| line.strip_prefix("Error: ")).map(str::to_owned);
        Seen { stdout, code: output.status.code(), error }
    }

    fn mask(&self, stdout: &str, line: &str, format: &str) -> Vec<String> {
        let mut text = stdout.to_owned();
        for node in self.cluster.nodes() {
            text = text.replace(&node.client, "CLIENT").replace(&node.peer, "PEER");
        }
        let cluster_command = about_cluster(line);
        let mut lines: Vec<String> = match format {
            "json" => text.lines().map(|line| mask_json(line).to_string()).collect(),
            "fields" => text.lines().map(mask_field).collect(),
            _ if cluster_command => text.lines().filter_map(|cells| mask_cells(cells, line)).collect(),
            _ => text.lines().map(str::to_owned).collect(),
        };
        if cluster_command && format != "fields" {
            // Members come by id, and healths as they arrive.
            lines.sort();
        }
        lines
    }
}

fn mask_json(line: &str) -> Value {
    fn mask(value: &mut Value) {
        const MAY_DIFFER: [&str; 13] = [
            "cluster_id",
            "member_id",
            "raft_term",
            "ID",
            "leader",
            "version",
            "dbSize",
            "dbSizeInUse",
            "raftIndex",
            "raftTerm",
            "raftAppliedIndex",
            "took",
            "storageVersion",
        ];
        match value {
            Value::Object(fields) => {
                let is_kv = fields.contains_key("mod_revision");
                for (name, field) in fields.iter_mut() {
                    if MAY_DIFFER.contains(&name.as_str()) && !(is_kv && name == "version") {
                        *field = Value::from("*");
                    }
                    mask(field);
                }
            }
            Value::Array(items) => {
                items.iter_mut().for_each(mask);
                if items.iter().any(|item| item.get("name").is_some() || item.get("endpoint").is_some()) {
                    items.sort_by_key(ToString::to_string);
                }
            }
            _ => {}
        }
    }
    let mut value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    mask(&mut value);
    value
}

fn mask_field(line: &str) -> String {
    const MAY_DIFFER: [&str; 9] =
        ["ClusterID", "MemberID", "RaftTerm", "DBSize", "Leader", "RaftIndex", "RaftAppliedIndex", "Took", "ID"];
    let Some((name, value)) = line.split_once(" : ") else { return line.to_owned() };
    let bare = name.trim_matches('"');
    // A key's version is a number, a server's is text.
    let differs = MAY_DIFFER.contains(&bare) || (bare == "Version" && value.starts_with('"')) || bare == "Name";
    if differs { format!("{name} : *") } else { line.to_owned() }
}

/// A line of a table, or of comma-separated columns; `None` for a table's rules.
fn mask_cells(cells: &str, line: &str) -> Option<String> {
    if cells.starts_with(['┌', '├', '└', '+']) {
        return None;
    }
    if line.starts_with("endpoint health") {
        let words: Vec<&str> = cells.split_whitespace().filter(|word| !word.ends_with('s') || *word == "is").collect();
        return Some(words.join(" "));
    }
    let separator = if cells.starts_with('│') { "│" } else { ", " };
    let mut cells: Vec<&str> = cells.trim_matches('│').split(separator).map(str::trim).collect();
    let may_differ: &[usize] = if line.starts_with("member") { &[0] } else { &[1, 2, 3, 4, 6, 7, 8] };
    for column in may_differ {
        if cells.len() > *column && !cells[*column].chars().all(|c| c.is_ascii_uppercase() || c == ' ') {
            cells[*column] = "*";
        }
    }
    Some(cells.join("|"))
}

/// Whether a command is about the cluster; only those have tables.
fn about_cluster(line: &str) -> bool {
    ["endpoint", "member"].iter().any(|command| line.starts_with(command))
}

/// Runs the commands in every format, or those that `only` lets through, on both sides.
fn compare(
    first: &Side<'_>,
    second: &Side<'_>,
    only: impl Fn(&str, &str) -> bool,
    same: impl Fn(&Seen, &Seen) -> bool,
) {
    let mut different = Vec::new();
    for line in COMMANDS {
        for format in FORMATS.into_iter().filter(|format| only(line, format)) {
            let (a, b) = (first.run(line, format), second.run(line, format));
            if !same(&a, &b) {
                different.push(format!("{line} -w {format}\n  {a:?}\n  {b:?}"));
            }
        }
    }
    assert!(different.is_empty(), "{} outputs differ:\n{}", different.len(), different.join("\n"));
}

fn etcdctl<'a>(dir: &Path, cluster: &'a Cluster) -> Side<'a> {
    Side { program: dir.join("etcdctl"), cluster }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_prints_of_quorate_what_it_prints_of_etcd() {
    let Some(dir) = etcd_bin_dir("etcdctl_prints_of_quorate_what_it_prints_of_etcd") else { return };
    let (etcd, quorate) = (Cluster::etcd(&dir, 3).await, Cluster::quorate(3).await);
    compare(&etcdctl(&dir, &etcd), &etcdctl(&dir, &quorate), |_, _| true, |a, b| a == b);
}

/// Both against etcd, so that nothing but the command line differs. Errors are worded differently on purpose; which exit
/// code an error has is not. Asked for a table of keys, etcdctl does the deed and then complains; ours complains first.
#[tokio::test(flavor = "multi_thread")]
async fn our_command_line_prints_what_etcdctl_prints() {
    let Some(dir) = etcd_bin_dir("our_command_line_prints_what_etcdctl_prints") else { return };
    let (one, other) = (Cluster::etcd(&dir, 1).await, Cluster::etcd(&dir, 1).await);
    let ours = Side { program: env!("CARGO_BIN_EXE_quorate").into(), cluster: &other };
    let has_form = |line: &str, format: &str| format != "table" || about_cluster(line);
    compare(&etcdctl(&dir, &one), &ours, has_form, |a, b| a.stdout == b.stdout && a.code == b.code);
}

/// Command lines about one lease, whose id stands for `LEASE`.
const LEASE_COMMANDS: &[&str] = &[
    "lease list",
    "lease grant 600",
    "lease list",
    "lease timetolive LEASE",
    "lease timetolive LEASE --keys",
    "put leased 1 --lease=LEASE",
    "put leased/2 2 --lease=LEASE",
    "put leased 2 --ignore-lease",
    "get leased",
    "lease timetolive LEASE --keys",
    "lease keep-alive LEASE --once",
    "put leased/2 3",
    "lease timetolive LEASE --keys",
    "lease revoke LEASE",
    "get leased --prefix",
    "lease revoke LEASE",
    "lease timetolive LEASE --keys",
    "lease keep-alive LEASE --once",
    "lease keep-alive LEASE",
    "put leased 1 --lease=LEASE",
    "lease grant 0",
    "lease revoke LEASE",
    "lease grant nonsense",
    "lease grant 9000000001",
    "lease list",
];

/// Runs [`LEASE_COMMANDS`]: what each left behind, with the id and the seconds that are left masked.
fn run_lease_commands(side: &Side<'_>, format: &str) -> Vec<(String, Seen)> {
    let mut lease = String::new();
    let mut all = Vec::new();
    for line in LEASE_COMMANDS {
        let mut seen = side.run(&line.replace("LEASE", &lease), format);
        if let Some(granted) = seen.stdout.iter().find_map(|line| granted_id(line)) {
            lease = granted;
        }
        let mask = |text: &mut String| {
            if !lease.is_empty() {
                *text = text.replace(&lease, "LEASE");
            }
            // 600 seconds were granted, and a minute has not passed.
            if let Some((before, after)) = text.split_once("remaining(5") {
                *text = format!("{before}remaining(*{}", after.trim_start_matches(|c: char| c.is_ascii_digit()));
            }
        };
        seen.stdout.iter_mut().chain(&mut seen.error).for_each(mask);
        all.push(((*line).to_owned(), seen));
    }
    all
}

/// `lease 694d7c3b23e3ab09 granted with TTL(600s)`
fn granted_id(line: &str) -> Option<String> {
    line.strip_prefix("lease ")?.split_once(" granted").map(|(id, _)| id.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_does_with_leases_of_quorate_what_it_does_with_etcds() {
    let Some(dir) = etcd_bin_dir("etcdctl_does_with_leases_of_quorate_what_it_does_with_etcds") else { return };
    let (etcd, quorate) = (Cluster::etcd(&dir, 1).await, Cluster::quorate(3).await);
    let (theirs, ours) = (etcdctl(&dir, &etcd), etcdctl(&dir, &quorate));
    assert_eq!(run_lease_commands(&ours, "simple"), run_lease_commands(&theirs, "simple"));
}

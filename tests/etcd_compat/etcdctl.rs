//! An unmodified etcdctl against both servers, and our own command line beside it: the same words, the same output.
//!
//! Each command runs in every format. What is compared is stdout, the exit code and the `Error:` line; what may differ
//! (ids, terms, log positions, sizes, versions, times) is masked where it stands: by JSON name, by the name in `fields`,
//! by the column in tables and comma-separated lines.

use crate::support::{Cluster, etcd_bin_dir};
use serde_json::Value;
use std::cell::RefCell;
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

/// The same for leases, locks, watches and upkeep. `LEASE` is the lease that was granted last.
const COORDINATION: &[&str] = &[
    "lease grant 10000",
    "lease grant 1",
    "lease grant",
    "lease grant x",
    "lease grant 10000",
    "put leased 1 --lease=LEASE",
    "put leased2 \"2\"",
    "get leased --prefix",
    "lease timetolive LEASE",
    "lease timetolive LEASE --keys",
    "lease timetolive 7777 --keys",
    "lease timetolive zz",
    "lease keep-alive --once LEASE",
    "lease keep-alive --once 7777",
    "lease keep-alive 7777",
    "lease revoke LEASE",
    "lease revoke 7777",
    "lease revoke zz",
    "lease timetolive LEASE",
    "watch leased --prefix --rev 2 -- false",
    "watch leased --prefix --rev 2 --prev-kv -- false",
    "watch leased leased2 --rev 2 -- /nope",
    "watch _ --prefix --rev 2 -- false",
    "watch",
    "watch a b --prefix",
    "lock l1 -- echo hello",
    "lock l1 echo hello",
    "lock l1 -- printenv ETCD_LOCK_REV",
    "lock l1 -- false",
    "lock l1 -- /nope",
    "lock",
    "elect",
    "elect e",
    "elect e a b",
    "elect e a --listen",
    "put a 1",
    "put a 2",
    "compaction 5",
    "compaction 6 --physical",
    "compact 4",
    "compaction 100000",
    "compaction x",
    "compaction",
    "watch a --rev 1",
    "get a --rev 2",
    "alarm list",
    "alarm disarm",
    "defrag",
    "defrag --cluster",
    "endpoint hashkv",
    "endpoint hashkv --cluster",
    "endpoint hashkv --rev 10000",
    "move-leader 7777",
    "move-leader zz",
    "move-leader",
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
    /// The leases that were granted, in hexadecimal.
    leases: RefCell<Vec<String>>,
}

impl<'a> Side<'a> {
    fn new(program: impl Into<PathBuf>, cluster: &'a Cluster) -> Side<'a> {
        Side { program: program.into(), cluster, leases: RefCell::default() }
    }

    fn run(&self, line: &str, format: &str) -> Seen {
        let line = &line.replace("LEASE", self.leases.borrow().last().map_or("", String::as_str));
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
        let stdout = String::from_utf8_lossy(&output.stdout);
        if line.starts_with("lease grant") {
            self.leases.borrow_mut().extend(granted(&stdout));
        }
        let stdout = self.mask(&stdout, line, format);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let error = stderr.lines().find_map(|line| line.strip_prefix("Error: ")).map(str::to_owned);
        let error = error.map(|error| self.mask_leases(error));
        Seen { stdout, code: output.status.code(), error }
    }

    /// Ids, the seconds that are left, and the order of the keys, which is chance in etcd.
    fn mask_leases(&self, mut text: String) -> String {
        for lease in self.leases.borrow().iter() {
            let number = i64::from_str_radix(lease, 16).expect("it was read as one");
            text = text.replace(lease, "LEASE").replace(&number.to_string(), "7");
        }
        if let Some((before, after)) = text.split_once("remaining(") {
            text = format!("{before}remaining{}", after.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
        if let Some((before, keys)) = text.split_once("attached keys([") {
            let mut keys: Vec<&str> = keys.trim_end().trim_end_matches("])").split(' ').collect();
            keys.sort_unstable();
            text = format!("{before}{keys:?}");
        }
        text
    }

    fn mask(&self, stdout: &str, line: &str, format: &str) -> Vec<String> {
        // How a command is used, which each tells in its own words.
        let mut text = stdout.split("NAME:\n").next().unwrap_or_default().to_owned();
        for node in self.cluster.nodes() {
            text = text.replace(&node.client, "CLIENT").replace(&node.peer, "PEER");
        }
        text = self.mask_leases(text);
        let cluster_command = about_cluster(line);
        let mut lines: Vec<String> = match format {
            "json" => text.lines().map(mask_json).collect(),
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

/// The lease that was granted, in hexadecimal, from the answer in any format.
fn granted(stdout: &str) -> Option<String> {
    if let Some(rest) = stdout.strip_prefix("lease ") {
        return rest.split(' ').next().map(str::to_owned);
    }
    let (_, rest) = stdout.split_once("\"ID\"")?;
    let number: String = rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    number.parse().ok().map(|number: i64| format!("{number:016x}"))
}

/// A line of JSON; what a command prints in words in every format stays.
fn mask_json(line: &str) -> String {
    fn mask(value: &mut Value) {
        const MAY_DIFFER: [&str; 15] = [
            "hash",
            "ttl",
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
    match serde_json::from_str(line) {
        Ok(mut value) => {
            mask(&mut value);
            value.to_string()
        }
        Err(_) => line.to_owned(),
    }
}

fn mask_field(line: &str) -> String {
    const MAY_DIFFER: [&str; 11] = [
        "ClusterID",
        "MemberID",
        "RaftTerm",
        "DBSize",
        "Leader",
        "RaftIndex",
        "RaftAppliedIndex",
        "Took",
        "ID",
        "TTL",
        "Hash",
    ];
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
    let may_differ: &[usize] = match line {
        _ if line.starts_with("member") => &[0],
        _ if line.starts_with("endpoint hashkv") => &[1],
        _ => &[1, 2, 3, 4, 6, 7, 8],
    };
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
    commands: &[&str],
    only: impl Fn(&str, &str) -> bool,
    same: impl Fn(&Seen, &Seen) -> bool,
) {
    let mut different = Vec::new();
    for line in commands {
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
    Side::new(dir.join("etcdctl"), cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_prints_of_quorate_what_it_prints_of_etcd() {
    let Some(dir) = etcd_bin_dir("etcdctl_prints_of_quorate_what_it_prints_of_etcd") else { return };
    let (etcd, quorate) = (Cluster::etcd(&dir, 3).await, Cluster::steady(3).await);
    compare(&etcdctl(&dir, &etcd), &etcdctl(&dir, &quorate), COMMANDS, |_, _| true, |a, b| a == b);
}

/// Both against etcd, so that nothing but the command line differs. Errors are worded differently on purpose; which exit
/// code an error has is not. Asked for a table of keys, etcdctl does the deed and then complains; ours complains first.
#[tokio::test(flavor = "multi_thread")]
async fn our_command_line_prints_what_etcdctl_prints() {
    let Some(dir) = etcd_bin_dir("our_command_line_prints_what_etcdctl_prints") else { return };
    let (one, other) = (Cluster::etcd(&dir, 1).await, Cluster::etcd(&dir, 1).await);
    let ours = Side::new(env!("CARGO_BIN_EXE_quorate"), &other);
    let same = |a: &Seen, b: &Seen| a.stdout == b.stdout && a.code == b.code;
    compare(&etcdctl(&dir, &one), &ours, COMMANDS, has_form, same);
}

/// The same for leases, locks, watches and upkeep, and by a link called `etcdctl`, whose command line is etcdctl's to the
/// last switch and exit code.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_called_etcdctl_is_one() {
    let Some(dir) = etcd_bin_dir("a_link_called_etcdctl_is_one") else { return };
    let (one, other) = (Cluster::etcd(&dir, 1).await, Cluster::etcd(&dir, 1).await);
    let link = tempfile::tempdir().expect("a temporary directory");
    let path = link.path().join("etcdctl");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_quorate"), &path).expect("a link can be made");
    let (theirs, ours) = (etcdctl(&dir, &one), Side::new(path, &other));
    let same = |a: &Seen, b: &Seen| a.stdout == b.stdout && a.code == b.code;
    // First: etcdctl's locks leave their leases behind.
    compare(&theirs, &ours, LEASE_COMMANDS, |_, format| format == "simple", same);
    // Asked to disarm nothing with -w fields, etcdctl panics.
    let form = |line: &str, format: &str| has_form(line, format) && (line != "alarm disarm" || format != "fields");
    compare(&theirs, &ours, COORDINATION, form, same);
    const PERSONALITY: &[&str] = &[
        "put p/a 1 --prev-kv=true",
        "get p --prefix=true --keys-only=false",
        "get p --prefix=1 --print-value-only=t",
        "get p --prefix=maybe",
        "get p --frob",
        "get p --limit x",
        "get",
        "frob",
        "del p --prefix=true",
    ];
    compare(&theirs, &ours, PERSONALITY, |_, format| format == "simple", same);
}

fn has_form(line: &str, format: &str) -> bool {
    format != "table" || about_cluster(line)
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

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_does_with_leases_of_quorate_what_it_does_with_etcds() {
    let Some(dir) = etcd_bin_dir("etcdctl_does_with_leases_of_quorate_what_it_does_with_etcds") else { return };
    let (etcd, quorate) = (Cluster::etcd(&dir, 1).await, Cluster::steady(3).await);
    let (theirs, ours) = (etcdctl(&dir, &etcd), etcdctl(&dir, &quorate));
    compare(&theirs, &ours, LEASE_COMMANDS, |_, format| format == "simple", |a, b| a == b);
}

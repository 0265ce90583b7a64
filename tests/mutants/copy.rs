//! A copy of the tree that is every mutant at once, and its programs.
//!
//! The rooms that decide (no server, client, command line) are copied to `target/mutants/`, with a driver for the simulator in
//! place of the binary and the switch beside the rooms. It is built once; the environment says which mutant a process is.

use crate::patch::Mutant;
use crate::root;
use crate::switch::{Branch, switched};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is copied: the rooms that decide, and the scripts.
const ROOMS: [&str; 12] =
    ["check", "checksum", "ids", "machine", "node", "proto", "raft", "rng", "sim", "storage", "time", "watch"];

/// All files under `path`, or itself.
fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| files(entry, found));
    } else if path.exists() {
        found.push(path.to_path_buf());
    }
}

/// What goes into a copy, and what it is called there.
pub fn slim() -> BTreeMap<String, String> {
    let mut paths = Vec::new();
    for part in ["Cargo.toml", "Cargo.lock", "proto", "tests/scripts.rs", "tests/scripts"] {
        files(&root().join(part), &mut paths);
    }
    let mut rooms = "#![allow(warnings)]\npub mod mutant;\n".to_string();
    for room in ROOMS {
        let before = paths.len();
        files(&root().join(format!("src/{room}.rs")), &mut paths);
        files(&root().join(format!("src/{room}")), &mut paths);
        if paths.len() > before {
            writeln!(rooms, "pub mod {room};").unwrap();
        }
    }
    let relative = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
    let read = |path: &PathBuf| fs::read_to_string(path).unwrap();
    let mut slim: BTreeMap<String, String> = paths.iter().map(|path| (relative(path), read(path))).collect();
    slim.insert("src/lib.rs".into(), rooms);
    for (path, from) in [("src/main.rs", "driver.rs"), ("src/mutant.rs", "chosen.rs")] {
        slim.insert(path.into(), read(&root().join("tests/mutants").join(from)));
    }
    let package = slim["Cargo.toml"].replace("default-run = \"quorate\"\n", "");
    slim.insert("Cargo.toml".into(), package);
    let without_services = "tonic_prost_build::configure().build_client(false).build_server(false)";
    let build = slim["proto/build.rs"].replace("tonic_prost_build::configure()", without_services);
    slim.insert("proto/build.rs".into(), build);
    slim
}

/// The programs of a built copy.
pub struct Copy {
    tree: PathBuf,
    pub scripts: PathBuf,
    pub tests: PathBuf,
    pub driver: PathBuf,
}

/// Why there is no copy.
pub struct Refused {
    /// The mutants whose bodies are no Rust.
    pub mutants: BTreeSet<u32>,
    /// What the compiler says.
    pub said: String,
}

impl Copy {
    /// Builds a copy with these mutants; its package is called `name`, so that several can share the dependencies.
    pub fn build(name: &str, slim: &BTreeMap<String, String>, mutants: &[Mutant]) -> Result<Copy, Refused> {
        let tree = root().join("target/mutants").join(name);
        let mut slim = slim.clone();
        let package = slim["Cargo.toml"].replace("\nname = \"quorate\"\n", &format!("\nname = \"{name}\"\n"));
        slim.insert("Cargo.toml".into(), package + "\n[lib]\nname = \"quorate\"\n");
        let mut branches = Vec::new();
        let files: BTreeSet<&String> = mutants.iter().flat_map(|m| &m.changes).map(|change| &change.file).collect();
        for file in files {
            let own = slim.get_mut(file).unwrap_or_else(|| panic!("{file} is not in the copy"));
            let (text, more) = switched(file, own, mutants);
            *own = text;
            branches.extend(more);
        }
        write(&tree, &slim);
        compile(tree, &branches)
    }

    /// Runs a program of the copy as `mutant` for `seconds` at most: its words, and whether it ended.
    pub fn run(&self, mutant: u32, program: &Path, args: &[&str], seconds: u32) -> (String, bool) {
        let mut command = Command::new("timeout");
        command.arg(seconds.to_string()).arg(program).args(args);
        let out = command.current_dir(&self.tree).env("MUTANT", mutant.to_string()).output().unwrap();
        (String::from_utf8_lossy(&out.stdout).into_owned(), out.status.code() != Some(124))
    }
}

/// Writes what differs: untouched files keep their times, so that little is built anew.
fn write(tree: &Path, slim: &BTreeMap<String, String>) {
    let mut old = Vec::new();
    files(tree, &mut old);
    let gone = |path: &PathBuf| !slim.contains_key(path.strip_prefix(tree).unwrap().to_str().unwrap());
    old.iter().filter(|path| gone(path)).for_each(|path| fs::remove_file(path).unwrap());
    for (path, text) in slim {
        let path = tree.join(path);
        if fs::read_to_string(&path).ok().as_ref() != Some(text) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
}

fn compile(tree: PathBuf, branches: &[Branch]) -> Result<Copy, Refused> {
    let out = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--no-run", "--lib", "--test", "scripts", "--message-format", "json"])
        .current_dir(&tree)
        .env("CARGO_TARGET_DIR", root().join("target"))
        .envs([
            ("CARGO_PROFILE_DEV_OPT_LEVEL", "2"),
            ("CARGO_PROFILE_DEV_DEBUG", "0"),
            ("CARGO_PROFILE_TEST_DEBUG", "0"),
            ("CARGO_INCREMENTAL", "0"),
        ])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let messages: Vec<Value> =
        String::from_utf8_lossy(&out.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let program = |is: &dyn Fn(&Value) -> bool| {
        let found = messages.iter().filter(|m| is(m)).find_map(|m| m["executable"].as_str());
        found.map(PathBuf::from)
    };
    let kind = |m: &Value, kind: &str| m["target"]["kind"][0] == *kind;
    let scripts = program(&|m| kind(m, "test"));
    let tests = program(&|m| kind(m, "lib") && m["profile"]["test"] == true);
    let driver = program(&|m| kind(m, "bin") && m["profile"]["test"] == false);
    if let (true, Some(scripts), Some(tests), Some(driver)) = (out.status.success(), scripts, tests, driver) {
        return Ok(Copy { tree, scripts, tests, driver });
    }
    let errors = messages.iter().filter(|m| m["message"]["level"] == "error");
    let (mut mutants, mut said) = (BTreeSet::new(), String::new());
    for error in errors.map(|m| &m["message"]) {
        let spans = || error["spans"].as_array().into_iter().flatten();
        let inside: BTreeSet<u32> = spans().flat_map(|span| owners(span, branches, false)).collect();
        let around = || spans().flat_map(|span| owners(span, branches, true)).collect();
        let of = if inside.is_empty() { around() } else { inside };
        writeln!(said, "{of:?} {}", error["rendered"].as_str().unwrap_or_default()).unwrap();
        mutants.extend(of);
    }
    Err(Refused { mutants, said })
}

/// Whose lines the compiler points at; or (`around`) whose lines are among those that it points at.
fn owners(span: &Value, branches: &[Branch], around: bool) -> Vec<u32> {
    let line = |end: &str| span[end].as_u64().unwrap_or(0) as usize;
    let (first, last) = (line("line_start"), line("line_end"));
    let is_meant = |branch: &&Branch| {
        let lines = &branch.lines;
        let points = if around { first <= lines.start && lines.end <= last + 1 } else { lines.contains(&first) };
        points && span["file_name"] == *branch.file
    };
    branches.iter().filter(is_meant).map(|branch| branch.number).collect()
}

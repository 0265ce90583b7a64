//! The house rules that a compiler can't hold in one crate: who may import whom, what each room may not know. The table is
//! the law; `src/lib.rs` tells why. A failure names the file and the line.

#![expect(clippy::unwrap_used, reason = "a test that can't read the tree has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// A room: its path under `src`, the rooms it may import, and the outside crates and parts of `std` it may name.
struct Room {
    path: &'static str,
    may_import: &'static [&'static str],
    may_name: &'static [&'static str],
}

/// The bottom of the house: values without behaviour towards the world.
const FLOOR: &[&str] = &["ids", "time", "rng", "checksum"];

const ROOMS: &[Room] = &[
    Room { path: "raft", may_import: &[], may_name: &["bytes", "tracing"] },
    Room { path: "storage", may_import: &["raft"], may_name: &["bytes", "tracing", "thiserror", "std::sync"] },
    // The files of the room that meet the operating system.
    Room { path: "storage/sled.rs", may_import: &[], may_name: ANY },
    Room { path: "storage/sled", may_import: &[], may_name: ANY },
    Room { path: "storage/directory.rs", may_import: &[], may_name: ANY },
    Room { path: "storage/directory/states.rs", may_import: &[], may_name: ANY },
    Room { path: "storage/space.rs", may_import: &[], may_name: ANY },
    Room {
        path: "machine",
        may_import: &["storage", "proto"],
        may_name: &["bytes", "prost", "tracing", "thiserror", "std::sync"],
    },
    Room {
        path: "node",
        may_import: &["raft", "storage", "machine", "proto"],
        may_name: &["bytes", "prost", "tracing", "thiserror", "std::sync"],
    },
    Room { path: "watch", may_import: &["machine", "proto"], may_name: &["bytes", "prost", "std::sync"] },
    Room { path: "check", may_import: &["proto"], may_name: &["serde", "serde_json", "thiserror"] },
    // The simulator is a shell with a virtual world: no thread, no file, no clock.
    Room {
        path: "sim",
        may_import: &["node", "raft", "storage", "machine", "watch", "proto", "check"],
        may_name: &["bytes", "prost", "thiserror", "tracing", "std::sync"],
    },
    Room { path: "wire.rs", may_import: &["raft", "proto"], may_name: &["thiserror"] },
    Room {
        path: "maelstrom",
        may_import: &["node", "raft", "storage", "machine", "proto", "wire", "clock"],
        may_name: ANY,
    },
    Room { path: "client", may_import: &["proto", "clock"], may_name: ANY },
    Room {
        path: "server",
        may_import: &["node", "raft", "storage", "machine", "watch", "proto", "wire", "clock"],
        may_name: ANY,
    },
    Room { path: "offline", may_import: &["node", "storage", "machine"], may_name: ANY },
    Room {
        path: "cli",
        may_import: &["server", "offline", "client", "proto", "clock", "storage", "sim", "check", "maelstrom"],
        may_name: ANY,
    },
];

/// A shell: tokio, tonic, threads, files, all of it, but for sled.
const ANY: &[&str] = &["*"];

/// What a room must be granted to name it.
const GUARDED: &[&str] = &[
    "tokio",
    "tonic",
    "prost",
    "sled",
    "libc",
    "rustix",
    "axum",
    "tower",
    "http",
    "hyper",
    "clap",
    "serde",
    "serde_json",
    "getrandom",
    "hdrhistogram",
    "bytes",
    "tracing",
    "thiserror",
    "std::thread",
    "std::fs",
    "std::net",
    "std::sync",
    "std::process",
    "std::os",
    "std::env",
    "std::io",
];

/// Nobody names these below the shells; each with its law.
const NEVER_BELOW_SHELLS: &[(&str, &str)] = &[
    ("HashMap", "iteration order is chance"),
    ("HashSet", "iteration order is chance"),
    ("Instant", "No-clock: time is an argument"),
    ("SystemTime", "No-clock: time is an argument"),
];

fn sources(under: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The lines of production code of a file, numbered: without comments and without its test module.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_string();
    let lines = production.lines().enumerate();
    lines.map(|(i, line)| (i + 1, line.split("//").next().unwrap_or_default().to_string())).collect()
}

fn is_test_file(path: &Path) -> bool {
    let is_tests = |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs";
    path.ends_with("machine/model.rs") || path.strip_prefix(src()).is_ok_and(|relative| relative.iter().any(is_tests))
}

/// The most specific room of a file.
fn room_of(relative: &str) -> Option<&'static Room> {
    let inside = |room: &&Room| relative == room.path || relative.starts_with(&format!("{}/", room.path));
    ROOMS.iter().filter(inside).max_by_key(|room| room.path.len())
}

/// Whether `line` names `word` as a whole path segment followed by `::` (or as a whole word, for types).
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        let ends = !after.is_some_and(|c| c.is_alphanumeric() || c == '_');
        starts && ends
    })
}

/// Whether `line` names something inside of `word`.
fn is_path(line: &str, word: &str) -> bool {
    let inside = format!("{word}::");
    line.match_indices(&inside).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn rooms_import_only_what_the_plan_allows() {
    let mut broken = Vec::new();
    for path in sources(&src()) {
        let relative = path.strip_prefix(src()).unwrap().to_string_lossy().into_owned();
        let Some(room) = room_of(&relative) else { continue };
        if is_test_file(&path) {
            continue;
        }
        let own = relative.split('/').next().unwrap_or_default();
        for (number, line) in code(&path) {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let imported: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let allowed = imported == own
                    || FLOOR.contains(&imported.as_str())
                    || room.may_import.contains(&imported.as_str())
                    || imported.is_empty();
                if !allowed {
                    broken.push(format!("src/{relative}:{number}: {} may not import {imported}", room.path));
                }
            }
            for guarded in GUARDED {
                let granted = room.may_name == ANY || room.may_name.iter().any(|g| g.starts_with(guarded));
                if is_path(&line, guarded) && !granted {
                    broken.push(format!("src/{relative}:{number}: {} may not name {guarded}", room.path));
                }
            }
            let names_sled =
                is_path(&line, "sled") && !line.contains("storage::sled::") && !line.contains("super::sled");
            if names_sled && !relative.starts_with("storage/sled") {
                broken.push(format!("src/{relative}:{number}: only storage/sled.rs and what is below it name sled"));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn below_the_shells_there_is_no_clock_and_no_chance() {
    let mut broken = Vec::new();
    for path in sources(&src()) {
        let relative = path.strip_prefix(src()).unwrap().to_string_lossy().into_owned();
        let below = [
            "raft/", "machine/", "node/", "storage/", "watch/", "sim/", "check/", "wire.rs", "ids.rs", "time.rs",
            "rng.rs",
        ];
        // sled.rs watches real syncs with a real clock: it is the production door of the disk.
        if !below.iter().any(|b| relative.starts_with(b)) || relative == "storage/sled.rs" {
            continue;
        }
        for (number, line) in code(&path) {
            for (word, law) in NEVER_BELOW_SHELLS {
                if names(&line, word) {
                    broken.push(format!("src/{relative}:{number}: {word}: {law}"));
                }
            }
            let float = ["f32", "f64"].iter().any(|f| names(&line, f));
            if float && (relative.starts_with("raft/") || relative.starts_with("machine/")) {
                broken.push(format!("src/{relative}:{number}: floating point where every member must agree"));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn only_one_file_is_unsafe() {
    for path in sources(&src()) {
        for (number, line) in code(&path) {
            let is_unsafe = names(&line, "unsafe") && !line.contains('"');
            assert!(!is_unsafe || path.ends_with("storage/sled.rs"), "{}:{number}: unsafe", path.display());
        }
    }
}

/// They panic when whoever reads the pipe has seen enough; `cli::output` hears of it as an error.
#[test]
fn nobody_prints_with_macros_that_panic() {
    for path in sources(&src()).into_iter().filter(|path| !is_test_file(path)) {
        for (number, line) in code(&path) {
            let prints = ["print!(", "println!("].iter().any(|word| {
                line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            });
            assert!(!prints, "{}:{number}: use cli::output::print", path.display());
        }
    }
}

#[test]
fn every_module_opens_with_an_essay_and_nothing_is_left_open() {
    let mut broken = Vec::new();
    for path in sources(&src()) {
        let text = fs::read_to_string(&path).unwrap();
        if !text.trim_start().starts_with("//!") {
            broken.push(format!("{}: no essay", path.display()));
        }
        for (number, line) in text.lines().enumerate() {
            let open =
                ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "(skeleton"].iter().any(|w| line.contains(w));
            if open {
                broken.push(format!("{}:{}: left open: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

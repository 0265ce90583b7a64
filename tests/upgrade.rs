//! One release after another: members of the commit before this one and of this one in one cluster, under load.
//!
//! The previous commit's binary is built from the history, once for each commit, under `target/previous`; what it depends on is
//! compiled once for both. `QUORATE_PREVIOUS_BIN` names another one. Without a history the tests are skipped and say so, unless
//! `QUORATE_REQUIRE_PREVIOUS` is set.
//!
//! Most commits know the same cluster level as the one before. Then the older binary is started with `--max-cluster-level`, so that
//! there is always a level to be raised to, and somebody who does not know it.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "cluster/ended.rs"]
#[allow(dead_code, reason = "a part is used")]
mod ended;
#[path = "cluster/load.rs"]
#[allow(dead_code, reason = "a part is used")]
mod load;
mod support;

use ended::{ended, without_settings};
use load::{Load, eventually};
use quorate::machine::Level;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use support::{Cluster, Server};

/// The older of the two releases.
#[derive(Clone, Debug)]
struct Older {
    program: PathBuf,
    /// The highest level that it knows, or is to know.
    level: u32,
    arguments: Vec<String>,
}

impl Older {
    /// `None`: there is no previous commit to be had, and that was said.
    fn find(test: &str) -> Option<Older> {
        static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let given = std::env::var_os("QUORATE_PREVIOUS_BIN").filter(|given| !given.is_empty());
        let program = match given {
            Some(given) => PathBuf::from(given),
            None => match BUILT.get_or_init(build) {
                Ok(program) => program.clone(),
                Err(why) => {
                    let required = std::env::var_os("QUORATE_REQUIRE_PREVIOUS").is_some_and(|value| !value.is_empty());
                    assert!(!required, "{test}: {why}, and QUORATE_REQUIRE_PREVIOUS is set");
                    _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
                    return None;
                }
            },
        };
        let said = output(Command::new(&program).arg("version")).unwrap();
        let level = said.lines().find_map(|line| line.strip_prefix("Cluster level: up to "));
        let known = level.map_or(0, |level| level.parse::<u32>().unwrap());
        let below = Level::NEWEST.0 - 1;
        let held = || vec!["--max-cluster-level".to_owned(), below.to_string()];
        let arguments = if known > below { held() } else { Vec::new() };
        println!("{test}: {} knows the levels up to {known}, this one up to {}", program.display(), Level::NEWEST);
        Some(Older { program, level: known.min(below), arguments })
    }

    /// What `command` does, by the older release.
    fn of(&self, command: &Command) -> Command {
        let mut older = Command::new(&self.program);
        older.args(command.get_args()).args(&self.arguments);
        without_settings(&mut older);
        older
    }
}

/// Builds the binary of the commit before this one.
///
/// # Errors
/// There is none.
fn build() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |arguments: &[&str]| output(Command::new("git").arg("-C").arg(root).args(arguments));
    let history = "there is no git history here, so no previous commit to build";
    let top = git(&["rev-parse", "--show-toplevel"]).map_err(|_| history.to_owned())?;
    if fs::canonicalize(top.trim()).ok() != fs::canonicalize(root).ok() {
        return Err(history.to_owned());
    }
    // What is not committed yet comes after the last commit.
    let changed = !git(&["status", "--porcelain", "--", "src", "proto", "Cargo.toml", "Cargo.lock"])?.is_empty();
    let commit = if changed { "HEAD" } else { "HEAD^" };
    let commit = git(&["rev-parse", "--verify", "--quiet", &format!("{commit}^{{commit}}")])
        .map_err(|_| "the history holds no previous commit (a shallow clone?)".to_owned())?;
    let target = Path::new(env!("CARGO_BIN_EXE_quorate")).ancestors().nth(2).unwrap();
    let (place, program) = (target.join("previous"), target.join("previous/out/debug/quorate"));
    let (sources, built) = (place.join("src"), place.join("commit"));
    if program.exists() && fs::read_to_string(&built).is_ok_and(|of| of == commit) {
        return Ok(program);
    }
    if sources.exists() {
        fs::remove_dir_all(&sources).unwrap();
    }
    fs::create_dir_all(&sources).unwrap();
    let archive =
        Command::new("git").arg("-C").arg(root).args(["archive", commit.trim()]).stdout(Stdio::piped()).spawn();
    let mut archive = archive.unwrap();
    // With the time of now: cargo builds what is younger than what it has built, and a commit may be old.
    let unpacked = Command::new("tar").arg("-xmC").arg(&sources).stdin(archive.stdout.take().unwrap()).status();
    assert!(unpacked.unwrap().success() && archive.wait().unwrap().success(), "the previous commit can't be unpacked");
    rename(&sources);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(cargo);
    // There are no examples. But where some are asked for, what tests need counts for the features of what everything depends
    // on, as with `cargo test`: so that is compiled once for both, and lies where this build's does.
    cargo.current_dir(&sources).args(["build", "--locked", "--quiet", "--bin", "quorate", "--examples"]);
    cargo.env("CARGO_TARGET_DIR", place.join("out")).env("CARGO_BUILD_BUILD_DIR", target);
    assert!(cargo.status().unwrap().success(), "the previous commit {commit} does not build");
    fs::write(built, &commit).unwrap();
    Ok(program)
}

/// Marks the version of the crate in `sources`. By it Cargo tells what it builds of one crate from what it builds of the other one,
/// and takes neither for the other, where both build into one directory.
fn rename(sources: &Path) {
    let read = |name: &str| fs::read_to_string(sources.join(name)).unwrap();
    let (manifest, lock) = (read("Cargo.toml"), read("Cargo.lock"));
    let version = manifest.lines().find(|line| line.starts_with("version = \"")).unwrap();
    let marked = format!("{}+previous\"", version.trim_end_matches('"'));
    let package = |version: &str| format!("name = \"quorate\"\n{version}\n");
    assert!(lock.contains(&package(version)), "the lock file names no {version}");
    fs::write(sources.join("Cargo.toml"), manifest.replacen(version, &marked, 1)).unwrap();
    fs::write(sources.join("Cargo.lock"), lock.replacen(&package(version), &package(&marked), 1)).unwrap();
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Stops a member and starts what `command` says.
async fn restart_as(cluster: &mut Cluster, place: usize, command: Command) {
    let status = tokio::task::block_in_place(|| cluster.stop(place));
    assert!(status.success(), "{status}");
    cluster.start_with(place, command);
    cluster.ready().await;
}

/// The cluster's level, as each of these members has applied it.
async fn levels(cluster: &Cluster, places: &[usize]) -> Vec<u32> {
    let mut levels = Vec::new();
    for place in places {
        let inspected = cluster.client().inspect(&cluster.nodes()[*place].client).await.unwrap();
        levels.push(inspected.cluster_level);
    }
    levels
}

async fn is_raised(cluster: &Cluster, places: &[usize]) {
    let raised = vec![Level::NEWEST.0; places.len()];
    eventually("the level is raised", async || levels(cluster, places).await == raised).await;
}

fn joining(cluster: &Cluster, place: usize, asks: usize) -> Command {
    let mut command = cluster.command_without_cluster(place);
    command.args(["--join", &cluster.nodes()[asks].peer]);
    command
}

/// As etcd's users join: added first, by name and URL, then started with the list of all.
async fn joining_as_etcds_do(cluster: &Cluster, place: usize, asks: usize, members: &[usize]) -> Command {
    let client = cluster.client_of(asks);
    let url = vec![format!("http://{}", cluster.nodes()[place].peer)];
    eventually("it is added", async || {
        // It may be refused in passing; who asks twice hears that there is such a member.
        let _ = client.member_add(url.clone(), false).await;
        client.member_list(true).await.is_ok_and(|list| list.members.iter().any(|member| member.peer_ur_ls == url))
    })
    .await;
    let listed = members.iter().chain([&place]).map(|place| &cluster.nodes()[*place]);
    let listed: Vec<String> = listed.map(|node| format!("{}=http://{}", node.name, node.peer)).collect();
    let mut command = cluster.command_without_cluster(place);
    command.args(["--initial-cluster", &listed.join(","), "--initial-cluster-state", "existing"]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_upgraded_member_by_member_under_load() {
    let Some(older) = Older::find("a_cluster_is_upgraded_member_by_member_under_load") else { return };
    let mut cluster = Cluster::unstarted(Server::Quorate, 3, &[]);
    let all = [0, 1, 2];
    for place in all {
        let command = older.of(&cluster.command(place));
        cluster.start_with(place, command);
    }
    cluster.ready().await;
    let load = Load::start(&cluster, 4);
    load.acknowledged(100).await;
    for place in all {
        assert_eq!(levels(&cluster, &all).await, [older.level; 3], "not before the last one");
        let command = cluster.command(place);
        restart_as(&mut cluster, place, command).await;
        load.acknowledged(50).await;
        if place == 1 {
            // There is a way back as long as somebody knows less.
            for command in [older.of(&cluster.command(place)), cluster.command(place)] {
                restart_as(&mut cluster, place, command).await;
                load.acknowledged(50).await;
            }
        }
    }
    is_raised(&cluster, &all).await;
    load.acknowledged(50).await;
    // Now there is none: what is started is told so, by the others or by its own state.
    tokio::task::block_in_place(|| cluster.stop(0));
    let command = older.of(&cluster.command(0));
    cluster.start_with(0, command);
    let sentence = format!("has level {}", Level::NEWEST);
    eventually("it is told", async || cluster.log(0).contains(&sentence)).await;
    cluster.kill(0);
    cluster.start(0);
    cluster.ready().await;
    is_raised(&cluster, &all).await;
    load.verify(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_two_releases_join_each_other_until_the_level_is_raised() {
    let Some(older) = Older::find("members_of_two_releases_join_each_other_until_the_level_is_raised") else { return };
    let mut cluster = Cluster::unstarted(Server::Quorate, 1, &[]);
    let founder = cluster.command(0);
    cluster.start_with(0, older.of(&founder));
    cluster.ready().await;
    let load = Load::start(&cluster, 3);
    load.acknowledged(50).await;
    // The new one joins the old one; with etcd's flags another new one; an old one joins the two of them.
    let second = cluster.add();
    let command = joining(&cluster, second, 0);
    cluster.start_with(second, command);
    cluster.ready().await;
    let third = cluster.add();
    let command = joining_as_etcds_do(&cluster, third, 0, &[0, second]).await;
    cluster.start_with(third, command);
    cluster.ready().await;
    let fourth = cluster.add();
    let command = older.of(&joining(&cluster, fourth, second));
    cluster.start_with(fourth, command);
    cluster.ready().await;
    let all = [0, second, third, fourth];
    load.acknowledged(50).await;
    assert_eq!(levels(&cluster, &all).await, [older.level; 4]);
    for (place, command) in [(0, founder), (fourth, cluster.command_without_cluster(fourth))] {
        assert_eq!(levels(&cluster, &all).await, [older.level; 4]);
        restart_as(&mut cluster, place, command).await;
    }
    is_raised(&cluster, &all).await;
    // From here on nobody joins who knows less, whichever way it asks.
    let endpoints = cluster.endpoints();
    let late = cluster.add();
    let sentence = format!("has level {}, and this member knows the levels up to", Level::NEWEST);
    let refused = ended(&mut older.of(&joining(&cluster, late, second)));
    refused.assert(1, &["does not let this member join", &sentence]);
    let command = older.of(&joining_as_etcds_do(&cluster, late, second, &all).await);
    cluster.start_with(late, command);
    eventually("it is told", async || cluster.log(late).contains(&sentence)).await;
    cluster.kill(late);
    assert!(!cluster.nodes()[late].data_dir.join("META").exists(), "it belongs to nothing");
    let command = joining(&cluster, late, second);
    cluster.start_with(late, command);
    cluster.ready().await;
    load.acknowledged(50).await;
    assert_eq!(load.compare_with(&endpoints).await, 0);
}

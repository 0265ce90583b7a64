//! Every command of README.md, run in its order, as a reader would who copies them one after another.
//!
//! What is run: fenced blocks marked `sh` (each line a command) and `console` (lines that begin with `$ ` are commands,
//! the lines below them what they print). A line that ends in `\` goes on in the next one; `#` begins a comment. Blocks of
//! any other kind are prose. An HTML comment on the line above a block, which readers don't see, changes how it is run:
//!
//! | comment | effect |
//! |---|---|
//! | `<!-- test: until TEXT -->` | the block's last command stays in the foreground for a reader: it is left running, and the next block begins when it has printed TEXT |
//! | `<!-- test: exit N -->` | the block's last command ends with exit code N |
//! | `<!-- test: skip WHY -->` | not run; WHY is printed |
//! | `<!-- test: needs docker -->` | run where there is an engine and an image to test (`QUORATE_TEST_IMAGE`), in a Compose project of its own |
//!
//! Commands run in a sandbox: an empty directory that is their home, with the built `quorate` first on the PATH. `cargo
//! run --release --` is `quorate`, `target/release/quorate` too; `cargo test` is this test, and like `git`, `cd`, `cargo
//! build` and `cargo install` it is taken as done. `etcdctl` runs if it is there (on the PATH or in `ETCD_BIN_DIR`). The
//! lab's default ports are replaced by free ones, and so are the Compose project's, and its name. `export NAME=VALUE` holds
//! for the commands below it. Without the plugin, `docker compose` is `docker-compose`. What is printed is compared line by line, in order, with numbers and
//! blanks set aside; `…` or `...` stands for any text, and on a line of its own for any lines.
//!
//! At the end the sandbox's lab and its Compose project, if they run, are ended.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[allow(dead_code, reason = "the other half is for tests of the cluster itself")]
#[path = "compose/project.rs"]
mod project;
mod support;

use project::{Docker, MEMBERS, variables};
use quorate::clock;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a command may take, and how long one in the foreground may take to print what is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Ends(i32),
    Until(String),
    Skipped(String),
}

/// A command and what the README says that it prints; empty if it says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    line: usize,
    command: String,
    output: Vec<String>,
    fate: Fate,
    needs_docker: bool,
}

impl Step {
    fn new(line: usize, command: &str) -> Step {
        Step { line, command: command.to_owned(), output: Vec::new(), fate: Fate::Ends(0), needs_docker: false }
    }
}

/// The commands of a README.
fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = (1..).zip(text.lines());
    let (mut fate, mut needs_docker) = (Fate::Ends(0), false);
    while let Some((_, line)) = lines.next() {
        let trimmed = line.trim();
        if trimmed == "<!-- test: needs docker -->" {
            needs_docker = true;
        } else if let Some(comment) = trimmed.strip_prefix("<!-- test:") {
            fate = read_fate(comment.trim_end_matches("-->").trim());
        } else if let Some(kind) = trimmed.strip_prefix("```") {
            let block: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, line)| line.trim() != "```").collect();
            let fate = std::mem::replace(&mut fate, Fate::Ends(0));
            let mut found = match kind.split_whitespace().next() {
                Some("sh") => commands(&block),
                Some("console") => session(&block),
                _ => Vec::new(),
            };
            let needs_docker = std::mem::take(&mut needs_docker);
            found.iter_mut().for_each(|step| step.needs_docker = needs_docker);
            if let Fate::Skipped(_) = fate {
                found.iter_mut().for_each(|step| step.fate = fate.clone());
            } else if let Some(last) = found.last_mut() {
                last.fate = fate;
            }
            steps.extend(found);
        } else if !trimmed.is_empty() {
            assert_eq!(fate, Fate::Ends(0), "a test comment stands above a block, not above {line:?}");
        }
    }
    steps
}

fn read_fate(comment: &str) -> Fate {
    match comment.split_once(' ') {
        Some(("until", text)) => Fate::Until(text.trim().to_owned()),
        Some(("exit", code)) => Fate::Ends(code.trim().parse().unwrap_or_else(|_| panic!("exit {code:?}"))),
        Some(("skip", why)) => Fate::Skipped(why.trim().to_owned()),
        _ => panic!("a test comment says until TEXT, exit N, skip WHY or needs docker, not {comment:?}"),
    }
}

/// An `sh` block: every line is a command.
fn commands(block: &[(usize, &str)]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for (line, text) in block {
        let text = text.trim();
        if goes_on {
            let step = steps.last_mut().unwrap();
            step.command = format!("{}\n{text}", step.command);
        } else if !text.is_empty() && !text.starts_with('#') {
            steps.push(Step::new(*line, text));
        }
        goes_on = text.ends_with('\\');
    }
    steps
}

/// A `console` block: `$ ` begins a command.
fn session(block: &[(usize, &str)]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for (line, text) in block {
        if let Some(command) = text.trim_start().strip_prefix("$ ") {
            let command = command.trim().to_owned();
            goes_on = command.ends_with('\\');
            steps.push(Step::new(*line, &command));
        } else if let Some(step) = steps.last_mut() {
            if goes_on {
                step.command = format!("{}\n{}", step.command, text.trim());
                goes_on = text.trim_end().ends_with('\\');
            } else {
                step.output.push((*text).to_owned());
            }
        }
    }
    steps
}

/// A line as it is compared: every number is `0` (digits grouped by blanks are one number), blanks are one blank.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    for c in line.trim().chars() {
        match c {
            '0'..='9' if plain.ends_with('0') => {}
            '0'..='9' if plain.ends_with("0 ") => drop(plain.pop()),
            '0'..='9' => plain.push('0'),
            // A fraction belongs to its number.
            '.' if plain.ends_with('0') => {}
            c if c.is_whitespace() => {
                if !plain.ends_with(' ') {
                    plain.push(' ');
                }
            }
            c => plain.push(c),
        }
    }
    plain
}

/// Whether a line is as shown: `…` is any text.
fn line_is_as_shown(shown: &str, line: &str) -> bool {
    let (shown, line) = (plain(&shown.replace("...", "…")), plain(line));
    let mut parts = shown.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default().trim_end()) else { return false };
    let Some(last) = shown.contains('…').then(|| shown.rsplit('…').next().unwrap_or_default().trim()) else {
        return rest.is_empty();
    };
    for part in parts.map(str::trim) {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    last.is_empty() || line.ends_with(last)
}

/// The first line that is shown and was not printed, if there is one.
fn missing<'a>(shown: &'a [String], printed: &str) -> Option<&'a str> {
    let mut printed = printed.lines().filter(|line| !line.trim().is_empty()).peekable();
    let mut anything = false;
    for line in shown.iter().map(|line| line.trim()).filter(|line| !line.is_empty()) {
        if line == "…" || line == "..." {
            anything = true;
            continue;
        }
        let found = if anything {
            printed.any(|candidate| line_is_as_shown(line, candidate))
        } else {
            printed.next().is_some_and(|candidate| line_is_as_shown(line, candidate))
        };
        if !found {
            return Some(line);
        }
        anything = false;
    }
    None
}

/// Where the commands run.
struct Sandbox {
    home: tempfile::TempDir,
    path: String,
    etcdctl: bool,
    first_port: u16,
    running: Vec<Child>,
    /// What was exported.
    exports: Vec<(String, String)>,
    compose: Option<Compose>,
}

/// A Compose project for the commands that need one.
struct Compose {
    docker: Docker,
    variables: Vec<(String, String)>,
}

impl Compose {
    fn find() -> Option<Compose> {
        let docker = Docker::find("README.md's commands that need docker")?;
        Some(Compose { variables: variables(&docker), docker })
    }

    fn variable(&self, wanted: &str) -> &str {
        &self.variables.iter().find(|(name, _)| name == wanted).unwrap().1
    }

    fn ports(&self) -> Vec<String> {
        let port = |(name, _): &(&str, u16)| self.variable(&format!("QUORATE_PORT_{}", name.to_uppercase())).to_owned();
        MEMBERS.iter().map(port).collect()
    }

    /// A command line with this project's names and this machine's Compose, which may be the one without `--wait`.
    fn here(&self, command: &str) -> String {
        let project = self.variable("COMPOSE_PROJECT_NAME");
        let command = command.replace(" quorate_", &format!(" {project}_"));
        let command = command.replace("docker compose ", &format!("{} ", self.docker.compose));
        match command.split_once(" --wait") {
            Some((start, rest)) if self.docker.compose == "docker-compose" => {
                format!("{start}{rest} && until quorate status | grep -q HEALTHY; do sleep 1; done")
            }
            _ => command,
        }
    }
}

impl Sandbox {
    fn new() -> Sandbox {
        let home = tempfile::Builder::new().prefix("quorate-readme-").tempdir().unwrap();
        let bin = home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_quorate"), bin.join("quorate")).unwrap();
        let mut path = vec![bin];
        path.extend(std::env::var_os("ETCD_BIN_DIR").map(PathBuf::from));
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let etcdctl = path.iter().any(|dir| dir.join("etcdctl").is_file());
        let path = std::env::join_paths(path).unwrap().into_string().unwrap();
        let first_port = support::lab_port();
        std::os::unix::fs::symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy"), home.path().join("deploy"))
            .unwrap();
        let (running, exports) = (Vec::new(), Vec::new());
        Sandbox { home, path, etcdctl, first_port, running, exports, compose: None }
    }

    /// A command line as it is run here, or why it isn't.
    fn here(&self, command: &str) -> Result<String, &'static str> {
        if command.starts_with("docker build ") {
            return Err("QUORATE_TEST_IMAGE is built already");
        }
        let first = command.split_whitespace().next().unwrap_or_default();
        if command.starts_with("cargo test") {
            return Err("this test is part of it");
        }
        if ["git", "cd"].contains(&first) || command.starts_with("cargo build") || command.starts_with("cargo install")
        {
            return Err("done already");
        }
        if first == "etcdctl" && !self.etcdctl {
            return Err("etcdctl is not there: set ETCD_BIN_DIR");
        }
        let mut command =
            command.replace("cargo run --release -- ", "quorate ").replace("target/release/quorate", "quorate");
        if command == "quorate dev" || command.starts_with("quorate dev -") {
            command = command.replacen("quorate dev", &format!("quorate dev --port {}", self.first_port), 1);
        }
        let ports = self.compose.as_ref().map_or_else(|| self.lab_ports(), Compose::ports);
        for ((_, port), own) in MEMBERS.iter().zip(ports) {
            command = command.replace(&format!(":{port}"), &format!(":{own}"));
        }
        Ok(self.compose.as_ref().map_or(command.clone(), |compose| compose.here(&command)))
    }

    /// The client ports of the lab that runs here.
    fn lab_ports(&self) -> Vec<String> {
        let file = self.home.path().join(".local/state/quorate/dev/default.json");
        let Ok(text) = fs::read_to_string(file) else { return Vec::new() };
        let lab: serde_json::Value = serde_json::from_str(&text).unwrap();
        let port =
            |node: &serde_json::Value| node["client_url"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
        lab["nodes"].as_array().unwrap().iter().map(port).collect()
    }

    fn spawn(&self, command: &str, output: &Path) -> Child {
        let output = File::create(output).unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-c", command]).current_dir(self.home.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if ["ETCD", "QUORATE_", "XDG_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                bash.env_remove(name);
            }
        }
        bash.env("HOME", self.home.path()).env("PATH", &self.path).env("NO_COLOR", "1");
        let variables = self.compose.iter().flat_map(|compose| &compose.variables);
        bash.envs(variables.chain(&self.exports).map(|(name, value)| (name, value)));
        bash.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap()
    }

    /// Runs a step and compares.
    fn run(&mut self, step: &Step) {
        let Step { line, command, output: shown, fate, needs_docker } = step;
        if let Fate::Skipped(why) = fate {
            return println!("README.md:{line}: not run, {why}: {command}");
        }
        if *needs_docker && self.compose.is_none() {
            return println!("README.md:{line}: not run, it needs docker: {command}");
        }
        let own = match self.here(command) {
            Ok(own) => own,
            Err(why) => return println!("README.md:{line}: not run, {why}: {command}"),
        };
        println!("README.md:{line}: {own}");
        if let Some((name, value)) = own.strip_prefix("export ").and_then(|export| export.split_once('=')) {
            return self.exports.push((name.to_owned(), value.to_owned()));
        }
        let output = self.home.path().join(format!("output-{line}"));
        let mut process = self.spawn(&own, &output);
        let printed = || String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned();
        let deadline = clock::instant() + PATIENCE;
        let done = loop {
            let ended = process.try_wait().unwrap();
            match fate {
                Fate::Until(text) if printed().contains(text) => break None,
                _ if ended.is_some() => break ended,
                _ => {}
            }
            assert!(clock::instant() < deadline, "README.md:{line}: {own} takes too long; it printed:\n{}", printed());
            std::thread::sleep(Duration::from_millis(10));
        };
        match (fate, done) {
            (Fate::Until(_), None) => self.running.push(process),
            (Fate::Ends(code), Some(status)) if status.code() == Some(*code) => {}
            (_, done) => {
                panic!("README.md:{line}: {own}: {done:?}, and {fate:?} was expected; it printed:\n{}", printed())
            }
        }
        if let Some(line_shown) = missing(shown, &printed()) {
            panic!("README.md:{line}: {own} did not print {line_shown:?} where it is shown, but:\n{}", printed());
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Nothing to end is fine.
        let end = self.home.path().join("output-end");
        let _ = self.spawn("quorate dev down", &end).wait();
        if let Some(compose) = &self.compose {
            let down = format!("{} -f deploy/compose.yaml down --volumes --timeout 1", compose.docker.compose);
            let _ = self.spawn(&down, &end).wait();
        }
        for process in &mut self.running {
            _ = process.kill();
            _ = process.wait();
        }
    }
}

fn run(readme: &str) {
    let mut sandbox = Sandbox::new();
    let steps = steps(readme);
    assert!(!steps.is_empty(), "there is nothing to run");
    let mut skipped = false;
    for step in &steps {
        if step.needs_docker && sandbox.compose.is_none() && !skipped {
            sandbox.compose = Compose::find();
            skipped = sandbox.compose.is_none();
        }
        sandbox.run(step);
    }
}

#[test]
fn the_readme_does_what_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    run(&fs::read_to_string(path).unwrap());
}

const SAMPLE: &str = "\
# A sample

<!-- test: until ready in -->
```sh
# In one terminal:
cargo run --release -- dev
```

In another one:

```console
$ quorate put hello world
OK
$ quorate get hello
hello
world
$ quorate status
HEALTHY  … · 3 voters · can lose 1 more member · …
...
```

<!-- test: exit 128 -->
```sh
quorate dev kill \\
  n9
```

<!-- test: skip it takes minutes -->
```sh
quorate bench failover --kills 100
```

```sh
cargo test
```

```text
not a command
```
";

#[test]
fn the_conventions_are_read_as_written() {
    let steps = steps(SAMPLE);
    let commands: Vec<&str> = steps.iter().map(|step| step.command.as_str()).collect();
    assert_eq!(
        commands,
        [
            "cargo run --release -- dev",
            "quorate put hello world",
            "quorate get hello",
            "quorate status",
            "quorate dev kill \\\nn9",
            "quorate bench failover --kills 100",
            "cargo test"
        ]
    );
    assert_eq!(steps[0].fate, Fate::Until("ready in".into()));
    assert_eq!(steps[2].output, ["hello", "world"]);
    assert_eq!(steps[4].fate, Fate::Ends(128));
    assert_eq!(steps[5].fate, Fate::Skipped("it takes minutes".into()));
    assert_eq!(steps[6].fate, Fate::Ends(0));
    assert!(!steps[6].needs_docker);
}

#[test]
fn a_block_that_needs_docker_may_have_a_fate_too() {
    let text = "<!-- test: needs docker -->\n<!-- test: exit 1 -->\n```sh\ndocker a\ndocker b\n```\n```sh\nls\n```\n";
    let found: Vec<(bool, Fate)> = steps(text).into_iter().map(|step| (step.needs_docker, step.fate)).collect();
    assert_eq!(found, [(true, Fate::Ends(0)), (true, Fate::Ends(1)), (false, Fate::Ends(0))]);
}

#[test]
fn output_is_compared_without_its_numbers() {
    let shown = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let printed = "n1 killed\n  detect   +1 118 ms   n3 lost it\n\n  elect     +9.2 ms\n";
    assert_eq!(missing(&shown(&["n1 killed", "  detect +7 ms n2 lost it", "elect +31 ms"]), printed), None);
    assert_eq!(missing(&shown(&["...", "  elect +31 ms"]), printed), None);
    assert_eq!(missing(&shown(&["n1 … killed", "…", "elect …"]), printed), None);
    assert_eq!(missing(&shown(&["n1 killed", "elect +31 ms"]), printed), Some("elect +31 ms"));
    assert_eq!(missing(&shown(&["n1 kill"]), printed), Some("n1 kill"));
    assert_eq!(missing(&shown(&["n1 … skilled"]), printed), Some("n1 … skilled"));
    assert_eq!(missing(&shown(&["...", "nothing"]), printed), Some("nothing"));
}

/// The conventions at work, on a README of their own.
#[test]
fn the_sample_does_what_it_says() {
    run(SAMPLE);
}

#[test]
#[should_panic(expected = "did not print \"moon\"")]
fn what_is_shown_and_not_printed_is_an_error() {
    run("```console\n$ echo world\nmoon\n```\n");
}

#[test]
#[should_panic(expected = "Ends(0) was expected")]
fn a_command_that_fails_is_an_error() {
    run("```sh\nfalse\n```\n");
}

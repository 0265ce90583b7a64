//! The cluster of `deploy/compose.yaml` as a project of its own: its containers, volumes and network, and what is done to
//! them. Everything goes through the command line that a person would use. All of it is gone when the value is dropped.

use quorate::client::{Client, Options};
use quorate::clock;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The members of `deploy/compose.yaml` and the ports on this host that it publishes if nothing else is said.
pub const MEMBERS: [(&str, u16); 3] = [("n1", 2379), ("n2", 22379), ("n3", 32379)];

/// What there is to test with.
#[derive(Clone, Debug)]
pub struct Docker {
    /// The tag of the image `quorate`.
    pub tag: String,
    /// `docker compose`, or the older `docker-compose`.
    pub compose: &'static str,
}

impl Docker {
    /// The engine and the image that `QUORATE_TEST_IMAGE` names. Without them nothing is tested, and one line says so; with
    /// `QUORATE_REQUIRE_DOCKER=1` that is a failure.
    pub fn find(test: &str) -> Option<Docker> {
        let why = match Docker::look() {
            Ok(docker) => return Some(docker),
            Err(why) => why,
        };
        let required = std::env::var_os("QUORATE_REQUIRE_DOCKER").is_some_and(|value| value == "1");
        assert!(!required, "{test}: {why}, and QUORATE_REQUIRE_DOCKER is set");
        // Not with a macro: the test runner would swallow it.
        _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
        None
    }

    fn look() -> Result<Docker, String> {
        let image = std::env::var("QUORATE_TEST_IMAGE").unwrap_or_default();
        let Some(tag) = image.strip_prefix("quorate:").filter(|tag| !tag.is_empty()) else {
            return Err("QUORATE_TEST_IMAGE names no image to test, e.g. quorate:latest".to_owned());
        };
        if !succeeds("docker version") {
            return Err("no Docker engine answers (docker version)".to_owned());
        }
        let compose =
            ["docker compose", "docker-compose"].into_iter().find(|words| succeeds(&format!("{words} version")));
        let compose = compose.ok_or("there is neither docker compose nor docker-compose")?;
        Ok(Docker { tag: tag.to_owned(), compose })
    }
}

fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

fn succeeds(line: &str) -> bool {
    words(line).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Runs a command to its end; what it printed, its errors included if `all`.
///
/// # Panics
/// If it fails.
fn run(mut command: Command, all: bool) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if all {
        text += &errors;
    }
    text.trim().to_owned()
}

/// Runs `docker`, to its end.
pub fn docker(line: &str) -> String {
    run(words(&format!("docker {line}")), false)
}

/// The variables that make a project of its own: its name, its ports, its image.
pub fn variables(docker: &Docker) -> Vec<(String, String)> {
    let unique = clock::entropy().0;
    let mut variables = vec![
        ("COMPOSE_PROJECT_NAME".to_owned(), format!("quorate-test-{unique:016x}")),
        ("QUORATE_TAG".to_owned(), docker.tag.clone()),
    ];
    let standard_ports_are_free =
        MEMBERS.iter().all(|(_, port)| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    for (name, port) in MEMBERS {
        let port = if standard_ports_are_free { port } else { crate::support::free_port() };
        variables.push((format!("QUORATE_PORT_{}", name.to_uppercase()), port.to_string()));
    }
    variables
}

/// One project.
#[derive(Debug)]
pub struct Project {
    docker: Docker,
    variables: Vec<(String, String)>,
}

impl Project {
    /// A project of which nothing runs yet.
    pub fn new(docker: &Docker) -> Project {
        Project { docker: docker.clone(), variables: variables(docker) }
    }

    fn variable(&self, wanted: &str) -> &str {
        &self.variables.iter().find(|(name, _)| name == wanted).unwrap().1
    }

    fn command(&self, line: &str) -> Command {
        let mut command = words(&format!("{} -f deploy/compose.yaml {line}", self.docker.compose));
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).envs(self.variables.clone());
        command
    }

    /// Runs `docker compose` on the project.
    pub fn compose(&self, line: &str) {
        run(self.command(line), true);
    }

    /// Where clients on this host go, in the order of the members.
    pub fn endpoints(&self) -> Vec<String> {
        let port = |name: &str| self.variable(&format!("QUORATE_PORT_{}", name.to_uppercase()));
        MEMBERS.iter().map(|(name, _)| format!("127.0.0.1:{}", port(name))).collect()
    }

    /// A client of one member, through its published port.
    pub fn client_of(&self, place: usize) -> Client {
        Client::new(&self.endpoints()[place..=place], Options::default()).unwrap()
    }

    /// A member's container, whatever state it is in.
    pub fn container(&self, name: &str) -> String {
        let label = |key: &str, value: &str| format!("--filter label=com.docker.compose.{key}={value}");
        let project = self.variable("COMPOSE_PROJECT_NAME");
        docker(&format!("ps -aq --no-trunc {} {}", label("project", project), label("service", name)))
    }

    /// A field of what the engine knows of a member's container, in the notation of `docker inspect --format`.
    pub fn inspect(&self, name: &str, field: &str) -> String {
        docker(&format!("inspect --format {{{{{field}}}}} {}", self.container(name)))
    }

    /// All that a member has logged since its container was made.
    pub fn log(&self, name: &str) -> String {
        run(words(&format!("docker logs {}", self.container(name))), true)
    }

    /// Takes a member off the network; its published port is gone with it.
    pub fn disconnect(&self, name: &str) {
        docker(&format!("network disconnect {} {}", self.network(), self.container(name)));
    }

    /// Puts it on the network again, under its name.
    pub fn connect(&self, name: &str) {
        docker(&format!("network connect --alias {name} {} {}", self.network(), self.container(name)));
    }

    fn network(&self) -> String {
        format!("{}_default", self.variable("COMPOSE_PROJECT_NAME"))
    }

    /// Writes what is in a member's volume to a file.
    pub fn copy_volume(&self, name: &str, to: &Path) {
        let mut command = words(&format!("docker cp {}:/data/. -", self.container(name)));
        let status = command.stdout(File::create(to).unwrap()).status().unwrap();
        assert!(status.success(), "{command:?}: {status}");
    }

    /// Removes a member's container and its volume, and makes both anew, empty and not started.
    pub fn wipe(&self, name: &str) {
        self.compose(&format!("rm --stop --force {name}"));
        docker(&format!("volume rm {}_{name}", self.variable("COMPOSE_PROJECT_NAME")));
        self.compose(&format!("up --no-start {name}"));
    }

    /// Fills a member's volume from a file.
    pub fn fill_volume(&self, name: &str, from: &PathBuf) {
        let mut command = words(&format!("docker cp - {}:/data", self.container(name)));
        let status = command.stdin(File::open(from).unwrap()).status().unwrap();
        assert!(status.success(), "{command:?}: {status}");
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A second panic would end the process before anything is cleaned up.
            let tail = self.command("logs --tail 40").output();
            eprintln!("{}", tail.map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stdout).into_owned()));
        }
        // What is paused can't be stopped; usually nothing is.
        _ = self.command("unpause").output();
        let down = self.command("down --volumes --remove-orphans --timeout 1").output();
        if !down.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("{} is not cleaned up: {down:?}", self.variable("COMPOSE_PROJECT_NAME"));
        }
    }
}

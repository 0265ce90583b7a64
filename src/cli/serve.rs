//! `quorate serve`: one member of a cluster; also what the binary is when it is called `etcd`.
//!
//! Absent: everything that a member does; see `server`.

use crate::server;
use crate::server::api::ETCD_VERSION;
use crate::server::config::{CalledAs, Config, ConfigError};
use crate::server::flags::{self, Settings};
use clap::{ArgMatches, Command, FromArgMatches};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;

/// How a member is started: alone, and as the first of three.
const EXAMPLES: &str = "Examples:
  quorate serve
  quorate serve --name n1 --data-dir /var/lib/quorate \\
    --listen-client-urls http://10.0.0.1:2379 --listen-peer-urls http://10.0.0.1:2380 \\
    --initial-cluster n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n3=http://10.0.0.3:2380

Each flag is also a variable: QUORATE_DATA_DIR, else ETCD_DATA_DIR, for --data-dir.";

/// The server's flags, as given: etcd's, all of them.
#[derive(Clone, Debug, Default)]
pub struct Args {
    settings: Settings,
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        flags::augment(command).after_help(EXAMPLES)
    }

    fn augment_args_for_update(command: Command) -> Command {
        flags::augment(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Args, clap::Error> {
        Ok(Args { settings: flags::given(matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.settings = flags::given(matches);
        Ok(())
    }
}

/// The exit code for a command line that can't be parsed: the server's in etcd, where the client's is another.
pub const BAD_ARGS: u8 = 2;

/// Runs a member until it is told to stop, or can't go on.
pub fn run(args: Args) -> ExitCode {
    start(args, CalledAs::Quorate)
}

/// Whether the program was called `etcd`.
pub fn is_etcd(args: &[OsString]) -> bool {
    flags::called_etcd(args.first())
}

/// The whole program, when it is called `etcd`.
pub fn run_as_etcd(args: Vec<OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().map(flags::two_dashes).collect();
    if args.iter().any(|arg| arg == "--version") {
        let (ours, os, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
        let text = format!("etcd Version: {ETCD_VERSION}\nQuorate Version: {ours}\nOS/Arch: {os}/{arch}\n");
        return super::exit::finish(super::output::print(text));
    }
    let about =
        "Quorate with etcd's command line: one member of a replicated key-value store that speaks etcd's v3 API";
    let command = flags::augment(Command::new("etcd").about(about));
    match command.try_get_matches_from(args).and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => start(args, CalledAs::Etcd),
        Err(error) => error.exit(),
    }
}

/// The command line of `quorate`, with Go's single dashes made double behind `serve`.
pub fn two_dashes(args: Vec<OsString>) -> Vec<OsString> {
    if args.get(1).is_some_and(|arg| arg == "serve") { args.into_iter().map(flags::two_dashes).collect() } else { args }
}

fn start(args: Args, called: CalledAs) -> ExitCode {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match config(args, &environment, called) {
        Ok(config) => server::run(&config),
        Err(error) => {
            eprintln!("quorate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn config(args: Args, environment: &BTreeMap<String, String>, called: CalledAs) -> Result<Config, ConfigError> {
    let mut settings = args.settings;
    let unknown = settings.merge_environment(environment);
    let mut config = Config::new(&settings, called)?;
    config.notices.extend(unknown);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_link_called_etcd_is_recognised() {
        assert!(is_etcd(&words("/usr/bin/etcd --name a")));
        assert!(!is_etcd(&words("/usr/bin/quorate serve")));
        assert!(!is_etcd(&words("/etcd/quorate serve")));
    }

    #[test]
    fn single_dashes_are_doubled_behind_serve_only() {
        assert_eq!(two_dashes(words("quorate serve -name=a -x")), words("quorate serve --name=a -x"));
        assert_eq!(two_dashes(words("quorate get -name")), words("quorate get -name"));
    }

    #[test]
    fn the_environment_reaches_the_configuration() {
        let environment = BTreeMap::from([
            ("ETCD_NAME".to_string(), "n7".to_string()),
            ("ETCD_NAMES".to_string(), "x".to_string()),
            ("ETCD_CLIENT_CERT_AUTH".to_string(), "true".to_string()),
        ]);
        let refused = config(Args::default(), &environment, CalledAs::Quorate).unwrap_err();
        assert!(refused.0.starts_with("ETCD_CLIENT_CERT_AUTH is refused"), "{refused}");
        let harmless = environment.into_iter().filter(|(name, _)| name != "ETCD_CLIENT_CERT_AUTH").collect();
        let config = config(Args::default(), &harmless, CalledAs::Quorate).unwrap();
        assert_eq!(config.name, "n7");
        assert_eq!(config.notices, ["the variable ETCD_NAMES means nothing and is ignored: did you mean ETCD_NAME?"]);
    }
}

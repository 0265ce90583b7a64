//! The binary called `etcdctl`: the same commands under etcdctl's command line.
//!
//! Each command of etcdctl's that is there is the one that `quorate` has, so its flags, its output and its exit codes hold
//! for both, and are compared with the real etcdctl's in `tests/etcd_compat/etcdctl.rs`. What is done here is the rest: its
//! variables and no others, its default endpoint (a running lab is not looked for), its exit codes for a command line that
//! can't be read, and a sentence for each command that is missing.
//!
//! | etcdctl 3.5 | this one |
//! |---|---|
//! | `auth`, `user`, `role`, `member add, remove, update, promote`, `check` | a sentence, exit code 1 |
//! | a variable that a flag overrides is fatal | the flag wins |
//! | `-w protobuf` | refused |
//! | `-w table` where there is no table: does the deed, then complains | complains first |
//! | errors on stderr | other words: what, why and how to go on |
//! | `lock`: a command goes on when the lock is lost | it is ended |
//! | `make-mirror` prints a count of keys on stdout now and then | it reports on stderr |
//! | `lock NAME CMD -x`: flags of the command need `--` before it | they may, they need not |

use super::exit::BAD_ARGS;
use super::{Cli, dispatch, output};
use crate::server::api::ETCD_VERSION;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, FromArgMatches};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// The commands that both have, by our names.
const COMMANDS: [&str; 18] = [
    "get",
    "put",
    "del",
    "txn",
    "watch",
    "lease",
    "lock",
    "elect",
    "compact",
    "defrag",
    "alarm",
    "endpoint",
    "member",
    "move-leader",
    "mirror",
    "completion",
    "snapshot",
    "version",
];

/// etcdctl's commands that are missing, and what there is instead.
const MISSING: [(&str, &str); 5] = [
    ("auth", "auth is not supported yet"),
    ("user", "auth is not supported yet"),
    ("role", "auth is not supported yet"),
    ("check", "the load of `check perf` is measured by: quorate bench"),
    ("downgrade", "there is no other version to go back to"),
];

/// Its variables, by the ids of the options that they set.
const VARIABLES: [(&str, &str); 5] = [
    ("endpoints", "ETCDCTL_ENDPOINTS"),
    ("write_out", "ETCDCTL_WRITE_OUT"),
    ("dial_timeout", "ETCDCTL_DIAL_TIMEOUT"),
    ("command_timeout", "ETCDCTL_COMMAND_TIMEOUT"),
    ("hex", "ETCDCTL_HEX"),
];

/// Whether the binary was called `etcdctl`, by a link or a copy of that name.
pub fn is_etcdctl(args: &[OsString]) -> bool {
    let name = args.first().and_then(|program| Path::new(program).file_name());
    name.is_some_and(|name| name == OsStr::new("etcdctl"))
}

/// The whole program, when it is called `etcdctl`.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let mut command = command();
    let args = go_booleans(args, &command);
    let parsed = command.try_get_matches_from_mut(args).and_then(|matches| {
        let missing = MISSING.iter().find(|(name, _)| matches.subcommand_name() == Some(name));
        if let Some((name, instead)) = missing {
            return Err(command.error(ErrorKind::InvalidSubcommand, format!("etcdctl {name}: {instead}")));
        }
        Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
    });
    let mut cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Printing fails only if nobody reads, and then there is nobody to tell.
            _ = error.print();
            return ExitCode::from(code(&error));
        }
    };
    if cli.global.endpoints.is_empty() {
        cli.global.endpoints = vec!["127.0.0.1:2379".to_owned()];
    }
    match cli.command {
        super::Command::Version => {
            let ours = env!("CARGO_PKG_VERSION");
            let text = format!("etcdctl version: {ETCD_VERSION}\nAPI version: 3.5\nQuorate version: {ours}\n");
            super::exit::finish(output::print(text))
        }
        super::Command::Completion(args) => super::exit::finish(super::completion::run(&args, command)),
        theirs => dispatch(cli.global, theirs),
    }
}

/// etcdctl's command line.
fn command() -> clap::Command {
    let ours = VARIABLES
        .into_iter()
        .fold(super::command(), |command, (id, variable)| command.mut_arg(id, |option| option.env(variable)));
    let commands: Vec<clap::Command> =
        ours.get_subcommands().filter(|command| COMMANDS.contains(&command.get_name())).cloned().collect();
    let stub = |(name, instead): (&'static str, &'static str)| {
        let rest = clap::Arg::new("rest").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
        clap::Command::new(name).about(instead).hide(true).arg(rest).disable_help_flag(true)
    };
    clap::Command::new("etcdctl")
        .about("Quorate with etcdctl's command line: a client of any etcd v3 server")
        .version(env!("CARGO_PKG_VERSION"))
        .args(ours.get_arguments())
        .subcommands(commands)
        .subcommands(MISSING.map(stub))
        .subcommand_required(true)
        .arg_required_else_help(true)
}

/// etcdctl's exit code for a command line that can't be read: what its parser refuses is an error like any other, what
/// the command refuses (a word too few or too many) is not.
fn code(error: &clap::Error) -> u8 {
    let is_flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) => arg.starts_with('-'),
        _ => false,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => 0,
        ErrorKind::InvalidSubcommand => 1,
        ErrorKind::MissingSubcommand => 0,
        _ if is_flag => 1,
        _ => BAD_ARGS,
    }
}

/// The command line with flags as clap knows them: Go's may be given a value, `--prefix=true`.
///
/// What a command is to run is left alone: all behind `--`, and all of a command that takes a command line.
pub fn go_booleans(args: Vec<OsString>, command: &clap::Command) -> Vec<OsString> {
    let mut command = command;
    let mut flags: Vec<&clap::Arg> = command.get_arguments().collect();
    let mut heeded = true;
    args.into_iter()
        .filter_map(|word| {
            let text = word.to_str().unwrap_or_default();
            heeded &= text != "--" && !command.get_positionals().any(clap::Arg::is_trailing_var_arg_set);
            if !heeded {
                return Some(word);
            }
            if let Some(inner) = command.find_subcommand(text) {
                command = inner;
                flags.extend(inner.get_arguments());
                return Some(word);
            }
            let Some((flag, value)) = text.split_once('=') else { return Some(word) };
            let is_switch = |arg: &&clap::Arg| {
                matches!(arg.get_action(), ArgAction::SetTrue)
                    && flag.strip_prefix("--").is_some_and(|name| arg.get_long() == Some(name))
            };
            match value {
                _ if !flags.iter().any(is_switch) => Some(word),
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(flag.into()),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => None,
                _ => Some(word),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn exit_code(line: &str) -> u8 {
        code(&command().try_get_matches_from(go_booleans(words(line), &command())).unwrap_err())
    }

    #[test]
    fn a_link_called_etcdctl_is_recognised() {
        assert!(is_etcdctl(&words("/usr/bin/etcdctl get a")));
        assert!(!is_etcdctl(&words("/usr/bin/quorate etcdctl")));
        assert!(!is_etcdctl(&words("/etcdctl/quorate")));
    }

    #[test]
    fn every_command_of_etcdctls_is_there_or_has_a_sentence() {
        command().debug_assert();
        for line in
            ["compaction 1", "make-mirror b:1", "get a --prefix=true", "lease list", "version", "lock l -- echo"]
        {
            let args = go_booleans(words(&format!("etcdctl {line}")), &command());
            let matches = command().try_get_matches_from(args).unwrap();
            Cli::from_arg_matches(&matches).unwrap();
        }
        for line in ["auth enable", "user add root --no-password", "check perf --load=s", "snapshot save f"] {
            command().try_get_matches_from(words(&format!("etcdctl {line}"))).unwrap();
        }
        for ours in ["status", "serve", "dev", "bench"] {
            assert_eq!(exit_code(&format!("etcdctl {ours}")), 1, "{ours}");
        }
    }

    #[test]
    fn exit_codes_of_bad_lines_are_etcdctls() {
        for (line, code) in [
            ("get", 128),
            ("lease grant", 128),
            ("lease grant x", 128),
            ("move-leader zz", 128),
            ("get a --frob", 1),
            ("get a --limit x", 1),
            ("get a --prefix=maybe", 1),
            ("frob", 1),
            ("--help", 0),
        ] {
            assert_eq!(exit_code(&format!("etcdctl {line}")), code, "{line}");
        }
        assert_eq!(exit_code("etcdctl"), 0);
        assert_eq!(exit_code("etcdctl lease"), 0);
    }

    #[test]
    fn switches_take_gos_values_and_what_is_run_is_left_alone() {
        let line = |text: &str| {
            let words = go_booleans(words(text), &super::super::command());
            words.join(OsStr::new(" ")).into_string().unwrap()
        };
        assert_eq!(line("quorate get a --prefix=true --keys-only=false --limit=1"), "quorate get a --prefix --limit=1");
        assert_eq!(line("quorate --hex=1 lease timetolive a --keys=T"), "quorate --hex lease timetolive a --keys");
        assert_eq!(line("quorate put a -- --prev-kv=true"), "quorate put a -- --prev-kv=true");
        assert_eq!(line("quorate lock l cmd --hex=true"), "quorate lock l cmd --hex=true");
        assert_eq!(line("quorate watch k -- c --prefix=false"), "quorate watch k -- c --prefix=false");
    }
}

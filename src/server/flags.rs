//! etcd's command line, as data.
//!
//! One table names every server flag of etcd 3.5 and 3.6 and says what becomes of it here: it is *used*, it is
//! *accepted* (it tunes something that is not here; all such flags share one line of notice), or it is *refused*, because
//! going on without it would break a promise: that traffic is encrypted, that callers are known, that data are synced. A
//! server that takes `--client-cert-auth` and lets everybody in is worse than one that does not start. Three flags are our
//! own: `--join`, `--max-range-bytes` and `--max-ranges-bytes`.
//!
//! Every flag `--a-b` can also be given as `QUORATE_A_B` and `ETCD_A_B`; the command line wins over `QUORATE_`, which wins
//! over `ETCD_`. As in Go, one dash is as good as two, an empty variable counts as unset, and a boolean takes its value
//! with `=` only.
//!
//! Absent: what values mean (`config.rs`).

use clap::builder::StyledStr;
use clap::{Arg, ArgMatches, Command};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

/// What becomes of a flag.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// It does what it does in etcd.
    Used {
        /// Its default, as shown in the help.
        default: &'static str,
        /// One line of help.
        help: &'static str,
    },
    /// It is taken, and changes nothing.
    Accepted,
    /// It would promise what is not kept. Given one of the `harmless` values, it promises nothing and is accepted.
    Refused {
        /// Values that ask for nothing.
        harmless: &'static [&'static str],
        /// What is not there, and what to do.
        why: &'static str,
    },
}

/// A flag of etcd's.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// Whether a value may be left out, as Go's boolean flags have it.
    pub boolean: bool,
    /// What becomes of it.
    pub fate: Fate,
}

const fn used(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, boolean: false, fate: Fate::Used { default, help } }
}

const fn used_switch(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, boolean: true, fate: Fate::Used { default, help } }
}

const fn accepted(name: &'static str) -> Flag {
    Flag { name, boolean: false, fate: Fate::Accepted }
}

const fn accepted_switch(name: &'static str) -> Flag {
    Flag { name, boolean: true, fate: Fate::Accepted }
}

const fn refused(name: &'static str, harmless: &'static [&'static str], why: &'static str) -> Flag {
    Flag { name, boolean: false, fate: Fate::Refused { harmless, why } }
}

const fn refused_switch(name: &'static str, why: &'static str) -> Flag {
    Flag { name, boolean: true, fate: Fate::Refused { harmless: &["false", "0", "f", "F", "FALSE", "False"], why } }
}

const TLS: &str = "TLS is not there yet, and traffic that was promised to be encrypted must not travel in the clear. \
    Leave the flag out and keep the ports on a private network or behind a TLS proxy";
const AUTH: &str = "callers can't be told apart yet, and a door that was promised to be locked must not stand open. \
    Leave the flag out and let only trusted hosts reach the port";
const DISCOVERY: &str = "members are not discovered yet. Name them all with --initial-cluster";
const CONFIG: &str = "a configuration file is not read yet, and starting without what it says would be another server \
    than the one you asked for. Give its settings as flags or ETCD_* variables";

/// Every flag. Sorted by what becomes of it.
pub const FLAGS: &[Flag] = &[
    used("name", "default", "This member's name, as in --initial-cluster"),
    used("data-dir", "", "Where its data live [default: <name>.quorate; called etcd: <name>.etcd]"),
    used("listen-client-urls", "http://localhost:2379", "Where clients are listened to"),
    used("advertise-client-urls", "", "Where clients are told to come [default: --listen-client-urls]"),
    used("listen-peer-urls", "http://localhost:2380", "Where the other members are listened to"),
    used("initial-advertise-peer-urls", "", "Where the other members find this one [default: --listen-peer-urls]"),
    used("initial-cluster", "", "All first members, as name=url,name=url [default: this one alone]"),
    used("initial-cluster-state", "new", "new, or existing for a member of a running cluster"),
    used("initial-cluster-token", "etcd-cluster", "Told apart by it: clusters made from the same URLs"),
    used("join", "", "Join the cluster of these peers, as host:port,host:port (their --listen-peer-urls)"),
    used("max-learners", "1", "How many members may learn until somebody asks for them to vote"),
    used("experimental-max-learners", "", "What etcd 3.5 calls --max-learners"),
    used(
        "max-cluster-level",
        "",
        "Keeps the cluster's level from being raised above this [default: what is known here]",
    ),
    used("heartbeat-interval", "100", "Milliseconds between a leader's heartbeats"),
    used("election-timeout", "1000", "Milliseconds without a leader before an election"),
    used("quota-backend-bytes", "0", "What keys, values and versions may take, in bytes; 0: 2 GiB; -1: no limit"),
    used(
        "nospace-alarm",
        "clears-itself",
        "clears-itself under 90 % of the quota, or stays until disarmed, as in etcd",
    ),
    used("auto-compaction-mode", "periodic", "What history goes by itself: periodic (by time) or revision (by number)"),
    used("auto-compaction-retention", "1h", "How much history stays: 1h, 10m, hours, or revisions; 0: all of it"),
    used("snapshot-count", "10000", "The raft log is cut each so many entries"),
    used("snapshot-catchup-entries", "5000", "Entries that stay then, for members that lag"),
    used("experimental-snapshot-catchup-entries", "", "What etcd 3.5 calls --snapshot-catchup-entries"),
    used("max-request-bytes", "1572864", "The largest request, in bytes"),
    used("max-txn-ops", "128", "The most operations in one transaction"),
    used("max-range-bytes", "536870912", "The most memory that one answer to a range may take, in bytes; 0: any"),
    used("max-ranges-bytes", "1073741824", "The most memory that all answers to ranges may take at once; 0: any"),
    used("max-concurrent-streams", "4294967295", "The most calls at once on one client connection"),
    used("grpc-keepalive-interval", "2h", "How long a client connection may be idle before it is pinged; 0: for ever"),
    used("grpc-keepalive-timeout", "20s", "How long a pinged client may be silent before it is cut off"),
    used("watch-progress-notify-interval", "10m", "How long a watcher that asked for it goes without an answer"),
    used("experimental-watch-progress-notify-interval", "", "The same, as etcd 3.5 names it"),
    used_switch("enable-grpc-gateway", "true", "Whether the API is served as JSON below /v3/ too"),
    used("cors", "*", "Origins whose pages may read what is served as JSON, with commas; * for any"),
    used(
        "warning-unary-request-duration",
        "300ms",
        "A request that takes longer is logged, with its stages and the likely cause",
    ),
    used("warning-apply-duration", "100ms", "A turn that applies for longer is counted"),
    used("experimental-warning-unary-request-duration", "", "What etcd 3.5 calls --warning-unary-request-duration"),
    used("experimental-warning-apply-duration", "", "What etcd 3.5 calls --warning-apply-duration"),
    used("log-level", "info", "debug, info, warn or error"),
    used("log-format", "", "console or json [default: console; called etcd: json]"),
    used("log-outputs", "default", "stderr, stdout or file names, with commas"),
    // Tunes what is not here.
    accepted("auth-token-ttl"),
    accepted("backend-batch-interval"),
    accepted("backend-batch-limit"),
    accepted("backend-bbolt-freelist-type"),
    accepted("bcrypt-cost"),
    accepted("bootstrap-defrag-threshold-megabytes"),
    accepted("compaction-batch-limit"),
    accepted("compaction-sleep-interval"),
    accepted("corrupt-check-time"),
    accepted("compact-hash-check-time"),
    accepted("discovery-failure"),
    accepted("discovery-fallback"),
    accepted("distributed-tracing-address"),
    accepted("distributed-tracing-instance-id"),
    accepted("distributed-tracing-sampling-rate"),
    accepted("distributed-tracing-service-name"),
    accepted("downgrade-check-time"),
    accepted("experimental-bootstrap-defrag-threshold-megabytes"),
    accepted("experimental-compact-hash-check-time"),
    accepted("experimental-compaction-batch-limit"),
    accepted("experimental-compaction-sleep-interval"),
    accepted("experimental-corrupt-check-time"),
    accepted("experimental-distributed-tracing-address"),
    accepted("experimental-distributed-tracing-instance-id"),
    accepted("experimental-distributed-tracing-sampling-rate"),
    accepted("experimental-distributed-tracing-service-name"),
    accepted("experimental-downgrade-check-time"),
    accepted("feature-gates"),
    accepted("grpc-keepalive-min-time"),
    accepted("listen-client-http-urls"),
    accepted("listen-metrics-urls"),
    accepted("log-rotation-config-json"),
    accepted("logger"),
    accepted("max-snapshots"),
    accepted("max-wals"),
    accepted("metrics"),
    accepted("raft-read-timeout"),
    accepted("raft-write-timeout"),
    accepted("self-signed-cert-validity"),
    accepted("v2-deprecation"),
    accepted("wal-dir"),
    accepted_switch("compact-hash-check-enabled"),
    accepted_switch("enable-distributed-tracing"),
    accepted_switch("enable-lease-checkpoint"),
    accepted_switch("enable-log-rotation"),
    accepted_switch("enable-pprof"),
    accepted_switch("enable-v2"),
    accepted_switch("experimental-compact-hash-check-enabled"),
    accepted_switch("experimental-enable-distributed-tracing"),
    accepted_switch("experimental-enable-lease-checkpoint"),
    accepted_switch("experimental-enable-lease-checkpoint-persist"),
    accepted_switch("experimental-initial-corrupt-check"),
    accepted_switch("experimental-memory-mlock"),
    accepted_switch("experimental-stop-grpc-service-on-defrag"),
    accepted_switch("experimental-txn-mode-write-with-shared-buffer"),
    accepted_switch("initial-corrupt-check"),
    accepted_switch("initial-election-tick-advance"),
    accepted_switch("memory-mlock"),
    accepted_switch("pre-vote"),
    accepted_switch("socket-reuse-address"),
    accepted_switch("socket-reuse-port"),
    accepted_switch("stop-grpc-service-on-defrag"),
    accepted_switch("strict-reconfig-check"),
    // Promises what is not kept.
    refused("cert-file", &[], TLS),
    refused("cipher-suites", &[], TLS),
    refused("client-cert-allowed-hostname", &[], AUTH),
    refused("client-cert-file", &[], TLS),
    refused("client-crl-file", &[], AUTH),
    refused("client-key-file", &[], TLS),
    refused("key-file", &[], TLS),
    refused("peer-cert-allowed-cn", &[], AUTH),
    refused("peer-cert-allowed-hostname", &[], AUTH),
    refused("peer-cert-file", &[], TLS),
    refused("peer-client-cert-file", &[], TLS),
    refused("peer-client-key-file", &[], TLS),
    refused("peer-crl-file", &[], AUTH),
    refused("peer-key-file", &[], TLS),
    refused("peer-trusted-ca-file", &[], AUTH),
    refused("tls-max-version", &[], TLS),
    refused("tls-min-version", &[], TLS),
    refused("trusted-ca-file", &[], AUTH),
    refused_switch("auto-tls", TLS),
    refused_switch("client-cert-auth", AUTH),
    refused_switch("experimental-peer-skip-client-san-verification", TLS),
    refused_switch("peer-auto-tls", TLS),
    refused_switch("peer-client-cert-auth", AUTH),
    refused_switch("peer-skip-client-san-verification", TLS),
    refused("auth-token", &["simple"], AUTH),
    refused("host-whitelist", &["*"], AUTH),
    refused("config-file", &[], CONFIG),
    refused("discovery", &[], DISCOVERY),
    refused("discovery-endpoints", &[], DISCOVERY),
    refused("discovery-proxy", &[], DISCOVERY),
    refused("discovery-srv", &[], DISCOVERY),
    refused("discovery-srv-name", &[], DISCOVERY),
    refused("discovery-token", &[], DISCOVERY),
    refused("proxy", &["off"], "there is no proxy mode. Point clients at the members themselves"),
    refused_switch(
        "force-new-cluster",
        "it would let this member forget the others and go on alone, with whatever it happens to have, which is not \
         there yet. Start the other members, a majority of which can go on",
    ),
    refused_switch(
        "unsafe-no-fsync",
        "an answer here means that the write is on the disks of a majority, and there is no switch to make it mean \
         less. Leave the flag out",
    ),
];

/// Where a value came from, for sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The value as written.
    pub value: String,
    /// `--name` or the variable.
    pub source: String,
}

/// What was given, by flag name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    given: BTreeMap<&'static str, Given>,
}

impl Settings {
    /// A value that was given for a flag, not a default.
    pub fn get(&self, name: &str) -> Option<&Given> {
        self.given.get(name)
    }

    /// All that was given.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Given)> {
        self.given.iter().map(|(name, given)| (*name, given))
    }

    /// Adds what the environment says about flags that the command line left out. Returns what looks like one of our
    /// variables and is none, each as a sentence.
    pub fn merge_environment(&mut self, environment: &BTreeMap<String, String>) -> Vec<String> {
        for flag in FLAGS {
            for variable in variables(flag.name) {
                let Some(value) = environment.get(&variable).filter(|value| !value.is_empty()) else { continue };
                self.given.entry(flag.name).or_insert_with(|| Given { value: value.clone(), source: variable });
            }
        }
        let known: BTreeSet<String> = FLAGS.iter().flat_map(|flag| variables(flag.name)).collect();
        environment.keys().filter(|variable| !known.contains(*variable)).filter_map(|v| unknown(v, &known)).collect()
    }
}

/// The variables of a flag, the one that wins first.
fn variables(flag: &str) -> [String; 2] {
    let name = flag.to_uppercase().replace('-', "_");
    [format!("QUORATE_{name}"), format!("ETCD_{name}")]
}

/// What to say about a variable that is none of the `known`. A `QUORATE_` variable may be the client's, so it is mentioned
/// only when it is all but one of the server's.
fn unknown(variable: &str, known: &BTreeSet<String>) -> Option<String> {
    // A guess is worth making if most of the name agrees.
    let close = known
        .iter()
        .map(|candidate| (distance(variable, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 5).min(2));
    match close {
        Some((_, candidate)) if variable.starts_with("ETCD_") || variable.starts_with("QUORATE_") => {
            Some(format!("the variable {variable} means nothing and is ignored: did you mean {candidate}?"))
        }
        _ if variable.starts_with("ETCD_") => Some(format!("the variable {variable} means nothing and is ignored")),
        _ => None,
    }
}

/// How many letters to change, add or drop to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Adds the flags to a command.
pub fn augment(command: Command) -> Command {
    FLAGS.iter().fold(command, |command, flag| command.arg(arg(flag)))
}

fn arg(flag: &Flag) -> Arg {
    let arg = Arg::new(flag.name).long(flag.name).overrides_with(flag.name);
    let arg = if flag.boolean {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        arg.num_args(1).allow_hyphen_values(true)
    };
    match flag.fate {
        Fate::Used { default, help } => {
            let shown = if default.is_empty() { help.to_string() } else { format!("{help} [default: {default}]") };
            arg.help(StyledStr::from(shown)).value_name("VALUE")
        }
        Fate::Accepted | Fate::Refused { .. } => arg.hide(true),
    }
}

/// What the command line gave.
pub fn given(matches: &ArgMatches) -> Settings {
    let given = FLAGS.iter().filter_map(|flag| {
        let value = matches.get_one::<String>(flag.name)?.clone();
        Some((flag.name, Given { value, source: format!("--{}", flag.name) }))
    });
    Settings { given: given.collect() }
}

/// Go's way with dashes: `-name=x` is `--name=x`. Only names of the table are touched.
pub fn two_dashes(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else { return argument };
    let Some(rest) = text.strip_prefix('-').filter(|rest| !rest.starts_with('-')) else { return argument };
    let name = rest.split('=').next().unwrap_or(rest);
    let known = FLAGS.iter().any(|flag| flag.name == name) || name == "version" || name == "help";
    if known { OsString::from(format!("--{rest}")) } else { argument }
}

/// Whether the program was called `etcd`, by a link or a copy.
pub fn called_etcd(program: Option<&OsString>) -> bool {
    let name = program.and_then(|program| std::path::Path::new(program).file_name());
    name.is_some_and(|name| name == OsStr::new("etcd") || name == OsStr::new("etcd.exe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Settings, clap::Error> {
        let args = line.iter().map(|word| two_dashes(OsString::from(word)));
        let matches = augment(Command::new("serve").no_binary_name(true)).try_get_matches_from(args)?;
        Ok(given(&matches))
    }

    fn value(settings: &Settings, name: &str) -> Option<String> {
        settings.get(name).map(|given| given.value.clone())
    }

    #[test]
    fn no_flag_stands_in_the_table_twice() {
        let names: BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(names.len(), FLAGS.len());
    }

    #[test]
    fn gos_ways_of_writing_a_flag_are_understood() {
        let settings = parse(&["-name", "a", "-data-dir=/x", "--pre-vote", "-enable-pprof=false", "--cors=*"]).unwrap();
        assert_eq!(value(&settings, "name").as_deref(), Some("a"));
        assert_eq!(value(&settings, "data-dir").as_deref(), Some("/x"));
        assert_eq!(value(&settings, "pre-vote").as_deref(), Some("true"));
        assert_eq!(value(&settings, "enable-pprof").as_deref(), Some("false"));
        let last_wins = parse(&["--name", "a", "--name", "b"]).unwrap();
        assert_eq!(value(&last_wins, "name").as_deref(), Some("b"));
    }

    #[test]
    fn an_unknown_flag_gets_a_guess() {
        let error = parse(&["--listen-client-url", "http://localhost:1"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("'--listen-client-urls'"), "{error}");
    }

    #[test]
    fn the_command_line_wins_over_quorate_over_etcd() {
        let environment: BTreeMap<String, String> = [
            ("ETCD_NAME", "from-etcd"),
            ("QUORATE_NAME", "from-quorate"),
            ("ETCD_DATA_DIR", "/etcd"),
            ("QUORATE_DATA_DIR", "/quorate"),
            ("ETCD_LOG_LEVEL", "debug"),
            ("ETCD_LOG_FORMAT", ""),
        ]
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .into();
        let mut settings = parse(&["--name", "from-flag"]).unwrap();
        assert_eq!(settings.merge_environment(&environment), Vec::<String>::new());
        assert_eq!(settings.get("name").unwrap().source, "--name");
        assert_eq!(value(&settings, "data-dir").as_deref(), Some("/quorate"));
        assert_eq!(settings.get("log-level").unwrap().source, "ETCD_LOG_LEVEL");
        assert_eq!(settings.get("log-format"), None, "an empty variable counts as unset");
    }

    #[test]
    fn an_unknown_variable_gets_a_guess() {
        let environment: BTreeMap<String, String> = [
            ("ETCD_DATADIR", "x"),
            ("ETCD_PORT", "y"),
            ("QUORATE_ENDPOINTS", "z"),
            ("ETCDCTL_API", "3"),
            ("HOME", "/"),
        ]
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .into();
        let said = Settings::default().merge_environment(&environment);
        assert_eq!(
            said,
            [
                "the variable ETCD_DATADIR means nothing and is ignored: did you mean ETCD_DATA_DIR?",
                "the variable ETCD_PORT means nothing and is ignored",
            ]
        );
    }
}

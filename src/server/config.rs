//! What an operator asked for, checked.
//!
//! [`Config::new`] turns flags and variables into values, or into one sentence on what is wrong, why, and what to write
//! instead. It knows nothing of the disk: which flags still matter once a data directory exists is decided at start
//! (`server/join.rs`), which asks [`Config::bootstrap`] for the founding members only when there is none.
//!
//! Absent: TLS, unix sockets, discovery, configuration files; `flags.rs` refuses what would promise them.

use super::flags::{FLAGS, Fate, Settings};
use crate::ids::{ClusterId, MemberId, initial_cluster_id, initial_member_id};
use crate::machine::Level;
use crate::node::{AutoCompaction, Retention, SpaceConfig};
use crate::storage::directory::InitialMember;
use crate::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// What is wrong with the command line or the environment: what, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

fn wrong<T>(sentence: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(sentence.into()))
}

/// An `http://host:port` address, without TLS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Url {
    /// Whether connections to it never leave this host.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// Whether it stands for every address of this host, so that nobody can dial it.
    pub fn is_unspecified(&self) -> bool {
        self.host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified())
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level written.
    pub level: tracing::Level,
    /// JSON lines with zap's keys, for collectors; else one readable line per event.
    pub json: bool,
    /// Where to; never empty.
    pub outputs: Vec<LogOutput>,
}

/// What the process was called as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalledAs {
    /// `quorate serve`.
    Quorate,
    /// `etcd`: other defaults where scripts rely on them.
    Etcd,
}

/// One member's settings. Flags are named as etcd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `--name`.
    pub name: String,
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// `--listen-peer-urls`.
    pub listen_peer: Vec<Url>,
    /// `--listen-client-urls`.
    pub listen_client: Vec<Url>,
    /// `--initial-advertise-peer-urls`.
    pub advertise_peer: Vec<Url>,
    /// `--advertise-client-urls`.
    pub advertise_client: Vec<Url>,
    /// `--initial-cluster`, by name; `None` if it was not given.
    pub initial_cluster: Option<BTreeMap<String, Vec<Url>>>,
    /// `--initial-cluster-state existing`.
    pub existing: bool,
    /// `--initial-cluster-token`.
    pub token: String,
    /// `--join`: peer addresses of a running cluster; empty if it was not given.
    pub join: Vec<Url>,
    /// `--max-learners`, which etcd 3.5 calls `--experimental-max-learners`.
    pub max_learners: usize,
    /// `--max-cluster-level`: the highest level that this member takes part in.
    pub level: Level,
    /// `--heartbeat-interval`.
    pub heartbeat_interval: Duration,
    /// `--election-timeout`.
    pub election_timeout: Duration,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--max-range-bytes`; 0: any.
    pub max_range_bytes: u64,
    /// `--max-ranges-bytes`; 0: any.
    pub max_ranges_bytes: u64,
    /// `--max-concurrent-streams`.
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-interval`; `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// `--grpc-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// `--watch-progress-notify-interval`.
    pub watch_progress_interval: Duration,
    /// `--enable-grpc-gateway`.
    pub gateway: bool,
    /// `--cors`.
    pub cors: Vec<String>,
    /// `--quota-backend-bytes`, `--auto-compaction-*` and `--nospace-alarm`.
    pub space: SpaceConfig,
    /// `--snapshot-count` and `--snapshot-catchup-entries`, which etcd 3.5 calls `--experimental-…`.
    pub retention: Retention,
    /// `--warning-unary-request-duration`, which etcd 3.5 calls `--experimental-…`.
    pub warning_request: Duration,
    /// `--warning-apply-duration`, likewise.
    pub warning_apply: Duration,
    /// `--log-*`.
    pub log: LogConfig,
    /// What the operator should know, though nothing is wrong.
    pub notices: Vec<String>,
}

/// The founding members, as every one of them computes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// This member's id.
    pub member: MemberId,
    /// All members, by id.
    pub members: Vec<InitialMember>,
}

/// gRPC frames may be this much larger than `--max-request-bytes` (etcd's number).
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// Above this, etcd warns that requests are too large to be replicated well.
const RECOMMENDED_MAX_REQUEST_BYTES: usize = 10 * 1024 * 1024;

/// As in etcd.
const SHORTEST_WATCH_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Larger values make a follower buffer, and a frame grow, beyond what the peer stream allows (`transport.rs`).
const LARGEST_MAX_REQUEST_BYTES: usize = 256 * 1024 * 1024;

/// etcd's upper limit: a cluster that waits longer for a leader is a broken one.
const LONGEST_ELECTION_TIMEOUT_MS: u64 = 50_000;

impl Config {
    /// What the settings mean.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(settings: &Settings, called: CalledAs) -> Result<Config, ConfigError> {
        let mut notices = refuse_or_notice(settings)?;
        let name = text(settings, "name");
        if name.is_empty() || name.contains([',', '=']) {
            return wrong(format!(
                "--name {name:?} can't name a member: a name is not empty and has no ',' and no '='"
            ));
        }
        let suffix = if called == CalledAs::Etcd { "etcd" } else { "quorate" };
        let data_dir = settings.get("data-dir").map_or_else(|| format!("{name}.{suffix}"), |g| g.value.clone());
        let listen_peer = listen_urls(settings, "listen-peer-urls")?;
        let listen_client = listen_urls(settings, "listen-client-urls")?;
        if let Some(url) = listen_peer.iter().find(|url| listen_client.contains(url)) {
            return wrong(format!(
                "{url} is in both --listen-peer-urls and --listen-client-urls: members and clients need ports of their own"
            ));
        }
        let advertise_peer = advertise_urls(settings, "initial-advertise-peer-urls", &listen_peer)?;
        let advertise_client = advertise_urls(settings, "advertise-client-urls", &listen_client)?;
        let (heartbeat_interval, election_timeout) = timers(settings)?;
        let max_request_bytes = number(settings, "max-request-bytes", 1, LARGEST_MAX_REQUEST_BYTES as u64)? as usize;
        if max_request_bytes > RECOMMENDED_MAX_REQUEST_BYTES {
            notices.push(format!(
                "--max-request-bytes {max_request_bytes} is more than the recommended {RECOMMENDED_MAX_REQUEST_BYTES}: \
                 one large request holds up all others"
            ));
        }
        if listen_client.iter().chain(&listen_peer).any(|url| !url.is_loopback()) {
            notices.push(
                "listening beyond this host without TLS: whoever reaches these ports can read and change everything"
                    .to_string(),
            );
        }
        let interval = duration(settings, "grpc-keepalive-interval")?;
        Ok(Config {
            data_dir: PathBuf::from(data_dir),
            listen_peer,
            listen_client,
            advertise_peer,
            advertise_client,
            initial_cluster: initial_cluster(settings)?,
            existing: initial_cluster_state(settings)?,
            token: text(settings, "initial-cluster-token"),
            join: join(settings)?,
            max_learners: number(settings, experimental_or(settings, "max-learners").as_str(), 0, 255)? as usize,
            level: level(settings)?,
            heartbeat_interval,
            election_timeout,
            max_request_bytes,
            max_txn_ops: number(settings, "max-txn-ops", 1, u64::from(u32::MAX))? as usize,
            max_range_bytes: number(settings, "max-range-bytes", 0, u64::MAX)?,
            max_ranges_bytes: number(settings, "max-ranges-bytes", 0, u64::MAX)?,
            max_concurrent_streams: number(settings, "max-concurrent-streams", 1, u64::from(u32::MAX))? as u32,
            keepalive_interval: Some(interval).filter(|interval| !interval.is_zero()),
            keepalive_timeout: duration(settings, "grpc-keepalive-timeout")?,
            watch_progress_interval: watch_progress_interval(settings)?,
            gateway: boolean(&source(settings, "enable-grpc-gateway"), &text(settings, "enable-grpc-gateway"))?,
            cors: text(settings, "cors").split(',').map(|origin| origin.trim().to_owned()).collect(),
            space: space(settings, &mut notices)?,
            retention: retention(settings)?,
            warning_request: formerly_experimental(settings, "warning-unary-request-duration")?,
            warning_apply: formerly_experimental(settings, "warning-apply-duration")?,
            log: log_config(settings, called)?,
            notices,
            name,
        })
    }

    /// The founding members and this one's place among them: for a data directory that does not exist yet.
    ///
    /// # Errors
    /// The member is not among them, or not under the URLs that it advertises.
    pub fn bootstrap(&self) -> Result<Bootstrap, ConfigError> {
        let alone = || BTreeMap::from([(self.name.clone(), self.advertise_peer.clone())]);
        let cluster = self.initial_cluster.clone().unwrap_or_else(alone);
        let Some(own) = cluster.get(&self.name) else {
            return wrong(format!(
                "--name {} is not in --initial-cluster, which names {}: use one of these names, or add {}={}",
                self.name,
                cluster.keys().cloned().collect::<Vec<_>>().join(", "),
                self.name,
                comma(&self.advertise_peer)
            ));
        };
        let set = |urls: &[Url]| urls.iter().cloned().collect::<BTreeSet<Url>>();
        if set(own) != set(&self.advertise_peer) {
            return wrong(format!(
                "--initial-cluster says that {} is at {}, but --initial-advertise-peer-urls says {}: the others would wait \
                 for it at the wrong place; make them the same",
                self.name,
                comma(own),
                comma(&self.advertise_peer)
            ));
        }
        let mut members: Vec<InitialMember> = cluster
            .iter()
            .map(|(name, urls)| {
                let mut peer_urls: Vec<String> = urls.iter().map(Url::to_string).collect();
                // They are part of the state: the same on all founders, in whatever order each was told them.
                peer_urls.sort_unstable();
                InitialMember { id: initial_member_id(&peer_urls, &self.token), name: name.clone(), peer_urls }
            })
            .collect();
        members.sort_by_key(|member| member.id);
        let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong(format!(
                "two members of --initial-cluster have the id {}: change --initial-cluster-token on all members",
                pair[0]
            ));
        }
        let member = members.iter().find(|member| member.name == self.name).map_or(MemberId(0), |member| member.id);
        Ok(Bootstrap { cluster: initial_cluster_id(&ids, &self.token), member, members })
    }
}

/// Refuses what would promise too much; the notice about what changes nothing, if there is such.
fn refuse_or_notice(settings: &Settings) -> Result<Vec<String>, ConfigError> {
    let mut idle = Vec::new();
    for flag in FLAGS {
        let Some(given) = settings.get(flag.name) else { continue };
        if flag.boolean {
            boolean(&given.source, &given.value)?;
        }
        match flag.fate {
            Fate::Used { .. } => {}
            Fate::Accepted => idle.push(given.source.clone()),
            Fate::Refused { harmless, .. } if given.value.is_empty() || harmless.contains(&given.value.as_str()) => {}
            Fate::Refused { why, .. } => return wrong(format!("{} is refused: {why}", given.source)),
        }
    }
    if idle.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!("accepted, but without effect in this version: {}", idle.join(" "))])
}

fn boolean(source: &str, value: &str) -> Result<bool, ConfigError> {
    match value {
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
        _ => wrong(format!("{source} is {value:?}, which is neither true nor false")),
    }
}

/// What was given, or the default of the table.
fn text(settings: &Settings, name: &str) -> String {
    let default = || {
        let flag = FLAGS.iter().find(|flag| flag.name == name);
        match flag.map(|flag| flag.fate) {
            Some(Fate::Used { default, .. }) => default.to_string(),
            _ => String::new(),
        }
    };
    settings.get(name).map_or_else(default, |given| given.value.clone())
}

fn source(settings: &Settings, name: &str) -> String {
    settings.get(name).map_or_else(|| format!("--{name}"), |given| given.source.clone())
}

fn number(settings: &Settings, name: &str, min: u64, max: u64) -> Result<u64, ConfigError> {
    let value = text(settings, name);
    match value.parse::<u64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => wrong(format!("{} is {value:?}: it takes a whole number from {min} to {max}", source(settings, name))),
    }
}

fn timers(settings: &Settings) -> Result<(Duration, Duration), ConfigError> {
    let heartbeat = number(settings, "heartbeat-interval", 1, LONGEST_ELECTION_TIMEOUT_MS)?;
    let election = number(settings, "election-timeout", 1, LONGEST_ELECTION_TIMEOUT_MS)?;
    if election < heartbeat * 5 {
        return wrong(format!(
            "--election-timeout {election} is less than five times --heartbeat-interval {heartbeat}: a few late heartbeats \
             would cost the leader its office; use --election-timeout {} or more",
            heartbeat * 5
        ));
    }
    Ok((Duration::from_millis(heartbeat), Duration::from_millis(election)))
}

/// What the store may hold if nobody says it: etcd's default.
const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;

/// Above this, etcd warns that a member takes long to start and to be copied.
const RECOMMENDED_MAX_QUOTA_BYTES: u64 = 8 << 30;

fn retention(settings: &Settings) -> Result<Retention, ConfigError> {
    let every = number(settings, "snapshot-count", 1, u64::MAX)?;
    let (name, former) = ("snapshot-catchup-entries", "experimental-snapshot-catchup-entries");
    let given = if settings.get(name).is_none() && settings.get(former).is_some() { former } else { name };
    Ok(Retention { every, keep_entries: number(settings, given, 0, u64::MAX)?, ..Retention::default() })
}

fn space(settings: &Settings, notices: &mut Vec<String>) -> Result<SpaceConfig, ConfigError> {
    let quota = match text(settings, "quota-backend-bytes").parse::<i64>() {
        Ok(0) => Some(DEFAULT_QUOTA_BYTES),
        Ok(bytes) => u64::try_from(bytes).ok(),
        Err(_) => {
            return wrong(format!(
                "{} is {:?}: it takes a number of bytes; 0 for {DEFAULT_QUOTA_BYTES}, -1 for no limit",
                source(settings, "quota-backend-bytes"),
                text(settings, "quota-backend-bytes")
            ));
        }
    };
    if let Some(quota) = quota.filter(|quota| *quota > RECOMMENDED_MAX_QUOTA_BYTES) {
        notices.push(format!(
            "--quota-backend-bytes {quota} is more than the recommended {RECOMMENDED_MAX_QUOTA_BYTES}: a member reads all of \
             it when it starts"
        ));
    }
    let alarm_clears_itself = match text(settings, "nospace-alarm").as_str() {
        "clears-itself" => true,
        "stays" => false,
        other => {
            return wrong(format!(
                "{} is {other:?}: it is clears-itself (once there is room again) or stays (until it is disarmed, as in etcd)",
                source(settings, "nospace-alarm")
            ));
        }
    };
    Ok(SpaceConfig { auto_compaction: auto_compaction(settings)?, quota, alarm_clears_itself })
}

/// As etcd reads it: by time, a plain number is hours; by revisions, it is their number.
fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, ConfigError> {
    let (mode, retention) = (text(settings, "auto-compaction-mode"), text(settings, "auto-compaction-retention"));
    let number = retention.parse::<u64>().ok();
    if mode == "revision" && settings.get("auto-compaction-retention").is_none() {
        return Ok(AutoCompaction::Off); // the default is a time
    }
    let found = match mode.as_str() {
        "periodic" => {
            let hours = number.and_then(|hours| hours.checked_mul(3600)).map(Duration::from_secs);
            let time = if number.is_some() { hours } else { parse_duration(&retention) };
            time.map(|time| if time.is_zero() { AutoCompaction::Off } else { AutoCompaction::Periodic(time) })
        }
        "revision" => number.and_then(|number| i64::try_from(number).ok()).map(|number| match number {
            0 => AutoCompaction::Off,
            kept => AutoCompaction::Revisions(kept),
        }),
        _ => {
            let source = source(settings, "auto-compaction-mode");
            return wrong(format!("{source} is {mode:?}: it is periodic or revision"));
        }
    };
    let said = source(settings, "auto-compaction-retention");
    let takes = if mode == "periodic" {
        "a time such as 1h or 10m, or a number of hours"
    } else {
        "a number of revisions (with --auto-compaction-mode periodic it would be a time)"
    };
    found.map_or_else(|| wrong(format!("{said} is {retention:?}: it takes {takes}; 0 turns it off")), Ok)
}

/// A time that etcd 3.5 calls `--experimental-NAME` and later versions `--NAME`.
fn formerly_experimental(settings: &Settings, name: &'static str) -> Result<Duration, ConfigError> {
    duration(settings, &experimental_or(settings, name))
}

/// Under which of the two names a flag was given.
fn experimental_or(settings: &Settings, name: &str) -> String {
    let former = format!("experimental-{name}");
    if settings.get(name).is_none() && settings.get(&former).is_some() { former } else { name.to_owned() }
}

/// Go's notation: `1h30m`, `20s`, `500ms`, `0`.
fn duration(settings: &Settings, name: &str) -> Result<Duration, ConfigError> {
    let value = text(settings, name);
    parse_duration(&value).map_or_else(
        || wrong(format!("{} is {value:?}: it takes a time such as 20s, 500ms or 1h30m", source(settings, name))),
        Ok,
    )
}

/// etcd 3.5 has the flag under an older name. As there, a shorter interval than the shortest is the shortest.
fn watch_progress_interval(settings: &Settings) -> Result<Duration, ConfigError> {
    let given = formerly_experimental(settings, "watch-progress-notify-interval")?;
    Ok(given.max(SHORTEST_WATCH_PROGRESS_INTERVAL))
}

fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        let end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let micros: u64 = match &rest[digits..end] {
            "us" | "µs" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_micros(count.checked_mul(micros)?))?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// The port of peers, where an address has none.
const PEER_PORT: u16 = 2380;

/// Peers to be asked, each as `host:port`, as a host, or as a URL.
fn join(settings: &Settings) -> Result<Vec<Url>, ConfigError> {
    let Some(given) = settings.get("join").filter(|given| !given.value.is_empty()) else { return Ok(Vec::new()) };
    if settings.get("initial-cluster").is_some() {
        return wrong(format!(
            "{} and --initial-cluster both say which cluster this is: the peers of --join know it, so leave the other one out",
            given.source
        ));
    }
    let address = |part: &str| {
        let part = part.trim();
        let has_port =
            part.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) && !part.ends_with(']');
        match (part.contains("://"), has_port) {
            (true, _) => url(&given.source, part),
            (false, true) => url(&given.source, &format!("http://{part}")),
            (false, false) => url(&given.source, &format!("http://{part}:{PEER_PORT}")),
        }
    };
    given.value.split(',').map(address).collect()
}

fn comma(urls: &[Url]) -> String {
    urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",")
}

/// One URL. `source` says where it was written.
fn url(source: &str, text: &str) -> Result<Url, ConfigError> {
    let text = text.trim();
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong(format!("{source} has {text:?}, which has no scheme: write http://{text}"));
    };
    match scheme {
        "http" => {}
        "https" => {
            return wrong(format!(
                "{source} has {text}, but TLS is not there yet: write http://{rest} and keep the port on a private network \
                 or behind a TLS proxy"
            ));
        }
        "unix" | "unixs" => {
            return wrong(format!("{source} has {text}, but unix sockets are not there: write http://localhost:PORT"));
        }
        _ => return wrong(format!("{source} has {text}, whose scheme is unknown: write http://{rest}")),
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return wrong(format!("{source} has {text}, which has more than a host and a port: write http://HOST:PORT"));
    }
    let parts = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once("]:").filter(|(host, _)| host.parse::<std::net::Ipv6Addr>().is_ok()),
        None => authority.rsplit_once(':').filter(|(host, _)| !host.contains(':')),
    };
    let Some((host, port)) = parts.filter(|(host, _)| !host.is_empty() && !host.contains(char::is_whitespace)) else {
        return wrong(format!("{source} has {text}, which is not http://HOST:PORT"));
    };
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(Url { host: host.to_ascii_lowercase(), port }),
        _ => wrong(format!("{source} has {text}, whose port {port:?} is not a number from 1 to 65535")),
    }
}

fn urls(settings: &Settings, name: &str) -> Result<Vec<Url>, ConfigError> {
    let source = source(settings, name);
    let mut found = Vec::new();
    for text in text(settings, name).split(',') {
        let url = url(&source, text)?;
        if found.contains(&url) {
            return wrong(format!("{source} has {url} twice: leave one out"));
        }
        found.push(url);
    }
    Ok(found)
}

/// What a flag that listens says, or its default.
///
/// # Errors
/// A sentence for the operator.
pub fn listen_urls(settings: &Settings, name: &str) -> Result<Vec<Url>, ConfigError> {
    let urls = urls(settings, name)?;
    match urls.iter().find(|url| url.host != "localhost" && url.host.parse::<IpAddr>().is_err()) {
        Some(url) => wrong(format!(
            "{} has {url}: listening needs an address, not a name; write the address of this host, or 0.0.0.0 for all of \
             them, and give the name to the flag that advertises",
            source(settings, name)
        )),
        None => Ok(urls),
    }
}

fn advertise_urls(settings: &Settings, name: &str, listen: &[Url]) -> Result<Vec<Url>, ConfigError> {
    let urls = if settings.get(name).is_some() { urls(settings, name)? } else { listen.to_vec() };
    match urls.iter().find(|url| url.is_unspecified()) {
        Some(url) => wrong(format!(
            "{} would tell others to come to {url}, which is no place: write --{name} http://ADDRESS:{} with an address of \
             this host that they can reach",
            source(settings, name),
            url.port
        )),
        None => Ok(urls),
    }
}

fn level(settings: &Settings) -> Result<Level, ConfigError> {
    match settings.get("max-cluster-level").is_some_and(|given| !given.value.is_empty()) {
        true => number(settings, "max-cluster-level", 0, Level::NEWEST.0.into()).map(|level| Level(level as u32)),
        false => Ok(Level::NEWEST),
    }
}

fn initial_cluster_state(settings: &Settings) -> Result<bool, ConfigError> {
    match text(settings, "initial-cluster-state").as_str() {
        "new" => Ok(false),
        "existing" => Ok(true),
        other => wrong(format!(
            "{} is {other:?}: it is new (found a cluster) or existing (a member of a running one)",
            source(settings, "initial-cluster-state")
        )),
    }
}

fn initial_cluster(settings: &Settings) -> Result<Option<BTreeMap<String, Vec<Url>>>, ConfigError> {
    let Some(given) = settings.get("initial-cluster") else { return Ok(None) };
    let mut cluster: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for part in given.value.split(',') {
        let Some((name, address)) = part.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
            return wrong(format!(
                "{} has {part:?}, which is not NAME=URL: write for example n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380",
                given.source
            ));
        };
        let (name, url) = (name.trim().to_string(), url(&given.source, address)?);
        if let Some(other) = seen.insert(url.clone(), name.clone()) {
            return wrong(format!(
                "{} has {url} twice, for {other} and for {name}: each member has its own",
                given.source
            ));
        }
        cluster.entry(name).or_default().push(url);
    }
    Ok(Some(cluster))
}

fn log_config(settings: &Settings, called: CalledAs) -> Result<LogConfig, ConfigError> {
    let level = match text(settings, "log-level").as_str() {
        "debug" => tracing::Level::DEBUG,
        "info" => tracing::Level::INFO,
        "warn" => tracing::Level::WARN,
        "error" | "dpanic" | "panic" | "fatal" => tracing::Level::ERROR,
        other => {
            let source = source(settings, "log-level");
            return wrong(format!("{source} is {other:?}: it is debug, info, warn or error"));
        }
    };
    let json = match text(settings, "log-format").as_str() {
        "json" => true,
        "console" => false,
        "" => called == CalledAs::Etcd,
        other => {
            return wrong(format!("{} is {other:?}: it is json or console", source(settings, "log-format")));
        }
    };
    let outputs = text(settings, "log-outputs")
        .split(',')
        .map(|output| match output.trim() {
            "" => wrong(format!("{} has an empty name in it", source(settings, "log-outputs"))),
            "default" | "stderr" | "systemd/journal" => Ok(LogOutput::Stderr),
            "stdout" => Ok(LogOutput::Stdout),
            file => Ok(LogOutput::File(PathBuf::from(file))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(LogConfig { level, json, outputs })
}

#[cfg(test)]
mod tests;

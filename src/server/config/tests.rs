//! Command lines, good and bad, with the sentences that the bad ones get.

use super::*;
use std::ffi::OsString;

fn settings(line: &str) -> Settings {
    let command = crate::server::flags::augment(clap::Command::new("serve").no_binary_name(true));
    let words = line.split_whitespace().map(|word| crate::server::flags::two_dashes(OsString::from(word)));
    crate::server::flags::given(&command.try_get_matches_from(words).unwrap())
}

fn config(line: &str) -> Result<Config, ConfigError> {
    Config::new(&settings(line), CalledAs::Quorate)
}

/// The sentence that a command line is refused with, at once or when the cluster is to be founded.
fn refusal(line: &str) -> String {
    match config(line).and_then(|config| config.bootstrap().map(|_| ())) {
        Ok(()) => panic!("{line:?} was accepted"),
        Err(error) => error.0,
    }
}

#[test]
fn no_flags_make_one_node_on_this_host() {
    let config = config("").unwrap();
    assert_eq!(config.data_dir, PathBuf::from("default.quorate"));
    assert_eq!(comma(&config.listen_client), "http://localhost:2379");
    assert_eq!(comma(&config.advertise_peer), "http://localhost:2380");
    assert_eq!(config.election_timeout, Duration::from_secs(1));
    assert_eq!(config.max_request_bytes, 1_572_864);
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.notices, Vec::<String>::new());
    assert!(!config.log.json);
    let bootstrap = config.bootstrap().unwrap();
    assert_eq!(bootstrap.members.len(), 1);
    assert_eq!(bootstrap.members[0].id, bootstrap.member);
}

#[test]
fn thresholds_have_both_of_etcds_names() {
    let thresholds = |line: &str| config(line).map(|config| (config.warning_request, config.warning_apply));
    let ms = Duration::from_millis;
    assert_eq!(thresholds(""), Ok((ms(300), ms(100))));
    assert_eq!(thresholds("--warning-unary-request-duration=1s --warning-apply-duration=0"), Ok((ms(1000), ms(0))));
    let former = "--experimental-warning-unary-request-duration=2s --experimental-warning-apply-duration=5ms";
    assert_eq!(thresholds(former), Ok((ms(2000), ms(5))));
    assert_eq!(thresholds(&format!("{former} --warning-apply-duration=7ms")), Ok((ms(2000), ms(7))));
    assert!(refusal("--experimental-warning-apply-duration=5").contains("--experimental-warning-apply-duration is"));
}

#[test]
fn called_etcd_other_defaults_hold() {
    let config = Config::new(&settings("--name n1"), CalledAs::Etcd).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("n1.etcd"));
    assert!(config.log.json);
}

#[test]
fn all_members_compute_the_same_cluster() {
    let cluster = "--initial-cluster a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380";
    let of = |name: &str, ip: &str| {
        let peer = format!("http://{ip}:2380");
        let line = format!("--name {name} --listen-peer-urls {peer} {cluster}");
        config(&line).unwrap().bootstrap().unwrap()
    };
    let (a, b) = (of("a", "10.0.0.1"), of("b", "10.0.0.2"));
    assert_eq!((a.cluster, &a.members), (b.cluster, &b.members));
    assert_ne!(a.member, b.member);
    assert!(a.members.windows(2).all(|pair| pair[0].id < pair[1].id), "sorted by id");
}

/// They are part of the replicated state: founders that differ in them have different digests from the first entry on.
#[test]
fn the_order_of_a_members_urls_is_nobodys_affair() {
    let of = |urls: [&str; 2]| {
        let own = format!("--listen-peer-urls {} --initial-advertise-peer-urls {}", urls[0], urls.join(","));
        let cluster = format!("--initial-cluster a={},a={},b=http://10.0.0.3:2380", urls[0], urls[1]);
        config(&format!("--name a {own} {cluster}")).unwrap().bootstrap().unwrap()
    };
    let [first, second] = ["http://10.0.0.1:2380", "http://10.0.0.2:2380"];
    let (a, b) = (of([first, second]), of([second, first]));
    assert_eq!((a.cluster, a.member, a.members), (b.cluster, b.member, b.members));
}

#[test]
fn values_arrive() {
    let config = config(
        "--heartbeat-interval 50 -election-timeout=300 --max-request-bytes 1000 --max-txn-ops 7 --log-level debug \
         --max-concurrent-streams 9 --grpc-keepalive-interval 1m30s --grpc-keepalive-timeout 500ms --log-format json \
         --log-outputs stdout,/tmp/x.log --listen-client-urls http://127.0.0.1:1,http://[::1]:1 --data-dir /d \
         --max-cluster-level 2",
    )
    .unwrap();
    assert_eq!(config.level, Level(2));
    assert_eq!(config.heartbeat_interval, Duration::from_millis(50));
    assert_eq!(config.election_timeout, Duration::from_millis(300));
    assert_eq!((config.max_request_bytes, config.max_txn_ops, config.max_concurrent_streams), (1000, 7, 9));
    assert_eq!(config.keepalive_interval, Some(Duration::from_secs(90)));
    assert_eq!(config.keepalive_timeout, Duration::from_millis(500));
    assert_eq!(config.log.level, tracing::Level::DEBUG);
    assert_eq!(config.log.outputs, [LogOutput::Stdout, LogOutput::File(PathBuf::from("/tmp/x.log"))]);
    assert_eq!(comma(&config.advertise_client), "http://127.0.0.1:1,http://[::1]:1");
    let never = super::Config::new(&settings("--grpc-keepalive-interval 0"), CalledAs::Quorate).unwrap();
    assert_eq!(never.keepalive_interval, None);
}

#[test]
fn etcds_other_flags_share_one_line_of_notice() {
    let config = config(
        "--max-snapshots 10000 --max-wals 5 --pre-vote --log-rotation-config-json {} --auth-token simple \
         --client-cert-auth=false --cert-file= --unsafe-no-fsync=false --host-whitelist *",
    )
    .unwrap();
    assert_eq!(
        config.notices,
        ["accepted, but without effect in this version: --log-rotation-config-json --max-snapshots --max-wals \
          --pre-vote"]
    );
}

#[test]
fn the_log_is_cut_as_etcds_flags_say() {
    let kept = |line: &str| config(line).map(|config| (config.retention.every, config.retention.keep_entries));
    for (line, expected) in [
        ("", (10_000, 5_000)),
        ("--snapshot-count 100", (100, 5_000)),
        ("--experimental-snapshot-catchup-entries 7", (10_000, 7)),
        ("--snapshot-catchup-entries 8 --experimental-snapshot-catchup-entries 7", (10_000, 8)),
    ] {
        assert_eq!(kept(line).unwrap(), expected, "{line}");
    }
    assert!(kept("--snapshot-count 0").is_err() && kept("--snapshot-catchup-entries many").is_err());
}

#[test]
fn space_is_bounded_as_etcds_flags_say() {
    use crate::node::AutoCompaction::{Off, Periodic, Revisions};
    let space = |line: &str| config(line).map(|config| config.space);
    let default = space("").unwrap();
    assert_eq!(default.auto_compaction, Periodic(Duration::from_secs(3600)));
    assert_eq!((default.quota, default.alarm_clears_itself), (Some(2 << 30), true));
    for (line, expected) in [
        ("--auto-compaction-retention 10m", Periodic(Duration::from_secs(600))),
        ("--auto-compaction-retention 2", Periodic(Duration::from_secs(7200))),
        ("--auto-compaction-retention 0", Off),
        ("--auto-compaction-mode revision --auto-compaction-retention 1000", Revisions(1000)),
        ("--auto-compaction-mode revision", Off),
    ] {
        assert_eq!(space(line).unwrap().auto_compaction, expected, "{line}");
    }
    for (line, expected) in [("0", Some(2 << 30)), ("-1", None), ("1048576", Some(1 << 20))] {
        assert_eq!(space(&format!("--quota-backend-bytes {line}")).unwrap().quota, expected);
    }
    assert!(!space("--nospace-alarm stays").unwrap().alarm_clears_itself);
    let large = config("--quota-backend-bytes 17179869184").unwrap();
    assert!(large.notices.iter().any(|notice| notice.contains("recommended")), "{:?}", large.notices);
    for (line, word) in [
        ("--quota-backend-bytes much", "number of bytes"),
        ("--auto-compaction-mode yearly", "periodic or revision"),
        ("--auto-compaction-retention soon", "1h"),
        ("--auto-compaction-mode revision --auto-compaction-retention 1h", "number of revisions"),
        ("--nospace-alarm never", "clears-itself"),
    ] {
        let refused = space(line).unwrap_err();
        assert!(refused.to_string().contains(word), "{refused}");
    }
}

#[test]
fn an_open_port_is_mentioned() {
    let open = config("--listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://h:2379").unwrap();
    assert!(open.notices.iter().any(|notice| notice.contains("without TLS")), "{:?}", open.notices);
}

#[test]
fn what_would_promise_too_much_is_refused() {
    let table = [
        ("--cert-file /c", "--cert-file is refused: TLS is not there yet"),
        ("--peer-key-file /c", "--peer-key-file is refused: TLS is not there yet"),
        ("--auto-tls", "--auto-tls is refused: TLS"),
        ("--cipher-suites X", "--cipher-suites is refused: TLS"),
        ("--client-cert-auth", "--client-cert-auth is refused: callers can't be told apart yet"),
        ("--trusted-ca-file /c", "--trusted-ca-file is refused: callers"),
        ("--auth-token jwt,x", "--auth-token is refused: callers"),
        ("--force-new-cluster", "--force-new-cluster is refused: it would let this member forget the others"),
        ("--unsafe-no-fsync=true", "--unsafe-no-fsync is refused: an answer here means"),
        ("--config-file /etc/x", "--config-file is refused: a configuration file is not read yet"),
        ("--discovery-srv x", "--discovery-srv is refused: members are not discovered yet"),
        ("--listen-client-urls https://h:1", "--listen-client-urls has https://h:1, but TLS is not there yet"),
    ];
    for (line, sentence) in table {
        assert!(refusal(line).starts_with(sentence), "{line}: {}", refusal(line));
    }
}

#[test]
fn bad_values_get_a_sentence() {
    let table = [
        ("--name=", "--name \"\" can't name a member"),
        ("--listen-peer-urls localhost:2380", "has no scheme: write http://localhost:2380"),
        ("--listen-peer-urls http://localhost", "is not http://HOST:PORT"),
        ("--listen-peer-urls http://localhost:99999", "whose port \"99999\" is not a number from 1 to 65535"),
        ("--listen-peer-urls http://localhost:1/x", "more than a host and a port"),
        ("--listen-peer-urls ftp://localhost:1", "whose scheme is unknown"),
        ("--listen-client-urls unix://localhost:1", "unix sockets are not there"),
        ("--listen-client-urls http://example.com:1", "listening needs an address, not a name"),
        ("--listen-client-urls http://[::1:1", "is not http://HOST:PORT"),
        ("--listen-client-urls http://localhost:1,http://LOCALHOST:1/", "has http://localhost:1 twice"),
        ("--listen-client-urls http://localhost:2380", "is in both --listen-peer-urls and --listen-client-urls"),
        ("--listen-client-urls http://0.0.0.0:2379", "write --advertise-client-urls http://ADDRESS:2379"),
        ("--election-timeout 499", "less than five times --heartbeat-interval 100"),
        ("--election-timeout 50001", "it takes a whole number from 1 to 50000"),
        ("--heartbeat-interval 0", "it takes a whole number from 1"),
        ("--max-cluster-level 4", "it takes a whole number from 0 to 3"),
        ("--max-txn-ops many", "--max-txn-ops is \"many\""),
        ("--grpc-keepalive-timeout 20", "it takes a time such as 20s"),
        ("--pre-vote=maybe", "neither true nor false"),
        ("--log-level loud", "it is debug, info, warn or error"),
        ("--log-format xml", "it is json or console"),
        ("--initial-cluster-state old", "it is new (found a cluster) or existing"),
        ("--join a:1 --initial-cluster default=http://localhost:2380", "both say which cluster this is"),
        ("--join a:b:c", "is not http://HOST:PORT"),
        ("--initial-cluster n1", "which is not NAME=URL"),
        ("--initial-cluster a=http://h:1,b=http://h:1", "has http://h:1 twice, for a and for b"),
        ("--initial-cluster a=http://h:1", "--name default is not in --initial-cluster, which names a"),
        ("--initial-cluster default=http://h:1", "says that default is at http://h:1, but"),
    ];
    for (line, part) in table {
        assert!(refusal(line).contains(part), "{line}: {}", refusal(line));
    }
}

#[test]
fn an_existing_directory_does_not_ask_for_founding_members() {
    let config = config("--initial-cluster-state existing --initial-cluster a=http://h:1").unwrap();
    assert!(config.existing);
}

#[test]
fn peers_to_join_are_hosts_with_or_without_a_port_or_urls() {
    let config = config("--join 10.0.0.1,n2:7000,http://N3:2380,[::1]:1").unwrap();
    let urls: Vec<String> = config.join.iter().map(Url::to_string).collect();
    assert_eq!(urls, ["http://10.0.0.1:2380", "http://n2:7000", "http://n3:2380", "http://[::1]:1"]);
}

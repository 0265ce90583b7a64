//! Scripts that start etcd start Quorate: by a link of that name, with etcd's flags and variables.

use crate::ended::{ended, wait, without_settings};
use crate::kills::assert_quiet_logs;
use crate::load::eventually;
use crate::strangers::spawn;
use crate::support::{Cluster, Server};
use quorate::proto::etcdserverpb as pb;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A command that calls the binary `etcd`.
fn etcd(home: &Path) -> Command {
    let link = home.join("etcd");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_quorate"), &link).unwrap();
    }
    let mut command = Command::new(link);
    without_settings(&mut command);
    command.current_dir(home);
    command
}

/// What a log of JSON lines has under `msg`, all of it checked to be JSON.
fn messages(log: &str) -> Vec<(String, Value)> {
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        (value["msg"].as_str().unwrap_or_default().to_owned(), value)
    };
    log.lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_called_etcd_is_etcd() {
    let home = tempfile::tempdir().unwrap();
    let version = ended(etcd(home.path()).arg("--version"));
    version.assert(0, &["etcd Version: 3.5.30", "Quorate Version: ", "OS/Arch: "]);
    ended(etcd(home.path()).arg("-no-such-flag")).assert(2, &["-n"]);
    ended(etcd(home.path()).arg("--trusted-ca-file=ca.pem")).assert(1, &["--trusted-ca-file is refused"]);
    ended(etcd(home.path()).env("ETCD_CLIENT_CERT_AUTH", "true")).assert(1, &["ETCD_CLIENT_CERT_AUTH is refused"]);

    let cluster = Cluster::unstarted(Server::Quorate, 1, &[]);
    let node = &cluster.nodes()[0];
    let (client, peer) = (format!("http://{}", node.client), format!("http://{}", node.peer));
    let mut command = etcd(home.path());
    command
        .args(["--name", "infra0", "-listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("infra0={peer}")])
        .args(["--auto-compaction-retention=1", "--quota-backend-bytes=8589934592", "--enable-pprof", "--logger=zap"])
        .env("ETCD_HEARTBEAT_INTERVAL", "50")
        .env("QUORATE_ELECTION_TIMEOUT", "500")
        .env("ETCD_ELECTION_TIMEOUT", "700")
        .env("ETCD_DATADIR", "x");
    let process = spawn(&mut command, &node.log_path);
    let own = cluster.client();
    eventually("it serves", async || {
        own.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await.is_ok()
    })
    .await;
    eventually("scripts can see that it is ready", async || {
        cluster.log(0).contains("\"msg\":\"ready to serve client requests\"")
    })
    .await;
    assert!(home.path().join("infra0.etcd/META").is_file(), "etcd's default directory");
    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    let status = tokio::task::block_in_place(|| wait(process)).expect("it ends");
    assert_eq!(status.code(), Some(0));

    let log = messages(&cluster.log(0));
    let said = |part: &str| log.iter().filter(|(message, _)| message.contains(part)).count();
    let notice = "accepted, but without effect in this version: ";
    assert_eq!(said(notice), 1, "one line for all of them");
    for flag in ["--enable-pprof", "--logger"] {
        assert!(log.iter().any(|(message, _)| message.starts_with(notice) && message.contains(flag)), "{flag}");
    }
    assert_eq!(said("ETCD_DATADIR means nothing and is ignored: did you mean ETCD_DATA_DIR?"), 1);
    let timers = log.iter().find_map(|(_, line)| Some((line.get("heartbeat")?, line.get("election")?))).unwrap();
    assert_eq!(timers, (&Value::from("50ms"), &Value::from("500ms")), "QUORATE_ wins over ETCD_");
    assert_quiet_logs(&cluster);
}

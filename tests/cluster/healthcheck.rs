//! `quorate healthcheck`, as a container runs it: a process, an exit code, a line.

use crate::load::eventually;
use crate::support::Cluster;
use std::process::Command;

/// Runs the check of the member at `address`, which it must find in its variables; its exit code and what it said.
fn check(address: &str, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .arg("healthcheck")
        .args(args)
        .env_remove("QUORATE_ENDPOINTS")
        .env_remove("ETCDCTL_ENDPOINTS")
        .env("QUORATE_LISTEN_CLIENT_URLS", format!("http://{address}"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_quorum_lives_and_is_not_ready() {
    let mut cluster = Cluster::quorate(3).await;
    let n1 = cluster.nodes()[0].client.clone();
    let alive = (Some(0), format!("alive: {n1}\n"));
    // A check has little patience, and a machine may have other things to do.
    eventually("it is alive", async || check(&n1, &[]) == alive).await;
    eventually("it is ready", async || check(&n1, &["--ready"]) == (Some(0), format!("ready: {n1}\n"))).await;
    cluster.kill(1);
    cluster.kill(2);
    eventually("it is alive still", async || check(&n1, &[]) == alive).await;
    let (code, said) = check(&n1, &["--ready"]);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.starts_with(&format!("error: not ready: http://{n1}/readyz: ")), "{said}");
    cluster.kill(0);
    let (code, said) = check(&n1, &[]);
    assert_eq!(code, Some(1));
    assert!(said.starts_with(&format!("error: not alive: http://{n1}/livez: connection refused\n")), "{said}");
}

#[test]
fn a_check_ends_though_nobody_answers() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (code, said) = check(&address, &["--ready"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("no answer within 1.5s"), "{said}");
}

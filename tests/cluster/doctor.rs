//! The connection doctor against real members and against those who only look like one.

use crate::ended::{Ended, ended, quorate};
use crate::load::eventually;
use crate::support::Cluster;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};

/// Runs a client command at `endpoints`; it must not find a lab of this machine.
fn run(line: &str, endpoints: &[String]) -> Ended {
    let home = tempfile::tempdir().unwrap();
    let mut command = quorate();
    command.args(line.split(' ')).args(["--endpoints", &endpoints.join(",")]);
    ended(command.env("XDG_STATE_HOME", home.path()).env("HOME", home.path()))
}

/// Someone who answers whatever comes with `words`, or says nothing.
fn listener(words: Option<&'static [u8]>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().map(Result::unwrap) {
            if let Some(words) = words {
                // Whoever hangs up meanwhile has heard enough.
                _ = stream.read(&mut [0; 512]);
                _ = stream.write_all(words);
                _ = stream.shutdown(Shutdown::Write);
            }
            // Closed with something unread in it, it would be reset, and the words might be lost.
            open.push(stream);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_told_by_what_it_speaks() {
    // Bound, so that nobody else gets the port, and never listening.
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = deaf.local_addr().unwrap().to_string();
    for (address, phrases) in [
        (
            "nobody.invalid:2379".to_owned(),
            ["dns: the name nobody.invalid has no address", "getent hosts nobody.invalid"],
        ),
        (refused, ["tcp: connection refused", "quorate dev"]),
        (
            listener(Some(b"\x15\x03\x01\x00\x02\x02\x46")),
            ["tls: it speaks TLS", "etcdctl --endpoints https://127.0.0.1:"],
        ),
        (listener(Some(b"HTTP/1.1 400 Bad Request\r\n\r\n")), ["http/2: a web server", "HTTP/1.1 400 Bad Request"]),
        (listener(Some(b"SSH-2.0-x\r\n")), ["http/2: who answers says \"SSH-2.0-x", "ss -ltnp"]),
        (listener(None), ["http/2: it takes connections and says nothing for 1s", "ss -ltnp"]),
    ] {
        let line = format!("✗ {address} {}", phrases[0]);
        run("doctor", std::slice::from_ref(&address)).assert(2, &[&line, phrases[1]]);
        let failed = run("get k --command-timeout 1s", std::slice::from_ref(&address));
        failed.assert(failed.status.code().unwrap(), &["error: ", &line, phrases[1]]);
        assert!(!failed.status.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_followed_from_well_to_without_a_quorum() {
    let mut cluster = Cluster::quorate(3).await;
    let endpoints = cluster.endpoints();
    let told = run("doctor -w json", &endpoints);
    assert_eq!(told.status.code(), Some(0), "{}", told.said);
    let json: serde_json::Value = serde_json::from_str(&told.said).unwrap();
    assert_eq!((&json["well"], json["endpoints"].as_array().unwrap().len()), (&true.into(), 3), "{json}");

    let node = &cluster.nodes()[0];
    let peer_port = node.peer.rsplit(':').next().unwrap();
    let phrase = format!("grpc: port {peer_port} is where n1 talks to the other members, not to clients");
    let fix = format!("fix: --endpoints {}", node.client);
    run("get k", std::slice::from_ref(&node.peer)).assert(4, &["unknown service", &phrase, &fix]);

    // A caller's mistake is none of the doctor's business.
    let said = run("get k --rev 999", &endpoints).said;
    assert!(said.contains("future revision") && !said.contains('✗'), "{said}");

    cluster.kill(1);
    let n2 = format!("✗ {} tcp: n2: connection refused", endpoints[1]);
    run("doctor", &endpoints[..1]).assert(5, &[&n2, "start n2 where it runs"]);
    cluster.kill(2);
    let count = "of 3 voters only n1 answers; a quorum is 2, so 1 more is needed";
    let (silent, fix) = (format!("n2 ({}) refuses connections", endpoints[1]), "start n2 where it runs");
    run("put k v --command-timeout 1s", &endpoints[..1]).assert(1, &["error: ", count, &silent, fix]);
    eventually("it knows of no leader", async || {
        run("doctor", &endpoints[..1]).said.contains("leader: n1 knows no leader")
    })
    .await;
    run("doctor", &endpoints[..1]).assert(5, &["leader: n1 knows no leader", count, &silent, fix]);

    // Frozen, it is there and says nothing.
    cluster.pause(0);
    run("doctor", &endpoints).assert(2, &["http/2: it takes connections and says nothing", "tcp: connection refused"]);
    cluster.resume(0);
}

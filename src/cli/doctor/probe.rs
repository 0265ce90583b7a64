//! Asks an endpoint, stage by stage, until one fails.
//!
//! Each stage has [`STAGE`] and no more, so an endpoint takes some seconds at the worst, and all are asked at once. What
//! speaks no HTTP/2 is asked in two other languages, TLS and HTTP/1.1, over connections of their own: who answers which is
//! known by the first bytes.
//!
//! It asks and never judges. Nothing that it sends changes anything.

use super::facts::{Dial, Probe, Reached, Read, Scene, Told, bare};
use crate::cli::healthcheck;
use crate::cli::lab_file::LabFile;
use crate::client::{Client, Error, Options};
use crate::clock;
use crate::proto::etcdserverpb as pb;
use crate::time::Duration;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;

/// The patience of one stage. A member that needs longer for it is found ill, whatever it does later.
pub const STAGE: Duration = Duration::from_secs(1);

/// How a client of HTTP/2 begins: the preface, and settings that ask for nothing.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The kind of an HTTP/2 frame with settings, the first that a server sends; it stands behind three bytes of length.
const SETTINGS: u8 = 4;

/// The kinds of the TLS records a server begins with: an alert, a handshake.
const TLS_RECORDS: [u8; 2] = [0x15, 0x16];

/// How much of what a stranger says is shown.
const FIRST_BYTES: usize = 60;

/// The least that a TLS server answers with a hello or an alert: TLS 1.2, two ciphers, no extension.
fn tls_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([0x5a; 32]); // the random bytes, of which nothing is made
    hello.extend([0, 0, 4, 0xc0, 0x2f, 0x00, 0x9c, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap_or(u8::MAX);
    [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()
}

/// Asks all of `endpoints` (`host:port`) at once, and then the members that they name and that were not asked yet.
pub async fn scene(endpoints: Vec<String>, lab: Option<LabFile>) -> Scene {
    let asked = all(endpoints).await;
    let mut more: Vec<String> = Vec::new();
    for member in asked.iter().flat_map(named) {
        for url in &member.client_ur_ls {
            let endpoint = bare(url).to_owned();
            let known = asked.iter().any(|probe| probe.endpoint == endpoint) || more.contains(&endpoint);
            if !known && !endpoint.is_empty() {
                more.push(endpoint);
            }
        }
    }
    Scene { announced: all(more).await, asked, lab }
}

fn named(probe: &Probe) -> &[pb::Member] {
    match &probe.reached {
        Reached::Member(told) => &told.members,
        _ => &[],
    }
}

async fn all(endpoints: Vec<String>) -> Vec<Probe> {
    let mut tasks = JoinSet::new();
    for (place, endpoint) in endpoints.into_iter().enumerate() {
        tasks.spawn(async move {
            let reached = reach(&endpoint).await;
            (place, Probe { endpoint, reached })
        });
    }
    let mut probes = tasks.join_all().await;
    probes.sort_by_key(|(place, _)| *place);
    probes.into_iter().map(|(_, probe)| probe).collect()
}

async fn reach(endpoint: &str) -> Reached {
    let addresses: Vec<SocketAddr> = match timeout(STAGE, lookup_host(endpoint)).await {
        Err(_) => return Reached::NoAddress(format!("the resolver did not answer within {STAGE:?}")),
        Ok(Err(error)) => return Reached::NoAddress(plain(&error)),
        Ok(Ok(addresses)) => addresses.collect(),
    };
    let stream = match timeout(STAGE, TcpStream::connect(&addresses[..])).await {
        Err(_) => return Reached::NoConnection(Dial::TimedOut(STAGE)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Reached::NoConnection(Dial::Refused);
        }
        Ok(Err(error)) => return Reached::NoConnection(Dial::Other(plain(&error))),
        Ok(Ok(stream)) => stream,
    };
    let said = first_bytes(stream, HTTP2).await;
    if said.get(3) == Some(&SETTINGS) {
        return member(endpoint).await;
    }
    let words = format!("GET / HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n").into_bytes();
    let (tls, web) = tokio::join!(in_other_words(&addresses, tls_hello()), in_other_words(&addresses, words));
    if [&tls, &said].into_iter().any(|said| said.len() > 2 && TLS_RECORDS.contains(&said[0]) && said[1] == 3) {
        return Reached::Tls;
    }
    if web.starts_with(b"HTTP/") {
        let line = web.split(|byte| *byte == b'\r').next().unwrap_or_default();
        return peer_port(endpoint).await.unwrap_or_else(|| Reached::Web(shown(line)));
    }
    match [said, web, tls].into_iter().find(|said| !said.is_empty()) {
        Some(said) => Reached::Stranger(shown(&said)),
        None if hangs_up(&addresses).await => Reached::Stranger(String::new()),
        None => Reached::Silent(STAGE),
    }
}

/// An operating system's sentence without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .trim_start_matches("failed to lookup address information: ")
        .to_owned()
}

/// Says `words`, and hears what comes first; nothing if nothing comes.
async fn first_bytes(mut stream: TcpStream, words: &[u8]) -> Vec<u8> {
    let mut said = vec![0; FIRST_BYTES];
    let hearing = async {
        stream.write_all(words).await?;
        stream.read(&mut said).await
    };
    let length = timeout(STAGE / 2, hearing).await.map_or(0, |heard| heard.unwrap_or(0));
    said.truncate(length);
    said
}

async fn in_other_words(addresses: &[SocketAddr], words: Vec<u8>) -> Vec<u8> {
    match timeout(STAGE / 2, TcpStream::connect(addresses)).await {
        Ok(Ok(stream)) => first_bytes(stream, &words).await,
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// Whether whoever took the connection ends it by itself, without a word.
async fn hangs_up(addresses: &[SocketAddr]) -> bool {
    let ends = async {
        let mut stream = TcpStream::connect(addresses).await?;
        stream.write_all(HTTP2).await?;
        stream.read_u8().await
    };
    timeout(STAGE / 2, ends).await.is_ok()
}

fn shown(said: &[u8]) -> String {
    said.escape_ascii().to_string()
}

/// The members, if this is the port where they talk to each other: it has a page of them.
async fn peer_port(endpoint: &str) -> Option<Reached> {
    let answer = timeout(STAGE / 2, healthcheck::get(endpoint, "/members")).await.ok()?.ok()?;
    let members: Vec<serde_json::Value> = serde_json::from_str(&answer.text).ok()?;
    let words = |value: &serde_json::Value| -> Vec<String> {
        let words = value.as_array().into_iter().flatten().filter_map(|word| word.as_str());
        words.map(str::to_owned).collect()
    };
    let member = |value: &serde_json::Value| pb::Member {
        id: value["id"].as_u64().unwrap_or_default(),
        name: value["name"].as_str().unwrap_or_default().to_owned(),
        peer_ur_ls: words(&value["peerURLs"]),
        client_ur_ls: words(&value["clientURLs"]),
        is_learner: false,
    };
    (answer.status == 200).then(|| Reached::PeerPort(members.iter().map(member).collect()))
}

/// Asks whoever speaks HTTP/2 in etcd's language.
async fn member(endpoint: &str) -> Reached {
    let options = Options { dial_timeout: STAGE, command_timeout: STAGE, try_timeout: STAGE };
    let client = match Client::new(&[endpoint.to_owned()], options) {
        Ok(client) => client.fail_fast(),
        Err(error) => return Reached::Refuses(error.to_string()),
    };
    let read = async {
        let begun = clock::instant();
        let read = client.range(pb::RangeRequest { key: "health".into(), ..Default::default() }).await;
        match read {
            Ok(_) => Read::Took(begun.elapsed()),
            // Permission denied comes from behind consensus: the read went through.
            Err(error) if error.status().code() == Code::PermissionDenied => Read::Took(begun.elapsed()),
            Err(error) if error.status().code() == Code::DeadlineExceeded => Read::Silent(STAGE),
            Err(error) => Read::Failed(error.cause()),
        }
    };
    let (status, inspect, members, read) =
        tokio::join!(client.status(endpoint), client.inspect(endpoint), client.member_list(false), read);
    match status {
        Ok(status) => {
            let members = members.map(|list| list.members).unwrap_or_default();
            Reached::Member(Box::new(Told { status, members, read, inspect: inspect.ok() }))
        }
        Err(Error::Rejected(status)) if status.code() == Code::Unimplemented => {
            peer_port(endpoint).await.unwrap_or_else(|| Reached::NoApi(status.message().to_owned()))
        }
        Err(error) if error.status().code() == Code::DeadlineExceeded => Reached::Mute(STAGE),
        Err(error) => Reached::Refuses(error.cause()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tls_hello_is_as_long_as_it_says() {
        let hello = tls_hello();
        assert_eq!(usize::from(hello[4]), hello.len() - 5);
        assert_eq!(usize::from(hello[8]), hello.len() - 9);
    }
}

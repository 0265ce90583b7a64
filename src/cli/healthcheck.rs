//! `quorate healthcheck`: what a container's HEALTHCHECK runs, where there is no shell and no curl.
//!
//! It asks the member beside it for `/livez`, or for `/readyz`, over plain HTTP, and ends with 0 or 1 and one line. Without
//! `--endpoints` it finds the member as the member found its own port: in the `QUORATE_` and `ETCD_` variables, which a
//! container's processes share. A member that is configured by flags alone is looked for at the default port.
//!
//! Invariant: it ends within [`ANSWER_WITHIN`], whatever the network and the member do; an orchestrator that has to kill
//! its probe learns nothing from it.
//!
//! Left out: HTTP beyond what the member speaks to a request of one line; redirects, chunks and TLS.

use super::Global;
use super::exit::{BAD_ARGS, ERROR, Failure};
use super::output::print;
use crate::client::Client;
use crate::server::config::{Url, listen_urls};
use crate::server::flags::Settings;
use crate::time::Duration;
use std::collections::BTreeMap;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The whole command's time: less than the second and a half to three that probes are commonly given.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);

/// An answer is some lines; whoever sends more is no member.
const ANSWER_BYTES: u64 = 16 * 1024;

/// `quorate healthcheck`.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate healthcheck\n  quorate healthcheck --ready\n  \
    quorate healthcheck --ready --endpoints 10.0.0.1:2379\n\n\
    It ends within 1.5 s. Exit code: 0 if the member is well, 1 if not, 128 if it can't be known which one is meant.")]
pub struct Args {
    /// Whether it can serve linearizable reads (/readyz), not only whether it lives (/livez).
    #[arg(long)]
    ready: bool,
}

/// Runs `quorate healthcheck`.
///
/// # Errors
/// If the member is not well, or it can't be known where it is.
pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let authority = authority(global, &environment.collect())?;
    let (path, well) = if args.ready { ("/readyz", "ready") } else { ("/livez", "alive") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { tokio::time::timeout(ANSWER_WITHIN, get(&authority, path)).await });
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();
    let mut fix = None;
    let trouble = match answer {
        Ok(Ok(Answer { status: 200, .. })) => return print(format!("{well}: {authority}\n")),
        Ok(Ok(Answer { status, text })) => format!("it answered {status}: {text}"),
        Ok(Err(error)) => {
            fix = Some("quorate serve, or where it runs: --endpoints HOST:PORT");
            error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
        }
        Err(_) if args.ready => {
            format!("no answer within {ANSWER_WITHIN:?}: it may be waiting for a leader or a quorum")
        }
        Err(_) => format!("no answer within {ANSWER_WITHIN:?}"),
    };
    let failure = Failure::new(ERROR, format!("not {well}: http://{authority}{path}: {trouble}"));
    Err(fix.into_iter().fold(failure, Failure::fix))
}

/// `host:port` of the member to ask.
fn authority(global: &Global, environment: &BTreeMap<String, String>) -> Result<String, Failure> {
    let given: Vec<&String> = global.endpoints.iter().filter(|endpoint| !endpoint.is_empty()).collect();
    match given[..] {
        [] => {
            let mut settings = Settings::default();
            settings.merge_environment(environment);
            let urls = listen_urls(&settings, "listen-client-urls");
            urls.map(|urls| reachable(&urls)).map_err(|error| Failure::new(BAD_ARGS, error.to_string()))
        }
        [endpoint] => {
            // Refuses what is no address.
            Client::new(std::slice::from_ref(endpoint), global.options())
                .map_err(|error| Failure::new(BAD_ARGS, error.to_string()))?;
            Ok(endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned())
        }
        _ => Err(Failure::new(BAD_ARGS, "healthcheck asks one member, and several endpoints are given")
            .fix("--endpoints with the one that is meant; for the whole cluster: quorate status")),
    }
}

/// Where a member of this host that listens on `urls`, one at least, can be dialled.
fn reachable(urls: &[Url]) -> String {
    let url = urls.iter().find(|url| url.is_loopback()).unwrap_or(&urls[0]);
    let host = match url.host.as_str() {
        // The member listens there too.
        "localhost" | "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    Url { host: host.to_owned(), port: url.port }.to_string().trim_start_matches("http://").to_owned()
}

/// What was answered.
pub(super) struct Answer {
    pub status: u16,
    /// The first line of the body.
    pub text: String,
}

/// One request, one answer, over a connection of its own.
pub(super) async fn get(authority: &str, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(authority).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut bytes).await?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::Error::other("whoever answers there speaks no HTTP"))
}

fn parse(answer: &str) -> Option<Answer> {
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Some(Answer { status, text: body.lines().next().unwrap_or_default().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        global: Global,
    }

    fn asked(line: &str, environment: &[(&str, &str)]) -> Result<String, String> {
        let words = ["healthcheck"].into_iter().chain(line.split_whitespace());
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        authority(&Line::parse_from(words).global, &environment).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_member_is_found_as_it_found_its_own_port() {
        let listen = "ETCD_LISTEN_CLIENT_URLS";
        for (environment, expected) in [
            (vec![], "127.0.0.1:2379"),
            (vec![(listen, "http://0.0.0.0:4001")], "127.0.0.1:4001"),
            (vec![(listen, "http://[::]:4001")], "[::1]:4001"),
            (vec![(listen, "http://10.0.0.7:4001")], "10.0.0.7:4001"),
            (vec![(listen, "http://10.0.0.7:4001,http://localhost:4002")], "127.0.0.1:4002"),
            (vec![(listen, "http://0.0.0.0:1"), ("QUORATE_LISTEN_CLIENT_URLS", "http://0.0.0.0:2")], "127.0.0.1:2"),
        ] {
            assert_eq!(asked("", &environment).as_deref(), Ok(expected), "{environment:?}");
        }
        assert!(asked("", &[(listen, "0.0.0.0:4001")]).unwrap_err().contains("ETCD_LISTEN_CLIENT_URLS"));
    }

    #[test]
    fn an_endpoint_wins_and_two_are_refused() {
        let environment = [("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:4001")];
        assert_eq!(asked("--endpoints http://n1:2379/", &environment).as_deref(), Ok("n1:2379"));
        assert!(asked("--endpoints a:1,b:2", &environment).unwrap_err().contains("one member"));
        assert!(asked("--endpoints a", &environment).unwrap_err().contains("no port"));
    }

    #[test]
    fn an_answer_is_its_status_and_the_first_line() {
        let found = |text| parse(text).map(|answer| (answer.status, answer.text));
        assert_eq!(found("HTTP/1.1 200 OK\r\na: b\r\n\r\nok\n"), Some((200, "ok".into())));
        assert_eq!(found("HTTP/1.1 503 Service Unavailable\r\n\r\n[-]no\nmore"), Some((503, "[-]no".into())));
        assert_eq!(found("HTTP/1.1 204"), Some((204, String::new())));
        assert_eq!(found("SSH-2.0-x"), None);
        assert_eq!(found(""), None);
    }
}

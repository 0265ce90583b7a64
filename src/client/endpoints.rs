//! Where the members are: the list of endpoints, one connection each, and which one is used now.
//!
//! A connection is made by the first call that needs it, kept for ever and made anew when it breaks. All clones of a
//! client share the list, so they share connections and move on together when a member dies. The only state that moves is
//! one atomic number, the endpoint in use; it is a hint, so every order in which threads see it is right.

use crate::client::Error;
use crate::time::Duration;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tonic::Status;
use tonic::transport::Channel;

/// A quiet connection with calls in flight is asked this often whether it still lives. etcd cuts off a client that pings
/// more than once in 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long the answer to that may take before the connection counts as broken.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// One place where a member may answer.
#[derive(Debug)]
pub struct Endpoint {
    /// As its user wrote it: names it in errors and tables.
    name: String,
    connector: tonic::transport::Endpoint,
    channel: OnceLock<Channel>,
}

impl Endpoint {
    /// Reads `host:port` or `http://host:port`.
    pub fn parse(name: &str, dial_timeout: Duration) -> Result<Endpoint, Error> {
        let refuse = |why: &str| Err(Error::Rejected(Status::invalid_argument(format!("endpoint {name:?}: {why}"))));
        let authority = match name.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", rest)) => {
                return refuse(&format!("TLS is not supported yet; without TLS it is http://{rest}"));
            }
            Some(_) => return refuse("only http:// is known, e.g. http://127.0.0.1:2379"),
            None => name,
        };
        let authority = authority.trim_end_matches('/');
        match authority.parse::<http::uri::Authority>() {
            Ok(parsed) if parsed.port_u16().is_none() => match authority.rsplit_once(':') {
                Some((_, port)) if port.parse::<u64>().is_ok() => refuse("a port is at most 65535"),
                Some(_) | None => refuse("no port, e.g. 127.0.0.1:2379"),
            },
            Ok(parsed) if parsed.host().is_empty() || authority.contains('@') => refuse("not host:port"),
            Err(_) => refuse("not host:port"),
            Ok(_) => match tonic::transport::Endpoint::from_shared(format!("http://{authority}")) {
                Err(e) => refuse(&e.to_string()),
                Ok(connector) => Ok(Endpoint {
                    name: name.to_owned(),
                    connector: connector
                        .tcp_nodelay(true)
                        .connect_timeout(dial_timeout)
                        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                        .keep_alive_timeout(KEEPALIVE_TIMEOUT),
                    channel: OnceLock::new(),
                }),
            },
        }
    }

    /// As its user wrote it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The connection, made on first use; needs a tokio runtime.
    pub fn channel(&self) -> Channel {
        self.channel.get_or_init(|| self.connector.connect_lazy()).clone()
    }
}

/// All of them, and the one in use.
#[derive(Debug)]
pub struct Endpoints {
    list: Box<[Arc<Endpoint>]>,
    in_use: AtomicUsize,
}

impl Endpoints {
    /// Takes at least one endpoint; the first is used first.
    pub fn new(list: Vec<Arc<Endpoint>>) -> Result<Endpoints, Error> {
        if list.is_empty() {
            return Err(Error::Rejected(Status::invalid_argument(
                "no endpoint given, e.g. --endpoints 127.0.0.1:2379",
            )));
        }
        Ok(Endpoints { list: list.into(), in_use: AtomicUsize::new(0) })
    }

    /// All of them, in the user's order.
    pub fn all(&self) -> &[Arc<Endpoint>] {
        &self.list
    }

    /// The one in use, by its place in the list.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Moves on from `place`, unless another call has done so already; says where to try next.
    pub fn next_after(&self, place: usize) -> usize {
        let next = (place + 1) % self.list.len();
        _ = self.in_use.compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
        next
    }

    /// `place` answered.
    pub fn answered(&self, place: usize) {
        if self.in_use.load(Ordering::Relaxed) != place {
            self.in_use.store(place, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<Endpoint, String> {
        Endpoint::parse(name, Duration::from_secs(1)).map_err(|e| e.to_string())
    }

    #[test]
    fn endpoints_are_read_or_refused_with_a_reason() {
        for good in ["127.0.0.1:2379", "http://127.0.0.1:2379", "http://host.example:1/", "[::1]:2379"] {
            assert_eq!(parse(good).unwrap().name(), good);
        }
        for (bad, why) in [
            ("https://127.0.0.1:2379", "TLS is not supported yet"),
            ("unix:///tmp/x", "only http://"),
            ("127.0.0.1", "no port"),
            ("", "not host:port"),
            (":2379", "not host:port"),
            ("a b:2379", "not host:port"),
            ("me@host:2379", "not host:port"),
            ("host:99999", "at most 65535"),
            ("host:", "no port"),
            ("[::1]", "no port"),
        ] {
            let text = parse(bad).expect_err(bad);
            assert!(text.contains(why), "{bad}: {text}");
        }
    }

    #[test]
    fn calls_move_on_together_and_only_once() {
        let list = ["a:1", "b:1", "c:1"].iter().map(|name| Arc::new(parse(name).unwrap())).collect();
        let endpoints = Endpoints::new(list).unwrap();
        assert_eq!(endpoints.in_use(), 0);
        // Two calls fail on the first endpoint: both try the second, and the list moved by one.
        assert_eq!((endpoints.next_after(0), endpoints.next_after(0)), (1, 1));
        assert_eq!(endpoints.in_use(), 1);
        endpoints.answered(2);
        assert_eq!(endpoints.in_use(), 2);
        assert_eq!(endpoints.next_after(2), 0);
        assert!(Endpoints::new(Vec::new()).is_err());
    }
}

//! A client of any etcd v3 server, with the two things that a consensus store's client must get right: it finds a member
//! that works, and it never mistakes "perhaps done" for "not done".
//!
//! A call goes to the endpoint that answered last. If that fails, `retry.rs` decides by what the failure proves; the
//! connections live in `endpoints.rs`. A call costs one atomic load, one clock read and one timer on top of gRPC.
//!
//! Invariants:
//! - a write is sent a second time only if the first surely was not done;
//! - [`Error::Refused`] and [`Error::Rejected`] say "not done" and are true; what can't be known is [`Error::Uncertain`];
//! - a read never ends in [`Error::Uncertain`].
//!
//! What it may not know: nodes, logs, storage. It imports the wire contract, time, the clock and nothing else of the crate.
//!
//! Beyond single calls it has what coordination is made of: watches that outlive their connections (`watch.rs`, and
//! `resume.rs` for what is new and what is repeated), leases that are kept alive (`lease.rs`), the line in which locks and
//! elections stand (`queue.rs`), large ranges in pages (`pages.rs`), and mirrors (`mirror.rs`).
//!
//! Left out so far: TLS, auth; balancing over members (one endpoint at a time: a follower forwards anyway).

/// One RPC with failover: which stub, which method, read or write.
macro_rules! call {
    ($client:expr, $kind:expr, $stub:ident::$service:ident.$method:ident, $request:expr) => {{
        let request = $request;
        $crate::client::retry::run(&$client, $kind, |endpoint: &$crate::client::endpoints::Endpoint| {
            let mut stub = pb::$stub::$service::new(endpoint.channel()).max_decoding_message_size(usize::MAX);
            let request = request.clone();
            async move { stub.$method(request).await }
        })
        .await
    }};
}

mod endpoints;
mod lease;
mod mirror;
mod pages;
mod queue;
mod resume;
mod retry;
#[cfg(test)]
mod tests;
mod upkeep;
mod watch;

use crate::proto::etcdserverpb as pb;
use crate::proto::quorate as own;
use crate::time::Duration;
use endpoints::{Endpoint, Endpoints};
use retry::Kind;
use std::fmt;
use std::sync::Arc;
use tonic::Status;

pub use lease::Lost;
pub use mirror::{Mirror, Rename, transactions};
pub use pages::{Pages, prefix_range};
pub use queue::{Observe, Place};
pub use resume::End;
pub use retry::{OUTCOME, REFUSED};
pub use watch::{Told, Watch};

/// How a call failed, by what it means for the caller.
#[derive(Clone, Debug)]
pub enum Error {
    /// Surely not done, and trying again later may help (no leader, no connection, busy). Every endpoint was tried.
    Refused(Status),
    /// Perhaps done: the connection broke or the time ran out after the request may have left. Only writes fail so; a
    /// read is simply tried again.
    Uncertain(Status),
    /// The server understood and said no: the caller's mistake. Trying again won't help.
    Rejected(Status),
}

impl Error {
    /// What the server, or the connection, said.
    pub fn status(&self) -> &Status {
        match self {
            Error::Refused(status) | Error::Uncertain(status) | Error::Rejected(status) => status,
        }
    }

    /// Whether no server was reached at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Error::Refused(status) if retry::unsent(status))
    }

    /// The innermost cause in a few words: "connection refused", or the server's own text.
    pub fn cause(&self) -> String {
        retry::root_cause(self.status())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(status) => write!(f, "not done: {}", status.message()),
            Error::Uncertain(_) => write!(f, "perhaps done, perhaps not: {}", self.cause()),
            Error::Rejected(status) => f.write_str(status.message()),
        }
    }
}

impl std::error::Error for Error {}

/// What a client may wait for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// To establish one connection.
    pub dial_timeout: Duration,
    /// For one call with all its tries.
    pub command_timeout: Duration,
    /// For one try, after which a read (or a write that surely was not done) goes to the next endpoint.
    pub try_timeout: Duration,
}

impl Default for Options {
    /// etcdctl's two, and half of the command for one try.
    fn default() -> Options {
        let (dial_timeout, command_timeout) = (Duration::from_secs(2), Duration::from_secs(5));
        Options { dial_timeout, command_timeout, try_timeout: command_timeout / 2 }
    }
}

/// What etcdctl asks to learn whether an endpoint is healthy.
#[derive(Clone, Debug)]
pub struct Health {
    /// Whether a linearizable read went through.
    pub read: Result<(), Error>,
    /// The alarms that are raised, if they could be asked for.
    pub alarms: Result<Vec<pb::AlarmMember>, Error>,
}

/// A client: cheap to clone, safe to share; connections are made when needed and kept.
#[derive(Clone, Debug)]
pub struct Client {
    endpoints: Arc<Endpoints>,
    options: Options,
    /// Whether a call ends once no endpoint at all could be reached.
    fail_fast: bool,
}

impl Client {
    /// A client of the cluster behind `endpoints` (`host:port`, `http://host:port`). Connects lazily.
    ///
    /// # Errors
    /// `Rejected` if the list is empty or an endpoint can't be read.
    pub fn new(endpoints: &[String], options: Options) -> Result<Client, Error> {
        // A dial that hangs must end before its try does: then it is known that nothing was sent.
        let dial_timeout = options.dial_timeout.min(options.try_timeout / 2);
        let list =
            endpoints.iter().map(|name| Endpoint::parse(name, dial_timeout).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Client { endpoints: Arc::new(Endpoints::new(list)?), options, fail_fast: false })
    }

    /// The endpoints, as they were given.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.endpoints.all().iter().map(|endpoint| endpoint.name())
    }

    /// The same client for one endpoint only; shares its connection if the endpoint is one of this client's.
    ///
    /// # Errors
    /// `Rejected` if the endpoint can't be read.
    pub fn only(&self, endpoint: &str) -> Result<Client, Error> {
        let known = self.endpoints.all().iter().find(|known| known.name() == endpoint);
        match known {
            Some(known) => Ok(Client { endpoints: Arc::new(Endpoints::new(vec![known.clone()])?), ..self.clone() }),
            None => Ok(Client { fail_fast: self.fail_fast, ..Client::new(&[endpoint.to_owned()], self.options)? }),
        }
    }

    /// The same client with no patience where there is nobody to wait for: a call ends as soon as every endpoint was
    /// unreachable, instead of trying again until its time is over. For people at a terminal.
    #[must_use]
    pub fn fail_fast(self) -> Client {
        Client { fail_fast: true, ..self }
    }

    /// Stores a value.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Error> {
        call!(self, Kind::Write, kv_client::KvClient.put, request)
    }

    /// Reads keys.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        call!(self, Kind::Read, kv_client::KvClient.range, request)
    }

    /// Deletes keys.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_range(&self, request: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Error> {
        call!(self, Kind::Write, kv_client::KvClient.delete_range, request)
    }

    /// Runs a transaction; one that can only read is tried again as a read is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let kind = if only_reads(&request) { Kind::Read } else { Kind::Write };
        call!(self, kind, kv_client::KvClient.txn, request)
    }

    /// The members, as one of them knows them, or (linearizable) as the cluster does.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn member_list(&self, linearizable: bool) -> Result<pb::MemberListResponse, Error> {
        call!(self, Kind::Read, cluster_client::ClusterClient.member_list, pb::MemberListRequest { linearizable })
    }

    /// The alarms that are raised.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn alarms(&self) -> Result<pb::AlarmResponse, Error> {
        call!(self, Kind::Read, maintenance_client::MaintenanceClient.alarm, pb::AlarmRequest::default())
    }

    /// Of one endpoint, no failover.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn status(&self, endpoint: &str) -> Result<pb::StatusResponse, Error> {
        self.once(endpoint, |endpoint| {
            let mut stub = pb::maintenance_client::MaintenanceClient::new(endpoint.channel());
            async move { stub.status(pb::StatusRequest {}).await }
        })
        .await
    }

    /// Of one endpoint, no failover; `Rejected` with code Unimplemented from a server that is no Quorate.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn inspect(&self, endpoint: &str) -> Result<own::InspectResponse, Error> {
        self.once(endpoint, |endpoint| {
            let mut stub = own::node_client::NodeClient::new(endpoint.channel());
            async move { stub.inspect(own::InspectRequest {}).await }
        })
        .await
    }

    /// Asks one endpoint what etcdctl asks it: a linearizable read of the key `health`, then the alarms.
    ///
    /// # Errors
    /// `Rejected` if the endpoint can't be read; what the server says is in [`Health`].
    pub async fn health(&self, endpoint: &str) -> Result<Health, Error> {
        let read = self.once(endpoint, |endpoint| {
            let mut stub = pb::kv_client::KvClient::new(endpoint.channel());
            async move { stub.range(pb::RangeRequest { key: "health".into(), ..Default::default() }).await }
        });
        let read = read.await.map(|_| ());
        // Permission denied comes from behind consensus: the member works.
        let read = read.or_else(|e| if e.status().code() == tonic::Code::PermissionDenied { Ok(()) } else { Err(e) });
        let alarms = match &read {
            Err(e) => Err(e.clone()),
            Ok(()) => self
                .once(endpoint, |endpoint| {
                    let mut stub = pb::maintenance_client::MaintenanceClient::new(endpoint.channel());
                    async move { stub.alarm(pb::AlarmRequest::default()).await }
                })
                .await
                .map(|response| response.alarms),
        };
        Ok(Health { read, alarms })
    }

    /// One try of a read at one endpoint.
    async fn once<R, F, Fut>(&self, endpoint: &str, attempt: F) -> Result<R, Error>
    where
        F: Fn(&Endpoint) -> Fut,
        Fut: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let client = self.only(endpoint)?;
        let endpoint = &client.endpoints.all()[0];
        retry::one_try(endpoint, self.options.command_timeout, &attempt).await.map_err(retry::read_error)
    }
}

/// Whether no branch of a transaction can write.
fn only_reads(txn: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(Request::RequestRange(_)) | None => true,
        Some(Request::RequestTxn(nested)) => only_reads(nested),
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
    })
}

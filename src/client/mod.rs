//! A client of any etcd v3 server, with the two things that a consensus store's client must get right: it finds a member
//! that works, and it never mistakes "perhaps done" for "not done".
//!
//! (skeleton: the essay comes with the implementation)

use crate::proto::etcdserverpb as pb;
use crate::proto::quorate as own;
use crate::time::Duration;

/// How a call failed, by what it means for the caller.
#[derive(Clone, Debug)]
pub enum Error {
    /// Surely not done, and trying again later may help (no leader, no connection, busy). Every endpoint was tried.
    Refused(tonic::Status),
    /// Perhaps done: the connection broke or the time ran out after the request may have left. Only writes fail so; a
    /// read is simply tried again.
    Uncertain(tonic::Status),
    /// The server understood and said no: the caller's mistake. Trying again won't help.
    Rejected(tonic::Status),
}

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

/// A client: cheap to clone, safe to share; connections are made when needed and kept.
#[derive(Clone, Debug)]
pub struct Client {}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Client {
    /// A client of the cluster behind `endpoints` (`host:port`, `http://host:port`). Connects lazily.
    pub fn new(endpoints: &[String], options: Options) -> Result<Client, Error> {
        todo!()
    }
    pub async fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Error> {
        todo!()
    }
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        todo!()
    }
    pub async fn delete_range(&self, request: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Error> {
        todo!()
    }
    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        todo!()
    }
    pub async fn member_list(&self, linearizable: bool) -> Result<pb::MemberListResponse, Error> {
        todo!()
    }
    /// Of one endpoint, no failover.
    pub async fn status(&self, endpoint: &str) -> Result<pb::StatusResponse, Error> {
        todo!()
    }
    /// Of one endpoint, no failover; `Rejected` with code Unimplemented from a server that is no Quorate.
    pub async fn inspect(&self, endpoint: &str) -> Result<own::InspectResponse, Error> {
        todo!()
    }
}

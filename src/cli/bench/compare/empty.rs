//! A server of the same gRPC library that answers every get and put with nothing: how far the library itself goes here.
//!
//! It is a process of its own, as the servers that it stands beside are: `quorate bench empty-server`, which nobody else has
//! a use for, and which is therefore not in the help.

use super::connect;
use super::fleet::{READY_LIMIT, patiently};
use crate::cli::dev::ports;
use crate::cli::exit::{self, Failure};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_server::{Kv, KvServer};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use tonic::{Request, Response, Status};

/// Where it listens, if it is free.
const PORT: u16 = 12_379;

/// `quorate bench empty-server`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves until it is killed.
///
/// # Errors
/// If it can't listen.
pub fn run(args: &Args) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let service = KvServer::new(Nothing);
    let served = tonic::transport::Server::builder().tcp_nodelay(true).add_service(service).serve(args.listen);
    runtime.block_on(served).map_err(|e| Failure::new(exit::ERROR, format!("{}: {e}", args.listen)))
}

struct Nothing;

fn unheard<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("a server that does nothing"))
}

#[tonic::async_trait]
impl Kv for Nothing {
    async fn range(&self, _: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        Ok(Response::new(pb::RangeResponse::default()))
    }

    async fn put(&self, _: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        Ok(Response::new(pb::PutResponse::default()))
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        unheard()
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        unheard()
    }

    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Result<Response<pb::CompactionResponse>, Status> {
        unheard()
    }

    type RangeStreamStream = tokio_stream::Empty<Result<pb::RangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        unheard()
    }
}

/// Its process, as long as this lives.
pub struct Empty {
    child: Child,
    endpoint: String,
}

impl Empty {
    /// Starts it.
    ///
    /// # Errors
    /// If it can't be started.
    pub async fn start() -> Result<Empty, Failure> {
        let port = (PORT..).find(|port| ports::is_free(*port)).unwrap_or(PORT);
        let endpoint = format!("127.0.0.1:{port}");
        let child = Command::new(std::env::current_exe()?)
            .args(["bench", "empty-server", "--listen", &endpoint])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let empty = Empty { child, endpoint };
        patiently("the server that does nothing", READY_LIMIT, async || {
            connect(std::slice::from_ref(&empty.endpoint), 1).await.is_ok().then_some(())
        })
        .await?;
        Ok(empty)
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        // It may have ended by itself; nobody waits for what it says.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

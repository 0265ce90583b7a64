//! `lease`: grant, look at, renew and revoke leases, with etcdctl's words and output.

use super::exit::{BAD_CONNECTION, ERROR, Failure};
use super::output::Printer;
use super::{Global, block_on};
use crate::client::{Client, Lost};
use crate::clock;
use clap::Subcommand;
use tonic::Code;

/// `quorate lease ...`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate lease grant 60\n  \
    quorate put here yes --lease 694d81417acd4754\n  quorate lease keep-alive 694d81417acd4754")]
pub struct LeaseArgs {
    #[command(subcommand)]
    command: LeaseCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum LeaseCommand {
    /// Grant a lease: its keys are deleted when it is not renewed in time.
    Grant {
        /// Seconds that it lives without being renewed.
        ttl: i64,
    },
    /// End a lease and delete its keys.
    Revoke {
        /// The lease, in hexadecimal.
        #[arg(value_parser = lease_id)]
        id: i64,
    },
    /// How long a lease has left.
    Timetolive {
        /// The lease, in hexadecimal.
        #[arg(value_parser = lease_id)]
        id: i64,
        /// Say which keys hang on it, too.
        #[arg(long)]
        keys: bool,
    },
    /// The leases there are.
    List,
    /// Renew a lease again and again, until it is gone or you have had enough (Ctrl-C).
    KeepAlive {
        /// The lease, in hexadecimal.
        #[arg(value_parser = lease_id)]
        id: i64,
        /// Renew it once.
        #[arg(long)]
        once: bool,
    },
}

/// Reads a lease id as etcd's tools write it.
pub fn lease_id(text: &str) -> Result<i64, String> {
    i64::from_str_radix(text, 16).map_err(|e| format!("{e}; a lease id is hexadecimal, e.g. 32695410dcc0ca06"))
}

/// Runs `quorate lease`.
pub fn run(global: &Global, args: &LeaseArgs) -> Result<(), Failure> {
    let printer = Printer::without_table(global)?;
    let client = global.client()?;
    block_on(async {
        match args.command {
            LeaseCommand::Grant { ttl } => printer.lease_grant(&client.lease_grant(ttl, 0).await?),
            LeaseCommand::Revoke { id } => {
                let answer = client.lease_revoke(id).await.map_err(|e| unknown(e.into(), id))?;
                printer.lease_revoke(id, &answer)
            }
            LeaseCommand::Timetolive { id, keys } => {
                printer.lease_time_to_live(&client.lease_time_to_live(id, keys).await?, keys)
            }
            LeaseCommand::List => printer.lease_list(&client.lease_list().await?),
            LeaseCommand::KeepAlive { id, once } => keep_alive(printer, &client, id, once).await,
        }
    })?
}

/// What to do about a lease that there is not.
fn unknown(failure: Failure, id: i64) -> Failure {
    let gone = failure.to_string().contains("lease not found");
    if gone {
        Failure::new(ERROR, format!("lease {id:x}: {failure}")).fix("see which there are: quorate lease list")
    } else {
        failure
    }
}

async fn keep_alive(printer: Printer, client: &Client, id: i64, once: bool) -> Result<(), Failure> {
    let asked = clock::instant();
    let first = client.lease_renew(id).await?;
    if once && first.ttl <= 0 {
        // etcdctl's code for it.
        let text = format!("lease {id:x}: etcdserver: requested lease not found");
        return Err(Failure::new(BAD_CONNECTION, text).fix("see which there are: quorate lease list"));
    }
    if first.ttl <= 0 {
        return printer.lease_gone(id);
    }
    printer.lease_renewed(&first)?;
    if once {
        return Ok(());
    }
    let mut printed = Ok(());
    let lost = client.keep_alive(id, first.ttl, asked, |answer| {
        if printed.is_ok() {
            printed = printer.lease_renewed(answer);
        }
    });
    match lost.await {
        Lost::Gone => printer.lease_gone(id),
        lost @ Lost::Silence(_) => Err(Failure::new(BAD_CONNECTION, format!("lease {id:x}: {lost}"))
            .fix("see what the cluster lacks: quorate status")),
        Lost::Refused(error) if error.status().code() == Code::NotFound => printer.lease_gone(id),
        Lost::Refused(error) => Err(error.into()),
    }
}

//! `mirror`: etcdctl's `make-mirror`, which keeps the keys of one cluster equal in another. What it does is
//! `client/mirror.rs`; here it is started, and says on stderr how far it is.

use super::exit::{BAD_ARGS, ERROR, Failure};
use super::output::plural;
use super::{Global, block_on};
use crate::client::{Client, End, Mirror, Rename};
use crate::clock;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

/// At least so much time lies between two reports.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// `quorate mirror`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate mirror 10.0.1.1:2379,10.0.1.2:2379\n  \
    quorate mirror 10.0.1.1:2379 --prefix app/ --dest-prefix copy/app/\n\n\
It runs until it is stopped. Keys that only the destination has stay there; leases are not mirrored.")]
pub struct Args {
    /// The other cluster: endpoints, comma separated.
    #[arg(value_delimiter = ',', required = true, num_args = 1)]
    destination: Vec<String>,
    /// Mirror the keys that start with this only.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: OsString,
    /// What the keys start with in the other cluster, instead of --prefix.
    #[arg(long, default_value = "", hide_default_value = true)]
    dest_prefix: OsString,
    /// In the other cluster the keys go without --prefix.
    #[arg(long)]
    no_dest_prefix: bool,
}

/// Runs `quorate mirror`.
pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    if args.no_dest_prefix && !args.dest_prefix.is_empty() {
        return Err(Failure::new(BAD_ARGS, "--dest-prefix and --no-dest-prefix exclude each other: choose one"));
    }
    let source = global.client()?;
    let destination = Client::new(&args.destination, global.options());
    let destination = destination.map_err(|e| Failure::new(BAD_ARGS, e.to_string()))?.fail_fast();
    let from = args.prefix.into_vec();
    let to = match args.dest_prefix.into_vec() {
        to if to.is_empty() && !args.no_dest_prefix => from.clone(),
        to => to,
    };
    block_on(follow(Mirror::new(&source, destination, Rename { from: from.into(), to: to.into() })))?
}

async fn follow(mut mirror: Mirror) -> Result<(), Failure> {
    let mut copied = 0;
    let mut reported = clock::instant();
    while let Some(count) = mirror.copy().await? {
        copied += count as u64;
        if reported.elapsed() >= REPORT_EVERY {
            reported = clock::instant();
            anstream::eprintln!("copied {} so far", plural(copied, "key"));
        }
    }
    anstream::eprintln!("copied {} as of revision {}; following", plural(copied, "key"), mirror.revision());
    let mut changes = 0;
    loop {
        let followed = mirror.follow(|error| anstream::eprintln!("the destination: {error}; trying again"));
        let revision = match followed.await? {
            Ok((count, revision)) => {
                changes += count as u64;
                revision
            }
            Err(End::Compacted(oldest)) => {
                let text = format!(
                    "revisions that were not mirrored yet are compacted at the source (the oldest is {oldest}): what was \
                     deleted meanwhile is not known"
                );
                return Err(Failure::new(ERROR, text)
                    .fix("delete the mirrored keys at the destination, and start the mirror again"));
            }
            Err(End::Canceled(why)) => return Err(Failure::new(ERROR, format!("the source ended the watch: {why}"))),
        };
        if reported.elapsed() >= REPORT_EVERY {
            reported = clock::instant();
            anstream::eprintln!("mirrored {} up to revision {revision}", plural(changes, "change"));
        }
    }
}

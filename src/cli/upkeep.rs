//! `compact`, `defrag`, `alarm` and `move-leader`: what whoever looks after a cluster does by hand, with etcdctl's words.

use super::exit::{BAD_ARGS, ERROR, Failure};
use super::member::hosts;
use super::output::{self, Printer};
use super::{Global, block_on};
use crate::client::{self, Client};
use crate::proto::etcdserverpb as pb;
use clap::Subcommand;
use tonic::Code;

/// `quorate compact`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate compact 4000              keep what is needed to read as of revision 4000 and later\n  \
    quorate compact 4000 --physical   and wait until the rest is gone from the disk\n\n\
The current revision: quorate get any -w json"
)]
pub struct CompactArgs {
    /// The oldest revision that can still be read afterwards.
    revision: String,
    /// Wait until what was forgotten is gone from the disk.
    #[arg(long)]
    physical: bool,
}

/// `quorate defrag`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate defrag --cluster\n  quorate defrag --endpoints 10.0.0.1:2379")]
pub struct DefragArgs {
    /// All members that the member list names, one after the other, instead of --endpoints.
    #[arg(long)]
    cluster: bool,
}

/// `quorate alarm ...`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate alarm list\n  quorate alarm disarm")]
pub struct AlarmArgs {
    #[command(subcommand)]
    command: AlarmCommand,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum AlarmCommand {
    /// The alarms that are raised.
    List,
    /// Clear all alarms.
    Disarm,
}

/// `quorate move-leader`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate move-leader 8e9e05c52164694d\n\nThe ids: quorate member list")]
pub struct MoveLeaderArgs {
    /// The member that shall lead, in hexadecimal.
    #[arg(value_parser = member_id)]
    member: u64,
}

fn member_id(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16)
        .map_err(|e| format!("{e}; a member's id is hexadecimal, as `quorate member list` prints it"))
}

/// Runs `quorate compact`.
pub fn compact(global: &Global, args: &CompactArgs) -> Result<(), Failure> {
    let client = global.client()?;
    let revision = args.revision.parse().map_err(|e| {
        Failure::new(ERROR, format!("the revision {:?}: {e}", args.revision)).fix("give a number: quorate compact 4000")
    })?;
    let fix = "the newest revision: quorate get any -w fields";
    block_on(client.compact(revision, args.physical))?.map_err(|e| advise(e, fix))?;
    output::print(format!("compacted revision {revision}\n"))
}

/// Adds what to do about a considered no.
fn advise(error: client::Error, fix: &str) -> Failure {
    let considered = matches!(&error, client::Error::Rejected(status) if status.code() != Code::Unimplemented);
    let failure = Failure::from(error);
    if considered { failure.fix(fix) } else { failure }
}

/// Runs `quorate defrag`.
pub fn defrag(global: &Global, args: &DefragArgs) -> Result<(), Failure> {
    let client = global.client()?;
    block_on(async {
        let mut failed = false;
        for addresses in hosts(&client, args.cluster).await? {
            failed |= !defrag_one(&client, &addresses).await?;
        }
        if failed {
            let fix = "see what the cluster lacks: quorate status";
            return Err(Failure::new(ERROR, "a member was not defragmented").fix(fix));
        }
        Ok(())
    })?
}

/// One member, at the first of its addresses that answers; whether one did.
async fn defrag_one(client: &Client, addresses: &[String]) -> Result<bool, Failure> {
    for address in addresses {
        match client.defragment(address).await {
            Ok(_) => {
                output::print(format!("Finished defragmenting etcd member[{address}]\n"))?;
                return Ok(true);
            }
            Err(e) => anstream::eprintln!("Failed to defragment etcd member[{address}]: {}", e.cause()),
        }
    }
    Ok(false)
}

/// Runs `quorate alarm`.
pub fn alarm(global: &Global, args: &AlarmArgs) -> Result<(), Failure> {
    let printer = Printer::without_table(global)?;
    let client = global.client()?;
    block_on(async {
        let mut raised = client.alarms().await?;
        if let AlarmCommand::Disarm = args.command {
            let mut cleared = pb::AlarmResponse::default();
            for alarm in raised.alarms {
                cleared.alarms.extend(client.alarm_disarm(alarm).await?.alarms);
            }
            raised = cleared;
        }
        printer.alarms(&raised)
    })?
}

/// Runs `quorate move-leader`: only the leader hands over, so it is looked for among the endpoints, and where it says that
/// it answers.
pub fn move_leader(global: &Global, args: &MoveLeaderArgs) -> Result<(), Failure> {
    let client = global.client()?;
    block_on(async {
        let (leader, endpoint) = find_leader(&client).await?;
        let moved = client.move_leader(&endpoint, args.member).await;
        moved.map_err(|e| advise(e, "name a member that votes: quorate member list"))?;
        output::print(format!("Leadership transferred from {leader:x} to {:x}\n", args.member))
    })?
}

/// The leader and the endpoint at which it answers: one of those given, or where it says itself.
pub(super) async fn find_leader(client: &Client) -> Result<(u64, String), Failure> {
    let given: Vec<String> = client.endpoints().map(str::to_owned).collect();
    leader(client, &given).await?.ok_or_else(|| {
        let text = format!("no leader answers at {}", given.join(", "));
        Failure::new(BAD_ARGS, text)
            .fix("see who leads: quorate status\n       and name it too: --endpoints HOST:PORT,HOST:PORT")
    })
}

async fn leader(client: &Client, given: &[String]) -> Result<Option<(u64, String)>, Failure> {
    let mut last = None;
    for endpoint in given {
        match client.status(endpoint).await {
            Ok(status) if status.header.is_some_and(|header| header.member_id == status.leader) => {
                return Ok(Some((status.leader, endpoint.clone())));
            }
            Ok(status) => last = Some(status.leader),
            Err(_) => {}
        }
    }
    let Some(leader) = last.filter(|leader| *leader != 0) else { return Ok(None) };
    let members = client.member_list(false).await?.members;
    let urls = members.into_iter().find(|member| member.id == leader).map(|member| member.client_ur_ls);
    for url in urls.unwrap_or_default() {
        if client.status(&url).await.is_ok_and(|status| status.leader == leader) {
            return Ok(Some((leader, url)));
        }
    }
    Ok(None)
}

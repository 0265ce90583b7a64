//! `member add|remove|update|promote|replace`, `leader transfer`, `drain`: who belongs to the cluster, and who works in it.
//!
//! Before a change there is its plan: at each step who votes, how many of them decide, and how many may be lost. `--dry-run`
//! prints that and ends there. Otherwise stdout has what etcdctl prints, and stderr the plan and everything else for people.
//!
//! The arithmetic here explains and warns; what is safe is decided by the leader, which knows who it hears.
//!
//! A member that is added as a voter learns first and votes by itself once it has caught up, so the plan of an addition has
//! two steps. A replacement is an addition, then a removal, in this order: at no step there are fewer voters than before.

use super::exit::{BAD_ARGS, ERROR, Failure};
use super::output::{self, columns};
use super::{Global, block_on, upkeep};
use crate::client::Client;
use crate::proto::etcdserverpb as pb;
use clap::Subcommand;
use indicatif::ProgressBar;
use std::fmt::Write as _;
use std::time::Duration;

/// How often it is looked whether a new member votes.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The changes of `quorate member`.
#[derive(Clone, Debug, Subcommand)]
pub enum Change {
    /// Add a member; then start it.
    Add {
        /// How it will be called.
        name: String,
        /// Where the others will find it.
        #[arg(long, value_delimiter = ',', required = true)]
        peer_urls: Vec<String>,
        /// It learns until `member promote` makes it vote; otherwise it votes by itself once it has caught up.
        #[arg(long)]
        learner: bool,
        /// Show the plan only.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove a member; its process says so and stops.
    Remove {
        /// Its id or name.
        member: String,
        /// Show the plan only.
        #[arg(long)]
        dry_run: bool,
    },
    /// Say where a member is found from now on.
    Update {
        /// Its id or name.
        member: String,
        /// Where the others find it.
        #[arg(long, value_delimiter = ',', required = true)]
        peer_urls: Vec<String>,
    },
    /// Let a learner vote.
    Promote {
        /// Its id or name.
        member: String,
        /// Show the plan only.
        #[arg(long)]
        dry_run: bool,
    },
    /// Add a member, wait until it votes, and remove another one.
    Replace {
        /// The id or name of the one that goes.
        old: String,
        /// Where the others will find the new one.
        #[arg(long, value_delimiter = ',', required = true)]
        with: Vec<String>,
        /// How the new one is called [default: a name after the old one's].
        #[arg(long)]
        name: Option<String>,
        /// Show the plan only.
        #[arg(long)]
        dry_run: bool,
    },
}

/// `quorate leader ...`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate leader show\n  quorate leader transfer n2\n  quorate leader transfer")]
pub struct LeaderArgs {
    #[command(subcommand)]
    command: LeaderCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum LeaderCommand {
    /// Who leads.
    Show,
    /// Let another member lead: the one that is named, or the next one.
    Transfer {
        /// Its id or name.
        to: Option<String>,
    },
}

/// `quorate drain`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate drain n1      and then stop it, if the answer is yes")]
pub struct DrainArgs {
    /// The id or name of the member that is to be stopped.
    member: String,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    what: String,
    voters: usize,
}

impl Step {
    fn new(what: impl Into<String>, voters: usize) -> Step {
        Step { what: what.into(), voters }
    }

    fn quorum(&self) -> usize {
        self.voters / 2 + 1
    }
}

/// The plan as a table.
fn table(steps: &[Step]) -> String {
    let mut rows = vec![["STEP", "VOTERS", "QUORUM", "MAY BE LOST"].map(str::to_owned)];
    rows.extend(steps.iter().map(|step| {
        let spare = step.voters.saturating_sub(step.quorum());
        [step.what.clone(), step.voters.to_string(), step.quorum().to_string(), spare.to_string()]
    }));
    columns(&rows)
}

/// The members, as the cluster knows them.
struct Members(Vec<pb::Member>);

impl Members {
    async fn of(client: &Client) -> Result<Members, Failure> {
        Ok(Members(client.member_list(true).await?.members))
    }

    fn voters(&self) -> usize {
        self.0.iter().filter(|member| !member.is_learner).count()
    }

    /// Whose id or name this is.
    fn find(&self, wanted: &str) -> Result<&pb::Member, Failure> {
        let by_name = self.0.iter().find(|member| member.name == wanted);
        let by_id = || {
            let id = u64::from_str_radix(wanted, 16).ok()?;
            self.0.iter().find(|member| member.id == id)
        };
        by_name.or_else(by_id).ok_or_else(|| {
            let names: Vec<String> = self.0.iter().map(call).collect();
            let text = format!("there is no member {wanted:?}; there are {}", names.join(", "));
            Failure::new(ERROR, text).fix("name one of them: quorate member list")
        })
    }
}

/// What a member is called: its name, or its id as long as it was not started.
fn call(member: &pb::Member) -> String {
    if member.name.is_empty() { format!("{:x}", member.id) } else { member.name.clone() }
}

/// Runs a change.
pub async fn run(global: &Global, client: &Client, change: Change) -> Result<(), Failure> {
    let members = Members::of(client).await?;
    let now = Step::new("now", members.voters());
    let voters = now.voters;
    match change {
        Change::Add { name, peer_urls, learner, dry_run } => {
            let mut plan = vec![now, Step::new(format!("{name} learns"), voters)];
            if !learner {
                plan.push(Step::new(format!("{name} has caught up and votes"), voters + 1));
            }
            if agree(&plan, dry_run)? { add(global, client, &name, peer_urls, learner).await.map(drop) } else { Ok(()) }
        }
        Change::Remove { member, dry_run } => {
            let member = members.find(&member)?;
            let left = voters - usize::from(!member.is_learner);
            let plan = [now, Step::new(format!("{} is removed", call(member)), left)];
            if agree(&plan, dry_run)? { remove(client, member.id).await } else { Ok(()) }
        }
        Change::Update { member, peer_urls } => {
            let id = members.find(&member)?.id;
            let answer = client.member_update(id, peer_urls).await?;
            let cluster = cluster_of(answer.header.as_ref());
            output::print(format!("Member {id:16x} updated in cluster {cluster:16x}\n"))
        }
        Change::Promote { member, dry_run } => {
            let member = members.find(&member)?;
            let gained = voters + usize::from(member.is_learner);
            let plan = [now, Step::new(format!("{} votes", call(member)), gained)];
            if !agree(&plan, dry_run)? {
                return Ok(());
            }
            let answer = client.member_promote(member.id).await?;
            let cluster = cluster_of(answer.header.as_ref());
            output::print(format!("Member {:16x} promoted in cluster {cluster:16x}\n", member.id))
        }
        Change::Replace { old, with, name, dry_run } => {
            let old = members.find(&old)?.clone();
            let name = name.unwrap_or_else(|| format!("{}-2", call(&old)));
            let vote = usize::from(!old.is_learner);
            let plan = [
                now,
                Step::new(format!("{name} learns"), voters),
                Step::new(format!("{name} has caught up and votes"), voters + 1),
                Step::new(format!("{} is removed", call(&old)), voters + 1 - vote),
            ];
            if !agree(&plan, dry_run)? {
                return Ok(());
            }
            let new = add(global, client, &name, with, false).await?;
            wait_for_vote(client, new, &name).await?;
            remove(client, old.id).await
        }
    }
}

/// Shows the plan; whether to go on.
fn agree(plan: &[Step], dry_run: bool) -> Result<bool, Failure> {
    let mut text = table(plan);
    if plan.last().is_some_and(|last| last.voters.is_multiple_of(2)) {
        text += "an even number of voters may lose no more of them than one voter less would\n";
    }
    if dry_run {
        output::print(text)?
    } else {
        anstream::eprint!("{text}")
    }
    Ok(!dry_run)
}

fn cluster_of(header: Option<&pb::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.cluster_id)
}

/// Adds a member and tells how it is started; returns its id.
async fn add(
    global: &Global,
    client: &Client,
    name: &str,
    peer_urls: Vec<String>,
    learner: bool,
) -> Result<u64, Failure> {
    let answer = client.member_add(peer_urls.clone(), learner).await?;
    let member = answer.member.clone().unwrap_or_default();
    let cluster = cluster_of(answer.header.as_ref());
    let role = if member.is_learner { " as learner " } else { " " };
    let mut text = format!("Member {:16x} added{role}to cluster {cluster:16x}\n\n", member.id);
    let everyone: Vec<String> = answer.members.iter().flat_map(|m| addresses(m, member.id, name)).collect();
    _ = writeln!(text, "ETCD_NAME={name:?}");
    _ = writeln!(text, "ETCD_INITIAL_CLUSTER={:?}", everyone.join(","));
    _ = writeln!(text, "ETCD_INITIAL_ADVERTISE_PEER_URLS={:?}", peer_urls.join(","));
    _ = writeln!(text, "ETCD_INITIAL_CLUSTER_STATE=\"existing\"");
    output::print(text)?;
    if global.write_out == output::Format::Simple {
        anstream::eprintln!(
            "start it:\n  quorate serve --name {name} --initial-advertise-peer-urls {urls} --listen-peer-urls {urls} \\\n    \
             --initial-cluster-state existing --initial-cluster {}",
            everyone.join(","),
            urls = peer_urls.join(","),
        );
    }
    Ok(member.id)
}

/// `name=url` of each of a member's URLs; the one that was just added has no name yet.
fn addresses(member: &pb::Member, added: u64, name: &str) -> Vec<String> {
    let called = if member.id == added { name } else { &member.name };
    member.peer_ur_ls.iter().map(|url| format!("{called}={url}")).collect()
}

async fn remove(client: &Client, id: u64) -> Result<(), Failure> {
    let answer = client.member_remove(id).await?;
    let cluster = cluster_of(answer.header.as_ref());
    output::print(format!("Member {id:16x} removed from cluster {cluster:16x}\n"))
}

/// Waits until the member votes. Ctrl-C leaves it a member, and removes nobody.
async fn wait_for_vote(client: &Client, id: u64, name: &str) -> Result<(), Failure> {
    let bar = ProgressBar::new_spinner();
    bar.set_message(format!("waiting for {name} to start, catch up and vote; Ctrl-C leaves it at that"));
    loop {
        bar.tick();
        for endpoint in client.endpoints() {
            if client.inspect(endpoint).await.is_ok_and(|inspected| inspected.voters.contains(&id)) {
                bar.finish_and_clear();
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Runs `quorate leader`.
pub fn leader(global: &Global, args: &LeaderArgs) -> Result<(), Failure> {
    let client = global.client()?;
    block_on(async {
        let members = Members::of(&client).await?;
        let (leader, endpoint) = upkeep::find_leader(&client).await?;
        let name = |id: u64| members.0.iter().find(|member| member.id == id).map_or(format!("{id:x}"), call);
        match &args.command {
            LeaderCommand::Show => output::print(format!("{}\n", name(leader))),
            LeaderCommand::Transfer { to } => {
                let target = match to {
                    Some(to) => members.find(to)?.id,
                    None => another(&members, leader)?,
                };
                client.move_leader(&endpoint, target).await?;
                output::print(format!("{} leads now, before it did {}\n", name(target), name(leader)))
            }
        }
    })?
}

/// A voter that does not lead.
fn another(members: &Members, leader: u64) -> Result<u64, Failure> {
    let other = members.0.iter().find(|member| member.id != leader && !member.is_learner && !member.name.is_empty());
    other.map(|member| member.id).ok_or_else(|| {
        Failure::new(BAD_ARGS, "there is nobody else who could lead").fix("quorate member add NAME --peer-urls URL")
    })
}

/// Runs `quorate drain`.
pub fn drain(global: &Global, args: &DrainArgs) -> Result<(), Failure> {
    let client = global.client()?;
    block_on(async {
        let members = Members::of(&client).await?;
        let member = members.find(&args.member)?;
        let mut alive = 0;
        for other in members.0.iter().filter(|other| other.id != member.id && !other.is_learner) {
            for url in &other.client_ur_ls {
                if client.status(url).await.is_ok() {
                    alive += 1;
                    break;
                }
            }
        }
        let voters = members.voters();
        let quorum = voters / 2 + 1;
        if !member.is_learner && alive < quorum {
            let text = format!(
                "without {} {alive} of {voters} voters answer, and {quorum} decide: the cluster would stop",
                call(member)
            );
            return Err(Failure::new(ERROR, text).fix("bring the others back first: quorate status"));
        }
        let (leader, endpoint) = upkeep::find_leader(&client).await?;
        if leader == member.id {
            let target = another(&members, leader)?;
            client.move_leader(&endpoint, target).await?;
            anstream::eprintln!("{} led and has handed over", call(member));
        }
        output::print(format!("{} can be stopped: {alive} of {voters} voters go on, {quorum} decide\n", call(member)))
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_how_many_decide_and_how_many_may_be_lost() {
        let plan = [Step::new("now", 3), Step::new("n4 votes", 4), Step::new("n1 is removed", 3)];
        let expected = "STEP           VOTERS  QUORUM  MAY BE LOST\n\
                        now            3       2       1\n\
                        n4 votes       4       3       1\n\
                        n1 is removed  3       2       1\n";
        assert_eq!(table(&plan), expected);
    }

    #[test]
    fn members_are_found_by_name_and_by_id() {
        let member = |id, name: &str| pb::Member { id, name: name.into(), ..Default::default() };
        let members = Members(vec![member(0xab, "n1"), member(0xcd, ""), member(0x1, "cd")]);
        assert_eq!(members.find("n1").unwrap().id, 0xab);
        assert_eq!(members.find("cd").unwrap().id, 1, "a name comes before an id");
        assert_eq!(members.find("ab").unwrap().id, 0xab);
        let error = members.find("n9").unwrap_err().to_string();
        assert!(error.contains("there are n1, cd, cd"), "{error}");
    }

    #[test]
    fn the_new_member_is_called_by_its_new_name() {
        let old = pb::Member { id: 1, name: "n1".into(), peer_ur_ls: vec!["a".into()], ..Default::default() };
        let new = pb::Member { id: 2, peer_ur_ls: vec!["b".into(), "c".into()], ..Default::default() };
        let all: Vec<String> = [&old, &new].into_iter().flat_map(|member| addresses(member, 2, "n2")).collect();
        assert_eq!(all, ["n1=a", "n2=b", "n2=c"]);
    }
}

//! `member ...`, `endpoint status`, `endpoint health` and `endpoint hashkv`: what etcdctl asks of members and endpoints.

use super::exit::{Doctor, ERROR, Failure};
use super::output::Printer;
use super::{Global, block_on, changes};
use crate::client::{self, Client, Health};
use crate::clock;
use clap::Subcommand;
use std::time::Duration;
use tokio::task::JoinSet;

/// `quorate member ...`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate member list -w table\n  quorate member add n4 --peer-urls http://10.0.0.4:2380 --dry-run\n  \
    quorate member remove n2\n  quorate member replace n3 --name n4 --with http://10.0.0.4:2380\n\n\
A member is named by its id, as `member list` prints it, or by its name."
)]
pub struct MemberArgs {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum MemberCommand {
    /// List the members: id, status, name, peer addresses, client addresses, is learner.
    List,
    #[command(flatten)]
    Change(changes::Change),
}

/// `quorate endpoint ...`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate endpoint status --cluster -w table\n  \
    quorate endpoint health --endpoints 10.0.0.1:2379,10.0.0.2:2379")]
pub struct EndpointArgs {
    /// Ask all members that the member list names, instead of --endpoints.
    #[arg(long, global = true)]
    cluster: bool,
    #[command(subcommand)]
    command: EndpointCommand,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum EndpointCommand {
    /// Endpoint, id, version, db size, is leader, is learner, raft term, raft index, raft applied index, errors.
    Status,
    /// Whether a linearizable read goes through, and how long it takes.
    Health,
    /// The hash of the endpoint's keys and their history: members that agree on a revision agree on its hash.
    Hashkv {
        /// Hash up to this revision; 0: all.
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        rev: i64,
    },
}

/// What one endpoint says of its health.
#[derive(Clone, Debug)]
pub struct EndpointHealth {
    /// Where was asked.
    pub endpoint: String,
    /// How long the answer took.
    pub took: Duration,
    /// Why it is not healthy.
    pub error: Option<String>,
}

/// Runs `quorate member`.
pub fn member(global: &Global, args: MemberArgs) -> Result<(), Failure> {
    let client = global.client()?;
    match args.command {
        MemberCommand::List => Printer::new(global).members(&block_on(client.member_list(true))??),
        MemberCommand::Change(change) => block_on(changes::run(global, &client, change))?,
    }
}

/// Runs `quorate endpoint`.
pub fn endpoint(global: &Global, args: EndpointArgs) -> Result<(), Failure> {
    let client = global.client()?;
    block_on(async {
        let hosts = hosts(&client, args.cluster).await?;
        match args.command {
            EndpointCommand::Status => status(global, &client, hosts).await,
            EndpointCommand::Health => health(global, &client, hosts).await,
            EndpointCommand::Hashkv { rev } => hash_kv(global, &client, hosts, rev).await,
        }
    })?
}

/// The endpoints that were given, or with `cluster` those of all members.
pub(super) async fn hosts(client: &Client, cluster: bool) -> Result<Hosts, Failure> {
    Ok(if cluster {
        client.member_list(true).await?.members.into_iter().map(|member| member.client_ur_ls).collect()
    } else {
        client.endpoints().map(|endpoint| vec![endpoint.to_owned()]).collect()
    })
}

/// The endpoints of some members. A member may have announced addresses for several networks, not all of which can be
/// reached from here: where one of them answers, the silence of the others is no news.
pub(super) type Hosts = Vec<Vec<String>>;

/// Asks all endpoints of all members, and keeps of each member what answered, or if nothing did all of it.
pub(super) async fn ask_hosts<T, F, Fut>(client: &Client, hosts: Hosts, ask: F, answered: impl Fn(&T) -> bool) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(Client, String) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let counts: Vec<usize> = hosts.iter().map(Vec::len).collect();
    let mut answers = at_once(client, hosts.into_iter().flatten().collect(), ask).await.into_iter();
    let mut kept = Vec::new();
    for count in counts {
        let (good, bad): (Vec<T>, Vec<T>) = answers.by_ref().take(count).partition(&answered);
        kept.extend(if good.is_empty() { bad } else { good });
    }
    kept
}

async fn status(global: &Global, client: &Client, hosts: Hosts) -> Result<(), Failure> {
    let ask = |client: Client, endpoint: String| async move {
        let answer = client.status(&endpoint).await;
        (endpoint, answer)
    };
    let answers = ask_hosts(client, hosts, ask, |(_, answer)| answer.is_ok()).await;
    print_answers(answers, |answers| Printer::new(global).statuses(answers))
}

async fn hash_kv(global: &Global, client: &Client, hosts: Hosts, revision: i64) -> Result<(), Failure> {
    let ask = |client: Client, endpoint: String| async move {
        let answer = client.hash_kv(&endpoint, revision).await;
        (endpoint, answer)
    };
    let answers = ask_hosts(client, hosts, ask, |(_, answer)| answer.is_ok()).await;
    print_answers(answers, |answers| Printer::new(global).hashes(answers))
}

/// Prints what answered, and on stderr who did not; that ends the command with an error.
fn print_answers<R>(
    answers: Vec<(String, Result<R, client::Error>)>,
    print: impl FnOnce(&[(String, R)]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut answered = Vec::new();
    let mut all = true;
    for (endpoint, answer) in answers {
        match answer {
            Ok(answer) => answered.push((endpoint, answer)),
            Err(e) => {
                let verb = if matches!(e, client::Error::Rejected(_)) { "refused" } else { "did not answer" };
                anstream::eprintln!("{endpoint} {verb}: {}", e.cause());
                all = false;
            }
        }
    }
    print(&answered)?;
    if all {
        return Ok(());
    }
    let failure = Failure::new(ERROR, "an endpoint did not answer what was asked")
        .fix("see what the cluster lacks: quorate status");
    Err(failure.doctor(Doctor::Instead))
}

async fn health(global: &Global, client: &Client, hosts: Hosts) -> Result<(), Failure> {
    let ask = |client: Client, endpoint: String| async move {
        let start = clock::instant();
        let error = match client.health(&endpoint).await {
            Err(e) => Some(e.cause()),
            Ok(health) => complaint(&health),
        };
        EndpointHealth { endpoint, took: start.elapsed(), error }
    };
    let healths = ask_hosts(client, hosts, ask, |health| health.error.is_none()).await;
    Printer::new(global).healths(&healths)?;
    if healths.iter().all(|health| health.error.is_none()) {
        return Ok(());
    }
    let failure = Failure::new(ERROR, "an endpoint is not healthy").fix("see what the cluster lacks: quorate status");
    Err(failure.doctor(Doctor::Instead))
}

fn complaint(health: &Health) -> Option<String> {
    match (&health.read, &health.alarms) {
        (Err(e), _) => Some(format!("a linearizable read failed: {}", e.cause())),
        (Ok(()), Err(e)) => Some(format!("the alarms could not be read: {}", e.cause())),
        (Ok(()), Ok(alarms)) if alarms.is_empty() => None,
        (Ok(()), Ok(alarms)) => {
            let names: Vec<&str> = alarms.iter().map(|alarm| alarm.alarm().as_str_name()).collect();
            Some(format!("Active Alarm(s): {}", names.join(", ")))
        }
    }
}

/// Asks all endpoints at once; the answers come in the endpoints' order.
pub(super) async fn at_once<T, F, Fut>(client: &Client, endpoints: Vec<String>, ask: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(Client, String) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (place, endpoint) in endpoints.into_iter().enumerate() {
        let asking = ask(client.clone(), endpoint);
        tasks.spawn(async move { (place, asking.await) });
    }
    let mut answers = tasks.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_members_other_addresses_may_be_silent() {
        let hosts = [&["n1:1", "a:1"][..], &["n2:1", "n2:2"], &["b:1"]];
        let hosts = hosts.map(|urls| urls.iter().map(|url| (*url).to_owned()).collect()).to_vec();
        let client = Client::new(&["a:1".to_owned()], crate::client::Options::default()).unwrap();
        let ask = |_, endpoint: String| async move { endpoint };
        let kept = ask_hosts(&client, hosts, ask, |endpoint| !endpoint.starts_with('n')).await;
        assert_eq!(kept, ["a:1", "n2:1", "n2:2", "b:1"]);
    }
}

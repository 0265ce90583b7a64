//! `lock` and `elect`: hold something while a command runs, or until someone says stop, with etcdctl's words.
//!
//! Both stand in line under a name (`client/queue.rs`) with a lease that is kept alive for as long as this process lives.
//! The lease is revoked at every end that can be helped: the command's end, SIGTERM, SIGINT, an error. What can't be helped
//! (SIGKILL, power) ends with the lease's time to live.
//!
//! If the lease is lost while a command runs, the command is ended too, first kindly and then not: someone else may hold
//! the lock by then, and a lock that two hold is none. etcdctl lets it run on.

use super::exit::{BAD_ARGS, ERROR, Failure};
use super::output::Printer;
use super::{Global, block_on};
use crate::client::{Client, Lost, Place};
use crate::clock;
use crate::proto::etcdserverpb as pb;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// How long a command that lost its lock has to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// How long a session lives without being renewed, in seconds, if nobody says; etcd's.
const SESSION_TTL: i64 = 60;

/// The exit code for a command that a signal ended; etcdctl's.
const ENDED_BY_SIGNAL: u8 = 255;

/// `quorate lock`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate lock backup -- tar czf backup.tgz /srv      one at a time; its exit code is tar's\n  \
    quorate lock maintenance                            held until Ctrl-C\n\n\
The command has ETCD_LOCK_KEY and ETCD_LOCK_REV in its environment. The revision grows from holder to holder: what is \
protected can refuse whoever comes with an older one. If the lock is lost, the command is ended."
)]
pub struct LockArgs {
    /// The lock.
    name: OsString,
    /// What to run while it is held.
    #[arg(trailing_var_arg = true)]
    command: Vec<OsString>,
    /// Seconds after which a holder that died holds it no more.
    #[arg(long, default_value_t = 10)]
    ttl: i64,
}

/// `quorate elect`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate elect scheduler host-17      lead until Ctrl-C, as soon as nobody else does\n  \
    quorate elect scheduler --listen     see who leads, and every change"
)]
pub struct ElectArgs {
    /// The election.
    name: OsString,
    /// What others read who ask for the leader.
    proposal: Option<OsString>,
    /// Only look on.
    #[arg(short, long)]
    listen: bool,
    /// Seconds after which a leader that died leads no more.
    #[arg(long, default_value_t = SESSION_TTL)]
    ttl: i64,
}

/// Runs `quorate lock`.
pub fn lock(global: &Global, args: LockArgs) -> Result<(), Failure> {
    let client = global.client()?;
    block_on(async {
        let mut until = Until::new()?;
        let hold = match args.command.is_empty() {
            true => Hold::Until(Printer::without_table(global)?),
            false => Hold::Command(args.command),
        };
        hold_while(&client, &args.name, OsStr::new(""), args.ttl, &mut until, hold).await
    })?
}

/// Runs `quorate elect`.
pub fn elect(global: &Global, args: ElectArgs) -> Result<(), Failure> {
    let printer = Printer::without_table(global)?;
    let client = global.client()?;
    let proposal = match (&args.proposal, args.listen) {
        (Some(_), true) => return Err(Failure::new(BAD_ARGS, "--listen only looks on: leave PROPOSAL out")),
        (None, false) => {
            return Err(Failure::new(BAD_ARGS, "no proposal, and --listen is not set").fix(
                "say what others shall read: quorate elect NAME PROPOSAL\n       \
                      or only look on: quorate elect NAME --listen",
            ));
        }
        (proposal, _) => proposal.clone(),
    };
    block_on(async {
        let mut until = Until::new()?;
        match proposal {
            Some(proposal) => {
                hold_while(&client, &args.name, &proposal, args.ttl, &mut until, Hold::Until(printer)).await
            }
            None => tokio::select! {
                () = until.told() => Ok(()),
                failed = listen(printer, &client, &args.name) => failed,
            },
        }
    })?
}

async fn listen(printer: Printer, client: &Client, name: &OsStr) -> Result<(), Failure> {
    let mut leaders = client.observe(name.as_bytes());
    loop {
        let (header, kv) = leaders.next().await?;
        printer.range(&pb::RangeResponse { header: Some(header), kvs: vec![kv], more: false, count: 0 }, false)?;
    }
}

/// SIGTERM or SIGINT: stop, and let go of everything.
struct Until {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Until {
    fn new() -> Result<Until, Failure> {
        Ok(Until { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// What happens while something is held.
enum Hold {
    /// Its key is printed, and it is held until a signal comes.
    Until(Printer),
    /// A command runs.
    Command(Vec<OsString>),
}

/// Stands in line, holds, lets go.
async fn hold_while(
    client: &Client,
    name: &OsStr,
    value: &OsStr,
    ttl: i64,
    until: &mut Until,
    hold: Hold,
) -> Result<(), Failure> {
    let asked = clock::instant();
    let lease = client.lease_grant(if ttl > 0 { ttl } else { SESSION_TTL }, 0).await?;
    let result = {
        let lost = client.keep_alive(lease.id, lease.ttl, asked, |_| {});
        tokio::pin!(lost);
        let turn = async {
            let value = value.to_owned().into_vec().into();
            let place = client.stand_in_line(name.as_bytes(), lease.id, value).await?;
            let header = client.wait_for_turn(&place).await?;
            Ok((place, header))
        };
        let turn: Result<_, Failure> = tokio::select! {
            lost = &mut lost => Err(session_lost(&lost)),
            () = until.told() => Err(Failure::new(ERROR, "interrupted while waiting in line")),
            turn = turn => turn,
        };
        match (turn, hold) {
            (Err(failure), _) => Err(failure),
            (Ok((place, _)), Hold::Until(printer)) => hold_until(printer, client, &place, until, lost).await,
            (Ok((place, header)), Hold::Command(command)) => run(&command, &place, &header, until, lost).await,
        }
    };
    if let Err(e) = client.lease_revoke(lease.id).await
        && e.status().code() != tonic::Code::NotFound
    {
        anstream::eprintln!(
            "not let go of ({}): it is free when the lease has run out, after {} s",
            e.cause(),
            lease.ttl
        );
    }
    result
}

fn session_lost(lost: &Lost) -> Failure {
    Failure::new(ERROR, format!("session expired: {lost}")).fix("see what the cluster lacks: quorate status")
}

async fn hold_until(
    printer: Printer,
    client: &Client,
    place: &Place,
    until: &mut Until,
    lost: impl Future<Output = Lost>,
) -> Result<(), Failure> {
    let own = pb::RangeRequest { key: place.key.clone(), ..Default::default() };
    printer.range(&client.range(own).await?, false)?;
    tokio::select! {
        lost = lost => Err(session_lost(&lost)),
        () = until.told() => Ok(()),
    }
}

/// Runs a command under a lock; its exit code is ours.
async fn run(
    command: &[OsString],
    place: &Place,
    header: &pb::ResponseHeader,
    until: &mut Until,
    lost: impl Future<Output = Lost>,
) -> Result<(), Failure> {
    let [program, args @ ..] = command else { return Ok(()) };
    let mut child = Command::new(program)
        .args(args)
        .env("ETCD_LOCK_KEY", OsStr::from_bytes(&place.key))
        .env("ETCD_LOCK_REV", header.revision.to_string())
        .spawn()
        .map_err(|e| Failure::new(ERROR, format!("{}: {e}", program.display())))?;
    tokio::pin!(lost);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = until.told() => signal_child(&child),
            lost = &mut lost => {
                anstream::eprintln!("the lock is lost ({lost}): ending the command, someone else may hold it now");
                signal_child(&child);
                if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                    child.kill().await?;
                }
                return Err(session_lost(&lost));
            }
        }
    };
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::silent(u8::try_from(code).unwrap_or(ERROR))),
        None => Err(Failure::new(ENDED_BY_SIGNAL, format!("{}: {status}", program.display()))),
    }
}

/// Asks the command to end.
fn signal_child(child: &Child) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        // It may have ended by itself: then there is nobody to ask.
        _ = kill_process(pid, Signal::TERM);
    }
}

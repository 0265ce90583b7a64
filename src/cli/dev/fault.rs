//! `kill`, `stop` and `pause`, measured.
//!
//! In this order: the prober writes until acknowledgements flow; the lab's file learns what is about to happen; the signal
//! falls; the prober goes on until writes flow again (under a new term, if the leader was hit) or it is clear that they
//! won't; every acknowledged write is read back from each living member; the members are asked what they noted.

use super::lab::{self, Seen};
use super::probe::{self, Outcome, Prober, Record};
use super::process;
use super::report::{Failover, Fault, Report};
use crate::cli::exit::{self, Failure};
use crate::cli::lab_file::{LabFile, LabNode, LabState};
use crate::client::Client;
use crate::clock;
use crate::proto::quorate as own;
use crate::time::Duration;
use rustix::process::Signal;

/// Acknowledged probes before the signal.
const BASELINE: usize = 20;
/// How long to wait for them: a lab without quorum has none to give.
const BASELINE_LIMIT: Duration = Duration::from_secs(2);
/// Writes flow again when they have flowed for so long.
const FLOWING: Duration = Duration::from_millis(300);
/// ... with no two acknowledgements further apart than this.
const FLOWING_GAP: Duration = Duration::from_millis(100);
/// A fault that needs a moment to show (a follower's connections, say) gets it.
const WATCH_AT_LEAST: Duration = Duration::from_millis(500);
/// When to give up on writes that should flow again.
const WATCH_LIMIT: Duration = Duration::from_secs(30);
/// When to give up on writes that can't: enough to see that none gets through.
const NO_QUORUM_LIMIT: Duration = Duration::from_secs(2);
/// How often the flow is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long a member may take to end in good order.
const STOP_LIMIT: Duration = Duration::from_secs(30);

impl Fault {
    fn signal(self) -> Signal {
        match self {
            Fault::Kill => Signal::KILL,
            Fault::Stop => Signal::TERM,
            Fault::Pause => Signal::STOP,
        }
    }

    fn state(self) -> LabState {
        match self {
            Fault::Kill => LabState::Killed,
            Fault::Stop => LabState::Stopped,
            Fault::Pause => LabState::Paused,
        }
    }
}

/// Writes down what is about to happen to a member, then sends the signal; returns the lab and the moment of the signal,
/// on this process's clock and in microseconds since the Unix epoch.
///
/// # Errors
/// If the member doesn't run.
pub fn deliver(lab: &LabFile, node: &LabNode, fault: Fault) -> Result<(LabFile, std::time::Instant, u64), Failure> {
    let lab = lab::set_state(lab, &node.name, fault.state())?;
    let (at, unix_us) = (clock::instant(), clock::unix_micros());
    if !process::signal(node, fault.signal())? {
        return Err(down(node));
    }
    Ok((lab, at, unix_us))
}

/// Lets a paused member go on; `None` if it isn't paused.
///
/// # Errors
/// If the operating system refuses.
pub fn resume(lab: &LabFile, node: &LabNode) -> Result<Option<LabFile>, Failure> {
    if node.state != LabState::Paused || !process::signal(node, Signal::CONT)? {
        return Ok(None);
    }
    lab::set_state(lab, &node.name, LabState::Running).map(Some)
}

/// Undoes a fault: the member goes on, or is started again once its process has ended.
///
/// # Errors
/// If it does not end, or can't be started.
pub async fn undo(lab: &LabFile, name: &str, fault: Fault) -> Result<LabFile, Failure> {
    let place = lab::resolve(lab, &[], name)?;
    let node = &lab.nodes[place];
    if fault == Fault::Pause {
        return resume(lab, node)?.ok_or_else(|| down(node));
    }
    end_of(node).await?;
    lab::start(lab, name)
}

/// Waits until a member that was stopped or killed has ended.
async fn end_of(node: &LabNode) -> Result<(), Failure> {
    if process::ended(node, STOP_LIMIT).await {
        return Ok(());
    }
    let what = format!("{} (pid {}) has not ended within {STOP_LIMIT:?}", node.name, node.pid);
    Err(Failure::new(exit::ERROR, what).fix(format!("quorate dev kill {}", node.name)))
}

fn down(node: &LabNode) -> Failure {
    Failure::new(exit::ERROR, format!("{} is not running", node.name)).fix(format!("quorate dev start {}", node.name))
}

/// Does `fault` to the member called `name` and measures what it does to writers.
///
/// # Errors
/// If there is no such member or it doesn't run; that a write was lost is in the report.
pub async fn inflict(lab: LabFile, name: &str, fault: Fault) -> Result<Report, Failure> {
    let client = lab::client(&lab)?;
    let before = lab::look(&lab, &client).await;
    let place = lab::resolve(&lab, &before, name)?;
    let node = lab.nodes[place].clone();
    if !process::is_running(&node) {
        return Err(down(&node));
    }
    let mut prober = Prober::begin(&lab)?;
    baseline(&mut prober).await;
    // Asked again: the baseline takes long enough for a change of leader.
    let before = lab::look(&lab, &client).await;
    let leader = lab::leader(&before);
    let term = leader.map_or(0, |leader| leader.status.raft_term);
    let was_leader = leader.is_some_and(|leader| leader.place == place);
    let (lab, _, signal_us) = deliver(&lab, &node, fault)?;
    let fell = prober.now();
    watch(&mut prober, &lab, &node, fault, fell, was_leader.then_some(term)).await?;
    let record = prober.finish().await;

    let living: Vec<&LabNode> = lab::living(&lab).map(|(_, node)| node).collect();
    let quorum = living.len() > lab.nodes.len() / 2;
    let back = if quorum {
        record.read_back(&living).await?
    } else {
        let why = "no quorum".to_owned();
        probe::ReadBack {
            unread: living.iter().map(|node| (node.name.clone(), why.clone())).collect(),
            ..Default::default()
        }
    };
    let failover = if was_leader && quorum { failover(&lab, &client, term, signal_us).await } else { None };
    Ok(Report {
        member: node.name.clone(),
        fault,
        was_leader,
        term,
        running: living.len(),
        members: lab.nodes.len(),
        failover,
        unavailable_ms: unavailable(&record, fell, quorum),
        probes: record.sent,
        acknowledged: record.acknowledged().len(),
        uncertain: record.count(|outcome| outcome == Outcome::Uncertain),
        refused: record.count(|outcome| outcome == Outcome::Refused),
        lost: back.lost.into_iter().collect(),
        read_back: back.members,
        unread: back.unread,
        next: format!("quorate dev {} {}", fault.undo(), node.name),
    })
}

fn unavailable(record: &Record, fell: Duration, quorum: bool) -> Option<f64> {
    // Answers that were under way when the quorum fell don't make writes available.
    let gap = probe::longest_gap(&record.acknowledged(), fell).filter(|_| quorum)?;
    Some(gap.length.as_secs_f64() * 1000.0)
}

/// Waits until writes are acknowledged.
async fn baseline(prober: &mut Prober) {
    let flows = async {
        while probe::acknowledged(prober.probes()).len() < BASELINE {
            tokio::time::sleep(LOOK).await;
        }
    };
    // Without a baseline there is still a fault to inflict, and a report that claims nothing.
    _ = tokio::time::timeout(BASELINE_LIMIT, flows).await;
}

/// Waits until the fault is over for writers, or it is clear that it won't be.
async fn watch(
    prober: &mut Prober,
    lab: &LabFile,
    node: &LabNode,
    fault: Fault,
    fell: Duration,
    old_term: Option<u64>,
) -> Result<(), Failure> {
    // One that stops takes part until it has ended, so it is waited for before the flow is judged.
    let mut judged_from = fell;
    if fault == Fault::Stop {
        end_of(node).await?;
        judged_from = prober.now();
    }
    let quorum = lab::living(lab).count() > lab.nodes.len() / 2;
    let limit = if quorum { WATCH_LIMIT } else { NO_QUORUM_LIMIT };
    while prober.now() < judged_from + limit {
        let now = prober.now();
        let probes = prober.probes();
        let new_term = old_term.is_none_or(|old| {
            probes.iter().any(|probe| matches!(probe.outcome, Outcome::Acknowledged { term } if term > old))
        });
        if new_term && now >= judged_from + WATCH_AT_LEAST && flows(&probe::acknowledged(probes), now) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Whether writes have been acknowledged for [`FLOWING`] until `now`.
fn flows(acknowledged: &[Duration], now: Duration) -> bool {
    let begin = now.saturating_sub(FLOWING);
    let lately = acknowledged.iter().copied().filter(|&at| at >= begin);
    let mut previous = begin;
    for at in lately.chain([now]) {
        if at.saturating_sub(previous) > FLOWING_GAP {
            return false;
        }
        previous = at;
    }
    true
}

/// Who leads now, and how that came, as the members tell it.
pub async fn failover(lab: &LabFile, client: &Client, old_term: u64, signal_us: u64) -> Option<Failover> {
    let seen = lab::look(lab, client).await;
    let leader = lab::leader(&seen).filter(|leader| leader.status.raft_term > old_term)?;
    let mut noted = Vec::new();
    for other in &seen {
        let answer = client.inspect(lab::endpoint(&lab.nodes[other.place])).await;
        let elections = answer.map(|answer| answer.elections).unwrap_or_default();
        noted.push((other.place == leader.place, elections));
    }
    Some(steps(lab, leader, &noted, old_term, signal_us))
}

/// The steps between the signal and the first commit, from what the members noted; the winner's word first.
fn steps(
    lab: &LabFile,
    leader: &Seen,
    noted: &[(bool, Vec<own::Election>)],
    old_term: u64,
    signal_us: u64,
) -> Failover {
    let of = |winner: bool| {
        noted.iter().filter(move |(is_winner, _)| *is_winner == winner).flat_map(|(_, elections)| elections).filter(
            |election| election.term > old_term && election.winner == leader.id() && election.elected_us >= signal_us,
        )
    };
    let own = of(true).next();
    // The winner may have granted before it noticed; then the first who noticed says when.
    let detected = own.map(|own| own.detected_us).filter(|&us| us != 0);
    let detected = detected.or_else(|| of(false).map(|other| other.detected_us).filter(|&us| us >= signal_us).min());
    let elected = own.map(|own| own.elected_us);
    let committed = own.map(|own| own.committed_us).filter(|&us| us != 0);
    let after = |us: Option<u64>, before: Option<u64>| Some(us?.saturating_sub(before?) as f64 / 1000.0);
    Failover {
        leader: lab.nodes[leader.place].name.clone(),
        term: leader.status.raft_term,
        cause: own.map(|own| own.cause.clone()).unwrap_or_default(),
        detect_ms: after(detected, Some(signal_us)),
        elect_ms: after(elected, detected),
        recover_ms: after(committed, elected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::lab_file;
    use crate::proto::etcdserverpb as pb;

    fn ms(times: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        times.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn writes_flow_when_they_have_for_a_while() {
        let now = Duration::from_millis(1000);
        assert!(flows(&ms((0..1000).step_by(5)), now));
        assert!(!flows(&ms((0..890).step_by(5)), now), "they have stopped");
        assert!(!flows(&ms((850..1000).step_by(5)), now), "not for long enough");
        assert!(!flows(&ms([690, 780, 995]), now), "with holes");
        assert!(!flows(&[], now));
    }

    fn lab() -> LabFile {
        let node = |name: &str| LabNode {
            name: name.into(),
            client_url: String::new(),
            peer_url: String::new(),
            pid: 0,
            data_dir: "/d".into(),
            log_path: "/d".into(),
            state: LabState::Running,
            command: Vec::new(),
        };
        let nodes = ["n1", "n2", "n3"].map(node).into();
        LabFile { version: lab_file::VERSION, pid: 0, started_unix_us: 0, dir: "/d".into(), nodes }
    }

    fn leader() -> Seen {
        let header = Some(pb::ResponseHeader { member_id: 30, ..Default::default() });
        Seen { place: 2, status: pb::StatusResponse { header, leader: 30, raft_term: 3, ..Default::default() } }
    }

    fn election(term: u64, detected_us: u64, elected_us: u64, committed_us: u64) -> own::Election {
        let cause = "connection lost".into();
        own::Election { term, winner: 30, cause, detected_us, campaigned_us: 0, elected_us, committed_us }
    }

    #[test]
    fn the_steps_are_the_winners_own_each_from_the_one_before() {
        let older = election(2, 500_000, 600_000, 700_000);
        let noted = [
            (false, vec![election(3, 1_004_000, 1_030_000, 0)]),
            (true, vec![older, election(3, 1_010_000, 1_025_000, 1_027_500)]),
        ];
        let failover = steps(&lab(), &leader(), &noted, 2, 1_000_000);
        assert_eq!((failover.leader.as_str(), failover.term, failover.cause.as_str()), ("n3", 3, "connection lost"));
        assert_eq!((failover.detect_ms, failover.elect_ms, failover.recover_ms), (Some(10.0), Some(15.0), Some(2.5)));
    }

    #[test]
    fn a_step_that_nobody_noted_is_not_made_up() {
        let failover = steps(&lab(), &leader(), &[(true, vec![])], 2, 1_000_000);
        assert_eq!((failover.detect_ms, failover.elect_ms, failover.recover_ms), (None, None, None));
        // The loss was noticed by the other survivor only, and the commit is still to come.
        let noted = [(true, vec![election(3, 0, 1_025_000, 0)]), (false, vec![election(3, 1_004_000, 1_030_000, 0)])];
        let failover = steps(&lab(), &leader(), &noted, 2, 1_000_000);
        assert_eq!((failover.detect_ms, failover.elect_ms, failover.recover_ms), (Some(4.0), Some(21.0), None));
    }
}

//! The prober: what a client sees of a fault.
//!
//! Every [`EVERY`] one more write leaves, whether earlier ones were answered or not: a prober that waits for its answers
//! would measure its own patience. It writes through the client library, as any program does, in turn through one client
//! per member (each begins at another one), so that a dead connection of one client does not pass for a cluster that takes
//! no writes. Each key and value is written once: a key that is there has been written by that probe.
//!
//! An acknowledged write is a promise. After the fault all of them are read back from each living member by linearizable
//! reads, which a member answers only once it has caught up. One that is missing anywhere is lost. A write whose outcome
//! nobody can know is *uncertain*: counted apart, neither lost nor acknowledged.

use super::lab;
use crate::cli::exit::Failure;
use crate::cli::lab_file::{LabFile, LabNode};
use crate::client::{Client, Error, Options};
use crate::clock;
use crate::proto::etcdserverpb as pb;
use crate::time::Duration;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;

/// Between two probes.
pub const EVERY: Duration = Duration::from_millis(5);
/// Visible, so that whoever finds one knows where it comes from; deleted after the report.
const PREFIX: &str = "_quorate/probe/";
/// A probe that takes longer is uncertain, or not done.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of it, for one member.
const TRY: Duration = Duration::from_millis(500);
/// Reading back may wait for a member that is still catching up.
const READ_BACK_LIMIT: Duration = Duration::from_secs(10);
/// Keys in one answer while reading back.
const PAGE: i64 = 5_000;

/// How one probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; by the leader of this term.
    Acknowledged {
        /// From the answer's header.
        term: u64,
    },
    /// Surely not done.
    Refused,
    /// Perhaps done.
    Uncertain,
}

/// One probe that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its number, from 0.
    pub number: u64,
    /// When its answer came, in this process's time since the prober began.
    pub at: Duration,
    /// What the answer was.
    pub outcome: Outcome,
}

/// Writes that flow until it is stopped.
pub struct Prober {
    run: String,
    began: Instant,
    pulse: JoinHandle<u64>,
    stop: tokio::sync::watch::Sender<bool>,
    ended: UnboundedReceiver<Probe>,
    probes: Vec<Probe>,
}

impl Prober {
    /// Begins to write to the lab's members.
    ///
    /// # Errors
    /// If an endpoint in the lab's file can't be read.
    pub fn begin(lab: &LabFile) -> Result<Prober, Failure> {
        let mut endpoints = lab.endpoints();
        let options = Options { dial_timeout: TRY, command_timeout: PATIENCE, try_timeout: TRY };
        let mut clients = Vec::new();
        for _ in 0..endpoints.len() {
            clients.push(Client::new(&endpoints, options)?);
            endpoints.rotate_left(1);
        }
        let run = format!("{PREFIX}{:016x}/", clock::entropy().0);
        let (sender, ended) = mpsc::unbounded_channel();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let began = clock::instant();
        let pulse = tokio::spawn(pulse(clients, run.clone(), began, sender, stopped));
        Ok(Prober { run, began, pulse, stop, ended, probes: Vec::new() })
    }

    /// Now, on the prober's time.
    pub fn now(&self) -> Duration {
        clock::instant().saturating_duration_since(self.began)
    }

    /// What has ended so far.
    pub fn probes(&mut self) -> &[Probe] {
        while let Ok(probe) = self.ended.try_recv() {
            self.probes.push(probe);
        }
        &self.probes
    }

    /// Stops, waits for the answers that are still to come, and returns everything.
    pub async fn finish(mut self) -> Record {
        self.stop.send_replace(true);
        let sent = self.pulse.await.unwrap_or(0);
        while let Some(probe) = self.ended.recv().await {
            self.probes.push(probe);
        }
        // Answers are noted by the tasks that waited for them, which need not run in the order of the answers.
        self.probes.sort_by_key(|probe| probe.at);
        Record { run: self.run, sent, probes: self.probes }
    }
}

/// Sends a probe every [`EVERY`] until told to stop; returns how many.
async fn pulse(
    clients: Vec<Client>,
    run: String,
    began: Instant,
    ended: UnboundedSender<Probe>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> u64 {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sent = 0;
    for client in clients.iter().cycle() {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopped.changed() => break,
        }
        let (client, ended, number) = (client.clone(), ended.clone(), sent);
        let request = pb::PutRequest { key: key(&run, number), value: value(number), ..Default::default() };
        tokio::spawn(async move {
            let outcome = match client.put(request).await {
                Ok(response) => Outcome::Acknowledged { term: response.header.map_or(0, |header| header.raft_term) },
                Err(Error::Uncertain(_)) => Outcome::Uncertain,
                Err(Error::Refused(_) | Error::Rejected(_)) => Outcome::Refused,
            };
            let at = clock::instant().saturating_duration_since(began);
            // Nobody listens any more only when the whole measurement was given up.
            _ = ended.send(Probe { number, at, outcome });
        });
        sent += 1;
    }
    sent
}

fn key(run: &str, number: u64) -> Bytes {
    format!("{run}{number:08}").into()
}

fn value(number: u64) -> Bytes {
    number.to_string().into()
}

/// Everything that a prober saw.
#[derive(Clone, Debug)]
pub struct Record {
    run: String,
    /// Probes sent.
    pub sent: u64,
    /// Probes ended, by the time of their answers.
    pub probes: Vec<Probe>,
}

impl Record {
    /// How many ended so.
    pub fn count(&self, ended: impl Fn(Outcome) -> bool) -> usize {
        self.probes.iter().filter(|probe| ended(probe.outcome)).count()
    }

    /// When writes were acknowledged, in order.
    pub fn acknowledged(&self) -> Vec<Duration> {
        acknowledged(&self.probes)
    }

    /// Reads every acknowledged write back from each of `nodes`, then deletes all probes.
    pub async fn read_back(&self, nodes: &[&LabNode]) -> Result<ReadBack, Failure> {
        let expected = self.probes.iter().filter(|probe| matches!(probe.outcome, Outcome::Acknowledged { .. }));
        let expected = expected.map(|probe| (key(&self.run, probe.number), value(probe.number))).collect();
        read_back(&self.run, &expected, nodes).await
    }
}

/// When the acknowledged ones of `probes` were, in order.
pub fn acknowledged(probes: &[Probe]) -> Vec<Duration> {
    let acknowledged = probes.iter().filter(|probe| matches!(probe.outcome, Outcome::Acknowledged { .. }));
    let mut times: Vec<Duration> = acknowledged.map(|probe| probe.at).collect();
    times.sort_unstable();
    times
}

/// The longest time between two acknowledged writes of which the second came after `fault`, with its begin; `None` if
/// nothing was acknowledged after it, or nothing before.
pub fn longest_gap(acknowledged: &[Duration], fault: Duration) -> Option<Gap> {
    let around = acknowledged.windows(2).filter(|pair| pair[1] > fault);
    around.map(|pair| Gap { begin: pair[0], length: pair[1] - pair[0] }).max_by_key(|gap| gap.length)
}

/// A time without an acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last acknowledged write before.
    pub begin: Duration,
    /// Until the next.
    pub length: Duration,
}

/// What the members returned of what was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// Members that returned everything they were asked for.
    pub members: Vec<String>,
    /// Members that could not be read, with the reason.
    pub unread: Vec<(String, String)>,
    /// Keys that some member lacks or has with another value.
    pub lost: BTreeSet<String>,
}

/// Reads all keys under `prefix` from each of `nodes` and compares them with `expected`; then deletes them.
async fn read_back(prefix: &str, expected: &BTreeMap<Bytes, Bytes>, nodes: &[&LabNode]) -> Result<ReadBack, Failure> {
    let mut result = ReadBack::default();
    for node in nodes {
        let client = reader(node)?;
        let mut found = BTreeMap::new();
        match for_each_pair(&client, prefix, |key, value| _ = found.insert(key, value)).await {
            Ok(()) => {
                let missing = expected.iter().filter(|(key, value)| found.get(*key) != Some(value));
                result.lost.extend(missing.map(|(key, _)| String::from_utf8_lossy(key).into_owned()));
                result.members.push(node.name.clone());
            }
            Err(error) => result.unread.push((node.name.clone(), error.cause())),
        }
    }
    if let Some(node) = nodes.first().filter(|_| result.lost.is_empty() && result.unread.is_empty()) {
        // Probes that stay behind are visible under their prefix and hurt nobody.
        _ = delete_all(&reader(node)?, prefix).await;
    }
    Ok(result)
}

/// A client of one member, patient enough for one that is still catching up.
///
/// # Errors
/// If the endpoint can't be read.
pub fn reader(node: &LabNode) -> Result<Client, Failure> {
    let options = Options { dial_timeout: TRY, command_timeout: READ_BACK_LIMIT, try_timeout: READ_BACK_LIMIT / 2 };
    Ok(Client::new(&[lab::endpoint(node).to_owned()], options)?)
}

/// Shows `visit` all pairs under `prefix`, page by page, all at the revision of the first, linearizable, page.
///
/// # Errors
/// What the client says; then not all pairs were shown.
pub async fn for_each_pair(client: &Client, prefix: &str, mut visit: impl FnMut(Bytes, Bytes)) -> Result<(), Error> {
    let mut request = pb::RangeRequest {
        key: prefix.to_owned().into(),
        range_end: end_of(prefix),
        limit: PAGE,
        ..Default::default()
    };
    loop {
        let page = client.range(request.clone()).await?;
        let last = page.kvs.last().map(|pair| pair.key.clone()).filter(|_| page.more);
        page.kvs.into_iter().for_each(|pair| visit(pair.key, pair.value));
        let Some(last) = last else { return Ok(()) };
        request.revision = request.revision.max(page.header.map_or(0, |header| header.revision));
        request.key = [&last[..], &[0]].concat().into();
    }
}

/// Deletes all keys under `prefix`.
///
/// # Errors
/// What the client says.
pub async fn delete_all(client: &Client, prefix: &str) -> Result<(), Error> {
    let request =
        pb::DeleteRangeRequest { key: prefix.to_owned().into(), range_end: end_of(prefix), ..Default::default() };
    client.delete_range(request).await.map(drop)
}

/// The end of the range of all keys that begin with `prefix`, whose last byte is not 0xff.
fn end_of(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(times: &[u64]) -> Vec<Duration> {
        times.iter().map(|&ms| Duration::from_millis(ms)).collect()
    }

    fn gap(times: &[u64], fault: u64) -> Option<(u64, u64)> {
        let gap = longest_gap(&ms(times), Duration::from_millis(fault))?;
        Some((gap.begin.as_millis() as u64, gap.length.as_millis() as u64))
    }

    #[test]
    fn the_gap_lies_between_two_acknowledged_writes() {
        assert_eq!(gap(&[0, 5, 10, 80, 85], 12), Some((10, 70)));
        // An answer that was under way when the signal fell is no recovery.
        assert_eq!(gap(&[0, 5, 10, 14, 90, 95], 12), Some((14, 76)));
        // What was slow before the fault is none of its business.
        assert_eq!(gap(&[0, 500, 505, 530], 510), Some((505, 25)));
        assert_eq!(gap(&[0, 5, 10, 16, 20], 11), Some((10, 6)));
    }

    #[test]
    fn without_an_answer_on_both_sides_there_is_no_gap() {
        assert_eq!(gap(&[0, 5, 10], 10), None);
        assert_eq!(gap(&[20], 10), None);
        assert_eq!(gap(&[], 10), None);
    }

    #[test]
    fn only_acknowledged_probes_count_and_in_the_order_of_their_answers() {
        let probe = |number, at, outcome| Probe { number, at: Duration::from_millis(at), outcome };
        let done = Outcome::Acknowledged { term: 2 };
        let probes =
            [probe(0, 7, done), probe(1, 5, done), probe(2, 6, Outcome::Uncertain), probe(3, 8, Outcome::Refused)];
        assert_eq!(acknowledged(&probes), ms(&[5, 7]));
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(end_of("a/"), "a0");
    }
}

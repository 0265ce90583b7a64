//! What an accident of the leader costs: from the signal to the next write that is acknowledged.
//!
//! Every few milliseconds a write begins, at one endpoint after the other, with a deadline of its own, whatever became of those
//! before it: writers that wait for their answers would all wait for one that died with the leader, and that would measure their
//! patience. A write counts if it was begun after the signal. For a stop in good order that would measure too much: there it
//! is the longest time without an acknowledgement that counts, from the signal until some time after it.

use super::fleet::Fleet;
use super::report::Report;
use super::{connect, keys, keys_of, say};
use crate::cli::exit::Failure;
use crate::clock;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::time::Duration;
use bytes::Bytes;
use rustix::process::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::transport::Channel;

/// Between two writes.
const EVERY: Duration = Duration::from_millis(2);
/// The longest that one may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Load before the signal, and after the first acknowledgement that follows it.
const CALM: Duration = Duration::from_millis(500);
/// When to give up on a cluster.
const LIMIT: Duration = Duration::from_secs(60);
/// A member that was started again is left alone so long, so that nobody measures its catching up.
const SETTLE: Duration = Duration::from_secs(2);

/// An acknowledged write.
#[derive(Clone, Copy, Debug)]
struct Ack {
    begun: Instant,
    at: Instant,
}

struct Load {
    channels: Vec<Channel>,
    stop: AtomicBool,
    acks: Mutex<Vec<Ack>>,
}

impl Load {
    fn acks(&self) -> MutexGuard<'_, Vec<Ack>> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One write; notes it if it is acknowledged.
async fn put(load: Arc<Load>, channel: Channel, key: Bytes) {
    let request = pb::PutRequest { key, value: keys::value(256), ..Default::default() };
    let begun = clock::instant();
    if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, KvClient::new(channel).put(request)).await {
        load.acks().push(Ack { begun, at: clock::instant() });
    }
}

/// Begins writes until told to stop, and waits for them.
async fn pulse(load: Arc<Load>, keys: keys::Keys) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut begun, mut writes) = (0, JoinSet::new());
    while !load.stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let channel = load.channels[begun % load.channels.len()].clone();
        writes.spawn(put(Arc::clone(&load), channel, keys.key(begun as u64)));
        while writes.try_join_next().is_some() {}
        begun += 1;
    }
    while writes.join_next().await.is_some() {}
}

/// Kills, stops and freezes leaders, `rounds` times each, the fleets in turn.
///
/// # Errors
/// If a cluster does not come back.
pub async fn inflict(rounds: u32, fleets: &mut [Fleet], report: &mut Report) -> Result<(), Failure> {
    let kinds = [
        ("leader killed: until the next write", Signal::KILL),
        ("leader stopped in good order: longest gap", Signal::TERM),
        ("leader frozen: until the next write", Signal::STOP),
    ];
    for (what, signal) in kinds {
        for round in 0..rounds {
            for fleet in fleets.iter_mut() {
                let took = once(fleet, signal).await?;
                say(format!("{what}, {} of {rounds}  {:<10} {:.1} ms", round + 1, fleet.name(), ms(took)));
                report.figure(what, "ms", fleet.name(), ms(took));
            }
        }
    }
    Ok(())
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

async fn once(fleet: &mut Fleet, signal: Signal) -> Result<Duration, Failure> {
    let leader = fleet.leader().await?;
    let place = fleet.place(&leader);
    let load = Arc::new(Load {
        channels: connect(&fleet.endpoints(), fleet.endpoints().len()).await?,
        stop: AtomicBool::new(false),
        acks: Mutex::new(Vec::new()),
    });
    let keys = keys_of(super::rows::KEYS)?;
    let writing = tokio::spawn(pulse(Arc::clone(&load), keys));
    tokio::time::sleep(CALM).await;
    let sent = clock::instant();
    fleet.signal(place, signal)?;
    let first = super::fleet::patiently("a write after the signal", LIMIT, async || {
        load.acks().iter().find(|ack| ack.begun > sent).map(|ack| ack.at)
    })
    .await?;
    tokio::time::sleep(CALM).await;
    load.stop.store(true, Ordering::Relaxed);
    _ = writing.await;
    match signal {
        Signal::STOP => fleet.signal(place, Signal::CONT)?,
        _ => fleet.restart(place).await?,
    }
    fleet.leader().await?;
    tokio::time::sleep(SETTLE).await;
    Ok(if signal == Signal::TERM { gap(&load.acks(), sent) } else { first.saturating_duration_since(sent) })
}

/// The longest time between two acknowledgements that ends after `sent`.
fn gap(acks: &[Ack], sent: Instant) -> Duration {
    let mut times: Vec<Instant> = acks.iter().map(|ack| ack.at).collect();
    times.sort_unstable();
    times.windows(2).filter(|two| two[1] > sent).map(|two| two[1] - two[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_between_two_acknowledgements_and_ends_after_the_signal() {
        let zero = clock::instant();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let ack = |ms: u64| Ack { begun: at(ms), at: at(ms) };
        let acks = [ack(900), ack(0), ack(500), ack(510), ack(530), ack(540)];
        assert_eq!(gap(&acks, at(505)), Duration::from_millis(360));
        assert_eq!(gap(&acks[1..], at(505)), Duration::from_millis(20));
        assert_eq!(gap(&acks[1..], at(495)), Duration::from_millis(500));
        assert_eq!(gap(&[], zero), Duration::ZERO);
    }
}

//! `quorate bench watch`: one writer, many watchers: how many events arrive per second, and how long each is on its way.
//!
//! All watchers watch the one key prefix that the writer writes below, so each put is an event for each of them. Every value
//! begins with the moment at which its put was sent (with `--rate`: was due); a delivery counts from there until the watcher
//! has the event in its hands, so it holds the write, the commit and the fan-out. Watchers share streams as etcd's own clients
//! share them, one stream per connection unless told otherwise.
//!
//! Deliveries of puts that were sent in the measured time count, whenever they arrive; what has not arrived [`GRACE`] after the
//! end is reported as missing.
//!
//! Left out: watchers that start in the past, filters, slow watchers, several keys.

use super::pace::Pace;
use super::record::{Kind, Recorder, Summary, per_second};
use super::report::{millis, thousands};
use super::{CONNECTIONS_MAX, connect, interrupt, runtime, survey};
use crate::cli::exit::{self, Failure};
use crate::cli::go_duration;
use crate::cli::output::print;
use crate::clock;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::time::Duration;
use bytes::Bytes;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic::transport::Channel;

/// How long events may be on their way after the last put.
const GRACE: Duration = Duration::from_secs(10);
/// How often it is looked whether all have arrived.
const TICK: Duration = Duration::from_millis(20);
/// Bytes of a value that tell when it was sent.
const STAMP_BYTES: usize = 8;
/// What is written and watched.
const KEY: &[u8] = b"quorate-bench-watch/";
/// The end of that prefix.
const KEY_END: &[u8] = b"quorate-bench-watch0";

/// `quorate bench watch`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Watchers.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    watchers: u32,
    /// Streams that the watchers share [default: one per connection].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    streams: Option<u32>,
    /// Connections that the streams share, at least one per endpoint [default: one per watcher, at most 16].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: Option<u32>,
    /// Puts that may be under way at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    writers: u32,
    /// Puts per second, whether the server keeps up or not [default: as many as the writers manage].
    #[arg(long, value_parser = super::rate)]
    rate: Option<f64>,
    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    val_size: usize,
    /// Time to measure, as 500ms, 10s, 1m.
    #[arg(long, default_value = "10s", value_parser = go_duration::parse)]
    duration: Duration,
    /// Load before the measurement begins.
    #[arg(long, default_value = "1s", value_parser = go_duration::parse)]
    warmup: Duration,
}

/// What came of it, and the setting.
#[derive(Clone, Debug, Serialize)]
struct Report {
    workload: &'static str,
    endpoints: Vec<String>,
    server_version: String,
    watchers: u32,
    streams: u32,
    connections: usize,
    writers: u32,
    val_size: usize,
    rate: Option<f64>,
    /// From the end of the warm-up to the last delivery.
    seconds: f64,
    puts: u64,
    puts_per_second: f64,
    /// Events, each counted once for each watcher that it reached.
    deliveries: u64,
    deliveries_per_second: f64,
    /// Answers of the server's that they came in.
    answers: u64,
    /// Deliveries that did not arrive.
    missing: u64,
    put: Option<Summary>,
    delivery: Option<Summary>,
    errors: std::collections::BTreeMap<String, u64>,
}

impl Report {
    fn text(&self) -> String {
        let rate = self.rate.map_or(String::new(), |rate| format!(" · {rate} put/s asked for"));
        let mut out = format!(
            "watch · {} watchers on {} streams · {} connections · {} writers · {} B values{rate}\n \
             {:.1} s   {} puts   {} put/s   {} deliveries   {} delivery/s\n",
            thousands(self.watchers.into()),
            thousands(self.streams.into()),
            self.connections,
            self.writers,
            self.val_size,
            self.seconds,
            thousands(self.puts),
            thousands(self.puts_per_second.round() as u64),
            thousands(self.deliveries),
            thousands(self.deliveries_per_second.round() as u64),
        );
        for (name, summary) in [("put", &self.put), ("delivery", &self.delivery)] {
            if let Some(s) = summary {
                let [p50, p90, p99, max] = [s.p50_us, s.p90_us, s.p99_us, s.max_us].map(millis);
                out.push_str(&format!(" {name:<10} p50 {p50}   p90 {p90}   p99 {p99}   max {max}\n"));
            }
        }
        let errors: u64 = self.errors.values().sum();
        out.push_str(&format!("{} errors · {} deliveries missing\n", thousands(errors), thousands(self.missing)));
        self.errors.iter().for_each(|(kind, n)| out.push_str(&format!("  {} × {kind}\n", thousands(*n))));
        out
    }
}

/// What the tasks share.
struct Course {
    /// Stamps count from here, in nanoseconds.
    origin: Instant,
    /// Puts that were sent from here on count.
    from: AtomicU64,
    /// Events that arrived, of the puts that count.
    delivered: AtomicU64,
    answers: AtomicU64,
    /// One per connection.
    heard: Vec<Mutex<Recorder>>,
}

impl Course {
    fn now(&self) -> u64 {
        u64::try_from((clock::instant() - self.origin).as_nanos()).unwrap_or(u64::MAX)
    }

    fn from(&self) -> u64 {
        self.from.load(Ordering::Relaxed)
    }
}

/// Runs it.
pub fn run(endpoints: &[String], args: &Args, json: bool) -> Result<(), Failure> {
    runtime()?.block_on(measure(endpoints, args, json))
}

async fn measure(endpoints: &[String], args: &Args, json: bool) -> Result<(), Failure> {
    let version = survey(endpoints).await?.version;
    let connections = args.connections.map_or((args.watchers as usize).min(CONNECTIONS_MAX), |n| n as usize);
    let channels = connect(endpoints, connections.max(endpoints.len())).await?;
    let streams = args.streams.unwrap_or(channels.len() as u32).min(args.watchers);
    let course = Arc::new(Course {
        origin: clock::instant(),
        from: AtomicU64::new(u64::MAX),
        delivered: AtomicU64::new(0),
        answers: AtomicU64::new(0),
        heard: channels.iter().map(|_| Mutex::new(Recorder::new())).collect(),
    });
    let mut watching = JoinSet::new();
    let (ready, mut readies) = mpsc::unbounded_channel();
    for stream in 0..streams {
        let watchers = args.watchers / streams + u32::from(stream < args.watchers % streams);
        let place = stream as usize % channels.len();
        watching.spawn(watch(channels[place].clone(), place, watchers, Arc::clone(&course), ready.clone()));
    }
    drop(ready);
    for _ in 0..streams {
        let told = tokio::select! { told = readies.recv() => told, () = interrupt() => None };
        told.ok_or_else(|| Failure::new(exit::ERROR, "the watchers could not be made").fix("quorate status"))?;
    }
    // The time that it took to make them is not part of the warm-up.
    let begun = Duration::from_nanos(course.now());
    let from = begun + args.warmup;
    course.from.store(u64::try_from(from.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    let written = write(&channels, args, &course, begun).await;

    let puts = written.summary(Kind::Put, written.last());
    let expected = puts.map_or(0, |puts| puts.operations) * u64::from(args.watchers);
    let deadline = clock::instant() + GRACE;
    while course.delivered.load(Ordering::Relaxed) < expected && clock::instant() < deadline {
        tokio::time::sleep(TICK).await;
    }
    watching.shutdown().await;
    let mut heard = Recorder::new();
    course.heard.iter().for_each(|shard| heard.merge(&lock(shard)));
    let elapsed = heard.last();
    let report = Report {
        workload: "watch",
        endpoints: endpoints.to_vec(),
        server_version: version,
        watchers: args.watchers,
        streams,
        connections: channels.len(),
        writers: args.writers,
        val_size: args.val_size,
        rate: args.rate,
        seconds: elapsed.as_secs_f64(),
        puts: puts.map_or(0, |puts| puts.operations),
        puts_per_second: puts.map_or(0.0, |puts| puts.per_second),
        deliveries: heard.succeeded(),
        deliveries_per_second: per_second(heard.succeeded(), elapsed),
        answers: course.answers.load(Ordering::Relaxed),
        missing: expected.saturating_sub(heard.succeeded()),
        put: puts,
        delivery: heard.summary(Kind::Put, elapsed),
        errors: written.errors().clone(),
    };
    let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::from)? + "\n";
    print(if json { text } else { report.text() })?;
    if report.deliveries == 0 {
        return Err(Failure::new(exit::ERROR, "no event arrived").fix("quorate status"));
    }
    Ok(())
}

fn lock(shard: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One stream: makes its watchers, says so, and counts what arrives.
async fn watch(
    channel: Channel,
    place: usize,
    watchers: u32,
    course: Arc<Course>,
    ready: mpsc::UnboundedSender<()>,
) -> Result<(), Status> {
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(KEY),
        range_end: Bytes::from_static(KEY_END),
        ..pb::WatchCreateRequest::default()
    };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = (0..watchers).map(move |_| request.clone());
    let requests = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut answers = client.watch(requests).await?.into_inner();
    let mut created = 0;
    while let Some(answer) = answers.message().await? {
        if answer.created {
            created += 1;
            if created == watchers {
                let _ = ready.send(());
            }
            continue;
        }
        let (now, from) = (course.now(), course.from());
        let mut shard = lock(&course.heard[place]);
        let mut counted = 0;
        for event in &answer.events {
            let stamp = event.kv.as_ref().and_then(|kv| kv.value.first_chunk()).map(|stamp| u64::from_be_bytes(*stamp));
            let Some(stamp) = stamp.filter(|stamp| *stamp >= from) else { continue };
            counted += 1;
            let nanos = Duration::from_nanos;
            shard.done(Kind::Put, nanos(now.saturating_sub(stamp)), nanos(now.saturating_sub(from)));
        }
        drop(shard);
        if counted > 0 {
            course.delivered.fetch_add(counted, Ordering::Relaxed);
            course.answers.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Writes from `begun` until the measured time is over.
async fn write(channels: &[Channel], args: &Args, course: &Arc<Course>, begun: Duration) -> Recorder {
    let until = begun + args.warmup + args.duration;
    let mut writers = JoinSet::new();
    for number in 0..args.writers {
        let mut client = KvClient::new(channels[number as usize % channels.len()].clone());
        let pace = args.rate.map(|rate| Pace::new(rate, args.writers.into()));
        let course = Arc::clone(course);
        let mut value = vec![b'v'; args.val_size.max(STAMP_BYTES)];
        writers.spawn(async move {
            let mut recorder = Recorder::new();
            for turn in 0.. {
                let due = match pace {
                    None => Duration::from_nanos(course.now()),
                    Some(pace) => begun + pace.due(number.into(), turn),
                };
                if due >= until {
                    break;
                }
                tokio::time::sleep_until((course.origin + due).into()).await;
                let stamp = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
                value[..STAMP_BYTES].copy_from_slice(&stamp.to_be_bytes());
                let key = [KEY, number.to_string().as_bytes()].concat().into();
                let put = pb::PutRequest { key, value: Bytes::copy_from_slice(&value), ..Default::default() };
                let outcome = client.put(put).await;
                let (now, from) = (course.now(), course.from());
                if stamp >= from {
                    let nanos = Duration::from_nanos;
                    match outcome {
                        Ok(_) => recorder.done(Kind::Put, nanos(now - stamp), nanos(now - from)),
                        Err(status) => recorder.failed(&status, nanos(now - from)),
                    }
                }
            }
            recorder
        });
    }
    let mut written = Recorder::new();
    while let Some(ended) = writers.join_next().await {
        if let Ok(recorder) = ended {
            written.merge(&recorder);
        }
    }
    written
}

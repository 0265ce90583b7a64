//! What the callers saw: latencies as histograms, errors by kind.
//!
//! Callers record into a few shards (one lock each, held for a few nanoseconds) that are merged at the end. Histograms
//! keep three significant digits, so a percentile is off by at most 0.1 %; they are merged by adding counts, never by
//! averaging percentiles.
//!
//! Failed operations have no latency here: a refusal that takes 50 µs would flatter the percentiles.

use crate::time::Duration;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// Kinds of errors kept apart; whatever comes beyond them is counted as "other". A server that puts a number into each
/// message must not fill the report.
const KINDS_MAX: usize = 16;
/// The largest latency that is told apart: an hour. Longer ones count as this.
const LATENCY_MAX_NS: u64 = 3600 * 1_000_000_000;
/// Characters of an error's text that tell its kind.
const KIND_CHARS: usize = 120;

/// What an operation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A Range of one key.
    Get,
    /// A Range of several.
    Range,
    /// A Put.
    Put,
    /// A Txn that compares one key and puts it.
    Swap,
    /// A LeaseGrant.
    Grant,
    /// One keepalive on a stream of them.
    KeepAlive,
}

impl Kind {
    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Get => "get",
            Kind::Range => "range",
            Kind::Put => "put",
            Kind::Swap => "swap",
            Kind::Grant => "grant",
            Kind::KeepAlive => "keepalive",
        }
    }
}

/// The results of many operations.
#[derive(Clone, Debug)]
pub struct Recorder {
    latencies: BTreeMap<Kind, Histogram<u64>>,
    errors: BTreeMap<String, u64>,
    /// When the last operation ended, after the start of the measurement.
    last: Duration,
}

impl Recorder {
    /// One that has seen nothing.
    pub fn new() -> Recorder {
        Recorder { latencies: BTreeMap::new(), errors: BTreeMap::new(), last: Duration::ZERO }
    }

    fn of(&mut self, kind: Kind) -> &mut Histogram<u64> {
        self.latencies.entry(kind).or_insert_with(|| {
            let bounds = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3);
            bounds.unwrap_or_else(|e| unreachable!("the bounds are lawful: {e}"))
        })
    }

    /// An operation that took `latency` and was answered at `at`, after the start of the measurement.
    pub fn done(&mut self, kind: Kind, latency: Duration, at: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.of(kind).saturating_record(nanos);
        self.last = self.last.max(at);
    }

    /// An operation that failed.
    pub fn failed(&mut self, status: &tonic::Status, at: Duration) {
        let kind: String = format!("{:?}: {}", status.code(), status.message()).chars().take(KIND_CHARS).collect();
        self.count_error(kind, 1);
        self.last = self.last.max(at);
    }

    fn count_error(&mut self, kind: String, n: u64) {
        let known = self.errors.contains_key(&kind) || self.errors.len() < KINDS_MAX;
        *self.errors.entry(if known { kind } else { "other".to_owned() }).or_insert(0) += n;
    }

    /// Takes in what another shard saw.
    pub fn merge(&mut self, other: &Recorder) {
        for (kind, theirs) in &other.latencies {
            self.of(*kind).add(theirs).unwrap_or_else(|e| unreachable!("histograms of the same bounds add up: {e}"));
        }
        for (kind, n) in &other.errors {
            self.count_error(kind.clone(), *n);
        }
        self.last = self.last.max(other.last);
    }

    /// Operations that succeeded.
    pub fn succeeded(&self) -> u64 {
        self.latencies.values().map(Histogram::len).sum()
    }

    /// From the start of the measurement to the last answer.
    pub fn last(&self) -> Duration {
        self.last
    }

    /// The errors by kind.
    pub fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// The percentiles of every kind that succeeded.
    pub fn summaries(&self, elapsed: Duration) -> BTreeMap<&'static str, Summary> {
        let summary = |kind: &Kind| Some((kind.name(), self.summary(*kind, elapsed)?));
        self.latencies.keys().filter_map(summary).collect()
    }

    /// The percentiles of one kind; `None` if none succeeded.
    pub fn summary(&self, kind: Kind, elapsed: Duration) -> Option<Summary> {
        let histogram = self.latencies.get(&kind)?;
        (!histogram.is_empty()).then(|| {
            let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
            Summary {
                operations: histogram.len(),
                per_second: per_second(histogram.len(), elapsed),
                mean_us: histogram.mean() / 1000.0,
                p50_us: at(0.50),
                p90_us: at(0.90),
                p99_us: at(0.99),
                p99_9_us: at(0.999),
                max_us: histogram.max() as f64 / 1000.0,
            }
        })
    }
}

/// Operations per second; 0 for an empty interval.
pub fn per_second(operations: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { operations as f64 / elapsed.as_secs_f64() }
}

/// What a report says about one kind of operation. Microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub operations: u64,
    pub per_second: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub max_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shards that saw different latencies must report the percentiles of the union.
    #[test]
    fn merged_shards_report_as_one() {
        let (mut fast, mut slow, mut one) = (Recorder::new(), Recorder::new(), Recorder::new());
        for us in 1..=1000u64 {
            let latency = Duration::from_micros(us);
            if us <= 990 { &mut fast } else { &mut slow }.done(Kind::Put, latency, latency);
            one.done(Kind::Put, latency, latency);
        }
        fast.merge(&slow);
        let elapsed = Duration::from_secs(2);
        let merged = fast.summary(Kind::Put, elapsed).unwrap();
        assert_eq!(Some(merged), one.summary(Kind::Put, elapsed));
        assert_eq!(merged.operations, 1000);
        assert_eq!(merged.per_second, 500.0);
        assert!((merged.p50_us - 500.0).abs() <= 0.5, "{merged:?}");
        assert!((merged.p99_us - 990.0).abs() <= 1.0, "{merged:?}");
        assert!((merged.max_us - 1000.0).abs() <= 1.0, "{merged:?}");
        assert_eq!(fast.last(), Duration::from_millis(1));
        assert_eq!(fast.summary(Kind::Get, elapsed), None);
    }

    #[test]
    fn errors_are_counted_by_kind_and_the_kinds_are_bounded() {
        let mut all = Recorder::new();
        let mut shard = Recorder::new();
        for _ in 0..3 {
            shard.failed(&tonic::Status::unavailable("etcdserver: leader changed"), Duration::ZERO);
        }
        all.merge(&shard);
        all.merge(&shard);
        assert_eq!(all.errors().get("Unavailable: etcdserver: leader changed"), Some(&6));
        for n in 0..100 {
            all.failed(&tonic::Status::internal(format!("number {n}")), Duration::ZERO);
        }
        assert_eq!(all.errors().len(), KINDS_MAX + 1);
        assert_eq!(all.errors().values().sum::<u64>(), 106);
        assert_eq!(all.succeeded(), 0);
    }
}

//! Prometheus' text format, version 0.0.4: what a scrape gets.
//!
//! A [`Page`] is written family by family, each with its help, its type and its samples; a [`Histogram`] is counted into from
//! any thread. Nothing is registered anywhere: a page is what its writer asked for, so the list of metrics is code that reads
//! from top to bottom (`metrics.rs`), and the request path knows no names.
//!
//! By hand, because the names and types must be etcd's: it has counters without `_total` and gauges with it, which the
//! OpenMetrics format, and so the official crate, can't write.
//!
//! Absent: exemplars, native histograms, content negotiation.

use crate::time::Duration;
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

/// The content type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// etcd's bounds for disks, in seconds: powers of two from a millisecond.
pub const DISK_BOUNDS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];

/// etcd's bounds for round trips between members, in seconds: powers of two from a tenth of a millisecond.
pub const ROUND_TRIP_BOUNDS: &[f64] = &[
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096, 0.8192,
    1.6384, 3.2768,
];

/// The bounds for calls, in seconds: what Prometheus' own libraries, and so etcd, take when nothing is said.
pub const CALL_BOUNDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counts durations. To record one takes no lock and no memory.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, inclusive, rising, in seconds.
    bounds: &'static [f64],
    /// Per bound what lies in its bucket alone; the last one has what exceeds all bounds.
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Nothing counted yet.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, sum_ns: AtomicU64::new(0) }
    }

    /// Counts one.
    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

/// A metric's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
}

/// What a scrape gets.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// A family of samples.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.text, name }
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(Kind::Gauge, name, help).sample(&[], value);
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(Kind::Counter, name, help).sample(&[], value);
    }

    /// A histogram without labels.
    pub fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        self.family(Kind::Histogram, name, help).histogram(&[], histogram);
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// A label and its value.
pub type Label<'a> = (&'a str, &'a dyn Display);

/// The samples of one metric.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// One sample.
    pub fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.line("", labels, value);
    }

    /// The buckets, the sum and the count of a histogram: one reading of it, so that they agree.
    pub fn histogram(&mut self, labels: &[Label<'_>], histogram: &Histogram) {
        let mut count = 0;
        let bounds = histogram.bounds.iter().map(|bound| bound as &dyn Display).chain([&"+Inf" as &dyn Display]);
        let mut with_bound = labels.to_vec();
        for (bound, bucket) in bounds.zip(&histogram.buckets) {
            count += bucket.load(Ordering::Relaxed);
            with_bound.push(("le", bound));
            self.line("_bucket", &with_bound, count);
            with_bound.pop();
        }
        let sum = Duration::from_nanos(histogram.sum_ns.load(Ordering::Relaxed)).as_secs_f64();
        self.line("_sum", labels, sum);
        self.line("_count", labels, count);
    }

    /// A histogram that was counted elsewhere: for each upper bound (`None`: there is none) what lies in its bucket alone.
    pub fn buckets(&mut self, buckets: impl Iterator<Item = (Option<u64>, u64)>, sum: u64) {
        let mut count = 0;
        for (bound, inside) in buckets {
            count += inside;
            let bound = bound.map_or("+Inf".to_string(), in_go);
            self.line("_bucket", &[("le", &bound)], count);
        }
        self.line("_sum", &[], sum);
        self.line("_count", &[], count);
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (place, (label, value)) in labels.iter().enumerate() {
            let open = if place == 0 { '{' } else { ',' };
            let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{open}{label}=\"{value}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }
}

/// A number in the words of Go, whose floats have an exponent from a million on.
fn in_go(number: u64) -> String {
    match format!("{number:e}").split_once('e') {
        Some((digits, exponent)) if number >= 1_000_000 => format!("{digits}e+{exponent:0>2}"),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_text_format() {
        let mut page = Page::default();
        page.gauge("up", "Whether it is.", u8::from(true));
        let mut family = page.family(Kind::Counter, "seen_total", "What was seen.");
        family.sample(&[("who", &"a\\b\"c\nd"), ("n", &7)], 3);
        family.sample(&[("who", &"e"), ("n", &8)], 0.5);
        assert_eq!(
            page.into_text(),
            "# HELP up Whether it is.\n# TYPE up gauge\nup 1\n\
             # HELP seen_total What was seen.\n# TYPE seen_total counter\n\
             seen_total{who=\"a\\\\b\\\"c\\nd\",n=\"7\"} 3\nseen_total{who=\"e\",n=\"8\"} 0.5\n"
        );
    }

    #[test]
    fn bounds_are_written_as_go_writes_them() {
        let numbers = [1, 524_288, 1_048_576, 2_000_000, 10_000_000_000].map(in_go);
        assert_eq!(numbers, ["1", "524288", "1.048576e+06", "2e+06", "1e+10"]);
    }

    #[test]
    fn a_histogram_counts_up_to_and_with_its_bounds() {
        static BOUNDS: &[f64] = &[0.5, 1.0];
        let histogram = Histogram::new(BOUNDS);
        for ms in [0, 500, 501, 1_000, 1_001, 60_000] {
            histogram.record(Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.histogram("took_seconds", "How long.", &histogram);
        assert_eq!(
            page.into_text(),
            "# HELP took_seconds How long.\n# TYPE took_seconds histogram\n\
             took_seconds_bucket{le=\"0.5\"} 2\ntook_seconds_bucket{le=\"1\"} 4\ntook_seconds_bucket{le=\"+Inf\"} 6\n\
             took_seconds_sum 63.002\ntook_seconds_count 6\n"
        );
    }
}

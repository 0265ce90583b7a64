//! What a benchmark says at its end: a table for people on stdout, or JSON for programs.

use super::load::Measured;
use super::record::{Summary, per_second};
use super::work::Work;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The setting under which the figures were measured: a figure without it is worth nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    pub workload: String,
    pub endpoints: Vec<String>,
    pub target: String,
    pub server_version: String,
    pub clients: usize,
    pub connections: usize,
    /// What each caller does.
    #[serde(flatten)]
    pub work: Work,
    pub val_size: usize,
    pub key_size: usize,
    pub key_space: u64,
    pub sequential: bool,
    /// Operations per second that were asked for; none in a closed loop.
    pub rate: Option<f64>,
    pub warmup_s: f64,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was run.
    #[serde(flatten)]
    pub setting: Setting,
    /// From the end of the warm-up to the last answer, in seconds.
    pub seconds: f64,
    /// Operations that succeeded.
    pub operations: u64,
    /// The same, per second.
    pub per_second: f64,
    /// Of each kind of operation that there was.
    #[serde(flatten)]
    pub kinds: BTreeMap<&'static str, Summary>,
    /// Failed operations by kind.
    pub errors: BTreeMap<String, u64>,
    /// Operations without an answer at the end.
    pub unfinished: u64,
    /// Stopped by hand.
    pub interrupted: bool,
}

impl Report {
    /// The report on `measured` under `setting`.
    pub fn new(setting: Setting, measured: &Measured) -> Report {
        let (recorder, elapsed) = (&measured.recorder, measured.elapsed);
        Report {
            setting,
            seconds: elapsed.as_secs_f64(),
            operations: recorder.succeeded(),
            per_second: per_second(recorder.succeeded(), elapsed),
            kinds: recorder.summaries(elapsed),
            errors: recorder.errors().clone(),
            unfinished: measured.unfinished,
            interrupted: measured.interrupted,
        }
    }

    /// For people; ends with a newline.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.headline());
        let _ = writeln!(
            out,
            " {:.1} s   {} ops   {} op/s{}",
            self.seconds,
            thousands(self.operations),
            thousands(self.per_second.round() as u64),
            if self.interrupted { "   (interrupted)" } else { "" },
        );
        if let Some(rate) = self.setting.rate.filter(|rate| self.per_second < rate * 0.99) {
            let _ = writeln!(
                out,
                " the rate of {rate} op/s was not reached: the latencies include the time operations waited for a caller",
            );
        }
        out.push_str(&self.latencies());
        let errors: u64 = self.errors.values().sum();
        let _ = writeln!(out, "{} errors{}", thousands(errors), unfinished(self.unfinished));
        for (kind, n) in &self.errors {
            let _ = writeln!(out, "  {} × {kind}", thousands(*n));
        }
        out
    }

    fn headline(&self) -> String {
        let s = &self.setting;
        let consistency = |serializable| if serializable { "serializable" } else { "linearizable" };
        let what = match s.work {
            Work::Mixed { read_ratio, .. } if read_ratio <= 0.0 => "put".to_owned(),
            Work::Mixed { read_ratio, serializable } if read_ratio >= 1.0 => {
                format!("get · {} reads", consistency(serializable))
            }
            Work::Mixed { read_ratio: r, serializable } => {
                let (gets, puts) = (percent(r), percent(1.0 - r));
                format!("{gets} % get / {puts} % put · {} reads", consistency(serializable))
            }
            Work::Range { keys } => format!("range of {keys} keys"),
            Work::Swap => "compare and swap".to_owned(),
            Work::Grant => "lease grant".to_owned(),
            Work::KeepAlive => "lease keepalive".to_owned(),
        };
        let rate = s.rate.map_or(String::new(), |rate| format!(" · {rate} op/s asked for"));
        format!(
            "{what} · {} clients · {} connections · {} B values · {} keys · {}{rate}",
            s.clients,
            s.connections,
            s.val_size,
            thousands(s.key_space),
            s.target
        )
    }

    fn latencies(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["", "p50", "p90", "p99", "p99.9", "max", "mean", "op/s"]);
        for (name, s) in &self.kinds {
            let times = [s.p50_us, s.p90_us, s.p99_us, s.p99_9_us, s.max_us, s.mean_us].map(millis);
            let mut row = vec![(*name).to_owned()];
            row.extend(times);
            row.push(thousands(s.per_second.round() as u64));
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.trim_fmt() + "\n"
    }
}

fn unfinished(n: u64) -> String {
    if n == 0 { String::new() } else { format!(" · {} without an answer at the end", thousands(n)) }
}

fn percent(share: f64) -> f64 {
    (share * 1000.0).round() / 10.0
}

/// Microseconds as milliseconds, with about three digits.
pub fn millis(us: f64) -> String {
    let ms = us / 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{} ms", thousands(ms.round() as u64)),
    }
}

/// A whole number in groups of three digits.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let summary = |operations, scale: f64| Summary {
            operations,
            per_second: operations as f64 / 20.0,
            mean_us: 450.0 * scale,
            p50_us: 410.0 * scale,
            p90_us: 880.0 * scale,
            p99_us: 2100.0 * scale,
            p99_9_us: 16_400.0 * scale,
            max_us: 119_000.0 * scale,
        };
        Report {
            setting: Setting {
                workload: "mixed".into(),
                endpoints: vec!["127.0.0.1:2379".into()],
                target: "all members".into(),
                server_version: "3.5.30".into(),
                clients: 64,
                connections: 16,
                work: Work::Mixed { read_ratio: 0.9, serializable: false },
                val_size: 256,
                key_size: 24,
                key_space: 10_000,
                sequential: false,
                rate: None,
                warmup_s: 1.0,
            },
            seconds: 20.0,
            operations: 1_043_911,
            per_second: 52_195.6,
            kinds: BTreeMap::from([("put", summary(104_391, 3.0)), ("get", summary(939_520, 1.0))]),
            errors: BTreeMap::from([("Unavailable: etcdserver: leader changed".to_owned(), 1200)]),
            unfinished: 0,
            interrupted: false,
        }
    }

    #[test]
    fn the_table_reads_like_this() {
        let expected = "\
90 % get / 10 % put · linearizable reads · 64 clients · 16 connections · 256 B values · 10 000 keys · all members
 20.0 s   1 043 911 ops   52 196 op/s
          p50      p90      p99    p99.9     max     mean    op/s
 get  0.41 ms  0.88 ms  2.10 ms  16.4 ms  119 ms  0.45 ms  46 976
 put  1.23 ms  2.64 ms  6.30 ms  49.2 ms  357 ms  1.35 ms   5 220
1 200 errors
  1 200 × Unavailable: etcdserver: leader changed
";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn a_rate_that_was_missed_is_said() {
        let mut report = report();
        report.setting.rate = Some(60_000.0);
        report.unfinished = 3;
        report.interrupted = true;
        let text = report.text();
        assert!(text.contains("the rate of 60000 op/s was not reached"), "{text}");
        assert!(text.contains("1 200 errors · 3 without an answer"), "{text}");
        assert!(text.contains("(interrupted)"), "{text}");
        report.per_second = 59_900.0;
        assert!(!report.text().contains("not reached"));
    }

    #[test]
    fn json_names_the_setting_beside_the_figures() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["clients"], 64);
        assert_eq!(json["put"]["p99_us"], 6300.0);
        assert_eq!(json["errors"]["Unavailable: etcdserver: leader changed"], 1200);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1_043_911, 100_000].map(thousands),
            ["0", "999", "1 000", "1 043 911", "100 000"].map(String::from)
        );
    }
}

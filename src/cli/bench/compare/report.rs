//! What a comparison says: medians and ratios, as a table or as JSON.
//!
//! A ratio is how many times the reference's figure a server's is, as the median of the rounds' own ratios; whether more is
//! better follows from the unit. The JSON has every figure of every round.

use super::rows::Row;
use super::{Args, Duration, Failure, exit, load};
use crate::cli::bench::record::Kind;
use crate::server::process::Usage;
use crate::server::sync_probe::SyncProbe;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::fmt::Write as _;

/// What is beside the clusters: see the module's essay.
const SYNC: &str = "one small synced append";

/// One load on one cluster, once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Operations per second.
    pub per_second: f64,
    /// Of the kind that there is most of, in microseconds.
    p50_us: f64,
    p99_us: f64,
    /// CPU time of all members per operation, in microseconds, and bytes written to disks.
    used: Option<(f64, f64)>,
}

impl Sample {
    /// What was measured, and what was used from before the warm-up to the end.
    ///
    /// # Errors
    /// If operations failed: a figure of a cluster that refuses is none.
    pub fn new(
        row: &Row,
        measured: &load::Measured,
        used: Option<(Usage, Usage, Duration)>,
    ) -> Result<Sample, Failure> {
        let recorder = &measured.recorder;
        if let Some((kind, n)) = recorder.errors().first_key_value() {
            return Err(Failure::new(exit::ERROR, format!("{}: {n} operations failed: {kind}", row.name)));
        }
        let kinds = [Kind::Get, Kind::Range, Kind::Put, Kind::Swap, Kind::Grant, Kind::KeepAlive];
        let summaries = kinds.iter().filter_map(|kind| recorder.summary(*kind, measured.elapsed));
        let most = summaries.max_by_key(|summary| summary.operations);
        let most = most.ok_or_else(|| Failure::new(exit::ERROR, format!("{}: no operation was answered", row.name)))?;
        let per_second = recorder.succeeded() as f64 / measured.elapsed.as_secs_f64();
        let per_operation = |(before, after, time): (Usage, Usage, Duration)| {
            let operations = per_second * time.as_secs_f64();
            let written = after.written.saturating_sub(before.written);
            ((after.cpu_s - before.cpu_s) * 1e6 / operations, written as f64 / operations)
        };
        Ok(Sample { per_second, p50_us: most.p50_us, p99_us: most.p99_us, used: used.map(per_operation) })
    }
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Line {
    what: String,
    unit: &'static str,
    /// By the place of the server; every round's.
    figures: Vec<Vec<f64>>,
    /// By the place of the server.
    medians: Vec<Option<f64>>,
    /// By the place of the server: how many times the reference's figure.
    ratios: Vec<Option<f64>>,
    /// What the machine's own limit is, where it was measured; every round's.
    limit: Vec<f64>,
}

impl Line {
    /// How many times what the reference does, so that more is better.
    fn gain(&self, place: usize) -> Option<f64> {
        let ratio = self.ratios[place]?;
        Some(if self.unit == "op/s" { ratio } else { 1.0 / ratio })
    }
}

/// The whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    servers: Vec<String>,
    commands: Vec<String>,
    /// With what the ratios compare.
    reference: String,
    rounds: u32,
    seconds: f64,
    nodes: u8,
    val_size: usize,
    sync_p50_us: f64,
    lines: Vec<Line>,
}

impl Report {
    /// One without figures.
    pub fn new(args: &Args, sync: &SyncProbe) -> Report {
        let servers: Vec<String> = args.servers.iter().map(|server| server.name.clone()).collect();
        Report {
            reference: servers.last().cloned().unwrap_or_default(),
            servers,
            commands: args.servers.iter().map(|server| server.command.join(" ")).collect(),
            rounds: args.rounds,
            seconds: args.duration.as_secs_f64(),
            nodes: args.nodes,
            val_size: args.val_size,
            sync_p50_us: sync.median.as_secs_f64() * 1e6,
            lines: Vec::new(),
        }
    }

    /// One more figure of a server.
    pub fn figure(&mut self, what: &str, unit: &'static str, server: &str, figure: f64) {
        let place = self.servers.iter().position(|name| name == server).unwrap_or_default();
        let line = self.line(what, unit);
        line.figures[place].push(figure);
        let reference = line.figures.last().cloned().unwrap_or_default();
        line.medians[place] = median(line.figures[place].clone());
        for (place, figures) in line.figures.iter().enumerate() {
            // Nothing is no multiple of anything.
            let both = figures.iter().zip(&reference).filter(|(_, theirs)| **theirs > 0.0);
            line.ratios[place] = median(both.map(|(ours, theirs)| ours / theirs).collect());
        }
    }

    fn line(&mut self, what: &str, unit: &'static str) -> &mut Line {
        let at = self.lines.iter().position(|line| line.what == what && line.unit == unit).unwrap_or_else(|| {
            let servers = self.servers.len();
            let (figures, medians, ratios) = (vec![Vec::new(); servers], vec![None; servers], vec![None; servers]);
            self.lines.push(Line { what: what.to_owned(), unit, figures, medians, ratios, limit: Vec::new() });
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }

    /// One more sample of a row.
    pub fn sample(&mut self, row: &Row, server: &str, sample: Sample) {
        self.figure(row.name, "op/s", server, sample.per_second);
        self.figure(&format!("{} p50", row.name), "ms", server, sample.p50_us / 1000.0);
        self.figure(&format!("{} p99", row.name), "ms", server, sample.p99_us / 1000.0);
        if let Some((cpu_us, written)) = sample.used {
            self.figure(&format!("{} server CPU", row.name), "us/op", server, cpu_us);
            self.figure(&format!("{} written", row.name), "B/op", server, written);
        }
    }

    /// What a server that does nothing shows under the same load.
    pub fn limit(&mut self, row: &Row, sample: &Sample) {
        self.line(row.name, "op/s").limit.push(sample.per_second);
        self.line(&format!("{} p50", row.name), "ms").limit.push(sample.p50_us / 1000.0);
    }

    /// The gains in operations per second, for the drawing: what, and by the place of the server.
    pub fn gains(&self) -> Vec<(&str, Vec<Option<f64>>)> {
        let loads = self.lines.iter().filter(|line| line.unit == "op/s");
        loads
            .map(|line| (line.what.as_str(), (0..self.servers.len()).map(|place| line.gain(place)).collect()))
            .collect()
    }

    /// The names of the servers; the last is the reference.
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// For people; ends with a newline.
    pub fn text(&self) -> String {
        let mut out = format!(
            "{} · {} members each · {} B values · {} rounds of {} s · {SYNC}: {:.0} us\n",
            self.servers.join(" against "),
            self.nodes,
            self.val_size,
            self.rounds,
            self.seconds,
            self.sync_p50_us
        );
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let mut header = vec![String::new(), String::new()];
        for server in &self.servers {
            header.push(server.clone());
        }
        header.extend(self.compared().map(|server| format!("{server} / {}", self.reference)));
        header.push("does nothing".to_owned());
        table.set_header(header);
        for line in &self.lines {
            let mut cells = vec![line.what.clone(), line.unit.to_owned()];
            cells.extend(line.medians.iter().map(|median| cell(*median)));
            cells.extend(
                line.ratios[..self.servers.len() - 1]
                    .iter()
                    .map(|ratio| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2} x"))),
            );
            cells.push(cell(median(line.limit.clone())));
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let _ = writeln!(out, "{}", table.trim_fmt());
        out
    }

    fn compared(&self) -> impl Iterator<Item = &String> {
        self.servers.iter().take(self.servers.len() - 1)
    }
}

fn cell(figure: Option<f64>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(figure) if figure < 10.0 => format!("{figure:.2}"),
        Some(figure) if figure < 100.0 => format!("{figure:.1}"),
        Some(figure) => crate::cli::bench::thousands(figure.round() as u64),
    }
}

/// The mean of the two in the middle, if there is no one.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    let upper = *figures.get(half)?;
    Some(if figures.len().is_multiple_of(2) { f64::midpoint(figures[half - 1], upper) } else { upper })
}

#[cfg(test)]
pub mod tests {
    use super::super::fleet::Server;
    use super::*;

    pub fn report() -> Report {
        let server = |text: &str| Server::parse(text).unwrap();
        let args = Args {
            servers: vec![server("ours=quorate serve"), server("etcd=etcd")],
            rounds: 3,
            duration: Duration::from_secs(5),
            warmup: Duration::ZERO,
            only: Vec::new(),
            list: false,
            nodes: 3,
            val_size: 256,
            accidents: 0,
            keys: 0,
            dir: None,
            out: None,
            plot: None,
        };
        let sync = SyncProbe { syncs: 1, median: Duration::from_micros(200), slowest: Duration::from_micros(200) };
        Report::new(&args, &sync)
    }

    /// A slow minute is slow for both: the second round's figures are half of the first one's, its ratio is not.
    #[test]
    fn a_ratio_is_the_median_of_the_rounds_own() {
        let mut report = report();
        for (ours, theirs) in [(3000.0, 1000.0), (1500.0, 500.0), (1000.0, 1000.0)] {
            report.figure("put", "op/s", "ours", ours);
            report.figure("put", "op/s", "etcd", theirs);
            report.figure("put p99", "ms", "ours", 2.0);
            report.figure("put p99", "ms", "etcd", 4.0);
        }
        assert_eq!(report.lines[0].ratios, [Some(3.0), Some(1.0)]);
        assert_eq!(report.lines[0].medians, [Some(1500.0), Some(1000.0)]);
        assert_eq!((report.lines[0].gain(0), report.lines[1].gain(0)), (Some(3.0), Some(2.0)));
        let text = report.text();
        assert!(text.contains("ours / etcd") && text.contains("3.00 x") && text.contains("0.50 x"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let mut report = report();
        report.figure("put", "op/s", "ours", 1.0);
        assert_eq!(report.lines[0].ratios, [None, None]);
        report.figure("put", "op/s", "etcd", 0.0);
        assert_eq!(report.lines[0].ratios, [None, None], "nothing is written: no ratio");
        assert!(report.text().lines().any(|line| line.trim_start().starts_with("put") && line.contains('-')));
        assert_eq!((median(vec![]), median(vec![4.0, 1.0])), (None, Some(2.5)));
    }
}

//! The log: one line per event, for people or for collectors.
//!
//! `--log-format console` writes a line that reads well on a terminal; `json` writes zap's keys (`level`, `ts`, `caller`,
//! `msg`, then the fields), because scripts and collectors made for etcd look for them. Everything goes through `tracing`;
//! the `log` crate's logger is taken by `storage/sled.rs`, which must see what sled complains about.
//!
//! Absent: rotation, and any buffering: a line is written before the event is over.

use super::config::{LogConfig, LogOutput};
use crate::clock::unix_micros;
use serde_json::{Map, Value};
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Libraries below this level are not heard, but for warnings.
const OWN_TARGET: &str = "quorate";

/// Installs the log for the process.
///
/// # Errors
/// A file can't be opened, or a log is installed already.
pub fn install(config: &LogConfig) -> Result<(), String> {
    let outputs = Outputs::open(&config.outputs)?;
    let colour = outputs.are_terminals() && std::env::var_os("NO_COLOR").is_none();
    let filter = EnvFilter::new(format!("warn,{OWN_TARGET}={}", config.level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .event_format(Line { json: config.json, colour })
        .with_writer(outputs)
        .finish();
    tracing::subscriber::set_global_default(subscriber).map_err(|error| format!("can't start the log: {error}"))
}

#[derive(Clone, Debug)]
enum Output {
    Stderr,
    Stdout,
    File(Arc<File>),
}

#[derive(Clone, Debug)]
struct Outputs(Vec<Output>);

impl Outputs {
    fn open(outputs: &[LogOutput]) -> Result<Outputs, String> {
        let open = |output: &LogOutput| match output {
            LogOutput::Stderr => Ok(Output::Stderr),
            LogOutput::Stdout => Ok(Output::Stdout),
            LogOutput::File(path) => OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map(|file| Output::File(Arc::new(file)))
                .map_err(|error| format!("--log-outputs: {} can't be opened: {error}", path.display())),
        };
        outputs.iter().map(open).collect::<Result<Vec<_>, _>>().map(Outputs)
    }

    fn are_terminals(&self) -> bool {
        self.0.iter().all(|output| match output {
            Output::Stderr => io::stderr().is_terminal(),
            Output::Stdout => io::stdout().is_terminal(),
            Output::File(_) => false,
        })
    }
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = &'a Outputs;

    fn make_writer(&'a self) -> &'a Outputs {
        self
    }
}

/// An output that fails is passed over: nobody is left to tell.
impl Write for &Outputs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for output in &self.0 {
            let _ = match output {
                Output::Stderr => io::stderr().lock().write_all(bytes),
                Output::Stdout => io::stdout().lock().write_all(bytes),
                Output::File(file) => (&**file).write_all(bytes),
            };
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How an event becomes a line.
#[derive(Clone, Copy, Debug)]
struct Line {
    json: bool,
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let meta = event.metadata();
        let now = timestamp(unix_micros());
        if self.json {
            let caller = caller(meta.file(), meta.line());
            return writeln!(writer, "{}", zap(*meta.level(), &now, &caller, fields));
        }
        writer.write_str(&console(*meta.level(), &now, fields, self.colour))
    }
}

#[derive(Debug, Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, Value)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.rest.push((field.name(), Value::String(format!("{value:?}"))));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_string();
        } else {
            self.rest.push((field.name(), Value::String(value.to_string())));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.rest.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.rest.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.rest.push((field.name(), value.into()));
    }
}

fn zap(level: Level, now: &str, caller: &str, fields: Fields) -> String {
    let name = match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    };
    let mut line = Map::new();
    line.insert("level".into(), name.into());
    line.insert("ts".into(), now.into());
    line.insert("caller".into(), caller.into());
    line.insert("msg".into(), fields.message.into());
    line.extend(fields.rest.into_iter().map(|(name, value)| (name.replace('_', "-"), value)));
    Value::Object(line).to_string()
}

fn console(level: Level, now: &str, fields: Fields, colour: bool) -> String {
    use anstyle::{AnsiColor, Style};
    let (name, ansi) = match level {
        Level::ERROR => ("ERROR", AnsiColor::Red),
        Level::WARN => ("WARN ", AnsiColor::Yellow),
        Level::INFO => ("INFO ", AnsiColor::Green),
        _ => ("DEBUG", AnsiColor::Blue),
    };
    let (strong, faint) = if colour {
        (Style::new().fg_color(Some(ansi.into())), Style::new().dimmed())
    } else {
        (Style::new(), Style::new())
    };
    let mut line = format!("{faint}{now}{faint:#} {strong}{name}{strong:#} {}", fields.message);
    for (name, value) in fields.rest {
        let _ = match value {
            Value::String(text) if text.contains([' ', '"', '\n']) => write!(line, " {faint}{name}={faint:#}{text:?}"),
            Value::String(text) => write!(line, " {faint}{name}={faint:#}{text}"),
            value => write!(line, " {faint}{name}={faint:#}{value}"),
        };
    }
    line.push('\n');
    line
}

/// `server/mod.rs:42`, as zap shortens it: the last directory and the file.
fn caller(file: Option<&str>, line: Option<u32>) -> String {
    let file = file.unwrap_or("unknown");
    let mut slashes = file.rmatch_indices(['/', '\\']);
    let _ = slashes.next();
    let short = slashes.next().map_or(file, |(at, _)| &file[at + 1..]);
    format!("{short}:{}", line.unwrap_or(0))
}

/// RFC 3339 in UTC, to the microsecond.
fn timestamp(unix_micros: u64) -> String {
    let (seconds, micros) = (unix_micros / 1_000_000, unix_micros % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date: years begin in March, so that the leap day is the last one; 400 years have 146097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let date = day - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_know_leap_years() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(951_782_399_000_001), "2000-02-28T23:59:59.000001Z");
        assert_eq!(timestamp(951_782_400_000_000), "2000-02-29T00:00:00.000000Z");
        assert_eq!(timestamp(4_107_542_400_000_000), "2100-03-01T00:00:00.000000Z");
        assert_eq!(timestamp(1_795_228_311_500_000), "2026-11-21T02:31:51.500000Z");
    }

    #[test]
    fn json_lines_have_zaps_keys_in_zaps_order() {
        let fields = Fields { message: "ready to serve client requests".into(), rest: vec![("member_id", 7.into())] };
        let line = zap(Level::INFO, "T", &caller(Some("src/server/mod.rs"), Some(42)), fields);
        assert_eq!(
            line,
            r#"{"level":"info","ts":"T","caller":"server/mod.rs:42","msg":"ready to serve client requests","member-id":7}"#
        );
    }

    #[test]
    fn console_lines_quote_what_has_spaces() {
        let rest = vec![("name", "n1".into()), ("why", "a b".into()), ("n", 3.into())];
        let fields = Fields { message: "connected".into(), rest };
        assert_eq!(console(Level::WARN, "T", fields, false), "T WARN  connected name=n1 why=\"a b\" n=3\n");
    }

    #[test]
    fn a_log_file_is_appended_to_and_a_bad_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        for _ in 0..2 {
            let outputs = Outputs::open(&[LogOutput::File(path.clone())]).unwrap();
            (&outputs).write_all(b"line\n").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line\nline\n");
        let error = Outputs::open(&[LogOutput::File(dir.path().to_path_buf())]).unwrap_err();
        assert!(error.contains("can't be opened"), "{error}");
    }
}

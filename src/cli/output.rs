//! How answers are printed: `simple`, `json`, `fields` and `table`, each as etcdctl 3.5 prints it, byte for byte.
//!
//! One function per answer, a match over the formats in each. Output is collected and written in one piece, so a reader
//! of a pipe never sees half an answer of a command that failed.

use super::bench::thousands;
use super::exit::{Failure, SERVER};
use super::member::EndpointHealth;
use super::{Global, go_duration, json};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use pb::response_op::Response;
use std::fmt::Write as _;
use std::io::Write as _;

mod upkeep;

/// The formats of `-w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people and shells.
    Simple,
    /// One JSON document on one line.
    Json,
    /// For eyes; `endpoint`, `member list` and `status` only.
    Table,
    /// One `"Name" : value` a line.
    Fields,
}

/// Prints answers in one format.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    format: Format,
    hex: bool,
}

impl Printer {
    /// A printer in the format that was asked for.
    pub fn new(global: &Global) -> Printer {
        Printer { format: global.write_out, hex: global.hex }
    }

    /// The same, for commands that have no table.
    ///
    /// # Errors
    /// If a table was asked for.
    pub fn without_table(global: &Global) -> Result<Printer, Failure> {
        match global.write_out {
            Format::Table => {
                Err(Failure::new(SERVER, "keys and values have no table form").fix("use -w simple, json or fields"))
            }
            Format::Simple | Format::Json | Format::Fields => Ok(Printer::new(global)),
        }
    }

    /// Prints a put's answer.
    pub fn put(self, response: &pb::PutResponse) -> Result<(), Failure> {
        let mut out = Vec::new();
        match self.format {
            Format::Json => line(&mut out, json::text(&json::put(response))),
            Format::Fields => out = put_fields(response).into(),
            Format::Simple | Format::Table => self.simple_put(&mut out, response),
        }
        write(&out)
    }

    /// Prints a range's answer.
    pub fn range(self, response: &pb::RangeResponse, print_value_only: bool) -> Result<(), Failure> {
        let mut out = Vec::new();
        match self.format {
            Format::Json => line(&mut out, json::text(&json::range(response))),
            Format::Fields => out = range_fields(response).into(),
            Format::Simple | Format::Table if print_value_only => {
                response.kvs.iter().for_each(|kv| self.bytes(&mut out, &kv.value));
            }
            Format::Simple | Format::Table => self.simple_kvs(&mut out, &response.kvs),
        }
        write(&out)
    }

    /// Prints a delete's answer.
    pub fn delete_range(self, response: &pb::DeleteRangeResponse) -> Result<(), Failure> {
        let mut out = Vec::new();
        match self.format {
            Format::Json => line(&mut out, json::text(&json::delete_range(response))),
            Format::Fields => out = delete_fields(response).into(),
            Format::Simple | Format::Table => self.simple_delete(&mut out, response),
        }
        write(&out)
    }

    /// Prints a transaction's answer.
    pub fn txn(self, response: &pb::TxnResponse) -> Result<(), Failure> {
        let mut out = Vec::new();
        match self.format {
            Format::Json => line(&mut out, json::text(&json::txn(response))),
            Format::Fields => out = txn_fields(response).into(),
            Format::Simple | Format::Table => {
                line(&mut out, if response.succeeded { "SUCCESS" } else { "FAILURE" });
                for op in &response.responses {
                    line(&mut out, "");
                    match &op.response {
                        Some(Response::ResponsePut(put)) => self.simple_put(&mut out, put),
                        Some(Response::ResponseRange(range)) => self.simple_kvs(&mut out, &range.kvs),
                        Some(Response::ResponseDeleteRange(delete)) => self.simple_delete(&mut out, delete),
                        // The language of `txn` has no transactions within transactions.
                        Some(Response::ResponseTxn(_)) | None => line(&mut out, format!("{:?}", op.response)),
                    }
                }
            }
        }
        write(&out)
    }

    /// Prints the members.
    pub fn members(self, response: &pb::MemberListResponse) -> Result<(), Failure> {
        let row = |member: &pb::Member| {
            let status = if member.name.is_empty() { "unstarted" } else { "started" };
            let (peers, clients) = (member.peer_ur_ls.join(","), member.client_ur_ls.join(","));
            let learner = member.is_learner.to_string();
            [format!("{:x}", member.id), status.into(), member.name.clone(), peers, clients, learner]
        };
        let rows: Vec<_> = response.members.iter().map(row).collect();
        let text = match self.format {
            Format::Simple => lines(rows.iter().map(|row| row.join(", "))),
            Format::Table => table(["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"], &rows),
            Format::Json => lines([json::text(&json::members(response, self.hex))]),
            Format::Fields => {
                let mut text = header_fields(response.header.as_ref());
                for member in &response.members {
                    _ = writeln!(text, "\"ID\" : {}\n\"Name\" : {}", member.id, quote(member.name.as_bytes()));
                    for url in &member.peer_ur_ls {
                        _ = writeln!(text, "\"PeerURL\" : {}", quote(url.as_bytes()));
                    }
                    for url in &member.client_ur_ls {
                        _ = writeln!(text, "\"ClientURL\" : {}", quote(url.as_bytes()));
                    }
                    _ = writeln!(text, "\"IsLearner\" : {}\n", member.is_learner);
                }
                text
            }
        };
        write(text.as_bytes())
    }

    /// Prints the status of endpoints.
    pub fn statuses(self, statuses: &[(String, pb::StatusResponse)]) -> Result<(), Failure> {
        let row = |(endpoint, status): &(String, pb::StatusResponse)| {
            let member = status.header.as_ref().map_or(0, |header| header.member_id);
            [
                endpoint.clone(),
                format!("{member:x}"),
                status.version.clone(),
                size(status.db_size),
                (member == status.leader).to_string(),
                status.is_learner.to_string(),
                status.raft_term.to_string(),
                status.raft_index.to_string(),
                status.raft_applied_index.to_string(),
                status.errors.join(", "),
            ]
        };
        let rows: Vec<_> = statuses.iter().map(row).collect();
        let text = match self.format {
            Format::Simple => lines(rows.iter().map(|row| row.join(", "))),
            Format::Table => {
                let head = ["ENDPOINT", "ID", "VERSION", "DB SIZE", "IS LEADER", "IS LEARNER"];
                let tail = ["RAFT TERM", "RAFT INDEX", "RAFT APPLIED INDEX", "ERRORS"];
                table([&head[..], &tail[..]].concat(), &rows)
            }
            Format::Json => {
                let all = statuses.iter().map(|(endpoint, status)| json::status(endpoint, status)).collect();
                lines([json::text(&serde_json::Value::Array(all))])
            }
            Format::Fields => statuses.iter().map(|(endpoint, status)| status_fields(endpoint, status)).collect(),
        };
        write(text.as_bytes())
    }

    /// Prints the health of endpoints; with `simple`, what is wrong goes to stderr.
    pub fn healths(self, healths: &[EndpointHealth]) -> Result<(), Failure> {
        let text = match self.format {
            Format::Simple => lines(healths.iter().filter_map(|health| match &health.error {
                None => Some(format!(
                    "{} is healthy: successfully committed proposal: took = {}",
                    health.endpoint,
                    go_duration::format(health.took)
                )),
                Some(why) => {
                    anstream::eprintln!("{} is unhealthy: {why}", health.endpoint);
                    None
                }
            })),
            Format::Table => {
                let row = |health: &EndpointHealth| {
                    let (took, error) = (go_duration::format(health.took), health.error.clone().unwrap_or_default());
                    [health.endpoint.clone(), health.error.is_none().to_string(), took, error]
                };
                table(["ENDPOINT", "HEALTH", "TOOK", "ERROR"], &healths.iter().map(row).collect::<Vec<_>>())
            }
            Format::Json => {
                let one = |health: &EndpointHealth| {
                    let took = go_duration::format(health.took);
                    let mut value = serde_json::json!({
                        "endpoint": health.endpoint, "health": health.error.is_none(), "took": took
                    });
                    if let Some(error) = &health.error {
                        value["error"] = error.as_str().into();
                    }
                    value
                };
                lines([json::text(&healths.iter().map(one).collect())])
            }
            Format::Fields => healths
                .iter()
                .map(|health| {
                    let (endpoint, took) = (quote(health.endpoint.as_bytes()), go_duration::format(health.took));
                    let (healthy, error) = (health.error.is_none(), health.error.as_deref().unwrap_or_default());
                    format!(
                        "\"Endpoint\" : {endpoint}\n\"Health\" : {healthy}\n\"Took\" : {took}\n\"Error\" : {error}\n\n"
                    )
                })
                .collect(),
        };
        write(text.as_bytes())
    }

    /// A key or value on a line of its own, raw or in hexadecimal.
    fn bytes(self, out: &mut Vec<u8>, bytes: &[u8]) {
        if self.hex {
            let hex: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            out.extend(hex.as_bytes());
        } else {
            out.extend(bytes);
        }
        out.push(b'\n');
    }

    fn simple_kvs(self, out: &mut Vec<u8>, kvs: &[mvccpb::KeyValue]) {
        for kv in kvs {
            self.bytes(out, &kv.key);
            self.bytes(out, &kv.value);
        }
    }

    fn simple_put(self, out: &mut Vec<u8>, response: &pb::PutResponse) {
        line(out, "OK");
        self.simple_kvs(out, response.prev_kv.as_slice());
    }

    fn simple_delete(self, out: &mut Vec<u8>, response: &pb::DeleteRangeResponse) {
        line(out, response.deleted.to_string());
        self.simple_kvs(out, &response.prev_kvs);
    }
}

/// Prints what this program is and which API it speaks.
pub fn version() -> Result<(), Failure> {
    let (ours, level) = (env!("CARGO_PKG_VERSION"), crate::server::api::NEWEST_LEVEL);
    write(format!("quorate version: {ours}\nAPI version: 3.5\nCluster level: up to {level}\n").as_bytes())
}

fn line(out: &mut Vec<u8>, text: impl AsRef<str>) {
    out.extend(text.as_ref().as_bytes());
    out.push(b'\n');
}

fn lines(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Writes to stdout.
pub fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Writes text to stdout, with its colours only if a person looks.
///
/// The one way to stdout for text: the macros of the standard library panic when nobody reads any more.
pub fn print(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_ref().as_bytes())?;
    Ok(stdout.flush()?)
}

/// `1 member`, `2 000 members`, `3 entries`, `4 keys`.
pub fn plural(count: u64, noun: &str) -> String {
    let number = thousands(count);
    match noun.strip_suffix('y') {
        _ if count == 1 => format!("{number} {noun}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{number} {stem}ies"),
        Some(_) | None => format!("{number} {noun}s"),
    }
}

fn header_fields(header: Option<&pb::ResponseHeader>) -> String {
    let header = header.cloned().unwrap_or_default();
    format!(
        "\"ClusterID\" : {}\n\"MemberID\" : {}\n\"Revision\" : {}\n\"RaftTerm\" : {}\n",
        header.cluster_id, header.member_id, header.revision, header.raft_term
    )
}

fn put_fields(response: &pb::PutResponse) -> String {
    let mut text = header_fields(response.header.as_ref());
    response.prev_kv.iter().for_each(|kv| text.push_str(&kv_fields("Prev", kv)));
    text
}

fn range_fields(response: &pb::RangeResponse) -> String {
    let mut text = header_fields(response.header.as_ref());
    response.kvs.iter().for_each(|kv| text.push_str(&kv_fields("", kv)));
    _ = write!(text, "\"More\" : {}\n\"Count\" : {}\n", response.more, response.count);
    text
}

fn delete_fields(response: &pb::DeleteRangeResponse) -> String {
    let mut text = header_fields(response.header.as_ref());
    _ = writeln!(text, "\"Deleted\" : {}", response.deleted);
    response.prev_kvs.iter().for_each(|kv| text.push_str(&kv_fields("Prev", kv)));
    text
}

fn txn_fields(response: &pb::TxnResponse) -> String {
    let mut text = header_fields(response.header.as_ref());
    _ = writeln!(text, "\"Succeeded\" : {}", response.succeeded);
    for op in &response.responses {
        text += &match &op.response {
            Some(Response::ResponsePut(put)) => put_fields(put),
            Some(Response::ResponseRange(range)) => range_fields(range),
            Some(Response::ResponseDeleteRange(delete)) => delete_fields(delete),
            Some(Response::ResponseTxn(txn)) => txn_fields(txn),
            None => String::new(),
        };
    }
    text
}

fn kv_fields(prefix: &str, kv: &mvccpb::KeyValue) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| _ = writeln!(text, "\"{prefix}{name}\" : {value}");
    field("Key", quote(&kv.key));
    field("CreateRevision", kv.create_revision.to_string());
    field("ModRevision", kv.mod_revision.to_string());
    field("Version", kv.version.to_string());
    field("Value", quote(&kv.value));
    field("Lease", kv.lease.to_string());
    text
}

fn status_fields(endpoint: &str, status: &pb::StatusResponse) -> String {
    let mut text = header_fields(status.header.as_ref());
    let mut field = |name: &str, value: String| _ = writeln!(text, "\"{name}\" : {value}");
    field("Version", quote(status.version.as_bytes()));
    field("DBSize", status.db_size.to_string());
    field("Leader", status.leader.to_string());
    field("IsLearner", status.is_learner.to_string());
    field("RaftIndex", status.raft_index.to_string());
    field("RaftTerm", status.raft_term.to_string());
    field("RaftAppliedIndex", status.raft_applied_index.to_string());
    field("Errors", format!("[{}]", status.errors.join(" ")));
    field("Endpoint", quote(endpoint.as_bytes()));
    text.push('\n');
    text
}

/// Bytes as a Go string literal.
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\x07' => text.push_str("\\a"),
                '\x08' => text.push_str("\\b"),
                '\x0b' => text.push_str("\\v"),
                '\x0c' => text.push_str("\\f"),
                '\n' | '\r' | '\t' | '\\' | '"' => text.extend(char.escape_default()),
                '\'' => text.push('\''),
                _ if char.is_ascii_control() => _ = write!(text, "\\x{:02x}", u32::from(char)),
                // What Rust would escape by number Go escapes too; only the notation differs.
                _ if char.escape_debug().len() > 1 => match u32::from(char) {
                    number @ 0..=0xffff => _ = write!(text, "\\u{number:04x}"),
                    number => _ = write!(text, "\\U{number:08x}"),
                },
                _ => text.push(char),
            }
        }
        for byte in chunk.invalid() {
            _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.push('"');
    text
}

/// A size as etcdctl rounds it: decimal units, one digit below ten.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut scaled = bytes.max(0) as f64;
    let mut unit = 0;
    while scaled >= 1000.0 {
        scaled /= 1000.0;
        unit += 1;
    }
    let rounded = (scaled * 10.0 + 0.5).floor() / 10.0;
    let digits = usize::from(unit > 0 && rounded < 10.0);
    format!("{rounded:.digits$} {}", UNITS[unit])
}

/// Rows for people: each column as wide as its widest cell.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A boxed table as etcdctl draws it: titles centred, cells to the right. (No table library centres as it does.)
pub(super) fn table<const N: usize>(titles: impl AsRef<[&'static str]>, rows: &[[String; N]]) -> String {
    let titles = titles.as_ref();
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..N)
        .map(|column| rows.iter().map(|row| width(&row[column])).chain([width(titles[column])]).max().unwrap_or(0))
        .collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let dashes: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", dashes.join(middle))
    };
    let row = |cells: Vec<String>| format!("│ {} │\n", cells.join(" │ "));
    let title = |(title, width): (&&str, &usize)| {
        let left = (width - title.chars().count()) / 2;
        format!("{:left$}{title:<rest$}", "", rest = width - left)
    };
    let mut text = rule("┌", "┬", "┐");
    text += &row(titles.iter().zip(&widths).map(title).collect());
    text += &rule("├", "┼", "┤");
    for cells in rows {
        text += &row(cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect());
    }
    text + &rule("└", "┴", "┘")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_quoted_as_go_does() {
        for (bytes, quoted) in [
            (&b"plain 'text'"[..], r#""plain 'text'""#),
            (b"a\"b\\c\n\r\t\x07\x08\x0b\x0c", r#""a\"b\\c\n\r\t\a\b\v\f""#),
            (b"\x00\x01\x7f\xff", r#""\x00\x01\x7f\xff""#),
            ("é€😀".as_bytes(), "\"é€😀\""),
            ("\u{a0}\u{200b}\u{85}".as_bytes(), r#""\u00a0\u200b\u0085""#),
            ("\u{e0001}".as_bytes(), r#""\U000e0001""#),
            (b"\xe2\x82x", r#""\xe2\x82x""#),
        ] {
            assert_eq!(quote(bytes), quoted);
        }
    }

    #[test]
    fn sizes_are_rounded_as_etcdctl_does() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (20480, "20 kB"),
            (24576, "25 kB"),
            (2_140_000, "2.1 MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn titles_are_centred_and_cells_stand_right() {
        let text = table(["ID", "STATUS"], &[["abcde".to_owned(), "x".to_owned()]]);
        let expected =
            "┌───────┬────────┐\n│  ID   │ STATUS │\n├───────┼────────┤\n│ abcde │      x │\n└───────┴────────┘\n";
        assert_eq!(text, expected);
    }
}

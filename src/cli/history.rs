//! `history`: what a key was before, as far as it can still be read.
//!
//! The changes come from a watch that begins at the oldest revision there is, and the value before them, if compaction left
//! one, from a read at that revision. A watch has no end, so it is asked how far it is until it has told everything up to
//! a read that came first: also of a key that is not there, nothing is missing then.

use super::exit::{ERROR, Failure, SERVER};
use super::output::{self, Format, plural};
use super::{Global, block_on};
use crate::client::{Client, End, Told};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use bytes::Bytes;
use mvccpb::event::EventType;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

/// How long to wait before asking the watch again how far it is.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// So much of a value is shown.
const SHOWN: usize = 72;

/// `quorate history`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate history app/color\n  quorate history app/color --limit 3 -w json\n\n\
To read one of them whole: quorate get app/color --rev REVISION")]
pub struct Args {
    /// The key.
    key: OsString,
    /// Only the newest so many; 0: all.
    #[arg(long, default_value_t = 0)]
    limit: usize,
}

/// One state of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    kv: mvccpb::KeyValue,
    deleted: bool,
}

impl State {
    fn what(&self) -> &'static str {
        match (self.deleted, self.kv.version) {
            (true, _) => "deleted",
            (false, 1) => "created",
            (false, _) => "changed",
        }
    }
}

/// Runs `quorate history`.
pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    if let Format::Table | Format::Fields = global.write_out {
        return Err(Failure::new(SERVER, "a history has no such form").fix("use -w simple or json"));
    }
    let client = global.client()?;
    let key = Bytes::from(args.key.into_vec());
    let (mut states, oldest) = block_on(read(&client, &key, global.command_timeout))??;
    states.reverse();
    if args.limit > 0 {
        states.truncate(args.limit);
    }
    match global.write_out {
        Format::Json => output::print(json(&states))?,
        _ => output::print(table(&states, global.hex))?,
    }
    if oldest > 1 {
        anstream::eprintln!("what was before revision {oldest} is compacted");
    }
    Ok(())
}

/// All states of a key that can be read, oldest first, and the oldest revision that can be read.
async fn read(client: &Client, key: &Bytes, patience: Duration) -> Result<(Vec<State>, i64), Failure> {
    let now = client.range(pb::RangeRequest { key: key.clone(), ..Default::default() }).await?;
    let newest = now.header.map_or(0, |header| header.revision);
    let mut oldest = 1;
    let mut states = Vec::new();
    let mut watch = client.watch(pb::WatchCreateRequest { key: key.clone(), start_revision: 1, ..Default::default() });
    while watch.position() <= newest {
        match told(&mut watch, patience).await? {
            Told::Open | Told::Lost(_) => {}
            Told::News(news) => states.extend(news.events.into_iter().filter_map(state)),
            Told::End(_, End::Compacted(revision)) => {
                // What it was then, and what came after.
                let base = pb::RangeRequest { key: key.clone(), revision, ..Default::default() };
                states = client.range(base).await?.kvs.into_iter().map(|kv| State { kv, deleted: false }).collect();
                oldest = revision;
                let start_revision = revision + 1;
                watch = client.watch(pb::WatchCreateRequest { key: key.clone(), start_revision, ..Default::default() });
            }
            Told::End(_, End::Canceled(why)) => {
                return Err(Failure::new(ERROR, format!("the server ended the watch: {why}")));
            }
        }
    }
    Ok((states, oldest))
}

fn state(event: mvccpb::Event) -> Option<State> {
    let deleted = event.r#type() == EventType::Delete;
    event.kv.map(|kv| State { kv, deleted })
}

/// The next thing that the watch is told, which is asked for as long as nothing comes.
async fn told(watch: &mut crate::client::Watch, patience: Duration) -> Result<Told, Failure> {
    let asked = async {
        loop {
            if let Ok(told) = tokio::time::timeout(ASK_EVERY, watch.next()).await {
                return told;
            }
            watch.ask_progress().await;
        }
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(told) => Ok(told?),
        Err(_) => Err(Failure::new(ERROR, format!("the server did not tell its history within {patience:?}"))
            .fix("give it more time: --command-timeout 30s")),
    }
}

fn table(states: &[State], hex: bool) -> String {
    let mut text = String::new();
    if states.is_empty() {
        return "no revision of it can be read\n".to_owned();
    }
    _ = writeln!(text, "REVISION  VERSION  WHAT     VALUE");
    for state in states {
        let (revision, what) = (state.kv.mod_revision, state.what());
        let (version, value) = match state.deleted {
            true => ("-".to_owned(), String::new()),
            false => (state.kv.version.to_string(), shown(&state.kv.value, hex)),
        };
        let line = format!("{revision:>8}  {version:>7}  {what}  {value}");
        _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A value on one line, or the beginning of it.
fn shown(value: &[u8], hex: bool) -> String {
    let text = match std::str::from_utf8(value) {
        Ok(text) if !hex => text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"),
        _ => value.iter().map(|byte| format!("\\x{byte:02x}")).collect(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… ({})", &text[..end], plural(value.len() as u64, "byte")),
        None => text,
    }
}

fn json(states: &[State]) -> String {
    let one = |state: &State| {
        let mut object = serde_json::json!({ "what": state.what(), "kv": super::json::key_value(&state.kv) });
        object["revision"] = state.kv.mod_revision.into();
        object
    };
    super::json::text(&states.iter().map(one).collect()) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_a_line_for_each_state() {
        let kv = |mod_revision, version, value: &str| mvccpb::KeyValue {
            mod_revision,
            version,
            value: value.to_owned().into(),
            ..Default::default()
        };
        let states = [
            State { kv: kv(9, 0, ""), deleted: true },
            State { kv: kv(7, 2, "two\nlines 'and' \"quotes\""), deleted: false },
            State { kv: kv(5, 1, &"x".repeat(100)), deleted: false },
        ];
        let expected = format!(
            "REVISION  VERSION  WHAT     VALUE\n       9        -  deleted\n       7        2  changed  two\\nlines 'and' \
             \"quotes\"\n       5        1  created  {}… (100 bytes)\n",
            "x".repeat(SHOWN)
        );
        assert_eq!(table(&states, false), expected);
        assert_eq!(shown(b"\xffa", false), "\\xff\\x61");
    }
}

//! `export` and `import`: keys and values as lines of JSON.
//!
//! ```text
//! {"key":"app/color","value":"red"}
//! {"key":"app/icon","value_base64":"iVBORw0KGgo="}
//! ```
//!
//! What is text is text, what is not is base64 under a name that says so. An export is one snapshot. An import reads all of
//! its input before it changes anything, writes only what is different, and says how far it came if it can't go on; doing
//! it again does the rest.
//!
//! Left out: leases (an id means nothing elsewhere), revisions and versions, and deleting what the input does not have.

use super::exit::{ERROR, Failure, INVALID_INPUT};
use super::output::{self, plural};
use super::{Global, block_on};
use crate::client::{Client, prefix_range, transactions};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pb::request_op::Request;
use pb::response_op::Response;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;

/// So many bad lines are named.
const NAMED: usize = 5;

/// `quorate export`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate export > all.jsonl\n  quorate export app/ --rev 4000 > app.jsonl")]
pub struct ExportArgs {
    /// What the keys start with.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: OsString,
    /// As they were at this revision; 0: now.
    #[arg(long, default_value_t = 0)]
    rev: i64,
}

/// `quorate import`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate import all.jsonl --dry-run\n  quorate import all.jsonl\n  \
    quorate export --endpoints old:2379 | quorate import - --endpoints new:2379")]
pub struct ImportArgs {
    /// The file; `-` is stdin.
    file: OsString,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

/// One line.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// Bytes as text, if that is what they are, else in base64.
fn written(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

fn read_bytes(name: &str, text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(text)) => STANDARD.decode(text).map_err(|e| format!("{name}_base64: {e}")),
        (None, None) => Err(format!("neither {name} nor {name}_base64")),
        (Some(_), Some(_)) => Err(format!("{name} and {name}_base64: one of them")),
    }
}

impl Line {
    fn of(kv: &mvccpb::KeyValue) -> Line {
        let ((key, key_base64), (value, value_base64)) = (written(&kv.key), written(&kv.value));
        Line { key, key_base64, value, value_base64 }
    }

    fn pair(text: &str) -> Result<(Bytes, Bytes), String> {
        let line: Line =
            serde_json::from_str(text).map_err(|e| e.to_string().replace(" at line 1 column ", " at column "))?;
        let key = read_bytes("key", line.key, line.key_base64)?;
        if key.is_empty() {
            return Err("a key is not empty".to_owned());
        }
        Ok((key.into(), read_bytes("value", line.value, line.value_base64)?.into()))
    }
}

/// Runs `quorate export`.
pub fn export(global: &Global, args: ExportArgs) -> Result<(), Failure> {
    let client = global.client()?;
    let (key, range_end) = prefix_range(&args.prefix.into_vec());
    let mut pages = client.pages(pb::RangeRequest { key, range_end, revision: args.rev, ..Default::default() });
    let (mut keys, mut leased) = (0, 0);
    block_on(async {
        while let Some(page) = pages.next().await? {
            let mut out = String::new();
            for kv in page {
                keys += 1;
                leased += u64::from(kv.lease != 0);
                out += &serde_json::to_string(&Line::of(&kv)).map_err(std::io::Error::from)?;
                out.push('\n');
            }
            output::write(out.as_bytes())?;
        }
        Ok::<_, Failure>(())
    })??;
    anstream::eprintln!("exported {} as of revision {}", plural(keys, "key"), pages.revision());
    if leased > 0 {
        anstream::eprintln!("{} hung on leases; they will not where they are imported", plural(leased, "key"));
    }
    Ok(())
}

/// Reads all lines, or says which can't be read.
fn parse(text: &str) -> Result<Vec<(Bytes, Bytes)>, Failure> {
    let mut pairs = Vec::new();
    let mut bad = Vec::new();
    let mut seen: BTreeMap<Bytes, usize> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        match Line::pair(line) {
            Ok((key, value)) => match seen.insert(key.clone(), number) {
                Some(first) => bad.push(format!("line {number}: the key is there already, in line {first}")),
                None => pairs.push((key, value)),
            },
            Err(why) => bad.push(format!("line {number}: {why}")),
        }
    }
    if bad.is_empty() {
        return Ok(pairs);
    }
    let more = bad.len().saturating_sub(NAMED);
    bad.truncate(NAMED);
    if more > 0 {
        bad.push(format!("and {} more", plural(more as u64, "line")));
    }
    Err(Failure::new(INVALID_INPUT, format!("nothing was imported:\n  {}", bad.join("\n  ")))
        .fix(r#"a line is {"key":"...","value":"..."}, or with key_base64, value_base64"#))
}

/// What became of the lines so far.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    new: u64,
    changed: u64,
    same: u64,
}

/// Runs `quorate import`.
pub fn import(global: &Global, args: &ImportArgs) -> Result<(), Failure> {
    let client = global.client()?;
    let mut bytes = Vec::new();
    if args.file == "-" {
        std::io::stdin().read_to_end(&mut bytes)?;
    } else {
        let path = args.file.display();
        bytes = std::fs::read(&args.file).map_err(|e| Failure::new(INVALID_INPUT, format!("{path}: {e}")))?;
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::new(INVALID_INPUT, "nothing was imported: the input is no UTF-8, so it is no JSON"))?;
    let pairs = parse(&text)?;
    let count = pairs.len() as u64;
    let mut done = Done::default();
    let result = block_on(write(&client, pairs, args.dry_run, &mut done))?;
    let Done { new, changed, same } = done;
    if let Err(e) = result {
        let text = format!("imported {} of {} and then: {e}", new + changed + same, plural(count, "key"));
        return Err(Failure::new(ERROR, text).fix("import it again: what is done already is left alone"));
    }
    let would = if args.dry_run { "would import" } else { "imported" };
    output::print(format!("{would} {}: {new} new, {changed} changed, {same} the same already\n", plural(count, "key")))
}

/// Writes what is different, in transactions.
async fn write(
    client: &Client,
    pairs: Vec<(Bytes, Bytes)>,
    dry_run: bool,
    done: &mut Done,
) -> Result<(), crate::client::Error> {
    let put = |(key, value)| Request::RequestPut(pb::PutRequest { key, value, ..Default::default() });
    let ops = pairs.into_iter().map(|pair| pb::RequestOp { request: Some(put(pair)) }).collect();
    for mut puts in transactions(ops) {
        let get = |op: &pb::RequestOp| {
            let key = target(op).map(|(key, _)| key.clone()).unwrap_or_default();
            pb::RequestOp { request: Some(Request::RequestRange(pb::RangeRequest { key, ..Default::default() })) }
        };
        let gets = puts.iter().map(get).collect();
        let there = client.txn(pb::TxnRequest { success: gets, ..Default::default() }).await?;
        let mut part = Done::default();
        let mut there = there.responses.iter();
        puts.retain(|op| {
            let old = there.next().and_then(found).map(|kv| &kv.value);
            let is_same = old.is_some() && old == target(op).map(|(_, value)| value);
            *(match old {
                None => &mut part.new,
                Some(_) if is_same => &mut part.same,
                Some(_) => &mut part.changed,
            }) += 1;
            !is_same
        });
        if !dry_run && !puts.is_empty() {
            client.txn(pb::TxnRequest { success: puts, ..Default::default() }).await?;
        }
        done.new += part.new;
        done.changed += part.changed;
        done.same += part.same;
    }
    Ok(())
}

/// Key and value of a put.
fn target(op: &pb::RequestOp) -> Option<(&Bytes, &Bytes)> {
    match &op.request {
        Some(Request::RequestPut(put)) => Some((&put.key, &put.value)),
        _ => None,
    }
}

/// The pair that a read found.
fn found(op: &pb::ResponseOp) -> Option<&mvccpb::KeyValue> {
    match &op.response {
        Some(Response::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exported_is_imported_byte_for_byte() {
        for (key, value) in [(&b"a"[..], &b"text \"quoted\" \n \xc3\xa9"[..]), (b"\xff\x00", b"\xfe"), (b"k", b"")] {
            let kv = mvccpb::KeyValue {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
                ..Default::default()
            };
            let text = serde_json::to_string(&Line::of(&kv)).unwrap();
            assert_eq!(Line::pair(&text).unwrap(), (kv.key, kv.value), "{text}");
        }
    }

    #[test]
    fn bad_lines_are_named_with_their_numbers_and_nothing_else_is_read() {
        let text = "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key\":\"b\"}\n{\"key\":\"a\",\"value\":\"2\"}\nnonsense\n\
            {\"key\":\"c\",\"value\":\"1\",\"lease\":7}\n{\"key\":\"d\",\"value_base64\":\"?\"}\n{\"key\":\"\",\"value\":\"\"}\n";
        let error = parse(text).unwrap_err().to_string();
        for why in [
            "nothing was imported",
            "line 3: neither value nor value_base64",
            "line 4: the key is there already, in line 1",
            "line 5: expected",
            "line 6: unknown field `lease`",
            "line 7: value_base64:",
            "and 1 line more",
        ] {
            assert!(error.contains(why), "{why}: {error}");
        }
        assert_eq!(parse("{\"key\":\"a\",\"value\":\"1\"}\n").unwrap(), [("a".into(), "1".into())]);
    }
}

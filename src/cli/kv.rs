//! `put`, `get` and `del`: etcdctl's arguments to requests, and back to its output.
//!
//! The arguments are parsed into requests by pure functions, which `txn` uses for its lines as well. Keys and values are
//! bytes: whatever the shell passes is stored, UTF-8 or not.
//!
//! Left out: `del` without `--range` warns in etcdctl 3.5; here both delete the range.

use super::exit::{BAD_ARGS, Failure, SERVER};
use super::lease::lease_id;
use super::output::{Format, Printer};
use super::{Global, block_on};
use crate::client::prefix_range;
use crate::proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::range_request::{SortOrder, SortTarget};
use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _};
use std::os::unix::ffi::OsStringExt;

/// `quorate put`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate put hello world\n  quorate put page - < page.html\n  quorate put -- -key -value"
)]
pub struct PutArgs {
    /// The key.
    key: OsString,
    /// The value; none, or `-`, reads stdin.
    value: Option<OsString>,
    /// Lease to attach the key to (its id in hexadecimal).
    #[arg(long, value_parser = lease_id, default_value = "0")]
    lease: i64,
    /// Print the pair as it was before.
    #[arg(long)]
    prev_kv: bool,
    /// Keep the value the key has.
    #[arg(long)]
    ignore_value: bool,
    /// Keep the lease the key has.
    #[arg(long)]
    ignore_lease: bool,
}

/// `quorate get`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate get hello\n  quorate get --prefix app/ --keys-only\n  quorate get hello --rev 7 -w json"
)]
pub struct GetArgs {
    /// The key.
    key: OsString,
    /// Read all keys from KEY up to this one, which is not read.
    range_end: Option<OsString>,
    /// Read all keys that start with KEY.
    #[arg(long)]
    prefix: bool,
    /// Read all keys from KEY on.
    #[arg(long)]
    from_key: bool,
    /// Read at most so many; 0: all.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    limit: i64,
    /// Read as of this revision; 0: now.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    rev: i64,
    /// ASCEND or DESCEND.
    #[arg(long, default_value = "", hide_default_value = true)]
    order: String,
    /// CREATE, KEY, MODIFY, VALUE or VERSION.
    #[arg(long, default_value = "", hide_default_value = true)]
    sort_by: String,
    /// Print keys without values.
    #[arg(long)]
    keys_only: bool,
    /// Print only how many there are (with -w fields).
    #[arg(long)]
    count_only: bool,
    /// Print values without keys (with -w simple).
    #[arg(long)]
    print_value_only: bool,
    /// l: linearizable, the newest state. s: serializable, what the asked member has, even without a leader.
    #[arg(long, default_value = "l")]
    consistency: String,
}

/// `quorate del`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate del hello\n  quorate del --prefix app/ --prev-kv")]
pub struct DelArgs {
    /// The key.
    key: OsString,
    /// Delete all keys from KEY up to this one, which stays.
    range_end: Option<OsString>,
    /// Delete all keys that start with KEY.
    #[arg(long)]
    prefix: bool,
    /// Delete all keys from KEY on.
    #[arg(long)]
    from_key: bool,
    /// A range is meant (accepted for etcdctl's sake).
    #[arg(long)]
    range: bool,
    /// Print what was deleted.
    #[arg(long)]
    prev_kv: bool,
}

fn bad_args(text: &str) -> Failure {
    Failure::new(BAD_ARGS, text)
}

/// Key and range end of a `get` or `del`.
fn range(key: OsString, end: Option<OsString>, prefix: bool, from_key: bool) -> Result<(Bytes, Bytes), Failure> {
    if prefix && from_key {
        return Err(bad_args("--prefix and --from-key exclude each other: choose one"));
    }
    if (prefix || from_key) && end.is_some() {
        return Err(bad_args("--prefix and --from-key say where the range ends: leave RANGE_END out"));
    }
    let key = Bytes::from(key.into_vec());
    if !(prefix || from_key) {
        return Ok((key, end.map(|end| end.into_vec().into()).unwrap_or_default()));
    }
    let (key, end) = prefix_range(&key);
    Ok((key, if prefix { end } else { Bytes::from_static(&[0]) }))
}

impl PutArgs {
    /// The request; `stdin` is read if the value is to come from there.
    pub fn request(self, stdin: impl FnOnce() -> Result<Vec<u8>, Failure>) -> Result<pb::PutRequest, Failure> {
        if self.ignore_value && self.value.is_some() {
            return Err(bad_args("--ignore-value keeps the value: leave VALUE out"));
        }
        let value = match self.value {
            None if self.ignore_value => Vec::new(),
            Some(value) if value != "-" => value.into_vec(),
            Some(_) | None => stdin()?,
        };
        Ok(pb::PutRequest {
            key: self.key.into_vec().into(),
            value: value.into(),
            lease: self.lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        })
    }
}

impl GetArgs {
    /// The request.
    pub fn request(self) -> Result<pb::RangeRequest, Failure> {
        if self.keys_only && self.count_only {
            return Err(bad_args("--keys-only and --count-only exclude each other: choose one"));
        }
        let order = match self.order.to_uppercase().as_str() {
            "" => SortOrder::None,
            "ASCEND" => SortOrder::Ascend,
            "DESCEND" => SortOrder::Descend,
            _ => return Err(Failure::new(SERVER, format!("--order {:?}: ASCEND or DESCEND", self.order))),
        };
        let target = match self.sort_by.to_uppercase().as_str() {
            "" | "KEY" => SortTarget::Key,
            "VERSION" => SortTarget::Version,
            "CREATE" => SortTarget::Create,
            "MODIFY" => SortTarget::Mod,
            "VALUE" => SortTarget::Value,
            _ => {
                let text = format!("--sort-by {:?}: CREATE, KEY, MODIFY, VALUE or VERSION", self.sort_by);
                return Err(Failure::new(SERVER, text));
            }
        };
        let serializable = match self.consistency.as_str() {
            "l" => false,
            "s" => true,
            other => {
                return Err(Failure::new(
                    SERVER,
                    format!("--consistency {other:?}: l (linearizable) or s (serializable)"),
                ));
            }
        };
        let (key, range_end) = range(self.key, self.range_end, self.prefix, self.from_key)?;
        Ok(pb::RangeRequest {
            key,
            range_end,
            limit: self.limit,
            revision: self.rev,
            sort_order: order.into(),
            sort_target: target.into(),
            serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            ..Default::default()
        })
    }
}

impl DelArgs {
    /// The request.
    pub fn request(self) -> Result<pb::DeleteRangeRequest, Failure> {
        let (key, range_end) = range(self.key, self.range_end, self.prefix, self.from_key)?;
        Ok(pb::DeleteRangeRequest { key, range_end, prev_kv: self.prev_kv })
    }
}

/// Runs `quorate put`.
pub fn put(global: &Global, args: PutArgs) -> Result<(), Failure> {
    let printer = Printer::without_table(global)?;
    let client = global.client()?;
    let request = args.request(|| {
        let mut value = Vec::new();
        if std::io::stdin().is_terminal() {
            anstream::eprintln!("reading the value from the terminal, to its end (Ctrl-D)");
        }
        std::io::stdin().read_to_end(&mut value)?;
        Ok(value)
    })?;
    let response = block_on(client.put(request))??;
    printer.put(&response)
}

/// Runs `quorate get`.
pub fn get(global: &Global, args: GetArgs) -> Result<(), Failure> {
    let print_value_only = args.print_value_only;
    if args.count_only && global.write_out != Format::Fields {
        return Err(bad_args("--count-only prints with -w fields only").fix("add -w fields"));
    }
    if print_value_only && global.write_out != Format::Simple {
        return Err(bad_args("--print-value-only prints with -w simple only").fix("leave -w out"));
    }
    let printer = Printer::without_table(global)?;
    let client = global.client()?;
    let response = block_on(client.range(args.request()?))??;
    printer.range(&response, print_value_only)
}

/// Runs `quorate del`.
pub fn del(global: &Global, args: DelArgs) -> Result<(), Failure> {
    let printer = Printer::without_table(global)?;
    let client = global.client()?;
    let response = block_on(client.delete_range(args.request()?))??;
    printer.delete_range(&response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Get {
        #[command(flatten)]
        args: GetArgs,
    }

    fn get(line: &[&str]) -> Result<pb::RangeRequest, Failure> {
        Get::try_parse_from([&["get"], line].concat()).unwrap().args.request()
    }

    #[test]
    fn ranges_are_etcds() {
        let range = |line: &[&str]| get(line).map(|r| (r.key, r.range_end)).unwrap();
        let pair = |a: &'static [u8], b: &'static [u8]| (Bytes::from_static(a), Bytes::from_static(b));
        assert_eq!(range(&["a"]), pair(b"a", b""));
        assert_eq!(range(&["a", "c"]), pair(b"a", b"c"));
        assert_eq!(range(&["a", "--prefix"]), pair(b"a", b"b"));
        assert_eq!(range(&["a", "--from-key"]), pair(b"a", b"\0"));
        assert_eq!(range(&["", "--prefix"]), pair(b"\0", b"\0"));
        assert_eq!(range(&["", "--from-key"]), pair(b"\0", b"\0"));
        assert_eq!(range(&[""]), pair(b"", b""));
        assert!(get(&["a", "--prefix", "--from-key"]).is_err());
        assert!(get(&["a", "b", "--prefix"]).is_err());
    }

    #[test]
    fn flags_reach_the_request() {
        let request =
            get(&["a", "--limit=2", "--rev=7", "--order=descend", "--sort-by=modify", "--consistency=s"]).unwrap();
        assert_eq!((request.limit, request.revision, request.serializable), (2, 7, true));
        assert_eq!((request.sort_order(), request.sort_target()), (SortOrder::Descend, SortTarget::Mod));
        for bad in ["--order=up", "--sort-by=size", "--consistency=x"] {
            assert!(get(&["a", bad]).is_err(), "{bad}");
        }
    }
}

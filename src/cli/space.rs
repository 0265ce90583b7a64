//! `space`: which prefixes own the space, and what of it a compaction would give back.
//!
//! Bytes are those of keys and values and a little for each version, as the quota counts them, not the disk's.

use super::bench::thousands;
use super::exit::{Failure, SERVER};
use super::output::{self, Format, columns, quote, size};
use super::{Global, block_on, json};
use crate::proto::quorate as own;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// `quorate space`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate space\n  quorate space /registry/ --depth 3 --top 5\n\n\
HISTORY is what old versions hold: a compaction gives it back (quorate compact REVISION).")]
pub struct Args {
    /// Only keys that start with this.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: OsString,
    /// Keys are put together up to so many parts of their names.
    #[arg(long, default_value_t = 2)]
    depth: u32,
    /// The largest so many.
    #[arg(long, default_value_t = 20)]
    top: u32,
    /// What stands between the parts of a name: one byte.
    #[arg(long, default_value = "/")]
    delimiter: String,
}

/// Runs `quorate space`.
pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    if let Format::Table | Format::Fields = global.write_out {
        return Err(Failure::new(SERVER, "space has no such form").fix("use -w simple or json"));
    }
    let client = global.client()?;
    let request = own::SpaceRequest {
        prefix: args.prefix.into_vec().into(),
        delimiter: args.delimiter.into_bytes().into(),
        depth: args.depth,
        top: args.top,
    };
    let answer = block_on(client.space(request))??;
    output::print(match global.write_out {
        Format::Json => json::text(&as_json(&answer)) + "\n",
        _ => text(&answer),
    })
}

fn bytes(bytes: u64) -> String {
    size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn text(answer: &own::SpaceResponse) -> String {
    let quota = match u64::try_from(answer.quota_bytes) {
        Ok(quota) if quota > 0 => {
            format!(
                "quota {} · held {} ({} %)",
                bytes(quota),
                bytes(answer.held_bytes),
                answer.held_bytes * 100 / quota
            )
        }
        _ => format!("no quota · held {}", bytes(answer.held_bytes)),
    };
    let history = answer.held_bytes.saturating_sub(answer.live_bytes);
    let head = format!("{quota} · live {} · history {}\n", bytes(answer.live_bytes), bytes(history));
    let row = |name: String, space: &own::PrefixSpace| {
        let history = bytes(space.held_bytes.saturating_sub(space.live_bytes));
        [name, thousands(space.keys), thousands(space.versions), bytes(space.live_bytes), history]
    };
    let mut rows = vec![["PREFIX", "KEYS", "VERSIONS", "LIVE", "HISTORY"].map(str::to_owned)];
    rows.extend(answer.prefixes.iter().map(|space| row(quote(&space.prefix), space)));
    if answer.other_prefixes > 0 {
        let name = format!("{} prefixes more", thousands(answer.other_prefixes));
        rows.extend(answer.others.iter().map(|space| row(name.clone(), space)));
    }
    head + &columns(&rows)
}

fn as_json(answer: &own::SpaceResponse) -> serde_json::Value {
    let space = |space: &own::PrefixSpace| {
        serde_json::json!({
            "prefix": json::base64(&space.prefix),
            "keys": space.keys,
            "versions": space.versions,
            "live_bytes": space.live_bytes,
            "held_bytes": space.held_bytes,
        })
    };
    serde_json::json!({
        "prefixes": answer.prefixes.iter().map(space).collect::<Vec<_>>(),
        "others": answer.others.as_ref().map(space),
        "total": answer.total.as_ref().map(space),
        "other_prefixes": answer.other_prefixes,
        "quota_bytes": answer.quota_bytes,
        "held_bytes": answer.held_bytes,
        "live_bytes": answer.live_bytes,
        "db_bytes": answer.db_bytes,
        "revision": answer.revision,
        "compact_revision": answer.compact_revision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_the_rest_in_one_line() {
        let space = |prefix: &'static [u8], keys| own::PrefixSpace {
            prefix: prefix.into(),
            keys,
            versions: 2 * keys,
            live_bytes: 1000 * keys,
            held_bytes: 3000 * keys,
        };
        let answer = own::SpaceResponse {
            prefixes: vec![space(b"/a/", 9)],
            others: Some(space(b"", 3)),
            other_prefixes: 2,
            quota_bytes: 100_000,
            held_bytes: 36_000,
            live_bytes: 12_000,
            ..Default::default()
        };
        let expected = "\
quota 100 kB · held 36 kB (36 %) · live 12 kB · history 24 kB
PREFIX           KEYS  VERSIONS  LIVE    HISTORY
\"/a/\"            9     18        9.0 kB  18 kB
2 prefixes more  3     6         3.0 kB  6.0 kB
";
        assert_eq!(text(&answer), expected);
    }
}

//! `watch --ls`: who watches what on which member, and how far behind. Every member serves watches of its own, so every
//! member that the member list names is asked.

use super::bench::thousands;
use super::exit::{ERROR, Failure, SERVER};
use super::member::{ask_hosts, hosts};
use super::output::{self, Format, columns, quote, size};
use super::{Global, block_on, json};
use crate::client::{self, Client};
use crate::proto::quorate as own;

type Answer = (String, Result<own::WatchersResponse, client::Error>);

/// Runs `quorate watch --ls`.
pub fn run(global: &Global) -> Result<(), Failure> {
    if let Format::Table | Format::Fields = global.write_out {
        return Err(Failure::new(SERVER, "watchers have no such form").fix("use -w simple or json"));
    }
    let client = global.client()?;
    let ask = |client: Client, endpoint: String| async move {
        let answer = client.watchers(&endpoint).await;
        (endpoint, answer)
    };
    let answers: Vec<Answer> = block_on(async {
        let hosts = hosts(&client, true).await?;
        Ok::<_, Failure>(ask_hosts(&client, hosts, ask, |(_, answer)| answer.is_ok()).await)
    })??;
    let mut watchers = Vec::new();
    let mut silent = 0;
    for (endpoint, answer) in answers {
        match answer {
            Ok(answer) => watchers.extend(answer.watchers.into_iter().map(|watcher| (endpoint.clone(), watcher))),
            Err(e) => {
                anstream::eprintln!("{endpoint} did not answer: {}", e.cause());
                silent += 1;
            }
        }
    }
    output::print(match global.write_out {
        Format::Json => {
            json::text(&watchers.iter().map(|(endpoint, watcher)| as_json(endpoint, watcher)).collect()) + "\n"
        }
        _ => table(&watchers),
    })?;
    match silent {
        0 => Ok(()),
        _ => {
            Err(Failure::new(ERROR, "who watches there is not known").fix("see what the cluster lacks: quorate status"))
        }
    }
}

/// What is watched, as a range is written on a command line.
fn range(watcher: &own::WatcherStatus) -> String {
    let key = quote(&watcher.key);
    match &watcher.range_end[..] {
        [] => key,
        [0] if watcher.key[..] == [0] => "all keys".to_owned(),
        [0] => format!("{key} --from-key"),
        end if end == client::prefix_range(&watcher.key).1 => format!("{key} --prefix"),
        end => format!("{key} {}", quote(end)),
    }
}

fn behind(watcher: &own::WatcherStatus) -> String {
    match watcher.lag_revisions {
        ..=0 => "-".to_owned(),
        lag => format!("{} rev, {} ms", thousands(lag.unsigned_abs()), thousands(watcher.lag_ms)),
    }
}

fn table(watchers: &[(String, own::WatcherStatus)]) -> String {
    if watchers.is_empty() {
        return "nobody watches\n".to_owned();
    }
    let head = ["MEMBER", "CLIENT", "WATCHES", "NEXT REV", "BEHIND", "QUEUED", "TOLD"].map(str::to_owned);
    let row = |(endpoint, watcher): &(String, own::WatcherStatus)| {
        [
            endpoint.clone(),
            watcher.client.clone(),
            range(watcher),
            watcher.next_revision.to_string(),
            behind(watcher),
            size(i64::try_from(watcher.queued_bytes).unwrap_or(i64::MAX)),
            thousands(watcher.delivered_events),
        ]
    };
    let rows: Vec<[String; 7]> = [head].into_iter().chain(watchers.iter().map(row)).collect();
    columns(&rows)
}

fn as_json(endpoint: &str, watcher: &own::WatcherStatus) -> serde_json::Value {
    serde_json::json!({
        "endpoint": endpoint,
        "client": watcher.client,
        "stream": watcher.stream,
        "watch_id": watcher.watch_id,
        "key": json::base64(&watcher.key),
        "range_end": json::base64(&watcher.range_end),
        "next_revision": watcher.next_revision,
        "following": watcher.following,
        "lag_revisions": watcher.lag_revisions,
        "lag_ms": watcher.lag_ms,
        "queued_bytes": watcher.queued_bytes,
        "delivered_events": watcher.delivered_events,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_stand_in_columns() {
        let watcher = |key: &'static [u8], end: &'static [u8], lag_revisions| own::WatcherStatus {
            client: "10.0.0.9:4001".into(),
            key: key.into(),
            range_end: end.into(),
            next_revision: 8,
            lag_revisions,
            lag_ms: 12,
            queued_bytes: 2000,
            delivered_events: 1234,
            ..Default::default()
        };
        let rows = [watcher(b"a/", b"a0", 0), watcher(b"k", b"", 7)].map(|watcher| ("n1:2379".to_owned(), watcher));
        let expected = "\
MEMBER   CLIENT         WATCHES        NEXT REV  BEHIND        QUEUED  TOLD
n1:2379  10.0.0.9:4001  \"a/\" --prefix  8         -             2.0 kB  1 234
n1:2379  10.0.0.9:4001  \"k\"            8         7 rev, 12 ms  2.0 kB  1 234
";
        assert_eq!(table(&rows), expected);
        let ranges = [(&b"\0"[..], &b"\0"[..]), (b"a", b"\0"), (b"a", b"c")];
        let ranges = ranges.map(|(key, end)| range(&watcher(key, end, 0)));
        assert_eq!(ranges, ["all keys", "\"a\" --from-key", "\"a\" \"c\""]);
    }
}

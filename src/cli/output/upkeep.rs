//! How answers about leases, alarms, hashes and watches are printed.

use super::{Format, Printer, header_fields, json, kv_fields, line, lines, quote, table, write};
use crate::cli::exit::Failure;
use crate::proto::etcdserverpb as pb;
use std::fmt::Write as _;

impl Printer {
    /// Prints the grant of a lease.
    pub fn lease_grant(self, response: &pb::LeaseGrantResponse) -> Result<(), Failure> {
        let text = match self.format {
            Format::Simple | Format::Table => {
                format!("lease {:016x} granted with TTL({}s)\n", response.id, response.ttl)
            }
            Format::Json => lines([json::text(&json::lease_grant(response))]),
            Format::Fields => lease_fields(response.header.as_ref(), response.id, response.ttl),
        };
        write(text.as_bytes())
    }

    /// Prints that a lease was revoked.
    pub fn lease_revoke(self, id: i64, response: &pb::LeaseRevokeResponse) -> Result<(), Failure> {
        let text = match self.format {
            Format::Simple | Format::Table => format!("lease {id:016x} revoked\n"),
            Format::Json => lines([json::text(&json::lease_revoke(response))]),
            Format::Fields => header_fields(response.header.as_ref()),
        };
        write(text.as_bytes())
    }

    /// Prints how long a lease has left, and (with `keys`) what hangs on it.
    pub fn lease_time_to_live(self, response: &pb::LeaseTimeToLiveResponse, keys: bool) -> Result<(), Failure> {
        let mut out = Vec::new();
        match self.format {
            Format::Simple | Format::Table if response.granted_ttl == 0 && response.ttl == -1 => {
                line(&mut out, format!("lease {:016x} already expired", response.id));
            }
            Format::Simple | Format::Table => {
                let (id, granted, left) = (response.id, response.granted_ttl, response.ttl);
                out.extend(format!("lease {id:016x} granted with TTL({granted}s), remaining({left}s)").as_bytes());
                if keys {
                    out.extend(b", attached keys([");
                    out.extend(response.keys.join(&b' '));
                    out.extend(b"])");
                }
                out.push(b'\n');
            }
            Format::Json => line(&mut out, json::text(&json::lease_time_to_live(response))),
            Format::Fields => {
                let mut text = lease_fields(response.header.as_ref(), response.id, response.ttl);
                _ = writeln!(text, "\"GrantedTTL\" : {}", response.granted_ttl);
                response.keys.iter().for_each(|key| _ = writeln!(text, "\"Key\" : {}", quote(key)));
                out = text.into();
            }
        }
        write(&out)
    }

    /// Prints the leases there are.
    pub fn lease_list(self, response: &pb::LeaseLeasesResponse) -> Result<(), Failure> {
        let ids = response.leases.iter().map(|lease| lease.id);
        let text = match self.format {
            Format::Simple | Format::Table => {
                let head = format!("found {} leases", response.leases.len());
                lines([head].into_iter().chain(ids.map(|id| format!("{id:016x}"))))
            }
            Format::Json => lines([json::text(&json::lease_list(response))]),
            Format::Fields => header_fields(response.header.as_ref()) + &lines(ids.map(|id| format!("\"ID\" : {id}"))),
        };
        write(text.as_bytes())
    }

    /// Prints a renewal.
    pub fn lease_renewed(self, response: &pb::LeaseKeepAliveResponse) -> Result<(), Failure> {
        let text = match self.format {
            Format::Simple | Format::Table => {
                format!("lease {:016x} keepalived with TTL({})\n", response.id, response.ttl)
            }
            Format::Json => lines([json::text(&json::lease_renewed(response))]),
            Format::Fields => lease_fields(response.header.as_ref(), response.id, response.ttl),
        };
        write(text.as_bytes())
    }

    /// Prints that a lease is not there any more: to people only, as etcdctl does.
    pub fn lease_gone(self, id: i64) -> Result<(), Failure> {
        if self.format != Format::Simple {
            return Ok(());
        }
        write(format!("lease {id:016x} expired or revoked.\n").as_bytes())
    }

    /// Prints alarms.
    pub fn alarms(self, response: &pb::AlarmResponse) -> Result<(), Failure> {
        let alarms = response.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm().as_str_name()));
        let text = match self.format {
            // The blank at the end is etcdctl's.
            Format::Simple | Format::Table => lines(alarms.map(|(id, alarm)| format!("memberID:{id} alarm:{alarm} "))),
            Format::Json => lines([json::text(&json::alarms(response))]),
            Format::Fields => {
                header_fields(response.header.as_ref())
                    + &lines(alarms.map(|(id, alarm)| format!("\"MemberID\" : {id}\n\"AlarmType\" : {alarm}\n")))
            }
        };
        write(text.as_bytes())
    }

    /// Prints the hashes of endpoints.
    pub fn hashes(self, hashes: &[(String, pb::HashKvResponse)]) -> Result<(), Failure> {
        let row = |(endpoint, answer): &(String, pb::HashKvResponse)| [endpoint.clone(), answer.hash.to_string()];
        let rows: Vec<_> = hashes.iter().map(row).collect();
        let text = match self.format {
            Format::Simple => lines(rows.iter().map(|row| row.join(", "))),
            Format::Table => table(["ENDPOINT", "HASH"], &rows),
            Format::Json => {
                let all = hashes.iter().map(|(endpoint, answer)| json::hash_kv(endpoint, answer)).collect();
                lines([json::text(&serde_json::Value::Array(all))])
            }
            Format::Fields => {
                let one = |(endpoint, answer): &(String, pb::HashKvResponse)| {
                    let (endpoint, hash) = (quote(endpoint.as_bytes()), answer.hash);
                    format!("{}\"Endpoint\" : {endpoint}\n\"Hash\" : {hash}\n\n", header_fields(answer.header.as_ref()))
                };
                hashes.iter().map(one).collect()
            }
        };
        write(text.as_bytes())
    }

    /// Prints an answer of a watch. Without events it is news of progress, or the end.
    pub fn watch(self, response: &pb::WatchResponse) -> Result<(), Failure> {
        let mut out = Vec::new();
        if response.events.is_empty() && !response.canceled {
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            line(&mut out, format!("progress notify: {revision}"));
        }
        match self.format {
            Format::Simple | Format::Table => {
                for event in &response.events {
                    line(&mut out, event.r#type().as_str_name());
                    self.simple_kvs(&mut out, event.prev_kv.as_slice());
                    self.simple_kvs(&mut out, event.kv.as_slice());
                }
            }
            Format::Json => line(&mut out, json::text(&json::watch(response))),
            Format::Fields => {
                let mut text = header_fields(response.header.as_ref());
                for event in &response.events {
                    _ = writeln!(text, "\"Type\" : {}", event.r#type().as_str_name());
                    event.prev_kv.iter().for_each(|kv| text.push_str(&kv_fields("Prev", kv)));
                    event.kv.iter().for_each(|kv| text.push_str(&kv_fields("", kv)));
                }
                out.extend(text.as_bytes());
            }
        }
        write(&out)
    }
}

fn lease_fields(header: Option<&pb::ResponseHeader>, id: i64, ttl: i64) -> String {
    header_fields(header) + &format!("\"ID\" : {id}\n\"TTL\" : {ttl}\n")
}

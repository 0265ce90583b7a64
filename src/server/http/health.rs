//! How a member is doing, for probes: `/health`, `/livez`, `/readyz`.
//!
//! `/livez` says whether a restart would help: whether this member's threads move ([`Front::alive`]) and its own state can be
//! read, whatever the others do. It never depends on a quorum, an alarm or on how slow things are, or a probe would restart
//! members that do what they can. `/readyz` says whether to send it clients: whether a linearizable read goes through, the
//! data are not known to be corrupt, and it is not stopping. `/health` is the older page, of both minds: it also fails for
//! want of space.
//!
//! Both consist of checks. `?verbose` lists them, `/livez/NAME` asks for one, `?exclude=NAME` leaves one out; names are etcd's
//! where etcd has the check. A page that fails lists all of them.
//!
//! Absent: learners, so the check for them always passes.

use super::{Front, json_page, text};
use crate::proto::etcdserverpb as pb;
use crate::server::metrics::count;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One question about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The node's thread and the disks' answer.
    Threads,
    /// Its own state can be read.
    SerializableRead,
    /// No alarm says that the data are corrupt.
    DataCorruption,
    /// The leader confirms what is read.
    LinearizableRead,
    /// The same, as etcd 3.6 calls it; only asked for by its name.
    ReadIndex,
    /// It is a full member.
    NonLearner,
    /// It is not on its way out.
    Stopping,
}

const LIVE: &[Check] = &[Check::Threads, Check::SerializableRead];
const READY: &[Check] =
    &[Check::Stopping, Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::Threads => "threads",
            Check::SerializableRead => "serializable_read",
            Check::DataCorruption => "data_corruption",
            Check::LinearizableRead => "linearizable_read",
            Check::ReadIndex => "read_index",
            Check::NonLearner => "non_learner",
            Check::Stopping => "stopping",
        }
    }

    async fn run(self, front: &Front) -> Result<(), String> {
        match self {
            Check::Threads => front.alive().await.map_err(str::to_owned),
            Check::SerializableRead => {
                let nothing = pb::RangeRequest { key: "health".into(), count_only: true, ..Default::default() };
                front.view.range(&nothing).map(drop).map_err(|error| format!("{error:?}"))
            }
            Check::DataCorruption => {
                let corrupt = front.view.alarms().iter().any(|(_, alarm)| *alarm == pb::AlarmType::Corrupt);
                if corrupt { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            // Its leader may be gone for good: whoever asks is told at once, not when the member has ended.
            Check::LinearizableRead | Check::ReadIndex if front.stopping.load(Ordering::Relaxed) => {
                Err("not asked while the member is stopping".to_owned())
            }
            Check::LinearizableRead | Check::ReadIndex => {
                front.readable().await.map(drop).map_err(|status| status.message().to_owned())
            }
            Check::NonLearner => Ok(()),
            Check::Stopping => {
                let stopping = front.stopping.load(Ordering::Relaxed);
                if stopping { Err("the member is stopping".to_owned()) } else { Ok(()) }
            }
        }
    }
}

/// `/livez`, and its checks below it.
pub fn livez_paths() -> Vec<String> {
    paths("/livez", LIVE)
}

/// `/readyz`, and its checks below it.
pub fn readyz_paths() -> Vec<String> {
    paths("/readyz", &[READY, &[Check::ReadIndex]].concat())
}

fn paths(page: &str, checks: &[Check]) -> Vec<String> {
    let checks = checks.iter().map(|check| format!("{page}/{}", check.name()));
    [page.to_owned()].into_iter().chain(checks).collect()
}

/// Answers `/livez` and below.
pub async fn livez(front: Arc<Front>, uri: Uri) -> Response {
    checked(&front, LIVE, &uri).await
}

/// Answers `/readyz` and below.
pub async fn readyz(front: Arc<Front>, uri: Uri) -> Response {
    checked(&front, READY, &uri).await
}

async fn checked(front: &Front, checks: &[Check], uri: &Uri) -> Response {
    let wanted = uri.path().split('/').nth(2);
    let parameters = || uri.query().unwrap_or_default().split('&');
    let verbose = parameters().any(|part| part == "verbose" || part.starts_with("verbose="));
    let excluded = |check: Check| parameters().any(|part| part.strip_prefix("exclude=") == Some(check.name()));
    let chosen: Vec<Check> = match wanted {
        None => checks.iter().copied().filter(|check| !excluded(*check)).collect(),
        Some(name) => checks.iter().copied().chain([Check::ReadIndex]).filter(|check| check.name() == name).collect(),
    };
    let (mut lines, mut failed) = (String::new(), false);
    for check in chosen {
        match check.run(front).await {
            Ok(()) => lines += &format!("[+]{} ok\n", check.name()),
            Err(why) => {
                failed = true;
                lines += &format!("[-]{} failed: {why}\n", check.name());
            }
        }
    }
    match failed {
        true => text(StatusCode::SERVICE_UNAVAILABLE, lines),
        false if verbose => text(StatusCode::OK, lines + "ok\n"),
        false => text(StatusCode::OK, "ok\n"),
    }
}

/// `/health`.
pub async fn health(front: Arc<Front>, uri: Uri) -> Response {
    let query = uri.query().unwrap_or_default();
    let asked = |wanted: &str| query.split('&').any(|part| part == wanted);
    let alarm = front
        .view
        .alarms()
        .into_iter()
        .map(|(_, alarm)| alarm.as_str_name())
        .find(|alarm| !asked(&format!("exclude={alarm}")));
    let trouble = match alarm {
        Some(alarm) => Some(format!("ALARM {alarm}")),
        None if asked("serializable=true") => None,
        // Asked for, because what is published may be a moment old.
        None if front.mailbox.status().await.is_none_or(|now| now.leader.is_none()) => {
            Some("RAFT NO LEADER".to_string())
        }
        None => front.readable().await.err().map(|status| format!("RANGE ERROR:{}", status.message())),
    };
    count(&front.metrics.health[usize::from(trouble.is_some())]);
    match trouble {
        None => json_page(StatusCode::OK, &json!({ "health": "true", "reason": "" })),
        Some(reason) => json_page(StatusCode::SERVICE_UNAVAILABLE, &json!({ "health": "false", "reason": reason })),
    }
}

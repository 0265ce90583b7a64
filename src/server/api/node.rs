//! Our own Node service: what etcd's Status has no room for, and what `quorate status` and `quorate dev` show.
//!
//! Local: a member tells what it sees, asks nobody, and answers without a leader too.

use super::{Front, status};
use crate::clock::unix_micros;
use crate::ids::MemberId;
use crate::node::{self, Cause, Refused, RoleName};
use crate::proto::quorate as pb;
use crate::time::Time;
use crate::watch::Standing;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub struct NodeService(pub Arc<Front>);

#[tonic::async_trait]
impl pb::node_server::Node for NodeService {
    async fn inspect(&self, _: Request<pb::InspectRequest>) -> Result<Response<pb::InspectResponse>, Status> {
        let front = &self.0;
        let told = front.mailbox.status().await.ok_or_else(|| status::of_refused(Refused::Stopping))?;
        let (sync_p50_us, sync_p99_us) = front.disk.sync_micros();
        let micros = |sync: crate::time::Duration| u64::try_from(sync.as_micros()).unwrap_or(u64::MAX);
        let (start_sync_median_us, start_sync_slowest_us) =
            front.disk.probe.map_or((0, 0), |probe| (micros(probe.median), micros(probe.slowest)));
        let now = front.clock.now();
        let leader_since_ms = told.leader.map_or(0, |_| millis(now.since(told.leader_since)));
        let epoch = Epoch { now, unix_micros: unix_micros() };
        Ok(Response::new(pb::InspectResponse {
            cluster_id: front.identity.cluster.0,
            member_id: front.identity.member.0,
            name: front.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            role: told.role.name().to_string(),
            term: told.term.0,
            leader: told.leader.map_or(0, |leader| leader.0),
            last_index: told.last.0,
            persisted_index: told.persisted.0,
            commit_index: told.commit.0,
            applied_index: told.applied.0,
            revision: front.view.revision().0,
            digest: told.digest,
            leader_since_ms,
            sync_p50_us,
            sync_p99_us,
            start_sync_median_us,
            start_sync_slowest_us,
            db_bytes: front.state.0.size_on_disk(),
            log_bytes: front.disk.log_bytes(),
            incarnation: front.identity.incarnation.0,
            peers: peers(front, &told),
            elections: told.elections.iter().map(|election| epoch.election(election)).collect(),
            data_dir: front.data_dir.clone(),
        }))
    }

    async fn watchers(&self, _: Request<pb::WatchersRequest>) -> Result<Response<pb::WatchersResponse>, Status> {
        let watchers = self.0.watching.standings().await.into_iter().map(watcher).collect();
        Ok(Response::new(pb::WatchersResponse { revision: self.0.view.revision().0, watchers }))
    }
}

fn watcher(standing: Standing) -> pb::WatcherStatus {
    pb::WatcherStatus {
        stream: standing.stream,
        client: standing.client,
        watch_id: standing.watch_id,
        key: standing.key,
        range_end: standing.range_end,
        next_revision: standing.next.0,
        following: standing.following,
        lag_revisions: i64::try_from(standing.lag).unwrap_or(i64::MAX),
        lag_ms: millis(standing.lag_time),
        queued_bytes: standing.queued_bytes as u64,
        delivered_events: standing.delivered,
    }
}

fn peers(front: &Front, told: &node::Status) -> Vec<pb::PeerStatus> {
    let peer = |id: &MemberId, facts: &crate::server::transport::PeerFacts| {
        let seen = told.peers.iter().find(|peer| peer.id == *id);
        let leads = told.role == RoleName::Leader;
        let matched = seen.map_or(0, |peer| peer.matched.0);
        pb::PeerStatus {
            member_id: id.0,
            connected: facts.connected.load(Ordering::Relaxed),
            flow: seen.map_or("", |peer| peer.flow).to_string(),
            matched,
            lag: if leads { told.last.0.saturating_sub(matched) } else { 0 },
            rtt_us: facts.rtt_us.load(Ordering::Relaxed),
        }
    };
    front.transport.peers.iter().map(|(id, facts)| peer(id, facts)).collect()
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Start => "start",
        Cause::Timeout => "timeout",
        Cause::ConnectionLost => "connection lost",
        Cause::Transfer => "transfer",
        Cause::Other => "other",
    }
}

fn millis(duration: crate::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One moment on both clocks, to tell the node's times to people.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    now: Time,
    unix_micros: u64,
}

impl Epoch {
    fn unix(self, moment: Time) -> u64 {
        let ago = u64::try_from(self.now.since(moment).as_micros()).unwrap_or(u64::MAX);
        self.unix_micros.saturating_sub(ago)
    }

    fn election(self, election: &node::Election) -> pb::Election {
        let moment = |moment: Option<Time>| moment.map_or(0, |moment| self.unix(moment));
        pb::Election {
            term: election.term.0,
            winner: election.winner.0,
            cause: cause(election.cause).to_string(),
            detected_us: moment(election.detected),
            campaigned_us: moment(election.campaigned),
            elected_us: self.unix(election.elected),
            committed_us: moment(election.committed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_times_become_unix_times() {
        let epoch = Epoch { now: Time::from_millis(5_000), unix_micros: 1_000_000_000 };
        assert_eq!(epoch.unix(Time::from_millis(4_000)), 999_000_000);
        assert_eq!(epoch.unix(Time::from_millis(6_000)), 1_000_000_000, "a moment after now is now");
    }
}

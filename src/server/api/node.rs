//! Our own Node service: what etcd's Status has no room for, what `quorate status` and `quorate dev` show, and who owns the
//! space.
//!
//! Local: a member tells what it sees, asks nobody, and answers without a leader too.

use super::{Front, status};
use crate::clock::unix_micros;
use crate::ids::MemberId;
use crate::machine::{self, Holding};
use crate::node::{self, Cause, Refused, RoleName};
use crate::proto::quorate as pb;
use crate::time::Time;
use crate::watch::Standing;
use bytes::Bytes;
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
        let members = front.view.members();
        let voters =
            members.iter().filter(|member| member.standing == machine::Standing::Voter).map(|member| member.id.0);
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
            voters: voters.collect(),
            install: install(&told.install, now),
            agreed_checkpoint: told.checkpoint.agreed.0,
            differing_checkpoint: told.checkpoint.differs.map_or(0, |index| index.0),
            level: front.transport.level.0,
            cluster_level: front.view.level().0,
            data_dir: front.data_dir.clone(),
        }))
    }

    async fn watchers(&self, _: Request<pb::WatchersRequest>) -> Result<Response<pb::WatchersResponse>, Status> {
        let watchers = self.0.watching.standings().await.into_iter().map(watcher).collect();
        Ok(Response::new(pb::WatchersResponse { revision: self.0.view.revision().0, watchers }))
    }

    async fn space(&self, request: Request<pb::SpaceRequest>) -> Result<Response<pb::SpaceResponse>, Status> {
        let request = request.into_inner();
        let delimiter = match request.delimiter[..] {
            [] => b'/',
            [delimiter] => delimiter,
            _ => return Err(Status::invalid_argument("quorate: the delimiter of prefixes is one byte")),
        };
        // It visits every key: off the threads that carry everybody's connections.
        Ok(Response::new(tokio::task::block_in_place(|| space(&self.0, &request, delimiter))))
    }
}

fn install(told: &crate::node::InstallStatus, now: crate::time::Time) -> Option<pb::InstallStatus> {
    told.active.then(|| pb::InstallStatus {
        from: told.from.map_or(0, |from| from.0),
        done_bytes: told.done_bytes,
        total_bytes: told.total_bytes,
        elapsed_ms: millis(now.since(told.since)),
        reached_index: told.reached.0,
        hollow: told.hollow,
        begun: told.begun,
        resumed: told.resumed,
    })
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

/// What is told of prefixes if the caller does not say how many.
const TOP_PREFIXES: u32 = 20;
/// Where prefixes end if the caller does not say it.
const PREFIX_DEPTH: u32 = 2;

fn prefix_space(prefix: &[u8], share: Holding) -> pb::PrefixSpace {
    let Holding { keys, versions, live_bytes, held_bytes } = share;
    pb::PrefixSpace { prefix: Bytes::copy_from_slice(prefix), keys, versions, live_bytes, held_bytes }
}

/// Who owns the space: the prefixes that hold most, the others as one, and all of it.
fn space(front: &Front, request: &pb::SpaceRequest, delimiter: u8) -> pb::SpaceResponse {
    let or = |asked: u32, default: u32| (if asked == 0 { default } else { asked }) as usize;
    let shares = front.view.shares(&request.prefix, delimiter, or(request.depth, PREFIX_DEPTH));
    let sum = |shares: &[(Box<[u8]>, Holding)]| shares.iter().fold(Holding::default(), |sum, (_, share)| sum + *share);
    let mut shares: Vec<(Box<[u8]>, Holding)> = shares.into_iter().collect();
    shares.sort_by_key(|(_, share)| std::cmp::Reverse(share.held_bytes));
    let (top, others) = shares.split_at(shares.len().min(or(request.top, TOP_PREFIXES)));
    pb::SpaceResponse {
        prefixes: top.iter().map(|(prefix, share)| prefix_space(prefix, *share)).collect(),
        others: Some(prefix_space(b"", sum(others))),
        total: Some(prefix_space(&request.prefix, sum(&shares))),
        other_prefixes: others.len() as u64,
        quota_bytes: front.quota.map_or(0, |quota| i64::try_from(quota).unwrap_or(i64::MAX)),
        held_bytes: front.view.held_bytes(),
        live_bytes: front.view.live_bytes(),
        db_bytes: front.state_bytes(),
        revision: front.view.revision().0,
        compact_revision: front.view.compacted().0,
    }
}

fn peers(front: &Front, told: &node::Status) -> Vec<pb::PeerStatus> {
    let peer = |(id, facts): (MemberId, std::sync::Arc<crate::server::transport::PeerFacts>)| {
        let seen = told.peers.iter().find(|peer| peer.id == id);
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
    front.transport.peers.all().into_iter().map(peer).collect()
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

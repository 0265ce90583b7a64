//! etcd's Lease service.
//!
//! Grants and revokes are commands. Keepalives and questions about the time that is left go to the node, which brings them to
//! the leader's clock, from any member. Ids that the server is to choose are drawn here, where there is chance, and a time to
//! live is put within etcd's bounds here, for the machine takes it as it is.
//!
//! A keepalive stream is answered in the order of its requests, one answer each, and many requests of one stream are on their
//! way at once: a client that keeps ten thousand leases alive does so on one stream. Its header is made before the lease is
//! renewed, as etcd's is.
//!
//! The list of leases is by what is left of them as far as that is written down in the state, for a clock over them has only the
//! leader; so are the lists of etcd's followers. Unlike etcd's, the list is linearizable.
//!
//! Absent: whose lease it is.

use super::{Front, astray, status};
use crate::clock::entropy;
use crate::machine::{LeaseTime, Response as Applied};
use crate::node::{Refused, Reply, Request as Ask, TimeLeft};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate::{GrantLease, RevokeLease, command::Op};
use crate::time::Duration;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// etcd's longest time to live, in seconds.
const TTL_MAX: i64 = 9_000_000_000;

/// Keepalives of one stream that may be on their way at once: many streams share what the node takes.
const KEEP_ALIVES_MAX: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub struct Lease(pub Arc<Front>);

/// etcd's shortest time to live: one and a half election timeouts, in whole heartbeats and then in whole seconds, rounded up.
fn min_ttl(heartbeat: Duration, election: Duration) -> i64 {
    let (heartbeat, election) = (heartbeat.as_millis().max(1), election.as_millis());
    let beats = 3 * (election / heartbeat) / 2;
    i64::try_from((beats * heartbeat).div_ceil(1000)).unwrap_or(TTL_MAX)
}

/// A positive id.
pub(super) fn draw_id() -> i64 {
    (entropy().0 >> 1).max(1).cast_signed()
}

impl Lease {
    /// Asks the node about a lease.
    async fn ask(front: &Front, request: Ask) -> Result<Option<TimeLeft>, Status> {
        match front.mailbox.ask(request).await {
            Reply::Lease(time) => Ok(time),
            Reply::Refused(reason) => Err(status::of_refused(reason)),
            Reply::Uncertain(reason) => Err(status::of_uncertain(reason)),
            reply @ (Reply::Applied { .. } | Reply::Readable { .. } | Reply::Transferred | Reply::Changed { .. }) => {
                Err(astray(&reply))
            }
        }
    }

    async fn keep_alive(
        front: Arc<Front>,
        request: Result<pb::LeaseKeepAliveRequest, Status>,
    ) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let lease = request?.id;
        let header = front.header(front.view.revision(), front.term());
        let time = Lease::ask(&front, Ask::KeepAlive { lease }).await?;
        Ok(pb::LeaseKeepAliveResponse { header, id: lease, ttl: time.map_or(0, |time| time.granted) })
    }
}

#[tonic::async_trait]
impl pb::lease_server::Lease for Lease {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let pb::LeaseGrantRequest { ttl, id } = request.into_inner();
        if ttl > TTL_MAX {
            return Err(Status::out_of_range("etcdserver: too large lease TTL"));
        }
        let ttl = ttl.max(min_ttl(front.transport.heartbeat_interval, front.transport.election_timeout));
        let id = if id == 0 { draw_id() } else { id };
        match front.propose(Op::GrantLease(GrantLease { id, ttl }), true).await? {
            (Applied::LeaseGrant(mut response), term) => {
                response.header = front.complete(response.header, term);
                Ok(Response::new(response))
            }
            (other, _) => Err(astray(&other)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let revoke = RevokeLease { id: request.into_inner().id, term: 0, known: 0 };
        match front.propose(Op::RevokeLease(revoke), false).await? {
            (Applied::LeaseRevoke(mut response), term) => {
                response.header = front.complete(response.header, term);
                Ok(Response::new(response))
            }
            (other, _) => Err(astray(&other)),
        }
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let front = Arc::clone(&self.0);
        front.check_leader(request.metadata())?;
        let needs_leader = super::needs_leader(request.metadata());
        let asker = Arc::clone(&front);
        let answers = request.into_inner().map(move |request| Lease::keep_alive(Arc::clone(&asker), request));
        let answers = answers.buffered(KEEP_ALIVES_MAX).boxed();
        if !needs_leader {
            return Ok(Response::new(answers));
        }
        let leaderless = Box::pin(async move { front.leaderless().await });
        let until_leaderless = stream::unfold(Some((answers, leaderless)), |open| async move {
            let (mut answers, mut leaderless) = open?;
            tokio::select! {
                biased;
                answer = answers.next() => Some((answer?, Some((answers, leaderless)))),
                () = &mut leaderless => Some((Err(status::of_refused(Refused::NoLeader)), None)),
            }
        });
        Ok(Response::new(until_leaderless.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        // The keys are read here, and no older than the leader's answer.
        let time = Lease::ask(front, Ask::TimeToLive { lease: id }).await?;
        let term = front.readable().await?;
        let header = front.header(front.view.revision(), term);
        let known = if keys { front.view.lease(id).map(|lease| lease.keys) } else { Some(Default::default()) };
        let (Some(TimeLeft { granted, left }), Some(keys)) = (time, known) else {
            return Ok(Response::new(pb::LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() }));
        };
        let ttl = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let keys = keys.into_iter().map(|key| key.into_vec().into()).collect();
        Ok(Response::new(pb::LeaseTimeToLiveResponse { header, id, ttl, granted_ttl: granted, keys }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let term = front.readable().await?;
        let header = front.header(front.view.revision(), term);
        let mut leases = front.view.leases();
        let left = |time: &LeaseTime| if time.remaining == 0 { time.ttl } else { time.remaining };
        leases.sort_by_key(|(id, time)| (left(time), *id));
        let leases = leases.into_iter().map(|(id, _)| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_time_to_live_is_etcds() {
        let ms = Duration::from_millis;
        for (heartbeat, election, seconds) in
            [(100, 1000, 2), (100, 300, 1), (500, 5000, 8), (100, 1300, 2), (100, 1400, 3), (10, 100, 1)]
        {
            assert_eq!(min_ttl(ms(heartbeat), ms(election)), seconds, "{heartbeat} ms, {election} ms");
        }
    }

    #[test]
    fn drawn_ids_are_positive_and_differ() {
        let ids: std::collections::BTreeSet<i64> = (0..100).map(|_| draw_id()).collect();
        assert!(ids.len() == 100 && ids.iter().all(|id| *id > 0), "{ids:?}");
    }
}

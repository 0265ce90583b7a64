//! Leases: granted, looked at, kept alive.
//!
//! A renewal changes nothing that a second one would change again, so it is tried like a read, at one member after the
//! other. [`Client::keep_alive`] does it for as long as it can: it is a future that ends when the lease is lost, to be
//! raced against whatever the lease protects. It lives on the caller's task; drop it and the lease runs out.
//!
//! When a lease must be taken for lost although nobody said so is `Pulse`'s question, and the law is: *from the moment the
//! last renewal that was answered was sent, one time to live*. The server renewed it then or later, so before that moment
//! it surely lives. Each renewal is a short stream of its own: at one in several seconds that costs nothing, and there is
//! no stream to lose.
//!
//! Left out: many leases on one stream.

use super::endpoints::Endpoint;
use super::retry::{self, Kind};
use super::{Client, Error};
use crate::clock;
use crate::proto::etcdserverpb as pb;
use crate::time::{Duration, Time};
use std::time::Instant;
use tonic::Status;

/// Why a lease is not kept alive any more.
#[derive(Clone, Debug)]
pub enum Lost {
    /// The server does not know it: it ran out or was revoked.
    Gone,
    /// No server renewed it for a whole time to live.
    Silence(Error),
    /// The server won't renew it.
    Refused(Error),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Gone => f.write_str("the lease ran out or was revoked"),
            Lost::Silence(error) => write!(f, "nobody renewed the lease in time: {}", error.cause()),
            Lost::Refused(error) => write!(f, "the lease was not renewed: {error}"),
        }
    }
}

/// When to renew, and when to give up. Times are of one clock, whichever.
#[derive(Clone, Copy, Debug)]
struct Pulse {
    /// When the last renewal that was answered was sent, or a later moment.
    sent: Time,
    /// What is left of its time to live from then on.
    ttl: Duration,
}

impl Pulse {
    /// `ago`: how long before `now` the grant or renewal of `ttl_seconds` was sent.
    fn new(now: Time, ago: Duration, ttl_seconds: i64) -> Pulse {
        let ttl = Duration::from_secs(u64::try_from(ttl_seconds).unwrap_or(0));
        Pulse { sent: now, ttl: ttl.saturating_sub(ago) }
    }

    /// Two renewals may fail before the lease is lost.
    fn due(&self) -> Time {
        self.sent + self.ttl / 3
    }

    fn lost(&self) -> Time {
        self.sent + self.ttl
    }
}

impl Client {
    /// Grants a lease of at least `ttl` seconds; `id` 0 lets the server choose one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lease_grant(&self, ttl: i64, id: i64) -> Result<pb::LeaseGrantResponse, Error> {
        call!(self, Kind::Write, lease_client::LeaseClient.lease_grant, pb::LeaseGrantRequest { ttl, id })
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lease_revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, Error> {
        call!(self, Kind::Write, lease_client::LeaseClient.lease_revoke, pb::LeaseRevokeRequest { id })
    }

    /// How long a lease has left, and (with `keys`) which keys hang on it.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<pb::LeaseTimeToLiveResponse, Error> {
        let request = pb::LeaseTimeToLiveRequest { id, keys };
        call!(self, Kind::Read, lease_client::LeaseClient.lease_time_to_live, request)
    }

    /// All leases.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn lease_list(&self) -> Result<pb::LeaseLeasesResponse, Error> {
        call!(self, Kind::Read, lease_client::LeaseClient.lease_leases, pb::LeaseLeasesRequest {})
    }

    /// Renews a lease once; a TTL of 0 in the answer says that there is none.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn lease_renew(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Error> {
        retry::run(self, Kind::Read, |endpoint: &Endpoint| {
            let mut stub = pb::lease_client::LeaseClient::new(endpoint.channel());
            async move {
                let one = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
                let answer = stub.lease_keep_alive(one).await?.into_inner().message().await?;
                let answer = answer.ok_or_else(|| Status::unavailable("the server ended the stream"))?;
                Ok(tonic::Response::new(answer))
            }
        })
        .await
    }

    /// Renews a lease, whose grant (or renewal) for `ttl` seconds was asked for at `asked`, again and again; ends when it is
    /// lost. Each renewal is shown to `renewed`.
    pub async fn keep_alive(
        &self,
        id: i64,
        ttl: i64,
        asked: Instant,
        mut renewed: impl FnMut(&pb::LeaseKeepAliveResponse),
    ) -> Lost {
        let patient = Client { fail_fast: false, ..self.clone() };
        let clock = clock::Clock::new();
        let mut pulse = Pulse::new(clock.now(), asked.elapsed(), ttl);
        let mut last = Error::Refused(Status::deadline_exceeded("no answer"));
        loop {
            tokio::time::sleep(pulse.due().since(clock.now())).await;
            let sent = clock.now();
            match tokio::time::timeout(pulse.lost().since(sent), patient.lease_renew(id)).await {
                Ok(Ok(answer)) if answer.ttl <= 0 => return Lost::Gone,
                Ok(Ok(answer)) => {
                    pulse = Pulse::new(sent, Duration::ZERO, answer.ttl);
                    renewed(&answer);
                }
                Ok(Err(rejected @ Error::Rejected(_))) => return Lost::Refused(rejected),
                // It had the time of a whole command, with pauses; there may be time for another.
                Ok(Err(passing)) => last = passing,
                Err(_) => return Lost::Silence(last),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_thrice_in_its_life_and_lost_at_its_end_counted_from_the_sending() {
        let pulse = Pulse::new(Time::from_millis(1000), Duration::ZERO, 9);
        assert_eq!(pulse.due(), Time::from_millis(4000));
        assert_eq!(pulse.lost(), Time::from_millis(10_000));
        // The answer took three of the nine seconds.
        let pulse = Pulse::new(Time::from_millis(4000), Duration::from_secs(3), 9);
        assert_eq!((pulse.due(), pulse.lost()), (Time::from_millis(6000), Time::from_millis(10_000)));
        assert_eq!(Pulse::new(Time::from_millis(5), Duration::ZERO, -1).lost(), Time::from_millis(5));
    }
}

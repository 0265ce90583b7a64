//! `/metrics`: what this member tells a scrape.
//!
//! [`page`] is the list of all metrics, from top to bottom. What etcd has under `etcd_*`, `grpc_*` and `process_*` has etcd's
//! name, type and labels, so that dashboards and alerts made for etcd go on working (`tests/etcd_compat/metrics.rs` compares
//! them with a real one's); what etcd has no name for begins with `quorate_`.
//!
//! A scrape asks the node nothing and waits for nothing: it reads what the node published last, the workers' figures and
//! counters, so it tells something also of a member that hangs. Counting costs the request path relaxed additions.
//!
//! Absent: snapshots, how long each command took to apply (the node has no clock; `slow.rs` times its turns), and Go's
//! runtime.

use super::api::{ETCD_CLUSTER_VERSION, ETCD_VERSION, Front};
use super::calls::{Calls, Traffic};
use super::exposition::{DISK_BOUNDS, Histogram, Kind, Page};
use super::process;
use crate::ids::Term;
use crate::node::{Election, LeaseCounts, RoleName, SpaceStatus, Status};
use crate::storage::space;
use crate::time::{Duration, Time};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted for nobody but a scrape.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Calls of the client port.
    pub calls: Calls,
    /// Bytes of the client port.
    pub traffic: Arc<Traffic>,
    /// Writes that were refused, whose outcome is uncertain, or whose caller left first.
    pub proposals_failed: AtomicU64,
    /// Linearizable reads for which no leader vouched in time, or before the caller left.
    pub read_indexes_failed: AtomicU64,
    /// Answers of `/health`: well, and not.
    pub health: [AtomicU64; 2],
    /// Failovers.
    pub failovers: Failovers,
    /// Compactions.
    pub compactions: Compactions,
}

/// How long compactions took on this member.
#[derive(Debug)]
pub struct Compactions {
    /// In milliseconds: each is counted as a second.
    took: Histogram,
}

/// etcd's bounds for them.
const COMPACTION_BOUNDS_MS: &[f64] = &[
    100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, 12800.0, 25600.0, 51200.0, 102400.0, 204800.0, 409600.0,
    819200.0,
];

impl Default for Compactions {
    fn default() -> Compactions {
        Compactions { took: Histogram::new(COMPACTION_BOUNDS_MS) }
    }
}

impl Compactions {
    /// Counts the last pass, if there was one beyond the `counted`; gives how many there were.
    pub fn count(&self, space: &SpaceStatus, counted: u64) -> u64 {
        if space.passes > counted {
            self.took.record(space.last_pass * 1000);
        }
        space.passes
    }
}

/// How long changes of leader took, as this member saw them.
#[derive(Debug)]
pub struct Failovers {
    elect: Histogram,
    recover: Histogram,
}

impl Default for Failovers {
    fn default() -> Failovers {
        Failovers { elect: Histogram::new(DISK_BOUNDS), recover: Histogram::new(DISK_BOUNDS) }
    }
}

impl Failovers {
    /// Counts the changes after term `counted` that are over; gives the newest term that was counted.
    pub fn count(&self, elections: &[Election], counted: Term) -> Term {
        let over = elections.iter().filter_map(|election| Some((election, election.committed?)));
        over.filter(|(election, _)| election.term > counted).fold(counted, |_, (election, committed)| {
            // Without a former leader there was nothing to lose.
            if let Some(detected) = election.detected {
                self.elect.record(election.elected.since(detected));
                self.recover.record(committed.since(election.elected));
            }
            election.term
        })
    }
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Something that has failed unless it is said to have succeeded: a caller that leaves before the answer has got none.
#[derive(Debug)]
pub struct Attempt<'a> {
    failures: Option<&'a AtomicU64>,
}

impl<'a> Attempt<'a> {
    /// One whose failure adds to `failures`.
    pub fn new(failures: &'a AtomicU64) -> Attempt<'a> {
        Attempt { failures: Some(failures) }
    }

    /// It succeeded.
    pub fn succeeded(mut self) {
        self.failures = None;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.failures.into_iter().for_each(count);
    }
}

/// All metrics.
pub fn page(front: &Front) -> String {
    let status = Arc::clone(&front.published.borrow());
    let mut page = Page::default();
    identity(&mut page, front);
    consensus(&mut page, front, &status);
    disk(&mut page, front);
    leases(&mut page, &status.leases);
    peers(&mut page, front, &status);
    clients(&mut page, front);
    front.slow.expose(&mut page);
    watchers(&mut page, front);
    process::expose(&mut page);
    page.into_text()
}

fn identity(page: &mut Page, front: &Front) {
    let mut labelled =
        |name, help, label, value: &str| page.family(Kind::Gauge, name, help).sample(&[(label, &value)], 1);
    labelled("etcd_server_version", "The level of etcd's API that is spoken.", "server_version", ETCD_VERSION);
    let cluster = ETCD_CLUSTER_VERSION.trim_end_matches(".0");
    labelled("etcd_cluster_version", "The cluster's level of etcd's API.", "cluster_version", cluster);
    labelled("etcd_server_id", "The member's id, in hex.", "server_id", &front.identity.member.to_string());
    let help = "The version of Quorate.";
    labelled("quorate_build_info", help, "version", env!("CARGO_PKG_VERSION"));
}

fn consensus(page: &mut Page, front: &Front, status: &Status) {
    let leads = status.role == RoleName::Leader;
    let failed = front.metrics.proposals_failed.load(Ordering::Relaxed);
    let unread = front.metrics.read_indexes_failed.load(Ordering::Relaxed);
    page.gauge("etcd_server_has_leader", "Whether a leader is known.", u8::from(status.leader.is_some()));
    page.gauge("etcd_server_is_leader", "Whether this member leads.", u8::from(leads));
    page.gauge("etcd_server_is_learner", "Whether this member has no vote.", u8::from(front.is_learner()));
    let help = "How often a leader was found, the first one included.";
    page.counter("etcd_server_leader_changes_seen_total", help, status.leader_changes);
    page.gauge("etcd_server_proposals_committed_total", "The commit index of the log.", status.commit);
    page.gauge("etcd_server_proposals_applied_total", "The last log index in the store.", status.applied);
    let help = "Writes of this member's clients whose outcome is not known yet.";
    page.gauge("etcd_server_proposals_pending", help, status.pending_proposals);
    let help = "Writes of this member's clients that were refused, timed out or were given up.";
    page.counter("etcd_server_proposals_failed_total", help, failed);
    let help = "Linearizable reads for which no leader vouched in time.";
    page.counter("etcd_server_read_indexes_failed_total", help, unread);
    let help = "The cluster's level: which release's meanings are in force.";
    page.gauge("quorate_cluster_level", help, front.view.level().0);
    page.gauge("quorate_raft_term", "The term.", status.term);
    page.gauge("quorate_log_last_index", "Where the log ends.", status.last);
    let help =
        "The newest entry after which a quorum was found to have this member's state; 0: none in this leadership.";
    page.gauge("quorate_agreed_checkpoint_index", help, status.checkpoint.agreed);
    let help = "Whether a quorum was found to have another state than this member: it is in quarantine.";
    page.gauge("quorate_is_quarantined", help, u8::from(status.checkpoint.differs.is_some()));
    page.gauge("quorate_log_persisted_index", "How far the log is durable here.", status.persisted);
    let help = "How long a lost leader's replacement took, in seconds: from the loss that was noticed to the new leader \
                (elect), from there to its first committed entry (recover).";
    let mut family = page.family(Kind::Histogram, "quorate_failover_gap_seconds", help);
    family.histogram(&[("phase", &"elect")], &front.metrics.failovers.elect);
    family.histogram(&[("phase", &"recover")], &front.metrics.failovers.recover);
}

fn disk(page: &mut Page, front: &Front) {
    let help = "How long it took until a record of the log was durable, in seconds.";
    page.histogram("etcd_disk_wal_fsync_duration_seconds", help, &front.disk.log_syncs);
    let help = "How long syncs of the store took, in seconds.";
    page.histogram("etcd_disk_backend_commit_duration_seconds", help, &front.disk.state_syncs);
    let help = "How long a sync took when the member started, in seconds: half of them at most (0.5), the slowest (1).";
    let mut family = page.family(Kind::Gauge, "quorate_disk_start_sync_seconds", help);
    if let Some(probe) = &front.disk.probe {
        family.sample(&[("quantile", &"0.5")], probe.median.as_secs_f64());
        family.sample(&[("quantile", &"1")], probe.slowest.as_secs_f64());
    }
    let in_use = front.view.held_bytes();
    let size = front.state_bytes();
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes that the store takes on the disk.", size);
    let help = "Bytes of keys, values and their versions that are kept.";
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", help, in_use);
    let help = "Bytes of keys and values as they are now, without their history.";
    page.gauge("quorate_live_bytes", help, front.view.live_bytes());
    let help = "What keys, values and their versions may take, in bytes; 0: no limit.";
    page.gauge("etcd_server_quota_backend_bytes", help, front.quota.unwrap_or(0));
    page.gauge("etcd_debugging_mvcc_current_revision", "The store's revision.", front.view.revision());
    let help = "The oldest readable revision; below 1 if nothing was compacted.";
    page.gauge("etcd_debugging_mvcc_compact_revision", help, front.view.compacted());
    let help = "Versions that compactions took away.";
    page.counter("etcd_debugging_mvcc_db_compaction_keys_total", help, front.view.dropped_versions());
    let help = "How long compactions took from first to last, in milliseconds.";
    let took = &front.metrics.compactions.took;
    page.histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", help, took);
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys that are there.", front.view.live_keys());
    let counted = front.view.counted();
    page.counter("etcd_mvcc_put_total", "Puts that were applied since the start.", counted.puts);
    page.counter("etcd_mvcc_delete_total", "Deletes that were applied since the start.", counted.deletes);
    page.counter("etcd_mvcc_range_total", "Ranges that were read since the start, in txns too.", counted.ranges);
    page.counter("etcd_mvcc_txn_total", "Txns of more than one operation since the start.", counted.txns);
    let help = "Bytes of keys and values that were put since the start.";
    page.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", help, counted.put_bytes);
    let help = "Bytes of entries that were written to the log since the start.";
    page.gauge("etcd_disk_wal_write_bytes_total", help, front.disk.log_written());
    page.gauge("quorate_log_size_bytes", "Bytes that the log takes on the disk.", front.disk.log_bytes());
    page.gauge("quorate_disk_free_bytes", "Bytes free where the data directory is.", front.disk.free_bytes());
    let help = "Below so many free bytes, writes that grow the store are declined.";
    page.gauge("quorate_disk_floor_bytes", help, space::FLOOR);
}

fn leases(page: &mut Page, counts: &LeaseCounts) {
    page.counter("etcd_debugging_lease_granted_total", "Leases that were granted.", counts.granted);
    page.counter("etcd_debugging_lease_revoked_total", "Leases that have ended.", counts.revoked);
    let help = "Times that this member as the leader renewed a lease.";
    page.counter("etcd_debugging_lease_renewed_total", help, counts.renewed);
    let help = "Leases whose end this member as the leader brought about, because their time was over.";
    page.counter("etcd_debugging_server_lease_expired_total", help, counts.expired);
    let help = "The times to live of leases that were granted, in seconds.";
    let mut family = page.family(Kind::Histogram, "etcd_debugging_lease_ttl_total", help);
    // etcd's bounds: the powers of two from 1 to 2^23 seconds.
    let (beyond, within) = counts.ttls.split_last().unwrap_or((&0, &[]));
    let buckets = within.iter().enumerate().map(|(bits, count)| (Some(1_u64 << bits), *count));
    family.buckets(buckets.chain([(None, *beyond)]), counts.ttl_sum);
}

fn peers(page: &mut Page, front: &Front, status: &Status) {
    let own = front.identity.member;
    let peers = &front.transport.peers.all();
    let mut family = page.family(Kind::Gauge, "etcd_network_active_peers", "Whether a peer can be sent to.");
    for (id, peer) in peers {
        let connected = u8::from(peer.connected.load(Ordering::Relaxed));
        family.sample(&[("Local", &own), ("Remote", id)], connected);
    }
    let mut family = page.family(Kind::Counter, "etcd_network_peer_sent_bytes_total", "Bytes of messages to a peer.");
    peers.iter().for_each(|(id, peer)| family.sample(&[("To", id)], peer.sent_bytes.load(Ordering::Relaxed)));
    let help = "Bytes of messages from a peer.";
    let mut family = page.family(Kind::Counter, "etcd_network_peer_received_bytes_total", help);
    peers.iter().for_each(|(id, peer)| family.sample(&[("From", id)], peer.received_bytes.load(Ordering::Relaxed)));
    let help = "Messages to a peer that were dropped: no connection, or its queue was full.";
    let mut family = page.family(Kind::Counter, "etcd_network_peer_sent_failures_total", help);
    peers.iter().for_each(|(id, peer)| family.sample(&[("To", id)], peer.sent_failures.load(Ordering::Relaxed)));
    let help = "How often a peer was connected and then was not any more.";
    let mut family = page.family(Kind::Counter, "etcd_network_disconnected_peers_total", help);
    for (id, peer) in peers {
        family.sample(&[("Local", &own), ("Remote", id)], peer.disconnects.load(Ordering::Relaxed));
    }
    let help = "How long round trips to a peer took, in seconds, on the connection that the messages take.";
    let mut family = page.family(Kind::Histogram, "etcd_network_peer_round_trip_time_seconds", help);
    peers.iter().for_each(|(id, peer)| family.histogram(&[("To", id)], &peer.round_trips.0));
    let beats = peers.iter().map(|(_, peer)| peer.heartbeat_failures.load(Ordering::Relaxed)).sum::<u64>();
    let help = "Heartbeats of this member, as the leader, that could not be sent.";
    page.counter("etcd_server_heartbeat_send_failures_total", help, beats);
    let help = "Entries of the leader's log that a follower has not acknowledged; the leader tells.";
    let mut family = page.family(Kind::Gauge, "quorate_follower_lag_entries", help);
    if status.role == RoleName::Leader {
        for peer in &status.peers {
            family.sample(&[("To", &peer.id)], status.last.0.saturating_sub(peer.matched.0));
        }
    }
}

fn watchers(page: &mut Page, front: &Front) {
    let figures = front.watching.figures();
    let number = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.", number(&figures.streams));
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", number(&figures.watchers));
    let help = "Watchers that are behind: they catch up, or their client takes nothing.";
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", help, number(&figures.slow));
    let help = "Events that were told to watchers, or wait for their clients.";
    page.counter("etcd_debugging_mvcc_events_total", help, number(&figures.events));
    let help = "Events that wait for watchers' clients.";
    page.gauge("etcd_debugging_mvcc_pending_events_total", help, number(&figures.pending_events));
    let behind = match number(&figures.behind_since) {
        0 => Duration::ZERO,
        since => front.clock.now().since(Time(since)),
    };
    let help = "For how long the watcher that is behind longest has been, in seconds.";
    page.gauge("quorate_watcher_lag_seconds", help, behind.as_secs_f64());
}

fn clients(page: &mut Page, front: &Front) {
    let metrics = &front.metrics;
    let received = metrics.traffic.received.load(Ordering::Relaxed);
    page.counter("etcd_network_client_grpc_received_bytes_total", "Bytes from clients, framing included.", received);
    let sent = metrics.traffic.sent.load(Ordering::Relaxed);
    page.counter("etcd_network_client_grpc_sent_bytes_total", "Bytes to clients, framing included.", sent);
    let [well, unwell] = metrics.health.each_ref().map(|answers| answers.load(Ordering::Relaxed));
    page.counter("etcd_server_health_success", "Times that /health said well.", well);
    page.counter("etcd_server_health_failures", "Times that /health said not well.", unwell);
    metrics.calls.expose(page);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MemberId;
    use crate::node::Cause;
    use crate::time::Time;

    fn election(term: u64, detected: Option<u64>, committed: Option<u64>) -> Election {
        Election {
            term: Term(term),
            winner: MemberId(1),
            cause: Cause::ConnectionLost,
            detected: detected.map(Time::from_millis),
            campaigned: None,
            elected: Time::from_millis(100),
            committed: committed.map(Time::from_millis),
        }
    }

    #[test]
    fn a_failover_is_counted_once_when_it_is_over() {
        let failovers = Failovers::default();
        let counts = || (failovers.elect.count(), failovers.recover.count());
        let mut elections = vec![election(1, None, Some(110)), election(2, Some(90), None)];
        let counted = failovers.count(&elections, Term(0));
        assert_eq!((counted, counts()), (Term(1), (0, 0)), "the first leader is no failover, and term 2 is not over");
        elections[1].committed = Some(Time::from_millis(120));
        let counted = failovers.count(&elections, counted);
        assert_eq!((counted, counts()), (Term(2), (1, 1)));
        assert_eq!((failovers.count(&elections, counted), counts()), (Term(2), (1, 1)));
    }

    #[test]
    fn an_attempt_has_failed_unless_it_succeeded() {
        let failures = AtomicU64::new(0);
        Attempt::new(&failures).succeeded();
        drop(Attempt::new(&failures));
        assert_eq!(failures.into_inner(), 1);
    }
}

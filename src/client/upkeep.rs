//! Calls for whoever looks after a cluster: compaction, defragmentation, hashes, alarms, the leader's place.
//!
//! Some are about one member and go to one endpoint, once: [`Client::defragment`], [`Client::hash_kv`],
//! [`Client::move_leader`], which only the leader does.

use super::endpoints::Endpoint;
use super::retry::{self, Kind};
use super::{Client, Error};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate as own;
use pb::alarm_request::AlarmAction;
use pb::maintenance_client::MaintenanceClient;

impl Client {
    /// Forgets all revisions below `revision` but for the newest of each key; with `physical` the answer comes when they
    /// are gone from the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<pb::CompactionResponse, Error> {
        call!(self, Kind::Write, kv_client::KvClient.compact, pb::CompactionRequest { revision, physical })
    }

    /// Clears one alarm of one member.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn alarm_disarm(&self, alarm: pb::AlarmMember) -> Result<pb::AlarmResponse, Error> {
        let request =
            pb::AlarmRequest { action: AlarmAction::Deactivate.into(), member_id: alarm.member_id, alarm: alarm.alarm };
        // Clearing what is clear changes nothing.
        call!(self, Kind::Read, maintenance_client::MaintenanceClient.alarm, request)
    }

    /// Adds a member that will be found at these peer URLs.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn member_add(&self, peer_urls: Vec<String>, is_learner: bool) -> Result<pb::MemberAddResponse, Error> {
        let request = pb::MemberAddRequest { peer_ur_ls: peer_urls, is_learner };
        call!(self, Kind::Write, cluster_client::ClusterClient.member_add, request)
    }

    /// Removes a member; its id never comes back.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn member_remove(&self, id: u64) -> Result<pb::MemberRemoveResponse, Error> {
        call!(self, Kind::Write, cluster_client::ClusterClient.member_remove, pb::MemberRemoveRequest { id })
    }

    /// Says at which peer URLs a member is found from now on.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<pb::MemberUpdateResponse, Error> {
        let request = pb::MemberUpdateRequest { id, peer_ur_ls: peer_urls };
        call!(self, Kind::Write, cluster_client::ClusterClient.member_update, request)
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn member_promote(&self, id: u64) -> Result<pb::MemberPromoteResponse, Error> {
        call!(self, Kind::Write, cluster_client::ClusterClient.member_promote, pb::MemberPromoteRequest { id })
    }

    /// Gives back one member's unused space; no failover.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`: twice is as good as once.
    pub async fn defragment(&self, endpoint: &str) -> Result<pb::DefragmentResponse, Error> {
        self.once(endpoint, |endpoint: &Endpoint| {
            let mut stub = MaintenanceClient::new(endpoint.channel());
            async move { stub.defragment(pb::DefragmentRequest {}).await }
        })
        .await
    }

    /// The hash of one member's keys and their history up to `revision` (0: all); no failover.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn hash_kv(&self, endpoint: &str, revision: i64) -> Result<pb::HashKvResponse, Error> {
        self.once(endpoint, |endpoint: &Endpoint| {
            let mut stub = MaintenanceClient::new(endpoint.channel());
            async move { stub.hash_kv(pb::HashKvRequest { revision }).await }
        })
        .await
    }

    /// Asks the leader, which must be at `endpoint`, to hand over to the member `target`; no failover.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`: a leader that has handed over refuses the second time.
    pub async fn move_leader(&self, endpoint: &str, target: u64) -> Result<pb::MoveLeaderResponse, Error> {
        self.once(endpoint, |endpoint: &Endpoint| {
            let mut stub = MaintenanceClient::new(endpoint.channel());
            async move { stub.move_leader(pb::MoveLeaderRequest { target_id: target }).await }
        })
        .await
    }

    /// Everything that is there at one revision, as bytes, from the first member that answers. A stream that breaks is not
    /// begun again: another member's bytes are other ones.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn snapshot(&self) -> Result<tonic::Streaming<pb::SnapshotResponse>, Error> {
        call!(self, Kind::Read, maintenance_client::MaintenanceClient.snapshot, pb::SnapshotRequest {})
    }

    /// Who watches what on one member; no failover. `Rejected` with code Unimplemented from a server that is no Quorate.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn watchers(&self, endpoint: &str) -> Result<own::WatchersResponse, Error> {
        self.once(endpoint, |endpoint: &Endpoint| {
            let mut stub = own::node_client::NodeClient::new(endpoint.channel());
            async move { stub.watchers(own::WatchersRequest {}).await }
        })
        .await
    }

    /// Which prefixes own the space; `Rejected` with code Unimplemented from a server that is no Quorate.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn space(&self, request: own::SpaceRequest) -> Result<own::SpaceResponse, Error> {
        retry::run(self, Kind::Read, |endpoint: &Endpoint| {
            let mut stub = own::node_client::NodeClient::new(endpoint.channel());
            let request = request.clone();
            async move { stub.space(request).await }
        })
        .await
    }
}

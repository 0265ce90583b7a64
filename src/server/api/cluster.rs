//! etcd's Cluster service: who is a member.
//!
//! Absent: changing it.

use super::{Front, status};
use crate::ids::Revision;
use crate::machine::Member;
use crate::proto::etcdserverpb as pb;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub struct Cluster(pub Arc<Front>);

/// A member as etcd's API and its `/members` show it.
pub fn shown(member: Member) -> pb::Member {
    pb::Member {
        id: member.id.0,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: false,
    }
}

/// The members, by id.
pub fn members(front: &Front) -> Vec<pb::Member> {
    let mut members: Vec<pb::Member> = front.view.members().into_iter().map(shown).collect();
    members.sort_unstable_by_key(|member| member.id);
    members
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Cluster {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let front = &self.0;
        front.check_leader(request.metadata())?;
        let term = if request.get_ref().linearizable { front.readable().await? } else { front.term() };
        // etcd's cluster headers have no revision.
        let header = front.header(Revision(0), term);
        Ok(Response::new(pb::MemberListResponse { header, members: members(front) }))
    }

    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(status::not_served("adding a member"))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(status::not_served("removing a member"))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(status::not_served("changing a member's URLs"))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(status::not_served("promoting a member"))
    }
}

//! etcd's Cluster service: who is a member, and changing that.
//!
//! A change is checked where it arrives as far as its shape goes, and judged by the leader (`node/membership.rs`). The answer
//! comes when the change is over and applied here, so the list in it is the new one. A new member's id is drawn here.
//!
//! Two things are laxer than in etcd, because a new voter begins as one that learns and costs nobody the quorum until it has
//! caught up: another one may be added before the last one was started, and while a voter is down.

use super::{Front, astray, status};
use crate::clock::entropy;
use crate::ids::{MemberId, Revision, Term};
use crate::machine::{Member, Standing};
use crate::node::{Reply, Request as Ask};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate::{MemberChange, NewMember, UpdateMember, command};
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
        is_learner: member.standing == Standing::Learner,
    }
}

/// The members, by id.
pub fn members(front: &Front) -> Vec<pb::Member> {
    let mut members: Vec<pb::Member> = front.view.members().into_iter().map(shown).collect();
    members.sort_unstable_by_key(|member| member.id);
    members
}

/// An id for a new member.
pub fn new_id() -> MemberId {
    MemberId(entropy().0.max(1))
}

/// As etcd takes the URLs of a member: some, each with a known scheme, a host with a port, and no more; sorted.
fn checked_urls(urls: Vec<String>) -> Result<Vec<String>, Status> {
    let is_good = |url: &String| match url.split_once("://") {
        Some(("http" | "https", host)) => {
            let port = host.rsplit_once(':').filter(|(name, _)| !name.contains(':') || name.ends_with(']'));
            port.is_some_and(|(_, port)| port.parse::<u16>().is_ok()) && !host.contains(['/', '?', '#'])
        }
        Some(("unix" | "unixs", path)) => !path.is_empty(),
        _ => false,
    };
    if urls.is_empty() || !urls.iter().all(is_good) {
        return Err(Status::invalid_argument("etcdserver: given member URLs are invalid"));
    }
    let mut urls = urls;
    urls.sort_unstable();
    Ok(urls)
}

impl Cluster {
    /// Has a change made, and waits until it is over.
    async fn change(&self, change: MemberChange) -> Result<Term, Status> {
        match self.0.mailbox.ask(Ask::Change(change)).await {
            Reply::Changed { term } => Ok(term),
            Reply::Refused(reason) => Err(status::of_refused(reason)),
            Reply::Uncertain(reason) => Err(status::of_uncertain(reason)),
            reply @ (Reply::Applied { .. } | Reply::Readable { .. } | Reply::Lease(_) | Reply::Transferred) => {
                Err(astray(&reply))
            }
        }
    }

    /// etcd's cluster headers have no revision.
    fn header(&self, term: Term) -> Option<pb::ResponseHeader> {
        self.0.header(Revision(0), term)
    }
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
        Ok(Response::new(pb::MemberListResponse { header: self.header(term), members: members(front) }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.0.check_leader(request.metadata())?;
        let pb::MemberAddRequest { peer_ur_ls, is_learner } = request.into_inner();
        let peer_urls = checked_urls(peer_ur_ls)?;
        let id = new_id();
        let new = NewMember { id: id.0, peer_urls: peer_urls.clone(), learner: is_learner };
        let term = self.change(MemberChange { add: vec![new], ..MemberChange::default() }).await?;
        let members = members(&self.0);
        let added = || pb::Member { id: id.0, peer_ur_ls: peer_urls, is_learner, ..pb::Member::default() };
        let member = members.iter().find(|member| member.id == id.0).cloned().unwrap_or_else(added);
        Ok(Response::new(pb::MemberAddResponse { header: self.header(term), member: Some(member), members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.0.check_leader(request.metadata())?;
        let remove = vec![request.get_ref().id];
        let term = self.change(MemberChange { remove, ..MemberChange::default() }).await?;
        Ok(Response::new(pb::MemberRemoveResponse { header: self.header(term), members: members(&self.0) }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.0.check_leader(request.metadata())?;
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let update = UpdateMember { member_id: id, peer_urls: checked_urls(peer_ur_ls)? };
        let (_, term) = self.0.propose(command::Op::UpdateMember(update), false).await?;
        Ok(Response::new(pb::MemberUpdateResponse { header: self.header(term), members: members(&self.0) }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.0.check_leader(request.metadata())?;
        let promote = vec![request.get_ref().id];
        let term = self.change(MemberChange { promote, ..MemberChange::default() }).await?;
        Ok(Response::new(pb::MemberPromoteResponse { header: self.header(term), members: members(&self.0) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_as_etcd_takes_them() {
        let urls = |urls: &[&str]| checked_urls(urls.iter().map(|url| (*url).to_owned()).collect());
        let good = ["http://b:2380", "http://[::1]:2380", "https://10.0.0.1:1", "unix://a"];
        let sorted = ["http://[::1]:2380", "http://b:2380", "https://10.0.0.1:1", "unix://a"];
        assert_eq!(urls(&good).unwrap(), sorted);
        for bad in ["", "b:2380", "ftp://b:1", "http://b", "http://b:", "http://b:x", "http://b:2380/x", "http://::1:2"]
        {
            assert_eq!(urls(&[bad]).unwrap_err().message(), "etcdserver: given member URLs are invalid", "{bad}");
        }
        assert!(urls(&[]).is_err());
    }
}

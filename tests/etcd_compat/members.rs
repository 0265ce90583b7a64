//! Changes of the membership, asked of both: codes, texts and answers.
//!
//! What needs a member that runs is in `tests/cluster/members.rs`. Adding voters is left out: etcd refuses what would be a risk
//! to its quorum, and here a new voter is none until it has caught up.

use super::support::{Cluster, etcd_bin_dir};
use super::{Comparable, difference, mask_header};
use pb::cluster_client::ClusterClient;
use quorate::proto::etcdserverpb as pb;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// A header, the member that was added, and the members afterwards.
type Said = (Option<pb::ResponseHeader>, Option<pb::Member>, Vec<pb::Member>);

type Answer<T> = Result<Response<T>, Status>;

/// Longer than any member lets a request wait on purpose.
const PATIENCE: Duration = Duration::from_secs(20);

/// A conversation with one cluster; ids and ports are replaced by names.
struct Talk {
    cluster: Cluster,
    said: Vec<(String, Comparable)>,
}

fn learner_at(urls: &[&str]) -> pb::MemberAddRequest {
    pb::MemberAddRequest { peer_ur_ls: urls.iter().map(|url| (*url).to_owned()).collect(), is_learner: true }
}

impl Talk {
    /// Each request goes to another member.
    async fn service(&self) -> ClusterClient<Channel> {
        let nodes = self.cluster.nodes();
        let node = &nodes[self.said.len() % nodes.len()];
        let endpoint = Endpoint::from_shared(format!("http://{}", node.client)).unwrap();
        ClusterClient::new(endpoint.connect().await.unwrap())
    }

    /// The answer. etcd forgets a change that comes before the last one is applied, and lets its caller wait for ever: it is
    /// asked again.
    async fn answer<T>(&self, ask: impl AsyncFn(ClusterClient<Channel>) -> Answer<T>) -> Answer<T> {
        for _ in 0..5 {
            if let Ok(answer) = tokio::time::timeout(PATIENCE, ask(self.service().await)).await {
                return answer;
            }
        }
        panic!("no answer to what comes after {:?}", self.said.last());
    }

    fn note(&mut self, what: &str, answer: Result<Response<Said>, Status>) {
        let lines = match answer {
            // etcd 3.5 forgets to translate this one; its Go client sees the code that we send.
            Err(status) if status.message().ends_with("not enough started members") => {
                vec![status.message().to_owned()]
            }
            Err(status) => vec![format!("{:?}", status.code()), status.message().to_owned()],
            Ok(answer) => {
                let (mut header, member, members) = answer.into_inner();
                mask_header(&mut header);
                assert!(members.is_sorted_by_key(|member| member.id), "{members:?}");
                let mut lines: Vec<String> = members.iter().map(|member| self.shown(member)).collect();
                lines.sort();
                lines.extend(member.map(|member| format!("added {}", self.shown(&member))));
                lines.push(format!("{header:?}"));
                lines
            }
        };
        self.said.push((what.to_owned(), lines));
    }

    fn shown(&self, member: &pb::Member) -> String {
        let mut text =
            format!("{:?} {:?} {:?} {}", member.name, member.peer_ur_ls, member.client_ur_ls, member.is_learner);
        for node in self.cluster.nodes() {
            text = text.replace(&node.client, &format!("{}-client", node.name));
            text = text.replace(&node.peer, &format!("{}-peer", node.name));
        }
        text
    }

    async fn add(&mut self, what: &str, request: pb::MemberAddRequest) -> u64 {
        let answer = self.answer(async |mut service| service.member_add(request.clone()).await).await;
        let id = answer.as_ref().map_or(0, |answer| answer.get_ref().member.as_ref().map_or(0, |member| member.id));
        self.note(what, answer.map(|answer| answer.map(|r| (r.header, r.member, r.members))));
        id
    }

    async fn remove(&mut self, what: &str, id: u64) {
        let request = pb::MemberRemoveRequest { id };
        let answer = self.answer(async |mut service| service.member_remove(request).await).await;
        self.note(what, answer.map(|answer| answer.map(|r| (r.header, None, r.members))));
    }

    async fn update(&mut self, what: &str, id: u64, urls: &[&str]) {
        let peer_ur_ls = urls.iter().map(|url| (*url).to_owned()).collect();
        let request = pb::MemberUpdateRequest { id, peer_ur_ls };
        let answer = self.answer(async |mut service| service.member_update(request.clone()).await).await;
        self.note(what, answer.map(|answer| answer.map(|r| (r.header, None, r.members))));
    }

    async fn promote(&mut self, what: &str, id: u64) {
        let request = pb::MemberPromoteRequest { id };
        let answer = self.answer(async |mut service| service.member_promote(request).await).await;
        self.note(what, answer.map(|answer| answer.map(|r| (r.header, None, r.members))));
    }
}

/// The whole conversation.
async fn talk(cluster: Cluster) -> Vec<(String, Comparable)> {
    let mut talk = Talk { cluster, said: Vec::new() };
    // etcd changes nothing until its members have been connected for a while.
    let ready = async || match talk.service().await.member_add(learner_at(&["http://127.0.0.1:7"])).await {
        Ok(added) => Some(added.into_inner().member.unwrap().id),
        Err(status) if status.code() == Code::Unavailable => None,
        Err(status) => panic!("{status}"),
    };
    let probe = loop {
        match ready().await {
            Some(id) => break id,
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    talk.service().await.member_remove(pb::MemberRemoveRequest { id: probe }).await.unwrap();
    let list = talk.service().await.member_list(pb::MemberListRequest { linearizable: true }).await.unwrap();
    let founders = list.into_inner().members;
    let founder_url = founders[0].peer_ur_ls[0].clone();
    for urls in
        [&[][..], &["nonsense"], &["http://127.0.0.1"], &["http://127.0.0.1:1/x"], &["ftp://127.0.0.1:1"], &[""]]
    {
        talk.add(&format!("a learner at {urls:?}"), learner_at(urls)).await;
    }
    talk.add("a learner at a founder's URL", learner_at(&[&founder_url])).await;
    let learner = talk.add("a learner", learner_at(&["http://127.0.0.1:2", "http://127.0.0.1:1"])).await;
    talk.add("a second learner", learner_at(&["http://127.0.0.1:3"])).await;
    talk.add("a learner where there is one", learner_at(&["http://127.0.0.1:1"])).await;
    talk.promote("promote nobody", 77).await;
    talk.promote("promote a voter", founders[0].id).await;
    talk.promote("promote one that never came", learner).await;
    talk.update("nobody moves", 77, &["http://127.0.0.1:4"]).await;
    talk.update("a learner moves to a founder's place", learner, &[&founder_url]).await;
    // etcd panics if it moves to nowhere.
    talk.update("a learner moves", learner, &["http://127.0.0.1:5"]).await;
    // etcd takes it for a voter from then on, though it does not vote; ours stays what it is.
    let moved = &mut talk.said.last_mut().unwrap().1[0];
    *moved = moved.trim_end_matches(" true").trim_end_matches(" false").to_owned();
    if founders.len() > 1 {
        // etcd alone says that this would cost the quorum.
        talk.remove("remove nobody", 77).await;
    }
    talk.remove("remove the learner", learner).await;
    talk.remove("remove it again", learner).await;
    talk.update("the removed moves", learner, &["http://127.0.0.1:6"]).await;
    talk.promote("the removed is promoted", learner).await;
    if founders.len() == 1 {
        talk.remove("remove the only one", founders[0].id).await;
    }
    talk.said
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_membership_are_answered_as_etcd_does() {
    let Some(etcd) = etcd_bin_dir("changes_of_the_membership_are_answered_as_etcd_does") else { return };
    for size in [1, 3] {
        let theirs = Cluster::etcd(&etcd, size).await;
        let ours = Cluster::steady(size).await;
        let (theirs, ours) = (talk(theirs).await, talk(ours).await);
        let mut different = Vec::new();
        for ((what, theirs), (_, ours)) in theirs.iter().zip(&ours) {
            if theirs != ours {
                different.push(format!("{what}\n{}", difference(theirs, ours)));
            }
        }
        assert!(different.is_empty(), "{size} members, of {} answers:\n{}", ours.len(), different.join("\n"));
    }
}

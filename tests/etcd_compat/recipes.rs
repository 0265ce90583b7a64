//! Locks and elections: the same story told to etcd and to us, through gRPC, and what each answered.

use crate::support::{Cluster, etcd_bin_dir};
use crate::{Comparable, difference, lines, mask_header};
use election::election_client::ElectionClient;
use lock::lock_client::LockClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::KeyValue;
use quorate::proto::{v3electionpb as election, v3lockpb as lock};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// A cluster that is told the story.
struct Told {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    locks: LockClient<Channel>,
    elections: ElectionClient<Channel>,
    answers: Vec<(&'static str, Comparable)>,
    _cluster: Cluster,
}

impl Told {
    async fn new(cluster: Cluster) -> Told {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.endpoints()[0])).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Told {
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel.clone()),
            locks: LockClient::new(channel.clone()),
            elections: ElectionClient::new(channel),
            answers: Vec::new(),
            _cluster: cluster,
        }
    }

    async fn grant(&mut self, ids: std::ops::RangeInclusive<i64>) {
        for id in ids {
            self.lease.lease_grant(pb::LeaseGrantRequest { id, ttl: 600 }).await.unwrap();
        }
    }

    async fn revoke(&mut self, id: i64) {
        self.lease.lease_revoke(pb::LeaseRevokeRequest { id }).await.unwrap();
    }

    /// All keys under a name.
    async fn keys(&mut self, name: &str) -> Vec<KeyValue> {
        let (key, range_end) = (format!("{name}/").into(), format!("{name}0").into());
        let range = pb::RangeRequest { key, range_end, ..Default::default() };
        self.kv.range(range).await.unwrap().into_inner().kvs
    }

    /// Waits until there are so many keys under a name: who queues has made its own by then.
    async fn until(&mut self, name: &str, count: usize) {
        while self.keys(name).await.len() != count {
            tokio::task::yield_now().await;
        }
    }

    async fn lock(&mut self, what: &'static str, name: &'static str, lease: i64) {
        let answer = self.locks.lock(lock::LockRequest { name: name.into(), lease }).await;
        self.answers.push((what, lines(answer, |r| mask_header(&mut r.header))));
    }

    fn locking(&self, name: &'static str, lease: i64) -> JoinHandle<Comparable> {
        let mut locks = self.locks.clone();
        tokio::spawn(async move {
            let answer = locks.lock(lock::LockRequest { name: name.into(), lease }).await;
            lines(answer, |r| mask_header(&mut r.header))
        })
    }

    async fn unlock(&mut self, what: &'static str, key: &'static str) {
        let answer = self.locks.unlock(lock::UnlockRequest { key: key.into() }).await;
        self.answers.push((what, lines(answer, |r| mask_header(&mut r.header))));
    }

    async fn campaign(&mut self, what: &'static str, name: &'static str, lease: i64, value: &'static str) {
        let request = election::CampaignRequest { name: name.into(), lease, value: value.into() };
        let answer = self.elections.campaign(request).await;
        self.answers.push((what, lines(answer, |r| mask_header(&mut r.header))));
    }

    fn campaigning(&self, name: &'static str, lease: i64, value: &'static str) -> JoinHandle<Comparable> {
        let mut elections = self.elections.clone();
        tokio::spawn(async move {
            let request = election::CampaignRequest { name: name.into(), lease, value: value.into() };
            lines(elections.campaign(request).await, |r| mask_header(&mut r.header))
        })
    }

    /// What an observer hears. etcd's stream has no head before there is something to hear.
    fn observing(&self, name: &'static str) -> mpsc::UnboundedReceiver<Comparable> {
        let mut elections = self.elections.clone();
        let (sender, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let request = election::LeaderRequest { name: name.into() };
            let mut answers = elections.observe(request).await.unwrap().into_inner();
            while let Ok(Some(answer)) = answers.message().await {
                let answer = lines(Ok(tonic::Response::new(answer)), |r| mask_header(&mut r.header));
                if sender.send(answer).is_err() {
                    return;
                }
            }
        });
        heard
    }

    async fn proclaim(&mut self, what: &'static str, leader: Option<election::LeaderKey>, value: &'static str) {
        let answer = self.elections.proclaim(election::ProclaimRequest { leader, value: value.into() }).await;
        self.answers.push((what, lines(answer, |r| mask_header(&mut r.header))));
    }

    async fn resign(&mut self, what: &'static str, leader: Option<election::LeaderKey>) {
        let answer = self.elections.resign(election::ResignRequest { leader }).await;
        self.answers.push((what, lines(answer, |r| mask_header(&mut r.header))));
    }

    async fn leader(&mut self, what: &'static str, name: &'static str) {
        let answer = self.elections.leader(election::LeaderRequest { name: name.into() }).await;
        self.answers.push((what, lines(answer, |r| mask_header(&mut r.header))));
    }

    async fn heard(&mut self, what: &'static str, waiting: JoinHandle<Comparable>) {
        let answer = waiting.await.unwrap();
        self.answers.push((what, answer));
    }

    async fn kept(&mut self, what: &'static str, name: &str) {
        let keys = self.keys(name).await;
        self.answers.push((what, format!("{keys:#?}").lines().map(str::to_owned).collect()));
    }
}

fn key(name: &'static str, lease: i64, rev: i64) -> Option<election::LeaderKey> {
    Some(election::LeaderKey { name: name.into(), key: format!("{name}/{lease:x}").into(), rev, lease })
}

async fn locks(told: &mut Told) {
    told.grant(0xa1..=0xa9).await;
    told.lock("a free lock", "l", 0xa1).await;
    told.lock("the same lease again", "l", 0xa1).await;
    told.kept("the key of the holder", "l").await;
    told.lock("a name within the name", "l/x", 0xa1).await;
    told.unlock("and free", "l/x/a1").await;
    let second = told.locking("l", 0xa2);
    told.until("l", 2).await;
    let third = told.locking("l", 0xa3);
    told.until("l", 3).await;
    let leaves = told.locking("l", 0xa4);
    told.until("l", 4).await;
    leaves.abort();
    told.until("l", 3).await;
    told.kept("who left took its key along", "l").await;
    assert!(!second.is_finished() && !third.is_finished(), "nobody is served before its turn");
    told.unlock("the first unlocks", "l/a1").await;
    told.heard("the second is served", second).await;
    told.revoke(0xa2).await;
    told.heard("the third is served when the second's lease ends", third).await;
    let expires = told.locking("l", 0xa5);
    told.until("l", 2).await;
    told.revoke(0xa5).await;
    told.unlock("the third unlocks", "l/a3").await;
    told.heard("who lost its lease meanwhile is told", expires).await;
    told.kept("nobody queues", "l").await;
    told.unlock("a key that is not there", "l/none").await;
    told.unlock("no key", "").await;
    told.lock("no such lease", "l", 12345).await;
    told.lock("no name", "", 0xa6).await;
    told.grant(-5..=-5).await;
    told.lock("a negative lease", "n", -5).await;
    let granted = told.locks.lock(lock::LockRequest { name: "own".into(), lease: 0 }).await.unwrap().into_inner();
    let kept = told.keys("own").await;
    assert_eq!(kept[0].key, granted.key, "a lease of the member's own");
    let time = pb::LeaseTimeToLiveRequest { id: kept[0].lease, keys: false };
    let granted = told.lease.lease_time_to_live(time).await.unwrap().into_inner().granted_ttl;
    told.answers.push(("its time", vec![granted.to_string()]));
}

async fn elections(told: &mut Told) {
    told.grant(0xb1..=0xb9).await;
    told.leader("nobody leads", "e").await;
    told.campaign("the first candidate", "e", 0xb1, "one").await;
    told.campaign("the same again", "e", 0xb1, "one").await;
    told.campaign("the same, with another value", "e", 0xb1, "uno").await;
    told.leader("the first leads", "e").await;
    let first = told.keys("e").await[0].create_revision;
    let second = told.campaigning("e", 0xb2, "two");
    told.until("e", 2).await;
    let leaves = told.campaigning("e", 0xb3, "three");
    told.until("e", 3).await;
    leaves.abort();
    told.until("e", 2).await;
    told.leader("the first still leads", "e").await;
    told.proclaim("as somebody else", key("e", 0xb1, first + 1), "x").await;
    told.proclaim("nobody", None, "x").await;
    told.proclaim("an empty leader", Some(election::LeaderKey::default()), "x").await;
    told.proclaim("the first proclaims", key("e", 0xb1, first), "eins").await;
    told.leader("the first, with its value", "e").await;
    told.resign("as somebody else", key("e", 0xb1, first + 1)).await;
    told.resign("nobody", None).await;
    assert!(!second.is_finished(), "nobody is served before its turn");
    told.resign("the first resigns", key("e", 0xb1, first)).await;
    told.heard("the second leads", second).await;
    told.resign("the first resigns again", key("e", 0xb1, first)).await;
    told.proclaim("the first proclaims too late", key("e", 0xb1, first), "x").await;
    told.leader("the second leads", "e").await;
    told.campaign("no such lease", "e", 12345, "x").await;
    told.revoke(0xb2).await;
    told.leader("nobody leads any more", "e").await;
}

async fn observers(told: &mut Told) {
    told.grant(0xc1..=0xc4).await;
    let mut early = told.observing("o");
    told.campaign("the first, observed", "o", 0xc1, "one").await;
    let mut heard = vec![early.recv().await.unwrap()];
    let first = told.keys("o").await[0].create_revision;
    let mut late = told.observing("o");
    heard.push(late.recv().await.unwrap());
    let second = told.campaigning("o", 0xc2, "two");
    told.until("o", 2).await;
    for value in ["eins", "uno", "un"] {
        told.proclaim("it proclaims", key("o", 0xc1, first), value).await;
        heard.extend([early.recv().await.unwrap(), late.recv().await.unwrap()]);
    }
    told.resign("it resigns", key("o", 0xc1, first)).await;
    told.heard("the next one leads", second).await;
    heard.extend([early.recv().await.unwrap(), late.recv().await.unwrap()]);
    told.answers.extend(heard.into_iter().map(|answer| ("an observer hears", answer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_elections_go_as_etcds() {
    let Some(etcd) = etcd_bin_dir("locks_and_elections_go_as_etcds") else { return };
    let mut theirs = Told::new(Cluster::etcd(&etcd, 1).await).await;
    let mut ours = Told::new(Cluster::steady(3).await).await;
    for told in [&mut theirs, &mut ours] {
        locks(told).await;
        elections(told).await;
        observers(told).await;
    }
    let mut different = Vec::new();
    for ((what, theirs), (_, ours)) in theirs.answers.iter().zip(&ours.answers) {
        if theirs != ours {
            different.push(format!("{what}\n{}", difference(theirs, ours)));
        }
    }
    assert_eq!(theirs.answers.len(), ours.answers.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// etcd tells a candidate whose lease ended while it waited that it leads. We don't.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_whose_lease_ended_does_not_lead() {
    let mut told = Told::new(Cluster::quorate(1).await).await;
    told.grant(1..=2).await;
    told.campaign("the leader", "e", 1, "one").await;
    let waiting = told.campaigning("e", 2, "two");
    told.until("e", 2).await;
    told.revoke(2).await;
    told.revoke(1).await;
    assert_eq!(waiting.await.unwrap(), ["Unknown", "election: not leader"]);
}

//! Clusters that grow and shrink under load, and whose members are replaced until none of the first ones is left.

use crate::ended::{ended, quorate};
use crate::kills::assert_quiet_logs;
use crate::load::{Load, eventually};
use crate::members::{id_of, join, joining, members, remove, votes};
use crate::support::{Cluster, PATIENT, Server};
use quorate::proto::quorate::InspectResponse;
use std::collections::BTreeSet;
use std::time::Duration;

/// Writes stand still for so long only while somebody is elected: far beyond what a slow machine takes for anything else.
const UNEXPLAINED: Duration = Duration::from_secs(10);

/// A cluster that changes under load.
struct Troupe {
    cluster: Cluster,
    load: Load,
    /// The places of those who belong to it, in the order in which they came.
    there: Vec<usize>,
    term: u64,
}

impl Troupe {
    async fn new(size: usize) -> Troupe {
        let cluster = Cluster::new(Server::Quorate, size, &["--snapshot-count", "300", PATIENT]).await;
        let load = Load::start(&cluster, 6);
        load.acknowledged(50).await;
        let mut troupe = Troupe { cluster, load, there: (0..size).collect(), term: 0 };
        troupe.explain("at first").await;
        troupe
    }

    fn endpoints(&self) -> Vec<String> {
        self.there.iter().map(|place| self.cluster.nodes()[*place].client.clone()).collect()
    }

    async fn leader(&self) -> (usize, InspectResponse) {
        let mut found = None;
        eventually("one of them leads", async || {
            for place in &self.there {
                let inspected = self.cluster.client().inspect(&self.cluster.nodes()[*place].client).await;
                found = found.take().or(inspected.ok().filter(|i| i.role == "leader").map(|i| (*place, i)));
            }
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Whether every time in which nothing was written is an election's.
    async fn explain(&mut self, what: &str) {
        self.load.acknowledged(50).await;
        let (gap, term) = (self.load.take_gap(), self.leader().await.1.term);
        println!("{what}: at most {gap:?} between two acknowledgements, in terms {} to {term}", self.term);
        assert!(
            gap < UNEXPLAINED || term > self.term,
            "{what}: nothing was acknowledged for {gap:?}, without an election"
        );
        self.term = term;
    }

    async fn enter(&mut self, place: usize) {
        votes(&self.cluster, place).await;
        self.there.push(place);
        self.load.follow(&self.endpoints());
    }

    async fn grow(&mut self) {
        let place = self.cluster.add();
        join(&mut self.cluster, place, &self.there);
        self.enter(place).await;
        self.explain(&format!("grown to {}", self.there.len())).await;
    }

    /// Waits until the one that was removed has stopped.
    async fn leave(&mut self, place: usize) {
        self.there.retain(|other| *other != place);
        self.load.follow(&self.endpoints());
        let name = self.cluster.nodes()[place].name.clone();
        eventually(&format!("{name} has stopped"), async || self.cluster.ended(place).is_some()).await;
        assert_eq!(self.cluster.ended(place).unwrap().code(), Some(0), "{name} ends in order");
        assert!(self.cluster.log(place).contains("was removed from cluster"), "{name} says why it ends");
        self.cluster.kill(place);
    }

    async fn remove(&mut self, place: usize, what: &str) {
        let asked = *self.there.iter().find(|other| **other != place).unwrap();
        let name = self.cluster.nodes()[place].name.clone();
        let id = id_of(&self.cluster, asked, &name).await;
        remove(&self.cluster, asked, id).await;
        self.leave(place).await;
        self.explain(&format!("{what} {name} removed, {} left", self.there.len())).await;
    }

    /// The leader goes: it hands over first.
    async fn remove_the_leader(&mut self) {
        let (place, before) = self.leader().await;
        self.remove(place, "leader").await;
        assert!(self.cluster.log(place).contains("is committed: handing over heir=Ok"), "it goes without handing over");
        let after = self.leader().await.1;
        let handed = after.elections.iter().find(|election| election.term > before.term).expect("somebody was elected");
        // Its heir, or who was quicker when its process went.
        assert!(["transfer", "connection lost"].contains(&&*handed.cause), "{handed:?}");
    }

    async fn remove_a_follower(&mut self) {
        let leader = self.leader().await.0;
        let place = *self.there.iter().find(|place| **place != leader).unwrap();
        self.remove(place, "follower").await;
    }

    /// Everybody is killed, and started again with flags that speak of a cluster that is long gone.
    async fn restart_all(&mut self) {
        self.there.iter().for_each(|place| self.cluster.kill(*place));
        for place in self.there.clone() {
            let command = match place {
                0..3 => self.cluster.command(place),
                _ if place % 2 == 0 => joining(&self.cluster, place, &[0]),
                _ => {
                    let mut command = self.cluster.command_without_cluster(place);
                    command.args(["--initial-cluster", &self.cluster.initial_cluster()]);
                    command.args(["--initial-cluster-state", "existing"]).args(self.cluster.extra());
                    command
                }
            };
            self.cluster.start_with(place, command);
        }
        self.cluster.ready().await;
        self.explain(&format!("all {} killed", self.there.len())).await;
    }

    async fn end(self) {
        let names: BTreeSet<String> =
            members(&self.cluster, self.there[0]).await.into_iter().map(|member| member.name).collect();
        let expected = self.there.iter().map(|place| self.cluster.nodes()[*place].name.clone()).collect();
        assert_eq!(names, expected);
        self.load.verify_followed().await;
        assert_quiet_logs(&self.cluster);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_from_one_to_five_and_shrinks_to_one() {
    let mut troupe = Troupe::new(1).await;
    troupe.grow().await;
    troupe.grow().await;
    troupe.restart_all().await;
    troupe.grow().await;
    troupe.grow().await;
    troupe.restart_all().await;
    troupe.remove_the_leader().await;
    troupe.remove_a_follower().await;
    troupe.restart_all().await;
    troupe.remove_the_leader().await;
    troupe.remove_a_follower().await;
    troupe.restart_all().await;
    troupe.end().await;
}

impl Troupe {
    /// `quorate member replace`, with the one that leads first among those who go.
    async fn replace(&mut self, old: usize) {
        let new = self.cluster.add();
        let [old_name, new_name] = [old, new].map(|place| self.cluster.nodes()[place].name.clone());
        let url = format!("http://{}", self.cluster.nodes()[new].peer);
        let mut command = quorate();
        command.args(["member", "replace", &old_name, "--with", &url, "--name", &new_name]);
        command.args(["--endpoints", &self.endpoints().join(",")]);
        let plan = ["STEP VOTERS QUORUM MAY BE LOST", "now 3 2 1", &format!("{new_name} learns 3 2 1")];
        let votes = [format!("{new_name} has caught up and votes 4 3 1"), format!("{old_name} is removed 3 2 1")];
        let plan: Vec<&str> = plan.into_iter().chain(votes.iter().map(String::as_str)).collect();
        let mut dry = quorate();
        dry.args(command.get_args()).arg("--dry-run");
        ended(&mut dry).assert(0, &plan);
        assert_eq!(members(&self.cluster, old).await.len(), 3, "a plan changes nothing");
        let replacing = tokio::task::spawn_blocking(move || command.output().unwrap());
        // It can be started at once: nobody knows it before it was added, and until then it asks.
        let listed = async || {
            let list = self.cluster.client().member_list(true).await;
            list.is_ok_and(|list| list.members.iter().any(|member| member.peer_ur_ls == [url.clone()]))
        };
        eventually("the new member was added", listed).await;
        join(&mut self.cluster, new, &self.there);
        self.enter(new).await;
        let output = replacing.await.unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.status.success(), "{said}");
        assert!(plan.iter().all(|step| words.contains(step)) && words.contains("removed from cluster"), "{said}");
        self.leave(old).await;
        self.explain(&format!("{old_name} replaced by {new_name}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_is_replaced_until_none_of_the_first_is_left() {
    let mut troupe = Troupe::new(3).await;
    for _ in 0..3 {
        let (leader, _) = troupe.leader().await;
        let old = if leader < 3 { leader } else { troupe.there[0] };
        troupe.replace(old).await;
    }
    assert_eq!(troupe.there, [3, 4, 5]);
    troupe.restart_all().await;
    // The first ones are told at the door, whatever their flags say.
    for place in 0..3 {
        ended(&mut troupe.cluster.command(place)).assert(0, &["was removed from cluster", "--join"]);
    }
    troupe.end().await;
}

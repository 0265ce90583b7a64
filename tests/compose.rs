//! The Compose cluster on a real engine: the image, its network and its volumes, and what becomes of writes when they are
//! treated badly. Clients come through the published ports, as a user's do.
//!
//! Run with the tag of an image to test: `QUORATE_TEST_IMAGE=quorate:latest cargo test --test compose -- --nocapture`.
//! Nothing here judges a time but by a bound that only something broken exceeds; the times are printed.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[allow(dead_code, reason = "the other half is for clusters of processes")]
#[path = "cluster/load.rs"]
mod load;
#[path = "compose/project.rs"]
mod project;
mod support;

use load::{Load, eventually};
use project::{Docker, MEMBERS, Project, docker};
use quorate::client::{Client, Options};
use quorate::clock;
use quorate::proto::etcdserverpb as pb;
use std::time::Duration;

/// More than any one fault may cost.
const GAP_MAX: Duration = Duration::from_secs(10);

const WRITERS: usize = 12;

/// How often the leader is stopped in good order: its cost is the one that matters most, since every update pays it.
const STOPS: usize = 10;

/// How often it is killed.
const KILLS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn members_come_up_in_any_order() {
    let Some(docker) = Docker::find("members_come_up_in_any_order") else { return };
    for order in [&["n3", "n2", "n1"][..], &["n2", "n1 n3"]] {
        let project = Project::new(&docker);
        for names in order {
            blocking(|| project.compose(&format!("up --detach {names}")));
        }
        ready(&project).await;
        every_port_serves(&project).await;
    }
}

/// Everything that may happen to a cluster, one after another, under one load; then the books are compared.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives() {
    let Some(docker) = Docker::find("what_was_acknowledged_survives") else { return };
    let project = Project::new(&docker);
    blocking(|| project.compose("up --detach"));
    ready(&project).await;
    every_port_serves(&project).await;
    for (name, _) in MEMBERS {
        eventually("the engine finds it healthy", async || {
            blocking(|| project.inspect(name, ".State.Health.Status")) == "healthy"
        })
        .await;
    }
    let mut story = Story { load: Load::on(&project.endpoints(), WRITERS), project, costs: Vec::new() };
    story.load.acknowledged(200).await;
    for _ in 0..STOPS {
        story.nothing().await;
    }
    for _ in 0..KILLS {
        story.kill_the_leader().await;
    }
    for _ in 0..STOPS {
        story.stop_the_leader().await;
    }
    story.pause_the_leader().await;
    story.cut_off_the_leader().await;
    story.lose_a_volume().await;
    story.restart_one_by_one().await;
    story.restart_all().await;
    story.end().await;
}

/// Engine commands wait; the writers must not.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// Waits until every member serves linearizable reads.
async fn ready(project: &Project) {
    for place in 0..MEMBERS.len() {
        let client = project.client_of(place);
        let read = pb::RangeRequest { key: "ready".into(), ..Default::default() };
        eventually("a member is ready", async || client.range(read.clone()).await.is_ok()).await;
    }
}

/// A write through each member is read through the next one.
async fn every_port_serves(project: &Project) {
    for (place, (name, _)) in MEMBERS.iter().enumerate() {
        let key = format!("through {name}");
        let put = pb::PutRequest { key: key.clone().into(), value: "x".into(), ..Default::default() };
        project.client_of(place).put(put).await.unwrap();
        let next = project.client_of((place + 1) % MEMBERS.len());
        let found = next.range(pb::RangeRequest { key: key.into(), ..Default::default() }).await.unwrap();
        assert_eq!(&found.kvs[0].value[..], b"x");
    }
}

/// What one fault cost.
struct Cost {
    fault: &'static str,
    /// The longest time in which no write at all was acknowledged.
    gap: Duration,
    /// The longest time in which one of the writers had none acknowledged.
    writer_gap: Duration,
    /// Writes of which nobody knows whether they were done.
    uncertain: u64,
}

struct Story {
    project: Project,
    load: Load,
    costs: Vec<Cost>,
}

impl Story {
    /// The name of the member that leads.
    async fn leader(&self) -> &'static str {
        let endpoints = self.project.endpoints();
        let client = Client::new(&endpoints, Options::default()).unwrap();
        let mut leader = None;
        eventually("a member leads", async || {
            let mut newest = 0;
            for (endpoint, (name, _)) in endpoints.iter().zip(MEMBERS) {
                let Ok(status) = client.status(endpoint).await else { continue };
                if status.header.is_some_and(|header| header.member_id == status.leader) && status.raft_term > newest {
                    newest = status.raft_term;
                    leader = Some(name);
                }
            }
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// Waits for writes after a fault, and notes what it has cost until now.
    async fn cost(&mut self, fault: &'static str) {
        self.load.acknowledged(100).await;
        let (gap, writer_gap) = self.load.take_gaps();
        let uncertain = self.load.counts().uncertain - self.costs.iter().map(|cost| cost.uncertain).sum::<u64>();
        println!("{fault}: no write for {gap:.1?}, the slowest writer for {writer_gap:.1?}, {uncertain} uncertain");
        self.costs.push(Cost { fault, gap, writer_gap, uncertain });
    }

    /// Everybody is well, and writes flow: the next gap is the next fault's.
    async fn calm(&self) {
        ready(&self.project).await;
        self.load.acknowledged(200).await;
        self.load.take_gaps();
    }

    /// What the machine alone costs: the faults below are to be compared with it.
    async fn nothing(&mut self) {
        self.load.acknowledged(400).await;
        self.cost("nothing").await;
    }

    async fn kill_the_leader(&mut self) {
        let leader = self.project.container(self.leader().await);
        blocking(|| docker(&format!("kill {leader}")));
        self.cost("leader killed").await;
        blocking(|| docker(&format!("start {leader}")));
        self.calm().await;
    }

    async fn stop_the_leader(&mut self) {
        let name = self.leader().await;
        let container = self.project.container(name);
        let began = clock::instant();
        blocking(|| docker(&format!("stop {container}")));
        let took = began.elapsed();
        assert_eq!(self.project.inspect(name, ".State.ExitCode"), "0", "a member that is told to stop ends in order");
        assert!(took < GAP_MAX, "{name} had to be killed");
        self.cost("leader stopped").await;
        blocking(|| docker(&format!("start {container}")));
        self.calm().await;
    }

    async fn pause_the_leader(&mut self) {
        let leader = self.project.container(self.leader().await);
        blocking(|| docker(&format!("pause {leader}")));
        self.cost("leader paused").await;
        blocking(|| docker(&format!("unpause {leader}")));
        self.calm().await;
    }

    async fn cut_off_the_leader(&mut self) {
        let leader = self.leader().await;
        blocking(|| self.project.disconnect(leader));
        self.cost("leader off the network").await;
        blocking(|| self.project.connect(leader));
        self.calm().await;
    }

    /// A member whose volume is lost is refused, and says why; with its volume it goes on.
    async fn lose_a_volume(&mut self) {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("n3.tar");
        blocking(|| {
            self.project.compose("stop n3");
            self.project.copy_volume("n3", &copy);
            self.project.wipe("n3");
            self.project.compose("start n3");
        });
        eventually("n3 says that its volume was emptied", async || {
            blocking(|| self.project.log("n3")).contains("its data directory was emptied, or replaced by another one")
        })
        .await;
        eventually("n3 ends for that", async || blocking(|| self.project.inspect("n3", ".State.ExitCode")) == "1")
            .await;
        self.cost("volume lost").await;
        blocking(|| {
            self.project.wipe("n3");
            self.project.fill_volume("n3", &copy);
            self.project.compose("start n3");
        });
        self.calm().await;
    }

    async fn restart_one_by_one(&mut self) {
        for (name, _) in MEMBERS {
            blocking(|| self.project.compose(&format!("restart {name}")));
            ready(&self.project).await;
        }
        self.cost("restarts, one by one").await;
        self.calm().await;
    }

    async fn restart_all(&mut self) {
        blocking(|| self.project.compose("restart"));
        self.calm().await;
    }

    /// Compares the books, and prints the bill.
    async fn end(self) {
        for (doubt, count) in self.load.counts().doubts {
            println!("uncertain {count} times: {doubt}");
        }
        let declined = self.load.compare_with(&self.project.endpoints()).await;
        assert_eq!(declined, 0, "writes were declined, though there is room");
        println!(
            "{:<24} {:>6} {:>24} {:>20} {:>9}",
            "", "rounds", "no write (median, worst)", "one writer", "uncertain"
        );
        let mut faults: Vec<&str> = self.costs.iter().map(|cost| cost.fault).collect();
        faults.dedup();
        for fault in faults {
            let of = |pick: fn(&Cost) -> Duration| {
                let mut found: Vec<Duration> = self.costs.iter().filter(|c| c.fault == fault).map(pick).collect();
                found.sort();
                (found.len(), format!("{:.1?}, {:.1?}", found[found.len() / 2], found[found.len() - 1]))
            };
            let ((rounds, gap), (_, writer)) = (of(|cost| cost.gap), of(|cost| cost.writer_gap));
            let uncertain: u64 = self.costs.iter().filter(|cost| cost.fault == fault).map(|cost| cost.uncertain).sum();
            println!("{fault:<24} {rounds:>6} {gap:>24} {writer:>20} {uncertain:>9}");
        }
        for cost in &self.costs {
            assert!(cost.gap < GAP_MAX, "{}: no write for {:?}", cost.fault, cost.gap);
        }
    }
}

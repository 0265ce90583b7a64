//! Facts and what is made of them, as a table.

use super::facts::{Dial, Probe, Reached, Read, Scene, Told};
use super::verdict::{Verdict, judge};
use crate::cli::exit::{Doctor, Failure};
use crate::cli::lab_file::{LabFile, LabNode, LabState};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate as own;
use crate::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Three members, `n1` to `n3`, at ports 1 to 3 of `h`, peers at 11 to 13.
fn members() -> Vec<pb::Member> {
    let member = |id: u64| pb::Member {
        id,
        name: format!("n{id}"),
        client_ur_ls: vec![format!("http://h:{id}")],
        peer_ur_ls: vec![format!("http://h:{}", id + 10)],
        is_learner: false,
    };
    (1..=3).map(member).collect()
}

/// What member `id` says when it takes `leader` for the leader.
fn told(id: u64, leader: u64, read: Read) -> Told {
    let header = pb::ResponseHeader { cluster_id: 0xc, member_id: id, ..Default::default() };
    let status = pb::StatusResponse { header: Some(header), leader, raft_term: 7, ..Default::default() };
    Told { status, members: members(), read, inspect: None }
}

fn member(id: u64, leader: u64, read: Read) -> Reached {
    Reached::Member(Box::new(told(id, leader, read)))
}

fn well(id: u64) -> Reached {
    member(id, 3, Read::Took(Duration::from_micros(2_300)))
}

fn refused() -> Reached {
    Reached::NoConnection(Dial::Refused)
}

fn scene(asked: Vec<Reached>) -> Scene {
    let probe = |(place, reached)| Probe { endpoint: format!("h:{}", place + 1), reached };
    Scene { asked: asked.into_iter().enumerate().map(probe).collect(), ..Scene::default() }
}

fn lab(states: [LabState; 3]) -> LabFile {
    let node = |(place, state)| LabNode {
        name: format!("n{}", place + 1),
        client_url: format!("http://h:{}", place + 1),
        peer_url: String::new(),
        pid: 0,
        data_dir: "/".into(),
        log_path: "/".into(),
        command: vec![],
        state,
    };
    let nodes = states.into_iter().enumerate().map(node).collect();
    LabFile { version: 1, pid: 0, started_unix_us: 0, dir: "/".into(), nodes }
}

/// The verdict on one endpoint: the stage, what is wrong and the fix in one line, or how well it is.
fn line(verdict: &Verdict) -> String {
    match &verdict.outcome {
        Ok(well) => format!("ok {well}"),
        Err(finding) => {
            let fix = finding.fix.as_ref().map_or(String::new(), |fix| format!(" => {fix}"));
            format!("{} {}{fix}", finding.stage.name(), finding.what)
        }
    }
}

#[track_caller]
fn assert_says(scene: &Scene, place: usize, phrases: &[&str]) {
    let verdicts = judge(scene);
    let line = line(&verdicts[place]);
    for phrase in phrases {
        assert!(line.contains(phrase), "{line:?} lacks {phrase:?}");
    }
}

#[test]
fn what_is_no_member_is_told_by_how_far_it_let_itself_be_asked() {
    let text = || "x".to_owned();
    for (reached, phrases) in [
        (
            Reached::NoAddress("Name or service not known".into()),
            ["dns the name h has no", "=> check", "getent hosts h"],
        ),
        (refused(), ["tcp connection refused", "=> start the member there", "sport = :1"]),
        (Reached::NoConnection(Dial::TimedOut(SECOND)), ["tcp no connection within 1s", "firewall", "=> see whether"]),
        (Reached::NoConnection(Dial::Other("No route".into())), ["tcp no connection: no route", "=> see", "get h"]),
        (Reached::Tls, ["tls it speaks TLS", "=> etcdctl", "https://h:1"]),
        (Reached::Web("HTTP/1.1 404 Not Found".into()), ["http/2 a web server", "HTTP/1.1 404", "=> give"]),
        (Reached::Stranger("SSH-2.0-x".into()), ["http/2 who answers says", "\"SSH-2.0-x\"", "sport = :1"]),
        (Reached::Stranger(String::new()), ["http/2 who answers", "hangs up without a word", "sport = :1"]),
        (Reached::Silent(SECOND), ["http/2 it takes connections", "nothing for 1s", "sport = :1"]),
        (
            Reached::NoApi("unknown service etcdserverpb.KV".into()),
            ["grpc it speaks gRPC", "unknown service", "=> give"],
        ),
        (Reached::Mute(SECOND), ["grpc it speaks HTTP/2", "within 1s", "=> see"]),
        (Reached::Refuses("etcdserver: server stopped".into()), ["grpc the member is stopping", "=> start", ""]),
        (Reached::Refuses(text()), ["grpc it refuses", "x", ""]),
    ] {
        assert_says(&scene(vec![reached]), 0, &phrases);
    }
}

#[test]
fn the_peer_port_is_recognised_and_the_right_one_is_named() {
    let at = |endpoint: &str| {
        let asked = vec![Probe { endpoint: endpoint.into(), reached: Reached::PeerPort(members()) }];
        Scene { asked, ..Scene::default() }
    };
    assert_says(&at("h:12"), 0, &["grpc port 12 is where n2 talks to the other members", "=> --endpoints h:2"]);
    assert_says(&at("h:99"), 0, &["grpc port 99 is where a member talks", "=> give the member's client address"]);
}

#[test]
fn a_cluster_that_serves_is_well() {
    let scene = scene(vec![well(1), well(2), well(3)]);
    assert_says(&scene, 0, &["ok n1 follows n3 (term 7)", "took 2.3 ms"]);
    assert_says(&scene, 2, &["ok n3 leads (term 7)"]);
    assert!(judge(&scene).iter().all(|verdict| verdict.serves() && verdict.answers()));
}

#[test]
fn without_a_quorum_the_count_the_silent_ones_and_their_start_are_named() {
    let mut scene = scene(vec![member(1, 0, Read::Untried), refused(), Reached::Silent(SECOND)]);
    let count = "leader n1 knows no leader (term 7): of 3 voters only n1 answers; a quorum is 2, so 1 more is needed";
    assert_says(
        &scene,
        0,
        &[count, "n2 (h:2) refuses connections; n3 (h:3) takes connections and says nothing for 1s"],
    );
    assert_says(&scene, 0, &["=> start n2 where it runs"]);
    scene.lab = Some(lab([LabState::Running, LabState::Killed, LabState::Paused]));
    assert_says(&scene, 0, &["=> quorate dev start n2"]);
    assert_says(&scene, 1, &["tcp connection refused", "=> quorate dev start n2"]);
    assert_says(&scene, 2, &["http/2 ", "=> quorate dev resume n3"]);
    let verdicts = judge(&scene);
    assert!(verdicts[0].answers() && !verdicts[0].serves() && !verdicts[1].answers());
    // A leader that has not noticed yet that it is alone.
    scene.asked[0].reached = member(1, 1, Read::Silent(SECOND));
    assert_says(&scene, 0, &["quorum n1 takes n1 for the leader", "no answer within 1s", "1 more is needed"]);
}

#[test]
fn five_members_may_lack_two_and_a_learner_counts_for_nothing() {
    let mut told = told(1, 0, Read::Untried);
    let more = (4..=6).map(|id| pb::Member { id, name: format!("n{id}"), is_learner: id == 6, ..members()[0].clone() });
    told.members.extend(more);
    let scene = scene(vec![Reached::Member(Box::new(told)), refused(), refused()]);
    assert_says(&scene, 0, &["of 5 voters only n1 answers; a quorum is 3, so 2 more are needed"]);
}

#[test]
fn members_that_answer_and_have_no_leader_are_at_an_election() {
    let scene = scene(vec![member(1, 0, Read::Untried), member(2, 0, Read::Untried), refused()]);
    assert_says(&scene, 0, &["leader n1 knows no leader", "an election is under way", "http://h:12 and http://h:13"]);
}

#[test]
fn a_member_that_is_cut_off_is_told_from_a_cluster_without_a_quorum() {
    let with_others = |told: Told| scene(vec![Reached::Member(Box::new(told)), well(2), well(3)]);
    let cut = "it is cut off, and has no connection to n2 and n3";
    assert_says(&with_others(cut_off()), 0, &["leader n1 knows no leader, though n3 leads the others", cut]);
    let mut stale = cut_off();
    (stale.status.leader, stale.read) = (3, Read::Failed("etcdserver: request timed out".into()));
    assert_says(&with_others(stale), 0, &["quorum a linearizable read failed (etcdserver: request timed out)", cut]);
}

#[test]
fn a_leader_that_went_silent_is_named() {
    let scene = scene(vec![member(1, 3, Read::Silent(SECOND)), member(2, 3, Read::Silent(SECOND)), refused()]);
    assert_says(
        &scene,
        0,
        &["quorum a linearizable read had no answer within 1s: the leader is gone", "n3 (h:3) refuses"],
    );
}

#[test]
fn an_alarm_another_cluster_and_slowness_are_found_in_a_member_that_serves() {
    let with = |change: &dyn Fn(&mut Told)| {
        let mut told = told(1, 3, Read::Took(Duration::from_millis(2)));
        change(&mut told);
        scene(vec![well(1), Reached::Member(Box::new(told)), well(3)])
    };
    let alarm = with(&|told| told.status.errors = vec!["memberID:1 alarm:NOSPACE ".into()]);
    let corrupt = with(&|told| told.status.errors = vec!["memberID:0 alarm:CORRUPT ".into()]);
    assert_says(&corrupt, 1, &["memberID:0 alarm:CORRUPT is raised: the members' states differ", "alarm disarm"]);
    assert_says(&alarm, 1, &["space memberID:1 alarm:NOSPACE is raised", "alarm disarm"]);
    let other = with(&|told| told.status.header = Some(pb::ResponseHeader { cluster_id: 0xd, ..Default::default() }));
    assert_says(&other, 1, &["grpc", "another cluster (d, not c)"]);
    let slow = with(&|told| told.read = Read::Took(Duration::from_millis(840)));
    assert_says(&slow, 1, &["speed n1 works, but slowly: a linearizable read took 840 ms"]);
    let sync = own::InspectResponse { sync_p99_us: 390_000, ..Default::default() };
    let disk = with(&|told| told.inspect = Some(sync.clone()));
    assert_says(&disk, 1, &["speed n1 works, but its disk is slow: of 100 syncs one takes 390 ms or more"]);
    assert!(judge(&disk).iter().all(Verdict::serves), "slow is not down");
    assert!(!judge(&alarm)[1].serves());
}

#[test]
fn a_member_that_nobody_asked_about_is_mentioned_if_it_answers_nowhere() {
    let mut scene = scene(vec![well(1)]);
    let probe = |endpoint: &str, reached| Probe { endpoint: endpoint.into(), reached };
    scene.announced = vec![probe("h:2", well(2)), probe("h:3", refused())];
    let verdicts = judge(&scene);
    assert_eq!(verdicts.iter().map(|verdict| verdict.endpoint.as_str()).collect::<Vec<_>>(), ["h:1", "h:3"]);
    assert_says(&scene, 1, &["tcp n3: connection refused", "=> start n3 where it runs"]);
    scene.announced[1].reached = well(3);
    assert_eq!(judge(&scene).len(), 1);
}

#[test]
fn a_finding_takes_the_place_of_a_guess_and_of_nothing_else() {
    let fix = |doctor, has_fix| {
        let failure = Failure::new(1, "x").fix("a fix").doctor(doctor).finding("found\n".to_owned(), has_fix);
        format!("{failure:?}").contains("a fix")
    };
    assert!(fix(Doctor::Beside, true) && fix(Doctor::Instead, false));
    assert!(!fix(Doctor::Instead, true));
}

/// A member without a connection to the others.
fn cut_off() -> Told {
    let peer = |member_id, connected| own::PeerStatus { member_id, connected, ..Default::default() };
    let inspect = own::InspectResponse { peers: vec![peer(2, false), peer(3, false)], ..Default::default() };
    Told { inspect: Some(inspect), ..told(1, 0, Read::Untried) }
}

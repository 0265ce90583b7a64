//! Who belongs to the cluster, as the log says it.

use super::*;
use crate::proto::quorate::UpdateMember;
use std::collections::BTreeMap;

fn membership(bytes: &'static str, members: &[(u64, Standing)], urls: &[(u64, &str)]) -> Membership {
    Membership {
        bytes: Bytes::from_static(bytes.as_bytes()),
        members: members.iter().map(|(id, standing)| (MemberId(*id), *standing)).collect(),
        peer_urls: urls.iter().map(|(id, url)| (MemberId(*id), vec![(*url).to_owned()])).collect(),
    }
}

fn standings(store: &Store) -> BTreeMap<u64, Standing> {
    store.machine.members().into_iter().map(|member| (member.id.0, member.standing)).collect()
}

fn publish(store: &mut Store, member_id: u64) {
    let (name, client_urls) = (format!("n{member_id}"), vec![format!("http://c{member_id}")]);
    let publish = PublishMember { member_id, name, client_urls, disk_id: member_id };
    store.apply(command::Op::Publish(publish)).unwrap();
}

fn update(store: &mut Store, member_id: u64, urls: &[&str]) -> Result<Response, Error> {
    let peer_urls = urls.iter().map(|url| (*url).to_owned()).collect();
    store.apply(command::Op::UpdateMember(UpdateMember { member_id, peer_urls }))
}

#[test]
fn the_table_follows_the_configuration() {
    use Standing::{Joining, Learner, Voter};
    let mut store = Store::new();
    publish(&mut store, 1);
    let before = store.machine.digest();
    store.reconfigure(&membership("a", &[(1, Voter), (2, Voter), (3, Joining)], &[(3, "http://n3:2380")]));
    assert_ne!(store.machine.digest(), before);
    assert_eq!(standings(&store), BTreeMap::from([(1, Voter), (2, Voter), (3, Joining)]));
    let third = store.machine.members().remove(2);
    assert!(!third.is_started());
    assert_eq!(third.peer_urls, ["http://n3:2380"]);
    publish(&mut store, 3);
    store.reconfigure(&membership("b", &[(1, Learner), (3, Voter)], &[]));
    assert_eq!(standings(&store), BTreeMap::from([(1, Learner), (3, Voter)]));
    let names: Vec<String> = store.machine.members().into_iter().map(|member| member.name).collect();
    assert_eq!(names, ["n1", "n3"], "what they had said stays");
    assert_eq!(store.machine.view().configuration(), "b");
}

#[test]
fn an_id_that_is_gone_never_comes_again() {
    use Standing::Voter;
    let mut store = Store::new();
    store.reconfigure(&membership("a", &[(1, Voter)], &[]));
    store.write();
    for _ in 0..2 {
        let view = store.machine.view();
        assert!(view.is_gone(MemberId(2)) && !view.is_gone(MemberId(1)));
        store.reconfigure(&membership("b", &[(1, Voter), (2, Voter)], &[(2, "http://n2:2380")]));
        publish(&mut store, 2);
        assert_eq!(standings(&store), BTreeMap::from([(1, Voter)]));
        assert_eq!(update(&mut store, 2, &["http://x"]), Err(Error::MemberNotFound));
        store.write();
        let now = store.set("k", "v");
        store.write();
        store.compact(now);
        store.sweep_all();
        store = Store::open(store.engine.clone());
        assert_eq!(store.machine.view().configuration(), "b");
    }
}

#[test]
fn what_members_were_is_swept_away() {
    use Standing::Voter;
    let mut store = Store::new();
    for round in 3..60 {
        let urls = format!("http://n{round}:2380");
        store.reconfigure(&membership("c", &[(1, Voter), (round, Voter)], &[(round, &urls)]));
        publish(&mut store, round);
        store.write();
    }
    let before = store.engine.size_on_disk();
    let now = store.set("k", "v");
    store.write();
    store.compact(now);
    store.sweep_all();
    let after = store.engine.size_on_disk();
    assert!(after * 2 < before, "{before} bytes before, {after} after");
    let again = Store::open(store.engine.clone());
    assert_eq!(standings(&again), BTreeMap::from([(1, Voter), (59, Voter)]));
    assert!((2..59).all(|id| again.machine.view().is_gone(MemberId(id))));
    assert_eq!(again.machine.digest(), store.machine.digest());
}

#[test]
fn a_member_moves_to_urls_that_nobody_else_has() {
    let mut store = Store::new();
    let changes = store.machine.view().member_changes();
    assert_eq!(update(&mut store, 1, &["http://a", "http://n2:2380"]), Err(Error::PeerUrlsExist));
    assert_eq!(update(&mut store, 7, &["http://a"]), Err(Error::MemberNotFound));
    assert_eq!(store.machine.view().member_changes(), changes);
    assert_eq!(update(&mut store, 1, &["http://a", "http://n1:2380"]), Ok(Response::Done));
    assert_eq!(store.machine.members()[0].peer_urls, ["http://a", "http://n1:2380"]);
    assert_eq!(store.machine.view().member_changes(), changes + 1);
}

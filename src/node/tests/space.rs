//! Alarms of space, on the members of the leases' tests.

use super::leases::{Lab, id_of};
use super::*;
use crate::proto::etcdserverpb::AlarmType;
use own::command::Op as Command;

/// A follower's NOSPACE alarm is raised.
fn raise(lab: &mut Lab, follower: usize, by_itself: bool) {
    let (member_id, alarm) = (id_of(follower).0, AlarmType::Nospace.into());
    let leader = lab.leader().unwrap();
    let slot = lab.propose(leader, Command::Alarm(own::SetAlarm { member_id, alarm, active: true, by_itself }));
    let Reply::Applied { outcome, .. } = lab.reply(slot) else { panic!("not applied") };
    outcome.unwrap();
}

fn takes_puts(lab: &Lab) -> bool {
    lab.member(lab.leader().unwrap()).node.view().may_grow()
}

#[test]
fn the_alarm_of_a_member_that_is_gone_is_cleared_by_the_leader() {
    let mut lab = Lab::new(3);
    let gone = lab.follower();
    lab.kill(gone);
    raise(&mut lab, gone, true);
    assert!(!takes_puts(&lab));
    let took = lab.until("space", takes_puts);
    assert!(took >= Duration::from_secs(9), "{took:?}: its owner comes first");
}

#[test]
fn the_alarms_of_all_that_are_gone_are_cleared_at_once() {
    let mut lab = Lab::new(5);
    for _ in 0..2 {
        let gone = lab.follower();
        lab.kill(gone);
        raise(&mut lab, gone, true);
    }
    assert!(!takes_puts(&lab));
    let took = lab.until("space", takes_puts);
    assert!(took < Duration::from_secs(12), "{took:?}: nobody waits for one after the other");
}

#[test]
fn a_member_that_is_there_clears_its_alarm_itself() {
    let mut lab = Lab::new(3);
    let follower = lab.follower();
    raise(&mut lab, follower, true);
    let took = lab.until("space", takes_puts);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn an_alarm_that_somebody_asked_for_stays() {
    let mut lab = Lab::new(3);
    let gone = lab.follower();
    lab.kill(gone);
    raise(&mut lab, gone, false);
    lab.pass(Duration::from_secs(30));
    assert!(!takes_puts(&lab));
}

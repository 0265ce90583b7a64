//! Members and alarms: the small parts of the replicated state.
//!
//! Left out: changes of membership. The members are those that the cluster began with.

use super::record::{Effect, Raised, encode_member};
use super::{Machine, Member};
use crate::ids::{DiskId, MemberId};
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::quorate::{PublishMember, SetAlarm};

impl Machine {
    /// A member says how it is called, where clients reach it and on which disk it lives. The first disk that is heard of
    /// stays: a member on another one is an emptied volume or a copied directory, and is not believed. Who is no member
    /// changes nothing either.
    pub(super) fn publish_member(&mut self, publish: &PublishMember) {
        let id = MemberId(publish.member_id);
        let Some(old) = self.shared.read().members.get(&id).cloned() else { return };
        let disk = DiskId(publish.disk_id);
        if old.disk.is_some_and(|known| known != disk) {
            return;
        }
        let (name, client_urls) = (publish.name.clone(), publish.client_urls.clone());
        let new = Member { name, client_urls, disk: Some(disk), ..old.clone() };
        if new != old {
            self.emit(&Effect::Member(&encode_member(&new)), None);
        }
    }

    /// Raises or clears an alarm. One that is none of etcd's changes nothing.
    pub(super) fn set_alarm(&mut self, set: &SetAlarm) {
        let member = MemberId(set.member_id);
        let known = matches!(AlarmType::try_from(set.alarm), Ok(AlarmType::Nospace | AlarmType::Corrupt));
        let is = self.shared.read().alarms.get(&(member, set.alarm)).copied().unwrap_or(Raised::Not);
        let raised = match (set.active, set.by_itself) {
            (false, _) => Raised::Not,
            // What somebody raised stays until somebody clears it.
            (true, true) if is == Raised::OnRequest => is,
            (true, true) => Raised::ByItself,
            (true, false) => Raised::OnRequest,
        };
        if known && is != raised {
            self.emit(&Effect::Alarm { member, alarm: set.alarm, raised }, None);
        }
    }

    /// Whether the store may grow: no member is short of space.
    pub(super) fn may_grow(&self) -> bool {
        self.shared.read().may_grow()
    }
}

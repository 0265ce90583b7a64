//! Who belongs to the cluster, and its alarms: the small parts of the replicated state.
//!
//! Who votes is Raft's to decide and is in force before it is applied. Here it is written down: the bytes of the
//! configuration, which nobody reads in this room, and what people and connections want to know of each member. The node
//! says in a [`Membership`] what an entry's configuration means for the table; the table follows it:
//!
//! - a member that is new gets an entry, without a name until it says one;
//! - a member that is in no part of it any more is removed, and its id is kept for ever among those that are gone. An entry
//!   for such an id is never made again, whatever asks for it.
//!
//! Nothing here can be refused but new URLs: when an entry of a configuration is applied, it has been in force for a while.

use super::record::{Effect, Raised, encode_member};
use super::{Error, Machine};
use crate::ids::{DiskId, MemberId};
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::quorate::{PublishMember, SetAlarm, UpdateMember};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What an entry of the log is about.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// Nothing: it moves the position only.
    Nothing,
    /// An encoded `proto::quorate::Command`.
    Command(&'a Bytes),
    /// A configuration.
    Membership(&'a Membership),
}

impl Content<'_> {
    /// What it adds to a record, about, in bytes.
    pub(super) fn size(self) -> usize {
        match self {
            Content::Nothing => 0,
            Content::Command(command) => command.len(),
            Content::Membership(membership) => membership.bytes.len(),
        }
    }
}

/// How a member stands in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It votes.
    #[default]
    Voter,
    /// It learns, until somebody asks for it to vote.
    Learner,
    /// It learns, until it has caught up. To clients it is a member like others.
    Joining,
}

impl Standing {
    /// All, by their number on the disk.
    pub(super) const ALL: [Standing; 3] = [Standing::Voter, Standing::Learner, Standing::Joining];
}

/// What a configuration means for the table of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The configuration itself, for [`super::View::configuration`]. Nobody reads it here.
    pub bytes: Bytes,
    /// Everyone who is in it; while a change is under way, those before and those after it.
    pub members: BTreeMap<MemberId, Standing>,
    /// Where peers reach those who are new.
    pub peer_urls: BTreeMap<MemberId, Vec<String>>,
}

/// A member, as the replicated state knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty until it has published one.
    pub name: String,
    /// Where peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has published.
    pub client_urls: Vec<String>,
    /// Its disk, once seen.
    pub disk: Option<DiskId>,
    /// Whether it votes.
    pub standing: Standing,
}

impl Member {
    /// Whether it has been heard of: it has published on which disk it lives.
    pub fn is_started(&self) -> bool {
        self.disk.is_some()
    }
}

impl Machine {
    /// The table follows a configuration.
    pub(super) fn change_membership(&mut self, membership: &Membership) {
        let (known, gone) = {
            let state = self.shared.read();
            (state.members.clone(), state.gone.clone())
        };
        for (id, standing) in membership.members.iter().filter(|(id, _)| !gone.contains(id)) {
            let new = || Member {
                id: *id,
                peer_urls: membership.peer_urls.get(id).cloned().unwrap_or_default(),
                ..Member::default()
            };
            let member = Member { standing: *standing, ..known.get(id).cloned().unwrap_or_else(new) };
            if known.get(id) != Some(&member) {
                self.emit(&Effect::Member(&encode_member(&member)), None);
            }
        }
        for id in known.into_keys().filter(|id| !membership.members.contains_key(id)) {
            self.emit(&Effect::MemberGone { id }, None);
        }
        self.emit(&Effect::Configuration(&membership.bytes), None);
    }

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

    /// Somebody says where peers reach a member.
    pub(super) fn update_member(&mut self, update: &UpdateMember) -> Result<(), Error> {
        let id = MemberId(update.member_id);
        let (old, taken) = {
            let members = &self.shared.read().members;
            let mut others = members.values().filter(|member| member.id != id);
            let taken = others.any(|other| other.peer_urls.iter().any(|url| update.peer_urls.contains(url)));
            (members.get(&id).cloned().ok_or(Error::MemberNotFound)?, taken)
        };
        if taken {
            return Err(Error::PeerUrlsExist);
        }
        let new = Member { peer_urls: update.peer_urls.clone(), ..old.clone() };
        if new != old {
            self.emit(&Effect::Member(&encode_member(&new)), None);
        }
        Ok(())
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

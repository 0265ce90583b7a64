//! Changes of who belongs to the cluster.

use super::Halt;
use crate::ids::MemberId;
use crate::machine::{Membership, Standing};
use crate::proto::quorate as own;
use crate::raft::Entry;
use crate::raft::quorum::{Configuration, Promotion};
use prost::Message as _;
use std::collections::BTreeMap;

/// What an entry with a configuration means for the table of members.
///
/// # Errors
/// This release can't read it: to skip it would be another state than the other members'.
pub(super) fn of_entry(entry: &Entry) -> Result<Membership, Halt> {
    let unreadable = |why: &str| Halt(format!("entry {} can't be read: {why}", entry.position));
    let (configuration, context) = Configuration::decode(&entry.data)
        .ok_or_else(|| unreadable("it is no configuration that this release knows"))?;
    let change = own::MemberChange::decode(context).map_err(|error| unreadable(&error.to_string()))?;
    let voters = configuration.voters().map(|id| (id, Standing::Voter));
    let learners = configuration.learners().iter().map(|(id, promotion)| (*id, standing(*promotion)));
    Ok(Membership {
        // A voter on its way to become a learner is both, and shown as what it will be.
        members: voters.chain(learners).collect::<BTreeMap<MemberId, Standing>>(),
        peer_urls: change.add.into_iter().map(|new| (MemberId(new.id), new.peer_urls)).collect(),
        bytes: configuration.encode(b""),
    })
}

fn standing(promotion: Promotion) -> Standing {
    match promotion {
        Promotion::OnRequest => Standing::Learner,
        Promotion::WhenCaughtUp => Standing::Joining,
    }
}

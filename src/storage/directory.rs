//! The data directory. (skeleton: the essay comes with the implementation)

use crate::ids::{ClusterId, DiskId, MemberId};

/// Who lives in a data directory: written once, when it is made, with a checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// The directory itself, drawn by chance when it was made.
    pub disk: DiskId,
    /// The members the cluster began with, this one among them, by id. Later flags don't change them.
    pub members: Vec<InitialMember>,
}

/// A member of the initial cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// Its id.
    pub id: MemberId,
    /// Its name in `--initial-cluster`.
    pub name: String,
    /// Its peer URLs.
    pub peer_urls: Vec<String>,
}

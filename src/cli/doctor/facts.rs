//! What a probe can find out, as values: the verdicts (`verdict.rs`) are drawn from these alone.

use crate::cli::lab_file::LabFile;
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate as own;
use crate::time::Duration;

/// Everything that is known at the moment of the verdict.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// The endpoints that were given, in their order.
    pub asked: Vec<Probe>,
    /// Addresses that members have announced and nobody gave.
    pub announced: Vec<Probe>,
    /// The lab that runs on this machine, if one of the given endpoints is its.
    pub lab: Option<LabFile>,
}

/// One endpoint, and how far it let itself be asked.
#[derive(Clone, Debug)]
pub struct Probe {
    /// `host:port`.
    pub endpoint: String,
    /// How far.
    pub reached: Reached,
}

/// How far an endpoint let itself be asked: each variant is the end of the way, the last one is all of it.
#[derive(Clone, Debug)]
pub enum Reached {
    /// The name has no address; what the resolver says.
    NoAddress(String),
    /// No connection to any of its addresses.
    NoConnection(Dial),
    /// It took the connection and said nothing, whatever it was asked.
    Silent(Duration),
    /// It speaks TLS.
    Tls,
    /// It speaks HTTP/1.1 and no HTTP/2; its status line.
    Web(String),
    /// It speaks something else, or hung up (empty); what it said first.
    Stranger(String),
    /// It is the port at which members talk to each other; who is a member.
    PeerPort(Vec<pb::Member>),
    /// It speaks HTTP/2 and does not know etcd's calls; what it says to them.
    NoApi(String),
    /// It speaks HTTP/2 and answers no call in time.
    Mute(Duration),
    /// It knows etcd's calls and refuses this one; what it says.
    Refuses(String),
    /// It says how it is.
    Member(Box<Told>),
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub enum Dial {
    /// The host is there, and nothing listens.
    Refused,
    /// Nothing came back.
    TimedOut(Duration),
    /// What the operating system says.
    Other(String),
}

/// `host:port` of a URL or of what is one already.
pub fn bare(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

/// What a member says.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// etcd's status.
    pub status: pb::StatusResponse,
    /// Who is a member, as far as it knows.
    pub members: Vec<pb::Member>,
    /// What a linearizable read through it came to.
    pub read: Read,
    /// What only a Quorate says.
    pub inspect: Option<own::InspectResponse>,
}

/// What became of a linearizable read.
#[derive(Clone, Debug, Default)]
pub enum Read {
    /// It was not tried.
    #[default]
    Untried,
    /// It went through, in that time.
    Took(Duration),
    /// It was refused; what was said.
    Failed(String),
    /// No answer came in that time.
    Silent(Duration),
}

impl Told {
    /// The member's id.
    pub fn id(&self) -> u64 {
        self.status.header.as_ref().map_or(0, |header| header.member_id)
    }

    /// The cluster's id.
    pub fn cluster(&self) -> u64 {
        self.status.header.as_ref().map_or(0, |header| header.cluster_id)
    }
}

//! How an empty disk becomes a member of a running cluster.
//!
//! Both sides are here. The **joiner** has no data yet and asks peers of the cluster who it is:
//!
//! - with `--initial-cluster-state existing`, as in etcd: somebody has added it (`member add`), and the peers of
//!   `--initial-cluster` know it by its own peer URLs there;
//! - with `--join host:port,...`: it asks to be added, and is told its id.
//!
//! What it is told goes into META, and from then on the data directory decides; the flags may grow stale. The **cluster's** side
//! ([`admit`]) is the same for both, and asking twice gives the same id, so a joiner that crashed before META was written
//! just asks again.
//!
//! # An empty disk at a known address
//!
//! If the member at these URLs (or of this name) has been started before, its disk is lost: under its old id it would break
//! promises that it has forgotten. It is replaced in one change: the old id goes for ever, a new one joins. That costs a vote
//! until the new one has caught up, so it is done only if the others are a quorum without it; else it is refused with the
//! numbers. It is refused as well while the old one is connected: then it lives, and this one has come to a wrong address.
//!
//! # A level that the joiner does not know
//!
//! It is refused before it belongs to the cluster ([`crate::machine::Level`]): whichever way it asks, it says what it knows.
//!
//! Absent: proof of who asks. Whoever reaches the peer port may join, as with all that is said there.

use super::config::{Config, Url};
use super::transport::Shared;
use crate::clock::{entropy, instant};
use crate::ids::{ClusterId, MemberId, initial_cluster_id, initial_member_id};
use crate::machine::{Member, Standing};
use crate::node::{ChangeRefused, Refused, Reply, Request};
use crate::proto::quorate as pb;
use crate::storage::directory::{self, Expected, Meta};
use crate::time::Duration;
use pb::peer_client::PeerClient;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use tonic::Status;
use tonic::transport::Endpoint;

/// How long a joiner goes on asking while nobody answers, or nobody leads.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
/// For one answer: a change takes as long as a request may.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A name that nobody chose.
const NO_NAME: &str = "default";
/// Who asks at the door.
const JOINER: &str = "this member";

/// Who the data directory must belong to, by the flags; `None` if they leave it to the directory. A joiner asks the cluster.
///
/// As in etcd, the flags about the first cluster say nothing about a member that exists; but if they speak of another one, it
/// is the wrong directory.
///
/// # Errors
/// A sentence: the flags are wrong, or the cluster can't be asked, or refuses.
pub fn expected(config: &Config) -> Result<Option<Expected>, String> {
    let made = config.data_dir.join("META").exists();
    let joins = config.existing || !config.join.is_empty();
    if made && (joins || config.initial_cluster.is_none()) {
        return Ok(None);
    }
    if let Some(meta) = directory::who_lives_at(&config.data_dir)
        && (meta.members.is_empty() || is_founder_by_another_list(config, &meta))
    {
        return Ok(None);
    }
    if joins {
        return ask(config).map(Some);
    }
    let founding = config.bootstrap().map_err(|error| error.to_string())?;
    Ok(Some(Expected { cluster: founding.cluster, member: founding.member, members: founding.members }))
}

/// The founder of this name and this token, though the list has been changed since, as clusters do.
fn is_founder_by_another_list(config: &Config, meta: &Meta) -> bool {
    let ids: Vec<MemberId> =
        meta.members.iter().map(|member| initial_member_id(&member.peer_urls, &config.token)).collect();
    let own = meta.members.iter().find(|member| member.id == meta.member);
    initial_cluster_id(&ids, &config.token) == meta.cluster && own.is_some_and(|own| own.name == config.name)
}

/// Why an answer is no answer.
enum Trouble {
    /// Another peer, or the same one later, may do better.
    Later(String),
    /// It is so.
    Refused(String),
}

fn ask(config: &Config) -> Result<Expected, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("can't start threads: {error}"))?;
    runtime.block_on(ask_peers(config))
}

async fn ask_peers(config: &Config) -> Result<Expected, String> {
    let own = &config.advertise_peer;
    let listed = config.initial_cluster.iter().flat_map(|cluster| cluster.values().flatten());
    let peers: Vec<&Url> = if config.join.is_empty() {
        listed.filter(|url| !own.contains(url)).collect()
    } else {
        config.join.iter().collect()
    };
    if peers.is_empty() {
        return Err(format!(
            "--initial-cluster-state is existing, but {} holds no member's data, and --initial-cluster names nobody to ask: \
             name the members of the running cluster and this one there, or use --join HOST:PORT",
            config.data_dir.display()
        ));
    }
    let deadline = instant() + PATIENCE;
    loop {
        let mut troubles = Vec::new();
        for peer in &peers {
            match ask_peer(config, peer).await {
                Ok((cluster, member)) => {
                    tracing::info!(%cluster, %member, asked = %peer, "joining a running cluster");
                    return Ok(Expected { cluster, member, members: Vec::new() });
                }
                Err(Trouble::Refused(sentence)) => return Err(sentence),
                Err(Trouble::Later(why)) => troubles.push(format!("{peer}: {why}")),
            }
        }
        let troubles = troubles.join("; ");
        if instant() >= deadline {
            return Err(format!("the cluster can't be joined, nobody of it could help for {PATIENCE:?}: {troubles}"));
        }
        tracing::warn!("the cluster can't be joined yet: {troubles}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks one peer who this member is.
async fn ask_peer(config: &Config, peer: &Url) -> Result<(ClusterId, MemberId), Trouble> {
    let later = |error: &dyn std::fmt::Display| Trouble::Later(error.to_string());
    let endpoint = Endpoint::from_shared(peer.to_string()).map_err(|error| later(&error))?;
    let channel = endpoint.connect_timeout(DIAL_TIMEOUT).timeout(ANSWER_TIMEOUT).connect().await;
    let mut client = PeerClient::new(channel.map_err(|_| Trouble::Later("it does not answer".to_owned()))?);
    let peer_urls: Vec<String> = config.advertise_peer.iter().map(Url::to_string).collect();
    if config.join.is_empty() {
        let request = pb::PeerMembersRequest { level: config.level.0 };
        let known = client.members(request).await.map_err(|status| later(&status.message()))?;
        let pb::PeerMembersResponse { cluster_id, members } = known.into_inner();
        let own: BTreeSet<&String> = peer_urls.iter().collect();
        let found = members.iter().find(|member| member.peer_urls.iter().collect::<BTreeSet<_>>() == own);
        match found {
            None => {
                let urls = peer_urls.join(",");
                return Err(Trouble::Refused(format!(
                    "the cluster at {peer} has no member with the peer URLs {urls}, so this one does not belong to it: add it \
                     there first (etcdctl member add {} --peer-urls={urls}), or start it with --join",
                    config.name
                )));
            }
            Some(member) if !member.started => return Ok((ClusterId(cluster_id), MemberId(member.id))),
            Some(_) => {} // its disk is lost
        }
    }
    let request = pb::JoinRequest { name: config.name.clone(), peer_urls, level: config.level.0 };
    let answer = client.join(request).await.map_err(|status| later(&status.message()))?.into_inner();
    match answer.member_id {
        0 => Err(Trouble::Refused(format!("{peer} does not let this member join: {}", answer.refusal))),
        id => Ok((ClusterId(answer.cluster_id), MemberId(id))),
    }
}

/// Who belongs to the cluster, as of now, for who knows its level: others can't belong to it.
///
/// # Errors
/// It can't be said now, or to this asker.
pub async fn members(shared: &Shared, request: &pb::PeerMembersRequest) -> Result<pb::PeerMembersResponse, Status> {
    up_to_date(shared).await?;
    shared.knows_level(JOINER, request.level).map_err(Status::failed_precondition)?;
    let members = shared.view.members().into_iter().map(|member| pb::PeerMember {
        id: member.id.0,
        started: member.is_started(),
        name: member.name,
        peer_urls: member.peer_urls,
    });
    Ok(pb::PeerMembersResponse { cluster_id: shared.identity.cluster.0, members: members.collect() })
}

async fn up_to_date(shared: &Shared) -> Result<(), Status> {
    match shared.mailbox.ask(Request::Read).await {
        Reply::Readable { .. } => Ok(()),
        _ => Err(Status::unavailable("it knows no leader")),
    }
}

/// What is to be done for an empty disk.
enum Admission {
    /// It is this member, which was never started.
    Is(MemberId),
    /// It joins; the started member that it takes the place of goes.
    Joins {
        replaces: Option<Member>,
    },
    Refused(String),
}

/// Lets a member with an empty disk join.
///
/// # Errors
/// It can't be done now; whether it will be is known to who asks again.
pub async fn admit(shared: &Shared, request: pb::JoinRequest) -> Result<pb::JoinResponse, Status> {
    up_to_date(shared).await?;
    let connected = |id: MemberId| shared.peers.get(id).is_some_and(|facts| facts.connected.load(Ordering::Relaxed));
    let is_alive = |id: MemberId| id == shared.identity.member || connected(id);
    let answer = |outcome: Result<MemberId, String>| pb::JoinResponse {
        cluster_id: shared.identity.cluster.0,
        member_id: outcome.as_ref().map_or(0, |id| id.0),
        refusal: outcome.err().unwrap_or_default(),
    };
    if let Err(why) = shared.knows_level(JOINER, request.level) {
        return Ok(answer(Err(why)));
    }
    let replaces = match admission(&shared.view.members(), &request, is_alive) {
        Admission::Is(id) => return Ok(answer(Ok(id))),
        Admission::Refused(why) => return Ok(answer(Err(why))),
        Admission::Joins { replaces } => replaces,
    };
    let id = MemberId(entropy().0.max(1));
    let learner = replaces.as_ref().is_some_and(|old| old.standing == Standing::Learner);
    let new = pb::NewMember { id: id.0, peer_urls: request.peer_urls, learner };
    let remove: Vec<u64> = replaces.iter().map(|old| old.id.0).collect();
    let change = pb::MemberChange { add: vec![new], remove, ..pb::MemberChange::default() };
    match shared.mailbox.ask(Request::Change(change)).await {
        Reply::Changed { .. } => {
            tracing::info!(%id, name = request.name, replaces = replaces.map(|old| old.id.to_string()), "a member joins");
            Ok(answer(Ok(id)))
        }
        Reply::Refused(Refused::Change(reason)) if reason != ChangeRefused::Pending => {
            Ok(answer(Err(match replaces {
                Some(old) => format!(
                    "member {} ({}) lived there on another disk, and would have to be replaced, but {reason}. Start the other \
                 members first, then this one again",
                    old.id, old.name
                ),
                None => reason.to_string(),
            })))
        }
        other => Err(Status::unavailable(format!("the change did not come to its end: {other:?}"))),
    }
}

fn admission(members: &[Member], request: &pb::JoinRequest, is_alive: impl Fn(MemberId) -> bool) -> Admission {
    let urls: BTreeSet<&String> = request.peer_urls.iter().collect();
    if urls.is_empty() {
        return Admission::Refused("it names no peer URL of its own (--initial-advertise-peer-urls)".to_owned());
    }
    let is_named = |member: &Member| member.name == request.name && ![NO_NAME, ""].contains(&member.name.as_str());
    let concerned: Vec<&Member> = members
        .iter()
        .filter(|member| member.peer_urls.iter().any(|url| urls.contains(url)) || is_named(member))
        .collect();
    let old = match concerned[..] {
        [] => return Admission::Joins { replaces: None },
        [old] => old,
        _ => {
            let ids: Vec<String> = concerned.iter().map(|member| member.id.to_string()).collect();
            return Admission::Refused(format!(
                "its name and peer URLs are those of several members ({}): give it its own",
                ids.join(", ")
            ));
        }
    };
    let (id, name) = (old.id, &old.name);
    let known: BTreeSet<&String> = old.peer_urls.iter().collect();
    match (old.is_started(), known == urls) {
        (false, true) => Admission::Is(id),
        (false, false) => Admission::Refused(format!(
            "member {id}, which was added and never started, has the peer URLs {}: start it with these, or remove it",
            old.peer_urls.join(",")
        )),
        (true, _) if is_alive(id) => Admission::Refused(format!(
            "member {id} ({name}) has this name or these peer URLs, and it runs: give this one its own --name and \
             --initial-advertise-peer-urls"
        )),
        (true, _) => Admission::Joins { replaces: Some(old.clone()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::DiskId;

    fn member(id: u64, started: bool) -> Member {
        Member {
            id: MemberId(id),
            name: if started { format!("n{id}") } else { String::new() },
            peer_urls: vec![format!("http://n{id}:2380")],
            disk: started.then_some(DiskId(id)),
            ..Member::default()
        }
    }

    fn admitted(name: &str, urls: &[&str]) -> String {
        let members = [member(1, true), member(2, true), member(3, false)];
        let peer_urls = urls.iter().map(|url| (*url).to_owned()).collect();
        match admission(&members, &pb::JoinRequest { name: name.to_owned(), peer_urls, level: 0 }, |id| {
            id == MemberId(1)
        }) {
            Admission::Is(id) => format!("is {id}"),
            Admission::Joins { replaces } => format!("joins for {:?}", replaces.map(|old| old.id.0)),
            Admission::Refused(why) => why,
        }
    }

    #[test]
    fn an_empty_disk_gets_the_id_that_waits_for_it_a_new_one_or_takes_the_place_of_a_lost_one() {
        assert_eq!(admitted("n4", &["http://n4:2380"]), "joins for None");
        assert_eq!(admitted("default", &["http://n4:2380"]), "joins for None");
        assert_eq!(admitted("n3", &["http://n3:2380"]), "is 3");
        assert_eq!(admitted("n2", &["http://n2:2380"]), "joins for Some(2)");
        assert_eq!(admitted("n2", &["http://elsewhere:2380"]), "joins for Some(2)", "of the same name");
        assert_eq!(admitted("other", &["http://n2:2380"]), "joins for Some(2)", "at the same place");
        assert!(admitted("n1", &["http://n1:2380"]).contains("it runs"));
        assert!(admitted("n2", &["http://n1:2380"]).contains("several members (1, 2)"));
        assert!(admitted("n3", &["http://n3:2380", "http://n4:2380"]).contains("never started"));
        assert!(admitted("n4", &[]).contains("names no peer URL"));
    }
}

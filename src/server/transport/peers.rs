//! Who is connected to: the table of members, followed while it changes.
//!
//! One task ([`follow`]) keeps a dialer for each member that the replicated table names, starts one for who is added, and lets
//! go of who is removed after a while: until then a removed member may still be told so over the connection that is there.
//! Where a member lives is looked up at each dial, so it may move.
//!
//! Some members are not in the table yet: this one may be behind, or know no table at all because it has just joined. Who
//! dials in says in its Hello where it can be dialled back, and is dialled as long as that stream is open (a *contact*). So a
//! joiner needs to know nobody: the leader, whose table has it, dials first.
//!
//! Absent: what is said.

use super::{Acceptor, Dialer, PeerFacts, Shared};
use crate::clock::instant;
use crate::ids::MemberId;
use crate::node::Status;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// Contacts at once.
const CONTACTS_MAX: usize = 32;

/// Where a member is dialled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Its name, for logs; empty if it has not said one.
    pub name: String,
    /// Its peer URLs.
    pub peer_urls: Vec<String>,
}

/// All peers that are connected to, or should be.
#[derive(Debug, Default)]
pub struct Peers {
    facts: RwLock<BTreeMap<MemberId, Arc<PeerFacts>>>,
    contacts: RwLock<BTreeMap<MemberId, Address>>,
    /// Rung when the contacts have changed.
    changed: Notify,
}

impl Peers {
    /// What is known of the connection to a peer.
    pub fn get(&self, peer: MemberId) -> Option<Arc<PeerFacts>> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }

    /// The same of all, by id.
    pub fn all(&self) -> Vec<(MemberId, Arc<PeerFacts>)> {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        facts.iter().map(|(id, facts)| (*id, Arc::clone(facts))).collect()
    }

    /// Begins to know of a peer.
    pub fn enter(&self, peer: MemberId) {
        self.facts.write().unwrap_or_else(PoisonError::into_inner).entry(peer).or_default();
    }

    fn leave(&self, peer: MemberId) {
        self.facts.write().unwrap_or_else(PoisonError::into_inner).remove(&peer);
    }

    /// A peer that may not be in the table dials in, and says where it lives.
    pub fn met(&self, peer: MemberId, address: Address) {
        let mut contacts = self.contacts.write().unwrap_or_else(PoisonError::into_inner);
        if address.peer_urls.is_empty() || contacts.len() >= CONTACTS_MAX && !contacts.contains_key(&peer) {
            return;
        }
        if contacts.insert(peer, address.clone()) != Some(address) {
            self.changed.notify_one();
        }
    }

    /// Its stream has ended.
    pub fn parted(&self, peer: MemberId) {
        self.contacts.write().unwrap_or_else(PoisonError::into_inner).remove(&peer);
    }

    fn contacts(&self) -> BTreeMap<MemberId, Address> {
        self.contacts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    /// Who should be dialled now: what the table says, and beside it who dialled in.
    pub(super) fn addresses(&self) -> BTreeMap<MemberId, Address> {
        let members = self.view.members().into_iter().filter(|member| !member.peer_urls.is_empty());
        let known = members.map(|member| (member.id, Address { name: member.name, peer_urls: member.peer_urls }));
        let mut all = self.peers.contacts();
        all.extend(known);
        all.retain(|id, _| *id != self.identity.member && !self.view.is_gone(*id));
        all
    }
}

/// A dialer at work.
struct Dialled {
    task: JoinHandle<()>,
    /// Since when nobody names this peer any more.
    unnamed: Option<Instant>,
}

/// Dialers, as long as somebody wants them: they end with this value.
#[derive(Default)]
struct Dialers(BTreeMap<MemberId, Dialled>);

impl Drop for Dialers {
    fn drop(&mut self) {
        self.0.values().for_each(|dialled| dialled.task.abort());
    }
}

/// Follows the table, for as long as the node publishes; dropped, it ends all connections that it made.
pub async fn follow(shared: Arc<Shared>, acceptor: Acceptor, mut published: watch::Receiver<Arc<Status>>) {
    let grace = shared.election_timeout * 3;
    let mut dialers = Dialers::default();
    let mut seen = None;
    loop {
        let changes = shared.view.member_changes();
        let leaving = dialers.0.values().any(|dialled| dialled.unnamed.is_some());
        if seen != Some(changes) || leaving {
            seen = Some(changes);
            let wanted = shared.addresses();
            for id in wanted.keys() {
                shared.peers.enter(*id);
                let start =
                    || Dialled { task: tokio::spawn(Dialer::new(Arc::clone(&shared), *id).run()), unnamed: None };
                dialers.0.entry(*id).or_insert_with(start).unnamed = None;
            }
            for (_, dialled) in dialers.0.iter_mut().filter(|(id, _)| !wanted.contains_key(id)) {
                dialled.unnamed.get_or_insert_with(instant);
            }
            let over =
                |_: &MemberId, dialled: &mut Dialled| dialled.unnamed.is_some_and(|since| since.elapsed() >= grace);
            for (id, dialled) in dialers.0.extract_if(.., over) {
                dialled.task.abort();
                shared.peers.leave(id);
                acceptor.close(id);
                tracing::info!(peer = %id, "not connected to any more: it is no member");
            }
        }
        let leaving = dialers.0.values().any(|dialled| dialled.unnamed.is_some());
        tokio::select! {
            told = published.changed() => if told.is_err() { return },
            () = shared.peers.changed.notified() => seen = None,
            () = tokio::time::sleep(grace / 4), if leaving => {}
        }
    }
}

//! The machine's rules a second time, as simply as can be: the whole store is kept, once per revision. Random commands are
//! given to both, and every answer is compared whole.
//!
//! Shares nothing with the machine but the messages.

use super::tests::{Store, founders, insert};
use super::versions::VERSION_BYTES;
use super::*;
use crate::ids::{DiskId, MemberId, Term};
use crate::proto::etcdserverpb::{Compare, PutRequest, RangeRequest, TxnRequest, TxnResponse, compare::TargetUnion};
use crate::proto::mvccpb::KeyValue;
use crate::proto::quorate::{
    CheckpointLeases, Compact, GrantLease, PublishMember, RaiseLevel, RevokeLease, SetAlarm, UpdateMember,
};
use crate::storage::memory::MemoryEngine;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use std::collections::BTreeMap;

mod takeover;

type Pairs = BTreeMap<Bytes, KeyValue>;

/// What an entry holds.
#[derive(Clone, Debug)]
enum Act {
    Command(command::Op),
    Membership(Membership),
}

impl Store {
    fn act(&mut self, act: Act) -> Result<Response, Error> {
        match act {
            Act::Command(op) => self.apply(op),
            Act::Membership(membership) => {
                self.reconfigure(&membership);
                Ok(Response::Done)
            }
        }
    }
}

/// `history[r]` is the store as of revision r.
#[derive(Clone)]
struct Model {
    history: Vec<Pairs>,
    members: BTreeMap<MemberId, Member>,
    gone: Vec<MemberId>,
    configuration: Bytes,
    /// Granted time and what is left of it; the keys are those that name the lease.
    leases: BTreeMap<i64, LeaseTime>,
    full: bool,
    level: Level,
    /// What is below may not be read.
    compacted: i64,
}

/// A txn at work: what it has made of the store, if it has changed anything.
struct Work<'a> {
    model: &'a Model,
    changed: Option<Pairs>,
}

fn contains(key: &[u8], end: &[u8], candidate: &[u8]) -> bool {
    match end {
        b"" => candidate == key,
        b"\0" => candidate >= key,
        _ => candidate >= key && candidate < end,
    }
}

impl Work<'_> {
    fn revision(&self) -> i64 {
        self.model.history.len() as i64 - 1 + i64::from(self.changed.is_some())
    }

    fn pairs(&self) -> &Pairs {
        self.changed.as_ref().unwrap_or(self.model.history.last().unwrap())
    }

    fn change(&mut self) -> &mut Pairs {
        self.changed.get_or_insert_with(|| self.model.history.last().unwrap().clone())
    }

    fn within(&self, key: &[u8], end: &[u8]) -> Vec<KeyValue> {
        self.pairs().values().filter(|kv| contains(key, end, &kv.key)).cloned().collect()
    }

    fn range(&self, r: &RangeRequest) -> Result<pb::RangeResponse, Error> {
        let old = match r.revision {
            revision if revision > self.revision() => return Err(Error::FutureRevision),
            revision if revision > 0 && revision < self.model.compacted => return Err(self.model.gone()),
            revision if revision > 0 && (revision as usize) < self.model.history.len() => {
                let pairs = self.model.history[revision as usize].clone();
                Work { model: self.model, changed: Some(pairs) }.within(&r.key, &r.range_end)
            }
            _ => self.within(&r.key, &r.range_end),
        };
        let count = old.len() as i64;
        let mut kvs = old;
        kvs.retain(|kv| r.min_mod_revision == 0 || kv.mod_revision >= r.min_mod_revision);
        kvs.retain(|kv| r.max_mod_revision == 0 || kv.mod_revision <= r.max_mod_revision);
        kvs.retain(|kv| r.min_create_revision == 0 || kv.create_revision >= r.min_create_revision);
        kvs.retain(|kv| r.max_create_revision == 0 || kv.create_revision <= r.max_create_revision);
        let filtered = [r.min_mod_revision, r.max_mod_revision, r.min_create_revision, r.max_create_revision]
            .iter()
            .any(|m| *m != 0);
        let cut = r.limit > 0 && kvs.len() as i64 > r.limit;
        if r.sort_order == 0 && !filtered && cut {
            kvs.truncate(r.limit as usize + 1);
        }
        let rank = |kv: &KeyValue| match r.sort_target {
            1 => (kv.version, Bytes::new()),
            2 => (kv.create_revision, Bytes::new()),
            3 => (kv.mod_revision, Bytes::new()),
            4 => (0, kv.value.clone()),
            _ => (0, kv.key.clone()),
        };
        match r.sort_order {
            0 | 1 => kvs.sort_by_key(rank),
            _ => kvs.sort_by_key(|kv| std::cmp::Reverse(rank(kv))),
        }
        if cut {
            kvs.truncate(r.limit as usize);
        }
        if r.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        if r.count_only {
            kvs.clear();
        }
        Ok(pb::RangeResponse { header: self.header(), kvs, more: cut && !r.count_only, count })
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: self.revision(), ..Default::default() })
    }

    fn put(&mut self, r: &PutRequest) -> pb::PutResponse {
        let next = self.model.history.len() as i64;
        let old = self.pairs().get(&r.key).cloned();
        let kv = KeyValue {
            key: r.key.clone(),
            value: old.as_ref().filter(|_| r.ignore_value).map_or(r.value.clone(), |old| old.value.clone()),
            create_revision: old.as_ref().map_or(next, |old| old.create_revision),
            mod_revision: next,
            version: old.as_ref().map_or(1, |old| old.version + 1),
            lease: if r.ignore_lease { old.as_ref().map_or(0, |old| old.lease) } else { r.lease },
        };
        self.change().insert(r.key.clone(), kv);
        pb::PutResponse { header: self.header(), prev_kv: old.filter(|_| r.prev_kv) }
    }

    fn delete(&mut self, r: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let gone = self.within(&r.key, &r.range_end);
        for kv in &gone {
            self.change().remove(&kv.key);
        }
        let deleted = gone.len() as i64;
        let prev_kvs = if r.prev_kv { gone } else { Vec::new() };
        pb::DeleteRangeResponse { header: self.header(), deleted, prev_kvs }
    }

    fn put_error(&self, r: &PutRequest, lease_first: bool) -> Result<(), Error> {
        let absent = (r.ignore_value || r.ignore_lease) && !self.pairs().contains_key(&r.key);
        match (absent, r.lease != 0 && !self.model.leases.contains_key(&r.lease)) {
            (_, true) if lease_first || !absent => Err(Error::LeaseNotFound),
            (true, _) => Err(Error::KeyNotFound),
            _ => Ok(()),
        }
    }

    fn holds(&self, c: &Compare) -> bool {
        let kvs = self.within(&c.key, &c.range_end);
        if kvs.is_empty() {
            return c.target != 3 && self.fits(c, &KeyValue::default());
        }
        kvs.iter().all(|kv| self.fits(c, kv))
    }

    fn fits(&self, c: &Compare, kv: &KeyValue) -> bool {
        let ordering = match (c.target, &c.target_union) {
            (0, Some(TargetUnion::Version(n))) => kv.version.cmp(n),
            (0, _) => kv.version.cmp(&0),
            (1, Some(TargetUnion::CreateRevision(n))) => kv.create_revision.cmp(n),
            (1, _) => kv.create_revision.cmp(&0),
            (2, Some(TargetUnion::ModRevision(n))) => kv.mod_revision.cmp(n),
            (2, _) => kv.mod_revision.cmp(&0),
            (3, Some(TargetUnion::Value(v))) => kv.value.cmp(v),
            (3, _) => kv.value.len().cmp(&0),
            (4, Some(TargetUnion::Lease(n))) => kv.lease.cmp(n),
            _ => kv.lease.cmp(&0),
        };
        [ordering.is_eq(), ordering.is_gt(), ordering.is_lt(), ordering.is_ne()][c.result as usize]
    }

    /// The txn with its decisions made: nested ones too, before anything runs.
    fn decided(&self, txn: &TxnRequest) -> (bool, Vec<Decided>) {
        let succeeded = txn.compare.iter().all(|c| self.holds(c));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let decided = |op: &pb::RequestOp| match op.request.clone() {
            Some(Request::RequestTxn(nested)) => {
                let (succeeded, ops) = self.decided(&nested);
                Decided::Txn(succeeded, ops)
            }
            other => Decided::Op(other),
        };
        (succeeded, branch.iter().map(decided).collect())
    }

    fn run(&mut self, succeeded: bool, ops: Vec<Decided>) -> Result<TxnResponse, Error> {
        let mut responses = Vec::new();
        for op in ops {
            let response = match op {
                Decided::Txn(succeeded, ops) => OpResponse::ResponseTxn(self.run(succeeded, ops)?),
                Decided::Op(Some(Request::RequestRange(r))) => OpResponse::ResponseRange(self.range(&r)?),
                Decided::Op(Some(Request::RequestPut(r))) => OpResponse::ResponsePut(self.put(&r)),
                Decided::Op(Some(Request::RequestDeleteRange(r))) => OpResponse::ResponseDeleteRange(self.delete(&r)),
                Decided::Op(other) => panic!("{other:?}"),
            };
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded, responses })
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, Error> {
        let (succeeded, ops) = self.decided(txn);
        let flat = flatten(&ops);
        for op in &flat {
            match op {
                None => return Err(Error::KeyNotFound),
                Some(Request::RequestPut(r)) => self.put_error(r, false)?,
                Some(_) => {}
            }
        }
        for op in flat {
            match op {
                Some(Request::RequestRange(r)) if r.revision > self.revision() => return Err(Error::FutureRevision),
                Some(Request::RequestRange(r)) if r.revision != 0 && r.revision < self.model.compacted => {
                    return Err(self.model.gone());
                }
                _ => {}
            }
        }
        let response = self.run(succeeded, ops)?;
        Ok(TxnResponse { header: self.header(), ..response })
    }
}

enum Decided {
    Op(Option<Request>),
    Txn(bool, Vec<Decided>),
}

fn flatten(ops: &[Decided]) -> Vec<&Option<Request>> {
    let mut flat = Vec::new();
    for op in ops {
        match op {
            Decided::Op(op) => flat.push(op),
            Decided::Txn(_, ops) => flat.extend(flatten(ops)),
        }
    }
    flat
}

fn has_put(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestTxn(nested)) => has_put(nested),
        other => matches!(other, Some(Request::RequestPut(_))),
    })
}

impl Model {
    fn new() -> Model {
        Model {
            history: vec![Pairs::new(); 2],
            members: founders().into_iter().map(|member| (member.id, member)).collect(),
            gone: Vec::new(),
            configuration: Bytes::new(),
            leases: BTreeMap::new(),
            full: false,
            level: Level::FIRST,
            compacted: -1,
        }
    }

    fn act(&mut self, at: Index, act: &Act) -> Result<Response, Error> {
        match act {
            Act::Command(op) => self.apply(at, op),
            Act::Membership(membership) => {
                self.reconfigure(membership);
                Ok(Response::Done)
            }
        }
    }

    fn reconfigure(&mut self, membership: &Membership) {
        self.configuration = membership.bytes.clone();
        let (stay, go): (Vec<Member>, Vec<Member>) =
            self.members.values().cloned().partition(|member| membership.members.contains_key(&member.id));
        self.gone.extend(go.into_iter().map(|member| member.id));
        self.members = stay.into_iter().map(|member| (member.id, member)).collect();
        for (id, standing) in &membership.members {
            if !self.gone.contains(id) {
                let peer_urls = membership.peer_urls.get(id).cloned().unwrap_or_default();
                let member = self.members.entry(*id).or_insert(Member { id: *id, peer_urls, ..Member::default() });
                member.standing = *standing;
            }
        }
    }

    fn publish(&mut self, r: &PublishMember) {
        let known = self.members.get_mut(&MemberId(r.member_id));
        if let Some(member) = known.filter(|member| member.disk.is_none_or(|disk| disk.0 == r.disk_id)) {
            member.disk = Some(DiskId(r.disk_id));
            (member.name, member.client_urls) = (r.name.clone(), r.client_urls.clone());
        }
    }

    fn update(&mut self, r: &UpdateMember) -> Result<Response, Error> {
        let id = MemberId(r.member_id);
        let holds = |member: &Member| member.peer_urls.iter().any(|url| r.peer_urls.contains(url));
        let taken = self.members.values().any(|member| member.id != id && holds(member));
        let member = self.members.get_mut(&id).ok_or(Error::MemberNotFound)?;
        if taken {
            return Err(Error::PeerUrlsExist);
        }
        member.peer_urls = r.peer_urls.clone();
        Ok(Response::Done)
    }

    /// What the machine says of members must be what this says.
    fn agrees_on_members(&self, machine: &Machine) {
        let view = machine.view();
        assert_eq!(view.members(), self.members.values().cloned().collect::<Vec<_>>());
        assert_eq!((view.configuration(), view.level()), (self.configuration.clone(), self.level));
        let gone: Vec<bool> = (0..6).map(|id| view.is_gone(MemberId(id))).collect();
        assert_eq!(gone, (0..6).map(|id| self.gone.contains(&MemberId(id))).collect::<Vec<_>>());
    }

    fn now(&self) -> Work<'_> {
        Work { model: self, changed: None }
    }

    fn gone(&self) -> Error {
        Error::Compacted { compacted: Revision(self.compacted) }
    }

    /// The oldest revision that may be read.
    fn oldest(&self) -> usize {
        self.compacted.max(1) as usize
    }

    /// The store as of every revision that may be read.
    fn everything(&self) -> Vec<Vec<KeyValue>> {
        self.history.iter().skip(self.oldest()).map(|pairs| pairs.values().cloned().collect()).collect()
    }

    fn apply(&mut self, at: Index, op: &command::Op) -> Result<Response, Error> {
        match op {
            command::Op::Publish(r) => self.publish(r),
            command::Op::UpdateMember(r) => return self.update(r),
            command::Op::RaiseLevel(r) => self.level = self.level.max(Level(r.level)),
            _ => {}
        }
        let mut work = self.now();
        let response = match op {
            command::Op::Put(_) if self.full => Err(Error::NoSpace),
            command::Op::Txn(r) if self.full && has_put(r) => Err(Error::NoSpace),
            command::Op::Put(r) => work.put_error(r, true).map(|()| Response::Put(work.put(r))),
            command::Op::DeleteRange(r) => Ok(Response::DeleteRange(work.delete(r))),
            command::Op::Txn(r) => work.txn(r).map(Response::Txn),
            command::Op::GrantLease(_) if self.full => Err(Error::NoSpace),
            command::Op::GrantLease(r) if self.leases.contains_key(&r.id) => Err(Error::LeaseExists),
            command::Op::GrantLease(r) => {
                let (id, ttl, header) = (r.id, r.ttl, work.header());
                Ok(Response::LeaseGrant(pb::LeaseGrantResponse { header, id, ttl, ..Default::default() }))
            }
            command::Op::RevokeLease(r) if r.term > 0 && !self.leaders_revoke_counts(r) => Ok(Response::Done),
            command::Op::RevokeLease(r) if !self.leases.contains_key(&r.id) => Err(Error::LeaseNotFound),
            command::Op::RevokeLease(r) => {
                let keys = work.pairs().values().filter(|kv| kv.lease == r.id).map(|kv| kv.key.clone());
                for key in keys.collect::<Vec<_>>() {
                    work.change().remove(&key);
                }
                Ok(Response::LeaseRevoke(pb::LeaseRevokeResponse { header: work.header() }))
            }
            command::Op::Compact(r) if r.revision <= self.compacted => Err(self.gone()),
            command::Op::Compact(r) if r.revision > work.revision() => Err(Error::FutureRevision),
            command::Op::Compact(_) => Ok(Response::Compact(pb::CompactionResponse { header: work.header() })),
            command::Op::CheckpointLeases(_)
            | command::Op::Publish(_)
            | command::Op::Alarm(_)
            | command::Op::RaiseLevel(_) => Ok(Response::Done),
            command::Op::UpdateMember(_) => unreachable!("it has its answer already"),
        };
        let changed = work.changed.take();
        self.history.extend(changed);
        if response.is_ok() {
            self.change_small(at, op);
        }
        if let command::Op::Alarm(SetAlarm { alarm: 1, active, .. }) = op {
            self.full = *active;
        }
        response
    }

    /// All entries are of term 1.
    fn leaders_revoke_counts(&self, r: &RevokeLease) -> bool {
        r.term == 1 && self.leases.get(&r.id).is_some_and(|lease| lease.granted.0 <= r.known)
    }

    fn change_small(&mut self, at: Index, op: &command::Op) {
        match op {
            command::Op::Compact(r) => self.compacted = r.revision,
            command::Op::GrantLease(r) => {
                self.leases.insert(r.id, LeaseTime { ttl: r.ttl, remaining: 0, granted: at });
            }
            command::Op::RevokeLease(r) if r.term == 0 || self.leaders_revoke_counts(r) => {
                self.leases.remove(&r.id);
            }
            command::Op::CheckpointLeases(r) => {
                for lease in &r.leases {
                    if let Some(time) = self.leases.get_mut(&lease.id).filter(|time| time.granted.0 <= r.known) {
                        time.remaining = lease.remaining_ttl;
                    }
                }
            }
            _ => {}
        }
    }

    /// The leases with their keys, as the machine shows them.
    fn shown_leases(&self) -> Vec<(i64, Lease)> {
        let keys = |id: i64| {
            let all = self.history.last().unwrap().values();
            all.filter(|kv| kv.lease == id).map(|kv| Box::from(&*kv.key)).collect()
        };
        let shown = |(id, time): (&i64, &LeaseTime)| (*id, Lease { time: *time, keys: keys(*id) });
        self.leases.iter().map(shown).collect()
    }

    /// What changed from `from` on, revision by revision: the keys as they are at the end of each.
    fn changes(&self, from: usize) -> Vec<(i64, Pairs, Vec<Bytes>)> {
        let change = |revision: usize| {
            let (before, after) = (&self.history[revision - 1], &self.history[revision]);
            let put = after.iter().filter(|(_, kv)| kv.mod_revision == revision as i64);
            let put: Pairs = put.map(|(key, kv)| (key.clone(), kv.clone())).collect();
            (revision as i64, put, before.keys().filter(|key| !after.contains_key(*key)).cloned().collect())
        };
        (from..self.history.len()).map(change).collect()
    }
}

fn some_key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "b", "c", "d", "b\0", "\u{7f}"]).prop_map(Bytes::from)
}

fn some_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![2 => Just(Bytes::new()), 1 => Just(Bytes::from_static(b"\0")), 3 => some_key()]
}

/// Mostly small; some fill a record, a few take several slots of the engine.
fn some_value() -> impl Strategy<Value = Bytes> {
    let filled = |(n, byte): (usize, u8)| Bytes::from(vec![byte; n]);
    prop_oneof![
        20 => (0..4usize, 0..3u8).prop_map(filled),
        3 => (2_000..9_000usize, any::<u8>()).prop_map(filled),
        1 => (100_000..300_000usize, any::<u8>()).prop_map(filled),
    ]
}

fn some_range() -> impl Strategy<Value = RangeRequest> {
    let filter = || prop_oneof![4 => Just(0i64), 1 => 1..20i64];
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let revision = prop_oneof![3 => Just(0i64), 2 => -2..25i64];
    (
        some_key(),
        some_end(),
        (-1..5i64),
        revision,
        (0..3i32),
        (0..5i32),
        flags,
        [filter(), filter(), filter(), filter()],
    )
        .prop_map(|(key, range_end, limit, revision, sort_order, sort_target, flags, filters)| RangeRequest {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: false,
            keys_only: flags.0,
            count_only: flags.1,
            min_mod_revision: filters[0],
            max_mod_revision: filters[1],
            min_create_revision: filters[2],
            max_create_revision: filters[3],
        })
}

fn some_put() -> impl Strategy<Value = PutRequest> {
    let rarely = || prop::bool::weighted(0.1);
    let lease = prop_oneof![2 => Just(0), 1 => 1..4i64];
    (some_key(), some_value(), lease, any::<bool>(), rarely(), rarely()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn some_delete() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    (some_key(), some_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn some_compare() -> impl Strategy<Value = Compare> {
    let number = || 0..12i64;
    let union = of(prop_oneof![
        number().prop_map(TargetUnion::Version),
        number().prop_map(TargetUnion::CreateRevision),
        number().prop_map(TargetUnion::ModRevision),
        some_value().prop_map(TargetUnion::Value),
        (0..4i64).prop_map(TargetUnion::Lease),
    ]);
    // Mostly the target that the union speaks of.
    (some_key(), some_end(), 0..4i32, of(0..5i32), union).prop_map(|(key, range_end, result, odd, target_union)| {
        let own = match &target_union {
            None | Some(TargetUnion::Version(_)) => 0,
            Some(TargetUnion::CreateRevision(_)) => 1,
            Some(TargetUnion::ModRevision(_)) => 2,
            Some(TargetUnion::Value(_)) => 3,
            Some(TargetUnion::Lease(_)) => 4,
        };
        let target = odd.filter(|odd| odd % 2 == 0).unwrap_or(own);
        Compare { key, range_end, result, target, target_union }
    })
}

fn some_txn(writes: bool) -> impl Strategy<Value = TxnRequest> {
    let leaf = move || {
        let range = some_range().prop_map(Request::RequestRange);
        if !writes {
            return range.boxed();
        }
        let put = some_put().prop_map(Request::RequestPut);
        let delete = some_delete().prop_map(Request::RequestDeleteRange);
        prop_oneof![3 => range, 3 => put, 2 => delete].boxed()
    };
    let op = move |request: BoxedStrategy<Request>| {
        // An operation without a request is a mistake that only a few txns make.
        (request, prop::bool::weighted(if writes { 0.01 } else { 0.0 }))
            .prop_map(|(request, none)| pb::RequestOp { request: Some(request).filter(|_| !none) })
    };
    let txn = |op: BoxedStrategy<pb::RequestOp>| {
        (vec(some_compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
            .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
    };
    let flat = move || txn(op(leaf()).boxed());
    let nested = prop_oneof![3 => leaf(), 1 => flat().prop_map(Request::RequestTxn)];
    txn(op(nested.boxed()).boxed())
}

fn some_command() -> impl Strategy<Value = command::Op> {
    prop_oneof![
        10 => some_put().prop_map(command::Op::Put),
        4 => some_delete().prop_map(command::Op::DeleteRange),
        10 => some_txn(true).prop_map(command::Op::Txn),
        1 => (0..4u64, 0..3u64).prop_map(|(member_id, disk_id)| {
            let (name, client_urls) = (format!("n{disk_id}"), vec![format!("http://c{disk_id}")]);
            command::Op::Publish(PublishMember { member_id, name, client_urls, disk_id })
        }),
        1 => (0..=Level::NEWEST.0).prop_map(|level| command::Op::RaiseLevel(RaiseLevel { level })),
        1 => (0..5u64, vec((0..4u64).prop_map(|n| format!("http://n{n}:2380")), 0..3))
            .prop_map(|(member_id, peer_urls)| command::Op::UpdateMember(UpdateMember { member_id, peer_urls })),
        1 => (0..4i32, prop::bool::weighted(0.2))
            .prop_map(|(alarm, active)| command::Op::Alarm(SetAlarm { member_id: 1, alarm, active, by_itself: false })),
        2 => (-1..30i64).prop_map(|revision| command::Op::Compact(Compact { revision })),
        4 => (1..4i64, 1..9i64).prop_map(|(id, ttl)| command::Op::GrantLease(GrantLease { id, ttl })),
        2 => (1..4i64, 0..3u64, 0..40u64)
            .prop_map(|(id, term, known)| command::Op::RevokeLease(RevokeLease { id, term, known })),
        1 => (1..4i64, 0..5i64, 0..40u64).prop_map(|(id, remaining_ttl, known)| {
            let leases = vec![pb::LeaseCheckpoint { id, remaining_ttl }];
            command::Op::CheckpointLeases(CheckpointLeases { leases, known })
        }),
    ]
}

fn some_membership() -> impl Strategy<Value = Membership> {
    let standing = prop::sample::select(vec![Standing::Voter, Standing::Learner, Standing::Joining]);
    let members = prop::collection::btree_map((1..6u64).prop_map(MemberId), standing, 1..5);
    let urls = vec((0..4u64).prop_map(|n| format!("http://n{n}:2380")), 1..3);
    let peer_urls = prop::collection::btree_map((1..6u64).prop_map(MemberId), urls, 0..3);
    (members, peer_urls, vec(any::<u8>(), 0..4)).prop_map(|(members, peer_urls, bytes)| Membership {
        bytes: bytes.into(),
        members,
        peer_urls,
    })
}

fn some_act() -> impl Strategy<Value = Act> {
    prop_oneof![16 => some_command().prop_map(Act::Command), 1 => some_membership().prop_map(Act::Membership)]
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Act),
    Noop,
    Range(RangeRequest),
    Txn(TxnRequest),
    /// Read the history from a revision on, in pieces of so many bytes.
    History(usize, usize),
    Seal,
    Written,
    /// Seal, and carry out a slice of a compaction.
    Sweep,
    Reopen,
}

fn some_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => some_act().prop_map(Step::Apply),
        1 => Just(Step::Noop),
        6 => some_range().prop_map(Step::Range),
        3 => some_txn(false).prop_map(Step::Txn),
        2 => (2..20usize, 0..5_000usize).prop_map(|(from, bytes)| Step::History(from, bytes)),
        3 => Just(Step::Seal),
        3 => Just(Step::Written),
        6 => Just(Step::Sweep),
        1 => Just(Step::Reopen),
    ]
}

/// A store whose disk worker lags behind.
struct Lagging {
    store: Store,
    sealed: Vec<(u64, Vec<Op>)>,
}

impl Lagging {
    fn seal(&mut self) {
        let mut ops = Vec::new();
        if let Some(run) = self.store.machine.seal(&mut ops) {
            self.sealed.push((run, ops));
        }
    }

    fn sweep(&mut self) {
        let mut ops = Vec::new();
        self.seal();
        if let Some(run) = self.store.machine.sweep(&mut ops).unwrap() {
            self.sealed.push((run, ops));
        }
    }

    /// Carries a compaction out to its end.
    fn sweep_all(&mut self) {
        self.seal();
        while self.store.machine.is_sweeping() {
            self.sweep();
            self.written();
        }
    }

    fn written(&mut self) {
        if self.sealed.is_empty() {
            return;
        }
        let (run, ops) = self.sealed.remove(0);
        insert(&self.store.engine, ops);
        self.store.machine.written(run);
    }

    fn reopen(&mut self) {
        self.seal();
        while !self.sealed.is_empty() {
            self.written();
        }
        assert!(self.store.machine.shared.read().tail.is_empty(), "what is in the engine is let go");
        let (applied, digest) = (self.store.machine.applied(), self.store.machine.digest());
        let members = self.store.machine.members();
        self.store = Store::open(self.store.engine.clone());
        let machine = &self.store.machine;
        if applied.index != Index(0) {
            assert_eq!((machine.applied(), machine.digest(), machine.members()), (applied, digest, members));
        }
    }
}

fn noop(machine: &mut Machine) {
    let index = machine.applied().index.next();
    assert_eq!(machine.apply(Position { index, term: Term(1) }, Content::Nothing), Ok(Response::Done));
}

/// The whole store as of every revision that may be read, through ranges.
fn everything(machine: &Machine) -> Vec<Vec<KeyValue>> {
    let view = machine.view();
    let all = |revision| {
        let (key, range_end) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
        view.range(&RangeRequest { key, range_end, revision, ..Default::default() }).unwrap().kvs
    };
    (view.compacted().0.max(1)..=view.revision().0).map(all).collect()
}

fn leases(machine: &Machine) -> Vec<(i64, Lease)> {
    let view = machine.view();
    view.leases().into_iter().map(|(id, ..)| (id, view.lease(id).unwrap())).collect()
}

/// The history from `from` on as the machine tells it, in pieces of `max_bytes`: what each revision left, as
/// [`Model::changes`] says it.
fn told(machine: &Machine, model: &Model, from: usize, max_bytes: usize) -> Vec<(i64, Pairs, Vec<Bytes>)> {
    let view = machine.view();
    let (mut changes, mut from) = (Vec::<(i64, Pairs, Vec<Bytes>)>::new(), from as i64);
    loop {
        let History { events, next } = view.history(Revision(from), max_bytes).unwrap();
        assert!(next.0 > from || events.is_empty());
        let size: usize = events.iter().map(Event::size).sum();
        let revisions = events.iter().map(Event::revision).collect::<std::collections::BTreeSet<_>>();
        assert!(size <= max_bytes || revisions.len() == 1, "{size} bytes in {revisions:?}");
        for event in &events {
            let revision = event.revision();
            assert!((from..next.0).contains(&revision));
            if changes.last().is_none_or(|(last, ..)| *last < revision) {
                changes.push((revision, Pairs::new(), Vec::new()));
            }
            let (last, put, deleted) = changes.last_mut().unwrap();
            assert_eq!(*last, revision, "in order");
            put.remove(&event.kv.key);
            deleted.retain(|key| *key != event.kv.key);
            match event.deleted {
                true => deleted.push(event.kv.key.clone()),
                false => drop(put.insert(event.kv.key.clone(), event.kv.clone())),
            }
        }
        if next.0 <= from {
            break;
        }
        from = next.0;
    }
    for (revision, _, deleted) in &mut changes {
        // A key that was made and deleted in one revision was there before and after in none.
        deleted.retain(|key| model.history[*revision as usize - 1].contains_key(key));
        deleted.sort();
    }
    changes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked, and wherever the values lie: memory, or the engine, before and after a restart.
    #[test]
    fn the_machine_answers_as_the_model_does(steps in vec(some_step(), 1..60)) {
        let mut model = Model::new();
        let mut disk = Lagging { store: Store::new(), sealed: Vec::new() };
        for step in steps {
            let view = disk.store.machine.view();
            match step {
                Step::Apply(act) => {
                    let at = disk.store.machine.applied().index.next();
                    prop_assert_eq!(disk.store.act(act.clone()), model.act(at, &act), "{:?}", act);
                }
                Step::Noop => noop(&mut disk.store.machine),
                Step::Range(r) => prop_assert_eq!(view.range(&r), model.now().range(&r), "{:?}", r),
                Step::Txn(r) => prop_assert_eq!(view.txn(&r), model.now().txn(&r), "{:?}", r),
                Step::History(from, bytes) => {
                    if (from as i64) < model.compacted {
                        prop_assert_eq!(view.history(Revision(from as i64), bytes), Err(model.gone()));
                    } else {
                        prop_assert_eq!(told(&disk.store.machine, &model, from, bytes), model.changes(from));
                    }
                }
                Step::Sweep => disk.sweep(),
                Step::Seal => disk.seal(),
                Step::Written => disk.written(),
                Step::Reopen => disk.reopen(),
            }
            let live: usize = model.now().pairs().values().map(|kv| kv.key.len() + kv.value.len() + VERSION_BYTES as usize).sum();
            prop_assert_eq!(disk.store.machine.view().live_bytes(), live as u64);
            prop_assert_eq!(leases(&disk.store.machine), model.shown_leases());
            model.agrees_on_members(&disk.store.machine);
        }
        let oldest = model.oldest().max(2);
        for sweep in [false, true] {
            if sweep {
                disk.sweep_all();
            }
            let held = disk.store.machine.view().held_bytes();
            disk.reopen();
            // What was swept from memory, and nothing else, was swept from the disk.
            prop_assert!(!sweep || disk.store.machine.view().held_bytes() == held);
            prop_assert_eq!(leases(&disk.store.machine), model.shown_leases());
            model.agrees_on_members(&disk.store.machine);
            prop_assert_eq!(told(&disk.store.machine, &model, oldest, 100), model.changes(oldest));
            prop_assert_eq!(everything(&disk.store.machine), model.everything());
        }
        disk.sweep_all();
        prop_assert_eq!(disk.store.machine.view().dropped_versions(), 0, "the last pass left nothing to the next one");
    }

    /// Two members with different disks give the same answers and digests.
    #[test]
    fn the_digest_does_not_depend_on_when_runs_are_sealed(
        commands in vec((some_act(), 0..6u8), 1..30),
    ) {
        let mut one = Lagging { store: Store::new(), sealed: Vec::new() };
        let mut other = Store::new();
        for (command, disk) in commands {
            prop_assert_eq!(one.store.act(command.clone()), other.act(command));
            match disk {
                0 => one.seal(),
                1 => one.written(),
                2 => drop(other.write()),
                3 => one.sweep(),
                _ => drop((other.write(), other.sweep())),
            }
            prop_assert_eq!(one.store.machine.digest(), other.machine.digest());
        }
    }

    /// A crash keeps any prefix of the writes. What is found is a state that was, and the log leads on from there to the
    /// same answers and the same digest, however runs are sealed this time.
    #[test]
    fn every_crash_leads_back(commands in vec((some_act(), 0..4usize, any::<bool>()), 1..25)) {
        let (mut first, mut model) = (Store::new(), Model::new());
        let mut writes = Vec::new();
        let mut past = vec![(None, first.machine.digest())];
        for (at, (command, sweeps, _)) in commands.iter().enumerate() {
            let answer = first.act(command.clone());
            prop_assert_eq!(&answer, &model.act(Index(at as u64 + 1), command));
            past.push((Some(answer), first.machine.digest()));
            if *sweeps > 0 || at + 1 == commands.len() {
                writes.extend(first.write());
            }
            for _ in 1..*sweeps {
                writes.extend(first.sweep());
            }
        }
        while first.machine.is_sweeping() {
            writes.extend(first.sweep());
        }
        let oldest = model.oldest().max(2);
        for kept in 0..=writes.len() {
            let engine = MemoryEngine::new();
            insert(&engine, writes[..kept].to_vec());
            let mut again = Store::open(engine.clone());
            let applied = again.machine.applied().index.0 as usize;
            prop_assert_eq!(again.machine.digest(), past[applied].1);
            for (at, (command, _, seals)) in commands.iter().enumerate().skip(applied) {
                prop_assert_eq!(Some(again.act(command.clone())), past[at + 1].0.clone());
                prop_assert_eq!(again.machine.digest(), past[at + 1].1);
                if *seals {
                    again.write();
                    again.sweep();
                }
            }
            prop_assert_eq!(everything(&again.machine), model.everything());
            prop_assert_eq!(told(&again.machine, &model, oldest, 1000), model.changes(oldest));
            model.agrees_on_members(&again.machine);
            again.write();
            while again.machine.is_sweeping() {
                again.sweep();
            }
            let reopened = Store::open(engine);
            prop_assert_eq!(reopened.machine.digest(), first.machine.digest());
            prop_assert_eq!(everything(&reopened.machine), model.everything());
            prop_assert_eq!(told(&reopened.machine, &model, oldest, 1000), model.changes(oldest));
            prop_assert_eq!(leases(&reopened.machine), model.shown_leases());
            model.agrees_on_members(&reopened.machine);
            prop_assert_eq!(reopened.machine.view().alarms(), first.machine.view().alarms());
            prop_assert_eq!(reopened.machine.view().held_bytes(), again.machine.view().held_bytes());
        }
    }
}

#[test]
fn a_store_begins_with_its_members() {
    let store = Store::new();
    assert_eq!(store.machine.members(), founders());
}

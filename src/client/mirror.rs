//! A mirror: the keys of one cluster, kept equal in another.
//!
//! First a copy of everything at one revision, then a watch from the next one on: together every change once, in order.
//! What one revision changed at the source changes in one transaction at the destination, unless that is more than a
//! transaction may hold. The copy writes and never deletes: the destination may hold keys of its own.
//!
//! Each write says what a key is from now on, so one that may be done is simply done again; a destination that is away
//! for a while is waited for.
//!
//! What is not mirrored: leases (they mean something in their own cluster only), revisions and versions. What is not
//! guarded against: a write that was given up and done again, and that the destination still does much later, behind
//! newer ones.

use super::pages::{Pages, prefix_range};
use super::resume::End;
use super::retry::Kind;
use super::watch::{Told, Watch};
use super::{Client, Error};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use bytes::Bytes;
use mvccpb::event::EventType;
use pb::request_op::Request;

/// Operations of one transaction, at most: what servers allow.
const TXN_OPS: usize = 128;

/// Bytes of one transaction, about: servers take one and a half times as many.
const TXN_BYTES: usize = 1 << 20;

/// What a key of the source is called at the destination: the prefix is replaced.
#[derive(Clone, Debug)]
pub struct Rename {
    /// What mirrored keys begin with at the source.
    pub from: Bytes,
    /// What they begin with at the destination instead.
    pub to: Bytes,
}

impl Rename {
    /// The name at the destination; `None` for the empty one, which no key can have.
    fn key(&self, key: &[u8]) -> Option<Bytes> {
        let rest = key.strip_prefix(&self.from[..]).unwrap_or(key);
        let name: Bytes = [&self.to[..], rest].concat().into();
        (!name.is_empty()).then_some(name)
    }

    fn put(&self, kv: mvccpb::KeyValue) -> Option<pb::RequestOp> {
        let put = pb::PutRequest { key: self.key(&kv.key)?, value: kv.value, ..Default::default() };
        Some(pb::RequestOp { request: Some(Request::RequestPut(put)) })
    }

    fn event(&self, event: mvccpb::Event) -> Option<pb::RequestOp> {
        let is_delete = event.r#type() == EventType::Delete;
        let kv = event.kv?;
        if !is_delete {
            return self.put(kv);
        }
        let delete = pb::DeleteRangeRequest { key: self.key(&kv.key)?, ..Default::default() };
        Some(pb::RequestOp { request: Some(Request::RequestDeleteRange(delete)) })
    }
}

/// A mirror at work: [`Mirror::copy`] until it says that there is no more, then [`Mirror::follow`] for ever.
#[derive(Debug)]
pub struct Mirror {
    source: Client,
    destination: Client,
    rename: Rename,
    pages: Pages,
    watch: Option<Watch>,
}

impl Mirror {
    /// A mirror of the keys that begin with `rename.from`, as they are now and as they change.
    pub fn new(source: &Client, destination: Client, rename: Rename) -> Mirror {
        let (key, range_end) = prefix_range(&rename.from);
        let pages = source.pages(pb::RangeRequest { key, range_end, ..Default::default() });
        Mirror { source: source.clone(), destination, rename, pages, watch: None }
    }

    /// The revision of the source that the copy has.
    pub fn revision(&self) -> i64 {
        self.pages.revision()
    }

    /// Copies one page; says how many keys, or `None` after the last one.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn copy(&mut self) -> Result<Option<usize>, Error> {
        let Some(page) = self.pages.next().await? else { return Ok(None) };
        let count = page.len();
        self.write(page.into_iter().filter_map(|kv| self.rename.put(kv)).collect()).await?;
        Ok(Some(count))
    }

    /// Waits for the next changes and repeats them; says how many, and the revision of the source that the destination
    /// now has. For as long as the destination is away it tries again, and `trouble` hears of each time. Not to be
    /// dropped half-way: what was heard and not yet repeated would be lost.
    ///
    /// # Errors
    /// The error of either side; the inner result is the watch's end.
    pub async fn follow(&mut self, trouble: impl Fn(&Error)) -> Result<Result<(usize, i64), End>, Error> {
        let watch = self.watch.get_or_insert_with(|| {
            let (key, range_end) = prefix_range(&self.rename.from);
            let start_revision = self.pages.revision() + 1;
            self.source.watch(pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() })
        });
        loop {
            let news = match watch.next().await? {
                Told::Open | Told::Lost(_) => continue,
                Told::News(news) => news,
                Told::End(_, end) => return Ok(Err(end)),
            };
            let (count, revision) = (news.events.len(), watch.position() - 1);
            for events in revisions(news.events) {
                let ops: Vec<_> = events.into_iter().filter_map(|event| self.rename.event(event)).collect();
                while let Err(error) = self.write(ops.clone()).await {
                    if let Error::Rejected(_) = error {
                        return Err(error);
                    }
                    trouble(&error);
                    // What could not even be sent failed at once.
                    tokio::time::sleep(self.destination.options.dial_timeout).await;
                }
            }
            return Ok(Ok((count, revision)));
        }
    }

    async fn write(&self, ops: Vec<pb::RequestOp>) -> Result<(), Error> {
        for success in transactions(ops) {
            let txn = pb::TxnRequest { success, ..Default::default() };
            call!(self.destination, Kind::Read, kv_client::KvClient.txn, txn)?;
        }
        Ok(())
    }
}

/// Events by the revision that made them.
fn revisions(events: Vec<mvccpb::Event>) -> Vec<Vec<mvccpb::Event>> {
    let mut groups: Vec<Vec<mvccpb::Event>> = Vec::new();
    let revision = |event: &mvccpb::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
    for event in events {
        match groups.last_mut() {
            Some(group) if group.first().map(revision) == Some(revision(&event)) => group.push(event),
            _ => groups.push(vec![event]),
        }
    }
    groups
}

/// Operations in transactions of a size that servers take, in order.
pub fn transactions(ops: Vec<pb::RequestOp>) -> Vec<Vec<pb::RequestOp>> {
    let mut txns: Vec<Vec<pb::RequestOp>> = Vec::new();
    let mut room = 0;
    for op in ops {
        let size = match &op.request {
            Some(Request::RequestPut(put)) => put.key.len() + put.value.len(),
            _ => 0,
        };
        match txns.last_mut() {
            Some(txn) if txn.len() < TXN_OPS && size <= room => {
                txn.push(op);
                room -= size;
            }
            _ => {
                room = TXN_BYTES.saturating_sub(size);
                txns.push(vec![op]);
            }
        }
    }
    txns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: usize, mod_revision: i64) -> mvccpb::KeyValue {
        let (key, value) = (key.to_owned().into(), vec![0; value].into());
        mvccpb::KeyValue { key, value, mod_revision, lease: 7, ..Default::default() }
    }

    fn rename(from: &'static str, to: &'static str) -> Rename {
        Rename { from: from.into(), to: to.into() }
    }

    #[test]
    fn the_prefix_is_replaced_and_the_lease_stays_behind() {
        assert_eq!(rename("a/", "b/").key(b"a/x").unwrap(), "b/x");
        assert_eq!(rename("", "b/").key(b"a/x").unwrap(), "b/a/x");
        assert_eq!(rename("a/", "").key(b"a/x").unwrap(), "x");
        assert_eq!(rename("a/", "").key(b"a/"), None);
        let Some(Request::RequestPut(put)) = rename("a", "b").put(kv("a", 1, 1)).unwrap().request else { panic!() };
        assert_eq!((put.key, put.lease), ("b".into(), 0));
        let delete = mvccpb::Event { r#type: EventType::Delete.into(), kv: Some(kv("a", 0, 1)), prev_kv: None };
        let op = rename("a", "b").event(delete).unwrap().request;
        assert!(matches!(op, Some(Request::RequestDeleteRange(delete)) if delete.key == "b"));
    }

    #[test]
    fn what_one_revision_did_stays_together() {
        let events =
            [1, 1, 2, 3, 3].map(|revision| mvccpb::Event { kv: Some(kv("a", 0, revision)), ..Default::default() });
        let sizes: Vec<usize> = revisions(events.to_vec()).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 2]);
    }

    #[test]
    fn transactions_have_a_size_that_servers_take() {
        let puts = |count: usize, size| vec![rename("", "").put(kv("a", size, 1)).unwrap(); count];
        let sizes = |ops| transactions(ops).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(puts(0, 1)), [0; 0]);
        assert_eq!(sizes(puts(300, 1)), [128, 128, 44]);
        assert_eq!(sizes(puts(3, TXN_BYTES / 2)), [1, 1, 1]);
        assert_eq!(sizes(puts(4, TXN_BYTES / 2 - 1)), [2, 2]);
        assert_eq!(sizes(puts(2, 2 * TXN_BYTES)), [1, 1]);
    }
}

//! A large range, read in pages at one revision.
//!
//! The first page fixes the revision, so all of them together are one snapshot, however long the reading takes; if it is
//! compacted meanwhile, the next page is refused and nothing wrong was read. How many keys a page has follows from how
//! large they are.

use super::{Client, Error};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use bytes::Bytes;

/// Keys of the first page.
const FIRST: i64 = 128;

/// Keys of a page, at most.
const MOST: i64 = 2048;

/// Above so many bytes the next page has half as many keys, below twice as many.
const PAGE_BYTES: usize = 2 << 20;

/// The range of all keys that begin with `prefix`.
pub fn prefix_range(prefix: &[u8]) -> (Bytes, Bytes) {
    // No key is empty: the smallest is one zero byte.
    let key = if prefix.is_empty() { Bytes::from_static(&[0]) } else { Bytes::copy_from_slice(prefix) };
    (key, prefix_end(prefix))
}

/// The first key that does not begin with `prefix`; one zero byte ("no end") if there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|byte| *byte < 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        None => Bytes::from_static(&[0]),
    }
}

/// The pages of a range.
#[derive(Debug)]
pub struct Pages {
    client: Client,
    request: pb::RangeRequest,
    done: bool,
}

impl Client {
    /// The pages of `request`'s range; its order, limit and filters must be left alone. Nothing is sent before
    /// [`Pages::next`].
    pub fn pages(&self, request: pb::RangeRequest) -> Pages {
        Pages { client: self.clone(), request: pb::RangeRequest { limit: FIRST, ..request }, done: false }
    }
}

impl Pages {
    /// The next page; `None` at the end. Only the first one may be empty.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn next(&mut self) -> Result<Option<Vec<mvccpb::KeyValue>>, Error> {
        if self.done {
            return Ok(None);
        }
        let answer = self.client.range(self.request.clone()).await?;
        self.take(&answer);
        Ok(Some(answer.kvs))
    }

    /// The revision of the snapshot; 0 before the first page.
    pub fn revision(&self) -> i64 {
        self.request.revision
    }

    fn take(&mut self, answer: &pb::RangeResponse) {
        if self.request.revision == 0 {
            self.request.revision = answer.header.as_ref().map_or(0, |header| header.revision);
        }
        let bytes: usize = answer.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        let limit = self.request.limit;
        self.request.limit = if bytes > PAGE_BYTES { (limit / 2).max(1) } else { (limit * 2).min(MOST) };
        match answer.kvs.last() {
            Some(last) if answer.more => self.request.key = Bytes::from([&last.key[..], &[0]].concat()),
            _ => self.done = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Options;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(prefix_end(b"ab"), "ac");
        assert_eq!(prefix_end(b"a\xff\xff"), "b");
        assert_eq!(prefix_end(b"\xff\xff"), Bytes::from_static(&[0]));
        assert_eq!(prefix_range(b""), (Bytes::from_static(&[0]), Bytes::from_static(&[0])));
    }

    fn page(revision: i64, last: &str, value: usize, more: bool) -> pb::RangeResponse {
        let kv = mvccpb::KeyValue { key: last.to_owned().into(), value: vec![0; value].into(), ..Default::default() };
        let header = Some(pb::ResponseHeader { revision, ..Default::default() });
        pb::RangeResponse { header, kvs: vec![kv], more, count: 0 }
    }

    #[test]
    fn pages_go_on_behind_the_last_key_at_the_first_ones_revision() {
        let client = Client::new(&["a:1".to_owned()], Options::default()).unwrap();
        let mut pages = client.pages(pb::RangeRequest { key: "a".into(), range_end: "b".into(), ..Default::default() });
        pages.take(&page(7, "a1", 1, true));
        assert_eq!((pages.revision(), pages.request.key.as_ref(), pages.request.limit), (7, &b"a1\0"[..], 2 * FIRST));
        pages.take(&page(9, "a2", PAGE_BYTES + 1, true));
        assert_eq!((pages.revision(), pages.request.key.as_ref(), pages.request.limit), (7, &b"a2\0"[..], FIRST));
        assert!(!pages.done);
        pages.take(&page(9, "a3", 1, false));
        assert!(pages.done);
    }
}

//! Events as bytes, each made once.
//!
//! A [`Batch`] holds a stretch of history and encodes an event when somebody wants it: once plain, once more with the previous
//! value if somebody asked for that. What an interest is told of the batch is put together of those bytes, once for all who
//! share the interest; a single event is not even copied.

use super::interest::Interest;
use crate::machine::{self, Event, View};
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::mvccpb;
use bytes::{Bytes, BytesMut};

/// The field `events` of etcd's WatchResponse.
const EVENTS_FIELD: u32 = 11;

/// What an answer has beside its events, at most: the header, the watch id and the flags.
const HEAD_BYTES: usize = 64;

/// Encoded events.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The bytes.
    pub encoded: Bytes,
    /// How many events they are.
    pub count: u32,
    /// The last revision in them goes on in the next piece.
    pub fragment: bool,
}

/// A stretch of history that is being told.
#[derive(Debug)]
pub struct Batch<'a> {
    view: &'a View,
    /// In order.
    pub events: &'a [Event],
    /// Without and with the previous value.
    encoded: Vec<[Option<Bytes>; 2]>,
    /// Answers to those who bear fragments stay below this, if the events allow.
    fragment_bytes: usize,
}

impl<'a> Batch<'a> {
    /// `events`, of which nothing is encoded yet; previous values are read from `view`.
    pub fn new(view: &'a View, events: &'a [Event], fragment_bytes: usize) -> Batch<'a> {
        Batch { view, events, encoded: vec![[None, None]; events.len()], fragment_bytes }
    }

    /// The events `wanted`, by number and in order, as `interest` wants to be told them.
    ///
    /// # Errors
    /// The disk failed.
    pub fn pieces(&mut self, interest: &Interest, wanted: &[usize]) -> Result<Vec<Piece>, machine::Error> {
        let mut parts = Vec::with_capacity(wanted.len());
        for number in wanted {
            parts.push(self.encode(*number, interest.prev_kv)?);
        }
        let limit = if interest.fragment { self.fragment_bytes } else { usize::MAX };
        let mut pieces = Vec::new();
        let mut rest = parts.as_slice();
        while !rest.is_empty() {
            let mut size = HEAD_BYTES;
            let fits = rest.iter().take_while(|part| {
                size = size.saturating_add(part.len());
                size < limit
            });
            let (piece, others) = rest.split_at(fits.count().max(1));
            rest = others;
            let count = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            pieces.push(Piece { encoded: join(piece), count, fragment: !rest.is_empty() });
        }
        Ok(pieces)
    }

    fn encode(&mut self, number: usize, prev_kv: bool) -> Result<Bytes, machine::Error> {
        if let Some(encoded) = &self.encoded[number][usize::from(prev_kv)] {
            return Ok(encoded.clone());
        }
        let event = &self.events[number];
        let kind = if event.deleted { mvccpb::event::EventType::Delete } else { mvccpb::event::EventType::Put };
        let event = mvccpb::Event {
            r#type: kind.into(),
            kv: Some(event.kv.clone()),
            prev_kv: if prev_kv { previous(self.view, event)? } else { None },
        };
        let mut buffer = BytesMut::with_capacity(prost::encoding::message::encoded_len(EVENTS_FIELD, &event));
        prost::encoding::message::encode(EVENTS_FIELD, &event, &mut buffer);
        let encoded = buffer.freeze();
        self.encoded[number][usize::from(prev_kv)] = Some(encoded.clone());
        Ok(encoded)
    }
}

/// What the key was before the event; `None` if it was not there, or if that was compacted away.
fn previous(view: &View, event: &Event) -> Result<Option<mvccpb::KeyValue>, machine::Error> {
    if !event.deleted && event.kv.create_revision == event.kv.mod_revision {
        return Ok(None);
    }
    let request = RangeRequest { key: event.kv.key.clone(), revision: event.revision() - 1, ..RangeRequest::default() };
    match view.range(&request) {
        Ok(mut found) => Ok(found.kvs.pop()),
        Err(machine::Error::Disk(fault)) => Err(machine::Error::Disk(fault)),
        Err(_) => Ok(None),
    }
}

fn join(parts: &[Bytes]) -> Bytes {
    if let [one] = parts {
        return one.clone();
    }
    let mut joined = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| joined.extend_from_slice(part));
    joined.freeze()
}

//! A record of the log as bytes: several entries in one value, or a large one alone.
//!
//! The layout is frozen (`log.rs` draws it, and a test holds its bytes). Reading checks everything that a record can show by
//! itself: its version, its lengths, each entry's own checksum. Whether it fits its neighbours is the log's question.

use crate::ids::{Incarnation, Index, MemberId, Position, RequestId, Term};
use crate::raft::{Entry, EntryKind};
use crate::storage::key::MAX_VALUE;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The version of a record's layout.
const VERSION: u8 = 1;

/// Bytes of a record before its first entry.
const RECORD_HEADER: usize = 13;

/// Bytes of an entry in a record beside its data: its index is not stored.
pub(super) const ENTRY_HEADER: usize = Entry::OVERHEAD - 8;

/// A record being written.
#[derive(Default)]
pub(super) struct Packing {
    first: Index,
    pub(super) count: u32,
    pub(super) bytes: BytesMut,
}

impl Packing {
    pub(super) fn begin(&mut self, first: Index, prev_term: Term) {
        self.first = first;
        self.bytes.put_u8(VERSION);
        self.bytes.put_u32_le(0);
        self.bytes.put_u64_le(prev_term.0);
    }

    pub(super) fn push(&mut self, entry: &Entry) {
        self.count += 1;
        self.bytes.put_u64_le(entry.position.term.0);
        self.bytes.put_u8(match entry.kind {
            EntryKind::Noop => 0,
            EntryKind::Command => 1,
            EntryKind::Configuration => 2,
        });
        self.bytes.put_u64_le(entry.id.origin.0);
        self.bytes.put_u64_le(entry.id.incarnation.0);
        self.bytes.put_u64_le(entry.id.sequence);
        self.bytes.put_u32_le(entry.checksum);
        let len = u32::try_from(entry.data.len()).expect("limits on requests keep an entry far below 4 GiB");
        self.bytes.put_u32_le(len);
        self.bytes.put_slice(&entry.data);
    }

    pub(super) fn finish(&mut self) -> (Index, &[u8]) {
        self.bytes[1..5].copy_from_slice(&self.count.to_le_bytes());
        (self.first, &self.bytes)
    }

    /// Ready for the next record; keeps the buffer unless an entry above the cap blew it up.
    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
        if self.bytes.capacity() > 2 * MAX_VALUE {
            self.bytes = BytesMut::new();
        }
    }
}

/// A record read back.
pub(super) struct Record {
    pub(super) prev_term: Term,
    pub(super) entries: Vec<Entry>,
}

impl Record {
    pub(super) fn decode(first: Index, mut value: Bytes) -> Result<Record, String> {
        if value.first() != Some(&VERSION) {
            return Err(format!("its layout is version {:?}, this program reads {VERSION}", value.first()));
        }
        if value.len() < RECORD_HEADER {
            return Err("it is shorter than its header".into());
        }
        value.advance(1);
        let (count, prev_term) = (value.get_u32_le(), Term(value.get_u64_le()));
        let mut entries = Vec::new();
        for index in first.0..first.0 + u64::from(count) {
            if value.len() < ENTRY_HEADER {
                return Err(format!("entry {index} is cut off"));
            }
            let term = Term(value.get_u64_le());
            let kind = match value.get_u8() {
                0 => EntryKind::Noop,
                1 => EntryKind::Command,
                2 => EntryKind::Configuration,
                kind => return Err(format!("entry {index} is of unknown kind {kind}")),
            };
            let id = RequestId {
                origin: MemberId(value.get_u64_le()),
                incarnation: Incarnation(value.get_u64_le()),
                sequence: value.get_u64_le(),
            };
            let checksum = value.get_u32_le();
            let len = value.get_u32_le() as usize;
            if value.len() < len {
                return Err(format!("the data of entry {index} is cut off"));
            }
            let position = Position { index: Index(index), term };
            let entry = Entry { position, kind, id, data: value.split_to(len), checksum };
            if !entry.is_sound() {
                return Err(format!("entry {position} is not what its leader made: its checksum is wrong"));
            }
            entries.push(entry);
        }
        if entries.is_empty() || !value.is_empty() {
            return Err(format!("{count} entries and {} bytes after them", value.len()));
        }
        Ok(Record { prev_term, entries })
    }
}

//! A snapshot: everything that is there at one revision, as a stream of bytes that proves itself.
//!
//! # The cut
//!
//! A [`Snapshot`] is taken between two entries of the log ([`Shared::whole`](super::state::Shared::whole)): the revision, the
//! mark, the position, the members and the leases are those of one moment. Members and leases have no history, so they are
//! copied then; keys are read afterwards, at the pinned revision, while writes go on. So a lease that a key names is always
//! in the snapshot too.
//!
//! Each [`Snapshot::step`] does a little: first it measures, slice by slice, for the stream says in advance how long it will
//! be, and lengths stand in the index; then it makes one blob at a time. What it holds is a blob, a slice of keys and one
//! value, whatever the store is, beside its copy of members and leases.
//!
//! A compaction beyond the revision ends it with an error, never with a hole.
//!
//! # The format
//!
//! Little endian; every byte is covered by a checksum or must be zero.
//!
//! ```text
//! 0  magic    8 bytes, "QUORSNAP"
//! 8  version  u32, 1 or 2
//! 12 frames   length u32, crc u32, body
//! …  zeros    up to a multiple of 512
//! …  sum      SHA-256 of everything before it
//! ```
//!
//! A frame's checksum is the CRC-32C of its length and its body, continued from the frame before (the first one from magic
//! and version): no frame can be lost, doubled or moved. The first byte of a body says what it is:
//!
//! ```text
//! 0    head    cluster u64, revision i64, compacted i64, applied index u64 and term u64; in version 2: level u32
//! 3    member  as an effect (`record.rs`), by id
//! 6    lease   as an effect, by id
//! 1    put     as an effect, by key: a key's current version; its place within the revision is 0
//! 255  end     how many members u64, leases u64, keys u64
//! ```
//!
//! A snapshot of a cluster of level 0 has version 1, which every release reads. Who does not know the level of another one
//! refuses it at its head, before anything is restored.
//!
//! In this order: one head, members, leases, puts, one end. The length modulo 512 is 32, which is what etcdctl looks for in a
//! file that it has saved.
//!
//! # What is left out
//!
//! History: older versions and deletions. Alarms: they speak of members' disks. Compression. And etcd's own format, which is
//! the pages of a bbolt database.

use super::index::KeyRange;
use super::range::Hit;
use super::record::{self, Cursor, Effect, Put};
use super::state::{Found, Values};
use super::versions::Version;
use super::{Error, LeaseTime, Level, Member, View};
use crate::checksum::{crc, crc_append};
use crate::ids::{ClusterId, Index, MemberId, Position, Revision, Term};
use crate::proto::mvccpb::KeyValue;
use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeSet, VecDeque};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// Length of a blob, but for the last one, in bytes: etcd's.
const BLOB: usize = 32 << 10;
/// What the length before the sum is a multiple of, in bytes.
const BLOCK: u64 = 512;
const MAGIC: [u8; 8] = *b"QUORSNAP";
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;
/// The first one whose head says a level.
const TELLS_LEVEL: u32 = 2;
const PREFACE: usize = MAGIC.len() + size_of::<u32>();
const FRAME: usize = 8;
const SUM: usize = 32;
const HEAD: u8 = 0;
const END: u8 = 255;
const END_BYTES: usize = FRAME + 1 + 3 * size_of::<u64>();
/// Keys that are looked up at a time, at most, and their bytes, about.
const SLICE_KEYS: usize = 256;
const SLICE_BYTES: usize = 64 << 10;

/// What a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose.
    pub cluster: ClusterId,
    /// The revision that it shows.
    pub revision: Revision,
    /// The oldest readable revision then, -1 if nothing was compacted.
    pub compacted: Revision,
    /// The last entry that had been applied.
    pub applied: Position,
    /// The cluster's level.
    pub level: Level,
}

/// How much is in a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Members.
    pub members: u64,
    /// Leases.
    pub leases: u64,
    /// Keys.
    pub keys: u64,
}

/// What a step of a snapshot came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Portion {
    /// Something was measured.
    Measured,
    /// The next bytes.
    Blob {
        /// They.
        blob: Bytes,
        /// How many bytes come after them, the sum not counted.
        remaining: u64,
    },
    /// The last bytes: the sum.
    Sum(Bytes),
}

/// A snapshot that is being read.
#[derive(Debug)]
pub struct Snapshot {
    view: View,
    at: i64,
    contents: Contents,
    part: Part,
    /// The last key that was measured or collected.
    after: Option<Box<[u8]>>,
    /// Collected, and not written yet.
    hits: VecDeque<Hit>,
    /// Written, and not handed out yet.
    buffer: BytesMut,
    /// Bytes to come, the sum not counted; while measuring, those that were counted so far.
    remaining: u64,
    crc: u32,
    sha: Sha256,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Measuring,
    Keys,
    /// All is written.
    Written,
}

impl Snapshot {
    /// Takes the cut. Nothing is read yet.
    pub(super) fn open(view: View, cluster: ClusterId) -> Snapshot {
        let shared = &view.0;
        let (head, members, leases) = {
            let whole = shared.whole();
            let state = shared.read();
            let (revision, compacted) = (Revision(shared.revision()), Revision(state.compacted));
            let leases: Vec<_> = state.leases.iter().map(|(id, lease)| (*id, lease.time)).collect();
            let members: Vec<Member> = state.members.values().cloned().collect();
            (Head { cluster, revision, compacted, applied: *whole, level: state.level }, members, leases)
        };
        let preface = [&MAGIC[..], &head.version().to_le_bytes()].concat();
        let mut snapshot = Snapshot {
            at: head.revision.0,
            contents: Contents { members: members.len() as u64, leases: leases.len() as u64, keys: 0 },
            part: Part::Measuring,
            after: None,
            hits: VecDeque::new(),
            buffer: BytesMut::from(&preface[..]),
            remaining: 0,
            crc: crc(&preface),
            sha: Sha256::new(),
            view,
        };
        snapshot.frame(&head.encode());
        for member in &members {
            snapshot.effect(&Effect::Member(&record::encode_member(member)));
        }
        for (id, LeaseTime { ttl, remaining, granted }) in leases {
            snapshot.effect(&Effect::Lease { id, ttl, remaining, granted });
        }
        snapshot.remaining = snapshot.buffer.len() as u64;
        snapshot
    }

    /// The revision that it shows.
    pub fn revision(&self) -> Revision {
        Revision(self.at)
    }

    /// Goes on by a little. Not to be called after the sum.
    ///
    /// # Errors
    /// The revision was compacted away meanwhile; the disk.
    ///
    /// # Panics
    /// If what is read is not as long as what was measured: at a pinned revision it is.
    pub fn step(&mut self) -> Result<Portion, Error> {
        let portion = match self.part {
            Part::Measuring => {
                self.measure();
                Ok(Portion::Measured)
            }
            Part::Written if self.buffer.is_empty() => {
                let sum: [u8; SUM] = self.sha.finalize_reset().into();
                Ok(Portion::Sum(Bytes::copy_from_slice(&sum)))
            }
            Part::Keys | Part::Written => self.fill(),
        };
        // Looked at last: what was read before a compaction is whole, what failed because of one has this reason.
        let compacted = self.view.compacted();
        if self.at < compacted.0 { Err(Error::Compacted { compacted }) } else { portion.map(|read| self.tell(read)) }
    }

    /// Measures one slice of keys.
    fn measure(&mut self) {
        let (mut keys, mut bytes) = (0, 0);
        let slice = self.view.0.walk_slice(KeyRange::From(b""), self.after.as_deref(), self.at, |_, key, version| {
            keys += 1;
            bytes += put_frame_len(key, version);
            ControlFlow::Continue(())
        });
        self.contents.keys += keys;
        self.remaining += bytes;
        self.after = slice.continue_value().flatten();
        if self.after.is_none() {
            self.remaining = (self.remaining + END_BYTES as u64).next_multiple_of(BLOCK);
            self.part = Part::Keys;
        }
    }

    /// Takes the next blob out of the buffer.
    fn fill(&mut self) -> Result<Portion, Error> {
        let shared = Arc::clone(&self.view.0);
        let mut values = Values::new(&shared);
        while self.part == Part::Keys && self.buffer.len() < BLOB {
            if self.hits.is_empty() {
                self.collect();
            }
            let Some(Hit { key, found }) = self.hits.pop_front() else {
                self.end();
                break;
            };
            let version = found.version;
            let value = values.load(&key, found)?;
            let (main, created, lease) = (version.modified, version.created, version.lease);
            let put = Put { main, sub: 0, created, version: version.number, lease, key: &key, value: &value };
            self.effect(&Effect::Put(put));
        }
        let blob = self.buffer.split_to(BLOB.min(self.buffer.len())).freeze();
        Ok(Portion::Blob { blob, remaining: 0 })
    }

    /// Counts what leaves.
    fn tell(&mut self, portion: Portion) -> Portion {
        let Portion::Blob { blob, .. } = portion else { return portion };
        self.sha.update(&blob);
        let (length, measured) = (blob.len() as u64, self.remaining);
        let ends = self.part == Part::Written && self.buffer.is_empty();
        assert!(
            length <= measured && ends == (length == measured),
            "{length} bytes of {measured} measured, end: {ends}"
        );
        self.remaining -= length;
        Portion::Blob { blob, remaining: self.remaining }
    }

    /// Looks up the next keys; none if there are no more.
    fn collect(&mut self) {
        let mut bytes = 0;
        while self.hits.is_empty() {
            let hits = &mut self.hits;
            let slice =
                self.view.0.walk_slice(KeyRange::From(b""), self.after.as_deref(), self.at, |state, key, version| {
                    if hits.len() == SLICE_KEYS || bytes > SLICE_BYTES {
                        return ControlFlow::Break(());
                    }
                    bytes += key.len();
                    hits.push_back(Hit { key: Bytes::copy_from_slice(key), found: Found::new(state, version) });
                    ControlFlow::Continue(())
                });
            match slice {
                ControlFlow::Continue(None) if hits.is_empty() => return,
                // A slice of keys that are not there at this revision.
                ControlFlow::Continue(after) if hits.is_empty() => self.after = after,
                _ => self.after = hits.back().map(|hit| Box::from(&*hit.key)),
            }
        }
    }

    /// Writes what comes after the last key.
    fn end(&mut self) {
        let Contents { members, leases, keys } = self.contents;
        let counts = [members, leases, keys].map(u64::to_le_bytes).concat();
        self.frame(&[&[END], &counts[..]].concat());
        let zeros = self.remaining.saturating_sub(self.buffer.len() as u64).min(BLOCK - 1);
        self.buffer.resize(self.buffer.len() + zeros as usize, 0);
        self.part = Part::Written;
    }

    fn effect(&mut self, effect: &Effect<'_>) {
        let mut body = Vec::new();
        effect.encode(&mut body);
        self.frame(&body);
    }

    fn frame(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap_or_else(|_| panic!("a frame of more than 4 GiB: {}", body.len()));
        self.crc = crc_append(crc_append(self.crc, &length.to_le_bytes()), body);
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&self.crc.to_le_bytes());
        self.buffer.extend_from_slice(body);
    }
}

/// How long the frame of a key's version is, in bytes.
fn put_frame_len(key: &[u8], version: &Version) -> u64 {
    (FRAME + record::PUT_BYTES + key.len()) as u64 + u64::from(version.value_len)
}

impl Head {
    fn version(&self) -> u32 {
        if self.level >= Level::TOLD { TELLS_LEVEL } else { *VERSIONS.start() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = vec![HEAD];
        body.extend_from_slice(&self.cluster.0.to_le_bytes());
        body.extend_from_slice(&self.revision.0.to_le_bytes());
        body.extend_from_slice(&self.compacted.0.to_le_bytes());
        body.extend_from_slice(&self.applied.index.0.to_le_bytes());
        body.extend_from_slice(&self.applied.term.0.to_le_bytes());
        if self.version() >= TELLS_LEVEL {
            body.extend_from_slice(&self.level.0.to_le_bytes());
        }
        body
    }

    fn decode(body: &[u8], version: u32) -> Option<Head> {
        let mut input = Cursor(body);
        input.u8().filter(|kind| *kind == HEAD)?;
        let (cluster, revision) = (ClusterId(input.u64()?), Revision(input.i64()?));
        let compacted = Revision(input.i64()?);
        let applied = Position { index: Index(input.u64()?), term: Term(input.u64()?) };
        let level = if version >= TELLS_LEVEL { Level(input.u32()?) } else { Level::FIRST };
        let head = Head { cluster, revision, compacted, applied, level };
        (input.0.is_empty() && head.version() == version).then_some(head)
    }
}

/// Something in a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// What it is of: the first item.
    Head(Head),
    /// A member.
    Member(Member),
    /// A lease.
    Lease(i64, LeaseTime),
    /// A key and its value.
    Pair(KeyValue),
}

impl Item {
    /// A pair or a lease, from the bytes of its frame in a snapshot that was read as a whole before; `None` if they are not
    /// what was there then.
    pub fn read(frame: &[u8]) -> Option<Item> {
        match Effect::decode(frame.get(FRAME..)?)? {
            Effect::Lease { id, ttl, remaining, granted } => {
                Some(Item::Lease(id, LeaseTime { ttl, remaining, granted }))
            }
            Effect::Put(put) => Some(Item::Pair(pair(put))),
            _ => None,
        }
    }
}

fn pair(Put { main, created, version, lease, key, value, .. }: Put<'_>) -> KeyValue {
    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    KeyValue { key, value, create_revision: created, mod_revision: main, version, lease }
}

/// The bytes are no snapshot that this release reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// They are not what was written as a whole.
    #[error("the snapshot is damaged at byte {at}: {why}")]
    Damaged {
        /// Where it was noticed.
        at: u64,
        /// What is wrong there.
        why: String,
    },
    /// Another release wrote them, if they are not damaged.
    #[error("the snapshot is a newer release's: {0}")]
    Newer(String),
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Preface,
    Head,
    Frames,
    Zeros,
    Sum,
    Done,
}

/// Reads a snapshot, given in pieces of any size, and verifies all of it. Holds the ids of its leases and one frame.
///
/// What it tells is not to be relied on until [`SnapshotReader::finish`] says that it was whole.
#[derive(Debug)]
pub struct SnapshotReader {
    /// How many bytes there are, if that is known: no piece is longer.
    length: u64,
    stage: Stage,
    /// Of its format, once that was read.
    version: u32,
    buffer: Vec<u8>,
    /// Bytes that were verified.
    at: u64,
    crc: u32,
    sha: Sha256,
    head: Option<Head>,
    contents: Contents,
    member: Option<MemberId>,
    leases: BTreeSet<i64>,
    key: Option<Bytes>,
}

impl Default for SnapshotReader {
    fn default() -> SnapshotReader {
        SnapshotReader::of_length(u64::MAX)
    }
}

impl SnapshotReader {
    /// For a snapshot of so many bytes. Without that, where a length is damaged, as much is held as it says.
    pub fn of_length(length: u64) -> SnapshotReader {
        SnapshotReader {
            length,
            stage: Stage::Preface,
            version: 0,
            buffer: Vec::new(),
            at: 0,
            crc: 0,
            sha: Sha256::new(),
            head: None,
            contents: Contents::default(),
            member: None,
            leases: BTreeSet::new(),
            key: None,
        }
    }

    /// Takes in the next bytes, and tells `visit` what is in them, each with where its frame lies ([`Item::read`]).
    ///
    /// # Errors
    /// They can't be what was written.
    pub fn push(&mut self, bytes: &[u8], visit: &mut dyn FnMut(Item, Range<u64>)) -> Result<(), SnapshotError> {
        self.buffer.extend_from_slice(bytes);
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut done = 0;
        while let Some(length) = self.wanted(&buffer[done..])? {
            let piece = &buffer[done..done + length];
            let stage = self.stage;
            self.stage = self.read(piece, visit)?;
            if stage != Stage::Sum {
                self.sha.update(piece);
            }
            self.at += length as u64;
            done += length;
        }
        buffer.drain(..done);
        self.buffer = buffer;
        Ok(())
    }

    /// That was all.
    ///
    /// # Errors
    /// Something is missing.
    pub fn finish(self) -> Result<(Head, Contents), SnapshotError> {
        let ended = self.head.filter(|_| self.stage == Stage::Done);
        ended.map(|head| (head, self.contents)).ok_or_else(|| self.ends_early(self.buffer.len() as u64))
    }

    fn damaged(&self, why: impl Into<String>) -> SnapshotError {
        SnapshotError::Damaged { at: self.at, why: why.into() }
    }

    /// There are so many bytes more, and that is not enough.
    fn ends_early(&self, left: u64) -> SnapshotError {
        match self.at + left {
            0 => self.damaged("it is empty"),
            _ => self.damaged(format!("it ends {left} bytes later, before its end")),
        }
    }

    /// How long the next piece is; `None` if it is not there in full.
    fn wanted(&self, rest: &[u8]) -> Result<Option<usize>, SnapshotError> {
        let length = match self.stage {
            Stage::Preface => PREFACE,
            Stage::Head | Stage::Frames => match rest.first_chunk() {
                Some(length) => FRAME.saturating_add(u32::from_le_bytes(*length) as usize),
                None => return Ok(None),
            },
            Stage::Zeros => (self.at.next_multiple_of(BLOCK) - self.at) as usize,
            Stage::Sum => SUM,
            Stage::Done if rest.is_empty() => return Ok(None),
            Stage::Done => return Err(self.damaged("there is something after its end")),
        };
        let left = self.length.saturating_sub(self.at);
        if length as u64 > left {
            return Err(self.ends_early(left));
        }
        Ok((length <= rest.len()).then_some(length))
    }

    /// Reads a piece, and says what comes after it.
    fn read(&mut self, piece: &[u8], visit: &mut dyn FnMut(Item, Range<u64>)) -> Result<Stage, SnapshotError> {
        let place = self.at..self.at + piece.len() as u64;
        match self.stage {
            Stage::Preface => {
                let foreign = || self.damaged("it does not begin as a snapshot of Quorate does");
                let version = piece.strip_prefix(&MAGIC).ok_or_else(foreign)?;
                self.version = version.try_into().map_or(0, u32::from_le_bytes);
                let (first, last) = VERSIONS.into_inner();
                if self.version < first {
                    return Err(self.damaged(format!("there is no format {}", self.version)));
                }
                if self.version > last {
                    let (found, why) = (self.version, "and this release reads");
                    return Err(SnapshotError::Newer(format!("its format is {found}, {why} {first} to {last}")));
                }
                self.crc = crc(piece);
                Ok(Stage::Head)
            }
            Stage::Head => {
                let head = Head::decode(self.body(piece)?, self.version);
                let head = head.ok_or_else(|| self.damaged("its head is malformed"))?;
                let known = head.level.is_known_to("its cluster", "this release", Level::NEWEST);
                known.map_err(SnapshotError::Newer)?;
                self.head = Some(head);
                visit(Item::Head(head), place);
                Ok(Stage::Frames)
            }
            Stage::Frames => {
                let body = self.body(piece)?;
                if body.first() == Some(&END) {
                    return self.end(body);
                }
                let item = self.item(body).ok_or_else(|| self.damaged("there is a frame that can't be there"))?;
                visit(item, place);
                Ok(Stage::Frames)
            }
            Stage::Zeros if piece.iter().all(|byte| *byte == 0) => Ok(Stage::Sum),
            Stage::Zeros => Err(self.damaged("there should be zeros")),
            Stage::Sum if piece == &self.sha.finalize_reset()[..] => Ok(Stage::Done),
            Stage::Sum | Stage::Done => Err(self.damaged("its SHA-256 is another one")),
        }
    }

    /// The body of a frame, verified.
    fn body<'a>(&mut self, frame: &'a [u8]) -> Result<&'a [u8], SnapshotError> {
        let ((length, sum), body) = (frame[..FRAME].split_at(4), &frame[FRAME..]);
        self.crc = crc_append(crc_append(self.crc, length), body);
        if sum == self.crc.to_le_bytes() { Ok(body) } else { Err(self.damaged("the frame's checksum is wrong")) }
    }

    /// What a frame holds; `None` if a snapshot can't have it there.
    fn item(&mut self, body: &[u8]) -> Option<Item> {
        let Contents { members, leases, keys } = &mut self.contents;
        match Effect::decode(body)? {
            Effect::Member(bytes) if *leases + *keys == 0 => {
                let member = record::decode_member(bytes)?;
                let before = self.member.replace(member.id);
                *members += 1;
                before.is_none_or(|before| before < member.id).then_some(Item::Member(member))
            }
            Effect::Lease { id, ttl, remaining, granted } if *keys == 0 => {
                let follows = self.leases.last().is_none_or(|last| *last < id);
                self.leases.insert(id);
                *leases += 1;
                follows.then_some(Item::Lease(id, LeaseTime { ttl, remaining, granted }))
            }
            Effect::Put(put @ Put { main, created, version, lease, sub: 0, .. }) => {
                let pair = pair(put);
                let before = self.key.replace(pair.key.clone());
                *keys += 1;
                let follows = before.is_none_or(|before| before < pair.key);
                let is_seen = version > 0 && created <= main && main <= self.head?.revision.0;
                let is_owned = lease == 0 || self.leases.contains(&lease);
                (follows && is_seen && is_owned).then_some(Item::Pair(pair))
            }
            _ => None,
        }
    }

    /// The end mark: everything was told.
    fn end(&self, body: &[u8]) -> Result<Stage, SnapshotError> {
        let Contents { members, leases, keys } = self.contents;
        let counts = [members, leases, keys].map(u64::to_le_bytes).concat();
        if body[1..] == counts { Ok(Stage::Zeros) } else { Err(self.damaged("its end mark counts something else")) }
    }
}

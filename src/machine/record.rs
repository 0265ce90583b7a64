//! What is written: effects, packed into records.
//!
//! An [`Effect`] is one change of the replicated state, or the mark that ends an entry. Its bytes are frozen: they are what
//! lies on the disk, what its checksum covers and what the [`Digest`] chains over, so equal digests mean equal bytes.
//!
//! A record holds all effects of a run of whole entries, and stands at the first index of the run (`storage::key`, which
//! cuts long ones into slots and sums every byte). Byte for byte, little endian:
//!
//! ```text
//! 0  magic      u32
//! 4  puts       u32   entries of the table
//! 8  first      u64   the first entry of the run
//! 16 last       u64   the last one
//! 24 term       u64   its term
//! 32 digest     u64   of the state after it
//! 40 frames           length u32, crc u32, effect
//! …  table            the offset of each put's frame, u32: (record, ordinal) is found in one step
//! ```
//!
//! A frame's checksum covers its effect alone; it is checked at every read of a value from the engine.
//!
//! # Rewritten
//!
//! A compaction leaves out effects that nobody needs any more ([`rewrite`]). What is left has the magic `QSR2`, and a checksum
//! of everything else at byte 40, so that the frames begin at 44. The digest at its head can't be computed from its effects
//! any more: it is taken as it stands, and the chain goes on from it; so is the position, for the marks that end entries are
//! left out too. The puts that stay keep their ordinals: a put that is gone has 0 in the table, and the table ends with the
//! last put that is there. So no location changes. A rewritten record without effects is a *husk*: it says that the entries
//! from `first` to `last` left nothing behind, and may stand for those of the records that followed it, too.
//!
//! Records are closed at about [`RECORD_CAP`]. An entry is never split, so one with much to say makes a record as long as it
//! needs.
//!
//! # Another release's
//!
//! An effect of a kind that is not known here, whose checksum is right, was written by a newer release, and so was a record with
//! a magic of the same family: that is told apart from rot ([`Misread`]). Each kind of effect has one form for ever; another form
//! gets another kind.
//!
//! May not know: what an effect means to the index. Left out: compression.

use super::Level;
use super::member::{Member, Standing};
use crate::checksum::{crc, crc_append};
use crate::ids::{DiskId, Index, MemberId, Position, Term};
use crate::rng::mix;
use bytes::Bytes;

/// Where a record is closed, in bytes. A sled leaf holds 16 records and is loaded whole on a read miss, and is rewritten
/// whole every ten updates: small records read fast, large ones write fast, and this is the middle.
pub const RECORD_CAP: usize = 8 << 10;

const HEADER: usize = 40;
const REWRITTEN_HEADER: usize = HEADER + 4;
const FRAME: usize = 8;
/// Length of a put's effect without its key and value, in bytes.
pub const PUT_BYTES: usize = 1 + 4 * 8 + 4 + 4;
const MAGIC: u32 = u32::from_le_bytes(*b"QSR1");
const REWRITTEN: u32 = u32::from_le_bytes(*b"QSR2");
/// What all magics begin with.
const FAMILY: &[u8] = b"QSR";
/// The highest number of a kind of effects.
const NEWEST_KIND: u8 = 12;

/// One change of the replicated state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// A key got a value.
    Put(Put<'a>),
    /// A key was deleted.
    Delete {
        /// Which.
        key: &'a [u8],
        /// In which revision.
        main: i64,
        /// Its place within the revision.
        sub: u32,
    },
    /// A member's entry is now this: see [`encode_member`].
    Member(&'a [u8]),
    /// An alarm went up or down.
    Alarm {
        /// Whose.
        member: MemberId,
        /// etcd's number of it.
        alarm: i32,
        /// Up, and why.
        raised: Raised,
    },
    /// The entry at this position ends here.
    Applied(Position),
    /// A lease is there, with so much time.
    Lease {
        /// Which.
        id: i64,
        /// What it was granted for, in seconds.
        ttl: i64,
        /// What was left when that was last written down, in seconds; 0: all of it.
        remaining: i64,
        /// The entry that made it.
        granted: Index,
    },
    /// A lease is gone; its keys were deleted before.
    LeaseGone {
        /// Which.
        id: i64,
    },
    /// What follows was in a snapshot: revisions leap, up to this one.
    Restored {
        /// Where the store stands when all of it is there.
        revision: i64,
    },
    /// Readers below this revision are not served any more.
    Compacted {
        /// The oldest readable revision.
        revision: i64,
    },
    /// Who votes and who learns is now this: bytes that the machine keeps for others.
    Configuration(&'a [u8]),
    /// A member has been removed. Its id never comes again.
    MemberGone {
        /// Which.
        id: MemberId,
    },
    /// From here on this level is in force.
    Level(Level),
}

/// Why bytes are no record, or none that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misread {
    /// They are not what was written.
    #[error("{0}")]
    Rot(String),
    /// A newer release wrote them.
    #[error("{0}, which this release does not know: a newer one wrote it")]
    Newer(String),
}

impl From<String> for Misread {
    fn from(why: String) -> Misread {
        Misread::Rot(why)
    }
}

/// Whether an alarm is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// It is not.
    Not,
    /// Somebody asked for it.
    OnRequest,
    /// The member raised its own, and will clear it.
    ByItself,
}

/// A key's new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    /// In which revision.
    pub main: i64,
    /// Its place within the revision.
    pub sub: u32,
    /// The revision in which the key came to be.
    pub created: i64,
    /// Puts since then, this one included.
    pub version: i64,
    /// Its lease, or 0.
    pub lease: i64,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// A 64-bit chain over every effect since the beginning: order-dependent, the same in every build and on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// Of nothing.
    pub const START: Digest = Digest(0x7175_6f72_6174_6531);

    /// Chains one more effect, or whatever is told by two words, into it.
    pub fn absorb(&mut self, effect_len: u32, effect_crc: u32) {
        let word = u64::from(effect_len) << 32 | u64::from(effect_crc);
        self.0 = mix(self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word);
    }
}

/// A record being written.
#[derive(Debug)]
pub struct Builder {
    first: Index,
    last: Option<Position>,
    bytes: Vec<u8>,
    offsets: Vec<u32>,
}

impl Builder {
    /// An empty record whose first entry is `first`.
    pub fn new(first: Index) -> Builder {
        let mut bytes = Vec::with_capacity(RECORD_CAP);
        bytes.resize(HEADER, 0);
        Builder { first, last: None, bytes, offsets: Vec::new() }
    }

    /// The record's key.
    pub fn first(&self) -> Index {
        self.first
    }

    /// The last whole entry in it; `None` if there is none yet.
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// How long it would be if it were closed now, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() + 4 * self.offsets.len()
    }

    /// Adds an effect and chains it into `digest`. Returns the ordinal of a put; 0 for everything else.
    pub fn push(&mut self, effect: &Effect<'_>, digest: &mut Digest) -> u32 {
        let start = self.bytes.len();
        let mut ordinal = 0;
        if let Effect::Put(_) = effect {
            ordinal = to_u32(self.offsets.len());
            self.offsets.push(to_u32(start));
        }
        if let Effect::Applied(position) = effect {
            self.last = Some(*position);
        }
        self.bytes.resize(start + FRAME, 0);
        effect.encode(&mut self.bytes);
        let body = &self.bytes[start + FRAME..];
        let (length, checksum) = (to_u32(body.len()), crc(body));
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.bytes[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
        digest.absorb(length, checksum);
        ordinal
    }

    /// Closes the record: the state after its last entry has `digest`.
    ///
    /// # Panics
    /// If no entry ended in it.
    pub fn close(mut self, digest: Digest) -> Vec<u8> {
        let last = self.last.expect("a record is closed after an entry");
        for offset in &self.offsets {
            self.bytes.extend_from_slice(&offset.to_le_bytes());
        }
        Header { first: self.first, last, digest, rewritten: false }.put(self.offsets.len(), &mut self.bytes);
        self.bytes
    }
}

impl Header {
    /// Writes it at the beginning of a record with a table of `puts` entries.
    fn put(&self, puts: usize, record: &mut [u8]) {
        let magic = if self.rewritten { REWRITTEN } else { MAGIC };
        record[0..4].copy_from_slice(&magic.to_le_bytes());
        record[4..8].copy_from_slice(&to_u32(puts).to_le_bytes());
        record[8..16].copy_from_slice(&self.first.0.to_le_bytes());
        record[16..24].copy_from_slice(&self.last.index.0.to_le_bytes());
        record[24..32].copy_from_slice(&self.last.term.0.to_le_bytes());
        record[32..40].copy_from_slice(&self.digest.0.to_le_bytes());
    }
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or_else(|_| panic!("a state record of more than 4 GiB: {n}"))
}

impl<'a> Effect<'a> {
    /// The revision that it belongs to, if it changes a key.
    pub fn revision(&self) -> Option<i64> {
        match *self {
            Effect::Put(Put { main, .. }) | Effect::Delete { main, .. } => Some(main),
            _ => None,
        }
    }

    /// Its bytes, appended to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Effect::Put(put) => {
                out.push(1);
                for number in [put.main, put.created, put.version, put.lease] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                out.extend_from_slice(&put.sub.to_le_bytes());
                out.extend_from_slice(&to_u32(put.key.len()).to_le_bytes());
                out.extend_from_slice(put.key);
                out.extend_from_slice(put.value);
            }
            Effect::Delete { key, main, sub } => {
                out.push(2);
                out.extend_from_slice(&main.to_le_bytes());
                out.extend_from_slice(&sub.to_le_bytes());
                out.extend_from_slice(key);
            }
            Effect::Member(member) => {
                out.push(3);
                out.extend_from_slice(member);
            }
            Effect::Alarm { member, alarm, raised } => {
                out.push(4);
                out.extend_from_slice(&member.0.to_le_bytes());
                out.extend_from_slice(&alarm.to_le_bytes());
                out.push(raised as u8);
            }
            Effect::Applied(position) => {
                out.push(5);
                out.extend_from_slice(&position.index.0.to_le_bytes());
                out.extend_from_slice(&position.term.0.to_le_bytes());
            }
            Effect::Lease { id, ttl, remaining, granted } => {
                out.push(6);
                for number in [id, ttl, remaining] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                out.extend_from_slice(&granted.0.to_le_bytes());
            }
            Effect::LeaseGone { id } => {
                out.push(7);
                out.extend_from_slice(&id.to_le_bytes());
            }
            Effect::Restored { revision } => {
                out.push(11);
                out.extend_from_slice(&revision.to_le_bytes());
            }
            Effect::Compacted { revision } => {
                out.push(8);
                out.extend_from_slice(&revision.to_le_bytes());
            }
            Effect::Configuration(configuration) => {
                out.push(9);
                out.extend_from_slice(configuration);
            }
            Effect::MemberGone { id } => {
                out.push(10);
                out.extend_from_slice(&id.0.to_le_bytes());
            }
            Effect::Level(level) => {
                out.push(NEWEST_KIND);
                out.extend_from_slice(&level.0.to_le_bytes());
            }
        }
    }

    /// Reads an effect back; `None` if the bytes are none.
    pub fn decode(bytes: &'a [u8]) -> Option<Effect<'a>> {
        let mut input = Cursor(bytes);
        let effect = match input.u8()? {
            1 => {
                let (main, created, version, lease) = (input.i64()?, input.i64()?, input.i64()?, input.i64()?);
                let sub = input.u32()?;
                let key_len = input.u32()?;
                let key = input.take(key_len as usize)?;
                Effect::Put(Put { main, sub, created, version, lease, key, value: input.rest() })
            }
            2 => Effect::Delete { main: input.i64()?, sub: input.u32()?, key: input.rest() },
            3 => Effect::Member(input.rest()),
            4 => Effect::Alarm {
                member: MemberId(input.u64()?),
                alarm: i32::from_le_bytes(input.array()?),
                raised: [Raised::Not, Raised::OnRequest, Raised::ByItself].into_iter().nth(input.u8()?.into())?,
            },
            5 => Effect::Applied(Position { index: Index(input.u64()?), term: Term(input.u64()?) }),
            6 => {
                let (id, ttl, remaining) = (input.i64()?, input.i64()?, input.i64()?);
                Effect::Lease { id, ttl, remaining, granted: Index(input.u64()?) }
            }
            7 => Effect::LeaseGone { id: input.i64()? },
            8 => Effect::Compacted { revision: input.i64()? },
            9 => Effect::Configuration(input.rest()),
            10 => Effect::MemberGone { id: MemberId(input.u64()?) },
            11 => Effect::Restored { revision: input.i64()? },
            NEWEST_KIND => Effect::Level(Level(input.u32()?)),
            _ => return None,
        };
        input.0.is_empty().then_some(effect)
    }
}

/// A member's entry as bytes.
pub fn encode_member(member: &Member) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&member.id.0.to_le_bytes());
    // The first bit says whether the disk is known, the next two how the member stands.
    out.push(u8::from(member.disk.is_some()) | (member.standing as u8) << 1);
    out.extend_from_slice(&member.disk.unwrap_or_default().0.to_le_bytes());
    let mut text = |s: &str| {
        out.extend_from_slice(&to_u32(s.len()).to_le_bytes());
        out.extend_from_slice(s.as_bytes());
    };
    text(&member.name);
    for urls in [&member.peer_urls, &member.client_urls] {
        text(&urls.len().to_string());
        urls.iter().for_each(|url| text(url));
    }
    out
}

/// A member's entry from its bytes; `None` if they are none.
pub fn decode_member(bytes: &[u8]) -> Option<Member> {
    let mut input = Cursor(bytes);
    let id = MemberId(input.u64()?);
    let flags = input.u8()?;
    let standing = Standing::ALL.into_iter().nth(usize::from(flags >> 1))?;
    let disk = DiskId(input.u64()?);
    let name = input.text()?;
    let mut urls = || (0..input.text()?.parse::<u32>().ok()?).map(|_| input.text()).collect::<Option<Vec<_>>>();
    let (peer_urls, client_urls) = (urls()?, urls()?);
    let disk = (flags & 1 != 0).then_some(disk);
    input.0.is_empty().then_some(Member { id, name, peer_urls, client_urls, disk, standing })
}

/// What is left to read of some bytes. Each number is little endian; `None`: there is not enough left.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// The next number.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// The next number.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next number.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next number.
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let n = self.u32()?;
        String::from_utf8(self.take(n as usize)?.to_vec()).ok()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The frame at `at`: its effect's bytes, checked, and where the next frame starts.
fn frame(record: &[u8], at: usize) -> Option<(&[u8], u32, usize)> {
    let length = u32_at(record, at)? as usize;
    let checksum = u32_at(record, at + 4)?;
    let end = (at + FRAME).checked_add(length)?;
    let body = record.get(at + FRAME..end)?;
    (crc(body) == checksum).then_some((body, checksum, end))
}

/// What stands at the head of a whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The first entry of the run.
    pub first: Index,
    /// The last one.
    pub last: Position,
    /// The digest after it.
    pub digest: Digest,
    /// Whether a compaction took effects out of it.
    pub rewritten: bool,
}

/// Where the frames of a whole record begin; `None` if it is none.
fn frames(record: &[u8]) -> Option<usize> {
    match u32_at(record, 0)? {
        MAGIC => Some(HEADER),
        REWRITTEN => Some(REWRITTEN_HEADER),
        _ => None,
    }
}

/// Where the table of a whole record begins; `None` if it has none.
fn table(record: &[u8]) -> Option<usize> {
    let (puts, frames) = (u32_at(record, 4)? as usize, frames(record)?);
    record.len().checked_sub(4 * puts).filter(|table| *table >= frames)
}

/// The checksum that a rewritten record must have: of everything but itself.
fn sum(record: &[u8]) -> u32 {
    crc_append(crc(&record[..HEADER]), &record[REWRITTEN_HEADER..])
}

/// What stands at the head of a whole record.
///
/// # Errors
/// It is not one, or a rewritten one is not what was written.
pub fn header(record: &[u8]) -> Result<Header, Misread> {
    let malformed = || "it is malformed".to_string();
    let field = |at| u64_at(record, at).ok_or_else(malformed);
    if let Some(form) = record.get(..4).filter(|form| form.starts_with(FAMILY))
        && frames(record).is_none()
    {
        return Err(Misread::Newer(format!("it has the form {}", form.escape_ascii())));
    }
    table(record).ok_or_else(malformed)?;
    let rewritten = u32_at(record, 0) == Some(REWRITTEN);
    if rewritten && u32_at(record, HEADER) != Some(sum(record)) {
        return Err(Misread::Rot("its checksum is wrong".to_string()));
    }
    Ok(Header {
        first: Index(field(8)?),
        last: Position { index: Index(field(16)?), term: Term(field(24)?) },
        digest: Digest(field(32)?),
        rewritten,
    })
}

/// Reads a whole record: calls `visit` for each effect in order, with its ordinal, and chains them into `digest`, which
/// becomes the one at the head of a rewritten record.
///
/// # Errors
/// The record can't be read, or `visit` did not like it.
pub fn read(
    record: &[u8],
    digest: &mut Digest,
    visit: &mut dyn FnMut(Effect<'_>, u32) -> Result<(), String>,
) -> Result<Header, Misread> {
    let header = header(record)?;
    walk(record, header, &mut |effect, ordinal, frame| {
        digest.absorb(to_u32(frame.len() - FRAME), u32_at(frame, 4).unwrap_or_default());
        visit(effect, ordinal)
    })?;
    if header.rewritten {
        *digest = header.digest;
    }
    Ok(header)
}

/// Hears of an effect, its ordinal and its frame.
type Visit<'v> = dyn FnMut(Effect<'_>, u32, &[u8]) -> Result<(), String> + 'v;

/// Visits the effects of a whole record, with their ordinals and their frames.
fn walk(record: &[u8], header: Header, visit: &mut Visit<'_>) -> Result<(), Misread> {
    let malformed = || "it is malformed".to_string();
    let (mut at, table) = frames(record).zip(table(record)).ok_or_else(malformed)?;
    let entry = |ordinal: u32| u32_at(record, table + 4 * ordinal as usize);
    let mut ordinal = 0;
    while at < table {
        let (body, _, end) =
            frame(&record[..table], at).ok_or_else(|| format!("the checksum of the effect at byte {at} is wrong"))?;
        let effect = Effect::decode(body).ok_or_else(|| match body.first() {
            Some(kind) if *kind > NEWEST_KIND => Misread::Newer(format!("the effect at byte {at} is of kind {kind}")),
            _ => Misread::Rot(format!("the effect at byte {at} is malformed")),
        })?;
        let is_put = matches!(effect, Effect::Put(_));
        while is_put && header.rewritten && entry(ordinal) == Some(0) {
            ordinal += 1;
        }
        if is_put && entry(ordinal) != Some(to_u32(at)) {
            return Err(Misread::Rot(format!("its table does not lead to the put at byte {at}")));
        }
        if header.rewritten && matches!(effect, Effect::Applied(_)) {
            return Err(Misread::Rot("it was rewritten and has an entry's end".to_string()));
        }
        visit(effect, ordinal, &record[at..end])?;
        ordinal += u32::from(is_put);
        at = end;
    }
    if table + 4 * ordinal as usize == record.len() { Ok(()) } else { Err(malformed().into()) }
}

/// What a compaction makes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Its head, as it was.
    pub header: Header,
    /// How many effects are left out.
    pub dropped: usize,
    /// The first revision in it before, if there was one.
    pub first_before: Option<i64>,
    /// And now.
    pub first_after: Option<i64>,
    /// The new record; `None`: nothing is left.
    pub bytes: Option<Vec<u8>>,
}

/// Leaves out what `lives` says no to.
///
/// # Errors
/// The record can't be read.
pub fn rewrite(record: &[u8], lives: &mut dyn FnMut(&Effect<'_>, u32) -> bool) -> Result<Rewritten, Misread> {
    let header = header(record)?;
    let (mut bytes, mut offsets) = (vec![0; REWRITTEN_HEADER], Vec::new());
    let mut rewritten = Rewritten { header, dropped: 0, first_before: None, first_after: None, bytes: None };
    walk(record, header, &mut |effect, ordinal, frame| {
        let revision = effect.revision();
        rewritten.first_before = rewritten.first_before.or(revision);
        if let Effect::Applied(_) = effect {
            return Ok(());
        }
        if !lives(&effect, ordinal) {
            rewritten.dropped += 1;
            return Ok(());
        }
        rewritten.first_after = rewritten.first_after.or(revision);
        if let Effect::Put(_) = effect {
            offsets.resize(ordinal as usize, 0);
            offsets.push(to_u32(bytes.len()));
        }
        bytes.extend_from_slice(frame);
        Ok(())
    })?;
    if bytes.len() > REWRITTEN_HEADER {
        rewritten.bytes = Some(finish(Header { rewritten: true, ..header }, bytes, &offsets));
    }
    Ok(rewritten)
}

/// A record that says only that its entries left nothing behind.
pub fn husk(header: Header) -> Vec<u8> {
    finish(Header { rewritten: true, ..header }, vec![0; REWRITTEN_HEADER], &[])
}

fn finish(header: Header, mut bytes: Vec<u8>, offsets: &[u32]) -> Vec<u8> {
    for offset in offsets {
        bytes.extend_from_slice(&offset.to_le_bytes());
    }
    header.put(offsets.len(), &mut bytes);
    let sum = sum(&bytes);
    bytes[HEADER..REWRITTEN_HEADER].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The value of the put with `ordinal` in a whole record, as a slice of it, if it is the value of `key` at `revision` and
/// its checksum is right.
///
/// # Errors
/// A sentence, if it is not.
pub fn value(record: &Bytes, ordinal: u32, key: &[u8], revision: i64) -> Result<Bytes, String> {
    let offset = table(record)
        .and_then(|table| u32_at(record, table + 4 * ordinal as usize))
        .filter(|offset| *offset != 0)
        .ok_or_else(|| format!("it has no put {ordinal}"))? as usize;
    let (body, _, end) = frame(record, offset).ok_or_else(|| format!("the checksum of put {ordinal} is wrong"))?;
    match Effect::decode(body) {
        Some(Effect::Put(put)) if put.key == key && put.main == revision => {
            Ok(record.slice(end - put.value.len()..end))
        }
        other => Err(format!("put {ordinal} is of another key or revision: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static [u8], main: i64) -> Put<'static> {
        Put { main, sub: 3, created: -4, version: 5, lease: i64::MIN, key, value: b"value" }
    }

    fn effects() -> Vec<Effect<'static>> {
        vec![
            Effect::Put(put(b"", 2)),
            Effect::Member(b"bytes"),
            Effect::Delete { key: b"k", main: 7, sub: 1 },
            Effect::Put(put(b"key", i64::MAX)),
            Effect::Alarm { member: MemberId(u64::MAX), alarm: -1, raised: Raised::OnRequest },
            Effect::Lease { id: i64::MIN, ttl: 60, remaining: -7, granted: Index(u64::MAX) },
            Effect::LeaseGone { id: i64::MAX },
            Effect::Compacted { revision: 77 },
            Effect::Configuration(b"who votes"),
            Effect::MemberGone { id: MemberId(u64::MAX) },
            Effect::Level(Level(u32::MAX)),
            Effect::Applied(Position { index: Index(9), term: Term(4) }),
        ]
    }

    fn record() -> (Bytes, Digest) {
        let (mut builder, mut digest) = (Builder::new(Index(8)), Digest::START);
        let ordinals: Vec<u32> = effects().iter().map(|effect| builder.push(effect, &mut digest)).collect();
        assert_eq!(ordinals, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        (Bytes::from(builder.close(digest)), digest)
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let (record, digest) = record();
        let (mut again, mut found) = (Digest::START, effects().into_iter());
        let header = read(&record, &mut again, &mut |effect, _| {
            assert_eq!(Some(effect), found.next());
            Ok(())
        });
        let last = Position { index: Index(9), term: Term(4) };
        assert_eq!(header, Ok(Header { first: Index(8), last, digest, rewritten: false }));
        assert_eq!((again, found.next()), (digest, None));
    }

    #[test]
    fn a_value_is_found_by_its_ordinal_and_only_for_its_key_and_revision() {
        let (record, _) = record();
        assert_eq!(value(&record, 1, b"key", i64::MAX), Ok(Bytes::from_static(b"value")));
        assert!(value(&record, 1, b"kex", i64::MAX).is_err());
        assert!(value(&record, 1, b"key", 2).is_err());
        assert!(value(&record, 2, b"key", i64::MAX).is_err(), "there are two");
    }

    #[test]
    fn a_flipped_bit_in_a_put_is_seen_by_its_own_checksum() {
        let (record, _) = record();
        let at = record.windows(8).position(|bytes| bytes == b"keyvalue").unwrap();
        for byte in at - 40..at + 8 {
            let mut rotten = record.to_vec();
            rotten[byte] ^= 0x04;
            assert!(value(&Bytes::from(rotten), 1, b"key", i64::MAX).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn no_bytes_panic_the_reader() {
        let (record, _) = record();
        for byte in 0..record.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut rotten = record.to_vec();
                rotten[byte] ^= mask;
                let in_head = (8..HEADER).contains(&byte);
                let outcome = read(&rotten, &mut { Digest::START }, &mut |_, _| Ok(()));
                assert!(in_head || outcome.is_err(), "byte {byte}");
                let _ = value(&Bytes::from(rotten), 1, b"key", i64::MAX);
            }
            let cut = read(&record[..byte], &mut { Digest::START }, &mut |_, _| Ok(()));
            assert!(cut.is_err(), "cut at {byte}");
        }
    }

    #[test]
    fn digests_depend_on_the_order() {
        let digest = |order: &[usize]| {
            let (mut builder, mut digest) = (Builder::new(Index(8)), Digest::START);
            for at in order {
                builder.push(&effects()[*at], &mut digest);
            }
            digest
        };
        assert_ne!(digest(&[0, 1]), digest(&[1, 0]));
        assert_ne!(digest(&[0, 0]), Digest::START);
    }

    #[test]
    fn what_is_rewritten_keeps_its_places_its_position_and_its_digest() {
        let (record, digest) = record();
        let before = header(&record).unwrap();
        let keeps_the_last_put = &mut |effect: &Effect<'_>, ordinal| match effect {
            Effect::Put(_) => ordinal == 1,
            Effect::Delete { .. } | Effect::Lease { .. } => true,
            _ => false,
        };
        let rewritten = rewrite(&record, keeps_the_last_put).unwrap();
        assert_eq!((rewritten.dropped, rewritten.first_before, rewritten.first_after), (8, Some(2), Some(7)));
        let bytes = Bytes::from(rewritten.bytes.unwrap());
        assert_eq!(value(&bytes, 1, b"key", i64::MAX), Ok(Bytes::from_static(b"value")), "its ordinal is its own");
        assert!(value(&bytes, 0, b"", 2).is_err(), "it is gone");
        let (mut found, mut chained) = (Vec::new(), Digest::START);
        let after = read(&bytes, &mut chained, &mut |effect, ordinal| {
            found.push((effect.revision(), ordinal));
            Ok(())
        });
        assert_eq!(after, Ok(Header { rewritten: true, ..before }));
        assert_eq!(found, [(Some(7), 0), (Some(i64::MAX), 1), (None, 2)]);
        assert_eq!(chained, digest, "the chain goes on from the digest at its head");
        let again = rewrite(&bytes, &mut |effect, _| effect.revision().is_some()).unwrap();
        assert_eq!(again.dropped, 1);
        let again = Bytes::from(again.bytes.unwrap());
        assert_eq!(value(&again, 1, b"key", i64::MAX), Ok(Bytes::from_static(b"value")), "and a second time");
        let none = rewrite(&again, &mut |_, _| false).unwrap();
        assert_eq!((none.bytes, none.first_after), (None, None));
        let husk = husk(before);
        assert_eq!(rewrite(&husk, &mut |_, _| true).unwrap().header, Header { rewritten: true, ..before });
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_rewritten_record_is_seen() {
        let (record, _) = record();
        let rewritten = rewrite(&record, &mut |effect, _| effect.revision().is_some()).unwrap().bytes.unwrap();
        for bytes in [rewritten, husk(header(&record).unwrap())] {
            assert!(header(&bytes).is_ok());
            for byte in 0..bytes.len() {
                let mut rotten = bytes.clone();
                rotten[byte] ^= 0x10;
                assert!(read(&rotten, &mut { Digest::START }, &mut |_, _| Ok(())).is_err(), "byte {byte}");
                assert!(rewrite(&rotten, &mut |_, _| true).is_err(), "byte {byte}");
                let _ = value(&Bytes::from(rotten), 0, b"", 2);
                let cut = &bytes[..byte];
                assert!(read(cut, &mut { Digest::START }, &mut |_, _| Ok(())).is_err(), "cut at {byte}");
            }
        }
    }

    #[test]
    fn what_a_newer_release_wrote_is_no_rot() {
        let mut digest = Digest::START;
        let mut builder = Builder::new(Index(8));
        builder.push(&Effect::Level(Level(7)), &mut digest);
        builder.push(&Effect::Applied(Position { index: Index(8), term: Term(1) }), &mut digest);
        let record = builder.close(digest);
        let misread = |record: &[u8]| read(record, &mut { Digest::START }, &mut |_, _| Ok(())).unwrap_err();
        let (kind, mut newer) = (HEADER + FRAME, record.clone());
        newer[kind] = NEWEST_KIND + 1;
        assert!(matches!(misread(&newer), Misread::Rot(_)), "its checksum does not say that it was written so");
        let sum = crc(&newer[kind..kind + 5]);
        newer[kind - 4..kind].copy_from_slice(&sum.to_le_bytes());
        let Misread::Newer(why) = misread(&newer) else { panic!("it was written so") };
        assert!(why.contains("kind 13"), "{why}");
        let form = [b"QSR3", &record[4..]].concat();
        assert_eq!(misread(&form), Misread::Newer("it has the form QSR3".to_string()));
    }

    #[test]
    fn members_survive_their_bytes() {
        for (disk, standing) in
            [None, Some(DiskId(0))].into_iter().flat_map(|disk| Standing::ALL.map(|standing| (disk, standing)))
        {
            let member = Member {
                id: MemberId(7),
                name: "n\u{e9}".to_string(),
                peer_urls: vec!["http://a".to_string(), String::new()],
                client_urls: vec![],
                disk,
                standing,
            };
            let bytes = encode_member(&member);
            assert_eq!(decode_member(&bytes), Some(member));
            assert!((0..bytes.len()).all(|cut| decode_member(&bytes[..cut]).is_none()));
            let mut newer = bytes;
            newer[8] |= 0xf0;
            assert_eq!(decode_member(&newer), None);
        }
    }
}

//! Raft messages as bytes: the only place where `raft` and `proto` meet.
//!
//! Encoding can't fail. Decoding is total: whatever arrives, of any version and any damage, becomes an [`Envelope`] or a
//! [`WireError`], never a panic, and an entry whose checksum does not hold never gets further than here. A member that
//! hears something it can't decode closes the connection: messages may be lost, but never half understood.
//!
//! Entry data stay what they are: the bytes of a decoded entry are a slice of the frame that brought them, the bytes of an
//! encoded one are shared with the log.
//!
//! The one conversion for every shell that has a network: the server's streams and Maelstrom's lines carry the same frames.
//!
//! Absent: who may speak (the shells), what it means (`raft`).

use crate::ids::{Incarnation, Index, MemberId, Position, RequestId, Term};
use crate::proto::quorate as pb;
use crate::raft::{Entry, EntryKind, Envelope, Message, Refusal};
use pb::envelope::Message as Wire;

/// Why a message can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No message in the envelope, or one of a newer version.
    #[error("an envelope from member {from} carries no message that this version knows")]
    Unknown {
        /// Who sent it.
        from: MemberId,
    },
    /// A number stands for nothing that this version knows.
    #[error("{what} has no meaning {value} in this version")]
    Meaning {
        /// Which field.
        what: &'static str,
        /// What it held.
        value: i32,
    },
    /// Entries that don't follow one another.
    #[error("entry {found} arrived where entry {expected} belongs")]
    Gap {
        /// What would have followed.
        expected: Index,
        /// What came.
        found: Index,
    },
    /// A flipped bit.
    #[error("entry {0} is not what its maker made: its checksum does not hold")]
    Checksum(Position),
}

/// A message as it goes into a frame.
pub fn encode(envelope: Envelope) -> pb::Envelope {
    let Envelope { from, to, term, incarnation, message } = envelope;
    pb::Envelope {
        from: from.0,
        to: to.0,
        term: term.0,
        incarnation: incarnation.0,
        message: Some(encode_message(message)),
    }
}

fn encode_message(message: Message) -> Wire {
    match message {
        Message::PreVote { campaign, next_term, last } => {
            Wire::PreVote(pb::PreVote { campaign, next_term: next_term.0, last: position(last) })
        }
        Message::PreVoteReply { campaign, granted } => Wire::PreVoteReply(pb::PreVoteReply { campaign, granted }),
        Message::Vote { campaign, last, transfer } => Wire::Vote(pb::Vote { campaign, last: position(last), transfer }),
        Message::VoteReply { campaign, granted } => Wire::VoteReply(pb::VoteReply { campaign, granted }),
        Message::Append { session, sequence, prev, commit, entries } => Wire::Append(pb::Append {
            session,
            sequence,
            prev: position(prev),
            commit: commit.0,
            entries: entries.into_iter().map(encode_entry).collect(),
        }),
        Message::Appended { session, matched } => Wire::Appended(pb::Appended { session, matched: matched.0 }),
        Message::Conflict { session, prev_index, hint } => {
            Wire::Conflict(pb::Conflict { session, prev_index: prev_index.0, hint: position(hint) })
        }
        Message::Heartbeat { session, sequence, commit, round } => {
            Wire::Heartbeat(pb::Heartbeat { session, sequence, commit: commit.0, round })
        }
        Message::HeartbeatReply { session, sequence, received, matched, round } => {
            Wire::HeartbeatReply(pb::HeartbeatReply { session, sequence, received, matched: matched.0, round })
        }
        Message::ReadIndex { context } => Wire::ReadIndex(pb::ReadIndex { context }),
        Message::ReadIndexReply { context, index } => {
            Wire::ReadIndexReply(pb::ReadIndexReply { context, index: index.0 })
        }
        Message::Forward { id, data, grows } => Wire::Forward(pb::Forward { id: request_id(id), data, grows }),
        Message::ForwardRefused { sequence, reason } => {
            Wire::ForwardRefused(pb::ForwardRefused { sequence, reason: encode_reason(reason).into() })
        }
        Message::TimeoutNow => Wire::TimeoutNow(pb::TimeoutNow {}),
        Message::Install { session, base } => Wire::Install(pb::Install { session, base: position(base) }),
        Message::Ask { context, question } => Wire::Ask(pb::Ask { context, question }),
        Message::Answer { context, answer } => Wire::Answer(pb::Answer { context, answer }),
    }
}

/// The message in a frame.
///
/// # Errors
/// It can't be understood, or an entry in it is damaged.
pub fn decode(envelope: pb::Envelope) -> Result<Envelope, WireError> {
    let from = MemberId(envelope.from);
    let message = decode_message(envelope.message.ok_or(WireError::Unknown { from })?)?;
    Ok(Envelope {
        from,
        to: MemberId(envelope.to),
        term: Term(envelope.term),
        incarnation: Incarnation(envelope.incarnation),
        message,
    })
}

fn decode_message(message: Wire) -> Result<Message, WireError> {
    Ok(match message {
        Wire::PreVote(m) => {
            Message::PreVote { campaign: m.campaign, next_term: Term(m.next_term), last: read_position(m.last) }
        }
        Wire::PreVoteReply(m) => Message::PreVoteReply { campaign: m.campaign, granted: m.granted },
        Wire::Vote(m) => Message::Vote { campaign: m.campaign, last: read_position(m.last), transfer: m.transfer },
        Wire::VoteReply(m) => Message::VoteReply { campaign: m.campaign, granted: m.granted },
        Wire::Append(m) => {
            let prev = read_position(m.prev);
            Message::Append {
                session: m.session,
                sequence: m.sequence,
                prev,
                commit: Index(m.commit),
                entries: decode_entries(prev.index, m.entries)?,
            }
        }
        Wire::Appended(m) => Message::Appended { session: m.session, matched: Index(m.matched) },
        Wire::Conflict(m) => {
            Message::Conflict { session: m.session, prev_index: Index(m.prev_index), hint: read_position(m.hint) }
        }
        Wire::Heartbeat(m) => {
            Message::Heartbeat { session: m.session, sequence: m.sequence, commit: Index(m.commit), round: m.round }
        }
        Wire::HeartbeatReply(m) => Message::HeartbeatReply {
            session: m.session,
            sequence: m.sequence,
            received: m.received,
            matched: Index(m.matched),
            round: m.round,
        },
        Wire::ReadIndex(m) => Message::ReadIndex { context: m.context },
        Wire::ReadIndexReply(m) => Message::ReadIndexReply { context: m.context, index: Index(m.index) },
        Wire::Forward(m) => Message::Forward { id: read_request_id(m.id), data: m.data, grows: m.grows },
        Wire::ForwardRefused(m) => Message::ForwardRefused { sequence: m.sequence, reason: decode_reason(m.reason)? },
        Wire::TimeoutNow(pb::TimeoutNow {}) => Message::TimeoutNow,
        Wire::Install(m) => Message::Install { session: m.session, base: read_position(m.base) },
        Wire::Ask(m) => Message::Ask { context: m.context, question: m.question },
        Wire::Answer(m) => Message::Answer { context: m.context, answer: m.answer },
    })
}

fn encode_entry(entry: Entry) -> pb::Entry {
    let Entry { position, kind, id, data, checksum } = entry;
    let kind = match kind {
        EntryKind::Noop => pb::entry::Kind::Noop,
        EntryKind::Command => pb::entry::Kind::Command,
        EntryKind::Configuration => pb::entry::Kind::Configuration,
    };
    pb::Entry { index: position.index.0, term: position.term.0, kind: kind.into(), id: request_id(id), data, checksum }
}

/// Entries that follow `prev` without a gap, each sound.
fn decode_entries(prev: Index, entries: Vec<pb::Entry>) -> Result<Vec<Entry>, WireError> {
    let mut last = prev;
    let mut decoded = Vec::with_capacity(entries.len());
    for entry in entries {
        let entry = decode_entry(entry)?;
        let found = entry.position.index;
        if last.0.checked_add(1) != Some(found.0) {
            return Err(WireError::Gap { expected: Index(last.0.saturating_add(1)), found });
        }
        last = found;
        decoded.push(entry);
    }
    Ok(decoded)
}

fn decode_entry(entry: pb::Entry) -> Result<Entry, WireError> {
    let kind = match pb::entry::Kind::try_from(entry.kind) {
        Ok(pb::entry::Kind::Noop) => EntryKind::Noop,
        Ok(pb::entry::Kind::Command) => EntryKind::Command,
        Ok(pb::entry::Kind::Configuration) => EntryKind::Configuration,
        Err(_) => return Err(WireError::Meaning { what: "an entry's kind", value: entry.kind }),
    };
    let entry = Entry {
        position: Position { index: Index(entry.index), term: Term(entry.term) },
        kind,
        id: read_request_id(entry.id),
        data: entry.data,
        checksum: entry.checksum,
    };
    if entry.is_sound() { Ok(entry) } else { Err(WireError::Checksum(entry.position)) }
}

fn encode_reason(reason: Refusal) -> pb::forward_refused::Reason {
    use pb::forward_refused::Reason;
    match reason {
        Refusal::Busy => Reason::Busy,
        Refusal::Transfer => Reason::Transfer,
        Refusal::Space => Reason::Space,
    }
}

fn decode_reason(reason: i32) -> Result<Refusal, WireError> {
    use pb::forward_refused::Reason;
    match Reason::try_from(reason) {
        Ok(Reason::Busy) => Ok(Refusal::Busy),
        Ok(Reason::Transfer) => Ok(Refusal::Transfer),
        Ok(Reason::Space) => Ok(Refusal::Space),
        Ok(Reason::Unknown) | Err(_) => Err(WireError::Meaning { what: "the reason of a refusal", value: reason }),
    }
}

fn position(position: Position) -> Option<pb::Position> {
    Some(pb::Position { index: position.index.0, term: position.term.0 })
}

/// Absent is the place before the log, as everywhere in proto3.
fn read_position(position: Option<pb::Position>) -> Position {
    position.map_or_else(Position::default, |p| Position { index: Index(p.index), term: Term(p.term) })
}

fn request_id(id: RequestId) -> Option<pb::RequestId> {
    Some(pb::RequestId { origin: id.origin.0, incarnation: id.incarnation.0, sequence: id.sequence })
}

fn read_request_id(id: Option<pb::RequestId>) -> RequestId {
    id.map_or_else(RequestId::default, |id| RequestId {
        origin: MemberId(id.origin),
        incarnation: Incarnation(id.incarnation),
        sequence: id.sequence,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message as _;

    fn positions() -> impl Strategy<Value = Position> {
        (0..u64::MAX / 2, any::<u64>()).prop_map(|(i, t)| Position { index: Index(i), term: Term(t) })
    }

    fn request_ids() -> impl Strategy<Value = RequestId> {
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(origin, incarnation, sequence)| RequestId {
            origin: MemberId(origin),
            incarnation: Incarnation(incarnation),
            sequence,
        })
    }

    fn data() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from)
    }

    fn appends() -> impl Strategy<Value = Message> {
        let body = (any::<u64>(), any::<bool>(), request_ids(), data());
        (any::<u64>(), any::<u64>(), positions(), any::<u64>(), proptest::collection::vec(body, 0..5)).prop_map(
            |(session, sequence, prev, commit, bodies)| {
                let entries = bodies.into_iter().zip(1..).map(|((term, noop, id, data), n)| {
                    let kind = if noop { EntryKind::Noop } else { EntryKind::Command };
                    Entry::new(Position { index: Index(prev.index.0 + n), term: Term(term) }, kind, id, data)
                });
                Message::Append { session, sequence, prev, commit: Index(commit), entries: entries.collect() }
            },
        )
    }

    fn messages() -> impl Strategy<Value = Message> {
        let n = any::<u64>;
        let reasons = prop_oneof![Just(Refusal::Busy), Just(Refusal::Transfer), Just(Refusal::Space)];
        prop_oneof![
            (n(), n(), positions()).prop_map(|(campaign, t, last)| Message::PreVote {
                campaign,
                next_term: Term(t),
                last
            }),
            (n(), any::<bool>()).prop_map(|(campaign, granted)| Message::PreVoteReply { campaign, granted }),
            (n(), positions(), any::<bool>()).prop_map(|(campaign, last, transfer)| Message::Vote {
                campaign,
                last,
                transfer
            }),
            (n(), any::<bool>()).prop_map(|(campaign, granted)| Message::VoteReply { campaign, granted }),
            appends(),
            (n(), n()).prop_map(|(session, m)| Message::Appended { session, matched: Index(m) }),
            (n(), n(), positions()).prop_map(|(session, p, hint)| Message::Conflict {
                session,
                prev_index: Index(p),
                hint
            }),
            (n(), n(), n(), n()).prop_map(|(session, sequence, c, round)| Message::Heartbeat {
                session,
                sequence,
                commit: Index(c),
                round
            }),
            (n(), n(), n(), n(), n()).prop_map(|(session, sequence, received, m, round)| Message::HeartbeatReply {
                session,
                sequence,
                received,
                matched: Index(m),
                round
            }),
            n().prop_map(|context| Message::ReadIndex { context }),
            (n(), n()).prop_map(|(context, i)| Message::ReadIndexReply { context, index: Index(i) }),
            (request_ids(), data(), any::<bool>()).prop_map(|(id, data, grows)| Message::Forward { id, data, grows }),
            (n(), reasons).prop_map(|(sequence, reason)| Message::ForwardRefused { sequence, reason }),
            Just(Message::TimeoutNow),
            (n(), data()).prop_map(|(context, question)| Message::Ask { context, question }),
            (n(), data()).prop_map(|(context, answer)| Message::Answer { context, answer }),
        ]
    }

    fn envelopes() -> impl Strategy<Value = Envelope> {
        (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), messages()).prop_map(|(f, t, term, i, message)| {
            Envelope { from: MemberId(f), to: MemberId(t), term: Term(term), incarnation: Incarnation(i), message }
        })
    }

    /// What a receiver does with a frame's bytes: parse, then decode every envelope.
    fn receive(bytes: Bytes) -> Option<Vec<Result<Envelope, WireError>>> {
        pb::Frame::decode(bytes).ok().map(|frame| frame.messages.into_iter().map(decode).collect())
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives(envelope in envelopes()) {
            let frame = pb::Frame { hello: None, messages: vec![encode(envelope.clone())] };
            let received = receive(Bytes::from(frame.encode_to_vec()));
            prop_assert_eq!(received, Some(vec![Ok(envelope)]));
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = receive(Bytes::from(bytes));
        }

        /// A flipped bit may make another message, but never another entry: an append that still decodes and still has
        /// entries has the entries that were sent, or the same bytes under another position in a field of the append.
        #[test]
        fn a_flipped_bit_never_makes_another_entry(append in appends(), at in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let Message::Append { entries: sent, .. } = append.clone() else { unreachable!() };
            let envelope = Envelope {
                from: MemberId(1), to: MemberId(2), term: Term(3), incarnation: Incarnation(4), message: append,
            };
            let mut bytes = pb::Frame { hello: None, messages: vec![encode(envelope)] }.encode_to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            for envelope in receive(Bytes::from(bytes)).into_iter().flatten().flatten() {
                if let Message::Append { entries, .. } = envelope.message {
                    for entry in entries {
                        prop_assert!(sent.contains(&entry), "{entry:?} was never sent");
                    }
                }
            }
        }
    }

    #[test]
    fn a_damaged_entry_a_gap_and_an_unknown_kind_are_told_apart() {
        let at = |index| Position { index: Index(index), term: Term(2) };
        let entry = |index| Entry::new(at(index), EntryKind::Command, RequestId::default(), Bytes::from_static(b"x"));
        let append = |entries: Vec<pb::Entry>| pb::Envelope {
            from: 7,
            message: Some(Wire::Append(pb::Append { prev: position(at(4)), entries, ..pb::Append::default() })),
            ..pb::Envelope::default()
        };
        let mut damaged = encode_entry(entry(5));
        damaged.data = Bytes::from_static(b"y");
        assert_eq!(decode(append(vec![damaged])), Err(WireError::Checksum(at(5))));
        let gap = decode(append(vec![encode_entry(entry(5)), encode_entry(entry(7))]));
        assert_eq!(gap, Err(WireError::Gap { expected: Index(6), found: Index(7) }));
        let mut strange = encode_entry(entry(5));
        strange.kind = 9;
        assert_eq!(decode(append(vec![strange])), Err(WireError::Meaning { what: "an entry's kind", value: 9 }));
        let empty = pb::Envelope { from: 7, ..pb::Envelope::default() };
        assert_eq!(decode(empty), Err(WireError::Unknown { from: MemberId(7) }));
    }

    #[test]
    fn the_data_of_an_entry_are_not_copied() {
        let data = Bytes::from(vec![7; 1000]);
        let id = RequestId { origin: MemberId(1), incarnation: Incarnation(1), sequence: 1 };
        let encoded = encode(Envelope {
            from: MemberId(1),
            to: MemberId(2),
            term: Term(1),
            incarnation: Incarnation(1),
            message: Message::Forward { id, data: data.clone(), grows: true },
        });
        let Ok(Envelope { message: Message::Forward { data: decoded, .. }, .. }) = decode(encoded) else {
            panic!("a forward was not decoded");
        };
        assert_eq!(decoded.as_ptr(), data.as_ptr());
    }
}

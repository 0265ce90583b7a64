//! Slow requests: how long each stage took, and what the longest one points to.
//!
//! A request waits in the mailbox (**queue**), then at the same time for this member's disk (**sync**) and for a quorum
//! (**quorum**), both counted from when it was given to a leader; then it is applied and its answer travels back to its
//! caller (**apply**). The node says when the two in the middle were over ([`Stages`]), the caller's task knows the ends. Of
//! every request the stages are counted; one that took longer than `--warning-unary-request-duration` is logged, with
//! the likely cause in words.
//!
//! A disk that hangs makes every request slow, and a flood of lines helps nobody: one line a second is written, and says how
//! many were not.
//!
//! # Invariants
//!
//! 1. A request that is fast pays two readings of the clock and some relaxed additions: no lock, no memory, no text.
//! 2. Causes are drawn from figures alone ([`Took::cause`]), so they are tested as a table.
//!
//! Absent: serializable reads, which wait for nobody; what happened on the leader to a request that was forwarded to it: its
//! own log tells.

use super::exposition::{DISK_BOUNDS, Histogram, Kind, Page};
use super::metrics::count;
use crate::ids::MemberId;
use crate::machine::Response;
use crate::node::{Refused, Stages, Uncertain};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate::command::Op;
use crate::time::{Duration, Time};
use prost::Message as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// One line is written in so much time.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// A read index that took longer counts as slow: after this time, etcd asks again.
const SLOW_READ_INDEX: Duration = Duration::from_millis(500);

/// Of a key so many bytes are logged.
const KEY_BYTES: usize = 64;

/// What is counted of all requests, and where to begin to speak of one.
#[derive(Debug)]
pub struct Slow {
    request: Duration,
    apply: Duration,
    /// As [`Took::stages`].
    stages: [Histogram; 4],
    applies: AtomicU64,
    read_indexes: AtomicU64,
    requests: AtomicU64,
    lines: Lines,
}

/// When a request was asked, and how it went.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// When the caller put it into the mailbox.
    pub asked: Time,
    /// When the caller had the node's answer.
    pub answered: Time,
    /// How it went.
    pub end: End,
}

/// How a request went.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// The node carried it out.
    Done(Stages),
    /// It was surely not done.
    Refused(Refused),
    /// It was perhaps done.
    Uncertain(Uncertain),
}

/// A request, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct What {
    /// The call.
    pub method: &'static str,
    /// The first key, escaped and shortened.
    pub key: String,
    /// Bytes of the request.
    pub request_bytes: usize,
    /// Bytes of the answer; 0 if there is none.
    pub response_bytes: usize,
}

impl What {
    /// A command and its answer.
    pub fn command(op: &Op, response: Option<&Response>) -> What {
        let (method, key, request_bytes) = match op {
            Op::Put(put) => ("put", &put.key[..], put.encoded_len()),
            Op::DeleteRange(delete) => ("delete_range", &delete.key[..], delete.encoded_len()),
            Op::Txn(txn) => ("txn", txn_key(txn), txn.encoded_len()),
            _ => ("other", &[][..], 0),
        };
        let response_bytes = match response {
            Some(Response::Put(put)) => put.encoded_len(),
            Some(Response::DeleteRange(delete)) => delete.encoded_len(),
            Some(Response::Txn(txn)) => txn.encoded_len(),
            Some(_) | None => 0,
        };
        What { method, key: shown(key), request_bytes, response_bytes }
    }

    /// A read and its answer.
    pub fn range(range: &pb::RangeRequest, response: &pb::RangeResponse) -> What {
        let (request_bytes, response_bytes) = (range.encoded_len(), response.encoded_len());
        What { method: "range", key: shown(&range.key), request_bytes, response_bytes }
    }

    /// A transaction that only reads, and its answer.
    pub fn reading_txn(txn: &pb::TxnRequest, response: &pb::TxnResponse) -> What {
        let (request_bytes, response_bytes) = (txn.encoded_len(), response.encoded_len());
        What { method: "txn", key: shown(txn_key(txn)), request_bytes, response_bytes }
    }
}

/// The first key that a transaction names.
fn txn_key(txn: &pb::TxnRequest) -> &[u8] {
    use pb::request_op::Request;
    let compared = txn.compare.first().map(|compare| &compare.key[..]);
    let first = txn.success.iter().chain(&txn.failure).find_map(|op| match &op.request {
        Some(Request::RequestPut(put)) => Some(&put.key[..]),
        Some(Request::RequestRange(range)) => Some(&range.key[..]),
        Some(Request::RequestDeleteRange(delete)) => Some(&delete.key[..]),
        Some(Request::RequestTxn(_)) | None => None,
    });
    compared.or(first).unwrap_or_default()
}

fn shown(key: &[u8]) -> String {
    let more = if key.len() > KEY_BYTES { "…" } else { "" };
    format!("{}{more}", key[..key.len().min(KEY_BYTES)].escape_ascii())
}

/// How long a request's stages took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// From the mailbox to the answer, scanning included.
    pub total: Duration,
    /// In the mailbox.
    pub queue: Duration,
    /// Until there was a leader to give it to.
    pub leaderless: Duration,
    /// Until this member's log had it, once it was given to a leader.
    pub sync: Duration,
    /// Until it was known to be committed, once it was given to a leader; of a read, until it had its index.
    pub quorum: Duration,
    /// From the later of the two to the answer.
    pub apply: Duration,
    /// A read's own work after that.
    pub scan: Duration,
}

impl Took {
    /// Of a request that was carried out; `end` is when its last work was done.
    fn of(timed: &Timed, stages: &Stages, end: Time) -> Took {
        Took {
            total: end.since(timed.asked),
            queue: stages.taken.since(timed.asked),
            leaderless: stages.submitted.since(stages.taken),
            sync: stages.persisted.since(stages.submitted),
            quorum: stages.committed.since(stages.submitted),
            apply: timed.answered.since(stages.persisted.max(stages.committed)),
            scan: end.since(timed.answered),
        }
    }

    fn stages(&self) -> [(&'static str, Duration); 4] {
        [("queue", self.queue), ("sync", self.sync), ("quorum", self.quorum), ("apply", self.apply)]
    }

    /// What the longest stage points to; `usual` is how long a sync takes mostly.
    fn cause(&self, last: &Last, usual: Duration) -> String {
        let both = self.sync.max(self.quorum);
        let stages = [self.queue, self.leaderless, both, self.apply, self.scan];
        let longest = stages.iter().enumerate().max_by_key(|(_, took)| **took).map_or(0, |(place, _)| place);
        let took = round(stages[longest]);
        match (longest, last) {
            (0, _) => format!("this member was busy: the request waited {took:?} in its mailbox"),
            (1, _) => format!("no leader was known for {took:?}"),
            (2, Last::Disk) => {
                let usual = round(usual);
                format!("the disk of this member: its log had it after {took:?}, a sync usually takes {usual:?}")
            }
            (2, Last::Peer(name)) => format!("a quorum was slow: {name} acknowledged last, after {took:?}"),
            (2, Last::Leader(name)) => format!("{name}, which leads, took {took:?} to commit it: see its log"),
            (2, Last::Vouching) => format!("a quorum was slow: it took {took:?} to confirm who leads"),
            (3, _) => format!("this member was busy: applying it and waking its caller took {took:?}"),
            (_, _) => format!("the read itself: collecting what was asked for took {took:?}"),
        }
    }
}

/// What a request waited for last before it was committed and durable here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Last {
    /// This member's disk.
    Disk,
    /// The acknowledgement of another member.
    Peer(String),
    /// The leader, to which it was forwarded.
    Leader(String),
    /// A read: a quorum that says who leads.
    Vouching,
}

impl Timed {
    /// The likely cause, in words: `name` knows the members.
    pub fn cause(&self, took: &Took, own: MemberId, usual: Duration, name: impl Fn(MemberId) -> String) -> String {
        match &self.end {
            End::Done(stages) => {
                let last = match stages.by {
                    None => Last::Vouching,
                    Some(by) if by == own || took.sync > took.quorum => Last::Disk,
                    Some(by) if stages.forwarded => Last::Leader(name(by)),
                    Some(by) => Last::Peer(name(by)),
                };
                took.cause(&last, usual)
            }
            End::Refused(Refused::NoLeader) => "no leader was found in that time".to_owned(),
            End::Refused(reason) => format!("it was refused ({reason:?})"),
            End::Uncertain(Uncertain::LeaderLost) => "the leader was lost meanwhile".to_owned(),
            End::Uncertain(Uncertain::TimedOut) => "no quorum had it in time, or this member's disk had not".to_owned(),
        }
    }
}

/// To a tenth of a millisecond, for people.
pub fn round(duration: Duration) -> Duration {
    Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX) / 100 * 100)
}

/// Lets through one line in an interval, and counts the others.
#[derive(Debug, Default)]
struct Lines {
    next: AtomicU64,
    suppressed: AtomicU64,
}

impl Lines {
    /// Whether a line may be written now; then, how many were not since the last one.
    fn pass(&self, now: Time) -> Option<u64> {
        let next = self.next.load(Ordering::Relaxed);
        let later = (now + LINE_INTERVAL).0;
        let passes =
            now.0 >= next && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if passes {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        count(&self.suppressed);
        None
    }
}

impl Slow {
    /// Speaks of requests that take longer than `request`, and counts what takes longer than `apply` to be applied.
    pub fn new(request: Duration, apply: Duration) -> Slow {
        Slow {
            request,
            apply,
            stages: std::array::from_fn(|_| Histogram::new(DISK_BOUNDS)),
            applies: AtomicU64::new(0),
            read_indexes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            lines: Lines::default(),
        }
    }

    /// A turn of the node that applied something took so long.
    pub fn applied(&self, took: Duration) {
        if took > self.apply {
            count(&self.applies);
        }
    }

    /// A linearizable read has its index, or not.
    pub fn read_index(&self, timed: &Timed) {
        let took = match &timed.end {
            End::Done(stages) => stages.committed.since(timed.asked),
            End::Refused(_) | End::Uncertain(_) => timed.answered.since(timed.asked),
        };
        if took > SLOW_READ_INDEX {
            count(&self.read_indexes);
        }
    }

    /// Counts a request whose last work is done `now`. If it was slow and a line may be written: how long it took, and how
    /// many lines were not written before.
    pub fn ended(&self, timed: &Timed, now: Time) -> Option<(Took, u64)> {
        let took = match &timed.end {
            End::Done(stages) => {
                let took = Took::of(timed, stages, now);
                for (histogram, (stage, took)) in self.stages.iter().zip(took.stages()) {
                    // A read needs no disk, and shall not make one look fast.
                    if stage != "sync" || stages.by.is_some() {
                        histogram.record(took);
                    }
                }
                took
            }
            End::Refused(_) | End::Uncertain(_) => Took { total: now.since(timed.asked), ..Took::default() },
        };
        if took.total <= self.request {
            return None;
        }
        count(&self.requests);
        Some((took, self.lines.pass(now)?))
    }

    /// Writes what was counted.
    pub fn expose(&self, page: &mut Page) {
        let help = "How long requests took, by stage, in seconds: in the mailbox (queue), until this member's log had them \
                    (sync), until they were committed (quorum), from then to the answer (apply).";
        let mut family = page.family(Kind::Histogram, "quorate_request_stage_seconds", help);
        for ((stage, _), histogram) in Took::default().stages().iter().zip(&self.stages) {
            family.histogram(&[("stage", stage)], histogram);
        }
        let told = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let help = "Requests that took longer than --warning-unary-request-duration.";
        page.counter("quorate_slow_requests_total", help, told(&self.requests));
        let help = "Turns that took longer than --warning-apply-duration to apply what was committed.";
        page.counter("etcd_server_slow_apply_total", help, told(&self.applies));
        let help = "Linearizable reads that waited long for a leader to vouch for them.";
        page.counter("etcd_server_slow_read_indexes_total", help, told(&self.read_indexes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MemberId = MemberId(1);

    /// A request asked at 10 ms and answered at `answered`, by its moments in milliseconds.
    fn timed(taken: u64, submitted: u64, persisted: u64, committed: u64, answered: u64) -> (Timed, Stages) {
        let [taken, submitted, persisted, committed] = [taken, submitted, persisted, committed].map(Time::from_millis);
        let stages = Stages { taken, submitted, persisted, committed, by: Some(OWN), forwarded: false };
        let (asked, answered) = (Time::from_millis(10), Time::from_millis(answered));
        (Timed { asked, answered, end: End::Done(stages) }, stages)
    }

    fn cause((timed, stages): (Timed, Stages), end: u64) -> String {
        let timed = Timed { end: End::Done(stages), ..timed };
        let took = Took::of(&timed, &stages, Time::from_millis(end));
        timed.cause(&took, OWN, Duration::from_micros(1_234), |id| format!("n{id}"))
    }

    #[test]
    fn stages_add_up() {
        let (timed, stages) = timed(11, 13, 20, 17, 24);
        let took = Took::of(&timed, &stages, Time::from_millis(29));
        let ms = Duration::from_millis;
        let expected = Took {
            total: ms(19),
            queue: ms(1),
            leaderless: ms(2),
            sync: ms(7),
            quorum: ms(4),
            apply: ms(4),
            scan: ms(5),
        };
        assert_eq!(took, expected);
        assert_eq!(took.queue + took.leaderless + took.sync.max(took.quorum) + took.apply + took.scan, took.total);
    }

    #[test]
    fn the_longest_stage_is_blamed() {
        let by = |member, forwarded, timed: (Timed, Stages)| (timed.0, Stages { by: member, forwarded, ..timed.1 });
        let other = Some(MemberId(2));
        for (timed, end, expected) in [
            (timed(210, 210, 211, 211, 212), 212, "this member was busy: the request waited 200ms in its mailbox"),
            (timed(10, 810, 811, 811, 812), 812, "no leader was known for 800ms"),
            (
                timed(10, 10, 400, 400, 402),
                402,
                "the disk of this member: its log had it after 390ms, a sync usually takes 1.2ms",
            ),
            (
                by(other, false, timed(10, 10, 12, 310, 311)),
                311,
                "a quorum was slow: n2 acknowledged last, after 300ms",
            ),
            (
                by(other, false, timed(10, 10, 310, 12, 311)),
                311,
                "the disk of this member: its log had it after 300ms, a sync usually takes 1.2ms",
            ),
            (
                by(other, true, timed(10, 10, 12, 310, 311)),
                311,
                "n2, which leads, took 300ms to commit it: see its log",
            ),
            (
                by(None, false, timed(10, 10, 410, 410, 411)),
                411,
                "a quorum was slow: it took 400ms to confirm who leads",
            ),
            (timed(10, 10, 11, 11, 311), 311, "this member was busy: applying it and waking its caller took 300ms"),
            (
                by(None, false, timed(10, 10, 11, 11, 12)),
                512,
                "the read itself: collecting what was asked for took 500ms",
            ),
        ] {
            assert_eq!(cause(timed, end), expected);
        }
    }

    #[test]
    fn a_failure_names_its_reason() {
        let failed = |end| {
            let timed = Timed { asked: Time(0), answered: Time(0), end };
            timed.cause(&Took::default(), OWN, Duration::ZERO, |id| id.to_string())
        };
        assert_eq!(failed(End::Refused(Refused::NoLeader)), "no leader was found in that time");
        assert_eq!(failed(End::Refused(Refused::Busy)), "it was refused (Busy)");
        assert_eq!(failed(End::Uncertain(Uncertain::LeaderLost)), "the leader was lost meanwhile");
    }

    #[test]
    fn only_slow_requests_are_told_and_one_line_a_second() {
        let slow = Slow::new(Duration::from_millis(300), Duration::from_millis(100));
        let at = |asked: u64, took: u64| {
            let (timed, stages) = timed(asked, asked, asked, asked, asked + took);
            let timed = Timed { asked: Time::from_millis(asked), end: End::Done(stages), ..timed };
            slow.ended(&timed, timed.answered).map(|(_, suppressed)| suppressed)
        };
        assert_eq!(at(0, 300), None, "as long as is lawful");
        assert_eq!(at(0, 301), Some(0));
        assert_eq!([at(500, 400), at(600, 400), at(700, 50)], [None, None, None]);
        assert_eq!(at(901, 400), Some(2), "a second later, with what was passed over");
        assert_eq!(at(2000, 400), Some(0));
        assert_eq!(slow.requests.load(Ordering::Relaxed), 5);
        assert_eq!(slow.stages.each_ref().map(Histogram::count), [7; 4], "all are counted");
        let failed = Timed { asked: Time(0), answered: Time(0), end: End::Refused(Refused::NoLeader) };
        assert!(slow.ended(&failed, Time::from_millis(9_000)).is_some(), "a failure may be slow too");
        assert_eq!(slow.stages[0].count(), 7);
    }

    #[test]
    fn slow_turns_and_read_indexes_are_counted() {
        let slow = Slow::new(Duration::ZERO, Duration::from_millis(100));
        [99, 100, 101].into_iter().for_each(|ms| slow.applied(Duration::from_millis(ms)));
        assert_eq!(slow.applies.load(Ordering::Relaxed), 1);
        [510, 511, 600].into_iter().for_each(|ms| slow.read_index(&timed(10, 10, ms, ms, ms).0));
        assert_eq!(slow.read_indexes.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_request_is_described_by_its_first_key() {
        let key = |key: &'static [u8]| pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
        let put = What::command(&Op::Put(key(b"a\0b")), None);
        assert_eq!((put.method, put.key.as_str(), put.response_bytes), ("put", "a\\x00b", 0));
        assert!(put.request_bytes > 3);
        let long = What::command(&Op::Put(key(&[b'x'; 65])), Some(&Response::Put(pb::PutResponse::default())));
        assert_eq!(long.key, format!("{}…", "x".repeat(64)));
        let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(key(b"t"))) };
        let txn = pb::TxnRequest { success: vec![op], ..Default::default() };
        assert_eq!((What::command(&Op::Txn(txn.clone()), None).key, txn_key(&txn)), ("t".to_owned(), &b"t"[..]));
    }
}

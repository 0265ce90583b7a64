//! What a failure means, and whether to try again.
//!
//! The law of this file: *a write is sent again only if the earlier try surely was not done.* Three things prove that: the
//! connection could not be made, so nothing left; the server says so in the metadata `quorate-outcome: refused`; or the
//! answer is one that a server gives only before it proposes. Everything else, a broken connection, a timeout, etcd's bare
//! Unavailable, leaves the question open, and the caller hears [`Error::Uncertain`]. A read changes nothing, so any failure
//! that may pass is tried again.
//!
//! A try that fails goes to the next endpoint at once: the time a dead leader costs is measured through here. Only when
//! all endpoints were tried the call pauses, for 5 ms, 10, 20 ... at most 100.
//!
//! Left out: hedging (the same read at two members), and any memory of which endpoint was down before: a refused
//! connection costs microseconds.

use crate::client::endpoints::{Endpoint, Endpoints};
use crate::client::{Client, Error};
use crate::clock;
use crate::rng;
use crate::time::Duration;
use std::error::Error as _;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::{Code, Response, Status};

/// The metadata in which a Quorate server says what became of a failed request.
pub const OUTCOME: &str = "quorate-outcome";

/// Its value when the request was surely not done.
pub const REFUSED: &str = "refused";

/// Its value when nobody knows.
const UNCERTAIN: &str = "uncertain";

/// The pause after the first round over all endpoints; doubled after each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(5);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// The most that [`too_late`] asks of the time that is left.
const TRY_LEAST: Duration = Duration::from_millis(50);

/// Texts that etcd gives only to requests that it has not proposed, and that may pass.
const NOT_PROPOSED: [&str; 3] =
    ["etcdserver: too many requests", "etcdserver: rpc not supported for learner", "etcdserver: not capable"];

/// Whether a call changes the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Doing it twice is as good as once.
    Read,
    /// Doing it twice is not.
    Write,
}

/// What one failed try means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The server's considered no: final.
    Rejected,
    /// Surely not done; another endpoint or a later moment may do.
    NotDone,
    /// Nobody on this side can know.
    Unknown,
}

/// Judges a status by what it proves.
fn judge(status: &Status) -> Verdict {
    match status.metadata().get(OUTCOME).map(|value| value.as_bytes()) {
        _ if unsent(status) => return Verdict::NotDone,
        Some(outcome) if outcome == REFUSED.as_bytes() => return Verdict::NotDone,
        Some(outcome) if outcome == UNCERTAIN.as_bytes() => return Verdict::Unknown,
        Some(_) | None => {}
    }
    // A status made on this side of the wire (it has a source) borrows codes that would mean something else coming from
    // a server: ResourceExhausted for an HTTP/2 "enhance your calm", for one.
    if status.source().is_some() {
        return Verdict::Unknown;
    }
    match status.code() {
        Code::ResourceExhausted | Code::Unavailable | Code::FailedPrecondition
            if NOT_PROPOSED.contains(&status.message()) =>
        {
            Verdict::NotDone
        }
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated
        | Code::DataLoss => Verdict::Rejected,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => Verdict::Unknown,
    }
}

/// Whether the connection could not even be made.
pub(super) fn unsent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The innermost cause, which is the one a person can use ("connection refused"), without the operating system's number.
pub(super) fn root_cause(status: &Status) -> String {
    let mut cause = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    match text.split_once(" (os error") {
        Some((plain, _)) => plain.to_lowercase(),
        None => text,
    }
}

/// Failed tries of one call, for the sentence at its end.
#[derive(Default)]
struct Failures {
    unreachable: Vec<(usize, String)>,
    last: Option<Status>,
}

impl Failures {
    fn add(&mut self, place: usize, status: Status) {
        self.unreachable.retain(|(known, _)| *known != place);
        if unsent(&status) {
            self.unreachable.push((place, root_cause(&status)));
        }
        self.last = Some(status);
    }

    fn all_unreachable(&self, endpoints: &Endpoints) -> bool {
        self.unreachable.len() == endpoints.all().len()
    }

    /// If no endpoint could be reached the sentence names them all; else the last answer speaks for itself.
    fn into_error(self, endpoints: &Endpoints) -> Error {
        let nobody = self.all_unreachable(endpoints);
        let last = self.last.unwrap_or_else(|| Status::deadline_exceeded("the time ran out before the first try"));
        if !nobody {
            return Error::Refused(last);
        }
        let mut causes = self.unreachable;
        causes.sort();
        let tried: Vec<String> =
            causes.iter().map(|(place, cause)| format!("{}: {cause}", endpoints.all()[*place].name())).collect();
        let text = format!("no endpoint could be reached ({})", tried.join(", "));
        let mut status = Status::unavailable(text);
        // The source is what tells a failed connection from a server's Unavailable.
        if let Some(cause) = last.source().filter(|_| unsent(&last)) {
            status.set_source(std::sync::Arc::new(tonic::ConnectError(cause.to_string().into())));
        }
        Error::Refused(status)
    }
}

/// The pauses between rounds: doubling, each drawn from its upper half so that many clients don't come back as one.
struct Pauses {
    next: Duration,
}

impl Pauses {
    fn draw(&mut self) -> Duration {
        // Which number a call gets is the order of calls, not chance.
        static DRAWN: AtomicU64 = AtomicU64::new(0);
        let full = self.next;
        self.next = (full * 2).min(PAUSE_MAX);
        let half = full / 2;
        let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_nanos(rng::mix(DRAWN.fetch_add(1, Ordering::Relaxed)) % spread)
    }
}

/// Whether `left` of the time `of` a call is too little for another try: one that is cut off at once learns nothing, and
/// would end a write whose refusal is known as one of which nobody knows.
pub(super) fn too_late(left: Duration, of: Duration) -> bool {
    left <= TRY_LEAST.min(of / 10)
}

/// Runs one call: tries endpoints, from the one in use on, until one answers, the answer is final, or the time is over.
pub(super) async fn run<R, F, Fut>(client: &Client, kind: Kind, attempt: F) -> Result<R, Error>
where
    F: Fn(&Endpoint) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    let Client { endpoints, options, fail_fast } = client;
    let deadline = clock::instant() + options.command_timeout;
    let mut place = endpoints.in_use();
    let mut left = options.command_timeout;
    let mut failures = Failures::default();
    let mut pauses = Pauses { next: PAUSE_FIRST };
    loop {
        for _ in endpoints.all() {
            let status = match one_try(&endpoints.all()[place], options.try_timeout.min(left), &attempt).await {
                Ok(answer) => {
                    endpoints.answered(place);
                    return Ok(answer);
                }
                Err(status) => status,
            };
            match (judge(&status), kind) {
                (Verdict::Rejected, _) => return Err(Error::Rejected(status)),
                (Verdict::Unknown, Kind::Write) => {
                    endpoints.next_after(place);
                    return Err(Error::Uncertain(status));
                }
                (Verdict::NotDone, _) | (Verdict::Unknown, Kind::Read) => {
                    failures.add(place, status);
                    place = endpoints.next_after(place);
                }
            }
            left = deadline.saturating_duration_since(clock::instant());
            if too_late(left, options.command_timeout) {
                return Err(failures.into_error(endpoints));
            }
        }
        let pause = pauses.draw();
        if pause >= left || (*fail_fast && failures.all_unreachable(endpoints)) {
            return Err(failures.into_error(endpoints));
        }
        tokio::time::sleep(pause).await;
        left = deadline.saturating_duration_since(clock::instant());
        if too_late(left, options.command_timeout) {
            return Err(failures.into_error(endpoints));
        }
    }
}

/// One try, within `limit`.
pub(super) async fn one_try<R, F, Fut>(endpoint: &Endpoint, limit: Duration, attempt: &F) -> Result<R, Status>
where
    F: Fn(&Endpoint) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    match tokio::time::timeout(limit, attempt(endpoint)).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => {
            let limit = Duration::from_millis(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            Err(Status::deadline_exceeded(format!("{}: no answer within {limit:?}", endpoint.name())))
        }
    }
}

/// What the one failed try of a read at a given endpoint means.
pub(super) fn read_error(status: Status) -> Error {
    match judge(&status) {
        Verdict::Rejected => Error::Rejected(status),
        Verdict::NotDone | Verdict::Unknown => Error::Refused(status),
    }
}

//! The one table of errors: what ours mean, in etcd's codes and etcd's exact texts.
//!
//! Clients match on both, so both are frozen. What etcd's codes can't say is whether a write that was answered
//! `Unavailable` may have been carried out; the metadata key [`OUTCOME`] says it: `refused` (surely not done, send it
//! again) or `uncertain` (perhaps done, never blindly again).
//!
//! Absent: tonic's own errors (an oversize frame, an unknown method), which never reach a service; `http.rs` gives them
//! etcd's texts on their way out.

use crate::machine;
use crate::node::{ChangeRefused, Refused, Uncertain};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Response metadata beside `Unavailable` and `ResourceExhausted`: `refused` or `uncertain`.
pub const OUTCOME: &str = "quorate-outcome";

/// Response metadata beside a refused change of the membership: the sentence, with its numbers.
pub const WHY: &str = "quorate-why";

/// The caller's mistake, or a fault of this member.
pub fn of_machine(error: &machine::Error) -> Status {
    use machine::Error;
    match error {
        Error::EmptyKey => Status::invalid_argument("etcdserver: key is not provided"),
        Error::KeyNotFound => Status::invalid_argument("etcdserver: key not found"),
        Error::ValueProvided => Status::invalid_argument("etcdserver: value is provided"),
        Error::LeaseProvided => Status::invalid_argument("etcdserver: lease is provided"),
        Error::TooManyOps { .. } => Status::invalid_argument("etcdserver: too many operations in txn request"),
        Error::DuplicateKey => Status::invalid_argument("etcdserver: duplicate key given in txn request"),
        Error::LeaseNotFound => Status::not_found("etcdserver: requested lease not found"),
        Error::MemberNotFound => Status::not_found("etcdserver: member not found"),
        Error::PeerUrlsExist => Status::failed_precondition("etcdserver: Peer URLs already exists"),
        Error::LeaseExists => Status::failed_precondition("etcdserver: lease already exists"),
        Error::Compacted { .. } => Status::out_of_range("etcdserver: mvcc: required revision has been compacted"),
        Error::FutureRevision => Status::out_of_range("etcdserver: mvcc: required revision is a future revision"),
        Error::NoSpace => no_space(),
        Error::RangeTooLarge { bytes, limit } => Status::resource_exhausted(format!(
            "quorate: this range takes {bytes} bytes, and one answer may take {limit} (--max-range-bytes): ask for a part of \
             it with --limit, or stream it (KV.RangeStream)"
        )),
        Error::RangesTooLarge { bytes, limit } => Status::resource_exhausted(format!(
            "quorate: this range takes {bytes} bytes, for which there is no room now, as all answers together may take \
             {limit} (--max-ranges-bytes): ask for a part of it with --limit, stream it (KV.RangeStream), or try again later"
        )),
        // The process is about to end. Nobody may take this for an answer about the data.
        Error::Disk(_) | Error::Newer(_) => uncertain("etcdserver: server stopped"),
    }
}

/// Surely not done.
pub fn of_refused(reason: Refused) -> Status {
    match reason {
        Refused::NoLeader => refused(Code::Unavailable, "etcdserver: no leader"),
        Refused::Busy => refused(Code::ResourceExhausted, "etcdserver: too many requests"),
        Refused::LeaderChanged => refused(Code::Unavailable, "etcdserver: leader changed"),
        Refused::Space => no_space(),
        Refused::NotLeader => Status::failed_precondition("etcdserver: not leader"),
        Refused::BadTransferee => Status::failed_precondition("etcdserver: bad leader transferee"),
        Refused::Hollow => refused(Code::Unavailable, "quorate: this member is taking over its state from the leader"),
        Refused::Stopping => refused(Code::Unavailable, "etcdserver: server stopped"),
        Refused::Change(reason) => of_change(reason),
    }
}

/// Surely not done: the membership can't be changed like that. What etcd's texts leave out stands beside them, under
/// [`WHY`].
fn of_change(reason: ChangeRefused) -> Status {
    let precondition = |text: &str| Status::failed_precondition(text);
    let mut status = match reason {
        ChangeRefused::MemberNotFound(_) => Status::not_found("etcdserver: member not found"),
        ChangeRefused::MemberExists(_) => precondition("etcdserver: member ID already exist"),
        ChangeRefused::PeerUrlsExist => precondition("etcdserver: Peer URLs already exists"),
        ChangeRefused::NotALearner(_) => precondition("etcdserver: can only promote a learner member"),
        ChangeRefused::NotCaughtUp(_) => {
            precondition("etcdserver: can only promote a learner member which is in sync with leader")
        }
        ChangeRefused::TooManyLearners { .. } => precondition("etcdserver: too many learner members in cluster"),
        ChangeRefused::NotEnoughStarted { .. } => {
            precondition("etcdserver: re-configuration failed due to not enough started members")
        }
        ChangeRefused::Unreachable { .. } => refused(Code::Unavailable, "etcdserver: unhealthy cluster"),
        ChangeRefused::Version { .. } | ChangeRefused::Nothing => {
            Status::failed_precondition(format!("quorate: {reason}"))
        }
        ChangeRefused::Pending => {
            refused(Code::Unavailable, "quorate: an earlier change of the membership is not over; try again later")
        }
    };
    if let Ok(why) = MetadataValue::try_from(reason.to_string()) {
        status.metadata_mut().insert(WHY, why);
    }
    status
}

/// Perhaps done.
pub fn of_uncertain(reason: Uncertain) -> Status {
    match reason {
        Uncertain::LeaderLost => uncertain("etcdserver: request timed out, possibly due to previous leader failure"),
        Uncertain::TimedOut => uncertain("etcdserver: request timed out"),
    }
}

/// Surely not done, but not to be tried again at once: somebody must make room first.
fn no_space() -> Status {
    Status::resource_exhausted("etcdserver: mvcc: database space exceeded")
}

/// The members' states differ, and nobody knows whose is right: surely not done.
pub fn corrupt() -> Status {
    Status::data_loss("etcdserver: corrupt cluster")
}

/// A request beyond `--max-request-bytes`.
pub fn too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}

/// What a member without a vote does not serve.
pub fn not_for_learners() -> Status {
    refused(Code::Unavailable, "etcdserver: rpc not supported for learner")
}

fn refused(code: Code, text: &'static str) -> Status {
    with_outcome(code, text, "refused")
}

fn uncertain(text: &'static str) -> Status {
    with_outcome(Code::Unavailable, text, "uncertain")
}

fn with_outcome(code: Code, text: &'static str, outcome: &'static str) -> Status {
    let mut status = Status::new(code, text);
    status.metadata_mut().insert(OUTCOME, MetadataValue::from_static(outcome));
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Revision;
    use crate::storage::Fault;

    fn seen(status: &Status) -> (Code, &str, Option<&str>) {
        let outcome = status.metadata().get(OUTCOME).and_then(|v| v.to_str().ok());
        (status.code(), status.message(), outcome)
    }

    #[test]
    fn mistakes_have_etcds_codes_and_texts() {
        use machine::Error as E;
        let fault = Fault { what: "sync".into(), why: "EIO".into() };
        let table = [
            (E::EmptyKey, Code::InvalidArgument, "key is not provided"),
            (E::KeyNotFound, Code::InvalidArgument, "key not found"),
            (E::ValueProvided, Code::InvalidArgument, "value is provided"),
            (E::LeaseProvided, Code::InvalidArgument, "lease is provided"),
            (E::TooManyOps { found: 129, limit: 128 }, Code::InvalidArgument, "too many operations in txn request"),
            (E::DuplicateKey, Code::InvalidArgument, "duplicate key given in txn request"),
            (E::LeaseNotFound, Code::NotFound, "requested lease not found"),
            (E::LeaseExists, Code::FailedPrecondition, "lease already exists"),
            (E::MemberNotFound, Code::NotFound, "member not found"),
            (E::PeerUrlsExist, Code::FailedPrecondition, "Peer URLs already exists"),
            (E::Compacted { compacted: Revision(5) }, Code::OutOfRange, "mvcc: required revision has been compacted"),
            (E::FutureRevision, Code::OutOfRange, "mvcc: required revision is a future revision"),
            (E::NoSpace, Code::ResourceExhausted, "mvcc: database space exceeded"),
            (E::Disk(fault), Code::Unavailable, "server stopped"),
        ];
        let large = of_machine(&E::RangeTooLarge { bytes: 700, limit: 512 });
        assert_eq!(large.code(), Code::ResourceExhausted);
        assert!(
            large.message().contains("takes 700 bytes, and one answer may take 512 (--max-range-bytes)"),
            "{large}"
        );
        for (error, code, text) in table {
            let status = of_machine(&error);
            assert_eq!((status.code(), status.message()), (code, format!("etcdserver: {text}").as_str()), "{error:?}");
        }
    }

    #[test]
    fn refusals_and_uncertainties_are_told_apart_by_metadata() {
        use Code::{FailedPrecondition, ResourceExhausted, Unavailable};
        let refused = [
            (Refused::NoLeader, (Unavailable, "etcdserver: no leader", Some("refused"))),
            (Refused::Busy, (ResourceExhausted, "etcdserver: too many requests", Some("refused"))),
            (Refused::LeaderChanged, (Unavailable, "etcdserver: leader changed", Some("refused"))),
            (Refused::Space, (ResourceExhausted, "etcdserver: mvcc: database space exceeded", None)),
            (Refused::NotLeader, (FailedPrecondition, "etcdserver: not leader", None)),
            (Refused::BadTransferee, (FailedPrecondition, "etcdserver: bad leader transferee", None)),
            (
                Refused::Hollow,
                (Unavailable, "quorate: this member is taking over its state from the leader", Some("refused")),
            ),
            (Refused::Stopping, (Unavailable, "etcdserver: server stopped", Some("refused"))),
        ];
        for (reason, expected) in refused {
            assert_eq!(seen(&of_refused(reason)), expected, "{reason:?}");
        }
        let lost = "etcdserver: request timed out, possibly due to previous leader failure";
        assert_eq!(seen(&of_uncertain(Uncertain::LeaderLost)), (Unavailable, lost, Some("uncertain")));
        let late = "etcdserver: request timed out";
        assert_eq!(seen(&of_uncertain(Uncertain::TimedOut)), (Unavailable, late, Some("uncertain")));
        assert_eq!(seen(&corrupt()), (Code::DataLoss, "etcdserver: corrupt cluster", None));
        assert_eq!(seen(&too_large()), (Code::InvalidArgument, "etcdserver: request is too large", None));
    }
}

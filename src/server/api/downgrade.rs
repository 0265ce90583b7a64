//! What is answered to whoever wants to go back to an older version (Maintenance.Downgrade).
//!
//! etcd can prepare its cluster to be run by the minor version before. Here the data have one form, and no version to go
//! back to: every target is an invalid one, to validate and to enable, and no job is ever under way. etcd has words for each
//! of these, and they are true here. The one difference: etcd 3.5 calls 3.4 a valid target.

use crate::proto::etcdserverpb::DowngradeRequest;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use tonic::Status;

/// Why not.
pub fn refusal(request: &DowngradeRequest) -> Status {
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate | DowngradeAction::Enable) if !is_version(&request.version) => {
            Status::invalid_argument("etcdserver: wrong downgrade target version format")
        }
        Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
            Status::invalid_argument("etcdserver: invalid downgrade target version")
        }
        Ok(DowngradeAction::Cancel) => Status::failed_precondition("etcdserver: no inflight downgrade job"),
        Err(_) => Status::unknown("etcdserver: unknown method"),
    }
}

/// Whether it is `3.4`, or a semantic version.
fn is_version(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (core, suffix) = text.split_at(text.find(['-', '+']).unwrap_or(text.len()));
    let parts = core.split('.').count();
    core.split('.').all(number) && (parts == 3 || (parts == 2 && suffix.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_other_texts_as_etcd_does() {
        for version in ["3.4", "3.4.0", "3.5", "4.0", "03.4", "3.4.00", "3.4.0-rc.1"] {
            assert!(is_version(version), "{version}");
        }
        for text in ["", "x", "3", "3.", "3.4.0.0", "v3.4", "3.-4", " 3.4", "+3.4", "3.4.x"] {
            assert!(!is_version(text), "{text}");
        }
    }
}

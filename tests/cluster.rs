//! Real processes, real disks, real signals: what the whole thing must withstand.
//!
//! Each test has clusters of its own: processes of `quorate serve` on free ports. Nothing here waits for a fixed time or
//! judges one; times are printed, for people.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "cluster/called_etcd.rs"]
mod called_etcd;
#[path = "cluster/churn.rs"]
mod churn;
#[path = "cluster/disks.rs"]
mod disks;
#[path = "cluster/doctor.rs"]
mod doctor;
#[path = "cluster/ended.rs"]
mod ended;
#[path = "cluster/garbage.rs"]
mod garbage;
#[path = "cluster/healthcheck.rs"]
mod healthcheck;
#[path = "cluster/kills.rs"]
mod kills;
#[path = "cluster/lab.rs"]
mod lab;
#[path = "cluster/leases.rs"]
mod leases;
#[path = "cluster/load.rs"]
mod load;
#[path = "cluster/lost_disks.rs"]
mod lost_disks;
#[path = "cluster/members.rs"]
mod members;
#[path = "cluster/ranges.rs"]
mod ranges;
#[path = "cluster/refusals.rs"]
mod refusals;
#[path = "cluster/rot.rs"]
mod rot;
#[path = "cluster/space.rs"]
mod space;
#[path = "cluster/strangers.rs"]
mod strangers;
mod support;
#[path = "cluster/takeover.rs"]
mod takeover;
#[path = "cluster/unrepaired.rs"]
mod unrepaired;
#[path = "cluster/watched.rs"]
mod watched;
#[path = "cluster/watches.rs"]
mod watches;

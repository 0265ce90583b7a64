//! The judge: from what clients saw, whether the store kept its word.
//!
//! It shares no code with the accused (law *Judge-apart*): it has a model of its own of what etcd's keys and revisions are,
//! and reads nothing but histories ([`history`]). So a mistake in the machine is not excused by the same mistake here.

pub mod history;

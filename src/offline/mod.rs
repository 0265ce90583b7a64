//! What is done to files and data directories while no member runs on them.
//!
//! - `snapshot` reads a snapshot file, or a stream on its way into one, and verifies all of it.
//! - `recover` chooses the survivor of a cluster that lost its quorum, and makes it the only member.
//! - `restore` makes the data directories of new members from such a file.
//!
//! It stands beside the server, on the same rooms: what it writes is opened by the same [`crate::node::open()`]. It says what it
//! does through values and a callback for progress; to talk to people is the command line's affair.
//!
//! May not know: sockets, a running member. A directory in use is locked, and refused like any other.

pub mod recover;
pub mod restore;
pub mod snapshot;

/// What can't be done: what, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The file is no whole snapshot.
    #[error("{0}")]
    Damaged(String),
    /// The file is a snapshot, but not one that this release reads.
    #[error("{0}")]
    Newer(String),
    /// The file is a snapshot of etcd's.
    #[error("{0}")]
    Etcds(String),
    /// The operating system, a data directory, a disk.
    #[error("{0}")]
    Failed(String),
}

fn io(what: &str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Trouble {
    let what = format!("{what} {}", path.display());
    move |error| Trouble::Failed(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests;

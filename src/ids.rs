//! The numbers that name things, each a type of its own.
//!
//! An index counts entries of the replicated log, a revision counts changes of the key-value store, a term counts
//! elections: three counters that look alike and must never be mixed, so the compiler keeps them apart. Conversions are
//! spelled out (`.0`, `Index(7)`) at the edges, where numbers come from the wire or the disk.
//!
//! What is absent: anything that makes ids by chance. Member and cluster ids are derived from what the operator wrote,
//! so that every member computes the same ones without talking.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number!(
    /// A member of the cluster: non-zero, never used again after a removal. Printed in hex, as etcd does.
    MemberId(u64), "{:x}"
);
number!(
    /// The cluster: members of different clusters never exchange a Raft message.
    ClusterId(u64), "{:x}"
);
number!(
    /// A data directory: drawn by chance when the directory is made, so that an emptied volume and a copied directory
    /// are both told from the disk that the cluster knows.
    DiskId(u64), "{:x}"
);
number!(
    /// One life of a member's process: counts the times its data directory was opened, so a larger one is later.
    Incarnation(u64), "{}"
);
number!(
    /// An election's number (Raft §5.1). 0 is before the first election.
    Term(u64), "{}"
);
number!(
    /// A position in the replicated log. The first entry is 1; 0 is "before the log".
    Index(u64), "{}"
);
number!(
    /// A write of the raft database: `raft::Ready`s are numbered from 1 in each incarnation; 0 is "nothing to wait for".
    WriteSeq(u64), "{}"
);
number!(
    /// A change of the store, counted as etcd counts: a fresh store is at 1, the first write makes 2.
    Revision(i64), "{}"
);

impl Index {
    /// The index after this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl WriteSeq {
    /// The write after this one.
    pub fn next(self) -> WriteSeq {
        WriteSeq(self.0 + 1)
    }
}

impl Incarnation {
    /// Where the counts of this life begin. An answer to a question of an earlier life may arrive in this one, so no number
    /// that is echoed in an answer is used by two lives.
    pub fn first_number(self) -> u64 {
        self.0 << 32
    }
}

impl Term {
    /// The term after this one.
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

/// Where a log ends, or where an entry stands: index and term travel together, because an index alone says nothing about
/// what stands there (TiKV #10225 was a term that had parted from its index).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which entry.
    pub index: Index,
    /// The term in which its leader appended it.
    pub term: Term,
}

impl Position {
    /// Raft's "at least as up-to-date" (§5.4.1): the later last term wins, then the longer log.
    pub fn at_least_as_up_to_date_as(self, other: Position) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }

    /// Whether a log that ends here makes up for one that ended at `mark` and lost its tail: as long, and as late. What it
    /// has otherwise by then, a later leader has put there, so what `mark` spoke of was never committed.
    pub fn reaches(self, mark: Position) -> bool {
        self.index >= mark.index && self.term >= mark.term
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// Names one request for the whole cluster and for ever: the member that took it, that member's incarnation, and a count.
/// It rides on the log entry, so that the origin recognises its own entry when it is applied there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The member that took the request from a client. 0 in entries that no client asked for.
    pub origin: MemberId,
    /// Which life of that member.
    pub incarnation: Incarnation,
    /// Counts within that life, from 1.
    pub sequence: u64,
}

/// A 64-bit hash that is the same in every build and on every machine (FNV-1a, then a finalising mix): for ids derived
/// from text. Not for data from outside where collisions could be made on purpose.
pub fn stable_hash(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash ^= u64::from(*byte);
            hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    crate::rng::mix(hash)
}

/// The id of an initial member: from its peer URLs and the cluster token, so that all members agree without talking.
pub fn initial_member_id(peer_urls: &[String], token: &str) -> MemberId {
    let mut sorted: Vec<&[u8]> = peer_urls.iter().map(String::as_bytes).collect();
    sorted.sort_unstable();
    sorted.push(token.as_bytes());
    MemberId(stable_hash(&sorted).max(1))
}

/// The id of a cluster: from its initial members' ids and the cluster token.
pub fn initial_cluster_id(members: &[MemberId], token: &str) -> ClusterId {
    let mut sorted: Vec<[u8; 8]> = members.iter().map(|m| m.0.to_be_bytes()).collect();
    sorted.sort_unstable();
    let mut parts: Vec<&[u8]> = sorted.iter().map(|m| m.as_slice()).collect();
    parts.push(token.as_bytes());
    ClusterId(stable_hash(&parts).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_depend_on_the_order_in_which_urls_are_given() {
        let a = ["http://a:1".to_string(), "http://b:2".to_string()];
        let b = ["http://b:2".to_string(), "http://a:1".to_string()];
        assert_eq!(initial_member_id(&a, "t"), initial_member_id(&b, "t"));
        assert_ne!(initial_member_id(&a, "t"), initial_member_id(&a, "u"));
        let ids = [MemberId(3), MemberId(1)];
        assert_eq!(initial_cluster_id(&ids, "t"), initial_cluster_id(&[MemberId(1), MemberId(3)], "t"));
    }

    #[test]
    fn stable_hash_is_frozen() {
        // Ids derived from it live on disks: a change here would orphan every data directory.
        assert_eq!(stable_hash(&[b"quorate"]), 0x6798_9db0_c863_a827);
    }

    #[test]
    fn up_to_date_compares_terms_before_lengths() {
        let at = |term, index| Position { index: Index(index), term: Term(term) };
        let voter = at(2, 5);
        assert!(at(3, 1).at_least_as_up_to_date_as(voter));
        assert!(at(2, 5).at_least_as_up_to_date_as(voter));
        assert!(!at(2, 4).at_least_as_up_to_date_as(voter));
        assert!(!at(1, 9).at_least_as_up_to_date_as(voter));
    }
}

//! What clients saw: the only evidence that the judge admits.
//!
//! A history is a list of operations, each with who asked, what, when it left, when the answer came and what it said. Times
//! are nanoseconds on one clock that all recorded clients share. A client has at most one operation open at a time; after
//! one that ended [`Outcome::Unknown`] it goes on under a new number, for the old one may still take effect.
//!
//! Keys and values are text here: workloads are ours, and a history should be readable by the person who has to understand
//! it. One operation is one line of JSON (`Operation`'s serde form), in the order of invocation.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One operation, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked.
    pub client: u64,
    /// When it left the client.
    pub invoked: u64,
    /// When the answer came, or the client gave up.
    pub returned: u64,
    /// What was asked.
    pub call: Call,
    /// What came of it.
    pub outcome: Outcome,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Set a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: String,
    },
    /// Read a key, or the keys in `[key, end)`.
    Get {
        /// The (first) key.
        key: String,
        /// Where the range ends; `None`: one key.
        end: Option<String>,
        /// Of which revision; 0: the newest.
        revision: i64,
        /// Whether any member may answer from what it has.
        serializable: bool,
    },
    /// Remove a key, or the keys in `[key, end)`.
    Delete {
        /// The (first) key.
        key: String,
        /// Where the range ends; `None`: one key.
        end: Option<String>,
    },
    /// If all compares hold do `then`, else `otherwise`, in one step.
    Txn {
        /// What must hold.
        compare: Vec<Compare>,
        /// Done if they all hold.
        then: Vec<Call>,
        /// Done if one does not.
        otherwise: Vec<Call>,
    },
    /// Forget what nobody can see who reads at this revision or later.
    Compact {
        /// The oldest revision that stays readable.
        revision: i64,
    },
}

/// A condition on one key. A key that is absent has revision and version 0, and no compare of its value holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// Which key.
    pub key: String,
    /// What of it.
    pub target: Target,
    /// How it must stand to the target.
    pub relation: Relation,
}

/// What a compare looks at, and what it is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The value.
    Value(String),
    /// The revision of the last change.
    ModRevision(i64),
    /// The revision of the creation.
    CreateRevision(i64),
    /// The number of changes since the creation.
    Version(i64),
}

/// The relation of what is found to the compare's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Found = target.
    Equal,
    /// Found ≠ target.
    NotEqual,
    /// Found < target.
    Less,
    /// Found > target.
    Greater,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered: the store's revision in the answer's header, and the answer.
    Done {
        /// `header.revision`.
        revision: i64,
        /// The answer.
        reply: Reply,
    },
    /// Surely not done, and why.
    Refused(String),
    /// Surely not done: the revision that it names was compacted.
    Compacted,
    /// Nobody knows: it may take effect once, at any time after it was invoked, or never.
    Unknown(String),
}

/// An answer. Inside of a transaction's answer the replies stand in the order of the branch that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Of a put.
    Put,
    /// Of a get: what was found, ordered by key.
    Got(Vec<Pair>),
    /// Of a delete: how many keys it removed.
    Deleted(i64),
    /// Of a transaction: whether the compares held, and the replies of the branch.
    Txn(bool, Vec<Reply>),
    /// Of a compaction.
    Compacted,
}

/// A key as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The revision of its last change.
    pub mod_revision: i64,
    /// The revision of its creation.
    pub create_revision: i64,
    /// The number of changes since its creation.
    pub version: i64,
}

/// As a person would type it: `put a = 1`, `get a..c`, `delete a`, `if version(a) = 0 then put a = 1`.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |end: &Option<String>| end.as_ref().map_or(String::new(), |end| format!("..{end}"));
        match self {
            Call::Put { key, value } => write!(f, "put {key} = {value}"),
            Call::Get { key, end, revision, serializable } => {
                write!(f, "get {key}{}", range(end))?;
                if *revision > 0 {
                    write!(f, " at revision {revision}")?;
                }
                if *serializable { f.write_str(" (serializable)") } else { Ok(()) }
            }
            Call::Delete { key, end } => write!(f, "delete {key}{}", range(end)),
            Call::Txn { compare, then, otherwise } => {
                f.write_str("if")?;
                for (place, compare) in compare.iter().enumerate() {
                    write!(f, "{} {compare}", if place > 0 { " and" } else { "" })?;
                }
                for (word, branch) in [("then", then), ("else", otherwise)] {
                    for (place, call) in branch.iter().enumerate() {
                        write!(f, " {} {call}", if place > 0 { "and" } else { word })?;
                    }
                }
                Ok(())
            }
            Call::Compact { revision } => write!(f, "compact at {revision}"),
        }
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = match self.relation {
            Relation::Equal => "=",
            Relation::NotEqual => "≠",
            Relation::Less => "<",
            Relation::Greater => ">",
        };
        let key = &self.key;
        match &self.target {
            Target::Value(value) => write!(f, "value({key}) {relation} {value}"),
            Target::ModRevision(revision) => write!(f, "mod({key}) {relation} {revision}"),
            Target::CreateRevision(revision) => write!(f, "create({key}) {relation} {revision}"),
            Target::Version(version) => write!(f, "version({key}) {relation} {version}"),
        }
    }
}

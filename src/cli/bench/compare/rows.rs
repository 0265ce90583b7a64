//! What is measured: one row of the table each.

use crate::cli::bench::work::Work;

/// Keys that are read and written; all are there from the start.
pub const KEYS: u64 = 20_000;

/// Where callers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The leader.
    Leader,
    /// All members in turn.
    All,
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name: what is done, and by how many callers at once.
    pub name: &'static str,
    /// What each caller does.
    pub work: Work,
    /// Callers, each with one operation in flight.
    pub clients: usize,
    /// Where they go.
    pub target: Target,
    /// How many keys they work on.
    pub keys: u64,
}

impl Row {
    /// Whether a server that does nothing can be asked for it too, to learn how far the library itself goes.
    pub fn is_get(&self) -> bool {
        matches!(self.work, Work::Mixed { read_ratio, serializable: false } if read_ratio >= 1.0)
    }
}

const PUT: Work = Work::Mixed { read_ratio: 0.0, serializable: false };
const GET: Work = Work::Mixed { read_ratio: 1.0, serializable: false };
const GET_SERIALIZABLE: Work = Work::Mixed { read_ratio: 1.0, serializable: true };
const MIXED: Work = Work::Mixed { read_ratio: 0.9, serializable: false };

/// All of them.
pub fn all() -> Vec<Row> {
    let row = |name, work, clients, target, keys| Row { name, work, clients, target, keys };
    let to_leader = |name, work, clients| row(name, work, clients, Target::Leader, KEYS);
    vec![
        to_leader("put-1", PUT, 1),
        to_leader("put-64", PUT, 64),
        to_leader("put-256", PUT, 256),
        to_leader("put-1000", PUT, 1000),
        row("put-256-all", PUT, 256, Target::All, KEYS),
        to_leader("get-1", GET, 1),
        to_leader("get-64", GET, 64),
        to_leader("get-256", GET, 256),
        to_leader("serializable-get-64", GET_SERIALIZABLE, 64),
        to_leader("mixed-90-10-256", MIXED, 256),
        to_leader("swap-64", Work::Swap, 64),
        row("swap-contended-64", Work::Swap, 64, Target::Leader, 1),
        to_leader("range-100-64", Work::Range { keys: 100 }, 64),
        to_leader("lease-grant-64", Work::Grant, 64),
        to_leader("lease-keep-alive-64", Work::KeepAlive, 64),
    ]
}

//! What the clients ask, by workload.

use quorate::maelstrom::Workload;
use quorate::rng::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// So many operations a key of `lin-kv` lives for: a judge's search grows with them.
const OPERATIONS_PER_KEY: u64 = 60;
/// Keys of transactions at once, and how long each lives: few, so that transactions meet.
const KEYS: u64 = 3;
const WRITES_PER_KEY: u64 = 24;
const TXN_OPERATIONS_MAX: u64 = 4;

/// Makes requests, and reads of the end.
pub struct Load {
    workload: Workload,
    rng: Rng,
    count: u64,
    /// Where each client goes on in each log.
    offsets: Vec<BTreeMap<String, i64>>,
    /// What each client has yet to commit.
    processed: Vec<BTreeMap<String, i64>>,
    writes: BTreeMap<u64, u64>,
}

impl Load {
    pub fn new(workload: Workload, rng: Rng, clients: usize) -> Load {
        let none = || vec![BTreeMap::new(); clients];
        Load { workload, rng, count: 0, offsets: none(), processed: none(), writes: BTreeMap::new() }
    }

    /// The next request of a client.
    pub fn next(&mut self, client: usize) -> Value {
        self.count += 1;
        let (n, dice) = (self.count, self.rng.below(100));
        match self.workload {
            Workload::Echo => json!({"type": "echo", "echo": {"please": n, "deep": [n, null]}}),
            Workload::UniqueIds => json!({"type": "generate"}),
            Workload::Broadcast if dice < 30 => json!({"type": "read"}),
            Workload::Broadcast => json!({"type": "broadcast", "message": n}),
            Workload::GSet if dice < 30 => json!({"type": "read"}),
            Workload::GSet => json!({"type": "add", "element": n}),
            Workload::GCounter | Workload::PnCounter if dice < 30 => json!({"type": "read"}),
            Workload::GCounter => json!({"type": "add", "delta": dice % 7}),
            Workload::PnCounter => json!({"type": "add", "delta": i64::try_from(dice % 11).unwrap() - 5}),
            Workload::LinKv => self.register(dice),
            Workload::TxnListAppend => self.txn("append"),
            Workload::TxnRwRegister => self.txn("w"),
            Workload::Kafka => self.log(client, dice),
        }
    }

    fn register(&mut self, dice: u64) -> Value {
        let key = self.count / (2 * OPERATIONS_PER_KEY) * 2 + self.rng.below(2);
        let value = self.rng.below(5);
        match dice {
            0..40 => json!({"type": "read", "key": key}),
            40..75 => json!({"type": "write", "key": key, "value": value}),
            _ => json!({"type": "cas", "key": key, "from": self.rng.below(5), "to": value}),
        }
    }

    fn txn(&mut self, write: &str) -> Value {
        let operations = 1 + self.rng.below(TXN_OPERATIONS_MAX);
        let txn: Vec<Value> = (0..operations)
            .map(|_| {
                let slot = self.rng.below(KEYS);
                let writes = self.writes.entry(slot).or_default();
                let key = slot + KEYS * (*writes / WRITES_PER_KEY);
                if self.rng.below(2) == 0 {
                    return json!(["r", key, null]);
                }
                *writes += 1;
                json!([write, key, *writes])
            })
            .collect();
        json!({"type": "txn", "txn": txn})
    }

    fn log(&mut self, client: usize, dice: u64) -> Value {
        let key = |n: u64| format!("k{n}");
        let processed = std::mem::take(&mut self.processed[client]);
        match dice {
            0..45 => json!({"type": "send", "key": key(self.rng.below(KEYS)), "msg": self.count}),
            45..80 => {
                let mine = &self.offsets[client];
                let offsets: BTreeMap<String, i64> =
                    (0..KEYS).map(key).map(|key| (key.clone(), mine.get(&key).copied().unwrap_or(0))).collect();
                json!({"type": "poll", "offsets": offsets})
            }
            80..90 if !processed.is_empty() => json!({"type": "commit_offsets", "offsets": processed}),
            _ => json!({"type": "list_committed_offsets", "keys": (0..KEYS).map(key).collect::<Vec<_>>()}),
        }
    }

    /// An answer came. A client of `kafka` goes on where it was.
    pub fn answered(&mut self, client: usize, answer: &Value) {
        let logs = answer.get("msgs").and_then(Value::as_object);
        for (key, pairs) in logs.into_iter().flatten() {
            if let Some(last) = pairs.as_array().and_then(|pairs| pairs.last()).and_then(|pair| pair[0].as_i64()) {
                self.offsets[client].insert(key.clone(), last + 1);
                self.processed[client].insert(key.clone(), last);
            }
        }
    }

    /// What a client asks at the end.
    pub fn last(&mut self) -> Vec<Value> {
        match self.workload {
            Workload::Echo | Workload::UniqueIds => vec![self.next(0)],
            Workload::Broadcast | Workload::GSet | Workload::GCounter | Workload::PnCounter => {
                vec![json!({"type": "read"})]
            }
            Workload::LinKv => {
                let newest = self.count / (2 * OPERATIONS_PER_KEY) * 2;
                (newest..newest + 2).map(|key| json!({"type": "read", "key": key})).collect()
            }
            Workload::TxnListAppend | Workload::TxnRwRegister => {
                let slots = self.writes.iter();
                let keys = slots.flat_map(|(slot, n)| (0..=n / WRITES_PER_KEY).map(move |age| slot + KEYS * age));
                vec![json!({"type": "txn", "txn": keys.map(|key| json!(["r", key, null])).collect::<Vec<_>>()})]
            }
            Workload::Kafka => {
                let polls = (0..KEYS).map(|n| json!({"type": "poll", "offsets": {format!("k{n}"): 0}}));
                polls.collect()
            }
        }
    }
}

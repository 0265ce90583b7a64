//! The parts of an operation: what it may write, what it did write, what it was shown.

use crate::check::history::{Call, Pair, Reply};

/// A put or a delete inside of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// The (first) key.
    pub key: &'a str,
    /// Where a deleted range ends.
    pub end: Option<&'a str>,
    /// What is put; none: it is deleted.
    pub value: Option<&'a str>,
}

impl Write<'_> {
    /// Whether it is about this key.
    pub fn covers(&self, key: &str) -> bool {
        within(key, self.key, self.end)
    }
}

/// A get inside of a call, and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Got<'a> {
    /// The (first) key.
    pub key: &'a str,
    /// Where the range ends.
    pub end: Option<&'a str>,
    /// The revision that was asked for; 0: the newest.
    pub asked: i64,
    /// What was found.
    pub pairs: &'a [Pair],
}

/// Whether `key` is `first`, or in the range from there to `end`.
pub fn within(key: &str, first: &str, end: Option<&str>) -> bool {
    end.map_or(key == first, |end| first <= key && key < end)
}

/// Everything that a call writes in any branch.
pub fn may_write(call: &Call) -> Vec<Write<'_>> {
    match call {
        Call::Get { .. } | Call::Compact { .. } => Vec::new(),
        Call::Put { key, value } => vec![Write { key, end: None, value: Some(value) }],
        Call::Delete { key, end } => vec![Write { key, end: end.as_deref(), value: None }],
        Call::Txn { then, otherwise, .. } => then.iter().chain(otherwise).flat_map(may_write).collect(),
    }
}

/// Everything that an answered call wrote; deletes of nothing too.
pub fn did_write<'a>(call: &'a Call, reply: &Reply) -> Vec<Write<'a>> {
    match (call, reply) {
        (Call::Txn { .. }, Reply::Txn(held, replies)) => {
            let parts = taken(call, *held).iter().zip(replies);
            parts.flat_map(|(call, reply)| did_write(call, reply)).collect()
        }
        _ => may_write(call),
    }
}

/// Everything that an answered call was shown.
pub fn gets<'a>(call: &'a Call, reply: &'a Reply) -> Vec<Got<'a>> {
    match (call, reply) {
        (Call::Get { key, end, revision, .. }, Reply::Got(pairs)) => {
            vec![Got { key, end: end.as_deref(), asked: *revision, pairs }]
        }
        (Call::Txn { .. }, Reply::Txn(held, replies)) => {
            taken(call, *held).iter().zip(replies).flat_map(|(call, reply)| gets(call, reply)).collect()
        }
        _ => Vec::new(),
    }
}

/// The branch of a transaction.
pub fn taken(call: &Call, held: bool) -> &[Call] {
    match call {
        Call::Txn { then, otherwise, .. } => {
            if held {
                then
            } else {
                otherwise
            }
        }
        Call::Put { .. } | Call::Get { .. } | Call::Delete { .. } | Call::Compact { .. } => &[],
    }
}

/// Why an answer can't be one to the call, whatever the store holds.
pub fn misfit(call: &Call, reply: &Reply) -> Option<&'static str> {
    match (call, reply) {
        (Call::Put { .. }, Reply::Put) | (Call::Compact { .. }, Reply::Compacted) => None,
        (Call::Get { key, end, .. }, Reply::Got(pairs)) => {
            let order = pairs.windows(2).all(|pair| pair[0].key < pair[1].key);
            let asked_for = pairs.iter().all(|pair| within(&pair.key, key, end.as_deref()));
            let numbers = pairs.iter().all(|pair| {
                let Pair { mod_revision, create_revision, version, .. } = *pair;
                let changes = mod_revision.saturating_sub(create_revision);
                create_revision > 0 && version > 0 && changes >= version - 1 && (version > 1 || changes == 0)
            });
            match (order, asked_for, numbers) {
                (false, ..) => Some("the keys are not in order"),
                (_, false, _) => Some("it holds a key that was not asked for"),
                (.., false) => Some("the revisions and the version of a pair don't go together"),
                (true, true, true) => None,
            }
        }
        (Call::Delete { end, .. }, Reply::Deleted(count)) => {
            let most = if end.is_none() { 1 } else { i64::MAX };
            (!(0..=most).contains(count)).then_some("so many keys can't be deleted")
        }
        (Call::Txn { .. }, Reply::Txn(held, replies)) => {
            let branch = taken(call, *held);
            if branch.len() != replies.len() {
                return Some("the branch has another number of operations");
            }
            branch.iter().zip(replies).find_map(|(call, reply)| misfit(call, reply))
        }
        _ => Some("it answers another kind of call"),
    }
}

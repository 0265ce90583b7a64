//! What needs no order: `broadcast`, `g-set` and the two counters.
//!
//! A node holds a state that only grows ([`Lattice`]): a set, or each node's own sums. It answers from it at once, and tells
//! its neighbours what is new until they have said that they know it. To each neighbour at most one message is on its way:
//! the next one carries everything that came up meanwhile, so a busy node sends fewer, larger messages. What is not
//! acknowledged within [`RETRY_INTERVAL`] is sent again. Growing twice by the same is growing once, so repetition and
//! reordering are harmless.
//!
//! Versions count the changes of the own state. An acknowledgement names the version that the message carried, so a
//! neighbour's knowledge is one number.
//!
//! # Invariants
//!
//! 1. What was acknowledged to a client is in the state, and in the messages to every neighbour until it says that it has it.
//! 2. What a neighbour told is not told to it again.
//!
//! Absent: durability. A node that is killed has forgotten what it alone knew; Maelstrom kills none.

use super::Workload;
use super::protocol::{Body, Error, Message, body, encode, field, list, names, object};
use crate::time::{Duration, Time};
use bytes::Bytes;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// When what was not acknowledged is sent again. Longer than a round trip of 2 × 100 ms, Maelstrom's usual slow network.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// A node of a workload without order.
#[derive(Debug)]
pub struct Gossip {
    own: String,
    workload: Workload,
    state: Lattice,
    peers: BTreeMap<String, Peer>,
}

/// What is known of a neighbour.
#[derive(Debug, Default)]
struct Peer {
    /// It has everything up to this version of the own state.
    knows: usize,
    /// The message on its way: the version it carries, and when it left.
    sent: Option<(usize, Time)>,
}

/// A state that only grows.
#[derive(Debug)]
enum Lattice {
    Set(Elements),
    Counter(Sums),
}

/// A set, in the order in which this node learned its elements.
#[derive(Debug, Default)]
struct Elements {
    seen: BTreeSet<Bytes>,
    /// With the neighbour that told it; `None`: a client.
    learned: Vec<(Value, Option<String>)>,
}

/// What each node has added and taken away. Only the node itself changes its own.
#[derive(Debug, Default)]
struct Sums {
    by_node: BTreeMap<String, (i64, i64)>,
    changes: usize,
}

impl Gossip {
    /// The node `own`, whose neighbours are `peers` until a topology says otherwise.
    pub fn new(own: &str, peers: &[String], workload: Workload) -> Gossip {
        let state = match workload {
            Workload::GCounter | Workload::PnCounter => Lattice::Counter(Sums::default()),
            _ => Lattice::Set(Elements::default()),
        };
        let peers = peers.iter().map(|peer| (peer.clone(), Peer::default())).collect();
        Gossip { own: own.to_owned(), workload, state, peers }
    }

    /// Answers a client.
    ///
    /// # Errors
    /// The workload has no such request, or it lacks something.
    pub fn request(&mut self, kind: &str, request: &Body) -> Result<Body, Error> {
        match (kind, &mut self.state) {
            ("broadcast", Lattice::Set(set)) if self.workload == Workload::Broadcast => {
                set.insert(field(request, "message")?, None);
                Ok(body("broadcast_ok", []))
            }
            ("topology", _) if self.workload == Workload::Broadcast => {
                self.set_neighbours(object(request, "topology")?)?;
                Ok(body("topology_ok", []))
            }
            ("add", Lattice::Set(set)) if self.workload == Workload::GSet => {
                set.insert(field(request, "element")?, None);
                Ok(body("add_ok", []))
            }
            ("add", Lattice::Counter(sums)) => {
                sums.add(&self.own, read_delta(request, self.workload)?)?;
                Ok(body("add_ok", []))
            }
            ("read", state) => {
                let name = if self.workload == Workload::Broadcast { "messages" } else { "value" };
                Ok(body("read_ok", [(name, state.value())]))
            }
            _ => Err(Error::not_supported(kind, self.workload.name())),
        }
    }

    /// Only those that the topology names hear of news from here. Who is not named keeps what it knows.
    fn set_neighbours(&mut self, topology: &Body) -> Result<(), Error> {
        let Some(neighbours) = topology.get(&self.own) else { return Ok(()) };
        let of_own = neighbours.as_array().ok_or_else(|| Error::malformed("neighbours are a list of names"))?;
        let mut known = std::mem::take(&mut self.peers);
        for name in names(of_own)?.into_iter().filter(|name| *name != self.own) {
            let peer = known.remove(&name).unwrap_or_default();
            self.peers.insert(name, peer);
        }
        Ok(())
    }

    /// Takes what the neighbour `src` said; gives the answer to it.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn receive(&mut self, src: &str, kind: &str, said: &Body) -> Result<Option<Body>, Error> {
        let upto = field(said, "upto")?.as_u64().and_then(|upto| usize::try_from(upto).ok());
        let upto = upto.ok_or_else(|| Error::malformed("\"upto\" counts changes"))?;
        if kind == "gossip" {
            self.state.merge(src, said)?;
            return Ok(Some(body("gossip_ok", [("upto", upto.into())])));
        }
        let version = self.state.version();
        if let Some(peer) = self.peers.get_mut(src) {
            peer.knows = peer.knows.max(upto.min(version));
            peer.sent = peer.sent.filter(|(sent, _)| *sent > peer.knows);
        }
        Ok(None)
    }

    /// Tells each neighbour what it is not known to know.
    pub fn advance(&mut self, now: Time, out: &mut Vec<Message>) {
        let version = self.state.version();
        for (name, peer) in &mut self.peers {
            let waits = peer.sent.is_some_and(|(_, since)| now < since + RETRY_INTERVAL);
            if peer.knows == version || waits {
                continue;
            }
            let Some(news) = self.state.news(peer.knows, name) else {
                (peer.knows, peer.sent) = (version, None);
                continue;
            };
            peer.sent = Some((version, now));
            out.push(Message { src: self.own.clone(), dest: name.clone(), body: news });
        }
    }

    /// When something must be sent again.
    pub fn deadline(&self) -> Time {
        let again = |peer: &Peer| peer.sent.map(|(_, since)| since + RETRY_INTERVAL);
        self.peers.values().filter_map(again).min().unwrap_or(Time::NEVER)
    }
}

/// Deltas are whole numbers; those of a g-counter are not negative.
fn read_delta(request: &Body, workload: Workload) -> Result<i64, Error> {
    let delta = field(request, "delta")?;
    match delta.as_i64() {
        Some(number) if number >= 0 || workload == Workload::PnCounter => Ok(number),
        _ => Err(Error::malformed(format!("{} can't add {delta}", workload.name()))),
    }
}

impl Lattice {
    fn version(&self) -> usize {
        match self {
            Lattice::Set(set) => set.learned.len(),
            Lattice::Counter(sums) => sums.changes,
        }
    }

    /// What a client reads.
    fn value(&self) -> Value {
        match self {
            Lattice::Set(set) => set.learned.iter().map(|(element, _)| element.clone()).collect(),
            Lattice::Counter(sums) => sums.total().into(),
        }
    }

    /// What happened after version `since`, for `peer`; `None` if it all came from there.
    fn news(&self, since: usize, peer: &str) -> Option<Body> {
        let upto = ("upto", self.version().into());
        match self {
            Lattice::Set(set) => {
                let news = set.learned.iter().skip(since).filter(|(_, source)| source.as_deref() != Some(peer));
                let elements: Vec<Value> = news.map(|(element, _)| element.clone()).collect();
                (!elements.is_empty()).then(|| body("gossip", [upto, ("elements", elements.into())]))
            }
            Lattice::Counter(sums) => {
                let sums = sums.by_node.iter().map(|(node, (plus, minus))| (node.clone(), vec![*plus, *minus].into()));
                Some(body("gossip", [upto, ("sums", Value::Object(sums.collect()))]))
            }
        }
    }

    fn merge(&mut self, src: &str, said: &Body) -> Result<(), Error> {
        match self {
            Lattice::Set(set) => {
                list(said, "elements")?.iter().for_each(|element| set.insert(element, Some(src)));
            }
            Lattice::Counter(sums) => {
                for (node, pair) in object(said, "sums")? {
                    let number = |at: usize| pair.get(at).and_then(Value::as_i64);
                    let (Some(plus), Some(minus)) = (number(0), number(1)) else {
                        return Err(Error::malformed(format!("{pair} are not two sums")));
                    };
                    sums.raise(node, plus, minus);
                }
            }
        }
        Ok(())
    }
}

impl Elements {
    fn insert(&mut self, element: &Value, source: Option<&str>) {
        if self.seen.insert(encode(element)) {
            self.learned.push((element.clone(), source.map(str::to_owned)));
        }
    }
}

impl Sums {
    fn add(&mut self, own: &str, delta: i64) -> Result<(), Error> {
        let (plus, minus) = self.by_node.get(own).copied().unwrap_or_default();
        let size = i64::try_from(delta.unsigned_abs()).ok();
        let grown = if delta < 0 {
            (Some(plus), size.and_then(|s| minus.checked_add(s)))
        } else {
            (size.and_then(|s| plus.checked_add(s)), Some(minus))
        };
        let (Some(plus), Some(minus)) = grown else {
            return Err(Error::malformed(format!("{delta} is more than this counter can hold")));
        };
        self.raise(own, plus, minus);
        Ok(())
    }

    /// The sums of `node` are at least these.
    fn raise(&mut self, node: &str, plus: i64, minus: i64) {
        let known = self.by_node.entry(node.to_owned()).or_default();
        let raised = (known.0.max(plus), known.1.max(minus));
        if *known != raised {
            *known = raised;
            self.changes += 1;
        }
    }

    fn total(&self) -> i64 {
        let total: i128 = self.by_node.values().map(|(plus, minus)| i128::from(*plus) - i128::from(*minus)).sum();
        i64::try_from(total).unwrap_or(if total < 0 { i64::MIN } else { i64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(workload: Workload) -> Gossip {
        Gossip::new("n1", &["n2".to_owned(), "n3".to_owned()], workload)
    }

    /// What it says at a moment: to whom, and the news.
    fn says(node: &mut Gossip, ms: u64) -> Vec<(String, Value)> {
        let mut out = Vec::new();
        node.advance(Time::from_millis(ms), &mut out);
        out.into_iter().map(|message| (message.dest, Value::Object(message.body))).collect()
    }

    fn add(node: &mut Gossip, element: i64) {
        node.request("add", &body("add", [("element", element.into())])).unwrap();
    }

    fn hears(node: &mut Gossip, src: &str, said: Value) {
        node.receive(src, said["type"].as_str().unwrap(), said.as_object().unwrap()).unwrap();
    }

    #[test]
    fn news_are_repeated_until_they_are_known_and_gather_meanwhile() {
        let mut node = node(Workload::GSet);
        add(&mut node, 7);
        let one = |peer: &str| (peer.to_owned(), json!({"type": "gossip", "upto": 1, "elements": [7]}));
        assert_eq!(says(&mut node, 0), [one("n2"), one("n3")]);
        hears(&mut node, "n2", json!({"type": "gossip_ok", "upto": 1}));
        add(&mut node, 8);
        let more = |elements| json!({"type": "gossip", "upto": 2, "elements": elements});
        assert_eq!(says(&mut node, 10), [("n2".to_owned(), more([8].as_slice()))]);
        assert_eq!(says(&mut node, 249), []);
        assert_eq!(node.deadline(), Time::from_millis(250));
        assert_eq!(says(&mut node, 250), [("n3".to_owned(), more([7, 8].as_slice()))]);
        // A late answer to the first message is no answer to the second, and one that promises too much no more than all.
        hears(&mut node, "n3", json!({"type": "gossip_ok", "upto": 1}));
        assert_eq!(says(&mut node, 300), [("n2".to_owned(), more([8].as_slice()))]);
        hears(&mut node, "n2", json!({"type": "gossip_ok", "upto": 99}));
        hears(&mut node, "n3", json!({"type": "gossip_ok", "upto": 2}));
        assert_eq!((says(&mut node, 9000), node.deadline()), (vec![], Time::NEVER));
        add(&mut node, 9);
        assert_eq!(says(&mut node, 9001).len(), 2);
    }

    #[test]
    fn a_neighbour_is_not_told_what_it_told() {
        let mut node = node(Workload::GSet);
        hears(&mut node, "n2", json!({"type": "gossip", "upto": 5, "elements": [1, 2]}));
        assert_eq!(says(&mut node, 0), [("n3".to_owned(), json!({"type": "gossip", "upto": 2, "elements": [1, 2]}))]);
        hears(&mut node, "n3", json!({"type": "gossip", "upto": 2, "elements": [2, 1]}));
        assert_eq!(node.request("read", &Body::new()).unwrap()["value"], json!([1, 2]));
    }

    #[test]
    fn a_topology_says_who_hears_of_news() {
        let mut node = node(Workload::Broadcast);
        let topology = json!({"topology": {"n1": ["n3", "n1"], "n2": ["n1"]}});
        node.request("topology", topology.as_object().unwrap()).unwrap();
        node.request("broadcast", &body("broadcast", [("message", json!({"any": "thing"}))])).unwrap();
        let to: Vec<String> = says(&mut node, 0).into_iter().map(|(to, _)| to).collect();
        assert_eq!(to, ["n3"]);
    }

    #[test]
    fn sums_of_each_node_only_grow_and_a_counter_is_never_more_than_it_can_hold() {
        let mut node = node(Workload::PnCounter);
        let add = |node: &mut Gossip, delta: i64| node.request("add", &body("add", [("delta", delta.into())]));
        add(&mut node, 5).unwrap();
        add(&mut node, -7).unwrap();
        hears(&mut node, "n2", json!({"type": "gossip", "upto": 1, "sums": {"n2": [10, 0], "n1": [5, 0]}}));
        hears(&mut node, "n2", json!({"type": "gossip", "upto": 1, "sums": {"n2": [4, 1]}}));
        // Old news, of itself or others, take nothing back: 5 - 7, and 10 - 1.
        assert_eq!(node.request("read", &Body::new()).unwrap()["value"], json!(7));
        add(&mut node, i64::MAX).unwrap_err();
        add(&mut node, i64::MIN).unwrap_err();
        assert_eq!(node.request("read", &Body::new()).unwrap()["value"], json!(7));
    }
}

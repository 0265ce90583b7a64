//! Streams between members.
//!
//! Every member dials every other one, and sends on the stream that it dialled: two streams between two members, one each
//! way. The dialer opens with a Hello that says who it is, on which disk and in which life; the acceptor checks it against
//! what the cluster has agreed on and answers with a Welcome, before any Raft message. Then come frames, each with all
//! messages that were waiting at that moment.
//!
//! Nothing here makes the node wait. A [`Link`] is a queue bounded in messages and bytes; what does not fit is dropped and
//! the node is told. A connection that fails is dialled again, soon at first, then every [`LONGEST_BACKOFF`]; a peer that
//! dials in is proof that it lives, and is dialled back at once. Names are resolved anew at each dial.
//!
//! # Invariants
//!
//! 1. No message reaches the node but from a member of this cluster, on the disk that the cluster knows, addressed to
//!    this member, sound, of the life that its Hello announced, and of one process in that life. One that is not known yet
//!    passes if it names the cluster: this member may be behind, and the unknown one may be its leader.
//! 2. [`Input::PeerLost`] follows the last message of its stream, and comes at most once per life of a peer unless that
//!    peer connected again: a stream that was replaced by a newer one of the same life ends in silence.
//! 3. A member that is told that its disk is not the one the cluster knows stops: an emptied volume has forgotten its
//!    votes, and must not vote again under the old id.
//!
//! 4. A member that was removed is told so at the door, and stops; so is one that does not know the cluster's level.
//!
//! Who is dialled is in `peers.rs`; how an empty disk becomes a member is in `join.rs`.
//!
//! Absent: encryption, and any promise that a message arrives.

use super::exposition::{Histogram, ROUND_TRIP_BOUNDS};
use super::join;
use super::mailbox::{Event, Mailbox};
use crate::clock::instant;
use crate::ids::{Incarnation, MemberId};
use crate::machine::{Level, View};
use crate::node::{Identity, Input};
use crate::proto::quorate as pb;
use crate::raft::{self, Envelope, Message};
use crate::storage::COME_BACK;
use crate::storage::directory::declare_stale;
use crate::time::Duration;
use crate::wire;
use pb::welcome::Refusal;
use peers::{Address, Peers};
use prost::Message as _;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

pub mod peers;

/// The wire version that a Hello speaks of.
const PROTOCOL: u32 = 1;
/// Messages that may wait for one peer.
const QUEUE_MESSAGES: usize = 4096;
/// Bytes that may wait for one peer; a single larger message may still go alone.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// A frame takes no further message beyond this.
const FRAME_BYTES: usize = 1024 * 1024;
/// What a message is counted as, beside its entries.
const MESSAGE_OVERHEAD: usize = 64;
const SHORTEST_BACKOFF: Duration = Duration::from_millis(10);
/// How long a dead peer that came back may wait to be dialled, if it does not dial first.
const LONGEST_BACKOFF: Duration = Duration::from_millis(500);
/// The same complaint about a peer is made at most this often.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(30);
/// How often a round trip to a peer is measured.
const ROUND_TRIP_INTERVAL: Duration = Duration::from_secs(4);
/// For a Hello, and for a Welcome.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// A frame may hold a batch and one largest request on top; twice that leaves room for members with other settings.
pub fn frame_limit(max_request_bytes: usize) -> usize {
    (FRAME_BYTES + max_request_bytes) * 2 + 16 * 1024 * 1024
}

/// The sending end of a connection, used by the node's thread.
#[derive(Debug)]
pub struct Link {
    queue: mpsc::Sender<Envelope>,
    bytes: Arc<AtomicUsize>,
}

impl Link {
    /// Queues a message, or drops it: the queue is full or the connection is gone. Never waits.
    pub fn send(&self, envelope: Envelope) -> bool {
        let size = size(&envelope);
        let waiting = self.bytes.load(Ordering::Relaxed);
        if waiting > 0 && waiting + size > QUEUE_BYTES {
            return false;
        }
        self.bytes.fetch_add(size, Ordering::Relaxed);
        let queued = self.queue.try_send(envelope).is_ok();
        if !queued {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
        }
        queued
    }
}

fn size(envelope: &Envelope) -> usize {
    let body = match &envelope.message {
        Message::Append { entries, .. } => entries.iter().map(raft::Entry::size).sum(),
        Message::Forward { data, .. } => data.len(),
        _ => 0,
    };
    MESSAGE_OVERHEAD + body
}

/// Ends the frames of a link when it is dropped: the connection is over, though the node's thread still has the link.
#[derive(Debug)]
struct Hold(#[expect(dead_code, reason = "its drop is what counts")] oneshot::Sender<()>);

/// A link and the frames that come out of it, the Hello first; `sent` counts their bytes.
fn link(hello: pb::Hello, sent: Arc<AtomicU64>) -> (Link, Frames, Hold) {
    let (queue, messages) = mpsc::channel(QUEUE_MESSAGES);
    let (hold, over) = oneshot::channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    let frames = Frames { hello: Some(hello), messages, bytes: Arc::clone(&bytes), sent, over };
    (Link { queue, bytes }, frames, Hold(hold))
}

/// What waits for a peer, as frames.
#[derive(Debug)]
struct Frames {
    hello: Option<pb::Hello>,
    messages: mpsc::Receiver<Envelope>,
    bytes: Arc<AtomicUsize>,
    sent: Arc<AtomicU64>,
    over: oneshot::Receiver<()>,
}

impl Stream for Frames {
    type Item = pb::Frame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<pb::Frame>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(pb::Frame { hello: Some(hello), messages: Vec::new() }));
        }
        if Pin::new(&mut self.over).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while bytes < FRAME_BYTES {
            match self.messages.poll_recv(cx) {
                Poll::Ready(Some(envelope)) => {
                    bytes += size(&envelope);
                    messages.push(wire::encode(envelope));
                }
                Poll::Ready(None) if messages.is_empty() => return Poll::Ready(None),
                Poll::Pending if messages.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let frame = pb::Frame { hello: None, messages };
        self.sent.fetch_add(frame.encoded_len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(frame))
    }
}

/// What is known of the connection to one peer.
#[derive(Debug, Default)]
pub struct PeerFacts {
    /// Whether messages can be sent.
    pub connected: AtomicBool,
    /// How long the last round trip took, in microseconds; 0 before the first one.
    pub rtt_us: AtomicU64,
    /// All round trips.
    pub round_trips: RoundTrips,
    /// Bytes of frames that were sent to it.
    pub sent_bytes: Arc<AtomicU64>,
    /// Bytes of frames that came from it.
    pub received_bytes: AtomicU64,
    /// Messages to it that were dropped: no connection, or its queue was full.
    pub sent_failures: AtomicU64,
    /// Of these, a leader's heartbeats.
    pub heartbeat_failures: AtomicU64,
    /// How often it was connected and is not any more.
    pub disconnects: AtomicU64,
    /// Rung when the peer shows that it lives.
    alive: Notify,
}

/// How long round trips to a peer took.
#[derive(Debug)]
pub struct RoundTrips(pub Histogram);

impl Default for RoundTrips {
    fn default() -> RoundTrips {
        RoundTrips(Histogram::new(ROUND_TRIP_BOUNDS))
    }
}

/// What both ends of all streams share.
#[derive(Debug)]
pub struct Shared {
    /// Who this is.
    pub identity: Identity,
    /// Its name, for the peers' logs.
    pub name: String,
    /// Drawn by chance when the process started. A life is counted on the disk, so a copy of the disk counts the same one.
    pub process: u64,
    /// What the cluster has agreed on.
    pub view: View,
    /// The node.
    pub mailbox: Mailbox,
    /// Where the process learns that it must not go on.
    pub fatal: mpsc::UnboundedSender<String>,
    /// Where it learns that it is no member any more: then it ends in order.
    pub removed: mpsc::UnboundedSender<String>,
    /// Where peers reach this member.
    pub peer_urls: Vec<String>,
    /// The highest level that this member knows.
    pub level: Level,
    /// The data directory, for sentences.
    pub data_dir: String,
    /// `--heartbeat-interval`.
    pub heartbeat_interval: Duration,
    /// `--election-timeout`.
    pub election_timeout: Duration,
    /// The peers.
    pub peers: Peers,
}

impl Shared {
    /// How often a silent connection is pinged: often enough that a host that died without a word is noticed.
    pub fn ping_interval(&self) -> Duration {
        self.heartbeat_interval * 5
    }

    fn hello(&self, to: MemberId) -> pb::Hello {
        pb::Hello {
            protocol: PROTOCOL,
            cluster_id: self.identity.cluster.0,
            from: self.identity.member.0,
            to: to.0,
            incarnation: self.identity.incarnation.0,
            disk_id: self.identity.disk.0,
            name: self.name.clone(),
            process: self.process,
            peer_urls: self.peer_urls.clone(),
            level: self.level.0,
        }
    }

    /// Notes a message to `peer` that was dropped; whether it was a heartbeat.
    pub fn not_sent(&self, peer: MemberId, heartbeat: bool) {
        if let Some(facts) = self.peers.get(peer) {
            facts.sent_failures.fetch_add(1, Ordering::Relaxed);
            facts.heartbeat_failures.fetch_add(u64::from(heartbeat), Ordering::Relaxed);
        }
    }

    /// Whether `disk` is the one that the cluster knows `peer` by. A disk that has not been published yet passes.
    fn knows_disk(&self, peer: MemberId, disk: u64) -> Result<(), String> {
        let member = self.view.members().into_iter().find(|member| member.id == peer);
        match member.and_then(|member| member.disk) {
            Some(known) if known.0 != disk => Err(format!(
                "member {peer} lives on disk {known}, but came with disk {disk:x}: its data directory was emptied, or \
                 replaced by another one"
            )),
            _ => Ok(()),
        }
    }

    /// Whether who knows the levels up to `level` may have to do with this cluster.
    pub fn knows_level(&self, who: impl std::fmt::Display, level: u32) -> Result<(), String> {
        let cluster = format!("cluster {}", self.identity.cluster);
        self.view.level().is_known_to(cluster, who, Level(level))
    }
}

/// Logs a trouble when it is new, and when it was last mentioned long ago.
#[derive(Debug, Default)]
struct Complaint {
    made: BTreeMap<String, Instant>,
}

impl Complaint {
    fn make(&mut self, peer: MemberId, sentence: String) {
        self.made.retain(|_, at| at.elapsed() < COMPLAINT_INTERVAL);
        if let Entry::Vacant(new) = self.made.entry(sentence) {
            tracing::warn!(%peer, "{}", new.key());
            new.insert(instant());
        }
    }
}

/// Keeps a connection to one peer, until it is aborted.
pub struct Dialer {
    shared: Arc<Shared>,
    peer: MemberId,
    /// As last looked up.
    name: String,
    complaint: Complaint,
}

impl Dialer {
    /// A dialer for a peer that `shared` has facts about.
    pub fn new(shared: Arc<Shared>, peer: MemberId) -> Dialer {
        Dialer { shared, peer, name: peer.to_string(), complaint: Complaint::default() }
    }

    /// Dials, serves the connection until it breaks, dials again.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let Some(facts) = shared.peers.get(self.peer) else { return };
        let mut backoff = SHORTEST_BACKOFF;
        for turn in 0.. {
            // It may have moved since the last time.
            if let Some(Address { name, peer_urls }) = shared.addresses().remove(&self.peer) {
                if !name.is_empty() {
                    self.name = name;
                }
                if let Some(url) = peer_urls.get(turn % peer_urls.len().max(1)) {
                    let trouble = self.connection(url, &facts).await;
                    self.complaint.make(self.peer, format!("no connection to {} at {url}: {trouble}", self.name));
                }
            }
            if facts.connected.swap(false, Ordering::Relaxed) {
                facts.disconnects.fetch_add(1, Ordering::Relaxed);
                self.shared.mailbox.post(Event::Input(Input::PeerUnreachable(self.peer)));
                backoff = SHORTEST_BACKOFF;
            }
            if timeout(backoff, facts.alive.notified()).await.is_ok() {
                backoff = SHORTEST_BACKOFF;
            } else {
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            }
        }
    }

    /// One connection, from the dial to its end; returns why it ended.
    async fn connection(&mut self, url: &str, facts: &PeerFacts) -> String {
        let endpoint = match Endpoint::from_shared(url.to_string()) {
            Ok(endpoint) => endpoint,
            Err(error) => return format!("the URL can't be used: {}", causes(&error)),
        };
        let endpoint = endpoint
            .tcp_nodelay(true)
            .connect_timeout(self.shared.election_timeout.max(HANDSHAKE_TIMEOUT))
            .http2_keep_alive_interval(self.shared.ping_interval())
            .keep_alive_timeout(self.shared.election_timeout)
            .keep_alive_while_idle(true);
        let channel = match endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => return causes(&error),
        };
        let (link, frames, _hold) = link(self.shared.hello(self.peer), Arc::clone(&facts.sent_bytes));
        let begun = instant();
        let mut client = pb::peer_client::PeerClient::new(channel);
        let handshake = async {
            let mut answers = client.connect(frames).await?.into_inner();
            let welcome = answers.message().await?;
            Ok::<_, Status>((answers, welcome))
        };
        let (mut answers, welcome) = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok((answers, Some(welcome)))) => (answers, welcome),
            Ok(Ok((_, None))) => return "it closed the connection without a word".to_string(),
            Ok(Err(status)) => return format!("it answered {}", status.message()),
            Err(_) => return "it accepts connections, but does not answer".to_string(),
        };
        if let Err(refusal) = self.check(&welcome) {
            return refusal;
        }
        facts.rtt_us.store(micros(begun.elapsed()), Ordering::Relaxed);
        facts.connected.store(true, Ordering::Relaxed);
        self.shared.mailbox.post(Event::Linked(self.peer, link));
        tracing::info!(peer = %self.peer, name = self.name, url, "connected to a peer");
        self.complaint = Complaint::default();
        tokio::select! {
            end = answers.message() => match end {
                Ok(_) => "it closed the connection".to_string(),
                Err(status) => format!("the connection broke: {}", status.message()),
            },
            never = measure(client, facts) => match never {},
        }
    }

    /// Whether messages may flow. Some refusals end the process.
    fn check(&self, welcome: &pb::Welcome) -> Result<(), String> {
        let data_dir = &self.shared.data_dir;
        match Refusal::try_from(welcome.refusal) {
            Ok(Refusal::Accepted) if welcome.member_id != self.peer.0 => {
                Err(format!("member {:x} answers there; check --initial-cluster", welcome.member_id))
            }
            Ok(Refusal::Accepted) => {
                self.shared.knows_disk(self.peer, welcome.disk_id)?;
                self.shared.knows_level(format!("member {}", self.peer), welcome.level)
            }
            Ok(Refusal::Level) => {
                let _ = self.shared.fatal.send(format!("{}: {}", self.name, welcome.reason));
                Err("it says that this member does not know the cluster's level".to_string())
            }
            Ok(Refusal::Disk) => {
                let sentence = format!(
                    "{}: {}. What this member once promised its cluster is not in {data_dir}, so it must not take part \
                     under its old id. Bring its own data directory back and start it again; if that is lost, {COME_BACK}",
                    self.name, welcome.reason
                );
                let _ = self.shared.fatal.send(sentence);
                Err("it knows this member on another disk, or in a later life".to_string())
            }
            Ok(Refusal::Incarnation) => {
                if let Err(error) = declare_stale(Path::new(data_dir), &format!("{}: {}", self.name, welcome.reason)) {
                    tracing::error!(data_dir, %error, "that it was refused can't be noted");
                }
                let sentence = format!(
                    "{}: {}. Either another process runs as this member, or {data_dir} is an old copy; run one process, \
                     on its own data directory. If that is lost, {COME_BACK}",
                    self.name, welcome.reason
                );
                let _ = self.shared.fatal.send(sentence);
                Err("it knows this member on another disk, or in a later life".to_string())
            }
            Ok(Refusal::Removed) => {
                let sentence = format!(
                    "{}: {}. Its data in {data_dir} are of no use to the cluster any more; to bring this host back, start it \
                     with an empty --data-dir and --join",
                    self.name, welcome.reason
                );
                let _ = self.shared.removed.send(sentence);
                Err("it says that this member was removed".to_string())
            }
            Ok(Refusal::Protocol | Refusal::Cluster | Refusal::NotMe | Refusal::Stranger) => {
                Err(format!("it refuses this member: {}", welcome.reason))
            }
            Err(_) => Err(format!("it refuses this member for a reason of a newer version: {}", welcome.reason)),
        }
    }
}

/// Measures round trips on the connection that the messages take, for ever.
async fn measure(mut client: pb::peer_client::PeerClient<Channel>, facts: &PeerFacts) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(ROUND_TRIP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let begun = instant();
        // A failure is the connection's, and is told by its stream.
        if client.ping(pb::PingRequest {}).await.is_ok() {
            facts.rtt_us.store(micros(begun.elapsed()), Ordering::Relaxed);
            facts.round_trips.0.record(begun.elapsed());
        }
    }
}

/// At least one: 0 means that nothing is known.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// An error with its causes, which tonic's own text leaves out.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The newest inbound stream of a peer.
#[derive(Debug)]
struct Inbound {
    incarnation: Incarnation,
    process: u64,
    stream: u64,
    /// Dropped when a newer stream comes; `None` once the stream has ended.
    current: Option<oneshot::Sender<()>>,
}

/// The accepting end.
#[derive(Clone, Debug)]
pub struct Acceptor {
    shared: Arc<Shared>,
    inbound: Arc<Mutex<BTreeMap<MemberId, Inbound>>>,
}

impl Acceptor {
    /// An acceptor for the node behind `shared`.
    pub fn new(shared: Arc<Shared>) -> Acceptor {
        Acceptor { shared, inbound: Arc::default() }
    }

    fn inbound(&self) -> std::sync::MutexGuard<'_, BTreeMap<MemberId, Inbound>> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the dialer is who it should be.
    fn check(&self, hello: &pb::Hello) -> Result<(), (Refusal, String)> {
        let own = &self.shared.identity;
        let from = MemberId(hello.from);
        if hello.protocol != PROTOCOL {
            let reason = format!("member {} speaks protocol {PROTOCOL}, not {}", own.member, hello.protocol);
            return Err((Refusal::Protocol, reason));
        }
        if hello.cluster_id != own.cluster.0 {
            return Err((
                Refusal::Cluster,
                format!(
                    "member {} belongs to cluster {}, not {:x}; check --initial-cluster and --initial-cluster-token",
                    own.member, own.cluster, hello.cluster_id
                ),
            ));
        }
        if hello.to != own.member.0 {
            let reason = format!("this is member {}, not {:x}; check --initial-cluster", own.member, hello.to);
            return Err((Refusal::NotMe, reason));
        }
        if from == own.member {
            let reason = format!("member {from} is this process: two run under one id");
            return Err((Refusal::Stranger, reason));
        }
        if self.shared.view.is_gone(from) {
            return Err((Refusal::Removed, format!("member {from} was removed from cluster {}", own.cluster)));
        }
        self.shared.knows_disk(from, hello.disk_id).map_err(|reason| (Refusal::Disk, reason))?;
        let dialer = format!("member {from}");
        self.shared.knows_level(dialer, hello.level).map_err(|reason| (Refusal::Level, reason))
    }

    /// Makes this stream the peer's newest one, unless a later life of the peer was seen, or this one in another process:
    /// of two processes on copies of one disk, only the first may speak.
    fn enter(&self, hello: &pb::Hello) -> Result<(u64, oneshot::Receiver<()>), (Refusal, String)> {
        let (from, incarnation) = (MemberId(hello.from), Incarnation(hello.incarnation));
        let (current, replaced) = oneshot::channel();
        let mut inbound = self.inbound();
        let stream = match inbound.get(&from) {
            None => 1,
            Some(seen) if incarnation < seen.incarnation => {
                let reason = format!("life {incarnation} of member {from} came after its life {}", seen.incarnation);
                return Err((Refusal::Incarnation, reason));
            }
            Some(seen) if incarnation == seen.incarnation && hello.process != seen.process => {
                let reason = format!("life {incarnation} of member {from} is lived by another process already");
                return Err((Refusal::Incarnation, reason));
            }
            Some(seen) => seen.stream + 1,
        };
        inbound.insert(from, Inbound { incarnation, process: hello.process, stream, current: Some(current) });
        Ok((stream, replaced))
    }

    /// Ends the stream of a peer that is no member any more: if it dials again, it hears why.
    pub fn close(&self, peer: MemberId) {
        if let Some(inbound) = self.inbound().get_mut(&peer) {
            inbound.current = None;
        }
    }

    /// Ends a stream; says whether the node must hear of it.
    fn leave(&self, from: MemberId, incarnation: Incarnation, stream: u64) -> bool {
        let mut inbound = self.inbound();
        match inbound.get_mut(&from) {
            Some(newest) if newest.stream == stream => {
                newest.current = None;
                true
            }
            Some(newest) => newest.incarnation > incarnation,
            None => true,
        }
    }

    /// Receives until the stream ends or is replaced; `_open` keeps the answering stream open meanwhile.
    async fn receive(
        self,
        hello: pb::Hello,
        (stream, mut replaced): (u64, oneshot::Receiver<()>),
        mut frames: Streaming<pb::Frame>,
        _open: mpsc::Sender<AnyWelcome>,
    ) {
        let (from, incarnation) = (MemberId(hello.from), Incarnation(hello.incarnation));
        tracing::info!(peer = %from, name = hello.name, %incarnation, "a peer connected");
        let peer_urls = hello.peer_urls.clone();
        self.shared.peers.met(from, Address { name: hello.name.clone(), peer_urls });
        if let Some(facts) = self.shared.peers.get(from) {
            facts.alive.notify_one();
        }
        let end = loop {
            let frame = tokio::select! {
                biased;
                _ = &mut replaced => break "a newer connection took its place, or it is no member any more".to_string(),
                frame = frames.message() => frame,
            };
            match frame {
                Ok(Some(frame)) => {
                    if let Err(trouble) = self.deliver(from, incarnation, frame) {
                        break trouble;
                    }
                }
                Ok(None) => break "closed by the peer".to_string(),
                Err(status) => break status.message().to_string(),
            }
        };
        tracing::info!(peer = %from, name = hello.name, %incarnation, "the connection from a peer ended: {end}");
        if self.leave(from, incarnation, stream) {
            self.shared.peers.parted(from);
            self.shared.mailbox.post(Event::Input(Input::PeerLost { peer: from, incarnation }));
        }
    }

    fn deliver(&self, from: MemberId, incarnation: Incarnation, frame: pb::Frame) -> Result<(), String> {
        if let Some(facts) = self.shared.peers.get(from) {
            facts.received_bytes.fetch_add(frame.encoded_len() as u64, Ordering::Relaxed);
        }
        for message in frame.messages {
            let envelope = wire::decode(message).map_err(|error| error.to_string())?;
            if (envelope.from, envelope.to, envelope.incarnation) != (from, self.shared.identity.member, incarnation) {
                return Err(format!(
                    "a message from {} (life {}) to {} came on the stream of {from} (life {incarnation})",
                    envelope.from, envelope.incarnation, envelope.to
                ));
            }
            self.shared.mailbox.post(Event::Input(Input::Peer(envelope)));
        }
        Ok(())
    }
}

type AnyWelcome = Result<pb::Welcome, Status>;

#[tonic::async_trait]
impl pb::peer_server::Peer for Acceptor {
    type ConnectStream = ReceiverStream<AnyWelcome>;

    async fn connect(&self, request: Request<Streaming<pb::Frame>>) -> Result<Response<Self::ConnectStream>, Status> {
        let address = request.remote_addr();
        let mut frames = request.into_inner();
        let first = timeout(HANDSHAKE_TIMEOUT, frames.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let hello = first
            .and_then(|frame| frame.hello)
            .ok_or_else(|| Status::invalid_argument("the first frame must carry a hello"))?;
        let own = &self.shared.identity;
        let mut welcome = pb::Welcome {
            refusal: Refusal::Accepted.into(),
            reason: String::new(),
            member_id: own.member.0,
            incarnation: own.incarnation.0,
            disk_id: own.disk.0,
            level: self.shared.level.0,
        };
        let (answers, stream) = mpsc::channel(1);
        // Entered before the Welcome: when the dialer knows, the older stream may end any moment, and in silence.
        match self.check(&hello).and_then(|()| self.enter(&hello)) {
            Ok(place) => {
                let _ = answers.try_send(Ok(welcome));
                tokio::spawn(self.clone().receive(hello, place, frames, answers));
            }
            Err((refusal, reason)) => {
                tracing::debug!(?address, peer = format!("{:x}", hello.from), "refused a peer: {reason}");
                (welcome.refusal, welcome.reason) = (refusal.into(), reason);
                let _ = answers.try_send(Ok(welcome));
            }
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn members(
        &self,
        request: Request<pb::PeerMembersRequest>,
    ) -> Result<Response<pb::PeerMembersResponse>, Status> {
        join::members(&self.shared, &request.into_inner()).await.map(Response::new)
    }

    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        join::admit(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn ping(&self, _: Request<pb::PingRequest>) -> Result<Response<pb::PingResponse>, Status> {
        Ok(Response::new(pb::PingResponse {}))
    }
}

#[cfg(test)]
mod tests;

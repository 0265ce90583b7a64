//! Two ends on loopback, with mailboxes where the nodes would be.

use super::*;
use crate::ids::{ClusterId, DiskId, Index, Position, Term};
use crate::machine::{Content, Machine, Member, Membership, Standing};
use crate::server::mailbox::{Receiver, mailbox};
use crate::storage::memory::MemoryEngine;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Far beyond what any step takes: reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

struct End {
    shared: Arc<Shared>,
    events: Receiver,
    fatal: mpsc::UnboundedReceiver<String>,
    removals: mpsc::UnboundedReceiver<String>,
}

fn identity(member: u64, incarnation: u64) -> Identity {
    let disk = DiskId(member * 100);
    Identity { cluster: ClusterId(9), member: MemberId(member), disk, incarnation: Incarnation(incarnation) }
}

/// A member of a cluster of 1, 2 and 3, all on their own disks, at level 2; 7 was removed.
fn end(identity: Identity) -> End {
    end_that_knows(identity, Level::NEWEST)
}

fn end_that_knows(identity: Identity, level: Level) -> End {
    let member = |id: u64| Member {
        id: MemberId(id),
        name: format!("n{id}"),
        peer_urls: Vec::new(),
        client_urls: Vec::new(),
        disk: Some(DiskId(id * 100)),
        ..Member::default()
    };
    let mut machine = Machine::open(Arc::new(MemoryEngine::new()), [1, 2, 3, 7].map(member).to_vec()).unwrap();
    let members = (1..=3).map(|id| (MemberId(id), Standing::Voter)).collect();
    let at = Position { index: Index(1), term: Term(1) };
    machine.apply(at, Content::Membership(&Membership { members, ..Membership::default() })).unwrap();
    let raise = pb::command::Op::RaiseLevel(pb::RaiseLevel { level: 2 });
    let raise = pb::Command { op: Some(raise) }.encode_to_vec().into();
    machine.apply(Position { index: Index(2), ..at }, Content::Command(&raise)).unwrap();
    let (mailbox, events) = mailbox();
    let (sender, fatal) = mpsc::unbounded_channel();
    let (removed, removals) = mpsc::unbounded_channel();
    let shared = Shared {
        level,
        identity,
        name: format!("n{}", identity.member.0),
        process: 1,
        view: machine.view(),
        mailbox,
        fatal: sender,
        data_dir: "/data".into(),
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        removed,
        peer_urls: Vec::new(),
        peers: Peers::default(),
    };
    (1..=3).for_each(|id| shared.peers.enter(MemberId(id)));
    End { shared: Arc::new(shared), events, fatal, removals }
}

async fn listen(shared: &Arc<Shared>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = pb::peer_server::PeerServer::new(Acceptor::new(Arc::clone(shared)));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
    address
}

fn dial(from: &Arc<Shared>, to: u64, address: SocketAddr) -> tokio::task::JoinHandle<()> {
    let address = Address { name: format!("n{to}"), peer_urls: vec![format!("http://{address}")] };
    from.peers.met(MemberId(to), address);
    tokio::spawn(Dialer::new(Arc::clone(from), MemberId(to)).run())
}

/// The next event that matters to the test.
async fn next<T>(events: &mut Receiver, wanted: impl Fn(Event) -> Option<T>) -> T {
    timeout(PATIENCE, async {
        loop {
            match events.try_next() {
                Some(event) => {
                    if let Some(found) = wanted(event) {
                        return found;
                    }
                }
                None => tokio::task::yield_now().await,
            }
        }
    })
    .await
    .expect("the event never came")
}

fn linked(event: Event) -> Option<Link> {
    if let Event::Linked(_, link) = event { Some(link) } else { None }
}

fn arrived(event: Event) -> Option<Input> {
    if let Event::Input(input @ (Input::Peer(_) | Input::PeerLost { .. })) = event { Some(input) } else { None }
}

fn message(context: u64) -> Envelope {
    let message = Message::ReadIndex { context };
    Envelope { from: MemberId(1), to: MemberId(2), term: Term(1), incarnation: Incarnation(5), message }
}

/// The context of a message that arrived, or `None` for the end of the stream.
fn context(input: &Input) -> Option<u64> {
    match input {
        Input::Peer(Envelope { message: Message::ReadIndex { context }, .. }) => Some(*context),
        Input::PeerLost { peer: MemberId(1), incarnation: Incarnation(5) } => None,
        other => panic!("{other:?} was never sent"),
    }
}

#[tokio::test]
async fn messages_arrive_in_order_and_the_loss_comes_last() {
    let (mut one, mut two) = (end(identity(1, 5)), end(identity(2, 1)));
    let address = listen(&two.shared).await;
    let dialer = dial(&one.shared, 2, address);
    let link = next(&mut one.events, linked).await;
    for n in 0..1000 {
        assert!(link.send(message(n)));
    }
    for n in 0..1000 {
        assert_eq!(context(&next(&mut two.events, arrived).await), Some(n));
    }
    assert!(one.shared.peers.get(MemberId(2)).unwrap().connected.load(Ordering::Relaxed));
    assert_eq!(link.bytes.load(Ordering::Relaxed), 0, "what was sent waits no more");
    dialer.abort();
    assert_eq!(context(&next(&mut two.events, arrived).await), None);
    let sent = one.shared.peers.get(MemberId(2)).unwrap().sent_bytes.load(Ordering::Relaxed);
    assert_eq!(sent, two.shared.peers.get(MemberId(1)).unwrap().received_bytes.load(Ordering::Relaxed));
    assert!(sent > 1000, "{sent} bytes for 1000 messages");
}

/// A stream from member 1 in life 5 to member 2, accepted, and never dialled again.
async fn stream(from: &End, address: SocketAddr) -> (Link, Hold, Streaming<pb::Welcome>) {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let (link, frames, hold) = link(from.shared.hello(MemberId(2)), Arc::default());
    let mut answers = pb::peer_client::PeerClient::new(channel).connect(frames).await.unwrap().into_inner();
    let welcome = answers.message().await.unwrap().unwrap();
    assert_eq!(welcome.refusal(), Refusal::Accepted);
    (link, hold, answers)
}

#[tokio::test]
async fn a_newer_stream_of_the_same_life_ends_the_older_one_in_silence() {
    let (one, mut two) = (end(identity(1, 5)), end(identity(2, 1)));
    let address = listen(&two.shared).await;
    let (_older_link, _older_hold, mut older) = stream(&one, address).await;
    let (link, newer_hold, _newer) = stream(&one, address).await;
    assert!(older.message().await.unwrap().is_none(), "the older stream was closed");
    assert!(link.send(message(1)));
    assert_eq!(context(&next(&mut two.events, arrived).await), Some(1), "no loss before the message");
    drop(newer_hold);
    assert_eq!(context(&next(&mut two.events, arrived).await), None, "one loss, of the newer stream");
    // A third one, to see that no second loss was on its way.
    let (link, _hold, _answers) = stream(&one, address).await;
    assert!(link.send(message(2)));
    assert_eq!(context(&next(&mut two.events, arrived).await), Some(2));
}

#[tokio::test]
async fn strangers_are_refused_before_any_message() {
    let two = end(identity(2, 1));
    let acceptor = Acceptor::new(Arc::clone(&two.shared));
    let good = end(identity(1, 5)).shared.hello(MemberId(2));
    assert_eq!(acceptor.check(&good), Ok(()));
    let refusal = |change: fn(&mut pb::Hello)| {
        let mut hello = good.clone();
        change(&mut hello);
        acceptor.check(&hello).and_then(|()| acceptor.enter(&hello).map(|_| ())).map_err(|(refusal, _)| refusal)
    };
    assert_eq!(refusal(|hello| hello.protocol = 2), Err(Refusal::Protocol));
    assert_eq!(refusal(|hello| hello.cluster_id = 8), Err(Refusal::Cluster));
    assert_eq!(refusal(|hello| hello.to = 3), Err(Refusal::NotMe));
    assert_eq!(refusal(|hello| hello.from = 4), Ok(()), "it may be newer than what is known here");
    assert_eq!(refusal(|hello| hello.from = 7), Err(Refusal::Removed));
    assert_eq!(refusal(|hello| hello.from = 2), Err(Refusal::Stranger));
    assert_eq!(refusal(|hello| hello.disk_id = 101), Err(Refusal::Disk));
    assert_eq!(refusal(|_| ()), Ok(()));
    assert_eq!(refusal(|hello| hello.process = 2), Err(Refusal::Incarnation), "a copy of the disk in another process");
    assert_eq!(refusal(|_| ()), Ok(()), "the same process may dial again");
    assert_eq!(refusal(|hello| hello.incarnation = 6), Ok(()));
    assert_eq!(refusal(|_| ()), Err(Refusal::Incarnation), "an older life");
}

#[tokio::test]
async fn a_member_on_a_disk_that_the_cluster_does_not_know_stops() {
    let emptied = Identity { disk: DiskId(77), ..identity(1, 5) };
    let (mut one, mut two) = (end(emptied), end(identity(2, 1)));
    let address = listen(&two.shared).await;
    dial(&one.shared, 2, address);
    let sentence = timeout(PATIENCE, one.fatal.recv()).await.unwrap().unwrap();
    assert!(sentence.contains("disk 4d") && sentence.contains("/data"), "{sentence}");
    assert!(two.events.try_next().is_none(), "the node heard nothing of it");
}

#[tokio::test]
async fn no_messages_go_to_a_member_on_an_unknown_disk() {
    let (one, two) = (end(identity(1, 5)), end(Identity { disk: DiskId(77), ..identity(2, 1) }));
    let dialer = Dialer::new(Arc::clone(&one.shared), MemberId(2));
    let welcome = |disk: DiskId| pb::Welcome { member_id: 2, disk_id: disk.0, level: 2, ..pb::Welcome::default() };
    assert!(dialer.check(&welcome(two.shared.identity.disk)).unwrap_err().contains("emptied"));
    assert_eq!(dialer.check(&welcome(DiskId(200))), Ok(()));
    assert!(dialer.check(&pb::Welcome { member_id: 3, ..welcome(DiskId(200)) }).unwrap_err().contains("member 3"));
}

#[tokio::test]
async fn a_message_under_a_false_name_closes_the_stream() {
    let (mut one, mut two) = (end(identity(1, 5)), end(identity(2, 1)));
    let address = listen(&two.shared).await;
    dial(&one.shared, 2, address);
    let link = next(&mut one.events, linked).await;
    assert!(link.send(Envelope { from: MemberId(3), ..message(1) }));
    assert_eq!(context(&next(&mut two.events, arrived).await), None);
}

#[tokio::test]
async fn garbage_on_the_port_disturbs_nobody() {
    let (mut one, mut two) = (end(identity(1, 5)), end(identity(2, 1)));
    let address = listen(&two.shared).await;
    for garbage in
        [&b"GET /nothing HTTP/1.1\r\n\r\n"[..], b"\x00\xff\x00\xffgarbage", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\njunk"]
    {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
    }
    dial(&one.shared, 2, address);
    let link = next(&mut one.events, linked).await;
    assert!(link.send(message(1)));
    assert_eq!(context(&next(&mut two.events, arrived).await), Some(1));
}

#[tokio::test]
async fn a_full_queue_drops_and_says_so() {
    let (link, frames, _hold) = link(pb::Hello::default(), Arc::default());
    for n in 0..QUEUE_MESSAGES as u64 {
        assert!(link.send(message(n)));
    }
    assert!(!link.send(message(0)), "the queue is full");
    drop(frames);
    assert!(!link.send(message(0)), "the connection is gone");

    let forward = |bytes: usize| Envelope {
        message: Message::Forward { id: crate::ids::RequestId::default(), data: vec![0; bytes].into(), grows: true },
        ..message(0)
    };
    let (link, _frames, _hold) = super::link(pb::Hello::default(), Arc::default());
    assert!(link.send(forward(QUEUE_BYTES + 1)), "a single large message may go");
    assert!(!link.send(message(0)), "too many bytes wait");
}

#[tokio::test]
async fn a_frame_takes_all_that_waits_up_to_its_size() {
    use tokio_stream::StreamExt as _;
    let (link, mut frames, _hold) = link(pb::Hello::default(), Arc::default());
    assert!(frames.next().await.unwrap().hello.is_some());
    for n in 0..10 {
        assert!(link.send(message(n)));
    }
    assert_eq!(frames.next().await.unwrap().messages.len(), 10);
    let large = Envelope {
        message: Message::Forward {
            id: crate::ids::RequestId::default(),
            data: vec![0; FRAME_BYTES].into(),
            grows: true,
        },
        ..message(0)
    };
    assert!(link.send(large) && link.send(message(1)));
    assert_eq!(frames.next().await.unwrap().messages.len(), 1);
    assert_eq!(frames.next().await.unwrap().messages.len(), 1);
}

#[tokio::test]
async fn a_removed_member_hears_it_at_the_door_and_ends() {
    let (mut gone, two) = (end(identity(7, 5)), end(identity(2, 1)));
    let address = listen(&two.shared).await;
    gone.shared.peers.enter(MemberId(2));
    dial(&gone.shared, 2, address);
    let sentence = timeout(PATIENCE, gone.removals.recv()).await.unwrap().unwrap();
    assert!(sentence.contains("member 7 was removed from cluster 9") && sentence.contains("--join"), "{sentence}");
    assert!(gone.fatal.try_recv().is_err());
}

#[tokio::test]
async fn a_member_that_does_not_know_the_level_hears_it_at_the_door_and_ends() {
    let (mut old, two) = (end_that_knows(identity(1, 5), Level(1)), end(identity(2, 1)));
    let address = listen(&two.shared).await;
    dial(&old.shared, 2, address);
    let sentence = timeout(PATIENCE, old.fatal.recv()).await.unwrap().unwrap();
    assert!(sentence.contains("cluster 9 has level 2, and member 1 knows the levels up to 1 only"), "{sentence}");
    // Nobody sends anything to it, either.
    let dialer = Dialer::new(Arc::clone(&two.shared), MemberId(1));
    let welcome = |level| pb::Welcome { member_id: 1, disk_id: 100, level, ..pb::Welcome::default() };
    assert!(dialer.check(&welcome(1)).unwrap_err().contains("has level 2"));
    assert_eq!(dialer.check(&welcome(2)), Ok(()));
}

/// Follows the table of `end`; what is published never changes by itself.
fn following(
    end: &End,
) -> (Acceptor, tokio::sync::watch::Sender<Arc<crate::node::Status>>, tokio::task::JoinHandle<()>) {
    let acceptor = Acceptor::new(Arc::clone(&end.shared));
    let (status, published) = tokio::sync::watch::channel(Arc::default());
    let task = tokio::spawn(peers::follow(Arc::clone(&end.shared), acceptor.clone(), published));
    (acceptor, status, task)
}

#[tokio::test]
async fn who_is_not_known_yet_is_dialled_back_where_it_says_that_it_lives() {
    let (leader, mut joiner) = (end(identity(4, 5)), end(identity(2, 1)));
    let (_acceptor, _status, _follow) = following(&joiner);
    let (home, door) = (listen(&leader.shared).await, listen(&joiner.shared).await);
    let channel = Endpoint::from_shared(format!("http://{door}")).unwrap().connect().await.unwrap();
    let mut hello = leader.shared.hello(MemberId(2));
    hello.peer_urls = vec![format!("http://{home}")];
    let (link, frames, _hold) = link(hello, Arc::default());
    let mut answers = pb::peer_client::PeerClient::new(channel).connect(frames).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().refusal(), Refusal::Accepted);
    assert!(link.send(Envelope { from: MemberId(4), ..message(1) }));
    let to = next(&mut joiner.events, |event| if let Event::Linked(to, _) = event { Some(to) } else { None }).await;
    assert_eq!(to, MemberId(4));
}

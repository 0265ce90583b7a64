//! A watch that outlives its connections.
//!
//! [`Watch::next`] is the whole interface: it opens the stream where none stands, reads the next answer, and when the
//! stream breaks says so ([`Told::Lost`]) and opens another at the member that answers, from the revision at which
//! `resume.rs` stands. Opening is a call like any other (`retry.rs`): it has the client's patience the first time, and
//! after that it goes on for as long as the caller asks, because whoever watches has nothing better to do.
//!
//! A member that lost its leader would keep a stream open and silent: each stream asks, as etcd's own client does, to be
//! cut off then. A member that is gone without a word is noticed by the connection's keepalive (`endpoints.rs`).

use super::endpoints::Endpoint;
use super::resume::{End, Resume, Step};
use super::retry::{self, Kind};
use super::{Client, Error};
use crate::proto::etcdserverpb as pb;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Response, Status, Streaming};

/// What a watch has to say.
#[derive(Clone, Debug)]
pub enum Told {
    /// The stream stands: what happens from now on will be told.
    Open,
    /// Events; without any, all is told up to the header's revision.
    News(pb::WatchResponse),
    /// The connection broke; the watch goes on, and nothing is missed.
    Lost(Error),
    /// The last answer: there is no going on.
    End(pb::WatchResponse, End),
}

/// One stream, and the answer with which it opened.
#[derive(Debug)]
struct Stream {
    questions: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
    first: Option<pb::WatchResponse>,
}

/// Events of a range of keys, in order, without gaps or repeats. Ends with the value.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    place: Resume,
    stream: Option<Stream>,
    /// Whether a stream ever stood: from then on the watch is worth any wait.
    opened: bool,
}

impl Client {
    /// A watch; nothing is sent before [`Watch::next`].
    pub fn watch(&self, request: pb::WatchCreateRequest) -> Watch {
        Watch { client: self.clone(), place: Resume::new(request), stream: None, opened: false }
    }
}

impl Watch {
    /// The next thing there is to know; waits for it. Dropping the future loses nothing. Not to be called after
    /// [`Told::End`].
    ///
    /// # Errors
    /// `Refused` if no member could be reached the first time, `Rejected` if the server won't have the watch.
    pub async fn next(&mut self) -> Result<Told, Error> {
        loop {
            if self.stream.is_none() {
                self.open().await?;
            }
            let Some(stream) = &mut self.stream else { continue };
            let answer = match stream.first.take() {
                Some(first) => Ok(first),
                None => next_answer(&mut stream.answers).await,
            };
            let step = match answer {
                Ok(answer) => self.place.take(answer),
                Err(status) => {
                    self.stream = None;
                    match retry::read_error(status) {
                        rejected @ Error::Rejected(_) => return Err(rejected),
                        passing => return Ok(Told::Lost(passing)),
                    }
                }
            };
            match step {
                Step::Known => {}
                Step::Open => {
                    self.opened = true;
                    self.client.fail_fast = false;
                    return Ok(Told::Open);
                }
                Step::News(answer) => return Ok(Told::News(answer)),
                Step::End(answer, end) => {
                    self.stream = None;
                    return Ok(Told::End(answer, end));
                }
            }
        }
    }

    /// The revision from which the watch would go on.
    pub fn position(&self) -> i64 {
        self.place.next()
    }

    /// Asks the server to say up to which revision all is told; the answer comes through [`Watch::next`]. Without an open
    /// stream there is nobody to ask.
    pub async fn ask_progress(&self) {
        if let Some(stream) = &self.stream {
            // A broken stream is noticed by whoever reads it.
            _ = stream.questions.send(question(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))).await;
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        loop {
            let request = self.place.request();
            let opened = retry::run(&self.client, Kind::Read, |endpoint: &Endpoint| {
                open(endpoint.channel(), question(RequestUnion::CreateRequest(request.clone())))
            });
            match opened.await {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Ok(());
                }
                Err(rejected @ Error::Rejected(_)) => return Err(rejected),
                Err(passing) if !self.opened => return Err(passing),
                Err(_) => {}
            }
        }
    }
}

fn question(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

/// Opens a stream and waits for its first answer: a member that takes connections and says nothing is none.
async fn open(channel: tonic::transport::Channel, first: pb::WatchRequest) -> Result<Response<Stream>, Status> {
    let (questions, sent) = mpsc::channel(4);
    // Room for four, and this is the first.
    _ = questions.try_send(first);
    let mut request = tonic::Request::new(ReceiverStream::new(sent));
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let mut stub = pb::watch_client::WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut answers = stub.watch(request).await?.into_inner();
    let first = Some(next_answer(&mut answers).await?);
    Ok(Response::new(Stream { questions, answers, first }))
}

async fn next_answer(answers: &mut Streaming<pb::WatchResponse>) -> Result<pb::WatchResponse, Status> {
    let answer = answers.message().await?;
    answer.ok_or_else(|| Status::unavailable("the server ended the stream"))
}

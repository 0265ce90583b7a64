//! The two directions of a stream: JSON objects in a body become a stream of messages, and messages become lines.
//!
//! [`Objects`] cuts a body where an object ends, wherever the network cut it. [`Answers`] does the same for gRPC's frames.
//! [`Lines`] is a body of lines; it ends with the call, and dropping it (the client left) ends the call.
//!
//! May not know: which call it is.

use super::{FRAME_HEADER_BYTES, decode, encode, failure};
use axum::body::{Body, Bytes, HttpBody};
use bytes::{Buf as _, BytesMut};
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost_reflect::MessageDescriptor;
use serde::de::IgnoredAny;
use serde_json::json;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// The JSON objects of a body.
pub struct Objects {
    body: Body,
    buffer: BytesMut,
    limit: usize,
    ended: bool,
}

impl Objects {
    /// The objects of `body`, each of at most `limit` bytes.
    pub fn new(body: Body, limit: usize) -> Objects {
        Objects { body, buffer: BytesMut::new(), limit, ended: false }
    }

    /// The whole body.
    ///
    /// # Errors
    /// It is too large.
    pub async fn all(&mut self) -> Result<Bytes, Status> {
        while !self.ended {
            self.read().await?;
        }
        Ok(self.buffer.split().freeze())
    }

    /// The next object; `None` when there is no more.
    ///
    /// # Errors
    /// It is too large, or no JSON.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<IgnoredAny>();
            match values.next() {
                Some(Ok(_)) => {
                    let end = values.byte_offset();
                    return Ok(Some(self.buffer.split_to(end).freeze()));
                }
                Some(Err(error)) if !error.is_eof() || self.ended => {
                    return Err(Status::invalid_argument(format!(
                        "the body is not one JSON object after the other: {error}"
                    )));
                }
                None if self.ended => return Ok(None),
                Some(Err(_)) | None => self.read().await?,
            }
        }
    }

    /// Reads on. A client that breaks off has ended its body.
    async fn read(&mut self) -> Result<(), Status> {
        let Some(Ok(frame)) = self.body.frame().await else {
            self.ended = true;
            return Ok(());
        };
        let data = frame.into_data().unwrap_or_default();
        if self.buffer.len() + data.len() > self.limit {
            return Err(Status::resource_exhausted(format!(
                "the body has more than {} bytes, twice the largest message: send less, or raise --max-request-bytes",
                self.limit
            )));
        }
        self.buffer.extend_from_slice(&data);
        Ok(())
    }
}

/// What is wrong with a later object of a stream, if anything.
pub type Complaint = oneshot::Receiver<Status>;

/// The body of a call whose client streams: the messages of `kind` that `objects` holds, as they come.
///
/// # Errors
/// The first object is missing or wrong: nothing has begun yet.
pub async fn requests(mut objects: Objects, kind: MessageDescriptor) -> Result<(Body, Option<Complaint>), Status> {
    let Some(first) = objects.next().await? else {
        return Err(Status::invalid_argument(format!(
            "the body is empty: this call takes one JSON object ({}) after the other",
            kind.name()
        )));
    };
    let first = encode(kind.clone(), &first)?;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let (complain, complaint) = oneshot::channel();
    tokio::spawn(async move {
        let mut next = Ok(Some(first));
        loop {
            let frame = match next {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(status) => {
                    let _ = complain.send(status);
                    return;
                }
            };
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
            next = tokio::select! {
                object = objects.next() => object.and_then(|object| object.map(|o| encode(kind.clone(), &o)).transpose()),
                () = sender.closed() => return,
            };
        }
    });
    Ok((Body::from_stream(ReceiverStream::new(receiver)), Some(complaint)))
}

/// The messages of a gRPC answer.
pub struct Answers {
    body: Body,
    buffer: BytesMut,
}

impl Answers {
    /// The messages in `body`.
    pub fn new(body: Body) -> Answers {
        Answers { body, buffer: BytesMut::new() }
    }

    /// The next message; `None` after the last one of a call that went well.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(message) = self.take() {
                return Poll::Ready(Some(Ok(message)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    let broken = Status::internal(format!("the answer broke off: {error}"));
                    return Poll::Ready(Some(Err(broken)));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        if let Some(status) = frame.trailers_ref().and_then(failure) {
                            return Poll::Ready(Some(Err(status)));
                        }
                    }
                },
            }
        }
    }

    /// A message that is there in full.
    fn take(&mut self) -> Option<Bytes> {
        let length: [u8; 4] = self.buffer.get(1..FRAME_HEADER_BYTES)?.try_into().ok()?;
        let length = u32::from_be_bytes(length) as usize;
        if self.buffer.len() < FRAME_HEADER_BYTES + length {
            return None;
        }
        self.buffer.advance(FRAME_HEADER_BYTES);
        Some(self.buffer.split_to(length).freeze())
    }
}

/// A body with a line of JSON for each answer.
pub struct Lines {
    answers: Answers,
    kind: MessageDescriptor,
    complaint: Option<Complaint>,
    ended: bool,
}

impl Lines {
    /// The lines of `answers`, which are of `kind`.
    pub fn new(answers: Answers, kind: MessageDescriptor, complaint: Option<Complaint>) -> Lines {
        Lines { answers, kind, complaint, ended: false }
    }

    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, Status>>> {
        if let Some(complaint) = &mut self.complaint
            && let Poll::Ready(outcome) = Pin::new(complaint).poll(cx)
        {
            self.complaint = None;
            if let Ok(status) = outcome {
                return Poll::Ready(Some(Err(status)));
            }
        }
        let answer = ready!(self.answers.poll_next(cx));
        Poll::Ready(answer.map(|answer| answer.and_then(|message| decode(self.kind.clone(), message))))
    }
}

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let line = match ready!(self.poll_line(cx)) {
            None => {
                self.ended = true;
                return Poll::Ready(None);
            }
            Some(Ok(json)) => [b"{\"result\":", &json[..], b"}\n"].concat(),
            Some(Err(status)) => {
                self.ended = true;
                let error = json!({ "error": { "code": status.code() as i32, "message": status.message() } });
                format!("{error}\n").into_bytes()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(line.into()))))
    }
}

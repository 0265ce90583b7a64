//! Answers that are ready together are written together.
//!
//! The node answers a batch of callers at once. Each caller's task hands its answer to its connection and wakes the task that
//! writes, and tokio runs a task that was just woken before all others: so every answer would be a system call of its own, and a
//! packet, and a wake-up of the client. [`Gathered`] puts the first write of a batch off, once, until every task that is ready now
//! has run: it says "not yet" and wakes its own task, which tokio puts to the end of the queue. What the other tasks handed
//! over meanwhile goes out with it.
//!
//! # Invariants
//!
//! 1. A write is put off at most once between two flushes: the connection makes progress whatever else is ready.
//! 2. No byte is kept here: what is put off stays in the connection's own buffer.
//!
//! Absent: a timer. When nothing else is ready the write follows at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// A connection that gathers what is written.
#[derive(Debug)]
pub struct Gathered<IO> {
    io: IO,
    /// The write that comes was put off already.
    due: bool,
}

impl<IO> Gathered<IO> {
    /// Gathers what is written to `io`.
    pub fn new(io: IO) -> Gathered<IO> {
        Gathered { io, due: false }
    }

    /// Not yet, the first time after a flush.
    fn put_off(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.due, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<IO: Connected> Connected for Gathered<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> IO::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gathered<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gathered<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.put_off(cx));
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.put_off(cx));
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.due = false;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_write_is_put_off_once_between_two_flushes() {
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        let mut gathered = Gathered::new(Vec::new());
        for round in 1..=2 {
            assert!(Pin::new(&mut gathered).poll_write(&mut cx, b"a").is_pending());
            assert_eq!(woken.0.load(Ordering::Relaxed), round, "who is put off is woken again");
            for _ in 0..2 {
                assert!(matches!(Pin::new(&mut gathered).poll_write(&mut cx, b"ab"), Poll::Ready(Ok(2))));
            }
            assert!(matches!(Pin::new(&mut gathered).poll_flush(&mut cx), Poll::Ready(Ok(()))));
        }
        assert_eq!(gathered.io, b"abababab");
    }
}

//! A stream whose writes fail when the other side reads too slowly.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream that waits for the other side only as long as [`Patience`] says.
pub(crate) struct Impatient<S> {
    stream: S,
    patience: Patience,
    /// Since when a write has been waiting, and until when it may.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// Time to wait for a client: it goes by while the client takes nothing, and is earned back by what it takes. So an answer
/// of n bytes takes `most` and n / `rate` at most, however little is taken at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Patience {
    most: Duration,
    left: Duration,
    /// Bytes that earn a second.
    rate: usize,
}

impl Patience {
    fn new(most: Duration, rate: usize) -> Patience {
        Patience { most, left: most, rate: rate.max(1) }
    }

    /// The client took so many bytes, and was waited for so long.
    fn took(&mut self, bytes: usize, waited: Duration) {
        let earned = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.left = self.left.saturating_add(earned).saturating_sub(waited).min(self.most);
    }
}

impl<S> Impatient<S> {
    pub(crate) fn new(stream: S, patience: Duration, rate: usize) -> Impatient<S> {
        Impatient { stream, patience: Patience::new(patience, rate), waiting: None }
    }

    /// What a write came to, by which so many bytes were taken; an error when the stream was waited for too long.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        bytes: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(written) = written {
            let waited = self.waiting.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
            self.patience.took(written.as_ref().map_or(0, bytes), waited);
            return Poll::Ready(written);
        }
        let left = self.patience.left;
        let (_, over) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        ready!(over.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written, |taken| *taken)
    }

    /// Without this an answer would be copied as a whole before any of it is sent.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.judge(cx, written, |taken| *taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, shut, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn patience_goes_by_while_little_is_taken_and_is_earned_back_by_much() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(30 * second, 100);
        // One byte a second, for ever: it ends soon after the first half minute.
        let waits = (0..).take_while(|_| {
            patience.took(1, second);
            patience.left > Duration::ZERO
        });
        assert_eq!(waits.count(), 30);
        patience.took(1_000, Duration::ZERO);
        assert_eq!(patience.left, 10 * second);
        patience.took(usize::MAX, Duration::ZERO);
        assert_eq!(patience.left, 30 * second, "nobody saves up more");
        for _ in 0..1_000 {
            patience.took(100, second);
        }
        assert_eq!(patience.left, 30 * second, "the least rate is good for ever");
    }

    const ANSWER: usize = 1 << 20;

    fn block_on(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn who_reads_a_byte_now_and_then_is_let_go() {
        block_on(async {
            let (near, mut far) = duplex(64);
            let mut slow = Impatient::new(near, Duration::from_millis(100), ANSWER);
            let trickle = async {
                loop {
                    far.read_u8().await.unwrap();
                    sleep(Duration::from_millis(5)).await;
                }
            };
            let ended = tokio::select! {
                ended = slow.write_all(&[0; ANSWER]) => ended,
                () = trickle => Ok(()),
            };
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        });
    }

    #[test]
    fn who_reads_on_gets_all() {
        block_on(async {
            let (near, mut far) = duplex(64);
            let mut eager = Impatient::new(near, Duration::from_secs(600), 1);
            let read = async {
                let mut all = vec![0; ANSWER];
                far.read_exact(&mut all).await
            };
            let (written, read) = tokio::join!(eager.write_all(&[0; ANSWER]), read);
            assert_eq!((written.unwrap(), read.unwrap()), ((), ANSWER));
        });
    }
}

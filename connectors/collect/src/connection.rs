//! Connections: how many, how slow, and how they end.
//!
//! HTTP/1.1 by hyper, within limits that hold before any request is understood: the size and number of headers, the time
//! for a head, the time that an answer may stay unread.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tower::ServiceExt;
use tracing::{info, warn};

use crate::config::Limits;
use crate::ingest::Peer;
use crate::metrics::Metrics;

/// How long nobody is accepted after the system refused a connection (it has no file handles left, as a rule).
const AFTER_REFUSAL: Duration = Duration::from_millis(50);
/// How long a connection that is closed at once may take over its last words.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Serves connections until `stop` says so and those that are open have ended, or their time is over.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut open = JoinSet::new();
    let mut refused = false;
    while !*stop.borrow() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => continue,
            // Finished connections are taken off the list as they end.
            Some(_) = open.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                if refused {
                    info!("connections are accepted again");
                    refused = false;
                }
                match Arc::clone(&room).try_acquire_owned() {
                    Ok(permit) => {
                        let connection = Connection { peer, router: router.clone(), limits, stop: stop.clone() };
                        open.spawn(connection.serve(stream, permit, Arc::clone(&metrics)));
                    }
                    Err(_) => {
                        metrics.refused_connections.inc();
                        open.spawn(turn_away(stream));
                    }
                }
            }
            Err(error) => {
                if !refused {
                    warn!("no connection can be accepted: {error}");
                    refused = true;
                }
                sleep(AFTER_REFUSAL).await;
            }
        }
    }
    drop(listener);
    if timeout(limits.drain, async { while open.join_next().await.is_some() {} }).await.is_err() {
        warn!("{} connections did not end in time and are cut off", open.len());
        open.shutdown().await;
    }
}

async fn turn_away(stream: TcpStream) {
    let why = "too many connections are open; come again later";
    say_and_close(stream, "503 Service Unavailable\r\nretry-after: 1", why).await;
}

/// Answers where no request was read.
async fn say_and_close(mut stream: impl AsyncWrite + Unpin, status: &str, why: &str) {
    let body = format!("{{\"error\":\"{why}\"}}");
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n");
    let said = async {
        stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await?;
        stream.shutdown().await
    };
    // A client that has gone away misses nothing.
    let _ = timeout(LAST_WORDS, said).await;
}

struct Connection {
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    stop: watch::Receiver<bool>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send>>;

impl Connection {
    async fn serve(self, stream: TcpStream, permit: OwnedSemaphorePermit, metrics: Arc<Metrics>) {
        metrics.connections.inc();
        self.converse(stream).await;
        metrics.connections.dec();
        drop(permit);
    }

    async fn converse(self, stream: TcpStream) {
        let Connection { peer, router, limits, mut stop } = self;
        // Answers are small and awaited; a connection that cannot be told so works all the same.
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request: Request<Incoming>| -> Answering {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            Box::pin(router.clone().oneshot(request))
        });
        let stream = TokioIo::new(Impatient::new(stream, limits.write_timeout));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_headers(limits.headers)
            .max_buf_size(limits.header_bytes)
            .serve_connection(stream, service);
        let ended = {
            let mut conversing = pin!(poll_fn(|cx| connection.poll_without_shutdown(cx)));
            tokio::select! {
                ended = &mut conversing => Some(ended),
                _ = stop.wait_for(|stop| *stop) => None,
            }
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                Pin::new(&mut connection).graceful_shutdown();
                poll_fn(|cx| connection.poll_without_shutdown(cx)).await
            }
        };
        let parts = connection.into_parts();
        let mut rest = parts.io.into_inner();
        match ended {
            // A connection on which nothing was begun is closed without a word.
            Err(error) if error.is_timeout() && !parts.read_buf.is_empty() => {
                let why = "the request's head came too slowly; send it again";
                say_and_close(rest, "408 Request Timeout", why).await;
            }
            _ => {
                let _ = timeout(LAST_WORDS, rest.shutdown()).await;
            }
        }
    }
}

/// A stream whose writes fail when the other side leaves them unread for too long.
struct Impatient {
    stream: TcpStream,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn new(stream: TcpStream, patience: Duration) -> Impatient {
        Impatient { stream, patience, waiting: None }
    }

    /// What a write came to; an error when the stream has not been ready for too long.
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, shut)
    }
}

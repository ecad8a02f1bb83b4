//! Connections: how many, how slow, and how they end.
//!
//! HTTP/1.1 by hyper, within limits that hold before any request is understood: the size and number of headers, the time
//! for a head, how slowly an answer may be read, how many requests a client may have under way.

use std::convert::Infallible;
use std::future::{Future, poll_fn, ready};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Request, Response, StatusCode};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tracing::{info, warn};

use crate::connections::{Busy, Connections, Presence};
use crate::impatient::Impatient;
use crate::shares::sharer;
use crate::tls::Tls;

/// The other end of a connection, in the extensions of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What a connection can cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Bytes of a request's head (32 KiB; at least 8 KiB).
    pub header_bytes: usize,
    /// Headers of a request (64).
    pub headers: usize,
    /// How long a request's head may take, and a connection may idle before it (10 s).
    pub header_timeout: Duration,
    /// How long a client may leave an answer unread (30 s).
    pub write_timeout: Duration,
    /// Bytes a second by which a client that reads an answer slowly earns that time back (64 KiB): an answer takes at most
    /// `write_timeout` and its length by this rate.
    pub least_rate: usize,
    /// Connections at one time (1,024). A further one takes the place of an idle one, of the client that has most. A client
    /// (an IPv4 address, an IPv6 /64) has requests under way on at most as many as it leaves free for others, so on half
    /// of them alone; its further requests are answered with 503.
    pub connections: usize,
    /// How long requests that are under way get to finish after a stop (10 s).
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits {
            header_bytes: 32 << 10,
            headers: 64,
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            least_rate: 64 << 10,
            connections: 1_024,
            drain: Duration::from_secs(10),
        }
    }
}

/// Who counts connections.
pub trait Observer: Send + Sync + 'static {
    /// One was accepted.
    fn opened(&self);
    /// One that was accepted has ended.
    fn closed(&self);
    /// One was turned away, since all others are busy, or its client is on as many as it may be.
    fn refused(&self);
}

/// Nobody counts.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn opened(&self) {}
    fn closed(&self) {}
    fn refused(&self) {}
}

/// How long nobody is accepted after the system refused a connection (it has no descriptors left, as a rule).
const AFTER_REFUSAL: Duration = Duration::from_millis(50);
/// How long a connection that was told to make room may take for it.
const MAKE_ROOM: Duration = Duration::from_millis(100);
/// How long a connection that is closed at once may take over its last words.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// As many connections at one time are told why they are turned away; further ones are closed without a word.
const TURNED_AWAY: usize = 16;

/// Serves connections until `stop` says so and those that are open have ended, or their time is over.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    tls: Option<Tls>,
    observer: Arc<dyn Observer>,
    mut stop: watch::Receiver<bool>,
) {
    let (room, turning_away) = (Arc::new(Semaphore::new(limits.connections)), Arc::new(Semaphore::new(TURNED_AWAY)));
    let connections = Connections::new(limits.connections);
    let mut open = JoinSet::new();
    let mut refused = false;
    while !*stop.borrow() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = stop.changed() => if changed.is_ok() { continue } else { break },
            // Finished connections are taken off the list as they end.
            Some(_) = open.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                if refused {
                    info!("connections are accepted again");
                    refused = false;
                }
                if let Some(permit) = place(&room, &connections).await {
                    let presence = Presence::new(&connections, sharer(peer.ip()));
                    let (router, stop, observer) = (router.clone(), stop.clone(), Arc::clone(&observer));
                    let connection = Connection { peer, router, limits, stop, presence, observer };
                    open.spawn(connection.serve(stream, tls.clone(), permit));
                } else {
                    observer.refused();
                    // Whoever waits for TLS could not read it.
                    if tls.is_none()
                        && let Ok(permit) = Arc::clone(&turning_away).try_acquire_owned()
                    {
                        open.spawn(turn_away(stream, permit));
                    }
                }
            }
            Err(error) => {
                if !refused {
                    warn!("no connection can be accepted: {error}; idle ones are closed until one can");
                    refused = true;
                }
                connections.close_longest();
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

/// A place for one connection more: a free one, or that of an idle one.
async fn place(room: &Arc<Semaphore>, connections: &Connections) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
        return Some(permit);
    }
    if !connections.close_longest() {
        return None;
    }
    timeout(MAKE_ROOM, Arc::clone(room).acquire_owned()).await.ok()?.ok()
}

async fn turn_away(stream: TcpStream, _permit: OwnedSemaphorePermit) {
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
    limits: ConnectionLimits,
    stop: watch::Receiver<bool>,
    presence: Arc<Presence>,
    observer: Arc<dyn Observer>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<Tls>, permit: OwnedSemaphorePermit) {
        let observer = Arc::clone(&self.observer);
        observer.opened();
        // Answers are small and awaited; a connection that cannot be told so works all the same.
        let _ = stream.set_nodelay(true);
        match tls {
            None => self.converse(stream).await,
            Some(tls) => {
                let close = Arc::clone(&self.presence.close);
                let greeted = tokio::select! {
                    greeted = timeout(self.limits.header_timeout, tls.0.accept(stream)) => greeted.ok(),
                    () = close.notified() => None,
                };
                // Whoever does not speak TLS, or too slowly, gets no answer that it could read.
                if let Some(Ok(encrypted)) = greeted {
                    self.converse(encrypted).await;
                }
            }
        }
        observer.closed();
        drop(permit);
    }

    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let Connection { peer, router, limits, mut stop, presence, observer } = self;
        let close = Arc::clone(&presence.close);
        let service = service_fn(move |request: Request<Incoming>| -> Answering {
            let Some(busy) = presence.busy() else {
                observer.refused();
                return Box::pin(ready(Ok(too_busy())));
            };
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            let answered = router.clone().oneshot(request);
            Box::pin(async move {
                answered.await.map(|answer| answer.map(|body| Body::new(Answer { body, busy: Arc::new(busy) })))
            })
        });
        let stream = TokioIo::new(Impatient::new(stream, limits.write_timeout, limits.least_rate));
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
                () = close.notified() => return,
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
        // Nobody listens to a request to make room any more.
        drop(parts.service);
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

/// What a client is told that has as many requests under way as it may.
fn too_busy() -> Response<Body> {
    let why = "as many requests of this address are under way as one may have; come again later";
    let mut response = Response::new(Body::from(format!("{{\"error\":\"{why}\"}}")));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    for (name, value) in [(CONTENT_TYPE, "application/json"), (RETRY_AFTER, "1"), (CONNECTION, "close")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The body of an answer: until its last byte is sent, its connection is busy.
struct Answer {
    body: Body,
    busy: Arc<Busy>,
}

/// A piece of an answer, which keeps its connection busy until it is sent.
struct Piece {
    bytes: Bytes,
    _busy: Arc<Busy>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Answer {
    type Data = <Body as HttpBody>::Data;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let kept = |bytes| Bytes::from_owner(Piece { bytes, _busy: Arc::clone(&self.busy) });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(kept))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! From a request to its answer: who sends, how much, what of it is taken, and whether it is stored.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap};
use axum::http::{Request, Response, StatusCode};
use tidemill_connectors::events::{Bounds, DEFAULT_TENANT};
use tidemill_http::{ApiKeys, Peer, Sender, Tenants, key_of, sharer};
use tokio::sync::{Semaphore, oneshot};
use tracing::field::Empty;
use tracing::{Instrument, debug_span};

use crate::address::TrustedProxies;
use crate::admission::{self, Admitted, Verdict, server_members};
use crate::answers::{self, Refusal};
use crate::batch::{self, BatchError};
use crate::body::{self, BodyError, BodyLimits, Packing, ReadBody};
use crate::budget::{Lease, MemoryBudget};
use crate::committer::{Outcome, Queue, QueueError, Submission};
use crate::config::Limits;
use crate::environment::Environment;
use crate::geo::GeoDatabase;
use crate::metrics::Metrics;
use crate::rate::RateLimits;
use crate::salts::Salts;

/// A batch of more bytes is judged on a thread of its own, so that it holds up no connection.
const LARGE_BODY: usize = 128 << 10;
/// So is one that is packed in more bytes than this: what it unpacks to may be a thousand times as large.
const LARGE_PACKED: usize = 8 << 10;
/// The longest body, unpacked, that is read of somebody who is not known yet: the most that `navigator.sendBeacon` sends.
const BEACON_BYTES: usize = 64 << 10;
/// What clients are told to wait, in seconds, when there is no room or the log fails.
const COME_AGAIN: u64 = 1;
/// What a line costs in memory beside its text.
const LINE_OVERHEAD: usize = size_of::<admission::Line>() + size_of::<Verdict>() + 40;

/// Everything that requests share.
pub(crate) struct Intake {
    pub(crate) keys: ApiKeys,
    pub(crate) rates: Option<RateLimits>,
    pub(crate) bounds: Bounds,
    pub(crate) limits: Limits,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) queue: Queue,
    pub(crate) salts: Arc<Salts>,
    pub(crate) geo: Option<GeoDatabase>,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) metrics: Arc<Metrics>,
    /// The collector ends: what is under way is finished, nothing new is promised.
    pub(crate) draining: AtomicBool,
    /// As many large batches are judged at one time.
    pub(crate) large: Arc<Semaphore>,
}

/// Who sends, and for which tenant.
struct Known {
    sender: u64,
    tenant: Arc<str>,
}

/// What a request's head says.
struct Head {
    /// None yet where no header holds a key: a beacon has no headers of its own, so its key is in the body.
    known: Option<Known>,
    packing: Packing,
    /// Bytes of the body as it comes, if the head tells.
    length: Option<usize>,
}

impl Intake {
    /// Whether events can be stored now.
    pub(crate) fn is_ready(&self) -> bool {
        self.queue.is_ready() && !self.draining.load(Ordering::Acquire)
    }

    /// What `/metrics` says.
    pub(crate) fn openmetrics(&self) -> String {
        self.metrics.in_flight_bytes.set(i64::try_from(self.budget.held()).unwrap_or(i64::MAX));
        self.metrics.ready.set(i64::from(self.is_ready()));
        self.metrics.text()
    }

    /// Answers `POST /v1/events`.
    pub(crate) async fn post(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        let began = self.environment.uptime();
        let span = debug_span!(
            target: "tidemill::requests",
            "POST /v1/events",
            otel.kind = "server",
            http.request.method = "POST",
            http.route = "/v1/events",
            http.response.status_code = Empty,
        );
        let response = match self.take(request).instrument(span.clone()).await {
            Ok(verdicts) => {
                self.metrics.rejected(&verdicts);
                answers::results(&verdicts)
            }
            Err(refusal) => refusal.response(),
        };
        span.record("http.response.status_code", response.status().as_u16());
        self.metrics.answered(response.status().as_u16());
        self.metrics.request_seconds.observe(self.environment.uptime().saturating_sub(began).as_secs_f64());
        response
    }

    async fn take(self: &Arc<Self>, request: Request<Body>) -> Result<Vec<Verdict>, Refusal> {
        let (parts, mut body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>().expect("every connection says who it is with").0;
        let forwarded = parts.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let address = self.trusted_proxies.client(peer.ip(), forwarded);
        let read = match self.head(&parts.headers, parts.uri.query()) {
            Ok(head) => self.read(&mut body, &head, address).await.map(|read| (head, read)),
            Err(refusal) => Err(refusal),
        };
        let (head, read) = match read {
            Ok(read) => read,
            Err(refusal) => {
                // A client that waits to be asked for its body is not asked.
                if refusal.status != StatusCode::REQUEST_TIMEOUT && !parts.headers.contains_key(EXPECT) {
                    body::discard(&mut body, self.limits.body_bytes).await;
                }
                return Err(refusal);
            }
        };
        let Head { known, packing, .. } = head;
        let (known, packing, read) = match known {
            Some(known) => (known, packing, read),
            None => {
                let (sender, read) = self.beacon(packing, read)?;
                (sender, Packing::Plain, read)
            }
        };
        let Known { sender, tenant } = known;
        let now_ms = self.environment.now_ms();
        let place = self.geo.as_ref().and_then(|geo| geo.place(address));
        let members = server_members(now_ms, &self.salts.hash(address, now_ms), place.as_ref(), &tenant);

        let small = packing == Packing::Plain || read.bytes.len() <= LARGE_PACKED;
        let (packing, read) = if small { (Packing::Plain, self.unpack(packing, read)?) } else { (packing, read) };
        let (admitted, lease) = if small && read.bytes.len() <= LARGE_BODY {
            self.judge(sender, read, &members)?
        } else {
            let permit = Arc::clone(&self.large).acquire_owned().await.expect("the semaphore is never closed");
            let intake = Arc::clone(self);
            let judge = move || {
                let judged = intake.unpack(packing, read).and_then(|read| intake.judge(sender, read, &members));
                drop(permit);
                judged
            };
            tokio::task::spawn_blocking(judge).await.expect("judging a batch does not panic")?
        };
        self.store(admitted, lease).await
    }

    /// What can be refused before the body is read.
    fn head(&self, headers: &HeaderMap, query: Option<&str>) -> Result<Head, Refusal> {
        let is_key = |pair: &str| pair.starts_with("key=") || pair.starts_with("api_key=");
        if query.is_some_and(|query| query.split('&').any(is_key)) {
            let message = "a key in an address is written into logs on its way; send it as `X-API-Key`, or as `api_key` beside `events`";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
        let key = key_of(headers);
        let known = self.known(key);
        if key.is_some() && known.is_none() {
            return Err(no_key());
        }
        if !self.is_ready() {
            let message = "the log takes no events now; nothing of this batch is stored, send it again";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(COME_AGAIN));
        }
        if !headers.get(CONTENT_TYPE).is_none_or(|value| is_json(value.as_bytes())) {
            let message = "the content type is not known here; send application/json, or text/plain from a beacon";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let packing =
            headers.get(CONTENT_ENCODING).map_or(Some(Packing::Plain), |name| Packing::named(name.as_bytes()));
        let Some(packing) = packing else {
            let message = "the content encoding is not known here; send gzip, zstd or none";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        };
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if known.is_none() && length.is_some_and(|length| length > BEACON_BYTES) {
            return Err(no_key());
        }
        if length.is_some_and(|length| length > self.limits.body_bytes) {
            return Err(self.too_large());
        }
        Ok(Head { known, packing, length })
    }

    /// Who gives this key. A sender has one tenant: a key for all of them, which a file may have come to hold since the
    /// start, is none here.
    fn known(&self, key: Option<&[u8]>) -> Option<Known> {
        let Sender { id, tenants } = self.keys.sender(key)?;
        match tenants {
            Tenants::One(tenant) => Some(Known { sender: id, tenant }),
            Tenants::All => self.keys.is_open().then(|| Known { sender: id, tenant: DEFAULT_TENANT.into() }),
        }
    }

    /// Who sends a body that holds its key itself; gives it back unpacked.
    fn beacon(&self, packing: Packing, read: ReadBody) -> Result<(Known, ReadBody), Refusal> {
        let unpacked = body::unpack(packing, read, BEACON_BYTES.min(self.limits.body_bytes));
        let mut whole = unpacked.map_err(|error| self.no_beacon(error))?;
        let key = batch::key_of(&whole.bytes);
        let known = key.and_then(|key| self.known(Some(key.as_bytes()))).ok_or_else(no_key)?;
        if whole.lease.belong_to(known.sender) { Ok((known, whole)) } else { Err(no_memory()) }
    }

    /// Reads a body as it comes, paid for by who sends it.
    async fn read(&self, body: &mut Body, head: &Head, address: IpAddr) -> Result<ReadBody, Refusal> {
        let Limits { body_bytes, body_pause, body_timeout, .. } = self.limits;
        let known = head.known.as_ref();
        let most = if known.is_some() { body_bytes } else { BEACON_BYTES.min(body_bytes) };
        // No room is made beyond the length that the head tells.
        let bytes = head.length.map_or(most, |length| length.min(most));
        let limits = BodyLimits { bytes, idle: body_pause, whole: body_timeout };
        let lease = Lease::empty(&self.budget, sharer(address), known.map(|known| known.sender));
        let read = body::read(body, limits, lease).await;
        read.map_err(|error| if known.is_some() { self.no_body(error) } else { self.no_beacon(error) })
    }

    fn unpack(&self, packing: Packing, read: ReadBody) -> Result<ReadBody, Refusal> {
        body::unpack(packing, read, self.limits.body_bytes).map_err(|error| self.no_body(error))
    }

    /// Why there is no body of a sender who is not known yet, and might have been by a smaller one.
    fn no_beacon(&self, error: BodyError) -> Refusal {
        if error == BodyError::TooLarge { no_key() } else { self.no_body(error) }
    }

    fn no_body(&self, error: BodyError) -> Refusal {
        match error {
            BodyError::TooLarge => self.too_large(),
            BodyError::TooSlow => Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly; send it again"),
            BodyError::NoMemory => no_memory(),
            BodyError::Damaged => {
                let message = "the body is not packed as its Content-Encoding says; pack it again";
                Refusal::new(StatusCode::BAD_REQUEST, message)
            }
            BodyError::Gone => Refusal::new(StatusCode::BAD_REQUEST, "the body ended early; send it again"),
        }
    }

    /// Judges a batch; gives back its lines with the lease that pays for them.
    fn judge(&self, sender: u64, read: ReadBody, members: &str) -> Result<(Admitted, Lease), Refusal> {
        let ReadBody { bytes, mut lease } = read;
        let events = batch::events_of(&bytes, self.limits.events).map_err(|error| match error {
            BatchError::Malformed(message) => Refusal::new(StatusCode::BAD_REQUEST, message),
            BatchError::TooManyEvents => {
                let message = format!("a batch has at most {} events; send it in parts", self.limits.events);
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
            }
        })?;
        if let Some(rates) = &self.rates {
            rates.take(sender, events.len(), self.environment.uptime()).map_err(|seconds| {
                let message = "more events a second than this key may send; send the batch again later";
                Refusal::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(seconds)
            })?;
        }
        let overhead = events.len() * LINE_OVERHEAD;
        if !lease.grow(admission::bytes_needed(&events, members) + overhead) {
            return Err(no_memory());
        }
        let admitted = admission::admit(&events, members, self.bounds);
        drop(bytes);
        lease.shrink_to(admitted.text.capacity() + overhead);
        Ok((admitted, lease))
    }

    /// Has the lines stored, and gives the verdicts when they are.
    async fn store(&self, admitted: Admitted, lease: Lease) -> Result<Vec<Verdict>, Refusal> {
        let Admitted { text, lines, verdicts } = admitted;
        if lines.is_empty() {
            return Ok(verdicts);
        }
        let (done, stored) = oneshot::channel();
        let put_off = |message| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(COME_AGAIN);
        self.queue.submit(Submission { text, lines, lease, done }).map_err(|error| match error {
            QueueError::Full => put_off("the log is behind; nothing of this batch is stored, send it again"),
            QueueError::Closed => put_off("the collector ends; nothing of this batch is stored, send it again"),
        })?;
        match stored.await {
            Ok(Outcome::Stored) => Ok(verdicts),
            Ok(Outcome::Failed) | Err(_) => {
                Err(put_off("the log failed; this batch is not acknowledged, send it again with the same event ids"))
            }
        }
    }

    fn too_large(&self) -> Refusal {
        let message = format!("a body has at most {} bytes, unpacked; send it in parts", self.limits.body_bytes);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
}

fn no_key() -> Refusal {
    let message = "the API key is missing or wrong; send it as `X-API-Key` or `Authorization: Bearer`, or, in a body of at \
                   most 64 KiB, as `api_key` beside `events`";
    Refusal::new(StatusCode::UNAUTHORIZED, message)
}

fn no_memory() -> Refusal {
    let message = "too much is under way; nothing of this batch is stored, send it again";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(COME_AGAIN)
}

/// Whether a content type is one under which JSON is sent.
fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/json") || essence.eq_ignore_ascii_case(b"text/plain")
}

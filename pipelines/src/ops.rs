//! What a running process serves to operators: `/metrics`, `/healthz`, `/readyz`, `/api/status` and the page at `/`.
//!
//! One thread with a runtime of its own answers, so that workers lose nothing but the time of a snapshot. Everything is
//! read-only; names on the page are text, never markup. On a loopback address only hosts that are addresses, or
//! `localhost`, are answered: a page of another site that a browser resolves to this machine reads nothing.

mod metrics;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tidemill_dataflow::status::{Moment, Snapshot, Status};
use tidemill_http::{ConnectionLimits, Descriptors, HostGuard, Unobserved};
use tokio::sync::watch;

const PAGE: &str = include_str!("ops/page/index.html");
const SCRIPT: &str = include_str!("ops/page/ops.js");
const STYLE: &str = include_str!("ops/page/ops.css");

/// Connections at one time.
const MOST_CONNECTIONS: usize = 64;

/// Nothing from elsewhere, nothing inline, nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The server of one process; it ends when this is dropped.
#[derive(Debug)]
pub struct Ops {
    address: SocketAddr,
    stop: Option<watch::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Ops {
    /// Serves what `status` says at `wanted` (port 0: any free one).
    ///
    /// # Errors
    /// If nothing can listen there, or no thread can be started.
    pub fn start(wanted: SocketAddr, status: Arc<Status>) -> io::Result<Ops> {
        let listener = TcpListener::bind(wanted)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let app = router(status, address.ip());
        let serve = async move {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return tracing::warn!("the operators' page is not served: {error}"),
            };
            tidemill_http::serve(listener, app, limits(), None, Arc::new(Unobserved), stopped).await;
        };
        let thread = thread::Builder::new().name("ops".into()).spawn(move || runtime.block_on(serve))?;
        Ok(Ops { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Ops {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It only displays: there is nothing to learn from how it ended.
            let _ = thread.join();
        }
    }
}

/// A few operators and scrapers, who never take the descriptors of a run's files.
fn limits() -> ConnectionLimits {
    ConnectionLimits {
        connections: Descriptors::raised().connections(MOST_CONNECTIONS),
        drain: Duration::from_secs(1),
        ..ConnectionLimits::default()
    }
}

fn router(status: Arc<Status>, ip: IpAddr) -> Router {
    let asset = |kind: &'static str, text: &'static str| get(move || async move { typed(kind, text) });
    let routes = Router::new()
        .route("/", asset("text/html; charset=utf-8", PAGE))
        .route("/ops.js", asset("text/javascript; charset=utf-8", SCRIPT))
        .route("/ops.css", asset("text/css; charset=utf-8", STYLE))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { typed("text/plain; charset=utf-8", "alive\n") }))
        .route("/readyz", get(readyz))
        .route("/api/status", get(api_status))
        .with_state(status);
    HostGuard::new(ip, &[]).before(routes).layer(map_response(with_headers))
}

/// What `/metrics` says, without a server.
pub(crate) fn openmetrics(status: &Status) -> String {
    metrics::render(status.snapshot(), status.latencies()).unwrap_or_default()
}

fn typed(kind: &'static str, body: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, kind)], body.into()).into_response()
}

async fn metrics(State(status): State<Arc<Status>>) -> Response {
    match metrics::render(status.snapshot(), status.latencies()) {
        Ok(text) => typed(metrics::CONTENT_TYPE, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(status): State<Arc<Status>>) -> Response {
    match status.snapshot().ready(Moment::now()) {
        Ok(()) => typed("text/plain; charset=utf-8", "ready\n"),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn api_status(State(status): State<Arc<Status>>) -> Response {
    typed("application/json", json(&status.snapshot()))
}

/// The snapshot as `/api/status` prints it.
fn json(snapshot: &Snapshot) -> Vec<u8> {
    serde_json::to_vec(snapshot).expect("a snapshot is plain data with texts as keys")
}

async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;

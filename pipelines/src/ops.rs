//! What a running process serves to operators: `/metrics`, `/healthz`, `/readyz`, `/api/status` and the page at `/`.
//!
//! One thread with a runtime of its own answers, so that workers lose nothing but the time of a snapshot. Everything is
//! read-only; names on the page are text, never markup; no address in it shows a password. On a loopback address only hosts
//! that are addresses, or `localhost`, are answered: a page of another site that a browser resolves to this machine reads
//! nothing. Where keys are asked for, everybody gets the page without its data, and whether the process lives and is ready;
//! the rest is of all tenants, so it takes a key for all of them.

mod metrics;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tidemill_dataflow::status::{Moment, Snapshot, Status};
use tidemill_http::{
    ApiKeys, ConnectionLimits, Descriptors, HostGuard, Sender, Tenants, Tls, Unobserved, key_or_password_of,
};
use tidemill_log::secrets::masked;
use tokio::sync::watch;

const PAGE: &str = include_str!("ops/page/index.html");
const SCRIPT: &str = include_str!("ops/page/ops.js");
const STYLE: &str = include_str!("ops/page/ops.css");

/// Connections at one time.
const MOST_CONNECTIONS: usize = 64;

/// Nothing from elsewhere, nothing inline, nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Where operators look, and who may.
#[derive(Clone, Debug)]
pub struct OpsOptions {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Who may look: whoever has a key for all tenants, or everybody.
    pub keys: ApiKeys,
    /// The certificate; plain HTTP without.
    pub tls: Option<Tls>,
}

impl OpsOptions {
    /// Plain HTTP, open to everybody who reaches it.
    #[must_use]
    pub fn new(address: SocketAddr) -> OpsOptions {
        OpsOptions { address, keys: ApiKeys::open_to_all(), tls: None }
    }
}

/// The server of one process; it ends when this is dropped.
#[derive(Debug)]
pub struct Ops {
    address: SocketAddr,
    stop: Option<watch::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Ops {
    /// Serves what `status` says.
    ///
    /// # Errors
    /// If nothing can listen there, or no thread can be started.
    pub fn start(options: &OpsOptions, status: Arc<Status>) -> io::Result<Ops> {
        let OpsOptions { keys, tls, .. } = options.clone();
        let listener = TcpListener::bind(options.address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let app = router(Shown { status, keys: keys.clone() }, address.ip());
        let serve = async move {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return tracing::warn!("the operators' page is not served: {error}"),
            };
            tokio::spawn(keys.keep_fresh());
            tidemill_http::serve(listener, app, limits(), tls, Arc::new(Unobserved), stopped).await;
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

/// What requests share.
#[derive(Clone)]
struct Shown {
    status: Arc<Status>,
    keys: ApiKeys,
}

fn router(shown: Shown, ip: IpAddr) -> Router {
    let asset = |kind: &'static str, text: &'static str| get(move || async move { typed(kind, text) });
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/status", get(api_status))
        .route_layer(from_fn_with_state(shown.clone(), known))
        .route("/", asset("text/html; charset=utf-8", PAGE))
        .route("/ops.js", asset("text/javascript; charset=utf-8", SCRIPT))
        .route("/ops.css", asset("text/css; charset=utf-8", STYLE))
        .route("/healthz", get(|| async { typed("text/plain; charset=utf-8", "alive\n") }))
        .route("/readyz", get(readyz))
        .with_state(shown);
    HostGuard::new(ip, &[]).before(routes).layer(map_response(with_headers))
}

/// Why a request may not see everything.
fn refused(keys: &ApiKeys, request: &Request) -> Option<(StatusCode, String)> {
    let key = key_or_password_of(request.headers());
    match keys.sender(key.as_deref()) {
        None => {
            let sentence = "the API key is missing or wrong; send it as `X-API-Key` or `Authorization: Bearer`, or as the password of a browser\n";
            Some((StatusCode::UNAUTHORIZED, sentence.to_owned()))
        }
        Some(Sender { tenants: Tenants::One(own), .. }) => {
            let sentence = format!("a run is of all tenants, and this key is good for {own}; give one for `*`\n");
            Some((StatusCode::FORBIDDEN, sentence))
        }
        Some(Sender { tenants: Tenants::All, .. }) => None,
    }
}

/// Lets in whoever has a key for all tenants, where keys are asked for.
async fn known(State(shown): State<Shown>, request: Request, next: Next) -> Response {
    let Some((status, sentence)) = refused(&shown.keys, &request) else { return next.run(request).await };
    let mut response = (status, typed("text/plain; charset=utf-8", sentence)).into_response();
    if status == StatusCode::UNAUTHORIZED {
        // A browser asks its user for the password, which is the key.
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tidemill\""));
    }
    response
}

/// What `/metrics` says, without a server.
pub(crate) fn openmetrics(status: &Status) -> String {
    let text = metrics::render(status.snapshot(), status.latencies()).unwrap_or_default();
    masked(&text).into_owned()
}

fn typed(kind: &'static str, body: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, kind)], body.into()).into_response()
}

async fn metrics(State(Shown { status, .. }): State<Shown>) -> Response {
    match metrics::render(status.snapshot(), status.latencies()) {
        Ok(text) => typed(metrics::CONTENT_TYPE, masked(&text).into_owned()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Everybody is told whether, and whoever may see everything, why not.
async fn readyz(State(Shown { status, keys }): State<Shown>, request: Request) -> Response {
    match status.snapshot().ready(Moment::now()) {
        Ok(()) => typed("text/plain; charset=utf-8", "ready\n"),
        Err(why) => {
            let said = if refused(&keys, &request).is_some() { "not ready\n".to_owned() } else { format!("{why}\n") };
            (StatusCode::SERVICE_UNAVAILABLE, masked(&said).into_owned()).into_response()
        }
    }
}

async fn api_status(State(Shown { status, .. }): State<Shown>) -> Response {
    typed("application/json", json(&status.snapshot()))
}

/// The snapshot as `/api/status` prints it.
fn json(snapshot: &Snapshot) -> String {
    let text = serde_json::to_string(snapshot).expect("a snapshot is plain data with texts as keys");
    masked(&text).into_owned()
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

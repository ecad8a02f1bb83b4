//! The paths, and how a question reaches the threads that answer it.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use datafusion::error::DataFusionError;
use futures::stream;
use tidemill_http::{ApiKeys, Peer, Sender, Shares, Tenants, key_or_password_of, sharer};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::field::Empty;
use tracing::{Instrument, debug_span};

use super::answer::{Answered, json_text};
use super::follow::Followed;
use super::health::PipelineHealth;
use super::parameters::{self, Pairs, Question};
use super::questions;
use super::refusal::Refusal;
use super::snapshot::Snapshot;
use super::unread::Unread;
use crate::error::QueryError;
use crate::sql::{Bytes, SqlOptions, Workers, check};

/// How often a question is asked again because files were exchanged under it.
const ATTEMPTS: usize = 5;

/// How long a newer commit is waited for when files of this one are gone.
const NEWER_WITHIN: Duration = Duration::from_secs(2);

/// How soon a thread for queries has to be free for the server to be healthy.
const THREAD_WITHIN: Duration = Duration::from_secs(1);

/// Between two lines that only show that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What all requests share.
pub(super) struct Shared {
    pub(super) followed: Arc<Followed>,
    pub(super) health: PipelineHealth,
    /// Where queries run, so that they never hold up requests that need none.
    pub(super) queries: Handle,
    /// Places for requests.
    pub(super) room: Arc<Shares>,
    pub(super) unread: Unread,
    pub(super) timeout: Duration,
    pub(super) keys: ApiKeys,
    pub(super) sql: Sql,
    pub(super) most_rows: usize,
}

/// How SQL is answered.
pub(super) enum Sql {
    Off(String),
    InProcess,
    Workers(Workers),
}

impl Sql {
    pub(super) fn of(options: &SqlOptions) -> Sql {
        match options {
            SqlOptions::Off(why) => Sql::Off(why.clone()),
            SqlOptions::InProcess => Sql::InProcess,
            SqlOptions::Workers { program, at_once, memory } => {
                Sql::Workers(Workers::new(program.clone(), *at_once, *memory))
            }
        }
    }
}

type Parameters = Query<Vec<(String, String)>>;

/// Everything that the server answers.
pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/api/v1/timeseries", asked("timeseries", parameters::timeseries))
        .route("/api/v1/top", asked("top", parameters::top))
        .route("/api/v1/totals", asked("totals", parameters::totals))
        .route("/api/v1/sessions", asked("sessions", parameters::sessions))
        .route("/api/v1/range", asked("range", parameters::range))
        .route("/api/v1/sql", get(sql))
        .route("/api/v1/changes", get(changes))
        .route("/api/v1/health", get(health))
        .route("/metrics", get(metrics))
        .route_layer(from_fn_with_state(Arc::clone(&shared), known))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .method_not_allowed_fallback(|| async { Refusal::Method })
        .fallback(|uri: Uri| async move { Refusal::NotFound(uri.path().to_owned()) })
        .with_state(shared)
        .merge(crate::dashboard::routes())
}

type Read = fn(&Pairs) -> Result<Question, Refusal>;

fn asked(endpoint: &'static str, read: Read) -> axum::routing::MethodRouter<Arc<Shared>> {
    get(
        move |State(shared): State<Arc<Shared>>,
              Extension(sender): Extension<Sender>,
              Extension(peer): Extension<Peer>,
              Query(mut pairs): Parameters| async move {
            let question = of_tenant(&sender, &mut pairs).and_then(|()| read(&pairs));
            shared.respond((endpoint, peer), question).await
        },
    )
}

/// Lets in whoever has a key, where keys are asked for.
async fn known(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let key = key_or_password_of(request.headers());
    let Some(sender) = shared.keys.sender(key.as_deref()) else { return Refusal::Unauthorized.into_response() };
    request.extensions_mut().insert(sender);
    next.run(request).await
}

/// Has a key of one tenant ask for that tenant, and for no other.
fn of_tenant(sender: &Sender, pairs: &mut Vec<(String, String)>) -> Result<(), Refusal> {
    let Tenants::One(own) = &sender.tenants else { return Ok(()) };
    if pairs.iter().any(|(name, value)| name == "tenant" && value != &**own) {
        return Err(Refusal::Forbidden(format!("this key is good for the tenant {own}; ask for that one")));
    }
    pairs.retain(|(name, _)| name != "tenant");
    pairs.push(("tenant".to_owned(), own.to_string()));
    Ok(())
}

async fn sql(
    State(shared): State<Arc<Shared>>,
    Extension(sender): Extension<Sender>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Query(pairs): Parameters,
) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let csv = accepted.split(',').any(|kind| kind.split(';').next().unwrap_or_default().trim() == "text/csv");
    let question = match (&shared.sql, &sender.tenants) {
        (Sql::Off(why), _) => Err(Refusal::Forbidden(why.clone())),
        (_, Tenants::One(own)) => {
            Err(Refusal::Forbidden(format!("SQL sees all tenants, and this key is good for {own}; give one for `*`")))
        }
        (_, Tenants::All) => parameters::sql(&pairs, csv),
    };
    let mut response = shared.respond(("sql", peer), question).await;
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

async fn changes(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let changes = &shared.followed.changes;
    let Some(changes) = changes.follow(seen, sharer(peer.0.ip())) else {
        return Refusal::Crowded(changes.most()).into_response();
    };
    let events = stream::unfold(changes, |mut changes| async move {
        let change = changes.recv().await?;
        let event = Event::default().event("commit").id(&change.id).data(&change.data);
        Some((Ok::<_, std::convert::Infallible>(event), changes))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    json_text(shared.health.text().await.to_string())
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = (header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    match shared.openmetrics() {
        Ok(text) => ([kind], text).into_response(),
        Err(error) => Refusal::Unfinished(error.to_string()).into_response(),
    }
}

/// Whether a question would find a thread.
async fn healthy(State(shared): State<Arc<Shared>>) -> Response {
    if timeout(THREAD_WITHIN, shared.queries.spawn(async {})).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no query thread is free\n").into_response();
    }
    match &shared.sql {
        Sql::Workers(workers) if workers.busy().0 == workers.busy().1 => {
            format!("ok; no process for SQL is free: all {} are answering\n", workers.busy().1).into_response()
        }
        _ => "ok\n".into_response(),
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.followed.trouble() {
        Some(reason) => Refusal::NotYet(reason).into_response(),
        None if shared.followed.newest.borrow().is_none() => {
            Refusal::NotYet("the log is being read".to_owned()).into_response()
        }
        None => "ready\n".into_response(),
    }
}

impl Shared {
    /// What `/metrics` says.
    pub(super) fn openmetrics(&self) -> Result<String, std::fmt::Error> {
        self.followed.telemetry.text(&self.followed, self.room.in_use())
    }

    async fn respond(
        self: Arc<Self>,
        (endpoint, peer): (&'static str, Peer),
        question: Result<Question, Refusal>,
    ) -> Response {
        let whose = sharer(peer.0.ip());
        let began = Instant::now();
        let span = debug_span!(
            target: "tidemill::requests",
            "GET /api/v1/*",
            otel.name = format_args!("GET /api/v1/{endpoint}"),
            otel.kind = "server",
            http.request.method = "GET",
            http.route = format_args!("/api/v1/{endpoint}"),
            http.response.status_code = Empty,
        );
        let response = match question {
            Ok(question) => {
                let answered = Arc::clone(&self).ask(question, whose).instrument(span.clone()).await;
                let sent = answered.and_then(|(answer, snapshot)| answer.respond(&snapshot, &self.unread, whose));
                sent.unwrap_or_else(Refusal::into_response)
            }
            Err(refusal) => refusal.into_response(),
        };
        let status = response.status();
        span.record("http.response.status_code", status.as_u16());
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!("a request to /api/v1/{endpoint} failed for a reason of this server or its files");
        }
        self.followed.telemetry.answered(endpoint, status.as_u16(), began.elapsed());
        response
    }

    /// Answers a question on the threads for queries, within the time that it may take.
    async fn ask(self: Arc<Self>, question: Question, whose: u128) -> Result<(Answered, Arc<Snapshot>), Refusal> {
        let Some(_place) = self.room.take(whose) else { return Err(Refusal::Busy(self.room.most())) };
        let shared = Arc::clone(&self);
        let limit = self.timeout;
        let answer = self.queries.spawn(async move {
            timeout(limit, shared.answer(&question, whose)).await.unwrap_or(Err(Refusal::TimedOut(limit)))
        });
        // Whoever leaves takes the query along.
        let mut answer = StopWhenDropped(answer);
        let answer = timeout(limit + Duration::from_secs(1), &mut answer.0).await;
        match answer {
            Ok(Ok(answered)) => answered,
            Ok(Err(stopped)) => Err(Refusal::Unfinished(stopped.to_string())),
            Err(_) => Err(Refusal::TimedOut(limit)),
        }
    }

    /// All of an answer is of one commit. Files of it that were exchanged and deleted meanwhile are a reason to ask a
    /// newer one, and no other is.
    async fn answer(&self, question: &Question, whose: u128) -> Result<(Answered, Arc<Snapshot>), Refusal> {
        let mut newest = self.followed.newest.subscribe();
        for attempt in 1.. {
            let Some(snapshot) = newest.borrow_and_update().clone() else {
                let reason = self.followed.trouble().unwrap_or_else(|| "the log is being read".to_owned());
                return Err(Refusal::NotYet(reason));
            };
            let source = match self.answer_of(&snapshot, question, whose).await {
                Ok(answered) => return Ok((answered, snapshot)),
                Err(Refusal::Query(QueryError::Run(source))) => {
                    if !snapshot.visible.lacks_file(snapshot.tables.store(), &source).await {
                        return Err(QueryError::Run(source).into());
                    }
                    source
                }
                Err(Refusal::FileGone(message)) => Box::new(DataFusionError::External(message.into())),
                Err(refusal) => return Err(refusal),
            };
            if !matches!(timeout(NEWER_WITHIN, newest.changed()).await, Ok(Ok(()))) {
                return Err(QueryError::MissingFile(source).into());
            }
            if attempt == ATTEMPTS {
                return Err(QueryError::Overtaken { attempts: attempt, source }.into());
            }
        }
        unreachable!("the attempts are counted without an end")
    }

    async fn answer_of(&self, snapshot: &Arc<Snapshot>, question: &Question, whose: u128) -> Result<Answered, Refusal> {
        match (question, &self.sql) {
            (Question::Sql { text, csv }, Sql::Workers(workers)) => {
                // What is refused for its length needs no process.
                check(text)?;
                let asked = (text.as_str(), self.most_rows, *csv);
                let Bytes { bytes, held } = workers.answer(snapshot, asked, (&self.unread, whose)).await?;
                questions::of_statement(snapshot, bytes, *csv, Some(held))
            }
            _ => questions::answer(snapshot, question, self.most_rows).await,
        }
    }
}

struct StopWhenDropped<T>(JoinHandle<T>);

impl<T> Drop for StopWhenDropped<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

//! The addresses that the collector answers on.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{Method, Request, Response, StatusCode};
use axum::routing::{get, post};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::answers::{Refusal, typed};
use crate::ingest::Intake;

/// How long browsers remember that they may post.
const PREFLIGHT_HOLDS: Duration = Duration::from_secs(86_400);

/// All routes; browsers on `allow_origin` may post events.
pub(crate) fn routes(intake: Arc<Intake>, allow_origin: HeaderValue) -> Router {
    let any = allow_origin.as_bytes() == b"*";
    let origin = if any { AllowOrigin::any() } else { AllowOrigin::exact(allow_origin) };
    let cors = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::POST])
        .allow_headers([CONTENT_TYPE, CONTENT_ENCODING, AUTHORIZATION, HeaderName::from_static("x-api-key")])
        .expose_headers([RETRY_AFTER])
        .max_age(PREFLIGHT_HOLDS);
    Router::new()
        .route("/v1/events", post(events).layer(cors))
        .route("/healthz", get(|| async { typed(StatusCode::OK, "text/plain", "ok\n".to_owned()) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(nowhere)
        .with_state(intake)
}

async fn events(State(intake): State<Arc<Intake>>, request: Request<Body>) -> Response<Body> {
    intake.post(request).await
}

async fn ready(State(intake): State<Arc<Intake>>) -> Response<Body> {
    if intake.is_ready() {
        typed(StatusCode::OK, "text/plain", "ready\n".to_owned())
    } else {
        typed(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the log takes no events now\n".to_owned())
    }
}

async fn metrics(State(intake): State<Arc<Intake>>) -> Response<Body> {
    typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", intake.openmetrics())
}

async fn nowhere() -> Response<Body> {
    Refusal::new(StatusCode::NOT_FOUND, "there is nothing here; events are posted to /v1/events").response()
}

//! What every answer says beside its data: which commit it is of, how complete that is, and whether it can still change.

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use tidemill_http::Share;

use super::refusal::Refusal;
use super::snapshot::Snapshot;
use super::time_range::{Range, rfc3339};
use super::unread::Unread;

/// An answer before it is written.
#[derive(Debug)]
pub(super) struct Answered {
    /// The range that it covers, if it is of one.
    pub(super) range: Option<Range>,
    /// Events in that range of which it is not known yet whether they count.
    pub(super) pending: u64,
    /// The data itself.
    pub(super) data: Data,
    /// Its share of the memory for answers, if it has one already.
    pub(super) held: Option<Share>,
}

/// The data of an answer, written out.
#[derive(Debug)]
pub(super) enum Data {
    /// As JSON.
    Json(Box<RawValue>),
    /// As CSV, on its own; what would stand beside it becomes headers.
    Csv(Vec<u8>),
}

impl Data {
    /// `value` as JSON.
    pub(super) fn json(value: &impl Serialize) -> Self {
        Self::Json(serde_json::value::to_raw_value(value).expect("answers have text keys and finite numbers only"))
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    complete_through: Option<String>,
    updated_at: Option<String>,
    epoch: Option<u64>,
    exact: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    closed: bool,
    pending: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    data: &'a RawValue,
}

impl Answered {
    /// The response, of the commit that `snapshot` is of, which has its share of the memory for answers until it is sent.
    ///
    /// # Errors
    /// When there is none for this client.
    pub(super) fn respond(self, snapshot: &Snapshot, unread: &Unread, whose: u128) -> Result<Response, Refusal> {
        let through = snapshot.complete_through();
        let complete = self.range.is_some_and(|range| snapshot.complete_before(range.to));
        let exact = complete && self.pending == 0;
        let held = |bytes: usize| self.held.map_or_else(|| unread.hold(bytes, whose), Ok);
        match self.data {
            Data::Json(data) => {
                let envelope = Envelope {
                    complete_through: through.map(rfc3339),
                    updated_at: snapshot.updated_at.map(rfc3339),
                    epoch: snapshot.visible.epoch,
                    exact,
                    closed: snapshot.visible.closed,
                    pending: self.pending,
                    from: self.range.map(|range| rfc3339(range.from)),
                    to: self.range.map(|range| rfc3339(range.to)),
                    data: &data,
                };
                let text = serde_json::to_vec(&envelope).expect("answers have text keys and finite numbers only");
                let held = held(text.len())?;
                Ok(sent(text, Some(held), "application/json"))
            }
            Data::Csv(bytes) => {
                let held = held(bytes.len())?;
                Ok(csv(sent(bytes, Some(held), "text/csv; charset=utf-8"), snapshot))
            }
        }
    }
}

/// What an answer says beside its data, in the headers where it is CSV.
fn csv(mut response: Response, snapshot: &Snapshot) -> Response {
    let headers = response.headers_mut();
    let beside = [
        ("tidemill-epoch", snapshot.visible.epoch.map(|epoch| epoch.to_string())),
        ("tidemill-complete-through", snapshot.complete_through().map(rfc3339)),
        ("tidemill-closed", snapshot.visible.closed.then(|| true.to_string())),
        ("tidemill-updated-at", snapshot.updated_at.map(rfc3339)),
    ];
    for (name, value) in beside {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// A body with what it holds until it is sent.
struct Held {
    bytes: Vec<u8>,
    _share: Option<Share>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A response that nobody keeps on the way.
fn sent(bytes: Vec<u8>, held: Option<Share>, content_type: &'static str) -> Response {
    let mut response = Body::from(Bytes::from_owner(Held { bytes, _share: held })).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A response with `value` as JSON, never kept by anybody on the way.
pub(super) fn json(value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("answers have text keys and finite numbers only");
    json_text(text)
}

/// A response with text that is JSON already.
pub(super) fn json_text(text: String) -> Response {
    sent(text.into_bytes(), None, "application/json")
}

//! What a client is answered.

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use crate::admission::Verdict;

/// A request that was not taken: nothing of it was stored, or nothing is known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    message: String,
    /// Seconds.
    retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), retry_after: None }
    }

    /// The same, with advice to come again after so many seconds.
    pub(crate) fn retry_after(self, seconds: u64) -> Refusal {
        Refusal { retry_after: Some(seconds), ..self }
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let text = serde_json::json!({ "error": self.message }).to_string();
        let mut response = json(self.status, text);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The answer to a batch: one result for each event, in order.
pub(crate) fn results(verdicts: &[Verdict]) -> Response<Body> {
    #[derive(Serialize)]
    struct Answer<'a> {
        accepted: usize,
        rejected: usize,
        results: Results<'a>,
    }
    let rejected = verdicts.iter().filter(|verdict| verdict.rejected.is_some()).count();
    let answer = Answer { accepted: verdicts.len() - rejected, rejected, results: Results(verdicts) };
    json(StatusCode::OK, serde_json::to_string(&answer).expect("texts and numbers are always JSON"))
}

struct Results<'a>(&'a [Verdict]);

impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct One<'a> {
            event_id: Option<&'a str>,
            status: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for Verdict { event_id, rejected } in self.0 {
            let reason = rejected.as_ref().map(|reject| &*reject.reason);
            let status = if reason.is_some() { "rejected" } else { "ok" };
            list.serialize_element(&One { event_id: event_id.as_deref(), status, reason })?;
        }
        list.end()
    }
}

fn json(status: StatusCode, text: String) -> Response<Body> {
    typed(status, "application/json", text)
}

/// A response of a content type.
pub(crate) fn typed(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

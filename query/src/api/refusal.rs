//! Why a request has no answer: the status, and a sentence with the remedy.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use datafusion::error::DataFusionError;
use tidemill_log::secrets::masked;

use super::answer::json;
use crate::error::QueryError;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// What is asked for is not understood, or is too much; all mistakes are said at once.
    #[error("{0}")]
    Asked(String),
    /// There is nothing at this path.
    #[error("there is nothing at {0}; the answers are below /api/v1/, the dashboard is at /")]
    NotFound(String),
    /// The path knows one method.
    #[error("this server only reads: ask with GET")]
    Method,
    /// As many requests as may be are being answered.
    #[error(
        "as many requests as may be are being answered ({0} at once, half of them for one address); ask again in a second"
    )]
    Busy(usize),
    /// As many readers as may be follow the changes.
    #[error(
        "as many readers as may be follow the changes ({0}, half of them at one address); poll instead, or ask again later"
    )]
    Crowded(usize),
    /// The answer took too long.
    #[error("there was no answer within {} s; ask for a shorter range, or for less", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The answer has too many rows.
    #[error("the answer has more than {0} rows; add LIMIT, or group by something")]
    TooManyRows(usize),
    /// The answer is too long.
    #[error("the answer is longer than {0} MiB; select fewer columns, or add LIMIT")]
    TooLong(usize),
    /// A sum has no room in 64 bits.
    #[error("a sum is beyond 64 bits; ask for a shorter range")]
    Overflow,
    /// The log was never read.
    #[error("the tables cannot be read yet: {0}")]
    NotYet(String),
    /// The server is being stopped, or met a mistake of its own.
    #[error("the request was not finished: {0}; ask again")]
    Unfinished(String),
    /// The statement took more than one may, and its process was ended.
    #[error(
        "the query needed more than {0} MiB of memory, or failed in a way that ended its process; ask for less at a time"
    )]
    TooCostly(usize),
    /// As many bytes of answers as may be wait to be read.
    #[error("as much of answers as may be waits to be read ({0} MiB, half of it for one address); ask again later")]
    Unread(usize),
    /// What a worker refused a statement for.
    #[error("{message}")]
    OfWorker {
        /// The status.
        status: u16,
        /// The sentence.
        message: String,
    },
    /// A file was not there when a worker came to read it.
    #[error("a file of this commit is gone: {0}")]
    FileGone(String),
    /// No key, or a wrong one.
    #[error(
        "the API key is missing or wrong; send it as `X-API-Key` or `Authorization: Bearer`, or as the password of a browser"
    )]
    Unauthorized,
    /// What is not allowed here, or to this key.
    #[error("{0}")]
    Forbidden(String),
    /// The query has no answer.
    #[error("{}", .0.chain())]
    Query(#[from] QueryError),
}

impl Refusal {
    /// A query of ours that failed while running.
    pub(super) fn running(error: DataFusionError) -> Self {
        Self::Query(QueryError::Run(Box::new(error)))
    }

    /// Why a query has no answer, if that is it.
    pub(crate) fn cause(&self) -> Option<&QueryError> {
        match self {
            Self::Query(error) => Some(error),
            _ => None,
        }
    }

    /// The status that says it.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Asked(_) | Self::TooManyRows(_) | Self::TooLong(_) | Self::Overflow | Self::TooCostly(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::OfWorker { status, .. } => StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TimedOut(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Busy(_)
            | Self::Crowded(_)
            | Self::NotYet(_)
            | Self::Unfinished(_)
            | Self::Unread(_)
            | Self::FileGone(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Query(error) => of_query(error),
        }
    }
}

fn of_query(error: &QueryError) -> StatusCode {
    match error {
        QueryError::UnknownTable { .. }
        | QueryError::NotReadOnly { .. }
        | QueryError::TooComplex { .. }
        | QueryError::Unreadable { .. }
        | QueryError::Sql(_) => StatusCode::BAD_REQUEST,
        QueryError::Open { .. } | QueryError::Overtaken { .. } => StatusCode::SERVICE_UNAVAILABLE,
        QueryError::Run(cause) => match cause.find_root() {
            DataFusionError::ResourcesExhausted(_) | DataFusionError::ObjectStore(_) => StatusCode::SERVICE_UNAVAILABLE,
            // A value that cannot be cast, a division by zero: the question's, as far as can be known.
            DataFusionError::ArrowError(..)
            | DataFusionError::Execution(_)
            | DataFusionError::Plan(_)
            | DataFusionError::SchemaError(..) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        },
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        // Whoever is away may have been named by an address with a password in it.
        let sentence = self.to_string();
        let mut response = (status, json(&serde_json::json!({ "error": masked(&sentence) }))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            // A browser asks its user for the password, which is the key.
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tidemill\""));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

//! Requests to a registry's address, and what its answers mean.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{Method, Request, Uri};
use ureq::tls::{RootCerts, TlsConfig};

use crate::client::Credentials;
use crate::error::RegistryError;

/// The longest time until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest time from a request to the end of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Where the registry is and who asks it. Connections are kept open and used again.
pub(crate) struct Connection {
    agent: Agent,
    base: String,
    authorization: Option<String>,
}

/// An answer: its address for messages, status and text.
pub(crate) struct Answer {
    url: String,
    pub(crate) status: u16,
    text: String,
}

#[derive(Deserialize)]
struct Failure {
    error_code: i64,
    #[serde(default)]
    message: String,
}

impl Connection {
    /// What [`Registry::new`](crate::Registry::new) says; nothing is asked yet.
    pub(crate) fn new(url: &str, credentials: Option<&Credentials>) -> Result<Self, RegistryError> {
        let base = url.trim().trim_end_matches('/');
        let wrong = |problem: &str| {
            let shown = base.rsplit_once('@').map_or(base, |(_, shown)| shown);
            Err(RegistryError::Address { url: shown.to_owned(), problem: problem.to_owned() })
        };
        let Ok(uri) = base.parse::<Uri>() else { return wrong("it cannot be parsed") };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return wrong("it holds a user or a password, which would reach the log; give them apart");
        }
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return wrong("it does not begin with http:// or https:// and a host");
        }
        if uri.query().is_some() || base.contains('#') {
            return wrong("it holds more than a path");
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(REQUEST_TIMEOUT))
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .user_agent("tidemill")
            .build()
            .new_agent();
        let authorization =
            credentials.map(|who| format!("Basic {}", STANDARD.encode(format!("{}:{}", who.user, who.password))));
        Ok(Self { agent, base: base.to_owned(), authorization })
    }

    /// The address without what was added for one request.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Asks once. Any status but 401 and 403 is an answer.
    pub(crate) fn ask(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, RegistryError> {
        let url = format!("{}{path}", self.base);
        let failed = |error: ureq::Error| match error {
            ureq::Error::BodyExceedsLimit(_)
            | ureq::Error::TooManyRedirects
            | ureq::Error::RedirectFailed
            | ureq::Error::LargeResponseHeader(..) => {
                RegistryError::Reply { url: url.clone(), problem: error.to_string() }
            }
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => {
                RegistryError::Address { url: url.clone(), problem: error.to_string() }
            }
            // An answer that breaks off is among these: a registry that is killed while it answers is an outage.
            other => RegistryError::Unreachable { url: url.clone(), source: other.into_io() },
        };
        let mut request = Request::builder().method(method).uri(&url).header("Accept", MEDIA_TYPE);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let answered = match body {
            None => request.body(()).map_err(ureq::Error::from).and_then(|request| self.agent.run(request)),
            Some(body) => request
                .header("Content-Type", MEDIA_TYPE)
                .body(body.to_string())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
        };
        let mut response = answered.map_err(failed)?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().map_err(failed)?;
        match status {
            401 | 403 => Err(RegistryError::Denied { url, status }),
            _ => Ok(Answer { url, status, text }),
        }
    }
}

impl Answer {
    /// Whether it says in the API's own code that the thing is not there. A bare 404 says that the address is wrong.
    pub(crate) fn lacks(&self, codes: &[i64]) -> bool {
        self.status == 404
            && serde_json::from_str::<Failure>(&self.text).is_ok_and(|failure| codes.contains(&failure.error_code))
    }

    /// Its own words about a failure; empty where there are none.
    pub(crate) fn message(&self) -> String {
        serde_json::from_str::<Failure>(&self.text).map(|failure| failure.message).unwrap_or_default()
    }

    /// What it holds when all went well.
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T, RegistryError> {
        match (self.status, serde_json::from_str::<Failure>(&self.text)) {
            (200..300, _) => serde_json::from_str(&self.text)
                .map_err(|error| RegistryError::Reply { url: self.url, problem: error.to_string() }),
            (404, Err(_)) => Err(RegistryError::Reply { url: self.url, problem: "it answers 404".into() }),
            (status, Ok(failure)) => Err(RegistryError::Failed { url: self.url, status, message: failure.message }),
            (status, Err(_)) => Err(RegistryError::Failed { url: self.url, status, message: "no reason given".into() }),
        }
    }
}

/// A subject as one segment of a path.
pub(crate) fn path_segment(subject: &str) -> String {
    let mut segment = String::with_capacity(subject.len());
    for byte in subject.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => segment.push(char::from(byte)),
            _ => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

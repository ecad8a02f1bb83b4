//! The HTTP client behind the exporters: a request a time, with a time limit; troubles are said once, and their end.

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use crate::cli::lines;

/// How long a request may take.
const WITHIN: Duration = Duration::from_secs(4);

#[derive(Clone, Debug)]
pub(super) struct Client {
    agent: Agent,
    /// Whether the last request failed.
    away: Arc<AtomicBool>,
}

impl Client {
    pub(super) fn new() -> Client {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder().timeout_global(Some(WITHIN)).http_status_as_error(false);
        let config = config.max_redirects(0).tls_config(tls);
        Client { agent: config.build().into(), away: Arc::default() }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // With its scheme, by which a user and a password in it are known for what they are, and masked.
        let uri = request.uri();
        let (scheme, at) = (uri.scheme_str().unwrap_or("http"), uri.authority().map_or("", |at| at.as_str()));
        let place = format!("{scheme}://{at}");
        let sent = self.exchange(request);
        let trouble = match &sent {
            Err(error) => Some(error.to_string()),
            Ok(response) if !response.status().is_success() => Some(format!("it answers {}", response.status())),
            Ok(_) => None,
        };
        match trouble {
            Some(trouble) if !self.away.swap(true, Ordering::Relaxed) => lines::warn(&format!(
                "OpenTelemetry at {place}: {trouble}; it is tried again, and nothing else waits for it"
            )),
            None if self.away.swap(false, Ordering::Relaxed) => {
                lines::say(&format!("OpenTelemetry at {place}: it takes spans and numbers again"));
            }
            _ => {}
        }
        sent
    }

    fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.agent.run(request.map(|body| body.to_vec()))?;
        let (head, mut body) = answer.into_parts();
        Ok(Response::from_parts(head, body.read_to_vec()?.into()))
    }
}

impl HttpClient for Client {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        // Only threads of telemetry come here, so it may block.
        Box::pin(ready(self.send(request)))
    }
}

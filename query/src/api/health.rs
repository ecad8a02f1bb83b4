//! Passes on what the pipeline says of itself, for pages that show its health beside the numbers.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tidemill_log::secrets::masked;
use tidemill_log::with_causes;
use tokio::sync::Mutex;
use tokio::time::Instant;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

/// How long the pipeline may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long an answer is passed on before the pipeline is asked again, however many ask us.
const FRESH: Duration = Duration::from_millis(500);

/// Bytes of a status at most.
const MOST_BYTES: u64 = 4 << 20;

/// The key by which a pipeline's operations address is asked; it is never shown.
#[derive(Clone)]
pub struct StatusKey(String);

impl From<String> for StatusKey {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl std::fmt::Debug for StatusKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("StatusKey")
    }
}

/// The pipeline's operations address, and what it said last.
#[derive(Debug)]
pub(super) struct PipelineHealth {
    address: Option<String>,
    /// Where the pipeline asks for one.
    key: Option<StatusKey>,
    agent: Agent,
    said: Mutex<Option<(Instant, Arc<str>)>>,
}

#[derive(Serialize)]
struct Health {
    reachable: bool,
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl PipelineHealth {
    /// The health of the pipeline whose operations are served at `address` (`http://HOST:PORT`, or https), if that is known,
    /// to whoever has this key.
    pub(super) fn new(address: Option<&str>, key: Option<&StatusKey>) -> Self {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config =
            Agent::config_builder().timeout_global(Some(PATIENCE)).max_redirects(0).proxy(None).tls_config(tls);
        let address = address.map(|address| format!("{}/api/status", address.trim_end_matches('/')));
        Self { address, key: key.cloned(), agent: config.build().into(), said: Mutex::default() }
    }

    /// `{"reachable": .., "status": ..}` as JSON; never fails, a pipeline that does not answer is not reachable.
    pub(super) async fn text(&self) -> Arc<str> {
        // Whoever asks meanwhile waits for the same answer.
        let mut said = self.said.lock().await;
        if let Some((at, text)) = &*said
            && at.elapsed() < FRESH
        {
            return Arc::clone(text);
        }
        let health = self.ask().await;
        let text: Arc<str> = serde_json::to_string(&health).expect("a status is JSON already").into();
        *said = Some((Instant::now(), Arc::clone(&text)));
        text
    }

    async fn ask(&self) -> Health {
        let Some(address) = self.address.clone() else {
            let reason = "the server was started without --status http://HOST:PORT of the pipeline".to_owned();
            return Health { reachable: false, status: None, reason: Some(reason) };
        };
        let (agent, key) = (self.agent.clone(), self.key.clone());
        let asked = tokio::task::spawn_blocking(move || fetch(&agent, &address, key.as_ref())).await;
        match asked.map_err(|error| error.to_string()).flatten() {
            Ok(status) => Health { reachable: true, status: Some(status), reason: None },
            Err(reason) => Health { reachable: false, status: None, reason: Some(masked(&reason).into_owned()) },
        }
    }
}

/// The status without its samples: these are of all tenants, and whoever asks us may know one.
fn fetch(agent: &Agent, address: &str, key: Option<&StatusKey>) -> Result<Value, String> {
    let failed = |error: ureq::Error| format!("no status at {address}: {}", with_causes(&error));
    let mut request = agent.get(address);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {}", key.0));
    }
    let mut response = request.call().map_err(failed)?;
    let text = response.body_mut().with_config().limit(MOST_BYTES).read_to_string().map_err(failed)?;
    let mut status: Value =
        serde_json::from_str(&text).map_err(|error| format!("the status at {address} is no JSON: {error}"))?;
    if let Some(members) = status.as_object_mut() {
        members.remove("samples");
    }
    Ok(status)
}

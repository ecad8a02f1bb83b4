//! The schema registry that the environment names, and events in Avro read by it.

use std::sync::Arc;

use tidemill_kafka::AvroToJson;
use tidemill_registry::{AvroEvents, Credentials, Registry};

use super::{Failure, secrets, with_causes};

/// The registry at `SCHEMA_REGISTRY_URL`, with `SCHEMA_REGISTRY_USER` and `SCHEMA_REGISTRY_PASSWORD` where it asks for them;
/// `None` if no address is given.
pub(crate) fn registry() -> Result<Option<Registry>, Failure> {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let Some(url) = variable("SCHEMA_REGISTRY_URL") else { return Ok(None) };
    let user = variable("SCHEMA_REGISTRY_USER");
    let password = secrets::secret("SCHEMA_REGISTRY_PASSWORD").unwrap_or_default();
    let credentials = user.map(|user| Credentials { user, password });
    let registry = Registry::new(&url, credentials.as_ref());
    registry.map(Some).map_err(|error| Failure::usage(format!("SCHEMA_REGISTRY_URL: {}", with_causes(&error))))
}

/// What reads Avro messages, if there is a registry.
pub(crate) fn from_environment() -> Result<Option<Arc<dyn AvroToJson>>, Failure> {
    Ok(registry()?.map(|registry| Arc::new(Avro(AvroEvents::new(Arc::new(registry)))) as Arc<dyn AvroToJson>))
}

struct Avro(AvroEvents);

impl AvroToJson for Avro {
    fn prepare(&self, framed: &[u8]) -> Result<(), String> {
        // Also what does not pass by itself (a refused password) is waited with: it is mended at the registry, and the
        // run goes on without having lost a message.
        self.0.prepare(framed).map_err(|error| with_causes(&error))
    }

    fn to_json(&self, framed: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        self.0.to_json(framed, out)
    }
}

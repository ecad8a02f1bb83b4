//! The schema registry that the environment names, and events in Avro read by it.

use std::sync::Arc;
use std::time::Duration;

use tidemill_connectors::messages::{AvroToJson, Unprepared};
use tidemill_registry::{AvroEvents, Credentials, Prepared, Registry, RegistryError};

use super::units::duration;
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

/// How long an id that the registry does not have is waited for, unless `SCHEMA_REGISTRY_WAIT` says otherwise.
const WAIT: Duration = Duration::from_secs(300);

/// What reads Avro messages; where there is no registry, what waits for somebody to name one.
pub(crate) fn from_environment() -> Result<Arc<dyn AvroToJson>, Failure> {
    let given = std::env::var("SCHEMA_REGISTRY_WAIT").ok().filter(|value| !value.is_empty());
    let wait = match given.as_deref() {
        None => WAIT,
        Some("0") => Duration::ZERO,
        Some(text) => duration(text)
            .map_err(|error| Failure::usage(format!("SCHEMA_REGISTRY_WAIT: {error}, or 0 for no time at all")))?,
    };
    Ok(match registry()? {
        Some(registry) => Arc::new(Avro { events: AvroEvents::new(Arc::new(registry)), wait }),
        None => Arc::new(NoRegistry { wait }),
    })
}

struct Avro {
    events: AvroEvents,
    wait: Duration,
}

impl AvroToJson for Avro {
    fn prepare(&self, framed: &[u8]) -> Result<(), Unprepared> {
        match self.events.prepare(framed) {
            Ok(Prepared::Known) => Ok(()),
            Ok(Prepared::Unusable(why)) => {
                tracing::warn!("{why}; its messages are dead letters");
                Ok(())
            }
            Err(error @ RegistryError::UnknownSchema { .. }) => Err(Unprepared::Unknown(with_causes(&error))),
            // Also what does not pass by itself (a refused password) is waited with: it is mended at the registry, and the
            // run goes on without having lost a message.
            Err(error) => Err(Unprepared::Away(with_causes(&error))),
        }
    }

    fn to_json(&self, framed: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        self.events.to_json(framed, out)
    }

    fn patience(&self) -> Duration {
        self.wait
    }
}

/// No registry is named: whoever starts the run again with one loses nothing.
struct NoRegistry {
    wait: Duration,
}

impl AvroToJson for NoRegistry {
    fn prepare(&self, _: &[u8]) -> Result<(), Unprepared> {
        let problem =
            "the message is Avro and SCHEMA_REGISTRY_URL is not set; stop the run, set it, and start it again";
        Err(Unprepared::Unknown(problem.into()))
    }

    fn to_json(&self, _: &[u8], _: &mut Vec<u8>) -> Result<(), String> {
        Err("the message is Avro and no schema registry is configured; set SCHEMA_REGISTRY_URL".into())
    }

    fn patience(&self) -> Duration {
        self.wait
    }

    fn stays(&self) -> bool {
        false
    }
}

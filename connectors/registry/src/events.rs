//! Framed messages to lines of JSON, by the schemas of a registry.
//!
//! Fetching and decoding are apart: [`AvroEvents::prepare`] may wait for the registry and runs where waiting is allowed,
//! [`AvroEvents::to_json`] runs on workers and asks nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::client::Registry;
use crate::decode::push_event;
use crate::error::{ErrorKind, RegistryError};
use crate::shape::Shapes;

/// So many refused ids are remembered. A producer of garbage can invent four thousand million.
const MAX_REFUSED: usize = 10_000;

/// The length of the framing before the Avro binary.
const FRAMING_BYTES: usize = 5;

/// The schema's id in a message's framing; `None` where the message is not framed.
#[must_use]
pub fn schema_id(message: &[u8]) -> Option<i32> {
    match message.first_chunk::<FRAMING_BYTES>()? {
        [0, id @ ..] => Some(i32::from_be_bytes(*id)),
        _ => None,
    }
}

/// What an id was found to be: a schema, or the reason why its messages are malformed.
type Found = Result<Arc<Shapes>, Arc<str>>;

/// Decodes framed messages. Threads share one.
pub struct AvroEvents {
    registry: Arc<Registry>,
    found: RwLock<BTreeMap<i32, Found>>,
}

impl fmt::Debug for AvroEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AvroEvents").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl AvroEvents {
    /// A decoder that fetches schemas from `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, found: RwLock::default() }
    }

    /// Sees to it that [`to_json`](Self::to_json) knows the schema of this message; blocks while it is fetched, which
    /// happens once for an id. An id that the registry does not have, or whose schema is none of events, is remembered
    /// as such until the process ends: its messages are malformed, not waited for.
    ///
    /// # Errors
    /// The registry could not be asked: wait and repeat if the error [is retryable](RegistryError::is_retryable), else
    /// stop with it. Nothing is remembered then.
    pub fn prepare(&self, framed: &[u8]) -> Result<(), RegistryError> {
        let Some(id) = schema_id(framed) else { return Ok(()) };
        // Values enter the map whole, so a thread that panicked elsewhere cannot have left half of one.
        if self.found.read().unwrap_or_else(PoisonError::into_inner).contains_key(&id) {
            return Ok(());
        }
        let shapes: Found = match self.registry.schema(id) {
            Ok(schema) => Shapes::of(&schema)
                .map(Arc::new)
                .map_err(|problem| RegistryError::UnusableSchema { id, problem }.to_string().into()),
            Err(error) if error.kind() == ErrorKind::Rejected => Err(error.to_string().into()),
            Err(error) => return Err(error),
        };
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        if shapes.is_err() && found.values().filter(|known| known.is_err()).count() >= MAX_REFUSED {
            return Ok(());
        }
        found.insert(id, shapes);
        Ok(())
    }

    /// Appends the event of a framed message as one JSON object, without a line's end; a pure function of the message
    /// once its schema was [prepared](Self::prepare). Members of records that are null are left out.
    ///
    /// | Avro | JSON |
    /// |---|---|
    /// | record, map | object, members in the message's order |
    /// | string, enum | text; a member `properties` of the event that holds the text of a JSON object: that object |
    /// | int, long, date, time | integer as it is encoded |
    /// | timestamps | integer: milliseconds since 1970, rounded down |
    /// | float, double | number; infinite or none is malformed |
    /// | bytes, fixed | base64 text |
    /// | decimal, UUID | text |
    /// | duration | object of `months`, `days`, `millis` |
    ///
    /// # Errors
    /// Why the message is malformed, in words that quote nothing of it; `out` is then as before.
    pub fn to_json(&self, framed: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let Some(id) = schema_id(framed) else {
            return Err("the message is not Avro in Confluent framing".into());
        };
        let shapes = match self.found.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            Some(Ok(shapes)) => Arc::clone(shapes),
            Some(Err(reason)) => return Err(reason.to_string()),
            None => return Err(RegistryError::UnknownSchema { id }.to_string()),
        };
        push_event(&shapes, &framed[FRAMING_BYTES..], out)
            .map_err(|reason| format!("not an event of schema id {id}: {reason}"))
    }
}

#[cfg(test)]
mod tests;

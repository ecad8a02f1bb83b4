//! Framed messages to lines of JSON, by the schemas of a registry.
//!
//! Fetching and decoding are apart: [`AvroEvents::prepare`] may wait for the registry and runs where waiting is allowed,
//! [`AvroEvents::to_json`] runs on workers and asks nobody.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use apache_avro::Schema;

use crate::client::Registry;
use crate::decode::push_event;
use crate::error::{ErrorKind, RegistryError};
use crate::shape::Shapes;

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

/// How long [`AvroEvents::prepare`] waits for an answer that is still under way.
const WITHIN: Duration = Duration::from_secs(2);

/// What an id was found to be: a schema, or the reason why its messages are malformed.
type Found = Result<Arc<Shapes>, Arc<str>>;

/// What became of a message's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// It is known what the message is.
    Known,
    /// It was asked for just now, and cannot be used: the reason why all messages of its id are malformed.
    Unusable(String),
}

/// Decodes framed messages. Threads share one.
pub struct AvroEvents {
    registry: Arc<Registry>,
    found: RwLock<BTreeMap<i32, Found>>,
    asked: Arc<Asked>,
}

type Answer = Result<Arc<Schema>, RegistryError>;

/// Questions that are under way (`None`), and answers that nobody took yet.
#[derive(Default)]
struct Asked {
    answers: Mutex<BTreeMap<i32, Option<Answer>>>,
    arrived: Condvar,
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
        Self { registry, found: RwLock::default(), asked: Arc::default() }
    }

    /// Sees to it that [`to_json`](Self::to_json) knows the schema of this message; waits for the answer for two seconds. What
    /// a schema is, is remembered until the process ends; that the registry has none of an id, is not.
    ///
    /// # Errors
    /// [`RegistryError::UnknownSchema`] where the registry has no schema of the id: it may have it later. Else the registry
    /// could not be asked: wait and repeat if the error [is retryable](RegistryError::is_retryable).
    pub fn prepare(&self, framed: &[u8]) -> Result<Prepared, RegistryError> {
        let Some(id) = schema_id(framed) else { return Ok(Prepared::Known) };
        // Values enter the map whole, so a thread that panicked elsewhere cannot have left half of one.
        if self.found.read().unwrap_or_else(PoisonError::into_inner).contains_key(&id) {
            return Ok(Prepared::Known);
        }
        let shapes: Found = match self.ask(id) {
            Ok(schema) => Shapes::of(&schema)
                .map(Arc::new)
                .map_err(|problem| RegistryError::UnusableSchema { id, problem }.to_string().into()),
            Err(error @ RegistryError::UnknownSchema { .. }) => return Err(error),
            Err(error) if error.kind() == ErrorKind::Rejected => Err(error.to_string().into()),
            Err(error) => return Err(error),
        };
        let prepared = shapes.as_ref().map_or_else(|why| Prepared::Unusable(why.to_string()), |_| Prepared::Known);
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        found.insert(id, shapes);
        Ok(prepared)
    }

    /// Asks on a thread of its own, so that a registry that hangs does not hold up who reads other partitions.
    fn ask(&self, id: i32) -> Result<Arc<Schema>, RegistryError> {
        let mut answers = self.asked.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Vacant(free) = answers.entry(id) {
            free.insert(None);
            let (registry, asked) = (Arc::clone(&self.registry), Arc::clone(&self.asked));
            let question = move || {
                let answer = registry.schema(id);
                asked.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Some(answer));
                asked.arrived.notify_all();
            };
            if thread::Builder::new().name("schema registry".into()).spawn(question).is_err() {
                answers.remove(&id);
                drop(answers);
                return self.registry.schema(id);
            }
        }
        let open = |all: &mut BTreeMap<i32, Option<_>>| all.get(&id).is_some_and(Option::is_none);
        let waited = self.asked.arrived.wait_timeout_while(answers, WITHIN, open);
        let (mut waited, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(_)) = waited.get(&id)
            && let Some(Some(answer)) = waited.remove(&id)
        {
            return answer;
        }
        let source = io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {WITHIN:?}"));
        Err(RegistryError::Unreachable { url: self.registry.base().to_owned(), source })
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

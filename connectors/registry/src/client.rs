//! The registry's client: blocking, shared by threads, and asking for each schema once.
//!
//! A request takes ten seconds at most and is not repeated here: [`RegistryError::kind`] says whether waiting helps, and
//! the caller knows what it blocks by waiting.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::connection::{Connection, path_segment};
use crate::error::RegistryError;

/// Error codes of the API for what is not there.
const NO_SUBJECT: i64 = 40401;
const NO_VERSION: i64 = 40402;
const NO_SCHEMA: i64 = 40403;

/// The name and password that the registry asks for (HTTP basic authentication, or an API key and its secret).
#[derive(Clone)]
pub struct Credentials {
    /// The user's name, or the key.
    pub user: String,
    /// The password, or the secret.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A schema under a subject.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Registered {
    /// The schema's id: what messages are framed with.
    pub id: i32,
    /// Its version within the subject, from 1.
    pub version: i32,
    /// Its text, Avro JSON.
    pub schema: String,
}

/// Whether a schema may follow the latest one of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compatibility {
    /// It may, or the subject has none yet.
    Compatible,
    /// It may not; the reasons in words, at least one.
    Incompatible(Vec<String>),
}

/// What the registry demands of a subject's next schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompatibilityLevel {
    /// Nothing.
    None,
    /// It reads what the latest one wrote.
    Backward,
    /// It reads what any earlier one wrote: what a log that is replayed needs.
    BackwardTransitive,
    /// The latest one reads what it writes.
    Forward,
    /// Every earlier one reads what it writes.
    ForwardTransitive,
    /// Both, for the latest one.
    Full,
    /// Both, for every earlier one.
    FullTransitive,
}

impl CompatibilityLevel {
    /// The API's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }
}

/// A schema registry, and every schema that was fetched from it.
pub struct Registry {
    connection: Connection,
    schemas: RwLock<BTreeMap<i32, Arc<Schema>>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("base", &self.connection.base()).finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry at `url`, the base of its Confluent-compatible API (Apicurio: `http://HOST:PORT/apis/ccompat/v7`).
    /// Nothing is asked yet. Certificates are checked against those that the system trusts.
    ///
    /// # Errors
    /// [`RegistryError::Address`] where `url` is no http or https address, or holds a password.
    pub fn new(url: &str, credentials: Option<&Credentials>) -> Result<Self, RegistryError> {
        Ok(Self { connection: Connection::new(url, credentials)?, schemas: RwLock::default() })
    }

    /// Its address, without a password.
    pub(crate) fn base(&self) -> &str {
        self.connection.base()
    }

    /// The schema of an id, asked for once and kept for ever.
    ///
    /// # Errors
    /// [`RegistryError::UnknownSchema`], [`RegistryError::UnusableSchema`] (no Avro, or one that refers to schemas of
    /// other subjects), and what every request may meet. No error is kept: the next call asks again.
    pub fn schema(&self, id: i32) -> Result<Arc<Schema>, RegistryError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            schema: String,
            schema_type: Option<String>,
            #[serde(default)]
            references: Vec<Value>,
        }
        // A schema enters the map whole, so a thread that panicked elsewhere cannot have left half of one.
        let known = self.schemas.read().unwrap_or_else(PoisonError::into_inner).get(&id).map(Arc::clone);
        if let Some(schema) = known {
            return Ok(schema);
        }
        // No registry gives negative ids, and not all answer a question for one as they answer one for an unknown id.
        if id < 0 {
            return Err(RegistryError::UnknownSchema { id });
        }
        let answer = self.connection.ask(&Method::GET, &format!("/schemas/ids/{id}"), None)?;
        if answer.lacks(&[NO_SCHEMA]) {
            return Err(RegistryError::UnknownSchema { id });
        }
        let found: Found = answer.read()?;
        let unusable = |problem: String| RegistryError::UnusableSchema { id, problem };
        if let Some(other) = found.schema_type.filter(|other| other != "AVRO") {
            return Err(unusable(format!("it is {other}, not AVRO")));
        }
        if !found.references.is_empty() {
            return Err(unusable("it refers to schemas of other subjects; register it with them written out".into()));
        }
        let schema = Arc::new(Schema::parse_str(&found.schema).map_err(|error| unusable(error.to_string()))?);
        self.schemas.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&schema));
        Ok(schema)
    }

    /// Registers a schema (Avro JSON) under a subject and gives its id; one that stands there already keeps its id.
    ///
    /// # Errors
    /// [`RegistryError::Incompatible`] with the reasons, [`RegistryError::Invalid`], and what every request may meet.
    pub fn register(&self, subject: &str, schema: &str) -> Result<i32, RegistryError> {
        #[derive(Deserialize)]
        struct Given {
            id: i32,
        }
        let path = format!("/subjects/{}/versions", path_segment(subject));
        let answer = self.connection.ask(&Method::POST, &path, Some(&json!({ "schema": schema })))?;
        match answer.status {
            409 => {
                let messages = self.verdict(subject, schema)?.map(|verdict| verdict.messages).unwrap_or_default();
                let reasons = self.reasons(subject, schema, messages, &answer.message())?;
                Err(RegistryError::Incompatible { subject: subject.to_owned(), reasons })
            }
            422 => Err(RegistryError::Invalid { subject: subject.to_owned(), problem: answer.message() }),
            _ => Ok(answer.read::<Given>()?.id),
        }
    }

    /// Whether a schema (Avro JSON) may be registered under a subject as the next one. Nothing is registered.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] for what is no schema, and what every request may meet.
    pub fn check(&self, subject: &str, schema: &str) -> Result<Compatibility, RegistryError> {
        match self.verdict(subject, schema)? {
            None | Some(Verdict { is_compatible: true, .. }) => Ok(Compatibility::Compatible),
            Some(refused) => Ok(Compatibility::Incompatible(self.reasons(subject, schema, refused.messages, "")?)),
        }
    }

    /// The names of all subjects, sorted.
    ///
    /// # Errors
    /// What every request may meet.
    pub fn subjects(&self) -> Result<Vec<String>, RegistryError> {
        let mut subjects: Vec<String> = self.connection.ask(&Method::GET, "/subjects", None)?.read()?;
        subjects.sort_unstable();
        Ok(subjects)
    }

    /// The latest schema of a subject; `None` where the subject has none.
    ///
    /// # Errors
    /// What every request may meet.
    pub fn latest(&self, subject: &str) -> Result<Option<Registered>, RegistryError> {
        let path = format!("/subjects/{}/versions/latest", path_segment(subject));
        let answer = self.connection.ask(&Method::GET, &path, None)?;
        if answer.lacks(&[NO_SUBJECT, NO_VERSION]) { Ok(None) } else { answer.read().map(Some) }
    }

    /// Says what is demanded of a subject's schemas from now on.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] where the registry does not know the level, and what every request may meet.
    pub fn set_compatibility(&self, subject: &str, level: CompatibilityLevel) -> Result<(), RegistryError> {
        let path = format!("/config/{}", path_segment(subject));
        let answer = self.connection.ask(&Method::PUT, &path, Some(&json!({ "compatibility": level.name() })))?;
        if answer.status == 422 {
            return Err(RegistryError::Invalid { subject: subject.to_owned(), problem: answer.message() });
        }
        answer.read::<Value>().map(|_| ())
    }

    fn verdict(&self, subject: &str, schema: &str) -> Result<Option<Verdict>, RegistryError> {
        let path = format!("/compatibility/subjects/{}/versions/latest?verbose=true", path_segment(subject));
        let answer = self.connection.ask(&Method::POST, &path, Some(&json!({ "schema": schema })))?;
        if answer.status == 422 {
            return Err(RegistryError::Invalid { subject: subject.to_owned(), problem: answer.message() });
        }
        if answer.lacks(&[NO_SUBJECT, NO_VERSION]) { Ok(None) } else { answer.read().map(Some) }
    }

    /// Why a refused schema does not fit, in words: the registry's `messages`, or, as not every registry has some, our
    /// own and the text of its `refusal`.
    fn reasons(
        &self,
        subject: &str,
        schema: &str,
        messages: Vec<String>,
        refusal: &str,
    ) -> Result<Vec<String>, RegistryError> {
        if !messages.is_empty() {
            return Ok(messages);
        }
        let mut reasons = Vec::new();
        if let Some(latest) = self.latest(subject)?
            && let (Ok(old), Ok(new)) = (Schema::parse_str(&latest.schema), Schema::parse_str(schema))
        {
            let version = latest.version;
            if let Err(why) = SchemaCompatibility::can_read(&old, &new) {
                reasons.push(format!("it cannot read what version {version} wrote: {}", with_causes(&why)));
            }
            if let Err(why) = SchemaCompatibility::can_read(&new, &old) {
                reasons.push(format!("version {version} cannot read what it writes: {}", with_causes(&why)));
            }
        }
        if !refusal.is_empty() {
            reasons.push(format!("the registry says: {refusal}"));
        }
        if reasons.is_empty() {
            reasons.push("it does not fit an earlier version under the subject's compatibility level".into());
        }
        Ok(reasons)
    }
}

#[derive(Deserialize)]
struct Verdict {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;

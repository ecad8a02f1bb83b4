//! Writes events as framed messages: for producers, generators and tests.

use apache_avro::Schema;
use apache_avro::schema::{NamesRef, RecordSchema, ResolvedSchema};
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use thiserror::Error;

/// Why an event cannot be written with a schema.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{problem}", if member.is_empty() { String::new() } else { format!("{member}: ") })]
pub struct EncodeError {
    /// The member, as `context.os`; empty for the event as a whole.
    pub member: String,
    /// What does not fit.
    pub problem: String,
}

impl EncodeError {
    fn new(problem: impl Into<String>) -> Self {
        Self { member: String::new(), problem: problem.into() }
    }

    fn inside(mut self, member: &str) -> Self {
        self.member =
            if self.member.is_empty() { member.to_owned() } else { format!("{member}.{inner}", inner = self.member) };
        self
    }
}

/// Writes an event with `schema`, framed with the id that the registry gave it.
///
/// It is what [`AvroEvents::to_json`](crate::AvroEvents::to_json) reads back: bytes are base64 text in JSON, timestamps
/// milliseconds, and an object `properties` becomes text where the schema has text there (a text is taken as it is, so a
/// caller that minds the order of members gives theirs). Absent members get the schema's default.
///
/// # Errors
/// The schema cannot hold the event: a member is unknown to it, missing without a default, or of another type; or the
/// schema has a type that no event is written with (decimal, fixed, float, duration, times but milliseconds, UUID).
pub fn encode(schema: &Schema, id: i32, event: &Json) -> Result<Vec<u8>, EncodeError> {
    let broken = |error: apache_avro::Error| EncodeError::new(error.to_string());
    let (Schema::Record(record), Json::Object(_)) = (schema, event) else {
        return Err(EncodeError::new("an event is an object, and its schema a record"));
    };
    let resolved = ResolvedSchema::new(schema).map_err(broken)?;
    let writer = Writer { names: resolved.get_names() };
    let value = writer.record(record, None, event, Properties::AsText)?;
    let mut message = vec![0];
    message.extend_from_slice(&id.to_be_bytes());
    let datum = GenericDatumWriter::builder(schema).build().map_err(broken)?;
    datum.write_value(&mut message, value).map_err(broken)?;
    Ok(message)
}

/// What becomes of an object `properties` where the schema has text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Properties {
    /// Its JSON text: in the event itself.
    AsText,
    /// It does not fit: in a record further inside.
    AsTheyAre,
}

struct Writer<'s> {
    names: &'s NamesRef<'s>,
}

impl Writer<'_> {
    fn record(
        &self,
        record: &RecordSchema,
        namespace: Option<&str>,
        json: &Json,
        properties: Properties,
    ) -> Result<Avro, EncodeError> {
        let Json::Object(members) = json else { return Err(EncodeError::new("it is no object")) };
        if let Some(name) = members.keys().find(|name| !record.lookup.contains_key(*name)) {
            return Err(EncodeError::new("the schema has no such member").inside(name));
        }
        let full_name = record.name.fully_qualified_name(namespace);
        let mut fields = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let given = members.get(&field.name).or(field.default.as_ref());
            let given = given.ok_or_else(|| {
                EncodeError::new("it is missing, and the schema has no default for it").inside(&field.name)
            })?;
            let text;
            let given = if properties == Properties::AsText && field.name == "properties" && given.is_object() {
                text = Json::String(given.to_string());
                self.value(&field.schema, full_name.namespace(), &text)
                    .or_else(|_| self.value(&field.schema, full_name.namespace(), given))
            } else {
                self.value(&field.schema, full_name.namespace(), given)
            };
            fields.push((field.name.clone(), given.map_err(|error| error.inside(&field.name))?));
        }
        Ok(Avro::Record(fields))
    }

    fn value(&self, schema: &Schema, namespace: Option<&str>, json: &Json) -> Result<Avro, EncodeError> {
        match (schema, json) {
            (Schema::Null, Json::Null) => Ok(Avro::Null),
            (Schema::Boolean, Json::Bool(truth)) => Ok(Avro::Boolean(*truth)),
            (Schema::Int, Json::Number(_)) => {
                let number = json.as_i64().and_then(|number| i32::try_from(number).ok());
                number.map(Avro::Int).ok_or_else(|| EncodeError::new("it is no 32-bit integer"))
            }
            (Schema::Long, Json::Number(_)) => integer(json).map(Avro::Long),
            (Schema::TimestampMillis, Json::Number(_)) => integer(json).map(Avro::TimestampMillis),
            (Schema::Double, Json::Number(number)) => {
                number.as_f64().map(Avro::Double).ok_or_else(|| EncodeError::new("it is beyond any double"))
            }
            (Schema::String, Json::String(text)) => Ok(Avro::String(text.clone())),
            (Schema::Bytes, Json::String(text)) => {
                STANDARD.decode(text).map(Avro::Bytes).map_err(|error| EncodeError::new(error.to_string()))
            }
            (Schema::Enum(schema), Json::String(text)) => {
                let index = schema.symbols.iter().position(|symbol| symbol == text);
                let index = index.and_then(|index| u32::try_from(index).ok());
                let index = index.ok_or_else(|| EncodeError::new("it is none of the schema's symbols"))?;
                Ok(Avro::Enum(index, text.clone()))
            }
            (Schema::Array(schema), Json::Array(items)) => {
                let items: Result<_, _> = items.iter().map(|item| self.value(&schema.items, namespace, item)).collect();
                items.map(Avro::Array)
            }
            (Schema::Map(schema), Json::Object(members)) => {
                let members: Result<_, _> = members
                    .iter()
                    .map(|(name, member)| match self.value(&schema.types, namespace, member) {
                        Ok(value) => Ok((name.clone(), value)),
                        Err(error) => Err(error.inside(name)),
                    })
                    .collect();
                members.map(Avro::Map)
            }
            (Schema::Record(schema), Json::Object(_)) => self.record(schema, namespace, json, Properties::AsTheyAre),
            (Schema::Union(schema), _) => self.union(schema.variants(), namespace, json),
            (Schema::Ref { name }, _) => {
                let name = name.fully_qualified_name(namespace);
                let named = self.names.get(&*name).ok_or_else(|| EncodeError::new("its type is defined nowhere"))?;
                self.value(named, name.namespace(), json)
            }
            _ => Err(EncodeError::new("its type is not the schema's")),
        }
    }

    /// The first variant that holds the value; else the problem with the last one.
    fn union(&self, variants: &[Schema], namespace: Option<&str>, json: &Json) -> Result<Avro, EncodeError> {
        let mut problem = EncodeError::new("the schema allows no value");
        for (index, variant) in (0..).zip(variants) {
            match self.value(variant, namespace, json) {
                Ok(value) => return Ok(Avro::Union(index, Box::new(value))),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }
}

fn integer(json: &Json) -> Result<i64, EncodeError> {
    json.as_i64().ok_or_else(|| EncodeError::new("it is no 64-bit integer"))
}

//! A schema, compiled into what the decoder walks: references resolved, member names written as JSON, scales at hand.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, FixedSchema, InnerDecimalSchema, Name, RecordSchema, UuidSchema};

/// More fractional digits than any amount has; what exceeds them is a broken schema or message.
pub(crate) const MAX_SCALE: usize = 1000;

/// Where a shape stands in [`Shapes`]. A type that holds itself is a shape that names its own place.
pub(crate) type Place = usize;

/// All types of one schema; the event itself comes first.
pub(crate) struct Shapes(Vec<Shape>);

/// How one type is laid out in a message, and what it becomes.
pub(crate) enum Shape {
    Null,
    Boolean,
    /// A 32-bit integer: a number.
    Int,
    /// A 64-bit integer: a number.
    Long,
    /// A 64-bit count of the given number of units a millisecond: the number of whole milliseconds.
    Instant(i64),
    Float,
    Double,
    /// Bytes: base64 text.
    Bytes,
    /// Text.
    Text,
    /// Text that stands for a JSON object where it is one.
    ObjectText,
    /// So many bytes: base64 text.
    Fixed(usize),
    /// 16 bytes: hexadecimal text in five groups.
    Uuid(Run),
    /// A number of the given scale: text of decimal digits.
    Decimal(Run, usize),
    /// A number with its own scale: text of decimal digits.
    BigDecimal,
    /// Months, days and milliseconds: an object.
    Duration,
    /// One of these, each a JSON text.
    Enum(Vec<Vec<u8>>),
    Array(Place),
    Map(Place),
    Union(Vec<Place>),
    Record(Vec<Member>),
}

/// How many bytes there are.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// The message says so before them.
    Counted,
    /// Always these.
    Fixed(usize),
}

/// A member of a record.
pub(crate) struct Member {
    /// Its name, for reasons.
    pub(crate) name: String,
    /// `"name":`
    pub(crate) key: Vec<u8>,
    pub(crate) shape: Place,
}

impl Shapes {
    /// Compiles an event's schema.
    ///
    /// # Errors
    /// Says why the schema is not one of events.
    pub(crate) fn of(schema: &Schema) -> Result<Self, String> {
        let Schema::Record(event) = schema else {
            return Err("its outermost type is no record, as an event is".into());
        };
        let mut compiler = Compiler { shapes: Vec::new(), named: BTreeMap::new() };
        compiler.record(event, None, |name| name == "properties")?;
        Ok(Self(compiler.shapes))
    }

    pub(crate) fn get(&self, place: Place) -> &Shape {
        &self.0[place]
    }

    /// The members of the event.
    pub(crate) fn event(&self) -> &[Member] {
        match &self.0[0] {
            Shape::Record(members) => members,
            _ => unreachable!("compiling begins with a record"),
        }
    }
}

struct Compiler {
    shapes: Vec<Shape>,
    named: BTreeMap<String, Place>,
}

impl Compiler {
    fn push(&mut self, shape: Shape) -> Place {
        self.shapes.push(shape);
        self.shapes.len() - 1
    }

    fn push_named(&mut self, name: &Name, namespace: Option<&str>, shape: Shape) -> Place {
        let place = self.push(shape);
        self.named.insert(name.fullname(namespace), place);
        place
    }

    fn record(
        &mut self,
        record: &RecordSchema,
        namespace: Option<&str>,
        is_object_text: impl Fn(&str) -> bool,
    ) -> Result<Place, String> {
        // The record has its place before its members are compiled: they may refer to it.
        let place = self.push_named(&record.name, namespace, Shape::Null);
        let full_name = record.name.fully_qualified_name(namespace);
        let mut members = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let shape = if is_object_text(&field.name) {
                self.object_text(&field.schema, full_name.namespace())?
            } else {
                self.add(&field.schema, full_name.namespace())?
            };
            let mut key = json_text(&field.name);
            key.push(b':');
            members.push(Member { name: field.name.clone(), key, shape });
        }
        self.shapes[place] = Shape::Record(members);
        Ok(place)
    }

    /// A member whose text may be that of a JSON object.
    fn object_text(&mut self, schema: &Schema, namespace: Option<&str>) -> Result<Place, String> {
        match schema {
            Schema::String => Ok(self.push(Shape::ObjectText)),
            Schema::Union(union) => {
                let variants: Result<_, String> =
                    union.variants().iter().map(|variant| self.object_text(variant, namespace)).collect();
                Ok(self.push(Shape::Union(variants?)))
            }
            other => self.add(other, namespace),
        }
    }

    fn add(&mut self, schema: &Schema, namespace: Option<&str>) -> Result<Place, String> {
        let shape = match schema {
            Schema::Null => Shape::Null,
            Schema::Boolean => Shape::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Shape::Int,
            Schema::Long | Schema::TimeMicros => Shape::Long,
            Schema::TimestampMillis | Schema::LocalTimestampMillis => Shape::Instant(1),
            Schema::TimestampMicros | Schema::LocalTimestampMicros => Shape::Instant(1000),
            Schema::TimestampNanos | Schema::LocalTimestampNanos => Shape::Instant(1_000_000),
            Schema::Float => Shape::Float,
            Schema::Double => Shape::Double,
            Schema::Bytes => Shape::Bytes,
            Schema::String | Schema::Uuid(UuidSchema::String) => Shape::Text,
            Schema::Uuid(UuidSchema::Bytes) => Shape::Uuid(Run::Counted),
            Schema::BigDecimal => Shape::BigDecimal,
            Schema::Array(array) => Shape::Array(self.add(&array.items, namespace)?),
            Schema::Map(map) => Shape::Map(self.add(&map.types, namespace)?),
            Schema::Union(union) => {
                let variants: Result<_, String> =
                    union.variants().iter().map(|variant| self.add(variant, namespace)).collect();
                Shape::Union(variants?)
            }
            Schema::Fixed(fixed) => return Ok(self.fixed(fixed, namespace, Shape::Fixed(fixed.size))),
            Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                return Ok(self.fixed(fixed, namespace, Shape::Uuid(Run::Fixed(fixed.size))));
            }
            Schema::Duration(fixed) => return Ok(self.fixed(fixed, namespace, Shape::Duration)),
            Schema::Decimal(DecimalSchema { scale, inner, .. }) => {
                if *scale > MAX_SCALE {
                    return Err(format!("a decimal of scale {scale} has more than {MAX_SCALE} fractional digits"));
                }
                match inner {
                    InnerDecimalSchema::Bytes => Shape::Decimal(Run::Counted, *scale),
                    InnerDecimalSchema::Fixed(fixed) => {
                        let shape = Shape::Decimal(Run::Fixed(fixed.size), *scale);
                        return Ok(self.fixed(fixed, namespace, shape));
                    }
                }
            }
            Schema::Enum(symbols) => {
                let texts = symbols.symbols.iter().map(|symbol| json_text(symbol)).collect();
                return Ok(self.push_named(&symbols.name, namespace, Shape::Enum(texts)));
            }
            Schema::Record(record) => return self.record(record, namespace, |_| false),
            Schema::Ref { name } => {
                let name = name.fullname(namespace);
                return self.named.get(&name).copied().ok_or_else(|| format!("its type {name} is defined nowhere"));
            }
        };
        Ok(self.push(shape))
    }

    fn fixed(&mut self, fixed: &FixedSchema, namespace: Option<&str>, shape: Shape) -> Place {
        self.push_named(&fixed.name, namespace, shape)
    }
}

fn json_text(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).expect("any text can be written as JSON")
}

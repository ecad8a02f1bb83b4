//! From a message in Avro binary to a line of JSON, without values in between.
//!
//! The message is walked once, by its writer's schema, and JSON is written while it is read: nothing is allocated for a
//! record but the line itself. `apache_avro`'s own values are not used, for three reasons: its decoder takes a message
//! that is cut short inside a text or before an optional member for one with nulls (INV-6), it puts maps in the order of
//! a hash (INV-2), and it follows a type that holds itself as deep as a message says. Here a message ends where its
//! schema says or is refused, maps keep the order of the message, and depth and length are bounded (INV-8).

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::MAX_EVENT_BYTES;
use crate::decimal::push_decimal;
use crate::reader::{Fault, Reader};
use crate::shape::{MAX_SCALE, Member, Place, Run, Shape, Shapes};

/// The deepest nesting of records, arrays and maps; a line of JSON that is deeper is read by nobody.
const MAX_DEPTH: u32 = 100;

/// Whether something was written: null writes nothing, and who holds it decides what that means.
#[derive(PartialEq, Eq)]
enum Wrote {
    Something,
    Null,
}

/// Appends the event that `message` (without framing) is, as one JSON object without a line's end.
///
/// Members that are null are left out; null inside a map or an array is `null`. After an error `out` is as before.
///
/// # Errors
/// The reason why the message is no event of this schema.
pub(crate) fn push_event(shapes: &Shapes, message: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    let mut decoder = Decoder { shapes, reader: Reader(message), limit: start + MAX_EVENT_BYTES, out };
    let done = decoder.record(shapes.event(), 0).and_then(|()| decoder.finish());
    done.map_err(|fault| {
        out.truncate(start);
        fault.into_reason()
    })
}

struct Decoder<'a, 's, 'o> {
    shapes: &'s Shapes,
    reader: Reader<'a>,
    /// The length that `out` may have.
    limit: usize,
    out: &'o mut Vec<u8>,
}

impl<'a, 's> Decoder<'a, 's, '_> {
    fn finish(&self) -> Result<(), Fault<'s>> {
        match self.reader.0.len() {
            0 => self.within_limit(),
            more => Err(Fault::new(format!("the message goes on for {more} bytes after the event"))),
        }
    }

    fn within_limit(&self) -> Result<(), Fault<'s>> {
        if self.out.len() > self.limit {
            return Err(Fault::new(format!("the event is longer than {MAX_EVENT_BYTES} bytes as JSON")));
        }
        Ok(())
    }

    fn record(&mut self, members: &'s [Member], depth: u32) -> Result<(), Fault<'s>> {
        self.enter(depth)?;
        let mut opening = b'{';
        for member in members {
            let before = self.out.len();
            self.out.push(opening);
            self.out.extend_from_slice(&member.key);
            match self.value(member.shape, depth).map_err(|fault| fault.inside(&member.name))? {
                Wrote::Something => opening = b',',
                Wrote::Null => self.out.truncate(before),
            }
        }
        if opening == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
        Ok(())
    }

    /// Every value inside a container passes here, also one that takes no byte of the message, so that a count alone
    /// cannot make a line of any length.
    fn enter(&self, depth: u32) -> Result<(), Fault<'s>> {
        if depth > MAX_DEPTH {
            return Err(Fault::new(format!("the event is nested deeper than {MAX_DEPTH} levels")));
        }
        self.within_limit()
    }

    fn item(&mut self, shape: Place, depth: u32) -> Result<(), Fault<'s>> {
        if self.value(shape, depth)? == Wrote::Null {
            self.out.extend_from_slice(b"null");
        }
        self.within_limit()
    }

    fn array(&mut self, items: Place, depth: u32) -> Result<(), Fault<'s>> {
        self.enter(depth)?;
        self.out.push(b'[');
        self.each(|decoder| decoder.item(items, depth))?;
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, values: Place, depth: u32) -> Result<(), Fault<'s>> {
        self.enter(depth)?;
        self.out.push(b'{');
        self.each(|decoder| {
            let key = decoder.reader.text()?;
            decoder.text(key);
            decoder.out.push(b':');
            decoder.item(values, depth)
        })?;
        self.out.push(b'}');
        Ok(())
    }

    /// Calls `one` for every item of an array or a map, whose blocks say how many follow, with commas between.
    fn each(&mut self, mut one: impl FnMut(&mut Self) -> Result<(), Fault<'s>>) -> Result<(), Fault<'s>> {
        let mut first = true;
        loop {
            let count = self.reader.block()?;
            if count == 0 {
                return Ok(());
            }
            for _ in 0..count {
                if !first {
                    self.out.push(b',');
                }
                first = false;
                one(self)?;
            }
        }
    }

    fn value(&mut self, place: Place, depth: u32) -> Result<Wrote, Fault<'s>> {
        let shapes = self.shapes;
        match shapes.get(place) {
            Shape::Null => return Ok(Wrote::Null),
            Shape::Boolean => match self.reader.array()? {
                [0] => self.out.extend_from_slice(b"false"),
                [1] => self.out.extend_from_slice(b"true"),
                _ => return Err(Fault::new("a boolean is neither true nor false")),
            },
            Shape::Int => {
                let number = self.reader.int()?;
                self.integer(number.into());
            }
            Shape::Long => {
                let number = self.reader.long()?;
                self.integer(number);
            }
            Shape::Instant(units) => {
                let number = self.reader.long()?;
                self.integer(number.div_euclid(*units));
            }
            Shape::Float => {
                let number = f32::from_le_bytes(self.reader.array()?);
                self.number(number.is_finite(), format_args!("{number:?}"))?;
            }
            Shape::Double => {
                let number = f64::from_le_bytes(self.reader.array()?);
                self.number(number.is_finite(), format_args!("{number:?}"))?;
            }
            Shape::Bytes => {
                let bytes = self.reader.counted()?;
                self.base64(bytes);
            }
            Shape::Fixed(size) => {
                let bytes = self.reader.take(*size)?;
                self.base64(bytes);
            }
            Shape::Text => {
                let text = self.reader.text()?;
                self.text(text);
            }
            Shape::ObjectText => {
                let text = self.reader.text()?;
                self.object_text(text);
            }
            Shape::Uuid(run) => {
                let bytes = self.run(*run)?;
                self.uuid(bytes)?;
            }
            Shape::Decimal(run, scale) => {
                let unscaled = self.run(*run)?;
                self.decimal(unscaled, i64::try_from(*scale).expect("a schema's scale is at most MAX_SCALE"))?;
            }
            Shape::BigDecimal => self.big_decimal()?,
            Shape::Duration => {
                let mut part = || Ok(u32::from_le_bytes(self.reader.array()?));
                let (months, days, millis) = (part()?, part()?, part()?);
                self.write(format_args!(r#"{{"months":{months},"days":{days},"millis":{millis}}}"#));
            }
            Shape::Enum(symbols) => {
                let symbol = self.reader.choice(symbols)?;
                self.out.extend_from_slice(symbol);
            }
            Shape::Union(variants) => {
                let variant = self.reader.choice(variants)?;
                return self.value(*variant, depth);
            }
            Shape::Array(items) => self.array(*items, depth + 1)?,
            Shape::Map(values) => self.map(*values, depth + 1)?,
            Shape::Record(members) => self.record(members, depth + 1)?,
        }
        Ok(Wrote::Something)
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("memory takes what is written to it");
    }

    fn integer(&mut self, number: i64) {
        self.write(format_args!("{number}"));
    }

    /// The shortest digits that mean the same number of its own width.
    fn number(&mut self, finite: bool, digits: std::fmt::Arguments<'_>) -> Result<(), Fault<'s>> {
        if !finite {
            return Err(Fault::new("a number is infinite or none, which JSON cannot say"));
        }
        self.write(digits);
        Ok(())
    }

    fn text(&mut self, text: &str) {
        serde_json::to_writer(&mut *self.out, text).expect("any text can be written as JSON");
    }

    /// The text of a JSON object stands as it is, but for line ends between its members: an event is one line.
    fn object_text(&mut self, text: &str) {
        match serde_json::from_str::<&RawValue>(text) {
            Ok(raw) if raw.get().starts_with('{') => {
                self.out.extend(raw.get().bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
            }
            _ => self.text(text),
        }
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        let start = self.out.len();
        self.out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        STANDARD.encode_slice(bytes, &mut self.out[start..]).expect("base64 makes four characters of three bytes");
        self.out.push(b'"');
    }

    fn run(&mut self, run: Run) -> Result<&'a [u8], Fault<'s>> {
        match run {
            Run::Counted => self.reader.counted(),
            Run::Fixed(size) => self.reader.take(size),
        }
    }

    fn uuid(&mut self, bytes: &[u8]) -> Result<(), Fault<'s>> {
        if bytes.len() != 16 {
            return Err(Fault::new("a UUID has not 16 bytes"));
        }
        self.out.push(b'"');
        for (at, byte) in bytes.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                self.out.push(b'-');
            }
            self.write(format_args!("{byte:02x}"));
        }
        self.out.push(b'"');
        Ok(())
    }

    fn decimal(&mut self, unscaled: &[u8], scale: i64) -> Result<(), Fault<'s>> {
        self.out.push(b'"');
        push_decimal(self.out, unscaled, scale).map_err(Fault::new)?;
        self.out.push(b'"');
        Ok(())
    }

    /// A decimal that carries its scale: both stand inside one run of bytes.
    fn big_decimal(&mut self) -> Result<(), Fault<'s>> {
        let mut inner = Reader(self.reader.counted()?);
        let unscaled = inner.counted()?;
        let scale = inner.long()?;
        if scale.unsigned_abs() > MAX_SCALE as u64 || !inner.0.is_empty() {
            return Err(Fault::new("a decimal is broken, or its scale beyond any use"));
        }
        self.decimal(unscaled, scale)
    }
}

#[cfg(test)]
mod tests;

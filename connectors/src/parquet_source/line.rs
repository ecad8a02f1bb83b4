//! A row of the archive as the NDJSON line of its event: the inverse of how events become rows.
//!
//! Members that have a column are written from it, members of `extra` as they stand there. Objects that have both,
//! `context` and `geo`, are put together. A page that stands in its column alone (of a web server's log) is added to
//! `properties`, where the decoder looks for it.

use std::fmt::Write;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::TimestampMillisecondType;

use crate::events::{DEFAULT_TENANT, Member, members_of, push_text};

/// The columns of a batch of the archive.
pub(super) struct Rows<'a> {
    texts: Vec<&'a StringArray>,
    timestamp: &'a TimestampMillisecondArray,
    server_time: &'a TimestampMillisecondArray,
}

/// The text columns, in the order in which `Rows` holds them.
const TEXTS: [&str; 14] = [
    "tenant",
    "event_id",
    "event_type",
    "user_id",
    "session_id",
    "app_version",
    "os",
    "screen_resolution",
    "locale",
    "country",
    "city",
    "page",
    "properties",
    "extra",
];
const TENANT: usize = 0;
const REQUIRED: std::ops::Range<usize> = 1..4;
const SESSION: usize = 4;
const CONTEXT: std::ops::Range<usize> = 5..9;
const GEO: std::ops::Range<usize> = 9..11;
const PAGE: usize = 11;
const PROPERTIES: usize = 12;
const EXTRA: usize = 13;

impl<'a> Rows<'a> {
    /// The columns of a batch; none if it is no batch of whole events.
    pub(super) fn new(batch: &'a RecordBatch) -> Option<Rows<'a>> {
        let texts = TEXTS.iter().map(|name| batch.column_by_name(name)?.as_string_opt::<i32>());
        let time = |name| batch.column_by_name(name)?.as_primitive_opt::<TimestampMillisecondType>();
        Some(Rows {
            texts: texts.collect::<Option<_>>()?,
            timestamp: time("timestamp")?,
            server_time: time("server_time")?,
        })
    }

    /// The event time of a row.
    pub(super) fn time(&self, row: usize) -> i64 {
        self.timestamp.value(row)
    }

    /// Appends the line of a row, newline included.
    ///
    /// # Errors
    /// The name of a column that holds no JSON object.
    pub(super) fn write(&self, row: usize, out: &mut String) -> Result<(), &'static str> {
        let text = |column: usize| self.text(column, row);
        let extra = match text(EXTRA) {
            Some(object) => members_of(object).ok_or("extra")?,
            None => Vec::new(),
        };
        out.push('{');
        for column in REQUIRED {
            push_member(out, TEXTS[column], text(column));
        }
        out.push_str("\"timestamp\":");
        write!(out, "{}", self.time(row)).expect("a String takes all that is written");
        if self.server_time.is_valid(row) {
            write!(out, ",\"server_time\":{}", self.server_time.value(row))
                .expect("a String takes all that is written");
        }
        out.push(',');
        push_member(out, "tenant", text(TENANT).filter(|tenant| *tenant != DEFAULT_TENANT));
        push_member(out, "session_id", text(SESSION));
        push_properties(out, text(PROPERTIES), text(PAGE))?;
        for (name, columns) in [("context", CONTEXT), ("geo", GEO)] {
            if !extra.iter().any(|(key, _)| key == name) {
                self.push_object(out, name, columns, row, &[]);
            }
        }
        for (key, value) in &extra {
            match (&**key, value.get().as_bytes()[0]) {
                ("context", b'{') => self.push_object(out, key, CONTEXT, row, &members_of(value.get()).ok_or("extra")?),
                ("geo", b'{') => self.push_object(out, key, GEO, row, &members_of(value.get()).ok_or("extra")?),
                _ => {
                    push_key(out, key);
                    out.push_str(value.get());
                    out.push(',');
                }
            }
        }
        // Behind the last member stands a comma; the first members are always there.
        out.pop();
        out.push_str("}\n");
        Ok(())
    }

    fn text(&self, column: usize, row: usize) -> Option<&'a str> {
        let texts = self.texts[column];
        texts.is_valid(row).then(|| texts.value(row))
    }

    /// Writes an object of columns and members without one; nothing if there is nothing.
    fn push_object(
        &self,
        out: &mut String,
        name: &str,
        columns: std::ops::Range<usize>,
        row: usize,
        members: &[Member<'_>],
    ) {
        let before = out.len();
        push_key(out, name);
        out.push('{');
        let empty = out.len();
        for column in columns {
            push_member(out, TEXTS[column], self.text(column, row));
        }
        for (key, value) in members {
            push_key(out, key);
            out.push_str(value.get());
            out.push(',');
        }
        if out.len() == empty {
            out.truncate(before);
            return;
        }
        out.pop();
        out.push_str("},");
    }
}

fn push_key(out: &mut String, key: &str) {
    push_text(out, key);
    out.push(':');
}

fn push_member(out: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        push_key(out, name);
        push_text(out, value);
        out.push(',');
    }
}

fn push_properties(out: &mut String, properties: Option<&str>, page: Option<&str>) -> Result<(), &'static str> {
    let missing = match (properties, page) {
        (Some(object), Some(page)) => {
            let members = members_of(object).ok_or("properties")?;
            if members.iter().any(|(key, _)| key == "page") { None } else { Some((page, !members.is_empty())) }
        }
        (None, Some(page)) => Some((page, false)),
        (_, None) => None,
    };
    let object = properties.map(str::trim_ascii_end);
    match (object, missing) {
        (None, None) => return Ok(()),
        (Some(object), None) => {
            push_key(out, "properties");
            out.push_str(object);
        }
        (object, Some((missing_page, follows))) => {
            push_key(out, "properties");
            out.push_str(object.map_or(Some("{"), |object| object.strip_suffix('}')).ok_or("properties")?);
            if follows {
                out.push(',');
            }
            push_key(out, "page");
            push_text(out, missing_page);
            out.push('}');
        }
    }
    out.push(',');
    Ok(())
}

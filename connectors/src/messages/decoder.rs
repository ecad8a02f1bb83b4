//! From blocks to events: JSON as it stands in the block, Avro by way of a registry.
//!
//! Promise: every message becomes an event or a dead letter that names its offset, also one without a payload and one
//! that is only white space (INV-6).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tidemill_dataflow::source::{Block, DeadLetter, Decode, Decoded};

use super::framing::{Frame, Message, Offsets, Special, Trailer, open};
use super::schemas::schema_id;
use crate::dead_letters::mask_addresses;
use crate::events::{Bounds, NdjsonDecoder, masked};

/// Makes JSON of Avro messages in Confluent framing (a zero byte, the schema's id as four bytes, Avro).
pub trait AvroToJson: Send + Sync {
    /// Makes sure that [`to_json`](AvroToJson::to_json) can answer for this message: fetches the schema if it is not
    /// known. Called on the source's reader thread, once for each schema that a partition turns to, so it must not take long.
    ///
    /// # Errors
    /// What keeps it from knowing now and may pass; the message is waited with, and the call repeated. A schema that is there
    /// and cannot be used is no error here but of `to_json`.
    fn prepare(&self, framed: &[u8]) -> Result<(), Unprepared>;

    /// How long an id that the registry does not have is waited for before its messages are dead letters.
    fn patience(&self) -> Duration {
        Duration::from_secs(300)
    }

    /// Whether only this process can answer, because schemas are fetched where messages are read.
    fn stays(&self) -> bool {
        true
    }

    /// Appends the message as one line of JSON, an event of the collector's format, without a line break. Pure: uses
    /// what `prepare` fetched.
    ///
    /// # Errors
    /// Why it is no event, as a sentence fragment for its dead letter.
    fn to_json(&self, framed: &[u8], out: &mut Vec<u8>) -> Result<(), String>;
}

/// Why a schema is not at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unprepared {
    /// The registry could not be asked: waited for however long that takes.
    Away(String),
    /// The registry answers and has no schema of this id, or there is none to ask: waited for the stated time.
    Unknown(String),
}

/// Decodes blocks that a [`Cutter`](super::Cutter) made; `L` decodes their messages once these are lines of JSON.
#[derive(Clone)]
pub struct MessageDecoder<L = NdjsonDecoder> {
    avro: Option<Arc<dyn AvroToJson>>,
    lines: L,
}

impl<L> fmt::Debug for MessageDecoder<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageDecoder").field("avro", &self.avro.is_some()).finish()
    }
}

impl MessageDecoder {
    /// A decoder of events; without `avro`, messages of Avro are dead letters.
    #[must_use]
    pub fn new(avro: Option<Arc<dyn AvroToJson>>) -> MessageDecoder {
        MessageDecoder { avro, lines: NdjsonDecoder::default() }
    }

    /// The same, taking events that these bounds hold.
    #[must_use]
    pub fn within(self, bounds: Bounds) -> MessageDecoder {
        self.with_lines(NdjsonDecoder::within(bounds))
    }
}

impl<L> MessageDecoder<L> {
    /// The same messages as other records.
    #[must_use]
    pub fn with_lines<M>(self, lines: M) -> MessageDecoder<M> {
        MessageDecoder { avro: self.avro, lines }
    }

    /// Puts Avro messages as JSON where their lines are empty, and makes dead letters of what has no line.
    #[cold]
    fn resolve(&self, partition: u32, text: Vec<u8>, trailer: &Trailer, letters: &mut Vec<DeadLetter>) -> Vec<u8> {
        let offsets = trailer.offsets();
        let specials = trailer.specials();
        let mut letter = |row: u32, reason: String, payload: &[u8]| {
            let bytes = payload.len() as u64;
            let payload = mask_addresses(payload).into_owned();
            letters.push(DeadLetter { partition, line: offsets.of(row), reason, payload, bytes });
        };
        let any_avro = specials.iter().any(|(_, special)| matches!(special, Special::Avro(_)));
        let mut lines = any_avro.then(|| (Vec::with_capacity(2 * text.len()), text.split(|byte| *byte == b'\n'), 0));
        for (row, special) in specials {
            let json = match special {
                Special::Broken => None,
                Special::Null => {
                    letter(row, "the message has no payload".into(), &[]);
                    None
                }
                Special::Blank(bytes) => {
                    letter(row, "the message is empty".into(), bytes);
                    None
                }
                Special::Unread(framed) => {
                    letter(row, unread(framed), framed);
                    None
                }
                Special::Avro(framed) => match self.json(framed) {
                    Ok(json) => Some(json),
                    Err(reason) => {
                        letter(row, reason, framed);
                        None
                    }
                },
            };
            if let (Some((out, rest, next)), Some(json)) = (&mut lines, json) {
                for line in rest.by_ref().take((row - *next) as usize) {
                    out.extend_from_slice(line);
                    out.push(b'\n');
                }
                rest.next();
                *next = row + 1;
                out.extend_from_slice(&json);
                out.push(b'\n');
            }
        }
        match lines {
            Some((mut out, rest, _)) => {
                for line in rest {
                    out.extend_from_slice(line);
                    out.push(b'\n');
                }
                // The piece behind the last line break is no line.
                out.pop();
                out
            }
            None => text,
        }
    }

    fn json(&self, framed: &[u8]) -> Result<Vec<u8>, String> {
        let Some(avro) = &self.avro else {
            return Err("the message is Avro and no schema registry is configured; set SCHEMA_REGISTRY_URL".into());
        };
        let mut json = Vec::with_capacity(4 * framed.len());
        avro.to_json(framed, &mut json)?;
        json.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b'\r');
        Ok(json)
    }
}

impl<L: Decode> Decode for MessageDecoder<L> {
    type Record = L::Record;

    /// Schemas are fetched where messages are read.
    fn travels(&self) -> bool {
        self.avro.as_ref().is_none_or(|avro| !avro.stays())
    }

    fn decode(&mut self, block: Block, out: &mut Decoded<L::Record>) {
        let Block { partition, offset, bytes, .. } = block;
        let opened = open(bytes, offset);
        let mut special_letters = Vec::new();
        let text = match opened.trailer.is_plain() {
            true => opened.text,
            false => self.resolve(partition, opened.text, &opened.trailer, &mut special_letters),
        };
        self.lines.decode(Block { partition, offset, first_line: 1, bytes: text, skipped: 0 }, out);
        if !out.malformed.is_empty() {
            place(&mut out.malformed, &opened.trailer);
        }
        if !special_letters.is_empty() {
            out.malformed.append(&mut special_letters);
            out.malformed.sort_by_key(|letter| letter.line);
        }
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        let Block { partition, offset, first_line, bytes, .. } = block;
        let mut pieces = Vec::new();
        open(bytes, offset).for_each(|at, message| {
            let mut frame = Frame::with_capacity(message.cost());
            frame.push(at, message, 0);
            let line = first_line + pieces.len() as u64;
            pieces.push(Block { partition, offset: at, first_line: line, bytes: frame.close(), skipped: 0 });
        });
        Ok(pieces)
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        let mut payload = Vec::new();
        open(block.bytes.clone(), block.offset).for_each(|_, message| {
            payload = message.bytes().to_vec();
            if matches!(message, Message::Broken(_)) {
                payload.iter_mut().filter(|byte| **byte == b'\r').for_each(|byte| *byte = b'\n');
            }
        });
        let (bytes, payload) = (payload.len() as u64, mask_addresses(&payload).into_owned());
        DeadLetter { partition: block.partition, line: block.offset, reason: masked(&reason), payload, bytes }
    }
}

/// The same words in each replay, whatever is configured by then.
fn unread(framed: &[u8]) -> String {
    let id = schema_id(framed).unwrap_or_default();
    format!("schema id {id} was not in the registry when it was read, or SCHEMA_REGISTRY_URL was not set")
}

/// Gives letters that count lines from 1 the offsets of their messages, and their line breaks back.
#[cold]
fn place(letters: &mut [DeadLetter], trailer: &Trailer) {
    let offsets: Offsets = trailer.offsets();
    let specials = trailer.specials();
    for letter in letters {
        let row = u32::try_from(letter.line - 1).expect("a block has fewer than 2^32 lines");
        if let Ok(found) = specials.binary_search_by_key(&row, |(row, _)| *row)
            && specials[found].1 == Special::Broken
        {
            letter.payload.iter_mut().filter(|byte| **byte == b'\r').for_each(|byte| *byte = b'\n');
        }
        letter.line = offsets.of(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;

    /// Avro whose "schema 1" is the JSON itself behind the id.
    struct Plain;

    impl AvroToJson for Plain {
        fn prepare(&self, _: &[u8]) -> Result<(), Unprepared> {
            Ok(())
        }

        fn to_json(&self, framed: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
            out.extend_from_slice(framed.get(5..).unwrap_or_default());
            if framed[4] == 1 { Ok(()) } else { Err(format!("schema id {} is not in the registry", framed[4])) }
        }
    }

    fn event(id: &str) -> String {
        format!(r#"{{"event_id":"{id}","event_type":"click","user_id":"u","timestamp":1431857103000}}"#)
    }

    fn avro(schema: u8, json: &str) -> Vec<u8> {
        [&[0, 0, 0, 0, schema], json.as_bytes()].concat()
    }

    fn decode(avro: Option<Arc<dyn AvroToJson>>, messages: &[(u64, Option<Vec<u8>>)]) -> Decoded<Event> {
        let mut frame = Frame::default();
        for (offset, payload) in messages {
            frame.push(*offset, Message::of(payload.as_deref()), 0);
        }
        let offset = frame.first();
        let block = Block { partition: 3, offset, first_line: 77, bytes: frame.close(), skipped: 0 };
        let mut out = Decoded::default();
        MessageDecoder::new(avro).decode(block, &mut out);
        out
    }

    fn ids(decoded: &Decoded<Event>) -> Vec<&str> {
        decoded.records.iter().map(Event::event_id).collect()
    }

    fn letters(decoded: &Decoded<Event>) -> Vec<(u64, &str)> {
        decoded.malformed.iter().map(|letter| (letter.line, letter.reason.as_str())).collect()
    }

    #[test]
    fn a_dead_letter_names_the_offset_also_behind_gaps() {
        let messages = [(10, event("a")), (11, "{}".into()), (20, event("b")), (21, "x".into()), (30, "y".into())];
        let decoded = decode(None, &messages.map(|(offset, text)| (offset, Some(text.into_bytes()))));
        assert_eq!(ids(&decoded), ["a", "b"]);
        let lines: Vec<u64> = decoded.malformed.iter().map(|letter| letter.line).collect();
        assert_eq!(lines, [11, 21, 30]);
        assert_eq!(decoded.malformed[1].payload, b"x");
        assert_eq!(decoded.malformed[1].partition, 3);
    }

    #[test]
    fn messages_without_content_are_dead_letters() {
        let messages = [(1, None), (2, Some(b" \n".to_vec())), (3, Some(event("a").into_bytes())), (4, Some(vec![]))];
        let decoded = decode(None, &messages);
        assert_eq!(ids(&decoded), ["a"]);
        let expected = [(1, "the message has no payload"), (2, "the message is empty"), (4, "the message is empty")];
        assert_eq!(letters(&decoded), expected);
        assert_eq!(decoded.malformed[1].bytes, 2);
    }

    #[test]
    fn an_event_over_several_lines_is_one_event() {
        let pretty = event("a").replace(',', ",\r\n  ") + "\n";
        let broken = "{\n  \"event_id\": 7\n}";
        let decoded = decode(None, &[(5, Some(pretty.into_bytes())), (6, Some(broken.into()))]);
        assert_eq!(ids(&decoded), ["a"]);
        assert_eq!(decoded.malformed[0].line, 6);
        assert_eq!(decoded.malformed[0].payload, broken.as_bytes());
    }

    #[test]
    fn avro_and_json_keep_their_order() {
        let messages = [
            (0, Some(event("a").into_bytes())),
            (1, Some(avro(1, &event("b")))),
            (2, Some(avro(9, "?"))),
            (3, None),
            (4, Some(event("c").into_bytes())),
            (5, Some(avro(1, &event("d")))),
            (6, Some(avro(1, "[]"))),
        ];
        let decoded = decode(Some(Arc::new(Plain)), &messages);
        assert_eq!(ids(&decoded), ["a", "b", "c", "d"]);
        let lines: Vec<u64> = decoded.malformed.iter().map(|letter| letter.line).collect();
        assert_eq!(lines, [2, 3, 6]);
        assert_eq!(decoded.malformed[0].reason, "schema id 9 is not in the registry");
    }

    #[test]
    fn a_block_taken_apart_decodes_to_the_same_and_each_message_has_its_letter() {
        let messages = [
            (3, Some(event("a").into_bytes())),
            (4, Some(avro(1, &event("b")))),
            (9, Some(b"{\n10.1.2.3\n}".to_vec())),
            (10, None),
            (12, Some(b" ".to_vec())),
            (13, Some(event("c").replace(',', ",\n").into_bytes())),
        ];
        let plain: Option<Arc<dyn AvroToJson>> = Some(Arc::new(Plain));
        let whole = decode(plain.clone(), &messages);
        let mut frame = Frame::default();
        for (offset, payload) in &messages {
            frame.push(*offset, Message::of(payload.as_deref()), 0);
        }
        let mut decoder = MessageDecoder::new(plain);
        let block = Block { partition: 3, offset: 3, first_line: 70, bytes: frame.close(), skipped: 0 };
        let pieces = decoder.apart(block).unwrap();
        assert_eq!(pieces.iter().map(|piece| piece.offset).collect::<Vec<_>>(), messages.each_ref().map(|(at, _)| *at));
        let letter = decoder.letter(&pieces[2], "panic at 10.1.2.3".into());
        assert_eq!((letter.line, letter.reason.as_str(), letter.bytes), (9, "panic at 10.1.2.x", 12));
        assert_eq!(letter.payload, b"{\n10.1.2.x\n}");
        let (mut found, mut malformed) = (Vec::new(), Vec::new());
        for piece in pieces {
            let mut out = Decoded::default();
            decoder.decode(piece, &mut out);
            found.extend(ids(&out).into_iter().map(str::to_owned));
            malformed.append(&mut out.malformed);
        }
        assert_eq!(found, ids(&whole));
        assert_eq!(malformed, whole.malformed);
    }

    #[test]
    fn avro_without_a_registry_says_what_to_set() {
        let decoded = decode(None, &[(8, Some(avro(1, &event("a"))))]);
        assert!(decoded.records.is_empty());
        assert_eq!(decoded.malformed[0].line, 8);
        assert!(decoded.malformed[0].reason.contains("SCHEMA_REGISTRY_URL"));
    }
}

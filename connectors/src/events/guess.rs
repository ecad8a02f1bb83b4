//! What a file holds, told from its first lines: the format in which the most of them are records.
//!
//! One line proves nothing: a file may begin with a comment, a piece of a line, a hole of NULs, or a line that is too long.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use memchr::memchr;
use tidemill_dataflow::source::{Block, Decode, Decoded};

use super::format::Format;
use super::lines::{is_blank, unterminated};
use super::logs::{Directives, LogLine, LogReader, Reading};
use super::{Bounds, MAX_LINE_BYTES, NdjsonDecoder};

/// How many lines are looked at.
const LINES: usize = 1_000;
/// Bytes after which no further line is looked at.
const BYTES: usize = 2 << 20;
/// Bytes after which no further line is looked for, where most of them are in lines that are too long.
const SCANNED: u64 = 64 << 20;

/// The first lines of a file that are not blank, taken in as they are read, in bounded memory.
#[derive(Debug, Default)]
pub(crate) struct Head {
    bytes: Vec<u8>,
    /// Where each line ends in `bytes`.
    ends: Vec<usize>,
    scanned: u64,
    /// Within a line that is too long, which counts and is left out.
    skipping: bool,
    too_long: usize,
    /// The first bytes behind white space, whatever lines they are in.
    start: Vec<u8>,
    /// However many they are.
    all: bool,
}

/// What a file is in which hardly a line is a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A JSON array of objects.
    Array,
    /// JSON objects over several lines.
    Pretty,
    Csv,
    Markup,
    /// What a web server says of itself, beside its access log.
    ErrorLog,
    /// A W3C log whose `#Fields:` line is missing.
    W3cWithoutFields,
    /// No text at all.
    Binary,
    /// Anything else.
    Text,
}

/// How many bytes show whether a file begins as an array.
const START: usize = 64;

/// What a file seems to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guess {
    pub(crate) format: Format,
    /// What people call what the lines look like.
    pub(crate) name: &'static str,
    /// How many of how many lines are records of the format.
    pub(crate) records: usize,
    pub(crate) lines: usize,
}

impl Head {
    /// All of some whole lines, which are as many as a block holds.
    pub(crate) fn all_of(lines: &[u8]) -> Head {
        let mut head = Head { all: true, ..Head::default() };
        head.take(lines);
        head.end();
        head
    }

    /// Takes the next bytes of the file; gives whether more are wanted.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() && self.wants() {
            let newline = memchr(b'\n', bytes);
            let (piece, rest) = bytes.split_at(newline.map_or(bytes.len(), |at| at + 1));
            self.scanned += piece.len() as u64;
            if self.start.len() < START {
                let behind = if self.start.is_empty() { piece.trim_ascii_start() } else { piece };
                self.start.extend(behind.iter().take(START - self.start.len()));
            }
            if !self.skipping {
                self.bytes.extend_from_slice(piece);
                let start = self.start();
                if self.bytes.len() - start > MAX_LINE_BYTES + 2 {
                    self.skipping = true;
                    self.bytes.truncate(start);
                }
            }
            if newline.is_some() {
                self.end();
            }
            bytes = rest;
        }
        self.wants()
    }

    /// The line that is being read ends here.
    pub(crate) fn end(&mut self) {
        let start = self.start();
        if std::mem::take(&mut self.skipping) {
            self.too_long += 1;
        } else if is_blank(unterminated(&self.bytes[start..])) {
            self.bytes.truncate(start);
        } else {
            self.ends.push(self.bytes.len());
        }
    }

    fn start(&self) -> usize {
        self.ends.last().copied().unwrap_or_default()
    }

    fn wants(&self) -> bool {
        let is_short = self.ends.len() + self.too_long < LINES && self.start() < BYTES && self.scanned < SCANNED;
        self.all || is_short
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let ranges = starts.zip(&self.ends).map(|(start, end)| Range { start, end: *end });
        ranges.map(|range| unterminated(&self.bytes[range]))
    }

    /// The format in which most lines are records; `None` if no line is one in any.
    pub(crate) fn guess(&self) -> Option<Guess> {
        self.guess_within(Bounds::of_archive(), None).or_else(|| self.header())
    }

    /// The same where a record is what these bounds hold, behind what directives said before.
    pub(crate) fn guess_within(&self, bounds: Bounds, directives: Option<&Arc<Directives>>) -> Option<Guess> {
        let mut best: Option<Guess> = None;
        let events = self.events(bounds).map(|records| ("NDJSON events", Format::Ndjson, records));
        let logs = LogReader::GUESSED.into_iter().filter_map(|reader| {
            let (name, records) = self.logged(&reader, bounds, directives)?;
            Some((name, Format::Log(reader), records))
        });
        for (name, format, records) in events.into_iter().chain(logs) {
            if best.as_ref().is_none_or(|best| best.records < records) {
                let lines = self.ends.len() + self.too_long;
                best = Some(Guess { format, name, records, lines });
            }
        }
        best
    }

    /// A W3C log of which no more than the header is written yet.
    fn header(&self) -> Option<Guess> {
        let is_header = |line| std::str::from_utf8(line).is_ok_and(Directives::are_named_by);
        let lines = self.ends.len();
        let format = Format::Log(LogReader::W3c);
        (lines > 0 && self.too_long == 0 && self.lines().all(is_header)).then_some(Guess {
            format,
            name: "W3C extended log",
            records: 0,
            lines,
        })
    }

    /// What the file is, where no more than half of its lines are records; that it is a text says nothing.
    pub(crate) fn shape(&self, records: usize) -> Shape {
        if records * 2 > self.ends.len() + self.too_long {
            return Shape::Text;
        }
        let inside = self.start.strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
        if inside.is_some_and(|inside| inside.starts_with(b"{")) {
            return Shape::Array;
        }
        if self.is_pretty() {
            return Shape::Pretty;
        }
        if self.start.starts_with(b"<") {
            return Shape::Markup;
        }
        if records == 0 && is_binary(&self.bytes) {
            return Shape::Binary;
        }
        if records == 0 && self.lines().any(|line| W3C_DIRECTIVES.iter().any(|name| line.starts_with(name))) {
            return Shape::W3cWithoutFields;
        }
        let errors = self.lines().filter(|line| is_of_an_error_log(line)).count();
        if records == 0 && errors > 0 && errors * 2 >= self.ends.len() {
            return Shape::ErrorLog;
        }
        let is_csv = records == 0 && [b',', b';', b'\t'].into_iter().any(|separator| self.is_separated_by(separator));
        if is_csv { Shape::Csv } else { Shape::Text }
    }

    /// Whether the first object of JSON goes on over its line.
    fn is_pretty(&self) -> bool {
        let Some(first_line) = self.ends.first().filter(|_| self.start.starts_with(b"{") && self.ends.len() > 1) else {
            return false;
        };
        let mut objects = serde_json::Deserializer::from_slice(&self.bytes).into_iter::<serde::de::IgnoredAny>();
        match objects.next() {
            Some(Ok(_)) => objects.byte_offset() >= *first_line,
            Some(Err(error)) => error.is_eof(),
            None => false,
        }
    }

    /// Whether most lines have as many of these as the first.
    fn is_separated_by(&self, separator: u8) -> bool {
        let columns = |line: &[u8]| memchr::memchr_iter(separator, line).count();
        let first = self.lines().next().map_or(0, columns);
        let same = self.lines().filter(|line| columns(line) == first).count();
        first > 0
            && self.ends.len() > 1
            && same * 5 >= self.ends.len() * 4
            && !self.lines().any(|line| line.trim_ascii_start().starts_with(b"{"))
    }

    /// How many lines are events.
    fn events(&self, bounds: Bounds) -> Option<usize> {
        if !self.lines().any(|line| line.trim_ascii_start().starts_with(b"{")) {
            return None;
        }
        let block = Block { partition: 0, offset: 0, first_line: 0, bytes: self.bytes.clone(), skipped: 0 };
        let mut decoded = Decoded::default();
        NdjsonDecoder::within(bounds).decode(block, &mut decoded);
        Some(decoded.records.len()).filter(|records| *records > 0)
    }

    /// What the lines of a log look like most often, and how many are records of it.
    fn logged(
        &self,
        reader: &LogReader,
        bounds: Bounds,
        directives: Option<&Arc<Directives>>,
    ) -> Option<(&'static str, usize)> {
        let mut looks = BTreeMap::new();
        let mut records = 0;
        let (mut lines, mut read) = (reader.lines(directives.cloned()), LogLine::default());
        for line in self.lines() {
            if let Ok(line) = std::str::from_utf8(line)
                && let Reading::Record(name) = lines.read(line, &mut read)
                && read.time.is_some_and(|time| bounds.hold(time))
            {
                *looks.entry(name).or_insert(0_usize) += 1;
                records += 1;
            }
        }
        let (name, _) = looks.into_iter().max_by_key(|(_, count)| *count)?;
        Some((name, records))
    }
}

/// Lines by which a W3C log is known, beside the one that names its fields.
const W3C_DIRECTIVES: [&[u8]; 5] = [b"#Version:", b"#Software:", b"#Date:", b"#Start-Date:", b"#Remark:"];

/// Whether bytes are no text: not UTF-8, and of many control characters. A hole of NULs in a log is no sign of that.
fn is_binary(bytes: &[u8]) -> bool {
    let is_control = |byte: &&u8| byte.is_ascii_control() && !matches!(byte, 0 | b'\t' | b'\n' | b'\r' | 0x1b);
    let written = bytes.iter().filter(|byte| **byte != 0).count();
    std::str::from_utf8(bytes).is_err() && bytes.iter().filter(is_control).count() * 20 > written
}

/// Whether a line is one of the error log of nginx (`2026/03/10 10:00:00 [error] ..`) or Apache (`[Tue Mar 10 10:00:00.1 2026] [..`).
fn is_of_an_error_log(line: &[u8]) -> bool {
    let fits = |pattern: &[u8]| {
        let byte_fits = |(byte, wanted): (&u8, &u8)| match wanted {
            b'0' => byte.is_ascii_digit(),
            b'a' => byte.is_ascii_alphabetic(),
            wanted => byte == wanted,
        };
        line.len() > pattern.len() && line.iter().zip(pattern).all(byte_fits)
    };
    fits(b"0000/00/00 00:00:00 [") || fits(b"[aaa aaa 00 00:00:00") && memchr::memmem::find(line, b"] [").is_some()
}

impl Shape {
    /// Why a file of this shape is not read, if it is not; `file` is its name, and `packed` whether it must be unpacked first.
    pub(crate) fn refusal(self, file: &str, packed: bool) -> Option<String> {
        let (what, filter) = match self {
            Shape::Array => ("it is a JSON array, and what is read is one object a line", "'.[]'"),
            Shape::Pretty => ("its JSON objects go over several lines, and what is read is one a line", "."),
            Shape::Binary => return Some("it is no text; give files of lines: NDJSON or web server logs".to_owned()),
            Shape::Csv | Shape::Markup | Shape::ErrorLog | Shape::W3cWithoutFields | Shape::Text => return None,
        };
        let unpack = if packed { "unpack it, then write them so" } else { "write them so" };
        let file = if file.contains([' ', '\'']) { format!("{file:?}") } else { file.to_owned() };
        Some(format!("{what}; {unpack} (jq -c {filter} {file} > {file}.ndjson) and give that"))
    }

    /// Why a line that does not begin like an object is malformed, where the format of its file is not known.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Shape::Csv => "the file looks like CSV; events are JSON objects, one a line",
            Shape::Markup => "the file looks like XML or HTML; events are JSON objects, one a line",
            Shape::ErrorLog => "the file looks like a server's error log; give its access log",
            Shape::W3cWithoutFields => "the file looks like a W3C log without its #Fields line; put that line in front",
            _ => "neither an event nor a line of a known log format; --format or --log-format says what it is",
        }
    }
}

impl Guess {
    /// What is said of a file.
    pub(crate) fn sentence(&self, file: &str) -> String {
        let (name, records, lines) = (self.name, self.records, self.lines);
        let of = match lines {
            _ if records == 0 => "it has a header only".to_owned(),
            1 => "its only line".to_owned(),
            _ if lines < LINES => format!("{records} of its {lines} lines"),
            _ => format!("{records} of the first {LINES} lines"),
        };
        format!("{file}: read as {name} ({of}); --format or --log-format says otherwise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Head {
        fn of(lines: &[u8]) -> Head {
            let mut head = Head::default();
            head.take(lines);
            head.end();
            head
        }
    }

    const EVENT: &str = r#"{"event_id":"e","event_type":"click","user_id":"u","timestamp":1773136800000}"#;
    const LINE: &str = r#"192.0.2.1 - - [10/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 12 "-" "agent""#;

    fn guess(text: impl AsRef<[u8]>) -> Option<(Format, usize, usize)> {
        Head::of(text.as_ref()).guess().map(|guess| (guess.format, guess.records, guess.lines))
    }

    fn log(records: usize, lines: usize) -> Option<(Format, usize, usize)> {
        Some((Format::Log(LogReader::Combined), records, lines))
    }

    #[test]
    fn the_format_of_most_lines_wins() {
        assert_eq!(guess(format!("{LINE}\n{EVENT}\n{LINE}\n")), log(2, 3));
        assert_eq!(guess(format!("{LINE}\n{EVENT}\n{EVENT}\n")), Some((Format::Ndjson, 2, 3)));
        assert_eq!(guess(format!("\n \r\n{LINE}\r\n")), log(1, 1));
        for nothing in ["", "\n \n", "name,age\nx,1\n", "{}\n", "{\"a\":1}\n", "hello", "# x\n", "#Date: 1\nx\n"] {
            assert_eq!(guess(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn odd_first_lines_change_nothing() {
        let too_long = "x".repeat(MAX_LINE_BYTES + 10);
        for odd in [
            "# started",
            "zilla/5.0\"",
            &"\0".repeat(4_000),
            &too_long,
            &format!("{too_long}{too_long}"),
            "{",
            "\u{fffd}",
        ] {
            assert_eq!(guess(format!("{odd}\n{LINE}\n{LINE}\n")), log(2, 3));
        }
        assert_eq!(guess([b"\xff\xfe\n", LINE.as_bytes()].concat()), log(1, 2));
    }

    #[test]
    fn the_head_is_bounded_and_does_not_depend_on_how_it_is_read() {
        let text = format!("{}{}", "odd\n".repeat(600), format!("{LINE}\n").repeat(800));
        assert_eq!(guess(&text), log(400, 1_000));
        let mut head = Head::default();
        for piece in text.as_bytes().chunks(7) {
            head.take(piece);
        }
        head.end();
        let whole = Head::of(text.as_bytes()).guess().unwrap();
        assert_eq!(head.guess().unwrap(), whole);
        let mut endless = Head::default();
        while endless.take(&[b'x'; 1 << 16]) {}
        assert!(endless.bytes.len() <= MAX_LINE_BYTES + 2);
    }

    #[test]
    fn a_file_that_is_no_lines_is_told_by_its_shape() {
        let pretty = EVENT.replace(',', ",\n  ").replace('{', "{\n  ");
        let array = format!("[\n{EVENT},\n{EVENT}\n]\n");
        for (text, shape) in [
            (array.clone(), Shape::Array),
            (format!("[{EVENT},{EVENT}]"), Shape::Array),
            (format!("\n [ {EVENT},\n"), Shape::Array),
            (format!("[{}", "{\"a\":1},".repeat(200_000)), Shape::Array),
            (format!("{pretty}\n{pretty}\n"), Shape::Pretty),
            (pretty.trim_end_matches('}').to_owned(), Shape::Pretty),
            (format!("{EVENT}\n{EVENT}\n"), Shape::Text),
            (format!("[\n{EVENT}\n{EVENT}\n{EVENT}\n"), Shape::Text),
            ("{\"a\":1}\n{\"a\":2}\n".to_owned(), Shape::Text),
            ("{\"a\":\n".to_owned(), Shape::Text),
            ("{\"a\": x\n{\"b\":1}\n".to_owned(), Shape::Text),
            ("name,age\nx,1\ny,2\n".to_owned(), Shape::Csv),
            ("name\tage\nx\t1\ny\t2\n".to_owned(), Shape::Csv),
            ("<?xml version=\"1.0\"?>\n<a/>\n".to_owned(), Shape::Markup),
            ("#Version: 1.0\n#Date: 2026-03-10\n2026-03-10\t10:00:00\tIAD\n".to_owned(), Shape::W3cWithoutFields),
            ("2026/03/10 10:00:00 [error] 1#0: *1 a, client: x, server: y\n".repeat(2), Shape::ErrorLog),
            ("[Tue Mar 10 10:00:00.123456 2026] [core:error] [pid 1] a, b\n".repeat(3), Shape::ErrorLog),
            ("a\x01b\x01c\n".repeat(9), Shape::Text),
            ("[2026-03-10] started\n".to_owned(), Shape::Text),
            (LINE.to_owned(), Shape::Text),
            (String::new(), Shape::Text),
        ] {
            let head = Head::of(text.as_bytes());
            let records = head.guess().map_or(0, |guess| guess.records);
            assert_eq!(head.shape(records), shape, "{}", &text[..text.len().min(200)]);
        }
        let noise: Vec<u8> = (0..4_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        for (content, shape) in
            [(noise.clone(), Shape::Binary), ([&b"\xff\0\0"[..], LINE.as_bytes()].concat(), Shape::Text)]
        {
            let head = Head::of(&content);
            assert_eq!(head.shape(head.guess().map_or(0, |guess| guess.records)), shape);
        }
        let behind_noise = Head::of(&[&noise[..], b"\n", LINE.as_bytes()].concat());
        assert_eq!(behind_noise.shape(behind_noise.guess().unwrap().records), Shape::Text, "a record is a record");
        let refusal = Shape::Array.refusal("a b.json", false).unwrap();
        assert!(refusal.contains("JSON array") && refusal.contains("jq -c '.[]' \"a b.json\" >"), "{refusal}");
        assert!(Shape::Pretty.refusal("a.gz", true).unwrap().contains("unpack it, then"));
        assert_eq!(Shape::Csv.refusal("a", false), None);
    }

    #[test]
    fn a_sentence_says_how_many_lines_were_read_as_what() {
        let main = format!("{LINE} \"198.51.100.7\"\n");
        for (text, expected) in [
            (main.repeat(1_200), "read as nginx main (1000 of the first 1000 lines)"),
            (format!("#\n{main}"), "read as nginx main (1 of its 2 lines)"),
            (format!("{EVENT}\n"), "read as NDJSON events (its only line)"),
            (format!("shop.example:443 {LINE}\n").repeat(3), "read as vhost_combined (3 of its 3 lines)"),
            ("#Version: 1.0\n#Fields: date time\n".to_owned(), "read as W3C extended log (it has a header only)"),
            (format!("{LINE} 0.003\n"), "read as Combined Log Format with more behind it (its only line)"),
        ] {
            let sentence = Head::of(text.as_bytes()).guess().unwrap().sentence("a.log");
            assert!(sentence.starts_with(&format!("a.log: {expected};")), "{sentence}");
        }
    }
}

//! Web server logs: the formats that are known, and those that a format string describes.

use tidemill_connectors::events::{Event, Format, HashKey, LogDecoder, LogReader};
use tidemill_dataflow::source::{Block, Decode, Decoded};

use crate::events::{block, check, check_letter, said};
use crate::input::Input;
use crate::memory::within;

const FORMATS: [LogReader; 5] =
    [LogReader::Combined, LogReader::VhostCombined, LogReader::Json, LogReader::W3c, LogReader::Alb];

/// What logs and format strings are made of.
pub(crate) const WORDS: [&str; 56] = [
    "203.0.113.9",
    "2001:db8::1",
    " - - ",
    "[10/Mar/2026:10:00:00 +0000]",
    "2026-03-10T10:00:00.250Z",
    "1773136800.250",
    "\"GET /a?b=c HTTP/1.1\"",
    " 200 12 ",
    " 503 - ",
    "\"-\"",
    "\\x22",
    "\\\"",
    "\"\"",
    "%20",
    "%2520",
    "\t",
    "\n",
    "\r\n",
    "#Fields: ",
    "#Date: 2026-03-10",
    "date time c-ip cs-method cs-uri-stem cs-uri-query sc-status",
    "cs(User-Agent)",
    "x-edge-location",
    "log_format main ",
    "LogFormat ",
    "escape=json ",
    "'",
    "\"",
    ";",
    "$remote_addr",
    "$remote_user",
    "$time_local",
    "$time_iso8601",
    "$msec",
    "$request",
    "$request_uri",
    "$status",
    "$http_user_agent",
    "${http_referer}",
    "$upstream_addr",
    "%h",
    "%a",
    "%t",
    "%{%Y-%m-%d %H:%M:%S}t",
    "%{usec}t",
    "%{User-Agent}i",
    "%!200,304r",
    "%>s",
    "%^FB",
    "%U%q",
    "{\"time\":\"",
    "\"remote_addr\":\"",
    "\"request\":\"",
    "\"status\":200",
    "\0",
    "é",
];

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let choice = usize::from(input.byte());
    let reader = match FORMATS.get(choice % (FORMATS.len() + 1)) {
        Some(reader) => reader.clone(),
        None => {
            let Ok(format) = std::str::from_utf8(input.until_nul()) else { return };
            match compile(format) {
                Some(reader) => reader,
                None => return,
            }
        }
    };
    let whole = block(input.0.to_vec());
    let mut decoder = LogDecoder::new("access.log", HashKey::default(), reader.clone());
    // Pseudonyms and properties are made anew; a line of three bytes is no event.
    let decoded = within(input.0.len() * 100 + (256 << 10), || decode(&mut decoder, whole.clone()));
    decoded.malformed.iter().for_each(check_letter);
    for event in &decoded.records {
        check(event);
        let user = event.user().text;
        assert!(user.len() == 16 && user.bytes().all(|byte| byte.is_ascii_hexdigit()), "{user} is a pseudonym");
    }
    let lines = input.0.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    assert!(decoded.records.len() + decoded.malformed.len() <= lines, "no line is two");
    // A line of a W3C log means what the directives before it say.
    if reader != LogReader::W3c {
        let parts = decoder.apart(whole).expect("lines can be taken apart");
        let mut apart = Decoded::default();
        for part in parts {
            let one = decode(&mut decoder, part);
            apart.records.extend(one.records);
            apart.malformed.extend(one.malformed);
        }
        assert_eq!(said(&decoded.records), said(&apart.records), "a block is what its lines are");
        assert_eq!(decoded.malformed, apart.malformed, "a block is what its lines are");
    }
}

fn decode(decoder: &mut LogDecoder, block: Block) -> Decoded<Event> {
    let mut decoded = Decoded::default();
    decoder.decode(block, &mut decoded);
    decoded
}

/// The reader of a format string, if it is one; it is what its recorded name means.
fn compile(format: &str) -> Option<LogReader> {
    match Format::of_log(format) {
        Ok(compiled) => {
            let again: Result<Format, _> = compiled.name().parse();
            assert_eq!(again.as_ref().ok(), Some(&compiled), "a format is its recorded name: {format}");
            match compiled {
                Format::Log(reader) => Some(reader),
                _ => None,
            }
        }
        Err(refused) => {
            assert!(!refused.to_string().is_empty());
            None
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let combined = "203.0.113.9 - bob smith [10/Mar/2026:10:00:00 +0000] \"GET /a?b=c HTTP/1.1\" 200 12 \"https://x.example/\" \
        \"Mozilla/5.0 (X11; \\x22x\\x22)\" \"198.51.100.7, 203.0.113.9\" 0.003 rt=0.1\n";
    let json = "{\"time\":\"2026-03-10T10:00:00Z\",\"remote_addr\":\"203.0.113.9\",\"request\":{\"method\":\"GET\",\"uri\":\"/a\"},\
        \"status\":200,\"headers\":{\"User-Agent\":[\"x\"]}}\n{\"ts\":1773136800.25,\"request\":\"GET / HTTP/1.0\"}\n";
    let w3c = "#Version: 1.0\n#Date: 2026-03-10 10:00:00\n#Fields: date time c-ip cs-method cs-uri-stem cs-uri-query sc-status \
        cs(User-Agent)\n2026-03-10 10:00:00 203.0.113.9 GET /a b=c 200 Mozilla/5.0+(X11)\n#Fields: time c-ip cs-method \
        cs-uri-stem\n10:00:01 203.0.113.9 GET /b\n";
    let alb = "http 2026-03-10T10:00:00.186641Z app/my-lb 203.0.113.9:2817 10.0.0.1:80 0.000 0.001 0.000 200 200 34 366 \
        \"GET http://shop.example:80/a?b=c HTTP/1.1\" \"curl/7.46.0\" - - arn:x \"Root=1\" \"-\" \"-\" 0 \
        2026-03-10T10:00:00.186641Z \"forward\" \"-\" \"-\" \"10.0.0.1:80\" \"200\" \"-\" \"-\"\n";
    let nginx = "log_format main '$remote_addr - $remote_user [$time_local] \"$request\" '\n '$status \"$http_user_agent\" \
        $upstream_addr';\x00203.0.113.9 - - [10/Mar/2026:10:00:00 +0000] \"GET /a HTTP/1.1\" 200 \"x\" 10.0.0.1:80\n";
    let apache = "LogFormat \"%v %h %l %u %t \\\"%r\\\" %>s %b \\\"%{User-Agent}i\\\" %D\" timed\x00shop.example 203.0.113.9 - - \
        [10/Mar/2026:10:00:00 +0000] \"GET /a HTTP/1.1\" 200 12 \"an agent\" 3000\n";
    let strftime = "%{%Y-%m-%d %H:%M:%S}t %a \"%r\" %s \"%{User-Agent}i\"\x002026-03-10 10:00:00 203.0.113.9 \"GET / HTTP/1.1\" 200 \"x\"\n";
    [(0, combined), (1, combined), (2, json), (3, w3c), (4, alb), (5, nginx), (5, apache), (5, strftime)]
        .map(|(choice, text)| [&[choice], text.as_bytes()].concat())
        .to_vec()
}

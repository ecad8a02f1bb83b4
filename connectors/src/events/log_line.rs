//! One line of a web server's log in Common or Combined Log Format, borrowed and taken apart.
//!
//! `host ident user [day/month/year:hour:minute:second zone] "request" status bytes`, in Combined also
//! `"referrer" "agent"`. The line must match whole. A quoted field ends at the first quote without a backslash
//! before it; texts are kept as the server wrote them, escapes included.

use tidemill_dataflow::time::EventTime;

/// A line that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogLine<'a> {
    pub(super) address: &'a str,
    pub(super) user: &'a str,
    pub(super) time: EventTime,
    pub(super) request: &'a str,
    pub(super) status: u16,
    pub(super) status_text: &'a str,
    pub(super) bytes: Option<u64>,
    /// Empty in Common Log Format.
    pub(super) referrer: &'a str,
    /// Empty in Common Log Format.
    pub(super) agent: &'a str,
}

/// A request that is made of method, target and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) protocol: &'a str,
}

impl<'a> LogLine<'a> {
    /// Takes a line without its terminator apart; `None` if it does not match.
    pub(super) fn parse(line: &'a str) -> Option<LogLine<'a>> {
        let (address, rest) = word(line)?;
        let (_ident, rest) = word(rest)?;
        let (user, rest) = word(rest)?;
        let (time, rest) = rest.strip_prefix('[')?.split_at_checked(26)?;
        let time = parse_time(time.as_bytes())?;
        let (request, rest) = quoted(rest.strip_prefix("] ")?)?;
        let rest = rest.strip_prefix(' ')?;
        let (status_text, rest) = rest.split_at_checked(3)?;
        let status = u16::try_from(number(status_text.as_bytes())?).ok()?;
        let rest = rest.strip_prefix(' ')?;
        let (bytes, rest) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
        let bytes = if bytes == "-" { None } else { Some(number(bytes.as_bytes())?) };
        let (referrer, agent) = if rest.is_empty() {
            ("", "")
        } else {
            let (referrer, rest) = quoted(rest.strip_prefix(' ')?)?;
            let (agent, rest) = quoted(rest.strip_prefix(' ')?)?;
            if !rest.is_empty() {
                return None;
            }
            (referrer, agent)
        };
        Some(LogLine { address, user, time, request, status, status_text, bytes, referrer, agent })
    }

    /// The request's parts; `None` for anything but `METHOD TARGET PROTOCOL`.
    ///
    /// A target with spaces in it, which no client may send but some do, reaches to the last one.
    pub(super) fn request(&self) -> Option<Request<'a>> {
        let (method, rest) = self.request.split_once(' ')?;
        let (target, protocol) = rest.rsplit_once(' ')?;
        let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_graphic());
        if !is_method || target.is_empty() || !protocol.starts_with("HTTP/") {
            return None;
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Some(Request { method, path, query, protocol })
    }
}

impl Request<'_> {
    /// Whether the path names something that a page is made of, by its extension in any case.
    pub(super) fn is_asset(&self) -> bool {
        const ASSETS: [&str; 19] = [
            "css", "js", "mjs", "map", "png", "jpg", "jpeg", "gif", "svg", "ico", "webp", "avif", "woff", "woff2",
            "ttf", "eot", "mp4", "webm", "mp3",
        ];
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').is_some_and(|(_, extension)| ASSETS.iter().any(|a| a.eq_ignore_ascii_case(extension)))
    }
}

/// A word of at least one character, and what follows its space.
fn word(text: &str) -> Option<(&str, &str)> {
    let (word, rest) = text.split_once(' ')?;
    let fits = !word.is_empty() && word.chars().all(|c| !c.is_whitespace() && !c.is_control());
    fits.then_some((word, rest))
}

/// The inside of a quoted field, and what follows its closing quote.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('"')?;
    let bytes = inside.as_bytes();
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', &bytes[at..])?;
        if bytes[at] == b'"' {
            return Some((&inside[..at], &inside[at + 1..]));
        }
        // What follows the backslash is no ASCII quote if it is the start of a longer character.
        at = (at + 2).min(bytes.len());
    }
}

/// `17/May/2015:10:05:03 +0000` as a time within the years 1970 to 9999.
fn parse_time(text: &[u8]) -> Option<EventTime> {
    const MONTHS: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let marks = [(2, b'/'), (6, b'/'), (11, b':'), (14, b':'), (17, b':'), (20, b' ')];
    if text.len() != 26 || marks.iter().any(|(at, mark)| text[*at] != *mark) {
        return None;
    }
    let part = |from: usize, to: usize| number(&text[from..to]).and_then(|n| i64::try_from(n).ok());
    let day = part(0, 2)?;
    let month = MONTHS.iter().position(|name| name[..] == text[3..6])?;
    let year = part(7, 11)?;
    let (hour, minute, second) = (part(12, 14)?, part(15, 17)?, part(18, 20)?);
    let (zone_hours, zone_minutes) = (part(22, 24)?, part(24, 26)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let valid = (1..=lengths[month]).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !valid || zone_hours >= 24 || zone_minutes >= 60 {
        return None;
    }
    let zone = match text[21] {
        b'+' => zone_hours * 60 + zone_minutes,
        b'-' => -(zone_hours * 60 + zone_minutes),
        _ => return None,
    };
    let days_before_month: i64 = lengths[..month].iter().sum();
    // Leap days from year 1 to the end of the year before, then days since 1970-01-01, which is day 719,162.
    let before = year - 1;
    let days = 365 * before + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 719_162
        + days_before_month
        + day
        - 1;
    let seconds = days * 86_400 + hour * 3_600 + (minute - zone) * 60 + second;
    (0..=253_402_300_799).contains(&seconds).then_some(EventTime(seconds * 1_000))
}

/// At least one decimal digit and nothing else, within 64 bits.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn time(text: &str, expected: Option<i64>) {
        assert_eq!(parse_time(text.as_bytes()), expected.map(EventTime), "{text}");
    }

    #[test]
    fn times_are_real_days_with_their_zone() {
        time("17/May/2015:10:05:03 +0000", Some(1_431_857_103_000));
        time("17/May/2015:10:05:03 +0200", Some(1_431_849_903_000));
        time("17/May/2015:10:05:03 -0330", Some(1_431_869_703_000));
        time("29/Feb/2016:00:00:00 +0000", Some(1_456_704_000_000));
        time("01/Jan/1970:00:00:00 +0000", Some(0));
        time("31/Dec/9999:23:59:59 +0000", Some(253_402_300_799_000));
        for wrong in [
            "29/Feb/2015:00:00:00 +0000",
            "31/Apr/2015:00:00:00 +0000",
            "00/May/2015:00:00:00 +0000",
            "17/may/2015:10:05:03 +0000",
            "17/May/2015:24:05:03 +0000",
            "17/May/2015:10:60:03 +0000",
            "17/May/2015:10:05:60 +0000",
            "17/May/2015:10:05:03 00000",
            "17/May/2015:10:05:03 +2400",
            "17/May/2015 10:05:03 +0000",
            "01/Jan/1970:00:00:00 +0100",
            "31/Dec/9999:23:59:59 -0001",
        ] {
            time(wrong, None);
        }
    }

    const LINE: &str =
        r#"203.0.113.9 - ann [17/May/2015:10:05:03 +0000] "GET /a?b=c HTTP/1.1" 200 12 "http://x/" "Moz \"q\" \\""#;

    #[test]
    fn a_line_is_taken_apart_with_its_escapes() {
        let line = LogLine::parse(LINE).unwrap();
        assert_eq!((line.address, line.user, line.status, line.bytes), ("203.0.113.9", "ann", 200, Some(12)));
        assert_eq!((line.referrer, line.agent), ("http://x/", r#"Moz \"q\" \\"#));
        let request = Request { method: "GET", path: "/a", query: Some("b=c"), protocol: "HTTP/1.1" };
        assert_eq!(line.request(), Some(request));
    }

    #[test]
    fn only_a_whole_line_matches() {
        let common = LINE.split(" \"http").next().unwrap();
        assert!(LogLine::parse(common).is_some());
        assert!(LogLine::parse(&LINE.replace(" 12 ", " - ")).is_some());
        for end in 0..LINE.len() {
            assert_eq!(LogLine::parse(&LINE[..end]).is_some(), LINE[..end] == *common || partly_counted(end), "{end}");
        }
        for wrong in [
            format!("{LINE} "),
            format!(" {LINE}"),
            format!("{LINE} extra"),
            LINE.replace(" - ", "  "),
            LINE.replace(" 200 ", " 20 "),
            LINE.replace(" 12 ", " 12x "),
            LINE.replace(" 12 ", " 99999999999999999999 "),
        ] {
            assert_eq!(LogLine::parse(&wrong), None, "{wrong}");
        }
    }

    /// A line cut within its number of bytes is a Common line with fewer bytes.
    fn partly_counted(end: usize) -> bool {
        LINE[..end].ends_with("200 1")
    }

    #[test]
    fn odd_requests_match_but_have_no_parts() {
        for (request, parts) in [
            ("-", false),
            (r"\x16\x03\x01", false),
            ("GET /", false),
            ("GET / FTP", false),
            ("", false),
            ("GET /a b HTTP/1.0", true),
            ("GET  HTTP/1.0", false),
            ("* * HTTP/1.1", true),
        ] {
            let text = LINE.replace("GET /a?b=c HTTP/1.1", request);
            assert_eq!(LogLine::parse(&text).unwrap().request().is_some(), parts, "{request}");
        }
    }

    #[test]
    fn assets_are_told_by_the_extension_of_the_last_part() {
        for (path, asset) in [
            ("/a.css", true),
            ("/A.PNG", true),
            ("/a.tar.woff2", true),
            ("/a.css/", false),
            ("/a.css/b", false),
            ("/a.html", false),
            ("/css", false),
            ("/a.", false),
        ] {
            let request = Request { method: "GET", path, query: None, protocol: "HTTP/1.1" };
            assert_eq!(request.is_asset(), asset, "{path}");
        }
    }
}

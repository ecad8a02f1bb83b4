//! Finds what to hide in a text, and hides it.

use std::borrow::Cow;

use super::plain::Plain;
use super::{address, host};

/// Masks every IPv4 and IPv6 address in a text: `83.149.9.216` becomes `83.149.9.x`, `2001:db8:1:2::3` becomes
/// `2001:db8:1::x`, `dsl-83-149-9-216.example.net` becomes `dsl-x.example.net`. Borrows where there is none.
///
/// Addresses are also found behind the escapes of JSON and of web servers, percent-encoded and in UTF-16. Times, UUIDs and
/// numbers of three parts are no addresses. The text need not be UTF-8.
#[must_use]
pub fn mask_addresses(text: &[u8]) -> Cow<'_, [u8]> {
    let plain = Plain::of(text);
    let bytes = plain.as_ref().map_or(text, Plain::bytes);
    let mut places = Vec::new();
    // Host names first: of two that overlap, the one that hides more.
    host::find(bytes, |from, to| places.push((from, to, Cow::Borrowed("x"))));
    address::find(bytes, |from, to, shown| places.push((from, to, Cow::Owned(shown.to_owned()))));
    if places.is_empty() {
        return Cow::Borrowed(text);
    }
    places.sort_by_key(|(from, to, _)| (*from, std::cmp::Reverse(*to)));
    let mut masked = Vec::with_capacity(text.len());
    let (mut copied, mut hidden) = (0, 0);
    for (from, to, shown) in places {
        if from < hidden {
            continue;
        }
        hidden = to;
        let (from, to) = plain.as_ref().map_or((from, to), |plain| plain.source(from, to));
        masked.extend_from_slice(&text[copied..from]);
        put(&mut masked, &text[from..to], &shown);
        copied = to;
    }
    masked.extend_from_slice(&text[copied..]);
    Cow::Owned(masked)
}

/// Writes what is shown instead, in the two bytes a character of UTF-16 where the source has them.
fn put(out: &mut Vec<u8>, source: &[u8], shown: &str) {
    let wide = source.contains(&0);
    for (row, byte) in shown.bytes().enumerate() {
        if wide && (row > 0 || source.starts_with(b"\0")) {
            out.push(0);
        }
        out.push(byte);
    }
}

/// Masks addresses, and the host names in front of a log line down to their last two parts.
pub(crate) fn mask_log_line(line: &[u8]) -> Cow<'_, [u8]> {
    let masked = mask_addresses(line);
    let front = masked.iter().position(|byte| *byte == b'[').unwrap_or(masked.len());
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    let mut start = 0;
    for word in masked[..front].split(|byte| matches!(byte, b' ' | b'\t' | b',')).take(MOST_HOSTS) {
        if let Some(cut) = unnamed(word) {
            let out = out.get_or_insert_default();
            out.extend_from_slice(&masked[copied..start]);
            out.push(b'x');
            copied = start + cut;
        }
        start += word.len() + 1;
    }
    match out {
        None => masked,
        Some(mut out) => {
            out.extend_from_slice(&masked[copied..]);
            Cow::Owned(out)
        }
    }
}

/// How many of a line's first words may be host names.
const MOST_HOSTS: usize = 6;

/// How much of a host name goes: of two parts the first, of a longer one all but the last two.
fn unnamed(host: &[u8]) -> Option<usize> {
    let is_name = host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        && host.iter().any(u8::is_ascii_alphabetic)
        && !host.ends_with(b".x");
    let dots = host.iter().filter(|byte| **byte == b'.').count();
    if !is_name || dots == 0 {
        return None;
    }
    let keep = if dots == 1 { 1 } else { 2 };
    Some(host.len() - host.rsplit(|byte| *byte == b'.').take(keep).map(|part| part.len() + 1).sum::<usize>())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(String::from_utf8_lossy(&mask_addresses(text.as_bytes())), expected);
    }

    #[test]
    fn ipv4_loses_its_last_octet_wherever_it_stands() {
        check("83.149.9.216 - -", "83.149.9.x - -");
        check(r#"{"ip":"10.0.0.1"}"#, r#"{"ip":"10.0.0.x"}"#);
        check("from 1.2.3.4.", "from 1.2.3.x.");
        check("ip=1.2.3.4:8080", "ip=1.2.3.x:8080");
        check("v255.255.255.255z", "v255.255.255.xz");
        check("1.2.3.4,5.6.7.8", "1.2.3.x,5.6.7.x");
        check("1.2.3.4.5", "1.2.3.x.x");
        check("abc1.2.3.4def", "abc1.2.3.xdef");
        check("001.002.003.004", "001.002.003.x");
        check("10:05:03:1.2.3.4", "10:05:03:1.2.3.x");
    }

    #[test]
    fn ipv6_keeps_48_bits() {
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1::x");
        check("[2001:db8::1]:80", "[2001:db8:0::x]:80");
        check("2001:DB8::1", "2001:db8:0::x");
        check("ip:2001:db8::1", "ip:2001:db8:0::x");
        check("fe80::1%eth0", "fe80:0:0::x%eth0");
        check("::1", "0:0:0::x");
        check("::ffff:83.149.9.216", "0:0:0::x");
        check("64:ff9b::83.149.9.216 x", "64:ff9b:0::x x");
        check("fe80:: ", "fe80:0:0::x ");
        check("face:2001:db8:0:0:0:0:0:1", "::x");
        check("dead:2001:db8::1", "dead:2001:db8::x");
        check(r#""2001:db8::1","#, r#""2001:db8:0::x","#);
        check("2001:db8::1: refused", "2001:db8:0::x: refused");
    }

    #[test]
    fn what_is_no_address_stays() {
        for text in [
            "[17/May/2015:10:05:03 +0000]",
            "10:05:03",
            "10:05:03.123",
            "1.2.3",
            "Chrome/32.0.1700.77",
            "2024.01.02.03",
            "256.1.1.1",
            "550e8400-e29b-41d4-a716-446655440000",
            "00:1a:2b:3c:4d:5e",
            "std::fs::File",
            "a :: b",
            "12.5 .. 13.5",
            "::",
            r#"{"a":1,"b":[2,3]}"#,
            "",
        ] {
            check(text, text);
            assert!(matches!(mask_addresses(text.as_bytes()), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn an_address_in_a_host_name_is_hidden() {
        for (name, expected) in [
            ("dsl-192-0-2-77.dyn.example.net", "dsl-x.dyn.example.net"),
            ("192-0-2-77.example", "x.example"),
            ("ip-10-0-0-1", "ip-x"),
            ("ip10-0-0-1.ec2.internal", "ipx.ec2.internal"),
            ("77-2-0-192.rev.example.net", "x.rev.example.net"),
            ("host_192_0_2_77.example.net", "host_x.example.net"),
            ("77.2.0.192.in-addr.arpa", "x.in-addr.arpa"),
            ("192.0.2.77.dsl.example.net", "x.dsl.example.net"),
            ("c000024d.example.net", "x.example.net"),
            ("cpe-c000024d.example.net", "cpe-x.example.net"),
            ("0xC000024D.example.net", "0xx.example.net"),
            ("host192000002077.example.net", "hostx.example.net"),
            ("2001-db8--1.v6.example.net", "x.v6.example.net"),
            ("2001-db8-0-0-0-0-0-1.example.net", "x.example.net"),
            ("1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "x.ip6.arpa"),
            ("{\"host\":\"dsl-192-0-2-77.dyn.example.net\"}", "{\"host\":\"dsl-x.dyn.example.net\"}"),
        ] {
            check(name, expected);
        }
    }

    #[test]
    fn dates_and_names_of_files_hold_no_address() {
        for text in [
            "2026-03-10-10-00-00",
            "backup_2026_03_10_10_00_00.tar.gz",
            "2026-03-10T10:00:00.123+02:00",
            "/static/app.a1b2c3d4.js",
            "550e8400-e29b-41d4-a716-446655440000.example.net",
            "xn--bcher-kva.example",
            "v1-2-3.example.net",
            "www.example.net",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn an_address_in_escapes_is_hidden() {
        for (text, expected) in [
            (r"\u0031\u0039\u0032.0.2.77", r"\u0031\u0039\u0032.0.2.x"),
            (r"192\u002e0\u002e2\u002e77", r"192\u002e0\u002e2\u002ex"),
            (r"192\\u002e0\\u002e2\\u002e77 ", r"192\\u002e0\\u002e2\\u002ex "),
            ("192%2E0%2e2%2E77&a", "192%2E0%2e2%2Ex&a"),
            ("192%252E0%252E2%252E77", "192%252E0%252E2%252Ex"),
            (r"192\x2e0\x2e2\x2E77", r"192\x2e0\x2e2\x2Ex"),
            ("2001%3Adb8%3A%3A1", "2001:db8:0::x"),
            (r"a\n192.0.2.77\t", r"a\n192.0.2.x\t"),
            ("dsl%2D192%2D0%2D2%2D77.example.net", "dsl%2Dx.example.net"),
            (r"\u00e4 100% \u", r"\u00e4 100% \u"),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn an_address_in_utf_16_is_hidden_and_the_text_stays_utf_16() {
        let units = |text: &str, order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let masked = mask_addresses(&units("a 192.0.2.77 - dsl-10-0-0-1.example \u{e4}", order)).into_owned();
            assert_eq!(masked, units("a 192.0.2.x - dsl-x.example \u{e4}", order));
        }
        // What the newline of a little-endian text leaves behind.
        let cut = [b"\0".as_slice(), &units("192.0.2.77 -", u16::to_le_bytes)].concat();
        assert!(!String::from_utf8_lossy(&mask_addresses(&cut)).replace('\0', "").contains("192.0.2.77"));
    }

    #[test]
    fn a_host_name_in_front_of_a_log_line_keeps_its_domain() {
        for (line, expected) in [
            ("host-7.dsl.example.org - - [x]", "x.example.org - - [x]"),
            ("example.org -", "x.org -"),
            ("shop.example:443 dsl-192-0-2-77.dyn.example.net - - [", "shop.example:443 x.example.net - - ["),
            ("a.b.example.org, c.d.example.org - -", "x.example.org, x.example.org - -"),
            (
                "203.0.113.9 - - [17/May/2015:10:05:03 +0000] a.b.example",
                "203.0.113.x - - [17/May/2015:10:05:03 +0000] a.b.example",
            ),
            ("10:05:03 up", "10:05:03 up"),
        ] {
            assert_eq!(String::from_utf8_lossy(&mask_log_line(line.as_bytes())), expected, "{line}");
        }
    }

    /// Texts that a masked text must not hold any more: every address that the standard library would read.
    fn clear_addresses(text: &str) -> bool {
        text.split([' ', ',', '"']).any(|word| {
            word.parse::<std::net::Ipv4Addr>().is_ok() || word.parse::<Ipv6Addr>().is_ok_and(|a| !a.is_unspecified())
        })
    }

    proptest! {
        #[test]
        fn no_address_is_left(
            v4 in any::<[u8; 4]>(),
            segments in any::<[u16; 8]>(),
            zeros in 0_usize..8,
            around in "[ ,\"]{1,2}[a-z0-9:.]{0,12}[ ,\"]",
        ) {
            let v4 = std::net::Ipv4Addr::from(v4);
            let mut segments = segments;
            segments[zeros..].fill(0);
            let v6 = Ipv6Addr::from(segments);
            let text = format!("{v4}{around}{v6}{around}::ffff:{v4}{around}{around}{v6}");
            let masked = mask_addresses(text.as_bytes()).into_owned();
            let masked = String::from_utf8(masked).unwrap();
            prop_assert!(!clear_addresses(&masked), "{text} became {masked}");
            prop_assert!(!masked.contains(&v4.to_string()), "{text} became {masked}");
        }

        /// However the digits and points are written, who decodes them sees no address.
        #[test]
        fn no_escaped_address_is_left(v4 in any::<[u8; 4]>(), ways in prop::collection::vec(0_u8..6, 16), around in "[ ,\"=/]{1,3}") {
            let address = std::net::Ipv4Addr::from(v4).to_string();
            let escaped: String = address.chars().zip(ways.iter().cycle()).map(|(c, way)| match way {
                0 => format!("\\u{:04x}", u32::from(c)),
                1 => format!("\\u{:04X}", u32::from(c)),
                2 => format!("%{:02X}", u32::from(c)),
                3 => format!("\\x{:02x}", u32::from(c)),
                4 => format!("\\\\u{:04x}", u32::from(c)),
                _ => c.to_string(),
            }).collect();
            let text = format!("{around}{escaped}{around}");
            let masked = mask_addresses(text.as_bytes()).into_owned();
            let plain = Plain::of(&masked).map_or(masked.clone(), |plain| plain.bytes().to_vec());
            let plain = String::from_utf8(plain).unwrap();
            prop_assert!(!plain.contains(&address), "{text} became {plain}");
        }

        #[test]
        fn no_address_is_left_in_a_host_name(v4 in any::<[u8; 4]>(), separator in "[-_.]", before in "[a-z]{0,4}-?", behind in "[.][a-z]{2,5}[.]net") {
            let mut reversed = v4;
            reversed.reverse();
            for octets in [v4, reversed] {
                let address = octets.map(|n| n.to_string()).join(&separator);
                let text = format!("{before}{address}{behind} - - [x");
                let masked = String::from_utf8(mask_addresses(text.as_bytes()).into_owned()).unwrap();
                prop_assert!(!masked.contains(&address), "{text} became {masked}");
            }
        }

        #[test]
        fn any_bytes_can_be_masked(bytes in any::<Vec<u8>>(), parts in "[0-9a-f:.]{0,40}") {
            for text in [&bytes, parts.as_bytes()] {
                let _ = mask_log_line(text);
                let once = mask_addresses(text).into_owned();
                let _ = mask_addresses(&once);
            }
        }
    }
}

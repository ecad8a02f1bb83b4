//! What each server's lines become. Lines are made up, addresses are those of documentation.

use proptest::prelude::*;
use tidemill_dataflow::source::{Block, Decode, Decoded};
use tidemill_dataflow::time::EventTime;

use super::*;
use crate::events::{Event, Format};

const TEN: i64 = 1_773_136_800_000; // 2026-03-10T10:00:00Z
const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64)";

fn decode(format: &Format, text: &str) -> Decoded<Event> {
    let Format::Log(reader) = format.clone() else { panic!("{format:?} is no log") };
    let mut out = Decoded::default();
    let block = Block { partition: 0, offset: 0, first_line: 1, bytes: text.into(), skipped: 0 };
    LogDecoder::new("a.log", HashKey::default(), reader).decode(block, &mut out);
    out
}

fn user(address: &str, agent: &str) -> String {
    let mut user = String::new();
    HashKey::default().user(address, agent, &mut user);
    user
}

/// What a line must become.
struct Expected {
    kind: &'static str,
    page: Option<&'static str>,
    address: &'static str,
    agent: &'static str,
    time: i64,
    /// Pieces of the properties.
    holds: &'static [&'static str],
}

const PAGE: Expected = Expected {
    kind: "page_view",
    page: Some("/a"),
    address: "192.0.2.1",
    agent: AGENT,
    time: TEN,
    holds: &[r#""status":200"#],
};

#[track_caller]
fn check(format: &Format, line: &str, expected: &Expected) {
    let out = decode(format, line);
    assert!(out.malformed.is_empty(), "{line}: {}", out.malformed[0].reason);
    let event = out.records.last().unwrap();
    let properties = event.properties().unwrap();
    assert_eq!(event.event_type(), expected.kind, "{line}");
    assert_eq!(event.page().map(|page| page.text), expected.page, "{line}");
    assert_eq!(event.timestamp(), EventTime(expected.time), "{line}");
    assert_eq!(event.user().text, user(expected.address, expected.agent), "{line}");
    for piece in expected.holds {
        assert!(properties.contains(piece), "{line}: {piece} is not in {properties}");
    }
    serde_json::from_str::<serde_json::Value>(properties).unwrap();
    assert!(!properties.contains(expected.address), "{properties}");
}

fn malformed(format: &Format, line: &str) {
    let out = decode(format, line);
    assert_eq!((out.records.len(), out.malformed.len()), (0, 1), "{line}");
}

const FRONT: &str = "192.0.2.1 - - [10/Mar/2026:10:00:00 +0000]";

/// A line of the Combined format with the default agent.
fn combined(front: &str, behind: &str) -> String {
    format!("{front} \"GET /a?b=c HTTP/1.1\" 200 12 \"-\" \"{AGENT}\"{behind}")
}

#[test]
fn what_servers_add_to_combined_lines_is_read() {
    let format: Format = "combined".parse().unwrap();
    let expect = |front: &str, behind: &str, holds: &'static [&'static str]| {
        check(&format, &combined(front, behind), &Expected { holds, ..PAGE });
    };
    expect(FRONT, "", &[r#""path":"/a","query":"b=c","protocol":"HTTP/1.1","status":200,"bytes":12}"#]);
    expect(FRONT, " \"198.51.100.7, 10.0.0.1\"", &[r#""forwarded_for":"198.51.100.x, 10.0.0.x""#]);
    expect(FRONT, " \"-\"", &[r#""bytes":12}"#]);
    expect(FRONT, " 0.003", &[r#""request_time":0.003"#]);
    expect(FRONT, " \"-\" 0.003 0.002 .", &[r#""request_time":0.003,"upstream_time":0.002,"rest":".""#]);
    expect(FRONT, " rt=0.003 uct=\"0.000\" urt=\"0.001, 0.002\"", &[r#""rt":0.003,"uct":0.000,"urt":"0.001, 0.002""#]);
    expect(FRONT, " \"a=1; b=2\" - 17 \"x y\"", &[r#""rest":"\"a=1; b=2\" 17 \"x y\"""#]);
    expect(FRONT, " \"2001:db8::7\"", &[r#""forwarded_for":"2001:db8:0::x""#]);
    expect(&format!("shop.example:443 {FRONT}"), "", &[r#""host":"shop.example","port":443"#]);
    expect(&format!("shop.example {FRONT}"), "", &[r#""host":"shop.example""#]);
    expect(&format!("192.0.2.80:80 {FRONT}"), "", &[r#""host":"192.0.2.x","port":80"#]);
    expect("192.0.2.1, 10.0.0.1 - - [10/Mar/2026:10:00:00 +0000]", "", &[]);
    expect("192.0.2.1,10.0.0.1, 10.0.0.2 - - [10/Mar/2026:10:00:00 +0000]", "", &[]);
    expect("192.0.2.1 , 10.0.0.1 - - [10/Mar/2026:10:00:00 +0000]", "", &[]);
    expect("192.0.2.1 10.0.0.1 - - [10/Mar/2026:10:00:00 +0000]", "", &[r#""proxy":"10.0.0.x""#]);
    expect("unknown, 192.0.2.1 - - [10/Mar/2026:10:00:00 +0000]", "", &[]);
    expect("192.0.2.1 - John Smith [10/Mar/2026:10:00:00 +0000]", "", &[r#""user":"John Smith""#]);
    expect("192.0.2.1 www.example ann [10/Mar/2026:10:00:00 +0000]", "", &[r#""user":"ann","ident":"www.example""#]);
    expect("192.0.2.1 - a@b.example [10/Mar/2026:10:00:00 +0000]", "", &[r#""user":"a@b.example""#]);
    expect("192.0.2.1:50123 - - [10/Mar/2026:10:00:00 +0000]", "", &[]);
    expect("192.0.2.1 - - [10/mar/2026:12:00:00 +0200]", "", &[]);
    expect("192.0.2.1 - - [2026-03-10T10:00:00+00:00]", "", &[]);
    expect("\u{0}\u{0}192.0.2.1 - - [10/Mar/2026:10:00:00 +0000]", "", &[]);
    for prefix in [
        "Mar 10 10:00:00 web1 nginx:",
        "<190>Mar 10 10:00:00 web1 nginx[17]:",
        "web-1  |",
        "2026-03-10T10:00:00.123Z stdout F",
    ] {
        expect(&format!("{prefix} {FRONT}"), "", &[r#""prefix":""#]);
    }
    expect(&format!("Mar 10 10:00:00 web1 nginx: shop.example:443 {FRONT}"), "", &[r#""host":"shop.example""#]);
    expect("\u{feff}192.0.2.1\t-  -\t[10/Mar/2026:10:00:00 +0000] ", " \t ", &[]);
}

#[test]
fn no_client_chooses_its_address_by_its_user() {
    let format: Format = "combined".parse().unwrap();
    for user in ["| 198.51.100.7 a b", "a: 198.51.100.7 a b", "198.51.100.7 a b", "a | 198.51.100.7 - b"] {
        for (front, address) in [
            ("shop.example:443 192.0.2.1", "192.0.2.1"),
            ("shop.example:443 192.0.2.1:4711", "192.0.2.1"),
            ("shop.example:443 2001:db8::1", "2001:db8::1"),
            ("shop.example:443 dsl-7.example.net", "dsl-7.example.net"),
            ("192.0.2.1", "192.0.2.1"),
            ("web-1 | 192.0.2.1", "192.0.2.1"),
            ("2026-03-10T10:00:00.123Z stdout F 192.0.2.1", "192.0.2.1"),
        ] {
            let line = combined(&format!("{front} - {user} [10/Mar/2026:10:00:00 +0000]"), "");
            check(&format, &line, &Expected { address, ..PAGE });
        }
    }
    let collected = combined(&format!("Mar 10 10:00:00 10.0.0.5 nginx: {FRONT}"), "");
    check(&format, &collected, &Expected { holds: &[r#""prefix":""#], ..PAGE });
}

#[test]
fn addresses_may_be_names_and_ipv6() {
    let format: Format = "combined".parse().unwrap();
    for (front, address) in [
        ("2001:db8::1 - -", "2001:db8::1"),
        ("[2001:db8::1] - -", "2001:db8::1"),
        ("[2001:db8::1]:4711 - -", "2001:db8::1"),
        ("shop.example:443 2001:db8::1 - -", "2001:db8::1"),
        ("shop.example:443 dsl-7.example.net - -", "dsl-7.example.net"),
        ("shop.example client.example.net - -", "client.example.net"),
        ("client.example.net - -", "client.example.net"),
    ] {
        let line = combined(&format!("{front} [10/Mar/2026:10:00:00 +0000]"), "");
        check(&format, &line, &Expected { address, ..PAGE });
    }
    let vhost: Format = "vhost-combined".parse().unwrap();
    check(
        &vhost,
        &combined("www client - - [10/Mar/2026:10:00:00 +0000]", ""),
        &Expected { address: "client", ..PAGE },
    );
}

#[test]
fn odd_values_cost_no_line() {
    let format: Format = "combined".parse().unwrap();
    let other = Expected { kind: "other", page: None, ..PAGE };
    let line = |rest: &str| format!("{FRONT} {rest} \"-\" \"{AGENT}\"");
    check(&format, &line("\"GET /a HTTP/1.1\" - -"), &Expected { holds: &[r#""protocol":"HTTP/1.1"}"#], ..PAGE });
    check(&format, &line("\"\" 400 0"), &Expected { holds: &[r#"{"status":400,"bytes":0}"#], ..other });
    check(&format, &line("\"-\" 408 0"), &Expected { holds: &[r#"{"request":"-","status":408"#], ..other });
    check(&format, &line("\"GET /a\" 200 5"), &Expected { holds: &[r#"{"request":"GET /a""#], ..other });
    check(&format, &line("\"GET /a HTTP/1.1\"  200\t5"), &PAGE);
    let leap = combined("192.0.2.1 - - [31/Dec/2016:23:59:60 +0000]", "");
    check(&format, &leap, &Expected { time: 1_483_228_799_000, ..PAGE });
    let fraction = combined("192.0.2.1 - - [10/Mar/2026:10:00:00.250 +0000]", "");
    check(&format, &fraction, &Expected { time: TEN + 250, ..PAGE });
    for agent in [r#"say \"hi\" now"#, r#"say ""hi"" now"#, r"say \x22hi\x22 now", r#"say "hi there"#] {
        let out = decode(&format, &format!("{FRONT} \"GET /a HTTP/1.1\" 200 5 \"-\" \"{agent}\""));
        assert_eq!(out.records[0].user().text, user("192.0.2.1", agent));
    }
    for wrong in [
        "192.0.2.1 - - [10/Foo/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5",
        "192.0.2.1 - - [10/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 20 5",
        "192.0.2.1 - - [10/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5x",
        "192.0.2.1 - - [10/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"never ends",
        "192.0.2.1 - - [10/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5 \"-\"",
        "192.0.2.1 - - [10/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200",
        "[10/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5",
        "# started",
    ] {
        malformed(&format, wrong);
    }
}

#[test]
fn a_combined_line_cut_anywhere_is_no_other_line() {
    let format: Format = "combined".parse().unwrap();
    let line = combined(FRONT, "");
    let common = line.split(" \"-\"").next().unwrap();
    for end in (0..line.len()).filter(|end| line.is_char_boundary(*end)) {
        let accepted = !decode(&format, &line[..end]).records.is_empty();
        // A line cut within its number of bytes, or behind it, is a Common line.
        let is_common = line[..end].trim_end() == common || line[..end].ends_with(" 200 1");
        assert_eq!(accepted, is_common, "{}", &line[..end]);
    }
}

#[test]
fn json_access_logs_are_read_by_the_usual_names() {
    let format: Format = "json-log".parse().unwrap();
    let nginx = r#"{"time_iso8601":"2026-03-10T10:00:00+00:00","remote_addr":"192.0.2.1","remote_user":"ann","request":"GET /a?b=c HTTP/1.1","status":"200","body_bytes_sent":"12","request_time":"0.003","http_referer":"","http_user_agent":"Mozilla/5.0 (X11; Linux x86_64)","http_x_forwarded_for":"198.51.100.7"}"#;
    let of_nginx: &[&str] = &[
        r#""path":"/a","query":"b=c","protocol":"HTTP/1.1","status":200,"bytes":12"#,
        r#""user":"ann""#,
        r#""forwarded_for":"198.51.100.x","request_time":0.003"#,
    ];
    check(&format, nginx, &Expected { holds: of_nginx, ..PAGE });
    let parts = r#"{"msec":"1773136800.250","remote_addr":"192.0.2.1","request_method":"GET","request_uri":"/a?b=c","server_protocol":"HTTP/2.0","status":200,"body_bytes_sent":12,"http_user_agent":"Mozilla/5.0 (X11; Linux x86_64)","upstream_addr":"10.0.0.1:80"}"#;
    let of_parts: &[&str] =
        &[r#""method":"GET","path":"/a","query":"b=c","protocol":"HTTP/2.0""#, r#""upstream_addr":"10.0.0.x:80""#];
    check(&format, parts, &Expected { time: TEN + 250, holds: of_parts, ..PAGE });
    let elastic = r#" {"@timestamp":"2026-03-10T10:00:00.000Z","client":"192.0.2.1","method":"GET","uri":"\/a","args":"b=c","status":200,"size":12,"agent":"Mozilla\/5.0 (X11; Linux x86_64)"}"#;
    check(&format, elastic, &PAGE);
    let local = r#"{"time":"10/Mar/2026:10:00:00 +0000","ip":"192.0.2.1","path":"/a","status":200,"user_agent":"Mozilla/5.0 (X11; Linux x86_64)"}"#;
    check(&format, local, &PAGE);
    let caddy = r#"{"level":"info","ts":1773136800.25,"logger":"http.log.access.log0","msg":"handled request","request":{"remote_ip":"10.0.0.1","remote_port":"50123","client_ip":"192.0.2.1","proto":"HTTP/2.0","method":"GET","host":"shop.example","uri":"/a?b=c","headers":{"User-Agent":["Mozilla/5.0 (X11; Linux x86_64)"],"Accept":["*/*"],"Referer":["https://shop.example/"]},"tls":{"resumed":false,"version":772}},"bytes_read":0,"user_id":"","duration":0.000929675,"size":12,"status":200,"resp_headers":{"Server":["Caddy"]}}"#;
    let holds: &[&str] = &[
        r#""path":"/a","query":"b=c","protocol":"HTTP/2.0","status":200,"bytes":12,"referrer":"https://shop.example/""#,
        r#""host":"shop.example""#,
        r#""duration":0.000929675"#,
        r#""request.remote_ip":"10.0.0.x""#,
    ];
    check(&format, caddy, &Expected { time: TEN + 250, holds, ..PAGE });
    let old_caddy = r#"{"level":"info","ts":1773136800,"request":{"remote_ip":"192.0.2.1","proto":"HTTP/1.1","method":"GET","host":"a","uri":"/a","headers":{"User-Agent":["Mozilla/5.0 (X11; Linux x86_64)"]}},"status":200}"#;
    check(&format, old_caddy, &PAGE);
    for wrong in [
        "{}",
        r#"{"time":"2026-03-10T10:00:00Z","level":"info","msg":"started"}"#,
        r#"{"remote_addr":"192.0.2.1","request":"GET / HTTP/1.1","status":200}"#,
        r#"{"event_id":"e","event_type":"page_view","user_id":"u","timestamp":1773136800000,"ip":"192.0.2.1","url":"/"}"#,
        r#"["2026-03-10T10:00:00Z"]"#,
    ] {
        malformed(&format, wrong);
    }
}

#[test]
fn w3c_logs_are_read_by_their_fields_lines() {
    let format: Format = "w3c".parse().unwrap();
    let iis = "#Software: Microsoft Internet Information Services 10.0\r\n#Version: 1.0\r\n#Date: 2026-03-10 09:00:00\r\n\
        #Fields: date time s-ip cs-method cs-uri-stem cs-uri-query s-port cs-username c-ip cs(User-Agent) cs(Referer) sc-status sc-substatus sc-win32-status time-taken\r\n\
        2026-03-10 10:00:00 10.0.0.5 GET /a b=c 443 - 192.0.2.1 Mozilla/5.0+(X11;+Linux+x86_64) - 200 0 0 15\r\n";
    let of_iis: &[&str] = &[r#""path":"/a","query":"b=c","status":200"#, r#""s-ip":"10.0.0.x""#, r#""time-taken":15"#];
    check(&format, iis, &Expected { holds: of_iis, ..PAGE });
    let front = "#Version: 1.0\n#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken x-forwarded-for cs-protocol-version\n\
        2026-03-10\t10:00:00\tFRA56-P1\t12\t192.0.2.1\tGET\td111.cloudfront.example\t/a\t200\thttps://shop.example/\tMozilla/5.0%20(X11;%20Linux%20x86_64)\tb=c\t-\tHit\tid==\tshop.example\thttps\t60\t0.001\t198.51.100.7\tHTTP/2.0\n";
    let holds: &[&str] = &[
        r#""protocol":"HTTP/2.0","status":200,"bytes":12"#,
        r#""forwarded_for":"198.51.100.x""#,
        r#""cs-protocol":"https""#,
    ];
    check(&format, front, &Expected { holds, ..PAGE });
    check(&format, &front.replace("%20", "%2520"), &PAGE);
    // Another directive in the middle, and a date that stands in a directive.
    let turned = format!(
        "{iis}#Date: 2026-03-10 10:00:00\n#Fields: time c-ip cs(User-Agent) cs-uri-stem sc-status\n10:00:00 192.0.2.1 \"{AGENT}\" /a 200\n"
    );
    let out = decode(&format, &turned);
    assert_eq!((out.records.len(), out.malformed.len()), (2, 0));
    check(&format, &turned, &PAGE);
    malformed(&format, "2026-03-10 10:00:00 10.0.0.5 GET /a b=c 443 - 192.0.2.1 x - 200 0 0 15");
    malformed(&format, "#Fields: date time c-ip cs-uri-stem\n2026-03-10 10:00:00 192.0.2.1\n");
}

#[test]
fn logs_of_load_balancers_are_read() {
    let format: Format = "alb".parse().unwrap();
    let alb = "http 2026-03-10T10:00:00.186641Z app/my-lb/50dc6c495c0c9188 192.0.2.1:2817 10.0.0.1:80 0.000 0.001 0.000 200 200 34 366 \
        \"GET http://shop.example:80/a?b=c HTTP/1.1\" \"Mozilla/5.0 (X11; Linux x86_64)\" - - \
        arn:aws:elasticloadbalancing:us-east-2:123456789012:targetgroup/my-targets/73e2d6bc24d8a067 \"Root=1-58337262-36d228ad5d99923122bbe354\" \
        \"-\" \"-\" 0 2026-03-10T10:00:00.364000Z \"forward\" \"-\" \"-\" \"10.0.0.1:80\" \"200\" \"-\" \"-\"";
    let holds: &[&str] = &[
        r#""method":"GET","path":"/a","query":"b=c","protocol":"HTTP/1.1","status":200,"bytes":366"#,
        r#""host":"shop.example:80""#,
        r#""target":"10.0.0.x:80""#,
    ];
    let expected = Expected { time: TEN + 186, holds, ..PAGE };
    check(&format, alb, &expected);
    check(&format, &format!("{alb} TID_1234"), &expected);
    check(
        &format,
        &alb.replace("192.0.2.1:2817", "[2001:db8::1]:2817"),
        &Expected { address: "2001:db8::1", ..expected },
    );
    let short = alb.split(" - - arn").next().unwrap();
    check(&format, short, &expected);
    let elb = "2026-03-10T10:00:00.186641Z my-lb 192.0.2.1:2817 10.0.0.1:80 0.000073 0.001048 0.000057 200 200 0 366 \
        \"GET http://shop.example:80/a?b=c HTTP/1.1\" \"Mozilla/5.0 (X11; Linux x86_64)\" - -";
    check(&format, elb, &expected);
    let broken = alb
        .replace("GET http://shop.example:80/a?b=c HTTP/1.1", "- http://shop.example:80- -")
        .replace(" 200 200 ", " 400 - ");
    check(&format, &broken, &Expected { kind: "other", page: None, holds: &[r#""status":400"#], ..expected });
    malformed(&format, "http 2026-03-10T10:00:00Z app/my-lb 192.0.2.1:2817 10.0.0.1:80");
}

#[test]
fn format_strings_are_taken_as_they_are_copied() {
    let line = combined(FRONT, " \"198.51.100.7\" 0.003");
    let plain = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" "$http_x_forwarded_for" $request_time"#;
    let directive = "log_format  main  '$remote_addr - $remote_user [$time_local] \"$request\" '\n    '$status $body_bytes_sent \"$http_referer\" '\n\
        # what the proxy says\n    '\"$http_user_agent\" \"$http_x_forwarded_for\" $request_time';";
    let apache = r#"LogFormat "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\" \"%{X-Forwarded-For}i\" %T" proxied"#;
    let inside = r#"%h %l %u %t \"%!200,304r\" %>s %b \"%{Referer}i\" \"%{User-agent}i\" \"%{X-Forwarded-For}i\" %T"#;
    let quoted = format!("\"{inside}\"");
    for text in [
        plain,
        directive,
        &format!("'{plain}'"),
        apache,
        inside,
        &quoted,
        "log_format x escape=default '${remote_addr} - - [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\" \"$http_x_forwarded_for\" $request_time';",
    ] {
        let format = Format::of_log(text).unwrap();
        let holds: &[&str] = &[r#""forwarded_for":"198.51.100.x""#, r#""request_time":0.003"#];
        check(&format, &line, &Expected { holds, ..PAGE });
        check(&format, &line.replace(" \"GET", "  \"GET"), &PAGE);
        assert_eq!(format.name(), text);
        malformed(&format, "hello");
    }
}

#[test]
fn formats_of_other_shapes_are_read() {
    let of = |text: &str| Format::of_log(text).unwrap();
    let request = "\"GET /a?b=c HTTP/1.1\" 200";
    for (format, line) in [
        (
            r#"$time_iso8601 $remote_addr "$request" $status "$http_user_agent""#,
            format!("2026-03-10T10:00:00+00:00 192.0.2.1 {request} \"{AGENT}\""),
        ),
        (
            r#"$time_local $remote_addr "$request" $status "$http_user_agent""#,
            format!("10/Mar/2026:10:00:00 +0000 192.0.2.1 {request} \"{AGENT}\""),
        ),
        (
            r#"$msec|$remote_addr|$request_method|$request_uri|$status|$http_user_agent"#,
            format!("1773136800.000|192.0.2.1|GET|/a?b=c|200|{AGENT}"),
        ),
        (
            r#""$time_iso8601","$remote_addr","$request","$status","$http_user_agent""#,
            format!("\"2026-03-10T10:00:00+00:00\",\"192.0.2.1\",\"GET /a?b=c HTTP/1.1\",\"200\",\"{AGENT}\""),
        ),
        (
            r#"log_format j escape=json '{"time":"$time_iso8601","addr":"$remote_addr","request":"$request","status":$status,"agent":"$http_user_agent"}';"#,
            format!(
                r#"{{"time":"2026-03-10T10:00:00+00:00","addr":"192.0.2.1","request":"GET /a?b=c HTTP/1.1","status":200,"agent":"{AGENT}"}}"#
            ),
        ),
        (
            r#"%{%Y-%m-%d %H:%M:%S}t %a "%r" %s "%{User-Agent}i""#,
            format!("2026-03-10 10:00:00 192.0.2.1 {request} \"{AGENT}\""),
        ),
        (
            r#"%t %h %^FB %{X-A}^ti %{c}h "%r" %s "%{User-Agent}i""#,
            format!("[10/Mar/2026:10:00:00 +0000] 192.0.2.1 17 - 10.0.0.1 {request} \"{AGENT}\""),
        ),
        (
            r#"[%{%d/%b/%Y:%T}t.%{msec_frac}t %{%z}t] %a "%r" %s "%{User-Agent}i""#,
            format!("[10/Mar/2026:10:00:00.000 +0000] 192.0.2.1 {request} \"{AGENT}\""),
        ),
        (r#"%{sec}t %v:%p %h %m "%U%q" %>s %{User-Agent}i"#, String::new()),
        (
            r#"%{usec}t %v:%p %h "%m %U %H" %>s %D %I %O "%{User-Agent}i""#,
            format!("1773136800000000 shop.example:443 192.0.2.1 \"GET /a HTTP/1.1\" 200 15 10 12 \"{AGENT}\""),
        ),
        (
            r#"%{X-Forwarded-For}i %h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i""#,
            combined("192.0.2.1 10.0.0.1 - - [10/Mar/2026:10:00:00 +0000]", ""),
        ),
        (
            r#"%{X-Forwarded-For}i %h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i""#,
            combined("- 192.0.2.1 - - [10/Mar/2026:10:00:00 +0000]", ""),
        ),
        (
            r#"$remote_addr - $remote_user [$time_local] "$request" $status "$http_user_agent""#,
            format!("192.0.2.1 - John - Smith [10/Mar/2026:10:00:00 +0000] {request} \"{AGENT}\""),
        ),
        (
            r#"$proxy_add_x_forwarded_for - $remote_user [$time_local] "$request" $status "$http_user_agent""#,
            format!("192.0.2.1, 10.0.0.1 - - [10/Mar/2026:10:00:00 +0000] {request} \"{AGENT}\""),
        ),
    ] {
        if line.is_empty() {
            let error = Format::of_log(format).unwrap_err().to_string();
            assert!(error.contains("nothing stands between %U and %q"), "{error}");
        } else {
            check(&of(format), &line, &PAGE);
        }
    }
}

#[test]
fn a_format_that_makes_no_events_is_refused_with_its_place_and_the_remedy() {
    for (format, says) in [
        (r#"$remote_addr "$request" $status"#, "there is no time in it ($time_local"),
        (r#"%h "%r" %>s"#, "there is no time in it (%t)"),
        (r#"$remote_addr [$time_local] $status"#, "there is no request in it ($request"),
        (
            r#"$remote_adr [$time_local] "$request""#,
            "at character 1: $remote_adr is no variable of nginx; is $remote_addr meant?",
        ),
        (
            r#"$remote_addr [$time_locl] "$request""#,
            "at character 15: $time_locl is no variable of nginx; is $time_local meant?",
        ),
        (
            r#"$remote_addr$time_local "$request""#,
            "at character 13: nothing stands between $remote_addr and $time_local",
        ),
        (r#"$remote_addr [$time_local] $http_user_agent $request"#, "at character 28: $http_user_agent holds spaces"),
        (r#"$remote_addr [${time_local] "$request""#, "at character 15: ${ is not closed"),
        (r#"$remote_addr $ [$time_local]"#, "at character 14: $ without a name"),
        (r#"%h %t "%r" %y"#, "at character 12: %y is no directive of Apache"),
        (r#"%h %t "%{Referer" %s"#, "at character 8: %{ is not closed"),
        (r#"%h %t "%r" %"#, "at character 12: % without a letter"),
        (r#"%{%H:%M}t "%r""#, "at character 1: %{%H:%M}t has no date"),
        (r#"%{%Q}t "%r""#, "at character 1: %{%Q}t is no format of strftime"),
        ("log_format main '$remote_addr", "a quote ' is not closed"),
        (r#"LogFormat combined"#, "LogFormat has no format in quotes"),
        ("100%", "at character 4: % without a letter"),
        ("cost $5", "there is no variable in it"),
    ] {
        let error = Format::of_log(format).unwrap_err().to_string();
        assert!(error.contains(says), "{format}: {error}");
    }
}

#[test]
fn half_of_a_surrogate_pair_costs_no_line_of_a_json_log() {
    let line = format!(
        r#"{{"time":"2026-03-10T10:00:00Z","remote_addr":"192.0.2.1","uri":"/a","status":200,"agent":"{AGENT}","cut\ud83d":"b\udc00"}}"#
    );
    let holds: &[&str] = &["\"cut\u{fffd}\":\"b\u{fffd}\""];
    check(&"json-log".parse().unwrap(), &line, &Expected { holds, ..PAGE });
}

/// Each of these took hours, or the stack.
#[test]
fn a_long_line_takes_no_longer_than_many_short_ones() {
    const LONG: usize = 1_000_000;
    let alb =
        format!("http 2026-03-10T10:00:00Z lb 192.0.2.1:2817 10.0.0.1:80 0 0 0 200 200 34 366{}x", " ".repeat(LONG));
    malformed(&"alb".parse().unwrap(), &alb);
    let json: Format = "json-log".parse().unwrap();
    let members: String = (0..70_000).map(|row| format!(r#","m{row}":7"#)).collect();
    let time = r#""time":"2026-03-10T10:00:00Z","remote_addr":"192.0.2.1","uri":"/a","status":200"#;
    let agent = format!(r#""agent":"{AGENT}""#);
    let holds: &[&str] = &[r#""m0":7"#, r#""m69999":7"#];
    check(&json, &format!("{{{time},{agent}{members}}}"), &Expected { holds, ..PAGE });
    let inside = format!(r#""{}":{{"m":0{}}}"#, "n".repeat(LONG / 2), &members[..LONG / 2].rsplit_once(',').unwrap().0);
    check(&json, &format!("{{{time},{agent},{inside}}}"), &Expected { holds: &[r#""m1\":7"#], ..PAGE });
    let plain: Format = "combined".parse().unwrap();
    let words = " a".repeat(LONG / 2);
    check(&plain, &combined(FRONT, &words), &Expected { holds: &[r#""rest":"a a a "#], ..PAGE });
    let named: String = (0..70_000).map(|row| format!(" m{row}=7")).collect();
    check(&plain, &combined(FRONT, &named), &Expected { holds, ..PAGE });
    let front = format!("{}192.0.2.1 - - [10/Mar/2026:10:00:00 +0000]", "a: ".repeat(LONG / 3));
    let out = decode(&plain, &combined(&front, ""));
    assert_eq!(out.records.len() + out.malformed.len(), 1);
}

/// A format of nginx with a value for each variable, and what must come of it.
fn rendered() -> impl Strategy<Value = (String, String, Vec<(String, String)>)> {
    let texts = ("[a-z0-9][a-z0-9_/=;]{0,8}", "[a-z0-9]([a-z0-9 ;/()]{0,10}[a-z0-9])?");
    let fields = prop::collection::vec((prop::bool::ANY, texts.0, texts.1), 1..6);
    (fields, "[ ]{1,3}", prop::bool::ANY).prop_map(|(fields, space, first)| {
        let time = ("[$time_local]".to_owned(), "[10/Mar/2026:10:00:00 +0000]".to_owned());
        let request = ("\"$request\"".to_owned(), "\"GET /a HTTP/1.1\"".to_owned());
        let mut parts = vec![time, request];
        let mut values = Vec::new();
        for (row, (quoted, word, text)) in fields.into_iter().enumerate() {
            let name = format!("field_{row}");
            let part = if quoted {
                (format!("\"${name}\""), format!("\"{text}\""))
            } else {
                (format!("${name}"), word.clone())
            };
            values.push((name, if quoted { text } else { word }));
            if first && row % 2 == 0 { parts.insert(0, part) } else { parts.push(part) }
        }
        let (formats, lines): (Vec<String>, Vec<String>) = parts.into_iter().unzip();
        (formats.join(" "), lines.join(&space), values)
    })
}

proptest! {
    #[test]
    fn what_a_format_writes_is_read_back((format, line, values) in rendered()) {
        let format = Format::of_log(&format).unwrap();
        let out = decode(&format, &line);
        prop_assert_eq!(out.malformed.len(), 0, "{}", line);
        let properties: serde_json::Value = serde_json::from_str(out.records[0].properties().unwrap()).unwrap();
        for (name, value) in values {
            let read = &properties[&name];
            let read = read.as_str().map_or_else(|| read.to_string(), str::to_owned);
            prop_assert_eq!(read, value, "{} of {}", name, line);
        }
    }

    #[test]
    fn any_text_is_a_format_or_a_problem(text in "[$%{}a-z_\"\\\\' \\[\\]<>!,:0-9tTrUHs]{0,40}", line in "[\\PC]{0,60}") {
        if let Ok(format) = Format::of_log(&text) {
            let _ = decode(&format, &line);
        }
    }

    #[test]
    fn any_line_is_read_without_a_panic(bytes in prop::collection::vec(prop_oneof![
        4 => prop::sample::select(vec!["192.0.2.1", " ", "- -", "[10/Mar/2026:10:00:00 +0000]", "\"", "\\", "GET / HTTP/1.1", "200", "#Fields: date time", "{", "}", "\"ts\":1773136800", ",", "\n", "shop.example:443"]),
        1 => Just("\u{e4}\0\t"),
    ], 0..20)) {
        let text = bytes.concat();
        for name in ["combined", "vhost-combined", "json-log", "w3c", "alb"] {
            let out = decode(&name.parse().unwrap(), &text);
            let lines = text.split('\n').filter(|line| !line.trim().is_empty()).count();
            prop_assert!(out.records.len() + out.malformed.len() <= lines);
        }
    }
}

//! What a listener speaks, asked by ourselves where the client only says that connections end: TLS, passwords, or neither.
//!
//! A client that speaks plainly to a TLS listener hears nothing at all, and one that greets a plain listener in TLS is cut off:
//! both look like a broker behind a gateway that is away, which is to be waited for. A first greeting in each manner tells
//! them apart.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::config::KafkaConfig;

/// How long one greeting may take.
const ANSWER: Duration = Duration::from_secs(2);

/// What a listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Speech {
    /// TLS; what is within is not known.
    Tls,
    /// Kafka, to whoever comes.
    Plain,
    /// Kafka, to users with passwords; the mechanisms that it names.
    Passwords(String),
}

/// A sentence, if the first broker that answers speaks otherwise than the settings say.
pub(crate) fn mismatch(config: &KafkaConfig) -> Option<String> {
    let protocol = config.property("security.protocol").unwrap_or("plaintext").to_ascii_lowercase();
    let heard = config.brokers.split(',').find_map(|broker| Some((broker, listen(broker)?)));
    let (broker, speech) = heard?;
    remedy(&protocol, &speech).map(|remedy| {
        let what = match &speech {
            Speech::Tls => "speaks TLS there".to_owned(),
            Speech::Plain => "speaks without TLS and without passwords there".to_owned(),
            Speech::Passwords(mechanisms) => format!("asks for a password ({mechanisms}) and speaks without TLS there"),
        };
        format!("Kafka at {broker} {what}, and security.protocol is {protocol}; {remedy}")
    })
}

/// What to set, where what is set cannot be right.
fn remedy(protocol: &str, speech: &Speech) -> Option<&'static str> {
    match (speech, protocol) {
        (Speech::Tls, "plaintext" | "sasl_plaintext") => {
            Some("set security.protocol=ssl, or sasl_ssl where it asks for a password, and ssl.ca.location")
        }
        (Speech::Plain, "ssl" | "sasl_ssl" | "sasl_plaintext") => {
            Some("leave security.protocol out, or name the port that is meant")
        }
        (Speech::Passwords(_), "plaintext" | "ssl" | "sasl_ssl") => Some(
            "set security.protocol=sasl_plaintext, sasl.mechanism, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, or name the \
             port that is meant",
        ),
        _ => None,
    }
}

fn listen(broker: &str) -> Option<Speech> {
    let address = broker.to_socket_addrs().ok()?.next()?;
    let greet = |greeting: &[u8], least: usize| -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(greeting)?;
        let mut answer = Vec::new();
        let mut part = [0; 512];
        while answer.len() < least {
            match stream.read(&mut part) {
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend_from_slice(&part[..read]),
            }
        }
        Ok(answer)
    };
    if greet(&client_hello(), 2).is_ok_and(|answer| is_tls(&answer)) {
        return Some(Speech::Tls);
    }
    greet(&SASL_HANDSHAKE, 14).ok().as_deref().and_then(passwords)
}

/// Whether this begins an answer in TLS: a record of the handshake, or an alert.
fn is_tls(answer: &[u8]) -> bool {
    matches!(answer, [0x15 | 0x16, 3, ..])
}

/// SaslHandshake 1 for PLAIN, which only listeners with passwords take.
const SASL_HANDSHAKE: [u8; 29] = *b"\0\0\0\x19\0\x11\0\x01\0\0\0\x07\0\x08tidemill\0\x05PLAIN";

/// What the answer to [`SASL_HANDSHAKE`] says: no error, or that the mechanism is another one, or that it makes no sense here.
fn passwords(answer: &[u8]) -> Option<Speech> {
    const UNSUPPORTED_MECHANISM: i16 = 33;
    const ILLEGAL_STATE: i16 = 34;
    let rest = answer.get(4..)?.strip_prefix(&[0, 0, 0, 7])?;
    let code = i16::from_be_bytes(rest.first_chunk().copied()?);
    match code {
        0 | UNSUPPORTED_MECHANISM => Some(Speech::Passwords(mechanisms(rest.get(2..)?))),
        ILLEGAL_STATE => Some(Speech::Plain),
        _ => None,
    }
}

/// The names in an array of strings, as far as they were read.
fn mechanisms(mut rest: &[u8]) -> String {
    let mut names = Vec::new();
    rest = rest.get(4..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((name, after)) = after.split_at_checked(length) else { break };
        names.push(String::from_utf8_lossy(name).into_owned());
        rest = after;
    }
    names.join(", ")
}

/// The first message of a TLS 1.2 handshake: enough to be answered, if only by an alert.
fn client_hello() -> Vec<u8> {
    // ECDHE with ECDSA and RSA, AES-128-GCM; its curves and signatures.
    let suites = [0xc0, 0x2b, 0xc0, 0x2f, 0x00, 0xff];
    let extensions = [&[0, 10, 0, 4, 0, 2, 0, 23][..], &[0, 11, 0, 2, 1, 0], &[0, 13, 0, 6, 0, 4, 4, 3, 4, 1]].concat();
    let mut body = vec![3, 3];
    body.extend([0x54; 32]);
    body.push(0);
    sized(&mut body, &suites);
    body.extend([1, 0]);
    sized(&mut body, &extensions);
    let mut handshake = vec![1, 0];
    sized(&mut handshake, &body);
    let mut record = vec![0x16, 3, 1];
    sized(&mut record, &handshake);
    record
}

/// Appends bytes behind their length in two bytes.
fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).expect("a greeting is short").to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::Credentials;

    #[test]
    fn answers_tell_what_a_listener_speaks() {
        for (answer, speech) in [
            (&b"\0\0\0\x0a\0\0\0\x07\0\x22\0\0\0\0"[..], Some(Speech::Plain)),
            (b"\0\0\0\x11\0\0\0\x07\0\0\0\0\0\x01\0\x05PLAIN", Some(Speech::Passwords("PLAIN".into()))),
            (
                b"\0\0\0\x19\0\0\0\x07\0\x21\0\0\0\x01\0\x0dSCRAM-SHA-256",
                Some(Speech::Passwords("SCRAM-SHA-256".into())),
            ),
            (b"HTTP/1.1 400 Bad Request\r\n", None),
            (b"", None),
        ] {
            assert_eq!(passwords(answer), speech, "{answer:?}");
        }
        assert!(is_tls(&[0x15, 3, 3, 0, 2]) && is_tls(&[0x16, 3, 3]) && !is_tls(b"HTTP") && !is_tls(&[]));
    }

    #[test]
    fn only_what_cannot_be_right_has_a_remedy() {
        let passwords = Speech::Passwords("PLAIN".into());
        for (protocol, speech, wrong) in [
            ("plaintext", &Speech::Plain, false),
            ("plaintext", &Speech::Tls, true),
            ("plaintext", &passwords, true),
            ("ssl", &Speech::Plain, true),
            ("ssl", &Speech::Tls, false),
            ("ssl", &passwords, true),
            ("sasl_plaintext", &Speech::Plain, true),
            ("sasl_plaintext", &Speech::Tls, true),
            ("sasl_plaintext", &passwords, false),
            ("sasl_ssl", &Speech::Plain, true),
            ("sasl_ssl", &Speech::Tls, false),
            ("sasl_ssl", &passwords, true),
        ] {
            assert_eq!(remedy(protocol, speech).is_some(), wrong, "{protocol} {speech:?}");
        }
    }

    #[test]
    fn whoever_says_nothing_or_is_not_there_is_not_judged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let hangs_up = std::thread::spawn(move || listener.incoming().take(2).for_each(drop));
        let config = |place: &str| KafkaConfig::source(&format!("kafka://{place}"), &Credentials::default()).unwrap();
        assert_eq!(mismatch(&config(&address.to_string())), None, "a gateway whose broker is away does that");
        hangs_up.join().unwrap();
        assert_eq!(mismatch(&config("127.0.0.1:1")), None);
    }
}

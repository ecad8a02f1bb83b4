//! What is a secret by its name or by where it stands in an address, so that it is neither taken from a file nor shown.
//!
//! Whoever says something to the outside (stderr, an answer over HTTP, telemetry) masks it where it goes out, behind all that
//! may have an address in their words.

use std::borrow::Cow;

/// Whether a key names a secret rather than a file with one.
#[must_use]
pub fn names_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let parts = ["password", "passwd", "secret", "token", "api_key", "hash_key", "access_key", "credential", ".pem"];
    !key.ends_with("_file")
        && (matches!(&*key, "key" | "keys" | "sig")
            || key.ends_with("signature")
            || key.contains("oauthbearer")
            || parts.iter().any(|part| key.contains(part)))
}

/// Whether an address has a user, a password or a secret parameter in it.
#[must_use]
pub fn holds_secret(text: &str) -> bool {
    masked(text) != text
}

/// A text in which no address has a user before its host any more, nor a parameter that is a secret; it may be one address, or a
/// sentence around some.
///
/// ```
/// assert_eq!(tidemill_log::secrets::masked("cannot ask http://me:secret@h:1/a"), "cannot ask http://(hidden)@h:1/a");
/// ```
#[must_use]
pub fn masked(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, address) = rest.split_at(at + 3);
        out.push_str(before);
        let end = address.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(address.len());
        // Another address may follow at once, as in a list.
        let end = address[..end].find("://").map_or(end, |next| scheme_at(&address[..next]));
        let (address, behind) = address.split_at(end);
        push_masked(&mut out, address);
        rest = behind;
    }
    out.push_str(rest);
    if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
}

/// What a sentence goes on with behind an address.
const PUNCTUATION: [char; 8] = [',', ';', ':', ')', ']', '.', '\'', '`'];

/// Where the scheme begins that a text ends with.
fn scheme_at(text: &str) -> usize {
    text.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-')).len()
}

/// What stands behind the scheme of an address, without its secrets.
fn push_masked(out: &mut String, address: &str) {
    let host = host_at(address);
    if host > 0 {
        out.push_str("(hidden)@");
    }
    let (place, query) = match address[host..].split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (&address[host..], None),
    };
    out.push_str(place);
    for (number, parameter) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        out.push(if number == 0 { '?' } else { '&' });
        match parameter.split_once('=') {
            Some((name, value)) if names_secret(name) => {
                out.push_str(name);
                out.push_str("=(hidden)");
                out.push_str(&value[value.trim_end_matches(PUNCTUATION).len()..]);
            }
            _ => out.push_str(parameter),
        }
    }
}

/// Where the host begins, behind a user and a password.
fn host_at(address: &str) -> usize {
    let authority = &address[..address.find(['/', '?', '#']).unwrap_or(address.len())];
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port.trim_end_matches(PUNCTUATION));
    // What stands where a port should, and is none, is a password with a slash or a question mark in it.
    let odd = !authority.contains('@') && !port.bytes().all(|byte| byte.is_ascii_digit());
    let searched = if odd { address } else { authority };
    searched.rfind('@').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_an_address_is_hidden_and_nothing_else() {
        for plain in ["log:///data/log?topics=events.*", "kafka://a:1,b:2/p?fetch.max.bytes=1", "64MiB", "a@b"] {
            assert_eq!(masked(plain), plain);
            assert!(!holds_secret(plain));
        }
        assert_eq!(masked("clickhouse://me:hunter2@host:8123/db"), "clickhouse://(hidden)@host:8123/db");
        assert_eq!(
            masked("kafka://a:1?topics=t&sasl.password=hunter2&group=g"),
            "kafka://a:1?topics=t&sasl.password=(hidden)&group=g"
        );
    }

    #[test]
    fn no_message_shows_a_password_of_an_address() {
        for (said, shown) in [
            ("http://me:hunter2@host:80/a: broken", "http://(hidden)@host:80/a: broken"),
            ("cannot ask `kafka://me:hunter2@a:1,b:2?topics=t`", "cannot ask `kafka://(hidden)@a:1,b:2?topics=t`"),
            ("(s3://k:hunter2@b/p), and http://hunter2@h.", "(s3://(hidden)@b/p), and http://(hidden)@h."),
            ("clickhouse://me:hun/te?r2@h:1/db failed", "clickhouse://(hidden)@h:1/db failed"),
            ("http://me:hunter2@a,http://you:it's@b", "http://(hidden)@a,http://(hidden)@b"),
            ("clickhouse://me:hunter2@a@h/db", "clickhouse://(hidden)@h/db"),
            ("http://[::1]:80/?password=hunter2&x=1; retry", "http://[::1]:80/?password=(hidden)&x=1; retry"),
            ("http://h?a=1&token=hunter2, or not", "http://h?a=1&token=(hidden), or not"),
            ("http://h/p?client_secret=hunter2: no", "http://h/p?client_secret=(hidden): no"),
            ("http://h/p?key=hunter2", "http://h/p?key=(hidden)"),
            (
                "https://b/o?X-Amz-Signature=hunter2&X-Amz-Credential=hunter2",
                "https://b/o?X-Amz-Signature=(hidden)&X-Amz-Credential=(hidden)",
            ),
            (r#"{"message":"http://me:hunter2@h/\"x\""}"#, r#"{"message":"http://(hidden)@h/\"x\""}"#),
        ] {
            assert_eq!(masked(said), shown);
        }
        for plain in [
            "log:///home/me@work/log: no such topic",
            "read http://host:80/a@b, http://[::1]:9/, http://h:80, and write to me@example.org",
            "kafka://a:1,b:2?topics=keys.*&group=g",
            "no address at all: user:password@host",
        ] {
            assert_eq!(masked(plain), plain);
        }
    }

    #[test]
    fn a_key_is_a_secret_by_its_name_unless_it_names_a_file() {
        for secret in
            ["password", "clickhouse_password", "sasl.password", "API-Key", "keys", "cluster_token", "hash_key"]
        {
            assert!(names_secret(secret), "{secret}");
        }
        for plain in ["clickhouse_password_file", "keys_file", "workers", "keep_bindings"] {
            assert!(!names_secret(plain), "{plain}");
        }
    }
}

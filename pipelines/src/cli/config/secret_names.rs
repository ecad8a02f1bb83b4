//! What is a secret by its name or by where it stands, so that it is neither taken from a file nor printed.

/// Whether a key names a secret rather than a file with one.
pub(super) fn names_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let parts = ["password", "passwd", "secret", "token", "api_key", "hash_key", "access_key", "credential", ".pem"];
    !key.ends_with("_file")
        && (key == "keys" || key.contains("oauthbearer") || parts.iter().any(|part| key.contains(part)))
}

/// Whether an address has a user, a password or a secret parameter in it.
pub(super) fn holds_secret(text: &str) -> bool {
    masked(text) != text
}

/// An address without the user before its host and without parameters that are secrets; other texts as they are.
pub(super) fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    let place = match place.rsplit_once('@') {
        Some((_, host)) => format!("(hidden)@{host}"),
        None => place.to_owned(),
    };
    let hidden = |parameter: &str| match parameter.split_once('=') {
        Some((name, _)) if names_secret(name) => format!("{name}=(hidden)"),
        _ => parameter.to_owned(),
    };
    let query = query.map(|query| query.split('&').map(hidden).collect::<Vec<_>>().join("&"));
    format!("{scheme}://{place}{}", query.map_or_else(String::new, |query| format!("?{query}")))
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

//! What addresses of topics have in common: parameters, percent-encoding, names of partitions.

/// The parameters of an address behind its `?`, percent-decoded; a part without `=` is a name without a value.
///
/// # Errors
/// A sentence, if a part is not percent-encoded UTF-8.
pub fn parameters(query: &str) -> Result<Vec<(String, String)>, String> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((percent_decoded(name)?, percent_decoded(value)?))
        })
        .collect()
}

/// Takes `%41` for `A`; a `+` stays a `+`.
///
/// # Errors
/// A sentence, if the text is not percent-encoded UTF-8.
pub fn percent_decoded(text: &str) -> Result<String, String> {
    let refused = || format!("`{text}` is not percent-encoded UTF-8; write % as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(refused)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| refused())?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| refused())
}

/// The name of a partition: `topic/partition`.
#[must_use]
pub fn partition_name(topic: &str, id: i32) -> String {
    format!("{topic}/{id}")
}

/// Topic and partition of a name; none if it is no such name.
#[must_use]
pub fn parse_partition_name(name: &str) -> Option<(&str, i32)> {
    let (topic, id) = name.rsplit_once('/')?;
    Some((topic, id.parse().ok().filter(|id| *id >= 0)?))
}

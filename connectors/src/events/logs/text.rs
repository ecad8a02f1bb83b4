//! Pieces of a line: words, quoted texts, and the white space between them.
//!
//! Any number of spaces and tabs stands for one. A quoted text ends at a quote with nothing but white space (or the mark
//! that the layout has there) behind it; one behind a backslash, or doubled, is part of the text.

use memchr::memchr2;

/// What follows the spaces and tabs that a text begins with.
#[inline]
pub(super) fn skip_space(text: &str) -> &str {
    let spaces = text.bytes().take_while(|byte| is_space(*byte)).count();
    &text[spaces..]
}

#[inline]
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A line without what a copied or truncated file may have around it: white space, and the hole of NULs where a server
/// went on writing behind the end of a file that was cut.
pub(super) fn trimmed(line: &str) -> &str {
    let is_plain = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_graphic);
    if is_plain(line.as_bytes().first()) && is_plain(line.as_bytes().last()) {
        return line;
    }
    line.trim_matches([' ', '\t', '\r', '\0', '\u{feff}'])
}

/// A word of at least one character, and what follows it, white space included.
#[inline]
pub(super) fn word(text: &str) -> Option<(&str, &str)> {
    let end = memchr2(b' ', b'\t', text.as_bytes()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// The inside of a quoted text, and what follows its closing quote.
#[inline]
pub(super) fn quoted(text: &str, behind: Option<u8>) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('"')?;
    let end = closing_quote(inside, behind)?;
    Some((&inside[..end], &inside[end + 1..]))
}

/// Where the quote stands that ends what `text` begins with; `behind` may follow it besides white space.
#[inline]
pub(super) fn closing_quote(text: &str, behind: Option<u8>) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'\\' {
            // What follows the backslash is no ASCII quote if it is the start of a longer character.
            at += 2;
            continue;
        }
        match bytes.get(at + 1) {
            None => return Some(at),
            Some(next) if is_space(*next) || Some(*next) == behind => return Some(at),
            Some(b'"') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// At least one decimal digit and nothing else, within 64 bits.
#[inline]
pub(super) fn number(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0_u64, |n, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_ends_at_the_quote_that_white_space_follows() {
        for (text, expected) in [
            (r#""a b" c"#, Some(("a b", " c"))),
            (r#""a""#, Some(("a", ""))),
            (r#""" x"#, Some(("", " x"))),
            (r#""a \"b\" c" d"#, Some((r#"a \"b\" c"#, " d"))),
            (r#""a ""b"" c" d"#, Some((r#"a ""b"" c"#, " d"))),
            (r#""a "b c" d"#, Some((r#"a "b c"#, " d"))),
            (r#""a\x22b" c"#, Some((r"a\x22b", " c"))),
            (r#""a\\" c"#, Some((r"a\\", " c"))),
            (r#""a\" c"#, None),
            (r#""a"#, None),
            (r#"a""#, None),
            ("\"\\\u{e4}\"", Some(("\\\u{e4}", ""))),
        ] {
            assert_eq!(quoted(text, None), expected, "{text}");
        }
        assert_eq!(quoted(r#""a","b""#, Some(b',')), Some(("a", r#","b""#)));
    }
}

//! Which topics are meant: names and patterns.

/// The topic that holds what the others hold, for raw archives; no pattern means it.
const RAW_ALL: &str = "events.raw_all";

/// Names of topics and patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    literals: Vec<String>,
    patterns: Vec<String>,
}

impl Topics {
    /// Reads a list separated by commas; an item with `*` (any text) or `?` (any character) is a pattern.
    ///
    /// # Errors
    /// A sentence, if an item is no topic's name.
    pub fn parse(list: &str) -> Result<Topics, String> {
        let mut topics = Topics { literals: Vec::new(), patterns: Vec::new() };
        for item in list.split(',') {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*' | b'?');
            if item.is_empty() || item.len() > 249 || !item.bytes().all(known) {
                return Err(format!(
                    "topics={list}: `{item}` is no topic; list names of letters, digits, `.`, `_`, `-` or patterns with `*`"
                ));
            }
            let kind = if item.contains(['*', '?']) { &mut topics.patterns } else { &mut topics.literals };
            kind.push(item.to_owned());
        }
        Ok(topics)
    }

    /// Whether a topic is meant. `events.raw_all`, and internal topics (`__..`), only if named in full.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let by_pattern = || self.patterns.iter().any(|pattern| glob(pattern.as_bytes(), topic.as_bytes()));
        self.literals.iter().any(|name| name == topic) || topic != RAW_ALL && !topic.starts_with("__") && by_pattern()
    }

    /// The topics that are named in full.
    #[must_use]
    pub fn literals(&self) -> &[String] {
        &self.literals
    }
}

impl std::fmt::Display for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<&str> = self.literals.iter().chain(&self.patterns).map(String::as_str).collect();
        f.write_str(&all.join(","))
    }
}

/// Whether a pattern of `*` and `?` matches all of a text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star stood, and how much of the text it had taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("events.*", "events.clicks", true),
            ("events.*", "events.a.b", true),
            ("events.*", "events", false),
            ("events.*", "myevents.x", false),
            ("events.*", "eventsx", false),
            ("*", "anything", true),
            ("*", "__consumer_offsets", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ab_ba", false),
            ("events.*", RAW_ALL, false),
            ("events.raw*", RAW_ALL, false),
            ("x,events.raw_all", RAW_ALL, true),
            ("__internal", "__internal", true),
        ] {
            assert_eq!(Topics::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_topic_is_refused() {
        for list in ["", "a,,b", "a b", "a/b", "ä"] {
            assert!(Topics::parse(list).unwrap_err().contains("is no topic"), "{list}");
        }
    }
}

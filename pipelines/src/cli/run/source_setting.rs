//! How a source over Kafka fetches, operator by operator: what tunes, and nothing that a result could depend on.

use std::fmt;

/// What librdkafka's settings begin with that are about speed, memory and connections only.
const TUNING: [&str; 8] =
    ["fetch.", "max.partition.fetch.", "queued.", "receive.", "reconnect.", "retry.", "socket.", "client.rack"];

/// A setting of the connection of one source, `ID.NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceSetting {
    /// The source's operator id.
    pub(super) id: String,
    name: String,
    value: String,
}

impl fmt::Display for SourceSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}={}", self.id, self.name, self.value)
    }
}

/// Reads `events.fetch.max.bytes=8388608`.
pub(crate) fn source_setting(text: &str) -> Result<SourceSetting, String> {
    let parts = text.split_once('=').and_then(|(name, value)| Some((name.split_once('.')?, value)));
    let Some(((id, name), value)) = parts else {
        return Err("write ID.NAME=VALUE, for example events.fetch.max.bytes=8388608".to_owned());
    };
    if !TUNING.iter().any(|tuning| name.starts_with(tuning)) {
        let known = TUNING.map(|tuning| format!("{}*", tuning.trim_end_matches('.'))).join(", ");
        return Err(format!("`{name}` is no setting of how a source fetches: there are librdkafka's {known}"));
    }
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    {
        return Err(format!("the value of {name} is a number or a word"));
    }
    Ok(SourceSetting { id: id.to_owned(), name: name.to_owned(), value: value.to_owned() })
}

/// The address with these settings in it; a later one of a name beats an earlier one, and what stands in the address beats
/// both.
pub(super) fn tuned(address: &str, settings: &[SourceSetting]) -> String {
    let query = address.split_once('?').map_or("", |(_, query)| query);
    let there = |name: &str| query.split('&').any(|parameter| parameter.split('=').next() == Some(name));
    let last = |at: usize| settings[at + 1..].iter().all(|later| later.name != settings[at].name);
    let mut tuned = address.to_owned();
    for (at, setting) in settings.iter().enumerate().filter(|(_, setting)| !there(&setting.name)) {
        if last(at) {
            tuned.push(if tuned.contains('?') { '&' } else { '?' });
            tuned.push_str(&format!("{}={}", setting.name, setting.value));
        }
    }
    tuned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_into_the_address_unless_it_has_them() {
        let settings: Vec<_> = ["events.fetch.max.bytes=1", "events.fetch.min.bytes=2", "events.fetch.max.bytes=3"]
            .map(|text| source_setting(text).unwrap())
            .into();
        assert_eq!(tuned("kafka://a:1", &settings), "kafka://a:1?fetch.min.bytes=2&fetch.max.bytes=3");
        assert_eq!(
            tuned("kafka://a:1?topics=t&fetch.max.bytes=9", &settings),
            "kafka://a:1?topics=t&fetch.max.bytes=9&fetch.min.bytes=2"
        );
    }

    #[test]
    fn only_what_tunes_is_taken() {
        for refused in
            ["events.isolation.level=read_uncommitted", "events.topics=x", "events", "events.fetch.max.bytes=1&a=b"]
        {
            assert!(source_setting(refused).is_err(), "{refused}");
        }
    }
}

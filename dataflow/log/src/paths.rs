//! The one owner of the names under the log's folder.

use crate::error::LogError;

/// Digits of a number in a name: enough for any `u64`, so that names sort as numbers do.
const DIGITS: usize = 20;

/// Names of the log's objects.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    prefix: String,
}

impl Paths {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    pub(crate) fn format(&self) -> String {
        format!("{}/format", self.prefix)
    }

    pub(crate) fn runs(&self) -> String {
        format!("{}/runs", self.prefix)
    }

    pub(crate) fn run(&self, run: u64) -> String {
        format!("{}/runs/{run:0DIGITS$}", self.prefix)
    }

    pub(crate) fn entries(&self) -> String {
        format!("{}/log", self.prefix)
    }

    pub(crate) fn entry(&self, number: u64) -> String {
        format!("{}/log/{number:0DIGITS$}", self.prefix)
    }

    pub(crate) fn snapshots(&self) -> String {
        format!("{}/snapshots", self.prefix)
    }

    pub(crate) fn snapshot(&self, number: u64) -> String {
        format!("{}/snapshots/{number:0DIGITS$}", self.prefix)
    }

    pub(crate) fn bindings(&self) -> String {
        format!("{}/bindings", self.prefix)
    }

    pub(crate) fn bindings_of(&self, span: Span) -> String {
        format!("{}/bindings/{:0DIGITS$}-{:0DIGITS$}", self.prefix, span.first, span.last)
    }

    /// There is no log, said about this folder.
    pub(crate) fn not_initialized(&self) -> LogError {
        LogError::NotInitialized { prefix: self.prefix.clone(), object: self.format() }
    }
}

/// Epochs without a gap, as the name of an object says them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Span {
    /// The epochs of a listed name; `None` for a name that is not one of ours.
    pub(crate) fn of(path: &str) -> Option<Span> {
        let (first, last) = path.rsplit('/').next()?.split_once('-')?;
        let span = Span { first: number_of(first)?, last: number_of(last)? };
        (span.first <= span.last).then_some(span)
    }

    pub(crate) fn epochs(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    pub(crate) fn covers(self, other: Span) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// The number that a listed name ends in; `None` for a name that is not one of ours.
pub(crate) fn number_of(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next()?;
    if name.len() == DIGITS && name.bytes().all(|byte| byte.is_ascii_digit()) { name.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_numbers_and_read_back() {
        let paths = Paths::new("_tidemill/");
        assert!(paths.entry(9) < paths.entry(10));
        assert_eq!(number_of(&paths.entry(u64::MAX)), Some(u64::MAX));
        let span = Span { first: 9, last: 10 };
        assert_eq!(Span::of(&paths.bindings_of(span)), Some(span));
        assert_eq!(Span::of(&paths.entry(9)), None);
        assert_eq!(number_of("_tidemill/log/12"), None);
        assert_eq!(number_of("_tidemill/log/+0000000000000000012"), None);
    }
}

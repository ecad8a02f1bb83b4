//! [`Books`]: what became of every record that was read, by the counters in the log, whatever a pipeline calls its operators.

use tidemill_log::LogState;

/// Records by what became of them (INV-6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    /// Lines or messages that the source read.
    pub(crate) read: u64,
    /// Records that went on: those that deduplication accepted, or all where there is none.
    pub(crate) accepted: u64,
    pub(crate) malformed: u64,
    pub(crate) quarantined: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicting_duplicates: u64,
    pub(crate) unverified: u64,
    /// Records that came after their window was complete, summed over the window operators.
    pub(crate) late: u64,
    /// Records that were gone before they were read, as somebody accepted.
    pub(crate) lost: u64,
}

impl Books {
    pub(crate) fn of(state: &LogState) -> Books {
        Books::sum(state.counts().iter().map(|(name, n)| (name.as_str(), *n)))
    }

    /// Sums counters named `operator/counter`.
    fn sum<'a>(counters: impl Iterator<Item = (&'a str, u64)>) -> Books {
        let (mut books, mut judged) = (Books::default(), false);
        for (name, n) in counters {
            let (_, counter) = name.rsplit_once('/').unwrap_or(("", name));
            let total = match counter {
                "read" => &mut books.read,
                "accepted" => &mut books.accepted,
                "malformed" => &mut books.malformed,
                "quarantined" => &mut books.quarantined,
                "duplicates" => &mut books.duplicates,
                "conflicting_duplicates" => &mut books.conflicting_duplicates,
                "unverified" => &mut books.unverified,
                "late" => &mut books.late,
                "lost" => &mut books.lost,
                _ => continue,
            };
            *total += n;
            judged |= matches!(counter, "accepted" | "duplicates" | "unverified");
        }
        if !judged {
            books.accepted = books.read.saturating_sub(books.malformed + books.quarantined);
        }
        books
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_kept_whatever_the_operators_are_called() {
        let deduplicated = [("a/read", 10), ("a/malformed", 1), ("b/accepted", 6), ("b/duplicates", 3), ("w/late", 2)];
        let books = Books::sum(deduplicated.into_iter());
        let expected = Books { read: 10, accepted: 6, malformed: 1, duplicates: 3, late: 2, ..Books::default() };
        assert_eq!(books, expected);
        let plain = Books::sum([("bids/read", 10), ("bids/malformed", 1), ("w/late", 2), ("v/late", 3)].into_iter());
        assert_eq!(plain, Books { read: 10, accepted: 9, malformed: 1, late: 5, ..Books::default() });
        assert_eq!(Books::sum([("a/read", 2), ("b/unverified", 2)].into_iter()).accepted, 0);
    }
}

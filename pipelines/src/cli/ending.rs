//! What a run says at its end of records that did not get where they should: malformed ones, and unverified ones (INV-6).

use std::collections::BTreeMap;

use tidemill_dataflow::status::{MalformedPlace, MalformedReason};
use tidemill_operators::dedup::UNVERIFIED_AGES;

use super::Failure;
use super::books::Books;

/// Kinds of reasons that are said.
const MOST_SAID: usize = 10;

/// The reasons that are said where nothing at all could be read.
const FIRST: usize = 3;

/// Malformed records are worth a warning from this share on: one of a hundred.
const SHARE: u64 = 100;

/// How unverified records stand behind the watermark, in words, in the order of [`UNVERIFIED_AGES`].
const AGES: [&str; UNVERIFIED_AGES.len()] = ["1 to 2 hours", "2 hours to a day", "a day to 7 days", "more than 7 days"];

/// The end of a run.
pub(crate) struct Ending<'a> {
    /// From the pipeline's beginning to the end of this run.
    pub(crate) books: Books,
    /// To the end of the run before.
    pub(crate) before: Books,
    /// All counters to the end of this run.
    pub(crate) counts: &'a BTreeMap<String, u64>,
    /// Why lines of this run were malformed.
    pub(crate) reasons: &'a [MalformedReason],
    /// Files and partitions of which no line was ever a record.
    pub(crate) without_records: &'a [MalformedReason],
    /// The input has an end, and it was reached.
    pub(crate) finished: bool,
    /// Where dead letters are.
    pub(crate) dead_letters: &'a str,
    /// The table of unverified events, if the pipeline has one.
    pub(crate) unverified_table: Option<&'a str>,
}

impl Ending<'_> {
    /// What operators should look at, a sentence each.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let read = self.books.read.saturating_sub(self.before.read);
        let malformed = self.books.malformed.saturating_sub(self.before.malformed);
        if malformed.saturating_mul(SHARE) > read && !self.nothing_accepted() {
            warnings.push(format!(
                "{malformed} of {read} records are malformed and counted nowhere; they are in {}. The reasons by count:",
                self.dead_letters
            ));
            warnings.extend(
                self.reasons
                    .iter()
                    .take(MOST_SAID)
                    .map(|reason| format!("{} malformed, the first is {}", reason.count, place(&reason.first))),
            );
            let rest: u64 = self.reasons.iter().skip(MOST_SAID).map(|reason| reason.count).sum();
            if rest > 0 {
                warnings.push(format!("{rest} malformed for other reasons"));
            }
        }
        if !self.nothing_accepted() {
            let said = self.without_records.iter().take(MOST_SAID).map(|without| {
                let (name, of_these) = (&without.first.partition, lines_of(without.count));
                let MalformedPlace { line, reason, .. } = &without.first;
                format!("{name}: no line of it is a record ({of_these}); the first, line {line}: {reason}")
            });
            warnings.extend(said);
            if let Some(more) = self.without_records.len().checked_sub(MOST_SAID).filter(|more| *more > 0) {
                warnings.push(format!("{more} more files have no line that is a record"));
            }
        }
        warnings.extend(self.unverified());
        warnings
    }

    /// How many events could not be judged, how old they were, and what to do.
    fn unverified(&self) -> Option<String> {
        let (now, before) = (self.books.unverified, self.before.unverified);
        if now <= before {
            return None;
        }
        let ages = self.unverified_ages();
        let known: Vec<String> =
            ages.iter().zip(AGES).filter(|((_, n), _)| *n > 0).map(|((_, n), age)| format!("{n} by {age}")).collect();
        let known = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
        let kept = match self.unverified_table {
            Some(table) => format!("They are in {table} and counted in no other table"),
            None => "The tables do not count them".to_owned(),
        };
        Some(format!(
            "{now} events are unverified: they came more than an hour of event time behind the watermark{known}, so nobody \
             can tell whether they are duplicates. {kept}; to count them, run over the input in the order of its times (sort \
             it by timestamp) with a new --out"
        ))
    }

    /// Unverified events by how far they were behind the watermark, from the pipeline's beginning.
    pub(crate) fn unverified_ages(&self) -> [(&'static str, u64); UNVERIFIED_AGES.len()] {
        UNVERIFIED_AGES.map(|(name, _)| {
            let named = |(full, _): &(&String, &u64)| full.rsplit_once('/').is_some_and(|(_, counter)| counter == name);
            (name, self.counts.iter().filter(named).map(|(_, n)| n).sum())
        })
    }

    fn nothing_accepted(&self) -> bool {
        let Books { read, malformed, .. } = self.books;
        self.finished && read > 0 && malformed == read
    }

    /// The failure of a run that could read nothing of its input: a line for each of the first kinds of reasons, or for each of
    /// the first dead letters, which `first` looks up, where these are more (an earlier run may have read them).
    pub(crate) fn refusal(&self, first: impl FnOnce(usize) -> Vec<MalformedPlace>) -> Option<Failure> {
        if !self.nothing_accepted() {
            return None;
        }
        let mut places: Vec<MalformedPlace> =
            self.reasons.iter().take(FIRST).map(|reason| reason.first.clone()).collect();
        if places.len() < FIRST {
            let looked_up = first(FIRST);
            places = if looked_up.len() > places.len() { looked_up } else { places };
        }
        let places: String = places.iter().map(|one| format!("\n  {}", place(one))).collect();
        Some(Failure::refused(format!(
            "nothing could be read: all {} records are malformed; they are in {}. If the lines are of another format, name it \
             with --format or --log-format. If they are wrong in themselves, correct them. The same command then reads these \
             files anew.{}{places}",
            self.books.read,
            self.dead_letters,
            if places.is_empty() { "" } else { " The first reasons:" },
        )))
    }
}

fn lines_of(count: u64) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}

fn place(first: &MalformedPlace) -> String {
    format!("{}, line {}: {}", first.partition, first.line, first.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(count: u64, reason: &str, line: u64) -> MalformedReason {
        let first = MalformedPlace { partition: "a.ndjson".into(), line, reason: reason.into() };
        MalformedReason { reason: reason.into(), count, first }
    }

    fn ending<'a>(books: Books, reasons: &'a [MalformedReason], counts: &'a BTreeMap<String, u64>) -> Ending<'a> {
        let (dead_letters, unverified_table) = ("out/dead_letters", Some("unverified_events"));
        let (before, without_records, finished) = (Books::default(), &[][..], true);
        Ending { books, before, counts, reasons, without_records, finished, dead_letters, unverified_table }
    }

    #[test]
    fn a_small_file_without_a_record_is_named_beside_a_large_one() {
        let counts = BTreeMap::new();
        let without: Vec<_> = (0..12).map(|n| reason(2, &format!("reason {n}"), 1)).collect();
        let books = Books { read: 100_000, malformed: 24, accepted: 99_976, ..Books::default() };
        let warnings = Ending { without_records: &without, ..ending(books, &[], &counts) }.warnings();
        assert_eq!(warnings[0], "a.ndjson: no line of it is a record (2 lines); the first, line 1: reason 0");
        assert_eq!((warnings.len(), &*warnings[10]), (11, "2 more files have no line that is a record"));
    }

    #[test]
    fn one_malformed_record_of_a_hundred_is_no_warning_and_more_are() {
        let (counts, reasons) = (BTreeMap::new(), [reason(2, "event_id is missing", 7)]);
        let few = Books { read: 200, malformed: 2, accepted: 198, ..Books::default() };
        assert_eq!(ending(few, &reasons, &counts).warnings(), Vec::<String>::new());
        let many = Books { read: 199, malformed: 2, accepted: 197, ..Books::default() };
        let warnings = ending(many, &reasons, &counts).warnings();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("2 of 199 records are malformed"), "{warnings:?}");
        assert_eq!(warnings[1], "2 malformed, the first is a.ndjson, line 7: event_id is missing");
        assert!(ending(many, &reasons, &counts).refusal(|_| Vec::new()).is_none());
    }

    #[test]
    fn the_share_is_of_this_run_alone() {
        let counts = BTreeMap::new();
        let before = Books { read: 10, malformed: 5, accepted: 5, ..Books::default() };
        let books = Books { read: 20, malformed: 5, accepted: 15, ..Books::default() };
        let ending = Ending { before, ..ending(books, &[], &counts) };
        assert_eq!(ending.warnings(), Vec::<String>::new());
    }

    #[test]
    fn a_run_that_could_read_nothing_is_refused_with_the_first_three_reasons() {
        let counts = BTreeMap::new();
        let reasons = [reason(4, "a", 1), reason(2, "b", 2), reason(2, "c", 3), reason(1, "d", 4)];
        let books = Books { read: 9, malformed: 9, ..Books::default() };
        let ending = ending(books, &reasons, &counts);
        assert_eq!(ending.warnings(), Vec::<String>::new());
        let said = ending.refusal(|_| Vec::new()).expect("a refusal");
        assert_eq!(said.code, 3);
        for part in ["all 9 records", "a.ndjson, line 1: a", "line 2: b", "line 3: c", "--log-format"] {
            assert!(said.message.contains(part), "{part} in {}", said.message);
        }
        assert!(!said.message.contains("line 4"), "{}", said.message);
        let stopped = Ending { finished: false, ..ending };
        assert!(stopped.refusal(|_| Vec::new()).is_none(), "a live run that was stopped is no refusal");
    }

    #[test]
    fn unverified_events_are_said_with_their_number_and_ages() {
        let counts = BTreeMap::from([
            ("unique_events/unverified".to_owned(), 12),
            ("unique_events/unverified_up_to_2h".to_owned(), 2),
            ("unique_events/unverified_up_to_7d".to_owned(), 10),
        ]);
        let books = Books { read: 100, accepted: 88, unverified: 12, ..Books::default() };
        let warnings = ending(books, &[], &counts).warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for part in ["12 events are unverified", "2 by 1 to 2 hours, 10 by a day to 7 days", "--out"] {
            assert!(warnings[0].contains(part), "{part} in {warnings:?}");
        }
        assert!(Ending { before: books, ..ending(books, &[], &counts) }.warnings().is_empty(), "said once");
    }
}

//! Why lines of this run could not become records: kinds of reasons by count, each with the first line that has it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::source::DeadLetter;

/// Kinds that are told apart at most: reasons of a decoder that quotes its input have no end.
const MOST_KINDS: usize = 64;

/// The kind of all reasons beyond [`MOST_KINDS`].
const OTHERS: &str = "other reasons";

/// Lines that could not become records for one kind of reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MalformedReason {
    /// What the reasons have in common: each number in them is `N`, quoted text is `..`.
    pub reason: String,
    /// How many lines.
    pub count: u64,
    /// The first of them.
    pub first: MalformedPlace,
}

/// A line that could not become a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MalformedPlace {
    /// The partition's name (a file's name).
    pub partition: String,
    /// The line's number in it, from 1; the offset of a record of a topic.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Counts reasons by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Reasons {
    /// In the order in which they were first met.
    kinds: Vec<MalformedReason>,
    by_kind: BTreeMap<String, usize>,
    /// Of each partition with such a line.
    by_partition: BTreeMap<String, MalformedReason>,
}

impl Reasons {
    /// Takes in a line of the partition of this name.
    pub(super) fn see(&mut self, partition: &str, letter: &DeadLetter) {
        let mut kind = kind_of(&letter.reason);
        let place =
            || MalformedPlace { partition: partition.to_owned(), line: letter.line, reason: letter.reason.clone() };
        if let Some(known) = self.by_partition.get_mut(partition) {
            known.count += 1;
        } else {
            let first_of_all = MalformedReason { reason: kind.clone(), count: 1, first: place() };
            self.by_partition.insert(partition.to_owned(), first_of_all);
        }
        if self.kinds.len() >= MOST_KINDS && !self.by_kind.contains_key(&kind) {
            OTHERS.clone_into(&mut kind);
        }
        if let Some(known) = self.by_kind.get(&kind) {
            self.kinds[*known].count += 1;
            return;
        }
        self.by_kind.insert(kind.clone(), self.kinds.len());
        self.kinds.push(MalformedReason { reason: kind, count: 1, first: place() });
    }

    /// How many lines of a partition could not become records, and the first of them; nothing if all could.
    pub(super) fn of_partition(&self, partition: &str) -> Option<&MalformedReason> {
        self.by_partition.get(partition)
    }

    /// The most frequent first; of two as frequent the one that was met first.
    pub(super) fn by_count(&self) -> Vec<MalformedReason> {
        let mut kinds = self.kinds.clone();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        kinds
    }
}

/// A reason without what is of one line only: numbers, and texts in double quotes. Numbers in names (`UTF-8`) and powers
/// (`10^15`) are the same in every line.
fn kind_of(reason: &str) -> String {
    let mut kind = String::with_capacity(reason.len());
    let mut rest = reason.chars().peekable();
    let mut in_name = false;
    while let Some(next) = rest.next() {
        match next {
            '0'..='9' => {
                let start = kind.len();
                kind.push(next);
                while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                    kind.push(digit);
                }
                in_name |= rest.peek() == Some(&'^');
                if !in_name {
                    kind.replace_range(start.., "N");
                }
            }
            '"' => {
                while rest.next().is_some_and(|inside| inside != '"') {}
                kind.push_str("\"..\"");
            }
            other => {
                in_name = other.is_ascii_alphabetic() || in_name && matches!(other, '-' | '^');
                kind.push(other);
            }
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(line: u64, reason: &str) -> DeadLetter {
        DeadLetter { partition: 0, line, reason: reason.into(), payload: Vec::new(), bytes: 0 }
    }

    #[test]
    fn reasons_of_one_kind_are_counted_together_and_the_first_line_is_kept() {
        let mut reasons = Reasons::default();
        reasons.see("a", &letter(3, "event_id is missing"));
        reasons.see("a", &letter(4, "timestamp 17 looks like seconds"));
        reasons.see("b", &letter(1, "timestamp 1800 looks like seconds"));
        reasons.see("b", &letter(9, "unknown variant \"x y\" at column 7"));
        reasons.see("b", &letter(11, "not UTF-8, at byte 12 of 10^15"));
        let place = |partition: &str, line, reason: &str| MalformedPlace {
            partition: partition.into(),
            line,
            reason: reason.into(),
        };
        let kind = |reason: &str, count, first| MalformedReason { reason: reason.into(), count, first };
        let expected = [
            kind("timestamp N looks like seconds", 2, place("a", 4, "timestamp 17 looks like seconds")),
            kind("event_id is missing", 1, place("a", 3, "event_id is missing")),
            kind("unknown variant \"..\" at column N", 1, place("b", 9, "unknown variant \"x y\" at column 7")),
            kind("not UTF-8, at byte N of 10^15", 1, place("b", 11, "not UTF-8, at byte 12 of 10^15")),
        ];
        assert_eq!(reasons.by_count(), expected);
        let of = |partition| reasons.of_partition(partition).map(|first| (first.count, first.first.line));
        assert_eq!([of("a"), of("b"), of("c")], [Some((2, 3)), Some((3, 1)), None]);
    }

    #[test]
    fn kinds_without_end_are_counted_as_others() {
        let mut reasons = Reasons::default();
        (0..1_000_u32).for_each(|n| reasons.see("a", &letter(1, &"x".repeat(n as usize))));
        let kinds = reasons.by_count();
        assert_eq!(kinds.len(), MOST_KINDS + 1);
        assert_eq!((kinds[0].reason.as_str(), kinds[0].count), (OTHERS, 1_000 - MOST_KINDS as u64));
        assert_eq!(kinds.iter().map(|kind| kind.count).sum::<u64>(), 1_000);
    }
}

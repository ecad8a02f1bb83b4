//! How far those who took a first step went on: the rule of a funnel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_dataflow::time::EventTime;

use super::{Row, Rows};

/// Rows of someone, a time and a step, counted from 0.
pub trait StepRows<'s, G: Row> {
    /// The last step that each step 0 led to: steps 1, 2 and so on up to it followed, none before the one that precedes it
    /// (at the same time is in order), all within `span` of step 0. Each (time, last step) once, whoever took it how often.
    ///
    /// A change costs as much as looking at all steps that are kept of the one who took it.
    fn follow(self, span: Duration) -> Rows<'s, (G, (EventTime, usize))>;
}

impl<'s, G: Row> StepRows<'s, G> for Rows<'s, (G, (EventTime, usize))> {
    fn follow(self, span: Duration) -> Rows<'s, (G, (EventTime, usize))> {
        self.reduce(move |_, steps, out| out.extend(followed(steps, span).into_iter().map(|row| (row, 1))))
    }
}

fn followed(steps: &[(&(EventTime, usize), isize)], span: Duration) -> BTreeSet<(EventTime, usize)> {
    let mut followed = BTreeSet::new();
    // From the last row back: when each step comes next, and after it, each as early as it can be, the steps that follow.
    let mut next: BTreeMap<usize, Vec<EventTime>> = BTreeMap::new();
    for ((time, step), _) in steps.iter().rev().filter(|(_, n)| *n > 0) {
        let rest = next.get(&(step + 1)).cloned().unwrap_or_default();
        if *step == 0 {
            let until = time.plus(span);
            followed.insert((*time, rest.iter().take_while(|at| **at <= until).count()));
        } else {
            next.insert(*step, [vec![*time], rest].concat());
        }
    }
    followed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(steps: &[(i64, usize)], expected: &[(i64, usize)]) {
        let mut rows: Vec<_> = steps.iter().map(|(time, step)| (EventTime(*time), *step)).collect();
        rows.sort_unstable();
        let counted: Vec<_> = rows.iter().map(|row| (row, 1)).collect();
        let found = followed(&counted, Duration::from_millis(10));
        let expected = expected.iter().map(|(time, last)| (EventTime(*time), *last)).collect();
        assert_eq!(found, expected, "{steps:?}");
    }

    #[test]
    fn steps_count_in_order_and_within_the_span_of_the_first() {
        check(&[(0, 0)], &[(0, 0)]);
        check(&[(0, 0), (10, 1)], &[(0, 1)]);
        check(&[(0, 0), (11, 1)], &[(0, 0)]);
        check(&[(0, 1), (1, 0)], &[(1, 0)]);
        check(&[(0, 0), (1, 2)], &[(0, 0)]);
        check(&[(0, 0), (1, 2), (2, 1)], &[(0, 1)]);
        check(&[(0, 0), (1, 2), (2, 1), (10, 2)], &[(0, 2)]);
        check(&[(0, 0), (4, 1), (5, 0), (11, 2)], &[(0, 1), (5, 0)]);
    }

    #[test]
    fn steps_at_the_same_time_are_in_order() {
        check(&[(3, 2), (3, 0), (3, 1)], &[(3, 2)]);
    }
}

//! Finds the rows that panic a keyed logic, by trying it on some of them: no row says which record is in hand.

use std::panic::resume_unwind;

use super::pass::{self, Origin, Panic, Phase, tried};
use super::witness;
use crate::time::Epoch;

/// How a logic sees the rows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// One after the other, in the order in which they are: of two that panic together the later is to blame.
    InTurn,
    /// Beside each other, like the two sides of a join: of two that panic together that one is to blame without which more
    /// of the others get through.
    Together,
}

/// Says which chunks hold the rows that panic.
///
/// A row is to blame if the rows before it do not panic without it and do with it, or if it is the one of them that panics
/// beside that row. Of rows that panic by themselves that is each of them; and what is found depends on the rows and their
/// order alone, not on the number of workers. The logic is tried on copies, so that nothing of a row to blame is left in
/// its state.
pub struct Probe<'a> {
    blame: &'a mut dyn FnMut(usize, &Panic, bool) -> bool,
}

impl<'a> Probe<'a> {
    /// `blame` notes the panic of a row of the chunk of this number, if it panics each time; it says whether it could.
    pub fn new(blame: &'a mut dyn FnMut(usize, &Panic, bool) -> bool) -> Self {
        Probe { blame }
    }

    /// What `work` gives for all `rows` but those that are to blame; each row comes with the number of its chunk. Those that
    /// are to blame are noted, and dropped from `rows`. `None` if no row is left.
    ///
    /// `work` must leave everything as it was. It is only asked what it does of no rows at all if it is `due` to do that.
    ///
    /// # Panics
    /// As `work` does, if it panics without any row, or not always.
    pub fn without_panics<T, R>(
        &mut self,
        rows: &mut Vec<(usize, T)>,
        (sees, due): (Sees, bool),
        mut work: impl FnMut(&[(usize, T)]) -> R,
    ) -> Option<R> {
        let of_all = match tried(true, || work(rows)) {
            Ok(done) => return Some(done),
            Err(panic) => panic,
        };
        let mut panics = |some: &[(usize, T)]| tried(false, || work(some)).err();
        if rows.is_empty() || (due && panics(&[]).is_some()) {
            resume_unwind(of_all);
        }
        let (mut good, mut blamed) = (0, Vec::new());
        loop {
            let (through, panic) = reach(rows, good, &mut panics);
            let Some(panic) = panic else { break };
            let at = match sees {
                Sees::InTurn => through,
                Sees::Together => one_of_two(rows, through, &mut panics),
            };
            if panics(&rows[..=through]).is_none() {
                // Not always: the run ends, and tells of one panic at it.
                (self.blame)(rows[at].0, &panic, false);
                resume_unwind(panic);
            }
            blamed.push((rows.remove(at).0, panic));
            good = through;
        }
        for (chunk, panic) in blamed {
            if !(self.blame)(chunk, &panic, true) {
                resume_unwind(panic);
            }
        }
        (due || !rows.is_empty()).then(|| work(rows))
    }
}

/// How many of the rows get through, if `good` do, and the panic of the next one.
fn reach<T>(
    rows: &[(usize, T)],
    mut good: usize,
    panics: &mut impl FnMut(&[(usize, T)]) -> Option<Panic>,
) -> (usize, Option<Panic>) {
    let (mut bad, mut step) = (None::<(usize, Panic)>, 1);
    loop {
        let end = match bad {
            Some((bad, panic)) if bad == good + 1 => return (good, Some(panic)),
            Some((bad, _)) => good + (bad - good) / 2,
            None if good == rows.len() => return (good, None),
            // Where one row is to blame others often are.
            None => rows.len().min(good + step),
        };
        match panics(&rows[..end]) {
            Some(panic) => bad = Some((end, panic)),
            None => (good, step) = (end, 2 * step),
        }
    }
}

/// The row at `last` panics after those before it: it, or the one of them beside which it does.
fn one_of_two<T>(
    rows: &mut Vec<(usize, T)>,
    last: usize,
    panics: &mut impl FnMut(&[(usize, T)]) -> Option<Panic>,
) -> usize {
    if panics(&rows[last..=last]).is_some() {
        return last;
    }
    // From `beside` on it does, from behind that not.
    let (mut beside, mut without) = (0, last);
    while without - beside > 1 {
        let from = beside + (without - beside) / 2;
        match panics(&rows[from..=last]) {
            Some(_) => beside = from,
            None => without = from,
        }
    }
    let mut through = |at: usize| {
        let row = rows.remove(at);
        let reached = panics(&rows[..last]).is_none().then(|| reach(rows, last, panics).0);
        rows.insert(at, row);
        reached
    };
    if through(beside) > through(last) { beside } else { last }
}

/// Notes that a row of a chunk that was made of this record panicked: each time, or it was the one in hand.
pub(crate) fn blame(made_of: Option<&Origin>, at: (&'static str, Epoch), panic: &Panic, each_time: bool) -> bool {
    let Some(record) = made_of else { return false };
    let noted = each_time && witness::found(record, Phase::Operate, at, &**panic);
    if !noted {
        pass::in_hand(record);
    }
    noted
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The rows that are left, and those blamed; `bad` says of which the logic panics.
    fn probed(rows: usize, sees: Sees, due: bool, bad: impl Fn(&[usize]) -> bool) -> (Option<Vec<usize>>, Vec<usize>) {
        let mut blamed = Vec::new();
        let mut blame = |chunk: usize, _: &Panic, each_time: bool| {
            blamed.extend(each_time.then_some(chunk));
            each_time
        };
        let mut given: Vec<(usize, ())> = (0..rows).map(|row| (row, ())).collect();
        let left = Probe::new(&mut blame).without_panics(&mut given, (sees, due), |some| {
            let numbers: Vec<usize> = some.iter().map(|(row, ())| *row).collect();
            assert!(!bad(&numbers), "bad");
            numbers
        });
        (left, blamed)
    }

    #[test]
    fn of_two_rows_that_panic_together_the_one_in_hand_or_the_one_that_others_meet_too_is_to_blame() {
        let both = |one: usize, other: usize| move |rows: &[usize]| rows.contains(&one) && rows.contains(&other);
        assert_eq!(probed(9, Sees::InTurn, false, both(2, 7)).1, [7]);
        assert_eq!(probed(9, Sees::Together, false, both(2, 7)).1, [7]);
        // The third panics beside every later one that is even.
        let beside = |rows: &[usize]| rows.contains(&3) && rows.iter().any(|row| *row > 3 && row.is_multiple_of(2));
        assert_eq!(probed(20, Sees::InTurn, false, beside).1, [4, 6, 8, 10, 12, 14, 16, 18]);
        assert_eq!(probed(20, Sees::Together, false, beside).1, [3]);
        // And the seventh does with the eighth, whichever else is there.
        let more = |rows: &[usize]| beside(rows) || both(7, 8)(rows);
        assert_eq!(probed(20, Sees::Together, false, more).1, [3, 8]);
    }

    #[test]
    fn a_logic_that_panics_without_any_row_or_not_always_panics_still() {
        let panics = |due: bool, bad: &dyn Fn(&[usize]) -> bool| {
            tried(true, || probed(4, Sees::InTurn, due, bad)).map_err(|_| "panicked")
        };
        assert_eq!(panics(true, &|_| true), Err("panicked"));
        // Nothing is to be done of no rows.
        assert_eq!(panics(false, &|_| true), Ok((None, vec![0, 1, 2, 3])));
        let calls = std::cell::Cell::new(0);
        let once = |_: &[usize]| calls.replace(calls.get() + 1) == 0;
        assert_eq!(panics(false, &once), Ok((Some(vec![0, 1, 2, 3]), vec![])));
        calls.set(0);
        let twice = |rows: &[usize]| rows.contains(&2) && calls.replace(calls.get() + 1) < 2;
        assert_eq!(panics(false, &twice), Err("panicked"));
    }

    proptest! {
        #[test]
        fn exactly_the_rows_that_panic_are_to_blame(
            rows in 0_usize..80,
            bad in prop::collection::btree_set(0_usize..80, 0..30),
            together: bool,
        ) {
            let sees = if together { Sees::Together } else { Sees::InTurn };
            let (left, blamed) = probed(rows, sees, false, |rows| rows.iter().any(|row| bad.contains(row)));
            let (expected, good): (Vec<usize>, Vec<usize>) = (0..rows).partition(|row| bad.contains(row));
            prop_assert_eq!(blamed.into_iter().collect::<BTreeSet<_>>(), expected.into_iter().collect());
            prop_assert_eq!(left.unwrap_or_default(), good);
        }
    }
}

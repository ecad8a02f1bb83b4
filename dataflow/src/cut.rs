//! Which bytes an epoch of a bounded source takes: a function of what was read, and of nothing else.
//!
//! The partitions furthest behind in event time come first (drift: skew between partitions must not become state), as
//! their positions stood two epochs before, so that the next epoch is read while the last one is still processed.
//! Two runs over the same content, with the same options, cut the same epochs at any worker count (INV-2).

use std::time::Duration;

use crate::time::Watermark;

/// A remaining share smaller than this is left to the next epoch: cutting slivers costs more than it levels.
pub(crate) const SLIVER: u64 = 64 * 1024;

/// Partitions whose positions are this close are read side by side.
const LEVEL: Duration = Duration::from_secs(600);

/// How many partitions are read side by side at most.
const ABREAST: usize = 64;

/// An unfinished partition that the epoch has not touched yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its number.
    pub(crate) partition: u32,
    /// How far it had come two epochs before (its head, if it was never read); `None`: unknown, read it first.
    pub(crate) behind: Watermark,
}

/// The next partitions to read and the bytes that each may take, out of `budget` bytes left in the epoch.
///
/// Called again with the partitions that remain when some ended before their share was used up.
#[must_use]
pub(crate) fn next_shares(candidates: &mut [Candidate], budget: u64) -> Vec<(u32, u64)> {
    if budget < SLIVER {
        return Vec::new();
    }
    candidates.sort_unstable_by_key(|c| (c.behind, c.partition));
    let Some(first) = candidates.first() else { return Vec::new() };
    let level = first.behind.map(|time| time.plus(LEVEL));
    let abreast = candidates.iter().take(ABREAST).take_while(|c| c.behind <= level).count();
    // At least a sliver each, so that a small budget moves a few partitions instead of none.
    let abreast = abreast.min(usize::try_from(budget / SLIVER).unwrap_or(usize::MAX)).max(1);
    let share = budget / abreast as u64;
    candidates[..abreast].iter().map(|c| (c.partition, share)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::EventTime;

    fn candidates(behind: &[Option<i64>]) -> Vec<Candidate> {
        let candidate = |(p, t): (usize, &Option<i64>)| Candidate {
            partition: u32::try_from(p).unwrap(),
            behind: t.map(EventTime),
        };
        behind.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn the_partition_furthest_behind_takes_the_whole_epoch() {
        let shares = next_shares(&mut candidates(&[Some(7_200_000), Some(0), Some(3_600_000)]), 1 << 20);
        assert_eq!(shares, [(1, 1 << 20)]);
    }

    #[test]
    fn partitions_at_the_same_time_share_an_epoch() {
        let shares = next_shares(&mut candidates(&[Some(300_000), Some(0), Some(9_000_000)]), 1 << 20);
        assert_eq!(shares, [(1, 1 << 19), (0, 1 << 19)]);
    }

    #[test]
    fn a_partition_of_unknown_time_is_read_before_all_others() {
        assert_eq!(next_shares(&mut candidates(&[Some(0), None]), 1 << 20), [(1, 1 << 20)]);
    }

    #[test]
    fn a_budget_below_a_sliver_takes_nothing() {
        assert!(next_shares(&mut candidates(&[Some(0)]), SLIVER - 1).is_empty());
    }

    #[test]
    fn a_small_budget_still_gives_every_reader_a_sliver() {
        let shares = next_shares(&mut candidates(&[Some(0); 64]), 3 * SLIVER);
        assert_eq!(shares, [(0, SLIVER), (1, SLIVER), (2, SLIVER)]);
    }
}

//! Key -> key group -> worker.
//!
//! A key's group is fixed for ever (256 groups, from the key's fixed-seed hash); groups go to workers in contiguous
//! ranges, so state stored by group starts on any number of workers (INV-7).

use std::ops::Range;

/// How many key groups there are; part of the state format.
pub const KEY_GROUPS: u32 = 256;

/// One of the [`KEY_GROUPS`] groups.
pub type KeyGroup = u8;

/// The group of a key hash: its top byte.
#[must_use]
#[inline]
pub fn group_of(hash: u64) -> KeyGroup {
    (hash >> 56) as u8
}

/// The worker that owns a group among `workers`.
#[must_use]
#[inline]
pub fn owner(group: KeyGroup, workers: u32) -> u32 {
    u32::from(group) * workers / KEY_GROUPS
}

/// The groups that `worker` of `workers` owns; empty for workers beyond the 256th share.
#[must_use]
pub fn groups_of(worker: u32, workers: u32) -> Range<u32> {
    let first = |w: u32| (w * KEY_GROUPS).div_ceil(workers);
    first(worker)..first(worker + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_exactly_the_owner_that_claims_it() {
        for workers in [1, 2, 3, 4, 7, 16, 255, 256, 300] {
            let mut seen = 0;
            for worker in 0..workers {
                for group in groups_of(worker, workers) {
                    assert_eq!(owner(u8::try_from(group).unwrap(), workers), worker, "{workers} workers");
                    seen += 1;
                }
            }
            assert_eq!(seen, KEY_GROUPS);
        }
    }
}

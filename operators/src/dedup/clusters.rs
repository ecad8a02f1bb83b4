//! A hash table of 128-bit ids with a tag each: 64-byte clusters of three slots, one cache line to answer most checks.
//!
//! A slot is 21 bytes (id, fingerprint, tag). The home cluster of an id is a multiply-shift of its low half, so the
//! number of clusters need not be a power of two and a table grows by 30 %; full clusters overflow into the next. The
//! tables of a worker grow at different times, so that an id takes 28 to 29 bytes on average.
//!
//! A tag is a time bucket modulo 256. Buckets in `[floor, floor + LIVE_BUCKETS)` are live; any other tag belongs to a
//! bucket that the floor has passed, and its slot counts as absent although it still holds an id. Such slots are reused,
//! or left out when the table is rebuilt, and neither changes an answer. A rebuild must come before the floor has moved
//! [`STALE_BUCKETS`] past a slot's bucket: from then on its tag would read as live again.

/// How many buckets, from the floor on, a table holds.
pub(super) const LIVE_BUCKETS: u32 = 160;

/// For how many buckets below the floor a tag is still told from a live one.
pub(super) const STALE_BUCKETS: u32 = 256 - LIVE_BUCKETS;

const SLOTS: usize = 3;

/// Clusters of a table that holds its first id; tables of different groups start, and so later grow, at different sizes.
const FIRST_CLUSTERS: usize = 40;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Cluster {
    ids: [[u64; 2]; SLOTS],
    fingerprints: [u32; SLOTS],
    tags: [u8; SLOTS],
    /// Slots are filled in order and never emptied but by a rebuild, so their number says which are filled.
    filled: u8,
}

const EMPTY: Cluster = Cluster { ids: [[0; 2]; SLOTS], fingerprints: [0; SLOTS], tags: [0; SLOTS], filled: 0 };

/// Where an absent id can be put.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vacancy {
    cluster: usize,
    slot: usize,
    /// Whether the slot never held an id, so that filling it raises the load.
    fresh: bool,
}

/// What a check finds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// The id is live and has this fingerprint.
    Live(u32),
    /// It is absent.
    Absent(Vacancy),
}

/// The table of one key group.
#[derive(Default)]
pub(super) struct Clusters {
    clusters: Box<[Cluster]>,
    /// Filled slots, stale ones included.
    filled: usize,
    /// How many slots may be filled before the table is rebuilt.
    limit: usize,
}

/// Whether `tag` is a live bucket under the tag of the floor.
#[inline]
fn is_live(tag: u8, floor: u8) -> bool {
    u32::from(tag.wrapping_sub(floor)) < LIVE_BUCKETS
}

/// 85 % of the slots.
fn limit_of(clusters: usize) -> usize {
    clusters * SLOTS * 17 / 20
}

impl Clusters {
    #[inline]
    fn home(&self, id: [u64; 2]) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the product's high half is below the number of clusters")]
        let home = ((u128::from(id[1]) * self.clusters.len() as u128) >> 64) as usize;
        home
    }

    /// Reads the clusters in which an id that is looked up soon most likely ends. Reads of several ids overlap, while
    /// look-ups, which branch on what they read, wait for memory one after the other.
    #[inline]
    pub(super) fn touch(&self, id: [u64; 2]) -> u8 {
        if self.clusters.is_empty() {
            return 0;
        }
        let home = self.home(id);
        self.clusters[home].filled ^ self.clusters[(home + 1).min(self.clusters.len() - 1)].filled
    }

    /// Looks an id up, given the tag of the floor.
    #[inline]
    pub(super) fn find(&self, id: [u64; 2], floor: u8) -> Found {
        let mut reusable = None;
        if self.clusters.is_empty() {
            return Found::Absent(Vacancy { cluster: 0, slot: 0, fresh: true });
        }
        let mut at = self.home(id);
        loop {
            // All three slots are compared before anything branches on one of them: which slot answers, and how many
            // are filled, is what a branch predictor cannot know.
            let cluster = &self.clusters[at];
            let filled = usize::from(cluster.filled);
            let (mut equal, mut stale) = (0u8, 0u8);
            for slot in 0..SLOTS {
                let live = is_live(cluster.tags[slot], floor);
                let same = (cluster.ids[slot][0] ^ id[0]) | (cluster.ids[slot][1] ^ id[1]) == 0;
                equal |= u8::from(same & live & (slot < filled)) << slot;
                stale |= u8::from(!live & (slot < filled)) << slot;
            }
            if equal != 0 {
                return Found::Live(cluster.fingerprints[equal.trailing_zeros() as usize]);
            }
            if stale != 0 && reusable.is_none() {
                reusable = Some(Vacancy { cluster: at, slot: stale.trailing_zeros() as usize, fresh: false });
            }
            if filled < SLOTS {
                return Found::Absent(reusable.unwrap_or(Vacancy { cluster: at, slot: filled, fresh: true }));
            }
            at += 1;
            if at == self.clusters.len() {
                at = 0;
            }
        }
    }

    /// Puts an id where `find` found it absent; `phase` (0..8) spreads the sizes of the tables of different groups.
    #[inline]
    pub(super) fn insert(
        &mut self,
        vacancy: Vacancy,
        id: [u64; 2],
        fingerprint: u32,
        tag: u8,
        floor: u8,
        phase: usize,
    ) {
        let Vacancy { cluster, slot, fresh } = vacancy;
        if !fresh {
            self.put(cluster, slot, id, fingerprint, tag);
        } else if self.filled < self.limit {
            self.put(cluster, slot, id, fingerprint, tag);
            self.clusters[cluster].filled += 1;
            self.filled += 1;
        } else {
            self.rebuild(|old| is_live(old, floor), 1, phase);
            self.append(id, fingerprint, tag);
        }
    }

    #[inline]
    fn put(&mut self, cluster: usize, slot: usize, id: [u64; 2], fingerprint: u32, tag: u8) {
        let cluster = &mut self.clusters[cluster];
        cluster.ids[slot] = id;
        cluster.fingerprints[slot] = fingerprint;
        cluster.tags[slot] = tag;
    }

    /// Puts an id that is absent into the first empty slot from its home on.
    fn append(&mut self, id: [u64; 2], fingerprint: u32, tag: u8) {
        let mut at = self.home(id);
        while usize::from(self.clusters[at].filled) == SLOTS {
            at += 1;
            if at == self.clusters.len() {
                at = 0;
            }
        }
        let slot = usize::from(self.clusters[at].filled);
        self.put(at, slot, id, fingerprint, tag);
        self.clusters[at].filled += 1;
        self.filled += 1;
    }

    /// Leaves out the ids whose tag `keeps` does not want, in a table that fits the rest.
    pub(super) fn sweep(&mut self, keeps: impl Fn(u8) -> bool, phase: usize) {
        self.rebuild(keeps, 0, phase);
    }

    /// Keeps only the ids whose tag `keeps`, in a table with room for at least `more`.
    fn rebuild(&mut self, keeps: impl Fn(u8) -> bool, more: usize, phase: usize) {
        let tags = self.clusters.iter().flat_map(|cluster| &cluster.tags[..usize::from(cluster.filled)]);
        let kept = tags.filter(|&&tag| keeps(tag)).count();
        if kept == self.filled && kept + more <= self.limit {
            return;
        }
        if kept + more == 0 {
            *self = Clusters::default();
            return;
        }
        let needed = kept + kept / 12 + more;
        let mut size = self.clusters.len().max(FIRST_CLUSTERS + phase * 3 / 2);
        while limit_of(size) < needed {
            size = size * 13 / 10;
        }
        // A step more than fits stays, so that a table whose ids come and go does not change its size all the time.
        while size > 2 * FIRST_CLUSTERS && limit_of(size * 100 / 169) >= needed {
            size = size * 10 / 13;
        }
        let fresh = Clusters { clusters: vec![EMPTY; size].into_boxed_slice(), filled: 0, limit: limit_of(size) };
        // Homes keep their order whatever the size, so this reads and writes both tables front to back.
        let old = std::mem::replace(self, fresh);
        for cluster in &old.clusters {
            for slot in 0..usize::from(cluster.filled) {
                if keeps(cluster.tags[slot]) {
                    self.append(cluster.ids[slot], cluster.fingerprints[slot], cluster.tags[slot]);
                }
            }
        }
    }

    /// Bytes of heap.
    pub(super) fn bytes(&self) -> usize {
        self.clusters.len() * size_of::<Cluster>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_one_cache_line() {
        assert_eq!((size_of::<Cluster>(), align_of::<Cluster>()), (64, 64));
    }

    fn id(n: u64) -> [u64; 2] {
        let low = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        [n, low ^ (low >> 29)]
    }

    fn insert(table: &mut Clusters, n: u64, tag: u8, floor: u8) -> bool {
        match table.find(id(n), floor) {
            Found::Live(_) => false,
            Found::Absent(vacancy) => {
                table.insert(vacancy, id(n), 7, tag, floor, 3);
                true
            }
        }
    }

    #[test]
    fn a_table_that_has_grown_takes_25_to_34_bytes_an_id() {
        let mut table = Clusters::default();
        for n in 0..200_000u64 {
            assert!(insert(&mut table, n, 0, 0));
            if n > 1_000 {
                let range = 25 * (n + 1)..34 * (n + 1);
                assert!(range.contains(&(table.bytes() as u64)), "{} bytes for {n} ids", table.bytes());
            }
        }
        assert!((0..200_000).all(|n| !insert(&mut table, n, 0, 0)));
    }

    #[test]
    fn stale_slots_are_reused_so_that_steady_traffic_needs_no_more_room() {
        let mut table = Clusters::default();
        let mut largest = 0;
        for bucket in 0..1_000u64 {
            // 60 buckets are live; a rebuild every 64 buckets leaves out the rest.
            let floor = u8::try_from(bucket.saturating_sub(60) % 256).unwrap();
            let tag = u8::try_from(bucket % 256).unwrap();
            if bucket % 64 == 0 {
                table.sweep(|old| is_live(old, floor), 0);
            }
            for n in 0..200 {
                assert!(insert(&mut table, bucket * 1_000 + n, tag, floor));
            }
            largest = largest.max(table.bytes());
        }
        assert!(largest < 60 * 200 * 40, "{largest} bytes for 12000 live ids");
    }

    #[test]
    fn a_table_shrinks_when_its_ids_are_gone() {
        let mut table = Clusters::default();
        (0..50_000).for_each(|n| assert!(insert(&mut table, n, u8::from(n % 10 == 0), 0)));
        table.sweep(|tag| tag == 1, 0);
        assert_eq!(table.filled, 5_000);
        assert!(table.bytes() < 5_000 * 40, "{}", table.bytes());
        table.sweep(|_| false, 0);
        assert_eq!(table.bytes(), 0);
        assert!(insert(&mut table, 1, 0, 0));
    }
}

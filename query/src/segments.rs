//! Rows of the folded tables kept in memory between queries: what makes a day of minutes cheap to ask again and again.
//!
//! Files never change once a commit names them, so what was decoded from them stays true for as long as it is kept. The
//! files of a table that were rolled into one hour are one *segment*, decoded and folded once; a recent file is a
//! segment of its own. A commit leaves all segments as they are but the few that it touches.
//!
//! Promise: what a query computes from segments is what it computes from the files, because folding hours separately
//! and then together is folding all (the law of [`tidemill_tables::fold()`]).

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::Date32Type;
use datafusion::error::{DataFusionError, Result};
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use tidemill_log::DataFile;
use tidemill_log::panics::contained;
use tidemill_tables::calendar::HOUR_MS;
use tidemill_tables::{TableSpec, fold};
use tokio::sync::OnceCell;

/// Segments that are read at once by one query.
const AT_ONCE: usize = 8;

/// How many bytes of rows a byte of a file may become, for deciding whether to read it into memory at all.
const EXPANSION: u64 = 6;

/// Files of one table that are read together.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// The names of the files, which tell the segment from every other.
    key: Arc<str>,
    files: Vec<DataFile>,
    /// The hour of event time, counted from 1970, that all its rows lie in; none where that is not known.
    hour: Option<i64>,
}

impl Segment {
    /// The segments of a table with these files: one an hour, and one for each file of no known hour.
    pub(crate) fn of(files: &[DataFile]) -> Vec<Segment> {
        let mut hours: BTreeMap<i64, Vec<DataFile>> = BTreeMap::new();
        let mut segments = Vec::new();
        for file in files {
            match hour_of(&file.path) {
                Some(hour) => hours.entry(hour).or_default().push(file.clone()),
                None => segments.push(Segment::new(None, vec![file.clone()])),
            }
        }
        segments.extend(hours.into_iter().map(|(hour, rolled)| Segment::new(Some(hour), rolled)));
        segments
    }

    fn new(hour: Option<i64>, files: Vec<DataFile>) -> Self {
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        Self { key: names.join("\n").into(), files, hour }
    }

    /// Its files.
    pub(crate) fn files(&self) -> &[DataFile] {
        &self.files
    }

    /// Whether rows with an event time from `first` to `last` (milliseconds since 1970, both included) may be in it.
    pub(crate) fn may_hold(&self, first: i64, last: i64) -> bool {
        self.hour.is_none_or(|hour| {
            let start = hour.saturating_mul(HOUR_MS);
            first < start.saturating_add(HOUR_MS) && last >= start
        })
    }
}

/// The hour that a rolled file's folders name: `dt=2015-05-17/hour=10`.
fn hour_of(path: &str) -> Option<i64> {
    let mut folders = path.rsplit('/').skip(1);
    let hour: i64 = folders.next()?.strip_prefix("hour=")?.parse().ok()?;
    let day = Date32Type::parse(folders.next()?.strip_prefix("dt=")?)?;
    (0..24).contains(&hour).then(|| i64::from(day) * 24 + hour)
}

/// The rows of segments, those asked for last kept within a number of bytes.
#[derive(Debug)]
pub(crate) struct SegmentCache {
    store: Arc<dyn ObjectStore>,
    budget: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    slots: BTreeMap<Arc<str>, Slot>,
    bytes: usize,
    /// Counts accesses, so that the slot with the smallest mark is the one not used for longest.
    clock: u64,
}

#[derive(Debug)]
struct Slot {
    /// Filled once, however many queries wait for it.
    rows: Arc<OnceCell<RecordBatch>>,
    /// What it takes; zero until it is filled.
    bytes: usize,
    used: u64,
}

impl SegmentCache {
    /// Keeps at most `budget` bytes of what it reads from `store`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, budget: usize) -> Self {
        Self { store, budget, kept: Mutex::default() }
    }

    /// Bytes that are kept now.
    pub(crate) fn bytes(&self) -> usize {
        self.kept().bytes
    }

    /// Whether these segments together can be expected to stay.
    pub(crate) fn has_room_for(&self, segments: &[&Segment]) -> bool {
        let bytes: u64 = segments.iter().flat_map(|segment| &segment.files).map(|file| file.bytes).sum();
        usize::try_from(bytes.saturating_mul(EXPANSION)).is_ok_and(|bytes| bytes <= self.budget)
    }

    /// The rows of the segments in the table's stored schema, in the order of the segments.
    ///
    /// # Errors
    /// When a file is missing or is not one of the table.
    pub(crate) async fn rows(&self, spec: &TableSpec, segments: &[&Segment]) -> Result<Vec<RecordBatch>> {
        let reads = (0..segments.len()).map(|at| self.rows_of(spec, segments[at]));
        stream::iter(reads).buffered(AT_ONCE).try_collect().await
    }

    async fn rows_of(&self, spec: &TableSpec, segment: &Segment) -> Result<RecordBatch> {
        let cell = self.cell(&segment.key);
        let rows = cell.get_or_try_init(|| self.read(spec, segment)).await?;
        self.account(&segment.key, &cell, rows.get_array_memory_size());
        Ok(rows.clone())
    }

    async fn read(&self, spec: &TableSpec, segment: &Segment) -> Result<RecordBatch> {
        let mut batches = Vec::new();
        for file in &segment.files {
            let found = self.store.get(&ObjectPath::from(file.path.as_str())).await?;
            let named =
                |error: Box<dyn Error + Send + Sync>| DataFusionError::External(error).context(file.path.clone());
            let bytes = found.bytes().await?;
            // At some damage the decoder panics, which is an error like any other.
            let decoded = contained(|| -> Result<Vec<RecordBatch>> {
                let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
                Ok(reader.with_batch_size(usize::MAX >> 1).build()?.collect::<Result<_, _>>()?)
            });
            for batch in decoded.unwrap_or_else(|said| Err(named(format!("it is damaged: {said}").into())))? {
                let batch = RecordBatch::try_new(spec.stored_schema(), batch.columns().to_vec());
                batches.push(batch.map_err(|error| named(error.into()))?);
            }
        }
        match <[RecordBatch; 1]>::try_from(batches) {
            // There is nothing to fold it with; whoever reads it folds it anyway.
            Ok([folded]) => Ok(folded),
            Err(several) => fold(spec, &several).map_err(|error| DataFusionError::External(error.into())),
        }
    }

    fn cell(&self, key: &Arc<str>) -> Arc<OnceCell<RecordBatch>> {
        let mut kept = self.kept();
        kept.clock += 1;
        let used = kept.clock;
        let slot = kept.slots.entry(Arc::clone(key));
        let slot = slot.or_insert_with(|| Slot { rows: Arc::default(), bytes: 0, used });
        slot.used = used;
        Arc::clone(&slot.rows)
    }

    /// Counts a filled slot, once, and lets go of what was not used for longest.
    fn account(&self, key: &Arc<str>, cell: &Arc<OnceCell<RecordBatch>>, bytes: usize) {
        let mut kept = self.kept();
        let Some(slot) = kept.slots.get_mut(key).filter(|slot| slot.bytes == 0 && Arc::ptr_eq(&slot.rows, cell)) else {
            return;
        };
        slot.bytes = bytes.max(1);
        kept.bytes += bytes.max(1);
        while kept.bytes > self.budget {
            let filled = kept.slots.iter().filter(|(_, each)| each.bytes > 0);
            let Some(oldest) = filled.min_by_key(|(_, each)| each.used).map(|(name, _)| Arc::clone(name)) else {
                break;
            };
            let freed = kept.slots.remove(&oldest).map_or(0, |each| each.bytes);
            kept.bytes -= freed;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked left numbers that at worst count a slot wrongly.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> DataFile {
        DataFile { path: path.to_owned(), rows: 1, bytes: 100 }
    }

    #[test]
    fn files_of_an_hour_are_one_segment_and_recent_ones_stand_alone() {
        let files = [
            "tables/sessions/_recent/000000000009-001-000.parquet",
            "tables/sessions/dt=1970-01-02/hour=01/000000000000-000000000059.parquet",
            "tables/sessions/dt=1970-01-02/hour=01/000000000060-000000000119.parquet",
            "tables/sessions/dt=1970-01-02/hour=02/000000000060-000000000119.parquet",
        ];
        let segments = Segment::of(&files.map(file));
        let counts: Vec<_> = segments.iter().map(|segment| (segment.hour, segment.files.len())).collect();
        assert_eq!(counts, [(None, 1), (Some(25), 2), (Some(26), 1)]);
        let hour = 25 * HOUR_MS;
        for (first, last, expected) in [
            (hour, hour, true),
            (hour + HOUR_MS - 1, i64::MAX, true),
            (i64::MIN, hour - 1, false),
            (hour + HOUR_MS, i64::MAX, false),
        ] {
            assert_eq!(segments[1].may_hold(first, last), expected, "{first} {last}");
            assert!(segments[0].may_hold(first, last));
        }
        assert_eq!(hour_of("tables/sessions/dt=1970-01-02/hour=24/x.parquet"), None);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let cache = SegmentCache::new(Arc::new(object_store::memory::InMemory::new()), 250);
        let keys = ["a", "b", "c"].map(Arc::<str>::from);
        for key in [&keys[0], &keys[1]] {
            let cell = cache.cell(key);
            cache.account(key, &cell, 100);
            cache.account(key, &cell, 100);
        }
        assert_eq!(cache.bytes(), 200);
        cache.cell(&keys[0]);
        let third = cache.cell(&keys[2]);
        cache.account(&keys[2], &third, 100);
        let left: Vec<_> = cache.kept().slots.keys().cloned().collect();
        assert_eq!(left, [Arc::clone(&keys[0]), Arc::clone(&keys[2])]);
        assert_eq!(cache.bytes(), 200);
        assert!(cache.has_room_for(&[]));
        let large = Segment::new(None, vec![DataFile { path: "x".into(), rows: 1, bytes: 42 }]);
        assert!(!cache.has_room_for(&[&large]));
    }
}

//! Rows of the folded tables kept in memory between queries: what makes a day of minutes cheap to ask again and again.
//!
//! Files never change once a commit names them, so what was decoded from them stays true for as long as it is kept. The
//! files of a table that were rolled into one hour are one *segment*, decoded and folded once; a recent file is a
//! segment of its own. A commit leaves all segments as they are but the few that it touches.
//!
//! Promise: what a query computes from segments is what it computes from the files, because folding hours separately
//! and then together is folding all (the law of [`tidemill_tables::fold()`]).
//!
//! Promise: what is kept, what queries still hold of it, and what is being decoded is within the budget, in bytes of rows and
//! not of files, which may be a thousand times smaller: a file's footer says what its rows take before they are decoded.
//! Where there is no room, the files are scanned piece by piece, as if nothing were kept.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, RecordBatch};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::Date32Type;
use axum::body::Bytes;
use datafusion::error::{DataFusionError, Result};
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::parquet::basic::Type;
use datafusion::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
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

/// How many bytes of rows a byte of a file becomes, as a rule: whether reading it is begun at all.
const EXPANSION: usize = 6;

/// Bytes of a number, with its share of lists' offsets and of what is null.
const NUMBER: usize = 12;
/// What a text takes beside its bytes.
const BESIDE_A_TEXT: usize = 5;
/// Several files are decoded, put together, and folded.
const FOLDED_FROM_SEVERAL: usize = 3;
/// Of so many segments it is remembered what they take.
const MOST_SIZES: usize = 10_000;

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

    /// Bytes of its files.
    fn file_bytes(&self) -> usize {
        let bytes = self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// What its rows take in memory, as a rule.
    fn guessed(&self) -> usize {
        self.file_bytes().saturating_mul(EXPANSION)
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
    /// What is being read and decoded.
    reserved: usize,
    /// What segments take that were read once, in bytes of rows.
    sizes: BTreeMap<Arc<str>, usize>,
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

/// Why a segment's rows are not in memory.
#[derive(Debug)]
enum Unread {
    NoRoom,
    Failed(DataFusionError),
}

impl From<DataFusionError> for Unread {
    fn from(error: DataFusionError) -> Self {
        Unread::Failed(error)
    }
}

/// A part of the budget for what is being decoded.
struct Reserved<'a> {
    cache: &'a SegmentCache,
    bytes: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.cache.kept().reserved -= self.bytes;
    }
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
        let kept = self.kept();
        let bytes =
            segments.iter().map(|segment| kept.sizes.get(&segment.key).copied().unwrap_or_else(|| segment.guessed()));
        bytes.fold(0, usize::saturating_add) <= self.budget
    }

    /// The rows of the segments in the table's stored schema, in the order of the segments; none where there is no room.
    ///
    /// # Errors
    /// When a file is missing or is not one of the table.
    pub(crate) async fn rows(&self, spec: &TableSpec, segments: &[&Segment]) -> Result<Option<Vec<RecordBatch>>> {
        let reads = (0..segments.len()).map(|at| self.rows_of(spec, segments[at]));
        match stream::iter(reads).buffered(AT_ONCE).try_collect().await {
            Ok(rows) => Ok(Some(rows)),
            Err(Unread::NoRoom) => Ok(None),
            Err(Unread::Failed(error)) => Err(error),
        }
    }

    async fn rows_of(&self, spec: &TableSpec, segment: &Segment) -> Result<RecordBatch, Unread> {
        let cell = self.cell(&segment.key);
        match cell.get_or_try_init(|| self.read(spec, segment)).await {
            Ok(rows) => {
                // Held before it is counted, so that it is not let go of meanwhile.
                let rows = rows.clone();
                self.account(&segment.key, &cell, rows.get_array_memory_size());
                Ok(rows)
            }
            Err(unread) => {
                self.forget(&segment.key, &cell);
                Err(unread)
            }
        }
    }

    async fn read(&self, spec: &TableSpec, segment: &Segment) -> Result<RecordBatch, Unread> {
        let _fetched = self.reserve(segment.file_bytes())?;
        let (mut readers, mut decoded) = (Vec::new(), Some(0_usize));
        for file in &segment.files {
            let reader = self.open(file).await?;
            decoded = decoded.zip(decoded_bytes(reader.metadata())).and_then(|(sum, more)| sum.checked_add(more));
            readers.push((file, reader));
        }
        let needed = if readers.len() > 1 { FOLDED_FROM_SEVERAL } else { 1 };
        // What nobody can tell before it is there has no room.
        let needed = decoded.map_or(usize::MAX, |bytes| bytes.saturating_mul(needed));
        self.remember(&segment.key, needed);
        let _decoding = self.reserve(needed)?;
        let mut batches = Vec::new();
        for (file, reader) in readers {
            let found: Vec<RecordBatch> =
                undamaged(file, || Ok(reader.with_batch_size(usize::MAX >> 1).build()?.collect::<Result<_, _>>()?))?;
            for batch in found {
                let stored = RecordBatch::try_new(spec.stored_schema(), batch.columns().to_vec());
                batches.push(stored.map_err(|error| named(file, error.into()))?);
            }
        }
        match <[RecordBatch; 1]>::try_from(batches) {
            // There is nothing to fold it with; whoever reads it folds it anyway.
            Ok([folded]) => Ok(folded),
            Err(several) => Ok(fold(spec, &several).map_err(|error| DataFusionError::External(error.into()))?),
        }
    }

    /// A file in memory as it is stored, its footer read.
    async fn open(&self, file: &DataFile) -> Result<ParquetRecordBatchReaderBuilder<Bytes>> {
        let found = self.store.get(&ObjectPath::from(file.path.as_str())).await?;
        let bytes = found.bytes().await?;
        undamaged(file, || Ok(ParquetRecordBatchReaderBuilder::try_new(bytes)?))
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

    /// Lets go of a slot that nobody filled.
    fn forget(&self, key: &Arc<str>, cell: &Arc<OnceCell<RecordBatch>>) {
        let mut kept = self.kept();
        if kept.slots.get(key).is_some_and(|slot| slot.bytes == 0 && Arc::ptr_eq(&slot.rows, cell)) {
            kept.slots.remove(key);
        }
    }

    fn remember(&self, key: &Arc<str>, bytes: usize) {
        let mut kept = self.kept();
        if kept.sizes.len() >= MOST_SIZES {
            kept.sizes.clear();
        }
        kept.sizes.insert(Arc::clone(key), bytes);
    }

    /// Takes a part of the budget, for which what was not used for longest is let go of.
    fn reserve(&self, bytes: usize) -> Result<Reserved<'_>, Unread> {
        let mut kept = self.kept();
        let room = self.budget.saturating_sub(kept.reserved).checked_sub(bytes);
        let Some(room) = room else { return Err(Unread::NoRoom) };
        kept.shrink_to(room);
        if kept.bytes > room {
            return Err(Unread::NoRoom);
        }
        kept.reserved += bytes;
        Ok(Reserved { cache: self, bytes })
    }

    /// Counts a filled slot, once, and lets go of what was not used for longest.
    fn account(&self, key: &Arc<str>, cell: &Arc<OnceCell<RecordBatch>>, bytes: usize) {
        let mut kept = self.kept();
        let Some(slot) = kept.slots.get_mut(key).filter(|slot| slot.bytes == 0 && Arc::ptr_eq(&slot.rows, cell)) else {
            return;
        };
        slot.bytes = bytes.max(1);
        kept.bytes += bytes.max(1);
        let room = self.budget.saturating_sub(kept.reserved);
        kept.shrink_to(room);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked left numbers that at worst count a slot wrongly.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Lets go of what was not used for longest, as far as no query holds it: what is held takes memory all the same.
    fn shrink_to(&mut self, bytes: usize) {
        while self.bytes > bytes {
            let idle = self.slots.iter().filter(|(_, slot)| slot.bytes > 0 && !slot.is_held());
            let Some(oldest) = idle.min_by_key(|(_, slot)| slot.used).map(|(name, _)| Arc::clone(name)) else { break };
            self.bytes -= self.slots.remove(&oldest).map_or(0, |slot| slot.bytes);
        }
    }
}

impl Slot {
    /// Whether somebody else has rows of it, whole or in pieces.
    fn is_held(&self) -> bool {
        let Some(rows) = self.rows.get() else { return false };
        rows.columns().iter().any(|column| {
            // The column itself has each buffer, and so has what it is looked at by.
            Arc::strong_count(column) > 1 || column.to_data().buffers().iter().any(|buffer| buffer.strong_count() > 2)
        })
    }
}

/// The most bytes that the rows of a file take; none where its footer does not tell.
fn decoded_bytes(footer: &ParquetMetaData) -> Option<usize> {
    let columns = footer.row_groups().iter().flat_map(|group| group.columns());
    columns.map(decoded_bytes_of).try_fold(0_usize, |sum, bytes| sum.checked_add(bytes?))
}

fn decoded_bytes_of(column: &ColumnChunkMetaData) -> Option<usize> {
    let values = usize::try_from(column.num_values()).ok()?;
    let width = match column.column_type() {
        Type::BYTE_ARRAY => {
            let bytes = match (column.unencoded_byte_array_data_bytes(), column.dictionary_page_offset()) {
                (Some(bytes), _) => bytes,
                (None, None) => column.uncompressed_size(),
                // Each value may be any of its texts.
                (None, Some(_)) => return None,
            };
            return values.checked_mul(BESIDE_A_TEXT)?.checked_add(usize::try_from(bytes).ok()?);
        }
        Type::FIXED_LEN_BYTE_ARRAY => usize::try_from(column.column_descr().type_length()).ok()?.checked_add(NUMBER)?,
        _ => NUMBER,
    };
    values.checked_mul(width)
}

fn named(file: &DataFile, error: Box<dyn Error + Send + Sync>) -> DataFusionError {
    DataFusionError::External(error).context(file.path.clone())
}

/// What `decode` makes of a file. At some damage the decoder panics, which is an error like any other.
fn undamaged<T>(file: &DataFile, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    contained(decode).unwrap_or_else(|said| Err(named(file, format!("it is damaged: {said}").into())))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMillisecondArray};
    use datafusion::parquet::arrow::ArrowWriter;
    use datafusion::parquet::basic::{Compression, ZstdLevel};
    use datafusion::parquet::file::properties::WriterProperties;
    use object_store::local::LocalFileSystem;
    use tidemill_tables::{hash_lists, web_analytics};

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

    /// A file of so many views of one page, whose name is said once in it.
    fn written(folder: &std::path::Path, rows: usize, page: &str) -> DataFile {
        let spec = web_analytics::page_views_by_minute();
        let texts = |text: &str| Arc::new(StringArray::from(vec![text; rows])) as ArrayRef;
        let minutes = (0..rows as i64).map(|n| n * 60_000);
        let columns = vec![
            texts("default"),
            Arc::new(TimestampMillisecondArray::from_iter_values(minutes).with_timezone("UTC")) as ArrayRef,
            texts(page),
            Arc::new(Int64Array::from(vec![1; rows])),
            Arc::new(hash_lists(std::iter::repeat_n(1, rows), (0..rows as u64).collect())),
        ];
        let batch = RecordBatch::try_new(spec.stored_schema(), columns).unwrap();
        let name = format!("{rows}.parquet");
        let path = folder.join(&name);
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        DataFile { path: name, rows: rows as u64, bytes: path.metadata().unwrap().len() }
    }

    #[tokio::test]
    async fn rows_are_counted_as_they_are_in_memory_before_they_are_there() {
        let (folder, spec) = (tempfile::tempdir().unwrap(), web_analytics::page_views_by_minute());
        let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
        // 400 rows with a name of 8 KB: 3.2 MB from a file of some ten KB.
        let page = "p".repeat(8_192);
        let [large, small] = [written(folder.path(), 400, &page), written(folder.path(), 3, "/")];
        assert!(large.bytes < 40_000, "{}", large.bytes);
        let [large, small] = [large, small].map(|file| Segment::new(None, vec![file]));

        let narrow = SegmentCache::new(Arc::clone(&store), 1 << 20);
        assert!(narrow.has_room_for(&[&large]), "as the length of the file has it");
        assert!(narrow.rows(&spec, &[&small, &large]).await.unwrap().is_none(), "and there is none");
        assert!(!narrow.has_room_for(&[&large]), "which is not tried again");
        assert!(narrow.kept().reserved == 0 && narrow.bytes() < 10_000, "{}", narrow.bytes());

        let wide = SegmentCache::new(store, 4 << 20);
        let held = wide.rows(&spec, &[&large]).await.unwrap().unwrap();
        let taken = held[0].get_array_memory_size();
        let footer = std::fs::read(folder.path().join("400.parquet")).unwrap();
        let footer = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(footer)).unwrap();
        let told = decoded_bytes(footer.metadata()).unwrap();
        assert!(wide.bytes() == taken && taken > 3_000_000 && told > 400 * 8_192, "{taken} {told}");
        // A piece of it that a query holds is not taken for free.
        let piece = held[0].slice(7, 1);
        drop(held);
        assert!(matches!(wide.reserve(3 << 20), Err(Unread::NoRoom)));
        drop(piece);
        assert!(wide.reserve(3 << 20).is_ok());
        assert_eq!(wide.bytes(), 0);
    }
}

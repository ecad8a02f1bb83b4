//! Whether the tables of two places say the same, and where they first differ.
//!
//! What is compared is what the tables mean: rows folded by the rule of their table (sums added, hash sets united, signs
//! netted), as multisets. How rows lie in files, in which epochs they came and in which order, does not matter.
//!
//! Both sides are sorted and read side by side: sorting takes at most the memory that is given, and then temporary files of
//! about the size of the tables; folding takes that of 65,536 rows, or of one key's where those are more.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use arrow::error::ArrowError;
use arrow::row::{Row, RowConverter, Rows, SortField};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use tidemill_log::{FOLDER, Location, with_causes};
use tidemill_tables::{Role, TableSpec, fold};
use tokio::runtime::Runtime;

use crate::error::QueryError;
use crate::format::write_value_as_json;
use crate::session::{self, Tables};
use crate::visible::{LogSource, Visible, VisibleSource};

/// Rows that are folded at once, or more where one key has more.
const FOLDED_AT_ONCE: usize = 65_536;

/// The tables of two places, each at its newest commit.
#[derive(Debug)]
pub struct Comparison {
    runtime: Runtime,
    sides: [Side; 2],
}

/// What comparing one table has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDiff {
    /// Rows of each side, after folding.
    pub rows: [u64; 2],
    /// A digest of the rows of each side; equal multisets of rows have equal ones.
    pub digests: [u64; 2],
    /// The first row, in the table's order, that the sides do not have equally often.
    pub first: Option<Difference>,
}

/// A key at which two tables differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key's columns, as a JSON object.
    pub key: String,
    /// The row of each side under that key, as a JSON object; of a set of hashes its size and a digest. `None` where the side
    /// has no row to match the other's.
    pub rows: [Option<String>; 2],
}

impl Comparison {
    /// The tables in two places, compared with `memory` bytes for sorting on each side.
    ///
    /// # Errors
    /// When a place does not exist or its log cannot be read.
    pub fn open(places: [&Location; 2], specs: &[TableSpec], memory: usize) -> Result<Self, QueryError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(QueryError::Runtime)?;
        let [first, second] = places.map(|place| Side::open(place, specs, memory));
        Ok(Self { runtime, sides: [first?, second?] })
    }

    /// What each side's newest commit makes visible.
    #[must_use]
    pub fn visible(&self) -> [&Visible; 2] {
        self.sides.each_ref().map(|side| &side.visible)
    }

    /// Those of `specs` that the pipelines of the two places have; where an older log does not say, those with rows, and all of
    /// them where neither says.
    #[must_use]
    pub fn tables<'a>(&self, specs: &'a [TableSpec]) -> Vec<&'a TableSpec> {
        let sides = self.visible();
        if sides.iter().all(|visible| visible.known.is_none()) {
            return specs.iter().collect();
        }
        let has = |visible: &&Visible, name: &String| {
            visible.tables.contains_key(name) || visible.known.as_ref().is_some_and(|known| known.contains(name))
        };
        specs.iter().filter(|spec| sides.iter().any(|visible| has(visible, &spec.name))).collect()
    }

    /// Compares a table.
    ///
    /// # Errors
    /// When it cannot be read, or is not as `spec` says.
    pub fn table(&self, spec: &TableSpec) -> Result<TableDiff, QueryError> {
        self.runtime.block_on(async {
            let order = Order::of(spec)?;
            let [first, second] = &self.sides;
            let mut cursors = [first.cursor(&order).await?, second.cursor(&order).await?];
            let mut found = None;
            while let Some(next) = compare(&cursors) {
                if next != Ordering::Equal && found.is_none() {
                    found = Some(difference(spec, &cursors, next)?);
                }
                let [a, b] = &mut cursors;
                if next != Ordering::Greater {
                    a.advance().await?;
                }
                if next != Ordering::Less {
                    b.advance().await?;
                }
            }
            let (rows, digests) = (cursors.each_ref().map(|c| c.count), cursors.each_ref().map(|c| c.digest));
            Ok(TableDiff { rows, digests, first: found })
        })
    }
}

/// One of the two places.
#[derive(Debug)]
struct Side {
    tables: Tables,
    visible: Visible,
}

impl Side {
    fn open(place: &Location, specs: &[TableSpec], memory: usize) -> Result<Self, QueryError> {
        let failed = |reason| QueryError::Open { place: place.to_string(), reason };
        let reading = place.open_for_reading().map_err(|error| failed(with_causes(&error)))?;
        let visible = LogSource::new(reading.store, FOLDER).latest().map_err(failed)?;
        let tables = Tables::spilling(reading.objects, specs.to_vec(), memory).map_err(run)?;
        Ok(Self { tables, visible })
    }

    async fn cursor<'a>(&'a self, order: &'a Order<'a>) -> Result<Cursor<'a>, QueryError> {
        let columns = order.spec.sort_by.iter().map(|at| &order.spec.columns[*at].name);
        let by: Vec<String> = columns.map(|name| format!("\"{name}\" ASC NULLS FIRST")).collect();
        let sql = format!("SELECT * FROM stored.\"{}\" ORDER BY {}", order.spec.name, by.join(", "));
        // A table that only the other side's pipeline has is empty here.
        let all = Visible { known: None, ..self.visible.clone() };
        let context = session::session(&self.tables, &all).map_err(run)?;
        let rows = session::plan(&context, &sql).await?.execute_stream().await.map_err(run)?;
        let folded = Folded { order, rows, waiting: Vec::new(), ended: false };
        let mut cursor = Cursor { side: self, folded, current: None, at: 0, count: 0, digest: 0 };
        cursor.load().await?;
        Ok(cursor)
    }

    /// A file may have been replaced meanwhile by the run that writes there.
    async fn failed(&self, error: DataFusionError) -> QueryError {
        let source = Box::new(error);
        if self.visible.lacks_file(self.tables.store(), &source).await {
            return QueryError::Overtaken { attempts: 1, source };
        }
        QueryError::Run(source)
    }
}

fn run(error: DataFusionError) -> QueryError {
    QueryError::Run(Box::new(error))
}

fn of_arrow(error: ArrowError) -> QueryError {
    run(error.into())
}

/// The one order that both sides are read in: the table's, ties by the whole row.
struct Order<'a> {
    spec: &'a TableSpec,
    keys: RowConverter,
    whole: RowConverter,
}

impl<'a> Order<'a> {
    fn of(spec: &'a TableSpec) -> Result<Self, QueryError> {
        let field = |at: usize| SortField::new(spec.columns[at].stored.clone());
        let keys = RowConverter::new(spec.sort_by.iter().map(|at| field(*at)).collect()).map_err(of_arrow)?;
        let whole = whole_row(spec).map(field).collect();
        Ok(Self { spec, keys, whole: RowConverter::new(whole).map_err(of_arrow)? })
    }

    fn keys(&self, batch: &RecordBatch) -> Result<Rows, QueryError> {
        let columns: Vec<ArrayRef> = self.spec.sort_by.iter().map(|at| Arc::clone(batch.column(*at))).collect();
        self.keys.convert_columns(&columns).map_err(of_arrow)
    }

    fn whole(&self, batch: &RecordBatch) -> Result<Rows, QueryError> {
        let columns: Vec<ArrayRef> = whole_row(self.spec).map(|at| Arc::clone(batch.column(at))).collect();
        self.whole.convert_columns(&columns).map_err(of_arrow)
    }
}

fn whole_row(spec: &TableSpec) -> impl Iterator<Item = usize> + '_ {
    spec.sort_by.iter().copied().chain(0..spec.columns.len())
}

/// Sorted stored rows, folded key by key.
struct Folded<'a> {
    order: &'a Order<'a>,
    rows: SendableRecordBatchStream,
    /// Rows whose last key may go on.
    waiting: Vec<RecordBatch>,
    ended: bool,
}

impl Folded<'_> {
    /// The next folded rows; `None` at the end.
    async fn next(&mut self, side: &Side) -> Result<Option<RecordBatch>, QueryError> {
        loop {
            let complete = if self.ended {
                std::mem::take(&mut self.waiting)
            } else {
                match self.rows.try_next().await {
                    Err(error) => return Err(side.failed(error).await),
                    Ok(None) => self.ended = true,
                    Ok(Some(batch)) if batch.num_rows() > 0 => self.waiting.push(batch),
                    Ok(Some(_)) => {}
                }
                self.take_complete()?
            };
            if complete.is_empty() {
                if self.ended && self.waiting.is_empty() {
                    return Ok(None);
                }
                continue;
            }
            let folded =
                fold(self.order.spec, &complete).map_err(|error| run(DataFusionError::External(error.into())))?;
            if folded.num_rows() > 0 {
                return Ok(Some(folded));
            }
        }
    }

    /// Enough rows, up to where the last key begins.
    fn take_complete(&mut self) -> Result<Vec<RecordBatch>, QueryError> {
        let enough = self.waiting.iter().map(RecordBatch::num_rows).sum::<usize>() >= FOLDED_AT_ONCE;
        let Some(last) = self.waiting.last().filter(|_| enough) else { return Ok(Vec::new()) };
        let keys = self.order.keys(last)?;
        let end = last.num_rows();
        let same = |at: &usize| keys.row(*at) == keys.row(end - 1);
        let begins = (0..end).rev().take_while(same).last().unwrap_or(end);
        if begins == 0 {
            return Ok(Vec::new());
        }
        let rest = last.slice(begins, end - begins);
        let head = last.slice(0, begins);
        let mut complete = std::mem::replace(&mut self.waiting, vec![rest]);
        complete.pop();
        complete.push(head);
        Ok(complete)
    }
}

/// A side's rows, one after another.
struct Cursor<'a> {
    side: &'a Side,
    folded: Folded<'a>,
    current: Option<(RecordBatch, Rows)>,
    at: usize,
    count: u64,
    digest: u64,
}

impl Cursor<'_> {
    fn row(&self) -> Option<Row<'_>> {
        self.current.as_ref().map(|(_, rows)| rows.row(self.at))
    }

    /// Counts the row and goes on to the next.
    async fn advance(&mut self) -> Result<(), QueryError> {
        if let Some(row) = self.row() {
            let hashed = hash(row.as_ref().iter().copied());
            self.digest = self.digest.wrapping_add(hashed);
            self.count += 1;
            self.at += 1;
        }
        let done = self.current.as_ref().is_some_and(|(batch, _)| self.at == batch.num_rows());
        if done { self.load().await } else { Ok(()) }
    }

    async fn load(&mut self) -> Result<(), QueryError> {
        self.at = 0;
        self.current = match self.folded.next(self.side).await? {
            Some(batch) => {
                let rows = self.folded.order.whole(&batch)?;
                Some((batch, rows))
            }
            None => None,
        };
        Ok(())
    }
}

/// Which side's row comes first; `None` when both are at their end.
fn compare(cursors: &[Cursor<'_>; 2]) -> Option<Ordering> {
    match cursors.each_ref().map(Cursor::row) {
        [None, None] => None,
        [Some(_), None] => Some(Ordering::Less),
        [None, Some(_)] => Some(Ordering::Greater),
        [Some(a), Some(b)] => Some(a.cmp(&b)),
    }
}

fn difference(spec: &TableSpec, cursors: &[Cursor<'_>; 2], next: Ordering) -> Result<Difference, QueryError> {
    let keys: Vec<usize> = spec.with_role(Role::Key).collect();
    let all: Vec<usize> = (0..spec.columns.len()).collect();
    let show = |side: usize, columns: &[usize]| {
        let current = cursors[side].current.as_ref();
        current.map(|(batch, _)| object(spec, batch, cursors[side].at, columns)).transpose()
    };
    let leading = usize::from(next == Ordering::Greater);
    let key = show(leading, &keys)?.unwrap_or_default();
    let mut rows = [None, None];
    for (side, row) in rows.iter_mut().enumerate() {
        if show(side, &keys)?.as_ref() == Some(&key) {
            *row = show(side, &all)?;
        }
    }
    Ok(Difference { key, rows })
}

/// Some columns of a row as a JSON object.
fn object(spec: &TableSpec, batch: &RecordBatch, row: usize, columns: &[usize]) -> Result<String, QueryError> {
    let mut text = String::from("{");
    for at in columns {
        let (column, values) = (&spec.columns[*at], batch.column(*at));
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&format!("\"{}\":", column.name));
        if column.role == Role::UnionCount {
            let hashes = values.as_list::<i32>().value(row);
            let bytes = hashes.as_primitive::<UInt64Type>().values().iter().flat_map(|hash| hash.to_le_bytes());
            text.push_str(&format!("\"{} (set {:016x})\"", hashes.len(), hash(bytes)));
        } else {
            write_value_as_json(values, row, &mut text)?;
        }
    }
    text.push('}');
    Ok(text)
}

/// FNV-1a, mixed at the end: the same on every machine and on every day.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let folded = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests;

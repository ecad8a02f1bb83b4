//! The description of a table: its columns, in files and in queries, and the rule that folds its rows.

use std::sync::Arc;

use arrow::array::{ListArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};

/// What a column is for when rows of one table meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Part of what identifies a row.
    Key,
    /// `Int64` in files and queries; rows with the same key add up. A sum beyond 64 bits takes several rows in files, and is
    /// refused in queries.
    Sum,
    /// A list of 64-bit hashes in files, the number of different ones (`Int64`) in queries.
    UnionCount,
    /// `Int8` in files, no column in queries: +1 asserts the row, -1 takes it back.
    Sign,
    /// Carried along.
    Value,
}

/// How the rows of a table's files become the rows that a query shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Every stored row is a row.
    Append,
    /// Rows with equal keys are one row: sums added, hash lists united. A row that adds nothing at all is not shown.
    Deltas,
    /// Rows that are equal but for the sign are one row, shown while the sum of the signs is positive.
    Signed,
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    /// Its name, the same in files and queries.
    pub name: String,
    /// The type that queries see.
    pub data_type: DataType,
    /// The type in the files.
    pub stored: DataType,
    /// What the column is for.
    pub role: Role,
    /// Whether it may be NULL, in files and in queries.
    pub nullable: bool,
}

impl ColumnSpec {
    /// A column that has the same type in files and in queries, never NULL.
    #[must_use]
    pub fn new(name: &str, data_type: DataType, role: Role) -> Self {
        Self { name: name.to_owned(), stored: data_type.clone(), data_type, role, nullable: false }
    }

    /// A column that identifies a row.
    #[must_use]
    pub fn key(name: &str, data_type: DataType) -> Self {
        Self::new(name, data_type, Role::Key)
    }

    /// An `Int64` column that adds up.
    #[must_use]
    pub fn sum(name: &str) -> Self {
        Self::new(name, DataType::Int64, Role::Sum)
    }

    /// A column of hash lists whose union is counted.
    #[must_use]
    pub fn union_count(name: &str) -> Self {
        Self { stored: hash_list_type(), ..Self::new(name, DataType::Int64, Role::UnionCount) }
    }

    /// The column that says whether a row is asserted or taken back.
    #[must_use]
    pub fn sign(name: &str) -> Self {
        Self::new(name, DataType::Int8, Role::Sign)
    }

    /// A column carried along.
    #[must_use]
    pub fn value(name: &str, data_type: DataType) -> Self {
        Self::new(name, data_type, Role::Value)
    }

    /// The same column, allowed to be NULL.
    #[must_use]
    pub fn nullable(self) -> Self {
        Self { nullable: true, ..self }
    }
}

/// One table: what its files hold, what queries see, and how the one becomes the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name: in queries, and of its folder under `tables/`.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<ColumnSpec>,
    /// How its rows fold.
    pub fold: Fold,
    /// Positions of the columns that rows are sorted by, outermost first; ties are broken by the whole row.
    pub sort_by: Vec<usize>,
    /// Position of the event time that decides into which hour's folder a row is rolled.
    pub time: usize,
}

impl TableSpec {
    /// A table whose rows are sorted by its keys in column order (for [`Fold::Signed`] by everything but the sign).
    ///
    /// # Panics
    /// If there is no column `time`: tables are declared in code, so this is a mistake of the declaration.
    #[must_use]
    pub fn new(name: &str, fold: Fold, time: &str, columns: Vec<ColumnSpec>) -> Self {
        let sort_by = (0..columns.len())
            .filter(|&at| match fold {
                Fold::Append | Fold::Deltas => columns[at].role == Role::Key,
                Fold::Signed => columns[at].role != Role::Sign,
            })
            .collect();
        let mut spec = Self { name: name.to_owned(), columns, fold, sort_by, time: 0 };
        spec.time = spec.position(time);
        spec
    }

    /// A table of windows: `tenant`, `window_start`, the key of the rows (a [`Role::Key`] column), and their values.
    #[must_use]
    pub fn windowed(name: &str, columns: impl IntoIterator<Item = ColumnSpec>) -> Self {
        let mut all = vec![ColumnSpec::key("tenant", DataType::Utf8), ColumnSpec::key("window_start", time_type())];
        all.extend(columns);
        Self::new(name, Fold::Deltas, "window_start", all)
    }

    /// The same table with its rows in another order.
    ///
    /// # Panics
    /// If one of the columns does not exist.
    #[must_use]
    pub fn sorted_by(self, columns: &[&str]) -> Self {
        let sort_by = columns.iter().map(|name| self.position(name)).collect();
        Self { sort_by, ..self }
    }

    /// The schema of the table's files.
    #[must_use]
    pub fn stored_schema(&self) -> SchemaRef {
        let field = |column: &ColumnSpec| Field::new(&column.name, column.stored.clone(), column.nullable);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// The schema that queries see.
    #[must_use]
    pub fn query_schema(&self) -> SchemaRef {
        let field = |column: &ColumnSpec| Field::new(&column.name, column.data_type.clone(), column.nullable);
        Arc::new(Schema::new(self.columns.iter().filter(|c| c.role != Role::Sign).map(field).collect::<Vec<_>>()))
    }

    /// Positions of the columns with a role, in column order.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = usize> + '_ {
        (0..self.columns.len()).filter(move |&at| self.columns[at].role == role)
    }

    fn position(&self, name: &str) -> usize {
        let found = self.columns.iter().position(|column| column.name == name);
        found.unwrap_or_else(|| panic!("table {} is declared with a column {name} that it does not have", self.name))
    }
}

/// `Timestamp(Millisecond, "UTC")`, the type of every time in every table.
#[must_use]
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// The stored type of a [`Role::UnionCount`] column: a list of 64-bit hashes, neither lists nor hashes NULL.
#[must_use]
pub fn hash_list_type() -> DataType {
    DataType::List(hash_field())
}

/// A column of hash lists: list `i` is the next `lengths[i]` of `hashes`.
///
/// # Panics
/// If the lengths do not add up to the number of hashes, or to more than 2^31 - 1.
#[must_use]
pub fn hash_lists(lengths: impl IntoIterator<Item = usize>, hashes: Vec<u64>) -> ListArray {
    ListArray::new(hash_field(), OffsetBuffer::from_lengths(lengths), Arc::new(UInt64Array::from(hashes)), None)
}

fn hash_field() -> FieldRef {
    Arc::new(Field::new("item", DataType::UInt64, false))
}

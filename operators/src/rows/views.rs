//! Rows of views: the columns of the row, and the sign of its change.

use std::iter::repeat_n;
use std::sync::Arc;

use arrow::array::{Int8Array, RecordBatch};
use arrow::datatypes::SchemaRef;

use super::{Columns, RowsError};
use crate::incremental::Change;

/// Encodes the changes of a view.
#[derive(Clone, Copy, Debug)]
pub struct ChangeRows;

impl ChangeRows {
    /// The changes as `<columns of the row>..., sign Int8`; a change by more than one row is as many rows.
    ///
    /// # Errors
    /// If the schema does not have these columns, or a value does not fit.
    pub fn encode<R: Columns>(changes: &[Change<R>], schema: SchemaRef) -> Result<RecordBatch, RowsError> {
        if schema.fields().len() != R::WIDTH + 1 {
            return Err(RowsError::Width { rows: R::WIDTH + 1, schema: schema.fields().len() });
        }
        let mut each = Vec::with_capacity(changes.len());
        for Change { row, diff } in changes {
            let sign: i8 = if *diff < 0 { -1 } else { 1 };
            each.extend(repeat_n((row, sign), usize::try_from(diff.unsigned_abs()).unwrap_or(usize::MAX)));
        }
        let mut columns = Vec::with_capacity(R::WIDTH + 1);
        R::append(each.iter().map(|(row, _)| *row), &schema.fields()[..R::WIDTH], &mut columns)?;
        let signs = each.iter().map(|(_, sign)| *sign);
        columns.push(Arc::new(Int8Array::from_iter_values(signs)));
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field, Int8Type, Int64Type, Schema};

    use super::*;

    #[test]
    fn a_change_is_as_many_rows_as_it_says_with_its_sign() {
        let fields = [("page", DataType::Utf8), ("views", DataType::Int64), ("sign", DataType::Int8)];
        let schema = Arc::new(Schema::new(fields.map(|(name, of)| Field::new(name, of, false)).to_vec()));
        let changes = [Change::retract(("/a".to_owned(), 1_i64)), Change::by(2, ("/b".to_owned(), 3))];
        let rows = ChangeRows::encode(&changes, Arc::clone(&schema)).unwrap();
        assert_eq!(rows.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["/a", "/b", "/b"]);
        assert_eq!(rows.column(1).as_primitive::<Int64Type>().values(), &[1, 3, 3]);
        assert_eq!(rows.column(2).as_primitive::<Int8Type>().values(), &[-1, 1, 1]);
        assert!(matches!(
            ChangeRows::encode(&[Change::insert(1_i64)], schema),
            Err(RowsError::Width { rows: 2, schema: 3 })
        ));
    }
}

//! Rows that are plain tuples: what a `map` makes.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::{Columns, RowsError};

/// Encodes tuples.
#[derive(Clone, Copy, Debug)]
pub struct TupleRows;

impl TupleRows {
    /// The rows as the columns of their parts, in order.
    ///
    /// # Errors
    /// If the schema does not have these columns, or a value does not fit.
    pub fn encode<R: Columns>(rows: &[R], schema: SchemaRef) -> Result<RecordBatch, RowsError> {
        if schema.fields().len() != R::WIDTH {
            return Err(RowsError::Width { rows: R::WIDTH, schema: schema.fields().len() });
        }
        let mut columns = Vec::with_capacity(R::WIDTH);
        R::append(rows.iter(), schema.fields(), &mut columns)?;
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    #[test]
    fn a_tuple_is_a_row_and_a_table_of_another_width_is_refused() {
        let field = |name: &str, of| Field::new(name, of, false);
        let schema = Arc::new(Schema::new(vec![field("page", DataType::Utf8), field("views", DataType::Int64)]));
        let rows = [("/a".to_owned(), 1_i64), ("/b".to_owned(), 2)];
        let encoded = TupleRows::encode(&rows, Arc::clone(&schema)).unwrap();
        assert_eq!(encoded.column(1).as_primitive::<Int64Type>().values(), &[1, 2]);
        assert!(matches!(TupleRows::encode(&[1_i64], schema), Err(RowsError::Width { rows: 1, schema: 2 })));
    }
}

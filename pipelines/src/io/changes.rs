//! Tables of views: signed rows, each change of a view as it comes.

use std::sync::Arc;

use tidemill_connectors::lake::RowOrder;
use tidemill_dataflow::batch::Batch;
use tidemill_dataflow::sink::TableSink;
use tidemill_operators::incremental::Change;
use tidemill_operators::rows::{ChangeRows, Columns};

use super::{AnalyticsIo, copied};

impl AnalyticsIo {
    /// A table of signed rows; its last column is the sign.
    ///
    /// # Panics
    /// If there is no such table: names are literals of the pipeline.
    #[must_use]
    pub fn changes<R: Columns + Clone + Send + Sync + 'static>(&self, name: &str) -> TableSink<Change<R>> {
        let spec = self.spec(name);
        let schema = spec.stored_schema();
        let encode = move |batch: &Batch<Change<R>>| match batch.as_slice() {
            Some(changes) => Ok(ChangeRows::encode(changes, Arc::clone(&schema))?),
            None => Ok(ChangeRows::encode(&copied(batch), Arc::clone(&schema))?),
        };
        self.table(spec, RowOrder::ByKeys, encode)
    }
}

//! What a commit makes visible: the narrow view of the log that queries need.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tidemill_log::{DataFile, LogState, Store, reader, with_causes};

/// Everything that one commit makes visible.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visible {
    /// The committed epoch; none before the first commit, when nothing is visible.
    pub epoch: Option<u64>,
    /// What the tables are complete through, in milliseconds since 1970: the watermark at the commit, none while no event moved
    /// it, and the end of the data once the end of time was declared.
    pub complete_through: Option<i64>,
    /// Whether the end of time was declared: nothing follows.
    pub closed: bool,
    /// The names of the tables that the pipeline has, with rows or without; none where the log does not say.
    pub known: Option<BTreeSet<String>>,
    /// The files of each table.
    pub tables: BTreeMap<String, Vec<DataFile>>,
    /// Each input file with the number of its lines that the commit contains.
    pub files: Vec<(String, u64)>,
}

impl Visible {
    /// Whether a table of this name is one of the pipeline's, as far as the log says.
    #[must_use]
    pub fn shows(&self, table: &str) -> bool {
        self.known.as_ref().is_none_or(|known| known.contains(table))
    }

    /// Whether a query failed because a visible file is not there.
    ///
    /// Some layers below turn errors into text, so the files that the text names are looked for.
    pub(crate) async fn lacks_file(&self, store: &dyn ObjectStore, error: &DataFusionError) -> bool {
        let text = with_causes(error);
        for file in self.tables.values().flatten().filter(|file| text.contains(&file.path)) {
            let found = store.head(&ObjectPath::from(file.path.as_str())).await;
            if matches!(found, Err(object_store::Error::NotFound { .. })) {
                return true;
            }
        }
        false
    }
}

/// Where [`Visible`] comes from; asked anew for each query.
pub trait VisibleSource: Debug + Send + Sync {
    /// What the newest commit makes visible; nothing at all before the first one.
    ///
    /// # Errors
    /// A sentence that says why the log cannot be read.
    fn latest(&self) -> Result<Visible, String>;
}

/// The log in a store.
#[derive(Clone, Debug)]
pub struct LogSource {
    store: Arc<dyn Store>,
    prefix: String,
}

impl LogSource {
    /// The log under `prefix` in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, prefix: &str) -> Self {
        Self { store, prefix: prefix.to_owned() }
    }
}

impl VisibleSource for LogSource {
    fn latest(&self) -> Result<Visible, String> {
        let state = reader::read(Arc::clone(&self.store), &self.prefix).map_err(|error| with_causes(&error))?;
        Ok(Visible::from(&state))
    }
}

impl From<&LogState> for Visible {
    /// What the last commit of the log makes visible.
    fn from(state: &LogState) -> Self {
        let tables = state.tables().iter().map(|(table, files)| {
            let file = |(path, file): (&String, &tidemill_log::VisibleFile)| DataFile {
                path: path.clone(),
                rows: file.rows,
                bytes: file.bytes,
            };
            (table.clone(), files.iter().map(file).collect())
        });
        let partitions = state.committed_partitions();
        Self {
            epoch: state.committed(),
            complete_through: state.complete_through(),
            closed: state.closed(),
            known: state.known_tables(),
            tables: tables.collect(),
            files: partitions.into_values().map(|partition| (partition.name, partition.lines)).collect(),
        }
    }
}

//! The table `progress`: how much of each input the tables contain, and through when they are complete.
//!
//! Written after each commit, so it never says more than what is there. Of each partition the newest row stays; the view
//! shows those of the newest commit. Writing a commit twice, or an older one late, changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_dataflow::sink::{CommitObserver, Committed, SinkError};
use tidemill_tables::TableSpec;

use crate::check::Found;
use crate::client::Client;
use crate::ddl::{self, PROGRESS};
use crate::identity::Seen;
use crate::owner::{LOOK_EVERY, Look, Lost};
use crate::retry::{Fence, answer};
use crate::row_binary::{header, insert_statement, write_text};
use crate::target::Target;

/// Follows a pipeline's commits into its `progress` table, and looks once a minute whether its tables have their rows.
pub struct ProgressWriter {
    target: Target,
    pipeline: String,
    fence: Fence,
    client: Option<Client>,
    /// The tables beneath those of the pipeline.
    storages: Vec<String>,
    /// By the table beneath, the one that is known to users.
    tables: BTreeMap<String, String>,
    look: Look,
}

impl ProgressWriter {
    /// For `pipeline`, under the same name as its tables have. Nothing is connected before the first commit.
    #[must_use]
    pub fn new(target: Target, pipeline: &str) -> Self {
        let (fence, look) = (Fence::from(never_fenced()), Look::every(LOOK_EVERY));
        Self {
            target,
            pipeline: pipeline.to_owned(),
            fence,
            client: None,
            storages: Vec::new(),
            tables: BTreeMap::new(),
            look,
        }
    }

    /// The same writer; it fails when one of these tables loses what was written to it, also one that gets no rows.
    #[must_use]
    pub fn watching(self, specs: &[TableSpec]) -> Self {
        let named =
            specs.iter().flat_map(|spec| ddl::storages(spec).into_iter().map(|table| (table, spec.name.clone())));
        let tables: BTreeMap<String, String> = named.collect();
        Self { storages: tables.keys().cloned().collect(), tables, ..self }
    }

    /// The same writer, looking as often as this.
    #[must_use]
    pub fn looking_every(self, time: Duration) -> Self {
        Self { look: Look::every(time), ..self }
    }

    /// The same writer, stopped by `fence` (that of the run) also while it waits for the server.
    #[must_use]
    pub fn fenced_by(self, fence: std::sync::Arc<dyn Fn() -> Result<(), SinkError> + Send + Sync>) -> Self {
        Self { fence, ..self }
    }
}

fn never_fenced() -> Box<dyn Fn() -> Result<(), SinkError> + Send + Sync> {
    Box::new(|| Ok(()))
}

impl CommitObserver for ProgressWriter {
    fn committed(&mut self, commit: &Committed) -> Result<(), SinkError> {
        // Before the first commit there is nothing to show.
        if commit.epoch == 0 || commit.partitions.is_empty() {
            return Ok(());
        }
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::new(&self.target)?,
        };
        let client = self.client.insert(client);
        if !self.storages.is_empty() && self.look.is_due() {
            let (found, seen) = answer(client, &self.fence, "describe its tables", || {
                Ok((Found::read(client)?, Seen::read(client, None, &self.storages)?))
            })?;
            if let Some((storage, loss)) = seen.lost(&found, false).into_iter().next() {
                let (table, pipeline) = (self.tables[&storage].clone(), self.pipeline.clone());
                return Err(Lost { storage, table, loss, pipeline }.into_error(client).judged());
            }
        }
        let columns = columns();
        let body = body(&self.pipeline, commit, &columns);
        let statement = insert_statement(&format!("{PROGRESS}_data"), &columns);
        answer(client, &self.fence, "take the progress", || client.insert(&statement, None, &body))
    }
}

fn columns() -> Vec<(String, String)> {
    let time = "Nullable(DateTime64(3, 'UTC'))";
    [("pipeline", "String"), ("epoch", "Int64"), ("complete_through", time), ("file", "String"), ("lines", "Int64")]
        .map(|(name, data_type)| (name.to_owned(), data_type.to_owned()))
        .to_vec()
}

fn body(pipeline: &str, commit: &Committed, columns: &[(String, String)]) -> Vec<u8> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX).to_le_bytes();
    let mut out = header(columns);
    for partition in commit.partitions.values() {
        write_text(pipeline, &mut out);
        out.extend_from_slice(&number(commit.epoch));
        match commit.complete_through {
            Some(through) => {
                out.push(0);
                out.extend_from_slice(&through.0.to_le_bytes());
            }
            None => out.push(1),
        }
        write_text(&partition.name, &mut out);
        out.extend_from_slice(&number(partition.lines));
    }
    out
}

//! One commit, ready to be asked: what it makes visible, and the session that all queries on it share.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::prelude::SessionContext;

use super::time_range::rfc3339;
use crate::session::{self, Tables};
use crate::visible::Visible;

/// One commit as the server answers from it. Never changes; a newer one takes its place.
pub(crate) struct Snapshot {
    /// What the commit makes visible.
    pub(crate) visible: Visible,
    /// When the commit became visible, in milliseconds since 1970; none before the first.
    pub(super) updated_at: Option<i64>,
    /// The pipeline's tables as of the commit.
    pub(super) context: SessionContext,
    /// The tables of `web_analytics`, which metrics are of: empty where the pipeline has none.
    pub(super) metrics: SessionContext,
    /// What is shared with the snapshots before and after.
    pub(crate) tables: Tables,
}

impl Snapshot {
    /// The commit that made `visible` what is seen.
    ///
    /// # Errors
    /// When the query engine refuses the tables.
    pub(crate) fn new(tables: &Tables, visible: Visible, updated_at: Option<i64>) -> Result<Arc<Self>> {
        let context = session::session(tables, &visible)?;
        let metrics = session::of_metrics(tables, &visible, &context)?;
        Ok(Arc::new(Self { visible, updated_at, context, metrics, tables: tables.clone() }))
    }

    /// How far an answer from it is complete that is given now.
    pub(super) fn complete_through(&self) -> Option<i64> {
        self.tables.complete_through(&self.visible)
    }

    /// Whether nothing is still to come before `time`: it is complete, or past in a log where the end of time was declared.
    pub(super) fn complete_before(&self, time: i64) -> bool {
        let closed = self.visible.closed && time <= self.tables.clock().now();
        closed || self.complete_through().is_some_and(|through| time <= through)
    }

    /// What readers who follow are told of it: `complete_through` is of now, when it comes to be shown, and is not told again
    /// as the clock goes on.
    pub(super) fn change(&self) -> Change {
        let mut text = serde_json::json!({
            "epoch": self.visible.epoch,
            "complete_through": self.complete_through().map(rfc3339),
            "updated_at": self.updated_at.map(rfc3339),
        });
        if self.visible.closed {
            text["closed"] = true.into();
        }
        Change { id: self.visible.epoch.map_or_else(String::new, |epoch| epoch.to_string()), data: text.to_string() }
    }
}

/// A new commit, as readers who follow are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The committed epoch.
    pub(super) id: String,
    /// `{"epoch": .., "complete_through": .., "updated_at": ..}`, with `"closed": true` at the end of time, as of the moment in which the commit came to be shown.
    pub(super) data: String,
}

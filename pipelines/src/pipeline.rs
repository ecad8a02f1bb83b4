//! [`Pipeline`]: what the command line runs: a name, the tables it writes, and the function that declares it.
//!
//! A binary is a list of pipelines behind one command line ([`crate::main`]); `tidemill` is the one with [`built_in`].

use std::fmt;
use std::sync::Arc;

use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::plan::Plan;
use tidemill_dataflow::runtime::{self, Build, RunError, RunOptions};
use tidemill_tables::{TableSpec, views, web_analytics as tables};

use crate::funnel::funnel;
use crate::io::AnalyticsIo;
use crate::top_pages::top_pages;
use crate::web_analytics::web_analytics;

/// Declares a pipeline; called once per worker, and once dry.
type Declare = dyn Fn(&Flow<'_>, &AnalyticsIo) + Send + Sync;

/// A pipeline that the command line can run.
#[derive(Clone)]
pub struct Pipeline {
    name: &'static str,
    tables: Arc<[TableSpec]>,
    /// The tables that are published as topics where the run has a `kafka://` sink.
    published: Arc<[&'static str]>,
    declare: Arc<Declare>,
}

impl Pipeline {
    /// A pipeline under this name, which stands in state, transactions and consumer groups: it does not change.
    ///
    /// `declare` is called once per worker, and once dry: it must do the same each time.
    #[must_use]
    pub fn new(name: &'static str, declare: impl Fn(&Flow<'_>, &AnalyticsIo) + Send + Sync + 'static) -> Self {
        Pipeline { name, tables: Arc::default(), published: Arc::default(), declare: Arc::new(declare) }
    }

    /// The tables that it writes, each once.
    #[must_use]
    pub fn tables(self, tables: impl IntoIterator<Item = TableSpec>) -> Self {
        Pipeline { tables: tables.into_iter().collect(), ..self }
    }

    /// Which of its tables a `kafka://` sink publishes as topics; none unless said.
    #[must_use]
    pub fn published(self, tables: impl IntoIterator<Item = &'static str>) -> Self {
        Pipeline { published: tables.into_iter().collect(), ..self }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The tables that it writes.
    #[must_use]
    pub fn specs(&self) -> &[TableSpec] {
        &self.tables
    }

    /// The table of events of which it is not known whether they are new, by its name.
    pub(crate) fn unverified_table(&self) -> Option<&str> {
        self.tables.iter().map(|spec| spec.name.as_str()).find(|name| name.contains("unverified"))
    }

    /// Whether a table is published as a topic.
    pub(crate) fn publishes(&self, table: &str) -> bool {
        self.published.contains(&table)
    }

    /// The pipeline on these ends, as the engine takes it.
    pub fn on(&self, io: AnalyticsIo) -> impl Build + use<> {
        let declare = Arc::clone(&self.declare);
        move |flow: &Flow<'_>| declare(flow, &io)
    }

    /// Its operators, as checkpoints are compared by.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn plan(&self) -> Result<Plan, RunError> {
        runtime::plan(&self.on(AnalyticsIo::nowhere(self.clone())), &RunOptions::default())
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The pipelines that come with Tidemill.
#[must_use]
pub fn built_in() -> Vec<Pipeline> {
    let acted_upon = ["sessions", "errors_by_version_by_minute", "revenue_by_minute"];
    // Each pipeline writes tables of its own, so that one database can hold those of all.
    let view = |view: TableSpec| {
        let unverified = tables::unverified_events_of(&view.name);
        [view, unverified]
    };
    vec![
        Pipeline::new("web_analytics", web_analytics).tables(tables::all()).published(acted_upon),
        Pipeline::new("top_pages", top_pages).tables(view(views::top_pages())).published(["top_pages"]),
        Pipeline::new("funnel", funnel).tables(view(views::funnel())).published(["funnel"]),
    ]
}

/// The pipelines of a binary.
#[derive(Clone, Debug)]
pub(crate) struct Catalog(Vec<Pipeline>);

impl Catalog {
    pub(crate) fn new(pipelines: Vec<Pipeline>) -> Self {
        Catalog(pipelines)
    }

    /// The pipeline of this name; without a name, the only one.
    ///
    /// # Errors
    /// A sentence that says which there are.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<&Pipeline, String> {
        match (name, &*self.0) {
            (None, [only]) => Ok(only),
            (None, _) => Err(format!("say which pipeline: {}", self.names())),
            (Some(name), pipelines) => pipelines
                .iter()
                .find(|pipeline| pipeline.name == name)
                .ok_or_else(|| format!("there is no pipeline `{name}`; there is {}", self.names())),
        }
    }

    /// The pipeline of this name; without a name, the first.
    ///
    /// # Errors
    /// A sentence that says which there are.
    pub(crate) fn find_or_first(&self, name: Option<&str>) -> Result<&Pipeline, String> {
        self.find(name.or_else(|| self.0.first().map(Pipeline::name)))
    }

    /// All of them.
    pub(crate) fn pipelines(&self) -> &[Pipeline] {
        &self.0
    }

    /// All tables of all pipelines, each once: what a place that one of them wrote may hold.
    pub(crate) fn tables(&self) -> Vec<TableSpec> {
        let mut all: Vec<TableSpec> = Vec::new();
        for spec in self.0.iter().flat_map(|pipeline| pipeline.specs()) {
            if !all.iter().any(|known| known.name == spec.name) {
                all.push(spec.clone());
            }
        }
        all
    }

    fn names(&self) -> String {
        self.0.iter().map(|pipeline| format!("`{}`", pipeline.name)).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_is_found_by_name_and_the_only_one_without() {
        let catalog = |names: &[&'static str]| {
            Catalog::new(names.iter().map(|name| Pipeline::new(name, |_: &Flow<'_>, _: &AnalyticsIo| {})).collect())
        };
        assert_eq!(catalog(&["a"]).find(None).unwrap().name(), "a");
        assert_eq!(catalog(&["a", "b"]).find(Some("b")).unwrap().name(), "b");
        assert_eq!(catalog(&["a", "b"]).find(None).unwrap_err(), "say which pipeline: `a`, `b`");
        assert_eq!(catalog(&["a"]).find(Some("c")).unwrap_err(), "there is no pipeline `c`; there is `a`");
    }

    #[test]
    fn plans_are_the_ones_that_checkpoints_were_written_by() {
        let golden = [
            ("web_analytics", include_str!("web_analytics.plan")),
            ("top_pages", include_str!("top_pages.plan")),
            ("funnel", include_str!("funnel.plan")),
        ];
        let plans: Vec<_> = built_in().iter().map(|of| (of.name(), of.plan().unwrap().to_string())).collect();
        assert_eq!(plans.len(), golden.len());
        for ((name, plan), (golden_name, expected)) in plans.iter().zip(golden) {
            assert_eq!(*name, golden_name);
            assert_eq!(plan, expected, "a change of {name} changes what restores: say so in the CHANGELOG");
        }
    }
}

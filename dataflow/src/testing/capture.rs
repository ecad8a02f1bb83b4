//! What a simulated run reads and writes: [`Ends`] of the pipeline, the [`Tables`] that they fill, the [`Outcome`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tidemill_log::{FOLDER, History, Store, with_causes};

use super::script::{RecordSource, ScriptSource};
use super::{by_epoch, text};
use crate::runtime::RunReport;
use crate::sink::TableSink;
use crate::time::{Epoch, EventTime, Watermark};

/// The tables that a pipeline asked its ends for.
#[derive(Clone, Default)]
pub(super) struct Declared(Arc<Mutex<BTreeSet<&'static str>>>);

/// The ends of a pipeline under test: what it reads, and tables that remember what it wrote.
///
/// A pipeline has one source. One that joins several kinds of records reads an enum of them, and splits it.
pub struct Ends<R> {
    pub(super) script: ScriptSource<R>,
    pub(super) store: Arc<dyn Store>,
    pub(super) declared: Declared,
}

impl<R> Ends<R> {
    /// The script, as a source of `(event time, record)`.
    #[must_use]
    pub fn source(&self) -> ScriptSource<R> {
        self.script.clone()
    }

    /// The script, as a source of its records alone, for pipelines that take the event time out of a record.
    #[must_use]
    pub fn records(&self) -> RecordSource<R> {
        RecordSource(self.script.clone())
    }

    /// A table whose rows carry a weight, and that shows each text with the sum of its weights, if that is not zero: 1 for
    /// rows that are only added, the sign of signed rows, what a delta adds to a count.
    pub fn sums<D: 'static, N: Into<i128>>(
        &self,
        table: &'static str,
        row: impl Fn(&D) -> (String, N) + Send + Sync + Clone + 'static,
    ) -> TableSink<D> {
        self.table(table, move |record| {
            let (text, weight) = row(record);
            let weight: i128 = weight.into();
            format!("{weight} {}", one_line(&text))
        })
    }

    /// A table that shows each text once, however often it was given: the hashes of a distinct count.
    pub fn union<D: 'static>(
        &self,
        table: &'static str,
        row: impl Fn(&D) -> String + Send + Sync + Clone + 'static,
    ) -> TableSink<D> {
        self.table(table, move |record| format!("= {}", one_line(&row(record))))
    }

    /// A table of versions, that shows of each key the text with the greatest version, as `<key> <text>`: what windows that
    /// emit upserts give. A row is its key, its version and its text.
    pub fn latest<D: 'static>(
        &self,
        table: &'static str,
        row: impl Fn(&D) -> (String, u64, String) + Send + Sync + Clone + 'static,
    ) -> TableSink<D> {
        self.table(table, move |record| {
            let (key, version, text) = row(record);
            format!("@{version} {}\t{}", one_line(&key), one_line(&text))
        })
    }

    fn table<D: 'static>(
        &self,
        table: &'static str,
        line: impl Fn(&D) -> String + Send + Sync + Clone + 'static,
    ) -> TableSink<D> {
        self.declared.0.lock().expect("no panic while it is held").insert(table);
        text(table, &self.store, line)()
    }
}

/// Tables are files of lines, and the parts of a line are apart by a tab.
fn one_line(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}

/// What the tables of a run show, by table and text: the weight, 1 where rows have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables(BTreeMap<&'static str, BTreeMap<String, i64>>);

impl Tables {
    /// The rows of a table with their weights, by text; none of a table that nothing was written to.
    #[must_use]
    pub fn rows(&self, table: &str) -> BTreeMap<String, i64> {
        self.0.get(table).cloned().unwrap_or_default()
    }

    /// The first row that differs.
    pub(super) fn difference(&self, other: &Tables) -> Option<String> {
        self.0.keys().chain(other.0.keys()).find_map(|table| {
            let (these, those) = (self.rows(table), other.rows(table));
            let text = these.keys().chain(those.keys()).find(|text| these.get(*text) != those.get(*text))?;
            let weight = |rows: &BTreeMap<String, i64>| rows.get(text).copied().unwrap_or(0);
            Some(format!("table {table}, row {text}: {} instead of {}", weight(&those), weight(&these)))
        })
    }
}

/// What a run wrote.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What its tables show in the end.
    pub tables: Tables,
    /// What each epoch wrote, sorted, by table and epoch: lines of a weight (`=` in a union, `@` and the version where the
    /// greatest counts), a space, and the text.
    pub written: BTreeMap<&'static str, BTreeMap<Epoch, Vec<String>>>,
    /// The counters, by operator and name: `window_id/late`.
    pub counts: BTreeMap<String, u64>,
    /// The watermark after each epoch; `None` while some partition has not said a time.
    pub watermarks: BTreeMap<Epoch, Watermark>,
    /// How often it was started.
    pub starts: u32,
}

impl Outcome {
    pub(super) fn read(
        store: &Arc<dyn Store>,
        declared: &Declared,
        report: &RunReport,
        starts: u32,
    ) -> Result<Outcome, String> {
        let names = declared.0.lock().expect("no panic while it is held").clone();
        let written: BTreeMap<_, _> = names.into_iter().map(|table| (table, by_epoch(store, table))).collect();
        let shown = |(table, epochs): (&&'static str, &BTreeMap<Epoch, Vec<String>>)| {
            (*table, shown(epochs.values().flatten().map(String::as_str)))
        };
        let tables = Tables(written.iter().map(shown).collect());
        let cuts = History::open(Arc::clone(store), FOLDER).map_err(|error| with_causes(&error))?;
        let mut watermarks = BTreeMap::new();
        for binding in cuts.into_iter().flatten() {
            let binding = binding.map_err(|error| with_causes(&error))?;
            watermarks.insert(binding.epoch, binding.watermark.map(EventTime));
        }
        Ok(Outcome { tables, written, counts: report.state.counts().clone(), watermarks, starts })
    }

    /// How many rows it wrote.
    pub(super) fn rows(&self) -> usize {
        self.written.values().flat_map(BTreeMap::values).map(Vec::len).sum()
    }

    /// The first epoch whose rows differ, or the counters or watermarks that do.
    pub(super) fn difference(&self, found: &Outcome) -> Option<String> {
        let none = BTreeMap::new();
        let of_tables = self.written.iter().find_map(|(table, epochs)| {
            let others = found.written.get(table).unwrap_or(&none);
            let epoch = epochs.keys().chain(others.keys()).find(|epoch| epochs.get(epoch) != others.get(epoch))?;
            let rows = |of: &BTreeMap<Epoch, Vec<String>>| of.get(epoch).cloned().unwrap_or_default();
            Some(format!("table {table}, epoch {epoch}: {:?} instead of {:?}", rows(others), rows(epochs)))
        });
        let of_rows = of_tables.or_else(|| {
            let differs = self.counts != found.counts;
            differs.then(|| format!("counters {:?} instead of {:?}", found.counts, self.counts))
        });
        // A run that crashed after its last epoch may have another one, of nothing.
        let both = |epoch: &&Epoch| found.watermarks.contains_key(epoch);
        let differs = |epoch: &&Epoch| self.watermarks[*epoch] != found.watermarks[*epoch];
        of_rows.or_else(|| {
            let epoch = self.watermarks.keys().filter(both).find(differs)?;
            let (expected, other) = (self.watermarks[epoch], found.watermarks[epoch]);
            Some(format!("the watermark of epoch {epoch}: {other:?} instead of {expected:?}"))
        })
    }
}

/// What the lines of a table show together.
fn shown<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<String, i64> {
    let mut rows: BTreeMap<String, i64> = BTreeMap::new();
    let mut versions: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for line in lines {
        let (kind, row) = line.split_once(' ').expect("a line of a simulated table begins with its weight");
        if let Some(version) = kind.strip_prefix('@') {
            let version = version.parse().expect("a version is a number");
            let (key, text) = row.split_once('\t').expect("a version's key ends with a tab");
            let latest = versions.entry(key).or_default();
            *latest = (*latest).max((version, text));
        } else if kind == "=" {
            rows.insert(row.to_owned(), 1);
        } else {
            *rows.entry(row.to_owned()).or_default() += kind.parse::<i64>().expect("a weight is a number");
        }
    }
    rows.extend(versions.into_iter().map(|(key, (_, text))| (format!("{key} {text}"), 1)));
    rows.retain(|_, weight| *weight != 0);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_add_up_unions_show_once_and_of_versions_the_greatest_shows() {
        let lines = ["1 a", "2 a", "1 b", "-1 b", "= c d", "= c d", "@9 k\told", "@10 k\tnew", "@3 k\tolder", "@1 é\t"];
        let expected = [("a", 3), ("c d", 1), ("k new", 1), ("é ", 1)].map(|(row, n)| (row.to_owned(), n));
        assert_eq!(shown(lines.into_iter()), BTreeMap::from(expected));
    }
}

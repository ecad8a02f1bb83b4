//! [`Simulation`]: a whole pipeline in this process, crashed, started again, on other numbers of workers, in other orders;
//! and the oracle that its tables are compared with, the same pipeline run as a batch.
//!
//! Everything that is random comes from one seed. A simulation that fails prints the line that repeats it.

use std::collections::BTreeMap;
use std::env;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_log::Store;

use super::draw::Draw;
use super::script::{Script, ScriptSource};
use super::{by_epoch, context, dying_at, memory, text};
use crate::cut::SLIVER;
use crate::flow::Flow;
use crate::runtime::{RunError, RunOptions, RunReport, StopHandle, run};
use crate::sink::TableSink;
use crate::time::Epoch;

/// The variable that names the one seed to run.
pub const SEED: &str = "TIDEMILL_SEED";

/// A crash happens within this many operations of the store after a start, if the run lasts as long.
const CRASH_WITHIN: u64 = 60;

/// The ends of a pipeline under test: what it reads, and tables that remember what it wrote.
pub struct Ends<R> {
    script: ScriptSource<R>,
    store: Arc<dyn Store>,
}

impl<R> Ends<R> {
    /// The script, as a source of `(event time, record)`.
    #[must_use]
    pub fn source(&self) -> ScriptSource<R> {
        self.script.clone()
    }

    /// A table whose rows carry a weight, and that shows each text with the sum of its weights, if that is not zero: 1 for
    /// rows that are only added, the sign of signed rows, what a delta adds to a count.
    pub fn sums<D: 'static>(
        &self,
        table: &'static str,
        row: impl Fn(&D) -> (String, i64) + Send + Sync + Clone + 'static,
    ) -> TableSink<D> {
        text(table, &self.store, move |record| {
            let (text, weight) = row(record);
            format!("{weight} {}", text.escape_default())
        })()
    }

    /// A table that shows each text once, however often it was given: the hashes of a distinct count, versions by key.
    pub fn union<D: 'static>(
        &self,
        table: &'static str,
        row: impl Fn(&D) -> String + Send + Sync + Clone + 'static,
    ) -> TableSink<D> {
        text(table, &self.store, move |record| format!("= {}", row(record).escape_default()))()
    }
}

/// What the tables of a run show, by table and text: the weight, 1 in a union.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables(BTreeMap<&'static str, BTreeMap<String, i64>>);

impl Tables {
    /// The rows of a table with their weights, by text; none of a table that nothing was written to.
    #[must_use]
    pub fn rows(&self, table: &str) -> BTreeMap<String, i64> {
        self.0.get(table).cloned().unwrap_or_default()
    }

    /// The first row that differs.
    fn difference(&self, other: &Tables) -> Option<String> {
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
    /// What each epoch wrote, sorted, by table and epoch.
    pub written: BTreeMap<&'static str, BTreeMap<Epoch, Vec<String>>>,
    /// The counters.
    pub counts: BTreeMap<String, u64>,
    /// How often it was started.
    pub starts: u32,
}

/// What a simulated run has to agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Oracle {
    /// The same pipeline over everything at once.
    Batch,
    /// The same pipeline over the same epochs, on one worker, never disturbed.
    Undisturbed,
}

/// How a pipeline is disturbed, and how often.
///
/// ```
/// use tidemill_dataflow::flow::Flow;
/// use tidemill_dataflow::testing::{Ends, Script, Simulation};
/// use tidemill_dataflow::time::{EventTime, seconds};
/// use tidemill_dataflow::watermark::Watermarks;
///
/// let pipeline = |flow: &Flow<'_>, ends: &Ends<String>| {
///     flow.source("words", ends.source())
///         .event_time(|(time, _)| *time, |_| None, Watermarks::out_of_order(seconds(5)))
///         .sink("words_table", ends.sums("words", |(_, word): &(EventTime, String)| (word.clone(), 1)));
/// };
/// let word = |time, word: &str| (EventTime(time), word.to_owned());
/// let script = Script::new()
///     .partition([vec![word(1_000, "a"), word(2_000, "b")], vec![word(3_000, "a")]])
///     .partition([vec![word(1_500, "c")]]);
/// let simulation = Simulation::new(["words"]).seeds(0..4).crashes(2).disorder(seconds(5));
/// simulation.agrees_with_a_batch(&script, pipeline);
/// assert_eq!(simulation.batch(&script, pipeline).tables.rows("words")["a"], 2);
/// ```
#[derive(Clone, Debug)]
pub struct Simulation {
    tables: Vec<&'static str>,
    seeds: Range<u64>,
    crashes: u64,
    workers: u64,
    disorder: Duration,
    drain: bool,
}

impl Simulation {
    /// Of a pipeline that writes these tables: 8 seeds, at most 3 crashes, 1 to 4 workers, no disorder.
    #[must_use]
    pub fn new(tables: impl IntoIterator<Item = &'static str>) -> Self {
        let tables = tables.into_iter().collect();
        Simulation { tables, seeds: 0..8, crashes: 3, workers: 4, disorder: Duration::ZERO, drain: false }
    }

    /// Runs these seeds. `TIDEMILL_SEED=n` in the environment runs that one instead.
    #[must_use]
    pub fn seeds(self, seeds: Range<u64>) -> Self {
        Simulation { seeds, ..self }
    }

    /// Crashes at most this often before a run may finish.
    #[must_use]
    pub fn crashes(self, crashes: u64) -> Self {
        Simulation { crashes, ..self }
    }

    /// Starts on 1 to this many workers, drawn anew at each start.
    #[must_use]
    pub fn workers(self, most: u32) -> Self {
        Simulation { workers: u64::from(most.max(1)), ..self }
    }

    /// Reorders the records of a partition by at most this much event time, and cuts its steps anew.
    #[must_use]
    pub fn disorder(self, disorder: Duration) -> Self {
        Simulation { disorder, ..self }
    }

    /// Declares the end of the script the end of time.
    #[must_use]
    pub fn drained(self) -> Self {
        Simulation { drain: true, ..self }
    }

    /// Checks that the tables are those of the same pipeline over everything at once. For pipelines whose results do not
    /// depend on where epochs are cut: whatever corrects late records.
    ///
    /// # Panics
    /// If they are not; the message has the seed.
    pub fn agrees_with_a_batch<R, P>(&self, script: &Script<R>, pipeline: P)
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        self.check(Oracle::Batch, script, &pipeline);
    }

    /// Checks that each epoch writes what it writes on one worker that is never disturbed: for everything else, and stronger
    /// where both hold.
    ///
    /// # Panics
    /// If one does not; the message has the seed.
    pub fn repeats_itself<R, P>(&self, script: &Script<R>, pipeline: P)
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        self.check(Oracle::Undisturbed, script, &pipeline);
    }

    /// The pipeline over everything at once: one epoch, one worker, records in the order of their event times.
    ///
    /// # Panics
    /// If the run fails.
    pub fn batch<R, P>(&self, script: &Script<R>, pipeline: P) -> Outcome
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        self.undisturbed(&script.as_batch(), &pipeline)
    }

    /// The pipeline over the script as it stands, disturbed as `seed` says.
    ///
    /// # Panics
    /// If it fails by anything but the crashes that were staged.
    pub fn run<R, P>(&self, seed: u64, script: &Script<R>, pipeline: P) -> Outcome
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        self.disturbed(&mut Draw::new(seed), script, &pipeline)
    }

    fn check<R, P>(&self, oracle: Oracle, script: &Script<R>, pipeline: &P)
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        let one = env::var(SEED).ok().map(|seed| seed.parse().unwrap_or_else(|_| panic!("{SEED}={seed} is no number")));
        for seed in one.map_or(self.seeds.clone(), |seed: u64| seed..seed + 1) {
            let mut draw = Draw::new(seed);
            let script =
                if self.disorder.is_zero() { script.clone() } else { script.reordered(self.disorder, &mut draw) };
            let found = self.disturbed(&mut draw, &script, pipeline);
            let difference = match oracle {
                Oracle::Batch => self.undisturbed(&script.as_batch(), pipeline).tables.difference(&found.tables),
                Oracle::Undisturbed => {
                    let expected = self.undisturbed(&script, pipeline);
                    let differs = expected.tables.difference(&found.tables);
                    differs.or_else(|| different_epoch(&expected, &found)).or_else(|| {
                        let same = expected.counts == found.counts;
                        (!same).then(|| format!("counters {:?} instead of {:?}", found.counts, expected.counts))
                    })
                }
            };
            if let Some(difference) = difference {
                let test = std::thread::current().name().unwrap_or("").to_owned();
                panic!("{difference}, after {} starts; to repeat it: {SEED}={seed} cargo test {test}", found.starts);
            }
        }
    }

    fn undisturbed<R, P>(&self, script: &Script<R>, pipeline: &P) -> Outcome
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        let (store, script) = (memory(), ScriptSource(Arc::new(script.clone())));
        let report = self.start(&store, &script, pipeline, 1).unwrap_or_else(|error| panic!("the run failed: {error}"));
        self.outcome(&store, &report, 1)
    }

    fn disturbed<R, P>(&self, draw: &mut Draw, script: &Script<R>, pipeline: &P) -> Outcome
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        let (store, script) = (memory(), ScriptSource(Arc::new(script.clone())));
        let mut crashes = draw.below(self.crashes + 1);
        let mut starts = 0;
        loop {
            starts += 1;
            let workers = u32::try_from(1 + draw.below(self.workers)).expect("few workers are drawn");
            let staged = crashes > 0;
            let mortal = if staged { dying_at(&store, 1 + draw.below(CRASH_WITHIN)) } else { Arc::clone(&store) };
            match self.start(&mortal, &script, pipeline, workers) {
                Ok(report) => return self.outcome(&store, &report, starts),
                Err(_) if staged => crashes -= 1,
                Err(error) => panic!("start {starts}, on {workers} workers, failed: {error}"),
            }
        }
    }

    fn start<R, P>(
        &self,
        store: &Arc<dyn Store>,
        script: &ScriptSource<R>,
        pipeline: &P,
        workers: u32,
    ) -> Result<RunReport, RunError>
    where
        R: DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        let (ends, declare) = (Ends { script: script.clone(), store: Arc::clone(store) }, pipeline.clone());
        let build = move |flow: &Flow<'_>| declare(flow, &ends);
        // Every step is an epoch, and every epoch may be a checkpoint.
        let every = Duration::from_millis(1);
        let options = RunOptions {
            workers,
            epoch_bytes: SLIVER,
            checkpoint_every: every,
            drain: self.drain,
            ..RunOptions::default()
        };
        run(build, &options, context(store), &StopHandle::default())
    }

    fn outcome(&self, store: &Arc<dyn Store>, report: &RunReport, starts: u32) -> Outcome {
        let mut outcome = Outcome {
            tables: Tables::default(),
            written: BTreeMap::new(),
            counts: report.state.counts().clone(),
            starts,
        };
        for &table in &self.tables {
            let written = by_epoch(store, table);
            let mut rows: BTreeMap<String, i64> = BTreeMap::new();
            for line in written.values().flatten() {
                let (weight, text) = line.split_once(' ').expect("a line of a simulated table begins with its weight");
                let shown = rows.entry(text.to_owned()).or_default();
                match weight.parse::<i64>() {
                    Ok(weight) => *shown += weight,
                    Err(_) => *shown = 1,
                }
            }
            rows.retain(|_, weight| *weight != 0);
            outcome.tables.0.insert(table, rows);
            outcome.written.insert(table, written);
        }
        outcome
    }
}

/// The first epoch whose rows differ.
fn different_epoch(expected: &Outcome, found: &Outcome) -> Option<String> {
    expected.written.iter().find_map(|(table, epochs)| {
        let others = &found.written[table];
        let epoch = epochs.keys().chain(others.keys()).find(|epoch| epochs.get(epoch) != others.get(epoch))?;
        let rows = |of: &BTreeMap<Epoch, Vec<String>>| of.get(epoch).cloned().unwrap_or_default();
        Some(format!("table {table}, epoch {epoch}: {:?} instead of {:?}", rows(others), rows(epochs)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{EventTime, seconds};
    use crate::watermark::Watermarks;

    fn words(epochs: usize) -> Script<String> {
        let step = |n: usize| (0..3).map(move |i| (EventTime((n * 1_000 + i) as i64), format!("w{}", (n + i) % 5)));
        Script::new().partition((0..epochs).map(step)).partition((0..epochs / 2).map(step))
    }

    fn counting(flow: &Flow<'_>, ends: &Ends<String>) {
        flow.source("words", ends.source())
            .event_time(|(time, _)| *time, |_| None, Watermarks::out_of_order(seconds(5)))
            .sink("words_table", ends.sums("words", |(_, word): &(EventTime, String)| (word.clone(), 1)));
    }

    #[test]
    fn each_step_is_an_epoch_of_its_own() {
        let outcome = Simulation::new(["words"]).crashes(0).run(1, &words(4), counting);
        assert_eq!(outcome.written["words"].len(), 6);
        assert_eq!(outcome.tables.rows("words").values().sum::<i64>(), 18);
    }

    #[test]
    fn crashes_restarts_and_other_workers_change_nothing() {
        let simulation = Simulation::new(["words"]).seeds(0..12);
        simulation.repeats_itself(&words(9), counting);
        simulation.disorder(seconds(3)).agrees_with_a_batch(&words(9), counting);
        let starts = (0..12).map(|seed| Simulation::new(["words"]).run(seed, &words(9), counting).starts);
        assert!(starts.max() > Some(1), "no seed crashed");
    }

    #[test]
    #[should_panic(expected = "to repeat it: TIDEMILL_SEED=")]
    fn a_pipeline_that_depends_on_its_epochs_is_told_with_the_seed() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let batches = Arc::new(AtomicU64::new(0));
        let pipeline = move |flow: &Flow<'_>, ends: &Ends<String>| {
            let batches = Arc::clone(&batches);
            flow.source("words", ends.source())
                .event_time(|(time, _)| *time, |_| None, Watermarks::out_of_order(seconds(5)))
                .map(move |_| batches.fetch_add(1, Ordering::Relaxed))
                .sink("words_table", ends.sums("words", |n: &u64| (n.to_string(), 1)));
        };
        Simulation::new(["words"]).seeds(0..20).repeats_itself(&words(9), pipeline);
    }
}

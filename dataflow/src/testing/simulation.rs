//! [`Simulation`]: a whole pipeline in this process, crashed, started again, on other numbers of workers and processes, in
//! other orders; and the oracle that its tables are compared with, the same pipeline run as a batch.
//!
//! Everything that is drawn comes from one seed: where the store fails, how many workers a start has, how records are
//! reordered. A simulation that fails prints the line that draws the same again. How threads take turns is not drawn, so
//! what fails seldom with one seed may take several runs to fail again.

use std::any::Any;
use std::env;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_log::{FOLDER, History, Store, with_causes};

use super::capture::{Declared, Ends, Outcome};
use super::draw::Draw;
use super::script::{Live, Script, ScriptSource};
use super::{context, dying_at, in_processes, memory};
use crate::cut::SLIVER;
use crate::flow::Flow;
use crate::runtime::{RunError, RunOptions, RunReport, StopHandle, repeat, run};

/// The variable that names the one seed to run.
pub const SEED: &str = "TIDEMILL_SEED";

/// About how many operations of the store a start takes, and each epoch: crashes come as early as the first one, and as late
/// as the last.
const OF_A_START: u64 = 12;
const OF_AN_EPOCH: u64 = 6;

/// What a simulated run has to agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Oracle {
    /// The same pipeline over everything at once.
    Batch,
    /// The same pipeline over the same epochs, on one worker, never disturbed; of a live script in the cuts that were recorded.
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
/// let simulation = Simulation::new().seeds(0..4).crashes(2).disorder(seconds(5));
/// simulation.agrees_with_a_batch(&script, pipeline);
/// assert_eq!(simulation.batch(&script, pipeline).tables.rows("words")["a"], 2);
/// ```
#[derive(Clone, Debug)]
pub struct Simulation {
    seeds: Range<u64>,
    crashes: u64,
    workers: u64,
    processes: u64,
    disorder: Duration,
    drain: bool,
    live: Option<Duration>,
}

impl Default for Simulation {
    fn default() -> Self {
        let (seeds, disorder) = (0..8, Duration::ZERO);
        Simulation { seeds, crashes: 3, workers: 4, processes: 1, disorder, drain: false, live: None }
    }
}

impl Simulation {
    /// 8 seeds, at most 3 crashes, 1 to 4 workers in one process, no disorder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs these seeds. `TIDEMILL_SEED=n` in the environment runs that one instead.
    #[must_use]
    pub fn seeds(self, seeds: Range<u64>) -> Self {
        Simulation { seeds, ..self }
    }

    /// Crashes at most this often before a run may finish: the store fails from some operation on, as when a machine loses
    /// power, and the pipeline is started again on what the store holds.
    #[must_use]
    pub fn crashes(self, crashes: u64) -> Self {
        Simulation { crashes, ..self }
    }

    /// Starts on 1 to this many workers, drawn anew at each start.
    #[must_use]
    pub fn workers(self, most: u32) -> Self {
        Simulation { workers: u64::from(most.max(1)), ..self }
    }

    /// Starts as 1 to this many processes, drawn anew at each start: threads that talk over sockets of this machine, each
    /// with its workers. It takes longer, and shows that records survive the way between processes.
    #[must_use]
    pub fn processes(self, most: u32) -> Self {
        Simulation { processes: u64::from(most.max(1)), ..self }
    }

    /// Reorders the records of a partition by at most this much event time, and cuts its steps anew.
    #[must_use]
    pub fn disorder(self, disorder: Duration) -> Self {
        Simulation { disorder, ..self }
    }

    /// Declares the end of the script the end of time: every window closes, every timer fires.
    #[must_use]
    pub fn drained(self) -> Self {
        Simulation { drain: true, ..self }
    }

    /// Reads the script as a source that never ends, until nothing came for the time `settled`, on the machine's clock: epochs
    /// are cut by that clock, and a partition that is at its end for the `idle_after` of the pipeline's watermarks is waited
    /// for no longer, so `settled` must be longer than that. Some starts end with a stop in order instead of a crash.
    /// A partition has a lull after each of its steps. Nothing declares the end of time, so [`drained`](Self::drained) has no place here.
    #[must_use]
    pub fn live(self, settled: Duration) -> Self {
        Simulation { live: Some(settled), ..self }
    }

    /// Checks that the tables are those of the same pipeline over everything at once. For pipelines whose results do not
    /// depend on where epochs are cut: whatever corrects late records. Everything at once is one partition, whose watermark
    /// ends behind its latest record; that of several partitions ends behind the slowest of them. Where rows wait for the
    /// watermark (`once_closed`, timers), say [`drained`](Self::drained): then both end with time itself.
    ///
    /// # Panics
    /// If they are not, or if a run fails; the message has the line that repeats it. And if no run wrote a row.
    pub fn agrees_with_a_batch<R, P>(&self, script: &Script<R>, pipeline: P)
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        self.check(Oracle::Batch, script, &pipeline);
    }

    /// Checks that each epoch writes what it writes on one worker that is never disturbed, and counts what it counts: for
    /// everything else, and stronger where both hold. A [live](Self::live) script is read once more in the cuts that the run
    /// recorded, as `replay --bindings` does: late records and all, it has to come out the same.
    ///
    /// # Panics
    /// If one does not, or if a run fails; the message has the line that repeats it. And if no run wrote a row.
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
        self.undisturbed(&script.as_batch(), &pipeline).unwrap_or_else(|problem| panic!("{problem}"))
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
        let run = self.disturbed(&mut Draw::new(seed), script, &pipeline);
        run.unwrap_or_else(|problem| panic!("seed {seed}: {problem}")).0
    }

    fn check<R, P>(&self, oracle: Oracle, script: &Script<R>, pipeline: &P)
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        let one = env::var(SEED).ok().map(|seed| seed.parse().unwrap_or_else(|_| panic!("{SEED}={seed} is no number")));
        let mut rows = 0;
        for seed in one.map_or(self.seeds.clone(), |seed: u64| seed..seed + 1) {
            // Whatever goes wrong, the author's own assertions included, is told with its seed.
            let compared = catch_unwind(AssertUnwindSafe(|| self.compare(oracle, seed, script, pipeline)));
            match compared.unwrap_or_else(|panic| Err(told(&*panic))) {
                Ok(written) => rows += written,
                Err(problem) => panic!("{problem}; to repeat it: {}", line_that_repeats(seed)),
            }
        }
        assert!(rows > 0, "no run wrote a row, so nothing was compared: does the script reach the pipeline's sinks?");
    }

    /// Compares the run of a seed with its oracle; gives how many rows that wrote.
    fn compare<R, P>(&self, oracle: Oracle, seed: u64, script: &Script<R>, pipeline: &P) -> Result<usize, String>
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        let mut draw = Draw::new(seed);
        let script = if self.disorder.is_zero() { script.clone() } else { script.reordered(self.disorder, &mut draw) };
        let (found, store) = self.disturbed(&mut draw, &script, pipeline)?;
        let (expected, differs) = match oracle {
            Oracle::Batch => {
                let batch = self.undisturbed(&script.as_batch(), pipeline)?;
                let differs = batch.tables.difference(&found.tables);
                (batch, differs)
            }
            Oracle::Undisturbed => {
                let straight = match self.live {
                    None => self.undisturbed(&script, pipeline)?,
                    Some(settled) => self.repeated(&script, &store, settled, pipeline)?,
                };
                let differs = straight.difference(&found);
                (straight, differs)
            }
        };
        differs.map_or(Ok(expected.rows()), |differs| Err(format!("{differs}, after {} starts", found.starts)))
    }

    fn undisturbed<R, P>(&self, script: &Script<R>, pipeline: &P) -> Result<Outcome, String>
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        let (store, declared, stop) = (memory(), Declared::default(), StopHandle::default());
        let script = ScriptSource { script: Arc::new(script.clone()), live: None };
        let ends = Ends { script, store: Arc::clone(&store), declared: declared.clone() };
        let report = self.start(ends, &store, pipeline, (1, 1, false), &stop);
        let report = report.map_err(|error| format!("the undisturbed run failed: {}", with_causes(&error)))?;
        Outcome::read(&store, &declared, &report, 1)
    }

    /// Reads a script again in the cuts of a live run.
    fn repeated<R, P>(
        &self,
        script: &Script<R>,
        run: &Arc<dyn Store>,
        settled: Duration,
        pipeline: &P,
    ) -> Result<Outcome, String>
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        let (store, declared, stop) = (memory(), Declared::default(), StopHandle::default());
        let live = Live { settled, steps: 0, stop: stop.clone() };
        let script = ScriptSource { script: Arc::new(script.clone()), live: Some(live) };
        let ends = Ends { script, store: Arc::clone(&store), declared: declared.clone() };
        let declare = pipeline.clone();
        let build = move |flow: &Flow<'_>| declare(flow, &ends);
        let cuts = History::open(Arc::clone(run), FOLDER).map_err(|error| with_causes(&error))?;
        let cuts = cuts.ok_or("the live run committed nothing")?;
        let report = repeat(build, &self.options(1), context(&store), cuts, &stop);
        let report = report.map_err(|error| format!("the run in recorded cuts failed: {}", with_causes(&error)))?;
        Outcome::read(&store, &declared, &report, 1)
    }

    /// Gives what came of it, and where it wrote.
    fn disturbed<R, P>(
        &self,
        draw: &mut Draw,
        script: &Script<R>,
        pipeline: &P,
    ) -> Result<(Outcome, Arc<dyn Store>), String>
    where
        R: Serialize + DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        let (store, declared, script) = (memory(), Declared::default(), Arc::new(script.clone()));
        let reach = OF_A_START + OF_AN_EPOCH * script.steps();
        let few = |drawn: u64| u32::try_from(1 + drawn).expect("few workers are drawn");
        let mut left = draw.below(self.crashes + 1);
        let mut starts = 0;
        loop {
            starts += 1;
            let (processes, workers) = (few(draw.below(self.processes)), few(draw.below(self.workers)));
            let stops = left > 0 && self.live.is_some() && draw.below(2) == 0;
            let crashes = left > 0 && !stops;
            let mortal = if crashes { dying_at(&store, 1 + draw.below(reach)) } else { Arc::clone(&store) };
            let steps = if stops { draw.below(script.steps() + 1) } else { u64::MAX };
            let stop = StopHandle::default();
            let live = self.live.map(|settled| Live { settled, steps, stop: stop.clone() });
            let source = ScriptSource { script: Arc::clone(&script), live };
            let ends = Ends { script: source, store: Arc::clone(&mortal), declared: declared.clone() };
            match self.start(ends, &mortal, pipeline, (processes, workers, crashes), &stop) {
                Ok(report) if !stops => {
                    return Ok((Outcome::read(&store, &declared, &report, starts)?, store));
                }
                Err(error) if !crashes => {
                    let problem = with_causes(&error);
                    return Err(format!("start {starts}, as {processes} x {workers} workers, failed: {problem}"));
                }
                Ok(_) | Err(_) => left -= 1,
            }
        }
    }

    fn start<R, P>(
        &self,
        ends: Ends<R>,
        store: &Arc<dyn Store>,
        pipeline: &P,
        (processes, workers, crashes): (u32, u32, bool),
        stop: &StopHandle,
    ) -> Result<RunReport, RunError>
    where
        R: DeserializeOwned + Send + Sync + 'static,
        P: Fn(&Flow<'_>, &Ends<R>) + Clone + Send + Sync + 'static,
    {
        let (ends, declare) = (Arc::new(ends), pipeline.clone());
        let build = move |flow: &Flow<'_>| declare(flow, &ends);
        let options = self.options(workers);
        if processes == 1 {
            return run(build, &options, context(store), stop);
        }
        // A follower that fails by a staged crash fails the run, or came too late to.
        // Whoever was to crash may not come: nobody waits long for it, and a start that fails for that has failed as staged.
        let patience = Duration::from_secs(if crashes { 2 } else { 60 });
        in_processes(&build, &options, store, (processes, patience), stop).0
    }

    /// Every step is an epoch, and every epoch may be a checkpoint.
    fn options(&self, workers: u32) -> RunOptions {
        RunOptions {
            workers,
            epoch_bytes: SLIVER,
            epoch_every: Duration::ZERO,
            checkpoint_every: Duration::from_millis(1),
            drain: self.drain && self.live.is_none(),
            ..RunOptions::default()
        }
    }
}

/// What a panic said.
fn told(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a panic: {}", text.unwrap_or("without a text"))
}

fn line_that_repeats(seed: u64) -> String {
    match std::thread::current().name() {
        Some(test) if test != "main" => format!("{SEED}={seed} cargo test {test}"),
        _ => format!("{SEED}={seed} cargo test"),
    }
}

#[cfg(test)]
mod tests;

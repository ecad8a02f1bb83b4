//! A source that never ends: cut by the clock and by how data came, so no two runs cut alike; the totals are the same.

use super::*;

/// The partitions of [`Lines`] as they would grow: handed out in pieces of odd sizes, with lulls. Asks the run to stop
/// when all was handed out and committed work had a chance to be done.
#[derive(Clone)]
pub(super) struct Growing {
    pub(super) lines: Lines,
    pub(super) seed: u64,
    pub(super) stop: StopHandle,
}

struct GrowingReader {
    inner: Box<dyn BlockReader>,
    sizes: Vec<usize>,
    dice: u64,
    stop: StopHandle,
}

impl Source for Growing {
    type Decoder = LineDecoder<Record>;
    fn decoder(&self) -> LineDecoder<Record> {
        self.lines.decoder()
    }
    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        let sizes = self.lines.partitions.iter().map(Vec::len).collect();
        let (inner, stop) = (self.lines.open(recorded)?, self.stop.clone());
        Ok(Box::new(GrowingReader { inner, sizes, dice: self.seed | 1, stop }))
    }
}

impl GrowingReader {
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.dice >> 40
    }

    fn at_end(&self, partition: u32) -> bool {
        self.inner.position(partition).offset == self.sizes[partition as usize] as u64
    }
}

impl BlockReader for GrowingReader {
    fn partitions(&self) -> Vec<PartitionInfo> {
        self.inner.partitions()
    }
    fn bounded(&self) -> bool {
        false
    }
    fn head(&mut self, _: u32) -> Result<Option<EventTime>, SourceError> {
        Ok(None)
    }
    fn read(&mut self, partition: u32, limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        let roll = self.roll();
        if until.is_some() {
            return self.inner.read(partition, limit, until);
        }
        if self.at_end(partition) || roll.is_multiple_of(4) {
            return Ok(None);
        }
        self.inner.read(partition, limit.min(1 + usize::try_from(roll % 20_000).unwrap()), None)
    }
    fn wait(&mut self, _: Duration) -> Result<(), SourceError> {
        if (0..self.sizes.len()).all(|partition| self.at_end(u32::try_from(partition).unwrap())) {
            self.stop.stop();
        }
        Ok(())
    }
    fn position(&self, partition: u32) -> Position {
        Position { finished: false, caught_up: self.at_end(partition), ..self.inner.position(partition) }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "each attempt has a store of its own")]
pub(super) fn attempt_live(
    lines: &Lines,
    store: Arc<dyn Store>,
    workers: u32,
    seed: u64,
) -> Result<RunReport, RunError> {
    let stop = StopHandle::default();
    let source = Growing { lines: lines.clone(), seed, stop: stop.clone() };
    let options = RunOptions { epoch_every: Duration::ZERO, ..options(workers) };
    run(pipeline(&source, &store), &options, context(&store), &stop)
}

#[test]
fn a_live_source_gives_the_table_of_its_content_however_it_was_cut() {
    let lines = sample();
    for (workers, seed) in [(1, 1), (2, 2), (4, 3)] {
        let store = memory();
        let report = attempt_live(&lines, Arc::clone(&store), workers, seed).unwrap();
        assert!(!report.finished && report.epochs > 3, "{report:?}");
        assert_eq!(visible(&store), oracle(&lines), "{workers} workers, seed {seed}");
        assert_eq!(report.state.committed(), report.state.bound(), "a stopped run commits all it bound");
    }
}

#[test]
fn a_live_source_stopped_and_started_again_goes_on_where_it_was() {
    let (all, store) = (sample(), memory());
    let half =
        of_partitions(all.partitions.iter().map(|p| p[..40 * (p.len() / 2 / 40)].to_vec()).map(whole_lines).collect());
    attempt_live(&half, Arc::clone(&store), 2, 5).unwrap();
    assert_eq!(visible(&store), oracle(&half));
    attempt_live(&all, Arc::clone(&store), 3, 6).unwrap();
    assert_eq!(visible(&store), oracle(&all));
}

fn whole_lines(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
    bytes
}

#[test]
fn a_crash_at_any_step_of_a_live_run_is_replayed_in_the_recorded_cuts() {
    let lines = sample();
    for step in (1..=260).step_by(4) {
        let store = memory();
        // However it ends: a stop may come before the step.
        let _ = attempt_live(&lines, dying_at(&store, step), 1 + (step % 3) as u32, step);
        let again = attempt_live(&lines, Arc::clone(&store), 1 + (step / 3 % 3) as u32, step + 1);
        again.unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert_eq!(visible(&store), oracle(&lines), "crash at step {step}");
    }
}

//! [`Script`]: the input of a simulated run, partition by partition, cut into steps that become epochs; as a source that
//! ends, or as one that does not.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_log::PartitionBinding;

use super::LineDecoder;
use super::draw::Draw;
use crate::cut::SLIVER;
use crate::hash::hash64;
use crate::runtime::StopHandle;
use crate::source::{Block, BlockReader, PartitionInfo, Position, Source, SourceError};
use crate::time::{EventTime, millis};

/// A record as it is kept: its event time, and its JSON.
type Kept = (EventTime, String);

/// Partitions of records with event times, each cut into steps. A step is read in an epoch of its own, so a script says
/// what a rule sees together and what it sees later; the watermark follows from the pipeline's own rule, over the
/// partitions that have not ended.
///
/// A script vouches for its times, so each moves the watermark as if a server's clock had given it: a single record is
/// enough. [`unvouched`](Script::unvouched) takes that back, to see what clocks that may be wrong do.
///
/// A record is whatever serde can write as JSON and read back; its event time is said beside it, so a pipeline's records
/// are pairs of the two, or the [records alone](super::Ends::records). A script ends, and its last watermark is that of its last records, unless a simulation
/// [drains](super::Simulation::drained) it or reads it [live](super::Simulation::live).
pub struct Script<R> {
    partitions: Vec<Vec<Vec<Kept>>>,
    unvouched: bool,
    records: PhantomData<fn() -> R>,
}

impl<R> Clone for Script<R> {
    fn clone(&self) -> Self {
        Script { partitions: self.partitions.clone(), unvouched: self.unvouched, records: PhantomData }
    }
}

impl<R> Default for Script<R> {
    fn default() -> Self {
        Script { partitions: Vec::new(), unvouched: false, records: PhantomData }
    }
}

impl<R: Serialize + DeserializeOwned> Script<R> {
    /// Without any partition.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more partition, of these steps.
    ///
    /// # Panics
    /// If a record cannot be written as JSON.
    #[must_use]
    pub fn partition<S, I>(mut self, steps: S) -> Self
    where
        S: IntoIterator<Item = I>,
        I: IntoIterator<Item = (EventTime, R)>,
    {
        let keep = |(time, record): (EventTime, R)| {
            (time, serde_json::to_string(&record).expect("a record of a script can be written as JSON"))
        };
        let steps = steps.into_iter().map(|step| step.into_iter().map(keep).collect()).collect();
        self.partitions.push(steps);
        self
    }

    /// With times that nobody vouches for, as of devices: they count as the engine's rule for such times says, the first ones
    /// once 256 are there, or none follow.
    #[must_use]
    pub fn unvouched(self) -> Self {
        Script { unvouched: true, ..self }
    }

    /// How many records it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.partitions.iter().flatten().map(Vec::len).sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many steps its partitions have.
    pub(super) fn steps(&self) -> u64 {
        self.partitions.iter().map(|steps| steps.len() as u64).sum()
    }

    /// Everything at once: all records in one step, ordered by event time. What a batch job would read.
    pub(super) fn as_batch(&self) -> Self {
        let mut all: Vec<Kept> = self.partitions.iter().flatten().flatten().cloned().collect();
        all.sort();
        Script { partitions: vec![vec![all]], ..self.clone() }
    }

    /// The same records in another order and other steps: each moved by at most `disorder` of event time against the others
    /// of its partition, cut anew at random.
    pub(super) fn reordered(&self, disorder: Duration, draw: &mut Draw) -> Self {
        let span = millis(disorder).max(0).cast_unsigned();
        let mut reorder = |steps: &Vec<Vec<Kept>>| {
            let mut moved: Vec<(i64, Kept)> = steps
                .iter()
                .flatten()
                .map(|kept| (kept.0.0.saturating_add(draw.below(span + 1).cast_signed()), kept.clone()))
                .collect();
            moved.sort();
            let mut cut: Vec<Vec<Kept>> = vec![Vec::new()];
            for (_, kept) in moved {
                if draw.below(4) == 0 {
                    cut.push(Vec::new());
                }
                cut.last_mut().expect("there is a step from the beginning").push(kept);
            }
            cut
        };
        Script { partitions: self.partitions.iter().map(&mut reorder).collect(), ..self.clone() }
    }
}

/// How a script is read that does not end.
#[derive(Clone)]
pub(super) struct Live {
    /// For how long nothing comes before the run is asked to stop.
    pub(super) settled: Duration,
    /// How many steps are handed out before that, at most.
    pub(super) steps: u64,
    /// What asks it.
    pub(super) stop: StopHandle,
}

/// A [`Script`] as a source.
pub struct ScriptSource<R> {
    pub(super) script: Arc<Script<R>>,
    pub(super) live: Option<Live>,
}

impl<R> Clone for ScriptSource<R> {
    fn clone(&self) -> Self {
        ScriptSource { script: Arc::clone(&self.script), live: self.live.clone() }
    }
}

impl<R: DeserializeOwned + Send + Sync + 'static> Source for ScriptSource<R> {
    type Decoder = LineDecoder<(EventTime, R)>;

    fn decoder(&self) -> Self::Decoder {
        LineDecoder(parse)
    }

    fn vouches(&self) -> bool {
        !self.script.unvouched
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        let mut at = vec![0; self.script.partitions.len()];
        for partition in recorded {
            at[partition.partition as usize] = position_of(partition.end);
        }
        let (script, live) = (Arc::clone(&self.script), self.live.clone());
        let rests = vec![false; at.len()];
        Ok(Box::new(ScriptReader { script, at, live, rests, handed_out: 0, silent: Duration::ZERO }))
    }
}

/// A [`Script`] as a source of its records alone.
pub struct RecordSource<R>(pub(super) ScriptSource<R>);

impl<R: DeserializeOwned + Send + Sync + 'static> Source for RecordSource<R> {
    type Decoder = LineDecoder<R>;

    fn decoder(&self) -> Self::Decoder {
        LineDecoder(|line| parse(line).map(|(_, record)| record))
    }

    fn vouches(&self) -> bool {
        self.0.vouches()
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        self.0.open(recorded)
    }
}

fn parse<R: DeserializeOwned>(line: &str) -> Option<(EventTime, R)> {
    let (time, json) = line.split_once(' ')?;
    Some((EventTime(time.parse().ok()?), serde_json::from_str(json).ok()?))
}

/// Reads a script, one step at a time; offsets count steps.
struct ScriptReader<R> {
    script: Arc<Script<R>>,
    at: Vec<usize>,
    live: Option<Live>,
    /// Which partitions have nothing when they are asked next: of those that do not end, after every step.
    rests: Vec<bool>,
    /// Steps that were not asked for by a replay.
    handed_out: u64,
    /// For how long nothing was there.
    silent: Duration,
}

impl<R> ScriptReader<R> {
    fn steps(&self, partition: u32) -> &[Vec<Kept>] {
        &self.script.partitions[partition as usize]
    }

    fn lines_before(&self, partition: u32, step: usize) -> u64 {
        self.steps(partition)[..step].iter().map(|step| step.len() as u64).sum()
    }
}

impl<R> BlockReader for ScriptReader<R>
where
    R: DeserializeOwned + Send + Sync + 'static,
{
    fn partitions(&self) -> Vec<PartitionInfo> {
        let info = |(number, steps): (usize, &Vec<Vec<Kept>>)| PartitionInfo {
            name: format!("partition-{number}"),
            size: SLIVER * steps.len() as u64,
            detail: serde_json::Value::Null,
        };
        self.script.partitions.iter().enumerate().map(info).collect()
    }

    fn bounded(&self) -> bool {
        self.live.is_none()
    }

    fn wait(&mut self, at_most: Duration) -> Result<(), SourceError> {
        std::thread::park_timeout(at_most);
        self.silent += at_most;
        if let Some(live) =
            self.live.as_ref().filter(|live| self.silent >= live.settled || self.handed_out >= live.steps)
        {
            live.stop.stop();
        }
        Ok(())
    }

    fn head(&mut self, partition: u32) -> Result<Option<EventTime>, SourceError> {
        Ok(self.steps(partition).iter().flatten().map(|(time, _)| *time).next())
    }

    fn read(&mut self, partition: u32, _limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        let step = self.at[partition as usize];
        let end = until.map_or(self.steps(partition).len(), position_of);
        if step >= end {
            return Ok(None);
        }
        if let Some(live) = self.live.as_ref().filter(|_| until.is_none()) {
            let rests = &mut self.rests[partition as usize];
            *rests = !*rests;
            if !*rests || self.handed_out >= live.steps {
                return Ok(None);
            }
            self.handed_out += 1;
        }
        self.silent = Duration::ZERO;
        let bytes = lines(&self.steps(partition)[step]);
        let first_line = self.lines_before(partition, step) + 1;
        self.at[partition as usize] += 1;
        // However short it is, a step takes the whole share of an epoch.
        Ok(Some(Block { partition, offset: step as u64, first_line, bytes, skipped: SLIVER }))
    }

    fn position(&self, partition: u32) -> Position {
        let (step, steps) = (self.at[partition as usize], self.steps(partition));
        let read: Vec<u8> = steps[..step].iter().flat_map(|step| lines(step)).collect();
        Position {
            offset: step as u64,
            lines: self.lines_before(partition, step),
            digest: format!("{:x}", hash64(&read)),
            finished: step == steps.len() && self.live.is_none(),
            caught_up: step == steps.len() && self.live.is_some(),
        }
    }
}

fn lines(step: &[Kept]) -> Vec<u8> {
    step.iter().map(|(time, json)| format!("{} {json}\n", time.0)).collect::<String>().into_bytes()
}

fn position_of(offset: u64) -> usize {
    usize::try_from(offset).expect("a script has fewer steps than memory has bytes")
}

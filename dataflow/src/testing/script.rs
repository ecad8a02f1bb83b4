//! [`Script`]: the input of a simulated run, partition by partition, cut into steps that become epochs.

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
use crate::source::{Block, BlockReader, PartitionInfo, Position, Source, SourceError};
use crate::time::{EventTime, millis};

/// A record as it is kept: its event time, and its JSON.
type Kept = (EventTime, String);

/// Partitions of records with event times, each cut into steps. A step is read in an epoch of its own, so a script says
/// what a rule sees together and what it sees later; the watermark follows from the pipeline's own rule.
///
/// Like every source, a script ends: its last watermark is that of its last records.
pub struct Script<R> {
    partitions: Vec<Vec<Vec<Kept>>>,
    records: PhantomData<fn() -> R>,
}

impl<R> Clone for Script<R> {
    fn clone(&self) -> Self {
        Script { partitions: self.partitions.clone(), records: PhantomData }
    }
}

impl<R> Default for Script<R> {
    fn default() -> Self {
        Script { partitions: Vec::new(), records: PhantomData }
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

    /// Everything at once: all records in one step, ordered by event time. What a batch job would read.
    pub(super) fn as_batch(&self) -> Self {
        let mut all: Vec<Kept> = self.partitions.iter().flatten().flatten().cloned().collect();
        all.sort();
        Script { partitions: vec![vec![all]], records: PhantomData }
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
        Script { partitions: self.partitions.iter().map(&mut reorder).collect(), records: PhantomData }
    }
}

/// A [`Script`] as a source.
pub struct ScriptSource<R>(pub(super) Arc<Script<R>>);

impl<R> Clone for ScriptSource<R> {
    fn clone(&self) -> Self {
        ScriptSource(Arc::clone(&self.0))
    }
}

impl<R: DeserializeOwned + Send + Sync + 'static> Source for ScriptSource<R> {
    type Decoder = LineDecoder<(EventTime, R)>;

    fn decoder(&self) -> Self::Decoder {
        LineDecoder(parse)
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        let mut at = vec![0; self.0.partitions.len()];
        for partition in recorded {
            at[partition.partition as usize] = position_of(partition.end);
        }
        Ok(Box::new(ScriptReader { script: Arc::clone(&self.0), at }))
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

    fn head(&mut self, partition: u32) -> Result<Option<EventTime>, SourceError> {
        Ok(self.steps(partition).iter().flatten().map(|(time, _)| *time).next())
    }

    fn read(&mut self, partition: u32, _limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        let step = self.at[partition as usize];
        let end = until.map_or(self.steps(partition).len(), position_of);
        if step >= end {
            return Ok(None);
        }
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
            finished: step == steps.len(),
            caught_up: false,
        }
    }
}

fn lines(step: &[Kept]) -> Vec<u8> {
    step.iter().map(|(time, json)| format!("{} {json}\n", time.0)).collect::<String>().into_bytes()
}

fn position_of(offset: u64) -> usize {
    usize::try_from(offset).expect("a script has fewer steps than memory has bytes")
}

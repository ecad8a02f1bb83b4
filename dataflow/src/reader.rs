//! The reader thread: cuts epochs, in recorded cuts first, then its own (INV-2, INV-5, INV-8).
//!
//! A bounded source is cut by content alone; [`live`] cuts one that never ends by the clock.

mod live;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidemill_log::{Binding, History, PartitionBinding, PartitionStatus, with_causes};

use crate::bind::{EpochCut, PartitionCut};
use crate::cut::{Candidate, SLIVER, next_shares};
use crate::quarantine::{Parcel, Watch};
use crate::queue::BlockQueue;
use crate::shared::Shared;
use crate::source::{BlockReader, PartitionInfo, Position, SourceError};
use crate::time::{Epoch, EventTime, Watermark};

/// The size that blocks are cut to: small enough to stay in a core's cache while it is decoded.
const BLOCK: usize = 256 * 1024;

/// How many bytes of memory one byte of input in flight costs: the text and the records made of it.
pub(crate) const MEMORY_PER_BYTE: u64 = 2;

#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderConfig {
    pub(crate) epoch_bytes: u64,
    /// Bytes of memory for what is read and not yet committed.
    pub(crate) memory_budget: u64,
    pub(crate) max_epochs_in_flight: u64,
    pub(crate) drain: bool,
    /// The length of a live epoch, unless it is full before.
    pub(crate) epoch_every: Duration,
    /// See [`Watermarks::idle_after`](crate::watermark::Watermarks::idle_after).
    pub(crate) idle_after: Duration,
}

/// How long the source is waited for before it is asked whether the run goes on at all.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often a source that never ends is asked what waits in it, whether or not any of that is read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

struct Partition {
    info: PartitionInfo,
    head: Watermark,
    finished: bool,
    /// Not bound yet in any run: the next cut introduces it.
    new: bool,
    idle: bool,
}

pub(crate) struct Reader {
    reader: Box<dyn BlockReader>,
    config: ReaderConfig,
    shared: Arc<Shared>,
    queue: Arc<BlockQueue>,
    partitions: Vec<Partition>,
    watch: Watch,
    /// Positions one epoch before the checkpoint, and as of it, for the first two epochs.
    start_positions: [Vec<Watermark>; 2],
    resume: Epoch,
    /// Bytes of each epoch in flight, oldest first.
    in_flight: Vec<(Epoch, u64)>,
}

/// Why the reader stopped early.
enum Halt {
    Failed(SourceError),
    /// Somebody else failed.
    Abandoned,
}

/// How a read ended.
enum Step {
    /// A block of so many bytes was passed on.
    Read(u64),
    /// The partition is at its end, or at the recorded one.
    End,
    /// The run was asked to stop while nothing came.
    Stopped,
}

impl From<SourceError> for Halt {
    fn from(error: SourceError) -> Self {
        Halt::Failed(error)
    }
}

impl Reader {
    /// Prepares reading from epoch `resume + 1`, with `known` partitions as of the checkpoint.
    ///
    /// # Errors
    /// If a partition that was never read cannot be looked at.
    pub(crate) fn new(
        reader: Box<dyn BlockReader>,
        config: ReaderConfig,
        (shared, queue): (Arc<Shared>, Arc<BlockQueue>),
        (resume, known, start_positions): (Epoch, usize, [Vec<Watermark>; 2]),
    ) -> Result<Self, SourceError> {
        let (partitions, watch, in_flight) = (Vec::new(), Watch::default(), Vec::new());
        let mut reader =
            Reader { reader, config, shared, queue, partitions, watch, start_positions, resume, in_flight };
        reader.take_in_partitions(known)?;
        Ok(reader)
    }

    /// The same, looking out for records that panic.
    pub(crate) fn watching(self, watch: Watch) -> Self {
        Reader { watch, ..self }
    }

    /// Takes in the partitions that the source lists behind those at hand; those from `known` on were never read.
    fn take_in_partitions(&mut self, known: usize) -> Result<(), SourceError> {
        for info in self.reader.partitions().into_iter().skip(self.partitions.len()) {
            self.shared.status.found_bytes(info.size);
            let number = self.partitions.len();
            let new = number >= known;
            let number = u32::try_from(number).map_err(|_| SourceError::Usage("too many partitions".into()))?;
            let head = if new { self.reader.head(number)? } else { None };
            self.partitions.push(Partition { info, head, finished: false, new, idle: false });
        }
        Ok(())
    }

    /// Replays `recorded`, then reads on until the end, a stop or a failure: as it comes, or in the cuts of another run.
    pub(crate) fn run(mut self, recorded: &[Binding], cuts: Option<History>) -> Result<(), SourceError> {
        match self.read_all(recorded, cuts) {
            Ok(()) => {
                self.queue.end();
                Ok(())
            }
            Err(Halt::Failed(error)) => {
                self.queue.abandon();
                Err(error)
            }
            Err(Halt::Abandoned) => {
                self.queue.abandon();
                Ok(())
            }
        }
    }

    fn read_all(&mut self, recorded: &[Binding], cuts: Option<History>) -> Result<(), Halt> {
        let mut epoch = self.resume;
        for binding in recorded {
            epoch += 1;
            let mut cut = EpochCut::new(epoch);
            cut.ended = binding.last;
            self.replay(binding, cut)?;
            if binding.watermark == Some(i64::MAX) {
                // The end of time was declared: nothing follows.
                return Ok(());
            }
        }
        if let Some(cuts) = cuts {
            return self.repeat(cuts.from(epoch + 1));
        }
        if self.reader.bounded() { self.read_bounded(epoch) } else { self.read_live(epoch) }
    }

    /// Reads on in the cuts of another run, through the last of them or until a stop.
    fn repeat(&mut self, cuts: History) -> Result<(), Halt> {
        let through = cuts.through();
        for binding in cuts {
            let binding = binding.map_err(|error| {
                let problem = with_causes(&error);
                Halt::Failed(SourceError::Changed { partition: "the recorded cuts".into(), problem })
            })?;
            let mut cut = EpochCut::new(binding.epoch);
            cut.repeats = Some(binding.watermark.map(EventTime));
            // The other run may have found the end of the input several times.
            cut.ended = binding.last && binding.epoch == through;
            cut.last = binding.epoch == through || self.shared.stopping();
            let last = cut.last;
            self.replay(&binding, cut)?;
            if last {
                break;
            }
        }
        Ok(())
    }

    /// Reads on from `epoch` by content alone, until the end or a stop.
    fn read_bounded(&mut self, mut epoch: Epoch) -> Result<(), Halt> {
        loop {
            epoch += 1;
            self.wait_for_room(epoch, |_| Ok(()))?;
            let stopping = self.shared.stopping();
            let mut cut = EpochCut::new(epoch);
            if !stopping {
                self.read_epoch(epoch, &mut cut)?;
            }
            self.introduce_new(&mut cut);
            let finished = self.partitions.iter().all(|p| p.finished);
            let drain_now = finished && self.config.drain && cut.partitions.is_empty() && !stopping;
            cut.drained = drain_now;
            cut.ended = finished && (!self.config.drain || drain_now) && !stopping;
            cut.last = cut.ended || stopping || self.shared.stopping();
            let last = cut.last;
            self.end_epoch(cut);
            if last {
                return Ok(());
            }
        }
    }

    /// INV-8: an epoch is begun only when it fits beside what is not committed yet. Does `meanwhile` now and then as long as
    /// it does not.
    fn wait_for_room(
        &mut self,
        epoch: Epoch,
        mut meanwhile: impl FnMut(&mut Reader) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        let (config, shared, mut waits) = (self.config, Arc::clone(&self.shared), false);
        loop {
            let in_flight = &mut self.in_flight;
            let room = |committed: Epoch| {
                in_flight.retain(|(old, _)| *old > committed);
                let bytes: u64 = in_flight.iter().map(|(_, bytes)| bytes).sum();
                let fits = (bytes + config.epoch_bytes).saturating_mul(MEMORY_PER_BYTE) <= config.memory_budget;
                let few = epoch.saturating_sub(committed) <= config.max_epochs_in_flight;
                let ready = few && (fits || in_flight.is_empty());
                if ready == waits {
                    waits = !ready;
                    shared.status.waits(waits.then_some(epoch));
                }
                ready
            };
            let ready = shared.wait_committed(LOOK_EVERY, room);
            if shared.failed() {
                return Err(Halt::Abandoned);
            }
            if ready {
                return Ok(());
            }
            meanwhile(self)?;
        }
    }

    /// Ends an epoch, for the workers and for those who watch.
    fn end_epoch(&self, cut: EpochCut) {
        self.shared.status.cut(cut.epoch);
        self.queue.push_cut(cut);
    }

    fn positions_for(&self, epoch: Epoch) -> Result<Vec<Watermark>, Halt> {
        // One partition left: there is nothing to choose, so nothing to wait for.
        let base = if epoch <= self.resume + 2 || self.partitions.iter().filter(|p| !p.finished).count() <= 1 {
            self.start_positions[usize::from(epoch == self.resume + 2)].clone()
        } else {
            self.shared.wait_positions(epoch - 2).ok_or(Halt::Abandoned)?
        };
        let with_head = |(number, p): (usize, &Partition)| base.get(number).copied().flatten().or(p.head);
        Ok(self.partitions.iter().enumerate().map(with_head).collect())
    }

    fn read_epoch(&mut self, epoch: Epoch, cut: &mut EpochCut) -> Result<(), Halt> {
        let positions = self.positions_for(epoch)?;
        let mut budget = self.config.epoch_bytes;
        let mut touched = vec![false; self.partitions.len()];
        loop {
            let mut candidates: Vec<Candidate> = (0_u32..)
                .zip(&self.partitions)
                .filter(|(number, p)| !p.finished && !touched[*number as usize])
                .map(|(number, _)| Candidate { partition: number, behind: positions[number as usize] })
                .collect();
            let shares = next_shares(&mut candidates, budget);
            if shares.is_empty() {
                break;
            }
            for (partition, share) in shares {
                touched[partition as usize] = true;
                let read = self.read_share(epoch, partition, share)?;
                budget = budget.saturating_sub(read);
                cut.partitions.push(self.cut_of(partition, share, None));
            }
        }
        cut.partitions.sort_by_key(|p| p.partition);
        self.in_flight.push((epoch, self.config.epoch_bytes.saturating_sub(budget)));
        Ok(())
    }

    /// Reads about `share` bytes of one partition; fewer only at its end, or when the run is asked to stop.
    fn read_share(&mut self, epoch: Epoch, partition: u32, share: u64) -> Result<u64, Halt> {
        let mut left = share;
        while left >= SLIVER || left == share {
            let limit = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            match self.pass_on(epoch, partition, limit, None)? {
                Step::Read(read) => left = left.saturating_sub(read),
                Step::End => {
                    self.partitions[partition as usize].finished = true;
                    break;
                }
                Step::Stopped => break,
            }
        }
        Ok(share - left)
    }

    /// Reads a block, waiting for it, and hands it to the workers.
    fn pass_on(&mut self, epoch: Epoch, partition: u32, limit: usize, until: Option<u64>) -> Result<Step, Halt> {
        loop {
            if let Some(read) = self.try_pass_on(epoch, partition, limit, until)? {
                return Ok(Step::Read(read));
            }
            let position = self.reader.position(partition);
            if position.finished || until.is_some_and(|until| position.offset >= until) {
                return Ok(Step::End);
            }
            if self.shared.failed() {
                return Err(Halt::Abandoned);
            }
            if self.shared.stopping() {
                return Ok(Step::Stopped);
            }
            self.reader.wait(PATIENCE)?;
        }
    }

    /// Hands over a block if one is there; gives its length.
    fn try_pass_on(
        &mut self,
        epoch: Epoch,
        partition: u32,
        limit: usize,
        until: Option<u64>,
    ) -> Result<Option<u64>, Halt> {
        let Some(block) = self.reader.read(partition, limit, until)? else { return Ok(None) };
        let read = block.bytes.len() as u64 + block.skipped;
        self.shared.status.read_bytes(read);
        let end = self.reader.position(partition).offset;
        let parcel = Parcel::new(block, epoch, (&self.partitions[partition as usize].info.name, end), &self.watch);
        if self.queue.push_block(epoch, parcel) { Ok(Some(read)) } else { Err(Halt::Abandoned) }
    }

    /// The partition as it stands; `live` is what the clock decided, in a live cut.
    fn cut_of(&mut self, number: u32, asked: u64, live: Option<Value>) -> PartitionCut {
        let position = self.reader.position(number);
        self.show_lag(number, &position);
        let learned = self.reader.detail(number);
        let partition = &mut self.partitions[number as usize];
        partition.finished |= position.finished;
        partition.new = false;
        if let Some(learned) = learned {
            partition.info.detail = learned;
        }
        let mut detail =
            json!({ "asked": asked, "head": partition.head.map(|t| t.0), "source": partition.info.detail });
        if let Some(live) = live {
            detail["live"] = live;
        }
        PartitionCut {
            partition: number,
            name: partition.info.name.clone(),
            detail: detail.to_string(),
            head: partition.head,
            end: position.offset,
            lines: position.lines,
            digest: position.digest,
            finished: partition.finished && (position.lines == 0 || self.reader.over_when_finished()),
            idle: partition.idle,
        }
    }

    fn show_lag(&self, number: u32, position: &Position) {
        let at_end = (position.caught_up || position.finished).then_some(0);
        self.shared.status.lag(number, self.reader.lag(number).or(at_end));
    }

    fn numbers(&self) -> Range<u32> {
        0..u32::try_from(self.partitions.len()).expect("counted when they were taken in")
    }

    /// A partition is introduced by the first cut after it was found, read or not: it holds the watermark back.
    fn introduce_new(&mut self, cut: &mut EpochCut) {
        for number in self.numbers() {
            if self.partitions[number as usize].new {
                let introduced = self.cut_of(number, 0, None);
                cut.partitions.push(introduced);
            }
        }
        cut.partitions.sort_by_key(|p| p.partition);
    }

    /// Reads an epoch in its recorded cut and compares what was read with what was recorded.
    fn replay(&mut self, binding: &Binding, mut cut: EpochCut) -> Result<(), Halt> {
        self.wait_for_room(binding.epoch, |_| Ok(()))?;
        cut.drained = binding.watermark == Some(i64::MAX);
        cut.last |= cut.drained;
        let mut bytes = 0;
        for recorded in &binding.partitions {
            bytes += self.replay_partition(binding.epoch, recorded)?;
            let live = recorded.detail.get("live");
            let partition = &mut self.partitions[recorded.partition as usize];
            partition.idle = recorded.status == PartitionStatus::Idle;
            let mut again = self.cut_of(recorded.partition, asked(recorded), live.cloned());
            // It was at its end then; whether more has been appended since is for the epochs after the replay.
            again.finished = recorded.status == PartitionStatus::Finished;
            if again.digest != recorded.digest || again.lines != recorded.lines {
                return Err(Halt::Failed(changed(recorded, "its content is not what was read before")));
            }
            if let Some(live) = live {
                cut.recorded.push((recorded.partition, recorded.watermark.map(EventTime)));
                cut.watermark = binding.watermark.map(EventTime);
                cut.silent_for = cut.silent_for.or(live.get("silent_for").and_then(Value::as_u64));
                cut.clock = cut.clock.or(live.get("clock").and_then(Value::as_i64).map(EventTime));
            }
            cut.partitions.push(again);
        }
        self.in_flight.push((binding.epoch, bytes));
        self.end_epoch(cut);
        Ok(())
    }

    /// Gives how many bytes the epoch took from the partition.
    fn replay_partition(&mut self, epoch: Epoch, recorded: &PartitionBinding) -> Result<u64, Halt> {
        let number = recorded.partition;
        if self.partitions[number as usize].new {
            // What stands at its head by now does not count; what was seen when it was introduced does.
            self.partitions[number as usize].head = recorded.detail.get("head").and_then(Value::as_i64).map(EventTime);
        }
        if let Some(detail) = recorded.detail.get("source") {
            self.reader.recall(number, recorded.end, detail);
        }
        let (mut left, mut bytes) = (asked(recorded), 0);
        while self.reader.position(number).offset < recorded.end {
            let limit = usize::try_from(left).unwrap_or(BLOCK).clamp(1, BLOCK);
            match self.pass_on(epoch, number, limit, Some(recorded.end))? {
                Step::Read(read) => (left, bytes) = (left.saturating_sub(read), bytes + read),
                // Without a block it may still have moved: over the newline of a line that ended without one before.
                Step::End if self.reader.position(number).offset >= recorded.end => break,
                Step::End => return Err(Halt::Failed(changed(recorded, "it is shorter than what was read before"))),
                Step::Stopped => {
                    return Err(Halt::Failed(SourceError::Interrupted { partition: recorded.name.clone() }));
                }
            }
        }
        // What follows a recorded end is decided anew: the partition may have grown.
        self.partitions[number as usize].finished = false;
        Ok(bytes)
    }
}

fn asked(recorded: &PartitionBinding) -> u64 {
    recorded.detail.get("asked").and_then(Value::as_u64).unwrap_or(u64::MAX)
}

fn changed(recorded: &PartitionBinding, problem: &str) -> SourceError {
    let problem = format!("{problem}; put the original back, or start a new folder");
    SourceError::Changed { partition: recorded.name.clone(), problem }
}

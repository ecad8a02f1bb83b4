//! All files together.
//!
//! Thousands of files may be given and lie side by side in time, so not all stay open: a plain file, and a packed one that
//! was only looked into, is closed when 64 others were used since. A packed file that is being read stays open to its
//! end, since it could only be opened again by unpacking all of what was read.

use tidemill_dataflow::source::{Block, BlockReader, PartitionInfo, Position, SourceError};
use tidemill_dataflow::time::EventTime;

use super::notice::Notice;
use super::partition::Partition;

/// How many files that can be closed stay open.
pub(super) const OPEN_FILES: usize = 64;

/// The reader of a [`FileSource`](super::FileSource).
pub(super) struct FileReader {
    partitions: Vec<Partition>,
    /// Partitions that were used, the last one last.
    used: Vec<u32>,
    notice: Notice,
}

impl FileReader {
    pub(super) fn new(partitions: Vec<Partition>, notice: Notice) -> FileReader {
        FileReader { partitions, used: Vec::new(), notice }
    }

    /// At the end of the input, says of which files a last line is left.
    fn say_torn(&self) {
        if !self.partitions.iter().all(Partition::is_finished) {
            return;
        }
        let torn: Vec<_> = self.partitions.iter().filter_map(Partition::left_torn).collect();
        match torn[..] {
            [] => {}
            [file] => self.notice.say(&format!(
                "{file}: its last line has no newline yet; it is left for the next run (--drain reads it)"
            )),
            [first, ..] => self.notice.say(&format!(
                "{first} and {} more files: their last lines have no newline yet; they are left for the next run (--drain \
                 reads them)",
                torn.len() - 1
            )),
        }
    }

    fn with<T>(
        &mut self,
        number: u32,
        use_it: impl FnOnce(&mut Partition) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let result = use_it(self.partition_mut(number))?;
        self.used.retain(|used| *used != number);
        self.used.push(number);
        if self.used.len() > OPEN_FILES {
            let oldest = self.used.remove(0);
            let partition = self.partition_mut(oldest);
            if partition.can_close() {
                partition.close();
            }
        }
        Ok(result)
    }

    fn partition_mut(&mut self, number: u32) -> &mut Partition {
        self.partitions.get_mut(number as usize).expect("partitions are numbered as this reader lists them")
    }
}

impl BlockReader for FileReader {
    fn partitions(&self) -> Vec<PartitionInfo> {
        self.partitions.iter().map(Partition::info).collect()
    }

    fn head(&mut self, partition: u32) -> Result<Option<EventTime>, SourceError> {
        self.with(partition, Partition::head)
    }

    fn read(&mut self, partition: u32, limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        let block = self.with(partition, |file| file.read(limit, until))?;
        if block.is_none() {
            self.say_torn();
        }
        Ok(block)
    }

    fn detail(&self, partition: u32) -> Option<serde_json::Value> {
        Some(self.partitions[partition as usize].info().detail)
    }

    fn position(&self, partition: u32) -> Position {
        self.partitions[partition as usize].position()
    }
}

//! A source of events that is read by hand, for tests of one connector beyond what all have in common.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_dataflow::source::{Block, BlockReader, Decode, Decoded, PartitionBinding, Source, SourceError};

use super::source;
use crate::events::Event;

/// What was read of a partition.
#[derive(Debug, Default, PartialEq)]
pub struct Read {
    /// The events' ids, in order.
    pub ids: Vec<String>,
    /// Offset and reason of what is no event.
    pub letters: Vec<(u64, String)>,
    /// The blocks that it came in.
    pub blocks: Vec<Block>,
}

/// How long nothing may come: so many naps of this length.
pub type Patience = (u32, Duration);

/// A source with its reader.
pub struct Reading<C> {
    /// The reader.
    pub reader: Box<dyn BlockReader>,
    decoder: C,
    patience: Patience,
}

impl<C: Decode<Record = Event>> Reading<C> {
    /// Opens a source where `recorded` left it.
    ///
    /// # Errors
    /// The source's refusal.
    pub fn open<S: Source<Decoder = C>>(
        source: &S,
        recorded: &[PartitionBinding],
        patience: Patience,
    ) -> Result<Self, SourceError> {
        Ok(Reading { reader: source.open(recorded)?, decoder: source.decoder(), patience })
    }

    /// The names of the partitions, by number.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.reader.partitions().into_iter().map(|partition| partition.name).collect()
    }

    /// The number of a partition.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn number(&self, name: &str) -> u32 {
        let found = (0..).zip(self.names()).find(|(_, other)| other == name);
        found.expect("a partition of that name").0
    }

    /// Reads blocks of a partition until `enough` of it was read, or it is finished. Each is asked for with `limit` bytes and,
    /// at a replay, the offset `until` which it is read.
    ///
    /// # Errors
    /// The reader's.
    ///
    /// # Panics
    /// When nothing comes for too long.
    pub fn until(
        &mut self,
        partition: u32,
        (limit, until): (usize, Option<u64>),
        enough: impl Fn(&Self, &Read) -> bool,
    ) -> Result<Read, SourceError> {
        let (naps, nap) = self.patience;
        let mut read = Read::default();
        let mut silent = 0;
        while !self.reader.position(partition).finished && !enough(self, &read) {
            match self.reader.read(partition, limit, until)? {
                Some(block) => self.take(block, &mut read),
                None => {
                    silent += 1;
                    assert!(silent < naps, "nothing came for too long; {read:?} {:?}", self.reader.position(partition));
                    self.reader.wait(nap)?;
                }
            }
        }
        Ok(read)
    }

    fn take(&mut self, block: Block, read: &mut Read) {
        let mut decoded = Decoded::default();
        self.decoder.decode(block.clone(), &mut decoded);
        read.ids.extend(decoded.records.iter().map(|event| event.event_id().to_owned()));
        read.letters.extend(decoded.malformed.into_iter().map(|letter| (letter.line, letter.reason)));
        read.blocks.push(block);
    }

    /// Reads a bounded source to its end: what each partition holds, by name.
    ///
    /// # Panics
    /// When that fails.
    pub fn read_to_the_end(&mut self, limit: usize) -> BTreeMap<String, Read> {
        let names = (0..).zip(self.names());
        let all = |(number, name)| {
            (name, self.until(number, (limit, None), |_, _| false).expect("a bounded source can be read"))
        };
        names.map(all).collect()
    }

    /// What the engine would record now.
    ///
    /// # Panics
    /// When a position cannot be recorded.
    #[must_use]
    pub fn bindings(&self) -> Vec<PartitionBinding> {
        source::bindings(&*self.reader).expect("a position can be recorded")
    }
}

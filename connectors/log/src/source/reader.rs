//! All partitions together, on the engine's reader thread.
//!
//! Nothing here waits but [`wait`](BlockReader::wait), which looks at one small file a topic every few milliseconds.

use std::thread;
use std::time::{Duration, Instant};

use tidemill_connectors::messages::{Cutter, Extent, Feed, Polled, Progress, Shorter};
use tidemill_dataflow::source::{Block, BlockReader, PartitionInfo, Position, SourceError};
use tidemill_dataflow::time::EventTime;
use tracing::info;

use crate::config::LogConfig;
use crate::published::Published;
use crate::reader::LogReader;
use crate::topic::Topic;

use super::{detail, name_of, refused, unreadable};

/// How often new topics are looked for.
const DISCOVER_EVERY: Duration = Duration::from_secs(1);
/// How often a wait looks whether something was published.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A partition to be read.
pub(super) struct Place {
    topic: Topic,
    id: u32,
    /// Where reading began in the first run.
    pub(super) start: u64,
    /// Where it goes on.
    pub(super) at: Progress,
    /// The first offset that is there.
    pub(super) low: u64,
    /// Where what is published ended when it was opened.
    pub(super) end: u64,
    /// What is stored, and will be published by the next writer if it is not yet.
    pub(super) promised: u64,
    pub(super) reader: LogReader,
}

impl Place {
    /// A partition at its earliest record.
    pub(super) fn open(topic: &Topic, id: u32) -> Result<Place, SourceError> {
        let name = name_of(topic, id);
        let open = || {
            let mut reader = LogReader::of(topic.clone(), id)?;
            let (low, end) = (reader.earliest()?, reader.end()?);
            let promised = reader.stored_end()?;
            Ok((reader, low, end, promised))
        };
        let (reader, low, end, promised) = open().map_err(|error| refused(&name, &error))?;
        let at = Progress::beginning(low);
        Ok(Place { topic: topic.clone(), id, start: low, at, low, end, promised, reader })
    }

    pub(super) fn name(&self) -> String {
        name_of(&self.topic, self.id)
    }
}

/// A partition that is read.
struct Partition {
    topic: Topic,
    id: u32,
    name: String,
    start: u64,
    cutter: Cutter,
    inbox: Inbox,
}

/// The records of a partition, one after another.
struct Inbox {
    name: String,
    reader: LogReader,
    /// Up to here nobody says that there is nothing, only that it is not published yet.
    promised: u64,
    /// Where everything that was published had been read, at the last look.
    exhausted: Option<u64>,
}

impl Feed for Inbox {
    fn poll(&mut self, take: &mut dyn FnMut(u64, Option<&[u8]>)) -> Result<Polled, SourceError> {
        match self.reader.next() {
            Ok(Some((offset, record))) => {
                take(offset, Some(record.value));
                self.exhausted = None;
                return Ok(Polled::Message);
            }
            Ok(None) => {}
            Err(error) => return Err(refused(&self.name, &error)),
        }
        let next = self.reader.position();
        self.exhausted = Some(next);
        Ok(if next < self.promised { Polled::Nothing } else { Polled::End })
    }
}

/// A topic whose published ends are looked at while nothing is there.
struct Watched {
    topic: Topic,
    published: Published,
}

/// The reader of a [`LogSource`](super::LogSource).
pub(super) struct LogBlocks {
    config: LogConfig,
    extent: Extent,
    partitions: Vec<Partition>,
    watched: Vec<Watched>,
    discovered: Instant,
}

#[expect(clippy::disallowed_methods, reason = "when to look for new topics again reaches no result")]
fn now() -> Instant {
    Instant::now()
}

impl LogBlocks {
    pub(super) fn new(config: LogConfig, extent: Extent) -> LogBlocks {
        LogBlocks { config, extent, partitions: Vec::new(), watched: Vec::new(), discovered: now() }
    }

    /// Takes these partitions in, numbered in this order behind those that are there.
    pub(super) fn add(&mut self, places: Vec<Place>) -> Result<(), SourceError> {
        for place in places {
            let name = place.name();
            let Place { topic, id, start, at, end, promised, mut reader, .. } = place;
            let number = u32::try_from(self.partitions.len())
                .map_err(|_| SourceError::Usage("there are more than 2^32 partitions".into()))?;
            if self.watched.iter().all(|watched| watched.topic.name != topic.name) {
                let published = Published::open(&topic.folder, topic.partitions);
                let published = published.map_err(|error| unreadable(topic.name.clone(), &error))?;
                self.watched.push(Watched { topic: topic.clone(), published });
            }
            reader.seek(at.offset);
            let end = end.max(at.offset);
            // Offsets have no gaps, so an end that is not reached is never one that only looks far.
            let cutter = Cutter::new(number, self.extent.cutting(end), at, 0);
            let inbox = Inbox { name: name.clone(), reader, promised, exhausted: None };
            self.partitions.push(Partition { topic, id, name, start, cutter, inbox });
        }
        Ok(())
    }

    /// Looks for topics that were not there before.
    fn look_for_new(&mut self) -> Result<(), SourceError> {
        let root = &self.config.root;
        let found = Topic::list(root, &self.config.topics);
        let found = found.map_err(|error| unreadable(root.display().to_string(), &error))?;
        for watched in &self.watched {
            if !found.iter().any(|topic| topic.id == watched.topic.id && topic.name == watched.topic.name) {
                let partition = name_of(&watched.topic, 0);
                let problem = "its topic was deleted or made anew while it was read".to_owned();
                return Err(SourceError::Changed { partition, problem });
            }
        }
        let mut new = Vec::new();
        for topic in &found {
            if self.watched.iter().any(|watched| watched.topic.name == topic.name) {
                continue;
            }
            info!("topic {} is new and read from its beginning", topic.name);
            for id in 0..topic.partitions {
                new.push(Place::open(topic, id)?);
            }
        }
        self.add(new)
    }

    /// Looks where the topics end by now.
    fn look(&mut self) -> Result<(), SourceError> {
        for Watched { topic, published } in &mut self.watched {
            published.look().map_err(|error| unreadable(topic.name.clone(), &error))?;
        }
        Ok(())
    }

    /// Whether something was published where everything had been read; told once, or a partition that the engine holds
    /// back would keep it from waiting.
    fn has_news(&mut self) -> Result<bool, SourceError> {
        self.look()?;
        let mut news = false;
        for Watched { topic, published } in &self.watched {
            for partition in self.partitions.iter_mut().filter(|partition| partition.topic.name == topic.name) {
                let end = published.end(partition.id).offset;
                news |= partition.inbox.exhausted.take_if(|exhausted| *exhausted < end).is_some();
            }
        }
        Ok(news)
    }
}

impl BlockReader for LogBlocks {
    fn partitions(&self) -> Vec<PartitionInfo> {
        let info = |partition: &Partition| PartitionInfo {
            name: partition.name.clone(),
            size: 0,
            detail: detail(&partition.topic, partition.start),
        };
        self.partitions.iter().map(info).collect()
    }

    fn bounded(&self) -> bool {
        self.extent.bounded()
    }

    fn over_when_finished(&self) -> bool {
        self.extent.over_when_finished()
    }

    fn discover(&mut self) -> Result<bool, SourceError> {
        if self.extent.bounded() || self.discovered.elapsed() < DISCOVER_EVERY {
            return Ok(false);
        }
        let known = self.partitions.len();
        let looked = self.look().and_then(|()| self.look_for_new());
        self.discovered = now();
        looked.map(|()| self.partitions.len() > known)
    }

    fn wait(&mut self, at_most: Duration) -> Result<(), SourceError> {
        let mut left = at_most;
        while !left.is_zero() && !self.has_news()? {
            let nap = left.min(LOOK_EVERY);
            thread::park_timeout(nap);
            left -= nap;
        }
        Ok(())
    }

    fn head(&mut self, _partition: u32) -> Result<Option<EventTime>, SourceError> {
        // When a record was appended lies behind its event time, and would let the watermark run ahead; so nothing is
        // told, and a partition is read before it is judged.
        Ok(None)
    }

    fn read(&mut self, partition: u32, limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        let found = self.partitions.get_mut(partition as usize);
        let Partition { cutter, inbox, name, .. } = found.expect("partitions are numbered as this reader lists them");
        cutter.read(inbox, limit, until).map_err(|shorter| match shorter {
            Shorter::Failed(error) => error,
            Shorter::At(end) => {
                let wanted = until.unwrap_or(end);
                let problem = format!("records up to offset {wanted} were read and it ends at {end} now");
                SourceError::Changed { partition: name.clone(), problem }
            }
        })
    }

    fn position(&self, partition: u32) -> Position {
        let found = self.partitions.get(partition as usize);
        found.expect("partitions are numbered as this reader lists them").cutter.position()
    }

    fn lag(&self, partition: u32) -> Option<u64> {
        let found = self.partitions.get(partition as usize);
        let Partition { topic, id, cutter, inbox, .. } =
            found.expect("partitions are numbered as this reader lists them");
        let watched = self.watched.iter().find(|watched| watched.topic.name == topic.name);
        let published = watched.map_or(0, |watched| watched.published.end(*id).offset);
        // Whichever looked last.
        cutter.lag(Some(published.max(inbox.reader.known_end())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::produce::produce_lines;

    #[test]
    fn news_of_a_partition_that_nobody_reads_are_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let load = || produce_lines(folder.path(), "events.a", 1, [b"{}".as_slice()], 0, |_, _| 0).unwrap();
        load();
        let mut blocks = LogBlocks::new(LogConfig::at(folder.path()), Extent::Live);
        let topic = Topic::find(folder.path(), "events.a").unwrap().unwrap();
        blocks.add(vec![Place::open(&topic, 0).unwrap()]).unwrap();
        assert!(!blocks.has_news().unwrap(), "what nobody has tried to read is no news");
        while blocks.read(0, 1 << 20, None).unwrap().is_some() {}
        assert!(!blocks.has_news().unwrap());
        load();
        assert!(blocks.has_news().unwrap());
        assert!(!blocks.has_news().unwrap());
        assert!(blocks.read(0, 1 << 20, None).unwrap().is_some());
    }
}

//! The file source: NDJSON and web server logs, plain, gzip or Zstandard, each file one partition.
//!
//! Promises:
//! - A block depends on the content, the offset and the limits alone, so recorded cuts give the same blocks again (INV-5).
//! - A partition is a content, not a name: it is found again where its file was renamed, copied or packed, by a digest of
//!   what was read. What is found nowhere is refused by name, unless all of it was read and its file was rotated away.
//!   Lines appended are read from where the file stopped.
//! - The same content under two names is read once.
//! - Reading takes bounded memory, whatever the length of a line (INV-8): of a line over 1 MiB only the start is kept.
//!
//! A last line without newline is left for the next run, unless the file is packed, nothing follows (`drain`), or the line
//! is complete JSON. Where such a line was read, the file's end at that length is bound. If a newline follows there
//! later, it is taken for that line's terminator; anything else starts a new line.
//!
//! | module | what |
//! |---|---|
//! | `packing`, `encoding` | what bytes a file holds, and what text they are |
//! | `foreign` | what holds no lines, by name |
//! | `content` | a file's content, unpacked and decoded, in order |
//! | `digest` | the digest of what was read, made so that it can be resumed |
//! | `given` | the files as they were given, and how two of them compare |
//! | `matching` | which given file is which recorded partition |
//! | `notice` | what is said about the files, each sentence once |
//! | `identity` | what is recorded of a file, and the partitions of a start |
//! | `partition` | one file's position: cutting blocks, over-long lines, the head |
//! | `reader` | all files together: the source's [`BlockReader`] |

mod content;
mod digest;
mod encoding;
mod foreign;
#[cfg(test)]
mod format_tests;
mod given;
mod identity;
mod matching;
mod notice;
mod packing;
mod partition;
mod reader;
#[cfg(test)]
mod tests;

pub use notice::Notice;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tidemill_dataflow::source::{
    Block, BlockReader, DeadLetter, Decode, Decoded, PartitionBinding, Source, SourceError,
};

use crate::events::{
    Bounds, Directives, Event, Format, Guess, LogDecoder, NOT_AN_OBJECT, NdjsonDecoder, Shape, UserKey,
};

/// What to read, and as what.
#[derive(Clone, Debug, Default)]
pub struct FilesConfig {
    /// The files, in the order in which equal event ids of one epoch win over each other. A path that is none is a pattern,
    /// as a shell has it.
    pub paths: Vec<PathBuf>,
    /// What kind of lines they hold.
    pub format: Format,
    /// The key that makes users of web server logs from addresses.
    pub user_key: UserKey,
    /// Nothing will be appended: a last line without newline is read.
    pub drain: bool,
    /// Who is told what was taken for what, and what was left.
    pub notice: Notice,
    /// What an event may say and be taken.
    pub bounds: Bounds,
}

/// A source of events from files.
#[derive(Clone, Debug)]
pub struct FileSource {
    config: FilesConfig,
    files: Arc<FileTable>,
}

impl FileSource {
    /// A source of these files; nothing is opened yet.
    #[must_use]
    pub fn new(config: FilesConfig) -> FileSource {
        FileSource { config, files: Arc::default() }
    }

    /// The same files, where each line is a record of an author's own type.
    #[must_use]
    pub fn of_records(self) -> FileSource {
        FileSource::new(FilesConfig { format: Format::Records, ..self.config })
    }
}

impl Source for FileSource {
    type Decoder = FileDecoder;

    fn decoder(&self) -> FileDecoder {
        FileDecoder { files: Arc::clone(&self.files), key: self.config.user_key.clone() }
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        self.open_behind(recorded, recorded)
    }

    fn open_behind(
        &self,
        recorded: &[PartitionBinding],
        bound: &[PartitionBinding],
    ) -> Result<Box<dyn BlockReader>, SourceError> {
        let partitions = identity::resolve(&self.config, recorded, bound)?;
        let guesses = partitions.iter().filter_map(|partition| partition.facts().guessed());
        say_guesses(guesses, |sentence| self.config.notice.say(sentence));
        let facts: Vec<_> = partitions.iter().map(|partition| Arc::clone(partition.facts())).collect();
        *self.files.0.write().unwrap_or_else(PoisonError::into_inner) = facts;
        Ok(Box::new(reader::FileReader::new(partitions, self.config.notice.clone())))
    }
}

/// What decoders need to know of each file, by partition number; filled when the files are opened.
#[derive(Debug, Default)]
struct FileTable(RwLock<Vec<Arc<FileFacts>>>);

/// How many changes of directives are kept of a file: far more than blocks are read before they are decoded.
const MOST_DIRECTIVES: usize = 4_096;

/// What decoders need to know of one file.
#[derive(Debug)]
struct FileFacts {
    name: String,
    /// What its lines are, from an offset on. Known before the first block with a record is handed out.
    told: OnceLock<(u64, Format)>,
    /// What the format was told from, in this run.
    guess: Option<Guess>,
    /// What the file seems to be where its format is not known.
    shape: Shape,
    /// What an event may say and be taken.
    bounds: Bounds,
    /// What lines of a W3C log mean from an offset on, in order, at most one a block; known of a block before it is handed out.
    directives: RwLock<Vec<(u64, Arc<Directives>)>>,
}

impl FileFacts {
    fn new(
        config: &FilesConfig,
        name: String,
        told: Option<(u64, Format)>,
        (guess, shape): (Option<Guess>, Shape),
    ) -> FileFacts {
        let told = told.map_or_else(OnceLock::new, OnceLock::from);
        FileFacts { name, told, guess, shape, bounds: config.bounds, directives: RwLock::default() }
    }

    /// What its lines are, as far as that is told.
    fn format(&self) -> Option<&Format> {
        self.told.get().map(|(_, format)| format)
    }

    /// From where on they are that: before, they are read as events.
    fn format_from(&self) -> u64 {
        self.told.get().map_or(0, |(from, _)| *from)
    }

    /// What the lines of the block at an offset are. Whether that was told in time does not count, but where it was told.
    fn format_at(&self, offset: u64) -> Option<&Format> {
        self.format().filter(|_| self.format_from() <= offset)
    }

    /// The directives that are in force at an offset.
    fn directives_at(&self, offset: u64) -> Option<Arc<Directives>> {
        let known = self.directives.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().rev().find(|(from, _)| *from <= offset).map(|(_, directives)| Arc::clone(directives))
    }

    /// From an offset on, other directives are in force.
    fn add_directives(&self, from: u64, directives: Directives) {
        let mut known = self.directives.write().unwrap_or_else(PoisonError::into_inner);
        if known.last().is_none_or(|(last, _)| *last < from) {
            known.push((from, Arc::new(directives)));
        }
        if known.len() > MOST_DIRECTIVES {
            known.remove(0);
        }
    }

    /// The decoder of a block at an offset, if the file is a web server's log.
    fn log_decoder(&self, offset: u64, key: &UserKey) -> Option<LogDecoder> {
        match self.format_at(offset) {
            Some(Format::Log(reader)) => {
                let decoder = LogDecoder::new(&self.name, key.known(), reader.clone()).within(self.bounds);
                Some(decoder.behind(self.directives_at(offset)))
            }
            _ => None,
        }
    }

    /// What the file seems to be, where the format of the block at an offset is not known.
    fn seems(&self, offset: u64) -> Option<Shape> {
        if self.format_at(offset).is_none() { Some(self.shape) } else { None }
    }

    fn guessed(&self) -> Option<(&str, &Guess)> {
        self.guess.as_ref().map(|guess| (self.name.as_str(), guess))
    }
}

/// Says as what files are read; many files of a format share a sentence.
fn say_guesses<'a>(guesses: impl Iterator<Item = (&'a str, &'a Guess)>, mut say: impl FnMut(&str)) {
    let mut by_name: BTreeMap<&str, Vec<(&str, &Guess)>> = BTreeMap::new();
    for (file, guess) in guesses {
        by_name.entry(guess.name).or_default().push((file, guess));
    }
    for (name, files) in by_name {
        match files[..] {
            [(file, guess)] => say(&guess.sentence(file)),
            [(first, _), ..] => say(&format!(
                "{first} and {} more: read as {name}; --format or --log-format says otherwise",
                files.len() - 1
            )),
            [] => {}
        }
    }
}

/// Says of lines that do not begin like an event how the file may be read, where its format is not known.
fn name_the_way_out(seems: Option<Shape>, malformed: &mut [DeadLetter]) {
    let Some(shape) = seems else { return };
    for letter in malformed.iter_mut().filter(|letter| letter.reason == NOT_AN_OBJECT) {
        letter.reason = shape.reason().to_owned();
    }
}

/// Decodes blocks of the source's files, each as what its file holds.
#[derive(Clone, Debug)]
pub struct FileDecoder {
    files: Arc<FileTable>,
    key: UserKey,
}

impl Decode for FileDecoder {
    type Record = Event;

    /// What a file is, and its format where that is guessed, is learned where it is read.
    fn travels(&self) -> bool {
        false
    }

    fn decode(&mut self, block: Block, out: &mut Decoded<Event>) {
        match self.of_a_log(&block) {
            Some(mut decoder) => decoder.decode(block, out),
            None => {
                let facts = self.facts(&block);
                let seems = facts.seems(block.offset);
                NdjsonDecoder::within(facts.bounds).decode(block, out);
                name_the_way_out(seems, &mut out.malformed);
            }
        }
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        NdjsonDecoder::default().apart(block)
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        match self.of_a_log(block) {
            Some(decoder) => decoder.letter(block, reason),
            None => NdjsonDecoder::default().letter(block, reason),
        }
    }
}

impl FileDecoder {
    fn facts(&self, block: &Block) -> Arc<FileFacts> {
        let files = self.files.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(files.get(block.partition as usize).expect("a block comes from a file that was opened"))
    }

    /// The decoder of web server logs, if the block's file is one.
    fn of_a_log(&self, block: &Block) -> Option<LogDecoder> {
        self.facts(block).log_decoder(block.offset, &self.key)
    }
}

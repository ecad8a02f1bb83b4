//! The file source: NDJSON and web server logs, plain, gzip or Zstandard, each file one partition.
//!
//! Promises:
//! - A block depends on the content, the offset and the limits alone, so recorded cuts give the same blocks again (INV-5).
//! - A file that was read in part is accepted again only if what was read is unchanged, by a digest of the content; a
//!   changed, shorter or vanished one is refused by name. Lines appended are read from where the file stopped.
//! - Reading takes bounded memory, whatever the length of a line (INV-8): of a line over 1 MiB only the start is kept.
//!
//! A last line without newline is a line, and the file's end at that length is bound. If a newline follows there later,
//! it is taken for that line's terminator; anything else starts a new line.
//!
//! | module | what |
//! |---|---|
//! | `content` | a file's unpacked bytes, in order |
//! | `digest` | the digest of what was read, made so that it can be resumed |
//! | `notice` | what is said about the files, each sentence once |
//! | `identity` | which given file is which recorded partition, and whether it was touched |
//! | `partition` | one file's position: cutting blocks, over-long lines, the head |
//! | `reader` | all files together: the source's [`BlockReader`] |

mod content;
mod digest;
mod identity;
mod notice;
mod partition;
mod reader;
#[cfg(test)]
mod tests;

pub use notice::Notice;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tidemill_dataflow::source::{
    Block, BlockReader, DeadLetter, Decode, Decoded, PartitionBinding, Source, SourceError,
};

use crate::events::{CombinedDecoder, Event, Format, HashKey, NdjsonDecoder};

/// What to read, and as what.
#[derive(Clone, Debug, Default)]
pub struct FilesConfig {
    /// The files, in the order in which equal event ids of one epoch win over each other.
    pub paths: Vec<PathBuf>,
    /// What kind of lines they hold.
    pub format: Format,
    /// The key that makes users of web server logs from addresses.
    pub hash_key: HashKey,
    /// Who is told what was taken for what, and what was left.
    pub notice: Notice,
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
}

impl Source for FileSource {
    type Decoder = FileDecoder;

    fn decoder(&self) -> FileDecoder {
        FileDecoder { files: Arc::clone(&self.files), key: self.config.hash_key }
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        let partitions = identity::resolve(&self.config, recorded)?;
        let facts: Vec<_> = partitions.iter().map(|partition| Arc::clone(partition.facts())).collect();
        *self.files.0.write().unwrap_or_else(PoisonError::into_inner) = facts;
        Ok(Box::new(reader::FileReader::new(partitions)))
    }
}

/// What decoders need to know of each file, by partition number; filled when the files are opened.
#[derive(Debug, Default)]
struct FileTable(RwLock<Vec<Arc<FileFacts>>>);

/// What decoders need to know of one file.
#[derive(Debug)]
struct FileFacts {
    name: String,
    /// Known before the first block with anything but white space is handed out.
    format: OnceLock<Format>,
}

/// Decodes blocks of the source's files, each as what its file holds.
#[derive(Clone, Debug)]
pub struct FileDecoder {
    files: Arc<FileTable>,
    key: HashKey,
}

impl Decode for FileDecoder {
    type Record = Event;

    /// What a file is, and its format where that is guessed, is learned where it is read.
    fn travels(&self) -> bool {
        false
    }

    fn decode(&mut self, block: Block, out: &mut Decoded<Event>) {
        match self.combined(&block) {
            Some(mut decoder) => decoder.decode(block, out),
            None => NdjsonDecoder.decode(block, out),
        }
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        NdjsonDecoder.apart(block)
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        match self.combined(block) {
            Some(decoder) => decoder.letter(block, reason),
            None => NdjsonDecoder.letter(block, reason),
        }
    }
}

impl FileDecoder {
    /// The decoder of web server logs, if the block's file is one.
    fn combined(&self, block: &Block) -> Option<CombinedDecoder> {
        let files = self.files.0.read().unwrap_or_else(PoisonError::into_inner);
        let facts = files.get(block.partition as usize).expect("a block comes from a file that was opened");
        let combined = facts.format.get() == Some(&Format::Combined);
        combined.then(|| CombinedDecoder::new(&facts.name, self.key))
    }
}

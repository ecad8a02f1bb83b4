//! The embedded log: topics of append-only partitions in a folder, with offsets like Kafka's, and no service to run.
//!
//! ```text
//! one writer a topic                      readers in any process
//!   append -> memory, segment               published end <- look (one small read)
//!   sync   -> fsync -> published end  ===>  segments up to there, every checksum checked
//!   retain -> whole segments deleted        a reader behind: refused, with the offsets that are there
//! ```
//! What a writer's [`sync`](TopicWriter::sync) returned for survives `kill -9` and power cuts; readers never see anything
//! else. The source and the sink on top of it make pipelines exactly-once (INV-3, INV-5).
//!
//! | module | what |
//! |---|---|
//! | `topic` | what is fixed when a topic is made; which topics there are |
//! | `batch` | how records lie in a segment; bytes only |
//! | `segment` | batches of a segment, one after another |
//! | `index` | a sparse index of a sealed segment |
//! | `published` | where each partition ends for readers |
//! | `disk` | the few calls that writing is made of |
//! | `writer` | the one writer: appends, group fsync, repair, retention |
//! | `reader` | one partition, from an offset or a time |
//! | `config` | `log://` addresses |
//! | `source` | a pipeline's source |
//! | `table` | a pipeline's sink |
//! | `floor` | what a pipeline still needs, for retention |
//! | `produce` | loading a topic with lines |
//!
//! ```
//! use tidemill_embedded_log::{LogOptions, LogReader, Record, TopicWriter};
//!
//! let root = tempfile::tempdir()?;
//! let mut writer = TopicWriter::open(root.path(), "events.click", 4, &LogOptions::default())?;
//! let record = Record { key: b"user", value: b"{}", time_ms: 1_767_225_600_000 };
//! assert_eq!(writer.append(0, &[record])?, 0);
//!
//! let mut reader = LogReader::open(root.path(), "events.click", 0)?;
//! assert_eq!(reader.next()?, None, "nobody sees it before it is durable");
//! writer.sync()?;
//! assert_eq!(reader.next()?, Some((0, record)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
pub mod config;
mod disk;
mod error;
mod floor;
mod index;
pub mod produce;
mod published;
mod reader;
mod segment;
pub mod source;
pub mod table;
mod topic;
mod writer;

pub use batch::{MAX_RECORD_BYTES, Record};
pub use config::{ConfigError, LogConfig, LogPlace, Start, is_log_address};
pub use error::{LogError, LogErrorKind};
pub use floor::{FloorError, Floors, bound_floor};
pub use reader::LogReader;
pub use source::LogSource;
pub use table::LogTable;
pub use tidemill_connectors::messages::{Fenced, Topics};
pub use topic::Topic;
pub use writer::{LogOptions, Retained, Retention, TopicWriter};

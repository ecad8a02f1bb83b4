//! The one log that decides everything, its reading side, and the durable local store.
//!
//! A pipeline is what its log says (INV-1): which input an epoch holds (`bind`), which output of it can be seen
//! (`commit`), where recovery may start (`checkpoint`), what may be deleted (`gc`), and who may write (`seal`).
//! The log knows no dataflow, no connector and no clock; queries use its reading side alone.
//!
//! | module | what |
//! |---|---|
//! | [`store`] | the few operations that the log asks of a place, and how they fail |
//! | [`local`] | a local folder that keeps what it confirmed, also through a power cut |
//! | [`bridge`] | the same operations over any `object_store` |
//! | [`location`] | a place as people name it: a folder, or `s3://BUCKET/PREFIX` |
//! | [`patient`] | a store whose outages are waited out |
//! | [`split`] | state in one place, tables with a copy of the log in another |
//! | [`entry`] | what an entry says |
//! | [`state`] | what the entries so far mean: a pure fold |
//! | [`writer`] | the one writer: runs, fencing, snapshots, deletions |
//! | [`history`] | what epochs contained, kept for repeating a whole run |
//! | [`panics`] | panics that do not end a process |
//! | [`reader`] | one consistent state beside a living writer, without writing anything |
//! | [`secrets`] | passwords in addresses, which nothing shows |
//! | [`testing`] | a store in memory, and one that stops, acts or fails at a chosen step |
//!
//! ```
//! use std::collections::BTreeSet;
//! use std::sync::Arc;
//! use tidemill_log::{Entry, Log, LogOptions, Seal, FORMAT, reader, testing::MemoryStore};
//!
//! let store = Arc::new(MemoryStore::default());
//! let mut log = Log::start(store.clone(), LogOptions::default())?.log;
//! log.append(Entry::Seal(Seal {
//!     run: log.run(),
//!     format: FORMAT,
//!     plan: "plan digest".into(),
//!     build: "build digest".into(),
//!     workers: 2,
//!     processes: 1,
//!     instance: "a random name".into(),
//!     checkpoint: None,
//!     since: None,
//!     dropped: BTreeSet::new(),
//!     quarantined: Vec::new(),
//!     tables: None,
//!     accepted_loss: Vec::new(),
//! }))?;
//! assert_eq!(reader::read(store, "_tidemill")?.run(), Some(1));
//! # Ok::<(), tidemill_log::LogError>(())
//! ```

/// The folder of a pipeline's log, and of its state, below the place that holds them.
pub const FOLDER: &str = "_tidemill";

pub mod bridge;
pub mod entry;
pub mod error;
mod frame;
pub mod history;
mod load;
pub mod local;
pub mod location;
pub mod panics;
mod paths;
pub mod patient;
pub mod reader;
mod retry;
pub mod secrets;
pub mod split;
pub mod state;
pub mod store;
pub mod testing;
pub mod writer;

pub use bridge::ObjectStoreBridge;
pub use entry::{
    Binding, CheckpointEntry, Commit, DataFile, Entry, FORMAT, Loss, PartitionBinding, PartitionStatus, Quarantined,
    Seal, TableChange,
};
pub use error::{LogError, LogErrorKind, with_causes};
pub use history::History;
pub use local::{DurableLocal, Faults};
pub use location::{Location, LocationError, ReadingSide};
pub use patient::PatientStore;
pub use split::SplitStore;
pub use state::{LogState, Partitions, VisibleFile};
pub use store::{Created, Store, StoreError, StoreErrorKind};
pub use writer::{Fence, KEPT_BINDINGS, Log, LogOptions, Started};

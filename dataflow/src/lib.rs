//! The engine of Tidemill: exact, exactly-once stream processing on timely dataflow.
//!
//! It knows no connector and no window. Epochs are timely's timestamps; event time is data; one log decides what an epoch
//! contains, what of it can be seen, and where recovery starts. The promises INV-1 to INV-8 are in `INVARIANTS.md`.
//!
//! | module | what |
//! |---|---|
//! | [`flow`], [`stream`], [`plan`] | what authors touch: sources, streams, the recorded plan |
//! | [`time`], [`watermark`], `bind`, `cut` | epochs, event times, `W(e)`, what an epoch contains |
//! | [`key`], [`key_group`], [`hash`] | keys and where they live |
//! | [`batch`], [`keyed`], `driver` | containers, pure keyed logic, the thin timely drivers |
//! | [`source`], [`sink`] | the contracts of connectors |
//! | [`checkpoint`], `journal`, `coordinator` | state, log, commits |
//! | [`runtime`] | running it all |
//! | [`quarantine`] | which records panic, and are set aside |
//! | [`testing`] | whole runs in one process, for the tests of operators |
//! | [`verdict`] | whether starting again may heal a failure |
//! | [`status`] | what a run does right now, and why a window is still open |

pub mod batch;
mod bind;
pub mod checkpoint;
pub mod cluster;
mod control;
mod coordinator;
mod cut;
pub mod driver;
pub mod faults;
pub mod flow;
pub mod hash;
mod journal;
pub mod key;
pub mod key_group;
pub mod keyed;
mod observers;
mod octets;
mod pending;
pub mod plan;
pub mod quarantine;
mod queue;
mod reader;
pub mod runtime;
mod shared;
pub mod sink;
pub mod source;
pub mod status;
pub mod stream;
pub mod testing;
pub mod time;
pub mod verdict;
pub mod watermark;

//! Adversaries: functions that take any bytes, give them to a reader of Tidemill, and panic where a promise is broken.
//!
//! A target is a plain `fn(&[u8])`, and whoever has bytes can call it: `fuzz` (random and mutated bytes on any stable
//! toolchain; `cargo test` runs it for a short time), `guided` (libFuzzer by `cargo fuzz`, which sees what code an input
//! reaches), a debugger. A target promises more than "no panic": what was encoded is decoded, two readers say the same,
//! and memory is bounded by the length of what was sent.
//!
//! Inputs that found something, and some that are hard to come by, are files in `corpus/<target>/`; ordinary inputs are
//! made by [`Target::seeds`], so that they follow the formats.
//!
//! | module | what |
//! |---|---|
//! | `input` | an input as decisions and pieces |
//! | `memory` | what a piece of work takes of the heap |
//! | `mutate` | new inputs from old ones |
//! | `corpus` | inputs that are kept |
//! | `panics` | which panics count |
//! | the others | a target each |

mod collector;
pub mod corpus;
mod events;
mod handshake;
mod input;
mod logs;
mod manifests;
pub mod memory;
pub mod mutate;
pub mod panics;
mod segments;
mod sql;
mod tables;

/// Something that takes bytes from strangers.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Takes any bytes; panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Ordinary inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that inputs are made of.
    pub words: &'static [&'static str],
}

/// All targets.
pub const TARGETS: [Target; 8] = [
    Target { name: "collector", run: collector::run, seeds: collector::seeds, words: &events::WORDS },
    Target { name: "events", run: events::run, seeds: events::seeds, words: &events::WORDS },
    Target { name: "logs", run: logs::run, seeds: logs::seeds, words: &logs::WORDS },
    Target { name: "segments", run: segments::run, seeds: segments::seeds, words: &["TMB1", "TMIDX001"] },
    Target { name: "tables", run: tables::run, seeds: tables::seeds, words: &["PAR1", "timestamp", "raw_events"] },
    Target { name: "manifests", run: manifests::run, seeds: manifests::seeds, words: &manifests::WORDS },
    Target { name: "handshake", run: handshake::run, seeds: handshake::seeds, words: &["tidemill", "w", "r"] },
    Target { name: "sql", run: sql::run, seeds: sql::seeds, words: &sql::WORDS },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

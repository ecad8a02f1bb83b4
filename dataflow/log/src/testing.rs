//! For tests: a store in memory, one that stops, acts or fails at a chosen step, and what every store must keep.

pub mod conformance;
mod memory;
mod scripted;

pub use memory::MemoryStore;
pub use scripted::{Moment, Operation, OperationKind, Reaction, ScriptedStore};

//! Keyed logic: what operators are to the engine, and the adaptor for logic that sees one key at a time.

mod in_order;
mod logic;
mod per_key;

pub use crate::driver::keyed::keyed;
pub use crate::quarantine::{Probe, Sees};
pub use in_order::{encoded, in_order};
pub use logic::{Changes, Chunk, DecodeError, Emit, Exchanged, Section, ShardLogic, StateSize, Traced};
pub use per_key::*;

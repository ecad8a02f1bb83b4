//! Checkpoints: what changed, stored piece by piece, named by a manifest, restored on any number of workers (INV-4, INV-7).
//!
//! - `piece`: the format of one stored piece: sections by key group, each with its checksum.
//! - `pieces`: which pieces make up an operator's state, and when they are folded. Pure decisions.
//! - `manifest`: the object that names all pieces of a checkpoint.
//! - `writer`: the thread that encodes, stores and folds, away from the workers.
//! - `compare`: what changed between the plan that wrote a checkpoint and the one that goes on from it. Pure.
//! - `restore`: choosing the newest intact checkpoint and handing its sections to the operators.

pub(crate) mod compare;
pub(crate) mod manifest;
pub(crate) mod piece;
pub(crate) mod pieces;
pub(crate) mod restore;
pub(crate) mod writer;

pub use compare::{Change, Changes, compare};
pub use manifest::{Manifest, OperatorState, Planned};
pub use piece::{CorruptPiece, Piece};
pub use pieces::PieceRef;
pub use restore::{LoadError, RestoreError, load_manifest};

//! The thin timely drivers: the only places that hold capabilities.
//!
//! Each drains its inputs, works off closed epochs in order, and drops the epoch's capabilities. All rules are elsewhere,
//! in plain Rust.
#![expect(clippy::shadow_unrelated, reason = "a port and the stream behind it carry one name")]

pub(crate) mod binder;
pub(crate) mod combine;
pub(crate) mod committer;
pub(crate) mod except;
mod feed;
pub(crate) mod keyed;
pub(crate) mod region;
pub(crate) mod sampler;
pub(crate) mod sink;
pub(crate) mod source;

pub use crate::quarantine::within_region;
pub use combine::{Combined, Combiner};
pub use except::Exceptions;
pub use region::{Change, Update, enter_region, leave_region};
pub use sampler::Sampler;

//! The log's promises, on every store and at every step.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![expect(clippy::clone_on_ref_ptr, reason = "a clone that also widens its type to `dyn Store` reads best as a method")]

mod damage;
mod fencing;
mod folding;
mod history;
mod outcomes;
mod patience;
mod pipeline;
mod reading;
mod s3;
mod split;
mod stores;

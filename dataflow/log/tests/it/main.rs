//! The log's promises, on every store and at every step.

mod damage;
mod fencing;
mod folding;
mod outcomes;
mod pipeline;
mod reading;
mod stores;

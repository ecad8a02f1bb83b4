//! Throughput of the job on workload S, beside a hand-written loop that computes the same tables.
//!
//! Ratios count, not absolutes: everything that is compared runs interleaved in one go, each in a process of its own, and
//! a ratio is taken between neighbours of one round before the median over the rounds is.

pub mod hand_loop;
pub mod report;
pub mod rounds;
pub mod state;
pub mod usage;

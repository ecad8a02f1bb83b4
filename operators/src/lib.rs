//! The rules of Tidemill's operators: deduplication, windows, sessions and aggregates.
//!
//! All of them are plain synchronous Rust that sees records, state and two watermarks, and never a capability, a thread,
//! a clock or storage; `tidemill_dataflow` runs them. What a rule gives for an epoch depends on its state, the epoch's
//! records and the watermarks only (INV-2), and what it stores names keys, not workers (INV-7).
//!
//! | module | what |
//! |---|---|
//! | [`dedup`] | the first record of an id within a horizon counts |
//! | [`aggregate`] | count, sum, mean, min, max, first, last, distinct, quantiles, and tuples of them |
//! | [`window`] | tumbling and hopping windows, sessions, the most frequent items of a window |
//! | [`emission`] | windows as deltas, as upserts, or once when they close |
//! | [`process`] | a function of one key with state and timers |
//! | [`join`] | joins in windows, within a distance in time, and with a table as it was |
//! | [`incremental`] | views over changing collections: joins, counts, rankings, with retractions |
//! | [`stream`] | how authors chain them |
//! | [`rows`] | their results as Arrow record batches |

pub mod aggregate;
pub mod dedup;
pub mod emission;
mod exchange;
pub mod incremental;
pub mod join;
pub mod process;
pub mod rows;
pub mod stream;
pub mod window;

#[cfg(test)]
mod evolution;
#[cfg(test)]
mod late_lines;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod panics;
#[cfg(test)]
mod shards;

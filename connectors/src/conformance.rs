//! What every connector must do, as functions that its tests call.
//!
//! A connector's author gives them a source or a writer and a place to use it on; each function goes through one part of
//! the contract in [`tidemill_dataflow::source`] or [`tidemill_dataflow::sink`] and fails with a sentence that names the
//! broken promise. No test framework is needed, and nothing is assumed about time but that a call returns within a minute.
//!
//! | of a source | |
//! |---|---|
//! | [`source::replays_from_any_bound_offset`] | what was bound is read again, and what follows it, from any cut (INV-5) |
//! | [`source::blocks_depend_on_content_and_limits_alone`] | cuts are no accident of timing (INV-2) |
//! | [`source::goes_on_after_a_restart`] | after a restart exactly the new records come, under the old numbers |
//! | [`source::refuses_changed_content`] | what changed is refused by name |
//! | [`source::never_waits_in_read`] | a source without data hangs nobody |
//!
//! What only one connector promises is tested with a [`reading::Reading`] of its own.
//!
//! | of a sink | |
//! |---|---|
//! | [`sink::rows_come_back_as_written`] | what is read is what was written |
//! | [`sink::a_repeated_write_has_the_effect_of_one`] | by the same writer and by the next run (INV-3) |
//! | [`sink::a_write_that_stopped_halfway_is_completed`] | by the next run, whatever was there |
//! | [`sink::a_restart_goes_on_behind_what_was_committed`] | committed epochs stay, the next one follows |
//! | [`sink::a_fenced_writer_changes_nothing`] | once a later run has begun |
//! | [`sink::a_refused_row_doubles_no_other`] | where a server may refuse a row (INV-6) |
//! | [`sink::lost_rows_are_noticed`] | where others may take away what was committed |

pub mod reading;
pub mod sink;
pub mod source;

/// What is broken, in one sentence.
pub type Broken = String;

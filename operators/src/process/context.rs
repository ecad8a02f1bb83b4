//! What a callback of a process sees and does beside its state.

use std::collections::BTreeSet;

use tidemill_dataflow::keyed::Emit;
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark};

/// The hands of a [`Process`](super::Process) while it looks at one record or one timer of a key.
pub struct Context<'a, O> {
    pub(super) time: EventTime,
    /// Whether a timer fires, not a record comes.
    pub(super) firing: bool,
    pub(super) clocks: EpochTime,
    pub(super) timers: &'a mut BTreeSet<EventTime>,
    pub(super) out: &'a mut Emit<O>,
    pub(super) forget: bool,
}

impl<O> Context<'_, O> {
    /// The event time of the record, or the time for which the timer was set.
    #[must_use]
    pub fn time(&self) -> EventTime {
        self.time
    }

    /// `W(e-1)`: what the records of this epoch are judged against; nothing is known while it is `None`.
    #[must_use]
    pub fn watermark(&self) -> Watermark {
        self.clocks.before
    }

    /// Whether the record is late: earlier than [`watermark`](Self::watermark). It is handled all the same: what to do
    /// about it is the process's own business. Timers are never late.
    #[must_use]
    pub fn is_late(&self) -> bool {
        !self.firing && Some(self.time) < self.clocks.before
    }

    /// Gives a record to the stream after the process.
    pub fn emit(&mut self, record: O) {
        self.out.give(record);
    }

    /// Sets a timer of this key. It fires once, in the first epoch whose `W(e)` is at or past `at`; that may be this
    /// one. A time at which a timer is set already changes nothing.
    ///
    /// A timer that fires may set others, later than itself: what is not later is refused, so firing always ends. At
    /// the end of time (`--drain`) timers that fire can set none. What is refused is counted as `timers_refused`.
    pub fn set_timer(&mut self, at: EventTime) {
        let ended = self.clocks.after == Some(EventTime::MAX);
        if self.firing && (at <= self.time || ended) {
            self.out.count("timers_refused", 1);
        } else {
            self.timers.insert(at);
        }
    }

    /// Takes a timer of this key back, if it is set.
    pub fn cancel_timer(&mut self, at: EventTime) {
        self.timers.remove(&at);
    }

    /// Forgets the key when the callback returns: its state and all its timers, also those set in this callback.
    pub fn forget(&mut self) {
        self.forget = true;
    }

    /// Adds `n` to a counter of the operator, shown beside its id.
    pub fn count(&mut self, name: &'static str, n: u64) {
        self.out.count(name, n);
    }
}

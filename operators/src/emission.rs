//! How a window tells its value: by deltas, by upserts, or once when it closes.
//!
//! | emission | what a row is | state | the table |
//! |---|---|---|---|
//! | deltas ([`Windowed::aggregate`]) | what the epoch added | none | folds rows of a (key, window) |
//! | upserts ([`Windowed::upserts`]) | the whole value as of the epoch | open and correctable windows | keeps the row with the greatest version |
//! | once ([`Windowed::once_closed`]) | the whole value, final | open and correctable windows | takes rows as they are |
//!
//! Upserts and once hold one value per (key, window) in state, until the watermark has passed the end of the window and
//! the time for which it stays correctable. What comes later than that cannot be added, since the value is gone: it is
//! late, and goes by [`Late::Side`] or [`Late::Drop`]; [`Late::Correct`], which promises a correction however late the
//! record, is refused when the plan is checked. An epoch's rows depend on state, records and watermarks only (INV-2),
//! and state names keys and windows, never workers (INV-7).

use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{Emit, Keep, KeyedLogic, PerKey, keyed};
use tidemill_dataflow::status::Why;
use tidemill_dataflow::stream::{Stream, TimedStream};
use tidemill_dataflow::time::{Epoch, EpochTime, EventTime, Watermark, millis};

use crate::aggregate::Aggregate;
use crate::window::assigner::{Assigner, Late};
use crate::window::cells::{WindowRow, of_cell};
use crate::window::windowed::{Holding, Windowed, Windower};
use crate::window::{WindowError, check_from};

/// Windows whose values stay in state until no record can change them any more.
#[derive(Clone, Debug)]
pub struct Held<W> {
    windows: W,
    correctable: i64,
}

/// Windows that cannot be held in state; the pipeline does not start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeldError {
    /// A duration makes no sense.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// Late records would need values of closed windows for ever.
    #[error(
        "values are held until {correctable} ms after the end of their window, so a record that is later than that \
         cannot correct them: say what happens to it with `.late(Late::Side)` or `.late(Late::Drop)`, or emit deltas, \
         which any record corrects"
    )]
    Forever {
        /// For how many milliseconds after its end a window is correctable.
        correctable: i64,
    },
}

impl<W: Assigner> Held<W> {
    /// Windows that records may still change until the watermark is this far past their end.
    #[must_use]
    pub fn new(windows: W, correctable_for: Duration) -> Self {
        Held { windows, correctable: millis(correctable_for) }
    }

    /// Refuses durations that make no sense, and [`Late::Correct`].
    ///
    /// # Errors
    /// With a sentence that says what to change.
    pub fn validate(&self) -> Result<(), HeldError> {
        self.windows.validate()?;
        check_from(0, "the time for which a window is correctable", self.correctable)?;
        let forever = self.windows.late_policy() == Late::Correct;
        if forever { Err(HeldError::Forever { correctable: self.correctable }) } else { Ok(()) }
    }

    /// The watermark at which nothing can change a window any more.
    #[must_use]
    pub fn leaves_at(&self, start: EventTime) -> EventTime {
        EventTime(self.windows.end(start).0.saturating_add(self.correctable))
    }

    /// What becomes of a window's value under `after`, the watermark `W(e)`.
    pub(crate) fn keep(&self, start: EventTime, after: Watermark) -> Keep {
        if Some(self.leaves_at(start)) <= after { Keep::Remove } else { Keep::Keep }
    }
}

/// The value of one window of one key, as state keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldValue<P> {
    start: EventTime,
    value: P,
}

impl<P> HeldValue<P> {
    /// Adds what an epoch brought; gives the key that the window is of.
    fn absorb<D, A: Aggregate<D, Partial = P>>(
        &mut self,
        aggregate: &A,
        cell: &OwnedKey,
        parts: &mut Vec<P>,
    ) -> OwnedKey {
        let (key, start) = of_cell(cell);
        self.start = start;
        parts.drain(..).for_each(|part| aggregate.merge(&mut self.value, part));
        aggregate.finish(&mut self.value);
        key
    }
}

/// The whole value of one window of one key as of an epoch; of several the one with the greatest version counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowVersion<P> {
    /// Key, window and value.
    pub row: WindowRow<P>,
    /// The epoch.
    pub version: Epoch,
}

/// Gives the whole value of a window in each epoch that has records for it. Run it with `PerKey`; its state is version 1.
pub struct UpsertLogic<D, A, W> {
    held: Held<W>,
    aggregate: Rc<A>,
    records: PhantomData<fn(&D)>,
}

impl<D, A: Aggregate<D>, W: Assigner> UpsertLogic<D, A, W> {
    /// Upserts of these windows.
    #[must_use]
    pub fn new(held: Held<W>, aggregate: Rc<A>) -> Self {
        UpsertLogic { held, aggregate, records: PhantomData }
    }
}

impl<D: 'static, A: Aggregate<D>, W: Assigner> KeyedLogic for UpsertLogic<D, A, W> {
    type In = A::Partial;
    type State = HeldValue<A::Partial>;
    type Out = WindowVersion<A::Partial>;
    const STATE_VERSION: u32 = 1;

    fn on_epoch(
        &self,
        cell: &OwnedKey,
        state: &mut Self::State,
        records: &mut Vec<A::Partial>,
        time: EpochTime,
        out: &mut Emit<Self::Out>,
    ) -> Keep {
        if !records.is_empty() {
            let key = state.absorb(&*self.aggregate, cell, records);
            let row = WindowRow { key, start: state.start, value: state.value.clone() };
            out.give(WindowVersion { row, version: time.epoch });
        }
        self.held.keep(state.start, time.after)
    }

    fn deadline(&self, state: &Self::State) -> Option<EventTime> {
        Some(self.held.leaves_at(state.start))
    }

    fn heap_bytes(&self, state: &Self::State) -> usize {
        self.aggregate.heap_bytes(&state.value)
    }
}

/// Gives the whole value of a window once, when nothing can change it any more. Run it with `PerKey`; its state is
/// version 1.
pub struct OnceLogic<D, A, W> {
    held: Held<W>,
    aggregate: Rc<A>,
    records: PhantomData<fn(&D)>,
}

impl<D, A: Aggregate<D>, W: Assigner> OnceLogic<D, A, W> {
    /// The final values of these windows.
    #[must_use]
    pub fn new(held: Held<W>, aggregate: Rc<A>) -> Self {
        OnceLogic { held, aggregate, records: PhantomData }
    }
}

impl<D: 'static, A: Aggregate<D>, W: Assigner> KeyedLogic for OnceLogic<D, A, W> {
    type In = A::Partial;
    type State = HeldValue<A::Partial>;
    type Out = WindowRow<A::Partial>;
    const STATE_VERSION: u32 = 1;

    fn on_epoch(
        &self,
        cell: &OwnedKey,
        state: &mut Self::State,
        records: &mut Vec<A::Partial>,
        time: EpochTime,
        out: &mut Emit<Self::Out>,
    ) -> Keep {
        let key = state.absorb(&*self.aggregate, cell, records);
        let keep = self.held.keep(state.start, time.after);
        if keep == Keep::Remove {
            out.give(WindowRow { key, start: state.start, value: std::mem::take(&mut state.value) });
        }
        keep
    }

    fn deadline(&self, state: &Self::State) -> Option<EventTime> {
        Some(self.held.leaves_at(state.start))
    }

    fn heap_bytes(&self, state: &Self::State) -> usize {
        self.aggregate.heap_bytes(&state.value)
    }
}

/// Windows that emit upserts; see [`Windowed::upserts`].
#[must_use = "windows do nothing until they are aggregated"]
pub struct Upserts<'s, D: 'static, W> {
    windowed: Windowed<'s, D, W>,
    correctable: Duration,
}

/// Windows that emit once; see [`Windowed::once_closed`].
#[must_use = "windows do nothing until they are aggregated"]
pub struct OnceClosed<'s, D: 'static, W> {
    windowed: Windowed<'s, D, W>,
    correctable: Duration,
}

impl<'s, D: Send + Sync + 'static, W: Assigner> Windowed<'s, D, W> {
    /// Emits, in each epoch that has records for a window, its whole value, with the epoch as version. A window can
    /// change, and is held in state, until the watermark is `correctable_for` past its end.
    ///
    /// ```
    /// use tidemill_dataflow::key::key;
    /// use tidemill_dataflow::stream::TimedStream;
    /// use tidemill_dataflow::time::{hours, minutes};
    /// use tidemill_operators::aggregate::{approx_distinct, quantiles};
    /// use tidemill_operators::stream::KeyedStreamOps;
    /// use tidemill_operators::window::tumbling::{Late, Tumbling};
    ///
    /// struct Request {
    ///     route: String,
    ///     user: u64,
    ///     millis: i64,
    /// }
    ///
    /// /// The 99th percentile of each route and minute, and about how many users had it: current each second, and
    /// /// corrected for an hour.
    /// fn latency(requests: TimedStream<'_, Request>) {
    ///     requests
    ///         .key_by(|r| key("default", r.route.as_str()))
    ///         .window("latency", Tumbling::of(minutes(1)).late(Late::Drop))
    ///         .upserts(hours(1))
    ///         .aggregate((quantiles(|r: &Request| r.millis, 0.01), approx_distinct(|r: &Request| r.user)))
    ///         .map(|of| (of.version, of.row.with(|(millis, users)| (millis.quantile(0.99), users.estimate()))))
    ///         .inspect(|(version, row)| drop((*version, row.start, row.value)));
    /// }
    /// ```
    pub fn upserts(self, correctable_for: Duration) -> Upserts<'s, D, W> {
        Upserts { windowed: self, correctable: correctable_for }
    }

    /// Emits the whole value of a window once, in the epoch in which the watermark reaches its end.
    ///
    /// ```
    /// use tidemill_dataflow::key::key;
    /// use tidemill_dataflow::stream::TimedStream;
    /// use tidemill_dataflow::time::{hours, minutes};
    /// use tidemill_operators::aggregate::sum_decimal;
    /// use tidemill_operators::stream::KeyedStreamOps;
    /// use tidemill_operators::window::tumbling::{Late, Tumbling};
    ///
    /// struct Purchase {
    ///     shop: String,
    ///     cents: i64,
    /// }
    ///
    /// /// What each shop took in an hour: one row, five minutes after the hour, and the purchases that came too late.
    /// fn takings<'s>(purchases: TimedStream<'s, Purchase>) -> TimedStream<'s, Purchase> {
    ///     let (rows, late) = purchases
    ///         .key_by(|p| key("default", p.shop.as_str()))
    ///         .window("takings", Tumbling::of(hours(1)).late(Late::Side))
    ///         .once_closed()
    ///         .correctable_for(minutes(5))
    ///         .aggregate_and_late(sum_decimal(|p: &Purchase| i128::from(p.cents)));
    ///     rows.inspect(|row| drop((row.start, row.value)));
    ///     late
    /// }
    /// ```
    pub fn once_closed(self) -> OnceClosed<'s, D, W> {
        OnceClosed { windowed: self, correctable: Duration::ZERO }
    }
}

impl<'s, D: Send + Sync + 'static, W: Assigner> Upserts<'s, D, W> {
    /// The windows' versions. Under [`Late::Side`] late records are left out.
    pub fn aggregate<A: Aggregate<D>>(self, aggregate: A) -> Stream<'s, WindowVersion<A::Partial>> {
        self.aggregate_and_late(aggregate).0
    }

    /// The same, and the late records of [`Late::Side`].
    pub fn aggregate_and_late<A: Aggregate<D>>(
        self,
        aggregate: A,
    ) -> (Stream<'s, WindowVersion<A::Partial>>, TimedStream<'s, D>) {
        let aggregate = Rc::new(aggregate);
        let logic = |held| UpsertLogic::new(held, Rc::clone(&aggregate));
        hold(self.windowed, self.correctable, ("upserts", ""), Rc::clone(&aggregate), logic)
    }
}

impl<'s, D: Send + Sync + 'static, W: Assigner> OnceClosed<'s, D, W> {
    /// Waits until the watermark is this far past the end of a window before it closes.
    pub fn correctable_for(self, span: Duration) -> Self {
        OnceClosed { correctable: span, ..self }
    }

    /// The windows' final values. Under [`Late::Side`] late records are left out.
    pub fn aggregate<A: Aggregate<D>>(self, aggregate: A) -> Stream<'s, WindowRow<A::Partial>> {
        self.aggregate_and_late(aggregate).0
    }

    /// The same, and the late records of [`Late::Side`].
    pub fn aggregate_and_late<A: Aggregate<D>>(
        self,
        aggregate: A,
    ) -> (Stream<'s, WindowRow<A::Partial>>, TimedStream<'s, D>) {
        let aggregate = Rc::new(aggregate);
        let logic = |held| OnceLogic::new(held, Rc::clone(&aggregate));
        hold(self.windowed, self.correctable, ("once closed", ""), Rc::clone(&aggregate), logic)
    }
}

/// Wires a logic over held windows; `emission` is what the plan says of it, and without its parameters what its state is.
pub(crate) fn hold<'s, D, A, W, L>(
    windowed: Windowed<'s, D, W>,
    correctable: Duration,
    (emission, parameters): (&str, &str),
    aggregate: Rc<A>,
    logic: impl FnOnce(Held<W>) -> L,
) -> (Stream<'s, L::Out>, TimedStream<'s, D>)
where
    D: Send + Sync + 'static,
    A: Aggregate<D>,
    W: Assigner,
    L: KeyedLogic<In = A::Partial>,
{
    let Windowed { id, stream, windows } = windowed;
    let (timed, key) = stream.into_parts();
    let (policy, millis, name) = (windows.late_policy(), millis(correctable), aggregate.name());
    let late = format!("correctable for {millis} ms, late {policy:?}");
    let node = timed.record(id, format!("window {windows}, {emission}{parameters}, {late}, aggregate {name}"));
    // State is kept by the start of windows, and is a value that is shown in the way of this emission.
    timed.state_means(node, format!("{windows}, {emission}, {name}"));
    let mut held = Held::new(windows, correctable);
    if let Err(problem) = held.validate() {
        timed.problem(format!("`{id}`: {problem}"));
        held = Held::new(W::stand_in(), Duration::ZERO);
    }
    aggregate.problems(&mut |problem| timed.problem(format!("`{id}`: {problem}")));
    let combiner = Holding(
        Windower::new(&held.windows, held.correctable, aggregate, key, timed.time())
            .sampled(timed.sampler(id, Why::Late)),
    );
    let combined = timed.combine((id, node), combiner);
    (keyed(timed.flow(), (id, node), combined.chunks, PerKey::new(logic(held))), combined.aside)
}

#[cfg(test)]
mod tests;

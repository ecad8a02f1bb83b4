//! `process`: a function of one key with typed state and timers in event time, for what no other operator says.
//!
//! Within an epoch a key's records come first, sorted by (event time, encoded bytes), then the timers that `W(e)` has
//! reached, by time; each (key, time) fires once. So the output depends on state, records and watermarks only, not on
//! how they arrived or on how many workers there are (INV-2). A key whose state is the default one and that has no timer
//! takes no memory. Late policies do not apply: every record gets to the process, which can ask whether it is late.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tidemill_dataflow::key::{OwnedKey, key};
//! use tidemill_dataflow::stream::{Stream, TimedStream};
//! use tidemill_dataflow::time::{EventTime, minutes};
//! use tidemill_operators::process::{Context, Process, ProcessOps};
//!
//! /// A cart that was filled, or paid for.
//! #[derive(Clone, Serialize, Deserialize)]
//! struct CartEvent {
//!     user: String,
//!     at: EventTime,
//!     paid: bool,
//! }
//!
//! /// Tells the carts that were not touched for half an hour.
//! struct Abandoned;
//!
//! #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
//! struct Cart {
//!     last_touched: EventTime,
//! }
//!
//! impl Process for Abandoned {
//!     type In = CartEvent;
//!     type State = Cart;
//!     type Out = (String, EventTime);
//!     const STATE_VERSION: u32 = 1;
//!
//!     fn on_record(&self, _: &OwnedKey, cart: &mut Cart, event: CartEvent, ctx: &mut Context<'_, Self::Out>) {
//!         if event.paid {
//!             return ctx.forget();
//!         }
//!         ctx.cancel_timer(cart.last_touched.plus(minutes(30)));
//!         cart.last_touched = cart.last_touched.max(event.at);
//!         ctx.set_timer(cart.last_touched.plus(minutes(30)));
//!     }
//!
//!     fn on_timer(&self, user: &OwnedKey, cart: &mut Cart, _: EventTime, ctx: &mut Context<'_, Self::Out>) {
//!         ctx.emit((user.texts().1.into_owned(), cart.last_touched));
//!         ctx.forget();
//!     }
//! }
//!
//! fn abandoned_carts<'s>(carts: TimedStream<'s, CartEvent>) -> Stream<'s, (String, EventTime)> {
//!     carts.key_by(|event| key("shop", event.user.as_str())).process("abandoned_carts", Abandoned)
//! }
//! ```

use std::collections::BTreeSet;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidemill_dataflow::batch::Batch;
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{
    DecodeError, Emit, Exchanged, Keep, KeyedLogic, PerKey, StoredState, encoded, in_order, keyed,
};
use tidemill_dataflow::stream::{KeyedStream, Stream};
use tidemill_dataflow::time::{EpochTime, EventTime};

use crate::exchange::part;

mod context;

pub use context::Context;

/// What a process keeps of a key. Implemented for every type that can.
pub trait ProcessState: Default + PartialEq + Clone + Serialize + DeserializeOwned + Send + 'static {}
impl<S: Default + PartialEq + Clone + Serialize + DeserializeOwned + Send + 'static> ProcessState for S {}

/// A function of one key with state and timers.
///
/// It must be pure: what it gives and keeps depends on its arguments only, never on a clock, a random number or a cell
/// of its own, for epochs are repeated after a crash and have to come out the same.
pub trait Process: 'static {
    /// A record of a key.
    type In: Exchanged + Sync + Clone;
    /// What is kept of a key; one that equals the default, without timers, is dropped.
    type State: ProcessState;
    /// What it gives.
    type Out: Send + Sync + 'static;
    /// The version of `State`; raise it when the meaning of stored bytes changes.
    const STATE_VERSION: u32;
    /// The oldest version whose states [`upgrade`](Self::upgrade) reads.
    const OLDEST_VERSION: u32 = Self::STATE_VERSION;

    /// Handles one record. Those of an epoch come sorted by (event time, encoded bytes), before any timer fires.
    fn on_record(
        &self,
        key: &OwnedKey,
        state: &mut Self::State,
        record: Self::In,
        context: &mut Context<'_, Self::Out>,
    );

    /// Handles a timer that was set for `at` and that the watermark has reached; earlier ones come first.
    fn on_timer(
        &self,
        _key: &OwnedKey,
        _state: &mut Self::State,
        _at: EventTime,
        _context: &mut Context<'_, Self::Out>,
    ) {
    }

    /// Bytes of heap that a state holds, for the operator's page. Asked around every call, so it must be cheap.
    fn heap_bytes(&self, _state: &Self::State) -> usize {
        0
    }

    /// Reads what an older `version` (at least `OLDEST_VERSION`) stored of a key:
    /// `stored.read::<Kept<Then>>()?.map(Now::from)`. Timers stay as they were set.
    ///
    /// # Errors
    /// If it is not what `version` stored, or there is no migration from it.
    fn upgrade(version: u32, _stored: StoredState<'_>) -> Result<Kept<Self::State>, DecodeError> {
        Err(DecodeError(format!("a process of state version {} does not read version {version}", Self::STATE_VERSION)))
    }
}

/// State and timers of a key, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept<S> {
    state: S,
    timers: BTreeSet<EventTime>,
}

impl<S> Kept<S> {
    /// The same timers with another state.
    pub fn map<T>(self, state: impl FnOnce(S) -> T) -> Kept<T> {
        Kept { state: state(self.state), timers: self.timers }
    }
}

/// A [`Process`] over the records of one key; run it with `PerKey`.
pub struct ProcessLogic<P>(P);

impl<P: Process> ProcessLogic<P> {
    /// The logic of this process.
    #[must_use]
    pub fn new(process: P) -> Self {
        ProcessLogic(process)
    }

    /// Calls the process for a record, or (`None`) for the timer of that time.
    fn call(
        &self,
        (key, kept): (&OwnedKey, &mut Kept<P::State>),
        (time, record): (EventTime, Option<P::In>),
        clocks: EpochTime,
        out: &mut Emit<P::Out>,
    ) {
        let (firing, timers) = (record.is_none(), &mut kept.timers);
        let mut context = Context { time, firing, clocks, timers, out, forget: false };
        match record {
            Some(record) => self.0.on_record(key, &mut kept.state, record, &mut context),
            None => self.0.on_timer(key, &mut kept.state, time, &mut context),
        }
        if context.forget {
            *kept = Kept::default();
        }
    }
}

impl<P: Process> KeyedLogic for ProcessLogic<P> {
    type In = (EventTime, P::In);
    type State = Kept<P::State>;
    type Out = P::Out;
    const STATE_VERSION: u32 = P::STATE_VERSION;
    const OLDEST_VERSION: u32 = P::OLDEST_VERSION;

    fn on_epoch(
        &self,
        key: &OwnedKey,
        kept: &mut Self::State,
        records: &mut Vec<Self::In>,
        clocks: EpochTime,
        out: &mut Emit<P::Out>,
    ) -> Keep {
        in_order(records);
        let late = records.iter().take_while(|(time, _)| Some(*time) < clocks.before).count();
        out.count("late", late as u64);
        for (time, record) in records.drain(..) {
            self.call((key, kept), (time, Some(record)), clocks, out);
        }
        while let Some(&at) = kept.timers.first()
            && Some(at) <= clocks.after
        {
            kept.timers.pop_first();
            self.call((key, kept), (at, None), clocks, out);
        }
        if *kept == Kept::default() { Keep::Remove } else { Keep::Keep }
    }

    fn place(&self, (time, record): &Self::In) -> Option<(EventTime, Vec<u8>)> {
        Some((*time, encoded(record)))
    }

    fn deadline(&self, kept: &Self::State) -> Option<EventTime> {
        kept.timers.first().copied()
    }

    fn heap_bytes(&self, kept: &Self::State) -> usize {
        self.0.heap_bytes(&kept.state) + kept.timers.len() * size_of::<EventTime>()
    }

    fn upgrade(version: u32, stored: StoredState<'_>) -> Result<Self::State, DecodeError> {
        P::upgrade(version, stored)
    }
}

/// Functions with state on keyed streams.
pub trait ProcessOps<'s, D: Exchanged + Sync + Clone>: Sized {
    /// Runs a process over each key. The records travel to the owner of their key: map them first to what it needs.
    #[track_caller]
    fn process<P: Process<In = D>>(self, id: &'static str, process: P) -> Stream<'s, P::Out>;

    /// The same for a function of records alone, without timers; `VERSION` is that of its state `S`.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tidemill_dataflow::stream::{KeyedStream, Stream};
    /// # use tidemill_operators::process::ProcessOps;
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct Reading {
    ///     celsius: i64,
    /// }
    ///
    /// /// The readings that are higher than all before them from the same sensor.
    /// fn records_set<'s>(by_sensor: KeyedStream<'s, Reading>) -> Stream<'s, Reading> {
    ///     by_sensor.process_records::<1, Option<i64>, _>("highest", |_, highest, reading, ctx| {
    ///         if Some(reading.celsius) > *highest {
    ///             *highest = Some(reading.celsius);
    ///             ctx.emit(reading);
    ///         }
    ///     })
    /// }
    /// ```
    #[track_caller]
    fn process_records<const VERSION: u32, S: ProcessState, O: Send + Sync + 'static>(
        self,
        id: &'static str,
        on_record: impl Fn(&OwnedKey, &mut S, D, &mut Context<'_, O>) + 'static,
    ) -> Stream<'s, O>;
}

impl<'s, D: Exchanged + Sync + Clone> ProcessOps<'s, D> for KeyedStream<'s, D> {
    #[track_caller]
    fn process<P: Process<In = D>>(self, id: &'static str, process: P) -> Stream<'s, P::Out> {
        let (timed, key) = self.into_parts();
        let (node, time) = (timed.record(id, "process".into()), timed.time());
        let records = timed.route("records", move |batch: &Batch<D>, peers| {
            let mut rows = Vec::with_capacity(batch.len());
            batch.for_each(|record| rows.push((key(record).to_owned(), (time(record), record.clone()))));
            part(rows, batch.order, peers)
        });
        keyed(timed.flow(), (id, node), records, PerKey::new(ProcessLogic::new(process)))
    }

    #[track_caller]
    fn process_records<const VERSION: u32, S: ProcessState, O: Send + Sync + 'static>(
        self,
        id: &'static str,
        on_record: impl Fn(&OwnedKey, &mut S, D, &mut Context<'_, O>) + 'static,
    ) -> Stream<'s, O> {
        self.process(id, OnRecord::<VERSION, _, S, D, O> { on_record, types: PhantomData })
    }
}

/// A function of records as a process.
struct OnRecord<const VERSION: u32, F, S, D, O> {
    on_record: F,
    types: PhantomData<fn(S, D) -> O>,
}

impl<const VERSION: u32, F, S, D, O> Process for OnRecord<VERSION, F, S, D, O>
where
    F: Fn(&OwnedKey, &mut S, D, &mut Context<'_, O>) + 'static,
    S: ProcessState,
    D: Exchanged + Sync + Clone,
    O: Send + Sync + 'static,
{
    type In = D;
    type State = S;
    type Out = O;
    const STATE_VERSION: u32 = VERSION;

    fn on_record(&self, key: &OwnedKey, state: &mut S, record: D, context: &mut Context<'_, O>) {
        (self.on_record)(key, state, record, context);
    }
}

#[cfg(test)]
mod tests;

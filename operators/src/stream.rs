//! The operators as authors chain them: `dedup` on streams with event times, `window` on keyed ones.
//!
//! Only glue: each step wires a pure rule of this crate to the engine's drivers and records itself in the plan.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tidemill_dataflow::batch::Batch;
use tidemill_dataflow::driver::{Combiner, Exceptions};
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{Chunk, PerKey, keyed};
use tidemill_dataflow::stream::{KeyFn, KeyedStream, Peers, Stream, TimedStream};
use tidemill_dataflow::time::{EpochTime, EventTime};

use crate::dedup::{DedupLogic, IdRow, Verdict, Verdicts, partition_ids};
use crate::window::assigner::STAND_IN;
use crate::window::session::{Interval, Session, SessionChange, SessionCombiner, SessionLogic};

/// For how long ids are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon(Duration);

impl Horizon {
    /// Until the watermark is this far past an event.
    #[must_use]
    pub fn event_time(span: Duration) -> Self {
        Horizon(span)
    }
}

/// What makes a record the same as another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A 128-bit hash of tenant and id.
    pub id: u128,
    /// A hash of the content: records of one id that differ in it (or in time) are conflicting duplicates.
    pub fingerprint: u32,
}

/// A deduplicated stream.
pub struct Deduplicated<'s, D: 'static> {
    /// Each id once within the horizon.
    pub unique: TimedStream<'s, D>,
    /// Records beyond the horizon whose id is not known: they could not be judged (INV-6).
    pub unverified: TimedStream<'s, D>,
}

impl<D: Send + Sync + 'static> Deduplicated<'_, D> {
    /// The dedup had another id in earlier checkpoints: it goes on with the ids that they hold under `old`. Harmless once
    /// a checkpoint has the new id.
    #[track_caller]
    #[must_use]
    pub fn renamed_from(self, old: &'static str) -> Self {
        Deduplicated { unique: self.unique.renamed_from(old), ..self }
    }
}

/// Operators on streams with event times.
pub trait StreamOps<'s, D: 'static> {
    /// Keeps the first record of each id (earliest epoch, then earliest in the input). Only ids travel between workers.
    /// `identity` gives an [`Identity`], or an `Option` of one: a record without is kept, whatever its time.
    ///
    /// ```
    /// use tidemill_dataflow::hash::{hash64, hash128};
    /// use tidemill_dataflow::stream::TimedStream;
    /// use tidemill_dataflow::time::hours;
    /// use tidemill_operators::stream::{Horizon, Identity, StreamOps};
    ///
    /// struct Payment {
    ///     id: String,
    ///     cents: i64,
    /// }
    ///
    /// /// Each payment once, however often its client sent it within an hour; and those that came so late that nobody can
    /// /// tell. One of a known id with another amount is counted as a conflict.
    /// fn once<'s>(payments: TimedStream<'s, Payment>) -> (TimedStream<'s, Payment>, TimedStream<'s, Payment>) {
    ///     let identity = |payment: &Payment| Identity {
    ///         id: hash128(payment.id.as_bytes(), 0),
    ///         fingerprint: hash64(&payment.cents.to_le_bytes()) as u32,
    ///     };
    ///     let judged = payments.dedup("unique_payments", identity, Horizon::event_time(hours(1)));
    ///     (judged.unique, judged.unverified)
    /// }
    /// ```
    #[track_caller]
    fn dedup<I: Into<Option<Identity>>>(
        self,
        id: &'static str,
        identity: impl Fn(&D) -> I + 'static,
        horizon: Horizon,
    ) -> Deduplicated<'s, D>;
}

impl<'s, D: Send + Sync + 'static> StreamOps<'s, D> for TimedStream<'s, D> {
    #[track_caller]
    fn dedup<I: Into<Option<Identity>>>(
        self,
        id: &'static str,
        identity: impl Fn(&D) -> I + 'static,
        Horizon(horizon): Horizon,
    ) -> Deduplicated<'s, D> {
        let node = self.record(id, format!("dedup, horizon {} s of event time", horizon.as_secs()));
        let time = self.time();
        let ids = self.route("ids", move |batch: &Batch<D>, peers: Peers| {
            let mut rows = Vec::with_capacity(batch.len());
            batch.for_each_row(|row, record| {
                if let Some(who) = identity(record).into() {
                    rows.push(IdRow::new(who.id, time(record), who.fingerprint, row));
                }
            });
            partition_ids(batch.order, peers.me, peers.workers, rows)
        });
        let logic = if self.exactly_once() { DedupLogic::new(horizon) } else { DedupLogic::without_snapshots(horizon) };
        let verdicts = keyed(self.flow(), (id, node), ids, logic).map(exceptions);
        let (unique, unverified) = self.except((id, node), verdicts);
        Deduplicated { unique, unverified }
    }
}

fn exceptions(verdicts: &Verdicts) -> Exceptions {
    let rows = |keep: fn(Verdict) -> bool| {
        verdicts.exceptions.iter().filter(move |(_, verdict)| keep(*verdict)).map(|(row, _)| *row).collect()
    };
    let (dropped, aside) = (rows(|_| true), rows(|verdict| verdict == Verdict::Unverified));
    let conflicting = rows(|verdict| verdict == Verdict::Conflicting);
    Exceptions { dest: verdicts.dest, order: verdicts.order, dropped, aside, conflicting }
}

/// A kind of window that a keyed stream can be cut into.
pub trait Windows<'s, D: 'static> {
    /// What is to be aggregated.
    type Windowed;

    /// Cuts the stream; reports what is wrong with the windows to the plan.
    fn cut(self, id: &'static str, stream: KeyedStream<'s, D>) -> Self::Windowed;
}

/// Operators on keyed streams.
pub trait KeyedStreamOps<'s, D: 'static>: Sized {
    /// Cuts each key's records into windows; `id` names the operator's state and counters.
    ///
    /// ```
    /// use tidemill_dataflow::key::key;
    /// use tidemill_dataflow::stream::{Stream, TimedStream};
    /// use tidemill_dataflow::time::minutes;
    /// use tidemill_operators::aggregate::{count, sum};
    /// use tidemill_operators::stream::KeyedStreamOps;
    /// use tidemill_operators::window::tumbling::{Late, Tumbling, WindowRow};
    ///
    /// struct Scan {
    ///     depot: String,
    ///     grams: i64,
    /// }
    ///
    /// /// How many parcels each depot scanned in a minute, and what they weighed; corrected however late a scan comes.
    /// fn per_minute<'s>(scans: TimedStream<'s, Scan>) -> Stream<'s, WindowRow<(i64, i128)>> {
    ///     scans
    ///         .key_by(|scan| key("default", scan.depot.as_str()))
    ///         .window("scans_per_minute", Tumbling::of(minutes(1)).late(Late::Correct))
    ///         .aggregate((count(), sum(|scan: &Scan| scan.grams)))
    /// }
    /// ```
    #[track_caller]
    fn window<W: Windows<'s, D>>(self, id: &'static str, windows: W) -> W::Windowed;
}

impl<'s, D: 'static> KeyedStreamOps<'s, D> for KeyedStream<'s, D> {
    #[track_caller]
    fn window<W: Windows<'s, D>>(self, id: &'static str, windows: W) -> W::Windowed {
        self.declare(id);
        windows.cut(id, self)
    }
}

/// A keyed stream in sessions.
#[must_use = "sessions do nothing until they are aggregated"]
pub struct Sessions<'s, D: 'static> {
    id: &'static str,
    stream: KeyedStream<'s, D>,
    sessions: Session,
}

impl<'s, D: 'static> Windows<'s, D> for Session {
    type Windowed = Sessions<'s, D>;

    fn cut(self, id: &'static str, stream: KeyedStream<'s, D>) -> Sessions<'s, D> {
        Sessions { id, stream, sessions: self }
    }
}

/// First event, last event and number of events of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionSummary;

/// First event, last event and number of events of a session.
#[must_use]
pub fn session_summary() -> SessionSummary {
    SessionSummary
}

impl<'s, D: Send + Sync + 'static> Sessions<'s, D> {
    /// The sessions as signed changes: a session that grows, or is bridged with another by a late event, retracts what
    /// was shown and asserts the new.
    ///
    /// ```
    /// use tidemill_dataflow::key::key;
    /// use tidemill_dataflow::stream::{Stream, TimedStream};
    /// use tidemill_dataflow::time::{hours, minutes};
    /// use tidemill_operators::stream::{KeyedStreamOps, session_summary};
    /// use tidemill_operators::window::session::{Session, SessionChange};
    ///
    /// struct View {
    ///     site: String,
    ///     user: String,
    /// }
    ///
    /// /// Visits: views of a user that are at most half an hour apart, also when one of them comes an hour late.
    /// fn visits<'s>(views: TimedStream<'s, View>) -> Stream<'s, SessionChange> {
    ///     views
    ///         .key_by(|view| key(view.site.as_str(), view.user.as_str()))
    ///         .window("visits", Session::with_gap(minutes(30)).correctable_for(hours(1)))
    ///         .aggregate(session_summary())
    /// }
    /// ```
    pub fn aggregate(self, _summary: SessionSummary) -> Stream<'s, SessionChange> {
        let Sessions { id, stream, mut sessions } = self;
        let (timed, key) = stream.into_parts();
        let node = timed.record(id, format!("window session, gap {} ms", sessions.gap()));
        if let Err(problem) = sessions.validate() {
            timed.problem(format!("`{id}`: {problem}"));
            sessions = Session::with_gap(STAND_IN);
        }
        let combiner = Visit { inner: SessionCombiner::new(&sessions), sessions, key, time: timed.time(), beyond: 0 };
        let combined = timed.combine((id, node), combiner);
        keyed(timed.flow(), (id, node), combined.chunks, PerKey::new(SessionLogic::new(sessions)))
    }
}

struct Visit<D: 'static> {
    inner: SessionCombiner,
    sessions: Session,
    key: KeyFn<D>,
    time: Rc<dyn Fn(&D) -> EventTime>,
    beyond: u64,
}

impl<D: Send + Sync + 'static> Combiner<D> for Visit<D> {
    type Row = (OwnedKey, Interval);

    fn add(&mut self, batch: &Batch<D>, clocks: EpochTime) -> Option<Batch<D>> {
        batch.for_each(|record| {
            let time = (self.time)(record);
            if self.sessions.is_late(time, clocks.before) {
                self.beyond += 1;
            }
            self.inner.add((self.key)(record), time);
        });
        None
    }

    fn drain(&mut self, peers: Peers) -> (Vec<Chunk<Self::Row>>, BTreeMap<&'static str, u64>) {
        let beyond = std::mem::take(&mut self.beyond);
        let counts = (beyond > 0).then_some(("beyond_correction", beyond));
        (self.inner.drain(peers.me, peers.workers), counts.into_iter().collect())
    }
}

#[cfg(test)]
mod odd_times;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole_runs;

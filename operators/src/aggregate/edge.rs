//! The first and the last value by event time; of two at one time the smaller and the larger bytes (INV-2).

use serde::{Deserialize, Serialize};
use tidemill_dataflow::time::EventTime;

use super::Aggregate;

/// A value and when it happened; ordered by time, then bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamped {
    /// The event time.
    pub time: EventTime,
    /// The encoded value.
    pub bytes: Vec<u8>,
}

impl Stamped {
    fn of((time, bytes): (EventTime, &[u8])) -> Self {
        Stamped { time, bytes: bytes.to_vec() }
    }

    fn key(&self) -> (EventTime, &[u8]) {
        (self.time, &self.bytes)
    }
}

/// See [`first`].
#[derive(Clone, Copy, Debug)]
pub struct First<F>(F);

/// The encoded value of the earliest record, with its time; `None` over no records.
///
/// ```
/// use tidemill_dataflow::time::EventTime;
/// use tidemill_operators::aggregate::{Aggregate, first};
///
/// /// A page that a visitor saw.
/// struct View {
///     at: EventTime,
///     page: String,
/// }
///
/// let landing = first(|view: &View| (view.at, view.page.as_bytes()));
/// let mut partial = None;
/// for (at, page) in [(7, "/cart"), (2, "/offer"), (9, "/paid")] {
///     landing.add(&mut partial, &View { at: EventTime(at), page: page.into() });
/// }
/// assert_eq!(partial.unwrap().bytes, b"/offer");
/// ```
pub fn first<D, F>(value: F) -> First<F>
where
    F: for<'a> Fn(&'a D) -> (EventTime, &'a [u8]) + 'static,
{
    First(value)
}

impl<D, F> Aggregate<D> for First<F>
where
    F: for<'a> Fn(&'a D) -> (EventTime, &'a [u8]) + 'static,
{
    type Partial = Option<Stamped>;

    fn name(&self) -> String {
        "first".into()
    }

    #[inline]
    fn add(&self, partial: &mut Option<Stamped>, record: &D) {
        let value = (self.0)(record);
        if partial.as_ref().is_none_or(|first| value < first.key()) {
            *partial = Some(Stamped::of(value));
        }
    }

    fn merge(&self, into: &mut Option<Stamped>, from: Option<Stamped>) {
        if let Some(from) = from
            && into.as_ref().is_none_or(|first| from < *first)
        {
            *into = Some(from);
        }
    }

    fn finish(&self, _partial: &mut Option<Stamped>) {}

    fn heap_bytes(&self, partial: &Option<Stamped>) -> usize {
        partial.as_ref().map_or(0, |stamped| stamped.bytes.capacity())
    }
}

/// See [`last`].
#[derive(Clone, Copy, Debug)]
pub struct Last<F>(F);

/// The encoded value of the latest record, with its time; `None` over no records.
///
/// ```
/// use tidemill_dataflow::time::EventTime;
/// use tidemill_operators::aggregate::{Aggregate, last};
///
/// /// A status that a machine reported.
/// struct Report {
///     at: EventTime,
///     status: &'static str,
/// }
///
/// let status = last(|report: &Report| (report.at, report.status.as_bytes()));
/// let mut partial = None;
/// // In whatever order they come, event time decides.
/// for (at, of) in [(5, "busy"), (8, "idle"), (6, "busy")] {
///     status.add(&mut partial, &Report { at: EventTime(at), status: of });
/// }
/// let latest = partial.unwrap();
/// assert_eq!((latest.time, latest.bytes.as_slice()), (EventTime(8), &b"idle"[..]));
/// ```
pub fn last<D, F>(value: F) -> Last<F>
where
    F: for<'a> Fn(&'a D) -> (EventTime, &'a [u8]) + 'static,
{
    Last(value)
}

impl<D, F> Aggregate<D> for Last<F>
where
    F: for<'a> Fn(&'a D) -> (EventTime, &'a [u8]) + 'static,
{
    type Partial = Option<Stamped>;

    fn name(&self) -> String {
        "last".into()
    }

    #[inline]
    fn add(&self, partial: &mut Option<Stamped>, record: &D) {
        let value = (self.0)(record);
        if partial.as_ref().is_none_or(|last| value > last.key()) {
            *partial = Some(Stamped::of(value));
        }
    }

    fn merge(&self, into: &mut Option<Stamped>, from: Option<Stamped>) {
        *into = std::mem::take(into).max(from);
    }

    fn finish(&self, _partial: &mut Option<Stamped>) {}

    fn heap_bytes(&self, partial: &Option<Stamped>) -> usize {
        partial.as_ref().map_or(0, |stamped| stamped.bytes.capacity())
    }
}

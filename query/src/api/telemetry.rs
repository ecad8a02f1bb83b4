//! The server's own numbers, as Prometheus reads them.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::follow::Followed;

/// What a request was about, and how it ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    endpoint: &'static str,
    status: u16,
}

/// What a request was about.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Endpoint {
    endpoint: &'static str,
}

/// All numbers of the server.
pub(super) struct Telemetry {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    durations: Family<Endpoint, Histogram>,
    /// Looks at the log that failed.
    pub(super) log_failures: Counter,
    /// Readers of the changes that were too slow.
    pub(super) let_go: Counter,
    in_flight: Gauge,
    readers: Gauge,
    epoch: Gauge,
    complete_through: Gauge<f64, AtomicU64>,
    updated_at: Gauge<f64, AtomicU64>,
    cached: Gauge<i64, AtomicI64>,
}

impl Telemetry {
    /// All zero.
    pub(super) fn new() -> Self {
        // From half a millisecond to half a minute.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_5, 2.0, 17));
        let mut all = Self {
            registry: Registry::with_prefix("tidemill_query"),
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            log_failures: Counter::default(),
            let_go: Counter::default(),
            in_flight: Gauge::default(),
            readers: Gauge::default(),
            epoch: Gauge::default(),
            complete_through: Gauge::default(),
            updated_at: Gauge::default(),
            cached: Gauge::default(),
        };
        let registry = &mut all.registry;
        registry.register("requests", "Requests answered", all.requests.clone());
        let took = "Time from a request to its answer";
        registry.register_with_unit("duration", took, Unit::Seconds, all.durations.clone());
        registry.register("log_failures", "Looks at the log that failed", all.log_failures.clone());
        registry.register("in_flight", "Requests being answered", all.in_flight.clone());
        registry.register("change_readers", "Readers that follow the changes", all.readers.clone());
        let let_go = "Readers that were let go because they did not keep up";
        registry.register("change_readers_let_go", let_go, all.let_go.clone());
        registry.register("committed_epoch", "The commit that answers are of", all.epoch.clone());
        let through = "How far answers are complete: the watermark at that commit, or now if that is earlier";
        registry.register_with_unit("complete_through_timestamp", through, Unit::Seconds, all.complete_through.clone());
        let updated = "When that commit became visible";
        registry.register_with_unit("updated_timestamp", updated, Unit::Seconds, all.updated_at.clone());
        registry.register_with_unit("cached", "Rows kept in memory", Unit::Bytes, all.cached.clone());
        all
    }

    /// Counts a request.
    pub(super) fn answered(&self, endpoint: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&Outcome { endpoint, status }).inc();
        self.durations.get_or_create(&Endpoint { endpoint }).observe(took.as_secs_f64());
    }

    /// The text for Prometheus; `in_flight` requests are being answered.
    ///
    /// # Errors
    /// Never, as far as writing into memory goes.
    pub(super) fn text(&self, followed: &Followed, in_flight: usize) -> Result<String, fmt::Error> {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.in_flight.set(count(in_flight));
        self.readers.set(count(followed.changes.readers()));
        if let Some(snapshot) = &*followed.newest.borrow() {
            let seconds = |ms: Option<i64>| ms.map_or(0.0, |ms| ms as f64 / 1000.0);
            self.epoch.set(snapshot.visible.epoch.and_then(|epoch| i64::try_from(epoch).ok()).unwrap_or(0));
            self.complete_through.set(seconds(snapshot.complete_through()));
            self.updated_at.set(seconds(snapshot.updated_at));
            self.cached.set(count(snapshot.tables.cached_bytes()));
        }
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

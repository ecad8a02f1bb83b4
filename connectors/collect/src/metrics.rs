//! What the collector counts: for `/metrics`, and for the books that it prints at its end.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;
use tidemill_http::Observer;

use crate::admission::{RejectKind, Verdict};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// All counters of a collector.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Code, Counter>,
    events: Family<EventResult, Counter>,
    rejected: Family<Reason, Counter>,
    pub(crate) request_seconds: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) commit_events: Histogram,
    pub(crate) stored_bytes: Counter,
    pub(crate) log_failures: Counter,
    connections: Gauge,
    refused_connections: Counter,
    pub(crate) in_flight_bytes: Gauge,
    pub(crate) ready: Gauge,
}

impl Observer for Metrics {
    fn opened(&self) {
        self.connections.inc();
    }

    fn closed(&self) {
        self.connections.dec();
    }

    fn refused(&self) {
        self.refused_connections.inc();
    }
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let seconds = || Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let mut metrics = Metrics {
            registry: Registry::with_prefix("tidemill_collector"),
            requests: Family::default(),
            events: Family::default(),
            rejected: Family::default(),
            request_seconds: seconds(),
            commit_seconds: seconds(),
            commit_events: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            stored_bytes: Counter::default(),
            log_failures: Counter::default(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            in_flight_bytes: Gauge::default(),
            ready: Gauge::default(),
        };
        metrics.register();
        // Series that are there from the start, so that a rate is seen from the first event on.
        for result in ["accepted", "rejected"] {
            metrics.events.get_or_create(&EventResult { result }).inc_by(0);
        }
        for kind in RejectKind::ALL {
            metrics.rejected.get_or_create(&Reason { reason: kind.name() }).inc_by(0);
        }
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests answered, by status code", self.requests.clone());
        registry.register("events", "Events accepted (stored and synced) and rejected", self.events.clone());
        registry.register("rejected_events", "Events rejected, by reason", self.rejected.clone());
        let request = "From a request's head to its answer";
        registry.register_with_unit("request", request, Unit::Seconds, self.request_seconds.clone());
        let commit = "Appending and syncing a group of batches";
        registry.register_with_unit("commit", commit, Unit::Seconds, self.commit_seconds.clone());
        registry.register("commit_events", "Events of a group of batches", self.commit_events.clone());
        registry.register_with_unit("stored", "Lines stored and synced", Unit::Bytes, self.stored_bytes.clone());
        registry.register("log_failures", "Failed writes and syncs of the log", self.log_failures.clone());
        registry.register("connections", "Open connections", self.connections.clone());
        let refused = "Connections refused because there were too many";
        registry.register("refused_connections", refused, self.refused_connections.clone());
        let held = "Memory held by requests";
        registry.register_with_unit("in_flight", held, Unit::Bytes, self.in_flight_bytes.clone());
        registry.register("ready", "Whether events can be stored now", self.ready.clone());
    }

    pub(crate) fn answered(&self, code: u16) {
        self.requests.get_or_create(&Code { code: u64::from(code) }).inc();
    }

    pub(crate) fn accepted(&self, events: u64) {
        self.events.get_or_create(&EventResult { result: "accepted" }).inc_by(events);
    }

    /// Counts the rejected events of a batch that was answered.
    pub(crate) fn rejected(&self, verdicts: &[Verdict]) {
        for reject in verdicts.iter().filter_map(|verdict| verdict.rejected.as_ref()) {
            self.events.get_or_create(&EventResult { result: "rejected" }).inc();
            self.rejected.get_or_create(&Reason { reason: reject.kind.name() }).inc();
        }
    }

    /// Everything in the text format of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a text takes what is written to it");
        text
    }

    pub(crate) fn books(&self) -> Books {
        let codes = (100..600).filter_map(|code| Some((code, self.requests.get(&Code { code })?.get())));
        let answers: BTreeMap<u64, u64> = codes.collect();
        let reasons = RejectKind::ALL
            .map(|kind| (kind.name(), self.rejected.get_or_create(&Reason { reason: kind.name() }).get()));
        let count = |result| self.events.get_or_create(&EventResult { result }).get();
        Books {
            requests: answers.values().sum(),
            answers,
            accepted: count("accepted"),
            rejected: count("rejected"),
            rejected_by_reason: reasons.into_iter().filter(|(_, events)| *events > 0).collect(),
            log_failures: self.log_failures.get(),
        }
    }
}

/// What a collector did in its life, as it says at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Books {
    /// Requests that were answered.
    pub requests: u64,
    /// The same by status code.
    pub answers: BTreeMap<u64, u64>,
    /// Events that are in the log, repeated sends included; of some of them the client may not have heard.
    pub accepted: u64,
    /// Events that were answered with `rejected`.
    pub rejected: u64,
    /// The same by [`RejectKind`].
    pub rejected_by_reason: BTreeMap<&'static str, u64>,
    /// How often the log failed and was opened anew.
    pub log_failures: u64,
}

impl std::fmt::Display for Books {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} requests, {} events accepted, {} rejected", self.requests, self.accepted, self.rejected)?;
        for (at, (reason, events)) in self.rejected_by_reason.iter().enumerate() {
            write!(f, "{}{reason} {events}", if at == 0 { " (" } else { ", " })?;
        }
        if !self.rejected_by_reason.is_empty() {
            write!(f, ")")?;
        }
        Ok(())
    }
}

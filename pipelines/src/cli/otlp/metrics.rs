//! The numbers of `/metrics` as OpenTelemetry metrics, so that both say the same: the text in the OpenMetrics format is
//! read, and each of its families becomes an instrument.
//!
//! `tidemill_epoch_latency_seconds` is `tidemill.epoch_latency` in `s`, `tidemill_events_total` the sum `tidemill.events`.
//! Of a histogram the number and the sum of what was measured are sent, as `.count` and `.sum`, and as `.bucket` how many were
//! at most `le`, the attribute: counts from the beginning, as Prometheus has them. Instruments of OpenTelemetry take single
//! measurements, and none that were counted elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};

/// What the instruments show at a reading.
type Table = BTreeMap<String, Vec<(Vec<KeyValue>, Number)>>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Whole(u64),
    Real(f64),
}

impl Number {
    fn real(self) -> f64 {
        match self {
            Number::Whole(number) => number as f64,
            Number::Real(number) => number,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Gauge,
}

/// A family as OpenTelemetry calls it.
#[derive(Clone, Debug, PartialEq)]
struct Metric {
    name: String,
    kind: Kind,
    unit: &'static str,
    help: String,
    rows: Vec<(Vec<KeyValue>, Number)>,
}

/// The numbers of one text.
pub(super) struct Numbers {
    text: Arc<dyn Fn() -> String + Send + Sync>,
    table: Arc<Mutex<Table>>,
    known: BTreeSet<String>,
}

impl Numbers {
    pub(super) fn new(text: Arc<dyn Fn() -> String + Send + Sync>) -> Numbers {
        Numbers { text, table: Arc::default(), known: BTreeSet::new() }
    }

    /// Reads the text; the instruments of this meter show what it says from now on.
    pub(super) fn read(&mut self, meter: &Meter) {
        let metrics = parse(&(self.text)());
        for metric in &metrics {
            if self.known.insert(metric.name.clone()) {
                self.instrument(meter, metric);
            }
        }
        let table = metrics.into_iter().map(|metric| (metric.name, metric.rows)).collect();
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = table;
    }

    fn instrument(&self, meter: &Meter, metric: &Metric) {
        let (table, wanted) = (Arc::clone(&self.table), metric.name.clone());
        let rows = move || {
            let table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.get(&wanted).cloned().unwrap_or_default()
        };
        let (name, help, unit) = (metric.name.clone(), metric.help.clone(), metric.unit);
        let whole = metric.rows.iter().all(|(_, number)| matches!(number, Number::Whole(_)));
        // What is built lives on in its meter.
        match (metric.kind, whole) {
            (Kind::Sum, true) => {
                let sum = meter.u64_observable_counter(name).with_unit(unit).with_description(help);
                let sum = sum.with_callback(move |observer| {
                    for (labels, number) in rows() {
                        if let Number::Whole(number) = number {
                            observer.observe(number, &labels);
                        }
                    }
                });
                let _ = sum.build();
            }
            (Kind::Sum, false) => {
                let sum = meter.f64_observable_counter(name).with_unit(unit).with_description(help);
                let _ = sum.with_callback(move |observer| observe(observer, &rows())).build();
            }
            (Kind::Gauge, _) => {
                let gauge = meter.f64_observable_gauge(name).with_unit(unit).with_description(help);
                let _ = gauge.with_callback(move |observer| observe(observer, &rows())).build();
            }
        }
    }
}

fn observe(observer: &dyn AsyncInstrument<f64>, rows: &[(Vec<KeyValue>, Number)]) {
    for (labels, number) in rows {
        observer.observe(number.real(), labels);
    }
}

#[derive(Default)]
struct Family {
    kind: String,
    unit: String,
    help: String,
}

/// The families of a text in the OpenMetrics format; lines that are none are passed over.
fn parse(text: &str) -> Vec<Metric> {
    let mut families: BTreeMap<&str, Family> = BTreeMap::new();
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        if let Some(about) = line.strip_prefix("# ") {
            let mut words = about.splitn(3, ' ');
            if let (Some(what), Some(name), Some(said)) = (words.next(), words.next(), words.next()) {
                let family = families.entry(name).or_default();
                match what {
                    "TYPE" => family.kind = said.to_owned(),
                    "UNIT" => family.unit = said.to_owned(),
                    "HELP" => family.help = said.to_owned(),
                    _ => {}
                }
            }
            continue;
        }
        let Some((sample, labels, value)) = sample(line) else { continue };
        let found = ["", "_total", "_count", "_sum", "_bucket"].into_iter().find_map(|suffix| {
            let name = sample.strip_suffix(suffix)?;
            Some((name, suffix, families.get(name)?))
        });
        let Some((name, suffix, family)) = found else { continue };
        let (kind, part) = match (family.kind.as_str(), suffix) {
            ("gauge", "") => (Kind::Gauge, ""),
            ("counter", "_total") => (Kind::Sum, ""),
            ("histogram", "_count") => (Kind::Sum, ".count"),
            ("histogram", "_sum") => (Kind::Sum, ".sum"),
            ("histogram", "_bucket") => (Kind::Sum, ".bucket"),
            _ => continue,
        };
        let unit = if [".count", ".bucket"].contains(&part) { "" } else { unit(&family.unit) };
        let name = format!("{}{part}", named(name, &family.unit));
        let new = || Metric { name: name.clone(), kind, unit, help: family.help.clone(), rows: Vec::new() };
        metrics.entry(name.clone()).or_insert_with(new).rows.push((labels, value));
    }
    metrics.into_values().collect()
}

/// `tidemill_collector_stored_bytes` is `tidemill.collector.stored`.
fn named(name: &str, unit: &str) -> String {
    let name = name.strip_suffix(unit).filter(|_| !unit.is_empty()).map_or(name, |name| name.trim_end_matches('_'));
    for prefix in ["tidemill_collector_", "tidemill_query_", "tidemill_"] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return format!("{}{rest}", prefix.replace('_', "."));
        }
    }
    name.to_owned()
}

/// The unit in the case-sensitive code of UCUM, as OpenTelemetry writes units.
fn unit(name: &str) -> &'static str {
    match name {
        "seconds" => "s",
        "bytes" => "By",
        "ratios" | "ratio" => "1",
        _ => "",
    }
}

/// Name, labels and value of a line.
fn sample(line: &str) -> Option<(&str, Vec<KeyValue>, Number)> {
    let at = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(at);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?;
    let number = value.parse().map(Number::Whole).or_else(|_| value.parse().map(Number::Real)).ok()?;
    Some((name, labels, number))
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Vec<KeyValue>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push(KeyValue::new(name.to_owned(), value));
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP tidemill_events Records that are committed.\n# TYPE tidemill_events counter\n\
        tidemill_events_total 7\n\
        # HELP tidemill_state_bytes Memory.\n# TYPE tidemill_state_bytes gauge\n# UNIT tidemill_state_bytes bytes\n\
        tidemill_state_bytes{operator=\"a \\\"b\\\" \\\\ c\"} 12.5\n\
        # TYPE tidemill_collector_request_seconds histogram\n# UNIT tidemill_collector_request_seconds seconds\n\
        tidemill_collector_request_seconds_sum 0.5\ntidemill_collector_request_seconds_count 3\n\
        tidemill_collector_request_seconds_bucket{le=\"0.25\"} 2\n\
        tidemill_collector_request_seconds_bucket{le=\"+Inf\"} 3\n# EOF\n";

    #[test]
    fn families_become_metrics_under_the_names_and_units_of_opentelemetry() {
        let metrics = parse(TEXT);
        let shown: Vec<_> = metrics.iter().map(|m| (m.name.as_str(), m.kind, m.unit, m.rows[0].1)).collect();
        assert_eq!(
            shown,
            [
                ("tidemill.collector.request.bucket", Kind::Sum, "", Number::Whole(2)),
                ("tidemill.collector.request.count", Kind::Sum, "", Number::Whole(3)),
                ("tidemill.collector.request.sum", Kind::Sum, "s", Number::Real(0.5)),
                ("tidemill.events", Kind::Sum, "", Number::Whole(7)),
                ("tidemill.state", Kind::Gauge, "By", Number::Real(12.5)),
            ]
        );
        assert_eq!(metrics[4].rows[0].0, [KeyValue::new("operator", "a \"b\" \\ c")]);
        assert_eq!(metrics[4].help, "Memory.");
        let bounds = ["0.25", "+Inf"].map(|bound| vec![KeyValue::new("le", bound)]);
        assert_eq!(metrics[0].rows, bounds.into_iter().zip([2, 3].map(Number::Whole)).collect::<Vec<_>>());
    }
}

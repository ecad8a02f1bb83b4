//! `/metrics`: the board in the OpenMetrics text format, names and units by Prometheus' conventions.
//!
//! Counters say `_total`, times are seconds, sizes bytes. What is unknown is left out, never sent as zero. All counters
//! of `commit` entries go on over restarts; those of records are of this process.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tidemill_dataflow::status::{LATENCY_BUCKETS, LatencyHistogram, Moment, Operator, Partition, Snapshot};

/// What Prometheus asks for and understands.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of a scrape.
///
/// # Errors
/// None that is known: writing to memory does not fail.
pub(super) fn render(snapshot: Snapshot, latencies: LatencyHistogram) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tidemill");
    registry.register_collector(Box::new(Scrape { snapshot, latencies }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    snapshot: Snapshot,
    latencies: LatencyHistogram,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Metrics(encoder);
        self.run(&mut out)?;
        self.epochs(&mut out)?;
        self.checkpoints(&mut out)?;
        self.partitions(&mut out)?;
        self.operators(&mut out)
    }
}

/// Writes families.
struct Metrics<'a>(DescriptorEncoder<'a>);

/// Name, help, unit.
type About<'a> = (&'a str, &'a str, Option<Unit>);

type Labels<'a, const N: usize> = [(&'a str, &'a str); N];

impl Metrics<'_> {
    /// A gauge of one value; none if it is unknown.
    fn gauge(&mut self, (name, help, unit): About<'_>, value: Option<impl EncodeGaugeValue>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<'a, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        (name, help, unit): About<'_>,
        values: impl IntoIterator<Item = (Labels<'a, N>, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, (name, help, unit): About<'_>, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn counters<'a, const N: usize>(
        &mut self,
        (name, help, unit): About<'_>,
        values: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }
}

fn seconds(moment: Moment) -> f64 {
    moment.0 as f64 / 1000.0
}

fn named(partition: &Partition) -> Labels<'_, 1> {
    [("partition", partition.name.as_str())]
}

impl Scrape {
    fn run(&self, out: &mut Metrics<'_>) -> fmt::Result {
        let (snapshot, now) = (&self.snapshot, Moment::now());
        let counts = &snapshot.counts;
        let labels = [("pipeline", snapshot.pipeline.as_str()), ("version", env!("CARGO_PKG_VERSION"))];
        out.gauges(("run", "The run, counted from 1 since the state was begun", None), [(labels, snapshot.run)])?;
        let started = snapshot.started.map(seconds);
        out.gauge(("start_timestamp", "When this run began", Some(Unit::Seconds)), started)?;
        let ready = u64::from(snapshot.ready(now).is_ok());
        out.gauge(("ready", "Whether /readyz says yes", None), Some(ready))?;
        out.counter(("events", "Records and malformed lines that are committed", None), counts.events)?;
        out.counter(("late", "Records that came after their window was complete", None), counts.late)?;
        out.counter(("duplicates", "Records whose id was there before", None), counts.duplicate)?;
        out.counter(
            ("conflicting_duplicates", "Those of them with another time or content", None),
            counts.conflicting,
        )?;
        out.counter(("malformed", "Lines that could not become a record", None), counts.malformed)?;
        out.counter(("lost", "Records that were gone before they were read, as somebody accepted", None), counts.lost)?;
        out.counter(("quarantined", "Records set aside because they panic", None), counts.quarantined)?;
        out.counter(("unverified", "Records older than the horizon with an unknown id", None), counts.unverified)?;
        let all = counts.all.iter().filter_map(|(name, n)| Some((name.split_once('/')?, *n)));
        out.counters(
            ("operator_counts", "Every counter of every operator, as committed", None),
            all.map(|((operator, name), n)| ([("operator", operator), ("counter", name)], n)),
        )?;
        let held = snapshot.why_open.iter().filter(|reason| reason.holds);
        out.gauges(
            ("held_back", "For how long something has held results back, see why_open", Some(Unit::Seconds)),
            held.map(|reason| {
                ([("cause", reason.cause.name()), ("name", &reason.name)], now.since(reason.since).as_secs_f64())
            }),
        )?;
        let names: Vec<_> = snapshot.peers.iter().map(|peer| peer.process.to_string()).collect();
        out.gauges(
            ("peer_heartbeat_age", "Since another process of the run was heard from", Some(Unit::Seconds)),
            names
                .iter()
                .zip(&snapshot.peers)
                .map(|(name, peer)| ([("process", name.as_str())], peer.heartbeat_age_seconds)),
        )
    }

    fn epochs(&self, out: &mut Metrics<'_>) -> fmt::Result {
        let snapshot = &self.snapshot;
        let epochs = &snapshot.epoch;
        let stages = [("read", epochs.read), ("bound", epochs.bound), ("committed", epochs.committed)];
        let stages = stages.map(|(stage, epoch)| ([("stage", stage)], epoch));
        out.gauges(("epoch", "The last epoch that came so far", None), stages)?;
        out.counter(("commits", "Epochs committed by this run", None), snapshot.committed.epochs)?;
        out.counter(("committed", "Input committed by this run", Some(Unit::Bytes)), snapshot.committed.bytes)?;
        let committed_at = epochs.committed_at.map(seconds);
        out.gauge(("last_commit_timestamp", "When this run last committed", Some(Unit::Seconds)), committed_at)?;
        // A pipeline that is closed is behind no clock.
        let watermark = snapshot.watermark.filter(|_| !snapshot.closed).map(seconds);
        out.gauge(("watermark_timestamp", "What the tables are complete through", Some(Unit::Seconds)), watermark)?;
        let in_flight = Some(snapshot.in_flight_bytes);
        out.gauge(("in_flight", "Memory for what is read and not yet committed", Some(Unit::Bytes)), in_flight)?;
        let budget = Some(snapshot.memory_budget);
        out.gauge(("memory_budget", "The most that may be in flight", Some(Unit::Bytes)), budget)?;
        let bounds = LATENCY_BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.latencies.buckets).collect();
        let help = "From the cut of an epoch to its commit";
        let unit = Some(Unit::Seconds);
        let mut histogram = out.0.encode_descriptor("epoch_latency", help, unit.as_ref(), MetricType::Histogram)?;
        histogram.encode_histogram::<NoLabelSet>(self.latencies.sum, self.latencies.count, &buckets, None)
    }

    fn checkpoints(&self, out: &mut Metrics<'_>) -> fmt::Result {
        let checkpoint = &self.snapshot.checkpoint;
        out.counter(("checkpoints", "Checkpoints stored by this run", None), checkpoint.taken)?;
        let age = checkpoint.age_seconds;
        out.gauge(("checkpoint_age", "Since this run's last checkpoint was stored", Some(Unit::Seconds)), age)?;
        let bytes = checkpoint.age_seconds.map(|_| checkpoint.bytes);
        out.gauge(("checkpoint", "What a restore of the last checkpoint reads", Some(Unit::Bytes)), bytes)?;
        let took = checkpoint.history.last().map(|last| last.duration_ms as f64 / 1000.0);
        out.gauge(("checkpoint_duration", "How long the last checkpoint took", Some(Unit::Seconds)), took)
    }

    fn partitions(&self, out: &mut Metrics<'_>) -> fmt::Result {
        let partitions = &self.snapshot.partitions;
        out.gauges(
            ("partition_offset", "The next offset to read: bytes of a file, records of a topic", None),
            partitions.iter().map(|p| (named(p), p.offset)),
        )?;
        out.gauges(
            ("partition_lag_records", "Records known to wait in the partition", None),
            partitions.iter().filter_map(|p| Some((named(p), p.lag_records?))),
        )?;
        out.gauges(
            ("partition_watermark_timestamp", "How far the partition's events have come", Some(Unit::Seconds)),
            partitions.iter().filter_map(|p| Some((named(p), p.watermark.map(seconds)?))),
        )?;
        out.gauges(
            ("partition_idle", "Whether the partition is idle and holds nothing back", None),
            partitions.iter().map(|p| (named(p), u64::from(p.idle))),
        )
    }

    fn operators(&self, out: &mut Metrics<'_>) -> fmt::Result {
        let operators = &self.snapshot.operators;
        let records = |o: &'_ Operator| [("in", o.records_in), ("out", o.records_out)];
        out.counters(
            ("records", "Records into and out of an operator, on this process", None),
            operators.iter().flat_map(|o| {
                records(o).map(|(direction, n)| ([("operator", o.id.as_str()), ("direction", direction)], n))
            }),
        )?;
        let stateful = || operators.iter().filter(|o| o.state_bytes > 0 || o.stored_bytes > 0);
        out.gauges(
            ("state", "Memory for the state of an operator, on this process", Some(Unit::Bytes)),
            stateful().map(|o| ([("operator", o.id.as_str())], o.state_bytes)),
        )?;
        out.gauges(
            ("state_entries", "Keys, ids or sessions in the state of an operator", None),
            stateful().map(|o| ([("operator", o.id.as_str())], o.state_entries)),
        )?;
        out.gauges(
            ("stored_state", "State of an operator in the last checkpoint", Some(Unit::Bytes)),
            stateful().map(|o| ([("operator", o.id.as_str())], o.stored_bytes)),
        )?;
        let now = Moment::now();
        out.gauges(
            (
                "sink_write_age",
                "For how long a sink has been at its present write; 0 between writes",
                Some(Unit::Seconds),
            ),
            operators.iter().filter_map(|o| {
                let write = o.sink.as_ref()?.writing;
                Some(([("sink", o.id.as_str())], write.map_or(0.0, |write| now.since(write.since).as_secs_f64())))
            }),
        )
    }
}

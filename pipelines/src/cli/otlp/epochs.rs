//! Epochs and checkpoints as spans: an epoch from its cut to its commit, and in it the stages of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Span, SpanBuilder, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use tidemill_dataflow::status::{Mark, Moment};

/// Makes the spans of what was told.
pub(super) fn trace(tracer: &SdkTracer, mark: &Mark) {
    match mark {
        Mark::Epoch(epoch) => {
            let attributes = [number("tidemill.epoch", epoch.epoch), number("tidemill.epoch.input_bytes", epoch.bytes)];
            let span = span("epoch", epoch.cut).with_attributes(attributes);
            let context = Context::new().with_span(span.start_with_context(tracer, &Context::new()));
            // A stage that was not seen (the epoch was bound before a restart) has no span.
            for (name, from, to) in [
                ("bind", Some(epoch.cut), epoch.bound),
                ("process", epoch.bound, epoch.processed),
                ("commit", epoch.processed, Some(epoch.committed)),
            ] {
                if let (Some(from), Some(to)) = (from, to) {
                    let stage = self::span(name, from).with_attributes([number("tidemill.epoch", epoch.epoch)]);
                    stage.start_with_context(tracer, &context).end_with_timestamp(time(to));
                }
            }
            context.span().end_with_timestamp(time(epoch.committed));
        }
        Mark::Checkpoint(checkpoint) => {
            let took = i64::try_from(checkpoint.duration_ms).unwrap_or(i64::MAX);
            let begun = Moment(checkpoint.at.0.saturating_sub(took));
            let attributes = [
                number("tidemill.epoch", checkpoint.epoch),
                number("tidemill.checkpoint.added_bytes", checkpoint.added_bytes),
                number("tidemill.checkpoint.bytes", checkpoint.bytes),
            ];
            let span = span("checkpoint", begun).with_attributes(attributes);
            span.start_with_context(tracer, &Context::new()).end_with_timestamp(time(checkpoint.at));
        }
    }
}

fn span(name: &'static str, from: Moment) -> SpanBuilder {
    SpanBuilder::from_name(name).with_start_time(time(from))
}

fn time(moment: Moment) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(moment.0).unwrap_or(0))
}

fn number(name: &'static str, value: u64) -> KeyValue {
    KeyValue::new(name, i64::try_from(value).unwrap_or(i64::MAX))
}

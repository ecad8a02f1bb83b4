//! Where spans wait to be sent: a bounded queue that nobody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use super::Work;
use crate::cli::lines;

/// The entrance of the queue.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    work: SyncSender<Work>,
    lost: Arc<AtomicU64>,
}

impl Queue {
    pub(super) fn new(work: SyncSender<Work>) -> Queue {
        Queue { work, lost: Arc::default() }
    }

    /// Counts spans that are not sent; the first time it says so.
    pub(super) fn lost(&self, spans: u64) {
        if self.lost.fetch_add(spans, Ordering::Relaxed) == 0 {
            lines::warn("OpenTelemetry: spans are lost, because the endpoint takes none or takes them too slowly");
        }
    }

    /// Says how many were lost, if any.
    pub(super) fn say_total(&self) {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            lines::warn(&format!("OpenTelemetry: {lost} spans were lost in all"));
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.work.try_send(Work::Span(Box::new(span))).is_err() {
            self.lost(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

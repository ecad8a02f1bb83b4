//! OpenTelemetry by a flag: how epochs, checkpoints and requests went as traces, the numbers of `/metrics` as metrics, sent
//! to a collector over OTLP (HTTP, protobuf).
//!
//! Nothing waits for it: spans go through a bounded queue to a thread of their own, and what does not fit is counted and
//! said once. An endpoint that is away is said once, and tried again. At a clean end the last of it is sent, within
//! [`LAST`]. Without the flag and its variables there is no thread, no queue and no span.

mod client;
mod epochs;
mod metrics;
mod spans;

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use clap::Args;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter as _};
use tidemill_dataflow::status::Mark;

use super::measure::Stopwatch;
use super::{Failure, lines};
use client::Client;
use metrics::Numbers;
use spans::Queue;

/// Spans that wait to be sent.
const WAITING: usize = 2_048;
/// Spans of one request.
const BATCH: usize = 512;
/// The longest that a span waits for others.
const SPANS_EVERY: Duration = Duration::from_secs(2);
/// Between two readings of the numbers.
const NUMBERS_EVERY: Duration = Duration::from_secs(10);
/// How often it looks for marks.
const LOOK: Duration = Duration::from_millis(250);
/// How long a clean end waits for the last to be sent.
const LAST: Duration = Duration::from_secs(5);
/// Variables of the specification that name an endpoint.
const ENDPOINTS: [&str; 3] =
    ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"];
/// What everything here is named after.
const SCOPE: &str = "tidemill";

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OtlpArguments {
    /// Send traces and metrics to an OpenTelemetry collector, for example http://localhost:4318 (OTLP over HTTP). Otherwise
    /// OTEL_EXPORTER_OTLP_ENDPOINT names it; OTEL_SERVICE_NAME and OTEL_EXPORTER_OTLP_HEADERS are heeded.
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    otlp: Option<String>,
}

fn endpoint(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['@', '?', ' ']) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("give http://HOST:PORT or https://HOST:PORT; secrets go into OTEL_EXPORTER_OTLP_HEADERS".to_owned()),
    }
}

/// What the thread is told.
enum Work {
    Span(Box<SpanData>),
    Marks(Receiver<Mark>),
    Numbers(Numbers),
    End(SyncSender<()>),
}

struct Telemetry {
    work: SyncSender<Work>,
}

static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();

/// Starts sending if it was asked for, and gives what requests are traced with.
///
/// # Errors
/// If an endpoint or a header is none.
pub(crate) fn start(arguments: Option<&OtlpArguments>) -> Result<Option<SdkTracer>, Failure> {
    let Some(arguments) = arguments else { return Ok(None) };
    let named = |variable: &&str| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
    if arguments.otlp.is_none() && !ENDPOINTS.iter().any(named) {
        return Ok(None);
    }
    if std::env::var("OTEL_SDK_DISABLED").is_ok_and(|disabled| disabled.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let resource = resource();
    let client = Client::new();
    let (work, inbox) = sync_channel(WAITING);
    let queue = Queue::new(work.clone());
    let refused = |error: opentelemetry_otlp::ExporterBuildError| Failure::usage(format!("OpenTelemetry: {error}"));
    let spans = SpanExporter::builder().with_http().with_http_client(client.clone());
    let spans = match &arguments.otlp {
        Some(base) => spans.with_endpoint(format!("{base}/v1/traces")),
        None => spans,
    };
    let mut spans = spans.build().map_err(refused)?;
    spans.set_resource(&resource);
    let numbers = MetricExporter::builder().with_http().with_http_client(client);
    let numbers = match &arguments.otlp {
        Some(base) => numbers.with_endpoint(format!("{base}/v1/metrics")),
        None => numbers,
    };
    // The thread says when: its own interval never comes.
    let reader = PeriodicReader::builder(numbers.build().map_err(refused)?).with_interval(Duration::MAX).build();
    let meters = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(reader).build();
    let traces = SdkTracerProvider::builder().with_resource(resource).with_span_processor(queue.clone()).build();
    let tracer = traces.tracer(SCOPE);
    let sender = Sender { spans, queue, meters, tracer: tracer.clone(), _traces: traces };
    thread::Builder::new().name("otlp".into()).spawn(move || sender.send(&inbox)).map_err(Failure::failed)?;
    // Started once, at the start of the process.
    let _ = TELEMETRY.set(Telemetry { work });
    Ok(Some(tracer))
}

fn resource() -> Resource {
    let named = std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty());
    let resource = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance()),
    ]);
    if named { resource.build() } else { resource.with_service_name(SCOPE).build() }
}

/// Counters begin anew with each process, so each is an instance of its own.
#[expect(clippy::disallowed_methods, reason = "the name of a process in traces reaches no result")]
fn instance() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Sends how epochs and checkpoints went that are told here. The receiver is what [`watch`] of a status gives.
///
/// [`watch`]: tidemill_dataflow::status::Status::watch
pub(crate) fn watch(marks: impl FnOnce() -> Receiver<Mark>) {
    tell(|| Work::Marks(marks()));
}

/// Sends the numbers of a text in the OpenMetrics format, read anew each time.
pub(crate) fn numbers(text: impl Fn() -> String + Send + Sync + 'static) {
    tell(|| Work::Numbers(Numbers::new(Arc::new(text))));
}

fn tell(work: impl FnOnce() -> Work) {
    if let Some(telemetry) = TELEMETRY.get() {
        // The thread is gone only with the process.
        let _ = telemetry.work.send(work());
    }
}

/// Sends what is left, if anything is sent, and waits for that, but not for long.
pub(crate) fn end() {
    let Some(telemetry) = TELEMETRY.get() else { return };
    let (done, sent) = sync_channel(1);
    // A full queue means an endpoint that is slow or away: its last words are not waited for longer than any.
    let clock = Stopwatch::start();
    let mut end = Work::End(done);
    while let Err(TrySendError::Full(again)) = telemetry.work.try_send(end) {
        if clock.elapsed() > LAST {
            return lines::warn("OpenTelemetry: the last spans and numbers were not sent");
        }
        end = again;
        thread::park_timeout(LOOK);
    }
    if sent.recv_timeout(LAST.saturating_sub(clock.elapsed())).is_err() {
        lines::warn("OpenTelemetry: the last spans and numbers were not sent");
    }
}

/// The thread that sends.
struct Sender {
    spans: SpanExporter,
    queue: Queue,
    meters: SdkMeterProvider,
    tracer: SdkTracer,
    /// Spans are made as long as it is there.
    _traces: SdkTracerProvider,
}

impl Sender {
    fn send(self, inbox: &Receiver<Work>) {
        let (mut marks, mut numbers, mut batch) = (Vec::new(), Vec::new(), Vec::new());
        let (mut spans_sent, mut numbers_sent) = (Stopwatch::start(), Stopwatch::start());
        let mut done = None;
        while done.is_none() {
            match inbox.recv_timeout(LOOK) {
                Ok(Work::Span(span)) => batch.push(*span),
                Ok(Work::Marks(told)) => marks.push(told),
                Ok(Work::Numbers(text)) => numbers.push(text),
                Ok(Work::End(sent)) => done = Some(sent),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for mark in marks.iter().flat_map(Receiver::try_iter) {
                epochs::trace(&self.tracer, &mark);
            }
            if done.is_some() {
                batch.extend(inbox.try_iter().filter_map(|work| match work {
                    Work::Span(span) => Some(*span),
                    Work::Marks(_) | Work::Numbers(_) | Work::End(_) => None,
                }));
            }
            let waited = spans_sent.elapsed() > SPANS_EVERY || done.is_some();
            if batch.len() >= BATCH || (waited && !batch.is_empty()) {
                self.export(std::mem::take(&mut batch));
                spans_sent = Stopwatch::start();
            }
            if numbers_sent.elapsed() > NUMBERS_EVERY || done.is_some() {
                self.measure(&mut numbers);
                numbers_sent = Stopwatch::start();
            }
        }
        self.queue.say_total();
        // Whoever waits may have given up.
        let _ = done.expect("the loop ends with it").send(());
    }

    fn export(&self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        // The client blocks, so there is nothing to wait for.
        let exported =
            tokio::runtime::Builder::new_current_thread().build().map(|run| run.block_on(self.spans.export(batch)));
        if !matches!(exported, Ok(Ok(()))) {
            self.queue.lost(spans);
        }
    }

    fn measure(&self, numbers: &mut [Numbers]) {
        let meter = self.meters.meter(SCOPE);
        for each in &mut *numbers {
            each.read(&meter);
        }
        if !numbers.is_empty() {
            // The client says what is wrong; the next reading holds all that this one did.
            let _ = self.meters.force_flush();
        }
    }
}

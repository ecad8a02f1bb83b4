//! The progress of a run on stderr: a bar on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tidemill_dataflow::runtime::Gauges;
use tidemill_dataflow::status::Status;
use tidemill_tables::calendar::Instant;

use super::lines;
use super::measure::Stopwatch;

/// Shows progress until it is dropped.
pub(crate) struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    pub(crate) fn start(gauges: Arc<Gauges>, status: Arc<Status>) -> Progress {
        let (stop, stopped) = channel::<()>();
        let terminal = std::io::stderr().is_terminal() && !lines::json();
        let every = if terminal { Duration::from_millis(200) } else { Duration::from_secs(5) };
        let show = move || {
            let clock = Stopwatch::start();
            let bar = terminal.then(bar);
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
                if lines::json() {
                    log(&status);
                    continue;
                }
                let text = describe(&gauges, clock.elapsed());
                match &bar {
                    Some(bar) => {
                        bar.set_length(gauges.bytes_total.load(Ordering::Relaxed));
                        bar.set_position(gauges.bytes_read.load(Ordering::Relaxed));
                        bar.set_message(text);
                    }
                    None => eprintln!("{text}"),
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        };
        // Without a thread there is no display, and nothing else is lost.
        let thread = thread::Builder::new().name("progress".into()).spawn(show).ok();
        Progress { stop: Some(stop), thread }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It only displays: there is nothing to learn from how it ended.
            let _ = thread.join();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta} | {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The same as an object with fields of their own.
fn log(status: &Status) {
    let now = status.snapshot();
    let (epoch, checkpoint) = (now.epoch.committed, now.checkpoint.epoch);
    let watermark = now.watermark.map(|watermark| watermark.to_string());
    let (events, rate) = (now.counts.events, now.rates.events_per_second);
    tracing::info!(run = now.run, epoch, watermark, events, events_per_second = rate, checkpoint, "progress");
    for reason in now.why_open.iter().filter(|reason| reason.holds) {
        tracing::info!(run = now.run, epoch, cause = reason.cause.name(), name = reason.name, "{}", reason.sentence);
    }
}

fn describe(gauges: &Gauges, elapsed: Duration) -> String {
    let events = gauges.events_committed.load(Ordering::Relaxed);
    let epoch = gauges.epoch.load(Ordering::Relaxed);
    let read = gauges.bytes_read.load(Ordering::Relaxed) >> 20;
    let watermark = match gauges.watermark.load(Ordering::Relaxed).cast_signed() {
        i64::MIN | 0 => "unknown".to_owned(),
        millis => Instant(millis).to_string(),
    };
    let checkpoints = gauges.checkpoints.load(Ordering::Relaxed);
    format!(
        "{:.0} s: {read} MiB read, {events} events committed, epoch {epoch}, watermark {watermark}, {checkpoints} checkpoints",
        elapsed.as_secs_f64()
    )
}

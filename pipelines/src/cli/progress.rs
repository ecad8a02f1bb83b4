//! The progress of a run on stderr: a bar on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tidemill_dataflow::status::{self, Status};
use tidemill_tables::calendar::Instant;

use super::lines;
use super::measure::Stopwatch;

/// Shows progress until it is dropped.
pub(crate) struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    pub(crate) fn start(status: Arc<Status>) -> Progress {
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
                let progress = status.progress();
                let text = describe(&progress, clock.elapsed());
                match &bar {
                    Some(bar) => {
                        bar.set_length(progress.bytes_total);
                        bar.set_position(progress.bytes_read);
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

fn describe(progress: &status::Progress, elapsed: Duration) -> String {
    let status::Progress { bytes_read, events, epoch, watermark, checkpoints, .. } = *progress;
    let watermark = watermark.map_or_else(|| "unknown".to_owned(), |moment| Instant(moment.0).to_string());
    format!(
        "{:.0} s: {} MiB read, {events} events committed, epoch {epoch}, watermark {watermark}, {checkpoints} checkpoints",
        elapsed.as_secs_f64(),
        bytes_read >> 20
    )
}

//! Ctrl-C and SIGTERM: the first asks a command to end in order, the second ends it at once, and so does time.

use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Failure, leave, lines};

/// How long a run that was asked to stop waits for what is under way.
pub(crate) const IN_ORDER: Duration = Duration::from_secs(7);
/// When a command that was asked to stop ends, whatever hangs: supervisors kill after ten seconds and more.
const AT_LAST: Duration = Duration::from_millis(9_500);

/// Signals that are kept until somebody acts on them.
pub(crate) struct Caught(Signals);

/// From now on signals do not end the process by themselves.
pub(crate) fn catch() -> Result<Caught, Failure> {
    Signals::new([SIGINT, SIGTERM]).map(Caught).map_err(Failure::failed)
}

impl Caught {
    /// Says `stopping` and calls `stop` at the first signal; says `at_once` and ends the process at the second, or when the
    /// command has not ended by itself in time.
    pub(crate) fn stop_on(
        mut self,
        stopping: &'static str,
        at_once: Option<&'static str>,
        stop: impl FnOnce() + Send + 'static,
    ) -> Result<(), Failure> {
        let wait = move || {
            let mut forever = self.0.forever();
            if forever.next().is_some() {
                lines::say(stopping);
                if let Some(at_once) = at_once {
                    end_at_last(at_once);
                }
                stop();
            }
            if forever.next().is_some() {
                at_once.into_iter().for_each(lines::say);
                leave(1);
            }
        };
        thread::Builder::new().name("signals".into()).spawn(wait).map(drop).map_err(Failure::failed)
    }
}

/// Ends the process in a while with this sentence, unless it has ended by then.
pub(crate) fn end_at_last(sentence: &'static str) {
    let end = move || {
        thread::park_timeout(AT_LAST);
        lines::say(sentence);
        leave(1);
    };
    // Without a thread a stop takes as long as it takes, or until the second signal.
    let _ = thread::Builder::new().name("end".into()).spawn(end);
}

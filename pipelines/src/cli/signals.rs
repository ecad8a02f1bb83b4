//! Ctrl-C and SIGTERM: the first asks a command to end in order, the second ends it at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Failure, lines};

/// Signals that are kept until somebody acts on them.
pub(crate) struct Caught(Signals);

/// From now on signals do not end the process by themselves.
pub(crate) fn catch() -> Result<Caught, Failure> {
    Signals::new([SIGINT, SIGTERM]).map(Caught).map_err(Failure::failed)
}

impl Caught {
    /// Says `stopping` and calls `stop` at the first signal; says `at_once` and ends the process at the second.
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
                stop();
            }
            if forever.next().is_some() {
                at_once.into_iter().for_each(lines::say);
                std::process::exit(1);
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop).map_err(Failure::failed)
    }
}

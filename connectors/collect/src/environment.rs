//! What the collector takes from the world besides requests: the time, and random numbers for salts.
//!
//! Everything else asks this seam, so that tests say what time it is.

use std::time::{Duration, Instant, SystemTime};

use rand::TryRngCore;
use rand::rngs::OsRng;

/// Time and randomness.
pub trait Environment: Send + Sync + 'static {
    /// The wall clock, in milliseconds since 1970.
    fn now_ms(&self) -> i64;

    /// Time since some fixed moment; never goes back.
    fn uptime(&self) -> Duration;

    /// Fills `bytes` with random numbers that nobody can guess.
    ///
    /// # Errors
    /// If the system has none to give.
    fn random(&self, bytes: &mut [u8]) -> std::io::Result<()>;
}

/// The machine's own clock and randomness.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    started: Instant,
}

impl Host {
    /// Starts counting [`uptime`](Environment::uptime).
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the seam through which all others ask for time")]
    pub fn new() -> Host {
        Host { started: Instant::now() }
    }
}

impl Default for Host {
    fn default() -> Self {
        Host::new()
    }
}

impl Environment for Host {
    #[expect(clippy::disallowed_methods, reason = "this is the seam through which all others ask for time")]
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn random(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        OsRng.try_fill_bytes(bytes).map_err(std::io::Error::other)
    }
}

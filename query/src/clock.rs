//! The clock of whoever answers: no answer is complete beyond it.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, whenever it is asked.
///
/// ```
/// use tidemill_query::Clock;
///
/// let noon = Clock::new(|| 1_431_864_000_000);
/// assert_eq!(noon.complete_through(Some(1_431_864_000_001)), Some(1_431_864_000_000));
/// assert_eq!(noon.complete_through(None), None);
/// ```
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// One that says what `now` says.
    pub fn new(now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The machine's.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "here answers are bounded by the clock; it reaches no table")]
    pub fn of_the_machine() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
    }

    /// Milliseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        (self.0)()
    }

    /// How far an answer is complete whose commit is complete through `through`: no further than now, since what has not happened yet
    /// may still come, whatever events or their senders' clocks say.
    #[must_use]
    pub fn complete_through(&self, through: Option<i64>) -> Option<i64> {
        through.map(|through| through.min(self.now()))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Clock")
    }
}

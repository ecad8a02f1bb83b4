//! How many events a second each key may send: a token bucket that holds a second's worth.
//!
//! A batch is taken whole when anything is left and may leave a debt, so a batch larger than the bucket is slowed down
//! and not refused for ever.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The buckets of all keys that have sent something.
#[derive(Debug)]
pub(crate) struct RateLimits {
    per_second: f64,
    buckets: Mutex<HashMap<u64, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Duration,
}

impl RateLimits {
    /// A full bucket for each key.
    pub(crate) fn new(per_second: u32) -> RateLimits {
        RateLimits { per_second: f64::from(per_second.max(1)), buckets: Mutex::default() }
    }

    /// Takes `events` tokens of a key; at `uptime` the bucket is filled up first.
    ///
    /// # Errors
    /// How many whole seconds to wait when nothing is left.
    pub(crate) fn take(&self, key: u64, events: usize, uptime: Duration) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = Bucket { tokens: self.per_second, filled: Duration::ZERO };
        let bucket = buckets.entry(key).or_insert(full);
        let passed = uptime.saturating_sub(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * self.per_second).min(self.per_second);
        bucket.filled = bucket.filled.max(uptime);
        if bucket.tokens < 1.0 {
            let missing = Duration::from_secs_f64((1.0 - bucket.tokens) / self.per_second);
            return Err(missing.as_secs() + 1);
        }
        bucket.tokens -= f64::from(u32::try_from(events).unwrap_or(u32::MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gets_its_rate_and_another_key_is_not_touched() {
        let limits = RateLimits::new(100);
        assert_eq!(limits.take(0, 250, Duration::ZERO), Ok(()), "a large batch is taken whole");
        assert_eq!(limits.take(0, 1, Duration::ZERO), Err(2), "and paid for");
        assert_eq!(limits.take(1, 100, Duration::ZERO), Ok(()));
        assert_eq!(limits.take(0, 1, Duration::from_millis(1_400)), Err(1));
        assert_eq!(limits.take(0, 1, Duration::from_millis(1_600)), Ok(()));
        let accepted = (0..100).filter(|_| limits.take(0, 10, Duration::from_secs(60)).is_ok()).count();
        assert_eq!(accepted, 10, "a bucket holds no more than a second's worth");
    }
}

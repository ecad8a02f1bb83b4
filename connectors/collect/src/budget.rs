//! The memory that requests may hold together (INV-8), and a request's lease on a part of it.
//!
//! Nobody waits for memory: whoever finds none left gives back what it has and asks its client to come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that are held, of so many.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    limit: u64,
    held: AtomicU64,
    peak: AtomicU64,
}

impl MemoryBudget {
    pub(crate) fn new(limit: u64) -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget { limit, held: AtomicU64::new(0), peak: AtomicU64::new(0) })
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The most that was ever held at one time.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        let more = |held: u64| held.checked_add(bytes).filter(|held| *held <= self.limit);
        let taken = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if let Ok(before) = taken {
            self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        }
        taken.is_ok()
    }
}

/// What one request holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl Lease {
    pub(crate) fn empty(budget: &Arc<MemoryBudget>) -> Lease {
        Lease { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Takes this many bytes more; false, and nothing taken, if they are not there.
    #[must_use]
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let taken = self.budget.take(bytes as u64);
        if taken {
            self.bytes += bytes as u64;
        }
        taken
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let back = self.bytes.saturating_sub(bytes as u64);
        self.bytes -= back;
        self.budget.held.fetch_sub(back, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_never_exceeded_and_comes_back() {
        let budget = MemoryBudget::new(100);
        let (mut first, mut second) = (Lease::empty(&budget), Lease::empty(&budget));
        assert!(first.grow(60) && second.grow(40));
        assert!(!second.grow(1));
        first.shrink_to(10);
        assert!(second.grow(50));
        assert_eq!((budget.held(), budget.peak()), (100, 100));
        drop((first, second));
        assert_eq!((budget.held(), budget.peak()), (0, 100));
    }
}

//! The memory that requests may hold together (INV-8), and a request's lease on a part of it.
//!
//! Nobody waits for memory: whoever finds none left gives back what it has and asks its client to come again.
//!
//! Nobody takes all of it either. How much a client may hold follows from what is free, as in the buffers of switches
//! (Choudhury and Hahne, "Dynamic queue length thresholds", 1998): an address holds at most as much as is left free for
//! others, a key at most four times as much. So one address alone ends at half of the memory and one key at four fifths,
//! and a newcomer finds room whoever came before.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many times what is free an address may hold.
const ADDRESS_SHARE: u64 = 1;
/// How many times what is free a key may hold: it may have many addresses.
const KEY_SHARE: u64 = 4;

/// Bytes that are held, of so many.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    limit: u64,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    held: u64,
    peak: u64,
    /// What those hold that hold something.
    addresses: HashMap<u128, u64>,
    keys: HashMap<u64, u64>,
}

impl MemoryBudget {
    pub(crate) fn new(limit: u64) -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget { limit, books: Mutex::default() })
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> u64 {
        self.books().held
    }

    /// The most that was ever held at one time.
    pub(crate) fn peak(&self) -> u64 {
        self.books().peak
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one request holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    budget: Arc<MemoryBudget>,
    /// Whose share it is of, as [`sharer`](tidemill_http::sharer) tells addresses apart.
    address: u128,
    /// The same for the key, once it is known.
    key: Option<u64>,
    bytes: u64,
}

impl Lease {
    pub(crate) fn empty(budget: &Arc<MemoryBudget>, address: u128, key: Option<u64>) -> Lease {
        Lease { budget: Arc::clone(budget), address, key, bytes: 0 }
    }

    /// Takes this many bytes more; false, and nothing taken, if they are not there for this client.
    #[must_use]
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let mut books = self.budget.books();
        let Some(free) = books.held.checked_add(bytes).and_then(|held| self.budget.limit.checked_sub(held)) else {
            return false;
        };
        let address = books.addresses.get(&self.address).copied().unwrap_or(0);
        if address + bytes > ADDRESS_SHARE * free || self.key.is_some_and(|key| !books.key_fits(key, bytes, free)) {
            return false;
        }
        books.held += bytes;
        books.peak = books.peak.max(books.held);
        more(&mut books.addresses, self.address, bytes);
        if let Some(key) = self.key {
            more(&mut books.keys, key, bytes);
        }
        self.bytes += bytes;
        true
    }

    /// Counts what is held, and what will be, to a key that became known late; false if it holds its share already.
    #[must_use]
    pub(crate) fn belong_to(&mut self, key: u64) -> bool {
        debug_assert_eq!(self.key, None, "a request has one key");
        let mut books = self.budget.books();
        let fits = books.key_fits(key, self.bytes, self.budget.limit - books.held);
        if fits {
            more(&mut books.keys, key, self.bytes);
            self.key = Some(key);
        }
        fits
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let back = self.bytes.saturating_sub(bytes as u64);
        if back == 0 {
            return;
        }
        self.bytes -= back;
        let mut books = self.budget.books();
        books.held -= back;
        less(&mut books.addresses, self.address, back);
        if let Some(key) = self.key {
            less(&mut books.keys, key, back);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl Books {
    fn key_fits(&self, key: u64, more: u64, free: u64) -> bool {
        self.keys.get(&key).copied().unwrap_or(0) + more <= free.saturating_mul(KEY_SHARE)
    }
}

fn more<K: Eq + Hash>(held: &mut HashMap<K, u64>, whose: K, bytes: u64) {
    if bytes > 0 {
        *held.entry(whose).or_insert(0) += bytes;
    }
}

fn less<K: Eq + Hash>(held: &mut HashMap<K, u64>, whose: K, bytes: u64) {
    if let Entry::Occupied(mut entry) = held.entry(whose) {
        *entry.get_mut() -= bytes;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes bytes one by one until there are none left.
    fn all(lease: &mut Lease) -> u64 {
        (0..).take_while(|_| lease.grow(1)).count() as u64
    }

    #[test]
    fn the_budget_is_never_exceeded_and_comes_back() {
        let budget = MemoryBudget::new(100);
        let mut leases: Vec<Lease> = (0..30).map(|address| Lease::empty(&budget, address, None)).collect();
        let taken: u64 = leases.iter_mut().map(all).sum();
        assert_eq!((budget.held(), budget.peak()), (taken, taken));
        assert!((95..=100).contains(&taken), "{taken}");
        assert!(!leases[7].grow(usize::MAX), "nor by a sum that no number holds");
        leases[0].shrink_to(10);
        assert_eq!(budget.held(), taken - 40);
        drop(leases);
        assert_eq!((budget.held(), budget.peak()), (0, taken));
        let books = budget.books();
        assert!(books.addresses.is_empty() && books.keys.is_empty(), "who holds nothing is not remembered");
    }

    #[test]
    fn an_address_ends_at_half_and_a_key_at_four_fifths_and_others_find_room() {
        let budget = MemoryBudget::new(1_000);
        let mut leases: Vec<Lease> = (0..50).map(|address| Lease::empty(&budget, address, Some(7))).collect();
        assert_eq!(all(&mut leases[0]), 500);
        assert_eq!(all(&mut Lease::empty(&budget, 0, Some(7))), 0, "another request of the address has no other share");
        assert_eq!(all(&mut leases[1]), 250, "half of what the first one left");
        let by_the_rest: u64 = leases[2..].iter_mut().map(all).sum();
        assert_eq!(500 + 250 + by_the_rest, 800, "a key has four fifths, from however many addresses");
        assert_eq!(all(&mut Lease::empty(&budget, 99, Some(8))), 100, "others still share the rest");
        leases[0].shrink_to(0);
        assert!(all(&mut leases[2]) > 0, "what is given back is there for all");
    }

    #[test]
    fn a_key_that_becomes_known_late_pays_for_what_is_held() {
        let budget = MemoryBudget::new(1_000);
        let mut first = Lease::empty(&budget, 1, Some(7));
        let mut second = Lease::empty(&budget, 2, None);
        let mut third = Lease::empty(&budget, 3, None);
        assert!(first.grow(500) && second.grow(250) && third.grow(100));
        assert!(!second.belong_to(7), "750 bytes of a key with 150 free");
        assert!(third.belong_to(7));
        drop((first, second));
        assert_eq!(budget.books().keys.get(&7), Some(&100));
        drop(third);
        assert_eq!(budget.books().keys.len(), 0);
    }
}

//! Who may have how many of something that all have together.
//!
//! Nobody takes all of it, and nobody needs a quota: how many a client may hold follows from how many are free, as in the
//! buffers of switches (Choudhury and Hahne, "Dynamic queue length thresholds", 1998). Promise: a client holds at most as
//! many as it leaves free, so one alone ends at half, and a newcomer finds one whoever came before.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who shares what one client may have: an IPv4 address, or all of an IPv6 /64, which is what one subscriber gets.
#[must_use]
pub fn sharer(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() & !u128::from(u64::MAX),
    }
}

/// So many places, and who holds them.
#[derive(Debug)]
pub struct Shares {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    of: HashMap<u128, usize>,
}

/// A place, or several, that somebody holds until it is dropped.
#[derive(Debug)]
pub struct Share {
    among: Arc<Shares>,
    whose: u128,
    places: usize,
}

impl Shares {
    /// This many places, all free.
    ///
    /// ```
    /// use tidemill_http::Shares;
    ///
    /// let places = Shares::new(4);
    /// let held = (places.take(1), places.take(1));
    /// assert!(held.1.is_some() && places.take(1).is_none(), "half of them");
    /// assert!(places.take(2).is_some(), "others find one");
    /// ```
    #[must_use]
    pub fn new(most: usize) -> Arc<Shares> {
        Arc::new(Shares { most, held: Mutex::default() })
    }

    /// A place for a client, if there is one for it: see [`sharer`].
    #[must_use]
    pub fn take(self: &Arc<Shares>, whose: u128) -> Option<Share> {
        self.take_several(whose, 1)
    }

    /// So many places at once, or none.
    #[must_use]
    pub fn take_several(self: &Arc<Shares>, whose: u128, places: usize) -> Option<Share> {
        let mut held = self.held();
        let left_free = self.most.checked_sub(held.all)?.checked_sub(places)?;
        let own = held.of.get(&whose).copied().unwrap_or(0) + places;
        // The last one may be taken by whoever has none.
        if own > left_free + 1 {
            return None;
        }
        held.all += places;
        held.of.insert(whose, own);
        Some(Share { among: Arc::clone(self), whose, places })
    }

    /// How many are held now.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.held().all
    }

    /// How many there are.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.among.held();
        held.all -= self.places;
        match held.of.get_mut(&self.whose) {
            Some(own) if *own > self.places => *own -= self.places,
            // Who holds nothing is not remembered.
            _ => drop(held.of.remove(&self.whose)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(places: &Arc<Shares>, whose: u128) -> Vec<Share> {
        std::iter::from_fn(|| places.take(whose)).collect()
    }

    #[test]
    fn one_client_ends_at_half_and_a_newcomer_finds_a_place() {
        let places = Shares::new(64);
        let mut first = all(&places, 1);
        let second = all(&places, 2);
        assert_eq!((first.len(), second.len()), (32, 16), "half, and half of what is left");
        assert_eq!(all(&places, 3).len(), 8);
        assert_eq!(places.in_use(), 48, "what the third had is free again");
        first.truncate(1);
        assert_eq!(all(&places, 2).len(), 16, "up to as many as are left free");
        drop((first, second));
        assert_eq!((places.in_use(), places.held().of.len()), (0, 0));
    }

    #[test]
    fn one_place_is_one_for_whoever_comes_first_and_none_is_none() {
        let one = Shares::new(1);
        let held = one.take(7);
        assert!(held.is_some() && one.take(8).is_none());
        drop(held);
        assert!(one.take(8).is_some() && Shares::new(0).take(1).is_none());
    }

    #[test]
    fn several_at_once_are_half_at_most_too() {
        let places = Shares::new(1_000);
        assert!(places.take_several(1, 600).is_none() && places.take_several(1, usize::MAX).is_none());
        let held = places.take_several(1, 400);
        assert!(held.is_some() && places.take_several(1, 101).is_none());
        assert!(places.take_several(2, 300).is_some());
        drop(held);
        assert_eq!(places.in_use(), 0);
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_every_ipv4_address_its_own() {
        let of = |address: &str| sharer(address.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:ffff::4"));
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    }
}

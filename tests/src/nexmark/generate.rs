//! Happenings made up from a seed, in about the benchmark's proportions: of 50, one person, three auctions, 46 bids.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Auction, Bid, Happening, Person};

/// Milliseconds since 1970 of the first happening.
const BEGIN: i64 = 1_767_225_600_000;

/// How far a happening may be behind the one before it, in milliseconds, so that none is late: less than the queries wait.
pub const IN_TIME: i64 = 1_500;

/// `number` happenings, ten milliseconds apart on average, and out of order by less than `disorder` milliseconds; the same
/// for the same seed.
#[must_use]
pub fn generate(number: usize, seed: u64, disorder: i64) -> Vec<Happening> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut persons, mut auctions) = (0, 0);
    (0_i64..)
        .take(number)
        .map(|at| {
            let time = BEGIN + 10 * at - random.random_range(0..disorder);
            match at % 50 {
                0 => {
                    persons += 1;
                    Happening::Person(Person { id: persons, name: format!("person-{}", persons % 97), time })
                }
                1..=3 => {
                    auctions += 1;
                    // Mostly those who came last sell.
                    let seller = (persons - random.random_range(0..20)).max(1);
                    Happening::Auction(Auction { id: auctions, seller, category: random.random_range(0..10), time })
                }
                _ => {
                    // Half of the bids go to the newest auctions, so that some are hot.
                    let newest = if random.random_bool(0.5) { 4 } else { 200 };
                    let auction = (auctions - random.random_range(0..newest)).max(1);
                    let bidder = random.random_range(1..=persons.max(2) + 50);
                    Happening::Bid(Bid { auction, bidder, price_cents: random.random_range(1..1_000_000), time })
                }
            }
        })
        .collect()
}

//! [`Draw`]: the random numbers of a simulation, all from one seed, the same on every machine.

use crate::hash::mix;

/// A stream of numbers that a seed decides.
#[derive(Clone, Debug)]
pub(super) struct Draw {
    seed: u64,
    drawn: u64,
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Draw { seed: mix(seed, 0x5eed), drawn: 0 }
    }

    /// A number below `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        let mixed = mix(mix(self.seed, self.drawn), self.drawn ^ self.seed);
        // The upper half is mixed best.
        (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(32) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_reaches_all_of_a_small_range() {
        let numbers = |seed| {
            let mut draw = Draw::new(seed);
            (0..200).map(|_| draw.below(7)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
        assert!((0..7).all(|n| numbers(3).contains(&n)));
    }
}

//! Randomness and skew: who is about, what is looked at, in integers only so that every machine agrees.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Slots of a sampling table: fine enough that the rarest of 12,000 users still has one.
const SLOTS: u64 = 1 << 18;
/// A user is about for this long and then away for as long, which ends the session.
const TURN: u64 = 40 * 60_000;

/// The one source of randomness of a run.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `n`, evenly; 0 for `n = 0`.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        let product = u128::from(self.0.next_u64()) * u128::from(n);
        u64::try_from(product >> 64).expect("the upper half of a 128-bit product")
    }

    pub(super) fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("below a usize")
    }

    pub(super) fn between(&mut self, from: u64, until: u64) -> u64 {
        from + self.below(until - from)
    }

    /// A number below `n`, most often a small one.
    pub(super) fn small(&mut self, n: u64) -> u64 {
        let first = self.below(n + 1);
        let second = self.below(first + 1);
        self.below(second + 1)
    }

    /// An index below `n` (at least 1), most often a small one.
    pub(super) fn small_index(&mut self, n: usize) -> usize {
        usize::try_from(self.small(n as u64 - 1)).expect("below a usize")
    }

    /// True this many times in a million.
    pub(super) fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && u64::from(self.0.next_u32()) * 1_000_000 < u64::from(per_million) << 32
    }
}

/// Draws ranks from 0 in Zipf's proportions by one table look-up.
struct Zipf(Vec<u32>);

impl Zipf {
    /// `flat` softens the head: rank r has weight 1 / (r + flat).
    fn new(ranks: u32, flat: u64) -> Self {
        let weight = |rank: u32| (1_u64 << 40) / (u64::from(rank) + flat);
        let total: u64 = (0..ranks).map(weight).sum();
        let mut slots = Vec::new();
        let mut cumulated = 0;
        for rank in 0..ranks {
            cumulated += weight(rank);
            let until = u64::try_from(u128::from(SLOTS) * u128::from(cumulated) / u128::from(total));
            let until = usize::try_from(until.expect("at most the slots")).expect("at most the slots");
            // Every rank has a slot at least, or a large population would lose its tail.
            slots.resize(until.max(slots.len() + 1), rank);
        }
        Zipf(slots)
    }

    fn draw(&self, dice: &mut Dice) -> u32 {
        self.0[dice.index(self.0.len())]
    }
}

/// The users and pages of a run.
pub(super) struct Population {
    users: Zipf,
    pages: Zipf,
    /// Each page as JSON text with quotes, in two spellings of the same string.
    spellings: Vec<[Vec<u8>; 2]>,
}

impl Population {
    pub(super) fn new(active_users: u32, pages: u32) -> Self {
        Population {
            users: Zipf::new(active_users, 8),
            pages: Zipf::new(pages, 3),
            spellings: (0..pages).map(spellings).collect(),
        }
    }

    /// A user's number: two users take turns at each rank, so each comes back after an absence.
    pub(super) fn user_at(&self, dice: &mut Dice, time: u64) -> u64 {
        let rank = u64::from(self.users.draw(dice));
        let turn = (time + mix(rank) % TURN) / TURN;
        rank * 2 + (turn & 1)
    }

    /// A number that changes whenever a user comes back.
    pub(super) fn visit(user: u64, time: u64) -> u64 {
        mix(user ^ ((time + mix(user / 2) % TURN) / TURN) << 32)
    }

    /// A page as JSON text, now and then in its other spelling.
    pub(super) fn page(&self, dice: &mut Dice) -> &[u8] {
        let page = self.pages.draw(dice) as usize;
        &self.spellings[page][usize::from(dice.below(8) == 0)]
    }
}

fn spellings(page: u32) -> [Vec<u8>; 2] {
    const SECTIONS: [&str; 6] = ["product", "category", "search", "blog", "help", "account"];
    let both = |text: String| [text.clone().into_bytes(), text.into_bytes()];
    match page {
        0 => [br#""/""#.to_vec(), br#""\/""#.to_vec()],
        1 => both(r#""/checkout""#.to_owned()),
        5 => ["\"/caf\u{e9}\"".as_bytes().to_vec(), br#""/caf\u00e9""#.to_vec()],
        9 => ["\"/日本語/ガイド\"".as_bytes().to_vec(), br#""/\u65e5\u672c\u8a9e/\u30ac\u30a4\u30c9""#.to_vec()],
        12 => ["\"/party-\u{1f389}\"".as_bytes().to_vec(), br#""/party-\ud83c\udf89""#.to_vec()],
        17 => [br#""/quote\"d\\path""#.to_vec(), br#""/quote\u0022d\u005cpath""#.to_vec()],
        23 => [br#""/tab\there""#.to_vec(), br#""/tab\u0009here""#.to_vec()],
        40 => both(r#""""#.to_owned()),
        _ => both(format!("\"/{}/{}\"", SECTIONS[page as usize % 6], 1_000 + page)),
    }
}

/// A bijection of 64 bits (SplitMix64's finaliser), to make numbers look like ids.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

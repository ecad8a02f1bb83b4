//! New inputs from old ones: the few changes that find most, each drawn from one seeded stream.

use rand::Rng;
use rand::seq::IndexedRandom;

/// No input is longer.
pub const LONGEST: usize = 64 << 10;

/// Numbers at which readers change their mind.
const TURNS: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, 1 << 63, u64::MAX];

/// An input made of one of `inputs` by some changes; now and then of nothing but chance.
pub fn next(random: &mut impl Rng, inputs: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut bytes = match inputs.choose(random) {
        Some(input) if random.random_ratio(63, 64) => input.clone(),
        _ => (0..random.random_range(0..512)).map(|_| random.random()).collect(),
    };
    // Mostly few changes, so that most of an input stays what it was.
    let changes = 1 << random.random_range(0..5);
    for _ in 0..random.random_range(1..=changes) {
        change(random, &mut bytes, inputs, words);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(random: &mut impl Rng, bytes: &mut Vec<u8>, inputs: &[Vec<u8>], words: &[&str]) {
    let at = random.random_range(0..=bytes.len());
    let to = (at + length(random)).min(bytes.len());
    match random.random_range(0..11) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = random.random(),
        2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(random.random_range(0..9)).wrapping_sub(4),
        3 => drop(bytes.drain(at..to)),
        4 => {
            let copied = bytes[at..to].to_vec();
            let times = if random.random_ratio(1, 32) { random.random_range(1..200) } else { 1 };
            for _ in 0..times {
                insert(bytes, at, &copied);
            }
        }
        5 => bytes.truncate(at),
        6 => {
            let turn = TURNS.choose(random).copied().unwrap_or_default();
            let wide = random.random_range(1..=8);
            let mut number = turn.to_le_bytes()[..wide].to_vec();
            if random.random() {
                number.reverse();
            }
            replace(bytes, at, &number);
        }
        7 => {
            let turn = TURNS.choose(random).copied().unwrap_or_default();
            let figures = if random.random() { turn.to_string() } else { turn.cast_signed().to_string() };
            let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            bytes.splice(at..at + digits, figures.into_bytes());
        }
        8 | 9 if !words.is_empty() => {
            let word = words.choose(random).copied().unwrap_or_default();
            if random.random() { insert(bytes, at, word.as_bytes()) } else { replace(bytes, at, word.as_bytes()) }
        }
        _ => {
            if let Some(other) = inputs.choose(random).filter(|other| !other.is_empty()) {
                let from = random.random_range(0..other.len());
                let piece = &other[from..(from + length(random)).min(other.len())];
                if random.random() { insert(bytes, at, piece) } else { replace(bytes, at, piece) }
            }
        }
    }
}

/// Short most often, long now and then.
fn length(random: &mut impl Rng) -> usize {
    let most = 1 << random.random_range(0..11);
    random.random_range(1..=most)
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    if bytes.len() + piece.len() <= LONGEST {
        bytes.splice(at..at, piece.iter().copied());
    }
}

fn replace(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let to = (at + piece.len()).min(bytes.len());
    bytes.splice(at..to, piece.iter().copied());
}

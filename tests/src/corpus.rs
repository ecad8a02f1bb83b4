//! Input files for tests: generated, shuffled within the horizon, dealt over several files, compressed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_connectors::generate::{GenerateConfig, Rates, generate};

/// Generated events as bytes.
///
/// # Panics
/// Never: the configuration is the generator's own.
#[must_use]
pub fn events(count: u64, seed: u64, rates: Rates) -> Vec<u8> {
    let config = GenerateConfig { rates, oversized_lines: 1, ..GenerateConfig::new(count, seed) };
    let mut bytes = Vec::new();
    generate(&config, &mut bytes).expect("a vector takes all that is written");
    bytes
}

/// The lines without their ends; the last one of a text that ends in a newline is not an empty one.
#[must_use]
pub fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}

/// Lines joined to a text, each with its end.
#[must_use]
pub fn joined<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    bytes
}

/// The lines in another order, none moved past more than `distance` others.
#[must_use]
pub fn shuffled(bytes: &[u8], distance: usize, seed: u64) -> Vec<u8> {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut placed: Vec<(usize, &[u8])> =
        lines(bytes).into_iter().enumerate().map(|(at, line)| (at + dice.random_range(0..=distance), line)).collect();
    placed.sort_by_key(|(place, _)| *place);
    joined(placed.into_iter().map(|(_, line)| line))
}

/// The lines dealt over `hands` texts like cards.
#[must_use]
pub fn dealt(bytes: &[u8], hands: usize) -> Vec<Vec<u8>> {
    let lines = lines(bytes);
    (0..hands).map(|hand| joined(lines.iter().skip(hand).step_by(hands).copied())).collect()
}

/// The lines cut into `pieces` consecutive texts.
#[must_use]
pub fn cut(bytes: &[u8], pieces: usize) -> Vec<Vec<u8>> {
    let lines = lines(bytes);
    lines.chunks(lines.len().div_ceil(pieces)).map(|piece| joined(piece.iter().copied())).collect()
}

/// Writes a file of a folder and gives its path.
///
/// # Panics
/// When the file cannot be written.
#[must_use]
pub fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// Packs with gzip in two members, as `cat a.gz b.gz` leaves them.
///
/// # Panics
/// Never: a vector takes all that is written.
#[must_use]
pub fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let (first, second) = bytes.split_at(bytes.len() / 3);
    let mut packed = Vec::new();
    for member in [first, second] {
        let mut encoder = GzEncoder::new(&mut packed, Compression::fast());
        encoder.write_all(member).and_then(|()| encoder.try_finish()).expect("a vector takes all that is written");
    }
    packed
}

/// Packs with zstd in two frames.
///
/// # Panics
/// Never: a vector takes all that is written.
#[must_use]
pub fn zstandard(bytes: &[u8]) -> Vec<u8> {
    let (first, second) = bytes.split_at(bytes.len() / 3);
    [first, second].map(|frame| zstd::encode_all(frame, 1).expect("a vector takes all that is written")).concat()
}

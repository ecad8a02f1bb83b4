//! How fast events are read and decoded: `cargo run --release --example decode_speed FILE`.
//!
//! Reads the file's blocks first (page cache, unpacking and digest included), then decodes them on one thread, five
//! times; prints events a second for both, and what the events were.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Write, stderr};
use std::time::{Duration, Instant};

use tidemill_connectors::files::{FileSource, FilesConfig};
use tidemill_dataflow::source::{BlockReader, Decode, Decoded, Source};

const BLOCK_BYTES: usize = 1 << 20;

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn timed<T>(work: impl FnOnce() -> Result<T, Box<dyn Error>>) -> Result<(T, Duration), Box<dyn Error>> {
    let start = Instant::now();
    let result = work()?;
    Ok((result, start.elapsed()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<_> = std::env::args_os().skip(1).map(Into::into).collect();
    let source = FileSource::new(FilesConfig { paths, ..FilesConfig::default() });
    let mut decoder = source.decoder();
    for _ in 0..5 {
        let (blocks, reading) = timed(|| {
            let mut reader: Box<dyn BlockReader> = source.open(&[])?;
            let mut blocks = Vec::new();
            for number in (0..).take(reader.partitions().len()) {
                while let Some(block) = reader.read(number, BLOCK_BYTES, None)? {
                    blocks.push(block);
                }
            }
            Ok(blocks)
        })?;
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        let (events, decoding) = timed(|| {
            let mut events = 0_u32;
            for block in blocks {
                let mut out = Decoded::default();
                decoder.decode(block, &mut out);
                events += u32::try_from(out.records.len() + out.malformed.len())?;
                *kinds.entry("(malformed)".to_owned()).or_default() += out.malformed.len() as u64;
                if let Some(event) = out.records.first() {
                    *kinds.entry(format!("(first of a block) {}", event.event_type())).or_default() += 1;
                }
            }
            Ok(events)
        })?;
        let rate = |time: Duration| f64::from(events) / time.as_secs_f64() / 1e3;
        writeln!(
            stderr(),
            "{events} events: read {:.0} k/s, decode {:.0} k/s; {kinds:?}",
            rate(reading),
            rate(decoding)
        )?;
    }
    Ok(())
}

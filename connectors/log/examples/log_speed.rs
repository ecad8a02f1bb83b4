//! How fast a log takes and gives records of 1,000 bytes in batches of 100: `cargo run --release -p tidemill-embedded-log
//! --example log_speed [-- FOLDER]`. The folder should lie on the disk that is meant.

use std::env;
use std::error::Error;
use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use tidemill_embedded_log::{LogOptions, LogReader, Record, TopicWriter};

const BATCH: u32 = 100;
const BATCHES: u32 = 5_000;

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn timed(act: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Duration, Box<dyn Error>> {
    let begun = Instant::now();
    act()?;
    Ok(begun.elapsed())
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = env::args().nth(1).unwrap_or_else(|| "log-speed".to_owned());
    let value = vec![b'x'; 1_000];
    let records = vec![Record { key: b"", value: &value, time_ms: 0 }; BATCH as usize];
    let mut out = stdout().lock();
    for (partitions, batches_a_sync) in [(1, 1), (1, 20), (4, 1), (4, 20)] {
        let topic = format!("speed.{partitions}.{batches_a_sync}");
        let mut writer = TopicWriter::open(root.as_ref(), &topic, partitions, &LogOptions::default())?;
        let batches = if batches_a_sync == 1 { BATCHES / 10 } else { BATCHES };
        let taken = timed(|| {
            for batch in 0..batches {
                writer.append(batch % partitions, &records)?;
                if batch % batches_a_sync == batches_a_sync - 1 {
                    writer.sync()?;
                }
            }
            Ok(writer.sync()?)
        })?;
        let rate = f64::from(batches * BATCH) / taken.as_secs_f64();
        let each = taken.as_secs_f64() * 1e3 / f64::from(batches / batches_a_sync);
        writeln!(
            out,
            "{partitions} partitions, sync every {batches_a_sync} batches: {rate:.0} records/s, {each:.2} ms a sync"
        )?;
        let mut read = 0_u32;
        let reading = timed(|| {
            for partition in 0..partitions {
                let mut reader = LogReader::open(root.as_ref(), &topic, partition)?;
                while reader.next()?.is_some() {
                    read += 1;
                }
            }
            Ok(())
        })?;
        writeln!(out, "  read: {:.0} records/s", f64::from(read) / reading.as_secs_f64())?;
    }
    Ok(())
}

//! Loading a topic with lines, for generators, tools and tests.

use std::path::Path;

use crate::batch::Record;
use crate::error::LogError;
use crate::writer::{LogOptions, TopicWriter};

/// Lines of one batch.
const LINES: usize = 500;
/// Bytes that are appended between two syncs.
const SYNC_AT: usize = 8 << 20;

/// Appends lines to a topic, which is made if it is missing, each once and in order within a partition; `partition_of`
/// gets a line's number, from 0, and the line. `time_ms` is when they are appended, in milliseconds since 1970. Returns
/// when all of them are durable and published, and how many there were.
///
/// # Errors
/// What [`TopicWriter`] says; some lines may be there then.
pub fn produce_lines<'a>(
    root: &Path,
    topic: &str,
    partitions: u32,
    lines: impl IntoIterator<Item = &'a [u8]>,
    time_ms: i64,
    mut partition_of: impl FnMut(u64, &[u8]) -> u32,
) -> Result<u64, LogError> {
    let mut writer = TopicWriter::open(root, topic, partitions, &LogOptions::default())?;
    let mut waiting: Vec<Vec<Record<'a>>> = vec![Vec::new(); partitions as usize];
    let (mut sent, mut bytes) = (0, 0);
    for value in lines {
        let partition = partition_of(sent, value);
        writer.topic().check(partition)?;
        let batch = &mut waiting[partition as usize];
        batch.push(Record { key: b"", value, time_ms });
        if batch.len() == LINES {
            writer.append(partition, batch)?;
            batch.clear();
        }
        sent += 1;
        bytes += value.len();
        if bytes >= SYNC_AT {
            bytes = 0;
            writer.sync()?;
        }
    }
    for (partition, batch) in (0..).zip(&waiting) {
        writer.append(partition, batch)?;
    }
    writer.sync()?;
    Ok(sent)
}

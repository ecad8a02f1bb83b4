//! The embedded log on disk: what a partition's files may hold, to readers and to the next writer.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use crc32c::{crc32c, crc32c_append};
use tempfile::TempDir;
use tidemill_embedded_log::{LogOptions, LogReader, Record, TopicWriter};

use crate::input::{Input, piece};
use crate::memory::within;

const TOPIC: &str = "t";
/// Bytes of a batch before its note, and of a record beside key and value.
const HEADER: usize = 44;
const RECORD: usize = 16;

/// A folder that the next input finds empty. One thread at a time has it.
pub(crate) fn folder() -> &'static Mutex<TempDir> {
    static FOLDER: OnceLock<Mutex<TempDir>> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // In memory, where there is such a place: every input begins by deleting files.
        let made = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
        Mutex::new(made.expect("there is room for a folder"))
    })
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let root = folder().lock().unwrap_or_else(PoisonError::into_inner);
    let root = root.path();
    let _ = fs::remove_dir_all(root.join(TOPIC));
    let mode = input.byte();
    if mode & 1 == 0 {
        records_come_out_as_they_went_in(root, input);
    } else {
        whatever_is_there_is_read_or_refused(root, input, mode);
    }
}

/// Appends records in batches that the input cuts, and reads all of them.
fn records_come_out_as_they_went_in(root: &Path, mut input: Input<'_>) {
    let options = LogOptions { segment_bytes: 1 + input.number(2), ..LogOptions::default() };
    let open = || TopicWriter::open(root, TOPIC, 1, &options).expect("what was written is intact");
    let (mut writer, mut written, mut latest) = (open(), Vec::new(), i64::MIN);
    while !input.is_empty() && written.len() < 200 {
        match input.byte() % 8 {
            0 => writer.sync().expect("the folder takes it"),
            1 => {
                writer.sync().expect("the folder takes it");
                drop(writer);
                writer = open();
            }
            _ => {
                let (time_ms, key, value) = (input.number(8).cast_signed(), input.piece(), input.piece());
                let at = writer.append(0, &[Record { key, value, time_ms }]).expect("the folder takes it");
                assert_eq!(at, written.len() as u64, "offsets are dense");
                latest = latest.max(time_ms);
                written.push((key, value, latest));
            }
        }
    }
    writer.sync().expect("the folder takes it");
    let mut reader = LogReader::open(root, TOPIC, 0).expect("it is a topic");
    for (at, (key, value, time_ms)) in written.iter().enumerate() {
        let read = reader.next().expect("what was written is intact");
        assert_eq!(read, Some((at as u64, Record { key, value, time_ms: *time_ms })));
    }
    assert_eq!(reader.next().expect("what was written is intact"), None);
    if let Some((at, (_, _, time))) = written.iter().enumerate().nth(written.len() / 2) {
        let first = written.iter().position(|(_, _, other)| other >= time).unwrap_or(at);
        let found = reader.offset_of_time(*time).expect("what was written is intact");
        assert_eq!(found, Some(first as u64));
    }
}

/// Puts files under a topic's names and has them read, mended and written to.
fn whatever_is_there_is_read_or_refused(root: &Path, mut input: Input<'_>, mode: u8) {
    drop(TopicWriter::open(root, TOPIC, 1, &LogOptions::default()).expect("an empty folder takes a topic"));
    let (seek, time) = (input.number(8), input.number(8).cast_signed());
    let (claimed, sequence) = (input.number(8), input.number(1));
    let index = (mode & 8 != 0).then(|| input.piece());
    let segment = if mode & 2 == 0 { input.0.to_vec() } else { batches(input) };
    let folder = root.join(TOPIC);
    fs::write(folder.join("0/00000000000000000000.log"), &segment).expect("the folder takes it");
    if let Some(index) = index {
        let content = [b"TMIDX001", index].concat();
        let whole = [&content[..], &crc32c(&content).to_le_bytes()].concat();
        fs::write(folder.join("0/00000000000000000000.index"), whole).expect("the folder takes it");
    }
    let position = if mode & 4 == 0 { segment.len() as u64 } else { claimed.rotate_left(17) };
    fs::write(folder.join("published"), published(sequence, claimed, position)).expect("the folder takes it");

    let most = segment.len() / RECORD + 2;
    within(segment.len() * 8 + (8 << 20), || read(root, seek, time, most));
    let options = LogOptions::default();
    if let Ok(mut writer) = TopicWriter::open(root, TOPIC, 1, &options) {
        let record = Record { key: b"key", value: b"value", time_ms: 1 };
        if writer.append(0, &[record]).and_then(|_| writer.sync()).is_ok() {
            drop(writer);
            let mended = TopicWriter::open(root, TOPIC, 1, &options);
            mended.unwrap_or_else(|error| panic!("what was mended is intact: {error}"));
        }
    }
    read(root, seek, time, most + 1);
}

/// Reads until the end or the first damage; an error is an answer.
fn read(root: &Path, seek: u64, time: i64, most: usize) {
    let Ok(mut reader) = LogReader::open(root, TOPIC, 0) else { return };
    let mut read = 0;
    while let Ok(Some(_)) = reader.next() {
        read += 1;
        assert!(read <= most, "more records are read than fit the file");
    }
    let _ = reader.offset_of_time(time);
    reader.seek(seek);
    let _ = reader.next();
}

/// The ends of the partition, as a topic's file has them.
fn published(sequence: u64, offset: u64, position: u64) -> Vec<u8> {
    let mut slot = b"TMEND001".to_vec();
    slot.extend_from_slice(&sequence.to_le_bytes());
    slot.extend_from_slice(&1_u32.to_le_bytes());
    for number in [offset, 0, position] {
        slot.extend_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c(&slot);
    slot.extend_from_slice(&crc.to_le_bytes());
    // The other slot is the older one.
    let mut file = vec![0; if sequence.is_multiple_of(2) { 0 } else { 4096 }];
    file.extend_from_slice(&slot);
    file
}

/// Batches whose checksums and lengths fit, whatever else they say.
fn batches(mut input: Input<'_>) -> Vec<u8> {
    let (mut file, mut offset) = (Vec::new(), 0_u64);
    while !input.is_empty() {
        let odd = input.byte();
        let base = if odd & 1 == 0 { offset } else { input.number(8) };
        let count = if odd & 2 == 0 { u32::from(input.byte()) } else { cut(input.number(4)) };
        let note = if odd & 4 == 0 { 0 } else { cut(input.number(2)) };
        let times = input.number(8);
        let body = input.piece();
        let mut batch = b"TMB1".to_vec();
        batch.extend_from_slice(&cut((HEADER + body.len()) as u64).to_le_bytes());
        batch.extend_from_slice(&[0; 4]);
        batch.extend_from_slice(&note.to_le_bytes());
        batch.extend_from_slice(&base.to_le_bytes());
        batch.extend_from_slice(&count.to_le_bytes());
        batch.extend_from_slice(&times.to_le_bytes());
        batch.extend_from_slice(&times.to_le_bytes());
        batch.extend_from_slice(body);
        let crc = crc32c_append(crc32c(&batch[..8]), &batch[12..]);
        batch[8..12].copy_from_slice(&crc.to_le_bytes());
        file.extend_from_slice(&batch);
        offset = offset.wrapping_add(u64::from(count));
    }
    file
}

fn cut(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let record = |key: &[u8], value: &[u8]| [&[2], &7_u64.to_le_bytes()[..], &piece(key), &piece(value)].concat();
    let ordinary =
        [&[0, 64, 0][..], &record(b"key", b"value"), &[0], &record(b"", b"{}"), &[1], &record(b"k", b"")].concat();
    let body = [&7_u64.to_le_bytes()[..], &1_u32.to_le_bytes(), &2_u32.to_le_bytes(), b"kvv"].concat();
    let batch = |odd: u8, rest: &[u8]| [&[odd], rest, &[7; 8], &piece(&body)].concat();
    let front = |mode: u8| [&[mode][..], &[1; 8], &[2; 8], &2_u64.to_le_bytes(), &[2]].concat();
    let two = [batch(0, &[1]), batch(0, &[1])].concat();
    let far = [&u64::MAX.to_le_bytes()[..], &[1]].concat();
    let mut seeds = vec![ordinary];
    for mode in [1, 3, 7] {
        seeds.push([front(mode), two.clone()].concat());
        seeds.push([front(mode), batch(1, &far)].concat());
        seeds.push([front(mode), batch(2, &[0xff; 4])].concat());
    }
    seeds.push([front(11), piece(&[9; 24]), two].concat());
    seeds
}

//! What the writer promises, with every kind of failure below it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::*;
use crate::batch::HEADER;
use crate::reader::LogReader;
use crate::segment;

mod crashes;
mod retention;

const TOPIC: &str = "events.click";

/// What the next calls do.
#[derive(Debug, Default)]
struct Faults {
    /// How many bytes still fit into segments.
    room: Option<u64>,
    /// The next syncs fail.
    unsyncable: bool,
    /// What a power cut leaves of the published ends at least.
    published: Option<Vec<u8>>,
}

/// A disk that does what it is told.
#[derive(Clone, Debug, Default)]
struct Faulty(Arc<Mutex<Faults>>);

impl Faulty {
    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[derive(Debug)]
struct FaultyFile(Box<dyn DiskFile>, Faulty);

impl Disk for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FaultyFile(RealDisk.create(path)?, self.clone())))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open(path)?;
        // The published ends are written in place and take no room.
        let ends = path.file_name().is_some_and(|name| name == published::NAME);
        Ok(if ends {
            Box::new(Ends(file, path.into(), self.clone()))
        } else {
            Box::new(FaultyFile(file, self.clone()))
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_folder(path)
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut fits = bytes.len();
        self.1.set(|faults| {
            if let Some(room) = &mut faults.room {
                fits = fits.min(usize::try_from(*room).unwrap());
                *room -= fits as u64;
            }
        });
        self.0.write_at(&bytes[..fits], position)?;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }

    fn sync(&self) -> io::Result<()> {
        let mut fails = false;
        self.1.set(|faults| fails = faults.unsyncable);
        if fails { Err(io::Error::other("the cable came off")) } else { self.0.sync() }
    }
}

#[derive(Debug)]
struct Ends(Box<dyn DiskFile>, PathBuf, Faulty);

impl DiskFile for Ends {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.write_at(bytes, position)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()?;
        let content = fs::read(&self.1)?;
        self.2.set(|faults| faults.published = Some(content));
        Ok(())
    }
}

/// A folder with one topic.
struct Setting {
    folder: TempDir,
    disk: Faulty,
    partitions: u32,
    options: LogOptions,
}

impl Setting {
    fn new(partitions: u32, segment_bytes: u64) -> Setting {
        let options = LogOptions { segment_bytes, ..LogOptions::default() };
        Setting { folder: tempfile::tempdir().unwrap(), disk: Faulty::default(), partitions, options }
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn try_open(&self) -> Result<TopicWriter, LogError> {
        TopicWriter::open_on(Arc::new(self.disk.clone()), self.root(), TOPIC, self.partitions, self.options)
    }

    fn open(&self) -> TopicWriter {
        self.try_open().unwrap()
    }

    fn reader(&self, partition: u32) -> LogReader {
        LogReader::open(self.root(), TOPIC, partition).unwrap()
    }

    fn read(&self, partition: u32) -> Vec<Vec<u8>> {
        let mut reader = self.reader(partition);
        let first = reader.position();
        let mut values = Vec::new();
        while let Some((offset, record)) = reader.next().unwrap() {
            assert_eq!(offset, first + values.len() as u64, "offsets are dense");
            values.push(record.value.to_vec());
        }
        values
    }

    fn partition(&self, partition: u32) -> PathBuf {
        self.root().join(TOPIC).join(partition.to_string())
    }

    fn segment(&self, base: u64) -> PathBuf {
        segment::path(&self.partition(0), base)
    }

    fn published(&self) -> PathBuf {
        self.root().join(TOPIC).join(published::NAME)
    }
}

fn append(writer: &mut TopicWriter, partition: u32, values: &[&str]) -> Result<u64, LogError> {
    let records: Vec<Record<'_>> =
        values.iter().map(|value| Record { key: b"k", value: value.as_bytes(), time_ms: 1_000 }).collect();
    writer.append(partition, &records)
}

fn written(writer: &mut TopicWriter, partition: u32, values: &[&str]) -> u64 {
    let first = append(writer, partition, values).unwrap();
    writer.sync().unwrap();
    first
}

#[test]
fn records_come_back_in_order_with_dense_offsets_and_only_after_a_sync() {
    let setting = Setting::new(2, 1 << 20);
    let mut writer = setting.open();
    let mut reader = setting.reader(1);
    assert_eq!(append(&mut writer, 1, &["a", "b"]).unwrap(), 0);
    assert_eq!(append(&mut writer, 1, &["c"]).unwrap(), 2);
    assert_eq!(append(&mut writer, 1, &[]).unwrap(), 3);
    assert_eq!(reader.next().unwrap(), None);
    writer.sync().unwrap();
    let record = |value| Record { key: b"k", value, time_ms: 1_000 };
    assert_eq!(reader.next().unwrap(), Some((0, record(b"a"))));
    assert_eq!(reader.next().unwrap(), Some((1, record(b"b"))));
    assert_eq!(reader.next().unwrap(), Some((2, record(b"c"))));
    assert_eq!(reader.next().unwrap(), None);
    assert_eq!((writer.end(0).unwrap(), writer.end(1).unwrap()), (0, 3));
    drop(writer);
    let mut reopened = setting.open();
    assert_eq!(written(&mut reopened, 1, &["d"]), 3);
    assert_eq!(reader.next().unwrap(), Some((3, record(b"d"))));
    reader.seek(1);
    assert_eq!(reader.next().unwrap(), Some((1, record(b"b"))));
}

#[test]
fn a_batch_larger_than_a_segment_and_a_record_larger_than_a_batch_are_written() {
    let setting = Setting::new(1, 1_000);
    let mut writer = setting.open();
    let large = "x".repeat(3 << 20);
    written(&mut writer, 0, &["a", &large, "b"]);
    let read = setting.read(0);
    assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), [1, 3 << 20, 1]);
    let too_large = "x".repeat(crate::MAX_RECORD_BYTES);
    let error = append(&mut writer, 0, &[&too_large]).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Refused);
    assert_eq!(written(&mut writer, 0, &["c"]), 3, "a refusal breaks nothing");
}

#[test]
fn a_second_writer_is_refused_with_the_lock_until_the_first_is_gone() {
    let setting = Setting::new(1, 1 << 20);
    let first = setting.open();
    let error = setting.try_open().unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Locked);
    assert!(error.to_string().contains("writer.lock"), "{error}");
    drop(first);
    setting.open();
}

#[test]
fn another_number_of_partitions_is_refused_with_the_one_that_is_there() {
    let mut setting = Setting::new(3, 1 << 20);
    drop(setting.open());
    setting.partitions = 4;
    let error = setting.try_open().unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Refused);
    assert!(error.to_string().contains("ask for 3"), "{error}");
    setting.partitions = 0;
    assert_eq!(setting.try_open().unwrap_err().kind(), LogErrorKind::Refused);
    for name in ["", "..", ".hidden", "a/b", "ä"] {
        let refused = TopicWriter::open(setting.root(), name, 1, &LogOptions::default()).unwrap_err();
        assert_eq!(refused.kind(), LogErrorKind::Refused, "{name}");
    }
}

/// A topic whose writer stopped after it wrote `values` to the file and before it published them. Gives where the
/// published part ends.
fn stopped(setting: &Setting, published: &[&str], values: &[&str]) -> u64 {
    let mut writer = setting.open();
    written(&mut writer, 0, published);
    let ends = fs::read(setting.published()).unwrap();
    let length = fs::metadata(setting.segment(0)).unwrap().len();
    written(&mut writer, 0, values);
    drop(writer);
    fs::write(setting.published(), ends).unwrap();
    length
}

#[test]
fn a_torn_tail_is_cut_at_every_byte_and_what_is_whole_stays() {
    let setting = Setting::new(1, 1 << 20);
    let from = stopped(&setting, &["a", "b"], &["whole"]);
    let middle = fs::metadata(setting.segment(0)).unwrap().len();
    let ends = fs::read(setting.published()).unwrap();
    drop(setting.open());
    let mut writer = setting.open();
    written(&mut writer, 0, &["torn"]);
    drop(writer);
    let content = fs::read(setting.segment(0)).unwrap();
    for length in usize::try_from(from).unwrap()..=content.len() {
        fs::write(setting.segment(0), &content[..length]).unwrap();
        fs::write(setting.published(), &ends).unwrap();
        let mut expected = vec![b"a".to_vec(), b"b".to_vec()];
        if length as u64 >= middle {
            expected.push(b"whole".to_vec());
        }
        if length == content.len() {
            expected.push(b"torn".to_vec());
        }
        let mut mended = setting.open();
        assert_eq!(setting.read(0), expected, "cut at {length}");
        assert_eq!(written(&mut mended, 0, &["next"]), expected.len() as u64);
        expected.push(b"next".to_vec());
        drop(mended);
        drop(setting.open());
        assert_eq!(setting.read(0), expected, "cut at {length}");
    }
}

#[test]
fn a_tail_damaged_at_any_byte_is_cut() {
    let setting = Setting::new(1, 1 << 20);
    let from = usize::try_from(stopped(&setting, &["a"], &["tail"])).unwrap();
    let (content, ends) = (fs::read(setting.segment(0)).unwrap(), fs::read(setting.published()).unwrap());
    for at in from..content.len() {
        let mut damaged = content.clone();
        damaged[at] ^= 0x41;
        fs::write(setting.segment(0), &damaged).unwrap();
        fs::write(setting.published(), &ends).unwrap();
        drop(setting.open());
        assert_eq!(setting.read(0), [b"a"], "damaged at {at}");
        assert_eq!(fs::metadata(setting.segment(0)).unwrap().len(), from as u64);
    }
}

#[test]
fn damage_before_the_published_end_is_refused_with_file_and_position_and_nothing_is_cut() {
    let setting = Setting::new(1, 1 << 20);
    let mut writer = setting.open();
    written(&mut writer, 0, &["a"]);
    let second = fs::metadata(setting.segment(0)).unwrap().len();
    written(&mut writer, 0, &["b"]);
    drop(writer);
    let content = fs::read(setting.segment(0)).unwrap();
    for at in 0..content.len() {
        let mut damaged = content.clone();
        damaged[at] ^= 1;
        fs::write(setting.segment(0), &damaged).unwrap();
        let position = if (at as u64) < second { 0 } else { second };
        let error = setting.try_open().unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::Damaged, "{error}");
        let place = format!("00000000000000000000.log is damaged at byte {position}");
        assert!(error.to_string().contains(&place), "{error}");
        let mut reader = setting.reader(0);
        let read = loop {
            match reader.next() {
                Ok(Some(_)) => {}
                other => break other.map(|_| ()),
            }
        };
        assert_eq!(read.unwrap_err().to_string(), error.to_string(), "a reader says the same");
        assert_eq!(fs::read(setting.segment(0)).unwrap(), damaged);
    }
    for length in [0, HEADER, content.len() - 1] {
        fs::write(setting.segment(0), &content[..length]).unwrap();
        assert_eq!(setting.try_open().unwrap_err().kind(), LogErrorKind::Damaged);
    }
    fs::remove_file(setting.segment(0)).unwrap();
    let error = setting.try_open().unwrap_err().to_string();
    assert!(error.contains("the file is missing"), "{error}");
}

#[test]
fn after_a_failed_sync_the_writer_is_broken_and_nothing_is_published_until_it_is_opened_anew() {
    let setting = Setting::new(2, 1 << 20);
    let mut writer = setting.open();
    written(&mut writer, 0, &["a"]);
    append(&mut writer, 0, &["b"]).unwrap();
    append(&mut writer, 1, &["c"]).unwrap();
    setting.disk.set(|faults| faults.unsyncable = true);
    let error = writer.sync().unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Io);
    assert!(error.to_string().contains("the cable came off"), "{error}");
    setting.disk.set(|faults| faults.unsyncable = false);
    for broken in
        [writer.sync().unwrap_err(), append(&mut writer, 0, &["d"]).unwrap_err(), writer.retain(0, &|_| 0).unwrap_err()]
    {
        assert!(matches!(&broken, LogError::Broken { kind: LogErrorKind::Io, .. }), "{broken}");
        assert!(broken.to_string().contains("open it anew"), "{broken}");
    }
    assert_eq!((setting.read(0), setting.read(1)), (vec![b"a".to_vec()], vec![]));
    drop(writer);
    // What was not acknowledged may be there; it was whole.
    let mut reopened = setting.open();
    assert_eq!(setting.read(0), [b"a", b"b"]);
    assert_eq!(written(&mut reopened, 1, &["e"]), 1);
}

#[test]
fn a_sync_that_fails_while_the_tail_is_mended_publishes_nothing() {
    let setting = Setting::new(1, 1 << 20);
    stopped(&setting, &["a"], &["b"]);
    setting.disk.set(|faults| faults.unsyncable = true);
    assert_eq!(setting.try_open().unwrap_err().kind(), LogErrorKind::Io);
    assert_eq!(setting.read(0), [b"a"]);
    setting.disk.set(|faults| faults.unsyncable = false);
    drop(setting.open());
    assert_eq!(setting.read(0), [b"a", b"b"]);
}

#[test]
fn a_disk_that_is_full_after_any_byte_loses_nothing_acknowledged_and_writing_goes_on_when_there_is_room() {
    for room in 0..400 {
        let setting = Setting::new(1, 150);
        let mut writer = setting.open();
        setting.disk.set(|faults| faults.room = Some(room));
        let mut acknowledged = 0;
        let failed = loop {
            let value = format!("value {acknowledged}");
            if let Err(error) = append(&mut writer, 0, &[&value]).and_then(|_| writer.sync()) {
                break error;
            }
            acknowledged += 1;
        };
        assert_eq!(failed.kind(), LogErrorKind::Full, "{failed}");
        let broken = append(&mut writer, 0, &["more"]).unwrap_err();
        assert_eq!(broken.kind(), LogErrorKind::Full, "{broken}");
        drop(writer);
        assert_eq!(setting.read(0).len(), acknowledged, "room for {room}");
        setting.disk.set(|faults| faults.room = None);
        let mut reopened = setting.open();
        let offset = written(&mut reopened, 0, &["after"]);
        let expected: Vec<Vec<u8>> =
            (0..offset).map(|n| format!("value {n}").into_bytes()).chain([b"after".to_vec()]).collect();
        assert!(offset >= acknowledged as u64);
        assert_eq!(setting.read(0), expected, "room for {room}");
    }
}

#[test]
fn what_was_written_and_not_published_before_a_power_cut_is_known_to_readers_as_stored() {
    let setting = Setting::new(1, 1 << 20);
    stopped(&setting, &["a"], &["b", "c"]);
    let mut reader = setting.reader(0);
    assert_eq!((reader.end().unwrap(), reader.stored_end().unwrap()), (1, 3));
    drop(setting.open());
    assert_eq!((reader.end().unwrap(), reader.stored_end().unwrap()), (3, 3));
}

#[test]
fn a_paused_writer_learns_what_others_wrote_meanwhile() {
    let setting = Setting::new(1, 1 << 20);
    let mut first = setting.open();
    written(&mut first, 0, &["a"]);
    first.pause();
    first.resume(setting.root()).unwrap();
    written(&mut first, 0, &["b"]);
    first.pause();
    let mut second = setting.open();
    written(&mut second, 0, &["c"]);
    assert_eq!(first.resume(setting.root()).unwrap_err().kind(), LogErrorKind::Locked);
    drop(second);
    first.resume(setting.root()).unwrap();
    assert_eq!(written(&mut first, 0, &["d"]), 3);
    assert_eq!(setting.read(0), [b"a", b"b", b"c", b"d"]);
}

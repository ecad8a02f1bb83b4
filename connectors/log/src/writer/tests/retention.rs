//! What is deleted, and what a reader is told who needed it.

use super::*;

/// Ten segments of one record each, appended at 0, 1000, .. 9000 ms, and the segment that records go to.
fn ten(retention: Retention) -> (Setting, TopicWriter) {
    let mut setting = Setting::new(1, 1);
    setting.options.retention = retention;
    let mut writer = setting.open();
    for second in 0..10 {
        writer.append(0, &[Record { key: b"", value: b"0123456789", time_ms: second * 1_000 }]).unwrap();
        writer.sync().unwrap();
    }
    assert_eq!(segment::list(&setting.partition(0)).unwrap(), (0..10).collect::<Vec<_>>());
    (setting, writer)
}

fn seconds(seconds: u64) -> Retention {
    Retention { age: Some(Duration::from_secs(seconds)), bytes: None }
}

fn earliest(setting: &Setting) -> u64 {
    setting.reader(0).earliest().unwrap()
}

#[test]
fn segments_are_deleted_once_their_last_record_is_too_old() {
    let (setting, mut writer) = ten(seconds(5));
    assert_eq!(writer.retain(4_999, &|_| 10).unwrap(), Retained::default());
    assert_eq!(writer.retain(5_000, &|_| 10).unwrap().segments, 1);
    assert_eq!(writer.retain(8_500, &|_| 10).unwrap().segments, 3);
    assert_eq!(earliest(&setting), 4);
    drop(writer);
    // Times are read from the segments after a restart.
    let mut reopened = setting.open();
    assert_eq!(reopened.retain(10_000, &|_| 10).unwrap().segments, 2);
    assert_eq!(setting.read(0).len(), 4);
}

#[test]
fn nothing_at_or_past_the_floor_is_deleted() {
    let (setting, mut writer) = ten(seconds(0));
    assert_eq!(writer.retain(1 << 40, &|_| 0).unwrap(), Retained::default());
    for floor in 1..=9 {
        writer.retain(1 << 40, &|_| floor).unwrap();
        assert_eq!(earliest(&setting), floor);
    }
    // A segment that holds one record past the floor stays as a whole.
    let whole = Setting::new(1, 1 << 20);
    let mut other = whole.open();
    other.options.retention = seconds(0);
    written(&mut other, 0, &["a", "b", "c"]);
    assert_eq!(other.retain(1 << 40, &|_| 2).unwrap(), Retained::default());
    assert_eq!(whole.read(0).len(), 3);
}

#[test]
fn when_all_is_too_old_everything_goes_and_offsets_go_on() {
    let (setting, mut writer) = ten(seconds(1));
    assert_eq!(writer.retain(1 << 40, &|_| 10).unwrap().segments, 10);
    let mut reader = setting.reader(0);
    assert_eq!((reader.earliest().unwrap(), reader.end().unwrap(), reader.next().unwrap()), (10, 10, None));
    assert_eq!(writer.retain(1 << 40, &|_| 10).unwrap(), Retained::default());
    drop(writer);
    let mut reopened = setting.open();
    assert_eq!(written(&mut reopened, 0, &["next"]), 10);
    assert_eq!(reader.next().unwrap().map(|(offset, _)| offset), Some(10));
    drop(reopened);
    assert_eq!(setting.open().end(0).unwrap(), 11);
}

#[test]
fn a_log_that_is_empty_after_retention_survives_the_loss_of_its_empty_segment() {
    let (setting, mut writer) = ten(seconds(1));
    writer.retain(1 << 40, &|_| 10).unwrap();
    drop(writer);
    fs::remove_file(setting.segment(10)).unwrap();
    let mut reopened = setting.open();
    assert_eq!(written(&mut reopened, 0, &["next"]), 10);
    assert_eq!(setting.read(0), [b"next"]);
}

#[test]
fn a_power_cut_after_retention_leaves_no_end_in_a_segment_that_is_gone() {
    let (setting, mut writer) = ten(seconds(1));
    writer.retain(1 << 40, &|_| 10).unwrap();
    written(&mut writer, 0, &["a"]);
    drop(writer);
    let mut ends = None;
    setting.disk.set(|faults| ends = faults.published.take());
    fs::write(setting.published(), ends.expect("they are synced before anything is deleted")).unwrap();
    let mut reopened = setting.open();
    assert_eq!(setting.read(0), [b"a"]);
    assert_eq!(written(&mut reopened, 0, &["next"]), 11);
}

#[test]
fn the_oldest_segments_go_while_a_partition_holds_too_many_bytes() {
    let (setting, mut writer) = ten(Retention::default());
    let bytes = writer.bytes();
    assert_eq!(writer.retain(1 << 40, &|_| 10).unwrap(), Retained::default());
    writer.options.retention.bytes = Some(bytes / 2);
    let retained = writer.retain(0, &|_| 10).unwrap();
    assert_eq!((retained.segments, retained.bytes), (5, bytes / 2));
    assert_eq!((earliest(&setting), writer.bytes()), (5, bytes / 2));
}

#[test]
fn a_reader_at_a_deleted_offset_is_told_which_one_and_what_is_there() {
    let (setting, mut writer) = ten(seconds(0));
    let (mut early, mut late) = (setting.reader(0), setting.reader(0));
    assert!(early.next().unwrap().is_some());
    late.seek(8);
    assert!(late.next().unwrap().is_some());
    writer.retain(1 << 40, &|_| 6).unwrap();
    let error = early.next().unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Gone);
    assert!(error.to_string().contains("offset 1 is wanted and offsets 6 to 10 are available"), "{error}");
    assert_eq!(late.next().unwrap().map(|(offset, _)| offset), Some(9));
    let mut anew = setting.reader(0);
    assert_eq!(anew.next().unwrap().map(|(offset, _)| offset), Some(6));
}

#[test]
fn a_segment_that_is_missing_in_the_middle_is_damage_and_no_retention() {
    let (setting, writer) = ten(seconds(0));
    drop(writer);
    fs::remove_file(setting.segment(4)).unwrap();
    let mut reader = setting.reader(0);
    for _ in 0..4 {
        reader.next().unwrap();
    }
    let error = reader.next().unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Damaged);
    assert!(error.to_string().contains("00000000000000000004.log"), "{error}");
}

#[test]
fn any_time_leads_to_the_first_record_that_is_not_older() {
    for segment_bytes in [1, 150, 1 << 20] {
        let setting = Setting::new(1, segment_bytes);
        let mut writer = setting.open();
        let times = [5, 5, 7, 7, 7, 3, 9, 20, 20, 21];
        for (at, time_ms) in times.into_iter().enumerate() {
            writer.append(0, &[Record { key: b"", value: b"v", time_ms }]).unwrap();
            if at % 3 == 0 {
                writer.sync().unwrap();
            }
        }
        writer.sync().unwrap();
        // The clock went back once: what is stored did not.
        let stored = [5, 5, 7, 7, 7, 7, 9, 20, 20, 21];
        let mut reader = setting.reader(0);
        reader.seek(3);
        for ms in 0..25 {
            let expected = stored.iter().position(|time| *time >= ms).map(|at| at as u64);
            assert_eq!(reader.offset_of_time(ms).unwrap(), expected, "{ms} ms");
        }
        assert_eq!(reader.position(), 3);
    }
}

#[test]
fn a_seek_is_right_with_an_index_without_one_and_with_a_damaged_one() {
    let setting = Setting::new(1, 2 << 20);
    let mut writer = setting.open();
    let value = vec![b'x'; 10_000];
    for time_ms in 0..700 {
        writer.append(0, &[Record { key: b"", value: &value, time_ms }]).unwrap();
    }
    writer.sync().unwrap();
    let index = |base: u64| setting.partition(0).join(format!("{base:020}.index"));
    let bases = segment::list(&setting.partition(0)).unwrap();
    assert!(bases.len() > 3 && bases[..bases.len() - 1].iter().all(|base| index(*base).is_file()), "{bases:?}");
    let check = || {
        let mut reader = setting.reader(0);
        for offset in (0..700).rev().step_by(37) {
            reader.seek(offset);
            let (found, time_ms) = reader.next().unwrap().map(|(at, record)| (at, record.time_ms)).unwrap();
            assert_eq!((found, time_ms), (offset, i64::try_from(offset).unwrap()));
            assert_eq!(reader.offset_of_time(time_ms).unwrap(), Some(offset));
        }
    };
    check();
    let mut damaged = fs::read(index(0)).unwrap();
    damaged[20] ^= 1;
    fs::write(index(0), damaged).unwrap();
    fs::remove_file(index(bases[1])).unwrap();
    check();
    writer.options.retention = seconds(0);
    writer.retain(1 << 40, &|_| 700).unwrap();
    let left: Vec<_> = fs::read_dir(setting.partition(0)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["00000000000000000700.log"], "indexes go with their segments");
}

//! Random work with crashes: what was synced stays, what is more is whole, offsets are dense.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const PARTITIONS: u32 = 2;

#[derive(Clone, Debug)]
enum Step {
    Append(u32, Vec<u16>),
    /// What the operating system may have got without being asked to keep it.
    Flush,
    Sync,
    Reopen,
    /// The writer dies, and of what was not synced in a partition something is torn.
    Crash(u32, Tear),
}

#[derive(Clone, Debug)]
enum Tear {
    Nothing,
    Cut(Index),
    Flip(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let tear =
        prop_oneof![Just(Tear::Nothing), any::<Index>().prop_map(Tear::Cut), any::<Index>().prop_map(Tear::Flip)];
    prop_oneof![
        6 => (0..PARTITIONS, prop::collection::vec(0..300_u16, 1..6)).prop_map(|(p, sizes)| Step::Append(p, sizes)),
        2 => Just(Step::Flush),
        3 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        3 => (0..PARTITIONS, tear).prop_map(|(partition, tear)| Step::Crash(partition, tear)),
    ]
}

/// Damages one place behind the published end of a partition, in whatever segment it lies.
fn tear(setting: &Setting, partition: u32, tear: &Tear) {
    let topic = Topic::find(setting.root(), TOPIC).unwrap().unwrap();
    let end = Published::open(&topic.folder, PARTITIONS).unwrap().end(partition);
    let folder = setting.partition(partition);
    let mut places = Vec::new();
    for base in segment::list(&folder).unwrap().into_iter().filter(|base| *base >= end.segment) {
        let path = segment::path(&folder, base);
        let from = if base == end.segment { end.position } else { 0 };
        places
            .extend((from..fs::metadata(&path).unwrap().len()).map(|at| (path.clone(), usize::try_from(at).unwrap())));
    }
    if places.is_empty() {
        return;
    }
    match tear {
        Tear::Nothing => {}
        Tear::Cut(index) => {
            let (path, at) = index.get(&places);
            File::options().write(true).open(path).unwrap().set_len(*at as u64).unwrap();
        }
        Tear::Flip(index) => {
            let (path, at) = index.get(&places);
            let mut content = fs::read(path).unwrap();
            content[*at] ^= 0x10;
            fs::write(path, content).unwrap();
        }
    }
}

/// What was appended and synced in a partition.
#[derive(Default)]
struct Model {
    appended: Vec<Vec<u8>>,
    synced: usize,
}

fn compare(setting: &Setting, models: &mut [Model], died: bool) -> Result<(), TestCaseError> {
    for (partition, model) in (0..).zip(models) {
        let read = setting.read(partition);
        prop_assert!(read.len() >= model.synced, "{} of {} synced records are there", read.len(), model.synced);
        prop_assert!(died || read.len() == model.synced, "more than was synced is seen of a living writer");
        prop_assert_eq!(&read[..], &model.appended[..read.len()]);
        if died {
            model.synced = read.len();
            model.appended.truncate(read.len());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn after_any_crash_the_synced_prefix_is_there_and_perhaps_more_of_what_was_appended(
        steps in prop::collection::vec(step(), 1..40),
        segment_bytes in 200..2_000_u64,
    ) {
        let setting = Setting::new(PARTITIONS, segment_bytes);
        let mut writer = Some(setting.open());
        let mut models: Vec<Model> = (0..PARTITIONS).map(|_| Model::default()).collect();
        let mut number = 0_u8;
        for step in steps {
            let living = writer.as_mut().unwrap();
            match step {
                Step::Append(partition, sizes) => {
                    let values: Vec<Vec<u8>> = sizes.iter().map(|size| {
                        number = number.wrapping_add(1);
                        vec![number; usize::from(*size)]
                    }).collect();
                    let model = &mut models[partition as usize];
                    let records: Vec<Record<'_>> =
                        values.iter().map(|value| Record { key: b"", value, time_ms: i64::from(number) }).collect();
                    prop_assert_eq!(living.append(partition, &records).unwrap(), model.appended.len() as u64);
                    model.appended.extend(values);
                }
                Step::Flush => living.partitions.iter_mut().for_each(|partition| partition.flush().unwrap()),
                Step::Sync => {
                    living.sync().unwrap();
                    models.iter_mut().for_each(|model| model.synced = model.appended.len());
                    compare(&setting, &mut models, false)?;
                }
                Step::Reopen => {
                    drop(writer.take());
                    writer = Some(setting.open());
                    compare(&setting, &mut models, true)?;
                }
                Step::Crash(partition, what) => {
                    drop(writer.take());
                    tear(&setting, partition, &what);
                    compare(&setting, &mut models, false)?;
                    writer = Some(setting.open());
                    compare(&setting, &mut models, true)?;
                }
            }
        }
    }
}

#[test]
fn readers_beside_a_writer_see_every_record_once_and_never_more_than_is_published() {
    const RECORDS: u64 = 20_000;
    const READERS: usize = 4;
    let setting = Setting::new(1, 40_000);
    let mut writer = setting.open();
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut reader = setting.reader(0);
                let mut expected = 0;
                while expected < RECORDS {
                    match reader.next().unwrap() {
                        Some((offset, record)) => {
                            assert_eq!((offset, record.value), (expected, expected.to_le_bytes().as_slice()));
                            expected += 1;
                        }
                        None => std::thread::yield_now(),
                    }
                }
                assert_eq!(reader.next().unwrap(), None);
            });
        }
        let mut number = 0_u64;
        while number < RECORDS {
            let values: Vec<[u8; 8]> = (number..RECORDS.min(number + 173)).map(u64::to_le_bytes).collect();
            let records: Vec<Record<'_>> = values.iter().map(|value| Record { key: b"", value, time_ms: 0 }).collect();
            number += values.len() as u64;
            writer.append(0, &records).unwrap();
            writer.sync().unwrap();
        }
    });
}

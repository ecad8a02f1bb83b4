//! A run repeated in the cuts of another: the same rows in the same epochs, whoever died meanwhile.

use tidemill_log::FOLDER;

use super::live::{Growing, attempt_live};
use super::*;

fn attempt_repeat(
    lines: &Lines,
    store: &Arc<dyn Store>,
    of: &Arc<dyn Store>,
    workers: u32,
) -> Result<RunReport, RunError> {
    let source = Growing { lines: lines.clone(), seed: 99, stop: StopHandle::default() };
    let cuts = History::open(Arc::clone(of), FOLDER)?.expect("something is committed");
    repeat(pipeline(&source, store), &options(workers), context(store), cuts, &StopHandle::default())
}

/// The files that readers see, by name; their names say epoch and shard.
fn files(store: &Arc<dyn Store>) -> BTreeMap<String, bytes::Bytes> {
    let state = reader::read(Arc::clone(store), FOLDER).unwrap();
    let paths = state.tables().values().flat_map(|files| files.keys());
    paths.map(|path| (path.clone(), store.get(path).unwrap().expect("a visible file is there"))).collect()
}

#[test]
fn every_epoch_of_a_live_run_has_the_same_rows_again_though_both_crashed() {
    let lines = sample();
    for (seed, dies) in [(11, 60), (12, 150), (13, 230)] {
        let live = memory();
        let _ = attempt_live(&lines, dying_at(&live, dies), 2, seed);
        let report = attempt_live(&lines, Arc::clone(&live), 1, seed + 100).unwrap();
        for workers in [1, 3] {
            let again = memory();
            // However it ends: it may be done before the step.
            let _ = attempt_repeat(&lines, &dying_at(&again, dies / 2), &live, 2);
            let repeated = attempt_repeat(&lines, &again, &live, workers).unwrap();
            assert_eq!(repeated.state.committed(), report.state.committed());
            assert_eq!(repeated.state.watermark(), report.state.watermark());
            assert_eq!(files(&again), files(&live), "seed {seed}, {workers} workers");
            let done = attempt_repeat(&lines, &again, &live, workers).unwrap();
            assert_eq!(done.epochs, 0, "there is nothing left to repeat");
        }
    }
}

#[test]
fn other_content_and_a_place_of_another_run_are_refused() {
    let (lines, live, other) = (sample(), memory(), memory());
    attempt_live(&lines, Arc::clone(&live), 2, 21).unwrap();
    attempt_live(&lines, Arc::clone(&other), 2, 22).unwrap();
    let before = reader::read(Arc::clone(&other), FOLDER).unwrap();
    let refused = attempt_repeat(&lines, &other, &live, 1).unwrap_err().to_string();
    assert!(refused.contains("this place holds another run"), "{refused}");
    assert_eq!(reader::read(Arc::clone(&other), FOLDER).unwrap(), before, "it is left alone");

    let mut changed: Vec<Vec<u8>> = (*lines.partitions).clone();
    let half = changed[1].len() / 2;
    let digit = half + changed[1][half..].iter().position(|byte| *byte == b'-').unwrap() + 1;
    changed[1][digit] = if changed[1][digit] == b'1' { b'2' } else { b'1' };
    let noticed = attempt_repeat(&of_partitions(changed), &memory(), &live, 1).unwrap_err();
    assert!(matches!(noticed, RunError::Source(SourceError::Changed { .. })), "{noticed}");
}

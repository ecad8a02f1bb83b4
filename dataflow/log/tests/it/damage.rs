//! Whatever is flipped in, cut from or missing among the log's objects: a start finds the true state or refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_log::testing::MemoryStore;
use tidemill_log::{Entry, Log, LogErrorKind, LogState, Seal, Store, reader};

use crate::pipeline::{PREFIX, Pipeline, bind, options, read, seal};

/// A log with two snapshots, the entries between them, and a few after.
fn small_log() -> (BTreeMap<String, Bytes>, LogState) {
    let memory = Arc::new(MemoryStore::default());
    let store: Arc<dyn Store> = memory.clone();
    Pipeline::start(Arc::clone(&store), 6).unwrap().run_through(5).unwrap();
    let mut objects = memory.objects();
    objects.retain(|path, _| path.starts_with("_tidemill/") && !path.contains("/state/"));
    assert_eq!(objects.keys().filter(|path| path.contains("/snapshots/")).count(), 2);
    let last = |folder: &str| {
        objects.keys().rfind(|path| path.contains(folder)).unwrap().rsplit_once('/').unwrap().1.to_owned()
    };
    let (entry, snapshot): (u64, u64) = (last("/log/").parse().unwrap(), last("/snapshots/").parse().unwrap());
    assert!(entry >= snapshot + 2, "entries {snapshot} to {entry} are not covered by a snapshot");
    (objects, read(&store))
}

/// The state and the warnings of a start, or the sentence with which it refused.
fn start(objects: BTreeMap<String, Bytes>) -> Result<(LogState, Vec<String>), String> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::holding(objects));
    let seen = reader::read(Arc::clone(&store), PREFIX).map_err(|error| error.to_string());
    match Log::start(store, options(6)) {
        Ok(started) => {
            let state = started.log.state().clone();
            assert_eq!(seen, Ok(state.clone()), "readers and writers agree");
            Ok((state, started.warnings))
        }
        Err(error) => {
            assert_eq!(error.kind(), LogErrorKind::Refused, "{error}");
            Err(error.to_string())
        }
    }
}

/// Replaces one object, and says how the start went: fallen back, or refused.
fn check(objects: &BTreeMap<String, Bytes>, truth: &LogState, path: &str, damaged: Option<Vec<u8>>, at: &str) -> bool {
    let newest = objects.keys().rfind(|name| name.contains("/snapshots/")).unwrap().clone();
    let mut objects = objects.clone();
    let is_removed = damaged.is_none();
    match damaged {
        Some(bytes) => objects.insert(path.to_owned(), bytes.into()),
        None => objects.remove(path),
    };
    match start(objects) {
        Ok((state, warnings)) => {
            assert_eq!(state, *truth, "{path} {at}: another state");
            // Only the newest snapshot is read; what it covers need not be.
            let silent = is_removed || *path != newest;
            assert!(silent || warnings.iter().any(|warning| warning.contains(path)), "{path} {at}: says so");
            true
        }
        Err(sentence) => {
            assert!(sentence.contains(path) || is_removed, "{path} {at}: the sentence names it: {sentence}");
            false
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_survived_or_refused() {
    let (objects, truth) = small_log();
    let (mut survived, mut refused) = (0, 0);
    for (path, bytes) in &objects {
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << (at % 8);
            let outcome = check(&objects, &truth, path, Some(damaged), &format!("bit {} of byte {at}", at % 8));
            *if outcome { &mut survived } else { &mut refused } += 1;
        }
    }
    assert!(survived > 0 && refused > 0, "{survived} survived, {refused} refused");
}

#[test]
fn a_cut_tail_of_any_length_is_survived_or_refused() {
    let (objects, truth) = small_log();
    for (path, bytes) in &objects {
        for length in 0..bytes.len() {
            check(&objects, &truth, path, Some(bytes[..length].to_vec()), &format!("cut to {length}"));
        }
    }
}

#[test]
fn a_damaged_newest_snapshot_falls_back_and_says_so() {
    let (objects, truth) = small_log();
    let newest = objects.keys().rfind(|name| name.contains("/snapshots/")).unwrap();
    assert!(check(&objects, &truth, newest, Some(b"damaged".to_vec()), "damaged"));
    assert!(check(&objects, &truth, newest, None, "removed"));
}

#[test]
fn objects_that_changed_places_are_refused() {
    let (objects, truth) = small_log();
    let entries: Vec<&String> = objects.keys().filter(|path| path.contains("/log/")).collect();
    let snapshots: Vec<&String> = objects.keys().filter(|path| path.contains("/snapshots/")).collect();
    let last = entries[entries.len() - 1];
    assert!(!check(&objects, &truth, last, Some(objects[entries[0]].to_vec()), "an older entry in its place"));
    assert!(!check(&objects, &truth, last, Some(objects[snapshots[1]].to_vec()), "a snapshot in its place"));
    assert!(check(
        &objects,
        &truth,
        snapshots[1],
        Some(objects[snapshots[0]].to_vec()),
        "an older snapshot in its place"
    ));
}

#[test]
fn an_entry_of_another_log_with_the_right_number_is_refused() {
    let log_of = |plan: &str| {
        let memory = Arc::new(MemoryStore::default());
        let mut log = Log::start(memory.clone(), options(1000)).unwrap().log;
        log.append(Entry::Seal(Seal { plan: plan.into(), ..seal(1, None) })).unwrap();
        log.append(Entry::Bind(bind(1))).unwrap();
        memory.objects()
    };
    let (mut objects, other) = (log_of("this"), log_of("that"));
    let last = "_tidemill/log/00000000000000000002".to_owned();
    objects.insert(last.clone(), other[&last].clone());
    let sentence = start(objects).unwrap_err();
    assert!(sentence.contains(&last) && sentence.contains("does not follow entry 1"), "{sentence}");
}

#[test]
fn a_missing_entry_is_a_gap() {
    let (objects, truth) = small_log();
    let entries: Vec<&String> = objects.keys().filter(|path| path.contains("/log/")).collect();
    assert!(!check(&objects, &truth, entries[entries.len() - 2], None, "removed"));
}

#[test]
fn a_log_whose_format_is_missing_or_newer_is_refused() {
    let (mut objects, _) = small_log();
    let format = objects.remove("_tidemill/format").unwrap();
    let sentence = start_alone(objects.clone());
    assert!(sentence.contains("_tidemill/format is damaged: it does not exist"), "{sentence}");
    let newer = String::from_utf8(format.to_vec()).unwrap().replacen(" 1 ", " 2 ", 1);
    objects.insert("_tidemill/format".to_owned(), newer.into());
    let newer_sentence = start_alone(objects);
    assert!(newer_sentence.contains("stored format 2, and this program knows format 1"), "{newer_sentence}");
}

fn start_alone(objects: BTreeMap<String, Bytes>) -> String {
    Log::start(Arc::new(MemoryStore::holding(objects)), options(6)).unwrap_err().to_string()
}

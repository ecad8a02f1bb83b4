//! Checkpoints of builds that knew neither plans nor versions of pieces.

use std::sync::Arc;

use tidemill_log::{Binding, CheckpointEntry, Commit, DataFile, Entry, Log, Seal, Store, TableChange};

use super::*;
use crate::checkpoint::manifest::checksum;
use crate::runtime::begin::log_options;

/// The same tables and state, as builds wrote them that knew neither plans nor versions of pieces in checkpoints.
fn as_written_before(store: &Arc<dyn Store>) -> Arc<dyn Store> {
    let (state, old) = (state(store), memory());
    let mut written = serde_json::to_value(last_manifest(store)).unwrap();
    let fields = written.as_object_mut().unwrap();
    assert!(fields.remove("plan").is_some() && fields.remove("dropped").is_some());
    for piece in
        written["operators"].as_array_mut().unwrap().iter_mut().flat_map(|o| o["pieces"].as_array_mut().unwrap())
    {
        assert!(piece.as_object_mut().unwrap().remove("version").is_some());
        let path = piece["path"].as_str().unwrap();
        old.put(path, &store.get(path).unwrap().unwrap()).unwrap();
    }
    let bytes = serde_json::to_vec_pretty(&written).unwrap();
    let manifest = state.checkpoints().last().unwrap().manifest.clone();
    old.put(&manifest, &bytes).unwrap();
    let mut tables = Vec::new();
    for (table, files) in state.tables() {
        let mut added = Vec::new();
        for (path, file) in files {
            old.put(path, &store.get(path).unwrap().unwrap()).unwrap();
            added.push(DataFile { path: path.clone(), rows: file.rows, bytes: file.bytes });
        }
        tables.push(TableChange { table: table.clone(), added, removed: Vec::new() });
    }
    let epoch = state.committed().unwrap();
    let mut log = Log::start(Arc::clone(&old), log_options()).unwrap().log;
    let run = log.run();
    let seal = Seal { run, build: "0.0.0".into(), checkpoint: None, ..state.seal().unwrap().clone() };
    log.seal(|_| Ok::<_, RunError>(seal.clone())).unwrap();
    let (watermark, partitions) = (state.watermark(), state.bound_partitions().values().cloned().collect());
    log.append(Entry::Bind(Binding { epoch, watermark, partitions, last: true, checkpoint: true })).unwrap();
    let counts = state.counts().clone();
    log.append(Entry::Commit(Commit { epoch, watermark, tables, counts, ..Commit::default() })).unwrap();
    let checksum = checksum(&bytes);
    log.append(Entry::Checkpoint(CheckpointEntry { epoch, manifest, checksum })).unwrap();
    old
}

#[test]
fn checkpoints_of_earlier_builds_restore() {
    let all = sample();
    let store = as_written_before(&begun(&all));
    assert_eq!(goes_on(plain, &all, &store, &options(3)), Vec::<String>::new());
    assert_eq!(shown(&store, "totals"), oracle(&all));
}

#[test]
fn state_in_checkpoints_of_earlier_builds_is_renamed_and_migrated_and_never_lost() {
    fn renamed(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "sums", KIND, TotalSince).renamed_from("totals"), "totals_table", "totals", store);
    }
    let all = sample();
    let store = as_written_before(&begun(&all));
    is_refused(tables_only, &all, &store, &options(2), &["`totals` has state (version 1)"]);
    let said = goes_on(renamed, &all, &store, &options(3));
    assert_eq!(said, ["`sums` goes on with what `totals` had", "`sums`: its state is migrated from version 1 to 2"]);
    assert_eq!(shown(&store, "totals"), oracle(&all));
}

//! A pipeline that changes between two runs, on real checkpoints: each change gives what is promised of it, and says so.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tidemill_log::{LogState, Store, reader};

use super::{BTreeMap, KeyedLogic, Lines, Total, of_partitions, options, oracle, sample};
use super::{BTreeSet, Build, Flow, RunErrorKind, RunOptions, RunReport, StopHandle, run};
use crate::checkpoint::{Manifest, load_manifest};
use crate::key::{OwnedKey, key};
use crate::key_group::{group_of, owner};
use crate::keyed::{Chunk, DecodeError, Emit, Keep, PerKey, StoredState, keyed};
use crate::runtime::RunError;
use crate::stream::{Stream, TimedStream};
use crate::testing::{attempt_processes, by_epoch, context, dying_at, memory, text};
use crate::time::{EpochTime, EventTime, minutes};
use crate::watermark::Watermarks;

mod dropped;
mod fallback;
mod older;
mod unfinished;
mod unreadable;

type Line = (EventTime, String);
type Row = (String, i64, i64);
/// A pipeline of these tests: reads the lines, writes text tables to the store.
type Author = for<'s> fn(&Flow<'s>, &Lines, &Arc<dyn Store>);

fn events<'s>(flow: &Flow<'s>, lines: &Lines, id: &'static str) -> TimedStream<'s, Line> {
    let rule = Watermarks::out_of_order(minutes(2));
    flow.source(id, lines.clone()).event_time(|line: &Line| line.0, |_| None, rule)
}

#[track_caller]
fn counted<'s, L>(stream: &TimedStream<'s, Line>, id: &'static str, kind: &str, logic: L) -> Stream<'s, Row>
where
    L: KeyedLogic<In = i64, Out = Row>,
{
    let node = stream.record(id, kind.into());
    let chunks = stream.route("by_key", |batch, peers| {
        let empty = |dest| Chunk { dest, from: peers.me, order: batch.order, rows: Vec::new() };
        let mut chunks: Vec<_> = (0..peers.workers).map(empty).collect();
        batch.for_each(|(_, name)| {
            let key = key("t", name.as_str()).to_owned();
            chunks[owner(group_of(key.hash()), peers.workers) as usize].rows.push((key, 1));
        });
        chunks
    });
    keyed(stream.flow(), (id, node), chunks, PerKey::new(logic))
}

fn table(rows: Stream<'_, Row>, id: &'static str, name: &'static str, store: &Arc<dyn Store>) {
    rows.sink(id, text(name, store, |(key, total, sign): &Row| format!("{key} {total} {sign}"))());
}

const KIND: &str = "count by key";

fn plain(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
    let events = events(flow, lines, "lines");
    table(counted(&events, "totals", KIND, Total), "totals_table", "totals", store);
}

/// What version 2 keeps of a key: in how many epochs it came, too.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct TotalAndVisits {
    total: i64,
    visits: i64,
}

impl From<i64> for TotalAndVisits {
    fn from(total: i64) -> Self {
        TotalAndVisits { total, visits: 0 }
    }
}

/// [`Total`] a version later.
struct TotalSince;

impl KeyedLogic for TotalSince {
    type In = i64;
    type State = TotalAndVisits;
    type Out = Row;
    const STATE_VERSION: u32 = 2;
    const OLDEST_VERSION: u32 = 1;
    fn on_epoch(
        &self,
        key: &OwnedKey,
        state: &mut TotalAndVisits,
        records: &mut Vec<i64>,
        time: EpochTime,
        out: &mut Emit<Row>,
    ) -> Keep {
        state.visits += 1;
        Total.on_epoch(key, &mut state.total, records, time, out)
    }
    fn deadline(&self, _: &TotalAndVisits) -> Option<EventTime> {
        None
    }
    fn heap_bytes(&self, _: &TotalAndVisits) -> usize {
        0
    }
    fn upgrade(version: u32, stored: StoredState<'_>) -> Result<TotalAndVisits, DecodeError> {
        assert_eq!(version, 1, "what is of today's version is never migrated");
        stored.read::<i64>().map(TotalAndVisits::from)
    }
}

fn since(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
    let events = events(flow, lines, "lines");
    table(counted(&events, "totals", KIND, TotalSince), "totals_table", "totals", store);
}

fn built(author: Author, lines: &Lines, store: &Arc<dyn Store>) -> impl Build + Clone + use<> {
    let (lines, store) = (lines.clone(), Arc::clone(store));
    move |flow: &Flow<'_>| author(flow, &lines, &store)
}

/// Runs to the end of the input, on two workers; gives the warnings, too.
fn start_with(
    author: Author,
    lines: &Lines,
    store: &Arc<dyn Store>,
    options: &RunOptions,
) -> (Result<RunReport, RunError>, Vec<String>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&warnings);
    let mut context = context(store);
    context.warn = Box::new(move |warning| told.lock().unwrap().push(warning.to_owned()));
    let ended = run(built(author, lines, store), options, context, &StopHandle::default());
    let warnings = std::mem::take(&mut *warnings.lock().unwrap());
    (ended, warnings)
}

/// A run that goes on, and what it says.
#[track_caller]
fn goes_on(author: Author, lines: &Lines, store: &Arc<dyn Store>, options: &RunOptions) -> Vec<String> {
    let (ended, warnings) = start_with(author, lines, store, options);
    assert!(ended.unwrap().finished);
    warnings
}

/// A start that is refused with all of these, and changes nothing.
#[track_caller]
fn is_refused(author: Author, lines: &Lines, store: &Arc<dyn Store>, options: &RunOptions, said: &[&str]) {
    let (before, runs) = (state(store), store.list("_tidemill/runs").unwrap());
    let error = start_with(author, lines, store, options).0.unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::Refused, "{error}");
    let after = state(store);
    assert_eq!((before.seal(), before.bound()), (after.seal(), after.bound()), "a refused start writes nothing");
    assert_eq!(store.list("_tidemill/runs").unwrap(), runs, "a refused start leaves a living run alone");
    let sentences = error.to_string();
    for part in said {
        assert!(sentences.contains(part), "{sentences}");
    }
}

fn dropping(ids: &[&str]) -> RunOptions {
    RunOptions { drop_state: ids.iter().map(|id| (*id).to_owned()).collect(), ..options(2) }
}

fn state(store: &Arc<dyn Store>) -> LogState {
    reader::read(Arc::clone(store), "_tidemill").unwrap()
}

fn last_manifest(store: &Arc<dyn Store>) -> Manifest {
    load_manifest(&**store, state(store).checkpoints().last().expect("a run ends with a checkpoint")).unwrap()
}

/// The totals that readers of a table see, retracted ones left out.
fn shown(store: &Arc<dyn Store>, table: &str) -> BTreeMap<String, i64> {
    let mut signs: BTreeMap<(String, i64), i64> = BTreeMap::new();
    for line in by_epoch(store, table).into_values().flatten() {
        let parts: Vec<&str> = line.split(' ').collect();
        *signs.entry((parts[0].into(), parts[1].parse().unwrap())).or_default() += parts[2].parse::<i64>().unwrap();
    }
    let kept: Vec<_> = signs.into_iter().filter(|(_, sign)| *sign != 0).collect();
    assert!(kept.iter().all(|(_, sign)| *sign == 1), "{kept:?}");
    kept.into_iter().map(|(shown, _)| shown).collect()
}

/// The first half of each partition, by lines.
fn half(lines: &Lines) -> Lines {
    let first = |content: &Vec<u8>| {
        let text = std::str::from_utf8(content).unwrap();
        text.split_inclusive('\n').take(text.lines().count() / 2).collect::<String>().into_bytes()
    };
    of_partitions(lines.partitions.iter().map(first).collect())
}

/// What the second half adds to the first.
fn added(all: &Lines) -> BTreeMap<String, i64> {
    let before = oracle(&half(all));
    let rest = oracle(all).into_iter().map(|(key, n)| (key.clone(), n - before.get(&key).unwrap_or(&0)));
    rest.filter(|(_, n)| *n > 0).collect()
}

/// A store that the plain pipeline wrote the first half of the input to.
fn begun(all: &Lines) -> Arc<dyn Store> {
    let store = memory();
    assert_eq!(goes_on(plain, &half(all), &store, &options(2)), Vec::<String>::new());
    assert_eq!(shown(&store, "totals"), oracle(&half(all)));
    store
}

#[test]
fn a_new_operator_starts_empty_and_a_new_table_begins_and_both_are_said() {
    fn more(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "totals", KIND, Total), "totals_table", "totals", store);
        table(counted(&events, "more", KIND, Total), "more_table", "more", store);
    }
    let all = sample();
    let store = begun(&all);
    let said = goes_on(more, &all, &store, &options(3));
    assert_eq!(
        said,
        [
            "`more` has no state in the checkpoint and starts empty",
            "`more_table` writes to table `more` from here on; what came before is not in it",
        ]
    );
    assert_eq!((shown(&store, "totals"), shown(&store, "more")), (oracle(&all), added(&all)));
    assert_eq!(goes_on(more, &all, &store, &options(1)), Vec::<String>::new(), "it is said once");
}

fn tables_only(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
    let rows = events(flow, lines, "lines").map(|(_, key)| (key.clone(), 1, 1));
    rows.sink("lines_table", text("all_lines", store, |(key, _, _): &Row| key.clone())());
}

#[test]
fn what_is_gone_is_refused_until_its_state_is_dropped_and_what_it_committed_stays() {
    let all = sample();
    let store = begun(&all);
    is_refused(
        tables_only,
        &all,
        &store,
        &options(2),
        &[
            "`totals` has state (version 1) in the checkpoint and is not in the plan",
            ".renamed_from(\"totals\")",
            "--drop-state totals",
        ],
    );
    let no_such = "--drop-state totls: there is no such state; the checkpoint has state of `totals`";
    is_refused(tables_only, &all, &store, &dropping(&["totals", "totls"]), &[no_such]);
    let said = goes_on(tables_only, &all, &store, &dropping(&["totals"]));
    assert_eq!(
        said,
        [
            "the state of `totals` is dropped, as asked",
            "`lines_table` writes to table `all_lines` from here on; what came before is not in it",
            "table `totals` (`totals_table`) gets nothing more; what was committed to it stays",
        ]
    );
    assert_eq!(shown(&store, "totals"), oracle(&half(&all)));
    let rows: usize = by_epoch(&store, "all_lines").values().map(Vec::len).sum();
    assert_eq!(i64::try_from(rows).unwrap(), added(&all).values().sum::<i64>());
    assert_eq!(last_manifest(&store).operators, []);
    assert_eq!(goes_on(tables_only, &all, &store, &options(1)), Vec::<String>::new());
}

#[test]
fn nothing_is_dropped_before_there_is_a_checkpoint() {
    for exactly_once in [true, false] {
        let options = RunOptions { exactly_once, ..dropping(&["totals"]) };
        let error = start_with(plain, &sample(), &memory(), &options).0.unwrap_err();
        assert_eq!(error.kind(), RunErrorKind::Usage);
        assert!(error.to_string().contains("there is no checkpoint yet"), "{error}");
    }
}

#[test]
fn dropped_state_is_not_dropped_again_by_a_supervisor_that_repeats_the_command() {
    let all = sample();
    let store = begun(&all);
    let first = goes_on(plain, &all, &store, &dropping(&["totals"]));
    assert_eq!(first, [dropped::SAID]);
    let (key, since) = added(&all).pop_first().unwrap();
    let mut longer: Vec<Vec<u8>> = all.partitions.to_vec();
    longer[0].extend(format!("900000 {key}\n").into_bytes());
    let said = goes_on(plain, &of_partitions(longer), &store, &dropping(&["totals"]));
    assert!(said.len() == 1 && said[0].contains("the run before dropped it"), "{said:?}");
    let (_, last) = by_epoch(&store, "totals").pop_last().unwrap();
    assert_eq!(last, [format!("{key} {since} -1"), format!("{key} {} 1", since + 1)]);
}

#[test]
fn a_renamed_operator_goes_on_with_its_state_and_the_old_id_may_stay_in_the_code() {
    fn renamed(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "sums", KIND, Total).renamed_from("totals"), "totals_table", "totals", store);
    }
    fn as_if_always(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "sums", KIND, Total), "totals_table", "totals", store);
    }
    let all = sample();
    let store = begun(&all);
    is_refused(as_if_always, &all, &store, &options(2), &["say .renamed_from(\"totals\")"]);
    assert_eq!(goes_on(renamed, &all, &store, &options(3)), ["`sums` goes on with what `totals` had"]);
    assert_eq!(shown(&store, "totals"), oracle(&all));
    let ids: Vec<String> = last_manifest(&store).operators.into_iter().map(|operator| operator.id).collect();
    assert_eq!(ids, ["sums"]);
    for author in [renamed as Author, as_if_always] {
        assert_eq!(goes_on(author, &all, &store, &options(1)), Vec::<String>::new());
    }
}

#[test]
fn an_old_id_that_the_checkpoint_never_had_is_refused_with_the_line() {
    fn misspelt(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "totals", KIND, Total), "totals_table", "totals", store);
        table(counted(&events, "more", KIND, Total).renamed_from("mroe"), "more_table", "more", store);
    }
    let all = sample();
    let store = begun(&all);
    let (line, sentence) = ("tests/evolution.rs:", ": `more` is renamed from `mroe`, and the checkpoint knows neither");
    is_refused(misspelt, &all, &store, &options(2), &[line, sentence]);
}

#[test]
fn a_renamed_source_keeps_its_offsets_and_another_source_is_refused() {
    fn renamed(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "rows").renamed_from("lines");
        table(counted(&events, "totals", KIND, Total), "totals_table", "totals", store);
    }
    fn another(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "rows");
        table(counted(&events, "totals", KIND, Total), "totals_table", "totals", store);
    }
    let all = sample();
    let store = begun(&all);
    is_refused(
        another,
        &all,
        &store,
        &options(2),
        &["the source was `lines` and is `rows`, and offsets are kept by id"],
    );
    assert_eq!(goes_on(renamed, &all, &store, &options(2)), ["`rows` goes on with what `lines` had"]);
    assert_eq!(shown(&store, "totals"), oracle(&all), "nothing is read twice");
    assert_eq!(goes_on(another, &all, &store, &options(2)), Vec::<String>::new());
}

#[test]
fn an_older_state_version_is_migrated_until_a_fold_has_stored_todays() {
    let all = sample();
    let store = begun(&all);
    let migrated = ["`totals`: its state is migrated from version 1 to 2"];
    assert_eq!(goes_on(since, &all, &store, &options(3)), migrated);
    assert_eq!(shown(&store, "totals"), oracle(&all));
    // What was folded when a run ended is in the checkpoint after that.
    let mut longer: Vec<Vec<u8>> = all.partitions.to_vec();
    for round in 1.. {
        assert!(round < 50, "pieces of the old version are never folded");
        for n in 0..2_000 {
            longer[0].extend(format!("{} key-{}-{:060}\n", 800_000 + n, n % 7, round).into_bytes());
        }
        let lines = of_partitions(longer.clone());
        let said = goes_on(since, &lines, &store, &options(1 + round % 3));
        assert_eq!(shown(&store, "totals"), oracle(&lines));
        if said.is_empty() {
            break;
        }
        assert_eq!(said, migrated);
    }
    let totals = &last_manifest(&store).operators[0];
    assert!(totals.version == 2 && totals.pieces.iter().all(|piece| piece.version == Some(2)), "{totals:?}");
}

#[test]
fn a_migration_that_is_cut_off_anywhere_goes_on_from_pieces_of_both_versions() {
    let all = sample();
    let mut mixed = 0;
    for step in (10..150).step_by(7) {
        let store = begun(&all);
        let dying = dying_at(&store, step);
        let _ = run(built(since, &all, &store), &options(2), context(&dying), &StopHandle::default());
        let versions: BTreeSet<_> =
            last_manifest(&store).operators[0].pieces.iter().filter_map(|piece| piece.version).collect();
        mixed += u32::from(versions.len() == 2);
        goes_on(since, &all, &store, &options(1 + (step % 3) as u32));
        assert_eq!(shown(&store, "totals"), oracle(&all), "cut off at step {step}");
    }
    assert!(mixed > 0, "no checkpoint had pieces of both versions");
}

#[test]
fn a_version_that_is_lowered_or_raised_without_a_migration_is_refused_with_both() {
    struct TotalAgain;
    impl KeyedLogic for TotalAgain {
        type In = i64;
        type State = i64;
        type Out = Row;
        const STATE_VERSION: u32 = 3;
        fn on_epoch(
            &self,
            key: &OwnedKey,
            state: &mut i64,
            records: &mut Vec<i64>,
            time: EpochTime,
            out: &mut Emit<Row>,
        ) -> Keep {
            Total.on_epoch(key, state, records, time, out)
        }
        fn deadline(&self, _: &i64) -> Option<EventTime> {
            None
        }
        fn heap_bytes(&self, _: &i64) -> usize {
            0
        }
    }
    fn raised(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "totals", KIND, TotalAgain), "totals_table", "totals", store);
    }
    let all = sample();
    let store = begun(&all);
    is_refused(
        raised,
        &all,
        &store,
        &options(2),
        &["state version 1 in the checkpoint and this build has 3, without a migration"],
    );
    goes_on(since, &all, &store, &options(2));
    is_refused(plain, &all, &store, &options(2), &["state version 2 in the checkpoint and this build has 1"]);
    assert_eq!(shown(&store, "totals"), oracle(&all));
}

#[test]
fn another_kind_of_operator_under_the_id_is_refused_and_other_parameters_are_said() {
    fn another(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "totals", "sum by key", Total), "totals_table", "totals", store);
    }
    fn tuned(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "totals", "count by key, quickly", Total), "totals_table", "totals", store);
    }
    let all = sample();
    let store = begun(&all);
    is_refused(
        another,
        &all,
        &store,
        &options(2),
        &["`totals` was `count by key` and is `sum by key`: give the new one an id of its own"],
    );
    let said = goes_on(tuned, &all, &store, &options(2));
    assert_eq!(said, ["`totals` was `count by key` and is `count by key, quickly`; its state is kept"]);
    assert_eq!(shown(&store, "totals"), oracle(&all));
}

#[test]
fn a_table_goes_on_under_a_sink_of_another_id() {
    fn renamed(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "totals", KIND, Total), "table_of_totals", "totals", store);
    }
    let all = sample();
    let store = begun(&all);
    assert_eq!(goes_on(renamed, &all, &store, &options(2)), ["`table_of_totals` is new"]);
    assert_eq!(shown(&store, "totals"), oracle(&all), "a table goes on under another sink");
}

#[test]
fn a_sink_that_writes_to_another_table_leaves_the_first_as_it_is() {
    fn moved(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "totals", KIND, Total), "totals_table", "elsewhere", store);
    }
    let all = sample();
    let store = begun(&all);
    let said = goes_on(moved, &all, &store, &options(2));
    assert_eq!(
        said,
        [
            "table `totals` (`totals_table`) gets nothing more; what was committed to it stays",
            "`totals_table` writes to table `elsewhere` from here on; what came before is not in it",
        ]
    );
    assert_eq!(shown(&store, "totals"), oracle(&half(&all)));
}

#[test]
fn renames_and_migrations_reach_all_processes_of_a_run() {
    fn renamed(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "rows").renamed_from("lines");
        table(counted(&events, "sums", KIND, TotalSince).renamed_from("totals"), "totals_table", "totals", store);
    }
    let all = sample();
    let store = begun(&all);
    let report = attempt_processes(&built(renamed, &all, &store), &store, 2, 2).unwrap();
    assert!(report.finished && report.resumed_from.is_some());
    assert_eq!(shown(&store, "totals"), oracle(&all));
}

#[test]
fn a_dry_build_reports_every_mistake_with_the_line_to_change() {
    fn mistaken(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "totals", KIND, Total), "totals", "totals", store);
        table(counted(&events, "Totals", KIND, Total), "again", "totals", store);
        let _lost = events.map(|line| line.1.clone());
        let _never = flow.source("more_lines", lines.clone());
    }
    let store = memory();
    let error = start_with(mistaken, &sample(), &store, &options(2)).0.unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::Usage);
    let said = error.to_string();
    let line_of = |sentence: &str| {
        let line = said.lines().find(|line| line.contains(sentence)).unwrap_or_else(|| panic!("{sentence} in {said}"));
        let (place, _) = line.split_once(": ").unwrap();
        let (file, number) = place.rsplit_once(':').unwrap();
        assert!(file.ends_with("dataflow/src/runtime/tests/evolution.rs"), "{line}");
        number.parse::<u32>().unwrap()
    };
    let bad = line_of("`Totals` is no id");
    assert_eq!(line_of("what `map` gives is never used"), bad + 1);
    assert_eq!(line_of("`more_lines` is begun and never finished"), bad + 2);
    assert!(line_of("the id `totals` is used twice (first at") < bad);
    assert!(said.contains("`again` writes to table `totals`, and so does `totals`"), "{said}");
    assert_eq!(said.lines().count(), 5, "{said}");
    assert!(!reader::is_initialized(store, "_tidemill").unwrap(), "a dry build begins nothing");
}

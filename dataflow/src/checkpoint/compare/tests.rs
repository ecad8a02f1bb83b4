use super::*;
use crate::checkpoint::manifest::{OperatorState, Planned};
use crate::checkpoint::pieces::PieceRef;

fn piece(version: Option<u32>) -> PieceRef {
    PieceRef { path: "_tidemill/state/x".into(), bytes: 1, first: 1, last: 1, expires: None, version }
}

/// A checkpoint that knows these operators (id, kind, state version).
fn manifest(known: &[(&str, &str, Option<u32>)]) -> Manifest {
    let planned = |(id, kind, _): &(&str, &str, _)| Planned { id: (*id).into(), kind: (*kind).into(), meaning: None };
    let state = |(id, _, version): &(&str, &str, Option<u32>)| {
        let pieces = vec![piece(*version)];
        Some(OperatorState { id: (*id).into(), version: (*version)?, pieces })
    };
    Manifest {
        epoch: 7,
        run: 1,
        source: "{}".into(),
        operators: known.iter().filter_map(state).collect(),
        plan: known.iter().map(planned).collect(),
        dropped: BTreeSet::new(),
    }
}

/// A plan of these operators (id, kind, state version, oldest version that can be read, old id).
type Declared = (&'static str, &'static str, Option<u32>, Option<u32>, &'static [&'static str]);

fn plan(declared: &[Declared]) -> Plan {
    let mut plan = Plan::default();
    for (id, kind, state_version, oldest_version, renamed_from) in declared {
        plan.push(Operator {
            id: Some(id),
            kind: (*kind).into(),
            state_version: *state_version,
            oldest_version: *oldest_version,
            renamed_from: renamed_from.to_vec(),
            ..Operator::default()
        });
    }
    plan
}

fn changes(known: &[(&str, &str, Option<u32>)], declared: &[Declared], drop: &[&str]) -> Changes {
    let drop = drop.iter().map(|id| (*id).to_owned()).collect();
    compare(&manifest(known), &plan(declared), &drop)
}

const SOURCE: (&str, &str, Option<u32>) = ("lines", "source, watermark 120 s behind", None);
const TOTALS: (&str, &str, Option<u32>) = ("totals", "count by key", Some(2));
const SINK: (&str, &str, Option<u32>) = ("table", "sink totals", None);
const KNOWN: [(&str, &str, Option<u32>); 3] = [SOURCE, TOTALS, SINK];

const LINES: Declared = ("lines", "source, watermark 120 s behind", None, None, &[]);
const COUNT: Declared = ("totals", "count by key", Some(2), Some(2), &[]);
const TABLE: Declared = ("table", "sink totals", None, None, &[]);

#[track_caller]
fn accepted(changes: &Changes, said: &[&str]) {
    assert_eq!(changes.refusal(), None);
    let notes: Vec<String> = changes.notes().collect();
    assert_eq!(notes, said);
}

#[track_caller]
fn refused(changes: &Changes, said: &[&str]) {
    assert_eq!(changes.refusal().as_deref().unwrap_or_default().lines().collect::<Vec<_>>(), said);
}

const EMPTY: &str = "the state of `totals` is dropped, as asked; it starts empty, and takes back none of the rows that it wrote: \
                     build its tables anew with `replay`, or have it write to others";

#[test]
fn the_same_plan_says_nothing() {
    let same = changes(&KNOWN, &[LINES, COUNT, TABLE], &[]);
    accepted(&same, &[]);
    assert!(same.iter().all(|change| matches!(change, Change::Unchanged { .. })), "{same:?}");
    assert_eq!(same.heir("totals"), Some("totals"));
}

#[test]
fn what_is_new_starts_empty_and_is_said() {
    let more = ("more", "window session, gap 5 ms", Some(1), Some(1), &[][..]);
    let stateless = ("windows", "window tumbling 60000 ms, late Drop", None, None, &[][..]);
    let table = ("more_table", "sink more", None, None, &[][..]);
    accepted(
        &changes(&KNOWN, &[LINES, COUNT, more, stateless, TABLE, table], &[]),
        &[
            "`more` has no state in the checkpoint and starts empty",
            "`windows` is new",
            "`more_table` writes to table `more` from here on; what came before is not in it",
        ],
    );
}

#[test]
fn what_is_gone_is_refused_unless_its_state_is_dropped() {
    refused(
        &changes(&KNOWN, &[LINES, TABLE], &[]),
        &["`totals` has state (version 2) in the checkpoint and is not in the plan: put it back, say \
           .renamed_from(\"totals\") where it lives on, or give its state up with --drop-state totals"],
    );
    let dropped = changes(&KNOWN, &[LINES, TABLE], &["totals"]);
    accepted(&dropped, &["the state of `totals` is dropped, as asked"]);
    assert_eq!(dropped.heir("totals"), None);
    let living = changes(&KNOWN, &[LINES, COUNT, TABLE], &["totals"]);
    accepted(&living, &[EMPTY]);
    let stateless = ("totals", "count by key", None, None, &[][..]);
    let forgetful = changes(&KNOWN, &[LINES, stateless, TABLE], &[]);
    assert!(forgetful.refusal().unwrap().contains("and keeps none in the plan"), "{forgetful:?}");
}

#[test]
fn only_state_that_is_there_can_be_dropped_and_once() {
    for id in ["total", "table", "lines"] {
        refused(
            &changes(&KNOWN, &[LINES, COUNT, TABLE], &[id]),
            &[&format!("--drop-state {id}: there is no such state; the checkpoint has state of `totals`")],
        );
    }
    let mut after = manifest(&KNOWN);
    after.dropped.insert("totals".into());
    let again = compare(&after, &plan(&[LINES, COUNT, TABLE]), &BTreeSet::from(["totals".to_owned()]));
    assert_eq!(again.refusal(), None);
    assert_eq!(again.heir("totals"), Some("totals"), "state that is newer than the drop stays");
}

#[test]
fn a_renamed_operator_takes_the_state_of_its_old_id() {
    let sums = ("sums", "count by key", Some(2), Some(2), &["older", "totals"][..]);
    let renamed = changes(&KNOWN, &[LINES, sums, TABLE], &[]);
    accepted(&renamed, &["`sums` goes on with what `totals` had"]);
    assert_eq!(renamed.heir("totals"), Some("sums"));
    // The next checkpoint has the new id; the old one may stay in the code.
    let known = [SOURCE, ("sums", "count by key", Some(2)), SINK];
    accepted(&changes(&known, &[LINES, sums, TABLE], &[]), &[]);
    // A checkpoint that has both is of an operator more.
    let both = [SOURCE, TOTALS, ("sums", "count by key", Some(2)), SINK];
    assert!(changes(&both, &[LINES, sums, TABLE], &[]).refusal().unwrap().starts_with("`totals` has state"));
}

#[test]
fn an_old_id_that_nobody_had_is_refused() {
    let sums = ("sums", "count by key", Some(2), Some(2), &["totls"][..]);
    refused(
        &changes(&KNOWN, &[LINES, sums, TABLE], &["totals"]),
        &[
            "`sums` is renamed from `totls`, and the checkpoint knows neither; it knows `lines`, `table`, `totals`: correct \
           the old id, or leave it out",
        ],
    );
}

#[test]
fn state_versions_go_up_by_migration_and_never_down() {
    let now = |version, oldest| ("totals", "count by key", Some(version), Some(oldest), &[][..]);
    accepted(
        &changes(&KNOWN, &[LINES, now(4, 2), TABLE], &[]),
        &["`totals`: its state is migrated from version 2 to 4"],
    );
    refused(
        &changes(&KNOWN, &[LINES, now(3, 3), TABLE], &[]),
        &[
            "`totals` has state version 2 in the checkpoint and this build has 3, without a migration from it: go on with a \
           build that reads 2, or give its state up with --drop-state totals",
        ],
    );
    refused(
        &changes(&KNOWN, &[LINES, now(5, 3), TABLE], &[]),
        &[
            "`totals` has state version 2 in the checkpoint and this build has 5, with migrations from 3 on: go on with a \
           build that reads 2, or give its state up with --drop-state totals",
        ],
    );
    refused(
        &changes(&KNOWN, &[LINES, now(1, 1), TABLE], &[]),
        &[
            "`totals` has state version 2 in the checkpoint and this build has 1: go on with the build that wrote it, or \
           give its state up with --drop-state totals",
        ],
    );
    accepted(&changes(&KNOWN, &[LINES, now(1, 1), TABLE], &["totals"]), &[EMPTY]);
}

#[test]
fn the_oldest_piece_decides_what_must_be_migrated() {
    let mut mixed = manifest(&KNOWN);
    mixed.operators[0].pieces = vec![piece(Some(1)), piece(Some(2)), piece(None)];
    let now = |oldest| plan(&[LINES, ("totals", "count by key", Some(2), Some(oldest), &[][..]), TABLE]);
    let migrated = Change::Migrated { id: "totals".into(), from: 1, to: 2 };
    assert!(compare(&mixed, &now(1), &BTreeSet::new()).iter().any(|change| *change == migrated));
    assert!(compare(&mixed, &now(2), &BTreeSet::new()).refusal().unwrap().contains("without a migration"));
}

#[test]
fn another_kind_of_operator_under_an_id_is_refused_and_other_parameters_are_said() {
    let session = ("totals", "window session, gap 5 ms", Some(2), Some(2), &[][..]);
    refused(
        &changes(&KNOWN, &[LINES, session, TABLE], &[]),
        &[
            "`totals` was `count by key` and is `window session, gap 5 ms`: give the new one an id of its own, or give up the \
           state of the old one with --drop-state totals",
        ],
    );
    let dropped = changes(&KNOWN, &[LINES, session, TABLE], &["totals"]);
    assert_eq!(dropped.refusal(), None);
    assert_eq!(dropped.heir("totals"), None);
    let wider = ("totals", "count by key, twice", Some(2), Some(2), &[][..]);
    accepted(
        &changes(&KNOWN, &[LINES, wider, TABLE], &[]),
        &["`totals` was `count by key` and is `count by key, twice`; its state is kept"],
    );
}

/// A plan and a checkpoint of one window, whose state means one thing now and meant another then.
fn meaning(then: Option<&str>, now: Option<&str>, drop: &[&str]) -> Changes {
    let mut known = manifest(&[SOURCE, ("sums", "window tumbling 60000 ms, upserts", Some(1)), SINK]);
    known.plan[1].meaning = then.map(str::to_owned);
    let window = ("sums", "window tumbling 30000 ms, upserts", Some(1), Some(1), &[][..]);
    let mut plan = plan(&[LINES, window, TABLE]);
    if let Some(now) = now {
        plan.set_meaning(1, now.to_owned());
    }
    compare(&known, &plan, &drop.iter().map(|id| (*id).to_owned()).collect())
}

#[test]
fn state_that_would_be_taken_for_something_else_is_refused() {
    let (minute, half) = (Some("tumbling 60000 ms, upserts, sum"), Some("tumbling 30000 ms, upserts, sum"));
    refused(
        &meaning(minute, half, &[]),
        &["`sums` has state of `tumbling 60000 ms, upserts, sum` in the checkpoint and would take it for that of \
           `tumbling 30000 ms, upserts, sum`: give the new one an id of its own, or give up the state of the old one with \
           --drop-state sums"],
    );
    let kept =
        "`sums` was `window tumbling 60000 ms, upserts` and is `window tumbling 30000 ms, upserts`; its state is kept";
    accepted(&meaning(half, half, &[]), &[kept]);
    // Checkpoints of earlier builds do not say it.
    accepted(&meaning(None, half, &[]), &[kept]);
    accepted(&meaning(minute, half, &["sums"]), &[&EMPTY.replace("totals", "sums")]);
}

#[test]
fn the_meaning_of_state_is_in_the_manifest_and_older_ones_are_read_without() {
    let mut plan = plan(&[COUNT, TABLE]);
    plan.set_meaning(0, "counts".to_owned());
    let written = serde_json::to_string(&Planned::of(&plan)).unwrap();
    let sink = r#"{"id":"table","kind":"sink totals"}"#;
    assert_eq!(written, format!(r#"[{{"id":"totals","kind":"count by key","meaning":"counts"}},{sink}]"#));
    assert_eq!(serde_json::from_str::<Planned>(sink).unwrap().meaning, None);
}

#[test]
fn a_source_keeps_its_offsets_only_under_its_id_or_a_declared_rename() {
    let renamed = ("rows", "source, watermark 120 s behind", None, None, &["lines"][..]);
    accepted(&changes(&KNOWN, &[renamed, COUNT, TABLE], &[]), &["`rows` goes on with what `lines` had"]);
    let other = ("rows", "source, watermark 120 s behind", None, None, &[][..]);
    refused(
        &changes(&KNOWN, &[other, COUNT, TABLE], &[]),
        &[
            "the source was `lines` and is `rows`, and offsets are kept by id: say .renamed_from(\"lines\") if it is the \
           same, or start in a new folder",
        ],
    );
}

#[test]
fn what_becomes_of_tables_is_said_and_a_sink_may_have_another_id() {
    accepted(
        &changes(&KNOWN, &[LINES, COUNT], &[]),
        &["table `totals` (`table`) gets nothing more; what was committed to it stays"],
    );
    let moved = ("table", "sink elsewhere", None, None, &[][..]);
    accepted(
        &changes(&KNOWN, &[LINES, COUNT, moved], &[]),
        &[
            "table `totals` (`table`) gets nothing more; what was committed to it stays",
            "`table` writes to table `elsewhere` from here on; what came before is not in it",
        ],
    );
    let other = ("other_table", "sink totals", None, None, &[][..]);
    accepted(&changes(&KNOWN, &[LINES, COUNT, other], &[]), &["`other_table` is new"]);
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_the_line() {
    let at = std::panic::Location::caller();
    let mut plan = plan(&[LINES, TABLE]);
    plan.push(Operator {
        id: Some("sums"),
        kind: "sum".into(),
        state_version: Some(1),
        oldest_version: Some(1),
        renamed_from: vec!["nothing"],
        at: Some(at),
        ..Operator::default()
    });
    let refusal = compare(&manifest(&KNOWN), &plan, &BTreeSet::from(["what".to_owned()])).refusal().unwrap();
    let lines: Vec<&str> = refusal.lines().collect();
    assert_eq!(lines.len(), 3, "{refusal}");
    assert!(lines[0].starts_with("--drop-state what"), "{refusal}");
    assert!(lines[1].starts_with(&format!("{}:{}: `sums` is renamed", at.file(), at.line())), "{refusal}");
    assert!(lines[2].starts_with("`totals` has state"), "{refusal}");
}

#[test]
fn checkpoints_that_know_only_state_are_compared_by_state() {
    let text = r#"{
        "epoch": 3, "run": 1, "source": "{}",
        "operators": [{"id": "totals", "version": 2, "pieces": [
            {"path": "_tidemill/state/totals/000000000003-000001-0000", "bytes": 40, "first": 3, "last": 3, "expires": null}
        ]}]
    }"#;
    let old: Manifest = serde_json::from_str(text).unwrap();
    assert_eq!((&old.plan, &old.dropped), (&Vec::new(), &BTreeSet::new()));
    assert_eq!(old.operators[0].pieces[0].version, None);
    let compared = |declared: &[Declared]| compare(&old, &plan(declared), &BTreeSet::new());
    accepted(&compared(&[LINES, COUNT, TABLE]), &[]);
    let renamed = ("rows", "source, watermark 120 s behind", None, None, &["lines"][..]);
    accepted(&compared(&[renamed, COUNT, TABLE]), &[]);
    let sums = ("sums", "count by key", Some(2), Some(2), &["totals"][..]);
    accepted(&compared(&[LINES, sums, TABLE]), &["`sums` goes on with what `totals` had"]);
    assert!(compared(&[LINES, TABLE]).refusal().unwrap().starts_with("`totals` has state (version 2)"));
}

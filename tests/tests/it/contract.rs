//! The command line: what it answers, how it exits, and that a wrong option gets a sentence with the remedy.

use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::oracle::Oracle;
use tidemill_tests::rows::{QUERIES, Tables, Time};

use crate::{assert_books_balance, counter, tidemill};

fn small(folder: &TempDir) -> [std::path::PathBuf; 1] {
    [corpus::file(folder.path(), "events.ndjson", &corpus::events(10_000, 71, Rates::within_horizon()))]
}

#[test]
fn the_json_line_has_every_field_and_counts_the_rows_of_every_table() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let line = tidemill().job(&small(&folder), &out).workers(2).eager().finish();
    assert_books_balance(&line);
    for name in ["late", "epochs", "checkpoints", "peak_memory_bytes"] {
        counter(&line, name);
    }
    for name in ["seconds", "events_per_second", "cpu_seconds"] {
        assert!(line[name].as_f64().is_some_and(|number| number > 0.0), "{name} of {line}");
    }
    assert!(line.get("resumed_from").is_some_and(Value::is_null), "a first start resumes from nothing: {line}");
    for (table, _) in QUERIES {
        let answer = tidemill().query(&out, &format!("SELECT count(*) AS n FROM {table}"));
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(line["rows"][table], answer["n"], "{table} of {line}");
    }
}

#[test]
fn without_json_standard_output_is_not_one_json_line_and_progress_goes_to_standard_error() {
    let folder = TempDir::new().unwrap();
    let input = small(&folder);
    let out = folder.path().join("out");
    let (input, out) = (input[0].to_string_lossy(), out.to_string_lossy());
    let outcome = tidemill().command(&["run", "web_analytics", "--input", &input, "--out", &out]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains('\u{1b}'), "no terminal, no control sequences: {:?}", outcome.stderr);
}

#[test]
fn a_wrong_command_line_exits_with_2_and_a_sentence() {
    let folder = TempDir::new().unwrap();
    let input = small(&folder);
    let out = folder.path().join("out");
    let (input, out) = (&*input[0].to_string_lossy(), &*out.to_string_lossy());
    let run = ["run", "web_analytics", "--input", input, "--out", out];
    let wrong: [&[&str]; 9] = [
        &["--workers", "0"],
        &["--workers", "many"],
        &["--epoch-bytes", "0"],
        &["--checkpoint-every", "soon"],
        &["--memory-budget", "plenty"],
        &["--disable-sink", "no_such_table"],
        &["--exactly-once", "perhaps"],
        &["--format", "xml"],
        &["--no-such-option"],
    ];
    for options in wrong {
        let outcome = tidemill().command(&[&run, options].concat());
        outcome.assert_refused(&[2], &[options[0]]);
    }
    for arguments in [&["run", "web_analytics", "--out", out][..], &run[..4], &["run", "no_such_job"], &["walk"]] {
        tidemill().command(arguments).assert_refused(&[2], &[]);
    }
    assert!(!folder.path().join("out").exists(), "a wrong command line creates nothing");
}

#[test]
fn an_input_that_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    let job = tidemill().job(&[folder.path().join("absent.ndjson")], &folder.path().join("out"));
    job.outcome().assert_refused(&[2, 3], &["absent.ndjson"]);
}

#[test]
fn an_empty_input_finishes_with_empty_tables() {
    let folder = TempDir::new().unwrap();
    let input = [corpus::file(folder.path(), "empty.ndjson", b"\n  \n")];
    let out = folder.path().join("out");
    let line = tidemill().job(&input, &out).workers(2).finish();
    assert_eq!(counter(&line, "events_read"), 0, "{line}");
    Tables::default().assert_equal(&tidemill().tables(&out), "empty input");
}

#[test]
fn a_disabled_sink_is_fixed_when_the_folder_is_created() {
    let folder = TempDir::new().unwrap();
    let (input, out) = (small(&folder), folder.path().join("out"));
    let job = tidemill().job(&input, &out);
    job.option(&["--disable-sink", "raw_events"]).finish();
    let bytes = std::fs::read(&input[0]).unwrap();
    let (expected, _) = Oracle::of([bytes.as_slice()]).answer();
    let found = Tables::read(|sql| match sql.ends_with("raw_events") {
        true => Vec::new(),
        false => tidemill().query(&out, sql),
    });
    expected.without_raw_events().assert_equal(&found, "without the raw archive");
    job.outcome().assert_refused(&[3], &["raw_events"]);
}

#[test]
fn without_exactly_once_the_tables_are_the_same_and_the_folder_must_be_new() {
    let folder = TempDir::new().unwrap();
    let (input, out) = (small(&folder), folder.path().join("out"));
    let job = tidemill().job(&input, &out).workers(2).option(&["--exactly-once", "off"]);
    job.finish();
    let bytes = std::fs::read(&input[0]).unwrap();
    let (expected, _) = Oracle::of([bytes.as_slice()]).answer();
    expected.assert_equal(&tidemill().tables(&out), "exactly-once off");
    job.outcome().assert_refused(&[2, 3], &["exactly-once"]);
}

#[test]
fn queries_answer_in_three_formats_with_times_in_rfc_3339() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    tidemill().job(&small(&folder), &out).finish();
    let data = out.to_string_lossy();
    let sql = "SELECT window_start, page, views FROM page_views_by_minute ORDER BY window_start, page LIMIT 3";
    let answer = |format: &[&str]| {
        let outcome = tidemill().command(&[&["query", "--data", &data, sql][..], format].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        String::from_utf8(outcome.stdout).unwrap()
    };
    let csv = answer(&["--format", "csv"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!((lines.len(), lines[0]), (4, "window_start,page,views"), "{csv}");
    assert!(lines[1..].iter().all(|line| Time::parse(line.split(',').next().unwrap()).is_some()), "{csv}");
    let ndjson = answer(&["--format", "ndjson"]);
    assert_eq!(ndjson.lines().count(), 3);
    for line in ndjson.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        assert!(Time::parse(row["window_start"].as_str().unwrap()).is_some() && row["views"].is_i64(), "{row}");
    }
    let table = answer(&[]);
    assert!(table.contains("window_start") && table.contains("page"), "{table}");
}

#[test]
fn progress_names_every_input_whole_when_the_run_has_finished() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let pieces = corpus::cut(&corpus::events(10_000, 72, Rates::within_horizon()), 2);
    let inputs =
        [corpus::file(folder.path(), "a.ndjson", &pieces[0]), corpus::file(folder.path(), "b.ndjson", &pieces[1])];
    tidemill().job(&inputs, &out).workers(2).finish();
    let lines: Vec<u64> = pieces.iter().map(|piece| corpus::lines(piece).len() as u64).collect();
    assert_eq!(tidemill().progress(&out, &inputs), lines);
}

#[test]
fn a_query_that_cannot_be_answered_fails_with_a_sentence() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    tidemill().job(&small(&folder), &out).finish();
    let data = out.to_string_lossy();
    for sql in ["SELECT nothing FROM sessions", "SELEC 1", "SELECT * FROM no_such_table"] {
        let outcome = tidemill().command(&["query", "--data", &data, sql]);
        outcome.assert_refused(&[1, 2], &[]);
    }
    let nowhere = folder.path().join("nowhere");
    let outcome = tidemill().command(&["query", "--data", &nowhere.to_string_lossy(), "SELECT 1"]);
    outcome.assert_refused(&[1, 3], &["nowhere"]);
}

#[test]
fn generated_files_are_equal_for_equal_seeds() {
    let folder = TempDir::new().unwrap();
    let files = ["a", "b", "c"].map(|name| folder.path().join(name));
    for (file, seed) in files.iter().zip(["5", "5", "6"]) {
        let out = file.to_string_lossy();
        let outcome = tidemill().command(&["generate", "--events", "5000", "--seed", seed, "--out", &out]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    }
    let [a, b, c] = files.map(|file| std::fs::read(file).unwrap());
    assert!(a == b && a != c && !a.is_empty());
}

//! The promises of the file source about formats: what is guessed, what is bound, what a W3C log's directives reach.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use tempfile::TempDir;
use tidemill_log::PartitionStatus;

use super::tests::binding;
use super::*;

const LINE: &str = "192.0.2.1 - - [10/Mar/2026:10:00:00 +0000] \"GET /a HTTP/1.1\" 200 12 \"-\" \"agent\"\n";

fn write(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn source(paths: &[PathBuf]) -> FileSource {
    FileSource::new(FilesConfig { paths: paths.to_vec(), ..FilesConfig::default() })
}

/// What a partition's blocks decode to: pages (or types) and reasons.
fn decode(source: &FileSource, reader: &mut dyn BlockReader, limit: usize) -> (Vec<String>, Vec<String>) {
    let mut decoder = source.decoder();
    let (mut pages, mut reasons) = (Vec::new(), Vec::new());
    while let Some(block) = reader.read(0, limit, None).unwrap() {
        let mut out = Decoded::default();
        decoder.decode(block, &mut out);
        pages.extend(out.records.iter().map(|event| event.page().map_or("", |page| page.text).to_owned()));
        reasons.extend(out.malformed.into_iter().map(|letter| letter.reason));
    }
    (pages, reasons)
}

#[test]
fn directives_of_a_w3c_log_reach_every_block_behind_them() {
    let folder = TempDir::new().unwrap();
    let mut text = "#Version: 1.0\n#Fields: date time c-ip cs-uri-stem sc-status\n".to_owned();
    let mut expected = Vec::new();
    for n in 0..40 {
        if n == 20 {
            text.push_str("#Fields: sc-status cs-uri-stem c-ip time date\n");
        }
        text.push_str(&match n < 20 {
            true => format!("2026-03-10 10:00:00 192.0.2.1 /p{n} 200\n"),
            false => format!("200 /p{n} 192.0.2.1 10:00:00 2026-03-10\n"),
        });
        expected.push(format!("/p{n}"));
    }
    let path = write(&folder, "u_ex.log", &text);
    for limit in [1, 100, 333, 1 << 20] {
        let source = source(std::slice::from_ref(&path));
        let mut reader = source.open(&[]).unwrap();
        assert_eq!(decode(&source, &mut *reader, limit), (expected.clone(), vec![]), "{limit}");
    }
    // A later run goes on behind the directives that it does not read again.
    for stop in [70, 300, 900, 1_300] {
        let first = source(std::slice::from_ref(&path));
        let mut begun = first.open(&[]).unwrap();
        while begun.position(0).offset < stop {
            begun.read(0, 100, None).unwrap().unwrap();
        }
        let recorded = binding(&*begun, 0);
        let second = source(std::slice::from_ref(&path));
        let mut reader = second.open(std::slice::from_ref(&recorded)).unwrap();
        let (pages, reasons) = decode(&second, &mut *reader, 100);
        assert_eq!(reasons, Vec::<String>::new(), "{stop}");
        assert!(!pages.is_empty() && expected.ends_with(&pages), "{stop}: {pages:?}");
    }
}

#[test]
fn what_is_guessed_is_said_once_a_format() {
    let folder = TempDir::new().unwrap();
    let mut paths: Vec<_> =
        (0..3).map(|n| write(&folder, &format!("{n}.log"), LINE.repeat(2).replace("/a", &format!("/{n}")))).collect();
    paths.push(write(&folder, "nothing.log", "hello\n"));
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&said);
    let notice = Notice::to(move |sentence| heard.lock().unwrap().push(sentence.to_owned()));
    let source = FileSource::new(FilesConfig { paths, notice, ..FilesConfig::default() });
    source.open(&[]).unwrap();
    source.open(&[]).unwrap();
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("0.log and 2 more: read as Combined Log Format;"), "{said:?}");
}

#[test]
fn lines_of_no_known_format_name_the_way_out() {
    let folder = TempDir::new().unwrap();
    for (text, reason) in [
        (
            "hello\nworld\n",
            "neither an event nor a line of a known log format; --format or --log-format says what it is",
        ),
        ("name,age\nx,1\n", "the file looks like CSV; events are JSON objects, one a line"),
        ("{\"event_id\":\"e\"}\n", "event_type is missing"),
    ] {
        let source = source(&[write(&folder, "a", text)]);
        let mut reader = source.open(&[]).unwrap();
        let (pages, reasons) = decode(&source, &mut *reader, 1_000);
        assert_eq!((pages.len(), reasons[0].as_str()), (0, reason));
    }
}

#[test]
fn an_array_and_objects_over_several_lines_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let event = r#"{"event_id":"e","event_type":"click","user_id":"u","timestamp":1773136800000}"#;
    for (text, what) in
        [(format!("[\n{event},\n{event}\n]\n"), "a JSON array"), (event.replace(',', ",\n"), "go over several lines")]
    {
        match source(&[write(&folder, "a.json", text)]).open(&[]).map(|_| ()) {
            Err(error @ SourceError::Refused { .. }) => {
                let said = error.to_string();
                assert!(said.contains(what) && said.contains("jq -c"), "{said}");
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
}

#[test]
fn a_format_is_told_by_the_first_block_with_a_record_where_the_head_has_none() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.log", "odd\n".repeat(2_000) + &LINE.repeat(3));
    let source = source(&[path]);
    let mut reader = source.open(&[]).unwrap();
    let (pages, reasons) = decode(&source, &mut *reader, 1_000);
    assert_eq!((pages.len(), reasons.len()), (3, 2_000));
    assert_eq!(binding(&*reader, 0).detail["format"], "combined");
}

/// All blocks of a file from where it stands up to an offset.
fn blocks(reader: &mut dyn BlockReader, limit: usize, until: Option<u64>) -> Vec<Block> {
    std::iter::from_fn(|| reader.read(0, limit, until).unwrap()).collect()
}

/// What blocks decode to, in this order: pages with reasons, by the line of the first.
fn decoded(source: &FileSource, blocks: impl IntoIterator<Item = Block>) -> (Vec<String>, Vec<(u64, String)>) {
    let mut decoder = source.decoder();
    let (mut pages, mut letters) = (Vec::new(), Vec::new());
    for block in blocks {
        let mut out = Decoded::default();
        decoder.decode(block, &mut out);
        pages.extend(out.records.iter().map(|event| event.page().map_or("", |page| page.text).to_owned()));
        letters.extend(out.malformed.into_iter().map(|letter| (letter.line, letter.reason)));
    }
    pages.sort();
    letters.sort();
    (pages, letters)
}

#[test]
fn a_format_is_told_by_any_line_of_a_block() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.log", "odd\n".repeat(2_000) + &LINE.repeat(3));
    let source = source(&[path]);
    let mut reader = source.open(&[]).unwrap();
    let (pages, reasons) = decode(&source, &mut *reader, 256 << 10);
    assert_eq!((pages.len(), reasons.len()), (3, 2_000));
}

#[test]
fn a_format_that_is_told_late_holds_from_where_it_was_told() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.log", "odd\n".repeat(1_500) + &LINE.repeat(200));
    let (from, size) = (4_000, fs::metadata(&path).unwrap().len());
    let live = source(std::slice::from_ref(&path));
    let mut reader = live.open(&[]).unwrap();
    let at = binding(&*reader, 0);
    let all = blocks(&mut *reader, 4_000, None);
    let bound = binding(&*reader, 0);
    assert_eq!(bound.detail["format_from"], from);
    // Whichever block is decoded first.
    let expected = decoded(&live, all.iter().cloned());
    assert_eq!((expected.0.len(), expected.1.len()), (200, 1_500));
    assert!(expected.1[0].1.contains("known log format") && expected.1[1_200].1.contains("Combined"), "{expected:?}");
    assert_eq!(decoded(&live, all.into_iter().rev()), expected);
    // However a replay cuts it.
    for limit in [1, 700, 4_000, 1 << 20] {
        let again = source(std::slice::from_ref(&path));
        let mut replay = again.open_behind(std::slice::from_ref(&at), std::slice::from_ref(&bound)).unwrap();
        let cut = blocks(&mut *replay, limit, Some(size));
        assert_eq!(decoded(&again, cut), expected, "{limit}");
        let (recorded, end) = (binding(&*replay, 0), &bound);
        assert_eq!((&recorded.detail, recorded.end, recorded.lines), (&end.detail, end.end, end.lines));
    }
    // What an older build recorded holds from the first line.
    let mut older = bound.clone();
    older.detail.as_object_mut().unwrap().remove("format_from");
    let again = source(std::slice::from_ref(&path));
    let mut replay = again.open_behind(std::slice::from_ref(&at), &[older]).unwrap();
    let letters = decoded(&again, blocks(&mut *replay, 4_000, Some(size))).1;
    assert!(letters[0].1.contains("Combined"), "{letters:?}");
}

#[test]
fn directives_before_the_first_record_are_kept_where_the_format_is_told_late() {
    let folder = TempDir::new().unwrap();
    let record = "2026-03-10 10:00:00 192.0.2.1 /p 200\n";
    let header = "#Version: 1.0\n#Fields: date time c-ip cs-uri-stem sc-status\n";
    let path = write(&folder, "u_ex.log", format!("{}{header}{}", "odd\n".repeat(1_500), record.repeat(20)));
    for limit in [1, 100, 6_000 + header.len(), 1 << 20] {
        let source = source(std::slice::from_ref(&path));
        let mut reader = source.open(&[]).unwrap();
        assert_eq!(decode(&source, &mut *reader, limit).0.len(), 20, "{limit}");
    }
}

#[test]
fn a_w3c_log_that_begins_with_its_header_only_is_read_when_it_grows() {
    let folder = TempDir::new().unwrap();
    let header = "#Version: 1.0\n#Fields: date time c-ip cs-uri-stem sc-status\n";
    let path = write(&folder, "u_ex.log", header);
    let source_of = || source(std::slice::from_ref(&path));
    let first = source_of();
    let mut begun = first.open(&[]).unwrap();
    assert_eq!(decode(&first, &mut *begun, 300), (vec![], vec![]), "a header is no dead letter");
    let recorded = binding(&*begun, 0);
    let mut older = recorded.clone();
    older.detail.as_object_mut().unwrap().remove("directives").unwrap();
    write(&folder, "u_ex.log", header.to_owned() + &"2026-03-10 10:00:00 192.0.2.1 /p 200\n".repeat(20));
    for at in [recorded, older] {
        let second = source_of();
        let mut reader = second.open(&[at]).unwrap();
        let (pages, reasons) = decode(&second, &mut *reader, 300);
        assert_eq!((pages.len(), reasons), (20, vec![]));
        assert_eq!(binding(&*reader, 0).detail["format"], "w3c");
    }
}

#[test]
fn directives_are_kept_once_a_block_and_in_bounded_number() {
    let folder = TempDir::new().unwrap();
    let kept = |limit: usize, text: &str| {
        let source = source_as(&write(&folder, "u_ex.log", text), "w3c");
        let mut reader = source.open(&[]).unwrap();
        let count = blocks(&mut *reader, limit, None).len();
        let files = source.files.0.read().unwrap();
        (count, files[0].directives.read().unwrap().len())
    };
    let dates: String = (0..9_000).map(|n| format!("#Date: {n:05}\n")).collect();
    assert_eq!(kept(1 << 20, &dates), (1, 1));
    assert_eq!(kept(13, &dates), (9_000, MOST_DIRECTIVES));
    assert_eq!(kept(13, &"#Date: 00001\n".repeat(9)), (9, 1), "what changes nothing is not kept");
    let long = format!("#Fields: {}\n", "date ".repeat(100_000));
    let source = source_as(&write(&folder, "long.log", long), "w3c");
    let mut reader = source.open(&[]).unwrap();
    blocks(&mut *reader, 1 << 20, None);
    assert!(binding(&*reader, 0).detail.to_string().len() < 2_000);
}

#[test]
fn a_directive_behind_a_space_reaches_the_next_block_too() {
    let folder = TempDir::new().unwrap();
    let record = "2026-03-10 10:00:00 192.0.2.1 /p 200\n".repeat(20);
    let too_long = format!("#Fields: {}\n", "x".repeat(1 << 20));
    let path =
        write(&folder, "u_ex.log", format!(" #Fields: date time c-ip cs-uri-stem sc-status\r\n{too_long}{record}"));
    for limit in [1, 100, 2 << 20] {
        let source = source_as(&path, "w3c");
        let mut reader = source.open(&[]).unwrap();
        let (pages, reasons) = decode(&source, &mut *reader, limit);
        assert_eq!((pages.len(), reasons), (20, vec!["line is longer than 1 MiB".to_owned()]), "{limit}");
    }
}

/// Opens a file as this format, or as what is guessed.
fn source_as(path: &std::path::Path, format: &str) -> FileSource {
    let format = format.parse().unwrap();
    FileSource::new(FilesConfig { paths: vec![path.to_owned()], format, ..FilesConfig::default() })
}

/// Reads a file in a run of its own; gives what is recorded of each partition then, and the pages.
fn run(path: &std::path::Path, format: &str, recorded: &[PartitionBinding]) -> (Vec<PartitionBinding>, Vec<String>) {
    let source = source_as(path, format);
    let mut reader = source.open(recorded).unwrap();
    let mut decoder = source.decoder();
    let count = u32::try_from(reader.partitions().len()).unwrap();
    let mut pages = Vec::new();
    for number in 0..count {
        while let Some(block) = reader.read(number, 300, None).unwrap() {
            let mut out = Decoded::default();
            decoder.decode(block, &mut out);
            pages.extend(out.records.iter().map(|event| event.page().map_or("", |page| page.text).to_owned()));
        }
    }
    ((0..count).map(|number| binding(&*reader, number)).collect(), pages)
}

#[test]
fn a_format_is_bound_when_a_line_was_a_record_and_not_before() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.log", LINE.repeat(3));
    let custom = r#"[$time_local] "$request""#;
    for wrong in ["ndjson", "json-log", custom] {
        let (tried, none) = run(&path, wrong, &[]);
        assert_eq!((none.len(), &tried[0].detail["format"], tried[0].lines), (0, &serde_json::Value::Null, 3));
        // The same again changes nothing; another format, or a guess, reads the file from its beginning.
        assert_eq!(run(&path, wrong, &tried), (tried.clone(), vec![]));
        for right in ["combined", "guess"] {
            let (read, pages) = run(&path, right, &tried);
            assert_eq!((read.len(), pages.len()), (2, 3), "{wrong} then {right}");
            assert_eq!((&read[0].digest, read[0].status), (&tried[0].digest, PartitionStatus::Finished));
            assert!(read[1].name.ends_with("a.log#2"), "{}", read[1].name);
            assert_eq!((run(&path, right, &read).1, run(&path, "guess", &read).1), (vec![], vec![]));
            let refused = source_as(&path, wrong).open(&read).map(|_| ()).unwrap_err();
            assert!(refused.to_string().contains("was read as combined before"), "{refused}");
        }
    }
}

#[test]
fn a_format_of_which_every_line_was_out_of_bounds_is_not_bound() {
    let folder = TempDir::new().unwrap();
    let seconds = r#"{"event_id":"e","event_type":"click","user_id":"u","timestamp":1773136800}"#;
    for text in [LINE.replace("2026", "1999"), format!("{seconds}\n")] {
        let path = write(&folder, "a.log", text.repeat(5));
        let (tried, pages) = run(&path, "guess", &[]);
        assert_eq!((pages.len(), tried[0].lines, &tried[0].detail["format"]), (0, 5, &serde_json::Value::Null));
        let (again, _) = run(&path, r#"[$time_local] "$request""#, &tried);
        assert_eq!(again.len(), 2, "another format reads it again");
    }
}

#[test]
fn a_corrected_file_is_read_anew_where_no_line_of_it_was_a_record() {
    let folder = TempDir::new().unwrap();
    let seconds = r#"{"event_id":"e","event_type":"page_view","user_id":"u","timestamp":1773136800}"#;
    for format in ["guess", "ndjson"] {
        let path = write(&folder, "a.ndjson", format!("{seconds}\n").repeat(5));
        let (tried, pages) = run(&path, format, &[]);
        assert_eq!((pages.len(), tried.len()), (0, 1));
        // Shorter, as long and longer than what was read.
        for corrected in [LINE.to_owned(), format!("{seconds}\n").repeat(5).replace("e\"", "f\""), LINE.repeat(99)] {
            fs::write(&path, &corrected).unwrap();
            let (again, pages_of_it) = run(&path, format, &tried);
            let expected = if format == "guess" && corrected.starts_with(LINE) { corrected.lines().count() } else { 0 };
            assert_eq!((again.len(), pages_of_it.len()), (2, expected));
            assert_eq!(again[0].end, tried[0].end, "what was read before stays read");
        }
    }
    let counted = r#"{"event_id":"e","event_type":"click","user_id":"u","timestamp":1773136800000}"#;
    let path = write(&folder, "b.ndjson", format!("{counted}\n{seconds}\n"));
    let (read, _) = run(&path, "guess", &[]);
    fs::write(&path, LINE).unwrap();
    assert!(source_as(&path, "guess").open(&read).is_err(), "a line of it was counted");
}

#[test]
fn a_file_in_which_one_line_was_a_record_stays_what_it_was_read_as() {
    let folder = TempDir::new().unwrap();
    let event = r#"{"event_id":"e","event_type":"click","user_id":"u","timestamp":1773136800000}"#;
    let path = write(&folder, "a.log", format!("{}{event}\n{}", LINE.repeat(20), LINE.repeat(20)));
    let (read, pages) = run(&path, "ndjson", &[]);
    assert_eq!((pages.len(), &read[0].detail["format"]), (1, &"ndjson".into()));
    let refused = source_as(&path, "combined").open(&read).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("was read as ndjson before"), "{refused}");
}

#[test]
fn epochs_that_wait_to_be_replayed_are_read_as_they_were() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.log", LINE.repeat(9));
    let wrong = source_as(&path, "ndjson");
    let mut reader = wrong.open(&[]).unwrap();
    reader.read(0, 300, None).unwrap().unwrap();
    let at = [binding(&*reader, 0)];
    reader.read(0, 300, None).unwrap().unwrap();
    let bound = [binding(&*reader, 0)];
    let source = source_as(&path, "combined");
    let mut replay = source.open_behind(&at, &bound).unwrap();
    assert_eq!(replay.partitions().len(), 1);
    let (pages, reasons) = decode(&source, &mut *replay, 300);
    assert_eq!((pages.len(), reasons.len() as u64), (0, 9 - at[0].lines));
    let again = [binding(&*replay, 0)];
    assert_eq!(run(&path, "combined", &again).1.len(), 9, "what was tried is read again behind it");
}

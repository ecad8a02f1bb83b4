//! A last line without newline: left, read when it is whole, never half.

use super::*;

/// What is read of a file that holds `content`, and where it stands.
#[track_caller]
fn read(content: &[u8], recorded: &[PartitionBinding], drain: bool) -> (Vec<u8>, Vec<PartitionBinding>, Vec<String>) {
    let folder = folder();
    read_in(&folder, content, recorded, drain)
}

fn read_in(
    folder: &TempDir,
    content: &[u8],
    recorded: &[PartitionBinding],
    drain: bool,
) -> (Vec<u8>, Vec<PartitionBinding>, Vec<String>) {
    let path = write(folder, "access.log", content);
    let (notice, said) = heard();
    let config = FilesConfig { paths: vec![path], drain, notice, format: Format::Ndjson, ..FilesConfig::default() };
    let mut reader = FileSource::new(config).open(recorded).unwrap();
    let found = joined(&read_all(&mut *reader, 0, 64));
    assert!(reader.position(0).finished, "what is left is for another run");
    let said = said.lock().unwrap().clone();
    (found, bindings(&*reader), said)
}

/// A notice, and what it was told.
pub(super) fn heard() -> (Notice, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&said);
    (Notice::to(move |sentence| notes.lock().unwrap().push(sentence.to_owned())), said)
}

#[test]
fn a_torn_last_line_is_left_and_said_and_read_once_it_is_whole() {
    let long = "z".repeat(3 << 20);
    for (line, rest) in [
        ("192.0.2.1 - - half of", " it\n"),
        ("x", "\n"),
        ("{\"a\":", "1}\n"),
        ("{\"a\":1}\r{", "}\r\n"),
        ("[{\"a\":1},", "{}]\n"),
        ("line\r", "\n"),
        ("gr\u{fc}n"[..4].trim_end_matches('n'), "\n"),
        (long.as_str(), "zz\n"),
    ] {
        for before in ["", "first\n", "first\n\nthird\r\n"] {
            let folder = folder();
            let torn = [before, line].concat();
            let (content, recorded, said) = read_in(&folder, torn.as_bytes(), &[], false);
            assert_eq!(content, before.as_bytes(), "{rest:?}");
            assert_eq!((recorded[0].end, recorded[0].status), (before.len() as u64, PartitionStatus::Finished));
            let expected = "its last line has no newline yet; it is left for the next run (--drain reads it)";
            assert!(said.len() == 1 && said[0].ends_with(expected), "{said:?}");
            // Nothing has come: nothing is read, and it is said again.
            let (nothing, again, said_again) = read_in(&folder, torn.as_bytes(), &recorded, false);
            assert_eq!((nothing, again[0].end, said_again.len()), (Vec::new(), recorded[0].end, 1));
            let whole = [&torn, rest].concat();
            let (last, _, said_of_it) = read_in(&folder, whole.as_bytes(), &recorded, false);
            let kept = [line, rest].concat();
            assert_eq!(last.len(), kept.len().min(MAX_LINE_BYTES + 2));
            assert!(kept.as_bytes().starts_with(&last) && said_of_it.is_empty(), "{said_of_it:?}");
        }
    }
}

#[test]
fn half_a_character_is_left_with_its_line() {
    let text = "erste\nzw\u{f6}lf\n".as_bytes();
    let cut = text.iter().position(|byte| *byte == 0xc3).unwrap() + 1;
    let folder = folder();
    let (content, recorded, _) = read_in(&folder, &text[..cut], &[], false);
    assert_eq!(content, b"erste\n");
    assert_eq!(read_in(&folder, text, &recorded, false).0, "zw\u{f6}lf\n".as_bytes());
}

#[test]
fn a_drained_file_a_packed_one_and_complete_json_are_read_to_the_end() {
    let torn = b"first\nsecond";
    assert_eq!(read(torn, &[], true).0, torn);
    assert_eq!(read(&gzip(torn), &[], false).0, torn);
    for line in ["{\"a\":1}", "{\"a\":{}} ", "[1]", "[]", "}", "]}", "{}\r"] {
        let content = format!("first\n{line}");
        let (read, recorded, said) = read(content.as_bytes(), &[], false);
        assert_eq!((read, said.len()), (content.clone().into_bytes(), 0), "{line}");
        // The newline that follows is this line's.
        let folder = folder();
        let (rest, _, _) = read_in(&folder, format!("{content}\nmore\n").as_bytes(), &recorded, false);
        assert_eq!(rest, b"more\n");
    }
}

#[test]
fn json_that_is_too_long_for_a_line_is_read_to_be_said() {
    let long = format!("[{}]", "{\"a\":1},".repeat(300_000));
    let (content, recorded, said) = read(long.as_bytes(), &[], false);
    assert_eq!((content.len(), said.len()), (MAX_LINE_BYTES + 2, 0));
    assert_eq!((recorded[0].end, recorded[0].lines), (long.len() as u64, 1));
}

#[test]
fn a_line_that_was_left_is_read_when_the_end_is_declared() {
    let folder = folder();
    let (_, recorded, _) = read_in(&folder, b"first\nsecond", &[], false);
    let path = folder.path().join("access.log");
    let format = Format::Ndjson;
    let config =
        |drain| FilesConfig { paths: vec![path.clone()], drain, format: format.clone(), ..FilesConfig::default() };
    let mut reader = FileSource::new(config(true)).open(&recorded).unwrap();
    assert_eq!(joined(&read_all(&mut *reader, 0, 64)), b"second");
    let drained = bindings(&*reader);
    assert_eq!(FileSource::new(config(true)).open(&drained).unwrap().read(0, 64, None).unwrap(), None);
}

#[test]
fn an_end_that_was_recorded_behind_an_open_line_is_replayed() {
    let torn = "first\nsecond";
    let folder = folder();
    let (_, old, _) = read_in(&folder, torn.as_bytes(), &[], true);
    let grown = write(&folder, "access.log", format!("{torn} and more\n"));
    let mut replay = open_one(&grown, &[]).unwrap();
    let end = torn.len() as u64;
    let mut blocks = Vec::new();
    while let Some(block) = replay.read(0, 64, Some(end)).unwrap() {
        blocks.push(block);
    }
    assert_eq!((joined(&blocks), replay.position(0).digest), (torn.as_bytes().to_vec(), old[0].digest.clone()));
    assert_eq!(joined(&read_all(&mut *open_as_events(&grown, &old).unwrap(), 0, 64)), b" and more\n");
}

#[test]
fn many_torn_lines_are_said_in_one_sentence() {
    let folder = folder();
    let paths = ["a", "b", "c"].map(|name| write(&folder, name, format!("{name} first\n{name} torn")));
    let (notice, said) = heard();
    let config = FilesConfig { paths: paths.to_vec(), notice, format: Format::Ndjson, ..FilesConfig::default() };
    let mut reader = FileSource::new(config).open(&[]).unwrap();
    for number in 0..3 {
        read_all(&mut *reader, number, 64);
    }
    let said = said.lock().unwrap();
    assert!(said.len() == 1 && said[0].contains("a and 2 more files: their last lines"), "{said:?}");
}

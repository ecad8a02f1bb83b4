//! Logs that turn: each whole line is read once, through every kind of rotation, kill and restart.

use std::collections::BTreeSet;

use super::torn::heard;
use super::*;

/// A log that is written and rotated as logrotate does it.
struct Log {
    folder: TempDir,
    lines: u32,
    width: usize,
    /// A line that was begun.
    open: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Rename,
    CopyTruncate,
}

impl Log {
    fn new(width: usize) -> Log {
        let log = Log { folder: folder(), lines: 0, width, open: String::new() };
        File::create(log.path("")).unwrap();
        log
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.folder.path().join(format!("access.log{ending}"))
    }

    fn pattern(&self) -> PathBuf {
        self.path("*")
    }

    fn append(&mut self, lines: u32) {
        self.end_line();
        for _ in 0..lines {
            self.begin_line();
            self.end_line();
        }
    }

    fn begin_line(&mut self) {
        if self.open.is_empty() {
            self.open = format!("line {} {}", self.lines, "x".repeat(self.width));
            append(&self.path(""), &self.open);
        }
    }

    fn end_line(&mut self) {
        if !self.open.is_empty() {
            append(&self.path(""), "\n");
            self.open.clear();
            self.lines += 1;
        }
    }

    /// The numbered files, plain or packed, the highest first.
    fn rotated(&self) -> Vec<(u32, PathBuf)> {
        let mut files: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?.strip_prefix("access.log.")?;
                Some((name.trim_end_matches(".gz").parse().ok()?, path))
            })
            .collect();
        files.sort();
        files.reverse();
        files
    }

    fn rotate(&mut self, how: How, keep: usize) {
        // A line that is cut by a copy is two: no reader can mend that.
        self.end_line();
        for (number, path) in self.rotated() {
            let ending = if path.extension().is_some_and(|end| end == "gz") { ".gz" } else { "" };
            fs::rename(&path, self.path(&format!(".{}{ending}", number + 1))).unwrap();
        }
        match how {
            How::Rename => {
                fs::rename(self.path(""), self.path(".1")).unwrap();
                File::create(self.path("")).unwrap();
            }
            How::CopyTruncate => {
                fs::copy(self.path(""), self.path(".1")).unwrap();
                File::options().write(true).truncate(true).open(self.path("")).unwrap();
            }
        }
        for (_, path) in self.rotated().iter().filter(|(number, _)| *number as usize > keep) {
            fs::remove_file(path).unwrap();
        }
    }

    /// Packs the oldest plain one.
    fn pack(&self) {
        if let Some((_, path)) = self.rotated().into_iter().find(|(_, path)| path.extension().unwrap() != "gz") {
            let packed = gzip(&fs::read(&path).unwrap());
            fs::write(path.with_file_name(format!("{}.gz", path.file_name().unwrap().to_str().unwrap())), packed)
                .unwrap();
            fs::remove_file(path).unwrap();
        }
    }
}

/// A run now and then, some of them killed.
#[derive(Default)]
struct Runs {
    /// Where the last checkpoint stands, and what was bound behind it.
    checkpoint: Vec<PartitionBinding>,
    bound: Vec<(PartitionBinding, Vec<u8>)>,
    lines: Vec<u32>,
    said: Vec<String>,
}

impl Runs {
    /// Reads what is there; is killed after so many blocks, with the last few not checkpointed.
    #[track_caller]
    fn run(&mut self, paths: &[PathBuf], kill_after: Option<usize>) {
        let (notice, said) = heard();
        let config = FilesConfig { paths: paths.to_vec(), notice, format: Format::Ndjson, ..FilesConfig::default() };
        let mut furthest = self.checkpoint.clone();
        for (bound, _) in &self.bound {
            match furthest.iter_mut().find(|known| known.partition == bound.partition) {
                Some(known) => *known = bound.clone(),
                None => furthest.push(bound.clone()),
            }
        }
        let mut at = furthest.clone();
        for known in &mut at {
            match self.checkpoint.iter().find(|then| then.partition == known.partition) {
                Some(then) => *known = then.clone(),
                None => (known.end, known.lines, known.digest) = (0, 0, String::new()),
            }
        }
        let mut reader = FileSource::new(config).open_behind(&at, &furthest).unwrap();
        for (bound, bytes) in std::mem::take(&mut self.bound) {
            let mut again = Vec::new();
            while reader.position(bound.partition).offset < bound.end {
                let block = reader.read(bound.partition, LIMIT, Some(bound.end)).unwrap();
                again.extend(block.expect("it was there before").bytes);
            }
            assert_eq!((again, reader.position(bound.partition).digest), (bytes, bound.digest));
        }
        self.checkpoint = bindings(&*reader);
        let mut blocks = 0;
        for number in 0..u32::try_from(reader.partitions().len()).unwrap() {
            while let Some(block) = reader.read(number, LIMIT, None).unwrap() {
                self.take(&block.bytes);
                blocks += 1;
                if kill_after.is_some_and(|after| blocks > after / 2) {
                    self.bound.push((binding(&*reader, number), block.bytes));
                } else {
                    self.checkpoint = bindings(&*reader);
                }
                if kill_after.is_some_and(|after| blocks >= after) {
                    // What was bound as new was bound in order.
                    let known: BTreeSet<u32> = self.checkpoint.iter().map(|known| known.partition).collect();
                    assert!(self.bound.iter().all(|(bound, _)| known.contains(&bound.partition)));
                    return;
                }
            }
        }
        if self.bound.is_empty() {
            self.checkpoint = bindings(&*reader);
        } else {
            for number in 0..u32::try_from(reader.partitions().len()).unwrap() {
                self.bound.push((binding(&*reader, number), Vec::new()));
            }
        }
        self.said = said.lock().unwrap().clone();
    }

    fn take(&mut self, bytes: &[u8]) {
        for line in std::str::from_utf8(bytes).unwrap().lines() {
            self.lines.push(line.split(' ').nth(1).unwrap().parse().unwrap());
        }
    }

    #[track_caller]
    fn assert_read_once(&self, lines: u32) {
        let mut read = self.lines.clone();
        read.sort_unstable();
        assert_eq!(read, (0..lines).collect::<Vec<_>>());
    }

    fn names(&self) -> Vec<&str> {
        self.checkpoint.iter().map(|known| known.name.rsplit('/').next().unwrap()).collect()
    }
}

const LIMIT: usize = 300;

#[test]
fn a_rotated_log_is_read_on_under_its_new_name() {
    for how in [How::Rename, How::CopyTruncate] {
        for width in [0, 600] {
            let (mut log, mut runs) = (Log::new(width), Runs::default());
            log.append(20);
            runs.run(&[log.pattern()], None);
            // Lines that came after the last run are in the rotated file.
            log.append(3);
            log.rotate(how, 9);
            log.append(40);
            runs.run(&[log.pattern()], None);
            runs.assert_read_once(63);
            assert_eq!(runs.names(), ["access.log", "access.log#2"], "a name stays with its content: {how:?}");
            // Several steps at once.
            log.rotate(how, 9);
            log.append(1);
            log.pack();
            log.rotate(how, 9);
            log.pack();
            log.append(2);
            runs.run(&[log.pattern()], None);
            runs.assert_read_once(66);
        }
    }
}

#[test]
fn twelve_rotations_count_each_line_once() {
    for how in [How::Rename, How::CopyTruncate] {
        for (pack, keep) in [(false, 20), (true, 20), (false, 3), (true, 3), (true, 1)] {
            let (mut log, mut runs) = (Log::new(50), Runs::default());
            for turn in 0..12 {
                log.append(7 + turn);
                log.begin_line();
                runs.run(&[log.pattern()], None);
                log.append(turn % 3);
                log.rotate(how, keep);
                if keep == 1 {
                    runs.run(&[log.pattern()], None);
                }
                if pack && turn > 1 {
                    log.pack();
                }
                log.append(turn % 2);
                runs.run(&[log.pattern()], None);
            }
            runs.assert_read_once(log.lines);
            let before = runs.checkpoint.clone();
            runs.run(&[log.pattern()], None);
            assert_eq!(runs.checkpoint.iter().map(|p| p.end).sum::<u64>(), before.iter().map(|p| p.end).sum::<u64>());
            assert!(runs.said.is_empty(), "a file that is gone is said once: {:?}", runs.said);
        }
    }
}

#[test]
fn a_file_that_is_gone_after_it_was_read_is_said() {
    let (mut log, mut runs) = (Log::new(10), Runs::default());
    for _ in 0..3 {
        log.append(5);
        runs.run(&[log.pattern()], None);
        log.rotate(How::Rename, 2);
    }
    runs.run(&[log.pattern()], None);
    runs.assert_read_once(15);
    assert_eq!(runs.said.len(), 1, "{:?}", runs.said);
    assert!(runs.said[0].contains("access.log: its file is gone; all of it was read before"), "{:?}", runs.said);
}

#[test]
fn a_log_that_is_emptied_in_place_begins_anew() {
    let (mut log, mut runs) = (Log::new(10), Runs::default());
    log.append(5);
    runs.run(&[log.path("")], None);
    File::create(log.path("")).unwrap();
    runs.run(&[log.path("")], None);
    log.append(9);
    runs.run(&[log.path("")], None);
    runs.assert_read_once(14);
    assert_eq!(runs.names(), ["access.log", "access.log#2"]);
}

#[test]
fn a_copy_made_before_the_last_lines_were_read_is_no_second_content() {
    let (mut log, mut runs) = (Log::new(500), Runs::default());
    log.append(20);
    runs.run(&[log.pattern()], None);
    fs::copy(log.path(""), log.path(".1")).unwrap();
    log.append(2);
    runs.run(&[log.pattern()], None);
    File::create(log.path("")).unwrap();
    log.append(3);
    runs.run(&[log.pattern()], None);
    runs.assert_read_once(25);
}

#[test]
fn a_log_whose_rotated_file_is_not_given_is_refused_with_the_way_out() {
    for how in [How::Rename, How::CopyTruncate] {
        let (mut log, mut runs) = (Log::new(10), Runs::default());
        log.append(5);
        runs.run(&[log.path("")], None);
        log.append(1);
        log.rotate(how, 9);
        for lines in [0, 9] {
            log.append(lines);
            let refusal = changed(open_as_events(&log.path(""), &runs.checkpoint));
            assert!(refusal.contains("access.log.1 now, which is not given"), "{refusal}");
            assert!(refusal.contains("access.log*'"), "{refusal}");
        }
        // It went to another folder, where nobody can find it.
        fs::rename(log.path(".1"), log.folder.path().join("other")).unwrap();
        runs.run(&[log.path(""), log.folder.path().join("other")], None);
        runs.assert_read_once(15);
    }
}

#[test]
fn what_vanished_before_it_was_read_to_its_end_is_refused() {
    let mut log = Log::new(100);
    log.append(20);
    let path = log.path("");
    let recorded = bindings(&*reader_at(&path, 500));
    log.rotate(How::Rename, 0);
    let refusal = changed(open_one(&path, &recorded));
    assert!(refusal.contains("if it was rotated"), "{refusal}");
    let other = write(&log.folder, "other", events(0..3));
    fs::remove_file(&path).unwrap();
    let vanished = changed(open_one(&other, &recorded));
    assert!(vanished.contains("does not exist any more"), "{vanished}");
}

#[test]
fn a_state_of_an_older_build_finds_its_files() {
    let (mut log, mut runs) = (Log::new(100), Runs::default());
    log.append(60);
    runs.run(&[log.pattern()], None);
    log.rotate(How::CopyTruncate, 9);
    log.append(60);
    for known in &mut runs.checkpoint {
        known.detail.as_object_mut().unwrap().remove("head");
    }
    runs.run(&[log.pattern()], None);
    runs.assert_read_once(120);
}

#[test]
fn what_was_bound_before_a_kill_is_replayed_from_where_it_lies_now() {
    for how in [How::Rename, How::CopyTruncate] {
        for pack in [false, true] {
            let (mut log, mut runs) = (Log::new(100), Runs::default());
            log.append(4);
            runs.run(&[log.pattern()], None);
            log.append(30);
            runs.run(&[log.pattern()], Some(6));
            log.append(4);
            log.rotate(how, 9);
            if pack {
                log.pack();
            }
            log.append(50);
            runs.run(&[log.pattern()], None);
            runs.assert_read_once(88);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(u32),
    Begin,
    Rotate(How),
    Pack,
    Run,
    Killed(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u32..12).prop_map(Step::Append),
        1 => Just(Step::Begin),
        3 => prop_oneof![Just(How::Rename), Just(How::CopyTruncate)].prop_map(Step::Rotate),
        1 => Just(Step::Pack),
        3 => Just(Step::Run),
        2 => (1_usize..9).prop_map(Step::Killed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_whole_line_is_read_once_whatever_turns(
        steps in prop::collection::vec(step(), 1..40),
        width in prop_oneof![Just(0_usize), 1_usize..200],
    ) {
        let (mut log, mut runs) = (Log::new(width), Runs::default());
        for step in steps {
            match step {
                Step::Append(lines) => log.append(lines),
                Step::Begin => log.begin_line(),
                Step::Rotate(how) => log.rotate(how, 99),
                Step::Pack => log.pack(),
                Step::Run => runs.run(&[log.pattern()], None),
                Step::Killed(blocks) => runs.run(&[log.pattern()], Some(blocks)),
            }
        }
        log.end_line();
        runs.run(&[log.pattern()], None);
        runs.run(&[log.pattern()], None);
        runs.assert_read_once(log.lines);
    }
}

//! The same content under several names is read once, and said.

use super::torn::heard;
use super::*;

/// The names of the partitions and what is said.
#[track_caller]
fn opened(paths: &[PathBuf], recorded: &[PartitionBinding]) -> (Vec<String>, Vec<PartitionBinding>, Vec<String>) {
    let (notice, said) = heard();
    let config = FilesConfig { paths: paths.to_vec(), notice, ..FilesConfig::default() };
    let mut reader = FileSource::new(config).open(recorded).unwrap();
    for number in 0..u32::try_from(reader.partitions().len()).unwrap() {
        read_all(&mut *reader, number, 10_000);
    }
    let file = |name: &str| name.rsplit('/').next().unwrap().to_owned();
    let names = reader.partitions().iter().map(|info| file(&info.name)).collect();
    let said = said.lock().unwrap().clone();
    (names, bindings(&*reader), said)
}

#[test]
fn copies_links_and_packed_copies_are_counted_once() {
    for count in [3, 500] {
        let folder = folder();
        let content = events(0..count);
        let a = write(&folder, "a", &content);
        let (hard, soft) = (folder.path().join("hard"), folder.path().join("soft"));
        fs::hard_link(&a, &hard).unwrap();
        std::os::unix::fs::symlink(&a, &soft).unwrap();
        let copy = write(&folder, "copy", &content);
        let packed = write(&folder, "a.gz", gzip(content.as_bytes()));
        let begun = write(&folder, "begun", &content[..content.len() - 10]);
        let other = write(&folder, "other", events(1..count));
        let empty = [write(&folder, "e1", ""), write(&folder, "e2", "")];
        let paths = [a.clone(), hard, soft, copy.clone(), packed, begun, other, a, empty[0].clone(), empty[1].clone()];
        let (names, recorded, said) = opened(&paths, &[]);
        assert_eq!(names, ["a", "other", "e1", "e2"]);
        let said = said.join("\n");
        assert!(
            said.contains("counted once: ") && said.contains("copy with ") && said.contains("and 1 more"),
            "{said}"
        );
        assert!(said.contains("soft is the same file as "), "{said}");
        // And again, with one that came later.
        let later = write(&folder, "later", &content);
        let paths = [vec![later], paths.to_vec()].concat();
        assert_eq!(opened(&paths, &recorded).0, ["a", "other", "e1", "e2"]);
    }
}

#[test]
fn of_a_file_and_its_beginning_the_longer_is_read() {
    for count in [3, 500] {
        let folder = folder();
        let content = events(0..count);
        let half = content[..content.len() / 2].rfind('\n').unwrap() + 1;
        let begun = write(&folder, "begun", &content[..half]);
        let whole = write(&folder, "whole.gz", gzip(content.as_bytes()));
        assert_eq!(opened(&[begun.clone(), whole.clone()], &[]).0, ["whole.gz"]);
        // The beginning was read before: the partition goes on in the longer one.
        let (names, recorded, _) = opened(std::slice::from_ref(&begun), &[]);
        let (again, grown, _) = opened(&[begun, whole], &recorded);
        assert_eq!((names, again), (vec!["begun".to_owned()], vec!["begun".to_owned()]));
        assert_eq!((recorded[0].end, grown[0].end), (half as u64, content.len() as u64));
    }
}

#[test]
fn a_file_that_is_being_packed_is_no_second_content() {
    let folder = folder();
    let content = events(0..30_000);
    let plain = write(&folder, "a", &content);
    let whole = gzip(content.as_bytes());
    let packed = write(&folder, "a.gz", &whole[..whole.len() / 2]);
    assert_eq!(opened(&[packed.clone(), plain.clone()], &[]).0, ["a"]);
    let (_, recorded, _) = opened(std::slice::from_ref(&plain), &[]);
    assert_eq!(opened(&[packed, plain], &recorded).0, ["a"]);
}

#[test]
fn a_new_file_that_begins_as_a_deleted_one_is_read() {
    let folder = folder();
    let head = events(0..100);
    let yesterday = write(&folder, "export-1", format!("{head}{}", events(100..500)));
    let (_, recorded, _) = opened(std::slice::from_ref(&yesterday), &[]);
    fs::remove_file(&yesterday).unwrap();
    let content = format!("{head}{}", events(500..800));
    let today = write(&folder, "export-2", &content);
    let (_, read, _) = opened(&[today], &recorded);
    assert_eq!(read.last().unwrap().end, content.len() as u64);
}

#[test]
fn patterns_are_expanded_as_a_shell_does() {
    let folder = folder();
    for (name, first) in [("a.log.2", 0), ("a.log", 10), ("a.log.1", 20), ("b.log", 30), (".a.log", 40), ("[x]*", 50)] {
        write(&folder, name, events(first..first + 5));
    }
    fs::create_dir(folder.path().join("a.log.d")).unwrap();
    assert_eq!(opened(&[folder.path().join("a.log*")], &[]).0, ["a.log", "a.log.1", "a.log.2"]);
    assert_eq!(opened(&[folder.path().join("?.log")], &[]).0, ["a.log", "b.log"]);
    assert_eq!(opened(&[folder.path().join("[x]*")], &[]).0, ["[x]*"], "a file of that name is that file");
}

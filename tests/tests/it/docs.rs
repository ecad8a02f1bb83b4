//! The pages of documentation: every command on them runs, and prints what they show.

use std::path::PathBuf;
use std::thread;

use tidemill_tests::pages::Page;

use super::{root, tidemill};

/// README and everything below docs/, by name.
fn pages() -> Vec<(String, Page)> {
    let below = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = below.filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect();
    paths.push(root().join("README.md"));
    paths.sort();
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), Page::read(path))).collect()
}

#[test]
fn a_block_that_is_not_run_says_why() {
    let mistakes: Vec<String> = pages().iter().flat_map(|(_, page)| page.mistakes()).collect();
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn there_is_a_page_with_commands_for_each_kind_of_user() {
    for name in ["README.md", "authoring.md", "operations.md", "tables.md"] {
        let (_, page) = pages().into_iter().find(|(found, _)| found == name).expect("the page is there");
        let run = page.blocks().iter().filter(|block| block.kind == "sh").count();
        let shown = page.blocks().iter().filter(|block| block.reason.is_some()).count();
        eprintln!("{name}: {run} blocks are run, {shown} are shown and say why");
        assert!(run > 0, "{name} has no command that is run");
    }
}

#[test]
fn the_program_of_the_page_for_authors_is_the_one_whose_commands_are_run() {
    let page = Page::read(&root().join("docs/authoring.md"));
    let program = page.blocks().iter().find(|block| block.kind.starts_with("rust")).expect("the page has a program");
    let run = std::fs::read_to_string(root().join("tests/src/bin/depots-under-test.rs")).unwrap();
    let (_, run) = run.split_once("\n\n").expect("what the program is, and the program");
    assert_eq!(program.text, run);
}

#[test]
fn every_command_on_every_page_runs_and_prints_what_the_page_shows() {
    let (tidemill, depots) = (tidemill().binary().to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_depots-under-test")));
    let commands = [("tidemill", &*tidemill), ("depots", &*depots)];
    let failures: Vec<String> = thread::scope(|scope| {
        let runs: Vec<_> = pages().into_iter().map(|(_, page)| scope.spawn(move || page.run(&commands))).collect();
        runs.into_iter().filter_map(|run| run.join().unwrap().err()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

use super::file::parse;
use super::*;
use clap::CommandFactory;

fn commands() -> Command {
    with_options(crate::cli::Arguments::command())
}

fn known() -> BTreeMap<&'static str, String> {
    operators(&Catalog::new(crate::built_in())).unwrap()
}

fn mistakes(text: &str) -> Vec<String> {
    parse("t.toml", text, &commands(), &known()).unwrap_err()
}

/// The settings of `run` with this command line, file and environment, as (key, values, origin).
fn settled(line: &[&str], text: &str, environment: &[(&str, &str)]) -> BTreeMap<String, (Vec<String>, Origin)> {
    let commands = commands();
    let file = parse("t.toml", text, &commands, &known()).unwrap();
    let line = ["tidemill", "run"].iter().chain(line);
    let matches = commands.clone().ignore_errors(true).try_get_matches_from(line).unwrap();
    let (_, matches) = matches.subcommand().unwrap();
    let run = commands.find_subcommand("run").unwrap();
    let variable = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let mut wrong = Vec::new();
    let settings = layered(("run", run), matches, &file, variable, &mut wrong);
    assert!(wrong.is_empty(), "{wrong:?}");
    settings.into_iter().map(|s| (key(s.option), (s.values, s.origin))).collect()
}

#[test]
fn the_command_line_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let file = "[run]\nworkers = 2\nepoch_every = \"250ms\"\ncheckpoint_every = \"3s\"\n";
    let environment = [("TIDEMILL_RUN_EPOCH_EVERY", "500ms"), ("TIDEMILL_RUN_WORKERS", "3")];
    let settings = settled(&["--workers", "4"], file, &environment);
    let of = |name: &str| (settings[name].0[0].as_str(), &settings[name].1);
    assert_eq!(of("workers"), ("4", &Origin::CommandLine));
    assert_eq!(of("epoch_every"), ("500ms", &Origin::Environment("TIDEMILL_RUN_EPOCH_EVERY".into())));
    assert_eq!(of("checkpoint_every"), ("3s", &Origin::File(4)));
    assert_eq!(of("memory_budget"), ("256MiB", &Origin::Default));
}

#[test]
fn what_excludes_something_of_higher_rank_is_left_out() {
    let file = "[run]\nout = \"/a\"\nfrom = \"log:///b\"\n";
    let settings = settled(&["--state", "/s", "--to", "/t"], file, &[]);
    assert!(!settings.contains_key("out"));
    assert_eq!(settings["from"].1, Origin::File(3));
    assert!(!settled(&["--input", "x"], file, &[]).contains_key("from"));
}

#[test]
fn a_variable_that_means_the_same_beats_the_file() {
    let file = "[collect]\nkeys_file = \"/k\"\n";
    let commands = commands();
    let file = parse("t.toml", file, &commands, &known()).unwrap();
    let collect = commands.find_subcommand("collect").unwrap();
    let matches = commands.clone().ignore_errors(true).try_get_matches_from(["tidemill", "collect"]).unwrap();
    let of = |variable: Option<&str>| {
        let given = variable.map(str::to_owned);
        let named = |name: &str| given.clone().filter(|_| name == "TIDEMILL_API_KEYS");
        let settings = layered(("collect", collect), matches.subcommand().unwrap().1, &file, named, &mut Vec::new());
        settings.into_iter().filter(|s| key(s.option) == "keys").flat_map(|s| s.added()).collect::<Vec<_>>()
    };
    assert_eq!(of(None), ["--keys=/k"]);
    assert!(of(Some("k=t")).is_empty());
}

#[test]
fn sections_of_operators_become_options_beside_those_of_the_command_line() {
    let file = "[operators.sessions]\ndisabled = true\n[operators.raw_events]\ndisabled = false\n\
                [operators.events]\nfetch.max.bytes = 8_388_608\n\"fetch.wait.max.ms\" = 10\n";
    let commands = commands();
    let file = parse("t.toml", file, &commands, &known()).unwrap();
    assert_eq!(file.of("run", "disable_sink"), Some((2, &["sessions".to_owned()][..])));
    let (_, tuning) = file.of("run", "source_setting").unwrap();
    assert_eq!(tuning, ["events.fetch.max.bytes=8388608", "events.fetch.wait.max.ms=10"]);
    let run = commands.find_subcommand("run").unwrap();
    let line = ["tidemill", "run", "--disable-sink", "dead_letters"];
    let matches = commands.clone().ignore_errors(true).try_get_matches_from(line).unwrap();
    let settings = layered(("run", run), matches.subcommand().unwrap().1, &file, |_| None, &mut Vec::new());
    let sinks: Vec<_> = settings.iter().filter(|s| key(s.option) == "disable_sink").collect();
    assert_eq!(sinks.iter().flat_map(|s| s.values.clone()).collect::<Vec<_>>(), ["dead_letters", "sessions"]);
    assert_eq!(sinks.iter().flat_map(|s| s.added()).collect::<Vec<_>>(), ["--disable-sink=sessions"]);
}

#[test]
fn every_mistake_is_named_with_its_line_and_the_nearest_valid_name() {
    let text = "stray = 1\n\
                [run]\nepoch_byte = 1\nworkers = \"2\"\nepoch_every = 10\nsupervise = \"yes\"\nout = [\"a\", \"b\"]\n\
                drain = true\nwindow = \"5m\"\nmessages = \"xml\"\n\
                [colect]\n\
                [operators.events]\ntopics = \"x\"\nisolation.level = \"read_uncommitted\"\n\
                [operators.view_per_minute]\nsize = 1\n\
                [operators.views_per_minute]\nsize = 1\nworkers = 2\n\
                [operators.sessions]\ndisable = true\n\
                [secrets]\nclickhouse_pasword_file = \"x\"\n";
    let found = mistakes(text);
    let expected = [
        (1, "`stray`", "stands in no section"),
        (3, "[run] epoch_byte", "is epoch_bytes meant?"),
        (4, "[run] workers", "a number, without quotes"),
        (5, "[run] epoch_every", "for example 250ms"),
        (6, "[run] supervise", "true or false"),
        (7, "[run] out", "one value, not a list"),
        (8, "[run] drain", "give --drain"),
        (9, "[run] window", "stands in its code"),
        (10, "[run] messages", "text, json"),
        (11, "[colect]", "is [collect] meant?"),
        (13, "[operators.events] topics", "stands in the pipeline's code"),
        (14, "[operators.events] isolation.level", "no setting of how a source fetches"),
        (15, "[operators.view_per_minute]", "is views_per_minute meant?"),
        (18, "[operators.views_per_minute] size", "stands in the pipeline's code"),
        (19, "[operators.views_per_minute] workers", "nothing to tune"),
        (21, "[operators.sessions] disable", "is disabled meant?"),
        (23, "[secrets] clickhouse_pasword_file", "clickhouse_password_file"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (said, (line, place, what)) in found.iter().zip(expected) {
        assert!(said.starts_with(&format!("t.toml:{line}: {place}")), "{said} is not about line {line}, {place}");
        assert!(said.contains(what), "{said} does not say {what}");
    }
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_line() {
    let found = mistakes("[run]\nworkers = = 2\n");
    assert!(found[0].starts_with("t.toml:2: "), "{found:?}");
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_repeated() {
    for (text, remedy) in [
        ("[secrets]\nclickhouse_password = \"hunter2\"", "clickhouse_password_file"),
        ("[run]\npassword = \"hunter2\"", "[secrets]"),
        ("[collect]\nkeys = \"hunter2\"", "keys_file"),
        ("api_key = \"hunter2\"", "[secrets]"),
        ("[operators.events]\nsasl.password = \"hunter2\"", "[secrets]"),
        ("[run]\nto = \"clickhouse://me:hunter2@h:8123/db\"", "[secrets]"),
        ("[run]\nfrom = \"kafka://h:1?sasl.password=hunter2\"", "[secrets]"),
        ("[secrets]\nclickhouse_password = \"hunter2", "t.toml:2"),
    ] {
        let found = mistakes(text).join("\n");
        assert!(!found.contains("hunter2"), "{found}");
        assert!(found.contains(remedy), "{text}: {found}");
    }
}

#[test]
fn what_is_printed_is_a_configuration_with_the_same_settings() {
    let commands = commands();
    let run = commands.find_subcommand("run").unwrap();
    let text = "[run]\nout = \"/a \\\"b\\\"\"\nfrom = \"kafka://h:1?topics=t\"\nworkers = 3\nsupervise = true\n\
                to = [\"/x\", \"s3://b/p\"]\n[operators.sessions]\ndisabled = true\n[operators.events]\nfetch.max.bytes = 9\n";
    let line = ["tidemill", "run", "--epoch-bytes", "64KiB", "--drain"];
    let matches = commands.clone().ignore_errors(true).try_get_matches_from(line).unwrap();
    let matches = matches.subcommand().unwrap().1;
    let settings = |file: &File| -> Vec<(String, Vec<String>)> {
        let all = layered(("run", run), matches, file, |_| None, &mut Vec::new());
        all.into_iter().map(|s| (key(s.option), s.values)).collect()
    };
    let file = parse("t.toml", text, &commands, &known()).unwrap();
    let all = layered(("run", run), matches, &file, |_| None, &mut Vec::new());
    let printed = print::print("run", &all, Some(std::path::Path::new("t.toml")));
    assert!(printed.contains("workers = 3  # t.toml:4\n"), "{printed}");
    assert!(printed.contains("epoch_bytes = \"64KiB\"  # command line\n"), "{printed}");
    assert!(printed.contains("# drain = true  # command line\n"), "{printed}");
    let again =
        parse("printed.toml", &printed, &commands, &known()).unwrap_or_else(|wrong| panic!("{wrong:?}\n{printed}"));
    assert_eq!(settings(&again), settings(&file));
}

#[test]
fn the_example_of_the_documentation_is_a_configuration() {
    let text = include_str!("../../../../docs/tidemill.toml");
    let file = parse("docs/tidemill.toml", text, &commands(), &known()).unwrap_or_else(|all| panic!("{all:#?}"));
    assert!(file.of("run", "epoch_every").is_some() && file.of("collect", "listen").is_some());
}

#[test]
fn every_command_with_a_section_takes_its_options_from_it_and_says_what_has_no_place() {
    let commands = commands();
    let text = "[replay]\nworkers = 4\nout = \"/again\"\n[demo]\nrate = 50\nfor = \"2s\"\n";
    let file = parse("t.toml", text, &commands, &known()).unwrap();
    let of = |command: &str, key: &str| file.of(command, key).map(|(line, values)| (line, values.to_vec()));
    assert_eq!(of("replay", "workers"), Some((2, vec!["4".to_owned()])));
    assert_eq!(of("demo", "for"), Some((6, vec!["2s".to_owned()])));
    let said = mistakes("[replay]\nswap = true\nworker = 4\n[demo]\ndir = \"/d\"\n");
    let expected = [
        "t.toml:2: [replay] swap: this puts tables in the place of others and is decided at a start: give --swap",
        "t.toml:3: [replay] worker: there is no such setting; is workers meant?",
        "t.toml:5: [demo] dir: this is a new folder each time: give --dir",
    ];
    assert_eq!(said, expected);
}

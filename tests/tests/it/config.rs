//! The configuration file, as the command reads it: a run by file alone, what is refused, and what is printed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;

use crate::{root, tidemill};

fn written(folder: &Path, text: &str) -> String {
    let path = folder.join("tidemill.toml");
    fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

/// What `run --print-config` prints.
#[track_caller]
fn printed(config: &str, options: &[&str], environment: &[(&str, &str)]) -> String {
    let environment: BTreeMap<_, _> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let command = [&["run", "web_analytics", "--config", config, "--print-config"], options].concat();
    let outcome = tidemill().with_environment(environment).command(&command);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    String::from_utf8(outcome.stdout).unwrap()
}

#[test]
fn a_run_by_its_file_alone_does_what_the_file_says_in_each_of_its_processes() {
    let folder = TempDir::new().unwrap();
    let input = corpus::file(folder.path(), "events.ndjson", &corpus::events(5_000, 5, Rates::within_horizon()));
    let out = folder.path().join("out");
    let config = written(
        folder.path(),
        &format!(
            "[run]\ninput = [{:?}]\nout = {:?}\nworkers = 1\nprocesses = 2\nepoch_bytes = \"256KiB\"\n\
             [operators.sessions]\ndisabled = true\n",
            input, out
        ),
    );
    let outcome = tidemill().command(&["run", "web_analytics", "--config", &config, "--json"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let line = outcome.json();
    assert!(line["epochs"].as_u64().is_some_and(|epochs| epochs > 2), "the file's epochs are small: {line}");
    assert!(line["rows"]["raw_events"].as_u64().is_some_and(|rows| rows > 0), "{line}");
    assert_eq!(line["rows"]["sessions"], 0, "the sink is disabled: {line}");
}

#[test]
fn the_settings_are_printed_with_their_origins_and_the_secrets_are_not() {
    let folder = TempDir::new().unwrap();
    let secret = folder.path().join("password");
    fs::write(&secret, "hunter2\n").unwrap();
    let config = written(
        folder.path(),
        &format!(
            "[run]\nfrom = \"log:///nowhere\"\nout = \"/nowhere\"\nworkers = 2\nepoch_every = \"2s\"\n\
             checkpoint_every = \"3s\"\n[secrets]\nclickhouse_password_file = {secret:?}\n"
        ),
    );
    let environment = [("TIDEMILL_RUN_EPOCH_EVERY", "4s"), ("KAFKA_SASL_PASSWORD", "hunter3")];
    let settings = printed(&config, &["--workers", "5"], &environment);
    for expected in [
        "workers = 5  # command line\n".to_owned(),
        "epoch_every = \"4s\"  # environment, TIDEMILL_RUN_EPOCH_EVERY\n".to_owned(),
        format!("checkpoint_every = \"3s\"  # {config}:6\n"),
        "memory_budget = \"256MiB\"  # default\n".to_owned(),
        format!("# CLICKHOUSE_PASSWORD is set (file {})\n", secret.display()),
        "# KAFKA_SASL_PASSWORD is set (environment)\n".to_owned(),
        "# TIDEMILL_HASH_KEY is not set\n".to_owned(),
    ] {
        assert!(settings.contains(&expected), "{expected} is missing in\n{settings}");
    }
    assert!(!settings.contains("hunter"), "{settings}");
    // What was printed is a configuration that means the same.
    let again = printed(&written(folder.path(), &settings), &[], &[]);
    assert!(again.contains("epoch_every = \"4s\""), "{again}");
}

#[test]
fn all_mistakes_of_a_file_are_said_at_once_and_nothing_is_begun() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let text = format!(
        "[run]\nout = {out:?}\nepoch_evry = \"1s\"\nworkers = \"two\"\n[operators.sesions]\ndisabled = true\n\
         [secrets]\nclickhouse_password = \"hunter2\"\n"
    );
    let config = written(folder.path(), &text);
    let outcome = tidemill().command(&["run", "--config", &config, "--from", "log:///nowhere"]);
    outcome.assert_refused(
        &[2],
        &[
            "tidemill.toml:3: [run] epoch_evry: there is no such setting; is epoch_every meant?",
            "tidemill.toml:4: [run] workers: write a number",
            "tidemill.toml:5: [operators.sesions] there is no such operator; is sessions meant?",
            "tidemill.toml:8: [secrets] clickhouse_password: a secret has no place here",
        ],
    );
    assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    assert!(!out.exists());
}

#[test]
fn the_example_of_the_documentation_is_taken_by_every_command_that_it_has_a_section_for() {
    let example = root().join("docs/tidemill.toml").to_string_lossy().into_owned();
    for command in ["run", "collect", "serve", "replay", "demo"] {
        let outcome = tidemill().command(&[command, "--config", &example, "--print-config"]);
        assert_eq!(outcome.code, Some(0), "{command}: {}", outcome.stderr);
        let settings = String::from_utf8_lossy(&outcome.stdout).into_owned();
        assert!(settings.contains("docs/tidemill.toml:"), "{settings}");
    }
}

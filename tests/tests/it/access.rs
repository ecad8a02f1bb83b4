//! Who may ask which server, and over what: keys, certificates, and what is said of it.

use serde_json::Value;
use tempfile::TempDir;
use tidemill_http::ApiKeys;
use tidemill_tests::corpus;
use ureq::Agent;

use crate::attacks::{ask, free_address, ready, stop, tables, watched_run};
use crate::processes::until_said;
use crate::{root, tidemill};

fn certificate() -> [String; 2] {
    ["cert.pem", "key.pem"].map(|name| {
        let path = root().join("tests/tests/it/certificate").join(name);
        path.to_str().expect("a path in UTF-8").to_owned()
    })
}

/// A client that takes a certificate which nobody vouches for.
fn client() -> Agent {
    let any = ureq::tls::TlsConfig::builder().disable_verification(true).build();
    Agent::config_builder().tls_config(any).http_status_as_error(false).build().into()
}

fn status(client: &Agent, address: &str, key: &str) -> Option<u16> {
    let asked = client.get(address).header("authorization", format!("Bearer {key}")).call();
    asked.ok().map(|answer| answer.status().as_u16())
}

#[test]
fn the_query_server_and_the_operators_page_speak_https_by_a_certificate() {
    let folder = TempDir::new().unwrap();
    let [certificate, key] = certificate();
    let tls = ["--tls-cert", &*certificate, "--tls-key", &*key];
    let (data, served) = (tables(folder.path()), free_address("127.0.0.1"));
    let mut server = tidemill().start(&[&["serve", "--data", &data, "--listen", &served], &tls[..]].concat());
    let (watched, mut run) = watched_run(folder.path(), &tls);
    let client = client();
    for (process, address) in [(&mut server, &served), (&mut run, &watched)] {
        let up = || status(&client, &format!("https://{address}/healthz"), "") == Some(200);
        assert!(process.until(|_| up()), "{}", process.said());
        assert_ne!(ask(address, "/healthz", &[]).0, 200, "and nothing else");
    }
    assert_eq!(status(&client, &format!("https://{served}/api/v1/totals"), ""), Some(200));
    assert_eq!(status(&client, &format!("https://{watched}/metrics"), ""), Some(200));
    assert!(run.said().contains(&format!("ops https://{watched}")), "{}", run.said());
    stop(server);
    stop(run);
    let wrong = ["--tls-cert", "/no/cert.pem", "--tls-key", &*key];
    for begun in [
        &["serve", "--data", &data, "--listen", "127.0.0.1:0"][..],
        &["run", "web_analytics", "--input", "none", "--out", &data, "--ops", "127.0.0.1:0"],
    ] {
        tidemill().command(&[begun, &wrong].concat()).assert_refused(&[2], &["/no/cert.pem", "give a PEM file"]);
    }
}

#[test]
fn the_operators_page_is_open_to_nobody_from_elsewhere_without_a_key() {
    let folder = TempDir::new().unwrap();
    let closed = ["run", "web_analytics", "--input", "none", "--out", "/tmp/none", "--ops", "0.0.0.0:0"];
    tidemill().command(&closed).assert_refused(&[2], &["0.0.0.0:0", "--keys FILE", "--open"]);
    let supervised = [&closed[..], &["--supervise"]].concat();
    tidemill().command(&supervised).assert_refused(&[2], &["--keys FILE"]);

    let line = |key: &str, tenant: &str| ApiKeys::line(key, tenant).unwrap() + "\n";
    let keys = corpus::file(folder.path(), "keys", (line("all", "*") + &line("one", "shop")).as_bytes());
    let (watched, mut run) = watched_run(folder.path(), &["--keys", keys.to_str().unwrap()]);
    ready(&mut run, &watched);
    let asked = |path: &str, key: &str| ask(&watched, path, &[("authorization", &format!("Bearer {key}"))]).0;
    for path in ["/metrics", "/api/status"] {
        let answers = ["none", "one", "all"].map(|key| asked(path, key));
        assert_eq!(answers, [401, 403, 200], "{path}");
    }
    assert!(run.said().contains("whoever has a key of"), "{}", run.said());

    // The query server passes on the health of a run that asks for a key.
    let (data, served) = (tables(folder.path()), free_address("127.0.0.1"));
    let mut server = tidemill()
        .with_environment([("TIDEMILL_STATUS_KEY".to_owned(), "all".to_owned())].into())
        .start(&["serve", "--data", &data, "--listen", &served, "--status", &format!("http://{watched}")]);
    ready(&mut server, &served);
    let health = || serde_json::from_str::<Value>(&ask(&served, "/api/v1/health", &[]).1).unwrap();
    assert!(server.until(|_| health()["status"]["pipeline"] == "web_analytics"), "{}", health());
    stop(server);

    // A key comes and goes with its line, without a restart.
    std::fs::write(&keys, line("new", "*")).unwrap();
    assert!(run.until(|_| asked("/metrics", "new") == 200));
    assert_eq!(asked("/metrics", "all"), 401);
    stop(run);
}

#[test]
fn passwords_of_addresses_are_in_no_answer_and_in_no_word_of_telemetry() {
    let folder = TempDir::new().unwrap();
    let (data, served) = (tables(folder.path()), free_address("127.0.0.1"));
    let away = format!("http://me:hunter2@{}", free_address("127.0.0.1"));
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), away.clone())].into();
    let mut server = tidemill()
        .with_environment(environment)
        .start(&["serve", "--data", &data, "--listen", &served, "--status", &away]);
    ready(&mut server, &served);
    let health = ask(&served, "/api/v1/health", &[]).1;
    assert!(health.contains("http://(hidden)@") && !health.contains("hunter2"), "{health}");
    until_said(&mut server, "OpenTelemetry at http://(hidden)@");
    server.signal("TERM");
    let ended = server.wait();
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);

    let bucket = [("AWS_ENDPOINT_URL", &*away), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let bucket = bucket.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let refused = tidemill().with_environment(bucket).command(&["query", "--data", "s3://bucket/web", "SELECT 1"]);
    assert!(refused.code.is_some_and(|code| code > 0) && !refused.stderr.contains("hunter2"), "{}", refused.stderr);
}

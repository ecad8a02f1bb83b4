//! The demo, as `make demo` runs it but short.

use tempfile::TempDir;

use super::tidemill;

#[test]
fn a_demo_prints_one_address_and_ends_with_books_that_agree() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("demo");
    let arguments = ["demo", "--for", "3s", "--rate", "200", "--dir", place.to_str().expect("a path in UTF-8")];
    let ended = tidemill().command(&arguments);
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(0), "{said}{}", ended.stderr);
    assert_eq!(said.matches("http://").count(), 1, "{said}");
    assert_eq!(said.lines().last(), Some("the books agree"), "{said}");
    let sent = said.lines().find(|line| line.starts_with("visitors")).expect("the visitors have books");
    assert!(!sent.contains("sent 0 "), "{sent}");
    // A folder that was asked for stays, and is not written over.
    assert!(place.join("data").is_dir());
    tidemill().command(&arguments).assert_refused(&[2], &["exists"]);
}

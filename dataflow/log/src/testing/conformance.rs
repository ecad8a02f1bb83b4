//! What every [`Store`] must keep. Each function panics with a sentence where one does not; give it an empty store.

use std::sync::Arc;
use std::thread;

use crate::store::{Created, Store, StoreError};

/// Objects come back as they were written, replaced as a whole, and are gone when deleted.
///
/// # Errors
/// The store failed.
pub fn objects_read_back(store: &dyn Store) -> Result<(), StoreError> {
    assert_eq!(store.get("a/b/c")?, None, "an absent object is read as nothing");
    assert!(!store.exists("a/b/c")?, "an absent object does not exist");
    assert_eq!(store.create("a/b/c", b"first")?, Created::New, "a free name is taken");
    assert_eq!(store.create("a/b/c", b"second")?, Created::Exists, "a taken name is refused");
    assert_eq!(store.get("a/b/c")?.as_deref(), Some(&b"first"[..]), "a refused create changes nothing");
    store.put("a/b/c", b"longer than before")?;
    assert_eq!(store.get("a/b/c")?.as_deref(), Some(&b"longer than before"[..]), "put replaces");
    store.put("a/b/c", b"")?;
    assert_eq!(store.get("a/b/c")?.as_deref(), Some(&b""[..]), "an empty object is an object");
    assert!(store.exists("a/b/c")?, "an empty object exists");
    store.delete("a/b/c")?;
    assert_eq!(store.get("a/b/c")?, None, "a deleted object is gone");
    store.delete("a/b/c")?;
    assert_eq!(store.create("a/b/c", b"third")?, Created::New, "a deleted name is free");
    Ok(())
}

/// Listings are complete, in order, and end at the folder's border.
///
/// # Errors
/// The store failed.
pub fn listings_are_complete_and_sorted(store: &dyn Store) -> Result<(), StoreError> {
    assert!(store.list("log")?.is_empty(), "a folder that does not exist is empty");
    let mut expected: Vec<String> = (0..30).map(|number| format!("log/{:05}", number * 7919 % 30)).collect();
    expected.push("log/dt=2024-01-01/hour=03/part.parquet".to_owned());
    for path in &expected {
        store.put(path, path.as_bytes())?;
    }
    store.put("log2/1", b"another folder whose name begins alike")?;
    store.put("lo", b"an object whose name is a beginning")?;
    expected.sort();
    assert_eq!(store.list("log")?, expected, "a listing is complete and sorted");
    assert_eq!(store.list("log/dt=2024-01-01")?.len(), 1, "subfolders can be listed");
    store.delete("log/00000")?;
    assert_eq!(store.list("log")?, expected[1..], "a deleted object is not listed");
    Ok(())
}

/// Of sixteen callers that create the same name at once, one wins, and its bytes are there.
///
/// # Errors
/// The store failed.
pub fn one_of_many_creators_wins(store: &Arc<dyn Store>) -> Result<(), StoreError> {
    for round in 0..20 {
        let path = format!("race/{round}");
        let racers: Vec<_> = (0..16)
            .map(|racer: u32| {
                let (store, path) = (Arc::clone(store), path.clone());
                thread::spawn(move || Ok((racer, store.create(&path, racer.to_string().as_bytes())?)))
            })
            .collect();
        let mut winners = Vec::new();
        for racer in racers {
            match racer.join().expect("a racer does not panic")? {
                (racer, Created::New) => winners.push(racer.to_string()),
                (_, Created::Exists) => {}
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: one creator wins");
        assert_eq!(store.get(&path)?.as_deref(), Some(winners[0].as_bytes()), "round {round}: its bytes are there");
    }
    Ok(())
}

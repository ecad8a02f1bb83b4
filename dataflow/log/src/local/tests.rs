use std::fs;
use std::sync::atomic::AtomicI64;

use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tempfile::TempDir;

use super::file_system::{DirEntry, Metadata, Opened};
use super::*;

/// A process that uses a folder and may die: what it forgets is gone, and the next sees what is on the disk.
fn forgetful(root: &Path) -> Box<dyn Store> {
    Box::new(DurableLocal::open(root, Faults::ForgetUnsynced).unwrap())
}

fn after_death(root: &Path) -> Box<dyn Store> {
    Box::new(DurableLocal::open(root, Faults::None).unwrap())
}

#[test]
fn a_file_that_is_still_written_keeps_its_bytes_when_another_settles_the_folder() {
    let root = TempDir::new().unwrap();
    let files = ForgetfulFs::default();
    let (begun, named) = (root.path().join(".tmp-1"), root.path().join("object"));
    let mut file = files.create_file(&begun).unwrap();
    files.sync_dir(root.path()).unwrap();
    file.write(b"bytes").unwrap();
    file.sync().unwrap();
    drop(file);
    files.rename(&begun, &named).unwrap();
    files.sync_dir(root.path()).unwrap();
    assert_eq!(fs::read(named).unwrap(), b"bytes");
}

#[test]
fn bytes_and_names_are_forgotten_until_each_is_synced() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    let survivors = || {
        let mut names: Vec<String> =
            fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let files = ForgetfulFs::default();
    let mut file = files.create_file(&at("a")).unwrap();
    file.write(b"synced, ").unwrap();
    file.sync().unwrap();
    file.write(b"not synced").unwrap();
    assert!(survivors().is_empty(), "a name needs the folder's sync");
    let seen = files.open(&at("a")).unwrap().content.read_all().unwrap();
    assert_eq!(&seen[..], b"synced, not synced", "the process sees everything");

    files.sync_dir(root.path()).unwrap();
    assert_eq!(fs::read(at("a")).unwrap(), b"synced, ", "bytes need the file's sync");
    assert_eq!(files.metadata(&at("a")).unwrap().length, 18, "and the process still sees them all");

    files.rename(&at("a"), &at("b")).unwrap();
    assert_eq!(files.link(&at("b"), &at("b")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    files.link(&at("b"), &at("c")).unwrap();
    files.create_dir(&at("folder")).unwrap();
    assert_eq!(survivors(), ["a"], "renames, links and folders need the folder's sync");
    assert_eq!(files.read_dir(root.path()).unwrap().len(), 3);
    file.sync().unwrap();
    files.sync_dir(root.path()).unwrap();
    assert_eq!(survivors(), ["b", "c", "folder"]);
    assert_eq!(fs::read(at("b")).unwrap(), b"synced, not synced");

    files.remove_file(&at("b")).unwrap();
    assert!(files.open(&at("b")).is_err());
    assert_eq!(survivors(), ["b", "c", "folder"], "removals too");
    files.sync_dir(root.path()).unwrap();
    assert_eq!(survivors(), ["c", "folder"]);
}

#[test]
fn what_a_put_confirmed_survives_death_and_a_deletion_may_not() {
    let root = TempDir::new().unwrap();
    let inside = root.path().join("not/yet/there");
    let store = forgetful(&inside);
    store.create("deep/er/first", b"1").unwrap();
    store.put("deep/er/second", b"2").unwrap();
    store.put("deep/er/second", b"22").unwrap();
    store.delete("deep/er/first").unwrap();
    assert_eq!(store.get("deep/er/first").unwrap(), None);
    drop(store);
    let after = after_death(&inside);
    assert_eq!(after.get("deep/er/second").unwrap().as_deref(), Some(&b"22"[..]));
    assert_eq!(after.get("deep/er/first").unwrap().as_deref(), Some(&b"1"[..]), "it was not synced");
}

/// A forgetful file system on which everything fails from some call on: the process dies there.
#[derive(Debug)]
struct Mortal {
    files: ForgetfulFs,
    calls_left: Arc<AtomicI64>,
}

impl Mortal {
    fn call(&self) -> io::Result<()> {
        call(&self.calls_left)
    }
}

fn call(left: &AtomicI64) -> io::Result<()> {
    if left.fetch_sub(1, Ordering::SeqCst) > 0 { Ok(()) } else { Err(io::Error::other("dead")) }
}

#[derive(Debug)]
struct MortalFile(Box<dyn NewFile>, Arc<AtomicI64>);

impl NewFile for MortalFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        call(&self.1)?;
        self.0.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        call(&self.1)?;
        self.0.sync()
    }
}

impl FileSystem for Mortal {
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        self.call()?;
        Ok(Box::new(MortalFile(self.files.create_file(path)?, Arc::clone(&self.calls_left))))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call()?;
        self.files.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call()?;
        self.files.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.files.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.files.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.files.sync_dir(path)
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        self.call()?;
        self.files.open(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.call()?;
        self.files.metadata(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.call()?;
        self.files.read_dir(path)
    }
}

#[test]
fn death_at_any_call_leaves_whole_objects_and_all_that_were_confirmed() {
    for calls in 0..200 {
        let root = TempDir::new().unwrap();
        let files = Mortal { files: ForgetfulFs::default(), calls_left: Arc::new(AtomicI64::new(calls)) };
        let store: Box<dyn Store> = Box::new(DurableLocal::over(root.path(), Box::new(files)).unwrap());
        let mut confirmed = Vec::new();
        let outcome = (0..6).try_for_each(|number: u32| {
            store.create(&format!("a/b/{number}"), &[7; 100])?;
            confirmed.push(format!("a/b/{number}"));
            store.put("a/newest", number.to_string().as_bytes())
        });
        drop(store);
        let after = after_death(root.path());
        for path in &confirmed {
            assert!(after.exists(path).unwrap(), "died at call {calls}: {path} was confirmed");
        }
        for path in after.list("").unwrap() {
            let bytes = after.get(&path).unwrap().unwrap();
            assert!(bytes[..] == [7; 100] || bytes.len() == 1, "died at call {calls}: {path} is whole");
        }
        if outcome.is_ok() {
            assert!(calls > 20);
            return;
        }
    }
    panic!("the writer never got through");
}

#[test]
fn leftovers_are_never_seen_and_old_ones_go() {
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join("a")).unwrap();
    let (old, young) = (root.path().join("a/.tmp-1-1"), root.path().join("a/.tmp-1-2"));
    for leftover in [&old, &young] {
        fs::write(leftover, b"half an obj").unwrap();
    }
    let store = after_death(root.path());
    let an_hour_ago = fs::metadata(&old).unwrap().modified().unwrap() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&old).unwrap().set_modified(an_hour_ago).unwrap();
    assert!(store.list("").unwrap().is_empty());
    assert!(old.exists(), "reading changes nothing");
    store.put("a/object", b"1").unwrap();
    assert_eq!(store.list("").unwrap(), ["a/object"]);
    assert!(!old.exists() && young.exists(), "the young one may belong to a living process");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

/// The store on the real file system and on the forgetful one, with their folders.
fn both(root: &TempDir) -> [(PathBuf, Box<dyn ObjectStore>); 2] {
    [("real", Faults::None), ("forgetful", Faults::ForgetUnsynced)].map(|(name, faults)| {
        let folder = root.path().join(name);
        let store = DurableLocal::open(&folder, faults).unwrap();
        (folder, Box::new(store) as Box<dyn ObjectStore>)
    })
}

#[test]
fn an_object_store_reader_finds_ranges_folders_and_conditions() {
    let root = TempDir::new().unwrap();
    for (_, store) in both(&root) {
        runtime().block_on(async {
            let path = ObjectPath::from("raw/dt=2024-01-01/hour=03/part.parquet");
            store.put(&path, PutPayload::from_static(b"0123456789")).await.unwrap();
            store.put(&ObjectPath::from("raw/top"), PutPayload::from_static(b"x")).await.unwrap();
            assert_eq!(&store.get_range(&path, 2..5).await.unwrap()[..], b"234");
            let ranges = store.get_ranges(&path, &[0..1, 8..10, 3..3 + 4]).await.unwrap();
            assert_eq!(ranges, [&b"0"[..], b"89", b"3456"]);
            let suffix = GetOptions { range: Some(GetRange::Suffix(3)), ..GetOptions::default() };
            assert_eq!(&store.get_opts(&path, suffix).await.unwrap().bytes().await.unwrap()[..], b"789");
            assert_eq!(store.head(&path).await.unwrap().size, 10);
            let out_of_range = GetOptions { range: Some(GetRange::Offset(10)), ..GetOptions::default() };
            assert!(store.get_opts(&path, out_of_range).await.is_err());

            let listed = store.list_with_delimiter(Some(&ObjectPath::from("raw"))).await.unwrap();
            assert_eq!(listed.common_prefixes, [ObjectPath::from("raw/dt=2024-01-01")]);
            assert_eq!(listed.objects.len(), 1);
            let all: Vec<_> = futures::TryStreamExt::try_collect(store.list(None)).await.unwrap();
            assert_eq!(all.iter().map(|meta| meta.location.as_ref()).collect::<Vec<_>>(), [path.as_ref(), "raw/top"]);

            let create = PutOptions::from(PutMode::Create);
            let taken = store.put_opts(&path, PutPayload::from_static(b"y"), create).await;
            assert!(matches!(taken, Err(object_store::Error::AlreadyExists { .. })));
            let absent = ObjectPath::from("raw/absent");
            assert!(matches!(store.get(&absent).await, Err(object_store::Error::NotFound { .. })));
            assert!(matches!(store.delete(&absent).await, Err(object_store::Error::NotFound { .. })));
            store.delete(&path).await.unwrap();
            assert!(
                store.list_with_delimiter(Some(&ObjectPath::from("raw"))).await.unwrap().common_prefixes.is_empty()
            );
        });
    }
}

#[test]
fn copies_and_uploads_are_durable_objects() {
    let root = TempDir::new().unwrap();
    for (folder, store) in both(&root) {
        runtime().block_on(async {
            let (from, to) = (ObjectPath::from("from"), ObjectPath::from("copies/to"));
            store.put(&from, PutPayload::from_static(b"1")).await.unwrap();
            store.copy_if_not_exists(&from, &to).await.unwrap();
            store.put(&from, PutPayload::from_static(b"2")).await.unwrap();
            let again = store.copy_if_not_exists(&from, &to).await;
            assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })));
            assert_eq!(&store.get(&to).await.unwrap().bytes().await.unwrap()[..], b"1", "copies are independent");
            store.copy(&from, &to).await.unwrap();
            store.rename(&to, &ObjectPath::from("renamed")).await.unwrap();

            let upload_path = ObjectPath::from("uploads/large");
            let mut upload = store.put_multipart(&upload_path).await.unwrap();
            let first = upload.put_part(PutPayload::from_static(b"first "));
            let second = upload.put_part(PutPayload::from_static(b"second"));
            second.await.unwrap();
            first.await.unwrap();
            assert!(store.head(&upload_path).await.is_err(), "an upload is invisible until it is complete");
            upload.complete().await.unwrap();
            let mut aborted = store.put_multipart(&ObjectPath::from("uploads/aborted")).await.unwrap();
            aborted.put_part(PutPayload::from_static(b"x")).await.unwrap();
            aborted.abort().await.unwrap();
        });
        drop(store);
        let after = after_death(&folder);
        let mut survivors = after.list("").unwrap();
        // The rename's removal was not synced, so the forgetful process may leave the old name.
        survivors.retain(|path| path != "copies/to");
        assert_eq!(survivors, ["from", "renamed", "uploads/large"]);
        assert_eq!(after.get("renamed").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(after.get("uploads/large").unwrap().as_deref(), Some(&b"first second"[..]));
    }
}

#[test]
fn a_full_disk_keeps_nothing_of_an_object_and_takes_it_when_there_is_room() {
    let (root, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let marker = elsewhere.path().join("full");
    let store: Box<dyn Store> = Box::new(DurableLocal::open(root.path(), Faults::NoRoomWhile(marker.clone())).unwrap());
    store.put("kept", b"before").unwrap();
    fs::write(&marker, b"").unwrap();
    assert_eq!(store.create("new", b"bytes").unwrap_err().kind(), StoreErrorKind::Full);
    assert_eq!(store.put("kept", b"after").unwrap_err().kind(), StoreErrorKind::Full);
    assert_eq!(store.put("folder/new", b"bytes").unwrap_err().kind(), StoreErrorKind::Full);
    assert_eq!(store.get("kept").unwrap().as_deref(), Some(&b"before"[..]));
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["kept"], "what did not fit leaves nothing behind that takes room");
    fs::remove_file(&marker).unwrap();
    assert_eq!(store.create("new", b"bytes").unwrap(), Created::New);
    store.put("folder/new", b"bytes").unwrap();
    assert_eq!(store.list("").unwrap(), ["folder/new", "kept", "new"]);
}

//! Addresses become hashes with a salt that lives for a day, so that nobody can turn them back, or follow one for longer.
//!
//! An IPv4 address has few values, and a hash without a secret is undone by trying them all. The salt of a UTC day is
//! random, kept in a file that only the owner reads (a restart goes on with it), and deleted when the day is over for a
//! day: 48 hours after it began. After that no hash of the day can be computed again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tracing::warn;

use crate::environment::Environment;

const DAY_MS: i64 = 86_400_000;
/// How many days a salt is kept: its own and the next.
const DAYS_KEPT: i64 = 2;
const SUFFIX: &str = ".salt";

/// The salts of a collector.
pub(crate) struct Salts {
    folder: PathBuf,
    environment: Arc<dyn Environment>,
    today: RwLock<(i64, [u8; 32])>,
}

impl Salts {
    /// Opens the folder of salts, made if it is missing, and deletes those that are too old.
    pub(crate) fn open(folder: PathBuf, environment: Arc<dyn Environment>) -> io::Result<Salts> {
        fs::create_dir_all(&folder)?;
        let day = environment.now_ms().div_euclid(DAY_MS);
        let salt = kept_or_new(&folder, day, &*environment)?;
        let salts = Salts { folder, environment, today: RwLock::new((day, salt)) };
        salts.delete_old()?;
        Ok(salts)
    }

    /// The address as 16 hex digits that are the same all day and another's the next.
    pub(crate) fn hash(&self, address: IpAddr, now_ms: i64) -> String {
        let salt = self.salt(now_ms.div_euclid(DAY_MS));
        let hash = match address.to_canonical() {
            IpAddr::V4(v4) => blake3::keyed_hash(&salt, &v4.octets()),
            IpAddr::V6(v6) => blake3::keyed_hash(&salt, &v6.octets()),
        };
        hash.to_hex()[..16].to_owned()
    }

    fn salt(&self, day: i64) -> [u8; 32] {
        let (of, salt) = *self.today.read().unwrap_or_else(PoisonError::into_inner);
        if of == day {
            return salt;
        }
        let mut today = self.today.write().unwrap_or_else(PoisonError::into_inner);
        // A clock that steps back over midnight keeps the newer salt, or it would be exchanged to and fro.
        if today.0 < day {
            match kept_or_new(&self.folder, day, &*self.environment) {
                Ok(new) => *today = (day, new),
                Err(error) => {
                    warn!(
                        "cannot keep the salt of a new day in {}: {error}; it goes on in memory",
                        self.folder.display()
                    );
                    // Derived, not random: as secret as the old one, and the old one cannot be told from it.
                    *today = (day, blake3::derive_key("tidemill collector: the salt of the following day", &today.1));
                }
            }
        }
        today.1
    }

    /// Deletes the salts of days that began 48 hours ago or earlier.
    pub(crate) fn delete_old(&self) -> io::Result<()> {
        let first_kept = self.environment.now_ms().div_euclid(DAY_MS) - DAYS_KEPT + 1;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if day_of(&path).is_some_and(|day| day < first_kept) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// Days since 1970 stand in the name.
fn path_of(folder: &Path, day: i64) -> PathBuf {
    folder.join(format!("{day}{SUFFIX}"))
}

fn day_of(path: &Path) -> Option<i64> {
    path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.parse().ok()
}

fn kept_or_new(folder: &Path, day: i64, environment: &dyn Environment) -> io::Result<[u8; 32]> {
    let path = path_of(folder, day);
    // A file of another length was torn by a crash; nothing that was acknowledged needs its salt.
    if let Ok(kept) = fs::read(&path)
        && let Ok(salt) = kept.try_into()
    {
        return Ok(salt);
    }
    let mut salt = [0; 32];
    environment.random(&mut salt)?;
    let half = path.with_extension("new");
    // A file that is there already keeps its mode, so one left behind is not written to.
    fs::remove_file(&half)
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?;
    file.write_all(&salt)?;
    file.sync_all()?;
    fs::rename(&half, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Scripted {
        now: AtomicI64,
        random: AtomicU8,
    }

    impl Environment for Scripted {
        fn now_ms(&self) -> i64 {
            self.now.load(Ordering::Relaxed)
        }

        fn uptime(&self) -> Duration {
            Duration::ZERO
        }

        fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
            bytes.fill(self.random.fetch_add(1, Ordering::Relaxed));
            Ok(())
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_salt_lasts_a_day_through_restarts_and_its_file_two() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("salts");
        let environment = Arc::new(Scripted::default());
        environment.now.store(20_000 * DAY_MS + 5, Ordering::Relaxed);
        let open = || Salts::open(kept.clone(), Arc::<Scripted>::clone(&environment)).unwrap();
        let address: IpAddr = [192, 0, 2, 1].into();
        let first = open();
        let hash = first.hash(address, environment.now_ms());
        assert_eq!(hash.len(), 16);
        assert_ne!(hash, first.hash([192, 0, 2, 2].into(), environment.now_ms()));
        assert_eq!(hash, first.hash("::ffff:192.0.2.1".parse().unwrap(), environment.now_ms()));
        assert_eq!(hash, open().hash(address, environment.now_ms()), "a restart goes on with the day's salt");
        assert_eq!(fs::metadata(path_of(&kept, 20_000)).unwrap().permissions().mode() & 0o777, 0o600);

        environment.now.store(20_001 * DAY_MS, Ordering::Relaxed);
        assert_ne!(hash, first.hash(address, environment.now_ms()), "another day, another hash");
        first.delete_old().unwrap();
        assert_eq!(names(&kept), ["20000.salt", "20001.salt"]);
        environment.now.store(20_002 * DAY_MS, Ordering::Relaxed);
        first.delete_old().unwrap();
        assert_eq!(names(&kept), ["20001.salt"], "after 48 hours nobody can compute the first day's hashes");
    }

    #[test]
    fn a_torn_salt_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(path_of(folder.path(), 0), b"torn").unwrap();
        let salts = Salts::open(folder.path().to_owned(), Arc::new(Scripted::default())).unwrap();
        salts.hash([192, 0, 2, 1].into(), 0);
        assert_eq!(fs::read(path_of(folder.path(), 0)).unwrap(), [0; 32]);
    }

    #[test]
    fn a_day_whose_salt_cannot_be_kept_has_one_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("salts");
        let salts = Salts::open(kept.clone(), Arc::new(Scripted::default())).unwrap();
        let today = salts.hash([192, 0, 2, 1].into(), 0);
        fs::remove_dir_all(&kept).unwrap();
        let tomorrow = salts.hash([192, 0, 2, 1].into(), DAY_MS);
        assert_ne!(today, tomorrow);
        assert_eq!(tomorrow, salts.hash([192, 0, 2, 1].into(), DAY_MS));
    }
}

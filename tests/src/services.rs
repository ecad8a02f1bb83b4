//! The services as tests see them: where they are, and what can be done to them.
//!
//! [`Services::shared`] are those that variables name (`KAFKA_BROKERS`, `CLICKHOUSE_URL`, `SCHEMA_REGISTRY_URL`,
//! `S3_ENDPOINT`, `TOXIPROXY_URL`); what no variable names is started once for the test process and ends with it, even
//! if that is killed: `services.py` holds the other end of a pipe. They are only used, never hurt.
//! [`Services::own`] are started for one test and may be killed.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

mod broker;
mod database;
mod proxy;

pub use broker::{Producer, committed_offsets, delete_before, delete_topic, read_lines};
pub use database::Database;
pub use proxy::{Proxies, Proxy};

/// The variables that name services which run already.
const VARIABLES: [&str; 5] = ["KAFKA_BROKERS", "CLICKHOUSE_URL", "SCHEMA_REGISTRY_URL", "S3_ENDPOINT", "TOXIPROXY_URL"];
/// The bucket that every S3 endpoint of the tests has.
const BUCKET: &str = "tidemill";
/// How often a condition outside this process is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// After this long a condition that should have come is reported.
const LIMIT: Duration = Duration::from_secs(300);

/// A set of running services.
pub struct Services {
    folder: PathBuf,
    variables: BTreeMap<String, String>,
    /// Ends the services when its standard input is closed.
    keeper: Option<Child>,
}

impl Services {
    /// The services that this process shares.
    ///
    /// # Panics
    /// When one is missing and cannot be started, with what was said about it.
    #[must_use]
    pub fn shared() -> &'static Services {
        static SHARED: OnceLock<Services> = OnceLock::new();
        SHARED.get_or_init(|| {
            let folder = cache().join("test");
            if VARIABLES.iter().all(|name| std::env::var(name).is_ok_and(|value| !value.is_empty())) {
                return Services { folder, variables: inherited(), keeper: None };
            }
            Services::keep(&folder, &[], true)
        })
    }

    /// Services of one test, started from nothing in a folder of their own under `.cache/services`; `names` as
    /// `services.py` has them. They end when this is dropped.
    ///
    /// # Panics
    /// When one cannot be started, with what was said about it.
    #[must_use]
    pub fn own(folder: &str, names: &[&str]) -> Services {
        let folder = cache().join(folder);
        let wiped = program(&folder, "wipe", &[], false).output().expect("the interpreter starts");
        assert!(wiped.status.success(), "wipe: {}", String::from_utf8_lossy(&wiped.stdout));
        Services::keep(&folder, names, false)
    }

    fn keep(folder: &Path, names: &[&str], inherit: bool) -> Services {
        let mut command = program(folder, "start", names, inherit);
        command.arg("--foreground").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = keeper.stdout.take().expect("its output is piped");
        let mut said = Vec::new();
        let ready = BufReader::new(output).lines().map_while(Result::ok).any(|line| {
            let ready = line == "ready";
            said.push(line);
            ready
        });
        assert!(ready, "the services did not start:\n{}", said.join("\n"));
        let text = fs::read_to_string(folder.join("env")).expect("services.py wrote where they are");
        let line = |line: &str| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('\'').to_owned()))
        };
        Services { folder: folder.to_owned(), variables: text.lines().filter_map(line).collect(), keeper: Some(keeper) }
    }

    /// What a program needs in its environment to find S3 and the registry.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let wanted = |name: &str| name.starts_with("AWS_") || name == "SCHEMA_REGISTRY_URL";
        self.variables.iter().filter(|(name, _)| wanted(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
    }

    /// Every variable that says where they are.
    #[must_use]
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// `HOST:PORT` of the broker.
    #[must_use]
    pub fn brokers(&self) -> &str {
        self.variable("KAFKA_BROKERS")
    }

    /// The registry's address with its API path.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.variable("SCHEMA_REGISTRY_URL")
    }

    /// `HOST:PORT` of the S3 endpoint.
    #[must_use]
    pub fn s3_place(&self) -> &str {
        place(self.variable("S3_ENDPOINT"))
    }

    /// `HOST:PORT` of ClickHouse's HTTP interface.
    #[must_use]
    pub fn clickhouse_place(&self) -> &str {
        place(self.variable("CLICKHOUSE_URL"))
    }

    /// The HTTP API of toxiproxy.
    #[must_use]
    pub fn proxies(&self) -> Proxies {
        Proxies::new(self.variable("TOXIPROXY_URL"))
    }

    /// `s3://BUCKET/PREFIX` with a prefix.
    #[must_use]
    pub fn bucket(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// Ends a service of this test as a crash would.
    ///
    /// # Panics
    /// When it is not this test's, or was not there.
    pub fn kill(&self, name: &str) {
        self.order("kill", name);
    }

    /// Starts a killed service again where it was, and waits until it answers.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn restart(&self, name: &str) {
        self.order("restart", name);
    }

    /// Starts a service of this test again if it has ended by itself.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn revive(&self, name: &str) {
        let asked = program(&self.folder, "status", &[name], false).output().expect("the interpreter starts");
        if !asked.status.success() {
            self.restart(name);
        }
    }

    /// Lets a service hang.
    ///
    /// # Panics
    /// When it is not this test's, or is not there.
    pub fn pause(&self, name: &str) {
        self.order("pause", name);
    }

    /// Lets a hanging service go on.
    ///
    /// # Panics
    /// When it is not this test's, or is not there.
    pub fn resume(&self, name: &str) {
        self.order("resume", name);
    }

    fn order(&self, what: &str, name: &str) {
        assert!(self.keeper.is_some(), "{name} belongs to others and is left alone");
        let done = program(&self.folder, what, &[name], false).output().expect("the interpreter starts");
        assert!(done.status.success(), "{what} {name}: {}", String::from_utf8_lossy(&done.stdout));
    }

    #[track_caller]
    fn variable(&self, name: &str) -> &str {
        self.variables
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not known; run `make services` and source its env"))
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            keeper.wait().ok();
        }
    }
}

/// A name that no other test and no earlier run has: of letters, digits and underscores.
#[must_use]
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Keys of the standard library's hash tables are random for each process.
    let random = RandomState::new().hash_one(std::process::id());
    format!("{what}_{:08x}_{}", random >> 32, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within five minutes, saying what was waited for.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..LIMIT.as_millis() / LOOK.as_millis() {
        if condition() {
            return;
        }
        pause(LOOK);
    }
    panic!("waited in vain: {what}");
}

/// Lets time pass, for faults that last a while; no result depends on how long it was.
pub fn pause(span: Duration) {
    // Early returns are allowed to `park_timeout` and do no harm here.
    thread::park_timeout(span);
}

fn inherited() -> BTreeMap<String, String> {
    std::env::vars().filter(|(name, _)| VARIABLES.contains(&name.as_str()) || name.starts_with("AWS_")).collect()
}

fn place(address: &str) -> &str {
    let rest = address.strip_prefix("http://").unwrap_or(address);
    rest.split('/').next().unwrap_or(rest)
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package is a folder of the repository").to_owned()
}

fn cache() -> PathBuf {
    root().join(".cache/services")
}

/// A call of `services.py`; without `inherit` it sees none of the services of others.
fn program(folder: &Path, what: &str, names: &[&str], inherit: bool) -> Command {
    let mut command = Command::new("python3");
    command.arg(root().join("tests/services/services.py")).arg(what).args(names).arg("--dir").arg(folder);
    command.stdin(Stdio::null());
    if !inherit {
        VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
    }
    command
}

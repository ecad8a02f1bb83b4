//! Somebody on the way between two real processes of a run: what he sees, and what he can do about it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::{Outcome, Run, Running};
use tidemill_tests::oracle::Oracle;

use crate::processes::shaped;
use crate::{assert_books_balance, counter, free_addresses, tidemill};

const TOKEN: &str = "a secret that never travels";

/// Listens in the place of `target`; `pass` may change what goes either way.
fn on_the_way(target: String, pass: impl FnMut(&mut [u8]) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, pass) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(pass)));
    thread::spawn(move || {
        for dialler in listener.incoming().flatten() {
            // Process 0 may not be there yet: who dials tries again.
            let Ok(acceptor) = TcpStream::connect(&target) else { continue };
            for (from, to) in [(&dialler, &acceptor), (&acceptor, &dialler)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let pass = Arc::clone(&pass);
                thread::spawn(move || {
                    let mut some = vec![0; 64 << 10];
                    while let Ok(read @ 1..) = from.read(&mut some) {
                        pass.lock().unwrap()(&mut some[..read]);
                        if to.write_all(&some[..read]).is_err() {
                            break;
                        }
                    }
                    // It may be gone already.
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    address
}

/// Two processes of a run, of which the second finds the first where somebody is on the way; what they said.
fn over(run: &Run, pass: impl FnMut(&mut [u8]) + Send + 'static) -> [Outcome; 2] {
    let [first, second] = free_addresses();
    let between = on_the_way(first.clone(), pass).to_string();
    let process = |place: &str, hosts: [&str; 2]| {
        let run = run.option(&["--process-index", place, "--hosts", &hosts.join(","), "--meet-within", "5m"]);
        run.environment("TIDEMILL_CLUSTER_TOKEN", TOKEN).start()
    };
    let processes = [process("0", [&first, &second]), process("1", [&between, &second])];
    processes.map(Running::wait)
}

struct Job {
    folder: TempDir,
    bytes: Vec<u8>,
    input: [PathBuf; 1],
}

impl Job {
    fn new(seed: u64) -> Job {
        let folder = TempDir::new().unwrap();
        let bytes = corpus::events(30_000, seed, Rates::within_horizon());
        let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
        Job { folder, bytes, input }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn run(&self) -> Run {
        tidemill().job(&self.input, &self.out()).eager()
    }

    fn assert_tables(&self, context: &str) {
        let (expected, _) = Oracle::of([self.bytes.as_slice()]).answer();
        expected.assert_equal(&tidemill().tables(&self.out()), context);
    }
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn whoever_listens_between_two_processes_sees_neither_token_nor_events() {
    let job = Job::new(45);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let said = over(&job.run(), move |bytes| record.lock().unwrap().extend_from_slice(bytes));
    for outcome in &said {
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    }
    let (_, books) = Oracle::of([job.bytes.as_slice()]).answer();
    assert_eq!(counter(&said[0].json(), "accepted"), books.accepted);
    job.assert_tables("with somebody who listens");

    let seen = seen.lock().unwrap();
    assert!(seen.len() > 1_000_000, "{} bytes went this way", seen.len());
    for told in [TOKEN, "page_view", "web_analytics"] {
        assert!(!holds(&seen, told.as_bytes()), "{told:?} was seen");
    }
    // Nothing that can be told from noise: it does not get smaller.
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&seen).unwrap();
    let packed = packed.finish().unwrap().len();
    assert!(packed > seen.len() / 100 * 98, "{} bytes are {packed} when they are packed", seen.len());
}

#[test]
fn what_somebody_changes_between_two_processes_ends_the_run_and_reaches_no_table() {
    let job = Job::new(46);
    let mut passed = 0;
    let said = over(&job.run(), move |bytes| {
        let (before, at) = (passed, 500_000);
        passed += bytes.len();
        if (before..passed).contains(&at) {
            bytes[at - before] ^= 1;
        }
    });
    let all: String = said.iter().map(|outcome| outcome.stderr.as_str()).collect();
    assert_eq!(said.map(|outcome| outcome.code), [Some(1), Some(1)], "{all}");
    assert!(all.contains("what arrived in its name is not what it sent: somebody on the way changed it"), "{all}");
    let line = shaped(&job.run(), (2, 1)).finish();
    assert_books_balance(&line);
    job.assert_tables("after somebody had changed an octet");
}

//! Several real processes that are one run: what they write, who is let in, and what happens when one dies or hangs.

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::{Run, Running, Tidemill};
use tidemill_tests::live::{EventLog, committed, ended, places, signal};
use tidemill_tests::oracle::Oracle;
use tidemill_tests::services::{pause, wait_until};
use ureq::Agent;

use crate::{assert_books_balance, counter, free_addresses, stop, tidemill};

const EVENTS: u64 = 60_000;
/// How long processes may go on without their supervisor.
const ORPHANED: Duration = Duration::from_secs(20);

/// The run with so many processes, and workers of each.
pub(crate) fn shaped(run: &Run, (processes, workers): (u32, usize)) -> Run {
    run.workers(workers).option(&["--processes", &processes.to_string(), "--supervise"])
}

#[test]
fn tables_equal_the_oracle_with_any_number_of_processes() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(EVENTS, 41, Rates::within_horizon());
    let (expected, books) = Oracle::of([bytes.as_slice()]).answer();
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    for shape in [(1, 3), (2, 1), (2, 2)] {
        let out = folder.path().join(format!("{}x{}", shape.0, shape.1));
        let line = shaped(&tidemill().job(&input, &out).eager(), shape).finish();
        assert_books_balance(&line);
        assert_eq!(counter(&line, "accepted"), books.accepted, "{line}");
        expected.assert_equal(&tidemill().tables(&out), &format!("{shape:?}"));
    }
}

#[test]
fn the_number_of_processes_may_change_from_start_to_start() {
    let folder = TempDir::new().unwrap();
    let pieces = corpus::cut(&corpus::events(EVENTS, 42, Rates::within_horizon()), 4);
    let name = |(at, piece): (usize, &Vec<u8>)| corpus::file(folder.path(), &format!("part-{at}.ndjson"), piece);
    let inputs: Vec<PathBuf> = pieces.iter().enumerate().map(name).collect();
    let out = folder.path().join("out");
    for (last, shape) in [(1, 3), (2, 1), (2, 2), (1, 1)].into_iter().enumerate() {
        let line = shaped(&tidemill().job(&inputs[..=last], &out).eager(), shape).finish();
        assert_books_balance(&line);
        let (expected, _) = Oracle::of(pieces[..=last].iter().map(Vec::as_slice)).answer();
        expected.assert_equal(&tidemill().tables(&out), &format!("start {last}, {shape:?}"));
    }
}

#[test]
fn processes_started_by_hand_over_finished_input_all_end_well() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(5_000, 44, Rates::within_horizon());
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let run = tidemill().job(&input, &folder.path().join("out")).eager();
    run.finish();
    let hosts = free_addresses();
    let process = |place: &str| {
        let run = run.option(&["--hosts", &hosts.join(","), "--process-index", place, "--meet-within", "5m"]);
        run.environment("TIDEMILL_CLUSTER_TOKEN", "a long secret")
    };
    // The follower waits for process 0, which waits until everybody knows.
    let follower = process("1").start();
    let leader = process("0").outcome();
    let followed = follower.wait();
    for (outcome, sentence) in
        [(leader, "finished before: all input was read"), (followed, "says process 0: all input")]
    {
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(sentence), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    }
}

/// A log that grows, and a run of it.
pub(crate) struct Live {
    _folder: TempDir,
    log: EventLog,
    out: PathBuf,
    /// What is stored next differs from all before.
    seed: Cell<u64>,
}

impl Live {
    pub(crate) fn new() -> Live {
        let folder = TempDir::new().unwrap();
        let out = folder.path().join("out");
        Live::in_folders(folder, out)
    }

    /// With a log in one folder, and the run's tables and state in another.
    pub(crate) fn in_folders(folder: TempDir, out: PathBuf) -> Live {
        let log = EventLog::new(folder.path().join("log"));
        let live = Live { _folder: folder, log, out, seed: Cell::new(0) };
        live.append(20_000);
        live
    }

    /// Where its tables and its state are.
    pub(crate) fn out(&self) -> &Path {
        &self.out
    }

    /// Stores events, others each time.
    pub(crate) fn append(&self, events: u64) {
        self.seed.set(self.seed.get() + 1);
        let to = format!("{}?partitions=2", self.log.address());
        let (seed, events) = (self.seed.get().to_string(), events.to_string());
        // All of it lies within the horizon of what came before.
        let options = ["--events", &events, "--span", "10m", "--within-horizon", "--seed", &seed];
        let made = tidemill().command(&[&["generate", "--to", &to][..], &options].concat());
        assert_eq!(made.code, Some(0), "{}", made.stderr);
    }

    pub(crate) fn start(&self, shape: (u32, usize)) -> Running {
        self.start_with(&tidemill(), shape)
    }

    /// Starts a run that fences the one that is alive.
    pub(crate) fn take_over(&self, shape: (u32, usize)) -> Running {
        self.start_told(&tidemill(), shape, &["--take-over"])
    }

    pub(crate) fn start_with(&self, tidemill: &Tidemill, shape: (u32, usize)) -> Running {
        self.start_told(tidemill, shape, &[])
    }

    fn start_told(&self, tidemill: &Tidemill, (processes, workers): (u32, usize), options: &[&str]) -> Running {
        let places = ["run", "web_analytics", "--from", &self.log.address(), "--out", self.out.to_str().unwrap()];
        let pace = ["--epoch-every", "200ms", "--checkpoint-every", "500ms", "--json"];
        let (processes, workers) = (processes.to_string(), workers.to_string());
        let shape = ["--processes", &processes, "--workers", &workers, "--supervise"];
        tidemill.start(&[&places[..], &pace, &shape, options].concat())
    }

    /// Starts a run and waits until it has read all that is stored, some of it since then: it has begun.
    pub(crate) fn started(&self, shape: (u32, usize)) -> Running {
        let mut running = self.start(shape);
        self.append(100);
        self.catch_up(&mut running);
        running
    }

    pub(crate) fn catch_up(&self, running: &mut Running) {
        let stored = self.log.records();
        wait_until(&format!("{stored} events are committed"), || {
            running.assert_alive("it reads a log that never ends");
            committed(&self.out) == stored
        });
    }

    /// Stores more, lets the run read that too, ends it and checks its tables.
    pub(crate) fn finish(&self, mut running: Running, context: &str) {
        self.append(20_000);
        self.catch_up(&mut running);
        let line = stop(running).json();
        assert_books_balance(&line);
        let tables = tidemill().tables(&self.out);
        let lines = self.log.lines_as_read(&tables);
        let (expected, books) = Oracle::of([lines.as_slice()]).answer();
        assert_eq!(counter(&line, "accepted"), books.accepted, "{context}: {line}");
        expected.assert_equal(&tables, context);
    }
}

/// The process at a place of the run.
fn process(running: &Running, place: u32) -> u32 {
    let mut found = None;
    wait_until(&format!("process {place} is there"), || {
        found = places(running.pid()).into_iter().find(|(number, _)| *number == place);
        found.is_some()
    });
    found.expect("it was waited for").1
}

pub(crate) fn until_said(running: &mut Running, words: &str) {
    wait_until(&format!("it says {words:?}"), || {
        running.assert_alive(words);
        running.said().contains(words)
    });
}

/// An address that is free together with the next one.
fn free_pair() -> SocketAddr {
    let mut found = None;
    wait_until("two ports in a row are free", || {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let next = address.port().checked_add(1).and_then(|port| TcpListener::bind((address.ip(), port)).ok());
        found = next.map(|_| address);
        found.is_some()
    });
    found.expect("it was waited for")
}

#[test]
fn every_process_answers_operators_at_the_port_of_the_first_one_plus_its_number() {
    let live = Live::new();
    let first = free_pair();
    let mut running = live.start_told(&tidemill(), (2, 1), &["--ops", &first.to_string()]);
    let next = SocketAddr::new(first.ip(), first.port() + 1);
    until_said(&mut running, &format!("ops http://{first}"));
    until_said(&mut running, &format!("process 1: ops http://{next}"));
    for address in [first, next] {
        let mut answer = Agent::new_with_defaults().get(format!("http://{address}/healthz")).call().unwrap();
        assert_eq!(answer.body_mut().read_to_string().unwrap(), "alive\n", "{address}");
    }
    live.finish(running, "with operators looking on");
}

#[test]
fn a_port_that_somebody_else_has_does_not_keep_a_process_from_running() {
    let live = Live::new();
    let first = free_pair();
    let _other = TcpListener::bind((first.ip(), first.port() + 1)).unwrap();
    let mut running = live.start_told(&tidemill(), (2, 1), &["--ops", &first.to_string()]);
    until_said(&mut running, "another is taken");
    until_said(&mut running, "process 1: ops http://127.0.0.1:");
    live.finish(running, "with another port");
}

#[test]
fn a_killed_process_is_started_again_with_all_others_and_nothing_is_lost() {
    let live = Live::new();
    let mut running = live.started((2, 2));
    for (place, next) in [(1, "attempt 2 begins in"), (0, "attempt 3 begins in")] {
        signal(process(&running, place), "KILL");
        until_said(&mut running, next);
        let said = running.said();
        let lost = format!("process {place} is lost");
        assert!(said.contains("signal: 9") || said.contains(&lost), "the reason is not in: {said}");
    }
    live.finish(running, "after two kills");
}

#[test]
fn a_process_that_hangs_is_missed_and_started_again() {
    let live = Live::new();
    let mut running = live.started((2, 1));
    let follower = process(&running, 1);
    signal(follower, "STOP");
    until_said(&mut running, "attempt 2 begins in");
    let said = running.said();
    let missed = ["process 1 is lost: it has said nothing for 5s", "process 1 has given no sign of life for 10s"];
    assert!(missed.iter().any(|sentence| said.contains(sentence)), "{said}");
    assert!(ended(follower), "it was killed before the others began again");
    live.finish(running, "after a process hung");
}

#[test]
fn a_process_alone_that_hangs_is_missed_too() {
    let live = Live::new();
    let mut running = live.started((1, 2));
    signal(process(&running, 0), "STOP");
    until_said(&mut running, "process 0 has given no sign of life for 10s; attempt 2 begins in");
    live.finish(running, "after the process hung");
}

#[test]
fn whichever_process_is_asked_to_stop_the_run_ends_well_for_all() {
    let live = Live::new();
    for asked in [&[1][..], &[0, 1, 2], &[2]] {
        let running = live.started((3, 1));
        let pids: Vec<u32> = asked.iter().map(|place| process(&running, *place)).collect();
        pids.into_iter().for_each(|pid| signal(pid, "TERM"));
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(0), "{asked:?}: {}", outcome.stderr);
        assert_eq!(outcome.json()["status"], "stopped", "{asked:?}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("attempt 2"), "{asked:?}: {}", outcome.stderr);
        live.append(5_000);
    }
    live.finish(live.started((2, 1)), "after followers were asked to stop");
}

#[test]
fn a_run_is_started_again_though_its_program_was_replaced_on_disk() {
    let live = Live::new();
    let installed = tidemill();
    let beside = TempDir::new_in(installed.binary().parent().unwrap()).unwrap();
    let link = beside.path().join("tidemill");
    fs::hard_link(installed.binary(), &link).unwrap();
    let mut running = live.start_with(&Tidemill::new(&link), (2, 1));
    live.catch_up(&mut running);
    fs::remove_file(&link).unwrap();
    signal(process(&running, 0), "KILL");
    until_said(&mut running, "attempt 2 begins in");
    live.finish(running, "after its program was replaced");
}

#[test]
fn processes_end_without_their_supervisor_and_the_next_start_goes_on() {
    let live = Live::new();
    for shape in [(2, 2), (1, 2)] {
        let running = live.started(shape);
        let last = process(&running, shape.0 - 1);
        let run = [process(&running, 0), last];
        assert!(running.kill_after(Duration::ZERO).is_none(), "it ended before it was killed");
        let mut waited = Duration::ZERO;
        while !run.iter().all(|pid| ended(*pid)) {
            assert!(waited < ORPHANED, "processes of a run whose supervisor is gone go on");
            pause(Duration::from_millis(20));
            waited += Duration::from_millis(20);
        }
        live.append(20_000);
    }
    live.finish(live.started((2, 1)), "after two supervisors were killed");
}

#[test]
fn a_fenced_run_ends_and_is_not_started_again() {
    let live = Live::new();
    for (earlier, later) in [((2, 1), (1, 1)), ((1, 1), (2, 2))] {
        let fenced = live.started(earlier);
        let mut next = live.take_over(later);
        // With nothing to write it would not care for long.
        for more in 0.. {
            if ended(fenced.pid()) {
                break;
            }
            next.assert_alive("the later run");
            assert!(more < 300, "it goes on: {}\nand the later one: {}", fenced.said(), next.said());
            live.append(100);
        }
        let outcome = fenced.wait();
        outcome.assert_refused(&[4], &["the run ended and is not started again"]);
        assert!(!outcome.stderr.contains("attempt 2"), "{}", outcome.stderr);
        stop(next);
    }
    live.finish(live.started((2, 1)), "after two fenced runs");
}

#[test]
fn strangers_wrong_tokens_and_other_attempts_are_refused_and_disturb_nobody() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(EVENTS, 43, Rates::within_horizon());
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let out = folder.path().join("out");
    let hosts = free_addresses();
    let run = tidemill().job(&input, &out).eager().option(&["--hosts", &hosts.join(",")]);
    let process = |place: &str, attempt: &str, token: &str| {
        let run = run.option(&["--process-index", place, "--attempt", attempt]);
        run.environment("TIDEMILL_CLUSTER_TOKEN", token)
    };
    process("0", "5", "").outcome().assert_refused(&[2], &["TIDEMILL_CLUSTER_TOKEN is not set"]);

    let mut leader = process("0", "5", "a long secret").start();
    let mut stranger = None;
    wait_until("process 0 listens", || {
        stranger = TcpStream::connect(&hosts[0]).ok();
        stranger.is_some()
    });
    let mut stranger = stranger.expect("it was waited for");
    stranger.write_all(&[b"GET / HTTP/1.1\r\n".as_slice(), &[b'x'; 200]].concat()).unwrap();
    until_said(&mut leader, "was refused: it does not speak this protocol");
    // One that says nothing at all stays connected meanwhile.
    let silent = TcpStream::connect(&hosts[0]).unwrap();

    process("1", "5", "another secret").outcome().assert_refused(&[2], &["another token"]);
    until_said(&mut leader, "was refused: it has another token");
    process("1", "4", "a long secret").outcome().assert_refused(&[2], &["it belongs to attempt 5"]);
    until_said(&mut leader, "it calls itself process 1 of attempt 4; this is attempt 5");
    let other_shape = process("1", "5", "a long secret").workers(3).outcome();
    other_shape.assert_refused(&[2], &["started with other numbers"]);
    until_said(&mut leader, "it calls itself process 1 of a run of another shape");

    let follower = process("1", "5", "a long secret").outcome();
    assert_eq!(follower.code, Some(0), "{}", follower.stderr);
    let done = leader.wait();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    drop(silent);
    let (expected, books) = Oracle::of([bytes.as_slice()]).answer();
    assert_eq!(counter(&done.json(), "accepted"), books.accepted, "{}", done.stderr);
    expected.assert_equal(&tidemill().tables(&out), "after strangers had come");
}

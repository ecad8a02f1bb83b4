//! Several processes as threads of this one: the same table whatever their number, and one that fails fails all.

use super::*;
use crate::cluster::{ClusterOptions, Place, Token, listen};

fn places(processes: u32) -> Vec<Place> {
    let listeners: Vec<_> = (0..processes).map(|_| listen("127.0.0.1:0").unwrap()).collect();
    let hosts: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
    let place = |(process, listener)| {
        let options = ClusterOptions::new(process, hosts.clone(), Token::new("a secret"));
        Place { options: ClusterOptions { meet_within: Duration::from_secs(5), ..options }, listener }
    };
    (0..).zip(listeners).map(place).collect()
}

/// One run of `stores.len()` processes, each with its own view of the store; what each of them said, process 0 first.
fn cluster(
    lines: &Lines,
    stores: Vec<Arc<dyn Store>>,
    threads: u32,
) -> (Result<RunReport, RunError>, Vec<Result<(), RunError>>) {
    let mut places = places(u32::try_from(stores.len()).unwrap()).into_iter().map(Some);
    let mut stores = stores.into_iter();
    let (first, led_from) = (stores.next().unwrap(), places.next().unwrap());
    let followers: Vec<_> = stores
        .zip(places)
        .map(|(store, place)| {
            let (build, options) = (pipeline(lines, &store), options(threads));
            let context = RunContext { place, ..context(&store) };
            std::thread::spawn(move || follow(build, &options, context, &StopHandle::default()).map(drop))
        })
        .collect();
    let context = RunContext { place: led_from, ..context(&first) };
    let report = run(pipeline(lines, &first), &options(threads), context, &StopHandle::default());
    (report, followers.into_iter().map(|follower| follower.join().unwrap()).collect())
}

fn all_see(store: &Arc<dyn Store>, processes: usize) -> Vec<Arc<dyn Store>> {
    vec![Arc::clone(store); processes]
}

#[test]
fn any_number_of_processes_and_threads_gives_the_same_table() {
    let lines = sample();
    for (processes, threads) in [(1, 1), (1, 3), (2, 1), (2, 2), (3, 1)] {
        let store = memory();
        let (report, followers) = cluster(&lines, all_see(&store, processes), threads);
        let report = report.unwrap();
        assert!(report.finished && report.epochs > 3, "{report:?}");
        assert!(followers.iter().all(Result::is_ok), "{followers:?}");
        assert_eq!(visible(&store), oracle(&lines), "{processes} x {threads}");
        let seal = report.state.seal().unwrap();
        assert_eq!((seal.processes as usize, seal.workers), (processes, threads));
    }
}

#[test]
fn a_checkpoint_starts_on_any_number_of_processes() {
    let (all, store) = (sample(), memory());
    let half = of_partitions(all.partitions.iter().map(|p| whole_lines(&p[..p.len() / 2])).collect());
    for (lines, processes, threads) in [(&half, 2, 2), (&all, 3, 1), (&all, 1, 2)] {
        let (report, followers) = cluster(lines, all_see(&store, processes), threads);
        assert!(report.unwrap().finished && followers.iter().all(Result::is_ok), "{followers:?}");
        assert_eq!(visible(&store), oracle(lines), "{processes} x {threads}");
    }
}

fn whole_lines(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    bytes[..end].to_vec()
}

#[test]
fn a_process_that_fails_ends_the_run_of_all_and_nothing_is_lost() {
    let lines = sample();
    // Process 0 writes the log all the time, the others only what their workers and sinks store.
    for (broken, step) in [(0, 60), (0, 90), (1, 6), (2, 6)] {
        let store = memory();
        let mut stores = all_see(&store, 3);
        stores[broken] = dying_at(&store, step);
        let (report, followers) = cluster(&lines, stores, 1);
        let said: Vec<_> = std::iter::once(report.map(drop)).chain(followers).collect();
        // Whoever had completed its part before is not told; nobody else goes on alone.
        for (process, ended) in said.iter().enumerate().filter(|(process, _)| *process != broken) {
            let sentence = ended.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let lost = sentence.contains("is lost") || sentence.contains("was not there");
            assert!(ended.is_ok() || lost, "process {process}: {sentence}");
        }
        let (after, _) = cluster(&lines, all_see(&store, 2), 2);
        assert!(after.unwrap().finished);
        assert_eq!(visible(&store), oracle(&lines), "process {broken} failed");
    }
}

#[test]
fn processes_with_other_settings_refuse_each_other_before_anything_is_read() {
    let (lines, store) = (sample(), memory());
    let mut places = places(2).into_iter().map(Some);
    let (first, second) = (places.next().unwrap(), places.next().unwrap());
    let build = pipeline(&lines, &store);
    let follower = RunContext { place: second, ..context(&store) };
    let follower = std::thread::spawn(move || {
        let options = RunOptions { settings: "another input".into(), ..options(1) };
        follow(build, &options, follower, &StopHandle::default())
    });
    let leader = RunContext { place: first, ..context(&store) };
    let mut leader = leader;
    if let Some(place) = leader.place.as_mut() {
        place.options.meet_within = Duration::from_secs(1);
    }
    let report = run(pipeline(&lines, &store), &options(1), leader, &StopHandle::default());
    let sentence = follower.join().unwrap().unwrap_err().to_string();
    assert!(sentence.contains("another plan or other settings"), "{sentence}");
    assert!(report.is_err());
    let state = reader::read(store, "_tidemill").unwrap();
    assert_eq!(state.committed(), None);
}

#[test]
fn a_follower_that_is_asked_to_stop_has_process_0_end_the_run_for_all() {
    let (lines, store) = (sample(), memory());
    let mut places = places(2).into_iter().map(Some);
    let context = |place| RunContext { place, ..context(&store) };
    let (leader, follower) = (context(places.next().unwrap()), context(places.next().unwrap()));
    // When all is read, it is the follower that is asked.
    let asked = StopHandle::default();
    let source = live::Growing { lines: lines.clone(), seed: 9, stop: asked.clone() };
    let (build, settings) = (pipeline(&source, &store), options(1));
    let following = std::thread::spawn(move || follow(build, &settings, follower, &asked));
    let report = run(pipeline(&source, &store), &options(1), leader, &StopHandle::default()).unwrap();
    following.join().unwrap().unwrap();
    assert!(!report.finished, "a source that never ends was stopped");
    assert_eq!(visible(&store), oracle(&lines));
}

#[test]
fn a_follower_of_a_fenced_run_says_so_and_one_with_another_log_says_that() {
    let mut state = LogState::default();
    state.apply(1, tidemill_log::Entry::Seal(tidemill_log::testing::seal(3))).unwrap();
    let check = |run| follow::check_run(&state, run, "").unwrap_err();
    assert_eq!(check(2).kind(), RunErrorKind::Fenced);
    assert!(check(2).to_string().contains("run 2 is fenced: run 3"), "{}", check(2));
    assert_eq!(check(4).kind(), RunErrorKind::Refused);
    assert!(check(4).to_string().contains("give all processes the same --state"), "{}", check(4));
    assert!(follow::check_run(&state, 3, "").is_ok());
}

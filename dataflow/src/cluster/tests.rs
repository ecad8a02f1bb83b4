//! Who is let in, who is refused with what sentence, and how soon a peer that stopped is missed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use timely::communication::allocator::zero_copy::stream::Stream;

use super::handshake::read_within;
use super::link::Link;
use super::*;

mod relay;

fn places(count: u32) -> Vec<Place> {
    let listeners: Vec<_> = (0..count).map(|_| listen("127.0.0.1:0").unwrap()).collect();
    let hosts: Vec<_> = listeners.iter().map(|l: &TcpListener| l.local_addr().unwrap().to_string()).collect();
    let place = |(process, listener)| {
        let options = ClusterOptions::new(process, hosts.clone(), Token::new("a secret"));
        Place { options: ClusterOptions { meet_within: Duration::from_secs(20), ..options }, listener }
    };
    (0..).zip(listeners).map(place).collect()
}

/// A run that hears what becomes of its peers.
#[derive(Default)]
struct Run {
    stopping: AtomicBool,
    told: Mutex<Option<Sender<String>>>,
}

impl Member for Run {
    fn lost(&self, sentence: String) {
        // The test may have heard enough.
        let _ = self.told.lock().unwrap().as_ref().unwrap().send(sentence);
    }

    fn stop(&self) {
        self.lost("asked to stop".into());
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

struct Met {
    run: u64,
    links: Links,
    member: Arc<Run>,
    lost: Receiver<String>,
    warned: Vec<String>,
}

fn meet(place: Place, threads: u32) -> Result<Met, ClusterError> {
    let mut meeting = Meeting::new(&place.options, threads)?;
    let run = if place.options.process == 0 { 7 } else { meeting.reach_leader()?.unwrap() };
    let (told, lost) = channel();
    let member = Arc::new(Run { told: Mutex::new(Some(told)), ..Run::default() });
    let warned = Mutex::new(Vec::new());
    let warn = |line: &str| warned.lock().unwrap().push(line.to_owned());
    let links = meeting.complete(place.listener, run, &warn, &(Arc::clone(&member) as Arc<dyn Member>))?;
    Ok(Met { run, links, member, lost, warned: warned.into_inner().unwrap() })
}

fn meet_all(places: Vec<Place>) -> Vec<Result<Met, ClusterError>> {
    let threads: Vec<_> = places.into_iter().map(|place| thread::spawn(|| meet(place, 2))).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn met(count: u32) -> Vec<Met> {
    meet_all(places(count)).into_iter().map(Result::unwrap).collect()
}

/// The two ends of a connection.
fn pair() -> (Met, Link, Met, Link) {
    let mut both = met(2);
    let (mut second, mut first) = (both.pop().unwrap(), both.pop().unwrap());
    let (to_second, to_first) = (first.links.take()[1].take().unwrap(), second.links.take()[0].take().unwrap());
    (first, to_second, second, to_first)
}

#[test]
fn all_processes_are_connected_and_know_the_run() {
    for met in met(3) {
        assert_eq!(met.run, 7);
        assert!(met.warned.is_empty(), "{:?}", met.warned);
    }
}

#[test]
fn strangers_are_refused_with_a_reason_and_disturb_nobody() {
    let places = places(2);
    let address = places[0].options.hosts[0].clone();
    let mut strangers = Vec::new();
    for words in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 500], b"", b"tidemill"] {
        let mut stranger = TcpStream::connect(&address).unwrap();
        stranger.write_all(words).unwrap();
        strangers.push(stranger);
    }
    let silent = TcpStream::connect(&address).unwrap();
    strangers[2].shutdown(Shutdown::Both).unwrap();
    let all: Vec<_> = meet_all(places).into_iter().map(Result::unwrap).collect();
    for refused in &all[0].warned {
        assert!(refused.starts_with("a connection from 127.0.0.1:") && refused.contains("was refused"), "{refused}");
    }
    drop(silent);
}

#[test]
fn a_stranger_that_says_a_byte_now_and_then_is_not_listened_to_for_long() {
    let listener = listen("127.0.0.1:0").unwrap();
    let mut stranger = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    // It ends when nobody listens any more.
    let talks = thread::spawn(move || {
        while stranger.write_all(b"t").is_ok() {
            thread::park_timeout(Duration::from_millis(10));
        }
    });
    let error = read_within(&mut socket, &mut [0; 1_000], Duration::from_millis(300)).unwrap_err();
    assert!([io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock].contains(&error.kind()), "{error}");
    drop(socket);
    talks.join().unwrap();
}

#[test]
fn a_crowd_that_says_nothing_does_not_keep_an_honest_process_waiting() {
    let mut places = places(2);
    // Served in turn, each for as long as it may be silent, the crowd would take longer than this.
    places.iter_mut().for_each(|place| place.options.meet_within = Duration::from_secs(8));
    let connect = |_| TcpStream::connect(&places[0].options.hosts[0]).unwrap();
    let crowd: Vec<_> = (0..120).map(connect).collect();
    let all: Vec<_> = meet_all(places).into_iter().map(Result::unwrap).collect();
    assert!(!all[0].warned.is_empty());
    drop(crowd);
}

#[test]
fn nobody_begins_before_the_slowest_has_read_its_state() {
    let mut places = places(2);
    let (slow, first) = (places.pop().unwrap(), places.pop().unwrap());
    let (begun, begins) = channel();
    let leader = thread::spawn(move || {
        let met = meet(first, 2);
        begun.send(()).unwrap();
        met
    });
    let mut meeting = Meeting::new(&slow.options, 2).unwrap();
    assert_eq!(meeting.reach_leader().unwrap(), Some(7));
    assert!(begins.recv_timeout(Duration::from_millis(300)).is_err(), "process 0 would miss the other's signs of life");
    let member: Arc<dyn Member> = Arc::new(Run::default());
    let links = meeting.complete(slow.listener, 7, &|_| (), &member).unwrap();
    drop(leader.join().unwrap().unwrap());
    drop(links);
}

#[test]
fn processes_are_told_where_nothing_is_left_to_do_and_who_does_not_ask_is_named() {
    for asking in [2, 1] {
        let mut places = places(3).into_iter();
        let mut first = places.next().unwrap();
        first.options.meet_within = Duration::from_secs(if asking == 2 { 20 } else { 3 });
        let ask = |place: Place| thread::spawn(move || Meeting::new(&place.options, 2).unwrap().reach_leader());
        let asked: Vec<_> = places.take(asking).map(ask).collect();
        let told = Meeting::new(&first.options, 2).unwrap().dismiss(&first.listener, &|_| ());
        for answer in asked {
            assert_eq!(answer.join().unwrap().unwrap(), None);
        }
        let missing = told.err().map(|error| error.to_string());
        assert_eq!(missing.as_ref().is_some_and(|error| error.contains("process 2 at")), asking == 1, "{missing:?}");
    }
}

#[test]
fn a_wrong_token_is_told_to_both_sides() {
    let mut places = places(2);
    places[1].options.token = Token::new("another secret");
    places[0].options.meet_within = Duration::from_millis(500);
    let results = meet_all(places);
    let sentences: Vec<_> = results.into_iter().map(|r| r.err().unwrap().to_string()).collect();
    assert!(sentences[1].contains("another token"), "{}", sentences[1]);
    assert!(sentences[0].contains("process 1 at 127.0.0.1:"), "{}", sentences[0]);
}

#[test]
fn the_token_does_not_travel_and_is_not_shown() {
    assert_eq!(format!("{:?}", Token::new("a secret")), "Token(..)");
}

#[test]
fn another_shape_or_a_later_attempt_is_refused_with_the_remedy() {
    type Change = fn(&mut Place);
    let cases: [(Change, &str); 2] = [
        (|place| place.options.hosts.push("127.0.0.1:1".into()), "started with other numbers"),
        (|place| place.options.attempt = 3, "belongs to attempt 3"),
    ];
    for (change, expected) in cases {
        let mut places = places(2);
        change(&mut places[0]);
        places[0].options.meet_within = Duration::from_millis(500);
        let sentence = meet_all(places).pop().unwrap().err().unwrap().to_string();
        assert!(sentence.contains(expected), "{sentence}");
    }
}

#[test]
fn a_process_of_an_earlier_attempt_is_waited_for_to_go() {
    let mut places = places(2);
    places[1].options.attempt = 1;
    for (place, millis) in places.iter_mut().zip([3_000, 500]) {
        place.options.meet_within = Duration::from_millis(millis);
    }
    let sentence = meet_all(places).pop().unwrap().err().unwrap().to_string();
    assert!(sentence.contains("a process of attempt 0 is still there"), "{sentence}");
}

#[test]
fn a_process_that_is_not_there_is_named_when_time_is_up() {
    let mut places = places(3);
    places.truncate(2);
    for place in &mut places {
        place.options.meet_within = Duration::from_millis(300);
    }
    for result in meet_all(places) {
        let sentence = result.err().unwrap().to_string();
        assert!(sentence.contains("process 2 at 127.0.0.1:") && sentence.contains("300ms"), "{sentence}");
    }
}

#[test]
fn a_place_beyond_the_hosts_is_a_usage_error() {
    let options = ClusterOptions::new(2, vec!["a:1".into(), "b:1".into()], Token::new("x"));
    assert!(matches!(Meeting::new(&options, 1), Err(ClusterError::Usage(_))));
}

#[test]
fn bytes_arrive_in_order_and_a_goodbye_is_their_end() {
    let (first, mut to_second, second, mut to_first) = pair();
    let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let bytes = sent.clone();
    let sender = thread::spawn(move || {
        for piece in bytes.chunks(7_919) {
            to_second.write_all(piece).unwrap();
        }
        first.links.completion().store(true, Ordering::Release);
        to_second.shutdown(Shutdown::Write).unwrap();
        first
    });
    let mut received = Vec::new();
    to_first.read_to_end(&mut received).unwrap();
    assert!(received == sent);
    drop(sender.join().unwrap());
    assert_eq!(second.lost.try_recv().ok(), None);
}

#[test]
fn a_peer_that_leaves_before_the_end_is_lost() {
    let (_first, to_second, second, mut to_first) = pair();
    to_second.shutdown(Shutdown::Both).unwrap();
    thread::spawn(move || to_first.read(&mut [0; 10]));
    let sentence = second.lost.recv().unwrap();
    assert_eq!(sentence, "process 0 is lost: it left before the run was complete");
}

#[test]
fn a_silent_peer_is_lost_after_the_stated_time_and_one_that_has_nothing_to_say_is_not() {
    let mut places = places(2);
    for place in &mut places {
        place.options.silent_after = Duration::from_millis(400);
    }
    let mut both: Vec<_> = meet_all(places).into_iter().map(Result::unwrap).collect();
    let (mut second, first) = (both.pop().unwrap(), both.pop().unwrap());
    let mut to_first = second.links.take()[0].take().unwrap();
    thread::spawn(move || to_first.read(&mut [0; 10]));
    // Five times the silence with nothing but signs of life.
    assert_eq!(second.lost.recv_timeout(Duration::from_secs(2)).ok(), None);
    // As SIGSTOP does it: the socket stays, the signs end.
    let _socket_stays = first.links.stop_signs();
    let sentence = second.lost.recv().unwrap();
    assert_eq!(sentence, "process 0 is lost: it has said nothing for 400ms");
}

#[test]
fn whoever_is_asked_to_stop_tells_process_0_and_nobody_else() {
    let mut places = places(3);
    for place in &mut places {
        place.options.silent_after = Duration::from_secs(1);
    }
    let mut all: Vec<_> = meet_all(places).into_iter().map(Result::unwrap).collect();
    let mut ends: Vec<_> = all.iter_mut().map(|met| met.links.take()).collect();
    for (reader, from) in [(0, 1), (2, 1)] {
        let mut link = ends[reader][from].take().unwrap();
        thread::spawn(move || link.read(&mut [0; 10]));
    }
    all[1].member.stopping.store(true, Ordering::Release);
    assert_eq!(all[0].lost.recv().unwrap(), "asked to stop");
    assert_eq!(all[0].lost.recv().unwrap(), "asked to stop", "it goes on as before, and may say it again");
    assert_eq!(all[2].lost.try_recv().ok(), None);
}

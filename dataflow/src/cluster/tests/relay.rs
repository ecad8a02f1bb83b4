//! Somebody on the way between two processes: what he sees, and what becomes of what he does.

use std::net::SocketAddr;

use super::*;

/// What becomes of octets from the dialler (or to it) on their way to a socket.
type Passes = dyn Fn(bool, &[u8], &mut TcpStream) -> io::Result<()> + Send + Sync;

/// Listens in the place of `target`, and passes on what comes.
fn relay(target: String, passes: Arc<Passes>) -> SocketAddr {
    let listener = listen("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for dialler in listener.incoming().flatten() {
            let acceptor = TcpStream::connect(&target).unwrap();
            let [back, forth] = [(&acceptor, &dialler), (&dialler, &acceptor)]
                .map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()));
            for (goes_forth, (mut from, mut to)) in [(false, back), (true, forth)] {
                let passes = Arc::clone(&passes);
                thread::spawn(move || {
                    let mut some = [0; 4_096];
                    while let Ok(read @ 1..) = from.read(&mut some) {
                        if passes(goes_forth, &some[..read], &mut to).is_err() {
                            break;
                        }
                    }
                    // Either may be gone already.
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    address
}

/// The two ends of a connection with somebody on the way, the acceptor's first; process 1 dials.
fn pair_over(
    silent_after: Duration,
    passes: impl Fn(bool, &[u8], &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> (Met, Link, Met, Link) {
    let mut places = places(2);
    let target = places[0].options.hosts[0].clone();
    places[1].options.hosts[0] = relay(target, Arc::new(passes)).to_string();
    for place in &mut places {
        place.options.silent_after = silent_after;
    }
    let mut both: Vec<_> = meet_all(places).into_iter().map(Result::unwrap).collect();
    let (mut second, mut first) = (both.pop().unwrap(), both.pop().unwrap());
    let (to_second, to_first) = (first.links.take()[1].take().unwrap(), second.links.take()[0].take().unwrap());
    (first, to_second, second, to_first)
}

const SECONDS: Duration = Duration::from_secs(5);

#[test]
fn whoever_listens_on_the_way_sees_neither_the_token_nor_what_is_sent() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let (_first, mut to_second, _second, mut to_first) = pair_over(SECONDS, move |_, bytes, to| {
        record.lock().unwrap().extend_from_slice(bytes);
        to.write_all(bytes)
    });
    let words = b"a page_view of user-17, ".repeat(20_000);
    let sent = words.clone();
    let sender = thread::spawn(move || to_second.write_all(&sent).map(|()| to_second));
    let mut received = vec![0; words.len()];
    to_first.read_exact(&mut received).unwrap();
    assert!(received == words);
    drop(sender.join().unwrap());
    let seen = seen.lock().unwrap();
    assert!(seen.len() > words.len(), "it was on the way");
    let token = Token::new("a secret").0;
    for hidden in [&b"a secret"[..], &token, b"page_view", b"user-17"] {
        assert!(!seen.windows(hidden.len()).any(|window| window == hidden), "{hidden:?}");
    }
}

#[test]
fn what_was_changed_on_the_way_is_not_taken_and_the_peer_counts_as_lost() {
    let armed = Arc::new(AtomicBool::new(false));
    let arm = Arc::clone(&armed);
    let (_first, mut to_second, second, mut to_first) = pair_over(SECONDS, move |forth, bytes, to| {
        let mut bytes = bytes.to_vec();
        if !forth && armed.swap(false, Ordering::AcqRel) {
            *bytes.last_mut().unwrap() ^= 1;
        }
        to.write_all(&bytes)
    });
    arm.store(true, Ordering::Release);
    to_second.write_all(b"one hundred").unwrap();
    let (taken, took) = channel();
    thread::spawn(move || taken.send(to_first.read(&mut [0; 100])));
    let sentence = second.lost.recv().unwrap();
    assert_eq!(
        sentence,
        "process 0 is lost: what arrived in its name is not what it sent: somebody on the way changed it"
    );
    assert!(took.try_recv().is_err(), "timely got something of it");
}

#[test]
fn octets_that_come_one_by_one_are_no_sign_of_life() {
    let dripping = Arc::new(AtomicBool::new(false));
    let drip = Arc::clone(&dripping);
    let (_first, _to_second, second, mut to_first) = pair_over(Duration::from_millis(500), move |forth, bytes, to| {
        if forth || !dripping.load(Ordering::Acquire) {
            return to.write_all(bytes);
        }
        for octet in bytes.chunks(1) {
            to.write_all(octet)?;
            // A sign of life takes two seconds so.
            thread::park_timeout(Duration::from_millis(100));
        }
        Ok(())
    });
    drip.store(true, Ordering::Release);
    thread::spawn(move || to_first.read(&mut [0; 100]));
    assert_eq!(second.lost.recv().unwrap(), "process 0 is lost: it has said nothing for 500ms");
}

#[test]
fn a_greeting_that_somebody_recorded_lets_nobody_in() {
    let mut places = places(2);
    let target = places[0].options.hosts[0].clone();
    let (recorded, record) = channel();
    let recorder = listen("127.0.0.1:0").unwrap();
    let honest = places[1].options.clone();
    let dialled = ClusterOptions { hosts: vec![recorder.local_addr().unwrap().to_string(), target.clone()], ..honest };
    let victim = thread::spawn(move || Meeting::new(&dialled, 2).unwrap().reach_leader());
    thread::spawn(move || {
        let (mut socket, _) = recorder.accept().unwrap();
        let mut greeting = [0; 84];
        socket.read_exact(&mut greeting).unwrap();
        recorded.send(greeting).unwrap();
        // It is refused, so that it does not dial again.
        socket.write_all(&[9]).unwrap();
    });
    let greeting = record.recv().unwrap();
    assert!(victim.join().unwrap().unwrap_err().to_string().contains("no process of this run"));
    places[0].options.meet_within = Duration::from_millis(500);
    let leader = thread::spawn(move || meet(places.remove(0), 2));
    let mut stranger = TcpStream::connect(target).unwrap();
    stranger.write_all(&greeting).unwrap();
    let mut answer = [0; 66];
    stranger.read_exact(&mut answer).unwrap();
    // A frame as long as a proof.
    stranger.write_all(&[&[17, 0][..], &[1; 17]].concat()).unwrap();
    assert_eq!(stranger.read(&mut [0; 1]).unwrap(), 0, "it is not welcome");
    let sentence = leader.join().unwrap().err().unwrap().to_string();
    assert!(sentence.contains("process 1 at 127.0.0.1:") && sentence.contains("was refused"), "{sentence}");
}

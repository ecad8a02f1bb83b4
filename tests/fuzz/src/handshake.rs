//! How two processes of a run make sure of each other, when one of them is a stranger, or somebody sits between them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use tidemill_dataflow::cluster::{ClusterOptions, Token, accept, dial, listen};

use crate::input::Input;

const THREADS: u32 = 2;

fn options(process: u32) -> ClusterOptions {
    let hosts = vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
    let patience = Duration::from_secs(5);
    ClusterOptions { meet_within: patience, ..ClusterOptions::new(process, hosts, Token::new("a secret")) }
}

/// Two ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener: TcpListener = listen("127.0.0.1:0").expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    let one = TcpStream::connect(address).expect("it listens");
    let (other, _) = listener.accept().expect("it was connected to");
    (one, other)
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 3 {
        0 => {
            let stranger = stranger(input.0, |socket| accept(&options(0), THREADS, socket).map(u64::from));
            assert!(stranger.is_err(), "a stranger was taken for process {stranger:?}");
        }
        1 => {
            let stranger = stranger(input.0, |socket| dial(&options(1), THREADS, socket));
            assert!(stranger.is_err(), "a stranger was taken for process 0");
        }
        _ => somebody_between(input),
    }
}

/// Gives a process the bytes of a stranger, who hears out what it is told.
fn stranger(bytes: &[u8], meet: impl FnOnce(TcpStream) -> Result<u64, String>) -> Result<u64, String> {
    let (mut ours, theirs) = pair();
    // It may hang up before it has heard everything.
    let _ = ours.write_all(bytes);
    let _ = ours.shutdown(Shutdown::Write);
    let met = meet(theirs);
    let mut told = Vec::new();
    let _ = ours.take(1 << 20).read_to_end(&mut told);
    assert!(told.len() <= 4 << 10, "a stranger is told {} bytes", told.len());
    met
}

/// Two honest processes, and somebody who changes what they say, or does not.
fn somebody_between(mut input: Input<'_>) {
    let (forth, at, change) = (input.byte() & 1 == 0, usize::from(input.byte()), input.byte());
    let (dialler, dialled) = pair();
    let (towards, acceptor) = pair();
    let clone = |socket: &TcpStream| socket.try_clone().expect("there are descriptors");
    let (back_from, back_to) = (clone(&towards), clone(&dialled));
    let (dialled, accepted, changed) = thread::scope(|scope| {
        // Each hangs up when it has met the other, or has not.
        let accepting = scope.spawn(move || accept(&options(0), THREADS, acceptor));
        let there = scope.spawn(move || pass(dialled, towards, forth.then_some((at, change))));
        let back = scope.spawn(move || pass(back_from, back_to, (!forth).then_some((at, change))));
        let met = dial(&options(1), THREADS, dialler);
        let changed = there.join().expect("it passes bytes") | back.join().expect("it passes bytes");
        (met, accepting.join().expect("it accepts"), changed)
    });
    if changed {
        assert!(dialled.is_err() || accepted.is_err(), "a changed byte went unnoticed by both");
    } else {
        assert_eq!((dialled, accepted), (Ok(1), Ok(1)));
    }
}

/// Passes bytes on, one of them changed; says whether one was.
fn pass(mut from: TcpStream, mut to: TcpStream, change: Option<(usize, u8)>) -> bool {
    let (mut passed, mut changed, mut piece) = (0, false, [0; 512]);
    while let Ok(read @ 1..) = from.read(&mut piece) {
        if let Some((at, by)) = change
            && (passed..passed + read).contains(&at)
        {
            piece[at - passed] ^= by;
            changed = by != 0;
        }
        passed += read;
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    changed
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let greeting = |version: u32| [&[0][..], b"tidemill", &version.to_le_bytes(), &[7; 128]].concat();
    let answer = [&[1, 0][..], &[7; 128]].concat();
    vec![greeting(5), greeting(4), answer, vec![2, 0, 0, 0], vec![2, 0, 30, 1], vec![2, 1, 20, 1], vec![2, 1, 81, 1]]
}

//! What a supervisor notices of its processes, with processes and connections of any kind.

use super::*;

fn of_sleepers(count: u32) -> Group {
    let mut group = Group::new(1, Shape { workers: 1, processes: count });
    for _ in 0..count {
        group.children.push((Command::new("sleep").arg("600").spawn().unwrap(), None));
        group.links.push(None);
    }
    group
}

/// Both ends of a connection, the supervisor's first.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let process = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, process)
}

fn reason(group: Group, happened: &Receiver<Event>) -> String {
    match group.watch(happened, &AtomicU32::new(0), &mut None) {
        Ended::Failed(reason) => reason,
        Ended::Well | Ended::Refused(..) => panic!("processes that were killed did not fail"),
    }
}

#[test]
fn a_process_that_hangs_before_it_introduces_itself_is_missed() {
    let mut group = of_sleepers(2);
    group.introduced = Duration::from_millis(200);
    let (events, happened) = channel();
    events.send(Event::Here(0, 1, connection().0)).unwrap();
    assert_eq!(reason(group, &happened), "process 1 has not introduced itself within 200ms");
}

/// What is told of one that introduces itself with these words, and its end of the connection.
fn introduced(words: &str) -> (TcpStream, Receiver<Event>) {
    let (supervisor, mut process) = connection();
    let (events, happened) = channel();
    writeln!(process, "{words}").unwrap();
    thread::spawn(move || follow_signs(supervisor, "secret", &events));
    (process, happened)
}

#[test]
fn a_stranger_is_not_heard() {
    let (_stranger, happened) = introduced("a-guess 0 1");
    assert!(happened.recv().is_err());
}

#[test]
fn a_connection_that_breaks_is_said_with_what_the_system_says() {
    let (process, happened) = introduced("secret 0 1");
    let Ok(Event::Here(0, 1, mut link)) = happened.recv() else { panic!("it has introduced itself") };
    // A socket that is closed with something unread in it breaks the connection.
    link.write_all(b"stop\n").unwrap();
    assert_eq!(process.peek(&mut [0]).unwrap(), 1);
    drop(process);
    let broken = happened.recv().unwrap();
    assert!(matches!(&broken, Event::Broken(0, 1, error) if error.kind() == io::ErrorKind::ConnectionReset));

    let (events, to_supervisor) = channel();
    events.send(Event::Here(0, 1, link)).unwrap();
    events.send(broken).unwrap();
    let said = reason(of_sleepers(1), &to_supervisor);
    assert!(said.starts_with("the connection to process 0 broke (") && said.contains("reset"), "{said}");
}

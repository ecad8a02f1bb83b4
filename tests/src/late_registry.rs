//! A registry that is behind its producers: it has not heard yet of some schemas that the real one has.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// In front of a real registry; serves until the test process ends.
pub struct LateRegistry {
    /// Its address with its API path.
    pub url: String,
    lacks: Arc<Mutex<BTreeSet<i32>>>,
}

impl LateRegistry {
    /// A registry that has what the one at `real` has, but for these ids.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start(real: &str, lacks: impl IntoIterator<Item = i32>) -> LateRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let lacks = Arc::new(Mutex::new(lacks.into_iter().collect()));
        let (real, missing) = (real.trim_end_matches('/').to_owned(), Arc::clone(&lacks));
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // Whoever hung up needs no answer.
                let _ = answer(&connection, &real, &missing);
            }
        });
        LateRegistry { url, lacks }
    }

    /// From now on it has all that the real one has.
    ///
    /// # Panics
    /// When a thread of its own panicked.
    pub fn catch_up(&self) {
        self.lacks.lock().expect("nobody panics with it").clear();
    }

    /// From now on it lacks this id, too.
    ///
    /// # Panics
    /// When a thread of its own panicked.
    pub fn lose(&self, id: i32) {
        self.lacks.lock().expect("nobody panics with it").insert(id);
    }
}

fn answer(mut connection: &TcpStream, real: &str, lacks: &Mutex<BTreeSet<i32>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines.by_ref() {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or("/").to_owned();
    let id = path.strip_prefix("/schemas/ids/").and_then(|id| id.parse::<i32>().ok());
    let (status, body) = if id.is_some_and(|id| lacks.lock().expect("nobody panics with it").contains(&id)) {
        (404, r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned())
    } else {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut found = agent.get(format!("{real}{path}")).call().map_err(std::io::Error::other)?;
        let mut body = String::new();
        found.body_mut().as_reader().read_to_string(&mut body)?;
        (found.status().as_u16(), body)
    };
    write!(connection, "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

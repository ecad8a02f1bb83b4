//! A registry of a few prepared answers, which remembers what it was asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Answers by the request's first line (`GET /path`): its status and body; anything else gets a bare 404.
pub(crate) struct ScriptedServer {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ScriptedServer {
    /// Serves until the test process ends.
    pub(crate) fn start(answers: &[(&'static str, u16, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (answers, log) = (answers.to_vec(), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let (line, authorization) = request(&stream);
                let (status, body) = answers
                    .iter()
                    .find(|(question, ..)| *question == line)
                    .map_or((404, ""), |(_, status, body)| (*status, *body));
                log.lock().unwrap().push(line + &authorization);
                let answer =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                (&stream).write_all(answer.as_bytes()).unwrap();
            }
        });
        Self { url, asked }
    }

    /// What was asked, in order; with the credentials, where some were shown.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn request(stream: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let (mut authorization, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let header = header.trim_end();
        let Some((name, value)) = header.split_once(": ") else { break };
        match &*name.to_ascii_lowercase() {
            "authorization" => authorization = format!(" {value}"),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    (first.trim_end().trim_end_matches(" HTTP/1.1").to_owned(), authorization)
}

//! A client that sends exactly the bytes it is told to.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::Rig;

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(super) fn assert_refused(&self, status: u16, words: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let said = self.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains(words), "{words:?} is not in {said:?}");
    }
}

impl Rig {
    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.collector.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// Posts a body with these headers.
    pub(super) fn post_with(&self, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.request("POST", "/v1/events", headers, body)
    }

    pub(super) fn post(&self, body: &str) -> Answer {
        self.post_with(&[("content-type", "application/json")], body.as_bytes())
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    pub(super) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut stream = self.connect();
        stream.write_all(head.as_bytes()).unwrap();
        // A refusal may come before all of the body is sent.
        let _ = stream.write_all(body);
        answer(&mut stream)
    }
}

/// Reads one answer.
pub(super) fn answer(stream: &mut TcpStream) -> Answer {
    try_answer(stream).expect("an answer before the connection ends")
}

/// Reads one answer; none if the connection ends without one.
pub(super) fn try_answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        if let Some(found) = whole(&bytes) {
            return Some(found);
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

fn whole(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    let headers: BTreeMap<String, String> = lines.filter_map(header).collect();
    let length: usize = headers.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let body = rest.get(..length)?.to_owned();
    Some(Answer { status, headers, body })
}

//! Toxiproxy: a faulty network between a program and a service.

use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;

/// A toxiproxy server.
pub struct Proxies {
    url: String,
    agent: Agent,
}

/// A way to a service that can be made slow or be cut.
pub struct Proxy {
    url: String,
    agent: Agent,
    place: String,
}

impl Proxies {
    pub(super) fn new(url: &str) -> Proxies {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(30)));
        Proxies { url: url.to_owned(), agent: config.build().into() }
    }

    /// A new way to the service at `HOST:PORT`.
    ///
    /// # Panics
    /// When the server refuses.
    #[must_use]
    pub fn to(&self, name: &str, upstream: &str) -> Proxy {
        let wanted = json!({"name": name, "listen": "127.0.0.1:0", "upstream": upstream, "enabled": true});
        let made = call(&self.agent, &format!("{}/proxies", self.url), &wanted);
        let place = made["listen"].as_str().unwrap_or_else(|| panic!("toxiproxy said {made}")).to_owned();
        Proxy { url: format!("{}/proxies/{name}", self.url), agent: self.agent.clone(), place }
    }
}

impl Proxy {
    /// `HOST:PORT` where it listens.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Answers come late by `millis`, give or take a third.
    pub fn delay(&self, millis: u32) {
        self.toxic("latency", "downstream", &json!({"latency": millis, "jitter": millis / 3}));
    }

    /// Connections break off after so many bytes of an answer.
    pub fn limit_answers(&self, bytes: u32) {
        self.toxic("limit_data", "downstream", &json!({"bytes": bytes}));
    }

    /// Connections break off after so many bytes of a request.
    pub fn limit_requests(&self, bytes: u32) {
        self.toxic("limit_data", "upstream", &json!({"bytes": bytes}));
    }

    /// Connections stay open for `millis` after their end.
    pub fn close_slowly(&self, millis: u32) {
        self.toxic("slow_close", "downstream", &json!({"delay": millis}));
    }

    /// Requests arrive and answers never come; connections stay open.
    pub fn hang(&self) {
        self.toxic("timeout", "downstream", &json!({"timeout": 0}));
    }

    /// Nobody is there any more; what is connected breaks off.
    pub fn cut(&self) {
        call(&self.agent, &self.url, &json!({"enabled": false}));
    }

    /// Everything is as it should be.
    pub fn heal(&self) {
        let toxics = format!("{}/toxics", self.url);
        let list = self.agent.get(&toxics).call().and_then(|mut answer| answer.body_mut().read_to_string());
        let list: Value = list.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        for toxic in list.as_array().into_iter().flatten() {
            let name = toxic["name"].as_str().unwrap_or_default();
            self.agent.delete(format!("{toxics}/{name}")).call().expect("toxiproxy takes a fault away");
        }
        call(&self.agent, &self.url, &json!({"enabled": true}));
    }

    fn toxic(&self, kind: &str, stream: &str, attributes: &Value) {
        let toxic = json!({"type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes});
        call(&self.agent, &format!("{}/toxics", self.url), &toxic);
    }
}

fn call(agent: &Agent, url: &str, body: &Value) -> Value {
    let mut answer = agent.post(url).send(body.to_string()).unwrap_or_else(|error| panic!("{url}: {error}"));
    let text = answer.body_mut().read_to_string().unwrap_or_else(|error| panic!("{url}: {error}"));
    assert!(answer.status().is_success(), "{url}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
}

//! One connection of the fleet: posts batches, and posts them again until they are acknowledged.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use super::browser::Batch;
use crate::cli::measure::Stopwatch;

/// The longest time until a connection stands, and from a request to the end of its answer.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));
/// The pauses between attempts: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The longest advice to wait that is followed.
const LONGEST_ADVICE: Duration = Duration::from_secs(60);

/// What the fleet did. `sent = accepted + rejected + given_up`.
#[derive(Debug, Default)]
pub(super) struct Counters {
    sent: AtomicU64,
    accepted: AtomicU64,
    rejected: AtomicU64,
    given_up: AtomicU64,
    batches: AtomicU64,
    retried_batches: AtomicU64,
    retries: AtomicU64,
}

/// The same at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct FleetBooks {
    /// Events that were sent at least once, repeats by the generator included.
    pub(super) sent: u64,
    /// Events that were answered with `ok`.
    pub(super) accepted: u64,
    /// Events that were answered with `rejected`.
    pub(super) rejected: u64,
    /// Events that were never answered.
    pub(super) given_up: u64,
    /// Batches.
    pub(super) batches: u64,
    /// Batches that were sent more than once.
    pub(super) retried_batches: u64,
    /// Attempts beyond the first.
    pub(super) retries: u64,
}

impl Counters {
    pub(super) fn books(&self) -> FleetBooks {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FleetBooks {
            sent: read(&self.sent),
            accepted: read(&self.accepted),
            rejected: read(&self.rejected),
            given_up: read(&self.given_up),
            batches: read(&self.batches),
            retried_batches: read(&self.retried_batches),
            retries: read(&self.retries),
        }
    }
}

/// Where acknowledged events are written down.
pub(super) type Acknowledged = Mutex<BufWriter<File>>;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) key: Option<String>,
    /// How long a batch is tried; for ever if not given.
    pub(super) give_up: Option<Duration>,
    pub(super) acknowledged: Option<Acknowledged>,
    pub(super) counters: Counters,
    /// What a batch was refused for, for good; the first one of all.
    pub(super) refused: Mutex<Option<String>>,
}

/// A connection.
pub(super) struct Sender<'a> {
    target: &'a Target,
    agent: Agent,
    /// Closed when nothing is to be tried again.
    patience: Receiver<()>,
    dice: ChaCha8Rng,
}

/// How an attempt ended.
enum Attempt {
    /// For each event whether it was accepted.
    Answered(Vec<bool>),
    /// Not acknowledged; advice to wait, if there was any.
    Again(Duration),
    /// This will never be taken.
    Refused(String),
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<EventResult>,
}

#[derive(Deserialize)]
struct EventResult {
    status: String,
}

impl<'a> Sender<'a> {
    pub(super) fn new(target: &'a Target, patience: Receiver<()>, seed: u64) -> Sender<'a> {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(TIMEOUTS.0))
            .timeout_global(Some(TIMEOUTS.1))
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .user_agent("tidemill")
            .max_idle_connections_per_host(1)
            .build()
            .new_agent();
        Sender { target, agent, patience, dice: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Delivers batches until there are no more, or nobody has patience any more.
    pub(super) fn run(mut self, batches: &Receiver<Batch>) {
        for batch in batches {
            if self.patience.try_recv() == Err(TryRecvError::Disconnected) {
                break;
            }
            self.deliver(&batch);
        }
    }

    fn deliver(&mut self, batch: &Batch) {
        let Target { counters, give_up, .. } = self.target;
        let count = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        let events = batch.events.len() as u64;
        count(&counters.sent, events);
        count(&counters.batches, 1);
        let body = body(&batch.events);
        let begun = Stopwatch::start();
        let mut pause = PAUSES.0;
        for attempt in 0_u64.. {
            if attempt > 0 {
                count(&counters.retries, 1);
                count(&counters.retried_batches, u64::from(attempt == 1));
            }
            let advice = match self.post(&body, batch.events.len()) {
                Attempt::Answered(accepted) => {
                    let taken = accepted.iter().filter(|accepted| **accepted).count() as u64;
                    count(&counters.accepted, taken);
                    count(&counters.rejected, events - taken);
                    self.write_down(batch, &accepted);
                    return;
                }
                Attempt::Refused(problem) => {
                    let mut refused = self.target.refused.lock().unwrap_or_else(PoisonError::into_inner);
                    refused.get_or_insert(problem);
                    break;
                }
                Attempt::Again(advice) => advice,
            };
            // Half of the pause to one and a half, so that those who were refused together do not come back together.
            let jitter = f64::from(self.dice.next_u32()) / f64::from(u32::MAX) + 0.5;
            let wait = advice + pause.mul_f64(jitter);
            pause = PAUSES.1.min(pause * 2);
            let in_vain = give_up.is_some_and(|give_up| begun.elapsed() + wait > give_up);
            if in_vain || self.patience.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
        }
        count(&counters.given_up, events);
    }

    fn post(&self, body: &[u8], events: usize) -> Attempt {
        let mut request = self.agent.post(&self.target.url).header("content-type", "application/json");
        if let Some(key) = &self.target.key {
            request = request.header("x-api-key", key);
        }
        // Lost connections, timeouts: nobody knows whether the batch was stored, so it is sent again.
        let Ok(mut response) = request.send(body) else { return Attempt::Again(Duration::ZERO) };
        let status = response.status().as_u16();
        let advice = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let advice = Duration::from_secs(advice.unwrap_or(0)).min(LONGEST_ADVICE);
        let Ok(text) = response.body_mut().read_to_string() else { return Attempt::Again(Duration::ZERO) };
        match status {
            200 => match serde_json::from_str::<Answer>(&text) {
                Ok(answer) if answer.results.len() == events => {
                    Attempt::Answered(answer.results.iter().map(|result| result.status == "ok").collect())
                }
                _ => Attempt::Refused(format!("{} answers as no collector does", self.target.url)),
            },
            408 | 429 | 500..=599 => Attempt::Again(advice),
            _ => {
                let said: String = text.chars().take(200).collect();
                Attempt::Refused(format!("{} refused a batch with {status}: {said}", self.target.url))
            }
        }
    }

    fn write_down(&self, batch: &Batch, accepted: &[bool]) {
        let Some(acknowledged) = &self.target.acknowledged else { return };
        let mut file = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        for event in batch.events.iter().zip(accepted).filter_map(|(event, accepted)| accepted.then_some(event)) {
            let written = file.write_all(event).and_then(|()| file.write_all(b"\n"));
            if let Err(error) = written {
                let mut refused = self.target.refused.lock().unwrap_or_else(PoisonError::into_inner);
                refused.get_or_insert(format!("cannot write down what was acknowledged: {error}"));
            }
        }
    }
}

/// The request's body.
fn body(events: &[Vec<u8>]) -> Vec<u8> {
    let bytes: usize = events.iter().map(|event| event.len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 16);
    body.extend_from_slice(b"{\"events\":[");
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(event);
    }
    body.extend_from_slice(b"]}");
    body
}

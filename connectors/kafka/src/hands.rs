//! Calls of the client library that may never return, made on a thread that can be given up.
//!
//! librdkafka takes a limit for most of its calls and keeps it in most cases; not when coordinators move while brokers die,
//! and hardly when a client is closed. So whoever has to go on lets another thread make the call, waits for as long as it
//! pleases, and leaves the thread behind with its client if that was in vain. What is left behind does no harm: a producer
//! that comes back is fenced by the one that replaced it, and is closed then.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{io, thread};

use thiserror::Error;

/// So many clients may be left behind at the same time before the process is better started anew.
const MOST_GIVEN_UP: usize = 8;

type Call<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A thread that owns a client and makes calls for another. The client is closed there when this is dropped, which nobody
/// waits for.
#[derive(Debug)]
pub(crate) struct Hands<T> {
    calls: Sender<Call<T>>,
    busy: Weak<()>,
}

/// A call did not return in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{call} of the Kafka client did not return within {} s", at_most.as_secs())]
pub(crate) struct GivenUp {
    /// Which one.
    pub(crate) call: &'static str,
    /// How long it was waited for.
    pub(crate) at_most: Duration,
}

impl<T: Send + 'static> Hands<T> {
    /// A thread of this name that owns `client`.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub(crate) fn take(name: &str, client: T) -> io::Result<Hands<T>> {
        let (calls, wanted) = channel::<Call<T>>();
        let alive = Arc::new(());
        let busy = Arc::downgrade(&alive);
        let work = move || {
            let mut client = client;
            for call in wanted {
                call(&mut client);
            }
            drop(client);
            drop(alive);
        };
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Hands { calls, busy })
    }

    /// Makes a call and waits for what it gives.
    ///
    /// # Errors
    /// [`GivenUp`] if it took longer; this is of no use any more then.
    pub(crate) fn call<R: Send + 'static>(
        &self,
        (call, at_most): (&'static str, Duration),
        make: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, GivenUp> {
        let (give, given) = channel();
        let made = move |client: &mut T| {
            // Nobody listens any more if it was given up.
            let _ = give.send(make(client));
        };
        // The thread is gone only if a call panicked, and then no answer comes either.
        let _ = self.calls.send(Box::new(made));
        given.recv_timeout(at_most).map_err(|ended| {
            debug_assert_ne!(ended, RecvTimeoutError::Disconnected, "{call} panicked");
            GivenUp { call, at_most }
        })
    }
}

/// The threads that were left behind.
#[derive(Debug, Default)]
pub(crate) struct LeftBehind(Vec<Weak<()>>);

impl LeftBehind {
    /// Leaves a thread behind with its client.
    ///
    /// # Errors
    /// A sentence, if there are too many of them: each holds memory.
    pub(crate) fn leave<T>(&mut self, hands: Hands<T>) -> Result<(), String> {
        self.0.retain(|busy| busy.strong_count() > 0);
        self.0.push(hands.busy);
        if self.0.len() < MOST_GIVEN_UP {
            return Ok(());
        }
        Err(format!("{MOST_GIVEN_UP} calls of the Kafka client hang at once; start the run again, and nothing is lost"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    /// A client whose calls hang until they are let go, and which says when it is closed.
    struct Hanging {
        until: Receiver<()>,
        closed: Sender<()>,
    }

    impl Drop for Hanging {
        fn drop(&mut self) {
            let _ = self.closed.send(());
        }
    }

    fn hanging() -> (Hands<Hanging>, Sender<()>, Receiver<()>) {
        let ((go, until), (closed, is_closed)) = (channel(), channel());
        (Hands::take("test", Hanging { until, closed }).unwrap(), go, is_closed)
    }

    #[test]
    fn a_call_that_hangs_is_given_up_and_the_client_is_closed_when_it_comes_back() {
        let (hands, go, is_closed) = hanging();
        assert_eq!(hands.call(("flush", LONG), |_| 7), Ok(7));
        let hung = hands.call(("commit_transaction", SOON), |client| client.until.recv());
        let given_up = hung.unwrap_err();
        assert_eq!(given_up.to_string(), "commit_transaction of the Kafka client did not return within 0 s");
        let mut left = LeftBehind::default();
        left.leave(hands).unwrap();
        assert!(is_closed.recv_timeout(SOON).is_err(), "it still hangs");
        go.send(()).unwrap();
        is_closed.recv_timeout(LONG).unwrap();
    }

    #[test]
    fn too_many_calls_that_hang_end_the_run_and_those_that_came_back_do_not_count() {
        let mut left = LeftBehind::default();
        let mut held = Vec::new();
        for _ in 1..MOST_GIVEN_UP {
            let (hands, go, closed) = hanging();
            hands.call(("abort_transaction", Duration::ZERO), |client| client.until.recv().is_ok()).unwrap_err();
            left.leave(hands).unwrap();
            held.push((go, closed));
        }
        let (let_go, is_closed) = held.pop().unwrap();
        let_go.send(()).unwrap();
        is_closed.recv_timeout(LONG).unwrap();
        while left.0.iter().all(|busy| busy.strong_count() > 0) {
            thread::yield_now();
        }
        let mut last = || {
            let (hands, go, closed) = hanging();
            hands.call(("abort_transaction", Duration::ZERO), |client| client.until.recv().is_ok()).unwrap_err();
            held.push((go, closed));
            left.leave(hands)
        };
        last().unwrap();
        assert!(last().unwrap_err().contains("start the run again"));
    }

    #[test]
    fn a_client_that_is_let_go_is_closed_on_its_own_thread() {
        let (hands, _go, is_closed) = hanging();
        drop(hands);
        is_closed.recv_timeout(LONG).unwrap();
    }
}

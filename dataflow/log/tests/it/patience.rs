//! A store that fails for a while is waited for, silently when it is short, with one line when it is not.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tidemill_log::testing::{MemoryStore, Moment, Reaction, ScriptedStore};
use tidemill_log::{PatientStore, Store, StoreErrorKind};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

use crate::pipeline::{Pipeline, outcome};

/// A store that fails `times` times in this way, again and again.
fn failing(inner: Arc<dyn Store>, times: u64, kind: StoreErrorKind, when: Moment) -> PatientStore {
    let calls = AtomicU64::new(0);
    let scripted = ScriptedStore::new(inner, move |_, moment| {
        if moment != when {
            return Reaction::Proceed;
        }
        let call = calls.fetch_add(1, Ordering::SeqCst);
        if call % times.saturating_add(11) < times { Reaction::Fail(kind) } else { Reaction::Proceed }
    });
    PatientStore::new(Arc::new(scripted), "the store").pausing(Arc::new(|_| {}))
}

#[test]
fn a_pipeline_comes_to_the_same_whatever_fails_for_a_while() {
    let calm: Arc<dyn Store> = Arc::new(MemoryStore::default());
    Pipeline::start(Arc::clone(&calm), 4).unwrap().run_through(8).unwrap();
    for (kind, when) in [
        (StoreErrorKind::Retryable, Moment::Before),
        (StoreErrorKind::MaybeApplied, Moment::Before),
        (StoreErrorKind::MaybeApplied, Moment::After),
    ] {
        let inner: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let patient: Arc<dyn Store> = Arc::new(failing(Arc::clone(&inner), 20, kind, when));
        Pipeline::start(patient, 4).unwrap().run_through(8).unwrap();
        assert_eq!(outcome(&inner), outcome(&calm), "{kind:?} {when:?}");
    }
}

#[test]
fn what_cannot_be_helped_is_not_waited_for() {
    let store = failing(Arc::new(MemoryStore::default()), u64::MAX - 1, StoreErrorKind::Fatal, Moment::Before);
    assert_eq!(store.put("x", b"").unwrap_err().kind(), StoreErrorKind::Fatal);
}

#[test]
fn a_local_folder_is_waited_for_only_until_it_has_room() {
    let local = |kind| {
        let calls = AtomicU64::new(0);
        let scripted = ScriptedStore::new(Arc::new(MemoryStore::default()), move |_, moment| {
            let failing = moment == Moment::Before && calls.fetch_add(1, Ordering::SeqCst) < 20;
            if failing { Reaction::Fail(kind) } else { Reaction::Proceed }
        });
        PatientStore::for_room(Arc::new(scripted), "/data").pausing(Arc::new(|_| {}))
    };
    let messages = Messages::default();
    let full = local(StoreErrorKind::Full);
    tracing::subscriber::with_default(messages.clone(), || full.put("x", b"1").unwrap());
    assert_eq!(full.get("x").unwrap().as_deref(), Some(&b"1"[..]));
    let told = std::mem::take(&mut *messages.0.lock().unwrap());
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("there is no room in /data: make some, and this goes on by itself"), "{told:?}");
    assert_eq!(told[1], "/data has room again");
    for other in [StoreErrorKind::Retryable, StoreErrorKind::MaybeApplied, StoreErrorKind::Fatal] {
        assert_eq!(local(other).put("x", b"1").unwrap_err().kind(), other);
    }
}

/// Keeps the messages of the thread that it is the default of.
#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<String>>>);

impl Visit for Messages {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl Subscriber for Messages {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn an_outage_is_told_once_when_it_begins_and_once_when_it_ends() {
    let messages = Messages::default();
    let told = |times| {
        let store = failing(Arc::new(MemoryStore::default()), times, StoreErrorKind::Retryable, Moment::Before);
        tracing::subscriber::with_default(messages.clone(), || store.put("x", b"").unwrap());
        std::mem::take(&mut *messages.0.lock().unwrap())
    };
    assert_eq!(told(2), [""; 0], "a hiccup is nothing to tell");
    let told = told(100);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("waiting for the store to answer: cannot do what the test forbids to x"), "{told:?}");
    assert_eq!(told[1], "the store answers again");
}

//! A store that lets a test stop, act or fail before and after every operation.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::store::{Created, Store, StoreError, StoreErrorKind};

/// The kinds of operation of a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named after the method that it stands for")]
pub enum OperationKind {
    Create,
    Put,
    Get,
    List,
    Delete,
    Exists,
}

/// An operation that is about to be done or was done.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Counts all operations on this store, from 1.
    pub step: u64,
    /// What it is.
    pub kind: OperationKind,
    /// The object or folder.
    pub path: String,
}

/// When the script is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The operation has had no effect yet.
    Before,
    /// It has had its effect, and the caller does not know yet.
    After,
}

/// What the script wants to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Go on.
    Proceed,
    /// Fail with this kind of error: without any effect if said before, with its effect if said after.
    Fail(StoreErrorKind),
}

type Script = dyn Fn(&Operation, Moment) -> Reaction + Send + Sync;

/// Passes everything on to another store and asks a script before and after each operation. The script may block, and
/// may use the store behind, for instance to let another run begin, go on and finish.
pub struct ScriptedStore {
    inner: Arc<dyn Store>,
    script: Box<Script>,
    steps: AtomicU64,
    done: Mutex<Vec<Operation>>,
}

impl ScriptedStore {
    /// A store over `inner` that follows `script`.
    pub fn new(inner: Arc<dyn Store>, script: impl Fn(&Operation, Moment) -> Reaction + Send + Sync + 'static) -> Self {
        Self { inner, script: Box::new(script), steps: AtomicU64::new(0), done: Mutex::new(Vec::new()) }
    }

    /// A store that does `act` once, before or after the given step, and nothing else.
    pub fn acting_at(inner: Arc<dyn Store>, step: u64, moment: Moment, act: impl FnOnce() + Send + 'static) -> Self {
        let unused = Mutex::new(Some(act));
        Self::new(inner, move |operation, at| {
            if operation.step == step && at == moment {
                let once = unused.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(act_once) = once {
                    act_once();
                }
            }
            Reaction::Proceed
        })
    }

    /// The operations so far, in order.
    pub fn operations(&self) -> Vec<Operation> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn scripted<T>(
        &self,
        kind: OperationKind,
        path: &str,
        operate: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        let operation = Operation { step, kind, path: path.to_owned() };
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(operation.clone());
        let ask = |moment| match (self.script)(&operation, moment) {
            Reaction::Proceed => Ok(()),
            Reaction::Fail(error) => {
                Err(StoreError::new(error, "do what the test forbids to", path, "scripted failure"))
            }
        };
        ask(Moment::Before)?;
        let outcome = operate()?;
        ask(Moment::After)?;
        Ok(outcome)
    }
}

impl fmt::Debug for ScriptedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Store for ScriptedStore {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.scripted(OperationKind::Create, path, || self.inner.create(path, bytes))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.scripted(OperationKind::Put, path, || self.inner.put(path, bytes))
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        self.scripted(OperationKind::Get, path, || self.inner.get(path))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.scripted(OperationKind::List, folder, || self.inner.list(folder))
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.scripted(OperationKind::Delete, path, || self.inner.delete(path))
    }

    fn exists(&self, path: &str) -> Result<bool, StoreError> {
        self.scripted(OperationKind::Exists, path, || self.inner.exists(path))
    }
}

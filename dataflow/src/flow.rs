//! [`Flow`]: where a pipeline begins. The author's function runs once per worker, and once dry.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::Location;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use tidemill_log::PartitionBinding;
use timely::dataflow::{Scope, Stream as TimelyStream};

use crate::checkpoint::restore::Restored;
use crate::checkpoint::writer::{Codec, Request as SnapshotRequest};
use crate::control::{Ack, Control};
use crate::driver::sink::Encoded;
use crate::faults::Faults;
use crate::plan::{Operator, Plan};
use crate::quarantine::Witness;
use crate::queue::BlockQueue;
use crate::shared::{Requests, Shared};
use crate::sink::SinkStart;
use crate::source::{BlockReader, Source, SourceError};
use crate::status::gauge::{Gauge, Role};
use crate::stream::SourceStream;
use crate::time::Epoch;
use crate::watermark::Watermarks;

/// Opens the pipeline's source at recorded positions.
pub(crate) type OpenFn =
    Box<dyn Fn(&[PartitionBinding], &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> + Send>;

/// What the dry build learns about the pipeline beside its plan.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) open: Option<OpenFn>,
    pub(crate) rule: Option<Watermarks>,
    pub(crate) codecs: BTreeMap<String, Codec>,
}

/// What all workers of a process share while they build and run.
pub(crate) struct Env {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<BlockQueue>,
    pub(crate) requests: Requests,
    pub(crate) snapshots: Mutex<Option<Sender<SnapshotRequest>>>,
    pub(crate) restored: Restored,
    /// The last epoch committed by earlier runs: sinks write nothing at or below it.
    pub(crate) committed: Epoch,
    /// What sinks are told before they write; `None` in a dry build.
    pub(crate) sink_start: Option<SinkStart>,
    /// Processes of the run.
    pub(crate) processes: u32,
    /// The last epoch bound by earlier runs: the binder only compares up to it.
    pub(crate) bound: BTreeMap<Epoch, Option<i64>>,
    pub(crate) disabled_sinks: BTreeSet<String>,
    pub(crate) faults: Faults,
    /// Whether there is a log and checkpoints.
    pub(crate) exactly_once: bool,
    pub(crate) registry: Mutex<Registry>,
    pub(crate) witness: Arc<Witness>,
}

impl Env {
    /// The same with somebody who knows what follows from a panic.
    pub(crate) fn witnessed(self, witness: Witness) -> Env {
        Env { witness: Arc::new(witness), ..self }
    }

    /// The same for one of several processes.
    pub(crate) fn of_processes(self, processes: u32) -> Env {
        Env { processes, ..self }
    }

    pub(crate) fn snapshots(&self) -> Option<Sender<SnapshotRequest>> {
        self.snapshots.lock().expect("no panic while it is held").clone()
    }
}

/// Streams that the operators of one worker give to the engine.
pub(crate) struct Wiring<'s> {
    pub(crate) plan: RefCell<Plan>,
    pub(crate) acks: RefCell<Vec<TimelyStream<'s, Epoch, Vec<Ack>>>>,
    pub(crate) pieces: RefCell<Vec<TimelyStream<'s, Epoch, Vec<Ack>>>>,
    pub(crate) control: RefCell<Option<TimelyStream<'s, Epoch, Vec<Control>>>>,
    pub(crate) bound: RefCell<Option<TimelyStream<'s, Epoch, Vec<Epoch>>>>,
    /// Sinks whose writers are built when all are known.
    pub(crate) sinks: RefCell<Vec<Encoded<'s>>>,
}

/// A pipeline being built on one worker.
#[derive(Clone)]
pub struct Flow<'s> {
    pub(crate) scope: Scope<'s, Epoch>,
    pub(crate) wiring: Rc<Wiring<'s>>,
    pub(crate) env: Arc<Env>,
}

impl<'s> Flow<'s> {
    pub(crate) fn new(scope: Scope<'s, Epoch>, env: Arc<Env>) -> Self {
        let wiring = Wiring {
            plan: RefCell::default(),
            acks: RefCell::default(),
            pieces: RefCell::default(),
            control: RefCell::default(),
            bound: RefCell::default(),
            sinks: RefCell::default(),
        };
        Flow { scope, wiring: Rc::new(wiring), env }
    }

    /// Reads `source`; `id` names its offsets. A pipeline has one source, of as many partitions as there are.
    #[track_caller]
    pub fn source<S: Source>(&self, id: &'static str, source: S) -> SourceStream<'s, S> {
        self.declare(id);
        SourceStream::new(self.clone(), id, source)
    }

    /// Notes that an id is given on the caller's line, for an operator that a later call records.
    #[track_caller]
    pub(crate) fn declare(&self, id: &'static str) {
        self.wiring.plan.borrow_mut().declare(id, Location::caller());
    }

    /// Notes that something outside the plan reads the operator at `node`.
    pub(crate) fn mark_used(&self, node: usize) {
        self.wiring.plan.borrow_mut().mark_used(node);
    }

    #[track_caller]
    pub(crate) fn record(
        &self,
        id: Option<&'static str>,
        kind: impl Into<String>,
        inputs: &[usize],
        state_version: Option<u32>,
    ) -> usize {
        let at = Some(Location::caller());
        let (kind, inputs) = (kind.into(), inputs.to_vec());
        let operator = Operator { id, kind, inputs, state_version, at, ..Operator::default() };
        self.wiring.plan.borrow_mut().push(operator)
    }

    /// A gauge for this worker's part in the operator at `node` of the plan.
    pub(crate) fn gauge(&self, node: usize, role: Role) -> Arc<Gauge> {
        self.env.shared.status.gauge(node, role, self.worker(), self.env.restored.epoch)
    }

    pub(crate) fn worker(&self) -> u32 {
        u32::try_from(self.scope.index()).expect("few workers")
    }

    pub(crate) fn workers(&self) -> u32 {
        u32::try_from(self.scope.peers()).expect("few workers")
    }

    /// The in-band watermarks of the pipeline's source.
    ///
    /// # Panics
    /// If there is no source yet: streams come from sources only.
    pub(crate) fn control(&self) -> TimelyStream<'s, Epoch, Vec<Control>> {
        self.wiring.control.borrow().clone().expect("a stream comes from a source")
    }

    pub(crate) fn bound(&self) -> TimelyStream<'s, Epoch, Vec<Epoch>> {
        self.wiring.bound.borrow().clone().expect("a stream comes from a source")
    }
}

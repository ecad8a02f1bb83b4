//! The sink's driver: encodes where the records are, gathers at the shard's owner, writes on a thread of its own when the
//! epoch is closed and bound, and acknowledges to the committer (INV-1, INV-3).
//!
//! An epoch is written when it is closed for the encoders of *all* sinks, and no record of it was found to panic. Until then
//! the next run may find one set aside ([`quarantine`](crate::quarantine)): what a name stands for must not differ then
//! (INV-3).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use arrow::array::RecordBatch;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream as TimelyStream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, Concatenate};
use timely::scheduling::SyncActivator;

use crate::control::Ack;
use crate::flow::{Env, Flow};
use crate::hash::hash64;
use crate::pending::PendingByTime;
use crate::quarantine::{Passing, Phase};
use crate::runtime::RunError;
use crate::sink::{Columns, Rows, SinkError, TableSink, TableWriter};
use crate::status::gauge::{Gauge, Role};
use crate::stream::Stream;
use crate::time::Epoch;
use tidemill_log::{DataFile, LogError};

/// Sinks write one shard, whatever the worker count is (INV-3).
const SHARD: u32 = 0;

struct Job {
    epoch: Epoch,
    rows: Vec<RecordBatch>,
}

/// What the writer's thread has to say.
enum Progress {
    /// The sink was opened: it fenced earlier runs and found everything as it should be.
    Opened,
    Written {
        epoch: Epoch,
        files: Vec<DataFile>,
    },
}

/// A sink whose rows are encoded, on their way to its writer.
pub(crate) struct Encoded<'s> {
    id: &'static str,
    node: usize,
    table: String,
    writer: Arc<dyn Fn() -> Box<dyn TableWriter> + Send + Sync>,
    owner: u32,
    rows: TimelyStream<'s, Epoch, Vec<Rows>>,
    /// Carries no records: its frontier says which epochs are encoded.
    done: TimelyStream<'s, Epoch, Vec<Epoch>>,
}

/// Encodes the records where they are. The writer follows when all sinks are known ([`build_writers`]).
pub(crate) fn build<D: Send + Sync + 'static>(
    stream: &Stream<'_, D>,
    (id, node): (&'static str, usize),
    table: TableSink<D>,
) {
    let flow = stream.flow.clone();
    let TableSink { table, encode, writer } = table;
    let owner = u32::try_from(hash64(id.as_bytes()) % u64::from(flow.workers())).expect("a worker index is small");
    let env = Arc::clone(&flow.env);
    let (name, encoding) = (table.clone(), flow.gauge(node, Role::Encode));
    let mut builder = OperatorBuilder::new(format!("{id}/encode"), flow.scope);
    let mut input = builder.new_input(stream.clone().applied().batches, Pipeline);
    let (rows_out, rows) = builder.new_output();
    let (done_out, done) = builder.new_output::<Vec<Epoch>>();
    let mut rows_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Rows>>>::from(rows_out);
    builder.build(move |initial| {
        drop(initial);
        let _keep = done_out; // The stream carries no records, only its frontier.
        move |_frontiers| {
            input.for_each(|capability, batch| {
                let Some(&epoch) = capability.least() else { return };
                let _at_work = encoding.working(epoch);
                let Some(encoded) = batch.pass((id, epoch), || encode(batch)) else { return };
                match encoded {
                    Ok(encoded) => {
                        encoding.took(encoded.num_rows());
                        let rows = Rows { dest: owner, order: batch.order, batch: Columns(encoded) };
                        rows_out.activate().session(&capability.delayed(&epoch, 0)).give(rows);
                    }
                    Err(error) => env.shared.fail(RunError::Sink { table: name.clone(), error }),
                }
            });
        }
    });
    flow.wiring.sinks.borrow_mut().push(Encoded { id, node, table, writer, owner, rows, done });
}

/// Builds the writers of all sinks.
pub(crate) fn build_writers(flow: &Flow<'_>) {
    let sinks = flow.wiring.sinks.take();
    let done = clear(flow, flow.scope.concatenate(sinks.iter().map(|sink| sink.done.clone())));
    for sink in sinks {
        build_writer(flow, sink, done.clone());
    }
}

/// Holds an epoch back, once its records have passed through all operators and encoders, if some of them were found to panic
/// and left out: then the run ends, and the next one sets them aside. Operators that count are waited for as well: there
/// may be no sink behind them.
fn clear<'s>(flow: &Flow<'s>, done: TimelyStream<'s, Epoch, Vec<Epoch>>) -> TimelyStream<'s, Epoch, Vec<Epoch>> {
    let mut builder = OperatorBuilder::new("clear".into(), flow.scope);
    let mut done = builder.new_input(done, Pipeline);
    let mut counted = builder.new_input(flow.scope.concatenate(flow.wiring.acks.borrow().clone()), Pipeline);
    let (cleared_out, cleared) = builder.new_output::<Vec<Epoch>>();
    let (acks_out, acks) = builder.new_output::<Vec<Ack>>();
    let env = Arc::clone(&flow.env);
    builder.build(move |mut held| {
        // These streams carry no records, only their frontiers.
        let _keep = (cleared_out, acks_out);
        move |frontiers| {
            done.for_each(|_, _| {});
            counted.for_each(|_, _| {});
            let is_open = |epoch: &Epoch| frontiers.iter().any(|frontier| frontier.less_equal(epoch));
            if held.first().is_none_or(|oldest| is_open(oldest.time())) {
                return;
            }
            let closed = frontiers.iter().filter_map(|frontier| frontier.frontier().first().copied()).min();
            // What was found is known by now: an operator notes it before it lets go of the epoch.
            if let Some(error) = env.witness.verdict(closed) {
                return env.shared.fail(error);
            }
            match closed {
                Some(epoch) => held.iter_mut().for_each(|capability| capability.downgrade(&epoch)),
                None => held.clear(),
            }
        }
    });
    // Where there are no sinks, a commit waits for it all the same.
    flow.wiring.acks.borrow_mut().push(acks);
    cleared
}

fn build_writer<'s>(flow: &Flow<'s>, sink: Encoded<'s>, done: TimelyStream<'s, Epoch, Vec<Epoch>>) {
    let Encoded { id, node, table, writer, owner, rows, .. } = sink;
    let mut builder = OperatorBuilder::new(id.into(), flow.scope);
    let mut input = builder.new_input(rows, Exchange::new(|rows: &Rows| u64::from(rows.dest)));
    // No record ever comes on these; their frontiers say which epochs are bound, and encoded by all sinks.
    let mut bound = builder.new_input(flow.bound(), Pipeline);
    let mut done = builder.new_input(done, Pipeline);
    let (acks_out, acks) = builder.new_output();
    let mut acks_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Ack>>>::from(acks_out);
    let address = builder.operator_info().address;
    let wake = flow.scope.worker().sync_activator_for(address.to_vec());
    let env = Arc::clone(&flow.env);
    let mine = flow.worker() == owner;
    let gauge = mine.then(|| flow.gauge(node, Role::Sink));
    let writes = mine.then(|| flow.gauge(node, Role::Write));

    builder.build(move |mut initial| {
        let jobs = writes.and_then(|gauge| start_writer(&env, (id, &table), writer(), (wake, gauge)));
        // No epoch is committed before every sink was opened, not even one that has no rows for it: what a sink finds when
        // it is opened is compared with what the log said when the run began.
        let mut unopened = initial.pop().filter(|_| jobs.is_some());
        let mut pending: PendingByTime<Capability<Epoch>, Vec<Rows>> = PendingByTime::new();
        let mut writing: BTreeMap<Epoch, Capability<Epoch>> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|capability, batch| {
                let Some(&epoch) = capability.least() else { return };
                pending.at(epoch, || capability.delayed(&epoch, 0)).append(batch);
            });
            bound.for_each(|_, _| {});
            done.for_each(|_, _| {});
            let Some((jobs, written)) = &jobs else { return };
            while let Ok(progress) = written.try_recv() {
                let Progress::Written { epoch, files } = progress else {
                    drop(unopened.take());
                    continue;
                };
                let capability = writing.remove(&epoch).expect("an epoch is written once");
                acks_out.activate().session(&capability).give(Ack::Files { table: table.clone(), files });
            }
            let all = [&frontiers[0], &frontiers[1], &frontiers[2]];
            while let Some((epoch, capability, mut rows)) = pending.take_closed(&all) {
                if epoch <= env.committed {
                    // An earlier run committed it: readers see it already.
                    continue;
                }
                rows.sort_by_key(|rows| rows.order);
                writing.insert(epoch, capability);
                let rows = rows.into_iter().map(|rows| rows.batch.0).collect();
                // The thread is gone only after it failed the run.
                let _ = jobs.send(Job { epoch, rows });
            }
            if let Some(gauge) = &gauge {
                gauge.closed(&all, writing.keys().next().copied());
            }
        }
    });
    flow.wiring.acks.borrow_mut().push(acks);
}

/// A writer that met a later run's traces was fenced, whatever it calls that.
fn failed(table: String, error: SinkError) -> RunError {
    match error.downcast::<LogError>() {
        Ok(log) => RunError::Log(*log),
        Err(error) => RunError::Sink { table, error },
    }
}

type Link = (Sender<Job>, Receiver<Progress>);

fn start_writer(
    env: &Arc<Env>,
    (id, table): (&'static str, &str),
    mut writer: Box<dyn TableWriter>,
    (wake, gauge): (SyncActivator, Arc<Gauge>),
) -> Option<Link> {
    // A dry build has no run to write for.
    let start = env.sink_start.clone()?;
    let (jobs, todo) = channel::<Job>();
    let (done, written) = channel();
    let (env, name) = (Arc::clone(env), table.to_owned());
    let (failing, containing) = (Arc::clone(&env.shared), Arc::clone(&env));
    let work = move || {
        if let Err(error) = writer.open(&start) {
            return env.shared.fail(failed(name, error));
        }
        gauge.opened();
        // It fails only when the worker is gone, and then the run is over anyway.
        let _ = done.send(Progress::Opened);
        let _ = wake.activate();
        let mut hang = env.faults.hang_sink.clone().filter(|hang| hang.table == name);
        for Job { epoch, rows } in todo {
            let _at_work = gauge.working(epoch);
            let given = rows.iter().map(RecordBatch::num_rows).sum();
            if let Some(hang) = hang.take_if(|hang| epoch >= hang.epoch) {
                thread::park_timeout(hang.span);
            }
            let passing = Passing::new(None, Phase::Operate, (id, Some(epoch)));
            let files = writer.write_epoch(epoch, SHARD, rows);
            drop(passing);
            match files {
                Ok(files) => {
                    gauge.gave(given);
                    // Both fail only when the worker is gone, and then the run is over anyway.
                    let _ = done.send(Progress::Written { epoch, files });
                    let _ = wake.activate();
                }
                Err(error) => return env.shared.fail(failed(name, error)),
            }
        }
    };
    let contained = move || {
        if let Err(panicked) = containing.witness.contain(work) {
            containing.shared.fail(panicked);
        }
    };
    match thread::Builder::new().name(format!("sink {table}")).spawn(contained) {
        Ok(_detached) => Some((jobs, written)),
        Err(error) => {
            failing.fail(RunError::Io("cannot start a sink's thread".into(), error));
            None
        }
    }
}

//! The workers of a process: timely's threads, alone or connected with those of other processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use timely::communication::Hooks;
use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::generic::AllocatorBuilder;
use timely::communication::allocator::zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets};
use timely::worker::Worker;
use timely::{Config, WorkerConfig};

use super::threads::spawn;
use super::{Build, RunError};
use crate::cluster::Links;
use crate::driver::committer;
use crate::flow::{Env, Flow};
use crate::shared::Shared;
use crate::time::Epoch;

/// Builds the pipeline on `threads` workers and runs it to its end, or until the run fails.
pub(super) fn run_workers(
    build: impl Build,
    threads: u32,
    env: &Arc<Env>,
    links: Option<Links>,
) -> Result<(), RunError> {
    let building = AtomicU32::new(threads);
    let running = AtomicU32::new(threads);
    let completion = links.as_ref().map(Links::completion);
    let env = Arc::clone(env);
    let shared = Arc::clone(&env.shared);
    let work = move |worker: &mut Worker| {
        env.shared.register_worker(thread::current());
        worker.dataflow::<Epoch, _, _>(|scope| {
            let flow = Flow::new(scope, Arc::clone(&env));
            build(&flow);
            committer::build(&flow);
        });
        if building.fetch_sub(1, Ordering::AcqRel) == 1 {
            env.restored.release();
        }
        let stepped = env.witness.contain(|| {
            while worker.has_dataflows() && !env.shared.failed() {
                worker.step_or_park(Some(Duration::from_millis(100)));
            }
        });
        if let Err(panicked) = stepped {
            // It says nothing more to the others: what its operators held back stays open, and is committed by nobody.
            env.shared.fail(panicked);
        }
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
        // The other processes may take our leaving for the end of our data only if it is.
        let last = running.fetch_sub(1, Ordering::AcqRel) == 1;
        if let Some(completion) = completion.as_ref().filter(|_| last && !env.shared.failed()) {
            completion.store(true, Ordering::Release);
        }
    };
    let Some(mut links) = links else {
        let guards = timely::execute(Config::process(threads as usize), work).map_err(RunError::State)?;
        return joined(guards.join());
    };
    links.show_on(&shared.status);
    let sockets = links.take();
    let process = sockets.iter().position(Option::is_none).expect("a process has no link to itself");
    let hooks = Hooks::default();
    let local = ProcessBuilder::new_typed_vector(threads as usize, hooks.refill.clone(), hooks.spill.clone());
    let (builders, guard) = initialize_networking_from_sockets(local, sockets, process, threads as usize, hooks)
        .map_err(|error| RunError::Io("cannot start the threads of the network".into(), error))?;
    let builders: Vec<_> = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    let guards = timely::execute::execute_from(builders, Box::new(()), WorkerConfig::default(), work);
    if let Err(error) = guards.map_err(RunError::State).and_then(|guards| joined(guards.join())) {
        // Dropping the guard here would wait for threads that wait for peers.
        shared.fail(error);
    }
    part(guard, &shared)
}

/// Waits until everything is sent and every peer has said goodbye, or the run fails: then the network's threads wait for
/// messages that will not come, and go with the process.
fn part(guard: CommsGuard, shared: &Shared) -> Result<(), RunError> {
    let (parted, told) = channel();
    let wait = move || {
        drop(guard);
        // Nobody waits any more after a failure.
        let _ = parted.send(());
    };
    drop(spawn("goodbye", wait)?);
    while !shared.failed() {
        match told.recv_timeout(Duration::from_millis(20)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(())
}

fn joined(workers: impl IntoIterator<Item = Result<(), String>>) -> Result<(), RunError> {
    for worker in workers {
        worker.map_err(|_| RunError::Panicked("a worker".into()))?;
    }
    Ok(())
}

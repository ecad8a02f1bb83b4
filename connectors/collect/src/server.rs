//! A running collector: started, asked to stop, waited for.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use axum::http::HeaderValue;
use thiserror::Error;
use tidemill_http::Tls;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use crate::batch;
use crate::budget::MemoryBudget;
use crate::committer::{Committer, CommitterParts};
use crate::config::CollectConfig;
use crate::environment::Environment;
use crate::geo::GeoDatabase;
use crate::ingest::Intake;
use crate::log::{LogFailure, OpenLog};
use crate::metrics::{Books, Metrics};
use crate::rate::RateLimits;
use crate::routes::routes;
use crate::salts::Salts;

/// The smallest head that hyper can be held to.
const LEAST_HEADER_BYTES: usize = 8 << 10;

/// Why a collector did not start.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The settings are wrong.
    #[error("{0}")]
    Usage(String),
    /// The log refuses to be opened.
    #[error("cannot open the log")]
    Log(#[source] LogFailure),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; stop whoever does, or choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The folder of salts cannot be used.
    #[error("cannot keep salts in {folder}: {source}")]
    Salts {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Threads(io::Error),
}

/// A collector that runs until it is stopped.
pub struct Collector {
    address: SocketAddr,
    stop: StopHandle,
    serving: JoinHandle<()>,
    committing: JoinHandle<()>,
    metrics: Arc<Metrics>,
    budget: Arc<MemoryBudget>,
    /// Not held: the end of the collector is that nobody holds it any more.
    intake: Weak<Intake>,
}

/// Asks a collector to stop; any thread may hold one.
#[derive(Clone, Debug)]
pub struct StopHandle(watch::Sender<bool>);

impl StopHandle {
    /// Stops accepting; what is under way is finished. Asking twice changes nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Collector {
    /// Opens the log, listens, and serves on threads of its own.
    ///
    /// # Errors
    /// [`CollectError`] says what to change.
    pub fn start(
        config: &CollectConfig,
        opener: Box<dyn OpenLog>,
        environment: Arc<dyn Environment>,
    ) -> Result<Collector, CollectError> {
        let allow_origin = checked(config)?;
        let geo = config.geo.as_ref().map(|path| {
            let unusable = |error| CollectError::Usage(format!("cannot use {} for places: {error}", path.display()));
            GeoDatabase::open(path).map_err(unusable)
        });
        let geo = geo.transpose()?;
        let limits = config.limits;
        let metrics = Arc::new(Metrics::new());
        let salts = Salts::open(config.salts.clone(), Arc::clone(&environment))
            .map_err(|source| CollectError::Salts { folder: config.salts.clone(), source })?;
        let salts = Arc::new(salts);
        let parts = CommitterParts {
            opener,
            partitions: config.partitions,
            queue: limits.queue,
            environment: Arc::clone(&environment),
            metrics: Arc::clone(&metrics),
            salts: Arc::clone(&salts),
        };
        let (queue, committer) = Committer::open(parts).map_err(CollectError::Log)?;
        let cannot_listen = |source| CollectError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).map_err(cannot_listen)?;
        listener.set_nonblocking(true).map_err(cannot_listen)?;
        let address = listener.local_addr().map_err(cannot_listen)?;
        let budget = MemoryBudget::new(limits.memory);
        let intake = Arc::new(Intake {
            keys: config.keys.clone(),
            rates: config.rate_limit.map(RateLimits::new),
            bounds: config.bounds,
            limits,
            budget: Arc::clone(&budget),
            queue,
            salts,
            geo,
            trusted_proxies: config.trusted_proxies.clone(),
            environment,
            metrics: Arc::clone(&metrics),
            draining: AtomicBool::new(false),
            large: Arc::new(Semaphore::new(limits.threads)),
        });
        if config.keys.is_open() {
            warn!("everybody may send, as tenant `default`: no API key is asked for");
        }

        let weak = Arc::downgrade(&intake);
        let runtime = runtime(limits.threads).map_err(CollectError::Threads)?;
        let (stop, stopped) = watch::channel(false);
        let serving = {
            let metrics = Arc::clone(&metrics);
            let tls = config.tls.clone();
            move || serve(&runtime, listener, intake, &allow_origin, tls, metrics, stopped)
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let committing = thread("committer").spawn(move || committer.run()).map_err(CollectError::Threads)?;
        let serving = thread("collector").spawn(serving).map_err(CollectError::Threads)?;
        Ok(Collector { address, stop: StopHandle(stop), serving, committing, metrics, budget, intake: weak })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Something to stop it with.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// The most memory that requests ever held together, in bytes.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.budget.peak()
    }

    /// Says what `/metrics` says, whenever it is called, and after the end what was counted.
    pub fn openmetrics(&self) -> impl Fn() -> String + Send + Sync + use<> {
        let (metrics, intake) = (Arc::clone(&self.metrics), Weak::clone(&self.intake));
        move || intake.upgrade().map_or_else(|| metrics.text(), |intake| intake.openmetrics())
    }

    /// Waits until it was stopped, and everything that was under way is on disk and answered.
    ///
    /// # Panics
    /// When one of its threads did, which is a bug.
    #[must_use]
    pub fn wait(self) -> Books {
        self.serving.join().expect("the serving thread does not panic");
        self.committing.join().expect("the committing thread does not panic");
        self.metrics.books()
    }
}

fn checked(config: &CollectConfig) -> Result<HeaderValue, CollectError> {
    let usage = |problem: String| Err(CollectError::Usage(problem));
    let limits = config.limits;
    if config.partitions == 0 {
        return usage("a topic needs a partition at least".into());
    }
    if limits.events == 0 || limits.events > batch::LOOKED_AT {
        return usage(format!("a batch may have 1 to {} events", batch::LOOKED_AT));
    }
    if limits.front.header_bytes < LEAST_HEADER_BYTES {
        return usage(format!("a request's head needs {LEAST_HEADER_BYTES} bytes at least"));
    }
    if config.keys.any_for_all() && !config.keys.is_open() {
        return usage("a key for all tenants (`*`) is for readers; who sends has one tenant: name it there".into());
    }
    if limits.threads == 0 || limits.front.connections == 0 || limits.queue == 0 {
        return usage("threads, connections and the queue need to be 1 at least".into());
    }
    HeaderValue::from_str(&config.allow_origin).or_else(|_| {
        usage(format!("`{}` is no origin; write * or for example https://example.org", config.allow_origin))
    })
}

fn runtime(threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(threads)
        .thread_name("collector")
        .enable_io()
        .enable_time()
        .build()
}

fn serve(
    runtime: &Runtime,
    listener: TcpListener,
    intake: Arc<Intake>,
    allow_origin: &HeaderValue,
    tls: Option<Tls>,
    metrics: Arc<Metrics>,
    mut stopped: watch::Receiver<bool>,
) {
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener that does not block");
        let router = routes(Arc::clone(&intake), allow_origin.clone());
        let limits = intake.limits;
        let stop = stopped.clone();
        tokio::spawn(intake.keys.clone().keep_fresh());
        tokio::spawn(async move {
            // Readiness goes first, so that whoever asks is sent elsewhere while the rest is finished.
            if stopped.wait_for(|now| *now).await.is_ok() {
                intake.draining.store(true, Ordering::Release);
            }
        });
        tidemill_http::serve(listener, router, limits.front, tls, metrics, stop).await;
    });
    // With the runtime and its tasks the last senders of the committer's queue go, which ends it.
}

#[cfg(test)]
mod tests;

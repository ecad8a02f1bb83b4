//! The query API: typed metrics, rankings, sessions and SQL over HTTP, at the newest commit, while it moves.
//!
//! Promises:
//!
//! * All of an answer is of one commit, which it names (`epoch`), with the watermark of that commit, or now if that is
//!   earlier (`complete_through`), and the time at which it became visible (`updated_at`). Rolling files never shows (INV-1).
//!   Once the end of time was declared (`closed`), `complete_through` is the end of the data.
//! * `exact` means: the range asked for ends by `complete_through`, or by now once nothing follows (`closed`), and no event in
//!   it is pending, so only late events can still change the numbers. What has not happened yet is never exact. Otherwise the range is still filling, or `pending` says how many events in it are not
//!   known to be new. A session counts where it began; while it lasts, its length and its events still grow.
//! * `/changes` says of each commit how far it was complete when the server came to show it, once: `complete_through` is of that
//!   moment. A commit that was bounded by the clock then is complete further later, which the next answer says.
//! * From one commit to the next, views, orders, errors and events in sessions never shrink, but by a correction that
//!   the pipeline makes. A server that follows never goes back to an older commit by itself.
//! * Unique users of any range are the union of the hash lists of its minutes, never a sum. Money is whole cents in 64
//!   bits; a sum that does not fit is refused.
//! * A server on a loopback address answers to no name that it was not told of ([`HostGuard`]).
//! * Nothing that a request carries becomes part of a statement, but for `/sql`, which only reads, and whose end is nobody
//!   else's ([`crate::sql`]).
//! * Requests in flight, their time, their memory, the rows of an answer, the answers that wait to be read and the readers of
//!   `/changes` are bounded, and no client (an IPv4 address, an IPv6 /64) has more of them than it leaves for others.
//!
//! Ranges are widened to whole buckets (a minute where there are none) and said in the answer as `from` and `to`. An end
//! that is left out is where the data ends that has happened by now (one event of a year to come stretches no range); where
//! that is further than an answer has buckets, it is not looked for before 2000, so that one stray clock does not take the
//! rest away.
//!
//! | module | what |
//! |---|---|
//! | `parameters` | requests as typed questions |
//! | `plans`, `questions` | questions as plans, answered on one snapshot |
//! | `snapshot`, `follow` | one commit ready to be asked, and how the newest comes to be it |
//! | `changes` | who is told of new commits |
//! | `unread` | the memory that answers take until they are read |
//! | `answer`, `refusal` | what is said beside the data, or instead of it |
//! | `routes`, `health`, `telemetry` | HTTP, the pipeline's status passed on, the server's numbers |

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tidemill_http::{ApiKeys, ConnectionLimits, HostGuard, Shares, Tls, Unobserved};
use tidemill_log::Location;
use tidemill_tables::{TableSpec, web_analytics};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::error::QueryError;
use crate::sql::SqlOptions;
use changes::Changes;
use follow::{Followed, Follower};
use health::PipelineHealth;
use routes::{Shared, Sql};
use telemetry::Telemetry;

pub use health::StatusKey;
pub(crate) use questions::answer_statement;
pub(crate) use refusal::Refusal;
pub(crate) use snapshot::Snapshot;
pub(crate) use unread::Unread;

mod answer;
mod changes;
mod follow;
mod health;
mod parameters;
mod plans;
mod questions;
mod refusal;
mod routes;
mod snapshot;
mod telemetry;
#[cfg(test)]
mod tests;
mod time_range;
mod unread;

/// What a server is given.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where the tables are. A folder may not exist yet: it is waited for, and answers are empty until then.
    pub place: Location,
    /// The tables that SQL may ask, as far as the pipeline that wrote the place has them; those of `web_analytics` unless said.
    pub tables: Vec<TableSpec>,
    /// The operations address of the running pipeline, `http://HOST:PORT` or https, whose status is passed on.
    pub status: Option<String>,
    /// The key that it asks for, if it does.
    pub status_key: Option<StatusKey>,
    /// Bytes of memory for queries: half for rows that are kept between them, half for running them.
    pub memory: usize,
    /// Requests that are answered at once, of one client half of them; further ones are refused with 503.
    pub most_in_flight: usize,
    /// How long a query may take.
    pub timeout: Duration,
    /// How SQL is answered.
    pub sql: SqlOptions,
    /// Rows of an answer to SQL.
    pub most_rows: usize,
    /// Readers that may follow the changes, of one client half of them.
    pub most_readers: usize,
    /// Who may ask, and for which tenant. Pages are shown to everybody: what they show is asked for.
    pub keys: ApiKeys,
    /// What a connection can cost.
    pub front: ConnectionLimits,
    /// The certificate; plain HTTP without.
    pub tls: Option<Tls>,
    /// Names that it answers to beside IP addresses and `localhost`; see [`HostGuard`].
    pub hosts: Vec<String>,
    /// What no answer is complete beyond.
    pub clock: Clock,
}

impl ServerOptions {
    /// The tables at `place` with 512 MiB, 64 requests at once, 30 s, 10,000 rows and 256 readers.
    #[must_use]
    pub fn new(place: Location) -> Self {
        Self {
            place,
            tables: web_analytics::all(),
            status: None,
            status_key: None,
            memory: 512 << 20,
            most_in_flight: 64,
            timeout: Duration::from_secs(30),
            sql: SqlOptions::InProcess,
            most_rows: 10_000,
            most_readers: 256,
            keys: ApiKeys::open_to_all(),
            front: ConnectionLimits::default(),
            tls: None,
            hosts: Vec::new(),
            clock: Clock::of_the_machine(),
        }
    }
}

/// A server that answers. Dropping it stops it at once; [`Server::stop`] lets requests finish.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    followed: FollowedHandle,
    /// Dropped to ask both threads to end.
    stop_follower: Option<mpsc::Sender<()>>,
    stop_http: Option<watch::Sender<bool>>,
    follower: Option<JoinHandle<()>>,
    http: Option<JoinHandle<()>>,
    queries: Option<Runtime>,
    shared: Weak<Shared>,
}

/// Keeps what is shared out of the debug form of [`Server`].
struct FollowedHandle(Arc<Followed>);

impl std::fmt::Debug for FollowedHandle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Followed")
    }
}

impl Server {
    /// Serves on `listener`, on threads of its own. When this returns, the log was looked at once: the server is ready,
    /// unless the log is damaged or does not answer, which `/readyz` tells.
    ///
    /// # Errors
    /// When the place cannot be opened, or threads cannot be started.
    pub fn start(options: &ServerOptions, listener: TcpListener) -> Result<Self, QueryError> {
        let address = listener.local_addr().map_err(QueryError::Runtime)?;
        listener.set_nonblocking(true).map_err(QueryError::Runtime)?;
        let queries = Builder::new_multi_thread().thread_name("query").enable_all().build();
        let queries = queries.map_err(QueryError::Runtime)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(QueryError::Runtime)?;
        let followed = Arc::new(Followed {
            newest: watch::Sender::new(None),
            trouble: std::sync::Mutex::default(),
            changes: Changes::new(options.most_readers),
            telemetry: Telemetry::new(),
        });
        let place = options.place.clone();
        let follower = Follower::new(
            place,
            options.tables.clone(),
            (options.memory, options.clock.clone()),
            queries.handle().clone(),
            Arc::clone(&followed),
        )
        .map_err(|reason| QueryError::Open { place: options.place.to_string(), reason })?;
        let (stop_follower, stopped) = mpsc::channel();
        let (ready, looked) = mpsc::sync_channel(1);
        let follower = thread("log-follower", move || follower.run(&stopped, &ready))?;
        // The thread looks once and says so; it cannot end before, but by a panic, which is told below.
        let seen = looked.recv();
        let shared = Arc::new(Shared {
            followed: Arc::clone(&followed),
            health: PipelineHealth::new(options.status.as_deref(), options.status_key.as_ref()),
            queries: queries.handle().clone(),
            room: Shares::new(options.most_in_flight),
            unread: Unread::new(),
            timeout: options.timeout,
            keys: options.keys.clone(),
            sql: Sql::of(&options.sql),
            most_rows: options.most_rows,
        });
        let weak = Arc::downgrade(&shared);
        let (stop_http, stop) = watch::channel(false);
        let guarded = HostGuard::new(address.ip(), &options.hosts).before(routes::routes(shared));
        let (front, tls, keys) = (options.front, options.tls.clone(), options.keys.clone());
        let serve = move || {
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener that does not block");
                tokio::spawn(keys.keep_fresh());
                tidemill_http::serve(listener, guarded, front, tls, Arc::new(Unobserved), stop).await;
            });
        };
        let http = thread("http", serve)?;
        let server = Self {
            address,
            followed: FollowedHandle(followed),
            stop_follower: Some(stop_follower),
            stop_http: Some(stop_http),
            follower: Some(follower),
            http: Some(http),
            queries: Some(queries),
            shared: weak,
        };
        seen.map_err(|_| QueryError::Open {
            place: options.place.to_string(),
            reason: "the thread that follows the log ended".to_owned(),
        })?;
        Ok(server)
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says what `/metrics` says, whenever it is called; nothing once the server has ended.
    pub fn openmetrics(&self) -> impl Fn() -> String + Send + Sync + use<> {
        let shared = Weak::clone(&self.shared);
        move || shared.upgrade().and_then(|shared| shared.openmetrics().ok()).unwrap_or_default()
    }

    /// Takes no more requests, lets those in flight finish for a few seconds, and ends.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.followed.0.changes.close();
        drop(self.stop_http.take());
        if let Some(http) = self.http.take() {
            // A panic was reported when it happened.
            let _ = http.join();
        }
        drop(self.stop_follower.take());
        if let Some(follower) = self.follower.take() {
            // A panic of that thread was reported when it happened, and nothing is lost by it.
            let _ = follower.join();
        }
        if let Some(queries) = self.queries.take() {
            queries.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, QueryError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(QueryError::Runtime)
}

//! How a collector is set up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tidemill_connectors::events::Bounds;
use tidemill_http::{ApiKeys, ConnectionLimits, Tls};

use crate::address::TrustedProxies;

/// Everything that a collector is told, but for where it stores events (that is an [`OpenLog`](crate::OpenLog)).
#[derive(Clone, Debug)]
pub struct CollectConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Folder of the salts by which addresses are hashed.
    pub salts: PathBuf,
    /// Partitions of each topic.
    pub partitions: u32,
    /// Who may send.
    pub keys: ApiKeys,
    /// Events a second that each key may send; no limit without.
    pub rate_limit: Option<u32>,
    /// A MaxMind DB file with countries and cities; without it events get no `geo`.
    pub geo: Option<PathBuf>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// What browsers are told in `Access-Control-Allow-Origin`.
    pub allow_origin: String,
    /// What an event may say and be taken; who reads the log is told the same.
    pub bounds: Bounds,
    /// The certificate; plain HTTP without.
    pub tls: Option<Tls>,
    /// What a client can cost.
    pub limits: Limits,
}

impl CollectConfig {
    /// A collector on `listen` that takes events from everybody.
    #[must_use]
    pub fn new(listen: SocketAddr, salts: PathBuf, partitions: u32) -> CollectConfig {
        CollectConfig {
            listen,
            salts,
            partitions,
            keys: ApiKeys::open_to_all(),
            rate_limit: None,
            geo: None,
            trusted_proxies: TrustedProxies::default(),
            allow_origin: "*".to_owned(),
            bounds: Bounds::default(),
            tls: None,
            limits: Limits::default(),
        }
    }
}

/// What a client can cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body, packed and unpacked (10 MiB).
    pub body_bytes: usize,
    /// Events of a batch (2,500; at most 10,000).
    pub events: usize,
    /// Of its connections.
    pub front: ConnectionLimits,
    /// The longest pause inside a body (10 s).
    pub body_pause: Duration,
    /// How long a body may take in all (60 s).
    pub body_timeout: Duration,
    /// Bytes that all requests may hold together (256 MiB); of one address half at most, of one key four fifths. Beside
    /// them there are up to `header_bytes` a connection, and what unpacking and judging a batch needs for a moment on each
    /// thread: the window of zstd, 8 MiB, and tables of a batch's events.
    pub memory: u64,
    /// Batches that wait for the log (4,096); further ones are answered with 503.
    pub queue: usize,
    /// Threads that serve connections (2), and as many for large batches.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 10 << 20,
            events: 2_500,
            front: ConnectionLimits::default(),
            body_pause: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            memory: 256 << 20,
            queue: 4_096,
            threads: 2,
        }
    }
}

//! The HTTP front of every server of ours: within which bounds strangers are listened to, before anything of a request is
//! understood.
//!
//! | module | what |
//! |---|---|
//! | [`serve`] | connections: how many, how slow, and how they end |
//! | [`Descriptors`] | file descriptors: the most there may be, and those that connections never get |
//! | [`HostGuard`] | which names and which pages of other sites are answered |
//! | [`Shares`] | how much of what all have together one client may hold |
//! | [`ApiKeys`] | who asks, and for which tenant |
//! | [`Tls`] | certificates |
//!
//! Promises: connections that do nothing stop nobody, since an idle one makes room for the next; they never take the
//! descriptors that files need; a client that is too slow, in its head or in reading an answer, is let go of; and no client
//! is busy on more connections than it leaves free for others.

mod connections;
mod descriptors;
mod front;
mod guard;
mod impatient;
mod keys;
mod shares;
mod tls;

pub use descriptors::Descriptors;
pub use front::{ConnectionLimits, Observer, Peer, Unobserved, serve};
pub use guard::HostGuard;
pub use keys::{ApiKeys, KeysError, Sender, Tenants, key_of, key_or_password_of};
pub use shares::{Share, Shares, sharer};
pub use tls::{Tls, TlsError};

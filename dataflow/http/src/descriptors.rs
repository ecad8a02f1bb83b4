//! File descriptors: raised to the most that this process may have, and shared out so that files always get theirs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that connections never get: a log's segments, tables, sockets to other servers.
const RESERVE: u64 = 256;
/// With fewer than this, connections get half.
const SCARCE: u64 = 2 * RESERVE;

/// How many descriptors this process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors(u64);

impl Descriptors {
    /// Raises the soft limit to the hard one, which every process may do for itself.
    #[must_use]
    pub fn raised() -> Descriptors {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Whoever may not raise it works with what there is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        Descriptors(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    /// At most `wanted` connections, and never those that files need.
    #[must_use]
    pub fn connections(self, wanted: usize) -> usize {
        let room = if self.0 < SCARCE { self.0 / 2 } else { self.0 - RESERVE };
        wanted.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_descriptors_whatever_connections_want() {
        for (limit, wanted, expected) in [
            (1_024, 1_024, 768),
            (1_024, 64, 64),
            (65_536, 1_024, 1_024),
            (256, 1_024, 128),
            (1, 5, 1),
            (u64::MAX, 7, 7),
        ] {
            assert_eq!(Descriptors(limit).connections(wanted), expected, "{limit} {wanted}");
        }
    }
}

//! What a supervisor does about a connector's failure: start again, or leave it to the operator.

use std::error::Error;
use std::fmt;

use crate::sink::SinkError;

/// What a supervisor does about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass while nobody touches anything: start again, with pauses. What an error is that says nothing else. Exit
    /// code 1.
    MayHeal,
    /// What is stored is not what was written or read, or cannot be used as it is; somebody must see to it. Exit code 3.
    Refused,
    /// A server or a file system refuses who we are, or what we may do; somebody must see to it. Exit code 5.
    Denied,
}

/// A sink's failure with its verdict; it reads like the failure alone.
#[derive(Debug)]
pub struct Judged {
    verdict: Verdict,
    error: SinkError,
}

impl Judged {
    /// What is stored is not what was written, or cannot be used as it is.
    #[must_use]
    pub fn refused(error: impl Into<SinkError>) -> SinkError {
        Box::new(Judged { verdict: Verdict::Refused, error: error.into() })
    }

    /// The server refuses who we are, or what we may do.
    #[must_use]
    pub fn denied(error: impl Into<SinkError>) -> SinkError {
        Box::new(Judged { verdict: Verdict::Denied, error: error.into() })
    }

    /// The verdict of a failure: its own, or that of what caused it.
    #[must_use]
    pub fn of(error: &SinkError) -> Verdict {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&**error);
        while let Some(found) = cause {
            if let Some(judged) = found.downcast_ref::<Judged>() {
                return judged.verdict;
            }
            cause = found.source();
        }
        Verdict::MayHeal
    }

    /// The failure itself.
    #[must_use]
    pub fn error(&self) -> &SinkError {
        &self.error
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Judged {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_failure_without_a_verdict_may_heal_and_one_with_it_reads_the_same() {
        let plain: SinkError = "no answer".into();
        assert_eq!(Judged::of(&plain), Verdict::MayHeal);
        let denied = Judged::denied(io::Error::other("Access denied (516)"));
        assert_eq!((Judged::of(&denied), denied.to_string().as_str()), (Verdict::Denied, "Access denied (516)"));
        assert_eq!(Judged::of(&Judged::refused("made anew")), Verdict::Refused);
    }
}

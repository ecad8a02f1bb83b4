//! What follows a step that failed: pure, so that every case can be looked at.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What an error of the transactional producer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same request again.
    Again,
    /// This transaction cannot be committed any more.
    Abort,
    /// This producer is of no use any more, or what became of its transaction is unknown.
    Connect,
}

/// What an error says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    fatal: bool,
    abortable: bool,
    retriable: bool,
}

impl Signs {
    pub(super) fn of(error: &KafkaError) -> Signs {
        match error {
            KafkaError::Transaction(error) => Signs {
                fatal: error.is_fatal(),
                abortable: error.txn_requires_abort(),
                retriable: error.is_retriable(),
            },
            // The queue that is flushed before a commit takes its time.
            KafkaError::Flush(_) => Signs { fatal: false, abortable: false, retriable: true },
            KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => {
                Signs { fatal: false, abortable: false, retriable: true }
            }
            // A message that the client does not take: the transaction lacks it.
            KafkaError::MessageProduction(_) => Signs { fatal: false, abortable: true, retriable: false },
            _ => Signs { fatal: true, abortable: false, retriable: false },
        }
    }

    pub(super) fn verdict(self) -> Verdict {
        if self.fatal {
            Verdict::Connect
        } else if self.abortable {
            Verdict::Abort
        } else if self.retriable {
            Verdict::Again
        } else {
            Verdict::Connect
        }
    }
}

/// The steps of writing an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Connect,
    Begin,
    /// From this message on.
    Send(usize),
    Mark,
    Commit,
    Abort,
}

impl Step {
    /// The step after one that failed.
    pub(super) fn after(self, verdict: Verdict) -> Step {
        match (verdict, self) {
            (Verdict::Connect, _) | (Verdict::Abort, Step::Abort | Step::Connect) => Step::Connect,
            (Verdict::Abort, _) => Step::Abort,
            (Verdict::Again, step) => step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Signs = Signs { fatal: false, abortable: false, retriable: false };

    #[test]
    fn what_an_error_asks_for() {
        assert_eq!(Signs { fatal: true, ..QUIET }.verdict(), Verdict::Connect);
        assert_eq!(Signs { retriable: true, ..QUIET }.verdict(), Verdict::Again);
        assert_eq!(Signs { abortable: true, ..QUIET }.verdict(), Verdict::Abort);
        assert_eq!(QUIET.verdict(), Verdict::Connect, "an outcome that nothing is known of is looked up");
        let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        assert_eq!(Signs::of(&full).verdict(), Verdict::Again);
        assert_eq!(Signs::of(&KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)).verdict(), Verdict::Again);
    }

    #[test]
    fn every_failed_step_leads_to_a_transaction_that_is_whole_or_to_none() {
        for step in [Step::Begin, Step::Send(3), Step::Mark, Step::Commit, Step::Abort] {
            assert_eq!(step.after(Verdict::Again), step);
            assert_eq!(step.after(Verdict::Connect), Step::Connect);
        }
        for step in [Step::Begin, Step::Send(3), Step::Mark, Step::Commit] {
            assert_eq!(step.after(Verdict::Abort), Step::Abort, "{step:?}");
        }
        assert_eq!(Step::Abort.after(Verdict::Abort), Step::Connect);
    }
}

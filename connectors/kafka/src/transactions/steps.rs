//! What follows a step that failed: pure, so that every case can be looked at.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::trouble::{Trouble, judge};

/// What an error of the transactional producer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same request again.
    Again,
    /// This transaction cannot be committed any more.
    Abort,
    /// This producer is of no use any more, or what became of its transaction is unknown.
    Connect,
    /// The broker refuses us, and will go on doing so.
    Refused,
}

/// What an error says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    code: RDKafkaErrorCode,
    fatal: bool,
    abortable: bool,
    retriable: bool,
}

impl Signs {
    pub(super) fn of(error: &KafkaError) -> Signs {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        match error {
            KafkaError::Transaction(error) => Signs {
                code,
                fatal: error.is_fatal(),
                abortable: error.txn_requires_abort(),
                retriable: error.is_retriable(),
            },
            // The queue that is flushed before a commit takes its time.
            KafkaError::Flush(_) => Signs { code, fatal: false, abortable: false, retriable: true },
            KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => {
                Signs { code, fatal: false, abortable: false, retriable: true }
            }
            // A message that the client does not take: the transaction lacks it.
            KafkaError::MessageProduction(_) => Signs { code, fatal: false, abortable: true, retriable: false },
            _ => Signs { code, fatal: true, abortable: false, retriable: false },
        }
    }

    pub(super) fn verdict(self) -> Verdict {
        if judge(self.code) == Trouble::Refused {
            Verdict::Refused
        } else if self.fatal {
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
    /// The step after one that failed; none if the failure is for good.
    pub(super) fn after(self, verdict: Verdict) -> Option<Step> {
        match (verdict, self) {
            (Verdict::Refused, _) => None,
            (Verdict::Connect, _) | (Verdict::Abort, Step::Abort | Step::Connect) => Some(Step::Connect),
            (Verdict::Abort, _) => Some(Step::Abort),
            (Verdict::Again, step) => Some(step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Signs = Signs { code: RDKafkaErrorCode::Unknown, fatal: false, abortable: false, retriable: false };

    #[test]
    fn what_an_error_asks_for() {
        let fenced = Signs { code: RDKafkaErrorCode::ProducerFenced, fatal: true, ..QUIET };
        assert_eq!(fenced.verdict(), Verdict::Connect);
        let timed_out = Signs { code: RDKafkaErrorCode::OperationTimedOut, retriable: true, ..QUIET };
        assert_eq!(timed_out.verdict(), Verdict::Again);
        let lost = Signs { code: RDKafkaErrorCode::MessageTimedOut, abortable: true, ..QUIET };
        assert_eq!(lost.verdict(), Verdict::Abort);
        assert_eq!(QUIET.verdict(), Verdict::Connect, "an outcome that nothing is known of is looked up");
        let code = RDKafkaErrorCode::TransactionalIdAuthorizationFailed;
        assert_eq!(Signs { code, fatal: true, ..QUIET }.verdict(), Verdict::Refused);
        let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        assert_eq!(Signs::of(&full).verdict(), Verdict::Again);
        assert_eq!(Signs::of(&KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)).verdict(), Verdict::Again);
    }

    #[test]
    fn every_failed_step_leads_to_a_transaction_that_is_whole_or_to_none() {
        for step in [Step::Begin, Step::Send(3), Step::Mark, Step::Commit, Step::Abort] {
            assert_eq!(step.after(Verdict::Again), Some(step));
            assert_eq!(step.after(Verdict::Connect), Some(Step::Connect));
            assert_eq!(step.after(Verdict::Refused), None);
        }
        for step in [Step::Begin, Step::Send(3), Step::Mark, Step::Commit] {
            assert_eq!(step.after(Verdict::Abort), Some(Step::Abort), "{step:?}");
        }
        assert_eq!(Step::Abort.after(Verdict::Abort), Some(Step::Connect));
    }
}

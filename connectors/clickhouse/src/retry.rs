//! What to do about an answer that is an error: ask again, set rows aside, or stop.
//!
//! A server that is away, busy or out of memory is asked again, for ever, with pauses that double; a repeated insert is
//! recognised by its token (INV-3), so an attempt of which nobody knows how it ended is simply repeated. That waiting
//! has begun is said once, and once that it has ended, however many tables wait. While a sink waits, the memory budget
//! stops the source (INV-8).

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use clickhouse::error::Error;
use tidemill_dataflow::sink::SinkError;
use tracing::{info, warn};

use crate::client::Client;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ask again.
    Retry,
    /// The table does not take a value of these rows.
    Rejected,
    /// Asking again changes nothing.
    Fatal,
}

/// Codes of errors that pass: the server is busy, starting, read-only for a while, or lost touch with its keeper.
const PASSING: [u32; 33] = [
    3,   // UNEXPECTED_END_OF_FILE: the request was cut off
    32,  // ATTEMPT_TO_READ_AFTER_EOF: the same
    33,  // CANNOT_READ_ALL_DATA: the same
    40,  // CHECKSUM_DOESNT_MATCH: of what arrived
    159, // TIMEOUT_EXCEEDED
    160, // TOO_SLOW
    198, // DNS_ERROR
    201, // QUOTA_EXCEEDED
    202, // TOO_MANY_SIMULTANEOUS_QUERIES
    203, // NO_FREE_CONNECTION
    209, // SOCKET_TIMEOUT
    210, // NETWORK_ERROR
    225, // NO_ZOOKEEPER
    236, // ABORTED
    241, // MEMORY_LIMIT_EXCEEDED
    242, // TABLE_IS_READ_ONLY
    243, // NOT_ENOUGH_SPACE
    244, // UNEXPECTED_ZOOKEEPER_ERROR
    246, // CORRUPTED_DATA: of what arrived
    252, // TOO_MANY_PARTS
    271, // CANNOT_DECOMPRESS
    279, // ALL_CONNECTION_TRIES_FAILED
    285, // TOO_FEW_LIVE_REPLICAS
    286, // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
    319, // UNKNOWN_STATUS_OF_INSERT
    364, // CANNOT_SCHEDULE_TASK_OF_POOL
    394, // QUERY_WAS_CANCELLED
    425, // SYSTEM_ERROR
    439, // CANNOT_SCHEDULE_TASK
    473, // DEADLOCK_AVOIDED
    735, // QUERY_WAS_CANCELLED_BY_CLIENT
    745, // SERVER_OVERLOADED
    999, // KEEPER_EXCEPTION
];

/// Codes of errors that lie in a value: a constraint, a range, something a view behind the table computes.
const OF_A_VALUE: [u32; 20] = [
    6,   // CANNOT_PARSE_TEXT
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    69,  // ARGUMENT_OUT_OF_BOUND
    70,  // CANNOT_CONVERT_TYPE
    72,  // CANNOT_PARSE_NUMBER
    117, // INCORRECT_DATA
    128, // TOO_LARGE_ARRAY_SIZE
    131, // TOO_LARGE_STRING_SIZE
    153, // ILLEGAL_DIVISION
    190, // SIZES_OF_ARRAYS_DONT_MATCH
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    376, // CANNOT_PARSE_UUID
    395, // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
    407, // DECIMAL_OVERFLOW
    469, // VIOLATED_CONSTRAINT
    691, // UNKNOWN_ELEMENT_OF_ENUM
];

/// What an error asks for.
pub(crate) fn judge(error: &Error) -> Verdict {
    match error {
        Error::Network(_) | Error::TimedOut | Error::Decompression(_) => Verdict::Retry,
        Error::BadResponse(text) => judge_answer(text),
        _ => Verdict::Fatal,
    }
}

fn judge_answer(text: &str) -> Verdict {
    let Some(code) = code_of(text) else {
        return judge_status(text);
    };
    // One code for too many parts, which merges mend, and for too many partitions in one insert, which stay as they are.
    if code == 252 && text.contains("Too many partitions for single INSERT") {
        Verdict::Fatal
    } else if PASSING.contains(&code) {
        Verdict::Retry
    } else if OF_A_VALUE.contains(&code) {
        Verdict::Rejected
    } else {
        Verdict::Fatal
    }
}

/// An answer without a code of ClickHouse comes from something in between, with the HTTP status or a text of its own.
/// What is in between comes back, unless it plainly says that the request is wrong.
fn judge_status(text: &str) -> Verdict {
    let status = text.get(..3).and_then(|digits| digits.parse::<u16>().ok());
    match status {
        Some(408 | 425 | 429) | None => Verdict::Retry,
        Some(400..=499) => Verdict::Fatal,
        Some(_) => Verdict::Retry,
    }
}

/// The number in `Code: 60. DB::Exception: ...`.
pub(crate) fn code_of(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Code: ")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..digits].parse().ok()
}

/// Asked before each attempt; fails once a later run has begun.
pub(crate) type Fence = Arc<dyn Fn() -> Result<(), SinkError> + Send + Sync>;

/// Why asking ended without an answer.
pub(crate) enum Ended {
    /// A later run has begun.
    Fenced(SinkError),
    /// The server refuses.
    Refused(Error, Verdict),
}

/// Codes of errors by which a server does not know who asks.
const OF_A_LOGIN: [u32; 4] = [
    192, // UNKNOWN_USER
    193, // WRONG_PASSWORD
    194, // REQUIRED_PASSWORD
    516, // AUTHENTICATION_FAILED
];

/// Whether the server refuses user or password.
fn is_of_login(error: &Error) -> bool {
    let Error::BadResponse(text) = error else { return false };
    match code_of(text) {
        Some(code) => OF_A_LOGIN.contains(&code),
        None => text.starts_with("401"),
    }
}

/// Whether the server refuses who asks, or what that user may do.
pub(crate) fn is_denial(error: &Error) -> bool {
    const READONLY: u32 = 164;
    const ACCESS_DENIED: u32 = 497;
    let Error::BadResponse(text) = error else { return false };
    is_of_login(error) || matches!(code_of(text), Some(READONLY | ACCESS_DENIED))
}

/// How many wait for one server, and whether it ever answered; clones of an address share it. It is no part of what the
/// address is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiters(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    answered: AtomicBool,
    /// It was said that user or password are refused, and they were not taken since.
    denied: AtomicBool,
}

impl PartialEq for Waiters {
    fn eq(&self, _: &Waiters) -> bool {
        true
    }
}

impl Eq for Waiters {}

/// One of those who wait, for as long as it lives.
struct Wait {
    waiters: Waiters,
    is_the_first: bool,
}

impl Wait {
    fn new(waiters: &Waiters) -> Wait {
        Wait { is_the_first: waiters.0.waiting.fetch_add(1, Ordering::Relaxed) == 0, waiters: waiters.clone() }
    }

    /// Ends the wait; gives whether nobody else waits.
    fn was_the_last(self) -> bool {
        let waiters = self.waiters.clone();
        drop(self);
        waiters.0.waiting.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waiters.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Calls until there is an answer that asking again would not change.
pub(crate) fn until_answered<T>(
    client: &Client,
    fence: &Fence,
    mut call: impl FnMut() -> Result<T, Error>,
) -> Result<T, Ended> {
    let mut pause = FIRST_PAUSE;
    let mut wait = None;
    loop {
        fence().map_err(Ended::Fenced)?;
        let error = match call() {
            Ok(answer) => {
                let waiters = client.target().waiters();
                waiters.0.answered.store(true, Ordering::Relaxed);
                waiters.0.denied.store(false, Ordering::Relaxed);
                if wait.take().is_some_and(Wait::was_the_last) {
                    info!("ClickHouse at {} answers again", client.target().at());
                }
                return Ok(answer);
            }
            Err(error) => error,
        };
        match judge(&error) {
            Verdict::Retry => {}
            // A password that worked is being changed: who changes it comes to this process, too.
            _ if is_of_login(&error) && client.target().waiters().0.answered.load(Ordering::Relaxed) => {}
            verdict => return Err(Ended::Refused(error, verdict)),
        }
        let (target, waiters) = (client.target(), client.target().waiters());
        let begins = wait.is_none() && wait.insert(Wait::new(waiters)).is_the_first;
        // Of another cause than that for which the waiting began, since somebody can mend it.
        if is_of_login(&error) && !waiters.0.denied.swap(true, Ordering::Relaxed) {
            let (at, said) = (target.at(), chain(&error));
            warn!(
                "ClickHouse at {at} refuses the user or password that it took before, and is waited for until it takes them again: {said}"
            );
        } else if begins {
            warn!("waiting for ClickHouse at {}: {}", target.at(), chain(&error));
        }
        client.wait(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Like [`until_answered`], where a refusal ends the run.
pub(crate) fn answer<T>(
    client: &Client,
    fence: &Fence,
    what: &str,
    call: impl FnMut() -> Result<T, Error>,
) -> Result<T, SinkError> {
    until_answered(client, fence, call).map_err(|ended| match ended {
        Ended::Fenced(error) => error,
        Ended::Refused(error, _) => client.failed(what, error).judged(),
    })
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(below) = cause {
        write!(text, ": {below}").expect("a String takes all that is written");
        cause = below.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_a_verdict() {
        for (text, verdict) in [
            ("Code: 241. DB::Exception: Memory limit exceeded", Verdict::Retry),
            ("Code: 252. DB::Exception: Too many parts (3001)", Verdict::Retry),
            ("Code: 252. DB::Exception: Too many partitions for single INSERT block (more than 100)", Verdict::Fatal),
            ("Code: 242. DB::Exception: Table is in readonly mode", Verdict::Retry),
            ("Code: 164. DB::Exception: Cannot execute query in readonly mode", Verdict::Fatal),
            ("Code: 319. DB::Exception: Unknown status", Verdict::Retry),
            ("Code: 999. Coordination::Exception: Session expired", Verdict::Retry),
            ("Code: 469. DB::Exception: Constraint `c` is violated", Verdict::Rejected),
            ("Code: 117. DB::Exception: Type of 'page' must be String", Verdict::Rejected),
            ("Code: 60. DB::Exception: Table x does not exist", Verdict::Fatal),
            ("Code: 16. DB::Exception: No such column", Verdict::Fatal),
            ("Code: 47. DB::Exception: Unknown identifier", Verdict::Fatal),
            ("Code: 516. DB::Exception: Authentication failed", Verdict::Fatal),
            ("502 Bad Gateway", Verdict::Retry),
            ("429 Too Many Requests", Verdict::Retry),
            ("408 Request Timeout", Verdict::Retry),
            ("404 Not Found", Verdict::Fatal),
            ("<html>upstream is down</html>", Verdict::Retry),
            ("", Verdict::Retry),
        ] {
            assert_eq!(judge(&Error::BadResponse(text.to_owned())), verdict, "{text}");
        }
        assert_eq!(judge(&Error::TimedOut), Verdict::Retry);
        assert_eq!(judge(&Error::Network("connection refused".into())), Verdict::Retry);
        assert_eq!(judge(&Error::SchemaMismatch("x".to_owned())), Verdict::Fatal);
    }

    #[test]
    fn a_password_that_worked_is_waited_for_and_one_that_never_did_is_not() {
        let refused = || Error::BadResponse("Code: 516. DB::Exception: Authentication failed".to_owned());
        let target = crate::Target::parse("clickhouse://127.0.0.1:1/db", None, None).unwrap();
        let client = Client::new(&target).unwrap();
        let fence: Fence = Arc::new(|| Ok(()));
        let never: Result<(), Ended> = until_answered(&client, &fence, || Err(refused()));
        assert!(matches!(never, Err(Ended::Refused(error, _)) if is_denial(&error)));
        assert!(until_answered(&client, &fence, || Ok(())).is_ok());
        let mut answers = vec![Ok(7), Err(refused()), Err(Error::BadResponse("401 Unauthorized".to_owned()))];
        let healed = until_answered(&client, &fence, || answers.pop().unwrap());
        assert!(matches!(healed, Ok(7)));
    }

    #[test]
    fn of_many_who_wait_one_says_so_and_one_that_it_is_over() {
        let waiters = Waiters::default();
        let (first, second) = (Wait::new(&waiters), Wait::new(&waiters.clone()));
        assert!(first.is_the_first && !second.is_the_first);
        assert!(!first.was_the_last() && second.was_the_last());
        drop(Wait::new(&waiters));
        assert!(Wait::new(&waiters).is_the_first, "one that gave up waits no more");
    }

    #[test]
    fn the_code_is_found_wherever_it_stands() {
        assert_eq!(code_of("Code: 60"), Some(60));
        assert_eq!(code_of("__exception__\nCode: 241. DB"), Some(241));
        assert_eq!(code_of("no code"), None);
    }
}

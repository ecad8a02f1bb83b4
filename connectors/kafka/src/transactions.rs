//! One epoch, one transaction: messages and the epoch's number become visible together, once.
//!
//! The number is kept as a committed offset of the group `tidemill-sink/INSTANCE/TABLE` on partition 0 of the topic, sent
//! in the same transaction as the messages; a reader with `read_committed` sees both or neither (INV-3).
//!
//! ```text
//!          init_transactions fences every earlier producer and ends what it left open;
//!          only then is the number read: nobody can change it any more
//!  closed ---------------------------------------------------------------> ready(held)
//!    ^                                                                       |     ^  ^
//!    |                                         write(e), e > held: begin     |     |  | abort done: wait, begin again
//!    |                                                                       v     |  |
//!    |            fatal, or the outcome is unknown           sending, marking -----|-> aborting
//!    +-----------------------------------------------------+     | all is queued   |
//!    |  no later run has begun: connect again; the number  |     v                 |
//!    |  that is read then says whether e is there          +-- committing --- ok --+  ready(e)
//!    |
//!    '-- a later run has begun: `Fenced`, and the run ends
//! ```
//! - `write(e)` with e at or below `held` does nothing: an epoch written twice has the effect of once.
//! - A broker that is away is waited for in every state, for as long as it takes; the log says so once. What waiting cannot
//!   mend ends the run with the words of the other side, at once or after a minute (`objections`).
//! - No call of the client is waited for beyond its limit (`hands`): it is left behind with its producer, the log says so,
//!   and a new producer fences the old one.
//! - A transaction that the broker gave up because it took longer than a minute looks like fencing; the log of the
//!   pipeline tells the two apart.
//! - The number expires with the group (`offsets.retention.minutes`, a week): after a longer rest than that, only what the
//!   pipeline's log says is known to be there.

mod deliveries;
mod link;
mod objections;
mod steps;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tidemill_connectors::messages::Fenced;
use tidemill_connectors::messages::rows::Messages;
use tidemill_dataflow::sink::{SinkError, SinkStart};
use tidemill_dataflow::time::Epoch;
use tidemill_dataflow::verdict::Judged;
use tracing::{debug, info, warn};

use crate::config::KafkaConfig;
use crate::hands::{GivenUp, LeftBehind};
use crate::speech::mismatch;

use deliveries::Said;
use link::Link;
use objections::Objection;
use steps::{Signs, Step, Verdict};

/// How long to wait before something is tried again.
const PAUSE: Duration = Duration::from_millis(250);
/// How often it is asked whether a topic that takes nothing is there at all.
const LOOK: Duration = Duration::from_secs(5);

/// A transactional writer of one topic, for one table of one pipeline.
#[derive(Debug)]
pub(crate) struct Transactions {
    config: KafkaConfig,
    pipeline: String,
    table: String,
    topic: String,
    link: Option<Link>,
    /// Which topic of this name has what was committed, once it is known.
    id: Option<String>,
    left: LeftBehind,
}

/// Why a step was not taken.
enum Failure {
    Kafka(KafkaError),
    /// The call hangs.
    Hangs(GivenUp),
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        Failure::Kafka(error)
    }
}

impl From<GivenUp> for Failure {
    fn from(given_up: GivenUp) -> Self {
        Failure::Hangs(given_up)
    }
}

impl Failure {
    fn verdict(&self) -> Verdict {
        match self {
            Failure::Kafka(error) => Signs::of(error).verdict(),
            Failure::Hangs(_) => Verdict::Connect,
        }
    }

    fn said(&self) -> Said {
        match self {
            Failure::Kafka(error) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                Said::of(code, &error.to_string())
            }
            Failure::Hangs(given_up) => Said { objection: Objection::Outage, words: given_up.to_string() },
        }
    }

    fn is_full_queue(&self) -> bool {
        matches!(self, Failure::Kafka(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)))
    }
}

impl Transactions {
    /// A writer of the topic `PREFIX` + `table`; nothing is connected yet.
    pub(crate) fn new(config: KafkaConfig, pipeline: &str, table: &str) -> Transactions {
        let topic = format!("{}{table}", config.prefix);
        Transactions {
            config,
            pipeline: pipeline.to_owned(),
            table: table.to_owned(),
            topic,
            link: None,
            id: None,
            left: LeftBehind::default(),
        }
    }

    /// The topic.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The last epoch that the topic is known to hold; 0 before [`open`](Transactions::open).
    pub(crate) fn held(&self) -> Epoch {
        self.link.as_ref().map_or(0, |link| link.held)
    }

    /// Creates the topic if it is missing and nothing was committed to it, fences earlier producers, and learns what it holds.
    ///
    /// # Errors
    /// If a later run has begun ([`Fenced`]), the broker refuses us, the topic is not the one that earlier runs wrote to, or it
    /// holds epochs that the pipeline's log does not know.
    pub(crate) fn open(&mut self, start: &SinkStart) -> Result<(), SinkError> {
        self.link = None;
        let (topic, note) = (self.topic.clone(), format!("kafka/{}", self.topic));
        let accepted = start.notes.accepted(&topic);
        self.id = start.notes.get(&note)?.filter(|_| start.committed > 0 && !accepted);
        let mut link = self.connect(start, &mut Waiting::new(&topic, Worked::Never))?;
        let found = link.held;
        if found > start.bound {
            let bound = start.bound;
            return Err(format!(
                "{}: the topic holds epochs through {found} and the pipeline's log ends at {bound}: state was lost or set \
                 back; restore it, or write to another prefix",
                self.topic
            )
            .into());
        }
        link.held = found.max(start.committed);
        if self.id.is_none()
            && let Some(id) = link.topic_id()
        {
            if accepted && start.committed > 0 {
                warn!("{topic}: what it does not hold of epochs through {} is given up, as asked", start.committed);
            }
            // Before anything is written to it.
            start.notes.put(&note, &id)?;
            self.id = Some(id);
        }
        self.link = Some(link);
        Ok(())
    }

    /// Writes the messages of an epoch, unless the topic holds it; gives whether it had to. An epoch without messages
    /// takes no transaction.
    ///
    /// # Errors
    /// If a later run has begun ([`Fenced`]), or the broker refuses us or the messages for good.
    pub(crate) fn write(&mut self, epoch: Epoch, messages: Messages) -> Result<bool, SinkError> {
        let mut link = self.link.take().ok_or("a writer is opened before it writes")?;
        if epoch <= link.held || messages.is_empty() {
            self.link = Some(link);
            return Ok(false);
        }
        let messages = Arc::new(messages);
        let topic = self.topic.clone();
        let worked = if link.wrote { Worked::Wrote } else { Worked::Opened };
        let (mut step, mut waiting) = (Step::Begin, Waiting::new(&topic, worked));
        loop {
            let failed = match link.take(step, (epoch, &messages)) {
                Ok(Some(next)) => {
                    step = next;
                    continue;
                }
                Ok(None) => break,
                Err(failed) => failed,
            };
            if failed.is_full_queue() {
                // Serves what the client has to tell, for as long as the pause takes.
                link.serve(Duration::from_millis(5));
                continue;
            }
            // What was said first is the reason; later calls may know no more than that something went wrong.
            let said = link.told().unwrap_or_else(|| failed.said());
            self.look_for_a_later_run(&link.start, Some(&said))?;
            waiting.begin(&said, &self.config.brokers)?;
            step = step.after(failed.verdict());
            if let Failure::Hangs(given_up) = failed {
                link = self.replaced(link, given_up, &mut waiting)?;
            } else if step == Step::Connect {
                let start = link.start.clone();
                drop(link);
                link = self.connect(&start, &mut waiting)?;
            } else {
                link.serve(PAUSE);
                waiting.look_at_topic(&link, &self.config.brokers)?;
                continue;
            }
            if link.held > epoch {
                return Err(self.fenced(None));
            }
            if link.held == epoch {
                break;
            }
            step = Step::Begin;
        }
        waiting.end();
        (link.held, link.wrote) = (epoch, true);
        self.link = Some(link);
        Ok(true)
    }

    /// Leaves a writer whose call hangs behind and connects another, whose producer fences it.
    fn replaced(&mut self, link: Link, given_up: GivenUp, waiting: &mut Waiting<'_>) -> Result<Link, SinkError> {
        warn!("{}: {given_up}; it is given up, and a new producer takes its place", self.topic);
        let start = link.start.clone();
        link.leave(&mut self.left).map_err(|problem| format!("{}: {problem}", self.topic))?;
        self.connect(&start, waiting)
    }

    /// Connects until it works, unless there is no sense in trying.
    fn connect(&mut self, start: &SinkStart, waiting: &mut Waiting<'_>) -> Result<Link, SinkError> {
        loop {
            self.look_for_a_later_run(start, None)?;
            let mut link = Link::new(&self.config, (&self.pipeline, &self.table, &self.topic), start)?;
            let failed = match link.open(&self.config, waiting.worked == Worked::Never && self.id.is_none()) {
                Ok(()) => {
                    self.look_at_id(&link)?;
                    // The later run may have begun in between, and then it has to win.
                    self.look_for_a_later_run(start, None)?;
                    return Ok(link);
                }
                Err(failed) => failed,
            };
            let said = link.told().unwrap_or_else(|| failed.said());
            if let Failure::Hangs(given_up) = failed {
                warn!("{}: {given_up}; it is given up, and another try is made", self.topic);
                link.leave(&mut self.left).map_err(|problem| format!("{}: {problem}", self.topic))?;
            }
            if said.objection == Objection::Outage {
                // Nobody answers, so nobody objects.
                waiting.objected = None;
            }
            waiting.begin(&said, &self.config.brokers)?;
            let mismatch = (waiting.worked == Worked::Never).then(|| mismatch(&self.config)).flatten();
            if let Some(sentence) = mismatch {
                return Err(Judged::denied(format!("{}: {sentence}", self.topic)));
            }
            thread::park_timeout(PAUSE);
        }
    }

    /// Whether it is the topic that was written to.
    fn look_at_id(&self, link: &Link) -> Result<(), SinkError> {
        let Some(before) = &self.id else { return Ok(()) };
        match link.topic_id().filter(|now| now != before) {
            None => Ok(()),
            Some(now) => Err(Judged::refused(format!(
                "{0}: the topic was made anew since this run wrote to it (its id was {before} and is {now}), so what was \
                 committed to it is gone. {1}",
                self.topic,
                what_to_do(&self.topic)
            ))),
        }
    }

    fn look_for_a_later_run(&self, start: &SinkStart, seen: Option<&Said>) -> Result<(), SinkError> {
        (start.fence)().map_err(|cause| {
            debug!("{}: a later run has begun; the producer said {seen:?}", self.topic);
            self.fenced(Some(cause))
        })
    }

    fn fenced(&self, cause: Option<SinkError>) -> SinkError {
        Box::new(Fenced { topic: self.topic.clone(), cause })
    }
}

/// What to do where a topic does not hold what was committed to it.
fn what_to_do(topic: &str) -> String {
    format!(
        "Write to another prefix with a new state, which fills it from the beginning; or give --accept-topic {topic} to go on \
         with a topic that was restored, or without what is gone"
    )
}

/// The name by which a broker knows the writer of a topic and fences earlier ones.
pub(crate) fn transactional_id(instance: &str, pipeline: &str, topic: &str) -> String {
    format!("{instance}/{pipeline}/{topic}")
}

/// Whether what is refused now worked before in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worked {
    Never,
    /// It was opened.
    Opened,
    /// An epoch was written.
    Wrote,
}

/// Says once that something is waited for, and once that it is over; ends it where waiting cannot mend it.
struct Waiting<'a> {
    topic: &'a str,
    worked: Worked,
    begun: bool,
    /// Since when something other than an outage is in the way.
    objected: Option<Instant>,
    looked: Instant,
}

#[expect(clippy::disallowed_methods, reason = "how long a server may object reaches no result")]
fn now() -> Instant {
    Instant::now()
}

impl Waiting<'_> {
    fn new(topic: &str, worked: Worked) -> Waiting<'_> {
        Waiting { topic, worked, begun: false, objected: None, looked: now() }
    }

    fn begin(&mut self, said: &Said, brokers: &str) -> Result<(), SinkError> {
        let Said { objection, words } = said;
        if let Some(patience) = objection.patience(self.worked) {
            let since = *self.objected.get_or_insert_with(now);
            if since.elapsed() >= patience {
                return Err(objection.refusal(self.topic, brokers, words));
            }
        }
        if !std::mem::replace(&mut self.begun, true) {
            warn!("{}: Kafka cannot take an epoch now ({words}); it is tried again until it does", self.topic);
        }
        Ok(())
    }

    /// Asks now and then whether the topic is there: where it is not, the client only says that it takes long.
    fn look_at_topic(&mut self, link: &Link, brokers: &str) -> Result<(), SinkError> {
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = now();
        match link.is_there() {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.begin(&Said::of(RDKafkaErrorCode::UnknownTopicOrPartition, "it is in no list of topics"), brokers)
            }
            Err(_) => {
                // Nobody answers, so nobody objects.
                self.objected = None;
                Ok(())
            }
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.begun) {
            info!("{}: Kafka takes epochs again", self.topic);
        }
    }
}

//! Which topic a name means now: the id that a cluster gives a topic when it is made (KIP-516), asked with librdkafka's own
//! call, since the safe wrapper has none.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::trouble::Watch;

/// What a broker without ids says for one.
const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The ids of those topics that have one.
pub(crate) type TopicIds = BTreeMap<String, String>;

/// The ids of these topics, as far as they are there and the cluster gives ids.
pub(crate) fn topic_ids(
    consumer: &BaseConsumer<Watch>,
    topics: &[&str],
    at_most: Duration,
) -> Result<TopicIds, KafkaError> {
    if topics.is_empty() {
        return Ok(TopicIds::new());
    }
    let names = topics.iter().map(|topic| CString::new(*topic)).collect::<Result<Vec<_>, _>>()?;
    match describe(consumer, &names, at_most) {
        Ok(mut ids) => {
            ids.retain(|_, id| !id.is_empty() && id.trim_end_matches('=') != NONE);
            Ok(ids)
        }
        // An older broker.
        Err(RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion) => Ok(TopicIds::new()),
        Err(code) => Err(KafkaError::AdminOp(code)),
    }
}

#[expect(
    unsafe_code,
    reason = "calls of librdkafka: what is made here is destroyed here, once, and what is borrowed from an answer is copied \
              before that is destroyed"
)]
fn describe(
    consumer: &BaseConsumer<Watch>,
    names: &[CString],
    at_most: Duration,
) -> Result<TopicIds, RDKafkaErrorCode> {
    let millis = i32::try_from(at_most.as_millis()).unwrap_or(i32::MAX).max(1);
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the client outlives this call; the names are copied by the collection.
    unsafe {
        let client = consumer.client().native_ptr();
        let queue = c::rd_kafka_queue_new(client);
        let wanted = c::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let options = c::rd_kafka_AdminOptions_new(client, c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        c::rd_kafka_AdminOptions_set_request_timeout(options, millis, ptr::null_mut(), 0);
        c::rd_kafka_DescribeTopics(client, wanted, options, queue);
        let event = c::rd_kafka_queue_poll(queue, millis.saturating_add(500));
        let ids = if event.is_null() { Err(RDKafkaErrorCode::OperationTimedOut) } else { read(event) };
        if !event.is_null() {
            c::rd_kafka_event_destroy(event);
        }
        c::rd_kafka_AdminOptions_destroy(options);
        c::rd_kafka_TopicCollection_destroy(wanted);
        c::rd_kafka_queue_destroy(queue);
        ids
    }
}

/// Copies what an answer says.
///
/// # Safety
/// `event` is one that librdkafka gave and that is not destroyed yet.
#[expect(unsafe_code, reason = "see `describe`")]
unsafe fn read(event: *mut c::rd_kafka_event_t) -> Result<TopicIds, RDKafkaErrorCode> {
    // SAFETY: all that is read belongs to the event, and texts end with a zero.
    unsafe {
        let code = RDKafkaErrorCode::from(c::rd_kafka_event_error(event));
        if code != RDKafkaErrorCode::NoError {
            return Err(code);
        }
        let answer = c::rd_kafka_event_DescribeTopics_result(event);
        if answer.is_null() {
            return Err(RDKafkaErrorCode::Unknown);
        }
        let mut count = 0;
        let described = c::rd_kafka_DescribeTopics_result_topics(answer, &raw mut count);
        let mut ids = TopicIds::new();
        for at in 0..count {
            let topic = *described.add(at);
            let failed = c::rd_kafka_TopicDescription_error(topic);
            let id = c::rd_kafka_TopicDescription_topic_id(topic);
            let name = c::rd_kafka_TopicDescription_name(topic);
            let well =
                failed.is_null() || RDKafkaErrorCode::from(c::rd_kafka_error_code(failed)) == RDKafkaErrorCode::NoError;
            if well && !id.is_null() && !name.is_null() {
                let text = c::rd_kafka_Uuid_base64str(id);
                if !text.is_null() {
                    let copied = |bytes| CStr::from_ptr(bytes).to_string_lossy().into_owned();
                    ids.insert(copied(name), copied(text));
                }
            }
        }
        Ok(ids)
    }
}

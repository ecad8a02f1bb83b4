//! How a bucket is reached.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

use super::LocationError;
use crate::bridge::ObjectStoreBridge;

/// What the client waits for a connection.
const CONNECT_WITHIN: &str = "5 seconds";

/// What the client waits for a whole answer at most; the bridge waits for less, by the length of what travels.
const ANSWER_WITHIN: &str = "10 minutes";

/// How long a reader's client repeats a call that failed.
const REPEAT_FOR: Duration = Duration::from_secs(10);

/// Who repeats calls that failed for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeats {
    /// The layers above.
    None,
    /// The client, for some seconds.
    AFew,
}

/// What is known about a bucket before it is reached.
pub(super) struct Settings {
    builder: AmazonS3Builder,
    bucket: String,
    prefix: String,
}

impl Settings {
    /// A bucket at the server that the `AWS_*` variables name.
    pub(super) fn from_env(bucket: &str, prefix: &str) -> Self {
        Self::new(AmazonS3Builder::from_env(), bucket, prefix)
    }

    /// A bucket at the server that `builder` names.
    pub(super) fn new(builder: AmazonS3Builder, bucket: &str, prefix: &str) -> Self {
        Self { builder: builder.with_bucket_name(bucket), bucket: bucket.to_owned(), prefix: prefix.to_owned() }
    }

    /// A client. Reaches for nothing yet.
    pub(super) fn connect(&self, repeats: Repeats) -> Result<Arc<dyn ObjectStore>, LocationError> {
        let (max_retries, retry_timeout) = match repeats {
            Repeats::None => (0, Duration::ZERO),
            Repeats::AFew => (5, REPEAT_FOR),
        };
        let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries, retry_timeout };
        let mut builder = self
            .builder
            .clone()
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retry)
            .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT_WITHIN)
            .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), ANSWER_WITHIN);
        if self.endpoint().is_some_and(|endpoint| endpoint.starts_with("http://")) {
            builder = builder.with_allow_http(true);
        }
        let client =
            builder.build().map_err(|error| LocationError::Settings { place: self.name(), source: Box::new(error) })?;
        Ok(match self.prefix.as_str() {
            "" => Arc::new(client),
            prefix => Arc::new(PrefixStore::new(client, prefix)),
        })
    }

    /// Asks for the first name in the bucket.
    pub(super) fn probe(&self, bridge: &ObjectStoreBridge) -> Result<(), LocationError> {
        let asked = bridge.wait_for_step(|store| async move {
            let mut names = store.list(None);
            names.try_next().await.map(drop)
        });
        asked.map_err(|error| {
            // The client says of a listing that failed no more than the text of the answer.
            let said = error.to_string();
            let place = self.name();
            if said.contains("NoSuchBucket") {
                let endpoint = self.endpoint().unwrap_or_else(|| "Amazon S3".to_owned());
                LocationError::NoBucket { bucket: self.bucket.clone(), endpoint }
            } else if said.contains("403 Forbidden") || said.contains("401 Unauthorized") {
                LocationError::Denied { place, answer: code(&said).to_owned() }
            } else {
                LocationError::Unreachable { place, source: Box::new(error) }
            }
        })
    }

    /// Bucket, prefix and server, for people.
    pub(super) fn name(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        let at = self.endpoint().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        format!("s3://{}{slash}{}{at}", self.bucket, self.prefix)
    }

    fn endpoint(&self) -> Option<String> {
        [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
            .iter()
            .find_map(|key| self.builder.get_config_value(key))
    }
}

/// The code in an answer of S3, such as `SignatureDoesNotMatch`.
fn code(said: &str) -> &str {
    let named = said.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    named.map_or("access denied", |(code, _)| code)
}

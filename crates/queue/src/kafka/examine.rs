//! A look at Kafka for operators (`pushline doctor`). It creates and changes nothing, and doesn't wait for a Kafka that is away.

use std::sync::Arc;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use tokio::task::spawn_blocking;

use super::{
    Options,
    clients::{self, Quiet},
    topics::{ANSWER, Topics, ask_metadata, partition_counts},
};
use crate::{QueueError, blocking};

/// One topic, as it was seen.
#[derive(Debug)]
pub struct ExaminedTopic {
    /// Its name.
    pub name: String,
    /// `Ok(true)`: it is as it must be. `Ok(false)`: it is missing, and the start creates it. Else what is wrong, with the command that mends it.
    pub state: Result<bool, QueueError>,
}

/// What was seen of a Kafka.
#[derive(Debug)]
pub struct Examined {
    /// How many brokers there are.
    pub brokers: usize,
    /// The topics that Pushline needs.
    pub topics: Vec<ExaminedTopic>,
}

/// Looks at the brokers and at the topics.
///
/// # Errors
/// No client can be made of the options, or no broker answers within ten seconds.
pub async fn examine(options: &Options) -> Result<Examined, QueueError> {
    let client: AdminClient<Quiet> =
        clients::admin(options).create_with_context(Quiet).map_err(|error| QueueError::kafka("set up a client", &error))?;
    let client = Arc::new(client);
    let asking = Arc::clone(&client);
    let metadata = blocking::result(spawn_blocking(move || ask_metadata(asking.inner()))).await?;
    let metadata = metadata.map_err(|error| QueueError::kafka("reach a broker", &error))?;
    let counts = partition_counts(&metadata);
    let mut topics = Vec::new();
    for topic in Topics::new(&options.topic_prefix).wanted(options) {
        let state = match counts.get(&*topic.name) {
            None => Ok(false),
            Some(count) => match topic.check_partitions(*count) {
                Ok(()) => describe(&client, &topic.name).await.and_then(|found| topic.check(&found)).map(|()| true),
                Err(error) => Err(error),
            },
        };
        topics.push(ExaminedTopic { name: topic.name.to_string(), state });
    }
    Ok(Examined { brokers: metadata.brokers().len(), topics })
}

async fn describe(client: &AdminClient<Quiet>, topic: &str) -> Result<rdkafka::admin::ConfigResource, QueueError> {
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let described = client.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await;
    let described = described.map_err(|error| QueueError::kafka("describe the topics", &error))?;
    let found = described.into_iter().next().expect("each topic that was asked for is described");
    found.map_err(|code| super::topics::refused("describe topic", topic, code))
}

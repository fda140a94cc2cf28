//! The topics: created as the promise needs them, and refused with advice where they are there and are not so.

use std::{collections::HashMap, sync::Arc, time::Duration};

use metrics::gauge;
use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    client::Client,
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
};
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{
    Options,
    clients::{self, CHECKPOINT_BYTES, OVERHEAD, Quiet},
};
use crate::{QueueError, metrics as names};

/// How long Kafka may take to answer before it is asked again.
const ANSWER: Duration = Duration::from_secs(10);

/// How long packets outlive the time at which they become dead letters.
const MARGIN: Duration = Duration::from_hours(24);

/// Their names.
#[derive(Debug, Clone)]
pub(super) struct Topics {
    pub(super) packets: Arc<str>,
    pub(super) checkpoints: Arc<str>,
    pub(super) dead_letters: Arc<str>,
    pub(super) unrouted: Arc<str>,
}

/// How a topic must be.
#[derive(Debug)]
struct Wanted {
    name: Arc<str>,
    partitions: u32,
    settings: Vec<(&'static str, Setting)>,
}

/// How one of its settings must be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Setting {
    /// Just that.
    Is(String),
    /// A number, or more; -1 stands for no end.
    AtLeast(u64),
    /// Given when the topic is created; another value is the operator's choice.
    Created(String),
}

impl Topics {
    pub(super) fn new(prefix: &str) -> Self {
        let name = |what: &str| format!("{prefix}.{what}").into();
        Self { packets: name("packets"), checkpoints: name("checkpoints"), dead_letters: name("dead-letters"), unrouted: name("unrouted") }
    }

    fn wanted(&self, options: &Options) -> [Wanted; 4] {
        use Setting::{AtLeast, Created, Is};
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let largest = AtLeast((options.largest_record + OVERHEAD).max(1 << 20) as u64);
        let letters = |name: &Arc<str>, bytes: u64| Wanted {
            name: Arc::clone(name),
            partitions: 1,
            settings: vec![
                ("cleanup.policy", Is("delete".into())),
                ("max.message.bytes", largest.clone()),
                ("retention.ms", AtLeast(millis(options.keep_dead_letters))),
                ("retention.bytes", Created(bytes.to_string())),
                ("segment.bytes", Created((bytes / 8).clamp(1 << 20, 256 << 20).to_string())),
            ],
        };
        [
            Wanted {
                name: Arc::clone(&self.packets),
                partitions: options.partitions,
                settings: vec![
                    ("cleanup.policy", Is("delete".into())),
                    // Else a device's clock would say when its packets are deleted.
                    ("message.timestamp.type", Is("LogAppendTime".into())),
                    ("retention.bytes", Is("-1".into())),
                    ("retention.ms", AtLeast(millis(options.max_age + MARGIN))),
                    ("max.message.bytes", largest.clone()),
                ],
            },
            Wanted {
                name: Arc::clone(&self.checkpoints),
                partitions: options.partitions,
                settings: vec![
                    ("cleanup.policy", Is("compact".into())),
                    ("max.message.bytes", AtLeast((CHECKPOINT_BYTES + OVERHEAD) as u64)),
                    ("segment.ms", Created("3600000".into())),
                ],
            },
            letters(&self.dead_letters, options.dead_letters_max_bytes),
            letters(&self.unrouted, options.dead_letters_max_bytes / 4),
        ]
    }

    /// Creates those that are missing and checks the others. Kafka that is away is waited for.
    ///
    /// # Errors
    /// [`QueueError::Misfit`] with what would be right.
    pub(super) async fn ensure(&self, options: &Options) -> Result<(), QueueError> {
        let client: AdminClient<Quiet> =
            clients::admin(options).create_with_context(Quiet).map_err(|error| QueueError::kafka("set up a client", &error))?;
        let client = Arc::new(client);
        let mut told = false;
        loop {
            match self.try_ensure(&client, options).await {
                Err(error) if error.is_passing() => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(%error, "Kafka doesn't answer for the topics: it is asked again until it does");
                    }
                    sleep(Duration::from_secs(1)).await;
                }
                done => return done,
            }
        }
    }

    async fn try_ensure(&self, client: &Arc<AdminClient<Quiet>>, options: &Options) -> Result<(), QueueError> {
        let metadata = wait_for_metadata(client, &options.brokers).await;
        let (brokers, counts) = (metadata.brokers().len(), partition_counts(&metadata));
        drop(metadata);
        let replication = brokers.clamp(1, 3);
        let wanted = self.wanted(options);
        for topic in wanted.iter().filter(|topic| !counts.contains_key(&*topic.name)) {
            create(client, topic, replication).await?;
        }
        let there: Vec<&Wanted> = wanted.iter().filter(|topic| counts.contains_key(&*topic.name)).collect();
        for topic in &there {
            let (count, expected) = (counts[&*topic.name], topic.partitions);
            if count != expected as usize {
                return Err(QueueError::Misfit(format!(
                    "topic {} has {count} partitions, expected {expected}: a group's packets would change their partition. Set [queue.kafka] partitions = {count}, or take another topic_prefix",
                    topic.name
                )));
            }
        }
        let names: Vec<ResourceSpecifier<'_>> = there.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
        if !names.is_empty() {
            let options = AdminOptions::new().request_timeout(Some(ANSWER));
            let described =
                client.describe_configs(&names, &options).await.map_err(|error| QueueError::kafka("describe the topics", &error))?;
            for (topic, found) in there.iter().zip(described) {
                let found = found.map_err(|code| refused("describe topic", &topic.name, code))?;
                topic.check(&found)?;
            }
        }
        self.warn_of_replication(client, options, &wanted).await;
        Ok(())
    }

    /// `acks=all` is as durable as the topic.
    async fn warn_of_replication(&self, client: &Arc<AdminClient<Quiet>>, options: &Options, wanted: &[Wanted]) {
        let metadata = wait_for_metadata(client, &options.brokers).await;
        let weak = |name: &str| {
            let topic = metadata.topics().iter().find(|topic| topic.name() == name)?;
            topic.partitions().iter().map(|partition| partition.replicas().len()).min().filter(|replicas| *replicas < 3)
        };
        let mut any = false;
        for topic in wanted {
            if let Some(replicas) = weak(&topic.name) {
                any = true;
                warn!(
                    topic = &*topic.name,
                    replicas, "fewer than three replicas: what is acknowledged is only as durable as these brokers"
                );
            }
        }
        let packets = [ResourceSpecifier::Topic(&self.packets)];
        let found = client.describe_configs(&packets, &AdminOptions::new().request_timeout(Some(ANSWER))).await;
        let in_sync = found.ok().and_then(|found| found.into_iter().next()?.ok()?.get("min.insync.replicas")?.value.clone());
        if let Some(in_sync) = in_sync.filter(|in_sync| in_sync.parse::<u32>().is_ok_and(|in_sync| in_sync < 2)) {
            any = true;
            warn!(topic = &*self.packets, in_sync, "min.insync.replicas is below two: one broker may acknowledge alone");
        }
        gauge!(names::WEAK_REPLICATION).set(f64::from(u8::from(any)));
    }
}

/// How many partitions each topic has.
pub(super) fn partition_counts(metadata: &Metadata) -> HashMap<String, usize> {
    metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect()
}

/// Of all topics: asking for a single one could create it.
pub(super) fn ask_metadata<C: rdkafka::ClientContext>(client: &Client<C>) -> Result<Metadata, KafkaError> {
    client.fetch_metadata(None, ANSWER)
}

async fn wait_for_metadata(client: &Arc<AdminClient<Quiet>>, brokers: &str) -> Metadata {
    let mut told = false;
    loop {
        let asking = Arc::clone(client);
        match spawn_blocking(move || ask_metadata(asking.inner())).await {
            Ok(Ok(metadata)) => return metadata,
            Ok(Err(error)) if !std::mem::replace(&mut told, true) => {
                warn!(brokers, %error, "Kafka doesn't answer ([queue.kafka] brokers): it is tried again until it does");
            }
            _ => {}
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn create(client: &AdminClient<Quiet>, topic: &Wanted, replication: usize) -> Result<(), QueueError> {
    let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    let settings: Vec<(&str, String)> = topic.settings.iter().map(|(name, setting)| (*name, setting.value())).collect();
    let mut new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(i32::try_from(replication).unwrap_or(1)));
    for (name, value) in &settings {
        new = new.set(name, value);
    }
    if replication >= 3 {
        new = new.set("min.insync.replicas", "2");
    }
    let options = AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER));
    let created = client.create_topics([&new], &options).await.map_err(|error| QueueError::kafka("create the topics", &error))?;
    match created.into_iter().next() {
        // Another process was faster.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((name, code))) => Err(refused("create topic", &name, code)),
        _ => {
            info!(topic = &*topic.name, partitions, replication, "topic created");
            Ok(())
        }
    }
}

/// Brokers that come and go are waited for; anything else is for people.
fn refused(doing: &str, topic: &str, code: RDKafkaErrorCode) -> QueueError {
    use RDKafkaErrorCode as Code;
    if matches!(
        code,
        Code::NotController
            | Code::RequestTimedOut
            | Code::OperationTimedOut
            | Code::BrokerTransportFailure
            | Code::NetworkException
            | Code::CoordinatorNotAvailable
    ) {
        return QueueError::Unavailable { doing: format!("{doing} {topic}"), what: code.to_string() };
    }
    QueueError::Misfit(format!("can't {doing} {topic}: {code}"))
}

impl Wanted {
    fn check(&self, found: &ConfigResource) -> Result<(), QueueError> {
        for (name, setting) in &self.settings {
            let value = found.get(name).and_then(|entry| entry.value.clone()).unwrap_or_default();
            if !setting.allows(&value) {
                return Err(QueueError::Misfit(format!(
                    "topic {} has {name}={value}, expected {}: kafka-configs.sh --alter --entity-type topics --entity-name {} --add-config {name}={}",
                    self.name,
                    setting.expected(),
                    self.name,
                    setting.value()
                )));
            }
        }
        Ok(())
    }
}

impl Setting {
    fn value(&self) -> String {
        match self {
            Self::Is(value) | Self::Created(value) => value.clone(),
            Self::AtLeast(least) => least.to_string(),
        }
    }

    fn expected(&self) -> String {
        match self {
            Self::AtLeast(least) => format!("at least {least}"),
            Self::Is(value) | Self::Created(value) => value.clone(),
        }
    }

    fn allows(&self, value: &str) -> bool {
        match self {
            Self::Is(expected) => value == expected,
            Self::AtLeast(least) => value == "-1" || value.parse::<u64>().is_ok_and(|value| value >= *least),
            Self::Created(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_may_be_more_or_without_end_and_a_word_must_be_the_same() {
        assert!(Setting::AtLeast(7).allows("7") && Setting::AtLeast(7).allows("8") && Setting::AtLeast(7).allows("-1"));
        assert!(!Setting::AtLeast(7).allows("6") && !Setting::AtLeast(7).allows(""));
        assert!(Setting::Is("compact".into()).allows("compact") && !Setting::Is("compact".into()).allows("delete"));
    }
}

//! The topics (docs/kafka-topics.md): created with the settings that the promise needs; an existing one with other settings is refused with advice.

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
    clients::{self, CHECKPOINT_BYTES, OVERHEAD, Quiet, SESSION_BYTES},
};
use crate::{QueueError, blocking, metrics as names};

/// How long Kafka may take to answer before it is asked again.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// How much longer Kafka keeps packets than they may wait before they become dead letters.
const MARGIN: Duration = Duration::from_hours(24);

/// How long a checkpoint stays in its topic after a later one was written. A commit names an older one only while the later one isn't committed.
const CHECKPOINT_STAYS: Duration = Duration::from_hours(1);

/// How long a record of a session stays after a later one of its owner was written: until then, a process that starts reads every step of a takeover.
const SESSION_STAYS: Duration = Duration::from_hours(1);

/// The names of the topics.
#[derive(Debug, Clone)]
pub(super) struct Topics {
    pub(super) packets: Arc<str>,
    pub(super) checkpoints: Arc<str>,
    pub(super) dead_letters: Arc<str>,
    pub(super) unrouted: Arc<str>,
    pub(super) sessions: Arc<str>,
}

/// How a topic must be.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: Arc<str>,
    partitions: u32,
    settings: Vec<(&'static str, Setting)>,
}

/// How one of its settings must be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Setting {
    /// It must have this value.
    Is(String),
    /// It must be this number or more; -1 stands for no limit.
    AtLeast(u64),
    /// Pushline creates the topic with this value; an operator may choose another one.
    Created(String),
}

impl Topics {
    pub(super) fn new(prefix: &str) -> Self {
        let name = |what: &str| format!("{prefix}.{what}").into();
        Self {
            packets: name("packets"),
            checkpoints: name("checkpoints"),
            dead_letters: name("dead-letters"),
            unrouted: name("unrouted"),
            sessions: name("sessions"),
        }
    }

    /// How they must be.
    pub(super) fn wanted(&self, options: &Options) -> [Wanted; 5] {
        use Setting::{AtLeast, Created, Is};
        /// Kafka's longest time, in milliseconds.
        const FOR_EVER: u128 = i64::MAX as u128;
        let millis = |duration: Duration| u64::try_from(duration.as_millis().min(FOR_EVER)).expect("an i64 that isn't negative fits");
        // Else the clock of a process that writes would decide when its records are deleted. Of packets it is the log time too.
        let by_kafkas_clock = ("message.timestamp.type", Is("LogAppendTime".into()));
        let largest = AtLeast((options.largest_record + OVERHEAD).max(1 << 20) as u64);
        let dead_letters = |name: &Arc<str>, bytes: u64| Wanted {
            name: Arc::clone(name),
            partitions: 1,
            settings: vec![
                ("cleanup.policy", Is("delete".into())),
                by_kafkas_clock.clone(),
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
                    // Compaction would delete records that show where a window ends.
                    ("cleanup.policy", Is("delete".into())),
                    by_kafkas_clock.clone(),
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
                    ("min.compaction.lag.ms", AtLeast(millis(CHECKPOINT_STAYS))),
                    ("segment.ms", Created("3600000".into())),
                ],
            },
            Wanted {
                name: Arc::clone(&self.sessions),
                partitions: options.partitions,
                settings: vec![
                    ("cleanup.policy", Is("compact".into())),
                    // The expiry of a session goes by it.
                    by_kafkas_clock.clone(),
                    ("max.message.bytes", AtLeast((SESSION_BYTES + OVERHEAD) as u64)),
                    ("min.compaction.lag.ms", AtLeast(millis(SESSION_STAYS))),
                    ("segment.ms", Created("3600000".into())),
                ],
            },
            dead_letters(&self.dead_letters, options.dead_letters_max_bytes),
            dead_letters(&self.unrouted, options.dead_letters_max_bytes / 4),
        ]
    }

    /// Creates the topics that are missing and checks the others. Waits while Kafka is away.
    ///
    /// # Errors
    /// [`QueueError::Misfit`] with what would be right.
    pub(super) async fn ensure(&self, options: &Options) -> Result<(), QueueError> {
        let client: AdminClient<Quiet> =
            clients::admin(options).create_with_context(Quiet).map_err(|error| QueueError::kafka("set up a client", &error))?;
        let client = Arc::new(client);
        let mut is_logged = false;
        loop {
            match self.try_ensure(&client, options).await {
                Err(error) if error.is_passing() => {
                    if !std::mem::replace(&mut is_logged, true) {
                        warn!(%error, "can't check the topics while Kafka is away; trying again until it answers");
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
            topic.check_partitions(counts[&*topic.name])?;
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

    /// Warns of topics with few replicas: `acks=all` is only as durable as the topic.
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
                    replicas, "the topic has fewer than three replicas: an acknowledged packet is only as durable as these brokers"
                );
            }
        }
        let packets = [ResourceSpecifier::Topic(&self.packets)];
        let found = client.describe_configs(&packets, &AdminOptions::new().request_timeout(Some(ANSWER))).await;
        let in_sync = found.ok().and_then(|found| found.into_iter().next()?.ok()?.get("min.insync.replicas")?.value.clone());
        if let Some(in_sync) = in_sync.filter(|in_sync| in_sync.parse::<u32>().is_ok_and(|in_sync| in_sync < 2)) {
            any = true;
            warn!(topic = &*self.packets, in_sync, "min.insync.replicas is below 2: a single broker may acknowledge a packet alone");
        }
        gauge!(names::WEAK_REPLICATION).set(f64::from(u8::from(any)));
    }
}

/// How many partitions each topic has.
pub(super) fn partition_counts(metadata: &Metadata) -> HashMap<String, usize> {
    metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect()
}

/// The metadata of all topics: asking for a single one could create it.
pub(super) fn ask_metadata<C: rdkafka::ClientContext>(client: &Client<C>) -> Result<Metadata, KafkaError> {
    client.fetch_metadata(None, ANSWER)
}

async fn wait_for_metadata(client: &Arc<AdminClient<Quiet>>, brokers: &str) -> Metadata {
    let mut is_logged = false;
    loop {
        let asking = Arc::clone(client);
        match blocking::result(spawn_blocking(move || ask_metadata(asking.inner()))).await {
            Ok(Ok(metadata)) => return metadata,
            Ok(Err(error)) if !std::mem::replace(&mut is_logged, true) => {
                warn!(brokers, %error, "Kafka doesn't answer ([queue.kafka] brokers); trying again until it does");
            }
            _ => {}
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn create(client: &AdminClient<Quiet>, topic: &Wanted, replication: usize) -> Result<(), QueueError> {
    let too_many = |_| QueueError::Misfit(format!("{} partitions are more than Kafka can have", topic.partitions));
    let partitions = i32::try_from(topic.partitions).map_err(too_many)?;
    let replication = i32::try_from(replication).expect("three replicas at most");
    let settings: Vec<(&str, String)> = topic.settings.iter().map(|(name, setting)| (*name, setting.value())).collect();
    let mut new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(replication));
    for (name, value) in &settings {
        new = new.set(name, value);
    }
    if replication >= 3 {
        new = new.set("min.insync.replicas", "2");
    }
    let options = AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER));
    let created = client.create_topics([&new], &options).await.map_err(|error| QueueError::kafka("create the topics", &error))?;
    match created.into_iter().next() {
        // Another process has created it meanwhile.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((name, code))) => Err(refused("create topic", &name, code)),
        _ => {
            info!(topic = &*topic.name, partitions, replication, "topic created");
            Ok(())
        }
    }
}

/// An error that Kafka gave for a topic: passing where brokers come and go, else one that an operator must mend.
pub(super) fn refused(doing: &str, topic: &str, code: RDKafkaErrorCode) -> QueueError {
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
    /// # Errors
    /// [`QueueError::Misfit`]: it has another number of partitions.
    pub(super) fn check_partitions(&self, count: usize) -> Result<(), QueueError> {
        let (name, expected) = (&self.name, self.partitions);
        if count == expected as usize {
            return Ok(());
        }
        Err(QueueError::Misfit(format!(
            "topic {name} has {count} partitions, expected {expected}: a group's packets would change their partition. Set [queue.kafka] partitions = {count}, or take another topic_prefix"
        )))
    }

    /// # Errors
    /// [`QueueError::Misfit`]: a setting has another value, with the command that mends it.
    pub(super) fn check(&self, found: &ConfigResource) -> Result<(), QueueError> {
        for (name, setting) in &self.settings {
            // A broker that has just started describes a topic that it doesn't know yet without any settings.
            let Some(value) = found.get(name).and_then(|entry| entry.value.as_deref()) else {
                return Err(QueueError::Unavailable {
                    doing: format!("describe topic {}", self.name),
                    what: format!("the broker returns no {name}"),
                });
            };
            if !setting.allows(value) {
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

//! Opens the queue that the configuration names. The only place of the binary that knows the backends.

use std::sync::Arc;

use anyhow::bail;
use pushline_queue::{
    Queue,
    embedded::{self, Embedded},
};
use tracing::info;

use crate::{
    config::{self, Settings},
    role::Role,
};

/// What the start waits for while the queue is being opened.
pub(crate) fn opening(settings: &Settings) -> String {
    match settings.queue.chosen() {
        config::Queue::Embedded { dir, .. } => format!("opening the queue in {}", dir.display()),
        config::Queue::Kafka(kafka) => format!("waiting for Kafka at {}", kafka.brokers),
    }
}

/// Opens the queue. Kafka may be away: then this takes until it is back.
///
/// # Errors
/// The queue can't be opened, or not in this role.
pub(crate) async fn open(settings: &Settings, role: Role, largest_record: usize) -> anyhow::Result<Arc<dyn Queue>> {
    match settings.queue.chosen() {
        config::Queue::Embedded { .. } if role != Role::Run => {
            bail!("an embedded queue serves a single process that does everything: use pushline run, or set [queue] kind = \"kafka\"")
        }
        config::Queue::Embedded { dir, max_bytes, min_free } => {
            let options = embedded::Options {
                max_bytes,
                min_free,
                keep_dead_letters: settings.dead_letters.keep,
                dead_letters_max_bytes: settings.dead_letters.max_bytes,
                ..embedded::Options::new(dir.to_owned())
            };
            info!(dir = %options.dir.display(), "opening the queue");
            // Opening checks every frame, which may take seconds.
            let queue = tokio::task::spawn_blocking(move || Embedded::open(&options)).await??;
            Ok(Arc::new(queue))
        }
        config::Queue::Kafka(kafka) => open_kafka(kafka, settings, role, largest_record).await,
    }
}

#[cfg(feature = "kafka")]
async fn open_kafka(kafka: &config::Kafka, settings: &Settings, role: Role, largest_record: usize) -> anyhow::Result<Arc<dyn Queue>> {
    use pushline_queue::kafka::Kafka;

    let options = kafka_options(kafka, settings, role, largest_record);
    info!(brokers = options.brokers, topic_prefix = options.topic_prefix, "opening the queue");
    Ok(Arc::new(Kafka::open(&options).await?))
}

/// The queue's options of a configuration.
#[cfg(feature = "kafka")]
pub(crate) fn kafka_options(
    kafka: &config::Kafka,
    settings: &Settings,
    role: Role,
    largest_record: usize,
) -> pushline_queue::kafka::Options {
    use pushline_queue::kafka::Options;

    Options {
        topic_prefix: kafka.topic_prefix.clone(),
        partitions: kafka.partitions,
        properties: kafka.properties.0.clone(),
        serves_partitions: role != Role::Ingest,
        largest_record,
        max_age: settings.backlog.max_age,
        keep_dead_letters: settings.dead_letters.keep,
        dead_letters_max_bytes: settings.dead_letters.max_bytes,
        ..Options::new(&kafka.brokers)
    }
}

#[cfg(not(feature = "kafka"))]
async fn open_kafka(_: &config::Kafka, _: &Settings, _: Role, _: usize) -> anyhow::Result<Arc<dyn Queue>> {
    bail!("[queue] kind = \"kafka\": this binary was built without Kafka; build it with cargo build --release --features kafka")
}

//! Which queue a process keeps its packets in: the only place of the binary that knows the backends.

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

/// Opens it.
pub(crate) async fn open(settings: &Settings, role: Role, largest_record: usize) -> anyhow::Result<Arc<dyn Queue>> {
    match settings.queue.chosen() {
        config::Queue::Embedded { .. } if role != Role::Run => {
            bail!("an embedded queue belongs to one process, which does everything: use pushline run, or [queue] kind = \"kafka\"")
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
            // Every frame is checked: that may take seconds.
            let queue = tokio::task::spawn_blocking(move || Embedded::open(&options)).await??;
            Ok(Arc::new(queue))
        }
        config::Queue::Kafka(kafka) => open_kafka(kafka, settings, role, largest_record).await,
    }
}

#[cfg(feature = "kafka")]
async fn open_kafka(kafka: &config::Kafka, settings: &Settings, role: Role, largest_record: usize) -> anyhow::Result<Arc<dyn Queue>> {
    use pushline_queue::kafka::{Kafka, Options};

    let options = Options {
        topic_prefix: kafka.topic_prefix.clone(),
        partitions: kafka.partitions,
        properties: kafka.properties.0.clone(),
        serves_partitions: role != Role::Ingest,
        largest_record,
        max_age: settings.backlog.max_age,
        keep_dead_letters: settings.dead_letters.keep,
        dead_letters_max_bytes: settings.dead_letters.max_bytes,
        ..Options::new(&kafka.brokers)
    };
    info!(brokers = options.brokers, topic_prefix = options.topic_prefix, "opening the queue");
    Ok(Arc::new(Kafka::open(&options).await?))
}

#[cfg(not(feature = "kafka"))]
async fn open_kafka(_: &config::Kafka, _: &Settings, _: Role, _: usize) -> anyhow::Result<Arc<dyn Queue>> {
    bail!("this Pushline was built without Kafka: build it with the cargo feature kafka")
}

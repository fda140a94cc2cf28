//! Kafka: do brokers answer, and are the topics as they must be?

use pushline_queue::kafka::{Examined, ExaminedTopic, examine as look_at};

use super::finding::Finding;
use crate::{
    config::{self, Config},
    queue::kafka_options,
    role::Role,
};

pub(super) async fn examine(config: &Config, kafka: &config::Kafka) -> Vec<Finding> {
    let options = kafka_options(kafka, &config.settings, Role::Run, config.largest_record());
    match look_at(&options).await {
        Err(error) => {
            let remedy = "check [queue.kafka] brokers and properties, and that the brokers' advertised addresses can be reached from here";
            vec![Finding::failed("kafka", format!("{}: {}", kafka.brokers, error.with_source()), remedy)]
        }
        Ok(Examined { brokers, topics }) => {
            let brokers = match brokers {
                few @ ..=2 => Finding::warning(
                    "kafka",
                    format!("{}: {}", kafka.brokers, crate::stdout::counted(few, "broker")),
                    "three brokers with replicas on each keep acknowledged packets when one is lost",
                ),
                many => Finding::ok("kafka", format!("{}: {many} brokers", kafka.brokers)),
            };
            std::iter::once(brokers).chain(topics.into_iter().map(of_topic)).collect()
        }
    }
}

fn of_topic(ExaminedTopic { name, state }: ExaminedTopic) -> Finding {
    match state {
        Ok(true) => Finding::ok("kafka", format!("topic {name} is as it must be")),
        Ok(false) => Finding::ok("kafka", format!("topic {name} is missing: the start creates it, with the right to")),
        Err(error) => {
            Finding::failed("kafka", error.with_source(), "run the command above, or give this client the right to describe the topic")
        }
    }
}

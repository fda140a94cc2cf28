//! The cluster's path on one machine, beside one bare subscriber in the same run: gateways, ingest, Kafka (one broker, one copy), deliver, push.

use std::time::Instant;

use anyhow::Result;
use pushline_testkit::{Kafka, Mosquitto, Pushline};

use crate::{
    GROUPS, PACKETS,
    bare::{self, Acks},
    binary,
    compare::webhook_and_groups,
    counter::Counter,
    from_broker, median, process,
    process::Usage,
};

/// Rounds of each side, in turns; the median counts.
const ROUNDS: usize = 3;

const PARTITIONS: u32 = 4;

/// What a round took.
pub(crate) struct Round {
    pub(crate) rate: f64,
    pub(crate) ingest: Usage,
    pub(crate) deliver: Usage,
}

/// Measures and prints.
pub(crate) async fn cluster() -> Result<()> {
    let kafka = Kafka::start().await;
    let (mut ours, mut theirs, mut cpu, mut memory) = (vec![], vec![], [vec![], vec![]], [vec![], vec![]]);
    for round in 1..=ROUNDS {
        let Round { rate, ingest, deliver } = over_kafka(&kafka, None).await?;
        let bare = bare::through_mosquitto(Acks::Automatic).await?;
        println!(
            "round {round}: over Kafka {rate:9.0} packets/s, CPU s a million packets: ingest {:.2}, deliver {:.2}; Mosquitto to rumqttc {bare:9.0} packets/s",
            ingest.cpu_of(PACKETS),
            deliver.cpu_of(PACKETS)
        );
        ours.push(rate);
        theirs.push(bare);
        for (place, usage) in [ingest, deliver].into_iter().enumerate() {
            cpu[place].push(usage.cpu_of(PACKETS));
            memory[place].push((usage.memory >> 20) as f64);
        }
    }
    let ([ingest_cpu, deliver_cpu], [ingest_memory, deliver_memory]) = (cpu.map(median), memory.map(median));
    println!(
        "\nmedians of {ROUNDS} rounds of {PACKETS} packets of 200 bytes, {GROUPS} groups, {PARTITIONS} partitions, QoS 1, acks=all, one broker"
    );
    println!("  packets/s over Kafka, pushed                     {:9.0}", median(ours.clone()));
    println!("  beside Mosquitto to one bare subscriber          {:9.2} times", median(ours) / median(theirs));
    println!("  CPU of ingest                                    {ingest_cpu:9.2} s a million packets, {ingest_memory:.0} MiB resident");
    println!("  CPU of deliver                                   {deliver_cpu:9.2} s a million packets, {deliver_memory:.0} MiB resident");
    Ok(())
}

/// From the first PUBLISH until the last packet was accepted by the receiver. Gateways publish to ingest, or to a broker that it takes packets from.
pub(crate) async fn over_kafka(kafka: &Kafka, broker: Option<&Mosquitto>) -> Result<Round> {
    let dir = tempfile::tempdir()?;
    let receiver = Counter::start().await?;
    let more = webhook_and_groups(receiver.address, GROUPS, 10) + &from_broker::definition(broker);
    let configuration = Pushline::configuration_over_kafka(kafka.brokers(), &kafka.prefix(), PARTITIONS, "", &more);
    let mut roles = Vec::new();
    for role in ["ingest", "deliver"] {
        let own = dir.path().join(role);
        std::fs::create_dir(&own)?;
        roles.push(Pushline::start_as(role, &binary()?, &own, &configuration).await);
    }
    let (ingest, deliver) = (&roles[0], &roles[1]);
    deliver.until_metric("pushline_queue_assigned_partitions", "", |partitions| partitions == f64::from(PARTITIONS)).await;
    let server = from_broker::entry(ingest, broker).await;
    let before = [Usage::of(ingest.pid())?, Usage::of(deliver.pid())?];
    let began = Instant::now();
    let gateways = process::this(&["gateways", &server.to_string(), &PACKETS.to_string(), &GROUPS.to_string()])?;
    receiver.until(PACKETS).await?;
    let rate = PACKETS as f64 / began.elapsed().as_secs_f64();
    let (ingested, delivered) = (Usage::of(ingest.pid())?.since(&before[0]), Usage::of(deliver.pid())?.since(&before[1]));
    process::finished(gateways).await?;
    for role in roles.into_iter().rev() {
        role.terminate().await;
    }
    Ok(Round { rate, ingest: ingested, deliver: delivered })
}

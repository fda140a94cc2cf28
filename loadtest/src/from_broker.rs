//! Packets from Mosquitto, through one box and through the cluster, beside one bare rumqttc subscriber that acknowledges by hand, in the same run.

use std::net::SocketAddr;

use anyhow::Result;
use pushline_testkit::{Kafka, Mosquitto, Pushline};

use crate::{
    GROUPS, PACKETS,
    bare::{self, Acks, RAISED_LIMITS},
    cluster::{Round, over_kafka},
    compare::through_pushline,
};

/// Rounds of each side, in turns; the median counts.
const ROUNDS: usize = 3;

/// The figures of one side, one of each round.
#[derive(Debug, Default)]
struct Figures {
    rates: Vec<f64>,
    cpu: Vec<f64>,
}

/// Measures and prints.
pub(crate) async fn from_broker() -> Result<()> {
    let kafka = Kafka::start().await;
    let (mut bare, mut one_box, mut cluster) = (Figures::default(), Figures::default(), Figures::default());
    for round in 1..=ROUNDS {
        bare.rates.push(bare::through_mosquitto(Acks::Manual).await?);
        let (rate, usage) = with_mosquitto(async |broker| through_pushline(PACKETS, GROUPS, 10, Some(broker)).await).await?;
        one_box.add(rate, usage.cpu_of(PACKETS));
        let Round { rate, ingest, deliver } = with_mosquitto(async |broker| over_kafka(&kafka, Some(broker)).await).await?;
        cluster.add(rate, ingest.cpu_of(PACKETS) + deliver.cpu_of(PACKETS));
        println!(
            "round {round}: bare subscriber {:9.0} packets/s; one box {:9.0}, {:.2} CPU s a million; cluster {:9.0}, ingest {:.2}, deliver {:.2} CPU s a million",
            bare.last_rate(),
            one_box.last_rate(),
            usage.cpu_of(PACKETS),
            cluster.last_rate(),
            ingest.cpu_of(PACKETS),
            deliver.cpu_of(PACKETS)
        );
    }
    println!("\nmedians of {ROUNDS} rounds of {PACKETS} packets of 200 bytes, {GROUPS} groups, QoS 1; in brackets the least and the most");
    println!("                              packets/s                     beside the subscriber   CPU s a million");
    for (name, figures) in [("bare subscriber", &bare), ("one box", &one_box), ("ingest, Kafka and deliver", &cluster)] {
        let beside = Spread::of(&figures.rates).median / Spread::of(&bare.rates).median;
        let cpu = if figures.cpu.is_empty() { String::new() } else { Spread::of(&figures.cpu).to_string(2) };
        println!("  {name:26}  {:28}  {beside:4.2} times              {cpu}", Spread::of(&figures.rates).to_string(0));
    }
    Ok(())
}

impl Figures {
    fn add(&mut self, rate: f64, cpu: f64) {
        self.rates.push(rate);
        self.cpu.push(cpu);
    }

    fn last_rate(&self) -> f64 {
        self.rates.last().copied().unwrap_or_default()
    }
}

/// The median of some figures, the least and the most.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(figures: &[f64]) -> Self {
        let mut figures = figures.to_vec();
        figures.sort_by(f64::total_cmp);
        let at = |place: usize| figures.get(place).copied().unwrap_or_default();
        Self { median: at(figures.len() / 2), least: at(0), most: at(figures.len().saturating_sub(1)) }
    }

    fn to_string(&self, decimals: usize) -> String {
        let Self { median, least, most } = self;
        format!("{median:.decimals$} ({least:.decimals$} to {most:.decimals$})")
    }
}

/// Each round gets a Mosquitto of its own.
async fn with_mosquitto<T>(measure: impl AsyncFnOnce(&Mosquitto) -> Result<T>) -> Result<T> {
    let dir = tempfile::tempdir()?;
    measure(&Mosquitto::start(dir.path(), RAISED_LIMITS).await).await
}

/// The broker in Pushline's configuration, if packets come from one.
pub(crate) fn definition(broker: Option<&Mosquitto>) -> String {
    let define = |broker: &Mosquitto| format!("[[mqtt.brokers]]\nurl = \"mqtt://{}\"\nclient_id = \"pushline\"\n", broker.address);
    broker.map(define).unwrap_or_default()
}

/// Where gateways publish, once Pushline has subscribed.
pub(crate) async fn entry(pushline: &Pushline, broker: Option<&Mosquitto>) -> SocketAddr {
    let Some(broker) = broker else { return pushline.mqtt };
    pushline.until_metric("pushline_ingest_broker_connections", "", |connections| connections == 1.0).await;
    broker.address
}

//! How long a packet takes on a quiet system, from publishing until its push arrives: alone, when its window has to pass, and in a full message of ten.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use pushline_testkit::{Gateway, Kafka, Pushline};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::{binary, compare::configuration, counter::Counter, gateways::payload_of_now};

const GROUPS: usize = 100;

/// A group's next message comes once its window has passed.
const MESSAGES: usize = 600;
const EVERY: Duration = Duration::from_millis(20);

/// The window of a webhook that sets none, in milliseconds.
const WINDOW: f64 = 1000.0;

/// Records a second on one partition, the groups that they belong to, and for how many seconds.
const QUIET: [(u32, usize, u32); 2] = [(1, 5, 120), (20, 20, 60)];

/// Measures and prints how late messages of a quiet system are: how long after the end of its window a message arrives, counted from the time at
/// which its first packet was published. On one box, and over Kafka (one broker, one partition).
pub(crate) async fn quiet() -> Result<()> {
    println!("milliseconds from the end of a window until its push arrives; records come at random times");
    let kafka = Kafka::start().await;
    for (rate, groups, seconds) in QUIET {
        for (name, kafka) in [("one box", None), ("Kafka", Some(&kafka))] {
            let (p50, p99) = lateness(kafka, rate, groups, seconds).await?;
            println!("  {name:8} {rate:3} records a second, {groups:3} groups: p50 {p50:7.1}, p99 {p99:7.1}");
        }
    }
    Ok(())
}

/// Half and 99 of 100 messages were at most this many milliseconds late.
async fn lateness(kafka: Option<&Kafka>, rate: u32, groups: usize, seconds: u32) -> Result<(f64, f64)> {
    let dir = tempfile::tempdir()?;
    let receiver = Counter::start().await?;
    let mut processes = Vec::new();
    match kafka {
        None => processes.push(Pushline::start(&binary()?, dir.path(), &configuration(receiver.address, groups, 10)).await),
        Some(kafka) => {
            let configuration = over_kafka(kafka, receiver.address, groups);
            for role in ["ingest", "deliver"] {
                let own = dir.path().join(role);
                std::fs::create_dir(&own)?;
                processes.push(Pushline::start_as(role, &binary()?, &own, &configuration).await);
            }
            processes[1].until_metric("pushline_queue_assigned_partitions", "", |partitions| partitions == 1.0).await;
        }
    }
    let mut gateway = Gateway::connect(processes[0].mqtt, "gateway").await?;
    let (mut rng, mut next) = (fastrand::Rng::with_seed(1), Instant::now());
    let records = rate * seconds;
    for _ in 0..records {
        // Exponential pauses: the records are a Poisson process.
        let pause = -(1.0 - rng.f64()).ln() / f64::from(rate);
        next += Duration::from_secs_f64(pause);
        sleep_until(next).await;
        gateway.publish(&[(format!("o{}/897612653856700001", rng.usize(0..groups)), payload_of_now())]).await?;
    }
    receiver.until(records.into()).await?;
    let late = |micros: u64| micros as f64 / 1000.0 - WINDOW;
    let lateness = (late(receiver.percentile_of_first(50).await?), late(receiver.percentile_of_first(99).await?));
    for process in processes.into_iter().rev() {
        process.terminate().await;
    }
    Ok(lateness)
}

fn over_kafka(kafka: &Kafka, receiver: SocketAddr, groups: usize) -> String {
    let group = |number| format!("[[groups]]\norg = \"o{number}\"\nname = \"g\"\nwebhook = \"w\"\ndefault = true\n");
    let groups: String = (0..groups).map(group).collect();
    let more = format!("[[webhooks]]\nname = \"w\"\nurl = \"http://{receiver}/push\"\n{groups}");
    Pushline::configuration_over_kafka(kafka.brokers(), &kafka.prefix(), 1, "", &more)
}

/// Measures and prints.
pub(crate) async fn latency() -> Result<()> {
    println!("milliseconds from publishing until the push arrives, on a quiet system, {MESSAGES} messages");
    for (name, packets) in [("a packet alone (its window is 1000 ms)", 1), ("the packets of a full message of ten", 10)] {
        let (p50, p99) = ages(packets).await?;
        println!("  {name:40} p50 {p50:7.1}, p99 {p99:7.1}");
    }
    Ok(())
}

/// Half and 99 of 100 packets were at most so many milliseconds old.
async fn ages(packets: usize) -> Result<(f64, f64)> {
    let dir = tempfile::tempdir()?;
    let receiver = Counter::start().await?;
    let pushline = Pushline::start(&binary()?, dir.path(), &configuration(receiver.address, GROUPS, 10)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "gateway").await?;
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for message in 0..MESSAGES {
        clock.tick().await;
        let packet = (format!("o{}/897612653856700001", message % GROUPS), payload_of_now());
        gateway.publish(&vec![packet; packets]).await?;
    }
    receiver.until((MESSAGES * packets) as u64).await?;
    let millis = |micros: u64| micros as f64 / 1000.0;
    let ages = (millis(receiver.percentile(50).await?), millis(receiver.percentile(99).await?));
    pushline.terminate().await;
    Ok(ages)
}

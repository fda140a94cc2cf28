//! How long a packet takes on a quiet system, from publishing until its push arrives: alone, when its window has to pass, and in a full message of ten.

use std::time::Duration;

use anyhow::Result;
use pushline_testkit::{Gateway, Pushline};
use tokio::time::{MissedTickBehavior, interval};

use crate::{binary, compare::configuration, counter::Counter, gateways::payload_of_now};

const GROUPS: usize = 100;

/// A group's next message comes once its window has passed.
const MESSAGES: usize = 600;
const EVERY: Duration = Duration::from_millis(20);

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

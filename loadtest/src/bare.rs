//! What the same gateways do with Mosquitto and a bare subscriber in place of Pushline.

use std::{collections::VecDeque, time::Instant};

use anyhow::Result;
use pushline_testkit::Mosquitto;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS};

use crate::{GROUPS, PACKETS, process};

/// Mosquitto with raised limits, since by default it sends 20 packets ahead. It keeps nothing on the disk.
pub(crate) const RAISED_LIMITS: &str = "set_tcp_nodelay true\nmax_inflight_messages 0\npersistence false\n";

/// Requests that may wait for the client.
const REQUESTS: usize = 128;

/// How a subscriber acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acks {
    /// rumqttc does it by itself, when it has read a packet.
    Automatic,
    /// The program does it, as each one must that first makes a packet durable.
    Manual,
}

/// Packets a second through Mosquitto to one bare rumqttc subscriber at QoS 1. Its in-flight and queue limits are raised: by default it drops.
pub(crate) async fn through_mosquitto(acks: Acks) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let mosquitto = Mosquitto::start(dir.path(), RAISED_LIMITS).await;
    let mut options = MqttOptions::new("bare", "127.0.0.1", mosquitto.address.port());
    options.set_max_packet_size(1 << 20, 1 << 20).set_inflight(1000).set_manual_acks(acks == Acks::Manual);
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    client.subscribe("#", QoS::AtLeastOnce).await?;
    while !matches!(events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
    let began = Instant::now();
    let gateways = process::this(&["gateways", &mosquitto.address.to_string(), &PACKETS.to_string(), &GROUPS.to_string()])?;
    let (mut received, mut unacknowledged) = (0, VecDeque::new());
    while received < PACKETS || !unacknowledged.is_empty() {
        if let Event::Incoming(Packet::Publish(publish)) = events.poll().await? {
            received += 1;
            unacknowledged.extend((acks == Acks::Manual).then_some(publish));
        }
        acknowledge(&client, &mut unacknowledged);
    }
    let took = began.elapsed();
    process::finished(gateways).await?;
    Ok(PACKETS as f64 / took.as_secs_f64())
}

/// Passes acknowledgements on until the client takes no more: the task that polls it must not wait for it.
fn acknowledge(client: &AsyncClient, unacknowledged: &mut VecDeque<Publish>) {
    while unacknowledged.front().is_some_and(|publish| client.try_ack(publish).is_ok()) {
        unacknowledged.pop_front();
    }
}

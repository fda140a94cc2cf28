//! The gateways: eight connections that publish as fast as they are acknowledged, or at a pace, with the time in each packet.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use pushline_testkit::Gateway;
use tokio::{task::JoinSet, time::interval};

const CONNECTIONS: u64 = 8;

/// Packets that are written before acknowledgements are looked at again.
const BATCH: u64 = 1000;

/// Publishes so many packets over all groups.
pub(crate) async fn publish(server: SocketAddr, packets: u64, groups: u64) -> Result<()> {
    let mut gateways = JoinSet::new();
    for number in 0..CONNECTIONS {
        gateways.spawn(gateway(server, number, packets / CONNECTIONS, groups));
    }
    while let Some(ended) = gateways.join_next().await {
        ended??;
    }
    Ok(())
}

async fn gateway(server: SocketAddr, number: u64, packets: u64, groups: u64) -> Result<()> {
    let mut gateway = Gateway::connect(server, &format!("gateway-{number}")).await?;
    let payload = vec![b'p'; 200];
    let packet = |place: u64| (format!("o{}/8976126538567{number:05}", (number + place) % groups), payload.clone());
    // Once round all groups, in whole batches.
    let ring: Vec<(String, Vec<u8>)> = (0..groups.next_multiple_of(BATCH)).map(packet).collect();
    let mut left = packets;
    for batch in ring.chunks(usize::try_from(BATCH)?).cycle() {
        let now = usize::try_from(left.min(BATCH))?;
        gateway.publish(&batch[..now]).await?;
        left -= now as u64;
        if left == 0 {
            break;
        }
    }
    Ok(())
}

/// Paced gateways publish so often.
const TICK: Duration = Duration::from_millis(10);

/// Publishes at a rate, over all groups, packets that carry their time.
pub(crate) async fn publish_paced(server: SocketAddr, rate: u64, seconds: u64, groups: u64) -> Result<()> {
    let mut gateways = JoinSet::new();
    for number in 0..CONNECTIONS {
        gateways.spawn(paced(server, number, rate / CONNECTIONS / 100, seconds * 100, groups));
    }
    while let Some(ended) = gateways.join_next().await {
        ended??;
    }
    Ok(())
}

async fn paced(server: SocketAddr, number: u64, each: u64, ticks: u64, groups: u64) -> Result<()> {
    let mut gateway = Gateway::connect(server, &format!("gateway-{number}")).await?;
    let mut clock = interval(TICK);
    for tick in 0..ticks {
        clock.tick().await;
        let payload = payload_of_now();
        let packet = |place: u64| (format!("o{}/8976126538567{number:05}", (number + tick * each + place) % groups), payload.clone());
        let batch: Vec<(String, Vec<u8>)> = (0..each).map(packet).collect();
        gateway.publish(&batch).await?;
    }
    Ok(())
}

/// 200 bytes that begin with `T` and the microseconds since 1970 at which they are published.
pub(crate) fn payload_of_now() -> Vec<u8> {
    format!("T{:016}{}", now_micros(), "p".repeat(183)).into_bytes()
}

/// Microseconds since 1970.
pub(crate) fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

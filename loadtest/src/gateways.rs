//! The gateways: eight connections that publish as fast as they are acknowledged.

use std::net::SocketAddr;

use anyhow::Result;
use pushline_testkit::Gateway;
use tokio::task::JoinSet;

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
    let batch: Vec<(String, Vec<u8>)> = (0..BATCH).map(packet).collect();
    let mut left = packets;
    while left > 0 {
        let now = usize::try_from(left.min(BATCH))?;
        gateway.publish(&batch[..now]).await?;
        left -= now as u64;
    }
    Ok(())
}

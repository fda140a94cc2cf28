//! What the same gateways do with Mosquitto and a bare subscriber in place of Pushline.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
    time::sleep,
};

use crate::{GROUPS, PACKETS, process};

/// Packets a second through Mosquitto to one bare rumqttc subscriber at QoS 1. Its in-flight and queue limits are raised: by default it drops.
pub(crate) async fn through_mosquitto() -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let server = free_port().await?;
    let port = server.port();
    let configuration = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_inflight_messages 0\nmax_queued_messages 0\nlog_dest none\npersistence false\n"
    );
    let path = dir.path().join("mosquitto.conf");
    std::fs::write(&path, configuration)?;
    let mosquitto = Command::new("mosquitto").arg("-c").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn();
    let _mosquitto = mosquitto.context("the comparison needs mosquitto: apt-get install mosquitto")?;
    while TcpStream::connect(server).await.is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    let mut options = MqttOptions::new("bare", "127.0.0.1", port);
    options.set_max_packet_size(1 << 20, 1 << 20).set_inflight(1000);
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("#", QoS::AtLeastOnce).await?;
    while !matches!(events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
    let began = Instant::now();
    let gateways = process::this(&["gateways", &server.to_string(), &PACKETS.to_string(), &GROUPS.to_string()])?;
    let mut received = 0;
    while received < PACKETS {
        if let Event::Incoming(Packet::Publish(_)) = events.poll().await? {
            received += 1;
        }
    }
    let took = began.elapsed();
    process::finished(gateways).await?;
    Ok(PACKETS as f64 / took.as_secs_f64())
}

async fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

//! What the same gateways and the same receiver do without Pushline.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinSet,
    time::sleep,
};

use crate::{GROUPS, PACKETS, counter::Counter, process};

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

/// Messages a second of sixteen bare hyper connections that post bodies as large as Pushline's messages of so many packets.
pub(crate) async fn post(packets: u64, max_packets: u64) -> Result<f64> {
    const CONNECTIONS: u64 = 16;
    let receiver = Counter::start().await?;
    let packet =
        format!("{{\"ICCID\":897612653856700000,\"Timestamp\":\"2023-10-16T09:17:32.1233516Z\",\"Payload\":\"{}\"}}", "p".repeat(200));
    let packets_of_one = vec![packet; usize::try_from(max_packets)?].join(",");
    let body = Bytes::from(if max_packets == 1 { packets_of_one } else { format!("[{packets_of_one}]") });
    let messages = packets / max_packets;
    let began = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn(post_on_one(receiver.address, body.clone(), messages / CONNECTIONS));
    }
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    Ok(messages as f64 / began.elapsed().as_secs_f64())
}

async fn post_on_one(server: SocketAddr, body: Bytes, messages: u64) -> Result<()> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    for _ in 0..messages {
        let request = Request::post("/push").header("host", server.to_string()).header("content-type", "application/json; charset=utf-8");
        sender.ready().await?;
        let response = sender.send_request(request.body(Full::new(body.clone()))?).await?;
        response.into_body().collect().await?;
    }
    Ok(())
}

async fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

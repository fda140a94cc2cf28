//! Why an endpoint fails, as the log and the dead letters say it.

use std::collections::HashMap;

use pushline_testkit::{Gateway, Pushline, ScriptedReceiver, folder, get};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{BINARY, group, packets, webhook};

/// A server that answers each connection with these bytes and closes it.
async fn answering(bytes: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Not before its request has begun.
            drop(stream.read(&mut [0; 4096]).await);
            drop(stream.write_all(bytes).await);
        }
    });
    address
}

#[tokio::test]
async fn the_log_and_the_dead_letters_say_why_an_endpoint_gave_no_response() {
    let dir = folder();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let http = answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let ssh = answering(b"SSH-2.0-OpenSSH_9.6\r\n").await;
    let lengths = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx").await;
    let length = answering(b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n").await;
    let closes = answering(b"").await;
    let expected: [(&str, String, &str, &str); 6] = [
        ("closed", format!("http://{closed}/"), "connect", "connection refused"),
        ("plain", format!("https://{http}/"), "tls", "isn't TLS"),
        ("ssh", format!("http://{ssh}/"), "malformed", "SSH-2.0-OpenSSH_9.6"),
        ("lengths", format!("http://{lengths}/"), "malformed", "content-length"),
        ("length", format!("http://{length}/"), "malformed", "content-length"),
        ("closes", format!("http://{closes}/"), "connection_lost", "before a status arrived"),
    ];
    let each =
        |(name, url, ..): &(&str, String, &str, &str)| webhook(name, url, "retries = 0\nwindow = \"50ms\"") + &group(name, "g", name);
    let configuration: String = expected.iter().map(each).collect();
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    for (name, ..) in &expected {
        gateway.publish(&packets(&format!("{name}/1"), ["x"])).await.unwrap();
    }
    pushline.until_metric("pushline_packets_dead_lettered_total", "no_response", |packets| packets == 6.0).await;
    let (_, lines) = get(pushline.admin, "/dead-letters").await.unwrap();
    let dead_letters: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let by_webhook: HashMap<&str, &Value> =
        dead_letters.iter().map(|dead_letter| (dead_letter["webhook"].as_str().unwrap(), dead_letter)).collect();
    let log = pushline.log();
    for (name, _, class, cause) in expected {
        let attempt = &by_webhook[name]["attempts"][0];
        assert_eq!(attempt["no_response"], class, "{attempt}");
        assert!(attempt["cause"].as_str().unwrap().contains(cause), "{attempt}");
        let is_its_line = |line: &&str| line.contains("began to fail") && line.contains(&format!(" webhook={name} "));
        let lines: Vec<&str> = log.lines().filter(is_its_line).collect();
        assert!(lines.len() == 1 && lines[0].contains(cause), "{name}: {lines:?}");
    }
}

#[tokio::test]
async fn a_webhook_that_begins_to_fail_and_recovers_is_a_line_each() {
    let dir = folder();
    let receiver =
        ScriptedReceiver::start(|arrival| async move { Some(if arrival.payloads[0].starts_with("bad") { 401 } else { 200 }) }).await;
    let pushline = crate::start(dir.path(), &receiver.url(), "max_packets = 1\nconcurrency = 1").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["fine", "bad 1", "bad 2", "bad 3", "fine", "fine"])).await.unwrap();
    pushline.until_quiet().await;
    assert_eq!(pushline.metric("pushline_webhooks_failing", "").await, 0.0);
    let log = pushline.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("webhook=")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("began to fail") && lines[0].contains("HTTP status 401"), "{}", lines[0]);
    assert!(lines[1].contains("accepts messages again") && lines[1].contains("failed_attempts=3"), "{}", lines[1]);
}

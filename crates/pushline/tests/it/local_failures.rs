//! What this machine lacks is no endpoint's fault: the message waits, and no webhook is marked.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use pushline_testkit::{Behaviour, Gateway, PATIENCE, Pushline, Receiver, folder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{BINARY, group, packets, webhook};

/// More connections at once than the process may have open.
const WEBHOOKS: usize = 20;
const PACKETS: usize = 16;

/// Starts a process that may open this many files.
async fn start_with(open_files: usize, dir: &Path, configuration: &str) -> Pushline {
    let limited = dir.join("limited");
    fs::write(&limited, format!("#!/bin/sh\nulimit -n {open_files}\nexec {BINARY} \"$@\"\n")).unwrap();
    fs::set_permissions(&limited, fs::Permissions::from_mode(0o700)).unwrap();
    Pushline::start(limited.to_str().unwrap(), dir, configuration).await
}

async fn slow_receiver() -> Receiver {
    let slow = Behaviour { status: 200, delay: Duration::from_millis(500), hang: false, every: 1 };
    Receiver::start(([127, 0, 0, 1], 0).into(), slow, drop).await.unwrap()
}

#[tokio::test]
async fn more_pushes_than_file_descriptors_wait_and_are_all_delivered() {
    let (dir, receiver) = (folder(), slow_receiver().await);
    let url = format!("http://{}/", receiver.address());
    let each =
        |number: usize| webhook(&format!("w{number}"), &url, "max_packets = 1") + &group(&format!("o{number}"), "g", &format!("w{number}"));
    let configuration: String = (0..WEBHOOKS).map(each).collect();
    let pushline = start_with(128, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    for number in 0..WEBHOOKS {
        gateway.publish(&packets(&format!("o{number}/1"), (0..PACKETS).map(|packet| packet.to_string()))).await.unwrap();
    }
    pushline.until_quiet().await;
    assert_eq!(pushline.metric("pushline_packets_delivered_total", "").await, (WEBHOOKS * PACKETS) as f64);
    assert_eq!(pushline.dead_letters("dead-letters").await, []);
    assert!(!pushline.log().contains("began to fail"), "{}", pushline.log());
}

#[tokio::test]
async fn devices_leave_file_descriptors_to_pushes_and_to_the_queue() {
    let (dir, receiver) = (folder(), slow_receiver().await);
    let configuration = webhook("w", &format!("http://{}/", receiver.address()), "max_packets = 1") + &group("mti", "g", "w");
    let pushline = start_with(128, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    // The system takes all of them; those beyond the limit get no answer to their CONNECT.
    let mut devices = Vec::new();
    for _ in 0..128 {
        let mut device = TcpStream::connect(pushline.mqtt).await.unwrap();
        device.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00").await.unwrap();
        devices.push(device);
    }
    let full = async {
        while !pushline.log().contains("connection limit reached") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, full).await.unwrap();
    gateway.publish(&packets("mti/1", (0..PACKETS).map(|packet| packet.to_string()))).await.unwrap();
    pushline.until_quiet().await;
    assert_eq!(pushline.metric("pushline_packets_delivered_total", "").await, PACKETS as f64);
    assert_eq!(pushline.metric("pushline_deliver_local_failures_total", "").await, 0.0);
    // One that waits is served when others leave.
    let mut last = devices.pop().unwrap();
    drop(devices);
    assert_eq!(timeout(PATIENCE, last.read_u8()).await.unwrap().unwrap(), 0x20, "CONNACK");
}

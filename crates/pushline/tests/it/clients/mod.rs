//! Real client libraries through kills of the listener. A test drives a client program, kills Pushline while packets are on their way, and starts it again. Every
//! packet that the client had is acknowledged in the end, since its library keeps what isn't, and every acknowledged packet was pushed. What the library sent
//! again is another record at QoS 1: the test prints how many packets came twice.
//!
//! | what | where |
//! |---|---|
//! | a program that a test drives | `publisher.rs` |
//! | the programs | `programs.rs`, `programs/` |
//! | rumqttc, as a thread of the test | `rumqttc.rs` |
//! | a Mosquitto that passes packets on | `bridge.rs` |

mod bridge;
mod programs;
mod publisher;
mod rumqttc;

use std::{path::Path, sync::Arc, time::Duration};

use pushline_testkit::{Inbox, Ledger, PATIENCE, Pushline, folder, free_port};
use tokio::time::Instant;

use self::{
    bridge::bridge,
    programs::{Client, MOSQUITTO_PUB, MQTT_JS, PAHO_GOLANG, PAHO_JAVA, PAHO_MQTT_GOLANG, PAHO_PYTHON},
    publisher::Publisher,
};
use crate::{BINARY, amount, group, webhook};

/// Pushline whose listener keeps its port over restarts.
async fn start(dir: &Path, inbox: &Inbox) -> Pushline {
    let port = free_port();
    let more = format!("{}{}", webhook("w", &inbox.url(), "window = \"200ms\""), group("mti", "g", "w"));
    let configuration = Pushline::configuration(&more);
    let configuration = configuration.replacen("address = \"127.0.0.1:0\"", &format!("address = \"127.0.0.1:{port}\""), 1);
    Pushline::start(BINARY, dir, &configuration).await
}

/// Publishes bursts, ends Pushline while a burst is on its way, and starts it again. Every third end is a clean one.
async fn publish_through_kills(mut publisher: Publisher, mut pushline: Pushline, dir: &Path) -> (usize, Arc<Ledger>, Pushline) {
    for round in 0..amount(3, 20) {
        let (before, burst) = (publisher.acknowledged(), fastrand::usize(100..400));
        publisher.publish(burst);
        publisher.until_acknowledged(before + fastrand::usize(1..burst / 2)).await;
        if round % 3 == 2 {
            drop(pushline.terminate().await);
        } else {
            pushline.kill().await;
        }
        publisher.publish(20);
        pushline = Pushline::start_again(BINARY, dir).await;
    }
    let (published, ledger) = publisher.finish().await;
    (published, ledger, pushline)
}

/// Takes pushes until every packet that the client had has come.
async fn check(inbox: &mut Inbox, ledger: &Ledger, published: usize, what: &str) {
    ledger.acknowledged((0..published).map(publisher::payload));
    let deadline = Instant::now() + PATIENCE;
    while !ledger.missing().is_empty() && Instant::now() < deadline {
        inbox.rest(Duration::from_millis(500)).await.iter().for_each(|push| ledger.arrived(push));
    }
    ledger.check();
    println!("{what}: {published} packets, {} came twice", ledger.twice());
}

async fn nothing_is_lost(client: &Client, qos: u8) {
    let (dir, mut inbox) = (folder(), Inbox::start().await);
    let pushline = start(dir.path(), &inbox).await;
    let publisher = Publisher::start(client, pushline.mqtt.port(), qos, dir.path());
    let (published, ledger, pushline) = publish_through_kills(publisher, pushline, dir.path()).await;
    check(&mut inbox, &ledger, published, client.name).await;
    pushline.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_pub_loses_nothing_through_kills_of_the_listener() {
    nothing_is_lost(&MOSQUITTO_PUB, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paho_python_loses_nothing_through_kills_of_the_listener() {
    nothing_is_lost(&PAHO_PYTHON, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long part `clients`: paho Java comes from Maven Central"]
async fn paho_java_loses_nothing_through_kills_of_the_listener() {
    nothing_is_lost(&PAHO_JAVA, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long part `clients`: MQTT.js comes from npm"]
async fn mqtt_js_loses_nothing_through_kills_of_the_listener() {
    nothing_is_lost(&MQTT_JS, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long part `clients`: it compiles a program with paho.golang"]
async fn paho_golang_loses_nothing_through_kills_of_the_listener() {
    nothing_is_lost(&PAHO_GOLANG, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long part `clients`: it compiles a program with paho.mqtt.golang"]
async fn paho_mqtt_golang_loses_nothing_through_kills_of_the_listener() {
    nothing_is_lost(&PAHO_MQTT_GOLANG, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_loses_nothing_through_kills_of_the_listener() {
    let (dir, mut inbox) = (folder(), Inbox::start().await);
    let pushline = start(dir.path(), &inbox).await;
    let publisher = Publisher::start_rumqttc(pushline.mqtt.port(), 1);
    let (published, ledger, pushline) = publish_through_kills(publisher, pushline, dir.path()).await;
    check(&mut inbox, &ledger, published, "rumqttc").await;
    pushline.terminate().await;
}

/// Here Mosquitto acknowledges packets to its device, and owes them to Pushline.
#[tokio::test(flavor = "multi_thread")]
async fn a_mosquitto_bridge_of_each_version_loses_nothing_through_kills_of_the_listener() {
    for version in ["mqttv31", "mqttv311", "mqttv50"] {
        let (dir, data, mut inbox) = (folder(), folder(), Inbox::start().await);
        let pushline = start(dir.path(), &inbox).await;
        let mosquitto = bridge(version, pushline.mqtt.port(), 1, data.path()).await;
        let publisher = Publisher::start(&MOSQUITTO_PUB, mosquitto.address.port(), 1, data.path());
        let (published, ledger, pushline) = publish_through_kills(publisher, pushline, dir.path()).await;
        check(&mut inbox, &ledger, published, version).await;
        pushline.terminate().await;
    }
}

//! Connections to customers' servers: made once, used again.

use pushline_testkit::{Gateway, Pushline, ScriptedReceiver, folder};

use crate::{packets, start};

const MESSAGES: usize = 60;

async fn pushed(dir: &std::path::Path, options: &str) -> (Pushline, ScriptedReceiver) {
    let receiver = ScriptedReceiver::start(|_| async { Some(200) }).await;
    let pushline = start(dir, &receiver.url(), &format!("max_packets = 1\n{options}")).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..MESSAGES).map(|number| number.to_string()))).await.unwrap();
    pushline.until_quiet().await;
    (pushline, receiver)
}

#[tokio::test]
async fn messages_that_follow_each_other_share_one_connection() {
    let dir = folder();
    let (pushline, receiver) = pushed(dir.path(), "order = \"strict\"").await;
    assert_eq!(receiver.connections(), 1);
    let taken = async |reused: bool| pushline.metric("pushline_deliver_connections_total", &format!("reused=\"{reused}\"")).await;
    assert_eq!((taken(false).await, taken(true).await), (1.0, MESSAGES as f64 - 1.0));
}

#[tokio::test]
async fn there_are_never_more_connections_than_messages_in_flight() {
    let dir = folder();
    let (_pushline, receiver) = pushed(dir.path(), "concurrency = 3").await;
    assert!((1..=3).contains(&receiver.connections()), "{}", receiver.connections());
}

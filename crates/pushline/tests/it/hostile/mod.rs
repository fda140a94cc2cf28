//! Servers that behave badly (docs/hostile-receiver.md).

mod cells;
mod table;

use std::time::Duration;

use pushline_testkit::{CertificateAuthority, Gateway, HostileProtocol, HostileServer, Pushline, folder};

use crate::{BINARY, group, packets, webhook};

#[tokio::test]
async fn a_connection_whose_server_never_read_the_last_request_is_not_used_again() {
    let dir = folder();
    let (authority, timeout) = (CertificateAuthority::new(), Duration::ZERO);
    let receiver = HostileServer::start("413-and-never-reads", HostileProtocol::Http1, timeout, &authority).await;
    // Larger than what two sockets take in between.
    let options = "max_packets = 1\nmax_body_bytes = \"32MiB\"";
    let configuration = format!("{}{}", webhook("w", &receiver.url(), options), group("mti", "g", "w"));
    let configuration =
        Pushline::configuration(&configuration).replace("[[mqtt.listeners]]\n", "[[mqtt.listeners]]\nmax_payload_bytes = \"32MiB\"\n");
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", [vec![b'x'; 20 << 20]])).await.unwrap();
    pushline.until_metric("pushline_packets_dead_lettered_total", "error_response", |count| count == 1.0).await;
    gateway.publish(&packets("mti/1", ["small"])).await.unwrap();
    pushline.until_metric("pushline_packets_dead_lettered_total", "error_response", |count| count == 2.0).await;
    assert_eq!(receiver.ids().len(), 2, "each on a connection of its own");
    pushline.kill().await;
}

#[tokio::test]
async fn an_address_that_may_not_be_dialled_is_a_dead_letter_without_retry() {
    let dir = folder();
    let configuration = format!(
        "{}{}{}{}",
        webhook("w", "http://127.0.0.1:9/", ""),
        webhook("v", "http://[::ffff:169.254.169.254]/", ""),
        group("mti", "g", "w"),
        group("oti", "g", "v")
    );
    let configuration = Pushline::configuration(&configuration).replace("allow = [\"127.0.0.0/8\"]", "allow = []");
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&[("mti/1".into(), b"a".to_vec()), ("oti/1".into(), b"b".to_vec())]).await.unwrap();
    pushline.until_metric("pushline_packets_dead_lettered_total", "blocked_address", |count| count == 2.0).await;
    for letter in pushline.dead_letters("dead-letters").await {
        assert_eq!((letter.cause.as_str(), letter.attempts), ("blocked_address", 1));
        assert!(letter.response.contains("[egress] allow"), "{}", letter.response);
    }
}

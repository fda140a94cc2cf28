//! A deaf server of HTTP/2: it takes connections and streams, and answers nothing.

use std::time::Duration;

use pushline_testkit::{Gateway, PATIENCE, folder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::sockets::sockets_to;
use crate::{packets, start};

/// An empty SETTINGS frame (RFC 9113 §6.5).
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Serves until it is dropped. Whether it reads or not, it never answers.
async fn deaf_server(reads: bool) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, mut serving) = (listener.local_addr().unwrap().port(), JoinSet::new());
    serving.spawn(async move {
        // Both halves stay open: the client has to close.
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&SETTINGS).await.unwrap();
            let (mut reader, writer) = stream.into_split();
            writers.push(writer);
            if reads {
                tokio::spawn(async move { while reader.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {} });
            } else {
                readers.push(reader);
            }
        }
    });
    (port, serving)
}

#[tokio::test]
async fn a_deaf_http_2_server_has_no_socket_of_ours_left_after_the_timeouts() {
    for reads in [true, false] {
        let (dir, (port, _serving)) = (folder(), deaf_server(reads).await);
        let options = "http_version = \"2\"\ntimeout = \"500ms\"\nretries = 0\nmax_packets = 1";
        let pushline = start(dir.path(), &format!("http://127.0.0.1:{port}/"), options).await;
        let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
        gateway.publish(&packets("mti/1", (0..20).map(|number| format!("{number} {}", "x".repeat(50_000))))).await.unwrap();
        let connected = async {
            while sockets_to(port).is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, connected).await.expect("the server gets a connection");
        pushline.until_quiet().await;
        let closed = async {
            while !sockets_to(port).is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, closed)
            .await
            .unwrap_or_else(|_| panic!("{} sockets stay open (the server reads: {reads})", sockets_to(port).len()));
        let dead = pushline.dead_letters("dead-letters").await;
        assert_eq!(dead.len(), 20);
        assert!(dead.iter().all(|letter| letter.cause == "no_response"), "{:?}", dead.first());
    }
}

#[tokio::test]
async fn a_deaf_http_2_server_that_answers_no_ping_is_a_lost_connection_before_the_timeout() {
    let (dir, (port, _serving)) = (folder(), deaf_server(true).await);
    let options = "http_version = \"2\"\nretries = 0\nwindow = \"10ms\"";
    let pushline = start(dir.path(), &format!("http://127.0.0.1:{port}/"), options).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["x"])).await.unwrap();
    pushline.until_quiet().await;
    let dead = pushline.dead_letters("dead-letters").await;
    let [(class, cause)] = &dead[0].no_responses[..] else { panic!("{dead:?}") };
    assert_eq!(class, "connection_lost", "{cause}");
}

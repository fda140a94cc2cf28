//! A server that asks by `Retry-After` to be left alone is (docs/delivery.md, Suspension).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pushline_testkit::{Gateway, RawReceiver, folder, get};
use tokio::{sync::mpsc, time::Instant};

use crate::{packets, reload::until_logged, start};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn nothing_is_sent_before_the_time_that_the_server_named_and_everything_after_it() {
    let dir = folder();
    let (arrived, mut arrivals) = mpsc::channel(100);
    let count = Arc::new(AtomicUsize::new(0));
    let receiver = RawReceiver::start(move |request| {
        arrived.try_send((Instant::now(), request.header("webhook-id").unwrap().to_owned())).unwrap();
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => "HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n".into(),
            _ => OK.into(),
        }
    });
    let receiver = receiver.await;
    let options = "retry_on_status = [503]\nretry_delays = [\"10ms\"]\nmax_packets = 1\nconcurrency = 1\nwindow = \"10ms\"";
    let pushline = start(dir.path(), &receiver.url(), options).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..5).map(|number| format!("p{number}")))).await.unwrap();
    pushline.until_metric("pushline_webhooks_suspended", "", |suspended| suspended == 1.0).await;
    until_logged(&pushline, "webhook suspended: its server asked for that by Retry-After", 1).await;
    gateway.publish(&packets("mti/2", ["later"])).await.unwrap();
    pushline.until_quiet().await;
    until_logged(&pushline, "webhook no longer suspended", 1).await;
    let mut seen = Vec::new();
    while let Ok(one) = arrivals.try_recv() {
        seen.push(one);
    }
    assert_eq!(seen.len(), 7, "the first message twice, five others once: {seen:?}");
    assert_eq!(seen[0].1, seen[1].1, "the same message, under the same id");
    assert!(seen[1].0 - seen[0].0 >= Duration::from_secs(2), "{:?}", seen[1].0 - seen[0].0);
    pushline.until_metric("pushline_webhooks_suspended", "", |suspended| suspended == 0.0).await;
}

#[tokio::test]
async fn a_dead_letter_shows_where_the_server_pointed_to_and_when_it_wanted_to_be_asked_again() {
    let dir = folder();
    let moved =
        "HTTP/1.1 301 Moved\r\nLocation: http://10.0.0.1/\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n";
    let receiver = RawReceiver::start(|_| moved.into()).await;
    let pushline = start(dir.path(), &receiver.url(), "window = \"10ms\"").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["p"])).await.unwrap();
    pushline.until_quiet().await;
    let (_, letters) = get(pushline.admin, "/dead-letters").await.unwrap();
    assert!(letters.contains(r#""status":301"#), "{letters}");
    assert!(letters.contains(r#""location":"http://10.0.0.1/","retry_after":"Sun, 06 Nov 1994 08:49:37 GMT""#), "{letters}");
}

//! By which way Pushline's requests leave the machine.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use pushline_testkit::{Gateway, Inbox, Pushline, folder};
use tokio::net::TcpListener;

use crate::{BINARY, group, packets, webhook};

#[tokio::test]
async fn a_proxy_that_only_the_environment_names_is_not_used() {
    let (dir, inbox) = (folder(), Inbox::start().await);
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (proxy, connections) = (format!("http://{}", trap.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while trap.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let names = ["http_proxy", "https_proxy", "all_proxy"];
    let environment: Vec<_> =
        names.iter().flat_map(|name| [(*name).to_owned(), name.to_uppercase()]).map(|name| (name, proxy.clone())).collect();
    let configuration = Pushline::configuration(&(webhook("w", &inbox.url(), "window = \"50ms\"") + &group("mti", "line", "w")));
    std::fs::write(dir.path().join("pushline.toml"), configuration).unwrap();
    let pushline = Pushline::start_again_with("run", BINARY, dir.path(), &environment).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["x"])).await.unwrap();
    pushline.until_quiet().await;
    assert_eq!(pushline.metric("pushline_packets_delivered_total", "").await, 1.0);
    assert_eq!(connections.load(Ordering::Relaxed), 0);
}
